import { once } from 'node:events'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { HostLayout } from '../../src/nginx/rendering/host-layout.ts'
import { ask, freePort, nginxDirectory, serve, testGeneration, writeGeneration } from '../support/real-nginx.ts'
import { renderYaml } from '../support/resources.ts'
import { waitFor } from '../support/wait.ts'

describe('what nginx keeps of answers', () => {
  let host: HostLayout
  let port: number
  let yaml: (purge?: string) => string
  let nginx: Awaited<ReturnType<typeof serve>>
  let remove: () => void
  let backend: Server
  /** How often each path was asked for. */
  let asked: Map<string, number>
  let isDown = false

  beforeAll(async () => {
    asked = new Map()
    backend = createServer((request, response) => {
      const { url = '', headers, method } = request
      request.resume()
      asked.set(url, (asked.get(url) ?? 0) + 1)
      for (const [name, value] of new URL(url, 'http://a').searchParams) {
        if (/^[A-Z]/.test(name)) response.setHeader(name, value)
      }
      response.writeHead(isDown ? 503 : Number(/status=(\d+)/.exec(url)?.[1] ?? 200))
      response.end(`${method} ${asked.get(url)} ${headers['accept-language'] ?? ''}`)
    })
    backend.listen(0, '127.0.0.1')
    await once(backend, 'listening')
    const { port: backendPort } = backend.address() as AddressInfo
    port = await freePort()
    yaml = (purge) => siteYaml(backendPort, purge)
    ;({ host, remove } = nginxDirectory(port))
    const { generation, problems } = renderYaml(yaml(), { host })
    const { words } = await testGeneration(host, generation)
    if (problems.length > 0 || words !== '') throw new Error(problems[0]?.message ?? words)
    nginx = await serve(host, generation)
  })
  afterAll(async () => {
    await nginx?.stop()
    backend?.close()
    backend?.closeAllConnections()
    remove?.()
  })

  const get = (path: string, headers: Record<string, string> = {}, { name = 'a', method = 'GET' } = {}) =>
    ask({ port, path, method, headers: { host: `${name}.example`, connection: 'keep-alive', ...headers } })
  /** What became of two requests for the same. */
  async function twice(path: string, headers: Record<string, string> = {}, name = 'a') {
    const first = await get(path, headers, { name })
    const second = await get(path, headers, { name })
    return [first, second].map((each) => String(each.headers['x-cache-status'])).join(' ')
  }

  test('what the policy or the upstream says how long it is good', async () => {
    expect(await twice('/valid')).toBe('MISS HIT')
    expect(await twice('/none?status=404')).toBe('MISS HIT')
    expect(await twice('/fails?status=500')).toBe('MISS MISS')
    expect(await twice('/said?Cache-Control=max-age=60', {}, 'plain')).toBe('MISS HIT')
    expect(await twice('/unsaid', {}, 'plain')).toBe('MISS MISS')
    expect(await twice('/private?Cache-Control=private')).toBe('MISS MISS')
    expect(await twice('/private?Cache-Control=private', {}, 'ignoring')).toBe('MISS HIT')
  })

  test('what is somebody’s own is not kept: Authorization, Set-Cookie, what the policy names', async () => {
    expect(await twice('/secret', { Authorization: 'Basic x' })).toBe('BYPASS BYPASS')
    expect(await twice('/secret')).toBe('MISS HIT')
    expect((await get('/secret', { Authorization: 'Basic y' })).headers['x-cache-status']).toBe('BYPASS')
    expect(await twice('/cookie?Set-Cookie=a=1')).toBe('MISS MISS')
    expect(await twice('/cookie?Set-Cookie=a=1', {}, 'ignoring')).toBe('MISS HIT')
    expect((await get('/cookie?Set-Cookie=a=1', {}, { name: 'ignoring' })).headers).not.toHaveProperty('set-cookie')
    expect(await twice('/session', { Cookie: 'session=1' })).toBe('BYPASS BYPASS')
    expect(await twice('/preview?preview=1')).toBe('BYPASS BYPASS')
    expect(await twice('/fresh', { 'X-Fresh': '1' })).toBe('BYPASS BYPASS')
    expect(await twice('/authorized', { Authorization: 'Basic x' }, 'ignoring')).toBe('MISS HIT')
  })

  test('Vary, HEAD, POST, and conditional requests', async () => {
    const path = '/vary?Vary=Accept-Language'
    expect((await get(path, { 'Accept-Language': 'de' })).body).toBe('GET 1 de')
    expect((await get(path, { 'Accept-Language': 'fr' })).body).toBe('GET 2 fr')
    expect((await get(path, { 'Accept-Language': 'de' })).headers['x-cache-status']).toBe('HIT')
    expect((await get('/head', {}, { method: 'HEAD' })).headers['x-cache-status']).toBe('MISS')
    expect(await get('/head')).toMatchObject({ body: 'GET 1 ' })
    for (const count of [1, 2]) expect((await get('/post', {}, { method: 'POST' })).body).toBe(`POST ${count} `)
    // The client's condition is not the cache's.
    expect((await get('/etag?ETag="a"', { 'If-None-Match': '"a"' })).status).toBe(304)
    expect((await get('/etag?ETag="a"')).body).toBe('GET 1 ')
  })

  test('sites, upstreams and routes with conditions do not get each other’s answers', async () => {
    expect((await get('/same')).headers['x-cache-status']).toBe('MISS')
    expect((await get('/same', { 'X-Beta': '1' })).headers['x-cache-status']).toBe('MISS')
    expect((await get('/same', { 'X-Beta': '1' })).headers['x-cache-status']).toBe('HIT')
    expect((await get('/same', {}, { name: 'b' })).headers['x-cache-status']).toBe('MISS')
    expect((await get('/same', {}, { name: 'c' })).headers['x-cache-status']).toBe('MISS')
  })

  test('a site’s policy is for proxies; other routes answer as always', async () => {
    expect(await get('/fixed')).toMatchObject({ status: 200, body: 'fixed' })
    expect((await get('/fixed')).headers).not.toHaveProperty('x-cache-status')
  })

  test('an answer that is too old, while the upstream fails', async () => {
    const path = '/old?Cache-Control=max-age=1'
    expect((await get(path)).headers['x-cache-status']).toBe('MISS')
    isDown = true
    try {
      const stale = await waitFor(
        async () => {
          const answer = await get(path)
          return answer.headers['x-cache-status'] === 'STALE' ? answer : undefined
        },
        { what: 'the answer to be too old' },
      )
      expect(stale).toMatchObject({ status: 200, body: 'GET 1 ' })
      expect((await get('/other')).status).toBe(503)
    } finally {
      isDown = false
    }
  })

  test('a purge is an edit: below a path, or all of it, and no zone is made anew', async () => {
    const paths = ['/img/a', '/img/b', '/page']
    const statuses = async () =>
      (await Promise.all(paths.map((path) => get(path)))).map((each) => each.headers['x-cache-status']).join(' ')
    await statuses()
    expect(await statuses()).toBe('HIT HIT HIT')
    const zones = () =>
      [...renderYaml(yaml(), { host }).generation.objects.values()].join('').match(/proxy_cache_path .*/g)
    const before = zones()
    const become = async (purge: string) => {
      const { generation } = renderYaml(yaml(purge), { host })
      expect([...generation.objects.values()].join('').match(/proxy_cache_path .*/g)).toEqual(before)
      writeGeneration(host, generation)
      const old = nginx.workers()
      nginx.reload()
      await waitFor(
        async () => {
          // One that ends may take a connection still.
          if (nginx.workers().some((worker) => old.includes(worker))) return undefined
          const answers = await Promise.all(
            Array.from({ length: 8 }, () => ask({ socketPath: host.verifySocket, path: '/generation' })),
          )
          return answers.every(({ body }) => body.startsWith(generation.digest)) || undefined
        },
        { what: 'the new generation' },
      )
    }
    await become('{ /img/: 1 }')
    expect(await statuses()).toBe('MISS MISS HIT')
    expect(await statuses()).toBe('HIT HIT HIT')
    await become('{ /img/: 1, /img/b: 1 }')
    expect(await statuses()).toBe('HIT MISS HIT')
    await become('{ /img/: 1, /img/b: 1, /: 7 }')
    expect(await statuses()).toBe('MISS MISS MISS')
  })

  test('nothing of this is an error in nginx’s own words', () => {
    expect(
      nginx
        .errors()
        .split('\n')
        .filter((line) => /\[(?:alert|emerg|crit)\]/.test(line)),
    ).toEqual([])
  })
})

