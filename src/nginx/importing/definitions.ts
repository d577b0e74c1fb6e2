/**
 * What nginx knows in http alone and servers use by name: maps, zones, cache paths. Those that imported sites use become
 * snippets of the zone's settings, one each; of the others it is said that nothing uses them. Pure; filled by import.ts.
 */

import type { Tree } from '../../core/resources/kind.ts'
import { snippet } from '../../core/resources/snippet.ts'
import { definedBy } from './fields.ts'
import type { Findings } from './findings.ts'
import { Names } from './names.ts'
import { toText, type Directive } from './parse.ts'

interface Definition {
  readonly directive: Directive
  /** `$pool`, or the name of a zone. */
  readonly name: string
  readonly text: string
}

/** Directives that define a name in http and need no module of their own. */
const DEFINES = /^(?:map|geo|split_clients|limit_(?:req|conn)_zone|\w+_cache_path)$/

export class Definitions {
  readonly #found: Definition[] = []
  readonly #findings: Findings
  readonly #used = new Set<Definition>()

  constructor(findings: Findings) {
    this.#findings = findings
  }

  /** False when it is no definition, or one that no snippet can hold. */
  add(directive: Directive): boolean {
    const name = DEFINES.test(directive.name) ? definedBy(directive) : undefined
    if (name === undefined) return false
    const text = toText([directive])
    if (!snippet.safeParse(text).success) return false
    this.#found.push({ directive, name, text })
    return true
  }

  /** Names of what text uses, as usedBy found last. */
  get used(): readonly string[] {
    return [...this.#used].map(({ name }) => name)
  }

  /** What a zone of limits says in fields of a policy; undefined where it counts anything else than clients. */
  zone(name: string, kind: 'limit_req_zone' | 'limit_conn_zone'): Tree | undefined {
    const found = this.#found.find((each) => each.directive.name === kind && each.name === name)
    const [key = '', ...words] = found?.directive.args ?? []
    if (!/^\$(?:binary_)?remote_addr$/.test(key)) return undefined
    const value = (word: string): string | undefined =>
      words.find((each) => each.startsWith(`${word}=`))?.slice(word.length + 1)
    const zoneSize = value('zone')
      ?.slice(name.length + 1)
      .toLowerCase()
    return { zoneSize, ...(kind === 'limit_req_zone' ? { rate: value('rate') } : {}) }
  }

  /**
   * Snippets by ID: of what these specs use, and of what that uses again.
   * @param inPolicies zones that policies have
   */
  usedBy(specs: readonly unknown[], inPolicies: readonly string[]): Tree {
    const used = this.#used
    used.clear()
    const look = (text: string): void => {
      for (const definition of this.#found) {
        if (used.has(definition) || !uses(text, definition.name)) continue
        used.add(definition)
        look(definition.text)
      }
    }
    look(specs.map((spec) => JSON.stringify((spec as Tree)['privileged'] ?? '')).join('\n'))
    const ids = new Names('definition')
    const snippets: Tree = {}
    for (const definition of this.#found) {
      const { directive, name, text } = definition
      if (used.has(definition)) {
        snippets[ids.take(name)] = text
        this.#findings.keep(directive, 'a snippet of the zone settings, for all sites of the zone')
      } else if (!inPolicies.includes(name)) this.#findings.lose(directive, 'nothing that is carried uses it')
    }
    return snippets
  }
}

function uses(text: string, name: string): boolean {
  const plain = name.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&')
  if (!name.startsWith('$')) return new RegExp(`(?:zone=|_cache "?|limit_conn "?)${plain}\\b`).test(text)
  return new RegExp(`\\$\\{?${plain.slice(2)}\\b`).test(text)
}
