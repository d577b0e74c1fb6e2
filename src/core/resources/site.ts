/**
 * The kind Site: host names, listeners and routes. A route does exactly one thing, told by `action`; the branches of
 * other actions may lie in storage after a merge and are ignored. The path chooses first: an exact one wins, then the
 * first regex by `order`, then the longest prefix. Among routes of one path the one with the most conditions that hold
 * counts, then `order`, then the ID.
 */

import { z } from 'zod'
import { accessLogFields, accessLogPercent } from './access-log.ts'
import { contentType, fixedBody } from './body.ts'
import { compression } from './compression.ts'
import { conditions, conditionsOf } from './conditions.ts'
import { errorPages } from './error-pages.ts'
import { proxy, proxyFaults } from './proxy.ts'
import { judgeRedirect, redirect } from './rewriting.ts'
import {
  atMost,
  duration,
  integer,
  judgeRegex,
  key,
  labels,
  network,
  requestHeaders,
  responseHeaders,
  siteHost,
  size,
  text,
  timeouts,
  type Fault,
} from './fields.ts'
import { policyNames } from './policy.ts'
import type { Inherited } from './site-defaults.ts'
import { hsts, listener, listeningFaults, type SiteListener } from './listener.ts'
import { isGrpc } from './upstream-tls.ts'
import { isTree, type Kind, type Tree } from './kind.ts'
import { snippet } from './snippet.ts'
import { templateUse } from './template-use.ts'

const ACTIONS = ['proxy', 'static', 'redirect', 'return'] as const

/** Of all routes with one path: nginx looks at all of them together. */
const CONDITIONS_OF_PATH_MAX = 64

const filePath = /^(?!\/)(?!.*(?:^|\/)\.\.?(?:\/|$))[^\\]+$/
const staticFiles = z.strictObject({
  /** The directory whose files are served; the whole path of the request is looked up in it. */
  root: text((value) => {
    if (value.startsWith('/') && !/(?:^|\/)\.\.?(?:\/|$)/.test(value)) return undefined
    return { message: 'is not an absolute path', hint: 'write it like /srv/www, without . and ..' }
  }),
  index: text((value) => (filePath.test(value) ? undefined : { message: 'is not a file name below root' })).default(
    'index.html',
  ),
  /** Answers with root/index where no file is found: for applications that route in the browser. */
  spa: z.boolean().default(false),
})

const fixedReturn = z.strictObject({
  status: integer(200, 599).refine((status) => status < 300 || status > 399, {
    message: 'is a redirect',
    params: { hint: 'use redirect: {to, status} for 3xx' },
  }),
  body: fixedBody.default(''),
  contentType: contentType.default('text/plain; charset=utf-8'),
})

const anyRoute = {
  /** Begins with `/`, decoded as nginx compares it; for `match: regex` an expression. */
  path: text(undefined, { maxBytes: 1024 }),
  match: z.enum(['exact', 'prefix', 'regex']).default('prefix'),
  /** What a request must be, beside its path. */
  when: conditions.optional(),
  /** Among regexes, and among routes of one path with as many conditions, the lowest is tried first; equal ones by ID. */
  order: integer(-1000, 1000).default(0),
  /** Only a regex can be told to ignore case. */
  caseSensitive: z.boolean().default(true),
  requestHeaders: requestHeaders.optional(),
  responseHeaders: responseHeaders.optional(),
  timeouts: timeouts.optional(),
  maxBodySize: size.optional(),
  errorPages: errorPages.optional(),
  /** As the site says when left out. */
  accessLog: z.boolean().optional(),
  /** Each takes the place of the site's policy of the same type. */
  policies: policyNames.optional(),
  /** Policies of the site that this route goes without. */
  withoutPolicies: policyNames.optional(),
}
const ignored = {
  proxy: proxy.partial().optional(),
  static: staticFiles.partial().optional(),
  redirect: redirect.partial().optional(),
  return: fixedReturn.partial().optional(),
}
const route = z
  .discriminatedUnion('action', [
    z.strictObject({ ...anyRoute, ...ignored, action: z.literal('proxy'), proxy }),
    z.strictObject({ ...anyRoute, ...ignored, action: z.literal('static'), static: staticFiles }),
    z.strictObject({ ...anyRoute, ...ignored, action: z.literal('redirect'), redirect }),
    z.strictObject({ ...anyRoute, ...ignored, action: z.literal('return'), return: fixedReturn }),
  ])
  .superRefine((value, context) => {
    const fault = (path: string[], found: Fault | undefined): void => {
      if (found !== undefined)
        context.addIssue({ code: 'custom', message: found.message, path, params: { hint: found.hint } })
    }
    fault(['path'], value.match === 'regex' ? judgeRegex(value.path) : judgePath(value.path))
    if (!value.caseSensitive && value.match !== 'regex') {
      fault(['caseSensitive'], { message: `is not possible with match: ${value.match}`, hint: 'use match: regex' })
    }
    if (value.action === 'proxy')
      for (const { field, fault: found } of proxyFaults(value, value.proxy)) fault(['proxy', field], found)
    if (value.action === 'redirect') fault(['redirect', 'to'], judgeRedirect(value.redirect))
  })
