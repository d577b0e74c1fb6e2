/**
 * How fast an edit spreads: from the moment one node has accepted it to the moment every other has stored it durably, whole
 * nodes in one process over real TCP. Paced edits one at a time, then a burst. Ways of spreading are compared in one run.
 */

import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { toWire } from '../../src/core/codec.ts'
import type { Envelope } from '../../src/core/envelope.ts'
import type { MeshNode } from '../../src/node.ts'
import { keyOf } from '../support/authors.ts'
import { waitFor } from '../support/wait.ts'
import { bareGossipsub } from './bare-gossipsub.ts'
import { InProcessMesh, type Way } from './in-process.ts'
import { aim, CpuMeter, figuresOf, progress, rounded, type Aim, type BenchResult } from './measure.ts'
import { Workload } from './workload.ts'

export const WAYS = ['push', 'gossipsub', 'bare-gossipsub'] as const

export interface PropagationOptions {
  readonly nodes: readonly number[]
  readonly edits: number
  readonly burst: number
  readonly pauseMs: number
  readonly targetPeers: number
  /** Quiet time before measuring, so that the start-up's status traffic is over. */
  readonly settleMs: number
  readonly ways: readonly (typeof WAYS)[number][]
}

const AIMS: Readonly<Record<number, number>> = { 10: 40, 50: 150 }
const CPU_AIM_MS = 3
const SITES = 60
const WARM_UP_EDITS = 12
/** An edit that is not everywhere after this long counts as lost; sync brings it later. */
const LOST_AFTER_MS = 5000

export async function propagation(options: PropagationOptions): Promise<BenchResult> {
  const rows: Record<string, unknown>[] = []
  const aims: Aim[] = []
  for (const count of options.nodes) {
    for (const way of options.ways) {
      progress(`${count} nodes, ${way}`)
      if (way === 'bare-gossipsub') {
        rows.push({ nodes: count, way, ...(await bareGossipsub({ ...options, nodes: count })) })
        continue
      }
      const row = await measure(count, way, options)
      rows.push(row)
      if (way !== 'push') continue
      const limit = AIMS[count]
      if (limit !== undefined) aims.push(aim(`p99_to_all_${count}_nodes_ms`, row.toAllMs.p99, limit))
      if (limit !== undefined) aims.push(aim(`p99_delivery_${count}_nodes_ms`, row.deliveryMs.p99, limit))
      aims.push(aim(`cpu_per_delivery_${count}_nodes_ms`, row.cpuMsPerDelivery, CPU_AIM_MS))
    }
  }
  return {
    bench: 'propagation',
    options: { ...options },
    rows,
    aims,
    notes: [
      'All nodes share one process and one JavaScript thread: CPU of all nodes adds up in the latencies.',
      'deliveryMs counts each node, toAllMs the last one of each edit. Stored means fsynced.',
      'bare-gossipsub is libp2p with the defaults of gossipsub and a handler that only takes the time: no check, no store.',
    ],
  }
}

async function measure(count: number, way: Way, options: PropagationOptions) {
  const directory = await mkdtemp(join(tmpdir(), 'nxmesh-bench-'))
  const keys = Array.from({ length: count }, (_, index) => keyOf(`node ${index}`))
  const workload = new Workload({ nodes: keys.map(({ publicKey }) => publicKey) })
  const sites = Array.from({ length: SITES }, (_, index) => workload.edit(index))
  const founding = [...workload.founding, ...sites]
  const { meshId } = workload
  const { targetPeers } = options
  const mesh = await InProcessMesh.start({ keys, founding, meshId, directory, way, targetPeers })
  try {
    const run = new Run(mesh.nodes)
    await sleep(options.settleMs)
    const idle = await idleLoad(options.settleMs)
    for (let index = 0; index < WARM_UP_EDITS; index += 1) await run.spread(workload.edit(index % SITES))
    run.reset()
    let sizes = 0
    const cpu = new CpuMeter()
    const began = performance.now()
    for (let index = 0; index < options.edits; index += 1) {
      const edit = workload.edit(index % SITES)
      sizes += edit.size
      await run.spread(edit)
      await sleep(options.pauseMs)
    }
    const cpuMs = cpu.ms
    const tookMs = performance.now() - began
    await waitFor(() => mesh.agrees, { what: 'all nodes agree', timeoutMs: 60_000 })
    return {
      nodes: count,
      way,
      links: rounded(mesh.links),
      bytes: Math.round(sizes / options.edits),
      edits: options.edits,
      late: run.late,
      deliveryMs: figuresOf(run.deliveries),
      toAllMs: figuresOf(run.toAll),
      cpuMsPerDelivery: rounded(cpuMs / Math.max(1, run.deliveries.length)),
      cpuMsPerDeliveryWithoutIdle: rounded((cpuMs - idle * tookMs) / Math.max(1, run.deliveries.length)),
      idleCpuPercentPerNode: rounded((idle * 100) / count),
      statusRecordsPerEdit: rounded(run.statusRecords / options.edits),
      burst: await burst(mesh, workload, options.burst),
    }
  } finally {
    await mesh.stop()
    await rm(directory, { recursive: true, force: true })
  }
}

