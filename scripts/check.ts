/**
 * `npm run check`: what must be green before a commit, in under three minutes. The static checks run side by side, then
 * the unit, contract and sim tests have the machine to themselves. Runs everything and fails when any part failed.
 */

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

interface Part {
  readonly name: string
  /** A command of node_modules/.bin with its arguments. */
  readonly command: readonly [string, ...string[]]
}

interface Outcome {
  readonly name: string
  readonly passed: boolean
  readonly seconds: number
}

const PROJECT = dirname(dirname(fileURLToPath(import.meta.url)))

const STATIC_PARTS: readonly Part[] = [
  { name: 'format', command: ['oxfmt', '--check'] },
  { name: 'lint', command: ['oxlint'] },
  { name: 'types', command: ['tsc', '-p', '.'] },
  { name: 'dead code', command: ['knip'] },
]
const TESTS: Part = {
  name: 'tests',
  command: ['vitest', 'run', '--project', 'unit', '--project', 'contract', '--project', 'sim'],
}

/** Runs one part; its output is shown as it comes (`live`), or all at once and only when it failed. */
async function run(part: Part, output: 'live' | 'when it fails'): Promise<Outcome> {
  const [command, ...args] = part.command
  const startedAt = performance.now()
  const child = spawn(join(PROJECT, 'node_modules/.bin', command), args, {
    cwd: PROJECT,
    stdio: ['ignore', ...(output === 'live' ? (['inherit', 'inherit'] as const) : (['pipe', 'pipe'] as const))],
  })
  const chunks: Buffer[] = []
  child.stdout?.on('data', (chunk: Buffer) => chunks.push(chunk))
  child.stderr?.on('data', (chunk: Buffer) => chunks.push(chunk))
  await once(child, 'close')
  const passed = child.exitCode === 0
  if (!passed && output !== 'live') process.stdout.write(`\n--- ${part.name}\n${Buffer.concat(chunks).toString()}`)
  return { name: part.name, passed, seconds: (performance.now() - startedAt) / 1000 }
}

const outcomes = [
  ...(await Promise.all(STATIC_PARTS.map((part) => run(part, 'when it fails')))),
  await run(TESTS, 'live'),
]
console.log()
for (const { name, passed, seconds } of outcomes) {
  console.log(`${passed ? 'passed' : 'FAILED'}  ${name.padEnd(10)} ${seconds.toFixed(1).padStart(6)} s`)
}
process.exitCode = outcomes.every(({ passed }) => passed) ? 0 : 1
