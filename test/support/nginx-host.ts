/**
 * A host for tests with a real nginx: a directory of its own, free ports, hand-made units, an applier on it. Ends the
 * nginx processes that it started, by pid, and removes the directory.
 */

import { chmod, mkdtemp, readFile, rm } from 'node:fs/promises'
import { createServer, request, type Agent } from 'node:http'
import { createServer as createTcpServer, type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { systemClock } from '../../src/adapters/clock.ts'
import { LocalNginx } from '../../src/adapters/nginx-process.ts'
import { sha256 } from '../../src/core/canonical.ts'
import type { Slice } from '../../src/core/slice.ts'
import { Applier } from '../../src/nginx/applying/apply.ts'
import { LOGS } from '../../src/nginx/applying/logs.ts'
import { allPids, childrenOf, openFilesOf, titleOf, workingDirectoryOf } from '../../src/nginx/applying/proc.ts'
import type { ApplyRequest } from '../../src/nginx/applying/run.ts'
import type { ApplierOptions } from '../../src/nginx/applying/settings.ts'
import type { HostLayout } from '../../src/nginx/rendering/host-layout.ts'
import { assemble } from '../../src/nginx/rendering/assemble.ts'
import type { Unit } from '../../src/nginx/rendering/unit.ts'
import { waitFor } from './wait.ts'

export const NOTHING: Slice = { resources: [], problems: [], target: sha256('') }
export const CAPABILITIES = { version: '1.22.1', modules: ['http_stub_status'], dynamic: {} }

/** Settings that keep tests short. */
export const QUICK = { verifyMs: 3_000, gateWaitMs: 1_000, probeTimeoutMs: 1_000 } as const

export interface SiteParts {
  readonly port: number
  readonly host?: string
  readonly address?: string
  /** What `/` does. Default: answer 200 with the site's name. */
  readonly body?: string
  readonly needs?: readonly string[]
}

/** A site unit as rendering makes it, drain twin included. */
export function site(name: string, drainFile: string, parts: SiteParts): Unit {
  const { port, host = `${name}.test`, address = '127.0.0.1', body = `return 200 "${name}\\n";`, needs = [] } = parts
  const path = `default/eu/site/${name}`
  const text = `server {
  listen ${address}:${port};
  server_name ${host};
  set $nxmesh_site "${path}";
  location / { if (-f "${drainFile}") { return 418; } error_page 418 = @drain; ${body} }
  location @drain { keepalive_timeout 0; ${body} }
}
`
  return {
    path,
    kind: 'site',
    text,
    digest: sha256(text),
    needs,
    listeners: [{ address, port, tls: false }],
    hosts: [host],
  }
}

export function upstream(name: string, server: string): Unit {
  const text = `upstream ${name} { server ${server}; }\n`
  return {
    path: `default/eu/upstream/${name}`,
    kind: 'upstream',
    text,
    digest: sha256(text),
    needs: [],
    listeners: [],
    hosts: [],
  }
}

/** A port on loopback that was free a moment ago. */
export async function freePort(): Promise<number> {
  const server = createTcpServer()
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  await new Promise((resolve) => server.close(resolve))
  return port
}

/** An HTTP server to proxy to; its answer can be changed. */
export async function backend(): Promise<{ port: number; status: number; [Symbol.asyncDispose](): Promise<void> }> {
  const state = { status: 200 }
  const server = createServer((_, response) => response.writeHead(state.status).end('from the backend\n'))
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return Object.assign(state, {
    port: (server.address() as AddressInfo).port,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  })
}

/** GET / with this Host header; over the agent's kept-alive connection when one is given. */
export function fetchRoot(
  port: number,
  host: string,
  agent: Agent | false = false,
): Promise<{ status: number; body: string }> {
  return new Promise((resolve, reject) => {
    const outgoing = request(
      { agent, host: '127.0.0.1', port, path: '/', headers: { host }, timeout: 5_000 },
      (response) => {
        let body = ''
        response.setEncoding('utf8').on('data', (text: string) => (body += text))
        response.on('end', () => resolve({ status: response.statusCode ?? 0, body }))
        response.on('error', reject)
      },
    )
    outgoing.on('timeout', () => outgoing.destroy(new Error('no answer')))
    outgoing.on('error', reject)
    outgoing.end()
  })
}

interface HostOptions {
  readonly binary?: string
  readonly mode?: 'own' | 'attach'
  /** Paths of dynamic modules to load. */
  readonly modules?: readonly string[]
  readonly liveLane?: boolean
  readonly workers?: number
  /** Whether modules are found by themselves, as on a real host; not unless told. */
  readonly findsModules?: boolean
}

export class NginxHost {
  readonly layout: HostLayout
  readonly nginx: LocalNginx

  constructor(directory: string, options: HostOptions = {}) {
    const { binary = 'nginx', mode = 'own', modules = [], liveLane = true, workers = 2, findsModules = false } = options
    this.layout = {
      directory,
      pidFile: join(directory, 'nginx.pid'),
      verifySocket: join(directory, 'private', 'verify.sock'),
      drainFile: join(directory, 'draining'),
      defaultHttpPort: 8080,
      workerProcesses: workers,
      workerShutdownTimeoutSeconds: 5,
      modules,
      liveLane,
    }
    const found = findsModules ? {} : { modulesDirectory: join(directory, 'no-modules') }
    this.nginx = new LocalNginx({ ...this.layout, binary, mode, ...found })
  }

  static async create(options?: HostOptions): Promise<NginxHost> {
    const directory = await mkdtemp(join(tmpdir(), 'nxmesh-nginx-'))
    // Workers of a root master run as another user, and look for the drain file.
    await chmod(directory, 0o755)
    return new NginxHost(directory, options)
  }

  site(name: string, parts: SiteParts): Unit {
    return site(name, this.layout.drainFile, parts)
  }

  assemble(units: readonly Unit[]) {
    return assemble(units, { slice: NOTHING, capabilities: CAPABILITIES, host: this.layout })
  }

  request(units: readonly Unit[], rest: Partial<ApplyRequest> = {}): ApplyRequest {
    return { units, problems: [], assemble: (some) => this.assemble(some), drainMs: 0, bakeMs: 0, ...rest }
  }

  /** An applier as a new daemon would make one, not booted. */
  applier(options: Partial<ApplierOptions> = {}): Applier {
    const { settings, ...rest } = options
    return new Applier({
      layout: this.layout,
      nginx: this.nginx,
      clock: systemClock,
      random: () => 0.5,
      settings: { ...QUICK, ...settings },
      ...rest,
    })
  }

  /** One that has booted and made nginx serve. */
  async booted(options: Partial<ApplierOptions> = {}): Promise<Applier> {
    const applier = this.applier(options)
    await applier.boot(() => this.assemble([]))
    const { error } = await applier.ensureServing()
    if (error !== undefined) throw new Error(error.message)
    return applier
  }

  /** As a client, which is not taken for a probe. */
  get(port: number, host: string): Promise<{ status: number; body: string }> {
    return fetchRoot(port, host)
  }

  async master(): Promise<number> {
    return waitFor(() => this.nginx.master(), { what: 'a master' })
  }

  async workers(): Promise<readonly number[]> {
    const workers = await this.nginx.workers(await this.master())
    return workers.filter(({ draining }) => !draining).map(({ pid }) => pid)
  }

  /** The same, once there are as many as there should be: the master starts one after the other. */
  allWorkers(): Promise<readonly number[]> {
    const all = async () => {
      const workers = await this.workers()
      return workers.length === this.layout.workerProcesses ? workers : undefined
    }
    return waitFor(all, { what: 'all workers to be there' })
  }

  log(name: (typeof LOGS)[number]): Promise<string> {
    return readFile(join(this.layout.directory, 'logs', name), 'utf8')
  }

  /** Every nginx process of this directory, orphans too. */
  async processes(): Promise<readonly number[]> {
    const master = await this.nginx.master()
    const found = new Set(master === undefined ? [] : [master, ...(await childrenOf(master))])
    for (const pid of await allPids()) {
      if (!titleOf(pid).startsWith('nginx: ') || (await workingDirectoryOf(pid)) !== this.layout.directory) continue
      if ((await openFilesOf(pid)).some((file) => file.startsWith(`${this.layout.directory}/`))) found.add(pid)
    }
    return [...found]
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // A master that was starting a worker as it was ended leaves it behind.
    const areGone = async () => {
      const left = await this.processes()
      for (const pid of left) {
        try {
          process.kill(pid, 'SIGKILL')
        } catch {
          // It had ended by itself.
        }
      }
      return left.length === 0
    }
    await waitFor(areGone, { what: 'nginx to end' })
    await rm(this.layout.directory, { recursive: true, force: true })
  }
}
