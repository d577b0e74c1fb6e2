/**
 * The policy type `cache`: which answers of upstreams nginx keeps, for how long, and how they are thrown away: by an edit,
 * which every node heeds. GET and HEAD alone. Pure. Part of the kind Policy; nginx is told in
 * src/nginx/rendering/policies/cache.ts.
 */

import { z } from 'zod'
import { headerName, variableName } from '../conditions.ts'
import {
  atMost,
  integer,
  isFault,
  matching,
  parseTemplate,
  sizeWithin,
  template,
  text,
  wholeSeconds,
} from '../fields.ts'
import type { PolicyType } from './policy-type.ts'

const ZONE_BYTES = { min: 32 * 1024, max: 1024 * 1024 * 1024 }
const DISK_BYTES_MIN = 1024 * 1024

const statuses = text(
  matching(/^(?:any|[1-5]\d\d(?:,[1-5]\d\d)*)$/, 'is not a status', 'write it like 200, 301,302 or any'),
)

const PURGES_MAX = 64
const purgedPrefix = text(matching(/^\/[\x21-\x7e]*$/, 'is not the beginning of a path', 'write it like / or /img/'))

const STALE = [
  'error',
  'timeout',
  'invalid_header',
  'updating',
  '403',
  '404',
  '429',
  '500',
  '502',
  '503',
  '504',
] as const
const IGNORED = ['cacheControl', 'expires', 'setCookie', 'vary'] as const

const schema = z.strictObject({
  /** What nginx remembers of kept answers, in every worker together: 1m holds about 8,000. */
  zoneSize: sizeWithin(ZONE_BYTES.min, ZONE_BYTES.max, 'write it like 512k or 10m; at least 32k, at most 1g').default(
    '10m',
  ),
  /** On each node's disk. */
  maxSize: sizeWithin(DISK_BYTES_MIN, Infinity, 'write it like 100m or 10g; at least 1m').default('1g'),
  /** What nobody asked for so long is thrown away, however long it is valid. */
  inactive: wholeSeconds.default('10m'),
  /** How long answers are good, by status, where the upstream does not say. Nothing else is kept. */
  valid: atMost(16, statuses, wholeSeconds).optional(),
  /** What tells answers apart, beside the site, the route and the upstream. */
  key: template((value) => {
    const parts = parseTemplate(value)
    const names = isFault(parts) ? [] : parts.flatMap((part) => ('variable' in part ? part.variable : []))
    if (names.some((name) => name.startsWith('cookie_'))) {
      const hint = 'nginx looks at the first of several, and the upstream may at another: name the cookie in bypass'
      return { message: 'tells answers apart by a cookie, of which clients can send several', hint }
    }
    if (names.includes('request_uri')) return undefined
    return { message: 'would give one answer for every path', hint: 'let it have $request_uri' }
  }).default('$scheme://$host$request_uri'),
  /** Requests with any of these are passed on, and their answers not kept. */
  bypass: z
    .strictObject({
      headers: z.array(headerName).max(16).optional(),
      cookies: z.array(variableName).max(16).optional(),
      query: z.array(variableName).max(16).optional(),
    })
    .optional(),
  /** Of somebody known too, by Authorization, a certificate or a policy: everybody gets what the first one got. */
  authorized: z.boolean().default(false),
  /** What of the upstream's own words counts for nothing. Where setCookie is among them, no answer sets cookies. */
  ignore: z.array(z.enum(IGNORED)).max(IGNORED.length).optional(),
  /** When an answer that is too old is given all the same. */
  stale: z.array(z.enum(STALE)).max(STALE.length).optional(),
  /** Gives the old answer while one request fetches the new one; goes with `updating` in stale. */
  backgroundUpdate: z.boolean().default(false),
  /** Of several requests for what is not there, one goes to the upstream. */
  lock: z.boolean().default(false),
  lockTimeout: wholeSeconds.default('5s'),
  /** Asks the upstream whether an old answer is still good. */
  revalidate: z.boolean().default(false),
  /** How often something is asked for before it is kept. */
  minUses: integer(1, 1000).default(1),
  /** Adds `X-Cache-Status`: HIT, MISS, BYPASS, EXPIRED, STALE, UPDATING, REVALIDATED. */
  statusHeader: z.boolean().default(false),
  /** By beginning of the path, as it was sent: a number. Another number throws away all that was kept below it. */
  purge: atMost(PURGES_MAX, purgedPrefix, integer(0, 1_000_000_000)).optional(),
})

export type CacheSpec = z.output<typeof schema>

export const cache = {
  schema,
  sets: [['bypass', 'headers'], ['bypass', 'cookies'], ['bypass', 'query'], ['ignore'], ['stale']],
  items: [],
} as const satisfies PolicyType<CacheSpec>
