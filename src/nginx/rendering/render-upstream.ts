/**
 * nginx text of one Upstream. Its block is named after the resource, so that a change of endpoints rewrites this one
 * file and no site. Pure; called by render.ts.
 */

import { isIP } from 'node:net'
import { sha256 } from '../../core/canonical.ts'
import { perObject } from '../../core/memo.ts'
import { parseResourcePath, type ResourceName } from '../../core/names.ts'
import { requestVariable } from '../../core/resources/conditions.ts'
import { parseEndpoint, type Endpoint } from '../../core/resources/fields.ts'
import type { StickyCookie, UpstreamSpec } from '../../core/resources/upstream.ts'
import type { SliceResource } from '../../core/slice.ts'
import { circuitSocket, type HostLayout } from './host-layout.ts'
import { block, directive, toText, when } from './lines.ts'
import { balanceLine } from './live-program.ts'
import { plain, template } from './quote.ts'

/** Of one host name; the first in the order of their text take requests. */
export const ADDRESSES_MAX = 64

/** What this node has seen of its upstreams. Rendering obeys it and never judges it. */
export interface ObservedHealth {
  /** `<upstream path> <address>:<port>` of servers that take no requests for now. */
  readonly ejected: ReadonlySet<string>
  /** The same for connections of streams, where health checks alone count. */
  readonly closedToStreams: ReadonlySet<string>
  /** Paths of upstreams that answer 503 at once. */
  readonly openCircuits: ReadonlySet<string>
}

/** Where nothing was observed. */
export const ALL_WELL: ObservedHealth = { ejected: new Set(), closedToStreams: new Set(), openCircuits: new Set() }

/** `default_eu.west_api`, `default_-_api` for zone `*`. No part has `_` in it, so no two resources share a name. */
export function upstreamBlockName({ workspace, zone, name }: ResourceName): string {
  return `${workspace}_${zone === '*' ? '-' : zone}_${name}`
}

/** The name of the block of the upstream with this path. */
export function blockNameAt(path: string): string {
  return upstreamBlockName(parseResourcePath(path) as ResourceName)
}

/** Host names among the endpoints, sorted: what has to be looked up. */
export const hostNames = perObject((spec: UpstreamSpec): readonly string[] => {
  const endpoints = Object.keys(spec.endpoints).map((key) => parseEndpoint(key) as Endpoint)
  return [...new Set(endpoints.filter((endpoint) => endpoint.family === 0).map(({ host }) => host))].toSorted()
})

/** One address of an endpoint, as nginx is told of it. */
export interface Server {
  /** `10.0.0.1:80`, `[2001:db8::1]:80`. */
  readonly address: string
  readonly weight: number
  readonly maxFails: number
  readonly failTimeout: string
  readonly backup: boolean
  readonly down: boolean
}

/**
 * The servers of an upstream in the order of its endpoints, each address once.
 * @param ejected `<upstream path> <address>` of those that observed health takes out; unless that would leave none
 */
export function serversOf(
  { path, spec }: SliceResource<UpstreamSpec>,
  addresses: ReadonlyMap<string, readonly string[]>,
  ejected: ReadonlySet<string>,
): readonly Server[] {
  const endpoints = Object.entries(spec.endpoints).toSorted(([a], [b]) => (a < b ? -1 : 1))
  // nginx wants one endpoint that is no backup; where all are, they serve.
  const hasPrimary = endpoints.some(([key, { backup }]) => !backup && serverAddresses(key, addresses).length > 0)
  const servers = new Map<string, Server>()
  for (const [key, { weight, maxFails, failTimeout, backup, down }] of endpoints) {
    for (const address of serverAddresses(key, addresses)) {
      const server = { address, weight, maxFails, failTimeout, backup: backup && hasPrimary, down }
      const known = servers.get(address)
      // A name and an address may mean the same; what takes requests goes first.
      if (known === undefined || (known.down && !down)) servers.set(address, server)
    }
  }
  const isEjected = ({ address }: Server) => ejected.has(`${path} ${address}`)
  const all = [...servers.values()]
  if (!all.some((server) => !server.down && !isEjected(server))) return all
  return all.map((server) => (isEjected(server) ? { ...server, down: true } : server))
}

/** The block where requests are spread by live-program.ts: nothing of it changes with the endpoints. */
export function renderLiveUpstream({ path, name, spec }: SliceResource<UpstreamSpec>): string {
  const blockName = upstreamBlockName(name)
  // nginx wants a server; it is never asked.
  const lines = ['server 0.0.0.1;', balanceLine(blockName), ...keepaliveLines(spec)]
  return toText([`# ${path}`, ...block(`upstream ${blockName}`, lines)])
}

