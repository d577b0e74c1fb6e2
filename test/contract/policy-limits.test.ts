import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { GuardedHost, type Ground } from '../support/guarded-host.ts'
import { waitFor } from '../support/wait.ts'

/** Within the time of a test nothing more than the burst passes: one request in a minute. */
describe('limits, on real nginx', () => {
  let host: GuardedHost

  beforeAll(async () => {
    host = await GuardedHost.start(limitsYaml)
  })
  afterAll(() => host?.stop())

  let keys = 0
  /** Statuses of so many requests by one whom nobody counted before. */
  const statuses = async (count: number, path: string, isDrained = false, headers: Record<string, string> = {}) => {
    const asked = { headers: { 'X-Api-Key': `key ${++keys}`, ...headers } }
    const found: number[] = []
    for (let index = 0; index < count; index += 1) {
      const answer = await (isDrained ? host.drained('api', path, asked) : host.get('api', path, asked))
      found.push(answer.status)
    }
    return found
  }

  test.each(EVERYTHING)('%s counts once for each request, drained or not', async (_, path, status, headers) => {
    const expected = [status, status, status, 429, 429]
    expect(await statuses(5, path, false, headers)).toEqual(expected)
    expect(await statuses(5, path, true, headers)).toEqual(expected)
  })

  test('who sends no header counts by the address', async () => {
    const found: number[] = []
    for (let index = 0; index < 4; index += 1)
      found.push((await host.get('api', '/fixed', { client: '127.0.0.9' })).status)
    expect(found).toEqual([200, 200, 200, 429])
    expect(await host.get('api', '/fixed', { client: '127.0.0.10' })).toMatchObject({ status: 200 })
  })

  test('a very long key counts by the address, so that nobody fills the zone with them', async () => {
    const found: number[] = []
    for (const letter of ['a', 'b', 'c', 'd']) {
      const headers = { 'X-Api-Key': letter.repeat(1025) }
      found.push((await host.get('api', '/fixed', { client: '127.0.0.11', headers })).status)
    }
    expect(found).toEqual([200, 200, 200, 429])
  })

  test('a whole site, and a client by cookie, are limited by the same policy; the access log names it', async () => {
    const ask = (cookie: string) => host.get('shared', '/', { headers: { Cookie: `id=${cookie}` } })
    const found: number[] = []
    for (const cookie of ['a', 'a', 'a', 'b', 'c', 'd']) found.push((await ask(cookie)).status)
    // Two of one cookie, four of the site; what one limit refuses is not counted by the other.
    expect(found).toEqual([200, 200, 420, 200, 200, 420])
    await host.get('shared', '/?who')
    expect(await host.logged('/?who')).toMatchObject({
      status: '420',
      refused_by: 'default/*/policy/shared',
      would_refuse: '',
    })
  })

  test('a dry run refuses nothing, and says in the access log what it would have refused', async () => {
    const found = []
    for (const uri of ['/?1', '/?2']) found.push((await host.get('dry', uri)).status)
    expect(found).toEqual([200, 200])
    expect(await host.logged('/?1')).toMatchObject({ refused_by: '', would_refuse: '' })
    expect(await host.logged('/?2')).toMatchObject({ refused_by: '', would_refuse: 'default/*/policy/dry' })
  })

  test('what comes too fast waits where it is told to', async () => {
    const began = performance.now()
    const answers = await Promise.all([1, 2, 3].map(() => host.get('slow', '/')))
    expect(answers.map(({ status }) => status)).toEqual([200, 200, 200])
    // Ten in a second, one at once: the third had to wait for two tenths.
    expect(performance.now() - began).toBeGreaterThan(150)
  })

  test('connections at the same time are limited, and one that is over makes room', async () => {
    const first = host.get('busy', '/held?first')
    await waitFor(() => host.held.length === 1, { what: 'the first request to reach the backend' })
    expect(await host.get('busy', '/held?second')).toMatchObject({ status: 429 })
    expect(await host.logged('/held?second')).toMatchObject({ refused_by: 'default/*/policy/one' })
    expect(await host.get('busy', '/fixed')).toMatchObject({ status: 429 })
    expect(await host.drained('busy', '/fixed')).toMatchObject({ status: 429 })
    expect(await host.get('busy', '/free?dry')).toMatchObject({ status: 200 })
    expect(await host.logged('/free?dry')).toMatchObject({ refused_by: '', would_refuse: '' })
    host.held[0]?.end('at last')
    expect(await first).toMatchObject({ status: 200, body: 'at last' })
    await waitFor(async () => (await host.get('busy', '/fixed')).status === 200, { what: 'room for another' })
  })
})

