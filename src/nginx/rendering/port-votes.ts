/**
 * How a port is used where nginx can use it in one way only and resources want several: each workspace has one vote.
 * Workspaces are what people are trusted with. Whoever may write in one makes as many resources there as they like, of
 * whatever age, but no workspace. Pure; called by claims.ts and stream-claims.ts.
 */

/** What a resource wants of a port. */
export interface Wish {
  readonly workspace: string
  readonly use: string
}

export interface Decision<W extends Wish> {
  /** The oldest of those that were voted for. */
  readonly winner: W
  /** The workspaces that voted for it. */
  readonly voters: ReadonlySet<string>
}

/**
 * A workspace votes for the use that most of its resources want, and the use with the most votes stays. Between equals, in
 * either step, that of the oldest: one that its own workspace outvotes counts no more.
 * @param oldestFirst at least one; a resource once for each use
 */
export function decide<W extends Wish>(oldestFirst: readonly W[]): Decision<W> {
  const byWorkspace = Map.groupBy(oldestFirst, ({ workspace }) => workspace)
  const votes = new Set([...byWorkspace.values()].map((own) => mostWanted(own)[0]))
  const cast = mostWanted(oldestFirst.filter((wish) => votes.has(wish)))
  return { winner: cast[0] as W, voters: new Set(cast.map(({ workspace }) => workspace)) }
}

/** Those with one use: the most; between equals the first. */
function mostWanted<W extends Wish>(wishes: readonly W[]): readonly W[] {
  const groups = [...Map.groupBy(wishes, ({ use }) => use).values()]
  return groups.reduce((most, group) => (group.length > most.length ? group : most))
}
