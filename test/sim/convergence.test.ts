import { describe, expect, test } from 'vitest'
import { MemoryStore } from '../support/memory-store.ts'
import { SimMesh } from '../support/sim-mesh.ts'

const SITE = 'default/*/site/shop'

describe('convergence', () => {
  test('five nodes agree under delay, loss and reordering', async () => {
    const mesh = await SimMesh.started(5, { seed: 1, delayMs: [1, 400], lossRate: 0.1 })
    await scatter(mesh, 40)
    await mesh.converge(180_000)
    expect(mesh.get('n4').up.replica.state.history.size).toBe(mesh.founding.founding.length + 40)
  })

  test('twenty nodes agree under delay, loss and reordering', async () => {
    const mesh = await SimMesh.started(20, { seed: 2, delayMs: [1, 200], lossRate: 0.02 })
    await scatter(mesh, 30)
    await mesh.converge(120_000)
    expect(mesh.areEqual()).toBe(true)
  })

  test('without gossip, rounds alone spread an edit to twelve nodes within four intervals', async () => {
    const mesh = await SimMesh.started(12, { seed: 3, gossip: false })
    for (let n = 0; n < 3; n += 1) {
      await mesh.edit(mesh.dice.pick(mesh.all), `default/*/site/s${n}`, [['set', '$', true]])
      expect(await mesh.converge(40_000)).toBeGreaterThan(0)
    }
  })

  test('one seed is one run', async () => {
    const run = async (): Promise<string> => {
      const mesh = await SimMesh.started(4, { seed: 4, delayMs: [1, 100], lossRate: 0.05 })
      await scatter(mesh, 10)
      await mesh.converge(120_000)
      return mesh.trace()
    }
    expect(await run()).toBe(await run())
  })

  test('children that come before their parents wait, and are taken when these come', async () => {
    const mesh = await SimMesh.started(3, { seed: 5 })
    const first = mesh.founding.edit(SITE, [['set', '$', true]])
    const second = mesh.founding.edit(SITE, [['set', 'a', 1]], { deps: [first.id] })
    const third = mesh.founding.edit(SITE, [['set', 'a', 2]], { deps: [second.id] })
    const [a, b, c] = mesh.all
    expect(await mesh.submit(c!, third)).toMatchObject([{ outcome: 'waiting' }])
    expect(await mesh.submit(b!, second)).toMatchObject([{ outcome: 'waiting' }])
    await mesh.clock.advance(5_000)
    expect(a!.up.replica.state.resource(SITE)).toBeUndefined()
    await mesh.submit(a!, first)
    await mesh.clock.until(
      () => mesh.all.every(({ up }) => up.replica.state.resource(SITE)?.fields.get('a') === 2),
      60_000,
      'the third edit everywhere',
    )
    expect(mesh.all.map(({ up }) => up.replica.pendingCount)).toEqual([0, 0, 0])
  })
})

describe('partition', () => {
  test('edits of one site on both sides merge field by field', async () => {
    const mesh = await SimMesh.started(5, { seed: 6 })
    const ana = await mesh.author('ana')
    const bob = await mesh.author('bob')
    const [n0, , , , n4] = mesh.all
    await mesh.edit(n0!, SITE, [['set', '$', true]], ana)
    await mesh.converge(30_000)
    mesh.partition(['n3', 'n4'])
    await mesh.edit(
      n0!,
      SITE,
      [
        ['set', 'left', 1],
        ['set', 'both', 'ana'],
      ],
      ana,
    )
    await mesh.edit(
      n4!,
      SITE,
      [
        ['set', 'right', 2],
        ['set', 'both', 'bob'],
      ],
      bob,
    )
    await mesh.clock.advance(60_000)
    expect(mesh.areEqual()).toBe(false)
    mesh.wire.heal()
    await mesh.converge(60_000)
    const site = n4!.up.replica.state.resource(SITE)
    expect(site?.fields.get('left')).toBe(1)
    expect(site?.fields.get('right')).toBe(2)
    // The one who did not win is shown, not dropped.
    expect(
      site?.conflicts
        .get('both')
        ?.map(({ value }) => value)
        .toSorted(),
    ).toEqual(['ana', 'bob'])
  })

  test('longer than every time limit, with all nodes restarted meanwhile, heals', async () => {
    const mesh = await SimMesh.started(6, { seed: 7 })
    mesh.partition(['n0', 'n1', 'n2'])
    await mesh.clock.advance(20 * 60_000)
    await mesh.edit(mesh.get('n1'), SITE, [['set', '$', true]])
    for (const member of mesh.all) await mesh.kill(member)
    await mesh.clock.advance(60_000)
    await mesh.startAll()
    await mesh.clock.advance(5 * 60_000)
    expect(mesh.areEqual()).toBe(false)
    mesh.wire.heal()
    await mesh.converge(120_000)
    await mesh.clock.advance(20_000)
    for (const member of mesh.all) {
      for (const other of mesh.all) if (other !== member) expect(member.stateOf(other)).toBe('Ready')
    }
  })
})

