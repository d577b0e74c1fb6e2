/**
 * Whatever a site answers with, and whoever answers: while connections are drained it is the same answer, and closes its
 * connection. One that stayed open would be broken by the reload that follows.
 */

import { afterAll, beforeAll, expect, test } from 'vitest'
import { GuardedHost, type Ground } from '../support/guarded-host.ts'
import type { Sent } from '../support/served-documents.ts'

let host: GuardedHost
beforeAll(async () => {
  host = await GuardedHost.start(everythingYaml)
})
afterAll(() => host?.stop())

const PREFLIGHT = { Origin: 'https://app.example', 'Access-Control-Request-Method': 'GET' }

test.each<[what: string, site: string, path: string, status: number, sent?: Sent]>([
  ['a fixed answer', 'all', '/fixed', 200],
  ['a fixed error', 'all', '/gone', 410],
  ['a redirect', 'all', '/moved', 302],
  ['a proxy', 'all', '/proxy/a%2Fb', 200],
  ['a proxy to which a body goes', 'all', '/proxy/', 200, { method: 'POST', body: 'sent '.repeat(20_000) }],
  ['a proxy whose path is another', 'all', '/replaced/a', 200],
  ['a proxy that splits', 'all', '/split/', 200],
  ['an upstream that is not there', 'all', '/away/', 502],
  ['a page in the place of that error', 'pages', '/away/', 502],
  ['a page of an upstream in its place', 'pages', '/nothing', 404],
  ['a file', 'all', '/files/index.html', 200],
  ['an index file', 'all', '/files/', 200],
  ['a directory', 'all', '/files/sub', 301],
  ['a file that is not there', 'all', '/files/none', 404],
  ['an application in the browser', 'all', '/app/any/where', 200],
  ['a path without a route', 'all', '/nothing', 404],
  ['a route with conditions', 'all', '/when/', 200, { headers: { 'X-Beta': '1' } }],
  ['what is left of routes with conditions', 'all', '/when/', 404],
  ['a site in maintenance', 'down', '/any', 503],
  ['a host that no site claims', 'nobody', '/', 404],
  ['a client that is denied', 'guarded', '/fixed', 403, { client: '127.0.0.2' }],
  ['a client without a password', 'guarded', '/staff', 401],
  ['what browsers ask before a request', 'guarded', '/shared', 204, { method: 'OPTIONS', headers: PREFLIGHT }],
  ['a request over a limit', 'limited', '/', 429],
  ['a body that is too long', 'all', '/small', 413, { method: 'POST', body: 'sent '.repeat(1000) }],
])('%s', async (_, site, path, status, asked) => {
  // The first request of a client is within any limit.
  if (site === 'limited') await host.get(site, path, asked)
  const usual = await host.get(site, path, asked)
  expect(usual.status).toBe(status)
  const drained = await host.drained(site, path, asked)
  expect(drained).toMatchObject({ status, body: usual.body, headers: { connection: 'close' } })
  const apart = ({ date: _date, connection: _connection, etag: _etag, ...headers }: Record<string, unknown>) => headers
  expect(apart(drained.headers)).toEqual(apart(usual.headers))
  // nginx itself closes behind some errors of clients; all else is kept when nothing is drained.
  if (status !== 413) expect(usual.headers.connection).toBe('keep-alive')
})

const everythingYaml = ({ backend, root }: Ground) => `
apiVersion: nxmesh/v1
kind: Upstream
metadata: { name: app }
spec: { endpoints: { '127.0.0.1:${backend}': {} } }
---
apiVersion: nxmesh/v1
kind: Upstream
metadata: { name: away }
spec: { endpoints: { '127.0.0.1:9': { down: true }, '127.0.0.1:10': { down: true } } }
---
apiVersion: nxmesh/v1
kind: Policy
metadata: { name: office }
spec: { access: { allow: [127.0.0.1] } }
---
apiVersion: nxmesh/v1
kind: Policy
metadata: { name: staff }
spec: { basicAuth: { realm: staff, users: { ann: '$apr1$nothings$0000000000000000000000' } } }
---
apiVersion: nxmesh/v1
kind: Policy
metadata: { name: shared }
spec: { cors: { origins: ['https://app.example'] } }
---
apiVersion: nxmesh/v1
kind: Policy
metadata: { name: slow }
spec: { rateLimit: { limits: { all: { by: site, rate: 1r/m } } } }
---
apiVersion: nxmesh/v1
kind: Site
metadata: { name: all }
spec:
  hosts: [all.example]
  routes:
    fixed: { path: /fixed, return: { status: 200, body: "here\\n" } }
    gone: { path: /gone, return: { status: 410 } }
    moved: { path: /moved, redirect: { to: /fixed } }
    proxy: { path: /proxy/, proxy: { upstream: app } }
    replaced: { path: /replaced/, proxy: { upstream: app, replacePrefix: /there/ } }
    split: { path: /split/, proxy: { split: { main: { upstream: app, weight: 1 }, other: { upstream: away, weight: 0 } } } }
    away: { path: /away/, proxy: { upstream: away } }
    files: { path: /files/, static: { root: ${root} } }
    app: { path: /app/, static: { root: ${root}/files, spa: true } }
    beta: { path: /when/, when: { headers: { X-Beta: { exact: '1' } } }, proxy: { upstream: app } }
    small: { path: /small, maxBodySize: 1k, proxy: { upstream: app } }
---
apiVersion: nxmesh/v1
kind: Site
metadata: { name: pages }
spec:
  hosts: [pages.example]
  errorPages: { pages: { '502': { body: away }, '404': { upstream: app, path: /not-found } } }
  routes: { away: { path: /away/, proxy: { upstream: away } } }
---
apiVersion: nxmesh/v1
kind: Site
metadata: { name: down }
spec:
  hosts: [down.example]
  maintenance: { enabled: true }
  routes: { root: { path: /, proxy: { upstream: app } } }
---
apiVersion: nxmesh/v1
kind: Site
metadata: { name: guarded }
spec:
  hosts: [guarded.example]
  policies: [office]
  routes:
    fixed: { path: /fixed, return: { status: 200, body: here } }
    staff: { path: /staff, policies: [staff], proxy: { upstream: app } }
    shared: { path: /shared, policies: [shared], proxy: { upstream: app } }
---
apiVersion: nxmesh/v1
kind: Site
metadata: { name: limited }
spec:
  hosts: [limited.example]
  policies: [slow]
  routes: { root: { path: /, return: { status: 200, body: here } } }
`
