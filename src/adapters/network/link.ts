/**
 * A link: one connection with a peer and the streams kept on it, one each way for requests and one each way for pushed
 * messages. Opening our request stream is also the greeting: a node of another network_id does not know its protocol.
 * Whatever breaks on a link closes it whole, and the dialler makes a new one: no half-dead state is left to repair.
 */

import type { Connection, Stream } from '@libp2p/interface'
import { MeshError } from '../../errors.ts'
import { type Clock, MAX_MESSAGE_BYTES, type PeerKey } from '../../ports.ts'
import { FrameStream, type StreamEnd } from './frames.ts'

/** Frame: one byte of type, four of the id that pairs an answer with its question, the payload. */
const HEADER_BYTES = 5
const ASK = 1
const PING = 2
const ANSWER = 3
/** The payload is one byte: why there is no answer. */
const REFUSAL = 4
const REFUSED_BUSY = 1
const REFUSED_FAILED = 2

/** The largest frame on any of our streams. */
const MAX_FRAME_BYTES = MAX_MESSAGE_BYTES + HEADER_BYTES

/** Requests to one peer on their way at once; a further one fails with `unavailable`. */
const ASKED_MAX = 256
/** Requests of the peer being answered at once; at the limit its stream is not read on. */
const ANSWERING_MAX = 32
const OPEN_TIMEOUT_MS = 10_000
const REQUEST_TIMEOUT_MS = 10_000
/** Ticks without a sign of life, and ticks that one frame may take to arrive, after which the link is closed. */
const SILENT_TICKS_MAX = 3

export interface LinkEvents {
  /** Whether the peer is within its rate with one more frame of this size. */
  admits(bytes: number): boolean
  /** Answers a request of the peer; undefined when it cannot. Must not throw. */
  onRequest(request: Uint8Array): Promise<Uint8Array | undefined>
  /** A frame of the peer's push stream, within its rate. */
  onPush(frame: Uint8Array): void
  /** The link is closed; called once. `fault`: the peer broke the protocol. */
  onClosed(reason: string, fault: boolean): void
}

interface Asked {
  resolve(answer: Uint8Array): void
  reject(error: MeshError): void
}

export class Link {
  readonly peer: PeerKey
  readonly connection: Connection
  readonly #clock: Clock
  readonly #events: LinkEvents
  readonly #asked = new Map<number, Asked>()
  #asking: FrameStream | undefined
  #answering: FrameStream | undefined
  #pushing: FrameStream | undefined
  #pushed: FrameStream | undefined
  #opening: Promise<void> | undefined
  #openingPush: Promise<void> | undefined
  #answeringCount = 0
  #lastId = 0
  #silentTicks = 0
  #closed = false

  constructor(peer: PeerKey, connection: Connection, clock: Clock, events: LinkEvents) {
    this.peer = peer
    this.connection = connection
    this.#clock = clock
    this.#events = events
  }

  /** Whether our stream is open: requests can be sent. */
  get ready(): boolean {
    return this.#asking !== undefined && !this.#closed
  }

  /** Whether a frame can be pushed: the peer is in our mesh too. */
  get pushes(): boolean {
    return this.#pushing !== undefined && !this.#closed
  }

