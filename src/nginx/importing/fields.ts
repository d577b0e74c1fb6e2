/**
 * Which directive is which field: the tables that the importer goes by. A directive that a table names, with a value that
 * the field can hold, becomes the field; any other stays nginx text. A further field is one line here. Pure.
 */

import type { z } from 'zod'
import { duration, size, wholeSeconds } from '../../core/resources/fields.ts'
import type { Directive } from './parse.ts'

export interface FieldRule {
  /** Below the spec of the site, the route or the upstream. */
  readonly field: readonly string[]
  /** Undefined when the field cannot say it. */
  readonly value: (args: readonly string[]) => string | number | boolean | undefined
}
type Rules = Readonly<Record<string, FieldRule>>

const LIMITS: Rules = {
  client_max_body_size: { field: ['maxBodySize'], value: one(sizeOf) },
  proxy_connect_timeout: { field: ['timeouts', 'connect'], value: one(durationOf) },
  proxy_read_timeout: { field: ['timeouts', 'read'], value: one(durationOf) },
  proxy_send_timeout: { field: ['timeouts', 'send'], value: one(durationOf) },
}

const LOGS: Rules = {
  access_log: { field: ['accessLog'], value: one((text) => (text === 'off' ? false : undefined)) },
}

export const SITE_RULES: Rules = {
  ...LIMITS,
  keepalive_timeout: { field: ['keepalive', 'timeout'], value: one(durationOf) },
  keepalive_requests: { field: ['keepalive', 'requests'], value: one(wholeOf) },
  ...LOGS,
}

export const ROUTE_RULES: Rules = { ...LIMITS, ...LOGS }

/** Of a route that proxies. */
export const PROXY_RULES: Rules = {
  proxy_buffering: { field: ['proxy', 'buffering'], value: one(offOnly) },
  proxy_request_buffering: { field: ['proxy', 'requestBuffering'], value: one(offOnly) },
  proxy_max_temp_file_size: { field: ['proxy', 'maxTempFileSize'], value: one((text) => text.toLowerCase()) },
  proxy_ssl_name: { field: ['proxy', 'tls', 'serverName'], value: one((text) => text) },
}

/** What holds anyway, as the node and nginx have it, where no outer level says otherwise. */
const IMPLIED: Readonly<Record<string, string>> = {
  auth_basic: 'off',
  autoindex: 'off',
  chunked_transfer_encoding: 'on',
  etag: 'on',
  expires: 'off',
  gzip: 'off',
  proxy_buffering: 'on',
  proxy_cache: 'off',
  proxy_http_version: '1.1',
  proxy_intercept_errors: 'off',
  proxy_request_buffering: 'on',
  proxy_ssl_verify: 'off',
  sendfile: 'on',
  tcp_nodelay: 'on',
  tcp_nopush: 'on',
}

/** @param outer names of the directives of the level around, which it may be there to undo */
export function isImplied({ name, args }: Directive, outer: ReadonlySet<string>): boolean {
  return Object.hasOwn(IMPLIED, name) && args.join(' ') === IMPLIED[name] && !outer.has(name)
}

/** Why what has a field or a policy may be text all the same. */
const REASONS: readonly (readonly [RegExp, string])[] = [
  [/^gzip/, 'compression stands for gzip on, gzip_vary on and gzip_proxied any, in a server, together'],
  [/^(?:allow|deny|satisfy)$/, 'an access policy would come before what else is asked here, or has no such address'],
  [
    /^auth_basic/,
    'a basicAuth policy would answer otherwise: its file must be there to read, with hashes of SHA-256, SHA-512, apr1 or bcrypt alone, and nothing may be answered before it',
  ],
  [
    /^limit_(?:req|conn)/,
    'a policy counts by client, answers with a status of 4xx, and shares its zone with no text or other limits',
  ],
  [
    /^error_page$/,
    'a page as a field is one file of an exact location without headers and rules of its own, for all of the server',
  ],
  [/_cache(?:_|$)/, 'a cache policy keeps answers for each site and route apart, and none of websockets'],
  [/^proxy_(?:redirect|cookie)/, 'fields replace beginnings, the longest first'],
]

/** @param directive that stays nginx text */
export function reasonFor({ name }: Directive): string {
  const [, why] = REASONS.find(([names]) => names.test(name)) ?? []
  return `kept as text: ${why ?? 'the importer reads it into no field'}`
}

