/**
 * Whether this node sees what the mesh sees: how many of the other granted nodes have held the same envelopes lately, by the
 * digests in the status records that they sign. Peers can withhold edits and records; they cannot make an honest node agree
 * with a stale view. For people alone: decides nothing. Fed and asked by node.ts.
 */

import type { Clock, PeerKey } from '../ports.ts'
import type { StatusRecord } from './status-record.ts'

export const AGREEMENT_TIMES = {
  /** Older agreement is none. Forty records: among so many one matches, even where edits are always on their way. */
  lostAfterMs: 10 * 60_000,
  /** A record whose claimed time is this far from ours is no word of now: peers may hand out old ones, one by one. */
  clockSkewMs: 5 * 60_000,
} as const

export interface AgreementOptions {
  readonly own: PeerKey
  readonly clock: Clock
  /** The nodes that policy grants. */
  readonly granted: () => ReadonlyMap<PeerKey, unknown>
  /** Digest of all that this node holds. */
  readonly digest: () => string
  /** Whether this node holds what a peer held once; before, there is nothing to agree on. */
  readonly isSettled: () => boolean
}

/** When a node was heard of, and when it agreed: monotonic ms, for a node that is new here from then on. */
interface Heard {
  heardMs: number
  agreedMs: number
  /** When it last claimed a time that is not now. */
  skewedMs: number
}

/** Of the other granted nodes. */
export interface AgreementView {
  /** Held the same as this one within the last minutes. */
  readonly agreeing: number
  /** Were heard of in that time, and held something else each time. */
  readonly differing: number
  /** Claimed other times than this node's clock shows: it is wrong, or theirs, or the records are old. */
  readonly skewed: number
  /** Were not heard of in that time. */
  readonly silent: number
  /** Since when fewer than half of them agree, ms; undefined while as many do. */
  readonly lostForMs: number | undefined
}

export class Agreement {
  readonly #options: AgreementOptions
  #heard = new Map<PeerKey, Heard>()

  constructor(options: AgreementOptions) {
    this.#options = options
  }

  /** To be called with every new status record. */
  hear({ node, at, digest }: Pick<StatusRecord, 'node' | 'at' | 'digest'>): void {
    const { clock } = this.#options
    const heard = this.#heard.get(node)
    if (heard === undefined) return
    const now = clock.monotonic()
    if (Math.abs(at - clock.now()) > AGREEMENT_TIMES.clockSkewMs) return void (heard.skewedMs = now)
    heard.heardMs = now
    if (digest === this.#options.digest()) heard.agreedMs = now
  }

  view(): AgreementView {
    const now = this.#options.clock.monotonic()
    this.#follow(now)
    const isLate = (ms: number): boolean => now - ms > AGREEMENT_TIMES.lostAfterMs
    const all = [...this.#heard.values()]
    const agreed = all.map(({ agreedMs }) => agreedMs).toSorted((a, b) => b - a)
    // When the last of that half agreed which agreed most lately.
    const halfMs = agreed[Math.ceil(all.length / 2) - 1] ?? now
    const late = all.filter(({ agreedMs }) => isLate(agreedMs))
    const unheard = late.filter(({ heardMs }) => isLate(heardMs))
    const silent = unheard.filter(({ skewedMs }) => isLate(skewedMs)).length
    return {
      agreeing: all.length - late.length,
      differing: late.length - unheard.length,
      skewed: unheard.length - silent,
      silent,
      lostForMs: isLate(halfMs) ? now - halfMs : undefined,
    }
  }

  /** What is wrong, for people. */
  complaints(): string[] {
    const { agreeing, differing, skewed, silent, lostForMs } = this.view()
    if (lostForMs === undefined) return []
    const since = new Date(this.#options.clock.now() - lostForMs).toISOString()
    return [
      `since ${since} fewer than half of the other nodes hold what this one holds (${agreeing} of ${this.#heard.size}): ${differing} tell of edits that no connected peer hands over, ${skewed} speak by another clock, ${silent} are not heard of; is this node cut off from honest peers, or its clock wrong?`,
    ]
  }

  /** Keeps the granted nodes, and none else; one that is new here has its time to be heard of. */
  #follow(now: number): void {
    const { own, granted, isSettled } = this.#options
    const nodes = isSettled() ? [...granted().keys()].filter((node) => node !== own) : []
    this.#heard = new Map(
      nodes.map((node) => [node, this.#heard.get(node) ?? { heardMs: now, agreedMs: now, skewedMs: -Infinity }]),
    )
  }
}
