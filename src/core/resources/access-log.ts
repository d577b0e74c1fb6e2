/**
 * What of a site's requests stands in the access log: how many of them, and which fields beside those of every line. Pure;
 * a part of the kind Site. The format itself is made in src/nginx/rendering/access-log.ts.
 */

import { atMost, integer, matching, template, text } from './fields.ts'

/** In every line, whatever the site. */
export const LOG_FIELDS = [
  'time',
  'site',
  'status',
  'method',
  'host',
  'uri',
  'seconds',
  'bytes',
  'client',
  'agent',
  'upstream',
  'upstream_status',
  'upstream_seconds',
  'request_id',
  'planned',
  'refused_by',
  'would_refuse',
] as const
export type LogField = (typeof LOG_FIELDS)[number]

const isName = matching(/^[a-z][a-z0-9_]{0,62}$/, 'is not a field of the log', 'lower-case letters, digits and _')
const fieldName = text((value) =>
  (LOG_FIELDS as readonly string[]).includes(value)
    ? { message: 'is a field of every line', hint: 'take another name' }
    : isName(value),
)

/** Templates by the name of the field. */
export const accessLogFields = atMost(16, fieldName, template())

/** Of the requests, by chance; each whole. */
export const accessLogPercent = integer(1, 100)
