/**
 * From a slice to nginx text: one unit per Site and Upstream, and the generation that includes them. Settles what
 * concerns several resources: references, who owns a host name and a listener. A pure function of its input: no time,
 * no disk, equal slices give equal bytes on every host. Called by the reconciler and the apply side.
 */

import { Memo, perObject } from '../../core/memo.ts'
import { resourcePath } from '../../core/names.ts'
import { upstreamsOf } from '../../core/resources/split.ts'
import type { StickyCookie, UpstreamSpec } from '../../core/resources/upstream.ts'
import type { ZoneSettingsSpec } from '../../core/resources/zone-settings.ts'
import {
  isSite,
  isStream,
  isUpstream,
  isZoneSettings,
  olderFirst,
  type Problem,
  type Slice,
  type SliceResource,
} from '../../core/slice.ts'
import { indexOf, replaced } from '../../core/sorted.ts'
import { Certificates } from './certificates.ts'
import { http2Of } from './server-tls.ts'
import { beginSiteTls, siteTls, type ShownCertificates } from './site-tls.ts'
import { Claims, listenerKey, wishesOf, type Site } from './claims.ts'
import { pageFilesOf, pageUpstreamsOf } from './error-pages.ts'
import type { HostLayout } from './host-layout.ts'
import { sortedEntries, toText, when } from './lines.ts'
import { asksLive, usesLane, type LiveState } from './live.ts'
import { liveCertificates } from './live-certificates.ts'
import { liveEntries, renderLive, type LiveEntries } from './live-state.ts'
import { unitOf, type Outcome } from './outcome.ts'
import { firstUnmet, LUA, siteModules, settingsNeeds, siteNeeds, unsupported, upstreamNeeds } from './needs.ts'
import { tooHeavy, tooManyVariables } from './node-limits.ts'
import { missing, nearest } from '../../core/references.ts'
import { ownChanges } from './own-changes.ts'
import type { RenderInput } from './render-input.ts'
import { settlePolicies, type SettledPolicies } from './render-policy.ts'
import { Recall } from './recall.ts'
import { withoutRefused } from './refused-endpoints.ts'
import { renderSite, snippetLines } from './render-site.ts'
import {
  ADDRESSES_MAX,
  crowdedNames,
  hostNames,
  renderLiveUpstream,
  renderUpstream,
  unresolvedNames,
  upstreamBlockName,
  upstreamKeyOf,
} from './render-upstream.ts'
import { settleStreams, type Stream, type StreamPlace } from './stream-claims.ts'
import { streamUnit } from './stream-unit.ts'
import type { Unit, UnitFile } from './unit.ts'

export interface Rendering {
  /** Sorted by path. */
  readonly units: readonly Unit[]
  /** Those of the slice and those found here, sorted by path. One whose path has a unit too is a partial one. */
  readonly problems: readonly Problem[]
  /** What reaches nginx without a reload; undefined where all of it stands in the units. */
  readonly live: LiveState | undefined
}

const remembered = new Memo<Outcome>()
const siteOutcomes = new Recall<Outcome>()
const upstreamOutcomes = new Recall<Outcome>()

interface Made {
  readonly input: RenderInput
  readonly rendering: Rendering
  /** Of a site, whatever is new in it, at its place. */
  readonly unitFor: (site: Site, place: Place) => Outcome
  /** Sites whose text changed since all was rendered. */
  readonly changed: number
}

/** What the memories above may hold beside what is in force. */
const CHANGES_REMEMBERED = 1000

let last: Made | undefined

/** A resource whose unit cannot be made is absent from `units`; its problem says why. */
export function render(input: RenderInput): Rendering {
  last = (last && renderedAfter(last, input)) ?? renderedAll(input)
  return last.rendering
}

/** The same after a change of the own text of some sites alone; undefined where there is more to it. */
function renderedAfter(before: Made, input: RenderInput): Made | undefined {
  const sites = before.changed > CHANGES_REMEMBERED ? undefined : ownChanges(before.input, input)
  const units: Unit[] = []
  for (const site of sites ?? []) {
    const place = indexOf(site.path, before.rendering.units)
    const unit = place === undefined ? undefined : before.unitFor(site, before.rendering.units[place] as Unit)
    if (unit === undefined || 'code' in unit) return undefined
    units.push(unit)
  }
  if (sites === undefined) return undefined
  const rendering = { ...before.rendering, units: replaced(before.rendering.units, units) }
  return { ...before, input, rendering, changed: before.changed + units.length }
}

