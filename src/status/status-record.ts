/**
 * The status record: what a node says of itself, its form, its signature, and which of two is newer. Pure; keeps no record
 * and judges no speaker, which is for status.ts. DESIGN: network, status record.
 */

import { z } from 'zod'
import { canonical, sha256, type Json } from '../core/canonical.ts'
import { isHex, verifySignature, type KeyPair } from '../core/envelope.ts'
import type { Health } from './health.ts'
import type { Clock, PeerKey } from '../ports.ts'
import type { Receipt } from '../receipt.ts'

/** A node's word on itself. Canonical JSON when signed, so numbers are integers. */
export interface StatusRecord {
  readonly v: 1
  readonly mesh: string
  /** Public key of the node. */
  readonly node: PeerKey
  /** Grows at every start of the node; a record of a lower one is old whatever its sequence. */
  readonly incarnation: number
  readonly sequence: number
  /** Claimed wall time, ms; for people. */
  readonly at: number
  /** `host:port` where the node can be dialled. */
  readonly addresses: readonly string[]
  readonly zones: readonly string[]
  readonly labels: Readonly<Record<string, string>>
  /** Version of the software. */
  readonly version: string
  /** Digest of all envelopes that the node holds; peers with another one start to synchronise. */
  readonly digest: string
  readonly receipt: Receipt | null
  readonly health: Health
  /** Set in the last record before an orderly stop. */
  readonly leaving: boolean
}

export interface SignedStatus {
  /** Canonical JSON of a StatusRecord. */
  readonly bytes: string
  readonly sig: string
}

/** Beyond these a record is none. */
export const RECORD_LIMITS = {
  bytes: 32 * 1024,
  /** Far above any number of starts; nothing larger can be signed for, and nothing follows it. */
  incarnation: 2 ** 40,
} as const

/** A record whose claimed time is this far from ours is no word of now: peers may hand out old ones, one by one. */
export const STATUS_SKEW_MS = 5 * 60_000

const STATUS_DOMAIN = 'nxmesh/v1/status\0'

// ---------------------------------------------------------------------------------------------- signing

/**
 * Signs a record. One that is too long for peers to take is told without its details.
 * @throws Error when even that is not a record.
 */
export function signRecord(record: StatusRecord, key: KeyPair): SignedStatus {
  const bytes = fit(record)
  return { bytes, sig: key.sign(statusInput(record.mesh, bytes)) }
}

const NO_DETAILS = { problems: [], isolated: [], observed: [] }

function fit(record: StatusRecord): string {
  const { receipt, health } = record
  const unobserved = { ...record, receipt: receipt === null ? null : { ...receipt, observed: [] } }
  const brief = { ...record, receipt: receipt === null ? null : { ...receipt, ...NO_DETAILS } }
  const bare = { ...record, receipt: null, health: { ...health, msg: health.msg.slice(0, 500), reasons: [] } }
  for (const form of [record, unobserved, brief, bare]) {
    const bytes = canonical(form as unknown as Json)
    if (Buffer.byteLength(bytes) <= RECORD_LIMITS.bytes && parseRecord(bytes) !== undefined) return bytes
  }
  throw new Error('this node’s own status is not a valid record: labels, zones or addresses are too long')
}

/** Whether the node of the record has signed these bytes. */
export function isSigned({ bytes, sig }: SignedStatus, { node, mesh }: StatusRecord): boolean {
  return verifySignature(node, statusInput(mesh, bytes), sig)
}

function statusInput(mesh: string, bytes: string): Uint8Array {
  return Buffer.concat([
    Buffer.from(STATUS_DOMAIN),
    Buffer.from(mesh, 'hex'),
    Buffer.from([0]),
    Buffer.from(sha256(bytes), 'hex'),
  ])
}

// ---------------------------------------------------------------------------------------------- parsing

const text = z.string().max(1024)
const short = z.string().max(300)
const whole = z.int().min(0)
const digest = z.string().regex(/^[0-9a-f]{64}$/)
const errorSchema = z.object({ code: short, message: text, hint: text.optional() })
const problemSchema = z.object({ path: text, code: short, message: text, hint: text.optional() })

