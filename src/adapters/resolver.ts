/**
 * Addresses of a host name, through the host's own resolver: its hosts file, then DNS. Keeps nothing and has no time
 * limit of its own; src/nginx/applying/addresses.ts, which calls it, remembers the last known ones and bounds the wait.
 */

import { lookup } from 'node:dns/promises'

/** All addresses of a name, IPv4 and IPv6, each once. Rejects when it does not resolve. */
export async function lookupAddresses(name: string): Promise<readonly string[]> {
  const records = await lookup(name, { all: true, order: 'verbatim' })
  return [...new Set(records.map(({ address }) => address))]
}
