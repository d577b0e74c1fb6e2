/**
 * The rules of DESIGN.md section 3 a second time, as slow and plain as possible and in another way than src/core does it:
 * verdicts rank by rank from the top, visibility by reachability in the graph of deps. The property tests compare the two.
 * Imports nothing of src/core but types.
 */

import type {
  EditBody,
  Envelope,
  GenesisBody,
  GrantBody,
  Op,
  RevokeBody,
  RootsetBody,
  Value,
} from '../../src/core/envelope.ts'

type Signed = Envelope<EditBody | GrantBody | RevokeBody | RootsetBody>

const RANK = { root: 4, owner: 3, admin: 2, editor: 1, robot: 1, node: 0, viewer: 0 } as const

export interface OracleResource {
  readonly exists: boolean
  readonly fields: Record<string, Value>
  /** Ids of the edits whose values conflict, the winner first. */
  readonly conflicts: Record<string, readonly string[]>
  /** `field edit`, sorted. */
  readonly lost: readonly string[]
  /** Accepted edits that change nothing here, since they overwrite too much. Sorted. */
  readonly excessive: readonly string[]
  readonly heads: readonly string[]
  readonly created: string | undefined
}

export interface OracleView {
  /** Ids of the envelopes that count. */
  readonly accepted: ReadonlySet<string>
  /** Accepted revocations that take away at least one envelope. */
  readonly effectiveRevocations: ReadonlySet<string>
  /** Whether a key is one that a secret is for, by some grant that is in force. */
  mayOpen(secret: string, subject: string): boolean
  resource(path: string): OracleResource
  readonly paths: readonly string[]
}

/**
 * Judges a set of envelopes, given in any order.
 * @param overwritesMax concurrent writes of one resource that one edit may overwrite.
 */
