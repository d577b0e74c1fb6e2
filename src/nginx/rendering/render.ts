/**
 * From a slice to nginx text: one unit per Site and Upstream, and the generation that includes them. Settles what
 * concerns several resources: references, who owns a host name and a listener. A pure function of its input: no time,
 * no disk, equal slices give equal bytes on every host. Called by the reconciler and the apply side.
 */

import { isIPv6 } from 'node:net'
import { sha256 } from '../../core/canonical.ts'
import { Memo } from '../../core/memo.ts'
import { resourcePath, zoneAndAncestors } from '../../core/names.ts'
import type { SiteSpec } from '../../core/resources/site.ts'
import type { UpstreamSpec } from '../../core/resources/upstream.ts'
import { isSite, isUpstream, settingsOf, type Problem, type Slice, type SliceResource } from '../../core/slice.ts'
import type { Capabilities } from '../../ports.ts'
import type { HostLayout } from './host-layout.ts'
import { mainConf } from './main-conf.ts'
import { UnquotableError } from './quote.ts'
import { renderSite } from './render-site.ts'
import { hostNames, renderUpstream, unresolvedNames, upstreamBlockName } from './render-upstream.ts'
import type { Listener, Unit } from './unit.ts'

export { DEFAULT_ANSWER } from './main-conf.ts'

export interface RenderInput {
  readonly slice: Slice
  readonly capabilities: Capabilities
  readonly host: HostLayout
  /** Addresses of the host names among the upstreams' endpoints; see hostNamesOf. */
  readonly addresses: ReadonlyMap<string, readonly string[]>
}

export interface Rendering {
  /** Sorted by path. */
  readonly units: readonly Unit[]
  /** Those of the slice and those found here, sorted by path. One whose path has a unit too is a partial one. */
  readonly problems: readonly Problem[]
}

type Outcome = Unit | Problem

const remembered = new Memo<Outcome>()

/** A resource whose unit cannot be made is absent from `units`; its problem says why. */
export function render({ slice, capabilities, host, addresses }: RenderInput): Rendering {
  remembered.turn()
  const problems: Problem[] = [...slice.problems]
  const units: Unit[] = []
  const add = (outcome: Outcome): void => {
    if ('code' in outcome) problems.push(outcome)
    else units.push(outcome)
  }
  for (const upstream of slice.resources.filter(isUpstream)) {
    add(upstreamUnit(upstream, capabilities, addresses))
    const names = unresolvedNames(upstream.spec, addresses)
    if (names.length > 0) problems.push(unresolved(upstream.path, names))
  }
  // An upstream with a problem of its own is there all the same: its last good unit may serve.
  const known = new Set([...slice.resources, ...slice.problems].map(({ path }) => path))
  const sites = slice.resources.filter(isSite).toSorted(olderFirst)
  const claims = new Claims(sites, host.defaultHttpPort)
  for (const site of sites) {
    const { hosts, listeners, lost } = claims.claim(site)
    problems.push(...lost)
    if (hosts.length > 0 && listeners.length > 0) add(siteUnit(site, hosts, listeners, known, capabilities, host))
  }
  return { units: units.toSorted(byPath), problems: problems.toSorted(byPath) }
}

/** Host names that `addresses` should hold for this slice, sorted. */
export function hostNamesOf({ resources }: Slice): string[] {
  return [...new Set(resources.filter(isUpstream).flatMap(({ spec }) => hostNames(spec)))].toSorted()
}

function byPath(a: { readonly path: string }, b: { readonly path: string }): number {
  return a.path === b.path ? 0 : a.path < b.path ? -1 : 1
}

function unresolved(path: string, names: readonly string[]): Problem {
  const message = `no address is known for ${names.join(', ')}; these endpoints take no requests`
  return { path, code: 'unresolved', message, hint: 'check the name and the resolver of this host' }
}

// ---------------------------------------------------------------------------------------------- units

function upstreamUnit(
  upstream: SliceResource<UpstreamSpec>,
  capabilities: Capabilities,
  addresses: ReadonlyMap<string, readonly string[]>,
): Outcome {
  const { path, spec, hash } = upstream
  const missing = upstreamNeeds(spec).find((need) => !isMet(need, capabilities))
  if (missing !== undefined) return unsupported(path, missing, capabilities)
  const resolved = hostNames(spec).map((name) => `${name}=${(addresses.get(name) ?? []).toSorted().join()}`)
  return remembered.get([path, hash, ...resolved].join('\n'), () =>
    unitOf({ path, kind: 'upstream', needs: [], listeners: [], hosts: [] }, () => renderUpstream(upstream, addresses)),
  )
}

