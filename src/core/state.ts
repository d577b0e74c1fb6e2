/**
 * The mesh as one node knows it: history, verdicts, and the resources that follow from them. A pure function of the set of
 * added envelopes, computed incrementally and lazily. Written by the replica alone; read by everyone.
 */

import { canonical, sha256 } from './canonical.ts'
import { OVERWRITES_MAX, ResourceDocument, type Change, type ResourceState, type Step } from './document.ts'
import type { Body, EditBody, Envelope, GrantBody } from './envelope.ts'
import { History } from './history.ts'
import { parseResourcePath } from './names.ts'
import { Policy, type Verdict } from './policy.ts'
import { placeOf } from './sorted.ts'

/** Documents kept open for the next edit; at the limit the one unused for longest is dropped and later rebuilt. */
const LIVE_DOCUMENTS_MAX = 128

interface LiveDocument {
  readonly document: ResourceDocument
  /** How many of the resource's edits were added. */
  count: number
}

export function excessMessage(path: string, overwritesMax: number = OVERWRITES_MAX): string {
  return `overwrites more than ${overwritesMax} concurrent values of ${path}, and so changes nothing there`
}

export class MeshState {
  /** Concurrent values of one resource that one edit may overwrite. */
  readonly overwritesMax: number
  readonly history: History = new History()
  readonly policy: Policy = new Policy(this.history)
  /** Verdicts as the resources below were computed with. */
  readonly #accepted = new Map<string, boolean>()
  readonly #resources = new Map<string, ResourceState>()
  readonly #live = new Map<string, LiveDocument>()
  readonly #stale = new Set<string>()
  /** All that exist, sorted by path, as they were before those of #unlisted changed. */
  #listed: readonly ResourceState[] = []
  readonly #unlisted = new Set<string>()
  #changed = new Set<string>()
  #verdictsAreStale = false

  /** @param overwritesMax equal on every node of a mesh; tests make it small. */
  constructor(overwritesMax: number = OVERWRITES_MAX) {
    this.overwritesMax = overwritesMax
  }

  /** Id of the mesh; undefined until its genesis was added. */
  get meshId(): string | undefined {
    return this.history.genesis?.id
  }

  /** Adds an admitted envelope. Returns false when it brought nothing new. */
  add(envelope: Envelope): boolean {
    const isKnown = this.history.has(envelope.id)
    if (!this.history.add(envelope)) return false
    const { body } = envelope
    if (isKnown || body.type === 'revoke' || body.type === 'rootset') {
      this.policy.forget()
      this.#verdictsAreStale = true
    }
    if (body.type === 'edit') for (const [path] of body.edits) this.#markStale(path)
    return true
  }

