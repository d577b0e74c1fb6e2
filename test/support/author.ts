/**
 * One key that signs edits in a mesh, each continuing its chain, whether it is allowed to or not: for tests of who is
 * believed. Sends nothing.
 */

import { signEnvelope, type EditBody, type Envelope, type KeyPair, type Op } from '../../src/core/envelope.ts'

export class Author {
  readonly key: KeyPair
  readonly #mesh: string
  readonly #grant: string
  #last: Envelope<EditBody> | undefined

  /** @param grant the grant that it claims to exercise. */
  constructor(mesh: string, key: KeyPair, grant: string) {
    this.#mesh = mesh
    this.key = key
    this.#grant = grant
  }

  edit(path: string, ops: readonly Op[]): Envelope<EditBody> {
    const body: EditBody = {
      v: 1,
      type: 'edit',
      mesh: this.#mesh,
      ws: path.slice(0, path.indexOf('/')),
      by: this.key.publicKey,
      grant: this.#grant,
      n: (this.#last?.body.n ?? 0) + 1,
      prev: this.#last === undefined ? [] : [this.#last.id],
      at: Date.now(),
      note: '',
      edits: [[path, [], ops.toSorted((a, b) => (a[1] < b[1] ? -1 : 1))]],
    }
    this.#last = signEnvelope(body, [this.key])
    return this.#last
  }

  /** Creates a site that answers its own name on `<name>.test`. */
  site(name: string, zone = '*'): Envelope<EditBody> {
    return this.edit(`default/${zone}/site/${name}`, [
      ['set', '$', true],
      ['set', `hosts/${name}.test`, true],
      ['set', 'routes/root/action', 'return'],
      ['set', 'routes/root/path', '/'],
      ['set', 'routes/root/return/body', name],
      ['set', 'routes/root/return/status', 200],
    ])
  }
}
