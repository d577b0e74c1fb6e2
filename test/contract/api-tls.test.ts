/** The API over TLS, with a certificate of the operator's own or with that of the node's key, and what meshctl believes: authorities, or what is pinned. */

import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { X509Certificate } from 'node:crypto'
import { createServer, request, type Server, type ServerOptions } from 'node:https'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { ERROR_CODES } from '../../src/errors.ts'
import { nodeCertificate } from '../../src/adapters/certificate.ts'
import { signTicket } from '../../src/core/ticket.ts'
import { FOUNDING, KEYS, startApiNode, type ApiNode } from '../support/api-node.ts'
import { meshctl, type CliResult } from '../support/cli.ts'
import { shell } from '../support/commands.ts'
import { http } from '../support/http.ts'

let cwd: string
let node: ApiNode
let url: string
let fingerprint: string

beforeAll(async () => {
  cwd = await mkdtemp(join(tmpdir(), 'nxmesh-tls-'))
  for (const name of ['node', 'other']) {
    const subject = `-subj /CN=${name} -addext subjectAltName=IP:127.0.0.1 -days 2`
    const { code, err } = await shell(
      `openssl req -x509 -newkey ed25519 -noenc -keyout ${name}.pem -out ${name}.crt ${subject}`,
      { cwd },
    )
    if (code !== 0) throw new Error(`openssl: ${err}`)
  }
  await writeFile(join(cwd, 'owner.key'), Buffer.from(KEYS.owner.seed).toString('hex'), { mode: 0o600 })
  fingerprint = new X509Certificate(await readFile(join(cwd, 'node.crt'))).fingerprint256
  node = await startApiNode({ server: { tls: { cert: join(cwd, 'node.crt'), key: join(cwd, 'node.pem') } } })
  url = `https://127.0.0.1:${node.server.port}`
})
afterAll(async () => {
  await node.stop()
  await rm(cwd, { recursive: true, force: true })
})

async function ask(...options: readonly string[]): Promise<CliResult> {
  return await meshctl(['--api', url, '-k', 'owner.key', ...options, 'status'], { cwd })
}

test('meshctl believes the authorities of --ca, or the one certificate of --fingerprint', async () => {
  expect(await ask('--ca', 'node.crt')).toMatchObject({ code: 0, out: expect.stringContaining('edge-1 (here)') })
  expect((await ask('--fingerprint', fingerprint)).code).toBe(0)
  expect((await ask('--fingerprint', fingerprint.replaceAll(':', '').toLowerCase())).code).toBe(0)
  const env = { NXMESH_API: url, NXMESH_KEY: 'owner.key', NXMESH_FINGERPRINT: fingerprint }
  expect((await meshctl(['peers'], { cwd, env })).code).toBe(0)
})

test('and nothing else', async () => {
  const unknown = await ask()
  expect([unknown.code, unknown.err]).toEqual([
    ERROR_CODES.unavailable.exit,
    expect.stringMatching(/is not trusted \(DEPTH_ZERO_SELF_SIGNED_CERT\)\n.*--pin KEY.*--fingerprint.*--ca/),
  ])
  expect((await ask('--ca', 'other.crt')).code).toBe(ERROR_CODES.unavailable.exit)
  const pinned = await ask('--fingerprint', 'ab'.repeat(32))
  expect([pinned.code, pinned.err]).toEqual([
    ERROR_CODES.unavailable.exit,
    expect.stringMatching(/has the fingerprint [0-9a-f]{64}, not the one of --fingerprint/),
  ])
  expect((await ask('--fingerprint', 'abc')).code).toBe(ERROR_CODES.usage.exit)
  expect((await ask('--ca', 'missing.crt')).code).toBe(ERROR_CODES.input_invalid.exit)
})

/** What meshctl says to a server in a node's place, and how many bytes it told it. */
async function toLiar(pair: ServerOptions, ...options: readonly string[]): Promise<CliResult & { bytes: number }> {
  let bytes = 0
  const liar: Server = createServer(pair, (_, response) => response.end())
  liar.on('secureConnection', (socket) => socket.on('data', (data: Buffer) => (bytes += data.length)))
  await new Promise<void>((resolve) => liar.listen(0, '127.0.0.1', resolve))
  const { port } = liar.address() as AddressInfo
  try {
    const argv = ['--api', `https://127.0.0.1:${port}`, '-k', 'owner.key', ...options, 'status']
    return { ...(await meshctl(argv, { cwd })), bytes }
  } finally {
    await new Promise((resolve) => liar.close(resolve).closeAllConnections())
  }
}

test('a node with another certificate than the pinned one is sent nothing', async () => {
  const [cert, key] = await Promise.all([readFile(join(cwd, 'other.crt')), readFile(join(cwd, 'other.pem'))])
  const said = await toLiar({ cert, key }, '--fingerprint', fingerprint)
  expect(said).toMatchObject({ code: ERROR_CODES.unavailable.exit, bytes: 0 })
})

