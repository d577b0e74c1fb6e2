/** Rate limits by key: a token bucket each, in a bounded table. Used at the edges: per author, per peer, per caller. */

import type { Clock } from './ports.ts'

/** Keys remembered; at the limit the one unused for longest is forgotten, and starts full again. */
const KEYS_MAX = 4096

interface Bucket {
  tokens: number
  updatedMs: number
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

  /** Takes a token of this key. False when there is none. */
  take(key: string): boolean {
    const now = this.#clock.monotonic()
    const bucket = this.#buckets.get(key) ?? { tokens: this.#burst, updatedMs: now }
    const refilled = bucket.tokens + ((now - bucket.updatedMs) / 1000) * this.#perSecond
    const tokens = Math.min(this.#burst, refilled)
    const hasToken = tokens >= 1
    this.#buckets.delete(key)
    this.#buckets.set(key, { tokens: hasToken ? tokens - 1 : tokens, updatedMs: now })
    if (this.#buckets.size > KEYS_MAX) this.#buckets.delete(this.#buckets.keys().next().value as string)
    return hasToken
  }
}
