/**
 * One key that signs what it likes in a mesh, each time continuing its chain, whether it is allowed to or not: for tests of who
 * is believed. Sends nothing.
 */

import {
  signEnvelope,
  type Body,
  type EditBody,
  type Envelope,
  type GenesisBody,
  type GrantBody,
  type KeyPair,
  type Op,
  type ResourceEdit,
  type RevokeBody,
  type Role,
} from '../../src/core/envelope.ts'

type Chained = Exclude<Body, GenesisBody>
/** What the chain and the key say by themselves. */
type OfChain = 'v' | 'mesh' | 'ws' | 'by' | 'grant' | 'n' | 'prev' | 'at' | 'note'
/** Laid over what it would have said. */
type Over = Partial<Pick<EditBody, OfChain>>

export class Author {
  readonly key: KeyPair
  readonly #mesh: string
  readonly #grant: string
  readonly #signers: readonly KeyPair[]
  readonly #heads: Map<string, Envelope<Chained>>

  /**
   * @param grant the grant that it claims to exercise.
   * @param heads what its chains continue, by workspace.
   */
  constructor(
    mesh: string,
    key: KeyPair,
    grant: string,
    options: { readonly signers?: readonly KeyPair[]; readonly heads?: ReadonlyMap<string, Envelope<Chained>> } = {},
  ) {
    this.#mesh = mesh
    this.key = key
    this.#grant = grant
    this.#signers = options.signers ?? [key]
    this.#heads = new Map(options.heads)
  }

  /** The same key in other hands: goes on from here by itself. */
  copy(): Author {
    return new Author(this.#mesh, this.key, this.#grant, { signers: this.#signers, heads: this.#heads })
  }

  /** Signs the next envelope of its chain in a workspace. */
  sign<B extends Chained>(ws: string, rest: Omit<B, OfChain>, over: Over = {}): Envelope<B> {
    const last = this.#heads.get(ws)
    const chain = {
      v: 1,
      mesh: this.#mesh,
      ws,
      by: this.key.publicKey,
      grant: this.#grant,
      n: (last?.body.n ?? 0) + 1,
      prev: last === undefined ? [] : [last.id],
      at: Date.now(),
      note: '',
      ...over,
    }
    const envelope = signEnvelope({ ...chain, ...rest } as unknown as B, this.#signers)
    this.#heads.set(ws, envelope)
    return envelope
  }

  edit(path: string, ops: readonly Op[], over: Over & { readonly deps?: readonly string[] } = {}): Envelope<EditBody> {
    const { deps = [], ...rest } = over
    return this.edits([[path, deps, ops]], rest)
  }

  /** One edit of several resources of one workspace. */
  edits(edits: readonly ResourceEdit[], over: Over = {}): Envelope<EditBody> {
    const sorted = edits
      .map(([path, deps, ops]): ResourceEdit => [path, deps, ops.toSorted((a, b) => (a[1] < b[1] ? -1 : 1))])
      .toSorted((a, b) => (a[0] < b[0] ? -1 : 1))
    const path = sorted[0]?.[0] ?? ''
    return this.sign<EditBody>(path.slice(0, path.indexOf('/')), { type: 'edit', edits: sorted }, over)
  }

  /** Creates a site that answers its own name on `<name>.test`. */
  site(name: string, zone = '*', over: Over & { readonly host?: string } = {}): Envelope<EditBody> {
    const { host = `${name}.test`, ...rest } = over
    return this.edit(`default/${zone}/site/${name}`, siteOps(name, host), rest)
  }

  grant(
    subject: string,
    role: Role,
    { ws = '*', over = {}, ...scope }: Partial<Pick<GrantBody, 'zones' | 'kinds'>> & { ws?: string; over?: Over } = {},
  ): Envelope<GrantBody> {
    return this.sign<GrantBody>(ws, { type: 'grant', subject, role, zones: ['*'], kinds: ['*'], ...scope }, over)
  }

  revoke(target: string, keep: readonly string[] = [], over: Over = {}): Envelope<RevokeBody> {
    return this.sign<RevokeBody>('*', { type: 'revoke', target, keep: keep.toSorted() }, over)
  }
}

/** What makes a site that answers a text on a host. */
export function siteOps(body: string, host: string): Op[] {
  return [
    ['set', '$', true],
    ['set', `hosts/${host}`, true],
    ['set', 'routes/root/action', 'return'],
    ['set', 'routes/root/path', '/'],
    ['set', 'routes/root/return/body', body],
    ['set', 'routes/root/return/status', 200],
  ]
}
