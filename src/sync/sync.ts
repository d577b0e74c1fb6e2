/**
 * Anti-entropy and gossip of edits: makes any two connected nodes hold the same envelopes. Gossip is a hint for speed; a
 * round with a peer (sync-round.ts asks, this file answers) is enough alone. Both sides pull; nobody pushes. Decides when a
 * round is due; called by node.ts with what the network hears; writes through the replica only.
 */

import { encodedSize, decodeEnvelopes, encodeEnvelopes, toWire } from '../core/codec.ts'
import type { Envelope } from '../core/envelope.ts'
import { Summary } from '../core/summary.ts'
import { asMeshError, MeshError } from '../errors.ts'
import type { Log } from '../log.ts'
import type { Metrics } from '../metrics.ts'
import type { Clock, GossipVerdict, Network, PeerKey, Random, Startable } from '../ports.ts'
import type { Outcome, Replica } from '../replica.ts'
import type { StatusTable } from '../status/status.ts'
import {
  encodeFrame,
  fitPage,
  PAGE_CHAINS,
  PAGE_ITEMS,
  parseRequest,
  RANGE_PARTS,
  type Answer,
  type Ask,
  type Request,
} from './sync-messages.ts'
import { SyncRound } from './sync-round.ts'
import { TokenBuckets } from '../token-buckets.ts'

/** A round that still brings something after so many passes makes room for others and goes on in the next one. */
const PASSES_MAX = 16
/** After a digest was seen to differ: gossip may still be on its way. */
const MISMATCH_DELAY_MS = 300
/** After an edit came whose ancestors are unknown: they may be right behind it. */
const MISSING_DELAY_MS = 50
/** A peer whose last rounds brought nothing although it differs, or failed, is asked again after this, doubled each time. */
const VAIN_BASE_MS = 300
const VAIN_MAX_MS = 10_000
/** How long a round waits for those with other peers that began before, so that nothing is fetched twice. */
const TURN_MAX_MS = 5_000
/** How long a node that has no settled peer hopes for one: two that have lost everything agree at once, on nothing. */
const SETTLED_PEER_WAIT_MS = 3_000
/** What a peer may cost: a request, 16 KiB of an answer or a useless gossiped edit is one token. Beyond it the peer is refused. */
const COSTS = { burst: 8192, perSecond: 200, bytesAToken: 16 * 1024, itemsAToken: 1024 } as const

export interface SyncOptions {
  readonly replica: Replica
  readonly network: Pick<Network, 'request' | 'publish' | 'disconnect' | 'connected'>
  readonly clock: Clock
  readonly random: Random
  readonly log: Log
  readonly metrics: Metrics
  /** Time between rounds with one random peer, jittered by 20 %. */
  readonly intervalMs: number
  /** Off for a test that proves that rounds alone converge. */
  readonly gossip: boolean
  /** Whether a genesis may be taken from this peer by a node that has no mesh and pins none. */
  readonly trustsGenesisOf: (peer: PeerKey) => boolean
  readonly status: Pick<StatusTable, 'versions' | 'newerThan' | 'receive'>
  /** Whether this node itself holds what the mesh holds. */
  readonly isSettled: () => boolean
  /** Called once a mesh is known. */
  readonly onMesh: (meshId: string) => void
  /** Called when a complete round shows that this node holds what the mesh holds. */
  readonly onSettled: () => void
}

/** What is remembered of a connected peer. */
interface PeerRounds {
  running: Promise<void> | undefined
  /** Another round was asked for while one ran. */
  again: boolean
  /** When the next one is due, monotonic ms. */
  dueMs: number
  cancel: () => void
  /** Both digests at the end of a round that brought nothing: no use to try again until one changes. */
  stuckAt: string | undefined
  /** Rounds in a row that failed or brought nothing although the digests differ. */
  inVain: number
  notBeforeMs: number
}

interface RoundResult {
  /** The peer's digest at the end; undefined when there is no common mesh. */
  readonly remote: string | undefined
  readonly stored: number
  /** Whether there was nothing more to get. */
  readonly isComplete: boolean
}

