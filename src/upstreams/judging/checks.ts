/**
 * Whether an endpoint is well by the probes that it was sent: results in a row decide, so that one that is lost, or
 * passes by chance, changes nothing. Pure; judge.ts keeps one state for each endpoint.
 */

export interface CheckRule {
  /** Results in a row that change the state. */
  readonly healthyThreshold: number
  readonly unhealthyThreshold: number
}

export interface CheckState {
  readonly isHealthy: boolean
  /** Results in a row that speak against it. */
  readonly against: number
}

/** Nothing is known, which is no reason to take an endpoint out. */
export const UNCHECKED: CheckState = { isHealthy: true, against: 0 }

export function afterProbe({ isHealthy, against }: CheckState, passed: boolean, rule: CheckRule): CheckState {
  if (passed === isHealthy) return { isHealthy, against: 0 }
  const needed = isHealthy ? rule.unhealthyThreshold : rule.healthyThreshold
  return against + 1 >= needed ? { isHealthy: !isHealthy, against: 0 } : { isHealthy, against: against + 1 }
}

/** When the next probe is due, ms from now: the interval, up to `jitterPercent` shorter or longer. */
export function probePauseMs(intervalMs: number, jitterPercent: number, random: () => number): number {
  return intervalMs * (1 + (jitterPercent / 100) * (2 * random() - 1))
}
