import { describe, expect, test } from 'vitest'
import { canonical, sha256, type Json } from '../../src/core/canonical.ts'
import type { KeyPair } from '../../src/core/envelope.ts'
import {
  parseStatusPayload,
  peerState,
  STATUS_LIMITS,
  STATUS_TIMES,
  StatusTable,
  type OwnStatus,
  type SignedStatus,
  type StatusRecord,
} from '../../src/status.ts'
import { keyOf } from '../support/authors.ts'
import { diceFrom } from '../support/histories.ts'
import { MemoryStore } from '../support/memory-store.ts'
import { silentLog } from '../support/silent-log.ts'
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
}

async function tableOf({ describe = () => OWN, store = new MemoryStore(), isNode = () => true }: TableOptions = {}) {
  const clock = new VirtualClock()
  const published: SignedStatus[] = []
  await store.start()
  const table = new StatusTable({
    key: own,
    store,
    clock,
    random: () => 0.5,
    log: silentLog(),
    describe,
    isNode,
    granted: () => new Map([[peer.publicKey, 'edge-2']]),
    connected: () => [],
    publish: async (payload) => void published.push(parseStatusPayload(payload) as SignedStatus),
  })
  await table.start()
  return { table, clock, published, store }
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
    ['an incarnation over the limit', sign(peer, { incarnation: STATUS_LIMITS.incarnation + 1 })],
    ['a health that is none', sign(peer, { health: { status: 'Great' } as never })],
    ['too many addresses', sign(peer, { addresses: Array<string>(17).fill('x') })],
    ['too many bytes', sign(peer, { extra: 'x'.repeat(STATUS_LIMITS.recordBytes) })],
  ])('rejects %s', async (_, value) => {
    const { table } = await tableOf()
    expect(table.receive(value)).toBe('reject')
    expect(table.versions()).toHaveLength(0)
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
    await store.setMark('peers', '{not json')
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
    expect(table.receive(sign(own, { incarnation: STATUS_LIMITS.incarnation }))).toBe('ignore')
    await clock.advance(60_000)
    expect(table.own()?.incarnation).toBeLessThanOrEqual(STATUS_LIMITS.incarnation)
  })

  test('tells a status that is too long without its details', async () => {
    const reasons = Array<string>(64).fill('x'.repeat(1000))
    const { clock, published } = await tableOf({
      describe: () => ({ ...OWN, health: { status: 'Degraded', msg: 'much', reasons } }),
    })
    await clock.advance(1)
    expect(JSON.parse(published[0]?.bytes ?? '')).toMatchObject({ health: { msg: 'much', reasons: [] } })
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
