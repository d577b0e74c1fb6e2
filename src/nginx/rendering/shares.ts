/**
 * Divides what a node has little of among workspaces, so that nobody can use up another's part by asking for more, or by
 * claiming to have been there first. Pure; called for listeners and for the points of consistent hashing.
 */

export interface Demand {
  readonly key: string
  readonly workspace: string
  readonly cost: number
}

/**
 * The keys that get what they demand. Workspaces take turns by what each has had so far; within one, and between equal
 * ones, the order of the demands counts. What does not fit any more is passed over.
 * @param limit of the sum of costs; a key demanded by several costs once
 */
export function shareOut(demands: readonly Demand[], limit: number): ReadonlySet<string> {
  // Most often there is enough.
  if (demands.reduce((sum, { cost }) => sum + cost, 0) <= limit) return new Set(demands.map(({ key }) => key))
  const sums = new Map<string, number>()
  const turns = demands.map(({ key, workspace, cost }) => {
    const turn = (sums.get(workspace) ?? 0) + cost
    sums.set(workspace, turn)
    return { key, cost, turn }
  })
  const granted = new Set<string>()
  let left = limit
  for (const { key, cost } of turns.toSorted((a, b) => a.turn - b.turn)) {
    if (granted.has(key) || cost > left) continue
    granted.add(key)
    left -= cost
  }
  return granted
}
