/**
 * A real nginx with a backend, for tests of policies: serves what documents render to, asks sites as different clients,
 * and reads the access log. Ends only what it started.
 */

import { mkdirSync, writeFileSync } from 'node:fs'
import { createServer, type ServerResponse } from 'node:http'
import { join } from 'node:path'
import type { HostLayout } from '../../src/nginx/rendering/host-layout.ts'
import type { RenderInput } from '../../src/nginx/rendering/render-input.ts'
import { close, listening, ServedDocuments, type Sent } from './served-documents.ts'
import { waitFor } from './wait.ts'

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
  readonly #backend = this.#backendServer()
  #served: ServedDocuments | undefined

  private constructor() {}

  /** @throws Error with the first problem, or nginx's words */
  static async start(
    yaml: (ground: Ground) => string,
    changes: Omit<Partial<RenderInput>, 'host'> & { readonly host?: Partial<HostLayout> } = {},
  ): Promise<GuardedHost> {
    const guarded = new GuardedHost()
    try {
      const backend = await listening(guarded.#backend)
      guarded.#served = await ServedDocuments.start(({ directory }) => {
        const root = join(directory, 'www')
        mkdirSync(join(root, 'files', 'sub'), { recursive: true })
        for (const name of ['index.html', 'sub/index.html']) writeFileSync(join(root, 'files', name), 'a file')
        return yaml({ backend, root })
      }, changes)
      return guarded
    } catch (error) {
      await guarded.stop()
      throw error
    }
  }

  #backendServer() {
    return createServer((request, response) => {
      this.asked += 1
      request.resume()
      response.setHeader('X-Asked-With', request.headers.cookie ?? '')
      // As some applications do, whoever asks.
      response.setHeader('Access-Control-Allow-Origin', '*')
      if (request.url?.startsWith('/leak') === true) {
        response.setHeader('Content-Type', 'text/html')
        response.end(
          '<p>You have an error in your SQL syntax; check the manual that corresponds to your MySQL server</p>',
        )
      } else if (request.url?.startsWith('/held') === true) this.held.push(response)
      else response.end(`from the backend ${request.headers.authorization ?? ''}`)
    })
  }

  get #running(): ServedDocuments {
    return this.#served as ServedDocuments
  }

  get(site: string, path: string, sent: Sent = {}) {
    return this.#running.get(path, { ...sent, site })
  }

  /** The same while connections are drained. */
  drained(site: string, path: string, sent: Sent = {}) {
    return this.#running.drained(path, { ...sent, site })
  }

  /** The last line of the access log about this path, once it is there. */
  logged(uri: string): Promise<Record<string, string>> {
    const lines = () => this.#running.log('access.log').trimEnd().split('\n')
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
    return this.#running.log('error.log')
  }

  /** How many expressions nginx gave up on, by the limit of steps: in the numbers of PCRE and PCRE2. */
  gaveUp(): number {
    return this.errors().match(/\[alert\].* failed: (?:-8|-47) on /g)?.length ?? 0
  }

  async stop(): Promise<void> {
    await this.#served?.stop()
    close([this.#backend])
  }
}
