/**
 * The only writer of edits: one gate for API, gossip, sync and disk. Parses, admits, stores durably, and only then adds to
 * the state and tells the listeners. What waits for unknown ancestors is in waiting-pool.ts, what
 * a start reads in replaying.ts. Never touches the network.
 */

import { admit } from './core/admission.ts'
import { toWire } from './core/codec.ts'
import {
  envelopeId,
  parseEnvelope,
  type Body,
  type Envelope,
  type GrantBody,
  type WireEnvelope,
} from './core/envelope.ts'
import { syncItem, type Lookup } from './core/history.ts'
import { excessMessage, MeshState } from './core/state.ts'
import { asMeshError, MeshError, type ErrorCode } from './errors.ts'
import type { Log } from './log.ts'
import type { Metrics } from './metrics.ts'
import type { Clock, PeerKey, Startable, Store } from './ports.ts'
import { replay } from './replaying.ts'
import { TokenBuckets } from './token-buckets.ts'
import { WaitingPool } from './waiting-pool.ts'

/** Where an envelope came in. Rates apply to api and gossip only: what was accepted once must always spread. */
export type Source = 'api' | 'gossip' | 'sync' | 'disk'

/** What became of one submitted envelope. */
export type Outcome =
  | { readonly outcome: 'stored'; readonly id: string }
  /** Was stored before. */
  | { readonly outcome: 'known'; readonly id: string }
  /** Held until the missing envelopes arrive; may be dropped when the pool is full. */
  | { readonly outcome: 'waiting'; readonly id: string; readonly missing: readonly string[] }
  | ({ readonly outcome: 'refused'; readonly id: string | undefined } & Refusal)

interface Refusal {
  readonly code: ErrorCode
  readonly reason: string
  /** Whether no honest node would have passed it on; otherwise only this node, now, does not take it. */
  readonly faulty: boolean
}

/** What a full queue, pool or account does is written beside each limit. */
export const REPLICA_LIMITS = {
  /** Submissions waiting for the writer; beyond it new ones are refused as `unavailable`. */
  queuedEnvelopes: 20_000,
  /**
   * Bytes of those and of what is being written; beyond it new ones are refused as `unavailable`, and peers bring them again.
   * One submission alone is taken whatever its size, which is bounded where it comes from.
   */
  queuedBytes: 32 * 1024 * 1024,
  /** Envelopes written in one batch, with one fsync. */
  batch: 512,
  /** Envelopes parsed before others get their turn: some 10 ms. */
  parsedAtOnce: 64,
  /** Bytes that wait for ancestors on behalf of one peer, and in all; beyond it the oldest of that peer (of all) is dropped. */
  pendingBytesPerPeer: 1024 * 1024,
  pendingBytes: 16 * 1024 * 1024,
  /** Bytes stored of one author; beyond it nothing more of this author is stored or relayed, and an alarm is raised. */
  bytesPerAuthor: 64 * 1024 * 1024,
  /** Envelopes per author: burst, and refill per minute; API and gossip only. */
  authorBurst: 300,
  authorPerMinute: 60,
} as const

interface Job {
  readonly envelope: Envelope
  readonly source: Source
  readonly peer: PeerKey | undefined
  readonly settle: (outcome: Outcome) => void
  readonly fail: (error: MeshError) => void
}

export type StoredListener = (envelopes: readonly Envelope[], source: Source) => void
export type MissingListener = (peer: PeerKey, ids: readonly string[]) => void

export interface ReplicaOptions {
  readonly store: Store
  readonly clock: Clock
  readonly log: Log
  readonly metrics: Metrics
  /** Pins the mesh: only this genesis is accepted. Without it the first genesis given to `adopt` is. */
  readonly meshId: string | undefined
  /** Default: that of REPLICA_LIMITS. */
  readonly bytesPerAuthor?: number
}

