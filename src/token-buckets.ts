/** Rate limits by key: a token bucket each, in a bounded table. Used at the edges: per author, per peer, per caller. */

import type { Clock } from './ports.ts'

/** Keys remembered; at the limit the one unused for longest is forgotten, and starts full again. */
const KEYS_MAX = 4096

interface Bucket {
  readonly tokens: number
  readonly updatedMs: number
}

export class TokenBuckets {
  readonly #buckets = new Map<string, Bucket>()
  readonly #clock: Clock
  readonly #burst: number
  readonly #perSecond: number

  /** @param burst tokens of a full bucket. @param perSecond tokens that come back each second. */
  constructor(clock: Clock, burst: number, perSecond: number) {
    this.#clock = clock
    this.#burst = burst
    this.#perSecond = perSecond
  }

  /** Whether this key has a token now. Takes none. */
  has(key: string): boolean {
    return this.#tokens(key) >= 1
  }

  /**
   * Takes tokens of this key. False, and none taken, when there is not even one; a cost above what is left leaves a debt, so
   * that work may be paid for once its size is known.
   */
  take(key: string, cost = 1): boolean {
    const tokens = this.#tokens(key)
    const hasToken = tokens >= 1
    this.#buckets.delete(key)
    this.#buckets.set(key, { tokens: hasToken ? tokens - cost : tokens, updatedMs: this.#clock.monotonic() })
    if (this.#buckets.size > KEYS_MAX) this.#buckets.delete(this.#buckets.keys().next().value as string)
    return hasToken
  }

  #tokens(key: string): number {
    const bucket = this.#buckets.get(key)
    if (bucket === undefined) return this.#burst
    const elapsedMs = this.#clock.monotonic() - bucket.updatedMs
    return Math.min(this.#burst, bucket.tokens + (elapsedMs / 1000) * this.#perSecond)
  }
}