export type Route = z.output<typeof route>

function judgePath(path: string): Fault | undefined {
  if (!path.startsWith('/')) return { message: 'does not begin with /' }
  if (path.includes('?')) return { message: 'has a query', hint: 'conditions on the query are set in when.query' }
  if (/%[0-9a-f]{2}/i.test(path))
    return { message: 'has an escape', hint: 'nginx compares decoded paths: write the character itself' }
  if (/\/\/|\/\.\.?(?:\/|$)/.test(path))
    return { message: 'has an empty, . or .. part', hint: 'nginx compares normalised paths' }
  return undefined
}

/** Routes with one path, in the order in which their conditions are tried. */
export interface RouteGroup {
  readonly match: Route['match']
  readonly path: string
  readonly caseSensitive: boolean
  readonly routes: readonly (readonly [id: string, route: Route])[]
}

/** Unsorted among themselves; the routes of each are in order. */
export function groupRoutes(routes: Readonly<Record<string, Route>>): readonly RouteGroup[] {
  const groups = new Map<string, [string, Route][]>()
  for (const entry of Object.entries(routes)) {
    const { match, path, caseSensitive } = entry[1]
    const place = JSON.stringify([match, path, caseSensitive])
    groups.set(place, [...(groups.get(place) ?? []), entry])
  }
  return [...groups.values()].map((entries) => {
    const sorted = entries.toSorted(
      ([aId, a], [bId, b]) =>
        conditionsOf(b.when).length - conditionsOf(a.when).length || a.order - b.order || (aId < bId ? -1 : 1),
    )
    const { match, path, caseSensitive } = (sorted[0] as [string, Route])[1]
    return { match, path, caseSensitive, routes: sorted }
  })
}

function sharedPathFaults(routes: Readonly<Record<string, Route>>) {
  const faults: { id: string; field: string; fault: Fault }[] = []
  for (const { match, routes: sharing } of groupRoutes(routes)) {
    const taken = new Map<string, string>()
    const all = new Set<string>()
    for (const [id, route] of sharing) {
      const own = conditionsOf(route.when).map((condition) => JSON.stringify(condition))
      const twin = taken.get(own.join())
      // Two regexes of one text have always been allowed; the second is never reached.
      if (twin !== undefined && (match !== 'regex' || own.length > 0)) {
        const message = `is the same as of route ${twin}`
        const hint = own.length > 0 ? 'their conditions are the same too' : 'give one of them conditions: when'
        faults.push({ id, field: 'path', fault: { message, hint } })
      }
      taken.set(own.join(), id)
      for (const key of own) all.add(key)
    }
    const [firstId, first] = sharing[0] as readonly [string, Route]
    if (conditionsOf(first.when).length === 0) continue
    if (all.size > CONDITIONS_OF_PATH_MAX) {
      const message = `has over ${CONDITIONS_OF_PATH_MAX} different conditions, all routes of its path together`
      faults.push({ id: firstId, field: 'when', fault: { message } })
    }
    const other = sharing.find(([, { maxBodySize }]) => maxBodySize !== first.maxBodySize)
    if (other !== undefined) {
      const message = `is not that of route ${firstId}, which has the same path`
      const hint = 'nginx judges the size of a body before the conditions: give all routes of the path the same'
      faults.push({ id: other[0], field: 'maxBodySize', fault: { message, hint } })
    }
  }
  return faults
}

const keepalive = z.strictObject({
  /** How long a client's connection stays open without a request. */
  timeout: duration.optional(),
  /** How many a connection may carry. */
  requests: integer(1, 1_000_000_000).optional(),
})

const maintenance = z.strictObject({
  enabled: z.boolean().default(false),
  /** When clients may come again, in seconds. */
  retryAfter: integer(1, 31_536_000).default(300),
  body: fixedBody.default('down for maintenance\n'),
  contentType: contentType.default('text/plain; charset=utf-8'),
  /** Clients that are served all the same. */
  allow: z.array(network).max(256).optional(),
})

