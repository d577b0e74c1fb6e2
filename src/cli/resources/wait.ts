/**
 * Waits until nodes have applied what was written, and tells how each is doing: `apply --wait`. Reads receipts only; what
 * they mean is decided by pure functions, which `status` uses too.
 */

import type { NodeReceipt } from '../../api/schemas.ts'
import { parseResourcePath, type ResourceName } from '../../core/names.ts'
import { isBeyondGrant, isPlacedFor } from '../../core/slice.ts'
import { MeshError } from '../../errors.ts'
import type { Cli } from '../cli.ts'
import { plain, quoted, short, span } from '../terminal.ts'

/** How a node stands to the target that it should take up. */
export type Progress =
  /** What is beyond its author's grant is no failure of the node, except to its author, who waits for it. */
  | { readonly state: 'applied'; readonly leftOut: number; readonly reasons: readonly string[] }
  | { readonly state: 'pending'; readonly phase: string }
  /** It has tried this very target, and something stands in the way. */
  | { readonly state: 'failed'; readonly reasons: readonly string[] }
  /** It reports no applies: it manages no nginx. */
  | { readonly state: 'silent' }

/** @param paths what the caller cares about; a problem of anything else is not its failure. Undefined: everything. */
export function progressOf({ receipt, target }: NodeReceipt, paths?: ReadonlySet<string>): Progress {
  if (receipt === null) return { state: 'silent' }
  if (target === null || receipt.target !== target) return { state: 'pending', phase: 'not taken up yet' }
  const own = (path: string): boolean => paths === undefined || paths.has(path)
  const beyond = paths === undefined ? receipt.problems.filter(isBeyondGrant) : []
  const reasons = [
    ...receipt.problems.filter((problem) => own(problem.path) && !beyond.includes(problem)).map(worded),
    ...receipt.isolated
      .filter(({ path, why }) => own(path) && why !== 'untried')
      .map(({ path, reason, serves }) => `${path}: ${reason}${served(serves)}`),
  ]
  if (reasons.length > 0) return { state: 'failed', reasons }
  if (receipt.isolated.some(({ path, why }) => own(path) && why === 'untried'))
    return { state: 'pending', phase: 'not tried yet' }
  const { error, applied, desired, live, outcome, phase, isolated, problems, problemCount, withheld } = receipt
  const hidden = problemCount - problems.length - isolated.length - withheld
  // These come last, so that what is not shown is of their kind.
  const leftOut = beyond.length === 0 ? 0 : beyond.length + hidden
  const asApplied = { state: 'applied', leftOut, reasons: beyond.map(worded) } as const
  if (hidden > 0 && leftOut === 0) {
    return {
      state: 'failed',
      reasons: [`${hidden} more problems than the receipt shows: cannot tell whether this is one`],
    }
  }
  if (live !== null && live.error !== null) return { state: 'failed', reasons: [withHint(live.error)] }
  if (live?.lane === 'live' && (live.target !== target || live.applied !== live.desired))
    return { state: 'pending', phase: 'live' }
  if (applied !== null && applied === desired && error === null) return asApplied
  // What others broke on this node is their failure: the rest of the target is applied.
  const isProven = outcome === 'applied' || outcome === 'unchanged'
  const isAppliedElse = isolated.length + withheld > 0 && isProven && paths !== undefined
  if (isAppliedElse) return asApplied
  const isWaitingForMesh = outcome === 'held' && phase === 'hold'
  // Old workers drain; the node goes on by itself when they have ended.
  const isWaitingForMemory = error?.code === 'unavailable'
  if (error === null || isWaitingForMesh || isWaitingForMemory) return { state: 'pending', phase }
  return { state: 'failed', reasons: [withHint(error)] }
}

function worded(problem: Worded & { readonly path: string }): string {
  return `${problem.path}: ${withHint(problem)}`
}

interface Worded {
  readonly message: string
  readonly hint?: string | undefined
}

function withHint({ message, hint }: Worded): string {
  return hint === undefined ? message : `${message} (${hint})`
}

/** What nginx serves in its place, where the node says so. */
function served(serves: string | undefined): string {
  if (serves === undefined) return ''
  return serves === 'last_good' ? ' (its last good configuration serves)' : ' (it is left out)'
}

/** Whether a resource applies to a node that stands there. Its place is what policy grants it, not what it says. */
function concerns(path: string, { places }: Pick<NodeReceipt, 'places'>): boolean {
  return isPlacedFor(parseResourcePath(path) as ResourceName, places)
}

