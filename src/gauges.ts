/**
 * What a node's parts come to in its metrics: the gauges off their state at each scrape, and what each apply adds. Changes
 * nothing but metrics. Called by node.ts and nginx-parts.ts.
 */

import type { Alarms } from './status/alarms.ts'
import { isRepeated } from './status/forks.ts'
import type { HealthStatus } from './status/health.ts'
import { LABELS, type Metrics } from './metrics.ts'
import type { ApplyResult, Phase } from './nginx/applying/run.ts'
import type { Network } from './ports.ts'
import type { Receipt } from './receipt.ts'
import type { Replica } from './replica.ts'
import type { StatusTable } from './status/status.ts'

/** What is measured. */
export interface Measured {
  readonly replica: Replica
  readonly status: StatusTable
  readonly network: Network
  readonly receipt: Receipt | undefined
  readonly health: HealthStatus
  readonly converged: boolean
  /** Of a certificate that a site serves: wall time, ms. */
  readonly firstExpiry: number | undefined
  readonly alarms: Alarms
}

export function setGauges(metrics: Metrics, measured: Measured): void {
  const { replica, status, network, receipt, health, converged, alarms } = measured
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
  metrics.agreeingPeers.set(alarms.agreeing)
  const forkers = alarms.forkers()
  const several = forkers.filter(isRepeated).length
  metrics.forkingAuthors.set({ forks: 'several' }, several)
  metrics.forkingAuthors.set({ forks: 'one' }, forkers.length - several)
  const complaints = alarms.complaints()
  for (const alarm of LABELS.alarm) metrics.alarms.set({ alarm }, complaints[alarm].length > 0 ? 1 : 0)
  for (const one of LABELS.health) metrics.health.set({ status: one }, one === health ? 1 : 0)
  metrics.inSync.set(converged ? 1 : 0)
  metrics.certificateExpiry.set((measured.firstExpiry ?? 0) / 1000)
  metrics.problems.set(receipt?.problemCount ?? 0)
  metrics.drainingWorkers.set(receipt?.nginx.draining ?? 0)
}

/** @param desired the generation that the slice renders to, nothing isolated */
export function countApply(metrics: Metrics, result: ApplyResult, desired: string, nowMs: number): void {
  const { outcome, phases, generation, isolated } = result
  const isProven = outcome === 'applied' || outcome === 'unchanged'
  const isRefused = isProven && isolated.some(({ why }) => why === 'refused')
  // Nothing that was refused is a success, though it leaves nginx unchanged.
  if (!isRefused || outcome === 'applied') metrics.applies.inc({ outcome })
  if (isRefused) metrics.applies.inc({ outcome: 'refused' })
  if (isProven && generation === desired) metrics.lastSuccess.set(nowMs / 1000)
  if (outcome === 'applied') metrics.reloads.inc({ outcome: 'verified' })
  if (outcome === 'rolled_back') metrics.reloads.inc({ outcome: 'rolled_back' })
  for (const [phase, ms] of Object.entries(phases) as [Phase, number][]) {
    metrics.applySeconds.observe({ phase }, ms / 1000)
  }
}
