/**
 * What clients see in place of an error: a fixed body, a file of the host or a page of an upstream, by status. Those of
 * a route go before those of its site. Pure. Part of the kind Site; the text is in src/nginx/rendering/error-pages.ts.
 */

import { z } from 'zod'
import { contentType, fixedBody } from './body.ts'
import { atMost, integer, reference, text } from './fields.ts'

/** Of a site, and of each route. */
const PAGES_MAX = 16

/** What a class stands for: the registered statuses, and those of widespread proxies. nginx tells 444 and 499 to nobody. */
const CLASSES: Readonly<Record<string, readonly number[]>> = {
  '4xx': [...span(400, 418), ...span(421, 426), 428, 429, 431, 451],
  '5xx': [...span(500, 508), 510, 511, ...span(520, 526)],
}

const statuses = text((value) => {
  if (Object.hasOwn(CLASSES, value)) return undefined
  const parts = value.split(',')
  if (!parts.every((part) => /^[45]\d\d$/.test(part) && part !== '444' && part !== '499'))
    return { message: 'is not a status', hint: 'write it like 404, 502,503, 4xx or 5xx' }
  return new Set(parts).size === parts.length ? undefined : { message: 'names a status twice' }
})

const page = z
  .strictObject({
    body: fixedBody.optional(),
    /** Of the body. */
    contentType: contentType.default('text/html; charset=utf-8'),
    /** A file on each node; its ending tells what it is. */
    file: text((value) =>
      /^(?:\/(?!\.{1,2}(?:\/|$))[^/]+)+$/.test(value)
        ? undefined
        : { message: 'is not the absolute path of a file', hint: 'write it like /srv/www/404.html, without . and ..' },
    ).optional(),
    /** An Upstream, which is asked with GET or HEAD for `path`; it is told X-Error-Status and X-Original-URI. */
    upstream: reference.optional(),
    path: text((value) =>
      /^\/(?!\/)[\w./~%+,=&?-]*$/.test(value)
        ? undefined
        : { message: 'is not a path', hint: 'write it like /errors/404' },
    ).default('/'),
    /** What the client is told in place of the error. */
    status: integer(200, 599)
      .refine((status) => status < 300 || status > 399, {
        message: 'is a redirect',
        params: { hint: 'a page has a status of 2xx, 4xx or 5xx' },
      })
      .optional(),
  })
  .superRefine(({ body, file, upstream }, context) => {
    const said = [body, file, upstream].filter((each) => each !== undefined).length
    if (said === 1) return
    const message = said === 0 ? 'says nothing' : 'says more than one of body, file and upstream'
    context.addIssue({ code: 'custom', message, params: { hint: 'give it a body, a file or an upstream' } })
  })

export type ErrorPage = z.output<typeof page>

export const errorPages = z.strictObject({
  /** By status: `404`, several as `502,503`, or all of a class as `5xx`; the closest counts. */
  pages: atMost(PAGES_MAX, statuses, page)
    .superRefine((pages, context) => {
      const seen = new Map<string, string>()
      for (const key of Object.keys(pages)) {
        for (const status of key.split(',')) {
          const twin = seen.get(status)
          if (twin !== undefined)
            context.addIssue({ code: 'custom', message: `names ${status}, as ${twin} does`, path: [key] })
          seen.set(status, key)
        }
      }
    })
    .default({}),
  /** Whether errors that an upstream answers get the pages too. */
  intercept: z.boolean().optional(),
})

type ErrorPages = z.output<typeof errorPages>

export interface PagesInForce {
  readonly intercept: boolean
  /** By status. The key tells pages of the same levels apart, whatever they say. */
  readonly pages: ReadonlyMap<number, { readonly key: string; readonly page: ErrorPage }>
}

/** The pages by status, of all that apply to a route: outermost first. */
export function pagesInForce(outermostFirst: readonly (ErrorPages | undefined)[]): PagesInForce {
  const pages = new Map<number, { key: string; page: ErrorPage }>()
  let intercept = false
  for (const [depth, level] of outermostFirst.entries()) {
    const entries = Object.entries(level?.pages ?? {})
    const [classes, lists] = [entries.filter(isOfClass), entries.filter((entry) => !isOfClass(entry))]
    for (const [key, page] of [...classes, ...lists])
      for (const status of CLASSES[key] ?? key.split(',').map(Number))
        pages.set(status, { key: `${depth} ${key}`, page })
    intercept = level?.intercept ?? intercept
  }
  return { intercept, pages }
}

function isOfClass([key]: readonly [string, unknown]): boolean {
  return Object.hasOwn(CLASSES, key)
}

function span(first: number, last: number): number[] {
  return Array.from({ length: last - first + 1 }, (_, index) => first + index)
}
