import { createPublicKey, verify } from 'node:crypto'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { checkToken, signToken, TOKEN_LIMITS } from '../../src/core/token.ts'
import { keyOf } from '../support/histories.ts'

const ana = keyOf('ana')
const mallory = keyOf('mallory')
const MESH = 'ab'.repeat(32)
const NOW = 1_760_000_000_123
const seconds = Math.floor(NOW / 1000)

function encode(value: unknown): string {
  return Buffer.from(JSON.stringify(value)).toString('base64url')
}

/** A token of any content, signed by ana unless said otherwise. */
function tokenOf(claims: object, header: object = { alg: 'EdDSA', typ: 'JWT' }, by = ana): string {
  const signed = `${encode(header)}.${encode({ iss: ana.publicKey, aud: MESH, iat: seconds, exp: seconds + 60, ...claims })}`
  return `${signed}.${Buffer.from(by.sign(Buffer.from(signed)), 'hex').toString('base64url')}`
}

function faultOf(token: string, now = NOW): string {
  const answer = checkToken(token, MESH, now)
  return 'fault' in answer ? answer.fault : 'none'
}

describe('a token', () => {
  test('says whose it is, to any node of its mesh', () => {
    expect(checkToken(signToken(ana, MESH, NOW, 60), MESH, NOW)).toEqual({
      key: ana.publicKey,
      until: (seconds + 60 + TOKEN_LIMITS.leeway) * 1000,
    })
    expect(checkToken(tokenOf({ sub: 'more claims are ignored' }), MESH, NOW)).toMatchObject({ key: ana.publicKey })
  })

  test('is for reading alone, unless it names the node that may sign edits', () => {
    const other = 'b'.repeat(64)
    expect(checkToken(signToken(ana, MESH, NOW, 60), MESH, NOW)).toMatchObject({ edit: undefined })
    expect(checkToken(signToken(ana, MESH, NOW, 60, other), MESH, NOW)).toMatchObject({ edit: other })
    expect(checkToken(tokenOf({ edit: true }), MESH, NOW)).toMatchObject({ key: ana.publicKey, edit: undefined })
  })

  test('is a JWT as others make and check it', () => {
    const [header, payload, signature] = signToken(ana, MESH, NOW, 60).split('.') as [string, string, string]
    expect(JSON.parse(Buffer.from(header, 'base64url').toString())).toEqual({ alg: 'EdDSA', typ: 'JWT' })
    const x = Buffer.from(ana.publicKey, 'hex').toString('base64url')
    const key = createPublicKey({ key: { kty: 'OKP', crv: 'Ed25519', x }, format: 'jwk' })
    expect(verify(null, Buffer.from(`${header}.${payload}`), key, Buffer.from(signature, 'base64url'))).toBe(true)
  })

  test.each<[string, string, string]>([
    ['of no algorithm', tokenOf({}, { alg: 'none' }), 'another algorithm'],
    [
      'of no algorithm and no signature',
      `${encode({ alg: 'none' })}.${encode({ iss: ana.publicKey })}.`,
      'three parts',
    ],
    ['of a shared secret', tokenOf({}, { alg: 'HS256', typ: 'JWT' }), 'another algorithm'],
    ['with a critical extension', tokenOf({}, { alg: 'EdDSA', crit: ['b64'] }), 'another algorithm'],
    ['by another key', tokenOf({}, undefined, mallory), 'not by its iss'],
    ['for another mesh', tokenOf({ aud: 'cd'.repeat(32) }), 'is for mesh cdcd'],
    ['for several meshes', tokenOf({ aud: [MESH] }), 'lacks one of'],
    ['without expiry', tokenOf({ exp: undefined }), 'lacks one of'],
    ['with a fraction of a time', tokenOf({ exp: seconds + 0.5 }), 'lacks one of'],
    ['that lives too long', tokenOf({ exp: seconds + TOKEN_LIMITS.lifetime + 1 }), 'lives for over'],
    ['that has expired', tokenOf({ iat: seconds - 200, exp: seconds - 61 }), 'has expired'],
    ['that is not valid yet', tokenOf({ nbf: seconds + 61, exp: seconds + 120 }), 'not valid yet'],
    ['from the future', tokenOf({ iat: seconds + 61, exp: seconds + 120 }), 'not valid yet'],
    ['in padded base64', tokenOf({}).replace('.', '=.'), 'three parts'],
    ['in four parts', `${tokenOf({})}.x`, 'three parts'],
    ['of great length', tokenOf({ note: 'x'.repeat(TOKEN_LIMITS.chars) }), 'three parts'],
    ['that is none', 'hello', 'three parts'],
    ['that is empty', '', 'three parts'],
    ['of a list', `${encode([])}.${encode([])}.${encode([])}`, 'another algorithm'],
  ])('%s is refused', (_, token, reason) => {
    expect(faultOf(token)).toContain(reason)
  })

  test('is valid within its time and a minute of clock difference', () => {
    const token = signToken(ana, MESH, NOW, 60)
    const at = (after: number): string => faultOf(token, NOW + after * 1000)
    expect([at(-59), at(0), at(119)]).toEqual(['none', 'none', 'none'])
    expect([at(-62), at(121)]).toEqual([expect.stringContaining('not valid yet'), expect.stringContaining('expired')])
  })

  test('that was changed anywhere is refused', () => {
    const token = signToken(ana, MESH, NOW, 60)
    fc.assert(
      fc.property(
        fc.nat({ max: token.length - 1 }),
        fc.constantFrom('a', 'A', '0', '_', '-', '.', '='),
        (index, letter) => {
          fc.pre(token[index] !== letter)
          expect(faultOf(token.slice(0, index) + letter + token.slice(index + 1))).not.toBe('none')
        },
      ),
    )
  })
})
