/**
 * Threats by what peers, authors and disks say, each carried out on real daemons with real nginx by every way in, and each
 * beside an honest act that works. The line of each in docs/security.md names its test.
 */

import { cp, rm } from 'node:fs/promises'
import { join } from 'node:path'
import * as Automerge from '@automerge/automerge'
import { expect, test } from 'vitest'
import type { ChainView, ResourceView } from '../../src/api/schemas.ts'
import { envelopeId, LIMITS, signEnvelope, type Envelope, type Op, type WireEnvelope } from '../../src/core/envelope.ts'
import { foundMesh } from '../../src/core/founding.ts'
import { signToken } from '../../src/core/token.ts'
import { REPLICA_LIMITS } from '../../src/replica.ts'
import { encodeFrame } from '../../src/sync/sync-messages.ts'
import {
  Attacker,
  expectRefused,
  footprint,
  hire as hireFor,
  outcomesOf,
  submit,
  verdictOn,
  watchSites,
} from '../support/attacker.ts'
import { Author } from '../support/author.ts'
import { expandingChange, lastCounterChange } from '../support/bombs.ts'
import { removeFromStore, writeToStore } from '../support/damage.ts'
import type { Member } from '../support/fleet.ts'
import { http } from '../support/http.ts'
import {
  all,
  answers,
  applySite,
  connections,
  converged,
  each,
  eventually,
  health,
  states,
  tell,
  useFleet,
} from '../support/use-fleet.ts'

const fleet = useFleet({
  members: [
    { name: 'paris', zones: ['eu'] },
    { name: 'lyon', zones: ['eu'], dials: ['paris'] },
    { name: 'boston', zones: ['us'], dials: ['lyon', 'paris'] },
  ],
  nginx: true,
  links: true,
  config: { sync_interval_seconds: 0.5 },
})

const NAMES = ['paris', 'lyon', 'boston']
const named = (names: readonly string[]): Member[] => names.map((name) => fleet().member(name))
const daemons = (): Member[] => named(NAMES)
const paris = (): Member => fleet().member('paris')
const lyon = (): Member => fleet().member('lyon')
const boston = (): Member => fleet().member('boston')
const accepted = { accepted: true, message: null }
const hire = (name: string, role: string, ...scope: readonly string[]): Promise<Author> =>
  hireFor(fleet(), daemons(), name, role, scope)

/** What the sites of Author.site answer. */
const saying = (body: string): Op => ['set', 'routes/root/return/body', body]

async function hand(author: Author, ...envelopes: readonly Envelope[]): Promise<void> {
  const answer = await submit(fleet(), paris(), author.key, envelopes)
  expect(answer.status, answer.text).toBe(202)
}

/** Waits until every nginx answers so for a site. */
async function served(site: string, body = site, members = daemons()): Promise<void> {
  await eventually(() => answers(members, site), `${site} is served`).toEqual(all(members, body))
}

test('before anything is tried, every host serves', async () => {
  await applySite(fleet(), paris(), { name: 'anchor' })
  await converged(daemons())
  expect(await answers(daemons(), 'anchor')).toEqual(all(daemons(), 'anchor'))
})

