/**
 * nginx text of a route that proxies: what goes to the upstream, and what becomes of its answer. Pure; called by
 * render-site.ts, which knows where requests go.
 */

import { PROXIED_HEADER } from '../../core/names.ts'
import { requestVariable } from '../../core/resources/conditions.ts'
import type { Proxy } from '../../core/resources/proxy.ts'
import { longestFirst } from '../../core/resources/rewriting.ts'
import type { Route, SiteSpec } from '../../core/resources/site.ts'
import { isEncrypted } from '../../core/resources/upstream-tls.ts'
import type { KeyPairFiles } from './certificates.ts'
import type { HostLayout } from './host-layout.ts'
import { directive, sortedEntries, when } from './lines.ts'
import type { PolicyHeader } from './policies/policy-text.ts'
import { escapeRegex, literalThen, plain, rewriteTarget, template } from './quote.ts'
import { bounded } from './regex.ts'
import { filePath } from './unit-files.ts'
import type { UnitFile } from './unit.ts'

type ProxyRoute = Route & { action: 'proxy' }

/** Headers of every proxied request; main-conf.ts sets them once, a location only where its own differ. */
export const PROXY_HEADERS: readonly (readonly [name: string, value: string])[] = [
  ['Host', '$host'],
  ['Connection', '""'],
  ['X-Real-IP', '$remote_addr'],
  ['X-Forwarded-For', '$proxy_add_x_forwarded_for'],
  ['X-Forwarded-Proto', '$scheme'],
  ['X-Forwarded-Host', '$host'],
  ['X-Forwarded-Port', '$server_port'],
  // What a client says of its certificate itself is never passed on.
  ['X-Client-Verify', '""'],
  ['X-Client-Subject', '""'],
  ['X-Client-Fingerprint', '""'],
  [PROXIED_HEADER, '1'],
]
/** Of a client that was asked for a certificate: SUCCESS or NONE, its distinguished name, the SHA-1 of its certificate. */
const CLIENT_HEADERS: readonly (readonly [name: string, value: string])[] = [
  ['X-Client-Verify', '$ssl_client_verify'],
  ['X-Client-Subject', '$ssl_client_s_dn'],
  ['X-Client-Fingerprint', '$ssl_client_fingerprint'],
]
/** Of answers; with the first an upstream would choose a location of its site, past what guards it. */
export const IGNORED_HEADERS: readonly string[] = ['X-Accel-Redirect']

/** What nginx itself says to upstreams of these, whatever it was told; the latter where it keeps answers. */
const OWN_HEADERS = /^(?:content-length|transfer-encoding|te|keep-alive|expect|upgrade)$/i
const OWN_CACHE_HEADERS = /^(?:range|if-.*)$/i

/** gRPC is HTTP/2, which has none of them. */
const HTTP1_HEADERS: ReadonlySet<string> = new Set(['connection', 'upgrade'])

/** How a proxy and its upstream know each other, files found. */
export interface ProxyTls {
  readonly ca: UnitFile | undefined
  readonly own: KeyPairFiles | undefined
}

export interface ProxyPlace {
  /** Where requests go: a scheme, and the name of an upstream's block or a variable that holds one. */
  readonly url: string
  readonly host: HostLayout
  readonly tls: ProxyTls | undefined
  /** Whether clients were asked for a certificate. */
  readonly knowsClients: boolean
  /** Of the policies in force; nobody else sets these. */
  readonly requestHeaders: readonly PolicyHeader[]
  /** Names of headers that policies of the site set, here or elsewhere. */
  readonly withheld: readonly string[]
  /** Names of headers that decided how far the request came. */
  readonly judged: readonly string[]
  readonly isCached: boolean
}

/** Whose directives pass on to this. */
export function moduleOf(url: string): 'proxy' | 'grpc' {
  return url.startsWith('grpc') ? 'grpc' : 'proxy'
}
/** `upgrade` when the client asks to switch protocols, else empty; main-conf.ts defines it. */
export const CONNECTION_VARIABLE = 'nxmesh_connection'

