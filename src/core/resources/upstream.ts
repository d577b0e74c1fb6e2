/**
 * The kind Upstream: a named group of endpoints and how requests are spread over them. Endpoints are a map by
 * `address:port`, so that two people can each add one at the same time.
 */

import { z } from 'zod'
import {
  atMost,
  duration,
  durationWithin,
  endpointKey,
  integer,
  labels,
  matching,
  template,
  text,
  wholeSeconds,
} from './fields.ts'
import { variableName } from './conditions.ts'
import type { Kind } from './kind.ts'
import { templateUse } from './template-use.ts'

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

/** The cookie by which a client stays with its endpoint; nginx gives one to whom has none. */
const sticky = z.strictObject({
  cookie: variableName,
  /** Seconds; as long as the browser runs when left out. */
  maxAge: integer(1, 34_560_000).optional(),
  /** Only over TLS. */
  secure: z.boolean().default(false),
  sameSite: z.enum(['strict', 'lax', 'none']).default('lax'),
})
export type StickyCookie = z.output<typeof sticky>

/** How this host finds out whether an endpoint can serve. */
const healthCheck = z
  .strictObject({
    /** tcp: whether it takes a connection. grpc: what its grpc.health.v1.Health says. */
    type: z.enum(['http', 'tcp', 'grpc']).default('http'),
    /** https encrypts and does not verify the certificate. */
    scheme: z.enum(['http', 'https']).default('http'),
    path: text(
      matching(/^\/[\x21-\x7e]*$/, 'is not a path', 'write it like /healthz, with escapes for what is not ASCII'),
    ).default('/'),
    /** The Host header; the endpoint itself when left out. */
    host: text(matching(/^[A-Za-z0-9._:[\]-]{1,253}$/, 'is not a host name')).optional(),
    /** Asked in place of the endpoint's own. */
    port: integer(1, 65_535).optional(),
    interval: durationWithin('100ms', '1h').default('10s'),
    timeout: durationWithin('10ms', '30s').default('2s'),
    /** Answers in a row that bring it back. */
    healthyThreshold: integer(1, 100).default(2),
    /** Failures in a row that take it out. */
    unhealthyThreshold: integer(1, 100).default(3),
    expect: z
      .strictObject({
        /** 200 to 399 when left out. */
        status: z.array(integer(100, 599)).min(1).max(64).optional(),
        /** Stands in the first 64 KiB of the body. */
        body: text(undefined, { maxBytes: 256 }).optional(),
      })
      .optional(),
    /** By how many percent each interval may differ, so that hosts do not all ask at once. */
    jitter: integer(0, 100).default(20),
  })
  .superRefine(({ type, expect }, context) => {
    if (type === 'http' || expect === undefined) return
    context.addIssue({
      code: 'custom',
      message: `is not possible with type: ${type}`,
      path: ['expect'],
      params: { hint: 'use type: http, or leave it out' },
    })
  })

/** When the answers to clients take an endpoint out for a while. */
const outlierDetection = z.strictObject({
  /** 5xx in a row, broken connections and timeouts too; 0: however many. */
  consecutive5xx: integer(0, 1000).default(5),
  /** Of the answers within an interval; not looked at when left out. */
  errorRatePercent: integer(1, 100).optional(),
  /** With fewer answers within an interval the rate says nothing. */
  minRequests: integer(1, 1_000_000).default(20),
  interval: durationWithin('100ms', '1h').default('10s'),
  /** The first time; each further time is twice as long, up to maxEjection. */
  baseEjection: durationWithin('100ms', '24h').default('30s'),
  maxEjection: durationWithin('100ms', '24h').default('5m'),
  /** Of the endpoints at once, though at least one. */
  maxEjectionPercent: integer(1, 100).default(50),
})

/** When an upstream is not asked at all for a while. */
const circuitBreaker = z.strictObject({
  errorRatePercent: integer(1, 100).default(50),
  /** With fewer requests within the window nothing is concluded. */
  minRequests: integer(1, 1_000_000).default(20),
  window: durationWithin('100ms', '1h').default('10s'),
  /** The first time; when it opens again soon, twice as long each time, up to sixteen times. */
  openFor: durationWithin('100ms', '1h').default('10s'),
  /** Probes in a row that must pass before clients are let through again. */
  halfOpenRequests: integer(1, 100).default(3),
})

const METHODS = ['round_robin', 'least_conn', 'ip_hash', 'hash', 'random'] as const
// nginx refuses backup endpoints with these.
const WITHOUT_BACKUP: readonly string[] = ['ip_hash', 'hash', 'random']

const schema = z
  .strictObject({
    nodeSelector: labels.optional(),
    /** What it is where it says nothing itself. It is valid without, too. */
    template: templateUse.optional(),
    method: z.enum(METHODS).default('round_robin'),
    /** What `method: hash` spreads by. */
    hashKey: template((value) => (value === '' ? { message: 'is empty' } : undefined)).default('$request_uri'),
    /** With `method: hash`: adding an endpoint moves only its share of the keys. */
    consistent: z.boolean().default(false),
    /** With `method: hash`: takes the place of hashKey. */
    sticky: sticky.optional(),
    endpoints: atMost(ENDPOINTS_MAX, endpointKey, endpoint).default({}),
    keepalive: keepalive.optional(),
    healthCheck: healthCheck.optional(),
    outlierDetection: outlierDetection.optional(),
    circuitBreaker: circuitBreaker.optional(),
    /**
     * When less than this share of the endpoints is well, all are used: better slow answers than a few endpoints that break
     * down as well. The last one is never taken out, whatever this says.
     */
    panicThresholdPercent: integer(0, 100).default(0),
  })
  .superRefine((spec, context) => {
    const weight = Object.values(spec.endpoints).reduce((sum, endpoint) => sum + endpoint.weight, 0)
    if (spec.method === 'hash' && spec.consistent && weight > CONSISTENT_WEIGHT_MAX) {
      const hint = 'divide them all by a number, or leave out consistent'
      const message = `have weights that add up to ${weight}; with consistent at most ${CONSISTENT_WEIGHT_MAX}`
      context.addIssue({ code: 'custom', message, path: ['endpoints'], params: { hint } })
    }
    if (spec.sticky !== undefined && spec.method !== 'hash') {
      const hint = 'write method: hash, and consistent: true to keep clients where they are when endpoints change'
      context.addIssue({ code: 'custom', message: 'needs method: hash', path: ['sticky'], params: { hint } })
    }
    if (spec.sticky?.sameSite === 'none' && !spec.sticky.secure) {
      const message = 'is only taken by browsers with secure: true'
      context.addIssue({ code: 'custom', message, path: ['sticky', 'sameSite'] })
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
  items: [['endpoints', '*'], ['healthCheck'], ['outlierDetection'], ['circuitBreaker']],
} as const satisfies Kind<UpstreamSpec>
