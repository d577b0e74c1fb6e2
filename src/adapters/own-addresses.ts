/** The addresses of this host's interfaces, as they are when it is asked. node.ts asks at the start. */

import { networkInterfaces } from 'node:os'

export function ownAddresses(): readonly string[] {
  return Object.values(networkInterfaces()).flatMap((all = []) => all.map(({ address }) => address))
}
