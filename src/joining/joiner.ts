/**
 * The asker's end of the join protocol: a new host that asks all nodes of its ticket until it is let in, and a node that
 * finds no one to talk to and asks whether it was revoked. Trusts no word of a peer beyond that: what is learnt is signed.
 * Called by mesh-node and node.ts.
 */

import { backoffMs } from '../backoff.ts'
import { namedBy } from '../core/admission.ts'
import { envelopeId, parseBody, type KeyPair } from '../core/envelope.ts'
import { encryptionKey } from '../core/secrets.ts'
import { parseTicket, proofOf, signAsking } from '../core/ticket.ts'
import { asMeshError, MeshError } from '../errors.ts'
import {
  encodeJoin,
  JOIN_LIMITS,
  parseJoinAnswer,
  type JoinAnswer,
  type JoinMessage,
  type JoinStanding,
} from './join-messages.ts'
import type { Clock, KnownPeer, Random, Visit } from '../ports.ts'
import type { Replica } from '../replica.ts'

const RETRY_FIRST_MS = 1_000
const RETRY_LONGEST_MS = 15_000
/** Rounds in which ancestors are asked for; each brings up to JOIN_LIMITS.envelopeBytes. */
const LEARNING_ROUNDS = 48

export type Visiting = (peer: KnownPeer, signal?: AbortSignal) => Promise<Visit>

/** What a host says of itself when it asks. */
export interface Application {
  /** As text. */
  readonly ticket: string
  readonly key: KeyPair
  readonly zones: readonly string[]
  readonly labels: Readonly<Record<string, string>>
  readonly version: string
}

export interface JoiningOptions extends Application {
  readonly visiting: Visiting
  readonly clock: Clock
  readonly random: Random
  readonly signal: AbortSignal
  /** Called when a node keeps the request for the first time, and when nobody does any more for a reason that may pass. */
  readonly notice: (text: string) => void
}

/**
 * Resolves when a node of the ticket says that this host was let in.
 * @throws MeshError `denied` when it was refused, `timeout` when the ticket ends first; the signal's reason.
 */
export async function untilLetIn(options: JoiningOptions): Promise<void> {
  const { ticket: text, clock, random, signal, notice } = options
  const ticket = parseTicket(text)
  let told = ''
  for (let attempt = 1; ; attempt += 1) {
    const isLast = clock.now() > ticket.expires
    const answers = await Promise.all(ticket.nodes.map((peer) => ask(options, { ...peer })))
    signal.throwIfAborted()
    if (answers.some(({ standing }) => standing === 'node')) return
    const final = answers.find(({ standing }) => standing === 'denied' || standing === 'revoked')
    if (final !== undefined) throw refusal(final)
    const isWaiting = answers.some(({ standing }) => standing === 'pending')
    const reasons = [...new Set(answers.map(({ refused }) => refused).filter((reason) => reason !== undefined))]
    const mayPass = isWaiting || answers.some(({ refused, again }) => refused === undefined || again === true)
    if (!mayPass) throw refusal({ refused: reasons.join('; ') })
    if (isLast) {
      throw new MeshError('timeout', 'the ticket expired before anybody approved this host', {
        hint: 'Ask for a new one: meshctl invite.',
      })
    }
    const words = isWaiting
      ? `waiting: approve with meshctl approve ${fingerprint(options.key.publicKey)}`
      : reasons.join('; ')
    if (words !== told) notice(words)
    told = words
    await clock.sleep(backoffMs(Math.min(attempt, 8), RETRY_FIRST_MS, RETRY_LONGEST_MS, random), signal)
  }
}

/** What people compare and type: the first digits of a key. */
export function fingerprint(key: string): string {
  return key.slice(0, 16)
}

function refusal({ standing, refused = '' }: JoinAnswer): MeshError {
  if (standing === 'denied') {
    return new MeshError('denied', 'an operator denied this host', {
      hint: 'Talk to them; another try needs a new ticket.',
    })
  }
  if (standing === 'revoked') {
    return new MeshError('denied', 'the key of this host was revoked, and a revoked key never comes back', {
      hint: 'Make a new one: move the key file away and join again.',
    })
  }
  return new MeshError('denied', `the nodes of the ticket refuse this host: ${refused}`, {
    hint: 'Ask who made the ticket for a new one: meshctl invite.',
  })
}

/** One visit to one peer. What keeps it from answering is an answer that may pass. */
async function ask({ visiting, signal, ...application }: JoiningOptions, peer: KnownPeer): Promise<JoinAnswer> {
  try {
    const visit = await visiting(peer, signal)
    try {
      return await apply(visit, peer, application)
    } finally {
      await visit.close()
    }
  } catch (error) {
    return { refused: asMeshError(error).message, again: true }
  }
}

async function apply(visit: Visit, peer: KnownPeer, application: Application): Promise<JoinAnswer> {
  const { ticket, key, zones, labels, version } = application
  const own = encryptionKey(key.seed)
  const { challenge, ...other } = await say(visit, { ask: 'challenge' })
  if (challenge === undefined) return other
  const proving = { prover: key.publicKey, verifier: peer.key, enc: own.publicKey, challenge }
  const asking = { ticket, enc: own.publicKey, name: parseTicket(ticket).name ?? null, zones: [...zones] }
  return await say(visit, {
    ask: 'join',
    ...asking,
    proof: proofOf(own, proving),
    sig: signAsking(asking, key),
    labels: { ...labels },
    version,
  })
}

async function say(visit: Visit, message: JoinMessage): Promise<JoinAnswer> {
  return parseJoinAnswer(await visit.ask(encodeJoin(message)))
}

/**
 * Asks a peer what this node is in the mesh. What revoked it is taken in, with as much as that rests on and is not known.
 * @throws MeshError when the peer does not receive guests, breaks off, or sends what are no envelopes.
 */
export async function learnStanding(
  visit: Visit,
  replica: Pick<Replica, 'submit' | 'state'>,
): Promise<JoinStanding | undefined> {
  const { history } = replica.state
  const { standing, envelopes = [] } = await say(visit, { ask: 'standing' })
  // Gathered here and not in the replica's pool for what waits, which is small: the oldest comes last.
  const pages = [envelopes]
  const received = new Set<string>()
  const missing = new Set<string>()
  for (let round = 0; ; round += 1) {
    for (const { bytes } of pages[0] ?? []) {
      received.add(envelopeId(bytes))
      const body = parseBody(bytes)
      if (body.type !== 'genesis') for (const id of namedBy(body)) missing.add(id)
    }
    const ids = [...missing].filter((id) => !received.has(id) && !history.has(id))
    if (ids.length === 0) break
    if (round === LEARNING_ROUNDS) throw new MeshError('too_large', 'the revocation rests on more than can be fetched')
    const page = (await say(visit, { ask: 'ancestors', ids: ids.slice(0, JOIN_LIMITS.ids) })).envelopes ?? []
    if (page.length === 0) throw new MeshError('unavailable', 'the peer lacks what its answer rests on')
    pages.unshift(page)
  }
  for (const page of pages) await replica.submit(page, 'sync')
  return standing
}
