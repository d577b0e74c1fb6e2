/**
 * Who may do what. `denial` checks an envelope against the grant that it exercises, which never changes; `Policy` decides
 * what revocations make of it, which may. Ranks order all authority: granting and revoking take a strictly higher one,
 * so verdicts rest on higher ranks only and cannot go round in circles. DESIGN: edits and trust, policy.
 */

import {
  rootSetHash,
  type Authorising,
  type Body,
  type EditBody,
  type Envelope,
  type GenesisBody,
  type GrantBody,
  type Op,
  type RevokeBody,
  type Role,
  type RootsetBody,
} from './envelope.ts'
import type { History } from './history.ts'
import { hostCovers, parseResourcePath, zoneCovers } from './names.ts'

/** Rank of each role; root, which is no grant, is above all. */
export const RANKS = { viewer: 0, node: 0, robot: 1, editor: 1, admin: 2, owner: 3 } as const satisfies Record<
  Role,
  number
>
export const ROOT_RANK = 4

const EDITING_RANK = RANKS.editor
const GRANTING_RANK = RANKS.admin
const PRIVILEGED_PREFIX = 'privileged/'

/** Why an envelope does not count. The same words on every node. */
export interface Denial {
  readonly code:
    | 'role'
    | 'scope'
    | 'rank'
    | 'field'
    | 'subject'
    | 'root'
    | 'revoked'
    | 'grant_void'
    | 'threshold'
    | 'superseded'
    | 'contested'
    | 'excess'
  readonly message: string
}
export type Verdict = { readonly accepted: true } | { readonly accepted: false; readonly denial: Denial }

const ACCEPTED: Verdict = { accepted: true }

type RootSet = GenesisBody | RootsetBody

/** Where an author's authority ends: its rank and its scope. */
interface Authority {
  readonly rank: number
  readonly ws: string
  readonly zones: readonly string[]
  readonly kinds: readonly string[]
}

const ROOT_AUTHORITY: Authority = { rank: ROOT_RANK, ws: '*', zones: ['*'], kinds: ['*'] }

function authorityOf(source: Authorising): Authority {
  if (source.type !== 'grant') return ROOT_AUTHORITY
  // Kinds say nothing about a node, so neither do they about who makes nodes.
  const kinds = isRegistrar(source) ? ['*'] : source.kinds
  return { rank: RANKS[source.role], ws: source.ws, zones: source.zones, kinds }
}

/** Stands for nodes among the kinds of a grant. */
export const NODE_KIND = 'node'

/** A robot whose grant names nodes: it lets hosts into its zones, and takes out again those that it let in. */
export function isRegistrar({ role, kinds }: Pick<GrantBody, 'role' | 'kinds'>): boolean {
  return role === 'robot' && kinds.includes(NODE_KIND)
}

/** Whether a grant is one under which nodes of these zones may be granted; of none: somewhere. */
export function mayGrantNodes(
  grant: Pick<GrantBody, 'role' | 'kinds' | 'zones'>,
  zones: readonly string[] = [],
): boolean {
  if (RANKS[grant.role] < GRANTING_RANK && !isRegistrar(grant)) return false
  return zones.every((inner) => grant.zones.some((outer) => zoneCovers(outer, inner)))
}

/** What the author of an envelope signed in workspace `ws` reaches: that workspace, however wide the exercised grant is. */
function authorityIn(ws: string, exercised: Authorising): Authority {
  return { ...authorityOf(exercised), ws }
}

/**
 * What the exercised grant itself forbids; undefined when it allows the envelope. Depends on immutable bytes alone,
 * so what is denied here is denied for ever.
 * @param exercised what `envelope.body.grant` names: a grant, or a root set when roots act.
 * @param target for a revocation of one grant: that grant.
 */
export function denial(
  body: Exclude<Body, GenesisBody>,
  signers: readonly string[],
  exercised: Authorising,
  target?: GrantBody,
): Denial | undefined {
  if (body.type === 'rootset') return successionDenial(body, exercised)
  const authority = authorityOf(exercised)
  if (exercised.type !== 'grant') {
    const stranger = signers.find((signer) => !exercised.roots.includes(signer))
    if (stranger !== undefined) return { code: 'root', message: `${stranger} is not a key of the exercised root set` }
    if (body.type === 'edit') return { code: 'role', message: 'root keys grant and revoke; they make no edits' }
  } else if (exercised.subject !== body.by) {
    return { code: 'subject', message: 'the grant belongs to another key than the author’s' }
  }
  if (!wsCovers(authority.ws, body.ws)) {
    return { code: 'scope', message: `the grant is for workspace ${authority.ws}, not ${body.ws}` }
  }
  if (body.type === 'edit') return editDenial(body, exercised as GrantBody, authority)
  const subject = body.type === 'grant' ? body : target
  if (authority.rank < GRANTING_RANK) {
    const denied = registrarDenial(body, exercised as GrantBody, subject)
    if (denied !== undefined) return denied
  }
  const denied =
    subject === undefined ? undefined : authorityDenial(authorityIn(body.ws, exercised), authorityOf(subject))
  return denied ?? (body.type === 'grant' ? limitDenial(body, exercised) : undefined)
}

