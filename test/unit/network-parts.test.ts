/**
 * The parts of the network that need no network: rates, backoff, whom to dial, what to pass on, names of peers and
 * addresses; and that the in-memory network repeats a run exactly from its seed.
 */

import { createHash } from 'node:crypto'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { hostPortOf, multiaddrOf, peerIdOf, peerKeyOf } from '../../src/adapters/network/addresses.ts'
import { Conduct } from '../../src/adapters/network/conduct.ts'
import { Dialler } from '../../src/adapters/network/dialler.ts'
import { Spread, SPREAD_LIMITS } from '../../src/adapters/network/spread.ts'
import { TokenBucket } from '../../src/adapters/network/token-bucket.ts'
import { backoffMs } from '../../src/backoff.ts'
import { keyPairFromSeed } from '../../src/core/envelope.ts'
import type { GossipVerdict, KnownPeer } from '../../src/ports.ts'
import { collectionSizes } from '../support/collections.ts'
import { type MemoryNetwork, MemoryWire } from '../support/memory-network.ts'
import { VirtualClock } from '../support/virtual-clock.ts'

const SECOND = 1000
const keyOf = (name: string | number) => createHash('sha256').update(String(name)).digest('hex')
const peer = (name: string, listed = false): KnownPeer => ({ key: keyOf(name), addresses: [`${name}:1`], listed })

/** mulberry32. */
function seeded(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

test('a bucket gives its burst, then its rate, and never more than its burst', () => {
  const bucket = new TokenBucket({ perSecond: 10, burst: 20 }, 0)
  const take = (count: number, nowMs: number) =>
    Array.from({ length: count }, () => bucket.take(1, nowMs)).filter(Boolean).length
  expect(take(30, 0)).toBe(20)
  expect(take(30, SECOND)).toBe(10)
  expect(take(30, 3600 * SECOND)).toBe(20)
})

test('backoff grows, is capped, and strays by no more than a quarter', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 10_000 }),
      fc.double({ min: 0, max: 1, noNaN: true, maxExcluded: true }),
      (failures, random) => {
        const full = Math.min(30_000, 500 * 2 ** (failures - 1))
        const waitMs = backoffMs(failures, 500, 30_000, () => random)
        expect(waitMs).toBeGreaterThanOrEqual(full * 0.75)
        expect(waitMs).toBeLessThanOrEqual(full * 1.25)
      },
    ),
  )
})

test.each([
  ['192.0.2.7:9102', '/ip4/192.0.2.7/tcp/9102'],
  ['[2001:db8::7]:9102', '/ip6/2001:db8::7/tcp/9102'],
  ['edge-1.example.net:9102', '/dns/edge-1.example.net/tcp/9102'],
  ['/ip4/192.0.2.7/tcp/1', '/ip4/192.0.2.7/tcp/1'],
])('%s is %s', (address, expected) => {
  expect(multiaddrOf(address).toString()).toBe(expected)
  if (!address.startsWith('/')) expect(hostPortOf(multiaddrOf(address))).toBe(address)
})

test.each([
  '',
  'host',
  'host:',
  ':1',
  'host:0',
  'host:65536',
  'a b:1',
  '::1:9102',
  '[nonsense]:1',
  '/ip4/nonsense/tcp/1',
  'h/tcp:1',
])('%j is no address', (address) => {
  expect(() => multiaddrOf(address)).toThrow(expect.objectContaining({ code: 'input_invalid' }))
})

test('a key becomes a PeerId and back', () => {
  const { publicKey } = keyPairFromSeed(new Uint8Array(32).fill(5))
  expect(peerKeyOf(peerIdOf(publicKey))).toBe(publicKey)
  expect(() => peerIdOf('00')).toThrow(expect.objectContaining({ code: 'input_invalid' }))
})

// ---------------------------------------------------------------------------------------------- dialler

function dialling(targetPeers: number) {
  const clock = new VirtualClock()
  const dialled: string[] = []
  const reachable = new Set<string>()
  const hungUp: string[] = []
  const dialler = new Dialler({
    clock,
    random: seeded(7),
    targetPeers,
    dial: async ({ key }) => {
      dialled.push(key)
      if (!reachable.has(key)) throw new Error('unreachable')
      dialler.onUp(key)
    },
    hangUp: (key) => {
      hungUp.push(key)
      dialler.onDown(key)
    },
  })
  dialler.start()
  return { clock, dialler, dialled, reachable, hungUp }
}

