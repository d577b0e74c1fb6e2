/**
 * Text for terminals and files: tables, colours, escaping, YAML and JSON. What comes from peers is untrusted: no control
 * character of theirs reaches a terminal. Pure; called by every verb.
 */

import { Document, visit } from 'yaml'

/** Escape sequences drive terminals, line breaks forge lines, direction marks make text read as something else. */
const CONTROLS = /[\u0000-\u001f\u007f-\u009f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]/g
/** Those of them that JSON and double-quoted YAML would leave as they are. */
const UNQUOTED_CONTROLS = /[\u007f-\u009f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]/g

/** One line of text, with every control character as `\u001b`. */
export function plain(text: string): string {
  return text.replace(CONTROLS, escapeChar)
}

function escapeChar(char: string): string {
  return `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`
}

/** Several lines of somebody else's words, each escaped, each behind the indent. */
export function quoted(text: string, indent = '    '): string {
  return text
    .trimEnd()
    .split(/\r?\n/)
    .map((line) => `${indent}${plain(line)}\n`)
    .join('')
}

type Colour = (text: string) => string

export interface Paint {
  readonly red: Colour
  readonly green: Colour
  readonly yellow: Colour
  readonly dim: Colour
  readonly bold: Colour
}

/** Colours, or none at all. */
export function paint(isColoured: boolean): Paint {
  const code =
    (on: number): Colour =>
    (text) =>
      isColoured ? `\u001b[${on}m${text}\u001b[0m` : text
  return { red: code(31), green: code(32), yellow: code(33), dim: code(2), bold: code(1) }
}

/** A cell: its text, and optionally a colour that does not count for its width. */
export type Cell = string | { readonly text: string; readonly colour: Colour }

/** Columns aligned by two spaces. Cells are escaped here. */
export function table(headers: readonly string[], rows: readonly (readonly Cell[])[]): string {
  const cells = [headers, ...rows].map((row) => row.map(cellOf))
  const widths = headers.map((_, column) => Math.max(...cells.map((row) => row[column]?.text.length ?? 0)))
  return cells
    .map((row) => {
      const padded = row.map(({ text, colour }, column) => {
        const isLast = column === row.length - 1
        return colour(text) + (isLast ? '' : ' '.repeat((widths[column] as number) - text.length + 2))
      })
      return `${padded.join('').trimEnd()}\n`
    })
    .join('')
}

function cellOf(cell: Cell): { text: string; colour: Colour } {
  if (typeof cell === 'string') return { text: plain(cell), colour: (text) => text }
  return { text: plain(cell.text), colour: cell.colour }
}

/** A span of time in its largest unit: `3s`, `12m`, `5h`, `40d`. */
export function span(ms: number): string {
  const seconds = Math.max(0, Math.round(ms / 1000))
  if (seconds < 120) return `${seconds}s`
  const minutes = Math.round(seconds / 60)
  if (minutes < 120) return `${minutes}m`
  const hours = Math.round(minutes / 60)
  return hours < 48 ? `${hours}h` : `${Math.round(hours / 24)}d`
}

/** Enough of an id or a key to tell it from others by eye. */
export function short(hex: string): string {
  return hex.slice(0, 12)
}

export function toJson(value: unknown): string {
  return `${JSON.stringify(value, undefined, 2).replace(UNQUOTED_CONTROLS, escapeChar)}\n`
}

/** A YAML document that reads back as the same value. */
export function toYaml(value: unknown): string {
  const document = new Document(value, { aliasDuplicateObjects: false })
  visit(document, {
    Scalar(_, node) {
      // `search` starts anew each time, which `test` on a global expression does not.
      if (typeof node.value === 'string' && node.value.search(UNQUOTED_CONTROLS) !== -1) node.type = 'QUOTE_DOUBLE'
    },
  })
  return document.toString({ lineWidth: 0 }).replace(UNQUOTED_CONTROLS, escapeChar)
}
