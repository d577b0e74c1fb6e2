/**
 * When the certificates that sites and streams serve expire, and whether they name the sites' hosts: what nginx does not look at, and
 * clients do. Says it in the log, with names, and to health and metrics as numbers. Called by the composition root.
 */

import { X509Certificate } from 'node:crypto'
import { Memo } from './core/memo.ts'
import { resourcePath } from './core/names.ts'
import type { CertificateSpec } from './core/resources/certificate.ts'
import { isCertificate, isSite, isStream, type Slice, type SliceResource } from './core/slice.ts'
import type { Log } from './log.ts'
import { nearest } from './core/references.ts'

/** Long enough for a person to do something, short enough for certificates that are renewed every few weeks. */
const SOON_MS = 14 * 24 * 3600 * 1000
/** Named in one line of the log. */
const NAMED_MAX = 16

interface Leaf {
  readonly expiresAt: number
  readonly names: (host: string) => boolean
}

/** Counts of what people should know. */
export interface CertificateFacts {
  readonly expired: number
  /** Within 14 days. */
  readonly expiring: number
  /** Sites with a host that their certificate does not name. */
  readonly misnamed: number
  /** Wall time, ms; undefined when no site serves any. */
  readonly firstExpiry: number | undefined
}

export class ServedCertificates {
  readonly #log: Log
  readonly #leaves = new Memo<Leaf>()
  readonly #verdicts = new Memo<{ readonly misnamed: boolean }>()
  /** Expiry by path of the certificate. */
  #expiries: ReadonlyMap<string, number> = new Map()
  #misnamed: readonly string[] = []
  #told = ''
  /** Not looked at yet. */
  #slice: Slice | undefined

  constructor(log: Log) {
    this.#log = log
  }

  /** Takes note of what is to be served; nothing is looked at before somebody asks. */
  take(slice: Slice): void {
    this.#slice = slice
  }

  #look({ resources }: Slice, nowMs: number): void {
    this.#leaves.turn()
    this.#verdicts.turn()
    const certificates = new Map(resources.filter(isCertificate).map((each) => [each.path, each]))
    const known = new Set(certificates.keys())
    const expiries = new Map<string, number>()
    const misnamed: string[] = []
    for (const site of [...resources.filter(isSite), ...resources.filter(isStream)]) {
      for (const { tls } of Object.values(site.spec.listeners)) {
        const found = tls === undefined ? undefined : nearest(site, 'certificate', tls.certificate, known)
        const certificate = found === undefined ? undefined : certificates.get(resourcePath(found))
        if (certificate === undefined) continue
        const leaf = this.#leaves.get(certificate.hash, () => leafOf(certificate))
        expiries.set(certificate.path, leaf.expiresAt)
        const verdict = this.#verdicts.get(`${site.hash} ${certificate.hash}`, () => ({
          misnamed: !(site.spec.hosts ?? []).every((host) => host === '*' || leaf.names(host)),
        }))
        if (verdict.misnamed) misnamed.push(`${site.path} by ${certificate.path}`)
      }
    }
    this.#expiries = expiries
    this.#misnamed = [...new Set(misnamed)]
    this.#tell(nowMs)
  }

  facts(nowMs: number): CertificateFacts {
    const slice = this.#slice
    this.#slice = undefined
    if (slice !== undefined) this.#look(slice, nowMs)
    const times = [...this.#expiries.values()]
    const expired = times.filter((time) => time <= nowMs).length
    const expiring = times.filter((time) => time > nowMs && time <= nowMs + SOON_MS).length
    const firstExpiry = times.length === 0 ? undefined : Math.min(...times)
    return { expired, expiring, misnamed: this.#misnamed.length, firstExpiry }
  }

  /** What is new since it was last told. */
  #tell(nowMs: number): void {
    const ending = [...this.#expiries].filter(([, time]) => time <= nowMs + SOON_MS)
    const expiring = ending.map(([path, time]) => `${path} on ${new Date(time).toISOString().slice(0, 10)}`)
    const told = JSON.stringify([expiring, this.#misnamed])
    if (told === this.#told) return
    this.#told = told
    if (expiring.length > 0)
      this.#log.warn('certificates of sites expire', {
        certificates: expiring.slice(0, NAMED_MAX),
        count: expiring.length,
      })
    if (this.#misnamed.length > 0) {
      const [sites, count] = [this.#misnamed.slice(0, NAMED_MAX), this.#misnamed.length]
      this.#log.warn('sites have hosts that their certificates do not name', { sites, count })
    }
  }
}

function leafOf({ spec }: SliceResource<CertificateSpec>): Leaf {
  const leaf = new X509Certificate(spec.certificate[0] as string)
  return {
    expiresAt: Date.parse(leaf.validTo),
    names: (host) => leaf.checkHost(host.replace(/^\*\./, 'nxmesh-probe.')) !== undefined,
  }
}
