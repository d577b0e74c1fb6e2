import * as Automerge from '@automerge/automerge'
import { describe, expect, test } from 'vitest'
import { automergeFile, disagreements } from '../../src/core/automerge.ts'
import { sha256 } from '../../src/core/canonical.ts'
import { OVERWRITES_MAX, ResourceDocument, type ResourceState, type Step } from '../../src/core/document.ts'
import type { Op } from '../../src/core/envelope.ts'

const PATH = 'default/eu/site/a'
const CREATE: Op = ['set', '$', true]
const DELETE: Op = ['del', '$']

/** Edits with names instead of ids: `add('second', ['first'], …)`. */
class Draft {
  readonly steps: Step[]

  constructor(before?: Draft) {
    this.steps = [...(before?.steps ?? [])]
  }

  add(name: string, deps: readonly string[], ops: readonly Op[], also: Partial<Step> = {}): this {
    const sorted = ops.toSorted((a, b) => (a[1] < b[1] ? -1 : 1))
    this.steps.push({
      id: idOf(name),
      by: name,
      at: 0,
      deps: deps.map(idOf).toSorted(),
      ops: sorted,
      accepted: true,
      ...also,
    })
    return this
  }

  read(): ResourceState {
    const document = new ResourceDocument(PATH)
    for (const step of this.steps) document.add(step)
    const state = document.read()
    return state
  }
}

function idOf(name: string): string {
  return sha256(name)
}

function fieldsOf(state: ResourceState): Record<string, unknown> {
  return Object.fromEntries(state.fields)
}

function lostOf(state: ResourceState): unknown[] {
  return state.lost.map(({ field, value, by }) => [field, value, by])
}

describe('a resource', () => {
  test('is what its edits set and did not delete', () => {
    const state = new Draft()
      .add('create', [], [CREATE, ['set', 'a', 1], ['set', 'b', 'two']])
      .add(
        'change',
        ['create'],
        [
          ['set', 'a', ['x', 2, true]],
          ['del', 'b'],
          ['del', 'never'],
        ],
      )
      .read()
    expect(state).toMatchObject({ path: PATH, exists: true, lost: [], heads: [idOf('change')] })
    expect(fieldsOf(state)).toEqual({ a: ['x', 2, true] })
    expect(state.conflicts.size).toBe(0)
    expect(state.created).toEqual({ at: 0, edit: idOf('create'), by: 'create' })
  })

  test('that no edit touched does not exist', () => {
    expect(new Draft().read()).toMatchObject({ exists: false, heads: [], created: undefined })
  })

  test('keeps what two people set at once in different fields, and shows both values of one', () => {
    const state = new Draft()
      .add('create', [], [CREATE])
      .add(
        'ana',
        ['create'],
        [
          ['set', 'a', 1],
          ['set', 'c', 'ana'],
        ],
      )
      .add(
        'ben',
        ['create'],
        [
          ['set', 'b', 2],
          ['set', 'c', 'ben'],
        ],
      )
      .read()
    expect(fieldsOf(state)).toMatchObject({ a: 1, b: 2 })
    const conflict = state.conflicts.get('c') ?? []
    expect(new Set(conflict.map((write) => write.value))).toEqual(new Set(['ana', 'ben']))
    expect(state.fields.get('c')).toBe(conflict[0]?.value)
    expect(state.heads).toEqual([idOf('ana'), idOf('ben')].toSorted())
  })

  test('has no conflict left when someone who saw both values sets one', () => {
    const state = new Draft()
      .add('create', [], [CREATE])
      .add('ana', ['create'], [['set', 'c', 'ana']])
      .add('ben', ['create'], [['set', 'c', 'ben']])
      .add('both', ['ana', 'ben'], [['set', 'c', 'agreed']])
      .read()
    expect(fieldsOf(state)).toEqual({ c: 'agreed' })
    expect(state.conflicts.size).toBe(0)
  })

  test('equal values set at once are still two edits', () => {
    const state = new Draft()
      .add('create', [], [CREATE])
      .add('ana', ['create'], [['set', 'c', 1]])
      .add('ben', ['create'], [['set', 'c', 1]])
      .read()
    expect(state.conflicts.get('c')).toHaveLength(2)
  })

  test('an operation that does nothing does not shift those after it', () => {
    const draft = new Draft()
      .add('create', [], [CREATE])
      .add(
        'ana',
        ['create'],
        [
          ['del', 'a'],
          ['set', 'b', 'ana'],
          ['set', 'c', 'ana'],
        ],
      )
      .add(
        'ben',
        ['ana'],
        [
          ['set', 'b', 'ben'],
          ['set', 'c', 'ben'],
        ],
      )
      .add('late', ['ana'], [['set', 'c', 'late']])
    expect(fieldsOf(draft.read())).toMatchObject({ b: 'ben' })
    expect(
      draft
        .read()
        .conflicts.get('c')
        ?.map((write) => write.by)
        .toSorted(),
    ).toEqual(['ben', 'late'])
    expect(draft.read().conflicts.has('b')).toBe(false)
  })

  test('field names of the prototype are fields like others', () => {
    const ops: Op[] = [CREATE, ['set', '__proto__', 1], ['set', 'constructor', 2], ['set', 'toString', 3]]
    expect([...new Draft().add('create', [], ops).read().fields]).toEqual([
      ['__proto__', 1],
      ['constructor', 2],
      ['toString', 3],
    ])
  })
})

