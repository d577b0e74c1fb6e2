/** The pure part of meshctl: from wanted resources to operations, from operations to edits within the limits. */

import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { showChange, summary } from '../../src/cli/resources/plan.ts'
import { parseSources } from '../../src/cli/resources/documents.ts'
import { planEdit } from '../../src/cli/resources/editor.ts'
import { paint, plain, span, table, toJson, toYaml } from '../../src/cli/terminal.ts'
import { LIMITS, parseBody, type Op, type Value } from '../../src/core/envelope.ts'
import {
  ABSENT,
  editsOf,
  pack,
  planDelete,
  planFields,
  planOps,
  type Change,
  type Current,
} from '../../src/core/plan.ts'
import { canonical } from '../../src/core/canonical.ts'
import { MeshError } from '../../src/errors.ts'
import { parse } from 'yaml'

const HEAD = 'a'.repeat(64)
const NO_COLOUR = paint(false)

function current(fields: Record<string, Value>, overrides: Partial<Current> = {}): Current {
  return { exists: true, fields: new Map(Object.entries(fields)), heads: [HEAD], conflicts: [], ...overrides }
}

describe('planFields', () => {
  test('creates, changes, keeps and removes fields', () => {
    expect(planFields('w/z/site/a', ABSENT, new Map([['hosts/a', true]]))).toMatchObject({
      action: 'create',
      deps: [],
      ops: [
        ['set', '$', true],
        ['set', 'hosts/a', true],
      ],
    })
    expect(
      planFields(
        'w/z/site/a',
        current({ 'hosts/a': true, x: 1 }),
        new Map<string, Value>([
          ['x', 2],
          ['y', 3],
        ]),
      ),
    ).toMatchObject({
      action: 'update',
      deps: [HEAD],
      ops: [
        ['del', 'hosts/a'],
        ['set', 'x', 2],
        ['set', 'y', 3],
      ],
    })
    expect(planFields('w/z/site/a', current({ x: 1 }), new Map([['x', 1]]))).toMatchObject({ action: 'keep', ops: [] })
  })

  test('a deleted resource is created again on top of its heads', () => {
    const change = planFields('w/z/site/a', { ...ABSENT, heads: [HEAD] }, new Map([['x', 1]]))
    expect(change).toMatchObject({
      action: 'create',
      deps: [HEAD],
      ops: [
        ['set', '$', true],
        ['set', 'x', 1],
      ],
    })
  })

  test('settles conflicts even when the visible value is the wanted one', () => {
    const change = planFields('w/z/site/a', current({ x: 1 }, { conflicts: ['x'] }), new Map([['x', 1]]))
    expect(change).toMatchObject({ action: 'update', ops: [['set', 'x', 1]] })
    expect(showChange(change, NO_COLOUR)).toContain('settles a conflict')
  })

  test('names at most as many heads as an edit may', () => {
    const heads = Array.from({ length: 40 }, (_, index) => index.toString(16).padStart(64, '0'))
    expect(planDelete('w/z/site/a', current({}, { heads })).deps).toHaveLength(LIMITS.deps)
  })
})

