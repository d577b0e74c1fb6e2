/**
 * The only writer of edits: one gate for API, gossip, sync and disk. Parses, admits, stores durably, and only then adds to
 * the state and tells the listeners. Holds what waits for unknown ancestors in a bounded pool. Never touches the network.
 */

import { admit } from './core/admission.ts'
import { toWire } from './core/codec.ts'
import { parseEnvelope, type Envelope, type WireEnvelope } from './core/envelope.ts'
import type { Lookup } from './core/history.ts'
import { MeshState } from './core/state.ts'
import { asMeshError, MeshError, type ErrorCode } from './errors.ts'
import type { Log } from './log.ts'
import type { Metrics } from './metrics.ts'
import type { Clock, PeerKey, Startable, Store } from './ports.ts'
import { TokenBuckets } from './token-buckets.ts'

/** Where an envelope came in. Rates apply to api and gossip only: what was accepted once must always spread. */
export type Source = 'api' | 'gossip' | 'sync' | 'disk'

/** What became of one submitted envelope. */
export type Outcome =
  | { readonly outcome: 'stored'; readonly id: string }
  /** Was stored before. */
  | { readonly outcome: 'known'; readonly id: string }
  /** Held until the missing envelopes arrive; may be dropped when the pool is full. */
  | { readonly outcome: 'waiting'; readonly id: string; readonly missing: readonly string[] }
  | { readonly outcome: 'refused'; readonly id: string | undefined; readonly code: ErrorCode; readonly reason: string }

