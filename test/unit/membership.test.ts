import { describe, expect, test } from 'vitest'
import type { Envelope } from '../../src/core/envelope.ts'
import { isPlacedFor, type Place } from '../../src/core/slice.ts'
import { MeshState } from '../../src/core/state.ts'
import { Membership } from '../../src/membership.ts'
import { Author } from '../support/author.ts'
import { keyOf, TestMesh } from '../support/authors.ts'

const [own, peer, listed, stranger] = ['own', 'peer', 'listed', 'stranger'].map((name) => keyOf(name).publicKey)

function membershipOf(make: (mesh: TestMesh) => readonly Envelope[], zones: readonly string[] = [], lists = listed!) {
  const mesh = new TestMesh()
  const state = new MeshState()
  for (const envelope of [...mesh.founding, ...make(mesh)]) state.add(envelope)
  return new Membership({
    state,
    own: own!,
    enc: 'e'.repeat(64),
    listed: [{ key: lists, addresses: ['10.0.0.1:9102'] }],
    zones,
  })
}

describe('admission', () => {
  test('granted and listed keys may connect, others may not', () => {
    const membership = membershipOf((mesh) => [mesh.grant(peer!, 'node'), mesh.grant(stranger!, 'editor')])
    expect([peer, listed, stranger].map((key) => membership.allows(key!))).toEqual([true, true, false])
  })

  test('a revoked key may not, though listed, until it is granted anew', () => {
    const revoked = (mesh: TestMesh) => [mesh.grant(listed!, 'node'), mesh.revoke(`key/${listed}`)]
    expect(membershipOf(revoked).allows(listed!)).toBe(false)
    expect(membershipOf(revoked).dialTargets(new Map())).toEqual([])
    const byGrant = membershipOf((mesh) => {
      const grant = mesh.grant(listed!, 'node')
      return [grant, mesh.revoke(`grant/${grant.id}`), mesh.grant(listed!, 'node', { zones: ['eu'] })]
    })
    expect(byGrant.allows(listed!)).toBe(true)
  })

  test('a registrar cannot cut off a listed key by granting and revoking it, and cuts off what it alone let in', () => {
    const registrar = keyOf('registrar')
    const outAgain = (key: string) => (mesh: TestMesh) => {
      const robot = mesh.grant(registrar.publicKey, 'robot', { zones: ['eu.auto'], kinds: ['node'] })
      const author = new Author(mesh.id, registrar, robot.id)
      const grant = author.grant(key, 'node', { zones: ['eu.auto'] })
      return { mesh, grant, made: [robot, grant, author.revoke(`grant/${grant.id}`)] }
    }
    const ofListed = membershipOf((mesh) => outAgain(listed!)(mesh).made)
    expect([ofListed.allows(listed!), ofListed.standingOf(listed!)]).toEqual([true, 'unknown'])
    const ofPeer = membershipOf((mesh) => outAgain(peer!)(mesh).made)
    expect([ofPeer.allows(peer!), ofPeer.revocationsOf(peer!).length]).toEqual([false, 1])
    const byOwnerToo = membershipOf((mesh) => {
      const { made, grant } = outAgain(listed!)(mesh)
      return [...made, mesh.revoke(`grant/${grant.id}`)]
    })
    expect(byOwnerToo.standingOf(listed!)).toBe('revoked')
    const grantedAgain = membershipOf((mesh) => [...outAgain(peer!)(mesh).made, mesh.grant(peer!, 'node')])
    expect(grantedAgain.allows(peer!)).toBe(true)
  })

  test('the revocations of a peer are those of its grants as a node', () => {
    let revocation = ''
    const membership = membershipOf((mesh) => {
      const grant = mesh.grant(peer!, 'node')
      const editor = mesh.grant(peer!, 'editor')
      const revoke = mesh.revoke(`grant/${grant.id}`)
      revocation = revoke.id
      return [grant, editor, revoke, mesh.revoke(`grant/${editor.id}`)]
    })
    expect(membership.revocationsOf(peer!).map(({ id }) => id)).toEqual([revocation])
  })
})

