/**
 * nginx text of the policy type `basicAuth`: a file of names and hashes that only nginx's workers can read. What a Secret
 * holds is checked line by line, and never told. Pure.
 */

import { judgeHash, judgeUser, USERS_MAX, type BasicAuthSpec } from '../../../core/resources/policies/basic-auth.ts'
import { literal } from '../quote.ts'
import { filePath, unitFile } from '../unit-files.ts'
import type { PolicyContext, PolicyFault, PolicyText } from './policy-text.ts'

export function renderBasicAuth(
  { realm, secret, users = {} }: BasicAuthSpec,
  { path, host, secret: open }: PolicyContext,
): PolicyText | PolicyFault {
  const sealed = secret === undefined ? new Map<string, string>() : usersIn(open(secret), secret)
  if ('code' in sealed) return sealed
  const all = new Map([...sealed, ...Object.entries(users)])
  if (all.size > USERS_MAX) return fault(`it has over ${USERS_MAX} users`, 'split them over several policies')
  const lines = [...all].map(([name, hash]) => `${name}:${hash}\n`).toSorted()
  const file = unitFile(lines.join(''), 'htpasswd', 'workers')
  return {
    guards: [
      `set $nxmesh_credentials ${literal(path)};`,
      `auth_basic ${literal(realm)};`,
      `auth_basic_user_file ${filePath(host, file)};`,
    ],
    files: [file],
  }
}

function usersIn(text: string | PolicyFault, secret: string): Map<string, string> | PolicyFault {
  if (typeof text !== 'string') return text
  const users = new Map<string, string>()
  for (const [index, line] of text.split(/\r?\n/).entries()) {
    if (line.trim() === '' || line.startsWith('#')) continue
    const colon = line.indexOf(':')
    const [name, hash] = [line.slice(0, Math.max(0, colon)), line.slice(colon + 1)]
    const found = judgeUser(name) ?? judgeHash(hash)
    if (found !== undefined) return fault(`line ${index + 1} of its secret ${secret} ${found.message}`, found.hint)
    users.set(name, hash)
  }
  return users.size > 0
    ? users
    : fault(`its secret ${secret} has no users`, 'seal one with lines as htpasswd writes them')
}

function fault(message: string, hint: string | undefined): PolicyFault {
  return { code: 'unsupported', message, ...(hint === undefined ? {} : { hint }) }
}