/** Three authors' edits at three nodes, submitted at once: how long until all of them are everywhere. */
async function burst(mesh: InProcessMesh, workload: Workload, size: number) {
  const edits = Array.from({ length: size }, (_, index) => workload.edit(index % SITES))
  const { nodes } = mesh
  const goal = (nodes[0] as MeshNode).replica.state.history.size + size
  const cpu = new CpuMeter()
  const began = performance.now()
  // An author is at one place: edit `index` is by author `index % 3`.
  await Promise.all(
    edits.map((edit, index) =>
      (nodes[index % Math.min(3, nodes.length)] as MeshNode).replica.submit([toWire(edit)], 'api'),
    ),
  )
  const acceptedMs = performance.now() - began
  await waitFor(() => nodes.every(({ replica }) => replica.state.history.size >= goal), {
    what: 'the burst is everywhere',
    timeoutMs: 120_000,
  })
  const tookMs = performance.now() - began
  return {
    edits: size,
    acceptedMs: rounded(acceptedMs),
    toAllMs: rounded(tookMs),
    cpuMsPerDelivery: rounded(cpu.ms / (size * (nodes.length - 1))),
  }
}

/** CPU time over wall time of everything that runs without edits. */
async function idleLoad(durationMs: number): Promise<number> {
  const cpu = new CpuMeter()
  const began = performance.now()
  await sleep(durationMs)
  return cpu.ms / (performance.now() - began)
}

/** Takes the times at which an edit is stored, at every node. */
class Run {
  readonly #nodes: readonly MeshNode[]
  readonly #times = new Map<string, number[]>()
  #wake: () => void = () => undefined
  deliveries: number[] = []
  toAll: number[] = []
  /** Edits that were not everywhere in time. */
  late = 0
  statusRecords = 0

  constructor(nodes: readonly MeshNode[]) {
    this.#nodes = nodes
    for (const node of nodes) {
      node.replica.onStored((envelopes) => this.#note(envelopes))
      node.status.onRecord(() => (this.statusRecords += 1))
    }
  }

  reset(): void {
    this.deliveries = []
    this.toAll = []
    this.late = 0
    this.statusRecords = 0
  }

  /** Submits one edit at a random node and waits until it is everywhere. */
  async spread(edit: Envelope): Promise<void> {
    const times: number[] = []
    this.#times.set(edit.id, times)
    const origin = this.#nodes[Math.floor(Math.random() * this.#nodes.length)] as MeshNode
    const [outcome] = await origin.replica.submit([toWire(edit)], 'api')
    const acceptedAt = performance.now()
    if (outcome?.outcome !== 'stored') throw new Error(`the edit was not taken: ${JSON.stringify(outcome)}`)
    const deadline = AbortSignal.timeout(LOST_AFTER_MS)
    while (times.length < this.#nodes.length && !deadline.aborted) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve
        deadline.addEventListener('abort', () => resolve(), { once: true })
      })
    }
    this.#times.delete(edit.id)
    // The first is the node where it was submitted.
    const delays = times.slice(1).map((at) => Math.max(0, at - acceptedAt))
    this.deliveries.push(...delays)
    if (times.length === this.#nodes.length) this.toAll.push(Math.max(...delays))
    else this.late += 1
  }

  #note(envelopes: readonly Envelope[]): void {
    const now = performance.now()
    for (const { id } of envelopes) this.#times.get(id)?.push(now)
    this.#wake()
  }
}
