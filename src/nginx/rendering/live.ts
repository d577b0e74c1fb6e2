/**
 * What nginx is told without a reload: the endpoints of upstreams, how requests are spread over them, and certificates, as
 * entries of a dictionary that all workers share. Where the host has the Lua module, this stands in no file of a generation. Pure;
 * render.ts makes it, src/nginx/applying/live-push.ts brings it to the workers, live-program.ts reads it there.
 */

import { sha256 } from '../../core/canonical.ts'
import { requestVariable } from '../../core/resources/conditions.ts'
import { isFault, parseTemplate } from '../../core/resources/fields.ts'
import type { SiteSpec } from '../../core/resources/site.ts'
import { isSplit, sharesOf } from '../../core/resources/split.ts'
import type { UpstreamSpec } from '../../core/resources/upstream.ts'
import type { SliceResource } from '../../core/slice.ts'
import type { Capabilities } from '../../ports.ts'
import { circuitSocket, type HostLayout } from './host-layout.ts'
import { isThere, LUA } from './needs.ts'
import { nearest } from '../../core/references.ts'
import { blockNameAt, serversOf, upstreamBlockName, type ObservedHealth } from './render-upstream.ts'
import type { Unit } from './unit.ts'

/** Values by key; neither holds a line feed, and a key holds no space. */
export type LiveState = ReadonlyMap<string, string>

/** Of what workers are told at once, as text; live-program.ts takes a little more, and twice as much memory at most. */
const LIVE_BYTES_MAX = 12 * 1024 * 1024

/** The state with what finds room beside it, the smallest first: what is too much of one upstream keeps no other out. */
export function withRoomFor(state: LiveState, others: LiveState): LiveState {
  const size = ([key, value]: readonly [string, string]) => key.length + value.length + 2
  let left = [...state].reduce((bytes, entry) => bytes - size(entry), LIVE_BYTES_MAX)
  const missing = [...others].filter(([key]) => !state.has(key)).toSorted((a, b) => size(a) - size(b))
  const added = missing.filter((entry) => {
    left -= size(entry)
    return left >= 0
  })
  return added.length === 0 ? state : new Map([...state, ...added])
}

/** A live state as it was pushed; stamps grow. */
export interface Stamped {
  readonly stamp: number
  readonly state: LiveState
}

/** Why endpoints of this host's upstreams go through reloads, for people; undefined where they do not. */
export function laneObstacle(capabilities: Capabilities, host: HostLayout): string | undefined {
  if (host.liveLane === false) return 'nginx.live_lane is off: endpoint changes go through reloads'
  if (host.laneFault !== undefined) return host.laneFault
  if (isThere(LUA, capabilities, host)) return undefined
  if (capabilities.afterRestart?.includes(LUA) === true)
    return 'the running nginx cannot load the Lua module beside ModSecurity, restart it: endpoint changes go through reloads'
  return 'the Lua module is absent: endpoint changes go through reloads'
}

/** Whether upstreams of this host get their endpoints without reloads. */
export function usesLane(capabilities: Capabilities, host: HostLayout): boolean {
  return laneObstacle(capabilities, host) === undefined
}

/** The key of an upstream block's entry. */
function upstreamKey(block: string): string {
  return `u:${block}`
}

/** What begins the keys of all that a site's text asks for. */
function siteKeys(path: string): string {
  return `s:${sha256(path).slice(0, 32)}:`
}

/** Whether the text of one of these units asks for an entry. */
export function servedKeys(units: readonly Pick<Unit, 'kind' | 'path' | 'text'>[]): (key: string) => boolean {
  const length = siteKeys('').length
  // Most often nobody asks.
  let own: ReadonlyMap<string, readonly Pick<Unit, 'kind' | 'text'>[]> | undefined
  const byKey = () =>
    Map.groupBy(units, ({ kind, path }) => (kind === 'upstream' ? upstreamKey(blockNameAt(path)) : siteKeys(path)))
  return (key) => {
    own ??= byKey()
    const asking = own.get(key) ?? own.get(key.slice(0, length))
    // What a site's text does not name any more goes: private keys, and shares among other targets.
    return asking?.some(({ kind, text }) => kind === 'upstream' || text.includes(key)) === true
  }
}

/**
 * The key of the shares of a route that splits. Other targets make another key, which a generation brings that has their
 * blocks: the one that serves would pass requests to a name that it does not know.
 */
export function splitKey(path: string, routeId: string, blocks: readonly string[]): string {
  const targets = [...new Set(blocks)].toSorted().join(' ')
  return `${siteKeys(path)}split:${sha256(`${routeId}\n${targets}`).slice(0, 32)}`
}

/** The key of a site's certificate, by the name that its listeners have for it. */
export function certificateKey(path: string, name: string): string {
  return `${siteKeys(path)}${CERTIFICATE}${sha256(name).slice(0, 32)}`
}
const CERTIFICATE = 'certificate:'

export function isCertificateKey(key: string): boolean {
  return key.startsWith(CERTIFICATE, siteKeys('').length)
}

