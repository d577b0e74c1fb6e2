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
  #digest: { readonly key: string; readonly value: string } | undefined

  constructor(history: History) {
    this.#history = history
  }

  /** Digest over all chains and the mesh; equal exactly when two nodes hold the same envelopes with the same signers. */
  digest(): string {
    const key = `${this.#history.size}/${this.#history.cosignatures}`
    if (this.#digest?.key !== key) {
      const chains = this.chains().map(({ workspace, author, hash }) => [workspace, author, hash])
      this.#digest = { key, value: sha256(canonical([this.#history.genesis?.id ?? '', chains])) }
    }
    return this.#digest.value
  }

  /** All chains, sorted by workspace and author. */
  chains(): ChainSummary[] {
    return [...this.#history.chains()]
      .map((chain) => ({
        workspace: chain.workspace,
        author: chain.author,
        count: chain.ids.length,
        highestN: chain.highestN,
        hash: this.#hash(chain),
      }))
      .toSorted((a, b) => compare(a.workspace, b.workspace) || compare(a.author, b.author))
  }

  /** The items of a chain with n in from..to, in the order of n and id. */
  items(workspace: string, author: string, from: number, to: number): readonly Item[] {
    const chain = this.#history.chain(workspace, author)
    if (chain === undefined) return []
    const { items } = this.#cached(chain)
    return items.slice(lowerBound(items, from), lowerBound(items, to + 1))
  }

  /** Splits from..to into at most `parts` ranges of equal length and summarises each. */
  ranges(workspace: string, author: string, from: number, to: number, parts: number): RangeSummary[] {
    const length = Math.max(1, Math.ceil((to - from + 1) / parts))
    const starts = Array.from({ length: Math.ceil((to - from + 1) / length) }, (_, index) => from + index * length)
    return starts.map((start) => this.range(workspace, author, start, Math.min(to, start + length - 1)))
  }

  range(workspace: string, author: string, from: number, to: number): RangeSummary {
    const items = this.items(workspace, author, from, to)
    return { from, to, count: items.length, hash: hashOf(items) }
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
