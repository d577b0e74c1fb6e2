/** The verbs that look back, in process, against a real API server over its socket. */

import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import * as Automerge from '@automerge/automerge'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { EditView } from '../../src/api/schemas.ts'
import { toWire } from '../../src/core/codec.ts'
import { OVERWRITES_MAX } from '../../src/core/document.ts'
import { LIMITS, type KeyPair, type Op, type WireEnvelope } from '../../src/core/envelope.ts'
import { ERROR_CODES } from '../../src/errors.ts'
import { KEYS, startApiNode, testKey, type ApiNode } from '../support/api-node.ts'
import { meshctl, type CliOptions, type CliResult } from '../support/cli.ts'
import { lyingNode } from '../support/lying-node.ts'
import { editor, MESH_ID } from '../support/sign.ts'

const site = (name: string, zone = 'eu.west'): string => `apiVersion: nxmesh/v1
kind: Site
metadata: { name: ${name}, zone: ${zone} }
spec:
  hosts: [${name}.example]
  routes: { root: { path: /, return: { status: 200, body: ${name} } } }
`
const SITE_PATH = 'default/eu.west/site/web'
const [ana, bob] = [testKey(7), testKey(8)]

let node: ApiNode
let cwd: string
beforeEach(async () => {
  node = await startApiNode()
  cwd = await mkdtemp(join(tmpdir(), 'nxmesh-cli-'))
  for (const [name, key] of Object.entries({ owner: KEYS.owner, ana, bob })) await writeKey(name, key)
})
afterEach(async () => {
  await node.stop()
  await rm(cwd, { recursive: true, force: true })
})

async function writeKey(name: string, key: KeyPair): Promise<void> {
  await writeFile(join(cwd, `${name}.key`), Buffer.from(key.seed).toString('hex'), { mode: 0o600 })
}

async function as(key: string, argv: readonly string[], options: Partial<CliOptions> = {}): Promise<CliResult> {
  return await meshctl(['--api', `unix:${node.socketPath}`, '-k', `${key}.key`, ...argv], { cwd, ...options })
}

async function ok(key: string, argv: readonly string[], options: Partial<CliOptions> = {}): Promise<string> {
  const { code, out, err } = await as(key, argv, options)
  expect(`${code} ${err}`).toMatch(/^0 /)
  return out
}

/** Ana is an admin who lets bob in; both edit; then all that ana did is revoked. Bob's edits are orphans. */
async function orphaned(): Promise<void> {
  await ok('owner', ['grant', 'admin', ana.publicKey, '-z', 'eu', '--name', 'ana'])
  await ok('ana', ['grant', 'editor', bob.publicKey, '-z', 'eu', '--name', 'bob'])
  await ok('bob', ['apply', '-f', '-'], { stdin: site('web') })
  await ok('bob', ['apply', '-f', '-'], { stdin: site('web').replace('body: web', 'body: again') })
  await ok('owner', ['revoke', ana.publicKey, '--since', '2000-01-01T00:00Z'])
}

describe('log', () => {
  beforeEach(orphaned)
  const logged = async (...argv: string[]) => JSON.parse(await ok('owner', ['log', '--json', ...argv])) as EditView[]

  test('filters by author, resource, verdict and claimed time, and pages on until it has enough', async () => {
    expect((await logged('--void')).map(({ type, verdict }) => [type, verdict.code])).toEqual([
      ['edit', 'grant_void'],
      ['edit', 'grant_void'],
      ['grant', 'revoked'],
    ])
    expect(await logged('--void', '--limit', '1')).toHaveLength(1)
    expect((await logged('--author', 'bob', '--resource', SITE_PATH)).map(({ n }) => n)).toEqual([2, 1])
    expect(await logged('--since', '2100-01-01')).toEqual([])
    const all = await logged()
    const recent = await logged('--since', '2024-01-01T00:00Z')
    expect([all.length - recent.length, recent.every(({ at }) => at > Date.UTC(2024, 0))]).toEqual([4, true])
    expect((await as('owner', ['log', '--since', 'soon'])).code).toBe(ERROR_CODES.usage.exit)
  })

  test('tells the reason of a void edit', async () => {
    expect(await ok('owner', ['log', '--void', '--since', '2999-01-01T00:00Z'])).toBe('no such edits\n')
    expect(await ok('owner', ['log', '--void'])).toMatch(
      /bob +2 +default\/eu\.west\/site\/web +void: the exercised grant [0-9a-f]{64} is itself not accepted/,
    )
  })
})

