/**
 * The other nodes' records on disk, so that a restart knows whom to dial: lists in marks of the store, each for the nodes
 * whose keys begin alike, so that a change rewrites a few records and not all. Checks no signature. Called by status.ts.
 */

import { canonical } from '../core/canonical.ts'
import { MAX_MARK_BYTES, type PeerKey, type Store } from '../ports.ts'
import { asSigned, type SignedStatus } from './status-record.ts'

/** Digits of a key that name its shard. With 256 shards 10,000 nodes fill a mark of 1 MiB when each record has 25 KiB. */
const SHARD_DIGITS = 2
const SHARDS = Array.from({ length: 16 ** SHARD_DIGITS }, (_, n) => n.toString(16).padStart(SHARD_DIGITS, '0'))
/** Marks under way at once: at most so many MiB wait for the disk. */
const WRITES_AT_ONCE = 16

/** Which shard a node's record is in. */
export function shardOf(key: PeerKey): string {
  return key.slice(0, SHARD_DIGITS)
}

/** All saved records. What is damaged is left out: they are a convenience. */
export async function loadPeers(store: Store): Promise<SignedStatus[]> {
  const lists = await Promise.all(SHARDS.map((shard) => store.getMark(markOf(shard))))
  return lists.flatMap(parseList)
}

/**
 * Writes shards anew. Of one that is larger than a mark the first records are kept.
 * @param records those of each shard, the most useful first.
 * @returns the number of records that were left out.
 * @throws MeshError `store_unwritable`; some shards may have been written.
 */
export async function savePeers(store: Store, records: ReadonlyMap<string, readonly SignedStatus[]>): Promise<number> {
  const shards = [...records]
  let left = 0
  for (let start = 0; start < shards.length; start += WRITES_AT_ONCE) {
    await Promise.all(
      shards.slice(start, start + WRITES_AT_ONCE).map(async ([shard, list]) => {
        const fitting = fit(list)
        left += list.length - fitting.length
        await store.setMark(markOf(shard), `[${fitting.join()}]`)
      }),
    )
  }
  return left
}

/** As texts, as many as a mark holds. */
function fit(list: readonly SignedStatus[]): string[] {
  const texts = list.map(({ bytes, sig }) => canonical({ bytes, sig }))
  let size = 1
  const end = texts.findIndex((text) => (size += Buffer.byteLength(text) + 1) > MAX_MARK_BYTES)
  return end === -1 ? texts : texts.slice(0, end)
}

function markOf(shard: string): string {
  return `peers/${shard}`
}

function parseList(text: string | undefined): SignedStatus[] {
  try {
    const list = JSON.parse(text ?? '[]') as unknown
    return Array.isArray(list) ? list.map(asSigned).filter((signed) => signed !== undefined) : []
  } catch {
    return []
  }
}
