/** The verbs for hosts: invite, pending, approve, deny, node; in process, against a real API server. */

import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { systemClock } from '../../src/adapters/clock.ts'
import type { PeerItem, PendingView } from '../../src/api/schemas.ts'
import type { GrantBody, KeyPair } from '../../src/core/envelope.ts'
import { encryptionKey, seal } from '../../src/core/secrets.ts'
import { signAsking, signTicket } from '../../src/core/ticket.ts'
import { KEYS, startApiNode, testKey, type ApiNode } from '../support/api-node.ts'
import { meshctl, type CliResult } from '../support/cli.ts'
import { lyingNode } from '../support/lying-node.ts'
import { askToJoin } from '../support/joining.ts'
import { editor, MESH_ID } from '../support/sign.ts'

let node: ApiNode
let cwd: string
beforeEach(async () => {
  node = await startApiNode()
  cwd = await mkdtemp(join(tmpdir(), 'nxmesh-hosts-'))
  for (const name of ['owner', 'node', 'root'] as const) await writeKey(name, KEYS[name])
})
afterEach(async () => {
  await node.stop()
  await rm(cwd, { recursive: true, force: true })
})

async function writeKey(name: string, key: KeyPair): Promise<void> {
  await writeFile(join(cwd, `${name}.key`), Buffer.from(key.seed).toString('hex'), { mode: 0o600 })
}

async function run(argv: readonly string[], key = 'owner'): Promise<CliResult> {
  return await meshctl(['--api', `unix:${node.socketPath}`, '-k', `${key}.key`, ...argv], { cwd })
}

const [FIRST, SECOND] = [testKey(71), testKey(72)]

interface TicketWish {
  readonly zones?: string[]
  readonly name?: string
  readonly by?: KeyPair
  readonly expires?: number
}

function ticketFor({ by = KEYS.owner, ...over }: TicketWish = {}): string {
  return signTicket(
    {
      mesh: MESH_ID,
      network: 'default',
      nodes: [{ key: KEYS.node.publicKey, addresses: ['10.0.0.1:9102'] }],
      zones: ['eu.west'],
      expires: Date.now() + 3_600_000,
      nonce: '00'.repeat(16),
      ...over,
    },
    by,
  )
}

const asks = (key: KeyPair, ticket = ticketFor()) => askToJoin(node.joins, KEYS.node.publicKey, key, ticket)

async function grantsOf(key: KeyPair): Promise<GrantBody[]> {
  const ids = node.replica.state.policy.activeGrants(key.publicKey)
  return ids.map(({ body }) => body)
}

describe('invite', () => {
  test('needs somebody who may grant nodes, a zone, and a time that a ticket may last', async () => {
    expect(await run(['invite', '--zone', 'eu'], 'node')).toMatchObject({
      code: 4,
      err: expect.stringContaining('a ticket of this key would be refused'),
    })
    expect(await run(['invite'])).toMatchObject({ code: 2, err: expect.stringContaining('--zone is missing') })
    expect(await run(['invite', '--zone', 'eu', '--ttl', '721h'])).toMatchObject({ code: 2 })
    expect(await run(['invite', '--zone', 'eu..west'])).toMatchObject({ code: 2 })
    expect(await run(['invite', '--zone', 'eu', '--name', 'Edge'])).toMatchObject({ code: 2 })
  })

  test('needs a node that says where it can be dialled', async () => {
    // This node has no network.
    expect(await run(['invite', '--zone', 'eu'])).toMatchObject({
      code: 7,
      err: expect.stringContaining('no node says where it can be dialled'),
    })
  })
})

