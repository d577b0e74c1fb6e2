/**
 * Streams in slice and rendering: who gets a port or a host, between streams and between streams and sites, what a grant
 * limits, and what a host without the module is told.
 */

import { describe, expect, test } from 'vitest'
import { slice } from '../../src/core/slicing.ts'
import { boundBy, portConflicts } from '../../src/nginx/applying/precheck.ts'
import { STREAM_LISTENERS_MAX } from '../../src/nginx/rendering/stream-claims.ts'
import { DEBIAN_12, EVERYWHERE, renderStates, renderYaml, statesOf } from '../support/resources.ts'

const document = (kind: string, name: string, spec: string, more = '') =>
  `apiVersion: nxmesh/v1\nkind: ${kind}\nmetadata: { name: ${name}${more} }\nspec: { ${spec} }\n`
const UPSTREAM = document('Upstream', 'u', "endpoints: { '10.0.0.1:80': {} }")
const stream = (name: string, listener: string, more = '') =>
  document('Stream', name, `upstream: u, listeners: { m: { ${listener} } }${more}`)
const site = (name: string, port: number) =>
  document('Site', name, `hosts: [${name}.example], listeners: { m: { port: ${port} } }`)

function rendered(...documents: readonly string[]) {
  const { units, problems, generation } = renderYaml([UPSTREAM, ...documents].join('---\n'))
  return {
    units: units.filter(({ kind }) => kind !== 'upstream').map(({ path }) => path.slice('default/*/'.length)),
    problems: problems.map(({ path, message }) => `${path.slice('default/*/'.length)}: ${message}`),
    main: generation.main,
  }
}

test('obey health checks, and nothing that clients of sites got', () => {
  const upstream = document('Upstream', 'u', "endpoints: { '10.0.0.1:80': {}, '10.0.0.2:80': {}, '10.0.0.3:80': {} }")
  const out = (at: number) => new Set([`default/*/upstream/u 10.0.0.${at}:80`])
  const states = statesOf([upstream, stream('a', 'port: 1')].join('---\n'))
  const serversWith = (closedToStreams: ReadonlySet<string>) => {
    const seen = { ejected: out(1), closedToStreams, openCircuits: new Set(['default/*/upstream/u']) }
    const text = renderStates(states, seen).units.find(({ kind }) => kind === 'stream')?.text
    return text?.match(/(?<=server )10.*(?=;)/g)
  }
  expect(serversWith(new Set())).toEqual(['10.0.0.1:80', '10.0.0.2:80', '10.0.0.3:80'])
  // Nothing else has changed.
  expect(serversWith(out(2))).toEqual(['10.0.0.1:80', '10.0.0.2:80 down', '10.0.0.3:80'])
})

