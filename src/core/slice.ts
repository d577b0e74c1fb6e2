/**
 * A node's slice: the resources of its zones and their ancestors that mean something, and why the others do not. A
 * pure function of the accepted state and the node's places and labels. Called by the reconciler.
 */

import { sha256 } from './canonical.ts'
import type { ResourceState } from './document.ts'
import { Memo } from './memo.ts'
import { escapeSegment, hostCovers, parseResourcePath, zoneCovers, type ResourceName } from './names.ts'
import { overQuota, type GrantOf } from './quota.ts'
import { KINDS, readFields, type ReadFields } from './resources/index.ts'
import type { PolicySpec } from './resources/policy.ts'
import type { CertificateSpec } from './resources/certificate.ts'
import type { SecretSpec } from './resources/secret.ts'
import type { SiteSpec } from './resources/site.ts'
import type { StreamSpec } from './resources/stream.ts'
import type { UpstreamSpec } from './resources/upstream.ts'
import type { FieldFault } from './resources/validate.ts'
import { mergeSettings, type NodeSettings, type ZoneSettingsSpec } from './resources/zone-settings.ts'

export interface SliceResource<S = unknown> {
  readonly path: string
  readonly name: ResourceName
  /** As in YAML: `Site`. */
  readonly kind: string
  readonly labels: Readonly<Record<string, string>>
  /** Checked, with defaults. */
  readonly spec: S
  /** Decides between clashing resources: the lower is the older. */
  readonly created: { readonly at: number; readonly edit: string }
  readonly hash: string
}

/** Why a resource is not, or not wholly, in force on this node. */
export interface Problem {
  /** Of the resource. */
  readonly path: string
  readonly code:
    | 'schema'
    | 'reference'
    | 'clash'
    | 'unsupported'
    | 'unresolved'
    | 'quota'
    | 'host_not_granted'
    | 'nginx'
  readonly message: string
  readonly hint?: string
}

/** Whether a resource is left out by a limit of its author's grant: on every node alike, and nothing is wrong with any. */
export function isBeyondGrant({ code }: { readonly code: string }): boolean {
  return code === 'quota' || code === 'host_not_granted'
}

export interface Slice {
  /** Sorted by path. */
  readonly resources: readonly SliceResource[]
  /** Sorted by path. A resource that it names is not in `resources`, or not with all of its hosts. */
  readonly problems: readonly Problem[]
  /** SHA-256 over path and hash of every resource of the zones and their ancestors: what waves compare. */
  readonly target: string
}

/** Where a node stands by one of its grants. What one grant gives in a zone, another gives for other workspaces elsewhere. */
export interface Place {
  /** `*` is all. */
  readonly workspace: string
  /** None: only resources of zone `*` apply. */
  readonly zones: readonly string[]
}

export interface SliceNode {
  readonly places: readonly Place[]
  readonly labels: Readonly<Record<string, string>>
}

/** The workspace whose zone settings count: they concern a whole node, not one tenant. */
export const SETTINGS_WORKSPACE = 'default'

const remembered = new Memo<ReadFields | FieldFault>()

/** @param resources all that exist, in every zone: a quota counts them together */
export function slice(resources: readonly ResourceState[], node: SliceNode, grantOf: GrantOf): Slice {
  remembered.turn()
  const excess = overQuota(resources, grantOf)
  const applying = [...resources].filter((state) => applies(state, node)).toSorted((a, b) => (a.path < b.path ? -1 : 1))
  const sliced: SliceResource[] = []
  const problems: Problem[] = []
  for (const state of applying) {
    const over = excess.get(state.path)
    const result = over === undefined ? interpret(state) : quotaProblem(state.path, over)
    if ('code' in result) problems.push(result)
    else if (isSelected(result.spec, node.labels)) {
      const { resource, denied } = claimsHosts(result) ? withGrantedHosts(result, state, grantOf) : { resource: result }
      if (resource !== undefined) sliced.push(resource)
      if (denied !== undefined) problems.push(denied)
    }
  }
  return { resources: sliced, problems, target: targetOf(applying, node) }
}

/** The target of a slice alone, without reading any field. */
export function targetOf(resources: Iterable<ResourceState>, node: SliceNode): string {
  const applying = [...resources].filter((state) => applies(state, node)).map(({ path, hash }) => `${path} ${hash}\n`)
  return sha256(applying.toSorted().join(''))
}

function applies(state: ResourceState, node: SliceNode): boolean {
  if (!state.exists || state.created === undefined) return false
  const name = nameOf(state)
  return name !== undefined && isPlacedFor(name, node.places)
}

/** Of each state, which is never changed: of thousands, few are new from one slice to the next. */
const names = new WeakMap<ResourceState, ResourceName>()

function nameOf(state: ResourceState): ResourceName | undefined {
  const known = names.get(state)
  if (known !== undefined) return known
  const name = parseResourcePath(state.path)
  if (name !== undefined) names.set(state, name)
  return name
}

/** Whether a resource is for a node that stands there, whatever its labels. */
export function isPlacedFor(
  { workspace, zone }: Pick<ResourceName, 'workspace' | 'zone'>,
  places: readonly Place[],
): boolean {
  return places.some((place) => {
    if (place.workspace !== '*' && place.workspace !== workspace) return false
    return zone === '*' || place.zones.some((inner) => zoneCovers(zone, inner))
  })
}

