/**
 * What each string field is meant to become in nginx text: which arguments of which directives, and in what reading.
 * Written from the documentation of the fields, not from the renderer, so that the fuzzer can tell a value that kept
 * its place from one that did not. A field that is not told here is refused.
 */

import { createHash } from 'node:crypto'
import { bounded, sought } from '../../src/nginx/rendering/regex.ts'
import { readVariables } from './nginx-text.ts'

/** An argument of `directive`, as nginx holds it: `plain` to the letter, `expanded` after its variables were told apart. */
interface Meaning {
  readonly directive: string
  readonly plain?: string
  readonly expanded?: string
  /** The argument is a path of a resource, a # and this, in which variables were told apart. */
  readonly afterPath?: string
  /** The argument holds it among other things; only for what cannot hold any punctuation of nginx's. */
  readonly within?: string
  /** The argument begins with it; only for what cannot hold any punctuation. */
  readonly prefix?: string
  /** The argument, its variables told apart, ends in it. */
  readonly suffix?: string
  /** The argument ends in it, after a name and a scheme. */
  readonly ending?: string
  /** It is part of the name that the traffic log is told. */
  readonly asked?: string
}
type Field = (text: string) => readonly Meaning[]

/** The name under which an entry of a map or a split is told, since its own is data. */
export const MAP_ENTRY = 'entry of a map'

/** A variable in an expanded text; no text may hold this character. */
const variable = (name: string): string => `\u0001${name}\u0001`

/** The text of an argument in which nginx expands variables. */
export function expandedText(argument: string): string {
  return readVariables(argument)
    .map((part) =>
      typeof part === 'string' ? part : part.variable === 'nxmesh_dollar' ? '$' : variable(part.variable),
    )
    .join('')
}

/** The text that a template is meant to give. Variables are in lower case, $hostA is $host and an A, but for names that clients gave. */
function templateText(text: string): string {
  return text.replace(
    /\$(?:\$|((?:cookie|arg)_\w+|[a-z0-9_]+)|\{((?:cookie|arg)_\w+|[a-z0-9_]+)\})/g,
    (whole, bare?: string, braced?: string) => (whole === '$$' ? '$' : variable((bare ?? braced) as string)),
  )
}

const nowhere: Field = () => []
const plain =
  (...directives: string[]): Field =>
  (text) =>
    directives.map((directive) => ({ directive, plain: text }))
const within =
  (...directives: string[]): Field =>
  (text) =>
    directives.map((directive) => ({ directive, within: text }))
/** The name of an upstream's block, or a part of it: where requests go, and whom a location says that it asks. */
const blockName =
  (...directives: string[]): Field =>
  (text) => [...within(...directives)(text), { directive: 'set', asked: text }]
const literal =
  (directive: string): Field =>
  (text) => [{ directive, expanded: text }]
const template =
  (...directives: string[]): Field =>
  (text) =>
    directives.map((directive) => ({ directive, expanded: templateText(text) }))

function escapedRegex(text: string): string {
  return text.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&')
}

const requestVariable =
  (prefix: string): Field =>
  (text) => {
    const plainText = `$${prefix}${text.toLowerCase().replaceAll('-', '_')}`
    return [
      { directive: 'map', plain: plainText },
      { directive: MAP_ENTRY, plain: plainText },
    ]
  }

/** A header by which something is decided: what was looked at is what upstreams get. */
const judgedHeader: Field = (text) => [...requestVariable('http_')(text), ...passedOn(text)]
const passedOn: Field = (text) =>
  [text, `$http_${text.toLowerCase().replaceAll('-', '_')}`].flatMap(plain('proxy_set_header', 'grpc_set_header'))

/** A header that clients cannot say. */
const withheldHeader: Field = (text) =>
  [text, text.replaceAll('_', '-')].flatMap(plain('proxy_set_header', 'grpc_set_header'))

const skipped =
  (prefix: string): Field =>
  (text) =>
    ['proxy_cache_bypass', 'proxy_no_cache'].map((directive) => ({
      directive,
      plain: `$${prefix}${text.toLowerCase().replaceAll('-', '_')}`,
    }))