test('log tells mildly of one fork, and with ways out of several', async () => {
  // The founding's owner has made edits; these begin anew, as with an old chain file.
  const fork = async (name: string): Promise<void> => {
    const edit = editor()([[`default/eu.west/site/${name}`, [], [['set', '$', true]]]])
    await node.replica.submit([toWire(edit)], 'sync')
  }
  await ok('owner', ['grant', 'editor', bob.publicKey, '-z', 'eu', '--name', 'bob'])
  await fork('a')
  expect((await as('owner', ['log'])).err).toMatch(
    /^ana \([0-9a-f]{64}\) signed two edits in workspace default for one place of its chain: after a restored chain file/,
  )
  await fork('b')
  expect((await as('owner', ['log', '--author', KEYS.owner.publicKey])).err).toContain(
    'signed 2 edits in workspace default in places of its chain that were taken: if the key was stolen, revoke it',
  )
  for (const argv of [
    ['log', '--author', bob.publicKey],
    ['log', '--json'],
    ['log', '-o', 'yaml'],
  ]) {
    expect((await as('owner', argv)).err).toBe('')
  }
})

describe('who-can', () => {
  const who = async (...argv: string[]) =>
    (JSON.parse(await ok('owner', ['who-can', ...argv, '-o', 'json'])) as { name: string }[])
      .map(({ name }) => name)
      .toSorted()

  test('edit: by the scope of grants, privileged fields by role', async () => {
    await ok('owner', ['grant', 'editor', ana.publicKey, '-z', 'eu', '--kinds', 'site', '--name', 'ed'])
    await ok('owner', ['grant', 'robot', bob.publicKey, '-z', 'eu', '--fields', 'routes/', '--name', 'rob'])
    expect(await who('edit', SITE_PATH)).toEqual(['ana', 'ed'])
    expect(await who('edit', SITE_PATH, '--field', 'routes/root/path')).toEqual(['ana', 'ed', 'rob'])
    expect(await who('edit', SITE_PATH, '--field', 'privileged/serverSnippet')).toEqual(['ana'])
    expect(await who('edit', 'default/us/site/web')).toEqual(['ana'])
    expect(await who('edit', 'default/eu/upstream/app')).toEqual(['ana'])
    expect(await ok('owner', ['who-can', 'edit', SITE_PATH])).toMatch(
      /^ed +[0-9a-f]{12} +editor +[0-9a-f]{12} +default +eu +site +\* +\* +-$/m,
    )
    await ok('owner', [
      'grant',
      'editor',
      bob.publicKey,
      '-z',
      'eu',
      '--hosts',
      '*.b.example',
      '--quota',
      'bytes=9,resources=3',
    ])
    expect(await ok('owner', ['who-can', 'edit', SITE_PATH])).toMatch(/ \* +\*\.b\.example +resources=3,bytes=9$/m)
  })

  test('read: by workspace, and of a secret who can open it', async () => {
    await ok('owner', ['grant', 'viewer', bob.publicKey, '-z', 'us', '-w', 'shop', '--name', 'vic'])
    expect(await who('read', SITE_PATH)).toEqual(['ana', 'edge-1', 'edge-2'])
    expect(await who('read', 'shop/us/site/x')).toEqual(['ana', 'edge-1', 'edge-2', 'vic'])
    await ok('owner', ['secret', 'set', 'tls', '-z', 'eu.west'], { stdin: 'x' })
    expect(await who('read', 'default/eu.west/secret/tls')).toEqual(['ana', 'edge-1'])
    expect(await who('read', 'default/eu.west/secret/none')).toEqual([])
    expect(await ok('owner', ['who-can', 'read', 'default/eu.west/secret/none'])).toBe(
      'there is no secret default/eu.west/secret/none\n',
    )
  })

  test.each([
    [['see', SITE_PATH], /takes edit or read/],
    [['edit', 'web'], /is no path of a resource/],
    [['edit', SITE_PATH, '--field', '/x'], /is not a field path/],
    [['edit'], /expected edit\|read PATH/],
  ])('who-can %s is wrong usage', async (argv, message) => {
    expect(await as('owner', ['who-can', ...argv])).toMatchObject({
      code: ERROR_CODES.usage.exit,
      err: expect.stringMatching(message),
    })
  })
})

