/**
 * What answers in the place of an upstream while an import is proven: says what it was asked, by HTTP, FastCGI, TCP or UDP.
 * Loopback and sockets only. Called by import-proof.ts.
 */

import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { createServer as createHttpServer } from 'node:http'
import { createServer, type Server, type Socket } from 'node:net'
import type { StandIn } from '../../nginx/importing/harmless.ts'

/** Of one connection by FastCGI; what is longer is cut off. */
const FASTCGI_MAX_BYTES = 1024 * 1024
/** Of one connection to a stream. */
const STREAM_MAX_BYTES = 64 * 1024

/** Listens until `close`. @throws Error of the system when it cannot. */
export async function standInFor({ at, protocol }: StandIn): Promise<{ close: () => Promise<void> }> {
  const answer = protocol === 'fastcgi' ? answerFastcgi : answerStream
  const server = protocol === 'http' ? httpServer(at) : createServer((socket) => answer(socket, at))
  const datagrams = protocol === 'stream' ? await answerDatagrams(at) : undefined
  const sockets = new Set<Socket>()
  server.on('connection', (socket: Socket) => {
    sockets.add(socket)
    socket.on('error', () => socket.destroy()).on('close', () => sockets.delete(socket))
  })
  const [host, port] = at.split(':')
  if (at.startsWith('/')) server.listen(at)
  else server.listen(Number(port), host)
  await once(server, 'listening')
  return {
    close: async () => {
      datagrams?.close()
      for (const socket of sockets) socket.destroy()
      server.close()
      await once(server, 'close')
    },
  }
}

function httpServer(at: string): Server {
  return createHttpServer((request, response) => {
    const headers = Object.entries(request.headers).map(([name, value]) => `${name}: ${String(value)}`)
    request.resume().on('end', () => {
      // As an application does that tells a place by the name that it was asked by.
      const location = `http://${String(request.headers.host)}/moved`
      response.writeHead(200, { 'content-type': 'text/plain', 'x-stand-in': 'yes', location })
      response.end(`${at} ${request.method} ${request.url}\n${headers.toSorted().join('\n')}\n`)
    })
  })
}

// ---------------------------------------------------------------------------------------------- streams

/** What a probe of a stream ends with. */
export const END_OF_PROBE = 'end of the probe\n'

/** Ports of clients differ each time. */
function told(at: string, content: Buffer): string {
  const header = /^PROXY (\S+ \S+ \S+) \d+ \d+\r\n/.exec(content.toString('latin1'))
  return `${at} ${header?.[1] ?? ''} ${content.length - (header?.[0].length ?? 0)} bytes\n`
}

function answerStream(socket: Socket, at: string): void {
  let content = Buffer.alloc(0)
  socket.on('data', (chunk: Buffer) => {
    content = Buffer.concat([content, chunk])
    if (content.length > STREAM_MAX_BYTES) socket.destroy()
    else if (content.toString('latin1').endsWith(END_OF_PROBE)) socket.end(told(at, content))
  })
}

async function answerDatagrams(at: string) {
  const [host, port] = at.split(':')
  const socket = createSocket('udp4').bind(Number(port), host)
  socket.on('message', (content, from) => socket.send(told(at, content), from.port, from.address))
  await once(socket, 'listening')
  return socket
}

// ---------------------------------------------------------------------------------------------- FastCGI

const PARAMS = 4
const STDIN = 5
const HEADER_BYTES = 8

/** Reads until the end of the request's body, then answers with its parameters. */
function answerFastcgi(socket: Socket, at: string): void {
  let pending = Buffer.alloc(0)
  const parameters: Buffer[] = []
  socket.on('data', (chunk: Buffer) => {
    pending = Buffer.concat([pending, chunk])
    if (pending.length > FASTCGI_MAX_BYTES) socket.destroy()
    while (pending.length >= HEADER_BYTES) {
      const [type, length] = [pending.readUInt8(1), pending.readUInt16BE(4)]
      const end = HEADER_BYTES + length + pending.readUInt8(6)
      if (pending.length < end) return
      if (type === PARAMS) parameters.push(pending.subarray(HEADER_BYTES, HEADER_BYTES + length))
      const isLast = type === STDIN && length === 0
      if (isLast) {
        const told = [...pairs(Buffer.concat(parameters))].map(([name, value]) => `${name}: ${value}`)
        const body = `Content-Type: text/plain\r\n\r\n${at}\n${told.toSorted().join('\n')}\n`
        socket.end(
          Buffer.concat([record(6, Buffer.from(body)), record(6, Buffer.alloc(0)), record(3, Buffer.alloc(8))]),
        )
      }
      pending = pending.subarray(end)
    }
  })
}

function record(type: number, content: Buffer): Buffer {
  const header = Buffer.from([1, type, 0, 1, 0, 0, 0, 0])
  header.writeUInt16BE(content.length, 4)
  return Buffer.concat([header, content])
}

function* pairs(content: Buffer): Generator<[name: string, value: string]> {
  let position = 0
  const length = (): number => {
    const isLong = (content[position] ?? 0) > 127
    const found = isLong ? content.readUInt32BE(position) & 0x7fffffff : (content[position] ?? 0)
    position += isLong ? 4 : 1
    return found
  }
  const text = (bytes: number): string => content.toString('utf8', position, (position += bytes))
  while (position < content.length) {
    const [nameBytes, valueBytes] = [length(), length()]
    yield [text(nameBytes), text(valueBytes)]
  }
}
