/**
 * Plain edits through a real server: what PUT and DELETE of a resource make, for whom the node signs them and for whom not,
 * that nobody overwrites what they have not seen, and that the history names the caller and cannot be made to name another.
 */

import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { EditView, Problem, WrittenView } from '../../src/api/schemas.ts'
import { toWire } from '../../src/core/codec.ts'
import type { Envelope, GrantBody, KeyPair, Role } from '../../src/core/envelope.ts'
import { signToken } from '../../src/core/token.ts'
import { PLAIN_EDIT_BYTES } from '../../src/api/writes.ts'
import { CALLER_LIMITS } from '../../src/edit-key.ts'
import { MeshError } from '../../src/errors.ts'
import { Author } from '../support/author.ts'
import { FOUNDING, KEYS, startApiNode, testKey, type ApiNode } from '../support/api-node.ts'
import { meshctl } from '../support/cli.ts'
import { http, type HttpAnswer } from '../support/http.ts'
import { MESH_ID, OWNER_GRANT } from '../support/sign.ts'
import { VirtualClock } from '../support/virtual-clock.ts'

const EDIT_KEY = testKey(30)
const CALLERS = { ana: testKey(31), bob: testKey(32), viewer: testKey(33) }
const SITE = 'default/eu.west/site/web'
const CREATE = { 'if-none-match': '*' }

let time: VirtualClock
let node: ApiNode
let owner: Author
let editGrant: Envelope<GrantBody>

type Scope = Partial<Pick<GrantBody, 'zones' | 'kinds' | 'fields' | 'hosts' | 'quota' | 'name'>> & { ws?: string }

async function grant(key: KeyPair, role: Role, { ws = 'default', ...scope }: Scope = {}): Promise<Envelope<GrantBody>> {
  const rest = { type: 'grant', subject: key.publicKey, role, zones: ['eu'], kinds: ['*'], ...scope } as const
  return await take(owner.sign<GrantBody>(ws, rest))
}

async function take<E extends Envelope>(envelope: E): Promise<E> {
  const [outcome] = await node.replica.submit([toWire(envelope)], 'sync')
  expect(outcome).toMatchObject({ outcome: 'stored' })
  return envelope
}

beforeEach(async () => {
  time = new VirtualClock(Date.now())
  node = await startApiNode({ server: { clock: time }, editKey: EDIT_KEY })
  const last = FOUNDING.findLast(({ body }) => body.type !== 'genesis' && body.by === KEYS.owner.publicKey)
  owner = new Author(MESH_ID, KEYS.owner, OWNER_GRANT, { heads: new Map([['*', last as Envelope<GrantBody>]]) })
  editGrant = await grant(EDIT_KEY, 'editor', {
    kinds: ['*', 'caller'],
    fields: ['privileged/'],
    zones: ['*'],
    name: 'edge-1',
  })
  await grant(CALLERS.ana, 'editor', { name: 'ana' })
  await grant(CALLERS.bob, 'editor', { name: 'bob' })
  await grant(CALLERS.viewer, 'viewer')
})
afterEach(async () => {
  await node.stop()
})

interface Ask {
  readonly by?: KeyPair
  readonly headers?: Readonly<Record<string, string>>
  readonly method?: string
  readonly path?: string
  readonly query?: string
  readonly way?: 'tcp' | 'unix'
}

/** @param edit the node for whose edits it is */
function tokenOf(key: KeyPair, edit: string | undefined = KEYS.node.publicKey): { authorization: string } {
  return { authorization: `Bearer ${signToken(key, MESH_ID, time.now(), 300, edit)}` }
}

/** @param document undefined for DELETE */
async function put(document: unknown, ask: Ask = {}): Promise<HttpAnswer> {
  const { by = CALLERS.ana, headers = {}, path = SITE, query = '', way = 'tcp' } = ask
  const { method = document === undefined ? 'DELETE' : 'PUT' } = ask
  const type = document === undefined ? {} : { 'content-type': 'application/json' }
  return await http(way === 'tcp' ? node.url : `unix:${node.socketPath}`, `/v1/resources/${path}${query}`, {
    method,
    headers: { ...tokenOf(by), ...type, ...headers },
    ...(document === undefined ? {} : { body: typeof document === 'string' ? document : JSON.stringify(document) }),
  })
}