export const UPSTREAM_RULES: Rules = {
  least_conn: { field: ['method'], value: none('least_conn') },
  ip_hash: { field: ['method'], value: none('ip_hash') },
  random: { field: ['method'], value: none('random') },
  keepalive: { field: ['keepalive', 'connections'], value: one(wholeOf) },
  keepalive_timeout: { field: ['keepalive', 'timeout'], value: one(durationOf) },
  keepalive_requests: { field: ['keepalive', 'requests'], value: one(wholeOf) },
}

/** Parameters of `server` in an upstream, by what stands before their `=`. */
export const ENDPOINT_RULES: Rules = {
  weight: { field: ['weight'], value: one(wholeOf) },
  max_fails: { field: ['maxFails'], value: one(wholeOf) },
  fail_timeout: { field: ['failTimeout'], value: one((text) => accepted(wholeSeconds, inUnits(text))) },
  backup: { field: ['backup'], value: none(true) },
  down: { field: ['down'], value: none(true) },
}

/** Directives of http that the node's own nginx.conf settles. */
export const NODE_SETTLES =
  /^(?:sendfile|tcp_nopush|tcp_nodelay|server_tokens|(?:access|error)_log|log_format|\w+_hash(?:_bucket|_max)_size|(?:client_body|proxy|fastcgi|uwsgi|scgi)_temp_path)$/

/** What logs say, of a server or a location. */
export const LOGGING = /^(?:access_log|error_log|log_not_found|log_subrequest)$/

/** Directives that may stand in http alone, beside what definitions.ts carries: no resource has a place for them. */
export const HTTP_ONLY =
  /^(?:map|geo|split_clients|limit_(?:req|conn)_zone|\w+_cache_path|geoip_\w+|perl_\w+|lua_(?!code_cache)\w+|init(?:_worker)?_by_lua\w*|js_\w*(?:import|path|set|zone)|keyval\w*|match)$/

/** The name that a directive of http gives to what it defines. */
export function definedBy({ name, args }: Pick<Directive, 'name' | 'args'>): string | undefined {
  if (name === 'geo') return args.at(-1)
  if (/^(?:map|split_clients)$/.test(name)) return args[1]
  return args.map((arg) => /^(?:keys_)?zone=([^:]+)/.exec(arg)?.[1]).find((zone) => zone !== undefined)
}

/** Directives that pass requests on, to an address or to an upstream by name. */
export const PASSES = /^(?:proxy|grpc|fastcgi|uwsgi|scgi|memcached)_pass$/

/** Takes the scheme, the name or address, and the rest of what a directive of PASSES names. */
export const PASSED_TO = /^((?:\w+:\/\/)?)(unix:[^:]+|[^/:$]+)(.*)$/

/** Where files lie that nobody says where they lie. */
export function defaultRoot(prefix: string): string {
  return `${prefix}/html`
}

/** Lists that a level inherits whole or not at all, and that NxMesh writes into each location. */
export const PER_LOCATION = ['add_header', 'proxy_set_header', 'proxy_hide_header', 'error_page'] as const

/** Sets a value at a path of a spec. */
export function put(spec: Record<string, unknown>, [first, ...rest]: readonly string[], value: unknown): void {
  if (first === undefined) return
  if (rest.length === 0) spec[first] = value
  else put((spec[first] ??= {}) as Record<string, unknown>, rest, value)
}

function one(value: (text: string) => ReturnType<FieldRule['value']>): FieldRule['value'] {
  return ([text, ...more]) => (text === undefined || more.length > 0 ? undefined : value(text))
}

function offOnly(text: string): boolean | undefined {
  return text === 'off' ? false : undefined
}

function none(value: string | boolean): FieldRule['value'] {
  return (args) => (args.length === 0 ? value : undefined)
}

function accepted(schema: z.ZodType<string>, text: string): string | undefined {
  return schema.safeParse(text).success ? text : undefined
}

/** nginx counts in seconds where nothing is said, and knows days. */
function inUnits(text: string): string {
  if (/^\d+$/.test(text)) return `${text}s`
  return text.replace(/^(\d+)d$/, (_, days: string) => `${Number(days) * 24}h`)
}

export function durationOf(text: string): string | undefined {
  return accepted(duration, inUnits(text))
}

function sizeOf(text: string): string | undefined {
  const lower = text.toLowerCase()
  const bytes = Number(lower)
  return accepted(size, bytes > 999_999 && bytes % 1024 === 0 ? `${bytes / 1024}k` : lower)
}

export function wholeOf(text: string): number | undefined {
  return /^\d{1,9}$/.test(text) ? Number(text) : undefined
}
