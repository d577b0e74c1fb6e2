/**
 * One location as a route, with what no field can say as the route's snippet; or, where no route can be what it is, the
 * location itself as nginx text of its server. Pure; called by import-site.ts.
 */

import type { Tree } from '../../core/resources/kind.ts'
import { plain } from '../rendering/quote.ts'
import { DEFAULT_HEADER_LINES, PROXY_HEADERS } from '../rendering/proxy.ts'
import { faultOfRoute as faultOf } from './faults.ts'
import { proxyGroups } from './field-groups.ts'
import { defaultRoot, isImplied, LOGGING, PASSES, PER_LOCATION, PROXY_RULES, put, ROUTE_RULES } from './fields.ts'
import type { Findings } from './findings.ts'
import { interceptOf, type ImportedPages } from './import-error-pages.ts'
import { isOfGroup, type Policies, type ServerPolicies } from './import-policies.ts'
import type { Upstreams } from './import-upstream.ts'
import { matchOf } from './location-match.ts'
import { parse, toText, type Directive } from './parse.ts'

/** What a location takes over from its server, when it has none of its own. */
export interface Outer {
  readonly inherited: readonly Directive[]
  /** Names of all that the server says. */
  readonly said: ReadonlySet<string>
  readonly upstreams: Upstreams
  readonly findings: Findings
  readonly policies: Policies
  readonly serverPolicies: ServerPolicies
  /** Pages of the site, where they are a field. */
  readonly pages: ImportedPages | undefined
  readonly prefix: string
  /** Whether nginx comes there with errors: it has no pages for those of its own, where a route would begin anew. */
  readonly isPage: (location: Directive) => boolean
}

export interface ImportedRoute {
  readonly path: string
  readonly route: Tree
  /** Of the route. */
  readonly policies: readonly string[]
  readonly rest: readonly Directive[]
}

/** A way to say a location's answer by an action of a route. */
interface Attempt {
  readonly fields: Tree
  /** What the fields say. */
  readonly taken: ReadonlySet<Directive>
  /** What else has to be said, after what is there. */
  readonly added: readonly Directive[]
}

const MATCHES: Readonly<Record<string, Tree>> = {
  '': {},
  '=': { match: 'exact' },
  '^~': {},
  '~': { match: 'regex' },
  '~*': { match: 'regex', caseSensitive: false },
}
/** These may not stand in the twin that each location of a route has for draining. */
const NOT_IN_NAMED = /^(?:alias|location)$/

