/**
 * Clients behind proxies, on a real nginx: what a trusted proxy says of the client, in a header of HTTP or of PROXY, counts
 * for the log, the upstream and lists of clients, and what anybody else says does not.
 */

import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createServer as createHttpServer, type Server as HttpServer } from 'node:http'
import { connect, createServer, type AddressInfo, type Server } from 'node:net'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { certificateFault } from '../../src/nginx/applying/certificate-proof.ts'
import { probe, probeTargets, sameTarget } from '../../src/nginx/applying/probe.ts'
import type { Unit } from '../../src/nginx/rendering/unit.ts'
import { certificateYaml, makeCertificate, secretsOf, secretYaml } from '../support/certificates.ts'
import { ask, freePort, nginxDirectory, serve } from '../support/real-nginx.ts'
import { renderYaml } from '../support/resources.ts'
import { waitFor } from '../support/wait.ts'
import { LocalNginx } from '../../src/adapters/nginx-process.ts'

let backend: HttpServer
let echo: Server
let port: number
let flow: number
let proxied: number
let secure: number
let units: readonly Unit[]
let logs: string
let stop: () => Promise<void> = () => Promise.resolve()
let remove: () => void = () => undefined

beforeAll(async () => {
  backend = createHttpServer((request, response) => response.end(String(request.headers['x-real-ip'])))
  backend.listen(0, '127.0.0.1')
  echo = createServer((socket) => socket.on('error', () => undefined).pipe(socket)).listen(0, '127.0.0.1')
  await Promise.all([once(backend, 'listening'), once(echo, 'listening')])
  port = await freePort()
  flow = await freePort()
  proxied = await freePort()
  secure = await freePort()
  const { host: layout, remove: removeDirectory } = nginxDirectory(port)
  const host = { ...layout, liveLane: false }
  remove = removeDirectory
  logs = join(host.directory, 'logs')
  const of = (server: Server | HttpServer) => `endpoints: { '127.0.0.1:${(server.address() as AddressInfo).port}': {} }`
  const yaml = [
    `kind: ZoneSettings\nmetadata: { name: settings }\nspec: { realClient: { trust: [127.0.0.1, 10.0.0.0/8] } }`,
    `kind: Upstream\nmetadata: { name: app }\nspec: { ${of(backend)} }`,
    `kind: Upstream\nmetadata: { name: echo }\nspec: { ${of(echo)} }`,
    `kind: Site\nmetadata: { name: s }\nspec: { hosts: [s.example], routes: { r: { path: /, proxy: { upstream: app } } } }`,
    `kind: Site\nmetadata: { name: p }\nspec: { hosts: [p.example], listeners: { p: { port: ${proxied}, proxyProtocol: true } }, routes: { r: { path: /, proxy: { upstream: app } } } }`,
    `kind: Site\nmetadata: { name: both }\nspec: { hosts: [both.example], listeners: { p: { port: ${proxied}, proxyProtocol: true }, h: { port: ${port} } }, routes: { r: { path: /, proxy: { upstream: app } } } }`,
    `kind: Site\nmetadata: { name: t }\nspec: { hosts: [t.example], listeners: { p: { port: ${secure}, proxyProtocol: true, tls: { certificate: own } } }, routes: { r: { path: /, proxy: { upstream: app } } } }`,
    `kind: Stream\nmetadata: { name: f }\nspec: { upstream: echo, proxyProtocol: true, deny: [198.51.100.0/24], listeners: { m: { port: ${flow}, proxyProtocol: true } } }`,
  ].map((text) => `apiVersion: nxmesh/v1\n${text}\n`)
  const own = makeCertificate(['t.example'])
  yaml.push(...[certificateYaml('own', own), secretYaml('own')].map((text) => `${text}\n`))
  const nginx = new LocalNginx({ ...host, binary: 'nginx', mode: 'own' })
  const capabilities = await nginx.capabilities()
  const rendered = renderYaml(yaml.join('---\n'), { host, capabilities, secrets: secretsOf({ own }) })
  const { generation, problems } = rendered
  if (problems.length > 0) throw new Error(problems[0]?.message)
  units = rendered.units
  stop = (await serve(host, generation)).stop
})

afterAll(async () => {
  await stop()
  backend.close()
  echo.close()
  remove()
})

const clientSeen = async (forwarded: string): Promise<string> =>
  (await ask({ port, path: '/', headers: { host: 's.example', 'x-forwarded-for': forwarded } })).body

