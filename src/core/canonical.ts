/**
 * Canonical JSON (RFC 8785) for the subset that envelopes use: objects, arrays, well-formed strings, safe
 * integers, booleans and null. Equal values give equal bytes on every node, so that ids and hashes agree.
 */

import { createHash } from 'node:crypto'

export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json }

/** Deeper nesting has no canonical form, so that no input can exhaust the stack. */
const DEPTH_MAX = 64

/**
 * The canonical text of a value.
 * @throws TypeError for what the subset excludes: fractions, unsafe integers, -0, lone surrogates, undefined, and nesting
 * deeper than 64.
 */
export function canonical(value: Json): string {
  return write(value, 0)
}

function write(value: Json, depth: number): string {
  switch (typeof value) {
    case 'string':
      if (!value.isWellFormed()) throw new TypeError('a string with a lone surrogate has no canonical form')
      return JSON.stringify(value)
    case 'number':
      if (!Number.isSafeInteger(value) || Object.is(value, -0)) throw new TypeError(`${value} is not a safe integer`)
      return String(value)
    case 'boolean':
      return value ? 'true' : 'false'
    case 'object': {
      if (value === null) return 'null'
      if (depth === DEPTH_MAX) throw new TypeError(`nested deeper than ${DEPTH_MAX}`)
      if (Array.isArray(value)) return `[${value.map((item: Json) => write(item, depth + 1)).join(',')}]`
      const object = value as { readonly [key: string]: Json }
      // RFC 8785 sorts by UTF-16 code units, which is what the default sort compares.
      const members = Object.keys(object)
        .toSorted()
        .map((key) => `${write(key, depth)}:${write(object[key] as Json, depth + 1)}`)
      return `{${members.join(',')}}`
    }
    default:
      throw new TypeError(`a ${typeof value} has no canonical form`)
  }
}

/** SHA-256 as 64 hex digits. */
export function sha256(data: string | Uint8Array): string {
  return createHash('sha256').update(data).digest('hex')
}
