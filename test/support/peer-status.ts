/** Another node's word on itself, signed and told to a node of api-node.ts. */

import { systemClock } from '../../src/adapters/clock.ts'
import type { KeyPair } from '../../src/core/envelope.ts'
import { createLog } from '../../src/log.ts'
import type { OwnStatus } from '../../src/status/status.ts'
import { StatusTable } from '../../src/status/status.ts'
import type { ApiNode } from './api-node.ts'
import { MemoryStore } from './memory-store.ts'
import { MESH_ID } from './sign.ts'
import { waitFor } from './wait.ts'

/** Makes `key` speak; what it says can be changed later by calling again. */
export async function speak(node: ApiNode, key: KeyPair, says: Partial<OwnStatus>): Promise<void> {
  const store = new MemoryStore()
  await store.start()
  const known = node.status.peers().find((peer) => peer.key === key.publicKey)?.record
  await store.setMark('incarnation', String(known?.incarnation ?? 0))
  let isHeard = false
  const speaker = new StatusTable({
    key,
    store,
    clock: systemClock,
    random: () => 0.5,
    log: createLog({ level: 'ERROR', format: 'text', stream: { write: () => undefined }, now: () => 0 }),
    describe: () => ({
      mesh: MESH_ID,
      addresses: ['127.0.0.1:9102'],
      zones: ['us'],
      labels: {},
      version: '0.1.0',
      digest: '0'.repeat(64),
      receipt: null,
      health: { status: 'Running', msg: 'all is well', reasons: [] },
      ...says,
    }),
    isNode: () => true,
    granted: () => new Map(),
    connected: () => [],
    publish: async (payload) => {
      if (!isHeard) isHeard = node.status.receive(JSON.parse(Buffer.from(payload).toString())) === 'accept'
    },
  })
  await speaker.start()
  await waitFor(() => isHeard, { what: 'the status to be heard' })
}
