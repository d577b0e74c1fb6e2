/** How many connections clients have with nginx, by its own count. Asks on the verify socket; called at each scrape. */

import { get } from '../../nginx/applying/http.ts'
import type { Connections } from './traffic-metrics.ts'

const TIMEOUT_MS = 1_000

/** Undefined when nginx does not answer. */
export async function readConnections(socketPath: string): Promise<Connections | undefined> {
  const answer = await get({ to: { socketPath }, path: '/status', host: 'nxmesh', timeoutMs: TIMEOUT_MS }).catch(
    () => undefined,
  )
  const count = (name: string) => Number(new RegExp(`${name}: (\\d+)`).exec(answer?.body ?? '')?.[1])
  const active = count('Active connections')
  if (Number.isNaN(active)) return undefined
  return { active, reading: count('Reading'), writing: count('Writing'), waiting: count('Waiting') }
}
