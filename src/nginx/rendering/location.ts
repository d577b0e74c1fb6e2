/**
 * Locations that can be drained: while the drain file exists, requests go to a twin that answers the same and closes
 * the connection. A twin, since a Connection header of one's own breaks keep-alive, and a rewrite would break %2F.
 * Where a variable chooses among several bodies, requests go to named locations for the same reason. A body's guards hold
 * whatever it answers with.
 */

import { literal } from './quote.ts'
import { block } from './lines.ts'

/** What a location does. */
export interface Body {
  /** What comes before the answer: an `if` that answers itself, or directives of nginx's access phase and those before it. */
  readonly guards: readonly string[]
  /** Limits, headers and the like, wherever the answer is made. */
  readonly lines: readonly string[]
  /** What answers. */
  readonly content: readonly string[]
  /** The content is a `return`, which nginx obeys before it looks at guards other than `if`. */
  readonly isFixed: boolean
}

/** An answer that is there already. */
export function fixed(content: readonly string[], lines: readonly string[] = [], guards: readonly string[] = []): Body {
  return { guards, lines, content, isFixed: true }
}

export type Location = {
  /** What follows `location`: `= /path`, quoted. */
  readonly match: string
} & ({ readonly body: Body } | Choice)

/** Bodies in locations of their own, so that what they do with statuses does not meet what draining does with them. */
interface Choice {
  /** Holds the number, from 0, of the body that counts; left out where there is one. */
  readonly variable?: string
  /** What comes before anything else, drained or not: an `if` that answers with a status that closes the connection. */
  readonly refusal?: readonly string[]
  readonly bodies: readonly Body[]
  /** What nginx heeds before it looks at the variable. */
  readonly limits: readonly string[]
}

/** With these a location sends requests to its twin, and to its bodies. */
export const DRAIN_STATUSES: readonly number[] = [418, 419]

/** The locations with their twins, numbered in order. */
export function drainable(locations: readonly Location[], drainFile: string): string[] {
  const drain = `if (-f ${literal(drainFile)}) { return 418; }`
  return locations.flatMap((location, index) => {
    const number = index + 1
    if ('bodies' in location) return choiceLines(location, number, drain)
    const answer = `@answer_${number}`
    return [
      ...block(`location ${location.match}`, [
        drain,
        `error_page 418 = @drain_${number};`,
        // An index file is an internal redirect, which comes back here after the error page was used once.
        'recursive_error_pages on;',
        ...guardedLines(location.body, answer),
      ]),
      ...block(`location @drain_${number}`, ['keepalive_timeout 0;', ...guardedLines(location.body, answer)]),
      ...answerLines(location.body, answer),
    ]
  })
}

function choiceLines(location: Location & Choice, number: number, drain: string): string[] {
  const { match, variable, refusal = [], bodies, limits } = location
  const chosen = variable === undefined ? '0' : `$${variable}`
  return [
    ...block(`location ${match}`, [
      ...refusal,
      drain,
      `error_page 418 = @drain_${number}_${chosen};`,
      `error_page 419 = @route_${number}_${chosen};`,
      'recursive_error_pages on;',
      ...limits,
      'return 419;',
    ]),
    ...bodies.flatMap((body, index) => {
      const answer = `@answer_${number}_${index}`
      return [
        ...block(`location @route_${number}_${index}`, guardedLines(body, answer)),
        ...block(`location @drain_${number}_${index}`, ['keepalive_timeout 0;', ...guardedLines(body, answer)]),
        ...answerLines(body, answer),
      ]
    }),
  ]
}

/** Whether a `return` would come before a guard, so that it has to stand in a location behind it; nginx obeys `if` in its place. */
function answersBehind({ guards, isFixed }: Body): boolean {
  return isFixed && guards.some((line) => !/^(?:if|set) /.test(line))
}

function guardedLines(body: Body, answer: string): readonly string[] {
  const { guards, lines, content } = body
  if (!answersBehind(body)) return [...guards, ...lines, ...content]
  // A file that nobody can make: nginx looks for it after all guards, and then goes on to the answer.
  return [...guards, ...lines, 'root /dev/null;', `try_files /none ${answer};`]
}

/** What closes a connection closes it behind the guards too, so that the twin has no answer of its own. */
function answerLines(body: Body, answer: string): readonly string[] {
  if (!answersBehind(body)) return []
  // Who got here was let in: a 401 that is answered now is nobody's refusal.
  return block(`location ${answer}`, ['set $nxmesh_credentials "";', ...body.lines, ...body.content])
}
