/**
 * The policy types `rateLimit` and `connectionLimit`: how many requests, and how many at the same time, a client, the
 * holder of a header or cookie, or a whole site may make. Several limits of one policy all hold. Pure. Parts of the kind
 * Policy; nginx is told in src/nginx/rendering/policies/limits.ts.
 */

import { z } from 'zod'
import { headerName, variableName } from '../conditions.ts'
import { atMost, integer, key, matching, sizeWithin, text } from '../fields.ts'
import type { PolicyType } from './policy-type.ts'

/** Of one policy, of each type: every request asks all of them. */
const LIMITS_MAX = 8
const ZONE_BYTES = { min: 32 * 1024, max: 256 * 1024 * 1024 }

const counted = {
  /** What is counted together: requests of an address, with one value of a header or cookie, or all of the site. */
  by: z.enum(['client', 'header', 'cookie', 'site']).default('client'),
  /** With `by: header`. A request without it, or with a very long one, counts for its address. */
  header: headerName.optional(),
  /** With `by: cookie`. A request without it counts for its address. */
  cookie: variableName.optional(),
  /** What nginx remembers counts in, in every worker together: 1m holds about 8,000 addresses. */
  zoneSize: sizeWithin(ZONE_BYTES.min, ZONE_BYTES.max, 'write it like 512k or 10m; at least 32k, at most 256m').default(
    '4m',
  ),
}

function needsName(limit: { by: string; header?: string | undefined; cookie?: string | undefined }): boolean {
  return (limit.by === 'header' && limit.header === undefined) || (limit.by === 'cookie' && limit.cookie === undefined)
}
const NAME_FAULT = { message: 'says no name', params: { hint: 'write it like { by: header, header: X-Api-Key }' } }

const rate = z
  .strictObject({
    ...counted,
    rate: text(matching(/^[1-9]\d{0,5}r\/[sm]$/, 'is not a rate', 'write it like 10r/s or 30r/m')),
    /** How many more pass when they come faster. */
    burst: integer(0, 100_000).default(0),
    /** How many of the burst pass at once; those after them wait for their turn. None waits when left out. */
    delayAfter: integer(0, 100_000).optional(),
  })
  .refine((limit) => !needsName(limit), NAME_FAULT)

const connections = z
  .strictObject({ ...counted, max: integer(1, 65_535) })
  .refine((limit) => !needsName(limit), NAME_FAULT)

const anyLimit = {
  /** What a refused request is answered with. Not a 5xx, which would look like a failure to who watches over reloads. */
  status: integer(400, 499).default(429),
  /** Counts, and says in the access log what it would refuse, but refuses nothing. */
  dryRun: z.boolean().default(false),
}
/** None would leave a site without the protection that it names. */
function limitsOf<Limit extends z.ZodType>(limit: Limit) {
  return atMost(LIMITS_MAX, key, limit).refine((limits) => Object.keys(limits).length > 0, { message: 'has no limit' })
}
const rateSchema = z.strictObject({ ...anyLimit, limits: limitsOf(rate) })
const connectionSchema = z.strictObject({ ...anyLimit, limits: limitsOf(connections) })

export type RateLimitSpec = z.output<typeof rateSchema>
export type ConnectionLimitSpec = z.output<typeof connectionSchema>
/** What all limits say of what they count. */
export type Counted = Pick<z.output<typeof rate>, 'by' | 'header' | 'cookie' | 'zoneSize'>

export const rateLimit = {
  schema: rateSchema,
  sets: [],
  items: [['limits', '*']],
} as const satisfies PolicyType<RateLimitSpec>

export const connectionLimit = {
  schema: connectionSchema,
  sets: [],
  items: [['limits', '*']],
} as const satisfies PolicyType<ConnectionLimitSpec>
