/** meshctl rotate, in process, against a real API server: what the new key gets, and when the old one may end. */

import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { stringify } from 'yaml'
import type { GrantView } from '../../src/api/schemas.ts'
import { grantView } from '../../src/api/views.ts'
import type { Envelope, GrantBody, KeyPair } from '../../src/core/envelope.ts'
import { encryptionKey } from '../../src/core/secrets.ts'
import { KEYS, startApiNode, targetOf, testKey, type ApiNode } from '../support/api-node.ts'
import { meshctl, type CliResult } from '../support/cli.ts'
import { lyingNode } from '../support/lying-node.ts'
import { speak } from '../support/peer-status.ts'
import { receiptOf } from '../support/receipt.ts'

const [ana, ana2, eve] = [61, 62, 63].map(testKey) as [KeyPair, KeyPair, KeyPair]

let node: ApiNode
let cwd: string
beforeEach(async () => {
  node = await startApiNode()
  cwd = await mkdtemp(join(tmpdir(), 'nxmesh-rotate-'))
  for (const [name, key] of Object.entries({ owner: KEYS.owner, root: KEYS.root, ana, ana2 })) {
    await writeFile(join(cwd, `${name}.key`), Buffer.from(key.seed).toString('hex'), { mode: 0o600 })
  }
})
afterEach(async () => {
  await node.stop()
  await rm(cwd, { recursive: true, force: true })
})

async function run(argv: readonly string[], { key = 'owner', stdin = '', api = `unix:${node.socketPath}` } = {}) {
  return await meshctl(['--api', api, '-k', `${key}.key`, ...argv], { cwd, stdin })
}

async function ok(argv: readonly string[], call: { key?: string; stdin?: string } = {}): Promise<CliResult> {
  const result = await run(argv, call)
  expect([argv, result.code, result.err]).toEqual([argv, 0, result.err])
  return result
}

const encOf = (key: KeyPair): string => encryptionKey(key.seed).publicKey
const both = (key: KeyPair): string => `${key.publicKey}:${encOf(key)}`
const grantsOf = (key: KeyPair): GrantBody[] =>
  node.replica.state.policy.activeGrants(key.publicKey).map(({ body }) => body)
const size = (): number => node.replica.state.history.size
const site = (name: string): string =>
  stringify({ apiVersion: 'nxmesh/v1', kind: 'Site', metadata: { name }, spec: { hosts: [`${name}.example`] } })
const finish = (...more: string[]): Promise<CliResult> => run(['rotate', '--finish', ana.publicKey, ...more])

async function grantAna(): Promise<void> {
  const scope = ['--hosts', '*.example', '--quota', 'resources=5', '--kinds', 'site,secret']
  await ok(['grant', 'editor', both(ana), '-z', '*', '--name', 'ana', ...scope])
  await ok(['grant', 'viewer', ana.publicKey, '-z', '*', '-w', 'shop'])
}

test('the new key gets exactly what the old one was granted, once', async () => {
  await grantAna()
  const dry = await ok(['rotate', ana.publicKey, both(ana2), '--dry-run'])
  expect(dry.err).toMatch(
    /^grant editor ana \(.*\) of zones \* in workspace default, kinds secret, site, hosts \*\.example, at most 5 resources\n/,
  )
  expect(grantsOf(ana2)).toEqual([])
  const { err } = await ok(['rotate', ana.publicKey, both(ana2), '--yes'])
  expect(err).toContain(`when the new key is in use: meshctl rotate --finish ${ana.publicKey} ${ana2.publicKey}`)
  expect(err).not.toContain('private_key_path')
  const says = ({ role, ws, zones, kinds, hosts, quota, name }: GrantBody) => ({
    role,
    ws,
    zones,
    kinds,
    hosts,
    quota,
    name,
  })
  expect(grantsOf(ana2).map(says)).toEqual(grantsOf(ana).map(says))
  expect(grantsOf(ana2).map(({ enc }) => enc)).toEqual([encOf(ana2), encOf(ana2)])
  const before = size()
  await ok(['rotate', ana.publicKey, both(ana2)])
  expect(size()).toBe(before)
})

test('the old key ends when the new one has signed something, and what it did stays', async () => {
  await grantAna()
  expect(await finish()).toMatchObject({ code: 5, err: expect.stringContaining('no other key has what') })
  await ok(['apply', '-f', '-'], { key: 'ana', stdin: site('before') })
  await ok(['rotate', ana.publicKey, both(ana2), '--yes'])
  await ok(['apply', '-f', '-'], { key: 'ana', stdin: site('between') })
  expect(await finish()).toMatchObject({ code: 7, err: expect.stringContaining('nothing was signed with') })
  expect(grantsOf(ana)).toHaveLength(2)
  await ok(['apply', '-f', '-'], { key: 'ana2', stdin: site('after') })
  expect((await finish('--dry-run')).err).toContain('dry run: nothing was signed')
  expect((await finish()).code).toBe(0)
  expect([grantsOf(ana).length, grantsOf(ana2).length]).toEqual([0, 2])
  const { out } = await ok(['get', 'sites'])
  for (const name of ['before', 'between', 'after']) expect(out).toContain(name)
  expect((await run(['apply', '-f', '-'], { key: 'ana', stdin: site('never') })).code).toBe(4)
})

