/**
 * Reads what nginx appends to a log file after a mark: the master's last words about a reload, and the answers in the
 * traffic log of a bake. Bounded reads; a rotated or truncated file is read from its beginning. Never writes.
 */

import { open, type FileHandle } from 'node:fs/promises'

/** At most this much is read at once; of a log that grows faster, the rest comes with the next read. */
const READ_MAX_BYTES = 1024 * 1024
/** How much of the log before the mark says how things were earlier. */
const EARLIER_MAX_BYTES = 1024 * 1024

export class LogTail {
  readonly #path: string
  #inode = 0
  #marked = 0
  #offset = 0
  /** Bytes that were there beyond the offset at the last look. */
  #left = 0
  /** The beginning of a line whose end is not written yet. */
  #rest = ''

  constructor(path: string) {
    this.#path = path
  }

  /** Up to which byte the file is read. */
  get offset(): number {
    return this.#offset
  }

  /** How many bytes the last read left for the next one. */
  get left(): number {
    return this.#left
  }

  /** From now on, read() gives only what is appended after this. A missing file counts as empty. */
  async mark(): Promise<void> {
    this.#rest = ''
    await this.#withFile(async (_, { inode, size }) => {
      this.#inode = inode
      this.#marked = size
      this.#offset = size
    })
  }

  /** Whole lines appended since the mark or the last read. */
  async read(): Promise<readonly string[]> {
    let lines: string[] = []
    await this.#withFile(async (file, { inode, size }) => {
      if (inode !== this.#inode || size < this.#offset) {
        this.#inode = inode
        this.#marked = 0
        this.#offset = 0
        this.#rest = ''
      }
      const length = Math.min(size - this.#offset, READ_MAX_BYTES)
      const text = await readText(file, this.#offset, length)
      this.#offset += length
      this.#left = size - this.#offset
      lines = (this.#rest + text).split('\n')
      this.#rest = lines.pop() ?? ''
    })
    return lines
  }

  /** The last lines before the mark; none when the file was rotated since. */
  async beforeMark(): Promise<readonly string[]> {
    let lines: string[] = []
    await this.#withFile(async (file, { inode }) => {
      if (inode !== this.#inode) return
      const length = Math.min(this.#marked, EARLIER_MAX_BYTES)
      lines = (await readText(file, this.#marked - length, length)).split('\n')
      // The first is cut off unless the file begins with it, the last is what follows the final newline.
      lines = lines.slice(length === this.#marked ? 0 : 1, -1)
    })
    return lines
  }

  async #withFile(use: (file: FileHandle, at: { inode: number; size: number }) => Promise<void>): Promise<void> {
    let file: FileHandle
    try {
      file = await open(this.#path, 'r')
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return
      throw error
    }
    try {
      const { ino, size } = await file.stat()
      await use(file, { inode: ino, size })
    } finally {
      await file.close()
    }
  }
}

async function readText(file: FileHandle, position: number, length: number): Promise<string> {
  const buffer = Buffer.alloc(length)
  const { bytesRead } = await file.read(buffer, 0, length, position)
  // A character cut in two spoils one line of a log; latin1 keeps byte counts and everything that is looked for.
  return buffer.toString('latin1', 0, bytesRead)
}

/**
 * Messages with which this master gave a configuration up: `[emerg]`, and the Lua module's of another level. Other levels,
 * such as that of a handshake that failed, and other processes, such as a `-t`, say nothing about it.
 */
export function emergencies(lines: readonly string[], masterPid: number): readonly string[] {
  return lines.flatMap((line) => {
    const [, level, pid, message = ''] = /^\S+ \S+ \[(emerg|alert|error)\] (\d+)#\d+: (.*)$/.exec(line) ?? []
    const isFatal = level === 'emerg' || LUA_GAVE_UP.test(message)
    return isFatal && Number(pid) === masterPid ? [message] : []
  })
}

/** What this master says of workers that ended by themselves, and not because they were told to. */
export function brokenWorkers(lines: readonly string[], masterPid: number): readonly string[] {
  return lines.flatMap((line) => {
    const [, pid, message = ''] =
      /^\S+ \S+ \[\w+\] (\d+)#\d+: (worker process \d+ exited (?:on signal|with fatal code|with code [1-9]).*)$/.exec(
        line,
      ) ?? []
    return Number(pid) === masterPid ? [message] : []
  })
}

const LUA_GAVE_UP = /^(?:init_by_lua error: |failed to load the 'resty\.core' module)/
