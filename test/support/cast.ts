/**
 * The people of an adversarial run: roots that act two of three, honest authors, and three whose keys are stolen, one of each
 * rank. Signs what they do; the thieves do what they like. Sends nothing. Used by test/sim/adversaries.test.ts.
 */

import { toWire } from '../../src/core/codec.ts'
import type { EditBody, Envelope, KeyPair, Op, WireEnvelope } from '../../src/core/envelope.ts'
import { keyOf, Scribe, type Dice, type SignOptions } from './histories.ts'

/** Somebody with a grant. */
export interface Actor {
  readonly key: KeyPair
  /** Id of the grant that is exercised. */
  readonly grant: string
}

const ALL = { zones: ['*'], kinds: ['*'] }
const ROOTS = ['root 1', 'root 2', 'root 3'].map(keyOf) as [KeyPair, KeyPair, KeyPair]
/** Together more than one peer may make a node hold. */
const ORPHANS = 300
const PAD = 'x'.repeat(4_000)
/** Too large to be pushed: it is announced, and fetched. */
const BULK = Array.from({ length: 5 }, (_, n) => ['set', `bulk/${n}`, PAD] as const)

export const HONEST_AUTHORS = ['owner', 'admin', 'ada', 'bob'] as const
export const ROGUES = ['rogue owner', 'rogue admin', 'rogue editor'] as const
type Rogue = (typeof ROGUES)[number]
type Name = (typeof HONEST_AUTHORS)[number] | Rogue

export class Cast {
  readonly scribe = new Scribe({ roots: ROOTS, threshold: 2 })
  /** Genesis and first grants, in causal order. */
  readonly founding: readonly Envelope[]
  readonly #dice: Dice
  readonly #actors = new Map<Name, Actor>()
  /** What each of the rogues did, honest acts before the theft first. */
  readonly #done = new Map<Rogue, Envelope[]>(ROGUES.map((name) => [name, []]))
  /** Keys that the rogues granted something. */
  readonly #puppets: Actor[] = []
  /** Ids of the edits of those who were never robbed. */
  readonly honestWork: string[] = []
  /** Ids of what was done with keys that rogues made. */
  readonly puppetry: string[] = []
  /** Ids of what no honest node may store, whatever it is told. */
  readonly refused = new Set<string>()

