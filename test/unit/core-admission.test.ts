import { describe, expect, test } from 'vitest'
import { admit } from '../../src/core/admission.ts'
import { signEnvelope, type Envelope, type GenesisBody, type ResourceEdit } from '../../src/core/envelope.ts'
import { History } from '../../src/core/history.ts'
import { Scribe, keyOf } from '../support/histories.ts'

const root = keyOf('root')
const owner = keyOf('owner')
const editor = keyOf('editor')
const ALL = { zones: ['*'], kinds: ['*'] }

function touch(path: string, deps: readonly string[] = []): ResourceEdit[] {
  return [[path, deps, [['set', 'root', 1]]]]
}

/** A mesh with an owner and an editor of zone eu. */
function mesh() {
  const scribe = new Scribe()
  const history = new History()
  const add = <E extends Envelope>(envelope: E): E => {
    expect(admit(envelope, history)).toEqual({ outcome: 'ready' })
    history.add(envelope)
    return envelope
  }
  add(scribe.genesis)
  const ownerGrant = add(scribe.grant({ by: root, grant: scribe.mesh, ws: '*' }, owner.publicKey, 'owner', ALL))
  const asOwner = { by: owner, grant: ownerGrant.id, ws: 'default' }
  const editorGrant = add(scribe.grant(asOwner, editor.publicKey, 'editor', { zones: ['eu'], kinds: ['*'] }))
  const asEditor = { by: editor, grant: editorGrant.id, ws: 'default' }
  return { scribe, history, add, ownerGrant, editorGrant, asOwner, asEditor }
}

describe('admission', () => {
  test('what names unknown envelopes waits, and says for which', () => {
    const { scribe, history, asEditor, ownerGrant } = mesh()
    const first = scribe.edit(asEditor, touch('default/eu/site/a'))
    const second = scribe.edit(asEditor, touch('default/eu/site/a', [first.id]))
    expect(admit(second, history)).toEqual({ outcome: 'waiting', missing: [first.id] })
    history.add(first)
    expect(admit(second, history)).toEqual({ outcome: 'ready' })
    const stray = scribe.revoke({ by: owner, grant: ownerGrant.id, ws: 'default' }, `grant/${second.id}`, [second.id])
    expect(admit(stray, history)).toEqual({ outcome: 'waiting', missing: [second.id] })
    expect(admit(stray, new History()), 'each missing id once').toMatchObject({
      missing: [ownerGrant.id, ...(stray.body.prev as string[]), second.id],
    })
  })

  test('what is refused stays refused, and names what is wrong', () => {
    const { scribe, history, add, asOwner, asEditor, editorGrant } = mesh()
    const edit = add(scribe.edit(asEditor, touch('default/eu/site/a')))
    const other = add(scribe.edit(asEditor, touch('default/eu/site/b')))
    const next = { ...asEditor, prev: [other.id], n: 3 }
    const nextOfOwner = { ...asOwner, prev: [editorGrant.id], n: 2 }
    const cases: [string, Envelope, RegExp][] = [
      [
        'n skips',
        scribe.edit({ ...asEditor, prev: [other.id], n: 4 }, touch('default/eu/site/a')),
        /n is 4 and must be 3/,
      ],
      [
        'n repeats',
        scribe.edit({ ...asEditor, prev: [other.id], n: 2 }, touch('default/eu/site/a')),
        /n is 2 and must be 3/,
      ],
      [
        'prev of another author',
        scribe.edit({ ...asEditor, prev: [editorGrant.id], n: 2 }, touch('default/eu/site/a')),
        /prev/,
      ],
      [
        'prev is the genesis',
        scribe.edit({ ...asEditor, prev: [scribe.mesh], n: 2 }, touch('default/eu/site/a')),
        /prev/,
      ],
      ['dep on a grant', scribe.edit(next, touch('default/eu/site/a', [editorGrant.id])), /does not touch/],
      ['dep on another resource', scribe.edit(next, touch('default/eu/site/a', [other.id])), /does not touch/],
      ['grant is an edit', scribe.edit({ ...next, grant: edit.id }, touch('default/eu/site/a')), /grant/],
      ['target is an edit', scribe.revoke(nextOfOwner, `grant/${edit.id}`), /target/],
      ['keep of another', scribe.revoke(nextOfOwner, `grant/${editorGrant.id}`, [editorGrant.id]), /keep/],
      ['keep is the genesis', scribe.revoke(nextOfOwner, `grant/${editorGrant.id}`, [scribe.mesh]), /keep/],
    ]
    for (const [name, envelope, reason] of cases) {
      const admission = admit(envelope, history)
      expect(admission.outcome, name).toBe('refused')
      expect(admission.outcome === 'refused' ? admission.reason : '', name).toMatch(reason)
    }
  })

  test('a merge of a forked chain goes on from the highest n', () => {
    const { scribe, history, add, asEditor } = mesh()
    const base = add(scribe.edit({ ...asEditor, prev: [], n: 1 }, touch('default/eu/site/a')))
    const left = add(scribe.edit({ ...asEditor, prev: [base.id], n: 2 }, touch('default/eu/site/a')))
    const right = add(scribe.edit({ ...asEditor, prev: [base.id], n: 2 }, touch('default/eu/site/b')))
    const far = add(scribe.edit({ ...asEditor, prev: [right.id], n: 3 }, touch('default/eu/site/b')))
    expect(history.chain('default', editor.publicKey)).toMatchObject({ forks: 1, highestN: 3 })
    expect(history.chain('default', editor.publicKey)?.heads).toEqual([left.id, far.id].toSorted())
    add(scribe.edit({ ...asEditor, prev: [left.id, far.id], n: 4 }, touch('default/eu/site/b')))
    expect(history.chain('default', editor.publicKey)?.heads).toHaveLength(1)
  })

  test('every root signs the genesis', () => {
    const body: GenesisBody = {
      v: 1,
      type: 'genesis',
      name: 'home',
      roots: [root.publicKey, owner.publicKey].toSorted(),
      threshold: 1,
      next: '',
      at: 1,
    }
    expect(admit(signEnvelope(body, [root]), new History()).outcome).toBe('refused')
    expect(admit(signEnvelope(body, [root, owner]), new History()).outcome).toBe('ready')
  })
})

describe('history', () => {
  test('holds each envelope once and merges co-signatures in the order of keys', () => {
    const [one, two] = [keyOf('root 1'), keyOf('root 2')]
    const scribe = new Scribe({ roots: [one, two], threshold: 2 })
    const history = new History()
    expect(history.add(scribe.genesis)).toBe(true)
    expect(history.add(scribe.genesis)).toBe(false)
    const options = { by: one, grant: scribe.mesh, ws: '*', n: 1, prev: [], at: 1 }
    const alone = scribe.grant(options, owner.publicKey, 'owner', ALL)
    const both = scribe.grant({ ...options, cosigners: [two] }, owner.publicKey, 'owner', ALL)
    expect(alone.id).toBe(both.id)
    expect(history.add(alone)).toBe(true)
    expect(history.add(both)).toBe(true)
    expect(history.add(alone), 'a relay that strips a signature brings nothing new').toBe(false)
    expect(Object.keys(history.get(both.id)?.sigs ?? {})).toEqual([one.publicKey, two.publicKey].toSorted())
    expect(history.order).toEqual([scribe.mesh, both.id])
    expect(history.bytesOf(one.publicKey), 'a co-signature is no second envelope').toBe(both.size)
  })
})
