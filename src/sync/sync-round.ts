/**
 * The asking side of one round with one peer: compare, narrow down, fetch. Trusts nothing that it is told: whatever the peer
 * answers, a round ends after a bounded number of requests that bring nothing. Made by sync.ts, once for each round.
 */

import { encodedSize } from '../core/codec.ts'
import type { WireEnvelope } from '../core/envelope.ts'
import { splitRange, type ChainSummary, type RangeSummary, type Summary } from '../core/summary.ts'
import { MeshError } from '../errors.ts'
import type { Log } from '../log.ts'
import type { Metrics } from '../metrics.ts'
import type { PeerKey } from '../ports.ts'
import type { Replica } from '../replica.ts'
import {
  encodeFrame,
  PAGE_ITEMS,
  parseAnswer,
  RANGE_PARTS,
  type Answer,
  type Ask,
  type Request,
} from './sync-messages.ts'

export const ROUND_LIMITS = {
  /** Requests in a row that bring no envelope; then the round fails. Half of them may go into finding out what is missing. */
  idleRequests: 1024,
  /** What is left of that for a peer whose last rounds were in vain: each halves it, down to this. */
  idleRequestsLeast: 32,
  /** Ids collected before they are fetched; the next pass finds the rest. */
  missing: 128 * PAGE_ITEMS,
} as const

export interface RoundOptions {
  readonly peer: PeerKey
  readonly replica: Replica
  readonly summary: Summary
  readonly log: Log
  readonly metrics: Metrics
  /** Rounds in a row with this peer that were in vain. */
  readonly inVain: number
  readonly send: (frame: Uint8Array) => Promise<Uint8Array>
}

interface Missing {
  readonly id: string
  /** In the peer's causal order. */
  readonly position: number
}

export class SyncRound {
  readonly #options: RoundOptions
  readonly #patience: number
  #idle = 0

  constructor(options: RoundOptions) {
    this.#options = options
    this.#patience = Math.max(ROUND_LIMITS.idleRequestsLeast, ROUND_LIMITS.idleRequests / 2 ** options.inVain)
  }

  /** @throws MeshError when the peer does not answer, or answers nonsense, or keeps this node busy in vain. */
  async ask<A extends Request['ask']>(request: Ask<A>): Promise<{ answer: Answer<A>; envelopes: WireEnvelope[] }> {
    this.#idle += 1
    if (this.#idle > this.#patience) {
      throw new MeshError('unavailable', `${this.#patience} requests in a row brought nothing`)
    }
    return parseAnswer<A>(request.ask, await this.#options.send(encodeFrame(request)))
  }

  /** Copies the peer's history from its start, in the peer's causal order. For a node with nothing. */
  async copyLog(): Promise<number> {
    let stored = 0
    let page = this.ask({ ask: 'log', from: 0 })
    for (let from = 0; ;) {
      const { answer, envelopes } = await page
      const { next } = answer
      if (next === null || next <= from) return stored + (await this.#take(envelopes))
      // The next page travels while this one is checked.
      page = this.ask({ ask: 'log', from: next })
      page.catch(() => undefined)
      stored += await this.#take(envelopes)
      from = next
    }
  }

  /** Finds what is missing here, chain by chain and range by range, and fetches it in the peer's causal order. */
  async pullDifference(first: Answer<'summary'>): Promise<number> {
    const { summary } = this.#options
    const missing = new Map<string, Missing>()
    const idleLimit = this.#idle + this.#patience / 2
    const isEnough = (): boolean => missing.size >= ROUND_LIMITS.missing || this.#idle >= idleLimit
    let page = first
    for (let after = 0; ;) {
      for (const chain of page.chains) {
        await this.#narrow(
          chain,
          { from: 0, to: chain.highestN, count: chain.count, hash: chain.hash },
          missing,
          isEnough,
        )
      }
      if (page.next === null || page.next <= after || isEnough()) break
      after = page.next
      page = (await this.ask({ ask: 'summary', digest: summary.digest(), after })).answer
    }
    return await this.#fetch([...missing.values()].toSorted((a, b) => a.position - b.position).map(({ id }) => id))
  }

  async #narrow(
    chain: ChainSummary,
    range: RangeSummary,
    missing: Map<string, Missing>,
    isEnough: () => boolean,
  ): Promise<void> {
    const { from, to, count, hash } = range
    const { workspace, author } = chain
    if (count === 0 || isEnough() || this.#options.replica.isOverQuota(author)) return
    if (this.#options.summary.range(workspace, author, from, to).hash === hash) return
    const span = { workspace, author, from, to }
    if (count <= PAGE_ITEMS || from === to) return await this.#list(span, count, missing, isEnough)
    const { answer } = await this.ask({ ask: 'ranges', ...span })
    for (const [index, part] of splitRange(from, to, RANGE_PARTS).entries()) {
      const [partCount, partHash] = answer.ranges[index] ?? [0, '']
      await this.#narrow(chain, { ...part, count: partCount, hash: partHash }, missing, isEnough)
    }
  }

  /** Collects the peer's items of a range that this node lacks and has use for: as many as the peer said it holds. */
  async #list(
    span: Omit<Ask<'items'>, 'ask' | 'skip'>,
    count: number,
    missing: Map<string, Missing>,
    isEnough: () => boolean,
  ): Promise<void> {
    const { replica, summary } = this.#options
    const { workspace, author, from, to } = span
    const held = new Set(summary.items(workspace, author, from, to).map(({ item }) => item))
    for (let skip = 0; skip < count && !isEnough(); skip += PAGE_ITEMS) {
      const { answer } = await this.ask({ ask: 'items', ...span, skip })
      for (const [item, position] of answer.items) {
        const id = item.slice(0, 64)
        if (!held.has(item) && !replica.isWaiting(item)) missing.set(id, { id, position })
      }
      if (answer.items.length < PAGE_ITEMS) return
    }
  }

  /** Fetches page by page, for as long as each brings something. */
  async #fetch(ids: readonly string[]): Promise<number> {
    let stored = 0
    for (let at = 0; at < ids.length;) {
      const { envelopes } = await this.ask({ ask: 'fetch', ids: ids.slice(at, at + PAGE_ITEMS) })
      const brought = await this.#take(envelopes)
      if (brought === 0) break
      stored += brought
      at += envelopes.length
    }
    return stored
  }

  async #take(envelopes: readonly WireEnvelope[]): Promise<number> {
    const { peer, replica, log, metrics } = this.#options
    metrics.syncReceivedBytes.inc(envelopes.reduce((sum, wire) => sum + encodedSize(wire), 0))
    const outcomes = await replica.submit(envelopes, 'sync', peer)
    const refused = outcomes.find((outcome) => outcome.outcome === 'refused')
    if (refused !== undefined) {
      const { id, reason } = refused
      log.warn('a peer sent an edit that is refused here', { peer, id, reason })
      if (refused.faulty) throw new MeshError('envelope_invalid', 'the peer sent a faulty envelope')
    }
    const stored = outcomes.filter(({ outcome }) => outcome === 'stored').length
    if (stored > 0) this.#idle = 0
    return stored
  }
}
