/**
 * The text of a generation's nginx.conf: what all units share, the verify server, a default server for each listener
 * that no site claims whole, and the includes. Pure; called by render.ts.
 */

import { CIRCUIT_HEADER, PLANNED_HEADER } from '../../core/names.ts'
import type { NodeSettings } from '../../core/resources/zone-settings.ts'
import type { Capabilities } from '../../ports.ts'
import { ACCESS_LOG_LINES } from './access-log.ts'
import { circuitSocket, type HostLayout } from './host-layout.ts'
import { block, directive, toText, when } from './lines.ts'
import { LIVE_HTTP_LINES, LIVE_SERVER_LINES } from './live-program.ts'
import { drainable, fixed } from './location.ts'
import { MIME_TYPES } from './mime-types.ts'
import { compareVersions, isMet, NEEDS } from './needs.ts'
import { DOLLAR_VARIABLE, literal, plain } from './quote.ts'
import { IDENTITY_VARIABLE } from './policies/policy-text.ts'
import { CONNECTION_VARIABLE, DEFAULT_HEADER_LINES, IGNORED_HEADERS } from './proxy.ts'
import { listenLine, realClientLines, rejectingLines, TLS_LINES } from './server-tls.ts'
import { TRAFFIC_FORMAT_LINES, TRAFFIC_LOG_LINE } from './traffic-log.ts'
import type { Listener } from './unit.ts'
import { ASKED_VARIABLE } from '../../upstreams/judging/traffic.ts'

/** What a listener answers, with 404, to a host that no site claims. */
export const DEFAULT_ANSWER = 'no site answers to this host name'

/** Old workers wait so long for the next request of an idle connection, and close it behind the answer. */
export const KEEPS_IDLE_LINE = 'keepalive_min_timeout 5s;'

/** Of each worker, to clients and upstreams, beside those that nginx takes for listening. */
const CONNECTIONS = 4096

/** When clients may come again while a circuit is open. */
const CIRCUIT_RETRY_SECONDS = 10

export interface MainInput {
  readonly host: HostLayout
  readonly capabilities: Capabilities
  /** Paths of the dynamic modules to load, in order. */
  readonly modules: readonly string[]
  /** Units ask for what live-program.ts keeps. */
  readonly isLive: boolean
  readonly settings: NodeSettings
  /** How many distinct ones the units have. */
  readonly listeners: number
  /** Whether any of them is over TLS. */
  readonly hasTls: boolean
  /** Listeners without a site that claims `*`. */
  readonly unclaimed: readonly Listener[]
  /** A line for each unit. */
  readonly includes: readonly string[]
  /** Lines of the block of streams; none without any. */
  readonly stream: readonly string[]
}

/** nginx.conf of the generation that `digest` names. */
export function mainConf(input: MainInput, digest: string): string {
  const { host, capabilities, modules, isLive, settings, listeners, hasTls, unclaimed, includes, stream } = input
  // Each listening socket is a connection of every worker; the verify socket is one, that of open circuits another.
  const connections = CONNECTIONS + listeners + 2
  return toText([
    '# Written by mesh-node. What is changed here by hand is put aside and undone: change the mesh instead.',
    ...modules.map((module) => `load_module ${plain(module)};`),
    ...directive('user', host.user === undefined ? undefined : plain(host.user)),
    `worker_processes ${host.workerProcesses};`,
    `worker_shutdown_timeout ${settings.workerShutdownTimeout ?? `${host.workerShutdownTimeoutSeconds}s`};`,
    `pid ${plain(host.pidFile)};`,
    // Each may be a file beside. Where the host forbids so many, nginx says so and goes on with what it has.
    `worker_rlimit_nofile ${2 * connections};`,
    'error_log logs/error.log notice;',
    '',
    ...block('events', [`worker_connections ${connections};`]),
    '',
    ...block('http', [
      ...block(
        'types',
        Object.entries(MIME_TYPES).map(([type, endings]) => `${type} ${endings};`),
      ),
      'default_type application/octet-stream;',
      ...HTTP_LINES,
      ...when(compareVersions(capabilities.version, '1.27.4') >= 0, KEEPS_IDLE_LINE),
      ...REFUSAL_MAPS,
      ...trustLines(settings, capabilities),
      ...directive('client_max_body_size', settings.maxBodySize),
      ...timeoutLines('proxy', settings),
      ...timeoutLines('grpc', settings),
      ...DEFAULT_HEADER_LINES,
      `proxy_ignore_headers ${IGNORED_HEADERS.join(' ')};`,
      ...when(isLive, ...LIVE_HTTP_LINES),
      ...(hasTls ? TLS_LINES : []),
      ...block('server', verifyServer(input, digest)),
      ...block('server', circuitServer(host)),
      ...unclaimed.flatMap((listener) => block('server', defaultServer(listener, host, capabilities))),
      ...includes,
    ]),
    ...(stream.length > 0 ? ['', ...stream] : []),
  ])
}

/** Nothing where nginx cannot: render.ts has a problem for it then. */
function trustLines({ realClient }: NodeSettings, capabilities: Capabilities): readonly string[] {
  if (realClient === undefined || realClient.trust.length === 0 || !isMet(NEEDS.realClient, capabilities)) return []
  return [
    ...realClient.trust.toSorted().map((network) => `set_real_ip_from ${plain(network)};`),
    `real_ip_header ${plain(realClient.header)};`,
    ...when(realClient.recursive, 'real_ip_recursive on;'),
  ]
}