test('conflicts lists concurrent values, which of them counts, and what a delete hides', async () => {
  expect(await ok('owner', ['conflicts'])).toBe('no conflicts\n')
  const next = editor()
  const created = next([[SITE_PATH, [], [['set', '$', true]]]])
  const left = next([[SITE_PATH, [created.id], [['set', 'maxBodySize', '1m']]]])
  const right = next([[SITE_PATH, [created.id], [['set', 'maxBodySize', '2m']]]])
  await node.replica.submit([created, left, right].map(toWire), 'sync')
  const out = await ok('owner', ['conflicts'])
  expect(out).toMatch(/^default\/eu\.west\/site\/web +maxBodySize +"[12]m" +ana +[0-9a-f]{12} +counts$/m)
  expect(out.match(/concurrent$/gm)).toHaveLength(1)
  expect(await ok('owner', ['conflicts', '-z', 'us'])).toBe('no conflicts\n')
})

describe('orphans and adopt', () => {
  beforeEach(orphaned)
  const orphans = async () =>
    (JSON.parse(await ok('owner', ['orphans', '-o', 'json'])) as (EditView & { adopted: object | null })[])
      .filter(({ adopted }) => adopted === null)
      .map(({ id }) => id)

  test('an honest edit whose ground was revoked is listed until somebody adopts it', async () => {
    expect(node.replica.state.resource(SITE_PATH)?.exists).toBe(false)
    const [second, first] = (await orphans()) as [string, string]
    expect(await ok('owner', ['orphans'])).toMatch(
      new RegExp(`${first.slice(0, 12)} +bob +${SITE_PATH} +the exercised grant`),
    )
    // The one that changed it makes no sense without the one that made it.
    const early = await as('owner', ['adopt', second])
    expect([early.code, early.err]).toEqual([
      ERROR_CODES.not_found.exit,
      expect.stringContaining('Adopt the edit that made it first'),
    ])
    expect(await ok('owner', ['adopt', first.slice(0, 12), '--dry-run'])).toContain(`+ create ${SITE_PATH}\n`)
    expect(node.replica.state.resource(SITE_PATH)?.exists).toBe(false)
    await ok('owner', ['adopt', first])
    expect(node.replica.state.resource(SITE_PATH)?.fields.get('routes/root/return/body')).toBe('web')
    expect(await orphans()).toEqual([second])
    expect(await ok('owner', ['adopt', second])).toContain('~ routes/root/return/body: "web" -> "again"\n')
    expect(await orphans()).toEqual([])
    expect(await ok('owner', ['orphans'])).toMatch(
      /bob +default\/eu\.west\/site\/web +adopted by ana in [0-9a-f]{12}\n/,
    )
    expect(await ok('owner', ['log', '--limit', '1'])).toContain(`adopts ${second}`)
  })

  test('nobody adopts by a note on what does not count, or on another resource', async () => {
    const before = await orphans()
    const [second] = before as [string]
    await ok('owner', ['apply', '-f', '-', '--note', `adopts ${second}`], { stdin: site('other') })
    // One on the same resource, which becomes void.
    const id = (await ok('owner', ['grant', 'editor', KEYS.stranger.publicKey, '-z', 'eu', '--name', 'eve'])).trim()
    await writeKey('eve', KEYS.stranger)
    await ok('eve', ['apply', '-f', '-', '--note', `adopts ${second}`], { stdin: site('web') })
    await ok('owner', ['revoke', id, '--since', '2000-01-01T00:00Z'])
    expect(await orphans()).toEqual(before)
  })

  test('adopt signs an edit with all digits alone, and none that the node puts in its place', async () => {
    const [second, first] = (await orphans()) as [string, string]
    const vague = await as('owner', ['adopt', first.slice(0, 12)])
    expect([vague.code, vague.err]).toEqual([ERROR_CODES.usage.exit, expect.stringContaining(`meshctl adopt ${first}`)])
    expect(await ok('owner', ['orphans', '-o', 'wide'])).toContain(first)
    await using liar = await lyingNode(node.url, (path, truth) =>
      path === `/v1/edits/${second}`
        ? { ...(truth as object), envelope: toWire(node.replica.state.history.get(first)!) }
        : truth,
    )
    const { code, err } = await meshctl(['--api', liar.url, '-k', 'owner.key', 'adopt', second], { cwd })
    expect([code, err]).toEqual([4, expect.stringContaining(`the node gave another envelope than ${second}`)])
    expect(await orphans()).toEqual([second, first])
  })

  test('adopt takes void edits alone, and only who may make them', async () => {
    const [, first] = (await orphans()) as [string, string]
    expect((await as('bob', ['adopt', first])).code).toBe(ERROR_CODES.denied.exit)
    expect((await as('owner', ['adopt', MESH_ID])).code).toBe(ERROR_CODES.input_invalid.exit)
    await ok('owner', ['adopt', first])
    const own = (JSON.parse(await ok('owner', ['log', '--json', '--limit', '1'])) as EditView[])[0]!.id
    expect((await as('owner', ['adopt', own])).code).toBe(ERROR_CODES.input_invalid.exit)
    expect((await as('owner', ['adopt', own.slice(0, 12)])).code).toBe(ERROR_CODES.not_found.exit)
  })
})

