/**
 * A configuration made harmless to run beside the one that serves: it listens on ports of its own on loopback, asks stand-ins
 * instead of upstreams, and writes nowhere. What is left answers as it would, so that an import can be proven by it. Pure; called by meshctl import.
 */

import { plain } from '../rendering/quote.ts'
import { defaultRoot, PASSED_TO, PASSES } from './fields.ts'
import { matchesDropped, type StandIn } from './harmless.ts'
import { parse, toText, type Directive } from './parse.ts'
import { StreamSandbox } from './stream-sandbox.ts'

export interface SandboxParts {
  /** Below which sockets and caches of the sandbox lie. */
  readonly directory: string
  /** Of stand-ins. */
  readonly backendPort: number
  /** What `nginx -V` names as prefix: relative paths of modules begin there, and files lie below it where nobody says where. */
  readonly prefix: string
  /** As whom workers run, so that they read what its files are; only when nginx starts as root. */
  readonly user?: string
}

/** Why a configuration is not run, not even in a sandbox; undefined when it can be. */
export function unprovable(tree: readonly Directive[]): string | undefined {
  for (const { name, args, file, line, block } of tree) {
    const isDangerous =
      /_by_lua|^(?:js|perl|lua|init|passenger|modsecurity|opentelemetry|opentracing|dav|upload)_|^(?:lua|perl|pagespeed)$/.test(
        name,
      )
    if (isDangerous || (name.endsWith('_store') && args[0] !== 'off') || (name.endsWith('_pass') && !PASSES.test(name)))
      return `${file}:${line}: ${name} may run programs or write, which a proof must not`
    const inner = block === undefined ? undefined : unprovable(block)
    if (inner !== undefined) return inner
  }
  return undefined
}

const PORTS: Readonly<Record<string, string>> = { 'http://': '80', 'https://': '443' }

export class Sandbox {
  readonly #parts: SandboxParts
  /** By what stands in the configuration. */
  readonly #standIns = new Map<string, StandIn>()
  readonly #listeners = new Set<string>()
  readonly #http: readonly Directive[]
  readonly #before: readonly Directive[]
  /** What stands beside http. */
  readonly stream: StreamSandbox