function timeoutLines(module: 'proxy' | 'grpc', settings: NodeSettings): readonly string[] {
  return [
    ...directive(`${module}_connect_timeout`, settings.connectTimeout),
    ...directive(`${module}_read_timeout`, settings.readTimeout),
    ...directive(`${module}_send_timeout`, settings.sendTimeout),
  ]
}

/**
 * Set by what policies have in locations: the policy that refused in an `if`, or would have; those that refuse when nginx
 * says so, by limit_req, limit_conn, and 401; the one whose
 * refusals come by way of a location of their own.
 */
const REFUSALS = ['refused', 'reported', 'rate_limit', 'connection_limit', 'credentials', 'waf'].map(
  (name) => `nxmesh_${name}`,
)

const HTTP_LINES: readonly string[] = [
  ...ACCESS_LOG_LINES,
  ...TRAFFIC_FORMAT_LINES,
  TRAFFIC_LOG_LINE,
  // A request that fails before its server is known has no site.
  'uninitialized_variable_warn off;',
  'client_body_temp_path temp/client_body;',
  'proxy_temp_path temp/proxy;',
  'fastcgi_temp_path temp/fastcgi;',
  'uwsgi_temp_path temp/uwsgi;',
  'scgi_temp_path temp/scgi;',
  'sendfile on;',
  'tcp_nopush on;',
  'server_tokens off;',
  // Redirects of nginx's own must hold behind another port or proxy.
  'absolute_redirect off;',
  // nginx tries one size after the other, for each listener and each level of wildcards, until no bucket overflows: with
  // names made to collide that took seconds. A hundred of the longest fit into one bucket of this size, so the first size
  // does; for more, nginx tries the last 1,000 sizes alone when the largest is over 10,000. It holds a million names.
  'server_names_hash_bucket_size 32768;',
  'server_names_hash_max_size 10001;',
  'types_hash_max_size 2048;',
  'variables_hash_max_size 2048;',
  'variables_hash_bucket_size 1024;',
  'proxy_headers_hash_max_size 1024;',
  'proxy_headers_hash_bucket_size 256;',
  'proxy_http_version 1.1;',
  `geo $${DOLLAR_VARIABLE} { default "$"; }`,
  `map $http_upgrade $${CONNECTION_VARIABLE} { default upgrade; "" ""; }`,
]

/** Who refused, as the access log tells it. */
const REFUSAL_MAPS: readonly string[] = [
  ...block('map "$limit_req_status $limit_conn_status $status $upstream_status" $nxmesh_refused_by', [
    'default $nxmesh_refused;',
    '"~^REJECTED " $nxmesh_rate_limit;',
    '"~^[^ ]* REJECTED " $nxmesh_connection_limit;',
    '"~ 401 $" $nxmesh_credentials;',
  ]),
  ...block('map "$limit_req_status $limit_conn_status" $nxmesh_would_refuse', [
    'default $nxmesh_reported;',
    '"~^REJECTED_DRY_RUN" $nxmesh_rate_limit;',
    '"~ REJECTED_DRY_RUN$" $nxmesh_connection_limit;',
  ]),
]

/** Each worker answers on a unix socket which generation it runs; nobody else can ask. */
function verifyServer({ host, capabilities, isLive }: MainInput, digest: string): string[] {
  return [
    `listen ${plain(`unix:${host.verifySocket}`)};`,
    'access_log off;',
    // nginx must know the variables of the access log, and of caches, where no site sets them.
    'set $nxmesh_site "";',
    'set $nxmesh_planned "";',
    `set $${ASKED_VARIABLE} "";`,
    ...[...REFUSALS, IDENTITY_VARIABLE].map((variable) => `set $${variable} "";`),
    'default_type text/plain;',
    `location = /generation { return 200 "${digest} $pid\\n"; }`,
    ...when(capabilities.modules.includes('http_stub_status'), 'location = /status { stub_status; }'),
    ...when(isLive, ...LIVE_SERVER_LINES),
    'location / { return 404; }',
  ]
}

/** Stands in for upstreams with an open circuit, so that caches, policies and error pages work as with any 503. */
function circuitServer(host: HostLayout): string[] {
  return [
    `listen ${plain(`unix:${circuitSocket(host.directory)}`)};`,
    'access_log off;',
    'set $nxmesh_site "";',
    'set $nxmesh_planned "";',
    // The body was read by the server that passed it on.
    'client_max_body_size 0;',
    'types { }',
    'default_type text/plain;',
    `add_header Retry-After ${CIRCUIT_RETRY_SECONDS} always;`,
    `add_header ${CIRCUIT_HEADER} open always;`,
    // Probes let this pass, like a 503 of maintenance.
    `add_header ${PLANNED_HEADER} 1 always;`,
    `return 503 ${literal('the upstream is not asked for now: too many of its answers were errors\n')};`,
  ]
}

function defaultServer(listener: Listener, host: HostLayout, capabilities: Capabilities): string[] {
  const body = fixed(['types { }', 'default_type text/plain;', `return 404 ${literal(`${DEFAULT_ANSWER}\n`)};`])
  return [
    listenLine(listener, true),
    'server_name _;',
    ...realClientLines(listener),
    ...(listener.tls ? rejectingLines(capabilities) : []),
    ...drainable([{ match: '/', body }], host.drainFile),
  ]
}