  /** @param nodes keys and names of the nodes to grant. */
  constructor(dice: Dice, nodes: readonly { readonly key: string; readonly name: string }[]) {
    this.#dice = dice
    const { scribe } = this
    const grant = (by: SignOptions, name: Name, role: 'owner' | 'admin' | 'editor'): Envelope => {
      const key = keyOf(name)
      const envelope = scribe.grant(by, key.publicKey, role, ALL)
      this.#actors.set(name, { key, grant: envelope.id })
      return envelope
    }
    const roots = { ...this.#asRoot(), cosigners: [ROOTS[1]] }
    this.founding = [
      scribe.genesis,
      grant(roots, 'owner', 'owner'),
      grant(roots, 'rogue owner', 'owner'),
      // Before the theft the rogues-to-be did honest work, on which others build.
      this.#note('rogue owner', grant(this.#as('rogue owner'), 'admin', 'admin')),
      grant(this.#as('owner'), 'rogue admin', 'admin'),
      grant(this.#as('admin'), 'ada', 'editor'),
      this.#note('rogue admin', grant(this.#as('rogue admin'), 'bob', 'editor')),
      scribe.grant(this.#as('admin'), keyOf('rogue editor').publicKey, 'editor', { zones: ['*'], kinds: ['site'] }),
      ...nodes.map(({ key, name }) => scribe.grant(this.#as('owner'), key, 'node', { ...ALL, name })),
    ]
    this.#actors.set('rogue editor', { key: keyOf('rogue editor'), grant: this.founding[7]!.id })
  }

  get id(): string {
    return this.scribe.mesh
  }

  actor(name: Name): Actor {
    return this.#actors.get(name) as Actor
  }

  /** An edit, on those heads that its author sees. */
  edit(name: Name, path: string, deps: readonly string[], ops: readonly Op[]): Envelope {
    const edit = this.scribe.edit(this.#as(name, 'default'), [[path, deps.slice(0, 16), ops]])
    if (isRogue(name)) return this.#note(name, edit)
    this.honestWork.push(edit.id)
    return edit
  }

  /** Ids of what a rogue did until now. */
  doneBy(name: Rogue): readonly string[] {
    return (this.#done.get(name) ?? []).map(({ id }) => id)
  }

  /** What a rogue did until now: heads for a revocation to keep. */
  headsOf(name: Rogue): string[] {
    const done = this.#done.get(name) ?? []
    const followed = new Set(done.flatMap(({ body }) => ('prev' in body ? body.prev : [])))
    return done.map(({ id }) => id).filter((id) => !followed.has(id))
  }

  /** A revocation by the owner. */
  revoke(target: string, keep: readonly string[]): Envelope {
    return this.scribe.revoke(this.#as('owner'), target, keep)
  }

  /** An act of the roots in parts, each with some of the three signatures; the first has too few. */
  byRoots(sign: (options: SignOptions) => Envelope): readonly WireEnvelope[] {
    const whole = sign({ ...this.#asRoot(), cosigners: [ROOTS[1], ROOTS[2]] })
    const part = (...keys: KeyPair[]): WireEnvelope => ({
      bytes: whole.bytes,
      sigs: Object.fromEntries(
        keys
          .map(({ publicKey }) => [publicKey, whole.sigs[publicKey] as string])
          .toSorted(([a], [b]) => (a! < b! ? -1 : 1)),
      ),
    })
    return [part(ROOTS[0]), part(ROOTS[0], ROOTS[2]), part(ROOTS[0], ROOTS[1])]
  }

  /** Something that a thief does with a stolen key, in one of many ways. `path` and `deps`: a resource as it sees it. */
  misdeed(path: string, deps: readonly string[], node: string): readonly WireEnvelope[] {
    const dice = this.#dice
    const name = dice.pick(ROGUES)
    const acts: readonly (() => readonly Envelope[])[] = [
      () => [this.edit(name, path, deps, [['set', 'root', `/srv/${dice.below(1000)}`]])],
      () => [this.edit(name, path, deps, BULK)],
      () => this.#fork(name, path),
      () => [this.#backdated(name, path)],
      () => [this.#escalate(name)],
      ...(name === 'rogue editor' ? [] : [() => this.#seizeOthers(name), () => this.#raisePuppet(name)]),
      ...(name === 'rogue owner' ? [() => [this.#revoke(name, `key/${node}`, [])]] : []),
      ...(this.#puppets.length === 0 ? [] : [() => [this.#actAsPuppet(path, deps)]]),
    ]
    return dice.pick(acts)().map(toWire)
  }

  /** Well signed with a stolen key, and resting on what nobody has: over what one peer may make others hold. */
  orphans(): readonly WireEnvelope[] {
    const rogue = this.actor('rogue editor')
    return Array.from({ length: ORPHANS }, (_, n) => {
      const prev = [n.toString(16).padStart(64, 'e')]
      const options = { by: rogue.key, grant: rogue.grant, ws: 'default', prev, n: 1_000 + n }
      return toWire(this.#refuse(this.scribe.edit(options, [['default/eu/site/lost', [], [['set', 'a', PAD]]]])))
    })
  }

  /** What no honest node takes or passes on. */
  rubbish(): readonly WireEnvelope[] {
    const stranger = keyOf('stranger')
    const options = { by: stranger, grant: this.actor('ada').grant, ws: 'default', n: 1, prev: [] }
    const edit = this.scribe.edit(options, [['default/eu/site/forged', [], [['set', '$', true]]]])
    const forged = toWire(this.#refuse(edit))
    return [{ ...forged, sigs: { [stranger.publicKey]: '1'.repeat(128) } }, forged]
  }

  // -------------------------------------------------------------------------------------------- misdeeds

  /** Two at one place of the chain. */
  #fork(name: Rogue, path: string): readonly Envelope[] {
    const { id, body } = this.#dice.pick(this.#editsOf(name))
    const options = { ...this.#as(name, 'default'), n: body.n + 1, prev: [id] }
    return ['a', 'b'].map((field) => this.#note(name, this.scribe.edit(options, [[path, [], [['set', field, 1]]]])))
  }

  /** Continues what was done before the theft, and claims that time. */
  #backdated(name: Rogue, path: string): Envelope {
    const [first] = this.#editsOf(name) as [Envelope<EditBody>]
    const { id, body } = first
    const options = { ...this.#as(name, 'default'), n: body.n + 1, prev: [id], at: body.at }
    const ops = [['set', 'root', `/old/${this.#dice.below(1000)}`]] as const
    return this.#note(name, this.scribe.edit(options, [[path, [], ops]]))
  }

  /** Makes itself an owner, or edits what it may not. Signed beside the chain, which goes on without what is refused. */
  #escalate(name: Rogue): Envelope {
    const { key } = this.actor(name)
    const options = { ...this.#as(name), n: 1, prev: [] }
    if (name !== 'rogue editor' || this.#dice.chance(0.5)) {
      return this.#refuse(this.scribe.grant(options, key.publicKey, 'owner', ALL))
    }
    const ops = [['set', '$', true]] as const
    return this.#refuse(this.scribe.edit({ ...options, ws: 'default' }, [['default/eu/upstream/app', [], ops]]))
  }

  /** Takes away what others may do, and keeps nothing of what they did; and keeps all that another thief does. */
  #seizeOthers(name: 'rogue owner' | 'rogue admin'): readonly Envelope[] {
    const below = name === 'rogue owner' ? (['admin', 'ada', 'bob'] as const) : (['ada', 'bob'] as const)
    // Of a key, even of one that it does not outrank.
    const { key } = this.actor(this.#dice.pick([...below, 'owner', 'admin'] as const))
    const thief = this.actor('rogue editor')
    return [
      this.#revoke(name, `key/${key.publicKey}`, []),
      this.#revoke(name, `grant/${this.actor(this.#dice.pick(below)).grant}`, []),
      this.#revoke(name, `grant/${thief.grant}`, this.headsOf('rogue editor').slice(0, 16)),
    ]
  }

  #raisePuppet(name: 'rogue owner' | 'rogue admin'): readonly Envelope[] {
    const key = keyOf(`puppet ${this.#puppets.length}`)
    const grant = this.#note(
      name,
      this.scribe.grant(this.#as(name), key.publicKey, name === 'rogue owner' ? 'admin' : 'editor', ALL),
    )
    this.#puppets.push({ key, grant: grant.id })
    return [grant]
  }

  #actAsPuppet(path: string, deps: readonly string[]): Envelope {
    const { key, grant } = this.#dice.pick(this.#puppets)
    const ops = [['set', 'root', '/puppet']] as const
    const edit = this.scribe.edit({ by: key, grant, ws: 'default' }, [[path, deps.slice(0, 16), ops]])
    this.puppetry.push(edit.id)
    return edit
  }

  #revoke(name: Rogue, target: string, keep: readonly string[]): Envelope {
    return this.#note(name, this.scribe.revoke(this.#as(name), target, keep))
  }

  /** The first was made before the theft. */
  #editsOf(name: Rogue): readonly Envelope<EditBody>[] {
    const done = this.#done.get(name) ?? []
    return done.filter((envelope): envelope is Envelope<EditBody> => envelope.body.type === 'edit')
  }

  #refuse<E extends Envelope>(envelope: E): E {
    this.refused.add(envelope.id)
    return envelope
  }

  #note(name: Rogue, envelope: Envelope): Envelope {
    this.#done.get(name)?.push(envelope)
    return envelope
  }

  #as(name: Name, ws = '*'): SignOptions {
    const { key, grant } = this.actor(name)
    return { by: key, grant, ws }
  }

  #asRoot(): SignOptions {
    return { by: ROOTS[0], grant: this.scribe.mesh, ws: '*' }
  }
}

function isRogue(name: Name): name is Rogue {
  return (ROGUES as readonly Name[]).includes(name)
}
