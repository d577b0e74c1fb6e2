/**
 * Asks changed sites for their root page over their real listeners, before and after a reload, and says which got worse.
 * A site that is new cannot get worse by a 5xx of its upstream; it fails only when nginx does not know it.
 */

import { X509Certificate } from 'node:crypto'
import { connect } from 'node:net'
import { bareAddress } from './isolate.ts'
import { get } from './http.ts'
import { DEFAULT_ANSWER } from '../rendering/main-conf.ts'
import { CHAIN_EXTENSION } from '../rendering/certificates.ts'
import { certificateKeysIn } from '../rendering/certificate-program.ts'
import type { Unit, UnitFile } from '../rendering/unit.ts'

export interface ProbeTarget {
  /** The Site's resource path. */
  readonly site: string
  readonly address: string
  readonly port: number
  readonly host: string
  /** Over TLS: SHA-256 of the certificates that the site may show. */
  readonly tls?: readonly string[]
  /** Keys of the live entries that hold more of those. */
  readonly live?: readonly string[]
  /** Connections begin with a PROXY header. */
  readonly proxyProtocol?: true
  /** A stream: all that is asked is whether its port takes connections. */
  readonly isStream?: boolean
}

export type ProbeAnswer =
  | { readonly kind: 'status'; readonly status: number }
  /** It is in maintenance: neither good nor bad. */
  | { readonly kind: 'planned' }
  /** nginx has no server of this name: its default server answered. */
  | { readonly kind: 'unknown_host' }
  /** Over TLS, the certificate of somebody else. */
  | { readonly kind: 'other_certificate' }
  /** Over TLS, none: what workers were told cannot be shown. */
  | { readonly kind: 'no_certificate' }
  | { readonly kind: 'accepted' }
  | { readonly kind: 'refused' }
  | { readonly kind: 'silent'; readonly reason: string }

/** Sites probed in one apply; of more changed ones the first by path are. */
const PROBES_MAX = 512
const PROBES_AT_ONCE = 16
/** Times the limit of one probe: what is not probed until then is not, so that an apply takes bounded time. */
const TIME_LIMITS = 2

/** One target for each site: its first host on its first listener, one over TLS if there is any. */
export function probeTargets(sites: readonly Unit[]): readonly ProbeTarget[] {
  return sites
    .flatMap(({ kind, path, hosts: [host], listeners, files, stream, text }): ProbeTarget[] => {
      const flow = stream?.listeners.find(({ protocol }) => protocol === 'tcp')
      if (flow !== undefined)
        return [{ site: path, address: reachable(flow.address), port: flow.port, host: 'stream', isStream: true }]
      const listener = listeners.find(({ tls }) => tls) ?? listeners[0]
      if (kind !== 'site' || host === undefined || listener === undefined) return []
      const { address, port, proxyProtocol } = listener
      const proxied = proxyProtocol === true ? { proxyProtocol } : {}
      const tls = listener.tls ? { tls: fingerprintsOf(files ?? []), live: certificateKeysIn(text) } : {}
      return [{ site: path, address: reachable(address), port, host: concrete(host), ...proxied, ...tls }]
    })
    .slice(0, PROBES_MAX)
}

/** Whether both name the same server of nginx, so that their answers can be compared. */
export function sameTarget(a: ProbeTarget, b: ProbeTarget): boolean {
  const isTls = [a, b].map(({ tls }) => tls !== undefined)
  const isSameWay = isTls[0] === isTls[1] && a.proxyProtocol === b.proxyProtocol
  return a.address === b.address && a.port === b.port && a.host === b.host && isSameWay
}

/** SHA-256 of the certificates that workers may show for a live entry now. */
export type LiveFingerprints = (key: string) => readonly string[]

/** The answers by site, as many as come in about twice the time limit of one. */
export async function probe(
  targets: readonly ProbeTarget[],
  timeoutMs: number,
  live: LiveFingerprints = () => [],
): Promise<Map<string, ProbeAnswer>> {
  const answers = new Map<string, ProbeAnswer>()
  const queue = targets.values()
  const over = AbortSignal.timeout(TIME_LIMITS * timeoutMs)
  const worker = async () => {
    for (const target of queue) {
      if (over.aborted) return
      answers.set(target.site, await probeOne(target, timeoutMs, live))
    }
  }
  await Promise.all(Array.from({ length: PROBES_AT_ONCE }, worker))
  return answers
}

