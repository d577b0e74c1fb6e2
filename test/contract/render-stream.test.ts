/**
 * Streams on a real nginx: what clients send over TCP and UDP reaches the upstream, TLS passes by its name with no key of
 * ours or ends here, addresses of clients are told and obeyed, and a port is shared as the slice says.
 */

import { createSocket, type Socket as DatagramSocket } from 'node:dgram'
import { once } from 'node:events'
import { connect, createServer, type AddressInfo, type Server } from 'node:net'
import { connect as connectTls, createServer as createTlsServer, type ConnectionOptions } from 'node:tls'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { clientHello } from '../../src/cli/importing/stream-answer.ts'
import { LocalNginx } from '../../src/adapters/nginx-process.ts'
import { probe, probeTargets } from '../../src/nginx/applying/probe.ts'
import { certificateYaml, makeCertificate, secretsOf, secretYaml } from '../support/certificates.ts'
import { freePort, nginxDirectory, serve } from '../support/real-nginx.ts'
import { renderYaml } from '../support/resources.ts'

const servers: Server[] = []
let datagrams: DatagramSocket
let stop: () => Promise<void> = () => Promise.resolve()
let remove: () => void = () => undefined
let rendered: ReturnType<typeof renderYaml>
const TLS_PORTS = ['plain', 'ending', 'modern', 'known', 'open', 'verified', 'misled', 'misnamed', 'shown']
const own = makeCertificate(['own.example'])
const people = makeCertificate(['people'])
const ana = makeCertificate(['ana'], people)
const mallory = makeCertificate(['ana'], makeCertificate(['people']))
const [one, two] = ['one', 'two'].map((name) => makeCertificate([`${name}.example`])) as [typeof own, typeof own]
const ports: Record<string, number> = {}

async function listening(server: Server): Promise<number> {
  servers.push(server)
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return (server.address() as AddressInfo).port
}

function stream(name: string, spec: string): string {
  return `apiVersion: nxmesh/v1\nkind: Stream\nmetadata: { name: ${name} }\nspec: { ${spec} }\n`
}
function upstream(name: string, port: number): string {
  const endpoints = `endpoints: { '127.0.0.1:${port}': {} }`
  return `apiVersion: nxmesh/v1\nkind: Upstream\nmetadata: { name: ${name} }\nspec: { ${endpoints} }\n`
}

