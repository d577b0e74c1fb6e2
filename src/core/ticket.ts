/**
 * Join tickets: one line of text that tells a new host where its mesh is and which keys to trust, signed by who invites it.
 * A ticket grants nothing: whoever holds one may ask, and somebody approves. Also how a host signs what it asks for, and proves
 * that it holds its X25519 key. Pure; made by meshctl, read by mesh-node at both ends.
 */

import { createHmac, timingSafeEqual } from 'node:crypto'
import { z } from 'zod'
import { MeshError } from '../errors.ts'
import { canonical, sha256, type Json } from './canonical.ts'
import { isHex, verifySignature, type KeyPair } from './envelope.ts'
import { isName, isZone } from './names.ts'
import { agree, type EncryptionKey } from './secrets.ts'

export const TICKET_LIMITS = {
  /** Of the text, so that a request with a ticket stays small. */
  chars: 3_000,
  nodes: 5,
  addresses: 4,
  zones: 16,
  /** From now to `expires`: a ticket is for one day's work, not a key to keep. */
  lifetimeMs: 30 * 24 * 3_600_000,
} as const

const VERSION = 'nxmesh1'
const CHECKSUM_DIGITS = 8
const SIG_DOMAIN = 'nxmesh/v1/ticket\0'
const ASKING_DOMAIN = 'nxmesh/v1/join\0'
const PROOF_DOMAIN = 'nxmesh/v1/join-proof\0'

const key = z.string().regex(/^[0-9a-f]{64}$/)
const CONTENT = z.strictObject({
  /** Mesh id. */
  mesh: key,
  /** The network_id. */
  network: z.string().regex(/^[A-Za-z0-9._-]{1,64}$/),
  /** Whom to ask, in this order. */
  nodes: z
    .array(
      z.strictObject({
        key,
        addresses: z
          .array(z.string().regex(/^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):\d{1,5}$/))
          .min(1)
          .max(TICKET_LIMITS.addresses),
      }),
    )
    .min(1)
    .max(TICKET_LIMITS.nodes),
  /** Who invites. */
  by: key,
  /** Where the host is wanted; what it gets is up to who approves. */
  zones: z.array(z.string().refine(isZone)).min(1).max(TICKET_LIMITS.zones),
  name: z.string().refine(isName).optional(),
  /** ms since the epoch. */
  expires: z.int().min(0),
  /** Makes tickets differ, 32 hex digits. */
  nonce: z.string().regex(/^[0-9a-f]{32}$/),
})
const TICKET = CONTENT.extend({ sig: z.string().regex(/^[0-9a-f]{128}$/) })

/** What a ticket says. */
export type TicketContent = z.infer<typeof CONTENT>

/** The ticket as text, signed. @throws MeshError `too_large`. */
export function signTicket(content: Omit<TicketContent, 'by'>, inviter: KeyPair): string {
  const signed: TicketContent = { ...content, by: inviter.publicKey }
  const text = Buffer.from(canonical({ ...signed, sig: inviter.sign(signingInput(signed)) } as Json)).toString(
    'base64url',
  )
  const ticket = `${VERSION}.${text}.${checksum(text)}`
  if (ticket.length > TICKET_LIMITS.chars) {
    throw new MeshError('too_large', `the ticket would have ${ticket.length} characters, over ${TICKET_LIMITS.chars}`, {
      hint: 'Name fewer zones.',
    })
  }
  return ticket
}

