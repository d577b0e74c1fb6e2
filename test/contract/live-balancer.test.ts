import { once } from 'node:events'
import { createServer, type Server } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { liveEndpoint } from '../../src/nginx/applying/live-endpoint.ts'
import type { HostLayout } from '../../src/nginx/rendering/host-layout.ts'
import { wholeText } from '../../src/nginx/rendering/live.ts'
import {
  ask,
  freePort,
  luaModules,
  nginxDirectory,
  serve,
  testGeneration,
  writeGeneration,
} from '../support/real-nginx.ts'
import { renderYaml } from '../support/resources.ts'
import { waitFor } from '../support/wait.ts'

const NAMES = ['a', 'b', 'c'] as const
type Name = (typeof NAMES)[number]

/** What an Upstream says beside its name; `a`, `b`, `c` are the ports of the backends, `dead` one that nobody has. */
type Specs = Readonly<Record<string, (ports: Readonly<Record<Name | 'dead', number>>) => string>>

const SPECS: Specs = {
  one: ({ a }) => `endpoints: { '127.0.0.1:${a}': {} }`,
  weights: ({ a, b }) => `endpoints: { '127.0.0.1:${a}': { weight: 3 }, '127.0.0.1:${b}': {} }`,
  down: ({ a, b }) => `endpoints: { '127.0.0.1:${a}': { down: true }, '127.0.0.1:${b}': {} }`,
  backup: ({ a, b }) => `endpoints: { '127.0.0.1:${a}': {}, '127.0.0.1:${b}': { backup: true } }`,
  spare: ({ dead, b }) => `endpoints: { '127.0.0.1:${dead}': {}, '127.0.0.1:${b}': { backup: true } }`,
  retry: ({ dead, b }) => `endpoints: { '127.0.0.1:${dead}': { maxFails: 0 }, '127.0.0.1:${b}': {} }`,
  fails: ({ dead, b }) => `endpoints: { '127.0.0.1:${dead}': { failTimeout: 1s }, '127.0.0.1:${b}': {} }`,
  dead: ({ dead }) => `endpoints: { '127.0.0.1:${dead}': {} }`,
  // Its route tries once, and has a page of another upstream.
  paged: ({ dead, b }) => `endpoints: { '127.0.0.1:${dead}': { failTimeout: 1h }, '127.0.0.1:${b}': {} }`,
  none: () => 'endpoints: {}',
  unknown: () => `endpoints: { 'nowhere.invalid:80': {} }`,
  partly: ({ c }) => `endpoints: { 'nowhere.invalid:80': {}, '127.0.0.1:${c}': {} }`,
  least: ({ a, b }) => `method: least_conn\n  endpoints: { '127.0.0.1:${a}': {}, '127.0.0.1:${b}': {} }`,
  // Its route has a snippet of its own, where there is a program.
  logged: ({ a, b }) => `method: least_conn\n  endpoints: { '127.0.0.1:${a}': {}, '127.0.0.1:${b}': {} }`,
  random: ({ a, b }) => `method: random\n  endpoints: { '127.0.0.1:${a}': {}, '127.0.0.1:${b}': {} }`,
  client: ({ a, b, c }) =>
    `method: ip_hash\n  endpoints: { '127.0.0.1:${a}': {}, '127.0.0.1:${b}': {}, '127.0.0.1:${c}': {} }`,
  hash: ({ a, b, c }) =>
    `method: hash\n  hashKey: 'k-$http_x_key'\n  endpoints: { '127.0.0.1:${a}': { weight: 2 }, '127.0.0.1:${b}': {}, '127.0.0.1:${c}': {} }`,
  ring: ({ a, b, c }) =>
    `method: hash\n  consistent: true\n  hashKey: $http_x_key\n  endpoints: { '127.0.0.1:${a}': {}, '127.0.0.1:${b}': { weight: 2 }, '127.0.0.1:${c}': {} }`,
  cookie: ({ a, b, c }) =>
    `method: hash\n  hashKey: $cookie_KEY\n  endpoints: { '127.0.0.1:${a}': {}, '127.0.0.1:${b}': {}, '127.0.0.1:${c}': {} }`,
  query: ({ a, b, c }) =>
    `method: hash\n  consistent: true\n  hashKey: $arg_key\n  endpoints: { '127.0.0.1:${a}': {}, '127.0.0.1:${b}': {}, '127.0.0.1:${c}': {} }`,
  sticky: ({ a, b }) => `${STICKY}  endpoints: { '127.0.0.1:${a}': {}, '127.0.0.1:${b}': {} }`,
  kept: ({ a }) => `keepalive: { connections: 4 }\n  endpoints: { '127.0.0.1:${a}': {} }`,
  worn: ({ a }) => `keepalive: { connections: 4, requests: 2 }\n  endpoints: { '127.0.0.1:${a}': {} }`,
  brief: ({ a }) => `keepalive: { connections: 4, timeout: 50ms }\n  endpoints: { '127.0.0.1:${a}': {} }`,
}