test('invite says so when a ticket names loopback addresses alone, and needs a grant of its zones', async () => {
  const at = async (...addresses: string[]): Promise<CliResult> => {
    await using relay = await lyingNode(node.url, (path, truth) => {
      if (!path.startsWith('/v1/peers')) return truth
      const { data, ...rest } = truth as { data: PeerItem[] }
      return { ...rest, data: data.map((peer) => (peer.self ? { ...peer, addresses } : peer)) }
    })
    return await meshctl(['--api', relay.url, '-k', 'owner.key', 'invite', '--zone', 'eu'], { cwd })
  }
  const note = 'this ticket names only loopback addresses'
  expect(await at('127.0.0.1:9102', '[::1]:9102')).toMatchObject({ code: 0, err: expect.stringContaining(note) })
  expect(await at('localhost:9102')).toMatchObject({ code: 0, err: expect.stringContaining(note) })
  expect((await at('127.0.0.1:9102', '10.0.0.1:9102')).err).not.toContain(note)
  await writeKey('admin', SECOND)
  await run(['grant', 'admin', SECOND.publicKey, '--zone', 'eu', '-w', '*'])
  expect(await run(['invite', '--zone', 'us'], 'admin')).toMatchObject({
    code: 4,
    err: expect.stringContaining('it may not grant nodes of zones us'),
  })
})

describe('pending', () => {
  test('lists who waits, and says when nobody does', async () => {
    expect(await run(['pending'])).toMatchObject({ code: 0, out: '', err: 'no host waits at this node\n' })
    await asks(FIRST, ticketFor({ name: 'edge-9' }))
    const { out } = await run(['pending'])
    expect(out).toMatch(/FINGERPRINT +NAME +ZONES +FROM +INVITED BY/)
    expect(out).toMatch(new RegExp(`${FIRST.publicKey.slice(0, 16)} +edge-9 +eu.west +10.0.0.9:1 +ana`))
    const [request] = JSON.parse((await run(['pending', '-o', 'json'])).out) as PendingView[]
    expect(request).toMatchObject({ key: FIRST.publicKey, enc: encryptionKey(FIRST.seed).publicKey })
  })
})

describe('approve', () => {
  test('grants what the ticket wishes, with the key that was proven', async () => {
    await asks(FIRST, ticketFor({ name: 'edge-9', zones: ['us', 'eu.west'] }))
    const { code, err } = await run(['approve', FIRST.publicKey.slice(0, 16)])
    expect([code, err]).toEqual([0, expect.stringContaining('approved: edge-9 is node of zones eu.west, us')])
    expect(err).toContain(FIRST.publicKey)
    expect(await grantsOf(FIRST)).toMatchObject([
      { role: 'node', zones: ['eu.west', 'us'], name: 'edge-9', ws: '*', enc: encryptionKey(FIRST.seed).publicKey },
    ])
    expect(node.joins.pending()).toEqual([])
    expect(await run(['approve', FIRST.publicKey])).toMatchObject({ code: 5 })
  })

  test('grants what the operator says instead', async () => {
    await asks(FIRST, ticketFor({ name: 'edge-9' }))
    expect(await run(['approve', FIRST.publicKey, '--zone', 'us', '--name', 'edge-7'])).toMatchObject({ code: 0 })
    expect(await grantsOf(FIRST)).toMatchObject([{ zones: ['us'], name: 'edge-7' }])
  })

  test('takes sixteen digits or more of one that waits, and no name that is taken', async () => {
    await asks(FIRST, ticketFor({ name: 'edge-1' }))
    await asks(SECOND)
    expect(await run(['approve', FIRST.publicKey.slice(0, 15)])).toMatchObject({ code: 2 })
    expect(await run(['approve', KEYS.stranger.publicKey])).toMatchObject({ code: 5 })
    const taken = await run(['approve', FIRST.publicKey])
    expect(taken).toMatchObject({ code: 6, err: expect.stringContaining('edge-1 is the name of another key') })
    expect(await run(['approve', SECOND.publicKey], 'node')).toMatchObject({ code: 4 })
    expect(node.joins.pending()).toHaveLength(2)
  })
})