describe('existence', () => {
  const created = (): Draft => new Draft().add('create', [], [CREATE, ['set', 'a', 1]])

  test('a delete removes every visible field', () => {
    const state = created().add('delete', ['create'], [DELETE]).read()
    expect(state).toMatchObject({ exists: false, lost: [], created: undefined })
    expect(state.fields.size).toBe(0)
  })

  test('a delete wins over a concurrent edit, which is shown as lost', () => {
    const draft = created()
      .add('delete', ['create'], [DELETE])
      .add(
        'edit',
        ['create'],
        [
          ['set', 'a', 2],
          ['set', 'b', 3],
        ],
      )
    expect(draft.read().exists).toBe(false)
    expect(lostOf(draft.read())).toEqual([
      ['a', 2, 'edit'],
      ['b', 3, 'edit'],
    ])
  })

  test('a re-create has no ghosts: what a concurrent edit set before stays lost', () => {
    const draft = created()
      .add('delete', ['create'], [DELETE])
      .add('edit', ['create'], [['set', 'b', 'ghost']])
      .add('again', ['delete', 'edit'], [CREATE, ['set', 'c', 1]])
    expect(fieldsOf(draft.read())).toEqual({ c: 1 })
    expect(lostOf(draft.read())).toEqual([['b', 'ghost', 'edit']])
    expect(draft.read().created?.by).toBe('again')
    draft.add('after', ['again'], [['set', 'b', 'real']])
    expect(fieldsOf(draft.read())).toEqual({ b: 'real', c: 1 })
    expect(lostOf(draft.read())).toEqual([])
  })

  test('of two concurrent creations a delete of one leaves the other', () => {
    const state = new Draft()
      .add('ana', [], [CREATE, ['set', 'a', 'ana'], ['set', 'b', 'ana']], { at: 2 })
      .add('ben', [], [CREATE, ['set', 'a', 'ben']], { at: 1 })
      .add('delete', ['ana'], [DELETE])
      .read()
    expect(state).toMatchObject({ exists: true, created: { by: 'ben', at: 1 } })
    expect(fieldsOf(state)).toEqual({ a: 'ben' })
  })

  test('the oldest creation by claimed time is the one shown, by id at equal times', () => {
    const draft = new Draft()
      .add('x', [], [CREATE], { at: 7 })
      .add('y', [], [CREATE], { at: 7 })
      .add('z', [], [CREATE], { at: 8 })
    expect(draft.read().created?.edit).toBe([idOf('x'), idOf('y')].toSorted()[0])
  })

  test('fields without a creation do not make a resource', () => {
    const state = new Draft().add('edit', [], [['set', 'a', 1]]).read()
    expect(state).toMatchObject({ exists: false })
    expect(lostOf(state)).toEqual([['a', 1, 'edit']])
  })
})

describe('a void edit', () => {
  test('is skipped through: later honest edits stand on what it stood on', () => {
    const chain = (accepted: boolean): Draft =>
      new Draft()
        .add('create', [], [CREATE, ['set', 'a', 1], ['set', 'b', 1]])
        .add(
          'bad',
          ['create'],
          [
            ['set', 'a', 'bad'],
            ['set', 'c', 'bad'],
          ],
          { accepted },
        )
        .add('good', ['bad'], [['set', 'b', 2]])
    expect(fieldsOf(chain(true).read())).toEqual({ a: 'bad', b: 2, c: 'bad' })
    expect(fieldsOf(chain(false).read())).toEqual({ a: 1, b: 2 })
    expect(chain(false).read()).toMatchObject({ heads: [idOf('good')], lost: [] })
  })

  test('is never a head, and a void delete deletes nothing', () => {
    const state = new Draft().add('create', [], [CREATE]).add('bad', ['create'], [DELETE], { accepted: false }).read()
    expect(state).toMatchObject({ exists: true, heads: [idOf('create')] })
  })

  test('that merges two branches hands both on', () => {
    const state = new Draft()
      .add('create', [], [CREATE])
      .add('ana', ['create'], [['set', 'c', 'ana']])
      .add('ben', ['create'], [['set', 'c', 'ben']])
      .add('bad', ['ana', 'ben'], [['set', 'c', 'bad']], { accepted: false })
      .add('good', ['bad'], [['set', 'c', 'good']])
      .read()
    expect(fieldsOf(state)).toEqual({ c: 'good' })
    expect(state.conflicts.size).toBe(0)
  })
})

