/**
 * What a grant says, apart from who signed it when and under what: compared, and in words. Pure. Used by the verbs that
 * change many grants at once.
 */

import type { GrantView } from '../api/schemas.ts'
import { canonical } from '../core/canonical.ts'
import type { GrantBody } from '../core/envelope.ts'
import { short } from './terminal.ts'

const SAYS = ['ws', 'subject', 'role', 'zones', 'kinds', 'fields', 'hosts', 'quota', 'enc', 'name'] as const

/** What a grant says, whoever signed it when. */
export type GrantScope = Pick<GrantBody, (typeof SAYS)[number]>

/** A grant in force, by its signed bytes. */
export interface Held {
  readonly view: GrantView
  readonly says: GrantScope
}

export function scopeOf(body: GrantScope): GrantScope {
  return Object.fromEntries(SAYS.flatMap((name) => (body[name] === undefined ? [] : [[name, body[name]]]))) as never
}

/** Equal for grants that say the same. */
export function scopeText(scope: GrantScope): string {
  return canonical(scopeOf(scope))
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
