/**
 * The first envelopes of a mesh, pure: its genesis, the owner's grant, grants of its first nodes. Called by `meshctl init`,
 * which a bare `npm start` also uses; nothing else makes a mesh.
 */

import { rootSetHash, signEnvelope, type Envelope, type GenesisBody, type GrantBody, type KeyPair } from './envelope.ts'

export interface Founding {
  /** Name of the mesh, a DNS label. */
  readonly name: string
  /** Signs the genesis and the owner's grant; kept offline afterwards. */
  readonly root: KeyPair
  /** Public key of the root that alone may replace `root`. */
  readonly nextRoot: string
  readonly owner: KeyPair
  readonly ownerName: string
  readonly nodes: readonly { readonly key: string; readonly name: string; readonly zones: readonly string[] }[]
  /** Claimed time, ms. */
  readonly at: number
}

/** The envelopes in causal order; the first is the genesis. */
export function foundMesh({ name, root, nextRoot, owner, ownerName, nodes, at }: Founding): Envelope[] {
  const genesis = signEnvelope<GenesisBody>(
    { v: 1, type: 'genesis', name, roots: [root.publicKey], threshold: 1, next: rootSetHash([nextRoot], 1), at },
    [root],
  )
  const common = { v: 1, type: 'grant', mesh: genesis.id, ws: '*', at, note: 'founding' } as const
  const ownerGrant = signEnvelope<GrantBody>(
    {
      ...common,
      by: root.publicKey,
      grant: genesis.id,
      n: 1,
      prev: [],
      subject: owner.publicKey,
      role: 'owner',
      zones: ['*'],
      kinds: ['*'],
      name: ownerName,
    },
    [root],
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
      name: node.name,
    }
    grants.push(signEnvelope(body, [owner]))
  }
  return [genesis, ownerGrant, ...grants]
}
