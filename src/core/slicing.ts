/**
 * Makes a node's slice from the resources that exist: reads them, gives them their templates and defaults, and takes away
 * what their authors may not have. A pure function of the accepted state and the node's places and labels, which remembers
 * what does not change. Called by the reconciler.
 */

import { sha256 } from './canonical.ts'
import type { ResourceState } from './document.ts'
import { byText, Memo, perObject } from './memo.ts'
import { escapeSegment, hostCovers, parseResourcePath, resourcePath, zoneCovers, type ResourceName } from './names.ts'
import { limitBy, overQuota, type GrantOf } from './quota.ts'
import { missing, nearest } from './references.ts'
import { KINDS, readFields, readWith, type ReadFields } from './resources/index.ts'
import type { Kind } from './resources/kind.ts'
import type { SiteSpec } from './resources/site.ts'
import type { StreamSpec } from './resources/stream.ts'
import { changesOf, indexOf, replaced } from './sorted.ts'
import type { TemplateSpec } from './resources/template.ts'
import type { TemplateUse } from './resources/template-use.ts'
import type { FieldFault } from './resources/validate.ts'
import { withDefaults, type SiteDefaults } from './resources/site-defaults.ts'
import { nodeFieldsOf, type ZoneSettingsSpec } from './resources/zone-settings.ts'
import {
  isPlacedFor,
  isSite,
  isStream,
  isZoneSettings,
  SETTINGS_WORKSPACE,
  zoneDepth,
  type Place,
  type Problem,
  type Slice,
  type SliceNode,
  type SliceResource,
} from './slice.ts'

const remembered = new Memo<ReadFields | FieldFault>()
const rememberedUses = new Memo<{ readonly spec: unknown } | FieldFault>()
const rememberedSites = new Memo<Pick<SliceResource<SiteSpec>, 'spec' | 'hash'>>()

/** Of a state, whatever the node. Of thousands, few are new from one slice to the next. */
class Read {
  readonly path: string
  readonly state: ResourceState
  readonly name: ResourceName | undefined
  /** What the target says of it. */
  readonly line: string
  #result: SliceResource | Problem | undefined
  #part: { readonly grantOf: GrantOf; readonly part: Part } | undefined

  constructor(state: ResourceState) {
    this.path = state.path
    this.state = state
    this.name = parseResourcePath(state.path)
    this.line = `${state.path} ${state.hash}\n`
  }

