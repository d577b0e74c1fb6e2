/**
 * What the clients of the zero-drop benchmark count: requests, latencies, and failures by kind. Plain data, since it goes
 * from the process of the clients to the one that measures. Judges nothing.
 */

import { figuresOf, type Figures } from './measure.ts'

/**
 * connect: no connection. closed, reset: a request was sent, and the connection ended before a byte of its answer.
 * truncated: it ended within the answer. unannounced: it was closed while idle, and no answer had said `Connection: close`
 * (HTTP/2: no GOAWAY). wrong: another status or body than was due, or an echo that is not what was sent. malformed: not HTTP,
 * or two Connection headers. late: no answer in time. Nothing of it is tried again.
 */
export type FailureKind = 'connect' | 'closed' | 'reset' | 'truncated' | 'unannounced' | 'wrong' | 'malformed' | 'late'

export interface Counts {
  readonly requests: number
  readonly failed: number
  readonly failures: Readonly<Partial<Record<FailureKind, number>>>
  readonly connections: number
  /** HTTP/2: streams that the server said it had not touched (above the last stream of its GOAWAY), sent again. No failures. */
  readonly refused: number
  readonly latencyMs: Figures
}

export class Tally {
  #requests = 0
  #connections = 0
  #refused = 0
  #failures: Partial<Record<FailureKind, number>> = {}
  #latencies: number[] = []
  /** What failed last, for people. */
  readonly examples: string[] = []

  answered(latencyMs: number): void {
    this.#requests += 1
    this.#latencies.push(latencyMs)
  }

  /** `isRequest`: a request was lost, which counts as one; else a connection that had none under way. */
  failed(kind: FailureKind, about: string, isRequest = true): void {
    if (isRequest) this.#requests += 1
    this.#failures[kind] = (this.#failures[kind] ?? 0) + 1
    if (this.examples.length < EXAMPLES_MAX) this.examples.push(`${kind}: ${about}`)
  }

  connected(): void {
    this.#connections += 1
  }

  refused(): void {
    this.#refused += 1
  }

  /** The counts since the last call. */
  take(): Counts {
    const failed = Object.values(this.#failures).reduce((sum, count) => sum + count, 0)
    const counts = {
      requests: this.#requests,
      failed,
      failures: this.#failures,
      connections: this.#connections,
      refused: this.#refused,
      latencyMs: figuresOf(this.#latencies),
    }
    this.#requests = 0
    this.#connections = 0
    this.#refused = 0
    this.#failures = {}
    this.#latencies = []
    return counts
  }
}
const EXAMPLES_MAX = 20
