/**
 * Which nodes' keys two processes seem to use at once, as after a copied disk: by signs that repeat, since a single one is
 * what a restored backup leaves behind. Keeps times alone, of no more keys than status.ts knows, which feeds and asks it.
 */

import type { Clock, PeerKey } from '../ports.ts'
import { claimsNow, type StatusRecord } from './status-record.ts'

export const SHARING_TIMES = {
  /** Signs closer together count as one: a restored node may speak a few times before it has heard of its own past. */
  apartMs: 15_000,
  /** Older signs count no more, so that the alarm ends when one of the two processes does. */
  forgottenAfterMs: 10 * 60_000,
} as const

/** So many make an alarm. */
const SIGNS = 3

interface Traces {
  /** The latest time that a record claimed which was heard here, by either process. */
  latestAt: number
  /** Monotonic ms of the last signs. */
  signs: readonly number[]
}

type Claim = Pick<StatusRecord, 'node' | 'at'>

export class KeySharing {
  readonly #clock: Clock
  readonly #traces = new Map<PeerKey, Traces>()

  constructor(clock: Clock) {
    this.#clock = clock
  }

  /**
   * To be called with each record that is taken: told again once others have followed it, it is no sign. So of a node whose
   * clock was ahead there is none before that time has come; it sees by itself that its key is used.
   */
  hear({ node, at }: Claim): void {
    const traces = this.#tracesOf(node)
    traces.latestAt = Math.max(traces.latestAt, at)
  }

  /**
   * Whether a record that is older than what was heard is a sign: made now, and later than all that was heard, although one
   * process alone counts on. What was heard before never is, whoever tells it again and how often. Checks no signature; says
   * no while another sign would count for nothing, so that the check need not be made.
   */
  isSign({ node, at }: Claim): boolean {
    const { latestAt, signs } = this.#traces.get(node) ?? NONE
    return at > latestAt && claimsNow(at, this.#clock) && !this.#isSoonAfter(signs)
  }

  /** A record was signed now with this key by a process that cannot be the one that signed another. */
  note({ node, at }: Claim): void {
    const traces = this.#tracesOf(node)
    this.hear({ node, at })
    if (claimsNow(at, this.#clock) && !this.#isSoonAfter(traces.signs))
      traces.signs = [...traces.signs, this.#clock.monotonic()].slice(-SIGNS)
  }

  forget(key: PeerKey): void {
    this.#traces.delete(key)
  }

  /** Keys with signs enough and lately, sorted. */
  get shared(): PeerKey[] {
    const since = this.#clock.monotonic() - SHARING_TIMES.forgottenAfterMs
    const alarming = [...this.#traces].filter(([, { signs }]) => signs.filter((ms) => ms >= since).length === SIGNS)
    return alarming.map(([key]) => key).toSorted()
  }

  #isSoonAfter(signs: readonly number[]): boolean {
    return this.#clock.monotonic() - (signs.at(-1) ?? Number.NEGATIVE_INFINITY) < SHARING_TIMES.apartMs
  }

  #tracesOf(node: PeerKey): Traces {
    const traces = this.#traces.get(node) ?? { ...NONE }
    this.#traces.set(node, traces)
    return traces
  }
}

const NONE: Traces = { latestAt: Number.NEGATIVE_INFINITY, signs: [] }