const liveSchema = z.object({
  lane: z.enum(['live', 'reload']),
  reason: short.nullable(),
  target: digest.nullable(),
  desired: whole.nullable(),
  applied: whole.nullable(),
  error: errorSchema.nullable(),
})

/** The receipt of another node as this one shows it: every text bounded, nothing that is not known here kept. */
const receiptSchema = z.object({
  target: digest.nullable(),
  desired: digest.nullable(),
  validated: digest.nullable(),
  applied: digest.nullable(),
  lastGood: digest.nullable(),
  outcome: short.nullable(),
  phase: short,
  error: errorSchema.nullable(),
  problems: z.array(problemSchema).max(32),
  problemCount: whole,
  // Older nodes do not say why.
  isolated: z.array(z.object({ path: text, why: short.optional(), reason: text, serves: short })).max(32),
  at: whole,
  durations: z.record(short, whole),
  // Older nodes say nothing of it.
  live: liveSchema.nullable().default(null),
  drift: whole,
  // Older nodes observe nothing.
  observed: z
    .array(
      z.object({
        path: text,
        circuit: short,
        endpoints: whole,
        ailing: z.array(short).max(16),
        ejected: z.array(short).max(16),
      }),
    )
    .max(32)
    .default([]),
  observedCount: whole.default(0),
  nginx: z.object({
    running: z.boolean(),
    master: whole.nullable(),
    version: short.nullable(),
    modules: z.array(short).max(64).default([]),
    workers: whole,
    draining: whole,
  }),
})

const recordSchema = z.object({
  v: z.literal(1),
  mesh: digest,
  node: digest,
  incarnation: whole.max(RECORD_LIMITS.incarnation),
  sequence: whole,
  at: whole,
  addresses: z.array(short).max(16),
  zones: z.array(short).max(64),
  labels: z.record(short, short),
  version: short,
  digest,
  receipt: receiptSchema.nullable(),
  health: z.object({
    status: z.enum(['Running', 'Degraded', 'Error', 'Unknown']),
    msg: text,
    reasons: z.array(text).max(64),
  }),
  leaving: z.boolean(),
})

/** A record from canonical JSON; undefined when it is none. */
export function parseRecord(bytes: string): StatusRecord | undefined {
  try {
    const value = JSON.parse(bytes) as Json
    const parsed = recordSchema.safeParse(value)
    // The types agree but for closed sets of words, which another version of this software may extend.
    return parsed.success && canonical(value) === bytes ? (parsed.data as StatusRecord) : undefined
  } catch {
    return undefined
  }
}

/** The parts of a signed record; undefined when it has not even these. Its signature is not checked. */
export function asSigned(value: unknown): SignedStatus | undefined {
  const { bytes, sig } = (typeof value === 'object' && value !== null ? value : {}) as Record<string, unknown>
  if (typeof bytes !== 'string' || Buffer.byteLength(bytes) > RECORD_LIMITS.bytes || !isHex(sig, 128)) return undefined
  return { bytes, sig }
}

/** Parses a gossip payload: a signed record as JSON, in which every quote of the record's own JSON takes two bytes. */
export function parseStatusPayload(payload: Uint8Array): unknown {
  if (payload.length > RECORD_LIMITS.bytes * 2 + 1024) return undefined
  try {
    return JSON.parse(Buffer.from(payload).toString('utf8')) as unknown
  } catch {
    return undefined
  }
}

// ---------------------------------------------------------------------------------------------- order

type Version = Pick<StatusRecord, 'incarnation' | 'sequence'>

/** Whether a record of this claimed time was made now, as far as this node's clock can tell. */
export function claimsNow(at: number, clock: Pick<Clock, 'now'>): boolean {
  return Math.abs(at - clock.now()) <= STATUS_SKEW_MS
}

/** Whether the first was made after the second. */
export function isNewer(a: Version, b: Version): boolean {
  return a.incarnation > b.incarnation || (a.incarnation === b.incarnation && a.sequence > b.sequence)
}
