/**
 * Building blocks of the kinds' schemas: the texts, numbers and names that may stand in a resource, each with words
 * for what is wrong and what to write instead. Pure. Quoting for nginx is not done here but in src/nginx/rendering/quote.ts.
 */

import { isIP } from 'node:net'
import { domainToASCII } from 'node:url'
import { z } from 'zod'
import { LIMITS } from '../envelope.ts'
import { isName } from '../names.ts'
import { nearestName } from '../nearest-name.ts'

/** What is wrong with a value, and the way out. */
export interface Fault {
  readonly message: string
  readonly hint?: string | undefined
}
export type Judge = (value: string) => Fault | undefined

// Control and format characters (among them bidirectional overrides), line separators, lone surrogates.
const UNPRINTABLE = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/u
const UNPRINTABLE_IN_LINES = /(?![\n\t])[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/u

interface TextOptions {
  readonly maxBytes?: number
  /** Line feeds and tabs may stand in it. */
  readonly lines?: boolean
}

/** A text without control characters that the judge finds no fault with. */
export function text(judge: Judge = () => undefined, options: TextOptions = {}) {
  const { maxBytes = 1024, lines = false } = options
  return z.string().superRefine((value, context) => {
    const fault = judgeCharacters(value, maxBytes, lines) ?? judge(value)
    if (fault !== undefined) context.addIssue({ code: 'custom', message: fault.message, params: { hint: fault.hint } })
  })
}

function judgeCharacters(value: string, maxBytes: number, lines: boolean): Fault | undefined {
  if (value.length > maxBytes || Buffer.byteLength(value) > maxBytes)
    return { message: `is longer than ${maxBytes} bytes` }
  const found = (lines ? UNPRINTABLE_IN_LINES : UNPRINTABLE).exec(value)?.[0]
  if (found === undefined) return undefined
  const code = (found.codePointAt(0) as number).toString(16).toUpperCase().padStart(4, '0')
  return {
    message: `has the control character U+${code}`,
    hint: lines ? 'only line feeds and tabs may stand here' : 'write it on one line',
  }
}

export function matching(pattern: RegExp, message: string, hint?: string): Judge {
  return (value) => (pattern.test(value) ? undefined : { message, hint })
}

/** A whole number; envelopes carry no fractions. */
export function integer(min: number, max: number) {
  return z.int().min(min).max(max)
}

/** The name of another resource. */
export const reference = text((value) =>
  isName(value) ? undefined : { message: 'is not a name', hint: 'lower-case letters, digits and -' },
)

/** The key of a map that people choose: a route's id, a label. */
export const key = text(matching(/\S/, 'is empty'), { maxBytes: 128 })
/** A map of at most `max` entries: each of them costs every node. */
export function atMost<Value extends z.ZodType>(max: number, keys: z.ZodType<string, string>, value: Value) {
  return z
    .record(keys, value)
    .refine((map) => Object.keys(map).length <= max, { message: `has more than ${max} entries` })
}

const labelValue = text(undefined, { maxBytes: 253 })
export const labels = z.record(key, labelValue)

/** `500ms`, `30s`, `5m`, `1h`. */
export const duration = text(
  matching(/^[1-9]\d{0,5}(?:ms|s|m|h)$/, 'is not a duration', 'write it like 500ms, 30s, 5m or 1h'),
)
const UNIT_MS = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 }

/** The milliseconds of a checked duration. */
export function millisecondsOf(value: string): number {
  const [, count, unit] = /^(\d+)(ms|s|m|h)$/.exec(value) as unknown as [string, string, keyof typeof UNIT_MS]
  return Number(count) * UNIT_MS[unit]
}

/** A duration within bounds, both written as durations. */
export function durationWithin(min: string, max: string) {
  return duration.refine(
    (value) => {
      // What is no duration has been found fault with already.
      if (!/^\d+(?:ms|s|m|h)$/.test(value)) return true
      const ms = millisecondsOf(value)
      return ms >= millisecondsOf(min) && ms <= millisecondsOf(max)
    },
    { message: `is not between ${min} and ${max}` },
  )
}

