/**
 * Signs for one operator key and hands the result to a node: finds the grant that allows it, the place in the key's chain,
 * sends ancestors that the node lacks. Remembers before it sends. Used by every verb that writes.
 */

import { authorise, authoritiesOf, placeAfter, policyLack } from '../../core/authoring.ts'
import type { Authority, Draft, Place, SignedBody } from '../../core/authoring.ts'
import { canonical, type Json } from '../../core/canonical.ts'
import { toWire } from '../../core/codec.ts'
import {
  parseBody,
  signEnvelope,
  type Envelope,
  type GenesisBody,
  type GrantBody,
  type KeyPair,
} from '../../core/envelope.ts'
import { MeshError, type ErrorCode } from '../../errors.ts'
import type { GrantView, RootSetView } from '../../api/schemas.ts'
import type { ChainFile, Remembered } from './chain-file.ts'
import type { ApiClient } from '../asking/client.ts'
import { plain, short } from '../terminal.ts'

export interface Sent {
  readonly id: string
  /** The node holds it back until envelopes arrive that it does not know. */
  readonly isWaiting: boolean
  /** Root signatures that it lacks: it counts when other roots have given theirs. */
  readonly missing: number
}

export interface AuthorOptions {
  readonly key: KeyPair
  readonly client: ApiClient
  /** Of the mesh that is signed for. */
  readonly genesis: Envelope<GenesisBody>
  readonly chain: ChainFile
  readonly now: () => number
  /** Waits between tries when the node takes no more for the moment. */
  readonly sleep: (ms: number) => Promise<void>
  /** Tells the operator what happens beside what was asked for. */
  readonly notice: (text: string) => void
}

const RATE_RETRY_MS = 1000
const RATE_RETRIES = 120

export class Author {
  readonly #options: AuthorOptions
  readonly #genesis: Envelope<GenesisBody>
  readonly #grants: readonly GrantView[]
  readonly #root: RootSetView
  readonly #places = new Map<string, Place>()

  private constructor(options: AuthorOptions, grants: readonly GrantView[], root: RootSetView) {
    this.#options = options
    this.#genesis = options.genesis
    this.#grants = grants
    this.#root = root
  }

  static async create(options: AuthorOptions): Promise<Author> {
    const { client, key } = options
    return new Author(options, await client.grants(key.publicKey), await client.roots())
  }

  get publicKey(): string {
    return this.#options.key.publicKey
  }

