import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { ResourceState } from '../../src/core/document.ts'
import type { Envelope, GrantBody, Value } from '../../src/core/envelope.ts'
import type { GrantOf } from '../../src/core/quota.ts'
import { isSite, settingsOf, type SliceNode } from '../../src/core/slice.ts'
import { slice } from '../../src/core/slicing.ts'
import { sliceOf, stateOf, statesOf } from '../support/resources.ts'

function site(name: string, { zone = '*', workspace = 'default', selector = '' } = {}): string {
  return `
apiVersion: nxmesh/v1
kind: Site
metadata: { name: ${name}, zone: '${zone}', workspace: ${workspace} }
spec:
  hosts: [${name}.example]
  ${selector === '' ? '' : `nodeSelector: { ${selector} }`}
`
}
function settings(zone: string, spec: string, workspace = 'default'): string {
  return `
apiVersion: nxmesh/v1
kind: ZoneSettings
metadata: { name: settings, zone: '${zone}', workspace: ${workspace} }
spec: { ${spec} }
`
}
const NODE: SliceNode = { places: [{ workspace: '*', zones: ['eu.west', 'cdn'] }], labels: { disk: 'ssd' } }

function names(yaml: string, node: SliceNode = NODE): string[] {
  return sliceOf(statesOf(yaml), node).resources.map((resource) => resource.name.name)
}

describe('which resources apply', () => {
  const zones = ['*', 'eu', 'eu.west', 'eu.west.paris', 'eu.westend', 'cdn', 'us']
    .map((zone, index) => site(`s${index}`, { zone }))
    .join('---')

  test('those of the zones, their ancestors and *', () => {
    expect(names(zones)).toEqual(['s0', 's5', 's2', 's1'])
  })
  test('those of * alone, for a node without zones', () => {
    expect(names(zones, { ...NODE, places: [{ workspace: '*', zones: [] }] })).toEqual(['s0'])
  })
  test('those of the workspaces of the node', () => {
    const yaml = `${site('a')}---${site('b', { workspace: 'shop' })}`
    expect(names(yaml, { ...NODE, places: [{ workspace: 'shop', zones: ['eu.west', 'cdn'] }] })).toEqual(['b'])
  })
  test('those that one grant of the node covers, not the zones of one in the workspaces of another', () => {
    const yaml = ['eu.west', 'eu.auto']
      .flatMap((zone) => [
        site(`a-${zone.slice(3)}`, { zone }),
        site(`b-${zone.slice(3)}`, { zone, workspace: 'shop' }),
      ])
      .join('---')
    const places = [
      { workspace: 'shop', zones: ['eu.west'] },
      { workspace: '*', zones: ['eu.auto'] },
    ]
    expect(names(yaml, { ...NODE, places })).toEqual(['a-auto', 'b-auto', 'b-west'])
    expect(names(yaml, { ...NODE, places: places.toReversed() })).toEqual(['a-auto', 'b-auto', 'b-west'])
  })
  test('those whose selector the labels match wholly', () => {
    const yaml = [
      site('a', { selector: 'disk: ssd' }),
      site('b', { selector: 'disk: hdd' }),
      site('c', { selector: 'disk: ssd, gpu: "1"' }),
    ].join('---')
    expect(names(yaml)).toEqual(['a'])
  })
  test('not one that was deleted', () => {
    const states = statesOf(site('a')).map((state) => ({ ...state, exists: false }))
    expect(sliceOf(states, NODE).resources).toEqual([])
  })
})

test('a merged state that lost a required field is a problem of that resource alone', () => {
  const broken = stateOf(
    'default/*/site/b',
    new Map<string, Value>([
      ['hosts/b.example', true],
      ['routes/x/order', 3],
    ]),
  )
  const { resources, problems } = sliceOf([...statesOf(site('a')), broken], NODE)
  expect(resources.map(({ path }) => path)).toEqual(['default/*/site/a'])
  expect(problems).toEqual([
    {
      path: 'default/*/site/b',
      code: 'schema',
      message: 'spec.routes.x.action is required',
      hint: 'one of proxy, static, redirect, return',
    },
  ])
})

