/**
 * Addresses of the host names among upstream endpoints: asked for when first needed, again every now and then, and kept
 * as last known while the resolver fails, also for one family of addresses only, and over a restart too. No name waits for
 * another one. A name that was never resolved is absent; that stops nothing. For reconciler.ts.
 */

import { isIP } from 'node:net'
import type { Clock } from '../../ports.ts'

/**
 * Resolves one host name to all its addresses. May reject, give none, or take for ever. Tells `onFamily` those of one family,
 * IPv4 or IPv6, when they are known before the others, or without them.
 */
export type Lookup = (name: string, onFamily: (addresses: readonly string[]) => void) => Promise<readonly string[]>

/** Where the last known addresses outlive the daemon. Neither call rejects: what fails is said in the log. */
export interface AddressMemory {
  read(): Promise<ReadonlyMap<string, readonly string[]>>
  /** Whether it was written. */
  write(known: ReadonlyMap<string, readonly string[]>): Promise<boolean>
}

/** How long an apply waits for names without an address, and how long a silent lookup keeps its place from the next. */
const PATIENCE_MS = 1_000
/** Lookups that may start at once: a burst of more would lose packets. */
const PLACES = 64
/** Addresses of one name; of more, the last in order are left out. */
export const ADDRESSES_PER_NAME_MAX = 64

export class Addresses {
  readonly #lookup: Lookup
  readonly #clock: Clock
  readonly #memory: AddressMemory | undefined
  readonly #known = new Map<string, readonly string[]>()
  /** Names that are wanted; each was asked for at least once. */
  readonly #wanted = new Set<string>()
  /** Names whose lookup has not ended: they are not asked for again. */
  readonly #pending = new Set<string>()
  /** Rounds of names that were not asked for before. */
  readonly #first = new Set<Promise<void>>()
  #recalled: Promise<void> | undefined
  #isUnsaved = false
  #saving = Promise.resolve()
  #tell: () => void = () => undefined

  /** Without a memory, nothing outlives this object. */
  constructor(lookup: Lookup, clock: Clock, memory?: AddressMemory) {
    this.#lookup = lookup
    this.#clock = clock
    this.#memory = memory
  }

  /** Who is told that an address changed which neither of() nor now() has given yet. */
  onChange(tell: () => void): void {
    this.#tell = tell
  }

  /**
   * The last known addresses of these names, sorted; forgets all others. Waits a moment for names that have none; what is
   * answered later, onChange tells.
   */
  async of(names: readonly string[]): Promise<ReadonlyMap<string, readonly string[]>> {
    this.#recalled ??= this.#recall()
    await this.#recalled
    this.#forgetAllBut(new Set(names))
    const fresh = names.filter((name) => !this.#wanted.has(name))
    for (const name of fresh) this.#wanted.add(name)
    let isAwaited = true
    const found = () => isAwaited || this.#changed()
    void this.#ask(
      fresh.filter((name) => this.#known.has(name)),
      found,
    )
    const unknown = fresh.filter((name) => !this.#known.has(name))
    if (unknown.length > 0) await this.#patiently(this.#ask(unknown, found))
    // What now() has just asked for.
    if (names.some((name) => !this.#known.has(name)))
      await this.#patiently(Promise.all(this.#first).then(() => undefined))
    isAwaited = false
    const known = new Map(this.#known)
    await this.#save()
    return known
  }

  /** The last known addresses, without waiting for any; names that were never asked for are. Forgets none. */
  async now(names: readonly string[]): Promise<ReadonlyMap<string, readonly string[]>> {
    this.#recalled ??= this.#recall()
    await this.#recalled
    const fresh = names.filter((name) => !this.#wanted.has(name))
    for (const name of fresh) this.#wanted.add(name)
    if (fresh.length > 0) {
      const asking = this.#ask(fresh, () => this.#changed()).finally(() => this.#first.delete(asking))
      this.#first.add(asking)
    }
    return new Map(this.#known)
  }

  /** Looks all names up again, in the background, and stores what could not be stored before. */
  refresh(): void {
    void this.#save()
    void this.#ask([...this.#wanted], () => this.#changed())
  }

  #forgetAllBut(names: ReadonlySet<string>): void {
    for (const name of [...this.#known.keys(), ...this.#wanted]) {
      if (names.has(name)) continue
      this.#wanted.delete(name)
      this.#isUnsaved = this.#known.delete(name) || this.#isUnsaved
    }
  }

  /** Ends when each lookup has ended or has been given up on; `found` is called at each change, also later. */
  async #ask(names: readonly string[], found: () => void): Promise<void> {
    const queue = names.values()
    const place = async () => {
      for (const name of queue) await this.#patiently(this.#lookUp(name, found))
    }
    await Promise.all(Array.from({ length: Math.min(PLACES, names.length) }, place))
  }

  async #lookUp(name: string, found: () => void): Promise<void> {
    if (this.#pending.has(name)) return
    this.#pending.add(name)
    const withOtherFamily = (family: readonly string[]): readonly string[] => {
      const others = this.#known.get(name)?.filter((address) => isIP(address) !== isIP(family[0] ?? ''))
      return [...family, ...(others ?? [])]
    }
    const answer = await this.#lookup(name, (family) => this.#take(name, withOtherFamily(family), found)).catch(
      () => [],
    )
    this.#pending.delete(name)
    this.#take(name, answer, found)
  }

  #take(name: string, answer: readonly string[], found: () => void): void {
    // nginx takes no scoped address (fe80::1%eth0).
    const usable = answer.filter((address) => isIP(address) !== 0 && !address.includes('%'))
    const addresses = [...new Set(usable)].toSorted().slice(0, ADDRESSES_PER_NAME_MAX)
    const isNews = addresses.length > 0 && addresses.join() !== this.#known.get(name)?.join()
    if (!isNews || !this.#wanted.has(name)) return
    this.#known.set(name, addresses)
    this.#isUnsaved = true
    found()
  }

  async #patiently(work: Promise<void>): Promise<void> {
    const { promise: expired, resolve } = Promise.withResolvers<void>()
    const cancel = this.#clock.after(PATIENCE_MS, resolve)
    await Promise.race([work, expired])
    cancel()
  }

  #changed(): void {
    void this.#save()
    this.#tell()
  }

  async #recall(): Promise<void> {
    for (const [name, addresses] of (await this.#memory?.read()) ?? []) this.#known.set(name, addresses)
  }

  /** One write at a time; changes meanwhile go into the next. */
  #save(): Promise<void> {
    this.#saving = this.#saving.then(async () => {
      if (!this.#isUnsaved) return
      this.#isUnsaved = false
      const isWritten = await this.#memory?.write(this.#known)
      if (isWritten === false) this.#isUnsaved = true
    })
    return this.#saving
  }
}
