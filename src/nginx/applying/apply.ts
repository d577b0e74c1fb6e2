/**
 * One apply at a time: stage, pre-check, test, gate, drain, reload, verify, probe, bake, commit; or else roll back. Also
 * boots from the last good generation, keeps nginx serving it and heals drift. Joins what chooses (validator.ts), what
 * swaps (swap.ts) and what serves (serving.ts). Never decides when to apply: reconciler.ts does, and calls nothing here
 * twice at once.
 */

import { join } from 'node:path'
import { SETTINGS_DEFAULTS } from '../../core/resources/zone-settings.ts'
import { waitForMemory } from './gate.ts'
import type { Assembled, Damage, Generation } from './generation.ts'
import { LOGS, prepareLogs, putAside } from './logs.ts'
import { applyError, Run, type ApplyRequest, type ApplyResult } from './run.ts'
import { GLANCE_LIMIT_MS, Serving, short, unproven, type Care } from './serving.ts'
import { partsOf, type ApplierOptions, type Parts } from './settings.ts'
import { Swap, type SwapOrder } from './swap.ts'
import { Validator, type Choice } from './validator.ts'

const STOP_POLL_MS = 100

const NONE_FOUND = { found: [] }

export type HealOptions = Pick<ApplyRequest, 'onWait'> & { readonly signal?: AbortSignal }

export class Applier {
  readonly #parts: Parts
  readonly #serving: Serving
  readonly #validator: Validator
  readonly #swap: Swap
  /** As the last request had it. */
  #drainMs = SETTINGS_DEFAULTS.drainMs
  /** Drift that was put right on disk, and that nginx may run until it loads the disk again: in this generation, or another. */
  #notLoaded: { readonly found: readonly string[]; readonly generation?: string } = NONE_FOUND

  constructor(options: ApplierOptions) {
    this.#parts = partsOf(options)
    this.#serving = new Serving(this.#parts)
    this.#validator = new Validator(this.#parts, this.#serving)
    this.#swap = new Swap(this.#parts, this.#serving)
  }

  /** What every worker is proven to serve; undefined while nothing is. */
  get applied(): string | undefined {
    return this.#serving.applied
  }

  /** The newest generation that ever proved itself and is whole; undefined before boot. */
  get lastGood(): Generation | undefined {
    return this.#serving.lastGood
  }

  /** The newest generation that `nginx -t` accepted. */
  get validated(): string | undefined {
    return this.#validator.validated
  }

  /**
   * Finds the newest whole generation and links it; `empty` makes one where there is none. nginx is not touched:
   * ensureServing() follows.
   * @returns what was wrong with what was linked, for people; undefined when nothing was
   * @throws MeshError `store_unwritable`
   */
  async boot(empty: () => Assembled): Promise<string | undefined> {
    const { layout, store } = this.#parts
    await store.open()
    await prepareLogs(layout.directory)
    await this.#swap.drain.end()
    const [newest] = store.proven
    let generation = await store.newestIntact()
    if (generation === undefined) {
      generation = { ...empty(), units: [] }
      await store.stage(generation)
    }
    await store.activate(generation.digest)
    this.#serving.boot(generation)
    if (newest === undefined || newest === generation.digest) return undefined
    return `generation ${short(newest)} is damaged on disk; the newest whole one is ${short(generation.digest)}`
  }

  /**
   * Makes nginx serve the last good generation when it does not: starts it (own), or reloads it. Cheap when all is well.
   * After a failure it waits, longer each time; meanwhile it answers with the same error.
   */
  ensureServing(): Promise<Care> {
    return this.#serving.ensure()
  }

