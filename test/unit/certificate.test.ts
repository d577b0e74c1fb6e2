/** The certificate that follows from a node's key: its bytes, what others read in it, and the binding that meshctl --pin goes by. */

import { createHash, createPrivateKey, createPublicKey, verify, X509Certificate } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import { certifiedKey, nodeCertificate, signEcdsa } from '../../src/adapters/certificate.ts'
import { keyPairFromSeed } from '../../src/core/envelope.ts'

const NODE = keyPairFromSeed(Buffer.alloc(32, 4))
const ORDER = 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551n
const ADDRESSES = ['0.0.0.0', '10.0.0.1:9102', 'edge-1.example.com:9102', '[2001:db8::7]:9102', '10.0.0.1']

const certificateOf = (node = NODE, addresses: readonly string[] = ADDRESSES): X509Certificate =>
  new X509Certificate(nodeCertificate(node, addresses).certPem)
const scalarOf = (keyPem: string): bigint =>
  BigInt(
    `0x${Buffer.from(createPrivateKey(keyPem).export({ format: 'jwk' }).d as string, 'base64url').toString('hex')}`,
  )

describe('the certificate of a node', () => {
  test('is the same bytes each time, and these', () => {
    const first = nodeCertificate(NODE, ADDRESSES)
    expect(nodeCertificate(NODE, ADDRESSES)).toEqual(first)
    const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex')
    // Whoever pinned a certificate pinned these bytes: a change here is one that operators must be told of.
    expect({ cert: sha256(first.certPem), scalar: scalarOf(first.keyPem).toString(16) }).toMatchInlineSnapshot(`
      {
        "cert": "c885b175762c515c541daf1d400807621f1e13f3a111c9cbb51edbc6a673ff69",
        "scalar": "c8a3b148d7b02e945aac76a2d0a3bfc3950b940e1e44a939a6be8e182576d692",
      }
    `)
  })

  test('says whose it is and where it is good, for ever, and verifies itself', () => {
    const certificate = certificateOf()
    expect(certificate.subject).toBe(`CN=${NODE.publicKey}`)
    expect(certificate.issuer).toBe(certificate.subject)
    expect(certificate.ca).toBe(false)
    expect([certificate.validFrom, certificate.validTo]).toEqual([
      'Jan  1 00:00:00 1970 GMT',
      'Dec 31 23:59:59 9999 GMT',
    ])
    expect(certificate.subjectAltName?.split(', ')).toEqual([
      'IP Address:10.0.0.1',
      'DNS:edge-1.example.com',
      'IP Address:2001:DB8:0:0:0:0:0:7',
      'DNS:localhost',
      'IP Address:127.0.0.1',
      'IP Address:0:0:0:0:0:0:0:1',
    ])
    expect(certificate.verify(certificate.publicKey)).toBe(true)
    expect(certificate.publicKey.asymmetricKeyDetails).toEqual({ namedCurve: 'prime256v1' })
    expect(certificate.checkPrivateKey(createPrivateKey(nodeCertificate(NODE, ADDRESSES).keyPem))).toBe(true)
  })

  test.each([
    ['::1', '0:0:0:0:0:0:0:1'],
    ['[fe80::1:0:2]:1', 'FE80:0:0:0:0:1:0:2'],
    ['1:2:3:4:5:6:7:8', '1:2:3:4:5:6:7:8'],
    ['[::ffff:10.0.0.1]:1', '0:0:0:0:0:FFFF:A00:1'],
    ['2001:db8::', '2001:DB8:0:0:0:0:0:0'],
  ])('names %s', (address, shown) => {
    expect(certificateOf(NODE, [address]).subjectAltName?.split(', ')[0]).toBe(`IP Address:${shown}`)
  })

  test('has another number for other names, and another key for another node', () => {
    const [one, renamed] = [certificateOf(), certificateOf(NODE, ['edge-2.example.com'])]
    expect(renamed.serialNumber).not.toBe(one.serialNumber)
    expect(renamed.publicKey.equals(one.publicKey)).toBe(true)
    const seeds = Array.from({ length: 100 }, (_, index) => Buffer.alloc(32, index))
    const scalars = seeds.map((seed) => scalarOf(nodeCertificate(keyPairFromSeed(seed), []).keyPem))
    expect(new Set(scalars).size).toBe(seeds.length)
    expect(scalars.every((scalar) => scalar > 0n && scalar < ORDER)).toBe(true)
  })
})

