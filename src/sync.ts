/**
 * Anti-entropy and gossip of edits: makes any two connected nodes hold the same envelopes. Gossip is a hint for speed; a
 * round (compare digests, then chains, then ranges; fetch what is missing, in causal order, in pages) is enough alone.
 * Both sides pull; nobody pushes. Called by node.ts with what the network hears; writes through the replica only.
 */

import { z } from 'zod'
import { decodeEnvelopes, encodedSize, encodeEnvelopes, toWire } from './core/codec.ts'
import type { Envelope, WireEnvelope } from './core/envelope.ts'
import { Summary, type RangeSummary } from './core/summary.ts'
import { asMeshError, MeshError } from './errors.ts'
import type { Log } from './log.ts'
import type { Metrics } from './metrics.ts'
import {
  MAX_MESSAGE_BYTES,
  type Clock,
  type GossipVerdict,
  type Network,
  type PeerKey,
  type Random,
  type Startable,
} from './ports.ts'
import type { Outcome, Replica } from './replica.ts'
import type { SignedStatus } from './status.ts'

const PAGE_BYTES = MAX_MESSAGE_BYTES - 64 * 1024
const PAGE_ITEMS = 1024
const PAGE_CHAINS = 2048
const PAGE_STATUSES = 16
const RANGE_PARTS = 16
/** A round that has not converged after so many passes is left to the next one: the peer is being written to. */
const PASSES_MAX = 4
/** After a digest was seen to differ: gossip may still be on its way. */
const MISMATCH_DELAY_MS = 300

// ---------------------------------------------------------------------------------------------- messages

const hash = z.string().regex(/^[0-9a-f]{64}$/)
const item = z.string().regex(/^[0-9a-f]{64}(?::[0-9a-f]{64})?$/)
const position = z.int().min(0)
const workspace = z.string().max(63)
const chainRange = { workspace, author: hash, from: position, to: position }

const REQUEST = z.discriminatedUnion('ask', [
  z.strictObject({ ask: z.literal('hello'), mesh: hash.nullable() }),
  z.strictObject({ ask: z.literal('summary'), digest: hash, after: position }),
  z.strictObject({ ask: z.literal('ranges'), ...chainRange }),
  z.strictObject({ ask: z.literal('items'), ...chainRange }),
  z.strictObject({ ask: z.literal('fetch'), ids: z.array(hash).max(PAGE_ITEMS) }),
  z.strictObject({ ask: z.literal('log'), from: position }),
  z.strictObject({ ask: z.literal('status'), after: position }),
  /** Envelopes the peer should have whatever it asks for: the revocation of its own key. */
  z.strictObject({ ask: z.literal('take') }),
])
type Request = z.infer<typeof REQUEST>
type Ask<A extends Request['ask']> = Extract<Request, { ask: A }>

const chainSummary = z.strictObject({ workspace, author: hash, count: position, highestN: position, hash })
const rangeSummary = z.strictObject({ from: position, to: position, count: position, hash })
const ANSWERS = {
  hello: z.strictObject({ mesh: hash.nullable() }),
  summary: z.strictObject({ digest: hash, chains: z.array(chainSummary).max(PAGE_CHAINS), next: position.nullable() }),
  ranges: z.strictObject({ ranges: z.array(rangeSummary).max(RANGE_PARTS) }),
  /** Item and its position in the peer's own causal order. */
  items: z.strictObject({ items: z.array(z.tuple([item, position])).max(PAGE_ITEMS) }),
  fetch: z.strictObject({}),
  log: z.strictObject({ next: position.nullable() }),
  status: z.strictObject({ records: z.array(z.unknown()).max(PAGE_STATUSES), next: position.nullable() }),
  take: z.strictObject({}),
} as const satisfies Record<Request['ask'], z.ZodType>
type Answer<A extends Request['ask']> = z.infer<(typeof ANSWERS)[A]>

/** A frame: length of the JSON head, the head, envelopes behind it. */
function encodeFrame(head: unknown, envelopes: readonly WireEnvelope[] = []): Uint8Array {
  const json = Buffer.from(JSON.stringify(head))
  const length = Buffer.alloc(4)
  length.writeUInt32BE(json.length)
  return Buffer.concat([length, json, encodeEnvelopes(envelopes)])
}

