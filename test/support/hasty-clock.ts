/**
 * Real time, only faster: for tests of real sockets, where backoffs, timeouts and bans should pass in a moment. Wall time
 * stays as it is, since it decides nothing.
 */

import { systemClock } from '../../src/adapters/clock.ts'
import type { Clock } from '../../src/ports.ts'

/** A clock that runs `factor` times faster than the system's. */
export function hasten(factor: number): Clock {
  return {
    now: () => systemClock.now(),
    monotonic: () => systemClock.monotonic() * factor,
    sleep: (ms, signal) => systemClock.sleep(ms / factor, signal),
    after: (ms, callback) => systemClock.after(ms / factor, callback),
  }
}
