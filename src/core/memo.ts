/**
 * A memory of results of a pure function over a set that changes little from round to round. Only speed depends on it,
 * never an answer. Holds what the last two rounds asked for. Used by the slice and by rendering, where one change must
 * not cost the work of a thousand resources.
 */

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
