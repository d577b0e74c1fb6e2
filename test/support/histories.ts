/**
 * Generates signed histories from a seed: several authors on three views of one mesh that see each other's envelopes late,
 * so that forks, conflicts and edits under a revoked grant arise as they do in life. A history of k steps is a prefix of
 * the one of k + 1, so a failure shrinks by shortening. Used by the core's property tests and scripts/props.ts.
 */

import { sha256 } from '../../src/core/canonical.ts'
import { OVERWRITES_MAX } from '../../src/core/document.ts'
import { encryptionKey, type EncryptionKey } from '../../src/core/secrets.ts'
import {
  keyPairFromSeed,
  parseEnvelope,
  rootSetHash,
  signEnvelope,
  type Body,
  type EditBody,
  type Envelope,
  type GrantBody,
  type KeyPair,
  type Op,
  type ResourceEdit,
  type RevokeBody,
  type Role,
  type RootsetBody,
} from '../../src/core/envelope.ts'

// ---------------------------------------------------------------------------------------------- randomness

/** Randomness that is replayed by its seed (mulberry32). */
export interface Dice {
  /** A number in [0, 1). */
  next(): number
  /** An integer in [0, below). */
  below(limit: number): number
  chance(probability: number): boolean
  /** @throws RangeError when there is nothing to pick from. */
  pick<T>(items: readonly T[]): T
  /** Some of the items, in their order. */
  some<T>(items: readonly T[], probability: number): T[]
  shuffle<T>(items: readonly T[]): T[]
}

export function diceFrom(seed: number): Dice {
  let state = seed >>> 0
  const next = (): number => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
  const below = (limit: number): number => Math.floor(next() * limit)
  return {
    next,
    below,
    chance: (probability) => next() < probability,
    pick(items) {
      if (items.length === 0) throw new RangeError('nothing to pick from')
      return items[below(items.length)] as (typeof items)[number]
    },
    some: (items, probability) => items.filter(() => next() < probability),
    shuffle(items) {
      const shuffled = [...items]
      for (let last = shuffled.length - 1; last > 0; last -= 1) {
        const other = below(last + 1)
        const held = shuffled[last] as (typeof items)[number]
        shuffled[last] = shuffled[other] as (typeof items)[number]
        shuffled[other] = held
      }
      return shuffled
    },
  }
}

// ---------------------------------------------------------------------------------------------- people

const keyPairs = new Map<string, KeyPair>()

/** The key pair of a person of the tests: equal names, equal keys. */
export function keyOf(name: string): KeyPair {
  const known = keyPairs.get(name)
  if (known !== undefined) return known
  const pair = keyPairFromSeed(Buffer.from(sha256(`nxmesh test key ${name}`), 'hex'))
  keyPairs.set(name, pair)
  return pair
}

const encryptionKeys = new Map<string, EncryptionKey>()

/** The X25519 key that goes with a key pair. */
export function encryptionKeyOf({ publicKey, seed }: KeyPair): EncryptionKey {
  const known = encryptionKeys.get(publicKey)
  if (known !== undefined) return known
  const key = encryptionKey(seed)
  encryptionKeys.set(publicKey, key)
  return key
}

/** Everybody of the tests. */
export function everybody(): readonly KeyPair[] {
  return [...keyPairs.values()]
}

// ---------------------------------------------------------------------------------------------- a mesh to write into

type Scope = Pick<GrantBody, 'ws' | 'zones' | 'kinds'> &
  Partial<Pick<GrantBody, 'fields' | 'hosts' | 'quota' | 'name' | 'enc'>>

export interface SignOptions {
  /** The author. */
  readonly by: KeyPair
  /** Id of the grant to exercise; the mesh id for a root. */
  readonly grant: string
  readonly ws: string
  /** Place in the author's chain. Without one the envelope follows the last that was signed so, and is the last then. */
  readonly prev?: readonly string[]
  readonly n?: number
  readonly at?: number
  readonly cosigners?: readonly KeyPair[]
}

/** Signs envelopes of one mesh. Follows each author's chain unless told otherwise; checks nothing, so it can also forge. */
export class Scribe {
  readonly genesis: Envelope
  readonly #tips = new Map<string, { readonly id: string; readonly n: number }>()
  #clock = 1_700_000_000_000

