/**
 * The parts of a node that have to do with its nginx, joined: the process, the applier, the live lane, the observer of
 * upstreams, and the reconciler that moves them. Built by node.ts where nginx.mode is not off; decides nothing itself.
 */

import { resolve } from 'node:path'
import { LocalNginx } from './adapters/nginx-process.ts'
import { ownAddresses } from './adapters/own-addresses.ts'
import { hostResolver } from './adapters/resolver.ts'
import { findRuleSet } from './adapters/rule-set.ts'
import type { Config } from './config/config.ts'
import type { KeyPair } from './core/envelope.ts'
import { encryptionKey } from './core/secrets.ts'
import { isSite, isUpstream, type Slice, type SliceResource } from './core/slice.ts'
import { changesOf } from './core/sorted.ts'
import { countApply } from './gauges.ts'
import type { Log } from './log.ts'
import type { Metrics } from './metrics.ts'
import { addressFile } from './nginx/applying/address-file.ts'
import { Addresses } from './nginx/applying/addresses.ts'
import { Applier } from './nginx/applying/apply.ts'
import { liveEndpoint } from './nginx/applying/live-endpoint.ts'
import { LivePush } from './nginx/applying/live-push.ts'
import { verifyEndpoint } from './nginx/applying/verify.ts'
import type { HostLayout } from './nginx/rendering/host-layout.ts'
import { apiNetworks } from './nginx/rendering/refused-endpoints.ts'
import { TRAFFIC_LOG } from './nginx/rendering/traffic-log.ts'
import { OpenedSecrets } from './opened-secrets.ts'
import type { Clock, Random } from './ports.ts'
import { Reconciler, type ReconcilerOptions } from './reconciler.ts'
import type { ServedCertificates } from './served-certificates.ts'
import { UpstreamObserver } from './upstreams/observing/observer.ts'
import { probe } from './upstreams/observing/probe.ts'
import { TrafficLog } from './upstreams/observing/traffic-log.ts'
import { TrafficMetrics } from './upstreams/observing/traffic-metrics.ts'

export interface NginxOptions extends Pick<ReconcilerOptions, 'holdReason' | 'onReceipt'> {
  readonly settings: Config['nginx']
  /** Where this node's own API listens. */
  readonly api: { readonly address: string; readonly port: number }
  /** The node's, for which secrets are sealed. */
  readonly key: KeyPair
  readonly clock: Clock
  readonly random: Random
  readonly log: Log
  readonly metrics: Metrics
  /** What nginx should serve, as the mesh has it. */
  readonly desired: () => Promise<Slice>
  readonly certificates: ServedCertificates
}

/** To be started in this order. */
export interface NginxParts {
  readonly process: LocalNginx
  readonly observer: UpstreamObserver
  readonly reconciler: Reconciler
}

export function buildNginx(options: NginxOptions): NginxParts {
  const { settings, metrics } = options
  const layout = layoutOf(options)
  const { directory, pidFile, verifySocket, user } = layout
  const process = new LocalNginx({
    binary: settings.binary,
    directory,
    pidFile,
    verifySocket,
    mode: modeOf(settings),
    ...(user === undefined ? {} : { user }),
    ...(settings.modulesDirectory === '' ? {} : { modulesDirectory: resolve(settings.modulesDirectory) }),
  })
  const traffic = new TrafficMetrics(metrics)
  const observer = buildObserver(options, layout, traffic, () => reconciler.observedChanged())
  const reconciler = buildReconciler(options, layout, traffic, { process, observer })
  return { process, observer, reconciler }
}

