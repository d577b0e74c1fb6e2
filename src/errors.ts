/**
 * The one error class and the one table of its codes. Every layer throws MeshError for what an operator
 * can act on; library errors are translated where they are caught and keep their cause. Expected
 * misbehaviour of a peer is a returned verdict, never a throw.
 */

interface CodeTraits {
  /** HTTP status of the API's problem document. */
  readonly http: number
  /** Exit code of `mesh-node` and `meshctl`; docs/cli.md lists them. */
  readonly exit: number
  /** Whether the same call may succeed later without a change by the caller. */
  readonly retryable: boolean
}

/** Every error code with how each interface shows it. */
export const ERROR_CODES = {
  usage: { http: 400, exit: 2, retryable: false },
  config_invalid: { http: 500, exit: 3, retryable: false },
  key_invalid: { http: 400, exit: 3, retryable: false },
  input_invalid: { http: 400, exit: 3, retryable: false },
  resource_invalid: { http: 422, exit: 3, retryable: false },
  envelope_invalid: { http: 400, exit: 3, retryable: false },
  too_large: { http: 413, exit: 3, retryable: false },
  unauthenticated: { http: 401, exit: 4, retryable: false },
  denied: { http: 403, exit: 4, retryable: false },
  not_found: { http: 404, exit: 5, retryable: false },
  method_not_allowed: { http: 405, exit: 2, retryable: false },
  conflict: { http: 409, exit: 6, retryable: true },
  /** Of one request alone: what If-Match or If-None-Match said does not hold. */
  precondition_failed: { http: 412, exit: 6, retryable: false },
  precondition_required: { http: 428, exit: 2, retryable: false },
  rate_limited: { http: 429, exit: 7, retryable: true },
  unavailable: { http: 503, exit: 7, retryable: true },
  timeout: { http: 504, exit: 7, retryable: true },
  store_locked: { http: 503, exit: 9, retryable: true },
  store_corrupt: { http: 503, exit: 9, retryable: false },
  store_unwritable: { http: 503, exit: 9, retryable: true },
  port_in_use: { http: 503, exit: 10, retryable: true },
  nginx_missing: { http: 503, exit: 11, retryable: true },
  nginx_unsupported: { http: 503, exit: 11, retryable: false },
  nginx_refused: { http: 422, exit: 11, retryable: false },
  nginx_failed: { http: 503, exit: 11, retryable: true },
  not_applied: { http: 409, exit: 8, retryable: true },
  internal: { http: 500, exit: 1, retryable: false },
} as const satisfies Record<string, CodeTraits>

export type ErrorCode = keyof typeof ERROR_CODES

export interface ErrorDetails {
  /** Which field of the input is at fault, as the operator wrote it (`spec.routes.root.path`). */
  readonly field?: string
  /** The offending value, shortened. */
  readonly value?: string
  /** What to do about it, as one sentence. */
  readonly hint?: string
  readonly [key: string]: unknown
}

/** An error that an operator can act on. `message` says what happened; `details.hint` says the way out. */
export class MeshError extends Error {
  readonly code: ErrorCode
  readonly details: ErrorDetails

  constructor(code: ErrorCode, message: string, details: ErrorDetails = {}, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause })
    this.name = 'MeshError'
    this.code = code
    this.details = details
  }
}

/** The given error as a MeshError; what is not one already becomes `internal`. */
export function asMeshError(error: unknown): MeshError {
  if (error instanceof MeshError) return error
  return new MeshError('internal', error instanceof Error ? error.message : String(error), {}, error)
}
