/**
 * How long a change of endpoints takes from acceptance until every nginx worker goes by it, without a reload, and what a
 * balancer in Lua costs beside nginx's own with the same endpoints. One node with a real nginx; whoever answers is looked at by code
 * that shares nothing with the product.
 */

import { execFile } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { createServer, request, type Server } from 'node:http'
import { connect, type AddressInfo, type Socket } from 'node:net'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { freePorts } from '../support/fleet.ts'
import { aim, CpuMeter, figuresOf, progress, rounded, type Aim, type BenchResult } from './measure.ts'
import { ServedNode } from './served-node.ts'

export interface EndpointsOptions {
  readonly upstreams: readonly number[]
  readonly rounds: number
  readonly workers: number
  /** Between changes. */
  readonly pauseMs: number
  /** Of load, for each of the two balancers and each of their turns. */
  readonly loadSeconds: number
  readonly connections: number
}

const AIM_MS = 50
const ENDPOINTS = 4
const TURNS = 3
const LIMIT_MS = 10_000
/** Asked at once until all are answered by the new endpoint: some for each worker. */
const ASKS_PER_WORKER = 4

export async function endpoints(options: EndpointsOptions): Promise<BenchResult> {
  const modules = await luaModules()
  const rows: Record<string, unknown>[] = []
  const aims: Aim[] = []
  for (const count of options.upstreams) {
    const row = await changes(count, options, modules)
    rows.push(row)
    aims.push(aim(`proven_p99_${count}_upstreams_ms`, row.provenMs.p99, AIM_MS))
    aims.push(aim(`reloads_${count}_upstreams`, row.reloads, 0))
  }
  rows.push(await throughput(options, modules))
  return {
    bench: 'endpoints',
    options: { ...options },
    rows,
    aims,
    notes: [
      'provenMs: from the accepted edit of one upstream to the receipt that says that each worker goes by it. Each upstream has 4 endpoints and a site of its own.',
      'answeredMs: until requests of which each worker gets some are all answered by the new endpoint; in every other round, since they are sent from the daemon’s own process and slow it down.',
      'cpuMs: of the daemon’s process in provenMs.',
      'reloads: how often the generation or the workers were others than before.',
      'cpuUsPerRequest: of nginx’s workers, for requests that they pass to another nginx over kept connections; both balancers in turns, with the same endpoints, backend and clients. The clients’ process limits perSecond.',
    ],
  }
}

async function changes(count: number, options: EndpointsOptions, modules: readonly string[]) {
  const backends = await Promise.all(['old', 'new'].map((name) => backend(name)))
  const [oldPort, newPort] = backends.map(portOf) as [number, number]
  const [port] = (await freePorts(1)) as [number]
  const upstream = (index: number, to: number): string =>
    upstreamYaml(
      `u-${index}`,
      Array.from({ length: ENDPOINTS }, (_, at) => `127.0.0.${at + 1}:${to}`),
    )
  const resources = Array.from({ length: count }, (_, index) => [
    upstream(index, oldPort),
    siteYaml(`u-${index}`, port),
  ])
  progress(`${count} upstreams: first apply`)
  const served = await ServedNode.start({
    resources: resources.flat().join('---\n'),
    flags: flagsFor(options, modules),
  })
  try {
    const workers = await pids(served)
    const generation = served.node.receipt?.applied
    const provenMs: number[] = []
    const answeredMs: number[] = []
    const cpuMs: number[] = []
    let reloads = 0
    for (let round = 0; round < options.rounds; round += 1) {
      const index = round % count
      const [name, to] = Math.floor(round / count) % 2 === 0 ? (['new', newPort] as const) : (['old', oldPort] as const)
      await sleep(options.pauseMs)
      const stamp = served.node.receipt?.live?.applied ?? 0
      const acceptedAt = await served.submit(upstream(index, to))
      const cpu = new CpuMeter()
      // In turns: who asks nginx all the time would slow the daemon down, which is this very process.
      if (round % 2 === 0) {
        await untilProven(served, stamp)
        provenMs.push(performance.now() - acceptedAt)
        cpuMs.push(cpu.ms)
      }
      await untilAnswered(port, `u-${index}`, name, options.workers)
      if (round % 2 === 1) answeredMs.push(performance.now() - acceptedAt)
      await untilProven(served, stamp)
      if (served.node.receipt?.applied !== generation || (await pids(served)) !== workers) reloads += 1
    }
    return {
      upstreams: count,
      rounds: options.rounds,
      provenMs: figuresOf(provenMs),
      answeredMs: figuresOf(answeredMs),
      cpuMs: figuresOf(cpuMs),
      reloads,
    }
  } finally {
    await served.stop()
    for (const server of backends) {
      server.close()
      server.closeAllConnections()
    }
  }
}

