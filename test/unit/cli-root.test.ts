/** Root keys through meshctl: founding with several, acts that take several signatures, replacing them. Over a real API server's socket. */

import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { wireFromJson } from '../../src/core/codec.ts'
import { keyPairFromSeed, parseBody } from '../../src/core/envelope.ts'
import { ERROR_CODES } from '../../src/errors.ts'
import { startApiNode, testKey, type ApiNode } from '../support/api-node.ts'
import { lyingNode } from '../support/lying-node.ts'
import { meshctl, type CliResult } from '../support/cli.ts'

const ana = testKey(21).publicKey
const bob = testKey(22).publicKey

let node: ApiNode
let cwd: string
beforeEach(async () => {
  node = await startApiNode({ founded: false })
  cwd = await mkdtemp(join(tmpdir(), 'nxmesh-cli-'))
})
afterEach(async () => {
  await node.stop()
  await rm(cwd, { recursive: true, force: true })
})

const as = (key: string, argv: readonly string[]): Promise<CliResult> =>
  meshctl(['--api', `unix:${node.socketPath}`, '-k', join('mesh', `${key}.key`), ...argv], { cwd })

async function ok(key: string, argv: readonly string[]): Promise<CliResult> {
  const result = await as(key, argv)
  expect(`${result.code} ${result.err}`).toMatch(/^0 /)
  return result
}

async function keyOf(name: string): Promise<string> {
  return keyPairFromSeed(Buffer.from(await readFile(join(cwd, 'mesh', `${name}.key`), 'utf8'), 'hex')).publicKey
}

async function keysOf(name: string): Promise<string> {
  return (await Promise.all([1, 2, 3].map((n) => keyOf(`${name}-${n}`)))).join(',')
}

async function newKey(name: string): Promise<string> {
  return (await ok(name, ['key', 'new'])).out.trim()
}

async function found(...options: string[]): Promise<void> {
  await ok('owner', ['init', ...options])
  await ok('owner', ['push', 'mesh/genesis.json'])
}

const rolesOf = (key: string): string[] => node.replica.state.policy.activeGrants(key).map(({ body }) => body.role)
const rootSet = () => node.replica.state.policy.rootSet()!

test('init founds a mesh of several roots, and tells of the keys that may follow', async () => {
  const { err } = await ok('owner', ['init', '--roots', '3', '--threshold', '2'])
  const files = (await readdir(join(cwd, 'mesh'))).filter((file) => !file.endsWith('.chain.json'))
  expect(files.toSorted()).toEqual([
    'genesis.json',
    ...[1, 2, 3].map((n) => `next-recovery-${n}.key`),
    'owner.key',
    ...[1, 2, 3].map((n) => `recovery-${n}.key`),
  ])
  expect(err).toContain('Any 2 of the 3 recovery keys act as the root')
  expect(err).toContain(await keyOf('next-recovery-3'))
  const { err: pushed } = await ok('owner', ['push', 'mesh/genesis.json'])
  expect(pushed).toBe('1 known, 1 stored\n')
  expect(rolesOf(await keyOf('owner'))).toEqual(['owner'])
  const shown = await ok('owner', ['root', 'show'])
  expect(shown.out).toContain('(the first): 2 of 3 must sign\n')
  for (const n of [1, 2, 3]) expect(shown.out).toContain(`  ${await keyOf(`recovery-${n}`)}\n`)
  expect(shown.out).toContain(`next set prepared: ${rootSet().body.next}\n`)
})

test.each([
  [['init', '--roots', '2', '--threshold', '3'], /--threshold 3 is over the number of roots/],
  [['init', '--roots', '0'], /--roots takes a number from 1 to 16, not 0/],
  [['root', 'what'], /root takes show or rotate/],
  [['root', 'rotate'], /--next-keys is missing/],
  [['root', 'rotate', '--next-keys', 'abc'], /--next-keys takes public keys of 64 hex digits, not abc/],
])('meshctl %s is wrong usage', async (argv, message) => {
  await found()
  const other = argv[0] === 'init' ? [...argv, '--dir', 'other'] : argv
  expect(await as('next-recovery', other)).toMatchObject({
    code: ERROR_CODES.usage.exit,
    err: expect.stringMatching(message),
  })
})

