/**
 * The messages of anti-entropy and their limits: requests, answers, and the frames that carry them. Both sides check what
 * they receive with these schemas; what to ask and what to answer is decided in sync-round.ts and sync.ts.
 */

import { z } from 'zod'
import { decodeEnvelopes, encodedSize, encodeEnvelopes, LIST_MAX } from '../core/codec.ts'
import type { WireEnvelope } from '../core/envelope.ts'
import { MeshError } from '../errors.ts'
import { MAX_MESSAGE_BYTES } from '../ports.ts'
import { STATUS_LIMITS } from '../status/status.ts'

/** Leaves room for the head of a frame. */
const PAGE_BYTES = MAX_MESSAGE_BYTES - 64 * 1024
/** Envelopes, or items, in one message. */
export const PAGE_ITEMS = LIST_MAX
/** Chains in one answer: some 300 bytes each. */
export const PAGE_CHAINS = 2048
/** Ranges that one range is split into. */
export const RANGE_PARTS = 16

const hash = z.string().regex(/^[0-9a-f]{64}$/)
const item = z.string().regex(/^[0-9a-f]{64}(?::[0-9a-f]{64})?$/)
const position = z.int().min(0)
const workspace = z.string().max(63)
const chainRange = { workspace, author: hash, from: position, to: position }

const REQUEST = z.discriminatedUnion('ask', [
  z.strictObject({ ask: z.literal('hello'), mesh: hash.nullable() }),
  /** Chains from place `after` of the sorted list; none when the digests are equal. */
  z.strictObject({ ask: z.literal('summary'), digest: hash, after: position }),
  /** Summaries of the parts that `splitRange` makes of a range. */
  z.strictObject({ ask: z.literal('ranges'), ...chainRange }),
  z.strictObject({ ask: z.literal('items'), ...chainRange, skip: position }),
  z.strictObject({ ask: z.literal('fetch'), ids: z.array(hash).max(PAGE_ITEMS) }),
  /** Envelopes in the peer's causal order. */
  z.strictObject({ ask: z.literal('log'), from: position }),
  /** Status records newer than those named: node, incarnation, sequence. */
  z.strictObject({
    ask: z.literal('status'),
    known: z.array(z.tuple([hash, position, position])).max(STATUS_LIMITS.records + 1),
  }),
  /** Brings revocations of the peer's own grants, before it is cut off. */
  z.strictObject({ ask: z.literal('take') }),
])
export type Request = z.infer<typeof REQUEST>
export type Ask<A extends Request['ask']> = Extract<Request, { ask: A }>

const chainSummary = z.strictObject({ workspace, author: hash, count: position, highestN: position, hash })
const ANSWERS = {
  hello: z.strictObject({ mesh: hash.nullable(), settled: z.boolean() }),
  summary: z.strictObject({ digest: hash, chains: z.array(chainSummary).max(PAGE_CHAINS), next: position.nullable() }),
  ranges: z.strictObject({ ranges: z.array(z.tuple([position, hash])).max(RANGE_PARTS) }),
  /** Item and its position in the peer's own causal order. */
  items: z.strictObject({ items: z.array(z.tuple([item, position])).max(PAGE_ITEMS) }),
  fetch: z.strictObject({}),
  log: z.strictObject({ next: position.nullable() }),
  /** Signed records, each with its age at the peer, ms. */
  status: z.strictObject({ records: z.array(z.tuple([z.unknown(), position])).max(PAGE_ITEMS), more: z.boolean() }),
  take: z.strictObject({}),
} as const satisfies Record<Request['ask'], z.ZodType>
export type Answer<A extends Request['ask']> = z.infer<(typeof ANSWERS)[A]>

const REFUSAL = z.strictObject({ error: z.string().max(100) })

/** A request with the envelopes behind it. @throws MeshError `envelope_invalid` or `too_large`. */
export function parseRequest(frame: Uint8Array): { request: Request; envelopes: WireEnvelope[] } {
  const { head, envelopes } = decodeFrame(frame)
  const parsed = REQUEST.safeParse(head)
  if (!parsed.success) throw new MeshError('envelope_invalid', 'not a request', {}, parsed.error)
  return { request: parsed.data, envelopes }
}

/** The answer to a request. @throws MeshError `envelope_invalid` or `too_large`; `unavailable` when the peer refused to answer. */
export function parseAnswer<A extends Request['ask']>(
  ask: A,
  frame: Uint8Array,
): { answer: Answer<A>; envelopes: WireEnvelope[] } {
  const { head, envelopes } = decodeFrame(frame)
  const refusal = REFUSAL.safeParse(head)
  if (refusal.success) throw new MeshError('unavailable', `the peer refused ${ask}: ${refusal.data.error}`)
  const parsed = ANSWERS[ask].safeParse(head)
  if (!parsed.success) throw new MeshError('envelope_invalid', `not an answer to ${ask}`, {}, parsed.error)
  return { answer: parsed.data as Answer<A>, envelopes }
}

/** A frame: length of the JSON head, the head, envelopes behind it. */
export function encodeFrame(head: unknown, envelopes: readonly WireEnvelope[] = []): Uint8Array {
  const json = Buffer.from(JSON.stringify(head))
  const length = Buffer.alloc(4)
  length.writeUInt32BE(json.length)
  return Buffer.concat([length, json, encodeEnvelopes(envelopes)])
}

function decodeFrame(frame: Uint8Array): { head: unknown; envelopes: WireEnvelope[] } {
  const buffer = Buffer.from(frame.buffer, frame.byteOffset, frame.byteLength)
  const end = buffer.length < 4 ? Infinity : 4 + buffer.readUInt32BE(0)
  if (end > buffer.length) throw new MeshError('envelope_invalid', 'a sync message is cut short')
  let head: unknown
  try {
    head = JSON.parse(buffer.subarray(4, end).toString('utf8'))
  } catch (error) {
    throw new MeshError('envelope_invalid', 'the head of a sync message is not JSON', {}, error)
  }
  return { head, envelopes: decodeEnvelopes(buffer.subarray(end)) }
}

/** As many envelopes from the front as fit into one message; at least one. */
export function fitPage<T extends WireEnvelope>(envelopes: readonly T[]): T[] {
  let bytes = 0
  const end = envelopes.findIndex((envelope, index) => {
    bytes += encodedSize(envelope)
    return index === PAGE_ITEMS || (index > 0 && bytes > PAGE_BYTES)
  })
  return end === -1 ? [...envelopes] : envelopes.slice(0, end)
}
