/**
 * The `stream` of a configuration made harmless to run beside the one that serves, as sandbox.ts does it for `http`: ports of
 * its own on loopback, stand-ins instead of upstreams. And what to ask it. Pure; called by sandbox.ts and meshctl import.
 */

import { matchesDropped, type StandIn } from './harmless.ts'
import { parse, type Directive } from './parse.ts'

/** A connection, or a datagram. */
export interface StreamProbe {
  /** As in StreamSandbox.listeners. */
  readonly listener: string
  readonly isUdp: boolean
  /** Begins with a PROXY header. */
  readonly tellsClient: boolean
  /** The name that the client says at the beginning of TLS; none: it says something else. */
  readonly serverName: string | undefined
}

export class StreamSandbox {
  readonly #backendPort: number
  /** By what stands in the configuration. */
  readonly #standIns = new Map<string, StandIn>()
  readonly #stream: readonly Directive[]

  /** @param stream what stands in `stream` */
  constructor(stream: readonly Directive[], backendPort: number) {
    this.#backendPort = backendPort
    const pools = new Set(
      stream.flatMap(({ name, args }) => {
        if (isChoice({ name, args })) return args[1] ?? ''
        return name === 'upstream' ? (args[0] ?? '') : []
      }),
    )
    this.#stream = stream.flatMap((directive) => this.#harmless(directive, pools))
  }

  get standIns(): readonly StandIn[] {
    return [...this.#standIns.values()]
  }

  /** What it listens on, each to be given a port: `udp 53`. */
  get listeners(): readonly string[] {
    return [...new Set(this.probes.map(({ listener }) => listener))].toSorted()
  }

  get probes(): readonly StreamProbe[] {
    const names = this.#stream
      .filter(isChoice)
      .flatMap(({ block = [] }) => block.filter(({ args }) => args.length > 0).map(({ name }) => name))
      .filter((name) => /^[\w.*-]+$/.test(name) && name !== 'default')
      .map((name) => name.replace(/^\*?\./, 'probe.').replaceAll('*', 'probe'))
    return listensOf(this.#stream).flatMap(({ args }) => {
      const isUdp = args.includes('udp')
      const said = isUdp ? [undefined] : [undefined, ...new Set(names), 'unknown.invalid']
      const tellsClient = args.includes('proxy_protocol')
      return said.map((serverName) => ({ listener: listenerOf(args), isUdp, tellsClient, serverName }))
    })
  }

  /** The directives, listening on these ports. */
  directives(ports: ReadonlyMap<string, number>): readonly Directive[] {
    const listening = (directives: readonly Directive[]): Directive[] =>
      directives.map((directive) => {
        const { name, args, block } = directive
        if (block !== undefined) return { ...directive, block: listening(block) }
        if (name !== 'listen') return directive
        const words = [`127.0.0.1:${ports.get(listenerOf(args))}`, ...args.slice(1)]
        return { ...directive, args: words, raw: words }
      })
    return listening(this.#stream)
  }

  #harmless(directive: Directive, pools: ReadonlySet<string>): Directive[] {
    const { name, args, block } = directive
    if (name === 'access_log' || (matchesDropped(name) && name !== 'ssl_preread')) return []
    if (name === 'upstream') {
      const [server] = parse(`server ${this.#at(args[0] ?? '')};`, directive.file)
      return [{ ...directive, block: [server as Directive] }]
    }
    if (isChoice(directive)) return [{ ...directive, block: (block ?? []).map((entry) => this.#target(entry, pools)) }]
    if (name === 'server') return this.#server(directive, pools)
    return [directive]
  }

  #server(directive: Directive, pools: ReadonlySet<string>): Directive[] {
    const block = (directive.block ?? []).flatMap((each) => this.#harmless(each, pools))
    const seen = new Set<string>()
    const once = block.flatMap((each): Directive[] => {
      if (each.name === 'proxy_pass') return [this.#target(each, pools)]
      if (each.name !== 'listen') return [each]
      const key = listenerOf(each.args)
      if (seen.has(key) || key.endsWith(' ') || each.args.includes('ssl')) return []
      seen.add(key)
      const words = [key, ...each.args.slice(1).filter((word) => /^(?:udp|proxy_protocol)$/.test(word))]
      return [{ ...each, args: words, raw: words }]
    })
    return seen.size === 0 ? [] : [{ ...directive, block: once }]
  }

  /** Of `proxy_pass`, and of an entry of a map: its address is that of a stand-in, also where another variable holds it. */
  #target(directive: Directive, pools: ReadonlySet<string>): Directive {
    const [word = '', ...more] = directive.args
    if (word === '' || pools.has(word)) return directive
    const words = [this.#at(word), ...more]
    return { ...directive, args: words, raw: words }
  }

  #at(key: string): string {
    const number = this.#standIns.size + 1
    const known = this.#standIns.get(key)
    const standIn = known ?? {
      protocol: 'stream',
      at: `127.2.${Math.floor(number / 250)}.${(number % 250) + 1}:${this.#backendPort}`,
    }
    this.#standIns.set(key, standIn)
    return standIn.at
  }
}

/** A map from the name that the client says to where it gets. */
function isChoice({ name, args }: Pick<Directive, 'name' | 'args'>): boolean {
  return name === 'map' && args[0] === '$ssl_preread_server_name'
}

function listensOf(stream: readonly Directive[]): readonly Directive[] {
  return stream.flatMap(({ name, block = [] }) =>
    name === 'server' ? block.filter((each) => each.name === 'listen') : [],
  )
}

/** One for all addresses of a port. Without a port for a socket, or many of them. */
function listenerOf(args: readonly string[]): string {
  const port = /(?:^|:| )(\d+)$/.exec(args[0] ?? '')?.[1] ?? ''
  return `${args.includes('udp') ? 'udp' : 'tcp'} ${port}`
}
