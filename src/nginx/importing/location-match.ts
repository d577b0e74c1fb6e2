/** What a location is chosen by. Pure; used by all that reads locations. */

import type { Directive } from './parse.ts'

/** The modifier of a location and its path; of `location @name` and `location =/x` too. */
export function matchOf({ args }: Directive): { modifier: string; path: string } {
  const [first = '', second] = args
  if (second !== undefined) return { modifier: first, path: second }
  const [, modifier = '', path = ''] = /^(=|\^~|~\*|~)?(.*)$/.exec(first) ?? []
  return { modifier, path }
}
