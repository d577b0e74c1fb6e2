/**
 * Which resources go beyond the quota of the grant that made them: the oldest are kept, whatever is over is not in force on
 * any node. A pure function of the accepted state, so every node leaves out the same. Called by slicing.ts.
 */

import { canonical } from './canonical.ts'
import type { ResourceState } from './document.ts'
import type { Envelope, GrantBody } from './envelope.ts'
import { perObject } from './memo.ts'

/** The grant that an edit exercises. */
export type GrantOf = (edit: string) => Envelope<GrantBody> | undefined

type Measure = 'resources' | 'fields' | 'bytes'

/**
 * A resource is charged to the grant that created it, with all of its fields whoever wrote them: its path and visible
 * fields as JSON make its bytes. In the order of creation, by claimed time and then id; one that does not fit any more is
 * left out, and a smaller one after it may fit.
 * @returns paths of what is left out, with why
 */
export function overQuota(resources: Iterable<ResourceState>, grantOf: GrantOf): ReadonlyMap<string, string> {
  const charged = new Map<string, { readonly grant: Envelope<GrantBody>; readonly states: ResourceState[] }>()
  const limitOf = limitBy(grantOf)
  for (const state of resources) {
    const grant = limitOf(state)
    if (grant === null) continue
    const account = charged.get(grant.id) ?? { grant, states: [] }
    account.states.push(state)
    charged.set(grant.id, account)
  }
  return new Map([...charged.values()].flatMap(({ grant, states }) => [...excessOf(grant, states)]))
}

/** The grant that a resource is charged to, if that has a quota; else null. Which it is never changes, and most have none. */
export const limitBy = perObject((grantOf: GrantOf) =>
  perObject(({ exists, created }: ResourceState) => {
    const grant = exists && created !== undefined ? grantOf(created.edit) : undefined
    return grant?.body.quota === undefined ? null : grant
  }),
)

function* excessOf({ id, body }: Envelope<GrantBody>, states: readonly ResourceState[]): Iterable<[string, string]> {
  const used: Record<Measure, number> = { resources: 0, fields: 0, bytes: 0 }
  for (const state of states.toSorted(olderFirst)) {
    const cost = costOf(state)
    const exceeded = (Object.keys(used) as Measure[]).find(
      (measure) => used[measure] + cost[measure] > (body.quota?.[measure] ?? Number.POSITIVE_INFINITY),
    )
    if (exceeded === undefined) for (const measure of Object.keys(used) as Measure[]) used[measure] += cost[measure]
    else yield [state.path, `is over the quota of grant ${id}: ${body.quota?.[exceeded]} ${exceeded}`]
  }
}

function costOf({ path, fields }: ResourceState): Record<Measure, number> {
  const json = canonical([path, [...fields]])
  return { resources: 1, fields: fields.size, bytes: Buffer.byteLength(json) }
}

function olderFirst(a: ResourceState, b: ResourceState): number {
  const [left, right] = [a.created, b.created]
  const byTime = (left?.at ?? 0) - (right?.at ?? 0) || compare(left?.edit ?? '', right?.edit ?? '')
  // One edit may create several.
  return byTime || compare(a.path, b.path)
}

function compare(a: string, b: string): number {
  return a === b ? 0 : a < b ? -1 : 1
}
