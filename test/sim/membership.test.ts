import { describe, expect, test } from 'vitest'
import { rememberingLog } from '../support/silent-log.ts'
import { SHARING_TIMES } from '../../src/status/key-sharing.ts'
import { SimMesh, type SimMember } from '../support/sim-mesh.ts'
import { keyOf } from '../support/authors.ts'

const SITE = 'default/*/site/shop'

describe('joining', () => {
  test('a late joiner that knows one peer learns the others’ addresses and dials them', async () => {
    const mesh = await SimMesh.started(5, { seed: 20 })
    await mesh.edit(mesh.get('n2'), SITE, [['set', '$', true]])
    const late = mesh.add('late', { listed: ['n3'] })
    await mesh.submit(mesh.get('n0'), mesh.founding.grant(late.publicKey, 'node', { name: 'late' }))
    await mesh.converge(30_000)
    await mesh.start(late)
    await mesh.converge(30_000)
    expect(late.up.replica.state.resource(SITE)?.exists).toBe(true)
    const others = mesh.all.filter((member) => member !== late)
    await mesh.clock.until(() => others.every((other) => late.isConnectedTo(other)), 60_000, 'links with all others')
    // The one that it was told of may go now.
    await mesh.kill(mesh.get('n3'))
    await mesh.edit(mesh.get('n4'), SITE, [['set', 'a', 1]])
    await mesh.converge(30_000)
    expect(mesh.areEqual()).toBe(true)
  })

  test('three hosts come up before the first grant, and meet once it is given, whoever is granted first', async () => {
    for (const order of [
      ['a', 'b', 'c'],
      ['c', 'b', 'a'],
    ]) {
      const mesh = new SimMesh([], { seed: 21 })
      mesh.add('a', { founder: true, listed: ['b', 'c'] })
      mesh.add('b', { listed: ['a'] })
      mesh.add('c', { listed: ['a'] })
      await mesh.startAll()
      await mesh.clock.advance(60_000)
      for (const name of order) {
        const grant = mesh.founding.grant(mesh.get(name).publicKey, 'node', { name })
        await mesh.submit(mesh.get('a'), grant)
        await mesh.clock.advance(40_000)
      }
      await mesh.converge(60_000)
      for (const member of mesh.all) expect(member.up.health().reasons).toEqual([])
    }
  })

  test('a node without a mesh id takes the genesis of a listed peer alone', async () => {
    const mesh = await SimMesh.started(3, { seed: 22 })
    const [trusting] = [mesh.add('trusting', { listed: ['n0'], meshId: '' })]
    await mesh.submit(mesh.get('n0'), mesh.founding.grant(trusting.publicKey, 'node', { name: 'trusting' }))
    await mesh.start(trusting)
    await mesh.converge(60_000)
    expect(trusting.up.replica.meshId).toBe(mesh.founding.id)
  })
})

