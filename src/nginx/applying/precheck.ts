/**
 * What `nginx -t` cannot see: whether a port that a generation adds can be bound by a reload of the running nginx. A
 * taken port would pass the test, pass the reload, and leave the old configuration running. Binds for an instant to ask.
 */

import { createSocket } from 'node:dgram'
import { createServer } from 'node:net'
import { bareAddress } from './isolate.ts'
import { listenersOn, titleOf } from './proc.ts'
import type { Listener, StreamListener, Unit } from '../rendering/unit.ts'

export interface PortConflict {
  /** The units that want the port. */
  readonly units: readonly Unit[]
  readonly reason: string
}

type Protocol = StreamListener['protocol']

/** Why an address cannot be bound, who has it; undefined when it can, or when `master` is who has it. */
export type BindCheck = (
  address: string,
  port: number,
  master: number | undefined,
  protocol: Protocol,
) => Promise<string | undefined>

/** nginx as it runs: nothing when it does not. */
export interface RunningNginx {
  readonly master: number | undefined
  readonly listeners: readonly Bound[]
}

/** TCP unless told. */
type Bound = Pick<Listener, 'address' | 'port'> & { readonly protocol?: Protocol }

/** What a unit listens on. */
export function boundBy({ listeners, stream }: Unit): readonly Bound[] {
  return [...listeners, ...(stream?.listeners ?? [])]
}

/**
 * Listeners of `units` that nginx could not bind, each with the units that want it.
 */
export async function portConflicts(
  units: readonly Unit[],
  running: RunningNginx,
  whoHas: BindCheck = tryBind,
): Promise<readonly PortConflict[]> {
  const wanted = new Map(units.flatMap(boundBy).map((listener) => [keyOf(listener), listener]))
  const had = new Set(running.listeners.map(keyOf))
  const conflicts: PortConflict[] = []
  for (const [key, { address, port, protocol = 'tcp' }] of wanted) {
    const all = keyOf({ address: wildcardOf(address), port, protocol })
    // Beside a wildcard of the same port nginx binds, and has bound, the wildcard alone.
    if (key !== all && wanted.has(all)) continue
    if (had.has(key) && (key === all || !had.has(all))) continue
    // Sockets of one user may share a UDP port, so that a reload binds one beside the other.
    const overlapping =
      protocol === 'udp'
        ? undefined
        : running.listeners.find(
            (other) => other.protocol !== 'udp' && other.port === port && overlap(other.address, address),
          )
    const reason =
      overlapping === undefined
        ? await whoHas(bareAddress(address), port, running.master, protocol)
        : `nginx listens on ${overlapping.address}:${port} and cannot bind ${address}:${port} beside it in one reload; ` +
          `remove the sites and streams on ${overlapping.address}:${port} first, or use one address for this port`
    if (reason !== undefined) {
      conflicts.push({
        units: units.filter((unit) => boundBy(unit).some((other) => keyOf(other) === key)),
        reason,
      })
    }
  }
  return conflicts
}

function keyOf({ address, port, protocol = 'tcp' }: Bound): string {
  return `${protocol} ${bareAddress(address)} ${port}`
}

function wildcardOf(address: string): string {
  return bareAddress(address).includes(':') ? '::' : '0.0.0.0'
}

/** Whether one is the wildcard of the other's family; nginx binds `[::]` for IPv6 alone. */
function overlap(a: string, b: string): boolean {
  return wildcardOf(a) === wildcardOf(b) && [a, b].some((address) => bareAddress(address) === wildcardOf(address))
}

async function tryBind(
  address: string,
  port: number,
  master: number | undefined,
  protocol: Protocol,
): Promise<string | undefined> {
  const code = await (protocol === 'udp' ? tryDatagrams(address, port) : tryConnections(address, port))
  // Anything else, such as a privileged port, `nginx -t` sees better: nginx may be allowed what this process is not.
  if (code !== 'EADDRINUSE') return undefined
  const pids = await listenersOn(port, protocol)
  if (master !== undefined && pids.includes(master)) return undefined
  const owners = pids.map((pid) => `process ${pid} (${titleOf(pid).slice(0, 80)})`)
  const which = protocol === 'udp' ? `${port}/udp` : port
  return `port ${which} on ${address} is taken by ${owners.join(', ') || 'another process'}`
}

/** The code of what went wrong; undefined when nothing did. */
function tryConnections(address: string, port: number): Promise<string | undefined> {
  return new Promise((resolve) => {
    const server = createServer()
    server.on('error', (error: NodeJS.ErrnoException) => resolve(error.code))
    server.listen({ host: address, port, exclusive: true, ipv6Only: address.includes(':') }, () => {
      server.close(() => resolve(undefined))
    })
  })
}

/** A port that another process would share is taken, too: one of the two would get nothing. */
function tryDatagrams(address: string, port: number): Promise<string | undefined> {
  return new Promise((resolve) => {
    const isIpv6 = address.includes(':')
    const socket = createSocket({ type: isIpv6 ? 'udp6' : 'udp4', ipv6Only: isIpv6 })
    socket.on('error', (error: NodeJS.ErrnoException) => {
      socket.close()
      resolve(error.code)
    })
    socket.bind({ address, port, exclusive: true }, () => socket.close(() => resolve(undefined)))
  })
}
