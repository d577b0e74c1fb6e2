/** Asks a stream, by TCP or UDP, and says what came back. Loopback only. Called by import-proof.ts. */

import { createSocket } from 'node:dgram'
import { connect } from 'node:net'
import { Duplex } from 'node:stream'
import { connect as connectTls } from 'node:tls'
import type { StreamProbe } from '../../nginx/importing/stream-sandbox.ts'
import { END_OF_PROBE } from './stand-in.ts'

const ANSWER_TIMEOUT_MS = 10_000
/** What is lost on its way is never answered. */
const DATAGRAM_TIMEOUT_MS = 1_000
const PROXY_HEADER = 'PROXY TCP4 192.0.2.1 192.0.2.2 40000 443\r\n'
const NOTHING = 'nothing'

export async function streamAnswer(port: number, { isUdp, tellsClient, serverName }: StreamProbe): Promise<string> {
  if (isUdp) return await datagramAnswer(port)
  const hello = serverName === undefined ? '' : await clientHello(serverName)
  const said = Buffer.concat([
    Buffer.from(tellsClient ? PROXY_HEADER : ''),
    Buffer.from(hello),
    Buffer.from(END_OF_PROBE),
  ])
  return await new Promise((resolve) => {
    let text = ''
    const socket = connect({ port, host: '127.0.0.1' }, () => socket.write(said))
    socket.setEncoding('utf8').setTimeout(ANSWER_TIMEOUT_MS, () => socket.destroy())
    socket.on('data', (chunk: string) => (text += chunk))
    // Who is turned away may be told so by a reset.
    socket.on('error', () => socket.destroy())
    socket.on('close', () => resolve(text || NOTHING))
  })
}

async function datagramAnswer(port: number): Promise<string> {
  const socket = createSocket('udp4')
  try {
    return await new Promise((resolve) => {
      const timer = setTimeout(() => resolve(NOTHING), DATAGRAM_TIMEOUT_MS)
      const answered = (text: string): void => {
        clearTimeout(timer)
        resolve(text)
      }
      socket.on('message', (content) => answered(content.toString()))
      socket.on('error', () => answered(NOTHING))
      socket.send(END_OF_PROBE, port, '127.0.0.1')
    })
  } finally {
    socket.close()
  }
}

/** What a client says first. */
export async function clientHello(serverName: string): Promise<Buffer> {
  return await new Promise((resolve) => {
    const wire = new Duplex({
      read: () => undefined,
      write: (chunk: Buffer, _, done) => {
        resolve(chunk)
        done()
      },
    })
    connectTls({ socket: wire, servername: serverName }).on('error', () => undefined)
  })
}
