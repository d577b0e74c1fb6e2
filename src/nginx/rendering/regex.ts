/**
 * Expressions of users as nginx tries them: how long one may take is limited by counting the steps of PCRE, so that no text
 * holds a worker up. Where PCRE gives up, a map has its default; locations, rewrites and redirects answer 500. Pure; what
 * comes out has to be quoted still. Called by whatever renders expressions.
 */

import { plain } from './quote.ts'

/**
 * Steps of PCRE in one match: 1 to 2.5 ms where it was measured (nginx 1.22.1 with PCRE2 10.42, texts of 8 kB), and at most
 * 7 ms with 15,000 expressions made at random. Under JIT, which is off in nginx unless told, simple repeats are no steps:
 * `a.*\w+=` took 180 ms.
 */
export const STEPS_MAX = 100_000

/** So many characters of `{n}` take as long as a step, and are none. */
const CHARACTERS_OF_STEP = 100
/** So many steps may take as long as one that looks ahead, which may go to the end of the text. */
const STEPS_OF_LOOK = 16

/**
 * The expression with a limit, unless its time goes by the length of the text alone. Fits what it fits without, in the
 * same way, groups too.
 * @param dotAll `.` fits line feeds
 */
export function bounded(regex: string, { dotAll = false } = {}): string {
  const option = dotAll ? 's' : ''
  const bare = bareOf(regex)
  const isPlain = !/[*+?{]/.test(bare) && bare.split('(').length <= 2
  if (isPlain || (bare.startsWith('^') && !hasChoice(bare)))
    return `${isPlain ? '' : limitsOf(bare)}${dotAll ? '(?s)' : ''}${regex}`
  // What begins with .* begins with a line, or fits nowhere in it.
  const isOfLine = /^(?:\.\*|\(\.\*\))/.test(bare) && !hasChoice(bare)
  const before = !isOfLine ? skipTo(firstOf(regex)) : dotAll ? '' : '(?:.*\\n)*?'
  // PCRE counts anew at each place where a match may begin: so there is one such place.
  return `${limitsOf(bare)}^${before}(?${option}:${regex})`
}

/** Goes from one place where a match may begin to the next. @param first what it begins with, as in a class, if that is known */
function skipTo(first: string | undefined): string {
  return first === undefined ? '(?s:.*?)' : `(?s:(?:[^${first}]*+.)*?)[^${first}]*+`
}

function limitsOf(bare: string): string {
  const copies = [...bare.matchAll(/\{(\d+)/g)].reduce((sum, [, count]) => sum + Number(count), 0)
  const weight = copies / CHARACTERS_OF_STEP + (/\(\?[=!]/.test(bare) ? STEPS_OF_LOOK : 0)
  const steps = Math.floor(STEPS_MAX / Math.max(1, weight))
  // Repeats that PCRE finds out to have one way alone are steps too: else it walks through them again and again uncounted.
  return `(*LIMIT_MATCH=${steps})(*NO_AUTO_POSSESS)`
}

/**
 * For an expression of which nothing counts but whether it fits: what repeats at its beginning stands there once, or not at
 * all, so that a long text of the same characters does not take the square of its length.
 */
export function sought(regex: string): string {
  if (hasChoice(bareOf(regex))) return regex
  const [whole = '', atom = '', sign] = /^(\\.|\[(?:\\.|[^\]\\])*\]|[^\\[(^$])([*+])\??/.exec(regex) ?? []
  const rest = regex.slice(whole.length)
  if (whole === '' || (sign === '*' && rest === '')) return regex
  return sign === '+' ? atom + rest : sought(rest)
}

/** Lines of a map: 1 where the expression fits, 0 where it does not or there is nothing, else `givenUp`. */
export function judgedLines(expression: string, givenUp: 1 | 2): readonly string[] {
  // The default is what nginx takes when it gives up on an expression. It tries none on what is empty.
  return [`default ${givenUp};`, '"" 0;', `${plain(expression)} 1;`, '"~^" 0;']
}

/** One character for each escape and class; plain groups all look alike. */
function bareOf(regex: string): string {
  return regex.replace(/\\.|\[(?:\\.|[^\]\\])*\]/g, 'x').replaceAll('(?:', '(')
}

/** Whether it is alternatives, outside of all groups. */
function hasChoice(bare: string): boolean {
  let outside = bare
  for (let before = ''; before !== outside;) {
    before = outside
    outside = outside.replace(/\([^()]*\)/g, 'x')
  }
  return outside.includes('|')
}

// ---------------------------------------------------------------------------------------------- beginnings

const TOKEN = /\\.|\[(?:\\.|[^\]\\])*\]|\((?:\?[:=!])?|\{[^}]*\}\??|[*+?]\??|./g

/** What a longer class would not be worth. */
const FIRST_MAX = 128

interface Beginning {
  /** As in a class; undefined for what is not told so simply. */
  readonly first: string | undefined
  readonly mayBeEmpty: boolean
}

/** The characters that a match may begin with, or more, as in a class; undefined where it may begin with any, or be empty. */
function firstOf(regex: string): string | undefined {
  const { first, mayBeEmpty } = beginningOf((regex.match(TOKEN) ?? []).values())
  return mayBeEmpty || first === undefined || first.length > FIRST_MAX ? undefined : first
}

/** Of a group, whose opening was read; reads its end too. */
function beginningOf(tokens: Iterator<string>): Beginning {
  let first: string | undefined = ''
  let mayBeEmpty = false
  // Whether what was read of this alternative may be empty, without and with what was read last.
  let [before, isOpen] = [true, true]
  for (let { value, done } = tokens.next(); done !== true && value !== ')'; { value, done } = tokens.next()) {
    const token = value as string
    if (/^[*+?{]/.test(token)) isOpen ||= before && /^(?:[*?]|\{0)/.test(token)
    else if (token === '|') {
      mayBeEmpty ||= isOpen
      isOpen = true
    } else {
      before = isOpen
      const inner = token.startsWith('(') ? beginningOf(tokens) : characterOf(token)
      if (!isOpen || token === '(?=' || token === '(?!') continue
      first = first === undefined || inner.first === undefined ? undefined : first + inner.first
      isOpen = inner.mayBeEmpty
    }
  }
  return { first, mayBeEmpty: mayBeEmpty || isOpen }
}

function characterOf(token: string): Beginning {
  if (/^(?:\^|\$|\\b)$/i.test(token)) return { first: '', mayBeEmpty: true }
  if (token === '.' || token.startsWith('[^')) return { first: undefined, mayBeEmpty: false }
  const parts = token.startsWith('[') ? (token.slice(1, -1).match(/\\.|./g) ?? []) : [token]
  // Where they stand among others, these would mean something else.
  const isOdd = (part: string, index: number) => part === '[' || (part === '-' && [0, parts.length - 1].includes(index))
  return { first: parts.map((part, index) => (isOdd(part, index) ? `\\${part}` : part)).join(''), mayBeEmpty: false }
}
