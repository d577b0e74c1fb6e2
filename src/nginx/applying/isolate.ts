/**
 * Which units make up a generation when some of them cannot: a refused or unrenderable one is replaced by its last good
 * text, or left out with whatever needs it, so that one bad site never blocks or removes another. Whom nginx's words
 * blame. Pure; validator.ts asks.
 */

import type { Problem } from '../../core/slice.ts'
import { listenerKey } from '../rendering/claims.ts'
import { resourceOf, type Listener, type Unit } from '../rendering/unit.ts'

/** Why a unit with a certain text may not be used now. */
export interface Refused {
  /** untried: it may be a good one; `apply --wait` goes on waiting for such a resource. */
  readonly why: 'refused' | 'untried'
  /** For people. */
  readonly reason: string
}

/** A resource whose desired text is not in the generation, and why. */
export interface Isolated {
  readonly path: string
  /** needs: not it, but something that it needs, is refused. One that needs what is untried is untried. */
  readonly why: Refused['why'] | 'needs'
  readonly reason: string
  /** last_good: its last good text serves instead. left_out: it had none. */
  readonly serves: 'last_good' | 'left_out'
}

export interface Selection {
  readonly units: readonly Unit[]
  readonly isolated: readonly Isolated[]
}

export interface SelectInput {
  /** What was rendered. */
  readonly units: readonly Unit[]
  /** What could not be: such a resource keeps its last good text, unless policy or an older site forbids it. */
  readonly problems: readonly Problem[]
  readonly lastGood: ReadonlyMap<string, Unit>
  /** Undefined when the unit with this text may be used. */
  readonly refusal: (digest: string) => Refused | undefined
}

/** These take something away on purpose, so that serving the last good text would defeat them. */
export const WITHDRAWN: ReadonlySet<Problem['code']> = new Set(['clash', 'quota', 'host_not_granted'])

export function selectUnits({ units, problems, lastGood, refusal }: SelectInput): Selection {
  const desired = new Map(units.map((unit) => [unit.path, unit]))
  if (isAllFine(desired, problems, lastGood, refusal)) return { units: units.toSorted(byPath), isolated: [] }
  const chosen = new Map<string, Unit>()
  const reasons = new Map<string, Pick<Isolated, 'why' | 'reason'>>()
  const isWithdrawn = ({ path, code }: Problem): boolean => WITHDRAWN.has(code) && !desired.has(path)
  const withdrawn = new Set(problems.filter(isWithdrawn).map(({ path }) => path))

  const fallBack = (path: string) => {
    const unit = withdrawn.has(path) ? undefined : lastGood.get(path)
    if (unit === undefined || chosen.get(path) === unit || refusal(unit.digest) !== undefined) chosen.delete(path)
    else chosen.set(path, unit)
  }

  for (const unit of units) {
    const reason = refusal(unit.digest)
    if (reason === undefined) {
      chosen.set(unit.path, unit)
    } else {
      reasons.set(unit.path, reason)
      fallBack(unit.path)
    }
  }
  for (const { path } of problems) if (!desired.has(path)) fallBack(path)
  dropClaimed(chosen, desired)

  // Leaving one out may take away what another needs; each round removes or replaces at least one, so it ends.
  for (let changed = true; changed;) {
    changed = false
    for (const unit of chosen.values()) {
      for (const need of unit.needs) {
        if (chosen.has(need)) continue
        fallBack(need)
        if (!chosen.has(need)) {
          const why = reasons.get(need)?.why === 'untried' ? 'untried' : 'needs'
          if (!reasons.has(unit.path))
            reasons.set(unit.path, { why, reason: `needs ${resourceOf(need)}, which is left out` })
          fallBack(unit.path)
        }
        changed = true
        break
      }
    }
  }

  const serving = new Set([...chosen.keys()].map(resourceOf))
  return {
    units: [...chosen.values()].toSorted(byPath),
    isolated: [...reasons].map(([path, { why, reason }]) => ({
      path: resourceOf(path),
      why,
      reason,
      serves: serving.has(resourceOf(path)) ? 'last_good' : 'left_out',
    })),
  }
}

/** Nearly always: nothing is refused, nothing falls back, and all that is needed is there. */
function isAllFine(
  desired: ReadonlyMap<string, Unit>,
  problems: readonly Problem[],
  lastGood: ReadonlyMap<string, Unit>,
  refusal: SelectInput['refusal'],
): boolean {
  for (const { digest, needs } of desired.values()) {
    if (refusal(digest) !== undefined || !needs.every((need) => desired.has(need))) return false
  }
  return problems.every(({ path }) => desired.has(path) || !lastGood.has(path))
}

function byPath(a: Unit, b: Unit): number {
  return a.path < b.path ? -1 : 1
}

