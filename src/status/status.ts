/**
 * What nodes say of themselves: signed, expiring status records. Makes this node's own, keeps the newest of every other,
 * derives peer states. Observed state only: nothing here enters the desired state. Built by node.ts, fed by gossip and sync.
 */

import { canonical } from '../core/canonical.ts'
import type { KeyPair } from '../core/envelope.ts'
import { KeySharing } from './key-sharing.ts'
import { loadPeers, savePeers, shardOf } from './known-peers.ts'
import type { Log } from '../log.ts'
import type { Clock, GossipVerdict, PeerKey, Random, Startable, Store } from '../ports.ts'
import {
  asSigned,
  isNewer,
  isSigned,
  parseRecord,
  RECORD_LIMITS,
  signRecord,
  type SignedStatus,
  type StatusRecord,
} from './status-record.ts'
import { TokenBuckets } from '../token-buckets.ts'

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
  /** Records kept; beyond it nodes not heard of before are ignored. A mesh of more nodes would need a larger number here. */
  records: 10_000,
  /** Bytes of records in one answer to a peer; the rest follows in the next one. */
  answerBytes: 512 * 1024,
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
  /** Between hearing of new addresses and writing them down, so that many at once are written together. */
  saveDelayMs: 5_000,
} as const

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
  readonly #sharing: KeySharing
  #meshId: string | undefined
  #raisedMs = Number.NEGATIVE_INFINITY
  #incarnation = 0
  #sequence = 0
  #own: SignedStatus | undefined
  #publishedMs = Number.NEGATIVE_INFINITY
  #cancelTimer: () => void = () => undefined
  #isRunning = false
  #due: number | undefined
  /** Shards with addresses that are not on disk yet. */
  readonly #unsaved = new Set<string>()
  /** Undefined: no writing is due. */
  #cancelSave: (() => void) | undefined

  constructor(options: StatusOptions) {
    this.#options = options
    this.#rates = new TokenBuckets(options.clock, STATUS_LIMITS.burst, STATUS_LIMITS.perSecond)
    this.#sharing = new KeySharing(options.clock)
  }

  async start(): Promise<void> {
    if (this.#isRunning) return
    const { store } = this.#options
    await this.#raiseIncarnation(parseIncarnation(await store.getMark(INCARNATION_MARK)))
    for (const signed of await loadPeers(store)) {
      const record = this.#parse(signed)
      // The network is up already, and may have brought a newer one.
      if (record !== undefined && !this.#heard.has(record.node) && isSigned(signed, record)) {
        this.#heard.set(record.node, { signed, record, seenMs: undefined })
        this.#sharing.hear(record)
      }
    }
    this.#isRunning = true
    this.#schedule(0)
  }

  /** Says goodbye and writes down what peers said last. */
  async stop(): Promise<void> {
    if (!this.#isRunning) return
    this.#isRunning = false
    this.#cancelTimer()
    this.#due = undefined
    this.#cancelSave?.()
    await this.#publish(true)
    for (const [key, { seenMs }] of this.#heard) if (seenMs !== undefined) this.#unsaved.add(shardOf(key))
    await this.#save()
  }

  /** Writes shards down whole: those heard of last come first, those that may not speak any more not at all. */
  async #save(): Promise<void> {
    this.#cancelSave = undefined
    const { store, log, isNode } = this.#options
    const shards = new Map<string, SignedStatus[]>([...this.#unsaved].map((shard) => [shard, []]))
    this.#unsaved.clear()
    const newestFirst = [...this.#heard].toSorted(([, a], [, b]) => heardAt(b) - heardAt(a))
    for (const [key, { signed }] of newestFirst) if (isNode(key)) shards.get(shardOf(key))?.push(signed)
    try {
      const left = await savePeers(store, shards)
      if (left > 0) log.warn('records of peers are too large to be saved; a restart will not know these', { left })
    } catch (error) {
      for (const shard of shards.keys()) this.#unsaved.add(shard)
      log.warn('known peers could not be saved', { error: (error as Error).message })
    }
  }

  /** New addresses outlive a crash soon. What could not be written is tried again with the next ones. */
  #saveSoon(key: PeerKey): void {
    this.#unsaved.add(shardOf(key))
    if (this.#isRunning)
      this.#cancelSave ??= this.#options.clock.after(STATUS_TIMES.saveDelayMs, () => void this.#save())
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
    if (known === undefined && this.#heard.size >= STATUS_LIMITS.records) return 'ignore'
    if (known !== undefined && !isNews(record, known)) return this.#hearStale(signed, record)
    if (!this.#rates.has(node)) return 'ignore'
    if (!isSigned(signed, record)) return 'reject'
    this.#rates.take(node)
    this.#sharing.hear(record)
    // A newer record is no older than the one before it, whatever the peer says.
    const seenMs = Math.max(this.#options.clock.monotonic() - ageMs, known?.seenMs ?? Number.NEGATIVE_INFINITY)
    this.#heard.set(node, { signed, record, seenMs })
    this.#lost.delete(node)
    if (record.addresses.join() !== known?.record.addresses.join()) this.#saveSoon(node)
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
    if (this.#options.isNode(peer)) this.#lost.add(peer)
  }

  /** To be called when policy has changed: nothing is kept of who may not speak any more. */
  forgetStrangers(): void {
    for (const key of [...this.#heard.keys(), ...this.#lost]) {
      if (this.#options.isNode(key)) continue
      this.#lost.delete(key)
      this.#sharing.forget(key)
      if (this.#heard.delete(key)) this.#saveSoon(key)
    }
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

  /** What is wrong with this node's key, for people. */
  complaints(): string[] {
    if (!this.#sharing.shared.includes(this.#options.key.publicKey)) return []
    return [
      'another process signs status records with this node’s key: was its disk copied? One of the two needs a key of its own',
    ]
  }

  /** What seems wrong with the keys of others. No trouble of this node: any of them can bring it about, of its own key. */
  notes(): string[] {
    const { key, granted } = this.#options
    const names = granted()
    const others = this.#sharing.shared.filter((shared) => shared !== key.publicKey)
    return others.map(
      (other) =>
        `two processes sign status records with the key of node ${names.get(other) ?? other}: was its disk copied, or its key stolen?`,
    )
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

  /** A record that is older than what was heard, or as old. Costs its node none of its share: anybody can tell it again. */
  #hearStale(signed: SignedStatus, record: StatusRecord): GossipVerdict {
    if (!this.#sharing.isSign(record)) return 'ignore'
    if (!isSigned(signed, record)) return 'reject'
    this.#sharing.note(record)
    return 'ignore'
  }

  /** A record of this node that it did not make in this life: a restored backup, or a clone with the same key. */
  #hearOwn(signed: SignedStatus, record: StatusRecord): GossipVerdict {
    const { clock, log } = this.#options
    const isAhead = isNewer(record, { incarnation: this.#incarnation, sequence: this.#sequence })
    // Clones raise each other's for ever: no faster than they speak anyway.
    if (!isAhead || clock.monotonic() - this.#raisedMs < STATUS_TIMES.intervalMs) return 'ignore'
    if (!isSigned(signed, record)) return 'reject'
    this.#raisedMs = clock.monotonic()
    this.#sharing.note(record)
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
    const next = Math.min(Math.max(this.#incarnation, above) + 1, RECORD_LIMITS.incarnation)
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
    return signRecord(record, key)
  }

  /** The record when its form and mesh are right. */
  #parse(signed: SignedStatus): StatusRecord | undefined {
    const record = parseRecord(signed.bytes)
    this.#meshId ??= this.#options.describe()?.mesh
    return this.#meshId === undefined || record?.mesh === this.#meshId ? record : undefined
  }
}

/** Pure: a peer's state from what was heard of it. */
export function peerState(ageMs: number | undefined, lost: boolean, leaving: boolean): PeerState {
  if (ageMs === undefined) return 'Unknown'
  if (ageMs > STATUS_TIMES.unavailableAfterMs) return 'Unavailable'
  return leaving || lost || ageMs > STATUS_TIMES.notReadyAfterMs ? 'NotReady' : 'Ready'
}

/** Whether a record says more than what was heard. One read back from the store says nothing about now until it is heard again. */
function isNews(record: StatusRecord, known: Heard): boolean {
  return known.seenMs === undefined ? !isNewer(known.record, record) : isNewer(record, known.record)
}

/** Monotonic ms; what was read back from the store is older than anything. */
function heardAt({ seenMs = Number.NEGATIVE_INFINITY }: Heard): number {
  return seenMs
}

/** The stored incarnation; 0 when the text is damaged: peers who know better say so. */
function parseIncarnation(text: string | undefined): number {
  const stored = Number(text ?? 0)
  return Number.isSafeInteger(stored) && stored >= 0 ? stored : 0
}
