/**
 * Grants that would have no effect, since a revocation of their key bars them for ever. Told before anything is signed; which
 * revocations there are is the asked node's word. Called by policy.ts.
 */

import { parseBody, type GrantBody, type RevokeBody } from '../../core/envelope.ts'
import { denial } from '../../core/policy.ts'
import type { ApiClient } from '../asking/client.ts'
import type { GrantScope } from './grant-scope.ts'
import { HISTORY_MAX } from './held.ts'

/** Those of the grants that a revocation in force takes away, whoever signs them. */
export async function barredAmong<G extends GrantScope>(client: ApiClient, grants: readonly G[]): Promise<G[]> {
  if (grants.length === 0) return []
  const targets = new Set(grants.map(({ subject }) => `key/${subject}`))
  const found = await client.edits(
    { order: 'desc' },
    HISTORY_MAX,
    ({ type, about, verdict }) => type === 'revoke' && verdict.accepted && targets.has(about ?? ''),
  )
  const bars = await Promise.all(found.map(({ id, grant }) => barOf(client, id, grant ?? '')))
  return grants.filter((grant) => bars.some((isBarred) => isBarred(grant)))
}

/** Whom a revocation bars: as the rule has it, nobody above who signed it. */
async function barOf(client: ApiClient, id: string, under: string): Promise<(grant: GrantScope) => boolean> {
  const [stored, exercised] = await Promise.all([client.edit(id), client.edit(under)])
  if (stored === undefined || exercised === undefined) return () => false
  const revocation = parseBody(stored.envelope.bytes) as RevokeBody
  const authority = parseBody(exercised.envelope.bytes)
  if (authority.type === 'edit' || authority.type === 'revoke') return () => false
  return (grant) =>
    revocation.target === `key/${grant.subject}` &&
    denial(revocation, [revocation.by], authority, { ...grant, type: 'grant' } as GrantBody) === undefined
}
