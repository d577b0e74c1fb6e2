/** meshctl secret, in process, against a real API server over its socket. */

import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, onTestFinished, test } from 'vitest'
import { grantView } from '../../src/api/views.ts'
import { toWire } from '../../src/core/codec.ts'
import {
  keyPairFromSeed,
  LIMITS,
  signEnvelope,
  type EditBody,
  type Envelope,
  type GrantBody,
  type KeyPair,
} from '../../src/core/envelope.ts'
import { foundMesh } from '../../src/core/founding.ts'
import { encryptionKey, everSealedFor, keyFieldsIn, open, recipientsIn } from '../../src/core/secrets.ts'
import { ERROR_CODES } from '../../src/errors.ts'
import { Author } from '../support/author.ts'
import { KEYS, startApiNode, testKey, type ApiNode } from '../support/api-node.ts'
import { meshctl, type CliOptions, type CliResult } from '../support/cli.ts'
import { lyingNode } from '../support/lying-node.ts'
import { MESH_ID, OWNER_GRANT } from '../support/sign.ts'

const TEXT = 'correct horse battery staple'
const PATH = 'default/eu.west/secret/shop'

let node: ApiNode
let cwd: string
beforeEach(async () => {
  node = await startApiNode()
  cwd = await mkdtemp(join(tmpdir(), 'nxmesh-cli-'))
  await writeKey('owner.key', KEYS.owner)
  await writeKey('node.key', KEYS.node)
  await writeKey('other.key', KEYS.other)
  await writeFile(join(cwd, 'text'), TEXT)
})
afterEach(async () => {
  await node.stop()
  await rm(cwd, { recursive: true, force: true })
})

async function writeKey(name: string, key: KeyPair): Promise<void> {
  await writeFile(join(cwd, name), Buffer.from(key.seed).toString('hex'), { mode: 0o600 })
}

async function as(key: string, argv: readonly string[], options: Partial<CliOptions> = {}): Promise<CliResult> {
  const env = { NXMESH_MESH_ID: MESH_ID }
  return await meshctl(['--api', `unix:${node.socketPath}`, '-k', `${key}.key`, ...argv], { cwd, env, ...options })
}

async function ok(argv: readonly string[], options: Partial<CliOptions> = {}): Promise<string> {
  const { code, out, err } = await as('owner', argv, options)
  expect(`${code} ${err}`).toMatch(/^0 /)
  return out
}

const fields = () => node.replica.state.resource(PATH)!.fields
const encOf = (key: KeyPair): string => encryptionKey(key.seed).publicKey
const set = (...more: string[]) => ok(['secret', 'set', 'shop', '-z', 'eu.west', '-f', 'text', ...more])

function edits(): Envelope<EditBody>[] {
  const { history } = node.replica.state
  return history.order.map((id) => history.get(id) as Envelope<EditBody>).filter(({ body }) => body.type === 'edit')
}

