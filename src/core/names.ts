/**
 * The grammar of names: workspaces, zones, kinds, resource names, resource paths and flat field paths; and which zone
 * covers which. Everything else asks here, so that a name means the same in an envelope, a URL and an nginx file.
 */

const LABEL = '[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?'
const NAME = new RegExp(`^${LABEL}$`)
const ZONE = new RegExp(`^(?:\\*|${LABEL}(?:\\.${LABEL})*)$`)

/** Marks what a site passed on, so that the API does not take it for a caller on this host. */
export const PROXIED_HEADER = 'X-NxMesh-Proxied'
/** On answers of a site in maintenance: a 503 that is meant, no sign of a bad generation. */
export const PLANNED_HEADER = 'X-NxMesh-Planned'
/** On answers in place of an upstream whose circuit is open. */
export const CIRCUIT_HEADER = 'X-NxMesh-Circuit'

const FIELD_PATH_MAX = 512
const ZONE_MAX = 253

/** A DNS label: what a resource, workspace, kind or zone part may be called. */
export function isName(value: string): boolean {
  return NAME.test(value)
}

export function isWorkspace(value: string): boolean {
  return isName(value)
}

/** A dotted zone path (`eu.west`) or `*`, which is all zones. */
export function isZone(value: string): boolean {
  return value.length <= ZONE_MAX && ZONE.test(value)
}

/** Whether zone `outer` covers zone `inner`: itself, a descendant, or anything for `*`. */
export function zoneCovers(outer: string, inner: string): boolean {
  return outer === '*' || outer === inner || inner.startsWith(`${outer}.`)
}

/** The zone and its ancestors, nearest first, `*` last: where references are looked up. */
export function zoneAndAncestors(zone: string): string[] {
  if (zone === '*') return ['*']
  const parts = zone.split('.')
  return [...parts.map((_, index) => parts.slice(0, parts.length - index).join('.')), '*']
}

export interface ResourceName {
  readonly workspace: string
  readonly zone: string
  /** Lower-case kind: `site`, `upstream`, `zonesettings`. */
  readonly kind: string
  readonly name: string
}

/** `workspace/zone/kind/name`. */
export function resourcePath(resource: ResourceName): string {
  return `${resource.workspace}/${resource.zone}/${resource.kind}/${resource.name}`
}

/** The parts of a resource path, or undefined when it is not one. */
export function parseResourcePath(path: string): ResourceName | undefined {
  const parts = path.split('/')
  if (parts.length !== 4) return undefined
  const [workspace, zone, kind, name] = parts as [string, string, string, string]
  if (!isWorkspace(workspace) || !isZone(zone) || !isName(kind) || !isName(name)) return undefined
  return { workspace, zone, kind, name }
}

export function isResourcePath(path: string): boolean {
  return parseResourcePath(path) !== undefined
}

/** The workspace of a valid resource path. */
export function workspaceOf(path: string): string {
  return path.slice(0, path.indexOf('/'))
}

/** Whether a flat field path is well formed: `$`, or segments joined by `/` with RFC 6901 escapes, none empty. */
export function isFieldPath(field: string): boolean {
  if (field.length === 0 || Buffer.byteLength(field) > FIELD_PATH_MAX) return false
  return field.split('/').every((segment) => segment.length > 0 && !/~(?![01])|[\u0000-\u001f\u007f]/.test(segment))
}

/** Escapes one segment of a flat field path (RFC 6901). */
export function escapeSegment(segment: string): string {
  return segment.replaceAll('~', '~0').replaceAll('/', '~1')
}

export function unescapeSegment(segment: string): string {
  if (!segment.includes('~')) return segment
  return segment.replaceAll('~1', '/').replaceAll('~0', '~')
}

/**
 * Whether a pattern of host names covers a host, or another pattern: `www.example.com` itself, `*.example.com` all below
 * example.com, `*` any. Both in lower case.
 */
export function hostCovers(pattern: string, host: string): boolean {
  if (pattern === '*' || pattern === host) return true
  return pattern.startsWith('*.') && host.endsWith(pattern.slice(1))
}
