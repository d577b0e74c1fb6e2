/**
 * The policy type `mtls`: which clients may come in by their certificates. Listeners ask for these and verify them
 * (`tls.clientCertificate`); where that is optional, this makes it a duty for a site or a route. Pure. Part of the kind
 * Policy; nginx is told in src/nginx/rendering/policies/mtls.ts.
 */

import { z } from 'zod'
import { text } from '../fields.ts'
import type { PolicyType } from './policy-type.ts'

const SUBJECTS_MAX = 256

const subject = text((value) => {
  if (/^[A-Za-z0-9.]+=./.test(value)) return undefined
  const hint = 'write it as openssl x509 -noout -subject -nameopt RFC2253 does: CN=ana,O=example'
  return { message: 'is not a distinguished name', hint }
})

const schema = z.strictObject({
  /** Distinguished names as in RFC 2253, to the letter. Whoever the listener's authorities vouch for when left out. */
  subjects: z.array(subject).min(1).max(SUBJECTS_MAX).optional(),
})

export type MtlsSpec = z.output<typeof schema>

export const mtls = { schema, sets: [['subjects']], items: [[]] } as const satisfies PolicyType<MtlsSpec>
