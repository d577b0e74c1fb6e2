/** The life of a node: what start joins, stop takes apart. */

import { expect, onTestFinished, test } from 'vitest'
import { loadConfig } from '../../src/config/config.ts'
import { toWire } from '../../src/core/codec.ts'
import type { Envelope } from '../../src/core/envelope.ts'
import { createMetrics } from '../../src/metrics.ts'
import { MeshNode } from '../../src/node.ts'
import type { KnownPeer } from '../../src/ports.ts'
import { signRecord } from '../../src/status/status-record.ts'
import { FOUNDING } from '../support/api-node.ts'
import { keyOf, TestMesh } from '../support/authors.ts'
import { MemoryWire } from '../support/memory-network.ts'
import { MemoryStore } from '../support/memory-store.ts'
import { silentLog } from '../support/silent-log.ts'
import { VirtualClock } from '../support/virtual-clock.ts'

const own = keyOf('own')
const peer = keyOf('peer')
const mesh = new TestMesh([own, peer].map(({ publicKey }, n) => ({ key: publicKey, name: `edge-${n}`, zones: ['eu'] })))

function nodeOf(store: MemoryStore, envelopes: readonly Envelope[] = mesh.founding) {
  const clock = new VirtualClock()
  const random = (): number => 0.5
  const wire = new MemoryWire({ clock, random, delayMs: [1, 1], lossRate: 0 })
  const network = wire.node({ key: own.publicKey, bindPort: 41_000, targetPeers: 6, gossip: 'on' })
  const dialled: (readonly KnownPeer[])[] = []
  network.setKnownPeers = (peers) => void dialled.push(peers)
  const defaults = loadConfig({ env: {} })
  const config = { ...defaults, nginx: { ...defaults.nginx, mode: 'off' } } as const
  const adapters = { store, network, clock, random, serveApi: false }
  const founding = envelopes.map(toWire)
  const metrics = createMetrics()
  return {
    node: new MeshNode({ config, key: own, log: silentLog(), adapters, founding, metrics }),
    clock,
    dialled,
    metrics,
  }
}

/** What the peer says of itself. */
function word(sequence: number) {
  const record = {
    v: 1,
    mesh: mesh.id,
    node: peer.publicKey,
    incarnation: 1,
    sequence,
    at: 0,
    addresses: [`10.0.0.${sequence}:9102`],
    zones: ['eu'],
    labels: {},
    version: '0.1.0',
    digest: '0'.repeat(64),
    receipt: null,
    health: { status: 'Running', msg: 'all is well', reasons: [] },
    leaving: false,
  } as const
  return signRecord(record, peer)
}

test('a genesis file of another mesh than the store’s is told, with the way out', async () => {
  const store = new MemoryStore()
  const first = nodeOf(store)
  await first.node.start()
  await first.node.stop()
  await expect(nodeOf(store, FOUNDING).node.start()).rejects.toMatchObject({
    code: 'config_invalid',
    message: `the store belongs to mesh ${mesh.id}, and mesh.genesis_file founds ${FOUNDING[0]!.id}`,
    details: { field: 'mesh.genesis_file', hint: expect.stringContaining('move data_dir/store aside') },
  })
})

test('a node that has stopped follows nothing more, and has had its one life', async () => {
  const store = new MemoryStore()
  const { node, clock, dialled } = nodeOf(store)
  await node.start()
  await node.start()
  expect(node.status.receive(word(1))).toBe('accept')
  expect(dialled.at(-1)).toMatchObject([{ key: peer.publicKey, addresses: ['10.0.0.1:9102'] }])
  await node.stop()
  await node.stop()
  const before = dialled.length
  expect(node.status.receive(word(2))).toBe('accept')
  await clock.advance(60_000)
  expect(dialled.length).toBe(before)
  await expect(node.start()).rejects.toThrow('one life')

  const next = nodeOf(store)
  await next.node.start()
  expect(next.dialled.at(-1)).toMatchObject([{ key: peer.publicKey, addresses: ['10.0.0.1:9102'] }])
  await next.node.stop()
})

test('a start that fails leaves nothing running', async () => {
  const { node, clock, dialled } = nodeOf(new MemoryStore({ failsWrite: () => true }))
  await expect(node.start()).rejects.toMatchObject({ code: 'store_unwritable' })
  await clock.advance(60_000)
  expect(dialled).toEqual([])
  await expect(node.start()).rejects.toThrow('one life')
})

test('tells of a key in two places in health and metrics, from the second fork on', async () => {
  const { node, metrics } = nodeOf(new MemoryStore())
  await node.start()
  onTestFinished(() => node.stop())
  const forks = ['a', 'b', 'c'].map((name) => new TestMesh().edit(`default/*/site/${name}`, [['set', '$', true]]))
  const told = async (): Promise<[number, string]> => {
    const reasons = node
      .health()
      .reasons.filter((reason) => reason.includes('several times for one place of their chain'))
    return [reasons.length, (await metrics.text()).match(/^nxmesh_(alarms|forking_authors)\{.* 1$/gm)?.join() ?? '']
  }
  await node.replica.submit(forks.slice(0, 2).map(toWire), 'sync')
  expect(await told()).toEqual([0, 'nxmesh_forking_authors{forks="one"} 1'])
  await node.replica.submit(forks.map(toWire), 'sync')
  expect(await told()).toEqual([1, 'nxmesh_forking_authors{forks="several"} 1,nxmesh_alarms{alarm="forks"} 1'])
  expect(node.health().status).toBe('Degraded')
})