const STICKY = 'method: hash\n  consistent: true\n  sticky: { cookie: srv, maxAge: 60 }\n'

/** Which of the endpoints, in their order, each key gets: the same with and without the program. */
const placesByLane: (readonly number[])[] = []

function yaml(ports: Readonly<Record<Name | 'dead', number>>, lane: 'live' | 'reload', changed: Specs = {}): string {
  const specs = Object.entries({ ...SPECS, ...changed })
  const upstreams = specs.map(
    ([name, spec]) => `apiVersion: nxmesh/v1\nkind: Upstream\nmetadata: { name: ${name} }\nspec:\n  ${spec(ports)}\n`,
  )
  const routes = specs.map(([name]) =>
    name === 'paged'
      ? "    paged: { path: /paged/, proxy: { upstream: paged, retries: { attempts: 1 } }, errorPages: { pages: { '502': { upstream: one } } } }\n"
      : `    ${name}: { path: /${name}/, proxy: { upstream: ${name} } }\n`,
  )
  return `${upstreams.join('---\n')}---\napiVersion: nxmesh/v1\nkind: Site\nmetadata: { name: s }\nspec:\n  hosts: [s.example]\n${lane === 'live' ? LOG_SNIPPET : ''}  routes:\n${routes.join('')}`
}
const LOG_SNIPPET = "  privileged: { routeSnippets: { logged: 'log_by_lua_block { nxmesh.log(); }' } }\n"

