/** The traffic log as a real nginx writes it, read as the daemon reads it. */

import { once } from 'node:events'
import { appendFileSync, mkdtempSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import { connect, type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { systemClock } from '../../src/adapters/clock.ts'
import { verifyEndpoint } from '../../src/nginx/applying/verify.ts'
import type { HostLayout } from '../../src/nginx/rendering/host-layout.ts'
import { followedOf, type Followed } from '../../src/upstreams/judging/followed.ts'
import { parseAnswer, type Answer } from '../../src/upstreams/judging/traffic.ts'
import { UpstreamObserver } from '../../src/upstreams/observing/observer.ts'
import { TrafficLog } from '../../src/upstreams/observing/traffic-log.ts'
import { ask, freePort, nginxDirectory, serve, testGeneration } from '../support/real-nginx.ts'
import { renderYaml } from '../support/resources.ts'
import { silentLog } from '../support/silent-log.ts'
import { waitFor } from '../support/wait.ts'

describe('on real nginx', () => {
  let host: HostLayout
  let port: number
  let backend: Server
  let good: string
  let failing: string
  let fails: Server
  let bad: string
  let nginx: Awaited<ReturnType<typeof serve>>
  let remove: () => void
  let log: TrafficLog
  let followed: readonly Followed[]
  const answers: Answer[] = []

  beforeAll(async () => {
    backend = createServer((_, response) => response.writeHead(201).end())
    await once(backend.listen(0, '127.0.0.1'), 'listening')
    fails = createServer((_, response) => response.writeHead(500).end())
    await once(fails.listen(0, '127.0.0.1'), 'listening')
    failing = `127.0.0.1:${(fails.address() as AddressInfo).port}`
    good = `127.0.0.1:${(backend.address() as AddressInfo).port}`
    bad = `127.0.0.1:${await freePort()}`
    port = await freePort()
    ;({ host, remove } = nginxDirectory(port))
    const { generation, input, units } = renderYaml(
      `
apiVersion: nxmesh/v1
kind: Site
metadata: { name: s, zone: '*' }
spec:
  hosts: [a.example]
  accessLog: false
  routes:
    proxied: { path: /proxied, proxy: { upstream: two } }
    gone: { path: /gone, proxy: { upstream: gone } }
    open: { path: /open, proxy: { upstream: open } }
    fixed: { path: /, return: { status: 404, body: "a\\tb" } }
    paged: { path: /paged/, proxy: { upstream: failing, stripPrefix: true }, errorPages: { intercept: true, pages: { 5xx: { upstream: two, path: /page } } } }
    fixedPage: { path: /fixed-page, proxy: { upstream: failing }, errorPages: { intercept: true, pages: { 5xx: { status: 200, body: sorry } } } }
    shut: { path: /shut, proxy: { upstream: open }, errorPages: { intercept: true, pages: { 5xx: { upstream: two, path: /page } } } }
    refused: { path: /refused, proxy: { upstream: failing }, policies: [closed], errorPages: { pages: { '403': { upstream: two, path: /page } } } }
    split: { path: /split, proxy: { split: { a: { upstream: failing, weight: 1 } } }, errorPages: { intercept: true, pages: { 5xx: { upstream: two, path: /page } } } }
---
apiVersion: nxmesh/v1
kind: Policy
metadata: { name: closed, zone: '*' }
spec: { access: { deny: [127.0.0.1] } }
---
apiVersion: nxmesh/v1
kind: Upstream
metadata: { name: failing, zone: '*' }
spec: { endpoints: { '${failing}': {} }, circuitBreaker: { minRequests: 3, window: 1h, openFor: 1h } }
---
apiVersion: nxmesh/v1
kind: Site
metadata: { name: logged, zone: '*' }
spec:
  hosts: [logged.example]
  accessLogFields: { tenant: 'of "$http_x_tenant" \\ $$1' }
  routes:
    proxied: { path: /proxied, proxy: { upstream: two } }
    health: { path: /health, accessLog: false, return: { status: 200 } }
    paged: { path: /paged, accessLog: false, return: { status: 410 } }
    file: { path: /file, accessLog: false, return: { status: 451 } }
    fixed: { path: /, return: { status: 404 } }
  errorPages: { pages: { '410': { body: gone }, '451': { file: /srv/nxmesh-none/451.html }, '404': { body: nothing } } }
---
apiVersion: nxmesh/v1
kind: Site
metadata: { name: sampled, zone: '*' }
spec:
  hosts: [sampled.example]
  accessLog: false
  accessLogPercent: 30
  routes:
    logged: { path: /logged, accessLog: true, return: { status: 200 } }
    fixed: { path: /, return: { status: 404 } }
---
apiVersion: nxmesh/v1
kind: Upstream
metadata: { name: two, zone: '*' }
spec: { endpoints: { '${good}': { backup: true }, '${bad}': { maxFails: 0 } } }
---
apiVersion: nxmesh/v1
kind: Upstream
metadata: { name: gone, zone: '*' }
spec: { endpoints: { '${good}': { down: true } } }
---
apiVersion: nxmesh/v1
kind: Upstream
metadata: { name: open, zone: '*' }
spec: { endpoints: { '${good}': {} } }
`,
      { host, openCircuits: new Set(['default/*/upstream/open']) },
    )
    const { words } = await testGeneration(host, generation)
    if (words !== '') throw new Error(words)
    followed = followedOf(input, units)
    log = new TrafficLog(join(host.directory, 'logs', 'traffic.log'))
    await log.start()
    nginx = await serve(host, generation)
  })
  afterAll(async () => {
    await nginx?.stop()
    backend?.close()
    fails?.close()
    remove?.()
  })

  const answerTo = async (path: string, site = 'a.example', more: Record<string, string> = {}): Promise<Answer> => {
    const { status } = await ask({ port, path, headers: { host: site, ...more } })
    const found = await waitFor(
      async () => {
        for (const text of (await log.read()).lines) {
          const answer = parseAnswer(text)
          if (answer === undefined) throw new Error(`not understood: ${text}`)
          answers.push(answer)
        }
        return answers.pop()
      },
      { timeoutMs: 10_000, what: 'a line of the log' },
    )
    expect(found.status).toBe(status)
    return found
  }

  test('a request tells of the site, the upstream and every endpoint that was asked, though the site has no access log', async () => {
    const before = Date.now()
    const answer = await answerTo('/proxied')
    expect(answer).toMatchObject({ site: 'default/*/site/s', status: 201 })
    const attempts = [
      { address: bad, failed: true },
      { address: good, failed: false },
    ]
    expect(answer.asked).toMatchObject([{ block: 'default_-_two', status: 201, isRejected: false, attempts }])
    expect(answer.startedMs).toBeGreaterThan(before - 1_000)
    expect(answer.startedMs).toBeLessThan(Date.now() + 1_000)
  })

  test('an upstream without an endpoint to ask, and one with an open circuit', async () => {
    const [gone, open] = [await answerTo('/gone'), await answerTo('/open')]
    expect(gone.asked).toMatchObject([{ block: 'default_-_gone', status: 502, isRejected: false }])
    expect(open.asked).toMatchObject([{ block: 'default_-_open', status: 503, isRejected: true, attempts: [] }])
  })

  test('what is not passed on, and what no site answers', async () => {
    expect(await answerTo('/a%09b')).toMatchObject({ site: 'default/*/site/s', status: 404, asked: [] })
    expect(await answerTo('/', 'nobody.example')).toMatchObject({ site: '', status: 404, asked: [] })
  })

  test('an upstream that makes the page for another’s error hides nothing of that, drained or not', async () => {
    const page = { block: 'default_-_two', status: 201, isRejected: false }
    const failed = { block: 'default_-_failing', status: 500, attempts: [{ address: failing, failed: true }] }
    for (const isDrained of [false, true]) {
      if (isDrained) writeFileSync(host.drainFile, '')
      expect((await answerTo('/paged/x')).asked).toMatchObject([failed, page])
      expect((await answerTo('/split')).asked).toMatchObject([failed, page])
      expect((await answerTo('/fixed-page')).asked).toMatchObject([failed])
      expect((await answerTo('/shut')).asked).toMatchObject([{ block: 'default_-_open', isRejected: true }, page])
      // It was refused before the first was asked.
      expect((await answerTo('/refused')).asked).toMatchObject([page])
    }
    rmSync(host.drainFile)
  })

  const logged = (site: string) =>
    readFileSync(join(host.directory, 'logs', 'access.log'), 'utf8')
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line) as Record<string, string>)
      .filter((line) => line['site'] === `default/*/site/${site}`)

  test('each line of the access log is a JSON object, with the site’s own fields, and without the routes that are not logged', async () => {
    for (const path of ['/health', '/paged', '/file']) await answerTo(path, 'logged.example')
    await answerTo('/proxied?"a"', 'logged.example', { 'X-Tenant': 'a"b\\c' })
    await answerTo('/none', 'logged.example')
    expect(logged('logged')).toEqual([
      expect.objectContaining({
        status: '201',
        uri: '/proxied?"a"',
        tenant: String.raw`of "a"b\c" \ $1`,
        client: '127.0.0.1',
      }),
      expect.objectContaining({ status: '404', uri: '/none', tenant: String.raw`of "" \ $1` }),
    ])
  })

  test('of the requests so many of a hundred are logged, by chance, and all are counted', async () => {
    const headers = { host: 'sampled.example' }
    await ask({ port, path: '/', headers })
    for (let count = 0; count < 200; count += 1) await ask({ port, path: '/logged', headers })
    const told: Answer[] = []
    await waitFor(
      async () => {
        told.push(...(await log.read()).lines.flatMap((text) => parseAnswer(text) ?? []))
        return told.filter(({ site }) => site === 'default/*/site/sampled').length === 201
      },
      { timeoutMs: 10_000, what: 'all requests in the log of the daemon' },
    )
    const lines = logged('sampled')
    expect(new Set(lines.map(({ uri }) => uri))).toEqual(new Set(['/logged']))
    // Less likely to fail than one in a million.
    expect(lines.length).toBeGreaterThan(25)
    expect(lines.length).toBeLessThan(100)
  })

  test('an upstream that fails opens its circuit, whoever makes the page', async () => {
    const observer = new UpstreamObserver({
      clock: systemClock,
      random: Math.random,
      log: silentLog(),
      probe: () => Promise.resolve(false),
      traffic: new TrafficLog(join(host.directory, 'logs', 'traffic.log')),
      onChange: () => undefined,
    })
    observer.follow(followed)
    await observer.start()
    try {
      for (let count = 0; count < 3; count += 1) await ask({ port, path: '/paged/', headers: { host: 'a.example' } })
      await waitFor(() => observer.observed.openCircuits.size > 0, { timeoutMs: 10_000, what: 'the circuit to open' })
      expect([...observer.observed.openCircuits]).toEqual(['default/*/upstream/failing'])
    } finally {
      await observer.stop()
    }
  })

  test('connections are counted by nginx, and the question is none of them', async () => {
    const { connections } = verifyEndpoint(host.verifySocket)
    const socket = connect(port, '127.0.0.1')
    try {
      socket.write('GET / HTTP/1.1\r\nHost: a.exa')
      const counted = { active: 1, reading: 1, writing: 0, waiting: 0 }
      await waitFor(async () => JSON.stringify(await connections()) === JSON.stringify(counted), { what: 'one client' })
    } finally {
      socket.destroy()
    }
    const none = { active: 0, reading: 0, writing: 0, waiting: 0 }
    await waitFor(async () => JSON.stringify(await connections()) === JSON.stringify(none), { what: 'no client' })
    expect(await verifyEndpoint(`${host.verifySocket}.none`).connections()).toBeUndefined()
  })
})

