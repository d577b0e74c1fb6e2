/**
 * Who gets what sites of one node share: host names, and listeners, which are bounded in number and either on all
 * addresses of a port or on single ones. Every rule follows from the slice alone. Pure; called by render.ts.
 */

import { isIPv6 } from 'node:net'
import { perObject } from '../../core/memo.ts'
import type { ListenerTls, SiteListener } from '../../core/resources/listener.ts'
import type { SiteSpec } from '../../core/resources/site.ts'
import type { Problem, SliceResource } from '../../core/slice.ts'
import { decide, type Decision, type Wish } from './port-votes.ts'
import { shareOut } from './shares.ts'
import type { Listener } from './unit.ts'

/**
 * Distinct listeners of a node, shared out among workspaces: each costs every worker a connection, and `nginx -t` time.
 * What is beyond is a problem of the sites that want it.
 */
export const LISTENERS_MAX = 256

const ALL_IPV4 = '*'
const ALL_IPV6 = '[::]'

export type Site = SliceResource<SiteSpec>

export function listenerKey({ address, port }: Pick<Listener, 'address' | 'port'>): string {
  return `${address}:${port}`
}

/** An address in the one form in which nginx and this renderer compare it. */
export function normalAddress(address: string | undefined): string {
  if (address === undefined || address === '0.0.0.0') return ALL_IPV4
  return isIPv6(address) ? new URL(`http://[${address}]/`).hostname : address
}

/** The listener for all addresses of the same family and port. */
export function wildcardOf({ address, port }: Pick<Listener, 'address' | 'port'>): string {
  return `${address.startsWith('[') ? ALL_IPV6 : ALL_IPV4}:${port}`
}

export function isWildcard(listener: Pick<Listener, 'address' | 'port'>): boolean {
  return listenerKey(listener) === wildcardOf(listener)
}

/** Of a listener: listenerKey, wildcardOf, and in which of eight ways it listens, made once. */
const spotOf = perObject((listener: Listener) => ({
  key: listenerKey(listener),
  port: wildcardOf(listener),
  isWildcard: isWildcard(listener),
  use: [isWildcard(listener), listener.tls, listener.proxyProtocol].join(),
}))

function listenerOf({ address, port, tls, proxyProtocol }: Partial<SiteListener> & { port: number }): Listener {
  const listener = { address: normalAddress(address), port, tls: tls !== undefined }
  return proxyProtocol === true ? { ...listener, proxyProtocol } : listener
}

/** What the site asks for, sorted. */
function listenersOf(spec: SiteSpec, defaultPort: number): Listener[] {
  const stated = Object.values(spec.listeners)
  const listeners = (stated.length > 0 ? stated : [{ port: defaultPort }]).map(listenerOf)
  const unique = new Map(listeners.map((listener) => [listenerKey(listener), listener]))
  // What listens on all addresses of a port listens on each.
  const isCovered = (listener: Listener): boolean => !isWildcard(listener) && unique.has(wildcardOf(listener))
  return [...unique.keys()]
    .toSorted()
    .map((key) => unique.get(key) as Listener)
    .filter((listener) => !isCovered(listener))
}

/** What the site says of TLS, by listenerKey. */
export function tlsOf({ listeners }: SiteSpec): ReadonlyMap<string, ListenerTls> {
  return new Map(
    Object.values(listeners).flatMap(({ address, port, tls }) =>
      tls === undefined ? [] : [[listenerKey({ address: normalAddress(address), port }), tls]],
    ),
  )
}

/** What a site asks for, all of it. */
export function wishesOf({ spec }: Site, defaultPort: number): Wishes {
  const known = remembered.get(spec)
  if (known?.defaultPort === defaultPort) return known
  const wishes = {
    defaultPort,
    hosts: [...new Set(spec.hosts)].toSorted(),
    listeners: listenersOf(spec, defaultPort),
  }
  remembered.set(spec, wishes)
  return wishes
}

interface Wishes {
  readonly defaultPort: number
  readonly hosts: readonly string[]
  readonly listeners: readonly Listener[]
}

