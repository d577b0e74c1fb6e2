/**
 * What one node holds of one upstream: which endpoints take no requests for now, and whether it is asked at all. Joins
 * probes, answers to clients and the circuit breaker, and keeps the rule that enough endpoints stay. Pure; time comes in
 * as monotonic ms. observer.ts owns one for each upstream.
 */

import { millisecondsOf } from '../../core/resources/fields.ts'
import type { UpstreamSpec } from '../../core/resources/upstream.ts'
import { afterProbe, UNCHECKED, type CheckRule, type CheckState } from './checks.ts'
import { Circuit, type CircuitRule, type CircuitState } from './circuit.ts'
import { Outliers, type OutlierRule } from './outliers.ts'

export interface JudgeRules {
  readonly check: CheckRule | undefined
  readonly outliers: OutlierRule | undefined
  readonly circuit: CircuitRule | undefined
  /** When less than this share of the endpoints is well, all are used. */
  readonly panicPercent: number
}

/** How much longer than the first time a circuit stays open at most. */
const OPEN_GROWTH_MAX = 16

export function rulesOf(spec: UpstreamSpec): JudgeRules {
  const { healthCheck, outlierDetection: outliers, circuitBreaker: circuit } = spec
  return {
    check: healthCheck,
    outliers: outliers && {
      consecutive5xx: outliers.consecutive5xx,
      errorRatePercent: outliers.errorRatePercent,
      minRequests: outliers.minRequests,
      intervalMs: millisecondsOf(outliers.interval),
      baseMs: millisecondsOf(outliers.baseEjection),
      maxMs: Math.max(millisecondsOf(outliers.baseEjection), millisecondsOf(outliers.maxEjection)),
      maxPercent: outliers.maxEjectionPercent,
    },
    circuit: circuit && {
      errorRatePercent: circuit.errorRatePercent,
      minRequests: circuit.minRequests,
      windowMs: millisecondsOf(circuit.window),
      baseMs: millisecondsOf(circuit.openFor),
      maxMs: OPEN_GROWTH_MAX * millisecondsOf(circuit.openFor),
      halfOpenRequests: circuit.halfOpenRequests,
    },
    panicPercent: spec.panicThresholdPercent,
  }
}

/** Whether anything of the upstream is to be observed. */
export function isObserved({ healthCheck, outlierDetection, circuitBreaker }: UpstreamSpec): boolean {
  return healthCheck !== undefined || outlierDetection !== undefined || circuitBreaker !== undefined
}

export class Judge {
  #rules: JudgeRules
  #checks: ReadonlyMap<string, CheckState> = new Map()
  readonly #outliers = new Outliers()
  #circuit = new Circuit()

  constructor(rules: JudgeRules) {
    this.#rules = rules
  }

  /** @param addresses of the endpoints that may take requests; what is known of others is forgotten */
  follow(rules: JudgeRules, addresses: readonly string[]): void {
    this.#rules = rules
    const known = rules.check === undefined ? new Map<string, CheckState>() : this.#checks
    this.#checks = new Map(addresses.map((address) => [address, known.get(address) ?? UNCHECKED]))
    this.#outliers.follow(rules.outliers === undefined ? [] : addresses)
    if (rules.circuit === undefined) this.#circuit = new Circuit()
  }

  get addresses(): readonly string[] {
    return [...this.#checks.keys()]
  }

  /** What a health check of an endpoint found. */
  checked(address: string, passed: boolean): void {
    const state = this.#checks.get(address)
    if (state === undefined || this.#rules.check === undefined) return
    this.#checks = new Map(this.#checks).set(address, afterProbe(state, passed, this.#rules.check))
  }

  /** One answer of an endpoint to a client. @param startedMs when it was asked */
  answered(address: string, failed: boolean, startedMs: number, now: number): void {
    if (this.#rules.outliers !== undefined)
      this.#outliers.answered(address, failed, startedMs, now, this.#rules.outliers)
  }

  /** What became of one request of a client to the upstream, however many endpoints were asked. */
  served(failed: boolean, startedMs: number, now: number): void {
    if (this.#rules.circuit !== undefined) this.#circuit.answered(failed, startedMs, now, this.#rules.circuit)
  }

  /** What a round of probes found while the circuit was half open. */
  tried(passed: boolean, now: number): void {
    if (this.#rules.circuit !== undefined) this.#circuit.probed(passed, now, this.#rules.circuit)
  }

  /** Time has passed. */
  turn(now: number): void {
    if (this.#rules.outliers !== undefined) this.#outliers.turn(now, this.#rules.outliers)
    this.#circuit.turn(now)
  }

  get circuit(): CircuitState {
    return this.#circuit.state
  }

  /** Endpoints that are not well, whether or not enough others are; sorted. */
  get ailing(): readonly string[] {
    return [...new Set([...this.#failing, ...this.#outliers.ejected])].toSorted()
  }

  /** Endpoints that take no requests for now, sorted. Never all of them. */
  get ejected(): readonly string[] {
    return this.#unlessTooMany(this.ailing)
  }

  /** Endpoints that take no connections of streams for now, sorted. Never all of them. What clients got over HTTP says nothing of those. */
  get closedToStreams(): readonly string[] {
    return this.#unlessTooMany(this.#failing)
  }

  /** By their health checks; sorted. */
  get #failing(): readonly string[] {
    return [...this.#checks].flatMap(([address, { isHealthy }]) => (isHealthy ? [] : [address])).toSorted()
  }

  #unlessTooMany(ailing: readonly string[]): readonly string[] {
    const well = this.#checks.size - ailing.length
    return well === 0 || well * 100 < this.#rules.panicPercent * this.#checks.size ? [] : ailing
  }
}