/**
 * Removes last good sites whose host and listener a desired site claims now, since nginx would serve whichever comes first;
 * and those that would bring TLS or PROXY headers to a listener of desired sites that have none, since nginx gives them to
 * all of it.
 */
function dropClaimed(chosen: Map<string, Unit>, desired: ReadonlyMap<string, Unit>): void {
  // Nearly always.
  if ([...chosen.values()].every((unit) => desired.get(unit.path) === unit)) return
  const claims = new Set<string>()
  const ways = new Map<string, Listener>()
  for (const unit of chosen.values()) {
    if (desired.get(unit.path) !== unit) continue
    for (const claim of claimsOf(unit)) claims.add(claim)
    for (const listener of unit.listeners) ways.set(listenerKey(listener), listener)
  }
  const imposes = (listener: Listener): boolean => {
    const other = ways.get(listenerKey(listener)) ?? listener
    return (listener.tls && !other.tls) || (listener.proxyProtocol === true && other.proxyProtocol !== true)
  }
  for (const unit of chosen.values()) {
    if (desired.get(unit.path) === unit) continue
    if (claimsOf(unit).some((claim) => claims.has(claim)) || unit.listeners.some(imposes)) chosen.delete(unit.path)
  }
}

function claimsOf({ listeners, hosts }: Unit): readonly string[] {
  return listeners.flatMap(({ address, port }) => hosts.map((host) => `${address} ${port} ${host}`))
}

/** Units that are new, or have another text than before. */
export function changedUnits(before: readonly Unit[], after: readonly Unit[]): readonly Unit[] {
  const old = new Map(before.map(({ path, digest }) => [path, digest]))
  return after.filter(({ path, digest }) => old.get(path) !== digest)
}

/** nginx's first [emerg] message, or all it said. */
export function nginxWords(stderr: string): string {
  return (/\[emerg\] (?:\d+#\d+: )?(.*)/.exec(stderr)?.[1] ?? stderr).trim()
}

/**
 * The units that nginx's words blame: by the object file that they name, by a file beside (a certificate that it does not
 * take, say), or by the address they could not bind. Empty when none is there.
 */
export function blamedUnits(words: string, units: readonly Unit[]): readonly Unit[] {
  const digest = /\/objects\/([0-9a-f]{64})\.conf/.exec(words)?.[1]
  if (digest !== undefined) return units.filter((unit) => unit.digest === digest)
  const file = /\/objects\/([0-9a-f]{64}\.\w+)/.exec(words)?.[1]
  if (file !== undefined) return units.filter(({ files = [] }) => files.some(({ name }) => name === file))
  const bound = /bind\(\) to (\S+):(\d+) failed/.exec(words)
  if (bound === null) return []
  return units.filter((unit) =>
    [...unit.listeners, ...(unit.stream?.listeners ?? [])].some(
      ({ address, port }) => bareAddress(address) === bareAddress(bound[1] ?? '') && String(port) === bound[2],
    ),
  )
}

/**
 * Whom words that name nobody may be about, the likeliest first: those whose texts hold what is quoted (a path, a zone, a
 * variable), since what is only opened or compared after all is parsed comes without a file of ours; then those that have
 * a directive that they had not before. With those that need them, which fail with them.
 */
export function* suspectedUnits(
  words: string,
  units: readonly Unit[],
  before: readonly Unit[],
): Iterable<readonly Unit[]> {
  const quoted = [...words.matchAll(/"([^"]{2,4096})"/g)].map(([, token]) => token as string)
  const had = new Map(before.map((unit) => [unit.path, unit]))
  const isNovel = ({ path, digest, text }: Unit) => {
    const old = had.get(path)
    if (old?.digest === digest) return false
    const directives = directivesOf(old?.text ?? '')
    return [...directivesOf(text)].some((directive) => !directives.has(directive))
  }
  const withNeedy = (group: readonly Unit[]) => {
    const paths = new Set(group.map(({ path }) => path))
    return units.filter(({ path, needs }) => [path, ...needs].some((one) => paths.has(one)))
  }
  for (const token of quoted) yield withNeedy(units.filter(({ text }) => text.includes(token)))
  yield withNeedy(units.filter(isNovel))
}

/** About: what stands where a directive does. */
function directivesOf(text: string): ReadonlySet<string> {
  return new Set([...text.matchAll(/(?:^|[;{}])\s*([a-z][a-z0-9_]*)/gm)].map(([, name]) => name as string))
}

/** An address without brackets, with every way to write "all of IPv4" as `0.0.0.0`. */
export function bareAddress(address: string): string {
  const bare = address.replace(/^\[|\]$/g, '')
  return bare === '*' || bare === '' ? '0.0.0.0' : bare
}