test('an act of roots waits for the signatures that it lacks, and counts with the last one', async () => {
  await found('--roots', '3', '--threshold', '2')
  const { out, err } = await ok('recovery-1', ['grant', 'owner', ana, '--name', 'ana'])
  const id = out.trim()
  expect(err).toBe(`signed by one root; it counts when 1 more root has signed it: meshctl cosign ${id} -k KEY\n`)
  expect(rolesOf(ana)).toEqual([])
  const pending = (await ok('owner', ['root', 'show'])).out
  expect(pending).toContain(
    `lacks signatures: ${id.slice(0, 12)}, signed by ${(await keyOf('recovery-1')).slice(0, 12)}\n  makes ${ana} (ana)\n  owner of zones *`,
  )

  expect((await ok('recovery-2', ['cosign', id, '--dry-run'])).err).toContain('dry run: nothing was signed')
  expect(await ok('recovery-1', ['cosign', id])).toMatchObject({ err: expect.stringContaining('has signed it before') })
  expect(rolesOf(ana)).toEqual([])
  const stranger = await as('next-recovery-1', ['cosign', id])
  expect([stranger.code, stranger.err]).toEqual([
    ERROR_CODES.denied.exit,
    expect.stringContaining('is none of the root keys'),
  ])
  const unsure = await as('recovery-2', ['cosign', id.slice(0, 12)])
  expect([unsure.code, unsure.err]).toEqual([ERROR_CODES.usage.exit, expect.stringContaining('nothing was signed')])
  const signed = await ok('recovery-2', ['cosign', id])
  expect(signed.err).toContain(`grant ${id}\n  makes ${ana} (ana)\n`)
  expect(signed.err).toContain('signed; it counts now\n')
  expect(rolesOf(ana)).toEqual(['owner'])
  expect((await ok('owner', ['root', 'show'])).out).not.toContain('lacks signatures')
  // The union only grows.
  await ok('recovery-3', ['cosign', id])
  expect(Object.keys(node.replica.state.history.get(id)!.sigs)).toHaveLength(3)
})

test('policy revokes nothing before the grants count that stand in its place', async () => {
  await found('--roots', '3', '--threshold', '2')
  const owner = await keyOf('owner')
  const members = { ana: { key: ana, role: 'owner', zones: ['*'] } }
  const document = { apiVersion: 'nxmesh/v1', kind: 'WorkspacePolicy', metadata: { name: '*' }, spec: { members } }
  await writeFile(join(cwd, 'policy.json'), JSON.stringify(document))
  const before = node.replica.state.history.size
  const { err } = await ok('recovery-1', ['policy', 'apply', '-f', 'policy.json', '--prune'])
  expect(err).toContain('nothing is revoked before these grants count: run this again')
  expect([node.replica.state.history.size - before, rolesOf(owner), rolesOf(ana)]).toEqual([1, ['owner'], []])
})

test('root keys are not replaced by what a node shows that hides what they did', async () => {
  await found()
  await ok('owner', ['grant', 'viewer', await keyOf('next-recovery'), '-z', '*', '-w', '*'])
  const root = await keyOf('recovery')
  const third = await newKey('third-recovery')
  await using liar = await lyingNode(node.url, (path, truth) =>
    path.startsWith('/v1/edits?') && path.includes(root) ? { data: [], next: null } : truth,
  )
  const argv = ['root', 'rotate', '--next-keys', third]
  const { code, err } = await meshctl(
    ['--api', liar.url, '-k', join('mesh', 'next-recovery.key'), ...argv, '--dry-run'],
    { cwd },
  )
  expect([code, err]).toEqual([7, expect.stringMatching(/the node shows 0 edits by .*, and not that of grant/)])
  await ok('next-recovery', argv)
  expect(rolesOf(await keyOf('owner'))).toEqual(['owner'])
})

test('an act is cosigned in a file, where no node is in reach', async () => {
  await found('--roots', '3', '--threshold', '3')
  const id = (await ok('recovery-1', ['grant', 'owner', ana])).out.trim()
  await ok('owner', ['cosign', id, '--save', 'act.json'])
  expect((await as('owner', ['cosign', id, '--save', 'act.json'])).code).toBe(ERROR_CODES.conflict.exit)
  for (const key of ['recovery-2', 'recovery-3']) {
    const { code, err } = await meshctl(['cosign', 'act.json', '-k', `mesh/${key}.key`, '--api', 'unix:none'], { cwd })
    expect([code, err]).toEqual([0, expect.stringContaining('hand it over with: meshctl push act.json')])
    expect(err).toContain(`makes ${ana}`)
  }
  expect(rolesOf(ana)).toEqual([])
  await ok('owner', ['push', 'act.json'])
  expect(rolesOf(ana)).toEqual(['owner'])
  const edited = JSON.parse(await readFile(join(cwd, 'mesh/genesis.json'), 'utf8')) as { envelopes: unknown[] }
  expect(parseBody(wireFromJson(edited.envelopes[0], '').bytes).type).toBe('genesis')
  const genesis = await as('recovery-2', ['cosign', 'mesh/genesis.json'])
  expect([genesis.code, genesis.err]).toEqual([
    ERROR_CODES.input_invalid.exit,
    expect.stringContaining('a genesis takes one signature'),
  ])
})

