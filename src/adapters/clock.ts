/**
 * The real clock: wall time, monotonic time and timers of the operating system. It holds no state of its own and
 * decides nothing; the composition root makes one and hands it to everything that needs time.
 */

import { setTimeout as sleepFor } from 'node:timers/promises'
import type { Clock } from '../ports.ts'

export const systemClock: Clock = {
  now: () => Date.now(),
  monotonic: () => performance.now(),
  async sleep(ms, signal) {
    try {
      await sleepFor(ms, undefined, signal === undefined ? {} : { signal })
    } catch (error) {
      // Node rejects with its own AbortError; the port promises the signal's reason.
      throw signal?.aborted ? signal.reason : error
    }
  },
  after(ms, callback) {
    const timer = setTimeout(callback, ms)
    timer.unref()
    return () => clearTimeout(timer)
  },
}
