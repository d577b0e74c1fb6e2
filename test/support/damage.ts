/** Damage to the store of a stopped daemon, as a failing disk does it, or somebody who can write to it. For e2e tests. */

import { readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { sealKeyFromSeed } from '../../src/adapters/identity.ts'
import { LevelStore } from '../../src/adapters/store.ts'
import { toWire } from '../../src/core/codec.ts'
import { envelopeId, type WireEnvelope } from '../../src/core/envelope.ts'
import type { Member } from './fleet.ts'

export async function openAndClose({ key, dataDirectory }: Member): Promise<void> {
  const store = new LevelStore({ directory: join(dataDirectory, 'store'), sealKey: sealKeyFromSeed(key.seed) })
  await store.start()
  await store.stop()
}

/**
 * Appends records, whatever they say.
 * @param sealKey default: not the node's, as of somebody who has the disk and not the key.
 */
export async function writeToStore(
  member: Member,
  wires: readonly WireEnvelope[],
  sealKey: Uint8Array = Buffer.alloc(32, 1),
): Promise<void> {
  await withStore(member, sealKey, (store) =>
    store.append(wires.map((wire) => ({ id: envelopeId(wire.bytes), wire: toWire(wire) }))),
  )
}

/** Takes records away. */
export async function removeFromStore(member: Member, ids: readonly string[]): Promise<void> {
  await withStore(member, sealKeyFromSeed(member.key.seed), (store) => store.remove(ids))
}

async function withStore(
  { dataDirectory }: Member,
  sealKey: Uint8Array,
  work: (store: LevelStore) => Promise<void>,
): Promise<void> {
  const store = new LevelStore({ directory: join(dataDirectory, 'store'), sealKey })
  await store.start()
  await work(store)
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