function siteUnit(
  site: SliceResource<SiteSpec>,
  hosts: readonly string[],
  listeners: readonly Listener[],
  known: ReadonlySet<string>,
  capabilities: Capabilities,
  host: HostLayout,
): Outcome {
  const { path, hash } = site
  const upstreams = new Map<string, string>()
  const needs: string[] = []
  for (const route of Object.values(site.spec.routes)) {
    if (route.action === 'static' && !isAllowedRoot(route.static.root, host.staticRoots))
      return forbiddenRoot(path, route.static.root, host)
    if (route.action !== 'proxy') continue
    const need: Need = { what: 'scheme: https of a proxy', module: 'http_ssl' }
    if (route.proxy.scheme === 'https' && !isMet(need, capabilities)) return unsupported(path, need, capabilities)
    const upstream = findUpstream(site, route.proxy.upstream, known)
    if (upstream === undefined) return missingUpstream(site, route.proxy.upstream)
    upstreams.set(route.proxy.upstream, upstreamBlockName(upstream))
    needs.push(resourcePath(upstream))
  }
  const place = { hosts, listeners, upstreams }
  const key = [path, hash, host.drainFile, ...hosts, ...listeners.map(listenerKey), ...upstreams.values()].join('\n')
  return remembered.get(key, () =>
    unitOf({ path, kind: 'site', needs: [...new Set(needs)].toSorted(), listeners, hosts }, () =>
      renderSite(site, place, host),
    ),
  )
}

function unitOf(about: Omit<Unit, 'text' | 'digest'>, make: () => string): Outcome {
  try {
    const text = make()
    return { ...about, text, digest: sha256(text) }
  } catch (error) {
    if (!(error instanceof UnquotableError)) throw error
    return {
      path: about.path,
      code: 'unsupported',
      message: `nginx cannot take ${error.message}`,
      hint: 'serve long texts as static files',
    }
  }
}

/** The upstream that a site's reference means: the nearest of that name, from the site's zone outward. */
function findUpstream({ name: site }: SliceResource, name: string, known: ReadonlySet<string>) {
  return zoneAndAncestors(site.zone)
    .map((zone) => ({ workspace: site.workspace, zone, kind: 'upstream', name }))
    .find((upstream) => known.has(resourcePath(upstream)))
}

function missingUpstream({ path, name }: SliceResource, upstream: string): Problem {
  const zones = zoneAndAncestors(name.zone)
  const hint = `create an Upstream ${upstream} in workspace ${name.workspace} and zone ${zones.join(' or ')}`
  return { path, code: 'reference', message: `there is no upstream ${upstream}`, hint }
}

function isAllowedRoot(root: string, allowed: readonly string[] | undefined): boolean {
  return allowed === undefined || allowed.some((base) => `${root}/`.startsWith(`${base.replace(/\/+$/, '')}/`))
}

function forbiddenRoot(path: string, root: string, { staticRoots = [] }: HostLayout): Problem {
  const hint = `this host serves files below ${staticRoots.join(', ') || 'no directory'}`
  return { path, code: 'unsupported', message: `static root ${root} is outside what this host may serve`, hint }
}

// ---------------------------------------------------------------------------------------------- capabilities

/** Something of nginx that a resource asks for. */
interface Need {
  readonly what: string
  readonly version?: string
  readonly module?: string
}

function upstreamNeeds({ method, keepalive }: UpstreamSpec): Need[] {
  const needs: Need[] = []
  if (method === 'random') needs.push({ what: 'method: random', version: '1.15.1' })
  if (keepalive !== undefined) needs.push({ what: 'keepalive.timeout and keepalive.requests', version: '1.15.3' })
  return needs
}

function isMet({ version, module }: Need, capabilities: Capabilities): boolean {
  if (module !== undefined && !capabilities.modules.includes(module)) return false
  return version === undefined || compareVersions(capabilities.version, version) >= 0
}

function compareVersions(a: string, b: string): number {
  const [left, right] = [a, b].map((version) => version.split('.').map(Number)) as [number[], number[]]
  return left.map((part, index) => part - (right[index] ?? 0)).find((difference) => difference !== 0) ?? 0
}

function unsupported(path: string, { what, version, module }: Need, capabilities: Capabilities): Problem {
  const wanted = version === undefined ? `its module ${module}` : `version ${version}`
  const hint = version === undefined ? `install the module ${module} on this host` : 'upgrade nginx on this host'
  return {
    path,
    code: 'unsupported',
    message: `${what} needs nginx with ${wanted}; this host has ${capabilities.version}`,
    hint,
  }
}

// ---------------------------------------------------------------------------------------------- hosts and listeners

function olderFirst(a: SliceResource, b: SliceResource): number {
  return a.created.at - b.created.at || compareText(a.created.edit, b.created.edit) || compareText(a.path, b.path)
}

function compareText(a: string, b: string): number {
  return a === b ? 0 : a < b ? -1 : 1
}

const ALL_IPV4 = '*'
const ALL_IPV6 = '[::]'

function listenerKey({ address, port }: Listener): string {
  return `${address}:${port}`
}

/** An address in the one form in which nginx and this renderer compare it. */
function normalAddress(address: string | undefined): string {
  if (address === undefined || address === '0.0.0.0') return ALL_IPV4
  return isIPv6(address) ? new URL(`http://[${address}]/`).hostname : address
}

/** The wildcard of the address's family. */
function allOf(address: string): string {
  return address.startsWith('[') ? ALL_IPV6 : ALL_IPV4
}

