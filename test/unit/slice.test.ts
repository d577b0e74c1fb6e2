import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { Value } from '../../src/core/envelope.ts'
import { isSite, settingsOf, slice, type SliceNode } from '../../src/core/slice.ts'
import { stateOf, statesOf } from '../support/resources.ts'

function site(name: string, { zone = '*', workspace = 'default', selector = '' } = {}): string {
  return `
apiVersion: nxmesh/v1
kind: Site
metadata: { name: ${name}, zone: '${zone}', workspace: ${workspace} }
spec:
  hosts: [${name}.example]
  ${selector === '' ? '' : `nodeSelector: { ${selector} }`}
`
}
function settings(zone: string, spec: string, workspace = 'default'): string {
  return `
apiVersion: nxmesh/v1
kind: ZoneSettings
metadata: { name: settings, zone: '${zone}', workspace: ${workspace} }
spec: { ${spec} }
`
}
const NODE: SliceNode = { zones: ['eu.west', 'cdn'], workspaces: ['*'], labels: { disk: 'ssd' } }

function names(yaml: string, node: SliceNode = NODE): string[] {
  return slice(statesOf(yaml), node).resources.map((resource) => resource.name.name)
}

describe('which resources apply', () => {
  const zones = ['*', 'eu', 'eu.west', 'eu.west.paris', 'eu.westend', 'cdn', 'us']
    .map((zone, index) => site(`s${index}`, { zone }))
    .join('---')

  test('those of the zones, their ancestors and *', () => {
    expect(names(zones)).toEqual(['s0', 's5', 's2', 's1'])
  })
  test('those of * alone, for a node without zones', () => {
    expect(names(zones, { ...NODE, zones: [] })).toEqual(['s0'])
  })
  test('those of the workspaces of the node', () => {
    const yaml = `${site('a')}---${site('b', { workspace: 'shop' })}`
    expect(names(yaml, { ...NODE, workspaces: ['shop'] })).toEqual(['b'])
  })
  test('those whose selector the labels match wholly', () => {
    const yaml = [
      site('a', { selector: 'disk: ssd' }),
      site('b', { selector: 'disk: hdd' }),
      site('c', { selector: 'disk: ssd, gpu: "1"' }),
    ].join('---')
    expect(names(yaml)).toEqual(['a'])
  })
  test('not one that was deleted', () => {
    const states = statesOf(site('a')).map((state) => ({ ...state, exists: false }))
    expect(slice(states, NODE).resources).toEqual([])
  })
})

test('a merged state that lost a required field is a problem of that resource alone', () => {
  const broken = stateOf(
    'default/*/site/b',
    new Map<string, Value>([
      ['hosts/b.example', true],
      ['routes/x/order', 3],
    ]),
  )
  const { resources, problems } = slice([...statesOf(site('a')), broken], NODE)
  expect(resources.map(({ path }) => path)).toEqual(['default/*/site/a'])
  expect(problems).toEqual([
    {
      path: 'default/*/site/b',
      code: 'schema',
      message: 'spec.routes.x.action is required',
      hint: 'one of proxy, static, redirect, return',
    },
  ])
})

test('a kind of a newer version, settings of another name or workspace: each a problem', () => {
  const states = [
    stateOf('default/*/wormhole/a', new Map([['x', 1]])),
    stateOf('default/*/zonesettings/other', new Map()),
    ...statesOf(settings('*', 'reload: { quietMs: 1 }', 'shop')),
  ]
  const result = slice(states, NODE)
  expect(result.resources).toEqual([])
  expect(result.problems.map(({ path, code }) => [path, code])).toEqual([
    ['default/*/wormhole/a', 'unsupported'],
    ['default/*/zonesettings/other', 'schema'],
    ['shop/*/zonesettings/settings', 'unsupported'],
  ])
})

test('defaults are filled in', () => {
  const [resource] = slice(statesOf(`${site('a')}  routes: { r: { path: /, proxy: { upstream: x } } }`), NODE).resources
  expect(resource !== undefined && isSite(resource) && resource.spec.routes['r']).toMatchObject({
    match: 'prefix',
    action: 'proxy',
    proxy: { scheme: 'http', websocket: false, buffering: true, hostHeader: '$host' },
  })
})

describe('target', () => {
  const yaml = [
    site('a'),
    site('b', { zone: 'eu' }),
    site('c', { zone: 'us' }),
    site('d', { selector: 'disk: none' }),
  ].join('---')
  const target = (text: string) => slice(statesOf(text), NODE).target

  test('covers every resource of the zones, selected or broken or not, and no other', () => {
    expect(target(yaml.replace('c.example', 'x.example'))).toBe(target(yaml))
    expect(target(yaml.replace('b.example', 'x.example'))).not.toBe(target(yaml))
    expect(target(yaml.replace('d.example', 'x.example'))).not.toBe(target(yaml))
  })

  test('property: order does not matter', () => {
    const states = statesOf(yaml)
    const expected = slice(states, NODE)
    fc.assert(
      fc.property(fc.shuffledSubarray(states, { minLength: states.length }), (shuffled) => {
        expect(slice(shuffled, NODE)).toEqual(expected)
      }),
    )
  })
})

describe('zone settings', () => {
  const of = (...documents: string[]) => settingsOf(slice(statesOf(documents.join('---')), NODE))

  test('have defaults', () => {
    expect(settingsOf(slice([], NODE))).toMatchObject({
      quietMs: 300,
      maxWaitMs: 5000,
      workerShutdownTimeout: undefined,
    })
  })
  test('the nearest zone wins, field by field', () => {
    const merged = of(
      settings('eu.west', 'reload: { quietMs: 3 }'),
      settings('*', 'reload: { quietMs: 1, maxWaitMs: 1, drainMs: 1 }, workerShutdownTimeout: 1m'),
      settings('eu', 'reload: { quietMs: 2, maxWaitMs: 2 }, defaults: { maxBodySize: 2m, timeouts: { read: 9s } }'),
    )
    expect(merged).toMatchObject({
      quietMs: 3,
      maxWaitMs: 2,
      drainMs: 1,
      workerShutdownTimeout: '1m',
      maxBodySize: '2m',
      readTimeout: '9s',
    })
  })
})