describe('secret set', () => {
  test('seals for the nodes of the zone and for who may edit it, and shows nothing of the text', async () => {
    const { code, out, err } = await as('owner', ['secret', 'set', 'shop', '-z', 'eu.west', '-f', 'text'])
    expect([code, out]).toEqual([0, `+ create ${PATH}\n    + sealed, 2 recipients\n1 to create\n`])
    expect(recipientsIn(fields()).toSorted()).toEqual([encOf(KEYS.owner), encOf(KEYS.node)].toSorted())
    expect(open(fields(), PATH, encryptionKey(KEYS.node.seed)).toString()).toBe(TEXT)
    expect(`${out}${err}${node.lines.join()}${JSON.stringify(edits())}`).not.toContain('horse')
  })

  test('takes the text byte by byte from a file or standard input, or from a prompt that hides it', async () => {
    await ok(['secret', 'set', 'shop', '-z', 'eu.west'], { stdin: 'piped\n' })
    expect(await ok(['secret', 'get', 'shop'])).toBe('piped\n')
    await ok(['secret', 'set', 'shop', '-z', 'eu.west', '-f', '-'], { stdin: 'dash' })
    expect(await ok(['secret', 'get', 'shop'])).toBe('dash')
    const prompts: string[] = []
    const promptHidden = async (prompt: string) => {
      prompts.push(prompt)
      return Buffer.from('typed')
    }
    await ok(['secret', 'set', 'shop'], { promptHidden })
    expect(await ok(['secret', 'get', 'shop'])).toBe('typed')
    expect(prompts).toEqual(['Text (not shown), then Enter: '])
  })

  test('a new version deletes the keys of the old one in the same edit', async () => {
    await set()
    const before = keyFieldsIn(fields())
    expect(await set()).toBe(
      `~ change ${PATH}\n    ~ sealed, 2 recipients -> sealed, 2 recipients, anew\n1 to change\n`,
    )
    expect(edits()).toHaveLength(2)
    expect(keyFieldsIn(fields())).toHaveLength(2)
    const deleted = edits()[1]!
      .body.edits[0]![2].filter(([action]) => action === 'del')
      .map(([, field]) => field)
    expect(deleted).toEqual(before.toSorted())
  })

  test('for more recipients than one edit holds, becomes several, and opens after each', async () => {
    const nodes = Array.from({ length: 300 }, (_, index) => keyPairFromSeed(Buffer.alloc(32, `n${index}`)))
    let previous: Envelope | undefined
    const grants = nodes.map((key, index) => {
      const n: number = index + 4
      const prev = [previous?.id ?? node.replica.state.history.chain('*', KEYS.owner.publicKey)!.heads[0]!]
      const body: GrantBody = {
        v: 1,
        type: 'grant',
        mesh: MESH_ID,
        ws: '*',
        by: KEYS.owner.publicKey,
        grant: OWNER_GRANT,
        n: n - 1,
        prev,
        at: 0,
        note: '',
        subject: key.publicKey,
        role: 'node',
        zones: ['eu.west'],
        kinds: ['*'],
        enc: encOf(key),
      }
      previous = signEnvelope(body, [KEYS.owner])
      return previous
    })
    const outcomes = await node.replica.submit(grants.map(toWire), 'sync')
    expect(new Set(outcomes.map(({ outcome }) => outcome))).toEqual(new Set(['stored']))
    await set()
    const created = edits()
    expect(created.length).toBeGreaterThan(1)
    expect(recipientsIn(fields())).toHaveLength(302)
    await writeFile(join(cwd, 'text'), 'the second')
    await set()
    for (const { body } of edits()) {
      expect(body.edits.reduce((sum, [, , ops]) => sum + ops.length, 0)).toBeLessThanOrEqual(LIMITS.ops)
    }
    expect(keyFieldsIn(fields())).toHaveLength(302)
    expect(node.replica.state.resource(PATH)!.conflicts.size).toBe(0)
    for (const key of [nodes[0]!, nodes[299]!]) {
      expect(open(fields(), PATH, encryptionKey(key.seed)).toString()).toBe('the second')
    }
    // Of the second version: no edit takes the keys of what still is the text.
    const second = edits().slice(created.length)
    const textAt = second.findIndex(({ body }) => body.edits[0]![2].some(([, field]) => field === 'sealed'))
    const firstDelete = second.findIndex(({ body }) => body.edits[0]![2].some(([action]) => action === 'del'))
    const lastKey = second.findLastIndex(({ body }) =>
      body.edits[0]![2].some(([action, field]) => action === 'set' && field !== 'sealed'),
    )
    expect([lastKey <= textAt, textAt <= firstDelete]).toEqual([true, true])
  }, 60_000)

  test('tells who cannot open it, and refuses when nobody could', async () => {
    const { err } = await as('owner', ['secret', 'set', 'all', '-z', '*', '-f', 'text'])
    expect(err).toContain('node edge-2 cannot open it: its grant tells no enc key\n')
    const ana = testKey(7)
    await writeKey('ana.key', ana)
    await ok(['grant', 'editor', ana.publicKey, '-z', 'eu.west'])
    const hers = await as('ana', ['secret', 'set', 'hers', '-z', 'eu.west', '-f', 'text'])
    expect([hers.code, hers.err]).toEqual([0, expect.stringContaining('you cannot open it yourself')])
    await ok(['grant', 'editor', `${ana.publicKey}:${encOf(ana)}`, '-z', 'eu.west'])
    expect((await as('ana', ['secret', 'get', 'hers'])).code).toBe(ERROR_CODES.denied.exit)
    await ok(['secret', 'reseal', 'hers'])
    expect((await as('ana', ['secret', 'get', 'hers'])).out).toBe(TEXT)
  })

  test('a node that lists a grant which nobody made gets nothing sealed for it', async () => {
    const thief = testKey(8)
    const { policy, history } = node.replica.state
    const [real] = policy.activeGrants(KEYS.node.publicKey)
    const body: GrantBody = {
      ...real!.body,
      by: thief.publicKey,
      grant: MESH_ID,
      n: 1,
      prev: [],
      subject: thief.publicKey,
      enc: encOf(thief),
      name: 'x',
    }
    const forged = signEnvelope(body, [thief])
    // What a node that was broken into would answer.
    const activeGrants = policy.activeGrants.bind(policy)
    const get = history.get.bind(history)
    history.subjects = () => [KEYS.owner.publicKey, KEYS.node.publicKey, thief.publicKey]
    policy.activeGrants = (subject) => (subject === thief.publicKey ? [forged] : activeGrants(subject))
    history.get = (id) => (id === forged.id ? forged : get(id))
    const { code, err } = await as('owner', ['secret', 'set', 'shop', '-z', 'eu.west', '-f', 'text'])
    expect([code, err]).toEqual([ERROR_CODES.denied.exit, expect.stringContaining('does not follow from the genesis')])
    expect(edits()).toEqual([])
  })

  test('a grant that one of two roots has signed gets nothing sealed for it, whatever a node says', async () => {
    const [rootA, rootB, thief] = [KEYS.root, testKey(41), testKey(8)] as [KeyPair, KeyPair, KeyPair]
    const founding = foundMesh({
      name: 'two',
      roots: [rootA, rootB],
      nextRoots: [KEYS.next.publicKey],
      threshold: 2,
      owner: KEYS.owner,
      ownerName: 'ana',
      nodes: [],
      at: 0,
    })
    const [genesis] = founding as [Envelope]
    const two = await startApiNode({ founded: false })
    onTestFinished(() => two.stop())
    await two.replica.adopt(toWire(genesis))
    await two.replica.submit(founding.slice(1).map(toWire), 'sync')
    const half = new Author(genesis.id, rootB, genesis.id).sign<GrantBody>('*', {
      type: 'grant',
      subject: thief.publicKey,
      role: 'node',
      zones: ['eu.west'],
      kinds: ['*'],
      enc: encOf(thief),
    })
    expect((await two.replica.submit([toWire(half)], 'sync'))[0]?.outcome).toBe('stored')
    await using liar = await lyingNode(two.url, (path, truth) => {
      const { data } = truth as { data?: unknown[] }
      return path.startsWith('/v1/grants') ? { ...(truth as object), data: [...(data ?? []), grantView(half)] } : truth
    })
    const argv = ['--api', liar.url, '--mesh', genesis.id, 'secret', 'set', 'shop', '-z', 'eu.west', '-f', 'text']
    const { code, err } = await as('owner', argv)
    expect([code, err]).toEqual([ERROR_CODES.denied.exit, expect.stringContaining('root signatures are missing')])
    expect(liar.taken).toEqual([])
  })

  test.each([
    [['secret', 'set', 'shop', TEXT, '-z', 'eu.west'], /takes one name and no text/, 'usage'],
    [['secret', TEXT], /secret takes set, get/, 'usage'],
    [['secret', 'set', TEXT, '-z', 'eu.west'], /a secret is called by/, 'usage'],
    [['secret', 'set', 'shop', '-z', 'e u', '-f', 'text'], /is not a zone/, 'usage'],
    [['secret', 'set', 'shop', '-f', 'text'], /there is no secret shop/, 'not_found'],
    [['secret', 'set', 'shop', '-z', 'eu.west', '-f', 'none'], /cannot read none/, 'input_invalid'],
    [['secret', 'set', 'shop', '-z', 'eu.west'], /the text is empty/, 'input_invalid'],
    [['secret', 'get', 'shop'], /there is no secret shop/, 'not_found'],
    [['secret', 'get'], /NAME of the secret is missing/, 'usage'],
    [['secret', 'reseal'], /takes a NAME, or --all/, 'usage'],
    [['secret', 'rotate', 'shop', '--random', '4'], /there is no secret shop/, 'not_found'],
  ] as const)('meshctl %s fails, and repeats no text', async (argv, message, code) => {
    const { code: exit, out, err } = await as('owner', argv)
    expect([exit, err]).toEqual([ERROR_CODES[code].exit, expect.stringMatching(message)])
    expect(`${out}${err}`).not.toContain('horse')
  })

  test('a text that is too long is refused before anything is sealed', async () => {
    const { code, err } = await as('owner', ['secret', 'set', 'shop', '-z', 'eu.west', '-f', '-'], {
      stdin: 'x'.repeat(24 * 1024 + 1),
    })
    expect([code, err]).toEqual([ERROR_CODES.too_large.exit, expect.stringContaining('the text is over 24576 bytes')])
  })
})

