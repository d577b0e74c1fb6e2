import { describe, expect, onTestFinished, test } from 'vitest'
import { encodeEnvelopes, toWire } from '../../src/core/codec.ts'
import type { Envelope } from '../../src/core/envelope.ts'
import { MeshError } from '../../src/errors.ts'
import { createMetrics } from '../../src/metrics.ts'
import { MAX_MESSAGE_BYTES, type PeerKey } from '../../src/ports.ts'
import { Replica } from '../../src/replica.ts'
import { Sync } from '../../src/sync/sync.ts'
import { encodeFrame, parseRequest, type Request } from '../../src/sync/sync-messages.ts'
import { keyOf, TestMesh } from '../support/authors.ts'
import { collectionSizes } from '../support/collections.ts'
import { diceFrom } from '../support/histories.ts'
import { MemoryStore } from '../support/memory-store.ts'
import { silentLog } from '../support/silent-log.ts'
import { VirtualClock } from '../support/virtual-clock.ts'

const SITE = 'default/*/site/shop'
const metrics = createMetrics()

/** One node's replica and sync, whose network is a call of the other's. */
class End {
  readonly key: PeerKey
  readonly replica: Replica
  readonly sync: Sync
  readonly asked: Request[] = []
  readonly published: Uint8Array[] = []
  bytes = 0
  settled = 0
  /** Stands between a request and its answer. */
  onAsk: (request: Request) => Promise<void> = async () => undefined
  connected: PeerKey[] = []
  other: End | undefined

  constructor(name: string, mesh: TestMesh, clock: VirtualClock, bytesPerAuthor?: number) {
    this.key = keyOf(name).publicKey
    const common = { clock, log: silentLog(), metrics }
    const quota = bytesPerAuthor === undefined ? {} : { bytesPerAuthor }
    this.replica = new Replica({ ...common, ...quota, store: new MemoryStore(), meshId: mesh.id })
    const connected = (): readonly PeerKey[] => this.connected
    this.sync = new Sync({
      ...common,
      replica: this.replica,
      network: {
        get connected() {
          return connected()
        },
        request: (_, payload, options) => this.#request(payload, options?.signal),
        publish: async (_, payload) => this.published.push(payload),
        disconnect: async () => void (this.connected = []),
      },
      random: () => 0.5,
      intervalMs: 10_000,
      gossip: true,
      trustsGenesisOf: () => false,
      status: { versions: () => [], newerThan: () => ({ records: [], more: false }), receive: () => 'ignore' },
      isSettled: () => this.settled > 0,
      onMesh: () => undefined,
      onSettled: () => void (this.settled += 1),
    })
  }

  async #request(payload: Uint8Array, signal: AbortSignal | undefined): Promise<Uint8Array> {
    const { request } = parseRequest(payload)
    this.asked.push(request)
    await this.onAsk(request)
    signal?.throwIfAborted()
    if (this.other === undefined) throw new MeshError('unavailable', 'not connected')
    const answer = await this.other.sync.onRequest(this.key, payload)
    this.bytes += payload.length + answer.length
    if (answer.length > MAX_MESSAGE_BYTES) throw new Error(`an answer of ${answer.length} bytes`)
    return answer
  }

  connect(other: End): void {
    this.other = other
    this.connected = [other.key]
    this.sync.syncSoon(other.key, 0)
  }
}

async function ends(options: { mesh?: TestMesh; bytesPerAuthor?: number; founded?: boolean } = {}) {
  const { mesh = new TestMesh(), founded = true } = options
  const clock = new VirtualClock()
  const pair = [
    new End('a', mesh, clock, options.bytesPerAuthor),
    new End('b', mesh, clock, options.bytesPerAuthor),
  ] as const
  for (const end of pair) {
    await end.replica.start()
    await end.sync.start()
    onTestFinished(async () => {
      await end.sync.stop()
      await end.replica.stop()
    })
    if (founded || end === pair[0]) await take(end, mesh.founding)
  }
  return { mesh, clock, a: pair[0], b: pair[1] }
}

async function take(end: End, envelopes: readonly Envelope[]): Promise<void> {
  await end.replica.submit(envelopes.map(toWire), 'sync')
}

/** Lets time pass, and work that takes many turns of the event loop be done, until both hold the same. */
async function reachEqual(clock: VirtualClock, a: End, b: End, limitMs: number): Promise<void> {
  const end = clock.monotonic() + limitMs
  while (a.sync.digest() !== b.sync.digest()) {
    if (clock.monotonic() > end) throw new Error(`still different after ${limitMs} ms`)
    await clock.advance(20)
    for (let turn = 0; turn < 20; turn += 1) await new Promise((resolve) => setImmediate(resolve))
  }
}