describe.each(['live', 'reload'] as const)('spreading requests by the %s lane, on real nginx', (lane) => {
  let host: HostLayout
  let port: number
  let backends: Server[] = []
  let ports: Record<Name | 'dead', number>
  let nginx: Awaited<ReturnType<typeof serve>>
  let remove: () => void
  const held: (() => void)[] = []
  let connections = 0
  /** By nginx. */
  let closed = 0

  beforeAll(async () => {
    backends = NAMES.map((name) =>
      createServer((request, response) => {
        const answer = () => response.setHeader('X-From', name).end('ok')
        // Waits when asked to, so that connections can be counted.
        if (request.headers['x-slow'] === undefined) answer()
        else held.push(answer)
      }).listen(0, '127.0.0.1'),
    )
    await Promise.all(backends.map((backend) => once(backend, 'listening')))
    backends[0]?.on('connection', (socket: Socket) => {
      connections += 1
      socket.on('end', () => (closed += 1))
    })
    const [a, b, c] = backends.map((backend) => (backend.address() as AddressInfo).port) as [number, number, number]
    ports = { a, b, c, dead: await freePort() }
    port = await freePort()
    ;({ host, remove } = nginxDirectory(port))
    host = { ...host, workerProcesses: 1, modules: await luaModules(), liveLane: lane === 'live' }
    const { generation, live } = renderYaml(yaml(ports, lane), { host })
    const { words } = await testGeneration(host, generation)
    if (words !== '') throw new Error(words)
    nginx = await serve(host, generation)
    if (live !== undefined) await liveEndpoint(host.verifySocket).push(wholeText({ stamp: 1, state: live }))
  })
  afterAll(async () => {
    await nginx?.stop()
    for (const backend of backends) {
      backend.close()
      backend.closeAllConnections()
    }
    remove?.()
  })

  /** Other upstreams, by the lane. */
  const change = async (stamp: number, changed: Specs) => {
    const { generation, live } = renderYaml(yaml(ports, lane, changed), { host })
    if (live !== undefined) return liveEndpoint(host.verifySocket).push(wholeText({ stamp, state: live }))
    writeGeneration(host, generation)
    nginx.reload()
    return waitFor(
      async () =>
        (await ask({ socketPath: host.verifySocket, path: '/generation' })).body.startsWith(generation.digest) &&
        nginx.workers().length === 1,
      { timeoutMs: 10_000, what: 'the new generation' },
    )
  }

  const get = (name: string, headers: Record<string, string> = {}, query = '') =>
    ask({ port, path: `/${name}/${query}`, headers: { host: 's.example', ...headers } })
  const from = async (name: string, headers: Record<string, string> = {}) => {
    const { status, headers: answered } = await get(name, headers)
    return (answered['x-from'] as string | undefined) ?? `${status}`
  }
  /** Who answers so many requests, one after the other. */
  const times = async (
    count: number,
    name: string,
    headersOf: (index: number) => Record<string, string> = () => ({}),
  ) => {
    const answers: string[] = []
    for (let index = 0; index < count; index += 1) answers.push(await from(name, headersOf(index)))
    return answers
  }
  const count = (answers: readonly string[], name: string) => answers.filter((answer) => answer === name).length
  const byKey = (index: number) => ({ 'X-Key': `key-${index}` })

  test('weights count, evenly spread over time', async () => {
    const answers = await times(40, 'weights')
    expect([count(answers, 'a'), count(answers, 'b')]).toEqual([30, 10])
    for (let index = 0; index < 40; index += 4) expect(count(answers.slice(index, index + 4), 'b')).toBe(1)
  })

  test('what is down gets nothing, nor does a backup while another serves', async () => {
    expect(new Set(await times(10, 'down'))).toEqual(new Set(['b']))
    expect(new Set(await times(10, 'backup'))).toEqual(new Set(['a']))
    expect(new Set(await times(10, 'spare'))).toEqual(new Set(['b']))
  })

  test('a request whose server does not answer goes to another one, also with a body', async () => {
    expect(new Set(await times(10, 'retry'))).toEqual(new Set(['b']))
    const posted = await ask(
      { port, path: '/retry/', method: 'POST', headers: { host: 's.example' } },
      'x'.repeat(100_000),
    )
    expect(posted.status).toBe(200)
  })

  test('a server that failed is left alone, and gets requests again when it answers', async () => {
    expect(new Set(await times(6, 'fails'))).toEqual(new Set(['b']))
    const late = createServer((_, response) => response.setHeader('X-From', 'late').end('ok')).listen(
      ports.dead,
      '127.0.0.1',
    )
    try {
      await once(late, 'listening')
      await waitFor(async () => (await from('fails')) === 'late', {
        timeoutMs: 10_000,
        what: 'the server to be tried again',
      })
      const answers = await times(8, 'fails')
      expect(count(answers, 'late')).toBeGreaterThanOrEqual(3)
      expect(count(answers, 'b')).toBeGreaterThanOrEqual(3)
    } finally {
      late.close()
      late.closeAllConnections()
    }
  })

  test('a server that fails at the only try is left alone as well, though another upstream makes the page', async () => {
    const answers: string[] = []
    for (let count = 0; count < 10; count += 1) {
      const { status, headers } = await ask({ port, path: '/paged/', headers: { host: 's.example' } })
      answers.push(`${status} ${String(headers['x-from'])}`)
    }
    expect(answers.filter((answer) => answer !== '200 b')).toEqual(['502 a'])
  })

  test('where nobody is left, it is 502; a name without an address takes nothing from the others', async () => {
    expect(await times(3, 'dead')).toEqual(['502', '502', '502'])
    expect(await times(2, 'none')).toEqual(['502', '502'])
    expect(await times(2, 'unknown')).toEqual(['502', '502'])
    expect(new Set(await times(6, 'partly'))).toEqual(new Set(['c']))
  })

  test.each(['least', 'logged'])('least_conn passes to whom has fewest open: %s', async (name) => {
    const open = async (length: number) => {
      const requests = Array.from({ length }, () => from(name, { 'X-Slow': '1' }))
      await waitFor(() => held.length === length, { what: `${length} requests under way` })
      return async () => {
        for (const answer of held.splice(0)) answer()
        return Promise.all(requests)
      }
    }
    const slow = await (await open(4))()
    expect([count(slow, 'a'), count(slow, 'b')]).toEqual([2, 2])
    const busy = await open(1)
    const first = new Set(await times(4, name))
    expect(first.size).toBe(1)
    expect(first).not.toContain((await busy())[0])
  })

  test('random reaches all', async () => {
    expect(new Set(await times(60, 'random'))).toEqual(new Set(['a', 'b']))
  })

  test('hashing keeps a key where it is, by address, by key, and consistently', async () => {
    expect(new Set(await times(10, 'client')).size).toBe(1)
    for (const name of ['hash', 'ring']) {
      const first = await times(120, name, byKey)
      expect(new Set(first)).toEqual(new Set(NAMES))
      expect(await times(120, name, byKey)).toEqual(first)
    }
  })

  test('a cookie and a parameter of the query say where to go; who has none is spread', async () => {
    const byCookie = (index: number) => ({ Cookie: `a=b; KEY=key-${index}; c=d` })
    const first = await times(60, 'cookie', byCookie)
    expect(new Set(first)).toEqual(new Set(NAMES))
    expect(await times(60, 'cookie', byCookie)).toEqual(first)
    expect(new Set(await times(3, 'cookie'))).toEqual(new Set(NAMES))
    const byQuery = async (index: number) => (await get('query', {}, `?x=1&key=${index}`)).headers['x-from']
    const asked: unknown[] = []
    for (let index = 0; index < 60; index += 1) asked.push([await byQuery(index % 20)])
    expect(asked.slice(20)).toEqual([...asked.slice(0, 20), ...asked.slice(0, 20)])
    expect(new Set(asked.flat())).toEqual(new Set(NAMES))
    expect(new Set(await times(3, 'query'))).toEqual(new Set(NAMES))
    const ordered = NAMES.toSorted((one, other) => (`${ports[one]}` < `${ports[other]}` ? -1 : 1))
    placesByLane.push(first.map((name) => ordered.indexOf(name as Name)))
    expect(placesByLane.at(-1)).toEqual(placesByLane[0])
  })

  test('a client is given a cookie, and stays by it, also when endpoints come and go', async () => {
    const clients: { readonly cookie: string; at: string }[] = []
    for (let index = 0; index < 40; index += 1) {
      const { headers } = await get('sticky', { Cookie: 'other=1' })
      const [given = '', ...more] = headers['set-cookie'] ?? []
      expect(more).toEqual([])
      expect(given).toMatch(/^srv=[0-9a-f]{32}; Path=\/; HttpOnly; Max-Age=60; SameSite=Lax$/)
      clients.push({ cookie: given.replace(/;.*/, ''), at: headers['x-from'] as string })
    }
    expect(new Set(clients.map(({ at }) => at))).toEqual(new Set(['a', 'b']))
    const now = async () => {
      const places: string[] = []
      for (const { cookie } of clients) {
        const { headers } = await get('sticky', { Cookie: cookie })
        expect(headers['set-cookie']).toBeUndefined()
        places.push(headers['x-from'] as string)
      }
      return places
    }
    const first = clients.map(({ at }) => at)
    expect(await now()).toEqual(first)
    await change(2, {
      sticky: ({ a, b, c }) =>
        `${STICKY}  endpoints: { '127.0.0.1:${a}': {}, '127.0.0.1:${b}': {}, '127.0.0.1:${c}': {} }`,
    })
    const more = await now()
    // Who went, went to the new one.
    expect(more.filter((place, index) => place !== first[index] && place !== 'c')).toEqual([])
    expect(new Set(more)).toEqual(new Set(NAMES))
    await change(3, { sticky: ({ b, c }) => `${STICKY}  endpoints: { '127.0.0.1:${b}': {}, '127.0.0.1:${c}': {} }` })
    const fewer = await now()
    expect(fewer.filter((place, index) => more[index] !== 'a' && place !== more[index])).toEqual([])
    expect(new Set(fewer)).toEqual(new Set(['b', 'c']))
  })

  test('connections to a server are kept when asked to, for so many requests, for so long', async () => {
    await from('kept')
    const before = connections
    await times(10, 'kept')
    expect(connections).toBe(before)
    await times(10, 'worn')
    expect(connections).toBe(before + 5)
    const isKeptAlone = () => connections - closed === 1
    await waitFor(isKeptAlone, { what: 'nginx to close what has had its requests' })
    await from('brief')
    await waitFor(isKeptAlone, { what: 'nginx to close what has had its time' })
  })
})
