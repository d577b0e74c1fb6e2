/**
 * Spreading messages over kept streams: a small one is pushed to every peer, a large one is announced by its hash and
 * pulled. A node passes on what its owner accepted, once, to the peers not known to have it. Best effort: whatever is
 * dropped here is found by anti-entropy. Free of libp2p, so that the in-memory network of the tests runs the same code.
 */

import { createHash } from 'node:crypto'
import type { Clock, GossipVerdict, PeerKey } from '../../ports.ts'

const PUSH = 1
const HAVE = 2
const WANT = 3
const HASH_BYTES = 32
/** Larger messages travel by hash, so that a node with ten peers does not receive them ten times. */
const PUSH_MAX_BYTES = 16 * 1024
/** What it holds at most of one channel, and what happens beyond. */
export const SPREAD_LIMITS = {
  /** Hashes remembered, so that a message is handled once; the oldest is forgotten and might be handled again. */
  seen: 16_384,
  /** Large messages kept to be pulled; the oldest is dropped, and who asks for it gets nothing. */
  keptBytes: 16 * 1024 * 1024,
  /** Messages whose verdict is awaited; arrivals are dropped. */
  judging: 1024,
  /** Announced messages that are being pulled; announcements are dropped. */
  wanted: 1024,
  /** Messages waiting to be passed on; they go at once. */
  passing: 256,
} as const
/**
 * How long an accepted message waits before it is passed on. Copies from others that arrive meanwhile need not be sent
 * back, and messages of one moment travel together: measured, a quarter less CPU for each delivery than without.
 */
const PASS_DELAY_MS = 1
/** A pull that is not answered in this time goes to the next peer that announced the same. */
const PULL_TIMEOUT_MS = 1000

export interface SpreadEvents {
  /** Hands frames to a peer; false when they were dropped. */
  send(peer: PeerKey, frames: readonly Uint8Array[]): boolean
  /** The owner's verdict on a message seen for the first time. Must not throw. */
  judge(from: PeerKey, payload: Uint8Array): Promise<GossipVerdict>
  /** The peer sent what no honest node sends. */
  onMalformed(from: PeerKey): void
}

interface Seen {
  /** Peers that sent or announced it: they need not hear of it from us. */
  readonly heldBy: Set<PeerKey>
}

/** What is to be told of one message, and to whom not. */
interface Passing extends Seen {
  readonly frame: Uint8Array
}

interface Wanted {
  readonly announcers: PeerKey[]
  cancelTimeout: () => void
}

export class Spread {
  readonly #clock: Clock
  readonly #events: SpreadEvents
  readonly #peers = new Set<PeerKey>()
  readonly #seen = new Map<string, Seen>()
  readonly #kept = new Map<string, Uint8Array>()
  readonly #wanted = new Map<string, Wanted>()
  #passing: Passing[] = []
  #cancelPass = () => {}
  #keptBytes = 0
  #judging = 0

  constructor(clock: Clock, events: SpreadEvents) {
    this.#clock = clock
    this.#events = events
  }

  /** What it holds now, by the names of its limits. */
  get footprint(): Readonly<Record<keyof typeof SPREAD_LIMITS, number>> {
    return {
      seen: this.#seen.size,
      keptBytes: this.#keptBytes,
      judging: this.#judging,
      wanted: this.#wanted.size,
      passing: this.#passing.length,
    }
  }

  addPeer(peer: PeerKey): void {
    this.#peers.add(peer)
  }

  removePeer(peer: PeerKey): void {
    this.#peers.delete(peer)
  }

  /** Sends a message to all peers; the number that it, or its announcement, was handed to. */
  publish(payload: Uint8Array): number {
    const hash = hashOf(payload)
    const { heldBy } = this.#remember(hash)
    return this.#tell([{ heldBy, frame: this.#tidings(hash, payload) }])
  }

  /** A frame of a peer. */
  onFrame(from: PeerKey, frame: Uint8Array): void {
    const body = frame.subarray(1)
    if (frame[0] === PUSH) return this.#onPush(from, body)
    if (body.length !== HASH_BYTES) return this.#events.onMalformed(from)
    const hash = Buffer.from(body).toString('base64')
    if (frame[0] === HAVE) this.#onHave(from, hash)
    else if (frame[0] === WANT) this.#onWant(from, hash)
    else this.#events.onMalformed(from)
  }

