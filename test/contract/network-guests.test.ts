/**
 * Guests over real TCP: a key that is no node's can ask and nothing else, whatever it tries, and floods of them are bounded
 * while the node goes on answering an honest peer. The guests are bare libp2p where they misbehave.
 */

import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { generateKeyPairFromSeed } from '@libp2p/crypto/keys'
import type { Connection, Libp2p, Stream } from '@libp2p/interface'
import { noise } from '@libp2p/noise'
import { tcp } from '@libp2p/tcp'
import { yamux } from '@libp2p/yamux'
import { createLibp2p } from 'libp2p'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { Libp2pNetwork, visitPeer, type NetworkEvent } from '../../src/adapters/network.ts'
import { multiaddrOf } from '../../src/adapters/network/addresses.ts'
import { GUEST_LIMITS } from '../../src/adapters/network/guests.ts'
import { createGuestHost } from '../../src/adapters/network/host.ts'
import { keyPairFromSeed } from '../../src/core/envelope.ts'
import type { NetworkHandlers, Visit } from '../../src/ports.ts'
import { hasten } from '../support/hasty-clock.ts'
import { waitFor } from '../support/wait.ts'

const HASTE = 20
const MESH = createHash('sha256').update('the mesh').digest('hex')
const PREFIX = `/nxmesh/${createHash('sha256').update('test').digest('hex').slice(0, 16)}`
const JOIN = `${PREFIX}/join/1`
const SEEDS = { host: seed('host'), honest: seed('honest') }
const hostKey = keyPairFromSeed(SEEDS.host).publicKey
const honestKey = keyPairFromSeed(SEEDS.honest).publicKey

function seed(name: string): Uint8Array {
  return createHash('sha256').update(name).digest()
}

let host: Libp2pNetwork
let honest: Libp2pNetwork
let events: Map<NetworkEvent, number>
/** What reached the owner of the network from a key that is not admitted, and must not. */
let intrusions: string[]
let questions: string[]
let guests: Libp2p[]
let visits: Visit[]

const handlers: NetworkHandlers = {
  allows: (key) => key === hostKey || key === honestKey,
  onGossip: (_, from) => {
    if (from !== honestKey && from !== hostKey) intrusions.push('gossip')
    return Promise.resolve('accept')
  },
  onRequest: (from, request) => {
    if (from !== honestKey && from !== hostKey) intrusions.push('request')
    return Promise.resolve(request)
  },
  onConnected: (key) => {
    if (key !== honestKey && key !== hostKey) intrusions.push('connected')
  },
  onDisconnected: () => undefined,
  onGuest:
    ({ key }) =>
    (question) => {
      questions.push(`${key.slice(0, 8)} ${Buffer.from(question).toString()}`)
      return Promise.resolve(Buffer.from(`heard ${Buffer.from(question).toString()}`))
    },
}

function network(keySeed: Uint8Array, networkId = 'test'): Libp2pNetwork {
  const count = (event: NetworkEvent) => void events.set(event, (events.get(event) ?? 0) + 1)
  return new Libp2pNetwork({
    keySeed,
    networkId,
    bindAddress: '127.0.0.1',
    bindPort: 0,
    gossip: 'push',
    clock: hasten(HASTE),
    random: Math.random,
    ...(keySeed === SEEDS.host && { count }),
  })
}

beforeEach(async () => {
  events = new Map()
  intrusions = []
  questions = []
  guests = []
  visits = []
  host = network(SEEDS.host)
  honest = network(SEEDS.honest)
  await host.start(handlers)
  await honest.start(handlers)
  for (const node of [host, honest]) node.joinMesh(MESH)
  honest.setKnownPeers([{ key: hostKey, addresses: host.addresses }])
  await waitFor(() => host.connected.includes(honestKey), { what: 'the honest peer is connected' })
})