  /**
   * Proves and swaps in what is desired, as much of it as nginx takes, or says why not. Never throws for what an operator
   * can act on. An abort before the swap gives it up; after it, it only ends the bake.
   */
  async apply(request: ApplyRequest, signal?: AbortSignal): Promise<ApplyResult> {
    const { nginx, clock } = this.#parts
    const run = new Run(clock)
    this.#drainMs = request.drainMs
    try {
      const master = await nginx.master()
      if (master === undefined) {
        this.#serving.unprove()
        // Orphans would look like somebody else on our ports.
        await nginx.clearRemains()
      }
      const choice = await this.#validator.choose({ request, master, run, signal })
      if (choice === undefined) return run.result
      const previous = this.#serving.booted()
      if (choice.generation.digest === this.#serving.applied) {
        // Writing down that it is applied may have failed before.
        await run.phase('commit', () => this.#serving.record(previous))
        this.#validator.served(choice)
        run.end('unchanged')
      } else {
        await this.#take(choice, { previous, next: choice.generation, request, master, run, signal })
      }
    } catch (error) {
      run.end('failed', applyError(error))
    } finally {
      await this.#swap.drain.end()
    }
    return run.result
  }

  /** Swaps the chosen generation in, or goes back. */
  async #take(choice: Choice, order: SwapOrder): Promise<void> {
    const { run, next } = order
    const failure = await this.#swap.forth(order)
    if (failure === undefined) {
      await run.phase('commit', () => this.#serving.record(next))
      this.#validator.served(choice)
      run.end('applied')
      return
    }
    const { error, reached } = failure
    if (reached) {
      const { retryAfterMs, isolated } = this.#validator.failed(choice, failure)
      run.retryAfterMs = retryAfterMs
      run.isolated = isolated
    }
    try {
      await run.phase('rollback', () => this.#swap.back(order, failure))
      run.end(reached ? 'rolled_back' : 'failed', error)
    } catch (later) {
      // ensureServing() goes on trying.
      const { code, message, hint } = applyError(later)
      const both = `${error.message}; then, going back: ${message}`
      run.end('failed', { code, message: both, ...(hint === undefined ? {} : { hint }) })
    }
  }

  /**
   * Hashes what is on disk and asks every worker what it runs; writes again what differs, keeping a hand-edited file
   * aside, and reloads when files or workers were not on the applied generation.
   * @returns what had drifted, for people
   * @throws MeshError `store_unwritable` or `nginx_failed` when it could not be healed, `unavailable` when the files are
   * right again, and the reload waits for old workers: the next call goes on with it
   */
  async healDrift({ onWait, signal }: HealOptions = {}): Promise<readonly string[]> {
    const { nginx, store, errorLog, endpoint } = this.#parts
    const lastGood = this.#serving.booted()
    const before = this.#notLoaded
    const found = [...before.found]
    // Whatever was applied since was loaded from the disk that had been put right.
    const loaded = before.generation === lastGood.digest ? 0 : found.length
    const damage = await store.damage(lastGood)
    if (damage.length > 0) await store.repair(lastGood, damage)
    found.push(...damage.map(described))
    const current = await store.current()
    if (current !== lastGood.digest) {
      await store.activate(lastGood.digest)
      found.push(`current pointed at ${current === undefined ? 'no generation' : short(current)}`)
    }
    const master = await nginx.master()
    if (master === undefined) {
      // What starts next loads what is right again.
      this.#notLoaded = NONE_FOUND
      return found
    }
    if (this.#serving.applied === undefined) {
      // Told when it is loaded.
      this.#notLoaded = { found, generation: lastGood.digest }
      return []
    }
    await errorLog.mark()
    const glance = await this.#serving.verify(lastGood.digest, GLANCE_LIMIT_MS)
    const running = glance.proven || glance.other ? glance : await this.#serving.verify(lastGood.digest)
    if (running.other) found.push(`nginx ran something else: ${running.reason}`)
    else if (!running.proven) throw unproven(lastGood.digest, running)
    // What was edited may have been loaded by hand as well, and then answers with the right digest.
    if (found.length > loaded) {
      this.#notLoaded = { found, generation: lastGood.digest }
      if (running.other) this.#serving.unprove()
      await waitForMemory(this.#parts, master, onWait, signal)
      this.#serving.unprove()
      try {
        if (((await endpoint.connections())?.active ?? 0) > 0)
          await this.#swap.drain.begin(lastGood, this.#drainMs, undefined)
        await this.#serving.reload(master)
        await this.#serving.demand(lastGood.digest)
      } finally {
        await this.#swap.drain.end()
      }
      await this.#serving.prove(lastGood)
    }
    this.#notLoaded = NONE_FOUND
    return found
  }

  /** Removes what no kept generation needs and puts oversized logs aside. Housekeeping, after the receipt is out. */
  async tidy(): Promise<void> {
    const { layout, nginx, store, settings } = this.#parts
    await store.prune()
    const master = await nginx.master()
    const paths = LOGS.map((name) => join(layout.directory, 'logs', name))
    const aside = await Promise.all(paths.map((path) => putAside(path, settings.logMaxBytes)))
    if (master !== undefined && aside.includes(true)) nginx.signal(master, 'USR1')
  }

  /** Stops nginx gracefully, when told to; otherwise it goes on serving without the daemon. Own mode only. */
  async stopNginx(): Promise<void> {
    const { nginx, clock, settings } = this.#parts
    const master = await nginx.master()
    if (master === undefined || settings.mode === 'attach') return
    nginx.signal(master, 'QUIT')
    this.#serving.unprove()
    const deadline = clock.monotonic() + settings.verifyMs
    while ((await nginx.master()) !== undefined) {
      if (clock.monotonic() > deadline) {
        nginx.signal(master, 'TERM')
        return
      }
      await clock.sleep(STOP_POLL_MS)
    }
  }
}

function described({ path, reason }: Damage): string {
  return reason === 'missing' ? `${path} was removed` : `${path} was edited`
}
