import { expect, test } from 'vitest'
import type { Envelope } from '../../src/core/envelope.ts'
import { WaitingPool } from '../../src/waiting-pool.ts'
import { collectionSizes } from '../support/collections.ts'

/** The pool looks at nothing else of an envelope. */
const envelope = (id: string): Envelope => ({ id, sigs: { author: '' }, size: 1000 }) as unknown as Envelope

test('is bounded for each peer and in all, however many peers send, and keeps nothing of what it drops', () => {
  const pool = new WaitingPool<undefined>({ bytesPerPeer: 20_000, bytes: 200_000 })
  for (let n = 0; n < 5000; n += 1) {
    const missing = new Set([`${n} a`, `${n} b`])
    pool.add({ envelope: envelope(String(n)), peer: `peer ${n}`, missing, tag: undefined })
    pool.add({ envelope: envelope(`${n} of one`), peer: 'one', missing, tag: undefined })
  }
  const sizes = collectionSizes(pool)
  expect(pool.bytes).toBeLessThanOrEqual(200_000)
  expect(sizes.get('#entries')).toBe(pool.size)
  expect(pool.size).toBeLessThan(100)
  expect(sizes.get('#ofPeer')).toBeLessThanOrEqual(pool.size)
  expect(sizes.get('#waitingFor')).toBeLessThanOrEqual(2 * pool.size)

  for (let n = 0; n < 5000; n += 1) pool.release(`${n} a`, () => true)
  expect(pool.bytes).toBe(0)
  expect([...collectionSizes(pool).values()]).toEqual([0, 0, 0])
})
