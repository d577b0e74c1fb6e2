/**
 * Which nodes' keys two processes seem to use at once, as after a copied disk: by signs that repeat, since a single one is
 * what a restored backup leaves behind. Keeps times alone, of no more keys than status.ts knows, which feeds and asks it.
 */

import type { Clock, PeerKey } from '../ports.ts'

export const SHARING_TIMES = {
  /** Signs closer together count as one: a restored node may speak a few times before it has heard of its own past. */
  apartMs: 15_000,
  /** Older signs count no more, so that the alarm ends when one of the two processes does. */
  forgottenAfterMs: 10 * 60_000,
} as const

/** So many make an alarm. */
const SIGNS = 3

export class KeySharing {
  readonly #clock: Clock
  /** Monotonic ms of the last signs. */
  readonly #signs = new Map<PeerKey, readonly number[]>()

  constructor(clock: Clock) {
    this.#clock = clock
  }

  /** A record was signed with this key by a process that cannot be the one that signed another. */
  note(key: PeerKey): void {
    const now = this.#clock.monotonic()
    const signs = this.#signs.get(key) ?? []
    if (now - (signs.at(-1) ?? Number.NEGATIVE_INFINITY) < SHARING_TIMES.apartMs) return
    this.#signs.set(key, [...signs, now].slice(-SIGNS))
  }

  forget(key: PeerKey): void {
    this.#signs.delete(key)
  }

  /** Keys with signs enough and lately, sorted. */
  get shared(): PeerKey[] {
    const since = this.#clock.monotonic() - SHARING_TIMES.forgottenAfterMs
    const alarming = [...this.#signs].filter(([, signs]) => signs.filter((ms) => ms >= since).length === SIGNS)
    return alarming.map(([key]) => key).toSorted()
  }
}
