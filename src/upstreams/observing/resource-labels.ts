/**
 * Which sites and upstreams are told apart in metrics: the first that have requests, up to a limit, the rest together. One
 * that is gone leaves its place, and its series. Decides nothing else; traffic-metrics.ts uses it.
 */

import { OTHER } from '../../metrics.ts'

/** Of each kind. A site is 18 series, an upstream 25. */
export const RESOURCE_LABELS_MAX = 200

export class ResourceLabels {
  #known: ReadonlySet<string> = new Set()
  readonly #told = new Set<string>()

  /** The label of a resource; `other` where there is no place, or no such resource. */
  of(path: string): string {
    if (this.#told.has(path)) return path
    if (!this.#known.has(path) || this.#told.size >= RESOURCE_LABELS_MAX) return OTHER
    this.#told.add(path)
    return path
  }

  /** @returns labels that mean nothing any more */
  follow(paths: ReadonlySet<string>): readonly string[] {
    this.#known = paths
    const gone = [...this.#told].filter((path) => !paths.has(path))
    for (const path of gone) this.#told.delete(path)
    return gone
  }
}
