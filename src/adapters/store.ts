/**
 * The embedded store: envelopes in append order and small marks in one LevelDB directory, each write fsynced before
 * it is acknowledged. Checks every record against its id and heals what it can; never judges what an envelope says.
 * Called by the replica (envelopes, append) and by whoever keeps a mark.
 */

import { createHmac, createSecretKey, type KeyObject } from 'node:crypto'
import { mkdir, readdir, readFile, stat } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { ClassicLevel } from 'classic-level'
import { canonical, sha256 } from '../core/canonical.ts'
import { envelopeId, isHex, type Signatures, type WireEnvelope } from '../core/envelope.ts'
import { MeshError } from '../errors.ts'
import { MAX_MARK_BYTES, type CorruptRecord, type Store, type StoredEnvelope } from '../ports.ts'

export interface LevelStoreOptions {
  /** The store's own directory; created with mode 0700. Only one process can have it open. */
  readonly directory: string
  /** 32 bytes that only this node can derive (`sealKeyFromSeed`): marks records whose signatures it checked itself. */
  readonly sealKey: Uint8Array
}

/** Writes that wait are joined into one batch of at most this many bytes, so that one fsync serves many callers. */
const GROUP_BYTES_MAX = 4 * 1024 * 1024
/** When this much waits for the disk, `append` and `setMark` answer `unavailable` at once: the disk is too slow. */
const QUEUED_BYTES_MAX = 64 * 1024 * 1024
const READ_AHEAD_BYTES = 1024 * 1024
const READ_AHEAD_RECORDS = 512

// Layout: `e/<sequence, 12 digits>/<id>` -> record, `m/<name>` -> mark, `s/missing` -> sequence numbers known lost.
// `0` is the character after `/`, so [`e/`, `e0`) is every envelope.
const ENVELOPES = { gte: 'e/', lt: 'e0' } as const
const MARKS = { gte: 'm/', lt: 'm0' } as const
const MISSING = 's/missing'
/** The `key` of a CorruptRecord that is about the files as a whole. */
const FILES = 'files'
const ENVELOPE_KEY = /^e\/(\d{12})\/([0-9a-f]{64})$/

type Database = ClassicLevel
type Operation =
  | { readonly type: 'put'; readonly key: string; readonly value: string }
  | { readonly type: 'del'; readonly key: string }

interface Write {
  readonly envelopes?: readonly { readonly id: string; readonly wire: WireEnvelope }[]
  readonly mark?: readonly [name: string, value: string]
  readonly extra?: readonly Operation[]
  /** About how many bytes this adds to a batch. */
  readonly size: number
  readonly done: PromiseWithResolvers<void>
}

/** The Store on LevelDB. See the port for the contract of each method. */
export class LevelStore implements Store {
  readonly #directory: string
  readonly #sealKey: KeyObject
  #database: Database | undefined
  #started: Promise<void> | undefined
  #stopping = false
  /** A write failed: LevelDB's log may end in half a record, and only opening it again trims that. */
  #reopenFirst = false
  /** What undoes leftovers of failed writes; goes in front of the next batch. */
  #undo: readonly Operation[] = []
  readonly #sequences = new Map<string, number>()
  readonly #marks = new Map<string, string>()
  #nextSequence = 0
  #missing = 0
  /** Damage found by `start`, handed to `onCorrupt` by `envelopes`. */
  #damage: CorruptRecord[] = []
  #queue: Write[] = []
  #queuedBytes = 0
  #draining: Promise<void> | undefined

  constructor(options: LevelStoreOptions) {
    this.#directory = options.directory
    this.#sealKey = createSecretKey(options.sealKey)
  }

