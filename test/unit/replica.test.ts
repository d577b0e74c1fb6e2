import { describe, expect, onTestFinished, test } from 'vitest'
import { toWire } from '../../src/core/codec.ts'
import type { Envelope, KeyPair, Op, WireEnvelope } from '../../src/core/envelope.ts'
import type { MeshError } from '../../src/errors.ts'
import type { Log } from '../../src/log.ts'
import { createMetrics } from '../../src/metrics.ts'
import type { StoredEnvelope } from '../../src/ports.ts'
import { Replica, REPLICA_LIMITS } from '../../src/replica.ts'
import { keyOf, TestMesh } from '../support/authors.ts'
import { Scribe } from '../support/histories.ts'
import { MemoryStore } from '../support/memory-store.ts'
import { rememberingLog, silentLog } from '../support/silent-log.ts'
import { VirtualClock } from '../support/virtual-clock.ts'

const PEER = keyOf('peer').publicKey
const SITE = 'default/*/site/shop'

function create(mesh: Pick<TestMesh, 'id'>, store = new MemoryStore(), clock = new VirtualClock(), log = silentLog()) {
  const replica = new Replica({ store, clock, log, metrics: createMetrics(), meshId: mesh.id })
  return { replica, store, clock }
}

async function started(mesh: Pick<TestMesh, 'id'>, store?: MemoryStore, clock?: VirtualClock, log?: Log) {
  const parts = create(mesh, store, clock, log)
  await parts.replica.start()
  onTestFinished(() => parts.replica.stop())
  return parts
}

async function founded(mesh: TestMesh, store?: MemoryStore) {
  const parts = await started(mesh, store)
  await parts.replica.submit(mesh.founding.map(toWire), 'sync')
  return parts
}

const outcomesOf = async (
  replica: Replica,
  envelopes: readonly Envelope[],
  source: 'api' | 'gossip' | 'sync' = 'sync',
  peer?: string,
) => (await replica.submit(envelopes.map(toWire), source, peer)).map(({ outcome }) => outcome)

/** Writes nothing while it is blocked. */
class SlowStore extends MemoryStore {
  #gate = Promise.withResolvers<void>()

  constructor() {
    super()
    this.unblock()
  }

  block(): void {
    this.#gate = Promise.withResolvers<void>()
  }

  unblock(): void {
    this.#gate.resolve()
  }

  override async append(envelopes: readonly { readonly id: string; readonly wire: WireEnvelope }[]): Promise<void> {
    await this.#gate.promise
    await super.append(envelopes)
  }
}

const create$ = [['set', '$', true]] as const

/** A replica that was stopped, had the signature of an edit forged in its store, and was started `again`. */
async function restartedWithForgery() {
  const mesh = new TestMesh()
  const { replica, store } = await founded(mesh)
  const edit = mesh.edit(SITE, create$)
  await outcomesOf(replica, [edit])
  await replica.stop()
  store.tamper(edit.id, (wire) => ({ ...wire, sigs: { [mesh.owner.publicKey]: '1'.repeat(128) } }))
  return { mesh, edit, again: await started(mesh, store) }
}

