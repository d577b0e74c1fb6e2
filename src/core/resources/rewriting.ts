/**
 * New paths and places for requests: redirects, which tell the client, and rewrites, which the upstream alone sees.
 * Groups of a regular expression may stand in the new text, though never where they could choose the host. Part of the kind Site.
 */

import { z } from 'zod'
import {
  highestGroup,
  isFault,
  judgeGroups,
  judgeRegex,
  parseGroupsTemplate,
  parseTemplate,
  text,
  type Fault,
  type Judge,
} from './fields.ts'

/** A template in which groups may stand; how many there are is judged with the regular expression. */
function groupsTemplate(judge: Judge) {
  return text((value) => {
    const parts = parseGroupsTemplate(value)
    return judge(value) ?? (isFault(parts) ? parts : undefined)
  })
}

function judgeTarget(value: string): Fault | undefined {
  // What browsers read as another host (//host, /\host), or might after a variable, is no path.
  if (/^(?:https?:\/\/[^/?#\\]|\/(?![/\\$]))[\x21-\x7e]*$/.test(value)) return undefined
  return { message: 'is not a URL', hint: 'write it like https://example.com/new or /new' }
}

export const redirect = z.strictObject({
  to: groupsTemplate(judgeTarget),
  /** Matched against path and query as they were sent, escapes and all. What it does not match gets 404. */
  regex: text(judgeRegex).optional(),
  status: z.literal([301, 302, 303, 307, 308]).default(302),
  /** Appends path and query of the request. */
  keepPath: z.boolean().default(false),
})

export const rewrite = z.strictObject({
  /** Matched against the path as nginx compares it: decoded, without the query. A path that it does not match stays. */
  regex: text(judgeRegex),
  /** The new path, decoded, perhaps with a query; `$1` to `$9` are groups, decoded too. */
  replacement: groupsTemplate((value) => {
    if (!/^\/(?![/\\$])[\x21-\x7e]*$/.test(value))
      return { message: 'is not a path', hint: 'write it like /new/$1 or /new?id=$1' }
    const parts = parseGroupsTemplate(value)
    return !isFault(parts) && parts.some((part) => 'variable' in part)
      ? { message: 'has a variable', hint: 'groups of regex alone may stand here: $1 to $9' }
      : judgeEscapes(value)
  }),
  /** Whether the query of the request goes on, after that of the replacement. */
  keepQuery: z.boolean().default(true),
})

/** What the prefix of a route becomes. */
export const replacePrefix = text((value) => {
  if (/^\/(?:[\x21-\x7e]*\/)?$/.test(value) && !/[?#\\]|\/\//.test(value)) return judgeEscapes(value)
  return { message: 'is not a path that ends in /', hint: 'write it like /v2/' }
})

function judgeEscapes(path: string): Fault | undefined {
  if (!/%[0-9a-f]{2}/i.test(path)) return undefined
  return { message: 'has an escape', hint: 'nginx escapes the new path itself: write the character' }
}

/** Rewrites do not go together, and a prefix is one that ends in `/`. */
export function judgeRewrites(
  { match, path }: { readonly match: string; readonly path: string },
  proxy: {
    readonly stripPrefix: boolean
    readonly replacePrefix?: string | undefined
    readonly rewrite?: z.output<typeof rewrite> | undefined
  },
): { readonly field: string; readonly fault: Fault }[] {
  const said = [
    ...(proxy.stripPrefix ? ['stripPrefix'] : []),
    ...(proxy.replacePrefix === undefined ? [] : ['replacePrefix']),
    ...(proxy.rewrite === undefined ? [] : ['rewrite']),
  ]
  const [first, second] = said
  if (first === undefined) return []
  if (second !== undefined) return [{ field: second, fault: { message: `does not go with ${first}` } }]
  if (first !== 'rewrite' && !(match === 'prefix' && path.endsWith('/')))
    return [{ field: first, fault: { message: 'needs match: prefix and a path that ends in /' } }]
  const fault = proxy.rewrite && judgeGroups(proxy.rewrite.replacement, proxy.rewrite.regex)
  return fault === undefined ? [] : [{ field: 'rewrite', fault }]
}

/** What in a redirect's target does not go with the rest of it. */
export function judgeRedirect({ to, regex, keepPath }: z.output<typeof redirect>): Fault | undefined {
  if (keepPath && regex !== undefined)
    return { message: 'does not go with keepPath and regex', hint: 'leave out keepPath: groups keep what they match' }
  if (keepPath) return judgeKeptBase(to)
  const [authority = ''] = /^(?:https?:\/\/[^/?#]*|\/)/.exec(to) ?? []
  if (highestGroup(authority) > 0)
    return { message: 'lets a group choose the host', hint: 'write a / before it: https://example.com/$1' }
  if (regex !== undefined) return judgeGroups(to, regex)
  return highestGroup(to) === 0
    ? undefined
    : { message: 'names a group, and there is no regex', hint: 'write $$1 for a dollar sign and a 1' }
}

/** A relative target plus a path such as `//evil.example` would lead to another host. */
function judgeKeptBase(to: string): Fault | undefined {
  const parts = parseTemplate(to)
  const ok =
    /^https?:\/\/[^?#]+$/.test(to) &&
    !isFault(parts) &&
    !parts.some((part) => 'variable' in part && part.variable !== 'host')
  return ok
    ? undefined
    : {
        message: 'does not go with keepPath',
        hint: 'write it like https://example.com, without query and other variables than $host',
      }
}

/** Prefixes of `Location` headers, or of cookies' paths, and what they become; longest first, as nginx takes the first that fits. */
export function longestFirst(map: Readonly<Record<string, string>> | undefined): [from: string, to: string][] {
  return Object.entries(map ?? {}).toSorted(([a], [b]) => b.length - a.length || (a < b ? -1 : 1))
}

export const redirectedFrom = text((value) => {
  if (/^(?:https?:\/\/[a-z0-9.:[\]-]+)?\/[\w./~%+,=&?-]*$/.test(value)) return undefined
  return { message: 'is not the beginning of a URL', hint: 'write it like http://app.internal:8080/ or /app/' }
})
export const redirectedTo = text((value) => {
  const parts = parseTemplate(value)
  return judgeTarget(value) ?? (isFault(parts) ? parts : undefined)
})
