/**
 * Whether requests are lost while nginx is reloaded: strict clients in a process of their own ask without a pause between
 * applies, and in the same run, with the same load, between plain `nginx -s reload`s, which is the control: it has to lose some,
 * or the clients would see nothing. With and without the Lua module, over HTTP/1.1 and HTTP/2.
 */

import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { KEEPS_IDLE_LINE } from '../../src/nginx/rendering/main-conf.ts'
import { certificateYaml, makeCertificate } from '../support/certificates.ts'
import { freePorts } from '../support/fleet.ts'
import { EchoBackend } from './echo.ts'
import { aim, figuresOf, progress, rounded, type BenchResult } from './measure.ts'
import { ServedNode } from './served-node.ts'
import { FIXED_ANSWER, SITE_HOST } from './zero-drop-exchanges.ts'
import type { Group, LoadPlan, LoadReport } from './zero-drop-load.ts'

export interface ZeroDropOptions {
  /** At least so many, over all variants. */
  readonly requests: number
  /** Through the reload lane, in each variant; more when the requests take longer. */
  readonly applies: number
  /** Plain reloads of the control, in each variant. */
  readonly reloads: number
  readonly workers: number
  /** `reload.drainMs` of the zone; undefined: what the product does by itself. */
  readonly drainMs: number | undefined
  /** Between two applies, and between two reloads. */
  readonly pauseMs: number
  readonly protocols: readonly LoadPlan['protocol'][]
  readonly lua: readonly boolean[]
  readonly groups: readonly Group[]
  /** One request of so many has a body of 100 kB; 0: none. */
  readonly longEvery: number
  readonly websockets: number
}

interface Variant {
  readonly protocol: LoadPlan['protocol']
  readonly lua: boolean
}

/** Until every client is connected, and after the last reload, so that what it broke is counted with it. */
/** Of the requests; a client of HTTP/2 takes its time. */
const SHARES = { http1: 4, http2: 1 } as const
/** Of the site, its certificate and that one's key. */
const NAME = 'zero-drop'
const SETTLE_MS = 1000
const SOCKET_PAUSE_MS = 100
const SOCKET_LIFE_MS = 3000

export async function zeroDrop(options: ZeroDropOptions): Promise<BenchResult> {
  const variants = options.lua.flatMap((lua) => options.protocols.map((protocol): Variant => ({ protocol, lua })))
  const shares = sum(variants.map(({ protocol }) => SHARES[protocol]))
  const rows = []
  for (const variant of variants) {
    rows.push(await measure(variant, options, Math.ceil((options.requests * SHARES[variant.protocol]) / shares)))
  }
  const requests = sum(rows.map((row) => row.requests))
  return {
    bench: 'zero-drop',
    options: { ...options },
    rows,
    aims: [
      aim('failed', sum(rows.map(({ failed }) => failed)), 0),
      { name: 'requests', value: requests, limit: options.requests, met: requests >= options.requests },
      ...rows.map(({ variant, control: { failed, refused } }) => {
        return { name: `control_felt_${variant}`, value: failed + refused, limit: 1, met: failed + refused >= 1 }
      }),
    ],
    notes: [
      'failed counts each request without its right answer, and each connection closed while idle without a word before (Connection: close, GOAWAY). Nothing is tried again, but HTTP/2 streams that the server refused as untouched; these are counted as refused.',
      'Half of the HTTP/1.1 clients read the first Connection header alone; two of them in one answer fail in any case. One request in four is a POST whose echo is compared, one in longEvery has 100 kB.',
      'control: the same clients and the same nginx, plain `nginx -s reload`s. What they felt is failed, or refused over HTTP/2.',
      'Websockets are opened for some seconds each and counted apart: lost ones were ended by the server.',
    ],
  }
}

