/**
 * The libp2p network against peers that hold an admitted key and lie in every byte: each attack must end in a closed
 * connection or a bounded cost, while the node goes on answering an honest peer. The attacker is bare libp2p.
 */

import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { connect } from 'node:net'
import { generateKeyPairFromSeed } from '@libp2p/crypto/keys'
import type { Connection, Libp2p, Stream } from '@libp2p/interface'
import { noise } from '@libp2p/noise'
import { tcp } from '@libp2p/tcp'
import { yamux } from '@libp2p/yamux'
import { createLibp2p } from 'libp2p'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { Libp2pNetwork, type NetworkEvent } from '../../src/adapters/network.ts'
import { multiaddrOf } from '../../src/adapters/network/addresses.ts'
import { keyPairFromSeed } from '../../src/core/envelope.ts'
import { MAX_MESSAGE_BYTES, type NetworkHandlers } from '../../src/ports.ts'
import { hasten } from '../support/hasty-clock.ts'
import { waitFor } from '../support/wait.ts'

const MESH = createHash('sha256').update('the mesh').digest('hex')
const PREFIX = `/nxmesh/${createHash('sha256').update('test').digest('hex').slice(0, 16)}`
const REQUEST = `${PREFIX}/request/1`
const PUSH = `${PREFIX}/push/${MESH}/1`
const GOSSIP = `${PREFIX}/gossip/${MESH}/1`
const SEEDS = {
  victim: new Uint8Array(32).fill(1),
  honest: new Uint8Array(32).fill(2),
  attacker: new Uint8Array(32).fill(3),
}
const attackerKey = keyPairFromSeed(SEEDS.attacker).publicKey
const honestKey = keyPairFromSeed(SEEDS.honest).publicKey
const victimKey = keyPairFromSeed(SEEDS.victim).publicKey

let victim: Libp2pNetwork
let honest: Libp2pNetwork
let attacker: Libp2p
let connection: Connection
let events: Map<NetworkEvent, number>
let heard: string[]
let honestHeard: number
/** Where the nodes' time stands, for what depends on how much is sent in a while. */
let stoodAtMs: number | undefined

const handlers: NetworkHandlers = {
  allows: () => true,
  onGossip: (_channel, _from, payload) => {
    heard.push(Buffer.from(payload).toString())
    return Promise.resolve('accept')
  },
  onRequest: (_from, request) => Promise.resolve(request),
  onConnected: () => {},
  onDisconnected: () => {},
}

function network(keySeed: Uint8Array): Libp2pNetwork {
  const count = (event: NetworkEvent) => void events.set(event, (events.get(event) ?? 0) + 1)
  const hasty = hasten(20)
  const clock = { ...hasty, monotonic: () => stoodAtMs ?? hasty.monotonic() }
  return new Libp2pNetwork({
    keySeed,
    networkId: 'test',
    bindAddress: '127.0.0.1',
    bindPort: 0,
    gossip: 'push',
    clock,
    random: Math.random,
    ...(keySeed === SEEDS.victim && { count }),
  })
}

beforeEach(async () => {
  events = new Map()
  heard = []
  honestHeard = 0
  stoodAtMs = undefined
  victim = network(SEEDS.victim)
  honest = network(SEEDS.honest)
  await victim.start(handlers)
  await honest.start({
    ...handlers,
    onGossip: () => {
      honestHeard++
      return Promise.resolve('accept')
    },
  })
  for (const node of [victim, honest]) node.joinMesh(MESH)
  honest.setKnownPeers([{ key: victimKey, addresses: victim.addresses }])
  attacker = await createLibp2p({
    privateKey: await generateKeyPairFromSeed('Ed25519', SEEDS.attacker),
    transports: [tcp()],
    connectionEncrypters: [noise()],
    streamMuxers: [yamux({ maxOutboundStreams: 100_000 })],
    connectionMonitor: { enabled: false },
  })
  await waitFor(() => victim.connected.includes(honestKey), { what: 'the honest peer is connected' })
})

afterEach(async () => {
  // Whatever was done to it, the node serves others.
  // All of them share one thread: the honest one may have missed signs of life, and is back by itself.
  await waitFor(() => honest.connected.includes(victimKey), { what: 'the honest peer is connected still, or again' })
  assert.equal(Buffer.from(await honest.request(victimKey, Buffer.from('still there?'))).toString(), 'still there?')
  await Promise.all([victim.stop(), honest.stop(), attacker.stop()])
})

/** Connects the attacker; `polite` answers the greeting and pings as a node would. */
async function attack(polite: 'polite' | 'mute'): Promise<void> {
  await attacker.handle(REQUEST, (stream) => {
    if (polite === 'polite') stream.addEventListener('message', ({ data }) => void stream.send(data))
  })
  const address = multiaddrOf(victim.addresses[0] ?? '')
  connection = await attacker.dial(address)
  await waitFor(() => victim.connected.includes(attackerKey), { what: 'the attacker is connected' })
}

const cutOff = () => waitFor(() => !victim.connected.includes(attackerKey), { what: 'the attacker is cut off' })

function frame(...bytes: number[]): Uint8Array {
  const header = Buffer.alloc(4)
  header.writeUInt32BE(bytes.length)
  return Buffer.concat([header, Buffer.from(bytes)])
}

