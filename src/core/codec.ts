/**
 * Envelopes as bytes on the wire: a list, each as length-prefixed canonical text with raw signatures behind it, which adds
 * about a hundred bytes to an envelope. Decoding checks the framing only; parseEnvelope checks the rest.
 */

import { MeshError } from '../errors.ts'
import { isHex, LIMITS, type WireEnvelope } from './envelope.ts'

const KEY_BYTES = 32
const SIGNATURE_BYTES = 64
const SIGNED_BYTES = KEY_BYTES + SIGNATURE_BYTES
const HEADER_BYTES = 4 + 1
/** Envelopes in one list; a longer one is refused unread, since each item costs far more than its five bytes of framing. */
export const LIST_MAX = 1024

/** Bytes that one envelope takes in a list. */
export function encodedSize(wire: WireEnvelope): number {
  return HEADER_BYTES + Buffer.byteLength(wire.bytes) + Object.keys(wire.sigs).length * SIGNED_BYTES
}

export function encodeEnvelopes(wires: readonly WireEnvelope[]): Uint8Array {
  const parts = wires.flatMap((wire) => {
    const text = Buffer.from(wire.bytes)
    const sigs = Object.entries(wire.sigs)
    const header = Buffer.alloc(HEADER_BYTES)
    header.writeUInt32BE(text.length)
    header.writeUInt8(sigs.length, 4)
    return [header, text, ...sigs.flatMap(([key, sig]) => [Buffer.from(key, 'hex'), Buffer.from(sig, 'hex')])]
  })
  return Buffer.concat(parts)
}

/** @throws MeshError `envelope_invalid` when the framing is not right to the last byte, `too_large` over a limit. */
export function decodeEnvelopes(data: Uint8Array): WireEnvelope[] {
  const buffer = Buffer.from(data.buffer, data.byteOffset, data.byteLength)
  const wires: WireEnvelope[] = []
  let at = 0
  const take = (length: number): Buffer => {
    if (at + length > buffer.length) throw new MeshError('envelope_invalid', 'the list of envelopes is cut short')
    at += length
    return buffer.subarray(at - length, at)
  }
  while (at < buffer.length) {
    if (wires.length === LIST_MAX) throw new MeshError('too_large', `a list of over ${LIST_MAX} envelopes`)
    const header = take(HEADER_BYTES)
    const textLength = header.readUInt32BE(0)
    const sigCount = header.readUInt8(4)
    if (textLength > LIMITS.bodyBytes || sigCount > LIMITS.signatures) {
      throw new MeshError(
        'too_large',
        `an envelope of ${textLength} bytes with ${sigCount} signatures is over the limits`,
      )
    }
    const bytes = take(textLength).toString('utf8')
    const sigs: Record<string, string> = {}
    for (let index = 0; index < sigCount; index += 1) {
      sigs[take(KEY_BYTES).toString('hex')] = take(SIGNATURE_BYTES).toString('hex')
    }
    wires.push({ bytes, sigs })
  }
  return wires
}

/** The wire form of something that has more than that, such as a parsed envelope. */
export function toWire({ bytes, sigs }: WireEnvelope): WireEnvelope {
  return { bytes, sigs }
}

/** A wire envelope from untrusted JSON, as the API takes it. @throws MeshError `envelope_invalid`, naming the field. */
export function wireFromJson(value: unknown, field: string): WireEnvelope {
  const { bytes, sigs } = (typeof value === 'object' && value !== null ? value : {}) as Record<string, unknown>
  if (typeof bytes !== 'string')
    throw new MeshError('envelope_invalid', `${field}.bytes must be a string`, { field: `${field}.bytes` })
  const isMap = typeof sigs === 'object' && sigs !== null && !Array.isArray(sigs)
  if (!isMap || !Object.entries(sigs).every(([key, sig]) => isHex(key, 64) && isHex(sig, 128))) {
    throw new MeshError('envelope_invalid', `${field}.sigs must map public keys to signatures, in hex`, {
      field: `${field}.sigs`,
    })
  }
  return { bytes, sigs: sigs as Record<string, string> }
}