describe('verify and export', () => {
  beforeEach(orphaned)
  const offline = (argv: readonly string[]) => meshctl([...argv, '--api', 'unix:none'], { cwd })

  test('verify --full comes to what the node says', async () => {
    const out = await ok('owner', ['verify', '--full'])
    expect(out).toBe(
      `mesh test ${MESH_ID}\n9 envelopes, of which 3 are void; 0 forks\nstate hash ${node.replica.state.hash()}\n`,
    )
    expect(await ok('owner', ['verify', '--full', '--mesh', MESH_ID])).toBe(out)
    expect((await as('owner', ['verify', '--full', '--mesh', 'a'.repeat(64)])).code).toBe(
      ERROR_CODES.store_corrupt.exit,
    )
  })

  test('verify --full tells a node that lies about a verdict or its state', async () => {
    const { state } = node.replica
    const [edit] = state.history.editsOf(SITE_PATH)
    const verdict = state.policy.verdict.bind(state.policy)
    state.policy.verdict = (envelope) => (envelope.id === edit ? { accepted: true } : verdict(envelope))
    const lied = await as('owner', ['verify', '--full'])
    expect([lied.code, lied.err]).toEqual([
      ERROR_CODES.store_corrupt.exit,
      expect.stringContaining(`${edit}: the node says accepted, and its envelopes say void: the exercised grant`),
    ])
    state.policy.verdict = verdict
    state.hash = () => 'f'.repeat(64)
    expect((await as('owner', ['verify', '--full'])).err).toContain(`the state hash is said to be ${'f'.repeat(64)}`)
  })

  test('verify --full says as the node does of an edit that overwrites too much', async () => {
    const path = 'default/eu.west/site/many'
    const next = editor()
    const fields = Array.from({ length: LIMITS.ops }, (_, index): Op => ['set', `hosts/h${100 + index}`, true])
    const created = next([[path, [], [['set', '$', true]]]])
    const concurrent = Array.from({ length: 1 + OVERWRITES_MAX / LIMITS.ops }, () =>
      next([[path, [created.id], fields]]),
    )
    const excessive = next([[path, concurrent.map(({ id }) => id).toSorted(), fields]])
    await node.replica.submit([created, ...concurrent, excessive].map(toWire), 'sync')
    expect(node.replica.state.verdict(excessive)).toMatchObject({ accepted: false, denial: { code: 'excess' } })
    expect(await ok('owner', ['verify', '--full'])).toContain('16 envelopes, of which 4 are void')
  })

  test('the Automerge document of one resource opens with Automerge', async () => {
    await ok('owner', ['apply', '-f', '-'], { stdin: site('shop') })
    await ok('owner', ['export', '--resource', 'default/eu.west/site/shop', 'shop.automerge'])
    const doc = Automerge.load<Record<string, unknown>>(await readFile(join(cwd, 'shop.automerge')))
    expect(String(doc['routes/root/return/body'])).toBe('"shop"')
    expect((await as('owner', ['export', '--resource', 'default/eu/site/none', 'none'])).code).toBe(
      ERROR_CODES.not_found.exit,
    )
  })

  test('an export is verified without a node, and found out when it was changed', async () => {
    await ok('owner', ['export', 'mesh.json'])
    expect((await stat(join(cwd, 'mesh.json'))).mode & 0o777).toBe(0o600)
    expect((await as('owner', ['export', 'mesh.json'])).code).toBe(ERROR_CODES.conflict.exit)
    const whole = await offline(['verify', 'mesh.json', '--mesh', MESH_ID])
    expect([whole.code, whole.out]).toEqual([0, expect.stringContaining(`state hash ${node.replica.state.hash()}`)])

    const file = JSON.parse(await readFile(join(cwd, 'mesh.json'), 'utf8')) as {
      stateHash: string
      envelopes: WireEnvelope[]
    }
    const changes: [change: (file: { stateHash: string; envelopes: WireEnvelope[] }) => unknown, message: RegExp][] = [
      [
        ({ stateHash, envelopes }) => ({
          stateHash,
          envelopes: envelopes.with(6, { ...envelopes[6]!, bytes: envelopes[6]!.bytes.replace('web', 'wob') }),
        }),
        /envelope 7: .*is not valid/,
      ],
      [
        ({ stateHash, envelopes }) => ({ stateHash, envelopes: envelopes.toSpliced(4, 1) }),
        /rests on [0-9a-f]{64}, which is not there/,
      ],
      [
        ({ stateHash, envelopes }) => ({ stateHash, envelopes: envelopes.slice(0, -1) }),
        /the state hash is said to be/,
      ],
      [({ envelopes }) => ({ stateHash: 'x', envelopes }), /the state hash is said to be x/],
    ]
    for (const [change, message] of changes) {
      await writeFile(join(cwd, 'changed.json'), JSON.stringify(change(file)))
      expect(await offline(['verify', 'changed.json'])).toMatchObject({
        code: ERROR_CODES.store_corrupt.exit,
        err: expect.stringMatching(message),
      })
    }
  })

  test.each([[['verify']], [['verify', '--full', 'x']], [['verify', 'a', 'b']]])(
    'meshctl %s is wrong usage',
    async (argv) => {
      expect((await offline(argv)).code).toBe(ERROR_CODES.usage.exit)
    },
  )
})