export class Sync implements Startable {
  readonly #options: SyncOptions
  readonly #summary: Summary
  readonly #costs: TokenBuckets
  readonly #peers = new Map<PeerKey, PeerRounds>()
  readonly #inFlight = new Set<Promise<void>>()
  #turn: Promise<void> = Promise.resolve()
  #abort = new AbortController()
  #startedMs = 0
  #cancelTimer: () => void = () => undefined
  #unsubscribe: () => void = () => undefined

  constructor(options: SyncOptions) {
    this.#options = options
    this.#summary = new Summary(options.replica.state.history)
    this.#costs = new TokenBuckets(options.clock, COSTS.burst, COSTS.perSecond)
  }

  async start(): Promise<void> {
    const { replica, clock } = this.#options
    this.#abort = new AbortController()
    this.#startedMs = clock.monotonic()
    const unsubscribeMissing = replica.onMissing((peer) => this.syncSoon(peer, MISSING_DELAY_MS))
    const unsubscribeStored = replica.onStored((envelopes, source) => this.#spread(envelopes, source))
    this.#unsubscribe = () => {
      unsubscribeMissing()
      unsubscribeStored()
    }
    this.#scheduleTimer()
  }

  async stop(): Promise<void> {
    this.#abort.abort(new MeshError('unavailable', 'this node is stopping'))
    this.#cancelTimer()
    this.#unsubscribe()
    for (const rounds of this.#peers.values()) rounds.cancel()
    await Promise.all(this.#inFlight)
  }

  /** Peers that it remembers anything of: those connected. */
  get peerCount(): number {
    return this.#peers.size
  }

  /** Digest of all that this node holds. */
  digest(): string {
    return this.#summary.digest()
  }

  /** To be called with every status record: a connected peer that holds something else is synchronised with. */
  compare(peer: PeerKey, digest: string): void {
    if (digest === this.digest() || this.#peers.get(peer)?.stuckAt === `${this.digest()} ${digest}`) return
    this.syncSoon(peer, MISMATCH_DELAY_MS * (0.5 + this.#options.random()))
  }

  /** Starts a round with this peer after a delay, unless one is due sooner, or the peer has to wait. */
  syncSoon(peer: PeerKey, delayMs: number): void {
    const { clock, network } = this.#options
    if (this.#abort.signal.aborted || !network.connected.includes(peer)) return
    const rounds = this.#roundsOf(peer)
    if (rounds.running !== undefined) {
      rounds.again = true
      return
    }
    const now = clock.monotonic()
    const dueMs = Math.max(now + delayMs, rounds.notBeforeMs)
    if (rounds.dueMs <= dueMs) return
    rounds.cancel()
    rounds.dueMs = dueMs
    rounds.cancel = clock.after(dueMs - now, () => void this.#begin(peer, rounds))
  }

  /** A connection is gone: nothing more is to be asked of this peer. */
  forget(peer: PeerKey): void {
    this.#peers.get(peer)?.cancel()
    this.#peers.delete(peer)
  }

  /** Takes a gossip message of edits. */
  async onGossip(from: PeerKey, payload: Uint8Array): Promise<GossipVerdict> {
    const { gossip, replica } = this.#options
    if (!gossip || replica.meshId === undefined || !this.#costs.has(from)) return 'ignore'
    let outcomes: Outcome[]
    try {
      outcomes = await replica.submit(decodeEnvelopes(payload), 'gossip', from)
    } catch (error) {
      // A store that cannot be written is our fault, not the sender's.
      const { code } = asMeshError(error)
      return code === 'envelope_invalid' || code === 'too_large' ? 'reject' : 'ignore'
    }
    const useless = outcomes.filter(({ outcome }) => outcome === 'waiting' || outcome === 'refused')
    if (useless.length > 0) this.#costs.take(from, useless.length)
    if (outcomes.some((outcome) => outcome.outcome === 'refused' && outcome.faulty)) return 'reject'
    return outcomes.some(({ outcome }) => outcome === 'stored') ? 'accept' : 'ignore'
  }

  /** Answers a peer's request. A malformed one, or one too many, gets an error in the answer; it never throws. */
  async onRequest(from: PeerKey, frame: Uint8Array): Promise<Uint8Array> {
    if (!this.#costs.has(from)) return encodeFrame({ error: 'too many requests' })
    let answer: Uint8Array
    try {
      const { request, envelopes } = parseRequest(frame)
      answer = request.ask === 'take' ? await this.#takeRevocations(from, envelopes) : this.#answer(from, request)
    } catch (error) {
      this.#options.log.debug('a request of a peer was refused', { peer: from, error: asMeshError(error).message })
      answer = encodeFrame({ error: 'bad request' })
    }
    this.#costs.take(from, 1 + answer.length / COSTS.bytesAToken)
    return answer
  }

  /** Sends its revocations to a peer that is about to be cut off, so that it knows why. Best effort. */
  async tell(peer: PeerKey, revocations: readonly Envelope[]): Promise<void> {
    const frame = encodeFrame({ ask: 'take' } satisfies Request, fitPage(revocations.map(toWire)))
    await this.#options.network.request(peer, frame, { signal: this.#abort.signal })
  }

  // -------------------------------------------------------------------------------------------- answering

  async #takeRevocations(from: PeerKey, envelopes: Parameters<Replica['submit']>[0]): Promise<Uint8Array> {
    const outcomes = await this.#options.replica.submit(envelopes, 'sync', from)
    // The sender cuts us off when this is answered, so what the revocations rest on is fetched before.
    const isWaiting = outcomes.some(({ outcome }) => outcome === 'waiting')
    if (isWaiting && this.#options.network.connected.includes(from)) await this.#begin(from, this.#roundsOf(from))
    return encodeFrame({} satisfies Answer<'take'>)
  }

  #answer(from: PeerKey, request: Exclude<Request, { ask: 'take' }>): Uint8Array {
    const { history } = this.#options.replica.state
    switch (request.ask) {
      case 'hello':
        return this.#answerHello(from, request)
      case 'summary':
        return encodeFrame(this.#answerSummary(from, request))
      case 'ranges': {
        const ranges = this.#rangesOf(from, request)
        return encodeFrame({ ranges: ranges.map(({ count, hash }) => [count, hash]) } satisfies Answer<'ranges'>)
      }
      case 'items': {
        const items = this.#summary
          .items(request.workspace, request.author, request.from, request.to)
          .slice(request.skip, request.skip + PAGE_ITEMS)
          .map(({ item, id }): [string, number] => [item, history.positionOf(id) ?? 0])
        return encodeFrame({ items } satisfies Answer<'items'>)
      }
      case 'fetch': {
        const found = request.ids.map((id) => history.get(id)).filter((envelope) => envelope !== undefined)
        return encodeFrame({} satisfies Answer<'fetch'>, this.#give(found))
      }
      case 'log': {
        const ids = history.order.slice(request.from, request.from + PAGE_ITEMS)
        const page = this.#give(ids.map((id) => history.get(id) as Envelope))
        const next = request.from + page.length
        return encodeFrame({ next: next < history.size ? next : null } satisfies Answer<'log'>, page)
      }
      case 'status':
        return encodeFrame(this.#options.status.newerThan(request.known) satisfies Answer<'status'>)
    }
  }

  #answerHello(from: PeerKey, { mesh }: Ask<'hello'>): Uint8Array {
    const { replica, isSettled } = this.#options
    const { genesis } = replica.state.history
    // The asker may be the first to bring a mesh.
    if (genesis === undefined && mesh !== null) this.syncSoon(from, 0)
    const answer: Answer<'hello'> = { mesh: genesis?.id ?? null, settled: isSettled() }
    return encodeFrame(answer, genesis === undefined ? [] : [toWire(genesis)])
  }

  #answerSummary(from: PeerKey, { digest, after }: Ask<'summary'>): Answer<'summary'> {
    const own = this.digest()
    if (digest === own) return { digest: own, chains: [], next: null }
    // The asker has something else than we: perhaps more. Its answer to us will tell.
    this.compare(from, digest)
    const chains = this.#summary.chains()
    const next = after + PAGE_CHAINS
    return { digest: own, chains: chains.slice(after, next), next: next < chains.length ? next : null }
  }

  #rangesOf(peer: PeerKey, { workspace, author, from, to }: Ask<'ranges'>): { count: number; hash: string }[] {
    if (from > to) return []
    const ranges = this.#summary.ranges(workspace, author, from, to, RANGE_PARTS)
    this.#costs.take(peer, ranges.reduce((sum, { count }) => sum + count, 0) / COSTS.itemsAToken)
    return ranges
  }

  #give(envelopes: readonly Envelope[]): Envelope[] {
    const page = fitPage(envelopes)
    this.#options.metrics.syncSentBytes.inc(page.reduce((sum, wire) => sum + encodedSize(wire), 0))
    return page
  }

  // -------------------------------------------------------------------------------------------- rounds

  #roundsOf(peer: PeerKey): PeerRounds {
    const rounds = this.#peers.get(peer) ?? {
      running: undefined,
      again: false,
      dueMs: Infinity,
      cancel: () => undefined,
      stuckAt: undefined,
      inVain: 0,
      notBeforeMs: 0,
    }
    this.#peers.set(peer, rounds)
    return rounds
  }

  /** Begins a round now; the one that runs already is waited for instead. Never rejects. */
  #begin(peer: PeerKey, rounds: PeerRounds): Promise<void> {
    if (rounds.running !== undefined) return rounds.running
    rounds.cancel()
    rounds.dueMs = Infinity
    const done = this.#run(peer, rounds).finally(() => {
      rounds.running = undefined
      this.#inFlight.delete(done)
      if (rounds.again) this.syncSoon(peer, MISMATCH_DELAY_MS)
    })
    rounds.running = done
    this.#inFlight.add(done)
    return done
  }

  async #run(peer: PeerKey, rounds: PeerRounds): Promise<void> {
    const { clock, log, metrics } = this.#options
    const startedMs = clock.monotonic()
    rounds.again = false
    try {
      const { remote, stored, isComplete } = await this.#round(peer, rounds.inVain)
      const isEqual = remote === this.digest()
      rounds.stuckAt = isEqual || remote === undefined ? undefined : `${this.digest()} ${remote}`
      rounds.again ||= !isComplete
      this.#pace(rounds, isEqual || stored > 0)
      metrics.syncRounds.inc({ outcome: 'done' })
    } catch (error) {
      const { code, message } = asMeshError(error)
      if (!this.#abort.signal.aborted) log.info('a sync round failed; it will be tried again', { peer, code, message })
      this.#pace(rounds, false)
      rounds.again = true
      metrics.syncRounds.inc({ outcome: 'failed' })
    }
    metrics.syncSeconds.observe((clock.monotonic() - startedMs) / 1000)
  }

  /** Lets a peer wait the longer, the more rounds with it were in vain. */
  #pace(rounds: PeerRounds, isFruitful: boolean): void {
    const { clock, random } = this.#options
    rounds.inVain = isFruitful ? 0 : rounds.inVain + 1
    const waitMs = isFruitful ? 0 : Math.min(VAIN_MAX_MS, VAIN_BASE_MS * 2 ** rounds.inVain) * (0.5 + 0.5 * random())
    rounds.notBeforeMs = clock.monotonic() + waitMs
  }

  async #round(peer: PeerKey, inVain: number): Promise<RoundResult> {
    const { replica, log, metrics, network } = this.#options
    const send = (frame: Uint8Array): Promise<Uint8Array> =>
      network.request(peer, frame, { signal: this.#abort.signal })
    const round = new SyncRound({ peer, replica, summary: this.#summary, log, metrics, inVain, send })
    const agreed = await this.#agreeOnMesh(peer, round)
    if (agreed === undefined) return { remote: undefined, stored: 0, isComplete: true }
    await this.#exchangeStatuses(round)
    const result = await this.#inTurn(() => this.#pull(round))
    // Who was a stranger before may have been granted now.
    if (result.stored > 0) await this.#exchangeStatuses(round)
    if (result.isComplete) this.#settle(peer, agreed.settled)
    return result
  }

  async #pull(round: SyncRound): Promise<RoundResult> {
    const { history } = this.#options.replica.state
    let stored = 0
    for (let pass = 0; ; pass += 1) {
      const isNew = history.size <= 1
      const { answer } = await round.ask({ ask: 'summary', digest: this.digest(), after: 0 })
      const remote = answer.digest
      if (remote === this.digest()) return { remote, stored, isComplete: true }
      const brought = isNew ? await round.copyLog() : await round.pullDifference(answer)
      stored += brought
      if (brought === 0 || pass === PASSES_MAX) return { remote, stored, isComplete: brought === 0 }
    }
  }

  /** One round pulls at a time; one that takes long does not hold up the others for ever. */
  async #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const before = this.#turn
    const { promise, resolve } = Promise.withResolvers<void>()
    this.#turn = promise
    const patience = Promise.withResolvers<void>()
    const cancel = this.#options.clock.after(TURN_MAX_MS, patience.resolve)
    await Promise.race([before, patience.promise])
    cancel()
    try {
      return await work()
    } finally {
      resolve()
    }
  }

  /** What the peer says of itself; undefined when there is no mesh in common. */
  async #agreeOnMesh(peer: PeerKey, round: SyncRound): Promise<Answer<'hello'> | undefined> {
    const { replica, log, network, trustsGenesisOf, onMesh } = this.#options
    const { answer, envelopes } = await round.ask({ ask: 'hello', mesh: replica.meshId ?? null })
    if (answer.mesh === null) return undefined
    if (replica.meshId !== undefined && answer.mesh !== replica.meshId) {
      log.warn('a peer belongs to another mesh; it is disconnected', { peer, theirs: answer.mesh, own: replica.meshId })
      await network.disconnect(peer)
      return undefined
    }
    const [genesis] = envelopes
    if (replica.state.meshId === undefined) {
      if (genesis === undefined || (replica.meshId === undefined && !trustsGenesisOf(peer))) return undefined
      await replica.adopt(genesis)
      log.info('this node’s mesh is pinned', { mesh: replica.meshId, from: peer })
      onMesh(replica.meshId as string)
    }
    return answer
  }

  async #exchangeStatuses(round: SyncRound): Promise<void> {
    const { status } = this.#options
    for (let isNews = true; isNews;) {
      const { answer } = await round.ask({ ask: 'status', known: status.versions() })
      const verdicts = answer.records.map(([signed, ageMs]) => status.receive(signed, ageMs))
      if (verdicts.includes('reject')) throw new MeshError('envelope_invalid', 'the peer sent a faulty status record')
      isNews = answer.more && verdicts.includes('accept')
    }
  }

