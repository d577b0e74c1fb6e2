/**
 * The certificate with which a node's API speaks TLS when it was given none: made of the node's key and of names, equal bytes
 * each time, so that what pins it stays good. It carries the node's Ed25519 key, which has signed the certificate's own; that
 * binding is what `meshctl --pin` goes by. Keeps nothing, opens nothing. Made for node.ts, read by the client of meshctl.
 */

import { createECDH, createHash, createHmac, createPrivateKey, createPublicKey, hkdfSync } from 'node:crypto'
import type { KeyObject, X509Certificate } from 'node:crypto'
import { isIP, isIPv4 } from 'node:net'
import { verifySignature, type KeyPair } from '../core/envelope.ts'

/** PEM. */
export interface CertificatePair {
  readonly certPem: string
  readonly keyPem: string
}

/** Names that always lead to this host. */
const LOCAL = ['localhost', '127.0.0.1', '::1']
const WILDCARDS: readonly string[] = ['', '0.0.0.0', '::']

/**
 * A P-256 key, since browsers speak no Ed25519, and its self-signed certificate, with the node's key as common name. Valid for ever.
 * @param addresses where the API may be asked for: hosts, or `host:port`. Only settings: what an interface happens to have would change the bytes.
 */
export function nodeCertificate(node: KeyPair, addresses: readonly string[]): CertificatePair {
  const secret = tlsKey(node.seed)
  const key = keyObject(secret)
  const spki = spkiOf(createPublicKey(key))
  const hosts = addresses.map(hostOf).filter((host) => !WILDCARDS.includes(host))
  const names = [...new Set([...hosts, ...LOCAL])].map(generalName)
  const subject = sequence(der(TAG.set, sequence(OID.commonName, text(node.publicKey))))
  const rest = [
    ECDSA_SHA256,
    subject,
    sequence(der(TAG.utcTime, Buffer.from('700101000000Z')), der(TAG.time, Buffer.from('99991231235959Z'))),
    subject,
    spki,
    der(
      TAG.extensions,
      sequence(
        // The first, where libp2p's own reader looks for it.
        extension(OID.signedKey, signedKey(node, spki)),
        extension(OID.subjectAltName, sequence(...names)),
        extension(OID.extKeyUsage, sequence(OID.serverAuth)),
      ),
    ),
  ]
  // Browsers refuse two certificates of one issuer with one number, so other names bring another.
  const serial = createHash('sha256').update(Buffer.concat(rest)).digest().subarray(0, SERIAL_BYTES)
  const body = sequence(VERSION_3, integer(serial), ...rest)
  const signed = sequence(body, ECDSA_SHA256, bits(signEcdsa(secret, body)))
  return {
    certPem: `-----BEGIN CERTIFICATE-----\n${signed.toString('base64').replaceAll(/.{1,64}/g, '$&\n')}-----END CERTIFICATE-----\n`,
    keyPem: key.export({ format: 'pem', type: 'pkcs8' }) as string,
  }
}

/**
 * The node's key that a certificate proves to be bound to; undefined when it is bound to none. Whoever speaks TLS with it holds
 * its private key, so it is that node, or one whose private keys lie open.
 */
export function certifiedKey(certificate: X509Certificate): string | undefined {
  const { raw } = certificate
  // Where in the certificate these bytes stand proves nothing and need not be known: what counts is what was signed.
  const start = raw.indexOf(SIGNED_KEY_HEAD) + SIGNED_KEY_HEAD.length
  if (start < SIGNED_KEY_HEAD.length) return undefined
  const key = raw.subarray(start, start + KEY_BYTES).toString('hex')
  const signature = raw.subarray(start + KEY_BYTES + SIGNATURE_HEAD.length).subarray(0, SIGNATURE_BYTES)
  try {
    const signed = Buffer.concat([BINDING_DOMAIN, spkiOf(certificate.publicKey)])
    return verifySignature(key, signed, signature.toString('hex')) ? key : undefined
  } catch {
    // Its own key is none, or of a kind that node:crypto does not know.
    return undefined
  }
}

// ---------------------------------------------------------------------------------------------- the key

/** The order of P-256. */
const ORDER = 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551n
const KEY_BYTES = 32
/** 128 bits more than the order has, so that what the remainder prefers is nothing (FIPS 186-5, A.2.1). */
const CANDIDATE_BYTES = 48

