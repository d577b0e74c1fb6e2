/**
 * Which of some candidates can be taken together when some of them cannot: takes out whom a test's words name, halves what
 * they do not tell apart, and ends with a set that was tested as it is. Knows nothing of nginx; validator.ts asks.
 */

/** Why a test refuses, and whom its words name: nobody, when they do not tell. */
export interface Blame<T> {
  readonly reason: string
  readonly blamed: readonly T[]
  /** Whom they may mean, the likeliest first: such are tried apart from the others, and refused only when that shows it. */
  readonly suspected?: () => Iterable<readonly T[]>
}

export interface Search<T> {
  /** What speaks against taking these together, on what is there anyway; empty when they are accepted. */
  readonly test: (taken: readonly T[]) => Promise<readonly Blame<T>[]>
  /** When it is over, the search ends as soon as it has got anywhere. */
  readonly hasTime: () => boolean
}

export interface Found<T> {
  /** Accepted together, and tested as they are. All others were refused, or not told apart in time. */
  readonly taken: readonly T[]
  readonly refused: ReadonlyMap<T, string>
  /** What time did not allow for, in the groups in which to go on. */
  readonly left: readonly (readonly T[])[]
  /** What speaks against what is there anyway, with none of them; empty when nothing does. Else nothing is taken. */
  readonly base: readonly Blame<T>[]
}

/** After so many tests of one group that named somebody, what is left of it is halved: much of it may be fine. */
const NAMINGS_MAX = 4

interface Group<T> {
  readonly members: readonly T[]
  readonly namings: number
  /** The test that failed, of what this is a part of and all that was taken before. */
  readonly whole: { readonly size: number; readonly blames: readonly Blame<T>[] } | undefined
}

/**
 * Goes through the groups in their order, each on top of what was taken before it, so that a candidate comes after those
 * that it needs. Of candidates that fail each by itself it takes all good ones, in about two tests for each halving that
 * leads to a bad one; of those that fail only together it takes the first.
 */
export async function findGood<T>(groups: readonly (readonly T[])[], { test, hasTime }: Search<T>): Promise<Found<T>> {
  const taken: T[] = []
  const refused = new Map<T, string>()
  let base: readonly Blame<T>[] | undefined
  const pending = groups.flatMap((members) => groupOf(members))

  while (hasTime() || (taken.length === 0 && refused.size === 0)) {
    const group = pending.shift()
    if (group === undefined) break
    const { members, namings, whole } = group
    // With as many as in the whole that failed it is that whole again.
    const size = taken.length + members.length
    const blames = whole?.size === size ? whole.blames : await test([...taken, ...members])
    if (blames.length === 0) {
      taken.push(...members)
      base = blames
      continue
    }
    const named = members.filter((member) => blames.some(({ blamed }) => blamed.includes(member)))
    if (named.length === 0) {
      // Is it them at all?
      base ??= await test([])
      if (base.length > 0) break
    }
    const bad = members.length === 1 ? members : named
    for (const member of bad) refused.set(member, reasonFor(member, blames))
    const rest = members.filter((member) => !refused.has(member))
    const staysWhole = named.length > 0 && namings + 1 < NAMINGS_MAX
    const parts = staysWhole ? [rest] : partsOf(rest, blames[0]?.suspected?.() ?? [])
    const seen = rest.length === members.length ? { size, blames } : undefined
    pending.unshift(...parts.flatMap((part) => groupOf(part, staysWhole ? namings + 1 : 0, seen)))
  }
  base ??= await test([])
  return { taken, refused, left: pending.map(({ members }) => members), base }
}

function reasonFor<T>(member: T, blames: readonly Blame<T>[]): string {
  return (blames.find(({ blamed }) => blamed.includes(member)) ?? blames[0])?.reason ?? ''
}

/** None when there is nobody in it. */
function groupOf<T>(members: readonly T[], namings = 0, whole?: Group<T>['whole']): readonly Group<T>[] {
  return members.length === 0 ? [] : [{ members, namings, whole }]
}

/** Those beyond suspicion before the others, by the first that tells them apart; else halves. */
export function partsOf<T>(members: readonly T[], suspected: Iterable<readonly T[]>): readonly (readonly T[])[] {
  for (const group of suspected) {
    const dubious = new Set(group)
    const clear = members.filter((member) => !dubious.has(member))
    if (clear.length > 0 && clear.length < members.length)
      return [clear, members.filter((member) => dubious.has(member))]
  }
  return halvesOf(members)
}

/** Two, where there are two. */
export function halvesOf<T>(members: readonly T[]): readonly (readonly T[])[] {
  const middle = Math.ceil(members.length / 2)
  return [members.slice(0, middle), members.slice(middle)].filter((half) => half.length > 0)
}