/** Never empty: an upstream without a usable endpoint answers 502. One with an open circuit answers 503. */
export function renderUpstream(
  upstream: SliceResource<UpstreamSpec>,
  addresses: ReadonlyMap<string, readonly string[]>,
  observed: ObservedHealth,
  host: HostLayout,
): string {
  const { path, name, spec } = upstream
  const isOpen = observed.openCircuits.has(path)
  const servers = isOpen
    ? [`server ${plain(`unix:${circuitSocket(host.directory)}`)};`]
    : serversOf(upstream, addresses, observed.ejected).map(serverLine)
  return toText([
    `# ${path}`,
    ...stickyLines(spec),
    ...block(`upstream ${upstreamBlockName(name)}`, [
      ...methodLines(spec),
      ...(servers.length > 0 ? servers : ['server 127.0.0.1:1 down;']),
      ...keepaliveLines(spec),
    ]),
  ])
}

/** All that the endpoints in its text depend on. */
export function upstreamKeyOf(
  { path, spec, hash }: SliceResource<UpstreamSpec>,
  addresses: ReadonlyMap<string, readonly string[]>,
  { ejected, openCircuits }: ObservedHealth,
  host: HostLayout,
): string {
  const resolved = hostNames(spec).map((name) => `${name}=${(addresses.get(name) ?? []).toSorted().join()}`)
  const out = [...ejected].filter((one) => one.startsWith(`${path} `)).toSorted()
  return [path, hash, host.directory, ...resolved, openCircuits.has(path) ? 'open' : out.join()].join('\n')
}

function keepaliveLines({ keepalive }: UpstreamSpec): readonly string[] {
  return [
    ...directive('keepalive', keepalive?.connections),
    ...directive('keepalive_timeout', keepalive?.timeout),
    ...directive('keepalive_requests', keepalive?.requests),
  ]
}

/** A server in the block of an upstream. */
export function serverLine({ address, weight, maxFails, failTimeout, backup, down }: Server): string {
  const parameters = [
    ...when(weight !== 1, `weight=${weight}`),
    ...when(maxFails !== 1, `max_fails=${maxFails}`),
    ...when(failTimeout !== '10s', `fail_timeout=${failTimeout}`),
    ...when(backup, 'backup'),
    ...when(down, 'down'),
  ]
  return `server ${[plain(address), ...parameters].join(' ')};`
}

/** The variable that a client is told by: its cookie, else the one that this answer gives it. */
function stickyLines({ sticky }: UpstreamSpec): readonly string[] {
  if (sticky === undefined) return []
  const cookie = `$${requestVariable('cookie_', sticky.cookie)}`
  return block(`map ${cookie} $${stickyVariable(sticky)}`, [`default ${cookie};`, '"" $request_id;'])
}

/** One for all upstreams with the cookie. */
function stickyVariable({ cookie }: StickyCookie): string {
  return `nxmesh_${sha256(requestVariable('cookie_', cookie)).slice(0, 16)}_sticky`
}

function methodLines({ method, hashKey, consistent, sticky }: UpstreamSpec): readonly string[] {
  if (method === 'round_robin') return []
  if (method === 'hash') {
    const key = sticky === undefined ? template(hashKey) : `$${stickyVariable(sticky)}`
    return [`hash ${key}${consistent ? ' consistent' : ''};`]
  }
  return [`${method};`]
}

/** `address:port` for each address of an endpoint; none when its name was not resolved. */
function serverAddresses(key: string, addresses: ReadonlyMap<string, readonly string[]>): readonly string[] {
  const { host, port, family } = parseEndpoint(key) as Endpoint
  return (family === 0 ? usable(addresses.get(host)).slice(0, ADDRESSES_MAX) : [host]).map((address) =>
    isIP(address) === 6 ? `[${address}]:${port}` : `${address}:${port}`,
  )
}

function usable(found: readonly string[] = []): string[] {
  return [...new Set(found)].filter((address) => isIP(address) !== 0 && !address.includes('%')).toSorted()
}

/** The sum of weights over all addresses where the upstream hashes consistently; else 0. */
export function consistentWeight(spec: UpstreamSpec, addresses: ReadonlyMap<string, readonly string[]>): number {
  if (spec.method !== 'hash' || !spec.consistent) return 0
  return Object.entries(spec.endpoints).reduce((sum, [key, { weight }]) => {
    return sum + weight * serverAddresses(key, addresses).length
  }, 0)
}

/** Host names of the upstream with more addresses than take requests. */
export function crowdedNames(spec: UpstreamSpec, addresses: ReadonlyMap<string, readonly string[]>): string[] {
  return hostNames(spec).filter((name) => usable(addresses.get(name)).length > ADDRESSES_MAX)
}

/** Host names of the upstream that `addresses` does not resolve. */
export function unresolvedNames(spec: UpstreamSpec, addresses: ReadonlyMap<string, readonly string[]>): string[] {
  return hostNames(spec).filter((name) => serverAddresses(`${name}:1`, addresses).length === 0)
}
