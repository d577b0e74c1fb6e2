/**
 * One apply at a time: stage, pre-check, test, gate, drain, reload, verify, probe, bake, commit; or else roll back. Also
 * boots from the last good generation, keeps nginx serving it and heals drift. Owns what counts as applied, which
 * advances only after proof. Never decides when to apply: reconciler.ts does, and calls nothing here twice at once.
 */

import { rename, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { backoffMs } from '../../backoff.ts'
import type { Problem } from '../../core/slice.ts'
import { asMeshError, MeshError, type ErrorCode } from '../../errors.ts'
import type { Clock, NginxProcess, Random } from '../../ports.ts'
import { bakeFailure, countAnswers, type AnswerCounts, type BakeRule } from './bake.ts'
import { GenerationStore, type Assembled, type Damage, type Generation } from './generation.ts'
import { blamedUnits, nginxWords, selectUnits, type Isolated } from './isolate.ts'
import { LogTail } from './log-tail.ts'
import { portConflicts, type BindCheck } from './precheck.ts'
import { probe as probeOverNetwork, probeTargets, sameTarget, worsened, type ProbeAnswer } from './probe.ts'
import { Refusals } from './refusals.ts'
import type { HostLayout, Unit } from '../rendering/render.ts'
import { verifyEndpoint, verifyWorkers, type Verification, type VerifyEndpoint } from './verify.ts'

export const PHASES = [
  'stage',
  'precheck',
  'test',
  'gate',
  'drain',
  'reload',
  'verify',
  'probe',
  'bake',
  'commit',
  'rollback',
] as const
export type Phase = (typeof PHASES)[number]

/** What a node wants nginx to serve. */
export interface ApplyRequest {
  readonly units: readonly Unit[]
  /** Resources that could not be rendered; they keep their last good text. */
  readonly problems: readonly Problem[]
  assemble(units: readonly Unit[]): Assembled
  /** How long connections are drained before a reload; 0 does not. */
  readonly drainMs: number
  /** How long the share of 5xx is watched after it; 0 does not. */
  readonly bakeMs: number
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

export interface ApplySettings {
  /** own: start nginx when it does not run. attach: only ever reload it. */
  readonly mode: 'own' | 'attach'
  readonly testTimeoutMs: number
  /** Draining workers from which on a reload waits; they hold memory. Undefined: four times the serving ones. */
  readonly maxDrainingWorkers: number | undefined
  /** How long a reload waits for draining workers before the apply fails and is retried. */
  readonly gateWaitMs: number
  /** A verification takes no longer than this plus ten times what `nginx -t` took. */
  readonly verifyMs: number
  readonly probeTimeoutMs: number
  readonly bake: BakeRule
  /** A log file beyond this is put aside; LOGS_KEPT of them stay. */
  readonly logMaxBytes: number
}

export const APPLY_DEFAULTS: ApplySettings = {
  mode: 'own',
  testTimeoutMs: 60_000,
  maxDrainingWorkers: undefined,
  gateWaitMs: 10_000,
  verifyMs: 5_000,
  probeTimeoutMs: 2_000,
  bake: { minRequests: 20, excess: 0.2 },
  logMaxBytes: 64 * 1024 * 1024,
}

export interface ApplierOptions {
  readonly layout: HostLayout
  readonly nginx: NginxProcess
  readonly clock: Clock
  readonly random: Random
  readonly settings?: Partial<ApplySettings>
  readonly store?: GenerationStore
  readonly endpoint?: VerifyEndpoint
  readonly whoHas?: BindCheck
  readonly probe?: typeof probeOverNetwork
}

/** What a look after nginx found. */
export interface Care {
  /** Why nginx does not provably serve the last good generation; undefined when it does. */
  readonly error: ApplyError | undefined
  /** Whether nginx was started or reloaded for it. */
  readonly acted: boolean
}

/** Units isolated one after the other in one apply; with more bad ones the generation is refused for now. */
const ISOLATION_ROUNDS_MAX = 32
const VERIFY_PER_TEST = 10
/** Enough for idle workers to say what they run, where no reload is under way. */
const GLANCE_LIMIT_MS = 300
const GATE_POLL_MS = 100
const BAKE_POLL_MS = 250
/** A probe that fails is repeated, since an old worker may still have accepted it. */
const PROBE_ATTEMPTS = 3
const PROBE_PAUSE_MS = 100
const RESTART_FIRST_PAUSE_MS = 500
const RESTART_LONGEST_PAUSE_MS = 30_000
const DRAINING_PER_WORKER = 4
const LOGS_KEPT = 3

/** Why a generation did not prove itself. */
interface Failure {
  readonly error: ApplyError
  readonly blamed: readonly Unit[]
  /** Whether nginx was made to try it. When not, it is the attempt that failed, not the generation. */
  readonly reached: boolean
  /** Whether a worker may run it, so that nginx has to be told to go back. */
  readonly mayRun: boolean
}

export class Applier {
  readonly #nginx: NginxProcess
  readonly #clock: Clock
  readonly #random: Random
  readonly #layout: HostLayout
  readonly #settings: ApplySettings
  readonly #store: GenerationStore
  readonly #endpoint: VerifyEndpoint
  readonly #whoHas: BindCheck | undefined
  readonly #probe: typeof probeOverNetwork
  readonly #errorLog: LogTail
  readonly #accessLog: LogTail
  readonly #refusedUnits: Refusals
  readonly #refusedGenerations: Refusals
  #lastGood: Generation | undefined
  #applied: string | undefined
  #validated: string | undefined
  /** The master that the applied generation was proven on. */
  #master: number | undefined
  /** How long the last `nginx -t` took. */
  #testMs = 0
  #restarts = { attempts: 0, after: 0, error: undefined as ApplyError | undefined }

  constructor(options: ApplierOptions) {
    const { layout, clock, random } = options
    this.#nginx = options.nginx
    this.#clock = clock
    this.#random = random
    this.#layout = layout
    this.#settings = { ...APPLY_DEFAULTS, ...options.settings }
    this.#store = options.store ?? new GenerationStore(layout, clock)
    this.#endpoint = options.endpoint ?? verifyEndpoint(layout.verifySocket)
    this.#whoHas = options.whoHas
    this.#probe = options.probe ?? probeOverNetwork
    this.#errorLog = new LogTail(this.#logPath('error.log'))
    this.#accessLog = new LogTail(this.#logPath('access.log'))
    this.#refusedUnits = new Refusals(clock, random)
    this.#refusedGenerations = new Refusals(clock, random)
  }

  /** What every worker is proven to serve; undefined while nothing is. */
  get applied(): string | undefined {
    return this.#applied
  }

  /** The newest generation that ever proved itself and is whole; undefined before boot. */
  get lastGood(): Generation | undefined {
    return this.#lastGood
  }

  /** The newest generation that `nginx -t` accepted. */
  get validated(): string | undefined {
    return this.#validated
  }

  /**
   * Finds the newest whole generation and links it; `empty` makes one where there is none. nginx is not touched:
   * ensureServing() follows.
   * @returns what was wrong with what was linked, for people; undefined when nothing was
   * @throws MeshError `store_unwritable`
   */
  async boot(empty: () => Assembled): Promise<string | undefined> {
    await this.#store.open()
    await this.#endDrain()
    const [newest] = this.#store.proven
    let generation = await this.#store.newestIntact()
    if (generation === undefined) {
      generation = { ...empty(), units: [] }
      await this.#store.stage(generation)
    }
    await this.#store.activate(generation.digest)
    this.#lastGood = generation
    if (newest === undefined || newest === generation.digest) return undefined
    return `generation ${short(newest)} is damaged on disk; the newest whole one is ${short(generation.digest)}`
  }

  /**
   * Makes nginx serve the last good generation when it does not: starts it (own), or reloads it. Cheap when all is well.
   * After a failure it waits, longer each time; meanwhile it answers with the same error.
   */
  async ensureServing(): Promise<Care> {
    const lastGood = this.#booted()
    const master = await this.#nginx.master()
    if (master !== undefined && master === this.#master && this.#applied !== undefined)
      return { error: undefined, acted: false }
    this.#applied = undefined
    if (this.#clock.monotonic() < this.#restarts.after) return { error: this.#restarts.error, acted: false }
    try {
      await this.#store.activate(lastGood.digest)
      await this.#errorLog.mark()
      if (master === undefined) await this.#start()
      else if (!(await this.#verify(lastGood.digest, GLANCE_LIMIT_MS)).proven) await this.#reload(master)
      const verification = await this.#verify(lastGood.digest)
      if (!verification.proven) throw unproven(lastGood.digest, verification)
      await this.#recordApplied(lastGood)
      this.#restarts = { attempts: 0, after: 0, error: undefined }
      return { error: undefined, acted: true }
    } catch (error) {
      const attempts = this.#restarts.attempts + 1
      const pause = backoffMs(attempts, RESTART_FIRST_PAUSE_MS, RESTART_LONGEST_PAUSE_MS, this.#random)
      this.#restarts = { attempts, after: this.#clock.monotonic() + pause, error: applyError(error) }
      return { error: this.#restarts.error, acted: false }
    }
  }

  /**
   * Proves and swaps in what is desired, or says why not. Never throws for what an operator can act on. An abort before
   * the swap gives it up; after it, it only ends the bake.
   */
  async apply(request: ApplyRequest, signal?: AbortSignal): Promise<ApplyResult> {
    const run = new Run(this.#clock)
    try {
      const master = await this.#nginx.master()
      if (master === undefined) {
        this.#applied = undefined
        // Orphans would look like somebody else on our ports.
        await this.#nginx.clearRemains()
      }
      const next = await this.#validate(request, run, master)
      if (next === undefined) return run.result
      await this.#activate(next, request, run, master, signal)
    } catch (error) {
      run.end('failed', applyError(error))
    } finally {
      await this.#endDrain()
    }
    return run.result
  }

  /**
   * Hashes what is on disk and asks every worker what it runs; writes again what differs, keeping a hand-edited file
   * aside, and reloads when files or workers were not on the applied generation.
   * @returns what had drifted, for people
   * @throws MeshError `store_unwritable` or `nginx_failed` when it could not be healed
   */
  async healDrift(): Promise<readonly string[]> {
    const lastGood = this.#booted()
    const found: string[] = []
    const damage = await this.#store.damage(lastGood)
    if (damage.length > 0) await this.#store.repair(lastGood, damage)
    found.push(...damage.map(described))
    const current = await this.#store.current()
    if (current !== lastGood.digest) {
      await this.#store.activate(lastGood.digest)
      found.push(`current pointed at ${current === undefined ? 'no generation' : short(current)}`)
    }
    const master = await this.#nginx.master()
    if (master === undefined || this.#applied === undefined) return found
    await this.#errorLog.mark()
    const glance = await this.#verify(lastGood.digest, GLANCE_LIMIT_MS)
    const running = glance.proven || glance.other ? glance : await this.#verify(lastGood.digest)
    if (running.other) found.push(`nginx ran something else: ${running.reason}`)
    else if (!running.proven) throw unproven(lastGood.digest, running)
    // What was edited may have been loaded by hand as well, and then answers with the right digest.
    if (found.length > 0) {
      this.#applied = undefined
      await this.#reload(master)
      const verification = await this.#verify(lastGood.digest)
      if (!verification.proven) throw unproven(lastGood.digest, verification)
      this.#applied = lastGood.digest
    }
    return found
  }

  /** Removes what no kept generation needs and puts oversized logs aside. Housekeeping, after the receipt is out. */
  async tidy(): Promise<void> {
    await this.#store.prune()
    const master = await this.#nginx.master()
    const rotated = await Promise.all(['access.log', 'error.log'].map((name) => this.#rotate(name)))
    if (master !== undefined && rotated.includes(true)) this.#nginx.signal(master, 'USR1')
  }

  /** Stops nginx gracefully, when told to; otherwise it goes on serving without the daemon. Own mode only. */
  async stopNginx(): Promise<void> {
    const master = await this.#nginx.master()
    if (master === undefined || this.#settings.mode === 'attach') return
    this.#nginx.signal(master, 'QUIT')
    this.#applied = undefined
    const deadline = this.#clock.monotonic() + this.#settings.verifyMs
    while ((await this.#nginx.master()) !== undefined) {
      if (this.#clock.monotonic() > deadline) {
        this.#nginx.signal(master, 'TERM')
        return
      }
      await this.#clock.sleep(GATE_POLL_MS)
    }
  }

  // ------------------------------------------------------------------------------------------ before the swap

  /** The generation to swap in, tested; undefined when the run has ended without one. */
  async #validate(request: ApplyRequest, run: Run, master: number | undefined): Promise<Generation | undefined> {
    const lastGood = this.#booted()
    const lastGoodUnits = new Map(lastGood.units.map((unit) => [unit.path, unit]))
    for (let round = 0; ; round += 1) {
      const { units, isolated } = selectUnits({
        units: request.units,
        problems: request.problems,
        lastGood: lastGoodUnits,
        refusal: (digest) => this.#refusedUnits.get(digest)?.reason,
      })
      const assembled = request.assemble(units)
      run.generation = assembled.digest
      run.isolated = isolated
      run.retryAfterMs = this.#retryOfIsolated(request.units, isolated)
      if (assembled.digest === this.#applied) {
        // Writing down that it is applied may have failed before.
        await run.phase('commit', () => this.#recordApplied(lastGood))
        run.end('unchanged')
        return undefined
      }
      const refusal = this.#refusedGenerations.get(assembled.digest)
      if (refusal !== undefined) {
        run.refuse('nginx_refused', refusal.reason, refusal.until - this.#clock.monotonic())
        return undefined
      }
      const next: Generation = { ...assembled, units }
      await run.phase('stage', () => this.#store.stage(next))
      const blamed = (await this.#precheck(next, run, master)) ?? (await this.#test(next, run))
      if (blamed === undefined) return next
      if (blamed.units.length === 0 || round >= ISOLATION_ROUNDS_MAX) {
        const { until } = this.#refusedGenerations.add(next.digest, blamed.reason)
        run.refuse('nginx_refused', blamed.reason, until - this.#clock.monotonic())
        return undefined
      }
      for (const unit of blamed.units) this.#refusedUnits.add(unit.digest, blamed.reason)
    }
  }

  /** Units whose ports cannot be bound. */
  async #precheck(next: Generation, run: Run, master: number | undefined): Promise<Blame | undefined> {
    const listeners = master === undefined ? [] : this.#booted().units.flatMap((unit) => unit.listeners)
    const [conflict] = await run.phase('precheck', () => portConflicts(next.units, { master, listeners }, this.#whoHas))
    return conflict
  }

  /** What `nginx -t` refuses. */
  async #test(next: Generation, run: Run): Promise<Blame | undefined> {
    const configPath = this.#store.configPath(next.digest)
    const output = await run.phase('test', async () => {
      const first = await this.#nginx.test(configPath, this.#settings.testTimeoutMs)
      if (first.ok) return first
      // It may have met files that somebody changed behind our back rather than what was rendered.
      const damage = await this.#store.damage(next)
      if (damage.length === 0) return first
      await this.#store.repair(next, damage)
      return this.#nginx.test(configPath, this.#settings.testTimeoutMs)
    })
    this.#testMs = output.durationMs
    if (output.ok) {
      this.#validated = next.digest
      return undefined
    }
    const reason = nginxWords(output.stderr)
    return { units: blamedUnits(reason, next.units), reason }
  }

  /** The soonest that one of the isolated may be tried again, ms from now. */
  #retryOfIsolated(units: readonly Unit[], isolated: readonly Isolated[]): number | undefined {
    const paths = new Set(isolated.map(({ path }) => path))
    const times = units.flatMap(({ path, digest }) => {
      const refusal = paths.has(path) ? this.#refusedUnits.get(digest) : undefined
      return refusal === undefined ? [] : [refusal.until - this.#clock.monotonic()]
    })
    return times.length === 0 ? undefined : Math.min(...times)
  }

  // ------------------------------------------------------------------------------------------ the swap

  async #activate(
    next: Generation,
    request: ApplyRequest,
    run: Run,
    master: number | undefined,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const previous = this.#booted()
    if (master === undefined && this.#settings.mode === 'attach') throw this.#absent()
    const sites = changedSites(previous.units, next.units)
    let before: ReadonlyMap<string, ProbeAnswer> = new Map()
    if (master !== undefined) {
      await run.phase('gate', () => this.#waitForMemory(master, signal))
      // Counted before the probes, which would count as clients.
      const clients = await this.#endpoint.connections()
      before = await run.phase('probe', () => this.#probeBefore(sites, previous))
      if (clients !== undefined && clients > 0) await run.phase('drain', () => this.#drain(request.drainMs, signal))
    }
    const failure =
      (await this.#swap(next, run, master, signal)) ??
      (await run.phase('probe', () => this.#probeAfter(sites, before))) ??
      (await run.phase('bake', () => this.#bake(sites, request.bakeMs, signal)))
    if (failure === undefined) {
      await run.phase('commit', () => this.#recordApplied(next))
      for (const unit of next.units) this.#refusedUnits.forget(unit.digest)
      this.#refusedGenerations.forget(next.digest)
      run.end('applied')
      return
    }
    if (failure.reached) this.#remember(next, failure, run)
    try {
      await run.phase('rollback', () => this.#rollBack(previous, failure.mayRun, request.drainMs))
      run.end(failure.reached ? 'rolled_back' : 'failed', failure.error)
    } catch (error) {
      // ensureServing() goes on trying.
      const { code, message, hint } = applyError(error)
      const both = `${failure.error.message}; then, going back: ${message}`
      run.end('failed', { code, message: both, ...(hint === undefined ? {} : { hint }) })
    }
  }

  /** Links the generation, makes nginx load it and waits for the proof. An abort counts until then. */
  async #swap(
    next: Generation,
    run: Run,
    master: number | undefined,
    signal: AbortSignal | undefined,
  ): Promise<Failure | undefined> {
    let reached = false
    try {
      signal?.throwIfAborted()
      await run.phase('reload', async () => {
        await this.#accessLog.mark()
        await this.#store.activate(next.digest)
        this.#applied = undefined
        reached = master === undefined
        if (master === undefined) await this.#start()
        else await this.#reload(master)
        reached = true
      })
      const verification = await run.phase('verify', () => this.#verify(next.digest))
      if (verification.proven) return undefined
      const error = applyError(unproven(next.digest, verification))
      return { error, blamed: blamedUnits(verification.reason, next.units), reached, mayRun: !verification.refused }
    } catch (error) {
      const blamed = blamedUnits(asMeshError(error).message, next.units)
      return { error: applyError(error), blamed, reached, mayRun: reached }
    } finally {
      await this.#endDrain()
    }
  }

  /** What it was that did not prove itself is not tried again at once. */
  #remember(next: Generation, { blamed, error }: Failure, run: Run): void {
    if (blamed.length === 0) {
      run.retryAfterMs = this.#refusedGenerations.add(next.digest, error.message).until - this.#clock.monotonic()
      return
    }
    for (const unit of blamed) this.#refusedUnits.add(unit.digest, error.message)
    // The others are to be served without delay.
    run.retryAfterMs = 0
  }

  async #rollBack(previous: Generation, mayRun: boolean, drainMs: number): Promise<void> {
    try {
      await this.#store.activate(previous.digest)
      const master = await this.#nginx.master()
      if (master === undefined) {
        await this.#start()
      } else if (mayRun) {
        await this.#drain(drainMs, undefined)
        await this.#reload(master)
      }
      const verification = await this.#verify(previous.digest)
      if (!verification.proven) throw unproven(previous.digest, verification)
      this.#applied = previous.digest
      this.#master = await this.#nginx.master()
    } finally {
      await this.#endDrain()
    }
  }

  /** Starts nginx on `current`. */
  async #start(): Promise<void> {
    await this.#nginx.clearRemains()
    if (this.#settings.mode === 'attach') throw this.#absent()
    await this.#errorLog.mark()
    await this.#nginx.launch(join(this.#layout.directory, 'current', 'nginx.conf'))
  }

  async #reload(master: number): Promise<void> {
    await this.#errorLog.mark()
    this.#nginx.signal(master, 'HUP')
  }

  #verify(
    generation: string,
    limitMs = Math.round(this.#settings.verifyMs + VERIFY_PER_TEST * this.#testMs),
  ): Promise<Verification> {
    return verifyWorkers({
      generation,
      nginx: this.#nginx,
      endpoint: this.#endpoint,
      clock: this.#clock,
      errorLog: this.#errorLog,
      limitMs,
    })
  }

  /** Applied, last good, and what the next boot starts from. */
  async #recordApplied(generation: Generation): Promise<void> {
    this.#applied = generation.digest
    this.#lastGood = generation
    this.#master = await this.#nginx.master()
    if (this.#store.proven[0] !== generation.digest) await this.#store.recordProven(generation.digest)
  }

  /** Every reload adds draining workers, and each holds its memory until its longest connection ends. */
  async #waitForMemory(master: number, signal: AbortSignal | undefined): Promise<void> {
    const deadline = this.#clock.monotonic() + this.#settings.gateWaitMs
    for (;;) {
      const workers = await this.#nginx.workers(master)
      const draining = workers.filter((worker) => worker.draining).length
      const limit = this.#settings.maxDrainingWorkers ?? DRAINING_PER_WORKER * Math.max(1, workers.length - draining)
      if (draining <= limit) return
      if (this.#clock.monotonic() >= deadline) {
        const hint = 'they end with their connections, or after worker_shutdown_timeout; it is retried by itself'
        throw new MeshError('unavailable', `${draining} old workers are still draining, over the limit of ${limit}`, {
          hint,
        })
      }
      await this.#clock.sleep(GATE_POLL_MS, signal)
    }
  }

  /** Has nginx close kept-alive connections after their next answer: a reload would break them. */
  async #drain(drainMs: number, signal: AbortSignal | undefined): Promise<void> {
    if (drainMs === 0) return
    try {
      await writeFile(this.#layout.drainFile, '')
    } catch (error) {
      throw new MeshError(
        'store_unwritable',
        `cannot write ${this.#layout.drainFile}: ${(error as Error).message}`,
        {},
        error,
      )
    }
    await this.#clock.sleep(drainMs, signal)
  }

  async #endDrain(): Promise<void> {
    await rm(this.#layout.drainFile, { force: true })
  }

  // ------------------------------------------------------------------------------------------ after the swap

  /** How the changed sites answer now, where nginx serves the same server already. */
  #probeBefore(sites: readonly Unit[], previous: Generation): Promise<Map<string, ProbeAnswer>> {
    const paths = new Set(sites.map(({ path }) => path))
    const old = new Map(
      probeTargets(previous.units.filter(({ path }) => paths.has(path))).map((target) => [target.site, target]),
    )
    const targets = probeTargets(sites).filter((target) => {
      const other = old.get(target.site)
      return other !== undefined && sameTarget(other, target)
    })
    return this.#probe(targets, this.#settings.probeTimeoutMs)
  }

  async #probeAfter(sites: readonly Unit[], before: ReadonlyMap<string, ProbeAnswer>): Promise<Failure | undefined> {
    let targets = probeTargets(sites)
    for (let attempt = 1; ; attempt += 1) {
      const answers = await this.#probe(targets, this.#settings.probeTimeoutMs)
      const worse = targets.flatMap((target) => {
        const answer = answers.get(target.site)
        const reason = answer === undefined ? undefined : worsened(before.get(target.site), answer)
        return reason === undefined ? [] : [{ target, reason }]
      })
      if (worse.length === 0) return undefined
      if (attempt === PROBE_ATTEMPTS) {
        const blamed = sites.filter(({ path }) => worse.some(({ target }) => target.site === path))
        const reasons = worse.map(({ target, reason }) => `${target.site} (${target.host}:${target.port}): ${reason}`)
        return unprovenBy(reasons.join('; '), blamed)
      }
      targets = worse.map(({ target }) => target)
      await this.#clock.sleep(PROBE_PAUSE_MS)
    }
  }

  async #bake(sites: readonly Unit[], bakeMs: number, signal: AbortSignal | undefined): Promise<Failure | undefined> {
    if (bakeMs === 0) return undefined
    const earlier = countAnswers(await this.#accessLog.beforeMark())
    const changed = sites.map(({ path }) => path)
    const since: AnswerCounts = new Map()
    const master = await this.#nginx.master()
    const deadline = this.#clock.monotonic() + bakeMs
    while (this.#clock.monotonic() < deadline && signal?.aborted !== true) {
      await this.#clock.sleep(Math.min(BAKE_POLL_MS, deadline - this.#clock.monotonic()), signal).catch(() => undefined)
      const now = await this.#nginx.master()
      // Nobody else looks after nginx meanwhile. That it ended says nothing about the generation.
      if (now === undefined || now !== master) return interrupted(now)
      countAnswers(await this.#accessLog.read(), since)
      const failure = bakeFailure(earlier, since, changed, this.#settings.bake)
      if (failure !== undefined) {
        return unprovenBy(
          failure.reason,
          sites.filter(({ path }) => failure.sites.includes(path)),
        )
      }
    }
    return undefined
  }

  // ------------------------------------------------------------------------------------------ small things

  #booted(): Generation {
    if (this.#lastGood === undefined) throw new Error('boot() comes first')
    return this.#lastGood
  }

  #absent(): MeshError {
    const { directory, pidFile } = this.#layout
    const hint = `start it: nginx -p ${directory}/ -c ${directory}/current/nginx.conf`
    return new MeshError('nginx_failed', `no nginx runs on our configuration (by pid file ${pidFile})`, { hint })
  }

  #logPath(name: string): string {
    return join(this.#layout.directory, 'logs', name)
  }

  async #rotate(name: string): Promise<boolean> {
    const path = this.#logPath(name)
    const { size } = await stat(path).catch(() => ({ size: 0 }))
    if (size <= this.#settings.logMaxBytes) return false
    for (let age = LOGS_KEPT; age > 0; age -= 1) {
      const younger = age === 1 ? path : `${path}.${age - 1}`
      await rename(younger, `${path}.${age}`).catch((error: NodeJS.ErrnoException) => {
        if (error.code !== 'ENOENT') throw error
      })
    }
    return true
  }
}

interface Blame {
  readonly units: readonly Unit[]
  readonly reason: string
}

/** One apply as it goes: its phases, what they took, and how it ended. */
class Run {
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

  refuse(code: ErrorCode, message: string, retryAfterMs: number): void {
    this.retryAfterMs = retryAfterMs
    this.end('refused', { code, message })
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

/** Sites whose own text, or that of an upstream that they need, is not what it was. */
function changedSites(before: readonly Unit[], after: readonly Unit[]): readonly Unit[] {
  const old = new Map(before.map(({ path, digest }) => [path, digest]))
  const changed = new Set(after.flatMap(({ path, digest }) => (old.get(path) === digest ? [] : [path])))
  return after.filter(({ kind, path, needs }) => kind === 'site' && [path, ...needs].some((one) => changed.has(one)))
}

function applyError(error: unknown): ApplyError {
  const { code, message, details } = asMeshError(error)
  return details.hint === undefined ? { code, message } : { code, message, hint: details.hint }
}

function unproven(generation: string, { reason }: Verification): MeshError {
  return new MeshError('nginx_failed', `generation ${short(generation)} did not come to serve: ${reason}`)
}

function unprovenBy(message: string, blamed: readonly Unit[]): Failure {
  return { error: { code: 'nginx_refused', message }, blamed, reached: true, mayRun: true }
}

/** nginx ended while it was watched, or is another one now. */
function interrupted(master: number | undefined): Failure {
  const message = master === undefined ? 'nginx ended while it was watched' : 'another nginx runs than was watched'
  return { error: { code: 'nginx_failed', message }, blamed: [], reached: false, mayRun: true }
}

function described({ path, reason }: Damage): string {
  return reason === 'missing' ? `${path} was removed` : `${path} was edited`
}

function short(digest: string): string {
  return digest.slice(0, 12)
}
