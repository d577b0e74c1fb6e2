/**
 * The node's end of the join protocol: answers guests, keeps who asks to be let in until somebody approves or denies it, and
 * tells a revoked key what revoked it. Lets nobody in: a grant does, which an operator signs. Holds observed state only.
 * Built by node.ts; shown by the API.
 */

import { randomBytes } from 'node:crypto'
import { namedBy } from '../core/admission.ts'
import { canonical } from '../core/canonical.ts'
import { encodedSize, toWire } from '../core/codec.ts'
import { verifySignature, type Envelope, type KeyPair, type WireEnvelope } from '../core/envelope.ts'
import type { MeshState } from '../core/state.ts'
import { encryptionKey, type EncryptionKey } from '../core/secrets.ts'
import { isAskedBy, isProof, parseTicket, ticketFault, type TicketContent } from '../core/ticket.ts'
import { asMeshError, MeshError } from '../errors.ts'
import { encodeJoin, JOIN_LIMITS, parseJoinMessage, type JoinAnswer, type JoinMessage } from './join-messages.ts'
import type { Log } from '../log.ts'
import type { Membership } from '../membership.ts'
import type { Clock, Guest, GuestTalk, PeerKey } from '../ports.ts'

/** Envelopes that are walked for one revocation; what lies deeper the asker has had for long. */
const ANCESTORS_MAX = 50_000
/** Envelopes that one answer is picked from; more than fit into it. */
const ANSWERED_MAX = 2_000
/** Of the zones of a ticket, in an answer. */
const QUOTED_MAX = 150
const REJECTION_DOMAIN = 'nxmesh/v1/reject\0'

/** Somebody who waits to be let in. */
export interface PendingRequest {
  /** Names this request, so that a denial cannot be used again. */
  readonly id: string
  readonly key: PeerKey
  /** Proven to be the asker's. */
  readonly enc: string
  readonly name: string | null
  readonly zones: readonly string[]
  readonly labels: Readonly<Record<string, string>>
  readonly version: string
  readonly address: string
  readonly ticket: TicketContent
  /** The ticket as it was shown: whoever approves by it checks it again. */
  readonly ticketText: string
  /** The host's over what it asks for: as `isAskedBy` checks it. */
  readonly sig: string
  /** ms since it first asked. */
  readonly ageMs: number
}

/** An operator's signed no. */
export interface Rejection {
  /** `id` of the request. */
  readonly request: string
  readonly by: string
  readonly sig: string
}

export function signRejection(mesh: string, request: string, key: KeyPair): Rejection {
  return { request, by: key.publicKey, sig: key.sign(rejectionInput(mesh, request)) }
}

export interface JoinRequestsOptions {
  readonly state: MeshState
  readonly membership: Pick<Membership, 'standingOf' | 'revocationsOf' | 'restorationsOf' | 'mayGrantNodes'>
  readonly own: PeerKey
  readonly networkId: string
  readonly clock: Clock
  readonly log: Log
}

interface Kept extends Omit<PendingRequest, 'ageMs'> {
  readonly sinceMs: number
  readonly untilMs: number
}

export class JoinRequests {
  readonly #options: JoinRequestsOptions
  readonly #pending = new Map<PeerKey, Kept>()
  /** Keys that were denied, with the nonce of the ticket that they held: a new ticket is a new chance. */
  readonly #denied = new Map<PeerKey, string>()
  #ancestry: { readonly of: string; readonly known: ReadonlyMap<string, Envelope> } = { of: '', known: new Map() }

  constructor(options: JoinRequestsOptions) {
    this.#options = options
  }

