/**
 * Addresses of the host names among upstream endpoints: looked up when first needed, again every now and then, and kept
 * as last known when the resolver fails. A name that was never resolved is absent; that stops nothing. For reconciler.ts.
 */

import type { Clock } from '../../ports.ts'

/** Resolves one host name. May reject or return none. */
export type Lookup = (name: string) => Promise<readonly string[]>

/** A resolver that does not answer must not hold up an apply: the name counts as unresolved until it does. */
const LOOKUP_TIMEOUT_MS = 2_000
const LOOKUPS_AT_ONCE = 32

export class Addresses {
  readonly #lookup: Lookup
  readonly #clock: Clock
  readonly #known = new Map<string, readonly string[]>()
  /** Names looked up at least once, so that one that does not resolve waits for the next refresh. */
  readonly #asked = new Set<string>()

  constructor(lookup: Lookup, clock: Clock) {
    this.#lookup = lookup
    this.#clock = clock
  }

  /** The last known addresses of these names, sorted; looks up those that are new, and forgets all others. */
  async of(names: readonly string[]): Promise<ReadonlyMap<string, readonly string[]>> {
    const wanted = new Set(names)
    for (const name of this.#asked) {
      if (wanted.has(name)) continue
      this.#asked.delete(name)
      this.#known.delete(name)
    }
    await this.#ask(names.filter((name) => !this.#asked.has(name)))
    return new Map(this.#known)
  }

  /** Looks all names up again. @returns whether an address changed */
  refresh(): Promise<boolean> {
    return this.#ask([...this.#asked])
  }

  async #ask(names: readonly string[]): Promise<boolean> {
    let changed = false
    const queue = names.values()
    const worker = async () => {
      for (const name of queue) {
        const found = (await this.#lookUp(name)).toSorted()
        this.#asked.add(name)
        if (found.length === 0 || found.join() === this.#known.get(name)?.join()) continue
        this.#known.set(name, found)
        changed = true
      }
    }
    await Promise.all(Array.from({ length: Math.min(LOOKUPS_AT_ONCE, names.length) }, worker))
    return changed
  }

  async #lookUp(name: string): Promise<readonly string[]> {
    const { promise: expired, resolve } = Promise.withResolvers<readonly string[]>()
    const cancel = this.#clock.after(LOOKUP_TIMEOUT_MS, () => resolve([]))
    try {
      return await Promise.race([this.#lookup(name), expired])
    } catch {
      return []
    } finally {
      cancel()
    }
  }
}
