/**
 * Asks nginx's workers over one socket until somebody is content with what all of them have said. Judges nothing:
 * verify.ts asks for generations, live-push.ts for live state.
 */

import type { Clock, NginxProcess } from '../../ports.ts'

const LONGEST_PAUSE_MS = 25
/** Workers take connections unevenly: a few more requests than workers reach them all sooner. */
const ASKS_PER_WORKER = 2
const ASKS_AT_ONCE_MAX = 64

export interface Question<A, T> {
  readonly nginx: Pick<NginxProcess, 'master' | 'workers'>
  readonly clock: Clock
  /** Of whichever worker takes it; undefined when none does. */
  readonly ask: () => Promise<A | undefined>
  readonly firstPauseMs: number
  readonly limitMs: number
  /**
   * After each round. The end of it when it gives something; it has to when it is late.
   * @param workers those that do not drain, none without a master
   * @param answers the last one of each, by pid
   */
  readonly judge: (
    workers: readonly number[],
    answers: ReadonlyMap<number, A>,
    isLate: boolean,
  ) => Promise<T | undefined>
}

export async function askWorkers<A extends { readonly pid: number }, T>(question: Question<A, T>): Promise<T> {
  const { nginx, clock, ask, firstPauseMs, limitMs, judge } = question
  const deadline = clock.monotonic() + limitMs
  const answers = new Map<number, A>()
  for (let pauseMs = firstPauseMs; ; pauseMs = Math.min(pauseMs * 2, LONGEST_PAUSE_MS)) {
    const asks = Math.min(ASKS_AT_ONCE_MAX, ASKS_PER_WORKER * Math.max(1, (await serving(nginx)).length))
    for (const answer of await Promise.all(Array.from({ length: asks }, () => ask()))) {
      if (answer !== undefined) answers.set(answer.pid, answer)
    }
    // Looked up after asking: a worker that died meanwhile does not count, its replacement has to answer too.
    const end = await judge(await serving(nginx), answers, clock.monotonic() >= deadline)
    if (end !== undefined) return end
    await clock.sleep(pauseMs)
  }
}

async function serving(nginx: Question<unknown, unknown>['nginx']): Promise<readonly number[]> {
  const master = await nginx.master()
  if (master === undefined) return []
  return (await nginx.workers(master)).filter(({ draining }) => !draining).map(({ pid }) => pid)
}