function site(body = 'hello', { hosts = ['web.test'], metadata = {}, spec = {} } = {}): Record<string, unknown> {
  return {
    apiVersion: 'nxmesh/v1',
    kind: 'Site',
    metadata,
    spec: { hosts, routes: { root: { path: '/', return: { status: 200, body } } }, ...spec },
  }
}

async function read(path = SITE): Promise<{ etag: string; body: string; fields: Record<string, unknown> }> {
  const answer = await http(node.url, `/v1/resources/${path}`, { headers: tokenOf(KEYS.owner) })
  const { fields } = answer.json() as { fields: Record<string, unknown> }
  return { etag: String(answer.headers['etag']), body: String(fields['routes/root/return/body']), fields }
}

async function edits(): Promise<EditView[]> {
  const answer = await http(node.url, '/v1/edits?order=desc', { headers: tokenOf(KEYS.owner) })
  return (answer.json() as { data: EditView[] }).data
}

const problem = (answer: HttpAnswer): Partial<Problem> => answer.json() as Problem
const written = (answer: HttpAnswer): WrittenView => answer.json() as WrittenView
const idOf = (answer: HttpAnswer): string => written(answer).outcome?.id as string

async function created(): Promise<{ etag: string; id: string }> {
  const answer = await put(site(), { headers: CREATE })
  expect(answer.status, answer.text).toBe(201)
  return { etag: String(answer.headers['etag']), id: idOf(answer) }
}

describe('a plain edit', () => {
  test('creates, changes and deletes a resource, each with the id of the edit and the new ETag', async () => {
    const { etag, id } = await created()
    expect(await read()).toMatchObject({ etag, body: 'hello' })
    const changed = await put(site('changed'), { headers: { 'if-match': etag }, query: '?note=typo' })
    expect(changed.status).toBe(200)
    expect(written(changed)).toEqual({
      path: SITE,
      action: 'update',
      changes: [{ field: 'routes/root/return/body', before: 'hello', after: 'changed' }],
      outcome: {
        outcome: 'stored',
        id: expect.stringMatching(/^[0-9a-f]{64}$/),
        missing: [],
        code: null,
        reason: null,
      },
    })
    const second = String(changed.headers['etag'])
    expect(await read()).toMatchObject({ etag: second, body: 'changed' })
    const gone = await put(undefined, { headers: { 'if-match': second } })
    expect(gone.status).toBe(200)
    expect(gone.headers['etag']).toBeUndefined()
    expect(written(gone)).toMatchObject({ action: 'delete', changes: [{ field: '$', before: null, after: null }] })
    expect((await http(node.url, `/v1/resources/${SITE}`, { headers: tokenOf(KEYS.owner) })).status).toBe(404)
    expect((await put(site('again'), { headers: CREATE })).status).toBe(201)
    const chain = node.replica.state.history.chain('default', EDIT_KEY.publicKey)
    expect(chain).toMatchObject({ highestN: 4, forks: 0, heads: [expect.any(String)] })
    expect(chain?.ids.slice(0, 2)).toEqual([id, idOf(changed)])
  })

  test('that changes nothing is not signed', async () => {
    const { etag } = await created()
    const answer = await put(site(), { headers: { 'if-match': etag } })
    expect(answer.status).toBe(200)
    expect(written(answer)).toEqual({ path: SITE, action: 'keep', changes: [], outcome: null })
    expect(answer.headers['etag']).toBe(etag)
  })

  test('with dry_run shows what would change, and changes nothing', async () => {
    const dry = await put(site(), { headers: CREATE, query: '?dry_run=true' })
    expect(dry.status).toBe(200)
    expect(written(dry)).toMatchObject({ action: 'create', outcome: null })
    expect(written(dry).changes).toContainEqual({ field: 'hosts/web.test', before: null, after: true })
    const { etag } = await created()
    const stale = { headers: { 'if-match': '"0"' }, query: '?dry_run=true' }
    expect((await put(site('x'), stale)).status).toBe(412)
    expect((await put(undefined, { headers: { 'if-match': etag }, query: '?dry_run=true' })).status).toBe(200)
    expect(await read()).toMatchObject({ etag })
    expect((await put(site('x'), { query: '?dry_run=yes' })).status).toBe(400)
  })

  test('takes the document with the place that the path says, and no other', async () => {
    const metadata = { name: 'web', workspace: 'default', zone: 'eu.west' }
    expect((await put(site('hello', { metadata }), { headers: CREATE })).status).toBe(201)
    for (const [part, value] of Object.entries({ name: 'other', workspace: 'shop', zone: 'eu' })) {
      const answer = await put(site('hello', { metadata: { [part]: value } }), { headers: CREATE })
      expect.soft(answer.status).toBe(400)
      expect.soft(problem(answer)).toMatchObject({ field: `metadata.${part}` })
    }
    const upstream = await put(site(), { headers: CREATE, path: 'default/eu.west/upstream/web' })
    expect(problem(upstream)).toMatchObject({ status: 400, field: 'kind' })
  })

  test('works over the socket with a token, which alone says whose it is', async () => {
    const bare = await http(`unix:${node.socketPath}`, `/v1/resources/${SITE}`, {
      method: 'PUT',
      headers: { 'content-type': 'application/json', ...CREATE },
      body: JSON.stringify(site()),
    })
    expect(problem(bare)).toMatchObject({ status: 401, detail: expect.stringContaining('for whom') })
    expect((await put(site(), { headers: { ...CREATE, authorization: 'Bearer x' }, way: 'unix' })).status).toBe(401)
    expect((await put(site(), { headers: CREATE, way: 'unix', by: CALLERS.viewer })).status).toBe(403)
    expect((await put(site(), { headers: CREATE, way: 'unix' })).status).toBe(201)
  })
})

