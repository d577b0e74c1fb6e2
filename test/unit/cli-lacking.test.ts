/** `meshctl plan`: which hosts could not do what resources ask, by what nodes tell of their nginx. */

import { expect, test } from 'vitest'
import type { NodeReceipt } from '../../src/api/schemas.ts'
import { lackingLines } from '../../src/cli/hosts/hosts-lacking.ts'
import { parseSources } from '../../src/cli/resources/documents.ts'
import { NEEDED_MODULES } from '../../src/nginx/rendering/needs.ts'

const YAML = `
apiVersion: nxmesh/v1
kind: Site
metadata: { name: shop, zone: eu }
spec:
  hosts: [shop.example]
  listeners: { tls: { port: 443, tls: { certificate: shop } } }
---
apiVersion: nxmesh/v1
kind: Stream
metadata: { name: dns, zone: eu }
spec: { listeners: { main: { port: 53, protocol: udp } }, upstream: resolvers }
---
apiVersion: nxmesh/v1
kind: Upstream
metadata: { name: resolvers, zone: eu }
spec: { method: random, endpoints: { 10.0.0.53:53: {} } }
`
const WANTED = parseSources([{ name: 'test.yaml', text: YAML }])

function node(name: string, version: string | null, modules: readonly string[], zone = 'eu.west'): NodeReceipt {
  const nginx = { running: true, master: 1, version, modules, workers: 1, draining: 0 }
  return { key: name.repeat(4), name, places: [{ workspace: '*', zones: [zone] }], receipt: { nginx } } as never
}

test('each host of the zone that lacks something is named, with what', () => {
  const all = node('all', '1.22.1', NEEDED_MODULES)
  const bare = node('edge-3', '1.22.1', ['http_ssl'])
  const old = node('edge-4', '1.14.2', NEEDED_MODULES)
  expect(lackingLines(WANTED, [all, bare, old])).toEqual([
    'edge-3 cannot default/eu/stream/dns: the kind Stream needs nginx with its module stream; this host has 1.22.1; install the module stream on this host',
    'edge-4 cannot default/eu/upstream/resolvers: method: random of an upstream needs nginx with version 1.15.1; this host has 1.14.2; upgrade nginx on this host',
  ])
})

test('nodes elsewhere, and those that have not told their nginx, are not judged', () => {
  const silent = { ...node('silent', null, []), receipt: null }
  expect(lackingLines(WANTED, [node('us', '1.14.2', [], 'us'), node('unknown', null, []), silent])).toEqual([])
})
