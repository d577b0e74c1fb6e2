/** Writes a file that must not be there yet, durably. Used by the verbs that hand something over in a file. */

import { open } from 'node:fs/promises'
import { MeshError } from '../errors.ts'

export interface NewFile {
  readonly path: string
  /** As the operator gave it. */
  readonly name: string
  /** The option or argument that named it. */
  readonly field: string
  /** Default: for its owner alone. */
  readonly mode?: number
}

/** @throws MeshError `conflict` when it exists, `input_invalid` when it cannot be written. */
export async function writeNewFile({ path, name, field, mode = 0o600 }: NewFile, content: string | Uint8Array) {
  try {
    const file = await open(path, 'wx', mode)
    try {
      await file.writeFile(content)
      await file.sync()
    } finally {
      await file.close()
    }
  } catch (error) {
    const isThere = (error as NodeJS.ErrnoException).code === 'EEXIST'
    throw new MeshError(
      isThere ? 'conflict' : 'input_invalid',
      isThere ? `${name} exists and is not overwritten` : `cannot write ${name}: ${(error as Error).message}`,
      { field },
      error,
    )
  }
}
