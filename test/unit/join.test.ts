/** Both ends of the join protocol, talking in memory: who gets in line, how long the line is, what a revoked key is told. */

import { createHash } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import { toWire } from '../../src/core/codec.ts'
import { keyPairFromSeed, type Envelope, type KeyPair } from '../../src/core/envelope.ts'
import { encryptionKey } from '../../src/core/secrets.ts'
import { MeshState } from '../../src/core/state.ts'
import { isAskedBy, proofOf, signTicket, type TicketContent } from '../../src/core/ticket.ts'
import { JoinRequests, signRejection, type PendingRequest } from '../../src/joining/join.ts'
import {
  encodeJoin,
  JOIN_LIMITS,
  parseJoinAnswer,
  type JoinAnswer,
  type JoinMessage,
} from '../../src/joining/join-messages.ts'
import { learnStanding, untilLetIn, type JoiningOptions } from '../../src/joining/joiner.ts'
import { Membership } from '../../src/membership.ts'
import { createMetrics } from '../../src/metrics.ts'
import type { Visit } from '../../src/ports.ts'
import { Replica } from '../../src/replica.ts'
import { Author } from '../support/author.ts'
import { keyOf, TestMesh } from '../support/authors.ts'
import { askToJoin, GUEST_ADDRESS, joinMessage, visitIn } from '../support/joining.ts'
import { MemoryStore } from '../support/memory-store.ts'
import { silentLog } from '../support/silent-log.ts'
import { VirtualClock } from '../support/virtual-clock.ts'

const node = keyOf('node')
const HOUR_MS = 3_600_000

/** A node of a mesh that receives guests. */
class Host {
  readonly mesh = new TestMesh()
  readonly clock = new VirtualClock()
  readonly state = new MeshState()
  readonly membership = new Membership({
    state: this.state,
    own: node.publicKey,
    enc: encryptionKey(node.seed).publicKey,
    listed: [],
    zones: [],
  })
  readonly joins = new JoinRequests({
    state: this.state,
    membership: this.membership,
    own: node.publicKey,
    networkId: 'test',
    clock: this.clock,
    log: silentLog(),
  })

  constructor() {
    this.add(...this.mesh.founding)
  }

  add(...envelopes: readonly Envelope[]): void {
    for (const envelope of envelopes) this.state.add(envelope)
  }

  ticket(over: Partial<TicketContent> = {}, inviter: KeyPair = this.mesh.owner): string {
    const content = {
      mesh: this.mesh.id,
      network: 'test',
      nodes: [{ key: node.publicKey, addresses: ['10.0.0.1:9102'] }],
      zones: ['eu'],
      expires: this.clock.now() + HOUR_MS,
      nonce: '00'.repeat(16),
    }
    return signTicket({ ...content, ...over }, inviter)
  }

  visit(key: KeyPair): Visit {
    return visitIn(this.joins, key)
  }

  async say(key: KeyPair, ...messages: readonly JoinMessage[]): Promise<JoinAnswer | undefined> {
    const visit = this.visit(key)
    let answer: JoinAnswer | undefined
    for (const message of messages) answer = parseJoinAnswer(await visit.ask(encodeJoin(message)))
    return answer
  }

  /** One whole request of a host. */
  ask(key: KeyPair, ticket = this.ticket()): Promise<JoinAnswer> {
    return askToJoin(this.joins, node.publicKey, key, ticket)
  }

  options(key: KeyPair, ticket: string, over: Partial<JoiningOptions> = {}): JoiningOptions {
    return {
      ticket,
      key,
      zones: [],
      labels: {},
      version: '0',
      visiting: async () => this.visit(key),
      clock: this.clock,
      random: () => 0.5,
      signal: new AbortController().signal,
      notice: () => undefined,
      ...over,
    }
  }
}

async function outcomeOf(joined: Promise<void>): Promise<string> {
  return await joined.then(
    () => 'let in',
    (error: Error) => error.message,
  )
}

