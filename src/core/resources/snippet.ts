/**
 * Judges privileged snippets: nginx text by the hand of someone who may write it. The check guards against mistakes
 * (a lost brace takes a whole server with it); it is no boundary, since a snippet may do anything nginx can.
 */

import { MAX_TEXT_BYTES, text, type Fault } from './fields.ts'

/** nginx reads each into a buffer of 4,096 bytes. */
const MAX_TOKEN_BYTES = 4000

/** Fault with text that does not end where it began: open quotes or braces, or a directive without its semicolon. */
export function judgeSnippet(snippet: string): Fault | undefined {
  let depth = 0
  let isOpen = false
  // A comment, a quoted word, a bare word, or one of ; { }. As in nginx: quotes count only at a word's start, four
  // characters are spaces and no others, and ${ is no more than a brace that begins no block.
  const tokens =
    /[ \t\r\n]+|#[^\n]*|(?:"(?:\\[^]|[^"\\])*"|'(?:\\[^]|[^'\\])*')(?=[ \t\r\n;{)]|$)|[;{}]|(?:\\[^]|\$\{|[^ \t\r\n;{}"'\\])(?:\\[^]|\$\{|[^ \t\r\n;{\\])*|[^]/gy
  for (const [token] of snippet.matchAll(tokens)) {
    if (!/^[ \t\r\n]/.test(token) && Buffer.byteLength(token) > MAX_TOKEN_BYTES)
      return { message: `has a word or comment of over ${MAX_TOKEN_BYTES} bytes`, hint: 'nginx reads no longer ones' }
    if (/^[ \t\r\n#]/.test(token)) continue
    if (token === '"' || token === "'" || token === '\\')
      return { message: 'has a quote that is not closed, or not followed by a space' }
    if ((token === ';' || token === '{') && !isOpen) return { message: `has a ${token} without a directive before it` }
    if (token === '{') depth++
    else if (token === '}' && (isOpen || --depth < 0))
      return { message: 'has a } too many, or one after a directive without ;' }
    isOpen = ![';', '{', '}'].includes(token)
  }
  if (depth > 0) return { message: `lacks ${depth} closing }` }
  if (isOpen) return { message: 'ends in a directive without ;' }
  return undefined
}

/** nginx text that ends where it began. */
export const snippet = text(judgeSnippet, { maxBytes: MAX_TEXT_BYTES, lines: true })
