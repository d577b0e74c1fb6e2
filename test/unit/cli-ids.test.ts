/** Keys and envelopes as people name them: by name or by the first digits, resolved by the node and never guessed. */

import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { EditView } from '../../src/api/schemas.ts'
import { keptBy } from '../../src/cli/authority.ts'
import { isSmallOrderKey, type KeyPair } from '../../src/core/envelope.ts'
import { ERROR_CODES } from '../../src/errors.ts'
import { KEYS, startApiNode, testKey, type ApiNode } from '../support/api-node.ts'
import { meshctl, type CliResult } from '../support/cli.ts'
import { MESH_ID } from '../support/sign.ts'

const SITE = `apiVersion: nxmesh/v1
kind: Site
metadata: { name: web, zone: eu.west }
spec: { hosts: [a.example] }
`
const bea = testKey(7)

let node: ApiNode
let cwd: string
beforeEach(async () => {
  node = await startApiNode()
  cwd = await mkdtemp(join(tmpdir(), 'nxmesh-cli-ids-'))
  await writeKey('owner.key', KEYS.owner)
  await writeKey('bea.key', bea)
})
afterEach(async () => {
  await node.stop()
  await rm(cwd, { recursive: true, force: true })
})

async function writeKey(name: string, key: KeyPair): Promise<void> {
  await writeFile(join(cwd, name), Buffer.from(key.seed).toString('hex'), { mode: 0o600 })
}

const as = (key: string, argv: readonly string[], stdin = ''): Promise<CliResult> =>
  meshctl(['--api', node.url, '-k', key, ...argv], { cwd, stdin })
const owner = (...argv: readonly string[]): Promise<CliResult> => as('owner.key', argv)

/** Grants bea her role; the id of the grant. */
async function grantBea(...argv: readonly string[]): Promise<string> {
  const { code, out, err } = await owner('grant', 'editor', bea.publicKey, '--zone', 'eu', '--name', 'bea', ...argv)
  expect(code, err).toBe(0)
  return out.trim()
}

const grantsOf = (key: string): number => node.replica.state.policy.activeGrants(key).length
const size = (): number => node.replica.state.history.size

/** Two public keys that begin with the same digits. */
function twins(prefix: string): [string, string] {
  const found: string[] = []
  for (let n = 0; found.length < 2; n += 1) {
    const key = prefix + n.toString(16).padStart(64 - prefix.length, '0')
    if (!isSmallOrderKey(key)) found.push(key)
  }
  return found as [string, string]
}

describe('revoke', () => {
  test.each([
    ['the digits that log shows', (id: string) => id.slice(0, 12)],
    ['eight digits', (id: string) => id.slice(0, 8)],
  ])('takes %s of a grant, and says which it is before it signs', async (_, shorten) => {
    const id = await grantBea()
    expect((await owner('log')).out).toContain(id.slice(0, 12))
    const { code, err } = await owner('revoke', shorten(id))
    expect(code, err).toBe(0)
    const [first, ...others] = err.split('\n')
    expect(first).toBe(`${shorten(id)} is grant ${id} to ${bea.publicKey}`)
    expect(others.join()).toContain('revoked 1 grant')
    expect(grantsOf(bea.publicKey)).toBe(0)
  })

  test.each([
    ['a name', () => 'bea'],
    ['the first digits of a key', () => bea.publicKey.slice(0, 12)],
  ])('takes %s', async (_, text) => {
    await grantBea()
    const dry = await owner('revoke', text(), '--dry-run')
    expect(dry.err).toMatch(
      new RegExp(`^${text()} is key ${bea.publicKey} \\(bea\\)\n.*dry run: nothing was changed`, 's'),
    )
    expect(grantsOf(bea.publicKey)).toBe(1)
    expect((await owner('revoke', text())).code).toBe(0)
    expect(grantsOf(bea.publicKey)).toBe(0)
  })

  test('of several candidates lists all, and signs nothing', async () => {
    const [a, b] = twins('deadbeef')
    await owner('grant', 'editor', a, '--zone', 'eu', '--name', 'bob')
    await owner('grant', 'editor', b, '--zone', 'eu', '--name', 'bob')
    const before = size()
    for (const text of ['deadbeef', 'bob']) {
      const { code, err } = await owner('revoke', text)
      expect(code).toBe(ERROR_CODES.usage.exit)
      expect(err).toBe(
        `meshctl: ${text} may be any of these:\n  key ${a} (bob)\n  key ${b} (bob)\n  Give more digits of the one that you mean.\n`,
      )
    }
    expect(size()).toBe(before)
    // What has no grant any more cannot be meant.
    expect((await owner('revoke', a)).code).toBe(0)
    const { code, err } = await owner('revoke', 'bob')
    expect([code, err]).toEqual([0, expect.stringContaining(`bob is key ${b} (bob)\n`)])
  })

  test('takes nothing else: an edit, an unknown name, too few digits', async () => {
    await grantBea()
    const applied = await as('bea.key', ['apply', '-f', '-'], SITE)
    const [, edit] = /edit ([0-9a-f]{12})/.exec(applied.err) as RegExpExecArray
    for (const [text, code, words] of [
      [edit as string, ERROR_CODES.not_found.exit, 'no key and no grant in force'],
      ['nobody', ERROR_CODES.not_found.exit, 'no key and no grant in force'],
      ['0123456', ERROR_CODES.not_found.exit, 'no key and no grant in force'],
      ['DEADBEEF', ERROR_CODES.usage.exit, 'KEY|GRANT-ID takes 64 lower-case hex digits, the first 8 of them or more'],
    ] as const) {
      const ended = await owner('revoke', text)
      expect([text, ended.code, ended.err]).toEqual([text, code, expect.stringContaining(words)])
    }
    expect(grantsOf(bea.publicKey)).toBe(1)
  })

  test('--since takes the first digits of one edit of the key', async () => {
    await grantBea()
    const applied = await as('bea.key', ['apply', '-f', '-'], SITE)
    const [, edit] = /edit ([0-9a-f]{12})/.exec(applied.err) as RegExpExecArray
    const { err } = await owner('revoke', 'bea', '--since', edit as string, '--dry-run')
    expect(err).toMatch(new RegExp(`becomes void:\n.*${edit}`, 's'))
    expect((await owner('revoke', 'bea', '--since', '0'.repeat(12), '--dry-run')).code).toBe(ERROR_CODES.not_found.exit)
  })
})

