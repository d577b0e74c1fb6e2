/**
 * What workspaces of one node can do to each other by what they render to: nothing beyond the places and limits that they
 * share, each of which is a problem of the resource that gives way.
 */

import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { ResourceState } from '../../src/core/document.ts'
import { fieldsOf, parseDocument, pathOf } from '../../src/core/resources/index.ts'
import type { Unit } from '../../src/nginx/rendering/unit.ts'
import { resourceArbitrary } from '../support/arbitrary-resources.ts'
import { LAYOUT, renderStates, stateOf, withModules } from '../support/resources.ts'

/** Documents in a workspace, each as old as it says. */
function statesIn(
  workspace: string,
  documents: readonly (readonly [document: unknown, at: number])[],
): ResourceState[] {
  const states = documents.map(([document, at]) => {
    const { metadata, ...rest } = document as { metadata: object }
    const resource = parseDocument({ ...rest, metadata: { ...metadata, workspace } })
    return stateOf(pathOf(resource), fieldsOf(resource), at)
  })
  return [...new Map(states.map((state) => [state.path, state])).values()]
}

const aged = (from: number, documents: fc.Arbitrary<unknown> = resourceArbitrary) =>
  fc.array(fc.tuple(documents, fc.integer({ min: from, max: from + 9 })), { maxLength: 6 })
/** Of one workspace, and of another that has some of the same as well. */
const both = (from: number) =>
  aged(0).chain((mine) => {
    const same = mine.map(([document]) => fc.constant(document))
    return fc.tuple(fc.constant(mine), aged(from, fc.oneof(resourceArbitrary, ...same)))
  })
/** With the lane without reloads, and without. */
const hosts = fc.constantFrom(LAYOUT, {
  ...LAYOUT,
  modules: ['/modules/ndk_http_module.so', '/modules/ngx_http_lua_module.so'],
  maxCacheDisk: '30g',
})
const capabilities = withModules('http_lua', 'ndk_http', 'http_brotli_filter', 'http_headers_more_filter')
const ownOf = <T extends { readonly path: string }>(all: readonly T[]) =>
  all.filter(({ path }) => path.startsWith('mine/'))
const liveOf = (live: ReadonlyMap<string, string> | undefined) =>
  [...(live ?? [])].filter(([key]) => key.startsWith('u:mine_'))

describe('what another workspace does', () => {
  test('property: what is older keeps its text, its place and its endpoints, whatever another makes', () => {
    fc.assert(
      fc.property(both(100), hosts, ([mine, others], host) => {
        const alone = renderStates(statesIn('mine', mine), { host, capabilities })
        const beside = renderStates([...statesIn('mine', mine), ...statesIn('other', others)], { host, capabilities })
        expect(ownOf(beside.units)).toEqual(ownOf(alone.units))
        expect(ownOf(beside.problems)).toEqual(ownOf(alone.problems))
        expect(liveOf(beside.live)).toEqual(liveOf(alone.live))
      }),
      { numRuns: 200 },
    )
  })

  test('property: whoever is older, what changes is told of a clash, and all else is as it was', () => {
    fc.assert(
      fc.property(both(0), hosts, ([mine, others], host) => {
        const alone = renderStates(statesIn('mine', mine), { host, capabilities })
        const beside = renderStates([...statesIn('mine', mine), ...statesIn('other', others)], { host, capabilities })
        const lost = new Set(ownOf(beside.problems).flatMap(({ path, code }) => (code === 'clash' ? path : [])))
        const unharmed = (units: readonly Unit[]) => ownOf(units).filter(({ path }) => !lost.has(path))
        expect(unharmed(beside.units)).toEqual(unharmed(alone.units))
        expect(liveOf(beside.live)).toEqual(liveOf(alone.live))
      }),
      { numRuns: 200 },
    )
  })
})
