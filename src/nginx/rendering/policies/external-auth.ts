/**
 * nginx text of the policy type `externalAuth`: an internal location that asks, and what each guarded location makes of
 * the answer. Pure.
 */

import type { ExternalAuthSpec } from '../../../core/resources/policies/external-auth.ts'
import { block } from '../lines.ts'
import { DEFAULT_HEADER_LINES } from '../proxy.ts'
import { literal, plain, template } from '../quote.ts'
import { requestVariable } from '../../../core/resources/conditions.ts'
import type { PolicyContext, PolicyFault, PolicyText } from './policy-text.ts'

const MODULE = 'http_auth_request'

export function renderExternalAuth(spec: ExternalAuthSpec, context: PolicyContext): PolicyText | PolicyFault {
  const { path, scope } = context
  const missing = authRequestFault('externalAuth', context)
  if (missing !== undefined) return missing
  const upstream = context.upstream(spec.upstream)
  if ('code' in upstream) return upstream
  const inner = `/${scope}/auth`
  const headers = (spec.headers ?? []).toSorted()
  return {
    server: block(`location = ${plain(inner)}`, [
      'internal;',
      // Of the request that is asked about, whose body is not read here.
      'client_max_body_size 0;',
      ...DEFAULT_HEADER_LINES,
      'proxy_set_header Content-Length "";',
      'proxy_set_header X-Original-Method $request_method;',
      'proxy_set_header X-Original-URI $request_uri;',
      'proxy_pass_request_body off;',
      ...['connect', 'read', 'send'].map((each) => `proxy_${each}_timeout ${spec.timeout};`),
      `proxy_pass http://${upstream.block}${spec.path};`,
    ]),
    guards: [
      `set $nxmesh_credentials ${literal(path)};`,
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

/** What is wrong with asking for requests to be judged on this host. */
export function authRequestFault(what: string, { capabilities }: PolicyContext): PolicyFault | undefined {
  if (capabilities.modules.includes(MODULE)) return undefined
  const message = `${what} needs nginx with its module ${MODULE}; this host has ${capabilities.version}`
  return { code: 'unsupported', message, hint: `install the module ${MODULE} on this host` }
}