function host(n: number): KeyPair {
  return keyPairFromSeed(createHash('sha256').update(`host ${n}`).digest())
}

describe('who asks to join', () => {
  test('waits, is seen with a proven encryption key, and is in when somebody grants it', async () => {
    const there = new Host()
    const key = host(1)
    const notices: string[] = []
    const ticket = there.ticket({ name: 'edge-1' })
    const letIn = untilLetIn(there.options(key, ticket, { notice: (text) => notices.push(text) }))
    await there.clock.advance(60_000)
    expect(notices).toEqual([`waiting: approve with meshctl approve ${key.publicKey.slice(0, 16)}`])
    const [request] = there.joins.pending()
    expect(request).toMatchObject({
      key: key.publicKey,
      enc: encryptionKey(key.seed).publicKey,
      address: GUEST_ADDRESS,
      ticket: { name: 'edge-1', zones: ['eu'], by: there.mesh.owner.publicKey },
    })
    expect(request!.ageMs).toBeGreaterThan(30_000)
    expect(there.membership.allows(key.publicKey)).toBe(false)
    there.add(there.mesh.grant(key.publicKey, 'node'))
    await there.clock.advance(60_000)
    await letIn
    expect(there.joins.pending()).toEqual([])
  })

  test('needs a ticket for this mesh and network, in time, by who may grant nodes', async () => {
    const there = new Host()
    const editor = keyOf('editor')
    const admin = keyOf('admin')
    there.add(there.mesh.grant(editor.publicKey, 'editor'), there.mesh.grant(admin.publicKey, 'admin'))
    const refusals = [
      [there.ticket({ mesh: 'ab'.repeat(32) }), 'another mesh'],
      [there.ticket({ network: 'other' }), 'network_id'],
      [there.ticket({ expires: there.clock.now() - 1 }), 'expired'],
      [there.ticket({}, editor), 'may not grant nodes'],
      [there.ticket({}, keyOf('nobody')), 'may not grant nodes'],
      [`${there.ticket()}x`, 'damaged'],
    ] as const
    for (const [ticket, words] of refusals) {
      expect(await there.ask(host(1), ticket)).toEqual({ refused: expect.stringContaining(words) })
    }
    expect(there.joins.pending()).toEqual([])
    expect(await there.ask(host(1), there.ticket({}, admin))).toEqual({ standing: 'pending' })
    expect(await there.ask(host(2), there.ticket({}, there.mesh.root))).toEqual({ standing: 'pending' })
  })

  test('must prove the encryption key, with a challenge of its own for each answer', async () => {
    const there = new Host()
    const key = host(1)
    const ticket = there.ticket()
    const other = encryptionKey(host(2).seed)
    expect(await there.say(key, joinMessage(key, ticket, other.publicKey, '00'.repeat(32)))).toHaveProperty('refused')
    expect(
      await there.say(key, { ask: 'challenge' }, joinMessage(key, ticket, other.publicKey, '00'.repeat(32))),
    ).toEqual({
      refused: 'the X25519 key was not proven',
    })
    const visit = there.visit(key)
    const { challenge = '' } = parseJoinAnswer(await visit.ask(encodeJoin({ ask: 'challenge' })))
    const own = encryptionKey(key.seed)
    const proof = proofOf(own, { prover: key.publicKey, verifier: node.publicKey, enc: own.publicKey, challenge })
    const message = encodeJoin(joinMessage(key, ticket, own.publicKey, proof))
    expect(parseJoinAnswer(await visit.ask(message))).toEqual({ standing: 'pending' })
    expect(parseJoinAnswer(await visit.ask(message))).toEqual({ refused: 'the X25519 key was not proven' })
  })

  test('is one of at most so many, of each ticket and in all, and forgotten in time', async () => {
    const there = new Host()
    const admin = keyOf('admin')
    there.add(there.mesh.grant(admin.publicKey, 'admin'))
    const full = { refused: 'too many hosts are waiting already', again: true }
    const outcomes = []
    for (let n = 0; n < JOIN_LIMITS.pendingOfTicket + 5; n++) outcomes.push(await there.ask(host(n)))
    expect(outcomes.slice(JOIN_LIMITS.pendingOfTicket)).toEqual([full, full, full, full, full])
    // Who waits already may ask again; another ticket has room.
    expect(await there.ask(host(0))).toEqual({ standing: 'pending' })
    const fresh = (n: number, by?: KeyPair) => there.ticket({ nonce: n.toString(16).padStart(32, '0') }, by)
    for (let n = 100; n < 200; n++) await there.ask(host(n), fresh(n))
    expect(there.joins.pending()).toHaveLength(JOIN_LIMITS.pendingOfInviter)
    // Whoever invites cannot keep out whom others invite.
    expect(await there.ask(host(998), fresh(998))).toEqual(full)
    for (let n = 200; n < 300; n++) await there.ask(host(n), fresh(n, there.mesh.root))
    expect(there.joins.pending()).toHaveLength(JOIN_LIMITS.pending)
    expect(await there.ask(host(999), fresh(999, admin))).toEqual(full)
    await there.clock.advance(JOIN_LIMITS.pendingMs + 1)
    expect(there.joins.pending()).toEqual([])
  })

  test('is denied by who may grant nodes, once, and told until there is another ticket', async () => {
    const there = new Host()
    const key = host(1)
    const outcome = outcomeOf(untilLetIn(there.options(key, there.ticket())))
    await there.clock.advance(1_000)
    const { id } = there.joins.pending()[0]!
    const reject = (by: KeyPair, mesh = there.mesh.id) => there.joins.reject(signRejection(mesh, id, by))
    expect(() => reject(keyOf('nobody'))).toThrow('must be able to grant')
    expect(() => reject(there.mesh.owner, 'ab'.repeat(32))).toThrow('must be able to grant')
    expect(reject(there.mesh.owner)).toBe(key.publicKey)
    expect(() => reject(there.mesh.owner)).toThrow('no host waits')
    await there.clock.advance(60_000)
    expect(await outcome).toBe('an operator denied this host')
    expect(await there.ask(key)).toEqual({ standing: 'denied' })
    expect(await there.ask(key, there.ticket({ nonce: '11'.repeat(16) }))).toEqual({ standing: 'pending' })
  })

  test('signs what it asks for: nobody is kept in its name with another key or ticket', async () => {
    const there = new Host()
    const key = host(1)
    const own = encryptionKey(key.seed)
    const visit = there.visit(key)
    const { challenge = '' } = parseJoinAnswer(await visit.ask(encodeJoin({ ask: 'challenge' })))
    const proof = proofOf(own, { prover: key.publicKey, verifier: node.publicKey, enc: own.publicKey, challenge })
    const message = joinMessage(host(2), there.ticket(), own.publicKey, proof)
    expect(parseJoinAnswer(await visit.ask(encodeJoin(message)))).toEqual({
      refused: 'the request is not signed by this host',
    })
    await there.ask(key)
    const [{ ticketText: ticket, enc, name, zones, sig }] = there.joins.pending() as [PendingRequest]
    expect(isAskedBy(key.publicKey, { ticket, enc, name, zones }, sig)).toBe(true)
    expect(isAskedBy(key.publicKey, { ticket, enc, name, zones: ['*'] }, sig)).toBe(false)
  })

  test('gives up when the ticket ends, and goes on while no node answers', async () => {
    const there = new Host()
    const notices: string[] = []
    const visiting = () => Promise.reject(new Error('nobody there'))
    const options = there.options(host(1), there.ticket(), { visiting, notice: (text) => notices.push(text) })
    const outcome = outcomeOf(untilLetIn(options))
    await there.clock.advance(HOUR_MS + 60_000)
    expect(await outcome).toBe('the ticket expired before anybody approved this host')
    expect(notices).toEqual(['nobody there'])
  })
})