/** What a full queue, pool or account does is written beside each limit. */
export const REPLICA_LIMITS = {
  /** Submissions waiting for the writer; beyond it new ones are refused as `unavailable`. */
  queuedEnvelopes: 20_000,
  /** Envelopes written in one batch, with one fsync. */
  batch: 512,
  /** Bytes that wait for ancestors on behalf of one peer, and in all; beyond it the oldest of that peer (of all) is dropped. */
  pendingBytesPerPeer: 1024 * 1024,
  pendingBytes: 32 * 1024 * 1024,
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

interface Pending {
  readonly envelope: Envelope
  readonly source: Source
  readonly peer: PeerKey | undefined
  readonly missing: Set<string>
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
}

export class Replica implements Startable {
  readonly state: MeshState = new MeshState()
  readonly #options: ReplicaOptions
  readonly #rates: TokenBuckets
  readonly #queue: Job[] = []
  readonly #pending = new Map<string, Pending>()
  readonly #pendingBytes = new Map<PeerKey | undefined, number>()
  readonly #waitingFor = new Map<string, Set<string>>()
  readonly #onStored = new Set<StoredListener>()
  readonly #onMissing = new Set<MissingListener>()
  readonly #overQuota = new Set<string>()
  #meshId: string | undefined
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
    this.#isStopped = false
    const parked: Envelope[] = []
    for await (const { wire, sealed } of this.#options.store.envelopes((record) =>
      this.#noteCorrupt(record.key, record.reason),
    )) {
      try {
        const envelope = parseEnvelope(wire, this.#meshId, { signaturesAreChecked: sealed })
        this.#meshId ??= envelope.id
        if (!this.#restore(envelope)) parked.push(envelope)
      } catch (error) {
        this.#noteCorrupt('envelope', asMeshError(error).message)
      }
    }
    // An ancestor that was refilled later lies behind its descendants on disk.
    let remaining = parked
    for (let before = -1; before !== remaining.length;) {
      before = remaining.length
      remaining = remaining.filter((envelope) => !this.#restore(envelope))
    }
    for (const envelope of remaining) this.#park(envelope, 'disk', undefined)
  }

  /** Waits for the write in flight, refuses what is queued, closes the store. */
  async stop(): Promise<void> {
    if (this.#isStopped) return
    this.#isStopped = true
    for (const job of this.#queue.splice(0)) job.fail(new MeshError('unavailable', 'this node is stopping'))
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
    return this.#pending.size
  }

  /** Authors whose envelopes are refused because they fill their share of the store. */
  get authorsOverQuota(): readonly string[] {
    return [...this.#overQuota]
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
    const envelope = parseEnvelope(genesis, this.#meshId)
    if (envelope.body.type !== 'genesis') throw new MeshError('envelope_invalid', 'not a genesis', { field: 'type' })
    this.#meshId = envelope.id
    const [outcome] = await this.submit([genesis], 'sync')
    if (outcome?.outcome === 'refused') throw new MeshError(outcome.code, outcome.reason)
  }

  /**
   * Takes envelopes from outside. Resolves when each one's fate is known: what is `stored` is durable.
   * The outcomes are in the order of the input; later ones may depend on earlier ones.
   * @throws MeshError `store_unwritable` when nothing can be written, `unavailable` when the queue is full.
   */
  async submit(wires: readonly WireEnvelope[], source: Source, peer?: PeerKey): Promise<Outcome[]> {
    if (this.#isStopped) throw new MeshError('unavailable', 'this node is stopping')
    if (this.#queue.length + wires.length > REPLICA_LIMITS.queuedEnvelopes) {
      throw new MeshError('unavailable', 'too many edits are waiting to be written', { hint: 'Try again in a moment.' })
    }
    const outcomes = wires.map((wire) => this.#receive(wire, source, peer))
    this.#write()
    return await Promise.all(outcomes)
  }

  #receive(wire: WireEnvelope, source: Source, peer: PeerKey | undefined): Promise<Outcome> {
    const outcome = this.#parse(wire, source)
    if ('outcome' in outcome) {
      this.#count(outcome, source)
      return Promise.resolve(outcome)
    }
    const { promise, resolve, reject } = Promise.withResolvers<Outcome>()
    this.#queue.push({ envelope: outcome, source, peer, settle: resolve, fail: reject })
    return promise
  }

  /** The part that needs no history: form, signatures, rate. */
  #parse(wire: WireEnvelope, source: Source): Envelope | Outcome {
    try {
      const envelope = parseEnvelope(wire, this.#meshId)
      const isLimited = (source === 'api' || source === 'gossip') && envelope.body.type !== 'genesis'
      if (isLimited && !this.state.history.has(envelope.id) && !this.#rates.take(envelope.body.by)) {
        const reason = `over ${REPLICA_LIMITS.authorPerMinute} edits a minute by one author`
        return { outcome: 'refused', id: envelope.id, code: 'rate_limited', reason }
      }
      return envelope
    } catch (error) {
      const { code, message } = asMeshError(error)
      return { outcome: 'refused', id: undefined, code, reason: message }
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
      // oxlint-disable-next-line no-await-in-loop -- one writer: a batch must be durable before the next is judged
      await this.#writeBatch(this.#queue.splice(0, REPLICA_LIMITS.batch))
    }
  }

  async #writeBatch(jobs: readonly Job[]): Promise<void> {
    const staged = new Staged(this.state.history)
    const judged = jobs.map((job) => ({ job, outcome: this.#judge(job, staged) }))
    const fresh = [...staged.envelopes.values()]
    try {
      if (fresh.length > 0)
        await this.#options.store.append(fresh.map((envelope) => ({ id: envelope.id, wire: toWire(envelope) })))
      if (fresh.length > 0) this.#lastWriteError = undefined
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

  #judge({ envelope, source, peer }: Job, staged: Staged): Outcome {
    const { id } = envelope
    const known = staged.get(id)
    if (known !== undefined && Object.keys(envelope.sigs).every((key) => Object.hasOwn(known.sigs, key))) {
      return { outcome: 'known', id }
    }
    const admission = admit(envelope, staged)
    if (admission.outcome === 'waiting') {
      this.#park(envelope, source, peer)
      return { outcome: 'waiting', id, missing: admission.missing }
    }
    const refused = admission.outcome === 'refused' ? deny(admission.reason) : this.#refuse(envelope, source)
    if (refused !== undefined) return { outcome: 'refused', id, ...refused }
    staged.add(known === undefined ? envelope : { ...envelope, sigs: { ...known.sigs, ...envelope.sigs } })
    return { outcome: 'stored', id }
  }

  /** What this node will not take although it is admissible. */
  #refuse(envelope: Envelope, source: Source): { code: ErrorCode; reason: string } | undefined {
    const { body } = envelope
    if (body.type === 'genesis') return undefined
    if (this.state.history.bytesOf(body.by) + envelope.size > REPLICA_LIMITS.bytesPerAuthor) {
      if (!this.#overQuota.has(body.by))
        this.#options.log.warn('an author has filled its share of the store', { author: body.by })
      this.#overQuota.add(body.by)
      return {
        code: 'denied',
        reason: `the author has stored ${REPLICA_LIMITS.bytesPerAuthor} bytes, which is the limit`,
      }
    }
    // A void edit from elsewhere is kept, since its verdict may flip; from an operator it is an error to be told.
    const isJudgeable = source === 'api' && this.state.history.has(body.grant)
    const verdict = isJudgeable ? this.state.policy.preview(envelope) : undefined
    return verdict?.accepted === false && verdict.denial.code !== 'threshold' ? deny(verdict.denial.message) : undefined
  }

  #restore(envelope: Envelope): boolean {
    const admission = admit(envelope, this.state.history)
    if (admission.outcome === 'refused') this.#noteCorrupt(envelope.id, admission.reason)
    if (admission.outcome === 'ready') this.state.add(envelope)
    return admission.outcome !== 'waiting'
  }

  #add(envelope: Envelope): void {
    const { history } = this.state
    const before =
      envelope.body.type === 'genesis' ? 0 : (history.chain(envelope.body.ws, envelope.body.by)?.forks ?? 0)
    this.state.add(envelope)
    if (envelope.body.type === 'genesis') return
    const { ws, by, n } = envelope.body
    const forks = history.chain(ws, by)?.forks ?? 0
    if (forks > before) {
      this.#options.metrics.forks.inc()
      this.#options.log.warn(
        'an author has signed two edits in one place: a shared or stolen key, or a restored backup',
        {
          author: by,
          workspace: ws,
          n,
          forks,
        },
      )
    }
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
    this.#options.metrics.pendingEdits.set(this.#pending.size)
  }

  // -------------------------------------------------------------------------------------------- the waiting pool

  #park(envelope: Envelope, source: Source, peer: PeerKey | undefined): void {
    if (this.#pending.has(envelope.id)) return
    const admission = admit(envelope, this.state.history)
    const missing = new Set(admission.outcome === 'waiting' ? admission.missing : [])
    this.#pending.set(envelope.id, { envelope, source, peer, missing })
    this.#pendingBytes.set(peer, (this.#pendingBytes.get(peer) ?? 0) + envelope.size)
    for (const id of missing) this.#waitingFor.set(id, (this.#waitingFor.get(id) ?? new Set()).add(envelope.id))
    this.#trimPending(peer)
  }

  #trimPending(peer: PeerKey | undefined): void {
    const total = (): number => this.#pendingBytes.values().reduce((sum, bytes) => sum + bytes, 0)
    while ((this.#pendingBytes.get(peer) ?? 0) > REPLICA_LIMITS.pendingBytesPerPeer) {
      this.#unpark(this.#pending.values().find((pending) => pending.peer === peer) as Pending)
    }
    while (total() > REPLICA_LIMITS.pendingBytes) this.#unpark(this.#pending.values().next().value as Pending)
  }

  #unpark({ envelope, peer, missing }: Pending): void {
    this.#pending.delete(envelope.id)
    const bytes = (this.#pendingBytes.get(peer) ?? 0) - envelope.size
    if (bytes > 0) this.#pendingBytes.set(peer, bytes)
    else this.#pendingBytes.delete(peer)
    for (const id of missing) {
      const waiting = this.#waitingFor.get(id)
      waiting?.delete(envelope.id)
      if (waiting?.size === 0) this.#waitingFor.delete(id)
    }
  }

  /** Puts what waited for this envelope, and for nothing else, back into the queue. */
  #release(id: string): void {
    for (const waitingId of this.#waitingFor.get(id) ?? []) {
      const pending = this.#pending.get(waitingId) as Pending
      const isReady = [...pending.missing].every((missing) => this.state.history.has(missing))
      if (!isReady) continue
      this.#unpark(pending)
      const { envelope, source, peer } = pending
      this.#queue.push({
        envelope,
        source,
        peer,
        settle: () => undefined,
        fail: () => this.#park(envelope, source, peer),
      })
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
    this.#options.metrics.edits.inc({ outcome: outcome.outcome, source })
  }
}

/** The history with the envelopes of the batch that is being judged laid over it. */
class Staged implements Lookup {
  readonly envelopes = new Map<string, Envelope>()
  readonly #history: Lookup

  constructor(history: Lookup) {
    this.#history = history
  }

  get(id: string): Envelope | undefined {
    return this.envelopes.get(id) ?? this.#history.get(id)
  }

  add(envelope: Envelope): void {
    this.envelopes.set(envelope.id, envelope)
  }
}

function deny(reason: string): { code: ErrorCode; reason: string } {
  return { code: 'denied', reason }
}
