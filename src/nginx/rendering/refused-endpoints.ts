/**
 * Keeps this host from asking addresses that none of its tenants should get to, such as the metadata service of a cloud:
 * endpoints there are left out before anything is rendered or probed, whether they are named by address or were resolved
 * to it. Pure; called by whoever renders or follows upstreams.
 */

import { BlockList, isIP } from 'node:net'
import { perObject } from '../../core/memo.ts'
import { parseEndpoint, type Endpoint } from '../../core/resources/fields.ts'
import type { UpstreamSpec } from '../../core/resources/upstream.ts'
import { isUpstream, type Problem, type Slice, type SliceResource } from '../../core/slice.ts'
import type { HostLayout, RefusedNetwork } from './host-layout.ts'

/**
 * The API of the daemon itself, as somebody on this host gets to it.
 * @param bind the address that it is bound to, and `own` those of this host's interfaces, which count where it is on all
 */
export function apiNetworks(bind: string, port: number, own: readonly string[]): readonly RefusedNetwork[] {
  // A port that nobody knows yet cannot be named.
  if (port === 0) return []
  const isOne = isIP(bind) !== 0 && !isUnspecified(bind)
  return (isOne ? [bind] : ['127.0.0.0/8', '::1', ...own]).map((network) => ({ network, port }))
}

interface Reached {
  readonly slice: Slice
  readonly addresses: ReadonlyMap<string, readonly string[]>
  readonly host: Pick<HostLayout, 'refusedEndpoints'>
}

/** Told apart in the words for people. */
const NAMED_MAX = 4

/** The same without what the host refuses, of which `slice.problems` tells then. The same object where nothing is refused. */
export function withoutRefused<T extends Reached>(input: T): T {
  const { slice, addresses, host } = input
  const networks = host.refusedEndpoints ?? NOTHING
  if (networks.length === 0) return input
  const refuses = refusalOf(networks)
  const fixed = fixedBy(networks)
  const problems: Problem[] = []
  const resources = slice.resources.map((resource) => {
    if (!isUpstream(resource)) return resource
    const refused = fixed(resource.spec) ?? refusedOf(resource.spec, addresses, refuses)
    if (refused.length === 0) return resource
    problems.push(
      problemOf(
        resource,
        refused.map(({ told }) => told),
      ),
    )
    const gone = new Set(refused.flatMap(({ key, isWhole }) => (isWhole ? key : [])))
    const endpoints = Object.fromEntries(Object.entries(resource.spec.endpoints).filter(([key]) => !gone.has(key)))
    return { ...resource, spec: { ...resource.spec, endpoints } }
  })
  if (problems.length === 0) return input
  const allowed = [...addresses].map(([name, found]) => [name, found.filter((address) => !refuses(address))] as const)
  return {
    ...input,
    slice: { ...slice, resources, problems: [...slice.problems, ...problems] },
    addresses: new Map(allowed),
  }
}
const NOTHING: readonly RefusedNetwork[] = []

/** What is refused of an upstream, where all of its endpoints are addresses: that never changes. Else null. */
const fixedBy = perObject((networks: readonly RefusedNetwork[]) =>
  perObject((spec: UpstreamSpec): readonly Refused[] | null => {
    const isFixed = Object.keys(spec.endpoints).every((key) => parseEndpoint(key)?.family !== 0)
    return isFixed ? refusedOf(spec, new Map(), refusalOf(networks)) : null
  }),
)

interface Refused {
  readonly key: string
  readonly told: string
  /** All of its addresses. */
  readonly isWhole: boolean
}

type Refusal = (address: string, port?: number) => boolean

function refusedOf(
  { endpoints, healthCheck }: UpstreamSpec,
  addresses: ReadonlyMap<string, readonly string[]>,
  refuses: Refusal,
): readonly Refused[] {
  return Object.keys(endpoints).flatMap((key): Refused[] => {
    const { host, port, family } = parseEndpoint(key) as Endpoint
    const ports = [port, healthCheck?.port ?? port]
    if (family !== 0) return ports.some((each) => refuses(host, each)) ? [{ key, told: key, isWhole: true }] : []
    const found = addresses.get(host) ?? []
    const refused = found.filter((address) => ports.some((each) => refuses(address, each)))
    if (refused.length === 0) return []
    // By the port alone an address is refused to this endpoint, and not to all of this name.
    const isWhole = refused.length === found.length || refused.some((address) => !refuses(address))
    return [{ key, told: `${key} (${refused.slice(0, NAMED_MAX).join(', ')})`, isWhole }]
  })
}

function problemOf({ path }: SliceResource, refused: readonly string[]): Problem {
  const more = refused.length > NAMED_MAX ? ` and ${refused.length - NAMED_MAX} more` : ''
  const message = `this host asks nobody at ${refused.slice(0, NAMED_MAX).join(', ')}${more}; these endpoints take no requests`
  return { path, code: 'unsupported', message, hint: 'take them out, or see nginx.refused_endpoints of the host' }
}

/** Whether an address is refused: at that port, or at every one. */
const refusalOf = perObject((refused: readonly RefusedNetwork[]): Refusal => {
  const lists = new Map<number | undefined, BlockList>()
  for (const { network, port } of refused) {
    const list = lists.get(port) ?? new BlockList()
    lists.set(port, list)
    const [address = '', length] = network.split('/')
    const family = familyOf(address)
    list.addSubnet(address, Number(length ?? (family === 'ipv4' ? 32 : 128)), family)
  }
  const isIn = (address: string, list: BlockList | undefined) => list?.check(address, familyOf(address)) === true
  return (address, port) => {
    if (isIP(address) === 0) return false
    // Linux takes no address for the loopback one.
    const all = isUnspecified(address) ? ['127.0.0.1', '::1'] : [address]
    return all.some((each) => isIn(each, lists.get(undefined)) || (port !== undefined && isIn(each, lists.get(port))))
  }
})

const UNSPECIFIED = new BlockList()
UNSPECIFIED.addAddress('0.0.0.0', 'ipv4')
UNSPECIFIED.addAddress('::', 'ipv6')

function isUnspecified(address: string): boolean {
  return UNSPECIFIED.check(address, familyOf(address))
}

function familyOf(address: string): 'ipv4' | 'ipv6' {
  return isIP(address) === 6 ? 'ipv6' : 'ipv4'
}
