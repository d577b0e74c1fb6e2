/**
 * Threats by who holds a key, each carried out on real daemons with real nginx by every way in, and each beside the same act by
 * somebody who may do it. What is refused, is refused by all in the same words; what is void, is void on all. The line of each
 * in docs/security.md names its test.
 */

import { createPublicKey, randomBytes, verify } from 'node:crypto'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import {
  envelopeId,
  keyPairFromSeed,
  rootSetHash,
  signingInput,
  type Envelope,
  type KeyPair,
  type RootsetBody,
} from '../../src/core/envelope.ts'
import { encryptionKey } from '../../src/core/secrets.ts'
import {
  Attacker,
  expectRefused,
  expectVoid,
  footprint,
  hire as hireFor,
  submit,
  verdictAt,
  verdictOn,
  watchSites,
} from '../support/attacker.ts'
import { Author, siteOps } from '../support/author.ts'
import { writeToStore } from '../support/damage.ts'
import type { Member } from '../support/fleet.ts'
import { http } from '../support/http.ts'
import { malleated, mixedOrderKey, SMALL_ORDER } from '../support/torsion.ts'
import {
  all,
  answers,
  applySite,
  ask,
  connections,
  converged,
  each,
  eventually,
  health,
  siteYaml,
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
  roots: 3,
  threshold: 2,
  config: { sync_interval_seconds: 0.5 },
})

const NAMES = ['paris', 'lyon', 'boston']
const EU = ['paris', 'lyon']
const named = (names: readonly string[]): Member[] => names.map((name) => fleet().member(name))
const daemons = (): Member[] => named(NAMES)
const paris = (): Member => fleet().member('paris')
const newKey = (): KeyPair => keyPairFromSeed(randomBytes(32))
const ownerGrant = (): string => fleet().founding[1]!.id

test('before anything is tried, every host serves', async () => {
  await applySite(fleet(), paris(), { name: 'anchor' })
  await converged(daemons())
  expect(await answers(daemons(), 'anchor')).toEqual(all(daemons(), 'anchor'))
})

const hire = (name: string, role: string, ...scope: readonly string[]): Promise<Author> =>
  hireFor(fleet(), daemons(), name, role, scope)

/** What every daemon refused, so that the last test can bring it by the disk as well. */
const refusals: Envelope[] = []

async function refuse(attacker: Attacker, envelope: Envelope, reason: RegExp, what: string): Promise<void> {
  await expectRefused(attacker, envelope, reason, what)
  refusals.push(envelope)
}

/** Waits until the nginx of each host in the zones of the names serves a site, and no other host does. */
async function served(names: readonly string[], site: string, body = site): Promise<void> {
  const wanted = { ...all(daemons(), '404'), ...all(named(names), body) }
  await eventually(() => answers(daemons(), site), `${site} is served at ${names.join(' ')}`).toEqual(wanted)
}

test('stolen host key edits', async () => {
  const { meshId, founding } = fleet()
  await using attacker = await Attacker.enter(fleet(), daemons(), 'stolen')
  const own = founding[2]!.id
  const thief = (grant: string): Author => new Author(meshId, paris().key, grant)
  const mayNot = /a node may not edit/
  await refuse(attacker, thief(own).site('stolen', 'eu'), mayNot, 'of its own zone')
  await refuse(attacker, thief(own).site('stolen'), mayNot, 'of all zones')
  await refuse(attacker, thief(ownerGrant()).site('stolen', 'eu'), /belongs to another key/, 'as the owner')
  await refuse(attacker, thief(own).grant(attacker.key.publicKey, 'editor'), /may not grant/, 'an accomplice')
  const lyon = `key/${fleet().member('lyon').key.publicKey}`
  await refuse(attacker, thief(own).revoke(lyon), /may not grant or revoke/, 'against another host')
  const ana = await hire('editor-1', 'editor', '--zone', 'eu')
  const honest = await submit(fleet(), paris(), paris().key, [ana.site('honest', 'eu')])
  expect(honest.status, 'an editor’s edit, handed in with the host’s token').toBe(202)
  await served(EU, 'honest')

  // What it can read: the secrets of its zone in its workspaces, and no others.
  const secrets = { euros: 'eu', dollars: 'us' }
  for (const [name, zone] of Object.entries(secrets)) {
    await tell(fleet(), paris(), ['secret', 'set', name, '-z', zone, '-f', '-'], { stdin: `${name} of ${zone}` })
  }
  const guest = newKey()
  await writeFile(join(fleet().directory, 'guest.key'), Buffer.from(guest.seed).toString('hex'), { mode: 0o600 })
  const withEnc = `${guest.publicKey}:${encryptionKey(guest.seed).publicKey}`
  await tell(fleet(), paris(), ['grant', 'node', withEnc, '--zone', '*', '-w', 'tenant', '--name', 'guest'])
  await tell(fleet(), paris(), ['secret', 'reseal', '--all'])
  await converged(daemons())
  const open = async (key: string, name: string): Promise<string | number> => {
    const { code, out } = await ask(fleet(), fleet().member('lyon'), ['secret', 'get', name], {
      key,
      mesh: fleet().meshId,
    })
    return code === 0 ? out : code
  }
  expect(await open(paris().keyFile, 'euros')).toBe('euros of eu')
  expect(await open(paris().keyFile, 'dollars'), 'of another zone').toBe(4)
  expect(await open('guest.key', 'euros'), 'of another workspace: not even there').toBe(5)
})

