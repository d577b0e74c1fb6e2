/**
 * TLS on real daemons with real nginx: a key sealed at one node is opened by the nodes of its zone alone and served by
 * them; a new one follows; what cannot be opened or is the wrong key keeps what served, and says so. One story, in order.
 */

import { X509Certificate } from 'node:crypto'
import { once } from 'node:events'
import { readdir, readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { connect } from 'node:tls'
import { expect, test } from 'vitest'
import { makeCertificate, type TestCertificate } from '../support/certificates.ts'
import { freePorts, type Member } from '../support/fleet.ts'
import { ask, converged, eventually, health, tell, useFleet } from '../support/use-fleet.ts'

const fleet = useFleet({
  members: [
    { name: 'paris', zones: ['eu.paris'] },
    { name: 'austin', zones: ['us'] },
  ],
  nginx: true,
})
const member = (name: string): Member => fleet().member(name)

const [first, second, stranger] = [0, 1, 2].map(() => makeCertificate(['shop.test'])) as [
  TestCertificate,
  TestCertificate,
  TestCertificate,
]
const [port = 0] = await freePorts(1)

const certificateDocument = ({ certificate }: TestCertificate) =>
  JSON.stringify({
    apiVersion: 'nxmesh/v1',
    kind: 'Certificate',
    metadata: { name: 'shop', zone: 'eu' },
    spec: { certificate, key: { secret: 'shop-key' } },
  })

/** @param says what it answers */
function siteDocument(name: string, says: string, listener: object): string {
  const routes = { root: { path: '/', return: { status: 200, body: says } } }
  const spec = { hosts: [`${name}.test`], listeners: { only: listener }, routes }
  return JSON.stringify({ apiVersion: 'nxmesh/v1', kind: 'Site', metadata: { name, zone: 'eu' }, spec })
}
const shop = (says: string) => siteDocument('shop', says, { port, address: '127.0.0.1', tls: { certificate: 'shop' } })

/** The certificate that is shown for the name, and what the site says; the reason when there is none. */
async function served(): Promise<string> {
  const socket = connect({ host: '127.0.0.1', port, servername: 'shop.test', rejectUnauthorized: false })
  try {
    await once(socket, 'secureConnect')
    const fingerprint = socket.getPeerX509Certificate()?.fingerprint256
    socket.write('GET / HTTP/1.0\r\nHost: shop.test\r\n\r\n')
    let text = ''
    for await (const chunk of socket.setEncoding('utf8')) text += chunk as string
    return `${fingerprint} ${text.slice(text.indexOf('\r\n\r\n') + 4)}`
  } catch (error) {
    return (error as Error).message
  } finally {
    socket.destroy()
  }
}
const shown = ({ certificate }: TestCertificate, says: string) =>
  `${new X509Certificate(certificate).fingerprint256} ${says}`

const apply = (...documents: string[]) =>
  tell(fleet(), member('austin'), ['apply', '-f', '-'], { stdin: documents.join('\n---\n') })

/** Files of the host in which a key can be read. */
async function filesWithKey(at: Member, { key }: TestCertificate): Promise<string[]> {
  // As it is; where nginx has the Lua module, as workers are told it.
  const forms = [key.split('\n')[1] as string, Buffer.from(key).toString('base64')]
  const entries = await readdir(at.directory, { recursive: true, withFileTypes: true })
  const files = entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name))
  const texts = await Promise.all(files.map(async (file) => [file, await readFile(file, 'latin1')] as const))
  return texts.filter(([, text]) => forms.some((form) => text.includes(form))).map(([file]) => file)
}

test('a key sealed at one node is served by those of its zone, and lies in one file of each', async () => {
  await converged(fleet().members)
  await tell(fleet(), member('austin'), ['secret', 'set', 'shop-key', '-z', 'eu', '-f', '-'], { stdin: first.key })
  await apply(certificateDocument(first), shop('one'))
  await eventually(served).toBe(shown(first, 'one'))
  await converged(fleet().members)
  expect(await filesWithKey(member('austin'), first)).toEqual([])
  const [file = '', ...more] = await filesWithKey(member('paris'), first)
  expect(more).toEqual([])
  expect(file).toMatch(/\/(?:objects\/[0-9a-f]{64}\.key|live\.state)$/)
  expect((await stat(file)).mode & 0o777).toBe(0o600)
  expect(member('paris').stderr).not.toContain(first.key.split('\n')[1])
})

test('a site whose key is of another certificate stays as it was, says why, and others follow', async () => {
  await apply(
    certificateDocument(stranger),
    shop('two'),
    siteDocument('beside', 'beside', { port: member('paris').httpPort }),
  )
  await eventually(() => health(member('paris'))).toContain('not served as written: 1 ')
  await eventually(async () => (await member('paris').visit('beside.test')).text).toBe('beside')
  expect(await served()).toBe(shown(first, 'one'))
  const status = await ask(fleet(), member('austin'), ['status'])
  expect(status.out + status.err).toContain('does not belong to the certificate shop')
})

test('a new key and its certificate follow at once, and after a restart without a mesh', async () => {
  await tell(fleet(), member('paris'), ['secret', 'rotate', 'shop-key', '-f', '-'], { stdin: second.key })
  await apply(certificateDocument(second))
  await eventually(served).toBe(shown(second, 'two'))
  await converged(fleet().members)
  await member('austin').stop()
  await member('paris').stop('SIGKILL')
  await member('paris').start()
  await eventually(() => health(member('paris'))).toContain('converged')
  expect(await served()).toBe(shown(second, 'two'))
})
