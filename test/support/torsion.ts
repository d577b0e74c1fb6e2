/**
 * Keys and signatures at the edges of Ed25519, where libraries disagree: points of small order, and keys and nonces with a part
 * of small order in them, which only the rules of ZIP-215 settle. For tests that all nodes settle them alike.
 */

import { createHash } from 'node:crypto'
import * as noble from '@noble/ed25519'
import type { KeyPair } from '../../src/core/envelope.ts'

/** All encodings of the eight points of small order, six of them not canonical. */
export const SMALL_ORDER: readonly string[] = [
  '0000000000000000000000000000000000000000000000000000000000000000',
  '0000000000000000000000000000000000000000000000000000000000000080',
  '0100000000000000000000000000000000000000000000000000000000000000',
  '0100000000000000000000000000000000000000000000000000000000000080',
  'ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f',
  'ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff',
  'edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f',
  'edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff',
  'eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f',
  'eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff',
  '26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05',
  '26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85',
  'c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a',
  'c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa',
]

const ORDER = noble.Point.CURVE().n
const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex')
const littleEndian = (bytes: Uint8Array): bigint => BigInt(`0x${hex(bytes.toReversed()) || '0'}`)
const toBytes = (scalar: bigint): Uint8Array => Buffer.from(scalar.toString(16).padStart(64, '0'), 'hex').toReversed()
const sha512 = (...parts: Uint8Array[]): bigint =>
  littleEndian(createHash('sha512').update(Buffer.concat(parts)).digest()) % ORDER

/** A key with torsion in it, whose signatures have torsion in R; both by the equation alone. Torsion: one of SMALL_ORDER. */
export function mixedOrderKey(keyTorsion: string, nonceTorsion: string): KeyPair {
  const torsion = (encoded: string): noble.Point => noble.Point.fromBytes(Buffer.from(encoded, 'hex'), true)
  const secret = sha512(Buffer.from('secret'), Buffer.from(keyTorsion))
  const key = noble.Point.BASE.multiply(secret).add(torsion(keyTorsion)).toBytes()
  return {
    publicKey: hex(key),
    // Of no use: the key was not made from one.
    seed: new Uint8Array(32),
    sign(message) {
      const nonce = sha512(Buffer.from('nonce'), message)
      const commitment = noble.Point.BASE.multiply(nonce).add(torsion(nonceTorsion)).toBytes()
      const scalar = (nonce + sha512(commitment, key, message) * secret) % ORDER
      return hex(commitment) + hex(toBytes(scalar))
    },
  }
}

/** The same signature with its scalar at or above the group order: what a malleable rule would take for another one. */
export function malleated(signature: string): string {
  return signature.slice(0, 64) + hex(toBytes(littleEndian(Buffer.from(signature.slice(64), 'hex')) + ORDER))
}
