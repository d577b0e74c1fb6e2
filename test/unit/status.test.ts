import { describe, expect, test } from 'vitest'
import { canonical, sha256, type Json } from '../../src/core/canonical.ts'
import type { KeyPair } from '../../src/core/envelope.ts'
import type { Log } from '../../src/log.ts'
import { MAX_MARK_BYTES } from '../../src/ports.ts'
import { SHARING_TIMES } from '../../src/status/key-sharing.ts'
import {
  parseStatusPayload,
  RECORD_LIMITS,
  STATUS_SKEW_MS,
  type SignedStatus,
  type StatusRecord,
} from '../../src/status/status-record.ts'
import { peerState, STATUS_LIMITS, STATUS_TIMES, StatusTable, type OwnStatus } from '../../src/status/status.ts'
import { keyOf } from '../support/authors.ts'
import { diceFrom } from '../support/histories.ts'
import { MemoryStore } from '../support/memory-store.ts'
import type { Receipt } from '../../src/receipt.ts'
import { receiptOf } from '../support/receipt.ts'
import { rememberingLog, silentLog } from '../support/silent-log.ts'
import { VirtualClock } from '../support/virtual-clock.ts'

const MESH = 'a'.repeat(64)
const own = keyOf('own')
const peer = keyOf('peer')

const OWN: OwnStatus = {
  mesh: MESH,
  addresses: ['127.0.0.1:9102'],
  zones: ['eu'],
  labels: {},
  version: '0.1.0',
  digest: 'b'.repeat(64),
  receipt: null,
  health: { status: 'Running', msg: 'all is well', reasons: [] },
}

function sign(key: KeyPair, changes: Partial<StatusRecord> & Record<string, unknown> = {}): SignedStatus {
  const record = { v: 1, node: key.publicKey, incarnation: 1, sequence: 1, at: 0, leaving: false, ...OWN, ...changes }
  const bytes = canonical(record as unknown as Json)
  const input = Buffer.concat([
    Buffer.from('nxmesh/v1/status\0'),
    Buffer.from(record.mesh, 'hex'),
    Buffer.from([0]),
    Buffer.from(sha256(bytes), 'hex'),
  ])
  return { bytes, sig: key.sign(input) }
}

interface TableOptions {
  readonly describe?: () => OwnStatus | undefined
  readonly store?: MemoryStore
  readonly isNode?: (key: string) => boolean
  readonly log?: Log
  readonly key?: KeyPair
}

async function tableOf(options: TableOptions = {}) {
  const { describe = () => OWN, store = new MemoryStore(), isNode = () => true, log = silentLog(), key = own } = options
  const clock = new VirtualClock()
  const published: SignedStatus[] = []
  const payloads: Uint8Array[] = []
  await store.start()
  const table = new StatusTable({
    key,
    store,
    clock,
    random: () => 0.5,
    log,
    describe,
    isNode,
    granted: () => new Map([[peer.publicKey, 'edge-2']]),
    connected: () => [],
    publish: async (payload) => {
      payloads.push(payload)
      published.push(parseStatusPayload(payload) as SignedStatus)
    },
  })
  await table.start()
  return { table, clock, published, payloads, store }
}

