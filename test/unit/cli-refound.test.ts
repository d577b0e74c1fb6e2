/** meshctl refound, in process, against real API servers: what a new mesh takes over from an old one, and what not. */

import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { stringify } from 'yaml'
import { toWire } from '../../src/core/codec.ts'
import type { EditBody, Envelope, KeyPair, WireEnvelope } from '../../src/core/envelope.ts'
import { encryptionKey, open } from '../../src/core/secrets.ts'
import { slice } from '../../src/core/slicing.ts'
import { KEYS, startApiNode, testKey, type ApiNode } from '../support/api-node.ts'
import { meshctl, type CliResult } from '../support/cli.ts'
import { lyingNode } from '../support/lying-node.ts'
import { MESH_ID } from '../support/sign.ts'

const [ana, ben, thief] = [61, 62, 63].map(testKey) as [KeyPair, KeyPair, KeyPair]

let node: ApiNode
let heir: ApiNode
let cwd: string
beforeEach(async () => {
  node = await startApiNode()
  heir = await startApiNode({ founded: false })
  cwd = await mkdtemp(join(tmpdir(), 'nxmesh-refound-'))
  for (const [name, key] of Object.entries({ owner: KEYS.owner, root: KEYS.root, ana, ben, thief })) {
    await writeFile(join(cwd, `${name}.key`), Buffer.from(key.seed).toString('hex'), { mode: 0o600 })
  }
})
afterEach(async () => {
  await Promise.all([node.stop(), heir.stop()])
  await rm(cwd, { recursive: true, force: true })
})

interface Call {
  readonly key?: string
  readonly stdin?: string
  readonly at?: ApiNode
}

async function run(argv: readonly string[], { key = 'owner', stdin = '', at = node }: Call = {}): Promise<CliResult> {
  return await meshctl(['--api', `unix:${at.socketPath}`, '-k', `${key}.key`, ...argv], { cwd, stdin })
}

async function ok(argv: readonly string[], call: Call = {}): Promise<CliResult> {
  const result = await run(argv, call)
  expect([argv, result.code, result.err]).toEqual([argv, 0, result.err])
  return result
}

const both = (key: KeyPair): string => `${key.publicKey}:${encryptionKey(key.seed).publicKey}`
const site = (name: string, hosts: readonly string[], spec: object = {}): string =>
  stringify({ apiVersion: 'nxmesh/v1', kind: 'Site', metadata: { name }, spec: { hosts, ...spec } })
const apply = (key: string, stdin: string) => ok(['apply', '-f', '-'], { key, stdin })
const rolesOf = (at: ApiNode, key: KeyPair) =>
  at.replica.state.policy.activeGrants(key.publicKey).map(({ body }) => body.role)
const paths = (at: ApiNode): string[] => at.replica.state.resources().map(({ path }) => path)
const everywhere = { places: [{ workspace: '*', zones: ['eu.west', 'us'] }], labels: {} }

/** Founds it anew, and gives all of it to a node that has no mesh. */
async function refound(...more: string[]): Promise<CliResult> {
  const result = await ok(['refound', ...more])
  await ok(['push', 'mesh-2/genesis.json'], { at: heir })
  return result
}