function decodeFrame(frame: Uint8Array): { head: unknown; envelopes: WireEnvelope[] } {
  const buffer = Buffer.from(frame.buffer, frame.byteOffset, frame.byteLength)
  const end = buffer.length < 4 ? Infinity : 4 + buffer.readUInt32BE(0)
  if (end > buffer.length) throw new MeshError('envelope_invalid', 'a sync message is cut short')
  try {
    const head = JSON.parse(buffer.subarray(4, end).toString('utf8')) as unknown
    return { head, envelopes: decodeEnvelopes(buffer.subarray(end)) }
  } catch (error) {
    throw new MeshError('envelope_invalid', 'a sync message is not well formed', {}, error)
  }
}

// ---------------------------------------------------------------------------------------------- sync

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
  readonly statuses: () => readonly SignedStatus[]
  readonly onStatus: (signed: unknown) => void
  /** Called once a mesh is known. */
  readonly onMesh: (meshId: string) => void
}

interface PeerRound {
  running: boolean
  /** Another round was asked for while one ran. */
  again: boolean
  cancel: () => void
  /** Both digests at the end of a round that brought nothing: no use to try again until one changes. */
  stuckAt: string | undefined
}

export class Sync implements Startable {
  readonly #options: SyncOptions
  readonly #summary: Summary
  readonly #rounds = new Map<PeerKey, PeerRound>()
  #abort = new AbortController()
  #cancelTimer: () => void = () => undefined
  #unsubscribe: () => void = () => undefined
  #isSettled = false
  readonly #inFlight = new Set<Promise<void>>()

  constructor(options: SyncOptions) {
    this.#options = options
    this.#summary = new Summary(options.replica.state.history)
  }

