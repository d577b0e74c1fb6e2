/**
 * From wanted resources to edits, pure: what changes in each resource against its current heads, how that is shown, and how
 * changes are packed into edits within the limits of an envelope. apply, diff, edit and delete call it; it does no I/O.
 */

import { canonical } from '../core/canonical.ts'
import { LIMITS, type Op, type ResourceEdit, type Value } from '../core/envelope.ts'
import { parseResourcePath, workspaceOf, type ResourceName } from '../core/names.ts'
import { diffFields } from '../core/resources/flat.ts'
import { KEYS_PREFIX, recipientsIn, SEALED_FIELD, versionIn } from '../core/secrets.ts'
import type { Paint } from './terminal.ts'
import { plain } from './terminal.ts'

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
  return { path, action, ops: byField(ops), deps: depsOf(current), before: current.fields }
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

// ---------------------------------------------------------------------------------------------- showing

const SIGNS = { create: '+', update: '~', delete: '-', keep: '=' } as const

/** A change as lines: the resource, then each field with its value before and after. */
export function showChange(change: Change, { green, red, yellow, dim, bold }: Paint): string {
  const colours = { create: green, update: yellow, delete: red, keep: dim } as const
  const word = { create: 'create', update: 'change', delete: 'delete', keep: 'unchanged' }[change.action]
  const head = `${colours[change.action](`${SIGNS[change.action]} ${word}`)} ${bold(plain(change.path))}\n`
  const isSealing = parseResourcePath(change.path)?.kind === 'secret'
  const sealing = isSealing ? sealingLine(change, { green, red, yellow }) : ''
  const lines = change.ops
    .filter(([, field]) => field !== '$' && !(isSealing && isSealed(field)))
    .map((op) => {
      const before = change.before.get(op[1])
      const was = before === undefined ? '' : red(show(before))
      const will = op[0] === 'set' ? green(show(op[2])) : ''
      if (op[0] === 'del') return `    ${red('-')} ${plain(op[1])}: ${was}\n`
      if (before === undefined) return `    ${green('+')} ${plain(op[1])}: ${will}\n`
      const isSame = show(before) === show(op[2])
      return `    ${yellow('~')} ${plain(op[1])}: ${isSame ? `${will} (settles a conflict)` : `${was} -> ${will}`}\n`
    })
  return head + sealing + lines.join('')
}

/** Ciphertext and wrapped keys tell a person nothing but how many can open them. */
function sealingLine({ before, ops }: Change, { green, red, yellow }: Pick<Paint, 'green' | 'red' | 'yellow'>): string {
  if (!ops.some(([, field]) => isSealed(field))) return ''
  const after = new Map(before)
  for (const op of ops) {
    if (op[0] === 'set') after.set(op[1], op[2])
    else after.delete(op[1])
  }
  const was = before.has(SEALED_FIELD) ? red(sealedWords(before)) : ''
  if (!after.has(SEALED_FIELD)) return `    ${red('-')} ${was}\n`
  const isAnew = ops.some(([, field]) => field === SEALED_FIELD)
  const will = green(`${sealedWords(after)}${was !== '' && isAnew ? ', anew' : ''}`)
  return was === '' ? `    ${green('+')} ${will}\n` : `    ${yellow('~')} ${was} -> ${will}\n`
}

function isSealed(field: string): boolean {
  return field === SEALED_FIELD || field.startsWith(KEYS_PREFIX)
}

/** `sealed, 3 recipients` */
export function sealedWords(fields: ReadonlyMap<string, Value>): string {
  if (versionIn(fields) === undefined) return 'not sealed as it should be'
  const count = recipientsIn(fields).length
  return `sealed, ${count} ${count === 1 ? 'recipient' : 'recipients'}`
}

/** `2 to create, 1 to change, 5 unchanged` */
export function summary(changes: readonly Change[]): string {
  const count = (action: Change['action']): number => changes.filter((change) => change.action === action).length
  const parts = [
    [count('create'), 'to create'],
    [count('update'), 'to change'],
    [count('delete'), 'to delete'],
    [count('keep'), 'unchanged'],
  ] as const
  return (
    parts
      .filter(([n]) => n > 0)
      .map(([n, words]) => `${n} ${words}`)
      .join(', ') || 'nothing'
  )
}

function show(value: Value): string {
  return plain(JSON.stringify(value))
}
