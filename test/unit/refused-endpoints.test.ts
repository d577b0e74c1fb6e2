/** Which endpoints a host leaves out, however they are written, and that nothing gets to them by another way. */

import { describe, expect, test } from 'vitest'
import type { RefusedNetwork } from '../../src/nginx/rendering/host-layout.ts'
import { apiNetworks } from '../../src/nginx/rendering/refused-endpoints.ts'
import { followedOf } from '../../src/upstreams/judging/followed.ts'
import { DEBIAN_12, LAYOUT, renderYaml } from '../support/resources.ts'

const LINK_LOCAL: readonly RefusedNetwork[] = [{ network: '169.254.0.0/16' }, { network: 'fe80::/10' }]
const PATH = 'default/*/upstream/u'

function rendered(
  endpoints: readonly string[],
  refusedEndpoints: readonly RefusedNetwork[],
  { more = '', addresses = {} }: { more?: string; addresses?: Record<string, readonly string[]> } = {},
) {
  const yaml = `
apiVersion: nxmesh/v1
kind: Upstream
metadata: { name: u, zone: '*' }
spec: { endpoints: { ${endpoints.map((each) => `'${each}': {}`).join(', ')} }${more} }
---
apiVersion: nxmesh/v1
kind: Stream
metadata: { name: t, zone: '*' }
spec: { listeners: { m: { port: 1 } }, upstream: u }
---
apiVersion: nxmesh/v1
kind: Site
metadata: { name: s, zone: '*' }
spec: { hosts: [a.example], routes: { r: { path: /, proxy: { upstream: u } } } }
`
  const capabilities = { ...DEBIAN_12, modules: [...DEBIAN_12.modules, 'stream'] }
  const host = { ...LAYOUT, refusedEndpoints }
  const known = new Map(Object.entries(addresses))
  const { units, problems, input } = renderYaml(yaml, { capabilities, host, addresses: known })
  return {
    units,
    problems: problems.map(({ path, message }) => `${path}: ${message}`),
    followed: followedOf(input, units),
  }
}

/** Which of the endpoints take requests of sites, connections of streams, and probes. */
function asked(...of: Parameters<typeof rendered>): readonly (readonly string[])[] {
  const { units, followed } = rendered(...of)
  const servers = (kind: string) =>
    Array.from(
      units.find((unit) => unit.kind === kind)?.text.matchAll(/server "?([^" ;]+)"?;/g) ?? [],
      ([, one]) => one,
    )
  return [servers('upstream'), servers('stream'), followed[0]?.addresses ?? []] as string[][]
}

describe('an endpoint that the host refuses', () => {
  test.each([
    '169.254.169.254:80',
    '[fe80::1]:80',
    // Linux connects by IPv4 here.
    '[::ffff:169.254.169.254]:80',
    '[::ffff:a9fe:a9fe]:80',
  ])('is left out for sites, streams and probes, and told: %s', (endpoint) => {
    const all = [endpoint, '10.0.0.1:80']
    expect(asked(all, LINK_LOCAL)).toEqual([['10.0.0.1:80'], ['10.0.0.1:80'], ['10.0.0.1:80']])
    expect(rendered(all, LINK_LOCAL).problems).toEqual([
      `${PATH}: this host asks nobody at ${endpoint}; these endpoints take no requests`,
    ])
  })

  test('is what a name comes to, whatever it came to before', () => {
    const names = { 'a.example': ['169.254.169.254'], 'b.example': ['10.0.0.1', 'fe80::1'], 'c.example': ['10.0.0.2'] }
    const endpoints = ['a.example:80', 'b.example:80', 'c.example:80']
    const both = ['10.0.0.1:80', '10.0.0.2:80']
    expect(asked(endpoints, LINK_LOCAL, { addresses: names })).toEqual([both, both, both])
    expect(rendered(endpoints, LINK_LOCAL, { addresses: names }).problems).toEqual([
      `${PATH}: this host asks nobody at a.example:80 (169.254.169.254), b.example:80 (fe80::1); these endpoints take no requests`,
    ])
  })

  test('leaves nobody who is asked where there is no other, and the unit all the same', () => {
    expect(asked(['169.254.169.254:80'], LINK_LOCAL)[2]).toEqual([])
    expect(rendered(['169.254.169.254:80'], LINK_LOCAL).units.map(({ kind }) => kind)).toContain('upstream')
  })

  test('is none on loopback, in the neighbourhood, or where nothing is refused', () => {
    const endpoints = ['127.0.0.1:80', '169.253.255.255:80', '169.255.0.0:80', '[fec0::1]:80']
    expect(rendered(endpoints, LINK_LOCAL).problems).toEqual([])
    expect(rendered(['169.254.169.254:80'], []).problems).toEqual([])
  })
})

describe('the API of the node', () => {
  test.each([
    ['127.0.0.1', '127.0.0.1:3000', true],
    ['127.0.0.1', '0.0.0.0:3000', true],
    ['127.0.0.1', '[::ffff:127.0.0.1]:3000', true],
    ['127.0.0.1', '127.0.0.1:3001', false],
    ['127.0.0.1', '10.0.0.9:3000', false],
    ['10.0.0.9', '10.0.0.9:3000', true],
    ['10.0.0.9', '127.0.0.1:3000', false],
    ['0.0.0.0', '127.1.2.3:3000', true],
    ['::', '[::1]:3000', true],
    ['::', '10.0.0.9:3000', true],
    ['0.0.0.0', '10.0.0.8:3000', false],
    ['localhost', '127.0.0.1:3000', true],
  ])('bound to %s, is no upstream at %s: %s', (bind, endpoint, isRefused) => {
    expect(rendered([endpoint], apiNetworks(bind, 3000, ['10.0.0.9'])).problems).toHaveLength(isRefused ? 1 : 0)
  })

  test('is asked by no health check that names its port, and no name leads to it', () => {
    const networks = apiNetworks('127.0.0.1', 3000, [])
    const more = ', healthCheck: { port: 3000 }'
    expect(asked(['127.0.0.1:80', '10.0.0.1:80'], networks, { more })[2]).toEqual(['10.0.0.1:80'])
    const addresses = { 'local.example': ['127.0.0.1'] }
    expect(asked(['local.example:3000', 'local.example:80'], networks, { addresses })[2]).toEqual(['127.0.0.1:80'])
  })

  test('on any free port is not known beforehand', () => {
    expect(apiNetworks('127.0.0.1', 0, [])).toEqual([])
  })
})
