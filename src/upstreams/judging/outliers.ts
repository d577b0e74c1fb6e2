/**
 * Which endpoints of an upstream are out for a while because of what they answered to clients: errors in a row, or too
 * large a share within an interval. Each further time is longer. Pure; time comes in as monotonic ms. judge.ts owns it.
 */

import { GrowingPause, type PauseRule } from './growing-pause.ts'

export interface OutlierRule extends PauseRule {
  /** 0: however many. */
  readonly consecutive5xx: number
  /** Undefined: the rate is not looked at. */
  readonly errorRatePercent: number | undefined
  readonly minRequests: number
  readonly intervalMs: number
  /** Of the endpoints at once, though at least one. */
  readonly maxPercent: number
}

interface Seen {
  run: number
  requests: number
  errors: number
  /** Out until then. */
  until: number | undefined
  /** What was asked before says nothing: it was before it came back. */
  since: number
  readonly pause: GrowingPause
}

export class Outliers {
  #seen = new Map<string, Seen>()
  #intervalEnds = Number.NEGATIVE_INFINITY

  /** Forgets endpoints that are not among these. */
  follow(addresses: readonly string[]): void {
    this.#seen = new Map(
      addresses.map((address) => [
        address,
        this.#seen.get(address) ?? {
          run: 0,
          requests: 0,
          errors: 0,
          until: undefined,
          since: Number.NEGATIVE_INFINITY,
          pause: new GrowingPause(),
        },
      ]),
    )
  }

  get ejected(): readonly string[] {
    return [...this.#seen].flatMap(([address, { until }]) => (until === undefined ? [] : [address]))
  }

  /** One answer of an endpoint to a client. @param startedMs when it was asked */
  answered(address: string, failed: boolean, startedMs: number, now: number, rule: OutlierRule): void {
    const seen = this.#seen.get(address)
    if (seen === undefined || seen.until !== undefined || startedMs < seen.since) return
    seen.requests += 1
    seen.errors += failed ? 1 : 0
    seen.run = failed ? seen.run + 1 : 0
    if (rule.consecutive5xx > 0 && seen.run >= rule.consecutive5xx) this.#eject(seen, now, rule)
  }

  /** Lets in whose time is over, and looks at rates when an interval has ended. */
  turn(now: number, rule: OutlierRule): void {
    for (const seen of this.#seen.values()) {
      if (seen.until === undefined || now < seen.until) continue
      seen.until = undefined
      seen.since = now
      seen.pause.over(now)
    }
    if (now < this.#intervalEnds) return
    this.#intervalEnds = now + rule.intervalMs
    const { errorRatePercent = Number.POSITIVE_INFINITY, minRequests } = rule
    const rateOf = ({ errors, requests }: Seen) => (requests === 0 ? 0 : (100 * errors) / requests)
    const worstFirst = [...this.#seen.values()].toSorted((a, b) => rateOf(b) - rateOf(a))
    for (const seen of worstFirst) {
      if (seen.requests >= minRequests && rateOf(seen) >= errorRatePercent) this.#eject(seen, now, rule)
      seen.requests = 0
      seen.errors = 0
    }
  }

  #eject(seen: Seen, now: number, rule: OutlierRule): void {
    const mayBeOut = Math.max(1, Math.floor((this.#seen.size * rule.maxPercent) / 100))
    if (seen.until !== undefined || this.ejected.length >= mayBeOut) return
    seen.until = now + seen.pause.next(now, rule)
    seen.run = 0
    seen.requests = 0
    seen.errors = 0
  }
}
