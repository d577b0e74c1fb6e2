/**
 * Tokens with which people and programs read the API: JSON Web Tokens (RFC 7519) signed with the reader's own Ed25519 key
 * (EdDSA, RFC 8037), so any node can check one and no node keeps sessions. Says whose a token is, never what that key may
 * read: policy.ts does. Pure; made by the CLI, checked by the API.
 */

import { isHex, verifySignature, type KeyPair } from './envelope.ts'

/** Seconds; texts in characters. */
export const TOKEN_LIMITS = {
  /** From `iat` to `exp`. A token cannot be taken back, except with its key. */
  lifetime: 3_600,
  /** By which the clocks of reader and node may differ. */
  leeway: 60,
  chars: 2_048,
} as const

/** The claims that are read; others are ignored, as RFC 7519 asks. Times in seconds since the epoch. */
interface Claims {
  /** The reader's public key, 64 hex digits. */
  readonly iss: string
  /** Mesh id. */
  readonly aud: string
  readonly iat: number
  readonly nbf?: number
  readonly exp: number
  /** Public key of the one node that may sign edits for the reader. A token for reading is shown to any node, and must not be of use to it elsewhere. */
  readonly edit?: string
}

const HEADER = { alg: 'EdDSA', typ: 'JWT' } as const

/**
 * A token for one mesh.
 * @param now ms since the epoch
 * @param lifetime seconds, at most TOKEN_LIMITS.lifetime
 * @param edit public key of the node that may sign edits for its holder; undefined: none may
 */
export function signToken(key: KeyPair, mesh: string, now: number, lifetime: number, edit?: string): string {
  const iat = Math.floor(now / 1000)
  const only = edit === undefined ? {} : { edit }
  const claims: Claims = { iss: key.publicKey, aud: mesh, iat, exp: iat + lifetime, ...only }
  const signed = `${encode(HEADER)}.${encode(claims)}`
  return `${signed}.${Buffer.from(key.sign(Buffer.from(signed)), 'hex').toString('base64url')}`
}

/** Whose a token is, when it ends (ms since the epoch, the leeway in it), and for edits at which node; or why it counts for nothing. */
export type TokenAnswer =
  | { readonly key: string; readonly until: number; readonly edit: string | undefined }
  | { readonly fault: string }

/** @param now ms since the epoch, by this node's clock */
export function checkToken(token: string, mesh: string, now: number): TokenAnswer {
  const parts = token.length <= TOKEN_LIMITS.chars ? token.split('.') : []
  const [header, payload, signature] = parts.map(decode)
  if (parts.length !== 3 || header === undefined || payload === undefined || signature === undefined)
    return fault('is not three parts in base64url')
  const { alg, crit } = parseObject(header)
  // Whatever a token says of its own algorithm, one alone is checked.
  if (alg !== HEADER.alg || crit !== undefined) return fault(`has another algorithm than ${HEADER.alg}`)
  const claims = parseObject(payload)
  if (!areClaims(claims)) return fault('lacks one of iss, aud, iat and exp')
  const { iss, aud, iat, nbf = iat, exp, edit } = claims
  if (!verifySignature(iss, Buffer.from(`${parts[0]}.${parts[1]}`), signature.toString('hex')))
    return fault('has a signature that is not by its iss')
  if (aud !== mesh) return fault(`is for mesh ${aud}, and this is ${mesh}`)
  if (exp - iat > TOKEN_LIMITS.lifetime) return fault(`lives for over ${TOKEN_LIMITS.lifetime} seconds`)
  const seconds = now / 1000
  const end = exp + TOKEN_LIMITS.leeway
  if (seconds > end) return fault('has expired')
  if (seconds < Math.max(nbf, iat) - TOKEN_LIMITS.leeway) return fault('is not valid yet: are both clocks right?')
  return { key: iss, until: end * 1000, edit: typeof edit === 'string' ? edit : undefined }
}

function areClaims(value: Partial<Record<string, unknown>>): value is Partial<Record<string, unknown>> & Claims {
  const { iss, aud, iat, nbf = 0, exp } = value
  return isHex(iss, 64) && typeof aud === 'string' && [iat, nbf, exp].every(Number.isSafeInteger)
}

function fault(what: string): TokenAnswer {
  return { fault: `the token ${what}` }
}

function encode(value: object): string {
  return Buffer.from(JSON.stringify(value)).toString('base64url')
}

/** Undefined when the text is not base64url in its one canonical form. */
function decode(text: string): Buffer | undefined {
  const bytes = Buffer.from(text, 'base64url')
  return text !== '' && bytes.toString('base64url') === text ? bytes : undefined
}

function parseObject(bytes: Buffer): Partial<Record<string, unknown>> {
  try {
    const value: unknown = JSON.parse(bytes.toString('utf8'))
    return typeof value === 'object' && value !== null && !Array.isArray(value) ? value : {}
  } catch {
    return {}
  }
}
