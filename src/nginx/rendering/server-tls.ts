/**
 * nginx text of TLS: what a server block says of certificates and clients, what a listen line says, and how a listener
 * answers who asks for a host that no site claims. Pure; called by render.ts, render-site.ts and main-conf.ts.
 */

import type { Hsts, ListenerTls } from '../../core/resources/listener.ts'
import type { Problem, SliceResource } from '../../core/slice.ts'
import type { Capabilities } from '../../ports.ts'
import { certificateLine } from './certificate-program.ts'
import type { Certificates, KeyPairFiles } from './certificates.ts'
import type { HostLayout } from './host-layout.ts'
import { when } from './lines.ts'
import { certificateKey } from './live.ts'
import { compareVersions } from './needs.ts'
import { plain } from './quote.ts'
import { filePath } from './unit-files.ts'
import type { Listener, UnitFile } from './unit.ts'

/** What a listener does over TLS, its certificates found. */
export interface ServerTls extends KeyPairFiles {
  readonly spec: ListenerTls
  readonly clientCa: UnitFile | undefined
  /** The key of the live entry that holds the pair, which stands in no file then. */
  readonly live?: string
}

/** How HTTP/2 is said: not at all, on the listen line, or by a directive of the server. */
export type Http2 = 'none' | 'listen' | 'directive'

export function http2Of({ version, modules }: Capabilities): Http2 {
  if (!modules.includes('http_v2')) return 'none'
  return compareVersions(version, '1.25.1') >= 0 ? 'directive' : 'listen'
}

/** @param live keys of the entries that workers are told */
export function serverTlsOf(
  site: SliceResource,
  spec: ListenerTls,
  certificates: Certificates,
  live: ReadonlySet<string>,
): ServerTls | Problem {
  const pair = certificates.keyPair(site, spec.certificate)
  if ('code' in pair) return pair
  if (spec.clientCertificate === undefined) {
    const key = certificateKey(site.path, spec.certificate)
    return { ...pair, spec, clientCa: undefined, ...(live.has(key) ? { live: key } : {}) }
  }
  const clientCa = certificates.authorities(site, spec.clientCertificate.ca)
  return 'code' in clientCa ? clientCa : { ...pair, spec, clientCa }
}

export function tlsFiles({ certificate, key, clientCa, live }: ServerTls): readonly UnitFile[] {
  if (live !== undefined) return []
  return [certificate, key, ...(clientCa === undefined ? [] : [clientCa])]
}

export function listenLine(listener: Listener, isDefault: boolean, http2 = false): string {
  const { address, port, tls, proxyProtocol } = listener
  const flags = [
    ...when(isDefault, 'default_server'),
    ...when(tls, 'ssl'),
    ...when(http2, 'http2'),
    ...when(proxyProtocol === true, 'proxy_protocol'),
  ]
  return `listen ${[plain(`${address}:${port}`), ...flags].join(' ')};`
}

/** Of a server with this listener: whom the PROXY header names, where http trusts who sends it. */
export function realClientLines({ proxyProtocol }: Listener): readonly string[] {
  return when(proxyProtocol === true, 'real_ip_header proxy_protocol;')
}

/** Of the server block of all listeners with this. */
export function serverTlsLines(tls: ServerTls, isDefault: boolean, host: HostLayout, http2: Http2): readonly string[] {
  const { certificate, key, clientCa, spec, live } = tls
  const pair = [`ssl_certificate ${filePath(host, certificate)};`, `ssl_certificate_key ${filePath(host, key)};`]
  return [
    ...when(http2 === 'directive' && spec.http2, 'http2 on;'),
    ...(live === undefined ? pair : [...NO_CERTIFICATE_LINES, certificateLine(live)]),
    // The version is agreed on before the host is known, so that one site could not rule it for those beside it.
    ...when(spec.minVersion === 'TLSv1.3', 'if ($ssl_protocol != TLSv1.3) { return 421; }'),
    ...(clientCa === undefined ? [] : clientLines(clientCa, spec, isDefault, host)),
  ]
}

function clientLines(ca: UnitFile, spec: ListenerTls, isDefault: boolean, host: HostLayout): readonly string[] {
  const { mode, depth } = spec.clientCertificate as NonNullable<ListenerTls['clientCertificate']>
  return [
    `ssl_client_certificate ${filePath(host, ca)};`,
    `ssl_verify_client ${mode === 'require' ? 'on' : 'optional'};`,
    `ssl_verify_depth ${depth};`,
    // A session of another host, resumed, would bring the other's proof with it; so would a connection without its name,
    // which the default server has verified by authorities of its own.
    'ssl_session_tickets off;',
    'ssl_session_cache off;',
    ...when(!isDefault, 'if ($ssl_server_name != $host) { return 421; }'),
  ]
}

/** Of a default server that has no certificate to show: who asks for a host that nobody claims gets no handshake. */
export function rejectingLines({ version }: Capabilities): readonly string[] {
  if (compareVersions(version, '1.19.4') >= 0) return ['ssl_reject_handshake on;']
  // Before, a certificate that is looked for at the handshake and is not there comes to the same.
  return NO_CERTIFICATE_LINES
}

/** nginx wants a certificate. This one is looked for at the handshake, and is not there. */
const NO_CERTIFICATE_LINES: readonly string[] = [
  'ssl_certificate data:$nxmesh_nothing;',
  'ssl_certificate_key data:$nxmesh_nothing;',
]

/** In http, and in servers of streams. */
export const CIPHER_LINES: readonly string[] = [
  'ssl_ciphers ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305;',
  'ssl_prefer_server_ciphers off;',
]

/** In http, once some listener is over TLS. */
export const TLS_LINES: readonly string[] = [
  'ssl_protocols TLSv1.2 TLSv1.3;',
  ...CIPHER_LINES,
  `map "" $nxmesh_nothing { default ""; }`,
]

export function hstsValue({ maxAge, includeSubdomains, preload }: Hsts): string {
  return [`max-age=${maxAge}`, ...when(includeSubdomains, 'includeSubDomains'), ...when(preload, 'preload')].join('; ')
}
