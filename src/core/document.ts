/**
 * One resource: the changes of an Automerge document that every node derives from the resource's edits, and what is visible
 * in it. What is visible is kept here, change by change, so that reading needs no Automerge; automerge.ts builds the
 * document, and holds the two against each other. Equal sets of edits give equal changes. Called by state.ts, which owns the
 * verdicts. DESIGN: materialising a resource.
 */

import { canonical, sha256 } from './canonical.ts'
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
  /** The edit that gave each visible field its value, by field. */
  readonly writers: ReadonlyMap<string, string>
  /** Fields with several concurrent values, the visible one first. */
  readonly conflicts: ReadonlyMap<string, readonly FieldWrite[]>
  /** Writes that a concurrent delete hides, sorted by field. */
  readonly lost: readonly FieldWrite[]
  /** Accepted edits that change nothing here, since they overwrite more than OVERWRITES_MAX concurrent writes. */
  readonly excessive: readonly string[]
  /** Accepted edits that no accepted edit follows: the `deps` of the next edit. Sorted. */
  readonly heads: readonly string[]
  /** The oldest live creation, by claimed time and then id. */
  readonly created: { readonly at: number; readonly edit: string; readonly by: string } | undefined
  /**
   * SHA-256 over path, creation (which decides between clashing resources), fields and conflicts; equal wherever the
   * accepted edits are equal.
   */
  readonly hash: string
}

/** The field that says that a resource exists. */
export const EXISTENCE = '$'

const BRANCHES_MAX = 16

/**
 * Concurrent writes of one resource that one edit may overwrite: four for each field that an edit can name. With more, it
 * changes nothing here, as if it were void; the limit rests on its ancestors alone, so every node draws it alike. Without
 * it a thousand concurrent edits make each of the next ones cost a quarter of a million predecessors.
 */
export const OVERWRITES_MAX = 1_024

/** One Automerge change, before it is encoded: what one accepted edit became. */
export interface Change {
  /** Of the edit; the change's actor. */
  readonly id: string
  /** Ids of the changes that it follows. */
  readonly parents: readonly string[]
  /** Counter of the first operation. */
  readonly startOp: number
  readonly ops: readonly ChangeOp[]
  /** Whether its author deletes the resource, and so all that they saw of it. */
  readonly deletes: boolean
}

/** Sets a field, or without a value deletes it. */
export interface ChangeOp {
  readonly key: string
  readonly value?: Value
  /** Operations whose writes it replaces, as `<counter>@<edit>`. */
  readonly pred: readonly string[]
}

interface AppliedStep {
  readonly step: Step
  /** Nearest accepted edits at or before this one: itself when accepted, else those of its deps. */
  readonly images: readonly string[]
  /** For an accepted step: the images of its deps, which its change names as dependencies. */
  readonly parents: readonly string[]
}

/** A value that one edit gave one field, under the counter of its operation. */
interface Write {
  readonly field: string
  readonly value: Value
  readonly edit: string
  readonly counter: number
}

/** What an accepted edit became. */
interface DerivedChange {
  /** Highest operation counter in this change's past and itself. */
  readonly maxOp: number
  readonly writes: readonly Write[]
  /** Writes that its author saw and that this change replaces or deletes. */
  readonly overwrites: readonly Write[]
}

/** Writes that are visible at some point of history, by field. */
type Visible = Map<string, Set<Write>>

/** The live document of one resource. */
export class ResourceDocument {
  readonly #path: string
  readonly #overwritesMax: number
  readonly #steps = new Map<string, AppliedStep>()
  readonly #changes = new Map<string, DerivedChange>()
  /** Accepted edits that no accepted edit follows. */
  readonly #heads = new Set<string>()
  readonly #excessive: string[] = []
  /** Accepted edits that delete the resource. */
  readonly #deletes: string[] = []
  /** What is visible at the heads: what Automerge would show, and what the next change overwrites. */
  readonly #latest: Visible = new Map()
  /** What is visible to who has seen some edits, by their ids: at the branches asked for last, to spare a walk back each. */
  readonly #branches = new Map<string, Visible>()

