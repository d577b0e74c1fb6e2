/**
 * The policy type `jwt`: requests must carry a JSON Web Token that one of the keys signed. Each key is for one algorithm
 * alone, so that no token chooses how it is looked at. Pure. Part of the kind Policy; nginx is told in
 * src/nginx/rendering/policies/jwt.ts.
 */

import { createPublicKey, type KeyObject } from 'node:crypto'
import { z } from 'zod'
import { variableName } from '../conditions.ts'
import { atMost, integer, key, reference, requestHeaderName, text, type Fault } from '../fields.ts'
import type { PolicyType } from './policy-type.ts'

const KEYS_MAX = 16
const RSA_BITS_MIN = 2048

const claimName = text((value) => (value === '' ? { message: 'is empty' } : undefined), { maxBytes: 128 })
const words = z.array(text((value) => (value === '' ? { message: 'is empty' } : undefined))).min(1)

const jwtKey = z
  .strictObject({
    alg: z.enum(['HS256', 'RS256', 'ES256']),
    /** With HS256: a Secret of at least 32 bytes, looked up from the policy's zone outward. */
    secret: reference.optional(),
    /** Otherwise: PEM (BEGIN PUBLIC KEY), or one JWK as JSON. */
    publicKey: text(undefined, { maxBytes: 4096, lines: true }).optional(),
  })
  .superRefine(({ alg, secret, publicKey }, context) => {
    const fault = alg === 'HS256' ? judgeSecret(secret, publicKey) : judgePublicKey(alg, secret, publicKey)
    if (fault !== undefined) context.addIssue({ code: 'custom', message: fault.message, params: { hint: fault.hint } })
  })

function judgeSecret(secret: string | undefined, publicKey: string | undefined): Fault | undefined {
  if (secret !== undefined && publicKey === undefined) return undefined
  return { message: 'with HS256 has a secret, and no publicKey', hint: 'write it like { alg: HS256, secret: NAME }' }
}

function judgePublicKey(alg: string, secret: string | undefined, publicKey: string | undefined): Fault | undefined {
  if (publicKey === undefined || secret !== undefined)
    return { message: `with ${alg} has a publicKey, and no secret`, hint: 'write it as PEM, or as one JWK' }
  const found = readPublicKey(publicKey)
  if (found === undefined) return { message: 'has no public key in publicKey', hint: 'write it as PEM, or as one JWK' }
  const { modulusLength = 0, namedCurve } = found.asymmetricKeyDetails ?? {}
  if (alg === 'ES256')
    return namedCurve === 'prime256v1' ? undefined : { message: 'with ES256 has a key on the curve P-256' }
  return found.asymmetricKeyType === 'rsa' && modulusLength >= RSA_BITS_MIN
    ? undefined
    : { message: `with RS256 has an RSA key of at least ${RSA_BITS_MIN} bits` }
}

/** The key of PEM or of a JWK; undefined for what is none, or is private. */
export function readPublicKey(value: string): KeyObject | undefined {
  if (value.includes('PRIVATE KEY') || /"d"\s*:/.test(value)) return undefined
  try {
    const isJwk = value.trimStart().startsWith('{')
    return createPublicKey(isJwk ? { key: JSON.parse(value) as Record<string, string>, format: 'jwk' } : value)
  } catch {
    return undefined
  }
}

const schema = z.strictObject({
  /** Where the token stands; after `Bearer` in Authorization when left out. */
  cookie: variableName.optional(),
  /** By the `kid` of tokens. A token without one, or with one that is not here, is tried with all of its algorithm. */
  keys: atMost(KEYS_MAX, key, jwtKey).refine((keys) => Object.keys(keys).length > 0, { message: 'has no key' }),
  /** Any one of these must be `iss`; anything when left out. */
  issuers: words.max(16).optional(),
  /** Any one of these must be `aud`, or be in it; anything when left out. */
  audiences: words.max(16).optional(),
  /** Whether a token must say when it expires. */
  requireExp: z.boolean().default(true),
  /** By how many seconds clocks may differ. */
  leewaySeconds: integer(0, 600).default(30),
  /** Headers for the site's upstream, and the claims that they tell; a client's own of these names never get there. */
  headers: atMost(16, requestHeaderName, claimName).optional(),
})

export type JwtSpec = z.output<typeof schema>

export const jwt = { schema, sets: [['issuers'], ['audiences']], items: [] } as const satisfies PolicyType<JwtSpec>
