/**
 * One resource: the Automerge document that every node derives from the resource's edits, and what is visible in it.
 * Only changes that were built here ever reach Automerge; equal sets of edits give equal documents. Called by
 * state.ts, which owns the verdicts. DESIGN: materialising a resource.
 */

import * as Automerge from '@automerge/automerge'
import { canonical, sha256, type Json } from './canonical.ts'
import type { Op, Value } from './envelope.ts'

/** What one edit does to this resource, with the verdict on the edit. */
export interface Step {
  /** Envelope id. */
  readonly id: string
  /** Author's public key. */
  readonly by: string
  /** Claimed time, ms. */
  readonly at: number
  /** Edits of this resource that the author had seen; all are added before. */
  readonly deps: readonly string[]
  readonly ops: readonly Op[]
  /** A step that is not accepted is skipped through: whoever depends on it depends on its deps. */
  readonly accepted: boolean
}

/** One value that one edit gave one field. */
export interface FieldWrite {
  readonly field: string
  readonly value: Value
  /** Envelope id. */
  readonly edit: string
  /** Author's public key. */
  readonly by: string
}

/** What is visible of a resource. */
export interface ResourceState {
  /** `workspace/zone/kind/name` */
  readonly path: string
  readonly exists: boolean
  /** Visible flat fields, sorted, without `$`. Empty when the resource does not exist. */
  readonly fields: ReadonlyMap<string, Value>
  /** Fields with several concurrent values, the visible one first. */
  readonly conflicts: ReadonlyMap<string, readonly FieldWrite[]>
  /** Writes that a concurrent delete hides, sorted by field. */
  readonly lost: readonly FieldWrite[]
  /** Accepted edits that no accepted edit follows: the `deps` of the next edit. Sorted. */
  readonly heads: readonly string[]
  /** The oldest live creation, by claimed time and then id. */
  readonly created: { readonly at: number; readonly edit: string; readonly by: string } | undefined
  /** SHA-256 over path, fields and conflicts; equal wherever the accepted edits are equal. */
  readonly hash: string
}

const EXISTENCE = '$'

interface AppliedStep {
  readonly step: Step
  /** Nearest accepted edits at or before this one: itself when accepted, else those of its deps. */
  readonly images: readonly string[]
  /** For an accepted step: the images of its deps, which its change names as dependencies. */
  readonly parents: readonly string[]
}

interface DerivedChange {
  readonly hash: string
  /** Highest operation counter in this change's past and itself. */
  readonly maxOp: number
}

/** An operation that is visible in the document: which edit wrote it, under which Lamport counter. */
interface VisibleOp {
  readonly value: Value
  readonly edit: string
  readonly counter: number
  readonly opId: string
}

/** The live document of one resource. Holds memory outside the JavaScript heap until `free`. */
export class ResourceDocument {
  readonly #path: string
  readonly #doc: Automerge.Doc<unknown>
  readonly #steps = new Map<string, AppliedStep>()
  readonly #changes = new Map<string, DerivedChange>()
  readonly #editOfHash = new Map<string, string>()

  constructor(path: string) {
    this.#path = path
    // The document's own actor never writes: each change brings the actor of its edit.
    this.#doc = Automerge.init({ actor: '00' })
  }