  /**
   * Gives the node what this key has signed before and the node does not know. To be called before reading what an edit
   * will rest on, or else that edit would not know of its own predecessors. True when the node has learned something.
   */
  async catchUp(workspace: string): Promise<boolean> {
    if (this.#places.has(workspace)) return false
    const { place, hasTaught } = await this.#findPlace(workspace)
    this.#places.set(workspace, place)
    return hasTaught
  }

  /**
   * Signs and sends.
   * @param targets grants that a revocation takes away.
   * @throws MeshError `denied` when no grant of the key allows it, or what the node refused it with.
   */
  async send(draft: Draft, targets: readonly GrantView[] = []): Promise<Sent> {
    await this.catchUp(draft.ws)
    const place = this.#places.get(draft.ws) as Place
    const { key, client, chain, now } = this.#options
    const { body, missing } = this.#complete(draft, targets, place, now())
    const envelope = signEnvelope(body, [key])
    await chain.remember(this.#genesis.id, draft.ws, envelope)
    try {
      const [outcome] = await this.#submitPatiently(client, envelope)
      this.#places.set(draft.ws, { n: envelope.body.n, prev: [envelope.id] })
      return { id: envelope.id, isWaiting: outcome?.outcome === 'waiting', missing }
    } catch (error) {
      // An answer, or no connection at all, says that the node did not take it. Otherwise it may have.
      const mayBeStored = error instanceof MeshError && error.details['wasSent'] === true
      if (!mayBeStored) await chain.forget(this.#genesis.id, draft.ws, [envelope.id])
      throw error
    }
  }

  /** Why no grant of this key allows it; undefined when one does. Signs nothing. */
  refusal(draft: Draft, targets: readonly GrantView[] = []): string | undefined {
    try {
      this.#complete(draft, targets, { n: 0, prev: [] }, this.#options.now())
      return undefined
    } catch (error) {
      if (!(error instanceof MeshError) || error.code !== 'denied') throw error
      const [first = '', ...reasons] = error.message.split('\n').map((line) => line.trim())
      return reasons.length === 0 ? first : reasons.join('; ')
    }
  }

  async #submitPatiently(client: ApiClient, envelope: Envelope) {
    for (let tries = 1; ; tries += 1) {
      try {
        return await client.submit([toWire(envelope)])
      } catch (error) {
        const isLimited = error instanceof MeshError && error.code === 'rate_limited'
        if (!isLimited || tries > RATE_RETRIES) throw error
        if (tries === 1) this.#options.notice('the node limits how fast one author edits; going on more slowly')
        await this.#options.sleep(RATE_RETRY_MS)
      }
    }
  }

  // -------------------------------------------------------------------------------------------- which grant

  #complete(
    draft: Draft,
    targets: readonly GrantView[],
    { n, prev }: Place,
    at: number,
  ): { body: SignedBody; missing: number } {
    const common = { v: 1, mesh: this.#genesis.id, by: this.publicKey, n: n + 1, prev: prev.toSorted(), at } as const
    const judged = targets.length === 0 ? [undefined] : targets.map((target) => grantBody(target, this.#genesis.id))
    const answer = authorise(
      this.#authorities(draft),
      (grant): SignedBody => ({ ...common, ...draft, grant }),
      (authority, body) =>
        judged.map((target) => policyLack(authority, body, target)).find((lack) => lack !== undefined),
    )
    if ('reasons' in answer) throw this.#noGrant(draft, answer.reasons)
    const { body, authority } = answer
    const { exercised } = authority
    const signers = body.type === 'rootset' ? body.threshold : exercised.type === 'grant' ? 1 : exercised.threshold
    return { body: parseBody(canonical(body as unknown as Json)) as SignedBody, missing: signers - 1 }
  }

  #authorities(draft: Draft): Authority[] {
    const { id, roots, threshold, next } = this.#root
    // Of a root set, policy asks about these alone.
    const root = { id, exercised: { ...this.#genesis.body, roots, threshold, next }, label: 'root' }
    // The next root set follows the present one, and is signed by its own keys.
    if (draft.type === 'rootset') return [root]
    const grants = authoritiesOf(this.#grants.map((view) => ({ id: view.id, body: grantBody(view, this.#genesis.id) })))
    return roots.includes(this.publicKey) && draft.type !== 'edit' ? [...grants, root] : grants
  }

  #noGrant(draft: Draft, reasons: readonly string[]): MeshError {
    const what = { edit: 'this edit', grant: 'this grant', revoke: 'this revocation', rootset: 'this root set' }[
      draft.type
    ]
    if (reasons.length > 0) {
      const hint = 'Ask somebody with a wider grant, or use another key with -k.'
      return new MeshError('denied', `none of your grants allows ${what}\n  ${reasons.map(plain).join('\n  ')}`, {
        hint,
      })
    }
    return new MeshError('denied', `the key ${this.publicKey} has no grant in mesh ${plain(this.#genesis.body.name)}`, {
      hint: `Somebody with a higher role can grant one: meshctl grant editor ${this.publicKey} --zone ZONE`,
    })
  }

  // -------------------------------------------------------------------------------------------- which place

  /** After the latest that either side knows: a lost or restored chain file, or a node that lags, must not make a fork. */
  async #findPlace(workspace: string): Promise<{ place: Place; hasTaught: boolean }> {
    const { client, chain } = this.#options
    const remembered = chain.chain(this.#genesis.id, workspace)
    const last = remembered.at(-1)
    const seen = await client.chain(workspace, this.publicKey)
    const isKnown =
      last === undefined || seen.heads.some(({ id }) => id === last.id) || (await client.edit(last.id)) !== undefined
    if (isKnown) return { place: placeAfter(seen.heads), hasTaught: false }
    const taken = await this.#sendAncestors(workspace, remembered)
    const { heads } = await client.chain(workspace, this.publicKey)
    // When the node waits for even older ones, which its peers will bring, the latest goes on where it stands.
    const latest = taken.at(-1)
    const isInChain = latest === undefined || (await client.edit(latest.id)) !== undefined
    return { place: placeAfter(isInChain ? heads : [latest, ...heads]), hasTaught: taken.length > 0 }
  }

  /** Those that the node did not refuse for good; the others are forgotten. */
  async #sendAncestors(workspace: string, remembered: readonly Remembered[]): Promise<readonly Remembered[]> {
    const { client, chain, notice } = this.#options
    const taken: Remembered[] = []
    const refused: string[] = []
    for (const ancestor of remembered) {
      try {
        await client.submit([ancestor.wire])
        taken.push(ancestor)
      } catch (error) {
        if (!(error instanceof MeshError) || !REFUSALS.has(error.code)) throw error
        refused.push(ancestor.id)
        notice(`an earlier edit of yours, ${short(ancestor.id)}, was refused and is left out: ${plain(error.message)}`)
      }
    }
    if (refused.length > 0) await chain.forget(this.#genesis.id, workspace, refused)
    if (taken.length > 0) notice('this node lacked your latest edits; they were sent to it first')
    return taken
  }
}

/** What no later try changes. */
const REFUSALS: ReadonlySet<ErrorCode> = new Set(['denied', 'envelope_invalid', 'input_invalid', 'too_large'])

/** As much of a grant as policy asks about. */
export function grantBody(view: GrantView, mesh: string): GrantBody {
  return {
    v: 1,
    type: 'grant',
    mesh,
    ws: view.workspace,
    by: view.by,
    grant: view.under,
    n: 1,
    prev: [],
    at: view.at,
    note: '',
    subject: view.subject,
    role: view.role as GrantBody['role'],
    zones: view.zones,
    kinds: view.kinds,
    ...(view.fields === null ? {} : { fields: view.fields }),
    ...(view.hosts === null ? {} : { hosts: view.hosts }),
  }
}
