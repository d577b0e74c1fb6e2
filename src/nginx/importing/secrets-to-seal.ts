/**
 * Which texts have to be sealed before what was imported can be applied, by the files that hold them now: private keys, which
 * are never read, and lists of users. Pure; filled by certificates.ts and import-policies.ts.
 */

import { Names } from './names.ts'

/** What `meshctl secret set` has to be given. */
export interface SecretToSeal {
  readonly secret: string
  readonly file: string
}

export class SecretsToSeal {
  readonly #names = new Names('secret')
  readonly #byFile = new Map<string, SecretToSeal>()

  get list(): readonly SecretToSeal[] {
    return [...this.#byFile.values()]
  }

  /** The name of the secret with the file's text. */
  of(file: string, wanted: string): string {
    const known = this.#byFile.get(file) ?? { secret: this.#names.take(wanted), file }
    this.#byFile.set(file, known)
    return known.secret
  }
}