test.each([
  ['a frame of 4 GiB', REQUEST, Uint8Array.of(255, 255, 255, 255)],
  [
    'a frame one byte over the limit',
    PUSH,
    Uint8Array.from(Buffer.from((MAX_MESSAGE_BYTES + 6).toString(16).padStart(8, '0'), 'hex')),
  ],
  ['an empty frame', PUSH, frame()],
  ['an unknown type of request', REQUEST, frame(99, 0, 0, 0, 1)],
  ['a request shorter than its header', REQUEST, frame(1)],
])('closes the connection on %s', async (_what, protocol, bytes) => {
  await attack('polite')
  const stream = await connection.newStream(protocol)
  stream.send(bytes)
  expect(await cutOff()).toBe(true)
})

test('bans who keeps sending what is no message', async () => {
  await attack('polite')
  const stream = await connection.newStream(PUSH)
  for (let index = 0; index < 20 && stream.status === 'open'; index++) stream.send(frame(77, index))
  expect(await cutOff()).toBe(true)
  expect(events.get('peer_banned')).toBe(1)
})

test('gives up on a frame that never ends', async () => {
  await attack('polite')
  const stream = await connection.newStream(PUSH)
  stream.send(Uint8Array.of(0, 0, 1, 0, 42))
  expect(await cutOff()).toBe(true)
})

test('gives up on a peer that shows no sign of life', async () => {
  await attack('mute')
  expect(await cutOff()).toBe(true)
})

test('bounds the streams of a connection', async () => {
  await attack('polite')
  const opened = await Promise.allSettled(
    Array.from({ length: 2000 }, () => connection.newStream(REQUEST, { maxOutboundStreams: 5000 })),
  )
  expect(opened.some((result) => result.status === 'rejected')).toBe(true)
  expect(await cutOff()).toBe(true)
})

test('bounds the connections of a peer', async () => {
  await attack('polite')
  const address = multiaddrOf(victim.addresses[0] ?? '')
  for (let index = 0; index < 20; index++) await attacker.dial(address, { force: true }).catch(() => undefined)
  expect(await waitFor(() => attacker.getConnections().length <= 2, { what: 'all but two are closed' })).toBe(true)
})

test('drops what is over the rate, and bans who goes on', async () => {
  await attack('polite')
  stoodAtMs = hasten(20).monotonic()
  const stream = await connection.newStream(PUSH)
  for (let index = 0; index < 40_000 && stream.status === 'open'; index++) {
    const message = Buffer.alloc(9)
    message.writeUInt32BE(5)
    message[4] = 1
    message.writeUInt32BE(index, 5)
    if (!stream.send(message)) await Promise.race([drained(stream), closed(stream)])
  }
  expect(await cutOff()).toBe(true)
  expect(events.get('rate_limited')).toBeGreaterThan(1000)
  expect(heard.length).toBeLessThan(4_000)
  stoodAtMs = undefined
})

test('holds a bounded amount for a peer that does not read', async () => {
  await attack('polite')
  let stalled = false
  await attacker.handle(PUSH, (stream) => {
    stream.pause()
    stalled = true
  })
  // Opening ours tells the victim that we are in the mesh; it then opens its own, which we never read.
  await connection.newStream(PUSH)
  await waitFor(() => stalled, { what: 'the victim opens its stream' })
  const bytes = 8 * 1024
  let taken = 0
  for (let index = 0; index < 2000; index++) {
    taken += await victim.publish('edits', Buffer.alloc(bytes, index.toString()))
    if (index % 20 === 0) await new Promise((resolve) => setImmediate(resolve))
  }
  expect(events.get('push_dropped')).toBeGreaterThan(1000)
  // What the honest peer was given it reads; the rest is what is held for the attacker.
  const held = () => (taken - honestHeard) * bytes
  expect(await waitFor(() => held() < 4 * 1024 * 1024, { what: 'at most 4 MiB are held' })).toBe(true)
})

test('serves on while strangers hold sockets open without a word', async () => {
  const [host = '', port = ''] = (victim.addresses[0] ?? '').split(':')
  const sockets = Array.from({ length: 40 }, () => connect(Number(port), host))
  for (const socket of sockets) socket.on('error', () => undefined)
  await waitFor(() => sockets.every((socket) => !socket.connecting), { what: 'all sockets are open' })
  await attack('polite')
  expect(victim.connected).toContain(attackerKey)
  for (const socket of sockets) socket.destroy()
})

test('opens a gossip stream again that died while its connection lives', async () => {
  let opened = 0
  await attacker.handle(GOSSIP, (stream) => {
    opened++
    stream.abort(new Error('lost'))
  })
  await attack('polite')
  await waitFor(() => opened >= 3, { what: 'the stream is opened again', timeoutMs: 10_000 })
  expect(victim.connected).toContain(attackerKey)
})

function drained(stream: Stream): Promise<void> {
  return new Promise((resolve) => stream.addEventListener('drain', () => resolve(), { once: true }))
}

function closed(stream: Stream): Promise<void> {
  return new Promise((resolve) => stream.addEventListener('close', () => resolve(), { once: true }))
}