test('the client of a trusted proxy is whom the upstream and the log see', async () => {
  expect(await clientSeen('203.0.113.7')).toBe('203.0.113.7')
  await waitFor(() => readFileSync(join(logs, 'access.log'), 'utf8').includes('"client":"203.0.113.7"'), {
    what: 'the request in the log',
  })
})

test('of several addresses the last that is not trusted counts, so that nobody can say who they are', async () => {
  expect(await clientSeen('198.51.100.9, 203.0.113.7, 10.0.0.3')).toBe('203.0.113.7')
})

/** What comes back for what is sent, by the last word of it, or before the other side closes. */
async function say(text: string, to = flow, localAddress = '127.0.0.1'): Promise<string> {
  const socket = connect({ host: '127.0.0.1', port: to, localAddress })
  let back = ''
  try {
    socket.write(text)
    for await (const chunk of socket.setEncoding('utf8')) {
      back += String(chunk)
      if (back.endsWith('hello')) break
    }
  } catch {
    // Reset: what came until then is the answer.
  }
  socket.destroy()
  return back
}

test('a stream tells its upstream the client of a trusted PROXY header, and obeys its lists by it', async () => {
  expect(await say('PROXY TCP4 203.0.113.7 127.0.0.1 4000 5000\r\nhello')).toMatch(
    /^PROXY TCP4 203\.0\.113\.7 .*\r\nhello$/,
  )
  expect(await say('PROXY TCP4 198.51.100.9 127.0.0.1 4000 5000\r\nhello')).toBe('')
  expect(await say('hello')).toBe('')
})

const GET = (host: string) =>
  `GET / HTTP/1.1\r\nHost: ${host}\r\nX-Forwarded-For: 198.51.100.9\r\nConnection: close\r\n\r\n`
const PROXY = 'PROXY TCP4 203.0.113.7 127.0.0.1 4000 5000\r\n'

test('a site behind a PROXY header knows the client by it, from trusted proxies alone', async () => {
  expect(await say(PROXY + GET('p.example'), proxied)).toMatch(/^HTTP\/1.1 200 [^]*\r\n203\.0\.113\.7$/)
  expect(await say(PROXY + GET('p.example'), proxied, '127.0.0.2')).toMatch(/^HTTP\/1.1 200 [^]*\r\n127\.0\.0\.2$/)
  expect(await say(GET('p.example'), proxied)).toBe('')
  expect(await say(PROXY + GET('nobody.example'), proxied)).toMatch(/^HTTP\/1.1 404 [^]*no site answers/)
  await waitFor(
    () =>
      /"site":"default\/\*\/site\/p",[^\n]*"client":"203\.0\.113\.7"/.test(
        readFileSync(join(logs, 'access.log'), 'utf8'),
      ),
    {
      what: 'the request in the log',
    },
  )
})

test('a site that listens with and without PROXY headers goes by each where it is', async () => {
  expect(await say(PROXY + GET('both.example'), proxied)).toContain('203.0.113.7')
  const headers = { host: 'both.example', 'x-forwarded-for': '203.0.113.8' }
  expect((await ask({ port, path: '/', headers })).body).toBe('203.0.113.8')
})

test('the daemon itself begins with a PROXY header where a site wants one, over TLS too', async () => {
  const targets = probeTargets(units.filter(({ kind }) => kind === 'site'))
  expect(Object.fromEntries(await probe(targets, 5_000))).toEqual(
    Object.fromEntries(
      ['both', 'p', 's', 't'].map((name) => [`default/*/site/${name}`, { kind: 'status', status: 200 }]),
    ),
  )
  const behind = targets.filter(({ proxyProtocol }) => proxyProtocol === true)
  expect(behind.map(({ site }) => site)).toContain('default/*/site/t')
  const [one] = behind as [(typeof behind)[0]]
  const { proxyProtocol: _, ...bare } = one
  expect((await probe([bare], 5_000)).get(one.site)?.kind).toBe('silent')
  expect(sameTarget(one, bare)).toBe(false)
  expect((await probe([{ ...one, port: await freePort() }], 5_000)).get(one.site)).toEqual({ kind: 'refused' })
  // What hangs up ends no more than the probe.
  const rude = createServer((socket) => socket.resetAndDestroy()).listen(0, '127.0.0.1')
  await once(rude, 'listening')
  const hungUp = behind.map((target) => ({ ...target, port: (rude.address() as AddressInfo).port }))
  expect([...(await probe(hungUp, 5_000)).values()].map(({ kind }) => kind)).toEqual(hungUp.map(() => 'silent'))
  rude.close()
  const secured = units.filter(({ path }) => path.endsWith('/t'))
  expect(await certificateFault(secured, [''], () => [])).toBeUndefined()
})
