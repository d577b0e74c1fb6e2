/**
 * An HTTP/2 client for the zero-drop benchmark: one session over TLS, one stream after the other. As browsers do,
 * it leaves a session after its GOAWAY, and sends again only what the server has said that it never touched; that is counted
 * apart. Everything else that goes unanswered is a failure.
 */

import { connect, constants, type ClientHttp2Session, type ClientHttp2Stream } from 'node:http2'
import { ANSWER_TIMEOUT_MS, Client, type Pace } from './zero-drop-client.ts'
import { SITE_HOST, type Exchange } from './zero-drop-exchanges.ts'
import type { FailureKind } from './zero-drop-tally.ts'

export interface Http2Options extends Pace {
  readonly port: number
  /** PEM. */
  readonly ca: string
}

export class Http2Client extends Client {
  readonly #options: Http2Options
  #session: ClientHttp2Session | undefined

  constructor(options: Http2Options) {
    super(options)
    this.#options = options
  }

  protected override hangUp(): void {
    this.#session?.removeAllListeners().on('error', () => undefined)
    this.#session?.destroy()
    this.#session = undefined
  }

  /** What the server has said behind the answer is to be read first, as it stands before the next request. */
  protected override soon(send: () => void): void {
    setImmediate(send)
  }

  protected override send(exchange: Exchange): void {
    this.#session ??= this.#connect()
    const session = this.#session
    const { method, path, body } = exchange
    const stream = session.request({ ':method': method, ':path': path, ':authority': SITE_HOST })
    this.#watch(session, stream, exchange)
    // That of a GET is at its end already.
    if (method === 'POST') stream.end(body)
  }

  #connect(): ClientHttp2Session {
    const { port, ca } = this.#options
    const session = connect(`https://127.0.0.1:${port}`, { ca, servername: SITE_HOST })
    const leave = (reason: string | undefined): void => {
      if (this.#session !== session) return
      this.#session = undefined
      if (this.exchange === undefined && reason !== undefined) this.tally.failed('unannounced', reason, false)
    }
    session.on('connect', () => this.tally.connected())
    session.on('goaway', () => leave(undefined))
    session.on('error', ({ message }) => leave(message))
    session.on('close', () => leave('session closed without GOAWAY'))
    return session
  }

  #watch(session: ClientHttp2Session, stream: ClientHttp2Stream, exchange: Exchange): void {
    const chunks: Buffer[] = []
    let status: number | undefined
    let failure: NodeJS.ErrnoException | undefined
    let isWhole = false
    const timer = setTimeout(() => stream.close(constants.NGHTTP2_CANCEL), ANSWER_TIMEOUT_MS)
    stream.on('response', (headers) => (status = headers[':status']))
    stream.on('data', (chunk: Buffer) => chunks.push(chunk))
    stream.on('end', () => (isWhole = true))
    stream.on('error', (error) => (failure = error))
    stream.on('close', () => {
      clearTimeout(timer)
      const isLate = this.waitedMs > ANSWER_TIMEOUT_MS
      const isClean = stream.rstCode === constants.NGHTTP2_NO_ERROR
      if (status !== undefined && isWhole && isClean && failure === undefined) {
        const body = Buffer.concat(chunks)
        if (status === 200 && body.equals(exchange.due)) this.answered()
        else this.failed('wrong', `${status} ${body.toString('latin1', 0, 80)}`)
        return
      }
      if (this.#session === session) this.#session = undefined
      // Above the last stream that the GOAWAY named, or refused as such: no request, by RFC 9113, 6.8 and 8.7.
      if (status === undefined && stream.rstCode === constants.NGHTTP2_REFUSED_STREAM) {
        this.tally.refused()
        this.send(exchange)
        return
      }
      const about = `stream ${stream.id ?? 'never sent'}, code ${stream.rstCode}: ${failure?.message ?? ''}`
      this.failed(isLate ? 'late' : kindOf(status, failure), about)
    })
  }
}

function kindOf(status: number | undefined, failure: NodeJS.ErrnoException | undefined): FailureKind {
  if (status !== undefined) return 'truncated'
  const code = failure?.code ?? ''
  if (code === 'ECONNREFUSED') return 'connect'
  return code === 'ECONNRESET' || code === 'EPIPE' ? 'reset' : 'closed'
}
