/**
 * What must hold for every history, each property a function that throws with what differs. Run over 300 histories by
 * test/unit/core-properties.test.ts and over as many as asked for by scripts/props.ts.
 */

import assert from 'node:assert/strict'
import * as Automerge from '@automerge/automerge'
import { admit } from '../../src/core/admission.ts'
import { automergeFile, disagreements } from '../../src/core/automerge.ts'
import { canonical } from '../../src/core/canonical.ts'
import { ResourceDocument, type FieldWrite, type ResourceState, type Step } from '../../src/core/document.ts'
import type {
  EditBody,
  Envelope,
  GenesisBody,
  KeyPair,
  RevokeBody,
  RootsetBody,
  Value,
} from '../../src/core/envelope.ts'
import type { Chain } from '../../src/core/history.ts'
import { overQuota } from '../../src/core/quota.ts'
import { recipientsOf, sealingKeys } from '../../src/core/recipients.ts'
import { open, seal } from '../../src/core/secrets.ts'
import { MeshState } from '../../src/core/state.ts'
import {
  CLASSES,
  type Dice,
  diceFrom,
  editOf,
  encryptionKeyOf,
  everybody,
  FULL_STEPS,
  type GeneratedHistory,
  generateHistory,
  type HistoryClass,
  received,
} from './histories.ts'
import { MeshError } from '../../src/errors.ts'
import { judge, type OracleView } from './oracle.ts'

/** How a history is brought into a state. */
interface ReplayOptions {
  /** Called after each envelope that was added. */
  readonly onAdded?: (state: MeshState) => void
  /** Goes on from this state. */
  readonly into: MeshState
}

/**
 * Brings envelopes in, in the given order, as a replica does: what waits for others is tried again when something was added.
 * Throws when one is refused, or when some still wait at the end.
 */
export function replay(envelopes: Iterable<Envelope>, options: ReplayOptions): MeshState {
  const state = options.into
  let waiting: Envelope[] = []
  const offer = (envelope: Envelope): boolean => {
    const admission = admit(envelope, state.history)
    if (admission.outcome === 'refused') assert.fail(`refused ${describe(envelope)}: ${admission.reason}`)
    if (admission.outcome === 'waiting') return false
    state.add(envelope)
    options.onAdded?.(state)
    return true
  }
  for (const envelope of envelopes) {
    if (!offer(envelope)) {
      waiting.push(envelope)
      continue
    }
    for (let before = -1; before !== waiting.length && waiting.length > 0;) {
      before = waiting.length
      waiting = waiting.filter((candidate) => !offer(candidate))
    }
  }
  assert.equal(waiting.length, 0, 'envelopes wait for what is not in the history')
  return state
}

function describe({ id, body }: Envelope): string {
  return `${body.type} ${id.slice(0, 8)}`
}

/** Everything two nodes must agree on: state hash, each resource, each verdict with its words. */
export function outcome(state: MeshState): unknown {
  return {
    hash: state.hash(),
    resources: [...state.history.resourcePaths()].toSorted().map((path) => state.resource(path)),
    excess: [...overQuota(state.resources(), (edit) => state.grantOf(edit))].toSorted(([a], [b]) => (a < b ? -1 : 1)),
    verdicts: state.history.order.toSorted().map((id) => [id, state.verdict(state.history.get(id) as Envelope)]),
    forks: [...state.history.chains()]
      .map(({ workspace, author, heads, forks, highestN }) => ({ workspace, author, heads, forks, highestN }))
      .toSorted((a, b) => (a.workspace + a.author < b.workspace + b.author ? -1 : 1)),
  }
}

/** Reads something at random, so that incremental computation has something to keep. */
function glance(state: MeshState, dice: Dice): void {
  if (dice.chance(0.05)) state.hash()
  else if (dice.chance(0.2)) for (const path of dice.some([...state.history.resourcePaths()], 0.4)) state.resource(path)
}

// ---------------------------------------------------------------------------------------------- the properties

interface Checked {
  readonly view: OracleView
  /** Whether there was a revocation that could be voided. */
  readonly wasAnswered: boolean
  /** Resources over a quota. */
  readonly excess: number
}

