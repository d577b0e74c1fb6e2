/**
 * Finds the OWASP Core Rule Set on this host, where packages and people put it. Looks once, when the node starts; reads
 * no rule.
 */

import { existsSync } from 'node:fs'
import { join } from 'node:path'

const USUAL_PLACES = [
  '/usr/share/modsecurity-crs',
  '/usr/share/owasp-modsecurity-crs',
  '/usr/share/coreruleset',
  '/etc/nginx/owasp-crs',
  '/etc/nginx/modsec/coreruleset',
  '/usr/local/coreruleset',
  '/opt/coreruleset',
]
/** Every version begins with it, and refuses to work without it. */
const FIRST_RULES = 'rules/REQUEST-901-INITIALIZATION.conf'

/** @param configured a directory, or empty to look in the usual places */
export function findRuleSet(configured: string, places: readonly string[] = USUAL_PLACES): string | undefined {
  const candidates = configured === '' ? places : [configured]
  return candidates.find((directory) => existsSync(join(directory, FIRST_RULES)))
}
