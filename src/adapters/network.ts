/**
 * The network adapter: libp2p over TCP with Noise and yamux, behind the Network port. Admits connections, keeps links
 * with peers, spreads messages and bans who misbehaves. It never looks into a message; the owner of the port does.
 * Parts: network/host (libp2p), link (one connection), spread (push), gossip-router, dialler, conduct, guests, visit.
 */

import { createHash } from 'node:crypto'
import type { GossipSubComponents } from '@libp2p/gossipsub'
import type { Connection, Libp2p, PeerId, Stream } from '@libp2p/interface'
import { keyPairFromSeed } from '../core/envelope.ts'
import { MeshError } from '../errors.ts'
import type { Log } from '../log.ts'
import {
  type Clock,
  type GossipChannel,
  type GossipVerdict,
  type KnownPeer,
  MAX_MESSAGE_BYTES,
  type Network,
  type NetworkHandlers,
  type PeerKey,
  type Random,
  type Visit,
} from '../ports.ts'
import { hostPortOf, multiaddrOf, peerIdOf, peerKeyOf } from './network/addresses.ts'
import { Conduct } from './network/conduct.ts'
import { Dialler } from './network/dialler.ts'
import { GossipRouter } from './network/gossip-router.ts'
import { Guests, hostOf } from './network/guests.ts'
import { createHost, GUEST_MUXER, listenError } from './network/host.ts'
import { Link } from './network/link.ts'
import { Spread } from './network/spread.ts'
import { visit } from './network/visit.ts'

/** What happens on the network, for counters. A closed set. */
export type NetworkEvent =
  | 'link_up'
  | 'link_down'
  | 'dial_failed'
  | 'connection_refused'
  | 'guest_admitted'
  | 'gossip_accept'
  | 'gossip_ignore'
  | 'gossip_reject'
  | 'push_dropped'
  | 'rate_limited'
  | 'peer_banned'

export interface Libp2pNetworkOptions {
  /** The node's Ed25519 seed, 32 bytes. */
  readonly keySeed: Uint8Array
  /** Nodes of another network_id do not understand each other. */
  readonly networkId: string
  /** An IP address of this host; `0.0.0.0` or `::` for all. */
  readonly bindAddress: string
  /** 0 takes any free port. */
  readonly bindPort: number
  /** `host:port` that others dial, in place of what the host's interfaces say: behind NAT, or by DNS name. */
  readonly advertise?: readonly string[]
  /** How edits spread: `push` over our own streams (faster by measurement), `gossipsub`, or not at all, and then status neither. */
  readonly gossip: 'push' | 'gossipsub' | 'off'
  /** Connections to keep; listed peers come on top. More cost CPU for each message, fewer lengthen its way. Default 8. */
  readonly targetPeers?: number
  readonly clock: Clock
  readonly random: Random
  readonly log?: Log
  readonly count?: (event: NetworkEvent) => void
}

/** Connections with one peer. Two arise when both dial at once; at a third the oldest, which may be dead, is closed. */
const CONNECTIONS_A_PEER = 2
const DIAL_TIMEOUT_MS = 10_000
const TICK_MS = 10_000
const TARGET_PEERS = 8
const STRANGERS_MAX = 1024

/** Everything that lives from start to stop. */
interface Running {
  readonly handlers: NetworkHandlers
  readonly libp2p: Libp2p
  readonly components: GossipSubComponents
  router: GossipRouter | undefined
  cancelTick: () => void
}

export class Libp2pNetwork implements Network {
  readonly #options: Libp2pNetworkOptions
  readonly #ownKey: PeerKey
  readonly #prefix: string
  readonly #conduct: Conduct
  readonly #spread: Spread
  readonly #dialler: Dialler
  readonly #guests: Guests
  /** Oldest first. */
  readonly #links = new Map<PeerKey, Link[]>()
  /** Peers that the owner was told are connected. */
  readonly #connected = new Set<PeerKey>()
  /** Peers of another network_id that were warned of. */
  readonly #strangers = new Set<PeerKey>()
  #running: Running | undefined
  #starting: Promise<void> | undefined
  #stopping: Promise<void> | undefined
  #meshId: string | undefined

