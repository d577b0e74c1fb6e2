/**
 * WorkspacePolicy: who may do what in one workspace, as YAML that people write and compare. A way to write grants, and no
 * resource: nodes know nothing of it. From documents to wanted grants and back, and what lies between them and those in
 * force. Pure. Called by policy.ts.
 */

import { z } from 'zod'
import { CALLER_KIND } from '../../core/caller.ts'
import { canonical } from '../../core/canonical.ts'
import { parseBody, ROLES, type Role } from '../../core/envelope.ts'
import { isName, isWorkspace } from '../../core/names.ts'
import { NODE_KIND } from '../../core/policy.ts'
import { API_VERSION, KINDS, kindOf } from '../../core/resources/index.ts'
import { isTree, type Tree } from '../../core/resources/kind.ts'
import { check, type FieldFault } from '../../core/resources/validate.ts'
import { asMeshError, MeshError } from '../../errors.ts'
import { scopeText, type GrantScope } from './grant-scope.ts'
import type { Held } from './held.ts'

export const POLICY_KIND = 'WorkspacePolicy'

const list = z.array(z.string())
const SCOPE = {
  key: z.string().optional(),
  enc: z.string().optional(),
  zones: list,
  kinds: list.optional(),
  fields: list.optional(),
  hosts: list.optional(),
  quota: z
    .strictObject({ resources: z.int().optional(), fields: z.int().optional(), bytes: z.int().optional() })
    .optional(),
}
/** Nodes have a place of their own, so that nobody is made one by a wrong word. */
const MEMBER_ROLES = ROLES.filter((role) => role !== 'node') as [Role, ...Role[]]
const MEMBER = z.strictObject({ ...SCOPE, role: z.enum(MEMBER_ROLES) })
const NODE = z.strictObject(SCOPE)
const DOCUMENT = z.strictObject({
  apiVersion: z.literal(API_VERSION),
  kind: z.literal(POLICY_KIND),
  metadata: z.strictObject({
    name: z
      .string()
      .refine((name) => name === '*' || isWorkspace(name), { message: 'is not a workspace, nor * for all' }),
  }),
  spec: z.strictObject({ members: z.unknown().optional(), nodes: z.unknown().optional() }),
})

type Entry = z.infer<typeof NODE> & { readonly role?: Role }

export interface WorkspacePolicy {
  /** `*` is what is granted for all of them. */
  readonly workspace: string
  readonly grants: readonly GrantScope[]
}

// ---------------------------------------------------------------------------------------------- from YAML

/** @throws MeshError `resource_invalid`, naming the field. */
export function parsePolicy(document: unknown): WorkspacePolicy {
  const spec = isTree(document) ? (document['spec'] ?? {}) : {}
  const { members = {}, nodes = {} } = isTree(spec) ? spec : {}
  const isShaped = isTree(document) && isTree(spec)
  // The entries are checked one by one: they may be lists of maps, which no resource holds.
  const head = isShaped ? { ...document, spec: { ...spec, members: 'below', nodes: 'below' } } : document
  const { metadata } = checked(DOCUMENT, head, [])
  const grants = [
    ...entriesOf(members, 'members', MEMBER).map((entry) => grantOf(entry, metadata.name)),
    ...entriesOf(nodes, 'nodes', NODE).map((entry) => grantOf(entry, metadata.name)),
  ]
  return { workspace: metadata.name, grants: [...new Map(grants.map((grant) => [scopeText(grant), grant])).values()] }
}

interface Written {
  readonly title: string
  readonly field: string
  readonly entry: Entry
}

function entriesOf(value: unknown, section: string, schema: z.ZodType<Entry>): Written[] {
  if (!isTree(value)) throw invalid({ field: `spec.${section}`, message: 'is not a map of names' })
  return Object.entries(value).flatMap(([title, written]) => {
    const several: readonly unknown[] = Array.isArray(written) ? written : [written]
    return several.map((one, index) => {
      const [place, path] = Array.isArray(written) ? [`[${index}]`, [index]] : ['', []]
      const field = `spec.${section}.${title}${place}`
      return { title, field, entry: checked(schema, one, ['spec', section, title, ...path]) }
    })
  })
}

/** A title that is no name, as names are shorter, is the key of somebody whom no grant names. */
function grantOf({ title, field, entry }: Written, ws: string): GrantScope {
  const isNamed = isName(title)
  const subject = entry.key ?? (isNamed ? undefined : title)
  if (subject === undefined) throw invalid({ field: `${field}.key`, message: 'is required' })
  if (!isNamed && subject !== title)
    throw invalid({ field, message: 'is neither a name (lower-case letters, digits and -) nor the key' })
  const [key = '', enc = entry.enc] = subject.split(':')
  if (entry.enc !== undefined && enc !== entry.enc)
    throw invalid({ field: `${field}.enc`, message: 'is not that of key' })
  const kinds = entry.kinds?.map((kind, index) => kindPath(kind, `${field}.kinds[${index}]`, entry.role)) ?? ['*']
  const grant: GrantScope = {
    ws,
    subject: key,
    role: entry.role ?? 'node',
    zones: sorted(entry.zones),
    kinds: sorted(kinds),
    ...(entry.fields === undefined ? {} : { fields: sorted(entry.fields) }),
    ...(entry.hosts === undefined ? {} : { hosts: sorted(entry.hosts) }),
    ...(entry.quota === undefined ? {} : { quota: entry.quota as NonNullable<GrantScope['quota']> }),
    ...(enc === undefined ? {} : { enc }),
    ...(isNamed ? { name: title } : {}),
  }
  checkForm(grant, field)
  return grant
}

