/**
 * What every Network does, asked of libp2p over real TCP (both ways of spreading edits) and of the in-memory one that
 * simulations run on. Time runs faster than it should, so that timeouts, backoffs and bans pass within the test.
 */

import { createHash } from 'node:crypto'
import { afterEach, describe, expect, test } from 'vitest'
import { Libp2pNetwork } from '../../src/adapters/network.ts'
import { keyPairFromSeed } from '../../src/core/envelope.ts'
import { MeshError } from '../../src/errors.ts'
import {
  type GossipChannel,
  type GossipVerdict,
  type KnownPeer,
  MAX_MESSAGE_BYTES,
  type Network,
  type NetworkHandlers,
  type PeerKey,
} from '../../src/ports.ts'
import { hasten } from '../support/hasty-clock.ts'
import { type MemoryNetwork, MemoryWire } from '../support/memory-network.ts'
import { waitFor } from '../support/wait.ts'

/** How much faster than real time the clock of the nodes runs. */
const HASTE = 20
/** How long a ban is at least. */
const BAN_MS = 60_000
const MESH = createHash('sha256').update('the mesh').digest('hex')
const OTHER_MESH = createHash('sha256').update('another mesh').digest('hex')

/** What the test has let pass at once, for what takes longer than anybody wants to wait. */
let skippedMs = 0
const hasty = hasten(HASTE)
const hastyClock = { ...hasty, monotonic: () => hasty.monotonic() + skippedMs }

interface NodeOptions {
  readonly networkId?: string
  readonly gossip?: 'on' | 'off'
  readonly bindPort?: number
}

/** What the nodes of one test are on. */
interface Wire {
  make(keySeed: Uint8Array, options: NodeOptions): Network
  /** Dials of all nodes that are known to have failed. */
  failedDials(): number
}

function libp2p(way: 'push' | 'gossipsub'): Wire {
  let failed = 0
  return {
    make: (keySeed, options) =>
      new Libp2pNetwork({
        keySeed,
        networkId: options.networkId ?? 'test',
        bindAddress: '127.0.0.1',
        bindPort: options.bindPort ?? 0,
        gossip: options.gossip === 'off' ? 'off' : way,
        clock: hastyClock,
        random: Math.random,
        count: (event) => void (event === 'dial_failed' && failed++),
      }),
    failedDials: () => failed,
  }
}

/** Looks an address up once for each dial; the next dial of an address tells that the one before failed. */
class DialCountingWire extends MemoryWire {
  readonly #dialled = new Set<string>()
  failedDials = 0

  override at(address: string): MemoryNetwork | undefined {
    if (this.#dialled.has(address)) this.failedDials++
    this.#dialled.add(address)
    return super.at(address)
  }
}

function memory(): Wire {
  const wire = new DialCountingWire({ clock: hastyClock, random: Math.random })
  return {
    make: (seed, options) => wire.node({ networkId: 'test', ...options, key: keyPairFromSeed(seed).publicKey }),
    failedDials: () => wire.failedDials,
  }
}

/** A network with an owner that notes what it is told and answers as it is told. */
class Node {
  readonly key: PeerKey
  readonly network: Network
  readonly heard: { readonly channel: GossipChannel; readonly from: PeerKey; readonly text: string }[] = []
  readonly connections: string[] = []
  readonly denied = new Set<PeerKey>()
  /** Whom it denied a connection, each time. */
  readonly refusals: PeerKey[] = []
  verdict: GossipVerdict = 'accept'
  answer: (request: Uint8Array, from: PeerKey) => Promise<Uint8Array> = (request) => Promise.resolve(request)
  readonly #handlers: NetworkHandlers = {
    allows: (peer) => {
      if (!this.denied.has(peer)) return true
      this.refusals.push(peer)
      return false
    },
    onGossip: (channel, from, payload) => {
      this.heard.push({ channel, from, text: textOf(payload) })
      return Promise.resolve(this.verdict)
    },
    onRequest: (from, request) => this.answer(request, from),
    onConnected: (peer) => void this.connections.push(`+${peer}`),
    onDisconnected: (peer) => void this.connections.push(`-${peer}`),
  }

  constructor(wire: Wire, name: string, options: NodeOptions) {
    const seed = createHash('sha256').update(name).digest()
    this.key = keyPairFromSeed(seed).publicKey
    this.network = wire.make(seed, options)
  }

