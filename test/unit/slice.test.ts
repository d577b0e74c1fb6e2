import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { ResourceState } from '../../src/core/document.ts'
import type { Envelope, GrantBody, Value } from '../../src/core/envelope.ts'
import type { GrantOf } from '../../src/core/quota.ts'
import { isSite, settingsOf, slice, type SliceNode } from '../../src/core/slice.ts'
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
  expect(result.resources).toEqual([])
  expect(result.problems.map(({ path, code }) => [path, code])).toEqual([
    ['default/*/wormhole/a', 'unsupported'],
    ['default/*/zonesettings/other', 'schema'],
    ['shop/*/zonesettings/settings', 'unsupported'],
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
