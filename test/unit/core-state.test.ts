import { describe, expect, test } from 'vitest'
import { admit } from '../../src/core/admission.ts'
import { OVERWRITES_MAX } from '../../src/core/document.ts'
import type { Envelope, Op } from '../../src/core/envelope.ts'
import { MeshState } from '../../src/core/state.ts'
import { Scribe, keyOf } from '../support/histories.ts'

const root = keyOf('root')
const owner = keyOf('owner')
const editor = keyOf('editor')
const ALL = { zones: ['*'], kinds: ['*'] }
const CREATE: Op = ['set', '$', true]
/** CPU time, and far above what is taken: these tests find quadratic work, not slow or busy machines. */
const LIMIT_MS = 15_000

class Home {
  readonly scribe = new Scribe()
  readonly state = new MeshState()
  readonly asOwner
  readonly asEditor

  constructor() {
    this.add(this.scribe.genesis)
    const grant = this.add(
      this.scribe.grant({ by: root, grant: this.scribe.mesh, ws: '*' }, owner.publicKey, 'owner', ALL),
    )
    this.asOwner = { by: owner, grant: grant.id, ws: '*' }
    const editing = this.add(this.scribe.grant(this.asOwner, editor.publicKey, 'editor', ALL))
    this.asEditor = { by: editor, grant: editing.id, ws: 'default' }
  }

  add<E extends Envelope>(envelope: E): E {
    const admission = admit(envelope, this.state.history)
    if (admission.outcome !== 'ready') throw new Error(JSON.stringify(admission))
    this.state.add(envelope)
    return envelope
  }

  edit(path: string, ops: readonly Op[], deps: readonly string[] = this.state.resource(path)?.heads ?? []): Envelope {
    return this.add(this.scribe.edit(this.asEditor, [[path, deps, ops]]))
  }
}

describe('the state', () => {
  test('is empty before the genesis', () => {
    const state = new MeshState()
    expect(state.meshId).toBeUndefined()
    expect(state.resources()).toEqual([])
    expect(state.resource('default/eu/site/a')).toBeUndefined()
    expect(state.hash()).toBe(new MeshState().hash())
  })

  test('its hash is over what exists in the zones asked for', () => {
    const home = new Home()
    const empty = home.state.hash()
    home.edit('default/eu/site/a', [CREATE])
    const before = home.state.hash()
    const eu = home.state.hash((zone) => zone === 'eu')
    home.edit('default/us/site/b', [CREATE])
    expect(home.state.hash()).not.toBe(before)
    expect(home.state.hash((zone) => zone === 'eu')).toBe(eu)
    expect(home.state.resources().map((resource) => resource.path)).toEqual(['default/eu/site/a', 'default/us/site/b'])
    home.edit('default/us/site/b', [['del', '$']])
    home.edit('default/eu/site/a', [['del', '$']])
    expect(home.state.hash()).toBe(empty)
  })

  test('changes are told once, and those that a revocation makes too', () => {
    const home = new Home()
    home.edit('default/eu/site/a', [CREATE])
    home.edit('default/eu/site/b', [CREATE])
    expect([...home.state.takeChanges()]).toEqual(['default/eu/site/a', 'default/eu/site/b'])
    expect(home.state.takeChanges().size).toBe(0)
    home.state.resources()
    const [first] = home.state.history.editsOf('default/eu/site/a')
    home.add(home.scribe.revoke(home.asOwner, `key/${editor.publicKey}`, [first as string]))
    expect([...home.state.takeChanges()]).toEqual(['default/eu/site/b'])
    expect(home.state.resources().map((resource) => resource.path)).toEqual(['default/eu/site/a'])
  })

  test('more documents than are kept open give the same state', () => {
    const home = new Home()
    const path = (index: number): string => `default/eu/site/s${index % 200}`
    for (let index = 0; index < 600; index += 1) {
      home.edit(path(index), index < 200 ? [CREATE] : [['set', `f${index}`, index]])
    }
    const again = new MeshState()
    for (const id of home.state.history.order) again.add(home.state.history.get(id) as Envelope)
    expect(again.hash()).toBe(home.state.hash())
  })
})

