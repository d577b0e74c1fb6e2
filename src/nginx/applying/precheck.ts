/**
 * What `nginx -t` cannot see: whether a port that a generation adds can be bound by a reload of the running nginx. A
 * taken port would pass the test, pass the reload, and leave the old configuration running. Binds for an instant to ask.
 */

import { createServer } from 'node:net'
import { bareAddress } from './isolate.ts'
import { listenersOn, titleOf } from './proc.ts'
import type { Listener, Unit } from '../rendering/unit.ts'

export interface PortConflict {
  /** The units that want the port. */
  readonly units: readonly Unit[]
  readonly reason: string
}

/** Why an address cannot be bound, who has it; undefined when it can, or when `master` is who has it. */
export type BindCheck = (address: string, port: number, master: number | undefined) => Promise<string | undefined>

/** nginx as it runs: nothing when it does not. */
export interface RunningNginx {
  readonly master: number | undefined
  readonly listeners: readonly Bound[]
}

type Bound = Pick<Listener, 'address' | 'port'>

/** The TCP ports of a unit. */
export function boundBy({ listeners, stream }: Unit): readonly Bound[] {
  return [...listeners, ...(stream?.listeners ?? []).filter(({ protocol }) => protocol === 'tcp')]
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
  for (const [key, { address, port }] of wanted) {
    const all = keyOf({ address: wildcardOf(address), port })
    // Beside a wildcard of the same port nginx binds, and has bound, the wildcard alone.
    if (key !== all && wanted.has(all)) continue
    if (had.has(key) && (key === all || !had.has(all))) continue
    const overlapping = running.listeners.find((other) => other.port === port && overlap(other.address, address))
    const reason =
      overlapping === undefined
        ? await whoHas(bareAddress(address), port, running.master)
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

function keyOf({ address, port }: Bound): string {
  return `${bareAddress(address)} ${port}`
}

function wildcardOf(address: string): string {
  return bareAddress(address).includes(':') ? '::' : '0.0.0.0'
}

/** Whether one is the wildcard of the other's family; nginx binds `[::]` for IPv6 alone. */
function overlap(a: string, b: string): boolean {
  return wildcardOf(a) === wildcardOf(b) && [a, b].some((address) => bareAddress(address) === wildcardOf(address))
}

async function tryBind(address: string, port: number, master: number | undefined): Promise<string | undefined> {
  const code = await new Promise<string | undefined>((resolve) => {
    const server = createServer()
    server.on('error', (error: NodeJS.ErrnoException) => resolve(error.code))
    server.listen({ host: address, port, exclusive: true, ipv6Only: address.includes(':') }, () => {
      server.close(() => resolve(undefined))
    })
  })
  // Anything else, such as a privileged port, `nginx -t` sees better: nginx may be allowed what this process is not.
  if (code !== 'EADDRINUSE') return undefined
  const pids = await listenersOn(port)
  if (master !== undefined && pids.includes(master)) return undefined
  const owners = pids.map((pid) => `process ${pid} (${titleOf(pid).slice(0, 80)})`)
  return `port ${port} on ${address} is taken by ${owners.join(', ') || 'another process'}`
}