  /** What is visible of a resource; undefined when no edit ever touched it. */
  resource(path: string): ResourceState | undefined {
    this.#refreshVerdicts()
    if (this.#stale.delete(path)) this.#resources.set(path, this.#open(path).read())
    return this.#resources.get(path)
  }

  /** The Automerge changes that a resource's edits became, in causal order; see automerge.ts. */
  changesOf(path: string): Change[] {
    return this.#open(path).changes()
  }

  /** What became of an envelope, for people: the verdict of policy, or where an accepted edit changes nothing all the same. */
  verdict(envelope: Envelope): Verdict {
    const verdict = this.policy.verdict(envelope)
    if (!verdict.accepted || envelope.body.type !== 'edit') return verdict
    const [path] =
      envelope.body.edits.find(([touched]) => this.resource(touched)?.excessive.includes(envelope.id)) ?? []
    if (path === undefined) return verdict
    return { accepted: false, denial: { code: 'excess', message: excessMessage(path, this.overwritesMax) } }
  }

  /** Whether every resource is materialised, so that reading all of them is quick. */
  get isFresh(): boolean {
    this.#refreshVerdicts()
    return this.#stale.size === 0
  }

  /** Materialises at most `max` of the resources that changed, so that a caller can let others run in between. */
  refresh(max: number): void {
    this.#refreshVerdicts()
    for (const path of this.#stale.values().take(max).toArray()) this.resource(path)
  }

  /** The first resource that an edit, not added yet, overwrites too much of to count there; its deps are in the history. */
  excessOf(body: Body): string | undefined {
    if (body.type !== 'edit') return undefined
    // Without deps it overwrites nothing.
    const followers = body.edits.filter(([, deps]) => deps.length > 0)
    return followers.find(([path, deps, ops]) => this.#open(path).isExcessive({ deps, ops }))?.[0]
  }

  /** All resources that exist, sorted by path. The same array for as long as none of them changes. */
  resources(): readonly ResourceState[] {
    this.#refreshVerdicts()
    if (this.#unlisted.size === 0) return this.#listed
    const changed = [...this.#unlisted].toSorted().map((path) => this.resource(path) as ResourceState)
    this.#unlisted.clear()
    this.#listed = merged(this.#listed, changed)
    return this.#listed
  }

  /** The grant that an edit exercises; undefined when the edit is not known. The same function always: see slice(). */
  readonly grantOf = (edit: string): Envelope<GrantBody> | undefined => {
    const body = this.history.get(edit)?.body
    return body?.type === 'edit' ? (this.history.get(body.grant) as Envelope<GrantBody>) : undefined
  }

  /** Paths whose state may have changed since the last call. */
  takeChanges(): ReadonlySet<string> {
    this.#refreshVerdicts()
    const changed = this.#changed
    this.#changed = new Set()
    return changed
  }

  /**
   * The state hash: SHA-256 over the sorted hashes of all existing resources, or of those in the zones that `includes`
   * picks. Equal on any two nodes that hold equal envelopes.
   */
  hash(includes: (zone: string) => boolean = () => true): string {
    const hashes = this.resources()
      .filter((state) => includes(parseResourcePath(state.path)?.zone ?? ''))
      .map((state) => [state.path, state.hash])
    return sha256(canonical(hashes))
  }

  #markStale(path: string): void {
    this.#stale.add(path)
    this.#unlisted.add(path)
    this.#changed.add(path)
  }

  /** After a change of policy: every edit whose verdict flipped makes its resources stale. */
  #refreshVerdicts(): void {
    if (!this.#verdictsAreStale) return
    this.#verdictsAreStale = false
    for (const [id, was] of this.#accepted) {
      const envelope = this.history.get(id) as Envelope<EditBody>
      const is = this.policy.verdict(envelope).accepted
      if (is === was) continue
      this.#accepted.set(id, is)
      for (const [path] of envelope.body.edits) {
        this.#live.delete(path)
        this.#markStale(path)
      }
    }
  }

  /** The live document with all its edits in it. */
  #open(path: string): ResourceDocument {
    this.#refreshVerdicts()
    const edits = this.history.editsOf(path)
    const live = this.#live.get(path) ?? { document: new ResourceDocument(path, this.overwritesMax), count: 0 }
    for (const id of edits.slice(live.count)) live.document.add(this.#step(id, path))
    live.count = edits.length
    // Re-inserting moves the entry to the young end of the map's order.
    this.#live.delete(path)
    this.#live.set(path, live)
    const [oldest] = this.#live.keys()
    if (this.#live.size > LIVE_DOCUMENTS_MAX && oldest !== undefined) this.#live.delete(oldest)
    return live.document
  }

  #step(id: string, path: string): Step {
    const envelope = this.history.get(id) as Envelope<EditBody>
    const { accepted } = this.policy.verdict(envelope)
    this.#accepted.set(id, accepted)
    const { body } = envelope
    const [, deps, ops] = body.edits.find(([touched]) => touched === path) as EditBody['edits'][number]
    return { id, by: body.by, at: body.at, deps, ops, accepted }
  }
}

/** Both sorted by path. What changed counts, and is left out where it does not exist any more. */
function merged(before: readonly ResourceState[], changed: readonly ResourceState[]): readonly ResourceState[] {
  const parts: (readonly ResourceState[])[] = []
  let from = 0
  for (const state of changed) {
    const at = placeOf(state.path, before)
    parts.push(before.slice(from, at), state.exists ? [state] : [])
    from = before[at]?.path === state.path ? at + 1 : at
  }
  return [...parts, before.slice(from)].flat()
}
