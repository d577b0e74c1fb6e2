import { once } from 'node:events'
import { connect, createSecureServer, createServer, type Http2Server, type ServerHttp2Stream } from 'node:http2'
import { createServer as createHttpsServer, type Server } from 'node:https'
import type { AddressInfo } from 'node:net'
import { connect as connectTls, type TLSSocket } from 'node:tls'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { HostLayout } from '../../src/nginx/rendering/host-layout.ts'
import { certificateYaml, makeCertificate, secretsOf, secretYaml } from '../support/certificates.ts'
import { ask, freePort, nginxDirectory, serve, testGeneration } from '../support/real-nginx.ts'
import { renderYaml } from '../support/resources.ts'

const ours = makeCertificate(['authority'])
const theirs = makeCertificate(['strangers'])
const backendPair = makeCertificate(['backend.internal'], ours)
const proxyPair = makeCertificate(['proxy.internal'], ours)
const own = makeCertificate(['site.example'])

const document = (kind: string, name: string, spec: object) =>
  JSON.stringify({ apiVersion: 'nxmesh/v1', kind, metadata: { name, zone: '*' }, spec })

/** Answers a call as gRPC does: the message sent back, then trailers. */
function answerCall(stream: ServerHttp2Stream, headers: Record<string, unknown>): void {
  const chunks: Buffer[] = []
  stream.on('data', (chunk: Buffer) => chunks.push(chunk))
  stream.on('end', () => {
    stream.respond(
      { ':status': 200, 'content-type': 'application/grpc', 'x-seen': JSON.stringify(headers) },
      { waitForTrailers: true },
    )
    stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0', 'grpc-message': 'fine' }))
    stream.end(Buffer.concat(chunks))
  })
}

describe('TLS and gRPC to upstreams, on real nginx', () => {
  let host: HostLayout
  let ports: { http: number; https: number }
  let secure: Server
  let calls: { plain: Http2Server; secure: Http2Server }
  let nginx: Awaited<ReturnType<typeof serve>>
  let remove: () => void

  beforeAll(async () => {
    const { certificate: cert, key } = backendPair
    const options = { cert, key, ca: ours.certificate, requestCert: true, rejectUnauthorized: false }
    secure = createHttpsServer(options, (request, response) => {
      const socket = request.socket as TLSSocket
      const raw = socket.getPeerX509Certificate()
      response.end(JSON.stringify({ name: socket.servername, client: raw?.subject ?? '', trusted: socket.authorized }))
    })
    secure.on('upgrade', (_request, socket) =>
      socket.end('HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhello'),
    )
    calls = { plain: createServer(), secure: createSecureServer({ cert, key }) }
    for (const server of Object.values(calls)) server.on('stream', answerCall)
    for (const server of [secure, ...Object.values(calls)]) {
      server.listen(0, '127.0.0.1')
      await once(server, 'listening')
    }
    ports = { http: await freePort(), https: await freePort() }
    ;({ host, remove } = nginxDirectory(ports.http))
    const portOf = (server: { address(): unknown }) => (server.address() as AddressInfo).port
    const text = yaml(ports, [secure, calls.plain, calls.secure].map(portOf) as [number, number, number])
    const { generation, problems } = renderYaml(text, {
      host,
      secrets: secretsOf({ own, proxy: proxyPair }),
      openCircuits: new Set(['default/*/upstream/tripped']),
    })
    const { words } = await testGeneration(host, generation)
    if (problems.length > 0 || words !== '') throw new Error(problems[0]?.message ?? words)
    nginx = await serve(host, generation)
  })
  afterAll(async () => {
    await nginx?.stop()
    secure?.close()
    secure?.closeAllConnections()
    calls?.plain.close()
    calls?.secure.close()
    remove?.()
  })

  const get = (path: string, headers = {}) =>
    ask({ port: ports.http, path, headers: { host: 'site.example', ...headers } })
  const told = async (path: string) =>
    JSON.parse((await get(path)).body) as { name: string; client: string; trusted: boolean }

  test('an upstream that an authority of ours vouches for is passed to, by the name that it is to have', async () => {
    expect(await told('/verified/')).toEqual({ name: 'backend.internal', client: '', trusted: false })
  })

  test.each([
    ['that another authority vouches for', '/strangers/'],
    ['with another name', '/misnamed/'],
  ])('one %s is not, and the reason is in the log', async (_, path) => {
    expect((await get(path)).status).toBe(502)
    expect(nginx.errors()).toMatch(/upstream SSL certificate (?:verify error|does not match)/)
  })

  test('without an authority anything is passed to, as before', async () => {
    expect((await told('/unverified/')).name).toBe('site.example')
  })

  test('the proxy shows its own certificate where the route says so, and only there', async () => {
    expect(await told('/shown/')).toEqual({ name: 'backend.internal', client: 'CN=proxy.internal', trusted: true })
    // Right after, over what might be the same session.
    expect((await told('/verified/')).client).toBe('')
    expect((await told('/unverified/')).client).toBe('')
  })

  test('an open circuit answers 503 in the place of gRPC, and of TLS that is verified', async () => {
    for (const path of ['/tripped.Echo/Say', '/tripped/']) {
      const { status, headers } = await get(path)
      expect([path, status, headers['x-nxmesh-circuit']]).toEqual([path, 503, 'open'])
    }
  })

  test('websockets pass through TLS on both sides', async () => {
    const options = { host: '127.0.0.1', port: ports.https, servername: 'site.example', rejectUnauthorized: false }
    const socket = connectTls({ ...options, ALPNProtocols: ['http/1.1'] })
    await once(socket, 'secureConnect')
    const upgrade = 'Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n'
    socket.write(`GET /socket/ HTTP/1.1\r\nHost: site.example\r\n${upgrade}\r\n`)
    let text = ''
    for await (const chunk of socket.setEncoding('utf8')) text += chunk as string
    expect(text).toMatch(/^HTTP\/1\.1 101 /)
    expect(text).toMatch(/hello$/)
  })

  describe.each([
    ['in the clear', '/plain.Echo/'],
    ['over TLS, verified', '/secure.Echo/'],
  ])('gRPC %s', (_, prefix) => {
    async function call(method: string, body: Buffer, headers: Record<string, string> = {}) {
      const options = { servername: 'site.example', rejectUnauthorized: false }
      const session = connect(`https://127.0.0.1:${ports.https}`, options)
      try {
        const stream = session.request({
          ':method': 'POST',
          ':path': `${prefix}${method}`,
          ':authority': 'site.example',
          'content-type': 'application/grpc',
          te: 'trailers',
          ...headers,
        })
        let trailers: Record<string, unknown> = {}
        stream.on('trailers', (found: Record<string, unknown>) => (trailers = found))
        stream.end(body)
        const [answer] = (await once(stream, 'response')) as [Record<string, string>]
        const chunks: Buffer[] = []
        for await (const chunk of stream) chunks.push(chunk as Buffer)
        return { status: answer[':status'], body: Buffer.concat(chunks), trailers, answer }
      } finally {
        session.close()
      }
    }

    test('passes messages and trailers, and what headers say', async () => {
      const body = Buffer.alloc(200_000, 'x')
      const {
        status,
        body: back,
        trailers,
        answer,
      } = await call('Say', body, { 'x-one': '1', 'x-client-verify': 'SUCCESS' })
      expect([status, back.equals(body), trailers['grpc-status'], trailers['grpc-message']]).toEqual([
        200,
        true,
        '0',
        'fine',
      ])
      const seen = JSON.parse(answer['x-seen'] ?? '') as Record<string, string>
      expect(seen).toMatchObject({ ':path': `${prefix}Say`, te: 'trailers', 'x-one': '1', 'x-route': 'set' })
      expect(seen).toMatchObject({ 'x-forwarded-proto': 'https', 'x-real-ip': '127.0.0.1' })
      expect(Object.keys(seen).filter((name) => /^(?:connection|upgrade|x-client-.*)$/.test(name))).toEqual([])
      expect(answer['x-answer']).toBe('set')
    })
  })
})

