/**
 * When endpoints and certificates go to nginx without a reload: as soon as something may have changed them, what follows
 * within 10 ms together, again when that failed, and every now and then to see that they are still there. A loop of its
 * own, so that no reload, drain or bake delays it. Started by reconciler.ts, which says what is desired and tells in receipts how it stands.
 */

import { backoffMs } from './backoff.ts'
import { MeshError } from './errors.ts'
import type { Log } from './log.ts'
import type { Brought, LivePush } from './nginx/applying/live-push.ts'
import { applyError, type ApplyError } from './nginx/applying/run.ts'
import { isCertificateKey, withRoomFor, type LiveState } from './nginx/rendering/live.ts'
import type { Clock, Random, Startable } from './ports.ts'

/** How the lane stands. Part of the receipt. */
export interface LiveReceipt {
  /** live: endpoints reach the workers without a reload. reload: they do not on this host. */
  readonly lane: 'live' | 'reload'
  /** Why they go through reloads, for people. Null in the lane `live`. */
  readonly reason: string | null
  /** The slice's target that `desired` was made from. */
  readonly target: string | null
  /** The stamp of what every worker shall go by, and of what each is proven to; they grow. Null before the first. */
  readonly desired: number | null
  readonly applied: number | null
  readonly error: ApplyError | null
}

/** What nginx shall have; or why not by this lane; or nothing for now. */
export type LiveWish = { readonly state: LiveState; readonly target: string } | { readonly reason: string } | undefined

export interface LiveLaneOptions {
  readonly push: LivePush
  readonly desired: () => Promise<LiveWish>
  /** Whether the running generation may ask for a key: such entries stay, desired or not. */
  readonly served: () => (key: string) => boolean
  /** What is wrong with how the certificates of these entries, which were pushed, are shown; undefined when nothing is. */
  readonly certificateFault: (keys: readonly string[]) => Promise<string | undefined>
  readonly clock: Clock
  readonly random: Random
  readonly log: Log
  /** The receipt has changed. */
  readonly onChange: () => void
  readonly checkIntervalMs: number
}

const COALESCE_MS = 10
const RETRY_FIRST_PAUSE_MS = 50
const RETRY_LONGEST_PAUSE_MS = 30_000

export class LiveLane implements Startable {
  readonly #options: LiveLaneOptions
  readonly #stopping = new AbortController()
  #loop: Promise<void> | undefined
  #isWoken = false
  /** Whether nginx may have lost what is proven. */
  #isDoubted = true
  #rest = Promise.withResolvers<void>()
  #isBusy = false
  #busyUntil = Number.NEGATIVE_INFINITY
  #interrupt: () => void = () => undefined
  #nextAt = 0
  /** Certificates as they were last proven to be shown. */
  #shown: LiveState = new Map()
  #failures = 0
  #receipt: LiveReceipt = { lane: 'reload', reason: null, target: null, desired: null, applied: null, error: null }

  constructor(options: LiveLaneOptions) {
    this.#options = options
  }

  get receipt(): LiveReceipt {
    return this.#receipt
  }

