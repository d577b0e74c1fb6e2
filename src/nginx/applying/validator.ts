/**
 * Which generation to swap in: all that is desired when ports and `nginx -t` take it, else as much of it as they take.
 * Remembers what was refused, here or after the swap, and what is still to be tried. Never touches what serves; apply.ts
 * calls it.
 */

import { resourceOf, type Unit } from '../rendering/unit.ts'
import { findGood, partsOf } from './bisect.ts'
import { Draft, type Variant } from './draft.ts'
import type { Generation } from './generation.ts'
import { changedUnits, suspectedUnits, type Isolated } from './isolate.ts'
import { Judge } from './judge.ts'
import { Refusals } from './refusals.ts'
import type { ApplyRequest, Run } from './run.ts'
import type { Serving } from './serving.ts'
import type { Parts } from './settings.ts'
import type { Failure } from './swap.ts'

/** One apply for which a generation is wanted. */
interface Order {
  readonly request: ApplyRequest
  readonly master: number | undefined
  readonly run: Run
  readonly signal: AbortSignal | undefined
}

export interface Choice {
  /** Staged and tested, or applied already. */
  readonly generation: Generation
  /** The digest with all that is desired and was not refused before: what the choice was made from. */
  readonly whole: string
  /** Changes that are left for the next apply. */
  readonly untried: readonly Unit[]
  readonly draft: Draft
  /** Reasons by digest, as the draft sees them. */
  readonly refused: Map<string, string>
}

/** What follows from a swap that failed. */
export interface Setback {
  /** When to go on, ms from now. */
  readonly retryAfterMs: number
  /** What is not served for it: the culprits, and all else that changed, which is still to be told apart from them. */
  readonly isolated: readonly Isolated[]
}

const ISOLATE_PER_TEST = 16
/** Before the next apply takes what this one left; long enough for others to learn what this one did. */
const UNTRIED_PAUSE_MS = 1_000

export class Validator {
  readonly #parts: Parts
  readonly #serving: Serving
  readonly #refusedUnits: Refusals
  readonly #refusedGenerations: Refusals
  /** Groups of units, by digest, that time did not allow for, the longest waiting first. */
  #waiting: readonly (readonly string[])[] = []
  /** Groups of units, by digest, one of which made a swap fail, nobody knows which. An apply takes one group at a time. */
  #suspects: readonly (readonly string[])[] = []
  #validated: string | undefined

  constructor(parts: Parts, serving: Serving) {
    this.#parts = parts
    this.#serving = serving
    this.#refusedUnits = new Refusals(parts.clock, parts.random)
    this.#refusedGenerations = new Refusals(parts.clock, parts.random)
  }

  /** The newest generation that `nginx -t` accepted. */
  get validated(): string | undefined {
    return this.#validated
  }