/** A duration where nginx counts in whole seconds. */
export const wholeSeconds = text(
  matching(/^[1-9]\d{0,5}[smh]$/, 'is not a duration in whole seconds', 'write it like 30s, 5m or 1h'),
)
/** `512k`, `10m`, `1g`, or `0`, which is no limit. */
export const size = text(
  matching(/^(?:0|[1-9]\d{0,5}[kmg]?)$/, 'is not a size', 'write it like 512k, 10m or 1g; 0 is no limit'),
)

const UNITS = { '': 1, k: 2 ** 10, m: 2 ** 20, g: 2 ** 30 }

/** A size within bounds, in bytes. @param hint with both of them */
export function sizeWithin(min: number, max: number, hint: string) {
  return text((value) => {
    const bytes = /^[1-9]\d{0,5}[kmg]$/.test(value) ? (bytesOf(value) as number) : 0
    return bytes >= min && bytes <= max ? undefined : { message: 'is not a size that is possible here', hint }
  })
}

/** How many bytes a size is; undefined for what is none. */
export function bytesOf(value: string): number | undefined {
  const [, digits, unit] = /^(\d+)([kmg]?)$/.exec(value) ?? []
  return digits === undefined ? undefined : Number(digits) * UNITS[unit as keyof typeof UNITS]
}

export const timeouts = z.strictObject({
  connect: duration.optional(),
  read: duration.optional(),
  send: duration.optional(),
})

/** An IPv4 or IPv6 address, without brackets. */
export const ipAddress = text((value) => {
  if (isIP(value) !== 0 && !value.includes('%')) return undefined
  return { message: 'is not an IP address', hint: 'write it like 10.0.0.1 or 2001:db8::1, without brackets' }
})

/** An address, or a network as `10.0.0.0/8`, in its shortest form and without bits beyond its length. */
export const network = text((value) => {
  const [address = '', length, more] = value.split('/')
  const family = isIP(address)
  const max = family === 4 ? 32 : 128
  const isLength = length === undefined || (/^(?:0|[1-9]\d{0,2})$/.test(length) && Number(length) <= max)
  if (family === 0 || address.includes('%') || !isLength || more !== undefined)
    return { message: 'is not an address or a network', hint: 'write it like 10.0.0.1, 10.0.0.0/8 or 2001:db8::/32' }
  const first = firstAddress(address, Number(length ?? max))
  const wanted = length === undefined || Number(length) === max ? first : `${first}/${length}`
  return value === wanted ? undefined : { message: 'is not the usual form of a network', hint: `write it as ${wanted}` }
})

/** The first address of the network of that length that the address is in. */
function firstAddress(address: string, length: number): string {
  if (isIP(address) === 4) {
    const bytes = address.split('.').map(Number)
    return bytes.map((byte, index) => byte & maskOf(8, length - 8 * index)).join('.')
  }
  const [head = '', tail] = new URL(`http://[${address}]/`).hostname.slice(1, -1).split('::')
  const [before, after] = [head, tail ?? ''].map((half) => (half === '' ? [] : half.split(':'))) as [string[], string[]]
  const groups = [...before, ...Array<string>(8 - before.length - after.length).fill('0'), ...after]
  const masked = groups.map((group, index) =>
    (Number.parseInt(group, 16) & maskOf(16, length - 16 * index)).toString(16),
  )
  return new URL(`http://[${masked.join(':')}]/`).hostname.slice(1, -1)
}

/** A number of so many bits of which the first `ones` are 1. */
function maskOf(bits: number, ones: number): number {
  const zeros = bits - Math.min(bits, Math.max(0, ones))
  return (2 ** bits - 1) & ~(2 ** zeros - 1)
}

const HOST_LABEL = '[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?'
const HOST_NAME = new RegExp(`^${HOST_LABEL}(?:\\.${HOST_LABEL})*$`)

/** A host name in lower-case ASCII, at most 253 characters, without a final dot. */
function isHostName(value: string): boolean {
  return value.length <= 253 && HOST_NAME.test(value)
}

/** What a site answers to: a host name, `*.` before one, or `*`, which is whatever no other site claims. */
export const siteHost = text((value) => {
  if (value === '*' || isHostName(value.replace(/^\*\./, ''))) return undefined
  return { message: 'is not a host name', hint: hostHint(value) }
})