test('dials for ever, ever more rarely, and at once again after a long connection was lost', async () => {
  const { clock, dialler, dialled, reachable } = dialling(8)
  dialler.setKnown([peer('a')])
  await clock.advance(10 * SECOND)
  expect(dialled.length).toBeGreaterThanOrEqual(5)
  dialled.length = 0
  await clock.advance(24 * 3600 * SECOND)
  expect(dialled.length).toBeGreaterThan((24 * 3600) / 30 - 1)
  expect(dialled.length).toBeLessThan((24 * 3600) / 15 + 1)
  reachable.add(keyOf('a'))
  await clock.advance(60 * SECOND)
  dialled.length = 0
  dialler.onDown(keyOf('a'))
  await clock.advance(300)
  expect(dialled).toHaveLength(1)
})

test('backs off from a peer that takes connections and drops them', async () => {
  const { clock, dialler, dialled, reachable } = dialling(8)
  reachable.add(keyOf('a'))
  dialler.setKnown([peer('a')])
  for (let second = 0; second < 600; second++) {
    await clock.advance(SECOND)
    dialler.onDown(keyOf('a'))
  }
  expect(dialled.length).toBeLessThan(60)
})

test('dials up to its target, and listed peers beyond it', async () => {
  const { clock, dialler, dialled, reachable } = dialling(3)
  const strangers = Array.from({ length: 10 }, (_, index) => peer(`s${index}`))
  const listed = [peer('l1', true), peer('l2', true), peer('l3', true), peer('l4', true)]
  for (const { key } of [...strangers, ...listed]) reachable.add(key)
  dialler.setKnown([...strangers, ...listed])
  await clock.advance(20 * SECOND)
  expect(dialled.toSorted()).toEqual(listed.map(({ key }) => key).toSorted())
})

test('meets others in time though its target is full, and drops as many of its own', async () => {
  const { clock, dialler, dialled, reachable, hungUp } = dialling(3)
  const strangers = Array.from({ length: 10 }, (_, index) => peer(`s${index}`))
  for (const { key } of strangers) reachable.add(key)
  dialler.setKnown(strangers)
  await clock.advance(3600 * SECOND)
  expect(new Set(dialled).size).toBe(10)
  expect(new Set(dialled).size - new Set(hungUp).size).toBeLessThanOrEqual(4)
})

// ---------------------------------------------------------------------------------------------- spread

function spreading() {
  const clock = new VirtualClock()
  const sent: { readonly peer: string; readonly frame: Uint8Array }[] = []
  const judged: string[] = []
  const malformed: string[] = []
  const state: { verdict: GossipVerdict } = { verdict: 'accept' }
  const spread = new Spread(clock, {
    send: (to, frames) => sent.push(...frames.map((frame) => ({ peer: to, frame }))) > 0,
    judge: async (_from, payload) => {
      judged.push(Buffer.from(payload).toString())
      return state.verdict
    },
    onMalformed: (from) => void malformed.push(from),
  })
  for (const name of ['a', 'b', 'c']) spread.addPeer(name)
  return { clock, spread, sent, judged, malformed, state, to: () => sent.map((one) => `${one.peer}:${one.frame[0]}`) }
}

const push = (text: string) => Buffer.concat([Uint8Array.of(1), Buffer.from(text)])
const hashFrame = (type: number, text: string) =>
  Buffer.concat([Uint8Array.of(type), createHash('sha256').update(text).digest()])

test('passes an accepted message on once, to those not known to have it', async () => {
  const { clock, spread, judged, to } = spreading()
  spread.onFrame('a', push('x'))
  spread.onFrame('b', push('x'))
  spread.onFrame('b', push('y'))
  await clock.advance(10)
  spread.onFrame('c', push('x'))
  await clock.advance(10)
  expect(judged).toEqual(['x', 'y'])
  expect(to()).toEqual(['a:1', 'c:1', 'c:1'])
})

