import { describe, expect, test } from 'vitest'
import type { Problem } from '../../src/core/slice.ts'
import { fieldsOf, parseDocument } from '../../src/core/resources/index.ts'
import type { JwtSpec } from '../../src/core/resources/policies/jwt.ts'
import { selectUnits } from '../../src/nginx/applying/isolate.ts'
import { renderJwt } from '../../src/nginx/rendering/policies/jwt.ts'
import type { Unit } from '../../src/nginx/rendering/unit.ts'
import { HOSTILE } from '../support/injection.ts'
import { DEBIAN_12, LAYOUT, renderStates, renderYaml, statesOf, withModules } from '../support/resources.ts'

function policy(name: string, spec: string, zone = '*', workspace = 'default'): string {
  return `
---
apiVersion: nxmesh/v1
kind: Policy
metadata: { name: ${name}, zone: '${zone}', workspace: ${workspace} }
spec: { ${spec} }
`
}
function site(name: string, spec: string, zone = '*', workspace = 'default'): string {
  return policy(name, `hosts: [${name}.example], ${spec}`, zone, workspace).replace('kind: Policy', 'kind: Site')
}
const SECRET = policy('staff', "sealed: ['00000000000000000000000000000000', AA]").replace(
  'kind: Policy',
  'kind: Secret',
)
const textOf = (units: readonly Unit[], path: string) => units.find((unit) => unit.path === path)?.text ?? ''
const ALLOW = 'access: { allow: [10.0.0.0/8] }'
const RATE = 'rateLimit: { limits: { each: { rate: 9r/s } } }'

