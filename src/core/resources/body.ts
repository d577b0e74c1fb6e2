/**
 * Bodies that are written in a resource and sent as they are, with what they are. Building blocks of the kind Site.
 */

import { text } from './fields.ts'

export const contentType = text(
  (value) => {
    if (/^[a-z0-9.+-]+\/[a-z0-9.+-]+(?:; ?[a-z]+=[A-Za-z0-9-]+)*$/.test(value)) return undefined
    return { message: 'is not a content type', hint: 'write it like text/html; charset=utf-8' }
  },
  { maxBytes: 128 },
)

/** Sent as it is; $ has no meaning in it. */
export const fixedBody = text(undefined, { maxBytes: 3500, lines: true })
