/**
 * Certificates through the whole apply protocol on real nginx: a changed key is another generation, a key of somebody
 * else's concerns the sites that serve it alone, and what is not the right certificate is rolled back.
 */

import { X509Certificate } from 'node:crypto'
import { once } from 'node:events'
import { readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { connect as connectTcp } from 'node:net'
import { connect } from 'node:tls'
import { expect, test } from 'vitest'
import {
  certificateYaml,
  makeCertificate,
  secretsOf,
  secretYaml,
  type TestCertificate,
} from '../support/certificates.ts'
import { freePort, NginxHost } from '../support/nginx-host.ts'
import { assemble } from '../../src/nginx/rendering/assemble.ts'
import { DEBIAN_12, renderYaml } from '../support/resources.ts'

const [first, second, other] = [['a.example'], ['a.example'], ['b.example']].map((hosts) => makeCertificate(hosts)) as [
  TestCertificate,
  TestCertificate,
  TestCertificate,
]

function site(name: string, port: number, certificate: string, says: string, proxyProtocol = false): string {
  const listeners = { https: { port, address: '127.0.0.1', proxyProtocol, tls: { certificate } } }
  const routes = { root: { path: '/', return: { status: 200, body: says } } }
  const spec = { hosts: [`${name}.example`], listeners, routes }
  return JSON.stringify({ apiVersion: 'nxmesh/v1', kind: 'Site', metadata: { name, zone: '*' }, spec })
}

/** What the host should serve: two sites of one port, each with a certificate of its own. */
function desired(
  host: NginxHost,
  port: number,
  { a, key = a, says, isProxied }: { a: TestCertificate; key?: TestCertificate; says: string; isProxied?: boolean },
) {
  const yaml = [
    certificateYaml('a', a),
    secretYaml('a'),
    certificateYaml('b', other),
    secretYaml('b'),
    site('a', port, 'a', says, isProxied),
    site('b', port, 'b', says, isProxied),
  ].join('\n---\n')
  const secrets = secretsOf({ a: key, b: other })
  const { units, problems, input } = renderYaml(yaml, { host: host.layout, capabilities: DEBIAN_12, secrets })
  return host.request(units, { problems, assemble: (some) => assemble(some, input) })
}

/** Number of the certificate that a name gets, and what its site says. */
async function served(port: number, name: string, head = ''): Promise<{ fingerprint: string; body: string }> {
  const tcp = connectTcp({ host: '127.0.0.1', port })
  await once(tcp, 'connect')
  tcp.write(head)
  const socket = connect({ socket: tcp, servername: name, rejectUnauthorized: false })
  await once(socket, 'secureConnect')
  const fingerprint = socket.getPeerX509Certificate()?.fingerprint256 ?? ''
  socket.write(`GET / HTTP/1.0\r\nHost: ${name}\r\n\r\n`)
  let text = ''
  for await (const chunk of socket.setEncoding('utf8')) text += chunk as string
  return { fingerprint, body: text.slice(text.indexOf('\r\n\r\n') + 4) }
}
const fingerprint = ({ certificate }: TestCertificate) => new X509Certificate(certificate).fingerprint256

test('a key that belongs to another certificate leaves its site with the last good one, and all others go on', async () => {
  await using host = await NginxHost.create()
  const applier = await host.booted()
  const port = await freePort()
  expect(await applier.apply(desired(host, port, { a: first, says: 'one' }))).toMatchObject({ outcome: 'applied' })
  expect(await served(port, 'a.example')).toEqual({ fingerprint: fingerprint(first), body: 'one' })

  const broken = desired(host, port, { a: second, key: first, says: 'two' })
  expect(broken.problems).toMatchObject([
    {
      path: 'default/*/site/a',
      code: 'reference',
      message: 'the secret a holds a private key that does not belong to the certificate a',
    },
  ])
  expect(await applier.apply(broken)).toMatchObject({ outcome: 'applied' })
  expect(await served(port, 'a.example')).toEqual({ fingerprint: fingerprint(first), body: 'one' })
  expect(await served(port, 'b.example')).toEqual({ fingerprint: fingerprint(other), body: 'two' })

  expect(await applier.apply(desired(host, port, { a: second, says: 'three' }))).toMatchObject({ outcome: 'applied' })
  expect(await served(port, 'a.example')).toEqual({ fingerprint: fingerprint(second), body: 'three' })
})

test('a port turns to PROXY headers and back, and is proven each time by connections that begin so', async () => {
  await using host = await NginxHost.create()
  const applier = await host.booted()
  const port = await freePort()
  const head = 'PROXY TCP4 203.0.113.7 127.0.0.1 4000 443\r\n'
  const turn = (says: string, isProxied: boolean) => applier.apply(desired(host, port, { a: first, says, isProxied }))
  expect(await turn('one', false)).toMatchObject({ outcome: 'applied', isolated: [] })
  expect(await turn('two', true)).toMatchObject({ outcome: 'applied', isolated: [] })
  expect((await served(port, 'a.example', head)).body).toBe('two')
  await expect(served(port, 'a.example')).rejects.toThrow(/disconnected|ECONNRESET/)
  expect(await turn('three', true)).toMatchObject({ outcome: 'applied', isolated: [] })
  expect((await served(port, 'b.example', head)).body).toBe('three')
  expect(await turn('four', false)).toMatchObject({ outcome: 'applied', isolated: [] })
  expect((await served(port, 'b.example')).body).toBe('four')
})

test('a certificate that nginx itself does not take stops its site alone, and nginx’s words say why', async () => {
  await using host = await NginxHost.create()
  const applier = await host.booted()
  const port = await freePort()
  await applier.apply(desired(host, port, { a: first, says: 'one' }))
  // Whole and with its key, but too weak for the security level of any distribution.
  const weak = makeCertificate(['a.example'], undefined, ['rsa:512'])
  const result = await applier.apply(desired(host, port, { a: weak, says: 'two' }))
  expect(result.outcome).toBe('applied')
  expect(result.isolated).toMatchObject([{ path: 'default/*/site/a', why: 'refused', serves: 'last_good' }])
  expect(result.isolated[0]?.reason).toContain('key too small')
  expect(await served(port, 'a.example')).toEqual({ fingerprint: fingerprint(first), body: 'one' })
  expect((await served(port, 'b.example')).body).toBe('two')
})

test('keys lie where the master alone reads them, outlive the daemon, and go with their last generation', async () => {
  await using host = await NginxHost.create()
  const applier = await host.booted()
  const port = await freePort()
  await applier.apply(desired(host, port, { a: first, says: 'one' }))
  const objects = join(host.layout.directory, 'objects')
  const keys = () => readdirSync(objects).filter((name) => name.endsWith('.key'))
  expect(keys()).toHaveLength(2)
  for (const name of readdirSync(objects)) expect(statSync(join(objects, name)).mode & 0o777).toBe(0o600)
  expect(statSync(objects).mode & 0o777).toBe(0o700)

  const again = host.applier()
  await again.boot(() => host.assemble([]))
  expect(again.lastGood?.units.flatMap(({ files = [] }) => files.map(({ text }) => text))).toContain(first.key)

  // Of ten generations that stay, the first is not one any more.
  for (let round = 0; round < 11; round += 1) {
    const result = await applier.apply(desired(host, port, { a: second, says: `round ${round}` }))
    expect(result.outcome).toBe('applied')
  }
  await applier.tidy()
  expect(keys()).toHaveLength(2)
  expect(await served(port, 'a.example')).toEqual({ fingerprint: fingerprint(second), body: 'round 10' })
})

test('a certificate that is not the site’s is found by the probe, and the last good one serves again', async () => {
  await using host = await NginxHost.create()
  const applier = await host.booted()
  const port = await freePort()
  await applier.apply(desired(host, port, { a: first, says: 'one' }))
  const request = desired(host, port, { a: second, says: 'two' })
  // As if nginx served another one than it was told to: the site should show one that it does not have.
  const stranger = { name: `${'0'.repeat(64)}.crt`, text: other.certificate, readers: 'master' } as const
  const units = request.units.map((unit) =>
    unit.path.endsWith('/a')
      ? { ...unit, files: [stranger, ...(unit.files ?? []).filter(({ name }) => !name.endsWith('.crt'))] }
      : unit,
  )
  const result = await applier.apply({
    ...request,
    units,
    assemble: (some) => ({
      ...request.assemble(request.units.filter(({ path }) => some.some((unit) => unit.path === path))),
    }),
  })
  expect(result).toMatchObject({ outcome: 'rolled_back', phase: 'probe' })
  expect(result.error?.message).toContain('it shows the certificate of another site')
  expect(await served(port, 'a.example')).toEqual({ fingerprint: fingerprint(first), body: 'one' })
})
