/**
 * Sealed secrets: a text encrypted once (ChaCha20-Poly1305), its key wrapped for each recipient (ephemeral X25519,
 * HKDF-SHA-256), as flat fields of a Secret. Bound to path and version, so nothing sealed can be moved elsewhere or mixed.
 * Pure: randomness is passed in; plaintext only comes and goes as arguments. DESIGN: secrets.
 */

import {
  createCipheriv,
  createDecipheriv,
  createPrivateKey,
  createPublicKey,
  diffieHellman,
  hkdfSync,
  type KeyObject,
} from 'node:crypto'
import { MeshError } from '../errors.ts'
import { isHex, type Value } from './envelope.ts'

/** Bytes of a plaintext: what fits into one edit with the keys of some hundred recipients. */
export const SECRET_BYTES_MAX = 24 * 1024

/** Field that holds `[version, ciphertext...]`: version 32 hex digits, then base64url of nonce, ciphertext and tag, cut up. */
export const SEALED_FIELD = 'sealed'
/** Of the fields `keys/<version>/<recipient>` that hold the wrapped key. */
export const KEYS_PREFIX = 'keys/'
const PART_CHARS = 8_000
const VERSION_BYTES = 16
const KEY_BYTES = 32
const NONCE_BYTES = 12
const TAG_BYTES = 16
const CIPHER = 'chacha20-poly1305'
/** Each wrapping key is used once. */
const ZERO_NONCE = Buffer.alloc(NONCE_BYTES)
const PKCS8_PREFIX = Buffer.from('302e020100300506032b656e04220420', 'hex')
const SPKI_PREFIX = Buffer.from('302a300506032b656e032100', 'hex')

type Fields = ReadonlyMap<string, Value>

/** An X25519 key pair. */
export interface EncryptionKey {
  /** 64 hex digits: `enc` of a grant. */
  readonly publicKey: string
  readonly privateKey: KeyObject
}

/** Any key: whether a public key is fit depends on that one alone. */
const PROBE = encryptionKey(Buffer.alloc(KEY_BYTES, 1))

/** What a holder of this Ed25519 seed receives secrets with. Equal seeds give equal keys. */
export function encryptionKey(seed: Uint8Array): EncryptionKey {
  return keyPairFrom(Buffer.from(hkdfSync('sha256', seed, '', 'nxmesh/v1/x25519', KEY_BYTES)))
}

export interface Sealing {
  /** Of the resource. */
  readonly path: string
  /** Public keys, 64 hex digits. */
  readonly recipients: readonly string[]
  /** That many unpredictable bytes. */
  readonly random: (bytes: number) => Uint8Array
}

/**
 * The fields of a new version of a secret. Those of an older one (`versionsIn`) are to be deleted with it.
 * @throws MeshError `input_invalid` when the text is too long, or a recipient's key is none
 */
export function seal(plaintext: Uint8Array, { path, recipients, random }: Sealing): Map<string, Value> {
  if (plaintext.length > SECRET_BYTES_MAX) {
    throw new MeshError('input_invalid', `a secret of ${plaintext.length} bytes is over ${SECRET_BYTES_MAX}`, {
      hint: 'Split it into several secrets.',
    })
  }
  const version = Buffer.from(random(VERSION_BYTES)).toString('hex')
  const key = random(KEY_BYTES)
  const nonce = random(NONCE_BYTES)
  const text = Buffer.concat([nonce, encrypt(key, nonce, plaintext, context('secret', path, version))])
  const parts = text.toString('base64url').match(new RegExp(`.{1,${PART_CHARS}}`, 'g')) ?? []
  return new Map<string, Value>([
    [SEALED_FIELD, [version, ...parts]],
    ...wraps(key, version, { path, recipients, random }),
  ])
}

/**
 * The fields that let more recipients open the present version; made by one who can.
 * @throws MeshError `denied` when this key cannot open it
 */
export function rewrap(fields: Fields, own: EncryptionKey, sealing: Sealing): Map<string, Value> {
  const { version, key } = unwrap(fields, sealing.path, own)
  return wraps(key, version, sealing)
}

/**
 * The plaintext.
 * @throws MeshError `denied` when this key is not among the recipients, `input_invalid` when what is sealed was tampered with
 */
export function open(fields: Fields, path: string, own: EncryptionKey): Buffer {
  const { version, key, sealed } = unwrap(fields, path, own)
  const text = Buffer.from(sealed.join(''), 'base64url')
  return decrypt(key, text.subarray(0, NONCE_BYTES), text.subarray(NONCE_BYTES), context('secret', path, version))
}

/** Who can open the present version: public keys, sorted. Nobody when nothing is sealed there as it should be. */
export function recipientsIn(fields: Fields): string[] {
  const version = versionIn(fields)
  if (version === undefined) return []
  const prefix = `${KEYS_PREFIX}${version}/`
  return [...fields.keys()].filter((field) => field.startsWith(prefix)).map((field) => field.slice(prefix.length))
}

/** Every key that a version here is sealed for, an older one too: whose holders may have read it. Sorted, each once. */
export function everSealedFor(fields: Fields): string[] {
  return [...new Set(keyFieldsIn(fields).map((field) => field.slice(field.lastIndexOf('/') + 1)))].toSorted()
}

/** The present version; undefined when nothing is sealed as it should be. */
export function versionIn(fields: Fields): string | undefined {
  return splitSealed(fields)?.version
}