describe('nobody overwrites what they have not seen', () => {
  test('a lost update is refused with 412, and the first one stays', async () => {
    const { etag } = await created()
    const both = await Promise.all([
      put(site('first'), { headers: { 'if-match': etag } }),
      put(site('second'), { headers: { 'if-match': etag }, by: CALLERS.bob }),
    ])
    expect(both.map(({ status }) => status).toSorted((a, b) => a - b)).toEqual([200, 412])
    const refused = both.find(({ status }) => status === 412) as HttpAnswer
    expect(problem(refused)).toMatchObject({ code: 'precondition_failed', field: 'if-match' })
    expect(refused.headers['retry-after']).toBeUndefined()
    expect((await read()).body).toBe(both[0].status === 200 ? 'first' : 'second')
  })

  test.each<[what: string, exists: boolean, headers: Record<string, string>, status: number]>([
    ['a change without If-Match', true, {}, 428],
    ['a change of what is taken for new', true, CREATE, 412],
    ['a change with another tag', true, { 'if-match': '"0"' }, 412],
    ['a change with no tag at all', true, { 'if-match': '' }, 412],
    ['a change of whatever there is', true, { 'if-match': '*' }, 200],
    ['a creation that does not say so', false, {}, 428],
    ['a change of what does not exist', false, { 'if-match': '*' }, 412],
    ['a creation', false, CREATE, 201],
    ['a change that names a tag which it must not have', true, { 'if-none-match': '"junk"' }, 400],
    ['a change with an empty If-None-Match', true, { 'if-none-match': '' }, 400],
    ['a creation that names a tag', false, { 'if-none-match': '"junk"' }, 400],
  ])('%s', async (_, exists, headers, status) => {
    if (exists) await created()
    const answer = await put(site('new'), { headers })
    expect(answer.status, answer.text).toBe(status)
    if (status < 400) return
    expect(problem(answer).hint).toMatch(/GET|send If-None-Match/i)
    expect((await edits()).filter(({ type }) => type === 'edit')).toHaveLength(exists ? 1 : 0)
  })

  test('a weak tag does not match, and one of several does', async () => {
    const { etag } = await created()
    expect((await put(site('x'), { headers: { 'if-match': `W/${etag}` } })).status).toBe(412)
    expect((await put(site('x'), { headers: { 'if-match': `"0" , ${etag}` } })).status).toBe(200)
  })

  test('DELETE asks for the tag, too', async () => {
    const { etag } = await created()
    expect((await put(undefined)).status).toBe(428)
    expect((await put(undefined, { headers: { 'if-match': '"0"' } })).status).toBe(412)
    expect((await put(undefined, { headers: { 'if-none-match': '"junk"' } })).status).toBe(400)
    expect((await put(undefined, { headers: { 'if-match': etag } })).status).toBe(200)
    expect((await put(undefined, { headers: { 'if-match': etag } })).status).toBe(404)
  })

  test('the ETag changes when an edit below the heads becomes void', async () => {
    const bob = await grant(testKey(40), 'editor')
    const first = await take(owner.site('web', 'eu.west'))
    const path = SITE
    const void_ = new Author(MESH_ID, testKey(40), bob.id).edit(path, [['set', 'nodeSelector/x', 'y']], {
      deps: [first.id],
    })
    await take(void_)
    await take(owner.edit(path, [['set', 'routes/root/return/body', 'top']], { deps: [void_.id] }))
    const before = await read()
    expect(before.fields['nodeSelector/x']).toBe('y')
    await take(owner.revoke(`key/${testKey(40).publicKey}`))
    const after = await read()
    expect(after.fields['nodeSelector/x']).toBeUndefined()
    expect(after.etag).not.toBe(before.etag)
    expect((await put(site('x'), { headers: { 'if-match': before.etag } })).status).toBe(412)
  })

  test('no ETag is answered for a state that holds more than the caller has seen and made', async () => {
    const { etag, id } = await created()
    const beside = owner.edit(SITE, [['set', 'nodeSelector/x', 'y']], { deps: [id] })
    const submit = node.replica.submit.bind(node.replica)
    // It arrives while the other is being stored.
    node.replica.submit = async (wires, source) => await submit([...wires, toWire(beside)], source)
    const answer = await put(site('mine'), { headers: { 'if-match': etag } })
    expect(answer.status).toBe(200)
    expect(answer.headers['etag']).toBeUndefined()
    expect(await read()).toMatchObject({ body: 'mine', fields: { 'nodeSelector/x': 'y' } })
  })

  test('an edit that could not be stored leaves no gap and no fork', async () => {
    const { etag } = await created()
    const submit = node.replica.submit.bind(node.replica)
    node.replica.submit = () => Promise.reject(new MeshError('store_unwritable', 'the disk is full'))
    const failed = await put(site('lost'), { headers: { 'if-match': etag } })
    expect(problem(failed)).toMatchObject({ status: 503, code: 'store_unwritable' })
    node.replica.submit = submit
    expect((await put(site('kept'), { headers: { 'if-match': etag } })).status).toBe(200)
    const chain = node.replica.state.history.chain('default', EDIT_KEY.publicKey)
    expect(chain).toMatchObject({ highestN: 2, forks: 0, heads: [expect.any(String)] })
  })

  test('concurrent edits of other resources make one chain', async () => {
    const names = Array.from({ length: 12 }, (_, index) => `default/eu.west/site/s${index}`)
    const answers = await Promise.all(
      names.map((path, index) =>
        put(site('x', { hosts: [`s${index}.test`] }), {
          headers: CREATE,
          path,
          by: index % 2 === 0 ? CALLERS.ana : CALLERS.bob,
        }),
      ),
    )
    expect(answers.map(({ status }) => status)).toEqual(names.map(() => 201))
    const chain = node.replica.state.history.chain('default', EDIT_KEY.publicKey)
    expect(chain).toMatchObject({ highestN: names.length, forks: 0, heads: [expect.any(String)] })
  })
})

