/**
 * nginx text of the policy type `jwt`: a Lua program with its keys in a file that workers alone can read, which runs
 * before anything of a guarded location is answered. Pure.
 */

import { sha256 } from '../../../core/canonical.ts'
import { readPublicKey, type JwtSpec } from '../../../core/resources/policies/jwt.ts'
import { firstUnmet, LUA, NEEDS, unsupported } from '../needs.ts'
import { literal } from '../quote.ts'
import { filePath, unitFile } from '../unit-files.ts'
import { JWT_PROGRAM } from './jwt-program.ts'
import { IDENTITY_VARIABLE, type PolicyContext, type PolicyFault, type PolicyText } from './policy-text.ts'

const SECRET_BYTES_MIN = 32

export function renderJwt(
  spec: JwtSpec,
  { path, host, capabilities, secret }: PolicyContext,
): PolicyText | PolicyFault {
  const unmet = firstUnmet([NEEDS.jwt, NEEDS.jwtKeys], capabilities)
  if (unmet !== undefined) return unsupported(path, unmet, capabilities)
  const keys: Record<string, { alg: string; bytes: string }> = {}
  for (const [id, key] of Object.entries(spec.keys).toSorted(([a], [b]) => (a < b ? -1 : 1))) {
    const bytes =
      key.secret === undefined ? spkiOf(id, key.publicKey ?? '') : secretBytes(id, key.secret, secret(key.secret))
    if (!Buffer.isBuffer(bytes)) return bytes
    keys[id] = { alg: key.alg, bytes: bytes.toString('base64') }
  }
  const settings = {
    keys,
    headers: spec.headers ?? {},
    requireExp: spec.requireExp,
    leeway: spec.leewaySeconds,
    ...(spec.cookie === undefined ? {} : { cookie: spec.cookie.toLowerCase() }),
    ...(spec.issuers === undefined ? {} : { issuers: spec.issuers.toSorted() }),
    ...(spec.audiences === undefined ? {} : { audiences: spec.audiences.toSorted() }),
  }
  const packed = Buffer.from(JSON.stringify(settings)).toString('base64')
  const name = `nxmesh_jwt_${sha256(JWT_PROGRAM + packed).slice(0, 32)}`
  // Made once in each worker: the file is run at every request.
  const program = `local judge = package.loaded["${name}"]
if not judge then
  judge = (function()${JWT_PROGRAM}end)()("${packed}")
  package.loaded["${name}"] = judge
end
return judge()
`
  const file = unitFile(program, 'lua', 'workers')
  return {
    guards: [
      `set $nxmesh_credentials ${literal(path)};`,
      `set $${IDENTITY_VARIABLE} 1;`,
      `access_by_lua_file ${filePath(host, file)};`,
    ],
    // The program sets them in the request.
    requestHeaders: Object.keys(settings.headers)
      .toSorted()
      .map((name) => [name, undefined] as const),
    files: [file],
    modules: [LUA],
  }
}

function spkiOf(id: string, publicKey: string): Buffer | PolicyFault {
  const bytes = readPublicKey(publicKey)?.export({ format: 'der', type: 'spki' })
  if (bytes !== undefined) return bytes
  const message = `the publicKey of its key ${id} is none that this host can read`
  return { code: 'unsupported', message, hint: 'write it as PEM (BEGIN PUBLIC KEY), or as one JWK' }
}

function secretBytes(id: string, name: string, text: string | PolicyFault): Buffer | PolicyFault {
  if (typeof text !== 'string') return text
  const bytes = Buffer.from(text.replace(/\r?\n$/, ''))
  if (bytes.length >= SECRET_BYTES_MIN) return bytes
  const message = `the secret ${name} of its key ${id} has ${bytes.length} bytes; HS256 wants at least ${SECRET_BYTES_MIN}`
  return { code: 'unsupported', message, hint: 'seal a longer one: openssl rand -hex 32' }
}