  constructor(
    options: {
      readonly roots?: readonly KeyPair[]
      readonly threshold?: number
      readonly next?: string
      readonly name?: string
    } = {},
  ) {
    const roots = options.roots ?? [keyOf('root')]
    this.genesis = signEnvelope(
      {
        v: 1,
        type: 'genesis',
        name: options.name ?? 'test',
        roots: roots.map((root) => root.publicKey).toSorted(),
        threshold: options.threshold ?? 1,
        next: options.next ?? '',
        at: this.#clock,
      },
      roots,
    )
  }

  get mesh(): string {
    return this.genesis.id
  }

  edit(options: SignOptions, edits: readonly ResourceEdit[]): Envelope<EditBody> {
    const sorted = edits
      .map(([path, deps, ops]): ResourceEdit => [path, deps.toSorted(), ops.toSorted((a, b) => (a[1] < b[1] ? -1 : 1))])
      .toSorted(([a], [b]) => (a < b ? -1 : 1))
    return this.sign(options, { type: 'edit', edits: sorted })
  }

  grant(options: SignOptions, subject: string, role: Role, scope: Omit<Scope, 'ws'>): Envelope<GrantBody> {
    return this.sign(options, { type: 'grant', subject, role, ...scope })
  }

  revoke(options: SignOptions, target: string, keep: readonly string[] = []): Envelope<RevokeBody> {
    return this.sign(options, { type: 'revoke', target, keep: keep.toSorted() })
  }

  rootset(
    options: Omit<SignOptions, 'ws'>,
    set: Pick<RootsetBody, 'roots' | 'threshold' | 'next'>,
    keep: readonly string[] = [],
  ): Envelope<RootsetBody> {
    return this.sign(
      { ...options, ws: '*' },
      { type: 'rootset', ...set, roots: set.roots.toSorted(), keep: keep.toSorted() },
    )
  }

  /** Signs a body of which only what its type adds is given. */
  sign<B extends Exclude<Body, { type: 'genesis' }>>(
    options: SignOptions,
    rest: Omit<B, 'v' | 'mesh' | 'ws' | 'by' | 'grant' | 'n' | 'prev' | 'at' | 'note'>,
  ): Envelope<B> {
    const chain = `${options.ws} ${options.by.publicKey}`
    const tip = this.#tips.get(chain)
    const n = options.n ?? (tip?.n ?? 0) + 1
    const body = {
      v: 1,
      mesh: this.mesh,
      ws: options.ws,
      by: options.by.publicKey,
      grant: options.grant,
      n,
      prev: (options.prev ?? (tip === undefined ? [] : [tip.id])).toSorted(),
      at: options.at ?? (this.#clock += 1000),
      note: '',
      ...rest,
    } as unknown as B
    const envelope = signEnvelope(body, [options.by, ...(options.cosigners ?? [])])
    if (options.n === undefined) this.#tips.set(chain, { id: envelope.id, n })
    return envelope
  }
}

// ---------------------------------------------------------------------------------------------- histories

/** What a run of generated histories must hold enough of, or it proves too little. */
export const CLASSES = [
  'fork',
  'revokeGrant',
  'revokeKey',
  'revokeBare',
  'revokeKeeping',
  'nestedRevoked',
  'revived',
  'coSigned',
  'conflict',
  'deleteVersusEdit',
  'recreated',
  'multiResource',
  'voidInChain',
  'voidGrant',
  'robot',
  'rotated',
  'superseded',
  'rootsetKept',
  'contested',
  'overQuota',
  'excess',
  'answered',
  'enrolled',
  'dismissed',
] as const
export type HistoryClass = (typeof CLASSES)[number]

export interface GeneratedHistory {
  readonly seed: number
  readonly steps: number
  readonly mesh: string
  /** Concurrent writes of one resource that one edit may overwrite: few in some histories, so that there are edits of more. */
  readonly overwritesMax: number
  readonly scribe: Scribe
  /** Key pairs of every root set. */
  readonly rootKeys: readonly KeyPair[]
  /** Each envelope once, with all of its signatures, in a causal order. The genesis is first. */
  readonly envelopes: readonly Envelope[]
  /** The same, as they travel: co-signed ones come in parts, each with some of the signatures. */
  readonly parts: readonly Envelope[]
  /** Well-formed envelopes that no order of arrival may let in, with why. */
  readonly intruders: readonly { readonly envelope: Envelope; readonly why: string }[]
}

/** Limits so small that some edits of a history pass them. */
const FEW_OVERWRITES = [2, 3] as const

/** Steps of a full history: enough for thirty edits. */
export const FULL_STEPS = 56

const FIELDS = ['hosts/a', 'hosts/b', 'root', 'endpoints/1', 'endpoints/2', '__proto__'] as const
const RESOURCES = [
  'default/eu/site/shop',
  'default/eu.west/site/blog',
  'default/eu/upstream/app',
  'default/us/site/docs',
  'shop/eu/site/cart',
] as const

type Signed = Envelope<EditBody | GrantBody | RevokeBody | RootsetBody>

type SignedBody = Signed['body']

function publicKeyOf({ publicKey }: KeyPair): string {
  return publicKey
}

/** The key pairs of one of these sets, by its public keys. */
function keysOf<Set extends readonly KeyPair[]>(roots: readonly string[], sets: readonly Set[]): Set {
  return sets.find((set) => set.some((key) => key.publicKey === roots[0])) as Set
}

/** What one place of the mesh has seen, and what an author there builds on. */
class View {
  readonly seen = new Set<string>()
  readonly envelopes: Envelope[] = []

