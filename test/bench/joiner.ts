/**
 * The child process of the join benchmark: a whole node that joins a mesh, counts the bytes on its sockets and says on
 * stdout, as one line of JSON, when it had everything. A process of its own, so that nothing is compiled or cached before.
 * Usage: node test/bench/joiner.ts CONFIG ENVELOPES [STOP_AT]   ends itself, without a word, once it holds STOP_AT envelopes.
 */

import { subscribe } from 'node:diagnostics_channel'
import type { Socket } from 'node:net'
import { loadKey } from '../../src/adapters/identity.ts'
import { loadConfig } from '../../src/config/config.ts'
import { createLog } from '../../src/log.ts'
import { createMetrics } from '../../src/metrics.ts'
import { MeshNode, realAdapters } from '../../src/node.ts'
import { waitFor } from '../support/wait.ts'
import { CpuMeter, rounded } from './measure.ts'

export interface JoinReport {
  /** Envelopes that the store held at the start. */
  readonly before: number
  /** From the start of the node, ms: the first connection, all stored durably, the state hash known. */
  readonly connectedMs: number
  readonly storedMs: number
  readonly materialisedMs: number
  readonly cpuMs: number
  readonly stateHash: string
  /** Bytes on the sockets when all was stored: with handshakes, encryption, framing and status. */
  readonly receivedBytes: number
  readonly sentBytes: number
}

const DEADLINE_MS = 120_000

const [configFile, wanted, stopAt] = process.argv.slice(2)
const total = Number(wanted)
const sockets = new Set<Socket>()
for (const channel of ['net.client.socket', 'net.server.socket']) {
  subscribe(channel, (message) => sockets.add((message as { socket: Socket }).socket))
}

const config = loadConfig({ file: configFile, env: {} })
const key = await loadKey({ file: config.privateKeyPath, env: {}, publicKeys: [] })
const log = createLog({ level: config.logLevel, format: 'text', stream: process.stderr, now: Date.now })
const metrics = createMetrics()
const adapters = { ...realAdapters(config, key, log, metrics), serveApi: false }
const node = new MeshNode({ config, key, log, metrics, adapters })
const { state } = node.replica

const cpu = new CpuMeter()
const began = performance.now()
const since = (): number => rounded(performance.now() - began)
let storedMs = 0
let bytes = { received: 0, sent: 0 }
const everything = Promise.withResolvers<void>()
const look = (): void => {
  if (stopAt !== undefined && state.history.size >= Number(stopAt)) process.exit(0)
  if (state.history.size < total || storedMs > 0) return
  storedMs = since()
  for (const { bytesRead, bytesWritten } of sockets) {
    bytes = { received: bytes.received + bytesRead, sent: bytes.sent + bytesWritten }
  }
  everything.resolve()
}
node.replica.onStored(look)
await node.start()
const before = state.history.size
await waitFor(() => adapters.network.connected.length > 0, { what: 'a connection', timeoutMs: 30_000 })
const connectedMs = since()
// It may have had everything from the start.
look()
setTimeout(() => everything.reject(new Error(`still without everything after ${DEADLINE_MS} ms`)), DEADLINE_MS).unref()
await everything.promise
const stateHash = state.hash()
const report: JoinReport = {
  before,
  connectedMs,
  storedMs,
  materialisedMs: since(),
  cpuMs: rounded(cpu.ms),
  stateHash,
  receivedBytes: bytes.received,
  sentBytes: bytes.sent,
}
process.stdout.write(`${JSON.stringify(report)}\n`)
await node.stop()
process.exit(0)
