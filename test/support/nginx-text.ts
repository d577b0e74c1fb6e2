/**
 * A reader of nginx text written from nginx's rules, not from the renderer's: splits it into directives and blocks, so
 * that a test can say which directives are there.
 */

export interface Directive {
  readonly name: string
  readonly args: readonly string[]
  /** Undefined for a simple directive. */
  readonly block?: readonly Directive[]
}

/** @throws Error where nginx would find the syntax at fault. */
export function readNginx(text: string): Directive[] {
  let position = 0

  function token(): { kind: 'word' | ';' | '{' | '}' | 'end'; text: string } {
    for (;;) {
      while (/[ \t\r\n]/.test(text[position] ?? '')) position++
      if (text[position] !== '#') break
      while (position < text.length && text[position] !== '\n') position++
    }
    const first = text[position]
    if (first === undefined) return { kind: 'end', text: '' }
    if (first === ';' || first === '{' || first === '}') {
      position++
      return { kind: first, text: first }
    }
    return { kind: 'word', text: first === '"' || first === "'" ? quoted(first) : bare() }
  }

  function quoted(quote: string): string {
    let word = ''
    for (position++; text[position] !== quote; position++) {
      if (position >= text.length) throw new Error('a quote is not closed')
      if (text[position] === '\\' && /["'\\]/.test(text[position + 1] ?? '')) position++
      else if (text[position] === '\\' && /[ntr]/.test(text[position + 1] ?? '')) position++
      else if (text[position] === '\\') word += text[position++]
      word += text[position]
    }
    position++
    if (!/[ \t\r\n;{)]/.test(text[position] ?? ''))
      throw new Error(`no space after a quote: ${text.slice(position - 20, position + 20)}`)
    return word
  }

  function bare(): string {
    let word = ''
    for (; position < text.length && !/[ \t\r\n;]/.test(text[position] as string); position++) {
      if (text[position] === '{' && text[position - 1] !== '$') break
      if (text[position] === '\\') word += text[position++]
      word += text[position] ?? ''
    }
    return word
  }

  function directives(isInner: boolean): Directive[] {
    const found: Directive[] = []
    let words: string[] = []
    for (;;) {
      const { kind, text: word } = token()
      if (kind === 'word') words.push(word)
      else if (kind === 'end' || kind === '}') {
        if (words.length > 0 || (kind === '}') !== isInner) throw new Error(`unexpected ${kind} at ${position}`)
        return found
      } else {
        const [name, ...args] = words
        if (name === undefined) throw new Error(`unexpected ${kind} at ${position}`)
        found.push(kind === ';' ? { name, args } : { name, args, block: directives(true) })
        words = []
      }
    }
  }
  return directives(false)
}

/** Names, nesting and numbers of arguments, in an order that does not depend on their values. */
export function skeleton(directives: readonly Directive[]): string {
  const parts = directives.map(({ name, args, block }) => {
    return `${name}/${args.length}${block === undefined ? '' : `{${skeleton(block)}}`}`
  })
  return parts.toSorted().join(' ')
}