describe('keeping out', () => {
  test('an unknown key is never admitted', async () => {
    const mesh = await SimMesh.started(3, { seed: 23 })
    const stranger = mesh.add('stranger', { listed: ['n0', 'n1', 'n2'] })
    await mesh.start(stranger)
    await mesh.clock.advance(5 * 60_000)
    expect(stranger.network?.connected).toEqual([])
    expect(stranger.up.replica.state.history.size).toBe(0)
  })

  test('a node of another mesh is disconnected, and takes nothing', async () => {
    const mesh = await SimMesh.started(2, { seed: 24 })
    const other = mesh.add('other', { listed: ['n0'], meshId: 'f'.repeat(64) })
    await mesh.submit(mesh.get('n0'), mesh.founding.grant(other.publicKey, 'node', { name: 'other' }))
    await mesh.start(other)
    const before = mesh.requestsOf(other)
    await mesh.clock.advance(10 * 60_000)
    expect(other.up.replica.state.history.size).toBe(0)
    expect(other.network?.connected).toEqual([])
    expect((mesh.requestsOf(other) - before) / 10).toBeLessThan(10)
  })

  test('a revoked node is told, is dropped by all, and takes nothing new', async () => {
    const mesh = await SimMesh.started(5, { seed: 25 })
    const gone = mesh.get('n4')
    const others = mesh.all.filter((member) => member !== gone)
    await mesh.submit(mesh.get('n1'), mesh.founding.revoke(`key/${gone.publicKey}`))
    await mesh.clock.until(() => gone.up.health().msg.includes('revoked'), 20_000, 'the revoked node to know')
    await mesh.clock.until(() => gone.network?.connected.length === 0, 30_000, 'the others to drop it')
    await mesh.edit(mesh.get('n0'), SITE, [['set', '$', true]])
    await mesh.converge(30_000, others)
    await mesh.clock.advance(3 * 60_000)
    expect(gone.network?.connected).toEqual([])
    expect(gone.up.replica.state.resource(SITE)).toBeUndefined()
    expect(others.map((other) => other.stateOf(gone))).toEqual(others.map(() => undefined))
    // A restart does not bring it back.
    await mesh.restart(gone)
    await mesh.clock.advance(3 * 60_000)
    expect(gone.network?.connected).toEqual([])
  })

  test('a node that was down when it was revoked asks why nobody lets it in, and is told', async () => {
    const mesh = await SimMesh.started(4, { seed: 28 })
    const gone = mesh.get('n3')
    const others = mesh.all.filter((member) => member !== gone)
    await mesh.stopMember(gone)
    for (let n = 0; n < 5; n += 1) {
      await mesh.submit(mesh.get('n0'), mesh.founding.grant(keyOf(`later ${n}`).publicKey, 'editor'))
    }
    await mesh.submit(mesh.get('n1'), mesh.founding.revoke(`key/${gone.publicKey}`))
    await mesh.edit(mesh.get('n0'), SITE, [['set', '$', true]])
    await mesh.converge(30_000, others)
    await mesh.restart(gone)
    await mesh.clock.until(() => gone.up.health().msg.includes('revoked'), 60_000, 'the revoked node to know')
    expect(gone.network?.connected).toEqual([])
    expect(gone.up.replica.state.resource(SITE)).toBeUndefined()
  })

  // Pitfall 13: removing what cannot be reached must work from any other peer.
  test('a node that is down is removed through whichever node is asked, and refused when it comes back', async () => {
    const mesh = await SimMesh.started(4, { seed: 31 })
    const [one, another] = [mesh.get('n2'), mesh.get('n3')]
    for (const gone of [one, another]) await mesh.kill(gone)
    // It will never have met them.
    const newcomer = mesh.add('newcomer', { listed: ['n0'] })
    await mesh.submit(mesh.get('n0'), mesh.founding.grant(newcomer.publicKey, 'node', { name: 'newcomer' }))
    await mesh.start(newcomer)
    await mesh.converge(60_000)
    const others = mesh.running
    const seen = () => others.flatMap((other) => [other.stateOf(one), other.stateOf(another)])
    expect(seen()).not.toContain(undefined)

    await mesh.submit(mesh.get('n1'), mesh.founding.revoke(`key/${one.publicKey}`))
    await mesh.submit(newcomer, mesh.founding.revoke(`key/${another.publicKey}`))
    await mesh.converge(30_000)
    // Nobody waits for them any more.
    expect(new Set(seen())).toEqual(new Set([undefined]))

    for (const gone of [one, another]) await mesh.start(gone)
    await mesh.edit(mesh.get('n0'), SITE, [['set', '$', true]])
    await mesh.clock.advance(10 * 60_000)
    for (const gone of [one, another]) {
      expect(others.filter((other) => other.isConnectedTo(gone))).toEqual([])
      expect(gone.up.replica.state.resource(SITE)).toBeUndefined()
    }
    expect(new Set(seen())).toEqual(new Set([undefined]))
    expect(mesh.areEqual(others)).toBe(true)
  })

  test('a node that lags behind is told of its revocation with what that rests on', async () => {
    const mesh = await SimMesh.started(2, { seed: 26, gossip: false, syncIntervalSeconds: 3600 })
    const [teller, gone] = [mesh.get('n0'), mesh.get('n1')]
    for (let n = 0; n < 5; n += 1) {
      await mesh.submit(teller, mesh.founding.grant(keyOf(`late ${n}`).publicKey, 'editor'))
    }
    await mesh.submit(teller, mesh.founding.revoke(`key/${gone.publicKey}`))
    await mesh.clock.until(() => gone.up.health().msg.includes('revoked'), 20_000, 'the revoked node to know')
    await mesh.clock.until(() => !teller.isConnectedTo(gone), 20_000, 'the teller to drop it')
    expect(gone.up.replica.state.history.size).toBe(teller.up.replica.state.history.size)
  })
})