test('the old key does not end before the new one opens its secrets', async () => {
  await grantAna()
  await ok(['secret', 'set', 'shop', '-z', '*', '-f', '-'], { stdin: 'text' })
  const { err } = await ok(['rotate', ana.publicKey, both(ana2), '--yes'])
  expect(err).toContain("  meshctl secret reseal shop -w default -z '*'\n")
  await ok(['apply', '-f', '-'], { key: 'ana2', stdin: site('a') })
  expect(await finish()).toMatchObject({ code: 7, err: expect.stringContaining('1 secrets that the old key opens') })
  await ok(['secret', 'reseal', 'shop'])
  expect((await finish()).code).toBe(0)
  expect((await ok(['secret', 'get', 'shop'], { key: 'ana2' })).out).toBe('text')
})

test('several keys that have the same must be told apart, and force ends the old one unseen', async () => {
  await grantAna()
  await ok(['rotate', ana.publicKey, both(ana2), '--yes'])
  await ok(['rotate', ana.publicKey, both(eve), '--yes'])
  expect(await finish()).toMatchObject({ code: 2, err: expect.stringContaining('several keys have what') })
  expect((await finish(ana2.publicKey, '--force')).code).toBe(0)
  expect(grantsOf(ana)).toEqual([])
})

test('an owner’s key is rotated by the root, and edits with the new one go on where the old one’s ended', async () => {
  const root = { key: 'root' }
  await ok(['apply', '-f', '-'], { stdin: site('before') })
  expect(await run(['rotate', KEYS.owner.publicKey, both(ana), '--yes'])).toMatchObject({ code: 4 })
  await ok(['rotate', KEYS.owner.publicKey, both(ana), '--yes'], root)
  await ok(['apply', '-f', '-'], { key: 'ana', stdin: site('after') })
  await ok(['rotate', '--finish', KEYS.owner.publicKey], root)
  expect([KEYS.owner, ana].map((key) => grantsOf(key).map(({ role }) => role))).toEqual([[], ['owner']])
  expect((await ok(['get', 'sites'])).out).toMatch(/after[^]*before/)
  // The nodes that the old key let in are nodes still.
  expect([KEYS.node, KEYS.other].map((key) => grantsOf(key).length)).toEqual([1, 1])
})

test.each<[string, readonly string[], number, RegExp]>([
  ['a shortened key', [ana.publicKey.slice(0, 12), both(ana2)], 2, /OLD-KEY takes all 64/],
  ['one key', [ana.publicKey], 2, /rotate takes OLD-KEY and NEW-KEY:ENC/],
  ['the same key', [ana.publicKey, both(ana)], 2, /NEW-KEY is the old one/],
  ['no second half', [ana.publicKey, ana2.publicKey], 2, /NEW-KEY needs its second half/],
  ['a key that has nothing', [eve.publicKey, both(ana2)], 5, /has no grant in force/],
  [
    'one that the signer does not outrank',
    [KEYS.owner.publicKey, both(ana2), '--yes'],
    4,
    /your key may not give owner ana/,
  ],
])('with %s nothing is signed', async (_, argv, code, message) => {
  await grantAna()
  const before = size()
  expect(await run(['rotate', ...argv])).toMatchObject({ code, err: expect.stringMatching(message) })
  expect(size()).toBe(before)
})

describe('of a node', () => {
  const next = testKey(77)
  const end = (...more: string[]): Promise<CliResult> =>
    run(['rotate', '--finish', KEYS.other.publicKey, '--timeout', '0s', ...more])

  test('waits until the node is up under the new key and has taken up what it should', async () => {
    const { err } = await ok(['rotate', KEYS.other.publicKey, both(next), '--yes'])
    expect(err).toContain(
      'name the new file in its configuration (private_key_path), then: systemctl restart mesh-node',
    )
    expect(await end()).toMatchObject({ code: 7, err: expect.stringContaining('no node is up under') })
    const target = targetOf(node.replica, ['us'])
    await speak(node, next, { receipt: receiptOf({ target: 'ab'.repeat(32) }) })
    expect(await end()).toMatchObject({ code: 7, err: expect.stringContaining('is not in sync yet') })
    await speak(node, next, { receipt: receiptOf({ target }) })
    expect((await end()).code).toBe(0)
    expect([grantsOf(KEYS.other).length, grantsOf(next).length]).toEqual([0, 1])
  })
})