test('takes an ignored message again later, and a rejected one never', async () => {
  const { clock, spread, judged, state, to } = spreading()
  state.verdict = 'ignore'
  spread.onFrame('a', push('x'))
  await clock.advance(0)
  state.verdict = 'reject'
  for (const from of ['a', 'b', 'c']) {
    spread.onFrame(from, push('x'))
    await clock.advance(0)
  }
  expect(judged).toEqual(['x', 'x'])
  expect(to()).toEqual([])
})

test('announces a large message, gives it on request, and pulls one from the next peer when the first fails', async () => {
  const { clock, spread, sent, to } = spreading()
  const large = 'y'.repeat(20_000)
  expect(spread.publish(Buffer.from(large))).toBe(3)
  expect(to()).toEqual(['a:2', 'b:2', 'c:2'])
  spread.onFrame('b', hashFrame(3, large))
  expect(Buffer.from(sent.at(-1)?.frame ?? []).equals(push(large))).toBe(true)
  sent.length = 0
  spread.onFrame('a', hashFrame(2, 'wanted'))
  spread.onFrame('b', hashFrame(2, 'wanted'))
  expect(to()).toEqual(['a:3'])
  await clock.advance(1100)
  expect(to()).toEqual(['a:3', 'b:3'])
  await clock.advance(5000)
  spread.onFrame('c', hashFrame(2, 'wanted'))
  expect(to()).toEqual(['a:3', 'b:3', 'c:3'])
})

test('says of every other frame that it is malformed', () => {
  const { spread, malformed } = spreading()
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 1, maxLength: 64 }), (frame) => {
      fc.pre(frame[0] !== 1 && !(frame.length === 33 && (frame[0] === 2 || frame[0] === 3)))
      malformed.length = 0
      spread.onFrame('a', frame)
      expect(malformed).toEqual(['a'])
    }),
  )
})

test('remembers a bounded number of messages, announcements and large payloads, whoever comes by', async () => {
  const { clock, spread } = spreading()
  for (let n = 0; n < 18_000; n += 1) {
    const from = `peer ${n % 2000}`
    spread.addPeer(from)
    spread.onFrame(from, push(String(n)))
    spread.onFrame(from, hashFrame(2, `wanted ${n}`))
    spread.removePeer(from)
    if (n % 100 === 0) await clock.advance(10)
  }
  for (let n = 0; n < 300; n += 1) spread.publish(Buffer.alloc(100_000, `${n} `))
  const sizes = collectionSizes(spread)
  expect(sizes.get('#peers')).toBe(3)
  expect(sizes.get('#seen')).toBe(16_384)
  expect(sizes.get('#wanted')).toBeLessThanOrEqual(1024)
  expect(sizes.get('#kept')).toBe(Math.floor((16 * 1024 * 1024) / 100_000))
  await clock.advance(2000)
  expect(collectionSizes(spread).get('#wanted')).toBe(0)
})

test('judges, pulls and keeps for passing on no more than its limits, whatever comes at once', async () => {
  const { clock, spread, judged, sent } = spreading()
  // Announced by a relay that has none of it.
  for (let n = 0; n < 3 * SPREAD_LIMITS.wanted; n += 1) spread.onFrame('a', hashFrame(2, `wanted ${n}`))
  expect(spread.footprint.wanted).toBe(SPREAD_LIMITS.wanted)
  expect(sent).toHaveLength(SPREAD_LIMITS.wanted)
  await clock.advance(2000)
  expect(spread.footprint.wanted).toBe(0)
  // No verdict comes before this loop is over.
  for (let n = 0; n < 3 * SPREAD_LIMITS.judging; n += 1) spread.onFrame('a', push(`${n}`))
  expect(spread.footprint.judging).toBe(SPREAD_LIMITS.judging)
  expect(judged).toHaveLength(SPREAD_LIMITS.judging)
  sent.length = 0
  let passing = 0
  // One verdict at a time.
  for (let turn = 0; turn < 10 * SPREAD_LIMITS.judging && spread.footprint.judging > 0; turn += 1) {
    await Promise.resolve()
    passing = Math.max(passing, spread.footprint.passing)
  }
  expect(passing).toBeLessThanOrEqual(SPREAD_LIMITS.passing)
  await clock.advance(10)
  // Each to the two others.
  expect(sent).toHaveLength(2 * SPREAD_LIMITS.judging)
  expect(spread.footprint).toMatchObject({ judging: 0, passing: 0 })
  // What was dropped is taken when it comes again.
  spread.onFrame('b', push(`${2 * SPREAD_LIMITS.judging}`))
  expect(judged).toHaveLength(SPREAD_LIMITS.judging + 1)
})

