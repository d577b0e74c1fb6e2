import { describe, expect, test } from 'vitest'
import { decodeEnvelopes, encodedSize, encodeEnvelopes, LIST_MAX, toWire, wireFromJson } from '../../src/core/codec.ts'
import type { WireEnvelope } from '../../src/core/envelope.ts'
import { asMeshError } from '../../src/errors.ts'
import { TestMesh } from '../support/authors.ts'
import { diceFrom } from '../support/histories.ts'

const mesh = new TestMesh()
const wires = [...mesh.founding, mesh.edit('default/*/site/ä', [['set', '$', true]])].map(toWire)

function codeOf(act: () => unknown): string | undefined {
  try {
    act()
    return undefined
  } catch (error) {
    return asMeshError(error).code
  }
}

describe('a list of envelopes', () => {
  test('comes back as it was, in the size that was foretold', () => {
    const bytes = encodeEnvelopes(wires)
    expect(decodeEnvelopes(bytes)).toEqual(wires)
    expect(bytes.length).toBe(wires.reduce((sum, wire) => sum + encodedSize(wire), 0))
    expect(decodeEnvelopes(new Uint8Array())).toEqual([])
  })

  test('cut short anywhere but between two envelopes is malformed', () => {
    const bytes = encodeEnvelopes(wires.slice(0, 2))
    const border = encodedSize(wires[0] as WireEnvelope)
    for (let length = 1; length < bytes.length; length += 1) {
      const code = codeOf(() => decodeEnvelopes(bytes.subarray(0, length)))
      expect([length, code]).toEqual([length, length === border ? undefined : 'envelope_invalid'])
    }
  })

  test('with any byte changed decodes or is refused, but nothing else', () => {
    const dice = diceFrom(7)
    const bytes = encodeEnvelopes(wires)
    for (let round = 0; round < 2000; round += 1) {
      const changed = Uint8Array.from(bytes)
      changed[dice.below(changed.length)] = dice.below(256)
      expect([undefined, 'envelope_invalid', 'too_large']).toContain(codeOf(() => decodeEnvelopes(changed)))
    }
  })

  test('has a limit on items, on texts and on signatures', () => {
    const empty = new Uint8Array(5)
    const many = (count: number): Uint8Array => Buffer.concat(Array.from({ length: count }, () => empty))
    expect(decodeEnvelopes(many(LIST_MAX))).toHaveLength(LIST_MAX)
    expect(codeOf(() => decodeEnvelopes(many(LIST_MAX + 1)))).toBe('too_large')
    expect(codeOf(() => decodeEnvelopes(Buffer.from('0001000101', 'hex')))).toBe('too_large')
    expect(codeOf(() => decodeEnvelopes(Buffer.from('0000000011', 'hex')))).toBe('too_large')
  })
})

describe('an envelope from JSON', () => {
  test.each<[unknown, string]>([
    [null, 'edits[0].bytes'],
    ['text', 'edits[0].bytes'],
    [{ bytes: 1, sigs: {} }, 'edits[0].bytes'],
    [{ bytes: '{}' }, 'edits[0].sigs'],
    [{ bytes: '{}', sigs: [] }, 'edits[0].sigs'],
    [{ bytes: '{}', sigs: { ab: 'cd' } }, 'edits[0].sigs'],
    [{ bytes: '{}', sigs: { ['a'.repeat(64)]: 7 } }, 'edits[0].sigs'],
  ])('%j names %s', (value, field) => {
    expect(() => wireFromJson(value, 'edits[0]')).toThrow(expect.objectContaining({ details: { field } }))
  })

  test('is taken when it is one', () => {
    expect(wireFromJson(JSON.parse(JSON.stringify(wires[1])), 'edit')).toEqual(wires[1])
  })
})