test('forged author', async () => {
  const { meshId, owner } = fleet()
  await using attacker = await Attacker.enter(fleet(), daemons(), 'forger')
  const stranger = newKey()
  const ana = await hire('editor-2', 'editor', '--zone', 'eu')
  const as = ({ publicKey }: KeyPair, grant: string): Author => new Author(meshId, { ...stranger, publicKey }, grant)
  const notValid = /the signature of [0-9a-f]{64} is not valid/
  await refuse(attacker, as(stranger, ownerGrant()).site('forged', 'eu'), /belongs to another key/, 'a stranger')
  await refuse(attacker, as(owner, ownerGrant()).site('forged', 'eu'), notValid, 'in the name of the owner')
  const [one, two] = [ana.copy().site('one', 'eu'), ana.copy().site('two', 'eu')]
  await refuse(attacker, { ...one, bytes: one.bytes.replace('one.test', 'two.test') }, notValid, 'altered words')
  await refuse(attacker, { ...one, sigs: two.sigs }, notValid, 'the signature of another edit')
  const ballast = { ...one, sigs: { ...one.sigs, ...signatureOf(stranger, one.id) } }
  await refuse(attacker, ballast, /signatures of others than the author/, 'a second signature')
  await expectRefused(
    attacker,
    { ...one, sigs: signatureOf(stranger, one.id) },
    /lacks the author’s/,
    'another’s alone',
  )
  expect((await submit(fleet(), paris(), attacker.key, [one])).status, 'as it was signed').toBe(202)
  await served(EU, 'one')
})

function signatureOf(key: KeyPair, id: string): Record<string, string> {
  return { [key.publicKey]: key.sign(signingInput(fleet().meshId, id)) }
}

test('other zone', async () => {
  await using attacker = await Attacker.enter(fleet(), daemons(), 'smuggler')
  const ana = await hire('editor-3', 'editor', '--zone', 'eu')
  const beyond = async (zone: string): Promise<void> =>
    await refuse(attacker, ana.copy().site('smuggled', zone), /covers zones eu, not/, `zone ${zone}`)
  await beyond('us')
  await beyond('*')
  await beyond('eur')
  const mixed = ana.copy().edits([
    ['default/eu/site/mixed', [], siteOps('mixed', 'mixed.test')],
    ['default/us/site/mixed', [], siteOps('mixed', 'mixed.test')],
  ])
  await refuse(attacker, mixed, /covers zones eu, not us/, 'one edit of both')
  const elsewhere = ana.copy().edit('tenant/eu/site/mixed', siteOps('mixed', 'mixed.test'))
  await refuse(attacker, elsewhere, /for workspace default, not tenant/, 'another workspace')
  const ben = await hire('editor-4', 'editor', '--zone', '*', '--kinds', 'upstream')
  await refuse(attacker, ben.copy().site('smuggled'), /covers kinds upstream, not site/, 'another kind')
  const within = [ana.site('within', 'eu'), ana.site('below', 'eu.west')]
  expect((await submit(fleet(), paris(), attacker.key, within)).status).toBe(202)
  await served(EU, 'within')
  expect(await verdictOn(daemons(), within[1]!.id)).toEqual({ accepted: true, message: null })
})