export function nameOf({ name, key }: Pick<NodeReceipt, 'name' | 'key'>): string {
  return name ?? short(key)
}

const POLL_MS = 250
/** A node that has just started reports its first apply within this time; after it, silence means that it manages no nginx. */
const FIRST_RECEIPT_MS = 3000

/**
 * Waits until every live node of the resources' zones has applied them.
 * @throws MeshError `not_applied` when one cannot, `timeout` when one has not.
 */
export async function waitUntilApplied(cli: Cli, paths: readonly string[], timeoutMs: number): Promise<void> {
  const { clock, signal } = cli.host
  const client = await cli.client()
  const wanted = new Set(paths)
  const started = clock.monotonic()
  const shown = new Map<string, string>()
  for (;;) {
    const all = await client.receipts()
    const nodes = all.filter((node) => paths.some((path) => concerns(path, node)))
    const live = nodes.filter(({ state }) => state === 'Ready')
    const isEarly = clock.monotonic() - started < FIRST_RECEIPT_MS
    const progress = live.map((node) => ({ node, progress: awaited(progressOf(node, wanted), isEarly) }))
    for (const each of progress) show(cli, each.node, each.progress, clock.monotonic() - started, shown)
    const failed = progress.filter((each) => each.progress.state === 'failed')
    const pending = progress.filter((each) => each.progress.state === 'pending')
    if (pending.length === 0) {
      conclude(
        cli,
        nodes,
        failed.map(({ node }) => nameOf(node)),
      )
      if (live.length === 0) cli.note(nobodyIn(paths, all))
      return
    }
    if (clock.monotonic() - started > timeoutMs) {
      const names = pending.map(({ node }) => nameOf(node)).join(', ')
      throw new MeshError('not_applied', `not applied within ${span(timeoutMs)} by: ${plain(names)}`, {
        hint: 'The edit is stored, and nodes go on trying. See: meshctl status',
      })
    }
    await clock.sleep(POLL_MS, signal)
  }
}

function awaited(progress: Progress, isEarly: boolean): Progress {
  return progress.state === 'silent' && isEarly ? { state: 'pending', phase: 'no receipt yet' } : progress
}

function conclude(cli: Cli, nodes: readonly NodeReceipt[], failed: readonly string[]): void {
  for (const node of nodes.filter(({ state }) => state !== 'Ready')) {
    const heard = node.ageMs === null ? 'not heard of since this node started' : `last heard of ${span(node.ageMs)} ago`
    cli.note(`${cli.paint.yellow('-')} ${plain(nameOf(node))}: ${node.state}, ${heard}; not waited for`)
  }
  if (failed.length > 0) {
    throw new MeshError('not_applied', `stored, but not applied by: ${plain(failed.join(', '))}`, {
      hint: 'A last good version goes on being served; without one the resource is left out. Correct it and apply again.',
    })
  }
}

function nobodyIn(paths: readonly string[], nodes: readonly NodeReceipt[]): string {
  const wanted = new Set(paths.map((path) => (parseResourcePath(path) as ResourceName).zone))
  const inhabited = new Set(nodes.flatMap(({ zones }) => zones))
  const list = (zones: ReadonlySet<string>): string => plain([...zones].toSorted().join(', ')) || 'no zone'
  return `no live node is in ${list(wanted)}; nodes are in: ${list(inhabited)}`
}

/** One line for each change of a node's progress. */
function show(cli: Cli, node: NodeReceipt, progress: Progress, elapsedMs: number, shown: Map<string, string>): void {
  const text = describe(cli, node, progress, elapsedMs)
  const key = JSON.stringify(progress)
  if (shown.get(node.key) === key) return
  shown.set(node.key, key)
  cli.host.stderr.write(text)
}

function describe({ paint }: Cli, node: NodeReceipt, progress: Progress, elapsedMs: number): string {
  const name = plain(nameOf(node))
  const after = paint.dim(`after ${(elapsedMs / 1000).toFixed(1)}s`)
  switch (progress.state) {
    case 'applied':
      return `${paint.green('✓')} ${name}: applied ${after}\n`
    case 'pending':
      return `${paint.dim('…')} ${name}: ${plain(progress.phase)}\n`
    case 'silent':
      return `${paint.dim('-')} ${name}: manages no nginx; not waited for\n`
    case 'failed':
      return `${paint.red('✗')} ${name}: not applied ${after}\n${progress.reasons.map((reason) => quoted(reason)).join('')}`
  }
}