function hostHint(value: string): string {
  const lower = value.toLowerCase()
  if (value !== lower) return `write it in lower case: ${lower}`
  if (/[^\p{ASCII}]/u.test(value)) return `write international names in punycode: ${domainToASCII(value) || 'xn--...'}`
  if (/:\d+$/.test(value)) return 'ports are set in spec.listeners'
  if (value.includes('/')) return 'a host name alone, without scheme and path'
  if (value.endsWith('.')) return 'leave out the final dot'
  return 'write it like www.example.com, *.example.com or *'
}

export interface Endpoint {
  readonly host: string
  readonly port: number
  /** 4 or 6 for an address, 0 for a name that has to be looked up. */
  readonly family: 0 | 4 | 6
}

/** Takes `10.0.0.1:80`, `[2001:db8::1]:80` or `app.internal:80` apart; undefined when it is none of these. */
export function parseEndpoint(value: string): Endpoint | undefined {
  const [, bracketed, plain, portText] = /^(?:\[([^\]]+)\]|([^:[\]]+)):([1-9]\d{0,4})$/.exec(value) ?? []
  const port = Number(portText)
  const host = bracketed ?? plain
  if (host === undefined || port > 65535) return undefined
  const family = isIP(host) as 0 | 4 | 6
  if (bracketed !== undefined) return family === 6 && !host.includes('%') ? { host, port, family } : undefined
  // A last label of digits alone is a mistyped address: no resolver would find it.
  if (family === 0 && (!isHostName(host) || /(?:^|\.)\d+$/.test(host))) return undefined
  return { host, port, family }
}

export const endpointKey = text((value) => {
  if (parseEndpoint(value) !== undefined) return undefined
  return { message: 'is not an endpoint', hint: 'write it like 10.0.0.1:8080, [2001:db8::1]:8080 or app.internal:8080' }
})

// ---------------------------------------------------------------------------------------------- templates

/**
 * The nginx variables that a template may use, beside `$http_<name>` for a request header, `$cookie_<name>` and
 * `$arg_<name>` of the query. `$uri` is left out on
 * purpose: it is decoded, so that a client could put line breaks into a header through it. Use `$request_uri`.
 */
const VARIABLES: ReadonlySet<string> = new Set([
  'args',
  'bytes_sent',
  'connection',
  'host',
  'hostname',
  'msec',
  'proxy_add_x_forwarded_for',
  'query_string',
  'remote_addr',
  'remote_port',
  'request_id',
  'request_method',
  'request_time',
  'request_uri',
  'scheme',
  'server_addr',
  'server_name',
  'server_port',
  'server_protocol',
  'status',
  'time_iso8601',
  'upstream_addr',
  'upstream_cache_status',
  'upstream_response_time',
  'upstream_status',
])

export type TemplatePart = { readonly text: string } | { readonly variable: string }
export type GroupsPart = TemplatePart | { readonly group: number }

/** Splits `a $host b $$` into texts and variables; `$$` is a dollar sign. A fault for any other `$`. */
export function parseTemplate(value: string): readonly TemplatePart[] | Fault {
  return splitTemplate<TemplatePart>(value, () => undefined)
}

/** As parseTemplate, where `$1` to `$9` stand for groups of a regular expression. */
export function parseGroupsTemplate(value: string): readonly GroupsPart[] | Fault {
  return splitTemplate<GroupsPart>(value, (name) => (/^[1-9]$/.test(name) ? { group: Number(name) } : undefined))
}

function splitTemplate<Part>(
  value: string,
  special: (name: string) => Part | undefined,
): (Part | TemplatePart)[] | Fault {
  const parts: (Part | TemplatePart)[] = []
  let end = 0
  for (const match of value.matchAll(
    /\$(?:\$|((?:cookie|arg)_\w+|[a-z0-9_]+)|\{((?:cookie|arg)_\w+|[a-z0-9_]+)\})?/g,
  )) {
    if (match.index > end) parts.push({ text: value.slice(end, match.index) })
    end = match.index + match[0].length
    const name = match[1] ?? match[2]
    if (match[0] === '$$') parts.push({ text: '$' })
    else if (name !== undefined && special(name) !== undefined) parts.push(special(name) as Part)
    else if (name !== undefined && (VARIABLES.has(name) || /^(?:http_[a-z0-9_]+|(?:cookie|arg)_\w+)$/.test(name)))
      parts.push({ variable: name })
    else return templateFault(name)
  }
  if (end < value.length) parts.push({ text: value.slice(end) })
  return parts
}