  /** Adds one edit, after all that it depends on. An id that was added before changes nothing. */
  add(step: Step): void {
    if (this.#steps.has(step.id)) return
    const parents = this.#imagesOf(step.deps)
    if (!step.accepted) {
      this.#steps.set(step.id, { step, images: parents, parents })
      return
    }
    this.#applyChange(step, parents)
    this.#steps.set(step.id, { step, images: [step.id], parents })
  }

  /** What is visible now. */
  read(): ResourceState {
    const backend = Automerge.getBackend(this.#doc)
    const live = this.#visible(EXISTENCE)
    const exists = live.length > 0
    const counted = this.#descendantsOf(live.map((op) => op.edit))
    const fields = new Map<string, Value>()
    const conflicts = new Map<string, readonly FieldWrite[]>()
    const lost: FieldWrite[] = []
    for (const field of backend.keys('_root').toSorted()) {
      if (field === EXISTENCE) continue
      const ops = this.#visible(field)
      const counting = ops.filter((op) => counted.has(op.edit))
      const winner = counting[0]
      if (winner !== undefined) fields.set(field, winner.value)
      if (counting.length > 1)
        conflicts.set(
          field,
          counting.map((op) => this.#write(field, op)),
        )
      for (const op of ops) if (!counted.has(op.edit)) lost.push(this.#write(field, op))
    }
    const created = live
      .map((op) => this.#step(op.edit))
      .toSorted((a, b) => a.at - b.at || (a.id < b.id ? -1 : 1))
      .map(({ at, id, by }) => ({ at, edit: id, by }))[0]
    const heads = backend
      .getHeads()
      .map((hash) => this.#editOfHash.get(hash) as string)
      .toSorted()
    return {
      path: this.#path,
      exists,
      fields,
      conflicts,
      lost,
      heads,
      created,
      hash: stateHashOf(this.#path, exists, fields, conflicts),
    }
  }

  /** Gives back the document's memory; the object must not be used afterwards. */
  free(): void {
    Automerge.free(this.#doc)
  }

  #imagesOf(deps: readonly string[]): string[] {
    return [...new Set(deps.flatMap((dep) => this.#applied(dep).images))].toSorted()
  }

  #applyChange(step: Step, parents: readonly string[]): void {
    const backend = Automerge.getBackend(this.#doc)
    const deps = parents.map((parent) => this.#change(parent))
    const hashes = deps.map((dep) => dep.hash).toSorted()
    const startOp = 1 + Math.max(0, ...deps.map((dep) => dep.maxOp))
    // Reading at the current heads is much cheaper than reading in the past, and is the common case.
    const isLatest = canonical(backend.getHeads().toSorted()) === canonical(hashes)
    const at = isLatest ? undefined : hashes
    const ops = this.#expandDelete(step.ops, at).flatMap((op) => {
      const pred = this.#visible(op[1], at).map((visible) => visible.opId)
      if (op[0] === 'set') return [{ action: 'set', obj: '_root', key: op[1], value: canonical(op[2] as Json), pred }]
      return pred.length === 0 ? [] : [{ action: 'del', obj: '_root', key: op[1], pred }]
    })
    const change = Automerge.encodeChange({
      // The id of the edit is unique in a document, so actor and edit name each other.
      actor: step.id,
      author: null,
      seq: 1,
      startOp,
      time: 0,
      message: null,
      deps: hashes,
      ops,
    })
    backend.applyChanges([change])
    const hash = Automerge.decodeChange(change).hash
    this.#changes.set(step.id, { hash, maxOp: startOp + ops.length - 1 })
    this.#editOfHash.set(hash, step.id)
  }

  /** Deleting the resource deletes every field that its author could see. */
  #expandDelete(ops: readonly Op[], at: string[] | undefined): readonly Op[] {
    const isDelete = ops.some((op) => op[0] === 'del' && op[1] === EXISTENCE)
    if (!isDelete) return ops
    return Automerge.getBackend(this.#doc)
      .keys('_root', at)
      .toSorted()
      .map((field) => ['del', field] as const)
  }

  /** The visible operations of a field, at given change hashes or now: the winner first. */
  #visible(field: string, at?: string[]): VisibleOp[] {
    return Automerge.getBackend(this.#doc)
      .getAll('_root', field, at)
      .map((entry) => {
        const [, text, opId] = entry as [string, string, string]
        const separator = opId.indexOf('@')
        return {
          value: JSON.parse(text) as Value,
          edit: opId.slice(separator + 1),
          counter: Number(opId.slice(0, separator)),
          opId,
        }
      })
      .toSorted((a, b) => b.counter - a.counter || (a.edit < b.edit ? 1 : -1))
  }

  /** The given accepted edits and all accepted edits after them. */
  #descendantsOf(edits: readonly string[]): Set<string> {
    const found = new Set(edits)
    // Steps were added after their deps, so one pass in order is enough.
    for (const [id, { step, parents }] of this.#steps) {
      if (step.accepted && parents.some((parent) => found.has(parent))) found.add(id)
    }
    return found
  }

  #write(field: string, op: VisibleOp): FieldWrite {
    return { field, value: op.value, edit: op.edit, by: this.#step(op.edit).by }
  }

  #applied(id: string): AppliedStep {
    const applied = this.#steps.get(id)
    if (applied === undefined) throw new Error(`edit ${id} of ${this.#path} was not added before what depends on it`)
    return applied
  }

  #step(id: string): Step {
    return this.#applied(id).step
  }

  #change(id: string): DerivedChange {
    return this.#changes.get(id) as DerivedChange
  }
}

function stateHashOf(
  path: string,
  exists: boolean,
  fields: ReadonlyMap<string, Value>,
  conflicts: ReadonlyMap<string, readonly FieldWrite[]>,
): string {
  const conflicting = [...conflicts].map(([field, writes]) => [field, writes.map((write) => [write.value, write.edit])])
  return sha256(canonical([path, exists, [...fields], conflicting] as unknown as Json))
}
