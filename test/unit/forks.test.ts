import { expect, test } from 'vitest'
import type { Envelope } from '../../src/core/envelope.ts'
import { MeshState } from '../../src/core/state.ts'
import { forkComplaints, forkedChains, forkersIn } from '../../src/status/forks.ts'
import { keyOf, TestMesh } from '../support/authors.ts'

const ana = keyOf('ana')

/** A state, and a mesh that signs for it; `fork` makes one key's next edits in so many copies of its chain. */
function create() {
  const mesh = new TestMesh()
  const state = new MeshState()
  const add = <E extends Envelope>(envelope: E): E => {
    state.add(envelope)
    return envelope
  }
  mesh.founding.forEach(add)
  const editor = (name: string): { by: ReturnType<typeof keyOf>; grant: string } => {
    const by = keyOf(name)
    return { by, grant: add(mesh.grant(by.publicKey, 'editor', { name })).id }
  }
  /** Each copy of the chain file begins anew, so that all of their edits claim the first place. */
  const fork = (
    author: { by: ReturnType<typeof keyOf>; grant: string },
    copies: number,
    workspace = 'default',
  ): void => {
    for (let copy = 0; copy < copies; copy += 1) {
      add(new TestMesh().edit(`${workspace}/*/site/s${copy}`, [['set', '$', true]], author))
    }
  }
  return { mesh, state, add, editor, fork }
}

test('one fork is known and no alarm; the second is one, in whatever workspace', () => {
  const { state, editor, fork } = create()
  const author = editor('ana')
  fork(author, 2, 'shop')
  expect(forkersIn(state)).toEqual([{ author: ana.publicKey, forks: 1 }])
  expect(forkComplaints(forkersIn(state))).toEqual([])
  fork(author, 2, 'blog')
  expect(forkComplaints(forkersIn(state))).toEqual([
    'keys that signed several times for one place of their chain: 1; stolen, or used on several machines? See meshctl log',
  ])
  expect(forkedChains(state).map(({ workspace, forks }) => [workspace, forks])).toEqual([
    ['shop', 1],
    ['blog', 1],
  ])
})

test('a revoked key is dealt with', () => {
  const { mesh, state, add, editor, fork } = create()
  fork(editor('ana'), 5)
  add(mesh.revoke(`key/${ana.publicKey}`))
  expect(forkersIn(state)).toEqual([])
})

test('root keys fork, too', () => {
  const { mesh, state, add } = create()
  const grant = mesh.founding[1] as Envelope
  for (const at of [1, 2]) add({ ...grant, id: String(at).repeat(64), body: { ...grant.body, at } })
  expect(forkersIn(state)).toEqual([{ author: mesh.root.publicKey, forks: 2 }])
})

test('many authors are counted, and not named to whoever may read nothing', () => {
  const { state, editor, fork } = create()
  for (let n = 0; n < 8; n += 1) fork(editor(`thief ${n}`), n < 3 ? 2 : 3)
  expect(forkComplaints(forkersIn(state))).toEqual([expect.stringMatching(/: 5; [^0-9]+$/)])
})
