/**
 * What nodes say of themselves: signed, expiring status records. Makes this node's own, keeps the newest of every other,
 * derives peer states. Observed state only: nothing here enters the desired state. Built by node.ts, fed by gossip and sync.
 */

import { canonical, sha256, type Json } from './core/canonical.ts'
import { isHex, verifySignature, type KeyPair } from './core/envelope.ts'
import { MeshError } from './errors.ts'
import type { Health } from './health.ts'
import type { Log } from './log.ts'
import type { Metrics } from './metrics.ts'
import type { Clock, GossipVerdict, PeerKey, Random, Startable, Store } from './ports.ts'
import type { Receipt } from './reconciler.ts'

/** A node's word on itself. Canonical JSON when signed, so numbers are integers. */
export interface StatusRecord {
  readonly v: 1
  readonly mesh: string
  /** Public key of the node. */
  readonly node: PeerKey
  /** Grows at every start of the node; a record of a lower one is old whatever its sequence. */
  readonly incarnation: number
  readonly sequence: number
  /** Claimed wall time, ms; for people. */
  readonly at: number
  /** `host:port` where the node can be dialled. */
  readonly addresses: readonly string[]
  readonly zones: readonly string[]
  readonly labels: Readonly<Record<string, string>>
  /** Version of the software. */
  readonly version: string
  /** Digest of all envelopes that the node holds; peers with another one start to synchronise. */
  readonly digest: string
  readonly receipt: Receipt | null
  readonly health: Health
  /** Set in the last record before an orderly stop. */
  readonly leaving: boolean
}

export interface SignedStatus {
  /** Canonical JSON of a StatusRecord. */
  readonly bytes: string
  readonly sig: string
}

/** Ready: heard of lately. NotReady: said goodbye, or went silent. Unavailable: silent for long. Unknown: not heard since start. */
export type PeerState = 'Ready' | 'NotReady' | 'Unavailable' | 'Unknown'

export interface PeerView {
  readonly key: PeerKey
  /** Name from the node's grant. */
  readonly name: string | undefined
  readonly state: PeerState
  /** ms since the last record first arrived here; undefined when none did since start. */
  readonly ageMs: number | undefined
  /** Whether this node has a connection with it now. */
  readonly connected: boolean
  readonly record: StatusRecord | undefined
}

export const STATUS_LIMITS = {
  recordBytes: 32 * 1024,
  /** Records kept; a mesh of more nodes would need a larger number here. */
  records: 10_000,
} as const

export const STATUS_TIMES = {
  /** Published this often, with 20 % jitter, and on change but not more often than `minIntervalMs`. */
  intervalMs: 15_000,
  minIntervalMs: 250,
  /** Two records may be lost before a silent peer is called NotReady. */
  notReadyAfterMs: 45_000,
  unavailableAfterMs: 120_000,
} as const

const STATUS_DOMAIN = 'nxmesh/v1/status\0'
const PEERS_MARK = 'peers'
const INCARNATION_MARK = 'incarnation'

/** The part of a record that the node's owner supplies at each publication. */
export type OwnStatus = Pick<
  StatusRecord,
  'mesh' | 'addresses' | 'zones' | 'labels' | 'version' | 'digest' | 'receipt' | 'health'
>

export interface StatusOptions {
  readonly key: KeyPair
  readonly store: Store
  readonly clock: Clock
  readonly random: Random
  readonly log: Log
  readonly metrics: Metrics
  /** This node's state now; undefined while it has no mesh. */
  readonly describe: () => OwnStatus | undefined
  /** Whether a key may speak here: granted or listed. */
  readonly isNode: (key: PeerKey) => boolean
  /** Keys and names of the nodes that policy grants. */
  readonly granted: () => ReadonlyMap<PeerKey, string | undefined>
  readonly connected: () => readonly PeerKey[]
  readonly publish: (payload: Uint8Array) => Promise<unknown>
}

interface Heard {
  readonly signed: SignedStatus
  readonly record: StatusRecord
  /** Monotonic ms of first sight; undefined for one read back from the store. */
  readonly seenMs: number | undefined
}

export class StatusTable implements Startable {
  readonly #options: StatusOptions
  readonly #heard = new Map<PeerKey, Heard>()
  readonly #lostMs = new Map<PeerKey, number>()
  readonly #listeners = new Set<(record: StatusRecord) => void>()
  #incarnation = 0
  #sequence = 0
  #own: SignedStatus | undefined
  #publishedMs = Number.NEGATIVE_INFINITY
  #cancelTimer: () => void = () => undefined
  #isRunning = false
  #due: number | undefined

