import { once } from 'node:events'
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { HostLayout } from '../../src/nginx/rendering/host-layout.ts'
import { ask, freePort, nginxDirectory, serve, testGeneration } from '../support/real-nginx.ts'
import { renderYaml } from '../support/resources.ts'
import { waitFor } from '../support/wait.ts'

describe('policies, on real nginx', () => {
  let host: HostLayout
  let port: number
  let backend: Server
  let asked = 0
  let nginx: Awaited<ReturnType<typeof serve>>
  let remove: () => void

  beforeAll(async () => {
    backend = createServer((_, response) => {
      asked += 1
      response.end('from the backend')
    }).listen(0, '127.0.0.1')
    await once(backend, 'listening')
    port = await freePort()
    ;({ host, remove } = nginxDirectory(port))
    mkdirSync(join(host.directory, 'www', 'files', 'sub'), { recursive: true })
    for (const name of ['index.html', 'sub/index.html'])
      writeFileSync(join(host.directory, 'www', 'files', name), 'a file')
    const { generation, problems } = renderYaml(
      policiesYaml((backend.address() as AddressInfo).port, join(host.directory, 'www')),
      { host },
    )
    const { words } = await testGeneration(host, generation)
    if (problems.length > 0 || words !== '') throw new Error(problems[0]?.message ?? words)
    nginx = await serve(host, generation)
  })
  afterAll(async () => {
    await nginx?.stop()
    backend.close()
    backend.closeAllConnections()
    remove?.()
  })

  const get = (site: string, path: string, headers: Record<string, string> = {}, localAddress = '127.0.0.1') =>
    ask({ port, path, localAddress, headers: { host: `${site}.example`, connection: 'keep-alive', ...headers } })

  /** The last line of the access log about this path, once it is there. */
  const logged = (uri: string) =>
    waitFor(
      () =>
        readFileSync(join(host.directory, 'logs', 'access.log'), 'utf8')
          .trimEnd()
          .split('\n')
          .map((line) => JSON.parse(line) as Record<string, string>)
          .findLast((line) => line['uri'] === uri),
      { what: `a line about ${uri} in the access log` },
    )

  test.each(EVERYTHING)('a denied client gets nothing of %s, drained or not', async (_, path, headers, status) => {
    const { status: allowed } = await get('office', path, headers)
    expect(allowed).toBe(status)
    const before = asked
    const denied = () => get('office', path, headers, '127.0.0.2')
    expect(await denied()).toMatchObject({ status: 403 })
    writeFileSync(host.drainFile, '')
    const drained = await denied()
    rmSync(host.drainFile)
    expect(drained).toMatchObject({ status: 403, headers: { connection: 'close' } })
    expect(drained.body).not.toContain('a file')
    expect(asked).toBe(before)
  })

  test('a site in maintenance refuses those whom its policy refuses', async () => {
    expect(await get('down', '/')).toMatchObject({ status: 503 })
    expect(await get('down', '/', {}, '127.0.0.2')).toMatchObject({ status: 403 })
  })

  test('the longest network decides, and deny where one is in both lists', async () => {
    const from = async (address: string) => (await get('nets', '/', {}, address)).status
    expect(await from('127.0.0.1')).toBe(200)
    expect(await from('127.0.1.1')).toBe(403)
    expect(await from('127.0.1.7')).toBe(200)
    expect(await from('127.0.2.1')).toBe(403)
    expect(await from('127.5.0.1')).toBe(403)
  })

  test('the policy of a route takes the place of that of its site, and a route can go without', async () => {
    for (const path of ['/own', '/without']) {
      expect(await get('office', path, {}, '127.0.0.2')).toMatchObject({ status: 200 })
    }
    expect(await get('office', '/own', {}, '127.0.0.3')).toMatchObject({ status: 403 })
    expect(await get('office', '/without', {}, '127.0.0.3')).toMatchObject({ status: 200 })
  })

  test('the access log says which policy refused, and nothing where none did', async () => {
    await get('office', '/fixed?refused', {}, '127.0.0.2')
    expect(await logged('/fixed?refused')).toMatchObject({ status: '403', refused_by: 'default/*/policy/office' })
    await get('office', '/fixed?served')
    expect(await logged('/fixed?served')).toMatchObject({ status: '200', refused_by: '', would_refuse: '' })
  })
})

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

const policiesYaml = (backend: number, root: string) => `
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
