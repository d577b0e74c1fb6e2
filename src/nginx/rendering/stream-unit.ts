/**
 * From a Stream to its unit: what it refers to, and what the host lacks for it. Pure; called by render.ts, which settles who
 * gets which port; the text itself is made in render-stream.ts.
 */

import type { Memo } from '../../core/memo.ts'
import { resourcePath } from '../../core/names.ts'
import { missing, nearest } from '../../core/references.ts'
import type { UpstreamSpec } from '../../core/resources/upstream.ts'
import type { Problem, SliceResource } from '../../core/slice.ts'
import type { Capabilities } from '../../ports.ts'
import type { Certificates } from './certificates.ts'
import type { HostLayout } from './host-layout.ts'
import { firstUnmet, streamNeeds, unsupported } from './needs.ts'
import { unitOf, type Outcome } from './outcome.ts'
import { renderStream, STREAM, streamObstacle, unusable, type StreamTls } from './render-stream.ts'
import { upstreamKeyOf, type ObservedHealth } from './render-upstream.ts'
import { serverTlsOf, tlsFiles, type ServerTls } from './server-tls.ts'
import { proxyFiles, proxyTlsOf } from './site-tls.ts'
import { keyOf, streamListener, type Stream, type StreamPlace } from './stream-claims.ts'

/** What a stream is rendered with. */
export interface StreamInput extends ObservedHealth {
  readonly capabilities: Capabilities
  readonly host: HostLayout
  readonly addresses: ReadonlyMap<string, readonly string[]>
  /** By path: each stream looks for its own. */
  readonly upstreams: ReadonlyMap<string, SliceResource<UpstreamSpec>>
  /** Paths of all that is there. */
  readonly known: ReadonlySet<string>
  readonly certificates: Certificates
  readonly remembered: Memo<Outcome>
}

export function streamUnit(stream: Stream, place: StreamPlace, input: StreamInput): Outcome {
  const { path, spec, hash } = stream
  const { capabilities, upstreams, known, addresses, host } = input
  const unmet = firstUnmet(streamNeeds(spec), capabilities)
  if (unmet !== undefined) return unsupported(path, unmet, capabilities)
  const name = nearest(stream, 'upstream', spec.upstream, known)
  if (name === undefined) return missing(stream, 'Upstream', spec.upstream)
  const upstream = upstreams.get(resourcePath(name))
  if (upstream === undefined) return unusable(stream)
  const obstacle = streamObstacle(upstream.spec)
  if (obstacle !== undefined) {
    const hint = 'hash by $remote_addr, or take another method'
    return { path, code: 'unsupported', message: `the upstream ${spec.upstream} is not for streams: ${obstacle}`, hint }
  }
  const tls = streamTls(stream, input.certificates)
  if ('code' in tls) return tls
  const files = [
    ...[...tls.served.values()].flatMap(tlsFiles),
    ...(tls.passed === undefined ? [] : proxyFiles(tls.passed)),
  ]
  const key = [
    path,
    hash,
    upstreamKeyOf(upstream, addresses, { ...input, ejected: input.closedToStreams, openCircuits: new Set() }, host),
    ...files.map((file) => file.name),
    '',
    ...place.listeners.map(keyOf),
    ...place.hosts,
  ].join('\n')
  const about = { path, kind: 'stream', needs: [], listeners: [], hosts: [], modules: [STREAM], stream: place } as const
  return input.remembered.get(key, () =>
    unitOf({ ...about, ...(files.length > 0 ? { files } : {}) }, () =>
      renderStream(stream, place, { upstream, addresses, observed: input, host, tls }),
    ),
  )
}

/** The certificates that it serves, and those that it verifies its upstream by and shows. */
function streamTls(stream: Stream, certificates: Certificates): StreamTls | Problem {
  const served = new Map<string, ServerTls>()
  for (const listener of Object.values(stream.spec.listeners)) {
    if (listener.tls === undefined) continue
    const found = serverTlsOf(stream, { ...listener.tls, http2: false }, certificates, new Set())
    if ('code' in found) return found
    served.set(keyOf(streamListener(listener)), found)
  }
  const { upstreamTls } = stream.spec
  const passed = upstreamTls === undefined ? undefined : proxyTlsOf(stream, upstreamTls, certificates)
  return passed !== undefined && 'code' in passed ? passed : { served, passed }
}