test('a kind of a newer version, settings of another name or workspace: each a problem', () => {
  const states = [
    stateOf('default/*/wormhole/a', new Map([['x', 1]])),
    stateOf('default/*/zonesettings/other', new Map()),
    ...statesOf(settings('*', 'reload: { quietMs: 1 }', 'shop')),
  ]
  const result = sliceOf(states, NODE)
  expect(result.resources.map(({ path, spec }) => [path, spec])).toEqual([['shop/*/zonesettings/settings', {}]])
  expect(result.problems.map(({ path, code, message }) => [path, code, message])).toEqual([
    ['default/*/wormhole/a', 'unsupported', 'this version does not know the kind wormhole'],
    ['default/*/zonesettings/other', 'schema', 'metadata.name must be settings'],
    ['shop/*/zonesettings/settings', 'unsupported', 'reload of zone settings counts only in the workspace default'],
  ])
})

test('defaults are filled in', () => {
  const [resource] = sliceOf(
    statesOf(`${site('a')}  routes: { r: { path: /, proxy: { upstream: x } } }`),
    NODE,
  ).resources
  expect(resource !== undefined && isSite(resource) && resource.spec.routes['r']).toMatchObject({
    match: 'prefix',
    action: 'proxy',
    proxy: { scheme: 'http', websocket: false, buffering: true, hostHeader: '$host' },
  })
})

describe('target', () => {
  const yaml = [
    site('a'),
    site('b', { zone: 'eu' }),
    site('c', { zone: 'us' }),
    site('d', { selector: 'disk: none' }),
  ].join('---')
  const target = (text: string) => sliceOf(statesOf(text), NODE).target

  test('covers every resource of the zones, selected or broken or not, and no other', () => {
    expect(target(yaml.replace('c.example', 'x.example'))).toBe(target(yaml))
    expect(target(yaml.replace('b.example', 'x.example'))).not.toBe(target(yaml))
    expect(target(yaml.replace('d.example', 'x.example'))).not.toBe(target(yaml))
  })

  test('property: order does not matter', () => {
    const states = statesOf(yaml)
    const expected = sliceOf(states, NODE)
    fc.assert(
      fc.property(fc.shuffledSubarray(states, { minLength: states.length }), (shuffled) => {
        expect(sliceOf(shuffled, NODE)).toEqual(expected)
      }),
    )
  })
})

describe('zone settings', () => {
  const of = (...documents: string[]) => settingsOf(sliceOf(statesOf(documents.join('---')), NODE))

  test('have defaults', () => {
    expect(settingsOf(sliceOf([], NODE))).toMatchObject({
      quietMs: 300,
      maxWaitMs: 5000,
      workerShutdownTimeout: undefined,
    })
  })
  test('the nearest zone wins, field by field', () => {
    const merged = of(
      settings('eu.west', 'reload: { quietMs: 3 }'),
      settings('*', 'reload: { quietMs: 1, maxWaitMs: 1, drainMs: 1 }, workerShutdownTimeout: 1m'),
      settings('eu', 'reload: { quietMs: 2, maxWaitMs: 2 }, defaults: { maxBodySize: 2m, timeouts: { read: 9s } }'),
    )
    expect(merged).toMatchObject({
      quietMs: 3,
      maxWaitMs: 2,
      drainMs: 1,
      workerShutdownTimeout: '1m',
      maxBodySize: '2m',
      readTimeout: '9s',
    })
  })
})

