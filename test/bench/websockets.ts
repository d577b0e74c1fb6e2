/**
 * What old workers cost while websockets hold them: opens some before each apply, keeps some for the whole run, and samples the
 * memory of every process of nginx, the number of draining workers, and what the node says of itself. Called by main.ts.
 */

import { setTimeout as sleep } from 'node:timers/promises'
import { freePorts } from '../support/fleet.ts'
import { aim, figuresOf, memoryOf, progress, rounded, type BenchResult } from './measure.ts'
import { EchoBackend } from './echo.ts'
import { ServedNode } from './served-node.ts'
import { SITE_HOST } from './zero-drop-exchanges.ts'
import { WebsocketClient } from './zero-drop-websocket.ts'

export interface WebsocketsOptions {
  readonly applies: number
  /** Opened before each apply, and kept until the worker is told to end them. */
  readonly opened: number
  /** Opened once, and again whenever they are cut. */
  readonly longLived: number
  /** Sites beside, so that a worker has something to hold. */
  readonly sites: number
  readonly workers: number
  /** `nginx.max_draining_workers`. */
  readonly maxDraining: number
  readonly shutdownSeconds: number
}

interface Sample {
  readonly draining: number
  readonly masterMB: number
  /** PSS of the master and all workers: what they take together, shared pages counted once. */
  readonly totalMB: number
}

const SAMPLE_EVERY_MS = 250
const WORD_EVERY_MS = 1000
/** Pages that processes shared come apart, and one that serves takes more than one that has just begun. */
const GROWTH = 1.5

export async function websockets(options: WebsocketsOptions): Promise<BenchResult> {
  const { maxDraining, workers } = options
  const [port] = (await freePorts(1)) as [number]
  const backend = await EchoBackend.start()
  const served = await ServedNode.start({
    resources: resourcesYaml(options, port, backend.port),
    flags: {
      'nginx.worker_processes': String(workers),
      'nginx.max_draining_workers': String(maxDraining),
      'nginx.worker_shutdown_timeout_seconds': String(options.shutdownSeconds),
    },
  })
  const watch = new Watch(served)
  const keepers = Array.from(
    { length: options.longLived },
    () => new WebsocketClient({ port, pauseMs: WORD_EVERY_MS, again: true }),
  )
  const sockets: WebsocketClient[] = []
  const reloads: { totalMs: number; gateMs: number }[] = []
  try {
    for (const keeper of keepers) keeper.start()
    // As one that has been reloaded: the first generation has no pages of an older one.
    await served.apply(siteYaml(0, port))
    const single = await watch.sample()
    const processes = 1 + workers
    watch.start()
    for (let number = 1; number <= options.applies; number += 1) {
      const fresh = Array.from({ length: options.opened }, () => new WebsocketClient({ port, pauseMs: WORD_EVERY_MS }))
      for (const socket of fresh) socket.start()
      sockets.push(...fresh)
      const { totalMs, phases } = await served.apply(siteYaml(number, port))
      reloads.push({ totalMs, gateMs: phases['gate'] ?? 0 })
      if (number % 20 === 0) progress(`${number} applies, ${JSON.stringify(watch.last)}`)
    }
    const { samples, gates } = await watch.stop()
    const counts = [...keepers, ...sockets].map((socket) => socket.take())
    const first = samples.slice(0, Math.ceil(samples.length / 4))
    const last = samples.slice(-Math.ceil(samples.length / 4))
    const most = (some: readonly Sample[], pick: (sample: Sample) => number): number => Math.max(0, ...some.map(pick))
    // A reload passes the gate with as many as the limit, and adds those that served.
    const drainingLimit = maxDraining + workers
    const row = {
      applies: options.applies,
      websocketsOpened: counts.reduce((sum, { opened }) => sum + opened, 0),
      websocketsOpenAtEnd: [...keepers, ...sockets].filter(({ isOpen }) => isOpen).length,
      websocketsCut: counts.reduce((sum, { lost }) => sum + lost, 0),
      wrongEchoes: counts.reduce((sum, { wrong }) => sum + wrong, 0),
      applyMs: figuresOf(reloads.map(({ totalMs }) => totalMs)),
      gateMs: figuresOf(reloads.map(({ gateMs }) => gateMs)),
      waitedAtGate: reloads.filter(({ gateMs }) => gateMs > SAMPLE_EVERY_MS).length,
      drainingMost: most(samples, ({ draining }) => draining),
      masterMB: { before: single.masterMB, most: most(samples, ({ masterMB }) => masterMB) },
      totalMB: {
        before: single.totalMB,
        mostInFirstQuarter: most(first, ({ totalMB }) => totalMB),
        mostInLastQuarter: most(last, ({ totalMB }) => totalMB),
        most: most(samples, ({ totalMB }) => totalMB),
      },
      gateSeen: { inReceipt: gates.receipt, inHealth: gates.health, example: gates.example },
    }
    return {
      bench: 'websockets',
      options: { ...options },
      rows: [row],
      aims: [
        aim('draining_workers', row.drainingMost, drainingLimit),
        aim('master_mb', row.masterMB.most, rounded(single.masterMB * GROWTH + 10)),
        // While a reload is under way both the old and the new workers serve.
        aim(
          'total_mb',
          row.totalMB.most,
          rounded((single.totalMB / processes) * (processes + workers + drainingLimit) * GROWTH),
        ),
        aim('wrong_echoes', row.wrongEchoes, 0),
      ],
      notes: [
        'Memory is PSS of the master and all of its workers, sampled every 250 ms, MB of 10^6 bytes; master_mb is its RSS.',
        'draining_workers: the limit of the gate plus the workers that the reload which it let pass has replaced.',
        'total_mb: what one process took before, times all that the gate allows at once, times 1.5.',
        'gateSeen: samples in which the receipt was in the phase gate, and in which health said why.',
      ],
    }
  } finally {
    await watch.stop()
    for (const socket of [...keepers, ...sockets]) socket.stop()
    await served.stop()
    await backend.stop()
  }
}

