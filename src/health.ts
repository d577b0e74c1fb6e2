/**
 * The one rule for a node's health, pure: what `/health`, status records, `meshctl status` and the gauges all show.
 * Error is for what stops traffic or writing; one bad edit must not take a zone out of a load balancer.
 */

export type HealthStatus = 'Running' | 'Degraded' | 'Error' | 'Unknown'

export interface Health {
  readonly status: HealthStatus
  /** One sentence: the most serious reason, or that all is well. */
  readonly msg: string
  /** All reasons, most serious first; empty when Running. */
  readonly reasons: readonly string[]
}

export interface HealthFacts {
  /** Reasons that mean Error: nginx does not serve, the store cannot be written. */
  readonly errors: readonly string[]
  /** Reasons that mean Degraded: the node serves, but not what it should, or cannot be sure. */
  readonly warnings: readonly string[]
  /** What has not happened yet, so that nothing can be said: first sync, first apply. */
  readonly pending: readonly string[]
}

export function healthOf({ errors, warnings, pending }: HealthFacts): Health {
  const reasons = [...errors, ...warnings, ...pending]
  const status =
    errors.length > 0 ? 'Error' : warnings.length > 0 ? 'Degraded' : pending.length > 0 ? 'Unknown' : 'Running'
  return { status, msg: reasons[0] ?? 'all is well', reasons }
}