  /** Forgets everything and every timer. */
  clear(): void {
    for (const wanted of this.#wanted.values()) wanted.cancelTimeout()
    this.#cancelPass()
    this.#passing = []
    this.#peers.clear()
    this.#seen.clear()
    this.#kept.clear()
    this.#wanted.clear()
    this.#keptBytes = 0
  }

  #onPush(from: PeerKey, payload: Uint8Array): void {
    const hash = hashOf(payload)
    this.#unwant(hash)
    const seen = this.#seen.get(hash)
    if (seen) return void seen.heldBy.add(from)
    if (this.#judging >= SPREAD_LIMITS.judging) return
    void this.#judge(from, hash, payload)
  }

  async #judge(from: PeerKey, hash: string, payload: Uint8Array): Promise<void> {
    const seen = this.#remember(hash)
    seen.heldBy.add(from)
    this.#judging++
    const verdict = await this.#events.judge(from, payload)
    this.#judging--
    if (verdict === 'accept') this.#pass({ heldBy: seen.heldBy, frame: this.#tidings(hash, payload) })
    // Ignored now is not refused for ever: another copy may come when its ancestors are there.
    else if (verdict === 'ignore') this.#seen.delete(hash)
  }

  /** The frame that brings a message, or word of it. */
  #tidings(hash: string, payload: Uint8Array): Uint8Array {
    if (payload.length <= PUSH_MAX_BYTES) return encode(PUSH, payload)
    this.#keep(hash, payload)
    return encode(HAVE, Buffer.from(hash, 'base64'))
  }

  #pass(message: Passing): void {
    if (this.#passing.length === 0) this.#cancelPass = this.#clock.after(PASS_DELAY_MS, () => this.#passAll())
    this.#passing.push(message)
    if (this.#passing.length >= SPREAD_LIMITS.passing) this.#passAll()
  }

  #passAll(): void {
    this.#cancelPass()
    this.#tell(this.#passing.splice(0))
  }

  /** Tells each peer what it is not known to have; the number of peers that were told anything. */
  #tell(messages: readonly Passing[]): number {
    let count = 0
    for (const peer of this.#peers) {
      const news = messages.filter(({ heldBy }) => !heldBy.has(peer)).map(({ frame }) => frame)
      if (news.length > 0 && this.#events.send(peer, news)) count++
    }
    return count
  }

  #onHave(from: PeerKey, hash: string): void {
    const seen = this.#seen.get(hash)
    if (seen) return void seen.heldBy.add(from)
    const wanted = this.#wanted.get(hash)
    if (wanted) {
      if (!wanted.announcers.includes(from)) wanted.announcers.push(from)
      return
    }
    if (this.#wanted.size >= SPREAD_LIMITS.wanted) return
    this.#wanted.set(hash, { announcers: [from], cancelTimeout: () => undefined })
    this.#pull(hash)
  }

  #pull(hash: string): void {
    const wanted = this.#wanted.get(hash)
    const peer = wanted?.announcers.shift()
    if (!wanted || peer === undefined) return void this.#wanted.delete(hash)
    wanted.cancelTimeout = this.#clock.after(PULL_TIMEOUT_MS, () => this.#pull(hash))
    this.#events.send(peer, [encode(WANT, Buffer.from(hash, 'base64'))])
  }

  #unwant(hash: string): void {
    this.#wanted.get(hash)?.cancelTimeout()
    this.#wanted.delete(hash)
  }

  #onWant(from: PeerKey, hash: string): void {
    const payload = this.#kept.get(hash)
    if (payload) this.#events.send(from, [encode(PUSH, payload)])
  }

  #remember(hash: string): Seen {
    const seen = this.#seen.get(hash) ?? { heldBy: new Set() }
    this.#seen.set(hash, seen)
    if (this.#seen.size > SPREAD_LIMITS.seen) deleteOldest(this.#seen)
    return seen
  }

  #keep(hash: string, payload: Uint8Array): void {
    if (this.#kept.has(hash)) return
    this.#kept.set(hash, payload)
    this.#keptBytes += payload.length
    while (this.#keptBytes > SPREAD_LIMITS.keptBytes) this.#keptBytes -= deleteOldest(this.#kept)?.length ?? 0
  }
}

function hashOf(payload: Uint8Array): string {
  return createHash('sha256').update(payload).digest('base64')
}

function encode(type: number, body: Uint8Array): Uint8Array {
  const frame = Buffer.allocUnsafe(1 + body.length)
  frame[0] = type
  frame.set(body, 1)
  return frame
}

function deleteOldest<V>(map: Map<string, V>): V | undefined {
  for (const [key, value] of map) {
    map.delete(key)
    return value
  }
  return undefined
}