describe('pack', () => {
  const change = (path: string, ops: readonly Op[], action: Change['action'] = 'create'): Change => ({
    path,
    action,
    ops,
    deps: [HEAD],
    before: new Map(),
  })

  test('upstreams come before sites, deletions last and the other way round', () => {
    const many = (kind: string, n: number, action: Change['action'] = 'create'): Change[] =>
      Array.from({ length: n }, (_, index) => change(`w/z/${kind}/r${index}`, [['set', 'a', 1]], action))
    const batches = pack([
      ...many('site', 20),
      ...many('upstream', 20),
      ...many('upstream', 1, 'delete').map((c) => ({ ...c, path: 'w/z/upstream/old' })),
    ])
    expect(batches).toHaveLength(2)
    const order = batches.flatMap(({ pieces }) => pieces.map(({ path }) => path.split('/')[2]))
    expect(order).toEqual([
      ...Array.from({ length: 20 }, () => 'upstream'),
      ...Array.from({ length: 20 }, () => 'site'),
      'upstream',
    ])
  })

  test('a resource larger than an edit goes on in the next one, which follows the first', () => {
    const ops = Array.from({ length: 600 }, (_, index): Op => [
      'set',
      `endpoints/${String(index).padStart(4, '0')}/weight`,
      index,
    ])
    const batches = pack([change('w/z/upstream/big', ops)])
    expect(batches.map(({ pieces }) => pieces[0]?.ops.length)).toEqual([256, 256, 88])
    expect(editsOf(batches[1]!, new Map([['w/z/upstream/big', 'f'.repeat(64)]]))[0]?.[1]).toEqual(['f'.repeat(64)])
  })

  test('every batch makes a body within the limits, and nothing is lost', () => {
    const value = fc.oneof(
      fc
        .string({ maxLength: 8000, unit: 'binary' })
        .filter((text) => text.isWellFormed() && Buffer.byteLength(text) <= 8192),
      fc.nat(),
      fc.boolean(),
    )
    const resource = fc.record({
      ws: fc.constantFrom('a', 'b'),
      kind: fc.constantFrom('site', 'upstream', 'zonesettings'),
      name: fc.integer({ min: 0, max: 60 }),
      values: fc.array(value, { minLength: 1, maxLength: 40 }),
      repeat: fc.constantFrom(1, 1, 1, 20),
      deps: fc.integer({ min: 0, max: 16 }),
    })
    fc.assert(
      fc.property(
        fc.uniqueArray(resource, { maxLength: 60, selector: ({ ws, kind, name }) => `${ws}/${kind}/${name}` }),
        (resources) => {
          const changes = resources.map(({ ws, kind, name, values, repeat, deps }): Change => {
            const ops = Array.from({ length: repeat }, () => values)
              .flat()
              .map((each, index): Op => ['set', `f${String(index).padStart(5, '0')}`, each])
            const ids = Array.from({ length: deps }, (_, index) => index.toString(16).padStart(64, '0'))
            return { path: `${ws}/eu/${kind}/r${name}`, action: 'update', ops, deps: ids, before: new Map() }
          })
          const found = new Map<string, Op[]>()
          for (const batch of pack(changes)) {
            const body = {
              v: 1,
              type: 'edit',
              mesh: HEAD,
              ws: batch.workspace,
              by: HEAD,
              grant: HEAD,
              n: 2,
              prev: [HEAD],
              at: 1,
              note: 'é'.repeat(256),
              edits: editsOf(batch, new Map()),
            }
            const bytes = canonical(body)
            expect(Buffer.byteLength(bytes)).toBeLessThanOrEqual(LIMITS.bodyBytes)
            parseBody(bytes)
            for (const { path, ops } of batch.pieces) found.set(path, [...(found.get(path) ?? []), ...ops])
          }
          for (const { path, ops } of changes) expect(found.get(path)).toEqual(ops)
        },
      ),
      { numRuns: 60 },
    )
  })
})

describe('planEdit', () => {
  const before = current({ a: 1, b: 1 })
  test('keeps what others changed in other fields', () => {
    const now = current({ a: 1, b: 2 }, { heads: ['b'.repeat(64)] })
    const change = planEdit(
      'w/z/site/a',
      before,
      new Map([
        ['a', 9],
        ['b', 1],
      ]),
      now,
      'draft',
    )
    expect(change).toMatchObject({ ops: [['set', 'a', 9]], deps: ['b'.repeat(64)] })
  })
  test('is a conflict when somebody changed the same field, or deleted it', () => {
    const edited = new Map([
      ['a', 9],
      ['b', 1],
    ])
    expect(() => planEdit('w/z/site/a', before, edited, current({ a: 5, b: 1 }), '/tmp/draft')).toThrow(
      /changed a while you were editing/,
    )
    expect(() => planEdit('w/z/site/a', before, edited, current({}, { exists: false }), '/tmp/draft')).toThrow(
      /deleted it/,
    )
  })
})