describe('defaults of zone settings', () => {
  const secure = 'listeners: { tls: { port: 443, tls: { certificate: c } } }'
  const own = (name: string, spec: string, zone = 'eu.west', workspace = 'shop') =>
    `${site(name, { zone, workspace })}  ${spec}\n`
  const specsOf = (...documents: string[]) => {
    const { resources, problems } = sliceOf(statesOf(documents.join('---')), NODE)
    expect(problems).toEqual([])
    return resources.filter(isSite)
  }
  const specOf = (...documents: string[]) => specsOf(...documents)[0]?.spec

  test('the site counts more than its zone, that more than the zone around, its workspace more than default', () => {
    const spec = specOf(
      own('a', 'timeouts: { connect: 1s }'),
      settings('eu.west', 'defaults: { timeouts: { connect: 2s, read: 2s } }', 'shop'),
      settings('*', 'defaults: { timeouts: { connect: 3s, read: 3s, send: 3s }, maxBodySize: 3m }', 'shop'),
      settings(
        'eu',
        'defaults: { maxBodySize: 4m, compression: { minLength: 4 }, responseHeaders: { set: { A: b } } }',
      ),
    )
    expect(spec).toMatchObject({
      timeouts: { connect: '1s', read: '2s', send: '3s' },
      maxBodySize: '3m',
      compression: { minLength: 4 },
      responseHeaders: { set: { A: 'b' } },
    })
  })
  test('reach the sites of their zone and of zones in it, and no other workspace', () => {
    const sites = specsOf(
      own('a', '', 'eu.west'),
      own('b', '', '*'),
      own('c', '', 'eu.west', 'other'),
      settings('eu', 'defaults: { maxBodySize: 1m }', 'shop'),
    )
    expect(sites.map(({ path, spec }) => [path, spec.maxBodySize])).toEqual([
      ['other/eu.west/site/c', undefined],
      ['shop/*/site/b', undefined],
      ['shop/eu.west/site/a', '1m'],
    ])
  })
  test('of the workspace default name no resources for other workspaces, and leave two limits to http', () => {
    const common = settings(
      '*',
      `defaults: { policies: [p], errorPages: { pages: { '404': { body: b } } }, maxBodySize: 1m, hsts: {} }`,
    )
    const [ours, theirs] = specsOf(own('a', secure, '*', 'default'), own('a', secure), common)
    expect(ours?.spec).toMatchObject({ inherited: { policies: [['p']], errorPages: [{}] }, hsts: { preload: false } })
    expect(theirs?.spec).toMatchObject({ inherited: { policies: [], errorPages: [] }, hsts: { preload: false } })
    expect([ours?.spec.maxBodySize, theirs?.spec.maxBodySize]).toEqual([undefined, undefined])
  })
  test('merge headers by name, whatever its case: what one level removes or sets, it does', () => {
    const spec = specOf(
      own('a', 'responseHeaders: { set: { x-one: site }, remove: [X-Two] }'),
      settings(
        '*',
        'defaults: { responseHeaders: { set: { X-One: z, X-Two: z, X-Three: z }, remove: [Via] } }',
        'shop',
      ),
    )
    expect(spec?.responseHeaders).toEqual({ set: { 'X-Three': 'z', 'x-one': 'site' }, remove: ['Via', 'X-Two'] })
  })
  test('hsts is for sites with TLS alone', () => {
    const common = settings('*', 'defaults: { hsts: { maxAge: 5 } }', 'shop')
    expect(specOf(own('a', ''), common)?.hsts).toBeUndefined()
    expect(specOf(own('a', secure), common)?.hsts).toMatchObject({ maxAge: 5 })
    expect(specOf(own('a', `${secure}\n  hsts: { maxAge: 6 }`), common)?.hsts).toMatchObject({ maxAge: 6 })
  })
  test('change the hash of the sites that they reach, and of no other', () => {
    const hashes = (spec: string) =>
      specsOf(own('a', ''), own('b', '', '*'), settings('eu', spec, 'shop')).map(({ hash }) => hash)
    const [none, one, two] = ['', 'defaults: { maxBodySize: 1m }', 'defaults: { maxBodySize: 2m }'].map(hashes)
    expect(new Set([none?.[1], one?.[1], two?.[1]]).size).toBe(3)
    expect(new Set([none?.[0], one?.[0], two?.[0]]).size).toBe(1)
    expect(hashes('defaults: { maxBodySize: 1m }')).toEqual(one)
  })
  test('count on the nodes that the settings select', () => {
    const on = (disk: string) => settings('*', `nodeSelector: { disk: ${disk} }, defaults: { maxBodySize: 1m }`, 'shop')
    expect(specOf(own('a', ''), on('ssd'))?.maxBodySize).toBe('1m')
    expect(specOf(own('a', ''), on('hdd'))?.maxBodySize).toBeUndefined()
  })
  test('a quota that leaves out settings with policies stops the sites that they protect', () => {
    const states = statesOf([own('a', ''), settings('eu', 'defaults: { policies: [p] }', 'shop')].join('---'))
    const limited =
      (resources: number): GrantOf =>
      () =>
        ({
          id: 'f'.repeat(64),
          body: { type: 'grant', role: 'editor', quota: { resources } },
        }) as unknown as ReturnType<GrantOf>
    expect(slice(states, NODE, limited(2)).resources.filter(isSite)).toHaveLength(1)
    expect(slice(states, NODE, limited(1)).resources.filter(isSite)).toEqual([])
  })
  test('what concerns whole nodes is nothing for a tenant, and its defaults count all the same', () => {
    const more = `realClient: { trust: [10.0.0.0/8] }, privileged: { httpSnippets: { own: 'allow all;' } }, workerShutdownTimeout: 1s`
    const states = statesOf(
      [own('a', ''), settings('*', `reload: { drainMs: 7 }, ${more}, defaults: { maxBodySize: 1m }`, 'shop')].join(
        '---',
      ),
    )
    const result = sliceOf(states, NODE)
    expect(settingsOf(result)).toEqual(settingsOf(sliceOf([], NODE)))
    expect(result.resources.find(isSite)?.spec.maxBodySize).toBe('1m')
    expect(JSON.stringify(result.resources)).not.toContain('allow all')
    const what = 'reload, workerShutdownTimeout, realClient, privileged of zone settings count'
    expect(result.problems.map(({ path, message }) => [path, message])).toEqual([
      ['shop/*/zonesettings/settings', `${what} only in the workspace default`],
    ])
  })
  test('settings that mean nothing stop the sites for which they name policies, and only those', () => {
    const broken = (...fields: string[]) =>
      stateOf('shop/eu/zonesettings/settings', new Map(fields.map((field) => [field, true])))
    const sites = statesOf([own('a', ''), own('b', '', '*'), own('c', '', 'eu', 'other')].join('---'))
    const problemsOf = (settingsState: ResourceState) => sliceOf([...sites, settingsState], NODE).problems
    expect(problemsOf(broken('nonsense')).map(({ path }) => path)).toEqual(['shop/eu/zonesettings/settings'])
    const [problem, ...rest] = problemsOf(broken('nonsense', 'defaults/policies/waf'))
    expect(problem).toEqual({
      path: 'shop/eu.west/site/a',
      code: 'reference',
      message: 'the zone settings shop/eu/zonesettings/settings have a problem of their own, and name policies for it',
      hint: 'mend the zone settings',
    })
    expect(rest.map(({ path }) => path)).toEqual(['shop/eu/zonesettings/settings'])
  })
})

