/**
 * The Network port in memory, for simulations: nodes on one imagined wire with seeded delays, losses and cuts, on an
 * injected clock. Whom to dial, what to pass on and whom to ban is decided by the very parts that the real adapter
 * uses; only sockets, and gossipsub, are imagined. test/contract/network.test.ts holds both to one behaviour.
 */

import { Conduct } from '../../src/adapters/network/conduct.ts'
import { Dialler } from '../../src/adapters/network/dialler.ts'
import { Spread } from '../../src/adapters/network/spread.ts'
import { MeshError } from '../../src/errors.ts'
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
} from '../../src/ports.ts'

const CHANNELS: readonly GossipChannel[] = ['edits', 'status']
const REQUEST_TIMEOUT_MS = 10_000

export interface WireOptions {
  readonly clock: Clock
  /** Decides delays, losses and whom nodes dial: equal seeds give equal runs. */
  readonly random: Random
  /** Shortest and longest way of a message, ms. Default 1 to 5. */
  readonly delayMs?: readonly [min: number, max: number]
  /** Share of messages that are lost without a trace, 0 to 1. Default 0. */
  readonly lossRate?: number
}

export interface MemoryNodeOptions {
  readonly key: PeerKey
  readonly networkId?: string
  readonly gossip?: 'on' | 'off'
  readonly bindPort?: number
  readonly targetPeers?: number
}

/** Two nodes that are connected. A new connection of the same two is another object. */
interface Circuit {
  readonly ends: readonly [MemoryNetwork, MemoryNetwork]
  /** When the last message to each end arrives: a connection keeps its order. */
  readonly arrivesAtMs: [number, number]
  /** Called when it ends: rejects the requests on it. */
  readonly onEnd: Set<() => void>
  open: boolean
}

/** The wire that memory nodes are on. */
export class MemoryWire {
  readonly options: WireOptions
  readonly #listening = new Map<number, MemoryNetwork>()
  readonly #cuts = new Set<string>()
  #lastPort = 40_000

  constructor(options: WireOptions) {
    this.options = options
  }

  node(options: MemoryNodeOptions): MemoryNetwork {
    return new MemoryNetwork(this, options)
  }

  /** Ends what connects two nodes, and lets nothing through until healed. */
  cut(a: PeerKey, b: PeerKey): void {
    this.#cuts.add(pair(a, b))
    for (const node of this.#listening.values()) if (node.key === a) node.drop(b)
  }

  /** Cuts every node of one side off from every node of the other. */
  partition(side: readonly PeerKey[], other: readonly PeerKey[]): void {
    for (const a of side) for (const b of other) this.cut(a, b)
  }

  /** Undoes one cut, or all. */
  heal(a?: PeerKey, b?: PeerKey): void {
    if (a !== undefined && b !== undefined) this.#cuts.delete(pair(a, b))
    else this.#cuts.clear()
  }

  isCut(a: PeerKey, b: PeerKey): boolean {
    return this.#cuts.has(pair(a, b))
  }

  listen(port: number, node: MemoryNetwork): number {
    if (this.#listening.has(port)) {
      throw new MeshError('port_in_use', `127.0.0.1:${port} is taken by another node`, {
        field: 'bind_port',
        value: String(port),
      })
    }
    const taken = port || ++this.#lastPort
    this.#listening.set(taken, node)
    return taken
  }

  unlisten(port: number): void {
    this.#listening.delete(port)
  }

  at(address: string): MemoryNetwork | undefined {
    return this.#listening.get(Number(address.slice(address.lastIndexOf(':') + 1)))
  }

  /** How long the next message takes, or undefined when it is lost. */
  travelMs(): number | undefined {
    const { random, delayMs = [1, 5], lossRate = 0 } = this.options
    if (lossRate > 0 && random() < lossRate) return undefined
    return delayMs[0] + random() * (delayMs[1] - delayMs[0])
  }
}

export class MemoryNetwork implements Network {
  readonly key: PeerKey
  readonly #wire: MemoryWire
  readonly #options: MemoryNodeOptions
  readonly #clock: Clock
  readonly #conduct: Conduct
  readonly #dialler: Dialler
  readonly #spreads: ReadonlyMap<GossipChannel, Spread>
  readonly #circuits = new Map<PeerKey, Circuit>()
  #handlers: NetworkHandlers | undefined
  #port = 0
  #meshId: string | undefined