/** Checks all properties of one history. @throws AssertionError that names the property. */
export function checkHistory(history: GeneratedHistory): Checked {
  const parts = received(history)
  const dice = diceFrom(history.seed ^ 0x5eed)
  const empty = (): MeshState => new MeshState(history.overwritesMax)
  const central = replay(parts, { into: empty() })
  const expected = outcome(central)
  const same = (state: MeshState, property: string): void => assert.deepEqual(outcome(state), expected, property)

  const repeated = dice.shuffle([...parts, ...dice.some(parts, 0.3)])
  same(replay(repeated, { into: empty() }), 'any order and duplication gives the same state and verdicts')
  same(readAllTheWhile(empty(), parts, dice), 'incremental equals rebuild')
  same(healed([empty(), empty()], parts, dice), 'partition and heal equals central replay')
  intrudersAreKeptOut(history, central)
  documentsAreEqual(central, dice)
  const view = judge(
    central.history.order.map((id) => central.history.get(id) as Envelope),
    history.overwritesMax,
  )
  agreesWithOracle(central, view)
  revocationTakesOnlyWhatIsIts(central, view)
  const wasAnswered = voidedRevocationGivesBack(history, central, view)
  lonelyFieldsSurvive(central, view)
  secretsOpenForRecipientsAlone(central, view, dice)
  return { view, wasAnswered, excess: overQuota(central.resources(), (edit) => central.grantOf(edit)).size }
}

/** Two halves of the mesh see different envelopes, read in between, then give each other what they lack. */
function healed(
  halves: readonly [left: MeshState, right: MeshState],
  parts: readonly Envelope[],
  dice: Dice,
): MeshState {
  const cut = 8 + dice.below(Math.max(1, parts.length - 8))
  const shared = parts.slice(0, cut)
  for (const state of halves) replay(shared, { into: state, onAdded: (reached) => glance(reached, dice) })
  const [left, right] = halves
  // Only what has its ancestors on its own side arrives there; the rest waits for the heal.
  for (const part of parts.slice(cut)) {
    const state = dice.chance(0.5) ? left : right
    if (admit(part, state.history).outcome === 'ready') {
      state.add(part)
      glance(state, dice)
    }
  }
  replay(dice.shuffle(parts), { into: left })
  replay(dice.shuffle(parts), { into: right })
  return dice.pick([left, right])
}

/** Reads between the adds. Who rereads exactly what `takeChanges` names sees what a reader of everything sees. */
function readAllTheWhile(into: MeshState, parts: readonly Envelope[], dice: Dice): MeshState {
  const seen = new Map<string, string>()
  const reread = (state: MeshState): void => {
    for (const path of state.takeChanges()) seen.set(path, state.resource(path)?.hash ?? '')
  }
  const state = replay(dice.shuffle(parts), {
    into,
    onAdded: (reached) => {
      if (dice.chance(0.1)) reread(reached)
      glance(reached, dice)
    },
  })
  reread(state)
  const now = [...state.history.resourcePaths()].map((path) => [path, state.resource(path)?.hash] as const)
  assert.deepEqual(seen, new Map(now), 'takeChanges names every change')
  return state
}