describe('what grants limit', () => {
  const yaml = [
    site('a'),
    site('b'),
    site('c').replace('[c.example]', '[c.example, shop.example, x.shop.example, other.example]'),
  ].join('---')
  const grant = (more: Partial<GrantBody>): Envelope<GrantBody> =>
    ({ id: 'f'.repeat(64), body: { type: 'grant', role: 'editor', ...more } }) as unknown as Envelope<GrantBody>
  const hostsOf = (states: readonly ResourceState[], granted: Envelope<GrantBody>) => {
    const { resources, problems } = slice(states, NODE, () => granted)
    return [
      resources.filter(isSite).map(({ name, spec }) => [name.name, ...spec.hosts]),
      problems.map(({ path, code, message }) => [path, code, message]),
    ]
  }

  test('hosts outside the grant of who wrote them are left out, and said', () => {
    expect(hostsOf(statesOf(yaml), grant({ hosts: ['*.shop.example', 'a.example', 'c.example'] }))).toEqual([
      [['a', 'a.example'], ['b'], ['c', 'c.example', 'x.shop.example']],
      [
        ['default/*/site/b', 'host_not_granted', 'whoever wrote b.example may not claim it'],
        ['default/*/site/c', 'host_not_granted', 'whoever wrote other.example, shop.example may not claim them'],
      ],
    ])
  })

  test('a host is granted to the one who wrote it, not to who made the site', () => {
    const [state] = statesOf(site('a')) as [ResourceState]
    const written = (edit: string): ResourceState => ({ ...state, writers: new Map([['hosts/a.example', edit]]) })
    const grants: GrantOf = (edit) => grant({ hosts: [edit === 'hers' ? 'a.example' : 'his.example'] })
    expect(slice([written('his')], NODE, grants).problems).toMatchObject([{ code: 'host_not_granted' }])
    expect(slice([written('hers')], NODE, grants).problems).toEqual([])
    const write = (edit: string) => ({ field: 'hosts/a.example', value: true, edit, by: '' })
    const both = new Map([['hosts/a.example', [write('his'), write('hers')]]])
    expect(slice([{ ...written('his'), conflicts: both }], NODE, grants).problems).toEqual([])
  })

  test.each<[string, GrantBody['quota'] & {}, string[]]>([
    ['resources', { resources: 2 }, ['c']],
    ['fields', { fields: 2 }, ['c']],
    ['bytes', { bytes: 90 }, ['b', 'c']],
    ['none', {}, []],
    ['nothing', { resources: 0 }, ['a', 'b', 'c']],
  ])('a quota of %s keeps the oldest', (_, quota, left) => {
    const { resources, problems } = slice(statesOf(yaml).toReversed(), NODE, () => grant({ quota }))
    expect(problems.map(({ path, code }) => [path, code])).toEqual(
      left.map((name) => [`default/*/site/${name}`, 'quota']),
    )
    expect(resources).toHaveLength(3 - left.length)
  })

  test('a quota counts resources of every zone, and a smaller one may fit where a larger did not', () => {
    const large = site('big').replace('[big.example]', '[a.example, b.example, c.example]')
    const states = statesOf([site('far', { zone: 'us' }), large, site('small')].join('---'))
    const { resources, problems } = slice(states, NODE, () => grant({ quota: { fields: 2 } }))
    expect(resources.map(({ name }) => name.name)).toEqual(['small'])
    expect(problems).toMatchObject([{ path: 'default/*/site/big', message: expect.stringContaining('2 fields') }])
  })
})

