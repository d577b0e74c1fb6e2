/**
 * The keys above all others, on real daemons: founding with three roots of which two must sign, an owner's key lost, an
 * operator's key stolen, the root keys themselves stolen. What docs/runbook.md tells to do is what is done here, in order.
 */

import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { stringify } from 'yaml'
import { meshctl, type CliResult } from '../support/cli.ts'
import { freePorts, Member } from '../support/fleet.ts'
import { http } from '../support/http.ts'
import { eventually, siteYaml } from '../support/use-fleet.ts'

const NAMES = ['edge-a', 'edge-b'] as const
let directory: string
const members = new Map<string, Member>()
const member = (name: string): Member => members.get(name) as Member
const socket = (name: string): string => `unix:${join(member(name).dataDirectory, 'api.sock')}`

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'nxmesh-roots-'))
  const ports = await freePorts(NAMES.length * 3)
  for (const [index, name] of NAMES.entries()) {
    await mkdir(join(directory, name))
    const own = ports.slice(index * 3, index * 3 + 3) as [number, number, number]
    members.set(name, new Member(name, join(directory, name), own))
  }
})

beforeEach(({ onTestFailed }) => {
  onTestFailed(async () => {
    // vitest shows it beside the failure
    console.error((await Promise.all([...members.values()].map((one) => one.logs()))).join('\n'))
  })
})

afterAll(async () => {
  await Promise.all([...members.values()].map((one) => one.stop('SIGKILL')))
  await rm(directory, { recursive: true, force: true, maxRetries: 5 })
})

/** In the operator's folder, over the socket of a host. */
async function run(argv: readonly string[], { at = 'edge-a', stdin = '' } = {}): Promise<CliResult> {
  return await meshctl(argv, { cwd: directory, env: { NXMESH_API: socket(at) }, stdin })
}

async function tell(argv: readonly string[], options: { at?: string; stdin?: string } = {}): Promise<string> {
  const { code, out, err } = await run(argv, options)
  expect(code, `meshctl ${argv.join(' ')}: ${err}`).toBe(0)
  return out.trim()
}

async function stateAt(name: string): Promise<{ stateHash: string; envelopes: number }> {
  return (await http(socket(name), '/v1/node')).json() as { stateHash: string; envelopes: number }
}

async function agreed(): Promise<void> {
  await eventually(async () => {
    const [a, b] = await Promise.all(NAMES.map(stateAt))
    return a!.stateHash === b!.stateHash && a!.envelopes === b!.envelopes
  }, 'both nodes hold the same').toBe(true)
}

const apply = (key: string, name: string, at = 'edge-a'): Promise<CliResult> =>
  run(['apply', '-f', '-', '-k', key], { at, stdin: siteYaml({ name }) })
const keyShow = (key: string, ...more: string[]): Promise<string> => tell(['key', 'show', '-k', key, ...more])
const sites = async (at: string): Promise<string> => await tell(['get', 'sites'], { at })

test('a mesh of three roots is founded, and its owner works at once', async () => {
  for (const name of NAMES) await tell(['key', 'new', '-k', member(name).keyFile])
  const nodes = await Promise.all(
    NAMES.map(async (name) => ['--node', `${await keyShow(member(name).keyFile, '-o', 'wide')}=${name}`]),
  )
  const meshId = await tell(['init', '--name', 'prod', '--roots', '3', '--threshold', '2', ...nodes.flat()])
  for (const [index, name] of NAMES.entries()) {
    const { meshPort, apiPort, dataDirectory, configFile, keyFile } = member(name)
    const peers = NAMES.slice(0, index).map(async (peer) => ({
      public_key: await keyShow(member(peer).keyFile),
      endpoints: [`127.0.0.1:${member(peer).meshPort}`],
    }))
    const config = {
      private_key_path: keyFile,
      data_dir: dataDirectory,
      bind_address: '127.0.0.1',
      bind_port: meshPort,
      http_bind_port: apiPort,
      mesh: { id: meshId, ...(index === 0 ? { genesis_file: join(directory, 'mesh', 'genesis.json') } : {}) },
      nodes: await Promise.all(peers),
      nginx: { mode: 'off' },
    }
    await writeFile(configFile, stringify(config))
    // Its API answers over TCP to holders of tokens only.
    member(name).spawn()
    await eventually(async () => (await http(member(name).api, '/health').catch(() => ({ status: 0 }))).status).toBe(
      200,
    )
  }
  expect((await apply('mesh/owner.key', 'before')).code).toBe(0)
  await agreed()
  expect(await tell(['root', 'show'], { at: 'edge-b' })).toContain('(the first): 2 of 3 must sign')
})

