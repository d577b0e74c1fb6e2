/**
 * A strict HTTP/1.1 client over a raw socket, for the zero-drop benchmark: one kept-alive connection, no retries. It believes
 * what the server says of the connection, so that a close which no answer announced is a failure.
 */

import { connect, type Socket } from 'node:net'
import { ANSWER_TIMEOUT_MS, Client, type Pace } from './zero-drop-client.ts'
import { SITE_HOST, type Exchange } from './zero-drop-exchanges.ts'
import type { FailureKind } from './zero-drop-tally.ts'

export interface Http1Options extends Pace {
  readonly port: number
  /** Looks at the first Connection header alone, as some clients do. */
  readonly readsFirstOnly: boolean
}

interface Head {
  readonly status: number
  readonly length: number
  readonly closes: boolean
  /** Where the body begins. */
  readonly at: number
}

export class Http1Client extends Client {
  readonly #options: Http1Options
  #socket: Socket | undefined
  /** Of the request under way. */
  #received: Buffer = Buffer.alloc(0)
  #head: Head | undefined
  #timer: NodeJS.Timeout | undefined

  constructor(options: Http1Options) {
    super(options)
    this.#options = options
  }

  protected override hangUp(): void {
    clearTimeout(this.#timer)
    this.#socket?.removeAllListeners().on('error', () => undefined)
    this.#socket?.destroy()
    this.#socket = undefined
  }

  protected override send({ method, path, body }: Exchange): void {
    this.#received = Buffer.alloc(0)
    this.#head = undefined
    this.#timer = setTimeout(() => this.#fail('late'), ANSWER_TIMEOUT_MS)
    this.#socket ??= this.#connect()
    const length = method === 'POST' ? `Content-Length: ${body.length}\r\n` : ''
    const head = `${method} ${path} HTTP/1.1\r\nHost: ${SITE_HOST}\r\n${length}\r\n`
    // In one write: nginx must not see half of it.
    this.#socket.write(body.length === 0 ? head : Buffer.concat([Buffer.from(head), body]))
  }

  #connect(): Socket {
    const socket = connect({ host: '127.0.0.1', port: this.#options.port, noDelay: true })
    let isConnected = false
    socket.on('connect', () => {
      isConnected = true
      this.tally.connected()
    })
    socket.on('data', (chunk) => this.#onData(socket, chunk))
    socket.on('end', () => this.#onClosed(socket, 'closed'))
    socket.on('error', (error: NodeJS.ErrnoException) =>
      this.#onClosed(socket, isConnected ? 'reset' : 'connect', error.code),
    )
    return socket
  }

  #onData(socket: Socket, chunk: Buffer): void {
    if (socket !== this.#socket) return
    if (this.exchange === undefined) return this.#fail('malformed', 'bytes that nobody asked for')
    this.#received = this.#received.length === 0 ? chunk : Buffer.concat([this.#received, chunk])
    this.#head ??= this.#readHead()
    if (this.#head === undefined) return
    const { status, length, closes, at } = this.#head
    if (this.#received.length < at + length) return
    if (this.#received.length > at + length) return this.#fail('malformed', 'more than its length')
    if (status !== 200 || !this.#received.subarray(at).equals(this.exchange.due))
      return this.#fail('wrong', `${status} ${this.#received.subarray(at, at + 80).toString('latin1')}`)
    // The server ends it; what it still says there concerns nobody.
    if (closes) this.#socket = undefined
    clearTimeout(this.#timer)
    this.answered()
  }

  #readHead(): Head | undefined {
    const end = this.#received.indexOf('\r\n\r\n')
    if (end < 0) return undefined
    const [first = '', ...lines] = this.#received.toString('latin1', 0, end).split('\r\n')
    const values = (name: string): string[] =>
      lines.filter((line) => line.toLowerCase().startsWith(name)).map((line) => line.slice(name.length).trim())
    const status = /^HTTP\/1\.1 (\d{3}) /.exec(first)?.[1]
    const length = values('content-length:')
    const connection = values('connection:')
    if (status === undefined || length.length !== 1 || connection.length > 1) {
      this.#fail('malformed', `${first}, ${length.length} lengths, Connection: ${connection.join(' and ')}`)
      return undefined
    }
    const read = this.#options.readsFirstOnly ? connection.slice(0, 1) : connection
    const closes = read.some((value) => value.toLowerCase() === 'close')
    return { status: Number(status), length: Number(length[0]), closes, at: end + 4 }
  }

  #onClosed(socket: Socket, kind: FailureKind, code = ''): void {
    if (socket !== this.#socket) return
    if (this.exchange === undefined) {
      this.tally.failed('unannounced', `idle connection closed ${code}`, false)
      this.#drop()
      return
    }
    this.#fail(this.#received.length > 0 ? 'truncated' : kind, code)
  }

  #fail(kind: FailureKind, about = ''): void {
    clearTimeout(this.#timer)
    this.#drop()
    this.failed(kind, about)
  }

  #drop(): void {
    const socket = this.#socket
    this.#socket = undefined
    socket?.destroy()
  }
}
