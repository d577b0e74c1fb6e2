/**
 * Grants in force, proven by their signed bytes, and taken away with what was done under them kept. Used by authority.ts,
 * policy.ts, rotate.ts and nodes.ts.
 */

import type { EditView, GrantView } from '../../api/schemas.ts'
import { grantView } from '../../api/views.ts'
import { LIMITS } from '../../core/envelope.ts'
import { MeshError } from '../../errors.ts'
import type { Author, Sent } from '../signing/author.ts'
import type { Cli } from '../cli.ts'
import type { ApiClient } from '../asking/client.ts'
import { provenGrants } from './granted.ts'
import { scopeOf, type GrantScope } from './grant-scope.ts'
import { plain, short } from '../terminal.ts'

export const HISTORY_MAX = 1_000_000

/** A grant in force, by its signed bytes. */
export interface Held {
  readonly view: GrantView
  readonly says: GrantScope
}

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

// ---------------------------------------------------------------------------------------------- taking away

/** Something that a key signed, as other answers of a node than that key's history name it. */
export interface Trace {
  readonly id: string
  readonly by: string
  readonly ws: string
  /** For people, after "that of". */
  readonly what: string
}

/** What the grants and resources that a node shows say about who signed what. To be read before the histories are. */
export async function tracesIn(client: ApiClient): Promise<Trace[]> {
  const grants = await client.grants()
  const resources = await client.resources({})
  return [
    ...grants.map(({ id, by, workspace }) => ({ id, by, ws: workspace, what: `grant ${short(id)}` })),
    ...resources.flatMap(({ path, workspace, created, conflicts, lost }) =>
      [...(created === null ? [] : [created]), ...Object.values(conflicts).flat(), ...lost].map(({ edit, by }) => ({
        id: edit,
        by,
        ws: workspace,
        what: path,
      })),
    ),
  ]
}

/**
 * What a key signed in a workspace, in the order in which the asked node took it in. A revocation voids all of it that this
 * does not hold, so it is compared with whatever else the node says.
 * @throws MeshError `unavailable` when the node shows what the key did, and not the edit that did it
 */
export async function historyOf(
  client: ApiClient,
  { key, ws }: { readonly key: string; readonly ws: string },
  traces: readonly Trace[],
): Promise<EditView[]> {
  const heads = (await client.chains(key)).flatMap((chain) =>
    chain.heads.map(({ id }): Trace => ({
      id,
      by: key,
      ws: chain.workspace,
      what: `the end of its chain (${short(id)})`,
    })),
  )
  const all = await client.edits({ author: key }, HISTORY_MAX)
  const history = all.filter(({ workspace }) => ws === '*' || workspace === ws)
  const known = new Set(history.map(({ id }) => id))
  const hidden = [...traces, ...heads].find(
    ({ id, by, ws: where }) => by === key && (ws === '*' || where === ws) && !known.has(id),
  )
  if (hidden === undefined) return history
  throw new MeshError(
    'unavailable',
    `the node shows ${history.length} edits by ${short(key)}, and not that of ${plain(hidden.what)}, which a revocation would make void`,
    { hint: 'Ask another node with --api: this one lags behind, or lies.' },
  )
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

/** Revokes. What the key did so far stays, as far as the asked node knows it; it tells how much that is. */
export async function takeAway(cli: Cli, author: Author, taking: Taking, traces: readonly Trace[]): Promise<Sent> {
  const key = (taking.of[0] as GrantView).subject
  const history = await historyOf(await cli.client(), { key, ws: taking.ws }, traces)
  tellKept(cli, key, history)
  return await signRevocation(author, taking, history)
}

export function tellKept(cli: Cli, key: string, { length }: readonly EditView[]): void {
  cli.note(`keeps ${length === 1 ? '1 edit' : `${length} edits`} by ${short(key)}, all that this node shows`)
}

/** @param kept what stays accepted of the key's history */
export async function signRevocation(
  author: Author,
  { target, ws, of, note }: Taking,
  kept: readonly EditView[],
): Promise<Sent> {
  const keep = headsOf(kept)
  if (keep.length > LIMITS.keep) {
    throw new MeshError(
      'too_large',
      `the key has ${keep.length} heads, and a revocation keeps at most ${LIMITS.keep}`,
      { hint: 'Revoke its grants one by one, workspace by workspace: meshctl revoke GRANT-ID -w NAME' },
    )
  }
  return await author.send({ type: 'revoke', ws, note, target, keep }, of)
}

/** Those that none of the others follows, sorted. */
export function headsOf(edits: readonly EditView[]): string[] {
  const followed = new Set(edits.flatMap(({ prev }) => prev))
  return edits
    .filter(({ id }) => !followed.has(id))
    .map(({ id }) => id)
    .toSorted()
}

// ---------------------------------------------------------------------------------------------- signing

/** Whether other roots have to sign an act before it counts. */
export function tellMissing(cli: Cli, { id, missing }: Sent): boolean {
  if (missing === 0) return false
  const signatures = missing === 1 ? '1 more root has' : `${missing} more roots have`
  cli.note(`signed by one root; it counts when ${signatures} signed it: meshctl cosign ${id} -k KEY`)
  return true
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
export function commonWorkspace(grants: readonly GrantView[]): string {
  const workspaces = [...new Set(grants.map(({ workspace }) => workspace))]
  return workspaces.length === 1 ? (workspaces[0] as string) : '*'
}