/** What a site can answer with: what it is, a path, its status, headers. */
const EVERYTHING: [what: string, path: string, status: number, headers: Record<string, string>][] = [
  ['a proxy', '/proxy/', 200, {}],
  ['a fixed answer', '/fixed', 200, {}],
  ['a redirect', '/moved', 302, {}],
  ['an index file', '/files/', 200, {}],
  ['an application in the browser', '/app/any/where', 200, {}],
  ['a proxy with conditions', '/when/', 200, { 'X-Beta': '1' }],
  ['a fixed answer with conditions', '/when/', 200, { 'X-Beta': '2' }],
  ['what is left of routes with conditions', '/when/', 404, {}],
  ['a path without a route', '/nothing', 404, {}],
]

const limitsYaml = ({ backend, root }: Ground) => `
apiVersion: nxmesh/v1
kind: Upstream
metadata: { name: app }
spec: { endpoints: { '127.0.0.1:${backend}': {} } }
---
apiVersion: nxmesh/v1
kind: Policy
metadata: { name: keys }
spec: { rateLimit: { limits: { key: { by: header, header: X-Api-Key, rate: 1r/m, burst: 2, zoneSize: 64k } } } }
---
apiVersion: nxmesh/v1
kind: Policy
metadata: { name: shared }
spec:
  rateLimit:
    status: 420
    limits:
      all: { by: site, rate: 1r/m, burst: 3 }
      each: { by: cookie, cookie: id, rate: 1r/m, burst: 1 }
---
apiVersion: nxmesh/v1
kind: Policy
metadata: { name: dry }
spec: { rateLimit: { dryRun: true, limits: { all: { rate: 1r/m } } } }
---
apiVersion: nxmesh/v1
kind: Policy
metadata: { name: slow }
spec: { rateLimit: { limits: { all: { rate: 10r/s, burst: 5, delayAfter: 0 } } } }
---
apiVersion: nxmesh/v1
kind: Policy
metadata: { name: one }
spec: { connectionLimit: { limits: { all: { by: site, max: 1 } } } }
---
apiVersion: nxmesh/v1
kind: Policy
metadata: { name: one-dry }
spec: { connectionLimit: { dryRun: true, limits: { all: { max: 1 } } } }
---
apiVersion: nxmesh/v1
kind: Site
metadata: { name: api }
spec:
  hosts: [api.example]
  policies: [keys]
  routes:
    proxy: { path: /proxy/, proxy: { upstream: app } }
    fixed: { path: /fixed, return: { status: 200, body: fixed } }
    moved: { path: /moved, redirect: { to: https://away.example/ } }
    files: { path: /files/, static: { root: ${root} } }
    app: { path: /app/, static: { root: ${root}, index: files/index.html, spa: true } }
    beta: { path: /when/, when: { headers: { X-Beta: { exact: '1' } } }, proxy: { upstream: app } }
    gamma: { path: /when/, when: { headers: { X-Beta: { exact: '2' } } }, return: { status: 200, body: beta } }
---
apiVersion: nxmesh/v1
kind: Site
metadata: { name: shared }
spec: { hosts: [shared.example], policies: [shared], routes: { root: { path: /, return: { status: 200, body: here } } } }
---
apiVersion: nxmesh/v1
kind: Site
metadata: { name: dry }
spec: { hosts: [dry.example], policies: [dry], routes: { root: { path: /, return: { status: 200, body: here } } } }
---
apiVersion: nxmesh/v1
kind: Site
metadata: { name: slow }
spec: { hosts: [slow.example], policies: [slow], routes: { root: { path: /, return: { status: 200, body: here } } } }
---
apiVersion: nxmesh/v1
kind: Site
metadata: { name: busy }
spec:
  hosts: [busy.example]
  policies: [one]
  routes:
    held: { path: /held, proxy: { upstream: app } }
    fixed: { path: /fixed, return: { status: 200, body: fixed } }
    free: { path: /free, return: { status: 200, body: free }, policies: [one-dry] }
`
