/**
 * Waiting in tests: for a condition, with a deadline, and an error that says what did not happen. Nothing in the
 * tests sleeps for a fixed time instead.
 */

import { setTimeout as sleep } from 'node:timers/promises'

export interface WaitOptions {
  /** Real time, ms. Default 5,000. */
  readonly timeoutMs?: number
  /** What is waited for, for the error: `node 3 sees the edit`. May be computed at the time of failure. */
  readonly what: string | (() => string)
  /** Time between two looks, ms. Default 5; more where a look costs another process something. */
  readonly everyMs?: number
}

/** Resolves with the first truthy result of `condition`; rejects after the deadline. A throwing condition counts as false. */
export async function waitFor<T>(condition: () => T | Promise<T>, options: WaitOptions): Promise<NonNullable<T>> {
  const timeoutMs = options.timeoutMs ?? 5000
  const deadline = performance.now() + timeoutMs
  let last: unknown
  for (;;) {
    try {
      const result = await condition()
      if (result) return result
      last = undefined
    } catch (error) {
      last = error
    }
    if (performance.now() > deadline) {
      const what = typeof options.what === 'string' ? options.what : options.what()
      const reason = last instanceof Error ? `; the last look failed: ${last.message}` : ''
      throw new Error(`waited ${timeoutMs} ms in vain for: ${what}${reason}`, { cause: last })
    }
    await sleep(options.everyMs ?? 5)
  }
}