describe('a port', () => {
  test('belongs to the oldest stream, and single addresses cannot stand beside all', () => {
    const { units, problems } = rendered(
      stream('a', 'port: 1'),
      stream('b', 'port: 1'),
      stream('c', 'port: 1, address: 10.0.0.1'),
      stream('d', 'port: 1, protocol: udp'),
      stream('e', "port: 1, address: '::'"),
    )
    expect(units).toEqual(['stream/a', 'stream/d', 'stream/e'])
    expect(problems).toEqual([
      'stream/b: cannot listen on tcp *:1: it belongs to the older stream default/*/stream/a',
      'stream/c: cannot listen on tcp 10.0.0.1:1: it belongs to the older stream default/*/stream/a',
    ])
  })

  test('is one of 512 streams of a node, shared out among workspaces', () => {
    const named = (workspace: string, count: number) =>
      Array.from({ length: count }, (_, index) => {
        const name = `${workspace}${index}`
        return document(
          'Stream',
          name,
          `upstream: u, listeners: { m: { port: 443 } }, hosts: [${name}.example]`,
          `, workspace: ${workspace}`,
        )
      })
    const upstreams = ['many', 'few'].map((workspace) =>
      document('Upstream', 'u', "endpoints: { '10.0.0.1:80': {} }", `, workspace: ${workspace}`),
    )
    const { problems, units } = renderYaml([...upstreams, ...named('many', 520), ...named('few', 3)].join('---\n'))
    const isRefused = ({ message }: { readonly message: string }) => message.includes('at most 512 streams')
    expect(problems.filter(isRefused).map(({ path }) => path.split('/')[0])).toEqual(Array(11).fill('many'))
    expect(units.filter(({ kind }) => kind === 'stream')).toHaveLength(512)
  })

  test('is shared by name, by streams that all have hosts and say the same of PROXY headers', () => {
    const { units, problems, main } = rendered(
      stream('a', 'port: 1', ', hosts: [a.example]'),
      stream('b', 'port: 1', ', hosts: [a.example, b.example]'),
      stream('c', 'port: 1'),
      stream('d', 'port: 1, proxyProtocol: true', ', hosts: [d.example]'),
      stream('e', 'port: 1', ', hosts: [a.example]'),
    )
    expect(units).toEqual(['stream/a', 'stream/b'])
    expect(problems).toEqual([
      'stream/b: the host a.example belongs to the older stream default/*/stream/a',
      'stream/c: cannot listen on tcp *:1: it belongs to the older stream default/*/stream/a',
      'stream/d: cannot listen on tcp *:1: it belongs to the older stream default/*/stream/a, which differs in proxyProtocol',
      'stream/e: the host a.example belongs to the older stream default/*/stream/a',
    ])
    expect(main.match(/^ *listen .*:1\b.*$/gm)).toHaveLength(1)
  })

  test('is for sites or for streams: for what more want, and between equals for the oldest', () => {
    expect(rendered(site('a', 1), stream('b', 'port: 1')).units).toEqual(['site/a'])
    expect(rendered(stream('b', 'port: 1'), site('a', 1)).units).toEqual(['stream/b'])
    // One stream of whatever age takes nothing from many sites.
    expect(rendered(stream('b', 'port: 1'), site('a', 1), site('c', 1)).units).toEqual(['site/a', 'site/c'])
    const { units, problems } = rendered(stream('b', 'port: 1, protocol: udp'), site('a', 1), site('c', 1))
    expect(units).toEqual(['site/a', 'site/c', 'stream/b'])
    expect(problems).toEqual([])
  })

  test('has one use, on which each workspace has one vote, whatever it has of sites and streams', () => {
    const of = (workspace: string, yaml: string) => yaml.replace(' }', `, workspace: ${workspace} }`)
    const at = (host: string) => stream(host, 'port: 1', `, hosts: [${host}.example]`)
    const streamsOf = (workspace: string, ...names: readonly string[]) => [
      of(workspace, UPSTREAM),
      ...names.map((name) => of(workspace, at(name))),
    ]
    const kept = (...documents: readonly string[]) =>
      renderYaml(documents.join('---\n')).units.flatMap(({ path, kind }) => (kind === 'upstream' ? [] : path))
    const sites = ['a', 'b'].map((name) => of(name, site(name, 1)))
    // One workspace of many old streams, and two of one site.
    const many = streamsOf('eve', 'x', 'y', 'z')
    expect(kept(...many, ...sites)).toEqual(['a/*/site/a', 'b/*/site/b'])
    expect(renderYaml([...many, ...sites].join('---\n')).problems[0]).toMatchObject({
      path: 'eve/*/stream/x',
      message:
        "cannot listen on *:1 beside the site a/*/site/a: more workspaces, or as many and the oldest site's, want this port for sites",
    })
    // And the other way round.
    const one = ['x', 'y', 'z'].map((name) => of('eve', site(name, 1)))
    expect(kept(...one, ...streamsOf('a', 'p'), ...streamsOf('b', 'q'))).toEqual(['a/*/stream/p', 'b/*/stream/q'])
    // Within a workspace its many count.
    const [p, q] = ['p', 'q'].map((name) => of('a', site(name, 1))) as [string, string]
    expect(kept(...streamsOf('a', 'x'), p, q)).toEqual(['a/*/site/p', 'a/*/site/q'])
  })

  test('streams that clash among themselves count once against sites', () => {
    const whole = ['x', 'y', 'z'].map((name) => stream(name, 'port: 1'))
    expect(rendered(...whole, site('a', 1), site('b', 1)).units).toEqual(['site/a', 'site/b'])
    expect(rendered(...whole, site('a', 1)).units).toEqual(['stream/x'])
    expect(rendered(site('a', 1), ...whole).units).toEqual(['site/a'])
  })

  test('costs: a node has so many', () => {
    const many = Array.from({ length: STREAM_LISTENERS_MAX + 1 }, (_, at) => stream(`s${at}`, `port: ${at + 1}`))
    expect(rendered(...many).problems).toEqual([
      expect.stringMatching(/the streams of a node have at most 64 listeners/),
    ])
  })

  test('of a stream is looked at before the reload that would not get it', async () => {
    const { units } = renderYaml(
      [UPSTREAM, stream('a', 'port: 1'), stream('b', 'port: 2, protocol: udp')].join('---\n'),
    )
    const asked: string[] = []
    const conflicts = await portConflicts(
      units,
      { master: undefined, listeners: [] },
      async (address, port, _, protocol) => {
        asked.push(`${protocol} ${address}:${port}`)
        return 'taken'
      },
    )
    expect(conflicts.map(({ units: [unit] }) => unit?.path)).toEqual(['default/*/stream/a', 'default/*/stream/b'])
    expect(asked).toEqual(['tcp 0.0.0.0:1', 'udp 0.0.0.0:2'])
  })

  test('of datagrams is another one than that of connections, and may be bound beside a wildcard', async () => {
    const of = (protocol: 'tcp' | 'udp', address: string) =>
      renderYaml([UPSTREAM, stream('a', `port: 1, protocol: ${protocol}, address: '${address}'`)].join('---\n')).units
    const conflictsOf = (wanted: ReturnType<typeof of>, running: ReturnType<typeof of>) =>
      portConflicts(wanted, { master: 1, listeners: running.flatMap(boundBy) }, async () => undefined)
    expect(await conflictsOf(of('udp', '10.0.0.1'), of('udp', '0.0.0.0'))).toEqual([])
    expect(await conflictsOf(of('udp', '10.0.0.1'), of('tcp', '0.0.0.0'))).toEqual([])
    expect(await conflictsOf(of('tcp', '10.0.0.1'), of('udp', '0.0.0.0'))).toEqual([])
    expect(await conflictsOf(of('tcp', '10.0.0.1'), of('tcp', '0.0.0.0'))).toHaveLength(1)
  })
})

