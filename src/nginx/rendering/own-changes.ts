/**
 * Whether what changed since the last rendering concerns nothing but the text of a few sites: most edits do, and need
 * not cost the work of thousands of others. Only speed depends on it, never an answer. Pure; called by render.ts and
 * live-state.ts.
 */

import { perObject } from '../../core/memo.ts'
import { isSite } from '../../core/slice.ts'
import { changesOf } from '../../core/sorted.ts'
import type { Site } from './claims.ts'
import { asksLive } from './live.ts'
import type { RenderInput } from './render-input.ts'
import { policyLevelsOf } from './render-policy.ts'
import { variableDemand } from './site-maps.ts'

/** The sites whose own text is all that may differ; undefined where there may be more. */
export function ownChanges(before: RenderInput, after: RenderInput): readonly Site[] | undefined {
  if (before.slice.problems !== after.slice.problems || !isAlike(before, after)) return undefined
  const sites: Site[] = []
  for (const { was, is } of changesOf(before.slice.resources, after.slice.resources) ?? [NOT_OWN]) {
    if (was === undefined || !isSite(was) || !isSite(is) || !isOwn(was, is)) return undefined
    sites.push(is)
  }
  return sites
}
const NOT_OWN = { was: undefined, is: undefined }

function isOwn(was: Site, is: Site): boolean {
  return sharedOf(was) === sharedOf(is) && !asksLive(was.spec) && !asksLive(is.spec)
}

/** All that anything else depends on: age, hosts, listeners, certificates, policies, variables. */
const sharedOf = perObject(({ created, spec }: Site) =>
  JSON.stringify([
    created.at,
    created.edit,
    spec.hosts,
    spec.listeners,
    spec.privileged?.serverSnippet,
    policyLevelsOf(spec),
    variableDemand(spec),
  ]),
)

/** Whether all that is no resource is the same. */
function isAlike(before: RenderInput, after: RenderInput): boolean {
  return Object.values(PARTS).every((partsOf) => {
    const [left, right] = [partsOf(before), partsOf(after)]
    return left.length === right.length && left.every((part, index) => part === right[index])
  })
}

/** All of it, as texts. */
const PARTS: Readonly<Record<keyof Omit<RenderInput, 'slice'>, (input: RenderInput) => readonly string[]>> = {
  capabilities: ({ capabilities }) => [JSON.stringify(capabilities)],
  host: ({ host }) => [JSON.stringify(host)],
  openCircuits: ({ openCircuits }) => [...openCircuits].toSorted(),
  ejected: ({ ejected }) => [...ejected].toSorted(),
  closedToStreams: ({ closedToStreams }) => [...closedToStreams].toSorted(),
  addresses: ({ addresses }) => [...addresses].flat(2),
  secrets: ({ secrets }) => [...secrets].flat(),
}