export function proxyLines(route: ProxyRoute, spec: SiteSpec, place: ProxyPlace): readonly string[] {
  const { buffering, requestBuffering, maxTempFileSize } = route.proxy
  const module = moduleOf(place.url)
  return [
    ...rewriteLines(route),
    ...proxyHeaderLines(route, spec, place),
    ...when(!buffering && module === 'proxy', 'proxy_buffering off;'),
    ...when(!requestBuffering, 'proxy_request_buffering off;'),
    ...bufferLines(route.proxy.buffers),
    ...directive('proxy_max_temp_file_size', maxTempFileSize),
    ...retryLines(module, route.proxy.retries),
    ...answerLines(route.proxy),
    ...when(module === 'grpc', `grpc_ignore_headers ${IGNORED_HEADERS.join(' ')};`),
    ...when(isEncrypted(route.proxy), ...encryptionLines(route, place)),
    `${module}_pass ${place.url};`,
  ]
}

function encryptionLines({ proxy: { tls, hostHeader } }: ProxyRoute, place: ProxyPlace): readonly string[] {
  const { host, tls: files } = place
  const name = (directive: string) => `${moduleOf(place.url)}_ssl_${directive}`
  return [
    `${name('server_name')} on;`,
    `${name('name')} ${template(tls?.serverName ?? hostHeader)};`,
    ...(files?.ca === undefined
      ? []
      : [
          `${name('trusted_certificate')} ${filePath(host, files.ca)};`,
          `${name('verify')} on;`,
          `${name('verify_depth')} ${tls?.depth};`,
        ]),
    ...(files?.own === undefined
      ? []
      : [
          `${name('certificate')} ${filePath(host, files.own.certificate)};`,
          `${name('certificate_key')} ${filePath(host, files.own.key)};`,
        ]),
    // A session that another route began without verifying, or as somebody else, must not be resumed.
    ...when(files !== undefined, `${name('session_reuse')} off;`),
  ]
}

function rewriteLines({ path, proxy: { stripPrefix, replacePrefix, rewrite } }: ProxyRoute): readonly string[] {
  const prefix = replacePrefix ?? (stripPrefix ? '/' : undefined)
  // (?s): a decoded line feed in the path must not keep the prefix from being taken off.
  if (prefix !== undefined)
    return [`rewrite ${plain(`(?s)^${escapeRegex(path)}(.*)$`)} ${literalThen(prefix, '1')} break;`]
  if (rewrite === undefined) return []
  const { regex, replacement, keepQuery } = rewrite
  return [`rewrite ${plain(bounded(regex))} ${rewriteTarget(replacement, keepQuery)} break;`]
}

/** nginx refuses sizes that do not go together, and its defaults do not go with a larger one. */
function bufferLines(buffers: Proxy['buffers']): readonly string[] {
  if (buffers === undefined) return []
  const { size, count } = buffers
  return [
    `proxy_buffer_size ${size};`,
    `proxy_buffers ${count} ${size};`,
    `proxy_busy_buffers_size ${2 * Number.parseInt(size, 10)}k;`,
  ]
}

function retryLines(
  module: string,
  { attempts, timeout, on = [] }: NonNullable<Proxy['retries']> = {},
): readonly string[] {
  const reasons = on.map((reason) => (/^\d/.test(reason) ? `http_${reason}` : reason)).toSorted()
  return [
    ...when(reasons.length > 0, `${module}_next_upstream ${[...new Set(reasons)].join(' ')};`),
    ...directive(`${module}_next_upstream_tries`, attempts),
    ...directive(`${module}_next_upstream_timeout`, timeout),
  ]
}

