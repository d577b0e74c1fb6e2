/**
 * Locations that can be drained: while the drain file exists, requests go to a twin that answers the same and closes
 * the connection. A twin, since a Connection header of one's own breaks keep-alive, and a rewrite would break %2F.
 * Where a variable chooses among several bodies, requests go to named locations for the same reason.
 */

import { literal } from './quote.ts'
import { block } from './lines.ts'

export type Location = {
  /** What follows `location`: `= /path`, quoted. */
  readonly match: string
} & ({ readonly body: readonly string[] } | Choice)

interface Choice {
  /** Holds the number, from 0, of the body that counts. */
  readonly variable: string
  readonly bodies: readonly (readonly string[])[]
  /** What nginx heeds before it looks at the variable. */
  readonly limits: readonly string[]
}

/** The locations with their twins, numbered in order. */
export function drainable(locations: readonly Location[], drainFile: string): string[] {
  const drain = `if (-f ${literal(drainFile)}) { return 418; }`
  return locations.flatMap((location, index) => {
    const number = index + 1
    if ('bodies' in location) return choiceLines(location, number, drain)
    return [
      ...block(`location ${location.match}`, [
        drain,
        `error_page 418 = @drain_${number};`,
        // An index file is an internal redirect, which comes back here after the error page was used once.
        'recursive_error_pages on;',
        ...location.body,
      ]),
      ...block(`location @drain_${number}`, ['keepalive_timeout 0;', ...location.body]),
    ]
  })
}

function choiceLines({ match, variable, bodies, limits }: Location & Choice, number: number, drain: string): string[] {
  return [
    ...block(`location ${match}`, [
      drain,
      `error_page 418 = @drain_${number}_$${variable};`,
      `error_page 419 = @route_${number}_$${variable};`,
      'recursive_error_pages on;',
      ...limits,
      'return 419;',
    ]),
    ...bodies.flatMap((body, index) => [
      ...block(`location @route_${number}_${index}`, body),
      ...block(`location @drain_${number}_${index}`, ['keepalive_timeout 0;', ...body]),
    ]),
  ]
}
