/**
 * nginx text of the policy type `access`: a variable that tells who is refused, and a check in each location. An `if`
 * rather than allow and deny, since it comes before a `return`, and says in the access log who refused. Pure.
 */

import type { AccessSpec } from '../../../core/resources/policies/access.ts'
import { block } from '../lines.ts'
import { literal } from '../quote.ts'
import { networkLines } from '../site-maps.ts'
import type { PolicyContext, PolicyText } from './policy-text.ts'

export function renderAccess(spec: AccessSpec, { path, scope }: PolicyContext): PolicyText {
  const denied = new Set(spec.deny)
  const allowed = (spec.allow ?? []).filter((each) => !denied.has(each))
  return {
    http: block(`geo $${scope}_denied`, [
      `default ${spec.default === 'deny' ? 1 : 0};`,
      ...networkLines(denied, 1),
      ...networkLines(allowed, 0),
    ]),
    guards: [`if ($${scope}_denied) { set $nxmesh_refused ${literal(path)}; return 403; }`],
  }
}