describe('the key that a certificate is bound to', () => {
  test('is the one of the node', () => {
    for (let seed = 0; seed < 20; seed += 1) {
      const node = keyPairFromSeed(Buffer.alloc(32, seed))
      expect(certifiedKey(certificateOf(node))).toBe(node.publicKey)
    }
  })

  test('is none when any of its bits, or of those that it signs, is another', () => {
    const { raw } = certificateOf()
    const key = Buffer.from(NODE.publicKey, 'hex')
    const spki = certificateOf().publicKey.export({ format: 'der', type: 'spki' })
    const keyAt = raw.lastIndexOf(key)
    const places = [keyAt, keyAt + 31, keyAt + 34, keyAt + 34 + 63]
    expect(raw.subarray(keyAt, keyAt + 32)).toEqual(key)
    for (const place of places) {
      const tampered = Buffer.from(raw)
      tampered[place] = (tampered[place] as number) ^ 1
      expect(certifiedKey(new X509Certificate(tampered)), String(place)).toBeUndefined()
    }
    // The same extension over the TLS key of another.
    const other = certificateOf(keyPairFromSeed(Buffer.alloc(32, 5))).publicKey.export({ format: 'der', type: 'spki' })
    const moved = Buffer.from(raw)
    other.copy(moved, raw.indexOf(spki))
    expect(certifiedKey(new X509Certificate(moved))).toBeUndefined()
    // Another node's key in front of this node's signature.
    const renamed = Buffer.from(raw)
    Buffer.from(keyPairFromSeed(Buffer.alloc(32, 5)).publicKey, 'hex').copy(renamed, keyAt)
    expect(certifiedKey(new X509Certificate(renamed))).toBeUndefined()
  })

  test('is none when the certificate is over what is no key', () => {
    const raw = Buffer.from(certificateOf().raw)
    const spki = certificateOf().publicKey.export({ format: 'der', type: 'spki' })
    // A point that is not on the curve.
    raw.fill(0xff, raw.indexOf(spki) + spki.length - 32, raw.indexOf(spki) + spki.length)
    expect(certifiedKey(new X509Certificate(raw))).toBeUndefined()
  })

  test('is read as libp2p writes it', () => {
    // The first certificate of the test vectors in libp2p's TLS specification.
    const certificate = new X509Certificate(Buffer.from(LIBP2P_VECTOR, 'hex'))
    expect(certifiedKey(certificate)).toBe('a77f1d92fedb59dddaea5a1c4abd1ac2fbde7d7b879ed364501809923d7c11b9')
  })
})

describe('ECDSA with the nonce of RFC 6979', () => {
  const secret = Buffer.from('c9afa9d845ba75166b5c215767b1d6934e50c3db36e89b127b8a622b120f6721', 'hex')

  // Its appendix A.2.5, in DER.
  test.each([
    [
      'sample',
      '3046022100efd48b2aacb6a8fd1140dd9cd45e81d69d2c877b56aaf991c34d0ea84eaf3716022100f7cb1c942d657c41d436c7a1b6e29f65f3e900dbb9aff4064dc4ab2f843acda8',
    ],
    [
      'test',
      '3045022100f1abb023518351cd71d881567b1ea663ed3efcf6c5132b354f28d3b0b7d383670220019f4113742a2b14bd25926b49c649155f267e60d3814b4c0cc84250e46f0083',
    ],
  ])('signs %s as the RFC does', (message, signature) => {
    expect(signEcdsa(secret, Buffer.from(message)).toString('hex')).toBe(signature)
  })

  test('is what node:crypto verifies', () => {
    for (let seed = 0; seed < 50; seed += 1) {
      const { keyPem } = nodeCertificate(keyPairFromSeed(Buffer.alloc(32, seed)), [])
      const message = Buffer.alloc(seed, seed)
      const signature = signEcdsa(Buffer.from(scalarOf(keyPem).toString(16).padStart(64, '0'), 'hex'), message)
      expect(verify('sha256', message, createPublicKey(keyPem), signature), String(seed)).toBe(true)
    }
  })
})

const LIBP2P_VECTOR =
  '308201ae30820156a0030201020204499602d2300a06082a8648ce3d040302302031123010060355040a13096c69627032702e696f310a300806035504051301313020170d3735303130313133303030305a180f34303936303130313133303030305a302031123010060355040a13096c69627032702e696f310a300806035504051301313059301306072a8648ce3d020106082a8648ce3d030107034200040c901d423c831ca85e27c73c263ba132721bb9d7a84c4f0380b2a6756fd601331c8870234dec878504c174144fa4b14b66a651691606d8173e55bd37e381569ea37c307a3078060a2b0601040183a25a0101046a3068042408011220a77f1d92fedb59dddaea5a1c4abd1ac2fbde7d7b879ed364501809923d7c11b90440d90d2769db992d5e6195dbb08e706b6651e024fda6cfb8846694a435519941cac215a8207792e42849cccc6cd8136c6e4bde92a58c5e08cfd4206eb5fe0bf909300a06082a8648ce3d0403020346003043021f50f6b6c52711a881778718238f650c9fb48943ae6ee6d28427dc6071ae55e702203625f116a7a454db9c56986c82a25682f7248ea1cb764d322ea983ed36a31b77'
