/**
 * One small HTTP request to nginx on this host, over its unix socket or a listener, on a connection of its own. Bounded
 * in time and size. For verification, probes and the live lane only.
 */

import { once } from 'node:events'
import { request, type IncomingMessage, type RequestOptions } from 'node:http'
import { request as requestOverTls } from 'node:https'
import { connect, type Socket } from 'node:net'
import { connect as connectTls, TLSSocket } from 'node:tls'
import { PLANNED_HEADER } from '../../core/names.ts'
import { PROBE_AGENT } from '../rendering/traffic-log.ts'

export interface LocalRequest {
  readonly to:
    | { readonly socketPath: string }
    | {
        readonly address: string
        readonly port: number
        readonly tls?: boolean | undefined
        /** Whether connections begin with a PROXY header there. */
        readonly proxyProtocol?: boolean | undefined
      }
  readonly path: string
  /** The Host header, and over TLS the name that is asked for by SNI. */
  readonly host: string
  readonly timeoutMs: number
}

export interface LocalResponse {
  readonly status: number
  readonly body: string
  /** A site in maintenance answered. */
  readonly isPlanned: boolean
  /** SHA-256 of the certificate that was shown, as X509Certificate has it; undefined without TLS. */
  readonly fingerprint: string | undefined
}

/** A longer body is cut here; what is asked about stands at the beginning. */
const BODY_MAX_BYTES = 4096

/** Rejects with the system's error when nothing answers, or when the time is up. */
export function get(request: LocalRequest): Promise<LocalResponse> {
  return exchange(request, 'GET')
}

/** Like get. */
export function post(request: LocalRequest, body: string): Promise<LocalResponse> {
  return exchange(request, 'POST', body)
}

function exchange(
  { to, path, host, timeoutMs }: LocalRequest,
  method: 'GET' | 'POST',
  sent?: string,
): Promise<LocalResponse> {
  const where = 'socketPath' in to ? to : { host: to.address, port: to.port }
  // Nobody is trusted with anything here: who asks compares the certificate.
  const overTls = { servername: host, rejectUnauthorized: false, ALPNProtocols: ['http/1.1'] }
  const isTls = 'tls' in to && to.tls === true
  const isProxied = 'proxyProtocol' in to && to.proxyProtocol === true
  return new Promise((resolve, reject) => {
    const signal = AbortSignal.timeout(timeoutMs)
    const length = sent === undefined ? {} : { 'content-length': Buffer.byteLength(sent) }
    const headers = { host, 'user-agent': PROBE_AGENT, ...length }
    const options = { ...where, path, method, headers, setHost: false, signal } as const
    const answer = (response: IncomingMessage) => {
      let body = ''
      const isPlanned = response.headers[PLANNED_HEADER.toLowerCase()] !== undefined
      const { socket } = response
      const fingerprint = socket instanceof TLSSocket ? socket.getPeerX509Certificate()?.fingerprint256 : undefined
      const done = () => resolve({ status: response.statusCode ?? 0, body, isPlanned, fingerprint })
      response.setEncoding('utf8')
      response.on('data', (text: string) => {
        body += text
        if (body.length < BODY_MAX_BYTES) return
        done()
        response.destroy()
      })
      response.on('end', done)
      response.on('error', reject)
    }
    const createConnection: RequestOptions['createConnection'] = (_, created) => {
      const made = introduced(to as Listening, timeoutMs)
      made.then(
        (socket) => created(null, isTls ? connectTls({ socket, ...overTls }) : socket),
        (error: Error) => created(error, undefined as never),
      )
      return undefined
    }
    const outgoing = isProxied
      ? request({ ...options, createConnection }, answer)
      : isTls
        ? requestOverTls({ ...options, ...overTls, agent: false }, answer)
        : request({ ...options, agent: false }, answer)
    outgoing.on('error', (error) => reject(signal.aborted ? new Error(`no answer within ${timeoutMs} ms`) : error))
    outgoing.end(sent)
  })
}

interface Listening {
  readonly address: string
  readonly port: number
}

/**
 * A connection that has begun with a PROXY header: this host is the client itself, and speaks for nobody. It ends after
 * timeoutMs, whatever became of it.
 */
export async function introduced({ address, port }: Listening, timeoutMs: number): Promise<Socket> {
  const socket = connect({ host: address, port, signal: AbortSignal.timeout(timeoutMs) })
  // Whoever gets it hears of the end by what reads from it.
  socket.on('error', () => undefined)
  await once(socket, 'connect')
  socket.write('PROXY UNKNOWN\r\n')
  return socket
}
