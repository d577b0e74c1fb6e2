/**
 * What a start makes of the records in the store: which of them count, which are corrupt and come anew from peers, which
 * another key had sealed. Called by replica.ts, before anybody can write.
 */

import { admit } from './core/admission.ts'
import { toWire } from './core/codec.ts'
import { parseBody, parseEnvelope, type Envelope, type WireEnvelope } from './core/envelope.ts'
import type { MeshState } from './core/state.ts'
import { MeshError } from './errors.ts'
import type { Log } from './log.ts'
import type { Store } from './ports.ts'

interface Replaying {
  readonly store: Store
  readonly log: Log
  /** Gets what counts. */
  readonly state: MeshState
  /** The mesh that is pinned; without it the first record says which. */
  readonly meshId: string | undefined
  readonly onCorrupt: (key: string, reason: string) => void
}

interface Replayed {
  readonly meshId: string | undefined
  /** Envelopes whose ancestors are not in the store. */
  readonly waiting: readonly Envelope[]
}

/** Records written at once when a store is sealed anew: of the largest, 16 MB. */
const SEALS_AT_ONCE = 256

/** @throws MeshError `config_invalid` when the store is another mesh's. */
export async function replay(replaying: Replaying, signal: AbortSignal | undefined): Promise<Replayed> {
  const { store, state, onCorrupt } = replaying
  const { history } = state
  let { meshId } = replaying
  let waiting: Envelope[] = []
  const refused: string[] = []
  const unsealed: string[] = []
  for await (const { id, wire, sealed } of store.envelopes(({ key, reason }) => onCorrupt(key, reason))) {
    signal?.throwIfAborted()
    try {
      // A lost genesis must not cost what rests on it: this node's own seal says which mesh it was.
      const mesh = meshId ?? (sealed ? meshOf(wire) : undefined)
      const envelope = parseEnvelope(wire, mesh, { signaturesAreChecked: sealed })
      meshId ??= envelope.body.type === 'genesis' ? envelope.id : envelope.body.mesh
      if (!restore(envelope, replaying)) waiting.push(envelope)
    } catch (error) {
      // A fault of this program must not pass for a fault of the disk, and cost data.
      if (!(error instanceof MeshError)) throw error
      const storedMesh = sealed ? meshOf(wire) : undefined
      if (storedMesh !== undefined && storedMesh !== meshId) throw foreignStore(storedMesh, meshId)
      onCorrupt(id, error.message)
    }
    if (!sealed) unsealed.push(id)
    // What this node sealed itself stays, whatever is wrong with it now: another version may read it.
    if (!sealed && !history.has(id) && !waiting.some((envelope) => envelope.id === id)) refused.push(id)
  }
  await store.remove(refused)
  // An ancestor that was refilled later lies behind its descendants on disk.
  for (let before = -1; before !== waiting.length;) {
    before = waiting.length
    waiting = waiting.filter((envelope) => !restore(envelope, replaying))
  }
  await seal(unsealed, replaying)
  return { meshId, waiting }
}

/** Whether the envelope has found its place: in the state, or among what is corrupt. */
function restore(envelope: Envelope, { state, onCorrupt }: Replaying): boolean {
  const admission = admit(envelope, state.history)
  if (admission.outcome === 'refused') onCorrupt(envelope.id, admission.reason)
  if (admission.outcome === 'ready') state.add(envelope)
  return admission.outcome !== 'waiting'
}

/** After a change of the node's key: what has been checked now need not be checked at every start. Without room it waits. */
async function seal(ids: readonly string[], { store, log, state }: Replaying): Promise<void> {
  const checked = ids.map((id) => state.history.get(id)).filter((envelope) => envelope !== undefined)
  try {
    for (let start = 0; start < checked.length; start += SEALS_AT_ONCE) {
      const some = checked.slice(start, start + SEALS_AT_ONCE)
      await store.append(some.map((envelope) => ({ id: envelope.id, wire: toWire(envelope) })))
    }
  } catch (error) {
    log.warn('records that another key had sealed are checked again at the next start', { error })
  }
}

/** The mesh that an envelope names; undefined for a genesis, and for what this version cannot read. */
function meshOf({ bytes }: WireEnvelope): string | undefined {
  try {
    const body = parseBody(bytes)
    return body.type === 'genesis' ? undefined : body.mesh
  } catch {
    return undefined
  }
}

function foreignStore(stored: string, pinned: string | undefined): MeshError {
  return new MeshError('config_invalid', `the store belongs to mesh ${stored}, and mesh.id names ${pinned}`, {
    field: 'mesh.id',
    hint: 'Correct mesh.id. If the mesh was founded anew, move data_dir/store aside: nginx serves on, and the node fetches the new mesh.',
  })
}