/** What binds an author must bind whom they let in, or it would bind nobody. */
function limitDenial({ role, hosts, quota }: GrantBody, exercised: Authorising): Denial | undefined {
  if (RANKS[role] < EDITING_RANK) return undefined
  if (RANKS[role] >= GRANTING_RANK && quota !== undefined) {
    return { code: 'scope', message: 'a quota would not bind those whom an admin or owner lets in: they take none' }
  }
  const outer = exercised.type === 'grant' ? exercised.hosts : undefined
  if (outer === undefined) return undefined
  if (hosts === undefined) {
    return { code: 'scope', message: `the exercised grant covers hosts ${outer.join(', ')} alone, and this names none` }
  }
  const host = hosts.find((inner) => !outer.some((pattern) => hostCovers(pattern, inner)))
  return host === undefined ? undefined : { code: 'scope', message: `host ${host} is outside the exercised grant` }
}

/** Pre-rotation: a root set says which one may follow, so that whoever steals its keys cannot choose. */
function successionDenial({ roots, threshold }: RootsetBody, exercised: Authorising): Denial | undefined {
  if (exercised.type === 'grant') return { code: 'role', message: 'a root set follows a root set, not a grant' }
  if (exercised.next === rootSetHash(roots, threshold)) return undefined
  return { code: 'root', message: 'this is not the root set that the exercised one named as the next' }
}

/** @param subject the grant that is given or taken; undefined when a key loses all of its grants. */
function registrarDenial(body: GrantBody | RevokeBody, exercised: GrantBody, subject?: GrantBody): Denial | undefined {
  if (!isRegistrar(exercised)) return { code: 'role', message: 'this role may not grant or revoke' }
  if (subject?.role !== 'node') return { code: 'role', message: 'a registrar grants nodes, and revokes such grants' }
  if (body.type === 'grant' || subject.grant === body.grant) return undefined
  return { code: 'scope', message: 'a registrar revokes only what it granted itself, under the same grant' }
}

function editDenial(body: EditBody, grant: GrantBody, authority: Authority): Denial | undefined {
  if (authority.rank < EDITING_RANK) return { code: 'role', message: `a ${grant.role} may not edit` }
  for (const [path, , ops] of body.edits) {
    const resource = parseResourcePath(path)
    if (resource === undefined) return { code: 'scope', message: `${path} is not a resource` }
    if (!grant.zones.some((zone) => zoneCovers(zone, resource.zone))) {
      return { code: 'scope', message: `the grant covers zones ${grant.zones.join(', ')}, not ${resource.zone}` }
    }
    if (!kindCovers(grant.kinds, resource.kind)) {
      return { code: 'scope', message: `the grant covers kinds ${grant.kinds.join(', ')}, not ${resource.kind}` }
    }
    const denied = ops.find((op) => !mayWrite(grant, op))
    if (denied !== undefined)
      return { code: 'field', message: `the grant does not cover field ${denied[1]} of ${path}` }
  }
  return undefined
}

function mayWrite(grant: GrantBody, [, field]: Op): boolean {
  const isNamed =
    grant.fields?.some((scope) => (scope.endsWith('/') ? field.startsWith(scope) : field === scope)) ?? false
  if (isNamed) return true
  if (grant.role === 'robot' && grant.fields !== undefined) return false
  return !field.startsWith(PRIVILEGED_PREFIX) || RANKS[grant.role] >= RANKS.admin
}

/** What one authority lacks to grant or revoke another. */
function authorityDenial(over: Authority, under: Authority): Denial | undefined {
  if (over.rank <= under.rank) return { code: 'rank', message: 'granting and revoking take a strictly higher rank' }
  if (!wsCovers(over.ws, under.ws))
    return { code: 'scope', message: `workspace ${under.ws} is outside the exercised grant` }
  const zone = under.zones.find((inner) => !over.zones.some((outer) => zoneCovers(outer, inner)))
  if (zone !== undefined) return { code: 'scope', message: `zone ${zone} is outside the exercised grant` }
  const kind = under.kinds.find((inner) => !kindCovers(over.kinds, inner))
  if (kind !== undefined) return { code: 'scope', message: `kind ${kind} is outside the exercised grant` }
  return undefined
}

