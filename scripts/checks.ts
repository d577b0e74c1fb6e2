/**
 * Checks of the demo: each waits until a fact holds, or until its deadline, and prints what was found. A fact that does not
 * come true ends the demo with its name. Writes through the function it is given; touches no process.
 */

import { setTimeout as sleep } from 'node:timers/promises'

/** Thrown when a fact did not come true in time. */
export class CheckFailed extends Error {
  /** The fact, as it would have been printed. */
  readonly fact: string

  constructor(fact: string, found: string) {
    super(`${fact}\n${found}`)
    this.name = 'CheckFailed'
    this.fact = fact
  }
}

export interface ChecksOptions {
  readonly write: (text: string) => unknown
  /** Colours of a terminal; undefined: plain text. */
  readonly colours?: { readonly good: (text: string) => string; readonly bad: (text: string) => string }
  /** Ends every wait with its reason. */
  readonly signal?: AbortSignal
  /** Real time, ms, that a fact is given. Default 60,000: only a broken mesh takes that long. */
  readonly timeoutMs?: number
}

const PAUSE_MS = 50

export class Checks {
  readonly #options: ChecksOptions
  #passed = 0

  constructor(options: ChecksOptions) {
    this.#options = options
  }

  get passed(): number {
    return this.#passed
  }

  /**
   * Looks until what is found is what is expected, member by member, and prints the fact. A look that throws found its error.
   * @throws CheckFailed with the fact, the expectation and what was found last; the signal's reason when that aborts.
   */
  async equals<T>(fact: string, look: () => T | Promise<T>, expected: T): Promise<void> {
    const { write, signal, colours, timeoutMs = 60_000 } = this.#options
    const deadline = performance.now() + timeoutMs
    const wanted = JSON.stringify(expected)
    for (;;) {
      signal?.throwIfAborted()
      const found = await describe(look)
      if (found === wanted) break
      if (performance.now() > deadline) {
        write(`  ${colours?.bad('✗') ?? '✗'} ${fact}\n`)
        throw new CheckFailed(fact, `    expected ${wanted}\n    found    ${found}`)
      }
      // Cut short when aborted, which the next turn tells.
      await sleep(PAUSE_MS, undefined, { signal }).catch(() => undefined)
    }
    this.#passed += 1
    write(`  ${colours?.good('✓') ?? '✓'} ${fact}\n`)
  }
}

async function describe(look: () => unknown): Promise<string> {
  try {
    return JSON.stringify(await look())
  } catch (error) {
    const { message, cause } = error as Error
    return `error: ${message}${cause instanceof Error ? ` (${cause.message})` : ''}`
  }
}
