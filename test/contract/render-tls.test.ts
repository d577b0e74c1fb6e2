import { once } from 'node:events'
import { createServer, type Server } from 'node:http'
import { connect as connectHttp2 } from 'node:http2'
import { request } from 'node:https'
import type { AddressInfo } from 'node:net'
import { connect, type ConnectionOptions, type DetailedPeerCertificate } from 'node:tls'
import { X509Certificate } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { probe, probeTargets } from '../../src/nginx/applying/probe.ts'
import type { HostLayout } from '../../src/nginx/rendering/host-layout.ts'
import type { Unit } from '../../src/nginx/rendering/unit.ts'
import { certificateYaml, makeCertificate, secretsOf, secretYaml } from '../support/certificates.ts'
import { ask, freePort, nginxDirectory, serve, testGeneration, type Answer } from '../support/real-nginx.ts'
import { DEBIAN_12, renderYaml } from '../support/resources.ts'

const one = makeCertificate(['one.example', '*.one.example'])
const two = makeCertificate(['two.example'])
const people = makeCertificate(['people'])
const strangers = makeCertificate(['strangers'])
const ana = makeCertificate(['ana'], people)
const bea = makeCertificate(['bea'], people)
const mallory = makeCertificate(['ana'], strangers)
const KEYS = { one, two }

const site = (name: string, spec: object) =>
  JSON.stringify({ apiVersion: 'nxmesh/v1', kind: 'Site', metadata: { name, zone: '*' }, spec })
const says = (text: string) => ({ root: { path: '/', return: { status: 200, body: text } } })

