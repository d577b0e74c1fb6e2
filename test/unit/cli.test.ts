/** meshctl from arguments to exit code, in process, against a real API server over TCP and a unix socket. */

import { chmod, mkdir, mkdtemp, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { systemClock } from '../../src/adapters/clock.ts'
import { VERBS } from '../../src/cli/run.ts'
import { toWire } from '../../src/core/codec.ts'
import { keyPairFromSeed, type EditBody, type Envelope, type KeyPair } from '../../src/core/envelope.ts'
import { ERROR_CODES } from '../../src/errors.ts'
import { KEYS, startApiNode, targetOf, testKey, type ApiNode } from '../support/api-node.ts'
import { hasten } from '../support/hasty-clock.ts'
import { meshctl, type CliOptions, type CliResult } from '../support/cli.ts'
import { GENERATION, OLD_GENERATION, receiptOf } from '../support/receipt.ts'
import { startFlakyProxy } from '../support/flaky-proxy.ts'
import type { NodeReceipt } from '../../src/api/schemas.ts'
import type { Receipt } from '../../src/receipt.ts'
import { progressOf } from '../../src/cli/resources/wait.ts'
import { speak } from '../support/peer-status.ts'
import { editor, MESH_ID } from '../support/sign.ts'
import { waitFor } from '../support/wait.ts'

const SITE = `apiVersion: nxmesh/v1
kind: Site
metadata:
  name: web
  zone: eu.west
  labels:
    team: shop
spec:
  hosts:
    - a.example
    - b.example
  routes:
    root:
      path: /
      proxy:
        upstream: app
`
const UPSTREAM = `apiVersion: nxmesh/v1
kind: Upstream
metadata: { name: app, zone: eu.west }
spec:
  endpoints:
    10.0.0.1:80: {}
    10.0.0.2:80: { weight: 3 }
`
const SITE_PATH = 'default/eu.west/site/web'

let node: ApiNode
let cwd: string
beforeEach(async () => {
  node = await startApiNode()
  cwd = await mkdtemp(join(tmpdir(), 'nxmesh-cli-'))
  await writeKey('owner.key', KEYS.owner)
  await writeFile(join(cwd, 'site.yaml'), SITE)
  await writeFile(join(cwd, 'app.yaml'), UPSTREAM)
})
afterEach(async () => {
  await node.stop()
  await rm(cwd, { recursive: true, force: true })
})

async function writeKey(name: string, key: KeyPair): Promise<void> {
  await writeFile(join(cwd, name), Buffer.from(key.seed).toString('hex'), { mode: 0o600 })
}

/** With the owner's key, at the node of this test. */
async function owner(argv: readonly string[], options: Partial<CliOptions> = {}): Promise<CliResult> {
  return await meshctl(['--api', node.url, '-k', 'owner.key', ...argv], { cwd, env: { TMPDIR: cwd }, ...options })
}

async function ok(argv: readonly string[], options: Partial<CliOptions> = {}): Promise<string> {
  const { code, out, err } = await owner(argv, options)
  expect(`${code} ${err}`).toMatch(/^0 /)
  return out
}

function edits(): Envelope<EditBody>[] {
  const { history } = node.replica.state
  return history.order
    .map((id) => history.get(id) as Envelope)
    .filter((each): each is Envelope<EditBody> => each.body.type === 'edit')
}

describe('apply', () => {
  test('shows the changes, stores one signed edit, and finds nothing to do the second time', async () => {
    const first = await owner(['apply', '-f', '.', '--note', 'hello'])
    expect(first.code).toBe(0)
    expect(first.out).toContain('+ create default/eu.west/upstream/app\n    + endpoints/10.0.0.1:80: true\n')
    expect(first.out).toContain('    + hosts/a.example: true\n')
    expect(first.out).toMatch(/2 to create\n$/)
    expect(first.err).toMatch(
      /^this key works in mesh [0-9a-f]{64} from now on: .*\nstored: edit [0-9a-f]{12} \(2 resources\)\n$/,
    )
    expect(edits()).toHaveLength(1)
    expect(edits()[0]?.body).toMatchObject({ by: KEYS.owner.publicKey, n: 1, note: 'hello' })
    const second = await owner(['apply', '-f', 'site.yaml', '-f', 'app.yaml'])
    expect(second).toMatchObject({ code: 0, out: '2 unchanged\n', err: '' })
    expect(edits()).toHaveLength(1)
  })

  test('a change is a field diff, on top of the heads; removed fields are deleted', async () => {
    await ok(['apply', '-f', 'site.yaml'])
    await writeFile(
      join(cwd, 'site.yaml'),
      SITE.replace('    - b.example\n', '').replace('upstream: app', 'upstream: api'),
    )
    expect(await ok(['plan', '-f', 'site.yaml'])).toBe(
      `${await ok(['diff', '-f', 'site.yaml'])}! default/eu.west/site/web would be refused: there is no upstream api; create an Upstream api in workspace default and zone eu.west or eu or *\n`,
    )
    expect(await ok(['diff', '-f', 'site.yaml'])).toBe(
      '~ change default/eu.west/site/web\n    - hosts/b.example: true\n    ~ routes/root/proxy/upstream: "app" -> "api"\n1 to change\n',
    )
    await ok(['apply', '-f', 'site.yaml'])
    const [first, second] = edits()
    expect(second?.body.edits).toEqual([
      [
        SITE_PATH,
        [first?.id],
        [
          ['del', 'hosts/b.example'],
          ['set', 'routes/root/proxy/upstream', 'api'],
        ],
      ],
    ])
    expect(second?.body).toMatchObject({ n: 2, prev: [first?.id] })
  })

  test('--dry-run and diff change nothing, and over the socket need no key', async () => {
    for (const argv of [
      ['apply', '--dry-run', '-f', '-'],
      ['diff', '-f', '-'],
    ]) {
      const { code, out } = await meshctl(['--api', `unix:${node.socketPath}`, ...argv], { cwd, stdin: SITE })
      expect([code, out.includes('+ create')]).toEqual([0, true])
    }
    expect(edits()).toHaveLength(0)
  })

  test('folders are read in order, recursively, hidden and foreign files left out', async () => {
    await mkdir(join(cwd, 'sites/deep'), { recursive: true })
    await writeFile(join(cwd, 'sites/b.yml'), SITE.replace('name: web', 'name: two'))
    await writeFile(
      join(cwd, 'sites/deep/a.json'),
      JSON.stringify({
        apiVersion: 'nxmesh/v1',
        kind: 'Site',
        metadata: { name: 'three' },
        spec: { hosts: ['c.example'] },
      }),
    )
    await writeFile(join(cwd, 'sites/.hidden.yaml'), 'not: {yaml')
    await writeFile(join(cwd, 'sites/README.md'), '# no')
    await symlink(join(cwd, 'sites'), join(cwd, 'sites/loop'))
    await ok(['apply', '-f', 'sites'])
    expect(node.replica.state.resources().map(({ path }) => path)).toEqual([
      'default/*/site/three',
      'default/eu.west/site/two',
    ])
  })

  test('one bad document stops everything, with file, document and field', async () => {
    await writeFile(join(cwd, 'bad.yaml'), `${UPSTREAM}---\n${SITE.replace('path: /', 'path: relative')}`)
    const { code, err } = await owner(['apply', '-f', 'bad.yaml', '-f', 'site.yaml'])
    expect(code).toBe(ERROR_CODES.resource_invalid.exit)
    expect(err).toMatch(/^meshctl: bad\.yaml:2: spec\.routes\.root\.path /)
    expect(edits()).toHaveLength(0)
    expect((await owner(['apply', '-f', 'none.yaml'])).code).toBe(ERROR_CODES.input_invalid.exit)
    expect((await owner(['apply'])).code).toBe(ERROR_CODES.usage.exit)
  })

  test('many resources become few edits, in a chain', async () => {
    const text = Array.from({ length: 70 }, (_, index) => SITE.replace('name: web', `name: s${index}`)).join('---\n')
    await ok(['apply', '-f', '-'], { stdin: text })
    expect(edits().map(({ body }) => body.n)).toEqual([1, 2, 3])
    expect(node.replica.state.resources()).toHaveLength(70)
  })

  test('a resource larger than an edit arrives whole', async () => {
    const endpoints = Array.from(
      { length: 200 },
      (_, index) => `    10.0.${index >> 8}.${index & 255}:80: { weight: 2, maxFails: 2 }`,
    ).join('\n')
    const text = `apiVersion: nxmesh/v1\nkind: Upstream\nmetadata: { name: big }\nspec:\n  endpoints:\n${endpoints}\n`
    await ok(['apply', '-f', '-'], { stdin: text })
    expect(edits()).toHaveLength(2)
    const state = node.replica.state.resource('default/*/upstream/big')
    expect([state?.fields.size, state?.heads, state?.conflicts.size]).toEqual([400, [edits()[1]?.id], 0])
    expect((await owner(['apply', '-f', '-'], { stdin: text })).out).toBe('1 unchanged\n')
  })

  test('settles a conflict', async () => {
    const next = editor()
    const created = next([[SITE_PATH, [], [['set', '$', true]]]])
    const left = next([
      [
        SITE_PATH,
        [created.id],
        [
          ['set', 'hosts/x.example', true],
          ['set', 'maxBodySize', '1m'],
        ],
      ],
    ])
    const right = next([[SITE_PATH, [created.id], [['set', 'maxBodySize', '2m']]]])
    await node.replica.submit([created, left, right].map(toWire), 'sync')
    expect(node.replica.state.resource(SITE_PATH)?.conflicts.size).toBe(1)
    expect(await ok(['get', 'sites'])).toMatch(/1 in conflict/)
    const text = await ok(['get', 'site', 'web', '-o', 'yaml'])
    expect(await ok(['apply', '-f', '-'], { stdin: text })).toContain('settles a conflict')
    expect(node.replica.state.resource(SITE_PATH)?.conflicts.size).toBe(0)
  })

  test('works over the unix socket, which is the default when it is there', async () => {
    await ok(['apply', '-f', 'app.yaml', '--api', `unix:${node.socketPath}`])
    await mkdir(join(cwd, 'data/mesh'), { recursive: true })
    await symlink(node.socketPath, join(cwd, 'data/api.sock'))
    await writeKey('data/mesh/owner.key', KEYS.owner)
    const { code, out } = await meshctl(['get', 'upstreams'], { cwd })
    expect([code, out.includes('app')]).toEqual([0, true])
    expect(await meshctl(['apply', '-f', 'site.yaml'], { cwd })).toMatchObject({
      code: 0,
      err: expect.stringContaining('stored') as string,
    })
  })
})

describe('apply --wait', () => {
  const wait = (extra: string[] = []) => owner(['apply', '-f', 'site.yaml', '-f', 'app.yaml', '--wait', ...extra])
  const own = (overrides = {}) => {
    node.receipt = receiptOf({ target: targetOf(node.replica, ['eu.west']), ...overrides })
  }

  test('ends when every live node of the zone has applied it', async () => {
    own()
    const result = wait()
    await waitFor(() => edits().length === 1, { what: 'the edit' })
    own({
      outcome: 'held',
      phase: 'hold',
      applied: OLD_GENERATION,
      error: { code: 'not_applied', message: 'not settled' },
    })
    await new Promise((resolve) => setImmediate(resolve))
    own()
    const { code, err } = await result
    expect(code).toBe(0)
    expect(err).toMatch(/✓ edge-1: applied after \d/)
    // The node in zone us has nothing to do with it.
    expect(err).not.toContain('edge-2')
  })

  test('tells nginx’s own words when a node refuses, exit 8', async () => {
    const result = wait()
    await waitFor(() => edits().length === 1, { what: 'the edit' })
    const message = 'nginx: [emerg] unknown directive "bad\u001b[31m" in objects/x.conf:3'
    own({ outcome: 'refused', phase: 'test', applied: OLD_GENERATION, error: { code: 'nginx_refused', message } })
    const { code, err } = await result
    expect(code).toBe(ERROR_CODES.not_applied.exit)
    expect(err).toContain('✗ edge-1: not applied')
    expect(err).toContain('nginx: [emerg] unknown directive "bad\\u001b[31m" in objects/x.conf:3')
    expect(err).toContain('not applied by: edge-1')
  })

  test('an isolated resource is its author’s failure, and nobody else’s', async () => {
    await ok(['apply', '-f', 'site.yaml', '-f', 'app.yaml'])
    const isolated = (path: string) => [
      { path, why: 'refused' as const, reason: 'nginx: [emerg] bad', serves: 'last_good' as const },
    ]
    own({ isolated: isolated(SITE_PATH), problemCount: 1 })
    await writeFile(join(cwd, 'site.yaml'), SITE.replace('/\n', '/x\n'))
    const failing = wait()
    await waitFor(() => edits().length === 2, { what: 'the edit' })
    own({ isolated: isolated(SITE_PATH), problemCount: 1, error: { code: 'nginx_refused', message: 'some' } })
    expect((await failing).err).toMatch(/web: nginx: \[emerg\] bad \(its last good configuration serves\)/)
    own({
      isolated: isolated('default/eu.west/site/other'),
      problemCount: 1,
      error: { code: 'nginx_refused', message: 'some' },
      applied: OLD_GENERATION,
    })
    expect((await wait()).code).toBe(0)
  })

  test('what is not tried yet is waited for, whatever others broke', async () => {
    const others = { path: 'default/eu.west/site/other', reason: 'nginx: [emerg] bad' }
    const other = { ...others, why: 'refused', serves: 'left_out' } as const
    const untried = { path: SITE_PATH, why: 'untried', reason: 'in any words', serves: 'left_out' } as const
    const stands = { outcome: 'unchanged', applied: OLD_GENERATION } as const
    let said = ''
    const argv = ['apply', '-f', 'site.yaml', '-f', 'app.yaml', '--wait', '--timeout', '30s']
    const result = owner(argv, { onOutput: (text) => (said += text) })
    await waitFor(() => edits().length === 1, { what: 'the edit' })
    own({ ...stands, isolated: [other, untried], problemCount: 2 })
    await waitFor(() => said.includes('edge-1: not tried yet'), { what: () => `what it waits for: ${said}` })
    own({ ...stands, isolated: [other], problemCount: 1 })
    expect((await result).code).toBe(0)
  })

  test('what is broken in a workspace that the editor may not read is not the editor’s failure', async () => {
    await writeKey('ana.key', testKey(7))
    await ok(['grant', 'editor', testKey(7).publicKey, '-z', '*'])
    const elsewhere = { path: 'vault/eu.west/site/safe', reason: 'nginx: [emerg] bad', serves: 'left_out' as const }
    const argv = ['--api', node.url, '-k', 'ana.key', 'apply', '-f', 'site.yaml', '--wait', '--timeout', '30s']
    const result = meshctl(argv, { cwd })
    await waitFor(() => edits().length === 1, { what: 'the edit' })
    own({ outcome: 'unchanged', applied: OLD_GENERATION, isolated: [elsewhere], problemCount: 1 })
    const { code, err } = await result
    expect(code, err).toBe(0)
    expect(err).not.toContain('vault')
  })

  test('a problem comes with its way out, and what serves meanwhile is said as it is', async () => {
    const result = wait()
    await waitFor(() => edits().length === 1, { what: 'the edit' })
    const problem = { code: 'reference', message: 'there is no upstream app', hint: 'create it in eu' } as const
    own({ problems: [{ path: SITE_PATH, ...problem }], problemCount: 1 })
    const { code, err } = await result
    expect(code).toBe(ERROR_CODES.not_applied.exit)
    expect(err).toContain(`    ${SITE_PATH}: there is no upstream app (create it in eu)\n`)
    expect(err).toContain('without one the resource is left out')
  })

  test('a zone without nodes is named, with those that have some', async () => {
    const { code, err } = await owner(['apply', '-f', '-', '--wait'], { stdin: SITE.replace('eu.west', 'asia') })
    // A node that has not spoken yet has told of no zone.
    expect([code, err]).toEqual([0, expect.stringContaining('no live node is in asia; nodes are in: eu.west\n')])
  })

  test('a node that claims zones beyond its grant holds up nobody there', async () => {
    own()
    // Neither would ever take up what is expected of it.
    const stalled = receiptOf({ target: 'f'.repeat(64) })
    await speak(node, KEYS.other, { zones: ['us', 'eu.west'], receipt: stalled })
    await speak(node, KEYS.stranger, { zones: ['eu.west'], receipt: stalled })
    const result = wait(['--timeout', '5s'])
    await waitFor(() => edits().length === 1, { what: 'the edit' })
    own()
    const { code, err } = await result
    expect([code, err]).toEqual([0, expect.stringContaining('✓ edge-1: applied')])
    expect(err).not.toMatch(new RegExp(`edge-2|${KEYS.stranger.publicKey.slice(0, 12)}`))
    const out = await ok(['status'])
    expect(out).toMatch(/^edge-2 +us +Ready/m)
    expect(out).toContain('edge-2:\n    claims zones eu.west beyond its grant; they do not count\n')
    expect(out).toMatch(new RegExp(`^${KEYS.stranger.publicKey.slice(0, 12)} +- +Ready`, 'm'))
  })

  test('a node without a grant, or with one for another workspace, is not waited for in zone *', async () => {
    const everywhere = SITE.replace('zone: eu.west', "zone: '*'")
    await ok(['revoke', KEYS.other.publicKey])
    await ok(['grant', 'node', testKey(6).publicKey, '--zone', 'us', '-w', 'shop', '--name', 'edge-6'])
    const stalled = receiptOf({ target: 'f'.repeat(64) })
    for (const key of [KEYS.stranger, testKey(6)]) await speak(node, key, { zones: ['us'], receipt: stalled })
    own()
    const result = owner(['apply', '-f', '-', '--wait', '--timeout', '5s'], { stdin: everywhere })
    await waitFor(() => edits().length === 1, { what: 'the edit' })
    own()
    const { code, err } = await result
    expect([code, err]).toEqual([0, expect.stringContaining('✓ edge-1: applied')])
  })

  test('gives up after --timeout, and names who is behind', async () => {
    own({ applied: OLD_GENERATION, target: null })
    const { code, err } = await wait(['--timeout', '300ms'])
    expect(code).toBe(ERROR_CODES.not_applied.exit)
    expect(err).toContain('by: edge-1')
  })

  test('a node that is not live is named and not waited for; a live one elsewhere is', async () => {
    const everywhere = SITE.replace('zone: eu.west', "zone: '*'")
    own()
    await speak(node, KEYS.other, { zones: ['us'], receipt: null })
    // A first receipt is given a while.
    const result = owner(['apply', '-f', '-', '--wait'], { stdin: everywhere, clock: hasten(20) })
    await waitFor(() => edits().length === 1, { what: 'the edit' })
    own()
    expect(await result).toMatchObject({ code: 0, err: expect.stringContaining('edge-2: manages no nginx') as string })
    await speak(node, KEYS.other, { zones: ['us'], receipt: receiptOf({ target: targetOf(node.replica, ['us']) }) })
    expect((await owner(['apply', '-f', '-', '--wait'], { stdin: everywhere })).err).toContain('✓ edge-2: applied')
    node.status.lost(KEYS.other.publicKey)
    expect((await owner(['apply', '-f', '-', '--wait'], { stdin: everywhere })).err).toMatch(
      /edge-2: NotReady, last heard of \d+s ago; not waited for/,
    )
  })
})

describe('get, delete, edit', () => {
  beforeEach(async () => {
    await ok(['apply', '-f', 'site.yaml', '-f', 'app.yaml'])
  })

  test('tables, names of kinds, filters', async () => {
    expect(await ok(['get', 'all'])).toMatch(
      /^KIND +NAME +WORKSPACE +ZONE +AGE +ABOUT +NOTES\nsite +web +default +eu\.west +\d+s +a\.example b\.example\nupstream/,
    )
    for (const kind of ['site', 'sites', 'Site']) expect(await ok(['get', kind])).toMatch(/web/)
    expect(await ok(['get', 'sites', '-z', 'us'])).toBe('no resources\n')
    expect(await ok(['get', 'sites', '-o', 'wide'])).toMatch(/CREATED BY +HEADS +HASH/)
    expect(await owner(['get', 'site', 'none'])).toMatchObject({ code: ERROR_CODES.not_found.exit })
    expect((await owner(['get', 'sitez'])).err).toContain('Did you mean site?')
  })

  test('an empty or unknown workspace is told, with those that there are', async () => {
    await ok(['grant', 'editor', testKey(7).publicKey, '-z', 'eu', '-w', 'shop'])
    const known = 'default (2 resources), shop (none)'
    const nope = `this node knows no workspace nope; it knows ${known}`
    expect(await owner(['-w', 'nope', 'get', 'all'])).toEqual({ code: 0, out: 'no resources\n', err: `${nope}\n` })
    expect(await owner(['-w', 'nope', 'get', 'sites', '-o', 'json'])).toEqual({
      code: 0,
      out: '[]\n',
      err: `${nope}\n`,
    })
    expect((await owner(['-w', 'shop', 'get', 'sites'])).err).toBe(
      `the workspace shop has no resources; this node knows ${known}\n`,
    )
    expect(await owner(['-w', 'default', 'get', 'zonesettings'])).toEqual({ code: 0, out: 'no resources\n', err: '' })
    for (const argv of [
      ['get', 'site', 'web'],
      ['delete', 'site', 'web'],
    ]) {
      const { code, err } = await owner(['-w', 'nope', ...argv])
      expect([code, err]).toEqual([
        ERROR_CODES.not_found.exit,
        `meshctl: there is no site web in workspace nope: ${nope}\n  See what there is: meshctl get site\n`,
      ])
    }
  })

  test('yaml and json can be applied again unchanged', async () => {
    for (const argv of [
      ['get', 'all', '-o', 'yaml'],
      ['get', 'all', '-o', 'json'],
      ['get', 'site', 'web', '-o', 'yaml'],
      ['get', 'site', 'web', '-o', 'json'],
    ]) {
      const text = await ok(argv)
      expect(await ok(['apply', '-f', '-'], { stdin: text })).toMatch(/^[12] unchanged\n$/)
    }
    const written = SITE.replace('  zone:', '  workspace: default\n  zone:').replace(
      '    root:\n',
      '    root:\n      action: proxy\n',
    )
    expect(await ok(['get', 'site', 'web', '-o', 'yaml'])).toBe(written)
  })

  test('delete by name and by file', async () => {
    expect(await ok(['delete', 'site', 'web'])).toBe('- delete default/eu.west/site/web\n1 to delete\n')
    expect(await owner(['delete', 'site', 'web'])).toMatchObject({ code: ERROR_CODES.not_found.exit })
    await ok(['delete', '-f', 'app.yaml'])
    expect(node.replica.state.resources()).toEqual([])
    expect(await ok(['apply', '-f', 'site.yaml'])).toMatch(/1 to create/)
    expect(node.replica.state.resource(SITE_PATH)?.heads).toHaveLength(1)
  })

  test('a name in two zones has to be told apart', async () => {
    await ok(['apply', '-f', '-'], { stdin: SITE.replace('eu.west', 'us') })
    const { code, err } = await owner(['delete', 'site', 'web'])
    expect([code, err]).toEqual([ERROR_CODES.usage.exit, expect.stringContaining('Say which with -w and -z')])
    await ok(['delete', 'site', 'web', '-z', 'us'])
    expect(await ok(['get', 'sites'])).toContain('eu.west')
  })

  const replacing = (from: string, to: string) => async (file: string) => {
    await writeFile(file, (await readFile(file, 'utf8')).replace(from, to))
    return 0
  }

  test('edit writes only what was changed', async () => {
    await ok(['edit', 'site', 'web'], { editor: replacing('b.example', 'c.example') })
    expect(edits().at(-1)?.body.edits[0]?.[2]).toEqual([
      ['del', 'hosts/b.example'],
      ['set', 'hosts/c.example', true],
    ])
  })

  test('edit without a change makes no edit', async () => {
    expect(await owner(['edit', 'site', 'web'], { editor: async () => 0 })).toMatchObject({
      code: 0,
      err: 'nothing was changed\n',
    })
    expect(edits()).toHaveLength(1)
  })

  test('edit opens again with the error on top, until it is right', async () => {
    const seen: string[] = []
    const { code } = await owner(['edit', 'site', 'web'], {
      editor: async (file) => {
        const text = await readFile(file, 'utf8')
        seen.push(text)
        await writeFile(
          file,
          seen.length === 1 ? text.replace('path: /', 'path: nowhere') : text.replace('path: nowhere', 'path: /new'),
        )
        return 0
      },
    })
    expect(code).toBe(0)
    expect(seen[1]).toMatch(/^#! This cannot be accepted.*\n#! edit:1: spec\.routes\.root\.path .*\napiVersion/)
    expect(edits().at(-1)?.body.edits[0]?.[2]).toEqual([['set', 'routes/root/path', '/new']])
  })

  test('edit gives up when the error is saved unchanged, and keeps the text', async () => {
    let times = 0
    const { code, err } = await owner(['edit', 'site', 'web'], {
      editor: async (file) => {
        times += 1
        if (times === 1) await replacing('path: /', 'path: nowhere')(file)
        return 0
      },
    })
    expect([code, times]).toEqual([ERROR_CODES.resource_invalid.exit, 2])
    const [, draft] = /Your text is in (\S+)\./.exec(err) as RegExpExecArray
    expect(await readFile(draft as string, 'utf8')).toContain('nowhere')
    await rm(join(draft as string, '..'), { recursive: true })
  })

  test('edit cannot rename, and an editor that fails changes nothing', async () => {
    const renamed = await owner(['edit', 'site', 'web'], {
      editor: async (file) => {
        const text = await readFile(file, 'utf8')
        await writeFile(file, text.includes('#!') ? '' : text.replace('name: web', 'name: other'))
        return 0
      },
    })
    expect(renamed.code).toBe(0)
    expect((await owner(['edit', 'site', 'web'], { editor: async () => 3 })).code).toBe(ERROR_CODES.input_invalid.exit)
    expect(edits()).toHaveLength(1)
  })

  test('edit keeps a concurrent change of another field, and stops at one of the same field', async () => {
    const meanwhile = (text: string) => async () => void (await ok(['apply', '-f', '-'], { stdin: text }))
    const concurrently = (change: () => Promise<void>, from: string, to: string) => async (file: string) => {
      await change()
      return await replacing(from, to)(file)
    }
    await ok(['edit', 'site', 'web'], {
      editor: concurrently(meanwhile(SITE.replace('team: shop', 'team: web')), 'a.example', 'z.example'),
    })
    const state = node.replica.state.resource(SITE_PATH)
    expect([state?.fields.get('labels/team'), state?.fields.get('hosts/z.example'), state?.heads.length]).toEqual([
      'web',
      true,
      1,
    ])
    const now = SITE.replace('team: shop', 'team: web').replace('a.example', 'z.example')
    const { code, err } = await owner(['edit', 'site', 'web'], {
      editor: concurrently(meanwhile(now.replace('upstream: app', 'upstream: one')), 'upstream: app', 'upstream: two'),
    })
    expect([code, err]).toEqual([
      ERROR_CODES.conflict.exit,
      expect.stringContaining('changed routes/root/proxy/upstream while you were editing'),
    ])
  })
})

describe('the chain file', () => {
  const chainFile = () => join(cwd, 'owner.key.chain.json')

  test('is private, and continues over commands', async () => {
    await ok(['apply', '-f', 'site.yaml'])
    await ok(['apply', '-f', 'app.yaml'])
    expect((await stat(chainFile())).mode & 0o777).toBe(0o600)
    expect(edits().map(({ body }) => body.n)).toEqual([1, 2])
    expect(node.replica.state.history.chain('default', KEYS.owner.publicKey)?.forks).toBe(0)
  })

  test('lost or rewound: the node’s chain counts', async () => {
    await ok(['apply', '-f', 'site.yaml'])
    const old = await readFile(chainFile(), 'utf8')
    await ok(['apply', '-f', 'app.yaml'])
    await writeFile(chainFile(), old)
    await ok(['delete', 'site', 'web'])
    await rm(chainFile())
    await ok(['delete', 'upstream', 'app'])
    expect(edits().map(({ body }) => body.n)).toEqual([1, 2, 3, 4])
    expect(node.replica.state.history.chain('default', KEYS.owner.publicKey)?.forks).toBe(0)
  })

  test('a node that lags gets the ancestors, so that the key does not fork', async () => {
    await ok(['apply', '-f', 'site.yaml'])
    await ok(['apply', '-f', 'app.yaml'])
    const lagging = await startApiNode()
    const changed = await meshctl(['--api', lagging.url, '-k', 'owner.key', 'apply', '-f', '-'], {
      cwd,
      stdin: SITE.replace('a.example', 'c.example'),
    })
    expect(changed.code).toBe(0)
    expect(changed.err).toContain('lacked your latest edits')
    expect(changed.out).toMatch(/~ change/)
    const { history } = lagging.replica.state
    expect(history.chain('default', KEYS.owner.publicKey)).toMatchObject({ highestN: 3, forks: 0 })
    await lagging.stop()
  })

  test('an edit that no grant allows is neither sent nor remembered', async () => {
    await writeKey('viewer.key', testKey(7))
    await ok(['grant', 'editor', testKey(7).publicKey, '-z', 'us'])
    const refused = await meshctl(['--api', node.url, '-k', 'viewer.key', 'apply', '-f', 'site.yaml'], { cwd })
    expect(refused.code).toBe(ERROR_CODES.denied.exit)
    expect(refused.err).toMatch(
      /none of your grants allows this edit\n.*grant [0-9a-f]{12} \(editor, workspace default, zones us\): the grant covers zones us, not eu\.west/,
    )
    const allowed = await meshctl(['--api', node.url, '-k', 'viewer.key', 'apply', '-f', '-'], {
      cwd,
      stdin: SITE.replace('eu.west', 'us'),
    })
    expect(allowed.code).toBe(0)
    expect(edits().map(({ body }) => body.n)).toEqual([1])
  })

  test.each(['lose', 'lose_answer'] as const)(
    'an edit whose fate is unknown (%s) is sent again before the next',
    async (mood) => {
      const proxy = await startFlakyProxy(node.url, () => mood)
      const lost = await owner(['apply', '-f', 'site.yaml', '--api', proxy.url])
      expect([lost.code, lost.err]).toEqual([ERROR_CODES.unavailable.exit, expect.stringContaining('no node answers')])
      expect(edits()).toHaveLength(mood === 'lose' ? 0 : 1)
      await ok(['apply', '-f', 'site.yaml', '-f', 'app.yaml'])
      expect(edits().map(({ body }) => body.n)).toEqual([1, 2])
      expect(node.replica.state.resource(SITE_PATH)?.heads).toEqual([edits()[0]?.id])
      expect(node.replica.state.history.chain('default', KEYS.owner.publicKey)?.forks).toBe(0)
      await proxy.stop()
    },
  )

  test('an edit that no node was there for leaves no trace', async () => {
    await ok(['apply', '-f', 'app.yaml'])
    const before = await readFile(chainFile(), 'utf8')
    const proxy = await startFlakyProxy(`unix:${node.socketPath}`, () => 'pass', join(cwd, 'proxy.sock'))
    let requests = 0
    const clock = {
      ...systemClock,
      now: () => {
        // The edit is dated after everything was read and before it is sent.
        requests += 1
        void proxy.stop()
        return Date.now()
      },
    }
    const { code } = await owner(['apply', '-f', 'site.yaml', '--api', proxy.url], { clock })
    expect([code, requests]).toEqual([ERROR_CODES.unavailable.exit, 1])
    expect(await readFile(chainFile(), 'utf8')).toBe(before)
  })

  test('goes on when the node limits how fast it takes edits', async () => {
    const proxy = await startFlakyProxy(node.url, (post) => (post <= 3 ? 'limit' : 'pass'))
    const clock = { ...systemClock, sleep: async () => undefined }
    const { code, err } = await owner(['apply', '-f', 'site.yaml', '--api', proxy.url], { clock })
    expect([code, proxy.posts()]).toEqual([0, 4])
    expect(err.match(/going on more slowly/g)).toHaveLength(1)
    await proxy.stop()
  })

  test('a damaged file is told, and nothing is signed', async () => {
    await writeFile(chainFile(), '{"version":1,"chains":{"x/y":[{"bytes":"{}","sigs":{}}]}}')
    const { code, err } = await owner(['apply', '-f', 'site.yaml'])
    expect([code, err]).toEqual([ERROR_CODES.store_corrupt.exit, expect.stringContaining('Move it away')])
    expect(edits()).toHaveLength(0)
  })

  test('two commands with one key do not sign at once', async () => {
    const results = await Promise.all(
      Array.from({ length: 8 }, (_, index) =>
        owner(['apply', '-f', '-'], { stdin: SITE.replace('name: web', `name: s${index}`) }),
      ),
    )
    expect(results.map(({ code, err }) => (code === 0 ? '' : err))).toEqual(Array.from({ length: 8 }, () => ''))
    expect(node.replica.state.history.chain('default', KEYS.owner.publicKey)).toMatchObject({ highestN: 8, forks: 0 })
  })

  test('a key from the environment beats the file, and has its chain in the state directory', async () => {
    const env = { PRIVATE_KEY: Buffer.from(KEYS.owner.seed).toString('hex'), XDG_STATE_HOME: join(cwd, 'state') }
    expect(
      (await meshctl(['--api', node.url, '-k', 'missing.key', 'apply', '-f', 'site.yaml'], { cwd, env })).code,
    ).toBe(0)
    expect((await stat(join(cwd, 'state/nxmesh', `${KEYS.owner.publicKey}.chain.json`))).size).toBeGreaterThan(10)
  })
})

describe('status, peers, log, watch', () => {
  test('status shows every node, nginx’s own words and a summary', async () => {
    node.receipt = receiptOf({ target: targetOf(node.replica, ['eu.west']) })
    await speak(node, KEYS.other, {
      receipt: receiptOf({
        target: targetOf(node.replica, ['us']),
        outcome: 'refused',
        phase: 'test',
        applied: OLD_GENERATION,
        error: { code: 'nginx_refused', message: 'nginx: [emerg] host not found in upstream "x\u001b]0;pwned\u0007"' },
      }),
      health: { status: 'Degraded', msg: 'm', reasons: ['the last apply failed; see meshctl status'] },
    })
    const out = await ok(['status'])
    const lines = out.split('\n')
    expect(lines[0]).toMatch(/^NODE +ZONES +STATE +HEALTH +DESIRED +APPLIED +HEARD +PROGRESS$/)
    expect(lines[1]).toMatch(/^edge-1 \(here\) +eu\.west +Ready +Running +aaaaaaaa +aaaaaaaa +0s ago +applied$/)
    expect(lines[2]).toMatch(/^edge-2 +us +Ready +Degraded +aaaaaaaa +bbbbbbbb +0s ago +failed$/)
    expect(out).toContain(
      'edge-2:\n    nginx: [emerg] host not found in upstream "x\\u001b]0;pwned\\u0007"\n    the last apply failed\n',
    )
    expect(lines.at(-2)).toBe('2 nodes: 2 ready, 1 applied, 1 failed')
    expect(JSON.parse(await ok(['status', '-o', 'json']))).toMatchObject([{ receipt: { applied: GENERATION } }, {}])
  })

  test('status and apply --wait take what is beyond somebody’s grant for no failure of a node', async () => {
    const over = (index: number) => ({
      path: `default/eu/site/s${index}`,
      code: 'quota',
      message: 'over',
      hint: 'less',
    })
    const beyond = (shown: number, problemCount: number, first: object = {}) =>
      receiptOf({
        target: targetOf(node.replica, ['eu.west']),
        problems: Array.from({ length: shown }, (_, index) => ({
          ...over(index),
          ...(index === 0 ? first : {}),
        })) as [],
        problemCount,
      })
    node.receipt = beyond(2, 40)
    const out = await ok(['status'])
    expect(out).toMatch(/^edge-1 .* applied, 40 left out$/m)
    expect(out).toContain('edge-1:\n    default/eu/site/s0: over (less)\n')
    expect(out).toMatch(/: 1 ready, 1 applied/)
    node.receipt = beyond(2, 2, { code: 'reference' })
    expect(await ok(['status'])).toMatch(/^edge-1 .* failed$/m)
    // To who waits for it, it is one.
    const receipt = { ...beyond(1, 1), withheld: 0 }
    const at = { receipt, target: receipt.target } as unknown as NodeReceipt
    expect(progressOf(at, new Set(['default/eu/site/s0'])).state).toBe('failed')
    expect(progressOf(at, new Set(['default/eu/site/other'])).state).toBe('applied')
  })

  test('what the node will go on with by itself is waited for, though an attempt failed', () => {
    const path = 'default/eu/site/a'
    const wait = (overrides: Partial<Receipt>) => {
      const receipt = { ...receiptOf({ applied: OLD_GENERATION, ...overrides }), withheld: 0 }
      return progressOf({ receipt, target: receipt.target } as unknown as NodeReceipt, new Set([path])).state
    }
    const error = { code: 'nginx_failed', message: 'generation x did not come to serve: …' } as const
    const untried = { path, why: 'untried', reason: 'not tried yet', serves: 'last_good' } as const
    expect(wait({ outcome: 'rolled_back', error, isolated: [untried], problemCount: 1 })).toBe('pending')
    expect(wait({ outcome: 'rolled_back', error })).toBe('failed')
    expect(wait({ outcome: 'failed', phase: 'gate', error: { ...error, code: 'unavailable' } })).toBe('pending')
  })

  test('colours only on a terminal, and not when they are unwanted', async () => {
    const coloured = async (argv: string[], options: Partial<CliOptions>) =>
      (await owner([...argv, 'status'], options)).out.includes('\u001b[')
    expect(await coloured([], { tty: true })).toBe(true)
    expect(await coloured([], { tty: false })).toBe(false)
    expect(await coloured(['--no-color'], { tty: true })).toBe(false)
    expect(await coloured([], { tty: true, env: { NO_COLOR: '1' } })).toBe(false)
  })

  test('peers and log', async () => {
    await ok(['apply', '-f', 'site.yaml', '--note', 'why\u001b[2J'])
    expect(await ok(['peers'])).toMatch(/edge-1 \(here\) .*\nedge-2 .*Unknown +no +never/)
    const log = await ok(['log'])
    expect(log).toMatch(/^CLAIMED TIME .*\n.* ana +1 +default\/eu\.west\/site\/web +accepted +why\\u001b\[2J\n/)
    expect(log).toContain('grant node to edge-2')
    expect(log).toContain('genesis')
    expect((await ok(['log', '--limit', '1'])).split('\n')).toHaveLength(3)
    expect((await owner(['log', '--limit', 'x'])).code).toBe(ERROR_CODES.usage.exit)
  })

  test('watch prints events until it is interrupted', async () => {
    const interruption = new AbortController()
    let text = ''
    const watching = owner(['watch'], { signal: interruption.signal, onOutput: (part) => (text += part) })
    await waitFor(() => text.includes('hello'), { what: 'the first event' })
    await ok(['apply', '-f', 'site.yaml'])
    await waitFor(() => /edit +[0-9a-f]{12} edit by .*web/.test(text) && text.includes(`resource ${SITE_PATH}`), {
      what: () => `events in ${text}`,
    })
    interruption.abort()
    expect((await watching).code).toBe(0)
  })

  test('watch shows errors, and once what is said again and again', async () => {
    const interruption = new AbortController()
    let text = ''
    const watching = owner(['watch', '--mesh', MESH_ID], {
      signal: interruption.signal,
      onOutput: (part) => (text += part),
    })
    await waitFor(() => text.includes('hello'), { what: 'the first event' })
    const reason = 'nginx: [emerg] bad\nmore'
    const isolated = [{ path: SITE_PATH, why: 'refused', reason, serves: 'left_out' }] as const
    node.receipt = receiptOf({ isolated })
    node.server.changed()
    for (const at of [1, 2]) {
      node.receipt = receiptOf({ at, outcome: 'failed', error: { code: 'nginx_failed', message: 'it broke' } })
      node.server.changed()
    }
    for (const at of [3, 4]) await speak(node, KEYS.other, { zones: ['us'], receipt: { ...node.receipt, at } })
    await ok(['grant', 'editor', testKey(7).publicKey, '-z', 'us'])
    await waitFor(() => /edit +[0-9a-f]{12} grant/.test(text), { what: () => `events in ${text}` })
    interruption.abort()
    await watching
    const lines = text.trimEnd().split('\n')
    expect(lines.map((line) => line.slice('00:00:00 '.length))).toEqual([
      expect.stringMatching(/^hello /),
      'health   Running: all is well',
      `receipt  applied commit, applied aaaaaaaa: ${SITE_PATH}: nginx: [emerg] bad`,
      'receipt  failed commit, applied aaaaaaaa: it broke',
      expect.stringMatching(/^peer +[0-9a-f]{12} us \w+: it broke$/),
      expect.stringMatching(/^edit +[0-9a-f]{12} grant by /),
    ])
  })
})

describe('key, init, push', () => {
  test('key new and show', async () => {
    const made = await meshctl(['key', 'new', '-k', 'node.key'], { cwd })
    expect(made.code).toBe(0)
    expect(made.out).toMatch(/^[0-9a-f]{64}\n$/)
    expect((await meshctl(['key', 'show', '-k', 'node.key'], { cwd })).out).toBe(made.out)
    expect((await meshctl(['key', 'new', '-k', 'node.key'], { cwd })).code).toBe(ERROR_CODES.conflict.exit)
    expect(JSON.parse((await meshctl(['key', 'show', '-k', 'node.key', '-o', 'json'], { cwd })).out)).toMatchObject({
      publicKey: made.out.trim(),
    })
    await chmod(join(cwd, 'node.key'), 0o644)
    expect((await meshctl(['key', 'show', '-k', 'node.key'], { cwd })).code).toBe(ERROR_CODES.key_invalid.exit)
    expect((await meshctl(['key', 'what'], { cwd })).code).toBe(ERROR_CODES.usage.exit)
  })

  test('init makes a mesh that a fresh node takes, and whose owner can work at once', async () => {
    const fresh = await startApiNode({ founded: false })
    const made = await meshctl(
      ['init', '--dir', 'm', '--name', 'prod', '--node', `${KEYS.node.publicKey}=edge-1`, '-z', 'eu.west,cdn'],
      { cwd },
    )
    expect(made.code).toBe(0)
    const meshId = made.out.trim()
    expect(meshId).toMatch(/^[0-9a-f]{64}$/)
    for (const file of ['owner.key', 'recovery.key', 'next-recovery.key'])
      expect((await stat(join(cwd, 'm', file))).mode & 0o777).toBe(0o600)
    expect(made.err).toContain(`mesh.id: ${meshId}`)
    const api = ['--api', fresh.url, '-k', 'm/owner.key']
    const overTcp = await meshctl([...api, 'push', 'm/genesis.json'], { cwd })
    expect(overTcp).toMatchObject({
      code: ERROR_CODES.unavailable.exit,
      err: expect.stringMatching(
        /has no mesh yet, so it knows no key\n.*--api unix:DATA_DIR\/api\.sock push genesis\.json/,
      ),
    })
    const pushed = await meshctl(['--api', `unix:${fresh.socketPath}`, 'push', 'm/genesis.json'], { cwd })
    expect([pushed.code, pushed.err]).toEqual([0, '1 known, 2 stored\n'])
    expect(fresh.replica.state.meshId).toBe(meshId)
    expect(fresh.replica.state.policy.activeGrants(KEYS.node.publicKey)[0]?.body.zones).toEqual(['cdn', 'eu.west'])
    expect((await meshctl([...api, 'apply', '-f', 'site.yaml'], { cwd })).code).toBe(0)
    expect(
      (await meshctl([...api, 'grant', 'node', KEYS.other.publicKey, '-z', 'us', '--name', 'edge-2'], { cwd })).code,
    ).toBe(0)
    const owner = keyPairFromSeed(Buffer.from(await readFile(join(cwd, 'm/owner.key'), 'utf8'), 'hex'))
    expect(fresh.replica.state.history.chain('*', owner.publicKey)).toMatchObject({ highestN: 2, forks: 0 })
    await fresh.stop()
  })

  test('init does not touch what is there', async () => {
    await mkdir(join(cwd, 'm'))
    expect(await meshctl(['init', '--dir', 'm'], { cwd })).toMatchObject({ code: ERROR_CODES.conflict.exit })
    expect((await meshctl(['init', '--name', 'No Name'], { cwd })).code).toBe(ERROR_CODES.usage.exit)
    expect((await meshctl(['init', '--node', 'xyz'], { cwd })).code).toBe(ERROR_CODES.usage.exit)
  })

  test('push tells what is wrong with a file', async () => {
    await writeFile(join(cwd, 'x.json'), '{"envelopes":[{"bytes":"{}","sigs":{}}]}')
    expect((await owner(['push', 'x.json'])).code).toBe(ERROR_CODES.envelope_invalid.exit)
    await writeFile(join(cwd, 'y.json'), '[]')
    expect((await owner(['push', 'y.json'])).code).toBe(ERROR_CODES.input_invalid.exit)
  })
})

describe('grant and revoke', () => {
  const ana = testKey(7)
  const bob = testKey(8)
  beforeEach(async () => {
    await writeKey('ana.key', ana)
    await writeKey('bob.key', bob)
    await writeKey('root.key', KEYS.root)
  })
  const as = (key: string, argv: readonly string[], options: Partial<CliOptions> = {}) =>
    meshctl(['--api', node.url, '-k', key, ...argv], { cwd, ...options })

  test('a grant takes effect and is scoped', async () => {
    const granted = await owner([
      'grant',
      'editor',
      ana.publicKey,
      '--zone',
      'eu',
      '--kinds',
      'sites',
      '--name',
      'ana',
      '--note',
      'new hire',
    ])
    expect(granted.code).toBe(0)
    expect(granted.err).toContain('granted: ana')
    expect(node.replica.state.policy.activeGrants(ana.publicKey)[0]?.body).toMatchObject({
      ws: 'default',
      role: 'editor',
      zones: ['eu'],
      kinds: ['site'],
      name: 'ana',
    })
    expect((await as('ana.key', ['apply', '-f', 'site.yaml'])).code).toBe(0)
    expect((await as('ana.key', ['apply', '-f', 'app.yaml'])).err).toContain(
      'the grant covers kinds site, not upstream',
    )
  })

  test('nobody grants what they do not stand above', async () => {
    await ok(['grant', 'admin', ana.publicKey, '--zone', 'eu'])
    const peer = await as('ana.key', ['grant', 'admin', bob.publicKey, '--zone', 'eu'])
    expect([peer.code, peer.err]).toEqual([
      ERROR_CODES.denied.exit,
      expect.stringContaining('granting and revoking take a strictly higher rank'),
    ])
    expect((await as('ana.key', ['grant', 'editor', bob.publicKey, '--zone', 'us'])).err).toContain(
      'zone us is outside the exercised grant',
    )
    expect((await as('ana.key', ['grant', 'editor', bob.publicKey, '--zone', 'eu.west'])).code).toBe(0)
    expect((await as('bob.key', ['apply', '-f', 'site.yaml'])).code).toBe(0)
    const stranger = await as('root.key', ['apply', '-f', 'app.yaml'])
    expect(stranger.err).toContain('has no grant in mesh test')
    expect((await as('root.key', ['grant', 'owner', bob.publicKey])).code).toBe(0)
  })

  test('revoke keeps what was done; --dry-run changes nothing', async () => {
    await ok(['grant', 'editor', ana.publicKey, '--zone', 'eu'])
    await as('ana.key', ['apply', '-f', 'site.yaml'])
    const dry = await owner(['revoke', ana.publicKey, '--dry-run'])
    expect([dry.code, dry.err]).toEqual([0, 'no edit becomes void\ndry run: nothing was changed\n'])
    expect((await as('ana.key', ['apply', '-f', 'app.yaml'])).code).toBe(0)
    await ok(['revoke', ana.publicKey, '--note', 'left'])
    expect(node.replica.state.policy.activeGrants(ana.publicKey)).toEqual([])
    expect(node.replica.state.resource(SITE_PATH)?.exists).toBe(true)
    const after = await as('ana.key', ['delete', 'site', 'web'])
    expect([after.code, after.err]).toEqual([ERROR_CODES.denied.exit, expect.stringContaining('in force any more')])
    expect((await owner(['revoke', ana.publicKey])).code).toBe(ERROR_CODES.not_found.exit)
  })

  test('revoke --since voids what came in from an edit on, and all that rests on it', async () => {
    const grantId = (await ok(['grant', 'admin', ana.publicKey, '--zone', 'eu'])).trim()
    await as('ana.key', ['apply', '-f', 'site.yaml'])
    await as('ana.key', ['grant', 'editor', bob.publicKey, '--zone', 'eu'])
    const stolen = await as('ana.key', ['apply', '-f', 'app.yaml'])
    const [, id] = /edit ([0-9a-f]{12})/.exec(stolen.err) as RegExpExecArray
    await as('bob.key', ['delete', 'site', 'web'])
    expect(node.replica.state.resource(SITE_PATH)?.exists).toBe(false)

    const only = await owner(['revoke', ana.publicKey, '--since', id as string, '--dry-run'])
    expect(only.err.match(/\n\d{4}/g)).toHaveLength(1)
    const { body } = node.replica.state.history.get(
      node.replica.state.history.grantsOf(bob.publicKey)[0] as string,
    ) as Envelope
    expect(body.type).toBe('grant')
    const everything = await owner(['revoke', grantId, '--since', '2020-01-01T00:00Z'])
    expect(everything.code).toBe(0)
    expect(everything.err).toContain('4 edits became void')
    expect(node.replica.state.resources()).toEqual([])
    expect(await ok(['log'])).toContain('void: the exercised grant')
  })

  test('revoke needs a higher rank', async () => {
    await ok(['grant', 'admin', ana.publicKey, '--zone', 'eu'])
    await ok(['grant', 'admin', bob.publicKey, '--zone', 'eu'])
    const { code, err } = await as('ana.key', ['revoke', bob.publicKey])
    expect([code, err]).toEqual([ERROR_CODES.denied.exit, expect.stringContaining('strictly higher rank')])
  })

  test.each([
    [['grant', 'boss', '0'.repeat(64)], /there is no role boss/],
    [['grant', 'editer', '0'.repeat(64)], /Did you mean editor\?/],
    [['grant', 'editor', 'ABC', '-z', 'eu'], /64 lower-case hex digits/],
    [['grant', 'editor', '0'.repeat(64)], /--zone is missing/],
    [['grant', 'editor', '0'.repeat(64), '-z', 'E U'], /is not a zone/],
    [['grant', 'editor', '0'.repeat(64), '-z', 'eu', '--kinds', 'pods'], /there is no kind pods/],
    [['revoke', 'a b'], /64 lower-case hex digits/],
  ])('meshctl %s is wrong usage', async (argv, message) => {
    const { code, err } = await owner(argv)
    expect(code).toBe(ERROR_CODES.usage.exit)
    expect(err).toMatch(message)
  })
})

describe('the command line', () => {
  test('help for every verb, with an example that parses', async () => {
    const general = await meshctl(['help'], { cwd })
    expect(general.code).toBe(0)
    for (const { name, examples } of VERBS) {
      expect(general.out).toContain(`  ${name} `)
      const byVerb = await meshctl(['help', name], { cwd })
      const byOption = await meshctl([name, '--help'], { cwd })
      expect(byVerb).toEqual(byOption)
      expect(byVerb.code).toBe(0)
      expect(examples.length).toBeGreaterThan(0)
      for (const example of examples) expect(byVerb.out).toContain(example)
    }
    expect(await meshctl([], { cwd })).toMatchObject({ code: ERROR_CODES.usage.exit, out: '' })
    expect((await meshctl(['--version'], { cwd })).out).toMatch(/^\d+\.\d+\.\d+/)
  })

  test.each([
    [['aply'], /there is no verb aply\n.*Did you mean apply\?/],
    [
      ['apply', '--filname', 'x'],
      /apply has no option --filname\n  Did you mean --filename\? See: meshctl help apply\n/,
    ],
    [
      ['status', '--wiat'],
      /status has no option --wiat\n  Did you mean --wait of apply, edit, delete\? See: meshctl help status\n/,
    ],
    [['get', 'all', '-w'], /meshctl: -w, --workspace needs a value\n  See: meshctl help get\n/],
    [['status', '--no-color=yes'], /does not take an argument\n  See: meshctl help status\n/],
    [['status', '-x'], /status has no option -x\n  See: meshctl help status\n/],
    [['log', '--limit'], /meshctl: --limit needs a value\n  See: meshctl help log\n/],
    [['log', '--limit', '--author', 'x'], /meshctl: --limit needs a value\n  See: meshctl help log\n/],
    [
      ['--wiat'],
      /there is no option --wiat before a verb\n  Did you mean --wait of apply, edit, delete\? See: meshctl help\n/,
    ],
    [['get', 'sites', '-o', 'xml'], /-o takes table, wide, yaml, json, not xml/],
    [['get'], /get takes KIND/],
    [['status', 'x'], /expected no arguments/],
    [['--api', 'ftp://x', 'status'], /is not the address of a node/],
    [['apply', '-f', 'site.yaml', '--wait', '--timeout', 'soon'], /--timeout takes a time/],
  ])('meshctl %s is wrong usage', async (argv, message) => {
    const { code, err } = await meshctl(['--api', node.url, '-k', join(cwd, 'owner.key'), ...argv], { cwd })
    expect(code).toBe(ERROR_CODES.usage.exit)
    expect(err).toMatch(message)
  })

  test('no node: says what was tried and what to do', async () => {
    await mkdir(join(cwd, 'data'))
    await writeFile(join(cwd, 'data/api.sock'), '')
    const dead = await meshctl(['status', '--api', 'http://127.0.0.1:1'], { cwd })
    expect(dead.code).toBe(ERROR_CODES.unavailable.exit)
    expect(dead.err).toMatch(
      /no node answers; tried http:\/\/127\.0\.0\.1:1 \(ECONNREFUSED\)\n.*Is mesh-node running\? See: systemctl status mesh-node/,
    )
    const socket = await meshctl(['status', '--api', 'unix:nowhere.sock'], { cwd })
    expect(socket.err).toMatch(/tried unix:.*nowhere\.sock \(ENOENT\)/)
  })

  test('no key: says where one was looked for', async () => {
    const { code, err } = await meshctl(['--api', `unix:${node.socketPath}`, 'apply', '-f', 'site.yaml'], { cwd })
    expect([code, err]).toEqual([
      ERROR_CODES.key_invalid.exit,
      expect.stringContaining('Give one with -k FILE, NXMESH_KEY or PRIVATE_KEY'),
    ])
  })

  test('every exit code is documented, and every verb', async () => {
    const text = await readFile(new URL('../../docs/cli.md', import.meta.url), 'utf8')
    for (const [code, { exit }] of Object.entries(ERROR_CODES))
      expect(text).toMatch(new RegExp(`^\\| ${exit} +\\|.*\`${code}\``, 'm'))
    for (const { name } of VERBS) expect(text).toMatch(new RegExp(`^### ${name}$`, 'm'))
    expect(text).not.toContain(MESH_ID)
  })
})
