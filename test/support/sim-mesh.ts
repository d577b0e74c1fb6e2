/**
 * A mesh of real MeshNodes in one process, on a virtual clock, an imagined wire and stores in memory: whatever a seed brings
 * about, it brings about again. Counts what nodes ask of each other. Used by test/sim alone.
 */

import { createHash } from 'node:crypto'
import { onTestFailed, onTestFinished } from 'vitest'
import { loadConfig, type Config } from '../../src/config/config.ts'
import { toWire } from '../../src/core/codec.ts'
import type { Envelope, KeyPair, Op } from '../../src/core/envelope.ts'
import type { Log } from '../../src/log.ts'
import { createMetrics, type Metrics } from '../../src/metrics.ts'
import { MeshNode } from '../../src/node.ts'
import type { GossipChannel, KnownPeer, Network, NetworkHandlers, PeerKey, Random, Visit } from '../../src/ports.ts'
import type { Outcome } from '../../src/replica.ts'
import type { PeerState } from '../../src/status/status.ts'
import { keyOf, TestMesh } from './authors.ts'
import { diceFrom, type Dice } from './histories.ts'
import { MemoryWire, type MemoryNetwork } from './memory-network.ts'
import { MemoryStore } from './memory-store.ts'
import { silentLog } from './silent-log.ts'
import { VirtualClock } from './virtual-clock.ts'

export interface SimOptions {
  /** Decides all that is random. The environment's NXMESH_SEED replaces it, unless NXMESH_RUNS asks for several. */
  readonly seed: number
  /** What the mesh begins with, where that is more than one root and one owner; then its own makes nothing of use. */
  readonly founding?: Founding
  readonly delayMs?: readonly [min: number, max: number]
  readonly lossRate?: number
  readonly gossip?: boolean
  readonly targetPeers?: number
  readonly syncIntervalSeconds?: number
  /** Stores of their own for members that `started` makes. */
  readonly stores?: Readonly<Record<string, MemoryStore>>
}

/** The first envelopes of a mesh, in causal order, and its id. */
export interface Founding {
  readonly id: string
  readonly founding: readonly Envelope[]
}

export interface MemberOptions {
  /** Names of the members whose keys and addresses it is given. */
  readonly listed?: readonly string[]
  readonly store?: MemoryStore
  /** Another mesh's id, or '' for none. */
  readonly meshId?: string
  /** Whether it is given the founding envelopes. */
  readonly founder?: boolean
  readonly log?: Log
  /** Another member's key: a clone. */
  readonly key?: KeyPair
  /** Stands between the node and its network. */
  readonly tap?: (network: Network) => Network
}

/** One host: its key and its disk outlive its processes. */
export class SimMember {
  readonly name: string
  readonly key: KeyPair
  readonly port: number
  store: MemoryStore
  /** The process that runs now. */
  node: MeshNode | undefined
  network: CountedNetwork | undefined
  /** What lies below that, and its tap. */
  line: MemoryNetwork | undefined
  readonly options: MemberOptions

  constructor(name: string, port: number, options: MemberOptions) {
    this.name = name
    this.key = options.key ?? keyOf(`sim ${name}`)
    this.port = port
    this.store = options.store ?? new MemoryStore()
    this.options = options
  }

  get publicKey(): PeerKey {
    return this.key.publicKey
  }

  /** The running node; throws when it is down. */
  get up(): MeshNode {
    if (this.node === undefined) throw new Error(`${this.name} is down`)
    return this.node
  }

  get hash(): string {
    return this.up.replica.state.hash()
  }

  stateOf(other: SimMember): PeerState | undefined {
    return this.up.status.peers().find(({ key }) => key === other.publicKey)?.state
  }

  isConnectedTo(other: SimMember): boolean {
    return this.network?.connected.includes(other.publicKey) ?? false
  }
}

/** What went over the wire, so that two runs of one seed can be compared and storms are seen. */
export interface Traffic {
  requests: number
  bytes: number
}

export class SimMesh {
  readonly seed: number
  readonly clock = new VirtualClock()
  readonly dice: Dice
  readonly random: Random
  readonly wire: MemoryWire
  /** Mutable, so that weather may change in the middle of a run. */
  readonly weather: { delayMs: readonly [number, number]; lossRate: number }
  readonly founding: TestMesh
  readonly members = new Map<string, SimMember>()
  readonly traffic = new Map<PeerKey, Traffic>()
  /** Gossip messages that any member made. */
  published = 0
  readonly #options: SimOptions
  readonly #founding: Founding
  readonly #metrics: Metrics = createMetrics()
  readonly #trace = createHash('sha256')
  #lastPort = 41_000

