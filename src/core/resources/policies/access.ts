/**
 * The policy type `access`: which networks may reach a site. The longest network that a client is in decides; where one is
 * in both lists, deny. Pure. Part of the kind Policy; nginx is told in src/nginx/rendering/policies/access.ts.
 */

import { z } from 'zod'
import { network } from '../fields.ts'
import type { Tree } from '../kind.ts'
import type { PolicyType } from './policy-type.ts'

const NETWORKS_MAX = 256

const schema = z.strictObject({
  allow: z.array(network).max(NETWORKS_MAX).optional(),
  deny: z.array(network).max(NETWORKS_MAX).optional(),
  /** Of clients in none of the networks. Stored with the policy: the last network taken from a list opens nothing. */
  default: z.enum(['allow', 'deny']),
})

export type AccessSpec = z.output<typeof schema>

export const access = {
  schema,
  sets: [['allow'], ['deny']],
  items: [],
  // Who lists whom to allow means nobody else; who only lists whom to deny means everybody else.
  complete: (spec: Tree): Tree => {
    if (spec['default'] !== undefined || (spec['allow'] === undefined && spec['deny'] === undefined)) return spec
    return { ...spec, default: spec['allow'] === undefined ? 'allow' : 'deny' }
  },
} as const satisfies PolicyType<AccessSpec>
