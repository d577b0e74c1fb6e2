/**
 * A real nginx with a backend, for tests of policies: serves what documents render to, asks sites as different clients,
 * and reads the access log. Ends only what it started.
 */

import { once } from 'node:events'
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import type { HostLayout } from '../../src/nginx/rendering/host-layout.ts'
import type { RenderInput } from '../../src/nginx/rendering/render.ts'
import { ask, freePort, nginxDirectory, serve, testGeneration, type Answer } from './real-nginx.ts'
import { renderYaml } from './resources.ts'
import { waitFor } from './wait.ts'

export interface Asked {
  readonly headers?: Record<string, string>
  readonly method?: string
  readonly body?: string
  /** Whom the request is from. */
  readonly client?: string
}

/** What every site of these tests may use: an upstream `app`, and files below a directory. */
export interface Ground {
  readonly backend: number
  readonly root: string
}

export class GuardedHost {
  /** Requests that reached the backend. */
  asked = 0
  /** Requests that the backend has not answered yet; see `hold`. */
  readonly held: ServerResponse[] = []
  readonly #port: number
  readonly #directory: string
  readonly #drainFile: string
  readonly #ends: (() => unknown)[] = []

  private constructor(port: number, directory: string, drainFile: string) {
    this.#port = port
    this.#directory = directory
    this.#drainFile = drainFile
  }

  /** @throws Error with the first problem, or nginx's words */
  static async start(
    yaml: (ground: Ground) => string,
    changes: Omit<Partial<RenderInput>, 'host'> & { host?: Partial<HostLayout> } = {},
  ): Promise<GuardedHost> {
    const port = await freePort()
    const { host, remove } = nginxDirectory(port)
    const guarded = new GuardedHost(port, host.directory, host.drainFile)
    guarded.#ends.push(remove)
    try {
      const backend = await guarded.#backend()
      const root = join(host.directory, 'www')
      mkdirSync(join(root, 'files', 'sub'), { recursive: true })
      for (const name of ['index.html', 'sub/index.html']) writeFileSync(join(root, 'files', name), 'a file')
      const { modules = [], ...told }: Partial<HostLayout> = changes.host ?? {}
      const { generation, problems } = renderYaml(yaml({ backend, root }), {
        ...changes,
        host: { ...host, ...told, modules },
      })
      const { words } = await testGeneration({ ...host, modules }, generation)
      if (problems.length > 0 || words !== '') throw new Error(problems[0]?.message ?? words)
      const { stop } = await serve({ ...host, modules }, generation)
      guarded.#ends.push(stop)
      return guarded
    } catch (error) {
      await guarded.stop()
      throw error
    }
  }

  async #backend(): Promise<number> {
    const backend = createServer((request, response) => {
      this.asked += 1
      request.resume()
      // As some applications do, whoever asks.
      response.setHeader('Access-Control-Allow-Origin', '*')
      if (request.url?.startsWith('/leak') === true) {
        response.setHeader('Content-Type', 'text/html')
        response.end(
          '<p>You have an error in your SQL syntax; check the manual that corresponds to your MySQL server</p>',
        )
      } else if (request.url?.startsWith('/held') === true) this.held.push(response)
      else response.end(`from the backend ${request.headers.authorization ?? ''}`)
    }).listen(0, '127.0.0.1')
    this.#ends.push(() => {
      backend.closeAllConnections()
      return new Promise((resolve) => backend.close(resolve))
    })
    await once(backend, 'listening')
    return (backend.address() as AddressInfo).port
  }

  get(site: string, path: string, { headers = {}, method = 'GET', body = '', client = '127.0.0.1' }: Asked = {}) {
    const all = { host: `${site}.example`, connection: 'keep-alive', ...headers }
    return ask({ port: this.#port, path, method, localAddress: client, headers: all }, body)
  }

  /** The same while connections are drained. */
  async drained(site: string, path: string, asked: Asked = {}): Promise<Answer> {
    writeFileSync(this.#drainFile, '')
    try {
      return await this.get(site, path, asked)
    } finally {
      rmSync(this.#drainFile)
    }
  }

  /** The last line of the access log about this path, once it is there. */
  logged(uri: string): Promise<Record<string, string>> {
    const lines = () =>
      readFileSync(join(this.#directory, 'logs', 'access.log'), 'utf8')
        .trimEnd()
        .split('\n')
    return waitFor(
      () =>
        lines()
          .map((line) => JSON.parse(line) as Record<string, string>)
          .findLast((line) => line['uri'] === uri),
      { what: `a line about ${uri} in the access log` },
    )
  }

  /** What nginx said. */
  errors(): string {
    return readFileSync(join(this.#directory, 'logs', 'error.log'), 'utf8')
  }

  async stop(): Promise<void> {
    for (const end of this.#ends.toReversed()) await end()
  }
}