describe('the node lends no power', () => {
  test.each<[what: string, ask: Ask, document: unknown, reason: RegExp]>([
    ['a viewer', { by: CALLERS.viewer }, site(), /a viewer may not edit/],
    ['another zone', { path: 'default/us/site/web' }, site(), /covers zones eu, not us/],
    ['all zones', { path: 'default/%2A/site/web' }, site(), /covers zones eu, not \*/],
    [
      'a privileged field',
      {},
      site('x', { spec: { privileged: { serverSnippet: 'return 204;' } } }),
      /does not cover field privileged\/serverSnippet/,
    ],
    ['a root key', { by: KEYS.root }, site(), /has? none that is in force|no grant of the key/],
    ['a node', { by: KEYS.node }, site(), /a node may not edit/],
  ])('%s', async (_, ask, document, reason) => {
    const answer = await put(document, { headers: CREATE, ...ask })
    expect(answer.status, answer.text).toBe(403)
    expect(problem(answer).detail).toMatch(reason)
    expect(await edits()).toHaveLength(FOUNDING.length + 4)
  })

  test('nor to a token that is for reading, or for another node', async () => {
    for (const edit of [KEYS.other.publicKey, '', 'true']) {
      const headers = { ...CREATE, ...tokenOf(CALLERS.ana, edit) }
      for (const way of ['tcp', 'unix'] as const)
        expect(problem(await put(site(), { headers, way }))).toMatchObject({
          status: 403,
          detail: 'the token allows no edits at this node',
          hint: expect.stringContaining(`meshctl token --edit ${KEYS.node.publicKey}`),
        })
    }
    const authorization = `Bearer ${signToken(CALLERS.ana, MESH_ID, time.now(), 300)}`
    expect((await put(site(), { headers: { ...CREATE, authorization } })).status).toBe(403)
    expect((await http(node.url, '/v1/node', { headers: { authorization } })).status).toBe(200)
  })

  test('nor to a key without a grant, nor to one that was revoked a moment ago', async () => {
    expect((await put(site(), { headers: CREATE, by: KEYS.stranger })).status).toBe(403)
    const { etag } = await created()
    await take(owner.revoke(`key/${CALLERS.ana.publicKey}`))
    expect((await put(site('x'), { headers: { 'if-match': etag } })).status).toBe(403)
    expect((await put(undefined, { headers: { 'if-match': etag } })).status).toBe(403)
  })

  test('another workspace is not there for a caller who may not read it, and not theirs when they may', async () => {
    const path = 'shop/eu.west/site/web'
    expect((await put(site(), { headers: CREATE, path })).status).toBe(404)
    expect((await put(undefined, { headers: { 'if-match': '*' }, path })).status).toBe(404)
    await grant(CALLERS.ana, 'viewer', { ws: 'shop' })
    expect((await put(site(), { headers: CREATE, path })).status).toBe(403)
    await grant(CALLERS.ana, 'editor', { ws: 'shop' })
    const answer = await put(site(), { headers: CREATE, path })
    expect(problem(answer)).toMatchObject({ status: 403, detail: expect.stringContaining('edit key of this node') })
  })

  test('a kind that the caller’s grant does not name, and one that the key’s does not', async () => {
    const key = testKey(41)
    await grant(key, 'editor', { kinds: ['upstream'] })
    expect(problem(await put(site(), { headers: CREATE, by: key })).detail).toMatch(/covers kinds upstream, not site/)
    await take(owner.revoke(`grant/${editGrant.id}`))
    await grant(EDIT_KEY, 'robot', { kinds: ['caller', 'upstream'] })
    expect(problem(await put(site(), { headers: CREATE })).detail).toMatch(/edit key of this node .*not site/)
  })

  test('limits that nodes ask of the signer’s grant hold for the caller’s: hosts and quota', async () => {
    const [hosts, quota] = [testKey(42), testKey(43)]
    await grant(hosts, 'editor', { hosts: ['*.shop.test'] })
    await grant(quota, 'editor', { quota: { resources: 1 } })
    const beyond = await put(site(), { headers: CREATE, by: hosts })
    expect(problem(beyond)).toMatchObject({ status: 403, detail: expect.stringContaining('not web.test') })
    const within = await put(site('x', { hosts: ['a.shop.test'] }), { headers: CREATE, by: hosts })
    expect(within.status, within.text).toBe(201)
    const etag = String(within.headers['etag'])
    const more = await put(site('x', { hosts: ['a.shop.test', 'b.test'] }), {
      headers: { 'if-match': etag },
      by: hosts,
    })
    expect(more.status).toBe(403)
    const path = 'default/eu.west/site/charged'
    const charged = await put(site(), { headers: CREATE, by: quota, path })
    expect(problem(charged)).toMatchObject({ status: 403, detail: expect.stringContaining('quota') })
    // Whoever changes it, it is charged to who made it.
    const changed = await put(site('y', { hosts: ['a.shop.test'] }), { headers: { 'if-match': etag }, by: quota })
    expect(changed.status, changed.text).toBe(200)
  })

  test('a key whose grant is not for callers signs nothing, however much it may', async () => {
    for (const [role, kinds] of [
      ['admin', ['*', 'caller']],
      ['editor', ['*']],
    ] as const) {
      await take(owner.revoke(`grant/${editGrant.id}`))
      editGrant = await grant(EDIT_KEY, role, { zones: ['*'], kinds })
      const answer = await put(site(), { headers: CREATE })
      const detail = expect.stringContaining('none that is in force')
      expect(problem(answer), role).toMatchObject({ status: 403, detail })
    }
  })

  test('a node without an edit key signs nothing, and says what to do', async () => {
    const plain = await startApiNode({ server: { clock: time } })
    const headers = { ...tokenOf(KEYS.owner), ...CREATE, 'content-type': 'application/json' }
    const path = `/v1/resources/${SITE}`
    const answer = await http(plain.url, path, { method: 'PUT', headers, body: JSON.stringify(site()) })
    expect(problem(answer)).toMatchObject({ status: 403, detail: 'this node signs no edits' })
    expect(problem(answer).hint).toContain('http_edit_key')
    await plain.stop()
  })

  test('a node that has not caught up signs nothing yet', async () => {
    node.settled = false
    const answer = await put(site(), { headers: CREATE })
    expect(problem(answer)).toMatchObject({ status: 503, code: 'unavailable' })
    node.settled = true
    await created()
  })

  test('one caller cannot use up what all may', async () => {
    const { etag } = await created()
    let tag = etag
    const statuses: number[] = []
    for (let count = 0; count < CALLER_LIMITS.burst; count += 1) {
      const answer = await put(site(`v${count}`), { headers: { 'if-match': tag } })
      tag = String(answer.headers['etag'] ?? tag)
      statuses.push(answer.status)
    }
    expect(statuses.filter((status) => status !== 200)).toEqual([429])
    expect((await put(site('bob'), { headers: { 'if-match': tag }, by: CALLERS.bob })).status).toBe(200)
  })

  test('a dry run, and an edit that fails, count as well: they are as much work', async () => {
    const ask = { headers: CREATE, query: '?dry_run=true' }
    for (let count = 0; count < CALLER_LIMITS.burst; count += 1)
      expect((await put(site(), count % 2 === 0 ? ask : { headers: {} })).status).toBe(count % 2 === 0 ? 200 : 428)
    expect((await put(site(), ask)).status).toBe(429)
  })

  test('what is no resource counts, and is not looked at when it holds more than an edit', async () => {
    const hollow = {
      ...site(),
      spec: { routes: Object.fromEntries(Array.from({ length: 5_000 }, (_, n) => [`x${n}`, {}])) },
    }
    expect((await put(hollow, { headers: CREATE })).status).toBe(413)
    const wrong = { ...site(), spec: { nothing: true } }
    for (let count = 0; count < CALLER_LIMITS.burst; count += 1)
      expect((await put(wrong, { headers: CREATE })).status).toBe(422)
    expect((await put(wrong, { headers: CREATE })).status).toBe(429)
  })

  test('a body is read from nobody who may not edit there, and never beyond what an edit holds', async () => {
    const large = JSON.stringify(site('x'.repeat(PLAIN_EDIT_BYTES)))
    expect(problem(await put(large, { headers: CREATE, by: CALLERS.viewer })).detail).toMatch(/a viewer may not edit/)
    expect(problem(await put(large, { headers: CREATE, path: 'default/us/site/web' })).status).toBe(403)
    expect(problem(await put(large, { headers: CREATE }))).toMatchObject({
      status: 413,
      detail: `the request is over ${PLAIN_EDIT_BYTES} bytes`,
    })
    // Denied before it is seen to be no document at all.
    expect((await put('{', { headers: CREATE, by: CALLERS.viewer })).status).toBe(403)
  })
})

