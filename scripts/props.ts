/**
 * `npm run props -- --histories N --seed S [--steps K] [--json]`: the core's properties over N generated histories. Prints the
 * seed, how many histories hold each class, and the time; exits with 1 at the first failure and says how to replay it.
 */

import { parseArgs } from 'node:util'
import { FULL_STEPS } from '../test/support/histories.ts'
import { checkSeeds, tooThin } from '../test/support/properties.ts'

const USAGE = 'usage: npm run props -- [--histories N] [--seed S] [--steps K] [--json]'
/** Fewer histories than this say nothing about the share of a class. */
const SHARES_FROM = 100

function integer(name: string, text: string | undefined, fallback: number): number {
  if (text === undefined) return fallback
  const value = Number(text)
  if (!Number.isSafeInteger(value) || value < 0) throw new RangeError(`--${name} must be a whole number, not "${text}"`)
  return value
}

function main(argv: readonly string[]): number {
  let settings
  try {
    const { values } = parseArgs({
      args: [...argv],
      options: {
        histories: { type: 'string' },
        seed: { type: 'string' },
        steps: { type: 'string' },
        json: { type: 'boolean', default: false },
      },
    })
    settings = {
      histories: integer('histories', values.histories, 300),
      seed: integer('seed', values.seed, Date.now() % 1_000_000_000),
      steps: integer('steps', values.steps, FULL_STEPS),
      json: values.json,
    }
  } catch (error) {
    console.error(`${(error as Error).message}\n${USAGE}`)
    return 2
  }
  const { histories, seed, steps, json } = settings
  console.error(`${histories} histories from seed ${seed}`)
  const startedAt = performance.now()
  try {
    const classes = checkSeeds(seed, histories, steps)
    const seconds = Math.round((performance.now() - startedAt) / 100) / 10
    if (json) console.log(JSON.stringify({ histories, seed, steps, seconds, classes }))
    else {
      for (const [name, count] of Object.entries(classes)) console.log(`${name.padEnd(18)}${count}`)
      console.log(`${histories} histories hold, in ${seconds} s`)
    }
    // A few histories, or short ones, say nothing about shares.
    const thin = histories >= SHARES_FROM && steps >= FULL_STEPS ? tooThin(classes, histories) : []
    for (const line of thin) console.error(`too thin: ${line}`)
    return thin.length === 0 ? 0 : 1
  } catch (error) {
    console.error((error as Error).message)
    return 1
  }
}

process.exitCode = main(process.argv.slice(2))
