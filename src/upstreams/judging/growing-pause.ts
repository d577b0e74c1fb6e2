/**
 * How long something that fails again and again stays out: twice as long each time, and shorter again only after it has
 * been well for as long as it was last out. What keeps health from flapping. Pure; outliers.ts and circuit.ts use it.
 */

export interface PauseRule {
  readonly baseMs: number
  readonly maxMs: number
}

export class GrowingPause {
  #level = 0
  #lastMs = 0
  /** Undefined while it is out. */
  #wellSince: number | undefined

  /** It fails now. @returns how long it stays out, ms */
  next(now: number, rule: PauseRule): number {
    this.#forgive(now)
    this.#wellSince = undefined
    this.#lastMs = Math.min(rule.maxMs, rule.baseMs * 2 ** this.#level)
    // Beyond it the pause is longer than any that a rule allows.
    this.#level = Math.min(this.#level + 1, LEVEL_MAX)
    return this.#lastMs
  }

  /** It is let in again now. */
  over(now: number): void {
    this.#wellSince = now
  }

  #forgive(now: number): void {
    if (this.#wellSince === undefined) return
    const steps = Math.floor((now - this.#wellSince) / this.#lastMs)
    this.#level = Math.max(0, this.#level - steps)
  }
}

const LEVEL_MAX = 30
