/**
 * Grants in force for the verbs that change many at once: proven by their signed bytes, and taken away with what was done
 * under them kept. Used by policy.ts, rotate.ts and nodes.ts.
 */

import type { GrantView } from '../api/schemas.ts'
import { grantView } from '../api/views.ts'
import { LIMITS } from '../core/envelope.ts'
import { MeshError } from '../errors.ts'
import type { Author, Sent } from './author.ts'
import { headsOf, HISTORY_MAX, tellMissing } from './authority.ts'
import type { Cli } from './cli.ts'
import type { ApiClient } from './client.ts'
import { provenGrants } from './granted.ts'
import { scopeOf, type Held } from './grant-scope.ts'
import { plain } from './terminal.ts'

/**
 * Grants that the asked node says are in force. What they say is proven; that nothing took them away is the node's word.
 * @throws MeshError `denied` when a grant that the node lists does not follow from the genesis
 */
export async function heldGrants(cli: Cli, isWanted: (view: GrantView) => boolean): Promise<Held[]> {
  const views = (await (await cli.client()).grants()).filter(isWanted)
  const proven = (await provenGrants(cli, views)).map((grant) => ({
    view: grantView(grant),
    says: scopeOf(grant.body),
  }))
  // It may be listed as something else than it is.
  return proven.filter(({ view }) => isWanted(view))
}

export interface Taking {
  /** `grant/<id>` or `key/<public key>`. */
  readonly target: string
  /** Workspace of the revocation. */
  readonly ws: string
  /** What goes with it; all of one key. */
  readonly of: readonly GrantView[]
  readonly note: string
}

/** Revokes. What the key did so far stays, as far as the asked node knows it. */
export async function takeAway(client: ApiClient, author: Author, { target, ws, of, note }: Taking): Promise<Sent> {
  const history = await client.edits({ author: (of[0] as GrantView).subject }, HISTORY_MAX)
  const keep = headsOf(history.filter(({ workspace }) => ws === '*' || workspace === ws))
  if (keep.length > LIMITS.keep) {
    throw new MeshError(
      'too_large',
      `the key has ${keep.length} heads, and a revocation keeps at most ${LIMITS.keep}`,
      {
        hint: 'Revoke its grants one by one, workspace by workspace: meshctl revoke GRANT-ID -w NAME',
      },
    )
  }
  return await author.send({ type: 'revoke', ws, note, target, keep }, of)
}

/** Something to be signed, in words. */
export interface Act {
  readonly what: string
  readonly sign: () => Promise<Sent>
}

/** Signs one after the other, and tells how far it came when one fails. Whether all of them count without further signatures. */
export async function signInTurn(cli: Cli, acts: readonly Act[]): Promise<boolean> {
  let counts = true
  for (const [index, { what, sign }] of acts.entries()) {
    const sent = await sign().catch((error: unknown) => {
      cli.note(`${index} of ${acts.length} were signed before this failed: ${plain(what)}; run it again to go on`)
      throw error
    })
    cli.out(`${sent.id}\n`)
    counts = !tellMissing(cli, sent) && counts
  }
  return counts
}

/** The one of all these grants, or every. */
export function workspaceOf(grants: readonly GrantView[]): string {
  const workspaces = [...new Set(grants.map(({ workspace }) => workspace))]
  return workspaces.length === 1 ? (workspaces[0] as string) : '*'
}