function buildObserver(
  { clock, random, log, metrics }: NginxOptions,
  { directory, verifySocket }: HostLayout,
  traffic: TrafficMetrics,
  onChange: () => void,
): UpstreamObserver {
  const lines = new TrafficLog(resolve(directory, 'logs', TRAFFIC_LOG))
  const observer = new UpstreamObserver({
    clock,
    random,
    log: log.child('upstreams'),
    probe,
    traffic: lines,
    onChange: (changes) => {
      metrics.upstreamChanges.inc(changes)
      onChange()
    },
    onAnswer: (answer, upstreams) => traffic.count(answer, upstreams),
  })
  const endpoint = verifyEndpoint(verifySocket)
  metrics.onScrape(async () => {
    const connections = await endpoint.connections()
    traffic.measure(observer.views, connections, lines.skippedBytes)
  })
  return observer
}

function buildReconciler(
  options: NginxOptions,
  layout: HostLayout,
  traffic: TrafficMetrics,
  { process, observer }: Omit<NginxParts, 'reconciler'>,
): Reconciler {
  const { settings, key, clock, random, metrics, certificates, desired, holdReason, onReceipt } = options
  const { directory, verifySocket } = layout
  const log = options.log.child('nginx')
  const live = new LivePush({ directory, nginx: process, endpoint: liveEndpoint(verifySocket), clock })
  const opened = new OpenedSecrets(encryptionKey(key.seed))
  let counted: Slice['resources'] = []
  return new Reconciler({
    desired,
    secrets: (slice) => {
      certificates.take(slice)
      return opened.of(slice)
    },
    applier: new Applier({
      layout,
      nginx: process,
      clock,
      random,
      settings: {
        mode: modeOf(settings),
        testTimeoutMs: settings.testTimeoutSeconds * 1000,
        maxDrainingWorkers: settings.maxDrainingWorkers === 'auto' ? undefined : settings.maxDrainingWorkers,
      },
      liveFingerprints: (site) => live.fingerprints(site),
    }),
    nginx: process,
    layout,
    addresses: new Addresses(hostResolver(), clock, addressFile(resolve(directory, 'addresses.json'), log)),
    clock,
    random,
    log,
    observer,
    holdReason,
    onReceipt,
    hooks: {
      onApply: (result, slice) => countApply(metrics, result, slice, clock.now()),
      onDrift: (found) => metrics.driftHealed.inc(found.length),
      onSlice: ({ resources }) => {
        const isCounted = changesOf(counted, resources) !== undefined
        counted = resources
        if (isCounted) return
        const paths = (kind: (resource: SliceResource) => boolean) =>
          new Set(resources.filter(kind).map(({ path }) => path))
        traffic.follow(paths(isSite), paths(isUpstream))
      },
    },
    stopNginx: settings.stopOnExit,
    live,
    settings: driftSettings(settings.driftIntervalSeconds),
  })
}

function modeOf({ mode }: Config['nginx']): 'own' | 'attach' {
  return mode === 'attach' ? 'attach' : 'own'
}

function layoutOf({ settings, api }: NginxOptions): HostLayout {
  const directory = resolve(settings.directory)
  const crsDirectory = findRuleSet(settings.crsDirectory)
  return {
    directory,
    pidFile: resolve(settings.pidFile),
    verifySocket: resolve(directory, 'private', 'verify.sock'),
    drainFile: resolve(directory, 'drain'),
    ...(settings.user === '' ? {} : { user: settings.user }),
    defaultHttpPort: settings.defaultHttpPort,
    workerProcesses: settings.workerProcesses,
    workerShutdownTimeoutSeconds: settings.workerShutdownTimeoutSeconds,
    modules: settings.modules,
    staticRoots: settings.staticRoots,
    maxCacheDisk: settings.maxCacheDisk,
    refusedEndpoints: [
      ...settings.refusedEndpoints.map((network) => ({ network })),
      ...apiNetworks(api.address, api.port, ownAddresses()),
    ],
    ...(crsDirectory === undefined ? {} : { crsDirectory }),
    liveLane: settings.liveLane,
  }
}

function driftSettings(seconds: number): { readonly driftIntervalMs: number } {
  return { driftIntervalMs: seconds === 0 ? Number.POSITIVE_INFINITY : seconds * 1000 }
}
