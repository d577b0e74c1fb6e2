/**
 * Writes a folder of new files, all of them or none: an earlier one is never mixed with it. Used by meshctl import.
 */

import { mkdir, readdir, rename, rm, rmdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { MeshError } from '../../errors.ts'
import type { NewFile } from '../new-file.ts'

type NewFolder = Pick<NewFile, 'path' | 'name' | 'field'>

/** Hidden, so that nothing reads it that reads folders of resources. */
const STAGED = '.partial'

/** @throws MeshError `conflict` when something is there already. */
export async function refuseUsed({ path, name, field }: NewFolder): Promise<void> {
  const entries = await readdir(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return []
    throw new MeshError('input_invalid', `cannot write to ${name}: ${error.message}`, { field }, error)
  })
  const [first] = entries
  if (first === undefined) return
  const hint = 'name a folder that is new or empty'
  throw new MeshError('conflict', `${name} is not empty: it has ${first}`, { field, hint })
}

/** @param files contents by name. @throws MeshError `conflict` when something is there, `input_invalid` when it cannot be written. */
export async function writeFolder(folder: NewFolder, files: ReadonlyMap<string, string>): Promise<void> {
  const { path, name, field } = folder
  await refuseUsed(folder)
  const staged = join(path, STAGED)
  try {
    const made = await mkdir(staged, { recursive: true })
    try {
      for (const [file, content] of files) await writeFile(join(staged, file), content, { mode: 0o644, flag: 'wx' })
      for (const file of files.keys()) await rename(join(staged, file), join(path, file))
    } finally {
      await rm(staged, { recursive: true, force: true })
      // One that was made for nothing; one with files in it stays.
      if (made !== undefined) await rmdir(path).catch(() => undefined)
    }
  } catch (error) {
    if (error instanceof MeshError) throw error
    throw new MeshError('input_invalid', `cannot write to ${name}: ${(error as Error).message}`, { field }, error)
  }
}