  /** @param overwritesMax tests make it small. */
  constructor(path: string, overwritesMax: number = OVERWRITES_MAX) {
    this.#path = path
    this.#overwritesMax = overwritesMax
  }

  /** Adds one edit, after all that it depends on. An id that was added before changes nothing. */
  add(step: Step): void {
    if (this.#steps.has(step.id)) return
    const parents = this.#imagesOf(step.deps)
    const accepted = step.accepted && this.#derive(step, parents)
    if (step.accepted && !accepted) this.#excessive.push(step.id)
    this.#steps.set(step.id, { step: { ...step, accepted }, images: accepted ? [step.id] : parents, parents })
  }

  /** Whether an edit that is not added would overwrite too much to count here; all its deps are added. */
  isExcessive({ deps, ops }: Pick<Step, 'deps' | 'ops'>): boolean {
    const visible = this.#visibleAt(this.#imagesOf(deps))
    return countOverwrites(ops, visible) > this.#overwritesMax
  }

  /** What is visible now. */
  read(): ResourceState {
    const live = this.#read(EXISTENCE)
    const exists = live.length > 0
    const counted = this.#descendantsOf(live.map((write) => write.edit))
    // Whoever deletes the resource means all that they see of it. Their change deletes `$` alone: what stood on that one
    // counts no more, and a thousand concurrent deletes do not become a thousand times its fields.
    const deleted = this.#pastOf(this.#deletes)
    const fields = new Map<string, Value>()
    const writers = new Map<string, string>()
    const conflicts = new Map<string, readonly FieldWrite[]>()
    const lost: FieldWrite[] = []
    for (const field of [...this.#latest.keys()].toSorted()) {
      if (field === EXISTENCE) continue
      const writes = this.#read(field)
      const counting = writes.filter((write) => counted.has(write.edit))
      const winner = counting[0]
      if (winner !== undefined) {
        fields.set(field, winner.value)
        writers.set(field, winner.edit)
      }
      if (counting.length > 1) conflicts.set(field, counting)
      for (const write of writes) if (!counted.has(write.edit) && !deleted.has(write.edit)) lost.push(write)
    }
    const created = live
      .map((write) => this.#step(write.edit))
      .toSorted((a, b) => a.at - b.at || (a.id < b.id ? -1 : 1))
      .map(({ at, id, by }) => ({ at, edit: id, by }))[0]
    return {
      path: this.#path,
      exists,
      fields,
      writers,
      conflicts,
      lost,
      excessive: this.#excessive.toSorted(),
      heads: [...this.#heads].toSorted(),
      created,
      hash: stateHashOf(this.#path, created, fields, conflicts),
    }
  }

  /** All changes, each after those that it follows. */
  changes(): Change[] {
    return [...this.#changes].map(([id, { maxOp, overwrites }]) => {
      const { step, parents } = this.#applied(id)
      const replaced = Map.groupBy(overwrites, ({ field }) => field)
      const ops = step.ops.flatMap(([action, key, value]): ChangeOp[] => {
        const pred = (replaced.get(key) ?? []).toSorted(byPrecedence).map(({ counter, edit }) => `${counter}@${edit}`)
        if (action === 'set') return [{ key, value, pred }]
        return pred.length > 0 ? [{ key, pred }] : []
      })
      const deletes = step.ops.some(([action, field]) => action === 'del' && field === EXISTENCE)
      return { id, parents, startOp: maxOp - ops.length + 1, ops, deletes }
    })
  }

  #imagesOf(deps: readonly string[]): readonly string[] {
    const [first, ...others] = deps
    if (first === undefined) return deps
    // Shared with the dep, so that a long chain of void edits does not copy it again and again.
    if (others.length === 0) return this.#applied(first).images
    return [...new Set(deps.flatMap((dep) => this.#applied(dep).images))].toSorted()
  }

  /** Makes the change of an accepted step. Returns false when it overwrites too much, and so makes none. */
  #derive(step: Step, parents: readonly string[]): boolean {
    const visible = this.#visibleAt(parents)
    if (countOverwrites(step.ops, visible) > this.#overwritesMax) return false
    let maxOp = parents.reduce((highest, parent) => Math.max(highest, this.#change(parent).maxOp), 0)
    const writes: Write[] = []
    const overwrites: Write[] = []
    for (const [action, field, value] of step.ops) {
      const replaced = visible.get(field)
      if (action === 'del' && field === EXISTENCE) this.#deletes.push(step.id)
      // Deleting what is not there is no operation.
      if (action === 'del' && replaced === undefined) continue
      maxOp += 1
      if (action === 'set') writes.push({ field, value, edit: step.id, counter: maxOp })
      if (replaced !== undefined) overwrites.push(...replaced)
    }
    const derived = { maxOp, writes, overwrites }
    this.#changes.set(step.id, derived)
    for (const parent of parents) this.#heads.delete(parent)
    this.#heads.add(step.id)
    this.#branches.delete(parents.join())
    for (const view of new Set([this.#latest, visible])) {
      see(view, derived)
      forget(view, derived)
    }
    if (visible !== this.#latest) this.#remember([step.id], visible)
    return true
  }

  #remember(tips: readonly string[], visible: Visible): void {
    this.#branches.set(tips.join(), visible)
    if (this.#branches.size > BRANCHES_MAX) this.#branches.delete(this.#branches.keys().next().value as string)
  }

  /** What is visible to who has seen the given accepted edits and all before them. Whoever follows them may change it. */
  #visibleAt(edits: readonly string[]): Visible {
    if (edits.length === this.#heads.size && edits.every((edit) => this.#heads.has(edit))) return this.#latest
    const branch = this.#branches.get(edits.join())
    if (branch !== undefined) return branch
    const changes = [...this.#pastOf(edits)].map((edit) => this.#change(edit))
    const visible: Visible = new Map()
    for (const change of changes) see(visible, change)
    for (const change of changes) forget(visible, change)
    this.#remember(edits, visible)
    return visible
  }

  /** The visible writes of a field: the winner first. */
  #read(field: string): FieldWrite[] {
    return [...(this.#latest.get(field) ?? [])]
      .toSorted(byPrecedence)
      .map(({ value, edit }) => ({ field, value, edit, by: this.#step(edit).by }))
  }

  /** The given accepted edits and all accepted edits before them. */
  #pastOf(edits: Iterable<string>): Set<string> {
    const past = new Set(edits)
    // A set's iteration reaches what is added on the way.
    for (const edit of past) for (const parent of this.#applied(edit).parents) past.add(parent)
    return past
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

/** Automerge's order of concurrent writes, the winner first. */
export function byPrecedence(a: Pick<Write, 'counter' | 'edit'>, b: Pick<Write, 'counter' | 'edit'>): number {
  return b.counter - a.counter || (a.edit < b.edit ? 1 : -1)
}

function countOverwrites(ops: readonly Op[], visible: Visible): number {
  return ops.reduce((count, [, field]) => count + (visible.get(field)?.size ?? 0), 0)
}

function see(visible: Visible, change: DerivedChange): void {
  for (const write of change.writes) {
    const writes = visible.get(write.field)
    if (writes === undefined) visible.set(write.field, new Set([write]))
    else writes.add(write)
  }
}

function forget(visible: Visible, change: DerivedChange): void {
  for (const write of change.overwrites) {
    const writes = visible.get(write.field)
    writes?.delete(write)
    if (writes?.size === 0) visible.delete(write.field)
  }
}

function stateHashOf(
  path: string,
  created: ResourceState['created'],
  fields: ReadonlyMap<string, Value>,
  conflicts: ReadonlyMap<string, readonly FieldWrite[]>,
): string {
  const conflicting = [...conflicts].map(([field, writes]) => [field, writes.map((write) => [write.value, write.edit])])
  return sha256(canonical([path, created?.edit ?? '', [...fields], conflicting]))
}
