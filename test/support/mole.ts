/**
 * A peer with a node's key that is no mesh-node: it connects to real daemons with the real network adapter, says what the
 * test wants, and answers what it is asked as a peer that holds the envelopes which it was given. For tests of what is believed.
 */

import { randomBytes } from 'node:crypto'
import { systemClock } from '../../src/adapters/clock.ts'
import { Libp2pNetwork } from '../../src/adapters/network.ts'
import { encodeEnvelopes, toWire } from '../../src/core/codec.ts'
import type { Body, Envelope, GenesisBody, KeyPair, WireEnvelope } from '../../src/core/envelope.ts'
import { syncItem } from '../../src/core/history.ts'
import type { GossipChannel, KnownPeer } from '../../src/ports.ts'
import {
  encodeFrame,
  fitPage,
  PAGE_ITEMS,
  parseRequest,
  type Answer,
  type Request,
} from '../../src/sync/sync-messages.ts'
import { waitFor } from './wait.ts'

/** A digest that no set of envelopes has. */
const NO_DIGEST = '0'.repeat(64)

type Chained = Envelope<Exclude<Body, GenesisBody>>

export class Mole {
  readonly #network: Libp2pNetwork
  readonly #genesis: Envelope
  /** How often each peer asked what it has. */
  readonly #comparisons = new Map<string, number>()
  /** What it claims to hold; undefined: just what the asker does. */
  #offer: readonly Chained[] | undefined
  #peers: readonly string[] = []

  constructor(key: KeyPair, genesis: Envelope) {
    this.#genesis = genesis
    this.#network = new Libp2pNetwork({
      keySeed: key.seed,
      networkId: 'default',
      bindAddress: '127.0.0.1',
      bindPort: 0,
      gossip: 'push',
      clock: systemClock,
      random: Math.random,
    })
  }

  /** How often it was asked what it has; by the peer that asked least often. */
  get comparisons(): number {
    return Math.min(...this.#peers.map((peer) => this.#comparisons.get(peer) ?? 0))
  }

  /** Connects with each peer, as a node of the mesh does. */
  async start(...peers: readonly KnownPeer[]): Promise<void> {
    await this.#network.start({
      allows: () => true,
      // It passes nothing on.
      onGossip: async () => 'ignore',
      onRequest: async (peer, frame) => this.#answer(peer, parseRequest(frame).request),
      onConnected: () => undefined,
      onDisconnected: () => undefined,
    })
    this.#network.joinMesh(this.#genesis.id)
    this.#network.setKnownPeers(peers)
    this.#peers = peers.map(({ key }) => key)
    await waitFor(() => this.#peers.every((key) => this.#network.connected.includes(key)), {
      timeoutMs: 60_000,
      everyMs: 20,
      what: `the mole is connected with ${this.#peers.join(' ')}`,
    })
  }

  /** Gossips envelopes in one message, until each of its peers was handed it. */
  async gossip(...envelopes: readonly WireEnvelope[]): Promise<void> {
    await this.gossipBytes(encodeEnvelopes(envelopes.map(toWire)))
  }

  /** The same with any bytes. */
  async gossipBytes(payload: Uint8Array, channel: GossipChannel = 'edits'): Promise<void> {
    await waitFor(async () => (await this.#network.publish(channel, payload)) >= this.#peers.length, {
      timeoutMs: 60_000,
      everyMs: 20,
      what: 'all peers to gossip to',
    })
  }

  /** From now on claims to hold these envelopes and no others, and gives them to whoever asks. */
  async offer(...envelopes: readonly Envelope[]): Promise<void> {
    this.#offer = envelopes as readonly Chained[]
    await this.#tempt()
  }

  /** From now on claims to hold just what the asker does. */
  async agree(): Promise<void> {
    this.#offer = undefined
    await this.#tempt()
  }

  /** Sends it as a revocation is sent to a node that is about to be cut off: unasked. */
  async push(peer: string, ...envelopes: readonly Envelope[]): Promise<void> {
    await this.request(peer, encodeFrame({ ask: 'take' } satisfies Request, envelopes.map(toWire)))
  }

  /** Sends any bytes as a request; the answer. */
  async request(peer: string, frame: Uint8Array): Promise<Uint8Array> {
    return await this.#network.request(peer, frame)
  }

  /** Says to each peer that it holds something else, so that each comes soon to see what. */
  async #tempt(): Promise<void> {
    const digest = randomBytes(32).toString('hex')
    const frame = encodeFrame({ ask: 'summary', digest, after: 0 } satisfies Request)
    await Promise.all(this.#peers.map((peer) => this.request(peer, frame)))
  }

  async stop(): Promise<void> {
    await this.#network.stop()
  }

  #answer(peer: string, request: Request): Uint8Array {
    const offer = this.#offer ?? []
    switch (request.ask) {
      case 'hello':
        return encodeFrame({ mesh: this.#genesis.id, settled: true } satisfies Answer<'hello'>, [toWire(this.#genesis)])
      case 'summary': {
        this.#comparisons.set(peer, (this.#comparisons.get(peer) ?? 0) + 1)
        const digest = this.#offer === undefined ? request.digest : NO_DIGEST
        return encodeFrame({ digest, chains: chainsOf(offer), next: null } satisfies Answer<'summary'>)
      }
      case 'items': {
        const isAsked = ({ body }: Chained): boolean => body.ws === request.workspace && body.by === request.author
        const items = offer.filter(isAsked).map((one): [string, number] => [syncItem(one), offer.indexOf(one)])
        return encodeFrame({ items: items.slice(request.skip, request.skip + PAGE_ITEMS) } satisfies Answer<'items'>)
      }
      case 'fetch': {
        const asked = request.ids.map((id) => offer.find((one) => one.id === id)).filter((one) => one !== undefined)
        return encodeFrame({}, fitPage(asked.map(toWire)))
      }
      case 'log':
        return encodeFrame({ next: null }, fitPage(offer.map(toWire)))
      case 'status':
        return encodeFrame({ records: [], more: false } satisfies Answer<'status'>)
      default:
        return encodeFrame({ error: 'not here' })
    }
  }
}

function chainsOf(offer: readonly Chained[]) {
  const chains = Map.groupBy(offer, ({ body }) => `${body.ws} ${body.by}`)
  return [...chains.values()].map((chain) => {
    const { ws, by } = chain[0]!.body
    const highestN = Math.max(...chain.map(({ body }) => body.n))
    return { workspace: ws, author: by, count: chain.length, highestN, hash: NO_DIGEST }
  })
}
