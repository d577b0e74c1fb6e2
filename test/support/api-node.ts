/**
 * A node as far as the API and meshctl see one: a replica over a store in memory, a status table without a network, a real
 * API server on a free port and a unix socket. What an apply would do is said by the test.
 */

import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { systemClock } from '../../src/adapters/clock.ts'
import { ROUTE_PATHS } from '../../src/api/routes.ts'
import { ApiServer, type ApiServerOptions } from '../../src/api/server.ts'
import { toWire } from '../../src/core/codec.ts'
import { keyPairFromSeed, type Envelope, type KeyPair } from '../../src/core/envelope.ts'
import { foundMesh } from '../../src/core/founding.ts'
import { encryptionKey } from '../../src/core/secrets.ts'
import { targetOf as targetOfSlice } from '../../src/core/slicing.ts'
import { signToken } from '../../src/core/token.ts'
import { EditKey } from '../../src/edit-key.ts'
import type { Health } from '../../src/status/health.ts'
import { JoinRequests } from '../../src/joining/join.ts'
import { createLog, type Log } from '../../src/log.ts'
import { Membership } from '../../src/membership.ts'
import { createMetrics, type Metrics } from '../../src/metrics.ts'
import type { Receipt } from '../../src/receipt.ts'
import { Replica } from '../../src/replica.ts'
import { StatusTable } from '../../src/status/status.ts'
import { MemoryStore } from './memory-store.ts'

export function testKey(n: number): KeyPair {
  return keyPairFromSeed(Buffer.alloc(32, n))
}

export const KEYS = {
  root: testKey(1),
  next: testKey(2),
  owner: testKey(3),
  node: testKey(4),
  other: testKey(5),
  stranger: testKey(9),
}

export const FOUNDING = foundMesh({
  name: 'test',
  roots: [KEYS.root],
  nextRoots: [KEYS.next.publicKey],
  threshold: 1,
  owner: KEYS.owner,
  ownerName: 'ana',
  nodes: [
    { key: KEYS.node.publicKey, enc: encryptionKey(KEYS.node.seed).publicKey, name: 'edge-1', zones: ['eu.west'] },
    { key: KEYS.other.publicKey, name: 'edge-2', zones: ['us'] },
  ],
  at: 1_700_000_000_000,
})

const ENC = encryptionKey(KEYS.node.seed).publicKey

export interface ApiNode {
  readonly server: ApiServer
  readonly replica: Replica
  readonly status: StatusTable
  readonly joins: JoinRequests
  readonly metrics: Metrics
  readonly url: string
  readonly socketPath: string
  /** A directory of this node's own, removed by stop. */
  readonly directory: string
  /** What was logged. */
  readonly lines: string[]
  health: Health
  receipt: Receipt | undefined
  converged: boolean
  /** Whether it holds what the mesh holds. */
  settled: boolean
  stop(): Promise<void>
}

export interface ApiNodeOptions {
  /** Without a mesh: the node waits for its genesis. */
  readonly founded?: boolean
  readonly zones?: readonly string[]
  /** With which it signs for callers. */
  readonly editKey?: KeyPair
  readonly server?: Partial<
    Pick<ApiServerOptions, 'bindAddress' | 'port' | 'socketPath' | 'openMetrics' | 'clock' | 'tls' | 'headersTimeoutMs'>
  >
}

export async function startApiNode({
  founded = true,
  zones = ['eu.west'],
  editKey,
  server: overrides = {},
}: ApiNodeOptions = {}): Promise<ApiNode> {
  const directory = await mkdtemp(join(tmpdir(), 'nxmesh-api-'))
  const lines: string[] = []
  const log: Log = createLog({
    level: 'DEBUG',
    format: 'text',
    stream: { write: (line) => lines.push(line) },
    now: () => 0,
  })
  const metrics = createMetrics({ routes: ROUTE_PATHS })
  const store = new MemoryStore()
  const replica = new Replica({ store, clock: systemClock, log, metrics, meshId: undefined })
  await replica.start()
  if (founded) {
    await replica.adopt(toWire(FOUNDING[0]!))
    await replica.submit(FOUNDING.slice(1).map(toWire), 'sync')
  }
  const membership = new Membership({ state: replica.state, own: KEYS.node.publicKey, enc: ENC, listed: [], zones })
  const status = new StatusTable({
    key: KEYS.node,
    store,
    clock: systemClock,
    random: () => 0.5,
    log,
    describe: () => undefined,
    isNode: () => true,
    granted: () => membership.grantedNodes(),
    connected: () => [],
    publish: async () => undefined,
  })
  const joins = new JoinRequests({
    state: replica.state,
    membership,
    own: KEYS.node.publicKey,
    networkId: 'default',
    clock: systemClock,
    log,
  })
  const node: Omit<ApiNode, 'server' | 'url' | 'stop' | 'socketPath'> = {
    replica,
    status,
    joins,
    metrics,
    directory,
    lines,
    health: { status: 'Running', msg: 'all is well', reasons: [] },
    receipt: undefined,
    converged: true,
    settled: true,
  }
  const server = new ApiServer({
    replica,
    status,
    membership,
    joins,
    receipt: () => node.receipt,
    health: () => node.health,
    converged: () => node.converged,
    mayTakeEdits: () => true,
    editKey:
      editKey === undefined
        ? undefined
        : new EditKey({
            key: editKey,
            replica,
            clock: overrides.clock ?? systemClock,
            log,
            isSettled: () => node.settled,
          }),
    metrics,
    clock: systemClock,
    log,
    info: () => ({ key: KEYS.node.publicKey, version: '0.1.0', networkId: 'default', name: 'edge-1', zones }),
    bindAddress: '127.0.0.1',
    openMetrics: true,
    tls: undefined,
    port: 0,
    socketPath: join(directory, 'api.sock'),
    ...overrides,
  })
  const clean = async (): Promise<void> => {
    await replica.stop()
    await rm(directory, { recursive: true, force: true })
  }
  try {
    await server.start()
  } catch (error) {
    await clean()
    throw error
  }
  return Object.assign(node, {
    server,
    url: `http://127.0.0.1:${server.port}`,
    socketPath: join(directory, 'api.sock'),
    stop: async () => {
      await server.stop()
      await clean()
    },
  })
}

/** What a reader shows over TCP, for now. @param edit the node that may sign edits for it */
export function tokenOf(key: KeyPair = KEYS.owner, edit?: string): { authorization: string } {
  return { authorization: `Bearer ${signToken(key, (FOUNDING[0] as Envelope).id, Date.now(), 300, edit)}` }
}

/** The target of a node of the test mesh, as its own reconciler would compute it. */
export function targetOf(replica: Replica, zones: readonly string[]): string {
  return targetOfSlice(replica.state.resources(), [{ workspace: '*', zones }])
}
