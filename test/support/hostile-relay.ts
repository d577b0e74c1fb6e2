/**
 * A granted node gone bad: stands between a real node and its wire, and drops, delays, reorders, strips, replays or floods what
 * passes. All of them keep from their own node what was agreed to be withheld, so whatever that node then says of itself is
 * consistent, well signed, and stale. Used by test/sim/adversaries.test.ts.
 */

import { decodeEnvelopes, encodeEnvelopes, toWire } from '../../src/core/codec.ts'
import { envelopeId, type WireEnvelope } from '../../src/core/envelope.ts'
import type {
  Clock,
  GossipChannel,
  GossipVerdict,
  KnownPeer,
  Network,
  NetworkHandlers,
  PeerKey,
  Visit,
} from '../../src/ports.ts'
import type { SignedStatus } from '../../src/status/status-record.ts'
import {
  encodeFrame,
  fitPage,
  parseAnswer,
  parseRequest,
  type Answer,
  type Request,
} from '../../src/sync/sync-messages.ts'
import type { Dice } from './histories.ts'

export const VICES = ['drops', 'delays', 'reorders', 'strips', 'replays', 'floods'] as const
export type Vice = (typeof VICES)[number]
/** What hostile relays do with the status records of honest nodes: none comes through; all do; or old ones do, one by one. */
export const STATUS_PLOTS = ['withheld', 'passed', 'stale'] as const

/** What the hostile relays have agreed on. Changes in the course of a run. */
export interface Plot {
  /** Ids of envelopes that none of them takes in. */
  readonly withheld: Set<string>
  readonly isHostile: (node: PeerKey) => boolean
  statuses: (typeof STATUS_PLOTS)[number]
  /** Something well signed to flood with: nobody has its ancestors. */
  readonly orphans: readonly WireEnvelope[]
  /** Something whose author nobody granted, or whose signature is wrong. */
  readonly rubbish: readonly WireEnvelope[]
}

export interface HostileOptions {
  readonly vice: Vice
  readonly plot: Plot
  readonly clock: Clock
  readonly dice: Dice
}

/** Old things kept to be replayed. */
const OLD_MAX = 100
/** A silent node would be called Unavailable after two minutes. */
const STALE_EVERY_MS = 100_000
const FLOOD_EVERY_MS = 10_000
const QUESTIONS_AT_ONCE = 10
const ORPHANS_AT_ONCE = 20

type Payload = readonly [channel: GossipChannel, payload: Uint8Array]

interface StatusLine {
  readonly waiting: SignedStatus[]
  lastSequence: number
  nextMs: number
}

export class HostileRelay implements Network {
  readonly #network: Network
  readonly #options: HostileOptions
  #handlers: NetworkHandlers | undefined
  /** What came by, to be sent again or in another order. */
  #old: Payload[] = []
  readonly #oldAnswers = new Map<string, Uint8Array>()
  /** Records of honest nodes in the order in which they came, to be let through slowly. */
  readonly #records = new Map<PeerKey, StatusLine>()

  constructor(network: Network, options: HostileOptions) {
    this.#network = network
    this.#options = options
  }

  async start(handlers: NetworkHandlers, options?: { readonly signal?: AbortSignal }): Promise<void> {
    this.#handlers = handlers
    await this.#network.start(
      {
        ...handlers,
        onGossip: (channel, from, payload) => this.#onGossip(channel, from, payload),
        onRequest: (from, frame) => this.#onRequest(from, frame),
      },
      options,
    )
    if (this.#options.vice === 'floods') this.#flood()
  }

  async stop(): Promise<void> {
    this.#handlers = undefined
    await this.#network.stop()
  }

  joinMesh(meshId: string): void {
    this.#network.joinMesh(meshId)
  }

  get addresses(): readonly string[] {
    return this.#network.addresses
  }

  get connected(): readonly PeerKey[] {
    return this.#network.connected
  }

  setKnownPeers(peers: readonly KnownPeer[]): void {
    this.#network.setKnownPeers(peers)
  }

  publish(channel: GossipChannel, payload: Uint8Array): Promise<number> {
    return this.#network.publish(channel, payload)
  }