/** `16x0,64x20`: 16 clients without pauses, 64 with pauses of 20 ms. Undefined when it is not that. */
export function parseGroups(text: string): readonly Group[] | undefined {
  const groups = text.split(',').map((part) => /^([1-9]\d*)x(\d+)$/.exec(part))
  if (!groups.every((group) => group !== null)) return undefined
  return groups.map(([, count, pauseMs]) => ({
    name: pauseMs === '0' ? 'busy' : `paused_${pauseMs}_ms`,
    count: Number(count),
    pauseMs: Number(pauseMs),
  }))
}

async function measure({ protocol, lua }: Variant, options: ZeroDropOptions, wanted: number) {
  const variant = `${protocol}${lua ? '_lua' : ''}`
  const [port, http2Port] = (await freePorts(2)) as [number, number]
  const backend = await EchoBackend.start()
  const site = (generation: number, snippet?: string): string => siteYaml({ generation, port, http2Port, snippet })
  const settings = options.drainMs === undefined ? [] : [settingsYaml(options.drainMs)]
  const certificate = makeCertificate([SITE_HOST])
  const resources = [upstreamYaml(backend.port), certificateYaml(NAME, certificate), site(0), ...settings].join(
    '\n---\n',
  )
  const flags = {
    'nginx.worker_processes': String(options.workers),
    ...(lua ? {} : { 'nginx.modules_directory': '/var/empty' }),
  }
  const served = await ServedNode.start({ resources, flags, secrets: { [NAME]: certificate.key } })
  const load = new Load({
    protocol,
    port: protocol === 'http2' ? http2Port : port,
    ca: certificate.certificate,
    groups: options.groups,
    longEvery: options.longEvery,
    websockets: { count: options.websockets, port, pauseMs: SOCKET_PAUSE_MS, lifeMs: SOCKET_LIFE_MS },
  })
  try {
    const { lane } = served.node.receipt?.live ?? {}
    if (lane !== (lua ? 'live' : 'reload')) throw new Error(`${variant}: endpoints go through the ${lane} lane`)
    await sleep(SETTLE_MS)
    await load.take()
    const began = performance.now()
    const applies: { totalMs: number; drainMs: number }[] = []
    const reports: LoadReport[] = []
    let requests = 0
    while (applies.length < options.applies || requests < wanted) {
      const { totalMs, phases } = await served.apply(site(applies.length + 1))
      applies.push({ totalMs, drainMs: phases['drain'] ?? 0 })
      await sleep(options.pauseMs)
      if (applies.length % 10 !== 0 && applies.length < options.applies) continue
      const report = await load.take()
      reports.push(report)
      for (const example of report.examples) progress(`${variant}: ${example}`)
      requests = summary(reports).requests
      progress(`${variant}: ${applies.length} applies, ${requests} requests, ${summary(reports).failed} failed`)
    }
    await sleep(SETTLE_MS)
    reports.push(await load.take())
    const seconds = (performance.now() - began) / 1000
    if (served.main.includes(KEEPS_IDLE_LINE)) {
      // What the product says there would protect the control too.
      await served.apply(site(0, 'keepalive_min_timeout 0;'))
      await sleep(SETTLE_MS)
      await load.take()
    }
    for (let reload = 0; reload < options.reloads; reload += 1) {
      await served.plainReload()
      await sleep(options.pauseMs)
    }
    await sleep(SETTLE_MS)
    const control = summary([await load.take()])
    progress(
      `${variant}: control of ${options.reloads} reloads, ${control.requests} requests, ${control.failed} failed`,
    )
    const ours = summary(reports)
    return {
      variant,
      applies: applies.length,
      ...ours,
      perSecond: Math.round(ours.requests / seconds),
      applyMs: figuresOf(applies.map(({ totalMs }) => totalMs)),
      drainMs: figuresOf(applies.map(({ drainMs }) => drainMs)),
      control: { reloads: options.reloads, ...control },
    }
  } finally {
    await load.stop()
    await served.stop()
    await backend.stop()
  }
}

