/**
 * How many connections an HTTP server has at once, and which of them gives way to a new one: whoever holds connections
 * without asking for anything must not keep others out. Never looks at what is asked. Called by server.ts.
 */

import type { IncomingMessage, Server } from 'node:http'
import type { Socket } from 'node:net'

export interface ConnectionLimits {
  readonly connections: number
  readonly stallMs: number
}

/**
 * Closes what stands still for `stallMs`. Beyond `connections` closes the oldest that has no complete request (idle ones
 * among them); without such a one, the oldest whose client leaves its answer unread; else the new one.
 */
export function limitConnections(server: Server, { connections, stallMs }: ConnectionLimits): void {
  server.setTimeout(stallMs)
  /** From the oldest to the newest, with the request that is being answered. */
  const open = new Map<Socket, IncomingMessage | undefined>()
  server.on('connection', (socket: Socket) => {
    open.set(socket, undefined)
    socket.once('close', () => open.delete(socket))
    if (open.size <= connections) return
    const others = [...open].filter(([other]) => other !== socket)
    const [victim] =
      others.find(([, request]) => request?.complete !== true) ??
      others.find(([other]) => other.writableLength > 0) ??
      ([socket] as const)
    open.delete(victim)
    victim.destroy()
  })
  server.on('request', (request, response) => {
    const { socket } = request
    if (!open.has(socket)) return
    open.set(socket, request)
    response.once('close', () => {
      if (open.get(socket) === request) open.set(socket, undefined)
    })
  })
}
