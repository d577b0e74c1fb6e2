/**
 * Two real daemons with real nginx before backends that slow down, fail and return, under load: what clients get, what
 * the backends are asked, and how often anything changes. The tests tell one story, in order.
 */

import { createServer, type Server } from 'node:http'
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { NodeReceipt } from '../../src/api/schemas.ts'
import type { Member } from '../support/fleet.ts'
import { http, type HttpAnswer } from '../support/http.ts'
import { luaModules } from '../support/real-nginx.ts'
import { all, converged, each, eventually, hostOf, siteYaml, tell, useFleet } from '../support/use-fleet.ts'

/** What is observed reaches one nginx without a reload, and the other by reloads. */
const fleet = useFleet({
  members: [
    { name: 'live', config: { nginx: { modules: await luaModules() } } },
    { name: 'plain', config: { nginx: { modules_directory: '/var/empty' } } },
  ],
  nginx: true,
})

/** What a backend does with requests; `asked` counts those of clients. */
class Backend {
  /** unkind: it fails clients, and passes health checks. */
  mode: 'well' | 'failing' | 'slow' | 'unkind' = 'well'
  asked = 0
  readonly name: string
  readonly #server: Server

  constructor(name: string) {
    this.name = name
    this.#server = createServer((request, response) => {
      const isClient = request.url !== '/healthz'
      if (isClient) this.asked += 1
      if (this.mode === 'slow') return
      const isFine = this.mode === 'well' || (this.mode === 'unkind' && !isClient)
      response.writeHead(isFine ? 200 : 500).end(this.name)
    })
  }

  async start(): Promise<void> {
    await once(this.#server.listen(0, '127.0.0.1'), 'listening')
  }

  get address(): string {
    return `127.0.0.1:${(this.#server.address() as AddressInfo).port}`
  }

  stop(): void {
    this.#server.close()
    this.#server.closeAllConnections()
  }
}

const one = new Backend('one')
const two = new Backend('two')

/** Clients of every node that ask all the time, each one thing after the other. */
class Load {
  /** Since they were last looked at: how often each answer came, by body or status. */
  answers = new Map<string, number>()
  readonly #stopping = new AbortController()
  readonly #clients: readonly Promise<void>[]

  constructor(members: readonly Member[], host: string) {
    this.#clients = members.flatMap((member) => [1, 2, 3].map(() => this.#run(member, host)))
  }

  async #run(member: Member, host: string): Promise<void> {
    while (!this.#stopping.signal.aborted) {
      const answer = await member.visit(host).catch(() => undefined)
      const key = answer === undefined ? 'lost' : this.#keyOf(answer)
      this.answers.set(key, (this.answers.get(key) ?? 0) + 1)
      await sleep(10)
    }
  }

  #keyOf({ status, text, headers }: HttpAnswer): string {
    if (status === 200) return text
    return status === 503 && headers['x-nxmesh-circuit'] === 'open' ? 'rejected' : String(status)
  }

  /** Counts anew. */
  reset(): this {
    this.answers = new Map()
    return this
  }

  async stop(): Promise<void> {
    this.#stopping.abort()
    await Promise.all(this.#clients)
  }
}

let load: Load | undefined
/** By member, for what was applied. */
let reloads: Record<string, number | 'down'> = {}
const reloadsOf = () =>
  each(fleet().members, (member) => member.metric('nxmesh_nginx_reloads_total', { outcome: 'verified' }))

beforeAll(() => Promise.all([one.start(), two.start()]))
afterAll(async () => {
  await load?.stop()
  one.stop()
  two.stop()
})

test('an upstream that is watched is served like any other', async () => {
  const { members } = fleet()
  await converged(members)
  const upstream = JSON.stringify({
    apiVersion: 'nxmesh/v1',
    kind: 'Upstream',
    metadata: { name: 'api', zone: '*' },
    spec: {
      endpoints: { [one.address]: { maxFails: 0 }, [two.address]: { maxFails: 0 } },
      healthCheck: { path: '/healthz', interval: '300ms', timeout: '2s', unhealthyThreshold: 2, healthyThreshold: 2 },
      circuitBreaker: { errorRatePercent: 80, minRequests: 5, window: '3s', openFor: '2s', halfOpenRequests: 2 },
    },
  })
  const site = siteYaml({
    name: 'shop',
    spec: {
      accessLog: false,
      timeouts: { read: '500ms' },
      routes: { root: { path: '/', proxy: { upstream: 'api' } } },
    },
  })
  const orders = JSON.stringify({
    apiVersion: 'nxmesh/v1',
    kind: 'Upstream',
    metadata: { name: 'orders', zone: '*' },
    spec: {
      endpoints: { [one.address]: { maxFails: 0 }, [two.address]: { maxFails: 0 } },
      outlierDetection: { consecutive5xx: 5, baseEjection: '2s' },
    },
  })
  const second = siteYaml({ name: 'orders', spec: { routes: { root: { path: '/', proxy: { upstream: 'orders' } } } } })
  await tell(fleet(), members[0] as Member, ['apply', '-f', '-', '--wait'], {
    stdin: [upstream, site, orders, second].join('\n---\n'),
  })
  reloads = await reloadsOf()
  load = new Load(members, hostOf('shop'))
  expect((await answered(['one', 'two'])).has('lost')).toBe(false)
})