describe('what is wrong is named', () => {
  test.each<[what: string, document: unknown, status: number, field: string]>([
    ['no JSON', '{', 400, 'body'],
    ['no map', '[]', 422, 'document'],
    ['what is nested without end', `{"spec":${'{"a":'.repeat(15_000)}1${'}'.repeat(15_000)}}`, 400, 'document'],
    [
      'what is nested without end in a site',
      JSON.stringify({ ...site(), spec: 0 }).replace(':0', `:${'{"a":'.repeat(15_000)}1${'}'.repeat(15_000)}`),
      400,
      'document',
    ],
    ['no kind', {}, 422, 'kind'],
    ['no metadata', { ...site(), metadata: undefined }, 422, 'metadata'],
    ['a field that there is not', site('x', { spec: { colour: 'red' } }), 422, 'spec.colour'],
    [
      'a value of another type',
      site('x', { spec: { routes: { root: { path: 1, return: { status: 200 } } } } }),
      422,
      'spec.routes.root.path',
    ],
    [
      'thousands of fields, which are counted before anything else is done with them',
      site('x', { metadata: { labels: Object.fromEntries(Array.from({ length: 9_000 }, (_, i) => [`l${i}`, ''])) } }),
      413,
      'spec',
    ],
    ['too much', 'x'.repeat(1024 * 1024 + 1), 413, 'body'],
    [
      'more than an edit holds',
      site('x', { hosts: Array.from({ length: 256 }, (_, index) => `h${index}.test`) }),
      413,
      'spec',
    ],
  ])('%s', async (_, document, status, field) => {
    const answer = await put(document, { headers: CREATE })
    expect(answer.status, answer.text).toBe(status)
    expect(answer.headers['content-type']).toBe('application/problem+json')
    expect(problem(answer).field).toBe(field)
  })

  test('another type, a path that is none, a note that is too long, a parameter that there is not', async () => {
    const yaml = await put('kind: Site', { headers: { ...CREATE, 'content-type': 'application/yaml' } })
    expect(yaml.status).toBe(415)
    expect(problem(await put(site(), { path: 'default/eu.west/site/UPPER' }))).toMatchObject({
      status: 400,
      field: 'path',
    })
    const long = await put(site(), { headers: CREATE, query: `?note=${'x'.repeat(443)}` })
    expect(problem(long)).toMatchObject({ status: 400, field: 'note' })
    expect((await put(site(), { headers: CREATE, query: `?note=${'x'.repeat(442)}` })).status).toBe(201)
    expect((await put(site(), { headers: CREATE, query: '?dryrun=true' })).status).toBe(400)
    const { headers } = await put(undefined, { method: 'PATCH' })
    expect(headers['allow']).toBe('GET, HEAD, PUT, DELETE')
  })

  test('what somebody wrote into a Secret is not repeated', async () => {
    const document = { apiVersion: 'nxmesh/v1', kind: 'Secret', metadata: {}, spec: { value: 'hunter2' } }
    const answer = await put(document, { headers: CREATE, path: 'default/eu.west/secret/door' })
    expect(answer.status).toBe(422)
    expect(answer.text + node.lines.join()).not.toContain('hunter2')
  })
})

