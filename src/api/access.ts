/**
 * Who may ask what, until there are tokens: the unix socket and loopback everything, others health and metrics only.
 * Pure decisions about one request; server.ts tells where the request came from. DESIGN: who may read.
 */

import { BlockList, isIP } from 'node:net'
import { MeshError } from '../errors.ts'

/** How a request came in. `address` is the caller's, of a TCP connection. */
export type Origin =
  | { readonly transport: 'unix' }
  | { readonly transport: 'tcp'; readonly address: string | undefined }

const LOOPBACK = new BlockList()
LOOPBACK.addSubnet('127.0.0.0', 8, 'ipv4')
LOOPBACK.addAddress('::1', 'ipv6')

/** Paths that anyone who can connect may read: probes and scrapers come from elsewhere and by host name. */
const OPEN_PATHS: ReadonlySet<string> = new Set(['/health', '/metrics'])

export function isLoopback(address: string | undefined): boolean {
  const plain = address?.replace(/^::ffff:(?=\d+\.)/i, '') ?? ''
  const family = isIP(plain)
  return family !== 0 && LOOPBACK.check(plain, family === 4 ? 'ipv4' : 'ipv6')
}

/** `bindAddress`: what the node was told to listen on. @throws MeshError `denied` when this caller may not have this. */
export function checkAccess(
  request: {
    readonly path: string
    readonly host: string | undefined
    /** Whether a proxy says that it passes somebody else's request on. */
    readonly isForwarded: boolean
  },
  origin: Origin,
  bindAddress: string,
): void {
  if (origin.transport === 'unix' || OPEN_PATHS.has(request.path)) return
  if (!isAllowedHost(request.host, bindAddress)) {
    throw new MeshError('denied', `the Host header ${JSON.stringify(request.host ?? '')} is not this node's address`, {
      field: 'host',
      hint: 'Name the node by IP address or as localhost: web pages of other names must not reach it (DNS rebinding).',
    })
  }
  if (request.isForwarded) {
    throw new MeshError('denied', 'the request came through a proxy, which hides whose it is', {
      hint: 'Until there are tokens, ask the node directly, on its own host.',
    })
  }
  if (isLoopback(origin.address)) return
  throw new MeshError('denied', 'this node answers only callers on its own host', {
    hint: 'Ask on the host itself (its api.sock), or forward the port: ssh -L 3000:127.0.0.1:3000 HOST.',
  })
}

/** Whether a Host header names this node in a way that no foreign DNS name can. */
export function isAllowedHost(host: string | undefined, bindAddress: string): boolean {
  const name = (host ?? '')
    .replace(/:\d+$/, '')
    .replace(/^\[(.*)\]$/, '$1')
    .toLowerCase()
  return name === 'localhost' || isIP(name) !== 0 || (name !== '' && name === bindAddress.toLowerCase())
}