function meet(a: End, b: End): void {
  a.connect(b)
  b.connect(a)
}

const sites = (mesh: TestMesh, count: number, text = ''): Envelope[] =>
  Array.from({ length: count }, (_, n) =>
    mesh.edit(`default/*/site/s${n}`, [
      ['set', '$', true],
      ['set', 'a', text],
    ]),
  )

describe('a round', () => {
  test('costs bytes in proportion to the difference', async () => {
    const { mesh, clock, a, b } = await ends()
    const common = sites(mesh, 3000)
    const more = sites(mesh, 5)
    await take(a, [...common, ...more])
    await take(b, common)
    meet(a, b)
    await reachEqual(clock, a, b, 10_000)
    const newBytes = more.reduce((sum, { size }) => sum + size, 0)
    expect(b.bytes).toBeLessThan(newBytes + 40_000)
    expect(b.asked.length).toBeLessThan(12)
    expect(b.settled).toBe(0)
  })

  test('copies a whole history, though it grows and is written to meanwhile', { timeout: 120_000 }, async () => {
    const { mesh, clock, a, b } = await ends({ founded: false })
    await take(a, sites(mesh, 2500))
    b.onAsk = async (request) => {
      if (request.ask === 'log') await take(a, sites(mesh, 3))
    }
    meet(a, b)
    await reachEqual(clock, a, b, 60_000)
    expect(b.asked.filter(({ ask }) => ask === 'log').length).toBeLessThan(10)
  })

  test('copies a whole history from a peer whose order changes in the middle', async () => {
    const mesh = new TestMesh()
    const { clock, a, b } = await ends({ mesh, founded: false })
    const { a: c } = await ends({ mesh })
    const all = [keyOf('x'), keyOf('y')].map((by) => {
      const grant = mesh.grant(by.publicKey, 'editor')
      return [
        grant,
        ...Array.from({ length: 1500 }, (_, n) =>
          mesh.edit(`default/*/site/s${n}`, [['set', '$', true]], { by, grant: grant.id }),
        ),
      ]
    })
    const [x, y] = all as [Envelope[], Envelope[]]
    await take(a, [x[0]!, y[0]!, ...x.slice(1), ...y.slice(1)])
    await take(c, [x[0]!, y[0]!, ...y.slice(1), ...x.slice(1)])
    let pages = 0
    b.onAsk = async ({ ask }) => {
      if (ask === 'log' && (pages += 1) === 2) b.other = c
    }
    b.connect(a)
    await reachEqual(clock, a, b, 60_000)
    expect(a.replica.state.hash()).toBe(b.replica.state.hash())
  })

  test('finds over a thousand edits that a stolen key signed for one place', async () => {
    const { mesh, clock, a, b } = await ends()
    const by = keyOf('thief')
    const grant = mesh.grant(by.publicKey, 'editor')
    const forks = Array.from({ length: 1500 }, (_, n) => {
      const twin = new TestMesh()
      return twin.edit(`default/*/site/s${n}`, [['set', '$', true]], { by, grant: grant.id })
    })
    await take(a, [grant, ...forks])
    await take(b, [grant, ...forks.slice(0, 3)])
    meet(a, b)
    await reachEqual(clock, a, b, 30_000)
    expect(a.replica.state.hash()).toBe(b.replica.state.hash())
  })

  test('is not put off by being asked for again and again', async () => {
    const { mesh, clock, a, b } = await ends()
    b.connect(a)
    await clock.advance(100)
    await take(a, sites(mesh, 1))
    const before = b.asked.length
    for (let n = 0; n < 20; n += 1) {
      b.sync.compare(a.key, a.sync.digest())
      await clock.advance(50)
    }
    expect(b.asked.length).toBeGreaterThan(before)
    expect(b.sync.digest()).toBe(a.sync.digest())
  })

  test('ends at once when the node stops, wherever it is', async () => {
    for (let stopAt = 1; stopAt <= 6; stopAt += 1) {
      const { mesh, clock, a, b } = await ends({ founded: false })
      await take(a, sites(mesh, 1200))
      let asked = 0
      let stopped: Promise<void> | undefined
      b.onAsk = async () => {
        asked += 1
        if (asked === stopAt) stopped = b.sync.stop()
      }
      b.connect(a)
      await clock.advance(20_000)
      await stopped
      await b.replica.stop()
      expect(asked).toBeLessThanOrEqual(stopAt + 1)
    }
  })

  test('that fails because the disk is full is tried again, ever less often', async () => {
    const { mesh, clock, a, b } = await ends()
    await take(a, sites(mesh, 10))
    b.onAsk = async ({ ask }) => {
      if (ask === 'fetch') throw new MeshError('store_unwritable', 'no space left')
    }
    b.connect(a)
    await clock.advance(10 * 60_000)
    expect(b.asked.filter(({ ask }) => ask === 'fetch').length).toBeLessThan(150)
    b.onAsk = async () => undefined
    await reachEqual(clock, a, b, 30_000)
    expect(a.replica.state.hash()).toBe(b.replica.state.hash())
  })

  test('does not fetch again and again what one author’s full share keeps out for ever', async () => {
    const twins = [new TestMesh(), new TestMesh()] as const
    const { clock, a, b } = await ends({ mesh: twins[0], bytesPerAuthor: 400_000 })
    const by = keyOf('ana')
    const grant = twins[0].grant(by.publicKey, 'editor')
    for (const [end, twin] of [
      [a, twins[0]],
      [b, twins[1]],
    ] as const) {
      const text = 'x'.repeat(end === a ? 7000 : 7001)
      const flood = Array.from({ length: 50 }, () => twin.edit(SITE, [['set', 'a', text]], { by, grant: grant.id }))
      await take(end, [grant, ...flood])
    }
    meet(a, b)
    await clock.advance(60_000)
    expect([a, b].map(({ replica }) => replica.authorsOverQuota)).toEqual([[by.publicKey], [by.publicKey]])
    expect(a.sync.digest()).not.toBe(b.sync.digest())
    const before = a.bytes + b.bytes
    for (const edit of sites(twins[0], 20)) {
      await take(a, [edit])
      b.sync.compare(a.key, a.sync.digest())
      await clock.advance(15_000)
      expect(b.replica.state.history.has(edit.id)).toBe(true)
    }
    expect(a.bytes + b.bytes - before).toBeLessThan(200_000)
  })
})

