/**
 * Whether this node sees what the mesh sees: how many of the other granted nodes have held the same envelopes lately, by the
 * digests in the status records that they sign. Peers can withhold edits and records; they cannot make an honest node agree
 * with a stale view. Half of the others is enough: with this node that is more than half, so one side of a partition at most
 * is content, and one node that is down alarms no mesh of three; as many colluders hide a stale view. For people alone:
 * decides nothing. Fed and asked by alarms.ts.
 */

import type { Envelope, GrantBody } from '../core/envelope.ts'
import { isRegistrar } from '../core/policy.ts'
import type { MeshState } from '../core/state.ts'
import type { Clock, PeerKey } from '../ports.ts'
import { claimsNow, type StatusRecord } from './status-record.ts'

export const AGREEMENT_TIMES = {
  /** Older agreement is none. Forty records: among so many one matches, even where edits are always on their way. */
  lostAfterMs: 10 * 60_000,
} as const

/**
 * The granted nodes whose word counts: all but those that only a registrar let in. That is a key on some machine, and whoever
 * steals it can make up any number of hosts, which agree with anything, or are never heard of.
 */
export function witnessesOf({ history, policy }: MeshState): PeerKey[] {
  const isOfRegistrar = ({ body }: Envelope<GrantBody>): boolean => {
    const exercised = history.get(body.grant)?.body
    return exercised?.type === 'grant' && isRegistrar(exercised)
  }
  return [...history.subjects()].filter((key) =>
    policy.activeGrants(key).some((grant) => grant.body.role === 'node' && !isOfRegistrar(grant)),
  )
}

export interface AgreementOptions {
  readonly own: PeerKey
  readonly clock: Clock
  /** The nodes whose word counts; this one may be among them. */
  readonly witnesses: () => readonly PeerKey[]
  /** Digest of all that this node holds. */
  readonly digest: () => string
  /** Whether this node holds what a peer held once; before, there is nothing to agree on. */
  readonly isSettled: () => boolean
}

/** When a node was heard of, and when it agreed: monotonic ms, for a node that is new here from then on. */
interface Heard {
  heardMs: number
  agreedMs: number
  /** When it last claimed a time that is not now. */
  skewedMs: number
}

/** Of the other nodes whose word counts. */
export interface AgreementView {
  /** Held the same as this one within the last minutes. */
  readonly agreeing: number
  /** Were heard of in that time, and held something else each time. */
  readonly differing: number
  /** Claimed other times than this node's clock shows: it is wrong, or theirs, or the records are old. */
  readonly skewed: number
  /** Were not heard of in that time. */
  readonly silent: number
  /** Since when fewer than half of them agree, ms; undefined while as many do. */
  readonly lostForMs: number | undefined
}

export class Agreement {
  readonly #options: AgreementOptions
  #heard = new Map<PeerKey, Heard>()

  constructor(options: AgreementOptions) {
    this.#options = options
  }

  /** To be called with every new status record. */
  hear({ node, at, digest }: Pick<StatusRecord, 'node' | 'at' | 'digest'>): void {
    const { clock } = this.#options
    const heard = this.#heard.get(node)
    if (heard === undefined) return
    const now = clock.monotonic()
    if (!claimsNow(at, clock)) return void (heard.skewedMs = now)
    heard.heardMs = now
    if (digest === this.#options.digest()) heard.agreedMs = now
  }

  view(): AgreementView {
    const now = this.#options.clock.monotonic()
    this.#follow(now)
    const isLate = (ms: number): boolean => now - ms > AGREEMENT_TIMES.lostAfterMs
    const all = [...this.#heard.values()]
    const agreed = all.map(({ agreedMs }) => agreedMs).toSorted((a, b) => b - a)
    // When the last of that half agreed which agreed most lately.
    const halfMs = agreed[Math.ceil(all.length / 2) - 1] ?? now
    const late = all.filter(({ agreedMs }) => isLate(agreedMs))
    const unheard = late.filter(({ heardMs }) => isLate(heardMs))
    const silent = unheard.filter(({ skewedMs }) => isLate(skewedMs)).length
    return {
      agreeing: all.length - late.length,
      differing: late.length - unheard.length,
      skewed: unheard.length - silent,
      silent,
      lostForMs: isLate(halfMs) ? now - halfMs : undefined,
    }
  }

  /** What is wrong, for people. */
  complaints(): string[] {
    const { agreeing, differing, skewed, silent, lostForMs } = this.view()
    if (lostForMs === undefined) return []
    const since = new Date(this.#options.clock.now() - lostForMs).toISOString()
    return [
      `since ${since} fewer than half of the other nodes hold what this one holds (${agreeing} of ${this.#heard.size}): ${differing} tell of edits that no connected peer hands over, ${skewed} speak by another clock, ${silent} are not heard of; is this node cut off from honest peers, or its clock wrong?`,
    ]
  }

  /** Keeps those whose word counts, and none else; one that is new here has its time to be heard of. */
  #follow(now: number): void {
    const { own, witnesses, isSettled } = this.#options
    const nodes = isSettled() ? witnesses().filter((node) => node !== own) : []
    this.#heard = new Map(
      nodes.map((node) => [node, this.#heard.get(node) ?? { heardMs: now, agreedMs: now, skewedMs: -Infinity }]),
    )
  }
}
