/**
 * Whether nobody talks to this node because it was revoked: while it has no connection it asks one peer after the other, as a
 * guest, and takes in the revocation if there is one, or what made it void: who was cut off by a rogue comes back so. Decides
 * nothing; the replica checks what is learnt. Built by node.ts.
 */

import { asMeshError } from '../errors.ts'
import { learnStanding } from './joiner.ts'
import type { Log } from '../log.ts'
import type { Clock, KnownPeer, Network } from '../ports.ts'
import type { Replica } from '../replica.ts'

/** How long a node is without a connection before it asks, and between two questions. Ticks come every 5 s: each one asks. */
const ASK_EVERY_MS = 4_000

export interface StandingOptions {
  readonly network: Pick<Network, 'connected' | 'visit'>
  readonly replica: Pick<Replica, 'submit' | 'state' | 'meshId'>
  readonly clock: Clock
  readonly log: Log
  /** Whom it may ask. */
  readonly peers: () => readonly KnownPeer[]
  readonly isRevoked: () => boolean
}

export class Standing {
  readonly #options: StandingOptions
  #aloneSinceMs: number | undefined
  #turn = 0
  #isAsking = false

  constructor(options: StandingOptions) {
    this.#options = options
  }

  /** To be called now and then. */
  tick(): void {
    const { network, replica, clock } = this.#options
    const now = clock.monotonic()
    if (network.connected.length > 0 || replica.meshId === undefined) this.#aloneSinceMs = undefined
    else if (this.#aloneSinceMs === undefined) this.#aloneSinceMs = now
    else if (!this.#isAsking && now - this.#aloneSinceMs >= ASK_EVERY_MS) {
      this.#aloneSinceMs = now
      void this.#ask()
    }
  }

  async #ask(): Promise<void> {
    const { network, replica, log, peers, isRevoked } = this.#options
    const wasRevoked = isRevoked()
    const all = peers()
    const peer = all[this.#turn++ % Math.max(1, all.length)]
    if (peer === undefined) return
    this.#isAsking = true
    try {
      const visit = await network.visit(peer)
      try {
        const standing = await learnStanding(visit, replica)
        const found = { peer: peer.key, standing: standing ?? 'no answer' }
        if (!wasRevoked && isRevoked()) log.warn('a peer says that this node was revoked, and why', found)
        else log.debug('a peer was asked what this node is', found)
      } finally {
        await visit.close()
      }
    } catch (error) {
      log.debug('a peer could not be asked what this node is', { peer: peer.key, error: asMeshError(error).message })
    } finally {
      this.#isAsking = false
    }
  }
}
