/**
 * The last known addresses of host names in one small file, so that they outlive the daemon. Checks what it reads, and says
 * in the log, once, what it cannot read or write; both stop nothing. What is remembered, addresses.ts decides.
 */

import { readFile, stat } from 'node:fs/promises'
import { isIP } from 'node:net'
import { z } from 'zod'
import { parseEndpoint } from '../../core/resources/fields.ts'
import { asMeshError } from '../../errors.ts'
import type { Log } from '../../log.ts'
import { ADDRESSES_PER_NAME_MAX, type AddressMemory } from './addresses.ts'
import { disk as realDisk, type Disk } from './disk.ts'

/** Names beyond this are not kept: those known for longest stay, so that many new ones push out none that serves. */
const NAMES_MAX = 4_096
/** A larger file is not one of ours. */
const FILE_MAX_BYTES = 16 * 1024 * 1024

const name = z.string().refine((text) => parseEndpoint(`${text}:1`)?.family === 0)
const address = z.string().refine((text) => isIP(text) !== 0 && !text.includes('%'))
const schema = z.strictObject({
  v: z.literal(1),
  addresses: z
    .record(name, z.array(address).min(1).max(ADDRESSES_PER_NAME_MAX))
    .refine((names) => Object.keys(names).length <= NAMES_MAX),
})

export function addressFile(path: string, log: Log, disk: Pick<Disk, 'write'> = realDisk): AddressMemory {
  let isWritable = true
  return {
    async read() {
      try {
        const file = await stat(path)
        // Reading a pipe would wait for a writer.
        if (!file.isFile() && !file.isDirectory()) throw new Error('it is no file')
        const { size } = file
        if (size > FILE_MAX_BYTES) throw new Error(`it has ${size} bytes`)
        const { addresses } = schema.parse(JSON.parse(await readFile(path, 'utf8')))
        return new Map(Object.entries(addresses))
      } catch (error) {
        const { code } = error as NodeJS.ErrnoException
        // A fault of its text has no code.
        const what = code === undefined ? 'is damaged' : `cannot be read (${code})`
        if (code !== 'ENOENT') log.warn(`${path} ${what}: no host name has a last known address`, { error })
        return new Map()
      }
    },
    async write(known) {
      const kept = [...known].slice(0, NAMES_MAX)
      const addresses = Object.fromEntries(kept.toSorted(([a], [b]) => (a < b ? -1 : 1)))
      try {
        await disk.write(path, `${JSON.stringify({ v: 1, addresses })}\n`)
        isWritable = true
        return true
      } catch (error) {
        if (isWritable) log.warn('the last known addresses could not be stored', { error: asMeshError(error) })
        isWritable = false
        return false
      }
    },
  }
}