test('the owner’s key is lost: two roots make another owner, and take the old key away', async () => {
  await tell(['key', 'new', '-k', 'new-owner.key'])
  const subject = await keyShow('new-owner.key', '-o', 'wide')
  const granted = await tell(['grant', 'owner', subject, '--name', 'ana', '-k', 'mesh/recovery-1.key'])
  expect((await apply('new-owner.key', 'too-early')).code, 'one root alone does nothing').toBe(4)
  await agreed()
  // At another node: what lacks signatures spreads like everything else.
  await tell(['cosign', granted, '-k', 'mesh/recovery-2.key'], { at: 'edge-b' })
  await eventually(async () => (await apply('new-owner.key', 'after')).code).toBe(0)

  const old = await keyShow('mesh/owner.key')
  const revoked = await tell(['revoke', old, '--note', 'lost', '-k', 'mesh/recovery-1.key'])
  // Offline: the act goes into a file, which is signed where the key is.
  await tell(['cosign', revoked, '--save', 'act.json'])
  const signed = await meshctl(['cosign', 'act.json', '-k', 'mesh/recovery-3.key'], { cwd: directory, env: {} })
  expect([signed.code, signed.err]).toEqual([0, expect.stringContaining(`takes away key/${old}`)])
  await tell(['push', 'act.json'])
  await eventually(async () => (await apply('mesh/owner.key', 'never')).code).toBe(4)
  expect(await sites('edge-a'), 'what the old key did stays').toContain('before')
})

test('an operator’s key is stolen: what came after the theft is void, and an honest edit that rested on it is adopted', async () => {
  for (const name of ['carl', 'dora']) await tell(['key', 'new', '-k', `${name}.key`])
  await tell(['grant', 'admin', await keyShow('carl.key'), '-z', '*', '--name', 'carl', '-k', 'new-owner.key'])
  expect((await apply('carl.key', 'honest')).code).toBe(0)
  const theft = await tell([
    'grant',
    'editor',
    await keyShow('dora.key'),
    '-z',
    '*',
    '--name',
    'dora',
    '-k',
    'carl.key',
  ])
  expect((await apply('dora.key', 'useful')).code).toBe(0)
  expect((await apply('carl.key', 'evil')).code).toBe(0)

  expect(await tell(['log', '--author', 'carl', '--json'])).toContain(theft)
  const dry = await run(['revoke', 'carl', '--since', theft, '--dry-run', '-k', 'new-owner.key'])
  expect(dry.err).toMatch(/becomes void:\n(.*\n){4}dry run: nothing was changed\n$/)
  const carl = await keyShow('carl.key')
  await tell(['revoke', carl, '--since', theft, '--note', 'stolen', '-k', 'new-owner.key'])
  await agreed()
  const left = await sites('edge-b')
  expect([left.includes('honest'), left.includes('useful'), left.includes('evil')]).toEqual([true, false, false])
  const [orphan] = JSON.parse(await tell(['orphans', '-o', 'json'])) as { id: string; resources: string[] }[]
  expect(orphan?.resources).toEqual(['default/*/site/useful'])
  await tell(['adopt', orphan!.id, '--dry-run', '-k', 'new-owner.key'])
  expect(await sites('edge-b')).not.toContain('useful')
  await tell(['adopt', orphan!.id, '-k', 'new-owner.key'])
  await agreed()
  expect(await sites('edge-b')).toContain('useful')
  expect(await tell(['orphans'])).toContain('adopted by ana in ')
})

