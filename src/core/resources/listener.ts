/**
 * Where a site listens, and over TLS with which certificate: the listeners of the kind Site (their TLS also of the kind
 * Stream), what else it says of https,
 * and what cannot be meant.
 */

import { isIPv6 } from 'node:net'
import { z } from 'zod'
import { integer, ipAddress, reference, type Fault } from './fields.ts'

const clientCertificate = z.strictObject({
  /** A Certificate without a key: the authorities that clients' certificates are verified by. */
  ca: reference,
  /** optional: clients without one are let in, and upstreams are told. A wrong one never is. */
  mode: z.enum(['require', 'optional']).default('require'),
  /** Certificates between a client's and one of these authorities, that one included. */
  depth: integer(1, 10).default(1),
})

/** Of streams too. */
const served = {
  /** A Certificate of the same workspace, looked up from the resource's zone outward. */
  certificate: reference,
  minVersion: z.enum(['TLSv1.2', 'TLSv1.3']).default('TLSv1.2'),
  clientCertificate: clientCertificate.optional(),
}

/** Where TLS of a stream ends here. */
export const streamTls = z.strictObject(served)

const tls = z.strictObject({
  ...served,
  /** Before nginx 1.25.1 it is on for all sites of an address and port when it is for one. */
  http2: z.boolean().default(true),
})
export type ListenerTls = z.output<typeof tls>

export const listener = z.strictObject({
  port: integer(1, 65535),
  /** All IPv4 addresses of the host when left out. */
  address: ipAddress.optional(),
  tls: tls.optional(),
  /** Connections begin with a PROXY header; it tells the client where the zone settings trust who sends it. */
  proxyProtocol: z.boolean().default(false),
})
export type SiteListener = z.output<typeof listener>

/** Tells browsers to come over https alone; sent over TLS alone. */
export const hsts = z
  .strictObject({
    /** Seconds. */
    maxAge: integer(0, 63_072_000).default(31_536_000),
    includeSubdomains: z.boolean().default(false),
    preload: z.boolean().default(false),
  })
  .superRefine(({ maxAge, includeSubdomains, preload }, context) => {
    if (!preload || (includeSubdomains && maxAge >= 31_536_000)) return
    const message = 'is only taken with includeSubdomains: true and a maxAge of at least 31536000'
    context.addIssue({ code: 'custom', message, path: ['preload'] })
  })
export type Hsts = z.output<typeof hsts>

interface Listening {
  readonly listeners: Readonly<Record<string, SiteListener>>
  readonly redirectToHttps: boolean
  readonly hsts?: Hsts | undefined
}

/** What cannot be meant, by field of the spec. */
export function listeningFaults({ listeners, redirectToHttps, hsts: told }: Listening) {
  const faults: { path: string[]; fault: Fault }[] = []
  const hasTls = Object.values(listeners).some(({ tls: own }) => own !== undefined)
  const hint = 'give a listener tls: {certificate: NAME}'
  if (redirectToHttps && !hasTls)
    faults.push({ path: ['redirectToHttps'], fault: { message: 'has no https to lead to', hint } })
  if (told !== undefined && !hasTls)
    faults.push({ path: ['hsts'], fault: { message: 'needs a listener with TLS', hint } })
  const sorted = Object.entries(listeners).toSorted(([a], [b]) => (a < b ? -1 : 1))
  for (const [index, [id, one]] of sorted.entries()) {
    const [twin, other] = sorted.slice(0, index).find(([, earlier]) => isSameSocket(earlier, one)) ?? []
    if (other === undefined) continue
    if (JSON.stringify(other.tls) !== JSON.stringify(one.tls)) {
      const message = `is on the address and port of ${twin}, with other TLS`
      faults.push({ path: ['listeners', id], fault: { message, hint: 'one address and port is over TLS or not' } })
    } else if (other.proxyProtocol !== one.proxyProtocol) {
      const message = `is on the address and port of ${twin}, with another proxyProtocol`
      faults.push({ path: ['listeners', id], fault: { message, hint: 'say the same of proxyProtocol in both' } })
    }
  }
  return faults
}

/** What listens on all addresses of a port listens on each. */
function isSameSocket(a: SiteListener, b: SiteListener): boolean {
  const [one, other] = [normal(a.address), normal(b.address)]
  const areOfOneFamily = one.includes(':') === other.includes(':')
  return a.port === b.port && areOfOneFamily && (one === other || ALL.has(one) || ALL.has(other))
}
const ALL: ReadonlySet<string> = new Set(['0.0.0.0', '[::]'])

/** What is no address has a fault of its own. */
function normal(address = '0.0.0.0'): string {
  return isIPv6(address) && !address.includes('%') ? new URL(`http://[${address}]/`).hostname : address
}