/** A scalar from 1 to the order - 1. */
function tlsKey(seed: Uint8Array): Buffer {
  const candidate = Buffer.from(hkdfSync('sha256', seed, '', 'nxmesh/v1/api-tls', CANDIDATE_BYTES))
  return fixed((number(candidate) % (ORDER - 1n)) + 1n)
}

/** Of a scalar times the generator: x and y. */
function point(secret: Uint8Array): readonly [Buffer, Buffer] {
  const curve = createECDH('prime256v1')
  curve.setPrivateKey(secret)
  const uncompressed = curve.getPublicKey()
  return [uncompressed.subarray(1, 1 + KEY_BYTES), uncompressed.subarray(1 + KEY_BYTES)]
}

function keyObject(secret: Buffer): KeyObject {
  const [x, y] = point(secret).map((half) => half.toString('base64url')) as [string, string]
  return createPrivateKey({
    key: { kty: 'EC', crv: 'P-256', d: secret.toString('base64url'), x, y },
    format: 'jwk',
  })
}

function spkiOf(key: KeyObject): Buffer {
  return key.export({ format: 'der', type: 'spki' })
}

// ---------------------------------------------------------------------------------------------- the signature

/**
 * ECDSA over P-256 and SHA-256 with the nonce of RFC 6979, in DER. node:crypto draws the nonce, which would make another
 * certificate at each start; for what is signed once and shown to everybody this is enough.
 * @param secret 32 bytes: a scalar from 1 to the order - 1.
 */
export function signEcdsa(secret: Uint8Array, message: Uint8Array): Buffer {
  const digest = number(createHash('sha256').update(message).digest()) % ORDER
  for (const nonce of nonces(secret, digest)) {
    const r = number(point(fixed(nonce))[0]) % ORDER
    const s = (inverse(nonce) * ((digest + r * number(secret)) % ORDER)) % ORDER
    if (r !== 0n && s !== 0n) return sequence(integer(fixed(r)), integer(fixed(s)))
  }
  throw new Error('unreachable')
}

/** RFC 6979, 3.2. */
function* nonces(secret: Uint8Array, digest: bigint): Generator<bigint> {
  let key = Buffer.alloc(KEY_BYTES, 0)
  let value = Buffer.alloc(KEY_BYTES, 1)
  const hmac = (...parts: readonly Uint8Array[]): Buffer<ArrayBuffer> =>
    Buffer.from(createHmac('sha256', key).update(Buffer.concat(parts)).digest())
  for (const step of [0, 1]) {
    key = hmac(value, Buffer.from([step]), secret, fixed(digest))
    value = hmac(value)
  }
  for (;;) {
    value = hmac(value)
    const nonce = number(value)
    if (nonce > 0n && nonce < ORDER) yield nonce
    key = hmac(value, Buffer.from([0]))
    value = hmac(value)
  }
}

/** Modulo the order, by Euclid. */
function inverse(of: bigint): bigint {
  let [a, b, x, y] = [of, ORDER, 1n, 0n]
  while (b !== 0n) {
    const quotient = a / b
    ;[a, b, x, y] = [b, a - quotient * b, y, x - quotient * y]
  }
  return ((x % ORDER) + ORDER) % ORDER
}

function number(bytes: Uint8Array): bigint {
  return BigInt(`0x${Buffer.from(bytes).toString('hex')}`)
}

function fixed(value: bigint): Buffer {
  return Buffer.from(value.toString(16).padStart(2 * KEY_BYTES, '0'), 'hex')
}

// ---------------------------------------------------------------------------------------------- the binding

/** The extension, its form and what is signed are those of libp2p's TLS specification: a node's key is a libp2p key. */
const BINDING_DOMAIN = Buffer.from('libp2p-tls-handshake:')
/** The head of libp2p's protobuf for a key: type Ed25519, 32 bytes. */
const KEY_HEAD = Buffer.from('08011220', 'hex')
const SIGNATURE_BYTES = 64
/** Of a string of 64 bytes. */
const SIGNATURE_HEAD = Buffer.from('0440', 'hex')

function signedKey(node: KeyPair, spki: Uint8Array): Buffer {
  const signature = Buffer.from(node.sign(Buffer.concat([BINDING_DOMAIN, spki])), 'hex')
  return sequence(octets(KEY_HEAD, Buffer.from(node.publicKey, 'hex')), octets(signature))
}