/** One resource, built in two causal orders: the same Automerge changes, which load again and show the same writes. */
function documentsAreEqual(state: MeshState, dice: Dice): void {
  const path = dice.pick(['', ...state.history.resourcePaths()])
  const ids = state.history.editsOf(path)
  if (ids.length === 0) return
  const build = (order: readonly string[]): { changes: string[]; heads: string[] } => {
    const document = new ResourceDocument(path, state.overwritesMax)
    for (const id of order) {
      document.add(stepOf(state, id, path))
      if (dice.chance(0.2)) document.read()
    }
    const read = document.read()
    assert.deepEqual(read, state.resource(path), 'a document alone shows what the state shows')
    const saved = automergeFile(document.changes())
    assert.deepEqual(disagreements(document.changes(), read), [], 'verifying finds nothing')
    const loaded = Automerge.load<unknown>(saved)
    assert.deepEqual(Automerge.save(loaded), saved, 'a document that is saved and loaded is the same')
    // What a delete's author saw is still in the document: Automerge alone does not know that it is hidden.
    agreesWithAutomerge(read, loaded, new Set(order.filter((id) => accepted(id)).flatMap(deletedBy)))
    const hashes = Automerge.getAllChanges(loaded).map((change) => Automerge.decodeChange(change).hash)
    const result = { changes: hashes.map(String).toSorted(), heads: Automerge.getHeads(loaded).toSorted() }
    Automerge.free(loaded)
    return result
  }
  const accepted = (id: string): boolean =>
    stepOf(state, id, path).accepted && state.resource(path)?.excessive.includes(id) === false
  const deletedBy = (id: string): string[] => {
    const { ops, deps } = stepOf(state, id, path)
    if (!ops.some(([action, field]) => action === 'del' && field === '$')) return []
    const seen = new Set(deps)
    for (const earlier of seen) for (const dep of stepOf(state, earlier, path).deps) seen.add(dep)
    return [id, ...seen]
  }
  const shuffled: string[] = []
  for (let left = dice.shuffle(ids); left.length > 0;) {
    const isFree = (id: string): boolean => stepOf(state, id, path).deps.every((dep) => shuffled.includes(dep))
    shuffled.push(...left.filter(isFree))
    left = left.filter((id) => !shuffled.includes(id))
  }
  assert.deepEqual(build(shuffled), build(ids), 'equal edits give equal Automerge documents')
}

/** Automerge, which computes for itself what stands, shows every write that the resource shows, in the same order of precedence. */
function agreesWithAutomerge(read: ResourceState, loaded: Automerge.Doc<object>, deleted: ReadonlySet<string>): void {
  const backend = Automerge.getBackend(loaded)
  const standing = (field: string): [string, string][] =>
    (backend.getAll('_root', field) as [string, string, string][])
      .map(([, text, opId]) => ({ text, counter: Number(opId.split('@')[0]), edit: opId.split('@')[1] as string }))
      .toSorted((a, b) => b.counter - a.counter || (a.edit < b.edit ? 1 : -1))
      .map(({ text, edit }) => [edit, text])
  const plain = ({ edit, value }: FieldWrite): [string, string] => [edit, canonical(value)]
  assert.equal(standing('$').length > 0, read.exists, 'Automerge has the resource where it exists')
  const names = backend.keys('_root').filter((field) => field !== '$')
  for (const field of new Set([...names, ...read.fields.keys(), ...read.lost.map((write) => write.field)])) {
    const edit = read.writers.get(field)
    const alone = edit === undefined ? [] : [{ field, edit, value: read.fields.get(field) as Value, by: '' }]
    const counting = (read.conflicts.get(field) ?? alone).map(plain)
    const lost = read.lost.filter((write) => write.field === field).map(plain)
    const theirs = standing(field).filter(([id]) => !deleted.has(id))
    const isLost = new Set(lost.map(([id]) => id))
    assert.deepEqual(
      counting,
      theirs.filter(([id]) => !isLost.has(id)),
      `Automerge shows the same ${field}`,
    )
    assert.deepEqual(
      lost,
      theirs.filter(([id]) => isLost.has(id)),
      `Automerge has the same lost ${field}`,
    )
    if (standing(field).length === theirs.length && lost.length === 0) {
      assert.equal(backend.get('_root', field), counting[0]?.[1], `Automerge has the same winner of ${field}`)
    }
  }
}

function stepOf(state: MeshState, id: string, path: string): Step {
  const edit = state.history.get(id) as Envelope<EditBody>
  const [, deps, ops] = editOf(edit, path)
  return { id, by: edit.body.by, at: edit.body.at, deps, ops, accepted: state.policy.verdict(edit).accepted }
}

function intrudersAreKeptOut({ intruders }: GeneratedHistory, state: MeshState): void {
  for (const { envelope, why } of intruders) {
    assert.equal(admit(envelope, state.history).outcome, 'refused', `${why} is refused`)
  }
}

