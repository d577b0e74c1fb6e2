/**
 * A resource's changes as an Automerge document, which any tool for Automerge opens, and the comparison of what Automerge
 * computes from them with what document.ts keeps. Only changes that were derived here ever reach Automerge: no bytes from
 * outside. Loaded when somebody exports or verifies, since Automerge is 12 MB that a node needs for nothing else. Pure.
 */

import * as Automerge from '@automerge/automerge'
import { canonical, sha256 } from './canonical.ts'
import { byPrecedence, EXISTENCE, type Change, type FieldWrite, type ResourceState } from './document.ts'
import type { Value } from './envelope.ts'

const CHUNK_TYPE_OFFSET = 8
const PLAIN_CHANGE = 1

/**
 * The document as an Automerge file. Equal edits give equal heads and changes in it, whatever their order of arrival.
 * @param changes each after those that it follows.
 */
export function automergeFile(changes: readonly Change[]): Uint8Array {
  return withBackend(changes, (backend) => backend.save())
}

/**
 * Fields of which Automerge, which computes for itself what stands, has other writes than the resource, shown or lost; none
 * when they agree.
 */
export function disagreements(changes: readonly Change[], resource: ResourceState): string[] {
  // Whoever deletes the resource means all that they see of it, which in the document is `$` alone.
  const deleted = deletedBy(changes)
  return withBackend(changes, (backend) => {
    const standing = (field: string): { readonly edit: string; readonly text: string }[] =>
      (backend.getAll('_root', field) as [type: string, text: string, opId: string][])
        .map(([, text, opId]) => ({ text, counter: Number(opId.split('@')[0]), edit: opId.split('@')[1] as string }))
        .toSorted(byPrecedence)
        .map(({ text, edit }) => ({ edit, text: `${edit} ${text}` }))
    const live = standing(EXISTENCE).map(({ edit }) => edit)
    const counted = withDescendants(changes, live)
    const differs = (field: string): boolean => {
      const writes = standing(field)
      const shown = writes.filter(({ edit }) => counted.has(edit))
      const lost = writes.filter(({ edit }) => !counted.has(edit) && !deleted.has(edit))
      const same = (found: typeof writes, told: readonly string[]): boolean =>
        found.map(({ text }) => text).join() === told.join()
      return !same(shown, shownOf(resource, field)) || !same(lost, lostOf(resource, field))
    }
    const names = new Set([
      ...backend.keys('_root'),
      ...resource.fields.keys(),
      ...resource.lost.map(({ field }) => field),
    ])
    names.delete(EXISTENCE)
    const differing = [...names].toSorted().filter(differs)
    return live.length > 0 === resource.exists ? differing : [EXISTENCE, ...differing]
  })
}

/** The given changes, and all after them. */
function withDescendants(changes: readonly Change[], from: readonly string[]): Set<string> {
  const found = new Set(from)
  for (const { id, parents } of changes) if (parents.some((parent) => found.has(parent))) found.add(id)
  return found
}

/** Ids of the changes that delete the resource, and of all before them. */
function deletedBy(changes: readonly Change[]): Set<string> {
  const deleted = new Set<string>()
  for (const { id, parents, deletes } of changes.toReversed()) {
    if (deletes) deleted.add(id)
    if (deleted.has(id)) for (const parent of parents) deleted.add(parent)
  }
  return deleted
}

function shownOf({ fields, writers, conflicts }: ResourceState, field: string): string[] {
  const writes = conflicts.get(field)
  if (writes !== undefined) return writes.map(textOf)
  const edit = writers.get(field)
  return edit === undefined ? [] : [textOf({ edit, value: fields.get(field) as Value })]
}

function lostOf({ lost }: ResourceState, field: string): string[] {
  return lost.filter((write) => write.field === field).map(textOf)
}

function textOf({ edit, value }: Pick<FieldWrite, 'edit' | 'value'>): string {
  return `${edit} ${canonical(value)}`
}

type Backend = ReturnType<typeof Automerge.getBackend>

function withBackend<T>(changes: readonly Change[], use: (backend: Backend) => T): T {
  // The document's own actor never writes: each change brings the actor of its edit.
  const doc = Automerge.init({ actor: '00' })
  try {
    const backend = Automerge.getBackend(doc)
    backend.applyChanges(encode(changes))
    return use(backend)
  } finally {
    Automerge.free(doc)
  }
}

function encode(changes: readonly Change[]): Automerge.Change[] {
  const hashes = new Map<string, string>()
  return changes.map(({ id, parents, startOp, ops }) => {
    const change = Automerge.encodeChange({
      // The id of the edit is unique in a document, so actor and edit name each other.
      actor: id,
      author: null,
      seq: 1,
      startOp,
      time: 0,
      message: null,
      deps: parents.map((parent) => hashes.get(parent) as string).toSorted(),
      ops: ops.map(({ key, value, pred }) =>
        value === undefined
          ? { action: 'del', obj: '_root', key, pred: [...pred] }
          : { action: 'set', obj: '_root', key, value: canonical(value), pred: [...pred] },
      ),
    })
    hashes.set(id, hashOfChange(change))
    return change
  })
}

/**
 * The hash of a change: SHA-256 over its chunk without magic number and checksum (Automerge's binary format). Decoding
 * would tell too, which takes longer than making the change; only large changes, which are compressed, need it.
 */
function hashOfChange(change: Automerge.Change): string {
  const isPlain = change[CHUNK_TYPE_OFFSET] === PLAIN_CHANGE
  return isPlain ? sha256(change.subarray(CHUNK_TYPE_OFFSET)) : Automerge.decodeChange(change).hash
}