  /** Who waits, oldest first. */
  pending(): PendingRequest[] {
    this.#prune()
    const now = this.#options.clock.monotonic()
    return [...this.#pending.values()]
      .toSorted((a, b) => a.sinceMs - b.sinceMs)
      .map((request) => ({ ...request, ageMs: now - request.sinceMs }))
  }

  /** @throws MeshError `not_found` when nobody waits under that id, `denied` when the signature is not by one who may grant. */
  reject({ request, by, sig }: Rejection): PeerKey {
    const { state, membership, log } = this.#options
    const asked = this.pending().find(({ id }) => id === request)
    if (asked === undefined) {
      throw new MeshError('not_found', 'no host waits here with this request', { hint: 'See: meshctl pending' })
    }
    const isSigned = verifySignature(by, rejectionInput(state.meshId ?? '', request), sig)
    if (!isSigned || !membership.mayGrantNodes(by, asked.ticket.zones)) {
      throw new MeshError('denied', 'who denies a host must be able to grant one of the zones that it was invited to', {
        hint: 'Use the key of an admin or owner of these zones with -k.',
      })
    }
    this.#pending.delete(asked.key)
    this.#denied.delete(asked.key)
    this.#denied.set(asked.key, asked.ticket.nonce)
    if (this.#denied.size > JOIN_LIMITS.denied) this.#denied.delete(this.#denied.keys().next().value as PeerKey)
    log.info('a host was denied', { key: asked.key, by })
    return asked.key
  }

  /** Talks with one guest. */
  receive({ key, address }: Guest): GuestTalk {
    let challenge: EncryptionKey | undefined
    return async (question) => {
      const message = question.length > JOIN_LIMITS.requestBytes ? undefined : parseJoinMessage(question)
      if (message === undefined) return undefined
      switch (message.ask) {
        case 'standing':
          return encodeJoin(this.#standing(key))
        case 'ancestors':
          return encodeJoin({ envelopes: this.#ancestors(key, message.ids) })
        case 'challenge':
          challenge = encryptionKey(randomBytes(32))
          return encodeJoin({ challenge: challenge.publicKey })
        case 'join': {
          const ephemeral = challenge
          // Each challenge is for one answer.
          challenge = undefined
          return encodeJoin(this.#join({ key, address }, message, ephemeral))
        }
      }
    }
  }

  #standing(key: PeerKey): JoinAnswer {
    const { membership } = this.#options
    const known = membership.standingOf(key)
    const standing = known === 'unknown' && this.#pending.has(key) ? 'pending' : known
    const reasons = this.#reasonsFor(key)
    return reasons.length === 0 ? { standing } : { standing, envelopes: fit(reasons).map(toWire) }
  }

  /** Why a key is no node any more, or is one again. */
  #reasonsFor(key: PeerKey): Envelope[] {
    const { membership } = this.#options
    return membership.standingOf(key) === 'node' ? membership.restorationsOf(key) : membership.revocationsOf(key)
  }

  /** The last one is kept: a key that learns its revocation asks many times. */
  #ancestryOf(revocations: readonly Envelope[]): ReadonlyMap<string, Envelope> {
    const of = revocations.map(({ id }) => id).join()
    if (this.#ancestry.of !== of) {
      this.#ancestry = { of, known: ancestry(this.#options.state, revocations, ANCESTORS_MAX) }
    }
    return this.#ancestry.known
  }

  /** Nothing else of the history is for a key that has lost its place in it, or comes as if it had. */
  #ancestors(key: PeerKey, ids: readonly string[]): WireEnvelope[] {
    const { state } = this.#options
    const reasons = this.#reasonsFor(key)
    if (reasons.length === 0) return []
    const known = this.#ancestryOf(reasons)
    const wanted = ids.map((id) => known.get(id)).filter((envelope) => envelope !== undefined)
    const { history } = state
    return fit([...ancestry(state, wanted, ANSWERED_MAX).values()])
      .toSorted((a, b) => (history.positionOf(a.id) ?? 0) - (history.positionOf(b.id) ?? 0))
      .map(toWire)
  }

  #join(
    { key, address }: Guest,
    message: Extract<JoinMessage, { ask: 'join' }>,
    ephemeral?: EncryptionKey,
  ): JoinAnswer {
    const { state, networkId, clock, own, membership } = this.#options
    const standing = this.#standing(key)
    if (standing.standing === 'node' || standing.standing === 'revoked') return standing
    let ticket: TicketContent
    try {
      ticket = parseTicket(message.ticket)
    } catch (error) {
      return { refused: asMeshError(error).message }
    }
    const fault = ticketFault(ticket, { mesh: state.meshId, network: networkId, now: clock.now() })
    if (fault !== undefined) return { refused: fault }
    if (!membership.mayGrantNodes(ticket.by, ticket.zones)) {
      const zones = ticket.zones.join(', ').slice(0, QUOTED_MAX)
      return { refused: `the ticket is by a key that may not grant nodes of zones ${zones}, as far as this node knows` }
    }
    // A registrar's ticket is good for many hosts; the one that it took out is not to come back by itself.
    const isTakenOut = membership.revocationsOf(key).some(({ body }) => body.type === 'revoke' && body.by === ticket.by)
    if (isTakenOut) return { ...standing, standing: 'revoked' }
    const { enc, proof, name, zones, labels, version, sig } = message
    if (!isAskedBy(key, { ticket: message.ticket, enc, name, zones }, sig)) {
      return { refused: 'the request is not signed by this host' }
    }
    const proving = { prover: key, verifier: own, enc, challenge: ephemeral?.publicKey ?? '' }
    if (ephemeral === undefined || !isProof(proof, ephemeral, proving)) {
      return { refused: 'the X25519 key was not proven' }
    }
    if (this.#denied.get(key) === ticket.nonce) return { standing: 'denied' }
    return this.#keep({ key, enc, name, zones, labels, version, address, ticket, ticketText: message.ticket, sig })
  }

  /** A repeated request takes the place of the earlier one. */
  #keep(request: Omit<Kept, 'id' | 'sinceMs' | 'untilMs'>): JoinAnswer {
    const { clock, log } = this.#options
    this.#prune()
    const before = this.#pending.get(request.key)
    if (before === undefined) {
      const { nonce, by } = request.ticket
      const alike = [...this.#pending.values()].filter(({ ticket }) => ticket.by === by)
      const isFull =
        this.#pending.size >= JOIN_LIMITS.pending ||
        alike.length >= JOIN_LIMITS.pendingOfInviter ||
        alike.filter(({ ticket }) => ticket.nonce === nonce).length >= JOIN_LIMITS.pendingOfTicket
      if (isFull) {
        return { refused: 'too many hosts are waiting already', again: true }
      }
      log.info('a host asks to join', { key: request.key, address: request.address })
    }
    const now = clock.monotonic()
    const leftMs = Math.min(request.ticket.expires - clock.now(), JOIN_LIMITS.pendingMs)
    this.#pending.set(request.key, {
      ...request,
      id: before?.id ?? randomBytes(16).toString('hex'),
      sinceMs: before?.sinceMs ?? now,
      untilMs: now + leftMs,
    })
    return { standing: 'pending' }
  }

