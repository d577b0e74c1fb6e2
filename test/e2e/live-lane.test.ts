/**
 * One change of endpoints on two daemons: where nginx has the Lua module it reaches every worker without a reload, where it has
 * not it goes through one; operators see by which way, and wait for either alike.
 */

import { once } from 'node:events'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import type { NodeReceipt } from '../../src/api/schemas.ts'
import type { Member } from '../support/fleet.ts'
import { all, answers, converged, each, eventually, siteYaml, tell, useFleet } from '../support/use-fleet.ts'

vi.setConfig({ testTimeout: 120_000, hookTimeout: 120_000 })

const fleet = useFleet({
  members: [{ name: 'live' }, { name: 'plain', config: { nginx: { modules_directory: '/var/empty' } } }],
  nginx: true,
})
let backends: Server[] = []

beforeAll(async () => {
  backends = ['old', 'new'].map((name) => createServer((_, response) => response.end(name)).listen(0, '127.0.0.1'))
  await Promise.all(backends.map((backend) => once(backend, 'listening')))
})
afterAll(() => {
  for (const backend of backends) {
    backend.close()
    backend.closeAllConnections()
  }
})

function upstream(to: 'old' | 'new'): string {
  const { port } = (backends[to === 'old' ? 0 : 1] as Server).address() as AddressInfo
  const metadata = { name: 'pool', zone: '*' }
  return JSON.stringify({
    apiVersion: 'nxmesh/v1',
    kind: 'Upstream',
    metadata,
    spec: { endpoints: { [`127.0.0.1:${port}`]: {} } },
  })
}

/** What a member says of itself. */
async function receiptOf(member: Member) {
  const { data } = await member.get<{ data: NodeReceipt[] }>('/v1/receipts')
  return data.find(({ key }) => key === member.key.publicKey)?.receipt
}

test('endpoints change on both, without a reload on the one with the Lua module', async () => {
  const [live, plain] = fleet().members as [Member, Member]
  const members = [live, plain]
  const site = siteYaml({ name: 'a', spec: { routes: { root: { path: '/', proxy: { upstream: 'pool' } } } } })
  await tell(fleet(), live, ['apply', '--wait', '-f', '-'], { stdin: `${upstream('old')}\n---\n${site}` })
  await converged(members)
  expect(await answers(members, 'a')).toEqual(all(members, 'old'))
  const before = await each(members, async (member) => (await receiptOf(member))?.applied)

  await tell(fleet(), live, ['apply', '--wait', '-f', '-'], { stdin: upstream('new') })
  expect(await answers(members, 'a')).toEqual(all(members, 'new'))
  const after = await each(members, async (member) => (await receiptOf(member))?.applied)
  expect(after['live']).toBe(before['live'])
  expect(after['plain']).not.toBe(before['plain'])
  expect((await receiptOf(live))?.live).toMatchObject({ lane: 'live', reason: null, error: null })
  const status = await tell(fleet(), live, ['status'])
  expect(status.match(/the Lua module is absent: endpoint changes go through reloads/g)).toHaveLength(1)
  expect(status).toMatch(/plain:\n\s+the Lua module is absent/)
})

test('a daemon that starts again brings what changed meanwhile, and takes nothing away before', async () => {
  const [live, plain] = fleet().members as [Member, Member]
  await live.stop()
  expect((await live.visit('a.test')).text).toBe('new')
  await tell(fleet(), plain, ['apply', '-f', '-'], {
    stdin: upstream('old'),
  })
  await live.start()
  await eventually(() => answers([live, plain], 'a')).toEqual(all([live, plain], 'old'))
})