describe('TLS, on real nginx', () => {
  let host: HostLayout
  let ports: { http: number; https: number; whole: number; closed: number }
  let backend: Server
  let units: readonly Unit[]
  let nginx: Awaited<ReturnType<typeof serve>>
  let remove: () => void

  beforeAll(async () => {
    backend = createServer((incoming, response) => response.end(JSON.stringify(incoming.headers))).listen(
      0,
      '127.0.0.1',
    )
    await once(backend, 'listening')
    ports = { http: await freePort(), https: await freePort(), whole: await freePort(), closed: await freePort() }
    ;({ host, remove } = nginxDirectory(ports.http))
    const rendered = renderYaml(yaml(ports, (backend.address() as AddressInfo).port), {
      host,
      secrets: secretsOf(KEYS),
    })
    const { words } = await testGeneration(host, rendered.generation)
    if (rendered.problems.length > 0 || words !== '') throw new Error(rendered.problems[0]?.message ?? words)
    units = rendered.units
    nginx = await serve(host, rendered.generation)
  })
  afterAll(async () => {
    await nginx?.stop()
    backend?.close()
    backend?.closeAllConnections()
    remove?.()
  })

  /** The certificate that a name gets. @throws the error of the handshake */
  async function handshake(servername: string | undefined, options: ConnectionOptions = {}) {
    const where = { host: '127.0.0.1', port: ports.https, rejectUnauthorized: false, ...options }
    const socket = connect({ ...where, ...(servername === undefined ? {} : { servername }) })
    try {
      await once(socket, 'secureConnect')
      return {
        name: new X509Certificate((socket.getPeerCertificate() as DetailedPeerCertificate).raw).subject,
        alpn: socket.alpnProtocol,
      }
    } finally {
      socket.destroy()
    }
  }

  function get(servername: string, path = '/', options: object = {}): Promise<Answer> {
    return new Promise((resolve, reject) => {
      const where = { host: '127.0.0.1', port: ports.https, servername, path, agent: false, rejectUnauthorized: false }
      const sent = request({ ...where, headers: { host: servername }, ...options }, (response) => {
        let body = ''
        response.setEncoding('utf8').on('data', (chunk: string) => (body += chunk))
        response.on('end', () => resolve({ status: response.statusCode ?? 0, headers: response.headers, body }))
        response.on('error', reject)
      })
      sent.on('error', reject)
      sent.end()
    })
  }

  test('each name gets its own certificate on one port, by SNI', async () => {
    expect((await handshake('one.example')).name).toBe('CN=one.example')
    expect((await handshake('a.one.example')).name).toBe('CN=one.example')
    expect((await handshake('two.example')).name).toBe('CN=two.example')
    expect((await get('two.example')).body).toBe('two')
  })

  test('a name that no site claims gets no handshake, nor does a client without a name', async () => {
    await expect(handshake('unknown.example')).rejects.toThrow('unrecognized name')
    await expect(handshake(undefined)).rejects.toThrow('unrecognized name')
    // Where a site claims all, it answers.
    expect((await handshake('unknown.example', { port: ports.whole })).name).toBe('CN=two.example')
  })

  test('HTTP/2 is spoken with who can, and HTTP/1.1 with who cannot', async () => {
    const session = connectHttp2(`https://127.0.0.1:${ports.https}`, {
      servername: 'one.example',
      rejectUnauthorized: false,
    })
    const stream = session.request({ ':path': '/', ':authority': 'one.example' })
    const [headers] = (await once(stream, 'response')) as [Record<string, unknown>]
    stream.resume()
    await once(stream, 'end')
    session.destroy()
    expect(headers[':status']).toBe(200)
    expect((await handshake('one.example', { ALPNProtocols: ['http/1.1'] })).alpn).toBe('http/1.1')
    expect((await get('one.example')).status).toBe(200)
  })

  test('http leads to https, with path and query, and leaves no other way', async () => {
    const answer = await ask({ port: ports.http, path: '/a%2Fb?c=1', headers: { host: 'one.example' } })
    expect(answer.status).toBe(308)
    expect(answer.headers.location).toBe(`https://one.example:${ports.https}/a%2Fb?c=1`)
    expect(answer.headers['strict-transport-security']).toBeUndefined()
  })

  test('browsers are told to stay with https, over https alone, and by the site’s word', async () => {
    const hsts = async (name: string) => (await get(name)).headers['strict-transport-security']
    expect(await hsts('one.example')).toBe('max-age=86400; includeSubDomains')
    expect(await hsts('proxied.example')).toBe('max-age=31536000')
    expect(await hsts('modern.example')).toBe('max-age=31536000; includeSubDomains; preload')
    expect(await hsts('two.example')).toBeUndefined()
    const plain = await ask({ port: ports.http, path: '/', headers: { host: 'proxied.example' } })
    expect(plain.status).toBe(200)
    expect(plain.headers['strict-transport-security']).toBeUndefined()
  })

  test('a site may want TLS 1.3, and its neighbours on the port still take 1.2', async () => {
    const old = { maxVersion: 'TLSv1.2' as const }
    expect((await get('modern.example')).status).toBe(200)
    expect((await get('modern.example', '/', old)).status).toBe(421)
    expect((await get('two.example', '/', old)).status).toBe(200)
    await expect(
      handshake('two.example', { minVersion: 'TLSv1', maxVersion: 'TLSv1.1', ciphers: 'DEFAULT@SECLEVEL=0' }),
    ).rejects.toThrow('protocol version')
  })

  describe('clients’ certificates', () => {
    const as = ({ certificate, key }: typeof ana) => ({ cert: certificate, key })

    test('are demanded, and those of strangers refused', async () => {
      expect((await get('private.example', '/', as(ana))).status).toBe(200)
      expect(await get('private.example')).toMatchObject({
        status: 400,
        body: expect.stringContaining('No required SSL certificate') as string,
      })
      expect(await get('private.example', '/', as(mallory))).toMatchObject({
        status: 400,
        body: expect.stringContaining('certificate error') as string,
      })
    })

    test('may be left out where they are optional, and a wrong one may not', async () => {
      expect((await get('optional.example')).status).toBe(200)
      expect((await get('optional.example', '/', as(ana))).status).toBe(200)
      expect((await get('optional.example', '/', as(mallory))).status).toBe(400)
    })

    test('tell upstreams who it is, whatever a client says itself', async () => {
      const spoofed = { 'x-client-verify': 'SUCCESS', 'x-client-subject': 'CN=root', 'X-Client-Fingerprint': 'ff' }
      const told = async (name: string, options: object = {}) =>
        JSON.parse((await get(name, '/', { headers: { host: name, ...spoofed }, ...options })).body) as Record<
          string,
          string
        >
      expect(await told('private.example', as(ana))).toMatchObject({
        'x-client-verify': 'SUCCESS',
        'x-client-subject': 'CN=ana',
        'x-client-fingerprint': new X509Certificate(ana.certificate).fingerprint.replaceAll(':', '').toLowerCase(),
      })
      const anonymous = await told('optional.example')
      expect(anonymous['x-client-verify']).toBe('NONE')
      expect(anonymous).not.toHaveProperty('x-client-subject')
      for (const name of ['proxied.example', 'headers.example']) {
        const headers = Object.keys(await told(name))
        expect(headers.filter((header) => header.startsWith('x-client-'))).toEqual([])
      }
      const plain = await ask({ port: ports.http, path: '/', headers: { host: 'proxied.example', ...spoofed } })
      expect(plain.body).not.toContain('CN=root')
    })

    test('let in by a policy those whom it names, on the routes that ask for it, and nobody over http', async () => {
      const status = async (path: string, options: object = {}) => (await get('staff.example', path, options)).status
      expect(await status('/')).toBe(200)
      expect([await status('/any'), await status('/any', as(ana)), await status('/any', as(bea))]).toEqual([
        403, 200, 200,
      ])
      expect([await status('/ana'), await status('/ana', as(ana)), await status('/ana', as(bea))]).toEqual([
        403, 200, 403,
      ])
      const plain = async (path: string) =>
        (await ask({ port: ports.http, path, headers: { host: 'staff.example' } })).status
      expect([await plain('/'), await plain('/any')]).toEqual([200, 403])
    })

    test.each(['TLSv1.2', 'TLSv1.3'] as const)(
      'prove nothing to another site by a session of %s resumed',
      async (version) => {
        const where = {
          host: '127.0.0.1',
          port: ports.https,
          rejectUnauthorized: false,
          minVersion: version,
          maxVersion: version,
        }
        /** What a site answers over the handshake, and the session that it leaves. */
        const visit = async (name: string, options: ConnectionOptions) => {
          const socket = connect({ ...where, servername: name, ...options })
          let session: Buffer | undefined
          socket.on('session', (found: Buffer) => (session = found))
          await once(socket, 'secureConnect')
          socket.write(`GET / HTTP/1.0\r\nHost: ${name}\r\n\r\n`)
          let text = ''
          for await (const chunk of socket.setEncoding('utf8')) text += chunk as string
          return { status: Number(/^HTTP\/1.1 (\d+)/.exec(text)?.[1]), session: session ?? socket.getSession() }
        }
        const { status, session } = await visit('private.example', as(ana))
        expect(status).toBe(200)
        const resumed = session === undefined ? {} : { session }
        expect((await visit('theirs.example', resumed)).status).toBe(400)
        expect((await visit('private.example', {})).status).toBe(400)
      },
    )

    test('cannot be got around by the name of another site', async () => {
      // The handshake of a site that demands nothing, the request for one that does.
      for (const servername of ['two.example', 'optional.example']) {
        const { status } = await get(servername, '/', { headers: { host: 'private.example' }, ...as(ana) })
        expect(status).toBe(421)
      }
    })
  })

  test('a site for all names lets nobody past the certificates of a named one, nor the other way round', async () => {
    const status = async (servername: string, name: string, client: typeof ana) => {
      const options = { port: ports.closed, headers: { host: name }, cert: client.certificate, key: client.key }
      return (await get(servername, '/', options)).status
    }
    const stranger = makeCertificate(['root'], strangers)
    // The site for all names takes strangers alone, the named one people alone. Without a name the former is asked.
    expect(await status('any.example', 'any.example', stranger)).toBe(200)
    expect(await status('', 'any.example', stranger)).toBe(200)
    expect(await status('people.example', 'people.example', ana)).toBe(200)
    for (const servername of ['any.example', ''])
      expect([servername, await status(servername, 'people.example', stranger)]).toEqual([servername, 421])
    expect(await status('people.example', 'any.example', ana)).toBe(421)
    expect(await status('open.example', 'any.example', stranger)).toBe(421)
    expect(await status('any.example', 'any.example', ana)).toBe(400)
  })

  test('a cache keeps nobody’s answer for another who shows a certificate', async () => {
    const told = async (client?: typeof ana) => {
      const options = client === undefined ? {} : { cert: client.certificate, key: client.key }
      const { headers, body } = await get('kept.example', '/', options)
      return [headers['x-cache-status'], (JSON.parse(body) as Record<string, string>)['x-client-subject']]
    }
    expect(await told(ana)).toEqual(['BYPASS', 'CN=ana'])
    expect(await told(bea)).toEqual(['BYPASS', 'CN=bea'])
    expect(await told()).toEqual(['MISS', undefined])
    expect(await told()).toEqual(['HIT', undefined])
    expect(await told(ana)).toEqual(['BYPASS', 'CN=ana'])
  })

  test('a probe goes by SNI and host, and sees another certificate than the site has', async () => {
    const sites = units.filter(({ kind, path }) => kind === 'site' && !/\/(?:whole|every)$/.test(path))
    const answers = await probe(probeTargets(sites), 2_000)
    expect([...answers.values()].map(({ kind }) => kind)).toEqual(sites.map(() => 'status'))
    const [target] = probeTargets(sites.filter(({ path }) => path.endsWith('/one')))
    expect(target).toMatchObject({ port: ports.https })
    const other = probeTargets(sites.filter(({ path }) => path.endsWith('/two')))[0]
    if (target?.tls === undefined || other?.tls === undefined) throw new Error('a target over TLS')
    const wrong = { ...target, tls: other.tls }
    expect((await probe([wrong], 2_000)).get(wrong.site)).toMatchObject({ kind: 'other_certificate' })
    const unknown = { ...target, host: 'unknown.example' }
    expect((await probe([unknown], 2_000)).get(unknown.site)).toMatchObject({ kind: 'unknown_host' })
  })

  test('before nginx could reject a handshake, who asks for no site gets none either', async () => {
    const capabilities = { ...DEBIAN_12, version: '1.18.0' }
    const [port, own] = [await freePort(), nginxDirectory(ports.http)]
    const spec = {
      hosts: ['one.example'],
      listeners: { a: { port, address: '127.0.0.1', tls: { certificate: 'one' } } },
      routes: says('one'),
    }
    const text = [certificateYaml('one', one), secretYaml('one'), site('one', spec)].join('\n---\n')
    const { generation } = renderYaml(text, { host: own.host, capabilities, secrets: secretsOf(KEYS) })
    expect(generation.main).not.toContain('ssl_reject_handshake')
    const other = await serve(own.host, generation)
    try {
      expect((await handshake('one.example', { port })).name).toBe('CN=one.example')
      await expect(handshake('unknown.example', { port })).rejects.toThrow(/alert|socket/)
    } finally {
      await other.stop()
      own.remove()
    }
  })
})

