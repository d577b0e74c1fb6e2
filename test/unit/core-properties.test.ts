import { describe, expect, test } from 'vitest'
import { CLASSES, generateHistory } from '../support/histories.ts'
import { checkSeed, checkSeeds, PropertyFailure, tooThin, type Tally } from '../support/properties.ts'

const HISTORIES = 300
/** Fixed, so that a run is like the next; `npm run props` takes others. */
const FIRST_SEED = Number(process.env['NXMESH_SEED'] ?? 1)

describe('any history', () => {
  test(`holds its properties: ${HISTORIES} from seed ${FIRST_SEED} (NXMESH_SEED replays)`, { timeout: 300_000 }, () => {
    console.log(`core properties: ${HISTORIES} histories from seed ${FIRST_SEED}`)
    const tally = checkSeeds(FIRST_SEED, HISTORIES)
    expect(tooThin(tally, HISTORIES)).toEqual([])
  })
})

describe('the generator', () => {
  test('gives the same history for the same seed', () => {
    const ids = (seed: number): string[] => generateHistory(seed).envelopes.map((envelope) => envelope.id)
    expect(ids(5)).toEqual(ids(5))
    expect(ids(5)).not.toEqual(ids(6))
  })

  test('makes a shorter history a prefix of a longer one, so that a failure shrinks', () => {
    const short = generateHistory(5, 20).envelopes.map((envelope) => envelope.id)
    const long = generateHistory(5, 40).envelopes.map((envelope) => envelope.id)
    expect(long.slice(0, short.length)).toEqual(short)
  })

  test('is found thin when a class is rare', () => {
    const plenty = Object.fromEntries(CLASSES.map((name) => [name, 100])) as Tally
    expect(tooThin(plenty, 100)).toEqual([])
    expect(tooThin({ ...plenty, conflict: 3 }, 100)).toEqual(['conflict: 3 of 100 histories, and 60 are needed'])
  })

  test('a failure names its seed and the fewest steps that show it', () => {
    const failure = new PropertyFailure(7, 12, new Error('the hash differs'))
    expect(failure.message).toContain('npm run props -- --histories 1 --seed 7 --steps 12')
    expect(checkSeed(7, 12).size).toBeGreaterThan(0)
  })
})
