/**
 * The kind Stream: TCP or UDP, passed on to an Upstream as it comes. Without hosts a Stream has its ports for itself;
 * with hosts several share a port, and the name that a client says at the beginning of TLS chooses. TLS passes, or ends here.
 */

import { z } from 'zod'
import { atMost, duration, integer, ipAddress, key, labels, network, reference, siteHost } from './fields.ts'
import type { Kind } from './kind.ts'
import { streamTls } from './listener.ts'
import { streamUpstreamTls } from './upstream-tls.ts'

const listener = z.strictObject({
  port: integer(1, 65535),
  /** All IPv4 addresses of the host when left out. */
  address: ipAddress.optional(),
  protocol: z.enum(['tcp', 'udp']).default('tcp'),
  /** Connections begin with a PROXY header; it tells the client where the zone settings trust who sends it. */
  proxyProtocol: z.boolean().default(false),
  /** TLS ends here; where the stream has hosts, behind the choice by name. */
  tls: streamTls.optional(),
})
export type StreamListenerSpec = z.output<typeof listener>

const schema = z
  .strictObject({
    nodeSelector: labels.optional(),
    listeners: atMost(16, key, listener).refine((map) => Object.keys(map).length > 0, {
      message: 'names no port',
      params: { hint: 'write it like { main: { port: 5432 } }' },
    }),
    /** Names that clients say at the beginning of TLS (SNI); `*` is whatever no other Stream of the port has. */
    hosts: z.array(siteHost).max(256).optional(),
    /** An Upstream of the same workspace, looked up from the stream's zone outward. */
    upstream: reference,
    timeouts: z
      .strictObject({
        connect: duration.optional(),
        /** Between two reads or writes, either way. */
        idle: duration.optional(),
      })
      .optional(),
    /** Connections to the upstream begin with a PROXY header, which tells it the client. */
    proxyProtocol: z.boolean().default(false),
    /** The upstream is spoken to over TLS. */
    upstreamTls: streamUpstreamTls.optional(),
    /** Of UDP: how many datagrams answer one; the session is over then. Unknown when left out. */
    responses: integer(0, 65535).optional(),
    /** Only these clients; all when left out. */
    allow: z.array(network).max(256).optional(),
    /** Never these, also where they are allowed. */
    deny: z.array(network).max(256).optional(),
    /** At once, of one client. */
    connectionsPerClient: integer(1, 65535).optional(),
  })
  .superRefine((spec, context) => {
    const fault = (path: readonly string[], message: string, hint?: string): void => {
      context.addIssue({ code: 'custom', message, path: [...path], params: { hint } })
    }
    const [first, ...more] = Object.entries(spec.listeners).toSorted(([a], [b]) => (a < b ? -1 : 1))
    const other = more.find(([, { tls }]) => JSON.stringify(tls) !== JSON.stringify(first?.[1].tls))
    if (other !== undefined && (spec.hosts ?? []).length > 0)
      fault(
        ['listeners', other[0], 'tls'],
        `is not that of ${first?.[0]}`,
        'where hosts choose, all listeners have the same',
      )
    const taken = new Map<string, string>()
    for (const [id, { address = '0.0.0.0', port, protocol, proxyProtocol, tls }] of Object.entries(
      spec.listeners,
    ).toSorted(([a], [b]) => (a < b ? -1 : 1))) {
      const place = `${protocol} ${address} ${port}`
      const twin = taken.get(place)
      if (twin === undefined) taken.set(place, id)
      else if (
        JSON.stringify([spec.listeners[twin]?.tls, spec.listeners[twin]?.proxyProtocol]) !==
        JSON.stringify([tls, proxyProtocol])
      )
        fault(
          ['listeners', id],
          `is on the address and port of ${twin}, with other TLS or proxyProtocol`,
          'say the same in both, or leave one out',
        )
      if (protocol === 'tcp') continue
      if (tls !== undefined) fault(['listeners', id, 'tls'], 'is not possible with UDP')
      if (spec.upstreamTls !== undefined)
        fault(['upstreamTls'], 'is not possible with a UDP listener', 'use a Stream of its own')
      if (proxyProtocol) fault(['listeners', id, 'proxyProtocol'], 'is not possible with UDP')
      if (spec.proxyProtocol) fault(['proxyProtocol'], 'is not possible with a UDP listener', 'use a Stream of its own')
      if ((spec.hosts ?? []).length > 0)
        fault(['hosts'], 'are not possible with a UDP listener', 'use a Stream of its own')
    }
  })

export type StreamSpec = z.output<typeof schema>

export const streamKind = {
  kind: 'Stream',
  path: 'stream',
  plural: 'streams',
  schema,
  sets: [['hosts'], ['allow'], ['deny']],
  items: [['listeners', '*'], ['upstreamTls']],
} as const satisfies Kind<StreamSpec>
