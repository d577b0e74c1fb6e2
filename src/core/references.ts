/**
 * What a name in a resource means: the nearest resource of a kind and name, from the zone of whoever refers to it
 * outward. Pure; called by the slice, and by the renderers of whatever refers to others.
 */

import { resourcePath, zoneAndAncestors, type ResourceName } from './names.ts'

export interface Referrer {
  readonly path: string
  readonly name: ResourceName
}

interface Missing {
  readonly path: string
  readonly code: 'reference'
  readonly message: string
  readonly hint: string
}

/** @param known paths of all resources that there are for this node */
export function nearest(
  { name: { workspace, zone } }: Referrer,
  kind: string,
  name: string,
  known: { has(path: string): boolean },
): ResourceName | undefined {
  return zoneAndAncestors(zone)
    .map((outer) => ({ workspace, zone: outer, kind, name }))
    .find((resource) => known.has(resourcePath(resource)))
}

/** The problem of a name that means nothing. @param kind as in YAML */
export function missing({ path, name: { workspace, zone } }: Referrer, kind: string, name: string): Missing {
  const hint = `create ${article(kind)} ${kind} ${name} in workspace ${workspace} and zone ${zonesOf(zone)}`
  return { path, code: 'reference', message: `there is no ${kind.toLowerCase()} ${name}`, hint }
}

/** Where a name of that zone is looked up, in words. */
export function zonesOf(zone: string): string {
  return zoneAndAncestors(zone).join(' or ')
}

function article(kind: string): string {
  return /^[AEIOU]/.test(kind) ? 'an' : 'a'
}
