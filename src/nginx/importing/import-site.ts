/**
 * One server block as a Site: its names, listeners and locations, what holds for all of it, and the rest as the server's
 * snippet. Pure; called by import.ts, which has merged what the server takes over from http.
 */

import { isIP } from 'node:net'
import { siteHost } from '../../core/resources/fields.ts'
import type { Tree } from '../../core/resources/kind.ts'
import { snippet } from '../../core/resources/snippet.ts'
import type { Certificates } from './certificates.ts'
import { faultOfSite } from './faults.ts'
import { compressionOf } from './field-groups.ts'
import { isImplied, LOGGING, PER_LOCATION, put, reasonFor, SITE_RULES } from './fields.ts'
import type { Findings } from './findings.ts'
import { errorPagesOf, withPageLocations, type ImportedPages } from './import-error-pages.ts'
import { policyTextOf, type Policies, type ServerPolicies } from './import-policies.ts'
import {
  importLocation,
  redirectsOf,
  type Outer,
  withInherited,
  withProxyHost,
  type ImportedRoute,
} from './import-location.ts'
import type { Upstreams } from './import-upstream.ts'
import { matchOf } from './location-match.ts'
import { Names } from './names.ts'
import { toText, type Directive } from './parse.ts'

export interface Server {
  readonly block: Directive
  /** Its own directives, and those of http that hold here. */
  readonly directives: readonly Directive[]
  /** Whether it answers on its listeners to names that no server has. */
  readonly isDefault: boolean
}

export interface Listen {
  readonly directive: Directive
  /** Undefined for a unix socket. */
  readonly at: { readonly address?: string; readonly port: number } | undefined
  readonly isTls: boolean
  readonly isProxied: boolean
  readonly isDefault: boolean
}

/** What the rest of an import adds to. */
export interface Carried {
  readonly upstreams: Upstreams
  readonly certificates: Certificates
  readonly policies: Policies
  readonly findings: Findings
  /** Of nginx. */
  readonly prefix: string
  /** Whether a file is there to read. */
  readonly hasFile: (path: string) => boolean
}

/** What of a server its fields say, and what each of its locations has to. */
interface ServerParts {
  readonly pages: ImportedPages | undefined
  readonly serverPolicies: ServerPolicies
}

const PLAIN_PARAMETERS = /^(?:default_server|default|ssl|http2|proxy_protocol|ipv6only=on)$/
/** What a listener with TLS says. */
const TLS_OF_LISTENERS =
  /^(?:http2|ssl|ssl_(?:certificate|certificate_key|protocols|client_certificate|verify_client|verify_depth))$/