describe('receiving', () => {
  test('takes what is news, and nothing twice', async () => {
    const { table } = await tableOf()
    const verdicts = [
      sign(peer, { sequence: 5 }),
      sign(peer, { sequence: 5 }),
      sign(peer, { sequence: 4 }),
      sign(peer, { sequence: 6 }),
      sign(peer, { incarnation: 2, sequence: 1 }),
      sign(peer, { incarnation: 1, sequence: 99 }),
    ].map((signed) => table.receive(signed))
    expect(verdicts).toEqual(['accept', 'ignore', 'ignore', 'accept', 'accept', 'ignore'])
    expect(table.peers()[0]?.record).toMatchObject({ incarnation: 2, sequence: 1 })
  })

  test.each<[string, unknown]>([
    ['nothing', undefined],
    ['text', 'text'],
    ['no signature', { bytes: sign(peer).bytes }],
    ['another’s signature', { ...sign(peer), sig: sign(own).sig }],
    ['another mesh', sign(peer, { mesh: 'c'.repeat(64) })],
    ['text that is not canonical', { ...sign(peer), bytes: ` ${sign(peer).bytes}` }],
    ['an incarnation over the limit', sign(peer, { incarnation: RECORD_LIMITS.incarnation + 1 })],
    ['a health that is none', sign(peer, { health: { status: 'Great' } as never })],
    ['too many addresses', sign(peer, { addresses: Array<string>(17).fill('x') })],
    ['too many bytes', sign(peer, { extra: 'x'.repeat(RECORD_LIMITS.bytes) })],
  ])('rejects %s', async (_, value) => {
    const { table } = await tableOf()
    expect(table.receive(value)).toBe('reject')
    expect(table.versions()).toHaveLength(0)
  })

  test('why a resource is isolated is shown, in words that are not known here too; an older node does not say', async () => {
    const { table } = await tableOf()
    const one = { path: 'default/eu/site/a', reason: 'in any words', serves: 'left_out' }
    const isolated = [one, { ...one, why: 'untried' }, { ...one, why: 'a word of tomorrow' }]
    expect(table.receive(sign(peer, { receipt: { ...receiptOf(), isolated } as never }))).toBe('accept')
    expect(table.peers()[0]?.record?.receipt?.isolated).toEqual(isolated)
  })

  test('never throws, whatever byte is changed', async () => {
    const { table } = await tableOf()
    const dice = diceFrom(3)
    const payload = Buffer.from(canonical({ ...sign(peer) }))
    for (let round = 0; round < 300; round += 1) {
      const changed = Buffer.from(payload)
      changed[dice.below(changed.length)] = dice.below(256)
      const cut = changed.subarray(0, dice.chance(0.3) ? dice.below(changed.length) : changed.length)
      expect(['accept', 'ignore', 'reject']).toContain(table.receive(parseStatusPayload(cut)))
    }
  })

  test('ignores who may not speak, and forgets who may not any more', async () => {
    let mayPeerSpeak = true
    const { table } = await tableOf({ isNode: (key) => key === peer.publicKey && mayPeerSpeak })
    expect(table.receive(sign(keyOf('stranger')))).toBe('ignore')
    expect(table.receive(sign(peer))).toBe('accept')
    mayPeerSpeak = false
    expect(table.versions()).toEqual([])
    expect(table.newerThan([])).toEqual({ records: [], more: false })
  })

  test('takes a few records a second from one node, and forged ones use up nobody’s share', async () => {
    const { table, clock } = await tableOf()
    const forged = Array.from({ length: 50 }, (_, n) => ({ ...sign(peer, { sequence: n + 1 }), sig: sign(own).sig }))
    expect(new Set(forged.map((signed) => table.receive(signed)))).toEqual(new Set(['reject']))
    const flood = Array.from({ length: 100 }, (_, n) => table.receive(sign(peer, { sequence: n + 1 })))
    expect(flood.filter((verdict) => verdict === 'accept')).toHaveLength(STATUS_LIMITS.burst)
    await clock.advance(1000)
    expect(table.receive(sign(peer, { sequence: 200 }))).toBe('accept')
  })
})

test('a peer that calls a new record old makes no live node unavailable', async () => {
  const { table, clock } = await tableOf()
  table.receive(sign(peer, { sequence: 1 }))
  await clock.advance(15_000)
  // It was made after the one before it, which was seen 15 s ago.
  expect(table.receive(sign(peer, { sequence: 2 }), 10 * STATUS_TIMES.unavailableAfterMs)).toBe('accept')
  expect(table.peers()[0]).toMatchObject({ state: 'Ready', ageMs: 15_000 })
})

