/** Expressions of users with a limit: they fit what they fit without one. What the limit does, nginx shows in policy-waf. */

import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { judgeRegex } from '../../src/core/resources/fields.ts'
import { bounded, judgedLines, sought, STEPS_MAX } from '../../src/nginx/rendering/regex.ts'

const LIMITS = `(*LIMIT_MATCH=${STEPS_MAX})(*NO_AUTO_POSSESS)`
const to = (first: string) => `^(?s:(?:[^${first}]*+.)*?)[^${first}]*+`

describe('a limited expression', () => {
  test.each([
    // Its time goes by the length of the text.
    ['/\\.git', '/\\.git'],
    ['^/[0-9]$', '^/[0-9]$'],
    ['sqlmap|nikto', 'sqlmap|nikto'],
    ['\\b(?:union|select)\\b', '\\b(?:union|select)\\b'],
    // One place where a match may begin.
    ['^/a/(.*)$', `${LIMITS}^/a/(.*)$`],
    ['^/(?:a|b)+$', `${LIMITS}^/(?:a|b)+$`],
    // One in each line.
    ['.*\\.php', `${LIMITS}^(?:.*\\n)*?(?:.*\\.php)`],
    ['(.*)\\.php', `${LIMITS}^(?:.*\\n)*?(?:(.*)\\.php)`],
    // Many: from one character that it may begin with to the next.
    ['a.*b', `${LIMITS}${to('a')}(?:a.*b)`],
    ['^a|b+', `${LIMITS}${to('ab')}(?:^a|b+)`],
    ['(?:a|ab)(?:c|bcd)', `${LIMITS}${to('aa')}(?:(?:a|ab)(?:c|bcd))`],
    ['a?(?:b*|[c-])\\b-+', `${LIMITS}${to('abc\\-\\-')}(?:a?(?:b*|[c-])\\b-+)`],
    ['[(|[]+\\|', `${LIMITS}${to('(|\\[')}(?:[(|[]+\\|)`],
    // It may begin with any, or be empty.
    ['.+b', `${LIMITS}^(?s:.*?)(?:.+b)`],
    ['[^a]+b', `${LIMITS}^(?s:.*?)(?:[^a]+b)`],
    ['a?b*(?:c|)', `${LIMITS}^(?s:.*?)(?:a?b*(?:c|))`],
    // What is no step takes time too.
    ['a{20}b{3,}\\{200', `${LIMITS}${to('a')}(?:a{20}b{3,}\\{200)`],
    ['^\\d{400}a{100,}', '(*LIMIT_MATCH=20000)(*NO_AUTO_POSSESS)^\\d{400}a{100,}'],
    ['^(?!.*a)b', '(*LIMIT_MATCH=6250)(*NO_AUTO_POSSESS)^(?!.*a)b'],
  ])('%s', (regex, limited) => {
    expect(bounded(regex)).toBe(limited)
  })

  test('may let . fit line feeds', () => {
    expect(bounded('a.b', { dotAll: true })).toBe('(?s)a.b')
    expect(bounded('^a.*b', { dotAll: true })).toBe(`${LIMITS}(?s)^a.*b`)
    expect(bounded('.*b', { dotAll: true })).toBe(`${LIMITS}^(?s:.*b)`)
    expect(bounded('a.*b', { dotAll: true })).toBe(`${LIMITS}${to('a')}(?s:a.*b)`)
  })

  const atom = fc.constantFrom('a', 'b', '.', '\\w', '[ab]', '[^a|]', '\\|', 'c', '-', '[a-]', '[-b]', '[[]', '\\D')
  const repeated = fc
    .tuple(atom, fc.constantFrom('', '', '+', '*', '?', '{2}', '+?', '*?'))
    .map((parts) => parts.join(''))
  const sequence = fc.array(repeated, { minLength: 1, maxLength: 4 }).map((parts) => parts.join(''))
  const group = fc
    .tuple(fc.constantFrom('(', '(?:', '(?=', '(?!'), fc.array(sequence, { minLength: 1, maxLength: 2 }))
    .map(([open, parts]) => `${open}${parts.join('|')})`)
  const whole = fc
    .array(fc.oneof(sequence, group, fc.constantFrom('^', '$', '|', '\\b')), { minLength: 1, maxLength: 5 })
    .map((parts) => parts.join(''))
    .filter((regex) => judgeRegex(regex) === undefined)
  const text = fc.string({ unit: fc.constantFrom('a', 'b', 'c', '|', ' ', '\n', '-', '['), maxLength: 12 })

  test('fits the same texts, with the same groups', () => {
    fc.assert(
      fc.property(whole, text, fc.boolean(), (regex, value, dotAll) => {
        const limited = new RegExp(withoutLimits(bounded(regex, { dotAll })), inlineFlags(regex, dotAll))
        const found = new RegExp(regex, dotAll ? 's' : '').exec(value)
        expect(limited.exec(value)?.slice(1)).toEqual(found?.slice(1))
      }),
      { numRuns: 2000 },
    )
  })

  test('which alone is sought fits the same texts', () => {
    fc.assert(
      fc.property(whole, text, (regex, value) => {
        expect(new RegExp(sought(regex)).test(value)).toBe(new RegExp(regex).test(value))
      }),
      { numRuns: 2000 },
    )
  })
})

test('what repeats at the beginning stands there once, or not at all', () => {
  const pairs = ['\\w+=', '[a-z]*\\d+x', '.+foo', 'ab+', '\\s*', 'a+', '^a+b', 'a+|b', '(?:a)+b', '.*.*foo']
  expect(pairs.map(sought)).toEqual(['\\w=', '\\dx', '.foo', 'ab+', '\\s*', 'a', '^a+b', 'a+|b', '(?:a)+b', 'foo'])
})

test('a map says which texts could not be judged, apart from those that fit and those that do not', () => {
  expect(judgedLines('~a"b', 2)).toEqual(['default 2;', '"" 0;', '"~a\\"b" 1;', '"~^" 0;'])
})

test.each(['(*NO_JIT)a', '(*LIMIT_MATCH=9)a', '(*UTF)a', 'a(*COMMIT)', 'a|(*ACCEPT)', '[]a', '[^]a'])(
  'nobody tells PCRE what to do: %s',
  (regex) => {
    expect(judgeRegex(regex)).toHaveProperty('message')
  },
)

function withoutLimits(told: string): string {
  // JavaScript has no repeats that give nothing back, and (?s) at the beginning is a flag.
  const regex = told.replace(/(\[\^(?:\\.|[^\]\\])*\])\*\+/g, '$1*(?!$1)')
  return regex.replace(/^(?:\(\*[A-Z_]+(?:=\d+)?\))+/, '').replace(/^\(\?s\)/, '')
}

function inlineFlags(regex: string, dotAll: boolean): string {
  return dotAll && !bounded(regex, { dotAll }).includes('(?s:') ? 's' : ''
}