function wsCovers(outer: string, inner: string): boolean {
  return outer === '*' || outer === inner
}

function kindCovers(kinds: readonly string[], kind: string): boolean {
  return kinds.includes('*') || kinds.includes(kind)
}

/** Verdicts over a history. Remembers what it decided until `forget`. */
export class Policy {
  readonly #history: History
  readonly #verdicts = new Map<string, Verdict>()
  /** Accepted revocations by the grant that they take away. */
  readonly #revocations = new Map<string, readonly Envelope<RevokeBody>[]>()

  readonly #kept = new Map<string, Uint8Array>()

  constructor(history: History) {
    this.#history = history
  }

  /** Drops remembered verdicts; to be called when a revocation, a root set or a co-signature was added. */
  forget(): void {
    this.#verdicts.clear()
    this.#revocations.clear()
  }

  /** Whether an admitted envelope counts. */
  verdict(envelope: Envelope): Verdict {
    const known = this.#verdicts.get(envelope.id)
    if (known !== undefined) return known
    // The history's copy has the signatures that were merged since the caller got its own.
    const verdict = this.#decide(this.#history.get(envelope.id) ?? envelope)
    this.#verdicts.set(envelope.id, verdict)
    return verdict
  }

  /** The verdict on an envelope that is not admitted yet, without remembering it. */
  preview(envelope: Envelope): Verdict {
    return this.#decide(envelope)
  }

