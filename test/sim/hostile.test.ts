import { describe, expect, test } from 'vitest'
import { encodeEnvelopes, toWire } from '../../src/core/codec.ts'
import type { Envelope } from '../../src/core/envelope.ts'
import type { NetworkHandlers } from '../../src/ports.ts'
import { REPLICA_LIMITS } from '../../src/replica.ts'
import { encodeFrame, parseRequest, type Request } from '../../src/sync/sync-messages.ts'
import { keyOf, TestMesh } from '../support/authors.ts'
import type { MemoryNetwork } from '../support/memory-network.ts'
import { SimMesh, type SimMember } from '../support/sim-mesh.ts'

const SITE = 'default/*/site/shop'
const HASH = 'a'.repeat(64)

type Reply = Uint8Array | Promise<Uint8Array>
/** How a liar answers each request; what it does not care about it answers as an idle node of the mesh. */
type Lies = (request: Request, mesh: SimMesh) => Reply | undefined

interface LiarMesh {
  readonly mesh: SimMesh
  readonly honest: readonly SimMember[]
  readonly liar: MemoryNetwork
}

/** Three honest nodes and one granted node that lies, all connected with each other. */
async function withLiar(seed: number, lies: Lies): Promise<LiarMesh> {
  const mesh = await SimMesh.started(3, { seed })
  const honest = mesh.all
  const member = mesh.add('liar')
  await mesh.submit(mesh.get('n0'), mesh.founding.grant(member.publicKey, 'node', { name: 'liar' }))
  await mesh.converge(30_000)
  const liar = mesh.wire.node({ key: member.publicKey, bindPort: member.port })
  await liar.start(liarHandlers(mesh, lies))
  liar.joinMesh(mesh.founding.id)
  liar.setKnownPeers(honest.map(({ publicKey, port }) => ({ key: publicKey, addresses: [`127.0.0.1:${port}`] })))
  await mesh.clock.until(() => liar.connected.length === 3, 10_000, 'the liar’s links')
  return { mesh, honest, liar }
}

function liarHandlers(mesh: SimMesh, lies: Lies): NetworkHandlers {
  return {
    allows: () => true,
    onGossip: async () => 'ignore',
    onConnected: () => undefined,
    onDisconnected: () => undefined,
    onRequest: async (_from, frame) => {
      const { request } = parseRequest(frame)
      return await (lies(request, mesh) ?? idle(request, mesh))
    },
  }
}

let counter = 0

function idle(request: Request, mesh: SimMesh): Uint8Array {
  switch (request.ask) {
    case 'hello':
      return encodeFrame({ mesh: mesh.founding.id, settled: true }, [toWire(mesh.founding.founding[0] as Envelope)])
    case 'summary':
      // Another digest each time, so that it never looks the same as before.
      counter += 1
      return encodeFrame({ digest: counter.toString(16).padStart(64, '0'), chains: [], next: null })
    case 'status':
      return encodeFrame({ records: [], more: false })
    case 'items':
      return encodeFrame({ items: [] })
    case 'ranges':
      return encodeFrame({ ranges: [] })
    case 'log':
      return encodeFrame({ next: null })
    default:
      return encodeFrame({})
  }
}

const random64 = (mesh: SimMesh): string => Array.from({ length: 64 }, () => mesh.dice.below(16).toString(16)).join('')

function chains(mesh: SimMesh, count: number, length: number): object[] {
  return Array.from({ length: count }, () => ({
    workspace: 'default',
    author: random64(mesh),
    count: length,
    highestN: Number.MAX_SAFE_INTEGER,
    hash: random64(mesh),
  }))
}