function yaml(
  { http, https, whole, closed }: { http: number; https: number; whole: number; closed: number },
  backend: number,
): string {
  const address = '127.0.0.1'
  const over = (certificate: string, rest: object = {}) => ({
    https: { port: https, address, tls: { certificate, ...rest } },
  })
  const plain = { http: { port: http, address } }
  const proxied = { root: { path: '/', proxy: { upstream: 'backend' } } }
  const upstream = {
    apiVersion: 'nxmesh/v1',
    kind: 'Upstream',
    metadata: { name: 'backend', zone: '*' },
    spec: { endpoints: { [`127.0.0.1:${backend}`]: {} } },
  }
  return [
    certificateYaml('one', one),
    secretYaml('one'),
    certificateYaml('two', two),
    secretYaml('two'),
    certificateYaml('people', people, ''),
    certificateYaml('strangers', strangers, ''),
    JSON.stringify(upstream),
    site('one', {
      hosts: ['one.example', '*.one.example'],
      listeners: { ...plain, ...over('one') },
      redirectToHttps: true,
      hsts: { maxAge: 86_400, includeSubdomains: true },
      routes: says('one'),
    }),
    site('two', { hosts: ['two.example'], listeners: over('two'), routes: says('two') }),
    site('modern', {
      hosts: ['modern.example'],
      listeners: over('two', { minVersion: 'TLSv1.3' }),
      hsts: { includeSubdomains: true, preload: true },
      routes: says('modern'),
    }),
    site('proxied', { hosts: ['proxied.example'], listeners: { ...plain, ...over('two') }, hsts: {}, routes: proxied }),
    site('headers', {
      hosts: ['headers.example'],
      listeners: over('two'),
      routes: proxied,
      requestHeaders: { set: { 'X-Client-Subject': 'CN=root' } },
    }),
    site('private', {
      hosts: ['private.example'],
      listeners: over('two', { clientCertificate: { ca: 'people' } }),
      routes: proxied,
    }),
    site('theirs', {
      hosts: ['theirs.example'],
      listeners: over('two', { clientCertificate: { ca: 'strangers' } }),
      routes: proxied,
    }),
    site('optional', {
      hosts: ['optional.example'],
      listeners: over('two', { clientCertificate: { ca: 'people', mode: 'optional' } }),
      routes: proxied,
    }),
    JSON.stringify({ apiVersion: 'nxmesh/v1', kind: 'Policy', metadata: { name: 'any' }, spec: { mtls: {} } }),
    JSON.stringify({
      apiVersion: 'nxmesh/v1',
      kind: 'Policy',
      metadata: { name: 'ana' },
      spec: { mtls: { subjects: ['CN=ana'] } },
    }),
    site('staff', {
      hosts: ['staff.example'],
      listeners: { ...plain, ...over('two', { clientCertificate: { ca: 'people', mode: 'optional' } }) },
      routes: {
        root: { path: '/', return: { status: 200, body: 'open' } },
        any: { path: '/any', policies: ['any'], return: { status: 200, body: 'any' } },
        ana: { path: '/ana', policies: ['ana'], return: { status: 200, body: 'ana' } },
      },
    }),
    JSON.stringify({
      apiVersion: 'nxmesh/v1',
      kind: 'Policy',
      metadata: { name: 'kept' },
      spec: { cache: { valid: { '200': '1h' }, statusHeader: true } },
    }),
    site('kept', {
      hosts: ['kept.example'],
      listeners: over('two', { clientCertificate: { ca: 'people', mode: 'optional' } }),
      policies: ['kept'],
      routes: proxied,
    }),
    ...[
      { name: 'every', host: '*', clientCertificate: { ca: 'strangers' } },
      { name: 'people', host: 'people.example', clientCertificate: { ca: 'people' } },
      { name: 'open', host: 'open.example' },
    ].map(({ name, host, ...rest }) =>
      site(name, {
        hosts: [host],
        listeners: { https: { port: closed, address, tls: { certificate: 'two', ...rest } } },
        routes: says(name),
      }),
    ),
    site('whole', {
      hosts: ['*'],
      listeners: { https: { port: whole, address, tls: { certificate: 'two' } } },
      routes: says('whole'),
    }),
  ].join('\n---\n')
}
