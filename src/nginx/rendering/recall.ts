/**
 * What was made of each of many specs, for as long as it is the same: at once while nothing that they share has changed,
 * by a key over all that one depends on otherwise. Only speed depends on it, never an answer. Used by render.ts, where one
 * changed site must not cost the work of thousands.
 */

interface Recalled<V> {
  readonly variant: string
  readonly key: string | undefined
  readonly value: V
  /** Of the round in which the value was known to hold. */
  readonly context: object
}

/** Of one spec: as it is wished for, and as it gets it. */
const VARIANTS_MAX = 2

export class Recall<V> {
  #parts: readonly unknown[] = []
  #context = {}
  readonly #known = new WeakMap<object, readonly Recalled<V>[]>()

  /** Begins a round. @param parts all that the values depend on beside their specs; compared one by one */
  turn(parts: readonly unknown[]): void {
    const old = this.#parts
    if (parts.length !== old.length || parts.some((part, index) => part !== old[index])) this.#context = {}
    this.#parts = parts
  }

  /**
   * @param spec the same object for as long as it is the same
   * @param variant what else differs from one asking to the next
   * @param compute makes the value, or has it recalled by the key that it gives to `keyed`
   */
  get(spec: object, variant: string, compute: (keyed: (key: string, make: () => V) => V) => V): V {
    const known = this.#known.get(spec) ?? []
    const same = known.find((one) => one.variant === variant && one.context === this.#context)
    if (same !== undefined) return same.value
    let key: string | undefined
    const value = compute((wanted, make) => {
      key = wanted
      const found = known.find((one) => one.key === wanted)
      return found === undefined ? make() : found.value
    })
    const others = known.filter((one) => one.variant !== variant)
    this.#known.set(spec, [{ variant, key, value, context: this.#context }, ...others].slice(0, VARIANTS_MAX))
    return value
  }
}
