/**
 * A peer with a node's key that is no mesh-node: it connects to real daemons with the real network adapter, says what the
 * test wants, and answers what it is asked as a peer that has one chain of envelopes to give. For tests of what is believed.
 */

import { systemClock } from '../../src/adapters/clock.ts'
import { Libp2pNetwork } from '../../src/adapters/network.ts'
import { encodeEnvelopes, toWire } from '../../src/core/codec.ts'
import type { EditBody, Envelope, KeyPair } from '../../src/core/envelope.ts'
import type { KnownPeer } from '../../src/ports.ts'
import { encodeFrame, parseRequest, type Answer, type Request } from '../../src/sync-messages.ts'
import { waitFor } from './wait.ts'

const NOBODY = '0'.repeat(64)

export class Mole {
  readonly #network: Libp2pNetwork
  readonly #genesis: Envelope
  #comparisons = 0
  /** What it claims to have. */
  #offer: Envelope<EditBody> | undefined

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

  /** How often it was asked what it has. */
  get comparisons(): number {
    return this.#comparisons
  }

  /** Connects with the peer, as a node of the mesh does. */
  async start(peer: KnownPeer): Promise<void> {
    await this.#network.start({
      allows: () => true,
      onGossip: async () => 'accept',
      onRequest: async (_, frame) => this.#answer(parseRequest(frame).request),
      onConnected: () => undefined,
      onDisconnected: () => undefined,
    })
    this.#network.joinMesh(this.#genesis.id)
    this.#network.setKnownPeers([peer])
    await waitFor(() => this.#network.connected.includes(peer.key), {
      timeoutMs: 60_000,
      everyMs: 20,
      what: `the mole is connected with ${peer.key}`,
    })
  }

  /** Gossips an envelope, until there is somebody who gets it. */
  async gossip(envelope: Envelope): Promise<void> {
    await waitFor(async () => (await this.#network.publish('edits', encodeEnvelopes([toWire(envelope)]))) > 0, {
      timeoutMs: 60_000,
      everyMs: 20,
      what: 'somebody to gossip to',
    })
  }

  /** From now on claims to hold this envelope, and gives it to whoever asks; undefined: to hold just what the asker does. */
  offer(envelope: Envelope<EditBody> | undefined): void {
    this.#offer = envelope
  }

  /** Sends it as a revocation is sent to a node that is about to be cut off: unasked. */
  async push(peer: string, envelope: Envelope): Promise<void> {
    await this.#network.request(peer, encodeFrame({ ask: 'take' } satisfies Request, [toWire(envelope)]))
  }

  async stop(): Promise<void> {
    await this.#network.stop()
  }

  #answer(request: Request): Uint8Array {
    const offer = this.#offer
    switch (request.ask) {
      case 'hello':
        return encodeFrame({ mesh: this.#genesis.id, settled: true } satisfies Answer<'hello'>, [toWire(this.#genesis)])
      case 'summary': {
        this.#comparisons += 1
        const chains = offer === undefined ? [] : [chainOf(offer)]
        const digest = offer === undefined ? request.digest : NOBODY
        return encodeFrame({ digest, chains, next: null } satisfies Answer<'summary'>)
      }
      case 'items':
        return encodeFrame({ items: offer === undefined ? [] : [[offer.id, 1]] } satisfies Answer<'items'>)
      case 'fetch':
      case 'log':
        return encodeFrame(request.ask === 'log' ? { next: null } : {}, offer === undefined ? [] : [toWire(offer)])
      case 'status':
        return encodeFrame({ records: [], more: false } satisfies Answer<'status'>)
      default:
        return encodeFrame({ error: 'not here' })
    }
  }
}

function chainOf({ body }: Envelope<EditBody>) {
  return { workspace: body.ws, author: body.by, count: 1, highestN: body.n, hash: NOBODY }
}
