/** Pitfall 17: what a node holds follows from the edits and the nodes that there are, not from all that ever came by. */

import { expect, test } from 'vitest'
import { canonical } from '../../src/core/canonical.ts'
import { toWire } from '../../src/core/codec.ts'
import type { Envelope, KeyPair } from '../../src/core/envelope.ts'
import type { NetworkHandlers } from '../../src/ports.ts'
import { signRecord, type StatusRecord } from '../../src/status/status-record.ts'
import { keyOf } from '../support/authors.ts'
import { collectionSizes, grown } from '../support/collections.ts'
import { SimMesh, type SimMember } from '../support/sim-mesh.ts'

const AT_ONCE = 20
/** The first of the guests'; those of one visit have one each. */
const PORT = 50_000

/** Grants and revocations are edits, and edits are kept for ever; the wire is the simulation's. */
const EDITS = [/^replica\.state\./, /^#adapters\.store\./, /^sync\.#summary\./, /\.#wire\./]
/** Caches with limits of their own: see token-buckets.test.ts and network-parts.test.ts. */
const BOUNDED = [/\.#rates\.#buckets/, /\.#conduct\.#records/, /\.#spreads\.\*\.#seen/]

const guest: NetworkHandlers = {
  allows: () => true,
  onGossip: async () => 'ignore',
  onRequest: async () => new Uint8Array(),
  onConnected: () => undefined,
  onDisconnected: () => undefined,
}

/** So many new nodes, a few at a time: they are granted, connect with the host, say where they are, leave and are revoked. */
async function visits(mesh: SimMesh, host: SimMember, from: number, to: number): Promise<void> {
  for (let at = from; at < to; at += AT_ONCE) {
    const keys = Array.from({ length: AT_ONCE }, (_, n) => keyOf(`guest ${at + n}`))
    const tell = (envelopes: readonly Envelope[]) => host.up.replica.submit(envelopes.map(toWire), 'sync')
    await tell(keys.map(({ publicKey }) => mesh.founding.grant(publicKey, 'node', { name: 'guest' })))
    await visit(mesh, host, keys)
    await tell(keys.map(({ publicKey }) => mesh.founding.revoke(`key/${publicKey}`)))
  }
  // Whatever was put off is over.
  await mesh.clock.advance(3 * 60_000)
}

async function visit(mesh: SimMesh, host: SimMember, keys: readonly KeyPair[]): Promise<void> {
  const guests = keys.map(({ publicKey }, index) => mesh.wire.node({ key: publicKey, bindPort: PORT + index }))
  for (const network of guests) {
    await network.start(guest)
    network.joinMesh(mesh.founding.id)
    network.setKnownPeers([{ key: host.publicKey, addresses: [`127.0.0.1:${host.port}`] }])
  }
  await mesh.clock.until(() => guests.every(({ connected }) => connected.length > 0), 30_000, 'the visit')
  for (const [index, network] of guests.entries()) {
    const key = keys[index] as KeyPair
    const { addresses } = network
    const record: StatusRecord = { ...host.up.status.own()!, node: key.publicKey, addresses, digest: 'a'.repeat(64) }
    await network.publish('status', Buffer.from(canonical({ ...signRecord(record, key) })))
  }
  await mesh.clock.advance(1_000)
  for (const { publicKey } of keys) expect(host.up.status.known().has(publicKey)).toBe(true)
  for (const network of guests) await network.stop()
}

test('two thousand nodes come and go, and leave nothing but the edits', async () => {
  const mesh = await SimMesh.started(2, { seed: 50 })
  const host = mesh.get('n0')
  await visits(mesh, host, 0, 500)
  const before = collectionSizes(host.up)
  expect(before.get('#adapters.network.#network.#conduct.#records'), 'private fields are seen').toBeGreaterThan(400)
  await visits(mesh, host, 500, 2000)
  const kept = grown(before, collectionSizes(host.up), 100)
  expect(kept.filter((line) => ![...EDITS, ...BOUNDED].some((pattern) => pattern.test(line)))).toEqual([])
})
