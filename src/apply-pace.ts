/**
 * When an apply is due: at once for a wake-up out of the blue, coalesced for those that follow, paced for what is observed
 * of upstreams, later and later after failures. Counts time and applies nothing; reconciler.ts asks.
 */

import { backoffMs } from './backoff.ts'
import type { Clock, Random } from './ports.ts'
import { TokenBuckets } from './token-buckets.ts'

const RETRY_FIRST_PAUSE_MS = 1_000
const RETRY_LONGEST_PAUSE_MS = 60_000
/** Applies for what was observed of upstreams: so many at once, and then one in each pause. */
const OBSERVED_APPLIES = 6
const OBSERVED_PAUSE_MS = 10_000

/** When wake-ups lead to an apply. Times are monotonic ms. */
export interface Pace {
  /** The first wake-up that no apply has answered yet. */
  readonly firstWake: number
  readonly lastWake: number
  /** The last wake-up before those, or the end of the last apply, whichever is later; -Infinity when there was none. */
  readonly busyUntil: number
  readonly quietMs: number
  readonly maxWaitMs: number
}

/** A wake-up out of the blue is acted on at once; others when it has been quiet, or when the first has waited enough. */
export function dueAt({ firstWake, lastWake, busyUntil, quietMs, maxWaitMs }: Pace): number {
  if (firstWake === lastWake && firstWake - busyUntil >= quietMs) return firstWake
  return Math.min(lastWake + quietMs, firstWake + maxWaitMs)
}

export class ApplyPace {
  /** Of the zone settings. */
  quiet = { quietMs: 0, maxWaitMs: 0 }
  readonly #clock: Clock
  readonly #random: Random
  #wakes: { first: number; last: number } | undefined
  #busyUntil = Number.NEGATIVE_INFINITY
  #retryAt = Number.NEGATIVE_INFINITY
  #failures = 0
  /** When what was observed is applied at the latest. */
  #observedAt = Number.POSITIVE_INFINITY
  readonly #observedPace: TokenBuckets

  constructor(clock: Clock, random: Random) {
    this.#clock = clock
    this.#random = random
    this.#observedPace = new TokenBuckets(clock, OBSERVED_APPLIES, 1000 / OBSERVED_PAUSE_MS)
  }

  /** When the next apply is due, monotonic ms. */
  get applyAt(): number {
    const at = Math.min(this.#retryAt, this.#observedAt)
    if (this.#wakes === undefined) return at
    const { first: firstWake, last: lastWake } = this.#wakes
    return Math.min(at, dueAt({ firstWake, lastWake, busyUntil: this.#busyUntil, ...this.quiet }))
  }

  /** When what failed is tried again: the boot until it has succeeded, then the apply. */
  get retryAt(): number {
    return this.#retryAt
  }

  /** Something that the slice may depend on has changed. */
  wake(): void {
    const now = this.#clock.monotonic()
    this.#wakes = { first: this.#wakes?.first ?? now, last: now }
  }

  /** The same of what is observed, which counts so many times a minute; what waits is in the next apply, whatever that is for. */
  observedChanged(): void {
    if (this.#observedPace.take('')) this.wake()
    else this.#observedAt = Math.min(this.#observedAt, this.#clock.monotonic() + OBSERVED_PAUSE_MS)
  }

  /** An apply begins, for all that has led to it. @returns the first of the wake-ups that it answers */
  begin(): number | undefined {
    const first = this.#wakes?.first
    this.#wakes = undefined
    this.#retryAt = Number.POSITIVE_INFINITY
    if (this.#clock.monotonic() >= this.#observedAt) this.#observedPace.take('')
    this.#observedAt = Number.POSITIVE_INFINITY
    return first
  }

  /** It has ended; how it did is told besides. */
  ended(): void {
    this.#busyUntil = this.#clock.monotonic()
  }

  succeeded(retryAfterMs?: number): void {
    this.#failures = 0
    this.#retryAt = retryAfterMs === undefined ? Number.POSITIVE_INFINITY : this.#clock.monotonic() + retryAfterMs
  }

  /** @param isSoon what is in the way may be over at any time */
  retryLater(isSoon = false): void {
    this.#failures += 1
    const longest = isSoon ? RETRY_FIRST_PAUSE_MS : RETRY_LONGEST_PAUSE_MS
    this.#retryAt = this.#clock.monotonic() + backoffMs(this.#failures, RETRY_FIRST_PAUSE_MS, longest, this.#random)
  }

  retryNow(): void {
    this.#retryAt = this.#clock.monotonic()
  }

  /** Nothing may be applied. Whoever settles or confirms wakes the loop; this is for a confirmation that nobody announces. */
  held(): void {
    this.#retryAt = this.#clock.monotonic() + RETRY_LONGEST_PAUSE_MS
  }
}