async function untilProven(served: ServedNode, before: number): Promise<void> {
  const since = performance.now()
  for (;;) {
    const live = served.node.receipt?.live
    const applied = live?.applied ?? 0
    if (applied > before && applied === live?.desired) return
    if (performance.now() - since > LIMIT_MS) throw new Error(`not live: ${JSON.stringify(served.node.receipt)}`)
    await sleep(1)
  }
}

async function untilAnswered(port: number, host: string, name: string, workers: number): Promise<void> {
  const since = performance.now()
  for (;;) {
    const answers = await Promise.all(Array.from({ length: workers * ASKS_PER_WORKER }, () => answerOf(port, host)))
    if (answers.every((answer) => answer === name)) return
    if (performance.now() - since > LIMIT_MS)
      throw new Error(`not answered by the new endpoint, but by ${answers.join()}`)
  }
}

function answerOf(port: number, host: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const outgoing = request(
      { host: '127.0.0.1', port, headers: { host: `${host}.test` }, agent: false },
      (response) => {
        let text = ''
        response.on('data', (data: Buffer) => (text += data.toString()))
        response.on('end', () => resolve(text))
      },
    )
    outgoing.on('error', reject)
    outgoing.end()
  })
}

/** The same load in turns on two nodes, of which one has the lane. */
async function throughput(options: EndpointsOptions, modules: readonly string[]) {
  const ports = (await freePorts(3)) as [number, number, number]
  const answering = `
apiVersion: nxmesh/v1
kind: Site
metadata: { name: answer }
spec: { hosts: ['*'], accessLog: false, listeners: { main: { port: ${ports[0]} } }, routes: { root: { path: /, return: { status: 200, body: ok } } } }
`
  const passing = (port: number): string => {
    const servers = Array.from({ length: ENDPOINTS }, (_, at) => `127.0.0.${at + 1}:${ports[0]}`)
    return `${upstreamYaml('load', servers, 'keepalive: { connections: 64, requests: 1000000 }')}---\n${siteYaml('load', port, 'accessLog: false')}`
  }
  progress('throughput')
  const nodes: ServedNode[] = []
  try {
    nodes.push(await ServedNode.start({ resources: answering, flags: flagsFor(options, []) }))
    for (const [at, lane] of [
      ['static', []],
      ['live', modules],
    ].entries() as ArrayIterator<[number, [string, readonly string[]]]>) {
      nodes.push(
        await ServedNode.start({ resources: passing(ports[at + 1] as number), flags: flagsFor(options, lane[1]) }),
      )
    }
    const kinds = ['static', 'live'] as const
    const turns = { static: [] as Turn[], live: [] as Turn[] }
    for (let turn = 0; turn < TURNS; turn += 1) {
      for (const [at, kind] of kinds.entries()) {
        progress(`throughput: ${kind}, turn ${turn + 1} of ${TURNS}`)
        turns[kind].push(await load(nodes[at + 1] as ServedNode, ports[at + 1] as number, options))
      }
    }
    const of = (kind: 'static' | 'live', pick: (turn: Turn) => number) => figuresOf(turns[kind].map(pick)).p50
    const cpu = { static: of('static', ({ cpuUs }) => cpuUs), live: of('live', ({ cpuUs }) => cpuUs) }
    return {
      throughput: 'the live balancer beside a static upstream',
      connections: options.connections,
      perSecond: { static: of('static', ({ perSecond }) => perSecond), live: of('live', ({ perSecond }) => perSecond) },
      cpuUsPerRequest: cpu,
      moreCpuPercent: rounded(100 * (cpu.live / cpu.static - 1)),
    }
  } finally {
    for (const node of nodes) await node.stop()
  }
}