/** Why the answer after the reload is a reason to roll back; undefined when it is not. */
export function worsened(before: ProbeAnswer | undefined, after: ProbeAnswer): string | undefined {
  if (after.kind === 'unknown_host') return 'nginx does not know its host name: the default server answered'
  if (after.kind === 'other_certificate') return 'it shows the certificate of another site'
  if (after.kind === 'no_certificate') return 'it shows no certificate'
  if (after.kind === 'refused' && before?.kind !== 'refused') return 'its listener refuses connections'
  // What a new site's upstream does is not this generation's fault, and taking the site away again would not help.
  if (before?.kind !== 'status' || before.status >= 500) return undefined
  if (after.kind === 'silent') return `${after.reason}; before it answered ${before.status}`
  if (after.kind === 'status' && after.status >= 500)
    return `it answers ${after.status}; before it answered ${before.status}`
  return undefined
}

async function probeOne(target: ProbeTarget, timeoutMs: number, live: LiveFingerprints): Promise<ProbeAnswer> {
  const { address, port, host, tls, proxyProtocol } = target
  const expected = () => [...(tls ?? []), ...(target.live ?? []).flatMap(live)]
  if (target.isStream === true) return connects(target, timeoutMs)
  try {
    const to = { address, port, tls: tls !== undefined, proxyProtocol }
    // Another may be pushed meanwhile.
    const before = expected()
    const { status, body, isPlanned, fingerprint } = await get({ to, path: '/', host, timeoutMs })
    if (tls !== undefined && ![...before, ...expected()].includes(fingerprint ?? ''))
      return { kind: 'other_certificate' }
    if (isPlanned) return { kind: 'planned' }
    return status === 404 && body.includes(DEFAULT_ANSWER) ? { kind: 'unknown_host' } : { kind: 'status', status }
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    if (UNKNOWN_NAME.test(message)) return { kind: 'unknown_host' }
    if ((target.live ?? []).length > 0 && NO_CERTIFICATE.test(message)) return { kind: 'no_certificate' }
    return code === 'ECONNREFUSED' ? { kind: 'refused' } : { kind: 'silent', reason: message }
  }
}

function connects({ address, port }: ProbeTarget, timeoutMs: number): Promise<ProbeAnswer> {
  return new Promise((resolve) => {
    const socket = connect({ host: address, port, timeout: timeoutMs })
    const end = (answer: ProbeAnswer): void => {
      socket.destroy()
      resolve(answer)
    }
    socket.on('connect', () => end({ kind: 'accepted' }))
    socket.on('timeout', () => end({ kind: 'silent', reason: `no connection within ${timeoutMs} ms` }))
    socket.on('error', (error: NodeJS.ErrnoException) =>
      end(error.code === 'ECONNREFUSED' ? { kind: 'refused' } : { kind: 'silent', reason: error.message }),
    )
  })
}

/** The alert with which a listener answers to a name that no site claims. */
const UNKNOWN_NAME = /\bunrecognized name\b/

/** The alerts of nginx where its program has no certificate to show. */
const NO_CERTIFICATE = /\balert (?:internal error|handshake failure)\b/

/** Of the site's own certificates: each file holds a chain that begins with one. */
function fingerprintsOf(files: readonly UnitFile[]): readonly string[] {
  const chains = files.filter(({ name }) => name.endsWith(`.${CHAIN_EXTENSION}`))
  return chains.map(({ text }) => new X509Certificate(text).fingerprint256)
}

/** Where this host reaches a listener: a wildcard over loopback. */
function reachable(address: string): string {
  const bare = bareAddress(address)
  if (bare === '0.0.0.0') return '127.0.0.1'
  return bare === '::' ? '::1' : bare
}

/** A host name that a pattern matches: `*.example.com` and `*` have many. */
function concrete(host: string): string {
  return host === '*' ? 'nxmesh-probe.invalid' : host.replace('*', 'nxmesh-probe')
}