test('self-escalation', async () => {
  const { meshId, owner } = fleet()
  await using attacker = await Attacker.enter(fleet(), daemons(), 'climber')
  const ana = await hire('editor-5', 'editor', '--zone', 'eu')
  const adam = await hire('admin-5', 'admin', '--zone', 'eu')
  const [self, mate] = [adam.key.publicKey, newKey().publicKey]
  const rank = /take a strictly higher rank/
  const scope = { ws: 'default', zones: ['eu'] }
  const eu = (by: Author) => by.copy()
  await refuse(attacker, eu(ana).grant(ana.key.publicKey, 'admin', scope), /may not grant/, 'an editor: admin')
  await refuse(attacker, eu(adam).grant(self, 'owner', scope), rank, 'an admin: owner')
  await refuse(attacker, eu(adam).grant(mate, 'admin', scope), rank, 'an admin: a second admin')
  const everywhere = eu(adam).grant(mate, 'editor', { ws: 'default' })
  await refuse(attacker, everywhere, /zone \* is outside/, 'an admin of eu: an editor of all zones')
  const inAll = eu(adam).grant(mate, 'editor', { ...scope, ws: '*' })
  await refuse(attacker, inAll, /for workspace default, not \*/, 'an admin of one workspace: all workspaces')
  const hedged = await hire('admin-6', 'admin', '--zone', 'eu', '--hosts', '*.adam.example')
  const unbound = eu(hedged).grant(mate, 'editor', scope)
  await refuse(attacker, unbound, /covers hosts \*\.adam\.example alone/, 'an admin of some hosts: an editor of all')
  const top = eu(adam).revoke(`grant/${ownerGrant()}`, [], { ws: 'default' })
  await refuse(attacker, top, rank, 'an admin: against the owner')
  const asRoot = new Author(meshId, owner, meshId).grant(mate, 'owner')
  await refuse(attacker, asRoot, /not a key of the exercised root set/, 'the owner: as a root')
  // Aimed at a key it is not refused, since the key may have lower grants as well; those of higher rank stay.
  const aimed = await submit(fleet(), paris(), adam.key, [adam.revoke(`key/${owner.publicKey}`, [], { ws: 'default' })])
  expect(aimed.status).toBe(202)
  await applySite(fleet(), fleet().member('boston'), { name: 'owned' })
  await served(NAMES, 'owned')
  const helper = newKey()
  const grant = adam.grant(helper.publicKey, 'editor', scope)
  const edit = new Author(meshId, helper, grant.id).site('helped', 'eu')
  expect((await submit(fleet(), paris(), adam.key, [grant, edit])).status, 'what an admin may').toBe(202)
  await served(EU, 'helped')
})

test('backdating after revocation', async () => {
  await using attacker = await Attacker.enter(fleet(), daemons(), 'backdater')
  const ana = await hire('editor-6', 'editor', '--zone', 'eu')
  const first = ana.site('kept', 'eu', { at: 1_000 })
  const early = ana.copy()
  const second = ana.site('also-kept', 'eu', { at: 2_000 })
  expect((await submit(fleet(), paris(), ana.key, [first, second])).status, 'the same claims before it').toBe(202)
  await served(EU, 'also-kept')
  const revoked = await tell(fleet(), paris(), ['revoke', ana.key.publicKey, '--note', 'stolen'])
  await verdictOn(daemons(), revoked.trim())
  const anew = new Author(fleet().meshId, ana.key, first.body.grant)
  const acts = [
    ana.site('late', 'eu', { at: 1_500 }),
    early.site('forked', 'eu', { at: 1_500 }),
    anew.site('anew', 'eu', { at: 1 }),
  ] as const
  await expectVoid(attacker, acts, /the grant was revoked by/, 'as if made before the revocation')
  await served(EU, 'kept')
  await served(EU, 'also-kept')
  for (const site of ['late', 'forked', 'anew']) await served([], site)
})

