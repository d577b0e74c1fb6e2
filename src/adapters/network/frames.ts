/**
 * Frames over one libp2p stream: a four-byte length, then that many bytes. Bounds both directions: a frame that claims
 * more than the limit ends the stream before it is buffered, and writing waits for, or drops at, a full buffer.
 * Knows nothing of what frames mean; link.ts and spread.ts do.
 */

import type { Stream } from '@libp2p/interface'
import { MeshError } from '../../errors.ts'

const LENGTH_BYTES = 4
/** A stream that holds this much unsent takes no more offers. Far below the muxer's own limit, which resets the stream. */
const UNSENT_MAX_BYTES = 2 * 1024 * 1024

/** Why a stream ended: `fault` when its peer sent what is not a frame. */
export interface StreamEnd {
  readonly reason: string
  readonly fault: boolean
}

export interface FrameEvents {
  /** One whole frame; the bytes are the receiver's to keep. */
  onFrame(frame: Uint8Array): void
  /** The stream is over; called once. */
  onEnd(end: StreamEnd): void
}

export class FrameStream {
  readonly #stream: Stream
  readonly #events: FrameEvents
  readonly #maxFrameBytes: number
  readonly #header = Buffer.alloc(LENGTH_BYTES)
  #headerFilled = 0
  #body: Buffer | undefined
  #bodyFilled = 0
  /** What came behind the frame whose receiver paused us. */
  #rest: Uint8Array | undefined
  /** Settles when the stream takes bytes again, or never will. */
  #room: PromiseWithResolvers<void> | undefined
  #heard = false
  #ticksInFrame = 0
  #paused = false
  #open = true

  constructor(stream: Stream, maxFrameBytes: number, events: FrameEvents) {
    this.#stream = stream
    this.#maxFrameBytes = maxFrameBytes
    this.#events = events
    stream.addEventListener('close', (event) => this.abort(event.error?.message ?? 'closed'))
    stream.addEventListener('remoteCloseWrite', () => this.abort('closed by the peer'))
    stream.addEventListener('drain', () => this.#wake())
    stream.addEventListener('message', (event) => this.#read(event.data.subarray()))
  }

  get open(): boolean {
    return this.#open
  }

  /** To be called now and then: whether anything came since the last call, and in how many calls the same frame was unfinished. */
  tick(): { readonly heard: boolean; readonly ticksInFrame: number } {
    const heard = this.#heard
    this.#heard = false
    const unfinished = !this.#paused && (this.#headerFilled > 0 || this.#body !== undefined)
    this.#ticksInFrame = unfinished ? this.#ticksInFrame + 1 : 0
    return { heard, ticksInFrame: this.#ticksInFrame }
  }

  /** Sends frames in one piece; false, and they are dropped, when too much is unsent already or the stream is over. */
  offer(...frames: readonly Uint8Array[]): boolean {
    return this.#open && this.#stream.writeBufferLength <= UNSENT_MAX_BYTES && this.#write(frames)
  }

  /** Sends a frame, waiting while the peer is slow. @throws MeshError `unavailable` when the stream is over. */
  async send(frame: Uint8Array): Promise<void> {
    while (this.#open && this.#stream.writableNeedsDrain) {
      // Not `stream.onDrain()`: its promise stays resolved after the first time, and this loop would spin.
      this.#room ??= Promise.withResolvers<void>()
      await this.#room.promise
    }
    if (!this.#open || !this.#write([frame])) throw new MeshError('unavailable', 'the stream is closed')
  }

  /** Stops reading, so that the peer's writing stalls in the end. */
  pause(): void {
    if (!this.#open || this.#paused) return
    this.#paused = true
    this.#stream.pause()
  }

  resume(): void {
    if (!this.#open || !this.#paused) return
    this.#paused = false
    const rest = this.#rest
    this.#rest = undefined
    if (rest) this.#read(rest)
    if (this.#open && !this.#paused) this.#stream.resume()
  }

  /** Ends the stream at once, both ways; what is unsent is lost. */
  abort(reason: string): void {
    this.#end({ reason, fault: false })
  }

  #write(frames: readonly Uint8Array[]): boolean {
    const bytes = Buffer.allocUnsafe(frames.reduce((sum, frame) => sum + LENGTH_BYTES + frame.length, 0))
    let offset = 0
    for (const frame of frames) {
      offset = bytes.writeUInt32BE(frame.length, offset)
      bytes.set(frame, offset)
      offset += frame.length
    }
    try {
      this.#stream.send(bytes)
      return true
    } catch (error) {
      this.abort((error as Error).message)
      return false
    }
  }

  #read(chunk: Uint8Array): void {
    this.#heard = true
    let rest = chunk
    while (this.#open && rest.length > 0) {
      if (this.#paused) {
        this.#rest = rest
        return
      }
      rest = rest.subarray(this.#body ? this.#readBody(this.#body, rest) : this.#readHeader(rest))
    }
  }

  /** Both readers return how many of the bytes they took. */
  #readHeader(bytes: Uint8Array): number {
    const part = bytes.subarray(0, LENGTH_BYTES - this.#headerFilled)
    this.#header.set(part, this.#headerFilled)
    this.#headerFilled += part.length
    if (this.#headerFilled === LENGTH_BYTES) {
      const length = this.#header.readUInt32BE()
      if (length === 0 || length > this.#maxFrameBytes) {
        const reason = `a frame of ${length} bytes is outside 1 to ${this.#maxFrameBytes}`
        this.#end({ reason, fault: true })
      } else {
        this.#body = Buffer.allocUnsafe(length)
        this.#bodyFilled = 0
      }
    }
    return part.length
  }

  #readBody(body: Buffer, bytes: Uint8Array): number {
    const part = bytes.subarray(0, body.length - this.#bodyFilled)
    body.set(part, this.#bodyFilled)
    this.#bodyFilled += part.length
    if (this.#bodyFilled === body.length) {
      this.#headerFilled = 0
      this.#body = undefined
      this.#ticksInFrame = 0
      this.#events.onFrame(body)
    }
    return part.length
  }

  #wake(): void {
    this.#room?.resolve()
    this.#room = undefined
  }

  #end(end: StreamEnd): void {
    if (!this.#open) return
    this.#open = false
    this.#wake()
    this.#body = undefined
    this.#rest = undefined
    this.#stream.abort(new Error(end.reason))
    this.#events.onEnd(end)
  }
}
