/**
 * Whom to dial and when: keeps up to a target number of peers connected, listed ones always, and redials for ever with
 * jittered backoff. Knows no sockets: it is told how to dial, and of links that came up and went down.
 */

import { backoffMs } from '../../backoff.ts'
import type { Clock, KnownPeer, PeerKey, Random } from '../../ports.ts'

const BACKOFF_BASE_MS = 500
const BACKOFF_MAX_MS = 30_000
/** A link that lived this long was a success; a shorter one counts as a failed dial, or two sides could flap for ever. */
const STEADY_MS = 10_000
/** Spreads the dials of a mesh whose nodes all lost the same peer. */
const REDIAL_JITTER_MS = 250
/** Dials at once. */
const DIALS_MAX = 8
/**
 * How often a node that has its target of links dials one more peer at random and drops the oldest it dialled. Without
 * this, the halves of a long partition that filled their targets meanwhile would never look for each other again.
 */
const REMIX_MS = 60_000

export interface DiallerOptions {
  readonly clock: Clock
  readonly random: Random
  /** Links to have; listed peers are dialled beyond it. */
  readonly targetPeers: number
  /** Resolves when a link is up. */
  readonly dial: (peer: KnownPeer) => Promise<void>
  readonly hangUp: (peer: PeerKey) => void
}

interface Known {
  peer: KnownPeer
  /** Failures in a row. */
  failures: number
  notBeforeMs: number
  dialling: boolean
}

interface Up {
  readonly sinceMs: number
  /** Whether this side dialled it. */
  readonly dialled: boolean
}

export class Dialler {
  readonly #options: DiallerOptions
  readonly #known = new Map<PeerKey, Known>()
  readonly #up = new Map<PeerKey, Up>()
  #cancelWake = () => {}
  #cancelRemix = () => {}
  #running = false

  constructor(options: DiallerOptions) {
    this.#options = options
  }

  start(): void {
    if (this.#running) return
    this.#running = true
    this.#scheduleRemix()
    this.#dialDue()
  }

  stop(): void {
    this.#running = false
    this.#cancelWake()
    this.#cancelRemix()
    this.#up.clear()
  }

  /** Replaces the known peers. A peer with new addresses is tried at once; links of peers that are gone stay. */
  setKnown(peers: readonly KnownPeer[]): void {
    const before = new Map(this.#known)
    this.#known.clear()
    for (const peer of peers) {
      const known = before.get(peer.key) ?? { peer, failures: 0, notBeforeMs: 0, dialling: false }
      if (known.peer.addresses.join() !== peer.addresses.join()) known.notBeforeMs = 0
      known.peer = peer
      this.#known.set(peer.key, known)
    }
    this.#dialDue()
  }

  /** A link with the peer is up. */
  onUp(key: PeerKey): void {
    const dialled = this.#known.get(key)?.dialling ?? false
    this.#up.set(key, { sinceMs: this.#options.clock.monotonic(), dialled })
  }

  /** The last link with the peer is gone. */
  onDown(key: PeerKey): void {
    const up = this.#up.get(key)
    this.#up.delete(key)
    const known = this.#known.get(key)
    if (known && up) {
      const now = this.#options.clock.monotonic()
      if (now - up.sinceMs >= STEADY_MS) {
        known.failures = 0
        known.notBeforeMs = now + this.#options.random() * REDIAL_JITTER_MS
      } else {
        this.#backOff(known)
      }
    }
    this.#dialDue()
  }

  #dialDue(): void {
    if (!this.#running) return
    const { clock, targetPeers } = this.#options
    const now = clock.monotonic()
    const due = this.#shuffled((known) => known.notBeforeMs <= now)
    let dialling = this.#dialling()
    for (const known of due) {
      if (dialling >= DIALS_MAX) break
      if (!known.peer.listed && this.#up.size + dialling >= targetPeers) continue
      dialling++
      void this.#dial(known)
    }
    this.#scheduleWake(now)
  }

  async #dial(known: Known): Promise<void> {
    known.dialling = true
    try {
      await this.#options.dial(known.peer)
    } catch {
      this.#backOff(known)
    } finally {
      known.dialling = false
    }
    this.#dialDue()
  }

  #backOff(known: Known): void {
    known.failures++
    const { clock, random } = this.#options
    known.notBeforeMs = clock.monotonic() + backoffMs(known.failures, BACKOFF_BASE_MS, BACKOFF_MAX_MS, random)
  }

  /** Wakes when the next peer that may be dialled is due; at the target only listed ones may. */
  #scheduleWake(now: number): void {
    this.#cancelWake()
    const full = this.#up.size + this.#dialling() >= this.#options.targetPeers
    let next = Infinity
    for (const known of this.#known.values()) {
      if (this.#idle(known) && known.notBeforeMs > now && (known.peer.listed || !full))
        next = Math.min(next, known.notBeforeMs)
    }
    if (next < Infinity) this.#cancelWake = this.#options.clock.after(next - now, () => this.#dialDue())
  }

  #scheduleRemix(): void {
    const { clock, random } = this.#options
    this.#cancelRemix = clock.after(REMIX_MS * (0.5 + random()), () => {
      this.#remix()
      this.#scheduleRemix()
    })
  }

  #remix(): void {
    const { targetPeers, hangUp } = this.#options
    if (this.#up.size < targetPeers) return
    const [stranger] = this.#shuffled(() => true)
    if (stranger) void this.#dial(stranger)
    const ours = [...this.#up].filter(([key, up]) => up.dialled && !this.#known.get(key)?.peer.listed)
    const oldest = ours.toSorted(([, a], [, b]) => a.sinceMs - b.sinceMs)[0]
    if (oldest && ours.length > targetPeers) hangUp(oldest[0])
  }

  #idle(known: Known): boolean {
    return !known.dialling && !this.#up.has(known.peer.key)
  }

  #dialling(): number {
    let count = 0
    for (const known of this.#known.values()) if (known.dialling) count++
    return count
  }

  /** Peers to dial that pass the filter: listed first, else in random order. */
  #shuffled(filter: (known: Known) => boolean): Known[] {
    const ranked = [...this.#known.values()]
      .filter((known) => this.#idle(known) && filter(known))
      .map((known) => ({ known, rank: this.#options.random() - (known.peer.listed ? 1 : 0) }))
    return ranked.toSorted((a, b) => a.rank - b.rank).map(({ known }) => known)
  }
}
