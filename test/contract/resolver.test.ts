/** The host's resolver: what the hosts file and the reserved names of RFC 6761 promise everywhere. */

import { expect, test } from 'vitest'
import { lookupAddresses } from '../../src/adapters/resolver.ts'

test('localhost is loopback, an address is itself, and .invalid resolves nowhere', async () => {
  const addresses = await lookupAddresses('localhost')
  expect(addresses.some((address) => address === '127.0.0.1' || address === '::1')).toBe(true)
  expect(new Set(addresses).size).toBe(addresses.length)
  expect(await lookupAddresses('192.0.2.7')).toEqual(['192.0.2.7'])
  await expect(lookupAddresses('nothing.invalid')).rejects.toThrow(/ENOTFOUND|EAI_AGAIN/)
})