/** gRPC is HTTP/2, which clients speak over TLS here. */
function grpcFaults({
  listeners,
  routes,
}: {
  listeners: Readonly<Record<string, SiteListener>>
  routes: Readonly<Record<string, Route>>
}) {
  if (Object.values(listeners).some(({ tls }) => tls?.http2 === true)) return []
  const grpc = Object.entries(routes).find(([, route]) => route.action === 'proxy' && isGrpc(route.proxy))
  if (grpc === undefined) return []
  const hint = 'give a listener tls: {certificate: NAME}, without http2: false'
  return [{ path: ['routes', grpc[0], 'proxy', 'scheme'], fault: { message: 'needs a listener with HTTP/2', hint } }]
}

const schema = z
  .strictObject({
    hosts: z.array(siteHost).min(1).max(256),
    /** One on the host's default HTTP port when left out. */
    listeners: atMost(16, key, listener).default({}),
    /** What comes over a listener without TLS is sent to one with it, by 308. */
    redirectToHttps: z.boolean().default(false),
    hsts: hsts.optional(),
    /** What it is where it says nothing itself. It is valid without, too. */
    template: templateUse.optional(),
    /** Only nodes with all of these labels serve it. */
    nodeSelector: labels.optional(),
    routes: atMost(500, key, route).default({}),
    requestHeaders: requestHeaders.optional(),
    responseHeaders: responseHeaders.optional(),
    timeouts: timeouts.optional(),
    maxBodySize: size.optional(),
    errorPages: errorPages.optional(),
    accessLog: z.boolean().default(true),
    /** Of the requests that are logged at all. */
    accessLogPercent: accessLogPercent.optional(),
    /** In each line, beside those of every site. */
    accessLogFields: accessLogFields.optional(),
    /** Of connections of clients. */
    keepalive: keepalive.optional(),
    compression: compression.optional(),
    maintenance: maintenance.optional(),
    /** For whatever the site answers: routes, its page for maintenance, and paths without a route. */
    policies: policyNames.optional(),
    /** Policies of the defaults of its zones that the whole site goes without. */
    withoutPolicies: policyNames.optional(),
    /** nginx text; needs the right to these fields. An error_page belongs to a route: routes do not inherit it. */
    privileged: z
      .strictObject({
        serverSnippet: snippet.optional(),
        routeSnippets: z.record(key, snippet).optional(),
      })
      .optional(),
  })
  .superRefine((spec, context) => {
    for (const { id, field, fault } of sharedPathFaults(spec.routes)) {
      const { message, hint } = fault
      context.addIssue({ code: 'custom', message, path: ['routes', id, field], params: { hint } })
    }
    for (const { path, fault } of [...listeningFaults(spec), ...grpcFaults(spec)])
      context.addIssue({ code: 'custom', message: fault.message, path, params: { hint: fault.hint } })
    for (const id of Object.keys(spec.privileged?.routeSnippets ?? {})) {
      if (Object.hasOwn(spec.routes, id)) continue
      context.addIssue({
        code: 'custom',
        message: 'names no route of this site',
        path: ['privileged', 'routeSnippets', id],
      })
    }
  })

export type SiteSpec = z.output<typeof schema> & {
  /** Of zone settings; put there by the slice. */
  readonly inherited?: Inherited | undefined
}

/** Tells the action of each route that has exactly one branch and does not say. */
function inferActions(spec: Tree): Tree {
  if (!isTree(spec['routes'])) return spec
  const routes = Object.entries(spec['routes']).map(([id, value]): [string, unknown] => {
    if (!isTree(value) || value['action'] !== undefined) return [id, value]
    const branches = ACTIONS.filter((action) => value[action] !== undefined)
    return [id, branches.length === 1 ? { ...value, action: branches[0] } : value]
  })
  return { ...spec, routes: Object.fromEntries(routes) }
}

export const siteKind = {
  kind: 'Site',
  path: 'site',
  plural: 'sites',
  schema,
  sets: [
    ['hosts'],
    ['requestHeaders', 'remove'],
    ['responseHeaders', 'remove'],
    ['compression', 'types'],
    ['maintenance', 'allow'],
    ['policies'],
    ['withoutPolicies'],
    ['routes', '*', 'policies'],
    ['routes', '*', 'withoutPolicies'],
    ['routes', '*', 'requestHeaders', 'remove'],
    ['routes', '*', 'responseHeaders', 'remove'],
    ['routes', '*', 'proxy', 'retries', 'on'],
    ['routes', '*', 'when', 'methods'],
  ],
  items: [['hsts'], ['listeners', '*'], ['routes', '*']],
  complete: inferActions,
} as const satisfies Kind<SiteSpec>
