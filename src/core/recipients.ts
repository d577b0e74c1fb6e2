/**
 * Whom a secret is for: the nodes to which it applies, and the people and robots who may edit it (they seal it, and are its
 * escrow). A pure function of its path and the grants in force; seals nothing. Called by meshctl.
 */

import { ROLES, type GrantBody } from './envelope.ts'
import { parseResourcePath, zoneCovers, type ResourceName } from './names.ts'
import { canReceive, KEYS_PREFIX } from './secrets.ts'

/** As much of a grant as is asked about. */
export type RecipientGrant = Pick<GrantBody, 'subject' | 'role' | 'ws' | 'zones' | 'kinds' | 'fields' | 'enc' | 'name'>

/** Somebody whom a secret is for. */
export interface Recipient {
  /** Ed25519 public key. */
  readonly subject: string
  readonly name: string | undefined
  readonly role: GrantBody['role']
  /** X25519 key to seal for; undefined when no grant of the subject tells one that is fit. */
  readonly enc: string | undefined
}

/**
 * Everybody whom the secret at this path is for, by subject, once for each key that a grant of theirs tells: whoever may grant a
 * node could else put a key of their own in the place of the owner's.
 * @param grants those in force, in any order
 */
export function recipientsOf(path: string, grants: readonly RecipientGrant[]): Recipient[] {
  const name = parseResourcePath(path)
  if (name === undefined) return []
  const relevant = grants.filter((each) => isFor(name, each)).toSorted((a, b) => (rankText(a) < rankText(b) ? -1 : 1))
  return [...Map.groupBy(relevant, ({ subject }) => subject).values()].flatMap(recipientsAmong)
}

/** @param own the grants of one subject, those of the highest role first. */
function recipientsAmong(own: readonly RecipientGrant[]): Recipient[] {
  const [{ subject, role }] = own as [RecipientGrant]
  const name = own.find((grant) => grant.name !== undefined)?.name
  const fit = own.filter(({ enc }) => enc !== undefined && canReceive(enc))
  const tellers = [...Map.groupBy(fit, ({ enc }) => enc).values()].map(([first]) => first as RecipientGrant)
  if (tellers.length === 0) return [{ subject, role, name, enc: undefined }]
  return tellers.map((teller) => ({ subject, role: teller.role, name, enc: teller.enc }))
}

/** Sorts by subject and falling role, and by the rest so that the order of the grants does not matter. */
function rankText({ subject, role, name = '', enc = '' }: RecipientGrant): string {
  return [subject, ROLES.length - ROLES.indexOf(role), name, enc].join(' ')
}

/** The keys to seal for, sorted, each once. */
export function sealingKeys(recipients: readonly Recipient[]): string[] {
  return [...new Set(recipients.flatMap(({ enc }) => enc ?? []))].toSorted()
}

function isFor(secret: ResourceName, { role, ws, zones, kinds, fields }: RecipientGrant): boolean {
  if (ws !== '*' && ws !== secret.workspace) return false
  if (role === 'viewer') return false
  // A resource applies to the nodes of its zone and below; a grant to edit reaches its own zones and below.
  if (role === 'node') return secret.zone === '*' || zones.some((zone) => zoneCovers(secret.zone, zone))
  const isInScope =
    zones.some((zone) => zoneCovers(zone, secret.zone)) && (kinds.includes('*') || kinds.includes(secret.kind))
  // A robot that is confined to other fields could seal nothing, and has no business reading.
  return isInScope && (role !== 'robot' || fields === undefined || fields.includes(KEYS_PREFIX))
}
