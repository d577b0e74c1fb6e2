/**
 * What two nodes compare to find out what either lacks: one digest of everything, one of each chain, one of any range of a
 * chain. Cost of a comparison follows the difference, not the history. Pure; called by sync.ts and for status records.
 */

import { canonical, sha256 } from './canonical.ts'
import type { Envelope } from './envelope.ts'
import { syncItem, type Chain, type History } from './history.ts'

/** A chain as it is compared: `hash` is SHA-256 over its sorted items. */
export interface ChainSummary {
  readonly workspace: string
  readonly author: string
  readonly count: number
  readonly highestN: number
  readonly hash: string
}

/** The part of a chain with positions from..to, both included. */
export interface RangeSummary {
  readonly from: number
  readonly to: number
  readonly count: number
  readonly hash: string
}

interface Item {
  readonly n: number
  readonly item: string
  readonly id: string
}

interface Cached {
  count: number
  cosignatures: number
  items: Item[]
  hash: string | undefined
}

export class Summary {
  readonly #history: History
  readonly #chains = new Map<Chain, Cached>()
  #overview: { readonly key: string; readonly chains: readonly ChainSummary[]; readonly digest: string } | undefined

  constructor(history: History) {
    this.#history = history
  }

  /** Digest over all chains and the mesh; equal exactly when two nodes hold the same envelopes with the same signers. */
  digest(): string {
    return this.#current().digest
  }

  /** All chains, sorted by workspace and author. */
  chains(): readonly ChainSummary[] {
    return this.#current().chains
  }

  /** The items of a chain with n in from..to, in the order of n and id. */
  items(workspace: string, author: string, from: number, to: number): readonly Item[] {
    const chain = this.#history.chain(workspace, author)
    if (chain === undefined) return []
    const { items } = this.#cached(chain)
    return items.slice(lowerBound(items, from), lowerBound(items, to + 1))
  }

  /** Summarises each of the parts that `splitRange` makes of from..to. */
  ranges(workspace: string, author: string, from: number, to: number, parts: number): RangeSummary[] {
    return splitRange(from, to, parts).map((part) => this.range(workspace, author, part.from, part.to))
  }

  range(workspace: string, author: string, from: number, to: number): RangeSummary {
    const chain = this.#history.chain(workspace, author)
    const items = this.items(workspace, author, from, to)
    const isWhole = chain !== undefined && items.length === chain.ids.length
    return { from, to, count: items.length, hash: isWhole ? this.#hash(chain) : hashOf(items) }
  }

  /** Asked for with every request of a peer, so computed once for each state of the history. */
  #current(): { readonly chains: readonly ChainSummary[]; readonly digest: string } {
    const key = `${this.#history.size}/${this.#history.cosignatures}`
    if (this.#overview?.key !== key) {
      const chains = [...this.#history.chains()].map((chain) => this.#summarise(chain)).toSorted(byName)
      const hashes = chains.map(({ workspace, author, hash }) => [workspace, author, hash])
      this.#overview = { key, chains, digest: sha256(canonical([this.#history.genesis?.id ?? '', hashes])) }
    }
    return this.#overview
  }

  #summarise(chain: Chain): ChainSummary {
    const { workspace, author, ids, highestN } = chain
    return { workspace, author, count: ids.length, highestN, hash: this.#hash(chain) }
  }

  #hash(chain: Chain): string {
    const cached = this.#cached(chain)
    cached.hash ??= hashOf(cached.items)
    return cached.hash
  }

  #cached(chain: Chain): Cached {
    const { cosignatures } = this.#history
    const cached = this.#chains.get(chain)
    if (cached?.count === chain.ids.length && cached.cosignatures === cosignatures) return cached
    const isStale = cached === undefined || cached.cosignatures !== cosignatures
    const items = isStale ? [] : cached.items
    for (const id of chain.ids.slice(items.length)) items.push(this.#item(id))
    items.sort((a, b) => a.n - b.n || compare(a.id, b.id))
    const fresh = { count: chain.ids.length, cosignatures, items, hash: undefined }
    this.#chains.set(chain, fresh)
    return fresh
  }

  #item(id: string): Item {
    const envelope = this.#history.get(id) as Envelope
    return { n: envelope.body.type === 'genesis' ? 0 : envelope.body.n, item: syncItem(envelope), id }
  }
}

/** At most `parts` ranges of equal length (the last may be shorter) that cover from..to. Both sides of a comparison split alike. */
export function splitRange(from: number, to: number, parts: number): { readonly from: number; readonly to: number }[] {
  const length = Math.max(1, Math.ceil((to - from + 1) / parts))
  const starts = Array.from({ length: Math.ceil((to - from + 1) / length) }, (_, index) => from + index * length)
  return starts.map((start) => ({ from: start, to: Math.min(to, start + length - 1) }))
}

function byName(a: ChainSummary, b: ChainSummary): number {
  return compare(a.workspace, b.workspace) || compare(a.author, b.author)
}

function hashOf(items: readonly Item[]): string {
  return sha256(items.map(({ item }) => item).join('\n'))
}

/** Index of the first item with n at or above the given one. */
function lowerBound(items: readonly Item[], n: number): number {
  let low = 0
  let high = items.length
  while (low < high) {
    const middle = (low + high) >>> 1
    if ((items[middle] as Item).n < n) low = middle + 1
    else high = middle
  }
  return low
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0
}