test('what hashes consistently costs in each stream once more, of what a node affords', () => {
  const hashed = (name: string, endpoints: string) =>
    document('Upstream', name, `method: hash, hashKey: '$remote_addr', consistent: true, endpoints: { ${endpoints} }`)
  const heavy = Array.from({ length: 32 }, (_, at) =>
    hashed(`u${at}`, "'10.0.0.1:80': { weight: 1000 }, '10.0.0.2:80': { weight: 24 }"),
  )
  const ofFirst = document('Stream', 'a', 'upstream: u0, listeners: { m: { port: 1 } }')
  const problemsOf = (documents: readonly string[], addresses = new Map<string, string[]>()) =>
    renderYaml(documents.join('---\n'), { addresses }).problems.map(({ path, code }) => `${code} ${path}`)
  expect(problemsOf([...heavy.slice(1), heavy[0] as string])).toEqual([])
  expect(problemsOf([...heavy.slice(0, 31), ofFirst])).toEqual([])
  expect(problemsOf([...heavy, ofFirst])).toEqual(['clash default/*/stream/a'])
  // More addresses than its weights were counted for.
  const named = hashed('u0', "'a.example:80': { weight: 100 }")
  const many = new Map([['a.example', Array.from({ length: 20 }, (_, at) => `10.0.0.${at}`)]])
  expect(problemsOf([named, ofFirst], many)).toEqual([
    'reference default/*/stream/a',
    'unsupported default/*/upstream/u0',
  ])
})