describe('gossip', () => {
  test.each<[string, (mesh: TestMesh) => readonly Envelope[], string]>([
    ['news', (mesh) => [mesh.edit(SITE, [['set', '$', true]])], 'accept'],
    ['what is known', (mesh) => [mesh.founding[1]!], 'ignore'],
    [
      'an edit whose ancestors are unknown',
      (mesh) => [mesh.edit(SITE, [['set', '$', true]]), mesh.edit(SITE, [['set', 'a', 1]])].slice(1),
      'ignore',
    ],
    [
      'an edit that its author may not make',
      (mesh) => [mesh.edit(SITE, [['set', '$', true]], { by: keyOf('stranger') })],
      'reject',
    ],
    ['a version of the future', (mesh) => [future(mesh)], 'ignore'],
    [
      'too much of one author',
      (mesh) => [
        mesh.edit(
          SITE,
          Array.from({ length: 5 }, (_, n) => ['set', `f${n}`, 'x'.repeat(8000)] as const),
        ),
      ],
      'ignore',
    ],
  ])('of %s', async (_, make, verdict) => {
    const { mesh, b } = await ends({ bytesPerAuthor: 30_000 })
    expect(await b.sync.onGossip('peer', encodeEnvelopes(make(mesh).map(toWire)))).toBe(verdict)
  })

  test('of what the API took goes out in messages that fit', async () => {
    const { mesh, a } = await ends()
    await a.replica.submit(sites(mesh, 250, 'x'.repeat(7000)).map(toWire), 'api')
    expect(a.published.length).toBe(2)
    for (const payload of a.published) expect(payload.length).toBeLessThanOrEqual(MAX_MESSAGE_BYTES)
  })

  test('looks at nothing behind the first forged edit', async () => {
    const { mesh, b } = await ends()
    const [good, ...rest] = sites(mesh, 900)
    const forged = { bytes: good!.bytes, sigs: { [mesh.owner.publicKey]: '1'.repeat(128) } }
    expect(await b.sync.onGossip('peer', encodeEnvelopes([forged, ...rest.map(toWire)]))).toBe('reject')
    expect([b.replica.state.history.size, b.replica.pendingCount]).toEqual([mesh.founding.length, 0])
  })

  test('of useless edits is refused unread when it goes on', async () => {
    const { mesh, b } = await ends()
    mesh.edit(SITE, [['set', '$', true]])
    const orphans = encodeEnvelopes(Array.from({ length: 1000 }, () => toWire(mesh.edit(SITE, [['set', 'a', 1]]))))
    for (let n = 0; n < 20; n += 1) expect(await b.sync.onGossip('peer', orphans)).toBe('ignore')
    const news = encodeEnvelopes(new TestMesh().founding.map(toWire))
    expect(await b.sync.onGossip('peer', news)).toBe('ignore')
  })
})

