/**
 * The kind Secret: a text that only its recipients can read. What lies in it is made and opened by src/core/secrets.ts;
 * people use `meshctl secret`. Nodes hold all secrets of the mesh, sealed.
 */

import { z } from 'zod'
import { labels, matching, text } from './fields.ts'
import type { Kind } from './kind.ts'

const base64url = (maxBytes: number) => text(matching(/^[A-Za-z0-9_-]*$/, 'must be base64url'), { maxBytes })
const hex = (digits: number) =>
  text(matching(new RegExp(`^[0-9a-f]{${digits}}$`), `must be ${digits} lower-case hex digits`))

const schema = z.strictObject({
  nodeSelector: labels.optional(),
  /** Version and ciphertext. */
  sealed: z.array(base64url(8_192)).min(2).max(64),
  /** The wrapped key, by version and X25519 public key of the recipient. */
  keys: z.record(hex(32), z.record(hex(64), base64url(256))).default({}),
})

export type SecretSpec = z.output<typeof schema>

export const secretKind = {
  kind: 'Secret',
  path: 'secret',
  plural: 'secrets',
  schema,
  sets: [],
  items: [],
} as const satisfies Kind<SecretSpec>
