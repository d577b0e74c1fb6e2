/**
 * Authors for tests: deterministic keys, and envelopes signed in a row, each continuing its author's chain. The small
 * sibling of histories.ts, for tests that need a few known edits and not a random history.
 */

import { createHash } from 'node:crypto'
import {
  keyPairFromSeed,
  signEnvelope,
  type EditBody,
  type Envelope,
  type GrantBody,
  type KeyPair,
  type Op,
  type RevokeBody,
  type Role,
} from '../../src/core/envelope.ts'
import { foundMesh } from '../../src/core/founding.ts'

/** The key pair of a name: the same in every run. */
export function keyOf(name: string): KeyPair {
  return keyPairFromSeed(createHash('sha256').update(`test key ${name}`).digest())
}

/** A mesh with one root and one owner; signs what its authors do. */
export class TestMesh {
  readonly founding: readonly Envelope[]
  readonly id: string
  readonly root: KeyPair = keyOf('root')
  readonly owner: KeyPair = keyOf('owner')
  readonly ownerGrant: string
  readonly #heads = new Map<string, { id: string; n: number }>()
  // In the past of any clock: the API refuses what claims to be far ahead.
  #at = Date.UTC(2025, 0, 1)

  constructor(nodes: readonly { key: string; name: string; zones: readonly string[] }[] = []) {
    const nextRoot = keyOf('next root').publicKey
    this.founding = foundMesh({
      name: 'test',
      roots: [this.root],
      nextRoots: [nextRoot],
      threshold: 1,
      owner: this.owner,
      ownerName: 'owner',
      nodes,
      at: this.#at,
    })
    this.id = this.founding[0]!.id
    this.ownerGrant = this.founding[1]!.id
    for (const envelope of this.founding) this.#follow(envelope)
  }

  /** An owner's grant for a key. */
  grant(
    subject: string,
    role: Role,
    options: Partial<Pick<GrantBody, 'zones' | 'kinds' | 'fields' | 'ws' | 'name'>> = {},
  ): Envelope<GrantBody> {
    const { ws = '*', zones = ['*'], kinds = ['*'], ...rest } = options
    return this.#sign<GrantBody>(this.owner, ws, {
      type: 'grant',
      grant: this.ownerGrant,
      subject,
      role,
      zones,
      kinds,
      ...rest,
    })
  }

  revoke(target: string, keep: readonly string[] = []): Envelope<RevokeBody> {
    return this.#sign<RevokeBody>(this.owner, '*', { type: 'revoke', grant: this.ownerGrant, target, keep })
  }

  /** An edit of one resource; by the owner unless told. */
  edit(
    resource: string,
    ops: readonly Op[],
    options: { by?: KeyPair; grant?: string; deps?: readonly string[] } = {},
  ): Envelope<EditBody> {
    const { by = this.owner, grant = this.ownerGrant, deps = [] } = options
    const ws = resource.split('/')[0] as string
    const sorted = ops.toSorted((a, b) => (a[1] < b[1] ? -1 : 1))
    return this.#sign<EditBody>(by, ws, { type: 'edit', grant, edits: [[resource, deps.toSorted(), sorted]] })
  }

  #sign<B extends EditBody | GrantBody | RevokeBody>(
    key: KeyPair,
    ws: string,
    rest: Omit<B, 'v' | 'mesh' | 'ws' | 'by' | 'n' | 'prev' | 'at' | 'note'>,
  ): Envelope<B> {
    const head = this.#heads.get(`${ws} ${key.publicKey}`)
    const common = {
      v: 1,
      mesh: this.id,
      ws,
      by: key.publicKey,
      n: (head?.n ?? 0) + 1,
      prev: head === undefined ? [] : [head.id],
      at: (this.#at += 1000),
      note: '',
    }
    const envelope = signEnvelope({ ...common, ...rest } as unknown as B, [key])
    this.#follow(envelope)
    return envelope
  }

  #follow({ id, body }: Envelope): void {
    if (body.type !== 'genesis') this.#heads.set(`${body.ws} ${body.by}`, { id, n: body.n })
  }
}