/** Whether something can be sealed for a key: not for one of small order, which everybody could open. */
export function canReceive(publicKey: string): boolean {
  try {
    agree(PROBE.privateKey, publicKey)
    return true
  } catch {
    return false
  }
}

/** Fields of wrapped keys, of all versions: concurrent sealings leave more than one. */
export function keyFieldsIn(fields: Fields): string[] {
  return [...fields.keys()].filter((field) => field.startsWith(KEYS_PREFIX))
}

function wraps(key: Uint8Array, version: string, { path, recipients, random }: Sealing): Map<string, Value> {
  return new Map(
    recipients.map((recipient) => {
      const ephemeral = keyPairFrom(Buffer.from(random(KEY_BYTES)))
      const wrapped = encrypt(
        wrappingKey(ephemeral.privateKey, recipient, ephemeral.publicKey, recipient),
        ZERO_NONCE,
        key,
        context('key', path, version),
      )
      const text = Buffer.concat([Buffer.from(ephemeral.publicKey, 'hex'), wrapped]).toString('base64url')
      return [`${KEYS_PREFIX}${version}/${recipient}`, text]
    }),
  )
}

function unwrap(fields: Fields, path: string, own: EncryptionKey) {
  const { version, sealed } = sealedOf(fields)
  const wrap = fields.get(`${KEYS_PREFIX}${version}/${own.publicKey}`)
  if (typeof wrap !== 'string') {
    throw new MeshError('denied', `${path} is not sealed for the key ${own.publicKey}`, {
      hint: 'Whoever can open it runs: meshctl secret reseal',
    })
  }
  const bytes = Buffer.from(wrap, 'base64url')
  const ephemeral = bytes.subarray(0, KEY_BYTES).toString('hex')
  const shared = wrappingKey(own.privateKey, ephemeral, ephemeral, own.publicKey)
  const key = decrypt(shared, ZERO_NONCE, bytes.subarray(KEY_BYTES), context('key', path, version))
  return { version, sealed, key }
}

function sealedOf(fields: Fields): { version: string; sealed: readonly string[] } {
  const split = splitSealed(fields)
  if (split === undefined) throw tampered()
  return split
}

function splitSealed(fields: Fields): { version: string; sealed: readonly string[] } | undefined {
  const value = fields.get(SEALED_FIELD)
  const [version, ...sealed] = Array.isArray(value) ? (value as readonly unknown[]) : []
  if (!isHex(version, 2 * VERSION_BYTES) || sealed.some((part) => typeof part !== 'string')) return undefined
  return { version, sealed: sealed as string[] }
}

/** The key that only the holders of either private key come to. */
function wrappingKey(privateKey: KeyObject, peer: string, ephemeral: string, recipient: string): Uint8Array {
  const salt = Buffer.from(ephemeral + recipient, 'hex')
  return new Uint8Array(hkdfSync('sha256', agree(privateKey, peer), salt, 'nxmesh/v1/wrap', KEY_BYTES))
}

/** The X25519 secret that two keys share. @throws MeshError `input_invalid` when the peer’s is no key, or one of small order. */
export function agree(privateKey: KeyObject, peer: string): Buffer {
  try {
    const key = Buffer.concat([SPKI_PREFIX, Buffer.from(peer, 'hex')])
    return diffieHellman({ privateKey, publicKey: createPublicKey({ key, format: 'der', type: 'spki' }) })
  } catch (error) {
    // Also a key of small order, with which the secret would be sealed for everybody.
    throw new MeshError('input_invalid', `${peer.slice(0, 64)} is not an X25519 public key`, { field: 'enc' }, error)
  }
}

function context(what: string, path: string, version: string): Buffer {
  return Buffer.from(`nxmesh/v1/${what}\0${path}\0${version}`)
}

function encrypt(key: Uint8Array, nonce: Uint8Array, plaintext: Uint8Array, about: Uint8Array): Buffer {
  const cipher = createCipheriv(CIPHER, key, nonce, { authTagLength: TAG_BYTES })
  cipher.setAAD(about, { plaintextLength: plaintext.length })
  return Buffer.concat([cipher.update(plaintext), cipher.final(), cipher.getAuthTag()])
}

function decrypt(key: Uint8Array, nonce: Uint8Array, text: Uint8Array, about: Uint8Array): Buffer {
  const end = text.length - TAG_BYTES
  if (end < 0 || nonce.length !== NONCE_BYTES) throw tampered()
  try {
    const decipher = createDecipheriv(CIPHER, key, nonce, { authTagLength: TAG_BYTES })
    decipher.setAAD(about, { plaintextLength: end })
    decipher.setAuthTag(text.subarray(end))
    return Buffer.concat([decipher.update(text.subarray(0, end)), decipher.final()])
  } catch (error) {
    throw tampered(error)
  }
}

function tampered(cause?: unknown): MeshError {
  return new MeshError('input_invalid', 'what is sealed here was not sealed for this path and version', {}, cause)
}

function keyPairFrom(scalar: Uint8Array): EncryptionKey {
  const privateKey = createPrivateKey({ key: Buffer.concat([PKCS8_PREFIX, scalar]), format: 'der', type: 'pkcs8' })
  const spki = createPublicKey(privateKey).export({ format: 'der', type: 'spki' })
  return { publicKey: spki.subarray(SPKI_PREFIX.length).toString('hex'), privateKey }
}
