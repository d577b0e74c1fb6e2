/**
 * Which certificates workers are told, so that a renewed one takes no reload, and which nginx reads from files: those that
 * it might refuse, those beside clients' certificates, and what is more than the lane holds. Pure; called by render.ts.
 */

import { Memo } from '../../core/memo.ts'
import type { Capabilities } from '../../ports.ts'
import { tlsOf, type Site } from './claims.ts'
import type { Certificates } from './certificates.ts'
import type { HostLayout } from './host-layout.ts'
import { certificateKey, usesLane, type LiveState } from './live.ts'
import { compareVersions } from './needs.ts'
import { shareOut, type Demand } from './shares.ts'

/** Of all sites of a node, as text: the file of the lane is written anew with each change of endpoints. */
const LIVE_CERTIFICATES_BYTES_MAX = 4 * 1024 * 1024

/** The nginx that takes a certificate which is not there before the handshake. */
const DATA_SINCE = '1.15.10'

export interface LiveCertificates {
  readonly entries: LiveState
  /** Paths of the sites whose certificates found no room. */
  readonly crowdedOut: readonly string[]
}

const NONE: LiveCertificates = { entries: new Map(), crowdedOut: [] }

type Entries = readonly (readonly [key: string, value: string])[]
const remembered = new Memo<Entries>()

/** @param sites the oldest first; those without TLS count for nothing */
export function liveCertificates(
  sites: readonly Site[],
  certificates: Certificates,
  { capabilities, host }: { readonly capabilities: Capabilities; readonly host: HostLayout },
): LiveCertificates {
  if (!usesLane(capabilities, host) || compareVersions(capabilities.version, DATA_SINCE) < 0) return NONE
  remembered.turn()
  const found = new Map<string, Entries>()
  const demands: Demand[] = []
  for (const site of sites) {
    const { path, hash, name } = site
    if (!hasTls(site)) continue
    const entries = remembered.get([certificates.round, path, hash].join('\n'), () => entriesOf(site, certificates))
    if (entries.length === 0) continue
    found.set(path, entries)
    demands.push({
      key: path,
      workspace: name.workspace,
      cost: entries.reduce((sum, [, line]) => sum + line.length, 0),
    })
  }
  const granted = shareOut(demands, LIVE_CERTIFICATES_BYTES_MAX)
  return {
    entries: new Map([...found].flatMap(([path, entries]) => (granted.has(path) ? entries : []))),
    crowdedOut: [...found.keys()].filter((path) => !granted.has(path)),
  }
}

export function hasTls({ spec }: Site): boolean {
  return Object.values(spec.listeners).some(({ tls }) => tls !== undefined)
}

function entriesOf(site: Site, certificates: Certificates): Entries {
  // What people write of TLS, stapling for one, is for a certificate that nginx knows.
  if (/\bssl_/.test(site.spec.privileged?.serverSnippet ?? '')) return []
  const names = [...tlsOf(site.spec).values()].flatMap((tls) =>
    // Sessions of a server that verifies clients depend on its certificate's files.
    tls.clientCertificate === undefined ? [tls.certificate] : [],
  )
  return [...new Set(names)].flatMap((name) => {
    const line = certificates.livePair(site, name)
    return line === undefined ? [] : [[certificateKey(site.path, name), line] as const]
  })
}
