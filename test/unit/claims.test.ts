/** What sites of one node share: either form of a port, and the number of listeners. */

import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { ResourceState } from '../../src/core/document.ts'
import { isSite, olderFirst } from '../../src/core/slice.ts'
import { Claims, LISTENERS_MAX } from '../../src/nginx/rendering/claims.ts'
import type { Unit } from '../../src/nginx/rendering/unit.ts'
import { renderStates, renderYaml, sliceOf, statesOf } from '../support/resources.ts'

const ALL = '{ port: 80 }'
const ONE = '{ port: 80, address: 10.0.0.1 }'
const OTHER = '{ port: 80, address: 10.0.0.2 }'
const PROXIED = '{ port: 80, proxyProtocol: true }'

interface Parts {
  readonly listeners?: readonly string[]
  readonly workspace?: string
  readonly broken?: boolean
}

function site(name: string, { listeners = [ALL], workspace = 'default', broken = false }: Parts = {}): string {
  const map = listeners.map((listener, index) => `l${index}: ${listener}`).join()
  const route = broken ? 'proxy: { upstream: none }' : 'return: { status: 200 }'
  return `
apiVersion: nxmesh/v1
kind: Site
metadata: { name: ${name}, workspace: ${workspace} }
spec: { hosts: [${name}.example], listeners: { ${map} }, routes: { r: { path: /, ${route} } } }
`
}
const renderAll = (...yamls: string[]) => renderYaml(yamls.join('---'))
const names = (units: readonly Unit[]) => units.map(({ path }) => path.split('/').at(-1))

test('sites that were left no host do not decide how others listen', () => {
  const sites = sliceOf(
    statesOf([site('s0'), site('s1', { listeners: [ONE] }), site('s2', { listeners: [ONE] })].join('---')),
  )
    .resources.filter(isSite)
    .map((each) => (each.name.name === 's0' ? each : { ...each, spec: { ...each.spec, hosts: [] } }))
  const claims = new Claims(sites, 8080)
  const [asked, ...denied] = sites.map((each) => claims.claim(each, true))
  expect(asked).toMatchObject({ place: { hosts: ['s0.example'] }, lost: [] })
  expect(denied).toMatchObject([{ place: { hosts: [] } }, { place: { hosts: [] } }])
})

describe('a port is listened on in one form', () => {
  test.each([
    ['one wildcard, even an older one, beside several addresses', [ALL, ONE, OTHER], ['s1', 's2']],
    ['one address, even an older one, beside several wildcards', [ONE, ALL, ALL], ['s1', 's2']],
    ['as many of each: the form of the oldest', [ONE, ALL], ['s0']],
    ['as many of each: the form of the oldest, a wildcard', [ALL, ONE, ONE, ALL], ['s0', 's3']],
    ['one with PROXY headers, even an older one, beside several without', [PROXIED, ALL, ALL], ['s1', 's2']],
    ['as many with PROXY headers: the form of the oldest', [PROXIED, ALL, ALL, PROXIED], ['s0', 's3']],
    ['IPv6', ['{ port: 80, address: "::" }', '{ port: 80, address: "2001:db8::1" }'], ['s0']],
  ])('%s', (_, listeners, served) => {
    const { units, problems } = renderAll(...listeners.map((each, index) => site(`s${index}`, { listeners: [each] })))
    expect(names(units)).toEqual(served)
    expect(problems).toHaveLength(listeners.length - served.length)
    expect(new Set(problems.map(({ code }) => code))).toEqual(new Set(['clash']))
  })

  test('several addresses of one site count once', () => {
    const { units } = renderAll(
      site('a'),
      site('b'),
      site('c', { listeners: [ONE, OTHER, '{ port: 80, address: 10.0.0.3 }'] }),
    )
    expect(names(units)).toEqual(['a', 'b'])
  })

  test('who goes first is named', () => {
    const { problems } = renderAll(site('old', { listeners: [ONE] }), site('young'))
    expect(problems).toEqual([
      {
        path: 'default/*/site/young',
        code: 'clash',
        message:
          'cannot listen on *:80 beside 10.0.0.1:80 of the site default/*/site/old: more sites of its workspace, or as many and the oldest, listen on single addresses',
        hint: 'name an address, or take another port',
      },
    ])
  })

  test('a site that cannot be rendered does not count, and keeps its last good text', () => {
    const { units, problems } = renderAll(site('evil', { broken: true }), site('v', { listeners: [ONE] }))
    expect(names(units)).toEqual(['v'])
    // A clash would withdraw what it serves.
    expect(problems.map(({ path, code }) => [path, code])).toEqual([['default/*/site/evil', 'reference']])
  })

  const kinds = fc.record({ listener: fc.constantFrom(ALL, ONE, OTHER), broken: fc.boolean(), at: fc.nat(20) })
  const stateOf = (name: string, parts: { listener: string; broken: boolean; at: number }): ResourceState => {
    const [state] = statesOf(site(name, { listeners: [parts.listener], broken: parts.broken })) as [ResourceState]
    return { ...state, created: { at: parts.at, edit: '0', by: '' } }
  }

  test('property: never both; the broken take nothing from anyone; one site takes nothing from two or more', () => {
    fc.assert(
      fc.property(fc.array(kinds, { maxLength: 8 }), kinds, (base, evil) => {
        const states = base.map((parts, index) => stateOf(`s${index}`, parts))
        const before = renderStates(states).units
        const after = renderStates([...states, stateOf('evil', evil)]).units
        for (const port of new Set(after.flatMap(({ listeners }) => listeners.map((each) => each.port)))) {
          const on = after.flatMap(({ listeners }) => listeners.filter((each) => each.port === port))
          expect(new Set(on.map(({ address }) => address === '*')).size).toBe(1)
        }
        const sound = base.filter(({ broken }) => !broken)
        const isOneForm = new Set(sound.map(({ listener }) => listener === ALL)).size === 1
        if (evil.broken || (isOneForm && sound.length > 1)) {
          expect(names(after).filter((name) => name !== 'evil')).toEqual(names(before))
        }
      }),
      { numRuns: 500 },
    )
  })
})

