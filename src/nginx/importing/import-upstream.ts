/**
 * Upstream blocks, and what is proxied to without one, as Upstream resources; and which resource a name in `proxy_pass` and
 * its like now means. Pure; called by import.ts and by the parts of it that read servers.
 */

import { parseEndpoint } from '../../core/resources/fields.ts'
import type { Tree } from '../../core/resources/kind.ts'
import { plain } from '../rendering/quote.ts'
import { upstreamBlockName } from '../rendering/render-upstream.ts'
import { faultOfSpec } from './faults.ts'
import { ENDPOINT_RULES, PASSED_TO, PASSES, put, UPSTREAM_RULES } from './fields.ts'
import type { Findings } from './findings.ts'
import type { Names } from './names.ts'
import { parse, type Directive } from './parse.ts'

export interface Place {
  readonly workspace: string
  readonly zone: string
}

const PORTS: Readonly<Record<string, number>> = { http: 80, https: 443 }

export class Upstreams {
  readonly #names: Names
  /** Resource names by what stands in the configuration. */
  readonly #byWord = new Map<string, string>()
  /** Addresses of upstreams with one socket, which no endpoint can be. */
  readonly #sockets = new Map<string, string>()
  readonly #lost = new Set<string>()
  readonly #specs = new Map<string, Tree>()
  readonly #findings: Findings
  readonly #place: Place

  /** @param names of all upstreams of the place */
  constructor(findings: Findings, place: Place, names: Names) {
    this.#names = names
    this.#findings = findings
    this.#place = place
  }

  /** Specs by resource name. */
  get specs(): ReadonlyMap<string, Tree> {
    return this.#specs
  }

  /** One that cannot be carried is lost, and with it what passes requests to it. */
  add(upstream: Directive): void {
    const [word = ''] = upstream.args
    const spec: Tree = { endpoints: {} }
    const [first, ...more] = (upstream.block ?? []).filter(({ name }) => name === 'server')
    if (first?.args[0]?.startsWith('unix:') === true && more.length === 0) {
      this.#sockets.set(word, first.args[0])
      this.#findings.keep(upstream, 'what passes to it names its socket now')
      return
    }
    for (const directive of upstream.block ?? []) {
      if (directive.name === 'server') {
        if (this.#addEndpoint(spec['endpoints'] as Tree, directive)) continue
        this.lose(upstream, `its server ${directive.args[0]} is no address, or name, with a port`)
        return
      }
      if (directive.name === 'zone') continue
      this.#addField(spec, directive)
    }
    const keepalive = spec['keepalive'] as Tree | undefined
    if (keepalive !== undefined && keepalive['connections'] === undefined) delete spec['keepalive']
    this.#put(word, spec)
  }

  /** One that cannot be carried, whatever its name looks like. */
  lose(upstream: Directive, why: string): void {
    this.#lost.add(upstream.args[0] ?? '')
    this.#findings.loseUpstream(upstream, why)
  }

  #addEndpoint(endpoints: Tree, directive: Directive): boolean {
    const key = withPort(directive.args[0] ?? '', 80)
    const endpoint = key === undefined ? undefined : endpointOf(directive, this.#findings)
    if (key === undefined || endpoint === undefined) return false
    endpoints[key] = endpoint
    return true
  }

  /** What the field cannot hold is left out, and not the upstream for it: sites refer to that. */
  #addField(spec: Tree, directive: Directive): void {
    const { name, args } = directive
    const trial = structuredClone(spec)
    if (name === 'hash')
      Object.assign(trial, { method: 'hash', hashKey: args[0] }, args[1] === 'consistent' ? { consistent: true } : {})
    else {
      const rule = Object.hasOwn(UPSTREAM_RULES, name) ? UPSTREAM_RULES[name] : undefined
      const value = rule?.value(args)
      if (rule === undefined || value === undefined) {
        this.#findings.lose(directive, 'an Upstream has no field for it')
        return
      }
      put(trial, rule.field, value)
    }
    // How many connections are kept may be said later.
    const fault = faultOf({ ...trial, keepalive: { connections: 1, ...(trial['keepalive'] as Tree | undefined) } })
    if (fault === undefined) Object.assign(spec, trial)
    else this.#findings.lose(directive, fault)
  }