test('replay here and from another mesh', async () => {
  const { owner, roots, nextRoots, meshId, founding } = fleet()
  await using attacker = await Attacker.enter(fleet(), daemons(), 'replayer')
  const ana = await hire('editor-1', 'editor', '--zone', '*')
  const one = ana.site('replayed')
  const path = 'default/*/site/replayed'
  const two = ana.edit(path, [saying('two')], { deps: [one.id] })
  const born = ana.site('gone')
  const died = ana.edit('default/*/site/gone', [['del', '$']], { deps: [born.id] })
  await hand(ana, one, two, born, died)
  await served('replayed', 'two')
  await converged(daemons())

  const before = await footprint(daemons())
  const old = [one, born, founding[1]!]
  for (const answer of Object.values(await attacker.submit(...old))) {
    expect(outcomesOf(answer)).toEqual(['known', 'known', 'known'])
  }
  for (const envelope of old) await attacker.mole.gossip(envelope)
  const { comparisons } = attacker.mole
  await attacker.mole.offer(...old)
  await eventually(() => attacker.mole.comparisons).toBeGreaterThan(comparisons)
  await attacker.agree()
  for (const { key } of daemons()) await attacker.mole.push(key.publicKey, ...old)
  expect(await footprint(daemons()), 'what was there is there already').toEqual(before)
  await served('replayed', 'two')
  await served('gone', '404')

  // Another mesh of the same people, with the same keys.
  const [genesis, grant] = foundMesh({
    name: 'other',
    roots,
    nextRoots: nextRoots.map(({ publicKey }) => publicKey),
    threshold: 1,
    owner,
    ownerName: 'owner',
    nodes: [],
    at: Date.now(),
  }) as [Envelope, Envelope]
  const foreign = new Author(genesis.id, owner, grant.id).site('foreign')
  await expectRefused(attacker, foreign, /belongs to mesh [0-9a-f]{64}, and this is/, 'an edit of another mesh')
  const relabelled = { ...foreign, bytes: foreign.bytes.replace(genesis.id, meshId) }
  await expectRefused(attacker, relabelled, /is not valid/, 'the same, relabelled')
  await expectRefused(attacker, grant, /belongs to mesh/, 'a grant of another mesh')
  for (const answer of Object.values(await attacker.submit(genesis))) {
    expect([answer.status, outcomesOf(answer)]).toEqual([400, [expect.stringMatching(/a genesis of another mesh/)]])
  }
  const token = signToken(owner, genesis.id, Date.now(), 60)
  const read = (member: Member) =>
    http(member.api, '/v1/resources', { headers: { authorization: `Bearer ${token}` } }).then(({ status }) => status)
  expect(await each(daemons(), read), 'a token for another mesh').toEqual(all(daemons(), 401))
  await applySite(fleet(), paris(), { name: 'native' })
  await served('native')
})

test('equivocation', async () => {
  await using attacker = await Attacker.enter(fleet(), daemons(), 'equivocator')
  const ana = await hire('editor-2', 'editor', '--zone', '*')
  const first = ana.site('forked')
  await hand(ana, first)
  await served('forked')
  const path = 'default/*/site/forked'
  const [left, right] = [ana.copy(), ana.copy()].map((copy, index) =>
    copy.edit(path, [saying(['left', 'right'][index] as string)], { deps: [first.id] }),
  ) as [Envelope, Envelope]
  fleet().partition(['paris'], ['lyon', 'boston'])
  await eventually(() => connections(fleet(), paris())).toEqual(['equivocator'])
  // One story for each side.
  await attacker.mole.push(paris().key.publicKey, left)
  await attacker.mole.push(boston().key.publicKey, right)
  await served('forked', 'left', [paris()])
  await served('forked', 'right', named(['lyon', 'boston']))
  expect(await states(daemons())).toHaveLength(2)
  fleet().heal()
  for (const { id } of [left, right]) expect(await verdictOn(daemons(), id)).toEqual(accepted)
  await eventually(async () => (await states(daemons())).length, 'all hold the same state').toBe(1)
  const view = await paris().get<ResourceView>('/v1/resources/default/%2A/site/forked')
  const winner = view.fields['routes/root/return/body'] as string
  expect(['left', 'right']).toContain(winner)
  await served('forked', winner)
  const values = view.conflicts['routes/root/return/body']?.map(({ value }) => value)
  expect(values?.toSorted(), 'both are shown').toEqual(['left', 'right'])
  const forks = async (member: Member): Promise<number> =>
    (await member.get<ChainView>(`/v1/chains/default/${ana.key.publicKey}`)).forks
  expect(await each(daemons(), forks), 'and who signed both').toEqual(all(daemons(), 1))
  // Either side again, in the other order, changes nothing any more.
  const before = await footprint(daemons())
  await attacker.mole.gossip(right)
  await attacker.mole.gossip(left)
  expect(await footprint(daemons())).toEqual(before)
  const settle = ana.edit(path, [saying('settled')], {
    n: 3,
    prev: [left.id, right.id].toSorted(),
    deps: [left.id, right.id].toSorted(),
  })
  await hand(ana, settle)
  await served('forked', 'settled')
  // Once may be a mishap. Twice is an alarm on every host, until the key is revoked.
  const twice = [ana.copy(), ana.copy()].map((copy, index) => copy.site(`twice-${index}`))
  await attacker.mole.gossip(...twice)
  const alarm = /keys that signed several times for one place of their chain: 1/
  await eventually(() => each(daemons(), health)).toEqual(all(daemons(), expect.stringMatching(alarm)))
  await tell(fleet(), paris(), ['revoke', ana.key.publicKey, '--note', 'in two places'])
  await converged(daemons())
})