describe('peer states', () => {
  test('follow silence and goodbyes, and begin as Unknown', async () => {
    const mesh = await SimMesh.started(3, { seed: 27 })
    await mesh.clock.advance(61_000)
    const [a, b, c] = [mesh.get('n0'), mesh.get('n1'), mesh.get('n2')]
    expect(a.stateOf(b)).toBe('Ready')
    await mesh.stopMember(b)
    await mesh.clock.advance(1_000)
    expect(a.stateOf(b)).toBe('NotReady')
    await mesh.clock.advance(150_000)
    expect(a.stateOf(b)).toBe('Unavailable')
    expect(a.stateOf(c)).toBe('Ready')

    // Addresses outlive a restart, states do not.
    await mesh.stopMember(c)
    await mesh.kill(a)
    mesh.partition(['n0'])
    await mesh.start(a)
    expect([a.stateOf(b), a.stateOf(c)]).toEqual(['Unknown', 'Unknown'])
    expect(a.up.status.known().get(c.publicKey)).toEqual([`127.0.0.1:${c.port}`])
    await mesh.clock.advance(10 * 60_000)
    expect([a.stateOf(b), a.stateOf(c)]).toEqual(['Unknown', 'Unknown'])
    mesh.wire.heal()
    await mesh.startAll()
    await mesh.clock.until(() => a.stateOf(b) === 'Ready' && a.stateOf(c) === 'Ready', 90_000, 'all to be Ready')
  })

  test('a node that is gone does not look alive to who hears of it from others', async () => {
    const mesh = await SimMesh.started(3, { seed: 28 })
    await mesh.kill(mesh.get('n2'))
    await mesh.clock.advance(10 * 60_000)
    await mesh.wipe(mesh.get('n1'))
    await mesh.start(mesh.get('n1'))
    await mesh.converge(30_000)
    expect(mesh.get('n1').stateOf(mesh.get('n2'))).toBe('Unavailable')
  })

  test('two hosts with one key are noticed, and do not storm the mesh', async () => {
    const mesh = await SimMesh.started(3, { seed: 29 })
    const { log, lines } = rememberingLog()
    const clone = mesh.add('clone', { listed: ['n1'], log, key: mesh.get('n2').key })
    await mesh.start(clone)
    await mesh.clock.advance(60_000)
    const before = mesh.published
    await mesh.clock.advance(10 * 60_000)
    expect(lines.join('\n')).toContain('was its data restored, or its key copied?')
    // Four nodes with a record each 15 s make 160, and each of the two answers the other now and then.
    expect(mesh.published - before).toBeLessThan(600)
    const told = mesh.all.map((member) => [member.name, keyComplaints(member)])
    const own = [expect.stringContaining('another process signs status records with this node’s key')]
    const others = [expect.stringContaining('two processes sign status records with the key of node n2')]
    expect(told).toEqual([
      ['n0', others],
      ['n1', others],
      ['n2', own],
      ['clone', own],
    ])
    expect(mesh.all.map(({ up }) => up.health().status)).toEqual(['Running', 'Running', 'Degraded', 'Degraded'])
    await mesh.stopMember(clone)
    await mesh.clock.advance(SHARING_TIMES.forgottenAfterMs + 60_000)
    expect(mesh.running.flatMap(keyComplaints)).toEqual([])
  })

  test('a node that is restarted again and again, killed or not, has one key to itself', async () => {
    const mesh = await SimMesh.started(4, { seed: 31, delayMs: [1, 200], lossRate: 0.05 })
    const restless = mesh.get('n3')
    for (let n = 0; n < 60; n += 1) {
      await (mesh.dice.chance(0.5) ? mesh.kill(restless) : mesh.stopMember(restless))
      await mesh.clock.advance(mesh.random() * 2_000)
      await mesh.start(restless)
      await mesh.clock.advance(mesh.random() * 20_000)
      expect(mesh.all.flatMap(keyComplaints)).toEqual([])
    }
  })

  test('a node restored from an old backup overtakes its own past', async () => {
    const mesh = await SimMesh.started(3, { seed: 30 })
    const [a, b] = [mesh.get('n0'), mesh.get('n2')]
    for (let n = 0; n < 5; n += 1) {
      await mesh.restart(b)
      await mesh.clock.advance(20_000)
    }
    await mesh.wipe(b)
    await mesh.start(b)
    await mesh.clock.advance(60_000)
    expect(b.up.status.own()?.incarnation).toBeGreaterThan(5)
    expect(a.stateOf(b)).toBe('Ready')
    expect(mesh.all.flatMap(keyComplaints)).toEqual([])
    expect(a.up.status.peers().find(({ key }) => key === b.publicKey)?.record?.incarnation).toBe(
      b.up.status.own()?.incarnation,
    )
  })
})

function keyComplaints({ up }: SimMember): string[] {
  return up.health().reasons.filter((reason) => reason.includes('status records with'))
}
