/**
 * The generations that can be made of one request: some of its changes taken, and for the others, as for what is refused,
 * their last good text or nothing. Pure; validator.ts asks for one after the other.
 */

import type { Unit } from '../rendering/unit.ts'
import type { Generation } from './generation.ts'
import { changedUnits, selectUnits, type Isolated, type Refused, type Selection } from './isolate.ts'
import type { ApplyRequest } from './run.ts'

export interface Variant {
  readonly generation: Generation
  readonly isolated: readonly Isolated[]
}

const UNTRIED: Refused = {
  why: 'untried',
  reason: 'not tried yet: some of the changes made with it failed, and it is still being found out which',
}

export class Draft {
  /** Units that are new, or have another text than the last good one, and neither are nor need what is refused. */
  readonly changed: readonly Unit[]
  readonly #request: Pick<ApplyRequest, 'units' | 'problems' | 'assemble'>
  readonly #lastGood: ReadonlyMap<string, Unit>
  readonly #refused: ReadonlyMap<string, string>
  readonly #whyBefore: (digest: string) => string | undefined
  /** With all that changed, as long as no more are refused. */
  readonly #whole: { readonly refused: number; readonly selection: Selection }
  /** The last one asked for: by whom is taken, and how many are refused. */
  #last: { readonly key: string; readonly variant: Variant } | undefined

  /**
   * @param refused reasons by digest; what is added to it later counts for later variants, but stays among the changed
   * @param whyBefore why a unit was refused some time ago, which is said of it when it is not taken
   */
  constructor(
    request: Pick<ApplyRequest, 'units' | 'problems' | 'assemble'>,
    lastGood: Generation,
    refused: ReadonlyMap<string, string>,
    whyBefore: (digest: string) => string | undefined,
  ) {
    this.#request = request
    this.#lastGood = new Map(lastGood.units.map((unit) => [unit.path, unit]))
    this.#refused = refused
    this.#whyBefore = whyBefore
    this.#whole = { refused: refused.size, selection: this.#select(new Set()) }
    const possible = new Set(this.#whole.selection.units)
    this.changed = changedUnits(lastGood.units, request.units).filter((unit) => possible.has(unit))
  }

  /** With these of the changes and no others. */
  with(taken: readonly Unit[]): Variant {
    const left = new Set(this.changed.map(({ digest }) => digest))
    for (const { digest } of taken) left.delete(digest)
    const key = [this.#refused.size, ...left].join()
    if (this.#last?.key === key) return this.#last.variant
    const isWhole = left.size === 0 && this.#whole.refused === this.#refused.size
    const { units, isolated } = isWhole ? this.#whole.selection : this.#select(left)
    const variant = { generation: { ...this.#request.assemble(units), units }, isolated }
    this.#last = { key, variant }
    return variant
  }

  #select(left: ReadonlySet<string>): Selection {
    const { units, problems } = this.#request
    const refusal = (digest: string): Refused | undefined => {
      const reason = this.#refused.get(digest) ?? (left.has(digest) ? this.#whyBefore(digest) : undefined)
      if (reason !== undefined) return { why: 'refused', reason }
      return left.has(digest) ? UNTRIED : undefined
    }
    return selectUnits({ units, problems, lastGood: this.#lastGood, refusal })
  }
}
