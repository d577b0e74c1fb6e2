/**
 * All of a slice that reaches nginx without a reload: entries of upstreams and sites, as far as workers have room for them,
 * and those of certificates. Pure; called by render.ts, and by reconciler.ts for the lane alone.
 */

import { Memo } from '../../core/memo.ts'
import type { UpstreamSpec } from '../../core/resources/upstream.ts'
import { isSite, isUpstream, olderFirst, type Problem, type SliceResource } from '../../core/slice.ts'
import { Certificates } from './certificates.ts'
import type { Site } from './claims.ts'
import { asksLive, siteEntries, upstreamEntry, usesLane, type LiveState } from './live.ts'
import { hasTls, liveCertificates } from './live-certificates.ts'
import { tooHeavy } from './node-limits.ts'
import { ownChanges } from './own-changes.ts'
import type { RenderInput } from './render-input.ts'
import { withoutRefused } from './refused-endpoints.ts'
import { upstreamKeyOf } from './render-upstream.ts'
import { shareOut } from './shares.ts'

/**
 * Of the endpoints, splits and maintenance flags of a node, as text. With certificates, and with what a generation asks for
 * until the next one serves, it fits into one push.
 */
const LIVE_ENTRIES_MEBIBYTES_MAX = 4

type Entry = readonly [key: string, value: string]

export interface LiveEntries {
  readonly entries: readonly Entry[]
  /** By path, upstreams and sites that found no room: their text has it all, as where there is no lane. */
  readonly crowdedOut: ReadonlyMap<string, Problem>
}

const NONE: LiveEntries = { entries: [], crowdedOut: new Map() }
const remembered = new Memo<Entry>()

/**
 * @param upstreams those that can be rendered, and the sites: the oldest first
 * @param known paths of all resources that there are for this node
 */
export function liveEntries(
  input: RenderInput,
  upstreams: readonly SliceResource<UpstreamSpec>[],
  sites: readonly Site[],
  known: () => ReadonlySet<string>,
): LiveEntries {
  if (!usesLane(input.capabilities, input.host)) return NONE
  remembered.turn()
  const told = [
    ...upstreams.map((upstream) => {
      const entry = entryOf(upstream, input)
      // What is seen of an upstream must not change what others get.
      const isOpen = input.openCircuits.has(upstream.path)
      const usual = isOpen ? entryOf(upstream, { ...input, openCircuits: new Set() }) : entry
      return { resource: upstream, entries: [entry], bytes: bytesOf([usual]) }
    }),
    ...sites.flatMap((site) => {
      const entries = siteEntries(site, known)
      return entries.length === 0 ? [] : [{ resource: site, entries, bytes: bytesOf(entries) }]
    }),
  ]
  const demands = told.map(({ resource: { path, name }, bytes }) => {
    return { key: path, workspace: name.workspace, cost: bytes }
  })
  const granted = shareOut(demands, LIVE_ENTRIES_MEBIBYTES_MAX * 1024 * 1024)
  const isTold = ({ resource }: (typeof told)[number]) => granted.has(resource.path)
  const crowdedOut = told.filter((one) => !isTold(one)).map(({ resource: { path } }) => crowded(path))
  return {
    entries: told.filter(isTold).flatMap(({ entries }) => entries),
    crowdedOut: new Map(crowdedOut.map((problem) => [problem.path, problem])),
  }
}

let last: { readonly input: RenderInput; readonly state: LiveState } | undefined

/** The live part of the rendering alone, which does not cost the work of all sites. The same object while it is the same. */
export function renderLive(input: RenderInput): LiveState | undefined {
  if (!usesLane(input.capabilities, input.host)) return undefined
  const isAsBefore = last !== undefined && ownChanges(last.input, input) !== undefined
  last = { input, state: isAsBefore && last !== undefined ? last.state : wholeState(input) }
  return last.state
}

function wholeState(given: RenderInput): LiveState {
  const input = withoutRefused(given)
  const { slice, addresses, secrets } = input
  const upstreams = slice.resources.filter(isUpstream).toSorted(olderFirst)
  const heavy = tooHeavy(slice, addresses)
  const all = slice.resources.filter(isSite)
  const asking = all.filter(({ spec }) => asksLive(spec)).toSorted(olderFirst)
  let known: ReadonlySet<string> | undefined
  const { entries } = liveEntries(
    input,
    upstreams.filter(({ path }) => !heavy.has(path)),
    asking,
    () => (known ??= new Set([...slice.resources, ...slice.problems].map(({ path }) => path))),
  )
  const sites = all.filter(hasTls)
  if (sites.length === 0) return new Map(entries)
  const certificates = new Certificates(slice, secrets)
  return new Map([...entries, ...liveCertificates(sites.toSorted(olderFirst), certificates, input).entries])
}

function entryOf(upstream: SliceResource<UpstreamSpec>, input: RenderInput): Entry {
  const { addresses, host } = input
  return remembered.get(upstreamKeyOf(upstream, addresses, input, host), () =>
    upstreamEntry(upstream, addresses, input, host),
  )
}

function bytesOf(entries: readonly Entry[]): number {
  return entries.reduce((sum, [key, value]) => sum + key.length + value.length, 0)
}

function crowded(path: string): Problem {
  const message = `its changes take a reload: workers are told of at most ${LIVE_ENTRIES_MEBIBYTES_MAX}m of endpoints, splits and maintenance of a node, shared out among workspaces`
  return { path, code: 'unsupported', message, hint: 'remove endpoints or splits of this workspace' }
}