  get result(): SliceResource | Problem {
    return (this.#result ??= interpret(this.state, this.name as ResourceName))
  }

  /** Of `result`. By the function too, of which only that is asked which the edits of a state fix: the grants that they exercise. */
  part(grantOf: GrantOf): Part {
    if (this.#part?.grantOf !== grantOf) this.#part = { grantOf, part: partOf(this.state, this.result, grantOf) }
    return this.#part.part
  }
}

const readOf = perObject((state: ResourceState) => new Read(state))

/** What of all resources applies to nodes that stand at some places, sorted by path, and their target. */
interface Applying {
  readonly resources: readonly ResourceState[]
  readonly reads: readonly Read[]
  readonly target: string
}

/** Where one edit changes little of what was made before, only that is made anew. */
const lastAt = byText((_places): { applying?: Applying } => ({}))

/** By places, as text. Whoever asks for it asks for it again while nothing changes. */
const applyingTo = perObject((resources: readonly ResourceState[]) =>
  byText((places): Applying => {
    const last = lastAt(places)
    const reads = readsAfter(last.applying, resources) ?? readsAt(JSON.parse(places) as readonly Place[], resources)
    last.applying = { resources, reads, target: sha256(reads.map(({ line }) => line).join('')) }
    return last.applying
  }),
)

function readsAt(places: readonly Place[], resources: readonly ResourceState[]): readonly Read[] {
  return resources
    .filter(isThere)
    .map(readOf)
    .filter(({ name }) => name !== undefined && isPlacedFor(name, places))
    .toSorted((a, b) => (a.path < b.path ? -1 : 1))
}

function readsAfter(before: Applying | undefined, resources: readonly ResourceState[]): readonly Read[] | undefined {
  const changes = before && changesOf(before.resources, resources)
  if (changes?.every(({ was, is }) => isThere(was) && isThere(is)) !== true) return undefined
  const { reads } = before as Applying
  return replaced(
    reads,
    changes.flatMap(({ is }) => (indexOf(is.path, reads) === undefined ? [] : readOf(is))),
  )
}

function isThere({ exists, created }: ResourceState): boolean {
  return exists && created !== undefined
}

/** What the resources of a slice depend on beside themselves. */
interface Surroundings {
  readonly labels: Readonly<Record<string, string>>
  readonly grantOf: GrantOf
  /** Why a resource is over a quota, by path. */
  readonly excess: ReadonlyMap<string, string>
  readonly templates: ReadonlyMap<string, SliceResource | Problem>
  readonly defaults: ZoneDefaults
}

interface Made {
  readonly resources: readonly ResourceState[]
  readonly surroundings: Surroundings
  readonly slice: Slice
  /** Resources that changed since all were made. */
  readonly changed: number
}

/** What the memories above may hold beside what is in force. */
const CHANGES_REMEMBERED = 1000
const SURROUNDING_KINDS: ReadonlySet<string> = new Set(['template', 'zonesettings'])

/** By grantOf and node, as text. */
const lastFor = perObject((_grantOf: GrantOf) => byText((_node): { made?: Made } => ({})))

/** The same: both lanes of a node ask for a slice. */
const slices = perObject((grantOf: GrantOf) =>
  perObject((resources: readonly ResourceState[]) =>
    byText((text): Slice => {
      const node = JSON.parse(text) as SliceNode
      const applying = applyingTo(resources)(JSON.stringify(node.places))
      const last = lastFor(grantOf)(text)
      last.made = madeAfter(last.made, applying) ?? madeOf(applying, node.labels, grantOf)
      return last.made.slice
    }),
  ),
)

/**
 * Of the same resources, which must never be changed, it is the same object. A resource whose state is the same object as
 * before is read once, and is the same object in the slice as long as `grantOf` is the same too, but for a site with
 * defaults of its zones, of which only the spec is.
 * @param resources all that exist, in every zone, sorted by path: a quota counts them together
 */
export function slice(resources: readonly ResourceState[], { places, labels }: SliceNode, grantOf: GrantOf): Slice {
  return slices(grantOf)(resources)(JSON.stringify({ places, labels }))
}

function madeOf({ resources, reads, target }: Applying, labels: SliceNode['labels'], grantOf: GrantOf): Made {
  remembered.turn()
  rememberedUses.turn()
  rememberedSites.turn()
  const excess = overQuota(resources, grantOf)
  const ofKind = (kind: string) => reads.filter(({ name }) => name?.kind === kind)
  const templates = new Map(ofKind('template').map((read) => [read.path, writtenOf(read, { excess })]))
  const settings = ofKind('zonesettings').map((read) => ({ read, result: wholeOf(read, { excess, templates }) }))
  const surroundings = { labels, grantOf, excess, templates, defaults: new ZoneDefaults(settings, labels) }
  const parts = reads.map((read) => partIn(read, surroundings))
  const slice = {
    resources: parts.flatMap(({ resource }) => resource ?? []),
    problems: parts.flatMap(({ denied }) => denied ?? []),
    target,
  }
  return { resources, surroundings, slice, changed: 0 }
}

/**
 * The same after some changes: what changed is in force whole, as it was before, and nothing else depends on it. Undefined
 * where that is not so.
 */
function madeAfter(before: Made | undefined, { resources, reads, target }: Applying): Made | undefined {
  const changes = before && changesOf(before.resources, resources)
  if (before === undefined || changes === undefined || before.changed > CHANGES_REMEMBERED) return undefined
  const { surroundings, slice } = before
  const limitOf = limitBy(surroundings.grantOf)
  const isAlone = (state: ResourceState) => isThere(state) && limitOf(state) === null
  if (!changes.every(({ was, is }) => isAlone(was) && isAlone(is))) return undefined
  const made: SliceResource[] = []
  for (const { path } of changes.map(({ is }) => is)) {
    const place = indexOf(path, reads)
    if (place === undefined) continue
    const read = reads[place] as Read
    const { resource, denied } = partIn(read, surroundings)
    const isWhole = resource !== undefined && denied === undefined
    const wasWhole = indexOf(path, slice.resources) !== undefined && indexOf(path, slice.problems) === undefined
    if (!isWhole || !wasWhole || SURROUNDING_KINDS.has(resource.name.kind)) return undefined
    made.push(resource)
  }
  const after = { resources: replaced(slice.resources, made), problems: slice.problems, target }
  return { resources, surroundings, slice: after, changed: before.changed + changes.length }
}

function writtenOf(read: Read, { excess }: Pick<Surroundings, 'excess'>): SliceResource | Problem {
  const over = excess.size === 0 ? undefined : excess.get(read.path)
  return over === undefined ? read.result : quotaProblem(read.path, over)
}

function wholeOf(read: Read, surroundings: Pick<Surroundings, 'excess' | 'templates'>): SliceResource | Problem {
  const result = writtenOf(read, surroundings)
  return 'code' in result ? result : withTemplate(result, read.state, surroundings.templates)
}

function partIn(read: Read, surroundings: Surroundings): Part {
  const { defaults, labels, grantOf } = surroundings
  const whole = wholeOf(read, surroundings)
  const result = 'code' in whole || !isSite(whole) ? whole : defaults.under(whole)
  if (!('code' in result) && !isSelected(result.spec, labels)) return NOTHING
  return result === read.result ? read.part(grantOf) : partOf(read.state, result, grantOf)
}

/** What its authors may have of a resource, whatever else there is. */
function partOf(state: ResourceState, result: SliceResource | Problem, grantOf: GrantOf): Part {
  if ('code' in result) return { denied: result }
  return claimsHosts(result) ? withGrantedHosts(result, state, grantOf) : ownPart(result)
}

/** The target of a slice alone, without reading any field. */
export function targetOf(resources: readonly ResourceState[], places: readonly Place[]): string {
  return applyingTo(resources)(JSON.stringify(places)).target
}

function interpret(state: ResourceState, name: ResourceName): SliceResource | Problem {
  const { path, hash } = state
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
  const read = remembered.get(hash, () => readFields(kind, state.fields))
  if ('field' in read) {
    return schemaProblem(path, read)
  }
  const { at, edit } = state.created as { at: number; edit: string }
  return { path, name, kind: kind.kind, labels: read.labels, spec: read.spec, created: { at, edit }, hash }
}

/** Zone settings of a tenant without what concerns whole nodes. */
function ownPart(resource: SliceResource): Part {
  if (!isZoneSettings(resource) || resource.name.workspace === SETTINGS_WORKSPACE) return { resource }
  const { path, spec } = resource
  const fields = nodeFieldsOf(spec)
  if (fields.length === 0) return { resource }
  const verb = fields.length === 1 ? 'counts' : 'count'
  const message = `${fields.join(', ')} of zone settings ${verb} only in the workspace ${SETTINGS_WORKSPACE}`
  const hint = 'it concerns whole nodes, not the sites of one workspace: leave it out here'
  const { nodeSelector, defaults } = spec
  return {
    resource: { ...resource, spec: { nodeSelector, defaults } },
    denied: { path, code: 'unsupported', message, hint },
  }
}

/** Zone settings, with their template. */
interface Settings {
  readonly read: Read
  readonly result: SliceResource | Problem
}

/** What zone settings give the sites of their zones. */
class ZoneDefaults {
  /** Outermost first. */
  readonly #settings: readonly SliceResource<ZoneSettingsSpec>[]
  /** Those that mean nothing, and name policies. */
  readonly #broken: readonly ResourceName[]
  readonly #levels = new Map<string, { readonly key: string; readonly levels: readonly SiteDefaults[] }>()

  constructor(settings: readonly Settings[], labels: Readonly<Record<string, string>>) {
    const results = settings.flatMap(({ result }) => ('code' in result ? [] : result))
    const selected = results.filter(isZoneSettings).filter(({ spec }) => isSelected(spec, labels))
    this.#settings = selected.toSorted((a, b) => zoneDepth(a.name.zone) - zoneDepth(b.name.zone))
    this.#broken = settings.flatMap(({ read, result }) =>
      'code' in result && losesPolicies(read) ? (read.name ?? []) : [],
    )
  }

  /** A site over the defaults of its zones; those of its own workspace count more. Its hash changes with them. */
  under(site: SliceResource<SiteSpec>): SliceResource<SiteSpec> | Problem {
    const { path, name } = site
    const broken = this.#broken.find((each) => each.workspace === name.workspace && zoneCovers(each.zone, name.zone))
    if (broken !== undefined) {
      const message = `the zone settings ${resourcePath(broken)} have a problem of their own, and name policies for it`
      return { path, code: 'reference', message, hint: 'mend the zone settings' }
    }
    const { key, levels } = this.#levelsOf(name)
    if (levels.length === 0) return site
    const own = rememberedSites.get(`${site.hash}\n${key}`, () => ({
      spec: withDefaults(site.spec, levels),
      hash: sha256(`${site.hash}\n${key}`),
    }))
    return { ...site, ...own }
  }

  #levelsOf({ workspace, zone }: ResourceName) {
    const place = `${workspace}/${zone}`
    const known = this.#levels.get(place)
    if (known !== undefined) return known
    const reaching = this.#settings.filter(({ name }) => zoneCovers(name.zone, zone))
    const shared = reaching.filter(({ name }) => name.workspace === SETTINGS_WORKSPACE)
    const own = reaching.filter(({ name }) => name.workspace === workspace)
    const isShared = workspace === SETTINGS_WORKSPACE
    // Of that workspace two fields reach every site by http, on nodes of the zone.
    const http = { maxBodySize: undefined, timeouts: undefined }
    const abroad = { errorPages: undefined, policies: undefined }
    const all = [
      ...(isShared ? [] : shared.map(({ spec }) => ({ ...spec.defaults, ...http, ...abroad }))),
      ...own.map(({ spec }) => ({ ...spec.defaults, ...(isShared ? http : {}) })),
    ]
    const levels = all.filter((level) => Object.values(level).some((value) => value !== undefined))
    const found = { key: sha256(JSON.stringify(levels)), levels }
    this.#levels.set(place, found)
    return found
  }
}

