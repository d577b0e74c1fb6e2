/**
 * The kind Certificate and what sites say of TLS: what the schema takes and refuses, what references come to, and how the
 * text fits the version of nginx.
 */

import { describe, expect, test } from 'vitest'
import { parseDocument } from '../../src/core/resources/index.ts'
import { MeshError } from '../../src/errors.ts'
import { certificateYaml, makeCertificate, secretsOf, secretYaml } from '../support/certificates.ts'
import { DEBIAN_12, renderYaml } from '../support/resources.ts'

const [root, leaf, stranger] = (() => {
  const authority = makeCertificate(['authority'])
  return [authority, makeCertificate(['a.example'], authority), makeCertificate(['stranger'])] as const
})()

const document = (kind: string, name: string, spec: object, zone = '*') => ({
  apiVersion: 'nxmesh/v1',
  kind,
  metadata: { name, zone },
  spec,
})
const site = (name: string, spec: object, zone = '*') => JSON.stringify(document('Site', name, spec, zone))
const over = (tls: object, port = 443, rest: object = {}) => ({ https: { port, tls, ...rest } })
const chain = `${leaf.certificate}${root.certificate}`

function refusal(parsed: object): { message: string; details: Readonly<Record<string, unknown>> } {
  try {
    parseDocument(parsed)
  } catch (error) {
    if (error instanceof MeshError) return error
    throw error
  }
  throw new Error('it was taken')
}

describe('a chain', () => {
  const certificate = (value: unknown, rest: object = {}) =>
    document('Certificate', 'a', { certificate: value, ...rest })
  const taken = (value: unknown) => parseDocument(certificate(value)).spec['certificate']

  test('is one certificate each, however it was written', () => {
    const expected = [leaf.certificate, root.certificate]
    expect(taken(chain)).toEqual(expected)
    expect(taken([chain])).toEqual(expected)
    expect(taken(expected)).toEqual(expected)
    expect(taken(`subject: CN = a.example\n${chain.replaceAll('\n', '\r\n')}\n`)).toEqual(expected)
  })

  test.each([
    ['nothing', undefined, 'spec.certificate is required'],
    ['no list', { a: 1 }, 'spec.certificate'],
    ['an empty list', [], 'spec.certificate is empty'],
    ['another text', 'hello', 'spec.certificate[0] is not a certificate in PEM form'],
    ['half of one', leaf.certificate.replace(/[A-Za-z0-9]{40}\n/, '\n'), 'spec.certificate[0] is not a certificate: '],
    ['too many', root.certificate.repeat(17), 'spec.certificate is above 16'],
  ])('of %s is refused', (_, value, message) => {
    expect(refusal(certificate(value)).message).toContain(message)
  })

  test('with a private key is refused, and the key is not shown', () => {
    for (const value of [leaf.key, `${leaf.certificate}${leaf.key}`, [leaf.certificate, leaf.key]]) {
      const { message, details } = refusal(certificate(value))
      expect(message).toMatch(/^spec\.certificate\[\d\] holds a private key$/)
      expect(details['hint']).toContain('meshctl secret set')
      expect(JSON.stringify(details)).not.toContain(leaf.key.split('\n')[1])
    }
  })
})

