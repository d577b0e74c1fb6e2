/**
 * Keys and envelopes as people name them: by name or by the first digits, resolved by the node and never guessed. What is
 * signed about is typed in full: a node that lies gets no signature about another key.
 */

import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { EditView } from '../../src/api/schemas.ts'
import { keptBy } from '../../src/cli/grants/authority.ts'
import { isSmallOrderKey, type KeyPair } from '../../src/core/envelope.ts'
import { ERROR_CODES } from '../../src/errors.ts'
import { KEYS, startApiNode, testKey, type ApiNode } from '../support/api-node.ts'
import { meshctl, type CliResult } from '../support/cli.ts'
import { MESH_ID } from '../support/sign.ts'
import { http } from '../support/http.ts'

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
  ])('for %s of a grant says which it is, and signs when all are repeated', async (_, shorten) => {
    const id = await grantBea()
    expect((await owner('log')).out).toContain(id.slice(0, 12))
    const { code, err } = await owner('revoke', shorten(id))
    expect([code, err]).toEqual([
      ERROR_CODES.usage.exit,
      `${shorten(id)} is grant ${id} to ${bea.publicKey}
  editor of zones eu in workspace default (grant ${id.slice(0, 12)})
meshctl: only this node says what ${shorten(id)} is, and it may be wrong or lie: nothing was signed
  Compare all digits with your own records. If it is what you mean: meshctl revoke ${id} --api ${node.url} --key owner.key
`,
    ])
    expect(grantsOf(bea.publicKey)).toBe(1)
    expect((await owner('revoke', id)).err).toContain('revoked 1 grant')
    expect(grantsOf(bea.publicKey)).toBe(0)
  })

  test.each([
    ['a name', () => 'bea'],
    ['the first digits of a key', () => bea.publicKey.slice(0, 12)],
  ])('takes %s to look only, and gives the command to repeat', async (_, text) => {
    await grantBea()
    const said = new RegExp(`^${text()} is key ${bea.publicKey} \\(bea\\)\n  editor of zones eu in workspace default`)
    const dry = await owner('revoke', text(), '--dry-run')
    expect([dry.code, dry.err]).toEqual([0, expect.stringMatching(said)])
    expect(dry.err).toContain('dry run: nothing was changed')
    const { code, err } = await owner('revoke', '--note', "bea's laptop", text(), '-w', 'default')
    expect([code, err]).toEqual([ERROR_CODES.usage.exit, expect.stringMatching(said)])
    expect(grantsOf(bea.publicKey)).toBe(1)
    const command = String.raw`meshctl revoke ${bea.publicKey} --api ${node.url} --key owner.key --workspace default --note 'bea'\''s laptop'`
    expect(err.trimEnd().endsWith(`If it is what you mean: ${command}`), err).toBe(true)
    expect((await owner('revoke', bea.publicKey)).code).toBe(0)
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
    const { code, err } = await owner('revoke', 'bob', '--dry-run')
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

test('grant takes a key whole only, known or new', async () => {
  await grantBea()
  for (const text of ['bea', bea.publicKey.slice(0, 8), bea.publicKey.slice(0, 63), `${bea.publicKey}0`]) {
    const { code, err } = await owner('grant', 'editor', text, '--zone', 'us')
    expect([code, err]).toEqual([
      ERROR_CODES.usage.exit,
      expect.stringContaining('KEY takes all 64 lower-case hex digits of a public key'),
    ])
  }
  expect(grantsOf(bea.publicKey)).toBe(1)
  for (const key of [bea.publicKey, testKey(8).publicKey]) {
    const { code, err } = await owner('grant', 'editor', key, '--zone', 'us')
    expect([code, err]).toEqual([0, expect.not.stringContaining(' is key ')])
  }
})

test('log takes an author by name or first digits, and by digits also one without a grant by now', async () => {
  await grantBea()
  await as('bea.key', ['apply', '-f', '-'], SITE)
  const find = async (author: string): Promise<void> => {
    const { code, out } = await owner('log', '--author', author)
    expect([code, out.trimEnd().split('\n').length]).toEqual([0, 2])
    expect(out).toContain('default/eu.west/site/web')
  }
  await find('bea')
  await owner('revoke', bea.publicKey)
  for (const author of [bea.publicKey.slice(0, 8), bea.publicKey]) await find(author)
  expect((await owner('log', '--author', 'nobody')).code).toBe(ERROR_CODES.not_found.exit)
})

test('a name of a grant in force beats one that is revoked or void, which does to look back by', async () => {
  await writeKey('carl.key', testKey(8))
  expect((await owner('grant', 'admin', testKey(8).publicKey, '--zone', 'eu')).code).toBe(0)
  const byCarl = await as('carl.key', ['grant', 'editor', testKey(12).publicKey, '--zone', 'eu', '--name', 'bea'])
  expect(byCarl.code, byCarl.err).toBe(0)
  await grantBea()
  expect((await owner('log', '--author', 'bea')).code).toBe(ERROR_CODES.usage.exit)
  // All that carl did is void, and so is the name that he gave.
  const since = byCarl.out.trim()
  expect((await owner('revoke', testKey(8).publicKey, '--since', since)).code).toBe(0)
  const { code, err } = await owner('log', '--author', 'bea')
  expect([code, err]).toEqual([0, `bea is key ${bea.publicKey} (bea)\n`])
  await owner('revoke', bea.publicKey)
  const former = await owner('log', '--author', 'bea')
  expect([former.code, former.err]).toEqual([
    ERROR_CODES.usage.exit,
    expect.stringContaining('bea may be any of these:'),
  ])
  expect((await owner('revoke', 'bea', '--dry-run')).code).toBe(ERROR_CODES.not_found.exit)
})

const THIEF = testKey(12).publicKey

/** A node as it is, but for what it says that ids and names stand for; remembers the envelopes that it is given. */
async function lyingNode(idsFor: (text: string) => object) {
  const page = (one: object) => JSON.stringify({ data: [one], meta: { page: 1, per_page: 100, total: 1 } })
  const [grant] = node.replica.state.policy.activeGrants(KEYS.owner.publicKey)
  const thiefsGrant = {
    id: grant?.id,
    subject: THIEF,
    name: 'bea',
    role: 'editor',
    workspace: 'default',
    zones: ['eu'],
    kinds: ['*'],
    fields: null,
    hosts: null,
    quota: null,
    enc: null,
    under: MESH_ID,
    by: KEYS.owner.publicKey,
    at: 0,
  }
  const taken: string[] = []
  const server = createServer((request, response) => {
    void (async () => {
      const url = new URL(request.url ?? '', node.url)
      let body = ''
      for await (const chunk of request) body += String(chunk)
      if (request.method === 'POST') taken.push(body)
      response.setHeader('content-type', 'application/json')
      if (url.pathname === '/v1/ids') return response.end(page(idsFor(url.searchParams.get('text') ?? '')))
      const isThief = url.pathname === '/v1/grants' && url.searchParams.get('subject') === THIEF
      if (isThief) return response.end(page(thiefsGrant))
      const { method = 'GET' } = request
      const headers = { 'content-type': 'application/json', authorization: request.headers.authorization ?? '' }
      const answer = await http(node.url, request.url ?? '', { method, headers, ...(method === 'GET' ? {} : { body }) })
      return response.writeHead(answer.status).end(answer.text)
    })()
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  return {
    taken,
    meshctl: (...argv: readonly string[]) =>
      meshctl(['--api', url, '--mesh', MESH_ID, '-k', 'owner.key', ...argv], { cwd }),
    [Symbol.asyncDispose]: async () => {
      await new Promise((resolve) => server.close(resolve).closeAllConnections())
    },
  }
}

/** The thief's key, under the name or with the digits that were asked for. */
const asThief = (text: string) => ({ id: THIEF, type: 'key', name: text, about: null, active: true })

test('a node that lies about what a name or digits stand for gets nothing signed about a key that was not typed', async () => {
  await grantBea()
  await using liar = await lyingNode(asThief)
  const vanity = THIEF.slice(0, 8)
  for (const text of ['bea', vanity, THIEF.slice(0, 63)]) {
    for (const argv of [
      ['grant', 'admin', text, '--zone', 'eu'],
      ['grant', 'owner', text],
      ['revoke', text],
      ['revoke', text, '--note', 'gone', '--since', '2026-01-01T00:00Z'],
      ['revoke', text, '--dry-run'],
    ]) {
      const { code } = await liar.meshctl(...argv)
      expect([argv, code]).toEqual([argv, argv.includes('--dry-run') ? 0 : ERROR_CODES.usage.exit])
    }
  }
  expect(liar.taken).toEqual([])
  expect((await liar.meshctl('revoke', 'bea')).err).toContain(`bea is key ${THIEF} (bea)\n  editor of zones eu`)
  // What is typed is what is signed, whatever the node says.
  expect((await liar.meshctl('grant', 'admin', bea.publicKey, '--zone', 'eu')).code).toBe(0)
  expect((await liar.meshctl('revoke', bea.publicKey)).code).toBe(0)
  expect(liar.taken).toHaveLength(2)
  for (const body of liar.taken) expect(body).toContain(bea.publicKey)
  for (const body of liar.taken) expect(body).not.toContain(THIEF)
})

test('an answer to another question than the one that was asked is left out', async () => {
  await using liar = await lyingNode(() => asThief('somebody'))
  expect((await liar.meshctl('log', '--author', '01234567')).code).toBe(ERROR_CODES.not_found.exit)
})