/** A clock that is so far off is of use to nobody. */
const TEN_YEARS_MS = 10 * 365 * 24 * 60 * 60 * 1000

test('lying clocks', async () => {
  const late = await fleet().add({ name: 'late', clockShiftMs: -TEN_YEARS_MS, dials: ['paris', 'boston'] })
  const early = await fleet().add({ name: 'early', clockShiftMs: TEN_YEARS_MS, dials: ['paris', 'boston'] })
  for (const { name, key } of [late, early]) {
    await tell(fleet(), paris(), ['grant', 'node', key.publicKey, '--zone', 'eu', '--name', name])
  }
  await Promise.all([late.start(), early.start()])
  const everyone = [...daemons(), late, early]
  try {
    await converged(everyone)
    await using attacker = await Attacker.enter(fleet(), everyone, 'timekeeper')
    const ana = await hire('editor-3', 'editor', '--zone', '*')
    const future = Date.now() + TEN_YEARS_MS
    const times = [ana.site('from-1970', '*', { at: 0 }), ana.site('from-the-future', '*', { at: future })]
    for (const envelope of times) await attacker.mole.gossip(envelope)
    for (const { id } of times) expect(await verdictOn(everyone, id), 'no verdict asks for the time').toEqual(accepted)
    await served('from-1970', 'from-1970', everyone)
    await served('from-the-future', 'from-the-future', everyone)
    // Whose clock is off is told where it matters: at the API, of an edit's claim and of a token.
    const now = ana.site('now')
    const [atLate, atEarly] = [
      await late.push([now]),
      await early.push([ana.copy().site('earlier', '*', { at: future })]),
    ]
    expect([atLate.status, outcomesOf(atLate)]).toEqual([400, [expect.stringMatching(/is your clock right\?/)]])
    expect(atEarly.status).toBe(202)
    const withToken = await submit(fleet(), late, ana.key, [now])
    expect([withToken.status, withToken.text]).toEqual([401, expect.stringContaining('is not valid yet')])
    await hand(ana, now)
    await served('now', 'now', everyone)

    // The one place where claimed time decides: between two sites of one host the older has it.
    const shop = ana.site('shop')
    await hand(ana, shop)
    await served('shop', 'shop', everyone)
    const carl = await hire('limited-3', 'editor', '--zone', '*', '--hosts', 'carl.test')
    await hand(carl, carl.site('cheap', '*', { host: 'shop.test', at: 0 }))
    const problems = async (member: Member): Promise<string[]> => {
      const { data } = await member.get<{ data: { self: boolean; receipt: { problems: Told[] } | null }[] }>(
        '/v1/receipts',
      )
      return data.find(({ self }) => self)?.receipt?.problems.map(({ path, code }) => `${path} ${code}`) ?? []
    }
    await eventually(() => each(everyone, problems)).toEqual(all(everyone, ['default/*/site/cheap host_not_granted']))
    await served('shop', 'shop', everyone)
    const ben = await hire('unlimited-3', 'editor', '--zone', '*')
    const taken = ben.site('taken', '*', { host: 'shop.test', at: 0 })
    await hand(ben, taken)
    const both = ['default/*/site/cheap host_not_granted', 'default/*/site/shop clash']
    await eventually(() => each(everyone, async (member) => (await problems(member)).toSorted())).toEqual(
      all(everyone, both),
    )
    await served('shop', 'taken', everyone)
    // Shown everywhere, and undone like any other edit.
    await tell(fleet(), paris(), ['revoke', ben.key.publicKey, '--since', taken.id])
    await served('shop', 'shop', everyone)
    expect(await states(everyone)).toHaveLength(1)
  } finally {
    await Promise.all([late.stop(), early.stop()])
  }
  await tell(fleet(), paris(), ['delete', 'site', 'cheap', '--zone', '*'])
})

interface Told {
  readonly path: string
  readonly code: string
}

