/**
 * From wanted resources to edits: what a document asks for, what changes in each resource against its current heads, and how
 * changes are packed into edits within the limits of an envelope. Pure. meshctl plans with it, and a node with an edit key.
 */

import { asMeshError, MeshError } from '../errors.ts'
import { canonical } from './canonical.ts'
import { LIMITS, type Op, type ResourceEdit, type Value } from './envelope.ts'
import { parseResourcePath, workspaceOf, type ResourceName } from './names.ts'
import { diffFields } from './resources/flat.ts'
import { fieldsOf, parseDocument, pathOf } from './resources/index.ts'
import { isTree } from './resources/kind.ts'
import { versionIn } from './secrets.ts'

/** A resource as somebody wants it. */
export interface Wanted {
  readonly path: string
  readonly fields: ReadonlyMap<string, Value>
}

/**
 * The resource that a document asks for.
 * @throws MeshError `resource_invalid`, naming the field; of a Secret, nothing that the document says is repeated.
 */
export function wantedOf(document: unknown): Wanted {
  const isSecret = isTree(document) && document['kind'] === 'Secret'
  try {
    const resource = parseDocument(document)
    const fields = fieldsOf(resource)
    if (isSecret && versionIn(fields) === undefined) throw new MeshError('resource_invalid', 'the version is none')
    return { path: pathOf(resource), fields }
  } catch (error) {
    throw isSecret ? asUnsealed(error) : error
  }
}

/** People write the text itself into the spec of a Secret. Whatever they wrote is not repeated. */
function asUnsealed(error: unknown): MeshError {
  const known = asMeshError(error)
  if (known.details.field?.startsWith('metadata') === true) return known
  return new MeshError('resource_invalid', 'spec is not what meshctl sealed', {
    field: 'spec',
    hint: 'seal a text with meshctl secret set NAME --zone ZONE -f FILE; apply takes back what meshctl get secret NAME -o yaml shows',
  })
}

/** A resource as the node has it. A deleted one has heads and no fields. */
export interface Current {
  readonly exists: boolean
  readonly fields: ReadonlyMap<string, Value>
  readonly heads: readonly string[]
  /** Fields with several concurrent values. */
  readonly conflicts: readonly string[]
}

/** A resource that no edit ever touched. */
export const ABSENT: Current = { exists: false, fields: new Map(), heads: [], conflicts: [] }

export interface Change {
  readonly path: string
  readonly action: 'create' | 'update' | 'delete' | 'keep'
  /** Empty for `keep`. What is larger than one edit is cut up in this order. */
  readonly ops: readonly Op[]
  readonly deps: readonly string[]
  readonly before: ReadonlyMap<string, Value>
}

/** What makes a resource have exactly the wanted fields. Conflicts in it are settled by what is wanted. */
export function planFields(path: string, current: Current, wanted: ReadonlyMap<string, Value>): Change {
  const changed = diffFields(current.fields, wanted)
  const touched = new Set(changed.map(([, field]) => field))
  // The visible value may be the wanted one already, but the other one is still there beside it.
  const settled = current.conflicts
    .filter((field) => !touched.has(field))
    .flatMap((field): Op[] => (wanted.has(field) ? [['set', field, wanted.get(field) as Value]] : []))
  const created: Op[] = current.exists ? [] : [['set', '$', true]]
  return planOps(path, current, [...created, ...changed, ...settled])
}

/** Exactly these operations on a resource. */
export function planOps(path: string, current: Current, ops: readonly Op[]): Change {
  const action = !current.exists ? 'create' : ops.length === 0 ? 'keep' : 'update'
  // A piece that comes before `$` would be lost: nothing is there yet, and names may sort before it.
  const sorted = byField(ops).toSorted((a, b) => Number(b[1] === '$') - Number(a[1] === '$'))
  return { path, action, ops: sorted, deps: depsOf(current), before: current.fields }
}

export function planDelete(path: string, current: Current): Change {
  if (!current.exists) return { path, action: 'keep', ops: [], deps: [], before: current.fields }
  return { path, action: 'delete', ops: [['del', '$']], deps: depsOf(current), before: current.fields }
}

