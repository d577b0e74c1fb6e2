/**
 * How a node catches up: fresh, after it was killed half way, and when it lacks a little. The mesh that it joins is one
 * `mesh-node` process with a filled store, the joining node another process; both on loopback.
 */

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { rm } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import type { Envelope } from '../../src/core/envelope.ts'
import { MeshState } from '../../src/core/state.ts'
import type { Member } from '../support/fleet.ts'
import { Daemons, fillStore } from './daemons.ts'
import type { JoinReport } from './joiner.ts'
import { aim, figuresOf, progress, rounded, type BenchResult } from './measure.ts'
import { Workload } from './workload.ts'

export interface JoinOptions {
  readonly edits: number
  readonly resources: number
  readonly authors: number
  /** Edits that the node of the small difference lacks. */
  readonly missing: number
  /** Fresh joins; the median counts. */
  readonly rounds: number
}

const JOINER = fileURLToPath(new URL('joiner.ts', import.meta.url))
const AIM_MS = 3000

export async function join(options: JoinOptions): Promise<BenchResult> {
  const daemons = await Daemons.create(['server', 'joiner'])
  const [server, joiner] = daemons.members as [Member, Member]
  const workload = new Workload({
    nodes: daemons.members.map(({ key }) => key.publicKey),
    authors: options.authors,
  })
  const edits = Array.from({ length: options.edits }, (_, index) => workload.edit(index % options.resources))
  const all = [...workload.founding, ...edits]
  const { meshId } = workload
  try {
    await daemons.configure(server, { meshId, dials: [], nginx: 'off' })
    await daemons.configure(joiner, { meshId, dials: [server], nginx: 'off' })
    await fillStore(server, all)
    await server.start()
    const expected = stateHashOf(all)
    const attempt = async (): Promise<JoinReport> => {
      const report = await runJoiner(joiner, all.length)
      if (report.stateHash !== expected) throw new Error('the joined node has another state hash than the edits give')
      return report
    }

    const fresh: JoinReport[] = []
    for (let round = 0; round < options.rounds; round += 1) {
      progress(`fresh join ${round + 1} of ${options.rounds}`)
      await rm(joiner.dataDirectory, { recursive: true, force: true })
      fresh.push(await attempt())
    }
    progress('resume after half')
    await rm(joiner.dataDirectory, { recursive: true, force: true })
    await runJoiner(joiner, all.length, Math.floor(all.length / 2))
    const resumed = await attempt()
    progress('small difference')
    await rm(joiner.dataDirectory, { recursive: true, force: true })
    await fillStore(joiner, all.slice(0, all.length - options.missing))
    const small = await attempt()

    const median = fresh.toSorted((a, b) => a.materialisedMs - b.materialisedMs)[(fresh.length - 1) >> 1] as JoinReport
    return {
      bench: 'join',
      options: { ...options },
      rows: [
        { join: 'fresh', ...describe(median, all), rounds: figuresOf(fresh.map((report) => report.storedMs)) },
        { join: 'resumed', ...describe(resumed, all) },
        { join: 'small difference', ...describe(small, all) },
      ],
      aims: [
        aim('fresh_join_stored_ms', median.storedMs, AIM_MS),
        aim('fresh_join_materialised_ms', median.materialisedMs, AIM_MS),
      ],
      notes: [
        'The serving node and the joining node are processes of their own on one machine. Times run from the start of the node, its modules loaded.',
        'Bytes are those of the sockets until all was stored: handshakes, encryption, framing and status included.',
        'The fresh join is the median by materialisedMs; rounds has the spread of storedMs.',
      ],
    }
  } finally {
    await daemons.stop()
  }
}

function describe(report: JoinReport, all: readonly Envelope[]) {
  const { stateHash: _, before, receivedBytes, sentBytes, ...times } = report
  const lacked = all.slice(before)
  const editBytes = lacked.reduce((sum, { size }) => sum + size, 0)
  return {
    lacked: lacked.length,
    ...times,
    editBytes,
    receivedBytes,
    sentBytes,
    wirePerEditByte: rounded((receivedBytes + sentBytes) / Math.max(1, editBytes)),
  }
}

function stateHashOf(envelopes: readonly Envelope[]): string {
  const state = new MeshState()
  for (const envelope of envelopes) state.add(envelope)
  return state.hash()
}

/** Runs the joining process until it holds everything; with `stopAt` until it holds so many, and then there is no report. */
async function runJoiner(member: Member, total: number, stopAt?: number): Promise<JoinReport> {
  const args = [JOINER, member.configFile, String(total), ...(stopAt === undefined ? [] : [String(stopAt)])]
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] })
  let output = ''
  child.stdout.on('data', (data: Buffer) => (output += data.toString()))
  const [code] = (await once(child, 'close')) as [number | null]
  if (code !== 0) throw new Error(`the joining node ended with ${code}`)
  return (stopAt === undefined ? JSON.parse(output) : undefined) as JoinReport
}