function agreesWithOracle(state: MeshState, view: OracleView): void {
  for (const id of state.history.order) {
    const verdict = state.policy.verdict(state.history.get(id) as Envelope)
    assert.equal(verdict.accepted, view.accepted.has(id), `the verdict on ${id} is the oracle’s`)
  }
  assert.deepEqual([...state.history.resourcePaths()].toSorted(), view.paths)
  for (const path of view.paths) {
    const resource = state.resource(path)
    assert.ok(resource)
    const plain = {
      exists: resource.exists,
      fields: Object.fromEntries(resource.fields),
      conflicts: Object.fromEntries(
        [...resource.conflicts].map(([field, writes]) => [field, writes.map((write) => write.edit)]),
      ),
      lost: resource.lost.map(({ field, edit }) => `${field} ${edit}`).toSorted(),
      excessive: resource.excessive,
      heads: resource.heads,
      created: resource.created?.edit,
    }
    assert.deepEqual(plain, view.resource(path), `${path} is what the oracle sees`)
  }
}

/** With and without one revocation, only its target’s envelopes and what rests on them differ; so do their resources alone. */
function revocationTakesOnlyWhatIsIts(state: MeshState, view: OracleView): void {
  const revocation = [...view.effectiveRevocations].toSorted()[0]
  if (revocation === undefined) return
  const all = state.history.order.map((id) => state.history.get(id) as Envelope)
  // What names the revocation cannot stand without it: its author's later envelopes, and what names those.
  const gone = new Set([revocation])
  for (const envelope of all) if (namesOf(envelope).some((id) => gone.has(id))) gone.add(envelope.id)
  // Without a root set that names it, the roots that it replaced are back.
  if (all.some(({ id, body }) => body.type === 'rootset' && gone.has(id))) return
  const without = new MeshState(state.overwritesMax)
  for (const envelope of all) if (!gone.has(envelope.id)) without.add(envelope)

  const touched = new Set(gone)
  for (let before = 0; before !== touched.size;) {
    before = touched.size
    const targets = new Set([...touched].map((id) => state.history.get(id)?.body).map((body) => targetOf(body)))
    for (const { id, body } of all) {
      if (body.type === 'genesis' || state.history.get(body.grant)?.body.type !== 'grant') continue
      const isOfTarget = targets.has(`grant/${body.grant}`) || targets.has(`key/${body.by}`)
      if (isOfTarget || touched.has(body.grant)) touched.add(id)
    }
  }
  const flipped = [...without.history.order].filter((id) => {
    const envelope = state.history.get(id) as Envelope
    return without.policy.verdict(envelope).accepted !== state.policy.verdict(envelope).accepted
  })
  assert.deepEqual(
    flipped.filter((id) => !touched.has(id)),
    [],
    'a revocation changes the verdict on its target’s envelopes and on what rests on them alone',
  )
  const moved = new Set([...flipped, ...gone])
  for (const path of view.paths) {
    if (state.history.editsOf(path).some((id) => moved.has(id))) continue
    assert.equal(without.resource(path)?.hash, state.resource(path)?.hash, `${path} does not change with a revocation`)
  }
}

