/**
 * nginx text of one Stream, and of what all of them share in nginx.conf: the servers that choose among streams of one port
 * by the name that a client says. Each such stream listens on a socket of its own, so that one never changes another's
 * text. Pure; called by render.ts.
 */

import { sha256 } from '../../core/canonical.ts'
import { isFault, parseTemplate } from '../../core/resources/fields.ts'
import type { StreamUpstreamTls } from '../../core/resources/upstream-tls.ts'
import type { UpstreamSpec } from '../../core/resources/upstream.ts'
import type { Problem, SliceResource } from '../../core/slice.ts'
import type { HostLayout } from './host-layout.ts'
import { streamSocket } from './host-layout.ts'
import { block, directive, toText, when } from './lines.ts'
import { DOLLAR_VARIABLE, literal, plain } from './quote.ts'
import type { ProxyTls } from './proxy.ts'
import { serverLine, serversOf, upstreamBlockName, type ObservedHealth } from './render-upstream.ts'
import { CIPHER_LINES, tlsFiles, type ServerTls } from './server-tls.ts'
import { keyOf, type Stream, type StreamPlace } from './stream-claims.ts'
import { filePath } from './unit-files.ts'
import type { StreamListener, Unit } from './unit.ts'

export const STREAM = 'stream'

/** The client, where a hashKey is. The others mean nothing before HTTP. */
const HASH_VARIABLES: ReadonlySet<string> = new Set(['remote_addr', 'remote_port', 'server_addr', 'server_port'])

/** Why the upstream cannot serve a stream; undefined where it can. */
export function streamObstacle({ method, hashKey, sticky }: UpstreamSpec): string | undefined {
  if (method !== 'hash') return undefined
  if (sticky !== undefined) return 'its sticky cookie is of requests, which a stream has none of'
  const parts = parseTemplate(hashKey)
  const isKnown = !isFault(parts) && parts.every((part) => !('variable' in part) || HASH_VARIABLES.has(part.variable))
  return isKnown ? undefined : `its hashKey ${JSON.stringify(hashKey)} is of requests, which a stream has none of`
}

/** The upstream is there, and cannot be used. */
export function unusable({ path, spec: { upstream } }: Stream): Problem {
  const message = `the upstream ${upstream} has a problem of its own`
  return { path, code: 'reference', message, hint: 'mend the upstream' }
}

/** The certificates of one stream, found. */
export interface StreamTls {
  /** By keyOf a listener; none for one without TLS. */
  readonly served: ReadonlyMap<string, ServerTls>
  readonly passed: ProxyTls | undefined
}

interface StreamParts {
  readonly upstream: SliceResource<UpstreamSpec>
  readonly addresses: ReadonlyMap<string, readonly string[]>
  readonly observed: ObservedHealth
  readonly host: HostLayout
  readonly tls: StreamTls
}

export function renderStream(
  { path, name, spec }: Stream,
  { listeners, hosts }: StreamPlace,
  parts: StreamParts,
): string {
  const { upstream, addresses, observed, host, tls } = parts
  const { timeouts, proxyProtocol, responses, allow, deny, connectionsPerClient } = spec
  const blockName = upstreamBlockName(name)
  const servers = serversOf(upstream, addresses, observed.closedToStreams).map(serverLine)
  const zone = `nxmesh_stream_${sha256(path).slice(0, 16)}`
  const isShared = hosts.length > 0
  const [sole] = tls.served.values()
  const relays = isShared && proxyProtocol && sole === undefined && !looksAtClients(spec, upstream.spec)
  const lines = [
    ...(deny ?? []).toSorted().map((network) => `deny ${plain(network)};`),
    ...(allow ?? []).toSorted().map((network) => `allow ${plain(network)};`),
    ...when((allow ?? []).length > 0, 'deny all;'),
    ...when(connectionsPerClient !== undefined, `limit_conn ${zone} ${connectionsPerClient};`),
    ...directive('proxy_connect_timeout', timeouts?.connect),
    ...directive('proxy_timeout', timeouts?.idle),
    ...directive('proxy_responses', responses),
    ...when(proxyProtocol && !relays, 'proxy_protocol on;'),
    ...upstreamTlsLines(spec.upstreamTls, tls.passed, host),
    `proxy_pass ${blockName};`,
  ]
  // Behind the choice by name all listeners are one, and of one TLS.
  const socket = plain(`unix:${streamSocket(host.directory, path)}`)
  const parameters = `${sole === undefined ? '' : ' ssl'}${relays ? '' : ' proxy_protocol'}`
  const groups = isShared ? [{ listens: [`listen ${socket}${parameters};`], over: sole }] : serverGroups(listeners, tls)
  return toText([
    `# ${path}`,
    ...when(connectionsPerClient !== undefined, `limit_conn_zone $binary_remote_addr zone=${zone}:1m;`),
    ...block(`upstream ${blockName}`, [
      ...methodLines(upstream.spec),
      ...(servers.length > 0 ? servers : ['server 127.0.0.1:1 down;']),
    ]),
    ...groups.flatMap(({ listens, over }) => block('server', [...listens, ...servedTlsLines(over, host), ...lines])),
  ])
}

