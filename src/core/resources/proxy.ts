/**
 * What a route with `proxy` says: which upstream a request goes to, how it is changed on its way, and what becomes of
 * the answer. Part of the kind Site; its text is in src/nginx/rendering/proxy.ts.
 */

import { z } from 'zod'
import { atMost, bytesOf, duration, integer, matching, reference, template, text, type Fault } from './fields.ts'
import { judgeRewrites, redirectedFrom, redirectedTo, replacePrefix, rewrite } from './rewriting.ts'
import { force, isSplit, split, sticky } from './split.ts'
import { isEncrypted, isGrpc, upstreamTls } from './upstream-tls.ts'

/** Prefixes of one proxy that are replaced in answers. */
const REPLACED_MAX = 16

const RETRY_REASONS = [
  'error',
  'timeout',
  'invalid_header',
  'non_idempotent',
  '403',
  '404',
  '429',
  '500',
  '502',
  '503',
  '504',
] as const

const retries = z.strictObject({
  /** How many endpoints are asked at most, the first one included: 1 never retries. All of them when left out. */
  attempts: integer(1, 100).optional(),
  /** No further endpoint is asked after this. */
  timeout: duration.optional(),
  /** `error` and `timeout` when left out. POST, LOCK and PATCH are sent once, unless non_idempotent is among these. */
  on: z.array(z.enum(RETRY_REASONS)).max(RETRY_REASONS.length).optional(),
})

const cookieDomain = text(
  matching(/^\.?[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?$/, 'is not a domain', 'write it like example.com'),
)
const cookiePath = text(matching(/^\/[\w./~-]*$/, 'is not a path of cookies', 'write it like /app/'))

const cookies = z.strictObject({
  /** What the domain of a cookie that the upstream sets becomes. */
  domains: atMost(REPLACED_MAX, cookieDomain, cookieDomain).optional(),
  /** What the beginning of a cookie's path becomes; the longest that fits counts. */
  paths: atMost(REPLACED_MAX, cookiePath, cookiePath).optional(),
  /** Of every cookie; false takes the flag away. */
  secure: z.boolean().optional(),
  httpOnly: z.boolean().optional(),
  sameSite: z.enum(['strict', 'lax', 'none']).optional(),
})

// nginx reads no g here.
const fileSize = text(matching(/^(?:0|[1-9]\d{0,5}[km]?)$/, 'is not a size', 'write it like 512k or 10m; 0 is nothing'))

const buffers = z.strictObject({
  /** Of one buffer; the header of an answer has to fit into it. */
  size: text(matching(/^[1-9]\d{0,2}k$/, 'is not a size of buffers', 'write it like 16k')).default('8k'),
  count: integer(3, 256).default(8),
})

export const proxy = z.strictObject({
  /** An Upstream of the same workspace, looked up from the site's zone outward. Needed unless there is a split. */
  upstream: reference.optional(),
  split: split.optional(),
  sticky: sticky.optional(),
  force: force.optional(),
  /** `https` and `grpcs` encrypt, and verify the upstream's certificate where `tls.ca` says by what. */
  scheme: z.enum(['http', 'https', 'grpc', 'grpcs']).default('http'),
  tls: upstreamTls.optional(),
  /** `/api/users` at a route with path `/api/` becomes `/users`. Escapes such as %2F are decoded by this. */
  stripPrefix: z.boolean().default(false),
  /** `/v2/`: `/api/users` at a route with path `/api/` becomes `/v2/users`. Decodes escapes too. */
  replacePrefix: replacePrefix.optional(),
  /** Decodes escapes too. */
  rewrite: rewrite.optional(),
  websocket: z.boolean().default(false),
  /** Off: the response is passed on as it comes. */
  buffering: z.boolean().default(true),
  /** Off: the request's body is passed on as it comes, and no second endpoint is asked once it began. */
  requestBuffering: z.boolean().default(true),
  /** Of answers, for each request. */
  buffers: buffers.optional(),
  /** What of an answer may lie in a file while the client is slow; 0: nothing. */
  maxTempFileSize: fileSize.optional(),
  hostHeader: template((value) => (value === '' ? { message: 'is empty' } : undefined)).default('$host'),
  retries: retries.optional(),
  cookies: cookies.optional(),
  /** What the beginning of a `Location` header becomes; the longest that fits counts. */
  redirects: atMost(REPLACED_MAX, redirectedFrom, redirectedTo).optional(),
})

export type Proxy = z.output<typeof proxy>

/** What of a proxy does not go with the rest of it, or with its route. */
export function proxyFaults(
  route: { readonly match: string; readonly path: string },
  spec: Proxy,
): { readonly field: string; readonly fault: Fault }[] {
  const faults = judgeRewrites(route, spec)
  if (spec.upstream === undefined && !isSplit(spec))
    faults.push({ field: 'upstream', fault: { message: 'is required', hint: 'name an Upstream, or several in split' } })
  if (spec.tls !== undefined && !isEncrypted(spec))
    faults.push({ field: 'tls', fault: { message: 'needs scheme: https or grpcs' } })
  if (isGrpc(spec)) {
    for (const field of saidBesideGrpc(spec)) {
      const hint = field === 'websocket' ? 'give the websocket a route of its own' : 'leave it out'
      faults.push({ field, fault: { message: 'is not possible with gRPC', hint } })
    }
  }
  const least = spec.buffers?.size ?? '8k'
  const bytes = bytesOf(spec.maxTempFileSize ?? '0') ?? 0
  if (bytes > 0 && bytes < (bytesOf(least) ?? 0))
    faults.push({
      field: 'maxTempFileSize',
      fault: { message: `is less than a buffer of ${least}`, hint: '0 is none' },
    })
  return faults
}

/** What nginx can do for proxies of HTTP alone. */
function saidBesideGrpc(spec: Proxy): readonly string[] {
  const { websocket, requestBuffering, buffers, maxTempFileSize, cookies, redirects } = spec
  const said = { websocket, requestBuffering: !requestBuffering, buffers, maxTempFileSize, cookies, redirects }
  return Object.entries(said).flatMap(([field, value]) => (value === undefined || value === false ? [] : field))
}