  constructor(options: StatusOptions) {
    this.#options = options
  }

  async start(): Promise<void> {
    if (this.#isRunning) return
    await this.#raiseIncarnation(Number((await this.#options.store.getMark(INCARNATION_MARK)) ?? 0))
    for (const signed of parseList(await this.#options.store.getMark(PEERS_MARK))) {
      const record = this.#check(signed)
      if (record !== undefined) this.#heard.set(record.node, { signed, record, seenMs: undefined })
    }
    this.#isRunning = true
    this.#schedule(0)
  }

  /** Says goodbye and remembers the peers' addresses. */
  async stop(): Promise<void> {
    if (!this.#isRunning) return
    this.#isRunning = false
    this.#cancelTimer()
    await this.#publish(true)
    await this.savePeers()
  }

  /** Writes the known records down, so that a restart knows whom to dial. A failure is logged: they are a convenience. */
  async savePeers(): Promise<void> {
    try {
      await this.#options.store.setMark(
        PEERS_MARK,
        canonical([...this.#heard.values()].map(({ signed }) => ({ ...signed }))),
      )
    } catch (error) {
      this.#options.log.warn('known peers could not be saved', { error: (error as Error).message })
    }
  }

  /** To be called when anything that a record shows has changed. */
  changed(): void {
    const sinceMs = this.#options.clock.monotonic() - this.#publishedMs
    this.#schedule(Math.max(0, STATUS_TIMES.minIntervalMs - sinceMs))
  }

  onRecord(listener: (record: StatusRecord) => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  /** Takes a record from gossip or sync. `accept` when it was news. */
  receive(value: unknown): GossipVerdict {
    const signed = asSigned(value)
    const record = signed === undefined ? undefined : this.#check(signed)
    if (signed === undefined || record === undefined) return 'reject'
    if (record.node === this.#options.key.publicKey) return this.#hearOwn(record)
    if (!this.#options.isNode(record.node)) return 'ignore'
    const known = this.#heard.get(record.node)
    if (known !== undefined && !isNewer(record, known.record)) {
      // One read back from the store says nothing about now, until it is heard again from its node.
      return 'ignore'
    }
    if (known === undefined && this.#heard.size >= STATUS_LIMITS.records) return 'ignore'
    this.#heard.set(record.node, { signed, record, seenMs: this.#options.clock.monotonic() })
    this.#lostMs.delete(record.node)
    for (const listener of this.#listeners) listener(record)
    return 'accept'
  }

  /** This node's latest record. */
  own(): StatusRecord | undefined {
    return this.#own === undefined ? undefined : (JSON.parse(this.#own.bytes) as StatusRecord)
  }

  /** Every record worth telling a peer that connects: the own one and those heard since start. */
  all(): SignedStatus[] {
    const heard = [...this.#heard.values()].filter(({ seenMs }) => seenMs !== undefined).map(({ signed }) => signed)
    return this.#own === undefined ? heard : [this.#own, ...heard]
  }

  /** A connection with this peer broke: it is not Ready until it is heard of again. */
  lost(peer: PeerKey): void {
    this.#lostMs.set(peer, this.#options.clock.monotonic())
  }

  /** Forgets nothing of the peer, but that its connection broke. */
  found(peer: PeerKey): void {
    this.#lostMs.delete(peer)
  }

  /** All other nodes: heard of, or granted but never heard of. Sorted by key. */
  peers(): PeerView[] {
    const granted = this.#options.granted()
    const connected = new Set(this.#options.connected())
    const keys = new Set([...granted.keys(), ...this.#heard.keys(), ...connected])
    keys.delete(this.#options.key.publicKey)
    return [...keys].toSorted().map((key) => this.#view(key, granted.get(key), connected.has(key)))
  }

  #view(key: PeerKey, name: string | undefined, connected: boolean): PeerView {
    const heard = this.#heard.get(key)
    const now = this.#options.clock.monotonic()
    const ageMs = heard?.seenMs === undefined ? undefined : now - heard.seenMs
    const lost = this.#lostMs.has(key) && !connected
    return {
      key,
      name,
      state: peerState(ageMs, lost, heard?.record.leaving ?? false),
      ageMs,
      connected,
      record: heard?.record,
    }
  }

  /** A record of this node that it did not make in this life: a restored backup, or a clone with the same key. */
  #hearOwn(record: StatusRecord): GossipVerdict {
    const isAhead =
      record.incarnation > this.#incarnation ||
      (record.incarnation === this.#incarnation && record.sequence > this.#sequence)
    if (isAhead) {
      this.#options.log.warn(
        'another record of this node is newer than its own: was its data restored, or its key copied?',
        {
          theirs: record.incarnation,
          own: this.#incarnation,
        },
      )
      void this.#raiseIncarnation(record.incarnation).then(
        () => this.changed(),
        (error: unknown) => this.#options.log.error('the incarnation could not be stored', { error: String(error) }),
      )
    }
    return 'ignore'
  }

  /** Durable before it is used: two lives of one node must never publish under one incarnation. */
  async #raiseIncarnation(above: number): Promise<void> {
    const next = Math.max(this.#incarnation, above) + 1
    await this.#options.store.setMark(INCARNATION_MARK, String(next))
    this.#incarnation = next
    this.#sequence = 0
  }

  #schedule(delayMs: number): void {
    if (!this.#isRunning) return
    const dueMs = this.#options.clock.monotonic() + delayMs
    if (this.#due !== undefined && this.#due <= dueMs) return
    this.#cancelTimer()
    this.#due = dueMs
    this.#cancelTimer = this.#options.clock.after(delayMs, () => {
      this.#due = undefined
      void this.#publish(false)
      this.#schedule(STATUS_TIMES.intervalMs * (0.8 + 0.4 * this.#options.random()))
    })
  }

  async #publish(leaving: boolean): Promise<void> {
    const description = this.#options.describe()
    if (description === undefined) return
    this.#publishedMs = this.#options.clock.monotonic()
    this.#sequence += 1
    const record: StatusRecord = {
      v: 1,
      node: this.#options.key.publicKey,
      incarnation: this.#incarnation,
      sequence: this.#sequence,
      at: this.#options.clock.now(),
      leaving,
      ...description,
    }
    const bytes = canonical(record as unknown as Json)
    this.#own = { bytes, sig: this.#options.key.sign(statusInput(record.mesh, bytes)) }
    await this.#options
      .publish(Buffer.from(canonical({ ...this.#own })))
      .catch((error: unknown) => this.#options.log.debug('status was not published', { error: String(error) }))
  }

  /** The record when its form, mesh and signature are right. */
  #check(signed: SignedStatus): StatusRecord | undefined {
    const record = parseRecord(signed.bytes)
    const mesh = this.#options.describe()?.mesh
    if (record === undefined || (mesh !== undefined && record.mesh !== mesh)) return undefined
    return verifySignature(record.node, statusInput(record.mesh, signed.bytes), signed.sig) ? record : undefined
  }
}

/** Pure: a peer's state from what was heard of it. */
export function peerState(ageMs: number | undefined, lost: boolean, leaving: boolean): PeerState {
  if (ageMs === undefined) return 'Unknown'
  if (ageMs > STATUS_TIMES.unavailableAfterMs) return 'Unavailable'
  return leaving || lost || ageMs > STATUS_TIMES.notReadyAfterMs ? 'NotReady' : 'Ready'
}

/** Parses a gossip payload. */
export function parseStatusPayload(payload: Uint8Array): unknown {
  if (payload.length > STATUS_LIMITS.recordBytes + 1024) return undefined
  try {
    return JSON.parse(Buffer.from(payload).toString('utf8')) as unknown
  } catch {
    return undefined
  }
}

function isNewer(a: StatusRecord, b: StatusRecord): boolean {
  return a.incarnation > b.incarnation || (a.incarnation === b.incarnation && a.sequence > b.sequence)
}

function statusInput(mesh: string, bytes: string): Uint8Array {
  return Buffer.concat([
    Buffer.from(STATUS_DOMAIN),
    Buffer.from(mesh, 'hex'),
    Buffer.from([0]),
    Buffer.from(sha256(bytes), 'hex'),
  ])
}

function asSigned(value: unknown): SignedStatus | undefined {
  const { bytes, sig } = (typeof value === 'object' && value !== null ? value : {}) as Record<string, unknown>
  if (typeof bytes !== 'string' || bytes.length > STATUS_LIMITS.recordBytes || !isHex(sig, 128)) return undefined
  return { bytes, sig }
}

function parseList(text: string | undefined): SignedStatus[] {
  if (text === undefined) return []
  try {
    const list = JSON.parse(text) as unknown
    return Array.isArray(list) ? list.map(asSigned).filter((signed) => signed !== undefined) : []
  } catch (error) {
    throw new MeshError('store_corrupt', 'the list of known peers in the store is not JSON', {}, error)
  }
}
