/**
 * Clients behind proxies, on a real nginx: what a trusted proxy says of the client counts for the log, the upstream and
 * lists of clients, and what anybody else says does not.
 */

import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createServer as createHttpServer, type Server as HttpServer } from 'node:http'
import { connect, createServer, type AddressInfo, type Server } from 'node:net'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { ask, freePort, nginxDirectory, serve } from '../support/real-nginx.ts'
import { renderYaml } from '../support/resources.ts'
import { waitFor } from '../support/wait.ts'
import { LocalNginx } from '../../src/adapters/nginx-process.ts'

let backend: HttpServer
let echo: Server
let port: number
let flow: number
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
  const { host: layout, remove: removeDirectory } = nginxDirectory(port)
  const host = { ...layout, liveLane: false }
  remove = removeDirectory
  logs = join(host.directory, 'logs')
  const of = (server: Server | HttpServer) => `endpoints: { '127.0.0.1:${(server.address() as AddressInfo).port}': {} }`
  const yaml = [
    `kind: ZoneSettings\nmetadata: { name: settings }\nspec: { realClient: { trust: [127.0.0.0/8, 10.0.0.0/8] } }`,
    `kind: Upstream\nmetadata: { name: app }\nspec: { ${of(backend)} }`,
    `kind: Upstream\nmetadata: { name: echo }\nspec: { ${of(echo)} }`,
    `kind: Site\nmetadata: { name: s }\nspec: { hosts: [s.example], routes: { r: { path: /, proxy: { upstream: app } } } }`,
    `kind: Stream\nmetadata: { name: f }\nspec: { upstream: echo, proxyProtocol: true, deny: [198.51.100.0/24], listeners: { m: { port: ${flow}, proxyProtocol: true } } }`,
  ].map((text) => `apiVersion: nxmesh/v1\n${text}\n`)
  const nginx = new LocalNginx({ ...host, binary: 'nginx', mode: 'own' })
  const { generation, problems } = renderYaml(yaml.join('---\n'), { host, capabilities: await nginx.capabilities() })
  if (problems.length > 0) throw new Error(problems[0]?.message)
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

/** What comes back of a stream for what is sent, or before the other side closes. */
async function say(text: string): Promise<string> {
  const socket = connect({ host: '127.0.0.1', port: flow })
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