describe('what cannot be meant is refused', () => {
  const grpc = { calls: { path: '/', proxy: { upstream: 'app', scheme: 'grpc' } } }
  test.each([
    ['a redirect to no https', { redirectToHttps: true }, 'spec.redirectToHttps has no https to lead to'],
    ['HSTS without TLS', { hsts: {} }, 'spec.hsts needs a listener with TLS'],
    [
      'preload for less',
      { hsts: { preload: true }, listeners: over({ certificate: 'a' }) },
      'spec.hsts.preload is only taken with includeSubdomains: true',
    ],
    [
      'TLS and none on one port',
      { listeners: { a: { port: 443 }, b: { port: 443, address: '0.0.0.0', tls: { certificate: 'a' } } } },
      'spec.listeners.b is on the address and port of a, with other TLS',
    ],
    [
      'PROXY headers and none on one port',
      { listeners: { a: { port: 80 }, b: { port: 80, address: '0.0.0.0', proxyProtocol: true } } },
      'spec.listeners.b is on the address and port of a, with another proxyProtocol',
    ],
    [
      'a port of all addresses that would let in whom it keeps out at one of them',
      {
        listeners: {
          a: { port: 443, address: '10.0.0.1', tls: { certificate: 'a', clientCertificate: { ca: 'c' } } },
          b: { port: 443, tls: { certificate: 'a' } },
        },
      },
      'spec.listeners.b is on the address and port of a, with other TLS',
    ],
    [
      'what is no address, beside another listener of its port',
      { listeners: { a: { port: 80, address: ':' }, b: { port: 80 } } },
      'spec.listeners.a.address is not an IP address',
    ],
    [
      'an address of one interface, beside another listener of its port',
      { listeners: { a: { port: 80, address: 'fe80::1%eth0' }, b: { port: 80 } } },
      'spec.listeners.a.address is not an IP address',
    ],
    ['gRPC without HTTP/2', { routes: grpc }, 'spec.routes.calls.proxy.scheme needs a listener with HTTP/2'],
    [
      'gRPC with HTTP/2 turned off',
      { routes: grpc, listeners: over({ certificate: 'a', http2: false }) },
      'spec.routes.calls.proxy.scheme needs a listener with HTTP/2',
    ],
    [
      'websockets over gRPC',
      {
        routes: { calls: { path: '/', proxy: { upstream: 'app', scheme: 'grpc', websocket: true } } },
        listeners: over({ certificate: 'a' }),
      },
      'spec.routes.calls.proxy.websocket is not possible with gRPC',
    ],
    [
      'TLS of a proxy without TLS',
      { routes: { r: { path: '/', proxy: { upstream: 'app', tls: { ca: 'x' } } } } },
      'spec.routes.r.proxy.tls needs scheme: https or grpcs',
    ],
  ])('%s', (_, spec, message) => {
    expect(refusal(document('Site', 's', { hosts: ['a.example'], ...spec })).message).toContain(message)
  })
})

test('a site with hsts goes on removing the headers that it removes', () => {
  const spec = {
    hosts: ['a.example'],
    hsts: {},
    listeners: over({ certificate: 'a' }),
    responseHeaders: { remove: ['X-Inner'] },
    routes: { r: { path: '/', proxy: { upstream: 'app' } } },
  }
  const upstream = document('Upstream', 'app', { endpoints: { '10.0.0.1:80': {} } })
  const documents = [site('s', spec), certificateYaml('a', leaf), secretYaml('a'), JSON.stringify(upstream)]
  const { units } = renderYaml(documents.join('\n---\n'), { secrets: secretsOf({ a: leaf }) })
  expect(units.find(({ kind }) => kind === 'site')?.text).toContain('proxy_hide_header X-Inner;')
})