function condition(sort: string, prefix: string): Record<string, Field> {
  return {
    [`when.${sort}.{key}`]: sort === 'headers' ? judgedHeader : requestVariable(prefix),
    [`when.${sort}.*.exact`]: (text) => [{ directive: MAP_ENTRY, plain: `~^(?:${escapedRegex(text)})\\z` }],
    [`when.${sort}.*.regex`]: (text) => [{ directive: MAP_ENTRY, plain: `~${bounded(sought(text))}` }],
  }
}

const limits = {
  'timeouts.connect': plain('proxy_connect_timeout', 'grpc_connect_timeout'),
  'timeouts.read': plain('proxy_read_timeout', 'grpc_read_timeout'),
  'timeouts.send': plain('proxy_send_timeout', 'grpc_send_timeout'),
  maxBodySize: plain('client_max_body_size'),
}
const common: Record<string, Field> = {
  ...limits,
  'requestHeaders.set.{key}': plain('proxy_set_header', 'grpc_set_header'),
  'requestHeaders.set.*': template('proxy_set_header', 'grpc_set_header'),
  'requestHeaders.remove.[]': plain('proxy_set_header', 'grpc_set_header'),
  'responseHeaders.set.{key}': plain('add_header', 'proxy_hide_header', 'grpc_hide_header'),
  'responseHeaders.set.*': template('add_header'),
  'responseHeaders.remove.[]': plain('proxy_hide_header', 'grpc_hide_header'),
  'errorPages.pages.{key}': nowhere,
  'errorPages.pages.*.body': literal('return'),
  'errorPages.pages.*.contentType': plain('default_type'),
  'errorPages.pages.*.file': (text) => [
    { directive: 'root', expanded: text.replace(/\/[^/]*$/, '') || '/' },
    { directive: 'try_files', expanded: text.replace(/^.*\//, '/') },
  ],
  'errorPages.pages.*.upstream': blockName('proxy_pass'),
  'errorPages.pages.*.path': (text) => [{ directive: 'proxy_pass', ending: text }],
}
const everywhere: Record<string, Field> = {
  apiVersion: nowhere,
  kind: nowhere,
  'metadata.name': blockName('set', 'upstream', 'proxy_pass', MAP_ENTRY),
  'metadata.workspace': blockName('set', 'upstream', 'proxy_pass', 'grpc_pass', MAP_ENTRY),
  'metadata.zone': blockName('set', 'upstream', 'proxy_pass', 'grpc_pass', MAP_ENTRY),
  'metadata.labels.{key}': nowhere,
  'metadata.labels.*': nowhere,
  'spec.nodeSelector.{key}': nowhere,
  'spec.nodeSelector.*': nowhere,
}
const route: Record<string, Field> = {
  ...common,
  path: (text) => [
    { directive: 'location', plain: text },
    { directive: 'location', plain: bounded(text) },
    { directive: 'rewrite', plain: `(?s)^${escapedRegex(text)}(.*)$` },
  ],
  match: nowhere,
  'when.methods.[]': (text) => [{ directive: MAP_ENTRY, plain: `~^(?:${text})\\z` }],
  ...condition('headers', 'http_'),
  ...condition('cookies', 'cookie_'),
  ...condition('query', 'arg_'),
  action: nowhere,
  'policies.[]': nowhere,
  'withoutPolicies.[]': nowhere,
  'proxy.upstream': blockName('proxy_pass', 'grpc_pass', MAP_ENTRY),
  'proxy.split.{key}': (text) => [{ directive: MAP_ENTRY, plain: `~^${text}\\z` }],
  'proxy.split.*.upstream': blockName('proxy_pass', 'grpc_pass', MAP_ENTRY),
  'proxy.sticky.cookie': requestVariable('cookie_'),
  'proxy.sticky.header': judgedHeader,
  'proxy.force.cookie': requestVariable('cookie_'),
  'proxy.force.header': judgedHeader,
  'proxy.scheme': nowhere,
  'proxy.hostHeader': template('proxy_set_header', 'proxy_ssl_name', 'grpc_set_header', 'grpc_ssl_name'),
  // What lies in a certificate stands in a file, named by its hash.
  'proxy.tls.ca': nowhere,
  'proxy.tls.serverName': template('proxy_ssl_name', 'grpc_ssl_name'),
  'proxy.tls.clientCertificate': nowhere,
  'proxy.replacePrefix': (text) => [{ directive: 'rewrite', expanded: text + variable('1') }],
  'proxy.rewrite.regex': (text) => [{ directive: 'rewrite', plain: bounded(text) }],
  'proxy.rewrite.replacement': (text) => [
    { directive: 'rewrite', expanded: templateText(text) },
    { directive: 'rewrite', expanded: `${templateText(text)}?` },
  ],
  'proxy.buffers.size': (text) => [
    { directive: 'proxy_buffer_size', plain: text },
    { directive: 'proxy_buffers', plain: text },
    { directive: 'proxy_busy_buffers_size', plain: `${2 * Number.parseInt(text, 10)}k` },
  ],
  'proxy.maxTempFileSize': plain('proxy_max_temp_file_size'),
  'proxy.retries.timeout': plain('proxy_next_upstream_timeout', 'grpc_next_upstream_timeout'),
  'proxy.retries.on.[]': nowhere,
  'proxy.cookies.domains.{key}': plain('proxy_cookie_domain'),
  'proxy.cookies.domains.*': plain('proxy_cookie_domain'),
  'proxy.cookies.paths.{key}': plain('proxy_cookie_path'),
  'proxy.cookies.paths.*': plain('proxy_cookie_path'),
  'proxy.cookies.sameSite': nowhere,
  'proxy.redirects.{key}': plain('proxy_redirect'),
  'proxy.redirects.*': template('proxy_redirect'),
  'static.root': literal('root'),
  'static.index': (text) => [
    { directive: 'index', expanded: text },
    { directive: 'try_files', expanded: `/${text}` },
    { directive: 'try_files', expanded: `${variable('uri')}/${text}` },
  ],
  'redirect.to': (text) => [
    { directive: 'return', expanded: templateText(text) },
    { directive: 'return', expanded: templateText(text.replace(/\/+$/, '')) + variable('request_uri') },
  ],
  'redirect.regex': (text) => [{ directive: 'if', plain: bounded(text) }],
  'return.body': literal('return'),
  'return.contentType': plain('default_type'),
}
const site: Record<string, Field> = {
  ...below('spec.', common),
  'spec.template.name': nowhere,
  'spec.template.values.{key}': nowhere,
  // Of the one header that is made of it in the full documents.
  'spec.template.values.*': template('add_header'),
  'spec.hosts.[]': plain('server_name'),
  'spec.listeners.{key}': nowhere,
  // In the one way of writing it, as in URLs.
  'spec.listeners.*.address': (text) => [
    { directive: 'listen', within: new URL(`http://${text.includes(':') ? `[${text}]` : text}`).hostname },
  ],
  'spec.listeners.*.tls.certificate': nowhere,
  'spec.listeners.*.tls.minVersion': nowhere,
  'spec.listeners.*.tls.clientCertificate.ca': nowhere,
  'spec.listeners.*.tls.clientCertificate.mode': nowhere,
  'spec.keepalive.timeout': plain('keepalive_timeout'),
  'spec.maintenance.body': literal('return'),
  'spec.maintenance.contentType': plain('default_type'),
  'spec.policies.[]': nowhere,
  'spec.accessLogFields.{key}': (text) => [{ directive: 'log_format', prefix: `,"${text}":"` }],
  'spec.accessLogFields.*': (text) => [{ directive: 'log_format', suffix: `":${templateText(JSON.stringify(text))}` }],
  'spec.withoutPolicies.[]': nowhere,
  'spec.maintenance.allow.[]': plain(MAP_ENTRY),
  'spec.compression.types.[]': plain('gzip_types', 'brotli_types'),
  // Where answers are kept, by which of the site's routes they are.
  'spec.routes.{key}': literal('set'),
  ...below('spec.routes.*.', route),
  // Snippets are compared as what nginx reads in them.
  'spec.privileged.serverSnippet': nowhere,
  'spec.privileged.routeSnippets.{key}': nowhere,
  'spec.privileged.routeSnippets.*': nowhere,
}
const upstream: Record<string, Field> = {
  'spec.method': nowhere,
  'spec.template.name': nowhere,
  'spec.template.values.{key}': nowhere,
  'spec.template.values.*': nowhere,
  'spec.hashKey': template('hash'),
  'spec.sticky.cookie': (text) => [
    ...requestVariable('cookie_')(text),
    {
      directive: MAP_ENTRY,
      expanded: `${text}=${variable('request_id')}; Path=/; HttpOnly; Max-Age=9; Secure; SameSite=Lax`,
    },
  ],
  'spec.sticky.sameSite': nowhere,
  'spec.endpoints.{key}': (text) => [
    { directive: 'server', plain: text },
    { directive: 'server', plain: text.replace(/^(.*):/, (_, host: string) => `${addressOf(host)}:`) },
  ],
  'spec.endpoints.*.failTimeout': (text) => [{ directive: 'server', plain: `fail_timeout=${text}` }],
  'spec.keepalive.timeout': plain('keepalive_timeout'),
  // What the daemon observes is no text of nginx.
  'spec.healthCheck.type': nowhere,
  'spec.healthCheck.scheme': nowhere,
  'spec.healthCheck.path': nowhere,
  'spec.healthCheck.host': nowhere,
  'spec.healthCheck.interval': nowhere,
  'spec.healthCheck.timeout': nowhere,
  'spec.healthCheck.expect.body': nowhere,
  'spec.outlierDetection.interval': nowhere,
  'spec.outlierDetection.baseEjection': nowhere,
  'spec.outlierDetection.maxEjection': nowhere,
  'spec.circuitBreaker.window': nowhere,
  'spec.circuitBreaker.openFor': nowhere,
}
const certificate: Record<string, Field> = {
  'spec.certificate.[]': nowhere,
  'spec.key.secret': nowhere,
}
const secret: Record<string, Field> = {
  'spec.sealed.[]': nowhere,
  'spec.keys.{key}': nowhere,
  'spec.keys.*.{key}': nowhere,
  'spec.keys.*.*': nowhere,
}
function limitOf(directive: string): Record<string, Field> {
  return {
    '{key}': nowhere,
    '*.by': nowhere,
    '*.header': judgedHeader,
    '*.cookie': requestVariable('cookie_'),
    '*.zoneSize': (text) => [{ directive, plain: `zone=nxmesh_condition:${text}` }],
  }
}

const attack: Field = (text) => [{ directive: MAP_ENTRY, plain: `~*${bounded(sought(text), { dotAll: true })}` }]

const policy: Record<string, Field> = {
  'spec.type': nowhere,
  'spec.access.allow.[]': plain(MAP_ENTRY),
  'spec.access.deny.[]': plain(MAP_ENTRY),
  'spec.access.default': nowhere,
  ...below('spec.rateLimit.limits.', limitOf('limit_req_zone')),
  'spec.rateLimit.limits.*.rate': (text) => [{ directive: 'limit_req_zone', plain: `rate=${text}` }],
  ...below('spec.connectionLimit.limits.', limitOf('limit_conn_zone')),
  'spec.cors.origins.[]': (text) => [
    { directive: MAP_ENTRY, plain: `~^${escapedRegex(text).replace('\\*\\.', '[a-z0-9.-]+\\.')}\\z` },
  ],
  'spec.cors.methods.[]': literal(MAP_ENTRY),
  'spec.cors.headers.[]': literal(MAP_ENTRY),
  'spec.cors.exposedHeaders.[]': literal(MAP_ENTRY),
  'spec.mtls.subjects.[]': (text) => [{ directive: MAP_ENTRY, plain: `~^SUCCESS:${escapedRegex(text)}\\z` }],
  'spec.cache.zoneSize': (text) => [{ directive: 'proxy_cache_path', suffix: `:${text}` }],
  'spec.cache.maxSize': (text) => [{ directive: 'proxy_cache_path', plain: `max_size=${text}` }],
  'spec.cache.inactive': (text) => [{ directive: 'proxy_cache_path', plain: `inactive=${text}` }],
  'spec.cache.valid.{key}': (text) => text.split(',').map((each) => ({ directive: 'proxy_cache_valid', plain: each })),
  'spec.cache.valid.*': plain('proxy_cache_valid'),
  'spec.cache.key': (text) => [{ directive: 'proxy_cache_key', suffix: ` ${templateText(text)}` }],
  'spec.cache.bypass.headers.[]': (text) => [...skipped('http_')(text), ...passedOn(text)],
  'spec.cache.bypass.cookies.[]': skipped('cookie_'),
  'spec.cache.bypass.query.[]': skipped('arg_'),
  'spec.cache.ignore.[]': nowhere,
  'spec.cache.stale.[]': nowhere,
  'spec.cache.lockTimeout': plain('proxy_cache_lock_timeout'),
  'spec.cache.purge.{key}': (text) => [{ directive: MAP_ENTRY, plain: `~^${escapedRegex(text)}` }],
  'spec.externalAuth.upstream': within('proxy_pass'),
  'spec.externalAuth.path': (text) => [{ directive: 'proxy_pass', ending: text }],
  'spec.externalAuth.timeout': plain('proxy_connect_timeout', 'proxy_read_timeout', 'proxy_send_timeout'),
  'spec.externalAuth.headers.[]': (text) => [
    ...withheldHeader(text),
    { directive: 'auth_request_set', plain: `$upstream_http_${text.toLowerCase().replaceAll('-', '_')}` },
  ],
  'spec.externalAuth.signin': template('error_page'),
  // All of it stands in a file, packed, whose name is a hash.
  'spec.jwt.cookie': nowhere,
  'spec.jwt.keys.{key}': nowhere,
  'spec.jwt.keys.*.alg': nowhere,
  'spec.jwt.keys.*.secret': nowhere,
  'spec.jwt.keys.*.publicKey': nowhere,
  'spec.jwt.issuers.[]': nowhere,
  'spec.jwt.audiences.[]': nowhere,
  'spec.jwt.headers.{key}': withheldHeader,
  'spec.jwt.headers.*': nowhere,
  'spec.basicAuth.realm': literal('auth_basic'),
  'spec.waf.mode': nowhere,
  'spec.waf.rules.{key}': (text) => [{ directive: MAP_ENTRY, afterPath: text }],
  'spec.waf.rules.*.methods.[]': (text) => [{ directive: MAP_ENTRY, plain: `~^(?:${text})\\z` }],
  'spec.waf.rules.*.path': attack,
  'spec.waf.rules.*.query': attack,
  'spec.waf.rules.*.userAgent': attack,
  'spec.waf.rules.*.headers.{key}': judgedHeader,
  'spec.waf.rules.*.headers.*': attack,
  // ModSecurity's, in a file of its own: see the unit test of rendering policies.
  'spec.waf.coreRuleSet.exclusions.{key}': nowhere,
  'spec.waf.coreRuleSet.exclusions.*.target': nowhere,
  'spec.waf.coreRuleSet.exclusions.*.path': nowhere,
  // Users stand in a file of their own, whose name is a hash.
  'spec.basicAuth.secret': nowhere,
  'spec.basicAuth.users.{key}': nowhere,
  'spec.basicAuth.users.*': nowhere,
}
const stream: Record<string, Field> = {
  'spec.listeners.{key}': nowhere,
  'spec.listeners.*.address': (text) => [
    { directive: 'listen', within: new URL(`http://${text.includes(':') ? `[${text}]` : text}`).hostname },
  ],
  'spec.listeners.*.protocol': nowhere,
  'spec.listeners.*.tls.certificate': nowhere,
  'spec.listeners.*.tls.minVersion': nowhere,
  'spec.listeners.*.tls.clientCertificate.ca': nowhere,
  'spec.listeners.*.tls.clientCertificate.mode': nowhere,
  'spec.upstreamTls.ca': nowhere,
  'spec.upstreamTls.serverName': plain('proxy_ssl_name'),
  'spec.upstreamTls.clientCertificate': nowhere,
  'spec.hosts.[]': (text) => [
    text === '*' ? { directive: MAP_ENTRY, plain: 'default' } : { directive: MAP_ENTRY, plain: text },
  ],
  // Its block of servers is the stream's own.
  'spec.upstream': nowhere,
  'spec.timeouts.connect': plain('proxy_connect_timeout'),
  'spec.timeouts.idle': plain('proxy_timeout'),
  'spec.allow.[]': plain('allow'),
  'spec.deny.[]': plain('deny'),
}
const madeOf: Record<string, Field> = {
  'spec.parameters.{key}': nowhere,
  'spec.parameters.*.default': template('add_header'),
}
const zoneSettings: Record<string, Field> = {
  'spec.reload.confirmShrink': nowhere,
  'spec.realClient.trust.[]': plain('set_real_ip_from'),
  'spec.realClient.header': plain('real_ip_header'),
  'spec.workerShutdownTimeout': plain('worker_shutdown_timeout'),
  'spec.privileged.httpSnippets.{key}': nowhere,
  'spec.privileged.httpSnippets.*': nowhere,
  ...below('spec.defaults.', common),
  'spec.defaults.compression.types.[]': plain('gzip_types', 'brotli_types'),
  'spec.defaults.policies.[]': nowhere,
}
const FIELDS: Readonly<Record<string, Field>> = Object.assign(
  {},
  ...Object.entries({
    Site: site,
    Upstream: upstream,
    Certificate: certificate,
    Secret: secret,
    Policy: policy,
    Stream: stream,
    Template: madeOf,
    ZoneSettings: zoneSettings,
  }).map(([kind, fields]) => below(`${kind}.`, { ...everywhere, ...fields })),
) as Record<string, Field>

function below(prefix: string, fields: Readonly<Record<string, Field>>): Record<string, Field> {
  return Object.fromEntries(Object.entries(fields).map(([name, field]) => [prefix + name, field]))
}

/** What the text may become in nginx text. @throws Error for a field of which nothing is told here. */
export function meaningsOf(pattern: string, text: string): readonly Meaning[] {
  const field = FIELDS[pattern]
  if (field === undefined) throw new Error(`${pattern} is a new string field: say in field-meanings.ts what it becomes`)
  return field(text)
}

/** Whether the argument of the directive is what the meaning says, and nothing more. */
export function isMeant(meaning: Meaning, directive: string, argument: string): boolean {
  if (meaning.directive !== directive) return false
  if (meaning.plain !== undefined) return argument === meaning.plain
  if (meaning.afterPath !== undefined) {
    const [path = ''] = argument.split('#', 1)
    return /^[\w./:*-]*$/.test(path) && expandedText(argument.slice(path.length + 1)) === meaning.afterPath
  }
  // A rule of a policy is told behind its path.
  if (meaning.within !== undefined)
    return argument.includes(meaning.within) && /^[\w./:[\]*?=%-]*(?:#.*)?$/s.test(argument)
  if (meaning.asked !== undefined)
    return (/^\$\{nxmesh_asked\}\$upstream_status ([\w.-]+);$/.exec(argument)?.[1] ?? '').includes(meaning.asked)
  if (meaning.prefix !== undefined) return argument.startsWith(meaning.prefix)
  if (meaning.suffix !== undefined) return expandedText(argument).endsWith(meaning.suffix)
  if (meaning.ending !== undefined)
    return argument.endsWith(meaning.ending) && /^http:\/\/[\w.*-]+$/.test(argument.slice(0, -meaning.ending.length))
  return expandedText(argument) === meaning.expanded
}

/** The address that a host name has while fuzzing. */
export function addressOf(host: string): string {
  return [10, ...createHash('sha256').update(host).digest().subarray(0, 3)].join('.')
}
