/**
 * Requests that tell whether two configurations answer alike: for every server and every location at least one, with what
 * a prefix, a regular expression and a file ask for. Pure; called by meshctl import.
 */

import { matchOf } from './location-match.ts'
import type { Directive } from './parse.ts'

export interface Probe {
  /** As in Sandbox.listeners. */
  readonly listener: string
  readonly method: 'GET' | 'HEAD' | 'POST'
  readonly host: string
  readonly path: string
  /** Asks for another protocol, as a websocket does. */
  readonly upgrades: boolean
}

/** Of one import. What is beyond is not asked, and said to be so. */
const PROBES_MAX = 2000
/** Of a server: what is asked by other methods, and for another protocol, too. */
const OTHER_METHODS_PATHS = 5

/**
 * The first of each server, then the second of each, and so on until there are enough.
 * @param http as Sandbox.template gives it
 * @param filesBelow a few paths of files below a directory, relative
 */
export function probesFor(http: readonly Directive[], filesBelow: (root: string) => readonly string[]) {
  const files = new Map<string, readonly string[]>()
  const found = (root: string): readonly string[] => {
    const known = files.get(root) ?? filesBelow(root).map((file) => encodeURI(`/${file}`))
    files.set(root, known)
    return known
  }
  const outer = http.filter(({ name }) => name === 'root')
  const servers = http.filter(({ name }) => name === 'server')
  const lists = servers.map(({ block = [] }) => [...probesOf(block, rootsOf([...outer, ...block]).flatMap(found))])
  const longest = lists.reduce((most, { length }) => Math.max(most, length), 0)
  const rounds = Array.from({ length: longest }, (_, index) => lists.flatMap((list) => list[index] ?? []))
  const all = new Map(rounds.flat().map((probe) => [JSON.stringify(Object.values(probe)), probe]))
  const probes: readonly Probe[] = [...all.values()].slice(0, PROBES_MAX)
  return { probes, unasked: all.size - probes.length }
}

function* probesOf(block: readonly Directive[], files: readonly string[]): Generator<Probe> {
  const listeners = block.filter(({ name }) => name === 'listen').map(({ args }) => args[0] ?? '')
  const [first = 'unknown.invalid', ...others] = hostsOf(block)
  const paths = [...pathsOf(block), ...files]
  for (const listener of listeners) {
    const probe = { listener, method: 'GET', host: first, upgrades: false } as const
    for (const path of paths) yield { ...probe, path }
    for (const path of paths.slice(0, OTHER_METHODS_PATHS)) {
      yield { ...probe, path, method: 'POST' }
      yield { ...probe, path, method: 'HEAD' }
      yield { ...probe, path, upgrades: true }
    }
    for (const host of [...others, 'unknown.invalid']) yield { ...probe, host, path: paths[0] ?? '/' }
  }
}

function hostsOf(block: readonly Directive[]): string[] {
  return block
    .filter(({ name }) => name === 'server_name')
    .flatMap(({ args }) => args)
    .flatMap((name): string[] => {
      if (/^(?:~.*|_|"|-|\$\w+|)$/.test(name)) return []
      return name.startsWith('.') ? [name.slice(1), `probe${name}`] : [name.replaceAll('*', 'probe')]
    })
}

function pathsOf(block: readonly Directive[]): string[] {
  const paths = ['/', '/nothing/here', '/nothing/here?a=b%20c', '/a%2Fb%20c']
  for (const { name, args, block: inner = [] } of block) {
    if (name === 'location') {
      const { modifier, path } = matchOf({ name, args, raw: args, file: '', line: 1 })
      if (path.startsWith('@')) continue
      if (modifier.startsWith('~')) paths.push(...sampleOf(path, modifier === '~*').map(encodeURI))
      else if (modifier === '=') paths.push(encodeURI(path), `${encodeURI(path)}?a=b`, `${encodeURI(path)}/x`)
      else paths.push(encodeURI(path), `${encodeURI(path)}x`, `${encodeURI(path.replace(/\/$/, ''))}/a/b.txt?c=d`)
      paths.push(...pathsOf(inner).slice(4))
    }
    if (name === 'rewrite' || name === 'if')
      paths.push(...args.filter((arg) => /^[\^/]/.test(arg)).flatMap((arg) => sampleOf(arg, false).map(encodeURI)))
  }
  return [...new Set(paths)].filter((path) => path.startsWith('/'))
}

function rootsOf(block: readonly Directive[]): string[] {
  const own = block.filter(({ name }) => name === 'root').map(({ args }) => args[0] ?? '')
  const inner = block.filter(({ name }) => name === 'location').flatMap(({ block: each = [] }) => rootsOf(each))
  return [...new Set([...own, ...inner])].filter((root) => root.startsWith('/') && !root.includes('$'))
}

// ---------------------------------------------------------------------------------------------- regular expressions

/** A path that the expression matches; none where none was found. */
export function sampleOf(pattern: string, ignoresCase: boolean): string[] {
  const sample = new Sampler(pattern).alternatives()
  const candidates = [sample, `/${sample}`, `/x${sample}`, `/x/${sample}`].filter((path) => path.startsWith('/'))
  try {
    const regex = new RegExp(pattern, ignoresCase ? 'i' : '')
    return candidates.filter((path) => regex.test(path)).slice(0, 1)
  } catch {
    return []
  }
}

/** Reads an expression and takes the first way through it. */
class Sampler {
  readonly #pattern: string
  #at = 0

  constructor(pattern: string) {
    this.#pattern = pattern
  }

  alternatives(): string {
    let first: string | undefined
    for (;;) {
      const text = this.#sequence()
      first ??= text
      if (this.#pattern[this.#at] !== '|') return first
      this.#at += 1
    }
  }

  #sequence(): string {
    let text = ''
    while (this.#at < this.#pattern.length && !/[|)]/.test(this.#pattern.charAt(this.#at))) text += this.#repeated()
    return text
  }

  #repeated(): string {
    const atom = this.#atom()
    const [repeat, least] = /^(?:[*+?]|\{(\d+)(?:,\d*)?\})[?+]?/.exec(this.#pattern.slice(this.#at)) ?? ['']
    this.#at += repeat.length
    return atom.repeat(least === undefined ? 1 : Math.min(Number(least), 64))
  }

  #atom(): string {
    const rest = this.#pattern.slice(this.#at)
    const [token = ''] = /^(?:\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?(?:[:=!]|<[=!]|P?<\w+>)|.)/s.exec(rest) ?? []
    this.#at += token.length
    if (token.startsWith('(')) {
      const inner = this.alternatives()
      this.#at += 1
      return /^\(\?<?!/.test(token) || /^\(\?<?=/.test(token) ? '' : inner
    }
    if (token.startsWith('[')) return oneOf(token)
    if (token === '^' || token === '$') return ''
    if (token === '.') return 'x'
    if (!token.startsWith('\\')) return token
    return ESCAPES[token] ?? token.slice(1)
  }
}
const ESCAPES: Readonly<Record<string, string>> = {
  '\\d': '1',
  '\\w': 'a',
  '\\s': ' ',
  '\\D': 'a',
  '\\S': 'a',
  '\\b': '',
  '\\z': '',
}

/** A character of a class. */
function oneOf(token: string): string {
  try {
    const regex = new RegExp(`^${token}$`)
    return 'a1/xA-_.=%0Z~'.split('').find((character) => regex.test(character)) ?? 'a'
  } catch {
    return 'a'
  }
}
