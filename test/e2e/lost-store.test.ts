/**
 * A real daemon whose store is gone or damaged while its nginx serves: what is served stays until a peer has refilled the
 * store, however little the node knows by itself. Empty is a valid state, and here it is the wrong one.
 */

import { readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { parse, stringify } from 'yaml'
import { damageFiles, openAndClose } from '../support/damage.ts'
import { answers, applySite, converged, eventually, health, tell, useFleet } from '../support/use-fleet.ts'

const fleet = useFleet({
  members: [{ name: 'first' }, { name: 'second', granted: false }],
  nginx: true,
  started: false,
})
const first = () => fleet().member('first')
const second = () => fleet().member('second')
const store = () => join(first().dataDirectory, 'store')

async function ownReceipt(): Promise<{ readonly outcome: string | null } | null | undefined> {
  const { data } = await first().get<{ data: { self: boolean; receipt: { outcome: string | null } | null }[] }>(
    '/v1/receipts',
  )
  return data.find(({ self }) => self)?.receipt
}

test('a founder and a node that was granted later serve the same sites', async () => {
  await first().start()
  await tell(fleet(), first(), ['grant', 'node', second().key.publicKey, '--zone', '*', '--name', 'second'])
  await second().start()
  for (const name of ['one', 'two']) await applySite(fleet(), first(), { name })
  await converged(fleet().members)
  expect(await answers(fleet().members, 'two')).toEqual({ first: 'two', second: 'two' })
})

test('a founder whose store is gone, and which meets nobody, goes on serving and says so', async () => {
  await Promise.all([first().stop(), second().stop()])
  await rm(store(), { recursive: true })
  await first().start()
  await eventually(() => health(first())).toMatch(/^Degraded \(.*the store knew no resource at start/)
  expect(await answers([first()], 'one')).toEqual({ first: 'one' })
})

test('with another node listed, the store is refilled and edits apply again', async () => {
  await first().stop()
  const config = parse(await readFile(first().configFile, 'utf8')) as Record<string, unknown>
  const nodes = [{ public_key: second().key.publicKey, endpoints: [`127.0.0.1:${second().meshPort}`] }]
  await writeFile(first().configFile, stringify({ ...config, nodes }))
  await first().start()
  expect(await answers([first()], 'one')).toEqual({ first: 'one' })
  await second().start()
  await converged(fleet().members)
  await applySite(fleet(), first(), { name: 'three' })
  await converged(fleet().members)
  expect(await answers(fleet().members, 'three')).toEqual({ first: 'three', second: 'three' })
})

test('a site whose record is damaged stays served until the record is refilled', async () => {
  await applySite(fleet(), first(), { name: 'gem', body: 'QUARTZ' })
  await converged(fleet().members)
  await Promise.all([first().stop(), second().stop()])
  await openAndClose(first())
  expect(await damageFiles(store(), 'QUARTZ'), 'files that held the edit').toBe(1)
  await first().start()
  await eventually(() => health(first())).toMatch(/^Degraded \(damaged records/)
  await eventually(async () => (await ownReceipt())?.outcome, 'it has looked at what it holds, and holds back').toBe(
    'held',
  )
  expect(await answers([first()], 'gem')).toEqual({ first: 'QUARTZ' })
  await second().start()
  await eventually(() => answers(fleet().members, 'gem')).toEqual({ first: 'QUARTZ', second: 'QUARTZ' })
})
