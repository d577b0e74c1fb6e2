/**
 * Locations that can be drained: while the drain file exists, requests go to a twin that answers the same and closes
 * the connection. A twin, since a Connection header of one's own breaks keep-alive, and a rewrite would break %2F.
 */

import { literal } from './quote.ts'
import { block } from './lines.ts'

export interface Location {
  /** What follows `location`: `= /path`, quoted. */
  readonly match: string
  readonly body: readonly string[]
}

/** The locations with their twins, numbered in order. */
export function drainable(locations: readonly Location[], drainFile: string): string[] {
  return locations.flatMap(({ match, body }, index) => [
    ...block(`location ${match}`, [
      `if (-f ${literal(drainFile)}) { return 418; }`,
      `error_page 418 = @drain_${index + 1};`,
      // An index file is an internal redirect, which comes back here after the error page was used once.
      'recursive_error_pages on;',
      ...body,
    ]),
    ...block(`location @drain_${index + 1}`, ['keepalive_timeout 0;', ...body]),
  ])
}
