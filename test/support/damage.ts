/** Damage to the store of a stopped daemon, as a failing disk does it. For e2e tests. */

import { readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { sealKeyFromSeed } from '../../src/adapters/identity.ts'
import { LevelStore } from '../../src/adapters/store.ts'
import type { Member } from './fleet.ts'

export async function openAndClose({ key, dataDirectory }: Member): Promise<void> {
  const store = new LevelStore({ directory: join(dataDirectory, 'store'), sealKey: sealKeyFromSeed(key.seed) })
  await store.start()
  await store.stop()
}

/** Flips a bit wherever a file of the directory holds the text; in how many files it did. */
export async function damageFiles(directory: string, text: string): Promise<number> {
  const files = (await readdir(directory)).map((name) => join(directory, name))
  const damaged = await Promise.all(
    files.map(async (file) => {
      const content = await readFile(file)
      const at = content.indexOf(text)
      if (at === -1) return false
      content[at] = (content[at] as number) ^ 1
      await writeFile(file, content)
      return true
    }),
  )
  return damaged.filter(Boolean).length
}
