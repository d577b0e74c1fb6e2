import { describe, expect, test } from 'vitest'
import { admit } from '../../src/core/admission.ts'
import {
  ROLES,
  rootSetHash,
  type EditBody,
  type Envelope,
  type GrantBody,
  type KeyPair,
  type Op,
  type Role,
} from '../../src/core/envelope.ts'
import { RANKS, denial, type Denial } from '../../src/core/policy.ts'
import { MeshState } from '../../src/core/state.ts'
import { Scribe, keyOf } from '../support/histories.ts'

const root = keyOf('root')
const owner = keyOf('owner')
const admin = keyOf('admin')
const editor = keyOf('editor')
const ALL = { zones: ['*'], kinds: ['*'] }

/** A mesh with an owner, an admin and an editor that the admin granted. */
class Office {
  readonly scribe: Scribe
  readonly root: KeyPair
  readonly state = new MeshState()
  readonly ownerGrant: Envelope<GrantBody>
  readonly adminGrant: Envelope<GrantBody>
  readonly editorGrant: Envelope<GrantBody>

  constructor(scribe: Scribe = new Scribe(), rootKey: KeyPair = root) {
    this.scribe = scribe
    this.root = rootKey
    this.add(scribe.genesis)
    this.ownerGrant = this.add(scribe.grant(this.asRoot(), owner.publicKey, 'owner', ALL))
    this.adminGrant = this.add(scribe.grant(this.asOwner(), admin.publicKey, 'admin', ALL))
    this.editorGrant = this.add(scribe.grant(this.asAdmin(), editor.publicKey, 'editor', ALL))
  }

  add<E extends Envelope>(envelope: E): E {
    const admission = admit(envelope, this.state.history)
    if (admission.outcome !== 'ready') throw new Error(JSON.stringify(admission))
    this.state.add(envelope)
    return envelope
  }

  edit(path = 'default/eu/site/a', grant: Envelope<GrantBody> = this.editorGrant): Envelope<EditBody> {
    const deps = this.state.resource(path)?.heads ?? []
    const ops: Op[] = [
      ['set', '$', true],
      ['set', 'root', this.state.history.size],
    ]
    return this.add(
      this.scribe.edit({ by: editor, grant: grant.id, ws: path.split('/')[0] as string }, [[path, deps, ops]]),
    )
  }

  asRoot = (ws = '*') => ({ by: this.root, grant: this.scribe.mesh, ws })
  asOwner = (ws = '*') => ({ by: owner, grant: this.ownerGrant.id, ws })
  asAdmin = (ws = '*') => ({ by: admin, grant: this.adminGrant.id, ws })

  /** `accepted`, or the code of the denial. */
  verdict(envelope: Envelope): 'accepted' | Denial['code'] {
    const verdict = this.state.policy.verdict(envelope)
    return verdict.accepted ? 'accepted' : verdict.denial.code
  }
}

