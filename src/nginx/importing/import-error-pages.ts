/**
 * Pages of a server for errors as a field of its Site: where each is a file, and its location adds nothing to it that the
 * field would not have. Else all of them stay text. Pure; called by import-site.ts.
 */

import type { Tree } from '../../core/resources/kind.ts'
import { plain } from '../rendering/quote.ts'
import { faultOfSite } from './faults.ts'
import { defaultRoot } from './fields.ts'
import { matchOf } from './location-match.ts'
import { toText, type Directive } from './parse.ts'

export interface ImportedPages {
  readonly fields: Tree
  /** Paths whose locations are there for the pages alone: nobody else reaches them. */
  readonly internal: ReadonlySet<string>
}

/** What the location of a page may say beside where its file is. */
const HARMLESS = /^(?:root|internal|log_not_found)$/
/** What a server would do with the request for the page that nginx makes, and the field's page does not meet. */
const MEETS_PAGES = /^(?:add_header|rewrite|if|return|satisfy|allow|deny|auth_basic|limit_req|limit_conn)$/

/** @param hasFile whether a file is there to read */
export function errorPagesOf(
  server: readonly Directive[],
  prefix: string,
  hasFile: (path: string) => boolean,
): ImportedPages | undefined {
  const lines = server.filter(({ name }) => name === 'error_page')
  const locations = server.filter(({ name }) => name === 'location')
  const isPlain = !server.some(({ name }) => MEETS_PAGES.test(name))
  const hasOwn = locations.some(({ block = [] }) => says(block, /^(?:error_page|add_header)$/))
  if (lines.length === 0 || !isPlain || hasOwn) return undefined
  const pages: Tree = {}
  const internal = new Set<string>()
  for (const { args } of lines) {
    const [target = '', change = '', ...statuses] = args.toReversed()
    const isChange = /^=\d{3}$/.test(change)
    const location = locations.find((each) => matchOf(each).modifier === '=' && matchOf(each).path === target)
    if (location === undefined || (change.startsWith('=') && !isChange)) return undefined
    const own = location.block ?? []
    const file = fileOf(location, server, prefix)
    if (!own.every(({ name }) => HARMLESS.test(name)) || !hasFile(file)) return undefined
    const key = (isChange ? statuses : [change, ...statuses]).toReversed().join(',')
    if (pages[key] !== undefined) return undefined
    pages[key] = { file, ...(isChange ? { status: Number(change.slice(1)) } : {}) }
    if (own.some(({ name }) => name === 'internal')) internal.add(target)
  }
  const intercept = server.findLast(({ name }) => name === 'proxy_intercept_errors')?.args[0] === 'on'
  const fields = { errorPages: { pages, ...(intercept ? { intercept } : {}) } }
  return faultOfSite(fields) === undefined ? { fields, internal } : undefined
}

/** Of a location with one path. */
function fileOf(location: Directive, server: readonly Directive[], prefix: string): string {
  const levels = [location.block ?? [], server]
  const [root = defaultRoot(prefix)] = levels.flatMap(
    (level) => level.findLast(({ name }) => name === 'root')?.args ?? [],
  )
  return `${root.replace(/\/+$/, '')}${matchOf(location).path}`
}

/** Those of a route where its server has pages as a field. */
export function interceptOf(location: readonly Directive[]): Tree {
  const said = location.findLast(({ name }) => name === 'proxy_intercept_errors')?.args[0]
  return said === undefined ? {} : { errorPages: { intercept: said === 'on' } }
}

/**
 * The locations, with one of its own for each path that errors are sent to: nginx leaves the errors of a page alone, and a
 * route, where draining needs it otherwise, would send them to the page again, until nginx gives up.
 */
export function withPageLocations(
  server: readonly Directive[],
  locations: readonly Directive[],
  prefix: string,
  hasFile: (path: string) => boolean,
) {
  const levels = [server, ...locations.map(({ block = [] }) => block)]
  const targets = levels.flatMap((level) =>
    level.flatMap(({ name, args }) =>
      name === 'error_page' && /^\/[^$?]*$/.test(args.at(-1) ?? '') ? (args.at(-1) ?? '') : [],
    ),
  )
  const isExact = (location: Directive, path: string): boolean =>
    matchOf(location).modifier === '=' && matchOf(location).path === path
  const added = [...new Set(targets)].flatMap((path): Directive[] => {
    const answering = locations.some((each) => isExact(each, path)) ? undefined : locationOf(locations, path)
    if (answering === undefined || !isAnywhere(answering)) return []
    return [{ ...answering, args: ['=', path], raw: ['=', plain(path)] }]
  })
  const all = [...locations, ...added]
  // Who asks for a page that is internal gets it as that of a 404; one that is there does not fail again.
  const isAskedFor = (each: Directive): boolean =>
    (each.block ?? []).some(({ name }) => name === 'internal') && hasFile(fileOf(each, server, prefix))
  const pages = new Set(all.filter((each) => targets.some((path) => isExact(each, path)) && !isAskedFor(each)))
  return { locations: all, isPage: (location: Directive) => pages.has(location) }
}

/** Whether it does the same wherever it stands. */
function isAnywhere({ block = [] }: Directive): boolean {
  const isBound = ({ name, args: [to = ''] }: Directive): boolean =>
    /^(?:location|alias)$/.test(name) || (name === 'proxy_pass' && /^\w+:\/\/[^/]+\/|\$/.test(to))
  return !block.some(isBound)
}

/** The one that answers for a path without one of its own; none where only nginx can tell. */
function locationOf(locations: readonly Directive[], path: string): Directive | undefined {
  const prefixes = locations.filter(
    (each) => /^(?:|\^~)$/.test(matchOf(each).modifier) && path.startsWith(matchOf(each).path),
  )
  const longest = prefixes.toSorted((a, b) => matchOf(b).path.length - matchOf(a).path.length)[0]
  if (longest !== undefined && matchOf(longest).modifier === '^~') return longest
  const regexes = locations.filter((each) => matchOf(each).modifier.startsWith('~'))
  try {
    const matching = regexes.find((each) =>
      new RegExp(matchOf(each).path, matchOf(each).modifier === '~*' ? 'i' : '').test(path),
    )
    // What the expression found is not known any more.
    return matching !== undefined && /\$\d/.test(toText([matching])) ? undefined : (matching ?? longest)
  } catch {
    return undefined
  }
}

function says(block: readonly Directive[], names: RegExp): boolean {
  return block.some(({ name, block: inner = [] }) => names.test(name) || says(inner, names))
}