test('signature-rule split', async () => {
  const { meshId, owner } = fleet()
  await using attacker = await Attacker.enter(fleet(), daemons(), 'splitter')
  // 8 of 14 are points of their own: a key and an R of mixed order, which OpenSSL refuses more often than not.
  const torsions = SMALL_ORDER.slice(9).map((torsion, index) => [torsion, SMALL_ORDER[index + 8] as string] as const)
  let disputed = 0
  for (const [index, [inKey, inNonce]] of torsions.entries()) {
    const key = mixedOrderKey(inKey, inNonce)
    const granted = await tell(fleet(), paris(), ['grant', 'editor', key.publicKey, '--zone', 'eu'])
    await verdictOn(daemons(), granted.trim())
    const author = new Author(meshId, key, granted.trim())
    const edits = daemons().map((_, n) => author.site(`mixed-${index}-${n}`, 'eu'))
    disputed += edits.filter(({ id, sigs }) => !opensslTakes(key.publicKey, id, sigs[key.publicKey]!)).length
    // Each is judged first by another daemon's API, and then by all.
    for (const [n, member] of daemons().entries()) {
      expect((await submit(fleet(), member, attacker.key, [edits[n]!])).status).toBe(202)
      expect(await verdictOn(daemons(), edits[n]!.id)).toEqual({ accepted: true, message: null })
    }
  }
  expect(disputed, 'signatures on which libraries differ').toBeGreaterThan(3)
  await served(EU, 'mixed-0-0')

  const [inKey, inNonce] = torsions[0]!
  const key = mixedOrderKey(inKey, inNonce)
  const author = new Author(meshId, key, ownerGrant())
  const edit = author.site('split', 'eu')
  const signed = (signature: string) => ({ ...edit, sigs: { [key.publicKey]: signature } })
  const signature = edit.sigs[key.publicKey]!
  const notValid = /is not valid/
  await refuse(attacker, edit, /belongs to another key/, 'a valid one, by a key without a grant')
  await refuse(attacker, signed(malleated(signature)), notValid, 'a scalar above the group order')
  const offCurve = `02${'00'.repeat(31)}${signature.slice(64)}`
  await refuse(attacker, signed(offCurve), notValid, 'an R off the curve')
  // A key of small order signs anything at all, with R of small order and s = 0.
  const [small, smallNonce] = [SMALL_ORDER[10]!, SMALL_ORDER[12]!]
  const anything = { publicKey: small, seed: new Uint8Array(32), sign: () => smallNonce + '00'.repeat(32) }
  const byAnybody = new Author(meshId, anything, ownerGrant()).site('split', 'eu')
  await refuse(attacker, byAnybody, /belongs to another key/, 'a key of small order')
  const grant = new Author(meshId, owner, ownerGrant()).grant(small, 'editor')
  await refuse(attacker, grant, /not of small order/, 'a grant for a key of small order')
})

/** What the platform's library says of a signature by itself. */
function opensslTakes(publicKey: string, id: string, signature: string): boolean {
  const der = Buffer.from(`302a300506032b6570032100${publicKey}`, 'hex')
  const key = createPublicKey({ key: der, format: 'der', type: 'spki' })
  return verify(null, signingInput(fleet().meshId, id), key, Buffer.from(signature, 'hex'))
}

/** The root keys in the order of the genesis; the first signed the founding. */
const roots = (): KeyPair[] => fleet().roots.toSorted((a, b) => (a.publicKey < b.publicKey ? -1 : 1))
const next = (): KeyPair[] => fleet().nextRoots.toSorted((a, b) => (a.publicKey < b.publicKey ? -1 : 1))

/** Acts that were in force under the first roots, besides the founding. */
const rootActs: string[] = []