  #settle(peer: PeerKey, isPeerSettled: boolean): void {
    const { clock, replica, isSettled, onSettled } = this.#options
    if (isSettled()) return
    const waitMs = this.#startedMs + SETTLED_PEER_WAIT_MS - clock.monotonic()
    if (isPeerSettled || (waitMs <= 0 && replica.state.history.size > 1)) onSettled()
    else clock.after(Math.max(waitMs, SETTLED_PEER_WAIT_MS / 2), () => this.syncSoon(peer, 0))
  }

  #scheduleTimer(): void {
    const { clock, network, random, intervalMs } = this.#options
    this.#cancelTimer = clock.after(intervalMs * (0.8 + 0.4 * random()), () => {
      const { connected } = network
      const peer = connected[Math.floor(random() * connected.length)]
      if (peer !== undefined) this.syncSoon(peer, 0)
      this.#scheduleTimer()
    })
  }

  // -------------------------------------------------------------------------------------------- spreading

  /** What came in at this node's API goes out at once; what gossip brought, the network relays by itself. */
  #spread(envelopes: readonly Envelope[], source: string): void {
    if (source !== 'api' || !this.#options.gossip) return
    for (let rest = envelopes; rest.length > 0;) {
      const page = fitPage(rest)
      rest = rest.slice(page.length)
      void this.#options.network.publish('edits', encodeEnvelopes(page)).catch((error: unknown) => {
        const { message } = asMeshError(error)
        this.#options.log.debug('gossip failed; sync rounds will spread the edits', { error: message })
      })
    }
  }
}
