/**
 * One line of the traffic log: what became of one request, at which site and upstream, and at which endpoints it was
 * tried. Defines the format for nginx and reads it back. Pure; rendering takes the format, observer.ts reads the lines.
 */

/** Fields in order; nginx escapes what is no printable ASCII, so no value holds a tab. */
const FIELDS = [
  '$msec',
  '$request_time',
  '$nxmesh_site',
  '$status',
  '$nxmesh_planned',
  '$proxy_host',
  '$upstream_addr',
  '$upstream_status',
  '$upstream_response_time',
] as const

/** The argument of log_format, still to be quoted; `\\t` as nginx is to read it. */
export const TRAFFIC_FORMAT = FIELDS.join('\t')

/** One endpoint that was asked. */
export interface Attempt {
  /** `10.0.0.1:80`; the name of the upstream's block where no endpoint was left to ask. */
  readonly address: string
  readonly failed: boolean
}

export interface Answer {
  /** Wall time when the request came in, ms. */
  readonly startedMs: number
  readonly seconds: number
  /** Resource path; empty where no site answered. */
  readonly site: string
  readonly status: number
  /** A site in maintenance answered. */
  readonly isPlanned: boolean
  /** Name of the upstream's block; empty without one. */
  readonly block: string
  /** In the order in which they were asked. */
  readonly attempts: readonly Attempt[]
  /** nginx answered in place of the upstream, whose circuit was open. */
  readonly isRejected: boolean
  /** Until the upstream had answered, all attempts together. */
  readonly upstreamSeconds: number
}

/** Undefined for what is no line of this log, or is half of one. */
export function parseAnswer(line: string): Answer | undefined {
  const parts = line.split('\t')
  if (parts.length !== FIELDS.length) return undefined
  const [msec, seconds, site, status, planned, block, addresses, statuses, times] = parts as [string, ...string[]]
  const [at, took, code] = [Number(msec), Number(seconds), Number(status)]
  if (!(at > 0) || !(took >= 0) || !Number.isInteger(code)) return undefined
  const asked = several(addresses)
  const answered = several(statuses)
  const attempts = asked.flatMap((address, index): Attempt[] => {
    const each = Number(answered[index])
    // Without a status the client went away before the endpoint had answered, which says nothing about it.
    return Number.isInteger(each) && each > 0 && !address.startsWith('unix:') ? [{ address, failed: each >= 500 }] : []
  })
  return {
    startedMs: (at - took) * 1000,
    seconds: took,
    site: present(site),
    status: code,
    isPlanned: planned === '1',
    block: present(block),
    attempts,
    isRejected: asked.at(-1)?.startsWith('unix:') === true,
    upstreamSeconds: several(times).reduce((sum, text) => sum + (Number(text) || 0), 0),
  }
}

function present(value: string | undefined): string {
  return value === undefined || value === '-' ? '' : value
}

/** `a, b : c`: one for each attempt, a colon where nginx went on to another location. */
function several(value: string | undefined): readonly string[] {
  const text = present(value)
  return text === '' ? [] : text.split(/, | : /)
}
