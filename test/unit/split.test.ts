import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { sharesOf, upstreamsOf } from '../../src/core/resources/split.ts'

const parts = (weights: Record<string, number>, upstream?: string) => {
  const split = Object.fromEntries(
    Object.entries(weights).map(([id, weight]) => [id, { upstream: `of-${id}`, weight }]),
  )
  return Object.fromEntries(sharesOf({ split, upstream }).map((share) => [share.id, share.parts]))
}

describe('shares of a split', () => {
  test.each<[string, Record<string, number>, Record<string, number>]>([
    ['percents stay', { stable: 95, canary: 5 }, { stable: 9500, canary: 500 }],
    ['any sum does', { a: 3, b: 1 }, { a: 7500, b: 2500 }],
    ['what is over is the heaviest’s, of equal ones the first', { a: 1, b: 1, c: 1 }, { a: 3334, b: 3333, c: 3333 }],
    ['two decimals', { a: 1, b: 2 }, { a: 3333, b: 6667 }],
    ['no weight is none', { a: 1, b: 0 }, { a: 10_000, b: 0 }],
    ['the least weight is something', { a: 10_000, b: 10_000, c: 1 }, { a: 5000, b: 4999, c: 1 }],
    ['all without weight get the same', { a: 0, b: 0 }, { a: 5000, b: 5000 }],
  ])('%s', (_what, weights, expected) => {
    expect(parts(weights)).toEqual(expected)
  })

  test('without any weight the upstream of the proxy gets all, and only what may be reached is needed', () => {
    expect(parts({ a: 0 }, 'u')).toEqual({ a: 0, '': 10_000 })
    const split = { a: { upstream: 'x', weight: 1 }, b: { upstream: 'x', weight: 1 } }
    expect(upstreamsOf({ split, upstream: 'u' })).toEqual(['x'])
    expect(upstreamsOf({ upstream: 'u' })).toEqual(['u'])
  })

  test('property: they add up to 100 percent, none is negative, and their order of writing means nothing', () => {
    const weights = fc.dictionary(fc.stringMatching(/^[a-z]{1,4}$/), fc.integer({ min: 0, max: 10_000 }), {
      minKeys: 1,
      maxKeys: 16,
    })
    fc.assert(
      fc.property(weights, (map) => {
        const found = parts(map)
        const all = Object.values(found)
        expect(all.reduce((sum, each) => sum + each, 0)).toBe(10_000)
        expect(all.every((each) => each >= 0)).toBe(true)
        const isNothing = Object.values(map).every((weight) => weight === 0)
        for (const [id, weight] of Object.entries(map)) expect((found[id] ?? 0) > 0).toBe(isNothing || weight > 0)
        expect(parts(Object.fromEntries(Object.entries(map).toReversed()))).toEqual(found)
      }),
    )
  })
})
