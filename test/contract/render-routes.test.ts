import { mkdirSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { freePort, nginxDirectory, testGeneration } from '../support/real-nginx.ts'
import { renderYaml } from '../support/resources.ts'
import { close, listening, ServedDocuments, type Sent } from '../support/served-documents.ts'

describe('routes with conditions, on real nginx', () => {
  let served: ServedDocuments
  let backend: Server

  beforeAll(async () => {
    backend = createServer((request, response) => {
      const chunks: Buffer[] = []
      request.on('data', (chunk: Buffer) => chunks.push(chunk))
      request.on('end', () => {
        if (request.url === '/raw') return response.end(JSON.stringify(request.headersDistinct))
        return response.end(`${request.method} ${request.url} ${Buffer.concat(chunks).toString()}`)
      })
    })
    const port = await listening(backend)
    served = await ServedDocuments.start(({ directory }) => {
      for (const which of ['beta', 'all']) {
        mkdirSync(join(directory, which, 'docs'), { recursive: true })
        writeFileSync(join(directory, which, 'docs/index.html'), which)
      }
      return siteYaml(directory, port)
    })
  })
  afterAll(async () => {
    await served?.stop()
    close([backend])
  })

  const get = (path: string, sent: Sent = {}) => served.get(path, sent)
  const text = async (path: string, sent: Sent = {}) => (await get(path, sent)).body

  test('a header: exact with its case, an expression, presence and absence', async () => {
    expect(await text('/h', { headers: { 'X-Plan': 'Gold (1+1)' } })).toBe('exact')
    expect(await text('/h', { headers: { 'X-Plan': 'gold (1+1)' } })).toBe('none')
    expect(await text('/h', { headers: { 'X-Plan': 'Gold (1+1) x' } })).toBe('none')
    expect(await text('/h', { headers: { 'X-Plan': 'a silver-2 plan' } })).toBe('regex')
    expect(await text('/h', { headers: { 'X-Debug': 'x' } })).toBe('present')
    expect(await text('/h', { headers: { 'X-Debug': '' } })).toBe('none')
    expect(await text('/h')).toBe('none')
    expect(await text('/absent')).toBe('absent')
    expect((await get('/absent', { headers: { 'X-Debug': '1' } })).status).toBe(404)
  })

  test('an expression that matches nothing does not match what is not there', async () => {
    expect(await text('/empty')).toBe('fallback')
    expect(await text('/empty', { headers: { 'X-Any': 'z' } })).toBe('any')
  })

  test('a cookie, a query, a method', async () => {
    expect(await text('/c', { headers: { Cookie: 'x=1; group=beta; y=2' } })).toBe('cookie')
    expect(await text('/c', { headers: { Cookie: 'group=beta2' } })).toBe('other')
    expect(await text('/c?v=2')).toBe('query')
    expect(await text('/c?v=22')).toBe('other')
    expect(await text('/c', { method: 'PUT' })).toBe('method')
    expect(await text('/c', { method: 'DELETE' })).toBe('method')
  })

  test('most conditions go first, all of them required; then order; then the ID', async () => {
    const [one, two, three] = [{ 'X-One': '1' }, { 'X-Two': '1' }, { 'X-Three': '1' }]
    expect(await text('/many', { headers: { ...one, ...two } })).toBe('both')
    expect(await text('/many', { headers: one })).toBe('one')
    expect(await text('/many', { headers: two })).toBe('two')
    expect(await text('/many', { headers: { ...two, ...three } })).toBe('three')
    expect(await text('/many', { headers: { ...one, ...three } })).toBe('one')
    expect(await text('/many')).toBe('fallback')
  })

  test('the path chooses before conditions: exact, then regex, then prefix', async () => {
    expect(await text('/path/exact', { headers: { 'X-One': '1' } })).toBe('exact')
    // Where the conditions of a path do not hold, no other path is asked.
    expect((await get('/path/exact')).status).toBe(404)
    expect(await text('/path/7', { headers: { 'X-One': '1' } })).toBe('regex one')
    expect(await text('/path/7')).toBe('regex')
    expect(await text('/path/x', { headers: { 'X-One': '1' } })).toBe('prefix')
  })

  test('what an expression cannot judge is refused, drained or not, and gets to no other route', async () => {
    const padded = { 'X-Pad': `d${'abc'.repeat(900)}` }
    const ask = async (path: string, headers = {}) => {
      const { status, body, headers: answered } = await get(path, { headers })
      return [status, status === 200 ? body : answered.connection]
    }
    expect(await ask('/pad', { 'X-Pad': 'abcd' })).toEqual([200, 'guarded'])
    expect(await ask('/pad', { 'X-Pad': 'x'.repeat(5000) })).toEqual([200, 'open'])
    expect(await ask('/pad')).toEqual([200, 'open'])
    expect(await ask('/pad', padded)).toEqual([400, 'close'])
    await served.whileDrained(async () => expect(await ask('/pad', padded)).toEqual([400, 'close']))
  })

  test.each([
    ['the path of a route', '/busy/'],
    ['the path of a route, whatever the case', '/BUSY/'],
    ['a rewrite', '/rewritten/'],
    ['a redirect', '/redirected/'],
  ])('%s that takes too many steps is an error, not another answer', async (_, path) => {
    expect((await get(`${path}d${'abc'.repeat(900)}`)).status).toBe(500)
    expect((await get(`${path}abcd`)).status).toBeLessThan(400)
  })

  test('sites of one node do not share what they call their conditions', async () => {
    expect(await text('/', { site: 'b', headers: { 'X-Other': '1' } })).toBe('other')
    expect(await text('/', { site: 'b', headers: { 'X-Plan': 'Gold (1+1)' } })).toBe('plain')
  })

  test('of repeated headers upstreams get what was looked at: by conditions, rules, limits and splits', async () => {
    const names = ['x-beta', 'x-evil', 'x-api-key', 'x-user', 'x-target', 'user-agent']
    const seen = async (values: string[]) => {
      const headers = Object.fromEntries(names.map((name) => [name, values]))
      const answer = await get('/raw', { site: 'c', headers })
      if (answer.status !== 200) return answer.status
      const found = JSON.parse(answer.body) as Record<string, string[]>
      return names.map((name) => found[name])
    }
    // From 1.23 on nginx looks at all of them as one.
    const one = [expect.stringMatching(/^first(?:, evil)?$/) as string]
    expect([names.map(() => one), 403]).toContainEqual(await seen(['first', 'evil']))
    expect(await seen(['evil', 'first'])).toBe(403)
    expect(await seen(['first'])).toEqual(names.map(() => ['first']))
    const others = { 'x-other': ['a', 'b'], 'x-beta': '1' }
    expect(JSON.parse(await text('/raw', { site: 'c', headers: others }))).toMatchObject({
      'x-other': ['a', 'b'],
      'x-beta': ['1'],
    })
  })

  const cases = async () => {
    const long = 'kept '.repeat(50_000)
    const beta = { 'X-Beta': '1' }
    return Promise.all([
      get('/echo/a%2Fb?c=%20d', { headers: beta }),
      get('/echo/a%2Fb?c=%20d'),
      get('/echo/a%2Fb', { method: 'POST', headers: beta, body: long }),
      get('/echo/a%2Fb', { method: 'POST', body: long }),
      get('/strip/a/b?c=d', { headers: beta }),
      get('/docs/', { headers: beta }),
      get('/docs/'),
      get('/docs', { headers: beta }),
      get('/small/', { method: 'POST', headers: beta, body: 'x'.repeat(2000) }),
      get('/small/', { method: 'POST', body: 'x' }),
      get('/teapot', { headers: beta }),
      get('/teapot'),
      get('/absent', { headers: { 'X-Debug': '1' } }),
    ])
  }

  test('escapes in paths, bodies, index files and limits are as without conditions, drained or not', async () => {
    const before = await cases()
    const long = 'kept '.repeat(50_000)
    expect(before.map(({ status, body, headers }) => [status, headers.location ?? body])).toEqual([
      [200, 'GET /echo/a%2Fb?c=%20d '],
      [200, 'plain'],
      [200, `POST /echo/a%2Fb ${long}`],
      [200, 'plain'],
      [200, 'GET /a/b?c=d '],
      [200, 'beta'],
      [200, 'all'],
      [301, '/docs/'],
      [413, expect.stringContaining('413') as string],
      [200, 'small'],
      [418, 'short'],
      [419, 'stout'],
      [404, expect.stringContaining('404') as string],
    ])
    const during = await served.whileDrained(cases)
    expect(during.map(({ status, body, headers }) => [status, body, headers.location])).toEqual(
      before.map(({ status, body, headers }) => [status, body, headers.location]),
    )
    expect(during.map(({ headers }) => headers.connection)).toEqual(during.map(() => 'close'))
    expect((await get('/echo/x', { headers: { 'X-Beta': '1' } })).headers.connection).toBe('keep-alive')
  })

  test('nothing of this is an error in nginx’s own words', () => {
    // The limit of steps is an alert.
    const complaints = served.complaints(/uninitialized/)
    expect(complaints.filter((line) => !/ failed: (?:-8|-47) on /.test(line))).toEqual([])
  })
})

test('nginx takes as many conditions as a node may have, without a warning', async () => {
  const { host, remove } = nginxDirectory(await freePort())
  try {
    const route = (index: number) =>
      `r${index}: { path: /${index}, when: { query: { a: { exact: x${index} } } }, return: { status: 200 } }`
    const site = (name: string) =>
      `{ apiVersion: nxmesh/v1, kind: Site, metadata: { name: ${name} }, spec: { hosts: [${name}.example], routes: { ${Array.from({ length: 256 }, (_, index) => route(index)).join(', ')} } } }`
    const { generation, problems } = renderYaml(['a', 'b', 'c', 'd'].map(site).join('\n---\n'), { host })
    expect(problems).toEqual([])
    expect(generation.objects.size).toBe(4)
    expect(await testGeneration(host, generation)).toEqual({ ok: true, words: '' })
  } finally {
    remove()
  }
})

function siteYaml(directory: string, backendPort: number): string {
  return `
apiVersion: nxmesh/v1
kind: Upstream
metadata: { name: echo }
spec: { endpoints: { '127.0.0.1:${backendPort}': {} } }
---
apiVersion: nxmesh/v1
kind: Policy
metadata: { name: attacks }
spec: { waf: { mode: block, rules: { evil: { headers: { X-Evil: evil } }, agents: { userAgent: evil } } } }
---
apiVersion: nxmesh/v1
kind: Policy
metadata: { name: rates }
spec: { rateLimit: { limits: { key: { by: header, header: X-Api-Key, rate: 1000r/s, burst: 1000 } } } }
---
apiVersion: nxmesh/v1
kind: Site
metadata: { name: c }
spec:
  hosts: [c.example]
  policies: [attacks, rates]
  routes:
    beta: { path: /, when: { headers: { X-Beta: { exact: '1' } } }, proxy: { upstream: echo } }
    all:
      path: /
      proxy:
        split: { a: { upstream: echo, weight: 1 }, b: { upstream: echo, weight: 1 } }
        sticky: { header: X-User }
        force: { header: X-Target }
---
apiVersion: nxmesh/v1
kind: Site
metadata: { name: b }
spec:
  hosts: [b.example]
  routes:
    other: { path: /, when: { headers: { X-Other: { present: true } } }, return: { status: 200, body: other } }
    plain: { path: /, return: { status: 200, body: plain } }
---
apiVersion: nxmesh/v1
kind: Site
metadata: { name: a }
spec:
  hosts: [a.example]
  routes:
    h-exact: { path: /h, when: { headers: { X-Plan: { exact: 'Gold (1+1)' } } }, return: { status: 200, body: exact } }
    h-regex: { path: /h, when: { headers: { x-plan: { regex: 'silver-[0-9]' } } }, return: { status: 200, body: regex } }
    h-present: { path: /h, when: { headers: { X-Debug: { present: true } } }, return: { status: 200, body: present } }
    h: { path: /h, return: { status: 200, body: none } }
    absent: { path: /absent, when: { headers: { X-Debug: { present: false } } }, return: { status: 200, body: absent } }
    any: { path: /empty, when: { headers: { X-Any: { regex: '^z?$' } } }, return: { status: 200, body: any } }
    empty: { path: /empty, return: { status: 200, body: fallback } }
    cookie: { path: /c, when: { cookies: { group: { exact: beta } } }, return: { status: 200, body: cookie } }
    query: { path: /c, when: { query: { v: { regex: '^[23]$' } } }, return: { status: 200, body: query } }
    method: { path: /c, when: { methods: [PUT, DELETE] }, return: { status: 200, body: method } }
    c: { path: /c, return: { status: 200, body: other } }
    both: { path: /many, order: 9, when: { headers: { X-One: { present: true }, X-Two: { exact: '1' } } }, return: { status: 200, body: both } }
    a-three: { path: /many, order: 2, when: { headers: { X-Three: { exact: '1' } } }, return: { status: 200, body: three } }
    b-two: { path: /many, order: 2, when: { headers: { X-Two: { exact: '1' } } }, return: { status: 200, body: two } }
    z-one: { path: /many, order: 1, when: { headers: { X-One: { exact: '1' } } }, return: { status: 200, body: one } }
    many: { path: /many, order: -9, return: { status: 200, body: fallback } }
    p-exact: { path: /path/exact, match: exact, when: { headers: { X-One: { present: true } } }, return: { status: 200, body: exact } }
    p-regex-one: { path: '^/path/[0-9]$', match: regex, when: { headers: { X-One: { present: true } } }, return: { status: 200, body: regex one } }
    p-regex: { path: '^/path/[0-9]$', match: regex, return: { status: 200, body: regex } }
    p-prefix: { path: /path/, return: { status: 200, body: prefix } }
    pad: { path: /pad, when: { headers: { X-Pad: { regex: 'a.*b.*c.*d' } } }, return: { status: 200, body: guarded } }
    pad-open: { path: /pad, return: { status: 200, body: open } }
    busy: { path: 'busy/.*a.*b.*c.*d', match: regex, return: { status: 200, body: busy } }
    busy-too: { path: 'BUSY/.*A.*b.*c.*d', match: regex, caseSensitive: false, return: { status: 200, body: busy } }
    busy-open: { path: /busy/, return: { status: 200, body: not busy } }
    rewritten: { path: /rewritten/, proxy: { upstream: echo, rewrite: { regex: 'a.*b.*c.*d', replacement: /to } } }
    redirected: { path: /redirected/, redirect: { regex: 'a.*b.*c.*d', to: /to } }
    echo: { path: /echo/, when: { headers: { X-Beta: { exact: '1' } } }, proxy: { upstream: echo } }
    echo-all: { path: /echo/, return: { status: 200, body: plain } }
    strip: { path: /strip/, when: { headers: { X-Beta: { exact: '1' } } }, proxy: { upstream: echo, stripPrefix: true } }
    docs: { path: /docs, when: { headers: { X-Beta: { exact: '1' } } }, static: { root: ${directory}/beta } }
    docs-all: { path: /docs, static: { root: ${directory}/all } }
    small: { path: /small/, maxBodySize: 1k, when: { headers: { X-Beta: { exact: '1' } } }, proxy: { upstream: echo } }
    small-all: { path: /small/, maxBodySize: 1k, return: { status: 200, body: small } }
    teapot: { path: /teapot, when: { headers: { X-Beta: { exact: '1' } } }, return: { status: 418, body: short } }
    teapot-all: { path: /teapot, return: { status: 419, body: stout } }
`
}