describe('what a grant allows', () => {
  const scribe = new Scribe()
  const grantOf = (role: Role, scope: Partial<GrantBody> = {}): GrantBody => ({
    ...scribe.grant({ by: owner, grant: scribe.mesh, ws: 'default' }, editor.publicKey, role, ALL).body,
    ...scope,
  })
  const edit = (path: string, op: Op = ['set', 'root', 1]): EditBody =>
    scribe.edit({ by: editor, grant: scribe.mesh, ws: path.split('/')[0] as string }, [[path, [], [op]]]).body
  const site = 'default/eu/site/a'

  test.each<[string, GrantBody, EditBody, Denial['code'] | undefined]>([
    ['an editor edits', grantOf('editor'), edit(site), undefined],
    ['a robot edits', grantOf('robot'), edit(site), undefined],
    ['an admin edits', grantOf('admin'), edit(site), undefined],
    ['an owner edits', grantOf('owner'), edit(site), undefined],
    ['a viewer does not', grantOf('viewer'), edit(site), 'role'],
    ['a node does not', grantOf('node'), edit(site), 'role'],
    ['another subject', grantOf('editor', { subject: owner.publicKey }), edit(site), 'subject'],
    ['another workspace', grantOf('editor', { ws: 'shop' }), edit(site), 'scope'],
    ['all workspaces', grantOf('editor', { ws: '*' }), edit(site), undefined],
    ['the zone itself', grantOf('editor', { zones: ['eu'] }), edit(site), undefined],
    ['a zone below', grantOf('editor', { zones: ['eu'] }), edit('default/eu.west/site/a'), undefined],
    ['a zone above', grantOf('editor', { zones: ['eu.west'] }), edit(site), 'scope'],
    ['a zone with the same beginning', grantOf('editor', { zones: ['e'] }), edit(site), 'scope'],
    ['zone * from a grant of one', grantOf('editor', { zones: ['eu'] }), edit('default/*/site/a'), 'scope'],
    ['zone * from a grant of *', grantOf('editor'), edit('default/*/site/a'), undefined],
    ['another kind', grantOf('editor', { kinds: ['upstream'] }), edit(site), 'scope'],
    ['one of its kinds', grantOf('editor', { kinds: ['site', 'upstream'] }), edit(site), undefined],
    ['a privileged field', grantOf('editor'), edit(site, ['set', 'privileged/x', 1]), 'field'],
    ['deleting a privileged field', grantOf('editor'), edit(site, ['del', 'privileged/x']), 'field'],
    ['a privileged field by an admin', grantOf('admin'), edit(site, ['set', 'privileged/x', 1]), undefined],
    [
      'a privileged field that is granted',
      grantOf('editor', { fields: ['privileged/x'] }),
      edit(site, ['set', 'privileged/x', 1]),
      undefined,
    ],
    [
      'a privileged field that is not the granted one',
      grantOf('editor', { fields: ['privileged/x'] }),
      edit(site, ['set', 'privileged/xy', 1]),
      'field',
    ],
    ['fields do not narrow an editor', grantOf('editor', { fields: ['privileged/x'] }), edit(site), undefined],
    ['fields narrow a robot', grantOf('robot', { fields: ['endpoints/'] }), edit(site), 'field'],
    [
      'a robot within its prefix',
      grantOf('robot', { fields: ['endpoints/'] }),
      edit(site, ['set', 'endpoints/1', 1]),
      undefined,
    ],
    [
      'a prefix is not the field before it',
      grantOf('robot', { fields: ['endpoints/'] }),
      edit(site, ['set', 'endpoints', 1]),
      'field',
    ],
    [
      'a robot without $ does not delete',
      grantOf('robot', { fields: ['endpoints/'] }),
      edit(site, ['del', '$']),
      'field',
    ],
    ['a robot and a privileged field', grantOf('robot'), edit(site, ['set', 'privileged/x', 1]), 'field'],
  ])('%s', (_, grant, body, code) => {
    expect(denial(body, [body.by], grant)?.code).toBe(code)
  })

  test('who grants and revokes whom: strictly higher rank, admin and above', () => {
    for (const over of ROLES) {
      for (const under of ROLES) {
        const given = scribe.grant({ by: editor, grant: scribe.mesh, ws: 'default' }, owner.publicKey, under, ALL).body
        const revoked = scribe.revoke({ by: editor, grant: scribe.mesh, ws: 'default' }, `grant/${scribe.mesh}`).body
        const allowed = RANKS[over] >= RANKS.admin && RANKS[over] > RANKS[under]
        expect(denial(given, [editor.publicKey], grantOf(over)) === undefined, `${over} grants ${under}`).toBe(allowed)
        expect(
          denial(revoked, [editor.publicKey], grantOf(over), given) === undefined,
          `${over} revokes ${under}`,
        ).toBe(allowed)
      }
    }
  })

  test.each<[string, Partial<GrantBody>, Partial<GrantBody>, boolean]>([
    ['the same scope', { zones: ['eu'] }, { zones: ['eu'] }, true],
    ['a narrower zone', { zones: ['eu'] }, { zones: ['eu.west'] }, true],
    ['a wider zone', { zones: ['eu.west'] }, { zones: ['eu'] }, false],
    ['all zones', { zones: ['eu'] }, { zones: ['*'] }, false],
    ['one zone too many', { zones: ['eu'] }, { zones: ['eu', 'us'] }, false],
    ['one kind too many', { kinds: ['site'] }, { kinds: ['site', 'upstream'] }, false],
    ['all kinds', { kinds: ['site'] }, { kinds: ['*'] }, false],
    ['a narrower kind', { kinds: ['*'] }, { kinds: ['site'] }, true],
  ])('an admin grants and revokes in its scope only: %s', (_, over, under, allowed) => {
    const given = {
      ...scribe.grant({ by: editor, grant: scribe.mesh, ws: 'default' }, owner.publicKey, 'editor', ALL).body,
      ...under,
    }
    const revoked = scribe.revoke({ by: editor, grant: scribe.mesh, ws: 'default' }, `grant/${scribe.mesh}`).body
    expect(denial(given, [editor.publicKey], grantOf('admin', over)) === undefined).toBe(allowed)
    expect(denial(revoked, [editor.publicKey], grantOf('admin', over), given) === undefined).toBe(allowed)
  })

  test('a revocation reaches the workspace in which it is signed, and no other', () => {
    const office = new Office()
    const { scribe: writer, state } = office
    const elsewhere = writer.revoke({ ...office.asOwner('shop'), prev: [], n: 1 }, `grant/${office.editorGrant.id}`)
    expect(admit(elsewhere, state.history)).toMatchObject({ outcome: 'refused' })
    const shop = office.add(writer.grant(office.asOwner('shop'), editor.publicKey, 'editor', ALL))
    const edit = office.edit('shop/eu/site/a', shop)
    const other = office.edit('default/eu/site/a')
    office.add(writer.revoke(office.asOwner('shop'), `key/${editor.publicKey}`))
    expect(office.verdict(edit)).toBe('revoked')
    expect(office.verdict(other)).toBe('accepted')
  })
})

