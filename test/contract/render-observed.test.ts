import { once } from 'node:events'
import { createServer } from 'node:http'
import { createServer as createSecureServer } from 'node:https'
import type { AddressInfo, Server } from 'node:net'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { nodeCertificate } from '../../src/adapters/certificate.ts'
import { probe } from '../../src/nginx/applying/probe.ts'
import type { HostLayout } from '../../src/nginx/rendering/host-layout.ts'
import { keyPairFromSeed } from '../../src/core/envelope.ts'
import { ask, freePort, nginxDirectory, serve, testGeneration } from '../support/real-nginx.ts'
import { renderYaml } from '../support/resources.ts'

describe('observed health, on real nginx', () => {
  const seen: string[] = []
  let host: HostLayout
  let port: number
  let servers: Server[] = []
  let nginx: Awaited<ReturnType<typeof serve>>
  let remove: () => void

  beforeAll(async () => {
    const listen = (name: string) =>
      createServer((request, response) => {
        seen.push(name)
        request.resume().on('end', () => response.end(name))
      })
    const { certPem, keyPem } = nodeCertificate(keyPairFromSeed(Buffer.alloc(32, 7)), ['127.0.0.1'])
    const secure = createSecureServer({ cert: certPem, key: keyPem }, (_, response) => {
      seen.push('secure')
      response.end('secure')
    })
    servers = [listen('one'), listen('two'), listen('tripped'), secure]
    for (const server of servers) await once(server.listen(0, '127.0.0.1'), 'listening')
    const [one, two, tripped, tls] = servers.map((server) => `127.0.0.1:${(server.address() as AddressInfo).port}`)
    // Linux has all of 127/8 on loopback.
    const forbidden = listen('metadata')
    servers.push(forbidden)
    await once(forbidden.listen(0, '127.9.9.9'), 'listening')
    const metadataPort = (forbidden.address() as AddressInfo).port
    const metadata = `127.9.9.9:${metadataPort}`
    port = await freePort()
    ;({ host, remove } = nginxDirectory(port))
    host = { ...host, refusedEndpoints: [{ network: '127.9.0.0/16' }] }
    const { generation, problems } = renderYaml(
      `
apiVersion: nxmesh/v1
kind: Site
metadata: { name: s, zone: '*' }
spec:
  hosts: [a.example, '*']
  routes:
    both: { path: /both, proxy: { upstream: both } }
    last: { path: /last, proxy: { upstream: last } }
    tripped: { path: /, proxy: { upstream: tripped } }
    secure: { path: /secure, proxy: { upstream: secure, scheme: https } }
    shut: { path: /shut, proxy: { upstream: shut, scheme: https } }
    partly: { path: /partly, proxy: { upstream: partly } }
    refused: { path: /refused, proxy: { upstream: refused } }
    mixed:
      path: /mixed
      proxy:
        scheme: https
        split: { a: { upstream: secure, weight: 1 }, b: { upstream: shut, weight: 1 } }
        force: { header: X-Target }
---
apiVersion: nxmesh/v1
kind: Upstream
metadata: { name: both, zone: '*' }
spec: { endpoints: { '${one}': {}, '${two}': {} } }
---
apiVersion: nxmesh/v1
kind: Upstream
metadata: { name: partly, zone: '*' }
spec: { endpoints: { '${two}': {}, '${metadata}': {}, 'metadata.example:${metadataPort}': {} } }
---
apiVersion: nxmesh/v1
kind: Upstream
metadata: { name: refused, zone: '*' }
spec: { endpoints: { '${metadata}': {} } }
---
apiVersion: nxmesh/v1
kind: Upstream
metadata: { name: last, zone: '*' }
spec: { endpoints: { '${one}': {}, '${two}': { down: true } } }
---
apiVersion: nxmesh/v1
kind: Upstream
metadata: { name: tripped, zone: '*' }
spec: { endpoints: { '${tripped}': {} }, keepalive: { connections: 4 } }
---
apiVersion: nxmesh/v1
kind: Upstream
metadata: { name: secure, zone: '*' }
spec: { endpoints: { '${tls}': {} } }
---
apiVersion: nxmesh/v1
kind: Upstream
metadata: { name: shut, zone: '*' }
spec: { endpoints: { '${tls}': {} } }
`,
      {
        host,
        addresses: new Map([['metadata.example', ['127.9.9.9']]]),
        ejected: new Set([`default/*/upstream/both ${one}`, `default/*/upstream/last ${one}`]),
        openCircuits: new Set(['default/*/upstream/tripped', 'default/*/upstream/shut']),
      },
    )
    const { words } = await testGeneration(host, generation)
    const told = problems.filter(({ message }) => message.includes('this host asks nobody at 127.9.9.9'))
    if (told.length !== 2 || problems.length !== 2 || words !== '') throw new Error(problems[0]?.message ?? words)
    nginx = await serve(host, generation)
  })
  afterAll(async () => {
    await nginx?.stop()
    for (const server of servers) server.close()
    remove?.()
  })

  const get = (path: string, headers: Record<string, string> = {}, body = '') =>
    ask({ port, path, method: body === '' ? 'GET' : 'POST', headers: { host: 'a.example', ...headers } }, body)

  test('an ejected endpoint gets no request', async () => {
    for (let count = 0; count < 8; count += 1) expect((await get('/both')).body).toBe('two')
  })

  test('the last endpoint serves although it is ejected', async () => {
    expect((await get('/last')).body).toBe('one')
  })

  test('endpoints that the host refuses are asked by nobody, by address or by name', async () => {
    for (let count = 0; count < 8; count += 1) expect((await get('/partly')).body).toBe('two')
    expect((await get('/refused')).status).toBe(502)
    expect(seen).not.toContain('metadata')
  })

  test('an open circuit answers 503 at once, says so, and asks no endpoint', async () => {
    const answer = await get('/x%2Fy', {}, 'a body')
    expect(answer.status).toBe(503)
    expect(answer.headers).toMatchObject({ 'x-nxmesh-circuit': 'open', 'retry-after': '10' })
    expect(seen).not.toContain('tripped')
  })

  test('an open circuit answers 503 for what is passed on over TLS too, alone and in a split', async () => {
    expect((await get('/secure')).body).toBe('secure')
    expect((await get('/shut')).headers['x-nxmesh-circuit']).toBe('open')
    expect((await get('/mixed', { 'X-Target': 'a' })).body).toBe('secure')
    const shut = await get('/mixed', { 'X-Target': 'b' })
    expect([shut.status, shut.headers['x-nxmesh-circuit']]).toEqual([503, 'open'])
  })

  test('a probe takes the answer of an open circuit for no fault of the generation', async () => {
    const target = { site: 's', address: '127.0.0.1', port, host: 'a.example' }
    expect((await probe([target], 5_000)).get('s')).toEqual({ kind: 'planned' })
  })
})