describe('the document', () => {
  test('is the same Automerge document whatever the order, and loads again', () => {
    const draft = new Draft()
      .add('create', [], [CREATE, ['set', 'a', 'x'.repeat(5000)]])
      .add(
        'ana',
        ['create'],
        [
          ['set', 'c', 'ana'],
          ['set', 'd', 1],
        ],
      )
      .add('ben', ['create'], [['set', 'c', 'ben']])
      .add('cleo', ['create'], [['set', 'c', 'cleo']])
      .add('all', ['ana', 'ben', 'cleo'], [['set', 'c', 'all']])
      .add('delete', ['ana'], [DELETE])
    const changes = (order: readonly number[]): (string | undefined)[] => {
      const document = new ResourceDocument(PATH)
      for (const index of order) document.add(draft.steps[index] as Step)
      const loaded = Automerge.load(automergeFile(document.changes()))
      return Automerge.getAllChanges(loaded)
        .map((change) => Automerge.decodeChange(change).hash)
        .toSorted()
    }
    expect(changes([0, 1, 2, 3, 4, 5])).toHaveLength(6)
    expect(changes([0, 3, 2, 1, 5, 4])).toEqual(changes([0, 1, 2, 3, 4, 5]))
  })

  test('verifying finds each field that Automerge has otherwise', () => {
    const draft = new Draft()
      .add('create', [], [CREATE, ['set', 'a', 1], ['set', 'b', 2]])
      .add('ana', ['create'], [['set', 'a', 3]])
      .add('ben', ['create'], [['set', 'a', 4]])
    const document = new ResourceDocument(PATH)
    for (const step of draft.steps) document.add(step)
    const [changes, good] = [document.changes(), document.read()]
    expect(disagreements(changes, good)).toEqual([])
    const without = new Map([...good.fields].filter(([field]) => field !== 'b'))
    expect(disagreements(changes, { ...good, fields: new Map([...good.fields, ['b', 5]]) })).toEqual(['b'])
    expect(disagreements(changes, { ...good, fields: without, writers: new Map() })).toEqual(['b'])
    expect(disagreements(changes, { ...good, conflicts: new Map() })).toEqual(['a'])
    expect(
      disagreements(changes, {
        ...good,
        fields: new Map([...good.fields, ['c', 1]]),
        writers: new Map([...good.writers, ['c', 'ana']]),
      }),
    ).toEqual(['c'])
    expect(disagreements(changes, { ...good, exists: false })).toEqual(['$'])
    const lost = [{ field: 'b', value: 2, edit: idOf('create'), by: 'create' }]
    expect(disagreements(changes, { ...good, fields: without, writers: new Map(), lost })).toEqual(['b'])
    expect(disagreements(changes, { ...good, lost })).toEqual(['b'])
  })

  test('verifying finds what is lost by itself, and not what the resource calls lost', () => {
    const draft = new Draft()
      .add('create', [], [CREATE, ['set', 'a', 1]])
      .add('delete', ['create'], [DELETE])
      .add('late', ['create'], [['set', 'b', 2]])
      .add('again', ['delete'], [CREATE, ['set', 'c', 3]])
    const document = new ResourceDocument(PATH)
    for (const step of draft.steps) document.add(step)
    const [changes, good] = [document.changes(), document.read()]
    expect([fieldsOf(good), lostOf(good)]).toEqual([{ c: 3 }, [['b', 2, 'late']]])
    expect(disagreements(changes, good)).toEqual([])
    expect(disagreements(changes, { ...good, lost: [] })).toEqual(['b'])
    const shown = {
      fields: new Map([...good.fields, ['b', 2]]),
      writers: new Map([...good.writers, ['b', idOf('late')]]),
    }
    expect(disagreements(changes, { ...good, ...shown, lost: [] })).toEqual(['b'])
    expect(disagreements(changes, { ...good, lost: [...good.lost, { ...good.lost[0]!, field: 'd' }] })).toEqual(['d'])
  })

  test('an edit that overwrites too many concurrent values changes nothing; what follows it goes on', () => {
    const authors = Array.from({ length: OVERWRITES_MAX }, (_, index) => `a${index}`)
    const draft = new Draft().add('create', [], [CREATE])
    for (const name of authors) draft.add(name, ['create'], [['set', 'c', name]])
    const most: Op[] = [['set', 'c', 'most']]
    const { fields, excessive } = new Draft(draft).add('most', authors, most).read()
    expect([fields.get('c'), excessive]).toEqual(['most', []])

    draft.add('one', ['create'], [['set', 'c', 'one']])
    const seen = [...authors, 'one']
    draft.add('over', seen, [
      ['set', 'c', 'over'],
      ['set', 'd', 'over'],
    ])
    draft.add('after', ['over'], [['set', 'd', 'after']])
    const state = draft.read()
    expect(fieldsOf(state)).toMatchObject({ d: 'after' })
    expect(state.conflicts.get('c')).toHaveLength(OVERWRITES_MAX + 1)
    expect(state.excessive).toEqual([idOf('over')])
    expect(state.heads).toEqual([idOf('after')])

    const [create, ...others] = draft.steps
    const backwards = new Draft()
    backwards.steps.push(create as Step, ...others.slice(0, -2).toReversed(), ...others.slice(-2))
    expect(backwards.read()).toEqual(state)
  })

  test('an edit added twice is one, and one before its deps is a broken invariant', () => {
    const document = new ResourceDocument(PATH)
    const [step] = new Draft().add('create', [], [CREATE]).steps as [Step]
    document.add(step)
    document.add(step)
    expect(document.read().heads).toEqual([step.id])
    const [orphan] = new Draft().add('late', ['unknown'], [CREATE]).steps as [Step]
    expect(() => document.add(orphan)).toThrow(/before what depends on it/)
  })
})

