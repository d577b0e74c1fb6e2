/**
 * One line of the traffic log: what became of one request, at which site, at which upstreams, and at which of their
 * endpoints it was tried. Defines the format for nginx and reads it back. Pure; rendering takes the format, observer.ts
 * reads the lines.
 */

/**
 * Where a request was to be passed on, location by location, as each of them adds to it: `<$upstream_status by then>
 * <block>;`. A location may refuse a request before it is passed on, and a page for its error may be another upstream's, so
 * that what nginx says of upstreams at last does not tell whose it is.
 */
export const ASKED_VARIABLE = 'nxmesh_asked'

/** 1 where the daemon asks, to see whether a site answers. */
export const PROBE_VARIABLE = 'nxmesh_probe'

/** Fields in order; nginx escapes what is no printable ASCII, so no value holds a tab. */
const FIELDS = [
  '$msec',
  '$request_time',
  '$nxmesh_site',
  '$status',
  '$nxmesh_planned',
  `$${ASKED_VARIABLE}`,
  '$upstream_addr',
  '$upstream_status',
  '$upstream_response_time',
  `$${PROBE_VARIABLE}`,
] as const

/** The argument of log_format, still to be quoted; `\\t` as nginx is to read it. */
export const TRAFFIC_FORMAT = FIELDS.join('\t')

/** One endpoint that was asked. */
export interface Attempt {
  /** `10.0.0.1:80`; the name of the upstream's block where no endpoint was left to ask. */
  readonly address: string
  readonly failed: boolean
}

/** One upstream that was asked. */
export interface Asked {
  /** Name of its block; empty where the location did not say. */
  readonly block: string
  /** In the order in which they were asked. */
  readonly attempts: readonly Attempt[]
  /** nginx answered in place of the upstream, whose circuit was open. */
  readonly isRejected: boolean
  /** What came back at last; of the client's answer where nothing did. */
  readonly status: number
  /** Until the upstream had answered, all attempts together. */
  readonly seconds: number
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
  /** The daemon asked, no client. */
  readonly isProbe: boolean
  /** In the order in which they were asked: the one that makes the page for another's error comes after it. */
  readonly asked: readonly Asked[]
}

/** Undefined for what is no line of this log, or is half of one. */
export function parseAnswer(line: string): Answer | undefined {
  const parts = line.split('\t')
  // What an older generation writes says nothing of probes.
  if (parts.length !== FIELDS.length && parts.length !== FIELDS.length - 1) return undefined
  const [msec, seconds, site, status, planned, told, addresses, statuses, times, isProbe] = parts as [
    string,
    ...string[],
  ]
  const [at, took, code] = [Number(msec), Number(seconds), Number(status)]
  if (!(at > 0) || !(took >= 0) || !Number.isInteger(code)) return undefined
  const [answered, lasted, blocks] = [groupsOf(statuses), groupsOf(times), blocksOf(present(told))]
  const asked = groupsOf(addresses).flatMap((group, index): Asked[] => {
    const said = (answered[index] ?? []).map(Number)
    const attempts = group.flatMap((address, attempt): Attempt[] => {
      const each = said[attempt] ?? 0
      // Without a status the client went away before the endpoint had answered, which says nothing about it.
      return each > 0 && !address.startsWith('unix:') ? [{ address, failed: each >= 500 }] : []
    })
    const one: Asked = {
      block: blocks.get(index) ?? '',
      attempts,
      isRejected: group.at(-1)?.startsWith('unix:') === true,
      status: (said.at(-1) ?? 0) > 0 ? (said.at(-1) as number) : code,
      seconds: (lasted[index] ?? []).reduce((sum, text) => sum + (Number(text) || 0), 0),
    }
    // Nobody was asked before the client went away.
    return group.every((address) => address === '') ? [] : [one]
  })
  return {
    startedMs: (at - took) * 1000,
    seconds: took,
    site: present(site),
    status: code,
    isPlanned: planned === '1',
    isProbe: isProbe === '1',
    asked,
  }
}

function present(value: string | undefined): string {
  return value === undefined || value === '-' ? '' : value
}

/** `a, b : c`: one for each attempt, a colon where nginx went on to another location. */
function groupsOf(value: string | undefined): readonly (readonly string[])[] {
  const text = present(value)
  return text === '' ? [] : text.split(' : ').map((group) => group.split(', '))
}

/** The block that was asked first, second and so on: of the last location that was to pass on before another was asked. */
function blocksOf(told: string): ReadonlyMap<number, string> {
  const blocks = new Map<number, string>()
  for (const part of told.split(';').filter(Boolean)) {
    const space = part.lastIndexOf(' ')
    blocks.set(groupsOf(part.slice(0, Math.max(0, space))).length, part.slice(space + 1))
  }
  return blocks
}