function listenersOf(spec: SiteSpec, defaultPort: number): Listener[] {
  const stated = Object.values(spec.listeners)
  const listeners = (stated.length > 0 ? stated : [{ port: defaultPort, address: undefined }]).map(
    ({ address, port }): Listener => ({ address: normalAddress(address), port, tls: false }),
  )
  const unique = new Map(listeners.map((listener) => [listenerKey(listener), listener]))
  // What listens on all addresses of a port listens on each.
  const isCovered = ({ address, port }: Listener): boolean => {
    const all = allOf(address)
    return address !== all && unique.has(`${all}:${port}`)
  }
  return [...unique.keys()]
    .toSorted()
    .map((key) => unique.get(key) as Listener)
    .filter((listener) => !isCovered(listener))
}

/**
 * Who owns which host on which listener, and which ports are in use on all addresses. Asked by sites from the oldest to
 * the youngest; a site that cannot be rendered keeps what it claimed.
 */
class Claims {
  /** Site paths by `listener host`. */
  private readonly owners = new Map<string, string>()
  /** The oldest site on each listener for all addresses of a port. */
  private readonly wildcards = new Map<string, string>()
  private readonly defaultPort: number

  constructor(oldestFirst: readonly SliceResource<SiteSpec>[], defaultPort: number) {
    this.defaultPort = defaultPort
    for (const { path, spec } of oldestFirst) {
      for (const listener of listenersOf(spec, defaultPort)) {
        const key = listenerKey(listener)
        if (listener.address === allOf(listener.address) && !this.wildcards.has(key)) this.wildcards.set(key, path)
      }
    }
  }

  claim(site: SliceResource<SiteSpec>) {
    const lost: Problem[] = []
    const listeners = listenersOf(site.spec, this.defaultPort).filter((listener) => {
      const problem = this.overlap(site.path, listener)
      if (problem !== undefined) lost.push(problem)
      return problem === undefined
    })
    const hosts = [...new Set(site.spec.hosts)].toSorted().filter((host) => {
      const owner = listeners
        .map((listener) => this.owners.get(`${listenerKey(listener)} ${host}`))
        .find((path) => path !== undefined)
      if (owner !== undefined) lost.push(hostClash(site.path, host, owner))
      return owner === undefined
    })
    if (hosts.length > 0) this.take(site.path, hosts, listeners)
    return { hosts, listeners, lost }
  }

  private take(path: string, hosts: readonly string[], listeners: readonly Listener[]): void {
    for (const listener of listeners) {
      for (const host of hosts) this.owners.set(`${listenerKey(listener)} ${host}`, path)
    }
  }

  /**
   * Beside `*:80` a listener on `10.0.0.1:80` would take that address away from every site on `*:80`, and a reload
   * could not bind one beside the other: the one address gives way, whoever is older. Ages are claimed, and one site
   * must not take down all that share the port.
   */
  private overlap(path: string, { address, port }: Listener): Problem | undefined {
    const all = allOf(address)
    const other = address === all ? undefined : this.wildcards.get(`${all}:${port}`)
    if (other === undefined) return undefined
    const message = `cannot listen on ${address}:${port} beside ${all}:${port} of the site ${other}, which goes first`
    return { path, code: 'clash', message, hint: 'leave out the address, or take another port' }
  }
}

function hostClash(path: string, host: string, owner: string): Problem {
  return {
    path,
    code: 'clash',
    message: `the host ${host} belongs to the older site ${owner}`,
    hint: 'remove it from one of the two',
  }
}

// ---------------------------------------------------------------------------------------------- generations

const BLANK_DIGEST = '0'.repeat(64)

/**
 * The generation of some units: nginx.conf and its digest, which covers it and, through their digests in the include
 * paths, every object. At most one unit may claim `*` on a listener, and every need must be met.
 */
export function assemble(
  units: readonly Unit[],
  { slice, capabilities, host }: Pick<RenderInput, 'slice' | 'capabilities' | 'host'>,
): { digest: string; main: string; objects: ReadonlyMap<string, string> } {
  const sorted = units.toSorted(byPath)
  const includes = sorted.map(({ digest }) => `${host.directory}/objects/${digest}.conf`)
  const input = { host, capabilities, settings: settingsOf(slice), unclaimed: unclaimedListeners(sorted), includes }
  // The digest stands in the text that it covers, so it is taken with a blank in its place.
  const blank = mainConf(input, BLANK_DIGEST)
  const digest = sha256(blank)
  return {
    digest,
    main: blank.replace(BLANK_DIGEST, digest),
    objects: new Map(sorted.map((unit) => [unit.digest, unit.text])),
  }
}

function unclaimedListeners(units: readonly Unit[]): Listener[] {
  const unclaimed = new Map<string, Listener>()
  for (const unit of units) for (const listener of unit.listeners) unclaimed.set(listenerKey(listener), listener)
  for (const unit of units) {
    if (unit.hosts.includes('*')) for (const listener of unit.listeners) unclaimed.delete(listenerKey(listener))
  }
  return [...unclaimed.keys()].toSorted().map((key) => unclaimed.get(key) as Listener)
}