/** What an insider can sign must not cost all of a node. CPU time, and far above what is taken, to find quadratic work alone. */
describe('under attack', () => {
  const LIMIT_MS = 15_000
  const many = (
    count: number,
    deps: (index: number) => string[],
    ops: (index: number) => Op[],
    accepted = true,
  ): Draft => {
    const draft = new Draft().add('create', [], [CREATE])
    for (let index = 0; index < count; index += 1) draft.add(`e${index}`, deps(index), ops(index), { accepted })
    return draft
  }
  const previous = (index: number): string[] => [index === 0 ? 'create' : `e${index - 1}`]

  test.each<[string, () => Draft, (state: ResourceState) => void]>([
    [
      '10,000 concurrent edits of one field',
      () =>
        many(
          10_000,
          () => ['create'],
          (index) => [['set', 'c', index]],
        ),
      (state) => expect(state.conflicts.get('c')).toHaveLength(10_000),
    ],
    [
      'a chain of 10,000 edits',
      () => many(10_000, previous, (index) => [['set', `f${index % 20}`, index]]),
      (state) => expect(state.fields.size).toBe(20),
    ],
    [
      'a chain of 20,000 void edits',
      () => many(20_000, previous, () => [['set', 'c', 1]], false).add('end', ['e19999'], [['set', 'c', 'end']]),
      (state) => expect(fieldsOf(state)).toEqual({ c: 'end' }),
    ],
    [
      '2,000 deletes and re-creations',
      () => many(2_000, previous, (index) => (index % 2 === 0 ? [DELETE] : [CREATE, ['set', 'a', 1], ['set', 'b', 2]])),
      (state) => expect(fieldsOf(state)).toEqual({ a: 1, b: 2 }),
    ],
    [
      'two branches of 1,500 edits each, interleaved',
      () =>
        many(
          3_000,
          (index) => [index < 2 ? 'create' : `e${index - 2}`],
          (index) => [['set', `f${index % 2}`, index]],
        ),
      (state) => expect(fieldsOf(state)).toEqual({ f0: 2998, f1: 2999 }),
    ],
    [
      '2,000 edits that each overwrite 250,000 concurrent values',
      () => {
        const fields = Array.from({ length: 250 }, (_, field): Op => ['set', `f${field}`, 1])
        const draft = many(
          1_000,
          () => ['create'],
          () => fields,
        )
        const all = Array.from({ length: 1_000 }, (_, index) => `e${index}`)
        for (let index = 0; index < 2_000; index += 1) draft.add(`over${index}`, all, fields)
        return draft
      },
      (state) => expect(state.excessive).toHaveLength(2_000),
    ],
  ])('%s are derived in bounded time', { timeout: 8 * LIMIT_MS }, (_, make, check) => {
    const draft = make()
    const before = process.threadCpuUsage()
    check(draft.read())
    const { user, system } = process.threadCpuUsage(before)
    expect((user + system) / 1000).toBeLessThan(LIMIT_MS)
  })
})
