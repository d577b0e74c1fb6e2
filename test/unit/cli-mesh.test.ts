/**
 * Which mesh a key works in: meshctl signs, seals, opens and hands out tokens for no other, whatever the asked node shows.
 */

import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { toWire } from '../../src/core/codec.ts'
import type { Envelope, GrantBody, KeyPair, Op } from '../../src/core/envelope.ts'
import { foundMesh } from '../../src/core/founding.ts'
import { encryptionKey, open } from '../../src/core/secrets.ts'
import { ERROR_CODES } from '../../src/errors.ts'
import { KEYS, startApiNode, testKey, type ApiNode } from '../support/api-node.ts'
import { Author } from '../support/author.ts'
import { meshctl, type CliResult } from '../support/cli.ts'
import { lyingNode } from '../support/lying-node.ts'
import { MESH_ID } from '../support/sign.ts'

const PATH = 'default/eu.west/secret/pw'
const [robot, thief, thiefsOwner, thiefsRoot] = [80, 77, 76, 78].map(testKey) as [KeyPair, KeyPair, KeyPair, KeyPair]
const encOf = (key: KeyPair): string => encryptionKey(key.seed).publicKey

let honest: ApiNode
/** Of a mesh that a thief has founded to look like the other. */
let evil: ApiNode
let evilId: string
let evilOwner: Author
let cwd: string
beforeEach(async () => {
  honest = await startApiNode()
  evil = await startApiNode({ founded: false })
  cwd = await mkdtemp(join(tmpdir(), 'nxmesh-cli-'))
  for (const [name, { seed }] of Object.entries({ owner: KEYS.owner, robot })) {
    await writeFile(join(cwd, `${name}.key`), Buffer.from(seed).toString('hex'), { mode: 0o600 })
  }
  const founding = foundMesh({
    name: 'test',
    roots: [thiefsRoot],
    nextRoots: [testKey(79).publicKey],
    threshold: 1,
    owner: thiefsOwner,
    ownerName: 'ana',
    nodes: [{ key: thief.publicKey, enc: encOf(thief), name: 'edge-1', zones: ['eu.west'] }],
    at: 1_700_000_000_000,
  })
  const [genesis, ownerGrant] = founding as [Envelope, Envelope<GrantBody>]
  evilId = genesis.id
  await evil.replica.adopt(toWire(genesis))
  await evil.replica.submit(founding.slice(1).map(toWire), 'sync')
  evilOwner = new Author(genesis.id, thiefsOwner, ownerGrant.id, {
    heads: new Map([['*', founding.at(-1) as Envelope<GrantBody>]]),
  })
  await grantAtEvil(KEYS.owner, 'editor')
  await grantAtEvil(robot, 'robot')
})
afterEach(async () => {
  await honest.stop()
  await evil.stop()
  await rm(cwd, { recursive: true, force: true })
})

async function grantAtEvil(key: KeyPair, role: 'editor' | 'robot'): Promise<void> {
  const kinds = role === 'robot' ? ['secret'] : ['*']
  const body = { type: 'grant', subject: key.publicKey, role, zones: ['*'], kinds, enc: encOf(key) } as const
  const grant = evilOwner.sign<GrantBody>('*', body)
  expect((await evil.replica.submit([toWire(grant)], 'sync'))[0]?.outcome).toBe('stored')
}

async function run(api: string, key: string, argv: readonly string[], stdin = ''): Promise<CliResult> {
  return await meshctl(['--api', api, '-k', `${key}.key`, ...argv], { cwd, stdin })
}

async function ok(api: string, key: string, argv: readonly string[], stdin = ''): Promise<CliResult> {
  const result = await run(api, key, argv, stdin)
  expect(`${result.code} ${result.err}`).toMatch(/^0 /)
  return result
}

const apis = (node: ApiNode): [string, string] => [node.url, `unix:${node.socketPath}`]
const recorded = async (key: string): Promise<string[]> => {
  const text = await readFile(join(cwd, `${key}.key.chain.json`), 'utf8').catch(() => '{"chains":{}}')
  const { chains } = JSON.parse(text) as { chains: Record<string, unknown> }
  return [...new Set(Object.keys(chains).map((name) => name.slice(0, 64)))]
}
const grantRobot = (): Promise<CliResult> => {
  const both = `${robot.publicKey}:${encOf(robot)}`
  return ok(honest.url, 'owner', ['grant', 'robot', both, '--kinds', 'secret', '-z', '*', '--name', 'sealer'])
}
const setArgv = ['secret', 'set', 'pw', '-z', 'eu.west', '-f', '-'] as const

test('a secret is not sealed for strangers because the asked node shows another mesh', async () => {
  await ok(honest.url, 'owner', ['grant', 'viewer', testKey(50).publicKey, '-z', '*'])
  for (const api of apis(evil)) {
    const { code, err } = await run(api, 'owner', setArgv, 'hunter2')
    expect([code, err]).toEqual([
      ERROR_CODES.denied.exit,
      expect.stringContaining(`the node is of mesh ${evilId}, and this key works in ${MESH_ID}`),
    ])
  }
  expect(evil.replica.state.resource(PATH)).toBeUndefined()
  await ok(honest.url, 'owner', setArgv, 'hunter2')
})

