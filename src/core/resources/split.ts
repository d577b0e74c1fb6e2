/**
 * How a proxy spreads clients over several upstreams: canary, A/B, blue and green. Weights are whole numbers and need not
 * add up to anything, so that people can edit one each; the shares follow from all of them. Pure. Part of the kind Site.
 */

import { z } from 'zod'
import { isName } from '../names.ts'
import { headerName, variableName } from './conditions.ts'
import { atMost, integer, reference, text } from './fields.ts'

const target = z.strictObject({
  upstream: reference,
  /** Of the sum of all weights. 0: only who is sent there by force. */
  weight: integer(0, 10_000),
})
const targetId = text((value) =>
  isName(value) ? undefined : { message: 'is not a name', hint: 'lower-case letters, digits and -' },
)

export const split = atMost(16, targetId, target)
/** What a client is told by, so that it stays where it is: the cookie, else the header, else its address. */
export const sticky = z.strictObject({ cookie: variableName.optional(), header: headerName.optional() })
/** A header, or else a cookie, whose value is the ID of the target to go to. */
export const force = z.strictObject({ cookie: variableName.optional(), header: headerName.optional() })

interface Splitting {
  readonly upstream?: string | undefined
  readonly split?: z.output<typeof split> | undefined
}

export function isSplit({ split: targets = {} }: Splitting): boolean {
  return Object.keys(targets).length > 0
}

/** The upstreams that requests may reach, each once. */
export function upstreamsOf(proxy: Splitting): readonly string[] {
  return [...new Set(sharesOf(proxy).map((share) => share.upstream))]
}

interface Share {
  readonly id: string
  readonly upstream: string
  /** In hundredths of a percent. */
  readonly parts: number
}

const WHOLE = 10_000

/**
 * Who gets how much, by ID; parts add up to 10,000, and what has any weight has at least one. Without any weight the
 * proxy's `upstream` gets all, and where it names none, all targets the same.
 */
export function sharesOf({ upstream, split: targets = {} }: Splitting): readonly Share[] {
  const entries = Object.entries(targets).toSorted(([a], [b]) => (a < b ? -1 : 1))
  const total = entries.reduce((sum, [, { weight }]) => sum + weight, 0)
  if (total === 0 && upstream !== undefined) {
    return [
      ...entries.map(([id, each]) => ({ id, upstream: each.upstream, parts: 0 })),
      { id: '', upstream, parts: WHOLE },
    ]
  }
  const weights = entries.map(([, { weight }]) => (total === 0 ? 1 : weight))
  const sum = total === 0 ? entries.length : total
  const parts = weights.map((weight) => (weight === 0 ? 0 : Math.max(1, Math.floor((weight * WHOLE) / sum))))
  // What rounding left over, or took too much, is the heaviest one's, which hardly feels it.
  const heaviest = weights.indexOf(Math.max(...weights))
  const rest = WHOLE - parts.reduce((before, part) => before + part, 0)
  return entries.map(([id, each], index) => {
    const own = (parts[index] as number) + (index === heaviest ? rest : 0)
    return { id, upstream: each.upstream, parts: own }
  })
}
