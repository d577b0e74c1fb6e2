/**
 * The kind Site: host names, listeners and routes. A route does exactly one thing, told by `action`; the branches of
 * other actions may lie in storage after a merge and are ignored. Routes are nginx locations: an exact path wins,
 * then the first regex by `order`, then the longest prefix.
 */

import { z } from 'zod'
import {
  atMost,
  integer,
  ipAddress,
  isFault,
  judgeRegex,
  key,
  labels,
  MAX_TEXT_BYTES,
  parseTemplate,
  reference,
  requestHeaders,
  responseHeaders,
  siteHost,
  size,
  template,
  text,
  timeouts,
  type Fault,
} from './fields.ts'
import { isTree, type Kind, type Tree } from './kind.ts'
import { judgeSnippet } from './snippet.ts'

const ACTIONS = ['proxy', 'static', 'redirect', 'return'] as const

const listener = z.strictObject({
  port: integer(1, 65535),
  /** All IPv4 addresses of the host when left out. */
  address: ipAddress.optional(),
})

const proxy = z.strictObject({
  /** An Upstream of the same workspace, looked up from the site's zone outward. */
  upstream: reference,
  /** `https` encrypts; it does not yet verify the upstream's certificate. */
  scheme: z.enum(['http', 'https']).default('http'),
  /** `/api/users` at a route with path `/api/` becomes `/users`. Escapes such as %2F are decoded by this. */
  stripPrefix: z.boolean().default(false),
  websocket: z.boolean().default(false),
  /** Off: the response is passed on as it comes. */
  buffering: z.boolean().default(true),
  hostHeader: template((value) => (value === '' ? { message: 'is empty' } : undefined)).default('$host'),
})

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

const redirect = z.strictObject({
  to: template((value) => {
    // What browsers read as another host (//host, /\host), or might after a variable, is no path.
    if (/^(?:https?:\/\/[^/?#\\]|\/(?![/\\$]))[\x21-\x7e]*$/.test(value)) return undefined
    return { message: 'is not a URL', hint: 'write it like https://example.com/new or /new' }
  }),
  status: z.literal([301, 302, 303, 307, 308]).default(302),
  /** Appends path and query of the request. */
  keepPath: z.boolean().default(false),
})

const contentType = text(
  (value) => {
    if (/^[a-z0-9.+-]+\/[a-z0-9.+-]+(?:; ?[a-z]+=[A-Za-z0-9-]+)*$/.test(value)) return undefined
    return { message: 'is not a content type', hint: 'write it like text/html; charset=utf-8' }
  },
  { maxBytes: 128 },
)

const fixedReturn = z.strictObject({
  status: integer(200, 599).refine((status) => status < 300 || status > 399, {
    message: 'is a redirect',
    params: { hint: 'use redirect: {to, status} for 3xx' },
  }),
  /** Sent as it is; $ has no meaning in it. */
  body: text(undefined, { maxBytes: 3500, lines: true }).default(''),
  contentType: contentType.default('text/plain; charset=utf-8'),
})

const anyRoute = {
  /** Begins with `/`, decoded as nginx compares it; for `match: regex` an expression. */
  path: text(undefined, { maxBytes: 1024 }),
  match: z.enum(['exact', 'prefix', 'regex']).default('prefix'),
  /** Among regexes the lowest is tried first; equal ones in the order of their ids. */
  order: integer(-1000, 1000).default(0),
  /** Only a regex can be told to ignore case. */
  caseSensitive: z.boolean().default(true),
  requestHeaders: requestHeaders.optional(),
  responseHeaders: responseHeaders.optional(),
  timeouts: timeouts.optional(),
  maxBodySize: size.optional(),
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
    if (
      value.action === 'proxy' &&
      value.proxy.stripPrefix &&
      !(value.match === 'prefix' && value.path.endsWith('/'))
    ) {
      fault(['proxy', 'stripPrefix'], { message: 'needs match: prefix and a path that ends in /' })
    }
    if (value.action === 'redirect' && value.redirect.keepPath)
      fault(['redirect', 'to'], judgeKeptBase(value.redirect.to))
  })
export type Route = z.output<typeof route>

function judgePath(path: string): Fault | undefined {
  if (!path.startsWith('/')) return { message: 'does not begin with /' }
  if (path.includes('?')) return { message: 'has a query', hint: 'a route is chosen by its path alone' }
  if (/%[0-9a-f]{2}/i.test(path))
    return { message: 'has an escape', hint: 'nginx compares decoded paths: write the character itself' }
  if (/\/\/|\/\.\.?(?:\/|$)/.test(path))
    return { message: 'has an empty, . or .. part', hint: 'nginx compares normalised paths' }
  return undefined
}

/** A relative target plus a path such as `//evil.example` would lead to another host. */
function judgeKeptBase(to: string): Fault | undefined {
  const parts = parseTemplate(to)
  const ok =
    /^https?:\/\/[^?#]+$/.test(to) &&
    !isFault(parts) &&
    !parts.some((part) => 'variable' in part && part.variable !== 'host')
  return ok
    ? undefined
    : {
        message: 'does not go with keepPath',
        hint: 'write it like https://example.com, without query and other variables than $host',
      }
}

const snippet = text(judgeSnippet, { maxBytes: MAX_TEXT_BYTES, lines: true })

const schema = z
  .strictObject({
    hosts: z.array(siteHost).min(1).max(256),
    /** One on the host's default HTTP port when left out. */
    listeners: atMost(16, key, listener).default({}),
    /** Only nodes with all of these labels serve it. */
    nodeSelector: labels.optional(),
    routes: atMost(500, key, route).default({}),
    requestHeaders: requestHeaders.optional(),
    responseHeaders: responseHeaders.optional(),
    timeouts: timeouts.optional(),
    maxBodySize: size.optional(),
    accessLog: z.boolean().default(true),
    /** nginx text; needs the right to these fields. An error_page belongs to a route: routes do not inherit it. */
    privileged: z
      .strictObject({
        serverSnippet: snippet.optional(),
        routeSnippets: z.record(key, snippet).optional(),
      })
      .optional(),
  })
  .superRefine((spec, context) => {
    const taken = new Map<string, string>()
    for (const [id, { match, path }] of Object.entries(spec.routes)) {
      const place = `${match} ${path}`
      const other = taken.get(place)
      if (match !== 'regex' && other !== undefined) {
        context.addIssue({ code: 'custom', message: `is the same as of route ${other}`, path: ['routes', id, 'path'] })
      }
      taken.set(place, id)
    }
    for (const id of Object.keys(spec.privileged?.routeSnippets ?? {})) {
      if (Object.hasOwn(spec.routes, id)) continue
      context.addIssue({
        code: 'custom',
        message: 'names no route of this site',
        path: ['privileged', 'routeSnippets', id],
      })
    }
  })

export type SiteSpec = z.output<typeof schema>

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
  sets: [['hosts'], ['requestHeaders', 'remove'], ['routes', '*', 'requestHeaders', 'remove']],
  items: [
    ['listeners', '*'],
    ['routes', '*'],
  ],
  complete: inferActions,
} as const satisfies Kind<SiteSpec>
