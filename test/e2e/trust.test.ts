/**
 * Who is believed: an edit counts under a key that policy grants and under no other, whichever way it comes in. A peer with
 * a granted node's key relays what it likes; somebody with the disk writes into the store. Each way is first proven open.
 */

import { expect, test } from 'vitest'
import { sealKeyFromSeed } from '../../src/adapters/identity.ts'
import type { Problem } from '../../src/api/schemas.ts'
import { keyPairFromSeed, type EditBody, type Envelope } from '../../src/core/envelope.ts'
import { Author } from '../support/author.ts'
import { writeToStore } from '../support/damage.ts'
import type { Member } from '../support/fleet.ts'
import { http } from '../support/http.ts'
import { Mole } from '../support/mole.ts'
import { all, answers, converged, each, eventually, health, states, tell, useFleet } from '../support/use-fleet.ts'

const fleet = useFleet({
  members: [
    { name: 'gate', zones: ['eu'], nginx: true },
    { name: 'inner', zones: ['eu'] },
    { name: 'deep', zones: ['eu'], dials: ['inner'] },
  ],
  config: { sync_interval_seconds: 0.5 },
})

const daemons = ['gate', 'inner', 'deep']
const member = (name: string): Member => fleet().member(name)
const stranger = keyPairFromSeed(Buffer.alloc(32, 13))
const ana = keyPairFromSeed(Buffer.alloc(32, 14))
/** The grant of ana, and her chain of honest edits. */
let grantOfAna: string
let honest: Author
let count = 0

interface Forgery {
  readonly what: string
  readonly envelope: Envelope<EditBody>
  readonly status: number
  readonly reason: RegExp
}

/** One edit for each way to claim what one may not; every call makes others. */
function forgeries(): Forgery[] {
  const { meshId, founding, owner } = fleet()
  const ownerGrant = founding[1]!.id
  const nodeGrant = founding[3]!.id
  const name = `forged-${(count += 1)}`
  const alone = new Author(meshId, stranger, ownerGrant).site(`${name}-alone`)
  const asOwner = new Author(meshId, { ...stranger, publicKey: owner.publicKey }, ownerGrant).site(`${name}-as-owner`)
  const asNode = new Author(meshId, member('inner').key, nodeGrant).site(`${name}-as-node`)
  const beyond = new Author(meshId, ana, grantOfAna).site(`${name}-beyond`, 'us')
  const changed = new Author(meshId, ana, grantOfAna).site(`${name}-changed`, 'eu')
  const bytes = changed.bytes.replaceAll('-changed', '-altered')
  return [
    { what: 'a key without a grant', envelope: alone, status: 403, reason: /belongs to another key/ },
    {
      what: 'the name of the owner',
      envelope: asOwner,
      status: 400,
      reason: /the signature of [0-9a-f]{64} is not valid/,
    },
    { what: 'the key of a node', envelope: asNode, status: 403, reason: /a node may not edit|belongs to another key/ },
    { what: 'a zone beyond the grant', envelope: beyond, status: 403, reason: /covers zones eu, not us/ },
    { what: 'altered words', envelope: { ...changed, bytes }, status: 400, reason: /is not valid/ },
  ]
}

/** Everything that a forgery could have changed, at every node. */
async function footprint(): Promise<unknown> {
  const members = daemons.map(member)
  return {
    states: await each(members, async (one) => (await one.get<{ stateHash: string }>('/v1/node')).stateHash),
    edits: await each(members, async (one) => (await one.get<{ envelopes: number }>('/v1/node')).envelopes),
    sites: await each(members, async (one) => (await one.get<{ meta: { total: number } }>('/v1/resources')).meta.total),
  }
}

const refusals = (name: string, source: string): Promise<number> =>
  member(name).metric('nxmesh_edits_total', { outcome: 'refused', source })

/** A granted node that is none, connected with the gate. */
async function startMole(name: string): Promise<Mole> {
  const { key } = await fleet().add({ name })
  await tell(fleet(), member('gate'), ['grant', 'node', key.publicKey, '--zone', 'eu', '--name', name])
  const mole = new Mole(key, fleet().founding[0]!)
  await mole.start({ key: member('gate').key.publicKey, addresses: [`127.0.0.1:${member('gate').meshPort}`] })
  return mole
}

/** Waits until every node has an honest edit, and the gate serves it. */
async function arrived(name: string): Promise<void> {
  await eventually(() => answers([member('gate')], name)).toEqual({ gate: name })
  await eventually(async () => (await states(daemons.map(member))).length).toBe(1)
  const path = `/v1/resources/default/eu/site/${name}`
  const exists = await each(daemons.map(member), async (one) => (await one.get<{ exists: boolean }>(path)).exists)
  expect(exists).toEqual(all(daemons.map(member), true))
}

test('a granted key is believed', async () => {
  await converged(daemons.map(member))
  const granted = await tell(fleet(), member('deep'), ['grant', 'editor', ana.publicKey, '--zone', 'eu'])
  grantOfAna = granted.trim()
  honest = new Author(fleet().meshId, ana, grantOfAna)
  await converged(daemons.map(member))
  expect((await member('gate').push([honest.site('by-api', 'eu')])).status).toBe(202)
  await arrived('by-api')
})