function renderedAll(given: RenderInput): Made {
  const input = withoutRefused(given)
  const { slice, host, addresses } = input
  remembered.turn()
  beginSiteTls()
  const problems: Problem[] = [...slice.problems]
  const units: Unit[] = []
  const add = (outcome: Outcome): void => {
    if ('code' in outcome) problems.push(outcome)
    else units.push(outcome)
  }
  const upstreams = slice.resources.filter(isUpstream).toSorted(olderFirst)
  const heavy = tooHeavy(slice, addresses)
  // An upstream with a problem of its own is there all the same: its last good unit may serve.
  const known = new Set([...slice.resources, ...slice.problems].map(({ path }) => path))
  const sites = slice.resources.filter(isSite).toSorted(olderFirst)
  const lane = liveEntries(
    input,
    upstreams.filter(({ path }) => !heavy.has(path)),
    sites,
    () => known,
  )
  problems.push(...lane.crowdedOut.values())
  const shared = [
    JSON.stringify([input.capabilities, host]),
    ...[...input.openCircuits].toSorted(),
    ' crowded out',
    ...lane.crowdedOut.keys(),
  ]
  const seen = [' ejected', ...[...input.ejected].toSorted(), ...[...addresses].flat(2)]
  upstreamOutcomes.turn([...shared, ...seen])
  for (const upstream of upstreams) {
    const { path, spec } = upstream
    add(heavy.get(path) ?? upstreamUnit(upstream, lane, input))
    const names = unresolvedNames(spec, addresses)
    if (names.length > 0) problems.push(unresolved(path, names))
    const crowded = crowdedNames(spec, addresses)
    if (crowded.length > 0) problems.push(crowd(path, crowded))
  }
  for (const settings of slice.resources.filter(isZoneSettings)) {
    if (settings.spec.privileged?.httpSnippets !== undefined) add(settingsUnit(settings))
    const unmet = firstUnmet(settingsNeeds(settings.spec), input.capabilities)
    if (unmet !== undefined) problems.push(unsupported(settings.path, unmet, input.capabilities))
  }
  const sticky = new Map(
    upstreams.flatMap(({ path, spec }) => (spec.sticky === undefined ? [] : [[path, spec.sticky] as const])),
  )
  const wordy = tooManyVariables(sites)
  const policies = settlePolicies(sites, known, input)
  problems.push(...policies.problems)
  units.push(...policies.units)
  const certificates = new Certificates(slice, input.secrets)
  const live = liveCertificates(sites, certificates, input)
  siteOutcomes.turn([
    ...shared,
    ' certificates',
    ...live.crowdedOut,
    ...inViewOf(input),
    ...policies.problems.flatMap(({ path, message }) => [path, message]),
  ])
  const unitFor = (site: Site, place: Place) =>
    wordy.get(site.path) ??
    siteOutcomes.get(site.spec, variantOf(place), (keyed) =>
      siteUnit(site, place, { known, sticky }, { certificates, live: live.entries }, lane, input, policies, keyed),
    )
  const rendered = sites.filter((site) => !('code' in unitFor(site, wishesOf(site, host.defaultHttpPort))))
  const streams = slice.resources.filter(isStream).toSorted(olderFirst)
  const whole = (stream: Stream): StreamPlace => ({ listeners: [], hosts: stream.spec.hosts ?? [] })
  const flows = {
    ...input,
    upstreams: new Map(upstreams.map((each) => [each.path, each])),
    known,
    certificates,
    remembered,
  }
  const unitOfStream = (stream: Stream, place: StreamPlace) =>
    heavy.get(stream.path) ?? streamUnit(stream, place, flows)
  const flowing = streams.filter((stream) => !('code' in unitOfStream(stream, whole(stream))))
  const settled = settleStreams(flowing, rendered, host.defaultHttpPort)
  problems.push(...settled.problems)
  for (const stream of streams) {
    const place = settled.places.get(stream.path)
    if (place !== undefined || !flowing.includes(stream)) add(unitOfStream(stream, place ?? whole(stream)))
  }
  const claims = new Claims(rendered, host.defaultHttpPort, settled.taken)
  const renders = new Set(rendered)
  for (const site of sites) {
    const { lost, place } = claims.claim(site, renders.has(site))
    problems.push(...lost)
    if (place.hosts.length > 0 && place.listeners.length > 0) add(unitFor(site, place))
  }
  const ordered = inPathOrder(units, slice)
  const rendering = { units: ordered, problems: problems.toSorted(byPath), live: renderLive(given) }
  return { input: given, rendering, unitFor, changed: 0 }
}

