/**
 * The backend of the benchmarks that put load on nginx, in a process of its own: returns the body of a POST, the path of a GET,
 * and every byte of a switched connection. Says its port to whoever started it.
 */

import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'

const server = createServer((request, response) => {
  if (request.method !== 'POST') return void response.end(request.url)
  response.setHeader('Content-Length', request.headers['content-length'] ?? 0)
  request.pipe(response)
})
// It never ends a connection by itself: what ends is nginx's doing.
server.keepAliveTimeout = 0
server.requestTimeout = 0
server.headersTimeout = 0
server.on('upgrade', (_, socket, head) => {
  socket.on('error', () => socket.destroy())
  socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n')
  socket.write(head)
  socket.pipe(socket)
})
server.listen(0, '127.0.0.1', () => process.send?.((server.address() as AddressInfo).port))
process.on('disconnect', () => process.exit(0))
