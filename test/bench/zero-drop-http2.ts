/**
 * An HTTP/2 client for the zero-drop benchmark: one session over TLS, one stream after the other. As browsers do,
 * it leaves a session after its GOAWAY, and sends again only what the server has said that it never touched; that is counted
 * apart. Everything else that goes unanswered is a failure. Counts into a Tally; zero-drop-load.ts runs many.
 */

import { connect, constants, type ClientHttp2Session, type ClientHttp2Stream } from 'node:http2'
import { nextExchange, SITE_HOST, type Exchange } from './zero-drop-exchanges.ts'
import type { FailureKind, Tally } from './zero-drop-tally.ts'

export interface Http2Options {
  readonly port: number
  /** PEM. */
  readonly ca: string
  /** Rest between an answer and the next request. */
  readonly pauseMs: number
  /** As nextExchange() takes it. */
  readonly longEvery: number
  readonly tally: Tally
}

const ANSWER_TIMEOUT_MS = 30_000
const RETRY_MS = 10

export class Http2Client {
  readonly #options: Http2Options
  #session: ClientHttp2Session | undefined
  #isStopping = false
  #isIdle = true
  #timer: NodeJS.Timeout | undefined
  #stopped: () => void = () => undefined

  constructor(options: Http2Options) {
    this.#options = options
  }

  start(): void {
    this.#send(nextExchange(this.#options.longEvery), performance.now())
  }

  /** Resolves when the request under way is answered. */
  stop(): Promise<void> {
    this.#isStopping = true
    return new Promise((resolve) => {
      this.#stopped = resolve
      if (this.#isIdle) this.#end()
    })
  }

  #end(): void {
    clearTimeout(this.#timer)
    this.#session?.removeAllListeners().on('error', () => undefined)
    this.#session?.destroy()
    this.#session = undefined
    this.#stopped()
  }

  #send(exchange: Exchange, began: number): void {
    this.#isIdle = false
    this.#session ??= this.#connect()
    const session = this.#session
    const { method, path, body } = exchange
    const stream = session.request({ ':method': method, ':path': path, ':authority': SITE_HOST })
    this.#watch(session, stream, exchange, began)
    // That of a GET is at its end already.
    if (method === 'POST') stream.end(body)
  }

  #connect(): ClientHttp2Session {
    const { port, ca } = this.#options
    const session = connect(`https://127.0.0.1:${port}`, { ca, servername: SITE_HOST })
    const leave = (reason: string | undefined): void => {
      if (this.#session !== session) return
      this.#session = undefined
      if (this.#isIdle && reason !== undefined) this.#options.tally.failed('unannounced', reason, false)
    }
    session.on('connect', () => this.#options.tally.connected())
    session.on('goaway', () => leave(undefined))
    session.on('error', ({ message }) => leave(message))
    session.on('close', () => leave('session closed without GOAWAY'))
    return session
  }

  #watch(session: ClientHttp2Session, stream: ClientHttp2Stream, exchange: Exchange, began: number): void {
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
      const isLate = performance.now() - began > ANSWER_TIMEOUT_MS
      const isClean = stream.rstCode === constants.NGHTTP2_NO_ERROR
      if (status !== undefined && isWhole && isClean && failure === undefined) {
        const body = Buffer.concat(chunks)
        if (status === 200 && body.equals(exchange.due)) this.#answered(began)
        else this.#fail('wrong', exchange, `${status} ${body.toString('latin1', 0, 80)}`)
        return
      }
      // Above the last stream that the GOAWAY named, or refused as such: no request, by RFC 9113, 6.8 and 8.7.
      if (status === undefined && stream.rstCode === constants.NGHTTP2_REFUSED_STREAM) {
        this.#options.tally.refused()
        if (this.#session === session) this.#session = undefined
        this.#send(exchange, began)
        return
      }
      if (this.#session === session) this.#session = undefined
      const about = `stream ${stream.id ?? 'never sent'}, code ${stream.rstCode}: ${failure?.message ?? ''}`
      this.#fail(isLate ? 'late' : kindOf(status, failure), exchange, about)
    })
  }

  #answered(began: number): void {
    this.#options.tally.answered(performance.now() - began)
    this.#next(this.#options.pauseMs)
  }

  #fail(kind: FailureKind, { method, path }: Exchange, about: string): void {
    this.#options.tally.failed(kind, `${method} ${path} ${about}`)
    this.#next(Math.max(RETRY_MS, this.#options.pauseMs))
  }

  #next(pauseMs: number): void {
    this.#isIdle = true
    if (this.#isStopping) return this.#end()
    const send = (): void =>
      this.#isStopping ? this.#end() : this.#send(nextExchange(this.#options.longEvery), performance.now())
    // Not at once: what the server has said behind the answer is to be read first, as it stands before the next request.
    if (pauseMs === 0) setImmediate(send)
    else this.#timer = setTimeout(send, pauseMs)
  }
}

function kindOf(status: number | undefined, failure: NodeJS.ErrnoException | undefined): FailureKind {
  if (status !== undefined) return 'truncated'
  const code = failure?.code ?? ''
  if (code === 'ECONNREFUSED') return 'connect'
  return code === 'ECONNRESET' || code === 'EPIPE' ? 'reset' : 'closed'
}
