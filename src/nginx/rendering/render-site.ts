/**
 * nginx text of one Site: a server block with a location and its drain twin for each route. Pure; called by render.ts,
 * which has settled the hosts, listeners and upstreams. Every value goes through quote.ts.
 */

import { PLANNED_HEADER } from '../../core/names.ts'
import { conditionsOf } from '../../core/resources/conditions.ts'
import { isSplit, upstreamsOf } from '../../core/resources/split.ts'
import type { StickyCookie } from '../../core/resources/upstream.ts'
import { isGrpc } from '../../core/resources/upstream-tls.ts'
import { groupRoutes, type Route, type RouteGroup, type SiteSpec } from '../../core/resources/site.ts'
import type { SliceResource } from '../../core/slice.ts'
import { routeLogLines, serverLogLines } from './access-log.ts'
import type { HostLayout } from './host-layout.ts'
import { ErrorPages } from './error-pages.ts'
import { block, directive, toText, when } from './lines.ts'
import { drainable, fixed, type Body, type Location } from './location.ts'
import { conditionRegex, groupTemplate, literal, plain, template, templateThen, variableThen } from './quote.ts'
import { ROUTE_VARIABLE } from './policies/cache.ts'
import { IDENTITY_VARIABLE } from './policies/policy-text.ts'
import { judgingPolicies, policiesFor, serverLinesOf, withheldHeaders, type SitePolicies } from './render-policy.ts'
import { bounded } from './regex.ts'
import { responseHeaderLines } from './response-headers.ts'
import { listenerKey } from './claims.ts'
import { proxyLines, type ProxyTls } from './proxy.ts'
import {
  hstsValue,
  listenLine,
  realClientLines,
  serverTlsLines,
  tlsFiles,
  type Http2,
  type ServerTls,
} from './server-tls.ts'
import { BROTLI } from './needs.ts'
import { SiteMaps } from './site-maps.ts'
import { askedLine } from './traffic-log.ts'
import type { Listener } from './unit.ts'

/** What render.ts settled about a site before its text is made. */
export interface SitePlace {
  readonly hosts: readonly string[]
  readonly listeners: readonly Listener[]
  /** Upstream block names by the name that a route refers to. */
  readonly upstreams: ReadonlyMap<string, string>
  /** By the name that a route refers to; of upstreams whose clients stay by a cookie. */
  readonly sticky: ReadonlyMap<string, StickyCookie>
  /** Names of blocks with an open circuit, among those that are passed to over TLS. */
  readonly open: ReadonlySet<string>
  readonly policies: SitePolicies
  /** By listenerKey; none for one without TLS. */
  readonly tls: ReadonlyMap<string, ServerTls>
  /** By ID of route; none for one whose proxy says nothing of TLS. */
  readonly proxyTls: ReadonlyMap<string, ProxyTls>
  readonly http2: Http2
  /** Shares of splits and maintenance change without a reload. */
  readonly isLive: boolean
  /** Those of siteModules. */
  readonly modules: readonly string[]
}

interface ServerPlace extends SitePlace {
  readonly maps: SiteMaps
  readonly host: HostLayout
  /** Of the listeners of this server. */
  readonly serverTls: ServerTls | undefined
}

interface RoutePlace extends ServerPlace {
  /** Names of headers that routes of the path ask for. */
  readonly judged: readonly string[]
}

export function renderSite(site: SliceResource<SiteSpec>, place: SitePlace, host: HostLayout): string {
  const { path } = site
  const maps = new SiteMaps(path)
  const servers = serverGroups(place).flatMap(({ listeners, tls: serverTls }) =>
    serverLines(site, { ...place, listeners, maps, host, serverTls }),
  )
  return toText([`# ${path}`, ...maps.lines, ...servers])
}

/** The listeners that are one server: all without TLS, and all with the same TLS; those with PROXY headers apart. */
function serverGroups({ listeners, tls }: SitePlace) {
  const tlsOf = (listener: Listener) => tls.get(listenerKey(listener))
  const groups = Map.groupBy(listeners, (listener) => {
    const own = tlsOf(listener)
    const isProxied = listener.proxyProtocol === true ? 'PROXY' : ''
    if (own === undefined) return isProxied
    return isProxied + JSON.stringify([own.spec, own.live, ...tlsFiles(own).map(({ name }) => name)])
  })
  return [...groups.values()].map((same) => ({ listeners: same, tls: tlsOf(same[0] as Listener) }))
}

