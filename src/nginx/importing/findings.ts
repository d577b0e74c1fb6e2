/**
 * What an import has to say beside its resources: what it kept as nginx text, what it could not carry, what answers
 * otherwise than before. Pure; filled by the importer, printed by meshctl.
 */

import { definedBy, PASSED_TO, PASSES } from './fields.ts'
import { parse, type Directive } from './parse.ts'

export interface Finding {
  /** `/etc/nginx/nginx.conf:12` */
  readonly place: string
  /** The directive with its first words. */
  readonly what: string
  readonly why: string
}

export class Findings {
  /** Carried, as privileged snippets. */
  readonly kept: Finding[] = []
  /** Not carried. */
  readonly lost: Finding[] = []
  /** What a name stood for that is not carried: `$backend_pool`, `zone one`. */
  readonly #gone = new Set<string>()
  /** Of each list, what it has by place and directive: thousands of servers have tens of thousands. */
  readonly #known = { kept: new Set<string>(), lost: new Set<string>() }

  /** Once, however many locations take it over. */
  keep(directive: Directive, why: string): void {
    this.#add('kept', finding(directive, why))
  }

  lose(directive: Directive, why: string): void {
    this.#add('lost', finding(directive, why))
  }

  #add(list: 'kept' | 'lost', found: Finding): void {
    const key = `${found.place} ${found.what}`
    if (!this.#known[list].has(key)) this[list].push(found)
    this.#known[list].add(key)
  }

  /** An upstream: with it goes what passes requests to it. */
  loseUpstream(upstream: Directive, why: string): void {
    this.lose(upstream, why)
    this.#gone.add(`upstream ${upstream.args[0]}`)
  }

  /** A directive that may stand in http alone: with it goes what uses its name. */
  loseDefinition(directive: Directive): void {
    this.lose(directive, 'no kind has a place for it')
    const name = definedBy(directive)
    if (name !== undefined) this.#gone.add(name.startsWith('$') ? name : `zone ${name}`)
  }

  /**
   * The directives without those that use a name that is gone, which are lost too. Where requests were passed on, 502 is
   * answered: without it nginx would serve the file, and that may be a program's text.
   */
  surviving(directives: readonly Directive[]): Directive[] {
    return directives.flatMap((directive): Directive[] => {
      const gone = this.#goneIn(directive)
      if (gone !== undefined) {
        this.lose(directive, `it uses ${gone}, which is not carried`)
        return PASSES.test(directive.name) ? parse('return 502;', directive.file) : []
      }
      const { block } = directive
      return [block === undefined ? directive : { ...directive, block: this.surviving(block) }]
    })
  }

  /** The name in the directive's own words that is gone. */
  #goneIn({ name, args }: Directive): string | undefined {
    const variables = args.flatMap((arg) => [...arg.matchAll(/\$\{?(\w+)/g)].map(([, variable]) => `$${variable}`))
    const zones = /^(?:limit_(?:req|conn)|\w+_cache)$/.test(name)
      ? args.map((arg) => `zone ${arg.replace(/^zone=/, '')}`)
      : []
    const [, , word] = (PASSES.test(name) && PASSED_TO.exec(args[0] ?? '')) || []
    return [...variables, ...zones, `upstream ${word}`].find((used) => this.#gone.has(used))
  }
}

function finding({ name, raw, block, file, line }: Directive, why: string): Finding {
  const words = [name, ...raw].join(' ').replace(/\s+/g, ' ')
  const what = words.length > 100 ? `${words.slice(0, 97)}...` : words
  return { place: `${file}:${line}`, what: block === undefined ? what : `${what} {}`, why }
}
