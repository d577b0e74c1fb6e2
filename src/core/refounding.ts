/**
 * A new mesh from what an old one holds, pure: what is in force there, and the envelopes that say the same under another
 * genesis and one owner. Called by `meshctl refound`, when no root key can replace the others any more.
 */

import type { ResourceState } from './document.ts'
import {
  signEnvelope,
  type EditBody,
  type Envelope,
  type GrantBody,
  type ResourceEdit,
  type Value,
} from './envelope.ts'
import { foundMesh, type Founding } from './founding.ts'
import { escapeSegment, parseResourcePath, unescapeSegment, workspaceOf } from './names.ts'
import { ABSENT, editsOf, pack, planFields } from './plan.ts'
import { overQuota } from './quota.ts'
import { deniedHosts } from './slicing.ts'
import type { MeshState } from './state.ts'

/** What a new mesh takes over. */
export interface Estate {
  readonly grants: readonly GrantBody[]
  /** Oldest first, as clashes between them are decided. */
  readonly resources: readonly Carried[]
  readonly owners: readonly GrantBody[]
  /** Left behind, too: whoever had the root keys may have made them, and all that was granted under them. */
  readonly byRoots: readonly GrantBody[]
  /** What stays behind, as it is in force on no node, with why. */
  readonly left: ReadonlyMap<string, string>
}

export interface Carried {
  readonly path: string
  readonly fields: ReadonlyMap<string, Value>
  /** Claimed time of its creation. */
  readonly at: number
}

/**
 * @param without keys that are granted nothing in the new mesh, nor what they granted.
 * @param trusted keys that are granted what they have, with all that they granted, though roots and no owner made them.
 */
export function estateOf(
  state: MeshState,
  without: ReadonlySet<string> = new Set(),
  trusted: ReadonlySet<string> = new Set(),
): Estate {
  const subjects = [...state.history.subjects()].filter((key) => !without.has(key))
  const active = subjects.flatMap((key) => state.policy.activeGrants(key))
  const isByOwner = (grant: Envelope<GrantBody>): boolean => {
    const { body } = grant
    // Nor what they granted.
    if (without.has(body.subject)) return false
    if (body.role === 'owner' || trusted.has(body.subject)) return true
    const under = state.history.get(body.grant) as Envelope
    return under.body.type === 'grant' && isByOwner(under as Envelope<GrantBody>)
  }
  const grants = distinct(active.filter(isByOwner))
  const carried = new Set(grants.map(sayingOf))
  const existing = state.resources()
  const grantOf = (edit: string): Envelope<GrantBody> | undefined => state.grantOf(edit)
  const left = new Map(overQuota(existing, grantOf))
  const resources: Carried[] = []
  for (const resource of existing.filter(({ path }) => !left.has(path)).toSorted(olderFirst)) {
    const denied = deniedHosts(hostsOf(resource), resource, grantOf)
    const fields = new Map([...resource.fields].filter(([field]) => !denied.some((host) => field === hostField(host))))
    const { path, created } = resource
    if (denied.length > 0) left.set(path, `${denied.join(', ')}: whoever wrote it may not claim it`)
    if (denied.length === 0 || hostsOf({ path, fields }).length > 0)
      resources.push({ path, fields, at: created?.at ?? 0 })
  }
  return {
    grants: grants.filter(({ role }) => role !== 'owner'),
    owners: grants.filter(({ role }) => role === 'owner'),
    byRoots: distinct(active.filter((grant) => !isByOwner(grant) && !carried.has(sayingOf(grant.body)))),
    resources,
    left,
  }
}

/** The envelopes of the new mesh, in causal order; the first is the genesis. */
export function refoundMesh(
  founding: Omit<Founding, 'nodes'>,
  { grants, resources }: Pick<Estate, 'grants' | 'resources'>,
  note: string,
): Envelope[] {
  const { owner, at } = founding
  const [genesis, ownerGrant] = foundMesh({ ...founding, nodes: [] }) as [Envelope, Envelope]
  const chains = new Map<string, Envelope<GrantBody | EditBody>>()
  const envelopes: Envelope[] = [genesis, ownerGrant]
  const common = { v: 1, mesh: genesis.id, by: owner.publicKey, grant: ownerGrant.id, note } as const
  const add = <B extends GrantBody | EditBody>(body: Omit<B, 'n' | 'prev'>): string => {
    const last = chains.get(body.ws)
    const place = { n: (last?.body.n ?? 0) + 1, prev: last === undefined ? [] : [last.id] }
    const envelope = signEnvelope({ ...body, ...place } as unknown as B, [owner])
    chains.set(body.ws, envelope)
    envelopes.push(envelope)
    return envelope.id
  }
  for (const grant of grants) add<GrantBody>({ ...grant, ...common, at })
  // Between clashing resources the older wins, so they keep their order: one edit each, or more where it is large.
  let last = -1
  for (const { path, fields, at: created } of resources) {
    last = Math.max(last + 1, Math.min(created, at))
    let written: string | undefined
    for (const batch of pack([planFields(path, ABSENT, fields)])) {
      const edits: ResourceEdit[] = editsOf(batch, new Map(written === undefined ? [] : [[path, written]]))
      written = add<EditBody>({ ...common, type: 'edit', ws: workspaceOf(path), at: last, edits })
    }
  }
  return envelopes
}

function distinct(grants: readonly Envelope<GrantBody>[]): GrantBody[] {
  return [...new Map(grants.map(({ body }) => [sayingOf(body), body])).values()]
}

/** Equal for grants that say the same: they differ in who signed them when. */
function sayingOf({ ws, subject, role, zones, kinds, fields, hosts, quota, enc, name }: GrantBody): string {
  return JSON.stringify([ws, subject, role, zones, kinds, fields, hosts, quota, enc, name])
}

function hostField(host: string): string {
  return `hosts/${escapeSegment(host)}`
}

/** Of a site: as its fields have them. */
function hostsOf({ path, fields }: Pick<ResourceState, 'path' | 'fields'>): string[] {
  if (parseResourcePath(path)?.kind !== 'site') return []
  return [...fields.keys()]
    .filter((field) => field.startsWith('hosts/'))
    .map((field) => unescapeSegment(field.slice(6)))
}

function olderFirst(a: ResourceState, b: ResourceState): number {
  const byTime = (a.created?.at ?? 0) - (b.created?.at ?? 0)
  return byTime !== 0 ? byTime : (a.created?.edit ?? '') < (b.created?.edit ?? '') ? -1 : 1
}
