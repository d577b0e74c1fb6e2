/**
 * `npm run chaos -- kills [--rounds 200] [--seed S] [--json]`: kills daemons and nginx under writes and holds the mesh to what
 * it has promised. One line a round, a summary, exit code 1 at the first violation, with logs and data kept as evidence.
 */

import { cp, mkdtemp, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { diceFrom } from '../test/support/histories.ts'
import { KILLS, KillsRun, Violation, type Round } from './chaos/kills.ts'
import { abortWhenInterrupted } from './interruption.ts'

const USAGE = 'usage: npm run chaos -- kills [--rounds N] [--seed S] [--json]'
/** How long the daemons may take to stop before they are killed. */
const STOP_TIMEOUT_MS = 30_000

interface Settings {
  readonly rounds: number
  readonly seed: number
  readonly json: boolean
}

const stopping = abortWhenInterrupted()

function settingsOf(argv: readonly string[]): Settings {
  const { values, positionals } = parseArgs({
    args: [...argv],
    allowPositionals: true,
    options: { rounds: { type: 'string' }, seed: { type: 'string' }, json: { type: 'boolean', default: false } },
  })
  if (positionals.join(' ') !== 'kills')
    throw new RangeError(`there is one kind of chaos: kills, not "${positionals.join(' ')}"`)
  return {
    rounds: integer('rounds', values.rounds, 200),
    seed: integer('seed', values.seed, Date.now() % 1_000_000_000),
    json: values.json,
  }
}

function integer(name: string, text: string | undefined, fallback: number): number {
  const value = text === undefined ? fallback : Number(text)
  if (!Number.isSafeInteger(value) || value < 0) throw new RangeError(`--${name} must be a whole number, not "${text}"`)
  return value
}

/** Everything there is to look at, in a folder of its own; the daemons are stopped first. */
async function keepEvidence(run: KillsRun): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'nxmesh-chaos-'))
  const logs = run.logs()
  await Promise.all(run.fleet.members.map((member) => member.stop('SIGKILL')))
  // Sockets cannot be copied and say nothing.
  await cp(run.fleet.directory, directory, { recursive: true, filter: (source) => !source.endsWith('.sock') })
  for (const [name, log] of logs) await writeFile(join(directory, `${name}.log`), log)
  return directory
}

async function end(run: KillsRun): Promise<void> {
  const impatience = setTimeout(() => {
    for (const member of run.fleet.members) void member.stop('SIGKILL')
  }, STOP_TIMEOUT_MS)
  await run.fleet.stop()
  clearTimeout(impatience)
}

async function play({ rounds: count, seed, json }: Settings): Promise<number> {
  const tell = (text: string): void => void (json ? process.stderr : process.stdout).write(`${text}\n`)
  tell(`kills: ${count} rounds, seed ${seed} (it repeats the choices; the moments also depend on the machine)`)
  const startedAt = performance.now()
  const run = await KillsRun.create(diceFrom(seed), stopping.signal)
  const rounds: Round[] = []
  try {
    await run.start()
    while (rounds.length < count) {
      const round = await run.round()
      rounds.push(round)
      const { kill, victim, edits, recoveryMs } = round
      const place = String(rounds.length).padStart(String(count).length)
      tell(`${place}  ${victim}  ${kill.padEnd(34)}${edits} edits  recovered in ${(recoveryMs / 1000).toFixed(1)} s`)
    }
    await run.checkNothingLost()
    const summary = summaryOf(rounds, run, seed, (performance.now() - startedAt) / 1000)
    if (json) process.stdout.write(`${JSON.stringify(summary)}\n`)
    const { edits, lost, storesOpened, recovery, seconds } = summary
    tell(
      `${rounds.length} rounds in ${seconds} s: ${edits} edits acknowledged, ${lost} lost; ${storesOpened} stores of killed daemons ` +
        `opened whole; recovery p50 ${recovery.p50Ms} ms, p99 ${recovery.p99Ms} ms, max ${recovery.maxMs} ms`,
    )
    return 0
  } catch (error) {
    if (stopping.signal.aborted) throw stopping.signal.reason
    const kept = await keepEvidence(run)
    const { message, cause, stack } = error as Error
    const what = error instanceof Violation ? `violated: ${message}` : `failed: ${stack}`
    process.stderr.write(`${what}\n${cause instanceof Error ? `  ${cause.message}\n` : ''}`)
    process.stderr.write(`after ${rounds.length} rounds of seed ${seed}; logs and data are kept in ${kept}\n`)
    return 1
  } finally {
    await end(run)
  }
}

function summaryOf(rounds: readonly Round[], run: KillsRun, seed: number, seconds: number) {
  const times = rounds.map(({ recoveryMs }) => recoveryMs).toSorted((a, b) => a - b)
  const percentile = (share: number): number => times[Math.max(0, Math.ceil(times.length * share) - 1)] ?? 0
  return {
    rounds: rounds.length,
    seed,
    seconds: Math.round(seconds),
    edits: run.acknowledged,
    // A lost edit ends the run before there is a summary.
    lost: 0,
    storesOpened: run.storesOpened,
    kills: Object.fromEntries(KILLS.map((kill) => [kill, rounds.filter((round) => round.kill === kill).length])),
    recovery: { p50Ms: percentile(0.5), p99Ms: percentile(0.99), maxMs: times.at(-1) ?? 0 },
  }
}

let settings: Settings | undefined
try {
  settings = settingsOf(process.argv.slice(2))
} catch (error) {
  process.stderr.write(`${(error as Error).message}\n${USAGE}\n`)
  process.exitCode = 2
}
try {
  if (settings !== undefined) process.exitCode = await play(settings)
} catch (error) {
  process.exitCode ??= 1
  process.stderr.write(
    `the run ended: ${stopping.signal.aborted ? (error as Error).message : String((error as Error).stack)}\n`,
  )
}
process.exit()