describe('a registrar of eu.auto', () => {
  const registrar = keyOf('registrar')
  function withRegistrar(): { there: Host; author: Author } {
    const there = new Host()
    const grant = there.mesh.grant(registrar.publicKey, 'robot', { zones: ['eu.auto'], kinds: ['node'] })
    there.add(grant)
    return { there, author: new Author(there.mesh.id, registrar, grant.id) }
  }

  test('invites to its zones, and no further', async () => {
    const { there } = withRegistrar()
    const invited = (...zones: string[]) => there.ask(host(1), there.ticket({ zones }, registrar))
    expect(await invited('*')).toEqual({ refused: expect.stringContaining('may not grant nodes of zones *') })
    expect(await invited('eu.auto', 'us')).toHaveProperty('refused')
    expect(await invited('eu.auto.paris')).toEqual({ standing: 'pending' })
  })

  test('denies who was invited to its zones, and nobody else', async () => {
    const { there } = withRegistrar()
    await there.ask(host(1), there.ticket({ zones: ['us'] }))
    await there.ask(host(2), there.ticket({ zones: ['eu.auto'] }))
    const [elsewhere, here] = there.joins.pending() as [PendingRequest, PendingRequest]
    const reject = ({ id }: PendingRequest) => there.joins.reject(signRejection(there.mesh.id, id, registrar))
    expect(() => reject(elsewhere)).toThrow('must be able to grant')
    expect(reject(here)).toBe(host(2).publicKey)
  })

  test('cannot turn away for ever whom others invite, and turns away whom it let in and took out', async () => {
    const { there, author } = withRegistrar()
    const key = host(3)
    expect(await there.ask(key, there.ticket({ zones: ['us'] }))).toEqual({ standing: 'pending' })
    const grant = author.grant(key.publicKey, 'node', { zones: ['eu.auto'] })
    const revocation = author.revoke(`grant/${grant.id}`)
    there.add(grant, revocation)
    expect(there.joins.pending()).toHaveLength(1)
    expect(await there.ask(key, there.ticket({ zones: ['us'] }))).toEqual({ standing: 'pending' })
    // It learns why it is no node there, as every revoked key does.
    expect(await there.say(key, { ask: 'standing' })).toEqual({ standing: 'pending', envelopes: [toWire(revocation)] })
    expect(await there.ask(key, there.ticket({ zones: ['eu.auto'] }, registrar))).toEqual({
      standing: 'revoked',
      envelopes: [toWire(revocation)],
    })
    there.add(there.mesh.grant(key.publicKey, 'node', { zones: ['us'] }))
    expect(await there.ask(key)).toMatchObject({ standing: 'node' })
  })
})

