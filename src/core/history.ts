/**
 * The set of admitted envelopes and its indexes: by id, by author's chain, by resource, by policy subject. Holds facts
 * only; what counts is decided by policy.ts, and what it amounts to by state.ts. Adding is not checked here: admission.ts
 * did that. The order of adding is causal: everything that an envelope names was added before it.
 */

import { sha256 } from './canonical.ts'
import type { Body, Envelope, GenesisBody, Signatures } from './envelope.ts'

/** One author's envelopes in one workspace. */
export interface Chain {
  readonly workspace: string
  readonly author: string
  /** Envelopes in the order in which they were added. */
  readonly ids: readonly string[]
  readonly highestN: number
  /** Envelopes that none of this author follows: `prev` of the next one. More than one after a fork. Sorted. */
  readonly heads: readonly string[]
  /** Positions n that were used more than once: the author, or a thief of the key, has signed in two places. */
  readonly forks: number
}

class GrowingChain implements Chain {
  readonly workspace: string
  readonly author: string
  readonly ids: string[] = []
  highestN = 0
  forks = 0
  // A thief may fork a chain ten thousand times: adding must not cost more with each.
  readonly #heads = new Set<string>()
  readonly #positions = new Set<number>()

  constructor(workspace: string, author: string) {
    this.workspace = workspace
    this.author = author
  }

  get heads(): readonly string[] {
    return [...this.#heads].toSorted()
  }

  extend(id: string, n: number, prev: readonly string[]): void {
    this.ids.push(id)
    if (this.#positions.has(n)) this.forks += 1
    this.#positions.add(n)
    this.highestN = Math.max(this.highestN, n)
    for (const followed of prev) this.#heads.delete(followed)
    this.#heads.add(id)
  }
}

/** What admission needs to look up. */
export interface Lookup {
  get(id: string): Envelope | undefined
}

const NONE: readonly string[] = []

export class History implements Lookup {
  readonly #envelopes = new Map<string, Envelope>()
  readonly #positions = new Map<string, number>()
  readonly #chains = new Map<string, GrowingChain>()
  readonly #byResource = new Map<string, string[]>()
  readonly #revocations = new Map<string, string[]>()
  readonly #grants = new Map<string, string[]>()
  readonly #rootsets = new Map<string, string[]>()
  readonly #bytesOfAuthor = new Map<string, number>()
  #genesis: Envelope<GenesisBody> | undefined
  readonly #order: string[] = []
  #cosignatures = 0

  get genesis(): Envelope<GenesisBody> | undefined {
    return this.#genesis
  }

  /** Number of envelopes. */
  get size(): number {
    return this.#envelopes.size
  }

  /** How often signatures were merged into a known envelope. */
  get cosignatures(): number {
    return this.#cosignatures
  }

  get(id: string): Envelope | undefined {
    return this.#envelopes.get(id)
  }

  has(id: string): boolean {
    return this.#envelopes.has(id)
  }

  /** Adds an admitted envelope. Co-signatures of one that is known are merged. Returns false when nothing was new. */
  add(envelope: Envelope): boolean {
    const known = this.#envelopes.get(envelope.id)
    if (known !== undefined) {
      const merged = mergeSignatures(known.sigs, envelope.sigs)
      if (merged === known.sigs) return false
      this.#envelopes.set(envelope.id, { ...known, sigs: merged })
      this.#cosignatures += 1
      return true
    }
    this.#envelopes.set(envelope.id, envelope)
    this.#positions.set(envelope.id, this.#order.length)
    this.#order.push(envelope.id)
    this.#index(envelope.id, envelope.body, envelope)
    return true
  }

  /** Ids in the order in which they were added, which is causal. */
  get order(): readonly string[] {
    return this.#order
  }

  /** Position of an id in `order`. */
  positionOf(id: string): number | undefined {
    return this.#positions.get(id)
  }

  chains(): Iterable<Chain> {
    return this.#chains.values()
  }

  chain(workspace: string, author: string): Chain | undefined {
    return this.#chains.get(chainKey(workspace, author))
  }

  /** Paths of all resources that an edit ever touched. */
  resourcePaths(): IterableIterator<string> {
    return this.#byResource.keys()
  }

  /** Ids of the edits of one resource, in causal order. */
  editsOf(resource: string): readonly string[] {
    return this.#byResource.get(resource) ?? NONE
  }

  /** Ids of the revocations with exactly this target (`grant/<id>` or `key/<public key>`). */
  revocationsOf(target: string): readonly string[] {
    return this.#revocations.get(target) ?? NONE
  }

  /** Ids of the grants of one key. */
  grantsOf(subject: string): readonly string[] {
    return this.#grants.get(subject) ?? NONE
  }

  /** Ids of the root sets that follow a root set (a rootset, or the genesis). */
  rootsetsAfter(rootset: string): readonly string[] {
    return this.#rootsets.get(rootset) ?? NONE
  }

  /** Keys that were ever granted anything. */
  subjects(): Iterable<string> {
    return this.#grants.keys()
  }

  /** Bytes of all envelopes of one author. */
  bytesOf(author: string): number {
    return this.#bytesOfAuthor.get(author) ?? 0
  }

  #index(id: string, body: Body, envelope: Envelope): void {
    if (body.type === 'genesis') {
      this.#genesis = envelope as Envelope<GenesisBody>
      return
    }
    this.#bytesOfAuthor.set(body.by, this.bytesOf(body.by) + envelope.size)
    this.#extendChain(id, body)
    if (body.type === 'edit') for (const [resource] of body.edits) append(this.#byResource, resource, id)
    if (body.type === 'grant') append(this.#grants, body.subject, id)
    if (body.type === 'revoke') append(this.#revocations, body.target, id)
    if (body.type === 'rootset') append(this.#rootsets, body.grant, id)
  }

  #extendChain(id: string, body: Exclude<Body, GenesisBody>): void {
    const key = chainKey(body.ws, body.by)
    const chain = this.#chains.get(key) ?? new GrowingChain(body.ws, body.by)
    chain.extend(id, body.n, body.prev)
    this.#chains.set(key, chain)
  }
}

/**
 * What synchronisation compares for one envelope: equal exactly when id and signers are equal, so that a relay which
 * strips a co-signature is noticed.
 */
export function syncItem({ id, sigs }: Pick<Envelope, 'id' | 'sigs'>): string {
  const signers = Object.keys(sigs)
  return signers.length === 1 ? id : `${id}:${sha256(signers.toSorted().join())}`
}

function mergeSignatures(known: Signatures, more: Signatures): Signatures {
  const added = Object.keys(more).filter((key) => !Object.hasOwn(known, key))
  if (added.length === 0) return known
  return Object.fromEntries(Object.entries({ ...more, ...known }).toSorted(([a], [b]) => (a < b ? -1 : 1)))
}

function append(index: Map<string, string[]>, key: string, id: string): void {
  const ids = index.get(key)
  if (ids === undefined) index.set(key, [id])
  else ids.push(id)
}

function chainKey(workspace: string, author: string): string {
  return `${workspace} ${author}`
}