test('rotate: the next key replaces the present one, whose acts stay; afterwards the new one is the root', async () => {
  await found()
  await ok('recovery', ['grant', 'owner', ana, '--name', 'ana'])
  const third = await newKey('third')
  const first = rootSet().id
  const { out, err } = await ok('next-recovery', ['root', 'rotate', '--next-keys', third, '--note', 'yearly'])
  expect(err).toContain('no edit becomes void\n')
  expect(err).toContain(`the root set ${first.slice(0, 12)} is replaced`)
  expect(rootSet().id).toBe(out.trim())
  expect([...rolesOf(ana), ...rolesOf(await keyOf('owner'))]).toEqual(['owner', 'owner'])
  const old = await as('recovery', ['grant', 'owner', bob])
  expect([old.code, old.err]).toEqual([ERROR_CODES.denied.exit, expect.stringContaining('has no grant in mesh')])
  await ok('next-recovery', ['grant', 'owner', bob])
  expect(rolesOf(bob)).toEqual(['owner'])
  // And so on.
  await ok('third', ['root', 'rotate', '--next-keys', await newKey('fourth')])
  expect(rootSet().body.roots).toEqual([third])
  expect(rolesOf(bob)).toEqual(['owner'])
})

test('rotate --since voids what a stolen root did, and all that rests on it', async () => {
  await found()
  const owner = await keyOf('owner')
  await ok('recovery', ['grant', 'owner', ana, '--name', 'ana'])
  const stolen = (await ok('recovery', ['grant', 'owner', bob, '--name', 'thief'])).out.trim()
  await ok('recovery', ['revoke', owner])
  expect(rolesOf(owner)).toEqual([])
  const third = await newKey('third')
  const argv = ['root', 'rotate', '--next-keys', third, '--since', stolen]
  const dry = await ok('next-recovery', [...argv, '--dry-run'])
  expect(dry.err).toMatch(/becomes void:\n.*\n.*grant owner to .*\n.*revoke key\/.*\ndry run: nothing was changed\n$/)
  expect(rolesOf(owner)).toEqual([])
  await ok('next-recovery', argv)
  expect([rolesOf(owner), rolesOf(ana), rolesOf(bob)]).toEqual([['owner'], ['owner'], []])
})

test('rotate takes no other keys than those that were named', async () => {
  await found()
  const third = await newKey('third')
  const wrong = await as('recovery', ['root', 'rotate', '--next-keys', third])
  expect([wrong.code, wrong.err]).toEqual([
    ERROR_CODES.denied.exit,
    expect.stringContaining('did not name this key with threshold 1'),
  ])
  const own = await keyOf('recovery')
  const reused = await as('next-recovery', ['root', 'rotate', '--next-keys', own])
  expect([reused.code, reused.err]).toEqual([ERROR_CODES.usage.exit, expect.stringContaining('is a root already')])
  const unknown = await as('next-recovery', ['root', 'rotate', '--next-keys', third, '--since', '0'.repeat(64)])
  expect([unknown.code, unknown.err]).toEqual([
    ERROR_CODES.not_found.exit,
    expect.stringContaining('the root keys made no edit'),
  ])
})

test('rotate of several: the next ones cosign, and the last signature replaces the set', async () => {
  await found('--roots', '3', '--threshold', '2')
  const first = rootSet().id
  const roots = await keysOf('next-recovery')
  for (const n of [1, 2, 3]) await newKey(`third-${n}`)
  const third = await keysOf('third')
  const forgot = await as('next-recovery-1', ['root', 'rotate', '--next-keys', third])
  expect([forgot.code, forgot.err]).toEqual([ERROR_CODES.denied.exit, expect.stringContaining('name all with --roots')])
  const { out, err } = await ok('next-recovery-1', ['root', 'rotate', '--roots', roots, '--next-keys', third])
  expect(err).toContain('it counts when 1 more root has signed it')
  expect(rootSet().id).toBe(first)
  expect((await ok('owner', ['root', 'show'])).out).toContain(`replaces root set ${first}\n  by 2 of `)
  expect((await as('recovery-1', ['cosign', out.trim()])).code).toBe(ERROR_CODES.denied.exit)
  await ok('next-recovery-3', ['cosign', out.trim()])
  expect(rootSet().id).toBe(out.trim())
})
