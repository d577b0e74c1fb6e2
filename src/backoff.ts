/**
 * How long to wait before trying again what failed: one rule for dials, refused configuration and restarts. Pure; the
 * callers keep the count of attempts and the time.
 */

import type { Random } from './ports.ts'

/**
 * The pause after so many failures in a row (from 1), ms: `firstMs`, doubling, capped at `longestMs`, then jittered by a
 * quarter either way, so that the longest pause is 1.25 `longestMs`.
 */
export function backoffMs(attempts: number, firstMs: number, longestMs: number, random: Random): number {
  const pause = Math.min(firstMs * 2 ** (attempts - 1), longestMs)
  return Math.round(pause * (0.75 + random() * 0.5))
}