export function judge(envelopes: readonly Envelope[], overwritesMax: number): OracleView {
  const byId = new Map(envelopes.map((envelope) => [envelope.id, envelope]))
  const genesis = envelopes.find((envelope): envelope is Envelope<GenesisBody> => envelope.body.type === 'genesis')
  if (genesis === undefined) throw new Error('a history without a genesis')
  const signed = envelopes.filter((envelope): envelope is Signed => envelope.body.type !== 'genesis')
  const grantOf = (id: string): Envelope<GrantBody> | undefined => {
    const found = byId.get(id)
    return found?.body.type === 'grant' ? (found as Envelope<GrantBody>) : undefined
  }
  const rootSetOf = (id: string): GenesisBody | RootsetBody | undefined => {
    const body = byId.get(id)?.body
    return body?.type === 'genesis' || body?.type === 'rootset' ? body : undefined
  }
  const rankOf = ({ body }: Signed): number =>
    RANK[rootSetOf(body.grant) === undefined ? (grantOf(body.grant)?.body.role ?? 'viewer') : 'root']

  const accepted = new Set([genesis.id])
  const effectiveRevocations = new Set<string>()
  const rootsets = signed.filter((envelope): envelope is Envelope<RootsetBody> => envelope.body.type === 'rootset')
  const isSignedBy = (envelope: Envelope, { roots, threshold }: GenesisBody | RootsetBody): boolean =>
    roots.filter((root) => Object.hasOwn(envelope.sigs, root)).length >= threshold
  // Generation after generation: whether one may be followed is known when all of its own are judged.
  const grantIn = (id: string): string | undefined => rootsets.find((one) => one.id === id)?.body.grant
  for (let generation = [genesis.id]; generation.length > 0;) {
    const words = (id: string): Set<string> =>
      new Set(
        rootsets.filter((one) => accepted.has(one.id) && one.body.grant === grantIn(id)).map((one) => one.body.next),
      )
    const mayBeFollowed = generation.filter((id) => id === genesis.id || words(id).size === 1)
    generation = rootsets
      .filter((one) => mayBeFollowed.includes(one.body.grant) && isSignedBy(one, one.body))
      .map((one) => one.id)
    for (const id of generation) accepted.add(id)
  }
  // Whoever may revoke an author of this rank has a higher one, and was judged in an earlier round.
  for (const rank of [4, 3, 2, 1, 0]) {
    for (const envelope of signed.filter((one) => one.body.type !== 'rootset' && rankOf(one) === rank)) {
      const { body } = envelope
      const rootSet = rootSetOf(body.grant)
      if (rootSet !== undefined) {
        const successors = rootsets.filter((one) => accepted.has(one.id) && one.body.grant === body.grant)
        const isKept = successors.every(({ body: { keep } }) => keep.some((head) => isAtOrBefore(envelope.id, head)))
        if (accepted.has(body.grant) && isSignedBy(envelope, rootSet) && isKept) accepted.add(envelope.id)
        continue
      }
      const grant = grantOf(body.grant)
      if (grant === undefined || !accepted.has(grant.id) || !covers(grant.body, envelope)) continue
      const against = signed.filter(
        (one) =>
          one.body.type === 'revoke' &&
          accepted.has(one.id) &&
          reaches(one as Envelope<RevokeBody>, grant, rankOf(one)),
      ) as Envelope<RevokeBody>[]
      const taking = against.filter(
        (revocation) => !revocation.body.keep.some((head) => isAtOrBefore(envelope.id, head)),
      )
      for (const revocation of taking) effectiveRevocations.add(revocation.id)
      if (taking.length === 0) accepted.add(envelope.id)
    }
  }

  /** Whether a revocation of this rank is one of that grant. */
  function reaches(revocation: Envelope<RevokeBody>, grant: Envelope<GrantBody>, rank: number): boolean {
    const { target, ws } = revocation.body
    if (target !== `grant/${grant.id}` && target !== `key/${grant.body.subject}`) return false
    if (rank <= RANK[grant.body.role]) return false
    if (ws !== '*' && ws !== grant.body.ws) return false
    if (rank === RANK.root) return true
    const own = grantOf(revocation.body.grant) as Envelope<GrantBody>
    return isWithin(grant.body, own.body)
  }

  function isAtOrBefore(id: string, head: string): boolean {
    if (id === head) return true
    const body = byId.get(head)?.body
    return body !== undefined && body.type !== 'genesis' && body.prev.some((earlier) => isAtOrBefore(id, earlier))
  }

  const edits = signed.filter((envelope): envelope is Envelope<EditBody> => envelope.body.type === 'edit')
  const paths = [...new Set(edits.flatMap((edit) => edit.body.edits.map(([path]) => path)))].toSorted()
  const inForce = signed.filter((envelope): envelope is Envelope<GrantBody> => {
    if (envelope.body.type !== 'grant' || !accepted.has(envelope.id)) return false
    const grant = envelope as Envelope<GrantBody>
    const revocations = signed.filter((one): one is Envelope<RevokeBody> => one.body.type === 'revoke')
    return !revocations.some((one) => accepted.has(one.id) && reaches(one, grant, rankOf(one)))
  })
  return {
    mayOpen: (secret, subject) => inForce.some(({ body }) => body.subject === subject && isForSecret(body, secret)),
    accepted,
    effectiveRevocations,
    paths,
    resource: (path) => materialise(path, edits, accepted, overwritesMax),
  }
}

/** Nodes get the secrets of the zones that they are in; others those that they may write. */
function isForSecret({ role, ws, zones, kinds, fields }: GrantBody, secret: string): boolean {
  const [workspace, zone] = secret.split('/') as [string, string]
  if ((ws !== '*' && ws !== workspace) || role === 'viewer') return false
  if (role === 'node') return zone === '*' || zones.some((one) => isInZone(one, zone))
  if (!kinds.includes('*') && !kinds.includes('secret')) return false
  if (role === 'robot' && fields !== undefined && !fields.includes('keys/')) return false
  return zones.some((one) => isInZone(zone, one))
}