function serverLines({ path, spec: told }: SliceResource<SiteSpec>, place: ServerPlace): readonly string[] {
  const { maps, host, serverTls } = place
  const names = place.hosts.filter((name) => name !== '*')
  const isDefault = place.hosts.includes('*')
  const http2 = place.http2 === 'listen' && serverTls?.spec.http2 === true
  const beginning = [
    ...place.listeners.map((listener) => listenLine(listener, isDefault, http2)),
    `server_name ${names.length > 0 ? names.map(plain).join(' ') : '_'};`,
    ...realClientLines(place.listeners[0] as Listener),
    `set $nxmesh_site ${literal(path)};`,
    // nginx ends the path there, and passes on the whole line: what guards look at must be what upstreams get.
    'if ($request_uri ~ "#") { return 400; }',
    // The daemon goes on counting, and learning of bad endpoints.
    ...serverLogLines(told, maps),
  ]
  if (serverTls === undefined && told.redirectToHttps) {
    const body = fixed([`return 308 ${template(`https://$host${portSuffix(told)}$request_uri`)};`])
    return block('server', [...beginning, ...drainable([{ match: '/', body }], host.drainFile)])
  }
  const spec = serverTls === undefined ? told : withHsts(told)
  const groups = groupRoutes(spec.routes).toSorted(compareGroups)
  const pages = new ErrorPages(spec, maps, place)
  const bodyOf = ([id, route]: readonly [string, Route], group: RouteGroup): Body =>
    routeBody(id, route, spec, { ...place, judged: headersOf(group) }, pages.linesFor(route, id))
  const whole = policiesFor(place.policies)
  const nothing = fixed(['return 404;'], [...whole.headers, ...pages.linesFor()], whole.guards)
  const locations = groups.map((group): Location => {
    const [first] = group.routes as [readonly [string, Route]]
    const match = matchOf(group)
    const isChosen = conditionsOf(first[1].when).length > 0
    const sole = isChosen ? undefined : first[1]
    if (sole !== undefined && !pages.intercepts(sole)) return { match, body: bodyOf(first, group) }
    // All routes of the path have the same limit.
    const limits = [...directive('client_max_body_size', first[1].maxBodySize), ...pages.linesBefore(sole, first[0])]
    if (sole !== undefined) return { match, bodies: [bodyOf(first, group)], limits }
    const bodies = [nothing, ...group.routes.map((each) => bodyOf(each, group))]
    return { match, ...maps.choiceOf(group), bodies, limits }
  })
  if (!groups.some(({ match, path }) => match === 'prefix' && path === '/')) {
    locations.push({ match: '/', body: nothing })
  }
  const { maintenance } = spec
  const isLive = place.isLive && maintenance !== undefined
  const isDown = isLive || maintenance?.enabled === true
  const downPath = maps.innerPath('maintenance')
  if (isDown) {
    const { lines, content } = maintenanceBody(maintenance, spec)
    // A judge would be asked in this very server, and so answered by this page.
    const { guards, headers } = policiesFor(place.policies, { withoutPolicies: judgingPolicies(place.policies) })
    const body = fixed(content, [...lines, ...headers], guards)
    locations.push({ match: `= ${plain(downPath)}`, body })
  }
  const { line, variable } = isLive
    ? maps.liveMaintenance(maintenance.allow ?? [])
    : { line: undefined, variable: isDown ? maps.outside(maintenance.allow ?? []) : '' }
  return block('server', [
    ...beginning,
    ...(serverTls === undefined ? [] : serverTlsLines(serverTls, isDefault, host, place.http2)),
    ...limitLines(spec, Object.values(spec.routes).some(isGrpcRoute)),
    ...directive('keepalive_timeout', spec.keepalive?.timeout),
    ...directive('keepalive_requests', spec.keepalive?.requests),
    ...compressionLines(spec, place.modules),
    // A rewrite breaks %2F, for a page that does not look at the path.
    ...when(line !== undefined, line ?? ''),
    ...when(isDown, `if ($${variable}) { rewrite ^ ${plain(downPath)} last; }`),
    ...snippetLines(spec.privileged?.serverSnippet),
    ...serverLinesOf(place.policies),
    ...drainable(locations, host.drainFile),
    ...pages.locations,
  ])
}

/** Nothing where https has its own port. */
function portSuffix({ listeners }: SiteSpec): string {
  const ports = Object.values(listeners).flatMap(({ port, tls }) => (tls === undefined ? [] : [port]))
  return ports.includes(443) ? '' : `:${Math.min(...ports)}`
}

function withHsts(spec: SiteSpec): SiteSpec {
  const { hsts, responseHeaders } = spec
  if (hsts === undefined) return spec
  // What the site itself says of this header counts.
  const set = { 'Strict-Transport-Security': hstsValue(hsts), ...responseHeaders?.set }
  return { ...spec, responseHeaders: { ...responseHeaders, set } }
}

function isGrpcRoute(route: Route): boolean {
  return route.action === 'proxy' && isGrpc(route.proxy)
}

/** The order of the text; among regexes it is the order in which nginx tries them, by the first route of each. */
function compareGroups(a: RouteGroup, b: RouteGroup): number {
  const byMatch = MATCH_ORDER[a.match] - MATCH_ORDER[b.match]
  if (byMatch !== 0) return byMatch
  if (a.match !== 'regex') return a.path < b.path ? -1 : 1
  const [[aOrder, aId], [bOrder, bId]] = [firstOf(a), firstOf(b)]
  return aOrder - bOrder || (aId < bId ? -1 : 1)
}

function firstOf({ routes }: RouteGroup): readonly [order: number, id: string] {
  const places = routes.map(([id, { order }]): [number, string] => [order, id])
  return places.toSorted(([aOrder, aId], [bOrder, bId]) => aOrder - bOrder || (aId < bId ? -1 : 1))[0] as [
    number,
    string,
  ]
}
const MATCH_ORDER = { exact: 0, prefix: 1, regex: 2 }

function matchOf({ match, path, caseSensitive }: RouteGroup): string {
  if (match === 'exact') return `= ${plain(path)}`
  if (match === 'prefix') return plain(path)
  return `${caseSensitive ? '~' : '~*'} ${plain(bounded(path))}`
}

/** Names of headers that routes of the path ask for. */
function headersOf({ routes }: RouteGroup): readonly string[] {
  return routes.flatMap(([, { when: conditions }]) => Object.keys(conditions?.headers ?? {}))
}

function routeBody(id: string, route: Route, spec: SiteSpec, place: RoutePlace, pages: readonly string[]): Body {
  const { guards, headers, proxying } = policiesFor(place.policies, route, upstreamModule(route))
  const lines = [
    ...limitLines(route, isGrpcRoute(route)),
    ...routeLogLines(route, spec, place.maps),
    ...responseHeaderLines(route.responseHeaders, spec, upstreamModule(route)),
    ...stickyLines(route, place),
    ...headers,
    ...pages,
    ...when(upstreamModule(route) === 'proxy', ...routeLines(id, proxying), ...proxying),
    ...snippetLines(ownValue(spec.privileged?.routeSnippets, id)),
  ]
  const isFixed = route.action === 'redirect' || route.action === 'return'
  return {
    guards: [...certificateLines(proxying, place), ...guards],
    lines,
    content: actionLines(id, route, spec, place),
    isFixed,
  }
}

/** Whoever shows a certificate is somebody to a cache, also where no policy wants one. */
function certificateLines(proxying: readonly string[], { serverTls }: ServerPlace): readonly string[] {
  const asks = proxying.some((line) => line.includes(`$${IDENTITY_VARIABLE}`))
  return when(asks && serverTls?.clientCa !== undefined, `set $${IDENTITY_VARIABLE} $ssl_client_fingerprint;`)
}

/** A cookie of each upstream that the request may reach, for who has none. */
function stickyLines(route: Route, { sticky, maps }: ServerPlace): readonly string[] {
  const cookies = route.action === 'proxy' ? upstreamsOf(route.proxy).flatMap((name) => sticky.get(name) ?? []) : []
  const variables = new Set(cookies.map((cookie) => maps.stickyCookie(cookie)))
  return [...variables].map((variable) => `add_header Set-Cookie $${variable} always;`)
}

/** The route's ID, where lines ask for it. */
function routeLines(id: string, lines: readonly string[]): readonly string[] {
  return when(
    lines.some((line) => line.includes(`{${ROUTE_VARIABLE}}`)),
    `set $${ROUTE_VARIABLE} ${literal(id)};`,
  )
}

function upstreamModule(route: Route): 'proxy' | 'grpc' | undefined {
  if (route.action !== 'proxy') return undefined
  return isGrpc(route.proxy) ? 'grpc' : 'proxy'
}

function actionLines(id: string, route: Route, spec: SiteSpec, place: RoutePlace): readonly string[] {
  switch (route.action) {
    case 'proxy': {
      const url = targetUrl(id, route, place)
      const { requestHeaders, judgedHeaders, proxying } = policiesFor(place.policies, route)
      const { sticky, force } = isSplit(route.proxy) ? route.proxy : {}
      const split = [sticky, force].flatMap((each) => each?.header ?? [])
      return [
        ...place.maps.settingOf(id),
        askedLine(url.slice(url.indexOf('://') + 3)),
        ...proxyLines(route, spec, {
          url,
          host: place.host,
          tls: place.proxyTls.get(id),
          knowsClients: place.serverTls?.clientCa !== undefined,
          requestHeaders,
          withheld: withheldHeaders(place.policies),
          judged: [...place.judged, ...judgedHeaders, ...split].toSorted(),
          isCached: proxying.length > 0,
        }),
      ]
    }
    case 'static': {
      const { root, index, spa } = route.static
      const fallback = `try_files $uri ${variableThen('uri', `/${index}`)} ${literal(`/${index}`)} =404;`
      return [`root ${literal(root)};`, ...(spa ? [fallback] : [`index ${literal(index)};`])]
    }
    case 'redirect': {
      const { to, regex, status, keepPath } = route.redirect
      if (regex !== undefined)
        return [
          `if ($request_uri ~ ${conditionRegex(bounded(regex))}) { return ${status} ${groupTemplate(to)}; }`,
          'return 404;',
        ]
      return [`return ${status} ${keepPath ? templateThen(to.replace(/\/+$/, ''), 'request_uri') : template(to)};`]
    }
    case 'return':
      return returnLines(route.return)
  }
}

function returnLines({ status, body, contentType }: (Route & { action: 'return' })['return']): readonly string[] {
  // Without the empty list nginx would go by the ending of the path. Without a body it has an error page of its own.
  if (body === '' && status >= 400) return [`return ${status};`]
  return ['types { }', `default_type ${plain(contentType)};`, `return ${status} ${literal(body)};`]
}

/** What answers in place of an upstream with an open circuit speaks no TLS. */
function targetUrl(id: string, { proxy }: Route & { action: 'proxy' }, place: ServerPlace): string {
  const { maps, upstreams, open, isLive } = place
  const target = maps.target(proxy, upstreams, isLive ? id : undefined)
  if (proxy.scheme === 'http' || open.has(target)) return `http://${target}`
  if (isGrpc(proxy)) return `${proxy.scheme}://${target}`
  const isSplit = target.startsWith('$')
  const passed = upstreamsOf(proxy).map((name) => upstreams.get(name) as string)
  const closed = passed.filter((name) => open.has(name)).toSorted()
  return isSplit && closed.length > 0 ? `$${maps.schemeOf(target, closed)}://${target}` : `https://${target}`
}

function compressionLines({ compression }: SiteSpec, modules: readonly string[]): readonly string[] {
  if (compression?.enabled !== true) return []
  // nginx warns of text/html, which is always one of them.
  const types = [...new Set(compression.types)].filter((type) => type !== 'text/html').toSorted()
  const lines = (name: string): string[] => [
    `${name} on;`,
    `${name}_min_length ${compression.minLength};`,
    ...when(types.length > 0, `${name}_types ${types.map(plain).join(' ')};`),
  ]
  const hasBrotli = modules.includes(BROTLI)
  // Behind another proxy too, and told to caches.
  return [...lines('gzip'), 'gzip_proxied any;', 'gzip_vary on;', ...(hasBrotli ? lines('brotli') : [])]
}

function maintenanceBody(maintenance: NonNullable<SiteSpec['maintenance']>, spec: SiteSpec) {
  const { retryAfter, body, contentType } = maintenance
  const lines = [
    'internal;',
    // The body of a request is thrown away, however long it is.
    'client_max_body_size 0;',
    ...responseHeaderLines(undefined, spec),
    `add_header Retry-After ${retryAfter} always;`,
    // Probes and the watch over 5xx let this pass.
    `add_header ${PLANNED_HEADER} 1 always;`,
  ]
  return { lines, content: ['set $nxmesh_planned 1;', ...returnLines({ status: 503, body, contentType })] }
}

function limitLines(
  { maxBodySize, timeouts }: Pick<Route | SiteSpec, 'maxBodySize' | 'timeouts'>,
  hasGrpc: boolean,
): readonly string[] {
  return [
    ...directive('client_max_body_size', maxBodySize),
    ...directive('proxy_connect_timeout', timeouts?.connect),
    ...directive('proxy_read_timeout', timeouts?.read),
    ...directive('proxy_send_timeout', timeouts?.send),
    ...when(hasGrpc, ...directive('grpc_connect_timeout', timeouts?.connect)),
    ...when(hasGrpc, ...directive('grpc_read_timeout', timeouts?.read)),
    ...when(hasGrpc, ...directive('grpc_send_timeout', timeouts?.send)),
  ]
}

/** As written, between line feeds, so that a comment at its end takes nothing with it. */
export function snippetLines(snippet: string | undefined): readonly string[] {
  return snippet === undefined ? [] : ['# privileged snippet', snippet.replace(/\n$/, '')]
}

export function ownValue(map: Readonly<Record<string, string>> | undefined, key: string): string | undefined {
  return map !== undefined && Object.hasOwn(map, key) ? map[key] : undefined
}