interface Turn {
  readonly perSecond: number
  readonly cpuUs: number
}

const WARM_UP_MS = 500
/** USER_HZ, which is 100 wherever Node runs. */
const TICK_US = 10_000

/** Requests over kept connections, one after the other on each. */
async function load(served: ServedNode, port: number, { connections, loadSeconds }: EndpointsOptions): Promise<Turn> {
  let count = 0
  const text = Buffer.from('GET / HTTP/1.1\r\nHost: load.test\r\n\r\n')
  const sockets = new Set<Socket>()
  const open = (): void => {
    const socket = connect(port, '127.0.0.1')
    sockets.add(socket)
    socket.setNoDelay()
    socket.on('connect', () => socket.write(text))
    // Every answer is short, and comes in one piece.
    socket.on('data', (data) => {
      if (data.indexOf('200 OK') < 0) throw new Error(`an answer that is not 200: ${data.toString()}`)
      count += 1
      socket.write(text)
    })
    // nginx ends a connection after a thousand requests.
    socket.on('error', () => socket.destroy())
    socket.on('close', () => sockets.delete(socket) && open())
  }
  for (let index = 0; index < connections; index += 1) open()
  try {
    await sleep(WARM_UP_MS)
    const [began, before, ticks] = [performance.now(), count, await cpuTicks(served)]
    await sleep(loadSeconds * 1000)
    const answered = count - before
    const seconds = (performance.now() - began) / 1000
    return {
      perSecond: Math.round(answered / seconds),
      cpuUs: rounded((((await cpuTicks(served)) - ticks) * TICK_US) / answered),
    }
  } finally {
    for (const socket of sockets) {
      socket.removeAllListeners('close')
      socket.destroy()
    }
  }
}

/** CPU time of all workers. */
async function cpuTicks(served: ServedNode): Promise<number> {
  const workers = await served.workers()
  const ticks = await Promise.all(
    workers.map(async ({ pid }) => {
      const fields = (await readFile(`/proc/${pid}/stat`, 'utf8')).split(') ')[1]?.split(' ') ?? []
      return Number(fields[11]) + Number(fields[12])
    }),
  )
  return ticks.reduce((sum, one) => sum + one, 0)
}

async function pids(served: ServedNode): Promise<string> {
  return (await served.workers()).map(({ pid }) => pid).join()
}

function flagsFor({ workers }: EndpointsOptions, modules: readonly string[]): Record<string, string> {
  const loaded =
    modules.length === 0 ? { 'nginx.modules_directory': '/var/empty' } : { 'nginx.modules': modules.join() }
  return { 'nginx.worker_processes': String(workers), ...loaded }
}

function upstreamYaml(name: string, servers: readonly string[], more = ''): string {
  const spec = [
    `endpoints: { ${servers.map((server) => `'${server}': {}`).join(', ')} }`,
    ...(more === '' ? [] : [more]),
  ]
  return `apiVersion: nxmesh/v1\nkind: Upstream\nmetadata: { name: ${name} }\nspec: { ${spec.join(', ')} }\n`
}

function siteYaml(name: string, port: number, more = 'accessLog: true'): string {
  return `apiVersion: nxmesh/v1\nkind: Site\nmetadata: { name: ${name} }\nspec: { hosts: [${name}.test], ${more}, listeners: { main: { port: ${port} } }, routes: { root: { path: /, proxy: { upstream: ${name} } } } }\n`
}

async function backend(name: string): Promise<Server> {
  const server = createServer((_, response) => response.end(name)).listen(0)
  await once(server, 'listening')
  return server
}

function portOf(server: Server): number {
  return (server.address() as AddressInfo).port
}

/** The Lua module of this machine's nginx. */
async function luaModules(): Promise<string[]> {
  const { stderr } = await promisify(execFile)('nginx', ['-V'])
  const directory = /--modules-path=(\S+)/.exec(stderr)?.[1] ?? ''
  return ['ndk_http_module.so', 'ngx_http_lua_module.so'].map((name) => `${directory}/${name}`)
}
