/**
 * The first envelopes of a mesh, pure: its genesis, the owner's grant, grants of its first nodes. Called by `meshctl init`,
 * which a bare `npm start` also uses; nothing else makes a mesh.
 */

import { rootSetHash, signEnvelope, type Envelope, type GenesisBody, type GrantBody, type KeyPair } from './envelope.ts'
import { encryptionKey } from './secrets.ts'

export interface Founding {
  /** Name of the mesh, a DNS label. */
  readonly name: string
  /** They sign the genesis and the owner's grant; kept offline afterwards. */
  readonly roots: readonly KeyPair[]
  /** Public keys of the set that alone may replace `roots`, with the same threshold. */
  readonly nextRoots: readonly string[]
  /** Signatures that a root act takes. */
  readonly threshold: number
  readonly owner: KeyPair
  readonly ownerName: string
  readonly nodes: readonly FoundingNode[]
  /** Claimed time, ms. */
  readonly at: number
}

export interface FoundingNode {
  readonly key: string
  /** X25519 key that secrets are sealed to. Without it the node opens none until it is granted anew. */
  readonly enc?: string | undefined
  readonly name: string
  readonly zones: readonly string[]
}

/** The envelopes in causal order; the first is the genesis. */
export function foundMesh(founding: Founding): Envelope[] {
  const { name, threshold, nextRoots, owner, ownerName, nodes, at } = founding
  const roots = founding.roots.toSorted((a, b) => (a.publicKey < b.publicKey ? -1 : 1))
  const publicKeys = roots.map(({ publicKey }) => publicKey)
  const genesis = signEnvelope<GenesisBody>(
    { v: 1, type: 'genesis', name, roots: publicKeys, threshold, next: rootSetHash(nextRoots, threshold), at },
    roots,
  )
  const common = { v: 1, type: 'grant', mesh: genesis.id, ws: '*', at, note: 'founding' } as const
  const ownerGrant = signEnvelope<GrantBody>(
    {
      ...common,
      by: publicKeys[0] as string,
      grant: genesis.id,
      n: 1,
      prev: [],
      subject: owner.publicKey,
      role: 'owner',
      zones: ['*'],
      kinds: ['*'],
      enc: encryptionKey(owner.seed).publicKey,
      name: ownerName,
    },
    roots,
  )
  const grants: Envelope[] = []
  for (const [index, node] of nodes.entries()) {
    const body: GrantBody = {
      ...common,
      by: owner.publicKey,
      grant: ownerGrant.id,
      n: index + 1,
      prev: grants.slice(-1).map(({ id }) => id),
      subject: node.key,
      role: 'node',
      zones: node.zones.toSorted(),
      kinds: ['*'],
      ...(node.enc === undefined ? {} : { enc: node.enc }),
      name: node.name,
    }
    grants.push(signEnvelope(body, [owner]))
  }
  return [genesis, ownerGrant, ...grants]
}
