/**
 * Signs of foul play, for people: edits that peers withhold (agreement.ts), keys that sign in two places (forks.ts), node keys
 * that two processes use (key-sharing.ts). Gathers what these say for health and metrics; decides nothing. Built by node.ts.
 */

import { Agreement, witnessesOf } from './agreement.ts'
import { forkComplaints, forkersIn, type Forker } from './forks.ts'
import type { Alarm } from '../metrics.ts'
import type { Clock, Network, PeerKey } from '../ports.ts'
import type { Replica } from '../replica.ts'
import type { StatusRecord } from './status-record.ts'
import type { StatusTable } from './status.ts'
import type { Sync } from '../sync/sync.ts'

export interface AlarmsOptions {
  readonly own: PeerKey
  readonly clock: Clock
  readonly network: Pick<Network, 'connected'>
  readonly replica: Pick<Replica, 'state'>
  readonly status: Pick<StatusTable, 'complaints'>
  readonly sync: Pick<Sync, 'digest'>
  readonly isSettled: () => boolean
}

export class Alarms {
  readonly #options: AlarmsOptions
  readonly #agreement: Agreement

  constructor(options: AlarmsOptions) {
    const { own, clock, replica, sync, isSettled } = options
    this.#options = options
    this.#agreement = new Agreement({
      own,
      clock,
      witnesses: () => witnessesOf(replica.state),
      digest: () => sync.digest(),
      isSettled,
    })
  }

  /** To be called with every new status record. */
  hear(record: StatusRecord): void {
    this.#agreement.hear(record)
  }

  /** What is told of each, as this node's own trouble; nothing where all is well. */
  complaints(): Readonly<Record<Alarm, readonly string[]>> {
    const { network, status } = this.#options
    return {
      // What a node without connections misses is no riddle.
      withheld: network.connected.length === 0 ? [] : this.#agreement.complaints(),
      forks: forkComplaints(this.forkers()),
      shared_key: status.complaints(),
    }
  }

  forkers(): Forker[] {
    return forkersIn(this.#options.replica.state)
  }

  /** Other nodes whose word counts that held the same as this one lately. */
  get agreeing(): number {
    return this.#agreement.view().agreeing
  }
}
