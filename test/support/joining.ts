/** A host that asks to join, without a network: the whole talk with one node's JoinRequests. */

import type { KeyPair } from '../../src/core/envelope.ts'
import { encryptionKey } from '../../src/core/secrets.ts'
import { proofOf, signAsking } from '../../src/core/ticket.ts'
import type { JoinRequests } from '../../src/joining/join.ts'
import { encodeJoin, parseJoinAnswer, type JoinAnswer, type JoinMessage } from '../../src/joining/join-messages.ts'
import type { Visit } from '../../src/ports.ts'

/** Where it says that it comes from. */
export const GUEST_ADDRESS = '10.0.0.9:1'

/** A visit that is a function call. */
export function visitIn(joins: JoinRequests, key: KeyPair): Visit {
  const talk = joins.receive({ key: key.publicKey, address: GUEST_ADDRESS })
  return {
    ask: async (question) => {
      const answer = await talk(question)
      if (answer === undefined) throw new Error('the connection ended')
      return answer
    },
    close: async () => undefined,
  }
}

export function joinMessage(key: KeyPair, ticket: string, enc: string, proof: string): JoinMessage {
  const asking = { ticket, enc, name: null, zones: [] }
  return { ask: 'join', ...asking, proof, sig: signAsking(asking, key), labels: {}, version: '0' }
}

/** @param node the public key of the node that is asked. */
export async function askToJoin(joins: JoinRequests, node: string, key: KeyPair, ticket: string): Promise<JoinAnswer> {
  const visit = visitIn(joins, key)
  const enc = encryptionKey(key.seed)
  const { challenge = '' } = parseJoinAnswer(await visit.ask(encodeJoin({ ask: 'challenge' })))
  const proving = { prover: key.publicKey, verifier: node, enc: enc.publicKey, challenge }
  return parseJoinAnswer(await visit.ask(encodeJoin(joinMessage(key, ticket, enc.publicKey, proofOf(enc, proving)))))
}
