/**
 * Whole nodes in this process: real stores in a temporary folder, real TCP on loopback, no nginx and no API. Each is told
 * of one or two others and learns the rest from their status, as nodes do. Used by the propagation benchmark.
 */

import { join } from 'node:path'
import { systemClock } from '../../src/adapters/clock.ts'
import { sealKeyFromSeed } from '../../src/adapters/identity.ts'
import { Libp2pNetwork } from '../../src/adapters/network.ts'
import { LevelStore } from '../../src/adapters/store.ts'
import { loadConfig } from '../../src/config/config.ts'
import type { Envelope, KeyPair } from '../../src/core/envelope.ts'
import { createMetrics } from '../../src/metrics.ts'
import { MeshNode } from '../../src/node.ts'
import { silentLog } from '../support/silent-log.ts'
import { waitFor } from '../support/wait.ts'

export type Way = 'push' | 'gossipsub'

export interface InProcessOptions {
  readonly keys: readonly KeyPair[]
  readonly founding: readonly Envelope[]
  readonly meshId: string
  readonly directory: string
  /** How edits spread. */
  readonly way: Way
  /** Connections that a node keeps up by dialling; it accepts more. */
  readonly targetPeers: number
}

export class InProcessMesh {
  readonly nodes: readonly MeshNode[]
  readonly #networks: readonly Libp2pNetwork[]

  private constructor(nodes: readonly MeshNode[], networks: readonly Libp2pNetwork[]) {
    this.nodes = nodes
    this.#networks = networks
  }

  /** Starts the nodes one after the other and waits until each has its connections and holds what the others hold. */
  static async start(options: InProcessOptions): Promise<InProcessMesh> {
    const nodes: MeshNode[] = []
    const networks: Libp2pNetwork[] = []
    const mesh = new InProcessMesh(nodes, networks)
    // One set for all: the samplers of process metrics would otherwise run once for each node.
    const metrics = createMetrics()
    for (const [index, key] of options.keys.entries()) {
      const network = new Libp2pNetwork({
        keySeed: key.seed,
        networkId: 'bench',
        bindAddress: '127.0.0.1',
        bindPort: 0,
        gossip: options.way,
        targetPeers: options.targetPeers,
        clock: systemClock,
        random: Math.random,
      })
      const peers = [...new Set([0, Math.floor(Math.random() * index)])].filter((peer) => peer < index)
      const config = loadConfig({
        env: {},
        flags: {
          data_dir: join(options.directory, `node-${index}`),
          network_id: 'bench',
          'mesh.id': options.meshId,
          'nginx.mode': 'off',
          nodes: peers.map((peer) => `${options.keys[peer]?.publicKey}@${networks[peer]?.addresses[0]}`).join(','),
        },
      })
      const store = new LevelStore({ directory: join(config.dataDir, 'store'), sealKey: sealKeyFromSeed(key.seed) })
      const adapters = { store, network, clock: systemClock, random: Math.random, serveApi: false }
      const node = new MeshNode({ config, key, log: silentLog(), metrics, adapters, founding: options.founding })
      await node.start()
      nodes.push(node)
      networks.push(network)
    }
    const linksWanted = Math.min(options.targetPeers, nodes.length - 1)
    await waitFor(() => networks.every(({ connected }) => connected.length >= linksWanted) && mesh.agrees, {
      what: 'all nodes are linked and agree',
      timeoutMs: 120_000,
    })
    return mesh
  }

  /** Mean number of connections of a node. */
  get links(): number {
    return this.#networks.reduce((sum, { connected }) => sum + connected.length, 0) / this.nodes.length
  }

  /** Whether all nodes hold the same. */
  get agrees(): boolean {
    return new Set(this.nodes.map((node) => node.sync.digest())).size === 1
  }

  async stop(): Promise<void> {
    await Promise.all(this.nodes.map((node) => node.stop()))
  }
}