describe('parseSources', () => {
  const site = (name: string, extra = '') =>
    `apiVersion: nxmesh/v1\nkind: Site\nmetadata: {name: ${name}}\nspec:\n  hosts: [${name}.example]\n${extra}`

  test('reads many documents, skips empty ones, takes lists and JSON', () => {
    const list = JSON.stringify([parse(site('c')), parse(site('d'))])
    const wanted = parseSources([
      { name: 'a.yaml', text: `---\n${site('a')}---\n---\n# nothing\n---\n${site('b')}` },
      { name: 'c.json', text: list },
    ])
    expect(wanted.map(({ path, from }) => [path, from])).toEqual([
      ['default/*/site/a', 'a.yaml:1'],
      ['default/*/site/b', 'a.yaml:4'],
      ['default/*/site/c', 'c.json:1[0]'],
      ['default/*/site/d', 'c.json:1[1]'],
    ])
  })

  test('fills in workspace and zone where a document does not say', () => {
    const own = site('b').replace('name: b', 'name: b, zone: us')
    const wanted = parseSources([{ name: 'x', text: `${site('a')}---\n${own}` }], { workspace: 'shop', zone: 'eu' })
    expect(wanted.map(({ path }) => path)).toEqual(['shop/eu/site/a', 'shop/us/site/b'])
  })

  test('reports every fault at once, with file, document and field', () => {
    const text = [site('a', '  typo: 1\n'), site('ok'), 'kind: Sit\n', site('ok'), 'a: [\n'].join('---\n')
    const error = (() => {
      try {
        parseSources([{ name: 'bad.yaml', text }])
      } catch (caught) {
        return caught as MeshError
      }
      throw new Error('it was accepted')
    })()
    expect(error.code).toBe('resource_invalid')
    const lines = error.message.split('\n')
    expect(lines).toHaveLength(4)
    expect(lines[0]).toMatch(/^bad.yaml:1: spec\.typo /)
    expect(lines[1]).toMatch(/^bad.yaml:3: kind .*did you mean Site/)
    expect(lines[2]).toMatch(/^bad.yaml:4: default\/\*\/site\/ok is in bad.yaml:2 already/)
    expect(lines[3]).toMatch(/^bad.yaml:5: is not YAML/)
    expect(error.details.field).toMatch(/typo/)
  })

  test('what is nested without end is refused, in JSON and in YAML, by words', () => {
    for (const levels of [40, 20_000]) {
      const json = `{"kind":"Site","spec":${'{"a":'.repeat(levels)}1${'}'.repeat(levels)}}`
      for (const text of [json, `kind: Site\nspec: ${'['.repeat(levels)}${']'.repeat(levels)}\n`])
        expect(() => parseSources([{ name: 'deep', text }])).toThrow(/^deep:1: .*nested (over 32 levels|too) deep/)
    }
  })

  test('an alias bomb is refused', () => {
    const bomb = [
      'a: &a [x, x, x, x, x, x, x, x, x, x]',
      ...Array.from({ length: 9 }, (_, i) => {
        const [from, to] = [String.fromCharCode(97 + i), String.fromCharCode(98 + i)]
        return `${to}: &${to} [${Array.from({ length: 10 }, () => `*${from}`).join(', ')}]`
      }),
    ].join('\n')
    expect(() => parseSources([{ name: 'bomb', text: bomb }])).toThrow(/alias/i)
  })
})

describe('terminal', () => {
  test('no control character passes', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), (text) => {
        expect(plain(text)).not.toMatch(/[\u0000-\u001f\u007f-\u009f\u202e\u2066]/)
        expect(table(['A', 'B'], [[text, text]])).not.toMatch(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u202e]/)
      }),
    )
  })

  test('YAML and JSON read back as the same value, and hold no control character', () => {
    const text = fc.oneof(
      fc.string({ unit: 'binary' }).filter((each) => each.isWellFormed()),
      fc.constantFrom('\u001b[31m', '\u009b31m', '\u202e', 'a\u2028b', '\r', 'no', '1', '~', '\u007f'),
    )
    fc.assert(
      fc.property(fc.dictionary(text, fc.oneof(text, fc.array(text), fc.integer(), fc.boolean())), (value) => {
        const copy = JSON.parse(JSON.stringify(value)) as unknown
        expect(JSON.parse(toJson(copy))).toEqual(copy)
        expect(parse(toYaml(copy))).toEqual(copy)
        for (const shown of [toYaml(copy), toJson(copy)])
          expect(shown).not.toMatch(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u202e\u2028]/)
      }),
      { numRuns: 500 },
    )
  })

  test('spans and summaries', () => {
    expect([0, 119_000, 600_000, 7_200_000, 40 * 86_400_000].map(span)).toEqual(['0s', '119s', '10m', '2h', '40d'])
    const changes = [planFields('w/z/site/a', ABSENT, new Map()), planOps('w/z/site/b', current({}), [])]
    expect(summary(changes)).toBe('1 to create, 1 unchanged')
  })
})
