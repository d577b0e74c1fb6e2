/**
 * Reads nginx text into directives, by the rules of nginx's own reader: quotes only at the start of a word, `\` before any
 * character, `${`, comments only between words, Lua blocks by Lua's rules. Order and the words as they were written are
 * kept, so that a directive can be written back unchanged. Pure; called by includes.ts and by tests.
 */

import { MeshError } from '../../errors.ts'

export interface Directive {
  readonly name: string
  /** The name as it was written, where that is another text: entries of a map may be quoted. */
  readonly written?: string
  /** What nginx takes them for: without quotes and escapes. */
  readonly args: readonly string[]
  /** The same as they were written. */
  readonly raw: readonly string[]
  /** Undefined for a simple directive. */
  readonly block?: readonly Directive[]
  /** What stands in a `*_by_lua_block`, as it was written. */
  readonly lua?: string
  readonly file: string
  /** From 1. */
  readonly line: number
}

/** Blocks within blocks; nginx itself has no use for over five. */
const DEPTH_MAX = 32
/** nginx reads a word into a buffer of so many bytes, and refuses a longer one. */
const WORD_MAX = 4096
const WORD_SHOWN = 40
const ESCAPES: Readonly<Record<string, string>> = { '"': '"', "'": "'", '\\': '\\', t: '\t', r: '\r', n: '\n' }

interface Word {
  readonly kind: 'word' | ';' | '{' | '}' | 'end'
  readonly raw: string
  readonly quote: string
}

/** @throws MeshError `input_invalid` where nginx would find the syntax at fault, with file and line. */
export function parse(text: string, file: string): Directive[] {
  const reader = new Reader(text, file)
  reader.expectText()
  return reader.directives(0)
}

class Reader {
  readonly #text: string
  readonly #file: string
  #position = 0
  #line = 1
  #lineFrom = 0

  constructor(text: string, file: string) {
    this.#text = text
    this.#file = file
  }

