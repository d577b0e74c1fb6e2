/**
 * Who signs in two places at once: authors with several edits for one place of their chain, which one person with one chain
 * file does not make. For people alone: both sides stay, and policy judges each as ever. Asked by alarms.ts and the API.
 */

import type { Chain } from '../core/history.ts'
import type { MeshState } from '../core/state.ts'

/** An author of a key that is still in force: what a revoked one did is dealt with. */
export interface Forker {
  readonly author: string
  /** Edits in places that were taken, in all workspaces. */
  readonly forks: number
}

/** One may come of a chain file that was restored while a node lagged behind; who does it again has one key in two places. */
const REPEATED = 2

export function forkersIn(state: MeshState): Forker[] {
  const forks = new Map<string, number>()
  for (const chain of forkedChains(state)) forks.set(chain.author, (forks.get(chain.author) ?? 0) + chain.forks)
  return [...forks].map(([author, count]) => ({ author, forks: count }))
}

/** The chains in which a key that is in force forked. */
export function forkedChains({ history, policy }: MeshState): Chain[] {
  const roots = policy.rootSet()?.body.roots ?? []
  const isInForce = (author: string): boolean => roots.includes(author) || policy.activeGrants(author).length > 0
  return [...history.chains()].filter(({ forks, author }) => forks > 0 && isInForce(author))
}

/** Whether this author forked more often than a mishap explains. */
export function isRepeated({ forks }: Pick<Forker, 'forks'>): boolean {
  return forks >= REPEATED
}

/**
 * What is wrong, for people: nothing while each has forked once at most. Names no key: health is open to those who may read
 * nothing of its workspace.
 */
export function forkComplaints(forkers: readonly Forker[]): string[] {
  const repeated = forkers.filter(isRepeated).length
  if (repeated === 0) return []
  return [
    `keys that signed several times for one place of their chain: ${repeated}; stolen, or used on several machines? See meshctl log`,
  ]
}
