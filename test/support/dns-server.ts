/**
 * A DNS server on loopback for tests: answers A and AAAA questions from a table, is silent on or fails at some names,
 * or one question about them, and knows no others.
 */

import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { isIPv6 } from 'node:net'

const TYPE_A = 1
const TYPE_AAAA = 28
const SERVFAIL = 2
const NXDOMAIN = 3
const HEADER_BYTES = 12

type Said = readonly string[] | 'failure' | 'silence'
/** What it says of a name, or to each question about it: addresses, that it failed, or nothing at all. */
export type Zone = ReadonlyMap<string, Said | { readonly a: Said; readonly aaaa: Said }>

export async function dnsServer(zone: Zone) {
  const socket = createSocket('udp4')
  const asked: string[] = []
  socket.on('message', (query, { port, address }) => {
    const { name, type, end } = questionOf(query)
    asked.push(name)
    const said = zone.get(name)
    const found = typeof said === 'object' && 'aaaa' in said ? said[type === TYPE_AAAA ? 'aaaa' : 'a'] : said
    if (found === 'silence') return
    const answers = (Array.isArray(found) ? (found as readonly string[]) : [])
      .filter((one) => isIPv6(one) === (type === TYPE_AAAA) && (type === TYPE_A || type === TYPE_AAAA))
      .map((one) => recordOf(type, one))
    const header = Buffer.from(query.subarray(0, HEADER_BYTES))
    header.writeUInt16BE(0x8180 | (found === undefined ? NXDOMAIN : found === 'failure' ? SERVFAIL : 0), 2)
    header.writeUInt16BE(answers.length, 6)
    header.writeUInt32BE(0, 8)
    socket.send(Buffer.concat([header, query.subarray(HEADER_BYTES, end), ...answers]), port, address)
  })
  socket.bind(0, '127.0.0.1')
  await once(socket, 'listening')
  return {
    address: `127.0.0.1:${socket.address().port}`,
    /** The names of the questions, in order. */
    asked,
    [Symbol.asyncDispose]: async () => {
      socket.close()
      await once(socket, 'close')
    },
  }
}

function questionOf(query: Buffer): { name: string; type: number; end: number } {
  const labels: string[] = []
  let at = HEADER_BYTES
  for (let length = query[at] ?? 0; length > 0; length = query[at] ?? 0) {
    labels.push(query.toString('latin1', at + 1, at + 1 + length))
    at += length + 1
  }
  return { name: labels.join('.').toLowerCase(), type: query.readUInt16BE(at + 1), end: at + 5 }
}

/** An answer to the question of its message, for a minute. */
function recordOf(type: number, address: string): Buffer {
  const data = type === TYPE_A ? Buffer.from(address.split('.').map(Number)) : ipv6Bytes(address)
  const head = Buffer.alloc(12)
  head.writeUInt16BE(0xc000 | HEADER_BYTES, 0)
  head.writeUInt16BE(type, 2)
  head.writeUInt16BE(1, 4)
  head.writeUInt32BE(60, 6)
  head.writeUInt16BE(data.length, 10)
  return Buffer.concat([head, data])
}

function ipv6Bytes(address: string): Buffer {
  const [left = '', right] = address.split('::')
  const groups = (text = '') => text.split(':').filter(Boolean)
  const zeros = Array<string>(8 - groups(left).length - groups(right).length).fill('0')
  const all = right === undefined ? groups(left) : [...groups(left), ...zeros, ...groups(right)]
  return Buffer.from(all.map((group) => group.padStart(4, '0')).join(''), 'hex')
}
