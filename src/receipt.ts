/**
 * How a node stands with its nginx, as peers and people are told: the form of it, and its bounds. Pure; reconciler.ts says
 * when there is something to tell.
 */

import { isBeyondGrant, type Problem } from './core/slice.ts'
import type { LiveReceipt } from './live-lane.ts'
import type { Applier } from './nginx/applying/apply.ts'
import type { ApplyError, ApplyResult, Outcome, Phase } from './nginx/applying/run.ts'
import { NEEDED_MODULES } from './nginx/rendering/needs.ts'
import type { Capabilities, WorkerProcess } from './ports.ts'
import type { UpstreamView } from './upstreams/observing/observer.ts'

/**
 * How this node stands, for peers and people. Canonical JSON: numbers are integers, what is not known is null. Bounded:
 * at most RECEIPT_LIMITS of problems, texts cut.
 */
export interface Receipt {
  /** The slice's target, which waves compare. Null before the first one. */
  readonly target: string | null
  /** The generation that the slice renders to, nothing isolated. */
  readonly desired: string | null
  /** The newest one that `nginx -t` accepted. */
  readonly validated: string | null
  /** What every worker is proven to run now. */
  readonly applied: string | null
  /** What a boot would start from. */
  readonly lastGood: string | null
  /** held: not tried (yet), because this node may not, too much would go, or old workers are in the way. Null before the first attempt. */
  readonly outcome: Outcome | 'held' | null
  /** The last phase of that attempt. */
  readonly phase: Phase | 'boot' | 'hold' | 'shrink' | 'render'
  /** What stands in the way now; null when nothing does. */
  readonly error: ApplyError | null
  readonly problems: readonly Problem[]
  /** Of which `problems` and `isolated` may show only the first; what is beyond an author's grant is shown last. */
  readonly problemCount: number
  /** Resources whose last good text serves, or that are left out, and why. */
  readonly isolated: ApplyResult['isolated']
  /** Wall time, ms. */
  readonly at: number
  /** ms spent in each phase of the last attempt. */
  readonly durations: Readonly<Record<string, number>>
  /** How endpoints reach nginx; null before that is known. */
  readonly live: LiveReceipt | null
  /** Drifted files put right since the daemon started. */
  readonly drift: number
  /** Upstreams that are not well, as this node sees them: the first by path. */
  readonly observed: readonly UpstreamView[]
  /** Of which `observed` may show only the first. */
  readonly observedCount: number
  readonly nginx: {
    readonly running: boolean
    readonly master: number | null
    readonly version: string | null
    /** Of those that resources may need, the ones that are there. */
    readonly modules: readonly string[]
    readonly workers: number
    readonly draining: number
  }
}

/** What a receipt holds at most, so that it fits into a status record. */
export const RECEIPT_LIMITS = { problems: 16, isolated: 16, textChars: 500, observed: 16, endpoints: 4 } as const

/** What is told at the end of a turn. */
export type SettledReceipt = Omit<Receipt, 'at' | 'live'>

/** What it is made of, whole. */
export interface ReceiptFacts extends Pick<
  Receipt,
  'target' | 'desired' | 'outcome' | 'phase' | 'error' | 'problems' | 'isolated' | 'durations' | 'drift'
> {
  readonly applier: Pick<Applier, 'applied' | 'lastGood' | 'validated'>
  readonly views: readonly UpstreamView[]
  /** Undefined before they are known. */
  readonly capabilities: Capabilities | undefined
  readonly master: number | undefined
  readonly workers: readonly WorkerProcess[]
}

export function receiptOf(facts: ReceiptFacts): SettledReceipt {
  const { applier, views, capabilities, master, workers, error, problems, isolated, ...rest } = facts
  const draining = workers.filter((worker) => worker.draining).length
  const inOrder = problems.toSorted((a, b) => Number(isBeyondGrant(a)) - Number(isBeyondGrant(b)))
  return {
    ...rest,
    validated: applier.validated ?? null,
    applied: applier.applied ?? null,
    lastGood: applier.lastGood?.digest ?? null,
    error: error === null ? null : cutTexts(error),
    problems: inOrder.slice(0, RECEIPT_LIMITS.problems).map(cutTexts),
    problemCount: problems.length + isolated.length,
    isolated: isolated.slice(0, RECEIPT_LIMITS.isolated).map(cutTexts),
    ...observed(views),
    nginx: {
      running: master !== undefined,
      master: master ?? null,
      version: capabilities?.version ?? null,
      modules: NEEDED_MODULES.filter((name) => capabilities?.modules.includes(name) === true),
      workers: workers.length - draining,
      draining,
    },
  }
}

/** Null before anything is known of the lane. */
export function liveReceiptOf(receipt: LiveReceipt | undefined): LiveReceipt | null {
  if (receipt === undefined || (receipt.reason === null && receipt.desired === null && receipt.error === null))
    return null
  return receipt.error === null ? receipt : { ...receipt, error: cutTexts(receipt.error) }
}

function observed(views: readonly UpstreamView[]): Pick<Receipt, 'observed' | 'observedCount'> {
  const unwell = views.filter(({ circuit, ailing }) => circuit !== 'closed' || ailing.length > 0)
  const first = unwell.toSorted((a, b) => (a.path < b.path ? -1 : 1)).slice(0, RECEIPT_LIMITS.observed)
  const cut = (addresses: readonly string[]) => addresses.slice(0, RECEIPT_LIMITS.endpoints)
  return {
    observed: first.map((view) => ({ ...view, ailing: cut(view.ailing), ejected: cut(view.ejected) })),
    observedCount: unwell.length,
  }
}

/** The same with every text at a length that fits into a status record. */
function cutTexts<T extends object>(value: T): T {
  const entries = Object.entries(value).map(([key, text]) => [
    key,
    typeof text === 'string' && text.length > RECEIPT_LIMITS.textChars
      ? `${text.slice(0, RECEIPT_LIMITS.textChars)}…`
      : text,
  ])
  return Object.fromEntries(entries) as T
}