  add(envelope: Envelope): void {
    if (this.seen.has(envelope.id)) return
    this.seen.add(envelope.id)
    this.envelopes.push(envelope)
  }

  chain(ws: string, by: string): Signed[] {
    return this.envelopes.filter(
      (envelope): envelope is Signed =>
        envelope.body.type !== 'genesis' && envelope.body.ws === ws && envelope.body.by === by,
    )
  }

  chainHeads(ws: string, by: string): Signed[] {
    const chain = this.chain(ws, by)
    const followed = new Set(chain.flatMap((envelope) => envelope.body.prev))
    return chain.filter((envelope) => !followed.has(envelope.id))
  }

  editsOf(path: string): Envelope<EditBody>[] {
    return this.envelopes.filter(
      (envelope): envelope is Envelope<EditBody> =>
        envelope.body.type === 'edit' && envelope.body.edits.some(([touched]) => touched === path),
    )
  }

  headsOf(path: string): string[] {
    const edits = this.editsOf(path)
    const followed = new Set(edits.flatMap((edit) => editOf(edit, path)[1]))
    return edits.map((edit) => edit.id).filter((id) => !followed.has(id))
  }

  rootsets(): Envelope<RootsetBody>[] {
    return this.envelopes.filter((envelope): envelope is Envelope<RootsetBody> => envelope.body.type === 'rootset')
  }