describe('approve believes the host and the ticket, not the asked node:', () => {
  /** Lets through all but what a lie makes of who waits. */
  const approving = async (
    argv: readonly string[],
    lie: (request: PendingView) => PendingView,
    key = 'owner',
  ): Promise<CliResult & { taken: number }> => {
    await using liar = await lyingNode(node.url, (path, truth) => {
      if (!path.startsWith('/v1/pending')) return truth
      const { data, ...rest } = truth as { data: PendingView[] }
      return { ...rest, data: data.map(lie) }
    })
    const result = await meshctl(['--api', liar.url, '-k', `${key}.key`, 'approve', ...argv], { cwd })
    return { ...result, taken: liar.taken.length }
  }
  const evil = encryptionKey(testKey(79).seed).publicKey
  const unsigned = { code: 4, taken: 0, err: expect.stringContaining('is not signed by that key') }

  test('another encryption key is not granted', async () => {
    await asks(FIRST)
    expect(await approving([FIRST.publicKey], (request) => ({ ...request, enc: evil }))).toMatchObject(unsigned)
    expect(await approving(['--all'], (request) => ({ ...request, enc: evil }))).toMatchObject(unsigned)
    expect(await approving(['--all'], (request) => ({ ...request, key: KEYS.owner.publicKey }))).toMatchObject(unsigned)
    expect(await grantsOf(FIRST)).toEqual([])
  })

  test('another ticket is not that of the host, and zones and name are those of the ticket', async () => {
    await asks(FIRST, ticketFor({ name: 'edge-9' }))
    const wide = { zones: ['*'], name: 'db-1' }
    const shown = ({ ticket, ...rest }: PendingView) => ({ ...rest, ticket: { ...ticket, ...wide } })
    const swapped = ({ ticket, ...rest }: PendingView) => ({ ...rest, ticket: { ...ticket, text: ticketFor(wide) } })
    expect(await approving([FIRST.publicKey], swapped)).toMatchObject(unsigned)
    expect(await approving([FIRST.publicKey], shown)).toMatchObject({
      code: 0,
      err: expect.stringContaining(`invited  ${KEYS.owner.publicKey.slice(0, 16)} (ana)`),
    })
    expect(await grantsOf(FIRST)).toMatchObject([{ zones: ['eu.west'], name: 'edge-9' }])
  })

  test('a ticket by who may not grant nodes of its zones gives none, and zones may be named', async () => {
    await asks(FIRST)
    const own = (by: KeyPair, zones: string[], expires = Date.now() + 60_000) => {
      const text = ticketFor({ by, zones, expires })
      return (request: PendingView): PendingView => {
        const { enc, name } = request
        const asking = { ticket: text, enc, name, zones: request.zones }
        return { ...request, ticket: { ...request.ticket, text }, sig: signAsking(asking, FIRST) }
      }
    }
    expect(await approving([FIRST.publicKey], own(FIRST, ['*']))).toMatchObject({
      code: 4,
      taken: 0,
      err: expect.stringContaining('cannot be shown to be able to grant nodes of zones *'),
    })
    expect(await approving([FIRST.publicKey], own(KEYS.owner, ['us'], 1000))).toMatchObject({
      code: 4,
      err: expect.stringContaining('the ticket expired at'),
    })
    expect(await approving([FIRST.publicKey, '--zone', 'us'], own(FIRST, ['*']))).toMatchObject({ code: 0 })
    expect(await grantsOf(FIRST)).toMatchObject([{ zones: ['us'] }])
  })
})

test('deny turns one away, and needs somebody who might have let it in', async () => {
  await asks(FIRST)
  await asks(SECOND)
  expect(await run(['deny', FIRST.publicKey], 'node')).toMatchObject({ code: 4 })
  expect(await run(['deny', FIRST.publicKey])).toMatchObject({ code: 0, err: expect.stringContaining('denied: ') })
  expect(await asks(FIRST)).toEqual({ standing: 'denied' })
  expect(node.joins.pending().map(({ key }) => key)).toEqual([SECOND.publicKey])
  expect(await grantsOf(FIRST)).toEqual([])
})

