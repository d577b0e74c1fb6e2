/**
 * Where things lie on this host, and how its nginx is run: what nginx's text says of the host and not of the mesh. The
 * composition root makes it; rendering and applying read it.
 */

import { sha256 } from '../../core/canonical.ts'

/** Where things lie on this host, and how its nginx is run. */
export interface HostLayout {
  /** nginx's working directory, absolute: objects/, generations/, current, logs/, temp/. */
  readonly directory: string
  readonly pidFile: string
  readonly verifySocket: string
  /** Exists while connections are drained. */
  readonly drainFile: string
  /** As whom workers run; only when nginx starts as root. */
  readonly user?: string
  /** Of sites that name no listener. */
  readonly defaultHttpPort: number
  readonly workerProcesses: 'auto' | number
  readonly workerShutdownTimeoutSeconds: number
  /** Paths of dynamic modules to load. */
  readonly modules: readonly string[]
  /** Whether endpoints may reach nginx without a reload; they do where it has the Lua module too. Default: they may. */
  readonly liveLane?: boolean
  /** Why they cannot, for people, though it has: found out when nginx gave up on it. */
  readonly laneFault?: string
  /** Directories below which static files may be served; anywhere when left out. */
  readonly staticRoots?: readonly string[]
  /** Of all caches together, like 10g; without bounds when left out. */
  readonly maxCacheDisk?: string
  /** Whom nothing is passed on to, and who is not probed; see refused-endpoints.ts. */
  readonly refusedEndpoints?: readonly RefusedNetwork[]
  /** Where the OWASP Core Rule Set lies; `rules/` is in it. */
  readonly crsDirectory?: string
}

/** Addresses that are never asked. */
export interface RefusedNetwork {
  /** `169.254.0.0/16`, `fe80::/10`, or a single address. */
  readonly network: string
  /** Whatever port when left out. */
  readonly port?: number
}

/** Where a stream listens that shares its port with others; for no path, where nobody's clients end. */
export function streamSocket(directory: string, path: string): string {
  return `${directory}/run/${STREAM_SOCKET}${sha256(path).slice(0, 16)}.sock`
}
/** What the names of those sockets begin with. */
export const STREAM_SOCKET = 'stream-'

/** Where nginx itself answers for upstreams whose circuit is open. Workers connect to it, so its directory is passable. */
export function circuitSocket(directory: string): string {
  return `${directory}/run/circuit.sock`
}
