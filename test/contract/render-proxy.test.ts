import { once } from 'node:events'
import { createServer, request } from 'node:http'
import { connect, createServer as createTcpServer, type Server } from 'node:net'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { close, listening, ServedDocuments, type Sent } from '../support/served-documents.ts'
import { waitFor } from '../support/wait.ts'

/** More than the sockets on the way hold. */
const LARGE = Buffer.alloc(24 * 1024 * 1024, 'x')

describe('what proxies change on the way, on real nginx', () => {
  let served: ServedDocuments
  const servers: Server[] = []
  /** What each backend was asked, with the body as far as it came. */
  const asked: string[] = []

  async function backend(name: string): Promise<number> {
    const server = createServer((sent, response) => {
      const seen = `${name} ${sent.method} ${sent.url}`
      asked.push(seen)
      sent.on('data', (chunk: Buffer) => asked.push(`${name} got ${chunk.length}`))
      const status = Number(/status=(\d+)/.exec(sent.url ?? '')?.[1] ?? 200)
      const headers: Record<string, string | string[]> = { 'X-Secret': 'inside', 'X-Kept': 'yes' }
      if (sent.url?.startsWith('/headers')) {
        headers['Set-Cookie'] = ['a=1; Domain=app.internal; Path=/app/x/y', 'b=2; Path=/app/; HttpOnly']
        headers['Location'] = String(sent.headers['x-location'])
        headers['X-Big'] = 'x'.repeat(Number(sent.headers['x-big'] ?? 0))
      }
      if (sent.url?.startsWith('/hang')) return
      if (sent.url?.startsWith('/large')) return response.end(LARGE)
      sent.on('end', () => {
        response.writeHead(name === 'bad' ? 503 : status, headers)
        response.end(seen)
      })
    })
    server.on('upgrade', (_sent, socket) => {
      socket.on('error', () => {})
      socket.write('HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n')
    })
    servers.push(server)
    return listening(server)
  }

  beforeAll(async () => {
    // Takes connections, and reads nothing.
    const deaf = createTcpServer({ pauseOnConnect: true }, (socket) => socket.on('error', () => {}))
    servers.push(deaf)
    const [good, bad, unread] = [await backend('good'), await backend('bad'), await listening(deaf)]
    served = await ServedDocuments.start(() => siteYaml(good, bad, unread))
  })
  afterAll(async () => {
    await served?.stop()
    close(servers)
  })

  const get = (path: string, sent: Sent = {}) => served.get(path, sent)
  const text = async (path: string, sent: Sent = {}) => (await get(path, sent)).body
  const place = async (path: string) => {
    const { status, headers } = await get(path)
    return `${status} ${headers.location}`
  }

  const drainedOrNot = (look: () => Promise<unknown>) => served.drainedOrNot(look)

  test('replacePrefix: one prefix for another, the query stays, escapes are decoded', async () => {
    await drainedOrNot(async () => {
      expect(await text('/api/users?a=b%2Fc')).toBe('good GET /v2/$x/users?a=b%2Fc')
      expect(await text('/api/')).toBe('good GET /v2/$x/')
      expect(await text('/api/a%2Fb%20c%0Ad%3Fe')).toBe('good GET /v2/$x/a/b%20c%0Ad%3Fe')
      expect(await text('/strip/x/y')).toBe('good GET /x/y')
    })
  })

  test('rewrite: groups of an expression, a query of its own, the request’s query kept or not', async () => {
    await drainedOrNot(async () => {
      expect(await text('/shop/12/red')).toBe('good GET /item?id=12&colour=red')
      expect(await text('/shop/12/red?page=2')).toBe('good GET /item?id=12&colour=red&page=2')
      expect(await text('/shop/other%2Fx?page=2')).toBe('good GET /shop/other%2Fx?page=2')
      expect(await text('/cut/12?page=2')).toBe('good GET /x2/1')
    })
  })

  test('rewrite: what a client escapes stays inside of the request line', async () => {
    const answer = await get('/any/a%0D%0AX-Evil:%201%20HTTP/1.1')
    expect(answer.body).toBe('good GET /to/a%0D%0AX-Evil:%201%20HTTP/1.1')
  })

  test('redirect with an expression: groups as they were sent, 404 for what does not match', async () => {
    await drainedOrNot(async () => {
      expect(await place('/blog/2024/a%2Fb?x=1')).toBe('308 https://blog.example/a%2Fb?year=2024&x=1')
      expect(await place('/blog/none')).toBe('404 undefined')
      expect(await place('/blog/2024/a%0d%0aX-Evil:1?')).toBe('308 https://blog.example/a%0d%0aX-Evil:1?year=2024&')
      expect(await place('/user/7')).toBe('301 /people/$/7')
      expect(await place('/kept/x?y')).toBe('302 https://new.example/kept/x?y')
    })
  })

  test('retries: the statuses that are named, as often as allowed, POST only when told so', async () => {
    await drainedOrNot(async () => {
      asked.length = 0
      expect(await text('/retry/status')).toBe('good GET /retry/status')
      expect(asked).toContain('bad GET /retry/status')
      expect((await get('/once/x')).status).toBe(503)
      expect((await get('/retry/x', { method: 'POST', body: 'x' })).status).toBe(503)
      expect(await text('/always/x', { method: 'POST', body: 'x' })).toBe('good POST /always/x')
      expect((await get('/plain/x')).status).toBe(503)
    })
  })

  test('retries: no other endpoint is asked when the time for it is over', async () => {
    asked.length = 0
    expect((await get('/hang/soon')).status).toBe(504)
    expect((await get('/hang/late')).status).toBe(504)
    expect(asked).toEqual(['bad GET /hang/soon', 'good GET /hang/soon', 'bad GET /hang/late'])
  })

  test('timeouts of a route', async () => {
    expect((await get('/hang/')).status).toBe(504)
  })

  test('timeouts of a route: an upstream that takes no body', async () => {
    expect((await get('/unread', { method: 'POST', body: LARGE.toString() })).status).toBe(504)
  })

  test('timeouts of a route end a websocket in which nothing is said', async () => {
    const socket = connect(served.port, '127.0.0.1')
    const ended = once(socket, 'end')
    socket.write('GET /ws HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n')
    const [data] = (await once(socket, 'data')) as [Buffer]
    expect(data.toString()).toMatch(/^HTTP\/1\.1 101 /)
    await ended
    socket.destroy()
  })

  test('requestBuffering: the upstream gets the body as it comes, or whole', async () => {
    const start = (path: string) => {
      const sent = request({
        port: served.port,
        host: '127.0.0.1',
        path,
        method: 'POST',
        headers: { host: 'a.example' },
      })
      sent.on('error', () => {})
      sent.write('x'.repeat(100))
      return sent
    }
    asked.length = 0
    const [whole, stream] = [start('/whole'), start('/stream')]
    await waitFor(() => asked.includes('good POST /stream') || undefined, { what: 'the first part of the body' })
    expect(asked).not.toContain('good POST /whole')
    whole.end()
    await waitFor(() => asked.includes('good POST /whole') || undefined, { what: 'the whole body' })
    stream.end()
  })

  test('buffering and maxTempFileSize: what a slow client leaves lies in a file, or with the upstream', async () => {
    /** Reads nothing of the answer until it is told to; then how long that was. */
    const slowly = (path: string) => {
      const socket = connect(served.port, '127.0.0.1').pause()
      socket.write(`GET ${path} HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n`)
      return async () => {
        let bytes = 0
        socket.on('data', (chunk: Buffer) => (bytes += chunk.length)).resume()
        await once(socket, 'end')
        return bytes
      }
    }
    const reads = ['/large/unfiled', '/large/unbuffered', '/large/filed'].map(slowly)
    const filed = () =>
      [...served.log('error.log').matchAll(/buffered to a temporary file.*request: "GET (\S+)/g)].map(
        ([, path]) => path,
      )
    await waitFor(() => filed().length > 0, { what: 'a part of the answer to lie in a file' })
    for (const read of reads) expect(await read()).toBeGreaterThan(LARGE.length)
    expect(filed()).toEqual(['/large/filed'])
  })

  test('buffers: a header of an answer as long as one', async () => {
    expect((await get('/headers/small', { headers: { 'X-Big': '12000' } })).status).toBe(502)
    expect((await get('/headers/big', { headers: { 'X-Big': '12000' } })).status).toBe(200)
  })

  test('cookies: domain, path and flags', async () => {
    await drainedOrNot(async () => {
      expect((await get('/headers/cookies')).headers['set-cookie']).toEqual([
        'a=1; Domain=shop.example; Path=/y; Secure; SameSite=Lax',
        'b=2; Path=/; Secure; SameSite=Lax',
      ])
    })
  })

  test('redirects of an upstream: the longest prefix that fits', async () => {
    await drainedOrNot(async () => {
      const to = async (location: string) =>
        (await get('/headers/cookies', { headers: { 'X-Location': location } })).headers.location
      expect(await to('http://app.internal:8080/x?y')).toBe('http://a.example/x?y')
      expect(await to('http://app.internal:8080/app/x')).toBe('/front/x')
      expect(await to('https://other.example/')).toBe('https://other.example/')
    })
  })

  test('headers of the upstream that nobody should see', async () => {
    await drainedOrNot(async () => {
      expect((await get('/plain/ok', { site: 'b' })).headers).toMatchObject({ 'x-kept': 'yes' })
      expect((await get('/plain/ok', { site: 'b' })).headers).not.toHaveProperty('x-secret')
      expect((await get('/own/ok', { site: 'b' })).headers).not.toHaveProperty('x-kept')
      expect((await get('/own/ok', { site: 'b' })).headers).toMatchObject({ 'x-secret': 'set here' })
    })
  })

  test('keepalive of clients: so many requests for each connection', async () => {
    const socket = connect(served.port, '127.0.0.1')
    let seen = ''
    socket.on('data', (chunk: Buffer) => (seen += chunk.toString()))
    const ended = once(socket, 'end')
    socket.write('GET /none HTTP/1.1\r\nHost: b.example\r\n\r\n'.repeat(3))
    await ended
    expect(seen.match(/^Connection: .*$/gm)).toEqual(['Connection: keep-alive', 'Connection: close'])
    socket.destroy()
  })

  test('keepalive of clients: an idle connection ends after its time', async () => {
    const socket = connect(served.port, '127.0.0.1')
    let seen = ''
    socket.on('data', (chunk: Buffer) => (seen += chunk.toString()))
    const ended = once(socket, 'end')
    socket.write('GET /none HTTP/1.1\r\nHost: c.example\r\n\r\n')
    await ended
    expect(seen).toContain('Connection: keep-alive')
    socket.destroy()
  })

  test('nothing of this is an error in nginx’s own words', () => {
    expect(served.complaints()).toEqual([])
  })
})

function siteYaml(good: number, bad: number, unread: number): string {
  return `
apiVersion: nxmesh/v1
kind: Upstream
metadata: { name: app }
spec: { endpoints: { '127.0.0.1:${good}': {} } }
---
apiVersion: nxmesh/v1
kind: Upstream
metadata: { name: deaf }
spec: { endpoints: { '127.0.0.1:${unread}': {} } }
---
apiVersion: nxmesh/v1
kind: Upstream
metadata: { name: two }
spec: { endpoints: { '127.0.0.1:${bad}': { maxFails: 0 }, '127.0.0.1:${good}': { backup: true, maxFails: 0 } } }
---
apiVersion: nxmesh/v1
kind: Site
metadata: { name: a }
spec:
  hosts: [a.example]
  routes:
    api: { path: /api/, proxy: { upstream: app, replacePrefix: /v2/$x/ } }
    strip: { path: /strip/, proxy: { upstream: app, replacePrefix: / } }
    shop: { path: /shop/, proxy: { upstream: app, rewrite: { regex: '^/shop/([0-9]+)/([a-z]+)$', replacement: '/item?id=$1&colour=$2' } } }
    cut: { path: /cut/, proxy: { upstream: app, rewrite: { regex: '^/cut/([0-9])([0-9])$', replacement: '/x$2/$1', keepQuery: false } } }
    any: { path: /any/, proxy: { upstream: app, rewrite: { regex: '^/any/([^?]*)$', replacement: /to/$1 } } }
    blog: { path: /blog/, redirect: { regex: '^/blog/([0-9]+)/([^?]*)[?]?(.*)$', to: 'https://blog.example/$2?year=$1&$3', status: 308 } }
    user: { path: /user/, redirect: { regex: '^/user/([0-9]+)$', to: /people/$$/$1, status: 301 } }
    kept: { path: /kept/, redirect: { to: 'https://new.example', keepPath: true } }
    retry: { path: /retry/, proxy: { upstream: two, retries: { attempts: 2, timeout: 30s, on: ['503', error, timeout] } } }
    once: { path: /once/, proxy: { upstream: two, retries: { attempts: 1, on: ['503'] } } }
    always: { path: /always/, proxy: { upstream: two, retries: { on: ['503', non_idempotent] } } }
    plain: { path: /plain/, proxy: { upstream: two } }
    hang: { path: /hang/, proxy: { upstream: app }, timeouts: { connect: 30s, read: 100ms, send: 30s } }
    late: { path: /hang/late, proxy: { upstream: two, retries: { timeout: 50ms } }, timeouts: { read: 100ms } }
    soon: { path: /hang/soon, proxy: { upstream: two, retries: { timeout: 30s } }, timeouts: { read: 100ms } }
    unread: { path: /unread, proxy: { upstream: deaf }, maxBodySize: '0', timeouts: { send: 100ms } }
    unbuffered: { path: /large/unbuffered, proxy: { upstream: app, buffering: false } }
    filed: { path: /large/filed, proxy: { upstream: app } }
    unfiled: { path: /large/unfiled, proxy: { upstream: app, maxTempFileSize: '0' } }
    ws: { path: /ws, proxy: { upstream: app, websocket: true }, timeouts: { read: 200ms } }
    whole: { path: /whole, proxy: { upstream: app } }
    stream: { path: /stream, proxy: { upstream: app, requestBuffering: false } }
    small: { path: /headers/small, proxy: { upstream: app, maxTempFileSize: '0' } }
    big: { path: /headers/big, proxy: { upstream: app, buffers: { size: 32k, count: 3 }, maxTempFileSize: 32k } }
    cookies:
      path: /headers/cookies
      proxy:
        upstream: app
        cookies: { domains: { app.internal: shop.example }, paths: { /app/: /, /app/x/: / }, secure: true, httpOnly: false, sameSite: lax }
        redirects: { 'http://app.internal:8080/': 'http://$host/', 'http://app.internal:8080/app/': /front/ }
---
apiVersion: nxmesh/v1
kind: Site
metadata: { name: b }
spec:
  hosts: [b.example]
  keepalive: { timeout: 5m, requests: 2 }
  responseHeaders: { remove: [X-Secret] }
  routes:
    plain: { path: /plain/, proxy: { upstream: app } }
    own: { path: /own/, proxy: { upstream: app }, responseHeaders: { remove: [x-kept], set: { X-Secret: set here } } }
---
apiVersion: nxmesh/v1
kind: Site
metadata: { name: c }
spec: { hosts: [c.example], keepalive: { timeout: 100ms } }
`
}