const LIARS: readonly [what: string, lies: Lies][] = [
  ['answers garbage', () => Buffer.from('garbage, and not a frame at all')],
  ['answers nothing', () => new Promise(() => undefined)],
  ['answers with an empty frame', () => new Uint8Array()],
  ['answers with a page over every limit', () => new Uint8Array(1024 * 1024).fill(1)],
  ['changes its digest all the time', () => undefined],
  [
    'claims chains that it does not have',
    (request, mesh) =>
      request.ask === 'summary'
        ? encodeFrame({ digest: random64(mesh), chains: chains(mesh, 40, 10), next: null })
        : request.ask === 'items'
          ? encodeFrame({ items: Array.from({ length: 10 }, (_, n) => [random64(mesh), n]) })
          : undefined,
  ],
  [
    'splits ranges for ever',
    (request, mesh) =>
      request.ask === 'summary'
        ? encodeFrame({ digest: random64(mesh), chains: chains(mesh, 3, 2 ** 50), next: null })
        : request.ask === 'ranges'
          ? encodeFrame({ ranges: Array.from({ length: 16 }, () => [2 ** 40, random64(mesh)]) })
          : undefined,
  ],
  [
    'has a list of chains without end',
    (request, mesh) =>
      request.ask === 'summary'
        ? encodeFrame({ digest: random64(mesh), chains: [], next: request.after + 1 })
        : undefined,
  ],
  [
    'has a list of items without end',
    (request, mesh) =>
      request.ask === 'summary'
        ? encodeFrame({ digest: random64(mesh), chains: chains(mesh, 1, 10), next: null })
        : request.ask === 'items'
          ? encodeFrame({ items: Array.from({ length: 1024 }, (_, n) => [String(n).padStart(64, '0'), n]) })
          : request.ask === 'fetch'
            ? encodeFrame({}, [toWire(mesh.founding.founding[1] as Envelope)])
            : undefined,
  ],
  [
    'has a list of status records without end',
    (request) => (request.ask === 'status' ? encodeFrame({ records: [[null, 0]], more: true }) : undefined),
  ],
  [
    'sends refused edits',
    (request, mesh) =>
      request.ask === 'summary'
        ? encodeFrame({ digest: random64(mesh), chains: chains(mesh, 1, 1), next: null })
        : request.ask === 'items'
          ? encodeFrame({ items: [[HASH, 0]] })
          : request.ask === 'fetch'
            ? encodeFrame({}, [toWire(STRANGERS)])
            : undefined,
  ],
  [
    'sends edits whose ancestors nobody has',
    (request, mesh) =>
      request.ask === 'summary'
        ? encodeFrame({ digest: random64(mesh), chains: chains(mesh, 1, 1), next: null })
        : request.ask === 'items'
          ? encodeFrame({ items: [[random64(mesh), 0]] })
          : request.ask === 'fetch'
            ? encodeFrame({}, orphans(20))
            : undefined,
  ],
]

const other = new TestMesh()
/** Well signed, by somebody without a grant. */
const STRANGERS = other.edit(SITE, [['set', '$', true]], { by: keyOf('stranger') })

function orphans(count: number) {
  other.edit('default/*/site/lost', [['set', '$', true]])
  return Array.from({ length: count }, () =>
    toWire(other.edit('default/*/site/lost', [['set', 'a', 'x'.repeat(4000)]])),
  )
}

describe('a granted node that', () => {
  test.each(LIARS)('%s changes nothing for the others', async (_, lies) => {
    const { mesh, honest, liar } = await withLiar(40, lies)
    const before = honest.map((member) => mesh.requestsOf(member))
    await mesh.clock.advance(5 * 60_000)
    await mesh.edit(honest[0]!, SITE, [['set', '$', true]])
    await mesh.clock.advance(1_000)
    expect(mesh.areEqual(honest)).toBe(true)
    expect(honest.map(({ up }) => up.replica.state.history.size)).toEqual(honest.map(() => 7))
    for (const [index, member] of honest.entries()) {
      const perMinute = (mesh.requestsOf(member) - (before[index] as number)) / 5
      // An idle node makes some 20; one that looks for differences in vain looks ever less often, and less hard.
      expect(perMinute).toBeLessThan(800)
      expect(member.up.replica.pendingBytes).toBeLessThanOrEqual(REPLICA_LIMITS.pendingBytesPerPeer)
    }
    await liar.stop()
  })
})

describe('floods', () => {
  test('forged edits are not looked at by the thousand, and end in a ban', async () => {
    const { mesh, honest, liar } = await withLiar(41, () => undefined)
    const good = mesh.founding.edit(SITE, [['set', '$', true]])
    for (let n = 0; n < 20; n += 1) {
      const forged = Array.from({ length: 500 }, (_, index) => ({
        bytes: good.bytes.replace('"note":""', `"note":"${n}-${index}"`),
        sigs: { [mesh.founding.owner.publicKey]: '1'.repeat(128) },
      }))
      await liar.publish('edits', encodeEnvelopes(forged))
      await mesh.clock.advance(100)
    }
    await mesh.clock.until(() => liar.connected.length === 0, 10_000, 'the ban')
    expect(honest.map(({ up }) => up.replica.state.history.size)).toEqual([6, 6, 6])
  })
})