function kindPath(word: string, field: string, role: Role | undefined): string {
  // Two words that are no kinds of resources, and that some roles may have.
  const isRight = (word === NODE_KIND && role === 'robot') || (word === CALLER_KIND && role !== undefined)
  if (word === '*' || isRight) return word
  const kind = kindOf(word)?.path
  if (kind === undefined)
    throw invalid({ field, message: 'is no kind', hint: `known: ${[...KINDS.keys()].join(', ')}` })
  return kind
}

/** By the rule that nodes follow: keys, zones, host names, numbers of them. */
function checkForm(grant: GrantScope, field: string): void {
  const nobody = '0'.repeat(64)
  const common = { v: 1, type: 'grant', mesh: nobody, by: nobody, grant: nobody, n: 1, prev: [], at: 0, note: '' }
  try {
    parseBody(canonical({ ...common, ...grant }))
  } catch (error) {
    const { message, details } = asMeshError(error)
    const [, rest = message] = /^\S+: (.*)$/s.exec(message) ?? []
    const member = details.field === 'subject' ? 'key' : details.field
    throw invalid({ field: member === undefined ? field : `${field}.${member}`, message: rest })
  }
}

function sorted(items: readonly string[]): string[] {
  return [...new Set(items)].toSorted()
}

function checked<S>(schema: z.ZodType<S>, value: unknown, path: readonly (string | number)[]): S {
  const result = check(schema, value, path)
  if (!result.ok) throw invalid(result.fault)
  return result.value
}

function invalid({ field, message, hint }: Pick<FieldFault, 'field' | 'message' | 'hint'>): MeshError {
  return new MeshError('resource_invalid', `${field} ${message}`, { field, ...(hint === undefined ? {} : { hint }) })
}

// ---------------------------------------------------------------------------------------------- to YAML

/** The documents that say what these grants say, one for each workspace; equal grants to one key are one. */
export function policyDocuments(grants: readonly GrantScope[]): Tree[] {
  const workspaces = sorted(grants.map(({ ws }) => ws))
  return workspaces.map((name) => {
    const own = grants.filter(({ ws }) => ws === name)
    const members = sectionOf(own.filter(({ role }) => role !== 'node'))
    const nodes = sectionOf(own.filter(({ role }) => role === 'node'))
    return {
      apiVersion: API_VERSION,
      kind: POLICY_KIND,
      metadata: { name },
      spec: { ...members('members'), ...nodes('nodes') },
    }
  })
}

function sectionOf(grants: readonly GrantScope[]): (name: string) => Record<string, unknown> {
  const distinct = new Map(grants.map((grant) => [scopeText(grant), grant]))
  const entries = new Map<string, unknown[]>()
  for (const [, grant] of [...distinct].toSorted(([a], [b]) => (a < b ? -1 : 1))) {
    const title = grant.name ?? grant.subject
    entries.set(title, [...(entries.get(title) ?? []), entryOf(grant)])
  }
  const written = [...entries].toSorted(([a], [b]) => (a < b ? -1 : 1))
  const section = Object.fromEntries(written.map(([title, all]) => [title, all.length === 1 ? all[0] : all]))
  return (name) => (written.length === 0 ? {} : { [name]: section })
}

function entryOf({
  subject,
  enc,
  role,
  zones,
  kinds,
  fields,
  hosts,
  quota,
  name,
}: GrantScope): Record<string, unknown> {
  return {
    ...(name === undefined ? {} : { key: subject }),
    ...(enc === undefined ? {} : { enc }),
    ...(role === 'node' ? {} : { role }),
    zones,
    ...(kinds.length === 1 && kinds[0] === '*' ? {} : { kinds }),
    ...(fields === undefined ? {} : { fields }),
    ...(hosts === undefined ? {} : { hosts }),
    ...(quota === undefined ? {} : { quota }),
  }
}

// ---------------------------------------------------------------------------------------------- what lies between

export interface PolicyDifference {
  /** To be signed. */
  readonly missing: readonly GrantScope[]
  /** In force, and not in the files. */
  readonly surplus: readonly Held[]
}

/** @param held grants in force in the workspaces of the policies. */
export function comparePolicies(policies: readonly WorkspacePolicy[], held: readonly Held[]): PolicyDifference {
  const wanted = policies.flatMap(({ grants }) => grants)
  return {
    missing: wanted
      .filter((grant) => !held.some(({ says }) => isMet(grant, says)))
      .map((grant) => ({ ...encOf(grant, held), ...grant })),
    surplus: held.filter(({ says }) => !wanted.some((grant) => isMet(grant, says))),
  }
}

/** Where the file tells no `enc`, any will do. */
function isMet(wanted: GrantScope, says: GrantScope): boolean {
  if (wanted.enc !== undefined) return scopeText(wanted) === scopeText(says)
  const { enc: _, ...rest } = says
  return scopeText(wanted) === scopeText(rest)
}

/** The one that the latest grant to the same key tells, so that a change of zones closes no secrets. */
function encOf({ subject }: GrantScope, held: readonly Held[]): Pick<GrantScope, 'enc'> {
  const own = held.filter(({ says }) => says.subject === subject && says.enc !== undefined)
  const latest = own.toSorted((a, b) => b.view.at - a.view.at)[0]
  return latest?.says.enc === undefined ? {} : { enc: latest.says.enc }
}