test('plain HTTP is answered with what to write instead, and the socket speaks nothing else', async () => {
  const plain = `http://127.0.0.1:${node.server.port}`
  const { status, headers, json } = await http(plain, '/health')
  expect([status, headers['content-type']]).toEqual([400, 'application/problem+json'])
  expect(json()).toMatchObject({ detail: expect.stringContaining('this port speaks HTTPS') })
  const { code, err } = await meshctl(['--api', plain, '-k', 'owner.key', 'status'], { cwd })
  expect([code, err]).toEqual([ERROR_CODES.input_invalid.exit, expect.stringMatching(/HTTPS.*\n.*--api https:/)])
  // It answers others meanwhile and afterwards, and keeps none of it.
  expect((await ask('--ca', 'node.crt')).code).toBe(0)
  expect((await http(`unix:${node.socketPath}`, '/health')).status).toBe(200)
})

test('a node that speaks no TLS is said to be one', async () => {
  const plain = await startApiNode()
  try {
    for (const pin of [[], ['--fingerprint', fingerprint], ['--pin', KEYS.node.publicKey]]) {
      const argv = ['--api', `https://127.0.0.1:${plain.server.port}`, '-k', 'owner.key', ...pin, 'status']
      const { code, err } = await meshctl(argv, { cwd })
      expect([code, err]).toEqual([ERROR_CODES.unavailable.exit, expect.stringMatching(/speaks no TLS.*\n.*http_tls/)])
    }
  } finally {
    await plain.stop()
  }
})

test.each([
  ['a missing file', 'missing.crt', 'node.pem'],
  ['the key of another', 'node.crt', 'other.pem'],
  ['no certificate', 'owner.key', 'node.pem'],
])('%s stops the start with a message', async (_, cert, key) => {
  const start = startApiNode({ server: { tls: { cert: join(cwd, cert), key: join(cwd, key) } } })
  await expect(start).rejects.toMatchObject({
    code: 'config_invalid',
    message: expect.stringContaining('the API cannot speak TLS with'),
    details: { field: 'http_tls' },
  })
})