describe('Replica', () => {
  test('stores what is admitted, in one submission or several, and reads it back', async () => {
    const mesh = new TestMesh()
    const { replica, store } = await founded(mesh)
    const first = mesh.edit(SITE, create$)
    const second = mesh.edit(SITE, [['set', 'a', 1]], { deps: [first.id] })
    expect(await outcomesOf(replica, [first, second])).toEqual(['stored', 'stored'])
    expect(await outcomesOf(replica, [second, first])).toEqual(['known', 'known'])
    const hash = replica.state.hash()
    await replica.stop()
    const again = await started(mesh, store)
    expect(again.replica.state.hash()).toBe(hash)
    expect(again.replica.state.resource(SITE)?.fields.get('a')).toBe(1)
  })

  test('checks what another key had sealed, and seals it anew for the next start', async () => {
    const mesh = new TestMesh()
    const { replica, store } = await founded(mesh)
    await outcomesOf(replica, [mesh.edit(SITE, create$)])
    const hash = replica.state.hash()
    await replica.stop()
    const records = async () => {
      await store.start()
      const found: StoredEnvelope[] = []
      for await (const record of store.envelopes(() => expect.unreachable('nothing is damaged'))) found.push(record)
      return found
    }
    // As it looks to a node that has got a new key.
    for (const { id } of await records()) store.tamper(id, (wire) => wire)
    expect((await records()).map(({ sealed }) => sealed)).not.toContain(true)
    const again = await started(mesh, store)
    expect([again.replica.state.hash(), again.replica.corruptRecords]).toEqual([hash, 0])
    expect((await records()).map(({ sealed }) => sealed)).not.toContain(false)
  })

  test('holds an edit whose ancestors are unknown, names them, and takes it when they come', async () => {
    const mesh = new TestMesh()
    const { replica } = await founded(mesh)
    const chain = [mesh.edit(SITE, create$), mesh.edit(SITE, [['set', 'a', 1]]), mesh.edit(SITE, [['set', 'a', 2]])]
    const asked: string[] = []
    replica.onMissing((peer, ids) => asked.push(peer, ...ids))
    expect(await outcomesOf(replica, [chain[2]!, chain[1]!], 'gossip', PEER)).toEqual(['waiting', 'waiting'])
    expect(asked).toEqual([PEER, chain[1]!.id, chain[0]!.id])
    expect(replica.pendingCount).toBe(2)
    await outcomesOf(replica, [chain[0]!])
    // The two that waited are written right behind; an empty submission waits for the writer's turn.
    await replica.submit([toWire(chain[2]!)], 'sync')
    expect(replica.pendingCount).toBe(0)
    expect(replica.state.history.has(chain[2]!.id)).toBe(true)
  })

  test('drops the oldest of a peer whose waiting edits are over the limit', async () => {
    const mesh = new TestMesh()
    const { replica } = await founded(mesh)
    mesh.edit(SITE, create$)
    const big = 'x'.repeat(8000)
    const count = Math.ceil(REPLICA_LIMITS.pendingBytesPerPeer / 8000) + 20
    const flood = Array.from({ length: count }, () => mesh.edit(SITE, [['set', 'a', big]]))
    await outcomesOf(replica, flood, 'sync', PEER)
    expect(replica.pendingCount).toBeLessThan(count)
    expect(replica.pendingCount).toBeGreaterThan(100)
  })

  test('queues bounded numbers and bytes while the disk is slow, and refuses what is beyond', async () => {
    const mesh = new TestMesh()
    const store = new SlowStore()
    const { replica } = await founded(mesh, store)
    const full: Op[] = Array.from({ length: 7 }, (_, n) => ['set', `f${n}`, 'x'.repeat(8000)])
    const count = Math.ceil(REPLICA_LIMITS.queuedBytes / 56_000) + 20
    const edits = Array.from({ length: count }, () => toWire(mesh.edit(SITE, full)))
    const pages = Array.from({ length: Math.ceil(count / 10) }, (_, n) => edits.slice(10 * n, 10 * n + 10))
    store.block()
    const taken = pages.map((page) => replica.submit(page, 'sync', PEER))
    const pageBytes = pages[0]!.reduce((sum, { bytes }) => sum + bytes.length, 0)
    expect(replica.queuedBytes).toBeLessThanOrEqual(REPLICA_LIMITS.queuedBytes)
    expect(replica.queuedBytes).toBeGreaterThan(REPLICA_LIMITS.queuedBytes - pageBytes)
    store.unblock()
    const fates = await Promise.allSettled(taken)
    expect([replica.queuedBytes, replica.queuedCount]).toEqual([0, 0])
    const refused = pages.filter((_, n) => fates[n]?.status === 'rejected')
    const reasons = fates.flatMap((fate) => (fate.status === 'rejected' ? [(fate.reason as MeshError).code] : []))
    expect(new Set(reasons)).toEqual(new Set(['unavailable']))
    // Whoever has it brings it again.
    for (const page of refused) expect((await replica.submit(page, 'sync', PEER))[0]?.outcome).toBe('stored')

    const many = Array.from({ length: REPLICA_LIMITS.queuedEnvelopes + 1 }, () => edits[0]!)
    await expect(replica.submit(many, 'sync', PEER)).rejects.toMatchObject({ code: 'unavailable' })
  })

  test('keeps every co-signature that comes before the ancestors, and none that a stranger adds', async () => {
    const roots = ['root 1', 'root 2', 'root 3'].map(keyOf) as [KeyPair, KeyPair, KeyPair]
    const scribe = new Scribe({ roots, threshold: 2 })
    const by = { by: roots[0], grant: scribe.mesh, ws: '*', cosigners: roots.slice(1) }
    const all = { zones: ['*'], kinds: ['*'] }
    const before = scribe.grant(by, keyOf('owner').publicKey, 'owner', all)
    const whole = scribe.grant({ ...by, cosigners: [...roots.slice(1), keyOf('stranger')] }, PEER, 'node', all)
    const part = (...keys: readonly KeyPair[]) => ({
      bytes: whole.bytes,
      sigs: Object.fromEntries(keys.map(({ publicKey }) => [publicKey, whole.sigs[publicKey] as string])),
    })
    const { replica } = await started({ id: scribe.mesh })
    const parts = [
      part(roots[0], keyOf('stranger')),
      part(roots[0], roots[1]),
      part(roots[0], roots[2]),
      part(roots[0]),
    ]
    for (const one of [...parts, ...parts]) {
      expect(await replica.submit([one], 'sync', PEER)).toMatchObject([{ outcome: 'waiting' }])
    }
    expect(replica.pendingCount).toBe(parts.length)
    await replica.submit([scribe.genesis, before].map(toWire), 'sync')
    await replica.submit([toWire(before)], 'sync')
    expect(replica.pendingCount).toBe(0)
    expect(Object.keys(replica.state.history.get(whole.id)?.sigs ?? {}).toSorted()).toEqual(
      roots.map(({ publicKey }) => publicKey).toSorted(),
    )
  })

  test('refuses forged, foreign and ungranted edits, from every source', async () => {
    const mesh = new TestMesh()
    const { replica } = await founded(mesh)
    const stranger = keyOf('stranger')
    const ungranted = mesh.edit(SITE, create$, { by: stranger })
    const good = mesh.edit(SITE, create$)
    const forged = { ...good, sigs: { [mesh.owner.publicKey]: '0'.repeat(128) } }
    const foreign = mesh.edit(SITE, create$)
    const elsewhere = { ...foreign, bytes: foreign.bytes.replace(mesh.id, 'f'.repeat(64)) }
    for (const source of ['api', 'gossip', 'sync'] as const) {
      expect(await outcomesOf(replica, [ungranted, forged, elsewhere], source)).toEqual([
        'refused',
        'refused',
        'refused',
      ])
    }
    expect(replica.state.history.size).toBe(mesh.founding.length)
  })

  test('keeps a void edit that gossip brings, and refuses it at the API', async () => {
    const mesh = new TestMesh()
    const { replica } = await founded(mesh)
    const ana = keyOf('ana')
    const grant = mesh.grant(ana.publicKey, 'editor')
    const edit = mesh.edit(SITE, create$, { by: ana, grant: grant.id })
    await outcomesOf(replica, [grant, mesh.revoke(`grant/${grant.id}`)])
    const [refused] = await replica.submit([toWire(edit)], 'api')
    expect(refused).toMatchObject({ outcome: 'refused', code: 'denied' })
    expect(refused).toHaveProperty('reason', expect.stringContaining('revoked'))
    expect(await outcomesOf(replica, [edit], 'gossip', PEER)).toEqual(['stored'])
    expect(replica.state.resource(SITE)?.exists).toBe(false)
  })

  test('limits the rate of an author at API and gossip, but never in sync', async () => {
    const mesh = new TestMesh()
    const { replica } = await founded(mesh)
    const edits = Array.from({ length: REPLICA_LIMITS.authorBurst + 5 }, (_, index) =>
      mesh.edit(`default/*/site/s${index}`, create$),
    )
    const outcomes = await replica.submit(edits.map(toWire), 'api')
    expect(outcomes.filter(({ outcome }) => outcome === 'refused')).toHaveLength(5)
    expect(outcomes.at(-1)).toMatchObject({ code: 'rate_limited' })
    expect(await outcomesOf(replica, edits.slice(-5))).toEqual(Array(5).fill('stored'))
  })

  test('takes nothing that it cannot write, says so, and goes on when it can', async () => {
    const mesh = new TestMesh()
    let isFull = false
    const { replica } = await founded(mesh, new MemoryStore({ failsWrite: () => isFull }))
    const edit = mesh.edit(SITE, create$)
    isFull = true
    await expect(replica.submit([toWire(edit)], 'api')).rejects.toMatchObject({ code: 'store_unwritable' })
    expect(replica.state.history.has(edit.id)).toBe(false)
    expect(replica.writeError).toBeDefined()
    isFull = false
    expect(await outcomesOf(replica, [edit], 'api')).toEqual(['stored'])
    expect(replica.writeError).toBeUndefined()
  })

  test('leaves out a record that was changed on disk, counts it, and parks what rests on it', async () => {
    const mesh = new TestMesh()
    const { replica, store } = await founded(mesh)
    const first = mesh.edit(SITE, create$)
    const second = mesh.edit(SITE, [['set', 'a', 1]], { deps: [first.id] })
    await outcomesOf(replica, [first, second])
    await replica.stop()
    store.tamper(first.id, (wire) => ({ ...wire, bytes: wire.bytes.replace('shop', 'shoq') }))
    const again = await started(mesh, store)
    expect(again.replica.corruptRecords).toBe(1)
    expect(again.replica.state.history.has(second.id)).toBe(false)
    // A peer refills the first; the second need not travel again.
    await outcomesOf(again.replica, [first])
    await again.replica.submit([toWire(second)], 'sync')
    expect(again.replica.state.resource(SITE)?.fields.get('a')).toBe(1)
    await again.replica.stop()
    const third = await started(mesh, store)
    expect(third.replica.state.resource(SITE)?.fields.get('a')).toBe(1)
  })

  test('checks the signatures of a record that somebody else put into the store', async () => {
    const { again, edit } = await restartedWithForgery()
    expect(again.replica.state.history.has(edit.id)).toBe(false)
    expect(again.replica.corruptRecords).toBe(1)
  })

  test('removes for good what somebody else put into the store', async () => {
    const { mesh, again } = await restartedWithForgery()
    await again.replica.stop()
    expect((await started(mesh, again.store)).replica.corruptRecords).toBe(0)
  })

  test('refuses to open the store of another mesh, and leaves it whole', async () => {
    const mesh = new TestMesh()
    const { replica, store } = await founded(mesh)
    const { size } = replica.state.history
    await replica.stop()
    const metrics = createMetrics()
    const other = new Replica({ store, clock: new VirtualClock(), log: silentLog(), metrics, meshId: 'f'.repeat(64) })
    await expect(other.start()).rejects.toMatchObject({ code: 'config_invalid', details: { field: 'mesh.id' } })
    expect((await started(mesh, store)).replica.state.history.size).toBe(size)
  })

  test('tells an operator whose clock is far ahead, and judges no claimed time elsewhere', async () => {
    const mesh = new TestMesh()
    const { replica } = await started(mesh, new MemoryStore(), new VirtualClock(0))
    await replica.submit(mesh.founding.map(toWire), 'sync')
    const edit = mesh.edit(SITE, create$)
    expect(await replica.submit([toWire(edit)], 'api')).toMatchObject([{ outcome: 'refused', code: 'input_invalid' }])
    expect(await outcomesOf(replica, [edit])).toEqual(['stored'])
  })

  test('counts and reports forks, and keeps both sides', async () => {
    const mesh = new TestMesh()
    const { replica } = await founded(mesh)
    const twin = new TestMesh()
    expect(twin.id).toBe(mesh.id)
    const [a, b] = [mesh.edit(SITE, create$), twin.edit('default/*/site/other', create$)]
    expect(await outcomesOf(replica, [a, b])).toEqual(['stored', 'stored'])
    expect(replica.state.history.chain('default', mesh.owner.publicKey)).toMatchObject({
      forks: 1,
      highestN: 1,
      heads: [a.id, b.id].toSorted(),
    })
  })

  test('tells of one fork mildly, of more as a warning, and of thousands now and then', async () => {
    const mesh = new TestMesh()
    const { log, lines } = rememberingLog()
    const { replica } = await started(mesh, new MemoryStore(), new VirtualClock(), log)
    await replica.submit(mesh.founding.map(toWire), 'sync')
    for (let n = 0; n < 100; n += 1) {
      await replica.submit([toWire(new TestMesh().edit(`default/*/site/s${n}`, create$))], 'sync')
    }
    expect(lines.filter((line) => line.includes('was its chain file restored?'))).toHaveLength(1)
    // 2, 4, 8 … 64.
    expect(lines.filter((line) => line.includes('a shared or stolen key'))).toHaveLength(6)
  })

  test('adopts only the pinned genesis', async () => {
    const mesh = new TestMesh()
    const { replica } = await started(mesh)
    const other = new TestMesh([{ key: keyOf('n').publicKey, name: 'n', zones: ['*'] }])
    expect(other.id).toBe(mesh.id)
    await expect(replica.adopt(toWire(mesh.edit(SITE, create$)))).rejects.toMatchObject({ code: 'envelope_invalid' })
    await replica.adopt(toWire(mesh.founding[0]!))
    expect(replica.state.meshId).toBe(mesh.id)
  })

  test('refuses submissions once stopped', async () => {
    const mesh = new TestMesh()
    const { replica } = await started(mesh)
    await replica.stop()
    await expect(replica.submit([], 'api')).rejects.toMatchObject({ code: 'unavailable' })
  })
})
