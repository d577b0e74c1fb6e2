/**
 * Says whether ports and `nginx -t` take a generation: stages it, looks what the test cannot see, runs the test, for as
 * long as it deserves. One for each apply. Chooses nothing: validator.ts asks.
 */

import type { NginxOutput } from '../../ports.ts'
import type { Unit } from '../rendering/unit.ts'
import type { Blame } from './bisect.ts'
import type { Generation } from './generation.ts'
import { blamedUnits, nginxWords, suspectedUnits } from './isolate.ts'
import { boundBy, portConflicts } from './precheck.ts'
import type { Run } from './run.ts'
import type { Serving } from './serving.ts'
import type { Parts } from './settings.ts'

export interface JudgeOptions {
  readonly parts: Parts
  readonly serving: Serving
  readonly master: number | undefined
  readonly run: Run
  readonly signal: AbortSignal | undefined
}

/** What a new generation gets before anything is known of it, within `testTimeoutMs`: nginx takes about 0.1 ms a unit. */
const FIRST_MS = 5_000
const FIRST_PER_UNIT_MS = 10
/** Times what the last accepted test took. */
const FIRST_PER_TEST = 20
/** Times what the present generation takes now, once something took too long: a slow unit costs this at each step. */
const SEARCH_PER_TEST = 4
const SEARCH_MS = 1_000
/** What serves already deserves more than the limit: where the host is too busy for it, nothing could be changed. */
const PRESENT_LIMITS = 5

export class Judge {
  readonly #options: JudgeOptions
  /** Of the present generation, once another one took too long. */
  #searchLimitMs: number | undefined
  #tests = 0
  #validated: string | undefined

  constructor(options: JudgeOptions) {
    this.#options = options
  }

  /** The last generation that was accepted. */
  get validated(): string | undefined {
    return this.#validated
  }

  /**
   * Why nginx does not take the generation; empty when it does.
   * @param present what is there anyway; that the generation is the same is how one asks for it
   */
  async judge(generation: Generation, present: () => Generation): Promise<readonly Blame<Unit>[]> {
    const { parts, serving, master, run, signal } = this.#options
    signal?.throwIfAborted()
    await run.phase('stage', () => parts.store.stage(generation))
    const listeners = master === undefined ? [] : serving.booted().units.flatMap(boundBy)
    const conflicts = await run.phase('precheck', () =>
      portConflicts(generation.units, { master, listeners }, parts.whoHas),
    )
    if (conflicts.length > 0) return conflicts.map(({ units, reason }) => ({ blamed: units, reason }))
    const output = await run.phase('test', () => this.#test(generation, present))
    if (output.ok) {
      this.#validated = generation.digest
      return []
    }
    const reason = nginxWords(output.stderr)
    return [
      {
        reason,
        blamed: blamedUnits(reason, generation.units),
        suspected: () => suspectedUnits(reason, generation.units, serving.booted().units),
      },
    ]
  }

  async #test(generation: Generation, present: () => Generation): Promise<NginxOutput> {
    const { serving, signal } = this.#options
    const limitMs = this.#limitMs(generation)
    const output = await this.#whole(generation, limitMs)
    if (output.expired !== true || this.#searchLimitMs !== undefined) return output
    // Is it this one that is slow, or the host? What serves tells.
    const { testTimeoutMs } = this.#options.parts.settings
    const base = present()
    await this.#options.parts.store.stage(base)
    const { ok, durationMs } = await serving.test(base.digest, PRESENT_LIMITS * testTimeoutMs)
    if (base.digest === generation.digest || !ok) return ok ? { ok, stderr: '', durationMs } : output
    signal?.throwIfAborted()
    this.#searchLimitMs = Math.round(SEARCH_MS + SEARCH_PER_TEST * durationMs)
    return this.#searchLimitMs > limitMs ? this.#whole(generation, this.#searchLimitMs) : output
  }

  #limitMs({ units }: Generation): number {
    if (this.#searchLimitMs !== undefined) return this.#searchLimitMs
    const { parts, serving } = this.#options
    const guess = FIRST_MS + FIRST_PER_UNIT_MS * units.length + FIRST_PER_TEST * serving.testMs
    return Math.round(Math.min(parts.settings.testTimeoutMs, guess))
  }

  /** A test may meet files that somebody changed behind our back rather than what was rendered. */
  async #whole(generation: Generation, limitMs: number): Promise<NginxOutput> {
    const { parts, serving } = this.#options
    this.#tests += 1
    const first = await serving.test(generation.digest, limitMs)
    // Looking through all files takes time.
    if (first.ok || first.expired === true || this.#tests > DAMAGE_LOOKS) return first
    const damage = await parts.store.damage(generation)
    if (damage.length === 0) return first
    await parts.store.repair(generation, damage)
    return serving.test(generation.digest, limitMs)
  }
}

/** In an apply: after the first tests, what was there before has been looked through. */
const DAMAGE_LOOKS = 2