function running(): Load {
  if (load === undefined) throw new Error('nothing was set up')
  return load
}

/** How a node sees the upstream, as status shows it: undefined while it is well. */
async function viewOf(member: Member) {
  const { data } = await member.get<{ data: NodeReceipt[] }>('/v1/receipts')
  return data.find(({ self }) => self)?.receipt?.observed[0]
}
const views = () => each(fleet().members, async (member) => (await viewOf(member)) ?? 'well')
/** A metric that names resources, which is for those who may read them. */
async function named(member: Member, name: string): Promise<number> {
  const { text } = await http(member.socket, '/metrics')
  const lines = text.split('\n').filter((line) => line.startsWith(`${name}{`))
  return lines.reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(' ') + 1)), 0)
}
/** Waits until every one of the last answers was among these. */
async function answered(
  expected: readonly string[],
  count = 40,
  from = running(),
): Promise<ReadonlyMap<string, number>> {
  await eventually(
    async () => {
      const { answers } = from.reset()
      await eventually(() => [...answers.values()].reduce((sum, each) => sum + each, 0)).toBeGreaterThan(count)
      return [...answers.keys()].filter((answer) => !expected.includes(answer))
    },
    `clients get nothing but ${expected.join(', ')}`,
  ).toEqual([])
  return from.answers
}

test('an endpoint that fails clients, and no health check, is out for a while where that is looked for, and comes back', async () => {
  // Clients of the first site get its errors meanwhile: nobody looks for that there.
  const member = fleet().members.find(({ name }) => name === 'live') as Member
  one.mode = 'unkind'
  const orders = new Load([member], hostOf('orders'))
  try {
    await eventually(() => viewOf(member)).toEqual({
      path: 'default/*/upstream/orders',
      circuit: 'closed',
      endpoints: 2,
      ailing: [one.address],
      ejected: [one.address],
    })
    // Each further time is twice as long, so that there is time for this on any machine.
    await answered(['two'], 40, orders)
    one.mode = 'well'
    await eventually(() => viewOf(member)).toBeUndefined()
    expect((await answered(['one', 'two'], 40, orders)).has('one')).toBe(true)
  } finally {
    await orders.stop()
  }
})

test('an endpoint that fails is asked no more, on both nodes, and clients get the other', async () => {
  one.mode = 'failing'
  await eventually(views).toEqual(
    all(fleet().members, {
      path: 'default/*/upstream/api',
      circuit: expect.any(String),
      endpoints: 2,
      ailing: [one.address],
      ejected: [one.address],
    }),
  )
  await answered(['two'])
  const { asked } = one
  await answered(['two'])
  expect(one.asked).toBe(asked)
})

test('it is asked again when it is well', async () => {
  const before = one.asked
  one.mode = 'well'
  await eventually(views).toEqual(all(fleet().members, 'well'))
  await eventually(() => one.asked).toBeGreaterThan(before + 20)
  expect((await answered(['one', 'two'])).has('one')).toBe(true)
})

test('when all are slow, none is ejected, the circuit opens, and clients get 503 at once', async () => {
  one.mode = two.mode = 'slow'
  await eventually(async () =>
    Object.values(await views()).map((view) => (view as { circuit?: string }).circuit),
  ).toEqual(['open', 'open'])
  // By nginx itself: that nobody else is asked meanwhile is told below.
  await answered(['rejected'])
  for (const member of fleet().members) {
    // The last one to be found slow brings the other back.
    await eventually(() => viewOf(member)).toMatchObject({
      endpoints: 2,
      ailing: [expect.anything(), expect.anything()],
      ejected: [],
    })
    expect(await named(member, 'nxmesh_upstream_rejected_total')).toBeGreaterThan(0)
  }
  const text = await tell(fleet(), fleet().members[0] as Member, ['status'])
  expect(text).toContain('default/*/upstream/api: its circuit is open')
})

test('while they fail it stays open, and they are asked by probes alone', async () => {
  one.mode = two.mode = 'failing'
  await answered(['rejected'])
  const before = one.asked + two.asked
  await answered(['rejected'], 200)
  expect(one.asked + two.asked).toBe(before)
})

test('when they return, probes pass and clients are let through', async () => {
  one.mode = two.mode = 'well'
  await eventually(views).toEqual(all(fleet().members, 'well'))
  expect([...(await answered(['one', 'two'])).keys()].toSorted((a, b) => a.localeCompare(b))).toEqual(['one', 'two'])
})

test('nothing is reloaded but for a change, and the traffic is counted', async () => {
  for (const member of fleet().members) {
    // That nothing flaps is shown on a virtual clock, since it may here, when a slow machine makes a backend slow.
    const changes = await member.metric('nxmesh_upstream_changes_total')
    expect(changes, 'ejected and back, open and closed').toBeGreaterThanOrEqual(4)
    const since = Number((await reloadsOf())[member.name]) - Number(reloads[member.name])
    expect(since).toBeLessThanOrEqual(member.name === 'live' ? 0 : changes)
    expect(await member.metric('nxmesh_nginx_reloads_total', { outcome: 'rolled_back' })).toBe(0)
    await eventually(() => member.metric('nxmesh_requests_total', { status: '2xx' })).toBeGreaterThan(50)
    await eventually(() => named(member, 'nxmesh_site_requests_total')).toBeGreaterThan(100)
  }
})
