/**
 * How peers behave: what each may send per second, and the faults that end in a ban. Outlives connections, so that
 * reconnecting does not wash a peer clean. It only judges; network.ts closes the connections of who is banned.
 */

import type { Clock, PeerKey } from '../../ports.ts'
import { type Rate, TokenBucket } from './token-bucket.ts'

/** A message costs one token and one more for each 4 KiB. Several times what an honest peer sends while it relays a burst. */
const MESSAGES: Rate = { perSecond: 500, burst: 4000 }
const BYTES_A_TOKEN = 4096
/** Ten faults at once, or one every ten seconds, are forgiven. */
const FAULTS: Rate = { perSecond: 0.1, burst: 10 }
const BAN_MS = 60_000
/** Peers remembered; beyond it the one unseen for longest is forgotten. */
const REMEMBERED_PEERS = 1024

/** What each fault costs. A peer over its rate is slowed first, and banned only when it goes on by the thousand. */
const FAULT_COST = { rejected: 1, malformed: 5, overRate: 0.005 } as const
export type Fault = keyof typeof FAULT_COST

interface Record {
  readonly messages: TokenBucket
  readonly faults: TokenBucket
  bannedUntilMs: number
}

export class Conduct {
  readonly #clock: Clock
  readonly #onBan: (peer: PeerKey, fault: Fault) => void
  readonly #records = new Map<PeerKey, Record>()

  constructor(clock: Clock, onBan: (peer: PeerKey, fault: Fault) => void) {
    this.#clock = clock
    this.#onBan = onBan
  }

  /** Whether the peer may send a message of this size now; if not, drop it. */
  admits(peer: PeerKey, bytes: number): boolean {
    if (this.#record(peer).messages.take(1 + bytes / BYTES_A_TOKEN, this.#clock.monotonic())) return true
    this.fault(peer, 'overRate')
    return false
  }

  fault(peer: PeerKey, fault: Fault): void {
    const now = this.#clock.monotonic()
    const record = this.#record(peer)
    if (record.bannedUntilMs > now || record.faults.take(FAULT_COST[fault], now)) return
    record.bannedUntilMs = now + BAN_MS
    this.#onBan(peer, fault)
  }

  banned(peer: PeerKey): boolean {
    return (this.#records.get(peer)?.bannedUntilMs ?? 0) > this.#clock.monotonic()
  }

  #record(peer: PeerKey): Record {
    const now = this.#clock.monotonic()
    const known = this.#records.get(peer)
    const record = known ?? {
      messages: new TokenBucket(MESSAGES, now),
      faults: new TokenBucket(FAULTS, now),
      bannedUntilMs: 0,
    }
    // Kept in order of use, so that the first is the one to forget.
    this.#records.delete(peer)
    this.#records.set(peer, record)
    if (this.#records.size > REMEMBERED_PEERS) {
      for (const oldest of this.#records.keys()) {
        this.#records.delete(oldest)
        break
      }
    }
    return record
  }
}