/** Whether everything in scope of the inner grant is in scope of the outer one. */
function isWithin(inner: GrantBody, outer: GrantBody): boolean {
  return (
    (outer.ws === '*' || outer.ws === inner.ws) &&
    inner.zones.every((zone) => outer.zones.some((over) => isInZone(zone, over))) &&
    reachOf(inner).every((kind) => reachOf(outer).includes('*') || reachOf(outer).includes(kind))
  )
}

/** Whether a grant limits those who may edit by it as its giver is limited. */
function isBound(given: GrantBody, { hosts }: GrantBody): boolean {
  if (RANK[given.role] === 0 || hosts === undefined) return true
  const isHeld = (inner: string): boolean =>
    hosts.some((outer) => outer === '*' || outer === inner || (outer[0] === '*' && inner.endsWith(outer.slice(1))))
  return given.hosts?.every(isHeld) ?? false
}

function isRegistrar({ role, kinds }: GrantBody): boolean {
  return role === 'robot' && kinds.includes('node')
}

/** The kinds of a grant, when it is given; whoever makes nodes makes them for all kinds. */
function reachOf(grant: GrantBody): readonly string[] {
  return isRegistrar(grant) ? ['*'] : grant.kinds
}

function isInZone(zone: string, outer: string): boolean {
  if (outer === '*') return true
  const [parts, outerParts] = [zone.split('.'), outer.split('.')]
  return outerParts.every((part, index) => part === parts[index])
}

/** Whether a grant allows what an envelope does, revocations aside. */
function covers(grant: GrantBody, { body }: Signed): boolean {
  if (grant.subject !== body.by || (grant.ws !== '*' && grant.ws !== body.ws)) return false
  if (body.type !== 'edit') {
    if (isRegistrar(grant)) {
      // That a revocation is of a grant under its own is left to what no order of arrival lets in.
      return body.type === 'revoke' || (body.type === 'grant' && body.role === 'node' && isWithin(body, grant))
    }
    if (RANK[grant.role] < RANK.admin) return false
    return (
      body.type !== 'grant' || (RANK[body.role] < RANK[grant.role] && isWithin(body, grant) && isBound(body, grant))
    )
  }
  if (RANK[grant.role] < RANK.editor) return false
  return body.edits.every(([path, , ops]) => {
    const [ws, zone, kind] = path.split('/') as [string, string, string]
    const isInScope =
      ws === body.ws &&
      grant.zones.some((outer) => isInZone(zone, outer)) &&
      (grant.kinds.includes('*') || grant.kinds.includes(kind))
    return isInScope && ops.every(([, field]) => mayWrite(grant, field))
  })
}

function mayWrite(grant: GrantBody, field: string): boolean {
  const isNamed = (grant.fields ?? []).some(
    (scope) => scope === field || (scope.endsWith('/') && field.startsWith(scope)),
  )
  if (grant.role === 'robot' && grant.fields !== undefined) return isNamed
  return isNamed || !field.startsWith('privileged/') || grant.role === 'admin' || grant.role === 'owner'
}

interface Node {
  readonly id: string
  readonly at: number
  readonly deps: readonly string[]
  readonly ops: readonly Op[]
  /** Everything reachable through deps, itself included. */
  readonly past: ReadonlySet<string>
}

interface Write {
  readonly node: Node
  readonly field: string
  readonly value: Value
  readonly counter: number
}

