import { createHash, randomBytes } from 'node:crypto'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { encryptionKey } from '../../src/core/secrets.ts'
import {
  isProof,
  parseTicket,
  proofOf,
  signTicket,
  TICKET_LIMITS,
  ticketFault,
  type TicketContent,
} from '../../src/core/ticket.ts'
import { MeshError } from '../../src/errors.ts'
import { keyOf } from '../support/authors.ts'

const inviter = keyOf('inviter')
const hex = (bytes: number) =>
  fc.uint8Array({ minLength: bytes, maxLength: bytes }).map((array) => Buffer.from(array).toString('hex'))
const name = fc.stringMatching(/^[a-z]([a-z0-9-]{0,10}[a-z0-9])?$/)
const address = fc.tuple(name, fc.integer({ min: 1, max: 65_535 })).map(([host, port]) => `${host}:${port}`)
const content: fc.Arbitrary<Omit<TicketContent, 'by'>> = fc
  .record({
    mesh: hex(32),
    network: fc.stringMatching(/^[A-Za-z0-9._-]{1,20}$/),
    nodes: fc.array(fc.record({ key: hex(32), addresses: fc.array(address, { minLength: 1, maxLength: 2 }) }), {
      minLength: 1,
      maxLength: TICKET_LIMITS.nodes,
    }),
    zones: fc.array(name, { minLength: 1, maxLength: 4 }),
    named: fc.option(name),
    expires: fc.nat(),
    nonce: hex(16),
  })
  .map(({ named, ...rest }) => (named === null ? rest : { ...rest, name: named }))

/** The content of a ticket, or the code of the refusal. */
function read(ticket: string): unknown {
  try {
    return parseTicket(ticket)
  } catch (error) {
    if (!(error instanceof MeshError)) throw error
    return error.code
  }
}

describe('a ticket', () => {
  test('says what was written, on one line, whoever reads it', () => {
    fc.assert(
      fc.property(content, (written) => {
        const ticket = signTicket(written, inviter)
        expect(ticket).toMatch(/^[A-Za-z0-9._-]+$/)
        expect(ticket.length).toBeLessThanOrEqual(TICKET_LIMITS.chars)
        expect(parseTicket(`${ticket}\n`)).toEqual({ ...written, by: inviter.publicKey })
      }),
      { numRuns: 100 },
    )
  })

  test('with any character changed, left out or added is refused', () => {
    fc.assert(
      fc.property(
        content,
        fc.nat(),
        fc.constantFrom('A', 'b', '0', '_', '.', ' '),
        fc.nat(2),
        (written, at, other, kind) => {
          const ticket = signTicket(written, inviter)
          const place = at % ticket.length
          const changed = ticket.slice(0, place) + ['', other, other + ticket[place]][kind] + ticket.slice(place + 1)
          fc.pre(changed.trim() !== ticket)
          expect(read(changed)).toBe('input_invalid')
        },
      ),
      { numRuns: 300 },
    )
  })

  test('made up, or signed by another than it says, is refused with a way out', () => {
    fc.assert(
      fc.property(fc.string({ maxLength: 4_000 }), (text) => {
        expect(read(text)).toBe('input_invalid')
      }),
      { numRuns: 300 },
    )
    const [written] = fc.sample(content, 1) as [Omit<TicketContent, 'by'>]
    const text = signTicket(written, inviter)
    const json = JSON.parse(Buffer.from(text.split('.')[1]!, 'base64url').toString()) as object
    const forgeries = [
      { ...json, by: keyOf('another').publicKey },
      { ...json, zones: ['*'] },
      { ...json, more: 1 },
      { ...json, nodes: [] },
    ]
    for (const forgery of forgeries) expect(() => parseTicket(packed(forgery))).toThrow(/ticket/)
    expect(parseTicket(packed(json))).toBeTruthy()
  })

  test('is for one mesh, one network and some time', () => {
    const [written] = fc.sample(content, 1) as [Omit<TicketContent, 'by'>]
    const ticket = parseTicket(signTicket({ ...written, expires: 1_000 }, inviter))
    const here = { mesh: ticket.mesh, network: ticket.network, now: 1_000 }
    expect(ticketFault(ticket, here)).toBeUndefined()
    expect(ticketFault(ticket, { ...here, now: 1_001 })).toContain('expired at 1970')
    expect(ticketFault(ticket, { ...here, now: 1_000 - TICKET_LIMITS.lifetimeMs - 1 })).toContain('longer')
    expect(ticketFault(ticket, { ...here, mesh: undefined })).toContain('another mesh')
    expect(ticketFault(ticket, { ...here, network: 'else' })).toContain('network_id')
  })
})

/** A ticket of any content with a checksum that fits. */
function packed(value: object): string {
  const sorted = Object.fromEntries(Object.entries(value).toSorted(([a], [b]) => (a < b ? -1 : 1)))
  const text = Buffer.from(JSON.stringify(sorted)).toString('base64url')
  return `nxmesh1.${text}.${createHash('sha256').update(text).digest('hex').slice(0, 8)}`
}

describe('the proof of an encryption key', () => {
  const own = encryptionKey(randomBytes(32))
  const ephemeral = encryptionKey(randomBytes(32))
  const proving = {
    prover: keyOf('host').publicKey,
    verifier: keyOf('node').publicKey,
    enc: own.publicKey,
    challenge: ephemeral.publicKey,
  }

  test('holds for who has the key, in this talk alone', () => {
    const proof = proofOf(own, proving)
    expect(isProof(proof, ephemeral, proving)).toBe(true)
    expect(isProof(proof, ephemeral, { ...proving, prover: keyOf('thief').publicKey })).toBe(false)
    expect(isProof(proof, ephemeral, { ...proving, verifier: keyOf('another node').publicKey })).toBe(false)
    const next = encryptionKey(randomBytes(32))
    expect(isProof(proof, next, { ...proving, challenge: next.publicKey })).toBe(false)
  })

  test('does not hold for a key of somebody else, of small order, or the challenge itself', () => {
    const other = encryptionKey(randomBytes(32))
    expect(isProof(proofOf(own, proving), ephemeral, { ...proving, enc: other.publicKey })).toBe(false)
    expect(isProof('00'.repeat(32), ephemeral, { ...proving, enc: '00'.repeat(32) })).toBe(false)
    const mirrored = { ...proving, enc: ephemeral.publicKey }
    expect(isProof(proofOf(ephemeral, mirrored), ephemeral, mirrored)).toBe(false)
    expect(isProof('zz', ephemeral, proving)).toBe(false)
  })
})
