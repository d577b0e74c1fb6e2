/**
 * ETags, and what a write says of the resource that it rests on: If-Match and If-None-Match (RFC 9110, RFC 6585), so that
 * nobody overwrites what they have not seen. Pure but for reading headers; handlers.ts and writes.ts ask.
 */

import { createHash } from 'node:crypto'
import type { ResourceState } from '../core/document.ts'
import { MeshError } from '../errors.ts'
import type { ApiContext } from './route.ts'

/** Changes with the heads, and with what is visible at them: a revocation may void an edit that others stand on. */
export function etagOf({ heads, hash }: Pick<ResourceState, 'heads' | 'hash'>): string {
  return `"${createHash('sha256')
    .update([...heads, hash].join())
    .digest('hex')
    .slice(0, 32)}"`
}

/** The entity tags of a header, or `*`. */
export function tagsIn(header: string | undefined): string[] {
  return header?.trim().split(/\s*,\s*/) ?? []
}

/**
 * @param state undefined when no edit ever touched the resource.
 * @throws MeshError `precondition_required` when a write says nothing of what it rests on, `precondition_failed` when it is wrong,
 * `input_invalid` when it names what it does not rest on: that would let it overwrite whatever else there is.
 */
export function checkPreconditions(c: ApiContext, path: string, state: ResourceState | undefined): void {
  const exists = state?.exists === true
  const match = c.req.header('if-match')
  const noneMatch = c.req.header('if-none-match')
  if (noneMatch !== undefined && noneMatch.trim() !== '*') {
    throw new MeshError('input_invalid', 'If-None-Match of an edit takes * alone', {
      field: 'if-none-match',
      hint: 'Send If-None-Match: * to create, or If-Match with the ETag that GET answers to change.',
    })
  }
  if (exists && match === undefined && noneMatch === undefined) {
    throw new MeshError('precondition_required', `${path} exists: say which state of it you have seen`, {
      field: 'if-match',
      hint: 'Send If-Match with the ETag that GET answers.',
    })
  }
  if (!exists && match === undefined && noneMatch === undefined) {
    throw new MeshError('precondition_required', `${path} does not exist: say that you mean to create it`, {
      field: 'if-none-match',
      hint: 'Send If-None-Match: *',
    })
  }
  const tags = tagsIn(match)
  if (match !== undefined && !(exists && (match.trim() === '*' || tags.includes(etagOf(state))))) {
    const what = exists ? `${path} is not as you have seen it: somebody has changed it` : `${path} does not exist`
    throw new MeshError('precondition_failed', what, {
      field: 'if-match',
      hint: exists ? 'GET it again, and repeat your change on what it is now.' : 'To create it send If-None-Match: *',
    })
  }
  if (noneMatch !== undefined && exists) {
    throw new MeshError('precondition_failed', `${path} exists`, {
      field: 'if-none-match',
      hint: 'GET it, and send If-Match with its ETag.',
    })
  }
}
