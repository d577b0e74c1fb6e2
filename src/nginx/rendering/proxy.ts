/**
 * nginx text of a route that proxies: what goes to the upstream, and what becomes of its answer. Pure; called by
 * render-site.ts, which knows where requests go.
 */

import { PROXIED_HEADER } from '../../core/names.ts'
import type { Route, SiteSpec } from '../../core/resources/site.ts'
import { sortedEntries, when } from './lines.ts'
import { escapeRegex, plain, template } from './quote.ts'

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
  [PROXIED_HEADER, '1'],
]
/** `upgrade` when the client asks to switch protocols, else empty; main-conf.ts defines it. */
export const CONNECTION_VARIABLE = 'nxmesh_connection'

/** @param url where requests go: a scheme, and the name of an upstream's block or a variable that holds one. */
export function proxyLines(route: ProxyRoute, spec: SiteSpec, url: string): readonly string[] {
  const { scheme, stripPrefix, buffering, hostHeader } = route.proxy
  return [
    // (?s): a decoded line feed in the path must not keep the prefix from being taken off.
    ...when(stripPrefix, `rewrite ${plain(`(?s)^${escapeRegex(route.path)}(.*)$`)} /$1 break;`),
    ...proxyHeaderLines(route, spec),
    ...when(!buffering, 'proxy_buffering off;'),
    ...when(scheme === 'https', 'proxy_ssl_server_name on;', `proxy_ssl_name ${template(hostHeader)};`),
    `proxy_pass ${url};`,
  ]
}

/** Nothing when the route's headers are those that every proxied request has. */
function proxyHeaderLines(route: ProxyRoute, spec: SiteSpec): readonly string[] {
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
  for (const { set, remove } of [spec.requestHeaders ?? {}, route.requestHeaders ?? {}]) {
    for (const [name, value] of sortedEntries(set)) put(name, template(value))
    for (const name of remove ?? []) put(name, '""')
  }
  put(PROXIED_HEADER, '1')
  const own = [...headers.values()].map(([name, value]) => `proxy_set_header ${name} ${value};`)
  return own.join() === DEFAULT_HEADER_LINES.join() ? [] : own
}

export const DEFAULT_HEADER_LINES = PROXY_HEADERS.map(([name, value]) => `proxy_set_header ${name} ${value};`)