interface SiteParts {
  readonly generation: number
  readonly port: number
  readonly http2Port: number
  readonly snippet: string | undefined
}

function siteYaml({ generation, port, http2Port, snippet }: SiteParts): string {
  return `
apiVersion: nxmesh/v1
kind: Site
metadata: { name: ${NAME} }
spec:
  hosts: [${SITE_HOST}]
  listeners:
    http1: { port: ${port}, address: 127.0.0.1 }
    http2: { port: ${http2Port}, address: 127.0.0.1, tls: { certificate: ${NAME} } }
  responseHeaders: { set: { X-Generation: "${generation}" } }
${snippet === undefined ? '' : `  privileged: { serverSnippet: ${JSON.stringify(snippet)} }\n`}  routes:
    fixed: { path: /, return: { status: 200, body: ${JSON.stringify(FIXED_ANSWER)} } }
    echo: { path: /echo/, proxy: { upstream: echo } }
    socket: { path: /socket/, proxy: { upstream: echo, websocket: true } }
`
}

function upstreamYaml(port: number): string {
  return `
apiVersion: nxmesh/v1
kind: Upstream
metadata: { name: echo }
spec: { endpoints: { "127.0.0.1:${port}": {} }, keepalive: { connections: 32 } }
`
}

function settingsYaml(drainMs: number): string {
  return `
apiVersion: nxmesh/v1
kind: ZoneSettings
metadata: { name: settings }
spec: { reload: { drainMs: ${drainMs} } }
`
}

/** What all groups count together, and what each failed at. */
function summary(reports: readonly LoadReport[]) {
  const groups = reports.flatMap(({ groups: found }) => Object.entries(found))
  const names = [...new Set(groups.map(([name]) => name))]
  const counts = groups.map(([, count]) => count)
  const failures: Record<string, number> = {}
  for (const [name, { failures: found }] of groups) {
    for (const [kind, count] of Object.entries(found))
      failures[`${name}.${kind}`] = (failures[`${name}.${kind}`] ?? 0) + count
  }
  const requestsOf = (name: string): number =>
    sum(groups.filter(([own]) => own === name).map(([, { requests }]) => requests))
  const sockets = reports.map(({ websockets }) => websockets)
  // The worst tenth of a minute: quantiles cannot be added.
  const worst = (pick: (ms: { p50: number; p99: number; max: number }) => number): number =>
    rounded(Math.max(0, ...counts.map(({ latencyMs }) => pick(latencyMs))))
  return {
    requests: sum(counts.map(({ requests }) => requests)),
    failed: sum(counts.map(({ failed }) => failed)),
    failures,
    requestsOf: Object.fromEntries(names.map((name) => [name, requestsOf(name)])),
    refused: sum(counts.map(({ refused }) => refused)),
    connections: sum(counts.map(({ connections }) => connections)),
    latencyMs: { p50: worst(({ p50 }) => p50), p99: worst(({ p99 }) => p99), max: worst(({ max }) => max) },
    websockets: {
      opened: sum(sockets.map(({ opened }) => opened)),
      words: sum(sockets.map(({ words }) => words)),
      lost: sum(sockets.map(({ lost }) => lost)),
      wrong: sum(sockets.map(({ wrong }) => wrong)),
    },
    examples: reports.flatMap(({ examples }) => examples).slice(0, 10),
  }
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0)
}

/** The clients' process. */
class Load {
  readonly #child: ChildProcess

  constructor(plan: LoadPlan) {
    this.#child = fork(new URL('./zero-drop-load.ts', import.meta.url), [JSON.stringify(plan)])
  }

  async take(): Promise<LoadReport> {
    this.#child.send('take')
    const [report] = (await once(this.#child, 'message', { signal: AbortSignal.timeout(30_000) })) as [LoadReport]
    return report
  }

  async stop(): Promise<void> {
    if (this.#child.exitCode !== null) return
    const exited = once(this.#child, 'exit')
    this.#child.send('stop')
    await exited
  }
}