  #put(word: string, spec: Tree): string {
    const name = this.#names.take(word)
    this.#byWord.set(word, name)
    this.#specs.set(name, spec)
    return name
  }

  /** The Upstream that `http://word` passes to; made where the configuration names an address alone. */
  reference(scheme: string, word: string): string | undefined {
    const known = this.#byWord.get(word)
    if (known !== undefined) return known
    const key = withPort(word, PORTS[scheme] ?? 80)
    // A name without a port and a dot is that of an upstream which is not carried.
    if (
      this.#lost.has(word) ||
      this.#sockets.has(word) ||
      key === undefined ||
      (key !== word && !/[.:]/.test(word) && word !== 'localhost')
    )
      return undefined
    return this.#byWord.get(key) ?? this.#put(key, { endpoints: { [key]: {} } })
  }

  /**
   * The directives with the names that NxMesh gives to the blocks of its upstreams.
   * @param isSaid whether a level around says what becomes of redirects
   */
  renamed(directives: readonly Directive[], isSaid = false): Directive[] {
    const pass = directives.find(({ name }) => name === 'proxy_pass')
    const [, scheme = '', passed = '', uri = ''] = PASSED_TO.exec(pass?.args[0] ?? '') ?? []
    const isRenamed = this.#placeOf(passed) !== undefined
    const host = isRenamed ? passed : '$proxy_host'
    const saysRedirects = isSaid || directives.some(({ name }) => name === 'proxy_redirect')
    const isAskedByName = directives.some(({ name, args }) => name === 'proxy_set_header' && args[1] === '$proxy_host')
    // By default nginx goes by the name of the block, which the upstream does not know.
    const back =
      isRenamed && isAskedByName && uri === '' && !saysRedirects
        ? parse(`proxy_redirect ${plain(`${scheme}${passed}/`)} /;`, pass?.file ?? '')
        : []
    const renamed = directives.map((directive): Directive => {
      const { name, args, raw, block } = directive
      if (block !== undefined) return { ...directive, block: this.renamed(block, saysRedirects) }
      // The variable would say the new name.
      if (name === 'proxy_set_header')
        return { ...directive, raw: raw.map((word) => word.replace('$proxy_host', host)) }
      const [, own = '', word = '', rest = ''] = PASSED_TO.exec(args[0] ?? '') ?? []
      const place = PASSES.test(name) ? this.#placeOf(word) : undefined
      if (place === undefined) return directive
      const target = `${own}${place}${place.startsWith('unix:') && rest !== '' ? ':' : ''}${rest}`
      return { ...directive, args: [target, ...args.slice(1)], raw: [target, ...raw.slice(1)] }
    })
    return [...renamed, ...back]
  }

  #placeOf(word: string): string | undefined {
    const name = this.#byWord.get(word)
    if (name === undefined) return this.#sockets.get(word)
    return upstreamBlockName({ ...this.#place, kind: 'upstream', name })
  }
}

/** The fields of an endpoint that a `server` says; undefined when it is no address, or name, that may have a port. */
export function endpointOf({ args, ...directive }: Directive, findings: Findings): Tree | undefined {
  const [address = '', ...parameters] = args
  if (withPort(address, 80) === undefined) return undefined
  const endpoint: Tree = {}
  for (const parameter of parameters) {
    const [name = '', ...rest] = parameter.split('=')
    const rule = Object.hasOwn(ENDPOINT_RULES, name) ? ENDPOINT_RULES[name] : undefined
    const value = rule?.value(rest)
    const trial = structuredClone(endpoint)
    if (rule !== undefined && value !== undefined) put(trial, rule.field, value)
    const isUnfit =
      rule === undefined || value === undefined || faultOf({ endpoints: { '127.0.0.1:80': trial } }) !== undefined
    if (isUnfit) findings.lose({ ...directive, args }, `an endpoint has no field for ${parameter}`)
    else Object.assign(endpoint, trial)
  }
  return endpoint
}

function faultOf(spec: Tree): string | undefined {
  return faultOfSpec('Upstream', spec)
}

function withPort(address: string, port: number): string | undefined {
  if (parseEndpoint(address) !== undefined) return address
  const key = `${address}:${port}`
  return parseEndpoint(key) === undefined ? undefined : key
}
