/**
 * What stands in `stream` as Streams and Upstreams: servers that pass TCP or UDP on, and those that choose by the name at the
 * beginning of TLS with a map. There is no text for the rest: a server that would be less guarded without it is left out.
 * Pure; called by import.ts.
 */

import type { Tree } from '../../core/resources/kind.ts'
import type { Certificates } from './certificates.ts'
import { faultOfSpec } from './faults.ts'
import { durationOf, put, wholeOf, type FieldRule } from './fields.ts'
import type { Findings } from './findings.ts'
import { accessListsOf, covers } from './import-policies.ts'
import { addressOf } from './import-site.ts'
import type { Upstreams } from './import-upstream.ts'
import { Names } from './names.ts'
import type { Directive } from './parse.ts'

interface ImportedStreams {
  /** Specs by resource name. */
  readonly specs: ReadonlyMap<string, Tree>
  readonly upstreams: ReadonlyMap<string, Tree>
}

/** Where the connections of some names go. */
interface Target {
  readonly word: string
  /** None: all connections of the listener. */
  readonly hosts: readonly string[]
}

const RULES: Readonly<Record<string, FieldRule>> = {
  proxy_connect_timeout: { field: ['timeouts', 'connect'], value: ([text = '']) => durationOf(text) },
  proxy_timeout: { field: ['timeouts', 'idle'], value: ([text = '']) => durationOf(text) },
  proxy_responses: { field: ['responses'], value: ([text = '']) => wholeOf(text) },
  proxy_protocol: { field: ['proxyProtocol'], value: ([text]) => text === 'on' },
}
/** Without these a server would let in more, send what is not what was meant, or answer nothing. */
const ESSENTIAL =
  /^(?:ssl_(?!preread|session|ciphers|protocols|prefer)\w+|proxy_ssl\w*|return|set|js_\w+|preread_by_lua\w*|content_by_lua\w*)$/
/** What of it fields say. */
const OF_TLS = /^(?:ssl_(?:certificate|certificate_key|protocols|client_certificate|verify_client|verify_depth))$/
const OF_UPSTREAM_TLS = /^proxy_ssl(?:_server_name|_name|_verify|_session_reuse)?$/
/** Said by the map, or as nginx and the node have it. */
const SETTLED = /^(?:listen|proxy_pass|allow|deny|limit_conn|ssl_preread|tcp_nodelay)$/
const NO_FIELD = 'a Stream has no field for it'

interface Carried {
  /** Of streams alone: names in `stream` are others than in `http`. */
  readonly upstreams: Upstreams
  readonly certificates: Certificates
  readonly findings: Findings
}

export function importStreams(stream: readonly Directive[], carried: Carried): ImportedStreams {
  const { upstreams, findings } = carried
  for (const upstream of stream.filter(({ name }) => name === 'upstream')) {
    const socket = upstream.block?.find(({ name, args }) => name === 'server' && args[0]?.startsWith('unix:') === true)
    if (socket === undefined) upstreams.add(upstream)
    else upstreams.lose(upstream, 'an endpoint is an address, or a name, with a port')
  }
  const importer = new Importer(stream, carried)
  for (const server of stream.filter(({ name }) => name === 'server')) importer.add(server)
  for (const directive of stream) {
    const isRead = importer.read.has(directive) || /^(?:server|upstream)$/.test(directive.name)
    const isNodes = /^(?:access_log|error_log|log_format|\w+_hash_\w+)$/.test(directive.name)
    if (!isRead)
      findings.lose(
        directive,
        isNodes ? 'the node has its own' : 'no Stream that is carried uses it, or has a field for it',
      )
  }
  return { specs: importer.specs, upstreams: upstreams.specs }
}

class Importer {
  readonly specs = new Map<string, Tree>()
  /** What of `stream` itself is carried. */
  readonly read = new Set<Directive>()
  readonly #names = new Names('stream')
  readonly #stream: readonly Directive[]
  readonly #upstreams: Upstreams
  readonly #certificates: Certificates
  readonly #findings: Findings

  constructor(stream: readonly Directive[], { upstreams, certificates, findings }: Carried) {
    this.#certificates = certificates
    this.#stream = stream
    this.#upstreams = upstreams
    this.#findings = findings
  }

