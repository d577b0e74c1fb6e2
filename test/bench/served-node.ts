/**
 * One whole node in this process with a real nginx in a temporary folder, for benchmarks that put load on it: makes nginx serve
 * YAML documents, applies edits of them one at a time, and reloads the same nginx behind the node's back. No peers, no API.
 */

import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { chmod, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { parseAllDocuments } from 'yaml'
import { systemClock } from '../../src/adapters/clock.ts'
import { sealKeyFromSeed } from '../../src/adapters/identity.ts'
import { Libp2pNetwork } from '../../src/adapters/network.ts'
import { LevelStore } from '../../src/adapters/store.ts'
import { loadConfig } from '../../src/config/config.ts'
import { toWire } from '../../src/core/codec.ts'
import type { Envelope, Value } from '../../src/core/envelope.ts'
import { diffFields } from '../../src/core/resources/flat.ts'
import { fieldsOf, parseDocument, pathOf } from '../../src/core/resources/index.ts'
import { encryptionKey, seal } from '../../src/core/secrets.ts'
import { MeshNode } from '../../src/node.ts'
import { childrenOf, titleOf } from '../../src/nginx/applying/proc.ts'
import type { Receipt } from '../../src/receipt.ts'
import { keyOf, TestMesh } from '../support/authors.ts'
import { endNginx } from '../support/fleet.ts'
import { silentLog } from '../support/silent-log.ts'
import { waitFor } from '../support/wait.ts'
import { rounded } from './measure.ts'

export interface ServedOptions {
  /** YAML documents in any zone. */
  readonly resources: string
  /** Texts of Secrets of zone `*` by their names, sealed for the node. */
  readonly secrets?: Readonly<Record<string, string>>
  /** Settings of `nginx`, as flags: `nginx.worker_processes`. */
  readonly flags?: Readonly<Record<string, string>>
}

export interface Applied {
  /** From the accepted edit to the receipt. */
  readonly totalMs: number
  readonly phases: Readonly<Record<string, number>>
}

const APPLY_LIMIT_MS = 20_000
const RELOAD_LIMIT_MS = 60_000
const run = promisify(execFile)

export class ServedNode {
  readonly node: MeshNode
  readonly nginxDirectory: string
  readonly #directory: string
  readonly #mesh: TestMesh
  readonly #heads: Map<string, { readonly edit: string; readonly fields: ReadonlyMap<string, Value> }>

  private constructor(directory: string, { resources, secrets = {}, flags = {} }: ServedOptions) {
    this.#directory = directory
    this.nginxDirectory = join(directory, 'nginx')
    const key = keyOf('served')
    this.#mesh = new TestMesh([{ key: key.publicKey, name: 'served', zones: ['bench'] }])
    this.#heads = new Map()
    const recipient = encryptionKey(key.seed).publicKey
    const sealed = Object.entries(secrets).map(([name, text]) => this.#sealed(name, text, recipient))
    const founding = [...this.#mesh.founding, ...sealed, ...this.#edits(resources)]
    const config = loadConfig({ env: {}, flags: { data_dir: directory, 'mesh.id': this.#mesh.id, ...flags } })
    const network = new Libp2pNetwork({
      keySeed: key.seed,
      networkId: 'bench',
      bindAddress: '127.0.0.1',
      bindPort: 0,
      gossip: 'off',
      clock: systemClock,
      random: Math.random,
    })
    const store = new LevelStore({ directory: join(directory, 'store'), sealKey: sealKeyFromSeed(key.seed) })
    const adapters = { store, network, clock: systemClock, random: Math.random, serveApi: false }
    this.node = new MeshNode({ config, key, log: silentLog(), adapters, founding })
  }

  /** Resolves when every worker serves the resources. */
  static async start(options: ServedOptions): Promise<ServedNode> {
    const directory = await mkdtemp(join(tmpdir(), 'nxmesh-bench-'))
    // Workers of a root master run as another user.
    await chmod(directory, 0o755)
    const served = new ServedNode(directory, options)
    try {
      await served.node.start()
      const what = (): string => `the first apply: ${JSON.stringify(served.node.receipt)}`
      const isApplied = (): boolean => served.node.isConverged() && served.node.receipt?.problemCount === 0
      await waitFor(isApplied, { what, timeoutMs: APPLY_LIMIT_MS })
      return served
    } catch (error) {
      await served.stop()
      throw error
    }
  }

  /** Has the node take an edit that makes the resources so, and waits until every worker is proven to serve it. */
  async apply(resources: string): Promise<Applied> {
    const before = this.node.receipt?.target
    const acceptedAt = await this.submit(resources)
    for (;;) {
      const { receipt } = this.node
      // Receipts come for other reasons too, such as old workers that have ended.
      if (receipt?.target !== before && receipt?.applied === receipt?.desired && receipt?.error === null) break
      if (performance.now() - acceptedAt > APPLY_LIMIT_MS) throw new Error(`not applied: ${JSON.stringify(receipt)}`)
      await sleep(1)
    }
    const { outcome, durations, problemCount } = this.node.receipt as Receipt
    if (outcome !== 'applied' || problemCount > 0)
      throw new Error(`the edit ended as ${outcome}: ${JSON.stringify(this.node.receipt)}`)
    return { totalMs: rounded(performance.now() - acceptedAt), phases: durations }
  }

  /** Has the node take an edit that makes the resources so; resolves with the moment of acceptance, in performance.now(). */
  async submit(resources: string): Promise<number> {
    const outcomes = await this.node.replica.submit(
      this.#edits(resources).map((edit) => toWire(edit)),
      'api',
    )
    const acceptedAt = performance.now()
    const refused = outcomes.find(({ outcome }) => outcome !== 'stored')
    if (refused !== undefined) throw new Error(`the edit was not taken: ${JSON.stringify(refused)}`)
    return acceptedAt
  }

  /** `nginx -s reload`, as anybody would, on what is applied already; resolves when all old workers have stopped serving. */
  async plainReload(): Promise<void> {
    const old = new Set((await this.workers()).map(({ pid }) => pid))
    const config = join(this.nginxDirectory, 'current', 'nginx.conf')
    await run('nginx', ['-p', `${this.nginxDirectory}/`, '-c', config, '-s', 'reload'])
    const isDone = async (): Promise<boolean> => {
      const serving = (await this.workers()).filter(({ draining }) => !draining)
      return serving.length > 0 && serving.every(({ pid }) => !old.has(pid))
    }
    await waitFor(isDone, { what: 'new workers', timeoutMs: RELOAD_LIMIT_MS })
  }

  /** The nginx.conf that nginx was started with, or reloaded. */
  get main(): string {
    return readFileSync(join(this.nginxDirectory, 'current', 'nginx.conf'), 'utf8')
  }

  /** Of nginx's master. @throws Error when it does not run */
  get master(): number {
    const master = this.node.receipt?.nginx.master
    if (typeof master !== 'number') throw new Error('nginx does not run')
    return master
  }

  async workers(): Promise<readonly { readonly pid: number; readonly draining: boolean }[]> {
    return (await childrenOf(this.master))
      .map((pid) => ({ pid, title: titleOf(pid) }))
      .filter(({ title }) => title.startsWith('nginx: worker process'))
      .map(({ pid, title }) => ({ pid, draining: title.includes('shutting down') }))
  }

  async stop(): Promise<void> {
    await this.node.stop()
    await endNginx(this.nginxDirectory)
    await rm(this.#directory, { recursive: true, force: true, maxRetries: 5 })
  }

  #sealed(name: string, text: string, recipient: string): Envelope {
    const path = `default/*/secret/${name}`
    const fields = seal(Buffer.from(text), { path, recipients: [recipient], random: randomBytes })
    return this.#mesh.edit(path, [['set', '$', true], ...diffFields(new Map(), fields)])
  }

  #edits(resources: string): Envelope[] {
    return parseAllDocuments(resources).map((document) => {
      const resource = parseDocument(document.toJS())
      const [path, fields] = [pathOf(resource), fieldsOf(resource)]
      const head = this.#heads.get(path)
      const changes = diffFields(head?.fields ?? new Map(), fields)
      const edit = this.#mesh.edit(path, head === undefined ? [['set', '$', true], ...changes] : changes, {
        deps: head === undefined ? [] : [head.edit],
      })
      this.#heads.set(path, { edit: edit.id, fields })
      return edit
    })
  }
}
