import { describe, expect, test } from 'vitest'
import type { Envelope } from '../../src/core/envelope.ts'
import { MeshState } from '../../src/core/state.ts'
import { Agreement, AGREEMENT_TIMES, witnessesOf } from '../../src/status/agreement.ts'
import { STATUS_SKEW_MS } from '../../src/status/status-record.ts'
import { Author } from '../support/author.ts'
import { keyOf, TestMesh } from '../support/authors.ts'
import { VirtualClock } from '../support/virtual-clock.ts'

const { lostAfterMs } = AGREEMENT_TIMES
const MINUTE_MS = 60_000
const OURS = 'a'.repeat(64)
const THEIRS = 'b'.repeat(64)

/** A node among others that speak each minute, and what it makes of that. */
function among(count: number) {
  const clock = new VirtualClock()
  const others = Array.from({ length: count }, (_, n) => `n${n}`)
  const world = { isSettled: true, granted: ['own', ...others], digest: OURS }
  const agreement = new Agreement({
    own: 'own',
    clock,
    witnesses: () => world.granted,
    digest: () => world.digest,
    isSettled: () => world.isSettled,
  })
  /** What each says in each of these minutes; undefined: nothing. */
  const pass = async (minutes: number, says: (n: number) => string | undefined, lagMs = 0): Promise<void> => {
    for (let minute = 0; minute < minutes; minute += 1) {
      agreement.view()
      for (const [n, node] of others.entries()) {
        const digest = says(n)
        if (digest !== undefined) agreement.hear({ node, digest, at: clock.now() - lagMs })
      }
      await clock.advance(MINUTE_MS)
    }
  }
  return { clock, world, agreement, pass }
}

const LONG = 2 + lostAfterMs / MINUTE_MS

describe('agreement', () => {
  test('of half of the others is enough, whatever the rest says', async () => {
    const { agreement, pass } = among(6)
    await pass(60, (n) => [OURS, OURS, OURS, THEIRS, THEIRS, undefined][n])
    expect(agreement.view()).toEqual({ agreeing: 3, differing: 2, skewed: 0, silent: 1, lostForMs: undefined })
    expect(agreement.complaints()).toEqual([])
    // So one node that is down for long is no alarm in a mesh of three, and one colluder there is enough to hide a stale view.
    const small = among(2)
    await small.pass(60, (n) => (n === 0 ? OURS : undefined))
    expect(small.agreement.complaints()).toEqual([])
  })

  test('is lost when fewer than half hold the same for long, and comes back with it', async () => {
    const { agreement, clock, pass } = among(6)
    await pass(30, () => OURS)
    const lastAgreed = new Date(clock.now() - MINUTE_MS).toISOString()
    await pass(LONG, (n) => [OURS, OURS, THEIRS, THEIRS, THEIRS, undefined][n])
    expect(agreement.view()).toMatchObject({ agreeing: 2, differing: 3, silent: 1 })
    expect(agreement.complaints()).toEqual([
      `since ${lastAgreed} fewer than half of the other nodes hold what this one holds (2 of 6): 3 tell of edits that no connected peer hands over, 0 speak by another clock, 1 are not heard of; is this node cut off from honest peers, or its clock wrong?`,
    ])
    await pass(1, (n) => (n === 2 ? OURS : undefined))
    expect(agreement.complaints()).toEqual([])
  })

  test('is not missed before its time', async () => {
    const { agreement, pass } = among(3)
    await pass(lostAfterMs / MINUTE_MS, () => THEIRS)
    expect(agreement.complaints()).toEqual([])
    await pass(1, () => THEIRS)
    expect(agreement.complaints()).toHaveLength(1)
  })

  test('needs one match in a long time, as where edits are always on their way', async () => {
    const { agreement, pass } = among(3)
    let minute = 0
    for (; minute < 60; minute += 1) await pass(1, (n) => (minute % 9 === n ? OURS : THEIRS))
    expect(agreement.complaints()).toEqual([])
  })

  test('by words of long ago is none: a relay may hand out old records, one by one', async () => {
    const { agreement, pass } = among(3)
    await pass(LONG, () => OURS, STATUS_SKEW_MS + 1)
    expect(agreement.view()).toMatchObject({ agreeing: 0, skewed: 3, silent: 0 })
    expect(agreement.complaints()).toHaveLength(1)
    await pass(1, () => OURS, -STATUS_SKEW_MS)
    expect(agreement.complaints()).toEqual([])
  })

  test('is not asked of a node that has not settled, nor of a new one at once', async () => {
    const { agreement, world, pass } = among(3)
    world.isSettled = false
    await pass(LONG, () => THEIRS)
    expect(agreement.complaints()).toEqual([])
    world.isSettled = true
    await pass(LONG - 3, () => THEIRS)
    expect(agreement.complaints()).toEqual([])
  })

  test('is not asked of nodes without a grant, and these are forgotten', async () => {
    const { agreement, world, pass } = among(5)
    await pass(1, () => OURS)
    world.granted = ['own', 'n0']
    await pass(LONG, (n) => (n === 0 ? OURS : THEIRS))
    expect(agreement.view()).toEqual({ agreeing: 1, differing: 0, skewed: 0, silent: 0, lostForMs: undefined })
  })

  test('of nobody is not lost where there is nobody else; of two, each is the half of the other', async () => {
    expect(among(0).agreement.complaints()).toEqual([])
    const { agreement, pass } = among(1)
    await pass(30, () => OURS)
    expect(agreement.complaints()).toEqual([])
    await pass(LONG, () => OURS, STATUS_SKEW_MS + 1)
    expect(agreement.complaints()).toEqual([expect.stringContaining('(0 of 1)')])
    expect(agreement.complaints()).toEqual([expect.stringContaining('1 speak by another clock')])
  })
})

test('witnesses are the nodes that somebody else than a registrar let in', () => {
  const state = new MeshState()
  const mesh = new TestMesh(['a', 'b', 'c'].map((name) => ({ key: keyOf(name).publicKey, name, zones: ['eu'] })))
  const keys = (...names: string[]): string[] => names.map((name) => keyOf(name).publicKey).toSorted()
  const registrar = keyOf('registrar')
  const add = <E extends Envelope>(envelope: E): E => {
    state.add(envelope)
    return envelope
  }
  mesh.founding.forEach(add)
  const { id } = add(mesh.grant(registrar.publicKey, 'robot', { kinds: ['node'], zones: ['eu'] }))
  const robot = new Author(mesh.id, registrar, id)
  // Hosts that do not exist, and one that the owner had let in before.
  for (const name of ['x', 'y', 'z', 'a']) add(robot.grant(keyOf(name).publicKey, 'node', { zones: ['eu'], ws: '*' }))
  expect(witnessesOf(state).toSorted()).toEqual(keys('a', 'b', 'c'))
  add(mesh.grant(keyOf('x').publicKey, 'node', { zones: ['eu'] }))
  add(mesh.revoke(`key/${keyOf('b').publicKey}`))
  expect(witnessesOf(state).toSorted()).toEqual(keys('a', 'c', 'x'))
})