/** Whether sites would lose their protection by leaving this out, for whatever reason: a quota may have shrunk. */
function losesPolicies({ name, state }: Read): boolean {
  const isSettings = name !== undefined && name.name === KINDS.get(name.kind)?.onlyName
  return isSettings && [...state.fields.keys()].some((field) => field.startsWith('defaults/policies'))
}

function schemaProblem(path: string, { field, message, hint }: FieldFault, prefix = ''): Problem {
  return { path, code: 'schema', message: `${prefix}${field} ${message}`, ...(hint === undefined ? {} : { hint }) }
}

/** The resource with what its template says where it says nothing itself. Its hash changes with the template. */
function withTemplate(
  resource: SliceResource,
  state: ResourceState,
  templates: ReadonlyMap<string, SliceResource | Problem>,
): SliceResource | Problem {
  const { path, spec, hash } = resource
  const { template: use } = spec as { template?: TemplateUse }
  if (use === undefined) return resource
  const name = nearest(resource, 'template', use.name, templates)
  if (name === undefined) return missing(resource, 'Template', use.name)
  const template = templates.get(resourcePath(name)) as SliceResource | Problem
  if ('code' in template) {
    const message = `its template ${template.path} has a problem of its own: ${template.message}`
    return { path, code: 'reference', message, hint: 'mend the template' }
  }
  const key = sha256(`${hash}\n${template.hash}`)
  const kind = KINDS.get(resource.name.kind) as Kind
  const read = rememberedUses.get(key, () => readWith(kind, state.fields, use, template.spec as TemplateSpec))
  if ('field' in read) return schemaProblem(path, read, `with its template ${template.path}: `)
  return { ...resource, spec: read.spec, hash: key }
}

/** What of a resource is in force, and why the rest is not. */
interface Part {
  readonly resource?: SliceResource
  readonly denied?: Problem
}
const NOTHING: Part = {}

function quotaProblem(path: string, message: string): Problem {
  return { path, code: 'quota', message, hint: 'delete others by that grant, or ask for a grant with a larger quota' }
}

/** The site without the hosts that those who wrote them may not claim: so nobody takes a host by claiming to be older. */
function withGrantedHosts<Spec extends Claiming>(
  site: SliceResource<Spec>,
  state: ResourceState,
  grantOf: GrantOf,
): Part {
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
  const { nodeSelector: selector } = spec as { nodeSelector?: Readonly<Record<string, string>> }
  if (selector === undefined) return true
  return Object.entries(selector).every(([key, value]) => Object.hasOwn(labels, key) && labels[key] === value)
}

/** What has hosts that a grant may limit. */
type Claiming = SiteSpec | StreamSpec

function claimsHosts(resource: SliceResource): resource is SliceResource<Claiming> {
  return isSite(resource) || isStream(resource)
}
