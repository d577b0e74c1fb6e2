/**
 * How long an edit takes from acceptance to the proof that every nginx worker runs it, beside what nginx alone takes for the
 * same configuration: `nginx -t`, and HUP until all workers are new, measured here by a few lines that share no code with
 * the product. One node with a real nginx, one site changed at a time.
 */

import { execFile } from 'node:child_process'
import { mkdtemp, chmod, readFile, rm } from 'node:fs/promises'
import { request } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { systemClock } from '../../src/adapters/clock.ts'
import { sealKeyFromSeed } from '../../src/adapters/identity.ts'
import { Libp2pNetwork } from '../../src/adapters/network.ts'
import { LevelStore } from '../../src/adapters/store.ts'
import { loadConfig } from '../../src/config/config.ts'
import { toWire } from '../../src/core/codec.ts'
import type { Envelope } from '../../src/core/envelope.ts'
import { MeshNode } from '../../src/node.ts'
import { keyOf } from '../support/authors.ts'
import { endNginx, freePorts } from '../support/fleet.ts'
import { silentLog } from '../support/silent-log.ts'
import { waitFor } from '../support/wait.ts'
import { aim, figuresOf, progress, rounded, type Aim, type BenchResult } from './measure.ts'
import { Workload } from './workload.ts'

export interface ApplyOptions {
  readonly sites: readonly number[]
  readonly rounds: number
  readonly workers: number
  /** Between applies; above the quiet time, so that no edit waits for others. */
  readonly pauseMs: number
}

const AIM_OVERHEAD_MS = 50
/** What a node waits for on purpose; no work. */
const WAITS: readonly string[] = ['drain', 'bake']
/** In these nginx works. */
const NGINX: readonly string[] = ['test', 'verify']
const run = promisify(execFile)

export async function apply(options: ApplyOptions): Promise<BenchResult> {
  const rows: Record<string, unknown>[] = []
  const aims: Aim[] = []
  for (const count of options.sites) {
    const row = await measure(count, options)
    rows.push(row)
    aims.push(aim(`overhead_${count}_sites_ms`, row.overheadMs.p50, AIM_OVERHEAD_MS))
  }
  return {
    bench: 'apply',
    options: { ...options },
    rows,
    aims,
    notes: [
      'totalMs: from the accepted edit to the receipt that says applied, all workers proven. Each site has three routes and an upstream.',
      'nginxTestMs and nginxReloadMs: nginx alone on the same configuration, each round, by code that shares nothing with the product; the reload counts until every old worker is replaced.',
      'overheadMs = totalMs - drain - bake - nginxTestMs - nginxReloadMs, round by round.',
      'ownMs = totalMs without the phases drain, bake, test and verify: what the daemon does itself, slice, rendering and receipt included.',
      'coalescingAtMostMs is all that lies outside the phases: slice, rendering and receipt too. Rounds are too far apart to be coalesced. No client is connected, so nothing is drained.',
    ],
  }
}

async function measure(count: number, options: ApplyOptions) {
  const directory = await mkdtemp(join(tmpdir(), 'nxmesh-bench-'))
  await chmod(directory, 0o755)
  const key = keyOf('apply')
  const workload = new Workload({ nodes: [key.publicKey] })
  const founding = [
    ...workload.founding,
    ...Array.from({ length: count }, (_, index) => workload.application(index)).flat(),
  ]
  const [port] = (await freePorts(1)) as [number]
  const config = loadConfig({
    env: {},
    flags: {
      data_dir: directory,
      'mesh.id': workload.meshId,
      'nginx.default_http_port': String(port),
      'nginx.worker_processes': String(options.workers),
    },
  })
  const network = new Libp2pNetwork({
    keySeed: key.seed,
    networkId: 'bench',
    bindAddress: '127.0.0.1',
    bindPort: 0,
    gossip: 'off',
    clock: systemClock,
    random: Math.random,
  })
  const store = new LevelStore({ directory: join(directory, 'store'), sealKey: sealKeyFromSeed(key.seed) })
  const adapters = { store, network, clock: systemClock, random: Math.random, serveApi: false }
  const node = new MeshNode({ config, key, log: silentLog(), adapters, founding })
  const nginx = new BareNginx(join(directory, 'nginx'))
  try {
    progress(`${count} sites: first apply`)
    await node.start()
    await waitFor(() => node.isConverged(), { what: 'the first apply', timeoutMs: 120_000 })
    const rounds: Round[] = []
    for (let round = 0; round < options.rounds; round += 1) {
      progress(`${count} sites: round ${round + 1} of ${options.rounds}`)
      await sleep(options.pauseMs)
      const applied = await applyOne(node, workload.edit(round % count))
      await sleep(options.pauseMs)
      const testMs = await nginx.test()
      const reloadMs = await nginx.reload()
      rounds.push({ ...applied, testMs, reloadMs })
    }
    const figures = (pick: (round: Round) => number) => figuresOf(rounds.map(pick))
    const phases = new Set(rounds.flatMap((round) => Object.keys(round.phases)))
    return {
      sites: count,
      rounds: rounds.length,
      totalMs: figures(({ totalMs }) => totalMs),
      nginxTestMs: figures(({ testMs }) => testMs),
      nginxReloadMs: figures(({ reloadMs }) => reloadMs),
      waits: {
        drainMs: figures(({ phases }) => phases['drain'] ?? 0),
        bakeMs: figures(({ phases }) => phases['bake'] ?? 0),
        coalescingAtMostMs: figures(outsidePhases),
      },
      overheadMs: figures(
        (round) =>
          round.totalMs -
          WAITS.reduce((sum, phase) => sum + (round.phases[phase] ?? 0), 0) -
          round.testMs -
          round.reloadMs,
      ),
      ownMs: figures(({ totalMs, phases }) =>
        [...WAITS, ...NGINX].reduce((rest, phase) => rest - (phases[phase] ?? 0), totalMs),
      ),
      phasesMs: Object.fromEntries(
        [...phases].map((phase) => [phase, figures((round) => round.phases[phase] ?? 0).p50]),
      ),
    }
  } finally {
    await node.stop()
    await endNginx(join(directory, 'nginx'))
    await rm(directory, { recursive: true, force: true, maxRetries: 5 })
  }
}