/** What becomes of headers of the answer that name places as the upstream knows them. */
function answerLines({ redirects, cookies = {} }: Proxy): readonly string[] {
  const { domains, paths, secure, httpOnly, sameSite } = cookies
  const flags = [
    ...(secure === undefined ? [] : [secure ? 'secure' : 'nosecure']),
    ...(httpOnly === undefined ? [] : [httpOnly ? 'httponly' : 'nohttponly']),
    ...(sameSite === undefined ? [] : [`samesite=${sameSite}`]),
  ]
  return [
    ...longestFirst(redirects).map(([from, to]) => `proxy_redirect ${plain(from)} ${template(to)};`),
    ...longestFirst(domains).map(([from, to]) => `proxy_cookie_domain ${plain(from)} ${plain(to)};`),
    ...longestFirst(paths).map(([from, to]) => `proxy_cookie_path ${plain(from)} ${plain(to)};`),
    ...when(flags.length > 0, `proxy_cookie_flags ~ ${flags.join(' ')};`),
  ]
}

/** Nothing when the route's headers are those that every proxied request has. */
function proxyHeaderLines(
  route: ProxyRoute,
  spec: SiteSpec,
  { url, knowsClients, requestHeaders, withheld, judged, isCached }: ProxyPlace,
): readonly string[] {
  const { websocket, hostHeader } = route.proxy
  const headers = new Map(PROXY_HEADERS.map(([name, value]) => [name.toLowerCase(), [name, value]]))
  const put = (name: string, value: string): void => {
    headers.set(name.toLowerCase(), [name, value])
  }
  put('Host', template(hostHeader))
  if (websocket) {
    put('Upgrade', '$http_upgrade')
    put('Connection', `$${CONNECTION_VARIABLE}`)
  }
  // Of several headers of one name nginx before 1.23 looks at the first: the upstream gets what was looked at.
  for (const name of new Set(judged)) {
    const isOwn =
      headers.has(name.toLowerCase()) || OWN_HEADERS.test(name) || (isCached && OWN_CACHE_HEADERS.test(name))
    if (!isOwn) put(name, `$${requestVariable('http_', name)}`)
  }
  for (const name of withheld) if (!KNOWN_HEADERS.has(name.toLowerCase())) put(name, '""')
  for (const { set, remove } of [spec.requestHeaders ?? {}, route.requestHeaders ?? {}]) {
    for (const [name, value] of sortedEntries(set)) put(name, template(value))
    for (const name of remove ?? []) put(name, '""')
  }
  for (const [name, value] of PROXY_HEADERS) if (name.startsWith('X-Client-')) put(name, value)
  for (const [name, value] of knowsClients ? CLIENT_HEADERS : []) put(name, value)
  for (const [name, value] of requestHeaders) {
    if (value === undefined) headers.delete(name.toLowerCase())
    else put(name, value)
  }
  put(PROXIED_HEADER, '1')
  if (moduleOf(url) === 'grpc') {
    const kept = [...headers].filter(([name]) => !HTTP1_HEADERS.has(name))
    return kept.map(([, [name, value]]) => `grpc_set_header ${name} ${value};`)
  }
  const own = [...headers.values()].map(([name, value]) => `proxy_set_header ${name} ${value};`)
  return own.join() === DEFAULT_HEADER_LINES.join() ? [] : own
}

/** Of requests that a site makes by itself: to judges, for pages. */
export function innerHeaderLines(withheld: readonly string[]): readonly string[] {
  const foreign = withheld.filter((name) => !KNOWN_HEADERS.has(name.toLowerCase()))
  return [...DEFAULT_HEADER_LINES, ...foreign.map((name) => `proxy_set_header ${name} "";`)]
}

const KNOWN_HEADERS: ReadonlySet<string> = new Set(PROXY_HEADERS.map(([name]) => name.toLowerCase()))
export const DEFAULT_HEADER_LINES = PROXY_HEADERS.map(([name, value]) => `proxy_set_header ${name} ${value};`)