describe('workspaces have one vote each on the form of a port', () => {
  const many = (count: number, workspace: string, listener: string) =>
    Array.from({ length: count }, (_, at) => site(`${workspace}-${at}`, { listeners: [listener], workspace }))
  const pathsOf = (units: readonly Unit[]) => units.map(({ path }) => path.split('/')[0])
  const TLS = '{ port: 80, tls: { certificate: c } }'

  test('however many sites one has, and however old, two others keep theirs', () => {
    const { units, problems } = renderAll(
      ...many(9, 'eve', ONE),
      site('a', { workspace: 'a' }),
      site('b', { workspace: 'b' }),
    )
    expect(pathsOf(units)).toEqual(['a', 'b'])
    expect(problems.map(({ path }) => path.split('/')[0])).toEqual(Array(9).fill('eve'))
    expect(problems[0]).toEqual({
      path: 'eve/*/site/eve-0',
      code: 'clash',
      message:
        "cannot listen on 10.0.0.1:80 beside *:80 of the site a/*/site/a: more workspaces, or as many and the oldest site's, listen on all addresses",
      hint: 'leave out the address, or take another port',
    })
  })

  test('between equally many, the oldest site that its workspace did not outvote decides', () => {
    // The oldest of all is alone in its workspace with the way that it listens.
    const { units, problems } = renderAll(
      site('alone', { workspace: 'a', listeners: [ONE] }),
      ...many(2, 'a', ALL),
      ...many(9, 'b', ONE),
    )
    expect(pathsOf(units)).toEqual(['a', 'a'])
    expect(problems.map(({ message }) => message.split(': ')[1])).toEqual([
      'more sites of its workspace, or as many and the oldest, listen on all addresses',
      ...Array<string>(9).fill("more workspaces, or as many and the oldest site's, listen on all addresses"),
    ])
  })

  test('a workspace of several ways votes for the one of most of its sites', () => {
    const mixed = (workspace: string) => [
      ...many(2, workspace, ALL),
      site(`${workspace}-x`, { workspace, listeners: [ONE] }),
    ]
    const { units } = renderAll(...many(5, 'eve', ONE), ...mixed('a'), ...mixed('b'))
    expect(pathsOf(units)).toEqual(['a', 'a', 'b', 'b'])
  })

  test('with TLS and without it is the same', () => {
    const wishes = [...many(3, 'eve', TLS), site('a', { workspace: 'a' }), site('b', { workspace: 'b' })]
    const sites = sliceOf(statesOf(wishes.join('---'))).resources.filter(isSite)
    const claims = new Claims(sites.toSorted(olderFirst), 8080)
    const got = sites.map((each) => [each.name.workspace, claims.claim(each, true).place.listeners.length])
    expect(got).toEqual([
      ['a', 1],
      ['b', 1],
      ['eve', 0],
      ['eve', 0],
      ['eve', 0],
    ])
  })

  const stateIn = (workspace: string, name: string, listener: string, at: number): ResourceState => {
    const [state] = statesOf(site(name, { workspace, listeners: [listener] })) as [ResourceState]
    return { ...state, created: { at, edit: '0', by: '' } }
  }
  const ages = fc.array(fc.nat(20), { minLength: 1, maxLength: 3 })
  const single = fc.constantFrom(ONE, OTHER)
  const sites = fc.array(fc.tuple(fc.constantFrom(ALL, ONE, OTHER), fc.nat(20)), { maxLength: 12 })

  test('property: one workspace takes nothing from what two more than others have, whatever sites it has', () => {
    fc.assert(
      fc.property(fc.boolean(), single, fc.tuple(ages, ages, ages), ages, sites, (isAll, one, many, few, evil) => {
        const [form, other] = isAll ? [ALL, one] : [one, ALL]
        const statesFor = (workspace: string, listener: string, some: readonly number[]) =>
          some.map((at, index) => stateIn(workspace, `${workspace}-${index}`, listener, at))
        const honest = [
          ...many.flatMap((some, at) => statesFor('abc'[at] as string, form, some)),
          ...statesFor('d', other, few),
        ]
        const before = renderStates(honest).units
        expect(new Set(pathsOf(before))).toEqual(new Set(['a', 'b', 'c']))
        const others = evil.map(([listener, at], index) => stateIn('eve', `eve-${index}`, listener, at))
        const after = renderStates([...honest, ...others]).units
        expect(after.filter(({ path }) => !path.startsWith('eve/'))).toEqual(before)
      }),
      { numRuns: 150 },
    )
  })
})

