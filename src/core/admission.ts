/**
 * Whether a parsed envelope may be stored: its links and what its grant allows. The same gate for API, gossip, sync, file
 * and disk; called by the replica only. What is refused here can never become right later; what waits, may.
 */

import { FOREIGN_SIGNATURES, type Authorising, type Envelope, type GenesisBody, type GrantBody } from './envelope.ts'
import type { Lookup } from './history.ts'
import { denial } from './policy.ts'

export type Admission =
  /** To be stored. */
  | { readonly outcome: 'ready' }
  /** Names envelopes that are not known here; to be asked for. */
  | { readonly outcome: 'waiting'; readonly missing: readonly string[] }
  /** Can never count. Not stored, not relayed. */
  | { readonly outcome: 'refused'; readonly reason: string }

const READY: Admission = { outcome: 'ready' }

/** Checks an envelope that `parseEnvelope` passed against what is known. */
export function admit(envelope: Envelope, lookup: Lookup): Admission {
  const { body } = envelope
  if (body.type === 'genesis') return admitGenesis(envelope as Envelope<GenesisBody>)
  const targetId = revokedGrant(body)
  const named = namedBy(body)
  const missing = [...new Set(named)].filter((id) => lookup.get(id) === undefined)
  if (missing.length > 0) return { outcome: 'waiting', missing }

  const exercised = lookup.get(body.grant)?.body
  if (exercised === undefined || !isAuthorising(exercised)) return refused('grant names neither a grant nor a root set')
  const signers = Object.keys(envelope.sigs)
  if (exercised.type === 'grant' && signers.length > 1 && body.type !== 'rootset') return refused(FOREIGN_SIGNATURES)
  const target = targetId === undefined ? undefined : lookup.get(targetId)?.body
  if (targetId !== undefined && target?.type !== 'grant') return refused('target does not name a grant')
  const linkError =
    chainError(envelope, lookup) ?? dependencyError(envelope, lookup) ?? keepError(envelope, exercised, lookup)
  if (linkError !== undefined) return refused(linkError)
  const denied = denial(body, signers, exercised, target as GrantBody | undefined)
  return denied === undefined ? READY : refused(denied.message)
}

/** The envelopes that one names, and that must be known before it. */
export function namedBy(body: Exclude<Envelope['body'], GenesisBody>): string[] {
  const targetId = revokedGrant(body)
  return [
    body.grant,
    ...body.prev,
    ...(body.type === 'edit' ? body.edits.flatMap(([, deps]) => deps) : []),
    ...('keep' in body ? body.keep : []),
    ...(targetId === undefined ? [] : [targetId]),
  ]
}

function revokedGrant(body: Envelope['body']): string | undefined {
  const isOfGrant = body.type === 'revoke' && body.target.startsWith('grant/')
  return isOfGrant ? body.target.slice('grant/'.length) : undefined
}

function admitGenesis({ body, sigs }: Envelope<GenesisBody>): Admission {
  const missing = body.roots.length - Object.keys(sigs).length
  // Every root signs the genesis: so nobody is made a root of a mesh without knowing.
  return missing > 0 ? refused(`the genesis lacks ${missing} root signatures`) : READY
}

function chainError({ body }: Envelope, lookup: Lookup): string | undefined {
  if (body.type === 'genesis') return undefined
  let highest = 0
  for (const id of body.prev) {
    const previous = lookup.get(id)?.body
    if (previous === undefined || previous.type === 'genesis' || previous.by !== body.by || previous.ws !== body.ws) {
      return `prev ${id} is not in the author’s chain of workspace ${body.ws}`
    }
    highest = Math.max(highest, previous.n)
  }
  return body.n === highest + 1
    ? undefined
    : `n is ${body.n} and must be ${highest + 1}, one more than the highest of prev`
}

function dependencyError({ body }: Envelope, lookup: Lookup): string | undefined {
  if (body.type !== 'edit') return undefined
  for (const [resource, deps] of body.edits) {
    for (const id of deps) {
      const dep = lookup.get(id)?.body
      if (dep?.type !== 'edit' || !dep.edits.some(([touched]) => touched === resource)) {
        return `dep ${id} does not touch ${resource}`
      }
    }
  }
  return undefined
}

function keepError({ body }: Envelope, exercised: Authorising, lookup: Lookup): string | undefined {
  if (body.type !== 'revoke' && body.type !== 'rootset') return undefined
  const replaced = exercised.type === 'grant' ? [] : exercised.roots
  const keys = body.type === 'rootset' ? replaced : [revokedKey(body.target, lookup)]
  const foreign = body.keep.find((id) => {
    const kept = lookup.get(id)?.body
    return kept === undefined || kept.type === 'genesis' || !keys.includes(kept.by)
  })
  return foreign === undefined ? undefined : `keep ${foreign} is not by a key that is revoked or replaced`
}

function revokedKey(target: string, lookup: Lookup): string | undefined {
  const [form, hex] = target.split('/') as [string, string]
  if (form === 'key') return hex
  const grant = lookup.get(hex)?.body
  return grant?.type === 'grant' ? grant.subject : undefined
}

function isAuthorising(body: Envelope['body']): body is Authorising {
  return body.type === 'grant' || body.type === 'rootset' || body.type === 'genesis'
}

function refused(reason: string): Admission {
  return { outcome: 'refused', reason }
}
