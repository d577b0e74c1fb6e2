/**
 * What a grant says, apart from who signed it when and under what: compared, and in words. Pure. Used by the verbs that
 * change many grants at once.
 */

import { canonical } from '../../core/canonical.ts'
import type { GrantBody } from '../../core/envelope.ts'
import { zoneCovers } from '../../core/names.ts'
import { short } from '../terminal.ts'

const SAYS = ['ws', 'subject', 'role', 'zones', 'kinds', 'fields', 'hosts', 'quota', 'enc', 'name'] as const

/** What a grant says, whoever signed it when. */
export type GrantScope = Pick<GrantBody, (typeof SAYS)[number]>

export function scopeOf(body: GrantScope): GrantScope {
  return Object.fromEntries(SAYS.flatMap((name) => (body[name] === undefined ? [] : [[name, body[name]]]))) as never
}

/** Equal for grants that say the same. */
export function scopeText(scope: GrantScope): string {
  return canonical(scopeOf(scope))
}

/** Whether who has the one grant can be let into every secret that another one opened to them. */
export function opensAsMuch(grant: GrantScope, other: GrantScope): boolean {
  if (other.role === 'viewer') return true
  if (grant.role === 'viewer' || (grant.ws !== '*' && grant.ws !== other.ws)) return false
  const isNode = other.role === 'node'
  if ((grant.role === 'node') !== isNode) return false
  // A node reads what is for its zone and the zones above it, whoever edits what is for theirs and those below.
  if (isNode) return other.zones.every((zone) => grant.zones.some((own) => zoneCovers(zone, own)))
  return (
    other.zones.every((zone) => grant.zones.some((own) => zoneCovers(own, zone))) &&
    (grant.kinds.includes('*') || other.kinds.every((kind) => grant.kinds.includes(kind))) &&
    (grant.role !== 'robot' || grant.fields === undefined || canonical(grant.fields) === canonical(other.fields ?? []))
  )
}

/** `editor ana (8139770ea87d) of zones eu in workspace shop, kinds site` */
export function scopeWords({ subject, name, role, zones, ws, kinds, fields, hosts, quota }: GrantScope): string {
  const who = name === undefined ? short(subject) : `${name} (${short(subject)})`
  const limits = [
    kinds.includes('*') ? '' : `kinds ${kinds.join(', ')}`,
    fields === undefined ? '' : `fields ${fields.join(', ')}`,
    hosts === undefined ? '' : `hosts ${hosts.join(', ')}`,
    quota === undefined
      ? ''
      : `at most ${Object.entries(quota)
          .map((each) => each.toReversed().join(' '))
          .join(', ')}`,
  ].filter((limit) => limit !== '')
  const scope = ws === '*' ? 'all workspaces' : `workspace ${ws}`
  return [`${role} ${who} of zones ${zones.join(', ')} in ${scope}`, ...limits].join(', ')
}
