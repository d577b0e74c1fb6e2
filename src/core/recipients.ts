/**
 * Whom a secret is for: the nodes to which it applies, and the people and robots who may edit it (they seal it, and are its
 * escrow). A pure function of its path and the grants in force; seals nothing. Called by meshctl.
 */

import type { GrantBody } from './envelope.ts'
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
 * Everybody whom the secret at this path is for, by subject.
 * @param grants those in force
 */
export function recipientsOf(path: string, grants: readonly RecipientGrant[]): Recipient[] {
  const name = parseResourcePath(path)
  if (name === undefined) return []
  const found = new Map<string, Recipient>()
  for (const grant of grants.filter((each) => isFor(name, each))) {
    const { subject, role } = grant
    const enc = grant.enc !== undefined && canReceive(grant.enc) ? grant.enc : undefined
    const known = found.get(subject)
    found.set(subject, { subject, role, name: known?.name ?? grant.name, enc: known?.enc ?? enc })
  }
  return [...found.values()].toSorted((a, b) => (a.subject < b.subject ? -1 : 1))
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
