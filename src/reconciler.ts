/**
 * The single-flight loop that keeps nginx at what the mesh desires: waits until the mesh has settled, coalesces
 * wake-ups, renders, applies, retries, looks after nginx and drift, and says in receipts how it stands. Decides when;
 * src/nginx/applying/apply.ts does. Nothing but this loop calls the applier, so nothing runs twice at once.
 */

import type { Problem, Slice } from './core/slice.ts'
import { settingsOf, sitesKey } from './core/slice.ts'
import { ApplyPace } from './apply-pace.ts'
import { LiveLane, type LiveWish } from './live-lane.ts'
import type { Log } from './log.ts'
import type { Addresses } from './nginx/applying/addresses.ts'
import type { Applier } from './nginx/applying/apply.ts'
import { certificateFault } from './nginx/applying/certificate-proof.ts'
import { applyError, type ApplyError, type ApplyResult } from './nginx/applying/run.ts'
import type { LivePush } from './nginx/applying/live-push.ts'
import type { HostLayout } from './nginx/rendering/host-layout.ts'
import { laneObstacle, servedKeys } from './nginx/rendering/live.ts'
import { ALL_WELL } from './nginx/rendering/render-upstream.ts'
import { renderLive } from './nginx/rendering/live-state.ts'
import { assemble } from './nginx/rendering/assemble.ts'
import { hostNamesOf, render } from './nginx/rendering/render.ts'
import type { Unit } from './nginx/rendering/unit.ts'
import { liveReceiptOf, receiptOf, RECEIPT_LIMITS, type Receipt, type SettledReceipt } from './receipt.ts'
import { followedOf } from './upstreams/judging/followed.ts'
import type { UpstreamObserver } from './upstreams/observing/observer.ts'
import { remainderOf, ShrinkGuard } from './shrink-guard.ts'
import type { Capabilities, Clock, NginxProcess, Random, Startable } from './ports.ts'

/** For metrics. None may throw. */
export interface ReconcilerHooks {
  /** `desired`: as in the receipt. */
  onApply?(result: ApplyResult, desired: string): void
  onDrift?(found: readonly string[]): void
  /** What is being rendered. */
  onSlice?(slice: Slice): void
}

/** What the loop uses of src/nginx/applying/apply.ts. */
export type ApplierPort = Pick<
  Applier,
  'applied' | 'lastGood' | 'validated' | 'boot' | 'ensureServing' | 'apply' | 'healDrift' | 'tidy' | 'stopNginx'
>

export interface ReconcilerOptions {
  readonly desired: () => Slice | Promise<Slice>
  /** Texts of secrets of the slice, by path: those that this node can open. */
  readonly secrets: (slice: Slice) => ReadonlyMap<string, string>
  readonly applier: ApplierPort
  readonly nginx: NginxProcess
  readonly layout: HostLayout
  readonly addresses: Addresses
  /** What is known of the upstreams' health; without it all are taken to be well. */
  readonly observer?: Pick<UpstreamObserver, 'observed' | 'views' | 'follow'>
  readonly clock: Clock
  readonly random: Random
  readonly log: Log
  /**
   * Why nothing new may be applied now, in words for people; undefined when it may. Before the mesh has settled an empty
   * slice may only mean that nothing has arrived yet. `served`: the sites of the last good generation.
   */
  readonly holdReason: (served: number) => string | undefined
  readonly onReceipt: (receipt: Receipt) => void
  readonly hooks?: ReconcilerHooks
  /** End nginx when the daemon stops. Default: leave it serving. */
  readonly stopNginx?: boolean
  /** By which endpoints reach nginx without a reload; without it, none does. */
  readonly live?: LivePush
  readonly settings?: Partial<ReconcilerSettings>
}

export interface ReconcilerSettings {
  /** How often it is checked that nginx lives. */
  readonly watchIntervalMs: number
  /** How often everything on disk is hashed and every worker asked; both cost time with the number of sites. */
  readonly driftIntervalMs: number
  /** How often host names of endpoints are looked up again. */
  readonly resolveIntervalMs: number
}