  async start(): Promise<void> {
    this.#abort = new AbortController()
    const unsubscribeMissing = this.#options.replica.onMissing((peer) => this.syncSoon(peer, 0))
    const unsubscribeStored = this.#options.replica.onStored((envelopes, source) => this.#spread(envelopes, source))
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
    for (const round of this.#rounds.values()) round.cancel()
    await Promise.allSettled(this.#inFlight)
  }

  /** Digest of all that this node holds. */
  digest(): string {
    return this.#summary.digest()
  }

  /** Whether one whole round with any peer has been completed since start. */
  get isSettled(): boolean {
    return this.#isSettled
  }

  /** To be called with every status record: a connected peer that holds something else is synchronised with. */
  compare(peer: PeerKey, digest: string): void {
    if (digest === this.digest() || !this.#options.network.connected.includes(peer)) return
    if (this.#rounds.get(peer)?.stuckAt === `${this.digest()} ${digest}`) return
    this.syncSoon(peer, MISMATCH_DELAY_MS * (0.5 + this.#options.random()))
  }

  /** Starts a round with this peer after a delay, unless one is due sooner. */
  syncSoon(peer: PeerKey, delayMs: number): void {
    if (this.#abort.signal.aborted) return
    const round = this.#rounds.get(peer) ?? {
      running: false,
      again: false,
      cancel: () => undefined,
      stuckAt: undefined,
    }
    this.#rounds.set(peer, round)
    if (round.running) {
      round.again = true
      return
    }
    round.cancel()
    round.cancel = this.#options.clock.after(delayMs, () => {
      const done = this.#run(peer, round).finally(() => this.#inFlight.delete(done))
      this.#inFlight.add(done)
    })
  }

  /** A connection is gone: nothing more is to be asked of this peer. */
  forget(peer: PeerKey): void {
    this.#rounds.get(peer)?.cancel()
    this.#rounds.delete(peer)
  }

  /** Takes a gossip message of edits. */
  async onGossip(from: PeerKey, payload: Uint8Array): Promise<GossipVerdict> {
    if (!this.#options.gossip || this.#options.replica.meshId === undefined) return 'ignore'
    let outcomes: Outcome[]
    try {
      outcomes = await this.#options.replica.submit(decodeEnvelopes(payload), 'gossip', from)
    } catch (error) {
      // A store that cannot be written is our fault, not the sender's.
      return asMeshError(error).code === 'envelope_invalid' ? 'reject' : 'ignore'
    }
    const refused = outcomes.filter((outcome) => outcome.outcome === 'refused')
    if (refused.some(({ code }) => code !== 'rate_limited')) return 'reject'
    return outcomes.some(({ outcome }) => outcome === 'stored') ? 'accept' : 'ignore'
  }

  /** Answers a peer's request. A malformed one gets an error in the answer; it never throws. */
  async onRequest(from: PeerKey, frame: Uint8Array): Promise<Uint8Array> {
    try {
      const { head, envelopes } = decodeFrame(frame)
      const request = REQUEST.parse(head)
      if (request.ask === 'take') {
        await this.#options.replica.submit(envelopes, 'sync', from)
        return encodeFrame({})
      }
      return this.#answer(from, request)
    } catch (error) {
      this.#options.log.debug('a request of a peer was refused', { peer: from, error: asMeshError(error).message })
      return encodeFrame({ error: 'bad request' })
    }
  }

  /** Sends the envelopes to a peer that is about to be cut off, so that it knows why. Best effort. */
  async tell(peer: PeerKey, envelopes: readonly Envelope[]): Promise<void> {
    await this.#options.network.request(peer, encodeFrame({ ask: 'take' }, envelopes.map(toWire)), {
      signal: this.#abort.signal,
    })
  }

  // -------------------------------------------------------------------------------------------- answering

  #answer(from: PeerKey, request: Exclude<Request, { ask: 'take' }>): Uint8Array {
    const { history } = this.#options.replica.state
    switch (request.ask) {
      case 'hello': {
        const { genesis } = history
        return encodeFrame(
          { mesh: genesis?.id ?? null } satisfies Answer<'hello'>,
          genesis === undefined ? [] : [toWire(genesis)],
        )
      }
      case 'summary':
        return encodeFrame(this.#answerSummary(from, request))
      case 'ranges': {
        const { workspace: ws, author, from: low, to } = request
        const ranges = low > to ? [] : this.#summary.ranges(ws, author, low, to, RANGE_PARTS)
        return encodeFrame({ ranges } satisfies Answer<'ranges'>)
      }
      case 'items': {
        const items = this.#summary
          .items(request.workspace, request.author, request.from, request.to)
          .slice(0, PAGE_ITEMS)
          .map(({ item: name, id }): [string, number] => [name, history.positionOf(id) ?? 0])
        return encodeFrame({ items } satisfies Answer<'items'>)
      }
      case 'fetch': {
        const found = request.ids.map((id) => history.get(id)).filter((envelope) => envelope !== undefined)
        return encodeFrame({}, fitPage(found))
      }
      case 'log': {
        const page = fitPage(take(history.order, request.from, PAGE_ITEMS).map((id) => history.get(id) as Envelope))
        const next = request.from + page.length
        return encodeFrame({ next: next < history.size ? next : null } satisfies Answer<'log'>, page)
      }
      case 'status': {
        const all = this.#options.statuses()
        const next = request.after + PAGE_STATUSES
        const records = all.slice(request.after, next)
        return encodeFrame({ records, next: next < all.length ? next : null } satisfies Answer<'status'>)
      }
    }
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

  // -------------------------------------------------------------------------------------------- asking

  async #run(peer: PeerKey, round: PeerRound): Promise<void> {
    round.running = true
    round.again = false
    const startedMs = this.#options.clock.monotonic()
    try {
      const remote = await this.#round(peer)
      round.stuckAt = remote === undefined || remote === this.digest() ? undefined : `${this.digest()} ${remote}`
      this.#options.metrics.syncRounds.inc({ outcome: 'done' })
    } catch (error) {
      const { code, message } = asMeshError(error)
      this.#options.metrics.syncRounds.inc({ outcome: 'failed' })
      if (!this.#abort.signal.aborted)
        this.#options.log.info('a sync round failed; it will be tried again', { peer, code, message })
    } finally {
      round.running = false
      this.#options.metrics.syncSeconds.observe((this.#options.clock.monotonic() - startedMs) / 1000)
    }
    if (round.again && this.#options.network.connected.includes(peer)) this.syncSoon(peer, MISMATCH_DELAY_MS)
  }

  /** One round. Returns the peer's digest at its end, undefined when the peer has no mesh. */
  async #round(peer: PeerKey): Promise<string | undefined> {
    if (!(await this.#agreeOnMesh(peer))) return undefined
    await this.#exchangeStatuses(peer)
    let remote: string | undefined
    for (let pass = 0; pass < PASSES_MAX; pass += 1) {
      const isNew = this.#options.replica.state.history.size <= 1
      const { answer } = await this.#ask(peer, { ask: 'summary', digest: this.digest(), after: 0 })
      remote = answer.digest
      if (remote === this.digest()) break
      const brought = isNew ? await this.#copyLog(peer) : await this.#pullDifference(peer, answer)
      if (brought === 0) break
    }
    if (!this.#isSettled)
      this.#options.log.info('first sync is complete', { peer, edits: this.#options.replica.state.history.size })
    this.#isSettled = true
    return remote
  }

  async #agreeOnMesh(peer: PeerKey): Promise<boolean> {
    const { replica, log } = this.#options
    const { answer, envelopes } = await this.#ask(peer, { ask: 'hello', mesh: replica.meshId ?? null })
    if (answer.mesh === null) return false
    const [genesis] = envelopes
    if (replica.state.meshId === undefined && genesis !== undefined) {
      if (replica.meshId === undefined && !this.#options.trustsGenesisOf(peer)) return false
      await replica.adopt(genesis)
      log.info('this node’s mesh is pinned', { mesh: replica.meshId, from: peer })
      this.#options.onMesh(replica.meshId as string)
    }
    if (answer.mesh === replica.meshId) return true
    log.warn('a peer belongs to another mesh; it is disconnected', { peer, theirs: answer.mesh, own: replica.meshId })
    await this.#options.network.disconnect(peer)
    return false
  }

  async #exchangeStatuses(peer: PeerKey): Promise<void> {
    let after: number | null = 0
    while (after !== null) {
      const { answer }: { answer: Answer<'status'> } = await this.#ask(peer, { ask: 'status', after })
      for (const signed of answer.records) this.#options.onStatus(signed)
      // A peer that never ends its list must not keep us.
      after = answer.next !== null && answer.next > after ? answer.next : null
    }
  }

  /** A node with nothing copies the peer's history from its start, in the peer's causal order. */
  async #copyLog(peer: PeerKey): Promise<number> {
    let stored = 0
    let page = this.#ask(peer, { ask: 'log', from: 0 })
    for (let from = 0; ;) {
      const { answer, envelopes } = await page
      const { next } = answer
      if (next === null || next <= from) return stored + (await this.#take(peer, envelopes))
      // The next page travels while this one is checked.
      page = this.#ask(peer, { ask: 'log', from: next })
      page.catch(() => undefined)
      stored += await this.#take(peer, envelopes)
      from = next
    }
  }

  /** Finds what is missing, chain by chain and range by range, and fetches it in the peer's causal order. */
  async #pullDifference(peer: PeerKey, first: Answer<'summary'>): Promise<number> {
    const missing: [id: string, position: number][] = []
    let page = first
    for (let after = 0; ;) {
      for (const chain of page.chains) {
        const own = this.#summary.range(chain.workspace, chain.author, 0, chain.highestN)
        const range = { from: 0, to: chain.highestN, count: chain.count, hash: chain.hash }
        if (own.hash !== chain.hash)
          missing.push(...(await this.#missingIn(peer, chain.workspace, chain.author, range)))
      }
      if (page.next === null || page.next <= after) break
      after = page.next
      page = (await this.#ask(peer, { ask: 'summary', digest: this.digest(), after })).answer
    }
    return await this.#fetch(
      peer,
      missing.toSorted(([, a], [, b]) => a - b).map(([id]) => id),
    )
  }

  async #missingIn(peer: PeerKey, ws: string, author: string, range: RangeSummary): Promise<[string, number][]> {
    const own = this.#summary.range(ws, author, range.from, range.to)
    if (own.hash === range.hash || range.count === 0) return []
    const span = { workspace: ws, author, from: range.from, to: range.to }
    if (range.count <= PAGE_ITEMS || range.from === range.to) {
      const { answer } = await this.#ask(peer, { ask: 'items', ...span })
      const held = new Set(this.#summary.items(ws, author, range.from, range.to).map(({ item: name }) => name))
      return answer.items.filter(([name]) => !held.has(name)).map(([name, at]) => [name.slice(0, 64), at])
    }
    const { answer } = await this.#ask(peer, { ask: 'ranges', ...span })
    const missing: [string, number][] = []
    for (const part of answer.ranges) {
      const isWithin = part.from >= range.from && part.to <= range.to && part.to - part.from < range.to - range.from
      if (isWithin) missing.push(...(await this.#missingIn(peer, ws, author, part)))
    }
    return missing
  }

  async #fetch(peer: PeerKey, ids: readonly string[]): Promise<number> {
    let stored = 0
    for (let at = 0; at < ids.length;) {
      const { envelopes } = await this.#ask(peer, { ask: 'fetch', ids: ids.slice(at, at + PAGE_ITEMS) })
      if (envelopes.length === 0) break
      stored += await this.#take(peer, envelopes)
      at += envelopes.length
    }
    return stored
  }

  async #take(peer: PeerKey, envelopes: readonly WireEnvelope[]): Promise<number> {
    this.#options.metrics.syncReceivedBytes.inc(envelopes.reduce((sum, wire) => sum + encodedSize(wire), 0))
    const outcomes = await this.#options.replica.submit(envelopes, 'sync', peer)
    const refused = outcomes.find((outcome) => outcome.outcome === 'refused')
    if (refused !== undefined) {
      this.#options.log.warn('a peer sent an edit that is refused here', {
        peer,
        id: refused.id,
        reason: refused.reason,
      })
    }
    return outcomes.filter(({ outcome }) => outcome === 'stored').length
  }

  async #ask<A extends Request['ask']>(
    peer: PeerKey,
    request: Ask<A>,
  ): Promise<{ answer: Answer<A>; envelopes: WireEnvelope[] }> {
    const frame = await this.#options.network.request(peer, encodeFrame(request), { signal: this.#abort.signal })
    const { head, envelopes } = decodeFrame(frame)
    const parsed = ANSWERS[request.ask].safeParse(head)
    if (!parsed.success)
      throw new MeshError('unavailable', `the peer’s answer to ${request.ask} is malformed`, {}, parsed.error)
    return { answer: parsed.data as Answer<A>, envelopes }
  }

  // -------------------------------------------------------------------------------------------- spreading

  /** What came in at this node's API goes out at once; what gossip brought, the network relays by itself. */
  #spread(envelopes: readonly Envelope[], source: string): void {
    if (source !== 'api' || !this.#options.gossip) return
    for (const page of pages(envelopes)) {
      void this.#options.network.publish('edits', encodeEnvelopes(page)).catch((error: unknown) => {
        this.#options.log.debug('gossip failed; sync rounds will spread the edits', {
          error: asMeshError(error).message,
        })
      })
    }
  }

  #scheduleTimer(): void {
    const delayMs = this.#options.intervalMs * (0.8 + 0.4 * this.#options.random())
    this.#cancelTimer = this.#options.clock.after(delayMs, () => {
      const { connected } = this.#options.network
      const peer = connected[Math.floor(this.#options.random() * connected.length)]
      if (peer !== undefined) this.syncSoon(peer, 0)
      this.#scheduleTimer()
    })
  }
}

/** As many envelopes from the front as fit into one message; at least one. */
function fitPage<T extends WireEnvelope>(envelopes: readonly T[]): T[] {
  let bytes = 0
  const end = envelopes.findIndex((envelope, index) => {
    bytes += encodedSize(envelope)
    return index > 0 && bytes > PAGE_BYTES
  })
  return end === -1 ? [...envelopes] : envelopes.slice(0, end)
}

function pages(envelopes: readonly Envelope[]): Envelope[][] {
  const result: Envelope[][] = []
  for (let rest = [...envelopes]; rest.length > 0;) {
    const page = fitPage(rest)
    result.push(page)
    rest = rest.slice(page.length)
  }
  return result
}

function take<T>(list: readonly T[], from: number, count: number): readonly T[] {
  return list.slice(from, from + count)
}
