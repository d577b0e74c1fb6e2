/**
 * From units to a generation: nginx.conf, which loads the modules that they need and includes them, and its digest. Pure;
 * called by the reconciler with all units, and by the apply side with some.
 */

import { sha256 } from '../../core/canonical.ts'
import { perObject } from '../../core/memo.ts'
import { settingsOf } from '../../core/slice.ts'
import { listenerKey } from './claims.ts'
import type { HostLayout } from './host-layout.ts'
import { oneLine } from './lines.ts'
import { usesLane } from './live.ts'
import { mainConf } from './main-conf.ts'
import { LUA, modulePaths } from './needs.ts'
import { plain } from './quote.ts'
import type { RenderInput } from './render-input.ts'
import { streamBlock } from './render-stream.ts'
import { filesOf } from './unit-files.ts'
import type { Listener, Unit, UnitFile } from './unit.ts'

/** Of those in http; streams have a block of their own. Upstreams first: one that is passed to over http and https before it is defined is a host name to nginx over one. */
const INCLUDE_ORDER: readonly (readonly Unit['kind'][])[] = [['settings', 'upstream'], ['policy'], ['site']]

const BLANK_DIGEST = '0'.repeat(64)

/**
 * The generation of some units: nginx.conf and its digest, which covers it and, through their digests in the include
 * paths, every object. At most one unit may claim `*` on a listener, and every need must be met.
 */
export function assemble(
  units: readonly Unit[],
  { slice, capabilities, host }: Pick<RenderInput, 'slice' | 'capabilities' | 'host'>,
): { digest: string; main: string; objects: ReadonlyMap<string, string>; files: readonly UnitFile[] } {
  const sorted = units.toSorted((a, b) => (a.path === b.path ? 0 : a.path < b.path ? -1 : 1))
  const included = INCLUDE_ORDER.map((kinds) => sorted.filter(({ kind }) => kinds.includes(kind)))
  const includes = oneLine(included.flat().map(includeBy(host)))
  const sockets = new Set<string>()
  const wanted = new Set<string>()
  for (const unit of sorted) {
    for (const key of socketsOf(unit)) sockets.add(key)
    for (const module of unit.modules ?? []) wanted.add(module)
  }
  // A last good text may ask for live state where no other does any more.
  const isLive = usesLane(capabilities, host) || wanted.has(LUA)
  const settings = settingsOf(slice)
  const unclaimed = unclaimedListeners(sorted)
  const input = {
    host,
    capabilities,
    modules: modulePaths(isLive ? wanted.add(LUA) : wanted, capabilities, host),
    isLive,
    settings,
    // A stream that shares its port has one more.
    listeners: sockets.size + sorted.filter(({ kind }) => kind === 'stream').length,
    hasTls: sorted.some(({ listeners }) => listeners.some(({ tls }) => tls)),
    unclaimed,
    includes,
    stream: streamBlock(sorted, settings.realClient?.trust ?? [], host),
  }
  // The digest stands in the text that it covers, so it is taken with a blank in its place.
  const blank = mainConf(input, BLANK_DIGEST)
  const digest = sha256(blank)
  return {
    digest,
    main: blank.replace(BLANK_DIGEST, digest),
    objects: new Map(sorted.map((unit) => [unit.digest, unit.text])),
    files: filesOf(sorted),
  }
}

const includeBy = perObject(({ directory }: HostLayout) =>
  perObject(({ digest }: Unit) => `include ${plain(`${directory}/objects/${digest}.conf`)};`),
)

/** The keys of all that a unit listens on: first its listeners, then its stream's. */
const socketsOf = perObject((unit: Unit): readonly string[] =>
  [...unit.listeners, ...(unit.stream?.listeners ?? [])].map(listenerKey),
)

function unclaimedListeners(units: readonly Unit[]): Listener[] {
  const unclaimed = new Map<string, Listener>()
  for (const unit of units) {
    const keys = socketsOf(unit)
    for (const [index, listener] of unit.listeners.entries()) {
      const key = keys[index] as string
      // Beside a last good text without TLS, which nobody gets to then, the whole listener is over TLS; so with PROXY headers.
      const known = unclaimed.get(key)
      if (known === undefined) unclaimed.set(key, listener)
      else if (known.tls !== listener.tls || known.proxyProtocol !== listener.proxyProtocol)
        unclaimed.set(key, { ...known, ...listener, tls: known.tls || listener.tls })
    }
  }
  for (const unit of units) {
    if (unit.hosts.includes('*')) for (const listener of unit.listeners) unclaimed.delete(listenerKey(listener))
  }
  return [...unclaimed.keys()].toSorted().map((key) => unclaimed.get(key) as Listener)
}