describe('references', () => {
  const served = site('s', { hosts: ['a.example'], listeners: over({ certificate: 'a' }) })
  const problemOf = (documents: readonly string[], keys: Parameters<typeof secretsOf>[0] = {}) => {
    const { units, problems } = renderYaml(documents.join('\n---\n'), { secrets: secretsOf(keys) })
    expect(units).toEqual([])
    expect(problems).toHaveLength(1)
    expect(problems[0]).toMatchObject({ path: 'default/*/site/s', code: 'reference' })
    return `${problems[0]?.message} (${problems[0]?.hint})`
  }

  test('to what is missing say what to do', () => {
    expect(problemOf([served])).toBe(
      'there is no certificate a (create a Certificate a in workspace default and zone *)',
    )
    expect(problemOf([served, certificateYaml('a', leaf)])).toBe(
      'there is no secret a (seal one in workspace default and zone *: meshctl secret set a -z *)',
    )
    expect(problemOf([served, certificateYaml('a', leaf), secretYaml('a')])).toContain(
      'this node cannot open the secret a',
    )
    expect(problemOf([served, certificateYaml('a', leaf, '')])).toContain('the certificate a has no key')
  })

  test('to a key that is none, or of another certificate, say so', () => {
    const documents = [served, certificateYaml('a', { certificate: chain }), secretYaml('a')]
    expect(problemOf(documents, { a: { certificate: '', key: 'hello' } })).toContain(
      'the secret a holds no private key in PEM form for the certificate a',
    )
    expect(problemOf(documents, { a: stranger })).toContain(
      'the secret a holds a private key that does not belong to the certificate a (put the key',
    )
    expect(problemOf(documents, { a: root })).toContain('(it belongs to number 2 of the chain')
  })

  test('of clients and upstreams are looked up as well', () => {
    const own = [certificateYaml('a', leaf), secretYaml('a')]
    const clients = { certificate: 'a', clientCertificate: { ca: 'people' } }
    expect(problemOf([...own, site('s', { hosts: ['a.example'], listeners: over(clients) })], { a: leaf })).toContain(
      'there is no certificate people',
    )
    const route = (tls: object) => ({ r: { path: '/', proxy: { upstream: 'app', scheme: 'https', tls } } })
    for (const tls of [{ ca: 'people' }, { clientCertificate: 'people' }])
      expect(problemOf([site('s', { hosts: ['a.example'], routes: route(tls) })])).toContain(
        'there is no certificate people',
      )
  })

  test('a key is looked up from where the certificate is', () => {
    const near = JSON.stringify(
      document('Certificate', 'a', { certificate: leaf.certificate, key: { secret: 'k' } }, 'eu'),
    )
    const yaml = [site('s', { hosts: ['a.example'], listeners: over({ certificate: 'a' }) }, 'eu.west'), near]
    const secrets = new Map([
      ['default/eu.west/secret/k', stranger.key],
      ['default/eu/secret/k', leaf.key],
    ])
    const sealed = ['eu.west', 'eu'].map((zone) => secretYaml('k').replace('"*"', `"${zone}"`))
    const node = { places: [{ workspace: '*', zones: ['eu.west'] }], labels: {} }
    expect(renderYaml([...yaml, ...sealed].join('\n---\n'), { secrets, node }).problems).toEqual([])
  })

  test('another key or chain is another unit, and nothing of a key is in any text', () => {
    const render = (pair: typeof leaf) =>
      renderYaml([served, certificateYaml('a', pair), secretYaml('a')].join('\n---\n'), {
        secrets: secretsOf({ a: pair }),
      })
    const [one, two] = [render(leaf), render(stranger)]
    expect(one.units[0]?.digest).not.toBe(two.units[0]?.digest)
    const texts = [one.generation.main, ...one.generation.objects.values()].join('\n')
    expect(texts).not.toContain(leaf.key.split('\n')[1])
    const endings = one.generation.files.map(({ name }) => name.replace(/^[0-9a-f]{64}\./, ''))
    expect(new Set(endings)).toEqual(new Set(['crt', 'key']))
  })
})

