/**
 * Addresses of a host name as the host itself finds them: its hosts file, then DNS with the search domains of resolv.conf.
 * DNS is asked without the C library's getaddrinfo, which would hold one of libuv's few threads for as long as a server is
 * silent. Keeps nothing; src/nginx/applying/addresses.ts, which calls it, remembers answers and bounds the wait.
 */

import { lookup, Resolver } from 'node:dns/promises'
import { readFile } from 'node:fs/promises'
import { isIP } from 'node:net'
import { hostname } from 'node:os'

export interface ResolverOptions {
  readonly hostsFile: string
  readonly resolvFile: string
  /** DNS servers, in place of those of the host's own resolv.conf. */
  readonly servers?: readonly string[]
  /** For what neither file nor DNS knows: other sources of the host, such as mDNS or LDAP. */
  readonly libraryLookup: (name: string) => Promise<readonly string[]>
}

const OF_THIS_HOST: ResolverOptions = {
  hostsFile: '/etc/hosts',
  resolvFile: '/etc/resolv.conf',
  libraryLookup: async (name) => (await lookup(name, { all: true })).map(({ address }) => address),
}

/** Of each try, ms; every further one takes twice as long. */
const QUERY = { timeout: 2_000, tries: 3 }
/** There is no such name in DNS, or none of this family. */
const ABSENT: ReadonlySet<string | undefined> = new Set(['ENOTFOUND', 'ENODATA'])
/** There is no DNS. */
const NO_DNS = 'ECONNREFUSED'

/**
 * All addresses of a name, IPv4 and IPv6, each once. Rejects when they cannot be said, those of one family included; that
 * may take a minute. What one family is, `onFamily` is told as soon as it is known, whatever becomes of the other.
 */
export function hostResolver(
  options = OF_THIS_HOST,
): (name: string, onFamily?: (addresses: readonly string[]) => void) => Promise<readonly string[]> {
  const hostsOf = ofText(parseHosts)
  // A resolver knows only the servers that there were when it was made.
  const dnsOf = ofText((text) => {
    const resolver = new Resolver(QUERY)
    if (options.servers !== undefined) resolver.setServers(options.servers)
    return { resolver, search: parseSearch(text) }
  })
  /** A name that only the C library knows takes a thread, so such names wait for each other. */
  let library: Promise<unknown> = Promise.resolve()

  return async (name, onFamily = () => undefined) => {
    const inFile = hostsOf(await textOf(options.hostsFile)).get(name)
    if (inFile !== undefined) return [...inFile]
    const { resolver, search } = dnsOf(await textOf(options.resolvFile))
    let failure: Error | undefined
    let isInDns = false
    const tell = (addresses: readonly string[]): void => {
      isInDns = true
      onFamily(addresses)
    }
    for (const candidate of candidatesOf(name, search)) {
      try {
        const found = await inDns(resolver, candidate, tell)
        if (found.length > 0) return found
      } catch (error) {
        if (isInDns || (error as NodeJS.ErrnoException).code === 'ETIMEOUT') throw error
        failure ??= error as Error
      }
    }
    if (failure !== undefined) throw failure
    const answer = library.then(() => options.libraryLookup(name))
    library = answer.catch(() => undefined)
    return [...new Set(await answer)]
  }
}

/** Empty when the name is not there. Rejects when that cannot be said of a family: its addresses are not gone. */
async function inDns(
  resolver: Resolver,
  name: string,
  tell: (addresses: readonly string[]) => void,
): Promise<readonly string[]> {
  const told = (addresses: readonly string[]): readonly string[] => {
    if (addresses.length > 0) tell(addresses)
    return addresses
  }
  const families = await Promise.allSettled([resolver.resolve4(name).then(told), resolver.resolve6(name).then(told)])
  const found = families.flatMap((family) => (family.status === 'fulfilled' ? family.value : []))
  for (const family of families) {
    if (family.status === 'fulfilled') continue
    const { code } = family.reason as NodeJS.ErrnoException
    // Without any DNS another source may know the name.
    const isAbsent = ABSENT.has(code) || (code === NO_DNS && found.length === 0)
    if (!isAbsent) throw family.reason
  }
  return [...new Set(found)]
}

/** Addresses by lower-case name, of a hosts file: hosts(5). */
function parseHosts(text: string): ReadonlyMap<string, ReadonlySet<string>> {
  const hosts = new Map<string, Set<string>>()
  for (const line of text.toLowerCase().split('\n')) {
    const [address = '', ...names] = line.replace(/#.*/, '').trim().split(/\s+/)
    if (isIP(address) === 0) continue
    for (const name of names) hosts.set(name, (hosts.get(name) ?? new Set()).add(address))
  }
  return hosts
}

interface Search {
  readonly domains: readonly string[]
  /** A name with as many dots is asked for as it is first. */
  readonly ndots: number
}

/** What resolv.conf(5) says of names that are not full. */
function parseSearch(text: string): Search {
  const lines = text.split('\n').map((line) => line.trim().split(/\s+/))
  const stated = lines.findLast(([word]) => word === 'search' || word === 'domain')?.slice(1)
  const domains = stated ?? [hostname().split('.').slice(1).join('.')]
  const options = lines.filter(([word]) => word === 'options').flat()
  const ndots = options.findLast((option) => /^ndots:\d+$/.test(option))?.slice('ndots:'.length) ?? '1'
  return { domains: domains.map((domain) => domain.replace(/\.$/, '')).filter(Boolean), ndots: Number(ndots) }
}

/** The full names that a name may mean, in order. */
function candidatesOf(name: string, { domains, ndots }: Search): readonly string[] {
  const full = domains.map((domain) => `${name}.${domain}`)
  return name.split('.').length > ndots ? [name, ...full] : [...full, name]
}

async function textOf(path: string): Promise<string> {
  return readFile(path, 'utf8').catch(() => '')
}

/** Makes its value anew only when the text is another. */
function ofText<T>(make: (text: string) => T): (text: string) => T {
  let last: { readonly text: string; readonly value: T } | undefined
  return (text) => {
    if (last?.text !== text) last = { text, value: make(text) }
    return last.value
  }
}