/** When the revoker of something loses the grant under which they did it, all is as if they had not. */
function voidedRevocationGivesBack(
  { scribe, rootKeys }: GeneratedHistory,
  state: MeshState,
  view: OracleView,
): boolean {
  const all = state.history.order.map((id) => state.history.get(id) as Envelope)
  const named = new Set(all.flatMap(namesOf))
  const revocation = all.find(({ id, body }) => {
    const isByGrant = body.type === 'revoke' && state.history.get(body.grant)?.body.type === 'grant'
    return isByGrant && view.effectiveRevocations.has(id) && !named.has(id)
  })
  if (revocation === undefined) return false
  const { by, grant } = revocation.body as RevokeBody
  const rootSet = state.policy.rootSet() as Envelope<RootsetBody | GenesisBody>
  const roots = rootKeys.filter(({ publicKey }) => rootSet.body.roots.includes(publicKey))
  const heads = [...state.history.chains()].filter(({ author }) => author === by).flatMap((chain) => chain.heads)
  const keep = [...heads.filter((id) => id !== revocation.id), ...(revocation.body as RevokeBody).prev]
  const [root, ...cosigners] = roots as [KeyPair, ...KeyPair[]]
  const chain = state.history.chain('*', root.publicKey)
  const answer = scribe.revoke(
    {
      by: root,
      grant: rootSet.id,
      ws: '*',
      prev: (chain?.heads ?? []).slice(0, 4),
      n: nextOf(state, chain),
      cosigners,
    },
    `grant/${grant}`,
    [...new Set(keep)].slice(0, 16),
  )
  const without = new MeshState(state.overwritesMax)
  for (const envelope of all) if (envelope.id !== revocation.id) without.add(envelope)
  state = replay(all, { into: new MeshState(state.overwritesMax) })
  assert.equal(admit(answer, state.history).outcome, 'ready')
  state.add(answer)
  if (keep.length > 16) return false
  assert.equal(state.hash(), without.hash(), 'voiding a revocation restores what it took')
  return true
}

function nextOf(state: MeshState, chain: Chain | undefined): number {
  const places = (chain?.heads ?? []).slice(0, 4).map((id) => (state.history.get(id) as Envelope<EditBody>).body.n)
  return 1 + Math.max(0, ...places)
}

const SECRETS = [
  'default/eu/secret/a',
  'default/eu.west/secret/b',
  'default/us/secret/c',
  'default/*/secret/d',
  'shop/eu/secret/e',
] as const

/** Sealed as an operator would who knows this state: everybody tries to open it. */
function secretsOpenForRecipientsAlone(state: MeshState, view: OracleView, dice: Dice): void {
  const path = dice.pick(SECRETS)
  const grants = [...state.history.subjects()].flatMap((key) => state.policy.activeGrants(key)).map(({ body }) => body)
  const recipients = sealingKeys(recipientsOf(path, grants))
  const text = Buffer.from(`${path} ${dice.next()}`)
  const random = (bytes: number): Uint8Array => Uint8Array.from({ length: bytes }, () => dice.below(256))
  const sealed = seal(text, { path, recipients, random })
  for (const person of everybody()) {
    const mayOpen = view.mayOpen(path, person.publicKey)
    const read = (): Buffer => open(sealed, path, encryptionKeyOf(person))
    if (mayOpen) assert.deepEqual(read(), text, `${path} opens for ${person.publicKey}`)
    else assert.throws(read, MeshError, `${path} does not open for ${person.publicKey}`)
  }
}

/** What one edit alone wrote is visible, whatever others wrote to other fields meanwhile. */
function lonelyFieldsSurvive(state: MeshState, view: OracleView): void {
  for (const path of view.paths) {
    const { excessive } = view.resource(path)
    const edits = state.history.editsOf(path).filter((id) => view.accepted.has(id) && !excessive.includes(id))
    const writes = edits.flatMap((id) => stepOf(state, id, path).ops.map((op) => ({ id, op })))
    const [creation, ...others] = writes.filter(({ op: [, field] }) => field === '$')
    // Deleting and creating anew end what was before.
    if (creation?.op[0] !== 'set' || others.length > 0) continue
    const counted = new Set([creation.id])
    for (const id of edits) {
      if (stepOf(state, id, path).deps.some((dep) => counted.has(dep))) counted.add(id)
    }
    for (const { id, op } of writes) {
      const [action, field, value] = op
      const isLonely = writes.filter((other) => other.op[1] === field).length === 1
      if (action === 'set' && field !== '$' && isLonely && counted.has(id))
        assert.deepEqual(state.resource(path)?.fields.get(field), value, `${field} of ${path} survives`)
    }
  }
}

function targetOf(body: Envelope['body'] | undefined): string | undefined {
  return body?.type === 'revoke' ? body.target : undefined
}