test('stripped co-signatures', async () => {
  const { meshId } = fleet()
  await using attacker = await Attacker.enter(fleet(), daemons(), 'stripper')
  const { mole } = attacker
  const [first, second, third] = roots() as [KeyPair, KeyPair, KeyPair]
  const eve = newKey()
  const act = new Author(meshId, second, meshId, { signers: [second, third] }).grant(eve.publicKey, 'editor')
  const only = (...keys: KeyPair[]) => ({
    ...act,
    sigs: Object.fromEntries(keys.map((key) => [key.publicKey, key.sign(signingInput(meshId, act.id))])),
  })
  fleet().partition(['paris'], ['lyon', 'boston'])
  await eventually(() => connections(fleet(), paris())).toEqual(['stripper'])
  expect((await submit(fleet(), paris(), attacker.key, [act])).status).toBe(202)
  const edit = new Author(meshId, eve, act.id).site('cosigned', 'eu')
  expect((await submit(fleet(), paris(), attacker.key, [edit])).status, 'with both it counts').toBe(202)
  // The relay between the two sides strips one, by each way that it has.
  await mole.gossip(only(second))
  await mole.offer(only(second), edit)
  const few = { accepted: false, message: '1 of 2 root signatures' }
  expect(await verdictOn(named(['lyon', 'boston']), act.id)).toEqual(few)
  expect((await verdictOn(named(['lyon', 'boston']), edit.id)).message).toMatch(/is itself not accepted/)
  expect(await verdictAt(paris(), act.id), 'who has both keeps both').toEqual({ accepted: true, message: null })
  await mole.agree()
  fleet().heal()
  expect(await verdictOn(daemons(), act.id)).toEqual({ accepted: true, message: null })
  expect(await verdictOn(daemons(), edit.id)).toEqual({ accepted: true, message: null })
  await served(EU, 'cosigned')
  // Stripped again it takes nothing away, and another pair adds the third.
  await mole.gossip(only(third))
  await mole.offer(only(second))
  await mole.push(paris().key.publicKey, only(first, second))
  const signers = async (member: Member): Promise<string[]> => {
    const { envelope } = (await http(member.socket, `/v1/edits/${act.id}`)).json() as { envelope: { sigs: object } }
    return Object.keys(envelope.sigs)
  }
  const union = [first, second, third].map(({ publicKey }) => publicKey)
  await eventually(() => each(daemons(), signers)).toEqual(all(daemons(), union))
  await expectRefused(
    attacker,
    { ...act, sigs: { ...act.sigs, ...only(newKey()).sigs } },
    /not a key of/,
    'a stranger’s',
  )
  expect(await each(daemons(), signers)).toEqual(all(daemons(), union))
  rootActs.push(act.id)
})

test('stolen old root quorum', async () => {
  const { meshId, founding } = fleet()
  await using attacker = await Attacker.enter(fleet(), daemons(), 'usurper')
  const [, second, third] = roots() as [KeyPair, KeyPair, KeyPair]
  const thief = newKey()
  const chain = await paris().get<{ heads: { id: string }[] }>(`/v1/chains/%2A/${second.publicKey}`)
  const held = await paris().get<{ envelope: { bytes: string } }>(`/v1/edits/${chain.heads[0]!.id}`)
  const n = (JSON.parse(held.envelope.bytes) as { n: number }).n
  const over = { n: n + 1, prev: [chain.heads[0]!.id] }
  const quorum = new Author(meshId, second, meshId, { signers: [second, third] })
  const theft = quorum.grant(thief.publicKey, 'owner', { over })
  const stolen = new Author(meshId, thief, theft.id)
  expect((await submit(fleet(), paris(), attacker.key, [theft, stolen.site('usurped')])).status).toBe(202)
  await served(NAMES, 'usurped')

  const [heir, second2, third2] = next() as [KeyPair, KeyPair, KeyPair]
  const after = [1, 2, 3].map(newKey)
  const succession = new Author(meshId, heir, meshId, { signers: [heir, second2] }).sign<RootsetBody>('*', {
    type: 'rootset',
    roots: next().map(({ publicKey }) => publicKey),
    threshold: 2,
    next: rootSetHash(
      after.map(({ publicKey }) => publicKey),
      2,
    ),
    keep: [founding[1]!.id, ...rootActs].toSorted(),
  })
  // The thieves cannot choose who comes next, neither themselves nor anybody else.
  const usurpers = [second, third, thief].toSorted((a, b) => (a.publicKey < b.publicKey ? -1 : 1))
  const coup = new Author(meshId, second, meshId, { signers: usurpers }).sign<RootsetBody>('*', {
    type: 'rootset',
    roots: usurpers.map(({ publicKey }) => publicKey),
    threshold: 2,
    next: '',
    keep: [],
  })
  await refuse(attacker, coup, /not the root set that the exercised one named/, 'successors of their own choice')
  expect((await submit(fleet(), paris(), attacker.key, [succession])).status).toBe(202)
  const replaced = /was replaced by root set/
  expect((await verdictOn(daemons(), theft.id)).message).toMatch(replaced)
  await served([], 'usurped')

  const again = [1, 2, 3].map(() => quorum.grant(newKey().publicKey, 'owner'))
  await expectVoid(attacker, again as [never, never, never], replaced, 'acts of the old quorum')
  // The new quorum acts, and what the old one rightly did stands.
  const newOwner = newKey()
  const grant = new Author(meshId, second2, succession.id, { signers: [second2, third2] }).grant(
    newOwner.publicKey,
    'owner',
  )
  const edit = new Author(meshId, newOwner, grant.id).site('succeeded')
  expect((await submit(fleet(), paris(), attacker.key, [grant, edit])).status).toBe(202)
  await served(NAMES, 'succeeded')
  await applySite(fleet(), paris(), { name: 'owned-still' })
  await served(NAMES, 'owned-still')
  await served(EU, 'cosigned')
})

