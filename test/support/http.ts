/** Plain HTTP for tests: over TCP or a unix socket, with any header, and nothing done behind the test's back. */

import { request as httpRequest } from 'node:http'
import { connect } from 'node:net'

export interface HttpAnswer {
  readonly status: number
  readonly headers: Readonly<Record<string, string | string[] | undefined>>
  readonly text: string
  /** The body read as JSON; what it is, the test says. */
  json(): unknown
}

export interface HttpCall {
  readonly method?: string
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: string
}

/** Who accepts and never answers must not hold up a test until its own end. */
const TIMEOUT_MS = 60_000

/** @param base `http://127.0.0.1:port` or `unix:/path`. */
export async function http(
  base: string,
  path: string,
  { method = 'GET', headers = {}, body }: HttpCall = {},
): Promise<HttpAnswer> {
  const place = base.startsWith('unix:')
    ? { socketPath: base.slice(5) }
    : { host: new URL(base).hostname, port: new URL(base).port }
  return await new Promise((resolve, reject) => {
    const signal = AbortSignal.timeout(TIMEOUT_MS)
    const request = httpRequest({ ...place, path, method, headers, agent: false, signal }, (response) => {
      const chunks: Buffer[] = []
      response.on('data', (chunk: Buffer) => chunks.push(chunk))
      response.on('error', reject)
      response.on('end', () => {
        const text = Buffer.concat(chunks).toString('utf8')
        resolve({
          status: response.statusCode ?? 0,
          headers: response.headers,
          text,
          json: () => JSON.parse(text) as unknown,
        })
      })
    })
    request.on('error', reject)
    request.end(body)
  })
}

/** Sends raw bytes and resolves with everything that comes back until the server closes. */
export async function rawHttp(port: number, text: string): Promise<string> {
  return await new Promise((resolve, reject) => {
    let answer = ''
    const socket = connect(port, '127.0.0.1', () => socket.write(text))
    socket.setEncoding('utf8')
    socket.on('data', (chunk: string) => (answer += chunk))
    socket.on('error', reject)
    socket.on('close', () => resolve(answer))
  })
}
