/**
 * Pages of a server for errors as a field of its Site: where each is a file, and its location adds nothing to it that the
 * field would not have. Else all of them stay text. Pure; called by import-site.ts.
 */

import type { Tree } from '../../core/resources/kind.ts'
import { faultOfSite } from './faults.ts'
import { defaultRoot } from './fields.ts'
import { isOfGroup } from './import-policies.ts'
import { matchOf } from './location-match.ts'
import type { Directive } from './parse.ts'

export interface ImportedPages {
  readonly fields: Tree
  /** Paths whose locations are there for the pages alone: nobody else reaches them. */
  readonly internal: ReadonlySet<string>
}

/** What the location of a page may say beside where its file is. */
const HARMLESS = /^(?:root|internal|log_not_found)$/
/** What a server would do with the request for the page that nginx makes, and the field's page does not meet. */
const MEETS_PAGES = /^(?:add_header|rewrite|if|return|satisfy)$/

/** @param hasFile whether a file is there to read */
export function errorPagesOf(
  server: readonly Directive[],
  prefix: string,
  hasFile: (path: string) => boolean,
): ImportedPages | undefined {
  const lines = server.filter(({ name }) => name === 'error_page')
  const locations = server.filter(({ name }) => name === 'location')
  const isPlain = !server.some((each) => MEETS_PAGES.test(each.name) || isOfGroup(each))
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
    const [root = defaultRoot(prefix)] = [own, server].flatMap(
      (level) => level.findLast(({ name }) => name === 'root')?.args ?? [],
    )
    const file = `${root.replace(/\/+$/, '')}${target}`
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

/** Those of a route where its server has pages as a field. */
export function interceptOf(location: readonly Directive[]): Tree {
  const said = location.findLast(({ name }) => name === 'proxy_intercept_errors')?.args[0]
  return said === undefined ? {} : { errorPages: { intercept: said === 'on' } }
}

function says(block: readonly Directive[], names: RegExp): boolean {
  return block.some(({ name, block: inner = [] }) => names.test(name) || says(inner, names))
}