test('what was refused on the way is refused from the disk', async () => {
  const boston = fleet().member('boston')
  await converged(daemons())
  const before = await footprint(daemons())
  const held = await Promise.all(refusals.map(async ({ bytes }) => await verdictAt(boston, envelopeId(bytes))))
  const forged = refusals.filter((_, index) => held[index] === undefined)
  expect(forged.length).toBeGreaterThan(20)
  await boston.stop()
  await writeToStore(boston, forged)
  await boston.start()
  expect(await boston.metric('nxmesh_store_corrupt_records_total')).toBe(new Set(forged.map(({ bytes }) => bytes)).size)
  await eventually(() => footprint(daemons())).toEqual(before)
  await served(NAMES, 'anchor')
  // A restart forgets them: they are gone from the disk.
  await boston.stop()
  await boston.start()
  await converged(daemons())
  expect(await boston.metric('nxmesh_store_corrupt_records_total')).toBe(0)
})

test('rogue admin cutting everyone off', async () => {
  const { meshId } = fleet()
  const ana = await hire('editor-9', 'editor', '--zone', '*')
  await hire('bystander', 'editor', '--zone', '*')
  const rogue = await hire('rogue', 'admin', '--zone', '*', '-w', '*')
  const shop = ana.site('shop')
  expect((await submit(fleet(), paris(), ana.key, [shop])).status).toBe(202)
  expect((await submit(fleet(), paris(), rogue.key, [rogue.site('honest-once')])).status).toBe(202)
  await served(NAMES, 'shop')
  await served(NAMES, 'honest-once')
  await converged(daemons())
  const watch = watchSites(daemons(), ['shop', 'honest-once'])

  // It voids what ana did, takes her and the bystander's keys away, and cuts off every host, all at once.
  const puppet = newKey()
  const puppetGrant = rogue.grant(puppet.publicKey, 'editor')
  const keys = [ana.key.publicKey, ...daemons().map(({ key }) => key.publicKey)]
  const coup = [puppetGrant, ...keys.map((key) => rogue.revoke(`key/${key}`))]
  const deface = new Author(meshId, puppet, puppetGrant.id).edit(
    'default/*/site/shop',
    [['set', 'routes/root/return/body', 'defaced']],
    { deps: [shop.id] },
  )
  expect((await submit(fleet(), paris(), rogue.key, [...coup, deface])).status).toBe(202)
  for (const member of daemons()) {
    await eventually(() => connections(fleet(), member)).toEqual([])
    await eventually(() => health(member)).toMatch(/this node’s grant was revoked: it serves its last good generation/)
  }
  const { code, err } = await ask(fleet(), paris(), ['apply', '-f', '-'], { stdin: siteYaml({ name: 'not-now' }) })
  expect([code, err]).toEqual([4, expect.stringMatching(/this node’s grant was revoked, so it takes no edits/)])

  // The owner undoes it at one host, and the others learn it from there.
  const since = ['revoke', rogue.key.publicKey, '--since', puppetGrant.id, '--note', 'rogue']
  await tell(fleet(), paris(), since)
  await converged(daemons())
  for (const id of [puppetGrant.id, deface.id, ...coup.map((act) => act.id)]) {
    expect((await verdictOn(daemons(), id)).accepted).toBe(false)
  }
  expect(await verdictOn(daemons(), shop.id)).toEqual({ accepted: true, message: null })
  await applySite(fleet(), fleet().member('boston'), { name: 'back' }, { key: 'editor-9.key' })
  await served(NAMES, 'back')
  await served(NAMES, 'shop')
  expect((await states(daemons())).length).toBe(1)
  const { visits, seen } = await watch()
  expect(visits).toBeGreaterThan(50)
  expect(seen, 'nginx answered all along').toEqual(['200'])
})
