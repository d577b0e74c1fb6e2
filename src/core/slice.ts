/**
 * A node's slice: the resources of its zones and their ancestors that mean something, and why the others do not. What it
 * is, and what is asked of it; slicing.ts makes it.
 */

import { sha256 } from './canonical.ts'
import { perObject } from './memo.ts'
import { parseResourcePath, zoneCovers, type ResourceName } from './names.ts'
import type { PolicySpec } from './resources/policy.ts'
import type { CertificateSpec } from './resources/certificate.ts'
import type { SecretSpec } from './resources/secret.ts'
import type { SiteSpec } from './resources/site.ts'
import type { StreamSpec } from './resources/stream.ts'
import type { UpstreamSpec } from './resources/upstream.ts'
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

/** The workspace whose zone settings count for whole nodes; those of others are for their own sites. */
export const SETTINGS_WORKSPACE = 'default'

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

/** From the oldest to the youngest, the same everywhere. */
export function olderFirst(a: SliceResource, b: SliceResource): number {
  return a.created.at - b.created.at || compareText(a.created.edit, b.created.edit) || compareText(a.path, b.path)
}

function compareText(a: string, b: string): number {
  return a === b ? 0 : a < b ? -1 : 1
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
export const settingsOf = perObject(({ resources }: Slice): NodeSettings => {
  const shared = resources.filter(isZoneSettings).filter(({ name }) => name.workspace === SETTINGS_WORKSPACE)
  const found = shared.toSorted((a, b) => {
    return zoneDepth(a.name.zone) - zoneDepth(b.name.zone) || (a.name.zone < b.name.zone ? -1 : 1)
  })
  return mergeSettings(found.map((resource) => resource.spec))
})

/**
 * Names the set of sites that a slice holds, in 16 hex digits: what a person confirms before over half of them go.
 * Sites with a problem are there too.
 */
export function sitesKey({ resources, problems }: Slice): string {
  const paths = [...resources, ...problems].map(({ path }) => path)
  const sites = new Set(paths.filter((path) => parseResourcePath(path)?.kind === 'site'))
  return sha256([...sites].toSorted().join('\n')).slice(0, 16)
}

export function zoneDepth(zone: string): number {
  return zone === '*' ? 0 : zone.split('.').length
}
