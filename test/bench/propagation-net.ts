/**
 * Measures the network alone: how long a message takes from `publish` at one node to the handler of every other, over
 * real TCP in one process, and the CPU for each delivery. Says which way of spreading edits is the faster.
 * Usage: node test/bench/propagation-net.ts [--nodes 10] [--way push|gossipsub] [--bytes 1024] [--messages 100]
 */

import { createHash, randomBytes } from 'node:crypto'
import { parseArgs } from 'node:util'
import { systemClock } from '../../src/adapters/clock.ts'
import { Libp2pNetwork } from '../../src/adapters/network.ts'
import { keyPairFromSeed } from '../../src/core/envelope.ts'
import type { NetworkHandlers } from '../../src/ports.ts'
import { waitFor } from '../support/wait.ts'

const DIALS_A_NODE = 5
/** Rest between messages, so that each is measured alone. */
const PAUSE_MS = 50

const { values } = parseArgs({
  options: {
    nodes: { type: 'string', default: '10' },
    way: { type: 'string', default: 'push' },
    bytes: { type: 'string', default: '1024' },
    messages: { type: 'string', default: '100' },
  },
})
const nodeCount = Number(values.nodes)
const messageCount = Number(values.messages)
const bytes = Number(values.bytes)
const way = values.way === 'gossipsub' ? 'gossipsub' : 'push'

const meshId = createHash('sha256').update('bench').digest('hex')
const latencies: number[] = []
let sentAt = 0
let arrived = 0
let allArrived = (): void => undefined

const seeds = Array.from({ length: nodeCount }, () => randomBytes(32))
const keys = seeds.map((seed) => keyPairFromSeed(seed).publicKey)
const nodes = seeds.map(
  (keySeed) =>
    new Libp2pNetwork({
      keySeed,
      networkId: 'bench',
      bindAddress: '127.0.0.1',
      bindPort: 0,
      gossip: way,
      targetPeers: DIALS_A_NODE,
      clock: systemClock,
      random: Math.random,
    }),
)
const handlers: NetworkHandlers = {
  allows: () => true,
  onGossip: () => {
    latencies.push(performance.now() - sentAt)
    if (++arrived === nodeCount - 1) allArrived()
    return Promise.resolve('accept')
  },
  onRequest: () => Promise.resolve(new Uint8Array()),
  onConnected: () => undefined,
  onDisconnected: () => undefined,
}

for (const node of nodes) {
  await node.start(handlers)
  node.joinMesh(meshId)
}
for (const [index, node] of nodes.entries()) {
  // Listed peers are dialled beyond the target, so each node dials exactly these.
  const offsets = [1, ...sample(nodeCount - 2, DIALS_A_NODE - 1).map((offset) => offset + 2)]
  node.setKnownPeers(
    offsets.map((offset) => {
      const other = (index + offset) % nodeCount
      return { key: keys[other] ?? '', addresses: nodes[other]?.addresses ?? [], listed: true }
    }),
  )
}
await waitFor(() => nodes.every((node) => node.connected.length >= DIALS_A_NODE), {
  what: 'all links',
  timeoutMs: 60_000,
})
const links = nodes.reduce((sum, node) => sum + node.connected.length, 0) / nodeCount
await waitFor(() => spreadOne().then((count) => count === nodeCount - 1), {
  what: 'a message reaches all',
  timeoutMs: 60_000,
})
for (let warm = 0; warm < 20; warm++) await spreadOne()
latencies.length = 0

let lost = 0
let busyUs = 0
for (let index = 0; index < messageCount; index++) {
  const before = process.cpuUsage()
  lost += nodeCount - 1 - (await spreadOne())
  const used = process.cpuUsage(before)
  busyUs += used.user + used.system
}
const idleBefore = process.cpuUsage()
await systemClock.sleep(2000)
const idle = process.cpuUsage(idleBefore)
latencies.sort((a, b) => a - b)
console.log(
  JSON.stringify({
    way,
    nodes: nodeCount,
    bytes,
    links: Math.round(links * 10) / 10,
    p50Ms: at(0.5),
    p99Ms: at(0.99),
    maxMs: at(1),
    lost,
    cpuMsPerDelivery: Math.round((busyUs / 1000 / Math.max(1, latencies.length)) * 100) / 100,
    idleCpuPercentPerNode: Math.round(((idle.user + idle.system) / 2e6 / nodeCount) * 10_000) / 100,
    rssMiB: Math.round(process.memoryUsage.rss() / 2 ** 20),
  }),
)
await Promise.all(nodes.map((node) => node.stop()))

/** Publishes one message at a random node; the number of nodes it reached within two seconds. */
async function spreadOne(): Promise<number> {
  const message = randomBytes(bytes)
  arrived = 0
  sentAt = performance.now()
  const everywhere = new Promise<void>((resolve) => (allArrived = resolve))
  await nodes[Math.floor(Math.random() * nodeCount)]?.publish('edits', message)
  await Promise.race([everywhere, systemClock.sleep(2000)])
  const reached = arrived
  await systemClock.sleep(PAUSE_MS)
  return reached
}

function sample(below: number, count: number): number[] {
  const all = Array.from({ length: below }, (_, index) => index)
  return all
    .map((value) => ({ value, rank: Math.random() }))
    .toSorted((a, b) => a.rank - b.rank)
    .slice(0, count)
    .map(({ value }) => value)
}

function at(quantile: number): number {
  const index = Math.min(latencies.length - 1, Math.floor(latencies.length * quantile))
  return Math.round((latencies[index] ?? 0) * 10) / 10
}
