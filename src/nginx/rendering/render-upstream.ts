/**
 * nginx text of one Upstream. Its block is named after the resource, so that a change of endpoints rewrites this one
 * file and no site. Pure; called by render.ts.
 */

import { isIP } from 'node:net'
import type { ResourceName } from '../../core/names.ts'
import { parseEndpoint, type Endpoint } from '../../core/resources/fields.ts'
import type { UpstreamSpec } from '../../core/resources/upstream.ts'
import type { SliceResource } from '../../core/slice.ts'
import { block, directive, toText, when } from './lines.ts'
import { plain, template } from './quote.ts'

/** Of one host name; the first in the order of their text take requests. */
export const ADDRESSES_MAX = 64

/** `default_eu.west_api`, `default_-_api` for zone `*`. No part has `_` in it, so no two resources share a name. */
export function upstreamBlockName({ workspace, zone, name }: ResourceName): string {
  return `${workspace}_${zone === '*' ? '-' : zone}_${name}`
}

/** Host names among the endpoints, sorted: what has to be looked up. */
export function hostNames(spec: UpstreamSpec): string[] {
  const endpoints = Object.keys(spec.endpoints).map((key) => parseEndpoint(key) as Endpoint)
  return [...new Set(endpoints.filter((endpoint) => endpoint.family === 0).map(({ host }) => host))].toSorted()
}

/** Never empty: an upstream without a usable endpoint answers 502. */
export function renderUpstream(
  { path, name, spec }: SliceResource<UpstreamSpec>,
  addresses: ReadonlyMap<string, readonly string[]>,
): string {
  const endpoints = Object.entries(spec.endpoints).toSorted(([a], [b]) => (a < b ? -1 : 1))
  // nginx wants one endpoint that is no backup; where all are, they serve.
  const hasPrimary = endpoints.some(([key, { backup }]) => !backup && serverAddresses(key, addresses).length > 0)
  const servers = endpoints.flatMap(([key, endpoint]) => {
    const parameters = [
      ...when(endpoint.weight !== 1, `weight=${endpoint.weight}`),
      ...when(endpoint.maxFails !== 1, `max_fails=${endpoint.maxFails}`),
      ...when(endpoint.failTimeout !== '10s', `fail_timeout=${endpoint.failTimeout}`),
      ...when(endpoint.backup && hasPrimary, 'backup'),
      ...when(endpoint.down, 'down'),
    ]
    return serverAddresses(key, addresses).map((address) => `server ${[plain(address), ...parameters].join(' ')};`)
  })
  return toText([
    `# ${path}`,
    ...block(`upstream ${upstreamBlockName(name)}`, [
      ...methodLines(spec),
      ...(servers.length > 0 ? [...new Set(servers)] : ['server 127.0.0.1:1 down;']),
      ...directive('keepalive', spec.keepalive?.connections),
      ...directive('keepalive_timeout', spec.keepalive?.timeout),
      ...directive('keepalive_requests', spec.keepalive?.requests),
    ]),
  ])
}

function methodLines({ method, hashKey, consistent }: UpstreamSpec): readonly string[] {
  if (method === 'round_robin') return []
  if (method === 'hash') return [`hash ${template(hashKey)}${consistent ? ' consistent' : ''};`]
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
export function consistentWeight(
  { method, consistent, endpoints }: UpstreamSpec,
  addresses: ReadonlyMap<string, readonly string[]>,
): number {
  if (method !== 'hash' || !consistent) return 0
  return Object.entries(endpoints).reduce((sum, [key, { weight }]) => {
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
