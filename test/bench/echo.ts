/**
 * Starts and ends the echo backend of the benchmarks that put load on nginx, a process of its own (echo-backend.ts), so that
 * its work is not done by the process that measures.
 */

import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'

/** The echo's process. */
export class EchoBackend {
  readonly port: number
  readonly #child: ChildProcess

  private constructor(child: ChildProcess, port: number) {
    this.#child = child
    this.port = port
  }

  static async start(): Promise<EchoBackend> {
    const child = fork(new URL('./echo-backend.ts', import.meta.url))
    const [port] = (await once(child, 'message')) as [number]
    return new EchoBackend(child, port)
  }

  async stop(): Promise<void> {
    const exited = once(this.#child, 'exit')
    this.#child.disconnect()
    await exited
  }
}
