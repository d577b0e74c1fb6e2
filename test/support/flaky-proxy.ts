/** A proxy before a node that loses answers or says no, for tests of what a client makes of it. */

import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { http } from './http.ts'

/** pass: as if it were not there. lose_answer: the node takes it, the caller hears nothing. lose: nobody hears. limit: 429. */
export type Mood = 'pass' | 'lose_answer' | 'lose' | 'limit'

export interface FlakyProxy {
  readonly url: string
  readonly posts: () => number
  stop(): Promise<void>
}

/** @param moodOf decides on the nth POST, from 1; everything else passes. @param socketPath where it listens; default: a port. */
export async function startFlakyProxy(
  target: string,
  moodOf: (post: number) => Mood,
  socketPath?: string,
): Promise<FlakyProxy> {
  let posts = 0
  const answer = async (incoming: IncomingMessage, outgoing: ServerResponse): Promise<void> => {
    const chunks: Buffer[] = []
    for await (const chunk of incoming as AsyncIterable<Buffer>) chunks.push(chunk)
    const isPost = incoming.method === 'POST'
    if (isPost) posts += 1
    const mood = isPost ? moodOf(posts) : 'pass'
    if (mood === 'lose') return void outgoing.destroy()
    if (mood === 'limit') {
      const problem = { type: 'x', title: 'x', status: 429, code: 'rate_limited', detail: 'too many' }
      outgoing.writeHead(429, { 'content-type': 'application/problem+json' }).end(JSON.stringify(problem))
      return
    }
    const body = Buffer.concat(chunks).toString('utf8')
    const { authorization } = incoming.headers
    const { status, text, headers } = await http(target, incoming.url as string, {
      method: incoming.method as string,
      headers: {
        ...(isPost ? { 'content-type': 'application/json' } : {}),
        ...(authorization === undefined ? {} : { authorization }),
      },
      ...(isPost ? { body } : {}),
    })
    if (mood === 'lose_answer') return void outgoing.destroy()
    outgoing.writeHead(status, { 'content-type': String(headers['content-type']) }).end(text)
  }
  const server = createServer((incoming, outgoing) => void answer(incoming, outgoing))
  await new Promise<void>((resolve) =>
    server.listen(socketPath === undefined ? { port: 0, host: '127.0.0.1' } : { path: socketPath }, resolve),
  )
  return {
    url: socketPath === undefined ? `http://127.0.0.1:${(server.address() as AddressInfo).port}` : `unix:${socketPath}`,
    posts: () => posts,
    stop: async () => {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}
