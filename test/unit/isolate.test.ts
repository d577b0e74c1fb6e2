/**
 * The search for what can be served when nginx refuses some of what changed, as properties: no good unit is ever dropped
 * when each bad one fails by itself, whatever nginx names; what comes out was tested as it is; it always ends, soon.
 */

import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { findGood, type Blame, type Found } from '../../src/nginx/applying/bisect.ts'

type Fault = (taken: ReadonlySet<number>) => readonly Blame<number>[]

interface Outcome extends Found<number> {
  /** What was accepted last; undefined when nothing was. */
  readonly accepted: readonly number[] | undefined
  readonly tests: number
}

/** Searches among `count` candidates; time is over after so many tests. */
async function search(
  count: number,
  fault: Fault,
  { budget = Number.POSITIVE_INFINITY, cuts = [] as readonly number[] } = {},
): Promise<Outcome> {
  let tests = 0
  let accepted: readonly number[] | undefined
  const all = Array.from({ length: count }, (_, index) => index)
  const bounds = [0, ...cuts.map((cut) => cut % (count + 1)).toSorted((a, b) => a - b), count]
  const groups = bounds.slice(1).map((end, index) => all.slice(bounds[index], end))
  const found = await findGood(groups, {
    test: (taken) => {
      tests += 1
      const blames = fault(new Set(taken))
      if (blames.length === 0) accepted = taken
      return Promise.resolve(blames)
    },
    hasTime: () => tests < budget,
  })
  return { ...found, accepted, tests }
}

/** Fails when one of the bad is in; names those of the bad that are in `loud`, the first or all of them. */
function independent(bad: ReadonlySet<number>, loud: ReadonlySet<number>, namesAll: boolean): Fault {
  return (taken) => {
    const present = [...bad].filter((one) => taken.has(one))
    if (present.length === 0) return []
    const named = present.filter((one) => loud.has(one))
    return [{ reason: 'bad', blamed: namesAll ? named : named.slice(0, 1) }]
  }
}

const COUNT = 40
const numbers = fc.uniqueArray(fc.nat(COUNT - 1), { maxLength: COUNT }).map((list) => new Set(list))
const cuts = fc.array(fc.nat(COUNT), { maxLength: 3 })
const sorted = (list: readonly number[]) => list.toSorted((a, b) => a - b)
const complement = (set: ReadonlySet<number>) =>
  Array.from({ length: COUNT }, (_, index) => index).filter((one) => !set.has(one))

/** As fast-check's own budget and seed: a failure prints both. */
describe('a search', () => {
  test('takes every good one and none of the bad, when each fails by itself', async () => {
    await fc.assert(
      fc.asyncProperty(numbers, numbers, fc.boolean(), cuts, async (bad, loud, namesAll, where) => {
        const found = await search(COUNT, independent(bad, loud, namesAll), { cuts: where })
        expect(sorted(found.taken)).toEqual(complement(bad))
        expect(sorted([...found.refused.keys()])).toEqual(sorted([...bad]))
        expect(found.base).toEqual([])
        expect(found.accepted).toEqual(found.taken)
      }),
    )
  })

  test('takes two tests for each halving that leads to a bad one, and a few', async () => {
    await fc.assert(
      fc.asyncProperty(numbers, numbers, fc.boolean(), async (bad, loud, namesAll) => {
        const { tests } = await search(COUNT, independent(bad, loud, namesAll))
        expect(tests).toBeLessThanOrEqual(2 + 2 * bad.size * Math.ceil(Math.log2(COUNT)))
        expect(tests).toBeLessThanOrEqual(3 * COUNT)
      }),
    )
  })

  test('of one bad one that is named costs one more test', async () => {
    const found = await search(COUNT, independent(new Set([7]), new Set([7]), true))
    expect(found.tests).toBe(2)
  })

  test('of one bad one that the words are suspected to mean costs two more tests', async () => {
    const fault: Fault = (taken) => (taken.has(7) ? [{ reason: 'bad', blamed: [], suspected: () => [[1e9], [7]] }] : [])
    expect(await search(COUNT, fault)).toMatchObject({ tests: 3, refused: new Map([[7, 'bad']]) })
  })

  test('goes on later where time ended it, in the groups that it had made', async () => {
    const fault = independent(new Set([3]), new Set(), false)
    const { left, taken, tests } = await search(COUNT, fault, { budget: 3 })
    expect(tests).toBeGreaterThan(3)
    expect(sorted([...taken, ...left.flat()]).length).toBeGreaterThan(COUNT - 2)
    expect(left.length).toBeGreaterThan(1)
  })

  test('ends in what was tested as it is, whatever clashes with what, however wrong the names', async () => {
    const clashes = fc.array(fc.uniqueArray(fc.nat(COUNT - 1), { minLength: 1, maxLength: 4 }), { maxLength: 12 })
    const fault =
      (sets: readonly (readonly number[])[], names: readonly number[]): Fault =>
      (taken) =>
        sets.some((set) => set.every((one) => taken.has(one)))
          ? [{ reason: 'clash', blamed: names, suspected: () => [names, sets[0] ?? []] }]
          : []
    const time = fc.oneof(fc.nat(60), fc.constant(Number.POSITIVE_INFINITY))
    await fc.assert(
      fc.asyncProperty(
        clashes,
        fc.array(fc.nat(COUNT * 2), { maxLength: 4 }),
        time,
        cuts,
        async (sets, names, budget, where) => {
          const found = await search(COUNT, fault(sets, names), { budget, cuts: where })
          expect(found.accepted).toEqual(found.taken)
          expect(found.base).toEqual([])
          expect(found.taken.filter((one) => found.refused.has(one))).toEqual([])
          // Time lets it end early, but never before it got anywhere.
          expect(found.taken.length + found.refused.size).toBeGreaterThan(0)
          if (budget === Number.POSITIVE_INFINITY) expect(found.taken.length + found.refused.size).toBe(COUNT)
          else expect(found.tests).toBeLessThanOrEqual(Math.max(budget, 2 * Math.ceil(Math.log2(COUNT)) + 2) + 1)
        },
      ),
    )
  })

  test('tries each only on top of what was decided about those before it', async () => {
    await fc.assert(
      fc.asyncProperty(numbers, numbers, async (bad, loud) => {
        const fault = independent(bad, loud, false)
        const known = new Set<number>()
        await findGood([complement(new Set())], {
          test: (taken) => {
            const blames = fault(new Set(taken))
            const last = Math.max(-1, ...taken)
            // A good one before the last one tried is there: it was taken, or is tried with it.
            const missing = complement(bad).filter((one) => one < last && !taken.includes(one))
            expect(missing).toEqual([])
            for (const one of taken) known.add(one)
            return Promise.resolve(blames)
          },
          hasTime: () => true,
        })
        expect(known.size).toBe(COUNT)
      }),
    )
  })

  test('takes nothing when what is there anyway fails, and says why', async () => {
    const always = [{ reason: 'no module', blamed: [] }]
    expect(await search(COUNT, () => always)).toMatchObject({ taken: [], base: always, tests: 2 })
    expect(await search(0, () => always)).toMatchObject({ taken: [], base: always, tests: 1 })
  })

  test('of nothing tests what is there anyway', async () => {
    expect(await search(0, () => [])).toMatchObject({ taken: [], base: [], accepted: [], tests: 1 })
  })
})
