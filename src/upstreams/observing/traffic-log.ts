/**
 * Reads what nginx adds to the traffic log, in bounded steps, and empties the file when it has grown and all of it is read:
 * nothing else shortens it. When nginx writes faster than this reads, what is oldest is left out. Knows no line.
 */

import { truncate } from 'node:fs/promises'
import { LogTail } from '../../nginx/applying/log-tail.ts'

/** Beyond this the file is emptied once it is read. */
const KEPT_BYTES = 4 * 1024 * 1024
/** Further behind than this, it goes on at the end. */
const BEHIND_MAX_BYTES = 32 * 1024 * 1024

export class TrafficLog {
  readonly #path: string
  readonly #tail: LogTail
  #skippedBytes = 0

  constructor(path: string) {
    this.#path = path
    this.#tail = new LogTail(path)
  }

  /** Bytes left out because nginx wrote faster. */
  get skippedBytes(): number {
    return this.#skippedBytes
  }

  /** From now on read() gives what is added after this: what is older says nothing of now. */
  start(): Promise<void> {
    return this.#tail.mark()
  }

  /** Whole lines that were added since, of a megabyte at most. */
  async read(): Promise<{ readonly lines: readonly string[]; readonly hasMore: boolean }> {
    const lines = await this.#tail.read()
    if (this.#tail.left > BEHIND_MAX_BYTES) {
      this.#skippedBytes += this.#tail.left
      await this.#tail.mark()
    }
    // nginx appends, so it goes on at the beginning. What it writes between the read and this is lost: a line or two.
    if (this.#tail.left === 0 && this.#tail.offset > KEPT_BYTES) await truncate(this.#path)
    return { lines, hasMore: this.#tail.left > 0 }
  }
}
