/** What a new mesh takes over from an old one: estateOf and refoundMesh, without a node. */

import { expect, test } from 'vitest'
import { recompute } from '../../src/cli/observing/verify.ts'
import { admit } from '../../src/core/admission.ts'
import { toWire } from '../../src/core/codec.ts'
import { rootSetHash, type Envelope, type Op } from '../../src/core/envelope.ts'
import { estateOf, refoundMesh, type Estate } from '../../src/core/refounding.ts'
import { MeshState } from '../../src/core/state.ts'
import { keyOf, Scribe } from '../support/histories.ts'

const [root, next, owner, editor, thief, sybil] = ['root', 'next', 'owner', 'editor', 'thief', 'sybil'].map(keyOf)
const EVERYWHERE = { zones: ['*'], kinds: ['*'] }

/** An old mesh with an owner and an editor. */
function oldMesh() {
  const scribe = new Scribe({ roots: [root!], threshold: 1, next: rootSetHash([next!.publicKey], 1) })
  const state = new MeshState()
  const take = <E extends Envelope>(envelope: E): E => {
    expect(admit(envelope, state.history)).toMatchObject({ outcome: 'ready' })
    state.add(envelope)
    return envelope
  }
  take(scribe.genesis)
  const owners = take(scribe.grant({ by: root!, grant: scribe.mesh, ws: '*' }, owner!.publicKey, 'owner', EVERYWHERE))
  const editors = take(scribe.grant({ by: owner!, grant: owners.id, ws: '*' }, editor!.publicKey, 'editor', EVERYWHERE))
  return { scribe, state, take, owners, editors }
}

function refounded(estate: Estate): MeshState {
  const founding = {
    name: 'new',
    ownerName: 'owner',
    roots: [keyOf('root-2')],
    nextRoots: [keyOf('next-2').publicKey],
    threshold: 1,
    owner: keyOf('owner-2'),
    at: 1_800_000_000_000,
  }
  const { state, faults } = recompute(refoundMesh(founding, estate, 'refounded').map(toWire), undefined)
  expect(faults).toEqual([])
  return state
}

test('a resource with more fields than an edit holds, all sorted before $, is taken over whole', () => {
  const { scribe, state, take, editors } = oldMesh()
  const path = 'default/eu/site/bomb'
  const by = { by: editor!, grant: editors.id, ws: 'default' }
  let last = take(scribe.edit(by, [[path, [], [['set', '$', true]]]])).id
  for (const part of ['a', 'b']) {
    const ops = Array.from({ length: 200 }, (_, index): Op => ['set', `!${part}${100 + index}`, 1])
    last = take(scribe.edit(by, [[path, [last], ops]])).id
  }
  const before = state.resource(path)!
  const after = refounded(estateOf(state)).resource(path)!
  expect([before.fields.size, after.exists, [...after.fields]]).toEqual([400, true, [...before.fields]])
})

test('what a thief of the roots granted, and what was granted under it, is left behind unless it is named', () => {
  const { scribe, state, take, owners } = oldMesh()
  // The thief has the next keys too: two successions, so that neither is followed.
  const succession = (hash: string, place: object) =>
    scribe.rootset(
      { by: next!, grant: scribe.mesh, ...place },
      { roots: [next!.publicKey], threshold: 1, next: hash.repeat(32) },
      [owners.id],
    )
  const first = take(succession('aa', {}))
  take(succession('bb', { prev: [], n: 1 }))
  const admin = take(
    scribe.grant({ by: next!, grant: first.id, ws: '*', at: 1_600_000_000_000 }, thief!.publicKey, 'admin', {
      ...EVERYWHERE,
      name: 'backup',
    }),
  )
  take(scribe.grant({ by: thief!, grant: admin.id, ws: '*' }, sybil!.publicKey, 'editor', EVERYWHERE))
  const rolesIn = (estate: Estate) =>
    [editor, thief, sybil].map((key) =>
      refounded(estate)
        .policy.activeGrants(key!.publicKey)
        .map((g) => g.body.role),
    )
  const estate = estateOf(state)
  expect(rolesIn(estate)).toEqual([['editor'], [], []])
  expect(estate.byRoots.map(({ role, by }) => [role, by])).toEqual([
    ['admin', next!.publicKey],
    ['editor', thief!.publicKey],
  ])
  expect(rolesIn(estateOf(state, new Set(), new Set([thief!.publicKey])))).toEqual([['editor'], ['admin'], ['editor']])
  const without = estateOf(state, new Set([thief!.publicKey]), new Set([thief!.publicKey]))
  expect(rolesIn(without), 'nor what they granted').toEqual([['editor'], [], []])
})
