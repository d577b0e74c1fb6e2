/**
 * What failed before and is not tried again at once: unit texts that nginx or a probe refused, and whole generations.
 * Each is tried again by itself with growing, jittered pauses, since its cause may pass. Pure but for the clock given.
 */

import { backoffMs } from '../../backoff.ts'
import type { Clock, Random } from '../../ports.ts'

export interface Refusal {
  readonly reason: string
  readonly attempts: number
  /** Monotonic time from which it may be tried again. */
  readonly until: number
}

const FIRST_PAUSE_MS = 5_000
const LONGEST_PAUSE_MS = 10 * 60_000
/** Of a generation of which parts are still to be tried: time for nginx and its clients to settle, no more. */
const HOLD_MS = 1_500
/** Refusals remembered beyond those of what is desired now. */
const REFUSALS_MAX = 1_024

export class Refusals {
  readonly #clock: Pick<Clock, 'monotonic'>
  readonly #random: Random
  readonly #byDigest = new Map<string, Refusal>()

  constructor(clock: Pick<Clock, 'monotonic'>, random: Random) {
    this.#clock = clock
    this.#random = random
  }

  add(digest: string, reason: string): Refusal {
    const attempts = (this.#byDigest.get(digest)?.attempts ?? 0) + 1
    return this.#set(digest, reason, attempts, backoffMs(attempts, FIRST_PAUSE_MS, LONGEST_PAUSE_MS, this.#random))
  }

  /** For a moment, however often: it does not count as an attempt, so that no pause grows by it. */
  hold(digest: string, reason: string): Refusal {
    const attempts = this.#byDigest.get(digest)?.attempts ?? 0
    return this.#set(digest, reason, attempts, backoffMs(1, HOLD_MS, HOLD_MS, this.#random))
  }

  #set(digest: string, reason: string, attempts: number, pauseMs: number): Refusal {
    const refusal = { reason, attempts, until: this.#clock.monotonic() + pauseMs }
    this.#byDigest.delete(digest)
    this.#byDigest.set(digest, refusal)
    return refusal
  }

  /** The refusal that still holds; undefined when there is none or its pause is over. */
  get(digest: string): Refusal | undefined {
    const refusal = this.#byDigest.get(digest)
    return refusal !== undefined && refusal.until > this.#clock.monotonic() ? refusal : undefined
  }

  /** The last refusal, also when its pause is over. */
  last(digest: string): Refusal | undefined {
    return this.#byDigest.get(digest)
  }

  /** It works now. */
  forget(digest: string): void {
    this.#byDigest.delete(digest)
  }

  /**
   * Forgets the oldest of what is not desired any more, beyond the limit. What is desired is never forgotten, or so many
   * bad units would be tried anew, as if nothing were known of them, that no time is left for the others.
   */
  trim(desired: ReadonlySet<string>): void {
    for (const digest of this.#byDigest.keys()) {
      if (this.#byDigest.size <= REFUSALS_MAX) return
      if (!desired.has(digest)) this.#byDigest.delete(digest)
    }
  }
}
