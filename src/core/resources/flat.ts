/**
 * Between the nested YAML of a resource and the flat fields that edits set one by one: `routes/root/proxy/upstream`.
 * Segments are escaped as in RFC 6901. Pure; checks nothing: schemas judge the result. Called by the CLI and API on
 * the way in, by the slice on the way out.
 */

import type { Op, Scalar, Value } from '../envelope.ts'
import { escapeSegment, unescapeSegment } from '../names.ts'
import { isTree, type Kind, type Tree, type TreePath } from './kind.ts'

/** The part of a resource that lies in fields. */
export interface Content {
  readonly labels: Tree
  readonly spec: Tree
}
type Shape = Pick<Kind, 'sets' | 'items'>

const LABELS = 'labels'

/** The flat fields of valid content, sorted by field. An empty map is absent; equal content gives equal fields. */
export function flatten(kind: Shape, content: Content): Map<string, Value> {
  const fields: [string, Value][] = []
  const visit = (path: TreePath, value: unknown): void => {
    const field = path.map(escapeSegment).join('/')
    if (Array.isArray(value)) {
      if (!isAt(kind.sets, path)) fields.push([field, value as readonly Scalar[]])
      else for (const item of new Set(value as Scalar[])) fields.push([`${field}/${escapeSegment(String(item))}`, true])
    } else if (isTree(value)) {
      const entries = Object.entries(value).filter(([, child]) => child !== undefined)
      if (entries.length === 0 && isAt(kind.items, path)) fields.push([field, true])
      for (const [key, child] of entries) visit([...path, key], child)
    } else fields.push([field, value as Scalar])
  }
  for (const [key, value] of Object.entries(content.spec)) visit([key], value)
  for (const [key, value] of Object.entries(content.labels)) visit([LABELS, key], value)
  return new Map(fields.toSorted(([a], [b]) => (a < b ? -1 : 1)))
}

/**
 * The nested content of flat fields, which may be any: what does not fit together comes out as something that no
 * schema accepts (a value and fields below it give an object with the value under the empty key).
 */
export function unflatten(kind: Shape, fields: ReadonlyMap<string, Value>): Content {
  const root: Tree = Object.create(null) as Tree
  for (const field of [...fields.keys()].toSorted()) {
    const segments = field.split('/').map(unescapeSegment)
    const last = segments.pop() as string
    let tree = root
    const path: string[] = []
    for (const segment of segments) {
      path.push(segment)
      tree = childTree(tree, segment, isAt(kind.items, path))
    }
    tree[last] = fields.get(field)
  }
  const { [LABELS]: labels, ...spec } = restore(kind, root, []) as Tree
  return { labels: labels === undefined ? {} : isTree(labels) ? labels : { '': labels }, spec }
}

function childTree(tree: Tree, key: string, isItem: boolean): Tree {
  const present = tree[key]
  if (isTree(present)) return present
  const child = Object.create(null) as Tree
  if (present !== undefined && !(isItem && present === true)) child[''] = present
  tree[key] = child
  return child
}

/** Turns sets back into lists and marks of empty items into empty maps. */
function restore(kind: Shape, value: unknown, path: TreePath): unknown {
  if (value === true && isAt(kind.items, path)) return {}
  if (!isTree(value)) return value
  const entries = Object.entries(value)
  if (isAt(kind.sets, path) && entries.every(([, mark]) => mark === true))
    return entries.map(([item]) => item).toSorted()
  return Object.fromEntries(entries.map(([key, child]) => [key, restore(kind, child, [...path, key])]))
}

/** The operations that lead from one set of fields to another, sorted by field as envelopes want them. */
export function diffFields(before: ReadonlyMap<string, Value>, after: ReadonlyMap<string, Value>): Op[] {
  const ops: Op[] = []
  for (const field of before.keys()) if (!after.has(field)) ops.push(['del', field])
  for (const [field, value] of after) if (!sameValue(before.get(field), value)) ops.push(['set', field, value])
  return ops.toSorted((a, b) => (a[1] < b[1] ? -1 : 1))
}

function sameValue(a: Value | undefined, b: Value): boolean {
  if (!Array.isArray(a) || !Array.isArray(b)) return a === b
  return a.length === b.length && a.every((item, index) => item === b[index])
}

function isAt(patterns: readonly TreePath[], path: TreePath): boolean {
  return patterns.some(
    (pattern) =>
      pattern.length === path.length && pattern.every((segment, index) => segment === '*' || segment === path[index]),
  )
}