describe('policies of a site', () => {
  test('a site that names a policy that is not there is not rendered, and told how to get it', () => {
    const { units, problems } = renderYaml(site('a', 'policies: [office]', 'eu'))
    expect(units).toEqual([])
    expect(problems).toEqual([
      {
        path: 'default/eu/site/a',
        code: 'reference',
        message: 'there is no policy office',
        hint: 'create a Policy office in workspace default and zone eu or *',
      },
    ])
  })

  test('nor is one whose route names it, or that names one of another workspace or zone', () => {
    const route = 'routes: { r: { path: /, return: { status: 200 }, policies: [office] } }'
    for (const yaml of [
      site('a', route),
      site('a', 'policies: [office]', 'eu') + policy('office', ALLOW, 'us'),
      site('a', 'policies: [office]') + policy('office', ALLOW, '*', 'other'),
    ])
      expect(renderYaml(yaml).units.filter(({ kind }) => kind === 'site')).toEqual([])
  })

  test('the nearest policy of a name counts', () => {
    const yaml =
      site('a', 'policies: [office]', 'eu') +
      policy('office', ALLOW) +
      policy('office', 'access: { deny: [::1] }', 'eu')
    const { units, problems } = renderYaml(yaml)
    expect(problems).toEqual([])
    expect(textOf(units, 'default/eu/site/a')).toContain('set $nxmesh_refused default/eu/policy/office')
  })

  test('a policy with a problem of its own keeps its sites from being rendered without it', () => {
    const states = statesOf(site('a', 'policies: [office]') + policy('office', ALLOW))
    const { units, problems } = renderStatesWith(states, ['access/default', 'maybe'])
    expect(units).toEqual([])
    expect(problems.map(({ path, code }) => [path, code])).toEqual([
      ['default/*/policy/office', 'schema'],
      ['default/*/site/a', 'reference'],
    ])
    expect(problems[1]?.message).toMatch(
      /^its policy default\/\*\/policy\/office is not in force here: spec\.access\.default is not/,
    )
  })

  test('two policies of one type at one place are refused, whichever would have counted', () => {
    const yaml = site('a', 'policies: [one, two]') + policy('one', ALLOW) + policy('two', ALLOW)
    expect(renderYaml(yaml).problems).toMatchObject([
      {
        path: 'default/*/site/a',
        code: 'reference',
        message: expect.stringContaining('two policies of the type access'),
      },
    ])
  })

  test('one workspace cannot have all the disk for caches, and is told which policy gets none', () => {
    const cached = (workspace: string, maxSizes: readonly string[]) =>
      maxSizes.map(
        (maxSize, at) =>
          site(`${workspace}${at}`, `policies: [c${at}], ${PASSING}`, '*', workspace) +
          policy(`c${at}`, `cache: { zoneSize: 64k, maxSize: ${maxSize} }`, '*', workspace),
      )
    const PASSING = 'routes: { r: { path: /, proxy: { upstream: u } } }'
    const pools = ['eve', 'a'].map((workspace) =>
      policy('u', "endpoints: { '10.0.0.1:80': {} }", '*', workspace).replace('kind: Policy', 'kind: Upstream'),
    )
    const yaml = [...pools, ...cached('eve', ['4g', '5g', '3g', '900000g']), ...cached('a', ['1g', '1g'])].join('')
    const host = { ...LAYOUT, maxCacheDisk: '10g' }
    const { units, problems } = renderYaml(yaml, { host })
    const caches = units.flatMap(({ path, kind }) => (kind === 'policy' ? path.replace(/#.*/, '') : []))
    expect(caches).toEqual(['a/*/policy/c0', 'a/*/policy/c1', 'eve/*/policy/c0', 'eve/*/policy/c2'])
    // Sites go on without a cache: a last good text would keep its disk.
    expect(units.filter(({ kind }) => kind === 'site')).toHaveLength(6)
    for (const name of ['eve1', 'eve3']) expect(textOf(units, `eve/*/site/${name}`)).not.toContain('proxy_cache')
    expect(textOf(units, 'eve/*/site/eve0')).toContain('proxy_cache nxmesh_')
    expect(problems).toEqual(
      ['c1', 'c3'].map((name) => ({
        path: `eve/*/policy/${name}`,
        code: 'clash',
        message: 'it keeps nothing: the caches of this host have at most 10g of its disk, shared out among workspaces',
        hint: 'give caches a smaller maxSize, let sites share a policy, or raise nginx.max_cache_disk of the host',
      })),
    )
    expect(renderYaml(yaml).problems).toEqual([])
  })

  test('a cache that tells answers apart by what any client can say is refused', () => {
    const [judge, other] = ['X-User', 'X-Own'].map((name) =>
      policy('judge', `externalAuth: { upstream: app, headers: [${name}] }`),
    ) as [string, string]
    const cache = policy('kept', "cache: { authorized: true, key: '$request_uri $http_x_user' }")
    const upstream = policy('app', '').replace('kind: Policy', 'kind: Upstream')
    const route = 'r: { path: /a, policies: [judge], return: { status: 200 } }'
    const use = site('a', `policies: [kept], routes: { ${route} }`)
    expect(renderYaml(use + cache + judge + upstream).problems.map(({ path, message }) => [path, message])).toEqual([
      [
        'default/*/site/a',
        'its policy default/*/policy/kept tells answers apart by $http_x_user, which any client can say',
      ],
    ])
    expect(renderYaml(use + cache + other + upstream).problems).toEqual([])
    const byCookie = policy('kept', "cache: { key: '$request_uri $cookie_Lang' }")
    expect(() => renderYaml(byCookie)).toThrow('tells answers apart by a cookie, of which clients can send several')
  })

  test('a policy that no site names costs nothing', () => {
    expect(renderYaml(policy('each', RATE)).units).toEqual([])
  })

  test('what a policy cannot be is told of it and of the sites that name it', () => {
    const yaml = SECRET + site('a', 'policies: [staff]') + policy('staff', 'basicAuth: { secret: staff }')
    const problemsWith = (text?: string) =>
      renderYaml(yaml, { secrets: new Map(text === undefined ? [] : [['default/*/secret/staff', text]]) }).problems
    const said = (found: readonly Problem[]) => found.map(({ path, message }) => [path, message])
    const site_ = 'its policy default/*/policy/staff is not in force here: '
    for (const [text, message] of [
      [undefined, 'this node cannot open the secret staff of zone *, or it holds no text'],
      ['# nobody\n', 'its secret staff has no users'],
      [
        'ada:$apr1$saltsalt$xxxxxxxxxxxxxxxxxxxxxx\nbob:plain\n',
        'line 2 of its secret staff is not the hash of a password',
      ],
      ['ada', 'line 1 of its secret staff is not a name of a user'],
      [`ada:$2y$12$${'x'.repeat(53)}`, 'line 1 of its secret staff is a hash of cost 12; at most 10'],
    ] as const)
      expect(said(problemsWith(text))).toEqual([
        ['default/*/policy/staff', message],
        ['default/*/site/a', site_ + message],
      ])
  })

  test('a password of a secret stands in no text, and its file is for workers alone', () => {
    const yaml = SECRET + site('a', 'policies: [staff]') + policy('staff', 'basicAuth: { secret: staff }')
    const hash = '$apr1$saltsalt$xxxxxxxxxxxxxxxxxxxxxx'
    const secrets = new Map([['default/*/secret/staff', `ada:${hash}`]])
    const { generation, units } = renderYaml(yaml, { secrets })
    expect(generation.main + units.map(({ text }) => text).join()).not.toContain(hash)
    expect(generation.files).toMatchObject([{ readers: 'workers', text: `ada:${hash}\n` }])
  })

  test('the Core Rule Set is refused by name where the module or the set is missing, and rules alone are not', () => {
    const yaml = site('a', 'policies: [waf]') + policy('waf', 'waf: { mode: block, coreRuleSet: {} }')
    const first = (changes: Parameters<typeof renderYaml>[1]) => renderYaml(yaml, changes).problems[0]?.message
    expect(first({})).toBe('coreRuleSet of a policy needs nginx with its module http_modsecurity; this host has 1.22.1')
    const capabilities = { ...DEBIAN_12, modules: [...DEBIAN_12.modules, 'http_modsecurity'] }
    expect(first({ capabilities })).toBe('coreRuleSet needs the OWASP Core Rule Set, which is not on this host')
    const host = { ...LAYOUT, crsDirectory: '/srv/crs' }
    expect(renderYaml(yaml, { capabilities, host }).problems).toEqual([])
    const rules = site('a', 'policies: [waf]') + policy('waf', 'waf: { mode: block, rules: { a: { query: a } } }')
    expect(renderYaml(rules).problems).toEqual([])
  })
})

/** The states rendered with one field of the policy changed. */
function renderStatesWith(states: ReturnType<typeof statesOf>, [field, value]: readonly [string, string]) {
  const changed = states.map((state) =>
    state.path.includes('/policy/')
      ? { ...state, hash: `${state.hash}!`, fields: new Map([...state.fields, [field, value]]) }
      : state,
  )
  return renderStates(changed)
}

describe('versions of a policy', () => {
  const before = renderYaml(site('a', 'policies: [each]') + site('b', 'policies: [each]') + policy('each', RATE)).units
  const after = renderYaml(
    site('a', 'policies: [each]') + site('b', 'policies: [each]') + policy('each', RATE.replace('9r/s', '8r/s')),
  ).units
  const refusal = (refused: Unit | undefined) => (digest: string) =>
    digest === refused?.digest ? ({ why: 'refused', reason: 'nginx says no' } as const) : undefined
  const select = (refused: Unit | undefined) =>
    selectUnits({
      units: after,
      problems: [],
      lastGood: new Map(before.map((unit) => [unit.path, unit])),
      refusal: refusal(refused),
    })
  const named = (units: readonly Unit[], path: string) => units.filter((unit) => unit.path.startsWith(path))

  test('other parameters make another zone and another unit, equal ones the same', () => {
    const [old] = named(before, 'default/*/policy/each#')
    const [next] = named(after, 'default/*/policy/each#')
    expect(old?.path).not.toBe(next?.path)
    const zone = /zone=(\w+):/.exec(old?.text ?? '')?.[1]
    expect(textOf(before, 'default/*/site/a')).toContain(`limit_req zone=${zone}`)
    expect(next?.text).not.toContain(zone)
    const dry = renderYaml(
      site('a', 'policies: [each]') + policy('each', RATE.replace('limits', 'dryRun: true, limits')),
    ).units
    expect(named(dry, 'default/*/policy/each#')[0]?.path).toBe(old?.path)
  })

  test('a site that keeps its last good text keeps the version that it was made with, beside the new one', () => {
    const { units, isolated } = select(after.find(({ path }) => path === 'default/*/site/a'))
    expect(named(units, 'default/*/policy/each#')).toHaveLength(2)
    expect(units.find(({ path }) => path === 'default/*/site/a')).toBe(
      before.find(({ path }) => path === 'default/*/site/a'),
    )
    expect(isolated).toEqual([
      { path: 'default/*/site/a', why: 'refused', reason: 'nginx says no', serves: 'last_good' },
    ])
  })

  test('a version that nginx refuses leaves all its sites at their last good text', () => {
    const { units, isolated } = select(named(after, 'default/*/policy/each#')[0])
    expect(units).toEqual(before)
    expect(isolated.map(({ path, why, serves }) => [path, why, serves])).toEqual([
      ['default/*/policy/each', 'refused', 'last_good'],
      ['default/*/site/a', 'needs', 'last_good'],
      ['default/*/site/b', 'needs', 'last_good'],
    ])
  })
})

test('a key of a jwt that cannot be used is told by its kid, with the way out', () => {
  const upstream = () => ({ code: 'reference', message: 'there is none' }) as const
  const context = {
    path: 'default/*/policy/p',
    scope: 's',
    capabilities: withModules('http_lua'),
    host: LAYOUT,
    upstream,
  }
  const faultOf = (key: JwtSpec['keys'][string], secret = '') => {
    const spec = { keys: { 'kid-1': key }, requireExp: true, leewaySeconds: 30 }
    return renderJwt(spec, { ...context, secret: () => secret })
  }
  expect(faultOf({ alg: 'RS256', publicKey: 'PEM' })).toEqual({
    code: 'unsupported',
    message: 'the publicKey of its key kid-1 is none that this host can read',
    hint: 'write it as PEM (BEGIN PUBLIC KEY), or as one JWK',
  })
  expect(faultOf({ alg: 'HS256', secret: 'short' }, 'abc\n')).toEqual({
    code: 'unsupported',
    message: 'the secret short of its key kid-1 has 3 bytes; HS256 wants at least 32',
    hint: 'seal a longer one: openssl rand -hex 32',
  })
})

describe('limits of a node', () => {
  const big = (name: string, workspace: string) =>
    policy(name, 'rateLimit: { limits: { a: { rate: 9r/s, zoneSize: 256m } } }', '*', workspace) +
    site(name, `policies: [${name}]`, '*', workspace)

  test('zones are shared out among workspaces, and who gets none is told', () => {
    const yaml = ['a', 'b', 'c', 'd', 'e'].map((name) => big(name, 'greedy')).join('') + big('f', 'modest')
    const { units, problems } = renderYaml(yaml)
    expect(units.filter(({ kind }) => kind === 'site').map(({ path }) => path)).toEqual(
      ['a', 'b', 'c'].map((name) => `greedy/*/site/${name}`).concat('modest/*/site/f'),
    )
    expect(problems.map(({ path, code }) => `${path} ${code}`)).toEqual([
      'greedy/*/policy/d clash',
      'greedy/*/policy/e clash',
      'greedy/*/site/d reference',
      'greedy/*/site/e reference',
    ])
  })

  test('so are the rules of the Core Rule Set', () => {
    const capabilities = { ...DEBIAN_12, modules: [...DEBIAN_12.modules, 'http_modsecurity'] }
    const host = { ...LAYOUT, crsDirectory: '/srv/crs' }
    const sites = Array.from({ length: 65 }, (_, index) =>
      site(`s${String(index).padStart(2, '0')}`, 'policies: [waf]'),
    )
    const yaml = sites.join('') + policy('waf', 'waf: { mode: block, coreRuleSet: {} }')
    const { problems } = renderYaml(yaml, { capabilities, host })
    expect(problems).toMatchObject([{ path: 'default/*/site/s64', code: 'unsupported' }])
  })
})

describe('documents', () => {
  const parse = (spec: object) =>
    parseDocument({ apiVersion: 'nxmesh/v1', kind: 'Policy', metadata: { name: 'p' }, spec })

  test('the type follows from the only branch, and the default of an access list is written down', () => {
    const fieldOf = (spec: object, field: string) => fieldsOf(parse(spec)).get(field)
    expect(fieldOf({ access: { allow: ['::1'] } }, 'type')).toBe('access')
    expect(fieldOf({ access: { allow: ['::1'] } }, 'access/default')).toBe('deny')
    expect(fieldOf({ access: { deny: ['::1'] } }, 'access/default')).toBe('allow')
    expect(fieldOf({ access: { allow: ['::1'], default: 'allow' } }, 'access/default')).toBe('allow')
  })

  test.each([
    [{}, 'spec.type is required'],
    [{ access: { allow: [] }, cors: { origins: ['*'] } }, 'spec.type is required'],
    [{ type: 'acess', access: { allow: [] } }, 'spec.type is not one of the known values'],
    [{ access: {} }, 'spec.access.default is required'],
    [{ access: { allow: ['10.0.0.1/8'] } }, 'spec.access.allow[0] is not the usual form of a network'],
    [{ rateLimit: { limits: {} } }, 'spec.rateLimit.limits has no limit'],
    [{ rateLimit: { limits: { a: { rate: '9' } } } }, 'spec.rateLimit.limits.a.rate is not a rate'],
    [{ rateLimit: { limits: { a: { rate: '9r/s', by: 'header' } } } }, 'spec.rateLimit.limits.a says no name'],
    [
      { rateLimit: { limits: { a: { rate: '9r/s', zoneSize: '31k' } } } },
      'spec.rateLimit.limits.a.zoneSize is not a size that is possible here',
    ],
    [{ connectionLimit: { limits: { a: {} } } }, 'spec.connectionLimit.limits.a.max is required'],
    [{ cors: { origins: ['*'], credentials: true } }, 'spec.cors.credentials does not go with origins: *'],
    [{ cors: { origins: ['https://a.example/'] } }, 'spec.cors.origins[0] is not an origin'],
    [{ cors: { origins: ['https://*'] } }, 'spec.cors.origins[0] is not an origin'],
    [{ basicAuth: {} }, 'spec.basicAuth lets nobody in'],
    [{ basicAuth: { secret: 'a', realm: 'off' } }, 'spec.basicAuth.realm would let everybody in'],
    [{ basicAuth: { users: { ada: 'engine' } } }, 'spec.basicAuth.users.ada is not the hash of a password'],
    [{ waf: { mode: 'block' } }, 'spec.waf has no rules'],
    [{ waf: { mode: 'block', rules: { a: {} } } }, 'spec.waf.rules.a would refuse everything'],
    [
      {
        waf: {
          mode: 'block',
          rules: Object.fromEntries(
            Array.from({ length: 43 }, (_, i) => [`r${i}`, { path: 'a', query: 'b', userAgent: 'c' }]),
          ),
        },
      },
      'spec.waf.rules have more than 128 expressions, all together',
    ],
    [
      { waf: { mode: 'block', rules: { a: { path: '(a+)+' } } } },
      'spec.waf.rules.a.path repeats a group that itself repeats, or chooses between things that may begin alike',
    ],
  ])('%j is refused', (spec, message) => {
    expect(() => parse(spec)).toThrow(message)
  })

  test('nothing that ModSecurity could take for more than a target or a path gets into its rules', () => {
    const excluding = (exclusion: object) =>
      parse({ waf: { mode: 'block', coreRuleSet: { exclusions: { a: { rule: 942100, ...exclusion } } } } })
    excluding({ target: 'ARGS:comment', path: '/blog/' })
    for (const hostile of [...HOSTILE, ',deny', '%{tx.a}', 'a"', '@rx .', '!', '&', '|'].filter(
      (text) => !/^[~]$/.test(text),
    )) {
      expect(() => excluding({ target: `ARGS:a${hostile}` })).toThrow('target')
      if (!/^(?:\.\.\/|x{5000})$/.test(hostile)) expect(() => excluding({ path: `/a${hostile}` })).toThrow('path')
    }
  })
})