afterEach(async () => {
  // Whatever was tried, the node serves its peers, and nobody else got in.
  const answer = await honest.request(hostKey, Buffer.from('still there?'))
  await Promise.all([...visits.map((one) => one.close()), ...guests.map((guest) => guest.stop())])
  await Promise.all([host.stop(), honest.stop()])
  assert.equal(Buffer.from(answer).toString(), 'still there?')
  assert.deepEqual(intrusions, [])
})

async function visit(name: string, options: { networkId?: string; key?: string } = {}): Promise<Visit> {
  const peer = { key: options.key ?? hostKey, addresses: host.addresses }
  const made = await visitPeer({ keySeed: seed(name), networkId: options.networkId ?? 'test' }, peer)
  visits.push(made)
  return made
}

async function ask(one: Visit, text: string): Promise<string> {
  return Buffer.from(await one.ask(Buffer.from(text))).toString()
}

/** A guest that does what it wants. */
async function arrive(name: string): Promise<Connection> {
  const guest = await createGuestHost(seed(name))
  guests.push(guest)
  return await guest.dial(multiaddrOf(host.addresses[0] ?? ''))
}

const isOver = (connection: Connection) => () => connection.status !== 'open'

function frame(text: string): Uint8Array {
  const header = Buffer.alloc(4)
  header.writeUInt32BE(text.length)
  return Buffer.concat([header, Buffer.from(text)])
}

test('a key that nobody knows can ask and is answered', async () => {
  const one = await visit('stranger')
  expect(await ask(one, 'who am I?')).toBe('heard who am I?')
  expect(await ask(one, 'and now?')).toBe('heard and now?')
  expect(questions[0]).toBe(`${keyPairFromSeed(seed('stranger')).publicKey.slice(0, 8)} who am I?`)
  expect(host.connected).toEqual([honestKey])
})

test('so can a key that is a node’s, beside its link', async () => {
  const one = await visit('honest')
  expect(await ask(one, 'hello')).toBe('heard hello')
  expect(host.connected).toEqual([honestKey])
})

test('a visit to another key, or another network, comes to nothing', async () => {
  await expect(visit('stranger', { key: keyPairFromSeed(seed('else')).publicKey })).rejects.toThrow(/cannot visit/)
  await expect(visit('stranger', { networkId: 'other' })).rejects.toThrow(/another network_id or receives no guests/)
  expect(questions).toEqual([])
})

test('a node whose owner receives no guests has none', async () => {
  const deaf = network(seed('deaf'))
  const { onGuest: _, ...others } = handlers
  await deaf.start(others)
  const peer = { key: keyPairFromSeed(seed('deaf')).publicKey, addresses: deaf.addresses }
  await expect(visitPeer({ keySeed: seed('stranger'), networkId: 'test' }, peer)).rejects.toThrow(/cannot visit/)
  await deaf.stop()
})

describe('an unknown key', () => {
  test.each([
    ['requests', `${PREFIX}/request/1`],
    ['pushed edits', `${PREFIX}/push/${MESH}/1`],
    ['gossip', `${PREFIX}/gossip/${MESH}/1`],
  ])('as a guest cannot speak the protocol of %s', async (_what, protocol) => {
    const connection = await arrive('intruder')
    const stream = await connection.newStream(protocol).catch(() => undefined)
    if (stream?.status === 'open') stream.send(frame('\u0001\u0000\u0000\u0000\u0001let me in'))
    await waitFor(isOver(connection), { what: 'its connection is closed' })
    expect(questions).toEqual([])
  })

  test('as a node is refused before any stream is its own', async () => {
    const intruder = network(seed('intruder'))
    let connected = 0
    await intruder.start({ ...handlers, allows: () => true, onConnected: () => connected++ })
    intruder.joinMesh(MESH)
    intruder.setKnownPeers([{ key: hostKey, addresses: host.addresses }])
    await waitFor(() => (events.get('connection_refused') ?? 0) > 3, { what: 'it was refused again and again' })
    await intruder.stop()
    expect(connected).toBe(0)
  })

  test('with a node’s muxer cannot even ask', async () => {
    const guest = await createLibp2p({
      privateKey: await generateKeyPairFromSeed('Ed25519', seed('intruder')),
      transports: [tcp()],
      connectionEncrypters: [noise()],
      streamMuxers: [yamux()],
    })
    guests.push(guest)
    const connection = await guest.dial(multiaddrOf(host.addresses[0] ?? ''))
    const stream = await connection.newStream(JOIN).catch(() => undefined)
    if (stream?.status === 'open') stream.send(frame('hello'))
    await waitFor(isOver(connection), { what: 'its connection is closed' })
    expect(questions).toEqual([])
  })
})