test('--since with digits that begin several edits of the key lists them', () => {
  const history = ['a', 'b'].map((end) => ({ id: `deadbeef${end.repeat(56)}`, type: 'edit', at: 0 }) as EditView)
  expect(() => keptBy(history, 'deadbeef')).toThrow(
    `deadbeef may be any of these:\n  edit ${history[0]?.id}\n  edit ${history[1]?.id}`,
  )
  expect(keptBy(history, 'deadbeefb')).toEqual(history.slice(0, 1))
})

test('grant takes a key that the node knows by name or first digits, and any new one whole', async () => {
  await grantBea()
  const again = await owner('grant', 'editor', 'bea', '--zone', 'us')
  expect([again.code, again.err]).toEqual([0, expect.stringContaining(`bea is key ${bea.publicKey} (bea)\n`)])
  expect((await owner('grant', 'editor', bea.publicKey.slice(0, 8), '--zone', 'cdn')).code).toBe(0)
  expect(grantsOf(bea.publicKey)).toBe(3)
  const fresh = await owner('grant', 'editor', testKey(8).publicKey, '--zone', 'eu')
  expect([fresh.code, fresh.err]).toEqual([0, expect.not.stringContaining(' is key ')])
  const unknown = await owner('grant', 'editor', testKey(11).publicKey.slice(0, 20), '--zone', 'eu')
  expect([unknown.code, unknown.err]).toEqual([
    ERROR_CODES.not_found.exit,
    expect.stringContaining('A new key has to be given whole'),
  ])
})

test('log takes an author by name or first digits, also one without a grant by now', async () => {
  await grantBea()
  await as('bea.key', ['apply', '-f', '-'], SITE)
  await owner('revoke', 'bea')
  for (const author of ['bea', bea.publicKey.slice(0, 8), bea.publicKey]) {
    const { code, out } = await owner('log', '--author', author)
    expect([code, out.trimEnd().split('\n').length]).toEqual([0, 2])
    expect(out).toContain('default/eu.west/site/web')
  }
  expect((await owner('log', '--author', 'nobody')).code).toBe(ERROR_CODES.not_found.exit)
})

test('a node that names something else than what was asked for is not believed', async () => {
  const { createServer } = await import('node:http')
  const other = { id: testKey(12).publicKey, type: 'key', name: null, about: null, active: true }
  const liar = createServer((_, response) => {
    response.setHeader('content-type', 'application/json')
    response.end(JSON.stringify({ data: [other], meta: { page: 1, per_page: 100, total: 1 } }))
  })
  await new Promise<void>((resolve) => liar.listen(0, '127.0.0.1', resolve))
  const { port } = liar.address() as { port: number }
  const there = ['--api', `http://127.0.0.1:${port}`, '--mesh', MESH_ID, '-k', 'owner.key']
  const { code } = await meshctl([...there, 'log', '--author', '01234567'], { cwd })
  expect(code).toBe(ERROR_CODES.not_found.exit)
  await new Promise((resolve) => liar.close(resolve).closeAllConnections())
})
