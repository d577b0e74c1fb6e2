/**
 * The way in for signed envelopes: reads and bounds the body, hands what is in it to the replica, and says what became of
 * each. Judges no envelope. Called through the table of routes.ts.
 */

import { wireFromJson } from '../core/codec.ts'
import { LIMITS, parseEnvelope, type WireEnvelope } from '../core/envelope.ts'
import { MeshError } from '../errors.ts'
import type { Replica } from '../replica.ts'
import { invalid } from './parameters.ts'
import { problemResponse, UNSUPPORTED_MEDIA_TYPE } from './problem.ts'
import type { Handler } from './route.ts'
import { outcomeView } from './views.ts'

export const SUBMISSION_LIMITS = {
  /** Of a request; beyond it 413. */
  bodyBytes: 1024 * 1024,
  /** Envelopes of one request; beyond it 400. */
  envelopes: 256,
} as const

export const submitEdits: Handler = async (c, { replica, mayTakeEdits }) => {
  if (!mayTakeEdits()) {
    throw new MeshError('denied', 'this node’s grant was revoked, so it takes no edits', {
      hint: 'Give another node of the mesh with --api.',
    })
  }
  const mediaType = c.req.header('content-type')?.split(';')[0]?.trim().toLowerCase()
  if (mediaType !== 'application/json') {
    const error = new MeshError(
      'input_invalid',
      `the content type ${JSON.stringify(mediaType ?? '')} is not supported`,
      {
        field: 'content-type',
        hint: 'Send application/json.',
      },
    )
    return problemResponse(error, { status: UNSUPPORTED_MEDIA_TYPE })
  }
  const wires = parseSubmission(await readBody(c.req.raw))
  await adoptGenesis(replica, wires[0])
  const outcomes = await replica.submit(wires, 'api')
  const [only] = outcomes
  if (outcomes.length === 1 && only?.outcome === 'refused') throw new MeshError(only.code, only.reason)
  const isMixed = outcomes.some(({ outcome }) => outcome === 'refused')
  return c.json({ outcomes: outcomes.map(outcomeView) }, isMixed ? 207 : 202)
}

/** A node without a mesh takes the first genesis that somebody on its host gives it; a pinned mesh id takes only its own. */
async function adoptGenesis(replica: Replica, first: WireEnvelope | undefined): Promise<void> {
  if (first === undefined || replica.state.meshId !== undefined) return
  const isGenesis = parseEnvelope(first, replica.meshId).body.type === 'genesis'
  if (isGenesis) await replica.adopt(first)
}

/** @throws MeshError `too_large` beyond the limit; the connection is then of no further use. */
export async function readBody(request: Request): Promise<string> {
  const { bodyBytes } = SUBMISSION_LIMITS
  const announced = Number(request.headers.get('content-length') ?? 0)
  const chunks: Uint8Array[] = []
  let size = announced
  if (size <= bodyBytes && request.body !== null) {
    size = 0
    for await (const chunk of request.body) {
      size += chunk.length
      if (size > bodyBytes) break
      chunks.push(chunk)
    }
  }
  if (size > bodyBytes) {
    throw new MeshError('too_large', `the request is over ${bodyBytes} bytes`, {
      field: 'body',
      hint: `Send fewer envelopes at once; each may have ${LIMITS.bodyBytes} bytes.`,
    })
  }
  return Buffer.concat(chunks).toString('utf8')
}

function parseSubmission(text: string): WireEnvelope[] {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (error) {
    throw new MeshError('input_invalid', `the body is not JSON: ${(error as Error).message}`, { field: 'body' }, error)
  }
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
