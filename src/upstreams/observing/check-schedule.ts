/**
 * When each endpoint is asked whether it is well: at its interval, a bounded number at once, the longest overdue first, and
 * of one upstream only so many, so that endpoints that hang keep nobody else's from being asked. Judges nothing.
 */

import { millisecondsOf } from '../../core/resources/fields.ts'
import type { Clock, Random } from '../../ports.ts'
import { probePauseMs } from '../judging/checks.ts'
import type { Followed } from '../judging/followed.ts'
import type { HealthCheck, Probe } from './probe.ts'

const AT_ONCE = 256
const AT_ONCE_OF_UPSTREAM = 32
/** The first probes are spread over the interval, and over no more than this. */
const FIRST_MS = 1_000

interface Due {
  readonly path: string
  readonly address: string
  readonly check: HealthCheck
  /** Infinite while it is asked. */
  at: number
}

export interface CheckScheduleOptions {
  readonly clock: Clock
  readonly random: Random
  readonly probe: Probe
  readonly onResult: (path: string, address: string, passed: boolean) => void
}

export class CheckSchedule {
  readonly #options: CheckScheduleOptions
  #due: ReadonlyMap<string, Due> = new Map()
  /** How many are asked now, by upstream. */
  readonly #asked = new Map<string, number>()
  #askedInAll = 0

  constructor(options: CheckScheduleOptions) {
    this.#options = options
  }

  /** Replaces the endpoints; those that stay keep their time. */
  follow(upstreams: readonly Followed[]): void {
    const { clock, random } = this.#options
    const now = clock.monotonic()
    const due = upstreams.flatMap(({ path, spec: { healthCheck: check }, addresses }) => {
      if (check === undefined) return []
      return addresses.map((address): [string, Due] => {
        const key = `${path} ${address}`
        const first = now + random() * Math.min(FIRST_MS, millisecondsOf(check.interval))
        return [key, { path, address, check, at: this.#due.get(key)?.at ?? first }]
      })
    })
    this.#due = new Map(due)
  }

  /** Asks those whose time has come, as far as there is room. */
  turn(now: number): void {
    const ready = [...this.#due.values()].filter(({ at }) => at <= now)
    for (const due of ready.toSorted((a, b) => a.at - b.at)) {
      if (this.#askedInAll >= AT_ONCE) return
      if ((this.#asked.get(due.path) ?? 0) < AT_ONCE_OF_UPSTREAM) this.#ask(due)
    }
  }

  #ask(due: Due): void {
    const { clock, random, probe, onResult } = this.#options
    const { path, address, check } = due
    const key = `${path} ${address}`
    due.at = Number.POSITIVE_INFINITY
    this.#count(path, 1)
    void probe(address, check).then((passed) => {
      this.#count(path, -1)
      // It may have been replaced, or be gone.
      const current = this.#due.get(key)
      if (current === undefined) return
      const { interval, jitter } = current.check
      current.at = clock.monotonic() + probePauseMs(millisecondsOf(interval), jitter, random)
      onResult(path, address, passed)
    })
  }

  #count(path: string, change: number): void {
    this.#askedInAll += change
    const asked = (this.#asked.get(path) ?? 0) + change
    if (asked === 0) this.#asked.delete(path)
    else this.#asked.set(path, asked)
  }
}