  visit(peer: KnownPeer): Promise<Visit> {
    return this.#network.visit(peer)
  }

  disconnect(peer: PeerKey): Promise<void> {
    return this.#network.disconnect(peer)
  }

  /** Asks for its own node, which does not get to see what is withheld. */
  async request(peer: PeerKey, payload: Uint8Array, options?: { readonly signal?: AbortSignal }): Promise<Uint8Array> {
    const { request } = parseRequest(payload)
    const frame = await this.#network.request(peer, payload, options)
    const { answer, envelopes } = parseAnswer(request.ask, frame)
    if (request.ask !== 'status') return encodeFrame(answer, this.#withoutWithheld(envelopes))
    const { records, more } = answer as Answer<'status'>
    const passed = records.flatMap(([record, ageMs]) => this.#passed(record).map((one) => [one, ageMs]))
    return encodeFrame({ records: passed, more })
  }

  // -------------------------------------------------------------------------------------------- gossip

  async #onGossip(channel: GossipChannel, from: PeerKey, payload: Uint8Array): Promise<GossipVerdict> {
    for (const one of channel === 'edits' ? this.#keepBack(payload) : this.#keepBackStatus(payload)) {
      const verdict = await this.#handlers?.onGossip(channel, from, one)
      if (verdict === 'accept') this.#passOn([channel, one])
    }
    // The network is not to relay it: that was done here, in this relay's own way.
    return 'ignore'
  }

  #passOn(message: Payload): void {
    const { vice, dice, clock } = this.#options
    switch (vice) {
      case 'drops':
        if (dice.chance(0.3)) this.#send(message)
        return
      case 'delays':
        clock.after(dice.next() * 30_000, () => this.#send(message))
        return
      case 'reorders':
        this.#old.push(message)
        if (this.#old.length >= 8) for (const one of dice.shuffle(this.#old.splice(0))) this.#send(one)
        return
      case 'strips':
        this.#send(
          message[0] === 'edits' ? ['edits', encodeEnvelopes(decodeEnvelopes(message[1]).map(strip))] : message,
        )
        return
      case 'replays':
        this.#old = [...this.#old.slice(-OLD_MAX), message]
        for (const one of [message, dice.pick(this.#old)]) this.#send(one)
        return
      case 'floods':
        this.#send(message)
    }
  }

  #send([channel, payload]: Payload): void {
    if (this.#handlers !== undefined) void this.#network.publish(channel, payload)
  }

  #keepBack(payload: Uint8Array): Uint8Array[] {
    try {
      const rest = this.#withoutWithheld(decodeEnvelopes(payload))
      return rest.length === 0 ? [] : [encodeEnvelopes(rest)]
    } catch {
      return []
    }
  }

  #keepBackStatus(payload: Uint8Array): Uint8Array[] {
    try {
      return this.#passed(JSON.parse(Buffer.from(payload).toString())).map((one) => Buffer.from(JSON.stringify(one)))
    } catch {
      return []
    }
  }

  #withoutWithheld(envelopes: readonly WireEnvelope[]): WireEnvelope[] {
    const { withheld } = this.#options.plot
    return withheld.size === 0 ? [...envelopes] : envelopes.filter(({ bytes }) => !withheld.has(envelopeId(bytes)))
  }

  /** What is let through when this record arrives: it, nothing, or an older one. */
  #passed(record: unknown): SignedStatus[] {
    const { plot, clock } = this.#options
    const signed = record as SignedStatus
    const { node, sequence } = JSON.parse(signed.bytes) as { node: PeerKey; sequence: number }
    if (plot.statuses === 'passed' || plot.isHostile(node)) return [signed]
    if (plot.statuses === 'withheld') return []
    const line = this.#records.get(node) ?? { waiting: [], lastSequence: 0, nextMs: 0 }
    this.#records.set(node, line)
    // Many bring the same one.
    if (sequence > line.lastSequence) line.waiting.push(signed)
    line.lastSequence = Math.max(line.lastSequence, sequence)
    if (clock.monotonic() < line.nextMs) return []
    line.nextMs = clock.monotonic() + STALE_EVERY_MS
    return line.waiting.splice(0, 1)
  }