interface Round {
  readonly totalMs: number
  readonly phases: Readonly<Record<string, number>>
  readonly testMs: number
  readonly reloadMs: number
}

async function applyOne(node: MeshNode, edit: Envelope): Promise<Pick<Round, 'totalMs' | 'phases'>> {
  const [outcome] = await node.replica.submit([toWire(edit)], 'api')
  const acceptedAt = performance.now()
  if (outcome?.outcome !== 'stored') throw new Error(`the edit was not taken: ${JSON.stringify(outcome)}`)
  // Other news, of the lane or of upstreams, makes receipts too: only that of another target is of this edit.
  const before = node.receipt?.target
  while (
    node.receipt?.target === before ||
    node.receipt?.applied !== node.receipt?.desired ||
    node.receipt?.error !== null
  ) {
    if (performance.now() - acceptedAt > 60_000) throw new Error(`not applied: ${JSON.stringify(node.receipt)}`)
    await sleep(1)
  }
  const { outcome: end, durations } = node.receipt
  if (end !== 'applied') throw new Error(`the edit ended as ${end}: ${JSON.stringify(node.receipt)}`)
  return { totalMs: rounded(performance.now() - acceptedAt), phases: durations }
}

function outsidePhases({ totalMs, phases }: Round): number {
  return totalMs - Object.values(phases).reduce((sum, ms) => sum + ms, 0)
}

/** The nginx of a working directory as a person with a shell would time it. */
class BareNginx {
  readonly #directory: string

  constructor(directory: string) {
    this.#directory = directory
  }

  async test(): Promise<number> {
    const began = performance.now()
    await run('nginx', ['-t', '-p', `${this.#directory}/`, '-c', join(this.#directory, 'current', 'nginx.conf')])
    return rounded(performance.now() - began)
  }

  /** HUP until no worker of before takes new connections and the new ones answer. */
  async reload(): Promise<number> {
    const master = Number(await readFile(join(this.#directory, 'nginx.pid'), 'utf8'))
    const old = new Set(await this.#workers(master))
    const began = performance.now()
    process.kill(master, 'SIGHUP')
    const seen = new Set<number>()
    for (;;) {
      for (const pid of await Promise.all(Array.from({ length: old.size * 2 }, () => this.#ask()))) {
        if (pid !== undefined && !old.has(pid)) seen.add(pid)
      }
      const serving = await this.#workers(master)
      if (serving.length > 0 && serving.every((pid) => seen.has(pid))) return rounded(performance.now() - began)
      if (performance.now() - began > 60_000) throw new Error('nginx did not reload')
      await sleep(1)
    }
  }

  /** Pids of the master's children that are not shutting down. */
  async #workers(master: number): Promise<number[]> {
    const children = (await readFile(`/proc/${master}/task/${master}/children`, 'utf8')).trim().split(' ').map(Number)
    const titles = await Promise.all(
      children.map((pid) => readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => 'gone')),
    )
    return children.filter((_, index) => titles[index]?.startsWith('nginx: worker process\0') ?? false)
  }

  /** The pid of the worker that answers. */
  #ask(): Promise<number | undefined> {
    return new Promise((resolve) => {
      const socketPath = join(this.#directory, 'private', 'verify.sock')
      const outgoing = request({ socketPath, path: '/generation', agent: false })
      outgoing.on('error', () => resolve(undefined))
      outgoing.on('response', (response) => {
        let text = ''
        response.on('data', (data: Buffer) => (text += data.toString()))
        response.on('end', () => resolve(Number(text.trim().split(' ')[1]) || undefined))
      })
      outgoing.end()
    })
  }
}
