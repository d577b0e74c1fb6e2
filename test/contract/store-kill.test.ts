/**
 * The store under `kill -9`: a process appends and reports what was acknowledged, is killed at a random moment, and
 * every acknowledged envelope must be there afterwards, every batch whole or absent.
 */

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { LevelStore } from '../../src/adapters/store.ts'
import { BATCH_SIZE, numberedBatch } from '../support/numbered-envelopes.ts'

const ROUNDS = 10
const SEAL_KEY = '5a'.repeat(32)

test(`loses nothing that it acknowledged over ${ROUNDS} kills`, { timeout: 60_000 }, async () => {
  const seed = Number(process.env['SEED'] ?? Math.trunc(Math.random() * 2 ** 31))
  process.stdout.write(`store-kill: SEED=${seed}\n`)
  const random = seededRandom(seed)
  const directory = mkdtempSync(join(tmpdir(), 'nxmesh-store-kill-'))
  const acknowledged = new Set<number>()
  let from = 0
  try {
    for (let round = 0; round < ROUNDS; round += 1) {
      const before = acknowledged.size
      for (const batch of await writeUntilKilled(directory, from, random() * 150)) acknowledged.add(batch)
      expect(acknowledged.size, `round ${round} wrote nothing`).toBeGreaterThan(before)
      from = await check(directory, acknowledged, `round ${round} of seed ${seed}`)
    }
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
  process.stdout.write(
    `store-kill: ${acknowledged.size * BATCH_SIZE} acknowledged envelopes survived ${ROUNDS} kills\n`,
  )
})

/** The batches that a writer acknowledged before it was killed, `afterMs` after the first. */
async function writeUntilKilled(directory: string, from: number, afterMs: number): Promise<number[]> {
  const script = join(import.meta.dirname, '../support/store-writer.ts')
  const child = spawn(process.execPath, [script, directory, SEAL_KEY, String(from)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  let output = ''
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => (output += chunk))
  const closed = once(child, 'close')
  await Promise.race([once(child.stdout, 'data'), closed])
  await Promise.race([delay(afterMs), closed])
  child.kill('SIGKILL')
  await closed
  return output.split('\n').slice(0, -1).map(Number)
}

/** Checks the content; returns a batch number beyond all that are stored. */
async function check(directory: string, acknowledged: ReadonlySet<number>, where: string): Promise<number> {
  const store = new LevelStore({ directory, sealKey: Buffer.from(SEAL_KEY, 'hex') })
  await store.start()
  const stored = new Map<number, number>()
  let order = 0
  for await (const { id, wire, sealed } of store.envelopes((record) => expect.fail(`${where}: ${record.reason}`))) {
    const { batch, index } = JSON.parse(wire.bytes) as { batch: number; index: number }
    expect(numberedBatch(batch)[index]?.id).toBe(id)
    expect(sealed).toBe(true)
    expect(index, `${where}: order inside batch ${batch}`).toBe(order++ % BATCH_SIZE)
    stored.set(batch, (stored.get(batch) ?? 0) + 1)
  }
  await store.stop()
  for (const [batch, count] of stored) expect(count, `${where}: batch ${batch} is torn`).toBe(BATCH_SIZE)
  for (const batch of acknowledged) expect(stored.has(batch), `${where}: batch ${batch} is lost`).toBe(true)
  return Math.max(-1, ...stored.keys()) + 1
}

/** mulberry32: small, and the same on every machine. */
function seededRandom(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}
