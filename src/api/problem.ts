/**
 * Errors as `application/problem+json` (RFC 9457): the one place where an error becomes an answer. Tells a caller what
 * happened, which field and what to do; never a stack trace, and nothing of an internal error but that it happened.
 */

import { ERROR_CODES, type MeshError } from '../errors.ts'
import type { Problem } from './schemas.ts'

/** Statuses of the HTTP layer that no error code stands for. */
export const UNSUPPORTED_MEDIA_TYPE = 415

/** @param status overrides the status of the error's code. */
export function problemOf(error: MeshError, status: number = ERROR_CODES[error.code].http): Problem {
  const { field, hint } = error.details
  return {
    type: `urn:nxmesh:problem:${error.code}`,
    title: error.code.replaceAll('_', ' '),
    status,
    code: error.code,
    detail: error.code === 'internal' ? 'an internal error; the node’s log says more' : error.message,
    ...(field === undefined ? {} : { field }),
    ...(hint === undefined ? {} : { hint }),
  }
}

/** @param extra further members of the document. */
export function problemResponse(error: MeshError, options: ProblemOptions = {}): Response {
  const problem = problemOf(error, options.status)
  const headers = new Headers({ 'content-type': 'application/problem+json', ...options.headers })
  if (problem.status === 401) headers.set('www-authenticate', 'Bearer realm="nxmesh"')
  if (ERROR_CODES[error.code].retryable && problem.status !== 409) headers.set('retry-after', '1')
  return new Response(JSON.stringify({ ...problem, ...options.extra }), { status: problem.status, headers })
}

export interface ProblemOptions {
  readonly status?: number
  readonly headers?: Readonly<Record<string, string>>
  readonly extra?: Readonly<Record<string, unknown>>
}
