import { once } from 'node:events'
import { mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type IncomingMessage, type Server } from 'node:http'
import { connect, type AddressInfo } from 'node:net'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { fieldsOf, parseDocument, pathOf } from '../../src/core/resources/index.ts'
import type { HostLayout } from '../../src/nginx/rendering/host-layout.ts'
import { assemble } from '../../src/nginx/rendering/assemble.ts'
import { DEFAULT_ANSWER } from '../../src/nginx/rendering/main-conf.ts'
import type { Unit } from '../../src/nginx/rendering/unit.ts'
import { resourceArbitrary } from '../support/arbitrary-resources.ts'
import { attempts, renderAttempt, renderFull } from '../support/injection.ts'
import { ask, freePort, nginxDirectory, serve, testGeneration } from '../support/real-nginx.ts'
import { renderStates, renderYaml, stateOf } from '../support/resources.ts'
import { waitFor } from '../support/wait.ts'

const SEED = Number(process.env['NXMESH_SEED'] ?? Date.now() % 1_000_000)

describe('nginx -t', () => {
  let host: HostLayout
  let remove: () => void
  beforeAll(async () => {
    ;({ host, remove } = nginxDirectory(await freePort()))
  })
  afterAll(() => remove())

  test('takes a generation without any unit', async () => {
    expect(await testGeneration(host, renderYaml('', { host }).generation)).toEqual({ ok: true, words: '' })
  })

  test('takes all examples together, without a warning', async () => {
    const directory = new URL('../../examples/', import.meta.url)
    const files = readdirSync(directory).filter((file) => file.endsWith('.yaml'))
    const yaml = files.map((file) => readFileSync(new URL(file, directory), 'utf8')).join('\n---\n')
    const { generation, problems } = renderYaml(yaml, { host })
    expect(problems).toEqual([])
    expect(await testGeneration(host, generation)).toEqual({ ok: true, words: '' })
  })

  test('takes each method and shape of upstream', async () => {
    const specs = ['round_robin', 'least_conn', 'ip_hash', 'hash', 'random'].flatMap((method) => [
      `method: ${method}`,
      `method: ${method}, consistent: true, endpoints: { '10.0.0.1:80': { down: true } }, keepalive: { connections: 2 }`,
      `method: ${method}, endpoints: { 'gone.internal:80': {}, '[::1]:80': { weight: 2 } }`,
    ])
    specs.push(
      "endpoints: { '10.0.0.1:80': { backup: true } }",
      "method: least_conn, endpoints: { '10.0.0.1:80': {}, '10.0.0.2:80': { backup: true } }",
    )
    const yaml = specs.map(
      (spec, index) => `{ apiVersion: nxmesh/v1, kind: Upstream, metadata: { name: u${index} }, spec: { ${spec} } }`,
    )
    const { generation, units } = renderYaml(yaml.join('\n---\n'), { host })
    expect(units).toHaveLength(specs.length)
    expect(await testGeneration(host, generation)).toEqual({ ok: true, words: '' })
  })

  test('takes an upstream that routes reach over both http and https', async () => {
    const yaml = `
{ apiVersion: nxmesh/v1, kind: Upstream, metadata: { name: both }, spec: { endpoints: { '10.0.0.1:80': {} } } }
---
apiVersion: nxmesh/v1
kind: Site
metadata: { name: a }
spec:
  hosts: [a.example]
  routes:
    open: { path: /open, proxy: { upstream: both } }
    sealed: { path: /sealed, proxy: { upstream: both, scheme: https } }
`
    expect(await testGeneration(host, renderYaml(yaml, { host }).generation)).toEqual({ ok: true, words: '' })
  })

  test('takes a host name of full length and a thousand sites', async () => {
    const long = `${Array.from({ length: 4 }, () => 'a'.repeat(61)).join('.')}.example`.slice(-253)
    const site = (name: string, hostName: string) =>
      `{ apiVersion: nxmesh/v1, kind: Site, metadata: { name: ${name} }, spec: { hosts: ['${hostName}'], routes: { r: { path: /, return: { status: 200 } } } } }`
    const yaml = [
      site('long', long),
      ...Array.from({ length: 1000 }, (_, index) => site(`s${index}`, `s${index}.example`)),
    ]
    expect(await testGeneration(host, renderYaml(yaml.join('\n---\n'), { host }).generation)).toEqual({
      ok: true,
      words: '',
    })
  })

  test('builds its hash of host names at the first size, however the names collide', async () => {
    // Adding 2 to one character and taking 62 from the next keeps nginx's hash, so these are all one to it.
    const twins = (first: string, count: number): string[] => {
      const found = new Set([first])
      for (const name of found) {
        for (let at = 0; at + 1 < name.length && found.size < count; at++) {
          const [one, two] = [name.charCodeAt(at) + 2, name.charCodeAt(at + 1) - 62]
          const twin = name.slice(0, at) + String.fromCharCode(one, two) + name.slice(at + 2)
          if (/^[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?$/.test(twin)) found.add(twin)
        }
      }
      return [...found]
    }
    const site = (name: string, hosts: readonly string[]) =>
      `{ apiVersion: nxmesh/v1, kind: Site, metadata: { name: ${name} }, spec: { hosts: ${JSON.stringify(hosts)} } }`
    const whole = twins(`${'an'.repeat(18)}.example`, 256)
    const levels = twins('an'.repeat(30), 60).map((label) => `*.${label}.example`)
    expect([whole.length, levels.length]).toEqual([256, 60])
    const yaml = [site('honest', ['a.example']), site('whole', whole), site('levels', levels)]
    // When no size is good, nginx has tried all of them, for seconds, and warns.
    const { generation, problems } = renderYaml(yaml.join('\n---\n'), { host })
    expect(problems).toEqual([])
    expect(await testGeneration(host, generation)).toEqual({ ok: true, words: '' })
  })

  test('property: takes whatever valid resources render to', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(resourceArbitrary, { minLength: 1, maxLength: 12 }), async (documents) => {
        const states = documents.map((document) => {
          const resource = parseDocument(document)
          // Addresses of other machines cannot be bound here, not even by a test.
          const { listeners: _, nodeSelector: __, ...spec } = resource.spec
          return stateOf(pathOf(resource), fieldsOf({ ...resource, spec }))
        })
        const unique = [...new Map(states.map((state) => [state.path, state])).values()]
        expect(await testGeneration(host, renderStates(unique, { host }).generation)).toEqual({ ok: true, words: '' })
      }),
      { numRuns: 40 },
    )
  })

  test(
    `takes hostile texts that the schemas let through: seed ${SEED} (NXMESH_SEED replays)`,
    { timeout: 120_000 },
    async () => {
      const full = renderFull(host)
      const others = new Map<string, ReturnType<typeof renderFull>['generation']>()
      const sites = new Map<string, string>()
      for (const attempt of attempts({ every: 97, seed: SEED })) {
        // What stands in a snippet is nginx text by intention.
        if (attempt.pattern.includes('privileged')) continue
        let generation: ReturnType<typeof renderFull>['generation']
        try {
          generation = renderAttempt(attempt, host).generation
        } catch {
          continue
        }
        if (!attempt.pattern.startsWith('Site')) others.set(generation.digest, generation)
        else
          for (const [digest, text] of generation.objects)
            // Unlike variables, a format of the log is there once.
            if (!full.generation.objects.has(digest))
              sites.set(digest, text.replaceAll(/\b(nxmesh_[0-9a-f]{16}_log)\b/g, `$1_${digest}`))
      }
      for (const generation of others.values())
        expect(await testGeneration(host, generation)).toEqual({ ok: true, words: '' })

      // All sites in one generation, since each has a file of its own; they share host names, about which nginx warns.
      const objects = new Map([...full.generation.objects, ...sites])
      const includes = [...sites.keys()].map((digest) => `include ${host.directory}/objects/${digest}.conf;`)
      // After the last include of http: what they name is in those before.
      const main = full.generation.main.replace(/include .*\n(?![^]*include [^]*^stream )(?=[^]*^stream )/m, (line) => {
        return `${line}${includes.join('\n')}\n`
      })
      expect(main).not.toBe(full.generation.main)
      const { words } = await testGeneration(host, { ...full.generation, main, objects })
      expect(words.split('\n').filter((line) => line !== '' && !line.includes('conflicting server name'))).toEqual([])
      expect(sites.size).toBeGreaterThan(3)
    },
  )
})

