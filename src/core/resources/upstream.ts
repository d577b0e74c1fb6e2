/**
 * The kind Upstream: a named group of endpoints and how requests are spread over them. Endpoints are a map by
 * `address:port`, so that two people can each add one at the same time.
 */

import { z } from 'zod'
import { atMost, duration, endpointKey, integer, labels, template, wholeSeconds } from './fields.ts'
import type { Kind } from './kind.ts'

/** Of one upstream. */
const ENDPOINTS_MAX = 256
/**
 * The sum of weights of an upstream with consistent hashing, each counted for every address of its endpoint: for each unit
 * nginx computes 160 hashes and sorts them at every test, start and reload.
 */
export const CONSISTENT_WEIGHT_MAX = 1024

const endpoint = z.strictObject({
  weight: integer(1, 1000).default(1),
  /** Used only while every other endpoint is down. */
  backup: z.boolean().default(false),
  /** Takes no requests, but keeps its place. */
  down: z.boolean().default(false),
  /** Failures within failTimeout after which nginx leaves it alone for failTimeout; 0 never does. */
  maxFails: integer(0, 65535).default(1),
  failTimeout: wholeSeconds.default('10s'),
})

const keepalive = z.strictObject({
  /** Idle connections that each worker keeps open. */
  connections: integer(1, 1024),
  timeout: duration.default('60s'),
  requests: integer(1, 1_000_000_000).default(1000),
})

const METHODS = ['round_robin', 'least_conn', 'ip_hash', 'hash', 'random'] as const
// nginx refuses backup endpoints with these.
const WITHOUT_BACKUP: readonly string[] = ['ip_hash', 'hash', 'random']

const schema = z
  .strictObject({
    nodeSelector: labels.optional(),
    method: z.enum(METHODS).default('round_robin'),
    /** What `method: hash` spreads by. */
    hashKey: template((value) => (value === '' ? { message: 'is empty' } : undefined)).default('$request_uri'),
    /** With `method: hash`: adding an endpoint moves only its share of the keys. */
    consistent: z.boolean().default(false),
    endpoints: atMost(ENDPOINTS_MAX, endpointKey, endpoint).default({}),
    keepalive: keepalive.optional(),
  })
  .superRefine((spec, context) => {
    const weight = Object.values(spec.endpoints).reduce((sum, endpoint) => sum + endpoint.weight, 0)
    if (spec.method === 'hash' && spec.consistent && weight > CONSISTENT_WEIGHT_MAX) {
      const hint = 'divide them all by a number, or leave out consistent'
      const message = `have weights that add up to ${weight}; with consistent at most ${CONSISTENT_WEIGHT_MAX}`
      context.addIssue({ code: 'custom', message, path: ['endpoints'], params: { hint } })
    }
    if (!WITHOUT_BACKUP.includes(spec.method)) return
    for (const [key, { backup }] of Object.entries(spec.endpoints)) {
      if (!backup) continue
      const hint = 'use round_robin or least_conn, or leave out backup'
      const message = `is not possible with method ${spec.method}`
      context.addIssue({ code: 'custom', message, path: ['endpoints', key, 'backup'], params: { hint } })
    }
  })

export type UpstreamSpec = z.output<typeof schema>

export const upstreamKind = {
  kind: 'Upstream',
  path: 'upstream',
  plural: 'upstreams',
  schema,
  sets: [],
  items: [['endpoints', '*']],
} as const satisfies Kind<UpstreamSpec>
