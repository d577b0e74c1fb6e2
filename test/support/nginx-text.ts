/**
 * A reader of nginx text written from nginx's rules (ngx_conf_read_token, ngx_http_script_compile), not from the
 * renderer's: splits it into directives and blocks with their arguments as nginx holds them. Called by tests of
 * rendering and by the fuzzer; knows no directive.
 */

export interface Directive {
  readonly name: string
  /** Unquoted and unescaped. */
  readonly args: readonly string[]
  /** Undefined for a simple directive. */
  readonly block?: readonly Directive[]
}

/** nginx reads a parameter, as it is written, into a buffer of this size. */
const BUFFER_BYTES = 4096

/** The only ones: a no-break space or a form feed is part of a word. */
const isSpace = (character: string | undefined): boolean =>
  character === ' ' || character === '\t' || character === '\r' || character === '\n'

/** @throws Error where nginx would find the syntax at fault. */
export function readNginx(text: string): Directive[] {
  let position = 0

  const fail = (what: string): never => {
    throw new Error(`${what}: ${JSON.stringify(text.slice(Math.max(0, position - 40), position + 20))}`)
  }

  function token(): { kind: 'word' | ';' | '{' | '}' | 'end'; text: string } {
    for (;;) {
      while (isSpace(text[position])) position++
      if (text[position] !== '#') break
      const start = position
      while (position < text.length && text[position] !== '\n') position++
      if (Buffer.byteLength(text.slice(start, position)) >= BUFFER_BYTES) fail('too long a comment')
    }
    const first = text[position]
    if (first === undefined) return { kind: 'end', text: '' }
    if (first === ';' || first === '{' || first === '}') {
      position++
      return { kind: first, text: first }
    }
    const start = position
    const raw = first === '"' || first === "'" ? quoted(first) : bare()
    if (Buffer.byteLength(text.slice(start, position)) >= BUFFER_BYTES) fail('too long a parameter')
    return { kind: 'word', text: unescape(raw) }
  }

  function quoted(quote: string): string {
    const start = ++position
    for (; text[position] !== quote; position++) {
      if (position >= text.length) fail('a quote is not closed')
      // Whatever follows is part of the word.
      if (text[position] === '\\') position++
    }
    const raw = text.slice(start, position++)
    const next = text[position]
    if (!isSpace(next) && next !== ';' && next !== '{' && next !== ')') fail('no space after a quote')
    return raw
  }

  function bare(): string {
    const start = position
    // Set by a dollar sign for the one character after it: a brace there begins a variable, no block.
    let isVariable = false
    for (; position < text.length; position++) {
      const character = text[position]
      if (character === '{' && isVariable) continue
      isVariable = character === '$'
      if (character === '\\') position++
      else if (isSpace(character) || character === ';' || character === '{') break
    }
    return text.slice(start, position)
  }

  function directives(isInner: boolean): Directive[] {
    const found: Directive[] = []
    let words: string[] = []
    for (;;) {
      const { kind, text: word } = token()
      if (kind === 'word') words.push(word)
      else if (kind === 'end' || kind === '}') {
        if (words.length > 0 || (kind === '}') !== isInner) fail(`unexpected ${kind}`)
        return found
      } else {
        const [name, ...args] = words
        if (name === undefined) return fail(`unexpected ${kind}`)
        found.push(kind === ';' ? { name, args } : { name, args, block: directives(true) })
        words = []
      }
    }
  }
  return directives(false)
}

/** In words of either kind; a backslash before anything else stays. */
function unescape(raw: string): string {
  return raw.replace(/\\(["'\\ntr])/g, (_, character: string) => {
    return { n: '\n', t: '\t', r: '\r' }[character] ?? character
  })
}

/** What nginx makes of an argument in which it expands variables: texts and names of variables, in turn. */
export function readVariables(argument: string): readonly (string | { readonly variable: string })[] {
  const parts: (string | { readonly variable: string })[] = []
  for (const [whole, text, braced, named] of argument.matchAll(/([^$]+)|\$(?:\{(\w+)\}|(?!\{)([1-9]|\w+))?/g)) {
    const variable = braced ?? named
    if (text === undefined && variable === undefined) throw new Error(`invalid variable ${whole} in ${argument}`)
    parts.push(text ?? { variable: variable as string })
  }
  return parts
}

/** Names, nesting and numbers of arguments, in an order that does not depend on their values. */
export function skeleton(directives: readonly Directive[]): string {
  const parts = directives.map(({ name, args, block }) => {
    // What begins with ~ is an expression of a map: a value, in the place of a name.
    return `${name.startsWith('~') ? '~' : name}/${args.length}${block === undefined ? '' : `{${skeleton(block)}}`}`
  })
  return parts.toSorted().join(' ')
}