  /** @param tree a main file with its includes, or servers alone */
  constructor(tree: readonly Directive[], parts: SandboxParts) {
    this.#parts = parts
    const isMain = tree.some(({ name }) => /^(?:http|events|stream)$/.test(name))
    const http = isMain ? tree.filter(({ name }) => name === 'http').flatMap(({ block = [] }) => block) : tree
    const pools = new Map(
      http.filter(({ name }) => name === 'upstream').map((upstream) => [upstream.args[0] ?? '', upstream] as const),
    )
    for (const [name, { block = [] }] of pools) {
      const [first] = block.filter((each) => each.name === 'server')
      this.#standIn(name, first?.args[0] ?? '', isPassedAs(http, name))
    }
    const root = http.some(({ name }) => name === 'root')
      ? []
      : parse(`root ${plain(defaultRoot(parts.prefix))};`, 'nginx')
    this.#http = [...root, ...http].flatMap((directive) => this.#harmless(directive, pools))
    const streams = tree.filter(({ name }) => name === 'stream').flatMap(({ block = [] }) => block)
    this.stream = new StreamSandbox(streams, parts.backendPort)
    this.#before = tree.flatMap((directive) => {
      const [path = ''] = directive.args
      if (directive.name !== 'load_module') return []
      const absolute = path.startsWith('/') ? path : `${parts.prefix}/${path}`
      return [{ ...directive, args: [absolute], raw: [absolute] }]
    })
  }

  /** What the sandbox listens on, each to be given a port: `*:80`. */
  get listeners(): readonly string[] {
    return [...[...this.#listeners].toSorted(), ...this.stream.listeners]
  }

  /** What it loads into nginx, by absolute paths. */
  get modules(): readonly Directive[] {
    return this.#before
  }

  get standIns(): readonly StandIn[] {
    return [...this.#standIns.values(), ...this.stream.standIns]
  }

  /** The directives of http as nobody runs them: they listen on what `listeners` names. */
  get template(): readonly Directive[] {
    return this.#http
  }

  /** What is imported, listening on these ports. */
  tree(ports: ReadonlyMap<string, number>): Directive[] {
    const parts = { http: this.http(ports), stream: this.stream.directives(ports) }
    return Object.entries(parts).map(([name, block]) => ({ name, args: [], raw: [], block, file: 'nginx', line: 1 }))
  }

  /** The directives of http, listening on these ports. */
  http(ports: ReadonlyMap<string, number>): Directive[] {
    const listening = (directives: readonly Directive[]): Directive[] =>
      directives.map((directive) => {
        const { name, args, block } = directive
        if (block !== undefined) return { ...directive, block: listening(block) }
        if (name !== 'listen') return directive
        const words = [`127.0.0.1:${ports.get(args[0] ?? '')}`, ...args.slice(1)]
        return { ...directive, args: words, raw: words }
      })
    return listening(this.#http)
  }

  /** A whole nginx.conf. */
  text(ports: ReadonlyMap<string, number>, pidFile: string): string {
    const streams = this.stream.directives(ports)
    const temps = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map((name) => `${name}_temp_path temp/${name};`)
    return [
      toText(this.#before),
      ...(this.#parts.user === undefined ? [] : [`user ${this.#parts.user};`]),
      `pid ${pidFile};`,
      'worker_processes 1;',
      'error_log logs/error.log;',
      'events { worker_connections 256; }',
      'http {',
      ...temps,
      toText(this.http(ports)),
      '}',
      ...(streams.length === 0 ? [] : ['stream {', toText(streams), '}']),
      '',
    ].join('\n')
  }

  #harmless(directive: Directive, pools: ReadonlyMap<string, Directive>): Directive[] {
    const { name, args, block } = directive
    if (matchesDropped(name) || (name === 'access_log' && args[0] !== 'off')) return []
    if (name === 'upstream') return [this.#pool(directive)]
    if (name === 'server' && block !== undefined) return this.#server(directive, pools)
    if (block !== undefined) return [{ ...directive, block: block.flatMap((each) => this.#harmless(each, pools)) }]
    if (name.endsWith('_cache_path')) {
      const words = [`${this.#parts.directory}/cache-${args[0]?.replace(/\W+/g, '-')}`, ...args.slice(1)]
      return [{ ...directive, args: words, raw: words }]
    }
    return PASSES.test(name) ? [this.#pass(directive, pools)] : [directive]
  }

  /** With one server, so that every request gets the same answer. */
  #pool(upstream: Directive): Directive {
    const block = upstream.block ?? []
    const kept = block.filter(
      ({ name }) => name !== 'server' && !matchesDropped(name) && !/^hash|_hash|random|least_/.test(name),
    )
    const at = this.#standIns.get(upstream.args[0] ?? '')?.at ?? CLOSED
    const word = at.startsWith('/') ? `unix:${at}` : at
    const [server] = parse(`server ${word};`, upstream.file)
    return { ...upstream, block: [server as Directive, ...kept] }
  }

  #server(directive: Directive, pools: ReadonlyMap<string, Directive>): Directive[] {
    const block = (directive.block ?? []).filter(
      ({ name, args }) => name !== 'listen' || args[0]?.startsWith('unix:') !== true,
    )
    if (block.length < (directive.block ?? []).length && !block.some(({ name }) => name === 'listen')) return []
    const listens = block.some(({ name }) => name === 'listen') ? [] : parse('listen 80;', directive.file)
    const told = [...listens, ...block].flatMap((each): Directive[] => {
      if (each.name !== 'listen') return this.#harmless(each, pools)
      const key = keyOf(each.args[0] ?? '')
      this.#listeners.add(key)
      const words = [key, ...each.args.slice(1).filter((word) => /^default(?:_server)?$/.test(word))]
      return [{ ...each, args: words, raw: words }]
    })
    // The same listener for both families of addresses.
    const seen = new Set<string>()
    const once = told.filter(({ name, args }) => {
      if (name !== 'listen') return true
      const isNew = !seen.has(args[0] ?? '')
      seen.add(args[0] ?? '')
      return isNew
    })
    return [{ ...directive, block: once }]
  }

  #pass(directive: Directive, pools: ReadonlyMap<string, Directive>): Directive {
    const { name, args } = directive
    const protocol = protocolOf(name)
    const [to = ''] = args
    const [, scheme = '', word = '', rest = ''] = PASSED_TO.exec(to) ?? []
    const plain = name === 'proxy_pass' ? 'http://' : scheme
    const isVariable = word === '' || /^\$|:\/\/\$/.test(rest)
    let target: string
    if (protocol === undefined) target = `${plain}${CLOSED}`
    else if (!isVariable && pools.has(word)) target = `${plain}${word}${rest}`
    else if (isVariable) target = `${plain}${addressOf(this.#standIn('$', '', protocol))}`
    else {
      const [, port = ''] = /^(:\d+)?/.exec(rest) ?? []
      const own = this.#standIn(`${word}${port || `:${PORTS[scheme] ?? ''}`}`, word, protocol)
      const path = word.startsWith('unix:') ? rest : rest.slice(port.length)
      target = `${plain}${addressOf(own)}${path}`
    }
    return { ...directive, args: [target, ...args.slice(1)], raw: [target, ...args.slice(1)] }
  }

  #standIn(key: string, address: string, protocol: StandIn['protocol']): StandIn {
    const known = this.#standIns.get(key)
    if (known !== undefined) return known
    const number = this.#standIns.size + 1
    const at = address.startsWith('unix:')
      ? `${this.#parts.directory}/backend-${number}.sock`
      : `127.1.${Math.floor(number / 250)}.${(number % 250) + 1}:${this.#parts.backendPort}`
    const standIn = { protocol, at }
    this.#standIns.set(key, standIn)
    return standIn
  }
}

/** Nobody listens there. */
const CLOSED = '127.0.0.1:1'

function addressOf({ at }: StandIn): string {
  return at.startsWith('/') ? `unix:${at}` : at
}

function protocolOf(directive: string): StandIn['protocol'] | undefined {
  if (directive === 'proxy_pass') return 'http'
  return directive === 'fastcgi_pass' ? 'fastcgi' : undefined
}

/** By which protocol an upstream is asked. */
function isPassedAs(tree: readonly Directive[], upstream: string): StandIn['protocol'] {
  const isFastcgi = (directives: readonly Directive[]): boolean =>
    directives.some(
      ({ name, args, block = [] }) => (name === 'fastcgi_pass' && args[0] === upstream) || isFastcgi(block),
    )
  return isFastcgi(tree) ? 'fastcgi' : 'http'
}

/** One listener for all addresses of a port: which of the host's they are matters to no answer. */
function keyOf(listen: string): string {
  return `*:${/(?:^|:)(\d+)$/.exec(listen)?.[1] ?? '80'}`
}