test('reseal --all opens the secrets of the mesh to nobody because the asked node shows another mesh', async () => {
  await grantRobot()
  await ok(honest.url, 'owner', setArgv, 'hunter2')
  await ok(honest.url, 'robot', ['--mesh', MESH_ID, 'secret', 'reseal', '--all'])
  const sealed = honest.replica.state.resource(PATH)!.fields
  const ops = [...sealed].map(([field, value]): Op => ['set', field, value])
  const copy = evilOwner.edit(PATH, [['set', '$', true], ...ops])
  expect((await evil.replica.submit([toWire(copy)], 'sync'))[0]?.outcome).toBe('stored')
  for (const api of apis(evil)) {
    expect((await run(api, 'robot', ['secret', 'reseal', '--all'])).code).toBe(ERROR_CODES.denied.exit)
    expect((await run(api, 'robot', ['--mesh', MESH_ID, 'secret', 'reseal', '--all'])).code).toBe(
      ERROR_CODES.denied.exit,
    )
  }
  const { fields } = evil.replica.state.resource(PATH)!
  expect(() => open(fields, PATH, encryptionKey(thief.seed))).toThrow(/is not sealed for/)
})

test.each([
  ['set', [...setArgv]],
  ['get', ['secret', 'get', 'pw']],
  ['rotate', ['secret', 'rotate', 'pw', '--random', '32']],
  ['reseal', ['secret', 'reseal', '--all']],
])('secret %s takes more than the first use of a key', async (_, argv) => {
  await grantRobot()
  await ok(honest.url, 'owner', setArgv, 'hunter2')
  for (const api of apis(honest)) {
    const { code, out, err } = await run(api, 'robot', argv, 'other')
    expect([code, out, err]).toEqual([
      ERROR_CODES.denied.exit,
      '',
      expect.stringContaining(`nothing but the asked node says that mesh ${MESH_ID} is yours`),
    ])
  }
  expect(await recorded('robot')).toEqual([])
  // What a token was signed for is known by its first use alone.
  await ok(honest.url, 'robot', ['peers'])
  expect((await run(honest.url, 'robot', argv, 'other')).code).toBe(ERROR_CODES.denied.exit)
  await ok(honest.url, 'robot', ['--mesh', MESH_ID, ...argv], 'other')
})

test('the first mesh of a key is recorded and told once, and no token or signature is for another', async () => {
  const first = await ok(honest.url, 'owner', ['peers'])
  expect(first.err).toMatch(new RegExp(`^this key works in mesh ${MESH_ID} from now on: compare it with .*\n$`))
  expect(await recorded('owner')).toEqual([MESH_ID])
  expect((await ok(honest.url, 'owner', ['peers'])).err).toBe('')
  const asked: string[] = []
  await using strange = await lyingNode(evil.url, (path, truth) => {
    asked.push(path)
    return truth
  })
  for (const argv of [['peers'], ['token'], ['grant', 'viewer', testKey(50).publicKey, '-z', '*']]) {
    const { code, out, err } = await run(strange.url, 'owner', argv)
    expect([code, out]).toEqual([ERROR_CODES.denied.exit, ''])
    expect(err).toMatch(/Nothing was signed.*--mesh ID/)
  }
  expect(new Set(asked)).toEqual(new Set(['/health']))
  const overSocket = await run(`unix:${evil.socketPath}`, 'owner', [
    'grant',
    'viewer',
    testKey(50).publicKey,
    '-z',
    '*',
  ])
  expect(overSocket.code).toBe(ERROR_CODES.denied.exit)
  expect(await recorded('owner')).toEqual([MESH_ID])
})

test('a node that says one mesh and shows the genesis of another gets nothing signed', async () => {
  await ok(honest.url, 'owner', ['grant', 'viewer', testKey(50).publicKey, '-z', '*'])
  await using liar = await lyingNode(evil.url, (path, truth) =>
    path === '/health' ? { ...(truth as object), mesh: MESH_ID } : truth,
  )
  const { code } = await run(liar.url, 'owner', setArgv, 'hunter2')
  expect(code).not.toBe(0)
  await using half = await lyingNode(honest.url, (path, truth) =>
    path === '/v1/genesis' ? { ...(truth as object), ...genesisOfEvil() } : truth,
  )
  for (const argv of [setArgv, ['grant', 'viewer', testKey(51).publicKey, '-z', '*']]) {
    const { code: refused, err } = await run(half.url, 'owner', argv, 'hunter2')
    expect([refused, err]).toEqual([ERROR_CODES.denied.exit, expect.stringContaining(`the node is of mesh ${evilId}`)])
  }
  expect([...liar.taken, ...half.taken]).toEqual([])
})

function genesisOfEvil() {
  const { genesis } = evil.replica.state.history
  return { id: evilId, envelope: toWire(genesis as Envelope) }
}

test('who works in several meshes names the one that is meant each time', async () => {
  await ok(honest.url, 'owner', ['grant', 'viewer', testKey(50).publicKey, '-z', '*'])
  await ok(evil.url, 'owner', ['--mesh', evilId, ...setArgv], 'of the other mesh')
  expect(await recorded('owner')).toEqual([MESH_ID, evilId].toSorted())
  const { code, err } = await run(honest.url, 'owner', setArgv, 'hunter2')
  expect([code, err]).toEqual([ERROR_CODES.usage.exit, expect.stringMatching(/in several meshes:\n[^]*--mesh ID/)])
  await ok(honest.url, 'owner', ['--mesh', MESH_ID, ...setArgv], 'hunter2')
})