// ---------------------------------------------------------------------------------------------- DER

const TAG = {
  integer: 0x02,
  bits: 0x03,
  octets: 0x04,
  text: 0x0c,
  utcTime: 0x17,
  time: 0x18,
  sequence: 0x30,
  set: 0x31,
  version: 0xa0,
  extensions: 0xa3,
  dnsName: 0x82,
  ipAddress: 0x87,
} as const

/** Whole, with tag and length. */
const OID = {
  /** 2.5.4.3 */
  commonName: Buffer.from('0603550403', 'hex'),
  /** 2.5.29.17 */
  subjectAltName: Buffer.from('0603551d11', 'hex'),
  /** 2.5.29.37 */
  extKeyUsage: Buffer.from('0603551d25', 'hex'),
  /** 1.3.6.1.5.5.7.3.1 */
  serverAuth: Buffer.from('06082b06010505070301', 'hex'),
  /** 1.2.840.10045.4.3.2 */
  ecdsaWithSha256: Buffer.from('06082a8648ce3d040302', 'hex'),
  /** 1.3.6.1.4.1.53594.1.1, libp2p's SignedKey. */
  signedKey: Buffer.from('060a2b0601040183a25a0101', 'hex'),
} as const

const ECDSA_SHA256 = sequence(OID.ecdsaWithSha256)
const VERSION_3 = der(TAG.version, integer(Buffer.from([2])))
/** Of at most 20. */
const SERIAL_BYTES = 16
/** What stands before the key in the extension, which has one length. */
const SIGNED_KEY_HEAD = Buffer.concat([OID.signedKey, Buffer.from('046a30680424', 'hex'), KEY_HEAD])

/** Of at most 65,535 bytes. */
function der(tag: number, ...parts: readonly Uint8Array[]): Buffer {
  const content = Buffer.concat(parts)
  const { length } = content
  const size = length < 0x80 ? [length] : length < 0x100 ? [0x81, length] : [0x82, length >> 8, length & 0xff]
  return Buffer.concat([Buffer.from([tag, ...size]), content])
}

function sequence(...parts: readonly Uint8Array[]): Buffer {
  return der(TAG.sequence, ...parts)
}

function octets(...parts: readonly Uint8Array[]): Buffer {
  return der(TAG.octets, ...parts)
}

function bits(content: Uint8Array): Buffer {
  return der(TAG.bits, Buffer.from([0]), content)
}

function text(content: string): Buffer {
  return der(TAG.text, Buffer.from(content))
}

/** Not negative. */
function integer(bytes: Uint8Array): Buffer {
  const first = bytes.findIndex((byte) => byte !== 0)
  const digits = bytes.subarray(first < 0 ? bytes.length - 1 : first)
  return der(TAG.integer, Buffer.from((digits[0] as number) < 0x80 ? [] : [0]), digits)
}

function extension(oid: Uint8Array, value: Uint8Array): Buffer {
  return sequence(oid, octets(value))
}

function generalName(host: string): Buffer {
  return isIP(host) === 0 ? der(TAG.dnsName, Buffer.from(host)) : der(TAG.ipAddress, ipBytes(host))
}

function ipBytes(address: string): Buffer {
  if (isIPv4(address)) return Buffer.from(address.split('.').map(Number))
  const words = (part = ''): number[] => (part === '' ? [] : part.split(':').map((word) => Number.parseInt(word, 16)))
  // A URL holds it in the one form that has at most one gap and no dotted end.
  const [left, right] = new URL(`http://[${address}]`).hostname.slice(1, -1).split('::').map(words)
  const [head, tail] = [left ?? [], right ?? []]
  const gap = Array.from({ length: 8 - head.length - tail.length }, () => 0)
  return Buffer.from([...head, ...gap, ...tail].flatMap((word) => [word >> 8, word & 0xff]))
}

/** `[::1]:9102`, `10.0.0.1:9102`, `::1` and the like without brackets and port. */
function hostOf(address: string): string {
  if (isIP(address) !== 0) return address
  const [, bracketed, plain] = /^(?:\[([^\]]+)\]|([^:]+))(?::\d+)?$/.exec(address) ?? []
  return bracketed ?? plain ?? ''
}