function templateFault(name: string | undefined): Fault {
  if (name === undefined) return { message: 'has a $ that begins no variable', hint: 'write $$ for a dollar sign' }
  const close = nearestName(name, VARIABLES)
  const hint = close === undefined ? 'variables such as $host, $remote_addr, $request_uri' : `did you mean $${close}?`
  return {
    message: `uses $${name}, which is not a variable that may stand here`,
    hint: `${hint}; write $$ for a dollar sign`,
  }
}

/** Whether parseTemplate found a fault. */
export function isFault(result: readonly GroupsPart[] | Fault): result is Fault {
  return 'message' in result
}

function judgeTemplate(value: string): Fault | undefined {
  const result = parseTemplate(value)
  return isFault(result) ? result : undefined
}

/** The highest group of a regular expression that the text names, or 0. */
export function highestGroup(value: string): number {
  const parts = parseGroupsTemplate(value)
  return isFault(parts) ? 0 : Math.max(0, ...parts.map((part) => ('group' in part ? part.group : 0)))
}

/** What is wrong with a text that names more groups than the regular expression has; nothing where that is at fault. */
export function judgeGroups(value: string, regex: string): Fault | undefined {
  if (judgeRegex(regex) !== undefined) return undefined
  const groups = (new RegExp(`${regex}|`).exec('') as RegExpExecArray).length - 1
  if (highestGroup(value) <= groups) return undefined
  return {
    message: `names the group $${highestGroup(value)}, and regex has ${groups}`,
    hint: 'groups are written (...)',
  }
}

/** A text in which some nginx variables may stand (`$host`, `${request_id}`); `$$` is a dollar sign. */
export function template(judge: Judge = () => undefined) {
  return text((value) => judge(value) ?? judgeTemplate(value))
}

// ---------------------------------------------------------------------------------------------- headers

const HEADER_NAME = /^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$/

function headerName(reserved: ReadonlyMap<string, string>) {
  return text((value) => {
    const hint = reserved.get(value.toLowerCase())
    if (hint !== undefined) return { message: 'is a header that nginx itself must set', hint }
    return HEADER_NAME.test(value) ? undefined : { message: 'is not a header name', hint: 'letters, digits, - and _' }
  })
}

// A Connection header of one's own breaks draining: nginx then sends two and keeps the connection open.
const HOP_HEADERS: readonly (readonly [string, string])[] = [
  ['connection', 'leave it out; websocket: true on a proxy passes upgrades'],
  ['upgrade', 'leave it out; websocket: true on a proxy passes upgrades'],
  ['keep-alive', 'leave it out'],
  ['transfer-encoding', 'leave it out'],
  ['content-length', 'leave it out'],
]
export const requestHeaderName = headerName(new Map([...HOP_HEADERS, ['host', 'use hostHeader of the proxy']]))
const responseHeaderName = headerName(
  new Map([
    ...HOP_HEADERS,
    ['content-type', 'use contentType of the return, or the file name of a static file'],
    ['date', 'leave it out'],
    ['server', 'leave it out'],
  ]),
)

function headerMap(name: z.ZodType<string, string>) {
  return z.record(name, template()).superRefine((headers, context) => {
    const seen = new Map<string, string>()
    for (const header of Object.keys(headers)) {
      const twin = seen.get(header.toLowerCase())
      if (twin !== undefined)
        context.addIssue({ code: 'custom', message: `is set twice, as ${twin} too`, path: [header] })
      seen.set(header.toLowerCase(), header)
    }
  })
}

/** Headers of the request that goes to the upstream. */
export const requestHeaders = z.strictObject({
  set: headerMap(requestHeaderName).optional(),
  remove: z.array(requestHeaderName).optional(),
})
/** Headers of the response, on every status; one of the same name from the upstream is replaced. */
export const responseHeaders = z.strictObject({
  set: headerMap(responseHeaderName).optional(),
  /** Of what an upstream answers. */
  remove: z.array(responseHeaderName).max(64).optional(),
})

