/**
 * What a shortened id, or a name, may mean: keys and envelopes that begin so, keys that a grant calls so: one in force, and
 * where none is, one that was. Lists every candidate that the reader may know of and chooses none; a caller with more than one
 * asks again with more digits. Pure.
 */

import type { Envelope, GrantBody } from '../core/envelope.ts'
import { isName } from '../core/names.ts'
import type { Policy } from '../core/policy.ts'
import type { MeshState } from '../core/state.ts'
import { workspaceOfBody, type Reader } from './access.ts'
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
export function idsLike(text: string, state: MeshState, nodes: Iterable<string>, reader: Reader): IdView[] {
  const { history, policy } = state
  const begins = (id: string): boolean => isIdPrefix(text) && id.startsWith(text)
  const mayRead = ({ body }: Envelope): boolean => reader.mayRead(workspaceOfBody(body))
  const grantsOf = (key: string): Envelope<GrantBody>[] =>
    history
      .grantsOf(key)
      .map((id) => history.get(id) as Envelope<GrantBody>)
      .filter(mayRead)
  const activeGrantsOf = (key: string): Envelope<GrantBody>[] => policy.activeGrants(key).filter(mayRead)
  const namesIn = (grants: readonly Envelope<GrantBody>[]): string[] => grants.flatMap(({ body }) => body.name ?? [])
  const formerNamesOf = (key: string): string[] => namesIn(grantsOf(key).filter((grant) => wasGood(policy, grant)))
  const subjects = [...history.subjects()].filter((key) => grantsOf(key).length > 0)
  const authors = [...history.chains()].filter(({ workspace }) => reader.mayRead(workspace)).map(({ author }) => author)
  const keys = [...new Set([...nodes, ...subjects, ...authors, ...(history.genesis?.body.roots ?? [])])].toSorted()
  const like = (named: (key: string) => string[]) =>
    keys.map((id) => ({ id, names: named(id) })).filter(({ id, names }) => begins(id) || names.includes(text))
  const meant = like((key) => namesIn(activeGrantsOf(key)))
  return [
    ...(meant.length > 0 ? meant : like(formerNamesOf)).map(({ id, names }): IdView => {
      const name = names.includes(text) ? text : (names[0] ?? formerNamesOf(id)[0] ?? null)
      return { id, type: 'key', name, about: null, active: activeGrantsOf(id).length > 0 }
    }),
    ...history.order
      .filter(begins)
      .map((id) => history.get(id) as Envelope)
      .filter(mayRead)
      .map((envelope): IdView => {
        const { id } = envelope
        const { body } = envelope
        const isRevoked = body.type === 'grant' && policy.revocationsOf(envelope as Envelope<GrantBody>).length > 0
        const active = policy.verdict(envelope).accepted && !isRevoked
        return { id, type: body.type, name: null, about: subjectOf(body), active }
      }),
  ]
}

/** Anybody may sign a grant: only one that was accepted once gave a name. */
function wasGood(policy: Policy, grant: Envelope<GrantBody>): boolean {
  const verdict = policy.verdict(grant)
  return verdict.accepted || verdict.denial.code === 'revoked'
}