function future(mesh: TestMesh): Envelope {
  const envelope = mesh.edit(SITE, [['set', '$', true]])
  return { ...envelope, bytes: envelope.bytes.replace('"v":1', '"v":2') }
}

describe('requests', () => {
  const HASH = 'a'.repeat(64)
  const huge = Number.MAX_SAFE_INTEGER
  const range = { workspace: 'default', author: keyOf('owner').publicKey, from: 0, to: huge }
  const REQUESTS: readonly object[] = [
    { ask: 'hello', mesh: null },
    { ask: 'summary', digest: HASH, after: huge },
    { ask: 'ranges', ...range },
    { ask: 'ranges', ...range, from: huge, to: 0 },
    { ask: 'items', ...range, skip: huge },
    { ask: 'fetch', ids: Array<string>(1024).fill(HASH) },
    { ask: 'log', from: huge },
    { ask: 'status', known: Array.from({ length: 10_001 }, () => [HASH, huge, huge]) },
    { ask: 'take' },
  ]

  test.each(REQUESTS.map((request, index) => [index, request] as const))(
    'of good form are answered: %i',
    async (_, request) => {
      const { mesh, b } = await ends()
      await take(b, sites(mesh, 20))
      const answer = await b.sync.onRequest('peer', encodeFrame(request))
      expect(Buffer.from(answer).toString()).not.toContain('error')
    },
  )

  test('that bring revocations, from peers that are gone when they are read, leave nothing behind', async () => {
    const { mesh, b } = await ends()
    mesh.edit(SITE, [['set', '$', true]])
    const orphan = mesh.edit(SITE, [['set', 'a', 1]])
    await b.sync.onRequest('peer', encodeFrame({ ask: 'take' }, [toWire(orphan)]))
    expect(b.replica.pendingCount).toBe(1)
    expect(collectionSizes(b.sync).get('#peers')).toBe(0)
  })

  test.each<[string, unknown]>([
    ['nothing asked', {}],
    ['an unknown ask', { ask: 'nothing' }],
    ['an ask of the prototype', { ask: '__proto__' }],
    ['a negative position', { ask: 'log', from: -1 }],
    ['a fraction', { ask: 'log', from: 0.5 }],
    ['an unsafe integer', { ask: 'log', from: 2 ** 53 }],
    ['an extra field', { ask: 'log', from: 0, more: true }],
    ['an id too many', { ask: 'fetch', ids: Array<string>(1025).fill(HASH) }],
    ['a version too many', { ask: 'status', known: Array.from({ length: 10_002 }, () => [HASH, 0, 0]) }],
    ['a list', []],
    ['null', null],
    ['text', 'text'],
  ])('with %s are refused', async (_, request) => {
    const { b } = await ends()
    const answer = await b.sync.onRequest('peer', encodeFrame(request))
    expect(Buffer.from(answer).toString()).toContain('bad request')
  })

  test('truncated and mutated ones never throw, and never store', async () => {
    const { mesh, b } = await ends()
    const dice = diceFrom(11)
    const frames = REQUESTS.map((request) => encodeFrame(request, sites(mesh, 2).map(toWire)))
    for (let round = 0; round < 600; round += 1) {
      const changed = Buffer.from(dice.pick(frames))
      for (let n = 0; n < 1 + dice.below(3); n += 1)
        changed[dice.below(Math.min(400, changed.length))] = dice.below(256)
      const cut = changed.subarray(0, dice.chance(0.3) ? dice.below(changed.length) : changed.length)
      const answer = await b.sync.onRequest('peer', cut)
      expect(answer.length).toBeLessThanOrEqual(MAX_MESSAGE_BYTES)
      await b.sync.onGossip('peer', cut)
    }
    expect(b.replica.state.history.size).toBeLessThanOrEqual(mesh.founding.length + 2 * frames.length)
  })

  test('that cost too much are refused, until time has passed', async () => {
    const { mesh, clock, b } = await ends()
    await take(b, sites(mesh, 150, 'x'.repeat(8000)))
    const ask = async (): Promise<boolean> => {
      const answer = await b.sync.onRequest('peer', encodeFrame({ ask: 'log', from: 0 }))
      return !Buffer.from(answer).toString().includes('too many requests')
    }
    let answered = 0
    while (await ask()) answered += 1
    // Some hundred megabytes.
    expect(answered).toBeGreaterThan(60)
    expect(answered).toBeLessThan(300)
    await clock.advance(1000)
    expect(await ask()).toBe(true)
  })
})