  add(server: Directive): void {
    const own = server.block ?? []
    const directives = [...this.#takenOver(own), ...own]
    const obstacle = this.#obstacle(directives)
    const tls = obstacle === undefined ? this.#tlsOf(directives) : undefined
    const listeners = this.#listenersOf(directives, typeof tls === 'string' ? undefined : tls)
    const [pass] = directives.filter(({ name }) => name === 'proxy_pass')
    const access = accessOf(directives.filter(({ name }) => /^(?:allow|deny)$/.test(name)))
    const why =
      obstacle ??
      (typeof tls === 'string' ? tls : undefined) ??
      (Object.keys(listeners).length === 0 ? 'it listens on nothing that a Stream can' : undefined) ??
      (pass === undefined ? 'it passes nothing on' : undefined) ??
      (access === undefined ? 'no Stream can say who may come in and who may not' : undefined)
    if (why !== undefined) {
      this.#findings.lose(server, why)
      return
    }
    const base: Tree = { listeners, ...access, ...upstreamTlsOf(directives) }
    for (const directive of directives) this.#addField(base, directive)
    for (const { word, hosts } of this.#targetsOf(pass as Directive, directives)) {
      const upstream = this.#upstreams.reference('tcp', word)
      const spec = { ...base, upstream, ...(hosts.length === 0 ? {} : { hosts: [...hosts] }) }
      const fault =
        upstream === undefined ? `there is no upstream ${word} that is carried` : faultOfSpec('Stream', spec)
      if (fault !== undefined) {
        this.#findings.lose(hosts.length === 0 ? server : { ...server, args: hosts, raw: hosts }, fault)
        continue
      }
      const isAddress = /[:.]\d+$/.test(word)
      const [first] = Object.keys(listeners)
      this.specs.set(this.#names.take(hosts.find((host) => host !== '*') ?? (isAddress ? `${first}` : word)), spec)
    }
  }

  /** What of `stream` holds in a server that does not say it itself. */
  #takenOver(own: readonly Directive[]): readonly Directive[] {
    const listOf = (name: string): string => (name === 'deny' ? 'allow' : name)
    const taken = this.#stream.filter(
      ({ name }) =>
        (Object.hasOwn(RULES, name) ||
          ESSENTIAL.test(name) ||
          /^(?:allow|deny|limit_conn|ssl_preread|tcp_nodelay)$/.test(name)) &&
        !own.some((each) => listOf(each.name) === listOf(name)),
    )
    for (const directive of taken) this.read.add(directive)
    return taken
  }