beforeAll(async () => {
  const echo = await listening(createServer((socket) => socket.on('error', () => undefined).pipe(socket)))
  const tls = (name: string, { certificate, key }: typeof own, options: object = {}) =>
    listening(
      createTlsServer({ cert: certificate, key, ...options }, (socket) =>
        socket.end(
          `${name} ${String(socket.servername)} ${String(socket.getPeerCertificate().subject?.CN ?? 'nobody')}`,
        ),
      ).on('tlsClientError', () => undefined),
    )
  const asking = { requestCert: true, ca: people.certificate }
  const [first, second, third] = [await tls('one', one), await tls('two', two), await tls('three', one, asking)]
  datagrams = createSocket('udp4')
  datagrams.on('message', (text, from) => datagrams.send(`${String(text)} back`, from.port, from.address))
  datagrams.bind(0, '127.0.0.1')
  await once(datagrams, 'listening')
  for (const name of ['echo', 'udp', 'names', 'told', 'trusting', 'closed', 'few', 'idle', 'http', ...TLS_PORTS])
    ports[name] = await freePort()
  const { host, remove: removeDirectory } = nginxDirectory(ports['http'] as number)
  remove = removeDirectory
  const at = (name: string, more = '') => `listeners: { main: { port: ${ports[name]}, address: 127.0.0.1${more} } }`
  const nginx = new LocalNginx({ ...host, binary: 'nginx', mode: 'own' })
  rendered = renderYaml(
    [
      upstream('echo', echo),
      upstream('datagrams', datagrams.address().port),
      upstream('one', first),
      upstream('two', second),
      upstream('three', third),
      ...Object.entries({ own, people, one, ana }).map(([name, pair]) => `${certificateYaml(name, pair)}\n`),
      ...['own', 'people', 'one', 'ana'].map((name) => `${secretYaml(name)}\n`),
      stream(
        'ending',
        `upstream: echo, listeners: { plain: { port: ${ports['plain']} }, tls: { port: ${ports['ending']}, tls: { certificate: own } } }`,
      ),
      stream('modern', `upstream: echo, ${at('modern', ', tls: { certificate: own, minVersion: TLSv1.3 }')}`),
      stream(
        'known',
        `upstream: echo, ${at('known', ', proxyProtocol: true, tls: { certificate: own, clientCertificate: { ca: people } }')}`,
      ),
      stream(
        'own',
        `upstream: echo, ${at('names', ', tls: { certificate: own }')}, hosts: [own.example], proxyProtocol: true`,
      ),
      stream('open', `upstream: one, ${at('open')}, upstreamTls: {}`),
      stream('verified', `upstream: one, ${at('verified')}, upstreamTls: { ca: one, serverName: one.example }`),
      stream('misled', `upstream: two, ${at('misled')}, upstreamTls: { ca: one, serverName: one.example }`),
      stream('misnamed', `upstream: one, ${at('misnamed')}, upstreamTls: { ca: one, serverName: two.example }`),
      stream(
        'shown',
        `upstream: three, ${at('shown')}, upstreamTls: { ca: one, serverName: one.example, clientCertificate: ana }`,
      ),
      stream('echo', `upstream: echo, ${at('echo')}, timeouts: { connect: 1s, idle: 1m }`),
      stream('udp', `upstream: datagrams, ${at('udp', ', protocol: udp')}, responses: 1`),
      stream('one', `upstream: one, ${at('names')}, hosts: [one.example, '*.one.example']`),
      stream('two', `upstream: two, ${at('names')}, hosts: ['*'], deny: [10.0.0.0/8]`),
      stream('words', `upstream: one, ${at('names')}, hosts: [default, hostnames, include, volatile]`),
      stream('told', `upstream: echo, ${at('told')}, proxyProtocol: true`),
      stream('named', `upstream: echo, ${at('trusting')}, hosts: [told.example], proxyProtocol: true`),
      stream('idle', `upstream: echo, ${at('idle')}, timeouts: { idle: 100ms }`),
      stream('closed', `upstream: echo, ${at('closed')}, allow: [10.0.0.0/8]`),
      stream('few', `upstream: echo, ${at('few')}, connectionsPerClient: 1`),
      // Younger than the stream on its port.
      `apiVersion: nxmesh/v1\nkind: Site\nmetadata: { name: late }\nspec: { hosts: ['*'], ${at('echo')} }\n`,
    ].join('---\n'),
    { host, capabilities: await nginx.capabilities(), secrets: secretsOf({ own, people, one, ana }) },
  )
  const served = await serve(host, rendered.generation)
  stop = served.stop
})

afterAll(async () => {
  await stop()
  for (const server of servers) server.close()
  datagrams.close()
  remove()
})

/** What comes back until the text does, or before the other side closes. */
async function say(port: number | undefined, text: string, over?: ConnectionOptions, head?: string): Promise<string> {
  const tcp = connect({ host: '127.0.0.1', port: port as number })
  if (head !== undefined) tcp.write(head)
  if (over !== undefined) await once(tcp, 'connect')
  const socket = over === undefined ? tcp : connectTls({ socket: tcp, rejectUnauthorized: false, ...over })
  let back = ''
  try {
    socket.write(text)
    for await (const chunk of socket.setEncoding('utf8')) {
      back += String(chunk)
      if (text !== '' && back.endsWith(text)) break
    }
  } catch {
    // Reset: what came until then is the answer.
  }
  socket.destroy()
  return back
}

/** Who answers to a name over TLS; with a certificate for what name. */
async function greet(servername: string | undefined): Promise<string> {
  const named = servername === undefined ? {} : { servername }
  const socket = connectTls({ host: '127.0.0.1', port: ports['names'], rejectUnauthorized: false, ...named })
  await once(socket, 'secureConnect')
  const { subjectaltname = '' } = socket.getPeerCertificate()
  let back = ''
  for await (const chunk of socket.setEncoding('utf8')) back += String(chunk)
  return `${back} ${subjectaltname}`
}

test('TCP reaches the upstream and comes back', async () => {
  expect(await say(ports['echo'], 'hello')).toBe('hello')
})

test('UDP reaches the upstream and comes back', async () => {
  const client = createSocket('udp4')
  client.send('hello', ports['udp'] as number, '127.0.0.1')
  const [back] = (await once(client, 'message')) as [Buffer]
  client.close()
  expect(back.toString()).toBe('hello back')
})

test('TLS passes through by the name that a client says, and ends at the upstream', async () => {
  expect(await greet('one.example')).toMatch(/^one .*one\.example/)
  expect(await greet('a.one.example')).toMatch(/^one /)
  expect(await greet('two.example')).toMatch(/^two .*two\.example/)
  expect(await greet(undefined)).toMatch(/^two /)
})

