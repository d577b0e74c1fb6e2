/**
 * One small HTTP request to nginx on this host, over its unix socket or a listener, on a connection of its own. Bounded
 * in time and size. For verification, probes and the live lane only.
 */

import { request } from 'node:http'
import { PLANNED_HEADER } from '../../core/names.ts'

export interface LocalRequest {
  readonly to: { readonly socketPath: string } | { readonly address: string; readonly port: number }
  readonly path: string
  /** The Host header. */
  readonly host: string
  readonly timeoutMs: number
}

export interface LocalResponse {
  readonly status: number
  readonly body: string
  /** A site in maintenance answered. */
  readonly isPlanned: boolean
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
  return new Promise((resolve, reject) => {
    const signal = AbortSignal.timeout(timeoutMs)
    const length = sent === undefined ? {} : { 'content-length': Buffer.byteLength(sent) }
    const headers = { host, 'user-agent': 'nxmesh-probe', ...length }
    const options = { ...where, path, method, headers, agent: false, setHost: false, signal } as const
    const outgoing = request(options, (response) => {
      let body = ''
      const isPlanned = response.headers[PLANNED_HEADER.toLowerCase()] !== undefined
      const done = () => resolve({ status: response.statusCode ?? 0, body, isPlanned })
      response.setEncoding('utf8')
      response.on('data', (text: string) => {
        body += text
        if (body.length < BODY_MAX_BYTES) return
        done()
        response.destroy()
      })
      response.on('end', done)
      response.on('error', reject)
    })
    outgoing.on('error', (error) => reject(signal.aborted ? new Error(`no answer within ${timeoutMs} ms`) : error))
    outgoing.end(sent)
  })
}