describe('the number of listeners is bounded', () => {
  const ports = (from: number, count: number) =>
    Array.from({ length: count }, (_, index) => `{ port: ${from + index} }`)
  const greedy = (count: number, workspace: string) =>
    Array.from({ length: count }, (_, index) =>
      site(`evil-${index}`, { listeners: ports(1000 + 16 * index, 16), workspace }),
    )
  const listenersOf = (units: readonly Unit[]) =>
    new Set(units.flatMap(({ listeners }) => listeners.map(({ address, port }) => `${address}:${port}`)))

  test('a workspace that wants all of them takes none from another, whoever is older', () => {
    const { units, problems } = renderAll(
      ...greedy(20, 'eve'),
      ...ports(1, 16).map((each, index) => site(`v${index}`, { listeners: [each] })),
    )
    expect(listenersOf(units).size).toBe(LISTENERS_MAX)
    expect(units.filter(({ path }) => path.startsWith('default/'))).toHaveLength(16)
    expect(new Set(problems.map(({ path, code }) => `${path.split('/')[0]} ${code}`))).toEqual(new Set(['eve clash']))
    expect(problems).toHaveLength(20 * 16 + 16 - LISTENERS_MAX)
    expect(problems[0]?.message).toMatch(/^cannot listen on \*:\d+: a node has at most 256 listeners/)
  })

  test('within a workspace those that more sites share go first', () => {
    const { units } = renderAll(...greedy(20, 'default'), site('v0'), site('v1'))
    expect(names(units)).toEqual(expect.arrayContaining(['v0', 'v1']))
    expect(listenersOf(units).size).toBe(LISTENERS_MAX)
  })

  test('sites that cannot be rendered use up none', () => {
    const broken = Array.from({ length: 20 }, (_, index) =>
      site(`evil-${index}`, { listeners: ports(1000 + 16 * index, 16), broken: true }),
    )
    const { units } = renderAll(
      ...broken,
      ...ports(1, 16).map((each, index) => site(`v${index}`, { listeners: [each] })),
    )
    expect(units).toHaveLength(16)
  })
})
