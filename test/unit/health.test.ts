import { expect, test } from 'vitest'
import { healthOf, type HealthFacts, type HealthStatus } from '../../src/health.ts'

const facts = (errors: string[], warnings: string[], pending: string[]): HealthFacts => ({ errors, warnings, pending })

test.each<[HealthFacts, HealthStatus, string]>([
  [facts([], [], []), 'Running', 'all is well'],
  [facts([], [], ['not yet']), 'Unknown', 'not yet'],
  [facts([], ['one site is left out'], ['not yet']), 'Degraded', 'one site is left out'],
  [facts(['nginx does not run'], ['one site is left out'], []), 'Error', 'nginx does not run'],
])('%j is %s', (given, status, msg) => {
  const { errors, warnings, pending } = given
  expect(healthOf(given)).toEqual({ status, msg, reasons: [...errors, ...warnings, ...pending] })
})
