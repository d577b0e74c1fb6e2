/**
 * The test projects, from the cheapest to the dearest: unit, contract, sim, e2e. `npm test` runs them all, once; e2e runs
 * after the others and one file at a time, because its daemons and nginx want the machine for themselves.
 */

import { defineConfig } from 'vitest/config'

function project(
  name: string,
  settings: { readonly testTimeoutMs: number; readonly group: number; readonly parallel: boolean },
) {
  return {
    test: {
      name,
      include: [`test/${name}/**/*.test.ts`],
      testTimeout: settings.testTimeoutMs,
      hookTimeout: settings.testTimeoutMs,
      fileParallelism: settings.parallel,
      sequence: { groupOrder: settings.group },
    },
  }
}

export default defineConfig({
  test: {
    reporters: ['default'],
    projects: [
      project('unit', { testTimeoutMs: 10_000, group: 0, parallel: true }),
      project('sim', { testTimeoutMs: 60_000, group: 0, parallel: true }),
      project('contract', { testTimeoutMs: 30_000, group: 1, parallel: true }),
      project('e2e', { testTimeoutMs: 120_000, group: 2, parallel: false }),
    ],
  },
})