/** @throws MeshError `input_invalid` for what is no ticket, was cut, or was changed since it was signed. */
export function parseTicket(ticket: string): TicketContent {
  const [version, text = '', sum, ...rest] = ticket.length > TICKET_LIMITS.chars ? [] : ticket.trim().split('.')
  if (version !== VERSION || rest.length > 0 || sum === undefined) {
    throw invalid('this is no join ticket of this version', 'Give the one line that meshctl invite printed.')
  }
  if (checksum(text) !== sum) {
    throw invalid(
      'the ticket is damaged: its checksum does not fit',
      'Copy the whole line that meshctl invite printed.',
    )
  }
  const parsed = TICKET.safeParse(jsonIn(text))
  if (!parsed.success) throw invalid('the ticket holds what no ticket holds', 'Make a new one: meshctl invite.')
  const { sig, ...content } = parsed.data
  if (!verifySignature(content.by, signingInput(content), sig)) {
    throw invalid('the ticket was changed: its signature is not by its inviter', 'Make a new one: meshctl invite.')
  }
  return content
}

/** Why a ticket is not for this mesh at this time; undefined when it is. `now`: ms since the epoch. */
export function ticketFault(
  { mesh, network, expires }: TicketContent,
  here: { readonly mesh: string | undefined; readonly network: string; readonly now: number },
): string | undefined {
  if (mesh !== here.mesh) return 'the ticket is for another mesh'
  if (network !== here.network) return `the ticket is for network_id ${network}, and this is ${here.network}`
  if (expires < here.now) return `the ticket expired at ${new Date(expires).toISOString()}`
  if (expires - here.now > TICKET_LIMITS.lifetimeMs) return 'the ticket is for longer than a ticket may be'
  return undefined
}

/** What a host asks for. The ticket, as text, says of which mesh. */
export interface Asking {
  readonly ticket: string
  /** Its X25519 public key. */
  readonly enc: string
  readonly name: string | null
  readonly zones: readonly string[]
}

/** The host's signature: with it who approves, knowing no more than the host's key, need not believe the asked node. */
export function signAsking(asking: Asking, host: KeyPair): string {
  return host.sign(askingInput(asking))
}

export function isAskedBy(key: string, asking: Asking, sig: string): boolean {
  return verifySignature(key, askingInput(asking), sig)
}

/** Who proves what to whom: what a proof is bound to. */
export interface Proving {
  /** The prover's Ed25519 key, which the connection has proven. */
  readonly prover: string
  readonly verifier: string
  /** The X25519 key that is claimed. */
  readonly enc: string
  /** The verifier's ephemeral X25519 public key. */
  readonly challenge: string
}

/** What only the holder of one of the two private keys, `enc` or `challenge`, can compute; 64 hex digits. */
export function proofOf(own: EncryptionKey, proving: Proving): string {
  const { prover, verifier, enc, challenge } = proving
  const shared = agree(own.privateKey, own.publicKey === enc ? challenge : enc)
  return createHmac('sha256', shared)
    .update(PROOF_DOMAIN)
    .update(canonical({ prover, verifier, enc, challenge }))
    .digest('hex')
}

/** @param ephemeral whose public half was the challenge. */
export function isProof(proof: string, ephemeral: EncryptionKey, proving: Proving): boolean {
  if (!isHex(proof, 64) || ephemeral.publicKey === proving.enc) return false
  try {
    return timingSafeEqual(Buffer.from(proof, 'hex'), Buffer.from(proofOf(ephemeral, proving), 'hex'))
  } catch {
    // `enc` is no key at all, or one of small order.
    return false
  }
}

function signingInput(content: TicketContent): Uint8Array {
  return Buffer.from(SIG_DOMAIN + canonical(content as Json))
}

function askingInput({ ticket, enc, name, zones }: Asking): Uint8Array {
  return Buffer.from(ASKING_DOMAIN + canonical({ ticket, enc, name, zones }))
}

function checksum(text: string): string {
  return sha256(text).slice(0, CHECKSUM_DIGITS)
}

/** Undefined for what is not canonical JSON. */
function jsonIn(text: string): unknown {
  try {
    const json = Buffer.from(text, 'base64url').toString('utf8')
    const value = JSON.parse(json) as Json
    return canonical(value) === json ? value : undefined
  } catch {
    return undefined
  }
}

function invalid(message: string, hint: string): MeshError {
  return new MeshError('input_invalid', message, { field: 'ticket', hint })
}
