/**
 * One apply as it goes and as it ends: what was asked for, its phases and what they took, its outcome, and the words for
 * people. Made by apply.ts for each apply; reconciler.ts reads the result.
 */

import type { Problem } from '../../core/slice.ts'
import { asMeshError, type ErrorCode } from '../../errors.ts'
import type { Clock } from '../../ports.ts'
import type { Unit } from '../rendering/unit.ts'
import type { Assembled } from './generation.ts'
import type { Isolated } from './isolate.ts'

export type Phase =
  | 'stage'
  | 'precheck'
  | 'test'
  | 'gate'
  | 'drain'
  | 'reload'
  | 'verify'
  | 'probe'
  | 'bake'
  | 'commit'
  | 'rollback'

/** What a node wants nginx to serve. */
export interface ApplyRequest {
  readonly units: readonly Unit[]
  /** Resources that could not be rendered; they keep their last good text. */
  readonly problems: readonly Problem[]
  assemble(units: readonly Unit[]): Assembled
  /** How long connections are drained before a reload at most; 0 does not. */
  readonly drainMs: number
  /** How long the share of 5xx is watched after it; 0 does not. */
  readonly bakeMs: number
  /** The reload has to wait for old workers, and why, in words; told as the wait begins. */
  readonly onWait?: (why: ApplyError) => void
  /** What was observed of upstreams is all that has changed: how sites answer now says nothing about the generation. */
  readonly observedOnly?: boolean
}

/**
 * applied: proven. unchanged: it is applied already. refused: nginx does not take it, the last good one stays.
 * rolled_back: it did not prove itself, the last good one is proven again. failed: it could not be tried, or nginx is
 * not proven to serve anything.
 */
export type Outcome = 'applied' | 'unchanged' | 'refused' | 'rolled_back' | 'failed'

export interface ApplyError {
  readonly code: ErrorCode
  /** In nginx's own words where it said something. */
  readonly message: string
  readonly hint?: string
}

export interface ApplyResult {
  readonly outcome: Outcome
  /** The generation that was tried; undefined when none could be put together. */
  readonly generation: string | undefined
  /** The phase in which it ended, or failed. */
  readonly phase: Phase
  readonly error: ApplyError | undefined
  readonly isolated: readonly Isolated[]
  /** ms spent in each phase; several rounds add up. */
  readonly phases: Readonly<Partial<Record<Phase, number>>>
  /** When what failed may be tried again, ms from now; undefined when nothing failed, or when the caller knows best. */
  readonly retryAfterMs: number | undefined
}

export class Run {
  readonly #clock: Clock
  readonly #phases: Partial<Record<Phase, number>> = {}
  #phase: Phase = 'stage'
  #outcome: Outcome = 'failed'
  #error: ApplyError | undefined
  generation: string | undefined
  isolated: readonly Isolated[] = []
  retryAfterMs: number | undefined

  constructor(clock: Clock) {
    this.#clock = clock
  }

  async phase<T>(phase: Phase, work: () => Promise<T>): Promise<T> {
    const began = this.#clock.monotonic()
    // Going back is timed, but where it failed is what people want to know.
    if (phase !== 'rollback') this.#phase = phase
    try {
      return await work()
    } finally {
      this.#phases[phase] = (this.#phases[phase] ?? 0) + this.#clock.monotonic() - began
    }
  }

  end(outcome: Outcome, error?: ApplyError): void {
    this.#outcome = outcome
    this.#error = error
  }

  refuse(message: string, retryAfterMs: number): void {
    this.retryAfterMs = retryAfterMs
    this.end('refused', { code: 'nginx_refused', message })
  }

  get result(): ApplyResult {
    const { generation, isolated, retryAfterMs } = this
    return {
      outcome: this.#outcome,
      generation,
      phase: this.#phase,
      error: this.#error,
      isolated,
      phases: this.#phases,
      retryAfterMs,
    }
  }
}

export function applyError(error: unknown): ApplyError {
  const { code, message, details } = asMeshError(error)
  return details.hint === undefined ? { code, message } : { code, message, hint: details.hint }
}
