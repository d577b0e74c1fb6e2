/** Clients that never finish a request, over real sockets: the server lets go of them in time. */

import { connect, type Socket } from 'node:net'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { HTTP_LIMITS } from '../../src/api/server.ts'
import { startApiNode, type ApiNode } from '../support/api-node.ts'
import { waitFor } from '../support/wait.ts'

let node: ApiNode
let sockets: Socket[]
beforeEach(async () => {
  node = await startApiNode({ server: { headersTimeoutMs: 200 } })
  sockets = [connect(node.server.port as number, '127.0.0.1'), connect(node.socketPath)]
})
afterEach(async () => {
  for (const socket of sockets) socket.destroy()
  await node.stop()
})

test('a client with slow headers is let go of at the limit, not when Node next looks', async () => {
  const answers = sockets.map(() => '')
  for (const [index, socket] of sockets.entries()) {
    socket.setEncoding('utf8').on('data', (chunk: string) => (answers[index] += chunk))
    socket.write('GET /v1/node HTTP/1.1\r\nhost: localhost\r\n')
  }
  await waitFor(() => sockets.every(({ closed }) => closed), {
    // Left alone, Node looks every 30 s. What lies between is for a busy machine.
    timeoutMs: HTTP_LIMITS.checkIntervalMs + 15_000,
    what: 'the end of unfinished requests',
  })
  for (const answer of answers) {
    expect(answer).toMatch(/^HTTP\/1\.1 408 Request Timeout\r\n.*application\/problem\+json/s)
  }
})
