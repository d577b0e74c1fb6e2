/**
 * Fields that several directives say together, or one of them more than once: all of these become the field where it means
 * exactly the same, or all of them stay nginx text. Pure; called by import.ts, import-site.ts and import-location.ts.
 */

import { bytesOf } from '../../core/resources/fields.ts'
import type { Tree } from '../../core/resources/kind.ts'
import { faultOfRoute, faultOfSettings, faultOfSite } from './faults.ts'
import { durationOf, wholeOf } from './fields.ts'
import type { Directive } from './parse.ts'

export interface Group {
  readonly fields: Tree
  /** What the fields say. */
  readonly taken: readonly Directive[]
}

const NOTHING: Group = { fields: {}, taken: [] }

/** nginx compresses from here on by itself. */
const GZIP_MIN_LENGTH = 20

function allOf(directives: readonly Directive[], ...names: readonly string[]): readonly Directive[] {
  return directives.filter(({ name }) => names.includes(name))
}

/** The last of a name, which nginx lets stand once. */
function wordsOf(directives: readonly Directive[], name: string): readonly string[] | undefined {
  return directives.findLast((each) => each.name === name)?.args
}

/** Of a server. The field also varies, compresses for other proxies, and speaks brotli where nginx can. */
export function compressionOf(server: readonly Directive[]): Group {
  const said = (name: string): string => (wordsOf(server, name) ?? []).join(' ')
  const isSame = said('gzip') === 'on' && said('gzip_vary') === 'on' && said('gzip_proxied') === 'any'
  if (!isSame || server.some(({ name }) => name.startsWith('brotli'))) return NOTHING
  // Which is always one, and so the way to say that there are no others.
  const types = new Set([...(wordsOf(server, 'gzip_types') ?? []), 'text/html'])
  const least = wordsOf(server, 'gzip_min_length')?.[0]?.toLowerCase()
  const minLength = least === undefined ? GZIP_MIN_LENGTH : bytesOf(least)
  if (minLength === undefined) return NOTHING
  const fields = { compression: { types: [...types], minLength } }
  if (faultOfSite(fields) !== undefined) return NOTHING
  return { fields, taken: allOf(server, 'gzip', 'gzip_vary', 'gzip_proxied', 'gzip_types', 'gzip_min_length') }
}

/** Of a location that proxies, below its `proxy`. */
export function proxyGroups(location: readonly Directive[]): Group {
  const found = [retriesOf, redirectsOf, cookiesOf, buffersOf].map((group) => group(location))
  const fitting = found.filter(
    ({ fields }) => faultOfRoute({ path: '/', action: 'proxy', proxy: { upstream: 'it', ...fields } }) === '',
  )
  return {
    fields: Object.assign({}, ...fitting.map(({ fields }) => fields)) as Tree,
    taken: fitting.flatMap(({ taken }) => taken),
  }
}

function retriesOf(location: readonly Directive[]): Group {
  const taken = allOf(location, 'proxy_next_upstream', 'proxy_next_upstream_tries', 'proxy_next_upstream_timeout')
  if (taken.length === 0) return NOTHING
  const on = (wordsOf(location, 'proxy_next_upstream') ?? []).map((word) => word.replace(/^http_(?=\d)/, ''))
  const [tries = '0'] = wordsOf(location, 'proxy_next_upstream_tries') ?? []
  const [time = '0'] = wordsOf(location, 'proxy_next_upstream_timeout') ?? []
  const attempts = on.includes('off') ? 1 : wholeOf(tries)
  const timeout = /^0+[a-z]*$/.test(time) ? undefined : durationOf(time)
  if (attempts === undefined || (timeout === undefined && !/^0+[a-z]*$/.test(time))) return NOTHING
  const retries = {
    ...(attempts === 0 ? {} : { attempts }),
    ...(timeout === undefined ? {} : { timeout }),
    ...(on.length === 0 || on.includes('off') ? {} : { on: [...new Set(on)] }),
  }
  return Object.keys(retries).length === 0 ? NOTHING : { fields: { retries }, taken }
}