test('an edit that overwrites too much changes nothing in that resource, and its verdict says so', () => {
  const home = new Home()
  const [path, other] = ['default/eu/site/a', 'default/eu/site/b']
  const created = home.edit(path, [CREATE])
  let heads = Array.from({ length: OVERWRITES_MAX + 1 }, (_, index) =>
    home.edit(path, [['set', 'c', index]], [created.id]),
  )
  // An edit names at most 16 deps.
  while (heads.length > 1) {
    const groups = Array.from({ length: Math.ceil(heads.length / 16) }, (_, index) =>
      heads.slice(16 * index, 16 * index + 16),
    )
    heads = groups.map((group) =>
      home.edit(
        path,
        [['set', 'd', 1]],
        group.map(({ id }) => id),
      ),
    )
  }
  const deps = heads.map(({ id }) => id)
  const edit = home.scribe.edit(home.asEditor, [
    [path, deps, [['set', 'c', 'good']]],
    [other, [], [CREATE]],
  ])
  expect(home.state.excessOf(edit.body)).toBe(path)
  home.add(edit)
  expect(home.state.verdict(edit)).toMatchObject({ accepted: false, denial: { code: 'excess' } })
  expect(home.state.verdict(created)).toEqual({ accepted: true })
  expect(home.state.resource(path)).toMatchObject({ excessive: [edit.id], heads: deps })
  expect(home.state.resource(path)?.conflicts.get('c')).toHaveLength(OVERWRITES_MAX + 1)
  expect(home.state.resource(other)?.exists).toBe(true)
})

describe('under attack', () => {
  const bounded = (work: () => void): void => {
    const before = process.threadCpuUsage()
    work()
    const { user, system } = process.threadCpuUsage(before)
    expect((user + system) / 1000).toBeLessThan(LIMIT_MS)
  }

  test('ten thousand forks of one chain are added in bounded time', { timeout: 8 * LIMIT_MS }, () => {
    const home = new Home()
    const place = { ...home.asEditor, prev: [], n: 1 }
    const forks = Array.from({ length: 10_000 }, (_, index) =>
      home.scribe.edit({ ...place, at: index }, [['default/eu/site/a', [], [CREATE]]]),
    )
    bounded(() => {
      for (const fork of forks) home.state.add(fork)
      expect(home.state.history.chain('default', editor.publicKey)).toMatchObject({ forks: 9_999, highestN: 1 })
    })
  })

  test('a thousand revocations that keep a chain of three thousand edits', { timeout: 8 * LIMIT_MS }, () => {
    const home = new Home()
    const edits = Array.from({ length: 3_000 }, (_, index) =>
      home.add(home.scribe.edit(home.asEditor, [[`default/eu/site/s${index % 300}`, [], [CREATE]]])),
    )
    const revocations = Array.from({ length: 1_000 }, (_, index) =>
      home.scribe.revoke(home.asOwner, `key/${editor.publicKey}`, [(edits[2_999 - index] as Envelope).id]),
    )
    const before = process.memoryUsage().heapUsed
    bounded(() => {
      for (const revocation of revocations) home.add(revocation)
      expect(home.state.resources()).toHaveLength(300)
      const accepted = edits.filter((edit) => home.state.policy.verdict(edit).accepted)
      expect(accepted, 'each revocation takes one more').toHaveLength(2_001)
    })
    expect(process.memoryUsage().heapUsed - before).toBeLessThan(200e6)
  })

  test('a chain of twenty thousand edits does not exhaust the stack when it is kept', { timeout: 8 * LIMIT_MS }, () => {
    const home = new Home()
    const edits = Array.from({ length: 20_000 }, () =>
      home.add(home.scribe.edit(home.asEditor, [['default/eu/site/a', [], [CREATE]]])),
    )
    bounded(() => {
      home.add(home.scribe.revoke(home.asOwner, `key/${editor.publicKey}`, [(edits.at(-1) as Envelope).id]))
      expect(home.state.policy.verdict(edits[0] as Envelope)).toEqual({ accepted: true })
    })
  })
})