  constructor(wire: MemoryWire, options: MemoryNodeOptions) {
    const { clock, random } = wire.options
    this.key = options.key
    this.#wire = wire
    this.#options = options
    this.#clock = clock
    this.#conduct = new Conduct(clock, (peer) => this.drop(peer))
    this.#dialler = new Dialler({
      clock,
      random,
      targetPeers: options.targetPeers ?? 8,
      dial: (peer) => this.#dial(peer),
      hangUp: (peer) => this.drop(peer),
    })
    this.#spreads = new Map(CHANNELS.map((channel) => [channel, this.#makeSpread(channel)]))
  }

  async start(handlers: NetworkHandlers, options?: { readonly signal?: AbortSignal }): Promise<void> {
    options?.signal?.throwIfAborted()
    if (this.#handlers) return
    this.#port = this.#wire.listen(this.#port || (this.#options.bindPort ?? 0), this)
    this.#handlers = handlers
    this.#dialler.start()
  }

  async stop(): Promise<void> {
    if (!this.#handlers) return
    this.#dialler.stop()
    this.#wire.unlisten(this.#port)
    for (const peer of this.#circuits.keys()) this.drop(peer)
    for (const spread of this.#spreads.values()) spread.clear()
    this.#handlers = undefined
  }

  joinMesh(meshId: string): void {
    this.#meshId = meshId
    for (const circuit of this.#circuits.values()) meet(circuit)
  }

  get addresses(): readonly string[] {
    return this.#handlers ? [`127.0.0.1:${this.#port}`] : []
  }

  get connected(): readonly PeerKey[] {
    return [...this.#circuits.keys()]
  }

  setKnownPeers(peers: readonly KnownPeer[]): void {
    this.#dialler.setKnown(peers.filter((peer) => peer.key !== this.key && peer.addresses.length > 0))
  }

  async publish(channel: GossipChannel, payload: Uint8Array): Promise<number> {
    checkSize(payload)
    if (!this.#handlers || this.#options.gossip === 'off') return 0
    return this.#spreads.get(channel)?.publish(payload) ?? 0
  }

  async request(peer: PeerKey, payload: Uint8Array, options?: { readonly signal?: AbortSignal }): Promise<Uint8Array> {
    checkSize(payload)
    const { promise, resolve, reject } = Promise.withResolvers<Uint8Array>()
    const signal = options?.signal
    signal?.throwIfAborted()
    const circuit = this.#circuits.get(peer)
    if (!circuit) throw new MeshError('unavailable', `peer ${peer} is not connected`)
    const abort = () => reject(signal?.reason)
    const lost = () => reject(new MeshError('unavailable', `lost peer ${peer}`))
    const expire = () => reject(new MeshError('timeout', `peer ${peer} did not answer in ${REQUEST_TIMEOUT_MS} ms`))
    const cancelTimeout = this.#clock.after(REQUEST_TIMEOUT_MS, expire)
    signal?.addEventListener('abort', abort, { once: true })
    circuit.onEnd.add(lost)
    try {
      this.#carry(circuit, (other) => {
        void other.#answer(this.key, payload).then((answer) => {
          other.#carry(circuit, () => {
            if (answer) resolve(answer)
            else reject(new MeshError('unavailable', `peer ${peer} could not answer`))
          })
        })
      })
      return await promise
    } finally {
      cancelTimeout()
      circuit.onEnd.delete(lost)
      signal?.removeEventListener('abort', abort)
    }
  }

  async visit(peer: KnownPeer): Promise<Visit> {
    const other = peer.addresses.map((address) => this.#wire.at(address)).find((node) => node?.key === peer.key)
    const unreachable = new MeshError('unavailable', `cannot visit ${peer.key}`)
    const isReached = other !== undefined && !this.#wire.isCut(this.key, other.key)
    const talk = isReached ? other.#handlers?.onGuest?.({ key: this.key, address: 'memory' }) : undefined
    if (talk === undefined) throw unreachable
    return {
      ask: async (question) => {
        await this.#clock.sleep(this.#wire.travelMs() ?? 0)
        const answer = await talk(question)
        if (answer === undefined) throw unreachable
        return answer
      },
      close: async () => undefined,
    }
  }

  async disconnect(peer: PeerKey): Promise<void> {
    this.drop(peer)
  }

  /** Ends the connection with a peer at both ends, at once. */
  drop(peer: PeerKey): void {
    const circuit = this.#circuits.get(peer)
    if (!circuit) return
    circuit.open = false
    for (const end of circuit.ends) end.#lose(otherEnd(circuit, end).key)
  }

  async #dial(peer: KnownPeer): Promise<void> {
    const other = peer.addresses.map((address) => this.#wire.at(address)).find((node) => node?.key === peer.key)
    await this.#clock.sleep(this.#wire.options.delayMs?.[1] ?? 5)
    if (!other || !this.#reaches(other)) throw new MeshError('unavailable', `could not reach peer ${peer.key}`)
    if (this.#circuits.has(other.key)) return
    const circuit: Circuit = { ends: [this, other], arrivesAtMs: [0, 0], onEnd: new Set(), open: true }
    for (const end of circuit.ends) end.#gain(otherEnd(circuit, end).key, circuit)
    meet(circuit)
  }

  #reaches(other: MemoryNetwork): boolean {
    const sameNetwork = this.#options.networkId === other.#options.networkId
    return sameNetwork && !this.#wire.isCut(this.key, other.key) && this.#admits(other.key) && other.#admits(this.key)
  }

  #admits(peer: PeerKey): boolean {
    return !this.#conduct.banned(peer) && (this.#handlers?.allows(peer) ?? false)
  }

  #gain(peer: PeerKey, circuit: Circuit): void {
    this.#circuits.set(peer, circuit)
    this.#dialler.onUp(peer)
    this.#handlers?.onConnected(peer)
  }

  #lose(peer: PeerKey): void {
    const circuit = this.#circuits.get(peer)
    if (!circuit) return
    this.#circuits.delete(peer)
    for (const reject of circuit.onEnd) reject()
    for (const spread of this.#spreads.values()) spread.removePeer(peer)
    this.#dialler.onDown(peer)
    this.#handlers?.onDisconnected(peer)
  }

  /** Takes something to the other end of a circuit, in order and in its time, unless it is lost or the circuit ends. */
  #carry(circuit: Circuit, arrive: (other: MemoryNetwork) => void): void {
    const travelMs = this.#wire.travelMs()
    if (travelMs === undefined) return
    const other = otherEnd(circuit, this)
    const side = circuit.ends[0] === other ? 0 : 1
    const now = this.#clock.monotonic()
    const at = Math.max(now + travelMs, circuit.arrivesAtMs[side])
    circuit.arrivesAtMs[side] = at
    this.#clock.after(at - now, () => {
      if (circuit.open) arrive(other)
    })
  }

  async #answer(from: PeerKey, request: Uint8Array): Promise<Uint8Array | undefined> {
    try {
      const answer = await this.#handlers?.onRequest(from, request)
      return answer && answer.length <= MAX_MESSAGE_BYTES ? answer : undefined
    } catch {
      return undefined
    }
  }

  #makeSpread(channel: GossipChannel): Spread {
    return new Spread(this.#clock, {
      send: (peer, frames) => {
        const circuit = this.#circuits.get(peer)
        if (!circuit) return false
        for (const frame of frames) {
          this.#carry(circuit, (other) => {
            if (other.#conduct.admits(this.key, frame.length)) other.#spreads.get(channel)?.onFrame(this.key, frame)
          })
        }
        return true
      },
      judge: (from, payload) => this.#judge(channel, from, payload),
      onMalformed: (from) => this.#conduct.fault(from, 'malformed'),
    })
  }

  async #judge(channel: GossipChannel, from: PeerKey, payload: Uint8Array): Promise<GossipVerdict> {
    try {
      const verdict = (await this.#handlers?.onGossip(channel, from, payload)) ?? 'ignore'
      if (verdict === 'reject') this.#conduct.fault(from, 'rejected')
      return verdict
    } catch {
      return 'ignore'
    }
  }

  /** What spreading holds now, of each channel, by the names of SPREAD_LIMITS. */
  get footprints(): readonly Spread['footprint'][] {
    return [...this.#spreads.values()].map(({ footprint }) => footprint)
  }

  /** Whether the two spread messages to each other. */
  gossipsWith(other: MemoryNetwork): boolean {
    const on = this.#options.gossip !== 'off' && other.#options.gossip !== 'off'
    return on && this.#meshId !== undefined && this.#meshId === other.#meshId
  }

  addSpreadPeer(peer: PeerKey): void {
    for (const spread of this.#spreads.values()) spread.addPeer(peer)
  }
}

/** Lets the ends of a circuit gossip with each other once both are in one mesh. */
function meet(circuit: Circuit): void {
  const [a, b] = circuit.ends
  if (!a.gossipsWith(b)) return
  a.addSpreadPeer(b.key)
  b.addSpreadPeer(a.key)
}

function otherEnd(circuit: Circuit, end: MemoryNetwork): MemoryNetwork {
  return circuit.ends[0] === end ? circuit.ends[1] : circuit.ends[0]
}

function pair(a: PeerKey, b: PeerKey): string {
  return a < b ? `${a} ${b}` : `${b} ${a}`
}

function checkSize(payload: Uint8Array): void {
  if (payload.length <= MAX_MESSAGE_BYTES) return
  throw new MeshError('too_large', `a message of ${payload.length} bytes is over the limit of ${MAX_MESSAGE_BYTES}`)
}