  /** Grants of a key under which it may act now: valid, and not revoked. */
  activeGrants(subject: string): Envelope<GrantBody>[] {
    return this.#history
      .grantsOf(subject)
      .map((id) => this.#history.get(id) as Envelope<GrantBody>)
      .filter((grant) => this.verdict(grant).accepted && this.revocationsOf(grant).length === 0)
  }

  /** The root set in force: the last that follows from the genesis. Undefined before there is a genesis. */
  rootSet(): Envelope<RootSet> | undefined {
    let current: Envelope<RootSet> | undefined = this.#history.genesis
    for (let next = current; next !== undefined; [next] = this.#successorsOf(next.id)) current = next
    return current
  }

  /**
   * Whether a key had a grant as a node and has lost all of them. What a registrar gave and took back does not count: it would
   * lock out hosts that others want in.
   */
  isRevokedNode(subject: string): boolean {
    const grants = this.#history.grantsOf(subject).map((id) => this.#history.get(id) as Envelope<GrantBody>)
    const counts = (grant: Envelope<GrantBody>): boolean =>
      !this.#isByRegistrar(grant) || this.revocationsOf(grant).some((revocation) => !this.#isByRegistrar(revocation))
    const isLost = grants.some((grant) => grant.body.role === 'node' && counts(grant))
    return isLost && !this.activeGrants(subject).some((grant) => grant.body.role === 'node')
  }

  #isByRegistrar({ body }: Envelope<GrantBody | RevokeBody>): boolean {
    const exercised = this.#history.get(body.grant)?.body
    return exercised?.type === 'grant' && isRegistrar(exercised)
  }

  /** Accepted revocations that take the given grant away, whatever they keep. */
  revocationsOf(grant: Envelope<GrantBody>): readonly Envelope<RevokeBody>[] {
    const known = this.#revocations.get(grant.id)
    if (known !== undefined) return known
    const targets = [`grant/${grant.id}`, `key/${grant.body.subject}`]
    const revocations = targets
      .flatMap((target) => this.#history.revocationsOf(target))
      .toSorted()
      .map((id) => this.#history.get(id) as Envelope<RevokeBody>)
      .filter((revocation) => this.#outranks(revocation.body, grant.body) && this.verdict(revocation).accepted)
    this.#revocations.set(grant.id, revocations)
    return revocations
  }

  #decide(envelope: Envelope): Verdict {
    const { body } = envelope
    if (body.type === 'genesis') return ACCEPTED
    const exercised = this.#history.get(body.grant) as Envelope<Authorising>
    if (!this.verdict(exercised).accepted) {
      return denied('grant_void', `the exercised ${nameOf(exercised)} is itself not accepted`)
    }
    if (body.type === 'rootset') return this.#decideSuccession(envelope as Envelope<RootsetBody>, exercised)
    if (exercised.body.type !== 'grant') return this.#decideRoot(envelope, exercised as Envelope<RootSet>)
    const revocations = this.revocationsOf(exercised as Envelope<GrantBody>)
    const revocation = revocations.find((candidate) => !this.#keeps(candidate, envelope))
    if (revocation === undefined) return ACCEPTED
    return denied('revoked', `the grant was revoked by ${revocation.body.by} (revocation ${revocation.id})`)
  }

  #decideRoot(envelope: Envelope, exercised: Envelope<RootSet>): Verdict {
    const missing = missingSignatures(envelope, exercised.body)
    if (missing !== undefined) return missing
    const successor = this.#successorsOf(exercised.id).find((candidate) => !this.#keeps(candidate, envelope))
    if (successor === undefined) return ACCEPTED
    return denied('superseded', `the ${nameOf(exercised)} was replaced by root set ${successor.id}`)
  }

  /**
   * A thief of a root set can sign it again with another `next`. Which was first cannot be told, so then none follows: the
   * mesh is founded anew.
   */
  #decideSuccession(envelope: Envelope<RootsetBody>, exercised: Envelope<Authorising>): Verdict {
    const missing = missingSignatures(envelope, envelope.body)
    if (missing !== undefined) return missing
    const { body } = exercised
    if (body.type !== 'rootset') return ACCEPTED
    const rival = this.#successorsOf(body.grant).find((other) => other.body.next !== body.next)
    if (rival === undefined) return ACCEPTED
    return denied('contested', `${nameOf(exercised)} and root set ${rival.id} name different successors`)
  }

  /** Accepted root sets that follow one, sorted by id. */
  #successorsOf(rootset: string): readonly Envelope<RootsetBody>[] {
    return this.#history
      .rootsetsAfter(rootset)
      .toSorted()
      .map((id) => this.#history.get(id) as Envelope<RootsetBody>)
      .filter((successor) => this.verdict(successor).accepted)
  }

  /** Rank and scope first: only then does asking for the verdict lead upwards. */
  #outranks(revocation: RevokeBody, grant: GrantBody): boolean {
    const exercised = this.#history.get(revocation.grant)?.body as Authorising
    return authorityDenial(authorityIn(revocation.ws, exercised), authorityOf(grant)) === undefined
  }

  /** Whether an envelope is among those a revocation keeps: its heads and all before them in their author's chain. */
  #keeps(revocation: Envelope<RevokeBody | RootsetBody>, envelope: Envelope): boolean {
    const position = this.#history.positionOf(envelope.id)
    // What is not admitted yet is before nothing.
    return position !== undefined && isSet(this.#keptBy(revocation), position)
  }

  /** Positions that a revocation keeps, one bit each: a mesh may hold thousands of revocations of long chains. */
  #keptBy(revocation: Envelope<RevokeBody | RootsetBody>): Uint8Array {
    // The past of an admitted envelope is immutable, so the closure is computed once.
    const known = this.#kept.get(revocation.id)
    if (known !== undefined) return known
    const end = (this.#history.positionOf(revocation.id) ?? this.#history.size) + 1
    const kept = new Uint8Array(Math.ceil(end / 8))
    const queue = [...revocation.body.keep]
    for (let id = queue.pop(); id !== undefined; id = queue.pop()) {
      const position = this.#history.positionOf(id)
      if (position === undefined || isSet(kept, position)) continue
      kept[position >>> 3] = byteAt(kept, position) | (1 << (position & 7))
      const body = this.#history.get(id)?.body
      if (body !== undefined && body.type !== 'genesis') queue.push(...body.prev)
    }
    this.#kept.set(revocation.id, kept)
    return kept
  }
}

function missingSignatures({ sigs }: Envelope, { roots, threshold }: RootSet): Verdict | undefined {
  const signed = Object.keys(sigs).filter((key) => roots.includes(key)).length
  return signed >= threshold ? undefined : denied('threshold', `${signed} of ${threshold} root signatures`)
}

function nameOf({ id, body }: Envelope<Authorising>): string {
  return body.type === 'grant' ? `grant ${id}` : body.type === 'rootset' ? `root set ${id}` : 'first root set'
}

function byteAt(bits: Uint8Array, position: number): number {
  return bits[position >>> 3] ?? 0
}

function isSet(bits: Uint8Array, position: number): boolean {
  return (byteAt(bits, position) & (1 << (position & 7))) !== 0
}

function denied(code: Denial['code'], message: string): Verdict {
  return { accepted: false, denial: { code, message } }
}
