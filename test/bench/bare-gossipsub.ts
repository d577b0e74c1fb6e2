/**
 * A baseline: bare libp2p nodes that spread messages by gossipsub with its default settings, in one process over real TCP.
 * The handler only takes the time: nothing is checked, stored or compared. What the whole node is measured against.
 */

import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { generateKeyPair } from '@libp2p/crypto/keys'
import { gossipsub, type GossipSub, type GossipSubComponents } from '@libp2p/gossipsub'
import { serviceCapabilities } from '@libp2p/interface'
import { noise } from '@libp2p/noise'
import { tcp } from '@libp2p/tcp'
import { yamux } from '@libp2p/yamux'
import { createLibp2p, type Libp2p } from 'libp2p'
import { waitFor } from '../support/wait.ts'
import { CpuMeter, figuresOf, rounded } from './measure.ts'

export interface BareOptions {
  readonly nodes: number
  readonly edits: number
  readonly pauseMs: number
  readonly targetPeers: number
  readonly settleMs: number
}

const TOPIC = 'bench'
const BYTES = 1024
const LOST_AFTER_MS = 5000
const WARM_UP_MESSAGES = 12

type Node = Libp2p<{ pubsub: GossipSub; parts: { components: GossipSubComponents } }>

export async function bareGossipsub(options: BareOptions) {
  const nodes: Node[] = []
  let sentAt = 0
  let arrived = 0
  let delays: number[] = []
  let wake = (): void => undefined
  try {
    for (let index = 0; index < options.nodes; index += 1) {
      const node = await startNode()
      node.services.pubsub.addEventListener('message', () => {
        delays.push(performance.now() - sentAt)
        arrived += 1
        wake()
      })
      node.services.pubsub.subscribe(TOPIC)
      for (const peer of sample(nodes, options.targetPeers)) await node.dial(peer.getMultiaddrs())
      nodes.push(node)
    }
    await waitFor(() => nodes.every(({ services }) => services.pubsub.getSubscribers(TOPIC).length > 0), {
      what: 'gossipsub has formed its mesh',
      timeoutMs: 60_000,
    })
    await sleep(options.settleMs)
    const toAll: number[] = []
    let late = 0
    const spread = async (): Promise<void> => {
      arrived = 0
      const everywhere = new Promise<void>((resolve) => {
        wake = () => (arrived >= options.nodes - 1 ? resolve() : undefined)
      })
      const origin = nodes[Math.floor(Math.random() * nodes.length)] as Node
      sentAt = performance.now()
      await origin.services.pubsub.publish(TOPIC, randomBytes(BYTES))
      await Promise.race([everywhere, sleep(LOST_AFTER_MS, undefined, { ref: false })])
      if (arrived >= options.nodes - 1) toAll.push(performance.now() - sentAt)
      else late += 1
    }
    for (let index = 0; index < WARM_UP_MESSAGES; index += 1) await spread()
    delays = []
    toAll.length = 0
    late = 0
    const cpu = new CpuMeter()
    for (let index = 0; index < options.edits; index += 1) {
      await spread()
      await sleep(options.pauseMs)
    }
    return {
      links: rounded(nodes.reduce((sum, node) => sum + node.getPeers().length, 0) / nodes.length),
      bytes: BYTES,
      edits: options.edits,
      late,
      deliveryMs: figuresOf(delays),
      toAllMs: figuresOf(toAll),
      cpuMsPerDelivery: rounded(cpu.ms / Math.max(1, delays.length)),
    }
  } finally {
    await Promise.all(nodes.map(async (node) => node.stop()))
  }
}

async function startNode(): Promise<Node> {
  const node: Node = await createLibp2p({
    privateKey: await generateKeyPair('Ed25519'),
    addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
    transports: [tcp()],
    connectionEncrypters: [noise()],
    streamMuxers: [yamux()],
    connectionManager: { inboundConnectionThreshold: 1000, maxIncomingPendingConnections: 1000 },
    connectionMonitor: { enabled: false },
    services: {
      // All peers have one address here, which its scores take for an attack.
      pubsub: gossipsub({ scoreParams: { IPColocationFactorWeight: 0 }, allowPublishToZeroTopicPeers: true }),
      // Gossipsub will not start without the protocol that this stands for; see below.
      identify: () => ({ [serviceCapabilities]: ['@libp2p/identify'] }),
      parts: (components: GossipSubComponents) => ({ components }),
    },
  })
  // What identify would find out: every peer here speaks gossipsub.
  node.addEventListener('connection:open', ({ detail }) => {
    const { registrar } = node.services.parts.components
    for (const protocol of node.services.pubsub.protocols) {
      for (const topology of registrar.getTopologies(protocol)) void topology.onConnect?.(detail.remotePeer, detail)
    }
  })
  return node
}

function sample<T>(items: readonly T[], count: number): T[] {
  return items
    .map((item) => ({ item, rank: Math.random() }))
    .toSorted((a, b) => a.rank - b.rank)
    .slice(0, count)
    .map(({ item }) => item)
}