/** Units by path. Put in the order of the slice first, which leaves little to sort: paths are long and much alike. */
function inPathOrder(units: readonly Unit[], { resources }: Slice): readonly Unit[] {
  const left = new Map(units.map((unit) => [unit.path, unit]))
  const ordered = resources.flatMap(({ path }) => {
    const unit = left.get(path)
    return unit !== undefined && left.delete(path) ? unit : []
  })
  return [...ordered, ...left.values()].toSorted(byPath)
}

/** What sites may see of all else: other resources, but of upstreams only that they are there and their cookie; problems; secrets. */
function inViewOf({ slice, secrets }: RenderInput): readonly string[] {
  const others = slice.resources.filter((resource) => !isSite(resource))
  return [
    ...others.flatMap((resource) =>
      isUpstream(resource) ? [resource.path, stickyText(resource)] : [resource.path, resource.hash],
    ),
    ...slice.problems.flatMap(({ path, message }) => [path, message]),
    ...[...secrets].flat(),
  ]
}

function stickyText({ spec }: SliceResource<UpstreamSpec>): string {
  return spec.sticky === undefined ? '' : JSON.stringify(spec.sticky)
}

/** Host names that `addresses` should hold for this slice, sorted. */
export const hostNamesOf = perObject(({ resources }: Slice): readonly string[] =>
  [...new Set(resources.filter(isUpstream).flatMap(({ spec }) => hostNames(spec)))].toSorted(),
)

function byPath(a: { readonly path: string }, b: { readonly path: string }): number {
  return a.path === b.path ? 0 : a.path < b.path ? -1 : 1
}

function unresolved(path: string, names: readonly string[]): Problem {
  const message = `no address is known for ${names.join(', ')}; these endpoints take no requests`
  return { path, code: 'unresolved', message, hint: 'check the name and the resolver of this host' }
}

function crowd(path: string, names: readonly string[]): Problem {
  const message = `over ${ADDRESSES_MAX} addresses are known for ${names.join(', ')}; the first ${ADDRESSES_MAX} take requests`
  return { path, code: 'unresolved', message, hint: 'spread them over several names' }
}

// ---------------------------------------------------------------------------------------------- units

function upstreamUnit(upstream: SliceResource<UpstreamSpec>, { crowdedOut }: LiveEntries, input: RenderInput): Outcome {
  const { capabilities, addresses, host } = input
  const { path, spec, hash } = upstream
  const unmet = firstUnmet(upstreamNeeds(spec), capabilities)
  if (unmet !== undefined) return unsupported(path, unmet, capabilities)
  const isLive = usesLane(capabilities, host) && !crowdedOut.has(path)
  return upstreamOutcomes.get(spec, '', (keyed) =>
    keyed(isLive ? `${path}\n${hash}\nlive` : upstreamKeyOf(upstream, addresses, input, host), () =>
      unitOf(
        { path, kind: 'upstream', needs: [], listeners: [], hosts: [], ...(isLive ? { modules: [LUA] } : {}) },
        () => (isLive ? renderLiveUpstream(upstream) : renderUpstream(upstream, addresses, input, host)),
      ),
    ),
  )
}

/** What the settings of a zone say in http; their other fields are nginx.conf's. */
function settingsUnit({ path, spec, hash }: SliceResource<ZoneSettingsSpec>): Outcome {
  return remembered.get(`${path}\n${hash}`, () =>
    unitOf({ path, kind: 'settings', needs: [], listeners: [], hosts: [] }, () =>
      toText([
        `# ${path}`,
        ...sortedEntries(spec.privileged?.httpSnippets).flatMap(([, snippet]) => snippetLines(snippet)),
      ]),
    ),
  )
}

/** Hosts and listeners of a site: those that it asks for, or those that it gets. */
type Place = Pick<Unit, 'hosts' | 'listeners'>

/** What a site may refer to. */
interface Others {
  /** Paths. */
  readonly known: ReadonlySet<string>
  /** By path of the upstream. */
  readonly sticky: ReadonlyMap<string, StickyCookie>
}

/** Of most sites the place is the same object in each rendering: all that they ask for. */
const variantOf = perObject(({ hosts, listeners }: Place) => JSON.stringify([hosts, listeners]))

