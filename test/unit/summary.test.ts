import { describe, expect, test } from 'vitest'
import { History } from '../../src/core/history.ts'
import { Summary } from '../../src/core/summary.ts'
import { TestMesh } from '../support/authors.ts'

function historyOf(count: number, mesh = new TestMesh()) {
  const history = new History()
  for (const envelope of mesh.founding) history.add(envelope)
  const edits = Array.from({ length: count }, (_, index) => mesh.edit(`default/*/site/s${index}`, [['set', '$', true]]))
  for (const edit of edits) history.add(edit)
  return { mesh, history, edits, summary: new Summary(history) }
}

describe('Summary', () => {
  test('is equal for equal histories, in whatever order they were read', () => {
    const a = historyOf(5)
    const b = historyOf(5)
    a.summary.digest()
    expect(a.summary.digest()).toBe(b.summary.digest())
    expect(a.summary.chains()).toEqual(b.summary.chains())
  })

  test('follows every added envelope', () => {
    const { mesh, history, summary } = historyOf(3)
    const before = summary.digest()
    history.add(mesh.edit('default/*/site/more', [['set', '$', true]]))
    expect(summary.digest()).not.toBe(before)
  })

  test('notices a co-signature that is missing elsewhere', () => {
    const { mesh, history, summary } = historyOf(0)
    const before = summary.digest()
    const [, ownerGrant] = mesh.founding
    history.add({ ...ownerGrant!, sigs: { ...ownerGrant!.sigs, ['f'.repeat(64)]: '0'.repeat(128) } })
    expect(summary.digest()).not.toBe(before)
  })

  test('narrows a difference down to the range that holds it', () => {
    const mesh = new TestMesh()
    const { history, edits, summary } = historyOf(40, mesh)
    const lacking = new History()
    for (const id of history.order) if (id !== edits[17]!.id) lacking.add(history.get(id)!)
    const other = new Summary(lacking)
    const owner = mesh.owner.publicKey
    const differing = summary
      .ranges('default', owner, 0, 40, 16)
      .filter((range) => other.range('default', owner, range.from, range.to).hash !== range.hash)
    expect(differing).toHaveLength(1)
    const [range] = differing
    expect(summary.items('default', owner, range!.from, range!.to).map(({ id }) => id)).toContain(edits[17]!.id)
  })

  test('splits a range without gaps and without overlap', () => {
    const { mesh, summary } = historyOf(7)
    const ranges = summary.ranges('default', mesh.owner.publicKey, 0, 7, 16)
    expect(ranges.flatMap(({ from, to }) => [from, to])).toEqual([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7])
    expect(ranges.reduce((sum, { count }) => sum + count, 0)).toBe(7)
  })
})