  async start(meshId: string | null = MESH): Promise<this> {
    await this.network.start(this.#handlers)
    if (meshId !== null) this.network.joinMesh(meshId)
    return this
  }

  get known(): KnownPeer {
    return { key: this.key, addresses: this.network.addresses }
  }

  knows(...others: readonly Node[]): void {
    this.network.setKnownPeers(others.map((other) => other.known))
  }

  sees(other: Node): boolean {
    return this.network.connected.includes(other.key)
  }

  texts(channel: GossipChannel = 'edits'): string[] {
    return this.heard.filter((message) => message.channel === channel).map((message) => message.text)
  }
}

const bytesOf = (text: string) => new TextEncoder().encode(text)
const textOf = (bytes: Uint8Array) => new TextDecoder().decode(bytes)

describe.each<[string, () => Wire]>([
  ['libp2p, edits pushed', () => libp2p('push')],
  ['libp2p, edits by gossipsub', () => libp2p('gossipsub')],
  ['in memory', memory],
])('a network: %s', (_name, makeWire) => {
  let nodes: Node[] = []
  let wire = makeWire()

  afterEach(async () => {
    await Promise.all(nodes.map((node) => node.network.stop()))
    nodes = []
    wire = makeWire()
  })

  function node(name: string, options: NodeOptions = {}): Node {
    const created = new Node(wire, name, options)
    nodes.push(created)
    return created
  }

  async function connected(a: Node, b: Node): Promise<void> {
    await waitFor(() => a.sees(b) && b.sees(a), { what: 'two nodes are connected', timeoutMs: 10_000 })
  }

  /** A new attempt follows the end of the one before, so the third refusal tells what came of two attempts. */
  async function refusedThrice(by: Node, other: Node): Promise<void> {
    const before = by.refusals.length
    const count = () => by.refusals.slice(before).filter((key) => key === other.key).length
    await waitFor(() => count() >= 3, { what: () => `the third refusal; saw ${count()}`, timeoutMs: 10_000 })
  }

  const dialsFail = (times: number) =>
    waitFor(() => wire.failedDials() >= times, { what: `${times} dials fail`, timeoutMs: 10_000 })

  async function pair(): Promise<[Node, Node]> {
    const [a, b] = [await node('a').start(), await node('b').start()]
    a.knows(b)
    await connected(a, b)
    return [a, b]
  }

  /** Publishes until so many peers are sent it: streams for gossip open a moment after the connection. */
  async function publish(from: Node, channel: GossipChannel, text: string, peers = 1): Promise<void> {
    let round = 0
    const send = () => from.network.publish(channel, bytesOf(round++ === 0 ? text : `${text} (round ${round})`))
    await waitFor(async () => (await send()) >= peers, { what: `a message goes to ${peers} peers`, timeoutMs: 10_000 })
  }

  const heard = (at: Node, text: string, channel?: GossipChannel) =>
    waitFor(() => at.texts(channel).some((got) => got.startsWith(text)), {
      what: () => `${text} is heard; heard ${JSON.stringify(at.texts(channel).map((got) => got.slice(0, 40)))}`,
      timeoutMs: 10_000,
    })

  test('connects to a known peer, and both owners are told once', async () => {
    const [a, b] = await pair()
    expect(a.network.connected).toEqual([b.key])
    expect(a.connections).toEqual([`+${b.key}`])
    expect(b.connections).toEqual([`+${a.key}`])
  })

  test('keeps dialling a peer that is not there yet', async () => {
    const b = node('b')
    await b.start()
    const known = b.known
    await b.network.stop()
    const a = await node('a').start()
    a.network.setKnownPeers([known])
    const again = node('b', { bindPort: Number(known.addresses[0]?.split(':')[1]) })
    await dialsFail(2)
    await again.start()
    await connected(a, again)
    expect(a.connections).toEqual([`+${b.key}`])
  })

  test('does not connect with a key that either side denies', async () => {
    const [a, b, c] = [await node('a').start(), await node('b').start(), await node('c').start()]
    b.denied.add(a.key)
    c.denied.add(b.key)
    a.knows(b)
    c.knows(a, b)
    await connected(a, c)
    await Promise.all([refusedThrice(b, a), refusedThrice(c, b)])
    expect(a.connections).toEqual([`+${c.key}`])
    expect(b.connections).toEqual([])
    b.denied.clear()
    await connected(a, b)
  })

  test('disconnects for good once denied, and comes back once allowed', async () => {
    const [a, b] = await pair()
    b.denied.add(a.key)
    await b.network.disconnect(a.key)
    await waitFor(() => !a.sees(b) && !b.sees(a), { what: 'both see the end' })
    await refusedThrice(b, a)
    expect(a.connections).toEqual([`+${b.key}`, `-${b.key}`])
    expect(b.connections).toEqual([`+${a.key}`, `-${a.key}`])
    b.denied.clear()
    await connected(a, b)
    expect(textOf(await a.network.request(b.key, bytesOf('again')))).toBe('again')
  })

  test('carries requests both ways, many at once, up to the largest', async () => {
    const [a, b] = await pair()
    b.answer = async (request, from) => bytesOf(`${textOf(request)} from ${from}`)
    const many = Array.from({ length: 100 }, (_, index) => `question ${index}`)
    const answers = await Promise.all(many.map((text) => a.network.request(b.key, bytesOf(text))))
    expect(answers.map(textOf)).toEqual(many.map((text) => `${text} from ${a.key}`))
    expect(textOf(await b.network.request(a.key, bytesOf('and back')))).toBe('and back')
    b.answer = (request) => Promise.resolve(request)
    const large = new Uint8Array(MAX_MESSAGE_BYTES).fill(7)
    expect(Buffer.compare(await a.network.request(b.key, large), large)).toBe(0)
    expect(await a.network.request(b.key, new Uint8Array())).toHaveLength(0)
  })

  test('refuses what is too large to send', async () => {
    const [a, b] = await pair()
    const tooLarge = new Uint8Array(MAX_MESSAGE_BYTES + 1)
    await expect(a.network.request(b.key, tooLarge)).rejects.toMatchObject({ code: 'too_large' })
    await expect(a.network.publish('edits', tooLarge)).rejects.toMatchObject({ code: 'too_large' })
    b.answer = () => Promise.resolve(tooLarge)
    await expect(a.network.request(b.key, bytesOf('?'))).rejects.toMatchObject({ code: 'unavailable' })
    expect(a.sees(b)).toBe(true)
  })

  test('says why there is no answer', async () => {
    const [a, b] = await pair()
    const stranger = keyPairFromSeed(new Uint8Array(32).fill(9)).publicKey
    await expect(a.network.request(stranger, bytesOf('?'))).rejects.toMatchObject({ code: 'unavailable' })
    b.answer = () => Promise.reject(new Error('broken'))
    await expect(a.network.request(b.key, bytesOf('?'))).rejects.toMatchObject({ code: 'unavailable' })
    b.answer = () => new Promise(() => {})
    await expect(a.network.request(b.key, bytesOf('?'))).rejects.toMatchObject({ code: 'timeout' })
    const stop = new AbortController()
    const asked = a.network.request(b.key, bytesOf('?'), { signal: stop.signal })
    stop.abort(new Error('no longer wanted'))
    await expect(asked).rejects.toThrow('no longer wanted')
    const unanswered = a.network.request(b.key, bytesOf('?'))
    await Promise.all([expect(unanswered).rejects.toBeInstanceOf(MeshError), b.network.stop()])
  })

  test('relays what is accepted along a line, each message once', async () => {
    const [a, b, c] = [await node('a').start(), await node('b').start(), await node('c').start()]
    a.knows(b)
    c.knows(b)
    await Promise.all([connected(a, b), connected(b, c)])
    await publish(c, 'edits', 'warm')
    await heard(a, 'warm')
    for (const channel of ['edits', 'status'] as const) {
      await publish(a, channel, 'small')
      await heard(c, 'small', channel)
      const large = 'x'.repeat(100_000)
      await publish(c, channel, large)
      await heard(a, large, channel)
    }
    for (const each of nodes) {
      const all = each.heard.map(({ channel, text }) => `${channel} ${text}`)
      expect(new Set(all).size).toBe(all.length)
    }
    expect(c.heard.filter(({ text }) => text === 'small').every(({ from }) => from === b.key)).toBe(true)
  })

  test('does not relay what is ignored', async () => {
    const [a, b, c] = [await node('a').start(), await node('b').start(), await node('c').start()]
    a.knows(b)
    c.knows(b)
    await Promise.all([connected(a, b), connected(b, c)])
    await publish(b, 'edits', 'warm', 2)
    await heard(c, 'warm')
    b.verdict = 'ignore'
    await publish(a, 'edits', 'ignored')
    await heard(b, 'ignored')
    b.verdict = 'accept'
    await publish(a, 'edits', 'accepted')
    await heard(c, 'accepted')
    expect(c.texts()).not.toContain('ignored')
  })

  test('bans for a while who sends what is rejected', async () => {
    const [a, b] = await pair()
    const failed = wire.failedDials()
    b.verdict = 'reject'
    await publish(a, 'edits', 'bad')
    for (let index = 0; a.sees(b) && index < 20; index++) await a.network.publish('edits', bytesOf(`worse ${index}`))
    await waitFor(() => !a.sees(b) && !b.sees(a), { what: 'the sender is cut off' })
    expect(b.texts().length).toBeGreaterThan(5)
    b.verdict = 'accept'
    await dialsFail(failed + 2)
    skippedMs += BAN_MS / 2
    await dialsFail(failed + 4)
    expect(b.sees(a)).toBe(false)
    skippedMs += BAN_MS
    await connected(a, b)
    expect(b.connections).toEqual([`+${a.key}`, `-${a.key}`, `+${a.key}`])
  })

  test('keeps meshes apart, and spreads nothing before a mesh is joined', async () => {
    const [a, b] = [await node('a').start(), await node('b').start(OTHER_MESH)]
    const [c, d] = [await node('c').start(null), await node('d').start(null)]
    a.knows(b, c)
    await waitFor(() => a.network.connected.length === 2, { what: 'all are connected' })
    expect(await a.network.publish('edits', bytesOf('to nobody'))).toBe(0)
    expect(textOf(await a.network.request(c.key, bytesOf('genesis?')))).toBe('genesis?')
    d.knows(a)
    await connected(a, d)
    expect(await a.network.publish('edits', bytesOf('to nobody yet'))).toBe(0)
    d.network.joinMesh(MESH)
    d.network.joinMesh(MESH)
    await publish(a, 'edits', 'late')
    await heard(d, 'late')
    // What a sent them before this arrives before it.
    for (const other of [b, c]) await a.network.request(other.key, bytesOf('anything heard?'))
    expect([...b.heard, ...c.heard]).toEqual([])
    expect(d.texts().filter((text) => !text.startsWith('late'))).toEqual([])
  })

  test('spreads nothing with gossip switched off, and still answers', async () => {
    const [a, b] = [await node('a', { gossip: 'off' }).start(), await node('b').start()]
    a.knows(b)
    await connected(a, b)
    expect(await a.network.publish('edits', bytesOf('quiet'))).toBe(0)
    expect(await a.network.publish('status', bytesOf('quiet'))).toBe(0)
    expect(textOf(await b.network.request(a.key, bytesOf('there?')))).toBe('there?')
  })

  test('does not speak with another network_id', async () => {
    const [a, b, c] = [
      await node('a').start(),
      await node('b', { networkId: 'other' }).start(),
      await node('c').start(),
    ]
    a.knows(b, c)
    await connected(a, c)
    await dialsFail(2)
    expect([...a.connections, ...b.connections]).toEqual([`+${c.key}`])
  })

  test('says which port is taken', async () => {
    const a = await node('a').start()
    const port = Number(a.network.addresses[0]?.split(':')[1])
    const b = node('b', { bindPort: port })
    await expect(b.start()).rejects.toMatchObject({ code: 'port_in_use', details: { value: String(port) } })
    await a.network.stop()
    await b.start()
    expect(b.network.addresses).toEqual([`127.0.0.1:${port}`])
  })

  test('stops, stops again, and starts anew', async () => {
    const [a, b] = await pair()
    await Promise.all([b.network.stop(), b.network.stop()])
    await b.network.stop()
    await waitFor(() => !a.sees(b), { what: 'the other side sees the end' })
    expect(b.network.connected).toEqual([])
    expect(b.connections).toEqual([`+${a.key}`, `-${a.key}`])
    await expect(b.network.request(a.key, bytesOf('?'))).rejects.toMatchObject({ code: 'unavailable' })
    expect(await b.network.publish('edits', bytesOf('?'))).toBe(0)
    await b.start()
    b.knows(a)
    await connected(a, b)
    await publish(a, 'edits', 'welcome back')
    await heard(b, 'welcome back')
  })

  test('heals a partition by itself', async () => {
    const names = ['a', 'b', 'c', 'd'] as const
    const all = await Promise.all(names.map((name) => node(name).start()))
    for (const each of all) each.knows(...all)
    const full = () => all.every((each) => each.network.connected.length === all.length - 1)
    await waitFor(full, { what: 'all are connected', timeoutMs: 10_000 })
    const [left, right] = [all.slice(0, 2), all.slice(2)]
    for (const each of left) for (const other of right) each.denied.add(other.key)
    for (const each of left) for (const other of right) await each.network.disconnect(other.key)
    await waitFor(() => all.every((each) => each.network.connected.length === 1), { what: 'the halves are apart' })
    await Promise.all(left.flatMap((each) => right.map((other) => refusedThrice(each, other))))
    for (const each of left) each.denied.clear()
    expect(await waitFor(full, { what: 'all are connected again', timeoutMs: 10_000 })).toBe(true)
  })
})