test('deletion of history', async () => {
  const ana = await hire('editor-4', 'editor', '--zone', '*')
  await hand(ana, ana.site('remembered'))
  await served('remembered')
  await converged(daemons())
  const watch = watchSites(daemons(), ['remembered'])
  await using attacker = await Attacker.enter(fleet(), daemons(), 'forgetter')
  await converged(daemons())
  const held = await footprint(daemons())
  // A peer that says there is nothing.
  const { comparisons } = attacker.mole
  await attacker.mole.offer()
  await eventually(() => attacker.mole.comparisons).toBeGreaterThan(comparisons + 2)
  expect(await footprint(daemons())).toEqual(held)

  // A store that is gone, one that is put back to an earlier day, and one that lacks a record.
  const store = join(lyon().dataDirectory, 'store')
  const backup = join(fleet().directory, 'backup')
  await lyon().stop()
  await cp(store, backup, { recursive: true })
  await rm(store, { recursive: true })
  await lyon().start()
  await eventually(() => footprint(daemons()), 'refilled from nothing').toEqual(held)
  const later = ana.site('later')
  await hand(ana, later)
  await served('later')
  const both = await footprint(daemons())
  await lyon().stop()
  await rm(store, { recursive: true })
  await cp(backup, store, { recursive: true })
  await lyon().start()
  await eventually(() => footprint(daemons()), 'refilled from a backup').toEqual(both)
  await boston().stop()
  await removeFromStore(boston(), [later.id, fleet().founding[1]!.id])
  await boston().start()
  await eventually(() => footprint(daemons()), 'refilled record by record').toEqual(both)
  await served('later')
  await converged(daemons())
  // An author can delete a resource, and not that it was there.
  await hand(ana, ana.edit('default/*/site/later', [['del', '$']], { deps: [later.id] }))
  expect(await verdictOn(daemons(), later.id)).toEqual(accepted)
  await served('later', '404')
  const { visits, seen } = await watch()
  expect(visits).toBeGreaterThan(20)
  expect(seen, 'nginx answered all along').toEqual(['200'])
})

test('Automerge bombs', async () => {
  const small = expandingChange(50_000)
  expect([small.length < 100, Automerge.decodeChange(small).ops.length], 'it is one').toEqual([true, 50_000])
  const bombs = [expandingChange(2 ** 31 - 1), lastCounterChange()]
  const ana = await hire('editor-5', 'editor', '--zone', '*')
  await hand(ana, ana.site('standing'))
  await served('standing')
  await using attacker = await Attacker.enter(fleet(), daemons(), 'bomber')
  await converged(daemons())
  const before = await footprint(daemons())
  const pids = daemons().map(({ pid }) => pid)
  const notCanonical = /the body is not canonical JSON/
  for (const bomb of bombs) {
    const texts = [Buffer.from(bomb).toString('latin1'), Buffer.from(bomb).toString('base64')]
    for (const member of daemons()) {
      expect(await post(member, bomb, 'application/octet-stream')).toBe(415)
      expect(await post(member, bomb, 'application/json')).toBe(400)
      expect(await post(member, JSON.stringify({ changes: texts }), 'application/json')).toBe(400)
      await attacker.mole.request(member.key.publicKey, bomb)
      const behindHead = Buffer.concat([encodeFrame({ ask: 'take' }), bomb])
      await attacker.mole.request(member.key.publicKey, behindHead)
    }
    await attacker.mole.gossipBytes(bomb)
    await attacker.mole.gossipBytes(bomb, 'status')
    for (const text of texts)
      await expectRefused(attacker, disguised(ana, text), notCanonical, 'a change as an envelope')
  }
  expect(await footprint(daemons())).toEqual(before)
  // On the disk, as what it is and as what it is not.
  await boston().stop()
  const records = bombs.map((bomb) => disguised(ana, Buffer.from(bomb).toString('latin1')))
  await writeToStore(boston(), records)
  await boston().start()
  expect(await boston().metric('nxmesh_store_corrupt_records_total')).toBe(records.length)
  await eventually(() => footprint(daemons())).toEqual(before)
  // They were removed: the next start finds none.
  await boston().stop()
  await boston().start()
  expect(await boston().metric('nxmesh_store_corrupt_records_total')).toBe(0)
  expect(named(['paris', 'lyon']).map(({ pid }) => pid)).toEqual(pids.slice(0, 2))

  // As a value it is text like any other, and comes out as it went in.
  const text = Buffer.from(bombs[0]!).toString('base64')
  await hand(
    ana,
    ana.site(
      text
        .slice(0, 8)
        .toLowerCase()
        .replaceAll(/[^a-z]/g, 'x'),
    ),
  )
  const edit = ana.edit('default/*/site/standing', [['set', 'labels/bomb', text]], {
    deps: headsOf(await standing(paris())),
  })
  await hand(ana, edit)
  expect(await verdictOn(daemons(), edit.id)).toEqual(accepted)
  const shown = await each(daemons(), async (member) => (await standing(member)).fields['labels/bomb'])
  expect(shown).toEqual(all(daemons(), text))
  // Nor does sheer size: beyond the limits nothing is taken.
  const huge = ana.copy().edit('default/*/site/standing', manyFields(40))
  expect(huge.size).toBeGreaterThan(LIMITS.bodyBytes)
  const sizes = Object.values(await attacker.submit(huge)).map(({ status }) => status)
  expect(sizes).toEqual(daemons().map(() => 413))
  const many = ana.copy().edit('default/*/site/standing', manyFields(LIMITS.ops + 1, 1))
  await expectRefused(attacker, many, /over 256 operations/, 'too many operations')
  const memory = await each(daemons(), (member) => member.metric('process_resident_memory_bytes'))
  for (const [name, bytes] of Object.entries(memory)) expect(bytes, name).toBeLessThan(512 * 1024 * 1024)
  await served('standing')
})

