/**
 * What nginx is proven to serve, and how it is brought to: tests, starts and reloads it, asks every worker, and brings it
 * back when it does not serve the last good generation. Owns what counts as applied, which advances only after proof.
 * Chooses no generation: apply.ts, validator.ts and swap.ts do.
 */

import { join } from 'node:path'
import { backoffMs } from '../../backoff.ts'
import { MeshError } from '../../errors.ts'
import type { NginxOutput } from '../../ports.ts'
import { waitForMemory } from './gate.ts'
import type { Generation } from './generation.ts'
import { applyError, type ApplyError } from './run.ts'
import type { Parts } from './settings.ts'
import { verifyWorkers, type Verification } from './verify.ts'

/** What a look after nginx found. */
export interface Care {
  /** Why nginx does not provably serve the last good generation; undefined when it does. */
  readonly error: ApplyError | undefined
  /** Whether nginx was started or reloaded for it. */
  readonly acted: boolean
}

/** Enough for idle workers to say what they run, where no reload is under way. */
export const GLANCE_LIMIT_MS = 300
const VERIFY_PER_TEST = 10
const RESTART_FIRST_PAUSE_MS = 500
const RESTART_LONGEST_PAUSE_MS = 30_000

export class Serving {
  readonly #parts: Parts
  #lastGood: Generation | undefined
  #applied: string | undefined
  /** The master that the applied generation was proven on. */
  #master: number | undefined
  #testMs = 0
  #restarts = { attempts: 0, after: 0, error: undefined as ApplyError | undefined }

  constructor(parts: Parts) {
    this.#parts = parts
  }

  /** What every worker is proven to serve; undefined while nothing is. */
  get applied(): string | undefined {
    return this.#applied
  }

  /** The newest generation that ever proved itself and is whole; undefined before boot. */
  get lastGood(): Generation | undefined {
    return this.#lastGood
  }

  /** How long the last `nginx -t` that accepted something took. */
  get testMs(): number {
    return this.#testMs
  }

  /** The last good generation. @throws Error before boot. */
  booted(): Generation {
    if (this.#lastGood === undefined) throw new Error('boot() comes first')
    return this.#lastGood
  }

  /** The generation to serve from now on, linked already. */
  boot(generation: Generation): void {
    this.#lastGood = generation
  }

  /** What runs is not what was proven any more, or soon will not be. */
  unprove(): void {
    this.#applied = undefined
  }

  /** Every worker has answered with it. */
  async prove(generation: Generation): Promise<void> {
    this.#applied = generation.digest
    this.#lastGood = generation
    this.#master = await this.#parts.nginx.master()
  }

  /** It is proven, and what the next boot starts from. @throws MeshError `store_unwritable`; it is proven all the same. */
  async record(generation: Generation): Promise<void> {
    const { store } = this.#parts
    await this.prove(generation)
    if (store.proven[0] !== generation.digest) await store.recordProven(generation.digest)
  }

  /** `nginx -t` on a staged generation. */
  async test(generation: string, limitMs: number): Promise<NginxOutput> {
    const { nginx, store } = this.#parts
    const output = await nginx.test(store.configPath(generation), limitMs)
    if (output.ok) this.#testMs = output.durationMs
    return output
  }

  /** Starts nginx on `current`. @throws MeshError `nginx_failed`. */
  async start(): Promise<void> {
    const { layout, nginx, settings, errorLog } = this.#parts
    await nginx.clearRemains()
    if (settings.mode === 'attach') throw this.absent()
    await errorLog.mark()
    await nginx.launch(join(layout.directory, 'current', 'nginx.conf'))
  }

  /** Has nginx load `current`; whether it did is seen by verify(). */
  async reload(master: number): Promise<void> {
    await this.#parts.errorLog.mark()
    this.#parts.nginx.signal(master, 'HUP')
  }

  verify(
    generation: string,
    limitMs = Math.round(this.#parts.settings.verifyMs + VERIFY_PER_TEST * this.#testMs),
  ): Promise<Verification> {
    const { nginx, endpoint, clock, errorLog } = this.#parts
    return verifyWorkers({ generation, nginx, endpoint, clock, errorLog, limitMs })
  }

  /** @throws MeshError `nginx_failed` when not every worker comes to run it in time. */
  async demand(generation: string): Promise<void> {
    const verification = await this.verify(generation)
    if (!verification.proven) throw unproven(generation, verification)
  }

  /** Applier.ensureServing() is this. */
  async ensure(): Promise<Care> {
    const { nginx, clock, store, errorLog, random } = this.#parts
    const lastGood = this.booted()
    const master = await nginx.master()
    if (master !== undefined && master === this.#master && this.#applied !== undefined)
      return { error: undefined, acted: false }
    this.unprove()
    if (clock.monotonic() < this.#restarts.after) return { error: this.#restarts.error, acted: false }
    try {
      await store.activate(lastGood.digest)
      await errorLog.mark()
      if (master === undefined) await this.start()
      else if (!(await this.verify(lastGood.digest, GLANCE_LIMIT_MS)).proven) {
        await waitForMemory(this.#parts, master)
        await this.reload(master)
      }
      await this.demand(lastGood.digest)
      await this.record(lastGood)
      this.#restarts = { attempts: 0, after: 0, error: undefined }
      return { error: undefined, acted: true }
    } catch (error) {
      const attempts = this.#restarts.attempts + 1
      const pause = backoffMs(attempts, RESTART_FIRST_PAUSE_MS, RESTART_LONGEST_PAUSE_MS, random)
      this.#restarts = { attempts, after: clock.monotonic() + pause, error: applyError(error) }
      return { error: this.#restarts.error, acted: false }
    }
  }

  absent(): MeshError {
    const { directory, pidFile } = this.#parts.layout
    const hint = `start it: nginx -p ${directory}/ -c ${directory}/current/nginx.conf`
    return new MeshError('nginx_failed', `no nginx runs on our configuration (by pid file ${pidFile})`, { hint })
  }
}

export function unproven(generation: string, { reason }: Verification): MeshError {
  return new MeshError('nginx_failed', `generation ${short(generation)} did not come to serve: ${reason}`)
}

/** A generation's digest for people. */
export function short(digest: string): string {
  return digest.slice(0, 12)
}
