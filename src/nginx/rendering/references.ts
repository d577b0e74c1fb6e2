/**
 * What a name in a resource means: the nearest resource of a kind and name, from the zone of whoever refers to it
 * outward; and the text of a Secret that is meant so. Pure; called by the renderers of whatever refers to others.
 */

import { resourcePath, zoneAndAncestors } from '../../core/names.ts'
import type { Problem, SliceResource } from '../../core/slice.ts'

type Referrer = Pick<SliceResource, 'path' | 'name'>

/** @param known paths of all resources that there are for this node */
export function nearest(
  { name: { workspace, zone } }: Referrer,
  kind: string,
  name: string,
  known: ReadonlySet<string>,
) {
  return zoneAndAncestors(zone)
    .map((outer) => ({ workspace, zone: outer, kind, name }))
    .find((resource) => known.has(resourcePath(resource)))
}

/** @param kind as in YAML */
export function missing({ path, name: { workspace, zone } }: Referrer, kind: string, name: string): Problem {
  const hint = `create ${article(kind)} ${kind} ${name} in workspace ${workspace} and zone ${zonesOf(zone)}`
  return { path, code: 'reference', message: `there is no ${kind.toLowerCase()} ${name}`, hint }
}

/** The text of the Secret that is meant. @param secrets texts of those that this node can open, by path */
export function secretText(
  referrer: Referrer,
  name: string,
  known: ReadonlySet<string>,
  secrets: ReadonlyMap<string, string>,
): string | Problem {
  const { path } = referrer
  const found = nearest(referrer, 'secret', name, known)
  if (found === undefined) {
    const { workspace, zone } = referrer.name
    const hint = `seal one in workspace ${workspace} and zone ${zonesOf(zone)}: meshctl secret set ${name} -z ${zone}`
    return { path, code: 'reference', message: `there is no secret ${name}`, hint }
  }
  const text = secrets.get(resourcePath(found))
  if (text !== undefined) return text
  const message = `this node cannot open the secret ${name} of zone ${found.zone}, or it holds no text`
  return { path, code: 'reference', message, hint: `whoever can open it runs: meshctl secret reseal ${name}` }
}

function zonesOf(zone: string): string {
  return zoneAndAncestors(zone).join(' or ')
}

function article(kind: string): string {
  return /^[AEIOU]/.test(kind) ? 'an' : 'a'
}