function redirectsOf(location: readonly Directive[]): Group {
  const taken = allOf(location, 'proxy_redirect')
  const redirects = replaced(taken)
  return redirects === undefined ? NOTHING : { fields: { redirects }, taken }
}

function cookiesOf(location: readonly Directive[]): Group {
  const [domainLines, pathLines] = [allOf(location, 'proxy_cookie_domain'), allOf(location, 'proxy_cookie_path')]
  const [domains, paths] = [replaced(domainLines), replaced(pathLines)]
  const flagLines = allOf(location, 'proxy_cookie_flags')
  const flags = flagsOf(flagLines)
  const fields = {
    ...(domains === undefined ? {} : { domains }),
    ...(paths === undefined ? {} : { paths }),
    ...flags,
  }
  if (Object.keys(fields).length === 0) return NOTHING
  const taken = [
    ...(domains === undefined ? [] : domainLines),
    ...(paths === undefined ? [] : pathLines),
    ...(flags === undefined ? [] : flagLines),
  ]
  return { fields: { cookies: fields }, taken }
}

/** What begins with what becomes what; undefined where there is none, or where their order says something else than the field. */
function replaced(directives: readonly Directive[]): Tree | undefined {
  const pairs = directives.map(({ args }) => args)
  const isPlain = pairs.every(
    ([from = '', to, ...more]) => to !== undefined && more.length === 0 && !/^[~$]/.test(from),
  )
  // The field tries the longest first.
  const isInOrder = pairs.every(([from = ''], index) =>
    pairs.slice(0, index).every(([earlier = '']) => !from.startsWith(earlier)),
  )
  return pairs.length > 0 && isPlain && isInOrder ? Object.fromEntries(pairs) : undefined
}

const FLAGS: Readonly<Record<string, Tree>> = {
  secure: { secure: true },
  nosecure: { secure: false },
  httponly: { httpOnly: true },
  nohttponly: { httpOnly: false },
  'samesite=strict': { sameSite: 'strict' },
  'samesite=lax': { sameSite: 'lax' },
  'samesite=none': { sameSite: 'none' },
}

function flagsOf([line, ...more]: readonly Directive[]): Tree | undefined {
  const [cookies, ...words] = line?.args ?? []
  if (cookies !== '~' || more.length > 0) return undefined
  const known = words.map((word) => (Object.hasOwn(FLAGS, word) ? FLAGS[word] : undefined))
  return known.includes(undefined) ? undefined : (Object.assign({}, ...known) as Tree)
}

/** The field says all sizes by one. */
function buffersOf(location: readonly Directive[]): Group {
  const [count = '', size = ''] = (wordsOf(location, 'proxy_buffers') ?? []).map((word) => word.toLowerCase())
  const first = wordsOf(location, 'proxy_buffer_size')?.[0]?.toLowerCase()
  const busy = wordsOf(location, 'proxy_busy_buffers_size')?.[0]?.toLowerCase()
  if (size === '' || first !== size || (busy !== undefined && bytesOf(busy) !== 2 * (bytesOf(size) ?? 0)))
    return NOTHING
  const taken = allOf(location, 'proxy_buffers', 'proxy_buffer_size', 'proxy_busy_buffers_size')
  return { fields: { buffers: { size, count: wholeOf(count) } }, taken }
}

/** Of http: who is believed about the client, for the zone settings. */
export function realClientOf(http: readonly Directive[]): Group {
  const taken = allOf(http, 'set_real_ip_from', 'real_ip_header', 'real_ip_recursive')
  const trust = allOf(taken, 'set_real_ip_from').flatMap(({ args }) => args)
  const [header = 'X-Real-IP'] = wordsOf(taken, 'real_ip_header') ?? []
  if (trust.length === 0 || header === 'proxy_protocol') return NOTHING
  const recursive = wordsOf(taken, 'real_ip_recursive')?.[0] === 'on'
  const fields = { realClient: { trust: [...new Set(trust)], header, recursive } }
  return faultOfSettings(fields) === undefined ? { fields, taken } : NOTHING
}