  #obstacle(directives: readonly Directive[]): string | undefined {
    const essential = directives.find(
      ({ name, args }) =>
        ESSENTIAL.test(name) &&
        args[0] !== 'off' &&
        !OF_TLS.test(name) &&
        !(OF_UPSTREAM_TLS.test(name) && name !== 'proxy_ssl_verify'),
    )
    return essential === undefined ? undefined : `a Stream cannot say ${essential.name}`
  }

  /** Where TLS ends here; a text where no field can say how. */
  #tlsOf(directives: readonly Directive[]): Tree | string | undefined {
    if (!directives.some(({ name, args }) => name === 'listen' && args.includes('ssl'))) return undefined
    const { http2: _, ...tls } = this.#certificates.tlsOf(directives, 'stream') ?? {}
    const verify = directives.find(({ name, args }) => name === 'ssl_verify_client' && args[0] !== 'off')
    if (tls['certificate'] === undefined) return 'TLS ends here, and its certificate is not carried'
    return verify === undefined || tls['clientCertificate'] !== undefined ? tls : 'no listener can say whom it lets in'
  }

  #listenersOf(directives: readonly Directive[], tls: Tree | undefined): Tree {
    const listeners: Tree = {}
    const ids = new Names('listener')
    for (const directive of directives.filter(({ name }) => name === 'listen')) {
      const [word = '', ...parameters] = directive.args
      const at = /\d$/.test(word) ? addressOf(word) : undefined
      if (at === undefined) {
        this.#findings.lose(directive, 'a Stream listens on a port of all addresses, or of one')
        continue
      }
      const isUdp = parameters.includes('udp')
      const id = ids.take(`${isUdp ? 'udp' : 'port'}-${at.address === undefined ? '' : `${at.address}-`}${at.port}`)
      listeners[id] = {
        ...at,
        ...(isUdp ? { protocol: 'udp' } : {}),
        ...(parameters.includes('proxy_protocol') ? { proxyProtocol: true } : {}),
        ...(parameters.includes('ssl') ? { tls } : {}),
      }
      const odd = parameters.filter((each) => !/^(?:udp|proxy_protocol|ssl|reuseport|ipv6only=on)$/.test(each))
      if (odd.length > 0) this.#findings.lose(directive, `a listener has no field for ${odd.join(' ')}`)
    }
    return listeners
  }

  #addField(spec: Tree, directive: Directive): void {
    const { name, args } = directive
    if (name === 'limit_conn') {
      const max = this.#isByClient(args[0] ?? '') ? wholeOf(args[1] ?? '') : undefined
      if (max === undefined)
        this.#findings.lose(directive, 'a Stream limits connections of a client alone: WITHOUT IT THERE IS NO LIMIT')
      else spec['connectionsPerClient'] = max
      return
    }
    if (SETTLED.test(name) || OF_TLS.test(name) || OF_UPSTREAM_TLS.test(name)) return
    const rule = Object.hasOwn(RULES, name) ? RULES[name] : undefined
    const value = rule?.value(args)
    if (rule === undefined || value === undefined)
      this.#findings.lose(directive, name.endsWith('_log') ? 'the node has its own' : NO_FIELD)
    else if (value !== false) put(spec, rule.field, value)
  }

  #isByClient(zone: string): boolean {
    const found = this.#stream.find(
      ({ name, args }) => name === 'limit_conn_zone' && args.some((arg) => arg.startsWith(`zone=${zone}:`)),
    )
    if (found !== undefined) this.read.add(found)
    return /^\$(?:binary_)?remote_addr$/.test(found?.args[0] ?? '')
  }

  // -------------------------------------------------------------------------------------------- by name

  #targetsOf(pass: Directive, directives: readonly Directive[]): readonly Target[] {
    const [to = ''] = pass.args
    if (!to.includes('$')) return [{ word: to, hosts: [] }]
    const map = this.#stream.find(({ name, args }) => name === 'map' && args[1] === to)
    const isByName = map?.args[0] === '$ssl_preread_server_name'
    const isRead = directives.some(({ name, args }) => name === 'ssl_preread' && args[0] === 'on')
    if (map === undefined || !isByName || !isRead) {
      this.#findings.lose(pass, 'a Stream chooses by the name at the beginning of TLS alone, from a map')
      return []
    }
    this.read.add(map)
    const entries = map.block ?? []
    const hasMasks = entries.some(({ name, args }) => name === 'hostnames' && args.length === 0)
    const hosts = new Map<string, string[]>()
    for (const entry of entries) {
      const { name: key, args } = entry
      const [word = ''] = args
      if (args.length === 0 || word === '') continue
      const names = key === 'default' ? ['*'] : hostsOf(key.toLowerCase(), hasMasks)
      if (names === undefined || /[$]|^unix:/.test(word))
        this.#findings.lose(entry, 'a Stream has no such name, or passes to no such place')
      else hosts.set(word, [...(hosts.get(word) ?? []), ...names])
    }
    return [...hosts].map(([word, names]) => ({ word, hosts: names }))
  }
}

/** Names of a Stream that a key of a map means; undefined when none do. */
function hostsOf(key: string, hasMasks: boolean): string[] | undefined {
  const isMask = key.startsWith('.') || key.includes('*')
  if (key.startsWith('~') || (isMask && !hasMasks)) return undefined
  const names = key.startsWith('.') ? [key.slice(1), `*${key}`] : [key]
  const spec = { listeners: { it: { port: 1 } }, upstream: 'it', hosts: names }
  return faultOfSpec('Stream', spec) === undefined ? names : undefined
}

/** Without `proxy_ssl_server_name` the upstream is not told which name is meant. */
function upstreamTlsOf(directives: readonly Directive[]): Tree {
  const said = (word: string): string | undefined => directives.findLast(({ name }) => name === word)?.args[0]
  if (said('proxy_ssl') !== 'on') return {}
  const serverName = said('proxy_ssl_server_name') === 'on' ? said('proxy_ssl_name') : undefined
  return { upstreamTls: serverName === undefined ? {} : { serverName } }
}

/** Of a Stream whom it denies goes before whom it allows, and with anybody allowed all others are not. */
function accessOf(group: readonly Directive[]): Tree | undefined {
  const lists = accessListsOf(group)
  if (lists === undefined) return undefined
  const { allow, deny, rest } = lists
  const isOverruled = allow.some((one) => deny.some((other) => covers(other, one)))
  if (isOverruled || (rest === 'deny' && allow.length === 0)) return undefined
  return { ...(rest === 'deny' ? { allow: [...allow] } : {}), ...(deny.length === 0 ? {} : { deny: [...deny] }) }
}
