/** Receipts as a reconciler would give them, for tests of what shows them. */

import type { Receipt } from '../../src/receipt.ts'

export const GENERATION = 'a'.repeat(64)
export const OLD_GENERATION = 'b'.repeat(64)

/** A receipt of a node that has applied its target, but for what is overridden. */
export function receiptOf(overrides: Partial<Receipt> = {}): Receipt {
  return {
    target: '0'.repeat(64),
    desired: GENERATION,
    validated: GENERATION,
    applied: GENERATION,
    lastGood: GENERATION,
    outcome: 'applied',
    phase: 'commit',
    error: null,
    problems: [],
    problemCount: 0,
    isolated: [],
    at: 1_700_000_000_000,
    durations: { test: 12 },
    live: null,
    drift: 0,
    observed: [],
    observedCount: 0,
    nginx: { running: true, master: 42, version: '1.22.1', modules: [], workers: 2, draining: 0 },
    ...overrides,
  }
}