describe('who receives a secret', () => {
  const late = testKey(6)
  const grantLate = async (zone: string): Promise<string> =>
    (await ok(['grant', 'node', `${late.publicKey}:${encOf(late)}`, '-z', zone, '--name', 'late'])).trim()
  const line = (key: KeyPair, words: string): string => words.replace('KEY', key.publicKey.slice(0, 12))

  test('is named, and marked when the last version was not for it', async () => {
    const first = await as('owner', ['secret', 'set', 'shop', '-z', 'eu.west', '-f', 'text'])
    expect(first.err).toContain(`${PATH} is sealed for:\n`)
    expect(first.err).toContain(line(KEYS.owner, '  ana (KEY), owner of *\n'))
    expect(first.err).toContain(line(KEYS.node, '  edge-1 (KEY), node of eu.west\n'))
    expect(first.err).not.toContain('new: ')
    await grantLate('eu.west')
    const second = await as('owner', ['secret', 'rotate', 'shop', '--random', '32'])
    expect(second.err).toContain(line(KEYS.owner, '  ana (KEY), owner of *\n'))
    expect(second.err).toContain(line(late, '  new: late (KEY), node of eu.west\n'))
  })

  test('shows that somebody got a second key, by whoever may grant nodes', async () => {
    const [registrar, thief] = [testKey(31), testKey(32)]
    await writeKey('registrar.key', registrar)
    await ok(['grant', 'robot', registrar.publicKey, '--kinds', 'node', '-z', 'eu', '-w', '*'])
    await set()
    const owner = `${KEYS.owner.publicKey}:${encOf(thief)}`
    expect((await as('registrar', ['grant', 'node', owner, '-z', 'eu.west', '-w', '*'])).code).toBe(0)
    const { err } = await as('owner', ['secret', 'reseal', '--all'])
    const which = `by ${encOf(thief).slice(0, 12)}: one of 2 keys that grants say are theirs`
    expect(err).toContain(line(KEYS.owner, `  new: ana (KEY), node of eu.west, ${which}\n`))
  })

  test('is named when a reseal lets it in, and nobody else is', async () => {
    await set()
    await grantLate('eu.west')
    const { err } = await as('owner', ['secret', 'reseal', '--all'])
    expect(err).toContain(line(late, `${PATH} is sealed for:\n  new: late (KEY), node of eu.west\n`))
    expect(err).not.toContain('ana (')
    expect((await as('owner', ['secret', 'reseal', '--all'])).err).toBe('')
  })

  test('a revoked host that a node goes on listing is seen, since it is marked as new', async () => {
    const id = await grantLate('eu.west')
    await ok(['revoke', late.publicKey])
    await set()
    const gone = grantView(node.replica.state.history.get(id) as Envelope<GrantBody>)
    await using liar = await lyingNode(node.url, (path, truth) => {
      const { data } = truth as { data?: unknown[] }
      return path.startsWith('/v1/grants') ? { ...(truth as object), data: [...(data ?? []), gone] } : truth
    })
    const { err } = await as('owner', ['--api', liar.url, 'secret', 'rotate', 'shop', '--random', '32'])
    expect(err).toContain(line(late, '  new: late (KEY), node of eu.west\n'))
  })

  test('every secret that a host could ever read is listed when it is revoked: also one that was resealed without it', async () => {
    await set()
    const id = await grantLate('eu.west')
    await ok(['secret', 'reseal', '--all'])
    await grantLate('us')
    await ok(['revoke', id])
    await ok(['secret', 'reseal', '--all'])
    expect(everSealedFor(fields())).not.toContain(encOf(late))
    const { err } = await as('owner', ['revoke', late.publicKey])
    expect(err).toContain("  meshctl secret rotate shop -w default -z 'eu.west' -f FILE\n")
  })

  test('every secret that a host could ever read is listed: also one of which it had an older version', async () => {
    const id = await grantLate('eu.west')
    await set()
    await grantLate('us')
    await ok(['revoke', id])
    await ok(['secret', 'rotate', 'shop', '--random', '32'])
    await ok(['secret', 'set', 'other', '-z', 'eu.west', '-f', 'text'])
    const { err } = await as('owner', ['revoke', late.publicKey])
    expect(err).toContain("  meshctl secret rotate shop -w default -z 'eu.west' -f FILE\n")
    expect(err).not.toContain('secret rotate other')
  })
})