export function depsOf({ heads }: Current): string[] {
  // Heads beyond the limit stay heads; the next edit joins them.
  return heads.slice(0, LIMITS.deps).toSorted()
}

// ---------------------------------------------------------------------------------------------- packing

/** A part of one edit: a resource, or the next piece of one that is larger than an edit. */
interface Piece {
  readonly path: string
  readonly deps: readonly string[]
  readonly ops: readonly Op[]
}

/** What one edit holds. */
export interface Batch {
  readonly workspace: string
  readonly pieces: readonly Piece[]
}

/** What the other members of a body may take, generously. */
const BODY_OVERHEAD_BYTES = 2048
const BATCH_BYTES = LIMITS.bodyBytes - BODY_OVERHEAD_BYTES

/**
 * Packs changes into as few edits as their order allows: what others refer to is created first and deleted last. One
 * edit is one unit on every node; a resource is spread over several edits only when it is larger than one.
 */
export function pack(changes: readonly Change[]): Batch[] {
  const ordered = changes
    .filter(({ ops }) => ops.length > 0)
    .toSorted((a, b) => rank(a) - rank(b) || (a.path < b.path ? -1 : 1))
  const batches: { workspace: string; pieces: Piece[]; ops: number; bytes: number }[] = []
  for (const piece of ordered.flatMap(split)) {
    const bytes = pieceBytes(piece)
    const workspace = workspaceOf(piece.path)
    const open = batches.at(-1)
    const fits =
      open !== undefined &&
      open.workspace === workspace &&
      open.pieces.length < LIMITS.resources &&
      open.ops + piece.ops.length <= LIMITS.ops &&
      open.bytes + bytes <= BATCH_BYTES &&
      open.pieces.every(({ path }) => path !== piece.path)
    if (!fits) batches.push({ workspace, pieces: [piece], ops: piece.ops.length, bytes })
    else {
      open.pieces.push(piece)
      open.ops += piece.ops.length
      open.bytes += bytes
    }
  }
  return batches.map(({ workspace, pieces }) => ({ workspace, pieces }))
}

/** Upstreams, then what lies between, then sites; deletions after everything, and the other way round. */
function rank({ path, action }: Change): number {
  const { kind } = parseResourcePath(path) as ResourceName
  const order = kind === 'upstream' ? 0 : kind === 'site' ? 2 : 1
  return action === 'delete' ? 5 - order : order
}

function split({ path, deps, ops }: Change): Piece[] {
  const pieces: Piece[] = []
  let start = 0
  let bytes = 0
  const base = pieceBytes({ path, deps, ops: [] })
  for (const [index, op] of ops.entries()) {
    const opBytes = Buffer.byteLength(canonical(op)) + 1
    const isFull = index - start === LIMITS.ops || base + bytes + opBytes > BATCH_BYTES
    if (isFull) {
      pieces.push({ path, deps, ops: ops.slice(start, index) })
      start = index
      bytes = 0
    }
    bytes += opBytes
  }
  return [...pieces, { path, deps, ops: ops.slice(start) }].map((piece) => ({ ...piece, ops: byField(piece.ops) }))
}

/** As envelopes want them. */
function byField(ops: readonly Op[]): Op[] {
  return ops.toSorted((a, b) => (a[1] < b[1] ? -1 : 1))
}

function pieceBytes({ path, deps, ops }: Piece): number {
  return Buffer.byteLength(canonical([path, deps, ops])) + 1
}

/** The `edits` of a body. @param written the last edit of this run for each resource: what a next piece follows. */
export function editsOf(batch: Batch, written: ReadonlyMap<string, string>): ResourceEdit[] {
  return batch.pieces
    .map(({ path, deps, ops }): ResourceEdit => {
      const last = written.get(path)
      return [path, last === undefined ? deps : [last], ops]
    })
    .toSorted(([a], [b]) => (a < b ? -1 : 1))
}
