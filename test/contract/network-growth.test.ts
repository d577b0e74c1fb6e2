/** Pitfall 17 at the network: of peers that came and went nothing is kept, but for caches with a limit and a time of their own. */

import { createHash, randomBytes } from 'node:crypto'
import { expect, onTestFinished, test } from 'vitest'
import { systemClock } from '../../src/adapters/clock.ts'
import { Libp2pNetwork, visitPeer } from '../../src/adapters/network.ts'
import { keyPairFromSeed } from '../../src/core/envelope.ts'
import { collectionSizes, grown } from '../support/collections.ts'
import { waitFor } from '../support/wait.ts'

const MESH = createHash('sha256').update('the mesh').digest('hex')
const AT_ONCE = 5

/** Ours, bounded in number (network-parts.test.ts), and gossipsub's: messages for two minutes, what a peer is worth for an hour. */
const BOUNDED = [
  /^#conduct\.#records/,
  /^#spread\.#seen/,
  /\.#router\.(seenCache|fastMsgIdCache|mcache)\./,
  /\.#router\.score\./,
]

async function startNode(seed: Buffer): Promise<Libp2pNetwork> {
  const node = new Libp2pNetwork({
    keySeed: seed,
    networkId: 'test',
    bindAddress: '127.0.0.1',
    bindPort: 0,
    gossip: 'push',
    clock: systemClock,
    random: Math.random,
  })
  onTestFinished(() => node.stop())
  await node.start({
    allows: () => true,
    onGossip: async () => 'accept',
    onRequest: async (_from, request) => request,
    onConnected: () => undefined,
    onDisconnected: () => undefined,
    onGuest: () => async (question) => question,
  })
  node.joinMesh(MESH)
  return node
}

/** A peer that nobody has met connects, says and asks something, and goes for ever. */
async function visit(hub: Libp2pNetwork, hubKey: string): Promise<void> {
  const seed = randomBytes(32)
  const { publicKey } = keyPairFromSeed(seed)
  const guest = await startNode(seed)
  guest.setKnownPeers([{ key: hubKey, addresses: hub.addresses, listed: true }])
  await waitFor(() => guest.connected.includes(hubKey) && hub.connected.includes(publicKey), { what: 'the visit' })
  expect(await guest.request(hubKey, randomBytes(8))).toHaveLength(8)
  await guest.publish('edits', randomBytes(1000))
  await guest.publish('edits', randomBytes(20_000))
  await guest.publish('status', randomBytes(1000))
  await guest.stop()
}

/** A key that nobody has met asks something, and goes for ever. */
async function ask(hub: Libp2pNetwork, hubKey: string): Promise<void> {
  const peer = { key: hubKey, addresses: hub.addresses }
  // One address may come so often; then it has to wait.
  const guest = await waitFor(() => visitPeer({ keySeed: randomBytes(32), networkId: 'test' }, peer), {
    what: 'a guest is let in',
    everyMs: 100,
    timeoutMs: 30_000,
  })
  expect(await guest.ask(randomBytes(8))).toHaveLength(8)
  await guest.close()
}

async function visits(count: number, hub: Libp2pNetwork, hubKey: string): Promise<void> {
  for (let n = 0; n < count; n += AT_ONCE) {
    await Promise.all(Array.from({ length: AT_ONCE }, () => visit(hub, hubKey)))
    // Fewer, so that one address may come so often at once.
    for (let guest = 0; guest < 3; guest++) await ask(hub, hubKey)
  }
  await waitFor(() => hub.connected.length === 0, { what: 'the last guest to be gone' })
}

test('keeps nothing of peers that came and went', async () => {
  const seed = randomBytes(32)
  const { publicKey } = keyPairFromSeed(seed)
  const hub = await startNode(seed)
  // Known, and never there.
  hub.setKnownPeers([{ key: keyPairFromSeed(randomBytes(32)).publicKey, addresses: ['127.0.0.1:1'] }])
  await visits(20, hub, publicKey)
  const before = collectionSizes(hub)
  expect(before.get('#conduct.#records'), 'private fields are seen').toBeGreaterThanOrEqual(20)
  await visits(40, hub, publicKey)
  const keeps = (): string[] =>
    grown(before, collectionSizes(hub), 20).filter((line) => !BOUNDED.some((pattern) => pattern.test(line)))
  await waitFor(() => keeps().length === 0, { what: () => `nothing grows with peers: ${keeps().join(', ')}` })
})
