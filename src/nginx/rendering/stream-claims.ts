/**
 * Who gets which port among Streams, and between Streams and Sites: nginx listens on an address once, for http or for
 * streams. Every rule follows from the slice alone. Pure; called by render.ts.
 */

import type { StreamListenerSpec, StreamSpec } from '../../core/resources/stream.ts'
import { olderFirst, type Problem, type SliceResource } from '../../core/slice.ts'
import {
  isAsking,
  isWildcard,
  listenerKey,
  normalAddress,
  portClash,
  wildcardOf,
  wishesOf,
  type PortWish,
  type Site,
} from './claims.ts'
import { decide, type Decision } from './port-votes.ts'
import { shareOut } from './shares.ts'
import type { StreamListener } from './unit.ts'

/** Distinct listeners of the streams of a node, shared out among workspaces. */
export const STREAM_LISTENERS_MAX = 64

export type Stream = SliceResource<StreamSpec>

export interface StreamPlace {
  readonly listeners: readonly StreamListener[]
  /** None for a stream that has its ports for itself. */
  readonly hosts: readonly string[]
}

export interface SettledStreams {
  /** By path; none for one that gets nothing. */
  readonly places: ReadonlyMap<string, StreamPlace>
  readonly problems: readonly Problem[]
  /** The ports that sites leave to streams, by wildcardOf. */
  readonly taken: ReadonlyMap<string, Decision<PortWish>>
}

export function streamListener({ address, port, protocol, proxyProtocol }: StreamListenerSpec): StreamListener {
  return { address: normalAddress(address), port, protocol, proxyProtocol }
}

function streamListeners({ listeners }: StreamSpec): readonly StreamListener[] {
  const all = Object.values(listeners).map(streamListener)
  const unique = new Map(all.map((listener) => [keyOf(listener), listener]))
  return [...unique.keys()].toSorted().map((key) => unique.get(key) as StreamListener)
}

export function keyOf(listener: StreamListener): string {
  return `${listener.protocol} ${listenerKey(listener)}`
}

/** @param streams and sites those that can be rendered, oldest first */
export function settleStreams(streams: readonly Stream[], sites: readonly Site[], defaultPort: number): SettledStreams {
  const demands = streams.flatMap(({ name, spec }) =>
    streamListeners(spec).map((listener) => ({ key: keyOf(listener), workspace: name.workspace, cost: 1 })),
  )
  const granted = shareOut(demands, STREAM_LISTENERS_MAX)
  const alone = placesOf(streams, granted, new Map())
  const ports = portsOf(streams, alone.places, sites, defaultPort)
  const taken = new Map([...ports].filter(([, { winner }]) => winner.use === 'stream'))
  return { ...placesOf(streams, granted, ports), taken }
}

/** @param granted keys of listeners */
function placesOf(streams: readonly Stream[], granted: ReadonlySet<string>, ports: Ports) {
  const claims = new StreamClaims()
  const places = new Map<string, StreamPlace>()
  const problems: Problem[] = []
  for (const stream of streams) {
    const { path, spec } = stream
    const listeners = streamListeners(spec).filter((listener) => {
      const problem =
        sitesRefusal(stream, listener, ports) ??
        (granted.has(keyOf(listener)) ? claims.refusal(stream, listener) : tooMany(path, listener))
      if (problem !== undefined) problems.push(problem)
      return problem === undefined
    })
    const { hosts, lost } = claims.claim(stream, listeners)
    problems.push(...lost)
    const isEmpty = listeners.length === 0 || ((spec.hosts ?? []).length > 0 && hosts.length === 0)
    if (!isEmpty) places.set(path, { listeners, hosts })
  }
  return { places, problems }
}

/** What each port is for that streams want, by wildcardOf. */
type Ports = ReadonlyMap<string, Decision<PortWish>>

