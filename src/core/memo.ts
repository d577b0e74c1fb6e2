/**
 * Memories of the results of pure functions over a set that changes little from round to round. Only speed depends on
 * them, never an answer. Used by the slice, by rendering and by applying, where one change must not cost the work of
 * thousands of resources.
 */

/** By text. Holds what the last two rounds asked for. */
export class Memo<V> {
  private thisRound = new Map<string, V>()
  private lastRound: ReadonlyMap<string, V> = new Map()

  /** Begins a round: forgets what the one before did not ask for. */
  turn(): void {
    this.lastRound = this.thisRound
    this.thisRound = new Map()
  }

  /** The remembered result for the key, or the computed one. */
  get(key: string, compute: () => V): V {
    const value = this.thisRound.get(key) ?? this.lastRound.get(key) ?? compute()
    this.thisRound.set(key, value)
    return value
  }
}

/** The function, asked once for each object, which must never be changed. Holds results for as long as their objects live. */
export function perObject<K extends object, V>(compute: (object: K) => V): (object: K) => V {
  const known = new WeakMap<K, V>()
  return (object) => {
    const found = known.get(object)
    if (found !== undefined) return found
    const value = compute(object)
    known.set(object, value)
    return value
  }
}

/** Texts whose results a function below keeps. */
const TEXTS_MAX = 8

/** The function, asked once for a text among the last TEXTS_MAX. */
export function byText<V>(compute: (text: string) => V): (text: string) => V {
  const known = new Map<string, V>()
  return (text) => {
    const found = known.get(text) ?? compute(text)
    known.delete(text)
    const [oldest] = known.keys()
    if (known.size === TEXTS_MAX && oldest !== undefined) known.delete(oldest)
    known.set(text, found)
    return found
  }
}
