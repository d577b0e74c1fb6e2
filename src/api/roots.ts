/**
 * What the API tells of the root set in force: its keys, what it commits to, and which of its acts still lack signatures, so
 * that other roots can add theirs. Called through the table of routes.ts.
 */

import type { z } from 'zod'
import type { Envelope, GenesisBody, RootsetBody } from '../core/envelope.ts'
import type { MeshState } from '../core/state.ts'
import { workspaceOfBody, type Reader } from './access.ts'
import { notFound } from './parameters.ts'
import type { Handler } from './route.ts'
import type { ROOT_SET } from './schemas.ts'

export const getRoots: Handler = (c, { replica }) => {
  const { state } = replica
  const current = state.policy.rootSet()
  if (current === undefined) throw notFound('this node has no mesh yet', 'Give it one: meshctl push genesis.json')
  const { id, body } = current
  return c.json({
    id,
    isGenesis: body.type === 'genesis',
    roots: [...body.roots],
    threshold: body.threshold,
    next: body.next,
    pending: pendingIn(state, current, c.get('reader')),
  } satisfies z.infer<typeof ROOT_SET>)
}

function pendingIn(
  { history, policy }: MeshState,
  { id, body: { roots } }: Envelope<GenesisBody | RootsetBody>,
  reader: Reader,
) {
  const acts = [...history.chains()].filter(({ author }) => roots.includes(author)).flatMap(({ ids }) => ids)
  return [...acts, ...history.rootsetsAfter(id)]
    .map((act) => history.get(act) as Envelope)
    .filter((envelope) => {
      if (!reader.mayRead(workspaceOfBody(envelope.body))) return false
      const verdict = policy.verdict(envelope)
      return !verdict.accepted && verdict.denial.code === 'threshold'
    })
    .map((envelope) => ({ id: envelope.id, signers: Object.keys(envelope.sigs) }))
}
