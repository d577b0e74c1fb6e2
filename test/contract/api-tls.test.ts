/** The API over TLS with a certificate of the operator's own, and what meshctl believes: authorities, or one pinned certificate. */

import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { X509Certificate } from 'node:crypto'
import { createServer, type Server } from 'node:https'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { ERROR_CODES } from '../../src/errors.ts'
import { KEYS, startApiNode, type ApiNode } from '../support/api-node.ts'
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

async function status(...options: readonly string[]): Promise<CliResult> {
  return await meshctl(['--api', url, '-k', 'owner.key', ...options, 'status'], { cwd })
}

test('meshctl believes the authorities of --ca, or the one certificate of --fingerprint', async () => {
  expect(await status('--ca', 'node.crt')).toMatchObject({ code: 0, out: expect.stringContaining('edge-1 (here)') })
  expect((await status('--fingerprint', fingerprint)).code).toBe(0)
  expect((await status('--fingerprint', fingerprint.replaceAll(':', '').toLowerCase())).code).toBe(0)
  const env = { NXMESH_API: url, NXMESH_KEY: 'owner.key', NXMESH_FINGERPRINT: fingerprint }
  expect((await meshctl(['peers'], { cwd, env })).code).toBe(0)
})

test('and nothing else', async () => {
  const unknown = await status()
  expect([unknown.code, unknown.err]).toEqual([ERROR_CODES.unavailable.exit, expect.stringMatching(/SELF_SIGNED_CERT/)])
  expect((await status('--ca', 'other.crt')).code).toBe(ERROR_CODES.unavailable.exit)
  const pinned = await status('--fingerprint', 'ab'.repeat(32))
  expect([pinned.code, pinned.err]).toEqual([
    ERROR_CODES.unavailable.exit,
    expect.stringMatching(/has the fingerprint [0-9a-f]{64}, not the one of --fingerprint/),
  ])
  expect((await status('--fingerprint', 'abc')).code).toBe(ERROR_CODES.usage.exit)
  expect((await status('--ca', 'missing.crt')).code).toBe(ERROR_CODES.input_invalid.exit)
})

test('a node with another certificate than the pinned one is sent nothing', async () => {
  let bytes = 0
  const [cert, key] = await Promise.all([readFile(join(cwd, 'other.crt')), readFile(join(cwd, 'other.pem'))])
  const liar: Server = createServer({ cert, key }, (_, response) => response.end())
  liar.on('secureConnection', (socket) => socket.on('data', (data: Buffer) => (bytes += data.length)))
  await new Promise<void>((resolve) => liar.listen(0, '127.0.0.1', resolve))
  const { port } = liar.address() as AddressInfo
  const argv = ['--api', `https://127.0.0.1:${port}`, '-k', 'owner.key', '--fingerprint', fingerprint, 'status']
  expect((await meshctl(argv, { cwd })).code).toBe(ERROR_CODES.unavailable.exit)
  await new Promise((resolve) => liar.close(resolve).closeAllConnections())
  expect(bytes).toBe(0)
})

test('plain HTTP is not spoken there, and the socket speaks nothing else', async () => {
  await expect(http(`http://127.0.0.1:${node.server.port}`, '/health')).rejects.toThrow(/hang up|ECONNRESET/)
  expect((await http(`unix:${node.socketPath}`, '/health')).status).toBe(200)
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