  constructor(options: Libp2pNetworkOptions) {
    this.#options = options
    this.#prefix = protocolPrefix(options.networkId)
    this.#guests = new Guests(options.clock)
    this.#ownKey = keyPairFromSeed(options.keySeed).publicKey
    this.#conduct = new Conduct(options.clock, (peer, fault) => {
      this.#count('peer_banned')
      this.#options.log?.warn('banned a peer for a minute', { peer, fault })
      void this.disconnect(peer)
    })
    this.#spread = new Spread(options.clock, {
      send: (peer, frames) => this.#push(peer, frames),
      judge: (from, payload) => this.#judge('edits', from, payload),
      onMalformed: (from) => this.#conduct.fault(from, 'malformed'),
    })
    this.#dialler = new Dialler({
      clock: options.clock,
      random: options.random,
      targetPeers: options.targetPeers ?? TARGET_PEERS,
      dial: (peer) => this.#dial(peer),
      hangUp: (peer) => void this.disconnect(peer),
    })
  }

  start(handlers: NetworkHandlers, options?: { readonly signal?: AbortSignal }): Promise<void> {
    this.#starting ??= this.#start(handlers, options?.signal).catch((error: unknown) => {
      this.#starting = undefined
      throw error
    })
    return this.#starting
  }

  stop(): Promise<void> {
    this.#stopping ??= this.#stop().finally(() => {
      this.#starting = undefined
      this.#stopping = undefined
    })
    return this.#stopping
  }

  joinMesh(meshId: string): void {
    if (this.#meshId !== undefined && this.#meshId !== meshId) {
      throw new Error(`already in mesh ${this.#meshId}, told to join ${meshId}`)
    }
    if (this.#meshId === meshId) return
    this.#meshId = meshId
    if (this.#running) {
      this.#enterMesh(this.#running, meshId).catch((error: Error) => {
        this.#options.log?.warn('could not join the gossip of the mesh', { mesh: meshId, error: error.message })
      })
    }
  }

  get addresses(): readonly string[] {
    if (this.#options.advertise?.length) return this.#options.advertise
    const bound = this.#running?.libp2p.getMultiaddrs().map(hostPortOf) ?? []
    const all = [...new Set(bound.filter((address) => address !== undefined))]
    // Bound to every interface, loopback is among them, and no use to others unless it is all there is.
    const reachable = all.filter((address) => !/^(127\.|\[::1\])/.test(address))
    return reachable.length > 0 ? reachable : all
  }

  get connected(): readonly PeerKey[] {
    return [...this.#connected]
  }

  setKnownPeers(peers: readonly KnownPeer[]): void {
    this.#dialler.setKnown(peers.filter((peer) => peer.key !== this.#ownKey && peer.addresses.length > 0))
  }

  async publish(channel: GossipChannel, payload: Uint8Array): Promise<number> {
    checkSize(payload)
    const router = this.#running?.router
    if (channel === 'edits' && this.#options.gossip === 'push') return this.#spread.publish(payload)
    return (await router?.publish(channel, payload)) ?? 0
  }

  async request(peer: PeerKey, payload: Uint8Array, options?: { readonly signal?: AbortSignal }): Promise<Uint8Array> {
    checkSize(payload)
    const link = this.#readyLink(peer)
    if (!link) throw new MeshError('unavailable', `peer ${peer} is not connected`)
    return link.request(payload, options?.signal)
  }

  visit(peer: KnownPeer, options?: { readonly signal?: AbortSignal }): Promise<Visit> {
    return visitPeer(this.#options, peer, options?.signal)
  }

  disconnect(peer: PeerKey): Promise<void> {
    for (const link of this.#linksOf(peer)) link.close('disconnected by this node')
    return Promise.resolve()
  }

  // -------------------------------------------------------------------------------------------- life

  async #start(handlers: NetworkHandlers, signal?: AbortSignal): Promise<void> {
    signal?.throwIfAborted()
    const libp2p = await createHost(this.#options, (peerId, isInbound) => this.#refuses(handlers, peerId, isInbound))
    const running: Running = {
      handlers,
      libp2p,
      components: libp2p.services.parts.components,
      router: undefined,
      cancelTick: () => undefined,
    }
    this.#running = running
    libp2p.addEventListener('connection:open', (event) => void this.#onConnection(event.detail))
    // It remembers each key that it has met; made up by the thousand they would add up. We never ask it.
    libp2p.addEventListener('peer:disconnect', ({ detail }) => {
      void libp2p.peerStore.delete(detail).catch(() => undefined)
    })
    try {
      await libp2p.handle(
        this.#requestProtocol,
        (stream, connection) => this.#linkFor(stream, connection)?.accept(stream),
        { maxInboundStreams: 2 },
      )
      await libp2p.handle(joinProtocol(this.#options.networkId), (stream, connection) =>
        this.#guests.accept(stream, connection),
      )
      await libp2p.start()
      if (this.#meshId !== undefined) await this.#enterMesh(running, this.#meshId)
      signal?.throwIfAborted()
    } catch (error) {
      await this.#teardown(running)
      throw listenError(error, this.#options)
    }
    this.#scheduleTick(running)
    this.#dialler.start()
  }

  async #stop(): Promise<void> {
    await this.#starting?.catch(() => undefined)
    if (this.#running) await this.#teardown(this.#running)
  }

  async #teardown(running: Running): Promise<void> {
    running.cancelTick()
    this.#dialler.stop()
    this.#guests.clear()
    for (const peer of this.#links.keys()) await this.disconnect(peer)
    await running.router?.stop()
    await running.libp2p.stop()
    this.#spread.clear()
    this.#running = undefined
  }

  /** As soon as the key is proven. Whoever is no node may still turn out to be a guest, when its muxer is known. */
  #refuses(handlers: NetworkHandlers, peerId: PeerId, isInbound: boolean): boolean {
    const peer = peerKeyOf(peerId)
    if (peer !== undefined && this.#admits(handlers, peer)) return false
    const mayBeGuest = isInbound && peer !== undefined && !this.#conduct.banned(peer) && !this.#guests.isFull
    if (mayBeGuest && handlers.onGuest !== undefined) return false
    this.#countRefusal(peer ?? peerId.toString())
    return true
  }

  #countRefusal(peer: string): void {
    this.#count('connection_refused')
    this.#options.log?.debug('refused a connection', { peer })
  }

  async #enterMesh(running: Running, meshId: string): Promise<void> {
    const { gossip } = this.#options
    if (gossip === 'off') return
    const links = () => [...this.#links.values()].flat().filter((link) => link.ready)
    if (gossip === 'push') {
      await running.libp2p.handle(
        this.#pushProtocol(meshId),
        (stream, connection) => {
          const link = this.#linkFor(stream, connection)
          link?.acceptPush(stream)
          // The peer joined after we met: now it understands ours.
          if (link) void this.#openPush(link)
        },
        { maxInboundStreams: 2 },
      )
      await Promise.all(links().map((link) => this.#openPush(link)))
    }
    const router = new GossipRouter(running.components, {
      protocol: `${this.#prefix}/gossip/${meshId}/1`,
      channels: gossip === 'push' ? ['status'] : ['status', 'edits'],
      judge: (channel, from, payload) => this.#judge(channel, from, payload),
      onBytes: (from, bytes) => void this.#withinRate(from, bytes),
      admits: (stream, connection) => this.#linkFor(stream, connection) !== undefined,
    })
    await router.start()
    if (this.#running !== running) return router.stop()
    running.router = router
    for (const link of links()) router.addPeer(link.connection)
  }

  #scheduleTick(running: Running): void {
    const { clock, random } = this.#options
    running.cancelTick = clock.after(TICK_MS * (0.8 + 0.4 * random()), () => {
      for (const [peer, links] of this.#links) {
        for (const link of links) {
          if (this.#admits(running.handlers, peer)) link.tick()
          else link.close('no longer admitted')
          if (link.ready) void this.#openPush(link)
        }
        running.router?.repair(links.filter((link) => link.ready).map((link) => link.connection))
      }
      this.#scheduleTick(running)
    })
  }

  // -------------------------------------------------------------------------------------------- links

  async #dial(peer: KnownPeer): Promise<void> {
    const running = this.#running
    if (!running) return
    const peerId = peerIdOf(peer.key)
    try {
      const identity = `/p2p/${peerId.toString()}`
      const targets = peer.addresses.map((address) => multiaddrOf(address).encapsulate(identity))
      const connection = await running.libp2p.dial(targets, { signal: AbortSignal.timeout(DIAL_TIMEOUT_MS) })
      // A peer that refuses us lets the dial succeed and then closes: only a greeted link counts.
      await this.#linkOn(connection)?.open(this.#requestProtocol)
    } catch (error) {
      this.#count('dial_failed')
      this.#forget(peerId)
      this.#options.log?.debug('could not reach a peer', {
        peer: peer.key,
        addresses: peer.addresses,
        error: (error as Error).message,
      })
      throw error
    }
  }

  async #onConnection(connection: Connection): Promise<void> {
    const peer = peerKeyOf(connection.remotePeer)
    const running = this.#running
    if (peer === undefined || !running) return connection.abort(new Error('not admitted'))
    if (connection.multiplexer === GUEST_MUXER) return this.#onGuest(running, connection, peer)
    if (!this.#admits(running.handlers, peer)) {
      this.#countRefusal(peer)
      return connection.abort(new Error('not admitted'))
    }
    const link = new Link(peer, connection, this.#options.clock, {
      admits: (bytes) => this.#withinRate(peer, bytes),
      onRequest: (request) => this.#answer(peer, request),
      onPush: (frame) => this.#spread.onFrame(peer, frame),
      onClosed: (reason, fault) => this.#onClosed(link, reason, fault),
    })
    this.#links.set(peer, [...(this.#links.get(peer) ?? []), link])
    if (this.#linksOf(peer).length > CONNECTIONS_A_PEER) this.#linksOf(peer)[0]?.close('replaced by newer connections')
    try {
      await link.open(this.#requestProtocol)
    } catch (error) {
      const stranger = (error as Error).name === 'UnsupportedProtocolError'
      if (stranger) this.#warnOfStranger(peer)
      return link.close(stranger ? 'speaks another network_id or is no mesh-node' : (error as Error).message)
    }
    if (!link.ready) return
    if (!this.#connected.has(peer)) {
      this.#connected.add(peer)
      this.#strangers.delete(peer)
      this.#count('link_up')
      this.#options.log?.info('connected', { peer, address: hostPortOf(connection.remoteAddr) })
      this.#dialler.onUp(peer)
      running.handlers.onConnected(peer)
    }
    running.router?.addPeer(connection)
    await this.#openPush(link)
  }

  #onGuest({ handlers }: Running, connection: Connection, peer: PeerKey): void {
    const address = hostPortOf(connection.remoteAddr) ?? ''
    const talk = connection.direction === 'inbound' ? handlers.onGuest?.({ key: peer, address }) : undefined
    if (talk !== undefined && this.#guests.welcome(connection, hostOf(address), talk))
      return this.#count('guest_admitted')
    this.#countRefusal(peer)
    connection.abort(new Error('no guests now'))
  }

  #onClosed(link: Link, reason: string, fault: boolean): void {
    const { peer } = link
    const left = this.#linksOf(peer).filter((other) => other !== link)
    if (left.length > 0) this.#links.set(peer, left)
    else {
      this.#links.delete(peer)
      this.#forget(link.connection.remotePeer)
    }
    if (!left.some((other) => other.pushes)) this.#spread.removePeer(peer)
    if (fault) this.#conduct.fault(peer, 'malformed')
    if (left.some((other) => other.ready) || !this.#connected.delete(peer)) return
    this.#count('link_down')
    this.#options.log?.info('disconnected', { peer, reason })
    this.#running?.router?.removePeer(link.connection.remotePeer)
    this.#dialler.onDown(peer)
    this.#running?.handlers.onDisconnected(peer)
  }

  /** libp2p would keep a record of every peer that it ever met. Whom to dial, and where, the dialler knows. */
  #forget(peerId: PeerId): void {
    const store = this.#running?.libp2p.peerStore
    store?.delete(peerId).catch((error: Error) => {
      this.#options.log?.debug('the record of a peer could not be dropped', { error: error.message })
    })
  }

  /** Opens our push stream on a link, when both sides are in the mesh and it is not open. */
  async #openPush(link: Link): Promise<void> {
    if (this.#meshId === undefined || this.#options.gossip !== 'push') return
    try {
      await link.openPush(this.#pushProtocol(this.#meshId))
      if (link.pushes) this.#spread.addPeer(link.peer)
    } catch (error) {
      // The peer has not joined the mesh yet; when it has, it opens its stream, and we follow.
      if ((error as Error).name !== 'UnsupportedProtocolError') link.close((error as Error).message)
    }
  }

  /** Once for each peer: it will be dialled again and again. */
  #warnOfStranger(peer: PeerKey): void {
    if (this.#strangers.has(peer)) return
    if (this.#strangers.size < STRANGERS_MAX) this.#strangers.add(peer)
    this.#options.log?.warn('a peer speaks another network_id or is no mesh-node', { peer })
  }

  #linksOf(peer: PeerKey): readonly Link[] {
    return this.#links.get(peer) ?? []
  }

  #linkOn(connection: Connection): Link | undefined {
    const peer = peerKeyOf(connection.remotePeer)
    return peer === undefined ? undefined : this.#linksOf(peer).find((link) => link.connection.id === connection.id)
  }

  /** The link that a stream belongs to. A guest that opens any but its own is dismissed; a stream without a link is reset. */
  #linkFor(stream: Stream, connection: Connection): Link | undefined {
    const link = this.#linkOn(connection)
    if (link === undefined) {
      stream.abort(new Error('not admitted'))
      this.#guests.dismiss(connection)
    }
    return link
  }

  #readyLink(peer: PeerKey): Link | undefined {
    return this.#linksOf(peer).findLast((link) => link.ready)
  }

  // -------------------------------------------------------------------------------------------- messages

  #push(peer: PeerKey, frames: readonly Uint8Array[]): boolean {
    const sent =
      this.#linksOf(peer)
        .findLast((link) => link.pushes)
        ?.push(frames) ?? false
    if (!sent) this.#count('push_dropped')
    return sent
  }

  /** The owner's verdict; a handler that throws in spite of its contract blames nobody. */
  async #judge(channel: GossipChannel, from: PeerKey, payload: Uint8Array): Promise<GossipVerdict> {
    const handlers = this.#running?.handlers
    if (!handlers) return 'ignore'
    let verdict: GossipVerdict = 'reject'
    try {
      if (payload.length <= MAX_MESSAGE_BYTES) verdict = await handlers.onGossip(channel, from, payload)
    } catch (error) {
      this.#options.log?.warn('the gossip handler threw', { channel, error: String(error) })
      verdict = 'ignore'
    }
    this.#count(`gossip_${verdict}`)
    if (verdict === 'reject') this.#conduct.fault(from, 'rejected')
    return verdict
  }

  async #answer(from: PeerKey, request: Uint8Array): Promise<Uint8Array | undefined> {
    try {
      const answer = await this.#running?.handlers.onRequest(from, request)
      if (!answer || answer.length <= MAX_MESSAGE_BYTES) return answer
      this.#options.log?.warn('the answer to a request is too large', { peer: from, bytes: answer.length })
    } catch (error) {
      this.#options.log?.warn('the request handler threw', { peer: from, error: String(error) })
    }
    return undefined
  }

  #withinRate(peer: PeerKey, bytes: number): boolean {
    if (this.#conduct.admits(peer, bytes)) return true
    this.#count('rate_limited')
    return false
  }

  #admits(handlers: NetworkHandlers, peer: PeerKey): boolean {
    if (this.#conduct.banned(peer)) return false
    try {
      return handlers.allows(peer)
    } catch (error) {
      this.#options.log?.warn('the admission handler threw', { peer, error: String(error) })
      return false
    }
  }

  // -------------------------------------------------------------------------------------------- names

  get #requestProtocol(): string {
    return `${this.#prefix}/request/1`
  }

  #pushProtocol(meshId: string): string {
    return `${this.#prefix}/push/${meshId}/1`
  }

  #count(event: NetworkEvent): void {
    this.#options.count?.(event)
  }
}

function protocolPrefix(networkId: string): string {
  return `/nxmesh/${createHash('sha256').update(networkId).digest('hex').slice(0, 16)}`
}

function joinProtocol(networkId: string): string {
  return `${protocolPrefix(networkId)}/join/1`
}

/** Goes to a peer as a guest. @throws MeshError `unavailable`. */
export function visitPeer(
  { keySeed, networkId }: Pick<Libp2pNetworkOptions, 'keySeed' | 'networkId'>,
  peer: KnownPeer,
  signal?: AbortSignal,
): Promise<Visit> {
  return visit(keySeed, joinProtocol(networkId), peer, signal)
}

function checkSize(payload: Uint8Array): void {
  if (payload.length <= MAX_MESSAGE_BYTES) return
  throw new MeshError('too_large', `a message of ${payload.length} bytes is over the limit of ${MAX_MESSAGE_BYTES}`, {
    hint: 'Send it in several parts.',
  })
}
