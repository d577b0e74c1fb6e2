/**
 * Real daemons for benchmarks: `mesh-node` processes whose stores are filled beforehand. Everything lies in one temporary
 * folder and ends with `stop`. Used by the join and memory benchmarks.
 */

import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { stringify } from 'yaml'
import { sealKeyFromSeed } from '../../src/adapters/identity.ts'
import { LevelStore } from '../../src/adapters/store.ts'
import { toWire } from '../../src/core/codec.ts'
import type { Envelope } from '../../src/core/envelope.ts'
import { endNginx, freePorts, Member } from '../support/fleet.ts'

const BATCH = 500

export class Daemons {
  readonly directory: string
  readonly members: readonly Member[]

  private constructor(directory: string, members: readonly Member[]) {
    this.directory = directory
    this.members = members
  }

  /** Members with keys and ports, neither configured nor started. */
  static async create(names: readonly string[]): Promise<Daemons> {
    const directory = await mkdtemp(join(tmpdir(), 'nxmesh-bench-'))
    const ports = await freePorts(names.length * 3)
    const members = names.map((name, index) => {
      return new Member(name, join(directory, name), ports.slice(index * 3, index * 3 + 3) as [number, number, number])
    })
    return new Daemons(directory, members)
  }

  /** Writes a member's key and configuration; a second call replaces the configuration. */
  async configure(
    member: Member,
    options: { readonly meshId: string; readonly dials: readonly Member[]; readonly nginx: 'off' | 'own' },
  ): Promise<void> {
    await mkdir(member.directory, { recursive: true })
    await writeFile(join(member.directory, 'node.key'), Buffer.from(member.key.seed).toString('hex'), { mode: 0o600 })
    const config = {
      bind_address: '127.0.0.1',
      bind_port: member.meshPort,
      http_bind_port: member.apiPort,
      data_dir: member.dataDirectory,
      private_key_path: join(member.directory, 'node.key'),
      log_level: 'WARN',
      mesh: { id: options.meshId },
      nodes: options.dials.map(({ key, meshPort }) => ({
        public_key: key.publicKey,
        endpoints: [`127.0.0.1:${meshPort}`],
      })),
      nginx: { mode: options.nginx, default_http_port: member.httpPort, worker_processes: 2 },
    }
    await writeFile(member.configFile, stringify(config))
  }

  async stop(): Promise<void> {
    await Promise.all(this.members.map((member) => member.stop('SIGTERM')))
    await Promise.all(this.members.map((member) => endNginx(join(member.dataDirectory, 'nginx'))))
    await rm(this.directory, { recursive: true, force: true, maxRetries: 5 })
  }
}

/** Puts envelopes into the store of a member that does not run. */
export async function fillStore({ key, dataDirectory }: Member, envelopes: readonly Envelope[]): Promise<void> {
  await mkdir(dataDirectory, { recursive: true })
  const store = new LevelStore({ directory: join(dataDirectory, 'store'), sealKey: sealKeyFromSeed(key.seed) })
  await store.start()
  for (let at = 0; at < envelopes.length; at += BATCH) {
    await store.append(envelopes.slice(at, at + BATCH).map((envelope) => ({ id: envelope.id, wire: toWire(envelope) })))
  }
  await store.stop()
}
