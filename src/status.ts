/**
 * What nodes say of themselves: signed, expiring status records. Makes this node's own, keeps the newest of every other,
 * derives peer states. Observed state only: nothing here enters the desired state. Built by node.ts, fed by gossip and sync.
 */

import { z } from 'zod'
import { canonical, sha256, type Json } from './core/canonical.ts'
import { isHex, verifySignature, type KeyPair } from './core/envelope.ts'
import type { Health } from './health.ts'
import type { Log } from './log.ts'
import type { Clock, GossipVerdict, PeerKey, Random, Startable, Store } from './ports.ts'
import type { Receipt } from './reconciler.ts'
import { TokenBuckets } from './token-buckets.ts'

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
  /** Records kept; beyond it nodes not heard of before are ignored. A mesh of more nodes would need a larger number here. */
  records: 10_000,
  /** Bytes of records in one answer to a peer; the rest follows in the next one. */
  answerBytes: 512 * 1024,
  /** Far above any number of starts; nothing larger can be signed for, and nothing follows it. */
  incarnation: 2 ** 40,
  /** Records of one node that are taken: burst, and refill per second. An honest one sends at most four a second. */
  burst: 30,
  perSecond: 5,
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
  /** This node's state now; undefined while it has no mesh. */
  readonly describe: () => OwnStatus | undefined
  /** Whether a key may speak here: granted or listed. */
  readonly isNode: (key: PeerKey) => boolean
  /** Keys and names of the nodes that policy grants. */
  readonly granted: () => ReadonlyMap<PeerKey, string | undefined>
  readonly connected: () => readonly PeerKey[]
  readonly publish: (payload: Uint8Array) => Promise<unknown>
}

/** What one node knows of another: the newest incarnation and sequence. */
export type StatusVersion = readonly [node: PeerKey, incarnation: number, sequence: number]

/** Told of every new record, and of the one that it replaces. */
export type StatusListener = (record: StatusRecord, previous: StatusRecord | undefined) => void

interface Heard {
  readonly signed: SignedStatus
  readonly record: StatusRecord
  /** Monotonic ms of first sight, here or at the peer that told; undefined for one read back from the store. */
  readonly seenMs: number | undefined
}

export class StatusTable implements Startable {
  readonly #options: StatusOptions
  readonly #heard = new Map<PeerKey, Heard>()
  /** Peers whose connection broke since they were last heard of. */
  readonly #lost = new Set<PeerKey>()
  readonly #listeners = new Set<StatusListener>()
  readonly #rates: TokenBuckets
  #meshId: string | undefined
  #raisedMs = Number.NEGATIVE_INFINITY
  #incarnation = 0
  #sequence = 0
  #own: SignedStatus | undefined
  #publishedMs = Number.NEGATIVE_INFINITY
  #cancelTimer: () => void = () => undefined
  #isRunning = false
  #due: number | undefined

  constructor(options: StatusOptions) {
    this.#options = options
    this.#rates = new TokenBuckets(options.clock, STATUS_LIMITS.burst, STATUS_LIMITS.perSecond)
  }

