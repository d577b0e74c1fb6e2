/** A memory of renderings: right whatever changes, and nothing is made again where nothing did. */

import fc from 'fast-check'
import { expect, test } from 'vitest'
import { Recall } from '../../src/nginx/rendering/recall.ts'
import { assemble } from '../../src/nginx/rendering/assemble.ts'
import { render } from '../../src/nginx/rendering/render.ts'
import { renderStates, renderYaml, statesOf } from '../support/resources.ts'

test('property: gives what would be computed, whatever changes between rounds', () => {
  const round = fc.record({
    parts: fc.array(fc.constantFrom('a', 'b'), { maxLength: 2 }),
    asked: fc.array(fc.tuple(fc.nat(2), fc.constantFrom('v', 'w', 'x')), { maxLength: 8 }),
  })
  fc.assert(
    fc.property(fc.array(round, { maxLength: 8 }), (rounds) => {
      const recall = new Recall<string>()
      const specs = [{}, {}, {}]
      for (const { parts, asked } of rounds) {
        recall.turn(parts)
        for (const [index, variant] of asked) {
          // Only the number of parts counts for the value: another context may give the same key.
          const key = `${index} ${variant} ${parts.length}`
          expect(recall.get(specs[index] as object, variant, (keyed) => keyed(key, () => key))).toBe(key)
        }
      }
    }),
  )
})

test('nothing is made again where nothing changed, nor where all that one depends on is the same', () => {
  const recall = new Recall<object>()
  const spec = {}
  let asked = 0
  const get = () =>
    recall.get(spec, 'v', (keyed) => {
      asked += 1
      return keyed('key', () => ({}))
    })
  recall.turn(['a'])
  const first = get()
  recall.turn(['a'])
  expect(get()).toBe(first)
  expect(asked).toBe(1)
  recall.turn(['b'])
  expect(get()).toBe(first)
  expect(asked).toBe(2)
})

const site = (name: string, upstream: string) => `
apiVersion: nxmesh/v1
kind: Site
metadata: { name: ${name}, zone: eu.west }
spec: { hosts: [${name}.example], routes: { r: { path: /, proxy: { upstream: ${upstream} } } } }
`
const upstream = (zone: string) => `
apiVersion: nxmesh/v1
kind: Upstream
metadata: { name: pool, zone: ${zone} }
spec: { endpoints: { '127.0.0.1:81': {} } }
`

test('a site is rendered anew when what it names becomes another, comes, or goes, though it did not change', () => {
  const states = statesOf([site('a', 'pool'), upstream('eu'), upstream('eu.west')].join('---'))
  const [a, outer, inner] = states as [(typeof states)[0], (typeof states)[0], (typeof states)[0]]
  const node = { places: [{ workspace: '*', zones: ['eu.west'] }], labels: {} }
  const needs = (of: typeof states) => renderStates(of, { node }).units.find(({ kind }) => kind === 'site')?.needs
  expect(needs([a, outer])).toEqual(['default/eu/upstream/pool'])
  expect(needs([a, outer, inner])).toEqual(['default/eu.west/upstream/pool'])
  expect(needs([a])).toBeUndefined()
  expect(needs([a, inner])).toEqual(['default/eu.west/upstream/pool'])
})

test('units that did not change are the same objects in the next rendering', () => {
  const yaml = [site('a', 'pool'), upstream('eu')].join('---')
  const [before, after] = [renderYaml(yaml).units, renderYaml([yaml, site('b', 'pool')].join('---')).units]
  expect(after.find(({ path }) => path.endsWith('/a'))).toBe(before.find(({ path }) => path.endsWith('/a')))
})

test('of sites that did not change nothing is read again, when others do', () => {
  const read: string[] = []
  const watched = <R extends { path: string; spec: unknown }>(resource: R): R => ({
    ...resource,
    spec: new Proxy(resource.spec as object, {
      get: (spec, field) => {
        if (field === 'routes' || field === 'endpoints') read.push(resource.path)
        return Reflect.get(spec, field)
      },
    }),
  })
  const yaml = [site('a', 'pool'), site('b', 'pool'), upstream('eu')].join('---')
  const node = { places: [{ workspace: '*', zones: ['eu.west'] }], labels: {} }
  const { input } = renderYaml(yaml, { node })
  const resources = input.slice.resources.map(watched)
  // Before: what is remembered of the last rendering is of this one otherwise.
  const changed = renderYaml(yaml.replace('b.example', 'c.example'), { node }).input.slice.resources
  const before = render({ ...input, slice: { ...input.slice, resources } })
  expect(new Set(read)).toEqual(new Set(resources.map(({ path }) => path)))
  read.length = 0
  const next = resources.map((old) =>
    old.path.endsWith('/b') ? watched(changed.find(({ path }) => path === old.path) as typeof old) : old,
  )
  const after = render({ ...input, slice: { ...input.slice, resources: next } })
  expect(new Set(read)).toEqual(new Set(['default/eu.west/site/b']))
  expect(after.units.filter((unit) => !before.units.includes(unit)).map(({ hosts }) => hosts)).toEqual([['c.example']])
  expect(assemble(after.units, input).digest).not.toBe(assemble(before.units, input).digest)
})
