import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { Value } from '../../src/core/envelope.ts'
import { isFieldPath } from '../../src/core/names.ts'
import { diffFields, flatten, unflatten } from '../../src/core/resources/flat.ts'
import {
  documentOf,
  fieldsOf,
  KINDS,
  parseDocument,
  readFields,
  type Resource,
} from '../../src/core/resources/index.ts'
import type { Kind } from '../../src/core/resources/kind.ts'
import { resourceArbitrary } from '../support/arbitrary-resources.ts'

const site = KINDS.get('site') as Kind
const upstream = KINDS.get('upstream') as Kind

function nameOf(resource: Resource) {
  const { name, workspace, zone } = resource.metadata
  return { name, workspace, zone, kind: resource.kind.toLowerCase() }
}

describe('flatten and unflatten', () => {
  test('a site lies in fields as documented', () => {
    const resource = parseDocument({
      apiVersion: 'nxmesh/v1',
      kind: 'Site',
      metadata: { name: 'a', labels: { 'team/x': 'shop', '~': 'tilde' } },
      spec: { hosts: ['b.example', 'a.example'], routes: { 'a/b': { path: '/', proxy: { upstream: 'api' } } } },
    })
    expect([...fieldsOf(resource)]).toEqual([
      ['hosts/a.example', true],
      ['hosts/b.example', true],
      ['labels/team~1x', 'shop'],
      ['labels/~0', 'tilde'],
      ['routes/a~1b/action', 'proxy'],
      ['routes/a~1b/path', '/'],
      ['routes/a~1b/proxy/upstream', 'api'],
    ])
    expect(resource.spec['hosts']).toEqual(['a.example', 'b.example'])
  })

  test('an endpoint that says nothing is stored, and grows when someone else adds a field to it', () => {
    const fields = flatten(upstream, { labels: {}, spec: { endpoints: { '10.0.0.1:80': {} } } })
    expect([...fields]).toEqual([['endpoints/10.0.0.1:80', true]])
    const grown = unflatten(upstream, new Map([...fields, ['endpoints/10.0.0.1:80/weight', 4]]))
    expect(grown.spec).toEqual({ endpoints: { '10.0.0.1:80': { weight: 4 } } })
  })

  test('property: a valid resource of any kind comes back from its fields as it was', () => {
    fc.assert(
      fc.property(resourceArbitrary, (document) => {
        const resource = parseDocument(document)
        const fields = fieldsOf(resource)
        for (const field of fields.keys()) expect(isFieldPath(field), field).toBe(true)
        expect(documentOf(nameOf(resource), fields)).toEqual(resource)
        // What comes out of storage goes back in unchanged, and means the same.
        const again = parseDocument(JSON.parse(JSON.stringify(resource)))
        expect(again).toEqual(resource)
        expect(diffFields(fields, fieldsOf(again))).toEqual([])
        expect(readFields(KINDS.get(nameOf(resource).kind) as Kind, fields)).not.toHaveProperty('field')
      }),
      { numRuns: 300 },
    )
  })

  test('property: any fields come out as something, which the schema judges without throwing', () => {
    const segment = fc.oneof(
      fc.constantFrom(
        'hosts',
        'routes',
        'endpoints',
        'labels',
        'listeners',
        'root',
        'path',
        'proxy',
        '__proto__',
        'constructor',
        '~0',
        '~1',
        '10.0.0.1:80',
      ),
      fc.string({ minLength: 1, maxLength: 8 }).map((text) => text.replaceAll(/[~/]/g, '_') || '_'),
    )
    const field = fc.array(segment, { minLength: 1, maxLength: 6 }).map((segments) => segments.join('/'))
    const scalar = fc.oneof(fc.string(), fc.integer(), fc.boolean(), fc.constant(true))
    const value: fc.Arbitrary<Value> = fc.oneof(scalar, fc.array(scalar, { maxLength: 3 }))
    fc.assert(
      fc.property(fc.array(fc.tuple(field, value), { maxLength: 12 }), (entries) => {
        const fields = new Map(entries)
        for (const kind of KINDS.values()) {
          const content = unflatten(kind, fields)
          expect(Object.getPrototypeOf(content.spec)).toBe(Object.prototype)
          readFields(kind, fields)
        }
        expect({}).not.toHaveProperty('polluted')
      }),
      { numRuns: 500 },
    )
  })

  test.each([
    [
      'a value with fields below it',
      [
        ['routes/root', 'x'],
        ['routes/root/path', '/'],
      ],
    ],
    [
      'labels that are one value',
      [
        ['labels', 'x'],
        ['hosts/a.example', true],
      ],
    ],
    ['a set item that is not true', [['hosts/a.example', false]]],
    ['fields below a set item', [['hosts/a.example/x', true]]],
    [
      'the prototype as a key',
      [
        ['hosts/a.example', true],
        ['routes/__proto__/path', '/'],
      ],
    ],
    [
      'an empty item that needs fields',
      [
        ['hosts/a.example', true],
        ['routes/root', true],
      ],
    ],
    ['a deep path', [[Array.from({ length: 200 }, () => 'a').join('/'), 1]]],
  ] as [string, [string, Value][]][])('%s is refused by the schema', (_what, entries) => {
    expect(readFields(site, new Map(entries))).toHaveProperty('field')
  })
})

describe('diffFields', () => {
  test('sets what is new or other, deletes what is gone, in the order of envelopes', () => {
    const before = new Map<string, Value>([
      ['a', 1],
      ['b', [1, 2]],
      ['d', 'x'],
    ])
    const after = new Map<string, Value>([
      ['b', [1, 2]],
      ['c', true],
      ['d', 'y'],
    ])
    expect(diffFields(before, after)).toEqual([
      ['del', 'a'],
      ['set', 'c', true],
      ['set', 'd', 'y'],
    ])
  })

  test('property: applying the operations to the first fields gives the second', () => {
    const fields = fc
      .dictionary(fc.constantFrom('a', 'b', 'c/d', 'é', 'Z'), fc.oneof(fc.integer(), fc.array(fc.boolean())))
      .map((record) => new Map<string, Value>(Object.entries(record)))
    fc.assert(
      fc.property(fields, fields, (before, after) => {
        const result = new Map(before)
        const ops = diffFields(before, after)
        for (const op of ops) {
          if (op[0] === 'set') result.set(op[1], op[2])
          else result.delete(op[1])
        }
        expect(result).toEqual(after)
        expect(ops.map((op) => op[1])).toEqual(ops.map((op) => op[1]).toSorted())
      }),
    )
  })
})