describe('what cannot be meant is refused', () => {
  test.each([
    [
      'TLS over UDP',
      stream('a', 'port: 1, protocol: udp, tls: { certificate: c }'),
      'listeners.m.tls is not possible with UDP',
    ],
    [
      'UDP to an upstream over TLS',
      stream('a', 'port: 1, protocol: udp', ', upstreamTls: {}'),
      'upstreamTls is not possible with a UDP listener',
    ],
    [
      'an authority for no name',
      stream('a', 'port: 1', ', upstreamTls: { ca: c }'),
      'upstreamTls.ca is of no use without serverName',
    ],
    [
      'names before TLS of two sorts',
      document(
        'Stream',
        'a',
        'upstream: u, hosts: [a.example], listeners: { m: { port: 1 }, n: { port: 2, tls: { certificate: c } } }',
      ),
      'listeners.n.tls is not that of m',
    ],
    [
      'one port with TLS of two sorts',
      document(
        'Stream',
        'a',
        "upstream: u, listeners: { m: { port: 1, tls: { certificate: c, clientCertificate: { ca: d } } }, n: { port: 1, address: '0.0.0.0', tls: { certificate: c } } }",
      ),
      'listeners.n is on the address and port of m, with other TLS or proxyProtocol',
    ],
  ])('%s', (_, text, message) => {
    expect(() => statesOf(text)).toThrow(message)
  })
})

test('a stream names what it lacks: the module, the upstream, a method that it can use', () => {
  const problems = (yaml: readonly string[], modules = DEBIAN_12.modules) =>
    renderYaml(yaml.join('---\n'), { capabilities: { version: '1.22.1', modules, dynamic: {} } }).problems.map(
      ({ code, message }) => `${code}: ${message}`,
    )
  expect(problems([UPSTREAM, stream('a', 'port: 1')], [])).toEqual([
    'unsupported: the kind Stream needs nginx with its module stream; this host has 1.22.1',
  ])
  expect(problems([UPSTREAM, stream('a', 'port: 1', ', hosts: [a.example]')], ['stream'])).toEqual([
    'unsupported: hosts of a Stream needs nginx with its module stream_ssl_preread; this host has 1.22.1',
  ])
  for (const told of [stream('a', 'port: 1, tls: { certificate: c }'), stream('a', 'port: 1', ', upstreamTls: {}')]) {
    expect(problems([UPSTREAM, told], ['stream'])).toEqual([
      'unsupported: tls of a listener, or upstreamTls, of a Stream needs nginx with its module stream_ssl; this host has 1.22.1',
    ])
  }
  expect(problems([UPSTREAM, stream('a', 'port: 1, tls: { certificate: c }')])).toEqual([
    'reference: there is no certificate c',
  ])
  expect(problems([UPSTREAM, stream('a', 'port: 1', ', upstreamTls: { clientCertificate: c }')])).toEqual([
    'reference: there is no certificate c',
  ])
  expect(problems([stream('a', 'port: 1')])).toEqual(['reference: there is no upstream u'])
  const hashed = document('Upstream', 'u', 'method: hash')
  expect(problems([hashed, stream('a', 'port: 1')])).toEqual([
    'unsupported: the upstream u is not for streams: its hashKey "$request_uri" is of requests, which a stream has none of',
  ])
  const stuck = document('Upstream', 'u', 'method: hash, sticky: { cookie: srv }')
  expect(problems([stuck, stream('a', 'port: 1')])).toEqual([
    'unsupported: the upstream u is not for streams: its sticky cookie is of requests, which a stream has none of',
  ])
  const byClient = document('Upstream', 'u', "method: hash, hashKey: '$remote_addr'")
  expect(problems([byClient, stream('a', 'port: 1')])).toEqual([])
})

test('a grant for some hosts lets nobody have a whole port, nor another host', () => {
  const states = statesOf(
    [
      UPSTREAM,
      stream('a', 'port: 1'),
      stream('b', 'port: 1', ', hosts: [b.example]'),
      stream('c', 'port: 1', ', hosts: [c.example]'),
    ].join('---\n'),
  )
  const limited = slice(states, EVERYWHERE, () => ({ body: { hosts: ['b.example'] } }) as never)
  expect(limited.resources.map(({ path }) => path)).toEqual(['default/*/stream/b', 'default/*/upstream/u'])
  expect(limited.problems.map(({ path, code }) => `${path} ${code}`)).toEqual([
    'default/*/stream/a host_not_granted',
    'default/*/stream/c host_not_granted',
  ])
  const whole = slice(states, EVERYWHERE, () => ({ body: { hosts: ['*'] } }) as never)
  expect(whole.resources.map(({ path }) => path)).toContain('default/*/stream/a')
})
