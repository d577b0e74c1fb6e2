/**
 * The seams: what the inner layers need from the outside world, as interfaces. Adapters implement them, tests fake
 * them, and one contract suite in test/contract runs against both. Nothing here has behaviour.
 */

import type { WireEnvelope } from './core/envelope.ts'

/** Something with a life. start and stop are idempotent; a failed start leaves nothing running. */
export interface Startable {
  start(options?: { readonly signal?: AbortSignal }): Promise<void>
  stop(): Promise<void>
}

/** Time, injected so that simulations can run on a virtual clock. */
export interface Clock {
  /** Wall time, ms since the epoch. Advisory: shown to people, never decides. */
  now(): number
  /** Monotonic time, ms: for ages, limits and backoff. */
  monotonic(): number
  /** Resolves after `ms`; rejects with the signal's reason when aborted first. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>
  /** Calls back once after `ms`. The returned function cancels. Does not keep the process alive. */
  after(ms: number, callback: () => void): () => void
}

/** Randomness for jitter and peer choice (never for keys): a number in [0, 1). */
export type Random = () => number

// ---------------------------------------------------------------------------------------------- store

/** One stored envelope, in the order in which it was appended. */
export interface StoredEnvelope {
  readonly id: string
  readonly wire: WireEnvelope
  /** Whether this node itself sealed the record after checking its signatures; otherwise check them again. */
  readonly sealed: boolean
}

/** A record that does not match its id or its seal form; it is skipped, counted and refilled from peers. */
export interface CorruptRecord {
  readonly key: string
  readonly reason: string
}

export interface Store extends Startable {
  /** Every stored envelope in append order, once, after start. Corrupt records go to `onCorrupt` and are removed. */
  envelopes(onCorrupt: (record: CorruptRecord) => void): AsyncIterable<StoredEnvelope>
  /**
   * Appends envelopes durably: when it resolves, they survive kill -9 and power loss. All or nothing.
   * An id that is stored already has its signatures replaced.
   * @throws MeshError `store_unwritable`; then nothing was appended.
   */
  append(envelopes: readonly { readonly id: string; readonly wire: WireEnvelope }[]): Promise<void>
  /** Removes envelopes that somebody else put into the store and that were refused. Unknown ids are no error. */
  remove(ids: readonly string[]): Promise<void>
  /** A small durable value beside the envelopes: incarnation, last good generation, known peers. */
  getMark(name: string): Promise<string | undefined>
  /** Durable when it resolves. @throws MeshError `store_unwritable`, or `too_large` over MAX_MARK_BYTES. */
  setMark(name: string, value: string): Promise<void>
}

/** A mark may not be larger than this. */
export const MAX_MARK_BYTES = 1024 * 1024

// ---------------------------------------------------------------------------------------------- network

/** A node's Ed25519 public key, 64 hex digits. */
export type PeerKey = string

export interface KnownPeer {
  readonly key: PeerKey
  /** `host:port` or multiaddrs, tried in order. */
  readonly addresses: readonly string[]
  /** Named in the configuration: dialled first, and beyond the target number of connections. */
  readonly listed?: boolean
}

export type GossipChannel = 'edits' | 'status'
/** accept: relay it on; ignore: not now, nobody's fault; reject: the sender misbehaves. */
export type GossipVerdict = 'accept' | 'ignore' | 'reject'

/** What the network asks of its owner. None of these may throw. */
export interface NetworkHandlers {
  /** Whether a connection with this key is admitted; asked on every connection, both ways. */
  allows(peer: PeerKey): boolean
  onGossip(channel: GossipChannel, from: PeerKey, payload: Uint8Array): Promise<GossipVerdict>
  /** Answers one request of a peer; at most `maxMessageBytes` each way. */
  onRequest(from: PeerKey, request: Uint8Array): Promise<Uint8Array>
  onConnected(peer: PeerKey): void
  onDisconnected(peer: PeerKey): void
  /** Somebody whose key need not be admitted has come to ask; without this member guests are refused. */
  onGuest?(guest: Guest): GuestTalk
}

/** Who has come, over a connection of its own that carries nothing but its questions. */
export interface Guest {
  /** Proven by the connection. */
  readonly key: PeerKey
  /** `host:port` it came from, for people. */
  readonly address: string
}

