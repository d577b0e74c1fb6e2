/**
 * Who belongs to the mesh and where this node stands in it: which keys may connect, whom to dial, this node's zones and
 * workspaces. Derived from policy, configuration and heard addresses at every call; holds nothing. Used by node.ts.
 */

import type { Envelope, GrantBody } from './core/envelope.ts'
import { zoneCovers } from './core/names.ts'
import { mayGrantNodes } from './core/policy.ts'
import type { Place } from './core/slice.ts'
import type { MeshState } from './core/state.ts'
import type { KnownPeer, PeerKey } from './ports.ts'

export interface MembershipOptions {
  readonly state: MeshState
  readonly own: PeerKey
  /** X25519 key of this node, 64 hex digits, for whoever grants it by hand. */
  readonly enc: string
  /** Peers of the configuration. */
  readonly listed: readonly KnownPeer[]
  /** Zones of the configuration: they narrow those of the grant. Empty: all of them. */
  readonly zones: readonly string[]
}

export class Membership {
  readonly #options: MembershipOptions

  constructor(options: MembershipOptions) {
    this.#options = options
  }

  /**
   * Whether a key may connect. A granted node may. A listed key may as well, unless it is known to be revoked: its grant may
   * be just what this node has not heard of, and waits to hear from that very peer.
   */
  allows(peer: PeerKey): boolean {
    if (this.#nodeGrants(peer).length > 0) return true
    return this.isListed(peer) && !this.#options.state.policy.isRevokedNode(peer)
  }

  /** What a key is as a node, whatever the configuration lists. */
  standingOf(key: PeerKey): 'node' | 'revoked' | 'unknown' {
    if (this.#nodeGrants(key).length > 0) return 'node'
    return this.#options.state.policy.isRevokedNode(key) ? 'revoked' : 'unknown'
  }

  /** Whether a key may make nodes of these zones, so that its tickets for them are heard and its denials followed. */
  mayGrantNodes(key: string, zones: readonly string[]): boolean {
    const { policy } = this.#options.state
    if (policy.rootSet()?.body.roots.includes(key) === true) return true
    return policy.activeGrants(key).some(({ body }) => mayGrantNodes(body, zones))
  }

  isListed(peer: PeerKey): boolean {
    return this.#options.listed.some(({ key }) => key === peer)
  }

  /** Nodes with an active grant, by key, with the name that the grant gives. */
  grantedNodes(): ReadonlyMap<PeerKey, string | undefined> {
    const { history } = this.#options.state
    const nodes = new Map<PeerKey, string | undefined>()
    for (const key of history.subjects()) {
      if (this.#nodeGrants(key).length > 0) nodes.set(key, this.nameOf(key))
    }
    return nodes
  }

  nameOf(key: PeerKey): string | undefined {
    return this.#nodeGrants(key).find(({ body }) => body.name !== undefined)?.body.name
  }

  /** Whether this is the only node that the mesh has, as far as policy and configuration know. */
  get isAlone(): boolean {
    const { own, listed } = this.#options
    const nodes = this.grantedNodes()
    return nodes.size === 1 && nodes.has(own) && listed.every(({ key }) => key === own)
  }

  /** Whether this node had a grant and lost it: it serves on, and applies nothing new. */
  get isRevoked(): boolean {
    const { own } = this.#options
    const standing = this.standingOf(own)
    return standing === 'revoked' || (standing === 'unknown' && this.revocationsOf(own).length > 0)
  }

  /**
   * Where a node stands that says it is in these zones, grant by grant: they decide, its word can only narrow them. None for a
   * node without a grant.
   */
  placesOf(key: PeerKey, claimed: readonly string[]): Place[] {
    const places = this.#nodeGrants(key).map(({ body }) => ({
      workspace: body.ws,
      zones: claimed.filter((zone) => body.zones.some((outer) => zoneCovers(outer, zone))),
    }))
    // A grant for zones that it is not in would still bring what its workspaces have in zone *.
    const inhabited = places.filter(({ zones }) => zones.length > 0)
    return inhabited.length > 0 ? inhabited : places
  }