/** Samples until stopped. */
class Watch {
  readonly #served: ServedNode
  readonly #samples: Sample[] = []
  readonly #gates = { receipt: 0, health: 0, example: '' }
  #isOn = false
  #running: Promise<void> = Promise.resolve()

  constructor(served: ServedNode) {
    this.#served = served
  }

  get last(): Sample | undefined {
    return this.#samples.at(-1)
  }

  start(): void {
    this.#isOn = true
    this.#running = this.#run()
  }

  async stop(): Promise<{ samples: readonly Sample[]; gates: { receipt: number; health: number; example: string } }> {
    this.#isOn = false
    await this.#running
    return { samples: this.#samples, gates: this.#gates }
  }

  async sample(): Promise<Sample> {
    const workers = await this.#served.workers()
    const pids = [this.#served.master, ...workers.map(({ pid }) => pid)]
    // One that ends meanwhile takes nothing.
    const memory = await Promise.all(pids.map((pid) => memoryOf(pid).catch(() => ({ rssMB: 0, pssMB: 0 }))))
    return {
      draining: workers.filter(({ draining }) => draining).length,
      masterMB: memory[0]?.rssMB ?? 0,
      totalMB: rounded(memory.reduce((sum, { pssMB }) => sum + pssMB, 0)),
    }
  }

  async #run(): Promise<void> {
    while (this.#isOn) {
      this.#samples.push(await this.sample())
      const { receipt } = this.#served.node
      if (receipt?.phase === 'gate') {
        const health = this.#served.node.health()
        this.#gates.receipt += 1
        if (health.reasons.some((reason) => reason.includes('still draining'))) {
          this.#gates.health += 1
          this.#gates.example ||= `${health.status}: ${health.msg}`
        }
      }
      await sleep(SAMPLE_EVERY_MS)
    }
  }
}

function siteYaml(generation: number, port: number): string {
  return `
apiVersion: nxmesh/v1
kind: Site
metadata: { name: sockets }
spec:
  hosts: [${SITE_HOST}]
  listeners: { main: { port: ${port}, address: 127.0.0.1 } }
  responseHeaders: { set: { X-Generation: "${generation}" } }
  routes: { socket: { path: /socket/, proxy: { upstream: echo, websocket: true } } }
`
}

function resourcesYaml({ sites }: WebsocketsOptions, port: number, backendPort: number): string {
  const upstream = `
apiVersion: nxmesh/v1
kind: Upstream
metadata: { name: echo }
spec: { endpoints: { "127.0.0.1:${backendPort}": {} } }
`
  const others = Array.from(
    { length: sites },
    (_, index) => `
apiVersion: nxmesh/v1
kind: Site
metadata: { name: other-${index} }
spec:
  hosts: [other-${index}.test]
  listeners: { main: { port: ${port}, address: 127.0.0.1 } }
  routes: { root: { path: /, return: { status: 200, body: other } } }
`,
  )
  return [upstream, siteYaml(-1, port), ...others].join('---\n')
}