function siteUnit(
  site: Site,
  { hosts, listeners }: Place,
  { known, sticky: stickyUpstreams }: Others,
  shown: ShownCertificates,
  { crowdedOut }: LiveEntries,
  { capabilities, host, openCircuits }: RenderInput,
  settled: SettledPolicies,
  keyed: (key: string, make: () => Outcome) => Outcome,
): Outcome {
  const { path, hash } = site
  const unmet = firstUnmet(siteNeeds(site.spec), capabilities)
  if (unmet !== undefined) return unsupported(path, unmet, capabilities)
  const policies = settled.of(site)
  if ('code' in policies) return policies
  const tls = siteTls(site, listeners, shown)
  if ('code' in tls) return tls
  const upstreams = new Map<string, string>()
  const needs = policies.used.flatMap(({ unit, text }) => [
    ...(unit === undefined ? [] : [unit.path]),
    ...(text.needs ?? []),
  ])
  const files = policies.used.flatMap(({ text }) => text.files ?? [])
  const open = new Set<string>()
  const sticky = new Map<string, StickyCookie>()
  const forbidden = pageFilesOf(site.spec).find((file) => !isAllowedRoot(file, host))
  if (forbidden !== undefined) return forbiddenRoot(path, forbidden, host)
  for (const name of pageUpstreamsOf(site.spec)) {
    const upstream = nearest(site, 'upstream', name, known)
    if (upstream === undefined) return missing(site, 'Upstream', name)
    upstreams.set(name, upstreamBlockName(upstream))
    needs.push(resourcePath(upstream))
  }
  for (const route of Object.values(site.spec.routes)) {
    if (route.action === 'static' && !isAllowedRoot(route.static.root, host))
      return forbiddenRoot(path, route.static.root, host)
    if (route.action !== 'proxy') continue
    for (const name of upstreamsOf(route.proxy)) {
      const upstream = nearest(site, 'upstream', name, known)
      if (upstream === undefined) return missing(site, 'Upstream', name)
      upstreams.set(name, upstreamBlockName(upstream))
      const upstreamPath = resourcePath(upstream)
      needs.push(upstreamPath)
      const cookie = stickyUpstreams.get(upstreamPath)
      if (cookie !== undefined) sticky.set(name, cookie)
      // What is passed as plain HTTP needs not know it: see targetUrl.
      if (route.proxy.scheme !== 'http' && openCircuits.has(upstreamPath)) open.add(upstreamBlockName(upstream))
    }
  }
  const http2 = http2Of(capabilities)
  const { files: tlsFiles, liveKeys, ...served } = tls
  const isLive = usesLane(capabilities, host) && !crowdedOut.has(path)
  const modules = [
    ...siteModules(site.spec, capabilities, host),
    ...policies.used.flatMap(({ text }) => text.modules ?? []),
    ...when((isLive && asksLive(site.spec)) || tls.liveKeys.length > 0, LUA),
  ]
  const place = { hosts, listeners, upstreams, sticky, open, policies, ...served, http2, isLive, modules }
  files.push(...tlsFiles)
  const key = [
    path,
    hash,
    host.drainFile,
    ...modules,
    ...hosts,
    ...listeners.map((listener) => `${listenerKey(listener)} ${listener.proxyProtocol}`),
    ...upstreams.values(),
    '',
    ...[...sticky].map(([name, cookie]) => `${name} ${JSON.stringify(cookie)}`),
    '',
    ...open,
    '',
    ...policies.used.map(({ digest }) => digest),
    host.directory,
    http2,
    isLive,
    ...tlsFiles.map(({ name }) => name),
    '',
    ...liveKeys,
  ].join('\n')
  return keyed(key, () =>
    unitOf(
      { path, kind: 'site', needs: [...new Set(needs)].toSorted(), listeners, hosts, files: distinct(files), modules },
      () => renderSite(site, place, host),
    ),
  )
}

function distinct(files: readonly UnitFile[]): readonly UnitFile[] {
  return [...new Map(files.map((file) => [file.name, file])).values()]
}

/** What nginx itself is told by, keys among it. Workers may be the user whom it belongs to. */
const CLOSED_FOLDERS: readonly string[] = ['objects', 'generations', 'current', 'private', 'drift', 'logs', 'temp']

function isAllowedRoot(root: string, { directory, staticRoots: allowed }: HostLayout): boolean {
  const plainRoot = `${root}/`.replace(/\/+/g, '/')
  const isAround = `${directory}/`.startsWith(plainRoot)
  if (isAround || CLOSED_FOLDERS.some((name) => plainRoot.startsWith(`${directory}/${name}/`))) return false
  return allowed === undefined || allowed.some((base) => `${root}/`.startsWith(`${base.replace(/\/+$/, '')}/`))
}

function forbiddenRoot(path: string, root: string, { staticRoots = [] }: HostLayout): Problem {
  const hint = `this host serves files below ${staticRoots.join(', ') || 'no directory'}`
  return { path, code: 'unsupported', message: `the path ${root} is outside what this host may serve`, hint }
}
