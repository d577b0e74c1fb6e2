/**
 * Who gets which port among Streams, and between Streams and Sites: nginx listens on an address once, for http or for
 * streams. Every rule follows from the slice alone. Pure; called by render.ts.
 */

import type { StreamListenerSpec, StreamSpec } from '../../core/resources/stream.ts'
import { olderFirst, type Problem, type SliceResource } from '../../core/slice.ts'
import { isWildcard, listenerKey, normalAddress, portClash, wildcardOf, wishesOf, type Site } from './claims.ts'
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
  /** Paths of the streams to which sites leave a port, by wildcardOf. */
  readonly taken: ReadonlyMap<string, string>
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
  const taken = portsOfStreams(streams, sites, defaultPort)
  const demands = streams.flatMap(({ name, spec }) =>
    streamListeners(spec).map((listener) => ({ key: keyOf(listener), workspace: name.workspace, cost: 1 })),
  )
  const granted = shareOut(demands, STREAM_LISTENERS_MAX)
  const claims = new StreamClaims()
  const places = new Map<string, StreamPlace>()
  const problems: Problem[] = []
  for (const stream of streams) {
    const { path, spec } = stream
    const listeners = streamListeners(spec).filter((listener) => {
      const problem =
        sitesRefusal(path, listener, taken) ??
        (granted.has(keyOf(listener)) ? claims.refusal(stream, listener) : tooMany(path, listener))
      if (problem !== undefined) problems.push(problem)
      return problem === undefined
    })
    const { hosts, lost } = claims.claim(stream, listeners)
    problems.push(...lost)
    const isEmpty = listeners.length === 0 || ((spec.hosts ?? []).length > 0 && hosts.length === 0)
    if (!isEmpty) places.set(path, { listeners, hosts })
  }
  const won = [...taken].flatMap(([port, { stream }]): [string, string][] =>
    stream === undefined ? [] : [[port, stream]],
  )
  return { places, problems, taken: new Map(won) }
}

/** Who has a port that sites and streams want: the path of the oldest stream, or of the oldest site. */
type Winner = { readonly stream?: string; readonly site?: string }

/**
 * The use of a port that more resources want stays; between equals that of the oldest one. So one resource alone, of
 * whatever age it claims, takes nothing from many.
 */
function portsOfStreams(streams: readonly Stream[], sites: readonly Site[], defaultPort: number) {
  const wanted = new Map<string, { streams: Stream[]; sites: Site[] }>()
  const at = (port: string) => {
    const found = wanted.get(port) ?? { streams: [], sites: [] }
    wanted.set(port, found)
    return found
  }
  for (const stream of streams) {
    const tcp = streamListeners(stream.spec).filter(({ protocol }) => protocol === 'tcp')
    for (const port of new Set(tcp.map(wildcardOf))) at(port).streams.push(stream)
  }
  for (const site of sites) {
    for (const port of new Set(wishesOf(site, defaultPort).listeners.map(wildcardOf))) {
      if (wanted.has(port)) at(port).sites.push(site)
    }
  }
  const winners = new Map<string, Winner>()
  for (const [port, { streams: some, sites: others }] of wanted) {
    const [stream, site] = [some[0] as Stream, others[0]]
    if (site === undefined) continue
    const isStreams = some.length - others.length || olderFirst(site, stream)
    winners.set(port, isStreams > 0 ? { stream: stream.path } : { site: site.path })
  }
  return winners
}

function sitesRefusal(path: string, listener: StreamListener, taken: ReadonlyMap<string, Winner>) {
  const site = listener.protocol === 'tcp' ? taken.get(wildcardOf(listener))?.site : undefined
  return site === undefined ? undefined : portClash(path, listener, `the site ${site}`, 'sites')
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
