/** Probes over real sockets: what passes, what does not, and that each ends in time. */

import { once } from 'node:events'
import { createServer, type RequestListener } from 'node:http'
import { createServer as createHttp2Server, type ServerHttp2Stream } from 'node:http2'
import { createServer as createSecureServer } from 'node:https'
import { createServer as createTcpServer, type AddressInfo, type Server } from 'node:net'
import { afterAll, describe, expect, test } from 'vitest'
import { nodeCertificate } from '../../src/adapters/certificate.ts'
import { keyPairFromSeed } from '../../src/core/envelope.ts'
import { parseDocument } from '../../src/core/resources/index.ts'
import { upstreamKind } from '../../src/core/resources/upstream.ts'
import { probe, type HealthCheck } from '../../src/upstreams/observing/probe.ts'
import { freePort } from '../support/real-nginx.ts'

const servers: Server[] = []
async function listen(server: Server): Promise<string> {
  servers.push(server)
  await once(server.listen(0, '127.0.0.1'), 'listening')
  return `127.0.0.1:${(server.address() as AddressInfo).port}`
}
afterAll(() => {
  for (const server of servers) server.close()
})

function check(healthCheck: Record<string, unknown>): HealthCheck {
  const document = { apiVersion: 'nxmesh/v1', kind: 'Upstream', metadata: { name: 'u' }, spec: { healthCheck } }
  const { spec } = parseDocument(document)
  return upstreamKind.schema.parse(spec).healthCheck as HealthCheck
}
const over = (listener: RequestListener) => listen(createServer(listener))

describe('http', () => {
  test.each([
    [{}, 204, true],
    [{}, 302, true],
    [{}, 404, false],
    [{}, 500, false],
    [{ expect: { status: [404] } }, 404, true],
    [{ expect: { status: [404] } }, 200, false],
    [{ expect: { body: 'all well' } }, 200, true],
    [{ expect: { body: 'not there' } }, 200, false],
    [{ expect: { status: [200], body: 'all well' } }, 500, false],
  ])('%j and an answer of %d: %s', async (parts, status, passes) => {
    const address = await over((_, response) => response.writeHead(status).end('it is all well here'))
    expect(await probe(address, check(parts))).toBe(passes)
  })

  test('asks for the path with the host header, of the port that is set', async () => {
    const asked: unknown[] = []
    const address = await over((request, response) => {
      asked.push([request.method, request.url, request.headers.host])
      response.end()
    })
    const port = Number(address.split(':')[1])
    expect(await probe('127.0.0.1:1', check({ path: '/h?a=%20', host: 'app.internal', port }))).toBe(true)
    expect(await probe(address, check({}))).toBe(true)
    expect(asked).toEqual([
      ['GET', '/h?a=%20', 'app.internal'],
      ['GET', '/', address],
    ])
  })

  test('over TLS, whoever signed the certificate', async () => {
    const { certPem, keyPem } = nodeCertificate(keyPairFromSeed(Buffer.alloc(32, 7)), ['127.0.0.1'])
    const address = await listen(createSecureServer({ cert: certPem, key: keyPem }, (_, response) => response.end()))
    expect(await probe(address, check({ scheme: 'https' }))).toBe(true)
    expect(await probe(address, check({}))).toBe(false)
  })

  test('ends in time when nothing is answered, or a body does not end', async () => {
    const silent = await over(() => undefined)
    expect(await probe(silent, check({ timeout: '50ms' }))).toBe(false)
    const endless = await over((_, response) => response.write('it begins'))
    expect(await probe(endless, check({ timeout: '50ms', expect: { body: 'ends' } }))).toBe(false)
    expect(await probe(endless, check({ timeout: '5s', expect: { body: 'begins' } }))).toBe(true)
  })

  test('does not pass where nobody listens', async () => {
    expect(await probe(`127.0.0.1:${await freePort()}`, check({}))).toBe(false)
  })
})

test('tcp passes where a connection is taken', async () => {
  const address = await listen(createTcpServer((socket) => socket.destroy()))
  expect(await probe(address, check({ type: 'tcp' }))).toBe(true)
  expect(await probe(`127.0.0.1:${await freePort()}`, check({ type: 'tcp' }))).toBe(false)
})

describe('grpc', () => {
  const health = async (answer: (stream: ServerHttp2Stream) => void, timeout: string) => {
    const server = createHttp2Server()
    server.on('stream', (stream, headers) => {
      stream.resume()
      if (headers[':path'] === '/grpc.health.v1.Health/Check') answer(stream)
    })
    return probe(await listen(server), check({ type: 'grpc', timeout }))
  }
  const silent = (): void => undefined
  const status = (code: number) => (stream: ServerHttp2Stream) => {
    stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true })
    stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0' }))
    stream.end(Buffer.from([0, 0, 0, 0, 2, 8, code]))
  }

  test.each([
    ['serving', status(1), true],
    ['not serving', status(2), false],
    [
      'without the service',
      (stream: ServerHttp2Stream) => stream.respond({ 'grpc-status': '12' }, { endStream: true }),
      false,
    ],
    ['silent', silent, false],
  ])('a server that is %s', async (_, answer, passes) => {
    expect(await health(answer, answer === silent ? '50ms' : '30s')).toBe(passes)
  })
})
