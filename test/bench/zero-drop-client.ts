/**
 * What the clients of the zero-drop benchmark have in common, whatever they speak: one request after the other, a rest
 * between them, and an end between two of them. Counts into a Tally; zero-drop-load.ts runs many.
 */

import { nextExchange, type Exchange } from './zero-drop-exchanges.ts'
import type { FailureKind, Tally } from './zero-drop-tally.ts'

export interface Pace {
  /** Rest between an answer and the next request. */
  readonly pauseMs: number
  /** As nextExchange() takes it. */
  readonly longEvery: number
  readonly tally: Tally
}

export const ANSWER_TIMEOUT_MS = 30_000
const RETRY_MS = 10

export abstract class Client {
  readonly #pace: Pace
  #isStopping = false
  /** The request under way, and since when. */
  #current: { readonly exchange: Exchange; readonly began: number } | undefined
  #timer: NodeJS.Timeout | undefined
  #stopped: () => void = () => undefined

  constructor(pace: Pace) {
    this.#pace = pace
  }

  start(): void {
    this.#send()
  }

  /** Resolves when the request under way is answered. */
  stop(): Promise<void> {
    this.#isStopping = true
    return new Promise((resolve) => {
      this.#stopped = resolve
      if (this.#current === undefined) this.#end()
    })
  }

  protected abstract send(exchange: Exchange): void
  /** Ends the connection; what it still says concerns nobody. */
  protected abstract hangUp(): void

  /** Without a rest the next request goes out at once. */
  protected soon(send: () => void): void {
    send()
  }

  protected get tally(): Tally {
    return this.#pace.tally
  }

  protected get exchange(): Exchange | undefined {
    return this.#current?.exchange
  }

  /** Of the request under way. */
  protected get waitedMs(): number {
    return performance.now() - (this.#current?.began ?? 0)
  }

  protected answered(): void {
    this.tally.answered(this.waitedMs)
    this.#next(this.#pace.pauseMs)
  }

  /** The request under way is lost; or what came belongs to none. */
  protected failed(kind: FailureKind, about: string): void {
    const { method = '', path = '' } = this.exchange ?? {}
    this.tally.failed(kind, `${method} ${path} ${about}`, this.exchange !== undefined)
    this.#next(Math.max(RETRY_MS, this.#pace.pauseMs))
  }

  #send(): void {
    if (this.#isStopping) return this.#end()
    const exchange = nextExchange(this.#pace.longEvery)
    this.#current = { exchange, began: performance.now() }
    this.send(exchange)
  }

  #next(pauseMs: number): void {
    clearTimeout(this.#timer)
    this.#current = undefined
    if (this.#isStopping) return this.#end()
    if (pauseMs === 0) this.soon(() => this.#send())
    else this.#timer = setTimeout(() => this.#send(), pauseMs)
  }

  #end(): void {
    clearTimeout(this.#timer)
    this.hangUp()
    this.#stopped()
  }
}