/** A spec is never changed, and asked about several times in each rendering of thousands. */
const remembered = new WeakMap<SiteSpec, Wishes>()

/** Who owns which host on which listener, and which listeners there are. Asked by sites from the oldest to the youngest. */
export class Claims {
  /** Site paths by listener and host. */
  readonly #owners = new Map<string, Map<string, string>>()
  /** The winning form of each port, by the listener for all addresses. */
  readonly #forms: ReadonlyMap<string, Decision<Form>>
  readonly #granted: ReadonlySet<string>
  readonly #defaultPort: number
  readonly #taken: ReadonlyMap<string, Decision<PortWish>>

  /**
   * @param rendered the sites that can be rendered, oldest first: a listener of another is never there.
   * @param taken the ports that are for streams, by wildcardOf
   */
  constructor(
    rendered: readonly Site[],
    defaultPort: number,
    taken: ReadonlyMap<string, Decision<PortWish>> = new Map(),
  ) {
    this.#defaultPort = defaultPort
    this.#taken = taken
    const wanted = rendered.filter(isAsking).map((site) => ({ site, listeners: wishesOf(site, defaultPort).listeners }))
    this.#forms = formsOf(wanted)
    this.#granted = grantedOf(wanted.map(({ site, listeners }) => ({ site, listeners: this.#fitting(listeners) })))
  }

  /**
   * @param renders false for a site that cannot be rendered: it keeps the hosts that it claims, so that no other takes
   *   them meanwhile, and hears nothing of its listeners, so that its last good text goes on serving.
   */
  claim(site: Site, renders: boolean) {
    const wishes = wishesOf(site, this.#defaultPort)
    const lost: Problem[] = []
    const listeners = wishes.listeners.filter((listener) => {
      const problem = renders && isAsking(site) ? this.#refusal(site, listener) : undefined
      if (problem !== undefined) lost.push(problem)
      return problem === undefined
    })
    const owners = listeners.map((listener) => this.#ownersOn(spotOf(listener).key))
    const hosts = wishes.hosts.filter((host) => {
      const owner = owners.find((paths) => paths.has(host))?.get(host)
      if (owner !== undefined) lost.push(hostClash(site.path, host, owner))
      return owner === undefined
    })
    for (const paths of owners) for (const host of hosts) paths.set(host, site.path)
    // The same object as in the last rendering, where it is all that the site asks for.
    return { lost, place: lost.length === 0 ? wishes : { hosts, listeners } }
  }

  #ownersOn(key: string): Map<string, string> {
    const known = this.#owners.get(key)
    if (known !== undefined) return known
    const paths = new Map<string, string>()
    this.#owners.set(key, paths)
    return paths
  }

  #fitting(listeners: readonly Listener[]): readonly Listener[] {
    const fits = (listener: Listener) => spotOf(listener).use === this.#formOf(listener).winner.use
    return listeners.every(fits) ? listeners : listeners.filter(fits)
  }

  #formOf(listener: Listener): Decision<Form> {
    return this.#forms.get(spotOf(listener).port) as Decision<Form>
  }

  #refusal(site: Site, listener: Listener): Problem | undefined {
    const { key, port, use } = spotOf(listener)
    const form = this.#formOf(listener)
    const stream = this.#taken.get(port)
    if (stream !== undefined) return portClash(site, listener, stream)
    if (use !== form.winner.use) return formClash(site, listener, form)
    if (this.#granted.has(key)) return undefined
    const message = `cannot listen on ${key}: a node has at most ${LISTENERS_MAX} listeners, shared out among workspaces`
    return { path: site.path, code: 'clash', message, hint: 'take a port that other sites use, or remove listeners' }
  }
}

/** One that was left no host asks for nothing: it must not decide how others listen. */
export function isAsking({ spec }: Site): boolean {
  return spec.hosts.length > 0
}