describe('a key that two processes use', () => {
  const complaint = [expect.stringContaining('two processes sign status records with the key of node')]

  /** What the newer of two processes says, every 20 s, and what the older one says between. */
  const speak = async ({ table, clock }: Awaited<ReturnType<typeof tableOf>>, ...rounds: number[]) => {
    for (const n of rounds) {
      expect(table.receive(sign(peer, { incarnation: 2, sequence: n, at: clock.now() }))).toBe('accept')
      await clock.advance(10_000)
      const older = sign(peer, { incarnation: 1, sequence: 50 + n, at: clock.now() })
      for (const copy of [older, older]) expect(table.receive(copy)).toBe('ignore')
      await clock.advance(10_000)
    }
  }

  test('is told of by its peers when the older one goes on, and not for ever', async () => {
    const parts = await tableOf()
    await speak(parts, 1, 2)
    expect(parts.table.notes()).toEqual([])
    await speak(parts, 3)
    expect(parts.table.notes()).toEqual(complaint)
    await parts.clock.advance(SHARING_TIMES.forgottenAfterMs)
    expect(parts.table.notes()).toEqual([])
  })

  test('is a note on its peers, since whoever has one granted key can bring it about', async () => {
    const parts = await tableOf()
    await speak(parts, 1, 2, 3)
    expect([parts.table.notes(), parts.table.complaints()]).toEqual([complaint, []])
  })

  test.each([
    ['once a year ahead', 365 * 86_400_000],
    ['once some minutes ahead', STATUS_SKEW_MS - 1],
  ])('is not what a record says of a node whose clock was %s, however often it is told again', async (_, aheadMs) => {
    const { table, clock } = await tableOf()
    const early = sign(peer, { at: clock.now() + aheadMs })
    expect(table.receive(early)).toBe('accept')
    for (let n = 0; n < 40; n += 1) {
      await clock.advance(15_000)
      for (let copy = 0; copy < 100; copy += 1) expect(table.receive(early)).toBe('ignore')
      // What is told again is not charged to the node that signed it.
      expect(table.receive(sign(peer, { incarnation: 2, sequence: n, at: clock.now() }))).toBe('accept')
      expect(table.notes()).toEqual([])
    }
  })

  test('is not told of by one old record that comes here for the first time, again and again', async () => {
    const { table, clock } = await tableOf()
    const early = sign(peer, { at: clock.now() + STATUS_SKEW_MS - 1 })
    for (let n = 0; n < 40; n += 1) {
      expect(table.receive(sign(peer, { incarnation: 2, sequence: n, at: clock.now() }))).toBe('accept')
      expect(table.receive(early)).toBe('ignore')
      await clock.advance(15_000)
    }
    expect(table.notes()).toEqual([])
  })

  test('is not what records say of a node whose clock was ahead for long, told again when their time has come', async () => {
    const { table, clock } = await tableOf()
    const aheadMs = 4 * STATUS_SKEW_MS
    const early: SignedStatus[] = []
    for (let n = 0; n < 40; n += 1) {
      early.push(sign(peer, { sequence: n, at: clock.now() + aheadMs }))
      expect(table.receive(early.at(-1))).toBe('accept')
      await clock.advance(15_000)
    }
    await clock.advance(aheadMs - 41 * 15_000)
    for (const [n, signed] of early.entries()) {
      expect(table.receive(sign(peer, { incarnation: 2, sequence: n, at: clock.now() }))).toBe('accept')
      expect(table.receive(signed)).toBe('ignore')
      await clock.advance(15_000)
    }
    expect(table.notes()).toEqual([])
  })

  test('uses up no share of the node when it is told of many times', async () => {
    const { table, clock } = await tableOf()
    table.receive(sign(peer, { incarnation: 2, at: clock.now() }))
    for (let n = 0; n < 2 * STATUS_LIMITS.burst; n += 1) {
      expect(table.receive(sign(peer, { sequence: n, at: clock.now() + n + 1 }))).toBe('ignore')
    }
    expect(table.receive(sign(peer, { incarnation: 2, sequence: 2, at: clock.now() }))).toBe('accept')
  })

  test('is not what old records look like that are told again, late or by a hostile peer', async () => {
    const { table, clock } = await tableOf()
    const startMs = clock.now()
    const old = Array.from({ length: 40 }, (_, n) => sign(peer, { sequence: n, at: startMs - 15_000 * (40 - n) }))
    table.receive(sign(peer, { incarnation: 2, sequence: 1, at: startMs }))
    for (const signed of old) {
      await clock.advance(20_000)
      expect(table.receive(signed)).toBe('ignore')
    }
    expect(table.notes()).toEqual([])
  })

  test('cannot be made up without the key, and is forgotten with the node', async () => {
    let mayPeerSpeak = true
    const parts = await tableOf({ isNode: () => mayPeerSpeak })
    parts.table.receive(sign(peer, { incarnation: 2, at: 0 }))
    for (let n = 0; n < 5; n += 1) {
      await parts.clock.advance(20_000)
      const forged = { ...sign(peer, { at: parts.clock.now() }), sig: sign(own).sig }
      expect(parts.table.receive(forged)).toBe('reject')
    }
    expect(parts.table.notes()).toEqual([])
    await speak(parts, 2, 3, 4)
    expect(parts.table.notes()).toEqual(complaint)
    mayPeerSpeak = false
    parts.table.forgetStrangers()
    mayPeerSpeak = true
    expect(parts.table.notes()).toEqual([])
  })

  test('is told of by the node itself, unless it has only been restored', async () => {
    const { table, clock } = await tableOf()
    await clock.advance(1)
    // Its own past, told by several peers, or by a hostile one bit by bit.
    for (const sequence of [7, 8, 9]) table.receive(sign(own, { incarnation: 5, sequence, at: clock.now() }))
    for (const incarnation of [6, 7, 8, 9]) {
      await clock.advance(20_000)
      table.receive(sign(own, { incarnation, at: clock.now() - STATUS_SKEW_MS - 1 }))
    }
    await clock.advance(20_000)
    expect(table.own()?.incarnation).toBe(10)
    expect(table.complaints()).toEqual([])
    for (const incarnation of [20, 30]) {
      table.receive(sign(own, { incarnation, at: clock.now() }))
      await clock.advance(20_000)
    }
    expect(table.complaints()).toEqual([
      expect.stringContaining('another process signs status records with this node’s key'),
    ])
  })
})