describe('revocation', () => {
  test('takes what it does not keep, and says who did it', () => {
    const office = new Office()
    const [first, second, third] = [office.edit(), office.edit(), office.edit('default/eu/site/b')]
    const revocation = office.add(office.scribe.revoke(office.asOwner(), `grant/${office.editorGrant.id}`, [second.id]))
    expect([first, second, third].map((edit) => office.verdict(edit))).toEqual(['accepted', 'accepted', 'revoked'])
    expect(office.state.policy.verdict(third)).toEqual({
      accepted: false,
      denial: { code: 'revoked', message: `the grant was revoked by ${owner.publicKey} (revocation ${revocation.id})` },
    })
    const late = office.edit()
    expect(office.verdict(late), 'what follows a kept edit is not kept').toBe('revoked')
  })

  test('backdating does not help: a fork of the kept past is not in it', () => {
    const office = new Office()
    const [first, second] = [office.edit(), office.edit()]
    office.add(office.scribe.revoke(office.asOwner(), `key/${editor.publicKey}`, [second.id]))
    const asThief = { by: editor, grant: office.editorGrant.id, ws: 'default', prev: [first.id], n: 2, at: 0 }
    const forged = office.add(office.scribe.edit(asThief, [['default/eu/site/z', [], [['set', '$', true]]]]))
    expect(office.verdict(forged)).toBe('revoked')
    expect(office.verdict(second)).toBe('accepted')
    expect(office.state.resource('default/eu/site/z')?.exists).toBe(false)
  })

  test('of an admin takes what rests on its grants, but for what is kept', () => {
    const office = new Office()
    const edit = office.edit()
    const kept = new Office()
    const keptEdit = kept.edit()
    office.add(office.scribe.revoke(office.asOwner(), `grant/${office.adminGrant.id}`))
    kept.add(kept.scribe.revoke(kept.asOwner(), `grant/${kept.adminGrant.id}`, [kept.editorGrant.id]))
    expect(office.verdict(office.editorGrant)).toBe('revoked')
    expect(office.verdict(edit)).toBe('grant_void')
    expect(kept.verdict(kept.editorGrant)).toBe('accepted')
    expect(kept.verdict(keptEdit)).toBe('accepted')
  })

  test('that is itself revoked gives back what it took', () => {
    const office = new Office()
    const edit = office.edit()
    expect(office.state.resource('default/eu/site/a')?.exists).toBe(true)
    office.add(office.scribe.revoke(office.asAdmin(), `key/${editor.publicKey}`))
    expect(office.state.resource('default/eu/site/a')?.exists).toBe(false)
    office.add(office.scribe.revoke(office.asOwner(), `grant/${office.adminGrant.id}`, [office.editorGrant.id]))
    expect(office.verdict(edit)).toBe('accepted')
    expect(office.state.resource('default/eu/site/a')?.exists).toBe(true)
  })

  test('of a key reaches only grants that the revoker outranks and covers', () => {
    const office = new Office()
    const high = office.add(office.scribe.grant(office.asRoot(), editor.publicKey, 'owner', ALL))
    const [low, unreachable] = [office.edit(), office.edit('default/eu/site/b', high)]
    office.add(office.scribe.revoke(office.asAdmin(), `key/${editor.publicKey}`))
    expect(office.verdict(low)).toBe('revoked')
    expect(office.verdict(unreachable)).toBe('accepted')
    expect(office.state.policy.activeGrants(editor.publicKey).map((grant) => grant.id)).toEqual([high.id])
  })

  test('of a key reaches grants that come later', () => {
    const office = new Office()
    office.add(office.scribe.revoke(office.asOwner(), `key/${editor.publicKey}`))
    const again = office.add(office.scribe.grant(office.asAdmin(), editor.publicKey, 'editor', ALL))
    expect(office.verdict(office.edit('default/eu/site/a', again))).toBe('revoked')
  })

  test('of a node is seen, and of one of two grants is not', () => {
    const office = new Office()
    const node = keyOf('node')
    const grants = ['eu', 'us'].map((zone) =>
      office.add(office.scribe.grant(office.asAdmin(), node.publicKey, 'node', { zones: [zone], kinds: ['*'] })),
    )
    const { policy } = office.state
    expect(policy.isRevokedNode(node.publicKey)).toBe(false)
    expect(policy.isRevokedNode(editor.publicKey), 'no node').toBe(false)
    for (const [index, grant] of grants.entries()) {
      office.add(office.scribe.revoke(office.asAdmin(), `grant/${grant.id}`))
      expect(policy.isRevokedNode(node.publicKey)).toBe(index === 1)
    }
  })
})