function formClash({ path, name }: Site, listener: Listener, { winner, voters }: Decision<Form>): Problem {
  const [which, way] =
    winner.tls !== listener.tls
      ? winner.tls
        ? ['over TLS', 'give the listener tls']
        : ['without TLS', 'leave out tls']
      : winner.proxyProtocol !== listener.proxyProtocol
        ? winner.proxyProtocol === true
          ? ['behind a proxy', 'give the listener proxyProtocol: true']
          : ['without PROXY headers', 'leave out proxyProtocol']
        : winner.isWildcard
          ? ['on all addresses', 'leave out the address']
          : ['on single addresses', 'name an address']
  const who = voters.has(name.workspace)
    ? 'more sites of its workspace, or as many and the oldest'
    : "more workspaces, or as many and the oldest site's"
  const message = `cannot listen on ${listenerKey(listener)} beside ${winner.key} of the site ${winner.path}: ${who}, listen ${which}`
  return { path, code: 'clash', message, hint: `${way}, or take another port` }
}

/** What a port is for. */
export interface PortWish extends Wish {
  readonly use: 'site' | 'stream'
  readonly path: string
}

export function portClash(
  { path, name }: Pick<SliceResource, 'path' | 'name'>,
  listener: { readonly address: string; readonly port: number },
  { winner: { use, path: other }, voters }: Decision<PortWish>,
): Problem {
  const why = voters.has(name.workspace)
    ? `more ${use}s of its workspace, or as many and the oldest, want this port`
    : `more workspaces, or as many and the oldest ${use}'s, want this port for ${use}s`
  const message = `cannot listen on ${listenerKey(listener)} beside the ${use} ${other}: ${why}`
  return { path, code: 'clash', message, hint: 'take another port' }
}

function hostClash(path: string, host: string, owner: string): Problem {
  const message = `the host ${host} belongs to the older site ${owner}`
  return { path, code: 'clash', message, hint: 'remove it from one of the two' }
}

// ---------------------------------------------------------------------------------------------- listeners

interface Wanted {
  readonly site: Site
  readonly listeners: readonly Listener[]
}

/** One of the eight ways to listen on a port, as a site wants it. */
interface Form extends Wish {
  readonly port: string
  readonly isWildcard: boolean
  readonly tls: boolean
  readonly proxyProtocol: true | undefined
  readonly path: string
  readonly key: string
}

/**
 * An address and port is over TLS or not, and begins with PROXY headers or not, for all of its sites; and beside `*:80` a listener on `10.0.0.1:80` would take that address away from every site on `*:80`, and a reload could
 * not bind one beside the other, so one form has to give way. Which one, workspaces vote on. One site alone, of whatever
 * age it claims, must take down neither those that share the port nor those that have an address each; that the older
 * go first would let it, since ages are claimed, and so would a fixed precedence of either form.
 */
function formsOf(oldestFirst: readonly Wanted[]): ReadonlyMap<string, Decision<Form>> {
  const forms = oldestFirst.flatMap(({ site: { path, name }, listeners }) =>
    // Several single addresses of one port are one site all the same.
    eachFormOf(listeners).map((listener): Form => {
      const { tls, proxyProtocol } = listener
      return { ...spotOf(listener), tls, proxyProtocol, path, workspace: name.workspace }
    }),
  )
  return new Map([...Map.groupBy(forms, ({ port }) => port)].map(([port, some]) => [port, decide(some)]))
}

/** One listener of each port and way. */
const eachFormOf = perObject((listeners: readonly Listener[]): readonly Listener[] => [
  ...new Map(listeners.map((each) => [`${spotOf(each).port} ${spotOf(each).use}`, each])).values(),
])

/** Within a workspace the listeners that most sites use go first, then the oldest: one site must not crowd out many. */
function grantedOf(oldestFirst: readonly Wanted[]): ReadonlySet<string> {
  const demands = new Map<string, { key: string; workspace: string; cost: number; sites: number }>()
  for (const { site, listeners } of oldestFirst) {
    const { workspace } = site.name
    for (const { key } of listeners.map(spotOf)) {
      const id = `${workspace} ${key}`
      const demand = demands.get(id) ?? { key, workspace, cost: 1, sites: 0 }
      demand.sites += 1
      demands.set(id, demand)
    }
  }
  return shareOut(
    [...demands.values()].toSorted((a, b) => b.sites - a.sites),
    LISTENERS_MAX,
  )
}
