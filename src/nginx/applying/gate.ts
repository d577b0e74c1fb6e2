/**
 * The gate that every reload passes but those that go back: old workers hold their memory until their longest connection
 * ends, so that there may only be so many of them. Waits and says so; swap.ts, apply.ts and serving.ts reload behind it.
 */

import { MeshError } from '../../errors.ts'
import { applyError, type ApplyRequest } from './run.ts'
import type { Parts } from './settings.ts'

const GATE_POLL_MS = 100
const DRAINING_PER_WORKER = 4
const DRAINING_LEAST = 16

/** Resolves when few enough drain. @throws MeshError `unavailable` when that takes longer than `gateWaitMs` */
export async function waitForMemory(
  { nginx, clock, settings }: Pick<Parts, 'nginx' | 'clock' | 'settings'>,
  master: number,
  onWait?: ApplyRequest['onWait'],
  signal?: AbortSignal,
): Promise<void> {
  let hasTold = false
  const deadline = clock.monotonic() + settings.gateWaitMs
  for (;;) {
    const workers = await nginx.workers(master)
    const draining = workers.filter((worker) => worker.draining).length
    const usual = Math.max(DRAINING_LEAST, DRAINING_PER_WORKER * (workers.length - draining))
    const limit = settings.maxDrainingWorkers ?? usual
    if (draining <= limit) return
    const hint = 'they end with their connections, or after worker_shutdown_timeout; it goes on by itself'
    const message = `${draining} old workers are still draining, over the limit of ${limit}`
    const error = new MeshError('unavailable', message, { hint })
    if (!hasTold) onWait?.(applyError(error))
    hasTold = true
    if (clock.monotonic() >= deadline) throw error
    await clock.sleep(GATE_POLL_MS, signal)
  }
}
