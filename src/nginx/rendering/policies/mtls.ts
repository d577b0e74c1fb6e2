/**
 * nginx text of the policy type `mtls`: a variable that tells whose certificate does not let them in, and a check in each
 * location. Over a listener that asks for no certificates nobody has one. Pure.
 */

import type { MtlsSpec } from '../../../core/resources/policies/mtls.ts'
import { block } from '../lines.ts'
import { isMet, NEEDS, unsupported } from '../needs.ts'
import { escapeRegex, literal, plain } from '../quote.ts'
import { IDENTITY_VARIABLE, type PolicyContext, type PolicyFault, type PolicyText } from './policy-text.ts'

export function renderMtls(
  { subjects }: MtlsSpec,
  { path, scope, capabilities }: PolicyContext,
): PolicyText | PolicyFault {
  if (!isMet(NEEDS.mtls, capabilities)) return unsupported(path, NEEDS.mtls, capabilities)
  // A map compares texts without regard to case, so that equality is told by an expression.
  const patterns = subjects?.toSorted().map((subject) => `~^SUCCESS:${escapeRegex(subject)}\\z`) ?? ['~^SUCCESS:']
  return {
    http: block(`map "$ssl_client_verify:$ssl_client_s_dn" $${scope}_stranger`, [
      'default 1;',
      ...[...new Set(patterns)].map((pattern) => `${plain(pattern)} 0;`),
    ]),
    guards: [
      `if ($${scope}_stranger) { set $nxmesh_refused ${literal(path)}; return 403; }`,
      `set $${IDENTITY_VARIABLE} 1;`,
    ],
  }
}