describe('a served generation', () => {
  let host: HostLayout
  let port: number
  let backend: Server
  let seen: IncomingMessage[] = []
  let nginx: Awaited<ReturnType<typeof serve>>
  let remove: () => void

  beforeAll(async () => {
    backend = createServer((request, response) => {
      seen.push(request)
      const chunks: Buffer[] = []
      request.on('data', (chunk: Buffer) => chunks.push(chunk))
      request.on('end', () => {
        response.setHeader('X-Site', 'of the upstream')
        response.end(`${request.method} ${request.url} ${Buffer.concat(chunks).toString()}`)
      })
    })
    backend.on('upgrade', (request, socket) => {
      seen.push(request)
      socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n')
      socket.pipe(socket)
    })
    backend.listen(0, '127.0.0.1')
    await once(backend, 'listening')
    port = await freePort()
    ;({ host, remove } = nginxDirectory(port))
    const root = join(host.directory, 'www')
    for (const directory of ['', 'docs', 'spa', 'spa/assets', 'plain'])
      mkdirSync(join(root, directory), { recursive: true })
    writeFileSync(join(root, 'docs/index.html'), 'docs')
    writeFileSync(join(root, 'spa/index.html'), 'spa')
    writeFileSync(join(root, 'spa/assets/app.js'), 'script')
    const { generation, problems } = renderYaml(siteYaml(root, (backend.address() as AddressInfo).port), { host })
    if (problems.length > 0) throw new Error(problems[0]?.message)
    nginx = await serve(host, generation)
  })
  afterAll(async () => {
    await nginx?.stop()
    backend?.close()
    backend?.closeAllConnections()
    remove?.()
  })

  const get = (path: string, options: { method?: string; headers?: Record<string, string>; body?: string } = {}) =>
    ask(
      { port, path, method: options.method ?? 'GET', headers: { host: 'a.example', ...options.headers } },
      options.body,
    )

  test('answers a return as it is, with its type, whatever the ending of the path', async () => {
    const { status, body, headers } = await get('/hi.html')
    expect([status, body, headers['content-type']]).toEqual([
      200,
      'cost: $5 "\\n" ${host}\n',
      'text/plain; charset=utf-8',
    ])
    expect((await get('/typed')).headers['content-type']).toBe('application/json')
    expect((await get('/teapot')).status).toBe(418)
    expect((await get('/gone')).status).toBe(410)
  })

  test('an exact path wins, then a regex by order, then the longest prefix', async () => {
    expect((await get('/p/exact')).body).toBe('exact')
    expect((await get('/p/exact/')).body).toBe('prefix')
    expect((await get('/p/first-and-second')).body).toBe('first')
    expect((await get('/p/second')).body).toBe('second')
    expect((await get('/p/SECOND')).body).toBe('second')
    expect((await get('/p/else')).body).toBe('prefix')
    expect((await get('/p')).status).toBe(404)
  })

  test('a redirect keeps path and query, or goes where it says', async () => {
    const kept = await get('/old/a%2Fb?x=1&y=%20')
    expect([kept.status, kept.headers.location]).toEqual([301, 'https://new.example/old/a%2Fb?x=1&y=%20'])
    const moved = await get('/moved')
    expect([moved.status, moved.headers.location]).toEqual([307, 'https://a.example/there'])
    expect((await get('/relative')).headers.location).toBe('/there')
  })

  test('static files: index, 404, and the fallback of an application', async () => {
    expect((await get('/docs/')).body).toBe('docs')
    expect((await get('/docs')).headers.location).toBe('/docs/')
    expect((await get('/docs/none')).status).toBe(404)
    expect((await get('/spa/assets/')).body).toBe('script')
    const spa = (path: string) => ask({ port, path, headers: { host: 'spa.example' } })
    expect((await spa('/')).body).toBe('spa')
    expect((await spa('/any/route')).body).toBe('spa')
    const script = await spa('/assets/app.js')
    expect([script.body, script.headers['content-type']]).toEqual(['script', 'application/javascript'])
  })

  test('a proxy passes the path untouched, or without its prefix, and the headers it was told', async () => {
    seen = []
    expect((await get('/echo/a%2Fb?c=d')).body).toBe('GET /echo/a%2Fb?c=d ')
    expect((await get('/strip/a/b?c=d')).body).toBe('GET /a/b?c=d ')
    expect((await get('/strip/')).body).toBe('GET / ')
    expect((await get('/strip/a%0ab')).body).toBe('GET /a%0Ab ')
    const { headers } = await get('/headers/', { headers: { 'X-Secret': 'x', 'X-Forwarded-For': '1.2.3.4' } })
    expect(seen[0]?.headers).toMatchObject({
      host: 'a.example',
      'x-real-ip': '127.0.0.1',
      'x-forwarded-proto': 'http',
      'x-forwarded-for': '127.0.0.1',
    })
    expect(seen.at(-1)?.headers).toMatchObject({
      host: 'inner.example',
      'x-who': 'mesh $ a.example',
      'x-forwarded-for': '1.2.3.4, 127.0.0.1',
    })
    expect(seen.at(-1)?.headers).not.toHaveProperty('x-secret')
    expect(headers['x-site']).toBe('of the mesh')
  })

  test('a response header is set on errors too', async () => {
    expect((await get('/headers-on-error')).headers['x-site']).toBe('of the mesh')
  })

  test('bodies beyond the limit are refused', async () => {
    expect((await get('/small/', { method: 'POST', body: 'x'.repeat(2000) })).status).toBe(413)
    expect((await get('/small/', { method: 'POST', body: 'x' })).status).toBe(200)
  })

  test('an upgrade passes and stays open', async () => {
    const socket = connect(port, '127.0.0.1')
    socket.setEncoding('utf8')
    let received = ''
    socket.on('data', (chunk: string) => (received += chunk))
    socket.write('GET /ws HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n')
    await waitFor(() => received.includes('\r\n\r\n'), { what: 'the answer to the upgrade' })
    expect(received).toMatch(/^HTTP\/1\.1 101 /)
    socket.write('ping through')
    await waitFor(() => received.endsWith('ping through'), { what: 'the echo' })
    socket.destroy()
  })

  test('an upstream without a usable endpoint answers 502', async () => {
    expect((await get('/nowhere')).status).toBe(502)
    expect((await get('/down')).status).toBe(502)
  })

  test('a host that no site claims gets 404 from the explicit default server', async () => {
    const { status, body } = await ask({ port, headers: { host: 'unknown.example' } })
    expect([status, body]).toEqual([404, `${DEFAULT_ANSWER}\n`])
  })

  test('the verify socket answers generation and worker, and the status', async () => {
    const { body } = await ask({ socketPath: host.verifySocket, path: '/generation' })
    expect(body).toMatch(/^[0-9a-f]{64} \d+\n$/)
    expect((await ask({ socketPath: host.verifySocket, path: '/status' })).body).toContain('Active connections')
  })

  test('the access log has a line of JSON with site and status', async () => {
    await get('/teapot?log=%22quote')
    const line = await waitFor(
      () =>
        readFileSync(join(host.directory, 'logs/access.log'), 'utf8')
          .split('\n')
          .find((text) => text.includes('log=%22quote')),
      { what: 'the line of the access log' },
    )
    expect(JSON.parse(line)).toMatchObject({
      site: 'default/*/site/a',
      status: '418',
      host: 'a.example',
      uri: '/teapot?log=%22quote',
    })
  })

  describe('while it is drained', () => {
    const paths = [
      '/hi.html',
      '/p/exact',
      '/p/second',
      '/p/else',
      '/old/x?y',
      '/moved',
      '/docs/',
      '/docs',
      '/docs/none',
      '/echo/a%2Fb?c=d',
      '/strip/a',
      '/headers/',
      '/nowhere',
      '/none',
      '/gone',
      '/teapot',
    ]

    test('every kind of route answers the same and closes the connection', async () => {
      const before = await Promise.all(paths.map((path) => get(path, { headers: { connection: 'keep-alive' } })))
      expect(before.map(({ headers }) => headers.connection)).toEqual(paths.map(() => 'keep-alive'))
      writeFileSync(host.drainFile, '')
      try {
        const during = await Promise.all(paths.map((path) => get(path, { headers: { connection: 'keep-alive' } })))
        expect(during.map(({ headers }) => headers.connection)).toEqual(paths.map(() => 'close'))
        expect(during.map(({ status, body, headers }) => [status, body, headers.location])).toEqual(
          before.map(({ status, body, headers }) => [status, body, headers.location]),
        )
        const post = await get('/echo/a%2Fb', { method: 'POST', body: 'kept '.repeat(10_000) })
        expect(post.body).toBe(`POST /echo/a%2Fb ${'kept '.repeat(10_000)}`)
        const unknown = await ask({ port, headers: { host: 'unknown.example', connection: 'keep-alive' } })
        expect([unknown.status, unknown.headers.connection]).toEqual([404, 'close'])
        const spa = await ask({ port, path: '/any/route', headers: { host: 'spa.example', connection: 'keep-alive' } })
        expect([spa.body, spa.headers.connection]).toEqual(['spa', 'close'])
      } finally {
        rmSync(host.drainFile)
      }
      expect((await get('/hi.html', { headers: { connection: 'keep-alive' } })).headers.connection).toBe('keep-alive')
    })
  })

  test('nothing of this is an error of the configuration in nginx’s own words', () => {
    expect(
      nginx
        .errors()
        .split('\n')
        .filter((line) => /\[(?:alert|emerg)\]/.test(line)),
    ).toEqual([])
  })
})

