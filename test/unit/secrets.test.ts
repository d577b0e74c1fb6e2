import { randomBytes } from 'node:crypto'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { sha256 } from '../../src/core/canonical.ts'
import type { Value } from '../../src/core/envelope.ts'
import { KINDS, readFields } from '../../src/core/resources/index.ts'
import type { Kind } from '../../src/core/resources/kind.ts'
import {
  encryptionKey,
  keyFieldsIn,
  open,
  recipientsIn,
  rewrap,
  seal,
  SECRET_BYTES_MAX,
  type EncryptionKey,
} from '../../src/core/secrets.ts'

const PATH = 'default/eu/secret/tls'
const [ana, edge, mallory] = ['ana', 'edge', 'mallory'].map((name) => keyOf(name)) as [
  EncryptionKey,
  EncryptionKey,
  EncryptionKey,
]
const random = (bytes: number): Uint8Array => randomBytes(bytes)

function keyOf(name: string): EncryptionKey {
  return encryptionKey(Buffer.from(sha256(name), 'hex'))
}

function sealed(text: string, recipients: readonly EncryptionKey[] = [ana, edge], path = PATH): Map<string, Value> {
  const plaintext = Buffer.from(text)
  return seal(plaintext, { path, recipients: recipients.map(({ publicKey }) => publicKey), random })
}

function opened(fields: ReadonlyMap<string, Value>, key: EncryptionKey, path = PATH): string {
  return open(fields, path, key).toString()
}

describe('a secret', () => {
  test('opens for its recipients and for nobody else', () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ maxLength: 2_000 }),
        fc.uniqueArray(fc.nat({ max: 40 }), { maxLength: 12 }),
        (bytes, chosen) => {
          const people = Array.from({ length: 41 }, (_, index) => keyOf(`p${index}`))
          const recipients = chosen.map((index) => people[index]?.publicKey as string)
          const fields = seal(bytes, { path: PATH, recipients, random })
          expect(recipientsIn(fields).toSorted()).toEqual(recipients.toSorted())
          for (const [index, key] of people.entries()) {
            if (chosen.includes(index)) expect(new Uint8Array(open(fields, PATH, key))).toEqual(bytes)
            else expect(() => open(fields, PATH, key)).toThrow('is not sealed for the key')
          }
        },
      ),
      { numRuns: 30 },
    )
  })

  test('is a resource of the kind Secret, and shows nothing of its text', () => {
    const fields = sealed('correct horse')
    expect(readFields(KINDS.get('secret') as Kind, fields)).toMatchObject({ spec: { sealed: expect.anything() } })
    expect(JSON.stringify([...fields])).not.toContain(Buffer.from('correct horse').toString('base64url').slice(0, 8))
    const longest = seal(randomBytes(SECRET_BYTES_MAX), { path: PATH, recipients: [ana.publicKey], random })
    expect(readFields(KINDS.get('secret') as Kind, longest)).toHaveProperty('spec')
    expect(() => sealed('x'.repeat(SECRET_BYTES_MAX + 1))).toThrow('is over')
  })

  test('is sealed anew each time, so equal texts cannot be told', () => {
    const [one, other] = [sealed('same'), sealed('same')]
    expect([...one.values()].filter((value) => [...other.values()].includes(value))).toEqual([])
  })

  test('opens nowhere but at its path', () => {
    const fields = sealed('here')
    expect(() => opened(fields, ana, 'default/us/secret/tls')).toThrow('was not sealed for this path')
  })

  test('that was changed anywhere does not open', () => {
    const fields = sealed('text')
    for (const field of ['sealed', ...keyFieldsIn(fields).filter((name) => name.endsWith(ana.publicKey))]) {
      const value = fields.get(field) as string | string[]
      const change = (text: string): string => (text.startsWith('A') ? 'B' : 'A') + text.slice(1)
      const changed = typeof value === 'string' ? change(value) : [value[0] as string, change(value[1] as string)]
      expect(() => opened(new Map([...fields, [field, changed]]), ana)).toThrow(/was not sealed|is not an X25519/)
    }
    expect(() => opened(new Map([...fields, ['sealed', 'x']]), ana)).toThrow('was not sealed')
    expect(() => opened(new Map([...fields, ['sealed', ['ff', 'x']]]), ana)).toThrow('was not sealed')
  })

  test('sealed twice at once is one of the two wholly, whichever wins', () => {
    const [one, other] = [sealed('one'), sealed('other')]
    for (const winner of [one, other]) {
      const merged = new Map([...one, ...other, ['sealed', winner.get('sealed') as Value]])
      expect(opened(merged, edge)).toBe(winner === one ? 'one' : 'other')
      expect(keyFieldsIn(merged)).toHaveLength(4)
    }
  })

  test('is wrapped for newcomers by who can open it', () => {
    const fields = sealed('for all')
    const sealing = { path: PATH, recipients: [keyOf('new').publicKey], random }
    expect(() => rewrap(fields, mallory, sealing)).toThrow('is not sealed for the key')
    const more = new Map([...fields, ...rewrap(fields, edge, sealing)])
    expect([opened(more, keyOf('new')), opened(more, ana)]).toEqual(['for all', 'for all'])
  })

  test.each(['00'.repeat(32), `01${'00'.repeat(31)}`, 'ab', 'x'])('is never sealed for the key %s', (publicKey) => {
    expect(() => seal(Buffer.from('x'), { path: PATH, recipients: [publicKey], random })).toThrow('is not an X25519')
  })

  test('is received with the key that HKDF-SHA-256 gives for the seed under nxmesh/v1/x25519', () => {
    const expected = 'd21f239b370215ecaf4a5529f9bcea79846c712ee63a926d7872ea235311ae48'
    expect(encryptionKey(Buffer.alloc(32, 7)).publicKey).toBe(expected)
  })
})
