/**
 * nginx text of the policy types `rateLimit` and `connectionLimit`: a zone for each limit, and what each location asks of
 * them. nginx counts a request once, however often it is redirected inside. Pure.
 */

import { requestVariable } from '../../../core/resources/conditions.ts'
import { bytesOf } from '../../../core/resources/fields.ts'
import type { ConnectionLimitSpec, Counted, RateLimitSpec } from '../../../core/resources/policies/limits.ts'
import { block, when } from '../lines.ts'
import { literal } from '../quote.ts'
import type { PolicyContext, PolicyText } from './policy-text.ts'

const KEY_BYTES_MAX = 1024

export function renderRateLimit(spec: RateLimitSpec, { path, scope }: PolicyContext): PolicyText {
  const limits = sorted(spec.limits)
  return {
    http: limits.flatMap((limit, index) => {
      const name = `${scope}_${index}`
      return [
        ...keyLines(limit, name),
        `limit_req_zone ${keyOf(limit, name)} zone=${name}:${limit.zoneSize} rate=${limit.rate};`,
      ]
    }),
    guards: [
      `set $nxmesh_rate_limit ${literal(path)};`,
      ...limits.map(({ burst, delayAfter }, index) => {
        // Without a burst nothing can wait.
        const delay =
          burst === 0 ? '' : delayAfter === undefined ? ' nodelay' : delayAfter === 0 ? '' : ` delay=${delayAfter}`
        return `limit_req zone=${scope}_${index}${burst === 0 ? '' : ` burst=${burst}`}${delay};`
      }),
      ...answerLines('limit_req', spec),
    ],
    judgedHeaders: headersOf(limits),
    sharedBytes: sharedBytesOf(limits),
  }
}

export function renderConnectionLimit(spec: ConnectionLimitSpec, { path, scope }: PolicyContext): PolicyText {
  const limits = sorted(spec.limits)
  return {
    http: limits.flatMap((limit, index) => {
      const name = `${scope}_${index}`
      return [...keyLines(limit, name), `limit_conn_zone ${keyOf(limit, name)} zone=${name}:${limit.zoneSize};`]
    }),
    guards: [
      `set $nxmesh_connection_limit ${literal(path)};`,
      ...limits.map(({ max }, index) => `limit_conn ${scope}_${index} ${max};`),
      ...answerLines('limit_conn', spec),
    ],
    judgedHeaders: headersOf(limits),
    sharedBytes: sharedBytesOf(limits),
  }
}

function answerLines(name: string, { status, dryRun }: Pick<RateLimitSpec, 'status' | 'dryRun'>): readonly string[] {
  // The access log tells of each refusal; the error log would repeat it.
  return [`${name}_status ${status};`, `${name}_log_level info;`, ...when(dryRun, `${name}_dry_run on;`)]
}

function sorted<Limit>(limits: Readonly<Record<string, Limit>>): readonly Limit[] {
  return Object.entries(limits)
    .toSorted(([a], [b]) => (a < b ? -1 : 1))
    .map(([, limit]) => limit)
}

/** nginx counts no request whose key is empty, so what has no header or cookie counts by its address. */
function keyLines(limit: Counted, name: string): readonly string[] {
  const variable = namedVariable(limit)
  if (variable === undefined) return []
  // Long ones would use up the zone.
  return block(`map $${variable} $${name}_key`, [
    `default $${variable};`,
    '"" $binary_remote_addr;',
    `"~^.{${KEY_BYTES_MAX + 1}}" $binary_remote_addr;`,
  ])
}

function keyOf(limit: Counted, name: string): string {
  if (limit.by === 'site') return '$nxmesh_site'
  return namedVariable(limit) === undefined ? '$binary_remote_addr' : `$${name}_key`
}

function namedVariable({ by, header = '', cookie = '' }: Counted): string | undefined {
  if (by === 'header') return requestVariable('http_', header)
  return by === 'cookie' ? requestVariable('cookie_', cookie) : undefined
}

function headersOf(limits: readonly Counted[]): readonly string[] {
  return limits.flatMap(({ by, header = '' }) => when(by === 'header', header))
}

function sharedBytesOf(limits: readonly Counted[]): number {
  return limits.reduce((sum, { zoneSize }) => sum + (bytesOf(zoneSize) as number), 0)
}
