/**
 * A TCP link that can be cut: listens on loopback and passes everything on to one target. A cut link closes what runs over
 * it and refuses what comes, as a broken network does. Used to partition real daemons.
 */

import { connect, createServer, type AddressInfo, type Socket } from 'node:net'

export class Link {
  readonly #server = createServer((socket) => this.#pass(socket))
  readonly #sockets = new Set<Socket>()
  readonly #targetPort: number
  #isCut = false

  constructor(targetPort: number) {
    this.#targetPort = targetPort
  }

  async start(): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      this.#server.once('error', reject)
      this.#server.listen(0, '127.0.0.1', resolve)
    })
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port
  }

  cut(): void {
    this.#isCut = true
    for (const socket of this.#sockets) socket.destroy()
  }

  heal(): void {
    this.#isCut = false
  }

  async stop(): Promise<void> {
    this.cut()
    await new Promise<void>((resolve) => this.#server.close(() => resolve()))
  }

  #pass(inbound: Socket): void {
    if (this.#isCut) {
      inbound.destroy()
      return
    }
    const outbound = connect(this.#targetPort, '127.0.0.1')
    for (const [socket, other] of [
      [inbound, outbound],
      [outbound, inbound],
    ] as const) {
      this.#sockets.add(socket)
      socket.on('error', () => undefined)
      socket.on('close', () => {
        this.#sockets.delete(socket)
        other.destroy()
      })
    }
    inbound.pipe(outbound).pipe(inbound)
  }
}
