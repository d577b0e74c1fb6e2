/** How a resource says which Template it is made of, and by which values. Pure; part of the kinds Site and Upstream. */

import { z } from 'zod'
import { atMost, integer, matching, reference, text } from './fields.ts'

const PARAMETERS_MAX = 64

const parameterName = text(
  matching(
    /^[a-z][A-Za-z0-9]{0,31}$/,
    'is not the name of a parameter',
    'a lower-case letter, then letters and digits',
  ),
)

/** A map by the names of parameters. */
export function byParameter<Value extends z.ZodType>(value: Value) {
  return atMost(PARAMETERS_MAX, parameterName, value)
}

/** What a parameter may stand for. */
export const parameterValue = z.union([
  text(undefined, { lines: true }),
  integer(Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER),
  z.boolean(),
])

export const templateUse = z.strictObject({
  /** A Template of the same workspace, looked up from the resource's zone outward. */
  name: reference,
  values: byParameter(parameterValue).default({}),
})
export type TemplateUse = z.output<typeof templateUse>