export class Replica implements Startable {
  readonly state: MeshState = new MeshState()
  readonly #options: ReplicaOptions
  readonly #rates: TokenBuckets
  readonly #queue: Job[] = []
  readonly #waiting = new WaitingPool<Source>({
    bytesPerPeer: REPLICA_LIMITS.pendingBytesPerPeer,
    bytes: REPLICA_LIMITS.pendingBytes,
  })
  readonly #onStored = new Set<StoredListener>()
  readonly #onMissing = new Set<MissingListener>()
  readonly #overQuota = new Set<string>()
  #meshId: string | undefined
  #queuedBytes = 0
  #corrupt = 0
  #writing: Promise<void> | undefined
  #lastWriteError: MeshError | undefined
  #isStopped = true

  constructor(options: ReplicaOptions) {
    this.#options = options
    this.#meshId = options.meshId
    this.#rates = new TokenBuckets(options.clock, REPLICA_LIMITS.authorBurst, REPLICA_LIMITS.authorPerMinute / 60)
  }

  /** Opens the store and replays it. Every record is checked against its id, and its signatures unless this node sealed it. */
  async start(options: { readonly signal?: AbortSignal } = {}): Promise<void> {
    if (!this.#isStopped) return
    await this.#options.store.start(options)
    try {
      await this.#replay(options.signal)
    } catch (error) {
      await this.#options.store.stop()
      throw error
    }
    this.#isStopped = false
  }

  async #replay(signal: AbortSignal | undefined): Promise<void> {
    const { store, log } = this.#options
    const onCorrupt = (key: string, reason: string): void => this.#noteCorrupt(key, reason)
    const { meshId, waiting } = await replay({ store, log, state: this.state, meshId: this.#meshId, onCorrupt }, signal)
    this.#meshId = meshId
    for (const envelope of waiting) this.#park(envelope, 'disk', undefined)
  }

  /** Waits for the write in flight, refuses what is queued, closes the store. */
  async stop(): Promise<void> {
    if (this.#isStopped) return
    this.#isStopped = true
    const unwritten = this.#queue.splice(0)
    this.#queuedBytes -= sizeOf(unwritten)
    for (const job of unwritten) job.fail(new MeshError('unavailable', 'this node is stopping'))
    await this.#writing
    await this.#options.store.stop()
  }

  get meshId(): string | undefined {
    return this.#meshId
  }

  /** Records of the store that did not match their id since start; they are refilled from peers. */
  get corruptRecords(): number {
    return this.#corrupt
  }

  /** Why the last write failed; undefined when it succeeded. */
  get writeError(): MeshError | undefined {
    return this.#lastWriteError
  }

  get pendingCount(): number {
    return this.#waiting.size
  }

  /** Bytes of the envelopes that wait for ancestors. */
  get pendingBytes(): number {
    return this.#waiting.bytes
  }

  /** The share of one peer in them. */
  pendingBytesOf(peer: PeerKey): number {
    return this.#waiting.bytesOf(peer)
  }

  /** Submissions that wait for the writer. */
  get queuedCount(): number {
    return this.#queue.length
  }

  /** Their bytes, with those that are being written. */
  get queuedBytes(): number {
    return this.#queuedBytes
  }

  /** Authors whose envelopes are refused because they fill their share of the store. */
  get authorsOverQuota(): readonly string[] {
    return [...this.#overQuota]
  }

  /** Whether this author has filled its share, so that asking for more of it is of no use. */
  isOverQuota(author: string): boolean {
    return this.#overQuota.has(author)
  }

  /** Whether an envelope with these signers, by its `syncItem`, is here already and waits for its ancestors. */
  isWaiting(item: string): boolean {
    return this.#waiting.get(item) !== undefined
  }

  /** The state with every resource materialised; lets others run in between, since thousands take seconds. */
  async fresh(): Promise<MeshState> {
    while (!this.state.isFresh) {
      this.state.refresh(RESOURCES_A_TURN)
      await nextTurn()
    }
    return this.state
  }

  onStored(listener: StoredListener): () => void {
    this.#onStored.add(listener)
    return () => this.#onStored.delete(listener)
  }

  /** Called when an envelope of a peer waits for ancestors that this peer should have. */
  onMissing(listener: MissingListener): () => void {
    this.#onMissing.add(listener)
    return () => this.#onMissing.delete(listener)
  }

  /**
   * Makes a genesis this node's mesh. A pinned mesh id admits only its own genesis.
   * @throws MeshError `envelope_invalid` when it is not a genesis or is another mesh's.
   */
  async adopt(genesis: WireEnvelope): Promise<void> {
    const pinned = this.#meshId
    const envelope = parseEnvelope(genesis, pinned)
    if (envelope.body.type !== 'genesis') throw new MeshError('envelope_invalid', 'not a genesis', { field: 'type' })
    this.#meshId = envelope.id
    try {
      const [outcome] = await this.submit([genesis], 'sync')
      if (outcome?.outcome === 'refused') throw new MeshError(outcome.code, outcome.reason)
    } catch (error) {
      // A genesis that was not taken must not keep the right one out.
      this.#meshId = pinned
      throw error
    }
  }

  /**
   * Takes envelopes from outside. Resolves when each one's fate is known: what is `stored` is durable.
   * The outcomes are in the order of the input; later ones may depend on earlier ones. Behind a faulty one of a peer nothing
   * is looked at: each costs a signature, and an honest peer sends none.
   * @throws MeshError `store_unwritable` when nothing can be written, `unavailable` when the queue is full.
   */
  async submit(wires: readonly WireEnvelope[], source: Source, peer?: PeerKey): Promise<Outcome[]> {
    this.#checkRoom(wires)
    const parsed: (Envelope | Outcome)[] = []
    let isSpoilt = false
    for (const [index, wire] of wires.entries()) {
      // A page takes a tenth of a second: others must get their turn.
      if (index > 0 && index % REPLICA_LIMITS.parsedAtOnce === 0) await nextTurn()
      const one: Envelope | Outcome = isSpoilt ? BEHIND_A_FAULTY_ONE : this.#parse(wire, source)
      isSpoilt ||= peer !== undefined && 'outcome' in one && one.outcome === 'refused' && one.faulty
      parsed.push(one)
    }
    this.#checkRoom(wires)
    const outcomes = parsed.map((one) => this.#enqueue(one, source, peer))
    this.#write()
    return await Promise.all(outcomes)
  }

  #checkRoom(wires: readonly WireEnvelope[]): void {
    if (this.#isStopped) throw new MeshError('unavailable', 'this node is stopping')
    const bytes = wires.reduce((sum, wire) => sum + Buffer.byteLength(wire.bytes), this.#queuedBytes)
    const isTooLarge = this.#queuedBytes > 0 && bytes > REPLICA_LIMITS.queuedBytes
    if (isTooLarge || this.#queue.length + wires.length > REPLICA_LIMITS.queuedEnvelopes) {
      throw new MeshError('unavailable', 'too many edits are waiting to be written', { hint: 'Try again in a moment.' })
    }
  }

  #enqueue(parsed: Envelope | Outcome, source: Source, peer: PeerKey | undefined): Promise<Outcome> {
    if ('outcome' in parsed) {
      this.#count(parsed, source)
      return Promise.resolve(parsed)
    }
    const { promise, resolve, reject } = Promise.withResolvers<Outcome>()
    this.#push({ envelope: parsed, source, peer, settle: resolve, fail: reject })
    return promise
  }

  #push(job: Job): void {
    this.#queue.push(job)
    this.#queuedBytes += job.envelope.size
  }

  /** The part that needs no ancestors: known before, form, signatures, rate. */
  #parse(wire: WireEnvelope, source: Source): Envelope | Outcome {
    const id = envelopeId(wire.bytes)
    const known = this.state.history.get(id)
    if (known !== undefined && hasSigners(known, wire)) return { outcome: 'known', id }
    const waiting = this.#waiting.get(syncItem({ id, sigs: wire.sigs }))
    if (waiting !== undefined) return { outcome: 'waiting', id, missing: [...waiting.missing] }
    try {
      const envelope = parseEnvelope(wire, this.#meshId)
      const isLimited = (source === 'api' || source === 'gossip') && envelope.body.type !== 'genesis'
      if (isLimited && known === undefined && !this.#rates.take(envelope.body.by)) {
        const reason = `over ${REPLICA_LIMITS.authorPerMinute} edits a minute by one author`
        return { outcome: 'refused', id, code: 'rate_limited', reason, faulty: false }
      }
      return envelope
    } catch (error) {
      const { code, message, details } = asMeshError(error)
      // A newer version may be what its author and all others agree on.
      return { outcome: 'refused', id, code, reason: message, faulty: details.field !== 'v' }
    }
  }

  #write(): void {
    this.#writing ??= this.#drain().finally(() => {
      this.#writing = undefined
      if (this.#queue.length > 0) this.#write()
    })
  }

  async #drain(): Promise<void> {
    while (this.#queue.length > 0) {
      // One writer: a batch must be durable before the next is judged.
      const batch = this.#queue.splice(0, REPLICA_LIMITS.batch)
      await this.#writeBatch(batch)
      this.#queuedBytes -= sizeOf(batch)
    }
  }

  async #writeBatch(jobs: readonly Job[]): Promise<void> {
    const staged = new Staged(this.state.history)
    const judged = jobs.map((job) => ({ job, outcome: this.#judge(job, staged) }))
    const fresh = [...staged.envelopes.values()]
    try {
      await this.#append(fresh)
    } catch (error) {
      this.#lastWriteError = asMeshError(error)
      this.#options.log.error('edits could not be stored; nothing of them was taken', {
        error: this.#lastWriteError.message,
      })
      for (const { job } of judged) job.fail(this.#lastWriteError)
      return
    }
    for (const envelope of fresh) this.#add(envelope)
    for (const { job, outcome } of judged) {
      this.#count(outcome, job.source)
      job.settle(outcome)
    }
    this.#announce(judged)
  }

  async #append(envelopes: readonly Envelope[]): Promise<void> {
    if (envelopes.length === 0) return
    const { store, clock, metrics } = this.#options
    const startedMs = clock.monotonic()
    try {
      await store.append(envelopes.map((envelope) => ({ id: envelope.id, wire: toWire(envelope) })))
    } catch (error) {
      metrics.storeAppends.inc({ outcome: 'failed' })
      throw error
    }
    this.#lastWriteError = undefined
    metrics.storeAppends.inc({ outcome: 'done' })
    metrics.storeAppendSeconds.observe((clock.monotonic() - startedMs) / 1000)
    metrics.storeAppendedBytes.inc(envelopes.reduce((sum, { size }) => sum + size, 0))
  }

  #judge({ envelope, source, peer }: Job, staged: Staged): Outcome {
    const { id } = envelope
    const known = staged.get(id)
    if (known !== undefined && hasSigners(known, envelope)) return { outcome: 'known', id }
    const admission = admit(envelope, staged)
    if (admission.outcome === 'waiting') {
      this.#park(envelope, source, peer)
      return { outcome: 'waiting', id, missing: admission.missing }
    }
    const refusal =
      admission.outcome === 'refused' ? deny(admission.reason, true) : this.#refuse(envelope, source, staged)
    if (refusal !== undefined) return { outcome: 'refused', id, ...refusal }
    staged.add(known === undefined ? envelope : { ...envelope, sigs: { ...known.sigs, ...envelope.sigs } })
    return { outcome: 'stored', id }
  }

  /** What this node will not take although it is admissible. */
  #refuse(envelope: Envelope, source: Source, staged: Staged): Refusal | undefined {
    const { body } = envelope
    if (body.type === 'genesis' || staged.get(envelope.id) !== undefined) return undefined
    const limit = this.#options.bytesPerAuthor ?? REPLICA_LIMITS.bytesPerAuthor
    const storedBytes = this.state.history.bytesOf(body.by) + staged.bytesOf(body.by)
    if (storedBytes + envelope.size > limit) {
      if (!this.#overQuota.has(body.by))
        this.#options.log.warn('an author has filled its share of the store', { author: body.by })
      this.#overQuota.add(body.by)
      return deny(`the author has stored ${storedBytes} bytes, and the limit is ${limit}`, false)
    }
    if (source === 'api' && body.at > this.#options.clock.now() + CLAIMED_TIME_LEAD_MS) {
      const reason = `at claims ${new Date(body.at).toISOString()}, over a day ahead of this node: is your clock right?`
      return { code: 'input_invalid', reason, faulty: false }
    }
    const isGrant = body.type === 'grant' && source === 'api'
    if (isGrant && this.state.policy.revocationsOf(envelope as Envelope<GrantBody>).length > 0) {
      return deny('the key was revoked, so a grant would have no effect; make a new key', false)
    }
    // A void edit from elsewhere is kept, since its verdict may flip; from an operator it is an error to be told.
    const isJudgeable = source === 'api' && this.state.history.has(body.grant)
    const verdict = isJudgeable ? this.state.policy.preview(envelope) : undefined
    if (verdict?.accepted === false && verdict.denial.code !== 'threshold') return deny(verdict.denial.message, false)
    const excess = source === 'api' && this.#knowsDeps(body) ? this.state.excessOf(body) : undefined
    if (excess === undefined) return undefined
    const reason = `it ${excessMessage(excess)}: change fewer fields at once, or revoke the key that wrote so many`
    return { code: 'input_invalid', reason, faulty: false }
  }

  #knowsDeps(body: Body): boolean {
    return body.type === 'edit' && body.edits.every(([, deps]) => deps.every((dep) => this.state.history.has(dep)))
  }

  #add(envelope: Envelope): void {
    const { history } = this.state
    const before =
      envelope.body.type === 'genesis' ? 0 : (history.chain(envelope.body.ws, envelope.body.by)?.forks ?? 0)
    this.state.add(envelope)
    if (envelope.body.type === 'genesis') return
    const { ws, by, n } = envelope.body
    const forks = history.chain(ws, by)?.forks ?? 0
    if (forks > before) this.#noteFork({ author: by, workspace: ws, n, forks })
  }

  /** One may be a mishap. Of many not each is told: a thief may make thousands. */
  #noteFork(fork: { author: string; workspace: string; n: number; forks: number }): void {
    const { metrics, log } = this.#options
    metrics.forks.inc()
    if (fork.forks === 1) log.info('an author has signed two edits in one place: was its chain file restored?', fork)
    else if (Number.isInteger(Math.log2(fork.forks)))
      log.warn('an author signs in two places at once: a shared or stolen key', fork)
  }

  #announce(judged: readonly { job: Job; outcome: Outcome }[]): void {
    const bySource = new Map<Source, Envelope[]>()
    const missing = new Map<PeerKey, string[]>()
    for (const { job, outcome } of judged) {
      if (outcome.outcome === 'stored') {
        bySource.set(job.source, [...(bySource.get(job.source) ?? []), job.envelope])
        this.#release(outcome.id)
      }
      if (outcome.outcome === 'waiting' && job.peer !== undefined) {
        missing.set(job.peer, [...(missing.get(job.peer) ?? []), ...outcome.missing])
      }
    }
    for (const [source, envelopes] of bySource) for (const listener of this.#onStored) listener(envelopes, source)
    for (const [peer, ids] of missing) for (const listener of this.#onMissing) listener(peer, [...new Set(ids)])
  }

  #park(envelope: Envelope, source: Source, peer: PeerKey | undefined): void {
    const admission = admit(envelope, this.state.history)
    if (admission.outcome !== 'waiting') return
    this.#waiting.add({ envelope, peer, missing: new Set(admission.missing), tag: source })
  }

  /** Puts what waited for this envelope, and for nothing else, back into the queue. */
  #release(id: string): void {
    const ready = this.#waiting.release(id, (missing) => this.state.history.has(missing))
    // One that cannot be written is let go: it is no longer waiting, and sync brings it again.
    const ignore = (): void => undefined
    for (const { envelope, peer, tag } of ready) {
      this.#push({ envelope, source: tag, peer, settle: ignore, fail: ignore })
    }
  }

  #noteCorrupt(key: string, reason: string): void {
    this.#corrupt += 1
    this.#options.metrics.storeCorruptRecords.inc()
    this.#options.log.error('a stored record is corrupt and was left out; peers will refill it', {
      record: key,
      reason,
    })
  }

  #count(outcome: Outcome, source: Source): void {
    const { edits, verdicts } = this.#options.metrics
    edits.inc({ outcome: outcome.outcome, source })
    if (outcome.outcome !== 'stored') return
    const { accepted } = this.state.policy.verdict(this.state.history.get(outcome.id) as Envelope)
    verdicts.inc({ verdict: accepted ? 'accepted' : 'void', source })
  }
}