const standing = (member: Member): Promise<ResourceView> => member.get('/v1/resources/default/%2A/site/standing')
const headsOf = ({ heads }: ResourceView): string[] => [...heads]

const manyFields = (count: number, size = 2_000): Op[] =>
  Array.from(
    { length: count },
    (_, index) => ['set', `labels/l${String(index).padStart(4, '0')}`, 'x'.repeat(size)] as const,
  )

/** An envelope, signed as it should be, whose body is this text. */
function disguised({ key }: Author, bytes: string): Envelope {
  const id = envelopeId(bytes)
  const like = signEnvelope(fleet().founding[1]!.body, [key])
  return { ...like, id, bytes, sigs: { [key.publicKey]: key.sign(Buffer.from(id, 'hex')) } }
}

/** The status of a POST of any body to the API over TCP. */
async function post(member: Member, body: Uint8Array | string, type: string): Promise<number> {
  const token = signToken(fleet().owner, fleet().meshId, Date.now(), 60)
  const headers = { authorization: `Bearer ${token}`, 'content-type': type }
  const response = await fetch(`${member.api}/v1/edits`, {
    method: 'POST',
    headers,
    body: typeof body === 'string' ? body : Buffer.from(body),
  })
  await response.arrayBuffer()
  return response.status
}

test('flood beyond rate and quota', async () => {
  const honest = await hire('honest-6', 'editor', '--zone', '*')
  await using attacker = await Attacker.enter(fleet(), daemons(), 'flooder')
  const { authorBurst } = REPLICA_LIMITS
  const flood = (author: Author, count: number): Envelope[] =>
    Array.from({ length: count }, (_, n) => author.edit('default/us.far/site/flood', [['set', `labels/l${n}`, 'x']]))
  const storedOf = async (author: Author): Promise<Record<string, number | 'down'>> =>
    await each(
      daemons(),
      async (member) => (await member.get<ChainView>(`/v1/chains/default/${author.key.publicKey}`)).count,
    )

  // Over the API: beyond the burst 429, for this author alone.
  const loud = await hire('loud-6', 'editor', '--zone', '*')
  const startedMs = performance.now()
  const edits = flood(loud, authorBurst + 212)
  const outcomes: string[] = []
  for (let at = 0; at < edits.length; at += 256) {
    outcomes.push(...outcomesOf(await submit(fleet(), paris(), loud.key, edits.slice(at, at + 256))))
  }
  const alone = await submit(fleet(), paris(), loud.key, [edits.at(-1) as WireEnvelope])
  await hand(honest, honest.site('meanwhile'))
  const refilled = Math.ceil((performance.now() - startedMs) / 1000) + 1
  const stored = outcomes.filter((outcome) => outcome === 'stored').length
  expect(alone.status, alone.text).toBe(429)
  expect(stored).toBeGreaterThanOrEqual(authorBurst)
  expect(stored).toBeLessThanOrEqual(authorBurst + refilled)
  expect(outcomes.filter((outcome) => outcome === 'refused').length).toBeGreaterThan(100)
  await served('meanwhile')
  await eventually(() => storedOf(loud)).toEqual(all(daemons(), stored))

  // By gossip: each daemon takes as much and drops the rest; what one of them took all get.
  const noisy = await hire('noisy-6', 'editor', '--zone', '*')
  const refusedGossip = async (): Promise<Record<string, number | 'down'>> =>
    await each(daemons(), (one) => one.metric('nxmesh_edits_total', { outcome: 'refused', source: 'gossip' }))
  const before = await refusedGossip()
  const gossipedMs = performance.now()
  const noise = flood(noisy, 2 * authorBurst)
  for (let at = 0; at < noise.length; at += 50) await attacker.mole.gossip(...noise.slice(at, at + 50))
  await hand(honest, honest.site('still'))
  await served('still')
  await eventually(async () => new Set(Object.values(await storedOf(noisy))).size).toBe(1)
  await eventually(async () => Object.values(await storedOf(noisy))[0]).toBeGreaterThanOrEqual(authorBurst)
  const taken = Object.values(await storedOf(noisy))
  const sinceThen = Math.ceil((performance.now() - gossipedMs) / 1000) + 1
  expect(Math.max(...(taken as number[]))).toBeLessThanOrEqual(authorBurst + sinceThen)
  for (const [name, count] of Object.entries(await refusedGossip())) {
    expect(count, name).toBeGreaterThanOrEqual((before[name] as number) + 100)
  }

  // Beyond the quota of a grant: kept, and not in force, the same on every host.
  const greedy = await hire('greedy-6', 'editor', '--zone', '*', '--quota', 'resources=2')
  const names = ['quota-a', 'quota-b', 'quota-c', 'quota-d']
  const sites = names.map((name, n) => greedy.site(name, '*', { at: 4_000 - n }))
  // The claimed age decides, and not what came first.
  await attacker.mole.gossip(...sites)
  await eventually(() => each(daemons(), overQuota)).toEqual(
    all(daemons(), ['default/*/site/quota-a', 'default/*/site/quota-b']),
  )
  for (const name of ['quota-c', 'quota-d']) await served(name)
  for (const name of ['quota-a', 'quota-b']) await served(name, '404')
  await hand(honest, honest.site('beside'))
  await served('beside')
  const gone = greedy.edit('default/*/site/quota-d', [['del', '$']], { deps: [sites[3]!.id] })
  await hand(greedy, gone)
  await served('quota-b')
  await served('quota-a', '404')
  expect(await states(daemons())).toHaveLength(1)
})

