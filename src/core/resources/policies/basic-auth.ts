/**
 * The policy type `basicAuth`: who may come in with a name and a password. Passwords are told by their hashes, in a Secret
 * or in the policy itself. Pure. Part of the kind Policy; nginx is told in src/nginx/rendering/policies/basic-auth.ts.
 */

import { z } from 'zod'
import { atMost, reference, text, type Fault } from '../fields.ts'
import type { PolicyType } from './policy-type.ts'

/** nginx reads the list from its beginning at every request. */
export const USERS_MAX = 1000
/** nginx computes the hash at every request, and answers nobody else meanwhile: 10 takes about 50 ms, 5 about 2 ms. */
const BCRYPT_COST_MAX = 10

const HASHES = [
  /^\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}$/,
  /^\$apr1\$[./A-Za-z0-9]{1,8}\$[./A-Za-z0-9]{22}$/,
  /^\$5\$[./A-Za-z0-9]{1,16}\$[./A-Za-z0-9]{43}$/,
  /^\$6\$[./A-Za-z0-9]{1,16}\$[./A-Za-z0-9]{86}$/,
]

/** What is wrong with a user's name. */
export function judgeUser(name: string): Fault | undefined {
  return /^[^:#\s][^:]{0,127}$/.test(name)
    ? undefined
    : { message: 'is not a name of a user', hint: 'at most 128 characters, none of them a colon' }
}

/** What is wrong with the hash of a password. */
export function judgeHash(hash: string): Fault | undefined {
  const found = HASHES.map((form) => form.exec(hash)).find((match) => match !== null)
  if (found === undefined)
    return { message: 'is not the hash of a password', hint: 'make one with: htpasswd -nB NAME, or openssl passwd -6' }
  const cost = Number(found[1] ?? 0)
  if (cost <= BCRYPT_COST_MAX) return undefined
  const hint = 'nginx computes it at every request: make one with htpasswd -nB -C 5 NAME'
  return { message: `is a hash of cost ${cost}; at most ${BCRYPT_COST_MAX}`, hint }
}

const schema = z
  .strictObject({
    /** What browsers show when they ask. */
    realm: text((value) => {
      if (value === '') return { message: 'is empty' }
      // nginx takes it as an order to ask nobody.
      return value === 'off' ? { message: 'would let everybody in', hint: 'choose another text' } : undefined
    }).default('restricted'),
    /** A Secret with lines as htpasswd writes them, looked up from the policy's zone outward. */
    secret: reference.optional(),
    /** Hashes by name, which whoever may read the workspace can read, and try passwords against. */
    users: atMost(USERS_MAX, text(judgeUser), text(judgeHash)).optional(),
  })
  .refine(({ secret, users = {} }) => secret !== undefined || Object.keys(users).length > 0, {
    message: 'lets nobody in',
    params: { hint: 'name a secret with lines as htpasswd writes them' },
  })

export type BasicAuthSpec = z.output<typeof schema>

export const basicAuth = { schema, sets: [], items: [] } as const satisfies PolicyType<BasicAuthSpec>