/** What the accepted edits of one resource come to. */
function materialise(
  path: string,
  edits: readonly Envelope<EditBody>[],
  accepted: ReadonlySet<string>,
  overwritesMax: number,
): OracleResource {
  const raw = new Map(
    edits.flatMap((edit) =>
      edit.body.edits.filter(([touched]) => touched === path).map((entry) => [edit.id, { edit, entry }]),
    ),
  )
  const nodes = new Map<string, Node>()
  const nodeOf = (id: string): Node => {
    const known = nodes.get(id)
    if (known !== undefined) return known
    const { edit, entry } = raw.get(id) as NonNullable<ReturnType<typeof raw.get>>
    const [, deps, ops] = entry
    const past = new Set([id, ...deps.flatMap((dep) => [...nodeOf(dep).past])])
    const node = { id, at: edit.body.at, deps, ops, past }
    nodes.set(id, node)
    return node
  }

  const isDelete = (node: Node): boolean => node.ops.some(([action, name]) => action === 'del' && name === '$')
  const writes = (node: Node, field: string): boolean => node.ops.some(([, name]) => name === field)
  const replaces = (node: Node, field: string): boolean => isDelete(node) || writes(node, field)
  /** Those among the given nodes that set a field, where none of the others follows and ends it. */
  const standing = (field: string, among: readonly Node[], ends: (node: Node, field: string) => boolean): Node[] =>
    among.filter(
      (node) =>
        node.ops.some(([action, name]) => action === 'set' && name === field) &&
        !among.some((later) => later !== node && later.past.has(node.id) && ends(later, field)),
    )

  const ordered: Node[] = []
  const excessive: string[] = []
  // Parents before children: a past contains the pasts of its members.
  const candidates = [...raw.keys()].filter((id) => accepted.has(id)).map(nodeOf)
  for (const node of candidates.toSorted((a, b) => a.past.size - b.past.size)) {
    const before = ordered.filter((other) => node.past.has(other.id))
    const overwritten = node.ops.flatMap(([, field]) => standing(field, before, writes))
    if (overwritten.length > overwritesMax) excessive.push(node.id)
    else ordered.push(node)
  }

  const counters = new Map<string, Map<string, number>>()
  const highest = new Map<string, number>()
  for (const node of ordered) {
    const before = ordered.filter((other) => other !== node && node.past.has(other.id))
    const start = 1 + Math.max(0, ...before.map((other) => highest.get(other.id) as number))
    // Deleting what is not there is no operation, and deleting the resource is one.
    const written = node.ops.filter(([action, field]) => action === 'set' || standing(field, before, writes).length > 0)
    counters.set(node.id, new Map(written.map(([, field], index) => [field, start + index])))
    highest.set(node.id, start + written.length - 1)
  }

  const writesOf = (field: string): Write[] =>
    standing(field, ordered, replaces)
      .map((node) => {
        const op = node.ops.find(([action, name]) => action === 'set' && name === field) as readonly [
          'set',
          string,
          Value,
        ]
        return { node, field, value: op[2], counter: counters.get(node.id)?.get(field) as number }
      })
      .toSorted((a, b) => b.counter - a.counter || (a.node.id < b.node.id ? 1 : -1))

  const creations = standing('$', ordered, replaces)
  const counts = (node: Node): boolean => creations.some((creation) => node.past.has(creation.id))
  const allFields = [...new Set(ordered.flatMap((node) => node.ops.map(([, field]) => field)))].filter(
    (field) => field !== '$',
  )
  const fields: [string, Value][] = []
  const conflicts: [string, readonly string[]][] = []
  const lost: string[] = []
  for (const field of allFields.toSorted()) {
    const all = writesOf(field)
    const counting = all.filter((write) => counts(write.node))
    if (counting[0] !== undefined) fields.push([field, counting[0].value])
    if (counting.length > 1) conflicts.push([field, counting.map((write) => write.node.id)])
    lost.push(...all.filter((write) => !counts(write.node)).map((write) => `${field} ${write.node.id}`))
  }
  return {
    exists: creations.length > 0,
    fields: Object.fromEntries(fields),
    conflicts: Object.fromEntries(conflicts),
    lost: lost.toSorted(),
    excessive: excessive.toSorted(),
    heads: ordered
      .filter((node) => !ordered.some((later) => later !== node && later.past.has(node.id)))
      .map((node) => node.id)
      .toSorted(),
    created: creations.toSorted((a, b) => a.at - b.at || (a.id < b.id ? -1 : 1))[0]?.id,
  }
}
