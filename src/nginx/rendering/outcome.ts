/**
 * What becomes of rendering one resource: a unit, or why there is none. Called by render.ts and those that it asks.
 */

import { sha256 } from '../../core/canonical.ts'
import type { Problem } from '../../core/slice.ts'
import { UnquotableError } from './quote.ts'
import type { Unit } from './unit.ts'

export type Outcome = Unit | Problem

/** The unit with the text that is made, unless nginx cannot be told of a value in it. */
export function unitOf(about: Omit<Unit, 'text' | 'digest'>, make: () => string): Outcome {
  return quotable(about.path, () => withText(about, make()))
}

export function withText(about: Omit<Unit, 'text' | 'digest'>, text: string): Unit {
  return { ...about, text, digest: sha256(text) }
}

/** What is made, unless nginx cannot be told of a value in it. */
export function quotable<T>(path: string, make: () => T): T | Problem {
  try {
    return make()
  } catch (error) {
    if (!(error instanceof UnquotableError)) throw error
    const message = `nginx cannot take ${error.message}`
    return { path, code: 'unsupported', message, hint: 'serve long texts as static files' }
  }
}
