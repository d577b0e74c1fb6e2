/**
 * How meshctl knows that an https:// node is the one that is meant: by an authority, by one certificate, or by the node's own
 * key. Makes connections on which that was proven, and says what lacks where it was not. Sends nothing; used by client.ts and cli.ts.
 */

import type { X509Certificate } from 'node:crypto'
import type { RequestOptions } from 'node:http'
import { isIP } from 'node:net'
import { connect as connectTls } from 'node:tls'
import { certifiedKey } from '../../adapters/certificate.ts'
import { isHex } from '../../core/envelope.ts'
import { parseTicket } from '../../core/ticket.ts'
import { MeshError } from '../../errors.ts'

/** By a certificate of these authorities, else of those that Node knows; or by pins, all of those that are given. */
export interface Trust {
  /** PEM. Nothing beside a pin. */
  readonly ca?: string
  /** SHA-256 of the one certificate that is believed, whoever signed it: 64 hex digits in lower case. */
  readonly fingerprint?: string
  /** Public keys of nodes, to one of which the certificate must be bound. */
  readonly keys?: readonly string[]
}

const HANDSHAKE_MS = 10_000
const TICKET = /^nxmesh\d+\./

/** Whether nobody but a pinned node is believed. */
export function isPinned({ fingerprint, keys }: Trust): boolean {
  return fingerprint !== undefined || keys !== undefined
}

/** As openssl and browsers write it (`AB:CD:...`), without the ornament. */
export function fingerprintOf(text: string): string {
  return text.replaceAll(':', '').toLowerCase()
}

/**
 * What pins stand for: the nodes' keys, and the mesh when a ticket tells it. A ticket may have expired: that ends whom it lets
 * ask, not whose keys it names.
 * @param pins public keys and join tickets. @throws MeshError `usage`, or `input_invalid` for a ticket that is none.
 */
export function parsePins(pins: readonly string[]): { readonly keys: readonly string[]; readonly mesh?: string } {
  const tickets = pins.filter((pin) => TICKET.test(pin)).map(parseTicket)
  const keys = pins.filter((pin) => !TICKET.test(pin))
  const wrong = keys.find((key) => {
    const isKey: boolean = isHex(key, 64)
    return !isKey
  })
  if (wrong !== undefined) {
    throw new MeshError(
      'usage',
      `--pin takes the public key of a node, 64 hex digits, or a join ticket, not ${wrong.slice(0, 80) || 'nothing'}`,
      { field: '--pin', hint: KEY_HINT },
    )
  }
  const [mesh, ...others] = new Set(tickets.map((ticket) => ticket.mesh))
  if (others.length > 0) throw new MeshError('usage', 'the tickets of --pin are for several meshes')
  const named = tickets.flatMap(({ nodes }) => nodes.map(({ key }) => key))
  return { keys: [...new Set([...keys, ...named])], ...(mesh === undefined ? {} : { mesh }) }
}

const KEY_HINT = 'On its host mesh-node check -c FILE prints the key; meshctl peers -o wide lists those of all nodes.'

/** Connects, and hands the connection over, so that a request can be sent, only after the certificate was compared. */
export function pinnedConnection(
  host: string,
  port: number,
  trust: Trust,
): NonNullable<RequestOptions['createConnection']> {
  return (_, done) => {
    const servername = isIP(host) === 0 ? { servername: host } : {}
    const socket = connectTls({ host, port, rejectUnauthorized: false, ...servername })
    socket.setTimeout(HANDSHAKE_MS, () => socket.destroy(new Error('no TLS handshake')))
    socket.once('error', (error) => done(error, socket))
    socket.once('secureConnect', () => {
      const difference = differenceOf(socket.getPeerX509Certificate(), trust)
      socket.setTimeout(0)
      if (difference === undefined) return done(null, socket)
      const hint = `Nothing was sent. Check --api; if that node is the one you mean, correct the pin. ${KEY_HINT}`
      const where = `https://${host.includes(':') ? `[${host}]` : host}:${port}`
      socket.destroy(new MeshError('unavailable', `${where} is not the pinned node: ${difference}`, { hint }))
    })
    return undefined
  }
}

/** What is expected and what came; undefined when all is as it should be. */
function differenceOf(certificate: X509Certificate | undefined, { fingerprint, keys }: Trust): string | undefined {
  if (certificate === undefined) return 'it shows no certificate'
  const seen = fingerprintOf(certificate.fingerprint256)
  if (fingerprint !== undefined && seen !== fingerprint)
    return `its certificate has the fingerprint ${seen}, not the one of --fingerprint, ${fingerprint}`
  if (keys === undefined) return undefined
  const key = certifiedKey(certificate)
  if (key !== undefined && keys.includes(key)) return undefined
  const expected = `--pin wants ${keys.join(' or ')}`
  return key === undefined
    ? `its certificate (SHA-256 ${seen}) is bound to no node's key, as that of http_tls.identity is; ${expected}`
    : `it proves to be node ${key}; ${expected}`
}

/** Codes of OpenSSL and of Node for a certificate that is not believed. */
const UNTRUSTED = /^(?:ERR_TLS_CERT_|CERT_|UNABLE_TO_|DEPTH_ZERO_|SELF_SIGNED_)/
/** OpenSSL's words for an answer in plain HTTP. */
const NOT_TLS = /wrong version number|packet length too long/

/** Why no connection came about that could be used, in words; undefined when TLS is not what stood in the way. */
export function tlsFault(address: string, cause: unknown): MeshError | undefined {
  const { code = '', message } = cause as NodeJS.ErrnoException
  if (UNTRUSTED.test(code)) {
    const hint = `Pin the node with --pin KEY or NXMESH_PIN, or with a join ticket; a certificate of your own with --fingerprint SHA256 or --ca FILE. ${KEY_HINT}`
    // Its words name the host that was asked for and those that the certificate names; other codes say all there is.
    const what = code.startsWith('ERR_TLS_') ? message : code
    return new MeshError('unavailable', `the certificate of ${address} is not trusted (${what})`, { hint }, cause)
  }
  if (!NOT_TLS.test(message)) return undefined
  const hint = 'Write http:// if that is meant, or give the API a certificate: http_tls in its configuration.'
  // Somebody in between can bring this about on a connection over which something was sent.
  return new MeshError('unavailable', `${address} speaks no TLS (${code})`, { hint, wasSent: true }, cause)
}
