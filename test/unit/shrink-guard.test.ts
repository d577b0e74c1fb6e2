/** What a slice may drop without a person's word: at once, in pieces, by deletion and by policy. */

import { expect, test } from 'vitest'
import { sitesKey, type Problem } from '../../src/core/slice.ts'
import { remainderOf, ShrinkGuard } from '../../src/shrink-guard.ts'
import { renderYaml, sliceOf, statesOf } from '../support/resources.ts'

const names = (count: number) => Array.from({ length: count }, (_, index) => `s${index}`)
const yaml = (sites: readonly string[], confirmShrink?: string) =>
  [
    ...sites.map((name) => ({ kind: 'Site', metadata: { name, zone: 'eu' }, spec: { hosts: [`${name}.test`] } })),
    ...(confirmShrink === undefined
      ? []
      : [{ kind: 'ZoneSettings', metadata: { name: 'settings', zone: 'eu' }, spec: { reload: { confirmShrink } } }]),
  ]
    .map((document) => JSON.stringify({ apiVersion: 'nxmesh/v1', ...document }))
    .join('\n---\n')
const sliceWith = (count: number, confirmShrink?: string) => sliceOf(statesOf(yaml(names(count), confirmShrink)))
const paths = (count: number) => names(count).map((name) => `default/eu/site/${name}`)

test.each([
  ['half of four', 4, 2, false],
  ['over half of four', 4, 1, true],
  ['all of three', 3, 0, false],
  ['over half of hundreds', 500, 249, true],
])('%s', (_, served, left, holds) => {
  expect(new ShrinkGuard().reason(sliceWith(left), paths(served), 0) !== undefined).toBe(holds)
})

test('an accident that arrives in pieces is held at half, and what is grown since counts', () => {
  const guard = new ShrinkGuard()
  expect(guard.reason(sliceWith(20), paths(20), 0)).toBeUndefined()
  expect(guard.reason(sliceWith(12), paths(20), 1_000)).toBeUndefined()
  expect(guard.reason(sliceWith(7), paths(12), 2_000)).toBe(
    'the slice drops 13 of the 20 sites that were served a minute ago; the last good generation stays',
  )
  // Who goes on slowly means it.
  expect(guard.reason(sliceWith(7), paths(12), 62_000)).toBeUndefined()
})

test('a confirmed drop is where the next one begins', () => {
  const guard = new ShrinkGuard()
  const key = sitesKey(sliceWith(6))
  expect(guard.reason(sliceWith(6), paths(20), 0)).toBeDefined()
  expect(guard.reason(sliceWith(6, key), paths(20), 1_000)).toBeUndefined()
  expect(guard.reason(sliceWith(5, key), paths(6), 2_000)).toBeUndefined()
  expect(guard.reason(sliceWith(2, key), paths(6), 3_000)).toContain('drops 4 of the 6 sites that are served')
})

test.each(['clash', 'quota', 'host_not_granted'] as const)('sites that %s takes away whole are dropped', (code) => {
  const { units } = renderYaml(yaml(names(1)))
  const problems: Problem[] = paths(4).map((path) => ({ path, code, message: '' }))
  const slice = { ...sliceWith(1), problems: problems.slice(1) }
  const remaining = remainderOf(slice, units, problems)
  expect([...remaining.resources, ...remaining.problems].map(({ path }) => path)).toEqual(paths(1))
  expect(new ShrinkGuard().reason(remaining, paths(4), 0)).toContain('drops 3 of the 4 sites')
})
