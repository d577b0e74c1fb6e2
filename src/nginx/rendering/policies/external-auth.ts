/**
 * nginx text of the policy type `externalAuth`: an internal location that asks, and what each guarded location makes of
 * the answer. Pure.
 */

import type { ExternalAuthSpec } from '../../../core/resources/policies/external-auth.ts'
import { isMet, NEEDS, unsupported } from '../needs.ts'
import { literal, plain, template } from '../quote.ts'
import { requestVariable } from '../../../core/resources/conditions.ts'
import { IDENTITY_VARIABLE, type PolicyContext, type PolicyFault, type PolicyText } from './policy-text.ts'

export function renderExternalAuth(spec: ExternalAuthSpec, context: PolicyContext): PolicyText | PolicyFault {
  const { path, scope, capabilities } = context
  if (!isMet(NEEDS.externalAuth, capabilities)) return unsupported(path, NEEDS.externalAuth, capabilities)
  const upstream = context.upstream(spec.upstream)
  if ('code' in upstream) return upstream
  const inner = `/${scope}/auth`
  const headers = (spec.headers ?? []).toSorted()
  return {
    judge: {
      path: inner,
      lines: [
        // Of the request that is asked about, whose body is not read here.
        'client_max_body_size 0;',
        'proxy_set_header Content-Length "";',
        'proxy_set_header X-Original-Method $request_method;',
        'proxy_set_header X-Original-URI $request_uri;',
        'proxy_pass_request_body off;',
        ...['connect', 'read', 'send'].map((each) => `proxy_${each}_timeout ${spec.timeout};`),
        `proxy_pass http://${upstream.block}${spec.path};`,
      ],
    },
    guards: [
      `set $nxmesh_credentials ${literal(path)};`,
      `set $${IDENTITY_VARIABLE} 1;`,
      `auth_request ${plain(inner)};`,
      ...headers.map(
        (name, index) => `auth_request_set $${scope}_${index} $${requestVariable('upstream_http_', name)};`,
      ),
      ...(spec.signin === undefined ? [] : [`error_page 401 =302 ${template(spec.signin)};`]),
    ],
    requestHeaders: headers.map((name, index) => [name, `$${scope}_${index}`] as const),
    needs: [upstream.path],
  }
}
