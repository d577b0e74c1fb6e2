/** A daemon's loop on a real nginx, with the lane without reloads, for tests that say what the mesh wants. */

import { systemClock } from '../../src/adapters/clock.ts'
import type { Slice } from '../../src/core/slice.ts'
import { Addresses } from '../../src/nginx/applying/addresses.ts'
import { liveEndpoint } from '../../src/nginx/applying/live-endpoint.ts'
import { LivePush } from '../../src/nginx/applying/live-push.ts'
import type { Receipt } from '../../src/receipt.ts'
import { Reconciler } from '../../src/reconciler.ts'
import type { NginxHost } from './nginx-host.ts'
import { silentLog } from './silent-log.ts'
import { waitFor } from './wait.ts'

/** A daemon's loop over a slice that can be changed. */
export async function daemon(
  host: NginxHost,
  slice: () => Slice,
  secrets: () => ReadonlyMap<string, string> = () => new Map(),
) {
  const receipts: Receipt[] = []
  const { layout, nginx } = host
  const endpoint = liveEndpoint(layout.verifySocket)
  const live = new LivePush({ directory: layout.directory, nginx, endpoint, clock: systemClock })
  const reconciler = new Reconciler({
    desired: slice,
    secrets,
    applier: host.applier({ liveFingerprints: (key) => live.fingerprints(key) }),
    nginx,
    layout,
    addresses: new Addresses(() => Promise.resolve([]), systemClock),
    clock: systemClock,
    random: () => 0.5,
    log: silentLog(),
    holdReason: () => undefined,
    onReceipt: (receipt) => receipts.push(receipt),
    live,
    settings: { watchIntervalMs: 100, driftIntervalMs: 60_000 },
  })
  await reconciler.start()
  return {
    reconciler,
    endpoint,
    last: () => receipts.at(-1),
    receipts,
    /** Resolves when this target is proven, by whichever lane. */
    reached: () => settled((receipt) => receipt.applied === receipt.desired && receipt.error === null),
    /** Resolves when this target was tried, and what could be applied of it is proven. */
    tried: () => settled(({ outcome }) => outcome === 'applied' || outcome === 'unchanged'),
  }

  async function settled(isGood: (receipt: Receipt) => boolean): Promise<void> {
    reconciler.wake()
    await waitFor(
      () => {
        const receipt = receipts.at(-1)
        const told = receipt?.live ?? null
        if (receipt?.target !== slice().target || !isGood(receipt) || told === null || told.error !== null) return
        return told.lane === 'reload' || (told.target === slice().target && told.applied === told.desired) || undefined
      },
      { timeoutMs: 15_000, what: 'the receipt to say that it is applied' },
    )
  }
}