/**
 * Whether the stream's own server has to know the client, or speaks TLS. Where not, it passes on the PROXY header of the server that
 * chose it: one of its own would name its socket as where the client came to, which nginx and others refuse.
 */
function looksAtClients(
  { allow, deny, connectionsPerClient, upstreamTls }: Stream['spec'],
  { method }: UpstreamSpec,
): boolean {
  const has = (list: readonly string[] | undefined): boolean => (list ?? []).length > 0
  const byClient = method === 'hash' || method === 'ip_hash'
  return byClient || has(allow) || has(deny) || connectionsPerClient !== undefined || upstreamTls !== undefined
}

/** The listeners that are one server: all without TLS, and all with the same. */
function serverGroups(listeners: readonly StreamListener[], { served }: StreamTls) {
  const ofListener = (listener: StreamListener) => served.get(keyOf(listener))
  const same = Map.groupBy(listeners, (listener) => {
    const over = ofListener(listener)
    return over === undefined ? '' : JSON.stringify([over.spec, ...tlsFiles(over).map(({ name }) => name)])
  })
  return [...same.values()].map((group) => {
    const over = ofListener(group[0] as StreamListener)
    return { listens: group.map((listener) => listenLine(listener, over !== undefined)), over }
  })
}

/** No other stream is on the same socket, so that its own version and clients' certificates count from the handshake on. */
function servedTlsLines(tls: ServerTls | undefined, host: HostLayout): readonly string[] {
  if (tls === undefined) return []
  const { certificate, key, clientCa, spec } = tls
  return [
    `ssl_certificate ${filePath(host, certificate)};`,
    `ssl_certificate_key ${filePath(host, key)};`,
    `ssl_protocols ${spec.minVersion === 'TLSv1.3' ? 'TLSv1.3' : 'TLSv1.2 TLSv1.3'};`,
    ...CIPHER_LINES,
    ...(clientCa === undefined
      ? []
      : [
          `ssl_client_certificate ${filePath(host, clientCa)};`,
          `ssl_verify_client ${spec.clientCertificate?.mode === 'optional' ? 'optional' : 'on'};`,
          `ssl_verify_depth ${spec.clientCertificate?.depth};`,
        ]),
  ]
}

function upstreamTlsLines(
  told: StreamUpstreamTls | undefined,
  { ca, own }: Partial<ProxyTls> = {},
  host: HostLayout,
): readonly string[] {
  if (told === undefined) return []
  const { serverName, depth } = told
  return [
    'proxy_ssl on;',
    ...(serverName === undefined ? [] : ['proxy_ssl_server_name on;', `proxy_ssl_name ${plain(serverName)};`]),
    ...(ca === undefined
      ? []
      : [
          `proxy_ssl_trusted_certificate ${filePath(host, ca)};`,
          'proxy_ssl_verify on;',
          `proxy_ssl_verify_depth ${depth};`,
        ]),
    ...(own === undefined
      ? []
      : [
          `proxy_ssl_certificate ${filePath(host, own.certificate)};`,
          `proxy_ssl_certificate_key ${filePath(host, own.key)};`,
        ]),
  ]
}

