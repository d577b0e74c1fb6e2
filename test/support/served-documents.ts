/**
 * Documents as a real nginx serves them, on ports and in a directory of their own, beside the backends that a test brings.
 * nginx must take them without a word. Ends only what it started.
 */

import { once } from 'node:events'
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import type { AddressInfo, Server } from 'node:net'
import { join } from 'node:path'
import { liveEndpoint } from '../../src/nginx/applying/live-endpoint.ts'
import type { HostLayout } from '../../src/nginx/rendering/host-layout.ts'
import { wholeText } from '../../src/nginx/rendering/live.ts'
import type { RenderInput } from '../../src/nginx/rendering/render-input.ts'
import { ask, freePort, nginxDirectory, serve, testGeneration, type Answer } from './real-nginx.ts'
import { renderYaml } from './resources.ts'

export interface Sent {
  /** The site's, or its host where that is not `NAME.example`. */
  readonly site?: string
  readonly method?: string
  readonly headers?: Record<string, string | string[]>
  readonly body?: string
  /** Whom the request is from. */
  readonly client?: string
}

/** The server's port, once it listens on loopback. */
export async function listening(server: Server): Promise<number> {
  await once(server.listen(0, '127.0.0.1'), 'listening')
  return (server.address() as AddressInfo).port
}

/** Ends servers with their connections. */
export function close(servers: Iterable<Server & { closeAllConnections?: () => void }>): void {
  for (const server of servers) {
    server.close()
    server.closeAllConnections?.()
  }
}

export class ServedDocuments {
  readonly layout: HostLayout
  readonly port: number
  readonly nginx: Awaited<ReturnType<typeof serve>>
  readonly #remove: () => void

  private constructor(layout: HostLayout, nginx: Awaited<ReturnType<typeof serve>>, remove: () => void) {
    this.layout = layout
    this.port = layout.defaultHttpPort
    this.nginx = nginx
    this.#remove = remove
  }

  /** @throws Error with the first problem, or nginx's words */
  static async start(
    yaml: (layout: HostLayout) => string,
    changes: Omit<Partial<RenderInput>, 'host'> & { readonly host?: Partial<HostLayout> } = {},
  ): Promise<ServedDocuments> {
    const { host: own, remove } = nginxDirectory(await freePort())
    const layout = { ...own, ...changes.host }
    try {
      const { generation, problems, live } = renderYaml(yaml(layout), { ...changes, host: layout })
      const { words } = await testGeneration(layout, generation)
      if (problems.length > 0 || words !== '') throw new Error(problems[0]?.message ?? words)
      const nginx = await serve(layout, generation)
      if (live !== undefined) await liveEndpoint(layout.verifySocket).push(wholeText({ stamp: 1, state: live }))
      return new ServedDocuments(layout, nginx, remove)
    } catch (error) {
      remove()
      throw error
    }
  }

  get(path: string, { site = 'a', method = 'GET', headers = {}, body = '', client = '127.0.0.1' }: Sent = {}) {
    const host = site.includes('.') ? site : `${site}.example`
    const all = { host, connection: 'keep-alive', ...headers }
    return ask({ port: this.port, path, method, localAddress: client, headers: all }, body)
  }

  /** The same while connections are drained. */
  drained(path: string, sent: Sent = {}): Promise<Answer> {
    return this.whileDrained(() => this.get(path, sent))
  }

  /** While there is the drain file, every answer ends its connection. */
  async whileDrained<T>(look: () => Promise<T>): Promise<T> {
    writeFileSync(this.layout.drainFile, '')
    try {
      return await look()
    } finally {
      rmSync(this.layout.drainFile)
    }
  }

  /** Looks twice: without and with the drain file. */
  async drainedOrNot(look: () => Promise<unknown>): Promise<void> {
    await look()
    await this.whileDrained(look)
  }

  log(name: string): string {
    return readFileSync(join(this.layout.directory, 'logs', name), 'utf8')
  }

  /** Lines of the error log that nobody should see, and those that match. */
  complaints(also = /\[(?:alert|emerg|crit)\]/): string[] {
    return this.log('error.log')
      .split('\n')
      .filter((line) => /\[(?:alert|emerg|crit)\]/.test(line) || also.test(line))
  }

  async stop(): Promise<void> {
    await this.nginx.stop()
    this.#remove()
  }
}
