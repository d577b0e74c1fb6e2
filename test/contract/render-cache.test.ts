import { readdirSync, rmSync } from 'node:fs'
import { createServer, type Server, type ServerResponse } from 'node:http'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { ask, writeGeneration } from '../support/real-nginx.ts'
import { renderYaml } from '../support/resources.ts'
import { close, listening, ServedDocuments } from '../support/served-documents.ts'
import { waitFor } from '../support/wait.ts'

describe('what nginx keeps of answers', () => {
  let yaml: (purge?: string) => string
  let served: ServedDocuments
  let backend: Server
  /** Answers that the test gives. */
  const held: ServerResponse[] = []
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
      if (url.startsWith('/held')) return void held.push(response)
      if (headers['if-modified-since'] !== undefined) return response.writeHead(304).end()
      response.writeHead(isDown ? 503 : Number(/status=(\d+)/.exec(url)?.[1] ?? 200))
      response.end(`${method} ${asked.get(url)} ${headers['accept-language'] ?? ''}`)
    })
    const port = await listening(backend)
    yaml = (purge) => siteYaml(port, purge)
    served = await ServedDocuments.start(() => yaml())
  })
  afterAll(async () => {
    await served?.stop()
    close([backend])
  })

  const get = (path: string, headers: Record<string, string> = {}, { name = 'a', method = 'GET' } = {}) =>
    served.get(path, { site: name, method, headers })
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

  test('what the upstream says of where to go on counts for nothing, also beside what the policy ignores', async () => {
    for (const name of ['a', 'ignoring'])
      expect(await get(`/jump-${name}?X-Accel-Redirect=/fixed`, {}, { name })).toMatchObject({
        status: 200,
        body: 'GET 1 ',
      })
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

  test('sites, upstreams and routes with conditions do not get each other’s answers, nor do requests with another key', async () => {
    expect((await get('/same')).headers['x-cache-status']).toBe('MISS')
    expect((await get('/same', { 'X-Beta': '1' })).headers['x-cache-status']).toBe('MISS')
    expect((await get('/same', { 'X-Beta': '1' })).headers['x-cache-status']).toBe('HIT')
    expect((await get('/same', {}, { name: 'b' })).headers['x-cache-status']).toBe('MISS')
    expect((await get('/same', {}, { name: 'c' })).headers['x-cache-status']).toBe('MISS')
    expect(await twice('/same', { 'Accept-Language': 'de' }, 'keyed')).toBe('MISS HIT')
    expect(await twice('/same', { 'Accept-Language': 'fr' }, 'keyed')).toBe('MISS HIT')
  })

  test('what is asked for often enough is kept', async () => {
    expect(await twice('/often', {}, 'often')).toBe('MISS MISS')
    expect(await twice('/often', {}, 'often')).toBe('HIT HIT')
  })

  test('one request fetches what is missing; who has waited too long goes too', async () => {
    const twoAt = async (path: string, name: string) => {
      const first = get(path, {}, { name })
      await waitFor(() => asked.get(path) === 1, { what: 'the first request' })
      return [first, get(path, {}, { name })]
    }
    const patient = await twoAt('/held/patient', 'patient')
    const hasty = await twoAt('/held/hasty', 'a')
    await waitFor(() => asked.get('/held/hasty') === 2, { what: 'the second request to have waited long enough' })
    expect(asked.get('/held/patient')).toBe(1)
    for (const response of held.splice(0)) response.end('at last')
    for (const answer of [...patient, ...hasty]) expect(await answer).toMatchObject({ status: 200, body: 'at last' })
    expect(asked.get('/held/patient')).toBe(1)
  })

  test('an answer that is too old is given while the upstream is asked whether it still holds', async () => {
    const path = '/kept?Cache-Control=max-age=1&Last-Modified=Thu,%2001%20Jan%202026%2000:00:00%20GMT'
    expect((await get(path)).headers['x-cache-status']).toBe('MISS')
    const became = (status: string) =>
      waitFor(async () => (await get(path)).headers['x-cache-status'] === status, { what: status })
    await became('STALE')
    // The upstream says that nothing has changed: the answer is the first one.
    await waitFor(() => (asked.get(path) ?? 0) > 1, { what: 'the upstream to be asked' })
    await became('HIT')
    expect(await get(path)).toMatchObject({ body: 'GET 1 ' })
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
      [...renderYaml(yaml(), { host: served.layout }).generation.objects.values()]
        .join('')
        .match(/proxy_cache_path .*/g)
    const before = zones()
    const become = async (purge: string) => {
      const { generation } = renderYaml(yaml(purge), { host: served.layout })
      expect([...generation.objects.values()].join('').match(/proxy_cache_path .*/g)).toEqual(before)
      writeGeneration(served.layout, generation)
      const old = served.nginx.workers()
      served.nginx.reload()
      await waitFor(
        async () => {
          // One that ends may take a connection still.
          if (served.nginx.workers().some((worker) => old.includes(worker))) return undefined
          const answers = await Promise.all(
            Array.from({ length: 8 }, () => ask({ socketPath: served.layout.verifySocket, path: '/generation' })),
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
    expect(served.complaints()).toEqual([])
  })

  // After the one above: nginx has words for the file that it was writing.
  test('a cache that is emptied under nginx, as when another takes its place, costs no answer', async () => {
    expect(await twice('/emptied')).toBe('MISS HIT')
    const path = '/held/emptied'
    const answer = get(path)
    const response = await waitFor(() => held.pop(), { what: 'the request' })
    response.write('half ')
    const temp = join(served.layout.directory, 'temp')
    const caches = readdirSync(temp).filter((name) => name.startsWith('cache_'))
    const isBegun = (cache: string) =>
      readdirSync(join(temp, cache), { recursive: true }).some((name) => /\.\d{10}$/.test(String(name)))
    await waitFor(() => caches.some(isBegun), { what: 'a file that is being written' })
    for (const cache of caches)
      for (const name of readdirSync(join(temp, cache))) rmSync(join(temp, cache, name), { recursive: true })
    response.end('an answer')
    expect(await answer).toMatchObject({ status: 200, body: 'half an answer' })
    expect(await twice('/emptied')).toBe('MISS HIT')
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
      `valid: { '200,304': 1h, '404': 10m }, stale: [error, '503', updating], backgroundUpdate: true, revalidate: true, lock: true, lockTimeout: 1s, bypass: { headers: [X-Fresh], cookies: [session], query: [preview] }, purge: ${purge}`,
    ),
    policy('plain', 'inactive: 1h'),
    policy('keyed', "valid: { any: 1h }, key: '$request_uri $http_accept_language'"),
    policy('often', 'valid: { any: 1h }, minUses: 2'),
    policy('patient', 'valid: { any: 1h }, lock: true, lockTimeout: 1m'),
    policy('ignoring', "valid: { '200': 1h }, ignore: [cacheControl, setCookie], authorized: true"),
    site(
      'a',
      'usual',
      'beta: { path: /, when: { headers: { X-Beta: { present: true } } }, proxy: { upstream: app } }, root: { path: /, proxy: { upstream: app } }, fixed: { path: /fixed, return: { status: 200, body: fixed } }',
    ),
    site('b', 'usual'),
    site('c', 'usual'),
    ...['plain', 'keyed', 'often', 'patient'].map((name) => site(name, name)),
    site('ignoring', 'ignoring'),
  ].join('\n---\n')
}