describe('loss of a node', () => {
  test('every node is restarted in turn while edits go on', async () => {
    const mesh = await SimMesh.started(5, { seed: 8 })
    for (const [index, member] of mesh.all.entries()) {
      await (index % 2 === 0 ? mesh.kill(member) : mesh.stopMember(member))
      await mesh.edit(mesh.dice.pick(mesh.running), `default/*/site/s${index}`, [['set', '$', true]])
      await mesh.clock.advance(5_000)
      await mesh.start(member)
      await mesh.edit(member, `default/*/site/t${index}`, [['set', '$', true]])
      await mesh.converge(60_000)
    }
    expect(mesh.all[0]!.up.replica.state.resources()).toHaveLength(10)
  })

  test('a wiped store is refilled, and nothing counts as settled before', async () => {
    const mesh = await SimMesh.started(4, { seed: 9 })
    await scatter(mesh, 10)
    await mesh.converge(30_000)
    const [, , c, d] = mesh.all
    for (const member of [c!, d!]) await mesh.wipe(member)
    // The two that lost everything meet before anyone else.
    mesh.partition(['n2', 'n3'])
    await mesh.start(c!)
    await mesh.start(d!)
    await mesh.clock.advance(30_000)
    expect([c!.up.isSettled, d!.up.isSettled]).toEqual([false, false])
    mesh.wire.heal()
    await mesh.converge(60_000)
    expect(mesh.areEqual()).toBe(true)
  })

  test('damaged records are refilled, the genesis among them', async () => {
    const mesh = await SimMesh.started(3, { seed: 10 })
    await scatter(mesh, 12)
    await mesh.converge(30_000)
    const member = mesh.get('n2')
    const ids = [...member.up.replica.state.history.order]
    await mesh.stopMember(member)
    for (const index of [0, 3, 8]) {
      member.store.tamper(ids[index]!, (wire) => ({ ...wire, bytes: wire.bytes.replace('"v":1', '"v":2') }))
    }
    await mesh.start(member)
    expect(member.up.replica.corruptRecords).toBe(3)
    await mesh.converge(60_000)
    await mesh.restart(member)
    expect(member.up.replica.corruptRecords).toBe(0)
    await mesh.converge(60_000)
    expect(mesh.areEqual()).toBe(true)
  })

  test('a full disk stops one node alone, and it recovers', async () => {
    let isFull = false
    const mesh = await SimMesh.started(4, { seed: 11, stores: { n3: new MemoryStore({ failsWrite: () => isFull }) } })
    const member = mesh.get('n3')
    const ana = await mesh.author('ana')
    await mesh.converge(30_000)
    isFull = true
    await scatter(mesh, 8, mesh.all.slice(0, 3))
    await expect(mesh.edit(member, SITE, [['set', '$', true]], ana)).rejects.toMatchObject({ code: 'store_unwritable' })
    await mesh.converge(60_000, mesh.all.slice(0, 3))
    expect(member.up.health().status).toBe('Error')
    const before = mesh.requestsOf(member)
    await mesh.clock.advance(5 * 60_000)
    // It goes on trying, and does not storm its peers.
    expect((mesh.requestsOf(member) - before) / 5).toBeLessThan(200)
    isFull = false
    await mesh.edit(mesh.get('n0'), 'default/*/site/more', [['set', '$', true]])
    await mesh.converge(60_000)
    expect(member.up.health().status).toBe('Running')
  })
})

test('thirty minutes of random faults end in agreement', async () => {
  const mesh = await SimMesh.started(7, { seed: 12, delayMs: [1, 100], lossRate: 0.02 })
  const authors = await Promise.all(['ana', 'bob', 'cem'].map((name) => mesh.author(name)))
  const end = mesh.clock.monotonic() + 30 * 60_000
  while (mesh.clock.monotonic() < end) {
    await mesh.clock.advance(mesh.random() * 10_000)
    const member = mesh.dice.pick(mesh.all)
    const fault = mesh.dice.below(10)
    if (fault < 6 && member.node !== undefined) {
      const path = `default/*/site/s${mesh.dice.below(5)}`
      const ops = [['set', '$', true] as const, ['set', `f${mesh.dice.below(4)}`, mesh.dice.below(100)] as const]
      await mesh.edit(member, path, ops, mesh.dice.pick(authors))
    } else if (fault === 6) {
      if (member.node === undefined) await mesh.start(member)
      else await (mesh.dice.chance(0.5) ? mesh.kill(member) : mesh.stopMember(member))
    } else if (fault === 7) {
      mesh.partition(mesh.dice.some(mesh.all, 0.4).map(({ name }) => name))
    } else if (fault === 8) {
      mesh.wire.heal()
    } else if (mesh.dice.chance(0.2)) {
      await mesh.wipe(member)
    }
  }
  mesh.wire.heal()
  mesh.weather.lossRate = 0
  await mesh.startAll()
  await mesh.converge(3 * 60_000)
  expect(mesh.areEqual()).toBe(true)
})

/** Edits at random nodes and moments. */
async function scatter(mesh: SimMesh, count: number, members = mesh.all): Promise<void> {
  for (let n = 0; n < count; n += 1) {
    await mesh.edit(mesh.dice.pick(members), `default/*/site/s${n % 7}`, [
      ['set', '$', true],
      ['set', 'n', n],
    ])
    await mesh.clock.advance(mesh.random() * 300)
  }
}