  #prune(): void {
    const { clock, membership } = this.#options
    const now = clock.monotonic()
    for (const [key, { untilMs }] of this.#pending) {
      if (untilMs < now || membership.standingOf(key) !== 'unknown') this.#pending.delete(key)
    }
  }
}

/** What envelopes rest on, nearest first, themselves included. */
function ancestry({ history }: MeshState, from: readonly Envelope[], most: number): Map<string, Envelope> {
  const found = new Map(from.map((envelope) => [envelope.id, envelope]))
  for (const { body } of found.values()) {
    if (body.type === 'genesis') continue
    for (const id of namedBy(body)) {
      const envelope = history.get(id)
      if (envelope !== undefined && found.size < most) found.set(id, envelope)
    }
  }
  return found
}

/** As many from the front as one answer takes; at least one. */
function fit(envelopes: readonly Envelope[]): Envelope[] {
  let bytes = 0
  const end = envelopes.findIndex((envelope, index) => {
    bytes += encodedSize(envelope)
    return index > 0 && bytes > JOIN_LIMITS.envelopeBytes
  })
  return end === -1 ? [...envelopes] : envelopes.slice(0, end)
}

function rejectionInput(mesh: string, request: string): Uint8Array {
  return Buffer.from(REJECTION_DOMAIN + canonical({ mesh, request }))
}
