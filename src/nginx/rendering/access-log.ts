/**
 * nginx text of the access log: one JSON object a line, the format of all sites and that of a site with fields of its own. Pure;
 * called by main-conf.ts and render-site.ts.
 */

import type { LogField } from '../../core/resources/access-log.ts'
import type { Route, SiteSpec } from '../../core/resources/site.ts'
import { sortedEntries } from './lines.ts'
import { template } from './quote.ts'
import type { SiteMaps } from './site-maps.ts'
import { TRAFFIC_LOG_LINE } from './traffic-log.ts'

const FIELDS: Readonly<Record<LogField, string>> = {
  time: '$time_iso8601',
  site: '$nxmesh_site',
  status: '$status',
  method: '$request_method',
  host: '$host',
  uri: '$request_uri',
  seconds: '$request_time',
  bytes: '$body_bytes_sent',
  client: '$remote_addr',
  agent: '$http_user_agent',
  upstream: '$upstream_addr',
  upstream_status: '$upstream_status',
  upstream_seconds: '$upstream_response_time',
  request_id: '$request_id',
  // 1 where a site in maintenance answered.
  planned: '$nxmesh_planned',
  // The path of the policy that refused; of one that would have, in a dry run.
  refused_by: '$nxmesh_refused_by',
  would_refuse: '$nxmesh_would_refuse',
}

/** Lines of the http block. */
export const ACCESS_LOG_LINES: readonly string[] = [
  `log_format nxmesh escape=json '${JSON.stringify(FIELDS)}';`,
  'access_log logs/access.log nxmesh;',
]

/** What a server says of it; nothing where it is as for all. */
export function serverLogLines(spec: SiteSpec, maps: SiteMaps): readonly string[] {
  if (!spec.accessLog) return [TRAFFIC_LOG_LINE]
  return isOrdinary(spec) ? [] : logLines(spec, maps)
}

/** What a location says of it; nothing where it is as for the server. */
export function routeLogLines({ accessLog }: Route, spec: SiteSpec, maps: SiteMaps): readonly string[] {
  if (accessLog === undefined || accessLog === spec.accessLog) return []
  return accessLog ? logLines(spec, maps) : [TRAFFIC_LOG_LINE]
}

function isOrdinary({ accessLogPercent = 100, accessLogFields = {} }: SiteSpec): boolean {
  return accessLogPercent === 100 && Object.keys(accessLogFields).length === 0
}

/** Each access_log takes away those further out, that of the daemon among them. */
function logLines({ accessLogPercent = 100, accessLogFields }: SiteSpec, maps: SiteMaps): readonly string[] {
  // nginx escapes what variables hold, and nothing else.
  const own = sortedEntries(accessLogFields).map(([name, value]) => template(`,"${name}":${JSON.stringify(value)}`))
  const format =
    own.length === 0 ? 'nxmesh' : maps.logFormat([`'${JSON.stringify(FIELDS).slice(0, -1)}'`, ...own, "'}'"])
  const condition = accessLogPercent === 100 ? '' : ` if=$${maps.sample(accessLogPercent)}`
  return [`access_log logs/access.log ${format}${condition};`, TRAFFIC_LOG_LINE]
}
