/**
 * Conditions of a route, beside its path: what a request's method, headers, cookies and query must be. All of them are
 * required. Pure. Part of the kind Site; how nginx is told is in src/nginx/rendering/site-maps.ts.
 */

import { z } from 'zod'
import { atMost, judgeRegex, matching, text } from './fields.ts'

/** Of one route, of each sort: every one is a variable that nginx keeps for every request. */
const CONDITIONS_MAX = 8

// Exact and regex may both be there after a merge; then both are required.
const valueTest = z
  .strictObject({
    exact: text((value) =>
      value === '' ? { message: 'is empty', hint: 'use present: false for what must not be there' } : undefined,
    ).optional(),
    /** Matches anywhere in the value, case-sensitively. */
    regex: text(judgeRegex).optional(),
    /** An empty value counts as absent: nginx cannot tell them apart. */
    present: z.boolean().optional(),
  })
  .refine((test) => Object.values(test).some((value) => value !== undefined), {
    message: 'says nothing',
    params: { hint: 'write it like { exact: beta }, { regex: "^b" } or { present: true }' },
  })

export const headerName = text(
  matching(/^[A-Za-z0-9][A-Za-z0-9-]{0,63}$/, 'is not a header name', 'letters, digits and -'),
)
export const variableName = text(
  matching(/^[A-Za-z0-9_]{1,64}$/, 'is not a name that nginx can look up', 'letters, digits and _'),
)
const method = text(matching(/^[A-Z]{1,20}$/, 'is not a method', 'write it like GET or POST'))

export const conditions = z.strictObject({
  /** Any one of these. */
  methods: z.array(method).max(16).optional(),
  headers: atMost(CONDITIONS_MAX, headerName, valueTest).optional(),
  cookies: atMost(CONDITIONS_MAX, variableName, valueTest).optional(),
  /** Values as they were sent, escapes and all. */
  query: atMost(CONDITIONS_MAX, variableName, valueTest).optional(),
})

/** One thing that a request must meet; nginx knows what it is about as the variable. */
export type Condition = { readonly variable: string } & (
  | { readonly exact: readonly string[] }
  | { readonly regex: string }
  | { readonly present: boolean }
)

/** The name of nginx's variable for a header, a cookie or a parameter of the query. */
export function requestVariable(prefix: 'http_' | 'upstream_http_' | 'cookie_' | 'arg_', name: string): string {
  return prefix + name.toLowerCase().replaceAll('-', '_')
}

/** The conditions one by one, in an order that depends on nothing else; none for undefined. */
export function conditionsOf(when: z.output<typeof conditions> | undefined): readonly Condition[] {
  if (when === undefined) return []
  const { methods = [], headers, cookies, query } = when
  const found: Condition[] = methods.length === 0 ? [] : [{ variable: 'request_method', exact: methods.toSorted() }]
  const prefixes = { http_: headers, cookie_: cookies, arg_: query }
  for (const [prefix, tests] of Object.entries(prefixes)) {
    for (const [name, { exact, regex, present }] of Object.entries(tests ?? {})) {
      const variable = requestVariable(prefix as 'http_' | 'cookie_' | 'arg_', name)
      if (exact !== undefined) found.push({ variable, exact: [exact] })
      if (regex !== undefined) found.push({ variable, regex })
      if (present !== undefined) found.push({ variable, present })
    }
  }
  // As sets: names that differ in case alone are one to nginx.
  const keyed = new Map(found.map((condition) => [JSON.stringify(condition), condition]))
  return [...keyed.keys()].toSorted().map((key) => keyed.get(key) as Condition)
}
