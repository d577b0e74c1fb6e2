/**
 * What nginx's traffic and the observed upstreams come to in metrics. Changes nothing but metrics. Called by nginx-parts.ts,
 * for each line of the traffic log and at each scrape.
 */

import { LABELS, statusClass, type Metrics } from '../../metrics.ts'
import type { Connections } from '../../nginx/applying/verify.ts'
import type { Answer, Asked } from '../judging/traffic.ts'
import type { UpstreamView } from './observer.ts'
import { ResourceLabels } from './resource-labels.ts'

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

  /** One request. @param paths of the upstreams that were asked, in the order of the answer */
  count(answer: Answer, paths: readonly (string | undefined)[]): void {
    const metrics = this.#metrics
    const status = statusClass(answer.status)
    metrics.requests.inc({ status })
    metrics.requestSeconds.observe(answer.seconds)
    if (answer.site !== '') {
      const site = this.#sites.of(answer.site)
      metrics.siteRequests.inc({ site, status })
      metrics.siteSeconds.observe({ site }, answer.seconds)
    }
    for (const [index, one] of answer.asked.entries()) this.#countAsked(one, paths[index])
  }

  #countAsked({ isRejected, status, seconds }: Asked, path: string | undefined): void {
    if (path === undefined) return
    const { upstreamRejected, upstreamRequests, upstreamSeconds } = this.#metrics
    const upstream = this.#upstreams.of(path)
    if (isRejected) {
      upstreamRejected.inc({ upstream })
      return
    }
    upstreamRequests.inc({ upstream, status: statusClass(status) })
    upstreamSeconds.observe({ upstream }, seconds)
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