  grantsOf(subject: string): Envelope<GrantBody>[] {
    return this.envelopes.filter(
      (envelope): envelope is Envelope<GrantBody> =>
        envelope.body.type === 'grant' && envelope.body.subject === subject,
    )
  }
}

export function editOf(envelope: Envelope<EditBody>, path: string): ResourceEdit {
  return envelope.body.edits.find(([touched]) => touched === path) as ResourceEdit
}

/** The history of a seed, cut off after some steps. */
export function generateHistory(seed: number, steps: number = FULL_STEPS): GeneratedHistory {
  const dice = diceFrom(seed)
  const isCoSigned = dice.chance(0.4)
  const generations = ['', ' next', ' last'].map((name) =>
    (isCoSigned ? ['root', 'root 2', 'root 3'] : ['root']).map((root) => keyOf(`${root}${name}`)),
  )
  const [roots = [], nextRoots = []] = generations
  const threshold = isCoSigned ? 2 : 1
  const commitments = generations.map((set) => rootSetHash(set.map(publicKeyOf), threshold))
  const scribe = new Scribe({ roots, threshold, next: commitments[1] as string, name: `seed-${seed >>> 0}` })
  const rotates = dice.chance(0.5)
  const views = [new View(), new View(), new View()] as const
  const envelopes: Envelope[] = []
  const parts: Envelope[] = []

  const publish = <E extends Envelope>(view: View, envelope: E): E => {
    if (view.seen.has(envelope.id)) return envelope
    envelopes.push(envelope)
    view.add(envelope)
    const signatures = Object.entries(envelope.sigs)
    // Each part carries the author's signature, which parsing asks for, and one more.
    const author = envelope.body.type === 'genesis' ? undefined : envelope.body.by
    const others = signatures.filter(([key]) => key !== author)
    if (author === undefined || others.length === 0) parts.push(envelope)
    else {
      const own = [author, envelope.sigs[author] as string] as const
      parts.push({ ...envelope, sigs: Object.fromEntries([own]) })
      for (const [key, signature] of others)
        parts.push({
          ...envelope,
          sigs: Object.fromEntries(key < own[0] ? [[key, signature], own] : [own, [key, signature]]),
        })
    }
    return envelope
  }
  const spread = (): void => {
    for (const view of views) for (const envelope of envelopes) view.add(envelope)
  }
  const link = (view: View, ws: string, by: KeyPair): { prev: string[]; n: number } => {
    const heads = view.chainHeads(ws, by.publicKey).slice(0, 4)
    return { prev: heads.map((head) => head.id), n: 1 + Math.max(0, ...heads.map((head) => head.body.n)) }
  }
  const options = (view: View, ws: string, by: KeyPair, grant: string): SignOptions => ({
    by,
    grant,
    ws,
    ...link(view, ws, by),
    // Claimed times jump about: nothing may rest on them but the order of creations.
    at: 1_700_000_000_000 + dice.below(1_000_000),
  })
  const cosigners = (set: readonly KeyPair[]): readonly KeyPair[] =>
    isCoSigned && dice.chance(0.85) ? [dice.pick(set.slice(1))] : []
  /** Signs as some root set: the newest that is seen here, or one that was replaced, as a thief of it would. */
  const rootOptions = (view: View, ws: string): SignOptions => {
    const seen = view.rootsets()
    const exercised = dice.chance(0.7) ? seen.at(-1) : dice.pick([undefined, ...seen])
    const set = exercised === undefined ? roots : keysOf(exercised.body.roots, generations)
    return { ...options(view, ws, set[0] as KeyPair, exercised?.id ?? scribe.mesh), cosigners: cosigners(set) }
  }

  const granting = (as: SignOptions, subject: KeyPair, role: Role, scope: Omit<Scope, 'ws'>): Envelope<GrantBody> =>
    scribe.grant(as, subject.publicKey, role, { ...scope, enc: encryptionKeyOf(subject).publicKey })

  const [first] = views
  publish(first, scribe.genesis)
  const all = { zones: ['*'], kinds: ['*'] }
  const owner = keyOf('owner')
  const [ada, alf] = [keyOf('admin ada'), keyOf('admin alf')]
  const editors = ['ed', 'eva', 'eli'].map(keyOf)
  const robot = keyOf('robot')
  const ownerGrant = publish(
    first,
    granting({ ...rootOptions(first, '*'), cosigners: roots.slice(1, isCoSigned ? 2 : 1) }, owner, 'owner', all),
  )
  const byOwner = (ws: string, view: View = first): SignOptions => options(view, ws, owner, ownerGrant.id)
  const adaGrant = publish(first, granting(byOwner('default'), ada, 'admin', all))
  const alfGrant = publish(
    first,
    granting(byOwner('*'), alf, 'admin', {
      zones: ['eu', 'us'],
      kinds: ['site', 'upstream'],
      hosts: ['*.alf.example', 'alf.example'],
    }),
  )
  publish(
    first,
    granting(options(first, 'default', ada, adaGrant.id), editors[0] as KeyPair, 'editor', {
      zones: ['eu'],
      kinds: ['*'],
    }),
  )
  publish(
    first,
    granting(options(first, '*', alf, alfGrant.id), editors[1] as KeyPair, 'editor', {
      zones: ['eu', 'us'],
      kinds: ['site', 'upstream'],
      hosts: ['www.alf.example'],
      quota: dice.pick([{ resources: 1 }, { fields: 3 }, { bytes: 120 }]),
    }),
  )
  publish(
    first,
    granting(rootOptions(first, '*'), editors[2] as KeyPair, 'editor', {
      zones: ['*'],
      kinds: ['site'],
    }),
  )
  publish(
    first,
    granting(options(first, 'default', ada, adaGrant.id), robot, 'robot', {
      zones: ['eu'],
      kinds: ['upstream'],
      fields: ['$', 'endpoints/'],
    }),
  )
  const registrar = keyOf('registrar')
  const registrarGrant = publish(
    first,
    granting(options(first, 'default', ada, adaGrant.id), registrar, 'robot', {
      zones: ['eu'],
      kinds: ['node'],
    }),
  )
  spread()

  const authors = [...editors, ...editors, ada, alf, owner, robot]

  const randomOps = (view: View, path: string, onlyFields: (field: string) => boolean): readonly Op[] => {
    const edits = view.editsOf(path)
    const last = edits.at(-1)
    const wasDeleted =
      last !== undefined && editOf(last, path)[2].some(([action, field]) => action === 'del' && field === '$')
    const fields = FIELDS.filter(onlyFields)
    const sets = dice
      .shuffle(fields)
      .slice(0, 1 + dice.below(3))
      .map((field): Op =>
        dice.chance(0.15) ? ['del', field] : ['set', field, dice.pick([dice.below(5), 'text', true, ['a', 'b']])],
      )
    if (last === undefined || (wasDeleted && dice.chance(0.7))) return [['set', '$', true], ...sets]
    if (dice.chance(0.1)) return [['del', '$']]
    if (dice.chance(0.03)) return [['set', '$', true], ...sets]
    return sets
  }
  const randomDeps = (view: View, path: string): string[] => {
    const heads = view.headsOf(path).slice(0, 16)
    if (dice.chance(0.12))
      return dice
        .some(view.editsOf(path), 0.3)
        .map((edit) => edit.id)
        .slice(0, 8)
    return heads
  }
  const edit = (view: View, fork: boolean): void => {
    const by = dice.pick(authors)
    const grants = view.grantsOf(by.publicKey)
    if (grants.length === 0) return
    const grant = dice.pick(grants)
    const reachable = RESOURCES.filter((path) => mayTouch(grant.body, path))
    if (reachable.length === 0) return
    const target = dice.pick(reachable)
    const ws = target.slice(0, target.indexOf('/'))
    const others = reachable.filter((path) => path !== target && path.startsWith(`${ws}/`))
    const paths = [target, ...(dice.chance(0.25) ? dice.some(others, 0.6) : [])]
    const allows = (field: string): boolean =>
      grant.body.role !== 'robot' || field === '$' || field.startsWith('endpoints/')
    const base = options(view, ws, by, grant.id)
    const chain = view.chain(ws, by.publicKey)
    // A fork signs again from where an earlier envelope stood.
    const again = fork && chain.length > 0 ? dice.pick(chain).body : undefined
    publish(
      view,
      scribe.edit(
        again === undefined ? base : { ...base, prev: again.prev, n: again.n },
        paths.map((path) => [path, randomDeps(view, path), randomOps(view, path, allows)]),
      ),
    )
  }
  const revoke = (view: View): void => {
    const isHigh = dice.chance(0.4)
    const revokers = [
      { as: rootOptions(view, '*'), victims: isHigh ? [ada, alf] : editors },
      { as: byOwner('*', view), victims: isHigh ? [ada, alf] : [...editors, robot] },
      {
        as: options(view, 'default', ada, adaGrant.id),
        victims: [editors[0] as KeyPair, editors[1] as KeyPair, robot, registrar],
      },
      { as: options(view, '*', alf, alfGrant.id), victims: [editors[1] as KeyPair] },
    ]
    const { as, victims } = dice.pick(revokers)
    const victim = dice.pick(victims)
    const chain = view.envelopes.filter(
      (envelope): envelope is Signed => envelope.body.type !== 'genesis' && envelope.body.by === victim.publicKey,
    )
    const heads = [...new Set(chain.map((envelope) => envelope.body.ws))].flatMap((ws) =>
      view.chainHeads(ws, victim.publicKey),
    )
    const kept = dice.chance(0.5) ? (dice.chance(0.5) ? heads : dice.some(chain, 0.2)) : []
    const keep = kept.map((envelope) => envelope.id).slice(0, 16)
    const candidates = view.grantsOf(victim.publicKey).filter(
      // One grant is only revoked by who covers it; a key may be named by anyone, and then reaches what it covers.
      ({ body }) =>
        (as.ws === '*' || body.ws === as.ws) &&
        (as.by !== alf || body.zones.every((zone) => zone === 'eu' || zone === 'us')) &&
        (as.by !== alf || body.kinds.every((kind) => kind === 'site' || kind === 'upstream')),
    )
    const isOfKey = candidates.length === 0 || dice.chance(0.4)
    const target = isOfKey ? `key/${victim.publicKey}` : `grant/${dice.pick(candidates).id}`
    publish(view, scribe.revoke(as, target, keep))
  }
  const grantAgain = (view: View): void => {
    const isByAda = dice.chance(0.5)
    const as = isByAda ? options(view, 'default', ada, adaGrant.id) : byOwner('*', view)
    const subject = dice.pick(isByAda ? editors : [...editors, ada])
    const role = subject === ada ? 'admin' : 'editor'
    publish(view, granting(as, subject, role, { zones: [dice.pick(['eu', 'us'])], kinds: ['*'] }))
  }
  /** A registrar lets a host in, or takes one out that it let in. */
  const enrol = (view: View): void => {
    const as = options(view, 'default', registrar, registrarGrant.id)
    const made = view.chain('default', registrar.publicKey).filter(({ body }) => body.type === 'grant')
    if (made.length > 0 && dice.chance(0.3)) publish(view, scribe.revoke(as, `grant/${dice.pick(made).id}`))
    else {
      const scope = { zones: [dice.pick(['eu', 'eu.west'])], kinds: ['*'] }
      publish(view, granting(as, keyOf(`host ${dice.below(4)}`), 'node', scope))
    }
  }
  /** Replaces a root set with the one that it named; now and then twice, with different words on what follows. */
  const rotate = (view: View): void => {
    const replaced = dice.pick([undefined, ...view.rootsets()])
    const generation = replaced === undefined ? 1 : 1 + generations.indexOf(keysOf(replaced.body.roots, generations))
    const set = generations[generation]
    const named = replaced?.body.next ?? commitments[1]
    if (set === undefined || named !== commitments[generation]) return
    const old = generations[generation - 1] ?? []
    const chains = view.envelopes.filter(
      (envelope): envelope is Signed =>
        envelope.body.type !== 'genesis' && old.some((key) => key.publicKey === (envelope.body as SignedBody).by),
    )
    const heads = [...new Set(chains.map(({ body }) => `${body.ws} ${body.by}`))].flatMap((chain) => {
      const [ws, by] = chain.split(' ') as [string, string]
      return view.chainHeads(ws, by)
    })
    const roll = dice.next()
    const kept = roll < 0.75 ? heads : roll < 0.95 ? dice.some(chains, 0.6) : []
    const next = dice.chance(0.8) ? (commitments[generation + 1] ?? '') : sha256(`rival ${dice.below(2)}`)
    const by = set[0] as KeyPair
    publish(
      view,
      scribe.rootset(
        { ...options(view, '*', by, replaced?.id ?? scribe.mesh), cosigners: cosigners(set) },
        { roots: set.map(publicKeyOf), threshold, next },
        kept.map(({ id }) => id).slice(0, 64),
      ),
    )
  }
  const meet = (view: View): void => {
    const from = dice.pick(views)
    for (const envelope of from.envelopes) view.add(envelope)
  }

  for (let step = 0; step < steps; step += 1) {
    const view = dice.pick(views)
    const roll = dice.next()
    if (roll < 0.68) edit(view, false)
    else if (roll < 0.73) edit(view, true)
    else if (roll < 0.8) revoke(view)
    else if (roll < 0.82) grantAgain(view)
    else if (roll < 0.85) enrol(view)
    else if (rotates && roll < 0.89) rotate(view)
    else meet(view)
  }
  spread()
  // A full history has thirty edits whatever the dice said.
  for (let extra = 0; steps >= FULL_STEPS && extra < 200 && countEdits(envelopes) < 30; extra += 1)
    edit(dice.pick(views), false)
  const intruders = forge(
    scribe,
    dice,
    views[0],
    { owner, ada, alf, robot, registrar, editor: editors[0] as KeyPair },
    ownerGrant.id,
    adaGrant.id,
    nextRoots,
  )
  const overwritesMax = diceFrom(seed ^ 0xca9).pick([...FEW_OVERWRITES, OVERWRITES_MAX, OVERWRITES_MAX])
  return {
    seed,
    steps,
    mesh: scribe.mesh,
    overwritesMax,
    scribe,
    rootKeys: generations.flat(),
    envelopes,
    parts,
    intruders,
  }
}

function countEdits(envelopes: readonly Envelope[]): number {
  return envelopes.filter((envelope) => envelope.body.type === 'edit').length
}

function mayTouch(grant: GrantBody, path: string): boolean {
  const [ws, zone, kind] = path.split('/') as [string, string, string]
  const inZone = grant.zones.some((outer) => outer === '*' || zone === outer || zone.startsWith(`${outer}.`))
  const mayEdit = grant.role !== 'node' && grant.role !== 'viewer'
  return (
    mayEdit &&
    (grant.ws === '*' || grant.ws === ws) &&
    inZone &&
    (grant.kinds.includes('*') || grant.kinds.includes(kind))
  )
}

interface Cast {
  readonly owner: KeyPair
  readonly ada: KeyPair
  readonly alf: KeyPair
  readonly robot: KeyPair
  readonly registrar: KeyPair
  readonly editor: KeyPair
}

/** Envelopes in good form that policy or their links forbid. */
function forge(
  scribe: Scribe,
  dice: Dice,
  view: View,
  { owner, ada, alf, robot, registrar, editor }: Cast,
  ownerGrant: string,
  adaGrant: string,
  nextRoots: readonly KeyPair[],
): GeneratedHistory['intruders'] {
  const stranger = keyOf(`stranger ${dice.below(8)}`)
  const first = { prev: [], n: 1 }
  const editorGrant = (view.grantsOf(editor.publicKey)[0] as Envelope<GrantBody>).id
  const robotGrant = (view.grantsOf(robot.publicKey)[0] as Envelope<GrantBody>).id
  const alfGrant = (view.grantsOf(alf.publicKey)[0] as Envelope<GrantBody>).id
  const registrarGrant = (view.grantsOf(registrar.publicKey)[0] as Envelope<GrantBody>).id
  const asRegistrar = { by: registrar, grant: registrarGrant, ws: 'default', ...first }
  const inAlfs = { zones: ['eu'], kinds: ['site'] }
  const inEu = { zones: ['eu'], kinds: ['*'] }
  const touch = (path: string, field = 'root', deps: readonly string[] = []): ResourceEdit[] => [
    [path, deps, [['set', field, 1]]],
  ]
  const elsewhere = view.editsOf('default/us/site/docs')[0]?.id
  const chain = view.chain('default', editor.publicKey)
  const all = { zones: ['*'], kinds: ['*'] }
  const asEditor = { by: editor, grant: editorGrant, ws: 'default', ...first }
  const made: [string, Envelope][] = [
    [
      'a stranger under another’s grant',
      scribe.edit({ by: stranger, grant: editorGrant, ws: 'default', ...first }, touch('default/eu/site/x')),
    ],
    ['an edit outside the zone', scribe.edit(asEditor, touch('default/us/site/x'))],
    ['an edit of all zones', scribe.edit(asEditor, touch('default/*/site/x'))],
    ['an edit outside the workspace', scribe.edit({ ...asEditor, ws: 'shop' }, touch('shop/eu/site/x'))],
    ['a privileged field', scribe.edit(asEditor, touch('default/eu/site/x', 'privileged/snippet'))],
    [
      'a robot outside its fields',
      scribe.edit({ by: robot, grant: robotGrant, ws: 'default', ...first }, touch('default/eu/upstream/x')),
    ],
    [
      'a robot outside its kinds',
      scribe.edit({ by: robot, grant: robotGrant, ws: 'default', ...first }, touch('default/eu/site/x', 'endpoints/1')),
    ],
    [
      'a robot who grants a node',
      scribe.grant({ by: robot, grant: robotGrant, ws: 'default', ...first }, stranger.publicKey, 'node', inEu),
    ],
    ['a registrar who grants a viewer', scribe.grant(asRegistrar, stranger.publicKey, 'viewer', inEu)],
    ['a registrar outside its zone', scribe.grant(asRegistrar, stranger.publicKey, 'node', all)],
    ['a registrar outside its workspace', scribe.grant({ ...asRegistrar, ws: '*' }, stranger.publicKey, 'node', inEu)],
    ['a registrar who revokes a key', scribe.revoke(asRegistrar, `key/${editor.publicKey}`)],
    ['a registrar who revokes what it did not grant', scribe.revoke(asRegistrar, `grant/${robotGrant}`)],
    ['a registrar who edits', scribe.edit(asRegistrar, touch('default/eu/site/x'))],
    [
      'an admin of some kinds who makes a registrar',
      scribe.grant({ by: alf, grant: alfGrant, ws: '*', ...first }, stranger.publicKey, 'robot', {
        zones: ['eu'],
        kinds: ['node'],
      }),
    ],
    ['an editor who grants', scribe.grant(asEditor, stranger.publicKey, 'viewer', all)],
    ['an editor who grants itself', scribe.grant(asEditor, editor.publicKey, 'editor', all)],
    [
      'an admin who grants itself more',
      scribe.grant({ by: ada, grant: adaGrant, ws: 'default', ...first }, ada.publicKey, 'owner', all),
    ],
    [
      'an edit of one zone that is granted and one that is not',
      scribe.edit(asEditor, [...touch('default/eu/site/x'), ...touch('default/us/site/x')]),
    ],
    [
      'an admin of some hosts who lets in others without',
      scribe.grant({ by: alf, grant: alfGrant, ws: '*', ...first }, stranger.publicKey, 'editor', inAlfs),
    ],
    [
      'an admin of some hosts who lets in others for more',
      scribe.grant({ by: alf, grant: alfGrant, ws: '*', ...first }, stranger.publicKey, 'editor', {
        ...inAlfs,
        hosts: [dice.pick(['*', '*.example', 'example', 'evilalf.example'])],
      }),
    ],
    [
      'a quota for who may grant',
      scribe.grant({ by: owner, grant: ownerGrant, ws: '*', ...first }, stranger.publicKey, 'admin', {
        ...all,
        quota: { resources: 1 },
      }),
    ],
    [
      'an admin who makes an admin',
      scribe.grant({ by: ada, grant: adaGrant, ws: 'default', ...first }, stranger.publicKey, 'admin', all),
    ],
    [
      'an admin who revokes the owner',
      scribe.revoke({ by: ada, grant: adaGrant, ws: 'default', ...first }, `grant/${ownerGrant}`),
    ],
    [
      'a stranger as root',
      scribe.grant({ by: stranger, grant: scribe.mesh, ws: '*', ...first }, stranger.publicKey, 'owner', all),
    ],
    [
      'a root set that nobody named',
      scribe.rootset(
        { by: stranger, grant: scribe.mesh, ...first },
        { roots: [stranger.publicKey], threshold: 1, next: '' },
      ),
    ],
    [
      'the next root set with a lower threshold or fewer keys',
      scribe.rootset(
        { by: nextRoots[0] as KeyPair, grant: scribe.mesh, ...first },
        { roots: [stranger, ...nextRoots].map(publicKeyOf), threshold: 1, next: '' },
      ),
    ],
    [
      'a root set that follows a grant',
      scribe.rootset({ by: owner, grant: ownerGrant, ...first }, { roots: [owner.publicKey], threshold: 1, next: '' }),
    ],
    [
      'a root set that keeps what no replaced root signed',
      scribe.rootset(
        { by: nextRoots[0] as KeyPair, grant: scribe.mesh, ...first },
        { roots: nextRoots.map(publicKeyOf), threshold: nextRoots.length === 1 ? 1 : 2, next: '' },
        [adaGrant],
      ),
    ],
    [
      'a co-signature on what is no root’s',
      scribe.grant(
        { by: ada, grant: adaGrant, ws: 'default', ...first, cosigners: [owner] },
        stranger.publicKey,
        'viewer',
        all,
      ),
    ],
    [
      'the next root before its time',
      scribe.grant(
        { by: nextRoots[0] as KeyPair, grant: scribe.mesh, ws: '*', ...first },
        stranger.publicKey,
        'owner',
        all,
      ),
    ],
    [
      'a root that edits',
      scribe.edit({ by: keyOf('root'), grant: scribe.mesh, ws: 'default', ...first }, touch('default/eu/site/x')),
    ],
    [
      'an edit under an edit',
      scribe.edit({ ...asEditor, grant: elsewhere ?? editorGrant }, touch('default/us/site/x')),
    ],
    [
      'a keep of another’s',
      scribe.revoke({ by: owner, grant: ownerGrant, ws: '*', ...first }, `key/${editor.publicKey}`, [adaGrant]),
    ],
    [
      'a revocation in a workspace that does not reach the grant',
      scribe.revoke({ by: owner, grant: ownerGrant, ws: 'shop', ...first }, `grant/${adaGrant}`),
    ],
  ]
  if (elsewhere !== undefined) {
    made.push(['a dep on another resource', scribe.edit(asEditor, touch('default/eu/site/x', 'root', [elsewhere]))])
  }
  const link = chain.at(-1)
  if (link !== undefined) {
    made.push(
      [
        'a gap in the chain',
        scribe.edit({ ...asEditor, prev: [link.id], n: link.body.n + 2 }, touch('default/eu/site/x')),
      ],
      [
        'a prev by another',
        scribe.edit(
          { by: robot, grant: robotGrant, ws: 'default', prev: [link.id], n: link.body.n + 1 },
          touch('default/eu/upstream/x', 'endpoints/1'),
        ),
      ],
      [
        'a prev in another workspace',
        scribe.grant(
          { by: editor, grant: editorGrant, ws: '*', prev: [link.id], n: link.body.n + 1 },
          stranger.publicKey,
          'viewer',
          all,
        ),
      ],
    )
  }
  return made.map(([why, envelope]) => ({ why, envelope }))
}

/**
 * What a history would send, parsed as a peer does, so that the generator cannot write what parsing refuses. One history in
 * eight: checking signatures costs more than all else, and has tests of its own.
 */
export function received(history: GeneratedHistory): readonly Envelope[] {
  if (history.seed % 8 !== 0) return history.parts
  return history.parts.map(({ bytes, sigs }) => parseEnvelope({ bytes, sigs }, history.mesh))
}