/** @param places that the streams had without sites: those that clash among themselves count once */
function portsOf(
  streams: readonly Stream[],
  places: SettledStreams['places'],
  sites: readonly Site[],
  defaultPort: number,
): Ports {
  const wishes = (use: PortWish['use'], resource: Stream | Site, listeners: readonly Address[]) => {
    const { path, name } = resource
    const ports = new Set(listeners.map(wildcardOf))
    return [...ports].map((port) => ({ port, resource, use, path, workspace: name.workspace }))
  }
  const ofStreams = streams.flatMap((stream) => {
    const listeners = places.get(stream.path)?.listeners ?? []
    return wishes('stream', stream, listeners.filter(isTcp))
  })
  const wanted = new Set(ofStreams.map(({ port }) => port))
  const asking = wanted.size === 0 ? [] : sites.filter(isAsking)
  const ofSites = asking.flatMap((site) =>
    wishes('site', site, wishesOf(site, defaultPort).listeners).filter(({ port }) => wanted.has(port)),
  )
  const oldestFirst = [...ofStreams, ...ofSites].toSorted((a, b) => olderFirst(a.resource, b.resource))
  return new Map([...Map.groupBy(oldestFirst, ({ port }) => port)].map(([port, some]) => [port, decide(some)]))
}

type Address = Pick<StreamListener, 'address' | 'port'>

function isTcp({ protocol }: StreamListener): boolean {
  return protocol === 'tcp'
}

function sitesRefusal(stream: Stream, listener: StreamListener, ports: Ports): Problem | undefined {
  const decision = isTcp(listener) ? ports.get(wildcardOf(listener)) : undefined
  return decision?.winner.use === 'site' ? portClash(stream, listener, decision) : undefined
}

function tooMany(path: string, listener: StreamListener): Problem {
  const message = `cannot listen on ${keyOf(listener)}: the streams of a node have at most ${STREAM_LISTENERS_MAX} listeners, shared out among workspaces`
  return { path, code: 'clash', message, hint: 'take a port that other streams use, by hosts, or remove listeners' }
}

/** Asked from the oldest to the youngest. */
class StreamClaims {
  /** What each listener is used for, and by whom first. */
  readonly #listeners = new Map<string, { listener: StreamListener; owner: string; hasHosts: boolean }>()
  /** Stream paths by `listener host`. */
  readonly #owners = new Map<string, string>()

  refusal({ path, spec }: Stream, listener: StreamListener): Problem | undefined {
    const hasHosts = (spec.hosts ?? []).length > 0
    const other = [...this.#listeners.values()].find((each) => overlap(each.listener, listener))
    if (other === undefined) return undefined
    const isSame = keyOf(other.listener) === keyOf(listener)
    const message = `cannot listen on ${keyOf(listener)}: it belongs to the older stream ${other.owner}`
    if (!isSame || !hasHosts || !other.hasHosts)
      return { path, code: 'clash', message, hint: 'take another port, or give both streams hosts on the same address' }
    if (other.listener.proxyProtocol === listener.proxyProtocol) return undefined
    const differs = `${message}, which differs in proxyProtocol`
    return { path, code: 'clash', message: differs, hint: 'say the same of proxyProtocol in both' }
  }

  claim({ path, spec }: Stream, listeners: readonly StreamListener[]) {
    const wanted = [...new Set(spec.hosts ?? [])].toSorted()
    for (const listener of listeners) {
      const known = this.#listeners.has(keyOf(listener))
      if (!known) this.#listeners.set(keyOf(listener), { listener, owner: path, hasHosts: wanted.length > 0 })
    }
    const lost: Problem[] = []
    const hosts = wanted.filter((host) => {
      const owner = listeners
        .map((listener) => this.#owners.get(`${keyOf(listener)} ${host}`))
        .find((found) => found !== undefined)
      const message = `the host ${host} belongs to the older stream ${owner}`
      if (owner !== undefined) lost.push({ path, code: 'clash', message, hint: 'remove it from one of the two' })
      return owner === undefined
    })
    for (const listener of listeners) {
      for (const host of hosts) this.#owners.set(`${keyOf(listener)} ${host}`, path)
    }
    return { hosts, lost }
  }
}

/** Whether nginx cannot have both. */
function overlap(a: StreamListener, b: StreamListener): boolean {
  if (a.protocol !== b.protocol || wildcardOf(a) !== wildcardOf(b)) return false
  return listenerKey(a) === listenerKey(b) || isWildcard(a) || isWildcard(b)
}