describe('telling', () => {
  test('gives a peer what is newer than what it knows, with its age', async () => {
    const { table, clock } = await tableOf()
    await clock.advance(0)
    table.receive(sign(peer, { sequence: 3 }), 5_000)
    await clock.advance(1_000)
    const mine = table.own() as StatusRecord
    const known = [own.publicKey, mine.incarnation, mine.sequence] as const
    expect(table.newerThan([known])).toEqual({ records: [[sign(peer, { sequence: 3 }), 6_000]], more: false })
    expect(table.newerThan([known, [peer.publicKey, 1, 3]]).records).toEqual([])
    expect(table.newerThan([]).records).toHaveLength(2)
  })

  test('spreads many records over several answers', async () => {
    const { table } = await tableOf()
    const health = {
      status: 'Running',
      msg: '"'.repeat(1000),
      reasons: Array<string>(20).fill('"'.repeat(600)),
    } as const
    const speakers = Array.from({ length: 60 }, (_, n) => keyOf(`speaker ${n}`))
    for (const speaker of speakers) expect(table.receive(sign(speaker, { health }))).toBe('accept')
    const known: [string, number, number][] = []
    for (let page = 1; ; page += 1) {
      const { records, more } = table.newerThan(known)
      expect(JSON.stringify(records).length).toBeLessThan(STATUS_LIMITS.answerBytes * 1.2)
      for (const [{ bytes }] of records) {
        const { node, incarnation, sequence } = JSON.parse(bytes) as StatusRecord
        known.push([node, incarnation, sequence])
      }
      if (!more) {
        expect(page).toBeGreaterThan(2)
        break
      }
    }
    expect(new Set(known.map(([node]) => node)).size).toBe(60)
  })
})

