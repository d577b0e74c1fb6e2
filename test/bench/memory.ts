/**
 * What a `mesh-node` process keeps in memory once it has settled: idle, idle with an nginx of its own, and with many
 * resources, before and after something has asked for all of them.
 */

import { setTimeout as sleep } from 'node:timers/promises'
import type { Member } from '../support/fleet.ts'
import { waitFor } from '../support/wait.ts'
import { Daemons, fillStore } from './daemons.ts'
import { aim, memoryOf, progress, type Aim, type BenchResult } from './measure.ts'
import { Workload } from './workload.ts'

export interface MemoryOptions {
  readonly resources: number
  readonly settleMs: number
}

/** Of 10^6 bytes. */
const AIM_MB = 120

export async function memory(options: MemoryOptions): Promise<BenchResult> {
  const daemons = await Daemons.create(['idle', 'idle-nginx', 'full'])
  const [idle, withNginx, full] = daemons.members as [Member, Member, Member]
  const rows: Record<string, unknown>[] = []
  const note = async (what: string, member: Member): Promise<number> => {
    progress(what)
    await sleep(options.settleMs)
    const found = await memoryOf(member.pid as number)
    rows.push({ process: what, ...found })
    return found.rssMB
  }
  const aims: Aim[] = []
  try {
    for (const member of daemons.members) {
      // Alone in a mesh of its own: a node that waits for others would not be idle.
      const workload = new Workload({ nodes: [member.key.publicKey] })
      const { meshId } = workload
      await daemons.configure(member, { meshId, dials: [], nginx: member === withNginx ? 'own' : 'off' })
      const sites = member === full ? Array.from({ length: options.resources }, (_, index) => workload.edit(index)) : []
      await fillStore(member, [...workload.founding, ...sites])
    }
    // The first start fills the compile cache, as the first `npm start` does.
    await idle.start()
    await idle.stop()
    await idle.start()
    aims.push(aim('idle_rss_mb', await note('idle, nginx off', idle), AIM_MB))
    await idle.stop()
    await withNginx.start()
    aims.push(aim('idle_with_nginx_rss_mb', await note('idle, nginx own', withNginx), AIM_MB))
    await withNginx.stop()
    // Not `start`, which asks for the state hash, and so for every resource.
    full.spawn()
    await waitFor(() => full.get('/health'), { what: 'the full daemon answers', timeoutMs: 60_000 })
    await note(`${options.resources} resources, stored`, full)
    await full.get('/v1/node')
    await note(`${options.resources} resources, all materialised`, full)
    return {
      bench: 'memory',
      options: { ...options },
      rows,
      aims,
      notes: [
        'The daemon is started by scripts/mesh-node, as everywhere.',
        'MB of 10^6 bytes, of the daemon alone; nginx has its own. pssMB counts a share of what other processes map too, so it depends on what else runs.',
      ],
    }
  } finally {
    await daemons.stop()
  }
}
