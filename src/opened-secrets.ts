/**
 * The texts of the secrets that this node can open, for rendering. Opens each version once: what has not changed since the
 * last slice costs nothing. Keeps texts in memory alone and tells nobody else. Called by the composition root.
 */

import { Memo } from './core/memo.ts'
import { escapeSegment } from './core/names.ts'
import type { SecretSpec } from './core/resources/secret.ts'
import { KEYS_PREFIX, open, SEALED_FIELD, type EncryptionKey } from './core/secrets.ts'
import { isSecret, type Slice, type SliceResource } from './core/slice.ts'
import { MeshError } from './errors.ts'

export class OpenedSecrets {
  readonly #key: EncryptionKey
  readonly #remembered = new Memo<{ readonly text: string | undefined }>()

  constructor(key: EncryptionKey) {
    this.#key = key
  }

  /** By path. A secret that is not sealed for this node, was tampered with or is no UTF-8 is not there. */
  of({ resources }: Slice): ReadonlyMap<string, string> {
    this.#remembered.turn()
    const texts = new Map<string, string>()
    for (const secret of resources.filter(isSecret)) {
      const key = `${secret.path} ${secret.hash}`
      const { text } = this.#remembered.get(key, () => ({ text: textOf(secret, this.#key) }))
      if (text !== undefined) texts.set(secret.path, text)
    }
    return texts
  }
}

function textOf({ path, spec }: SliceResource<SecretSpec>, key: EncryptionKey): string | undefined {
  const keys = Object.entries(spec.keys).flatMap(([version, wrapped]) =>
    Object.entries(wrapped).map(([recipient, text]): [string, string] => [
      `${KEYS_PREFIX}${escapeSegment(version)}/${escapeSegment(recipient)}`,
      text,
    ]),
  )
  try {
    const bytes = open(new Map<string, string | string[]>([[SEALED_FIELD, spec.sealed], ...keys]), path, key)
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
  } catch (error) {
    if (error instanceof MeshError || error instanceof TypeError) return undefined
    throw error
  }
}