describe('speaking', () => {
  test('at once, on change but not too often, and then now and then', async () => {
    const { table, clock, published } = await tableOf()
    await clock.advance(1)
    expect(published).toHaveLength(1)
    for (let n = 0; n < 10; n += 1) table.changed()
    await clock.advance(STATUS_TIMES.minIntervalMs)
    expect(published).toHaveLength(2)
    await clock.advance(60_000)
    expect(published).toHaveLength(6)
    await table.stop()
    expect(JSON.parse(published.at(-1)?.bytes ?? '')).toMatchObject({ leaving: true, sequence: 7 })
  })

  test('raises its incarnation at every start, durably, and above what a damaged mark says', async () => {
    const store = new MemoryStore()
    for (const expected of [1, 2, 3]) {
      const { table, clock } = await tableOf({ store })
      await clock.advance(1)
      expect(table.own()?.incarnation).toBe(expected)
      await table.stop()
    }
    await store.setMark('incarnation', 'rubbish')
    await store.setMark(`peers/${peer.publicKey.slice(0, 2)}`, '{not json')
    const { table, clock } = await tableOf({ store })
    await clock.advance(1)
    expect(table.own()?.incarnation).toBe(1)
    expect(table.receive(sign(own, { incarnation: 7 }))).toBe('ignore')
    await clock.advance(1000)
    expect(table.own()?.incarnation).toBe(8)
  })

  test('answers its clone no more often than it speaks anyway', async () => {
    const { table, clock } = await tableOf()
    for (let incarnation = 10; incarnation < 1000; incarnation += 10) {
      table.receive(sign(own, { incarnation }))
      await clock.advance(1000)
    }
    // A hundred seconds: some seven answers.
    expect(table.own()?.incarnation).toBeGreaterThan(900)
    expect(table.receive(sign(own, { incarnation: RECORD_LIMITS.incarnation }))).toBe('ignore')
    await clock.advance(60_000)
    expect(table.own()?.incarnation).toBeLessThanOrEqual(RECORD_LIMITS.incarnation)
  })

  test('tells a status that is too long without its details', async () => {
    const reasons = Array<string>(64).fill('x'.repeat(1000))
    const { clock, published } = await tableOf({
      describe: () => ({ ...OWN, health: { status: 'Degraded', msg: 'much', reasons } }),
    })
    await clock.advance(1)
    expect(JSON.parse(published[0]?.bytes ?? '')).toMatchObject({ health: { msg: 'much', reasons: [] } })
  })

  test('what is wrong with resources is told before what was seen of upstreams', async () => {
    const problems = Array.from({ length: 16 }, () => ({
      path: 'p',
      code: 'nginx' as const,
      message: 'x'.repeat(1000),
    }))
    const addresses = Array<string>(16).fill('a'.repeat(200))
    const observed = Array.from({ length: 16 }, () => {
      return { path: 'u', circuit: 'open' as const, endpoints: 9, ailing: addresses, ejected: [] }
    })
    const { clock, published } = await tableOf({
      describe: () => ({ ...OWN, receipt: receiptOf({ problems, observed, observedCount: 16 }) }),
    })
    await clock.advance(1)
    const { receipt } = JSON.parse(published[0]?.bytes ?? '') as { receipt: Receipt }
    expect([receipt.problems.length, receipt.observed, receipt.observedCount]).toEqual([16, [], 16])
  })

  test('the longest status of an honest node, full of quotes, is one that its peers take', async () => {
    const reasons = Array<string>(32).fill('"'.repeat(480))
    const { clock, payloads } = await tableOf({
      key: peer,
      describe: () => ({ ...OWN, health: { status: 'Degraded', msg: 'much', reasons } }),
    })
    await clock.advance(1)
    const { table } = await tableOf()
    expect(table.receive(parseStatusPayload(payloads[0] as Uint8Array))).toBe('accept')
    expect(table.peers()[0]?.record?.health.reasons).toEqual(reasons)
  })

  test('survives a description that fails', async () => {
    const { table, clock, published } = await tableOf({
      describe: () => {
        throw new Error('not now')
      },
    })
    await clock.advance(60_000)
    await table.stop()
    expect(published).toEqual([])
  })
})

test('records outlive a restart, as Unknown, until they are heard again', async () => {
  const store = new MemoryStore()
  const first = await tableOf({ store })
  first.table.receive(sign(peer, { sequence: 5 }))
  await first.table.stop()
  const { table } = await tableOf({ store })
  expect(table.peers()).toMatchObject([{ state: 'Unknown', record: { sequence: 5 } }])
  expect(table.newerThan([]).records).toEqual([])
  expect(table.receive(sign(peer, { sequence: 4 }))).toBe('ignore')
  expect(table.receive(sign(peer, { sequence: 5 }), STATUS_TIMES.unavailableAfterMs + 1)).toBe('accept')
  expect(table.peers()).toMatchObject([{ state: 'Unavailable' }])
})