describe('of thousands', () => {
  test('what did not change is the same object in the next slice, and its grants are not asked for again', () => {
    const states = statesOf(['a', 'b', 'c'].map((name) => site(name)).join('---'))
    const asked: string[] = []
    const grantOf: GrantOf = (edit) => {
      asked.push(edit)
      return undefined
    }
    const before = slice(states, NODE, grantOf)
    const [fresh] = statesOf(site('b').replace('b.example', 'd.example')) as [ResourceState]
    const first = asked.splice(0)
    const after = slice([states[0] as ResourceState, fresh, states[2] as ResourceState], NODE, grantOf)
    expect(after.resources.map((resource, index) => resource === before.resources[index])).toEqual([true, false, true])
    // Once each for the quota, and once for each host.
    expect([first.length, asked.length]).toEqual([6, 2])
    expect(slice(states, NODE, () => undefined)).toEqual(before)
  })

  test('another function of grants is asked anew', () => {
    const states = statesOf(site('a'))
    expect(slice(states, NODE, () => undefined).problems).toEqual([])
    const grant = { id: 'g', body: { hosts: [] } } as unknown as Envelope<GrantBody>
    expect(slice(states, NODE, () => grant).problems.map(({ code }) => code)).toEqual(['host_not_granted'])
  })
})