  /** Opens our request stream, once. @throws what libp2p throws; `UnsupportedProtocolError` from a stranger. */
  open(protocol: string): Promise<void> {
    this.#opening ??= this.#openStream(protocol, (frame) => this.#onAnswer(frame)).then((stream) => {
      this.#asking = stream
    })
    return this.#opening
  }

  /** Opens our push stream, unless it is open. @throws as `open`; `UnsupportedProtocolError` while the peer is not in our mesh. */
  openPush(protocol: string): Promise<void> {
    const refuse = () => this.#end({ reason: 'sent on a stream that it only reads', fault: true })
    this.#openingPush ??= this.#openStream(protocol, refuse)
      .then((stream) => void (this.#pushing = stream))
      .catch((error: unknown) => {
        this.#openingPush = undefined
        throw error
      })
    return this.#openingPush
  }

  /** Takes the peer's request stream. */
  accept(stream: Stream): void {
    this.#answering = this.#takeStream(stream, this.#answering, (frame) => void this.#onAsked(frame))
  }

  /** Takes the peer's push stream. */
  acceptPush(stream: Stream): void {
    this.#pushed = this.#takeStream(stream, this.#pushed, (frame) => {
      if (this.#events.admits(frame.length)) this.#events.onPush(frame)
    })
  }

  /** Pushes frames; false when they are dropped, because the peer is slow or not in our mesh. */
  push(frames: readonly Uint8Array[]): boolean {
    return this.#pushing?.offer(...frames) ?? false
  }

  /** @throws MeshError `unavailable` or `timeout`; the signal's reason when that aborts first. */
  async request(payload: Uint8Array, signal?: AbortSignal): Promise<Uint8Array> {
    signal?.throwIfAborted()
    if (this.#asked.size >= ASKED_MAX) {
      throw new MeshError('unavailable', `${ASKED_MAX} requests to peer ${this.peer} are on their way already`)
    }
    const id = this.#nextId()
    const { promise, resolve, reject } = Promise.withResolvers<Uint8Array>()
    const expire = () =>
      reject(new MeshError('timeout', `peer ${this.peer} did not answer in ${REQUEST_TIMEOUT_MS} ms`))
    const abort = () => reject(signal?.reason)
    const cancelTimeout = this.#clock.after(REQUEST_TIMEOUT_MS, expire)
    signal?.addEventListener('abort', abort, { once: true })
    try {
      this.#asked.set(id, { resolve, reject })
      this.#send(this.#asking, ASK, id, payload).catch(reject)
      return await promise
    } finally {
      cancelTimeout()
      signal?.removeEventListener('abort', abort)
      this.#asked.delete(id)
    }
  }

  /**
   * Asks for a sign of life and closes a link that gave none, or no end to a frame, for three ticks. Counted in ticks
   * and not in time, so that a process which slept itself does not blame its peers.
   */
  tick(): void {
    if (!this.ready) return
    const ticks = this.#streams().map((stream) => stream.tick())
    this.#silentTicks = ticks.some(({ heard }) => heard) ? 0 : this.#silentTicks + 1
    if (this.#silentTicks > SILENT_TICKS_MAX) this.close('no sign of life')
    else if (ticks.some(({ ticksInFrame }) => ticksInFrame > SILENT_TICKS_MAX)) {
      this.#end({ reason: 'takes for ever over one frame', fault: true })
    } else this.#asking?.offer(encode(PING, 0, new Uint8Array()))
  }

  close(reason: string): void {
    this.#end({ reason, fault: false })
  }

  #end({ reason, fault }: StreamEnd): void {
    if (this.#closed) return
    this.#closed = true
    for (const stream of this.#streams()) stream.abort(reason)
    const lost = new MeshError('unavailable', `lost peer ${this.peer}: ${reason}`)
    for (const asked of this.#asked.values()) asked.reject(lost)
    // A graceful close waits for the peer, which may be what is broken.
    this.connection.abort(new Error(reason))
    this.#events.onClosed(reason, fault)
  }

  #streams(): FrameStream[] {
    const all = [this.#asking, this.#answering, this.#pushing, this.#pushed]
    return all.filter((stream) => stream !== undefined)
  }

  async #openStream(protocol: string, onFrame: (frame: Uint8Array) => void): Promise<FrameStream> {
    const stream = await this.connection.newStream(protocol, { signal: AbortSignal.timeout(OPEN_TIMEOUT_MS) })
    if (this.#closed) stream.abort(new Error('the link is closed'))
    return new FrameStream(stream, MAX_FRAME_BYTES, { onFrame, onEnd: (end) => this.#end(end) })
  }

  #takeStream(stream: Stream, before: FrameStream | undefined, onFrame: (frame: Uint8Array) => void): FrameStream {
    const taken = new FrameStream(stream, MAX_FRAME_BYTES, { onFrame, onEnd: (end) => this.#end(end) })
    if (before) this.#end({ reason: 'opened one stream twice', fault: true })
    if (this.#closed) taken.abort('the link is closed')
    return taken
  }

  #nextId(): number {
    this.#lastId = (this.#lastId + 1) >>> 0
    return this.#lastId
  }

  async #send(stream: FrameStream | undefined, type: number, id: number, payload: Uint8Array): Promise<void> {
    if (!stream) throw new MeshError('unavailable', `peer ${this.peer} is not connected`)
    await stream.send(encode(type, id, payload))
  }

  #onAnswer(frame: Uint8Array): void {
    const { type, id, payload } = decode(frame)
    const asked = this.#asked.get(id)
    if (type === ANSWER) asked?.resolve(payload)
    else if (type === REFUSAL) asked?.reject(refusal(this.peer, payload))
    else if (type !== PING) this.#end({ reason: `sent a frame of unknown type ${type}`, fault: true })
  }

  async #onAsked(frame: Uint8Array): Promise<void> {
    const { type, id, payload } = decode(frame)
    const stream = this.#answering
    const busy = !this.#events.admits(frame.length)
    if (type === PING) {
      stream?.offer(encode(PING, id, new Uint8Array()))
      return
    }
    if (type !== ASK) return this.#end({ reason: `sent a frame of unknown type ${type}`, fault: true })
    if (++this.#answeringCount >= ANSWERING_MAX) stream?.pause()
    const answer = busy ? undefined : await this.#events.onRequest(payload)
    try {
      if (answer) await this.#send(stream, ANSWER, id, answer)
      else await this.#send(stream, REFUSAL, id, Uint8Array.of(busy ? REFUSED_BUSY : REFUSED_FAILED))
    } catch {
      // The link closed meanwhile: nobody waits for this answer any more.
    }
    this.#answeringCount--
    stream?.resume()
  }
}

function encode(type: number, id: number, payload: Uint8Array): Uint8Array {
  const frame = Buffer.allocUnsafe(HEADER_BYTES + payload.length)
  frame[0] = type
  frame.writeUInt32BE(id, 1)
  frame.set(payload, HEADER_BYTES)
  return frame
}

function decode(frame: Uint8Array): { type: number; id: number; payload: Uint8Array } {
  if (frame.length < HEADER_BYTES) return { type: 0, id: 0, payload: frame }
  const id = Buffer.from(frame.buffer, frame.byteOffset, HEADER_BYTES).readUInt32BE(1)
  return { type: frame[0] as number, id, payload: frame.subarray(HEADER_BYTES) }
}

function refusal(peer: PeerKey, payload: Uint8Array): MeshError {
  const why = payload[0] === REFUSED_BUSY ? 'is over its rate for us' : 'could not answer'
  return new MeshError('unavailable', `peer ${peer} ${why}`)
}
