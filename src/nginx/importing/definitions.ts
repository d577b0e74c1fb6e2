/**
 * What nginx knows in http alone and servers use by name: maps, zones, cache paths. Those that imported sites use become
 * snippets of the zone's settings, one each; of the others it is said that nothing uses them. Pure; filled by import.ts.
 */

import type { Tree } from '../../core/resources/kind.ts'
import { MAX_TEXT_BYTES } from '../../core/resources/fields.ts'
import { judgeSnippet } from '../../core/resources/snippet.ts'
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

  constructor(findings: Findings) {
    this.#findings = findings
  }

  /** False when it is no definition, or one that no snippet can hold. */
  add(directive: Directive): boolean {
    const name = DEFINES.test(directive.name) ? definedBy(directive) : undefined
    if (name === undefined) return false
    const text = toText([directive])
    if (Buffer.byteLength(text) > MAX_TEXT_BYTES || judgeSnippet(text) !== undefined) return false
    this.#found.push({ directive, name, text })
    return true
  }

  /** Snippets by ID: of what these specs use, and of what that uses again. */
  usedBy(specs: readonly unknown[]): Tree {
    const used = new Set<Definition>()
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
      } else this.#findings.lose(directive, 'nothing that is carried uses it')
    }
    return snippets
  }
}

function uses(text: string, name: string): boolean {
  const plain = name.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&')
  if (!name.startsWith('$')) return new RegExp(`(?:zone=|_cache "?|limit_conn "?)${plain}\\b`).test(text)
  return new RegExp(`\\$\\{?${plain.slice(2)}\\b`).test(text)
}
