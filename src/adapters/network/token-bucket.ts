/**
 * A token bucket: how much of something a peer may do. Pure in elapsed time, which the caller passes in. It only
 * counts; what happens to a peer that is over its rate is decided where the bucket is asked.
 */

export interface Rate {
  /** Tokens that come back each second. */
  readonly perSecond: number
  /** Tokens in a full bucket: the burst that is allowed after a rest. */
  readonly burst: number
}

export class TokenBucket {
  readonly #rate: Rate
  #tokens: number
  #filledAtMs: number

  constructor(rate: Rate, nowMs: number) {
    this.#rate = rate
    this.#tokens = rate.burst
    this.#filledAtMs = nowMs
  }

  /** Takes `cost` tokens, or none and says false when there are fewer. `nowMs` is monotonic. */
  take(cost: number, nowMs: number): boolean {
    const filled = this.#tokens + ((nowMs - this.#filledAtMs) / 1000) * this.#rate.perSecond
    this.#tokens = Math.min(this.#rate.burst, filled)
    this.#filledAtMs = nowMs
    if (this.#tokens < cost) return false
    this.#tokens -= cost
    return true
  }
}
