/**
 * How a proxy that speaks TLS to its upstreams knows them, and lets itself be known: a part of the kinds Site and Stream.
 */

import { z } from 'zod'
import { integer, matching, reference, template, text } from './fields.ts'

export const upstreamTls = z.strictObject({
  /** A Certificate: the authorities that the upstream's certificate is verified by. It is not when left out. */
  ca: reference.optional(),
  /** Certificates between the upstream's and one of these authorities, that one included. */
  depth: integer(1, 10).default(1),
  /** What the upstream is asked for by SNI, and must be; the host header when left out. */
  serverName: template((value) => (value === '' ? { message: 'is empty' } : undefined)).optional(),
  /** A Certificate with a key, by which this proxy lets itself be known. */
  clientCertificate: reference.optional(),
})

/** Of a stream, which has no requests to take the name from. Without `ca` the upstream is not verified. */
export const streamUpstreamTls = z
  .strictObject({
    ca: reference.optional(),
    depth: integer(1, 10).default(1),
    serverName: text(matching(/^[A-Za-z0-9._-]{1,253}$/, 'is not a host name')).optional(),
    clientCertificate: reference.optional(),
  })
  .superRefine(({ ca, serverName }, context) => {
    if (ca === undefined || serverName !== undefined) return
    const hint = 'say in serverName which name the certificate must have'
    context.addIssue({ code: 'custom', message: 'is of no use without serverName', path: ['ca'], params: { hint } })
  })
export type StreamUpstreamTls = z.output<typeof streamUpstreamTls>

/** Over TLS. */
export function isEncrypted({ scheme }: { readonly scheme: string }): boolean {
  return scheme === 'https' || scheme === 'grpcs'
}

export function isGrpc({ scheme }: { readonly scheme: string }): boolean {
  return scheme === 'grpc' || scheme === 'grpcs'
}
