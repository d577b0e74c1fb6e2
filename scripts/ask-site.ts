/** One request to a real nginx on loopback, as a visitor of a site makes it. Used by the demo and the chaos run. */

import { request, type IncomingHttpHeaders } from 'node:http'

export interface SiteAnswer {
  readonly status: number
  readonly headers: IncomingHttpHeaders
  readonly text: string
}

/** nginx on loopback answers in milliseconds; one that accepts and says nothing must not hold up a run. */
const TIMEOUT_MS = 5000

/** GET / of a host over a connection of its own. Rejects when nobody answers within 5 s. */
export async function askSite(port: number, host: string): Promise<SiteAnswer> {
  return await new Promise((resolve, reject) => {
    const options = { host: '127.0.0.1', port, path: '/', headers: { host }, agent: false }
    const call = request({ ...options, signal: AbortSignal.timeout(TIMEOUT_MS) }, (response) => {
      let text = ''
      response.setEncoding('utf8')
      response.on('data', (chunk: string) => (text += chunk))
      response.on('error', reject)
      response.on('end', () => resolve({ status: response.statusCode ?? 0, headers: response.headers, text }))
    })
    call.on('error', reject)
    call.end()
  })
}