/** The history with the envelopes of the batch that is being judged laid over it. */
class Staged implements Lookup {
  readonly envelopes = new Map<string, Envelope>()
  readonly #bytesOf = new Map<string, number>()
  readonly #history: Lookup

  constructor(history: Lookup) {
    this.#history = history
  }

  get(id: string): Envelope | undefined {
    return this.envelopes.get(id) ?? this.#history.get(id)
  }

  add(envelope: Envelope): void {
    const { id, body, size } = envelope
    if (body.type !== 'genesis' && this.get(id) === undefined) this.#bytesOf.set(body.by, this.bytesOf(body.by) + size)
    this.envelopes.set(id, envelope)
  }

  /** Bytes that the batch adds to this author's. */
  bytesOf(author: string): number {
    return this.#bytesOf.get(author) ?? 0
  }
}

function sizeOf(jobs: readonly Job[]): number {
  return jobs.reduce((sum, { envelope }) => sum + envelope.size, 0)
}

function deny(reason: string, faulty: boolean): Refusal {
  return { code: 'denied', reason, faulty }
}

const BEHIND_A_FAULTY_ONE: Outcome = {
  outcome: 'refused',
  id: undefined,
  code: 'envelope_invalid',
  reason: 'came behind a faulty envelope and was not looked at',
  faulty: true,
}

/** Whether `known` has all signatures that `wire` has. */
function hasSigners(known: WireEnvelope, wire: WireEnvelope): boolean {
  return Object.keys(wire.sigs).every((key) => Object.hasOwn(known.sigs, key))
}

/** An operator whose clock runs this far ahead is told; elsewhere claimed time is advisory and never judged. */
const CLAIMED_TIME_LEAD_MS = 24 * 60 * 60 * 1000

/** Resources materialised before others run: some tens of ms. */
const RESOURCES_A_TURN = 32

/** Lets timers, sockets and other work have their turn. */
function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve))
}