test('the new mesh has the hosts, people and resources of the old one, and another owner', async () => {
  await ok(['grant', 'admin', both(ana), '-z', 'eu,us', '-w', '*', '--name', 'ana'])
  await ok([
    'grant',
    'editor',
    both(ben),
    '-z',
    '*',
    '--name',
    'ben',
    '--hosts',
    '*.ben.example',
    '--quota',
    'resources=9',
  ])
  await ok(['grant', 'editor', thief.publicKey, '-z', '*', '--name', 'thief'])
  await apply('thief', site('useful', ['useful.example']))
  await ok(['revoke', thief.publicKey])
  // Between two that claim one host the older wins, whatever their ids and names are.
  await apply('ben', site('z-older', ['x.ben.example']))
  await apply('ben', site('a-younger', ['x.ben.example']))
  const headers = Object.fromEntries(Array.from({ length: 300 }, (_, index) => [`X-${index}`, 'v']))
  await apply('owner', site('large', ['large.example'], { responseHeaders: { set: headers } }))
  await ok(['secret', 'set', 'shop', '-z', 'eu.west', '-f', '-'], { stdin: 'text' })
  await ok(['delete', 'site', 'useful'])
  await apply('owner', site('useful', ['useful.example']))
  const served = slice(node.replica.state.resources(), everywhere, () => undefined)

  const { out, err } = await refound('--name', 'prod')
  const id = out.trim()
  expect(heir.replica.state.meshId).toBe(id)
  expect(id).not.toBe(MESH_ID)
  expect(err).toMatch(/takes over: admin ana .*\n/)
  expect(err).toMatch(/left behind: owner ana .*\n/)
  expect(err).toContain(`set mesh.id: ${id}`)
  expect(paths(heir)).toEqual(paths(node))
  for (const { path, fields } of node.replica.state.resources())
    expect([path, [...heir.replica.state.resource(path)!.fields]]).toEqual([path, [...fields]])
  const now = slice(heir.replica.state.resources(), everywhere, () => undefined)
  expect(now.resources.map(({ path, spec }) => [path, spec])).toEqual(
    served.resources.map(({ path, spec }) => [path, spec]),
  )
  const age = (at: ApiNode) =>
    at.replica.state
      .resources()
      .toSorted((a, b) => a.created!.at - b.created!.at || (a.created!.edit < b.created!.edit ? -1 : 1))
      .map(({ path }) => path)
  expect(age(heir)).toEqual(age(node))

  expect([KEYS.node, KEYS.other, ana, ben].map((key) => rolesOf(heir, key))).toEqual([
    ['node'],
    ['node'],
    ['admin'],
    ['editor'],
  ])
  expect([thief, KEYS.owner, KEYS.root].map((key) => rolesOf(heir, key))).toEqual([[], [], []])
  expect(heir.replica.state.policy.activeGrants(ben.publicKey)[0]!.body).toMatchObject({
    ws: 'default',
    zones: ['*'],
    hosts: ['*.ben.example'],
    quota: { resources: 9 },
    name: 'ben',
    enc: encryptionKey(ben.seed).publicKey,
  })
  const sealed = heir.replica.state.resource('default/eu.west/secret/shop')!.fields
  expect(open(sealed, 'default/eu.west/secret/shop', encryptionKey(KEYS.node.seed)).toString()).toBe('text')
  // The owner's chain goes on where the file ends.
  const on = { key: 'mesh-2/owner', at: heir }
  await ok(['apply', '-f', '-'], { ...on, stdin: site('later', ['later.example']) })
  expect([...heir.replica.state.history.chains()].every(({ forks }) => forks === 0)).toBe(true)
  expect((await run(['apply', '-f', '-'], { at: heir, stdin: site('never', ['never.example']) })).code).toBe(4)
  await ok(['verify', '--full'], on)
  expect(new Set(await readdir(join(cwd, 'mesh-2')))).toEqual(
    new Set([
      'genesis.json',
      'next-recovery.key',
      ...['owner', 'recovery'].flatMap((name) => [`${name}.key`, `${name}.key.chain.json`]),
    ]),
  )
  expect((await stat(join(cwd, 'mesh-2', 'genesis.json'))).mode & 0o777).toBe(0o600)
})

test('what was in force nowhere stays behind', async () => {
  await ok(['grant', 'editor', ben.publicKey, '-z', '*', '--hosts', '*.ben.example', '--quota', 'resources=2'])
  await apply('ben', site('bank', ['www.bank.example']))
  await apply('ben', site('own', ['own.ben.example', 'www.bank.example']))
  await apply('ben', site('third', ['third.ben.example']))
  const { err } = await refound()
  expect(paths(heir)).toEqual(['default/*/site/own'])
  expect(heir.replica.state.resource('default/*/site/own')!.fields.has('hosts/www.bank.example')).toBe(false)
  expect(err).toMatch(/left behind: default\/\*\/site\/bank: www\.bank\.example: whoever wrote it may not claim it\n/)
  expect(err).toMatch(/left behind: default\/\*\/site\/third: is over the quota of grant/)
})

