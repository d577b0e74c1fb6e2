/**
 * Every metric of the node, in one place, on a registry of its own. Base units, `_total` on counters alone, labels only
 * from the closed sets written here, or names of sites and upstreams, a limited number of them: never a peer or anything
 * else that an outsider can choose.
 */

import { workspaceOf } from './core/names.ts'
import { collectDefaultMetrics, Counter, Gauge, Histogram, Registry } from 'prom-client'

/** Closed sets of label values. Every combination is exported from the start, as 0, so that rates have a beginning. */
export const LABELS = {
  outcome: ['stored', 'known', 'waiting', 'refused'],
  source: ['api', 'gossip', 'sync', 'disk'],
  verdict: ['accepted', 'void'],
  round: ['done', 'failed'],
  write: ['done', 'failed'],
  event: [
    'link_up',
    'link_down',
    'dial_failed',
    'connection_refused',
    'guest_admitted',
    'gossip_accept',
    'gossip_ignore',
    'gossip_reject',
    'push_dropped',
    'rate_limited',
    'peer_banned',
  ],
  state: ['Ready', 'NotReady', 'Unavailable', 'Unknown'],
  health: ['Running', 'Degraded', 'Error', 'Unknown'],
  phase: ['stage', 'precheck', 'test', 'gate', 'drain', 'reload', 'verify', 'probe', 'bake', 'commit', 'rollback'],
  apply: ['applied', 'unchanged', 'refused', 'rolled_back', 'failed'],
  reload: ['verified', 'rolled_back', 'failed'],
  alarm: ['withheld', 'forks', 'shared_key'],
  forks: ['one', 'several'],
  status: ['1xx', '2xx', '3xx', '4xx', '5xx'],
  connection: ['active', 'reading', 'writing', 'waiting'],
  circuit: ['closed', 'open', 'half_open'],
  endpoint: ['well', 'ailing', 'ejected'],
} as const

export type Alarm = (typeof LABELS.alarm)[number]

/** Stands for resources beyond the limit of those that are told apart. */
export const OTHER = 'other'

type LabelSets = Readonly<Record<string, readonly string[]>>
type Labels<L extends LabelSets> = { readonly [K in keyof L]: L[K][number] }
interface LabelledCounter<L extends LabelSets> {
  inc(labels: Labels<L>, by?: number): void
}
interface LabelledGauge<L extends LabelSets> {
  set(labels: Labels<L>, value: number): void
}
interface LabelledHistogram<L extends LabelSets> {
  observe(labels: Labels<L>, value: number): void
}

/** Of answers to clients; seconds. Few, since every site and upstream has them all. */
const ANSWER_SECONDS = [0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30]

/** From a disk write to a reload of a large host; seconds. */
const SECONDS = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60]

export interface MetricsOptions {
  /** The API's route patterns (`/v1/edits/:id`): the label values of HTTP metrics. Others count as `other`. */
  readonly routes?: readonly string[]
}

export type Metrics = ReturnType<typeof createMetrics>

