/**
 * When a slice drops so many sites that only a person may say so: over half of four or more. One accident may arrive in
 * pieces, so what was served a minute ago counts. Pure but for the time given; the reconciler asks before each apply.
 */

import { settingsOf, sitesKey, type Problem, type Slice } from './core/slice.ts'
import { WITHDRAWN } from './nginx/applying/isolate.ts'
import type { Unit } from './nginx/rendering/unit.ts'

/** From this many sites on, dropping over half of them needs a confirmation. */
const SITES_MIN = 4
/** Longer than edits made together take to arrive one after the other. */
const WINDOW_MS = 60_000

/** The slice without the sites that rendering or policy takes away whole: they go like those that were deleted. */
export function remainderOf(slice: Slice, units: readonly Unit[], problems: readonly Problem[]): Slice {
  const withdrawn = problems.filter(({ code }) => WITHDRAWN.has(code))
  if (withdrawn.length === 0) return slice
  const rendered = new Set(units.map(({ path }) => path))
  const gone = new Set(withdrawn.filter(({ path }) => !rendered.has(path)).map(pathOf))
  const stays = (one: { readonly path: string }) => !gone.has(one.path)
  return { resources: slice.resources.filter(stays), problems: slice.problems.filter(stays), target: slice.target }
}

export class ShrinkGuard {
  /** Sites served at the beginning of the window, and since. */
  #seen: ReadonlySet<string> = new Set()
  #until = Number.NEGATIVE_INFINITY

  /**
   * Why this slice drops too much to be applied without a person's word; undefined when it does not.
   * @param served paths of the sites that serve
   * @param now monotonic, ms
   */
  reason(slice: Slice, served: readonly string[], now: number): string | undefined {
    if (now >= this.#until) {
      this.#seen = new Set()
      this.#until = now + WINDOW_MS
    }
    this.#seen = new Set([...this.#seen, ...served])
    const present = new Set([...slice.resources, ...slice.problems].map(pathOf))
    const dropped = [...this.#seen].filter((path) => !present.has(path))
    if (this.#seen.size < SITES_MIN || dropped.length * 2 <= this.#seen.size) return undefined
    if (settingsOf(slice).confirmShrink === sitesKey(slice)) {
      // What is left is where the next one begins.
      this.#seen = new Set(served.filter((path) => present.has(path)))
      return undefined
    }
    const when = this.#seen.size === served.length ? 'are served' : 'were served a minute ago'
    return `the slice drops ${dropped.length} of the ${this.#seen.size} sites that ${when}; the last good generation stays`
  }
}

function pathOf({ path }: { readonly path: string }): string {
  return path
}