describe('the history names the caller', () => {
  test('in the note, which the caller cannot forge, and in the log of meshctl', async () => {
    const other = `for ${CALLERS.bob.publicKey}: urgent`
    const query = `?note=${encodeURIComponent(other)}`
    expect((await put(site(), { headers: CREATE, query })).status).toBe(201)
    // A note of the same form, signed with keys that are not for callers.
    const bobs = new Author(MESH_ID, CALLERS.bob, (await grant(CALLERS.bob, 'robot')).id)
    await take(bobs.site('forged', 'eu.west', { note: `for ${CALLERS.ana.publicKey}: from ana` }))
    const [forged, , mine] = await edits()
    expect(forged).toMatchObject({ by: CALLERS.bob.publicKey, caller: null })
    expect(mine).toMatchObject({
      by: EDIT_KEY.publicKey,
      caller: CALLERS.ana.publicKey,
      note: `for ${CALLERS.ana.publicKey}: ${other}`,
    })
    const { out, code } = await meshctl(['log'], {
      cwd: node.directory,
      env: { NXMESH_API: `unix:${node.socketPath}` },
    })
    expect(code).toBe(0)
    const lines = out.split('\n')
    expect(lines.find((line) => line.includes('site/web'))).toMatch(/ edge-1 for ana +1 .*for [0-9a-f]{64}: urgent/)
    const lie = lines.find((line) => line.includes('site/forged'))
    expect(lie).toMatch(/ bob +1 .* accepted +for [0-9a-f]{64}: from ana/)
    expect(node.lines.find((line) => line.includes('signed an edit for a caller'))).toContain(CALLERS.ana.publicKey)
  })

  test('also when the caller is not granted any more', async () => {
    await created()
    await take(owner.revoke(`key/${CALLERS.ana.publicKey}`))
    const { out } = await meshctl(['log'], { cwd: node.directory, env: { NXMESH_API: `unix:${node.socketPath}` } })
    expect(out).toContain('edge-1 for ana')
    expect((await read()).body).toBe('hello')
  })
})
