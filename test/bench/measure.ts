/**
 * What every benchmark shares: figures from samples, what the machine is, aims and whether they were met. Measures nothing
 * itself. Called by the benchmarks of this folder.
 */

import { readFile } from 'node:fs/promises'
import { availableParallelism, cpus, loadavg, release, totalmem } from 'node:os'

/** Quantiles of one sort of sample, in the unit of the samples. */
export interface Figures {
  readonly count: number
  readonly p50: number
  readonly p99: number
  readonly max: number
}

/** Quantiles by nearest rank; zeros when there are no samples. */
export function figuresOf(samples: readonly number[]): Figures {
  const sorted = samples.toSorted((a, b) => a - b)
  const at = (quantile: number): number => rounded(sorted[Math.max(0, Math.ceil(sorted.length * quantile) - 1)] ?? 0)
  return { count: sorted.length, p50: at(0.5), p99: at(0.99), max: at(1) }
}

/** To two decimals: more digits would claim what no run repeats. */
export function rounded(value: number): number {
  return Math.round(value * 100) / 100
}

/** CPU time of this process between two moments, ms. */
export class CpuMeter {
  readonly #since = process.cpuUsage()

  get ms(): number {
    const { user, system } = process.cpuUsage(this.#since)
    return (user + system) / 1000
  }
}

/** A target that the project has set itself. `value` and `limit` are in the unit that the name ends in. */
export interface Aim {
  readonly name: string
  readonly limit: number
  readonly value: number
  readonly met: boolean
}

export function aim(name: string, value: number, limit: number): Aim {
  return { name, limit, value: rounded(value), met: value <= limit }
}

/** What a benchmark found: one JSON object. Rows are flat or one level deep, so that they print as a table. */
export interface BenchResult {
  readonly bench: string
  /** The values of the options it ran with. */
  readonly options: Readonly<Record<string, unknown>>
  readonly rows: readonly Readonly<Record<string, unknown>>[]
  readonly aims: readonly Aim[]
  /** What a reader must know to compare the figures. */
  readonly notes: readonly string[]
}

export interface Machine {
  readonly cpu: string
  readonly cores: number
  readonly memoryMiB: number
  readonly kernel: string
  readonly node: string
  /** Load average of the minute before: what others do with the machine. Above zero, times are too long. */
  readonly load: number
}

export function machine(): Machine {
  return {
    cpu: cpus()[0]?.model.trim() ?? 'unknown',
    cores: availableParallelism(),
    memoryMiB: Math.round(totalmem() / 2 ** 20),
    kernel: release(),
    node: process.version,
    load: rounded(loadavg()[0] ?? 0),
  }
}

/** Memory of a process, MB of 10^6 bytes: resident, and its share of what it shares with others. */
export async function memoryOf(pid: number): Promise<{ readonly rssMB: number; readonly pssMB: number }> {
  const rollup = await readFile(`/proc/${pid}/smaps_rollup`, 'utf8')
  // What the kernel calls kB has 1,024 bytes.
  const megabytes = (name: string): number =>
    rounded((Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(rollup)?.[1] ?? 0) * 1024) / 1e6)
  return { rssMB: megabytes('Rss'), pssMB: megabytes('Pss') }
}

/** Tells the person who waits. On stderr: stdout is for the result. */
export function progress(text: string): void {
  process.stderr.write(`bench: ${text}\n`)
}