describe('roots', () => {
  const [one, two, three] = [keyOf('root 1'), keyOf('root 2'), keyOf('root 3')]

  test('what too few of them signed counts when enough have, in whatever copy it is asked for', () => {
    const scribe = new Scribe({ roots: [one, two, three], threshold: 2 })
    const state = new MeshState()
    state.add(scribe.genesis)
    const options = { by: one, grant: scribe.mesh, ws: '*', n: 1, prev: [], at: 1 }
    const alone = scribe.grant(options, owner.publicKey, 'owner', ALL)
    const both = scribe.grant({ ...options, cosigners: [three] }, owner.publicKey, 'owner', ALL)
    state.add(alone)
    const ops: Op[] = [['set', '$', true]]
    state.add(scribe.edit({ by: owner, grant: alone.id, ws: 'default' }, [['default/eu/site/a', [], ops]]))
    expect(state.policy.verdict(alone)).toMatchObject({
      denial: { code: 'threshold', message: '1 of 2 root signatures' },
    })
    expect(state.resource('default/eu/site/a')?.exists).toBe(false)
    state.add(both)
    expect(state.policy.verdict(alone)).toEqual({ accepted: true })
    expect(state.resource('default/eu/site/a')?.exists).toBe(true)
  })

  test('a signature of a stranger on a root operation refuses it', () => {
    const scribe = new Scribe({ roots: [one, two], threshold: 1 })
    const state = new MeshState()
    state.add(scribe.genesis)
    const made = scribe.grant(
      { by: one, grant: scribe.mesh, ws: '*', cosigners: [editor] },
      owner.publicKey,
      'owner',
      ALL,
    )
    expect(admit(made, state.history)).toMatchObject({ outcome: 'refused' })
  })

  describe('that are replaced', () => {
    const [first, second, third, thief] = ['set 1', 'set 2', 'set 3', 'thief'].map(keyOf) as [
      KeyPair,
      KeyPair,
      KeyPair,
      KeyPair,
    ]
    const hashOf = (key: KeyPair): string => rootSetHash([key.publicKey], 1)
    const setOf = (key: KeyPair, next?: KeyPair) => ({
      roots: [key.publicKey],
      threshold: 1,
      next: next === undefined ? '' : hashOf(next),
    })
    const start = () => {
      const office = new Office(new Scribe({ roots: [first], next: hashOf(second) }), first)
      const follow = (grant: string, by: KeyPair, next?: KeyPair, keep: readonly string[] = []) =>
        office.add(office.scribe.rootset({ by, grant }, setOf(by, next), keep))
      const grantAs = (by: KeyPair, grant: string, subject: KeyPair) =>
        office.add(office.scribe.grant({ by, grant, ws: '*' }, subject.publicKey, 'owner', ALL))
      return { office, follow, grantAs, mesh: office.scribe.mesh }
    }

    test('act no more, but for what is kept; their stolen keys cannot choose who follows', () => {
      const { office, follow, grantAs, mesh } = start()
      const stolen = grantAs(first, mesh, thief)
      expect(office.verdict(stolen)).toBe('accepted')
      expect(
        admit(office.scribe.rootset({ by: thief, grant: mesh }, setOf(thief)), office.state.history),
      ).toMatchObject({ outcome: 'refused' })
      const set = follow(mesh, second, third, [office.ownerGrant.id])
      expect(office.state.policy.rootSet()).toBe(set)
      expect([office.ownerGrant, office.edit(), stolen].map((one) => office.verdict(one))).toEqual([
        'accepted',
        'accepted',
        'superseded',
      ])
      expect(office.verdict(grantAs(first, mesh, keyOf('later')))).toBe('superseded')
      expect(office.verdict(grantAs(second, set.id, keyOf('new owner')))).toBe('accepted')
    })

    test('are followed by none when the next one names two', () => {
      const { office, follow, grantAs, mesh } = start()
      const keep = [office.ownerGrant.id]
      const set = follow(mesh, second, third, keep)
      const last = follow(set.id, third)
      expect(office.state.policy.rootSet()).toBe(last)
      const rival = office.add(
        office.scribe.rootset({ by: second, grant: mesh, prev: [], n: 1 }, setOf(second, thief), keep),
      )
      const usurper = follow(rival.id, thief)
      expect([set, rival, last, usurper].map((one) => office.verdict(one))).toEqual([
        'accepted',
        'accepted',
        'contested',
        'contested',
      ])
      expect(office.verdict(grantAs(thief, usurper.id, thief))).toBe('grant_void')
      expect(office.verdict(office.ownerGrant)).toBe('accepted')
    })
  })
})