test('flood beyond the share of an author', async () => {
  const honest = await hire('honest-7', 'editor', '--zone', '*')
  const hoarder = await hire('hoarder-7', 'editor', '--zone', '*')
  await using attacker = await Attacker.enter(fleet(), daemons(), 'hoarder')
  const { bytesPerAuthor } = REPLICA_LIMITS
  const count = async (member: Member): Promise<number> =>
    (await member.get<ChainView>(`/v1/chains/default/${hoarder.key.publicKey}`)).count
  const heap: Envelope[] = []
  for (let size = 0; size <= bytesPerAuthor + LIMITS.bodyBytes; size += heap.at(-1)!.size) {
    heap.push(hoarder.edit(`default/us.far/snippet/s${heap.length}`, ballast()))
  }
  await attacker.mole.offer(...heap.slice(0, 600))
  await hand(honest, honest.site('through'))
  await served('through')
  await eventually(() => each(daemons(), count)).toEqual(all(daemons(), 600))
  await attacker.mole.offer(...heap.slice(600))
  const full = expect.stringContaining('authors have filled their share of the store, and no more is taken of them: 1')
  await eventually(() => each(daemons(), health)).toEqual(all(daemons(), full))
  const bytes = async (member: Member): Promise<number> =>
    heap.slice(0, await count(member)).reduce((sum, { size }) => sum + size, 0)
  for (const [name, sum] of Object.entries(await each(daemons(), bytes))) {
    expect(sum, name).toBeGreaterThan(bytesPerAuthor - 2 * LIMITS.bodyBytes)
    expect(sum, name).toBeLessThanOrEqual(bytesPerAuthor)
  }
  expect(heap.length).toBeGreaterThan(1_000)
  await hand(honest, honest.site('afterwards'))
  await served('afterwards')
})

/** Close to what one edit may weigh. */
function ballast(): Op[] {
  return Array.from({ length: 8 }, (_, index) => ['set', `labels/l${index}`, 'x'.repeat(8_000)] as const)
}

/** Resources that a member leaves out because they are over a quota, in its own words. */
async function overQuota(member: Member): Promise<string[]> {
  const { data } = await member.get<{ data: { self: boolean; receipt: { problems: Told[] } | null }[] }>('/v1/receipts')
  const problems = data.find(({ self }) => self)?.receipt?.problems ?? []
  return problems.filter(({ code }) => code === 'quota').map(({ path }) => path)
}