function methodLines({ method, hashKey, consistent }: UpstreamSpec): readonly string[] {
  if (method === 'round_robin') return []
  // nginx has ip_hash in http alone.
  if (method === 'ip_hash') return ['hash $remote_addr;']
  if (method !== 'hash') return [`${method};`]
  const parts = parseTemplate(hashKey)
  const text = isFault(parts)
    ? []
    : parts.map((part) =>
        'variable' in part ? `\${${part.variable}}` : part.text.replaceAll('$', `\${${DOLLAR_VARIABLE}}`),
      )
  return [`hash ${plain(text.join(''))}${consistent ? ' consistent' : ''};`]
}

function listenLine({ address, port, protocol, proxyProtocol }: StreamListener, isTls: boolean): string {
  // Each worker has a socket of its own, so that all of a client's datagrams reach the same one.
  const udp = protocol === 'udp' ? ' udp reuseport' : ''
  return `listen ${plain(`${address}:${port}`)}${udp}${isTls ? ' ssl' : ''}${proxyProtocol ? ' proxy_protocol' : ''};`
}

/** What means something else to a map than the host of this name, unless \ is before it. */
const MAP_WORDS: ReadonlySet<string> = new Set(['default', 'hostnames', 'include', 'volatile'])

/** The block of nginx.conf; nothing without streams. @param trusted networks whose PROXY headers count */
export function streamBlock(units: readonly Unit[], trusted: readonly string[], host: HostLayout): readonly string[] {
  const streams = units.filter(({ kind }) => kind === 'stream')
  if (streams.length === 0) return []
  const shared = new Map<string, { listener: StreamListener; targets: [host: string, path: string][] }>()
  for (const { path, stream } of streams) {
    for (const listener of stream?.listeners ?? []) {
      const found = shared.get(keyOf(listener)) ?? { listener, targets: [] }
      for (const name of stream?.hosts ?? []) found.targets.push([name, path])
      if (found.targets.length > 0) shared.set(keyOf(listener), found)
    }
  }
  const nobody = `unix:${streamSocket(host.directory, '')}`
  return block('stream', [
    `geo $${DOLLAR_VARIABLE} { default "$"; }`,
    'map_hash_bucket_size 512;',
    'map_hash_max_size 10001;',
    'variables_hash_max_size 2048;',
    // Through a socket comes what a server below has passed on.
    ...when(shared.size > 0, 'set_real_ip_from unix:;'),
    ...trusted.toSorted().map((network) => `set_real_ip_from ${plain(network)};`),
    ...(shared.size > 0 ? block('server', [`listen ${plain(nobody)} proxy_protocol;`, 'return "";']) : []),
    ...[...shared.keys()].toSorted().flatMap((key, index) => {
      const { listener, targets } = shared.get(key) as { listener: StreamListener; targets: [string, string][] }
      const variable = `nxmesh_stream_${index + 1}`
      const socket = (path: string): string => literal(`unix:${streamSocket(host.directory, path)}`)
      const fallback = targets.find(([name]) => name === '*')
      return [
        ...block(`map $ssl_preread_server_name $${variable}`, [
          'hostnames;',
          `default ${fallback === undefined ? literal(nobody) : socket(fallback[1])};`,
          ...targets
            .filter(([name]) => name !== '*')
            .toSorted(([a], [b]) => (a < b ? -1 : 1))
            .map(([name, path]) => `${plain(MAP_WORDS.has(name) ? `\\${name}` : name)} ${socket(path)};`),
        ]),
        ...block('server', [
          listenLine(listener, false),
          'ssl_preread on;',
          'preread_timeout 10s;',
          'proxy_protocol on;',
          // The stream's own server ends what is idle.
          'proxy_timeout 24h;',
          `proxy_pass $${variable};`,
        ]),
      ]
    }),
    ...streams.map(({ digest }) => `include ${plain(`${host.directory}/objects/${digest}.conf`)};`),
  ])
}
