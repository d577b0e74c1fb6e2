/** The pure part of plain edits: whose note is believed, what a caller's grant lacks, the next place of a chain; and health. */

import { describe, expect, test } from 'vitest'
import { authorise, authoritiesOf, placeAfter, type Authority } from '../../src/core/authoring.ts'
import { CALLER_NOTE_BYTES, callerLack, callerOf, isForCallers, noteFor, ownNote } from '../../src/core/caller.ts'
import { toWire } from '../../src/core/codec.ts'
import { LIMITS, type EditBody, type Envelope, type GrantBody, type Op, type Role } from '../../src/core/envelope.ts'
import { ABSENT, planFields, wantedOf } from '../../src/core/plan.ts'
import { EditKey } from '../../src/edit-key.ts'
import { Author } from '../support/author.ts'
import { FOUNDING, KEYS, startApiNode, testKey } from '../support/api-node.ts'
import { MESH_ID, OWNER_GRANT } from '../support/sign.ts'
import { silentLog } from '../support/silent-log.ts'
import { VirtualClock } from '../support/virtual-clock.ts'

const ANA = testKey(31).publicKey
const BOB = testKey(32).publicKey

describe('the note of an edit for a caller', () => {
  const by = testKey(30)
  const author = new Author(MESH_ID, by, 'a'.repeat(64))
  const noted = (note: string): Envelope => author.site('web', 'eu', { note })
  const granted = (role: Role, kinds: readonly string[]) => ({
    get: () => new Author(MESH_ID, KEYS.owner, OWNER_GRANT).grant(by.publicKey, role, { kinds }),
  })
  const forCallers = granted('robot', ['caller', 'site'])

  test.each(['', 'why', ': why', `for ${BOB}`, `for ${BOB}: why`, 'for', '\u2028', 'x'.repeat(CALLER_NOTE_BYTES)])(
    'names the caller, whatever the caller writes: %j',
    (note) => {
      expect(callerOf(noted(noteFor(ANA, note)), forCallers)).toBe(ANA)
      expect(ownNote(noteFor(ANA, note))).toBe(note)
      expect(Buffer.byteLength(noteFor(ANA, note))).toBeLessThanOrEqual(LIMITS.noteBytes)
    },
  )

  test.each([
    '',
    'why',
    `for ${ANA.slice(1)}`,
    `for ${ANA.toUpperCase()}`,
    `for ${ANA}0`,
    `for ${ANA}:why`,
    `see: for ${ANA}`,
    ` for ${ANA}`,
    `x\nfor ${ANA}: why`,
  ])('of another form names nobody: %j', (note) => {
    expect(callerOf(noted(note), forCallers)).toBeUndefined()
  })

  test.each<[role: Role, kinds: string[], believed: boolean]>([
    ['robot', ['caller', 'site'], true],
    ['editor', ['*', 'caller'], true],
    ['editor', ['*'], false],
    ['robot', ['site'], false],
    ['admin', ['*', 'caller'], false],
    ['owner', ['*', 'caller'], false],
    ['viewer', ['caller'], false],
    ['node', ['caller'], false],
  ])('under a grant as %s for %j is believed: %s', (role, kinds, believed) => {
    expect(isForCallers({ role, kinds })).toBe(believed)
    expect(callerOf(noted(noteFor(ANA, 'why')), granted(role, kinds)) !== undefined).toBe(believed)
  })

  test('counts in edits alone, and under a grant that is known', () => {
    const revocation = author.revoke(`key/${BOB}`, [], { note: noteFor(ANA, '') })
    expect(callerOf(revocation, forCallers)).toBeUndefined()
    expect(callerOf(noted(noteFor(ANA, '')), { get: () => undefined })).toBeUndefined()
    expect(callerOf(FOUNDING[0]!, forCallers)).toBeUndefined()
  })
})