  /**
   * The generation to swap in; undefined when the run has ended without one. When time is over it has what is proven
   * until then; each time something more is in it, or something more is known to be bad.
   */
  async choose({ request, master, run, signal }: Order): Promise<Choice | undefined> {
    const { clock, settings } = this.#parts
    const lastGood = this.#serving.booted()
    const began = clock.monotonic()
    const hasTime = () => clock.monotonic() - began < settings.isolateMs + ISOLATE_PER_TEST * this.#serving.testMs
    // What holds now holds for this apply, so that nothing comes back in the middle of it.
    const refused = this.#refusedOf([...request.units, ...lastGood.units])
    const refuse = (unit: Unit, reason: string) => {
      this.#refusedUnits.add(unit.digest, reason)
      refused.set(unit.digest, reason)
    }
    const judge = new Judge({ parts: this.#parts, serving: this.#serving, master, run, signal })
    // Every round but the last refuses at least one more, so it ends.
    for (;;) {
      const draft = new Draft(request, lastGood, refused, (digest) => this.#refusedUnits.last(digest)?.reason)
      const whole = draft.with(draft.changed)
      const show = (variant: Variant, untried: readonly Unit[]) => {
        run.generation = variant.generation.digest
        run.isolated = variant.isolated
        run.retryAfterMs = untried.length > 0 ? UNTRIED_PAUSE_MS : this.#soonest(request.units, refused, variant)
        return { generation: variant.generation, whole: whole.generation.digest, untried, draft, refused }
      }
      const all = show(whole, [])
      if (all.whole === this.#serving.applied) return all
      const held =
        this.#refusedGenerations.get(all.whole) ?? this.#refusedGenerations.get(draft.with([]).generation.digest)
      if (held !== undefined) {
        if (this.#suspects.length > 0) run.isolated = draft.with([]).isolated
        run.refuse(held.reason, held.until - clock.monotonic())
        return undefined
      }

      const present = () => draft.with([]).generation
      const candidates = this.#inOrder(this.#apart(draft.changed))
      const found = await findGood(candidates, {
        hasTime,
        test: (taken) => judge.judge(draft.with(taken).generation, present),
      })
      this.#validated = judge.validated ?? this.#validated
      for (const [unit, reason] of found.refused) refuse(unit, reason)
      if (found.base.length === 0) {
        const decided = [...found.taken, ...found.refused.keys()]
        this.#waiting = found.left.map((group) => group.map(({ digest }) => digest))
        return show(draft.with(found.taken), without(draft.changed, decided))
      }
      // What did not change fails by itself: something around it must have changed.
      const named = found.base.filter(({ blamed }) => blamed.length > 0)
      const culprits = named.length > 0 ? new Map() : await this.#culprits(present(), request, judge, hasTime)
      if (named.length === 0 && culprits.size === 0) {
        const { reason, until } = this.#refusedGenerations.add(all.whole, found.base[0]?.reason ?? '')
        run.refuse(reason, until - clock.monotonic())
        return undefined
      }
      for (const [unit, reason] of culprits) refuse(unit, reason)
      for (const { blamed, reason } of named) for (const unit of blamed) refuse(unit, reason)
    }
  }

  /**
   * Units that serve and that nginx does not take any more, though its words name none: what they read is gone, say. Only
   * such that fail on their own: short memory, or a module that does not fit, is nobody's fault.
   */
  async #culprits(
    present: Generation,
    request: ApplyRequest,
    judge: Judge,
    hasTime: () => boolean,
  ): Promise<ReadonlyMap<Unit, string>> {
    const nothing: Generation = { ...request.assemble([]), units: [] }
    const draft = new Draft(
      { units: present.units, problems: [], assemble: (some) => request.assemble(some) },
      nothing,
      new Map(),
      () => undefined,
    )
    const test = (taken: readonly Unit[]) => judge.judge(draft.with(taken).generation, () => nothing)
    const found = await findGood([needsFirst(present.units, present.units)], { hasTime, test })
    const culprits = new Map<Unit, string>()
    for (const [unit, reason] of found.refused) {
      const alone = needsFirst([unit], present.units)
      if (found.base.length === 0 && (await test(alone)).length > 0) culprits.set(unit, reason)
    }
    return culprits
  }

  /** It serves. */
  served({ generation }: Choice): void {
    for (const { digest } of generation.units) this.#refusedUnits.forget(digest)
    this.#refusedGenerations.forget(generation.digest)
  }

  /**
   * It did not prove itself, so something that changed is to blame. When nothing tells what, the next applies take a part
   * of it after the other; what fails alone, and not for the first time, is it. Only its own pauses grow: the whole is held
   * but for a moment, since what is good in it waits as well.
   */
  failed(choice: Choice, failure: Failure): Setback {
    const retryAfterMs = this.#blame(choice, failure)
    return { retryAfterMs, isolated: choice.draft.with([]).isolated }
  }

  #blame({ generation, whole, refused }: Choice, { blamed, error }: Failure): number {
    const changed = changedUnits(this.#serving.booted().units, generation.units)
    const digests = changed.map(({ digest }) => digest)
    const hasFailed = (digest: string) =>
      this.#refusedUnits.last(digest) !== undefined || this.#suspects.some((group) => group.includes(digest))
    const culprits = digests.length === 1 && digests.every(hasFailed) ? changed : culpritsOf(blamed, changed)
    for (const { digest } of culprits) {
      this.#refusedUnits.add(digest, error.message)
      refused.set(digest, error.message)
    }
    if (culprits.length > 0) {
      const found = new Set(culprits.map(({ digest }) => digest))
      this.#keepSuspects((digest) => !found.has(digest))
      // The others are to be served without delay.
      return 0
    }
    this.#keepSuspects((digest) => !digests.includes(digest))
    this.#suspects = [...this.#suspects, ...this.#partsOf(changed, error.message)]
    const refusals = this.#refusedGenerations
    const { until } =
      digests.length === 0 ? refusals.add(generation.digest, error.message) : refusals.hold(whole, error.message)
    return until - this.#parts.clock.monotonic()
  }

  /** Two: those never refused before the others, or those whom the words cannot mean, or else halves. */
  #partsOf(changed: readonly Unit[], words: string): readonly (readonly string[])[] {
    const known = changed.filter(({ digest }) => this.#refusedUnits.last(digest) !== undefined)
    const parts = partsOf(changed, [known, ...suspectedUnits(words, changed, this.#serving.booted().units)])
    return parts.map((part) => part.map(({ digest }) => digest))
  }

  #keepSuspects(stays: (digest: string) => boolean): void {
    this.#suspects = this.#suspects.map((group) => group.filter(stays)).filter((group) => group.length > 0)
  }

  /** Reasons by digest of the refusals that hold now. Forgets what is too many. */
  #refusedOf(units: readonly Unit[]): Map<string, string> {
    this.#refusedUnits.trim(new Set(units.map(({ digest }) => digest)))
    this.#refusedGenerations.trim(new Set())
    return new Map(
      units.flatMap(({ digest }) => {
        const refusal = this.#refusedUnits.get(digest)
        return refusal === undefined ? [] : [[digest, refusal.reason] as const]
      }),
    )
  }

  /**
   * Changes that may be swapped in together: all; but while there are suspects, those beyond suspicion that need none of
   * the others, or when there are none, a group of suspects, each in turn.
   */
  #apart(changed: readonly Unit[]): readonly Unit[] {
    const digests = new Set(changed.map(({ digest }) => digest))
    this.#keepSuspects((digest) => digests.has(digest))
    const [group, ...groups] = this.#suspects
    if (group === undefined) return changed
    const suspects = new Set(this.#suspects.flat())
    const dubious = changed.filter(
      ({ digest }) => suspects.has(digest) || this.#refusedUnits.last(digest) !== undefined,
    )
    const paths = new Set(dubious.map(({ path }) => path))
    const clear = changed.filter(({ path, needs }) => ![path, ...needs].some((one) => paths.has(one)))
    if (clear.length > 0) return clear
    // Its turn may come to nothing before that of a group that it needs.
    this.#suspects = [...groups, group]
    return changed.filter(({ digest }) => group.includes(digest))
  }

  /** In the order of trial: those never refused, then the others; the longest waiting first, each after what it needs. */
  #inOrder(units: readonly Unit[]): readonly (readonly Unit[])[] {
    const place = new Map(this.#waiting.flatMap((group, index) => group.map((digest) => [digest, index])))
    const groups: Unit[][] = Array.from({ length: this.#waiting.length + 2 }, () => [])
    for (const unit of units) {
      const isFresh = this.#refusedUnits.last(unit.digest) === undefined
      groups[isFresh ? (place.get(unit.digest) ?? groups.length - 2) : groups.length - 1]?.push(unit)
    }
    const seen = new Set<Unit>()
    return groups.map((group) => {
      const fresh = needsFirst(group, units).filter((unit) => !seen.has(unit))
      for (const unit of fresh) seen.add(unit)
      return fresh
    })
  }

  /** When the first of the isolated that were refused may be tried again, ms from now. */
  #soonest(units: readonly Unit[], refused: ReadonlyMap<string, string>, { isolated }: Variant): number | undefined {
    const paths = new Set(isolated.map(({ path }) => path))
    const times = units.flatMap(({ path, digest }) => {
      const refusal = paths.has(resourceOf(path)) && refused.has(digest) ? this.#refusedUnits.last(digest) : undefined
      return refusal === undefined ? [] : [Math.max(0, refusal.until - this.#parts.clock.monotonic())]
    })
    return times.length === 0 ? undefined : Math.min(...times)
  }
}

/** The units, each after those that it needs, as far as they are among `all`. */
function needsFirst(units: readonly Unit[], all: readonly Unit[]): readonly Unit[] {
  const byPath = new Map(all.map((unit) => [unit.path, unit]))
  return [...new Set(units.flatMap((unit) => [...unit.needs.flatMap((need) => byPath.get(need) ?? []), unit]))]
}

function without(units: readonly Unit[], others: readonly Unit[]): readonly Unit[] {
  const gone = new Set(others)
  return units.filter((unit) => !gone.has(unit))
}

/** What changed among the blamed; for one that did not, what it needs that did. */
function culpritsOf(blamed: readonly Unit[], changed: readonly Unit[]): readonly Unit[] {
  const isChanged = new Set(changed)
  return changed.filter((unit) =>
    blamed.some((other) => other === unit || (!isChanged.has(other) && other.needs.includes(unit.path))),
  )
}
