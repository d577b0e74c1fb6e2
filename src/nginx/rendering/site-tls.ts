/**
 * The certificates of one site: what its listeners show, from files or as workers are told, and what its proxies verify by
 * and show. Pure; called by render.ts, where a change of one site must not cost the work of all.
 */

import { Memo } from '../../core/memo.ts'
import type { ListenerTls } from '../../core/resources/listener.ts'
import type { StreamUpstreamTls } from '../../core/resources/upstream-tls.ts'
import type { Problem, SliceResource } from '../../core/slice.ts'
import type { Certificates } from './certificates.ts'
import { listenerKey, tlsOf, type Site } from './claims.ts'
import { certificateKey, type LiveState } from './live.ts'
import type { ProxyTls } from './proxy.ts'
import { serverTlsOf, tlsFiles, type ServerTls } from './server-tls.ts'
import type { Listener, UnitFile } from './unit.ts'

const rememberedTls = new Memo<SiteTls | Problem>()

/** Begins a round of all sites. */
export function beginSiteTls(): void {
  rememberedTls.turn()
}

interface SiteTls {
  readonly tls: ReadonlyMap<string, ServerTls>
  readonly proxyTls: ReadonlyMap<string, ProxyTls>
  readonly files: readonly UnitFile[]
  /** Of the entries that hold certificates. */
  readonly liveKeys: readonly string[]
}

const NO_TLS: SiteTls = { tls: new Map(), proxyTls: new Map(), files: [], liveKeys: [] }

/** What is found by name, and which of it workers are told. */
export interface ShownCertificates {
  readonly certificates: Certificates
  readonly live: LiveState
}

/** The certificates that a site serves, verifies by and shows. */
export function siteTls(site: Site, listeners: readonly Listener[], shown: ShownCertificates): SiteTls | Problem {
  const over = listeners.filter((listener) => listener.tls)
  const isPlain = Object.values(site.spec.routes).every(
    (route) => route.action !== 'proxy' || route.proxy.tls === undefined,
  )
  if (over.length === 0 && isPlain) return NO_TLS
  const { certificates, live } = shown
  const names = [...tlsOf(site.spec).values()].map(({ certificate }) => certificate)
  const keys = [...new Set(names)].map((name) => certificateKey(site.path, name)).filter((key) => live.has(key))
  const key = [certificates.round, site.path, site.hash, ...keys, '', ...over.map(listenerKey)].join('\n')
  return rememberedTls.get(key, () => findTls(site, over, certificates, new Set(keys)))
}

/** What whoever passes to an upstream over TLS verifies it by, and shows. */
export function proxyTlsOf(
  referrer: Pick<SliceResource, 'path' | 'name'>,
  { ca: caName, clientCertificate }: Pick<StreamUpstreamTls, 'ca' | 'clientCertificate'>,
  certificates: Certificates,
): ProxyTls | Problem {
  const ca = caName === undefined ? undefined : certificates.authorities(referrer, caName)
  if (ca !== undefined && 'code' in ca) return ca
  const own = clientCertificate === undefined ? undefined : certificates.keyPair(referrer, clientCertificate)
  return own !== undefined && 'code' in own ? own : { ca, own }
}

export function proxyFiles({ ca, own }: ProxyTls): readonly UnitFile[] {
  return [...(ca === undefined ? [] : [ca]), ...(own === undefined ? [] : [own.certificate, own.key])]
}

function findTls(
  site: Site,
  listeners: readonly Listener[],
  certificates: Certificates,
  live: ReadonlySet<string>,
): SiteTls | Problem {
  const { spec } = site
  const tls = new Map<string, ServerTls>()
  const proxyTls = new Map<string, ProxyTls>()
  const files: UnitFile[] = []
  const stated = tlsOf(spec)
  for (const listener of listeners) {
    const found = serverTlsOf(site, stated.get(listenerKey(listener)) as ListenerTls, certificates, live)
    if ('code' in found) return found
    tls.set(listenerKey(listener), found)
    files.push(...tlsFiles(found))
  }
  for (const [id, route] of Object.entries(spec.routes)) {
    if (route.action !== 'proxy' || route.proxy.tls === undefined) continue
    const found = proxyTlsOf(site, route.proxy.tls, certificates)
    if ('code' in found) return found
    proxyTls.set(id, found)
    files.push(...proxyFiles(found))
  }
  const liveKeys = [...tls.values()].flatMap((server) => server.live ?? [])
  return { tls, proxyTls, files, liveKeys }
}
