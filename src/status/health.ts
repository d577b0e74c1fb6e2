/**
 * The one rule for a node's health, pure: what `/health`, status records, `meshctl status` and the gauges all show.
 * Error is for what stops traffic or writing; one bad edit must not take a zone out of a load balancer.
 */

import { isBeyondGrant } from '../core/slice.ts'
import type { Receipt } from '../receipt.ts'
import type { CertificateFacts } from '../served-certificates.ts'

export type HealthStatus = 'Running' | 'Degraded' | 'Error' | 'Unknown'

export interface Health {
  readonly status: HealthStatus
  /** One sentence: the most serious reason, or that all is well. */
  readonly msg: string
  /** All reasons, most serious first, and what is to be noted last; the latter alone when Running. */
  readonly reasons: readonly string[]
}

export interface HealthFacts {
  /** Reasons that mean Error: nginx does not serve, the store cannot be written. */
  readonly errors: readonly string[]
  /** Reasons that mean Degraded: the node serves, but not what it should, or cannot be sure. */
  readonly warnings: readonly string[]
  /** What has not happened yet, so that nothing can be said: first sync, first apply. */
  readonly pending: readonly string[]
  /** What people should know, and what says nothing of this node. */
  readonly notes: readonly string[]
}

export function healthOf({ errors, warnings, pending, notes }: HealthFacts): Health {
  const reasons = [...errors, ...warnings, ...pending]
  const status =
    errors.length > 0 ? 'Error' : warnings.length > 0 ? 'Degraded' : pending.length > 0 ? 'Unknown' : 'Running'
  return { status, msg: reasons[0] ?? 'all is well', reasons: [...reasons, ...notes] }
}

/** What is known of a node that its health depends on. */
export interface NodeFacts {
  /** Why the last write of the store failed. */
  readonly writeError: string | undefined
  readonly corruptRecords: number
  readonly authorsOverQuota: readonly string[]
  readonly hasMesh: boolean
  readonly isSettled: boolean
  readonly hasLostStore: boolean
  /** What is wrong with its place in the mesh. */
  readonly complaints: readonly string[]
  /** What others seem to do wrong. */
  readonly notes: readonly string[]
  /** Other nodes that policy grants, and connections with any. */
  readonly others: number
  readonly connections: number
  /** It has just started, and never had a connection. */
  readonly isStarting: boolean
  /** Null: it manages no nginx. Undefined: it has not looked yet. */
  readonly receipt: Receipt | null | undefined
  /** Directories that keep nginx's workers from their files. */
  readonly closedToWorkers: readonly string[]
  readonly certificates: Pick<CertificateFacts, 'expired' | 'expiring' | 'misnamed'>
}

/** Each fact in words and in its place, the first of each place as the most serious. */
export function factsOf(node: NodeFacts): HealthFacts {
  const { writeError, corruptRecords, authorsOverQuota, others } = node
  const errors: string[] = []
  const warnings: string[] = [...node.complaints]
  const pending: string[] = []
  const notes: string[] = [...node.notes]
  if (writeError !== undefined) errors.push(`the store cannot be written: ${writeError}`)
  if (!node.hasMesh) pending.push('no mesh yet: waiting for a peer that has the genesis')
  else if (!node.isSettled) pending.push('the first complete exchange with a peer is still to come')
  if (corruptRecords > 0)
    warnings.push(`damaged records of the store were left out, and peers refill them: ${corruptRecords}`)
  // Whose key it is, the log says: health is open to all.
  if (authorsOverQuota.length > 0)
    warnings.push(
      `authors have filled their share of the store, and no more is taken of them: ${authorsOverQuota.length}`,
    )
  if (others > 0 && node.connections === 0) {
    const place = node.isStarting ? pending : warnings
    place.push(`no connection with any other node (${others} known); edits made here wait`)
  }
  const { expired, expiring, misnamed } = node.certificates
  // Which, the log says.
  if (expired > 0) warnings.push(`certificates of sites have expired: ${expired}`)
  if (expiring > 0) notes.push(`certificates of sites expire within 14 days: ${expiring}`)
  if (misnamed > 0) notes.push(`sites have hosts that their certificates do not name: ${misnamed}`)
  if (node.receipt === undefined) pending.push('nginx has not been looked at yet')
  else if (node.receipt !== null) nginxFacts(node, node.receipt, { errors, warnings, pending, notes })
  return { errors, warnings, pending, notes }
}

function nginxFacts(
  { isSettled, hasLostStore, closedToWorkers }: NodeFacts,
  receipt: Receipt,
  { errors, warnings, pending, notes }: Record<keyof HealthFacts, string[]>,
): void {
  const { nginx, error, outcome, problemCount, live } = receipt
  if (!nginx.running) errors.push(`nginx does not run${error === null ? '' : `: ${error.message}`}`)
  else if (error !== null && outcome !== 'held') warnings.push(error.message)
  else if (error !== null) (isSettled || hasLostStore ? warnings : pending).push(error.message)
  const { reason, error: liveError } = live ?? NO_LANE
  if (reason !== null) notes.push(reason)
  if (liveError !== null) warnings.push(liveError.message)
  if (closedToWorkers.length > 0) {
    const closed = closedToWorkers.join(' ')
    warnings.push(
      `nginx’s workers cannot pass through ${closed}: reloads break connections and large requests fail; chmod o+x ${closed}, or set nginx.directory to another place`,
    )
  }
  const what = `${problemCount} of this node’s resources; see meshctl status`
  if (isShort(receipt)) warnings.push(`not served as written: ${what}`)
  else if (problemCount > 0) notes.push(`left out, being beyond the grants of their authors: ${what}`)
}

/** What is said where nothing is known of the lane yet. */
const NO_LANE = { reason: null, error: null }

/** Whether endpoints of this slice are proven to be in every worker, where they do not go through reloads. */
export function isLive({ live }: Pick<Receipt, 'live'>, target: string | null): boolean {
  if (live === null || live.lane === 'reload') return true
  return live.error === null && live.target === target && live.desired === live.applied
}

/** Whether this node serves less than what grants allow. What a receipt does not show is no better than the last that it does. */
export function isShort({ problems, isolated, problemCount }: Receipt): boolean {
  return problemCount > 0 && (isolated.length > 0 || problems.length === 0 || !problems.every(isBeyondGrant))
}