function yaml(
  { http, https }: { http: number; https: number },
  [secure, plain, calls]: [number, number, number],
): string {
  const upstream = (name: string, port: number) =>
    document('Upstream', name, { endpoints: { [`127.0.0.1:${port}`]: {} } })
  const over = (path: string, tls?: object, rest: object = {}) => ({
    path,
    proxy: { upstream: 'secure', scheme: 'https', ...(tls === undefined ? {} : { tls }), ...rest },
  })
  const echo = { requestHeaders: { set: { 'X-Route': 'set' } }, responseHeaders: { set: { 'X-Answer': 'set' } } }
  const serverName = 'backend.internal'
  return [
    certificateYaml('own', own),
    secretYaml('own'),
    certificateYaml('proxy', proxyPair),
    secretYaml('proxy'),
    certificateYaml('ours', ours, ''),
    certificateYaml('theirs', theirs, ''),
    upstream('secure', secure),
    upstream('plain', plain),
    upstream('calls', calls),
    upstream('tripped', calls),
    document('Site', 'site', {
      hosts: ['site.example'],
      listeners: {
        http: { port: http, address: '127.0.0.1' },
        https: { port: https, address: '127.0.0.1', tls: { certificate: 'own' } },
      },
      routes: {
        verified: over('/verified/', { ca: 'ours', serverName }),
        strangers: over('/strangers/', { ca: 'theirs', serverName }),
        misnamed: over('/misnamed/', { ca: 'ours' }),
        unverified: over('/unverified/'),
        shown: over('/shown/', { ca: 'ours', serverName, clientCertificate: 'proxy' }),
        socket: over('/socket/', { ca: 'ours', serverName }, { websocket: true }),
        plain: {
          path: '/plain.Echo/',
          proxy: { upstream: 'plain', scheme: 'grpc' },
          timeouts: { read: '9s' },
          ...echo,
        },
        calls: {
          path: '/secure.Echo/',
          proxy: { upstream: 'calls', scheme: 'grpcs', tls: { ca: 'ours', serverName } },
          ...echo,
        },
        tripped: {
          path: '/tripped.Echo/',
          proxy: { upstream: 'tripped', scheme: 'grpcs', tls: { ca: 'ours', serverName } },
          timeouts: { read: '9s' },
          ...echo,
        },
        trippedPlain: {
          path: '/tripped/',
          proxy: { upstream: 'tripped', scheme: 'https', tls: { ca: 'ours', serverName } },
        },
      },
    }),
  ].join('\n---\n')
}