test('what is no message of the protocol ends the talk', async () => {
  const there = new Host()
  const talk = there.joins.receive({ key: host(1).publicKey, address: '' })
  const junk = ['', '{}', '{"ask":"log"}', '{"ask":"standing","more":1}', '[', 'null', '\u0000']
  for (const text of junk) expect(await talk(Buffer.from(text))).toBeUndefined()
  const large = { ask: 'standing', padding: 'x'.repeat(JOIN_LIMITS.requestBytes) }
  expect(await talk(Buffer.from(JSON.stringify(large)))).toBeUndefined()
  expect(await there.say(host(1), { ask: 'standing' })).toEqual({ standing: 'unknown' })
})

describe('a revoked key', () => {
  /** A replica that stopped where the host's history had `count` envelopes. */
  async function replicaWith(mesh: TestMesh, envelopes: readonly Envelope[]): Promise<Replica> {
    const metrics = createMetrics({ routes: [] })
    const replica = new Replica({
      store: new MemoryStore(),
      clock: new VirtualClock(),
      log: silentLog(),
      metrics,
      meshId: mesh.id,
    })
    await replica.start()
    if (envelopes.length > 0) await replica.submit(envelopes.map(toWire), 'disk')
    return replica
  }

  test.each([
    ['that has missed all since its grant', 4],
    ['that has lost its store', 0],
  ])('%s learns what revoked it, and no edit of the mesh', async (_what, count) => {
    const there = new Host()
    const key = host(1)
    there.add(there.mesh.grant(key.publicKey, 'node'))
    // Many between: they do not fit into one answer, and each rests on the one before.
    for (let n = 0; n < 1500; n++) there.add(there.mesh.grant(host(n + 10).publicKey, 'viewer', { name: `v-${n}` }))
    const edit = there.mesh.edit('default/eu/site/shop', [['set', '$', true]])
    there.add(edit, there.mesh.revoke(`key/${key.publicKey}`))
    const known = there.state.history.order.slice(0, count).map((id) => there.state.history.get(id) as Envelope)
    const replica = await replicaWith(there.mesh, known)
    expect(await learnStanding(there.visit(key), replica)).toBe('revoked')
    expect(replica.state.policy.isRevokedNode(key.publicKey)).toBe(true)
    expect(replica.state.history.has(edit.id)).toBe(false)
    await replica.stop()
  })

  test('that a rogue revoked learns that the rogue was revoked, and is a node again', async () => {
    const there = new Host()
    const [key, rogue] = [host(1), host(2)]
    const admin = there.mesh.grant(rogue.publicKey, 'admin')
    const coup = new Author(there.mesh.id, rogue, admin.id).revoke(`key/${key.publicKey}`)
    there.add(there.mesh.grant(key.publicKey, 'node'), admin, coup)
    const known = there.state.history.order.map((id) => there.state.history.get(id) as Envelope)
    const replica = await replicaWith(there.mesh, known)
    expect(replica.state.policy.isRevokedNode(key.publicKey)).toBe(true)
    const edit = there.mesh.edit('default/eu/site/shop', [['set', '$', true]])
    there.add(edit, there.mesh.revoke(`key/${rogue.publicKey}`))
    expect(await learnStanding(there.visit(key), replica)).toBe('node')
    expect(replica.state.policy.isRevokedNode(key.publicKey)).toBe(false)
    expect(replica.state.history.has(edit.id)).toBe(false)
    await replica.stop()
  })

  test('that a registrar let in and took out learns it too, and knows that it is no node any more', async () => {
    const there = new Host()
    const [key, registrar] = [host(1), keyOf('registrar')]
    const robot = there.mesh.grant(registrar.publicKey, 'robot', { zones: ['eu.auto'], kinds: ['node'] })
    const author = new Author(there.mesh.id, registrar, robot.id)
    const grant = author.grant(key.publicKey, 'node', { zones: ['eu.auto'] })
    there.add(robot, grant)
    const known = there.state.history.order.map((id) => there.state.history.get(id) as Envelope)
    const replica = await replicaWith(there.mesh, known)
    const own = { own: key.publicKey, enc: encryptionKey(key.seed).publicKey, listed: [], zones: [] }
    const membership = new Membership({ state: replica.state, ...own })
    there.add(author.revoke(`grant/${grant.id}`))
    expect([membership.isRevoked, there.membership.allows(key.publicKey)]).toEqual([false, false])
    await learnStanding(there.visit(key), replica)
    expect([membership.isRevoked, membership.places()]).toEqual([true, []])
    await replica.stop()
  })

  test('is asked for nothing else, and others are given nothing', async () => {
    const there = new Host()
    const [gone, stranger] = [host(1), host(2)]
    const edit = there.mesh.edit('default/eu/site/shop', [['set', '$', true]])
    there.add(there.mesh.grant(gone.publicKey, 'node'), edit, there.mesh.revoke(`key/${gone.publicKey}`))
    const ids = [edit.id, there.mesh.ownerGrant]
    const given = await there.say(gone, { ask: 'ancestors', ids })
    expect(given?.envelopes?.map(({ bytes }) => JSON.parse(bytes).type)).toEqual(['genesis', 'grant'])
    expect(await there.say(stranger, { ask: 'ancestors', ids })).toEqual({ envelopes: [] })
    expect(await there.say(node, { ask: 'ancestors', ids })).toEqual({ envelopes: [] })
    expect(await there.ask(gone)).toMatchObject({ standing: 'revoked' })
  })
})
