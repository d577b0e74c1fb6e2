/**
 * nginx text of the error pages of one site: `error_page` lines for its locations, and the inner locations of the
 * pages. A page has no error pages itself, so that its own failure never loops. Pure; called by render-site.ts.
 */

import { pagesInForce, type ErrorPage, type PagesInForce } from '../../core/resources/error-pages.ts'
import type { Route, SiteSpec } from '../../core/resources/site.ts'
import { isGrpc } from '../../core/resources/upstream-tls.ts'
import { routeLogLines } from './access-log.ts'
import { block, when } from './lines.ts'
import { DRAIN_STATUSES } from './location.ts'
import { innerHeaderLines } from './proxy.ts'
import { literal, plain } from './quote.ts'
import { policiesFor, withheldHeaders, type SitePolicies } from './render-policy.ts'
import { responseHeaderLines } from './response-headers.ts'
import type { SiteMaps } from './site-maps.ts'
import { askedLine } from './traffic-log.ts'

/** Sent where the file of a page is not there. */
const MISSING = 'there is no page for this error\n'

/** The upstreams that pages of the site ask. */
export function pageUpstreamsOf(spec: SiteSpec): readonly string[] {
  return allPages(spec).flatMap(({ upstream }) => upstream ?? [])
}

/** The files of the host that pages of the site are. */
export function pageFilesOf(spec: SiteSpec): readonly string[] {
  return allPages(spec).flatMap(({ file }) => file ?? [])
}

function allPages({ inherited, errorPages, routes }: SiteSpec): readonly ErrorPage[] {
  const levels = [
    ...(inherited?.errorPages ?? []),
    errorPages,
    ...Object.values(routes).map((route) => route.errorPages),
  ]
  return levels.flatMap((level) => Object.values(level?.pages ?? {}))
}

function isGrpcRoute(route: Route | undefined): boolean {
  return route?.action === 'proxy' && isGrpc(route.proxy)
}

interface PagesPlace {
  /** Names of blocks by what the site calls the upstream. */
  readonly upstreams: ReadonlyMap<string, string>
  readonly policies: SitePolicies
}

export class ErrorPages {
  readonly #spec: SiteSpec
  readonly #maps: SiteMaps
  readonly #place: PagesPlace
  /** Paths of inner locations by whose page they are. */
  readonly #paths = new Map<string, string>()
  readonly #lines: string[] = []

  constructor(spec: SiteSpec, maps: SiteMaps, place: PagesPlace) {
    this.#spec = spec
    this.#maps = maps
    this.#place = place
  }

  /** The inner locations of all pages that were asked for so far. */
  get locations(): readonly string[] {
    return this.#lines
  }

  /** Whether an upstream's errors get pages: then its 418 must not meet the one that draining is done with. */
  intercepts(route: Route | undefined): boolean {
    const { intercept, pages } = this.#inForce(route)
    return intercept && pages.size > 0 && route?.action === 'proxy'
  }

  /** The lines of a location that answers for the route, or for none. */
  linesFor(route?: Route, id = ''): readonly string[] {
    return [
      ...this.#errorLines(this.#inForce(route).pages, route, id),
      ...when(this.intercepts(route), `${isGrpcRoute(route) ? 'grpc' : 'proxy'}_intercept_errors on;`),
    ]
  }

  /** The lines of a location that only sends requests on by the statuses of draining: for what fails before. */
  linesBefore(route?: Route, id = ''): readonly string[] {
    const { pages } = this.#inForce(route)
    return this.#errorLines(new Map([...pages].filter(([status]) => !DRAIN_STATUSES.includes(status))), route, id)
  }

  #inForce(route: Route | undefined): PagesInForce {
    const { inherited, errorPages } = this.#spec
    return pagesInForce([...(inherited?.errorPages ?? []), errorPages, route?.errorPages])
  }

  #errorLines(pages: PagesInForce['pages'], route: Route | undefined, id: string): readonly string[] {
    const targets = new Map<string, number[]>()
    // Routes that have nothing of their own to say share the site's pages.
    const said = [route?.responseHeaders, route?.errorPages, route?.policies, route?.withoutPolicies]
    const isOwn = said.some(Boolean) || this.#logLines(route).length > 0
    for (const [status, { key, page }] of pages) {
      const change = page.status === undefined ? '' : `=${page.status} `
      const target = `${change}${plain(this.#path(`${isOwn ? id : ''} ${key}`, page, route))}`
      targets.set(target, [...(targets.get(target) ?? []), status])
    }
    const lines = [...targets].map(([target, statuses]) => ({ target, statuses: statuses.toSorted((a, b) => a - b) }))
    return lines
      .toSorted((a, b) => (a.statuses[0] as number) - (b.statuses[0] as number))
      .map(({ target, statuses }) => `error_page ${statuses.join(' ')} ${target};`)
  }

  #path(key: string, page: ErrorPage, route: Route | undefined): string {
    // The page has the headers that every answer of the route has.
    const module = page.upstream === undefined ? undefined : 'proxy'
    const own = responseHeaderLines(route?.responseHeaders, this.#spec, module)
    const headers = [...own, ...policiesFor(this.#place.policies, route, module).headers]
    // nginx writes the line of the location that answers at last.
    const log = this.#logLines(route)
    // A body that was taken for the request is not too long for its page.
    return this.#define(key, () => ['client_max_body_size 0;', ...log, ...headers, ...this.#pageLines(page, log)])
  }

  #logLines(route: Route | undefined): readonly string[] {
    return route === undefined ? [] : routeLogLines(route, this.#spec, this.#maps)
  }

  #pageLines({ body, contentType, file, upstream, path }: ErrorPage, log: readonly string[]): readonly string[] {
    if (body !== undefined) return ['types { }', `default_type ${plain(contentType)};`, `return 200 ${literal(body)};`]
    if (file !== undefined) {
      const slash = file.lastIndexOf('/')
      const missing = this.#define(log.join(' '), () => [
        ...log,
        'types { }',
        'default_type text/plain;',
        `return 200 ${literal(MISSING)};`,
      ])
      const root = slash === 0 ? '/' : file.slice(0, slash)
      return [`root ${literal(root)};`, `try_files ${literal(file.slice(slash))} ${plain(missing)};`]
    }
    const target = this.#place.upstreams.get(upstream as string) as string
    return [
      askedLine(target),
      ...innerHeaderLines(withheldHeaders(this.#place.policies)),
      // The page is asked for whole, whatever the client asked.
      ...[
        'Content-Length',
        'Range',
        'If-Range',
        'If-Match',
        'If-None-Match',
        'If-Modified-Since',
        'If-Unmodified-Since',
      ].map((name) => `proxy_set_header ${name} "";`),
      'proxy_set_header X-Error-Status $status;',
      'proxy_set_header X-Original-URI $request_uri;',
      'proxy_pass_request_body off;',
      `proxy_pass http://${target}${path};`,
    ]
  }

  /** The path of an inner location, which is made the first time. */
  #define(key: string, linesOf: () => readonly string[]): string {
    const known = this.#paths.get(key)
    if (known !== undefined) return known
    const path = this.#maps.innerPath(`error-${this.#paths.size + 1}`)
    this.#paths.set(key, path)
    this.#lines.push(...block(`location = ${plain(path)}`, ['internal;', ...linesOf()]))
    return path
  }
}
