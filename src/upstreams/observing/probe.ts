/**
 * Asks one endpoint whether it can serve: over HTTP, by taking a TCP connection, or by the health service of gRPC. One
 * connection for each question, bounded in time and size. Concludes nothing; the caller counts.
 */

import { request as requestPlain, type RequestOptions } from 'node:http'
import { connect as connectHttp2, constants } from 'node:http2'
import { request as requestSecure } from 'node:https'
import { connect } from 'node:net'
import { PROXIED_HEADER } from '../../core/names.ts'
import { millisecondsOf, parseEndpoint, type Endpoint } from '../../core/resources/fields.ts'
import type { UpstreamSpec } from '../../core/resources/upstream.ts'

export type HealthCheck = NonNullable<UpstreamSpec['healthCheck']>

/** Whether the endpoint at `address`, as nginx is told of it, passes. Never rejects. */
export type Probe = (address: string, check: HealthCheck) => Promise<boolean>

/** How much of a body is looked at. */
const BODY_MAX_BYTES = 64 * 1024

export const probe: Probe = async (address, check) => {
  const { host, port } = parseEndpoint(address) as Endpoint
  const to = { host, port: check.port ?? port }
  const signal = AbortSignal.timeout(millisecondsOf(check.timeout))
  try {
    if (check.type === 'tcp') return await takesConnection(to, signal)
    return check.type === 'grpc' ? await isServing(to, check, signal) : await answers(to, check, address, signal)
  } catch {
    return false
  }
}

interface Target {
  readonly host: string
  readonly port: number
}

function takesConnection(to: Target, signal: AbortSignal): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const socket = connect({ ...to, signal }, () => {
      socket.destroy()
      resolve(true)
    })
    socket.on('error', reject)
  })
}

function answers(to: Target, check: HealthCheck, address: string, signal: AbortSignal): Promise<boolean> {
  const { scheme, path, host = address, expect } = check
  // Like what nginx passes on, it is no request of this host's own.
  const headers = { host, 'user-agent': 'nxmesh-health', connection: 'close', [PROXIED_HEADER]: '1' }
  const options: RequestOptions = { ...to, path, headers, agent: false, setHost: false, signal }
  return new Promise((resolve, reject) => {
    const outgoing =
      scheme === 'https'
        ? // Whose certificate it is was never asked of the upstream either.
          requestSecure({ ...options, rejectUnauthorized: false })
        : requestPlain(options)
    outgoing.on('error', reject)
    outgoing.on('response', (response) => {
      const status = response.statusCode ?? 0
      const isExpected = expect?.status === undefined ? status >= 200 && status < 400 : expect.status.includes(status)
      const end = (passed: boolean) => {
        resolve(passed)
        response.destroy()
      }
      if (!isExpected || expect?.body === undefined) {
        end(isExpected)
        return
      }
      const wanted = expect.body
      let body = Buffer.alloc(0)
      response.on('data', (chunk: Buffer) => {
        body = Buffer.concat([body, chunk])
        if (body.includes(wanted)) end(true)
        else if (body.length >= BODY_MAX_BYTES) end(false)
      })
      response.on('end', () => resolve(body.includes(wanted)))
      response.on('error', reject)
    })
    outgoing.end()
  })
}

/** `HealthCheckRequest {}`: no compression, no bytes. */
const EMPTY_MESSAGE = Buffer.alloc(5)
/** `HealthCheckResponse { status: SERVING }` */
const SERVING = Buffer.from([0, 0, 0, 0, 2, 8, 1])

/** Asks grpc.health.v1.Health of the whole server. https://github.com/grpc/grpc/blob/master/doc/health-checking.md */
function isServing({ host, port }: Target, check: HealthCheck, signal: AbortSignal): Promise<boolean> {
  const authority = host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`
  const session = connectHttp2(`${check.scheme}://${authority}`, { rejectUnauthorized: false })
  return new Promise<boolean>((resolve, reject) => {
    session.on('error', reject)
    signal.addEventListener('abort', () => reject(signal.reason), { once: true })
    const stream = session.request({
      [constants.HTTP2_HEADER_METHOD]: 'POST',
      [constants.HTTP2_HEADER_PATH]: '/grpc.health.v1.Health/Check',
      [constants.HTTP2_HEADER_AUTHORITY]: check.host ?? authority,
      [constants.HTTP2_HEADER_CONTENT_TYPE]: 'application/grpc',
      te: 'trailers',
    })
    let body = Buffer.alloc(0)
    stream.on('data', (chunk: Buffer) => {
      body = Buffer.concat([body, chunk])
      if (body.length > BODY_MAX_BYTES) reject(new Error('the answer is too long'))
    })
    stream.on('error', reject)
    stream.on('end', () => resolve(body.equals(SERVING)))
    stream.end(EMPTY_MESSAGE)
  }).finally(() => session.destroy())
}