describe('what a grant of the caller lacks', () => {
  const grant = (over: Partial<GrantBody> = {}): Authority => {
    const { body } = new Author(MESH_ID, KEYS.owner, OWNER_GRANT).grant(ANA, 'editor')
    return { id: 'a'.repeat(64), exercised: { ...body, ...over }, label: '' }
  }
  const edit = (path: string, ops: readonly Op[]): EditBody =>
    new Author(MESH_ID, testKey(31), 'a'.repeat(64)).edit(path, ops).body
  const host = (name: string): Op => ['set', `hosts/${name}`, true]
  const site = 'default/eu/site/web'

  test.each<[what: string, over: Partial<GrantBody>, path: string, ops: readonly Op[], lack: RegExp | undefined]>([
    ['nothing', {}, site, [host('a.test')], undefined],
    ['the zone', { zones: ['us'] }, site, [host('a.test')], /covers zones us/],
    ['the host', { hosts: ['*.b.test'] }, site, [host('a.test')], /not a.test/],
    ['one of the hosts', { hosts: ['b.test'] }, site, [host('a.test'), host('b.test')], /not a.test/],
    ['not a host that goes', { hosts: ['b.test'] }, site, [['del', 'hosts/a.test']], undefined],
    ['not a host that it names', { hosts: ['*.test'] }, site, [host('a.test')], undefined],
    ['not the host of what is no site', { hosts: ['b.test'] }, 'default/eu/upstream/web', [host('a.test')], undefined],
    ['a quota to make more', { quota: { resources: 9 } }, site, [['set', '$', true]], /quota/],
    ['no quota to change', { quota: { resources: 9 } }, site, [host('a.test')], undefined],
    ['no quota to delete', { quota: { resources: 9 } }, site, [['del', '$']], undefined],
  ])('%s', (_, over, path, ops, lack) => {
    const found = callerLack(grant(over), edit(path, ops))
    if (lack === undefined) expect(found).toBeUndefined()
    else expect(found).toMatch(lack)
  })

  test('a further grant may have', () => {
    const bodyUnder = (id: string): EditBody => ({ ...edit(site, [host('a.test')]), grant: id })
    const narrow = grant({ hosts: ['b.test'] })
    const found = authorise([narrow, { ...grant(), id: 'b'.repeat(64) }], bodyUnder, callerLack)
    expect(found).toMatchObject({ body: { grant: 'b'.repeat(64) } })
    expect(authorise([narrow], bodyUnder, callerLack)).toMatchObject({ reasons: [expect.stringContaining('a.test')] })
  })
})

test('authorities are tried from the least powerful', () => {
  const owner = new Author(MESH_ID, KEYS.owner, OWNER_GRANT)
  const grants = (['owner', 'viewer', 'admin', 'editor'] as const).map((role) => owner.grant(ANA, role))
  const tried = authoritiesOf(grants).map(({ exercised }) => (exercised as GrantBody).role)
  expect(tried).toEqual(['viewer', 'editor', 'admin', 'owner'])
})

test('a chain goes on after its newest heads', () => {
  const heads = [1, 7, 3, 5, 9, 2].map((n) => ({ id: String(n), n }))
  expect(placeAfter(heads)).toEqual({ n: 9, prev: ['9', '7', '5', '3'] })
  expect(placeAfter([])).toEqual({ n: 0, prev: [] })
})

test('a document of a Secret that nobody sealed is not repeated in the error', () => {
  const document = {
    apiVersion: 'nxmesh/v1',
    kind: 'Secret',
    metadata: { name: 'door', zone: 'eu' },
    spec: { text: 'hunter2' },
  }
  expect(() => wantedOf(document)).toThrow(/not what meshctl sealed/)
})

test('a second node life continues the chain from the store; health tells of a key without the right grant', async () => {
  const key = testKey(30)
  const node = await startApiNode()
  const clock = new VirtualClock(Date.now())
  const { replica } = node
  const last = FOUNDING.findLast(({ body }) => body.type !== 'genesis' && body.by === KEYS.owner.publicKey)
  const owner = new Author(MESH_ID, KEYS.owner, OWNER_GRANT, { heads: new Map([['*', last as Envelope<GrantBody>]]) })
  const take = async (envelope: Envelope): Promise<void> => {
    const [outcome] = await replica.submit([toWire(envelope)], 'sync')
    expect(outcome).toMatchObject({ outcome: 'stored' })
  }
  const life = (): EditKey => new EditKey({ key, replica, clock, log: silentLog(), isSettled: () => true })
  const first = life()
  expect(first.complaints()).toEqual([expect.stringContaining(`meshctl grant editor ${key.publicKey} --zone ZONE`)])
  await take(owner.grant(key.publicKey, 'editor', { ws: 'default', kinds: ['*', 'caller'] }))
  expect(first.complaints()).toEqual([])

  const write = async (editKey: EditKey, name: string): Promise<void> => {
    const fields = new Map([['routes/root/path', name]])
    const path = `default/eu/site/${name}`
    const { outcome, change } = await editKey.write({
      caller: KEYS.owner.publicKey,
      path,
      fields,
      note: '',
      isDryRun: false,
      check: () => undefined,
    })
    expect(change).toEqual(planFields(path, ABSENT, fields))
    expect(outcome).toMatchObject({ outcome: 'stored' })
  }
  await write(first, 'one')
  await write(first, 'two')
  await write(life(), 'three')
  expect(replica.state.history.chain('default', key.publicKey)).toMatchObject({ highestN: 3, forks: 0 })

  await take(owner.grant(key.publicKey, 'admin', { ws: 'default' }))
  expect(first.complaints()).toEqual([expect.stringContaining('is also admin')])
  await take(owner.revoke(`key/${key.publicKey}`))
  expect(first.complaints()).toEqual([expect.stringContaining('was revoked')])
  await node.stop()
})
