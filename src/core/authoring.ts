/**
 * What a signer adds to what it wants to say: its place in its chain, and the grant that allows it. Pure: signs nothing, and
 * decides nothing that policy.ts does not. meshctl signs by it, and a node with an edit key.
 */

import {
  LIMITS,
  type Authorising,
  type EditBody,
  type GrantBody,
  type RevokeBody,
  type RootsetBody,
} from './envelope.ts'
import { denial, RANKS } from './policy.ts'

export type SignedBody = EditBody | GrantBody | RevokeBody | RootsetBody
/** What is to be signed; the signer adds who, where in the chain, and under which grant. */
export type Draft = SignedBody extends infer B ? (B extends SignedBody ? Omit<B, CommonMember> : never) : never
type CommonMember = 'v' | 'mesh' | 'by' | 'grant' | 'n' | 'prev' | 'at'

/** Where the chain of one key in one workspace ends. */
export interface Place {
  readonly n: number
  readonly prev: readonly string[]
}

/** The place after these heads: at most as many as `prev` holds, the newest ones. */
export function placeAfter(heads: readonly { readonly id: string; readonly n: number }[]): Place {
  const newest = heads.toSorted((a, b) => b.n - a.n).slice(0, LIMITS.prev)
  return { n: newest[0]?.n ?? 0, prev: newest.map(({ id }) => id) }
}

/** Something to act under. */
export interface Authority {
  readonly id: string
  readonly exercised: Authorising
  /** For people. */
  readonly label: string
}

/** Grants of one key to act under, the least powerful first, so that an owner does not use more than it takes. */
export function authoritiesOf(grants: readonly { readonly id: string; readonly body: GrantBody }[]): Authority[] {
  return grants
    .toSorted((a, b) => rankOf(a.body) - rankOf(b.body))
    .map(({ id, body }) => ({
      id,
      exercised: body,
      label: `grant ${id.slice(0, 12)} (${body.role}, workspace ${body.ws}, zones ${body.zones.join(', ')})`,
    }))
}

/**
 * The first of the authorities that allows a body, and the body under it; or what each of them lacks, in words.
 * @param lacking further reasons against an authority, beside those of policy.
 */
export function authorise<B extends SignedBody>(
  authorities: readonly Authority[],
  bodyUnder: (grant: string) => B,
  lacking: (authority: Authority, body: B) => string | undefined = policyLack,
): { readonly body: B; readonly authority: Authority } | { readonly reasons: readonly string[] } {
  const reasons: string[] = []
  for (const authority of authorities) {
    const body = bodyUnder(authority.id)
    const lack = lacking(authority, body)
    if (lack === undefined) return { body, authority }
    reasons.push(`${authority.label}: ${lack}`)
  }
  return { reasons }
}

/** What policy has against a body under an authority, signed by its author alone. @param target of a revocation of one grant */
export function policyLack({ exercised }: Authority, body: SignedBody, target?: GrantBody): string | undefined {
  return denial(body, [body.by], exercised, target)?.message
}

/** A role that only a later version knows is tried first. */
function rankOf({ role }: GrantBody): number {
  return (RANKS as Readonly<Record<string, number>>)[role] ?? 0
}
