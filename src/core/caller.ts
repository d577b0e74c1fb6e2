/**
 * Edits that a node signs for who asks its API: which grants are for that, how such an edit names the caller, and who may be
 * believed to name one. Pure. The name of a caller is the word of the holder of the edit key; policy never asks for it.
 */

import type { Authority } from './authoring.ts'
import { LIMITS, type EditBody, type Envelope, type GrantBody } from './envelope.ts'
import type { History } from './history.ts'
import { hostCovers, parseResourcePath, unescapeSegment } from './names.ts'
import { denial, RANKS } from './policy.ts'

/** Stands for callers among the kinds of a grant: its edits may be signed for others, and name them. `*` does not cover it. */
export const CALLER_KIND = 'caller'

/**
 * Whether edits under a grant may be for others. Whoever grants it says so, and nobody above an editor: a host that is
 * broken into has the key.
 */
export function isForCallers({ role, kinds }: Pick<GrantBody, 'role' | 'kinds'>): boolean {
  return RANKS[role] === RANKS.editor && kinds.includes(CALLER_KIND)
}

const PREFIX = /^for ([0-9a-f]{64})(?:: |$)/

/** Bytes that a caller's own note may have. */
export const CALLER_NOTE_BYTES: number = LIMITS.noteBytes - noteFor('0'.repeat(64), ' ').length + 1

/** The note of an edit that is signed for a caller. @param note the caller's own, which may be anything, also this form. */
export function noteFor(caller: string, note: string): string {
  return note === '' ? `for ${caller}` : `for ${caller}: ${note}`
}

/** For whom an edit was signed, on the word of its signer; undefined for one under any other grant, whatever its note says. */
export function callerOf({ body }: Envelope, history: Pick<History, 'get'>): string | undefined {
  if (body.type !== 'edit') return undefined
  const exercised = history.get(body.grant)?.body
  if (exercised?.type !== 'grant' || !isForCallers(exercised)) return undefined
  return PREFIX.exec(body.note)?.[1]
}

/** The caller's own part of a note that names one. */
export function ownNote(note: string): string {
  return note.replace(PREFIX, '')
}

/**
 * What a grant of the caller lacks for an edit that another key signs: what policy says, and the limits of the grant that
 * nodes would otherwise ask of the signer's.
 */
export function callerLack({ exercised }: Authority, body: EditBody): string | undefined {
  const denied = denial(body, [body.by], exercised)
  if (denied !== undefined) return denied.message
  const { hosts, quota } = exercised as GrantBody
  for (const [path, , ops] of body.edits) {
    const created = ops.some(([action, field]) => action === 'set' && field === '$')
    if (created && quota !== undefined) return 'the grant has a quota, and another key’s edits are not charged to it'
    if (hosts === undefined || parseResourcePath(path)?.kind !== 'site') continue
    const host = ops.map(hostIn).find((one) => one !== undefined && !hosts.some((pattern) => hostCovers(pattern, one)))
    if (host !== undefined) return `the grant covers hosts ${hosts.join(', ')}, not ${host}`
  }
  return undefined
}

/** The host name that an operation gives a site. */
function hostIn([action, field]: readonly [string, string, ...unknown[]]): string | undefined {
  return action === 'set' && field.startsWith('hosts/') ? unescapeSegment(field.slice('hosts/'.length)) : undefined
}
