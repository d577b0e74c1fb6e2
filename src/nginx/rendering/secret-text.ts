/** The text of a Secret that a name in a resource means. Pure; called by the renderers of whatever refers to secrets. */

import { resourcePath } from '../../core/names.ts'
import { nearest, zonesOf, type Referrer } from '../../core/references.ts'
import type { Problem } from '../../core/slice.ts'

/** How a problem with what is sealed begins, or goes on. */
export const CANNOT_OPEN = 'this node cannot open the secret'

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
  const message = `${CANNOT_OPEN} ${name} of zone ${found.zone}, or it holds no text`
  return { path, code: 'reference', message, hint: `whoever can open it runs: meshctl secret reseal ${name}` }
}
