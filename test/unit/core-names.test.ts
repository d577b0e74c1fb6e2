import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  escapeSegment,
  isFieldPath,
  isName,
  isResourcePath,
  isZone,
  parseResourcePath,
  resourcePath,
  unescapeSegment,
  zoneAndAncestors,
  zoneCovers,
} from '../../src/core/names.ts'

describe('names', () => {
  test.each(['a', 'a-b', '0', 'a'.repeat(63)])('%s is a name', (name) => expect(isName(name)).toBe(true))
  test.each(['', '-a', 'a-', 'A', 'a_b', 'a.b', 'a b', 'a\n', 'é', 'a'.repeat(64), '*', '..'])(
    '%j is no name',
    (name) => expect(isName(name)).toBe(false),
  )
  test.each(['*', 'eu', 'eu.west', 'eu.west.paris'])('%s is a zone', (zone) => expect(isZone(zone)).toBe(true))
  test.each(['', '.', 'eu.', '.eu', 'eu..west', 'eu.*', '*.eu', 'EU', 'eu\n', `a${'.a'.repeat(127)}`])(
    '%j is no zone',
    (zone) => expect(isZone(zone)).toBe(false),
  )
  test.each(['$', 'a', 'a/b', 'hosts/~1x~0', 'a b/ü', '__proto__'])('%j is a field path', (field) =>
    expect(isFieldPath(field)).toBe(true),
  )
  test.each([
    '',
    '/',
    '/a',
    'a/',
    'a//b',
    '~',
    '~2',
    'a/~',
    'a\nb',
    'a\u0000',
    'a\u007f',
    'a'.repeat(513),
    'é'.repeat(257),
  ])('%j is no field path', (field) => expect(isFieldPath(field)).toBe(false))
  test.each(['a/b/c', 'a/b/c/d/e', 'a/B/c/d', '*/eu/site/a', 'default/eu/site/', 'default//site/a', 'default/eu/*/a'])(
    '%j is no resource path',
    (path) => expect(isResourcePath(path)).toBe(false),
  )

  test('a resource path is its parts', () => {
    const parts = { workspace: 'default', zone: 'eu.west', kind: 'site', name: 'shop' }
    expect(parseResourcePath('default/eu.west/site/shop')).toEqual(parts)
    expect(resourcePath(parts)).toBe('default/eu.west/site/shop')
    expect(parseResourcePath('default/*/site/shop')?.zone).toBe('*')
  })

  test.each([
    ['*', 'eu', true],
    ['*', '*', true],
    ['eu', 'eu', true],
    ['eu', 'eu.west', true],
    ['eu', 'eu.west.paris', true],
    ['eu', 'europe', false],
    ['eu', 'eu-west', false],
    ['eu.west', 'eu', false],
    ['eu', 'us', false],
    ['eu', '*', false],
  ])('zone %s covers %s: %s', (outer, inner, covers) => expect(zoneCovers(outer, inner)).toBe(covers))

  test('a zone’s ancestors are those that cover it, nearest first', () => {
    expect(zoneAndAncestors('eu.west.paris')).toEqual(['eu.west.paris', 'eu.west', 'eu', '*'])
    expect(zoneAndAncestors('*')).toEqual(['*'])
  })

  test('any segment comes back from its escape', () => {
    fc.assert(
      fc.property(fc.string(), (segment) => {
        expect(unescapeSegment(escapeSegment(segment))).toBe(segment)
        expect(escapeSegment(segment)).not.toContain('/')
      }),
    )
  })
})
