/**
 * A process that appends to a store without pause and prints the number of each envelope once it is acknowledged.
 * test/contract/store-kill.test.ts starts it and kills it: `store-writer.ts <directory> <seal key, hex> <from>`.
 */

import { writeSync } from 'node:fs'
import { LevelStore } from '../../src/adapters/store.ts'
import { numberedBatch } from './numbered-envelopes.ts'

const [directory, sealKey, from] = process.argv.slice(2) as [string, string, string]
const store = new LevelStore({ directory, sealKey: Buffer.from(sealKey, 'hex') })
await store.start()
// Several writers at once, so that group commit is under test too. A synchronous write: what was printed was acknowledged.
let batch = Number(from)
const writer = async (): Promise<never> => {
  for (;;) {
    const mine = batch++
    await store.append(numberedBatch(mine))
    writeSync(1, `${mine}\n`)
  }
}
await Promise.all([writer(), writer(), writer()])