function siteYaml(port: number, purge = '{}'): string {
  const policy = (name: string, cache: string) =>
    `{ apiVersion: nxmesh/v1, kind: Policy, metadata: { name: ${name} }, spec: { cache: { statusHeader: true, ${cache} } } }`
  const site = (name: string, cached: string, routes = 'root: { path: /, proxy: { upstream: app } }') =>
    `{ apiVersion: nxmesh/v1, kind: Site, metadata: { name: ${name} }, spec: { hosts: [${name}.example], policies: [${cached}], routes: { ${routes} } } }`
  return [
    `{ apiVersion: nxmesh/v1, kind: Upstream, metadata: { name: app }, spec: { endpoints: { '127.0.0.1:${port}': {} } } }`,
    policy(
      'usual',
      `valid: { '200,304': 1h, '404': 10m }, stale: [error, '503'], lock: true, bypass: { headers: [X-Fresh], cookies: [session], query: [preview] }, purge: ${purge}`,
    ),
    policy('plain', 'inactive: 1h'),
    policy('ignoring', "valid: { '200': 1h }, ignore: [cacheControl, setCookie], authorized: true"),
    site(
      'a',
      'usual',
      'beta: { path: /, when: { headers: { X-Beta: { present: true } } }, proxy: { upstream: app } }, root: { path: /, proxy: { upstream: app } }, fixed: { path: /fixed, return: { status: 200, body: fixed } }',
    ),
    site('b', 'usual'),
    site('c', 'usual'),
    site('plain', 'plain'),
    site('ignoring', 'ignoring'),
  ].join('\n---\n')
}
