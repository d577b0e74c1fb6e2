/**
 * Real daemons: a host is invited, asks, waits, is let in and serves its zone; others are denied, have a ticket that is old, of
 * another mesh or changed; one is taken out while it is down, and learns it when it comes back. The tests tell one story.
 */

import { spawn, type ChildProcess } from 'node:child_process'
import { mkdir, readFile, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { parse } from 'yaml'
import type { PendingView } from '../../src/api/schemas.ts'
import { encryptionKey } from '../../src/core/secrets.ts'
import { keyPairFromSeed } from '../../src/core/envelope.ts'
import { parseTicket, signTicket } from '../../src/core/ticket.ts'
import { freePorts, REPOSITORY, type Member } from '../support/fleet.ts'
import { applySite, ask, converged, eventually, hostOf, tell, useFleet } from '../support/use-fleet.ts'
import { waitFor } from '../support/wait.ts'

const fleet = useFleet({
  members: [
    { name: 'one', zones: ['eu.west'] },
    { name: 'two', zones: ['us'] },
  ],
})

const one = (): Member => fleet().member('one')
const two = (): Member => fleet().member('two')

/** A daemon that was started with `mesh-node join`. */
class Joiner {
  readonly directory: string
  readonly socket: string
  output = ''
  #process: ChildProcess | undefined

  constructor(name: string) {
    this.directory = join(fleet().directory, name)
    this.socket = `unix:${join(this.directory, 'data', 'api.sock')}`
  }

  get configFile(): string {
    return join(this.directory, 'config.yaml')
  }

  get keyFile(): string {
    return join(this.directory, 'node.key')
  }

  async join(ticket: string): Promise<void> {
    await mkdir(this.directory, { recursive: true })
    const [meshPort, apiPort] = await freePorts(2)
    this.start([
      'join',
      ticket,
      '-c',
      this.configFile,
      '-k',
      this.keyFile,
      `--data_dir=${join(this.directory, 'data')}`,
      '--nginx.mode=off',
      '--bind_address=127.0.0.1',
      `--bind_port=${meshPort}`,
      `--http_bind_port=${apiPort}`,
    ])
  }

  start(argv: readonly string[] = ['-c', this.configFile]): void {
    const child = spawn(process.execPath, ['src/mesh-node.ts', ...argv], {
      cwd: REPOSITORY,
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    for (const stream of [child.stdout, child.stderr]) {
      stream.on('data', (data: Buffer) => void (this.output += data.toString()))
    }
    this.#process = child
  }

  /** Its exit code, when it has ended by itself. */
  async ended(): Promise<number | null> {
    const child = this.#process as ChildProcess
    await waitFor(() => child.exitCode !== null, {
      timeoutMs: 60_000,
      everyMs: 20,
      what: () => `it ends:\n${this.output}`,
    })
    return child.exitCode
  }

  async stop(signal: 'SIGTERM' | 'SIGKILL' = 'SIGTERM'): Promise<void> {
    const child = this.#process
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return
    const gone = new Promise((resolve) => child.once('exit', resolve))
    child.kill(signal)
    await gone
  }

  /** The private key that `join` made. */
  async key() {
    return keyPairFromSeed(Buffer.from(await readFile(this.keyFile, 'utf8'), 'hex'))
  }
}

const joiners: Joiner[] = []
afterAll(async () => {
  await Promise.all(joiners.map((joiner) => joiner.stop('SIGKILL')))
})

function joiner(name: string): Joiner {
  const made = new Joiner(name)
  joiners.push(made)
  return made
}

async function invite(...options: string[]): Promise<string> {
  return (await tell(fleet(), one(), ['invite', '--zone', 'eu.west', ...options])).trim()
}

async function pendingAt(member: Member): Promise<PendingView[]> {
  return JSON.parse(await tell(fleet(), member, ['pending', '-o', 'json'])) as PendingView[]
}

/** Waits until it waits; its fingerprint. */
async function waitingOf(host: Joiner): Promise<string> {
  await eventually(() => host.output, 'it waits').toMatch(/waiting: approve with meshctl approve [0-9a-f]{16}/)
  return /meshctl approve ([0-9a-f]{16})/.exec(host.output)![1]!
}

test('a host is invited, waits, is approved, and serves its zone', async () => {
  await converged([one(), two()])
  await applySite(fleet(), one(), { name: 'shop', zone: 'eu' })
  const ticket = await invite('--name', 'edge-3')
  expect(ticket).not.toMatch(/\s/)
  expect(parseTicket(ticket)).toMatchObject({ mesh: fleet().meshId, network: 'default', by: fleet().owner.publicKey })
  expect(parseTicket(ticket).nodes.map(({ key }) => key)).toEqual([one().key.publicKey, two().key.publicKey])

  const host = joiner('edge-3')
  await host.join(ticket)
  const fingerprint = await waitingOf(host)
  const key = await host.key()
  expect((await stat(host.keyFile)).mode & 0o777).toBe(0o600)
  expect(key.publicKey.startsWith(fingerprint)).toBe(true)
  expect(parse(await readFile(host.configFile, 'utf8'))).toMatchObject({
    mesh: { id: fleet().meshId },
    network_id: 'default',
    nodes: [{ public_key: one().key.publicKey }, { public_key: two().key.publicKey }],
    nginx: { mode: 'off' },
  })
  // It asked every node of the ticket, and is in the mesh at none.
  await eventually(() => pendingAt(two())).toMatchObject([{ key: key.publicKey }])
  expect(await pendingAt(one())).toMatchObject([
    { key: key.publicKey, enc: encryptionKey(key.seed).publicKey, ticket: { name: 'edge-3', zones: ['eu.west'] } },
  ])
  expect(await tell(fleet(), one(), ['pending'])).toContain(fingerprint)
  const { data } = await one().get<{ data: { key: string }[] }>('/v1/peers')
  expect(data.map((peer) => peer.key)).not.toContain(key.publicKey)

  const { err } = await ask(fleet(), two(), ['approve', fingerprint])
  expect(err).toContain('approved: edge-3 is node of zones eu.west')
  await eventually(() => host.output).toContain('this host was let in')
  await eventually(() => host.output).toContain('this node is up')
  const node = async () =>
    JSON.parse(await tell(fleet(), one(), ['--api', host.socket, 'get', 'site', 'shop', '-z', 'eu', '-o', 'json'])) as {
      spec: { hosts: unknown }
    }
  await eventually(node).toMatchObject({ spec: { hosts: [hostOf('shop')] } })
  await eventually(() => tell(fleet(), one(), ['status'])).toMatch(/edge-3 +eu\.west +Ready/)
  const grants = await one().get<{ data: { id: string; subject: string }[] }>(`/v1/grants?subject=${key.publicKey}`)
  const [grant] = grants.data
  const stored = await one().get<{ envelope: { bytes: string } }>(`/v1/edits/${grant!.id}`)
  expect(JSON.parse(stored.envelope.bytes)).toMatchObject({ enc: encryptionKey(key.seed).publicKey })
  await eventually(() => pendingAt(one())).toEqual([])
})

test('a registrar lets in whoever shows its ticket, and nobody else', async () => {
  const registrar = (await tell(fleet(), one(), ['key', 'new', '-k', 'registrar.key'])).trim()
  await tell(fleet(), one(), ['grant', 'robot', registrar, '--kinds', 'node', '--zone', 'eu.auto', '-w', '*'])
  const as = { key: 'registrar.key' }
  await eventually(() => ask(fleet(), one(), ['invite', '--zone', 'eu.auto'], as)).toMatchObject({ code: 0 })
  const ticket = (await tell(fleet(), one(), ['invite', '--zone', 'eu.auto', '--name', 'auto'], as)).trim()
  const [scaled, stranger] = [joiner('scaled'), joiner('stranger')]
  await scaled.join(ticket)
  await waitingOf(scaled)
  await stranger.join(await invite())
  await waitingOf(stranger)
  expect(await ask(fleet(), one(), ['approve', '--all'], as)).toMatchObject({
    code: 0,
    err: expect.stringContaining('approved: auto is node of zones eu.auto'),
  })
  await eventually(() => scaled.output).toContain('this host was let in')
  expect((await pendingAt(one())).map(({ key }) => key)).toEqual([(await stranger.key()).publicKey])
  await tell(fleet(), one(), ['deny', (await stranger.key()).publicKey])
})

test('a host is denied, and is told', async () => {
  const host = joiner('denied')
  await host.join(await invite())
  const fingerprint = await waitingOf(host)
  const viewer = (await tell(fleet(), one(), ['key', 'new', '-k', 'viewer.key'])).trim()
  await tell(fleet(), one(), ['grant', 'viewer', viewer, '--zone', '*', '-w', '*'])
  expect(await ask(fleet(), one(), ['deny', fingerprint], { key: 'viewer.key' })).toMatchObject({ code: 4 })
  expect(await ask(fleet(), one(), ['deny', fingerprint.slice(0, 8)])).toMatchObject({ code: 2 })
  await tell(fleet(), one(), ['deny', fingerprint])
  expect(await host.ended()).toBe(4)
  expect(host.output).toContain('an operator denied this host')
})

test('tickets that are old, of another mesh, changed, or by nobody lead nowhere', async () => {
  const content = parseTicket(await invite())
  const outcome = async (name: string, ticket: string): Promise<string> => {
    const host = joiner(name)
    await host.join(ticket)
    return `${await host.ended()} ${host.output}`
  }
  const old = signTicket({ ...content, expires: Date.now() - 1000 }, fleet().owner)
  expect(await outcome('old', old)).toMatch(/^4 [^]*the ticket expired at/)
  const foreign = signTicket({ ...content, mesh: 'ab'.repeat(32) }, fleet().owner)
  expect(await outcome('foreign', foreign)).toMatch(/^4 [^]*the ticket is for another mesh/)
  const selfMade = signTicket(content, keyPairFromSeed(Buffer.alloc(32, 7)))
  expect(await outcome('self-made', selfMade)).toMatch(/^4 [^]*by a key that may not grant nodes/)
  const good = signTicket(content, fleet().owner)
  const changed = `${good.slice(0, 100)}${good[100] === 'A' ? 'B' : 'A'}${good.slice(101)}`
  expect(await outcome('changed', changed)).toMatch(/^3 [^]*the ticket is damaged/)
  expect(await pendingAt(one())).toEqual([])
})

test('a configuration that exists is not touched, and must be for the mesh', async () => {
  const host = joiner('configured')
  await mkdir(host.directory)
  await writeFile(host.configFile, 'mesh: { id: "" }\n')
  await host.join(await invite())
  expect(await host.ended()).toBe(3)
  expect(host.output).toContain('is not for the mesh of the ticket')
  expect(await readFile(host.configFile, 'utf8')).toBe('mesh: { id: "" }\n')
})

test('a host that is taken out while it is down learns it when it comes back', async () => {
  const host = joiners[0]!
  const { publicKey } = await host.key()
  await host.stop()
  // Nothing that was signed meanwhile is known to the host, and the revocation rests on it.
  for (const index of [1, 2, 3]) {
    const key = keyPairFromSeed(Buffer.alloc(32, 100 + index)).publicKey
    await tell(fleet(), one(), ['grant', 'editor', key, '--zone', '*', '-w', '*', '--name', `some-${index}`])
  }
  const { code, err } = await ask(fleet(), two(), ['node', 'rm', 'edge-3'])
  expect([code, err]).toEqual([0, expect.stringContaining('removed: edge-3')])
  await eventually(async () => (await one().get<{ data: unknown[] }>(`/v1/grants?subject=${publicKey}`)).data).toEqual(
    [],
  )
  await applySite(fleet(), one(), { name: 'later', zone: 'eu' })
  host.output = ''
  host.start()
  await eventually(() => tell(fleet(), one(), ['--api', host.socket, 'peers'])).toContain('here')
  const standing = async () => (await ask(fleet(), one(), ['--api', host.socket, 'status'])).out
  await eventually(standing).toContain('this node’s grant was revoked')
  const { data } = await one().get<{ data: { key: string; connected: boolean }[] }>('/v1/peers')
  expect(data.filter((peer) => peer.key === publicKey && peer.connected)).toEqual([])
  // It was told why, and nothing that was edited since.
  const get = (site: string) => ask(fleet(), one(), ['--api', host.socket, 'get', 'site', site, '-z', 'eu'])
  expect(await get('shop')).toMatchObject({ code: 0 })
  expect(await get('later')).toMatchObject({ code: 5 })
  expect(host.output).toContain('a peer says that this node was revoked')
})