describe('secret get', () => {
  test('opens with the key of a recipient alone', async () => {
    await set()
    expect(await as('node', ['secret', 'get', 'shop'])).toMatchObject({ code: 0, out: TEXT, err: '' })
    const other = await as('other', ['secret', 'get', 'shop'])
    expect([other.code, other.out, other.err]).toEqual([
      ERROR_CODES.denied.exit,
      '',
      expect.stringContaining('is not sealed for the key'),
    ])
  })

  test('what is no text goes to a file of its own, for its owner alone', async () => {
    await writeFile(join(cwd, 'text'), Buffer.from([0xff, 0xfe, 0x00]))
    await set()
    const shown = await as('owner', ['secret', 'get', 'shop'])
    expect([shown.code, shown.out, shown.err]).toEqual([
      ERROR_CODES.input_invalid.exit,
      '',
      expect.stringContaining('is not plain text'),
    ])
    await ok(['secret', 'get', 'shop', '-f', 'out'])
    expect(await readFile(join(cwd, 'out'))).toEqual(Buffer.from([0xff, 0xfe, 0x00]))
    expect((await stat(join(cwd, 'out'))).mode & 0o777).toBe(0o600)
    expect((await as('owner', ['secret', 'get', 'shop', '-f', 'out'])).code).toBe(ERROR_CODES.conflict.exit)
  })

  test('nothing that drives a terminal is written to one', async () => {
    await writeFile(join(cwd, 'text'), '\u001b[31mred')
    await set()
    expect((await as('owner', ['secret', 'get', 'shop'], { tty: true })).code).toBe(ERROR_CODES.input_invalid.exit)
    expect((await as('owner', ['secret', 'get', 'shop'])).out).toBe('\u001b[31mred')
  })
})