test('passes on what waits as soon as it is as much as its limit', async () => {
  const { spread, sent } = spreading()
  let most = 0
  for (let n = 0; n < SPREAD_LIMITS.passing; n += 1) {
    spread.onFrame('a', push(`${n}`))
    await Promise.resolve()
    await Promise.resolve()
    most = Math.max(most, spread.footprint.passing)
    if (n === SPREAD_LIMITS.passing - 2) expect([most, sent.length]).toEqual([SPREAD_LIMITS.passing - 1, 0])
  }
  expect([spread.footprint.passing, sent.length]).toEqual([0, 2 * SPREAD_LIMITS.passing])
})

test('remembers the conduct of a bounded number of peers, of late', () => {
  const conduct = new Conduct(new VirtualClock(), () => undefined)
  for (let n = 0; n < 3; n += 1) conduct.fault('bad', 'malformed')
  expect(conduct.banned('bad')).toBe(true)
  for (let n = 0; n < 3000; n += 1) conduct.admits(`peer ${n}`, 1000)
  expect(collectionSizes(conduct).get('#records')).toBe(1024)
  expect(conduct.banned('bad')).toBe(false)
})

// ---------------------------------------------------------------------------------------------- in memory

async function run(seed: number): Promise<{ readonly trace: string[]; readonly heard: number }> {
  const clock = new VirtualClock()
  const wire = new MemoryWire({ clock, random: seeded(seed), delayMs: [1, 40], lossRate: 0.05 })
  const nodes: MemoryNetwork[] = Array.from({ length: 12 }, (_, index) =>
    wire.node({ key: keyOf(index), targetPeers: 4 }),
  )
  const trace: string[] = []
  const heard = new Set<string>()
  for (const [index, node] of nodes.entries()) {
    await node.start({
      allows: () => true,
      onGossip: async (_channel, from, payload) => {
        heard.add(`${index} ${Buffer.from(payload).toString()}`)
        trace.push(`${clock.monotonic()} ${index} ${from.slice(0, 4)}`)
        return 'accept'
      },
      onRequest: async (_from, request) => request,
      onConnected: (key) => void trace.push(`${clock.monotonic()} ${index} + ${key.slice(0, 4)}`),
      onDisconnected: (key) => void trace.push(`${clock.monotonic()} ${index} - ${key.slice(0, 4)}`),
    })
    node.joinMesh('mesh')
  }
  for (const node of nodes) node.setKnownPeers(nodes.map(({ key, addresses }) => ({ key, addresses })))
  await clock.advance(5 * SECOND)
  const halves = [nodes.slice(0, 6), nodes.slice(6)].map((half) => half.map(({ key }) => key))
  wire.partition(halves[0] ?? [], halves[1] ?? [])
  await clock.advance(600 * SECOND)
  wire.heal()
  // Both halves are full by now; they meet again because nodes look further even so.
  await clock.until(
    () => nodes.slice(0, 6).some((node) => node.connected.some((key) => halves[1]?.includes(key))),
    120 * SECOND,
    'the halves meet',
  )
  await clock.advance(600 * SECOND)
  await nodes[0]?.publish('edits', Buffer.from('hello'))
  await clock.advance(5 * SECOND)
  return { trace, heard: heard.size }
}

test('a run in memory follows from its seed, heals a long partition, and reaches nearly all in spite of losses', async () => {
  const first = await run(42)
  expect(await run(42)).toEqual(first)
  expect((await run(43)).trace).not.toEqual(first.trace)
  expect(first.heard).toBeGreaterThanOrEqual(10)
})
