/**
 * Gossipsub, tuned and watched: joins the topics of one mesh, hands arrivals to the owner for a verdict, and reopens
 * the streams that gossipsub loses without noticing. Wired by hand to the links that network.ts reports, so that it
 * needs no identify protocol and can start when the mesh id becomes known. It never decides what is valid.
 */

import { createHash } from 'node:crypto'
import {
  gossipsub,
  type GossipSub,
  type GossipSubComponents,
  StrictNoSign,
  TopicValidatorResult,
} from '@libp2p/gossipsub'
import type { Connection, PeerId, Stream } from '@libp2p/interface'
import { type GossipChannel, type GossipVerdict, MAX_MESSAGE_BYTES, type PeerKey } from '../../ports.ts'
import { peerKeyOf } from './addresses.ts'

/** Room for gossipsub's own control messages beside one of ours. */
const RPC_MAX_BYTES = MAX_MESSAGE_BYTES + 256 * 1024
/** Unsent bytes of one peer, after which its stream is reset; the watchdog opens another. */
const UNSENT_MAX_BYTES = 4 * 1024 * 1024

const RESULTS: { readonly [V in GossipVerdict]: TopicValidatorResult } = {
  accept: TopicValidatorResult.Accept,
  ignore: TopicValidatorResult.Ignore,
  reject: TopicValidatorResult.Reject,
}

export interface GossipRouterOptions {
  /** Protocol name and prefix of the topics; names the network_id and the mesh. */
  readonly protocol: string
  readonly channels: readonly GossipChannel[]
  /** The owner's verdict on a message seen for the first time. Must not throw. */
  readonly judge: (channel: GossipChannel, from: PeerKey, payload: Uint8Array) => Promise<GossipVerdict>
  /** Bytes came on a peer's stream: all it sends counts, since gossipsub itself limits no rate. */
  readonly onBytes: (from: PeerKey, bytes: number) => void
  /** Whether a stream is one of an admitted peer; it is reset otherwise. */
  readonly admits: (stream: Stream, connection: Connection) => boolean
}

export class GossipRouter {
  readonly #options: GossipRouterOptions
  readonly #components: GossipSubComponents
  readonly #router: GossipSub & { start?(): Promise<void>; stop?(): Promise<void> }

  /** Peers without an open stream of ours when last looked at. */
  readonly #mute = new Set<string>()

  constructor(components: GossipSubComponents, options: GossipRouterOptions) {
    this.#options = options
    this.#components = components
    this.#router = gossipsub({
      // Measured against the defaults: half the CPU for each delivery, and a shorter tail with 50 nodes.
      D: 4,
      Dlo: 3,
      Dhi: 6,
      Dout: 1,
      floodPublish: false,
      idontwantMinDataSize: 64 * 1024,
      // What we gossip is signed by its author; a second signature would be checked for each duplicate.
      globalSignaturePolicy: StrictNoSign,
      msgIdFn: (message) => createHash('sha256').update(message.data).digest(),
      fastMsgIdFn: (message) =>
        createHash('sha256')
          .update(message.data ?? '')
          .digest('base64'),
      allowedTopics: options.channels.map((channel) => this.#topic(channel)),
      // Publishing is a hint: nobody listening is no error.
      allowPublishToZeroTopicPeers: true,
      ignoreDuplicatePublishError: true,
      fallbackToFloodsub: false,
      // Many nodes behind one address are a normal site here, and no Sybil attack: keys are granted one by one.
      scoreParams: { IPColocationFactorWeight: 0 },
      maxInboundDataLength: RPC_MAX_BYTES,
      maxOutboundBufferSize: UNSENT_MAX_BYTES,
      maxInboundStreams: 2,
      maxOutboundStreams: 2,
      doPX: false,
      tagMeshPeers: false,
    })(components)
    this.#router.protocols = [options.protocol]
  }

  async start(): Promise<void> {
    await this.#router.start?.()
    await this.#meterStreams()
    for (const channel of this.#options.channels) {
      this.#router.topicValidators.set(this.#topic(channel), async (peerId, message) => {
        const from = peerKeyOf(peerId)
        if (from === undefined) return TopicValidatorResult.Reject
        return RESULTS[await this.#options.judge(channel, from, message.data)]
      })
      this.#router.subscribe(this.#topic(channel))
    }
  }

  async stop(): Promise<void> {
    await this.#router.stop?.()
  }

  addPeer(connection: Connection): void {
    for (const topology of this.#components.registrar.getTopologies(this.#options.protocol)) {
      void topology.onConnect?.(connection.remotePeer, connection)
    }
  }

  removePeer(peerId: PeerId): void {
    this.#mute.delete(peerId.toString())
    for (const topology of this.#components.registrar.getTopologies(this.#options.protocol)) {
      void topology.onDisconnect?.(peerId)
    }
  }

  /**
   * Repairs what gossipsub does not. It never reopens a stream that dies while its connection lives, may keep a dead one
   * of an earlier connection, and when it drops a peer for a broken stream it forgets what that peer subscribed to. So a
   * missing stream of ours is opened, after a second look by taking the peer out and in again; and the stream of a peer
   * that subscribes to nothing is reset, upon which that peer, repairing too, opens another and says so again.
   * To be called now and then for each peer, with its connections.
   */
  repair(connections: readonly Connection[]): void {
    const [first] = connections
    if (!first) return
    const peer = first.remotePeer.toString()
    const streams = connections.flatMap(({ streams: all }) =>
      all.filter(({ protocol }) => protocol === this.#options.protocol),
    )
    if (streams.some((stream) => stream.direction === 'outbound' && stream.writeStatus === 'writable')) {
      this.#mute.delete(peer)
    } else {
      if (this.#mute.has(peer)) this.removePeer(first.remotePeer)
      this.addPeer(first)
      this.#mute.add(peer)
    }
    // Every node of the mesh subscribes to status, whichever way it spreads edits.
    const subscribers = this.#router.getSubscribers(this.#topic('status'))
    if (subscribers.some((peerId) => peerId.equals(first.remotePeer))) return
    for (const stream of streams) if (stream.direction === 'inbound') stream.abort(new Error('subscriptions unknown'))
  }

  /** Resolves with the number of peers it went to. */
  async publish(channel: GossipChannel, payload: Uint8Array): Promise<number> {
    const { recipients } = await this.#router.publish(this.#topic(channel), payload)
    return recipients.length
  }

  /** Puts a byte counter before gossipsub's own stream handler. (Libp2p's stream middleware adds a handler per stream.) */
  async #meterStreams(): Promise<void> {
    const { registrar } = this.#components
    const { protocol, onBytes } = this.#options
    const { handler, options } = registrar.getHandler(protocol)
    const metered: typeof handler = (stream, connection) => {
      if (!this.#options.admits(stream, connection)) return
      const from = peerKeyOf(connection.remotePeer)
      // Only once gossipsub listens: the first listener is handed what has arrived, and gossipsub would miss it.
      setImmediate(() => stream.addEventListener('message', ({ data }) => from && onBytes(from, data.byteLength)))
      return handler(stream, connection)
    }
    await registrar.handle(protocol, metered, { ...options, force: true })
  }

  #topic(channel: GossipChannel): string {
    return `${this.#options.protocol}/${channel}`
  }
}