describe('secret rotate, reseal, ls', () => {
  test('rotate takes another text, and not the old one', async () => {
    await set()
    const same = await as('owner', ['secret', 'rotate', 'shop', '-f', 'text'])
    expect([same.code, same.err]).toEqual([ERROR_CODES.input_invalid.exit, expect.stringContaining('is the old one')])
    await ok(['secret', 'rotate', 'shop'], { stdin: 'another' })
    expect(await ok(['secret', 'get', 'shop'])).toBe('another')
    expect(await ok(['secret', 'rotate', 'shop', '--random', '32'])).toContain('anew')
    expect(await ok(['secret', 'get', 'shop'])).toMatch(/^[\w-]{43}$/)
    expect((await as('owner', ['secret', 'rotate', 'shop', '--random', '4'])).code).toBe(ERROR_CODES.usage.exit)
  })

  test('reseal lets newcomers in and those out whose grant is gone, by who can open it', async () => {
    await set()
    const late = testKey(6)
    await writeKey('late.key', late)
    await ok(['grant', 'node', `${late.publicKey}:${encOf(late)}`, '-z', 'eu.west', '--name', 'late'])
    expect(await ok(['secret', 'ls'])).toMatch(/shop +[0-9a-f]{12} +(ana edge-1|edge-1 ana) +late \(reseal\) +-\n/)
    expect((await as('late', ['secret', 'get', 'shop'])).code).toBe(ERROR_CODES.denied.exit)
    expect(await ok(['secret', 'reseal', '--all'])).toContain('~ sealed, 2 recipients -> sealed, 3 recipients\n')
    expect((await as('late', ['secret', 'get', 'shop'])).out).toBe(TEXT)
    expect(await ok(['secret', 'reseal', 'shop'])).toBe('1 unchanged\n')

    const revoked = await as('owner', ['revoke', late.publicKey])
    expect(revoked.err).toContain(
      "this key could read these secrets, and whoever has it knows them; rotate each:\n  meshctl secret rotate shop -w default -z 'eu.west' -f FILE\n",
    )
    expect(await ok(['secret', 'ls', '-o', 'json'])).toContain('"noMore": [\n      {')
    await ok(['secret', 'reseal', '--all'])
    expect(everSealedFor(fields())).not.toContain(encOf(late))
    expect((await as('owner', ['revoke', 'edge-2', '--dry-run'])).err).not.toContain('could read')
  })

  test('one secret that somebody sealed wrongly keeps reseal from no other', async () => {
    await set()
    const owner = (await ok(['get', 'secret', 'shop', '-o', 'yaml'])).replace('name: shop', 'name: bad')
    await ok(['apply', '-f', '-'], { stdin: owner })
    const late = testKey(6)
    await ok(['grant', 'node', `${late.publicKey}:${encOf(late)}`, '-z', 'eu.west', '--name', 'late'])
    const { code, err } = await as('owner', ['secret', 'reseal', '--all'])
    expect([code, err]).toEqual([ERROR_CODES.denied.exit, expect.stringContaining('in: default/eu.west/secret/bad\n')])
    expect(open(fields(), PATH, encryptionKey(late.seed)).toString()).toBe(TEXT)
  })

  test('reseal by who cannot open it changes what it can, and says what not', async () => {
    await set()
    const ana = testKey(7)
    await writeKey('ana.key', ana)
    await ok(['grant', 'editor', `${ana.publicKey}:${encOf(ana)}`, '-z', 'eu.west'])
    const { code, err } = await as('ana', ['secret', 'reseal', '--all'])
    expect([code, err]).toEqual([ERROR_CODES.denied.exit, expect.stringContaining(`let nobody else in: ${PATH}`)])
  })
})

