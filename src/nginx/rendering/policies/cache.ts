/**
 * nginx text of the policy type `cache`: a directory and a zone, and what each proxy of a location keeps there. Purging
 * changes keys and nothing else, so that no zone is made anew, and what had the old keys ages away. Pure.
 */

import { requestVariable } from '../../../core/resources/conditions.ts'
import type { CacheSpec } from '../../../core/resources/policies/cache.ts'
import { bytesOf, isFault, parseTemplate } from '../../../core/resources/fields.ts'
import { block, when } from '../lines.ts'
import { IGNORED_HEADERS } from '../proxy.ts'
import { escapeRegex, keyTemplate, plain } from '../quote.ts'
import { IDENTITY_VARIABLE, type PolicyContext, type PolicyText } from './policy-text.ts'

/** The route's ID, for keys; render-site.ts sets it where a text uses it. */
export const ROUTE_VARIABLE = 'nxmesh_route'

/** Directories of caches, below nginx's own. */
export const CACHE_DIRECTORY = 'temp/cache_'

const IGNORED = {
  cacheControl: ['Cache-Control', 'X-Accel-Expires'],
  expires: ['Expires'],
  setCookie: ['Set-Cookie'],
  vary: ['Vary'],
}

export function renderCache(spec: CacheSpec, { scope }: PolicyContext): PolicyText {
  const { zoneSize, maxSize, inactive, valid = {}, ignore = [], stale = [], statusHeader } = spec
  const ignored = ignore.flatMap((each) => IGNORED[each]).toSorted()
  const skipped = skippedBy(spec).map((variable) => `$${variable}`)
  const reasons = stale.map((reason) => (/^\d/.test(reason) ? `http_${reason}` : reason)).toSorted()
  return {
    http: [
      `proxy_cache_path ${CACHE_DIRECTORY}${scope} levels=1:2 use_temp_path=off keys_zone=${scope}:${zoneSize} max_size=${maxSize} inactive=${inactive};`,
    ],
    adjustable: purgeLines(spec, scope),
    proxying: [
      `proxy_cache ${scope};`,
      `proxy_cache_key ${keyTemplate([`${scope}_purged`, 'nxmesh_site', ROUTE_VARIABLE, 'proxy_host', 'uri', 'args'], spec.key)};`,
      ...Object.entries(valid)
        .toSorted(([a], [b]) => (a < b ? -1 : 1))
        .map(([statuses, time]) => `proxy_cache_valid ${statuses.replaceAll(',', ' ')} ${time};`),
      `proxy_cache_bypass ${skipped.join(' ')};`,
      `proxy_no_cache ${skipped.join(' ')};`,
      // With those that nginx.conf has, whose line this one takes the place of.
      ...when(ignored.length > 0, `proxy_ignore_headers ${[...IGNORED_HEADERS, ...ignored].join(' ')};`),
      // Else whoever asks would get the cookies of who asked first.
      ...when(ignore.includes('setCookie'), 'proxy_hide_header Set-Cookie;'),
      ...when(reasons.length > 0, `proxy_cache_use_stale ${reasons.join(' ')};`),
      ...when(spec.backgroundUpdate, 'proxy_cache_background_update on;'),
      ...when(spec.lock, 'proxy_cache_lock on;', `proxy_cache_lock_timeout ${spec.lockTimeout};`),
      ...when(spec.revalidate, 'proxy_cache_revalidate on;'),
      `proxy_cache_min_uses ${spec.minUses};`,
      ...when(statusHeader, 'add_header X-Cache-Status $upstream_cache_status always;'),
    ],
    judgedHeaders: spec.bypass?.headers ?? [],
    keyVariables: variablesOf(spec.key),
    sharedBytes: bytesOf(zoneSize) as number,
    diskBytes: bytesOf(maxSize) as number,
  }
}

function variablesOf(key: string): readonly string[] {
  const parts = parseTemplate(key)
  return isFault(parts) ? [] : parts.flatMap((part) => ('variable' in part ? part.variable : []))
}

/** Variables of what a request must not have: a websocket is no answer, and what somebody has a right to is not everybody's. */
function skippedBy({
  authorized,
  bypass: { headers = [], cookies = [], query = [] } = {},
}: CacheSpec): readonly string[] {
  const asked = [
    ...headers.map((name) => requestVariable('http_', name)),
    ...cookies.map((name) => requestVariable('cookie_', name)),
    ...query.map((name) => requestVariable('arg_', name)),
  ]
  const own = authorized ? [] : ['http_authorization', IDENTITY_VARIABLE]
  return [...new Set(['http_upgrade', ...own, ...asked])].toSorted()
}

/** A variable with the numbers of all beginnings that a path has. */
function purgeLines({ purge = {} }: CacheSpec, scope: string): readonly string[] {
  const prefixes = Object.keys(purge).toSorted((a, b) => b.length - a.length || (a < b ? -1 : 1))
  const numbers = (path: string) => prefixes.filter((prefix) => path.startsWith(prefix)).map((prefix) => purge[prefix])
  // nginx takes the first that fits, which is the longest.
  return block(`map $request_uri $${scope}_purged`, [
    'default "";',
    ...prefixes.map((prefix) => `${plain(`~^${escapeRegex(prefix)}`)} ${numbers(prefix).join('.')};`),
  ])
}
