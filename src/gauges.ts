/** Reads the gauges off the state of a node's parts, at each scrape. Changes nothing. Called by node.ts. */

import type { HealthStatus } from './health.ts'
import { LABELS, type Metrics } from './metrics.ts'
import type { Network } from './ports.ts'
import type { Receipt } from './reconciler.ts'
import type { Replica } from './replica.ts'
import type { StatusTable } from './status.ts'

/** What is measured. */
export interface Measured {
  readonly replica: Replica
  readonly status: StatusTable
  readonly network: Network
  readonly receipt: Receipt | undefined
  readonly health: HealthStatus
  readonly converged: boolean
}

export function setGauges(metrics: Metrics, { replica, status, network, receipt, health, converged }: Measured): void {
  metrics.pendingEdits.set(replica.pendingCount)
  metrics.pendingBytes.set(replica.pendingBytes)
  metrics.queuedEdits.set(replica.queuedCount)
  metrics.storedEdits.set(replica.state.history.size)
  // A scrape must not wait for thousands of documents; the next one will find them.
  if (replica.state.isFresh) {
    const resources = replica.state.resources()
    metrics.resources.set(resources.length)
    metrics.conflicts.set(resources.filter(({ conflicts }) => conflicts.size > 0).length)
  }
  const peers = status.peers()
  for (const state of LABELS.state) metrics.peers.set({ state }, peers.filter((peer) => peer.state === state).length)
  metrics.connectedPeers.set(network.connected.length)
  for (const one of LABELS.health) metrics.health.set({ status: one }, one === health ? 1 : 0)
  metrics.inSync.set(converged ? 1 : 0)
  metrics.problems.set(receipt?.problemCount ?? 0)
  metrics.drainingWorkers.set(receipt?.nginx.draining ?? 0)
}
