/**
 * The libp2p host: TCP, Noise and yamux with limits on everything, and its errors of listening in our words. Says
 * nothing of what is spoken over it. network.ts makes one at each start.
 */

import { isIP, isIPv6 } from 'node:net'
import { generateKeyPairFromSeed } from '@libp2p/crypto/keys'
import type { GossipSubComponents } from '@libp2p/gossipsub'
import type { Libp2p, PeerId, StreamMuxer, StreamMuxerFactory } from '@libp2p/interface'
import { noise } from '@libp2p/noise'
import { tcp } from '@libp2p/tcp'
import { yamux } from '@libp2p/yamux'
import { createLibp2p } from 'libp2p'
import { MeshError } from '../../errors.ts'

/** Connections in all; a further one is refused. */
const CONNECTIONS_MAX = 256
/** Streams of one connection, each way; a further one is reset. We use three. */
const STREAMS_MAX = 16
/** Bytes that a stream holds for a slow reader or writer; beyond it the stream is reset. The writer's is unlimited by default. */
const STREAM_BUFFER_BYTES = 4 * 1024 * 1024
/** Handshakes at once, and new connections of one host in a second: a site may restart as a whole. */
const HANDSHAKES_MAX = 256
const HANDSHAKES_A_SECOND = 64
const HANDSHAKE_TIMEOUT_MS = 5000
const NEGOTIATION_TIMEOUT_MS = 10_000
/**
 * The name under which yamux is spoken with a guest: a connection says in its choice of muxer, before any stream, whether
 * it is a node's or a guest's, so that neither can pass for the other.
 */
export const GUEST_MUXER = '/nxmesh/guest-yamux/1'
/** Bytes that a guest's one stream holds. */
const GUEST_BUFFER_BYTES = 512 * 1024

export interface HostOptions {
  readonly keySeed: Uint8Array
  readonly bindAddress: string
  readonly bindPort: number
}

/** A libp2p node and the parts of it that gossipsub, which starts when the mesh is known, is to be given. */
export type Host = Libp2p<{ parts: { components: GossipSubComponents } }>

/**
 * A host that is not started. `refuses` is asked about each connection, both ways.
 * @throws MeshError `config_invalid` for a bind address that is no IP address.
 */
export async function createHost(
  options: HostOptions,
  refuses: (peerId: PeerId, isInbound: boolean) => boolean,
): Promise<Host> {
  const { bindAddress, bindPort, keySeed } = options
  if (isIP(bindAddress) === 0) throw bindError('bind_address', bindAddress, 'is not an IP address', ADDRESS_HINT)
  return createLibp2p({
    start: false,
    // Not `privateKeyFromRaw`: from 32 bytes it silently makes a key of another sort.
    privateKey: await generateKeyPairFromSeed('Ed25519', keySeed),
    addresses: { listen: [`/${isIPv6(bindAddress) ? 'ip6' : 'ip4'}/${bindAddress}/tcp/${bindPort}`] },
    transports: [tcp()],
    connectionEncrypters: [noise()],
    streamMuxers: [
      yamux({
        maxInboundStreams: STREAMS_MAX,
        maxOutboundStreams: STREAMS_MAX,
        streamOptions: { maxReadBufferLength: STREAM_BUFFER_BYTES, maxWriteBufferLength: STREAM_BUFFER_BYTES },
      }),
      () => guestMuxer('host'),
    ],
    connectionGater: {
      denyDialPeer: (peerId) => refuses(peerId, false),
      denyInboundEncryptedConnection: (peerId) => refuses(peerId, true),
      denyOutboundEncryptedConnection: (peerId) => refuses(peerId, false),
    },
    connectionManager: {
      maxConnections: CONNECTIONS_MAX,
      maxIncomingPendingConnections: HANDSHAKES_MAX,
      inboundConnectionThreshold: HANDSHAKES_A_SECOND,
      inboundUpgradeTimeout: HANDSHAKE_TIMEOUT_MS,
      inboundStreamProtocolNegotiationTimeout: NEGOTIATION_TIMEOUT_MS,
      // Addresses are tried in the order given.
      addressSorter: () => 0,
      // Redialling is the dialler's: libp2p gives up after half a minute.
      reconnectRetries: 0,
    },
    // Aborts a connection at one slow ping; links have a liveness check of their own.
    connectionMonitor: { enabled: false },
    services: { parts: (components: GossipSubComponents) => ({ components }) },
  })
}

/** A started host that only dials, and only as a guest. */
export async function createGuestHost(keySeed: Uint8Array): Promise<Libp2p> {
  return createLibp2p({
    privateKey: await generateKeyPairFromSeed('Ed25519', keySeed),
    transports: [tcp()],
    connectionEncrypters: [noise()],
    streamMuxers: [() => guestMuxer('guest')],
    connectionManager: { addressSorter: () => 0, reconnectRetries: 0 },
    connectionMonitor: { enabled: false },
  })
}

/** One stream, which the guest opens. */
function guestMuxer(end: 'host' | 'guest'): StreamMuxerFactory {
  const [inbound, outbound] = end === 'host' ? [1, 0] : [0, 1]
  const factory = yamux({
    maxInboundStreams: inbound,
    maxOutboundStreams: outbound,
    enableKeepAlive: false,
    streamOptions: { maxReadBufferLength: GUEST_BUFFER_BYTES, maxWriteBufferLength: 2 * GUEST_BUFFER_BYTES },
  })()
  return {
    protocol: GUEST_MUXER,
    createStreamMuxer: (connection): StreamMuxer =>
      Object.assign(factory.createStreamMuxer(connection), { protocol: GUEST_MUXER }),
  }
}

const ADDRESS_HINT = 'Give an IP address of this host, or 0.0.0.0 for all.'

/** An error of starting to listen as a MeshError that names the setting; any other as it is. */
export function listenError(error: unknown, { bindAddress, bindPort }: HostOptions): unknown {
  // libp2p gathers the errors of all addresses into one text.
  const text = error instanceof Error ? error.message : String(error)
  if (text.includes('EADDRINUSE')) {
    const hint = `Run \`ss -ltnp 'sport = :${bindPort}'\` to see which process has it, or set another bind_port.`
    const details = { field: 'bind_port', value: String(bindPort), hint }
    return new MeshError('port_in_use', `${bindAddress}:${bindPort} is taken by another process`, details, error)
  }
  if (text.includes('EADDRNOTAVAIL')) {
    return bindError('bind_address', bindAddress, 'is no address of this host', ADDRESS_HINT, error)
  }
  if (text.includes('EACCES')) {
    const hint = 'Ports below 1024 need privileges; take a higher one.'
    return bindError('bind_port', String(bindPort), 'may not be listened on', hint, error)
  }
  return error
}

function bindError(field: string, value: string, what: string, hint: string, cause?: unknown): MeshError {
  return new MeshError('config_invalid', `${field} ${JSON.stringify(value)} ${what}`, { field, value, hint }, cause)
}