function namesOf({ body }: Envelope): readonly string[] {
  if (body.type === 'genesis') return []
  const own = [body.grant, ...body.prev]
  if (body.type === 'edit') return [...own, ...body.edits.flatMap(([, deps]) => deps)]
  if (body.type === 'rootset') return [...own, ...body.keep]
  return body.type === 'revoke' ? [...own, ...body.keep, body.target.replace(/^grant\//, '')] : own
}

// ---------------------------------------------------------------------------------------------- runs

/** How much of each class a run holds. */
export type Tally = Record<HistoryClass, number>

/** Which share of a run's histories must hold a class. Set well below what 2,000 histories held. */
const SHARE_AT_LEAST: Tally = {
  fork: 0.9,
  revokeGrant: 0.6,
  revokeKey: 0.6,
  revokeBare: 0.6,
  revokeKeeping: 0.4,
  nestedRevoked: 0.2,
  revived: 0.05,
  coSigned: 0.25,
  conflict: 0.6,
  deleteVersusEdit: 0.5,
  recreated: 0.5,
  multiResource: 0.9,
  voidInChain: 0.4,
  voidGrant: 0.2,
  robot: 0.3,
  rotated: 0.1,
  superseded: 0.1,
  rootsetKept: 0.1,
  contested: 0.01,
  overQuota: 0.05,
  excess: 0.1,
  answered: 0.2,
  enrolled: 0.3,
  dismissed: 0.05,
}
/** Which classes a history holds. @throws AssertionError when it is not a history worth checking at all. */
export function classify(history: GeneratedHistory, { view, wasAnswered, excess }: Checked): Set<HistoryClass> {
  const { envelopes } = history
  const byId = new Map(envelopes.map((envelope) => [envelope.id, envelope]))
  const isAccepted = (id: string): boolean => view.accepted.has(id)
  const edits = envelopes.filter((envelope): envelope is Envelope<EditBody> => envelope.body.type === 'edit')
  if (history.steps >= FULL_STEPS) {
    assert.ok(edits.length >= 30, `a history has thirty edits, and this one ${edits.length}`)
    assert.ok(new Set(edits.map((edit) => edit.body.by)).size >= 3, 'a history has three authors of edits')
  }
  const found = new Set<HistoryClass>()
  const note = (name: HistoryClass, holds: boolean): void => {
    if (holds) found.add(name)
  }
  const places = envelopes.flatMap(({ body }) => (body.type === 'genesis' ? [] : [`${body.ws} ${body.by} ${body.n}`]))
  note('overQuota', excess > 0)
  note('answered', wasAnswered)
  note('fork', new Set(places).size < places.length)
  note('coSigned', history.parts.length > envelopes.length)
  note(
    'multiResource',
    edits.some((edit) => edit.body.edits.length > 1),
  )
  note(
    'robot',
    edits.some((edit) => isAccepted(edit.id) && roleOf(byId, edit) === 'robot'),
  )
  const rootsets = envelopes.filter((envelope): envelope is Envelope<RootsetBody> => envelope.body.type === 'rootset')
  for (const { id, body } of rootsets) {
    if (!isAccepted(id)) {
      const rivals = rootsets.filter((other) => isAccepted(other.id) && other.id !== body.grant)
      note(
        'contested',
        isAccepted(body.grant) && rivals.some((other) => other.body.grant === grantIn(byId, body.grant)),
      )
      continue
    }
    const under = envelopes.filter(({ body: other }) => other.type !== 'genesis' && other.grant === body.grant)
    const others = under.filter(({ body: other }) => other.type !== 'rootset')
    note(
      'superseded',
      others.some((envelope) => !isAccepted(envelope.id)),
    )
    note(
      'rootsetKept',
      others.some((envelope) => isAccepted(envelope.id)),
    )
    note(
      'rotated',
      envelopes.some((envelope) => grantIn(byId, envelope.id) === id && isAccepted(envelope.id)),
    )
  }
  for (const { id, body } of envelopes) {
    if (body.type === 'grant') note('voidGrant', !isAccepted(id))
    if (body.type === 'grant' && body.role === 'node') note('enrolled', isAccepted(id))
    if (body.type !== 'revoke') continue
    // A revocation that is void itself has taken nothing, and given back what it would have taken.
    note('revived', !isAccepted(id))
    const exercised = byId.get(body.grant)?.body
    note('dismissed', exercised?.type === 'grant' && exercised.role === 'robot')
    if (!view.effectiveRevocations.has(id)) continue
    note(body.target.startsWith('key/') ? 'revokeKey' : 'revokeGrant', true)
    note(body.keep.length > 0 ? 'revokeKeeping' : 'revokeBare', true)
  }
  note(
    'nestedRevoked',
    edits.some((edit) => !isAccepted(edit.id) && !isAccepted(edit.body.grant)),
  )
  for (const path of view.paths) {
    const resource = view.resource(path)
    note('excess', resource.excessive.length > 0)
    note('conflict', Object.keys(resource.conflicts).length > 0)
    note('deleteVersusEdit', resource.lost.length > 0)
    const own = edits.flatMap((edit) =>
      edit.body.edits.filter(([touched]) => touched === path).map((entry) => ({ id: edit.id, entry })),
    )
    const isDelete = (id: string): boolean =>
      own.some((one) => one.id === id && one.entry[2].some((op) => op[0] === 'del' && op[1] === '$'))
    note(
      'recreated',
      own.some(
        ({ id, entry }) =>
          isAccepted(id) && entry[2].some((op) => op[0] === 'set' && op[1] === '$') && entry[1].some(isDelete),
      ),
    )
    note(
      'voidInChain',
      own.some(({ id, entry }) => isAccepted(id) && entry[1].some((dep) => !isAccepted(dep))),
    )
  }
  return found
}

function grantIn(byId: ReadonlyMap<string, Envelope>, id: string): string | undefined {
  const body = byId.get(id)?.body
  return body === undefined || body.type === 'genesis' ? undefined : body.grant
}

function roleOf(byId: ReadonlyMap<string, Envelope>, edit: Envelope<EditBody>): string | undefined {
  const grant = byId.get(edit.body.grant)?.body
  return grant?.type === 'grant' ? grant.role : undefined
}

/** A property failed. Says how to see it again. */
export class PropertyFailure extends Error {
  readonly seed: number
  readonly steps: number

  constructor(seed: number, steps: number, cause: unknown) {
    const reason = cause instanceof Error ? cause.message : String(cause)
    super(`${reason}\nreplay: npm run props -- --histories 1 --seed ${seed} --steps ${steps}`, { cause })
    this.name = 'PropertyFailure'
    this.seed = seed
    this.steps = steps
  }
}

/** Checks one seed. @throws PropertyFailure with the shortest prefix of the history that fails too. */
export function checkSeed(seed: number, steps: number = FULL_STEPS): Set<HistoryClass> {
  try {
    const history = generateHistory(seed, steps)
    return classify(history, checkHistory(history))
  } catch (error) {
    for (let shorter = 0; shorter < steps; shorter += 1) {
      try {
        const history = generateHistory(seed, shorter)
        classify(history, checkHistory(history))
      } catch (smaller) {
        throw new PropertyFailure(seed, shorter, smaller)
      }
    }
    throw new PropertyFailure(seed, steps, error)
  }
}

/** The classes that too few histories of a run hold: such a run proves too little. */
export function tooThin(tally: Tally, count: number): string[] {
  return CLASSES.filter((name) => tally[name] < Math.floor(count * SHARE_AT_LEAST[name])).map(
    (name) =>
      `${name}: ${tally[name]} of ${count} histories, and ${Math.floor(count * SHARE_AT_LEAST[name])} are needed`,
  )
}

/** Checks as many seeds, from the first one on. @throws PropertyFailure at the first failure. */
export function checkSeeds(first: number, count: number, steps: number = FULL_STEPS): Tally {
  const tally = Object.fromEntries(CLASSES.map((name) => [name, 0])) as Tally
  for (let index = 0; index < count; index += 1) {
    for (const name of checkSeed(first + index, steps)) tally[name] += 1
  }
  return tally
}
