import { expect, test } from 'vitest'
import { factsOf, healthOf, type HealthFacts, type HealthStatus, type NodeFacts } from '../../src/status/health.ts'
import type { Problem } from '../../src/core/slice.ts'
import type { Receipt } from '../../src/receipt.ts'
import { receiptOf } from '../support/receipt.ts'

const facts = (errors: string[], warnings: string[], pending: string[], notes: string[] = []): HealthFacts => ({
  errors,
  warnings,
  pending,
  notes,
})

test.each<[HealthFacts, HealthStatus, string]>([
  [facts([], [], []), 'Running', 'all is well'],
  [facts([], [], [], ['a peer’s key is used twice']), 'Running', 'all is well'],
  [facts([], [], ['not yet']), 'Unknown', 'not yet'],
  [facts([], [], ['not yet'], ['a peer’s key is used twice']), 'Unknown', 'not yet'],
  [facts([], ['one site is left out'], ['not yet']), 'Degraded', 'one site is left out'],
  [facts(['nginx does not run'], ['one site is left out'], []), 'Error', 'nginx does not run'],
])('%j is %s', (given, status, msg) => {
  const { errors, warnings, pending, notes } = given
  expect(healthOf(given)).toEqual({ status, msg, reasons: [...errors, ...warnings, ...pending, ...notes] })
})

const WELL: NodeFacts = {
  writeError: undefined,
  corruptRecords: 0,
  authorsOverQuota: [],
  hasMesh: true,
  isSettled: true,
  hasLostStore: false,
  complaints: [],
  notes: [],
  others: 2,
  connections: 1,
  isStarting: false,
  receipt: receiptOf(),
  closedToWorkers: [],
  certificates: { expired: 0, expiring: 0, misnamed: 0 },
}
const held = receiptOf({
  outcome: 'held',
  phase: 'hold',
  error: { code: 'not_applied', message: 'nothing is applied' },
})

/** What a receipt shows of so many problems. */
function beyond(shown: number, problemCount: number, first: Problem['code'] = 'quota'): Receipt {
  const problem = (code: Problem['code']): Problem => ({ path: 'default/*/site/a', code, message: 'x' })
  return receiptOf({ problems: [problem(first), ...Array(shown - 1).fill(problem('host_not_granted'))], problemCount })
}

test('health is open to all, and names no key', () => {
  const { warnings } = factsOf({ ...WELL, authorsOverQuota: ['ana'] })
  expect(warnings.join()).not.toContain('ana')
})

test.each<[what: string, changes: Partial<NodeFacts>, place: keyof HealthFacts | undefined, words: string]>([
  ['all is well', {}, undefined, ''],
  ['it manages no nginx', { receipt: null }, undefined, ''],
  ['the store fails', { writeError: 'full' }, 'errors', 'the store cannot be written: full'],
  ['there is no mesh', { hasMesh: false, isSettled: false }, 'pending', 'no mesh yet'],
  ['it has not settled', { isSettled: false }, 'pending', 'the first complete exchange'],
  ['records are damaged', { corruptRecords: 3 }, 'warnings', 'damaged records of the store were left out'],
  ['authors fill the store', { authorsOverQuota: ['ana', 'bob'] }, 'warnings', 'no more is taken of them: 2'],
  ['a peer’s key is used twice', { notes: ['two processes'] }, 'notes', 'two processes'],
  ['its place is wrong', { complaints: ['mesh.zone us'] }, 'warnings', 'mesh.zone us'],
  ['it is cut off', { connections: 0 }, 'warnings', 'no connection with any other node (2 known)'],
  ['it has just started', { connections: 0, isStarting: true }, 'pending', 'no connection with any other node'],
  ['it is the only one', { connections: 0, others: 0 }, undefined, ''],
  ['nginx was not looked at', { receipt: undefined }, 'pending', 'nginx has not been looked at yet'],
  ['an apply failed', { receipt: receiptOf({ error: { code: 'nginx_failed', message: 'x' } }) }, 'warnings', 'x'],
  ['it holds back before it has settled', { receipt: held, isSettled: false }, 'pending', 'nothing is applied'],
  ['it holds back after', { receipt: held }, 'warnings', 'nothing is applied'],
  ['it holds back for a lost store', { receipt: held, isSettled: false, hasLostStore: true }, 'warnings', 'nothing is'],
  ['a site is not served', { receipt: receiptOf({ problemCount: 1 }) }, 'warnings', 'not served as written: 1 of'],
  ['all that is left out is beyond a grant', { receipt: beyond(1, 30) }, 'notes', 'left out, being beyond the grants'],
  ['not all that is left out is', { receipt: beyond(2, 2, 'clash') }, 'warnings', 'not served as written: 2 of'],
  [
    'a certificate has expired',
    { certificates: { expired: 1, expiring: 0, misnamed: 0 } },
    'warnings',
    'certificates of sites have expired: 1',
  ],
  [
    'a certificate expires',
    { certificates: { expired: 0, expiring: 2, misnamed: 0 } },
    'notes',
    'expire within 14 days: 2',
  ],
  [
    'a certificate does not name a host',
    { certificates: { expired: 0, expiring: 0, misnamed: 3 } },
    'notes',
    'do not name: 3',
  ],
  ['workers are shut out', { closedToWorkers: ['/root'] }, 'warnings', 'workers cannot pass through /root'],
])('when %s', (_, changes, place, words) => {
  const facts = factsOf({ ...WELL, ...changes })
  const found = (['errors', 'warnings', 'pending', 'notes'] as const).filter((one) =>
    facts[one].some((reason) => words !== '' && reason.includes(words)),
  )
  expect(found).toEqual(place === undefined ? [] : [place])
  if (place === undefined) expect(facts).toEqual({ errors: [], warnings: [], pending: [], notes: [] })
})

test('an nginx that does not run is an error', () => {
  const { nginx } = receiptOf()
  const facts = factsOf({ ...WELL, receipt: receiptOf({ nginx: { ...nginx, running: false } }) })
  expect(facts).toEqual({ errors: ['nginx does not run'], warnings: [], pending: [], notes: [] })
})
