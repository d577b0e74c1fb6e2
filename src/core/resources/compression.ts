/** Which answers a site compresses. Pure; part of the kind Site, and of the defaults of sites. */

import { z } from 'zod'
import { integer, text } from './fields.ts'

const mediaType = text(
  (value) => {
    if (/^[a-z0-9][a-z0-9.+-]*\/[a-z0-9][a-z0-9.+-]*$/.test(value)) return undefined
    return { message: 'is not a media type', hint: 'write it like text/css, without parameters' }
  },
  { maxBytes: 128 },
)
const COMPRESSED_TYPES = [
  'application/javascript',
  'application/json',
  'application/manifest+json',
  'application/xml',
  'image/svg+xml',
  'text/css',
  'text/javascript',
  'text/plain',
  'text/xml',
]

export const compression = z.strictObject({
  enabled: z.boolean().default(true),
  /** Beside text/html, which nginx always compresses. */
  types: z.array(mediaType).max(64).default(COMPRESSED_TYPES),
  /** In bytes; what is shorter, as its Content-Length says, is sent as it is. */
  minLength: integer(0, 1_000_000_000).default(1024),
})
