/**
 * The way in for signed envelopes: reads and bounds the body, hands what is in it to the replica, and says what became of
 * each. Judges no envelope. Called through the table of routes.ts.
 */

import { wireFromJson } from '../core/codec.ts'
import { LIMITS, parseBody, parseEnvelope, type WireEnvelope } from '../core/envelope.ts'
import { MeshError } from '../errors.ts'
import type { Replica } from '../replica.ts'
import { invalid } from './parameters.ts'
import { problemResponse, UNSUPPORTED_MEDIA_TYPE } from './problem.ts'
import type { ApiContext, Handler } from './route.ts'
import { outcomeView } from './views.ts'

export const SUBMISSION_LIMITS = {
  /** Of a request; beyond it 413. */
  bodyBytes: 1024 * 1024,
  /** Of one that is too large, read and thrown away before the answer: who is still writing would not get it. */
  discardedBytes: 4 * 1024 * 1024,
  /** Envelopes of one request; beyond it 400. */
  envelopes: 256,
} as const

export const submitEdits: Handler = async (c, { replica, mayTakeEdits }) => {
  const fault = mediaTypeFault(c)
  if (fault !== undefined) return fault
  const wires = parseSubmission(await readBody(c.req.raw))
  checkTakesEdits(mayTakeEdits() || mayRestore(wires))
  await adoptGenesis(replica, wires[0])
  const outcomes = await replica.submit(wires, 'api')
  const [only] = outcomes
  if (outcomes.length === 1 && only?.outcome === 'refused') throw new MeshError(only.code, only.reason)
  const isMixed = outcomes.some(({ outcome }) => outcome === 'refused')
  return c.json({ outcomes: outcomes.map(outcomeView) }, isMixed ? 207 : 202)
}

/** @throws MeshError `denied` for a node that is out of the mesh. */
export function checkTakesEdits(mayTakeEdits: boolean): void {
  if (mayTakeEdits) return
  throw new MeshError('denied', 'this node’s grant was revoked, so it takes no edits', {
    hint: 'Give another node of the mesh with --api.',
  })
}

/**
 * Whether this could give a revoked node its place back: it takes the right away from somebody. A rogue admin can cut off
 * every node at once, and then there is no other to give it to.
 */
function mayRestore(wires: readonly WireEnvelope[]): boolean {
  const types = wires.map(({ bytes }) => parseBody(bytes).type)
  return !types.includes('edit') && (types.includes('revoke') || types.includes('rootset'))
}

/** The answer to a body that does not call itself JSON. */
export function mediaTypeFault(c: ApiContext): Response | undefined {
  const mediaType = c.req.header('content-type')?.split(';')[0]?.trim().toLowerCase()
  if (mediaType === 'application/json') return undefined
  const error = new MeshError('input_invalid', `the content type ${JSON.stringify(mediaType ?? '')} is not supported`, {
    field: 'content-type',
    hint: 'Send application/json.',
  })
  return problemResponse(error, { status: UNSUPPORTED_MEDIA_TYPE })
}

/** @throws MeshError `input_invalid` */
export function parseJson(text: string): unknown {
  try {
    return JSON.parse(text) as unknown
  } catch (error) {
    throw new MeshError('input_invalid', `the body is not JSON: ${(error as Error).message}`, { field: 'body' }, error)
  }
}

/** A node without a mesh takes the first genesis that somebody on its host gives it; a pinned mesh id takes only its own. */
async function adoptGenesis(replica: Replica, first: WireEnvelope | undefined): Promise<void> {
  if (first === undefined || replica.state.meshId !== undefined) return
  const isGenesis = parseEnvelope(first, replica.meshId).body.type === 'genesis'
  if (isGenesis) await replica.adopt(first)
}

/** @throws MeshError `too_large` beyond the limit; the connection is then of no further use. */
export async function readBody(
  request: Request,
  bodyBytes: number = SUBMISSION_LIMITS.bodyBytes,
  hint = `Send fewer envelopes at once; each may have ${LIMITS.bodyBytes} bytes.`,
): Promise<string> {
  const { discardedBytes } = SUBMISSION_LIMITS
  const announced = Number(request.headers.get('content-length') ?? 0)
  const chunks: Uint8Array[] = []
  let size = announced
  if (size <= discardedBytes && request.body !== null) {
    size = 0
    for await (const chunk of request.body) {
      size += chunk.length
      if (size <= bodyBytes) chunks.push(chunk)
      else if (size > discardedBytes) break
    }
  }
  if (size > bodyBytes) {
    throw new MeshError('too_large', `the request is over ${bodyBytes} bytes`, {
      field: 'body',
      hint,
    })
  }
  return Buffer.concat(chunks).toString('utf8')
}

function parseSubmission(text: string): WireEnvelope[] {
  const value = parseJson(text)
  const { envelopes, ...rest } = (typeof value === 'object' && value !== null ? value : {}) as Record<string, unknown>
  const [unknown] = Object.keys(rest)
  if (unknown !== undefined) throw invalid(unknown, '', 'is not a member of a submission; only envelopes is')
  if (!Array.isArray(envelopes) || envelopes.length === 0 || envelopes.length > SUBMISSION_LIMITS.envelopes) {
    throw new MeshError('input_invalid', `envelopes must be a list of 1 to ${SUBMISSION_LIMITS.envelopes} envelopes`, {
      field: 'envelopes',
      hint: 'Send {"envelopes": [{"bytes": "...", "sigs": {"...": "..."}}]}.',
    })
  }
  return envelopes.map((envelope, index) => wireFromJson(envelope, `envelopes[${index}]`))
}