const IN_EACH_LOCATION: readonly string[] = PER_LOCATION
/** What stands in http becomes part of the server, or is the node's. */
const NOBODY: ReadonlySet<string> = new Set()
/** What goes by the files of the server, wherever it stands: each static route says itself where its own are. */
const ASKS_FOR_FILES = /\$\{?(?:document_root|realpath_root|request_filename)|\bif \(!?-[fdex] /
/** Kept at the server for its text, and said again by every route. */
const FOR_FILES: readonly string[] = ['root', 'index', 'default_type', 'types']

export function listensOf(directives: readonly Directive[]): Listen[] {
  return directives
    .filter(({ name }) => name === 'listen')
    .map((directive) => ({
      directive,
      at: addressOf(directive.args[0] ?? ''),
      isTls: directive.args.includes('ssl'),
      isProxied: directive.args.includes('proxy_protocol'),
      isDefault: directive.args.includes('default_server') || directive.args.includes('default'),
    }))
}

/** Of a `listen`; undefined for a socket, and what is no address. */
export function addressOf(text: string): Listen['at'] {
  const [, host = '', digits] =
    /^(?:(\*|\[[^\]]+\]|[^:[\]]*[^:[\]\d][^:[\]]*|[\d.]+\.\d+)(?::|$))?(\d+)?$/.exec(text) ?? []
  if (host === '' && digits === undefined) return undefined
  const port = digits === undefined ? 80 : Number(digits)
  const address = host === 'localhost' ? '127.0.0.1' : host.replace(/^\[(.*)\]$/, '$1')
  if (address === '' || address === '*' || address === '0.0.0.0') return { port }
  return isIP(address) === 0 ? undefined : { address, port }
}

/** The spec of the site; undefined when nothing of the server can be carried. */
export function importServer(server: Server, carried: Carried): Tree | undefined {
  const { upstreams, certificates, policies, findings, prefix, hasFile } = carried
  const { block, directives } = server
  const spec: Tree = {}
  const hosts = importHosts(server, findings)
  const hasTls = listensOf(directives).some(({ isTls }) => isTls)
  const isProxied = listensOf(directives).some((listen) => listen.isProxied)
  const tls = hasTls ? certificates.tlsOf(directives, hosts.find((host) => host !== '*') ?? 'default') : undefined
  const listeners = importListeners(directives, tls, findings)
  if (listeners === undefined) {
    findings.lose(block, 'it listens on sockets alone, or with TLS and no certificate that is carried')
    return undefined
  }
  if (hosts.length === 0) {
    findings.lose(block, 'it answers to no host name that a Site can have')
    return undefined
  }
  Object.assign(spec, { hosts, listeners: listeners.fields })
  const compression = compressionOf(directives)
  const parts = { pages: errorPagesOf(directives, prefix, hasFile), serverPolicies: policies.ofServer(directives) }
  Object.assign(spec, compression.fields, parts.pages?.fields)
  const said = new Set<Directive>([...compression.taken, ...parts.serverPolicies.carried])
  const text: Directive[] = [...listeners.text]
  for (const directive of directives) {
    const { name, args } = directive
    if (['listen', 'server_name', 'location', ...IN_EACH_LOCATION].includes(name) || said.has(directive)) continue
    if (name === 'return' || name === 'try_files' || isImplied(directive, NOBODY)) continue
    if (name === 'proxy_intercept_errors' && parts.pages !== undefined) continue
    // As the node has it.
    if (name === 'default_type' && args[0] === 'application/octet-stream') continue
    const rule = Object.hasOwn(SITE_RULES, name) ? SITE_RULES[name] : undefined
    const trial: Tree = {}
    const value = rule?.value(args)
    if (rule !== undefined && value !== undefined) put(trial, rule.field, value)
    if (rule !== undefined && value !== undefined && faultOfSite(trial) === undefined) put(spec, rule.field, value)
    else if (tls !== undefined && TLS_OF_LISTENERS.test(name)) continue
    else if (isProxied && name === 'real_ip_header') {
      if (args[0] !== 'proxy_protocol') findings.lose(directive, 'listeners with proxy_protocol go by the PROXY header')
    } else if (LOGGING.test(name) || /^ssl_(?!verify|client)/.test(name))
      findings.lose(directive, 'the node has its own')
    else text.push(directive)
  }
  // What the server answers itself has its headers, too.
  if (text.some(({ name }) => /^(?:if|rewrite)$/.test(name)))
    text.push(...directives.filter(({ name }) => name === 'add_header'))
  const routes = importRoutes(server, carried, parts)
  const [first, ...others] = routes.routes.map((route) => route.policies)
  const shared = (first ?? []).filter((name) => others.every((names) => names.includes(name)))
  if (shared.length > 0) spec['policies'] = shared
  const routeTrees = routes.routes.map(({ id, route, policies: names }): [string, Tree] => {
    const own = names.filter((name) => !shared.includes(name))
    return [id, own.length === 0 ? route : { ...route, policies: own }]
  })
  spec['routes'] = Object.fromEntries(routeTrees)
  const privileged: Tree = {}
  const rests = routes.routes.flatMap(({ rest }) => rest)
  const asksForFiles = routes.text.length > 0 || ASKS_FOR_FILES.test(toText([...text, ...rests]))
  const needed = asksForFiles ? text : text.filter(({ name }) => name !== 'root' && name !== 'index')
  const serverSnippet = snippetOf([...needed, ...routes.text], upstreams, findings, (each) =>
    FOR_FILES.includes(each.name) ? undefined : reasonFor(each),
  )
  if (serverSnippet !== '') privileged['serverSnippet'] = serverSnippet
  const routeSnippets: Tree = {}
  for (const { id, rest } of routes.routes) {
    const snippet = snippetOf(rest, upstreams, findings, reasonFor)
    if (snippet !== '') routeSnippets[id] = snippet
  }
  if (Object.keys(routeSnippets).length > 0) privileged['routeSnippets'] = routeSnippets
  if (Object.keys(privileged).length > 0) spec['privileged'] = privileged
  return spec
}

function snippetOf(
  directives: readonly Directive[],
  upstreams: Upstreams,
  findings: Findings,
  why: (directive: Directive) => string | undefined,
): string {
  const surviving = findings.surviving(directives).filter((directive) => {
    const fault = snippet.safeParse(toText([directive]))
    if (!fault.success) findings.lose(directive, `no text of a site can hold it: it ${fault.error.issues[0]?.message}`)
    return fault.success
  })
  for (const directive of surviving) {
    const reason = why(directive)
    if (reason !== undefined) findings.keep(directive, reason)
  }
  return toText(upstreams.renamed(surviving))
}

// ---------------------------------------------------------------------------------------------- listeners, hosts

/** Undefined when none is left that a Site can have. */
function importListeners(directives: readonly Directive[], tls: Tree | undefined, findings: Findings) {
  const listens = listensOf(directives)
  const fields: Tree = {}
  const text: Directive[] = []
  const ids = new Names('listener')
  if (listens.length === 0) fields['http'] = { port: 80 }
  for (const { directive, at, isTls, isProxied } of listens) {
    if (at === undefined) text.push(directive)
    else if (isTls && tls === undefined) findings.lose(directive, 'a listener with TLS needs a certificate')
    else {
      const told = isTls ? { ...at, tls } : at
      fields[ids.take(listenerId(at))] = isProxied ? { ...told, proxyProtocol: true } : told
      const odd = directive.args.slice(1).filter((parameter) => !PLAIN_PARAMETERS.test(parameter))
      if (odd.length > 0) findings.lose(directive, `a listener has no field for ${odd.join(' ')}`)
    }
  }
  return Object.keys(fields).length === 0 ? undefined : { fields, text }
}

function listenerId({ address, port }: { address?: string; port: number }): string {
  if (address === undefined) return `port-${port}`
  return `${address.includes(':') ? 'ipv6-' : ''}${address}-${port}`
}

function importHosts({ directives, isDefault }: Server, findings: Findings): string[] {
  const hosts = new Set<string>()
  for (const directive of directives.filter(({ name }) => name === 'server_name')) {
    for (const name of directive.args) {
      const lower = name.toLowerCase()
      const wanted = lower.startsWith('.') ? [lower.slice(1), `*${lower}`] : [lower]
      // Names that no request has, for servers that answer by default.
      if (/^(?:_|-|"|\$hostname|)$/.test(lower)) continue
      if (wanted.every((host) => host !== '*' && siteHost.safeParse(host).success))
        for (const host of wanted) hosts.add(host)
      else findings.lose(directive, `a Site cannot have the host name ${name}`)
    }
  }
  if (isDefault) hosts.add('*')
  return [...hosts]
}

// ---------------------------------------------------------------------------------------------- routes

interface IdentifiedRoute extends ImportedRoute {
  readonly id: string
}

function importRoutes({ block, directives }: Server, carried: Carried, parts: ServerParts) {
  const { findings } = carried
  const { locations, isPage: isTarget } = withPageLocations(
    directives,
    withRoot(block, directives),
    carried.prefix,
    carried.hasFile,
  )
  const outer = {
    isPage: isTarget,
    inherited: directives.filter(({ name }) => [...IN_EACH_LOCATION, ...FOR_FILES].includes(name)),
    said: new Set(directives.map(({ name }) => name)),
    ...carried,
    ...parts,
  }
  const results = locations.map((location) => importLocation(location, outer))
  const isRegex = (location: Directive): boolean => matchOf(location).modifier.startsWith('~')
  const isText = (index: number): boolean => typeof results[index] === 'string'
  // Text comes before the routes, and among regexes the first counts.
  const lastText = locations.findLastIndex((location, index) => isRegex(location) && isText(index))
  const hasRegex = locations.some(isRegex)
  const ids = new Names('root')
  const routes: IdentifiedRoute[] = []
  const text: Directive[] = []
  for (const [index, location] of locations.entries()) {
    const result = results[index] as ImportedRoute | string
    const isBefore = isRegex(location) && index < lastText
    const isFirm = matchOf(location).modifier === '^~' && hasRegex
    if (typeof result !== 'string' && !isBefore && !(isFirm && result.path !== '/')) {
      if (isFirm) findings.lose({ ...location, block: [] }, '^~ of /: regexes are tried before it here')
      const order = isRegex(location) ? { order: index } : {}
      routes.push({ ...result, id: ids.take(result.path), route: { ...result.route, ...order } })
    } else if (
      typeof result === 'string' &&
      matchOf(location).path === '/' &&
      !/^[=~]/.test(matchOf(location).modifier)
    ) {
      findings.lose(location, `${result}, and a Site has its own location /`)
    } else {
      text.push({ ...location, block: textBlock(location, outer) })
    }
  }
  // Without text nobody is sent to the location of a page any more.
  const isPage = ({ path, route }: ImportedRoute): boolean =>
    route['match'] === 'exact' && text.length === 0 && parts.pages?.internal.has(path) === true
  return { routes: routes.map((route) => (isPage(route) ? { ...route, ...hidden(route) } : route)), text }
}

/** What a location that is internal answers whoever asks for it. */
function hidden({ path }: ImportedRoute): Pick<ImportedRoute, 'route' | 'rest'> {
  return { route: { path, match: 'exact', action: 'return', return: { status: 404 } }, rest: [] }
}

/** The locations of a server; one for all paths where the server itself answers. */
function withRoot(block: Directive, directives: readonly Directive[]): readonly Directive[] {
  const locations = directives.filter(({ name }) => name === 'location')
  const answer = directives.find(({ name }) => name === 'return')
  const root = { ...block, name: 'location', args: ['/'], raw: ['/'] }
  // It comes before any location is looked for.
  if (answer !== undefined) return [{ ...root, block: [answer] }]
  const hasRoot = locations.some((location) => {
    const { modifier, path } = matchOf(location)
    return path === '/' && (modifier === '' || modifier === '^~')
  })
  if (hasRoot) return locations
  return [...locations, { ...root, block: directives.filter(({ name }) => name === 'try_files') }]
}

/** What a location says as text of the server, which has not the headers that it would have taken over. */
function textBlock(location: Directive, outer: Outer): readonly Directive[] {
  const { block = [] } = location
  const lists = outer.inherited.filter(({ name }) => IN_EACH_LOCATION.includes(name))
  const own = withProxyHost([...policyTextOf(block, outer.serverPolicies), ...withInherited(block, lists)])
  return [...own, ...redirectsOf(location, own, outer)]
}
