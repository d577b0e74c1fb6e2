/** Clients that hold connections and ask for nothing, or do not read, over real sockets: others come through. */

import { once } from 'node:events'
import { createServer, type RequestListener, type Server } from 'node:http'
import { connect, type AddressInfo, type Socket } from 'node:net'
import { afterEach, expect, test } from 'vitest'
import { limitConnections, type ConnectionLimits } from '../../src/api/connections.ts'
import { HTTP_LIMITS } from '../../src/api/server.ts'
import { startApiNode } from '../support/api-node.ts'
import { http } from '../support/http.ts'
import { waitFor } from '../support/wait.ts'

const sockets: Socket[] = []
let server: Server | undefined
afterEach(() => {
  for (const socket of sockets.splice(0)) socket.destroy()
  server?.closeAllConnections()
  server?.close()
})

async function open(port: number, text: string): Promise<Socket> {
  const socket = connect(port, '127.0.0.1')
  sockets.push(socket)
  socket.on('error', () => undefined)
  await once(socket, 'connect')
  socket.write(text)
  return socket
}

/** A server that keeps to these limits. */
async function serve(limits: ConnectionLimits, listener: RequestListener): Promise<number> {
  server = createServer(listener)
  limitConnections(server, limits)
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return (server.address() as AddressInfo).port
}
const MANY = { connections: 2, stallMs: 600_000 }
const GET = 'GET / HTTP/1.1\r\nhost: localhost\r\n\r\n'

test('half-open connections up to the limit keep nobody from the API', async () => {
  const node = await startApiNode()
  try {
    const port = node.server.port as number
    for (let index = 0; index < HTTP_LIMITS.connections; index++) {
      await open(
        port,
        ['', 'GET / HTTP/1.1\r\nx: ', 'POST /v1/edits HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n{'][
          index % 3
        ] as string,
      )
    }
    for (let index = 0; index < 20; index++) expect((await http(node.url, '/health')).status).toBe(200)
  } finally {
    await node.stop()
  }
})

test('a new connection takes the place of the oldest without a complete request', async () => {
  const port = await serve(MANY, () => undefined)
  const busy = await open(port, GET)
  await once(server as Server, 'request')
  const [first, second] = [await open(port, 'GET '), await open(port, 'GET ')]
  await waitFor(() => first.destroyed, { what: 'the oldest idle connection to be closed' })
  expect([busy.destroyed, second.destroyed]).toEqual([false, false])
})

test('where all are being answered, a client that does not read gives way; where all read, the new one', async () => {
  const answer = Buffer.alloc(64 * 1024 * 1024)
  const port = await serve(MANY, (request, response) => void (request.url === '/big' && response.end(answer)))
  const reader = await open(port, GET)
  await once(server as Server, 'request')
  const deaf = await open(port, GET.replace('/', '/big'))
  await once(server as Server, 'request')
  const third = await open(port, GET)
  await once(server as Server, 'request')
  const closed = once(deaf, 'close')
  deaf.resume()
  await closed
  const fourth = await open(port, '')
  await waitFor(() => fourth.destroyed || fourth.readableEnded, { what: 'the connection too many to be closed' })
  expect([reader.destroyed, third.destroyed]).toEqual([false, false])
})

test('a client that asks and does not read is let go of', async () => {
  const port = await serve({ connections: 2, stallMs: 200 }, (_, response) =>
    response.end(Buffer.alloc(64 * 1024 * 1024)),
  )
  await open(port, GET)
  await once(server as Server, 'request')
  const closed = waitFor(async () => (await connectionsOf(server as Server)) === 0, { what: 'its end' })
  await expect(closed).resolves.toBe(true)
})

async function connectionsOf(of: Server): Promise<number> {
  return await new Promise((resolve, reject) => {
    of.getConnections((error, count) => (error === null ? resolve(count) : reject(error)))
  })
}
