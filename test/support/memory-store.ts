/**
 * The Store port in memory, for simulations and unit tests. Behaves as the store on disk does, keeps its content over
 * stop and start, and fails writes on demand. Never used by the daemon.
 */

import { envelopeId, type WireEnvelope } from '../../src/core/envelope.ts'
import { MeshError } from '../../src/errors.ts'
import { MAX_MARK_BYTES, type CorruptRecord, type Store, type StoredEnvelope } from '../../src/ports.ts'

interface MemoryRecord {
  wire: WireEnvelope
  sealed: boolean
}

export interface MemoryStoreOptions {
  /** Asked before the nth write (from 1, appends and marks alike): true makes it fail as a full disk does. */
  readonly failsWrite?: (n: number) => boolean
}

export class MemoryStore implements Store {
  readonly #failsWrite: (n: number) => boolean
  readonly #records = new Map<string, MemoryRecord>()
  readonly #marks = new Map<string, string>()
  #writes = 0
  #open = false

  constructor(options: MemoryStoreOptions = {}) {
    this.#failsWrite = options.failsWrite ?? (() => false)
  }

  async start(): Promise<void> {
    this.#open = true
  }

  async stop(): Promise<void> {
    this.#open = false
  }

  async *envelopes(onCorrupt: (record: CorruptRecord) => void): AsyncGenerator<StoredEnvelope> {
    this.#assertOpen()
    for (const [id, { wire, sealed }] of this.#records) {
      const actual = envelopeId(wire.bytes)
      if (actual === id) {
        yield { id, wire, sealed }
      } else {
        this.#records.delete(id)
        onCorrupt({ key: id, reason: `the content has id ${actual}` })
      }
    }
  }

  async append(envelopes: readonly { readonly id: string; readonly wire: WireEnvelope }[]): Promise<void> {
    if (envelopes.length === 0) return
    this.#write()
    for (const { id, wire } of envelopes) this.#records.set(id, { wire, sealed: true })
  }

  async remove(ids: readonly string[]): Promise<void> {
    this.#write()
    for (const id of ids) this.#records.delete(id)
  }

  async getMark(name: string): Promise<string | undefined> {
    this.#assertOpen()
    return this.#marks.get(name)
  }

  async setMark(name: string, value: string): Promise<void> {
    if (Buffer.byteLength(value) > MAX_MARK_BYTES) throw new MeshError('too_large', `mark ${name} is too large`)
    this.#write()
    this.#marks.set(name, value)
  }

  /** Changes a record behind the store's back, as somebody with the disk in hand would; that breaks its seal. */
  tamper(id: string, change: (wire: WireEnvelope) => WireEnvelope): void {
    const record = this.#records.get(id)
    if (record === undefined) throw new Error(`no record ${id}`)
    record.wire = change(record.wire)
    record.sealed = false
  }

  #write(): void {
    this.#assertOpen()
    this.#writes += 1
    if (this.#failsWrite(this.#writes)) {
      throw new MeshError('store_unwritable', 'the store in memory cannot be written: No space left on device')
    }
  }

  #assertOpen(): void {
    if (!this.#open) throw new MeshError('unavailable', 'the store in memory is not open')
  }
}