  /** @param granted names of the members that the founding envelopes grant. */
  constructor(granted: readonly string[], options: SimOptions) {
    const { NXMESH_SEED: only, NXMESH_RUNS: runs } = process.env
    this.seed = only === undefined || runs !== undefined ? options.seed : Number(only)
    this.#options = options
    this.dice = diceFrom(this.seed)
    this.random = () => this.dice.next()
    this.weather = { delayMs: options.delayMs ?? [1, 20], lossRate: options.lossRate ?? 0 }
    const { weather, clock, random } = this
    this.wire = new MemoryWire({
      clock,
      random,
      get delayMs() {
        return weather.delayMs
      },
      get lossRate() {
        return weather.lossRate
      },
    })
    this.founding = new TestMesh(granted.map((name) => ({ key: keyOf(`sim ${name}`).publicKey, name, zones: ['*'] })))
    this.#founding = options.founding ?? this.founding
    onTestFailed(() => console.error(`replay with NXMESH_SEED=${this.seed}`))
    onTestFinished(() => this.stop())
  }

  /** A mesh of so many granted members that know the first two, started and settled. */
  static async started(count: number, options: SimOptions): Promise<SimMesh> {
    const names = Array.from({ length: count }, (_, index) => `n${index}`)
    const mesh = new SimMesh(names, options)
    for (const [index, name] of names.entries()) {
      const store = options.stores?.[name]
      mesh.add(name, {
        founder: index === 0,
        listed: names.slice(0, 2).filter((other) => other !== name),
        ...(store === undefined ? {} : { store }),
      })
    }
    await mesh.startAll()
    await mesh.converge(120_000)
    return mesh
  }

