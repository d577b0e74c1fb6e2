/**
 * What nginx's traffic and the observed upstreams come to in metrics. Changes nothing but metrics. Called by nginx-parts.ts,
 * for each line of the traffic log and at each scrape.
 */

import { LABELS, statusClass, type Metrics } from '../../metrics.ts'
import type { Answer } from '../judging/traffic.ts'
import type { UpstreamView } from './observer.ts'
import { ResourceLabels } from './resource-labels.ts'

/** Open connections as nginx's stub_status counts them. */
export type Connections = Readonly<Record<(typeof LABELS.connection)[number], number>>

export class TrafficMetrics {
  readonly #metrics: Metrics
  readonly #sites = new ResourceLabels()
  readonly #upstreams = new ResourceLabels()

  constructor(metrics: Metrics) {
    this.#metrics = metrics
  }

  /** The resources that exist on this node now: series of others end. */
  follow(sites: ReadonlySet<string>, upstreams: ReadonlySet<string>): void {
    const { siteRequests, siteSeconds, upstreamRequests, upstreamRejected, upstreamSeconds } = this.#metrics
    for (const site of this.#sites.follow(sites)) {
      for (const status of LABELS.status) siteRequests.remove({ site, status })
      siteSeconds.remove({ site })
    }
    for (const upstream of this.#upstreams.follow(upstreams)) {
      for (const status of LABELS.status) upstreamRequests.remove({ upstream, status })
      upstreamRejected.remove({ upstream })
      upstreamSeconds.remove({ upstream })
    }
  }

  /** One request. @param path of the upstream that it was passed to, if it was */
  count(answer: Answer, path: string | undefined): void {
    const metrics = this.#metrics
    const status = statusClass(answer.status)
    metrics.requests.inc({ status })
    metrics.requestSeconds.observe(answer.seconds)
    if (answer.site !== '') {
      const site = this.#sites.of(answer.site)
      metrics.siteRequests.inc({ site, status })
      metrics.siteSeconds.observe({ site }, answer.seconds)
    }
    if (path === undefined) return
    const upstream = this.#upstreams.of(path)
    if (answer.isRejected) {
      metrics.upstreamRejected.inc({ upstream })
      return
    }
    metrics.upstreamRequests.inc({ upstream, status })
    metrics.upstreamSeconds.observe({ upstream }, answer.upstreamSeconds)
  }

  /** Gauges, at a scrape. */
  measure(views: readonly UpstreamView[], connections: Connections | undefined, skippedBytes: number): void {
    const { upstreamEndpoints, upstreamCircuits, connections: gauge, trafficSkippedBytes } = this.#metrics
    upstreamEndpoints.reset()
    upstreamCircuits.reset()
    for (const { path, circuit, endpoints, ailing, ejected } of views) {
      const upstream = this.#upstreams.of(path)
      // Those without a label of their own would only overwrite each other.
      if (upstream !== path) continue
      upstreamEndpoints.set({ upstream, endpoint: 'well' }, endpoints - ailing.length)
      upstreamEndpoints.set({ upstream, endpoint: 'ailing' }, ailing.length - ejected.length)
      upstreamEndpoints.set({ upstream, endpoint: 'ejected' }, ejected.length)
      for (const state of LABELS.circuit) upstreamCircuits.set({ upstream, circuit: state }, state === circuit ? 1 : 0)
    }
    for (const connection of LABELS.connection) gauge.set({ connection }, connections?.[connection] ?? 0)
    trafficSkippedBytes.set(skippedBytes)
  }
}
