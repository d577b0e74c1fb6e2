/** Names of resources and ids of routes, made from what stands in a configuration; each given once. Pure. */

import { isName } from '../../core/names.ts'

export class Names {
  readonly #taken = new Set<string>()
  readonly #fallback: string

  /** @param fallback for what has no letter or digit */
  constructor(fallback: string) {
    this.#fallback = fallback
  }

  /** `/api/v1/` gives `api-v1`, and `api-v1-2` the second time. */
  take(text: string): string {
    const slug = text
      .toLowerCase()
      .replace(/[^a-z0-9]+/g, '-')
      .slice(0, 56)
      .replace(/^-+|-+$/g, '')
    const base = isName(slug) ? slug : this.#fallback
    let name = base
    for (let count = 2; this.#taken.has(name); count += 1) name = `${base}-${count}`
    this.#taken.add(name)
    return name
  }
}
