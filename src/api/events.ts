/**
 * The stream of server-sent events: hands what happens on this node to every listening client. Each client has a bounded
 * buffer; one that reads too slowly is disconnected, and reads the present state when it comes back. Nothing is replayed.
 * A client hears what its reader may read, for as long as token and key count.
 */

import { MeshError } from '../errors.ts'
import type { Clock } from '../ports.ts'
import type { Reader } from './access.ts'

export const EVENT_LIMITS = {
  /** Clients at once; beyond it a new one is refused with 503. */
  clients: 64,
  /** Bytes that wait for one client; beyond it the client is disconnected. */
  bufferBytes: 256 * 1024,
  /** A comment is sent this often, so that proxies and clients notice a dead connection. */
  heartbeatMs: 15_000,
} as const

/** What a client may be told. `policy` says that verdicts may have changed: read again what you show. */
export const EVENT_TYPES = ['hello', 'edit', 'resource', 'policy', 'peer', 'receipt', 'health'] as const
export type EventType = (typeof EVENT_TYPES)[number]

interface Client {
  readonly controller: ReadableStreamDefaultController<Uint8Array>
  /** Breaks the connection at once, with whatever is still buffered. */
  readonly destroy: () => void
  readonly reader: Reader
  readonly cancelEnd: () => void
}

export class EventStream {
  readonly #clock: Clock
  readonly #clients = new Set<Client>()
  #cancelHeartbeat: () => void = () => undefined

  constructor(clock: Clock) {
    this.#clock = clock
  }

  get clients(): number {
    return this.#clients.size
  }

  /**
   * A new client's stream.
   * @param hello data of its first event.
   * @param reader what it may hear. @param destroy breaks the client's connection.
   * @throws MeshError `unavailable` when there are too many clients.
   */
  open(hello: unknown, reader: Reader, destroy: () => void): ReadableStream<Uint8Array> {
    if (this.#clients.size >= EVENT_LIMITS.clients) {
      throw new MeshError('unavailable', `${EVENT_LIMITS.clients} clients listen to the events of this node already`, {
        hint: 'Listen at another node, or close a client.',
      })
    }
    let client: Client | undefined
    return new ReadableStream<Uint8Array>(
      {
        start: (controller) => {
          client = { controller, destroy, reader, cancelEnd: this.#endAt(reader.until) }
          this.#clients.add(client)
          if (this.#clients.size === 1) this.#beat()
          controller.enqueue(Buffer.from('retry: 3000\n\n'))
          controller.enqueue(encode('hello', hello))
        },
        cancel: () => this.#drop(client as Client),
      },
      new ByteLengthQueuingStrategy({ highWaterMark: EVENT_LIMITS.bufferBytes }),
    )
  }

  /** Sends each client what `dataFor` its reader gives, if anything. */
  send(type: EventType, dataFor: (reader: Reader) => unknown): void {
    this.#write((reader) => {
      const data = dataFor(reader)
      return data === undefined ? undefined : encode(type, data)
    })
  }

  /** Ends every client's stream in order. */
  close(): void {
    for (const client of this.#clients) this.#end(client)
  }

  #write(chunkFor: (reader: Reader) => Uint8Array | undefined): void {
    for (const client of this.#clients) {
      const reader = client.reader.renewed()
      if (reader === undefined) {
        this.#end(client)
        continue
      }
      const chunk = chunkFor(reader)
      if (chunk === undefined) continue
      if ((client.controller.desiredSize ?? 0) >= chunk.length) {
        client.controller.enqueue(chunk)
      } else {
        this.#drop(client)
        client.destroy()
      }
    }
  }

  #beat(): void {
    this.#cancelHeartbeat = this.#clock.after(EVENT_LIMITS.heartbeatMs, () => {
      this.#write(() => HEARTBEAT)
      if (this.#clients.size > 0) this.#beat()
    })
  }

  /** Looks, when a token ends, which clients are left. */
  #endAt(until: number): () => void {
    if (until === Number.POSITIVE_INFINITY) return () => undefined
    return this.#clock.after(until - this.#clock.now() + 1, () => this.#write(() => undefined))
  }

  #end(client: Client): void {
    this.#drop(client)
    client.controller.close()
  }

  #drop(client: Client): void {
    client.cancelEnd()
    this.#clients.delete(client)
    if (this.#clients.size === 0) this.#cancelHeartbeat()
  }
}

const HEARTBEAT: Uint8Array = Buffer.from(': heartbeat\n\n')

/** One event; JSON text has no line breaks, so one data line holds it. */
function encode(type: EventType, data: unknown): Uint8Array {
  return Buffer.from(`event: ${type}\ndata: ${JSON.stringify(data)}\n\n`)
}
