import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { canonical, type Json } from '../../src/core/canonical.ts'

const NESTING_MAX = 64

function nested(depth: number): Json {
  let value: Json = 1
  for (let level = 0; level < depth; level += 1) value = level % 2 === 0 ? [value] : { a: value }
  return value
}

describe('canonical', () => {
  test.each<[Json, string]>([
    [null, 'null'],
    [true, 'true'],
    [0, '0'],
    [Number.MAX_SAFE_INTEGER, '9007199254740991'],
    ['', '""'],
    ['é\u2028\u0000"\\', '"é\u2028\\u0000\\"\\\\"'],
    ['😀', '"😀"'],
    [[], '[]'],
    [{}, '{}'],
    [{ b: 1, a: [2, 'x'] }, '{"a":[2,"x"],"b":1}'],
    // RFC 8785 sorts by UTF-16 code units: the surrogates of an emoji come before U+FB33.
    [{ '\ufb33': 1, '😀': 2, '\r': 3, '1': 4, '10': 5, '2': 6 }, '{"\\r":3,"1":4,"10":5,"2":6,"😀":2,"\ufb33":1}'],
    [JSON.parse('{"__proto__":1,"constructor":2}') as Json, '{"__proto__":1,"constructor":2}'],
  ])('%j is %s', (value, text) => {
    expect(canonical(value)).toBe(text)
  })

  test.each([
    1.5,
    -0,
    NaN,
    Infinity,
    2 ** 53,
    undefined,
    '\ud800',
    '\udc00a',
    { a: undefined },
    [() => 1],
    { '\udfff': 1 },
  ])('%j has no canonical form', (value) => {
    expect(() => canonical(value as Json)).toThrow(TypeError)
  })

  test('ends at a depth, long before the stack does', () => {
    expect(canonical(nested(NESTING_MAX))).toContain('1')
    expect(() => canonical(nested(NESTING_MAX + 1))).toThrow(TypeError)
    expect(() => canonical(nested(100_000))).toThrow(TypeError)
  })

  test('is what parses back to the value, whatever the order of keys', () => {
    const json = fc.letrec<{ value: Json }>((tie) => ({
      value: fc.oneof(
        { maxDepth: 4 },
        fc.constant(null),
        fc.boolean(),
        fc.maxSafeInteger().map((integer) => integer + 0),
        fc.string({ unit: 'binary' }),
        fc.array(tie('value'), { maxLength: 4 }),
        fc.dictionary(fc.string({ unit: 'binary' }), tie('value'), { maxKeys: 4, noNullPrototype: true }),
      ),
    })).value
    fc.assert(
      fc.property(json, (value) => {
        const text = canonical(value)
        expect(JSON.parse(text)).toEqual(value)
        expect(canonical(JSON.parse(text) as Json)).toBe(text)
        expect(canonical(reversed(value))).toBe(text)
      }),
    )
  })
})

function reversed(value: Json): Json {
  if (Array.isArray(value)) return value.map(reversed)
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(
    Object.entries(value)
      .toReversed()
      .map(([key, member]) => [key, reversed(member)]),
  )
}