test('what is forged is refused by the API', async () => {
  const before = await footprint()
  for (const { what, envelope, status, reason } of forgeries()) {
    const response = await member('gate').push([envelope])
    const problem = response.json() as Problem
    expect.soft(response.status, what).toBe(status)
    expect.soft(response.headers['content-type']).toBe('application/problem+json')
    expect.soft(problem.detail, what).toMatch(reason)
    expect.soft(problem.code, what).toBe(status === 403 ? 'denied' : 'envelope_invalid')
  }
  // Under a grant that nobody ever made it waits for that grant, and counts for nothing.
  const response = await member('gate').push([new Author(fleet().meshId, stranger, '7'.repeat(64)).site('unheard')])
  expect(response.json()).toMatchObject({ outcomes: [{ outcome: 'waiting', missing: ['7'.repeat(64)] }] })
  expect(await footprint()).toEqual(before)
})

test('what is forged is refused from gossip', async () => {
  const mole = await startMole('gossiper')
  try {
    await mole.gossip(honest.site('by-gossip', 'eu'))
    await arrived('by-gossip')
    await converged(daemons.map(member))
    const before = await footprint()
    const seen = await refusals('gate', 'gossip')
    const forged = forgeries()
    for (const { envelope } of forged) await mole.gossip(envelope)
    await eventually(() => refusals('gate', 'gossip')).toBe(seen + forged.length)
    expect(await refusals('inner', 'gossip'), 'none was relayed').toBe(0)
    expect(await refusals('inner', 'sync'), 'none was relayed').toBe(0)
    expect(await footprint()).toEqual(before)
    // Who goes on like this is shown the door.
    for (const { envelope } of [...forgeries(), ...forgeries()]) await mole.gossip(envelope).catch(() => undefined)
    await eventually(() => member('gate').metric('nxmesh_network_events_total', { event: 'peer_banned' })).toBe(1)
  } finally {
    await mole.stop()
  }
})

test('what is forged is refused from sync, asked for and unasked', async () => {
  const mole = await startMole('syncer')
  try {
    await mole.offer(honest.site('by-sync', 'eu'))
    await arrived('by-sync')
    await converged(daemons.map(member))
    for (const { what, envelope } of forgeries()) {
      const before = await footprint()
      const seen = await refusals('gate', 'sync')
      await mole.offer(envelope)
      await eventually(() => refusals('gate', 'sync'), what).toBeGreaterThan(seen)
      expect(await footprint(), what).toEqual(before)
      // A peer that goes on lying is asked ever less often; one round in which it agrees makes up for it.
      const { comparisons } = mole
      await mole.agree()
      await eventually(() => mole.comparisons).toBeGreaterThan(comparisons)
    }
    const before = await footprint()
    for (const { what, envelope } of forgeries()) {
      const seen = await refusals('gate', 'sync')
      await mole.push(member('gate').key.publicKey, envelope)
      await eventually(() => refusals('gate', 'sync'), what).toBeGreaterThan(seen)
    }
    expect(await footprint()).toEqual(before)
    expect(await refusals('inner', 'sync'), 'none was relayed').toBe(0)
  } finally {
    await mole.stop()
  }
})

test('what is forged is refused from the file on disk', async () => {
  const gate = member('gate')
  const before = await footprint()
  const forged = forgeries()
  await gate.stop()
  // Whoever can write the file but has not the key of the node, and so none of its seals.
  await writeToStore(gate, [honest.site('by-disk', 'eu')])
  await writeToStore(
    gate,
    forged.map(({ envelope }) => envelope),
  )
  await gate.start()
  expect(await health(gate)).toContain(
    `damaged records of the store were left out, and peers refill them: ${forged.length}`,
  )
  expect(await gate.metric('nxmesh_store_corrupt_records_total')).toBe(forged.length)
  for (const { envelope, what } of forged) {
    const { status } = await http(gate.socket, `/v1/edits/${envelope.id}`)
    expect(status, what).toBe(404)
  }
  await arrived('by-disk')
  const { edits, sites } = before as Record<'edits' | 'sites', Record<string, number>>
  expect(await footprint(), 'the honest edit is all that has changed').toMatchObject({
    edits: Object.fromEntries(Object.entries(edits).map(([name, n]) => [name, n + 1])),
    sites: Object.fromEntries(Object.entries(sites).map(([name, n]) => [name, n + 1])),
  })

  // The node's own seal vouches for signatures that it checked, and gives nobody a right.
  const sealed = forgeries().filter(({ status }) => status === 403)
  await gate.stop()
  await writeToStore(
    gate,
    sealed.map(({ envelope }) => envelope),
    sealKeyFromSeed(gate.key.seed),
  )
  const settled = await footprint()
  await gate.start()
  expect(await gate.metric('nxmesh_store_corrupt_records_total')).toBeGreaterThanOrEqual(sealed.length)
  for (const { envelope, what } of sealed) {
    expect((await http(gate.socket, `/v1/edits/${envelope.id}`)).status, what).toBe(404)
  }
  await eventually(async () => (await states(daemons.map(member))).length).toBe(1)
  expect(await footprint()).toMatchObject({ sites: { inner: (settled as { sites: { inner: number } }).sites.inner } })
})