test('two root keys are stolen: the next ones replace them, and void what the thieves did', async () => {
  await tell(['key', 'new', '-k', 'thief.key'])
  const owner = await keyShow('new-owner.key')
  const theft = await tell([
    'grant',
    'owner',
    await keyShow('thief.key'),
    '--name',
    'thief',
    '-k',
    'mesh/recovery-1.key',
  ])
  await tell(['cosign', theft, '-k', 'mesh/recovery-2.key'])
  const coup = await tell(['revoke', owner, '-k', 'mesh/recovery-1.key'])
  await tell(['cosign', coup, '-k', 'mesh/recovery-2.key'])
  expect((await apply('thief.key', 'evil')).code).toBe(0)
  expect((await apply('new-owner.key', 'shut-out')).code).toBe(4)
  // The thieves cannot choose who comes next.
  for (const n of [1, 2, 3]) await tell(['key', 'new', '-k', `third-recovery-${n}.key`])
  const keys = async (name: string): Promise<string> =>
    (await Promise.all([1, 2, 3].map((n) => keyShow(`${name}-${n}.key`)))).join(',')
  const third = await keys('third-recovery')
  const rotate = async (key: string, roots: string): Promise<CliResult> =>
    await run([
      'root',
      'rotate',
      '--roots',
      roots,
      '--next-keys',
      third,
      '--since',
      theft,
      '--note',
      'stolen',
      '-k',
      key,
    ])
  const next = await keys('mesh/next-recovery')
  const argv = ['root', 'rotate', '--roots', next, '--next-keys', third, '--since', theft, '--dry-run']
  const dry = await run([...argv, '-k', 'mesh/next-recovery-1.key'])
  expect([dry.code, dry.err]).toEqual([0, expect.stringContaining('nothing was changed')])
  expect((await rotate('mesh/recovery-1.key', await keys('mesh/recovery'))).code).toBe(4)

  const rotated = await rotate('mesh/next-recovery-1.key', next)
  expect([rotated.code, rotated.err]).toEqual([0, expect.stringContaining('becomes void:\n')])
  expect((await apply('new-owner.key', 'shut-out')).code, 'one signature of two').toBe(4)
  await agreed()
  await tell(['cosign', rotated.out.trim(), '-k', 'mesh/next-recovery-2.key'], { at: 'edge-b' })
  await eventually(async () => (await apply('new-owner.key', 'restored')).code).toBe(0)
  await agreed()
  for (const at of NAMES) {
    const left = await sites(at)
    expect([left.includes('restored'), left.includes('evil')], at).toEqual([true, false])
    expect(await tell(['root', 'show'], { at })).toContain(`root set ${rotated.out.trim()}: 2 of 3 must sign`)
  }
  const again = await run(['grant', 'owner', await keyShow('thief.key'), '-k', 'mesh/recovery-1.key'])
  expect(again.code, 'the old keys are worth nothing').toBe(4)
})

test('root keys are lost: the next ones replace them, and what the lost ones did stays', async () => {
  for (const n of [1, 2, 3]) await tell(['key', 'new', '-k', `fourth-recovery-${n}.key`])
  const keys = async (name: string): Promise<string> =>
    (await Promise.all([1, 2, 3].map((n) => keyShow(`${name}-${n}.key`)))).join(',')
  const [roots, next] = await Promise.all([keys('third-recovery'), keys('fourth-recovery')])
  const argv = ['root', 'rotate', '--roots', roots, '--next-keys', next, '--note', 'lost']
  const rotated = await run([...argv, '-k', 'third-recovery-1.key'])
  expect([rotated.code, rotated.err]).toEqual([0, expect.stringContaining('no edit becomes void')])
  await tell(['cosign', rotated.out.trim(), '-k', 'third-recovery-3.key'])
  await agreed()
  expect(await tell(['root', 'show'], { at: 'edge-a' })).toContain(`root set ${rotated.out.trim()}: 2 of 3 must sign`)
  expect((await apply('new-owner.key', 'still-there')).code).toBe(0)
  await agreed()
})

test('everything that happened is verified anew, at the nodes and from a file', async () => {
  const outs = await Promise.all(NAMES.map((at) => tell(['verify', '--full'], { at })))
  expect(outs[0]).toBe(outs[1])
  await tell(['export', 'mesh.json'], { at: 'edge-b' })
  const offline = await meshctl(['verify', 'mesh.json'], { cwd: directory, env: {} })
  expect(`${offline.code} ${offline.out.trim()}`).toBe(`0 ${outs[0]}`)
})