describe('node', () => {
  test('ls is peers', async () => {
    expect((await run(['node', 'ls'])).out).toBe((await run(['peers'])).out)
    expect(await run(['node'])).toMatchObject({ code: 2 })
    expect(await run(['node', 'rm'])).toMatchObject({ code: 2 })
  })

  test('rm takes all that makes a key a node, by name, from a node that is not it', async () => {
    expect(await run(['node', 'rm', 'edge-2', '--note', 'gone'])).toMatchObject({
      code: 0,
      err: expect.stringContaining('removed: edge-2'),
    })
    expect(node.replica.state.policy.isRevokedNode(KEYS.other.publicKey)).toBe(true)
    expect(await run(['node', 'rm', KEYS.other.publicKey])).toMatchObject({ code: 5 })
    expect(await run(['node', 'rm', KEYS.owner.publicKey])).toMatchObject({
      code: 5,
      err: expect.stringContaining('is no node of this mesh'),
    })
  })

  test('rm keeps a host out of every workspace, where the own grant reaches so far', async () => {
    const registrar = testKey(75)
    await writeKey('registrar', registrar)
    await run(['grant', 'robot', registrar.publicKey, '--kinds', 'node', '-z', 'eu', '-w', '*'])
    await run(['grant', 'node', FIRST.publicKey, '-z', 'eu', '-w', 'default', '--name', 'edge-9'])
    expect(await run(['node', 'rm', 'edge-9'])).toMatchObject({ code: 0 })
    await run(['grant', 'node', FIRST.publicKey, '-z', 'eu', '-w', '*'], 'registrar')
    expect(await grantsOf(FIRST)).toEqual([])
  })

  test('rm takes a name on no node’s word, and no first digits', async () => {
    await using liar = await lyingNode(node.url, (path, truth) => {
      if (!path.startsWith('/v1/grants') && !path.startsWith('/v1/ids')) return truth
      const { data, ...rest } = truth as { data: { subject: string; name: string | null }[] }
      const swapped = new Map([
        ['edge-1', 'edge-2'],
        ['edge-2', 'edge-1'],
      ])
      return { ...rest, data: data.map((view) => ({ ...view, name: swapped.get(view.name ?? '') ?? view.name })) }
    })
    const { code, err } = await meshctl(['--api', liar.url, '-k', 'owner.key', 'node', 'rm', 'edge-2'], { cwd })
    expect([code, err]).toEqual([5, expect.stringContaining('no node is called edge-2')])
    expect(liar.taken).toEqual([])
    expect(await run(['node', 'rm', KEYS.other.publicKey.slice(0, 12)])).toMatchObject({ code: 5 })
  })

  test('rm leaves what else the key is', async () => {
    await run(['grant', 'editor', KEYS.other.publicKey, '--zone', 'eu'])
    expect(await run(['node', 'rm', KEYS.other.publicKey])).toMatchObject({ code: 0 })
    expect(await grantsOf(KEYS.other)).toMatchObject([{ role: 'editor' }])
  })

  test('rm lists the secrets that the host could read', async () => {
    await asks(FIRST, ticketFor({ name: 'edge-9' }))
    await run(['approve', FIRST.publicKey])
    const next = editor(KEYS.owner)
    for (const [name, recipient] of [
      ['db', FIRST],
      ['other', SECOND],
    ] as const) {
      const path = `default/eu.west/secret/${name}`
      const random = (bytes: number) => Buffer.alloc(bytes, 7)
      const fields = seal(Buffer.from('hush'), { path, recipients: [encryptionKey(recipient.seed).publicKey], random })
      const ops = [['$', true] as const, ...fields].map(([field, value]) => ['set', field, value] as const)
      const { replica } = node
      await replica.submit([next([[path, [], ops.toSorted((a, b) => (a[1] < b[1] ? -1 : 1))]])], 'api')
    }
    const { err } = await run(['node', 'rm', 'edge-9'])
    expect(err).toContain('meshctl secret rotate db -w default -z')
    expect(err).not.toContain('rotate other')
  })
})