describe('with the certificate of its own key', () => {
  const PAIR = nodeCertificate(KEYS.node, [])
  const ticket = (mesh: string, ...keys: readonly string[]): string =>
    signTicket(
      {
        mesh,
        network: 'default',
        nodes: keys.map((key) => ({ key, addresses: ['10.0.0.1:9102'] })),
        zones: ['eu'],
        // Long over: what it says of keys and mesh stays so.
        expires: 1_000,
        nonce: '00'.repeat(16),
      },
      KEYS.owner,
    )
  const MESH = FOUNDING[0]!.id
  const OF_NODE = ticket(MESH, KEYS.other.publicKey, KEYS.node.publicKey)

  let identified: ApiNode
  let api: string

  beforeAll(async () => {
    identified = await startApiNode({ server: { tls: PAIR } })
    api = `https://127.0.0.1:${identified.server.port}`
    await writeFile(join(cwd, 'identity.crt'), PAIR.certPem)
  })
  afterAll(() => identified.stop())

  const status = async (...options: readonly string[]): Promise<CliResult> =>
    await meshctl(['--api', api, '-k', 'owner.key', ...options, 'status'], { cwd })

  test('it is believed by its key, by a ticket that names it, and in the other ways', async () => {
    expect(await status('--pin', KEYS.node.publicKey)).toMatchObject({
      code: 0,
      out: expect.stringContaining('edge-1 (here)'),
    })
    expect(await status('--pin', KEYS.other.publicKey, '--pin', KEYS.node.publicKey)).toMatchObject({ code: 0 })
    expect(await status('--pin', OF_NODE)).toMatchObject({ code: 0, err: '' })
    const fingerprint256 = new X509Certificate(PAIR.certPem).fingerprint256
    expect(identified.lines.join('')).toContain(fingerprint256)
    expect((await status('--fingerprint', fingerprint256)).code).toBe(0)
    expect((await status('--fingerprint', fingerprint256, '--pin', KEYS.node.publicKey)).code).toBe(0)
    expect((await status('--ca', 'identity.crt')).code).toBe(0)
    for (const pin of [KEYS.node.publicKey, `${KEYS.other.publicKey}, ${KEYS.node.publicKey}`, OF_NODE]) {
      const env = { NXMESH_API: api, NXMESH_KEY: 'owner.key', NXMESH_PIN: pin }
      expect((await meshctl(['peers'], { cwd, env })).code, pin).toBe(0)
    }
  })

  test('another one is not, and what was expected and what came is said', async () => {
    const { code, err } = await status('--pin', KEYS.other.publicKey)
    expect(code).toBe(ERROR_CODES.unavailable.exit)
    expect(err).toContain(
      `${api} is not the pinned node: it proves to be node ${KEYS.node.publicKey}; --pin wants ${KEYS.other.publicKey}`,
    )
    expect(err).toMatch(/Nothing was sent.*mesh-node check/)
    expect((await status('--pin', ticket(MESH, KEYS.other.publicKey))).err).toContain(KEYS.other.publicKey)
    // Both hold, when both are given.
    expect((await status('--pin', KEYS.node.publicKey, '--fingerprint', 'ab'.repeat(32))).err).toContain(
      '--fingerprint',
    )
    expect((await status()).err).toMatch(/is not trusted \(DEPTH_ZERO_SELF_SIGNED_CERT\)\n.*--pin KEY/)
    const unbound = await ask('--pin', KEYS.node.publicKey)
    expect(unbound.err).toMatch(/is bound to no node's key.*--pin wants ca93ac17/)
  })

  test('a ticket names the mesh too', async () => {
    const mesh = 'ab'.repeat(32)
    const elsewhere = ticket(mesh, KEYS.node.publicKey)
    expect((await status('--pin', elsewhere)).code).toBe(ERROR_CODES.unauthenticated.exit)
    const token = await meshctl(['token', '-k', 'owner.key', '--pin', elsewhere, '-o', 'json'], { cwd })
    expect(JSON.parse(token.out)).toMatchObject({ mesh })
    expect((await status('--pin', OF_NODE, '--mesh', MESH)).code).toBe(0)
    const clash = await status('--pin', OF_NODE, '--mesh', mesh)
    expect([clash.code, clash.err]).toEqual([ERROR_CODES.usage.exit, expect.stringContaining('is for mesh')])
    const two = await status('--pin', OF_NODE, '--pin', elsewhere)
    expect([two.code, two.err]).toEqual([ERROR_CODES.usage.exit, expect.stringContaining('several meshes')])
  })

  test.each([
    ['a short key', 'ca93ac17', 'usage'],
    ['an empty variable', '', 'usage'],
    ['no key', 'edge-1', 'usage'],
    ['a damaged ticket', `${OF_NODE.slice(0, -1)}x`, 'input_invalid'],
  ] as const)('%s pins nothing', async (_, pin, code) => {
    expect((await status('--pin', pin)).code).toBe(ERROR_CODES[code].exit)
  })

  test('a pin is not thrown away on plain HTTP', async () => {
    for (const pin of [
      ['--pin', KEYS.node.publicKey],
      ['--fingerprint', 'ab'.repeat(32)],
    ]) {
      const { code, err } = await meshctl(['--api', 'http://127.0.0.1:9', '-k', 'owner.key', ...pin, 'status'], { cwd })
      expect([code, err]).toEqual([ERROR_CODES.usage.exit, expect.stringMatching(/plain HTTP.*\n.*https:/)])
    }
    const unix = ['--api', `unix:${identified.socketPath}`, '--pin', KEYS.other.publicKey, 'status']
    expect((await meshctl(unix, { cwd })).code, 'whoever may open the socket is on the host').toBe(0)
  })

  test('a man in the middle with a copy of what the certificate says of the node is sent nothing', async () => {
    const spkiOf = (pem: string): Buffer => new X509Certificate(pem).publicKey.export({ format: 'der', type: 'spki' })
    const other = nodeCertificate(KEYS.stranger, [])
    // The node's whole certificate, but for the key that TLS proves.
    const forged = new X509Certificate(PAIR.certPem).raw
    spkiOf(other.certPem).copy(forged, forged.indexOf(spkiOf(PAIR.certPem)))
    const cert = `-----BEGIN CERTIFICATE-----\n${forged.toString('base64')}\n-----END CERTIFICATE-----\n`
    const pin = ['--pin', KEYS.node.publicKey]
    const said = await toLiar({ cert, key: other.keyPem }, ...pin)
    expect(said).toMatchObject({ code: ERROR_CODES.unavailable.exit, bytes: 0 })
    expect(said.err).toContain("is bound to no node's key")
    expect(await toLiar({ cert: other.certPem, key: other.keyPem }, ...pin)).toMatchObject({
      bytes: 0,
      err: expect.stringContaining(`it proves to be node ${KEYS.stranger.publicKey}`),
    })
    // With the node's own it would have been heard.
    expect((await toLiar({ cert: PAIR.certPem, key: PAIR.keyPem }, ...pin)).bytes).toBeGreaterThan(0)
  })

  test('a host that the certificate does not name is told apart with --ca', async () => {
    const elsewhere = await startApiNode({ server: { tls: PAIR, bindAddress: '127.0.0.2' } })
    const there = `https://127.0.0.2:${elsewhere.server.port}`
    const argv = ['--api', there, '-k', 'owner.key', '--ca', 'identity.crt', 'status']
    const { code, err } = await meshctl(argv, { cwd })
    await elsewhere.stop()
    expect([code, err]).toEqual([
      ERROR_CODES.unavailable.exit,
      expect.stringMatching(/is not trusted \(.*IP: 127\.0\.0\.2 is not in the cert's list/),
    ])
  })

  test('whoever takes the certificate itself for an authority finds the name', async () => {
    const health = await new Promise<number | undefined>((resolve, reject) => {
      const { port } = identified.server
      request({ host: 'localhost', port, family: 4, path: '/health', ca: PAIR.certPem, agent: false }, (response) =>
        resolve(response.resume().statusCode),
      )
        .on('error', reject)
        .end()
    })
    expect(health).toBe(200)
  })
})
