/** meshctl as a reader over TCP: the tokens that it signs by itself, the one that it prints, and what it says without a key. */

import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { systemClock } from '../../src/adapters/clock.ts'
import { CLIENT_LIMITS } from '../../src/cli/asking/client.ts'
import type { KeyPair } from '../../src/core/envelope.ts'
import { checkToken, TOKEN_LIMITS } from '../../src/core/token.ts'
import { ERROR_CODES } from '../../src/errors.ts'
import { KEYS, startApiNode, type ApiNode } from '../support/api-node.ts'
import { meshctl, type CliOptions, type CliResult } from '../support/cli.ts'
import { http } from '../support/http.ts'
import { MESH_ID } from '../support/sign.ts'
import { VirtualClock } from '../support/virtual-clock.ts'
import { waitFor } from '../support/wait.ts'

let node: ApiNode
let cwd: string
beforeEach(async () => {
  node = await startApiNode()
  cwd = await mkdtemp(join(tmpdir(), 'nxmesh-cli-token-'))
  await writeKey('owner.key', KEYS.owner)
  await writeKey('stranger.key', KEYS.stranger)
})
afterEach(async () => {
  await node.stop()
  await rm(cwd, { recursive: true, force: true })
})

async function writeKey(name: string, key: KeyPair): Promise<void> {
  await writeFile(join(cwd, name), Buffer.from(key.seed).toString('hex'), { mode: 0o600 })
}

async function tcp(argv: readonly string[], options: Partial<CliOptions> = {}): Promise<CliResult> {
  return await meshctl(['--api', node.url, ...argv], { cwd, ...options })
}

test('meshctl reads over TCP with whatever key it is given, and over the socket without one', async () => {
  const hex = Buffer.from(KEYS.owner.seed).toString('hex')
  expect((await tcp(['-k', 'owner.key', 'peers'])).out).toContain('edge-1 (here)')
  expect((await tcp(['peers'], { env: { PRIVATE_KEY: hex } })).code).toBe(0)
  expect((await tcp(['peers'], { env: { NXMESH_KEY: 'owner.key' } })).code).toBe(0)
  expect((await meshctl(['--api', `unix:${node.socketPath}`, 'peers'], { cwd })).code).toBe(0)
})

test('without a key it says what to do', async () => {
  const { code, err } = await tcp(['status'])
  expect(code).toBe(ERROR_CODES.key_invalid.exit)
  expect(err).toMatch(/over TCP a node answers only the holder of a granted key/)
  expect(err).toMatch(/-k FILE, NXMESH_KEY or PRIVATE_KEY; or ask on the host over its socket: --api unix:/)
})

test('a key that does not exist is told as such', async () => {
  const { code, err } = await tcp(['-k', 'missing.key', 'status'])
  expect([code, err]).toEqual([ERROR_CODES.key_invalid.exit, expect.stringContaining('missing.key')])
})

test('a key without a grant is told how to get one', async () => {
  const { code, err } = await tcp(['-k', 'stranger.key', 'status'])
  expect(code).toBe(ERROR_CODES.denied.exit)
  expect(err).toContain(`meshctl grant viewer ${KEYS.stranger.publicKey}`)
})

test('another mesh than the node’s, by option or environment, is refused and told', async () => {
  const other = 'f'.repeat(64)
  for (const result of [
    await tcp(['-k', 'owner.key', '--mesh', other, 'status']),
    await tcp(['-k', 'owner.key', 'status'], { env: { NXMESH_MESH_ID: other } }),
  ]) {
    expect(result.code).toBe(ERROR_CODES.denied.exit)
    expect(result.err).toContain(`the node is of mesh ${MESH_ID}, and this key works in ${other}`)
  }
  expect((await tcp(['-k', 'owner.key', '--mesh', MESH_ID, 'status'])).code).toBe(0)
  expect((await tcp(['-k', 'owner.key', '--mesh', 'prod', 'status'])).code).toBe(ERROR_CODES.usage.exit)
})

test('token prints one that a node takes, for as long as was asked', async () => {
  const { code, out } = await tcp(['-k', 'owner.key', 'token', '--ttl', '2m'])
  expect(code).toBe(0)
  expect((await http(node.url, '/v1/node', { headers: { authorization: `Bearer ${out.trim()}` } })).status).toBe(200)
  const now = Date.now()
  expect(checkToken(out.trim(), MESH_ID, now)).toMatchObject({ key: KEYS.owner.publicKey })
  expect(checkToken(out.trim(), MESH_ID, now + (120 + TOKEN_LIMITS.leeway + 1) * 1000)).toEqual({
    fault: 'the token has expired',
  })
})

test('token needs no node when it is told the mesh', async () => {
  const argv = ['--api', 'http://127.0.0.1:1', '-k', 'owner.key', 'token', '--mesh', MESH_ID]
  const { code, out } = await meshctl([...argv, '-o', 'json'], { cwd })
  expect(code).toBe(0)
  expect(JSON.parse(out)).toMatchObject({ key: KEYS.owner.publicKey, mesh: MESH_ID })
  expect((await meshctl([...argv, '--ttl', '2h'], { cwd })).err).toContain('--ttl takes a time from 1s to 1h, not 2h')
})

test('token --edit names the node whose edits it is for, by its whole key', async () => {
  const argv = ['--api', 'http://127.0.0.1:1', '-k', 'owner.key', 'token', '--mesh', MESH_ID]
  const { out } = await meshctl([...argv, '--edit', KEYS.node.publicKey], { cwd })
  expect(checkToken(out.trim(), MESH_ID, Date.now())).toMatchObject({ edit: KEYS.node.publicKey })
  const { code, err } = await meshctl([...argv, '--edit', 'edge-1'], { cwd })
  expect(code).toBe(ERROR_CODES.usage.exit)
  expect(err).toContain('--edit takes all 64 lower-case hex digits')
})

test('the node of a mesh that has not come yet gives no token', async () => {
  const fresh = await startApiNode({ founded: false })
  const { code, err } = await meshctl(['--api', fresh.url, '-k', 'owner.key', 'token'], { cwd })
  expect([code, err]).toEqual([ERROR_CODES.unavailable.exit, expect.stringContaining('--mesh ID')])
  await fresh.stop()
})

test('watch goes on with another token when the first has ended', async () => {
  const time = new VirtualClock(Date.now())
  const timed = await startApiNode({ server: { clock: time } })
  const interruption = new AbortController()
  let text = ''
  const watching = meshctl(['--api', timed.url, '-k', 'owner.key', 'watch'], {
    cwd,
    clock: { ...systemClock, now: () => time.now(), sleep: () => Promise.resolve() },
    signal: interruption.signal,
    onOutput: (part) => (text += part),
  })
  const greetings = (): number => text.split('hello').length - 1
  await waitFor(() => greetings() === 1, { what: () => `the first event in ${text}` })
  await time.advance((CLIENT_LIMITS.tokenLifetime + TOKEN_LIMITS.leeway + 1) * 1000)
  await waitFor(() => greetings() === 2, { what: () => `a second stream in ${text}` })
  interruption.abort()
  expect((await watching).code).toBe(0)
  await timed.stop()
})
