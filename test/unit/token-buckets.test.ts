import { expect, test } from 'vitest'
import { TokenBuckets } from '../../src/token-buckets.ts'
import { VirtualClock } from '../support/virtual-clock.ts'

test('a key has its burst, then what comes back with time', async () => {
  const clock = new VirtualClock()
  const buckets = new TokenBuckets(clock, 3, 2)
  expect([1, 2, 3, 4].map(() => buckets.take('a'))).toEqual([true, true, true, false])
  expect(buckets.take('b')).toBe(true)
  await clock.advance(500)
  expect([buckets.take('a'), buckets.take('a')]).toEqual([true, false])
  await clock.advance(60_000)
  expect([1, 2, 3, 4].map(() => buckets.take('a'))).toEqual([true, true, true, false])
})

test('a cost above what is left becomes a debt', async () => {
  const clock = new VirtualClock()
  const buckets = new TokenBuckets(clock, 4, 1)
  expect(buckets.has('a')).toBe(true)
  expect(buckets.take('a', 10)).toBe(true)
  await clock.advance(6_900)
  expect(buckets.has('a')).toBe(false)
  await clock.advance(200)
  expect(buckets.has('a')).toBe(true)
})

test('remembers a bounded number of keys, and forgets the one unused for longest', () => {
  const buckets = new TokenBuckets(new VirtualClock(), 1, 0)
  buckets.take('first')
  for (let key = 0; key < 4095; key += 1) buckets.take(String(key))
  expect(buckets.take('first')).toBe(false)
  for (let key = 0; key < 4096; key += 1) buckets.take(`more ${key}`)
  expect(buckets.take('first')).toBe(true)
})
