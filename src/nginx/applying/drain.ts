/**
 * What keeps a reload from breaking connections: while the drain file exists, every location answers from its twin
 * (src/nginx/rendering/location.ts), which closes the connection behind the answer. Called by swap.ts and apply.ts around
 * each reload; knows nothing of what is reloaded.
 */

import { rm, writeFile } from 'node:fs/promises'
import { MeshError } from '../../errors.ts'
import { KEEPS_IDLE_LINE } from '../rendering/main-conf.ts'
import type { Generation } from './generation.ts'
import type { Parts } from './settings.ts'

/** Requests that began before it may still be told to keep their connections, which are idle when they are answered. */
const LEAST_MS = 100
const POLL_MS = 10

export class Drain {
  readonly #parts: Pick<Parts, 'layout' | 'clock' | 'endpoint'>

  constructor(parts: Parts) {
    this.#parts = parts
  }

  /**
   * Has nginx close kept-alive connections after their next answer, until none is idle: a reload would break those. The
   * drain file stays until end(), since the old workers go on for a while.
   * @param running what the workers run
   * @throws MeshError `store_unwritable`
   */
  async begin(running: Pick<Generation, 'main'>, limitMs: number, signal: AbortSignal | undefined): Promise<void> {
    // Old workers of this nginx keep idle connections by themselves, and close them behind their next answer.
    if (limitMs === 0 || running.main.includes(KEEPS_IDLE_LINE)) return
    const { layout, clock, endpoint } = this.#parts
    try {
      await writeFile(layout.drainFile, '')
    } catch (error) {
      throw new MeshError(
        'store_unwritable',
        `cannot write ${layout.drainFile}: ${(error as Error).message}`,
        {},
        error,
      )
    }
    const began = clock.monotonic()
    // Who asks no more for a while, or speaks HTTP/2, stays idle: then the limit ends it.
    for (let passed = 0; passed < limitMs; passed = clock.monotonic() - began) {
      if (passed >= LEAST_MS && (await endpoint.connections())?.waiting === 0) return
      const pauseMs = passed < LEAST_MS ? LEAST_MS - passed : POLL_MS
      await clock.sleep(Math.min(pauseMs, limitMs - passed), signal)
    }
  }

  async end(): Promise<void> {
    await rm(this.#parts.layout.drainFile, { force: true })
  }
}