/** All metrics. One call for each node, so that several nodes can live in one process. */
export function createMetrics(options: MetricsOptions = {}) {
  const registry = new Registry()
  const registers = [registry]
  const routes: ReadonlySet<string> = new Set([...(options.routes ?? []), 'other'])

  const plainCounter = (name: string, help: string): Counter =>
    new Counter({ name: `nxmesh_${name}_total`, help, registers })
  const plainGauge = (name: string, help: string): Gauge => new Gauge({ name: `nxmesh_${name}`, help, registers })
  const plainHistogram = (name: string, help: string): Histogram =>
    new Histogram({ name: `nxmesh_${name}_seconds`, help, buckets: SECONDS, registers })
  const counter = <L extends LabelSets>(name: string, help: string, sets: L): LabelledCounter<L> => {
    const metric = new Counter({ name: `nxmesh_${name}_total`, help, labelNames: Object.keys(sets), registers })
    for (const labels of combinations(sets)) metric.inc(labels, 0)
    return metric
  }
  const gauge = <L extends LabelSets>(name: string, help: string, sets: L): LabelledGauge<L> => {
    const metric = new Gauge({ name: `nxmesh_${name}`, help, labelNames: Object.keys(sets), registers })
    for (const labels of combinations(sets)) metric.set(labels, 0)
    return metric
  }
  const histogram = <L extends LabelSets>(name: string, help: string, sets: L): LabelledHistogram<L> => {
    const metric = new Histogram({
      name: `nxmesh_${name}_seconds`,
      help,
      labelNames: Object.keys(sets),
      buckets: SECONDS,
      registers,
    })
    for (const labels of combinations(sets)) metric.zero(labels)
    return metric
  }

  /** By resource, of which there is one label set for each that has a place in a limited table; see resource-labels.ts. */
  const resourceCounter = (name: string, help: string, labelNames: readonly string[]): Counter =>
    new Counter({ name: `nxmesh_${name}_total`, help, labelNames: [...labelNames], registers })
  const resourceGauge = (name: string, help: string, labelNames: readonly string[]): Gauge =>
    new Gauge({ name: `nxmesh_${name}`, help, labelNames: [...labelNames], registers })
  const resourceHistogram = (name: string, help: string, labelNames: readonly string[]): Histogram =>
    new Histogram({
      name: `nxmesh_${name}_seconds`,
      help,
      labelNames: [...labelNames],
      buckets: ANSWER_SECONDS,
      registers,
    })

  const { outcome, source, verdict, round, write, event, state, health, alarm, forks, phase, apply, reload, status } =
    LABELS
  const route = [...routes]
  const httpRequests = counter('http_requests', 'Requests answered by the API.', { route, status })
  const httpSeconds = histogram('http_request', 'Time to answer a request, event streams left out.', { route })

  collectDefaultMetrics({ register: registry })
  // These gauges are named like counters; the number of each type stays, as nodejs_active_resources and the like.
  for (const kind of ['handles', 'requests', 'resources']) registry.removeSingleMetric(`nodejs_active_${kind}_total`)

  const measures: (() => void | Promise<void>)[] = []
  return {
    /** The exposition text of `/metrics`, and its content type. `mayRead`: whose resources may be named. */
    text: async (mayRead: (workspace: string) => boolean = () => true): Promise<string> => {
      for (const measure of measures) await measure()
      return readable(await registry.metrics(), mayRead)
    },
    /** Has gauges set just before they are read, for what costs too much to follow at every change. */
    onScrape: (measure: () => void | Promise<void>): void => void measures.push(measure),
    contentType: registry.contentType,
    registry,

    edits: counter('edits', 'Envelopes that came in, by what became of them and where they came in.', {
      outcome,
      source,
    }),
    verdicts: counter('verdicts', 'Envelopes stored, by the verdict on them then and by where they came in.', {
      verdict,
      source,
    }),
    forks: plainCounter('forks', 'Two edits signed by one author for one place of its chain.'),
    forkingAuthors: gauge('forking_authors', 'Keys in force that signed several edits for one place of their chain.', {
      forks,
    }),
    pendingEdits: plainGauge('pending_edits', 'Envelopes that wait for unknown ancestors.'),
    pendingBytes: plainGauge('pending_bytes', 'Bytes of the envelopes that wait for unknown ancestors.'),
    queuedEdits: plainGauge('queued_edits', 'Envelopes that wait for the disk.'),
    storedEdits: plainGauge('stored_edits', 'Envelopes in the store.'),
    resources: plainGauge('resources', 'Resources that exist, of all zones.'),
    conflicts: plainGauge('conflicts', 'Resources with a field that has several concurrent values.'),

    storeAppends: counter('store_appends', 'Batches written to the store.', { outcome: write }),
    storeAppendedBytes: plainCounter('store_appended_bytes', 'Bytes of envelopes written to the store.'),
    storeAppendSeconds: plainHistogram('store_append', 'Time until a batch was durable.'),
    storeCorruptRecords: plainCounter('store_corrupt_records', 'Stored records that were damaged and left out.'),

    syncRounds: counter('sync_rounds', 'Rounds of anti-entropy with a peer.', { outcome: round }),
    syncSeconds: plainHistogram('sync_round', 'Time of a round of anti-entropy.'),
    syncSentBytes: plainCounter('sync_sent_bytes', 'Bytes of envelopes that peers asked for.'),
    syncReceivedBytes: plainCounter('sync_received_bytes', 'Bytes of envelopes received in rounds of anti-entropy.'),

    peers: gauge('peers', 'Known peers by state.', { state }),
    connectedPeers: plainGauge('connected_peers', 'Peers with an open connection.'),
    agreeingPeers: plainGauge(
      'agreeing_peers',
      'Other granted nodes, but for those of registrars, that held the same as this one within the last ten minutes.',
    ),
    networkEvents: counter('network_events', 'Connections made, lost and refused; gossip by verdict; limits reached.', {
      event,
    }),

    health: gauge('health', '1 for the state that /health shows, 0 for the others.', { status: health }),
    alarms: gauge(
      'alarms',
      '1 while /health tells of it: edits withheld from this node, forks, its own key used twice.',
      {
        alarm,
      },
    ),
    inSync: plainGauge('in_sync', '1 when nginx is proven to run what is desired, else 0.'),
    certificateExpiry: plainGauge(
      'certificate_first_expiry_timestamp_seconds',
      'When the first of the certificates that sites serve here expires; 0 when they serve none.',
    ),
    problems: plainGauge('slice_problems', 'Resources of the slice that are not served as they stand.'),
    lastSuccess: plainGauge(
      'last_apply_success_timestamp_seconds',
      'When nginx was last proven to run what was desired.',
    ),
    applies: counter(
      'applies',
      'Attempts to bring nginx to what is desired. One that applies a part and is refused the rest counts as both.',
      {
        outcome: apply,
      },
    ),
    applySeconds: histogram('apply_phase', 'Time of each phase of an apply.', { phase }),
    reloads: counter('nginx_reloads', 'Reloads of nginx.', { outcome: reload }),
    driftHealed: plainCounter('drift_healed', 'Files that were changed behind the node and put right.'),
    requests: counter('requests', 'Requests that nginx answered, of all sites.', { status }),
    requestSeconds: new Histogram({
      name: 'nxmesh_request_seconds',
      help: 'Time from the first byte of a request to the last of its answer, of all sites.',
      buckets: ANSWER_SECONDS,
      registers,
    }),
    siteRequests: resourceCounter('site_requests', 'Requests that nginx answered, by site.', ['site', 'status']),
    siteSeconds: resourceHistogram('site_request', 'Time from the first byte of a request to the last of its answer.', [
      'site',
    ]),
    upstreamRequests: resourceCounter(
      'upstream_requests',
      'Requests passed on, by upstream and what came back at last; those that an open circuit refused left out.',
      ['upstream', 'status'],
    ),
    upstreamRejected: resourceCounter('upstream_rejected', 'Requests answered with 503 because the circuit was open.', [
      'upstream',
    ]),
    upstreamSeconds: resourceHistogram('upstream_response', 'Time until an upstream had answered, retries included.', [
      'upstream',
    ]),
    upstreamEndpoints: resourceGauge(
      'upstream_endpoints',
      'Endpoints of observed upstreams: well, ailing but used for want of others, ejected.',
      ['upstream', 'endpoint'],
    ),
    upstreamCircuits: resourceGauge('upstream_circuits', '1 for the state of the circuit, 0 for the others.', [
      'upstream',
      'circuit',
    ]),
    upstreamChanges: plainCounter('upstream_changes', 'Endpoints ejected or let in again, circuits opened or closed.'),
    connections: gauge('nginx_connections', 'Connections of clients to nginx.', { connection: LABELS.connection }),
    trafficSkippedBytes: plainGauge(
      'traffic_log_skipped_bytes',
      'Bytes of the traffic log that were not counted since nginx wrote faster than they were read.',
    ),
    drainingWorkers: plainGauge(
      'nginx_draining_workers',
      'Workers of nginx that finish their connections after a reload.',
    ),

    /** Counts one answered request. `pattern` is the route's pattern, never the path; undefined when none matched. */
    observeHttp(pattern: string | undefined, statusCode: number, seconds: number): void {
      const labels = { route: pattern !== undefined && routes.has(pattern) ? pattern : 'other' }
      httpRequests.inc({ ...labels, status: statusClass(statusCode) })
      httpSeconds.observe(labels, seconds)
    },
  }
}

/** Without the series of resources in workspaces that the reader may not read. */
function readable(text: string, mayRead: (workspace: string) => boolean): string {
  const stays = (line: string): boolean => {
    const [, path] = /[{,](?:site|upstream)="([^"]*)"/.exec(line) ?? []
    return path === undefined || path === OTHER || mayRead(workspaceOf(path))
  }
  return text.split('\n').filter(stays).join('\n')
}

export function statusClass(statusCode: number): Labels<typeof LABELS>['status'] {
  return LABELS.status[Math.trunc(statusCode / 100) - 1] ?? '5xx'
}

function combinations(sets: LabelSets): Record<string, string>[] {
  let rows: Record<string, string>[] = [{}]
  for (const [name, values] of Object.entries(sets)) {
    rows = rows.flatMap((row) => values.map((value) => ({ ...row, [name]: value })))
  }
  return rows
}
