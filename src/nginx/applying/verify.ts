/**
 * The proof of a reload: every worker that is not draining answers on the verify socket with the new generation. Reads
 * the master's own [emerg] lines to learn early that it refused. Changes nothing; serving.ts asks, swap.ts decides what follows.
 */

import type { Clock, NginxProcess } from '../../ports.ts'
import { askWorkers } from './ask-workers.ts'
import { get } from './http.ts'
import { brokenWorkers, emergencies, type LogTail } from './log-tail.ts'

/** One worker's answer: which generation it runs. */
export interface WorkerAnswer {
  readonly generation: string
  readonly pid: number
}

/** nginx's own endpoint on the verify socket. */
export interface VerifyEndpoint {
  /** What one worker answers; undefined when none does. */
  ask(): Promise<WorkerAnswer | undefined>
  /** Those of all workers, without the one that asks; undefined when no worker answers, or none can. */
  connections(): Promise<Connections | undefined>
}

/** Client connections as nginx's stub_status counts them: `active` is the sum of the others. */
export interface Connections {
  readonly active: number
  readonly reading: number
  readonly writing: number
  /** For a request. */
  readonly waiting: number
}

/** Longer than a busy worker takes to get to a request, shorter than any limit of a verification. */
const ANSWER_TIMEOUT_MS = 2_000

/** The endpoint that every generation serves on its unix socket. */
export function verifyEndpoint(socketPath: string): VerifyEndpoint {
  const ask = (path: string) =>
    get({ to: { socketPath }, path, host: 'nxmesh', timeoutMs: ANSWER_TIMEOUT_MS }).catch(() => undefined)
  return {
    async ask() {
      const match = /^([0-9a-f]{64}) (\d+)\s*$/.exec((await ask('/generation'))?.body ?? '')
      return match === null ? undefined : { generation: match[1] as string, pid: Number(match[2]) }
    },
    async connections() {
      return connectionsOf((await ask('/status'))?.body ?? '')
    },
  }
}

/** Without the question itself, which is being answered. */
function connectionsOf(status: string): Connections | undefined {
  const match = /^Active connections: (\d+).*Reading: (\d+) Writing: (\d+) Waiting: (\d+)/s.exec(status)
  if (match === null) return undefined
  const [active, reading, writing, waiting] = match.slice(1).map(Number) as [number, number, number, number]
  return { active: active - 1, reading, writing: writing - 1, waiting }
}

export interface Verification {
  readonly proven: boolean
  /** Why not, for people; with nginx's own words where it said something. */
  readonly reason: string
  /** Whether the master said that it keeps its old configuration: then no worker can come to run the new one. */
  readonly refused: boolean
  /** Whether a worker that serves answered that it runs something else. */
  readonly other: boolean
}

export interface VerifyOptions {
  readonly generation: string
  readonly nginx: NginxProcess
  readonly endpoint: VerifyEndpoint
  readonly clock: Clock
  /** The error log, marked before the signal. */
  readonly errorLog: LogTail
  readonly limitMs: number
}

const FIRST_PAUSE_MS = 2

/** Workers that may end in a verification, beyond each serving one: somebody may kill a few. More of them do not survive their start. */
const BROKEN_MAX = 4

/** Polls until every worker that is not draining has answered with the generation, or it is clear that none will. */
export function verifyWorkers(options: VerifyOptions): Promise<Verification> {
  const { generation, nginx, endpoint, clock, errorLog, limitMs } = options
  const said = new Set<string>()
  const broken: string[] = []
  const judge = async (
    workers: readonly number[],
    answers: ReadonlyMap<number, WorkerAnswer>,
    isLate: boolean,
  ): Promise<Verification | undefined> => {
    const master = await nginx.master()
    if (master === undefined) return { proven: false, reason: 'nginx is not running', refused: false, other: false }
    const runs = (pid: number) => answers.get(pid)?.generation
    if (workers.length > 0 && workers.every((pid) => runs(pid) === generation)) {
      return { proven: true, reason: '', refused: false, other: false }
    }
    const other = workers.some((pid) => (runs(pid) ?? generation) !== generation)
    const lines = await errorLog.read()
    for (const message of emergencies(lines, master)) said.add(message)
    if ([...said].some(isFinal)) return { proven: false, reason: [...said].join('; '), refused: true, other }
    broken.push(...brokenWorkers(lines, master))
    if (broken.length > BROKEN_MAX + workers.length) {
      const reason = `${broken.length} workers ended as soon as they had started: ${broken.at(-1)}`
      return { proven: false, reason, refused: false, other }
    }
    if (!isLate) return undefined
    const reason = `after ${limitMs} ms ${unproven(workers, answers, generation)}`
    return { proven: false, reason, refused: false, other }
  }
  return askWorkers({ nginx, clock, ask: () => endpoint.ask(), firstPauseMs: FIRST_PAUSE_MS, limitMs, judge })
}

/** nginx tries a taken port five times, 500 ms apart, before it gives up with `still could not bind()`. */
function isFinal(emergency: string): boolean {
  return !/^bind\(\) to .* failed \(\d+: Address already in use\)/.test(emergency)
}

function unproven(workers: readonly number[], answers: ReadonlyMap<number, WorkerAnswer>, generation: string): string {
  if (workers.length === 0) return 'no worker was running'
  const behind = workers.flatMap((pid) => {
    const runs = answers.get(pid)?.generation
    if (runs === generation) return []
    return [runs === undefined ? `worker ${pid} had not answered` : `worker ${pid} ran generation ${runs.slice(0, 12)}`]
  })
  return behind.join(', ')
}
