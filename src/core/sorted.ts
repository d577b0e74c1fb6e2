/**
 * Long arrays sorted by path, of which few elements change from one time to the next: found by path, compared, and made
 * anew where they changed. Pure; only speed depends on it. Used by the state, the slice and rendering.
 */

interface Pathed {
  readonly path: string
}

/** Elements at the same place of two arrays. */
export interface Change<T> {
  readonly was: T
  readonly is: T
}

/** Beyond so many changes it is as quick to begin anew. */
const CHANGES_MAX = 64

/** The index of the first whose path is not before this one. */
export function placeOf(path: string, sorted: readonly Pathed[]): number {
  let [low, high] = [0, sorted.length]
  while (low < high) {
    const middle = (low + high) >> 1
    if ((sorted[middle] as Pathed).path < path) low = middle + 1
    else high = middle
  }
  return low
}

/** The index of the one with this path; undefined where there is none. */
export function indexOf(path: string, sorted: readonly Pathed[]): number | undefined {
  const place = placeOf(path, sorted)
  return sorted[place]?.path === path ? place : undefined
}

/** The elements that are not the same objects. Undefined where some came or went, or where more than CHANGES_MAX changed. */
export function changesOf<T extends Pathed>(
  before: readonly T[],
  after: readonly T[],
): readonly Change<T>[] | undefined {
  if (before.length !== after.length) return undefined
  const changes: Change<T>[] = []
  for (const [index, is] of after.entries()) {
    const was = before[index] as T
    if (was === is) continue
    if (was.path !== is.path || changes.length === CHANGES_MAX) return undefined
    changes.push({ was, is })
  }
  return changes
}

/** The array with these in the places of those of the same paths, which are all there. */
export function replaced<T extends Pathed>(sorted: readonly T[], others: readonly T[]): readonly T[] {
  const copy = [...sorted]
  for (const other of others) copy[placeOf(other.path, sorted)] = other
  return copy
}