/** Obeyed in the order in which they stand. */
const REWRITING = /^(?:return|rewrite|if|set|break)$/
/** Variables that a rewrite changes. */
const OF_PATH = /\$\{?(?:uri|document_uri|request_filename)\b/
/** What draining says in each location of a route. */
const OF_DRAINING = /^(?:keepalive_timeout|recursive_error_pages)$/

/** The route, or why there is none. */
export function importLocation(location: Directive, outer: Outer): ImportedRoute | string {
  const { modifier, path } = matchOf(location)
  const match = MATCHES[modifier]
  if (match === undefined || path.startsWith('@')) return 'a route has a path'
  const own = (location.block ?? []).filter((each) => !isImplied(each, outer.said)).map(isAll(location) ? rootOf : same)
  const odd = own.find(({ name }) => NOT_IN_NAMED.test(name))
  if (odd !== undefined) return `a route cannot hold ${odd.name}`
  const { findings, policies, serverPolicies, pages } = outer
  const effective = withInherited(own, outer.inherited)
    .filter(
      (each) => !isOfGroup(each) && !(pages !== undefined && /^(?:error_page|proxy_intercept_errors)$/.test(each.name)),
    )
    .filter((each) => !OF_DRAINING.test(each.name) && !(isPaged(each) && outer.isPage(location)))
  let fault = ''
  for (const attempt of attemptsFor({ modifier, path }, effective, outer)) {
    const isProxy = 'proxy' in attempt.fields
    const { limits, taken } = limitsOf(effective, { path, ...match, ...attempt.fields })
    const route: Tree = merge({ path, ...match }, limits, attempt.fields, pages === undefined ? {} : interceptOf(own))
    fault = faultOf(route)
    if (fault !== '') continue
    const headers = isProxy ? hiddenHeaders(effective) : responseHeaders(effective)
    if (headers.taken.size > 0) route['responseHeaders'] = headers.fields
    if (faultOf(route) !== '') delete route['responseHeaders']
    const isFixed = 'return' in attempt.fields || 'redirect' in attempt.fields
    const { names, text } = policies.ofLocation(own, serverPolicies, isFixed)
    const isFiles = 'static' in attempt.fields && !effective.some(({ name }) => PASSES.test(name) || name === 'return')
    const isSaid = (each: Directive): boolean =>
      (isFiles && isWhatFilesDo(each)) ||
      taken.has(each) ||
      attempt.taken.has(each) ||
      ('responseHeaders' in route && headers.taken.has(each))
    const logs = effective.filter((each) => LOGGING.test(each.name) && !isSaid(each))
    const rest = [...text, ...effective.filter((each) => !isSaid(each) && !logs.includes(each))]
    if (rest.some(hasPath)) return 'a route cannot hold proxy_pass with a path'
    for (const each of own.filter(({ name }) => OF_DRAINING.test(name)))
      findings.lose(each, 'in a route it is what ends connections before a reload')
    for (const each of logs) findings.lose(each, 'the node has its own')
    return { path, route, policies: names, rest: [...withProxyHost(rest), ...attempt.added] }
  }
  return fault
}

/** The location's directives, with those lists of the server that it does not replace by its own. */
export function withInherited(own: readonly Directive[], inherited: readonly Directive[]): Directive[] {
  const isProxy = own.some(({ name, block }) => name === 'proxy_pass' || block !== undefined)
  const missing = PER_LOCATION.filter(
    (name) => !own.some((each) => each.name === name) && (isProxy || !name.startsWith('proxy_')),
  )
  return [...inherited.filter(({ name }) => missing.some((each) => each === name)), ...own]
}

/** Text that proxies without a Host of its own would send that of the node's http block, or the name of NxMesh's own block. */
export function withProxyHost(directives: readonly Directive[]): readonly Directive[] {
  const pass = directives.find(({ name }) => name === 'proxy_pass')
  const isHost = ({ name, args }: Directive): boolean =>
    name === 'proxy_set_header' && args[0]?.toLowerCase() === 'host'
  if (pass === undefined || directives.some(isHost)) return directives
  return [
    { ...pass, name: 'proxy_set_header', args: ['Host', '$proxy_host'], raw: ['Host', '$proxy_host'] },
    ...directives,
  ]
}

function isAll({ args, block = [] }: Directive): boolean {
  return /^(?:\^~ )?\/$/.test(args.join(' ')) && !block.some(({ name }) => name === 'try_files')
}

/** Whether it sends errors to a path. */
function isPaged({ name, args }: Directive): boolean {
  return name === 'error_page' && args.at(-1)?.startsWith('/') === true
}

/** For all paths an alias is a root. */
function rootOf(directive: Directive): Directive {
  const [path = ''] = directive.args
  if (directive.name !== 'alias' || !/^\/[^$]*\/$/.test(path)) return directive
  const root = path.slice(0, -1) || '/'
  return { ...directive, name: 'root', args: [root], raw: [plain(root)] }
}

function same(directive: Directive): Directive {
  return directive
}

/** A file, a directory with its index, or 404. */
function isWhatFilesDo({ name, args }: Directive): boolean {
  return name === 'try_files' && args.join(' ') === '$uri $uri/ =404'
}

/** Whether it is a proxy_pass that replaces the path, which may not stand in a twin. */
function hasPath({ name, args: [target = ''] }: Directive): boolean {
  return name === 'proxy_pass' && /^\w+:\/\/(?:unix:[^:]+:|(?!unix:)[^/$]+)\/[^$]*$/.test(target)
}

/** Those that are sent on every status: others are not what the field means. */
function responseHeaders(directives: readonly Directive[]) {
  const all = directives.filter(({ name }) => name === 'add_header')
  const fitting = all.filter(({ args }) => {
    const name = args[0]?.toLowerCase()
    return (
      args.length === 3 &&
      args[2] === 'always' &&
      all.filter((each) => each.args[0]?.toLowerCase() === name).length === 1
    )
  })
  const set = Object.fromEntries(fitting.map(({ args }) => [args[0] as string, args[1] as string]))
  return { fields: { set }, taken: new Set(fitting) }
}

/** Those of the upstream that no client sees. */
function hiddenHeaders(directives: readonly Directive[]) {
  const fitting = directives.filter(
    ({ name, args }) =>
      name === 'proxy_hide_header' &&
      faultOf({ path: '/', action: 'return', return: { status: 204 }, responseHeaders: { remove: args } }) === '',
  )
  return { fields: { remove: [...new Set(fitting.flatMap(({ args }) => args))] }, taken: new Set(fitting) }
}

/** @param base the route without them */
function limitsOf(directives: readonly Directive[], base: Tree) {
  const rules = 'proxy' in base ? { ...ROUTE_RULES, ...PROXY_RULES } : ROUTE_RULES
  const limits: Tree = {}
  const taken = new Set<Directive>()
  for (const directive of directives) {
    const rule = Object.hasOwn(rules, directive.name) ? rules[directive.name] : undefined
    const value = rule?.value(directive.args)
    if (rule === undefined || value === undefined) continue
    const trial = structuredClone(limits)
    put(trial, rule.field, value)
    // Judged alone: what does not fit stays text, and takes nothing with it.
    if (faultOf(merge(base, trial)) !== '') continue
    put(limits, rule.field, value)
    taken.add(directive)
  }
  return { limits, taken }
}

function merge(...trees: readonly Tree[]): Tree {
  const merged: Tree = {}
  for (const tree of trees) {
    for (const [key, value] of Object.entries(tree)) {
      const before = merged[key]
      merged[key] = typeof before === 'object' ? merge(before as Tree, value as Tree) : value
    }
  }
  return merged
}

/** The best first. The last always answers as the text does: by whatever directive of it makes the answer. */
function* attemptsFor(
  { modifier, path }: { modifier: string; path: string },
  directives: readonly Directive[],
  outer: Outer,
): Generator<Attempt> {
  const proxy = proxyAttempt({ modifier, path }, directives, outer)
  if (proxy !== undefined) yield proxy
  yield* returnAttempts({ modifier, path }, directives)
  yield staticAttempt(directives, outer)
}

// ---------------------------------------------------------------------------------------------- proxy

function proxyAttempt(
  { modifier, path }: { modifier: string; path: string },
  directives: readonly Directive[],
  { upstreams, said }: Outer,
): Attempt | undefined {
  const pass = directives.find(({ name }) => name === 'proxy_pass')
  const [, scheme, word, uri = ''] = /^(https?):\/\/([^/$?]+)(\/[^$?]*)?$/.exec(pass?.args[0] ?? '') ?? []
  if (pass === undefined || scheme === undefined || word === undefined) return undefined
  if (uri !== '' && modifier.startsWith('~')) return undefined
  // Where the path is replaced by a rewrite, these say the new one; a Site has its own / and so no text for that.
  if (uri !== '' && path !== '/' && directives.some((each) => each !== pass && OF_PATH.test(toText([each]))))
    return undefined
  const upstream = upstreams.reference(scheme, word)
  if (upstream === undefined) return undefined
  const strips = uri === '/' && path.endsWith('/') && modifier !== '='
  const headers = proxyHeaders(directives, word.replace(scheme === 'http' ? /:80$/ : /:443$/, ''))
  const groups = proxyGroups(directives)
  const proxy: Tree = { upstream, ...groups.fields, ...headers.proxy }
  if (scheme === 'https') proxy['scheme'] = 'https'
  if (strips) proxy['stripPrefix'] = true
  const fields: Tree = { action: 'proxy', proxy }
  if (Object.keys(headers.requestHeaders).length > 0) fields['requestHeaders'] = headers.requestHeaders
  const redirects = directives.filter(({ name }) => name === 'proxy_redirect')
  const isSaid = redirects.length === 1 && redirects[0]?.args[0] === 'default'
  const isUndone = isSaid && said.has('proxy_redirect')
  const isDefault = isSaid || (redirects.length === 0 && !said.has('proxy_redirect'))
  // Who is asked by the name of the configuration answers by it, and nginx goes by the name of the block.
  const { hostHeader } = headers.proxy
  const isAskedByName = typeof hostHeader === 'string' && !hostHeader.includes('$')
  const back = isDefault && (isAskedByName || isUndone) ? redirectBack(pass, uri, path) : undefined
  const canBack = back !== undefined && faultOf({ path, action: 'proxy', proxy: { upstream, redirects: back } }) === ''
  if (canBack) proxy['redirects'] = back
  const implied = directives.filter(
    ({ name, args }) =>
      (name === 'proxy_http_version' && args[0] === '1.1') ||
      // By default nginx goes by the name of the block, which no upstream knows: as if it were off.
      (name === 'proxy_redirect' &&
        (isSaid || (redirects.length === 1 && args[0] === 'off' && !said.has('proxy_redirect')))) ||
      (name === 'proxy_ssl_server_name' && scheme === 'https'),
  )
  const replaces = { path, action: 'proxy', proxy: { upstream, replacePrefix: uri } }
  const canReplace = uri !== '' && !strips && modifier !== '=' && faultOf(replaces) === ''
  if (canReplace) proxy['replacePrefix'] = uri
  const rewritten = uri === '' || strips || canReplace ? [] : [rewriteTo(uri, path, modifier, pass)]
  return {
    fields,
    taken: new Set([pass, ...implied, ...headers.taken, ...groups.taken]),
    added: [...headers.added, ...rewritten, ...(back === undefined || canBack ? [] : redirectLines(back, pass))],
  }
}

/** What `proxy_redirect default` does: what the upstream calls its own place is the place of the location. */
function redirectBack({ args: [url = ''] }: Directive, uri: string, path: string): Readonly<Record<string, string>> {
  return uri === '' ? { [`${url}/`]: '/' } : { [url]: path }
}

function redirectLines(redirects: Readonly<Record<string, string>>, model: Directive): Directive[] {
  return Object.entries(redirects).map((args) => ({ ...model, name: 'proxy_redirect', args, raw: args.map(plain) }))
}

/** What nginx does by default with redirects of an upstream that is passed to with a path, in a location as text. */
export function redirectsOf(location: Directive, own: readonly Directive[], { said }: Outer): readonly Directive[] {
  const pass = own.find(({ name }) => name === 'proxy_pass')
  const [, uri] = /^\w+:\/\/[^/$]+(\/[^$]*)$/.exec(pass?.args[0] ?? '') ?? []
  const isSaid = said.has('proxy_redirect') || own.some(({ name }) => name === 'proxy_redirect')
  const isAskedByName = own.some(({ name, args }) => name === 'proxy_set_header' && args[1] === '$proxy_host')
  if (pass === undefined || uri === undefined || isSaid || !isAskedByName) return []
  return redirectLines(redirectBack(pass, uri, matchOf(location).path), pass)
}

/** What `proxy_pass` with a path does, where it may not have one: the matched part of the path is replaced. */
function rewriteTo(uri: string, path: string, modifier: string, pass: Directive): Directive {
  const start = path.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&')
  const args = modifier === '=' ? ['^', uri, 'break'] : [`(?s)^${start}(.*)$`, `${uri}$1`, 'break']
  return { ...pass, name: 'rewrite', args, raw: args.map(plain) }
}

/** Headers to the upstream as fields; those whose values no field can hold stay text. */
function proxyHeaders(directives: readonly Directive[], proxyHost: string) {
  const all = directives.filter(({ name }) => name === 'proxy_set_header')
  const byName = new Map(all.map((each) => [(each.args[0] ?? '').toLowerCase(), each]))
  const defaults = new Map(PROXY_HEADERS.map(([name, value]) => [name.toLowerCase(), value]))
  const upgrades = byName.get('upgrade')?.args[1] === '$http_upgrade' && byName.has('connection')
  const proxy: Tree = { hostHeader: proxyHost }
  if (upgrades) proxy['websocket'] = true
  const set: Record<string, string> = {}
  const remove: string[] = []
  const taken = new Set<Directive>()
  for (const each of all) {
    const [name = '', value = ''] = each.args
    const lower = name.toLowerCase()
    // The last of a name counts alone only here: nginx would send both.
    const fits = faultOf({ path: '/', action: 'proxy', proxy: { upstream: 'it', hostHeader: value || 'it' } }) === ''
    if (lower === 'connection' || (lower === 'upgrade' && (upgrades || value === ''))) taken.add(each)
    else if (lower === 'upgrade' || !fits) continue
    else if (lower === 'host') proxy['hostHeader'] = value.replace('$proxy_host', proxyHost)
    else if (value === '') remove.push(name)
    else if (defaults.get(lower) !== value) set[name] = value
    taken.add(each)
  }
  if (proxy['hostHeader'] === '$host') delete proxy['hostHeader']
  const isOwn = Object.keys(proxy).length > 0 || Object.keys(set).length > 0 || remove.length > 0
  const requestHeaders: Tree = {
    ...(Object.keys(set).length > 0 ? { set } : {}),
    ...(remove.length > 0 ? { remove } : {}),
  }
  // One header in a location is enough to lose those of the node's http block.
  const hasText = all.some((each) => !taken.has(each))
  const added = hasText && !isOwn ? parse(DEFAULT_HEADER_LINES.join('\n'), all[0]?.file ?? '') : []
  return { proxy, requestHeaders, taken, added }
}

// ---------------------------------------------------------------------------------------------- return, redirect

function* returnAttempts(
  { modifier, path }: { modifier: string; path: string },
  directives: readonly Directive[],
): Generator<Attempt> {
  const answer = directives.find(({ name }) => name === 'return')
  if (answer === undefined) return
  const [first = '', second] = answer.args
  const [code, text] = /^\d{3}$/.test(first) ? [Number(first), second] : [302, first]
  // nginx never gets to what stands behind it.
  const behind = directives.slice(directives.indexOf(answer)).filter(({ name }) => REWRITING.test(name))
  const taken = new Set([answer, ...behind])
  if (code >= 300 && code <= 399) {
    if (text === undefined) return
    if (text.endsWith('$request_uri')) {
      const to = text.slice(0, -'$request_uri'.length)
      yield { fields: { action: 'redirect', redirect: { to, status: code, keepPath: true } }, taken, added: [] }
    }
    yield { fields: { action: 'redirect', redirect: { to: text, status: code } }, taken, added: [] }
    return
  }
  if (text?.includes('$') === true) return
  if ((text === undefined || text === '') && (code === 204 || (text === undefined && code >= 400))) {
    const typed = directives.filter(({ name }) => name === 'default_type')
    yield {
      fields: { action: 'return', return: { status: code } },
      taken: new Set([...taken, ...typed]),
      added: [],
    }
    return
  }
  // The field gives one type to every path; nginx goes by the ending first.
  const type = directives.find(({ name, args }) => name === 'default_type' && args.length === 1)
  const hasEnding = modifier !== '=' || path.includes('.') || directives.some(({ name }) => name === 'types')
  if (type === undefined || hasEnding) return
  taken.add(type)
  const fixed = { status: code, body: text ?? '', contentType: type.args[0] }
  yield { fields: { action: 'return', return: fixed }, taken, added: [] }
}

// ---------------------------------------------------------------------------------------------- files

/** Whether the field can say it: a path or a variable stays text, and the field is tried after it. */
function isIndex(file: string | undefined): boolean {
  return file === undefined || faultOf({ path: '/', action: 'static', static: { root: '/', index: file } }) === ''
}

function staticAttempt(directives: readonly Directive[], { inherited, prefix }: Outer): Attempt {
  const root = directives.find(({ name }) => name === 'root') ?? inherited.findLast(({ name }) => name === 'root')
  const indexes = directives.filter(({ name }) => name === 'index')
  const effective = indexes.length > 0 ? indexes : inherited.filter(({ name }) => name === 'index')
  const files = effective.flatMap(({ args }) => args)
  // nginx tries them in order, and the field comes last.
  const [last = 'index.html', ...before] = isIndex(files.at(-1))
    ? files.toReversed()
    : ['index.html', ...files.toReversed()]
  const model = effective[0] ?? root
  const added: Directive[] =
    before.length === 0 || model === undefined
      ? []
      : [{ ...model, name: 'index', args: before.toReversed(), raw: before.toReversed().map(plain) }]
  const fields: Tree = {
    action: 'static',
    static: { root: root?.args[0] ?? defaultRoot(prefix), ...(last === 'index.html' ? {} : { index: last }) },
  }
  return { fields, taken: new Set([...indexes, ...directives.filter(({ name }) => name === 'root')]), added }
}