describe('the file', () => {
  const use = async (test: (path: string, log: TrafficLog) => Promise<void>) => {
    const directory = mkdtempSync(join(tmpdir(), 'nxmesh-traffic-'))
    const path = join(directory, 'traffic.log')
    writeFileSync(path, 'old\n')
    const log = new TrafficLog(path)
    await log.start()
    await test(path, log)
    rmSync(directory, { recursive: true })
  }
  const megabytes = (count: number) => `${'x'.repeat(1023)}\n`.repeat(1024 * count)

  test('is read from where it ended, in steps, and emptied when it has grown', async () => {
    await use(async (path, log) => {
      appendFileSync(path, `one\n${megabytes(5)}tw`)
      const first = await log.read()
      expect([first.lines[0], first.hasMore]).toEqual(['one', true])
      while ((await log.read()).hasMore);
      expect(statSync(path).size).toBe(0)
      appendFileSync(path, 'three\n')
      // What was half written when it was emptied is lost with its other half.
      expect((await log.read()).lines.at(-1)).toContain('three')
    })
  })

  test('is left behind when it grows faster than it is read', async () => {
    await use(async (path, log) => {
      appendFileSync(path, megabytes(40))
      await log.read()
      expect(log.skippedBytes).toBeGreaterThan(32 * 1024 * 1024)
      appendFileSync(path, 'now\n')
      expect((await log.read()).lines).toEqual(['now'])
    })
  })

  test('is read from its beginning when another one has taken its place', async () => {
    await use(async (path, log) => {
      renameSync(path, `${path}.1`)
      expect((await log.read()).lines).toEqual([])
      writeFileSync(path, 'new\n')
      expect((await log.read()).lines).toEqual(['new'])
    })
  })
})
