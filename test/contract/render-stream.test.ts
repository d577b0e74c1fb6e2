/**
 * Streams on a real nginx: what clients send over TCP and UDP reaches the upstream, TLS passes by its name with no key of
 * ours, addresses of clients are told and obeyed, and a port is shared as the slice says.
 */

import { createSocket, type Socket as DatagramSocket } from 'node:dgram'
import { once } from 'node:events'
import { connect, createServer, type AddressInfo, type Server } from 'node:net'
import { connect as connectTls, createServer as createTlsServer } from 'node:tls'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { LocalNginx } from '../../src/adapters/nginx-process.ts'
import { probe, probeTargets } from '../../src/nginx/applying/probe.ts'
import { makeCertificate } from '../support/certificates.ts'
import { freePort, nginxDirectory, serve } from '../support/real-nginx.ts'
import { renderYaml } from '../support/resources.ts'

const servers: Server[] = []
let datagrams: DatagramSocket
let stop: () => Promise<void> = () => Promise.resolve()
let remove: () => void = () => undefined
let rendered: ReturnType<typeof renderYaml>
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
  const tls = (name: string) => {
    const { certificate, key } = makeCertificate([`${name}.example`])
    return listening(createTlsServer({ cert: certificate, key }, (socket) => socket.end(name)))
  }
  const [one, two] = [await tls('one'), await tls('two')]
  datagrams = createSocket('udp4')
  datagrams.on('message', (text, from) => datagrams.send(`${String(text)} back`, from.port, from.address))
  datagrams.bind(0, '127.0.0.1')
  await once(datagrams, 'listening')
  for (const name of ['echo', 'udp', 'names', 'told', 'trusting', 'closed', 'few', 'idle', 'http'])
    ports[name] = await freePort()
  const { host, remove: removeDirectory } = nginxDirectory(ports['http'] as number)
  remove = removeDirectory
  const at = (name: string, more = '') => `listeners: { main: { port: ${ports[name]}, address: 127.0.0.1${more} } }`
  const nginx = new LocalNginx({ ...host, binary: 'nginx', mode: 'own' })
  rendered = renderYaml(
    [
      upstream('echo', echo),
      upstream('datagrams', datagrams.address().port),
      upstream('one', one),
      upstream('two', two),
      stream('echo', `upstream: echo, ${at('echo')}, timeouts: { connect: 1s, idle: 1m }`),
      stream('udp', `upstream: datagrams, ${at('udp', ', protocol: udp')}, responses: 1`),
      stream('one', `upstream: one, ${at('names')}, hosts: [one.example, '*.one.example']`),
      stream('two', `upstream: two, ${at('names')}, hosts: ['*'], deny: [10.0.0.0/8]`),
      stream('told', `upstream: echo, ${at('told')}, proxyProtocol: true`),
      stream('named', `upstream: echo, ${at('trusting')}, hosts: [told.example], proxyProtocol: true`),
      stream('idle', `upstream: echo, ${at('idle')}, timeouts: { idle: 100ms }`),
      stream('closed', `upstream: echo, ${at('closed')}, allow: [10.0.0.0/8]`),
      stream('few', `upstream: echo, ${at('few')}, connectionsPerClient: 1`),
      // Younger than the stream on its port.
      `apiVersion: nxmesh/v1\nkind: Site\nmetadata: { name: late }\nspec: { hosts: ['*'], ${at('echo')} }\n`,
    ].join('---\n'),
    { host, capabilities: await nginx.capabilities() },
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
async function say(port: number | undefined, text: string): Promise<string> {
  const socket = connect({ host: '127.0.0.1', port: port as number })
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

test('the upstream is told the client by a PROXY header', async () => {
  expect(await say(ports['told'], 'hello')).toMatch(/^PROXY TCP4 127\.0\.0\.1 127\.0\.0\.1 \d+ \d+\r\nhello$/)
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
      'more streams want this port, or as many and the oldest',
  ])
})

test('a probe says whether the port of a stream takes connections', async () => {
  const targets = probeTargets(rendered.units.filter(({ kind }) => kind === 'stream'))
  expect(targets).toHaveLength(8)
  const answers = await probe(targets, 5_000)
  expect(new Set([...answers.values()].map(({ kind }) => kind))).toEqual(new Set(['accepted']))
  const [first] = targets as [(typeof targets)[0]]
  const nowhere = { ...first, port: await freePort() }
  expect((await probe([nowhere], 5_000)).get(first.site)).toEqual({ kind: 'refused' })
})