test('whom --without names gets nothing, and --dry-run writes nothing', async () => {
  await ok(['grant', 'admin', ana.publicKey, '-z', '*', '--name', 'ana'])
  expect((await ok(['refound', '--dry-run'])).err).toContain('dry run: nothing was written')
  expect(await readdir(cwd)).not.toContain('mesh-2')
  await refound('--without', `${ana.publicKey},${KEYS.other.publicKey}`, '--roots', '3', '--threshold', '2')
  expect([ana, KEYS.other, KEYS.node].map((key) => rolesOf(heir, key))).toEqual([[], [], ['node']])
  expect(await readdir(join(cwd, 'mesh-2'))).toContain('next-recovery-3.key')
  expect(await run(['refound'])).toMatchObject({ code: 6, err: expect.stringContaining('mesh-2 exists') })
})

test('what roots granted stays behind, with who signed it, unless --with names it', async () => {
  await ok(['grant', 'admin', ana.publicKey, '-z', '*', '-w', '*', '--name', 'backup'], { key: 'root' })
  await ok(['grant', 'editor', ben.publicKey, '-z', '*', '--name', 'ben'], { key: 'ana' })
  const { err } = await ok(['refound', '--dry-run'])
  const root = KEYS.root.publicKey.slice(0, 12)
  expect(err).toMatch(/^takes over: node edge-1 .*; granted by ana \([0-9a-f]{12}\)$/m)
  expect(err).toMatch(new RegExp(`^left behind: admin backup .*; granted by key \\(${root}\\): by roots`, 'm'))
  expect(err).toMatch(new RegExp(`^left behind: editor ben .*: by roots.*--with ${ben.publicKey}$`, 'm'))
  await refound('--with', ana.publicKey)
  expect([ana, ben].map((key) => rolesOf(heir, key))).toEqual([['admin'], ['editor']])
  expect(await run(['refound', '--with', 'ana'])).toMatchObject({ code: 2 })
})

test('an edit that the node changed is not taken over', async () => {
  await apply('owner', site('shop', ['shop.example']))
  await using liar = await lyingNode(node.url, (path, truth) => {
    if (!path.startsWith('/v1/edits?')) return truth
    const page = truth as { data: { envelope: WireEnvelope }[] }
    const changed = ({ bytes, sigs }: WireEnvelope) => ({ bytes: bytes.replace('shop.example', 'evil.example'), sigs })
    return { ...page, data: page.data.map((edit) => ({ ...edit, envelope: changed(edit.envelope) })) }
  })
  const { code, err } = await meshctl(['--api', liar.url, '-k', 'owner.key', 'refound'], { cwd })
  expect([code, err]).toEqual([9, expect.stringContaining('is not valid')])
  expect(await readdir(cwd)).not.toContain('mesh-2')
})

test('each resource is one edit, or as many as it takes', async () => {
  for (const name of ['a', 'b']) await apply('owner', site(name, [`${name}.example`]))
  await refound()
  const { envelopes } = JSON.parse(await readFile(join(cwd, 'mesh-2', 'genesis.json'), 'utf8')) as {
    envelopes: WireEnvelope[]
  }
  const bodies = envelopes.map(({ bytes }) => JSON.parse(bytes) as EditBody)
  expect(bodies.filter(({ type }) => type === 'edit').map(({ edits, note }) => [edits.length, note])).toEqual(
    Array.from({ length: 2 }, () => [1, `refounded from mesh ${MESH_ID}`]),
  )
  expect(
    heir.replica.state.history.order.map((id) => toWire(heir.replica.state.history.get(id) as Envelope).bytes),
  ).toEqual(envelopes.map(({ bytes }) => bytes))
})
