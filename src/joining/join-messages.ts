/**
 * The words of the join protocol, all that a key which is no node's can say, and their limits. What is asked and answered is
 * decided in join.ts (the node) and joiner.ts (who asks).
 */

import { z } from 'zod'
import type { WireEnvelope } from '../core/envelope.ts'
import { isName, isZone } from '../core/names.ts'
import { TICKET_LIMITS } from '../core/ticket.ts'
import { MeshError } from '../errors.ts'

export const JOIN_LIMITS = {
  /** Of one request. */
  requestBytes: 4 * 1024,
  /** Envelopes in one answer; at least one is sent, and one has at most 64 KiB. */
  envelopeBytes: 256 * 1024,
  /** Ids in one request. */
  ids: 32,
  /** Requests to join that a node keeps; a further one is told to try later. */
  pending: 128,
  /** Of these, with tickets by one key: who may invite to few zones must not keep out whom others invite. */
  pendingOfInviter: 64,
  /** Of these, with one ticket: one that got about must not keep out everybody else. */
  pendingOfTicket: 32,
  pendingMs: 3_600_000,
  /** Keys that were denied and are told so; beyond it the oldest is forgotten. */
  denied: 256,
} as const

const hash = z.string().regex(/^[0-9a-f]{64}$/)

export const JOIN_REQUEST = z.strictObject({
  ask: z.literal('join'),
  ticket: z.string().max(TICKET_LIMITS.chars),
  /** The X25519 public key, and the proof that it is the asker's. */
  enc: hash,
  proof: hash,
  name: z.string().refine(isName).nullable(),
  /** Of the configuration; empty: those of the ticket. */
  zones: z.array(z.string().refine(isZone)).max(TICKET_LIMITS.zones),
  /** The asker's over ticket, enc, name and zones, for who approves. */
  sig: z.string().regex(/^[0-9a-f]{128}$/),
  labels: z.record(z.string().max(63), z.string().max(63)),
  version: z.string().max(64),
})
const REQUEST = z.discriminatedUnion('ask', [
  /** What the asker is in this mesh. */
  z.strictObject({ ask: z.literal('standing') }),
  /** Envelopes that a revocation of the asker rests on. */
  z.strictObject({ ask: z.literal('ancestors'), ids: z.array(hash).min(1).max(JOIN_LIMITS.ids) }),
  /** An X25519 public key to prove the own one with. */
  z.strictObject({ ask: z.literal('challenge') }),
  JOIN_REQUEST,
])
export type JoinMessage = z.infer<typeof REQUEST>

const ANSWER = z.object({
  standing: z.enum(['node', 'revoked', 'pending', 'denied', 'unknown']).optional(),
  challenge: hash.optional(),
  /** Why it cannot be, in words; `again`: later it may. */
  refused: z.string().max(300).optional(),
  again: z.boolean().optional(),
  envelopes: z.array(z.object({ bytes: z.string(), sigs: z.record(z.string(), z.string()) })).optional(),
})
export type JoinAnswer = Omit<z.infer<typeof ANSWER>, 'envelopes'> & { readonly envelopes?: readonly WireEnvelope[] }
export type JoinStanding = NonNullable<JoinAnswer['standing']>

/** Undefined for what is no request. */
export function parseJoinMessage(frame: Uint8Array): JoinMessage | undefined {
  return REQUEST.safeParse(jsonIn(frame)).data
}

/** @throws MeshError `envelope_invalid` for what is no answer. */
export function parseJoinAnswer(frame: Uint8Array): JoinAnswer {
  const { data } = ANSWER.safeParse(jsonIn(frame))
  if (data === undefined) throw new MeshError('envelope_invalid', 'the peer’s answer is not of the join protocol')
  return data as JoinAnswer
}

export function encodeJoin(message: JoinMessage | JoinAnswer): Uint8Array {
  return Buffer.from(JSON.stringify(message))
}

function jsonIn(frame: Uint8Array): unknown {
  try {
    return JSON.parse(Buffer.from(frame).toString('utf8'))
  } catch {
    return undefined
  }
}