/** The key of whether a site is in maintenance. */
export function maintenanceKey(path: string): string {
  return `${siteKeys(path)}maintenance`
}

/** Whether a site's text asks for entries. */
export function asksLive({ routes, maintenance }: SiteSpec): boolean {
  return (
    maintenance !== undefined || Object.values(routes).some((route) => route.action === 'proxy' && isSplit(route.proxy))
  )
}

/**
 * A site's entries: `<block>=<parts>` of each upstream that gets a share, and 1 or 0.
 * @param known paths of all resources that there are for this node
 */
export function siteEntries(
  site: SliceResource<SiteSpec>,
  known: () => ReadonlySet<string>,
): readonly (readonly [key: string, value: string])[] {
  const { path, spec } = site
  if (!asksLive(spec)) return []
  const splits = Object.entries(spec.routes).flatMap(([id, route]): [string, string][] => {
    if (route.action !== 'proxy' || !isSplit(route.proxy)) return []
    const shares = sharesOf(route.proxy).map(({ upstream, parts }) => {
      const found = nearest(site, 'upstream', upstream, known())
      return { parts, found, block: found === undefined ? '' : upstreamBlockName(found) }
    })
    // Then the site is not rendered; what it was told last stays.
    if (shares.some(({ found }) => found === undefined)) return []
    const words = shares.filter(({ parts }) => parts > 0).map(({ block, parts }) => `${block}=${parts}`)
    const blocks = shares.map(({ block }) => block)
    return [[splitKey(path, id, blocks), words.join(' ')]]
  })
  const { maintenance } = spec
  return maintenance === undefined ? splits : [...splits, [maintenanceKey(path), maintenance.enabled ? '1' : '0']]
}

/**
 * An upstream's entry: method, parts of the hash key or the variable of a sticky cookie, and `<address>,<weight>,<backup>,<down>,<maxFails>,<failTimeout s>`
 * of each server.
 */
export function upstreamEntry(
  upstream: SliceResource<UpstreamSpec>,
  addresses: ReadonlyMap<string, readonly string[]>,
  { ejected, openCircuits }: ObservedHealth,
  host: HostLayout,
): readonly [key: string, value: string] {
  const { path, name, spec } = upstream
  const { method, consistent, hashKey, sticky } = spec
  const servers = openCircuits.has(path)
    ? [`unix:${circuitSocket(host.directory)},1,0,0,0,0`]
    : serversOf(upstream, addresses, ejected).map(({ address, weight, backup, down, maxFails, failTimeout }) =>
        [address, weight, Number(backup), Number(down), maxFails, seconds(failTimeout)].join(),
      )
  const how = method === 'hash' && consistent ? 'consistent' : method
  const parts = sticky === undefined ? hashParts(hashKey) : `s${requestVariable('cookie_', sticky.cookie)}`
  return [upstreamKey(upstreamBlockName(name)), [how, method === 'hash' ? parts : '-', ...servers].join(' ')]
}

/** `v<variable>`, or `t<text>` with every byte as %xx, for each part. */
function hashParts(template: string): string {
  const parts = parseTemplate(template)
  // The schema has taken it.
  if (isFault(parts)) return '-'
  return parts.map((part) => ('variable' in part ? `v${part.variable}` : `t${inHex(part.text)}`)).join()
}

function inHex(text: string): string {
  return [...Buffer.from(text)].map((byte) => `%${byte.toString(16).padStart(2, '0')}`).join('')
}

const UNIT_SECONDS: Readonly<Record<string, number>> = { s: 1, m: 60, h: 3600 }

/** Of `10s`, `5m`, `1h`. */
function seconds(duration: string): number {
  return Number.parseInt(duration, 10) * (UNIT_SECONDS[duration.slice(-1)] as number)
}

// ---------------------------------------------------------------------------------------------- as text

/** The whole of it, as it is pushed to nginx and kept in a file. */
export function wholeText({ stamp, state }: Stamped): string {
  return `nxmesh-live ${stamp} 0\n${[...state].map(([key, value]) => `${key} ${value}\n`).join('')}`
}

/** What differs, for workers that have `before`. */
export function changeText(before: Stamped, { stamp, state }: Stamped): string {
  const gone = [...before.state.keys()].filter((key) => !state.has(key)).map((key) => `-${key}\n`)
  const put = [...state].filter(([key, value]) => before.state.get(key) !== value)
  return `nxmesh-live ${stamp} ${before.stamp}\n${gone.join('')}${put.map(([key, value]) => `${key} ${value}\n`).join('')}`
}

/** Reads the whole text back; undefined when it is none. */
export function parseWhole(text: string): Stamped | undefined {
  const [head = '', ...lines] = text.split('\n')
  const stamp = /^nxmesh-live (\d{1,15}) 0$/.exec(head)?.[1]
  if (stamp === undefined) return undefined
  const entries = lines.flatMap((line): [string, string][] => {
    const space = line.indexOf(' ')
    return space < 1 ? [] : [[line.slice(0, space), line.slice(space + 1)]]
  })
  return { stamp: Number(stamp), state: new Map(entries) }
}