  /** @throws MeshError `store_locked`, `store_corrupt` or `store_unwritable`. */
  start(options: { readonly signal?: AbortSignal } = {}): Promise<void> {
    this.#started ??= this.#start(options.signal).catch(async (error: unknown) => {
      await this.#close()
      this.#started = undefined
      throw error
    })
    return this.#started
  }

  /** Finishes the writes that wait, then closes. */
  async stop(): Promise<void> {
    await this.#started?.catch(() => undefined)
    this.#stopping = true
    await this.#draining
    await this.#close()
    this.#started = undefined
    this.#stopping = false
  }

  async *envelopes(onCorrupt: (record: CorruptRecord) => void): AsyncGenerator<StoredEnvelope> {
    const database = this.#opened()
    const removals: Operation[] = []
    for (const record of this.#damage.splice(0)) {
      if (record.key !== FILES) removals.push({ type: 'del', key: record.key })
      onCorrupt(record)
    }
    const iterator = database.iterator({ ...ENVELOPES, fillCache: false, highWaterMarkBytes: READ_AHEAD_BYTES })
    try {
      for (;;) {
        const entries = await iterator.nextv(READ_AHEAD_RECORDS)
        if (entries.length === 0) break
        for (const [key, value] of entries) {
          const [sequence, id] = parseKey(key) ?? []
          // Only what start indexed counts: a second record of one id is in the damage reported above.
          if (id === undefined || this.#sequences.get(id) !== sequence) continue
          const record = this.#parseRecord(id, value)
          if (typeof record !== 'string') {
            yield record
            continue
          }
          this.#sequences.delete(id)
          removals.push({ type: 'del', key })
          onCorrupt({ key, reason: record })
        }
      }
    } catch (error) {
      throw isLevelError(error) ? corrupt(this.#directory, error) : error
    } finally {
      await iterator.close()
    }
    const missing = this.#nextSequence - this.#sequences.size
    if (removals.length === 0 && missing === this.#missing) return
    await this.#enqueue({ extra: [...removals, { type: 'put', key: MISSING, value: String(missing) }], size: 0 })
    this.#missing = missing
  }

  append(envelopes: readonly { readonly id: string; readonly wire: WireEnvelope }[]): Promise<void> {
    if (envelopes.length === 0) return Promise.resolve()
    const size = envelopes.reduce((sum, { wire }) => sum + wire.bytes.length, 0)
    return this.#enqueue({ envelopes, size })
  }

  async remove(ids: readonly string[]): Promise<void> {
    const known = ids.flatMap((id) => {
      const sequence = this.#sequences.get(id)
      return sequence === undefined ? [] : [{ type: 'del', key: envelopeKey(sequence, id) } as const]
    })
    if (known.length === 0) return
    for (const id of ids) this.#sequences.delete(id)
    this.#missing += known.length
    const missing = { type: 'put', key: MISSING, value: String(this.#missing) } as const
    await this.#enqueue({ extra: [...known, missing], size: 0 })
  }

  async getMark(name: string): Promise<string | undefined> {
    if (this.#started === undefined) throw notOpen(this.#directory)
    await this.#started
    return this.#marks.get(name)
  }

  setMark(name: string, value: string): Promise<void> {
    const size = Buffer.byteLength(value)
    if (size > MAX_MARK_BYTES) {
      const message = `mark ${name} has ${size} bytes; the limit is ${MAX_MARK_BYTES}`
      return Promise.reject(new MeshError('too_large', message))
    }
    return this.#enqueue({ mark: [name, value], size })
  }

  // -------------------------------------------------------------------------------------------- opening

  async #start(signal?: AbortSignal): Promise<void> {
    signal?.throwIfAborted()
    let files: readonly string[]
    try {
      // The directory around it is not the store's alone: the workers of nginx, another user, pass through it.
      await mkdir(dirname(this.#directory), { recursive: true, mode: 0o711 })
      await mkdir(this.#directory, { recursive: true, mode: 0o700 })
      files = await readdir(this.#directory)
    } catch (error) {
      throw unwritable(this.#directory, error)
    }
    // Without CURRENT, LevelDB takes the directory for a new one and deletes the tables that it finds there.
    const lostCurrent = !files.includes('CURRENT') && files.some((file) => /\.ldb$|^MANIFEST-/.test(file))
    if (lostCurrent) await this.#repair(new Error('the file CURRENT is missing'))
    try {
      await this.#load(true)
    } catch (error) {
      if (!isDamage(error)) throw await this.#translate(error)
      await this.#repair(error)
      await this.#load(false).catch(async (again: unknown) => {
        throw isDamage(again) ? corrupt(this.#directory, again) : await this.#translate(again)
      })
    }
    signal?.throwIfAborted()
  }

  /** Opens the database and reads every key once: the index, the marks and the gaps. */
  async #load(createIfMissing: boolean): Promise<void> {
    this.#sequences.clear()
    this.#marks.clear()
    this.#damage = this.#damage.filter((record) => record.key === FILES)
    this.#nextSequence = 0
    this.#undo = []
    this.#reopenFirst = false
    const database = await this.#open(createIfMissing)
    for await (const key of database.keys({ ...ENVELOPES, fillCache: false, highWaterMarkBytes: READ_AHEAD_BYTES })) {
      const [sequence, id] = parseKey(key) ?? []
      if (sequence === undefined || id === undefined) {
        this.#damage.push({ key, reason: 'the key is not a sequence number and an id' })
      } else if (this.#sequences.has(id)) {
        this.#damage.push({ key, reason: `a second record of ${id}` })
        this.#nextSequence = sequence + 1
      } else {
        this.#sequences.set(id, sequence)
        this.#nextSequence = sequence + 1
      }
    }
    for await (const [key, stored] of database.iterator(MARKS)) {
      const value = openMark(stored)
      if (value === undefined) this.#damage.push({ key, reason: 'the mark does not match its checksum' })
      else this.#marks.set(key.slice(2), value)
    }
    // Sequence numbers have no gaps of their own: a new gap is records that the files lost without LevelDB saying so.
    this.#missing = Number(await database.get(MISSING)) || 0
    const lost = this.#nextSequence - this.#sequences.size - this.#missing
    if (lost > 0) this.#damage.push({ key: FILES, reason: `${lost} records are missing from the files` })
  }

  async #open(createIfMissing: boolean): Promise<Database> {
    await this.#close()
    const database: Database = new ClassicLevel(this.#directory, { createIfMissing })
    await database.open()
    this.#database = database
    return database
  }

  async #close(): Promise<void> {
    const database = this.#database
    this.#database = undefined
    await database?.close()
  }

  async #repair(reason: unknown): Promise<void> {
    await this.#close()
    this.#damage.push({ key: FILES, reason: `the files were damaged and have been repaired: ${rootMessage(reason)}` })
    await ClassicLevel.repair(this.#directory).catch((error: unknown) => {
      throw isDamage(error) ? corrupt(this.#directory, error) : unwritable(this.#directory, error)
    })
  }

  async #translate(error: unknown): Promise<unknown> {
    if (levelCode(error) === 'LEVEL_LOCKED') return locked(this.#directory, await lockHolder(this.#directory), error)
    return isLevelError(error) ? unwritable(this.#directory, error) : error
  }

  #opened(): Database {
    if (this.#database === undefined) throw notOpen(this.#directory)
    return this.#database
  }

  // -------------------------------------------------------------------------------------------- writing

  #enqueue(write: Omit<Write, 'done'>): Promise<void> {
    if (this.#started === undefined || this.#stopping) return Promise.reject(notOpen(this.#directory))
    if (this.#queuedBytes > 0 && this.#queuedBytes + write.size > QUEUED_BYTES_MAX) {
      const message = `the disk of ${this.#directory} is slower than the edits that arrive`
      return Promise.reject(new MeshError('unavailable', message, { hint: 'Try again later.' }))
    }
    const done = Promise.withResolvers<void>()
    this.#queue.push({ ...write, done })
    this.#queuedBytes += write.size
    this.#draining ??= this.#drain()
    return done.promise
  }

  /** Group commit: while one batch is on its way to the disk, the next one gathers. */
  async #drain(): Promise<void> {
    await this.#started?.catch(() => undefined)
    while (this.#queue.length > 0) {
      const group = this.#takeGroup()
      try {
        await this.#commit(group)
        for (const { done } of group) done.resolve()
      } catch (error) {
        for (const { done } of group) done.reject(error)
      }
    }
    this.#draining = undefined
  }

  #takeGroup(): Write[] {
    let bytes = 0
    let count = 0
    for (const { size } of this.#queue) {
      if (count > 0 && bytes + size > GROUP_BYTES_MAX) break
      bytes += size
      count += 1
    }
    this.#queuedBytes -= bytes
    return this.#queue.splice(0, count)
  }

  async #commit(group: readonly Write[]): Promise<void> {
    const database = await this.#writable()
    const operations: Operation[] = [...this.#undo]
    const sequences = new Map<string, number>()
    const marks = new Map<string, string>()
    let next = this.#nextSequence
    for (const write of group) {
      for (const { id, wire } of write.envelopes ?? []) {
        const sequence = this.#sequences.get(id) ?? sequences.get(id) ?? next++
        sequences.set(id, sequence)
        operations.push({ type: 'put', key: envelopeKey(sequence, id), value: this.#record(id, wire) })
      }
      if (write.mark !== undefined) {
        const [name, value] = write.mark
        marks.set(name, value)
        operations.push({ type: 'put', key: `m/${name}`, value: sealMark(value) })
      }
      operations.push(...(write.extra ?? []))
    }
    try {
      await database.batch(operations, { sync: true })
    } catch (error) {
      this.#reopenFirst = true
      throw unwritable(this.#directory, error)
    }
    this.#undo = []
    this.#nextSequence = next
    for (const [id, sequence] of sequences) this.#sequences.set(id, sequence)
    for (const [name, value] of marks) this.#marks.set(name, value)
  }

  async #writable(): Promise<Database> {
    if (!this.#reopenFirst) return this.#opened()
    try {
      const database = await this.#open(false)
      this.#undo = await this.#leftovers(database)
      this.#reopenFirst = false
      return database
    } catch (error) {
      throw unwritable(this.#directory, error)
    }
  }

  /** A write that was refused may lie in the log all the same. Nobody was told so: it is taken back. */
  async #leftovers(database: Database): Promise<Operation[]> {
    const operations: Operation[] = []
    // A replaced set of signatures may stay: both sets were checked before they came here.
    for await (const key of database.keys({ gte: envelopeKey(this.#nextSequence, ''), lt: ENVELOPES.lt })) {
      operations.push({ type: 'del', key })
    }
    for await (const key of database.keys(MARKS)) {
      const value = this.#marks.get(key.slice(2))
      operations.push(value === undefined ? { type: 'del', key } : { type: 'put', key, value: sealMark(value) })
    }
    return operations
  }

  // -------------------------------------------------------------------------------------------- records

  #record(id: string, wire: WireEnvelope): string {
    return JSON.stringify({ bytes: wire.bytes, sigs: wire.sigs, seal: this.#seal(id, wire.sigs) })
  }

  /** The stored envelope, or why the record is corrupt. */
  #parseRecord(id: string, value: string): StoredEnvelope | string {
    let record: { readonly bytes?: unknown; readonly sigs?: unknown; readonly seal?: unknown } | null
    try {
      record = JSON.parse(value)
    } catch {
      return 'the record is not JSON'
    }
    if (typeof record?.bytes !== 'string' || !isSignatures(record.sigs)) return 'the record is not an envelope'
    const actual = envelopeId(record.bytes)
    if (actual !== id) return `the content has id ${actual}`
    return { id, wire: { bytes: record.bytes, sigs: record.sigs }, sealed: record.seal === this.#seal(id, record.sigs) }
  }

  #seal(id: string, sigs: Signatures): string {
    return createHmac('sha256', this.#sealKey).update(`nxmesh/v1/seal\0${id}`).update(canonical(sigs)).digest('hex')
  }
}

function envelopeKey(sequence: number, id: string): string {
  return `e/${String(sequence).padStart(12, '0')}/${id}`
}

function parseKey(key: string): [sequence: number, id: string] | undefined {
  const [, sequence, id] = ENVELOPE_KEY.exec(key) ?? []
  return sequence === undefined || id === undefined ? undefined : [Number(sequence), id]
}

function isSignatures(value: unknown): value is Signatures {
  return (
    typeof value === 'object' &&
    value !== null &&
    !Array.isArray(value) &&
    Object.values(value).every((sig) => isHex(sig, 128))
  )
}

// LevelDB does not check its block checksums on reads, so a mark carries one of its own.
function sealMark(value: string): string {
  return `${sha256(value).slice(0, 16)} ${value}`
}

function openMark(stored: string): string | undefined {
  const value = stored.slice(17)
  return stored === sealMark(value) ? value : undefined
}

// ---------------------------------------------------------------------------------------------- errors

function levelCode(error: unknown): string | undefined {
  const { code, cause } = (error ?? {}) as { code?: unknown; cause?: unknown }
  if (code === 'LEVEL_DATABASE_NOT_OPEN' && cause !== undefined) return levelCode(cause)
  return typeof code === 'string' ? code : undefined
}

function isLevelError(error: unknown): boolean {
  return levelCode(error)?.startsWith('LEVEL_') === true
}

function rootMessage(error: unknown): string {
  const { cause, message } = error as Error
  return cause instanceof Error ? rootMessage(cause) : message
}

/** What the machine refuses. Any other error of LevelDB on a file that it wrote itself means that the file is damaged. */
const REFUSAL =
  /No space left|Disk quota|Read-only file system|Input\/output error|Permission denied|Operation not permitted|Too many open files|Cannot allocate memory|File too large/

function isDamage(error: unknown): boolean {
  const code = levelCode(error)
  return code === 'LEVEL_CORRUPTION' || (code === 'LEVEL_IO_ERROR' && !REFUSAL.test(rootMessage(error)))
}

function notOpen(directory: string): MeshError {
  return new MeshError('unavailable', `the store in ${directory} is not open`)
}

function unwritable(directory: string, cause: unknown): MeshError {
  const message = rootMessage(cause)
  const full = /No space left|Disk quota|ENOSPC|EDQUOT/.test(message)
  const hint = full
    ? `Free space on the disk of ${directory}; the node goes on by itself.`
    : `Check the disk, its mount options and the owner of ${directory}.`
  return new MeshError(
    'store_unwritable',
    `the store in ${directory} cannot be written: ${message}`,
    { field: 'data_dir', hint },
    cause,
  )
}

function corrupt(directory: string, cause: unknown): MeshError {
  return new MeshError(
    'store_corrupt',
    `the store in ${directory} is damaged beyond repair: ${rootMessage(cause)}`,
    {
      field: 'data_dir',
      hint: `Move it aside (mv ${directory} ${directory}.broken) and start again: peers refill the store.`,
    },
    cause,
  )
}

function locked(directory: string, pid: number | undefined, cause: unknown): MeshError {
  const holder = pid === undefined ? 'another process' : `process ${pid}`
  return new MeshError(
    'store_locked',
    `the store in ${directory} is open in ${holder}`,
    {
      field: 'data_dir',
      hint: `Stop ${holder === 'another process' ? 'the other mesh-node' : holder}, or give this node a data_dir of its own.`,
    },
    cause,
  )
}

/** The process that holds LevelDB's lock file, where the kernel tells (Linux, /proc mounted). */
async function lockHolder(directory: string): Promise<number | undefined> {
  try {
    const { ino } = await stat(join(directory, 'LOCK'))
    const locks = await readFile('/proc/locks', 'utf8')
    // `1: POSIX  ADVISORY  WRITE <pid> <major>:<minor>:<inode> 0 EOF`
    return Number(locks.match(new RegExp(`WRITE (\\d+) \\S+:${ino} `))?.[1]) || undefined
  } catch {
    return undefined
  }
}
