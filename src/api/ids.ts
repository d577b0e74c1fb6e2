/**
 * What a shortened id, or a name, may mean: keys and envelopes that begin so, keys that a grant in force calls so. Lists every
 * candidate and chooses none; a caller with more than one asks again with more digits. Pure.
 */

import type { Envelope, GrantBody } from '../core/envelope.ts'
import { isName } from '../core/names.ts'
import type { MeshState } from '../core/state.ts'
import type { IdView } from './schemas.ts'
import { subjectOf } from './views.ts'

/** Fewer digits would soon mean several things. */
const DIGITS_MIN = 8
const PREFIX = new RegExp(`^[0-9a-f]{${DIGITS_MIN},64}$`)

/** What may be asked for, in words. */
export const ID_FORM = `64 lower-case hex digits, the first ${DIGITS_MIN} of them or more, or a name`

/** Whether a text may be an id, a key, or the beginning of one. */
export function isIdPrefix(text: string): boolean {
  return PREFIX.test(text)
}

/** The same, or a name. */
export function isIdText(text: string): boolean {
  return isIdPrefix(text) || isName(text)
}

/** @param nodes keys that are known without a grant. */
export function idsLike(text: string, state: MeshState, nodes: Iterable<string>): IdView[] {
  const { history, policy } = state
  const begins = (id: string): boolean => isIdPrefix(text) && id.startsWith(text)
  const authors = [...history.chains()].map(({ author }) => author)
  const keys = new Set([...nodes, ...history.subjects(), ...authors, ...(history.genesis?.body.roots ?? [])])
  const namesOf = (key: string): string[] => policy.activeGrants(key).flatMap(({ body }) => body.name ?? [])
  return [
    ...[...keys]
      .map((id) => ({ id, names: namesOf(id) }))
      .filter(({ id, names }) => begins(id) || names.includes(text))
      .toSorted((a, b) => (a.id < b.id ? -1 : 1))
      .map(({ id, names }): IdView => {
        const name = names.includes(text) ? text : (names[0] ?? null)
        return { id, type: 'key', name, about: null, active: policy.activeGrants(id).length > 0 }
      }),
    ...history.order.filter(begins).map((id): IdView => {
      const envelope = history.get(id) as Envelope
      const { body } = envelope
      const isRevoked = body.type === 'grant' && policy.revocationsOf(envelope as Envelope<GrantBody>).length > 0
      const active = policy.verdict(envelope).accepted && !isRevoked
      return { id, type: body.type, name: null, about: subjectOf(body), active }
    }),
  ]
}