describe('a guest is sent away that', () => {
  const cases: [string, (stream: Stream) => void][] = [
    ['asks at too great a length', (stream) => stream.send(frame('x'.repeat(GUEST_LIMITS.questionBytes + 1)))],
    ['claims a question of 4 GiB', (stream) => stream.send(Uint8Array.of(255, 255, 255, 255))],
    ['asks before it was answered', (stream) => stream.send(Buffer.concat([frame('one'), frame('two')]))],
    ['says nothing for too long', () => undefined],
    ['never ends its question', (stream) => stream.send(Uint8Array.of(0, 0, 1, 0, 42))],
  ]
  test.each(cases)('%s', async (_what, misbehave) => {
    const connection = await arrive('guest')
    misbehave(await connection.newStream(JOIN))
    expect(await waitFor(isOver(connection), { what: 'its connection is closed' })).toBe(true)
  })

  test('opens no stream at all', async () => {
    const connection = await arrive('guest')
    expect(await waitFor(isOver(connection), { what: 'its connection is closed' })).toBe(true)
  })

  test('asks too often', async () => {
    const one = await visit('guest')
    for (let n = 0; n < GUEST_LIMITS.questions; n++) await ask(one, String(n))
    await expect(ask(one, 'one more')).rejects.toThrow(/ended the visit/)
  })
})

describe('while no time passes', () => {
  let still: Libp2pNetwork
  let admitted: number

  beforeEach(async () => {
    admitted = 0
    still = new Libp2pNetwork({
      keySeed: seed('still'),
      networkId: 'test',
      bindAddress: '127.0.0.1',
      bindPort: 0,
      gossip: 'push',
      clock: { ...hasten(1), monotonic: () => 0, after: () => () => undefined },
      random: Math.random,
      count: (event) => void (event === 'guest_admitted' && admitted++),
    })
    await still.start(handlers)
  })

  afterEach(() => still.stop())

  const come = (n: number): Promise<Visit> => {
    const peer = { key: keyPairFromSeed(seed('still')).publicKey, addresses: still.addresses }
    return visitPeer({ keySeed: seed(`guest ${n}`), networkId: 'test' }, peer)
  }

  test('a flood of guests is bounded, and makes room again', async () => {
    const count = GUEST_LIMITS.guestsOfAddress * 3
    const arrivals = await Promise.allSettled(Array.from({ length: count }, (_, n) => come(n)))
    const here = arrivals.filter((arrival) => arrival.status === 'fulfilled').map(({ value }) => value)
    expect([admitted, here.length]).toEqual([GUEST_LIMITS.guestsOfAddress, GUEST_LIMITS.guestsOfAddress])
    await here[0]!.close()
    const late = await waitFor(() => come(count).catch(() => undefined), { what: 'there is room', everyMs: 50 })
    expect(await ask(late, 'me too')).toBe('heard me too')
    await Promise.all([...here, late].map((one) => one.close()))
  })

  test('one address comes only so often, whatever keys it makes up', async () => {
    const { burst } = GUEST_LIMITS.visits
    let key = 0
    const comeAndGo = async () => (await come(key++).catch(() => undefined))?.close()
    await waitFor(async () => (await comeAndGo(), admitted >= burst), {
      what: 'all visits are used up',
      timeoutMs: 60_000,
    })
    for (let n = 0; n < 10; n++) await comeAndGo()
    expect(admitted).toBe(burst)
  })
})