test('hosts that are words of nginx are names like others, and change nothing for others', async () => {
  for (const name of ['default', 'hostnames', 'include', 'volatile']) expect(await greet(name)).toMatch(`one ${name} `)
})

test('TLS ends at the listener that says so, with the certificate that it names, from the version that it names', async () => {
  const verified = { ca: own.certificate, servername: 'own.example', rejectUnauthorized: true }
  expect(await say(ports['ending'], 'hello', verified)).toBe('hello')
  expect(await say(ports['plain'], 'hello')).toBe('hello')
  expect(await say(ports['ending'], 'hello')).toBe('')
  const old = { maxVersion: 'TLSv1.2' as const }
  expect(await say(ports['ending'], 'hello', old)).toBe('hello')
  expect(await say(ports['modern'], 'hello', old)).toBe('')
  expect(await say(ports['modern'], 'hello', {})).toBe('hello')
})

test('TLS ends behind a PROXY header too, for clients with a certificate of ours alone', async () => {
  const head = 'PROXY TCP4 203.0.113.7 127.0.0.1 4000 5000\r\n'
  const as = ({ certificate, key }: typeof own) => ({ cert: certificate, key })
  expect(await say(ports['known'], 'hello', as(ana), head)).toBe('hello')
  expect(await say(ports['known'], 'hello', as(mallory), head)).toBe('')
  expect(await say(ports['known'], 'hello', {}, head)).toBe('')
})

test('TLS ends for one name, and passes for the others of its port', async () => {
  const verified = { ca: own.certificate, servername: 'own.example', rejectUnauthorized: true }
  expect(await say(ports['names'], 'hello', verified)).toMatch(/^PROXY TCP4 127\.0\.0\.1 .*\r\nhello$/)
})

test('an upstream is spoken to over TLS, verified by its name and authority, and shown a certificate', async () => {
  expect(await say(ports['open'], '')).toBe('one false nobody')
  expect(await say(ports['verified'], '')).toBe('one one.example nobody')
  expect(await say(ports['misled'], '')).toBe('')
  expect(await say(ports['misnamed'], '')).toBe('')
  expect(await say(ports['shown'], '')).toBe('three one.example ana')
})

test('the upstream is told the client by a PROXY header', async () => {
  expect(await say(ports['told'], 'hello')).toMatch(/^PROXY TCP4 127\.0\.0\.1 127\.0\.0\.1 \d+ \d+\r\nhello$/)
})

test('behind the choice by name the PROXY header tells addresses too, which upstreams take', async () => {
  const socket = connect({ host: '127.0.0.1', port: ports['trusting'] as number })
  socket.write(await clientHello('told.example'))
  const [header] = (await once(socket, 'data')) as [Buffer]
  expect(header.toString('latin1')).toMatch(/^PROXY TCP4 127\.0\.0\.1 127\.0\.0\.1 \d+ \d+\r\n/)
  socket.destroy()
})

test('clients that are not allowed get nothing, nor do names that no stream has', async () => {
  expect(await say(ports['closed'], 'hello')).toBe('')
  expect(await say(ports['trusting'], 'GET / HTTP/1.1\r\n\r\n')).toBe('')
})

test('a client that says nothing is let go after the idle time', async () => {
  // Ends by itself, with nothing said, which waits for nobody's clock but nginx's.
  expect(await say(ports['idle'], '')).toBe('')
})

test('a client has so many connections at once', async () => {
  const first = connect({ host: '127.0.0.1', port: ports['few'] as number })
  first.write('a')
  await once(first, 'data')
  expect(await say(ports['few'], 'hello')).toBe('')
  first.destroy()
  await expect.poll(() => say(ports['few'], 'hello'), { timeout: 10_000 }).toBe('hello')
})

test('a site does not get the port of an older stream, and says so', () => {
  expect(rendered.problems.map(({ path, code, message }) => `${path} ${code} ${message}`)).toEqual([
    `default/*/site/late clash cannot listen on 127.0.0.1:${ports['echo']} beside the stream default/*/stream/echo: ` +
      'more streams of its workspace, or as many and the oldest, want this port',
  ])
})

test('a probe says whether the port of a stream takes connections', async () => {
  const targets = probeTargets(rendered.units.filter(({ kind }) => kind === 'stream'))
  expect(targets).toHaveLength(18)
  const answers = await probe(targets, 5_000)
  expect(new Set([...answers.values()].map(({ kind }) => kind))).toEqual(new Set(['accepted']))
  const [first] = targets as [(typeof targets)[0]]
  const nowhere = { ...first, port: await freePort() }
  expect((await probe([nowhere], 5_000)).get(first.site)).toEqual({ kind: 'refused' })
})
