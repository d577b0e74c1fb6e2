/**
 * Grants that a node cannot have made up: each is followed, signature by signature, up to the genesis. What is sealed for a
 * key that a stolen host put into its list would be the thief's. That a node hides a revocation, or the root set that
 * replaced another, cannot be seen from here.
 */

import type { GrantView } from '../../api/schemas.ts'
import { parseEnvelope, type Authorising, type Envelope, type GrantBody } from '../../core/envelope.ts'
import { denial } from '../../core/policy.ts'
import type { RecipientGrant } from '../../core/recipients.ts'
import { MeshError } from '../../errors.ts'
import type { Cli } from '../cli.ts'
import type { ApiClient } from '../asking/client.ts'

/** Requests under way at once. */
const AT_ONCE = 8
const RATE_RETRY_MS = 1000
const RATE_RETRIES = 30

/** As much of a listed grant as recipients.ts asks about, on the node's word. */
export function recipientGrant(view: GrantView): RecipientGrant {
  const { subject, role, workspace: ws, zones, kinds, fields, enc, name } = view
  return {
    subject,
    role: role as GrantBody['role'],
    ws,
    zones,
    kinds,
    ...(fields === null ? {} : { fields }),
    ...(enc === null ? {} : { enc }),
    ...(name === null ? {} : { name }),
  }
}

/**
 * The grants behind these views, from their signed envelopes.
 * @throws MeshError `denied` when one does not follow from the genesis of the mesh, or that is not the one of --mesh
 */
export async function provenGrants(cli: Cli, views: readonly GrantView[]): Promise<Envelope<GrantBody>[]> {
  const client = await cli.client()
  const { id } = await cli.genesis()
  const chain = new AuthorityChain(id, (edit) => patiently(cli, () => client.edit(edit)))
  const proven: Envelope<GrantBody>[] = []
  for (let start = 0; start < views.length; start += AT_ONCE) {
    const some = views.slice(start, start + AT_ONCE).map((view) => chain.authority(view.id))
    for (const envelope of await Promise.all(some)) {
      if (envelope.body.type !== 'grant') throw unproven(envelope.id, 'it is a root set')
      proven.push(envelope as Envelope<GrantBody>)
    }
  }
  return proven
}

/** Asks again when the node says that it was asked too often: it lets one key ask only so often, and a mesh may have thousands of grants. */
export async function patiently<T>({ host }: Cli, ask: () => Promise<T>): Promise<T> {
  for (let tries = 1; ; tries += 1) {
    try {
      return await ask()
    } catch (error) {
      const isLimited = error instanceof MeshError && error.code === 'rate_limited'
      if (!isLimited || tries > RATE_RETRIES) throw error
      await host.clock.sleep(RATE_RETRY_MS, host.signal)
    }
  }
}

class AuthorityChain {
  readonly #mesh: string
  readonly #fetch: ApiClient['edit']
  readonly #known = new Map<string, Promise<Envelope<Authorising>>>()

  constructor(mesh: string, fetch: ApiClient['edit']) {
    this.#mesh = mesh
    this.#fetch = fetch
  }

  /** A grant or root set, and with it all that it rests on. Ids are hashes, so this ends. */
  authority(id: string): Promise<Envelope<Authorising>> {
    const known = this.#known.get(id) ?? this.#prove(id)
    this.#known.set(id, known)
    return known
  }

  async #prove(id: string): Promise<Envelope<Authorising>> {
    const stored = await this.#fetch(id)
    if (stored === undefined) throw unproven(id, 'the node does not have it')
    const envelope = parseEnvelope(stored.envelope, this.#mesh)
    const { body, sigs } = envelope
    if (envelope.id !== id) throw unproven(id, 'the node gave another envelope')
    if (body.type === 'genesis') return envelope as Envelope<Authorising>
    if (body.type === 'edit' || body.type === 'revoke') throw unproven(id, `it is a ${body.type}`)
    const { body: exercised } = await this.authority(body.grant)
    const signers = Object.keys(sigs)
    const denied = denial(body, signers, exercised)
    if (denied !== undefined) throw unproven(id, denied.message)
    const roots = body.type === 'rootset' ? body : exercised
    const isShort =
      roots.type !== 'grant' && signers.filter((key) => roots.roots.includes(key)).length < roots.threshold
    if (isShort) throw unproven(id, 'root signatures are missing')
    return envelope as Envelope<Authorising>
  }
}

function unproven(id: string, why: string): MeshError {
  return new MeshError('denied', `grant ${id.slice(0, 64)} does not follow from the genesis: ${why}`, {
    hint: 'Ask another node with --api; this one may be broken into. meshctl verify --full looks at all of it.',
  })
}