function interpret(state: ResourceState): SliceResource | Problem {
  const { path, hash } = state
  const name = nameOf(state) as ResourceName
  const kind = KINDS.get(name.kind)
  if (kind === undefined) {
    return {
      path,
      code: 'unsupported',
      message: `this version does not know the kind ${name.kind}`,
      hint: 'upgrade mesh-node here',
    }
  }
  if (kind.onlyName !== undefined && name.name !== kind.onlyName) {
    return { path, code: 'schema', message: `metadata.name must be ${kind.onlyName}` }
  }
  if (kind.path === 'zonesettings' && name.workspace !== SETTINGS_WORKSPACE) {
    return { path, code: 'unsupported', message: `zone settings count only in the workspace ${SETTINGS_WORKSPACE}` }
  }
  const read = remembered.get(hash, () => readFields(kind, state.fields))
  if ('field' in read) {
    return {
      path,
      code: 'schema',
      message: `${read.field} ${read.message}`,
      ...(read.hint === undefined ? {} : { hint: read.hint }),
    }
  }
  const { at, edit } = state.created as { at: number; edit: string }
  return { path, name, kind: kind.kind, labels: read.labels, spec: read.spec, created: { at, edit }, hash }
}

function quotaProblem(path: string, message: string): Problem {
  return { path, code: 'quota', message, hint: 'delete others by that grant, or ask for a grant with a larger quota' }
}

/** The site without the hosts that those who wrote them may not claim: so nobody takes a host by claiming to be older. */
function withGrantedHosts<Spec extends Claiming>(site: SliceResource<Spec>, state: ResourceState, grantOf: GrantOf) {
  const { hosts = [] } = site.spec
  // A stream without hosts has whole ports, whoever's names are asked for there.
  if (hosts.length === 0 && isStream(site)) {
    const patterns = grantOf(state.created?.edit ?? '')?.body.hosts
    if (patterns === undefined || patterns.includes('*')) return { resource: site }
    return { denied: hostProblem(site.path, ['*']) }
  }
  const denied = deniedHosts(hosts, state, grantOf)
  if (denied.length === 0) return { resource: site }
  const spec = { ...site.spec, hosts: hosts.filter((host) => !denied.includes(host)) }
  // Without any of its hosts a stream would be one that has its ports for itself.
  const isNone = spec.hosts.length === 0 && isStream(site)
  return { ...(isNone ? {} : { resource: { ...site, spec } }), denied: hostProblem(site.path, denied) }
}

/** The hosts of a site that nobody wrote who may claim them. */
export function deniedHosts(hosts: readonly string[], state: ResourceState, grantOf: GrantOf): string[] {
  const isGranted = (host: string): boolean => {
    const field = `hosts/${escapeSegment(host)}`
    const edits = state.conflicts.get(field)?.map(({ edit }) => edit) ?? [state.writers.get(field) ?? '']
    return edits.some((edit) => grantOf(edit)?.body.hosts?.some((pattern) => hostCovers(pattern, host)) ?? true)
  }
  return hosts.filter((host) => !isGranted(host))
}

function hostProblem(path: string, hosts: readonly string[]): Problem {
  const message = `whoever wrote ${hosts.join(', ')} may not claim ${hosts.length === 1 ? 'it' : 'them'}`
  return { path, code: 'host_not_granted', message, hint: 'grant the host: meshctl grant ... --hosts' }
}

function isSelected(spec: unknown, labels: Readonly<Record<string, string>>): boolean {
  const { nodeSelector } = spec as { nodeSelector?: Readonly<Record<string, string>> }
  return Object.entries(nodeSelector ?? {}).every(([key, value]) => Object.hasOwn(labels, key) && labels[key] === value)
}

/** From the oldest to the youngest, the same everywhere. */
export function olderFirst(a: SliceResource, b: SliceResource): number {
  return a.created.at - b.created.at || compareText(a.created.edit, b.created.edit) || compareText(a.path, b.path)
}

function compareText(a: string, b: string): number {
  return a === b ? 0 : a < b ? -1 : 1
}

/** What has hosts that a grant may limit. */
type Claiming = SiteSpec | StreamSpec

function claimsHosts(resource: SliceResource): resource is SliceResource<Claiming> {
  return isSite(resource) || isStream(resource)
}

export function isStream(resource: SliceResource): resource is SliceResource<StreamSpec> {
  return resource.name.kind === 'stream'
}

export function isSite(resource: SliceResource): resource is SliceResource<SiteSpec> {
  return resource.name.kind === 'site'
}

export function isUpstream(resource: SliceResource): resource is SliceResource<UpstreamSpec> {
  return resource.name.kind === 'upstream'
}

export function isCertificate(resource: SliceResource): resource is SliceResource<CertificateSpec> {
  return resource.name.kind === 'certificate'
}

export function isSecret(resource: SliceResource): resource is SliceResource<SecretSpec> {
  return resource.name.kind === 'secret'
}

export function isPolicy(resource: SliceResource): resource is SliceResource<PolicySpec> {
  return resource.name.kind === 'policy'
}

export function isZoneSettings(resource: SliceResource): resource is SliceResource<ZoneSettingsSpec> {
  return resource.name.kind === 'zonesettings'
}

/** The zone settings in force: field by field from the zone with the most parts; between equals the later name. */
export function settingsOf({ resources }: Slice): NodeSettings {
  const found = resources.filter(isZoneSettings).toSorted((a, b) => {
    return zoneDepth(a.name.zone) - zoneDepth(b.name.zone) || (a.name.zone < b.name.zone ? -1 : 1)
  })
  return mergeSettings(found.map((resource) => resource.spec))
}

/**
 * Names the set of sites that a slice holds, in 16 hex digits: what a person confirms before over half of them go.
 * Sites with a problem are there too.
 */
export function sitesKey({ resources, problems }: Slice): string {
  const paths = [...resources, ...problems].map(({ path }) => path)
  const sites = new Set(paths.filter((path) => parseResourcePath(path)?.kind === 'site'))
  return sha256([...sites].toSorted().join('\n')).slice(0, 16)
}

function zoneDepth(zone: string): number {
  return zone === '*' ? 0 : zone.split('.').length
}
