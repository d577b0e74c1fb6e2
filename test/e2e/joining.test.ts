/**
 * Real daemons without gossip: anti-entropy alone makes them equal, lets newcomers in, refills what was lost, and keeps out
 * whom nobody granted. Without nginx, since what is applied is not the point here.
 */

import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import type { NodeView, PeerItem, ResourceView } from '../../src/api/schemas.ts'
import { damageFiles, openAndClose } from '../support/damage.ts'
import type { Member } from '../support/fleet.ts'
import {
  applySite,
  connections,
  converged,
  eventually,
  health,
  hostOf,
  siteYaml,
  tell,
  useFleet,
} from '../support/use-fleet.ts'

// A chain: each knows only the one before it.
const fleet = useFleet({
  members: [
    { name: 'one' },
    { name: 'two', dials: ['one'] },
    { name: 'three', dials: ['two'] },
    { name: 'four', dials: ['three'] },
  ],
  config: { gossip: false, sync_interval_seconds: 0.5 },
})

const member = (name: string): Member => fleet().member(name)
const node = (name: string): Promise<NodeView> => member(name).get<NodeView>('/v1/node')
const dialsFailed = (name: string): Promise<number> =>
  member(name).metric('nxmesh_network_events_total', { event: 'dial_failed' })

/** What a member holds of a site: its host names, or undefined. */
async function hosts(at: Member, name: string): Promise<unknown> {
  const { data } = await at.get<{ data: ResourceView[] }>(`/v1/resources?kind=site&name=${name}`)
  return data[0]?.spec?.['hosts']
}

test('gossip is switched off, and edits at both ends still reach all', async () => {
  await converged(fleet().members)
  await applySite(fleet(), member('one'), { name: 'first' })
  await applySite(fleet(), member('four'), { name: 'last' })
  await converged(fleet().members)
  expect(await hosts(member('four'), 'first')).toEqual([hostOf('first')])
  expect(await hosts(member('one'), 'last')).toEqual([hostOf('last')])
  const pushed = await Promise.all(
    fleet().members.map((each) => each.metric('nxmesh_edits_total', { source: 'gossip' })),
  )
  expect(pushed).toEqual([0, 0, 0, 0])
})

test('a late joiner that knows one peer learns of all others and connects with them', async () => {
  const late = await fleet().add({ name: 'late', dials: ['four'] })
  await tell(fleet(), member('one'), ['grant', 'node', late.key.publicKey, '--zone', '*', '--name', 'late'])
  await late.start()
  await eventually(() => connections(fleet(), late)).toEqual(['four', 'one', 'three', 'two'])
  await converged(fleet().members)
  expect(await hosts(late, 'first')).toEqual([hostOf('first')])
  // A connection may be there before the first word of the node on itself.
  await eventually(async () => {
    const { data } = await member('one').get<{ data: PeerItem[] }>('/v1/peers')
    return data.find(({ key }) => key === late.key.publicKey)
  }).toMatchObject({ name: 'late', state: 'Ready', connected: true })
})

test('a wiped store is refilled, and the node is known again', async () => {
  const { envelopes, stateHash } = await node('two')
  await member('two').stop()
  await rm(join(member('two').dataDirectory, 'store'), { recursive: true })
  await member('two').start()
  await eventually(() => node('two')).toMatchObject({ envelopes, stateHash })
  // It has forgotten how often it had started: peers must not take what it says now for old news.
  const { key } = member('two')
  await eventually(async () => {
    const { data } = await member('four').get<{ data: PeerItem[] }>('/v1/peers')
    return data.find((peer) => peer.key === key.publicKey)
  }).toMatchObject({ state: 'Ready', leaving: false, health: { status: 'Running' } })
  await applySite(fleet(), member('two'), { name: 'refilled' })
  await converged(fleet().members)
  expect(await hosts(member('four'), 'refilled')).toEqual([hostOf('refilled')])
})

test('a damaged store is refilled, and the node says what happened', async () => {
  const three = member('three')
  const store = join(three.dataDirectory, 'store')
  await applySite(fleet(), three, { name: 'gem', body: 'QUARTZ' })
  await converged(fleet().members)
  const { envelopes, stateHash } = await node('three')
  await three.stop()
  // Opening it once more moves the records from LevelDB's log into a table, which it reads without a check.
  await openAndClose(three)
  expect(await damageFiles(store, 'QUARTZ'), 'files that held the edit').toBe(1)
  await three.start()
  await eventually(() => node('three')).toMatchObject({ envelopes, stateHash })
  expect(await health(three)).toMatch(
    /^Degraded \(damaged records of the store were left out, and peers refill them: \d+\)/,
  )
  expect(await three.metric('nxmesh_store_corrupt_records_total')).toBeGreaterThan(0)
  // What was refilled is durable, and the damage is history.
  await three.stop()
  await three.start()
  await converged(fleet().members)
  expect(await node('three')).toMatchObject({ envelopes, stateHash })
})

test('a store whose log is damaged, of which LevelDB drops the end without a word, is refilled', async () => {
  const two = member('two')
  await applySite(fleet(), two, { name: 'gem', body: 'TOPAZ!' })
  await converged(fleet().members)
  const { envelopes, stateHash } = await node('two')
  await two.stop('SIGKILL')
  expect(await damageFiles(join(two.dataDirectory, 'store'), 'TOPAZ!'), 'files that held the edit').toBe(1)
  await two.start()
  await eventually(() => node('two')).toMatchObject({ envelopes, stateHash })
  await converged(fleet().members)
})

test('a node of another network id is kept out, and told why', async () => {
  const foreign = await fleet().add({ name: 'foreign', dials: ['one'], config: { network_id: 'staging' } })
  await tell(fleet(), member('one'), ['grant', 'node', foreign.key.publicKey, '--zone', '*', '--name', 'foreign'])
  await foreign.start()
  await eventually(() => dialsFailed('foreign')).toBeGreaterThan(2)
  await eventually(() => foreign.stderr).toContain('a peer speaks another network_id or is no mesh-node')
  expect(await node('foreign')).toMatchObject({ meshId: null, envelopes: 0 })
  expect(await health(foreign)).toBe('Unknown (no mesh yet: waiting for a peer that has the genesis)')
  await foreign.stop()
  await tell(fleet(), member('one'), ['revoke', foreign.key.publicKey])
})

test('an unknown key is kept out until somebody grants it', async () => {
  const stranger = await fleet().add({ name: 'stranger', dials: ['one', 'three'] })
  await stranger.start()
  await applySite(fleet(), member('four'), { name: 'private' })
  await eventually(() => hosts(member('one'), 'private')).toEqual([hostOf('private')])
  await eventually(() => dialsFailed('stranger')).toBeGreaterThan(3)
  const refused = await member('one').metric('nxmesh_network_events_total', { event: 'connection_refused' })
  expect(refused).toBeGreaterThan(0)
  expect(await node('stranger')).toMatchObject({ meshId: null, envelopes: 0 })
  expect(await connections(fleet(), stranger)).toEqual([])
  // Nor does its word count: to itself it is a node without a mesh.
  const stdin = siteYaml({ name: 'intruder' })
  await expect(tell(fleet(), stranger, ['apply', '-f', '-'], { stdin })).rejects.toThrow(/mesh/)

  await tell(fleet(), member('four'), ['grant', 'node', stranger.key.publicKey, '--zone', '*', '--name', 'stranger'])
  await eventually(() => hosts(stranger, 'private')).toEqual([hostOf('private')])
  await converged(fleet().members.filter(({ isRunning }) => isRunning))
  expect(await node('stranger')).toMatchObject({ name: 'stranger', zones: ['*'] })
})