test.each<[what: string, grants: { zones: string[]; ws?: string }[], claimed: string[], places: Place[]]>([
  ['within its grant counts', [{ zones: ['eu'] }], ['eu.west', 'eu'], [{ workspace: '*', zones: ['eu.west', 'eu'] }]],
  [
    'beyond its grant does not',
    [{ zones: ['eu.west'] }],
    ['eu', 'eu.west', 'us', '*'],
    [{ workspace: '*', zones: ['eu.west'] }],
  ],
  [
    'with two grants counts for each by itself',
    [
      { zones: ['eu'], ws: 'a' },
      { zones: ['us'], ws: 'b' },
    ],
    ['us', 'eu'],
    [
      { workspace: 'a', zones: ['eu'] },
      { workspace: 'b', zones: ['us'] },
    ],
  ],
  [
    'without a zone of one grant is not by that grant, which would give it the resources of zone *',
    [
      { zones: ['eu.west'], ws: 'shop' },
      { zones: ['eu.auto'], ws: '*' },
    ],
    ['eu.west'],
    [{ workspace: 'shop', zones: ['eu.west'] }],
  ],
  ['in none of its zones is of its workspace yet', [{ zones: ['eu'] }], ['us'], [{ workspace: '*', zones: [] }]],
  ['without a grant is nothing', [], ['eu'], []],
])('what a node says of its place %s', (_, grants, claimed, places) => {
  const membership = membershipOf((mesh) => grants.map((options) => mesh.grant(peer!, 'node', options)))
  expect(membership.placesOf(peer!, claimed)).toEqual(places)
})

test('a node of one workspace in a zone does not serve others there for a grant of all workspaces elsewhere', () => {
  const membership = membershipOf((mesh) => [
    mesh.grant(own!, 'node', { zones: ['eu.west'], ws: 'shop' }),
    mesh.grant(own!, 'node', { zones: ['eu.auto'], ws: '*' }),
  ])
  expect(membership.zones()).toEqual(['eu.auto', 'eu.west'])
  const isPlaced = (workspace: string, zone: string) => isPlacedFor({ workspace, zone }, membership.places())
  expect([isPlaced('shop', 'eu.west'), isPlaced('shop', 'eu.auto'), isPlaced('blog', 'eu.auto')]).toEqual([
    true,
    true,
    true,
  ])
  expect([isPlaced('blog', 'eu.west'), isPlaced('blog', 'eu'), isPlaced('blog', 'us')]).toEqual([false, true, false])
})

test('whom to dial: listed first and marked so, with all addresses known, never itself or strangers', () => {
  const membership = membershipOf((mesh) => [mesh.grant(peer!, 'node'), mesh.grant(own!, 'node')])
  const heard = new Map([
    [peer!, ['10.0.0.2:9102']],
    [listed!, ['10.0.0.9:9102', '10.0.0.1:9102']],
    [own!, ['10.0.0.3:9102']],
    [stranger!, ['10.0.0.4:9102']],
  ])
  expect(membership.dialTargets(heard)).toEqual([
    { key: listed, addresses: ['10.0.0.1:9102', '10.0.0.9:9102'], listed: true },
    { key: peer, addresses: ['10.0.0.2:9102'], listed: false },
  ])
})

describe('this node’s place', () => {
  test.each<
    [what: string, granted: string[] | undefined, configured: string[], zones: string[], complaint: RegExp | undefined]
  >([
    ['without a grant', undefined, [], [], /no grant/],
    ['of its grant alone', ['eu', 'us'], [], ['eu', 'us'], undefined],
    ['narrowed by the configuration', ['eu'], ['eu.west'], ['eu.west'], undefined],
    ['that the configuration would widen', ['eu'], ['eu', 'us'], ['eu'], /mesh\.zone us is outside/],
  ])('%s', (_, granted, configured, zones, complaint) => {
    const make = (mesh: TestMesh) => (granted === undefined ? [] : [mesh.grant(own!, 'node', { zones: granted })])
    const membership = membershipOf(make, configured)
    expect(membership.zones()).toEqual(zones)
    if (complaint === undefined) expect(membership.complaints()).toEqual([])
    else expect(membership.complaints().join()).toMatch(complaint)
  })

  test('is lost with the grant', () => {
    const membership = membershipOf((mesh) => [mesh.grant(own!, 'node'), mesh.revoke(`key/${own}`)])
    expect(membership.isRevoked).toBe(true)
    expect(membership.complaints().join()).toContain('revoked')
    expect([membership.zones(), membership.places()]).toEqual([[], []])
  })

  test('is alone while nobody else is granted or listed', () => {
    const isAlone = (make: (mesh: TestMesh) => readonly Envelope[], lists = own!) =>
      membershipOf(make, [], lists).isAlone
    expect(isAlone((mesh) => [mesh.grant(own!, 'node')])).toBe(true)
    expect(isAlone((mesh) => [mesh.grant(own!, 'node')], listed)).toBe(false)
    expect(isAlone((mesh) => [mesh.grant(own!, 'node'), mesh.grant(peer!, 'node')])).toBe(false)
    expect(isAlone(() => [])).toBe(false)
  })
})