describe('listeners', () => {
  const keys = secretsOf({ a: leaf })
  const shared = [certificateYaml('a', leaf), secretYaml('a')]
  const render = (sites: readonly string[], version = DEBIAN_12.version, modules = DEBIAN_12.modules) =>
    renderYaml([...shared, ...sites].join('\n---\n'), {
      secrets: keys,
      capabilities: { version, modules, dynamic: {} },
    })
  const tls = (name: string, rest: object = {}) =>
    site(name, { hosts: [`${name}.example`], listeners: over({ certificate: 'a' }), ...rest })
  const plain = (name: string) => site(name, { hosts: [`${name}.example`], listeners: { http: { port: 443 } } })

  test('of one port are over TLS or not: as most sites have it, then as the oldest', () => {
    const clash = (sites: readonly string[]) =>
      render(sites).problems.map(({ path, code, message, hint }) => ({ path, code, message, hint }))
    expect(clash([plain('a'), tls('b')])).toEqual([
      {
        path: 'default/*/site/b',
        code: 'clash',
        message:
          'cannot listen on *:443 beside *:443 of the site default/*/site/a: more sites of its workspace, or as many and the oldest, listen without TLS',
        hint: 'leave out tls, or take another port',
      },
    ])
    expect(clash([plain('a'), tls('b'), tls('c')])).toMatchObject([
      { path: 'default/*/site/a', message: expect.stringContaining('listen over TLS') as string },
    ])
  })

  test('speak HTTP/2 as the version of nginx wants to be told', () => {
    const textOf = (version: string, modules?: readonly string[]) =>
      render([tls('a')], version, modules === undefined ? undefined : [...modules]).units[0]?.text ?? ''
    expect(textOf('1.25.0')).toContain('listen *:443 ssl http2;')
    expect(textOf('1.25.0')).not.toContain('http2 on;')
    expect(textOf('1.25.1')).toContain('listen *:443 ssl;')
    expect(textOf('1.25.1')).toContain('http2 on;')
    expect(textOf('2.0.0')).toContain('http2 on;')
    expect(textOf('1.22.1', ['http_ssl', 'http_stub_status'])).not.toContain('http2')
  })

  test('are refused by name where nginx has no TLS', () => {
    const { problems } = render([tls('a')], '1.22.1', ['http_stub_status'])
    expect(problems).toMatchObject([
      { code: 'unsupported', message: expect.stringContaining('tls of a listener') as string },
    ])
  })

  test('reject who asks for no site in the way that the version knows', () => {
    expect(render([tls('a')], '1.19.4').generation.main).toContain('ssl_reject_handshake on;')
    expect(render([tls('a')], '1.19.3').generation.main).not.toContain('ssl_reject_handshake')
    expect(render([tls('a')], '1.19.3').generation.main).toContain('ssl_certificate data:$nxmesh_nothing;')
    expect(render([tls('*', { hosts: ['*'] }).replace('"name":"*"', '"name":"w"')]).generation.main).not.toContain(
      'reject',
    )
  })

  test('a redirect names the port unless it is 443', () => {
    const text = (port: number) => {
      const listeners = { http: { port: 80 }, ...over({ certificate: 'a' }, port) }
      return render([tls('a', { listeners, redirectToHttps: true })]).units[0]?.text
    }
    expect(text(443)).toContain('return 308 "https://${host}${request_uri}";')
    expect(text(8443)).toContain('return 308 "https://${host}:8443${request_uri}";')
  })

  test('golden file', async () => {
    const spec = {
      hosts: ['www.example'],
      listeners: {
        http: { port: 80 },
        ...over({ certificate: 'a', minVersion: 'TLSv1.3', clientCertificate: { ca: 'a' } }),
      },
      redirectToHttps: true,
      hsts: { includeSubdomains: true },
      routes: {
        root: { path: '/', proxy: { upstream: 'app', scheme: 'https', tls: { ca: 'a', clientCertificate: 'a' } } },
        calls: {
          path: '/shop.Cart/',
          proxy: { upstream: 'app', scheme: 'grpcs', tls: { ca: 'a', serverName: 'cart' } },
        },
      },
    }
    const app = JSON.stringify(document('Upstream', 'app', { endpoints: { '10.0.0.1:443': {} } }))
    const stream = document('Stream', 'db', {
      upstream: 'app',
      listeners: {
        plain: { port: 5432 },
        secure: { port: 5433, tls: { certificate: 'a', minVersion: 'TLSv1.3', clientCertificate: { ca: 'a' } } },
      },
      upstreamTls: { ca: 'a', serverName: 'db.internal', clientCertificate: 'a' },
    })
    const { units, problems } = render([app, site('www', spec), JSON.stringify(stream)])
    expect(problems).toEqual([])
    // Keys are made anew for each run.
    const text = units.map((unit) => unit.text.replace(/[0-9a-f]{64}\.(?=crt|key)/g, 'HASH.')).join('\n')
    await expect(text).toMatchFileSnapshot('../golden/tls.conf')
  })
})
