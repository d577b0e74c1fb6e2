/**
 * The edge between our names and libp2p's: a peer is its raw Ed25519 public key in hex here and a PeerId there, an
 * address is `host:port` here and a multiaddr there. Pure.
 */

import { isIPv4, isIPv6 } from 'node:net'
import { publicKeyFromRaw } from '@libp2p/crypto/keys'
import type { PeerId } from '@libp2p/interface'
import { peerIdFromPublicKey } from '@libp2p/peer-id'
import { multiaddr, type Multiaddr } from '@multiformats/multiaddr'
import { MeshError } from '../../errors.ts'
import type { PeerKey } from '../../ports.ts'

/** The Ed25519 key of a PeerId, or undefined for one that holds another sort of key. */
export function peerKeyOf(peerId: PeerId): PeerKey | undefined {
  if (peerId.type !== 'Ed25519') return undefined
  return Buffer.from(peerId.publicKey.raw).toString('hex')
}

/** @throws MeshError `input_invalid` when it is not 64 hex digits of a public key. */
export function peerIdOf(key: PeerKey): PeerId {
  if (!/^[0-9a-f]{64}$/.test(key)) {
    throw new MeshError('input_invalid', `${JSON.stringify(key)} is not a public key`, {
      field: 'public_key',
      value: key,
      hint: 'Give the 64 hex digits that `meshctl key show` prints.',
    })
  }
  return peerIdFromPublicKey(publicKeyFromRaw(Buffer.from(key, 'hex')))
}

/**
 * The multiaddr of `host:port` (`[::1]:9102` for IPv6; the host may be a DNS name), or of a multiaddr in text.
 * @throws MeshError `input_invalid`.
 */
export function multiaddrOf(address: string): Multiaddr {
  try {
    if (address.startsWith('/')) return multiaddr(address)
    const { host, port } = splitHostPort(address)
    if (isIPv4(host)) return multiaddr(`/ip4/${host}/tcp/${port}`)
    if (isIPv6(host)) return multiaddr(`/ip6/${host}/tcp/${port}`)
    return multiaddr(`/dns/${host}/tcp/${port}`)
  } catch (cause) {
    throw new MeshError(
      'input_invalid',
      `${JSON.stringify(address)} is not an address`,
      {
        field: 'endpoints',
        value: address,
        hint: 'Write host:port, for example 192.0.2.7:9102 or [2001:db8::7]:9102.',
      },
      cause,
    )
  }
}

/** `host:port` of a TCP multiaddr, or undefined for anything else. */
export function hostPortOf(address: Multiaddr): string | undefined {
  const parts = address.getComponents()
  const port = parts.find((part) => part.name === 'tcp')?.value
  const host = parts.find((part) => part.name === 'ip4' || part.name === 'ip6' || part.name.startsWith('dns'))?.value
  if (host === undefined || port === undefined) return undefined
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`
}

function splitHostPort(address: string): { host: string; port: number } {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([A-Za-z0-9._-]+)):(\d{1,5})$/.exec(address)
  const host = match?.[1] ?? match?.[2]
  const port = Number(match?.[3])
  if (host === undefined || host.length > 253 || !(port >= 1 && port <= 65535)) throw new TypeError('not host:port')
  return { host, port }
}