  // -------------------------------------------------------------------------------------------- requests

  async #onRequest(from: PeerKey, frame: Uint8Array): Promise<Uint8Array> {
    const { request, envelopes } = parseRequest(frame)
    const taken = encodeFrame(request, this.#withoutWithheld(envelopes))
    const answer = await this.#handlers?.onRequest(from, taken)
    return answer === undefined ? encodeFrame({ error: 'not now' }) : await this.#spoil(request, answer)
  }

  async #spoil(request: Request, frame: Uint8Array): Promise<Uint8Array> {
    const { vice, dice, clock } = this.#options
    switch (vice) {
      case 'drops':
        return dice.chance(0.3) ? await new Promise<Uint8Array>(() => undefined) : frame
      case 'delays':
        await clock.sleep(dice.next() * 9_000)
        return frame
      case 'reorders':
        return changed(request, frame, (envelopes) => dice.shuffle(envelopes))
      case 'strips':
        return changed(request, frame, (envelopes) => envelopes.map(strip))
      case 'replays': {
        const old = this.#oldAnswers.get(request.ask)
        if (old === undefined || dice.chance(0.1)) this.#oldAnswers.set(request.ask, frame)
        return old !== undefined && dice.chance(0.4) ? old : frame
      }
      case 'floods':
        return this.#invent(request) ?? frame
    }
  }

  /** Claims to hold something else, or asks for much. */
  #question(): Request {
    const { dice } = this.#options
    return dice.chance(0.98) ? { ask: 'summary', digest: this.#hash(), after: 0 } : { ask: 'log', from: 0 }
  }

  #hash(): string {
    return Array.from({ length: 64 }, () => this.#options.dice.below(16).toString(16)).join('')
  }

  /** Claims to have more than anybody, and gives what is of no use. */
  #invent({ ask }: Request): Uint8Array | undefined {
    const { dice, plot } = this.#options
    if (dice.chance(0.5)) return undefined
    const chain = { workspace: 'default', author: this.#hash(), count: 10, highestN: 2 ** 40, hash: this.#hash() }
    if (ask === 'summary') return encodeFrame({ digest: this.#hash(), chains: [chain], next: null })
    if (ask === 'ranges') return encodeFrame({ ranges: Array.from({ length: 16 }, () => [2 ** 30, this.#hash()]) })
    if (ask === 'items') return encodeFrame({ items: Array.from({ length: 10 }, () => [this.#hash(), 0]) })
    if (ask !== 'fetch') return undefined
    const from = dice.below(plot.orphans.length)
    return encodeFrame({}, fitPage(plot.orphans.slice(from, from + ORPHANS_AT_ONCE)))
  }

  #flood(): void {
    const { dice, clock, plot } = this.#options
    if (this.#handlers === undefined) return
    this.#send(['edits', encodeEnvelopes(dice.some(plot.orphans, 0.02))])
    if (dice.chance(0.1)) this.#send(['edits', encodeEnvelopes(plot.rubbish)])
    if (dice.chance(0.1)) this.#send([dice.pick(['edits', 'status'] as const), Buffer.from(`${dice.next()}`)])
    for (const peer of this.connected) {
      for (let n = 0; n < QUESTIONS_AT_ONCE; n += 1) {
        this.#network.request(peer, encodeFrame(this.#question())).catch(() => undefined)
      }
    }
    clock.after(FLOOD_EVERY_MS, () => this.#flood())
  }
}

/** Without any co-signature. */
function strip({ bytes, sigs }: WireEnvelope): WireEnvelope {
  const { by } = JSON.parse(bytes) as { by?: PeerKey }
  const signature = by === undefined ? undefined : sigs[by]
  return by === undefined || signature === undefined ? { bytes, sigs } : { bytes, sigs: { [by]: signature } }
}

/** An answer with other envelopes behind it. */
function changed(
  { ask }: Request,
  frame: Uint8Array,
  change: (envelopes: WireEnvelope[]) => readonly WireEnvelope[],
): Uint8Array {
  try {
    const { answer, envelopes } = parseAnswer(ask, frame)
    return encodeFrame(answer, change(envelopes).map(toWire))
  } catch {
    return frame
  }
}