describe('a registrar', () => {
  const registrar = testKey(73)
  const invited = (over: TicketWish = {}): string => ticketFor({ by: registrar, ...over })
  beforeEach(async () => {
    await writeKey('registrar', registrar)
    const scope = ['--kinds', 'node', '--zone', 'eu', '-w', '*', '--name', 'scaler']
    await run(['grant', 'robot', registrar.publicKey, ...scope])
  })

  test('lets in who shows a ticket of its own, under names that differ, and nobody else', async () => {
    await asks(FIRST, invited({ name: 'auto' }))
    await asks(SECOND, invited({ name: 'auto' }))
    await asks(testKey(74), ticketFor())
    const { code, err } = await run(['approve', '--all'], 'registrar')
    expect([code, err]).toEqual([0, expect.stringContaining('approved: auto is node of zones eu.west')])
    expect(await grantsOf(FIRST)).toMatchObject([{ role: 'node', zones: ['eu.west'], name: 'auto' }])
    expect(await grantsOf(SECOND)).toMatchObject([{ name: `auto-${SECOND.publicKey.slice(0, 8)}` }])
    expect(node.joins.pending().map(({ key }) => key)).toEqual([testKey(74).publicKey])
  })

  test('is told of hosts that it may not let in, and lets in the others', async () => {
    const more = await run(['grant', 'robot', registrar.publicKey, '--kinds', 'node', '--zone', 'us', '-w', '*'])
    await asks(FIRST, invited({ zones: ['us'] }))
    await asks(SECOND, invited())
    await run(['revoke', more.out.trim()])
    const { code, err } = await run(['approve', '--all'], 'registrar')
    expect([code, err]).toEqual([4, expect.stringMatching(/was not let in: .*\n.*zone us is outside/)])
    expect([await grantsOf(FIRST), (await grantsOf(SECOND)).length]).toEqual([[], 1])
  })

  test('takes out again what it let in, and nothing else', async () => {
    await asks(FIRST, invited())
    expect(await run(['approve', '--all'], 'registrar')).toMatchObject({ code: 0 })
    const [grant] = node.replica.state.policy.activeGrants(FIRST.publicKey)
    const [other] = node.replica.state.policy.activeGrants(KEYS.node.publicKey)
    expect(await run(['revoke', other!.id], 'registrar')).toMatchObject({
      code: 4,
      err: expect.stringContaining('a registrar revokes only what it granted itself'),
    })
    expect(await run(['revoke', grant!.id], 'registrar')).toMatchObject({ code: 0 })
    expect(await grantsOf(FIRST)).toEqual([])
  })

  test('goes on with hosts that come later, until it is stopped', async () => {
    const stop = new AbortController()
    const arrivals = [FIRST, SECOND]
    const sleep = async (): Promise<void> => {
      const next = arrivals.shift()
      if (next === undefined) stop.abort()
      else await asks(next, invited())
    }
    const argv = ['--api', `unix:${node.socketPath}`, '-k', 'registrar.key', 'approve', '--all', '--watch']
    expect(await meshctl(argv, { cwd, signal: stop.signal, clock: { ...systemClock, sleep } })).toMatchObject({
      code: 0,
    })
    expect([(await grantsOf(FIRST)).length, (await grantsOf(SECOND)).length]).toEqual([1, 1])
  })

  test('is one only by a grant that says so, and grants nothing but nodes', async () => {
    await asks(FIRST, invited())
    expect(await run(['grant', 'editor', FIRST.publicKey, '--kinds', 'node', '--zone', 'eu'])).toMatchObject({
      code: 2,
    })
    expect(await run(['grant', 'viewer', FIRST.publicKey, '--zone', 'eu', '-w', '*'], 'registrar')).toMatchObject({
      code: 4,
      err: expect.stringContaining('a registrar grants nodes'),
    })
    expect(await run(['approve', FIRST.publicKey], 'node')).toMatchObject({ code: 4 })
  })
})
