/** Twenty rounds of `npm run chaos -- kills`, as a process: the seed is printed, and replayed with --seed. */

import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { expect, it } from 'vitest'
import { KILLS } from '../../scripts/chaos/kills.ts'

const ROUNDS = 20
const TIMEOUT_MS = 15 * 60_000

interface Summary {
  readonly rounds: number
  readonly edits: number
  readonly lost: number
  readonly kills: Readonly<Record<string, number>>
}

const chaos = (...args: readonly string[]) =>
  promisify(execFile)(process.execPath, ['scripts/chaos.ts', ...args], { timeout: TIMEOUT_MS })

it(
  'no acknowledged edit is lost, the store opens, nginx comes back',
  async () => {
    const { stdout, stderr } = await chaos('kills', '--rounds', String(ROUNDS), '--json').catch(
      (error: { stdout: string; stderr: string }) => {
        throw new Error(`the chaos run failed:\n${error.stderr}`)
      },
    )
    console.log(stderr.split('\n')[0])
    const { rounds, edits, lost, kills } = JSON.parse(stdout) as Summary
    expect(rounds).toBe(ROUNDS)
    expect(lost).toBe(0)
    // Six writers make two edits each round.
    expect(edits).toBe(ROUNDS * 12)
    expect(Object.keys(kills)).toEqual(KILLS)
    expect(Object.values(kills).reduce((sum, count) => sum + count)).toBe(ROUNDS)
    expect(stderr).toMatch(/seed \d+/)
  },
  TIMEOUT_MS,
)

it.for([
  { args: [], complaint: 'there is one kind of chaos: kills' },
  { args: ['kills', '--rounds', 'many'], complaint: '--rounds must be a whole number, not "many"' },
  { args: ['kills', '--seeds', '1'], complaint: "Unknown option '--seeds'" },
])('refuses $args and says how it is meant', async ({ args, complaint }) => {
  const { code, stderr } = await chaos(...args).then(
    () => ({ code: 0, stderr: '' }),
    (error: { code: number; stderr: string }) => error,
  )
  expect(code).toBe(2)
  expect(stderr).toContain(complaint)
  expect(stderr).toContain('usage: npm run chaos -- kills')
})