test('a node that shows another key’s grant as the old one’s gets nothing for the new one', async () => {
  await grantAna()
  const admin = (await ok(['grant', 'admin', eve.publicKey, '-z', '*', '-w', '*'])).out.trim()
  await using liar = await lyingNode(node.url, (path, truth) => {
    if (!path.startsWith('/v1/grants')) return truth
    const page = truth as { data: GrantView[] }
    return { ...page, data: page.data.map((view) => (view.id === admin ? { ...view, subject: ana.publicKey } : view)) }
  })
  expect((await run(['rotate', ana.publicKey, both(ana2), '--yes'], { api: liar.url })).code).toBe(0)
  expect(grantsOf(ana2).map(({ role }) => role)).toEqual(['editor', 'viewer'])
})

test('a grant that was taken from the old key, and that a node lists, is signed for the new one by nobody who only looks', async () => {
  await grantAna()
  const id = (await ok(['grant', 'admin', ana.publicKey, '-z', '*', '-w', '*', '--name', 'ana'])).out.trim()
  await ok(['revoke', id])
  const revoked = grantView(node.replica.state.history.get(id) as Envelope<GrantBody>)
  await using liar = await lyingNode(node.url, (path, truth) => {
    if (!path.startsWith('/v1/grants')) return truth
    const page = truth as { data: GrantView[]; meta: { total: number } }
    return { data: [...page.data, revoked], meta: { ...page.meta, total: page.meta.total + 1 } }
  })
  const before = size()
  const { code, err } = await run(['rotate', ana.publicKey, both(ana2), '--note', 'a new one'], { api: liar.url })
  expect([code, err]).toEqual([2, expect.stringMatching(/^grant admin ana /m)])
  expect(err).toContain('nothing was signed')
  expect(err).toMatch(
    new RegExp(`meshctl rotate ${ana.publicKey} ${both(ana2)} --api \\S+ --key owner.key --note 'a new one' --yes`),
  )
  expect(size()).toBe(before)
})

describe('a node that does not show all that the old key did', () => {
  type Hide = (path: string, truth: never) => unknown
  const isHistory = (path: string): boolean => path.startsWith('/v1/edits?') && path.includes(ana.publicKey)
  const empty: Hide = (path, truth) => (isHistory(path) ? { data: [], next: null } : truth)

  test.each<[string, Hide]>([
    ['none of it', empty],
    [
      'the first edit alone',
      (path, truth: { data: unknown[] }) => (isHistory(path) ? { ...truth, data: truth.data.slice(0, 1) } : truth),
    ],
    [
      'none of it, and no chain',
      (path, truth: object) =>
        path.startsWith('/v1/chains')
          ? { data: [], meta: { total: 0, page: 1, per_page: 1000 } }
          : empty(path, truth as never),
    ],
  ])('%s ends the key at no edit', async (_, hide) => {
    await grantAna()
    await ok(['rotate', ana.publicKey, both(ana2), '--yes'])
    await ok(['apply', '-f', '-'], { key: 'ana', stdin: site('a') })
    await ok(['apply', '-f', '-'], { key: 'ana', stdin: site('b') })
    await ok(['apply', '-f', '-'], { key: 'ana2', stdin: site('c') })
    await using liar = await lyingNode(node.url, hide as never)
    for (const more of [[], ['--dry-run']]) {
      // The chain of the new key is hidden too.
      const { code, err } = await run(['rotate', '--finish', ana.publicKey, ana2.publicKey, '--force', ...more], {
        api: liar.url,
      })
      expect([code, err]).toEqual([7, expect.stringMatching(/the node shows [01] edits by .*, and not that of/)])
    }
    const taken = await run(['revoke', ana.publicKey], { api: liar.url })
    expect([taken.code, taken.err]).toEqual([7, expect.stringContaining('Ask another node with --api')])
    expect(liar.taken).toEqual([])
    const { code, err } = await finish('--dry-run')
    expect([code, err]).toEqual([0, expect.stringMatching(/keeps 2 edits by [0-9a-f]{12}, all that this node shows/)])
  })

  test('and of a grant that it made, ends it neither', async () => {
    await ok(['grant', 'admin', both(ana), '-z', '*', '-w', '*', '--name', 'ana'])
    await ok(['grant', 'viewer', eve.publicKey, '-z', 'eu'], { key: 'ana' })
    await using liar = await lyingNode(node.url, (path, truth) =>
      path.startsWith('/v1/chains')
        ? { data: [], meta: { total: 0, page: 1, per_page: 1000 } }
        : empty(path, truth as never),
    )
    const { code, err } = await run(['revoke', ana.publicKey], { api: liar.url })
    expect([code, err]).toEqual([7, expect.stringMatching(/and not that of grant [0-9a-f]{12}/)])
  })
})
