/**
 * nginx text of the policy type `cors`: a variable that holds the origin if it is a listed one, headers made of it, and the
 * answer to what browsers ask before a request, which stands before passwords are asked for. Pure.
 */

import type { CorsSpec } from '../../../core/resources/policies/cors.ts'
import { block, when } from '../lines.ts'
import { escapeRegex, literal, plain } from '../quote.ts'
import type { PolicyContext, PolicyText } from './policy-text.ts'

const HEADERS = ['Allow-Origin', 'Allow-Credentials', 'Allow-Methods', 'Allow-Headers', 'Expose-Headers', 'Max-Age']

export function renderCors(spec: CorsSpec, { scope }: PolicyContext): PolicyText {
  const origins = spec.origins.toSorted()
  const isOpen = origins.includes('*')
  const origin = `${scope}_origin`
  /** A variable with this text when the request comes from a listed origin; empty otherwise, so that nginx leaves the header out. */
  const forListed = (name: string, value: string) =>
    block(`map $${origin} $${scope}_${name}`, [`default ${literal(value)};`, '"" "";'])
  const forPreflight = (name: string, value: string) =>
    block(`map "$${scope}_preflight$${origin}" $${scope}_${name}`, ['default "";', `~^1. ${literal(value)};`])
  const listed = (header: string, name: string) => `add_header Access-Control-${header} $${scope}_${name} always;`
  const [headers, exposed] = [spec.headers, spec.exposedHeaders].map((names) => names.toSorted().join(', ')) as [
    string,
    string,
  ]
  return {
    http: [
      ...block(`map $http_origin $${origin}`, [
        'default "";',
        // Any at all, where one is told.
        ...(isOpen ? ['~. "*";'] : origins.map((each) => `${plain(originRegex(each))} $http_origin;`)),
      ]),
      ...block(`map "$request_method $http_origin $http_access_control_request_method" $${scope}_preflight`, [
        'default "";',
        '"~^OPTIONS [^ ]+ ." 1;',
      ]),
      ...when(spec.credentials, ...forListed('credentials', 'true')),
      ...when(exposed !== '', ...forListed('exposed', exposed)),
      ...forPreflight('methods', spec.methods.toSorted().join(', ')),
      ...when(headers !== '', ...forPreflight('headers', headers)),
      ...forPreflight('age', String(spec.maxAge)),
    ],
    guards: [`if ($${scope}_preflight) { return 204; }`],
    hiddenHeaders: HEADERS.map((header) => `Access-Control-${header}`),
    headers: [
      listed('Allow-Origin', 'origin'),
      ...when(spec.credentials, listed('Allow-Credentials', 'credentials')),
      ...when(exposed !== '', listed('Expose-Headers', 'exposed')),
      listed('Allow-Methods', 'methods'),
      ...when(headers !== '', listed('Allow-Headers', 'headers')),
      listed('Max-Age', 'age'),
      // Caches must not show the answer to one origin to another.
      ...when(!isOpen, 'add_header Vary Origin always;'),
    ],
  }
}

function originRegex(origin: string): string {
  const [scheme, rest] = origin.split('://') as [string, string]
  const host = rest.startsWith('*.') ? `[a-z0-9.-]+${escapeRegex(rest.slice(1))}` : escapeRegex(rest)
  return `~^${scheme}://${host}\\z`
}