describe('on disk', () => {
  const addresses = ['10.0.0.9:9102']

  test('a fleet of 3,000 nodes keeps its addresses over a restart', async () => {
    const store = new MemoryStore()
    const first = await tableOf({ store })
    const fleet = Array.from({ length: 3000 }, (_, n) => keyOf(`fleet ${n}`))
    for (const [n, key] of fleet.entries()) {
      const signed = sign(key, { addresses: [`edge-${n}.example.com:9102`], receipt: receiptOf() })
      expect(first.table.receive(signed)).toBe('accept')
    }
    await first.table.stop()
    const { table } = await tableOf({ store })
    const known = table.known()
    const lost = fleet.filter(({ publicKey }, n) => known.get(publicKey)?.join() !== `edge-${n}.example.com:9102`)
    expect([known.size, lost.length]).toEqual([3000, 0])
  })

  test('new addresses are there soon, without an orderly stop; what else changes does not write', async () => {
    const store = new MemoryStore()
    const writes: string[] = []
    const setMark = store.setMark.bind(store)
    store.setMark = async (name, value) => {
      writes.push(name)
      await setMark(name, value)
    }
    const { table, clock } = await tableOf({ store })
    table.receive(sign(peer))
    table.receive(sign(peer, { sequence: 2, addresses }))
    await clock.advance(STATUS_TIMES.saveDelayMs)
    table.receive(sign(peer, { sequence: 3, addresses, version: '9.9.9' }))
    await clock.advance(STATUS_TIMES.saveDelayMs)
    expect(writes).toEqual(['incarnation', `peers/${peer.publicKey.slice(0, 2)}`])
    const after = await tableOf({ store })
    expect(after.table.known()).toEqual(new Map([[peer.publicKey, addresses]]))
  })

  test('a full disk is told, and the addresses are written with the next ones', async () => {
    const store = new MemoryStore({ failsWrite: (n) => n === 2 })
    const { log, lines } = rememberingLog()
    const { table, clock } = await tableOf({ store, log })
    table.receive(sign(peer, { addresses }))
    await clock.advance(STATUS_TIMES.saveDelayMs)
    expect(lines.join()).toContain('known peers could not be saved')
    table.receive(sign(keyOf('another'), { addresses }))
    await clock.advance(STATUS_TIMES.saveDelayMs)
    const after = await tableOf({ store })
    expect(after.table.known().size).toBe(2)
  })

  test('of more than a mark holds, those heard of last are kept, and how many are not is told', async () => {
    // The nodes whose keys begin with these two digits share a mark.
    const many = Array.from({ length: 20_000 }, (_, n) => keyOf(`many ${n}`)).filter(({ publicKey }) =>
      publicKey.startsWith('00'),
    )
    const health = { status: 'Degraded', msg: '', reasons: Array<string>(28).fill('x'.repeat(1000)) } as const
    const store = new MemoryStore()
    const { log, lines } = rememberingLog()
    const { table, clock } = await tableOf({ store, log })
    for (const key of many) {
      expect(table.receive(sign(key, { health }))).toBe('accept')
      await clock.advance(1)
    }
    await table.stop()
    const kept = new Set((await tableOf({ store })).table.known().keys())
    const expected = Math.floor(MAX_MARK_BYTES / JSON.stringify(sign(peer, { health })).length)
    expect([many.length > expected, kept.size]).toEqual([true, expected])
    expect(many.slice(-expected).every(({ publicKey }) => kept.has(publicKey))).toBe(true)
    expect(lines.join()).toContain('too large to be saved')
  })

  test('who may not speak any more is written no more', async () => {
    const store = new MemoryStore()
    let mayPeerSpeak = true
    const { table } = await tableOf({ store, isNode: () => mayPeerSpeak })
    table.receive(sign(peer))
    mayPeerSpeak = false
    await table.stop()
    expect((await tableOf({ store })).table.known().size).toBe(0)
  })
})

test.each<[number | undefined, boolean, boolean, string]>([
  [undefined, false, false, 'Unknown'],
  [0, false, false, 'Ready'],
  [STATUS_TIMES.notReadyAfterMs, false, false, 'Ready'],
  [STATUS_TIMES.notReadyAfterMs + 1, false, false, 'NotReady'],
  [0, true, false, 'NotReady'],
  [0, false, true, 'NotReady'],
  [STATUS_TIMES.unavailableAfterMs + 1, false, true, 'Unavailable'],
])('age %s, lost %s, leaving %s is %s', (ageMs, lost, leaving, state) => {
  expect(peerState(ageMs, lost, leaving)).toBe(state)
})