/** Answers one question after the other of one guest; undefined ends the connection. Must not throw. */
export type GuestTalk = (question: Uint8Array) => Promise<Uint8Array | undefined>

/** The other end: a visit to a peer that need not admit this node's key. */
export interface Visit {
  /** @throws MeshError `unavailable` when the peer ended the connection, or `timeout`. */
  ask(question: Uint8Array): Promise<Uint8Array>
  close(): Promise<void>
}

export interface Network {
  /** Listens and begins to dial. @throws MeshError `port_in_use`. */
  start(handlers: NetworkHandlers, options?: { readonly signal?: AbortSignal }): Promise<void>
  stop(): Promise<void>
  /** Joins the gossip of one mesh, once known. Idempotent. */
  joinMesh(meshId: string): void
  /** Addresses that other nodes may dial, `host:port`. */
  readonly addresses: readonly string[]
  readonly connected: readonly PeerKey[]
  /** Replaces the peers to keep dialling: for ever, with jittered backoff, up to the target number of connections. */
  setKnownPeers(peers: readonly KnownPeer[]): void
  /**
   * Sends to the mesh, best effort: a hint, never the only way. Resolves with the number of peers it went to.
   * @throws MeshError `too_large`.
   */
  publish(channel: GossipChannel, payload: Uint8Array): Promise<number>
  /** @throws MeshError `unavailable`, `timeout` or `too_large`; the signal's reason when that aborts first. */
  request(peer: PeerKey, payload: Uint8Array, options?: { readonly signal?: AbortSignal }): Promise<Uint8Array>
  /** Goes to a peer as a guest, over a connection that counts as none. @throws MeshError `unavailable`. */
  visit(peer: KnownPeer, options?: { readonly signal?: AbortSignal }): Promise<Visit>
  /** Closes the connection with a peer, which `allows` is asked about before the next one. */
  disconnect(peer: PeerKey): Promise<void>
}

/** A request, response or gossip message may not be larger than this; a larger one closes the connection. */
export const MAX_MESSAGE_BYTES = 1024 * 1024

// ---------------------------------------------------------------------------------------------- nginx

/** What the host's nginx is and can do. Input of rendering. */
export interface Capabilities {
  /** `1.22.1` */
  readonly version: string
  /** Names as in `nginx -V` and the modules directory: `http_ssl`, `stream`, `http_lua`, `http_v2`. Sorted. */
  readonly modules: readonly string[]
  /** Paths of the files of those modules that have to be loaded, by name. */
  readonly dynamic: Readonly<Record<string, string>>
  /** Modules that are there, but that the running nginx must not load; in neither of the above. None when left out. */
  readonly afterRestart?: readonly string[]
}

export interface WorkerProcess {
  readonly pid: number
  /** Told to stop, still serving its open connections. */
  readonly draining: boolean
}

/** Result of a command: nginx's exit code and its own words. */
export interface NginxOutput {
  readonly ok: boolean
  readonly stderr: string
  readonly durationMs: number
  /** It was ended, since it took too long. */
  readonly expired?: boolean
}

/** The host's nginx as processes and commands. Files are written by src/nginx, not here. */
export interface NginxProcess {
  /** Runs `nginx -V`. @throws MeshError `nginx_missing` or `nginx_unsupported`. */
  capabilities(): Promise<Capabilities>
  /** Runs `nginx -t -c configPath`, bounded in time. */
  test(configPath: string, timeoutMs: number): Promise<NginxOutput>
  /** Starts nginx on configPath and returns when its pid file names a live master. @throws MeshError `nginx_failed`. */
  launch(configPath: string): Promise<void>
  /** The live master's pid, or undefined when none runs. */
  master(): Promise<number | undefined>
  workers(masterPid: number): Promise<readonly WorkerProcess[]>
  /** The group as which workers run, where they are another user than this process; undefined where they are the same. */
  workerGroup(): Promise<number | undefined>
  /** Sends a signal to the master. HUP: reload; QUIT: stop gracefully; TERM: stop; USR1: reopen logs. */
  signal(masterPid: number, name: 'HUP' | 'QUIT' | 'TERM' | 'USR1'): void
  /** Ends workers left without a master by a crash, and removes stale sockets, so that nginx can start again. */
  clearRemains(): Promise<void>
}
