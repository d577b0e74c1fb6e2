/** meshctl policy, in process, against a real API server: grants as YAML, what a file changes, and what it must not. */

import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { parse, stringify } from 'yaml'
import type { GrantView } from '../../src/api/schemas.ts'
import type { GrantBody, KeyPair } from '../../src/core/envelope.ts'
import { encryptionKey } from '../../src/core/secrets.ts'
import { KEYS, startApiNode, testKey, type ApiNode } from '../support/api-node.ts'
import { meshctl, type CliResult } from '../support/cli.ts'
import { http } from '../support/http.ts'
import { lyingNode } from '../support/lying-node.ts'

const [ana, ben, cara, dan] = [61, 62, 63, 64].map(testKey) as [KeyPair, KeyPair, KeyPair, KeyPair]

let node: ApiNode
let cwd: string
beforeEach(async () => {
  node = await startApiNode()
  cwd = await mkdtemp(join(tmpdir(), 'nxmesh-policy-'))
  for (const [name, key] of Object.entries({ owner: KEYS.owner, root: KEYS.root, ana, ben })) {
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
const grantsOf = (key: KeyPair): GrantBody[] =>
  node.replica.state.policy.activeGrants(key.publicKey).map(({ body }) => body)
const size = (): number => node.replica.state.history.size

type Section = Readonly<Record<string, unknown>>
const policy = (members: Section, nodes: Section = {}, name = 'default'): string =>
  stringify({ apiVersion: 'nxmesh/v1', kind: 'WorkspacePolicy', metadata: { name }, spec: { members, nodes } })
const apply = (stdin: string, ...more: string[]) => ok(['policy', 'apply', '-f', '-', ...more], { stdin })

describe('show', () => {
  test('prints every grant, and what it prints differs in nothing', async () => {
    await ok(['grant', 'admin', `${ana.publicKey}:${encOf(ana)}`, '-z', 'eu', '-w', '*', '--name', 'ana'])
    await ok([
      'grant',
      'editor',
      ana.publicKey,
      '-z',
      'us',
      '--kinds',
      'site',
      '--name',
      'ana',
      '--hosts',
      '*.a.example',
    ])
    await ok([
      'grant',
      'robot',
      ben.publicKey,
      '-z',
      'us,eu',
      '--fields',
      'endpoints/',
      '--quota',
      'resources=3,bytes=9',
    ])
    await ok(['grant', 'robot', cara.publicKey, '-z', 'eu', '--kinds', 'node', '-w', '*', '--name', 'registrar'])
    await ok([
      'grant',
      'robot',
      ben.publicKey,
      '-z',
      'us,eu',
      '--fields',
      'endpoints/',
      '--quota',
      'resources=3,bytes=9',
    ])
    const { out } = await ok(['policy', 'show'])
    const [all, own] = out.split('---\n').map((text) => parse(text) as unknown)
    expect(all).toEqual({
      apiVersion: 'nxmesh/v1',
      kind: 'WorkspacePolicy',
      metadata: { name: '*' },
      spec: {
        members: {
          // The owner of the founding is called so too.
          ana: [
            { key: ana.publicKey, enc: encOf(ana), role: 'admin', zones: ['eu'] },
            { key: KEYS.owner.publicKey, enc: encOf(KEYS.owner), role: 'owner', zones: ['*'] },
          ],
          registrar: { key: cara.publicKey, role: 'robot', zones: ['eu'], kinds: ['node'] },
        },
        nodes: {
          'edge-1': { key: KEYS.node.publicKey, enc: encOf(KEYS.node), zones: ['eu.west'] },
          'edge-2': { key: KEYS.other.publicKey, zones: ['us'] },
        },
      },
    })
    expect(own).toMatchObject({
      metadata: { name: 'default' },
      spec: {
        members: {
          ana: { key: ana.publicKey, role: 'editor', zones: ['us'], kinds: ['site'], hosts: ['*.a.example'] },
          [ben.publicKey]: {
            role: 'robot',
            zones: ['eu', 'us'],
            fields: ['endpoints/'],
            quota: { bytes: 9, resources: 3 },
          },
        },
      },
    })
    const before = size()
    expect(await run(['policy', 'diff', '-f', '-'], { stdin: out })).toEqual({
      code: 0,
      out: 'nothing to change\n',
      err: '',
    })
    expect((await apply(out, '--prune')).out).toBe('nothing to change\n')
    expect(size()).toBe(before)
    expect(JSON.parse((await ok(['policy', 'show', '-o', 'json', '-w', 'default'])).out)).toHaveLength(1)
  })
})

describe('apply', () => {
  test('grants what is missing, as KEY:ENC too, with all that a grant may say', async () => {
    const file = policy(
      {
        ana: {
          key: `${ana.publicKey}:${encOf(ana)}`,
          role: 'editor',
          zones: ['us', 'eu'],
          kinds: ['sites', 'Upstream'],
        },
        ben: [
          { key: ben.publicKey, role: 'viewer', zones: ['*'] },
          { key: ben.publicKey, role: 'robot', zones: ['eu'], fields: ['endpoints/'], quota: { resources: 2 } },
        ],
      },
      { 'edge-9': { key: cara.publicKey, zones: ['eu.west'] } },
    )
    const dry = await apply(file, '--dry-run')
    expect(dry.err).toContain('dry run: nothing was signed\n')
    expect(dry.out).toMatch(
      /^\+ grant editor ana \([0-9a-f]{12}\) of zones eu, us in workspace default, kinds site, upstream\n/,
    )
    expect(grantsOf(ana)).toEqual([])
    const { err } = await apply(file, '--note', 'new team')
    expect(err).toMatch(/signed: 4 grants, 0 revocations\n$/)
    expect(grantsOf(ana)).toMatchObject([
      {
        ws: 'default',
        role: 'editor',
        zones: ['eu', 'us'],
        kinds: ['site', 'upstream'],
        enc: encOf(ana),
        name: 'ana',
        note: 'new team',
      },
    ])
    expect(
      grantsOf(ben)
        .map(({ role }) => role)
        .toSorted(),
    ).toEqual(['robot', 'viewer'])
    expect(grantsOf(cara)).toMatchObject([{ role: 'node', zones: ['eu.west'], kinds: ['*'], name: 'edge-9' }])
    expect((await apply(file, '--prune')).out).toBe('nothing to change\n')
  })

  test('a short file takes nothing away unless it is told to, and then keeps what was done', async () => {
    await apply(
      policy({
        ana: { key: ana.publicKey, role: 'editor', zones: ['*'] },
        ben: { key: ben.publicKey, role: 'editor', zones: ['*'] },
      }),
    )
    const site = stringify({
      apiVersion: 'nxmesh/v1',
      kind: 'Site',
      metadata: { name: 'a' },
      spec: { hosts: ['a.example'] },
    })
    await ok(['apply', '-f', '-'], { key: 'ben', stdin: site })
    const short = policy({ ana: { key: ana.publicKey, role: 'editor', zones: ['*'] } })
    const { out, err } = await apply(short)
    expect(out).toMatch(
      /^- revoke editor ben \(.*\) of zones \* in workspace default \(grant [0-9a-f]{12}\)\n0 to grant, 1 to revoke\n$/,
    )
    expect(err).toContain('not revoked, for want of --prune: 1 grant that the file does not have')
    expect(grantsOf(ben)).toHaveLength(1)
    await apply(short, '--prune')
    expect(grantsOf(ben)).toEqual([])
    expect((await run(['get', 'site', 'a'])).code).toBe(0)
    // The key is not spent: a grant was taken away, no key.
    await apply(policy({ ben: { key: ben.publicKey, role: 'viewer', zones: ['*'] } }))
    expect(grantsOf(ben)).toMatchObject([{ role: 'viewer' }])
  })

  test('a changed scope is granted before the old one goes, and keeps the enc key that a file leaves out', async () => {
    await apply(policy({}, { 'edge-9': { key: ana.publicKey, enc: encOf(ana), zones: ['eu'] } }))
    const { out } = await apply(policy({}, { 'edge-9': { key: ana.publicKey, zones: ['us'] } }), '--prune')
    const [grant, revocation] = out
      .split('\n')
      .slice(-3)
      .map((id) => node.replica.state.history.get(id))
    expect(grant?.body).toMatchObject({ type: 'grant', zones: ['us'], enc: encOf(ana) })
    expect(revocation?.body).toMatchObject({ type: 'revoke' })
    expect(grantsOf(ana)).toMatchObject([{ zones: ['us'], enc: encOf(ana) }])
  })

  test('leaves alone the own grants and what is above the signer, and refuses to grant beyond it', async () => {
    await ok(['grant', 'admin', ana.publicKey, '-z', 'eu', '-w', '*', '--name', 'ana'])
    await ok(['grant', 'admin', ben.publicKey, '-z', 'eu', '-w', '*', '--name', 'ben'])
    const empty = policy({}, {}, '*')
    const { code, out } = await run(['policy', 'apply', '-f', '-', '--prune'], { key: 'ana', stdin: empty })
    expect(code).toBe(0)
    expect(out).toMatch(/left alone: admin ana .*, because it is your own\n/)
    expect(out).toMatch(
      /left alone: admin ben .*, because grant .*: granting and revoking take a strictly higher rank\n/,
    )
    expect(out).toMatch(
      /left alone: owner .* zone \* is outside the exercised grant|left alone: owner .*strictly higher rank/,
    )
    expect(out).toMatch(/left alone: node edge-2 .*, because grant .*: zone us is outside the exercised grant\n/)
    // edge-1 is within its reach.
    expect(grantsOf(KEYS.node)).toEqual([])
    expect([grantsOf(ana), grantsOf(ben), grantsOf(KEYS.owner), grantsOf(KEYS.other)].map((all) => all.length)).toEqual(
      [1, 1, 1, 1],
    )
    const before = size()
    const beyond = policy({
      cara: { key: cara.publicKey, role: 'editor', zones: ['eu'] },
      dan: { key: dan.publicKey, role: 'owner', zones: ['*'] },
    })
    expect(await run(['policy', 'apply', '-f', '-'], { key: 'ana', stdin: beyond })).toMatchObject({
      code: 4,
      err: expect.stringContaining('the file grants what your key may not'),
    })
    expect(size()).toBe(before)
  })

  test('an admin of some hosts is told before anything is signed whom they may not let in', async () => {
    await ok(['grant', 'admin', ana.publicKey, '-z', 'eu', '-w', 'default', '--hosts', '*.shop.example'])
    const before = size()
    const file = policy({
      cara: { key: cara.publicKey, role: 'editor', zones: ['eu'], hosts: ['a.shop.example'] },
      dan: { key: dan.publicKey, role: 'editor', zones: ['eu'] },
    })
    expect(await run(['policy', 'apply', '-f', '-'], { key: 'ana', stdin: file })).toMatchObject({
      code: 4,
      err: expect.stringContaining('the file grants what your key may not'),
    })
    expect(size()).toBe(before)
    // By another grant of theirs they may.
    await ok(['grant', 'admin', ana.publicKey, '-z', 'eu', '-w', 'default'])
    expect(await run(['grant', 'editor', dan.publicKey, '-z', 'eu'], { key: 'ana' })).toMatchObject({ code: 0 })
  })

  test('a file that grants to a revoked key is refused before anything is signed, and the rest is granted without it', async () => {
    await ok(['grant', 'editor', ana.publicKey, '-z', '*', '--name', 'ana'])
    await ok(['revoke', ana.publicKey])
    const members = {
      ana: { key: ana.publicKey, role: 'editor', zones: ['*'] },
      ben: { key: ben.publicKey, role: 'editor', zones: ['*'] },
    }
    const before = size()
    const { out } = await run(['policy', 'diff', '-f', '-'], { stdin: policy(members) })
    expect(out).toMatch(
      /^\+ grant editor ben .*\n! cannot be: editor ana .*its key was revoked\n1 to grant, 0 to revoke\n$/,
    )
    for (const more of [[], ['--dry-run']]) {
      const { code, err } = await run(['policy', 'apply', '-f', '-', ...more], { stdin: policy(members) })
      expect([code, err]).toEqual([
        4,
        expect.stringMatching(/the file grants to keys that were revoked:\n  editor ana /),
      ])
      expect(err).toContain('make a new key')
    }
    expect(size()).toBe(before)
    await apply(policy({ ben: members.ben }))
    // Who stands above the revoker's reach is not barred.
    await ok(['grant', 'admin', ben.publicKey, '-z', '*', '--name', 'ben'])
    await ok(['grant', 'editor', cara.publicKey, '-z', '*', '--name', 'cara'])
    await ok(['revoke', cara.publicKey], { key: 'ben' })
    const above = policy({
      ben: [members.ben, { ...members.ben, role: 'admin' }],
      cara: { key: cara.publicKey, role: 'admin', zones: ['*'] },
    })
    await apply(above)
    expect(grantsOf(cara)).toMatchObject([{ role: 'admin' }])
  })

  test('a run that was cut off after sending signs nothing twice', async () => {
    const members = Object.fromEntries(
      Array.from({ length: 4 }, (_, index) => [
        `m${index}`,
        { key: testKey(100 + index).publicKey, role: 'viewer', zones: ['eu'] },
      ]),
    )
    let posts = 0
    await using broken = await cuttingNode(node.url, () => (posts += 1) === 3)
    const cut = await run(['policy', 'apply', '-f', '-'], { api: broken.url, stdin: policy(members) })
    expect([cut.code, cut.err]).toEqual([7, expect.stringContaining('2 of 4 were signed before this failed')])
    await apply(policy(members), '--prune')
    expect([100, 101, 102, 103].map((seed) => grantsOf(testKey(seed)).length)).toEqual([1, 1, 1, 1])
  })

  test('warns of the secrets that somebody loses who stays, and of none that they keep', async () => {
    const told = "meshctl secret rotate shop -w default -z 'eu' -f FILE"
    const zones = (...all: string[]): string =>
      policy({ ana: { key: ana.publicKey, enc: encOf(ana), role: 'editor', zones: all } })
    await apply(zones('eu', 'us'))
    await ok(['secret', 'set', 'shop', '-z', 'eu', '-f', '-'], { stdin: 'text' })
    expect((await apply(zones('*'), '--prune')).err).not.toContain(told)
    const admin = { key: ana.publicKey, enc: encOf(ana), role: 'admin', zones: ['eu'] }
    expect((await apply(policy({ ana: [admin, { ...admin, role: 'viewer' }] }), '--prune')).err).toContain(told)
    await ok(['secret', 'reseal', 'shop'])
    // An admin of the zone still, and then somebody who is only shown it.
    expect((await apply(policy({ ana: admin }), '--prune')).err).not.toContain(told)
    expect((await apply(policy({ ana: { ...admin, role: 'viewer' } }), '--prune')).err).toContain(told)
  })

  test('does not warn of what a grant for all workspaces keeps open', async () => {
    await ok(['grant', 'node', `${ana.publicKey}:${encOf(ana)}`, '-z', 'eu', '--name', 'edge-9'])
    await apply(policy({}, { 'edge-9': { key: ana.publicKey, enc: encOf(ana), zones: ['eu'] } }))
    await ok(['secret', 'set', 'shop', '-z', 'eu', '-f', '-'], { stdin: 'text' })
    expect((await apply(policy({}), '--prune', '--yes')).err).not.toContain('secret rotate')
    expect(grantsOf(ana)).toMatchObject([{ ws: '*' }])
  })

  test('warns when a node keeps zones whose secrets are other ones', async () => {
    const told = "meshctl secret rotate shop -w default -z 'eu.west' -f FILE"
    const node = (zone: string): string =>
      policy({}, { 'edge-9': { key: ana.publicKey, enc: encOf(ana), zones: [zone] } })
    await apply(node('eu.west'))
    await ok(['secret', 'set', 'shop', '-z', 'eu.west', '-f', '-'], { stdin: 'text' })
    expect((await apply(node('eu.west.a'), '--prune')).err).not.toContain(told)
    expect((await apply(node('eu'), '--prune')).err).toContain(told)
  })

  test('what takes most of a document away is signed with --yes alone', async () => {
    const before = size()
    const empty = policy({}, {}, '*')
    const { code, err } = await run(['policy', 'apply', '-f', '-', '--prune'], { key: 'root', stdin: empty })
    expect([code, err]).toEqual([2, expect.stringContaining('this takes away all 2 nodes of those for all workspaces')])
    const dry = await run(['policy', 'apply', '-f', '-', '--prune', '--dry-run'], { key: 'root', stdin: empty })
    expect([dry.code, dry.err]).toEqual([0, expect.stringContaining('this takes away all 2 nodes')])
    expect(size()).toBe(before)
    const members = Object.fromEntries(
      ['a', 'b', 'c', 'd'].map((name, index) => [
        name,
        { key: testKey(100 + index).publicKey, role: 'viewer', zones: ['eu'] },
      ]),
    )
    const shop = (...names: string[]): string =>
      policy(Object.fromEntries(names.map((name) => [name, members[name]])), {}, 'shop')
    await apply(shop('a', 'b', 'c', 'd'))
    const most = await run(['policy', 'apply', '-f', '-', '--prune'], { stdin: shop('d') })
    expect([most.code, most.err]).toEqual([
      2,
      expect.stringContaining('this takes away 3 of 4 grants of workspace shop'),
    ])
    // Half of them, and other zones for all, are nothing unusual.
    await apply(shop('c', 'd'), '--prune')
    await apply(shop('a', 'b', 'c', 'd').replaceAll('eu', 'us'), '--prune')
    await apply(shop('d'), '--prune', '--yes')
    expect(grantsOf(testKey(100))).toEqual([])
  })

  test('warns of the secrets that somebody who leaves could read', async () => {
    await apply(policy({}, { 'edge-9': { key: ana.publicKey, enc: encOf(ana), zones: ['eu'] } }))
    await ok(['secret', 'set', 'shop', '-z', 'eu', '-f', '-'], { stdin: 'text' })
    const { err } = await apply(policy({}), '--prune', '--yes')
    expect(err).toContain("meshctl secret rotate shop -w default -z 'eu' -f FILE")
  })
})

describe('a file that cannot be', () => {
  const entry = { key: ana.publicKey, role: 'editor', zones: ['eu'] }
  test.each<[string, string, RegExp]>([
    [
      'an unknown field',
      policy({ ana: { ...entry, zone: ['eu'] } }),
      /spec\.members\.ana\.zone is not a known field \(did you mean zones\?\)/,
    ],
    [
      'an unknown role',
      policy({ ana: { ...entry, role: 'chief' } }),
      /spec\.members\.ana\.role is not one of the known values/,
    ],
    ['a node among the members', policy({ ana: { ...entry, role: 'node' } }), /spec\.members\.ana\.role is not one/],
    [
      'a shortened key',
      policy({ ana: { ...entry, key: ana.publicKey.slice(0, 12) } }),
      /spec\.members\.ana\.key must be an Ed25519/,
    ],
    ['no key', policy({ ana: { role: 'editor', zones: ['eu'] } }), /spec\.members\.ana\.key is required/],
    [
      'a wrong zone',
      policy({ ana: { ...entry, zones: ['eu..west'] } }),
      /spec\.members\.ana\.zones\[0\] must be a zone/,
    ],
    ['an unknown kind', policy({ ana: { ...entry, kinds: ['pods'] } }), /spec\.members\.ana\.kinds\[0\] is no kind/],
    [
      'a wrong one of several',
      policy({ ana: [entry, { ...entry, quota: { cpus: 1 } }] }),
      /spec\.members\.ana\[1\]\.quota\.cpus is not a known/,
    ],
    [
      'a wrong zone of one of several',
      policy({ ana: [entry, { ...entry, zones: ['-'] }] }),
      /spec\.members\.ana\[1\]\.zones\[0\] must be/,
    ],
    ['a wrong title', policy({ Ana: entry }), /spec\.members\.Ana is neither a name/],
    ['members as a list', policy([entry] as never), /spec\.members is not a map of names/],
    [
      'an enc key beside another',
      policy({ ana: { ...entry, key: `${ana.publicKey}:${encOf(ana)}`, enc: encOf(ben) } }),
      /enc is not that of key/,
    ],
    ['another kind', policy({}).replace('WorkspacePolicy', 'Site'), /kind/],
    ['no workspace', policy({}, {}, 'Shop'), /metadata\.name is not a workspace, nor \* for all/],
    ['one workspace twice', `${policy({})}---\n${policy({})}`, /there is a policy of default already/],
  ])('%s is told with its place, and nothing is signed', async (_, stdin, message) => {
    const before = size()
    const { code, err } = await run(['policy', 'apply', '-f', '-'], { stdin })
    expect([code, err]).toEqual([3, expect.stringMatching(message)])
    expect(size()).toBe(before)
  })

  test('a policy is no resource, and apply says where it belongs', async () => {
    const { code, err } = await run(['apply', '-f', '-'], { stdin: policy({}) })
    expect([code, err]).toEqual([3, expect.stringContaining('it is for: meshctl policy apply -f FILE')])
  })
})

describe('a node that lies', () => {
  const listing = (path: string): boolean => path.startsWith('/v1/grants')

  test('about what a grant says has none taken away', async () => {
    const admin = (await ok(['grant', 'admin', ana.publicKey, '-z', 'eu', '--name', 'ana'])).out.trim()
    await ok(['grant', 'editor', ben.publicKey, '-z', 'eu', '--name', 'ben'])
    // It shows ana's grant as one of somebody whom the file does not name.
    await using liar = await lyingNode(node.url, (path, truth) => {
      if (!listing(path)) return truth
      const page = truth as { data: GrantView[] }
      return {
        ...page,
        data: page.data.map((view) => (view.id === admin ? { ...view, subject: cara.publicKey, name: 'cara' } : view)),
      }
    })
    const file = policy({
      ana: { key: ana.publicKey, role: 'admin', zones: ['eu'] },
      ben: { key: ben.publicKey, role: 'editor', zones: ['eu'] },
    })
    const { code, out } = await run(['policy', 'apply', '-f', '-', '--prune'], { stdin: file, api: liar.url })
    expect([code, out]).toEqual([0, 'nothing to change\n'])
    expect(liar.taken).toEqual([])
  })

  test('with a grant that it made up is not believed', async () => {
    const id = (await ok(['grant', 'editor', ben.publicKey, '-z', 'eu', '--name', 'ben'])).out.trim()
    const made = 'ab'.repeat(32)
    await using liar = await lyingNode(node.url, (path, truth) => {
      if (!listing(path)) return truth
      const page = truth as { data: GrantView[] }
      return { ...page, data: page.data.map((view) => (view.id === id ? { ...view, id: made } : view)) }
    })
    const { code, err } = await run(['policy', 'apply', '-f', '-', '--prune'], { stdin: policy({}), api: liar.url })
    expect([code, err]).toEqual([4, expect.stringContaining(`grant ${made} does not follow from the genesis`)])
    expect(liar.taken).toEqual([])
  })
})

/** Passes everything on, but for what is cut: that is read, and goes no further. */
async function cuttingNode(honest: string, isCut: () => boolean): Promise<AsyncDisposable & { readonly url: string }> {
  const server = createServer((request, response) => {
    void (async () => {
      const { method = 'GET', url: path = '' } = request
      let body = ''
      for await (const chunk of request) body += String(chunk)
      if (method === 'POST' && isCut()) return request.socket.destroy()
      const headers = { 'content-type': 'application/json', authorization: request.headers.authorization ?? '' }
      const answer = await http(honest, path, { method, headers, ...(method === 'GET' ? {} : { body }) })
      response.setHeader('content-type', 'application/json')
      return response.writeHead(answer.status).end(answer.text)
    })()
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    [Symbol.asyncDispose]: async () => {
      await new Promise((resolve) => server.close(resolve).closeAllConnections())
    },
  }
}