  async start(): Promise<void> {
    if (this.#loop !== undefined) return
    await this.#options.push.open()
    this.#loop ??= this.#run()
  }

  async stop(): Promise<void> {
    this.#stopping.abort(new Error('the live lane stops'))
    this.#interrupt()
    await this.#loop
  }

  /** What is desired may have changed. */
  wake(): void {
    if (this.#isResting) this.#rest = Promise.withResolvers()
    this.#isWoken = true
    this.#interrupt()
  }

  /** nginx may have started anew, or run another generation. */
  doubt(): void {
    this.#isDoubted = true
    this.wake()
  }

  /**
   * Resolves when what it was woken for is done, or failed, but after `limitMs` at the latest: whoever has long work to do on
   * the one thread that there is lets it go first.
   */
  async rest(limitMs: number): Promise<void> {
    if (this.#isResting) return
    const { promise, resolve } = Promise.withResolvers<void>()
    const cancel = this.#options.clock.after(limitMs, resolve)
    await Promise.race([this.#rest.promise, promise])
    cancel()
  }

  /**
   * Resolves when a master that loads a generation now finds all that its upstreams need. Only adds: what changes, the
   * loop brings. @throws MeshError `store_unwritable`.
   */
  async prepare(state: LiveState): Promise<void> {
    const { push } = this.#options
    const before = push.wanted
    push.want(withRoomFor(before.state, state))
    if (push.wanted !== before) this.wake()
    await push.save()
  }

  get #isResting(): boolean {
    return !this.#isWoken && !this.#isBusy
  }

  async #run(): Promise<void> {
    while (!this.#stopping.signal.aborted) {
      await this.#pause()
      if (this.#stopping.signal.aborted) return
      this.#isWoken = false
      this.#isBusy = true
      try {
        await this.#turn()
        this.#failures = 0
      } catch (error) {
        this.#failed(error)
      }
      this.#isBusy = false
      if (this.#isResting) this.#rest.resolve()
      this.#busyUntil = this.#options.clock.monotonic()
      this.#options.onChange()
    }
  }

  async #turn(): Promise<void> {
    const { push, log } = this.#options
    const wish = await this.#options.desired()
    if (wish === undefined) return this.#checkLater()
    if ('reason' in wish) {
      this.#checkLater()
      this.#receipt = { lane: 'reload', reason: wish.reason, target: null, desired: null, applied: null, error: null }
      return
    }
    push.want(this.#withServed(wish.state))
    const { stamp: desired, state } = push.wanted
    const isDue = this.#options.clock.monotonic() >= this.#nextAt
    if (desired === this.#receipt.applied && this.#receipt.error === null && !this.#isDoubted && !isDue) {
      this.#receipt = { ...this.#receipt, target: wish.target }
      return
    }
    this.#isDoubted = false
    this.#receipt = { ...this.#receipt, lane: 'live', reason: null, target: wish.target, desired }
    // Meanwhile, as workers need no file; it must not be unhandled when the push fails first.
    const saving = push.save()
    saving.catch(() => undefined)
    const { stamp, proven, drifted }: Brought = await push.bring()
    if (drifted) log.warn('nginx had lost its live state; it has it again', { stamp })
    this.#receipt = { ...this.#receipt, desired: stamp, applied: proven ? stamp : null, error: null }
    this.#options.onChange()
    await saving
    await push.save()
    if (proven) await this.#proveCertificates(state)
    this.#checkLater()
  }

  /** Of the renewed ones. New ones are probed with the generation that asks for them. */
  async #proveCertificates(state: LiveState): Promise<void> {
    const certificates = [...state].filter(([key]) => isCertificateKey(key))
    const renewed = certificates.filter(([key, value]) => (this.#shown.get(key) ?? value) !== value)
    const fault = renewed.length === 0 ? undefined : await this.#options.certificateFault(renewed.map(([key]) => key))
    if (fault !== undefined)
      throw new MeshError('nginx_failed', `a renewed certificate is not shown: ${fault}`, {
        hint: 'see error.log of nginx; it is looked at again by itself',
      })
    this.#shown = new Map(certificates)
  }

  #checkLater(): void {
    const { clock, checkIntervalMs } = this.#options
    this.#nextAt = clock.monotonic() + checkIntervalMs
  }

  #failed(error: unknown): void {
    const { clock, random, log } = this.#options
    this.#failures += 1
    const told = applyError(error)
    if (told.message !== this.#receipt.error?.message) log.warn(told.message, { ...told })
    this.#receipt = { ...this.#receipt, error: told }
    this.#nextAt = clock.monotonic() + backoffMs(this.#failures, RETRY_FIRST_PAUSE_MS, RETRY_LONGEST_PAUSE_MS, random)
  }

  #withServed(state: LiveState): LiveState {
    if (state === this.#options.push.wanted.state) return state
    const isServed = this.#options.served()
    const left = [...this.#options.push.wanted.state].filter(([key]) => !state.has(key) && isServed(key))
    return left.length === 0 ? state : withRoomFor(state, new Map(left))
  }

  /** Until it is time for the next turn, which a wake-up brings forward. */
  async #pause(): Promise<void> {
    const { clock } = this.#options
    for (;;) {
      const now = clock.monotonic()
      const at = this.#isWoken ? Math.min(this.#nextAt, this.#busyUntil + COALESCE_MS) : this.#nextAt
      if (at <= now || this.#stopping.signal.aborted) return
      await new Promise<void>((resolve) => {
        const cancel = clock.after(at - now, resolve)
        this.#interrupt = () => {
          cancel()
          resolve()
        }
      })
    }
  }
}