  add(name: string, options: MemberOptions = {}): SimMember {
    this.#lastPort += 1
    const member = new SimMember(name, this.#lastPort, options)
    this.members.set(name, member)
    return member
  }

  get(name: string): SimMember {
    const member = this.members.get(name)
    if (member === undefined) throw new Error(`no member ${name}`)
    return member
  }

  get all(): SimMember[] {
    return [...this.members.values()]
  }

  get running(): SimMember[] {
    return this.all.filter(({ node }) => node !== undefined)
  }

  async start(member: SimMember): Promise<void> {
    const { gossip = true, targetPeers = 6 } = this.#options
    const { publicKey: key, port: bindPort } = member
    const plain = this.wire.node({ key, bindPort, targetPeers, gossip: gossip ? 'on' : 'off' })
    member.line = plain
    member.network = new CountedNetwork(member.options.tap?.(plain) ?? plain, this.#count(key))
    const options = {
      store: member.store,
      network: member.network,
      clock: this.clock,
      random: this.random,
      serveApi: false,
    }
    const founding = member.options.founder === true ? this.#founding.founding.map(toWire) : []
    const log = member.options.log ?? silentLog()
    member.node = new MeshNode({
      config: this.#configOf(member),
      key: member.key,
      log,
      metrics: this.#metrics,
      adapters: options,
      founding,
    })
    await member.node.start()
  }

  /** An orderly stop: says goodbye. */
  async stopMember(member: SimMember): Promise<void> {
    const { node } = member
    member.node = undefined
    await node?.stop()
  }

  /** As kill -9 does: nothing is said any more. */
  async kill(member: SimMember): Promise<void> {
    await member.network?.stop()
    await this.stopMember(member)
  }

  async restart(member: SimMember): Promise<void> {
    await this.stopMember(member)
    await this.start(member)
  }

  /** Kills it and takes its disk away. */
  async wipe(member: SimMember): Promise<void> {
    await this.kill(member)
    member.store = new MemoryStore()
  }

  async startAll(): Promise<void> {
    for (const member of this.all) if (member.node === undefined) await this.start(member)
  }

  async stop(): Promise<void> {
    for (const member of this.running) await this.stopMember(member)
  }

  /** Submits as an operator does, through the API's gate. */
  async submit(member: SimMember, ...envelopes: readonly Envelope[]): Promise<Outcome[]> {
    return await member.up.replica.submit(envelopes.map(toWire), 'api')
  }

  /** A new editor, whose grant is submitted to the first running node. */
  async author(name: string): Promise<Author> {
    const by = keyOf(`sim ${name}`)
    const grant = this.founding.grant(by.publicKey, 'editor', { name })
    await this.submit(this.running[0] as SimMember, grant)
    return { by, grant: grant.id }
  }

  /** An edit by the author (the owner, unless told), on what `member` shows of the resource, submitted there. */
  async edit(member: SimMember, path: string, ops: readonly Op[], author?: Author): Promise<Envelope> {
    const deps = (member.up.replica.state.resource(path)?.heads ?? []).slice(0, 16)
    const envelope = this.founding.edit(path, ops, { deps, ...author })
    await this.submit(member, envelope)
    return envelope
  }

  /** Whether all of these hold the same envelopes. */
  areEqual(members: readonly SimMember[] = this.running): boolean {
    return new Set(members.map(({ up }) => up.sync.digest())).size <= 1
  }

  /** Lets time pass until all hold the same envelopes; the virtual ms it took. Then proves that they show the same state. */
  async converge(limitMs: number, members?: readonly SimMember[]): Promise<number> {
    const ms = await this.clock.until(
      () => this.areEqual(members) && (members ?? this.running).every(({ up }) => up.isSettled),
      limitMs,
      `convergence of ${(members ?? this.running).map(({ name }) => name).join(' ')}`,
    )
    const hashes = new Set((members ?? this.running).map(({ hash }) => hash))
    if (hashes.size > 1) throw new Error('equal edits, different states')
    return ms
  }

  /** Cuts the named members off from all others. */
  partition(names: readonly string[]): void {
    const keys = this.all.map(({ publicKey }) => publicKey)
    const side = names.map((name) => this.get(name).publicKey)
    this.wire.partition(
      side,
      keys.filter((key) => !side.includes(key)),
    )
  }

  /** Bytes of all requests, answers and gossip messages as made, without copies. */
  get bytes(): number {
    return this.traffic.values().reduce((sum, { bytes }) => sum + bytes, 0)
  }

  requestsOf(member: SimMember): number {
    return this.traffic.get(member.publicKey)?.requests ?? 0
  }

  /** Equal for two runs that did the same at the same times. */
  trace(): string {
    return this.#trace.copy().digest('hex')
  }

  #count(key: PeerKey): (event: string, bytes: number) => void {
    return (event, bytes) => {
      this.#trace.update(`${this.clock.monotonic()} ${key} ${event} ${bytes}\n`)
      const traffic = this.traffic.get(key) ?? { requests: 0, bytes: 0 }
      this.traffic.set(key, traffic)
      if (event === 'request') traffic.requests += 1
      if (event.startsWith('publish')) this.published += 1
      traffic.bytes += bytes
    }
  }

  #configOf({ options }: SimMember): Config {
    const { gossip = true, targetPeers = 6, syncIntervalSeconds = 10 } = this.#options
    const defaults = loadConfig({ env: {} })
    const nodes = (options.listed ?? []).map((name) => {
      const { publicKey, port } = this.get(name)
      return { publicKey, endpoints: [`127.0.0.1:${port}`] }
    })
    return {
      ...defaults,
      mesh: { ...defaults.mesh, id: options.meshId ?? this.#founding.id },
      nodes,
      gossip,
      targetPeers,
      syncIntervalSeconds,
      nginx: { ...defaults.nginx, mode: 'off' },
    }
  }
}

/** Somebody who edits. */
export interface Author {
  readonly by: KeyPair
  /** Id of the grant that is exercised. */
  readonly grant: string
}

/** A Network that is listened to. */
export class CountedNetwork implements Network {
  readonly #network: Network
  readonly #count: (event: string, bytes: number) => void

  constructor(network: Network, count: (event: string, bytes: number) => void) {
    this.#network = network
    this.#count = count
  }

  start(handlers: NetworkHandlers, options?: { readonly signal?: AbortSignal }): Promise<void> {
    return this.#network.start(handlers, options)
  }

  stop(): Promise<void> {
    return this.#network.stop()
  }

  visit(peer: KnownPeer): Promise<Visit> {
    return this.#network.visit(peer)
  }

  joinMesh(meshId: string): void {
    this.#network.joinMesh(meshId)
  }

  get addresses(): readonly string[] {
    return this.#network.addresses
  }

  get connected(): readonly PeerKey[] {
    return this.#network.connected
  }

  setKnownPeers(peers: readonly KnownPeer[]): void {
    this.#network.setKnownPeers(peers)
  }

  async publish(channel: GossipChannel, payload: Uint8Array): Promise<number> {
    this.#count(`publish ${channel}`, payload.length)
    return await this.#network.publish(channel, payload)
  }

  async request(peer: PeerKey, payload: Uint8Array, options?: { readonly signal?: AbortSignal }): Promise<Uint8Array> {
    this.#count('request', payload.length)
    const answer = await this.#network.request(peer, payload, options)
    this.#count('answer', answer.length)
    return answer
  }

  disconnect(peer: PeerKey): Promise<void> {
    return this.#network.disconnect(peer)
  }
}
