/**
 * Whether this node holds what the mesh holds, so that an empty state means empty, and not that nothing has arrived yet. Says
 * why nothing may be applied before. Remembers it in a mark of the store. Built by node.ts; asked by sync, reconciler, health.
 */

import type { Log } from './log.ts'
import type { Membership } from './membership.ts'
import type { Store } from './ports.ts'
import type { Replica } from './replica.ts'

export interface SettlingOptions {
  readonly replica: Pick<Replica, 'state' | 'corruptRecords'>
  readonly membership: Pick<Membership, 'isAlone' | 'isRevoked' | 'places'>
  readonly store: Store
  readonly log: Log
  /** Called once the node has settled. */
  readonly onSettled: () => void
}

const SETTLED_MARK = 'settled'

export class Settling {
  readonly #options: SettlingOptions
  #isSettled = false
  #hasExchanged = false
  #isEmptyAtStart = true
  /** Whether the store knew nothing at start while nginx served sites; undefined until the reconciler has looked. */
  #lostStore: boolean | undefined

  constructor(options: SettlingOptions) {
    this.#options = options
  }

  /** To be called when the replica has read its store. */
  async start(): Promise<void> {
    const { replica, store } = this.#options
    this.#isEmptyAtStart = replica.state.history.resourcePaths().next().done === true
    // With records lost, what is left must not pass for all there is.
    this.#isSettled = replica.corruptRecords === 0 && (await store.getMark(SETTLED_MARK)) !== undefined
  }

  get isSettled(): boolean {
    return this.#isSettled
  }

  get hasLostStore(): boolean {
    return this.#lostStore === true
  }

  /** There was a complete exchange with a peer: what it has, this node has. */
  exchanged(): void {
    if (this.#hasExchanged && this.#isSettled) return
    this.#hasExchanged = true
    this.#lostStore = false
    const { store, log } = this.#options
    store.setMark(SETTLED_MARK, '1').catch((error: unknown) => {
      log.warn('that this node has settled could not be stored', { error })
    })
    this.#settle()
  }

  /** The only node has nobody to wait for, unless it sees that its own store has lost something. */
  settleWhenAlone(): void {
    const { membership, replica } = this.#options
    if (membership.isAlone && replica.corruptRecords === 0 && !this.hasLostStore) this.#settle()
  }

  /**
   * Why nothing new may be applied now, in words for people; undefined when it may.
   * @param served number of sites of the last good generation.
   */
  holdReason(served: number): string | undefined {
    const { membership } = this.#options
    if (membership.isRevoked) return 'this node’s grant was revoked: what it serves stays as it is'
    this.#lostStore ??= this.#isEmptyAtStart && served > 0 && !this.#hasExchanged
    if (this.#lostStore) {
      this.#isSettled = false
      return 'the store knew no resource at start, yet sites are served: was it lost? They stay until a peer of nodes[] has refilled it'
    }
    if (!this.#isSettled) return 'nothing is applied before the first complete exchange with a peer'
    const isStranger = membership.places().length === 0
    return isStranger && served > 0
      ? 'this node has no grant: what it serves stays as it is until it has one'
      : undefined
  }

  #settle(): void {
    if (this.#isSettled) return
    this.#isSettled = true
    this.#options.onSettled()
  }
}
