/**
 * The kind Policy: protection that sites and routes ask for by name. A policy is of one type, told by `type`; the branches
 * of other types may lie in storage after a merge and are ignored. One file per type in src/core/resources/policies/.
 */

import { z } from 'zod'
import { labels, reference } from './fields.ts'
import { isTree, type Kind, type Tree, type TreePath } from './kind.ts'
import { access } from './policies/access.ts'
import { basicAuth } from './policies/basic-auth.ts'
import { jwt } from './policies/jwt.ts'
import { externalAuth } from './policies/external-auth.ts'
import { cache } from './policies/cache.ts'
import { cors } from './policies/cors.ts'
import { connectionLimit, rateLimit } from './policies/limits.ts'
import { mtls } from './policies/mtls.ts'
import type { PolicyType } from './policies/policy-type.ts'
import { waf } from './policies/waf.ts'

const TYPES = { access, waf, rateLimit, connectionLimit, cors, mtls, basicAuth, externalAuth, jwt, cache } as const
export type PolicyTypeName = keyof typeof TYPES
const TYPE_NAMES = Object.keys(TYPES) as readonly PolicyTypeName[]

const ignored = z.looseObject({}).optional()
const anyType = {
  nodeSelector: labels.optional(),
  access: ignored,
  rateLimit: ignored,
  connectionLimit: ignored,
  cors: ignored,
  mtls: ignored,
  basicAuth: ignored,
  externalAuth: ignored,
  jwt: ignored,
  cache: ignored,
  waf: ignored,
}

const schema = z.discriminatedUnion('type', [
  z.strictObject({ ...anyType, type: z.literal('access'), access: access.schema }),
  z.strictObject({ ...anyType, type: z.literal('rateLimit'), rateLimit: rateLimit.schema }),
  z.strictObject({ ...anyType, type: z.literal('connectionLimit'), connectionLimit: connectionLimit.schema }),
  z.strictObject({ ...anyType, type: z.literal('cors'), cors: cors.schema }),
  z.strictObject({ ...anyType, type: z.literal('mtls'), mtls: mtls.schema }),
  z.strictObject({ ...anyType, type: z.literal('basicAuth'), basicAuth: basicAuth.schema }),
  z.strictObject({ ...anyType, type: z.literal('externalAuth'), externalAuth: externalAuth.schema }),
  z.strictObject({ ...anyType, type: z.literal('jwt'), jwt: jwt.schema }),
  z.strictObject({ ...anyType, type: z.literal('cache'), cache: cache.schema }),
  z.strictObject({ ...anyType, type: z.literal('waf'), waf: waf.schema }),
])

export type PolicySpec = z.output<typeof schema>

/** Of one site, and of one route. */
const POLICIES_MAX = 32

/** Names of Policies of the same workspace, looked up from the site's zone outward; at most one of each type. */
export const policyNames = z.array(reference).max(POLICIES_MAX)

/** Tells the type where there is exactly one branch and it is not told, and completes the branch of the type. */
function complete(spec: Tree): Tree {
  const branches = TYPE_NAMES.filter((name) => spec[name] !== undefined)
  const told = spec['type'] === undefined ? branches : TYPE_NAMES.filter((name) => name === spec['type'])
  const [type] = told
  if (type === undefined || told.length > 1) return spec
  const branch = spec[type]
  const { complete: completeBranch }: PolicyType<unknown> = TYPES[type]
  const whole = completeBranch !== undefined && isTree(branch) ? completeBranch(branch) : branch
  return { ...spec, type, [type]: whole }
}

function below(paths: 'sets' | 'items'): TreePath[] {
  return Object.entries(TYPES).flatMap(([name, type]) => type[paths].map((path): TreePath => [name, ...path]))
}

export const policyKind = {
  kind: 'Policy',
  path: 'policy',
  plural: 'policies',
  schema,
  sets: below('sets'),
  items: below('items'),
  complete,
} satisfies Kind<PolicySpec>
