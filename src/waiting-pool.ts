/**
 * Envelopes that wait for ancestors which are not known here, bounded in bytes for each peer and in all. Holds and lets go;
 * what may be stored is judged by the replica, its only user.
 */

import type { Envelope } from './core/envelope.ts'
import { syncItem } from './core/history.ts'
import type { PeerKey } from './ports.ts'

/** Counted beside the text: what parsed bodies and indexes cost at least. */
const OVERHEAD_BYTES = 1024

/** An envelope that waits, with whatever its owner wants back with it. */
export interface Waiting<T> {
  readonly envelope: Envelope
  /** Who sent it, and pays for the room it takes. */
  readonly peer: PeerKey | undefined
  readonly missing: ReadonlySet<string>
  readonly tag: T
}

export interface PoolLimits {
  /** Beyond it the oldest of this peer is dropped; sync brings it again. */
  readonly bytesPerPeer: number
  /** Beyond it the oldest of all is dropped. */
  readonly bytes: number
}

export class WaitingPool<T> {
  readonly #limits: PoolLimits
  /** By id and signers: of one with co-signatures several parts may wait, and a part that will be refused keeps none out. */
  readonly #entries = new Map<string, Waiting<T>>()
  readonly #ofPeer = new Map<PeerKey | undefined, { readonly items: Set<string>; bytes: number }>()
  readonly #waitingFor = new Map<string, Set<string>>()
  #bytes = 0

  constructor(limits: PoolLimits) {
    this.#limits = limits
  }

  get size(): number {
    return this.#entries.size
  }

  /** Bytes charged for all that waits. */
  get bytes(): number {
    return this.#bytes
  }

  /** The share of that which was sent by one peer. */
  bytesOf(peer: PeerKey | undefined): number {
    return this.#ofPeer.get(peer)?.bytes ?? 0
  }

  /** By its `syncItem`. */
  get(item: string): Waiting<T> | undefined {
    return this.#entries.get(item)
  }

  /** Takes an envelope in, unless it waits already. Drops the oldest when that takes too much room. */
  add(entry: Waiting<T>): void {
    const { envelope, peer, missing } = entry
    const item = syncItem(envelope)
    if (this.#entries.has(item)) return
    const account = this.#ofPeer.get(peer) ?? { items: new Set(), bytes: 0 }
    this.#entries.set(item, entry)
    this.#ofPeer.set(peer, account)
    account.items.add(item)
    account.bytes += chargeOf(envelope)
    this.#bytes += chargeOf(envelope)
    for (const id of missing) this.#waitingFor.set(id, (this.#waitingFor.get(id) ?? new Set()).add(item))
    while (account.bytes > this.#limits.bytesPerPeer) this.#drop(account.items.values().next().value as string)
    while (this.#bytes > this.#limits.bytes) this.#drop(this.#entries.keys().next().value as string)
  }

  /** Lets go of what waited for this envelope and now, as `isKnown` says, for nothing more. */
  release(id: string, isKnown: (id: string) => boolean): Waiting<T>[] {
    const ready = [...(this.#waitingFor.get(id) ?? [])]
      .map((item) => this.#entries.get(item) as Waiting<T>)
      .filter(({ missing }) => missing.values().every(isKnown))
    for (const { envelope } of ready) this.#drop(syncItem(envelope))
    return ready
  }

  #drop(item: string): void {
    const { envelope, peer, missing } = this.#entries.get(item) as Waiting<T>
    const account = this.#ofPeer.get(peer)
    this.#entries.delete(item)
    this.#bytes -= chargeOf(envelope)
    if (account !== undefined) {
      account.items.delete(item)
      account.bytes -= chargeOf(envelope)
      if (account.items.size === 0) this.#ofPeer.delete(peer)
    }
    for (const ancestor of missing) {
      const waiting = this.#waitingFor.get(ancestor)
      waiting?.delete(item)
      if (waiting?.size === 0) this.#waitingFor.delete(ancestor)
    }
  }
}

function chargeOf({ size }: Envelope): number {
  return size + OVERHEAD_BYTES
}
