/**
 * Changes in Automerge's own format that no honest author makes: a few bytes which unpack to millions of operations, and one at
 * the end of all counters. For tests that nothing from outside ever reaches Automerge.
 */

import { createHash } from 'node:crypto'
import * as Automerge from '@automerge/automerge'

/** A change of about a hundred bytes that says `count` times: set `a` to null. Decoding it makes an object of each. */
export function expandingChange(count: number): Uint8Array {
  const action = [...signed(count), 1]
  const columns: readonly [specification: number, data: readonly number[]][] = [
    [0x15, [...signed(count), 1, 'a'.charCodeAt(0)]],
    [0x34, unsigned(count)],
    [0x42, action],
    [0x56, [...signed(count), 0]],
    [0x70, [...signed(count), 0]],
  ]
  const actor = Array.from({ length: 16 }, () => 7)
  const head = [0, actor.length, ...actor, 1, 1, 0, 0, 0]
  const metadata = columns.flatMap(([specification, data]) => [...unsigned(specification), ...unsigned(data.length)])
  const body = [...head, columns.length, ...metadata, ...columns.flatMap(([, data]) => data)]
  const chunk = Buffer.from([1, ...unsigned(body.length), ...body])
  const checksum = createHash('sha256').update(chunk).digest().subarray(0, 4)
  return Buffer.concat([Buffer.from('856f4a83', 'hex'), checksum, chunk])
}

/** A change that applies, and after which the document can be saved but not loaded again. */
export function lastCounterChange(): Uint8Array {
  return Automerge.encodeChange({
    actor: '07'.repeat(16),
    author: null,
    seq: 1,
    startOp: 2 ** 31 - 1,
    time: 0,
    message: null,
    deps: [],
    ops: [{ action: 'set', obj: '_root', key: 'a', value: 'b', pred: [] }],
  })
}

/** LEB128. */
function unsigned(value: number): number[] {
  const low = value % 128
  return value < 128 ? [low] : [low + 128, ...unsigned(Math.floor(value / 128))]
}

/** Signed LEB128 of a number that is not negative. */
function signed(value: number): number[] {
  const low = value % 128
  return value < 64 ? [low] : [low + 128, ...signed(Math.floor(value / 128))]
}
