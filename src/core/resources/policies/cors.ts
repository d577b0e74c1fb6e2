/**
 * The policy type `cors`: which pages of other origins may read what a site answers. nginx answers what browsers ask
 * before, also where the request itself needs a password. Pure. Part of the kind Policy; nginx is told in
 * src/nginx/rendering/policies/cors.ts.
 */

import { z } from 'zod'
import { headerName } from '../conditions.ts'
import { integer, matching, text } from '../fields.ts'
import type { PolicyType } from './policy-type.ts'

const LABEL = '[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?'
const ORIGIN = new RegExp(`^(?:\\*|https?://(?:\\*\\.)?${LABEL}(?:\\.${LABEL})*(?::[1-9]\\d{0,4})?)$`)

const origin = text(
  matching(ORIGIN, 'is not an origin', 'write it like https://app.example.com, https://*.example.com or *'),
  { maxBytes: 300 },
)
const method = text(matching(/^[A-Z]{1,20}$/, 'is not a method', 'write it like GET or POST'))

const schema = z
  .strictObject({
    /** `*` is any; `https://*.example.com` is all names below it, not itself. */
    origins: z.array(origin).min(1).max(64),
    methods: z.array(method).min(1).max(16).default(['GET', 'HEAD', 'POST']),
    /** Of the request, beside those that browsers always send. */
    headers: z.array(headerName).max(64).default([]),
    /** Of the answer, that pages may read beside the usual ones. */
    exposedHeaders: z.array(headerName).max(64).default([]),
    /** Cookies and passwords come along. */
    credentials: z.boolean().default(false),
    /** How long browsers remember the answer, in seconds. */
    maxAge: integer(0, 86_400).default(600),
  })
  .superRefine(({ origins, credentials }, context) => {
    if (!credentials || !origins.includes('*')) return
    const hint = 'name the origins: with credentials any page could read what belongs to its visitor'
    context.addIssue({
      code: 'custom',
      message: 'does not go with origins: *',
      path: ['credentials'],
      params: { hint },
    })
  })

export type CorsSpec = z.output<typeof schema>

export const cors = {
  schema,
  sets: [['origins'], ['methods'], ['headers'], ['exposedHeaders']],
  items: [],
} as const satisfies PolicyType<CorsSpec>
