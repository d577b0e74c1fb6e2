/**
 * The share of 5xx answers in the access log, in all and for each site, and whether a new generation made it worse.
 * Pure: lines in, verdict out. The lines are JSON with at least `status` and `site`, as rendering defines them.
 */

export interface Answers {
  readonly requests: number
  readonly errors: number
}

/** By site; under the empty key all together. */
export type AnswerCounts = Map<string, Answers>

export interface BakeRule {
  /** With fewer answers than this since the swap, or of one site, nothing is concluded. */
  readonly minRequests: number
  /** How far the share of 5xx may rise, 0 to 1. */
  readonly excess: number
}

export interface BakeFailure {
  readonly reason: string
  /** The changed sites that got worse; empty when it is only the whole that did. */
  readonly sites: readonly string[]
}

const ALL = ''

/** Adds up answers by site, and all together. Lines that are not JSON, our own probes, and answers of sites in maintenance or for open circuits are left out. */
export function countAnswers(lines: readonly string[], counts: AnswerCounts = new Map()): AnswerCounts {
  for (const line of lines) {
    if (line.includes('nxmesh-probe')) continue
    const answer = parse(line)
    if (answer === undefined || answer.isPlanned) continue
    for (const key of new Set([ALL, answer.site])) {
      const { requests, errors } = counts.get(key) ?? { requests: 0, errors: 0 }
      counts.set(key, { requests: requests + 1, errors: errors + (answer.status >= 500 ? 1 : 0) })
    }
  }
  return counts
}

/** Whether the answers since the swap are worse than the earlier ones, and of which changed sites. */
export function bakeFailure(
  earlier: AnswerCounts,
  since: AnswerCounts,
  changed: readonly string[],
  rule: BakeRule,
): BakeFailure | undefined {
  const worse = (key: string) => {
    const now = since.get(key)
    return now !== undefined && now.requests >= rule.minRequests && share(now) > share(earlier.get(key)) + rule.excess
  }
  // A site without earlier answers is new, or was idle: there is nothing that it got worse than.
  const sites = changed.filter((site) => earlier.has(site) && worse(site))
  if (sites.length === 0 && !(earlier.has(ALL) && worse(ALL))) return undefined
  const [key = ALL] = sites
  const percent = (answers: Answers | undefined) => `${Math.round(share(answers) * 100)} %`
  return {
    reason: `${percent(since.get(key))} of ${since.get(key)?.requests} answers were 5xx, earlier ${percent(earlier.get(key))}`,
    sites,
  }
}

function share(answers: Answers | undefined): number {
  return answers === undefined || answers.requests === 0 ? 0 : answers.errors / answers.requests
}

function parse(line: string): { status: number; site: string; isPlanned: boolean } | undefined {
  try {
    const { status, site, planned, upstream } = JSON.parse(line) as Readonly<Record<string, unknown>>
    if (!Number.isInteger(Number(status))) return undefined
    const isPlanned = planned === '1' || (typeof upstream === 'string' && upstream.endsWith('/circuit.sock'))
    return { status: Number(status), site: typeof site === 'string' ? site : ALL, isPlanned }
  } catch {
    return undefined
  }
}
