import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { selectUnits } from '../../src/nginx/applying/isolate.ts'
import { assemble } from '../../src/nginx/rendering/assemble.ts'
import { GuardedHost, type Ground } from '../support/guarded-host.ts'
import { freePort, nginxDirectory, testGeneration } from '../support/real-nginx.ts'
import { renderYaml } from '../support/resources.ts'

describe('policies, on real nginx', () => {
  let host: GuardedHost

  beforeAll(async () => {
    host = await GuardedHost.start(policiesYaml)
  })
  afterAll(() => host?.stop())

  test.each(EVERYTHING)('a denied client gets nothing of %s, drained or not', async (_, path, headers, status) => {
    const { status: allowed } = await host.get('office', path, { headers })
    expect(allowed).toBe(status)
    const before = host.asked
    const asked = { headers, client: '127.0.0.2' }
    expect(await host.get('office', path, asked)).toMatchObject({ status: 403 })
    const drained = await host.drained('office', path, asked)
    expect(drained).toMatchObject({ status: 403, headers: { connection: 'close' } })
    expect(drained.body).not.toContain('a file')
    expect(host.asked).toBe(before)
  })

  test('a site in maintenance refuses those whom its policy refuses', async () => {
    expect(await host.get('down', '/')).toMatchObject({ status: 503 })
    expect(await host.get('down', '/', { client: '127.0.0.2' })).toMatchObject({ status: 403 })
  })

  test('the longest network decides, and deny where one is in both lists', async () => {
    const from = async (address: string) => (await host.get('nets', '/', { client: address })).status
    expect(await from('127.0.0.1')).toBe(200)
    expect(await from('127.0.1.1')).toBe(403)
    expect(await from('127.0.1.7')).toBe(200)
    expect(await from('127.0.2.1')).toBe(403)
    expect(await from('127.5.0.1')).toBe(403)
  })

  test('the policy of a route takes the place of that of its site, and a route can go without', async () => {
    for (const path of ['/own', '/without']) {
      expect(await host.get('office', path, { client: '127.0.0.2' })).toMatchObject({ status: 200 })
    }
    expect(await host.get('office', '/own', { client: '127.0.0.3' })).toMatchObject({ status: 403 })
    expect(await host.get('office', '/without', { client: '127.0.0.3' })).toMatchObject({ status: 200 })
  })

  test('the access log says which policy refused, and nothing where none did', async () => {
    await host.get('office', '/fixed?refused', { client: '127.0.0.2' })
    expect(await host.logged('/fixed?refused')).toMatchObject({ status: '403', refused_by: 'default/*/policy/office' })
    await host.get('office', '/fixed?served')
    expect(await host.logged('/fixed?served')).toMatchObject({ status: '200', refused_by: '', would_refuse: '' })
  })
})

test('nginx takes two versions of a policy beside each other', async () => {
  const { host, remove } = nginxDirectory(await freePort())
  const versionOf = (rate: string) => renderYaml(twoSites(rate), { host })
  const [before, after] = [versionOf('9r/s'), versionOf('8r/s')]
  const lastGood = new Map(before.units.map((unit) => [unit.path, unit]))
  const refused = after.units.find(({ path }) => path === 'default/*/site/a')?.digest
  const refusal = (digest: string) => (digest === refused ? ({ why: 'refused', reason: 'no' } as const) : undefined)
  const { units } = selectUnits({ units: after.units, problems: [], lastGood, refusal })
  expect(units.filter(({ kind }) => kind === 'policy')).toHaveLength(2)
  expect(await testGeneration(host, assemble(units, after.input))).toEqual({ ok: true, words: '' })
  remove()
})

const twoSites = (rate: string) => `
apiVersion: nxmesh/v1
kind: Policy
metadata: { name: each }
spec: { rateLimit: { limits: { each: { rate: ${rate} } } } }
---
apiVersion: nxmesh/v1
kind: Site
metadata: { name: a }
spec: { hosts: [a.example], policies: [each] }
---
apiVersion: nxmesh/v1
kind: Site
metadata: { name: b }
spec: { hosts: [b.example], policies: [each] }
`

/** What a site can answer with: what it is, a path, headers, the status for who is allowed. */
const EVERYTHING: [what: string, path: string, headers: Record<string, string>, status: number][] = [
  ['a proxy', '/proxy/', {}, 200],
  ['a split', '/split/', {}, 200],
  ['a fixed answer', '/fixed', {}, 200],
  ['a redirect', '/moved', {}, 302],
  ['a file', '/files/index.html', {}, 200],
  ['an index file', '/files/', {}, 200],
  ['the redirect to a directory', '/files/sub', {}, 301],
  ['an application in the browser', '/app/any/where', {}, 200],
  ['a proxy with conditions', '/when/', { 'X-Beta': '1' }, 200],
  ['a fixed answer with conditions', '/when/', { 'X-Beta': '2' }, 200],
  ['what is left of routes with conditions', '/when/', {}, 404],
  ['a path without a route', '/nothing', {}, 404],
]

const policiesYaml = ({ backend, root }: Ground) => `
apiVersion: nxmesh/v1
kind: Upstream
metadata: { name: app }
spec: { endpoints: { '127.0.0.1:${backend}': {} } }
---
apiVersion: nxmesh/v1
kind: Policy
metadata: { name: office }
spec: { access: { allow: [127.0.0.1] } }
---
apiVersion: nxmesh/v1
kind: Policy
metadata: { name: wider }
spec: { access: { deny: [127.0.0.3] } }
---
apiVersion: nxmesh/v1
kind: Policy
metadata: { name: nets }
spec:
  access:
    allow: [127.0.0.0/8, 127.0.1.7, 127.0.2.0/24]
    deny: [127.0.1.0/24, 127.0.2.0/24, 127.5.0.0/16]
    default: deny
---
apiVersion: nxmesh/v1
kind: Site
metadata: { name: nets }
spec:
  hosts: [nets.example]
  policies: [nets]
  routes: { root: { path: /, return: { status: 200, body: here } } }
---
apiVersion: nxmesh/v1
kind: Site
metadata: { name: down }
spec:
  hosts: [down.example]
  policies: [office]
  maintenance: { enabled: true }
---
apiVersion: nxmesh/v1
kind: Site
metadata: { name: office }
spec:
  hosts: [office.example]
  policies: [office]
  routes:
    proxy: { path: /proxy/, proxy: { upstream: app } }
    split:
      path: /split/
      proxy: { split: { a: { upstream: app, weight: 1 }, b: { upstream: app, weight: 1 } } }
    fixed: { path: /fixed, return: { status: 200, body: fixed } }
    moved: { path: /moved, redirect: { to: https://away.example/ } }
    files: { path: /files/, static: { root: ${root} } }
    app: { path: /app/, static: { root: ${root}, index: files/index.html, spa: true } }
    beta: { path: /when/, when: { headers: { X-Beta: { exact: '1' } } }, proxy: { upstream: app } }
    gamma: { path: /when/, when: { headers: { X-Beta: { exact: '2' } } }, return: { status: 200, body: beta } }
    own: { path: /own, return: { status: 200, body: own }, policies: [wider] }
    without: { path: /without, return: { status: 200, body: without }, withoutPolicies: [office] }
`
