/** Signed envelopes for tests, beside those of the founding: edits by the owner of the test mesh. */

import { toWire } from '../../src/core/codec.ts'
import {
  signEnvelope,
  type EditBody,
  type Envelope,
  type KeyPair,
  type ResourceEdit,
  type WireEnvelope,
} from '../../src/core/envelope.ts'
import { FOUNDING, KEYS } from './api-node.ts'

export const MESH_ID: string = (FOUNDING[0] as Envelope).id
export const OWNER_GRANT: string = (FOUNDING[1] as Envelope).id

/** A chain of edits in workspace `default`; each call continues it. */
export function editor(key: KeyPair = KEYS.owner, grant: string = OWNER_GRANT) {
  let previous: Envelope<EditBody> | undefined
  return (edits: readonly ResourceEdit[], note = ''): Envelope<EditBody> => {
    previous = signEnvelope<EditBody>(
      {
        v: 1,
        type: 'edit',
        mesh: MESH_ID,
        ws: 'default',
        by: key.publicKey,
        grant,
        n: (previous?.body.n ?? 0) + 1,
        prev: previous === undefined ? [] : [previous.id],
        at: 1_700_000_000_000,
        note,
        edits,
      },
      [key],
    )
    return previous
  }
}

export function submission(...envelopes: readonly WireEnvelope[]): string {
  return JSON.stringify({ envelopes: envelopes.map(toWire) })
}
