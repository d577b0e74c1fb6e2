/**
 * The circuit breaker of one upstream. Closed: clients are let through and their answers counted. Open: nobody asks it,
 * until a time that grows when it opens again soon. Half open: the node's own probes alone ask it, and decide. Pure;
 * time comes in as monotonic ms. judge.ts owns it.
 */

import { GrowingPause, type PauseRule } from './growing-pause.ts'

export interface CircuitRule extends PauseRule {
  readonly errorRatePercent: number
  readonly minRequests: number
  readonly windowMs: number
  /** Probes in a row that must pass. */
  readonly halfOpenRequests: number
}

export type CircuitState = 'closed' | 'open' | 'half_open'

/** The window moves on by so many parts of it. */
const PARTS = 10

interface Part {
  readonly from: number
  requests: number
  errors: number
}

export class Circuit {
  #state: CircuitState = 'closed'
  #parts: Part[] = []
  #until = 0
  #passed = 0
  /** What was asked before says nothing: it was before it closed. */
  #since = Number.NEGATIVE_INFINITY
  readonly #pause = new GrowingPause()

  get state(): CircuitState {
    return this.#state
  }

  /** One answer to a client. @param startedMs when it was asked */
  answered(failed: boolean, startedMs: number, now: number, rule: CircuitRule): void {
    if (this.#state !== 'closed' || startedMs < this.#since) return
    const length = rule.windowMs / PARTS
    const last = this.#parts.at(-1)
    const part = last !== undefined && now < last.from + length ? last : { from: now, requests: 0, errors: 0 }
    if (part !== last) this.#parts.push(part)
    part.requests += 1
    part.errors += failed ? 1 : 0
    this.#parts = this.#parts.filter(({ from }) => now - from < rule.windowMs)
    const requests = this.#parts.reduce((sum, each) => sum + each.requests, 0)
    const errors = this.#parts.reduce((sum, each) => sum + each.errors, 0)
    if (failed && requests >= rule.minRequests && errors * 100 >= rule.errorRatePercent * requests)
      this.#open(now, rule)
  }

  /** Half opens it when its time has come. */
  turn(now: number): void {
    if (this.#state !== 'open' || now < this.#until) return
    this.#state = 'half_open'
    this.#passed = 0
  }

  /** What a probe found while it is half open; at other times it says nothing. */
  probed(passed: boolean, now: number, rule: CircuitRule): void {
    if (this.#state !== 'half_open') return
    if (!passed) {
      this.#open(now, rule)
      return
    }
    this.#passed += 1
    if (this.#passed < rule.halfOpenRequests) return
    this.#state = 'closed'
    this.#since = now
    this.#parts = []
    this.#pause.over(now)
  }

  #open(now: number, rule: CircuitRule): void {
    this.#until = now + this.#pause.next(now, rule)
    this.#state = 'open'
    this.#parts = []
  }
}
