/**
 * The log of which the daemon learns how sites and upstreams do: one compact line for each request, of every site, and
 * shortened by the daemon once it is read. Text alone; what stands in a line is told in judging/traffic.ts.
 */

import { ASKED_VARIABLE, PROBE_VARIABLE, TRAFFIC_FORMAT } from '../../upstreams/judging/traffic.ts'

/** Below logs/. */
export const TRAFFIC_LOG = 'traffic.log'

/** What the daemon's probes of sites call themselves. */
export const PROBE_AGENT = 'nxmesh-probe'

/** Of http. nginx reads `\t` in quotes as a tab. */
export const TRAFFIC_FORMAT_LINES: readonly string[] = [
  `map $http_user_agent $${PROBE_VARIABLE} { default ""; ${PROBE_AGENT} 1; }`,
  `log_format nxmesh_traffic "${TRAFFIC_FORMAT.replaceAll('\t', String.raw`\t`)}";`,
]

/** So late at most nginx writes a line. */
export const TRAFFIC_DELAY_MS = 250

/** Wherever access_log stands, since each one takes away those further out. Written in batches. */
export const TRAFFIC_LOG_LINE = `access_log logs/${TRAFFIC_LOG} nxmesh_traffic buffer=64k flush=${TRAFFIC_DELAY_MS}ms;`

/**
 * Wherever a request of a client is passed on, before any rewrite: what happens later in another location is not this
 * upstream's. @param target the name of an upstream's block, or a variable that holds one
 */
export function askedLine(target: string): string {
  return `set $${ASKED_VARIABLE} "\${${ASKED_VARIABLE}}$upstream_status ${target};";`
}