  /** Where this node stands: by its grants, narrowed by the zones of the configuration. */
  places(): Place[] {
    const { own, zones } = this.#options
    return this.placesOf(own, zones.length === 0 ? this.#grantedZones() : zones)
  }

  zones(): readonly string[] {
    return [...new Set(this.places().flatMap(({ zones }) => zones))].toSorted()
  }

  /** What is wrong with this node's own place, for people. */
  complaints(): string[] {
    const { state, own, enc, zones } = this.#options
    if (state.meshId === undefined) return []
    if (this.isRevoked)
      return ['this node’s grant was revoked: it serves its last good generation and applies nothing new']
    const granted = this.#grantedZones()
    if (granted.length === 0)
      return [`this node has no grant; an owner runs: meshctl grant node ${own}:${enc} --zone ZONE --name NAME`]
    return zones
      .filter((zone) => !granted.some((outer) => zoneCovers(outer, zone)))
      .map((zone) => `mesh.zone ${zone} is outside this node’s grant (${granted.join(', ')}) and is left out`)
  }

  /** The accepted revocations of a node's grants. */
  revocationsOf(peer: PeerKey): Envelope[] {
    const { history, policy } = this.#options.state
    const grants = history.grantsOf(peer).map((id) => history.get(id) as Envelope<GrantBody>)
    return grants.filter(({ body }) => body.role === 'node').flatMap((grant) => policy.revocationsOf(grant))
  }

  /**
   * What took their right from those who had revoked a node's grants. A node that was cut off hears of it from nobody, since
   * it takes all others for revoked, or they it.
   */
  restorationsOf(peer: PeerKey): Envelope[] {
    const { history, policy } = this.#options.state
    const targets = [`key/${peer}`, ...history.grantsOf(peer).map((id) => `grant/${id}`)]
    const revocations = targets
      .flatMap((target) => history.revocationsOf(target))
      .map((id) => history.get(id) as Envelope)
    const causes = revocations
      .filter((one) => !policy.verdict(one).accepted)
      .flatMap((one) => this.#againstAuthorOf(one))
    return [...new Map(causes.map((cause) => [cause.id, cause])).values()]
  }

  /** Accepted revocations of the grant that an envelope exercises, and of those that this one rests on; root sets at its end. */
  #againstAuthorOf({ body }: Envelope): Envelope[] {
    if (body.type === 'genesis') return []
    const { history, policy } = this.#options.state
    const exercised = history.get(body.grant) as Envelope
    if (exercised.body.type === 'grant') {
      return [...policy.revocationsOf(exercised as Envelope<GrantBody>), ...this.#againstAuthorOf(exercised)]
    }
    const successors = history.rootsetsAfter(exercised.id).map((id) => history.get(id) as Envelope)
    return successors.filter((successor) => policy.verdict(successor).accepted)
  }

  /** All peers worth dialling with what is known of their addresses, listed ones first. */
  dialTargets(heard: ReadonlyMap<PeerKey, readonly string[]>): KnownPeer[] {
    return this.askTargets(heard).filter(({ key }) => this.allows(key))
  }

  /** Whom to ask what this node is: also those whom it takes for revoked, since about them it may be wrong as well. */
  askTargets(heard: ReadonlyMap<PeerKey, readonly string[]>): KnownPeer[] {
    const targets = new Map<PeerKey, readonly string[]>(
      this.#options.listed.map(({ key, addresses }) => [key, addresses]),
    )
    for (const [key, addresses] of heard) {
      targets.set(key, [...new Set([...(targets.get(key) ?? []), ...addresses])])
    }
    return [...targets]
      .filter(([key]) => key !== this.#options.own)
      .map(([key, addresses]) => ({ key, addresses, listed: this.isListed(key) }))
  }

  #grantedZones(): string[] {
    return [...new Set(this.#nodeGrants(this.#options.own).flatMap(({ body }) => body.zones))].toSorted()
  }

  #nodeGrants(key: PeerKey): Envelope<GrantBody>[] {
    return this.#options.state.policy.activeGrants(key).filter(({ body }) => body.role === 'node')
  }
}
