/** What the schemas find at fault with a part of a resource that an import would write. Pure. */

import { API_VERSION, parseDocument } from '../../core/resources/index.ts'
import type { Tree } from '../../core/resources/kind.ts'
import { asMeshError } from '../../errors.ts'

/** What a resource of this kind with this spec is refused for. */
export function faultOfSpec(kind: string, spec: Tree, name = 'it'): string | undefined {
  try {
    parseDocument({ apiVersion: API_VERSION, kind, metadata: { name }, spec })
    return undefined
  } catch (error) {
    return asMeshError(error).message.replace('spec.', '')
  }
}

/** Of a site with these fields. */
export function faultOfSite(fields: Tree): string | undefined {
  return faultOfSpec('Site', { hosts: ['*'], ...fields })
}

/** Of zone settings with these fields. */
export function faultOfSettings(fields: Tree): string | undefined {
  return faultOfSpec('ZoneSettings', fields, 'settings')
}

/** Of a site with this route; empty when there is none. */
export function faultOfRoute(route: Tree): string {
  return faultOfSite({ routes: { it: route } })?.replace('routes.it', 'a route:') ?? ''
}