  async start(): Promise<void> {
    if (this.#isRunning) return
    const { store } = this.#options
    await this.#raiseIncarnation(parseIncarnation(await store.getMark(INCARNATION_MARK)))
    for (const signed of parseList(await store.getMark(PEERS_MARK))) {
      const record = this.#parse(signed)
      if (record !== undefined && isSigned(signed, record)) {
        this.#heard.set(record.node, { signed, record, seenMs: undefined })
      }
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

  /** Writes the known records down, so that a restart knows whom to dial. A failure is logged. */
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

  onRecord(listener: StatusListener): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  /**
   * Takes a record from gossip or sync. `accept` when it was news. The signature, which costs most, is checked last.
   * @param ageMs how long ago the peer that told it saw it first.
   */
  receive(value: unknown, ageMs = 0): GossipVerdict {
    const signed = asSigned(value)
    const record = signed === undefined ? undefined : this.#parse(signed)
    if (signed === undefined || record === undefined) return 'reject'
    const { node } = record
    if (node === this.#options.key.publicKey) return this.#hearOwn(signed, record)
    if (!this.#options.isNode(node)) return 'ignore'
    const known = this.#heard.get(node)
    if (known === undefined ? this.#heard.size >= STATUS_LIMITS.records : !isNews(record, known)) return 'ignore'
    if (!this.#rates.has(node)) return 'ignore'
    if (!isSigned(signed, record)) return 'reject'
    this.#rates.take(node)
    this.#heard.set(node, { signed, record, seenMs: this.#options.clock.monotonic() - ageMs })
    this.#lost.delete(node)
    for (const listener of this.#listeners) listener(record, known?.record)
    return 'accept'
  }

  /** This node's latest record. */
  own(): StatusRecord | undefined {
    return this.#own === undefined ? undefined : (JSON.parse(this.#own.bytes) as StatusRecord)
  }

  /** What this node has heard since its start, and what it says itself: for a peer to answer with what is newer. */
  versions(): [node: PeerKey, incarnation: number, sequence: number][] {
    return this.#tellable().map(({ record: { node, incarnation, sequence } }) => [node, incarnation, sequence])
  }

  /** Records newer than those that a peer knows, with their ages in ms: as many as fit into one answer. */
  newerThan(known: readonly StatusVersion[]): { records: [signed: SignedStatus, ageMs: number][]; more: boolean } {
    const versions = new Map(known.map(([node, incarnation, sequence]) => [node, { incarnation, sequence }]))
    const records: [SignedStatus, number][] = []
    let bytes = 0
    for (const { signed, record, seenMs } of this.#tellable()) {
      const version = versions.get(record.node)
      if (version !== undefined && !isNewer(record, version)) continue
      bytes += JSON.stringify(signed).length
      if (records.length > 0 && bytes > STATUS_LIMITS.answerBytes) return { records, more: true }
      records.push([signed, Math.max(0, Math.round(this.#options.clock.monotonic() - seenMs))])
    }
    return { records, more: false }
  }

  /** The own record and those heard since start, but for nodes that may not speak any more. */
  #tellable(): (Heard & { readonly seenMs: number })[] {
    const { clock, isNode } = this.#options
    const heard = [...this.#heard.values()].filter(
      (one): one is Heard & { readonly seenMs: number } => one.seenMs !== undefined && isNode(one.record.node),
    )
    const record = this.own()
    return this.#own === undefined || record === undefined
      ? heard
      : [{ signed: this.#own, record, seenMs: clock.monotonic() }, ...heard]
  }

  /** Last known addresses of all nodes heard of, now or before a restart. */
  known(): ReadonlyMap<PeerKey, readonly string[]> {
    return new Map([...this.#heard].map(([key, { record }]) => [key, record.addresses]))
  }

  /** A connection with this peer broke: it is not Ready until it is heard of again. */
  lost(peer: PeerKey): void {
    this.#lost.add(peer)
  }

  /** There is a connection with this peer again. */
  found(peer: PeerKey): void {
    this.#lost.delete(peer)
  }

  /** All other nodes: heard of, or granted but never heard of. Who lost its grant is left out. Sorted by key. */
  peers(): PeerView[] {
    const { isNode } = this.#options
    const granted = this.#options.granted()
    const connected = new Set(this.#options.connected())
    const keys = new Set([...granted.keys(), ...this.#heard.keys().filter(isNode), ...connected])
    keys.delete(this.#options.key.publicKey)
    return [...keys].toSorted().map((key) => this.#view(key, granted.get(key), connected.has(key)))
  }

  #view(key: PeerKey, name: string | undefined, connected: boolean): PeerView {
    const heard = this.#heard.get(key)
    const now = this.#options.clock.monotonic()
    const ageMs = heard?.seenMs === undefined ? undefined : now - heard.seenMs
    const lost = this.#lost.has(key) && !connected
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
  #hearOwn(signed: SignedStatus, record: StatusRecord): GossipVerdict {
    const { clock, log } = this.#options
    const isAhead = isNewer(record, { incarnation: this.#incarnation, sequence: this.#sequence })
    // Clones raise each other's for ever: no faster than they speak anyway.
    if (!isAhead || clock.monotonic() - this.#raisedMs < STATUS_TIMES.intervalMs) return 'ignore'
    if (!isSigned(signed, record)) return 'reject'
    this.#raisedMs = clock.monotonic()
    log.warn('another record of this node is newer than its own: was its data restored, or its key copied?', {
      theirs: record.incarnation,
      own: this.#incarnation,
    })
    void this.#raiseIncarnation(record.incarnation).then(
      () => this.changed(),
      (error: unknown) => log.error('the incarnation could not be stored', { error: String(error) }),
    )
    return 'ignore'
  }

  /** Durable before it is used: two lives of one node must never publish under one incarnation. */
  async #raiseIncarnation(above: number): Promise<void> {
    const next = Math.min(Math.max(this.#incarnation, above) + 1, STATUS_LIMITS.incarnation)
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
    const { clock, log, publish } = this.#options
    this.#publishedMs = clock.monotonic()
    try {
      this.#own = this.#sign(leaving) ?? this.#own
      if (this.#own !== undefined) await publish(Buffer.from(canonical({ ...this.#own })))
    } catch (error) {
      log.warn('the status was not published', { error: String(error) })
    }
  }

  /** A new record; undefined while there is no mesh. */
  #sign(leaving: boolean): SignedStatus | undefined {
    const { key, clock, describe } = this.#options
    const description = describe()
    if (description === undefined) return undefined
    this.#sequence += 1
    const { incarnation, sequence } = { incarnation: this.#incarnation, sequence: this.#sequence }
    const at = Math.floor(clock.now())
    const record: StatusRecord = { v: 1, node: key.publicKey, incarnation, sequence, at, leaving, ...description }
    const bytes = fit(record)
    return { bytes, sig: key.sign(statusInput(record.mesh, bytes)) }
  }

  /** The record when its form and mesh are right. */
  #parse(signed: SignedStatus): StatusRecord | undefined {
    const record = parseRecord(signed.bytes)
    this.#meshId ??= this.#options.describe()?.mesh
    return this.#meshId === undefined || record?.mesh === this.#meshId ? record : undefined
  }
}

/**
 * The canonical text of a record as peers will take it: one that is too long is told without its details.
 * @throws Error when even that is not a record.
 */
function fit(record: StatusRecord): string {
  const { receipt, health } = record
  const brief = { ...record, receipt: receipt === null ? null : { ...receipt, problems: [], isolated: [] } }
  const bare = { ...record, receipt: null, health: { ...health, msg: health.msg.slice(0, 500), reasons: [] } }
  for (const form of [record, brief, bare]) {
    const bytes = canonical(form as unknown as Json)
    if (bytes.length <= STATUS_LIMITS.recordBytes && parseRecord(bytes) !== undefined) return bytes
  }
  throw new Error('this node’s own status is not a valid record: labels, zones or addresses are too long')
}

/** Pure: a peer's state from what was heard of it. */
export function peerState(ageMs: number | undefined, lost: boolean, leaving: boolean): PeerState {
  if (ageMs === undefined) return 'Unknown'
  if (ageMs > STATUS_TIMES.unavailableAfterMs) return 'Unavailable'
  return leaving || lost || ageMs > STATUS_TIMES.notReadyAfterMs ? 'NotReady' : 'Ready'
}

// ---------------------------------------------------------------------------------------------- parsing

const text = z.string().max(1024)
const short = z.string().max(300)
const whole = z.int().min(0)
const digest = z.string().regex(/^[0-9a-f]{64}$/)
const errorSchema = z.object({ code: short, message: text, hint: text.optional() })
const problemSchema = z.object({ path: text, code: short, message: text, hint: text.optional() })

/** The receipt of another node as this one shows it: every text bounded, nothing that is not known here kept. */
const receiptSchema = z.object({
  target: digest.nullable(),
  desired: digest.nullable(),
  validated: digest.nullable(),
  applied: digest.nullable(),
  lastGood: digest.nullable(),
  outcome: short.nullable(),
  phase: short,
  error: errorSchema.nullable(),
  problems: z.array(problemSchema).max(32),
  problemCount: whole,
  isolated: z.array(z.object({ path: text, reason: text, serves: short })).max(32),
  at: whole,
  durations: z.record(short, whole),
  drift: whole,
  nginx: z.object({
    running: z.boolean(),
    master: whole.nullable(),
    version: short.nullable(),
    workers: whole,
    draining: whole,
  }),
})

const recordSchema = z.object({
  v: z.literal(1),
  mesh: digest,
  node: digest,
  incarnation: whole.max(STATUS_LIMITS.incarnation),
  sequence: whole,
  at: whole,
  addresses: z.array(short).max(16),
  zones: z.array(short).max(64),
  labels: z.record(short, short),
  version: short,
  digest,
  receipt: receiptSchema.nullable(),
  health: z.object({
    status: z.enum(['Running', 'Degraded', 'Error', 'Unknown']),
    msg: text,
    reasons: z.array(text).max(64),
  }),
  leaving: z.boolean(),
})

/** A record from canonical JSON; undefined when it is none. */
function parseRecord(bytes: string): StatusRecord | undefined {
  try {
    const value = JSON.parse(bytes) as Json
    const parsed = recordSchema.safeParse(value)
    // The types agree but for closed sets of words, which another version of this software may extend.
    return parsed.success && canonical(value) === bytes ? (parsed.data as StatusRecord) : undefined
  } catch {
    return undefined
  }
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

type Version = Pick<StatusRecord, 'incarnation' | 'sequence'>

function isNewer(a: Version, b: Version): boolean {
  return a.incarnation > b.incarnation || (a.incarnation === b.incarnation && a.sequence > b.sequence)
}

/** Whether a record says more than what was heard. One read back from the store says nothing about now until it is heard again. */
function isNews(record: StatusRecord, known: Heard): boolean {
  return known.seenMs === undefined ? !isNewer(known.record, record) : isNewer(record, known.record)
}

function isSigned({ bytes, sig }: SignedStatus, { node, mesh }: StatusRecord): boolean {
  return verifySignature(node, statusInput(mesh, bytes), sig)
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

/** The saved records; none when the text is damaged: they are a convenience. */
function parseList(text: string | undefined): SignedStatus[] {
  try {
    const list = JSON.parse(text ?? '[]') as unknown
    return Array.isArray(list) ? list.map(asSigned).filter((signed) => signed !== undefined) : []
  } catch {
    return []
  }
}

/** The stored incarnation; 0 when the text is damaged: peers who know better say so. */
function parseIncarnation(text: string | undefined): number {
  const stored = Number(text ?? 0)
  return Number.isSafeInteger(stored) && stored >= 0 ? stored : 0
}
