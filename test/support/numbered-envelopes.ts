/** Envelopes made from a number alone, so that two processes agree on them without talking. For tests of the store. */

import { envelopeId, type WireEnvelope } from '../../src/core/envelope.ts'

export const BATCH_SIZE = 7

/** The batch of that number: as many envelopes as BATCH_SIZE, from a few bytes to some kilobytes. */
export function numberedBatch(batch: number): { readonly id: string; readonly wire: WireEnvelope }[] {
  return Array.from({ length: BATCH_SIZE }, (_, index) => {
    const bytes = JSON.stringify({ batch, index, pad: 'x'.repeat((batch * 7919 + index * 104729) % 3000) })
    return { id: envelopeId(bytes), wire: { bytes, sigs: { ['0'.repeat(64)]: '0'.repeat(128) } } }
  })
}
