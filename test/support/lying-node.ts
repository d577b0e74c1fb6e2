/** A node that is broken into: passes everything on to an honest one, and changes what it answers. For tests of meshctl. */

import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { http } from './http.ts'

export interface LyingNode extends AsyncDisposable {
  readonly url: string
  /** Bodies of what was handed in. */
  readonly taken: string[]
}

/** @param lie the answer to a GET of a path with its query, from the true one. */
export async function lyingNode(honest: string, lie: (path: string, truth: unknown) => unknown): Promise<LyingNode> {
  const taken: string[] = []
  const server = createServer((request, response) => {
    void (async () => {
      const { method = 'GET', url: path = '' } = request
      let body = ''
      for await (const chunk of request) body += String(chunk)
      if (method === 'POST') taken.push(body)
      const headers = { 'content-type': 'application/json', authorization: request.headers.authorization ?? '' }
      const answer = await http(honest, path, { method, headers, ...(method === 'GET' ? {} : { body }) })
      const isLie = method === 'GET' && answer.status === 200
      response.setHeader('content-type', 'application/json')
      response.writeHead(answer.status).end(isLie ? JSON.stringify(lie(path, answer.json())) : answer.text)
    })()
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    taken,
    [Symbol.asyncDispose]: async () => {
      await new Promise((resolve) => server.close(resolve).closeAllConnections())
    },
  }
}