const DEFAULTS: ReconcilerSettings = { watchIntervalMs: 500, driftIntervalMs: 30_000, resolveIntervalMs: 30_000 }
/** How long an apply lets what needs no reload go first; most often that is done within a few ms. */
const LANE_FIRST_MS = 100
/** Words of the Lua module without its own library, with which nginx keeps its old configuration, or does not start. */
const LUA_DOES_NOT_LOAD = /failed to load the 'resty\.core' module/
export class Reconciler implements Startable {
  readonly #options: ReconcilerOptions
  readonly #settings: ReconcilerSettings
  readonly #stopping = new AbortController()
  readonly #shrinkGuard = new ShrinkGuard()
  #loop: Promise<void> | undefined
  /** Ends the pause between two turns of the loop. */
  #interrupt: () => void = () => undefined

  readonly #pace: ApplyPace
  /** All that the last proven rendering was made of, but for what was observed. */
  #provenInput = ''
  #driftAt = 0
  #resolveAt = 0
  #booted = false
  #untidy = false
  #capabilities: Capabilities | undefined

  #target: string | null = null
  #desired: string | null = null
  #outcome: Receipt['outcome'] = null
  #phase: Receipt['phase'] = 'boot'
  #applyError: ApplyError | null = null
  #servingError: ApplyError | null = null
  /** Of a turn that threw, until another one has done its work. */
  #turnError: ApplyError | null = null
  #problems: readonly Problem[] = []
  #isolated: ApplyResult['isolated'] = []
  /** What the log has warned of and still holds. */
  #told: ReadonlySet<string> = new Set()
  #durations: Readonly<Record<string, number>> = {}
  #drift = 0
  #published = ''
  /** As it was at the end of the last turn: what is half done is not told. */
  #settled: SettledReceipt | undefined
  readonly #lane: LiveLane | undefined
  #host: HostLayout
  /** Of the generation that is being applied. */
  #applying: readonly Unit[] = []

  constructor(options: ReconcilerOptions) {
    this.#options = options
    this.#host = options.layout
    this.#settings = { ...DEFAULTS, ...options.settings }
    this.#pace = new ApplyPace(options.clock, options.random)
    options.addresses.onChange(() => this.wake())
    this.#lane = options.live === undefined ? undefined : this.#buildLane(options.live)
  }

  /** Begins the loop and returns at once: a node without nginx still relays, stores and tells what is wrong. */
  start(): Promise<void> {
    this.#loop ??= this.#run()
    return this.#lane?.start() ?? Promise.resolve()
  }

  /** Ends the loop when what it is at is safe to leave. nginx goes on serving unless told otherwise. */
  async stop(): Promise<void> {
    this.#stopping.abort(new Error('the reconciler stops'))
    this.#interrupt()
    await this.#lane?.stop()
    await this.#loop
    if (this.#options.stopNginx === true && this.#booted) await this.#options.applier.stopNginx()
  }

  /** Something that the slice may depend on has changed. Cheap; call it as often as that happens. */
  wake(): void {
    this.#pace.wake()
    this.#interrupt()
    this.#lane?.wake()
  }

  /**
   * What is observed of upstreams has changed. Leads to an apply like wake(), but only so many times a minute: backends that
   * come and go must not make nginx reload all the time. What waits is in the next apply, whatever that is for. The live lane
   * does not wait.
   */
  observedChanged(): void {
    this.#pace.observedChanged()
    this.#interrupt()
    this.#lane?.wake()
  }

  async #run(): Promise<void> {
    this.wake()
    while (!this.#stopping.signal.aborted) {
      try {
        await this.#turn()
      } catch (error) {
        // One bad turn must not end the loop for ever.
        this.#options.log.error('the reconciler failed and goes on', { error })
        this.#turnError = applyError(error)
        this.#pace.retryLater()
      }
      await this.#attempt('a receipt could not be made', () => this.#publish())
      // Housekeeping last: nobody waits for it.
      if (this.#untidy) await this.#attempt('old files could not be removed', () => this.#options.applier.tidy())
      this.#untidy = false
      await this.#pause()
    }
  }

  async #attempt(failure: string, task: () => Promise<void>): Promise<void> {
    try {
      await task()
    } catch (error) {
      this.#options.log.warn(failure, { error })
    }
  }

