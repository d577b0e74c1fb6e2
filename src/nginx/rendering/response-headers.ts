/**
 * nginx text of the headers that every answer of a route has, and of those of its upstream that none has. Pure; called
 * for routes, and for the pages that answer in their place.
 */

import type { Route, SiteSpec } from '../../core/resources/site.ts'
import { sortedEntries } from './lines.ts'
import { plain, template } from './quote.ts'

/** @param module of nginx that asks the upstream, for what an upstream answers */
export function responseHeaderLines(
  own: Route['responseHeaders'],
  spec: SiteSpec,
  module?: 'proxy' | 'grpc',
): readonly string[] {
  const headers = new Map<string, [string, string]>()
  for (const { set } of [spec.responseHeaders ?? {}, own ?? {}]) {
    for (const [name, value] of sortedEntries(set)) headers.set(name.toLowerCase(), [name, value])
  }
  const entries = [...headers.values()]
  const removed = [spec.responseHeaders?.remove ?? [], own?.remove ?? []].flat().toSorted()
  const hidden = new Map([...entries.map(([name]) => name), ...removed].map((name) => [name.toLowerCase(), name]))
  return [
    ...(module === undefined ? [] : [...hidden.values()].map((name) => `${module}_hide_header ${plain(name)};`)),
    ...entries.map(([name, value]) => `add_header ${plain(name)} ${template(value)} always;`),
  ]
}
