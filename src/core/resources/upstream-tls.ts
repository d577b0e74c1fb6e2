/**
 * How a proxy that speaks TLS to its upstreams knows them, and lets itself be known: a part of the kind Site.
 */

import { z } from 'zod'
import { integer, reference, template } from './fields.ts'

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

/** Over TLS. */
export function isEncrypted({ scheme }: { readonly scheme: string }): boolean {
  return scheme === 'https' || scheme === 'grpcs'
}

export function isGrpc({ scheme }: { readonly scheme: string }): boolean {
  return scheme === 'grpc' || scheme === 'grpcs'
}
