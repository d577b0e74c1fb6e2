/**
 * The share of 5xx answers of each site in the traffic log, and whether a new generation made it worse, for the sites that
 * it changed: what happens to others meanwhile is not its doing. Pure: lines in, verdict out.
 */

import { parseAnswer } from '../../upstreams/judging/traffic.ts'
import type { Unit } from '../rendering/unit.ts'
import { changedUnits } from './isolate.ts'

export interface Answers {
  readonly requests: number
  readonly errors: number
}

/** By site; under the empty key those of no site. */
export type AnswerCounts = Map<string, Answers>

export interface BakeRule {
  /** With fewer answers than this since the swap, of a site or of all changed ones, nothing is concluded. */
  readonly minRequests: number
  /** How far the share of 5xx may rise, 0 to 1. */
  readonly excess: number
}

export interface BakeFailure {
  readonly reason: string
  /** The changed sites that got worse. */
  readonly sites: readonly string[]
}

/** The sites that a generation changed: whose text, or that of an upstream that they need, is another; or all, when what all share is. */
export function sitesToWatch(before: readonly Unit[], after: readonly Unit[]): readonly Unit[] {
  const changed = changedUnits(before, after)
  const kept = new Set(after.map(({ path }) => path))
  const gone = before.filter(({ path }) => !kept.has(path))
  const shared = [...changed, ...gone].filter(({ kind }) => kind === 'settings')
  const isOfAll = shared.length > 0 || changed.length + gone.length === 0
  const paths = new Set(changed.map(({ path }) => path))
  return after.filter(
    ({ kind, path, needs }) => kind === 'site' && (isOfAll || [path, ...needs].some((one) => paths.has(one))),
  )
}

/** Adds up answers by site. Lines of another sort, our own probes, and answers of sites in maintenance or for open circuits are left out. */
export function countAnswers(lines: readonly string[], counts: AnswerCounts = new Map()): AnswerCounts {
  for (const line of lines) {
    const answer = parseAnswer(line)
    if (answer === undefined || answer.isProbe || answer.isPlanned) continue
    if (answer.asked.some(({ isRejected }) => isRejected)) continue
    const { requests, errors } = counts.get(answer.site) ?? NONE
    counts.set(answer.site, { requests: requests + 1, errors: errors + (answer.status >= 500 ? 1 : 0) })
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
  // A site without earlier answers is new, or was idle: there is nothing that it got worse than.
  const known = changed.filter((site) => earlier.has(site))
  const of = (sites: readonly string[]) => ({ before: sum(sites, earlier), now: sum(sites, since) })
  const rose = (sites: readonly string[]) => share(of(sites).now) > share(of(sites).before) + rule.excess
  const worse = (sites: readonly string[]) => of(sites).now.requests >= rule.minRequests && rose(sites)
  const alone = known.filter((site) => worse([site]))
  // Many with few answers each tell together.
  const sites = alone.length > 0 || !worse(known) ? alone : known.filter((site) => rose([site]))
  if (sites.length === 0) return undefined
  const { before, now } = of(alone.length > 0 ? sites.slice(0, 1) : known)
  return { reason: `${percent(now)} of ${now.requests} answers were 5xx, earlier ${percent(before)}`, sites }
}

const NONE: Answers = { requests: 0, errors: 0 }

function sum(sites: readonly string[], counts: AnswerCounts): Answers {
  let [requests, errors] = [0, 0]
  for (const site of sites) {
    const answers = counts.get(site) ?? NONE
    requests += answers.requests
    errors += answers.errors
  }
  return { requests, errors }
}

function percent(answers: Answers): string {
  return `${Math.round(share(answers) * 100)} %`
}

function share({ requests, errors }: Answers): number {
  return requests === 0 ? 0 : errors / requests
}
