/**
 * An operator who signs edits and hands them to whichever node takes them, as meshctl does, and keeps book of what was
 * acknowledged and by whom: the chaos run holds the mesh to that. Decides nothing; never gives up an edit.
 */

import { setTimeout as sleep } from 'node:timers/promises'
import { OUTCOMES } from '../../src/api/schemas.ts'
import { signEnvelope, type EditBody, type Envelope, type KeyPair, type ResourceEdit } from '../../src/core/envelope.ts'
import type { Member } from '../../test/support/fleet.ts'

/** An edit that a node has answered with 202 and `stored`. */
export interface Acknowledged {
  readonly id: string
  /** Name of the node that took it. */
  readonly by: string
}

const RETRY_PAUSE_MS = 50
const RATE_PAUSE_MS = 1000
/** Ancestors sent along at most; the API takes 256 envelopes. */
const ANCESTORS_MAX = 255

export class Writer {
  readonly name: string
  readonly acknowledged: Acknowledged[] = []
  readonly #mesh: string
  readonly #key: KeyPair
  readonly #grant: string
  readonly #chain: Envelope<EditBody>[] = []

  constructor(name: string, mesh: string, key: KeyPair, grant: string) {
    this.name = name
    this.#mesh = mesh
    this.#key = key
    this.#grant = grant
  }

  /** The writer's latest edit, which the next one of the same resource depends on. */
  get last(): Envelope<EditBody> | undefined {
    return this.#chain.at(-1)
  }

  /**
   * Signs one edit and sends it until a node has stored it, to the nodes in turn.
   * @throws Error when a node refuses it, which none may; the signal's reason when that aborts.
   */
  async write(edits: readonly ResourceEdit[], nodes: readonly Member[], signal: AbortSignal): Promise<void> {
    const body: EditBody = {
      v: 1,
      type: 'edit',
      mesh: this.#mesh,
      ws: 'default',
      by: this.#key.publicKey,
      grant: this.#grant,
      n: this.#chain.length + 1,
      prev: this.last === undefined ? [] : [this.last.id],
      at: Date.now(),
      note: '',
      edits,
    }
    const envelope = signEnvelope(body, [this.#key])
    this.#chain.push(envelope)
    for (let attempt = 0; ; attempt += 1) {
      const node = nodes[attempt % nodes.length] as Member
      if (await this.#send(node)) {
        this.acknowledged.push({ id: envelope.id, by: node.name })
        return
      }
      await sleep(RETRY_PAUSE_MS, undefined, { signal })
    }
  }

  /** Whether the node has the latest edit now. More and more ancestors go along while it lacks some. */
  async #send(node: Member): Promise<boolean> {
    for (let ancestors = 0; ; ancestors = Math.min(ancestors * 2 + 1, ANCESTORS_MAX)) {
      const envelopes = this.#chain.slice(-1 - ancestors)
      const response = await node.push(envelopes).catch(() => undefined)
      // It is down, or was killed before it could answer: whether it has stored the edit is not known, so it was not promised.
      if (response === undefined) return false
      const { text } = response
      if (response.status === 429 || response.status === 503) {
        await sleep(RATE_PAUSE_MS)
        return false
      }
      if (response.status !== 202) throw new Error(`${node.name} answered ${response.status} to ${this.name}: ${text}`)
      const last = OUTCOMES.parse(JSON.parse(text)).outcomes.at(-1)
      if (last?.outcome === 'stored' || last?.outcome === 'known') return true
      if (envelopes.length === this.#chain.length || ancestors === ANCESTORS_MAX) return false
    }
  }
}
