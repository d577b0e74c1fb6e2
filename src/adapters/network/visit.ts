/**
 * A visit: the guest's end of the join protocol, over a libp2p host of its own that listens to nobody and ends with the visit.
 * Needs no running network. Used by network.ts, and by mesh-node before there is a node.
 */

import { MeshError } from '../../errors.ts'
import { type KnownPeer, MAX_MESSAGE_BYTES, type Visit } from '../../ports.ts'
import { multiaddrOf, peerIdOf } from './addresses.ts'
import { FrameStream } from './frames.ts'
import { createGuestHost } from './host.ts'

const DIAL_TIMEOUT_MS = 10_000
const ANSWER_TIMEOUT_MS = 10_000

/** @throws MeshError `unavailable` when the peer cannot be reached, has another key, or receives no guests. */
export async function visit(
  keySeed: Uint8Array,
  protocol: string,
  peer: KnownPeer,
  signal?: AbortSignal,
): Promise<Visit> {
  const host = await createGuestHost(keySeed)
  let waiting: PromiseWithResolvers<Uint8Array> | undefined
  const fail = (reason: string): void => {
    waiting?.reject(new MeshError('unavailable', `peer ${peer.key} ended the visit: ${reason}`))
    waiting = undefined
  }
  try {
    const limit = AbortSignal.any([AbortSignal.timeout(DIAL_TIMEOUT_MS), ...(signal === undefined ? [] : [signal])])
    // The key is pinned: Noise fails with any other.
    const identity = `/p2p/${peerIdOf(peer.key).toString()}`
    const targets = peer.addresses.map((address) => multiaddrOf(address).encapsulate(identity))
    const connection = await host.dial(targets, { signal: limit })
    const stream = new FrameStream(await connection.newStream(protocol, { signal: limit }), MAX_MESSAGE_BYTES, {
      onFrame: (answer) => {
        waiting?.resolve(answer)
        waiting = undefined
      },
      onEnd: ({ reason }) => fail(reason),
    })
    return {
      ask: async (question) => {
        waiting = Promise.withResolvers<Uint8Array>()
        const { promise } = waiting
        const timeout = setTimeout(() => fail('no answer in time'), ANSWER_TIMEOUT_MS)
        if (!stream.offer(question)) fail('closed')
        return await promise.finally(() => clearTimeout(timeout))
      },
      close: async () => {
        await host.stop()
      },
    }
  } catch (error) {
    await host.stop()
    signal?.throwIfAborted()
    const isOther = (error as Error).name === 'UnsupportedProtocolError'
    const why = isOther ? 'speaks another network_id or receives no guests' : (error as Error).message
    throw new MeshError('unavailable', `cannot visit ${peer.key} at ${peer.addresses.join(', ')}: ${why}`, {}, error)
  }
}
