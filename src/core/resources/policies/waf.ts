/**
 * The policy type `waf`: which requests look like attacks. Rules of one's own, which every nginx can ask, and the OWASP
 * Core Rule Set where the host has it and ModSecurity. Pure. Part of the kind Policy; nginx is told in
 * src/nginx/rendering/policies/waf.ts.
 */

import { z } from 'zod'
import { headerName } from '../conditions.ts'
import { atMost, integer, judgeRegex, key, matching, text } from '../fields.ts'
import type { PolicyType } from './policy-type.ts'

/** Each is asked about every request. */
const RULES_MAX = 64
/** Of all rules together: each may take a worker's time. */
const EXPRESSIONS_MAX = 128
const HEADERS_MAX = 8
const EXCLUSIONS_MAX = 64

const pattern = text(judgeRegex).optional()
const method = text(matching(/^[A-Z]{1,20}$/, 'is not a method', 'write it like GET or POST'))

const rule = z
  .strictObject({
    /** Any one of these. */
    methods: z.array(method).max(16).optional(),
    /** In the path as nginx compares it: decoded, without . and .. in it. Upper and lower case are the same, as in all of these. */
    path: pattern,
    /** In the query as it was sent, escapes and all. */
    query: pattern,
    userAgent: pattern,
    headers: atMost(HEADERS_MAX, headerName, text(judgeRegex)).optional(),
    /** Only says in the access log what it would have refused. */
    detectOnly: z.boolean().default(false),
  })
  .refine(({ methods = [], ...told }) => methods.length + expressionsOf(told).length > 0, {
    message: 'would refuse everything',
    params: { hint: 'say which method, path, query, userAgent or headers' },
  })

interface Expressions {
  readonly path?: string | undefined
  readonly query?: string | undefined
  readonly userAgent?: string | undefined
  readonly headers?: Readonly<Record<string, string>> | undefined
}

function expressionsOf({ path, query, userAgent, headers = {} }: Expressions): string[] {
  return [path, query, userAgent, ...Object.values(headers)].filter((each) => each !== undefined)
}

const exclusion = z.strictObject({
  /** Number of a rule of the Core Rule Set. */
  rule: integer(900_000, 999_999),
  /** The part of requests that the rule leaves out, as ModSecurity calls it; the whole rule when left out. */
  target: text(
    matching(
      /^[A-Z][A-Z_]{0,63}(?::[A-Za-z0-9_.-]{1,128})?$/,
      'is not a target',
      'write it like ARGS:comment or REQUEST_COOKIES:session',
    ),
  ).optional(),
  /** Only for paths that begin so. */
  path: text(
    matching(/^\/[A-Za-z0-9._~/-]*$/, 'is not a path of letters, digits and ._~/-', 'write it like /blog/'),
  ).optional(),
})

const coreRuleSet = z.strictObject({
  /** How much is suspicious: 1 hardly disturbs anybody, 4 wants many exclusions. */
  paranoia: integer(1, 4).default(1),
  /** A request is refused at this score: 5 is one critical finding. */
  inboundThreshold: integer(1, 10_000).default(5),
  /** An answer is refused at this score. */
  outboundThreshold: integer(1, 10_000).default(4),
  /** Also looks into the bodies of answers that are texts, for what must not leak: nginx holds them back meanwhile. */
  inspectResponses: z.boolean().default(false),
  exclusions: atMost(EXCLUSIONS_MAX, key, exclusion).default({}),
})

const schema = z
  .strictObject({
    /** `detect` refuses nothing; `off` asks nothing. */
    mode: z.enum(['off', 'detect', 'block']),
    rules: atMost(RULES_MAX, key, rule)
      .refine((rules) => Object.values(rules).flatMap(expressionsOf).length <= EXPRESSIONS_MAX, {
        message: `have more than ${EXPRESSIONS_MAX} expressions, all together`,
        params: { hint: 'join those about one part of requests: a|b' },
      })
      .default({}),
    coreRuleSet: coreRuleSet.optional(),
  })
  .refine(({ mode, rules, coreRuleSet: crs }) => mode === 'off' || crs !== undefined || Object.keys(rules).length > 0, {
    message: 'has no rules',
    params: { hint: 'add rules or coreRuleSet: {}' },
  })

export type WafSpec = z.output<typeof schema>
export type WafRule = z.output<typeof rule>
export type CoreRuleSetSpec = z.output<typeof coreRuleSet>

export const waf = {
  schema,
  sets: [['rules', '*', 'methods']],
  items: [['coreRuleSet']],
} as const satisfies PolicyType<WafSpec>