describe('a Secret among resources', () => {
  test('is listed by who can open it, and applies again as it was shown', async () => {
    await set()
    expect(await ok(['get', 'secrets'])).toMatch(/secret +shop .*sealed, 2 recipients/)
    const yaml = await ok(['get', 'secret', 'shop', '-o', 'yaml'])
    expect(await ok(['apply', '-f', '-'], { stdin: yaml })).toBe('1 unchanged\n')
    await ok(['delete', 'secret', 'shop'])
    expect(await ok(['apply', '-f', '-'], { stdin: yaml })).toBe(
      `+ create ${PATH}\n    + sealed, 2 recipients\n1 to create\n`,
    )
    expect(await ok(['secret', 'get', 'shop'])).toBe(TEXT)
  })

  test.each([
    ['a text in its place', 'spec: { text: correct horse }'],
    ['a text as what is sealed', 'spec: { sealed: correct horse }'],
    ['a text that looks sealed', 'spec: { sealed: [correct, horse] }'],
    ['a text under the key of its name', 'spec: { "correct horse": x }'],
    ['nothing', 'spec: {}'],
  ])('with %s is refused with the way out, and the text is not repeated', async (_, spec) => {
    const stdin = `apiVersion: nxmesh/v1\nkind: Secret\nmetadata: { name: shop }\n${spec}\n`
    const { code, out, err } = await as('owner', ['apply', '-f', '-'], { stdin })
    expect([code, out, err]).toEqual([
      ERROR_CODES.resource_invalid.exit,
      '',
      expect.stringContaining('stdin:1: spec is not what meshctl sealed (seal a text with meshctl secret set NAME'),
    ])
    expect(err).not.toMatch(/correct|horse/)
  })
})