test('assemble leaves a last good unit of an older rendering usable', async () => {
  const { host, remove } = nginxDirectory(await freePort())
  try {
    const older = renderYaml(hello('a'), { host })
    const newer = renderYaml(hello('b'), { host })
    const units: Unit[] = [...older.units, ...newer.units]
    expect(await testGeneration(host, assemble(units, newer.input))).toEqual({ ok: true, words: '' })
  } finally {
    remove()
  }
})

function hello(name: string): string {
  return `{ apiVersion: nxmesh/v1, kind: Site, metadata: { name: ${name} }, spec: { hosts: [${name}.example] } }`
}

function siteYaml(root: string, backendPort: number): string {
  return `
apiVersion: nxmesh/v1
kind: Upstream
metadata: { name: echo }
spec: { endpoints: { '127.0.0.1:${backendPort}': {} }, keepalive: { connections: 4 } }
---
{ apiVersion: nxmesh/v1, kind: Upstream, metadata: { name: nothing }, spec: {} }
---
{ apiVersion: nxmesh/v1, kind: Upstream, metadata: { name: down }, spec: { method: least_conn, endpoints: { '127.0.0.1:${backendPort}': { down: true } } } }
---
apiVersion: nxmesh/v1
kind: Site
metadata: { name: spa }
spec:
  hosts: [spa.example]
  routes: { root: { path: /, static: { root: ${root}/spa, spa: true } } }
---
apiVersion: nxmesh/v1
kind: Site
metadata: { name: a }
spec:
  hosts: [a.example]
  routes:
    hi: { path: /hi, return: { status: 200, body: "cost: $5 \\"\\\\n\\" \${host}\\n" } }
    typed: { path: /typed, return: { status: 200, body: '{}', contentType: application/json } }
    teapot: { path: /teapot, return: { status: 418, body: short and stout } }
    gone: { path: /gone, return: { status: 410 } }
    exact: { path: /p/exact, match: exact, return: { status: 200, body: exact } }
    prefix: { path: /p/, return: { status: 200, body: prefix } }
    second: { path: '^/p/.*second$', match: regex, order: 2, caseSensitive: false, return: { status: 200, body: second } }
    first: { path: '^/p/first', match: regex, order: 1, return: { status: 200, body: first } }
    old: { path: /old/, redirect: { to: 'https://new.example/', status: 301, keepPath: true } }
    moved: { path: /moved, redirect: { to: 'https://$host/there', status: 307 } }
    relative: { path: /relative, redirect: { to: /there } }
    docs: { path: /docs, static: { root: ${root} } }
    assets: { path: /spa/assets/, static: { root: ${root}, index: app.js } }
    echo: { path: /echo/, proxy: { upstream: echo } }
    strip: { path: /strip/, proxy: { upstream: echo, stripPrefix: true } }
    headers:
      path: /headers/
      proxy: { upstream: echo, hostHeader: inner.example }
      requestHeaders: { set: { X-Who: mesh $$ $host }, remove: [X-Secret] }
      responseHeaders: { set: { x-site: of the mesh } }
    headers-on-error: { path: /headers-on-error, return: { status: 404 }, responseHeaders: { set: { X-Site: of the mesh } } }
    small: { path: /small/, maxBodySize: 1k, proxy: { upstream: echo } }
    ws: { path: /ws, proxy: { upstream: echo, websocket: true } }
    nowhere: { path: /nowhere, proxy: { upstream: nothing } }
    down: { path: /down, proxy: { upstream: down } }
`
}