// ---------------------------------------------------------------------------------------------- regular expressions

const REGEX_REPEATS_MAX = 1000
const REGEX_ESCAPES = /^[dDwWsSbB/.\\+*?()[\]{}|^$-]$/

/**
 * Finds fault with a regular expression that nginx (PCRE) might read otherwise than it looks, that would define
 * variables, or that can take exponential time. Conservative: what passes is a subset of PCRE.
 */
export function judgeRegex(pattern: string): Fault | undefined {
  if (!/^[\x20-\x7e]+$/.test(pattern))
    return { message: 'has characters outside printable ASCII', hint: 'match them with . or a class' }
  if (pattern.startsWith('(*'))
    return { message: 'begins with (*, which is for PCRE itself', hint: 'write \\( for a parenthesis' }
  try {
    // The unicode flag refuses sloppy forms that engines read differently.
    RegExp(pattern, 'u')
  } catch (error) {
    return { message: `is not a regular expression: ${(error as Error).message.replace(/^.*\/u?: /, '')}` }
  }
  const groups = [new RegexGroup()]
  for (const token of pattern.matchAll(/\\.|\[(?:\\.|[^\]\\])*\]|\((?:\?(?:<?[=!]|.)?)?|\)|\{\d+(?:,\d*)?\}|./g)) {
    const fault = judgeRegexToken(token[0])
    if (fault !== undefined) return fault
    const open = groups.at(-1) as RegexGroup
    if (token[0] === ')') {
      groups.pop()
      const mayBacktrack = open.repeats || open.isAmbiguous
      if (mayBacktrack && /[*+{]/.test(pattern.charAt(token.index + 1))) {
        return {
          message: 'repeats a group that itself repeats, or chooses between things that may begin alike',
          hint: 'it could take exponential time; write it without nesting, or with a class such as [ab]',
        }
      }
      const outer = groups.at(-1) as RegexGroup
      outer.repeats ||= mayBacktrack
      continue
    }
    open.add(token[0])
    if (token[0].startsWith('(')) groups.push(new RegexGroup())
  }
  return undefined
}

/** What a group of a regular expression, or the whole, holds so far. */
class RegexGroup {
  repeats = false
  /** What each alternative begins with; empty before its first token. */
  private readonly starts = ['']

  add(token: string): void {
    if (token === '|') {
      this.starts.push('')
      return
    }
    if (/^[*+?{]/.test(token)) this.repeats = true
    // Letters of either case are one: a route may ignore it.
    this.starts[this.starts.length - 1] ||= token.toLowerCase()
  }

  /** Whether two alternatives may match the same: unless each begins with a character of its own. */
  get isAmbiguous(): boolean {
    const isDistinct = new Set(this.starts).size === this.starts.length
    return this.starts.length > 1 && !(isDistinct && this.starts.every((start) => /^[a-z0-9/_-]$/.test(start)))
  }
}

function judgeRegexToken(token: string): Fault | undefined {
  if (token === '[]' || token === '[^]')
    return { message: `uses ${token}, which PCRE reads otherwise`, hint: 'write what is in the class' }
  if (token.startsWith('(?') && !['(?:', '(?=', '(?!'].includes(token)) {
    return {
      message: `uses ${token}, which may not stand here`,
      hint: 'groups may be (...), (?:...), (?=...) and (?!...)',
    }
  }
  if ((token.match(/^\{.*\}$/)?.[0].match(/\d+/g) ?? []).some((count) => Number(count) > REGEX_REPEATS_MAX))
    return { message: `repeats more than ${REGEX_REPEATS_MAX} times`, hint: 'use + or *, or a smaller number' }
  const escapes = token.startsWith('\\') ? [token] : token.startsWith('[') ? (token.match(/\\./g) ?? []) : []
  const odd = escapes.find((escape) => !REGEX_ESCAPES.test(escape.slice(1)))
  return odd === undefined
    ? undefined
    : { message: `uses ${odd}, which may not stand here`, hint: 'classes such as \\d \\w \\s, and escaped punctuation' }
}

/** The limit of one string in an envelope, which a field that takes much text may use up. */
export const MAX_TEXT_BYTES = LIMITS.stringBytes
