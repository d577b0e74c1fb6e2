/**
 * An nginx in memory for tests: reads the same files as the real one, understands of them the generation and
 * `no_such_directive`, and can be told to hang, to refuse, or to keep old workers. test/contract holds it to the truth.
 */

import { appendFile, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { MeshError } from '../../src/errors.ts'
import type { Connections, VerifyEndpoint } from '../../src/nginx/applying/verify.ts'
import type { Capabilities, NginxOutput, NginxProcess, WorkerProcess } from '../../src/ports.ts'

interface FakeWorker extends WorkerProcess {
  readonly generation: string
}

const WORKERS = 2

export class FakeNginx implements NginxProcess {
  readonly #directory: string
  #lastPid = 1000
  #master: number | undefined
  #configPath = ''
  #workers: FakeWorker[] = []
  #asked = 0
  /** Signals received, in order. */
  readonly signals: string[] = []
  /** Reloads are taken, and nothing comes of them. */
  ignoresReload = false
  /** Old workers stay, draining, after a reload. */
  keepsOldWorkers = false
  /** Client connections that the status page shows. */
  clients: Connections = { active: 0, reading: 0, writing: 0, waiting: 0 }
  /** The master's words when it refuses a configuration that passes the test. */
  reloadFault: (configPath: string) => Promise<string | undefined> = () => Promise.resolve(undefined)

  constructor(directory: string) {
    this.#directory = directory
  }

  readonly endpoint: VerifyEndpoint = {
    ask: () => {
      const serving = this.#workers.filter(({ draining }) => !draining)
      const worker = serving[(this.#asked += 1) % serving.length]
      return Promise.resolve(worker)
    },
    connections: () => Promise.resolve(this.#master === undefined ? undefined : this.clients),
  }

  capabilities(): Promise<Capabilities> {
    return Promise.resolve({ version: '1.22.1', modules: ['http_stub_status'], dynamic: {} })
  }

  async test(configPath: string): Promise<NginxOutput> {
    const stderr = await fault(configPath)
    return { ok: stderr === undefined, stderr: stderr === undefined ? '' : `nginx: [emerg] ${stderr}\n`, durationMs: 1 }
  }

  async launch(configPath: string): Promise<void> {
    const words = this.#master === undefined ? await fault(configPath) : 'bind() to unix:verify.sock failed'
    if (words !== undefined) throw new MeshError('nginx_failed', `nginx did not start: nginx: [emerg] ${words}`)
    this.#master = this.#pid()
    this.#configPath = configPath
    await this.#load()
  }

  master(): Promise<number | undefined> {
    return Promise.resolve(this.#master)
  }

  workers(masterPid: number): Promise<readonly WorkerProcess[]> {
    return Promise.resolve(masterPid === this.#master ? this.#workers : [])
  }

  workerGroup(): Promise<undefined> {
    return Promise.resolve(undefined)
  }

  signal(masterPid: number, name: 'HUP' | 'QUIT' | 'TERM' | 'USR1'): void {
    if (masterPid !== this.#master) throw new MeshError('nginx_failed', `process ${masterPid} is no longer our nginx`)
    this.signals.push(name)
    if (name === 'QUIT' || name === 'TERM') this.crash()
    if (name === 'HUP' && !this.ignoresReload) void this.#load()
  }

  clearRemains(): Promise<void> {
    return Promise.resolve()
  }

  /** Master and workers are gone at once. */
  crash(): void {
    this.#master = undefined
    this.#workers = []
  }

  /** The workers that drain end. */
  endOldWorkers(): void {
    this.#workers = this.#workers.filter(({ draining }) => !draining)
  }

  async #load(): Promise<void> {
    const master = this.#master
    const words = (await fault(this.#configPath)) ?? (await this.reloadFault(this.#configPath))
    if (words !== undefined) {
      await appendFile(
        join(this.#directory, 'logs', 'error.log'),
        `2030/01/01 00:00:00 [emerg] ${master}#${master}: ${words}\n`,
      )
      return
    }
    const generation = /return 200 "([0-9a-f]{64}) /.exec(await readFile(this.#configPath, 'utf8'))?.[1] ?? ''
    const old = this.keepsOldWorkers ? this.#workers.map((worker) => ({ ...worker, draining: true })) : []
    const fresh = Array.from({ length: WORKERS }, () => ({ pid: this.#pid(), draining: false, generation }))
    this.#workers = [...old, ...fresh]
  }

  #pid(): number {
    return (this.#lastPid += 1)
  }
}

/** nginx's words on what is wrong with a configuration; undefined when nothing is. */
async function fault(configPath: string): Promise<string | undefined> {
  const main = await readFile(configPath, 'utf8').catch(() => undefined)
  if (main === undefined) return `open() "${configPath}" failed (2: No such file or directory)`
  const included = [...main.matchAll(/include "?([^";]+\.conf)"?;/g)].map(([, path]) => path as string)
  for (const path of [configPath, ...included]) {
    const text = await readFile(path, 'utf8').catch(() => undefined)
    if (text === undefined) return `open() "${path}" failed (2: No such file or directory) in ${configPath}:1`
    if (text.includes('no_such_directive')) return `unknown directive "no_such_directive" in ${path}:1`
  }
  return undefined
}
