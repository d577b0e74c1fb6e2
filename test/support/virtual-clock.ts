/**
 * A Clock whose time moves only when the test moves it. Timers fire in order of time, then of creation, and everything
 * that one timer sets off settles before the next fires, so a run depends on nothing but its seed.
 */

import type { Clock } from '../../src/ports.ts'

interface Timer {
  readonly at: number
  readonly callback: () => void
  cancelled: boolean
}

export class VirtualClock implements Clock {
  readonly #epoch: number
  /** Sorted by time; those of one time in order of creation. */
  readonly #timers: Timer[] = []
  #elapsed = 0

  /** `epoch`: what `now()` says before time has moved, ms. */
  constructor(epoch = Date.UTC(2030, 0, 1)) {
    this.#epoch = epoch
  }

  now(): number {
    return this.#epoch + this.#elapsed
  }

  monotonic(): number {
    return this.#elapsed
  }

  after(ms: number, callback: () => void): () => void {
    const timer = { at: this.#elapsed + Math.max(0, ms), callback, cancelled: false }
    let low = 0
    let high = this.#timers.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if ((this.#timers[middle]?.at ?? 0) <= timer.at) low = middle + 1
      else high = middle
    }
    this.#timers.splice(low, 0, timer)
    return () => {
      timer.cancelled = true
    }
  }

  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      if (signal?.aborted) return reject(signal.reason)
      const abort = () => {
        cancel()
        reject(signal?.reason)
      }
      const cancel = this.after(ms, () => {
        signal?.removeEventListener('abort', abort)
        resolve()
      })
      signal?.addEventListener('abort', abort, { once: true })
    })
  }

  /** Moves time by `ms`, firing every timer on the way. */
  async advance(ms: number): Promise<void> {
    const end = this.#elapsed + ms
    await settle()
    while (await this.#fireNext(end));
    this.#elapsed = end
  }

  /** Moves time until `condition` holds; fails once `limitMs` of virtual time have passed. Resolves with the time it took. */
  async until(condition: () => boolean, limitMs: number, what: string): Promise<number> {
    const start = this.#elapsed
    await settle()
    while (!condition()) {
      if (!(await this.#fireNext(start + limitMs))) {
        throw new Error(`${limitMs} ms of virtual time passed in vain for: ${what}`)
      }
    }
    return this.#elapsed - start
  }

  /** Fires the next timer that is due by `end`; false when there is none. */
  async #fireNext(end: number): Promise<boolean> {
    while (this.#timers[0]?.cancelled) this.#timers.shift()
    const next = this.#timers[0]
    if (!next || next.at > end) return false
    this.#timers.shift()
    this.#elapsed = next.at
    next.callback()
    await settle()
    return true
  }
}

/** Lets every promise that can settle without time or input settle: one turn of the event loop. */
async function settle(): Promise<void> {
  await new Promise((resolve) => setImmediate(resolve))
}
