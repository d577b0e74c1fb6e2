/**
 * How applies go about it: their settings with defaults, and the parts of the host that they work on. Given to Applier by
 * node.ts; decides nothing.
 */

import { join } from 'node:path'
import type { Clock, NginxProcess, Random } from '../../ports.ts'
import type { HostLayout } from '../rendering/host-layout.ts'
import { TRAFFIC_LOG } from '../rendering/traffic-log.ts'
import type { BakeRule } from './bake.ts'
import { disk } from './disk.ts'
import { GenerationStore } from './generation.ts'
import { LogTail } from './log-tail.ts'
import type { BindCheck } from './precheck.ts'
import { probe as probeOverNetwork, type LiveFingerprints, type ProbeTarget } from './probe.ts'
import { verifyEndpoint, type VerifyEndpoint } from './verify.ts'

export interface ApplySettings {
  /** own: start nginx when it does not run. attach: only ever reload it. */
  readonly mode: 'own' | 'attach'
  readonly testTimeoutMs: number
  /**
   * To find out which changes nginx refuses, an apply takes no longer than this plus sixteen times what `nginx -t` took;
   * then it goes on with what is proven, and the next one with the rest.
   */
  readonly isolateMs: number
  /** Draining workers from which on a reload waits; they hold memory. Undefined: four times the serving ones, at least 16. */
  readonly maxDrainingWorkers: number | undefined
  /** How long a reload waits for draining workers before the apply fails and is retried. */
  readonly gateWaitMs: number
  /** A verification takes no longer than this plus ten times what `nginx -t` took. */
  readonly verifyMs: number
  readonly probeTimeoutMs: number
  readonly bake: BakeRule
  /** A log file beyond this is put aside; a few of them stay. */
  readonly logMaxBytes: number
}

const APPLY_DEFAULTS: ApplySettings = {
  mode: 'own',
  testTimeoutMs: 60_000,
  isolateMs: 10_000,
  maxDrainingWorkers: undefined,
  gateWaitMs: 10_000,
  verifyMs: 5_000,
  probeTimeoutMs: 2_000,
  bake: { minRequests: 20, excess: 0.2 },
  logMaxBytes: 64 * 1024 * 1024,
}

export interface ApplierOptions {
  readonly layout: HostLayout
  readonly nginx: NginxProcess
  readonly clock: Clock
  readonly random: Random
  readonly settings?: Partial<ApplySettings>
  readonly store?: GenerationStore
  readonly endpoint?: VerifyEndpoint
  readonly whoHas?: BindCheck
  readonly probe?: Parts['probe']
  readonly liveFingerprints?: LiveFingerprints
}

/** The options with everything filled in. */
export interface Parts {
  readonly layout: HostLayout
  readonly nginx: NginxProcess
  readonly clock: Clock
  readonly random: Random
  readonly settings: ApplySettings
  readonly store: GenerationStore
  readonly endpoint: VerifyEndpoint
  readonly whoHas: BindCheck | undefined
  readonly probe: (targets: readonly ProbeTarget[], timeoutMs: number) => ReturnType<typeof probeOverNetwork>
  readonly errorLog: LogTail
  /** Read beside the observer, who empties it: a few lines are lost then. */
  readonly trafficLog: LogTail
}

export function partsOf(options: ApplierOptions): Parts {
  const { layout, nginx, clock, random } = options
  const log = (name: string) => new LogTail(join(layout.directory, 'logs', name))
  return {
    layout,
    nginx,
    clock,
    random,
    settings: { ...APPLY_DEFAULTS, ...options.settings },
    store: options.store ?? new GenerationStore(layout, clock, disk, () => nginx.workerGroup()),
    endpoint: options.endpoint ?? verifyEndpoint(layout.verifySocket),
    whoHas: options.whoHas,
    probe: options.probe ?? ((targets, timeoutMs) => probeOverNetwork(targets, timeoutMs, options.liveFingerprints)),
    errorLog: log('error.log'),
    trafficLog: log(TRAFFIC_LOG),
  }
}