  async #turn(): Promise<void> {
    const { clock, applier, log } = this.#options
    if (!this.#booted && !(await this.#boot())) return
    const care = await applier.ensureServing()
    if (care.acted) {
      log.info('nginx serves the last good generation', { generation: applier.applied })
      this.#lane?.doubt()
      // What could not be applied for want of nginx can be now.
      this.#pace.retryNow()
    }
    if (care.error !== undefined && care.error.message !== this.#servingError?.message)
      log.error(care.error.message, { ...care.error })
    this.#servingError = care.error ?? null

    const now = clock.monotonic()
    if (now >= this.#resolveAt) {
      this.#resolveAt = now + this.#settings.resolveIntervalMs
      this.#options.addresses.refresh()
    }
    if (now >= this.#pace.applyAt) await this.#apply()
    else if (now >= this.#driftAt) await this.#heal()
    else return
    this.#turnError = null
    this.#untidy = true
  }

  /** Finds out what nginx can do and links the last good generation. False when it has to be tried again. */
  async #boot(): Promise<boolean> {
    const { applier, nginx, layout, clock, log } = this.#options
    // Lua that does not load must not keep nginx from starting.
    const host = { ...layout, liveLane: false }
    if (clock.monotonic() < this.#pace.retryAt) return false
    try {
      const capabilities = await nginx.capabilities()
      this.#capabilities = capabilities
      const note = await applier.boot(() => assemble([], { slice: NOTHING, capabilities, host }))
      if (note !== undefined) log.warn(note)
      this.#booted = true
      this.#lane?.wake()
      this.#servingError = null
      this.#pace.succeeded()
      this.#driftAt = clock.monotonic() + this.#settings.driftIntervalMs
      return true
    } catch (error) {
      this.#servingError = applyError(error)
      log.error(this.#servingError.message, { ...this.#servingError })
      this.#pace.retryLater()
      return false
    }
  }

  async #apply(): Promise<void> {
    const { clock, applier, hooks, log, observer } = this.#options
    const firstWake = this.#pace.begin()
    await this.#lane?.rest(LANE_FIRST_MS)
    const slice = await this.#options.desired()
    this.#target = slice.target
    const reason = this.#options.holdReason(this.#servedSites().length)
    if (reason !== undefined) {
      this.#hold('hold', reason)
      return
    }
    this.#phase = 'render'
    const addresses = await this.#options.addresses.of(hostNamesOf(slice))
    const capabilities = this.#capabilities ?? (await this.#options.nginx.capabilities())
    const secrets = this.#options.secrets(slice)
    const input = { slice, capabilities, host: this.#host, addresses, secrets, ...(observer?.observed ?? ALL_WELL) }
    const { units, problems, live } = render(input)
    observer?.follow(followedOf(input, units))
    hooks?.onSlice?.(slice)
    this.#problems = problems
    const remaining = remainderOf(slice, units, problems)
    const served = this.#servedSites().map(({ path }) => path)
    const shrink = this.#shrinkGuard.reason(remaining, served, clock.monotonic())
    if (shrink !== undefined) {
      const confirmation = `reload: { confirmShrink: '${sitesKey(remaining)}' }`
      this.#hold(
        'shrink',
        shrink,
        `if this is meant, apply a ZoneSettings with ${confirmation}; else restore the sites`,
      )
      return
    }
    const whole = assemble(units, input)
    this.#desired = whole.digest
    const { quietMs, maxWaitMs, drainMs, bakeSeconds } = settingsOf(slice)
    this.#pace.quiet = { quietMs, maxWaitMs }
    const assembleSome = (some: readonly Unit[]) => (sameUnits(some, units) ? whole : assemble(some, input))
    this.#applying = units
    // Else upstreams that are new in it would have no endpoints. What keeps it from the disk, the apply meets too.
    if (live !== undefined) await this.#lane?.prepare(live).catch(() => undefined)
    const made = JSON.stringify([slice.target, capabilities, [...addresses], [...secrets].map(([path]) => path)])
    const observedOnly = made === this.#provenInput
    const bakeMs = observedOnly ? 0 : bakeSeconds * 1000
    const result = await applier.apply(
      {
        units,
        problems,
        assemble: assembleSome,
        drainMs,
        bakeMs,
        observedOnly,
        onWait: (why) => this.#waits(why),
      },
      this.#stopping.signal,
    )
    this.#applying = []
    if (result.outcome !== 'unchanged') this.#lane?.doubt()
    this.#pace.ended()
    this.#outcome = result.outcome
    this.#phase = result.phase
    this.#applyError = result.error ?? null
    this.#isolated = result.isolated
    const isProven = result.outcome === 'applied' || result.outcome === 'unchanged'
    this.#provenInput = isProven && result.isolated.length === 0 ? made : ''
    this.#durations = rounded(result.phases)
    // What it waits for may be over at any time.
    if (result.outcome === 'failed') this.#pace.retryLater(result.phase === 'gate')
    else this.#pace.succeeded(result.retryAfterMs)
    const waited = firstWake === undefined ? 0 : Math.round(clock.monotonic() - firstWake)
    const { generation, isolated } = result
    const fields = { generation, waited, phases: this.#durations, isolated: isolated.length }
    if (result.error !== undefined) log.warn(`${result.outcome}: ${result.error.message}`, fields)
    else if (result.outcome === 'applied') log.info('applied', fields)
    // Without a generation it was not got as far as asking nginx.
    if (generation !== undefined) this.#tellRefused(isolated.filter(({ why }) => why !== 'untried'))
    hooks?.onApply?.(result, whole.digest)
    if (LUA_DOES_NOT_LOAD.test(result.error?.message ?? '')) this.#doWithoutLane()
  }

  /** `nginx -t` does not tell. What comes instead of the generation that failed is another one, which is tried at once. */
  #doWithoutLane(): void {
    if (this.#host.laneFault !== undefined) return
    const laneFault =
      'nginx cannot load lua-resty-core: endpoint changes go through reloads until mesh-node starts again'
    this.#options.log.warn(laneFault)
    this.#host = { ...this.#host, laneFault }
    this.wake()
  }

  /** Warns of what was not refused before, or not in these words. */
  #tellRefused(refused: ApplyResult['isolated']): void {
    const told = this.#told
    this.#told = new Set(refused.map((one) => JSON.stringify(one)))
    const fresh = refused.filter((one) => !told.has(JSON.stringify(one)))
    if (fresh.length === 0) return
    const isolated = fresh.slice(0, RECEIPT_LIMITS.isolated)
    this.#options.log.warn('nginx does not take all that is desired', { isolated, count: refused.length })
  }

  async #heal(): Promise<void> {
    const { clock, applier, log, hooks } = this.#options
    this.#driftAt = clock.monotonic() + this.#settings.driftIntervalMs
    await this.#refreshCapabilities()
    const onWait = (why: ApplyError) => {
      this.#waits(why)
      // By an apply, which most often changes nothing, it is told that the wait is over.
      this.wake()
    }
    const found = await applier.healDrift({ onWait, signal: this.#stopping.signal })
    if (found.length === 0) return
    this.#drift += found.length
    log.warn('drift was put right', { found: found.slice(0, RECEIPT_LIMITS.problems), count: found.length })
    hooks?.onDrift?.(found)
  }

  /** An upgrade of nginx changes what can be rendered. */
  async #refreshCapabilities(): Promise<void> {
    const before = JSON.stringify(this.#capabilities)
    this.#capabilities = await this.#options.nginx.capabilities()
    if (JSON.stringify(this.#capabilities) !== before) this.wake()
  }

  // -------------------------------------------------------------------------------------------- the live lane

  #buildLane(push: LivePush): LiveLane {
    const { clock, random, log } = this.#options
    return new LiveLane({
      push,
      desired: () => this.#liveWish(),
      // Of what serves, of what may come to serve, and of what may have to serve again after a rollback.
      served: () => servedKeys([...(this.#options.applier.lastGood?.units ?? []), ...this.#applying]),
      certificateFault: (keys) =>
        certificateFault(this.#options.applier.lastGood?.units ?? [], keys, (key) => push.fingerprints(key)),
      clock,
      random,
      log,
      onChange: () => this.#tell(),
      checkIntervalMs: this.#settings.driftIntervalMs,
    })
  }

  async #liveWish(): Promise<LiveWish> {
    const { addresses, holdReason, observer } = this.#options
    const capabilities = this.#capabilities
    if (!this.#booted || capabilities === undefined) return undefined
    const reason = laneObstacle(capabilities, this.#host)
    if (reason !== undefined) return { reason }
    const slice = await this.#options.desired()
    if (holdReason(this.#servedSites().length) !== undefined) return undefined
    const known = await addresses.now(hostNamesOf(slice))
    const secrets = this.#options.secrets(slice)
    const input = {
      slice,
      capabilities,
      host: this.#host,
      addresses: known,
      secrets,
      ...(observer?.observed ?? ALL_WELL),
    }
    const state = renderLive(input)
    return state && { state, target: slice.target }
  }

  #servedSites(): readonly Unit[] {
    return this.#options.applier.lastGood?.units.filter(({ kind }) => kind === 'site') ?? []
  }

  #hold(phase: 'hold' | 'shrink', message: string, hint?: string): void {
    this.#outcome = 'held'
    this.#phase = phase
    this.#applyError = { code: 'not_applied', message, ...(hint === undefined ? {} : { hint }) }
    this.#options.log.info(message, { target: this.#target })
    this.#pace.held()
  }

  /** The apply goes on, and its end is told as ever. */
  #waits(why: ApplyError): void {
    this.#outcome = 'held'
    this.#phase = 'gate'
    this.#applyError = why
    this.#options.log.warn(why.message, { target: this.#target })
    void this.#attempt('a receipt could not be made', () => this.#publish())
  }

  /** Until the next thing is due, or somebody wakes the loop. */
  async #pause(): Promise<void> {
    const { clock } = this.#options
    const now = clock.monotonic()
    const next = this.#booted
      ? Math.min(this.#pace.applyAt, this.#driftAt, now + this.#settings.watchIntervalMs)
      : this.#pace.retryAt
    await new Promise<void>((resolve) => {
      const cancel = clock.after(Math.max(0, next - now), resolve)
      this.#interrupt = () => {
        cancel()
        resolve()
      }
      if (this.#stopping.signal.aborted) this.#interrupt()
    })
  }

  async #publish(): Promise<void> {
    const { applier, nginx } = this.#options
    const master = await nginx.master()
    const workers = master === undefined ? [] : await nginx.workers(master)
    this.#settled = receiptOf({
      target: this.#target,
      desired: this.#desired,
      applier,
      outcome: this.#outcome,
      phase: this.#phase,
      error: this.#servingError ?? this.#turnError ?? this.#applyError,
      problems: this.#problems,
      isolated: this.#isolated,
      durations: this.#durations,
      drift: this.#drift,
      views: this.#options.observer?.views ?? [],
      capabilities: this.#capabilities,
      master,
      workers,
    })
    this.#tell()
  }

  #tell(): void {
    if (this.#settled === undefined) return
    const { clock, onReceipt } = this.#options
    const state = { ...this.#settled, live: liveReceiptOf(this.#lane?.receipt) }
    const text = JSON.stringify(state)
    if (text === this.#published) return
    this.#published = text
    onReceipt({ ...state, at: clock.now() })
  }
}

/** What an empty generation is made of. */
const NOTHING: Slice = { resources: [], problems: [], target: '' }

function sameUnits(a: readonly Unit[], b: readonly Unit[]): boolean {
  return a.length === b.length && a.every((unit, index) => unit === b[index])
}

function rounded(phases: Readonly<Record<string, number>>): Record<string, number> {
  return Object.fromEntries(Object.entries(phases).map(([phase, ms]) => [phase, Math.round(ms)]))
}