  /** What no editor of a configuration writes. */
  expectText(): void {
    if (this.#text.startsWith('\uFEFF'))
      throw this.#fault('begins with a byte order mark, which nginx takes for a part of the first word')
    this.#position = Math.max(0, this.#text.indexOf('\0'))
    if (this.#text.includes('\0')) throw this.#fault('has a byte of zero: it is no text')
  }

  directives(depth: number): Directive[] {
    if (depth > DEPTH_MAX) throw this.#fault(`blocks are nested over ${DEPTH_MAX} levels deep`)
    const found: Directive[] = []
    let words: Word[] = []
    let line = 1
    for (;;) {
      const word = this.#word()
      if (words.length === 0) line = this.#lineNow()
      if (word.kind === 'word') {
        words.push(word)
        continue
      }
      if (word.kind === 'end' || word.kind === '}') {
        if (words.length > 0) throw this.#fault(`${shown(words[0]?.raw ?? '')} has no ; or {`)
        if ((word.kind === '}') !== depth > 0) throw this.#fault(depth > 0 ? 'a } is missing' : 'there is a } too many')
        return found
      }
      const [first, ...rest] = words
      if (first === undefined) throw this.#fault(`there is a ${word.kind} without a directive before it`)
      const head = {
        name: valueOf(first),
        ...(first.raw === valueOf(first) ? {} : { written: first.raw }),
        args: rest.map(valueOf),
        raw: rest.map(({ raw }) => raw),
        file: this.#file,
        line,
      }
      if (word.kind === ';') found.push(head)
      else if (head.name.endsWith('_by_lua_block')) found.push({ ...head, lua: this.#lua() })
      else found.push({ ...head, block: this.directives(depth + 1) })
      words = []
    }
  }

  #word(): Word {
    // One at a time: a repeated choice would need room for each repetition.
    while (this.#skip(/[ \t\r\n]+|#[^\n]*/y) !== '');
    const first = this.#text[this.#position]
    if (first === undefined) return { kind: 'end', raw: '', quote: '' }
    if (first === ';' || first === '{' || first === '}') {
      this.#position += 1
      return { kind: first, raw: first, quote: '' }
    }
    const isQuoted = first === '"' || first === "'"
    const raw = isQuoted ? this.#quoted(first) : this.#bare()
    if (raw.includes('\uFFFD')) throw this.#fault(`${shown(raw)} has bytes that are no UTF-8`)
    if (isQuoted && !/[ \t\r\n;{)]/.test(this.#text[this.#position] ?? ' '))
      throw this.#fault(`there is no space after ${shown(raw)}`)
    return { kind: 'word', raw, quote: isQuoted ? first : '' }
  }

  #bare(): string {
    const raw = this.#skip(/(?:\\[^]|\$\{|[^ \t\r\n;{\\]|\\$){1,4097}/y)
    if (raw.length > WORD_MAX) throw this.#tooLong(raw)
    return raw
  }

  #quoted(quote: string): string {
    const from = this.#position
    for (let at = from + 1; at < this.#text.length; at += this.#text[at] === '\\' ? 2 : 1) {
      if (at - from > WORD_MAX) throw this.#tooLong(this.#text.slice(from, at))
      if (this.#text[at] !== quote) continue
      this.#position = at + 1
      return this.#text.slice(from, at + 1)
    }
    throw this.#fault('a quote is not closed')
  }

  #tooLong(raw: string): MeshError {
    return this.#fault(`${shown(raw)} is longer than the ${WORD_MAX} bytes that nginx reads, or a quote is not closed`)
  }

  /** To the brace that closes the block: those in Lua's strings and comments do not count. */
  #lua(): string {
    const from = this.#position
    const piece = /(?:--)?\[(=*)\[|--[^\n]*|"(?:\\[^]|[^"\\\n])*"|'(?:\\[^]|[^'\\\n])*'|[{}]|[^{}"'[-]+|[^]/y
    for (let depth = 1; ;) {
      const token = this.#skip(piece)
      const [, level] = /^(?:--)?\[(=*)\[$/.exec(token) ?? []
      const end = level === undefined ? this.#position : this.#text.indexOf(`]${level}]`, this.#position)
      if (token === '' || end === -1) throw this.#fault('a block of Lua is not closed')
      this.#position = end
      if (token === '{') depth += 1
      if (token === '}') depth -= 1
      if (depth === 0) return this.#text.slice(from, this.#position - 1)
    }
  }

  #skip(pattern: RegExp): string {
    pattern.lastIndex = this.#position
    const [found] = pattern.exec(this.#text) ?? ['']
    this.#position += found.length
    return found
  }

  #lineNow(): number {
    for (let at = this.#lineFrom; (at = this.#text.indexOf('\n', at)) !== -1 && at < this.#position; at += 1) {
      this.#line += 1
      this.#lineFrom = at + 1
    }
    return this.#line
  }

  #fault(what: string): MeshError {
    const place = `${this.#file}:${this.#lineNow()}`
    return new MeshError('input_invalid', `${place}: ${what}`, {
      field: place,
      hint: 'nginx -t must take the configuration before it can be imported; write it in UTF-8',
    })
  }
}

/** The beginning of a word, as it may stand in a message. */
function shown(raw: string): string {
  const start = raw.length > WORD_SHOWN ? `${raw.slice(0, WORD_SHOWN)}...` : raw
  return start.replace(/[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu, '?')
}

function valueOf({ raw, quote }: Word): string {
  const inner = quote === '' ? raw : raw.slice(1, -1)
  return inner.replace(/\\(["'\\trn])/g, (_, character: string) => ESCAPES[character] as string)
}

/** nginx text of directives, indented for people; quotes as they were written. */
export function toText(directives: readonly Directive[], indent = ''): string {
  return directives
    .map(({ name, written = name, raw, block, lua }) => {
      const head = `${indent}${[written, ...raw].join(' ')}`
      if (lua !== undefined) return `${head} {${lua}}\n`
      return block === undefined ? `${head};\n` : `${head} {\n${toText(block, `${indent}    `)}${indent}}\n`
    })
    .join('')
}
