/** The OpenAPI document: every route is in it and nothing else, and what a real server answers matches its schemas. */

import { isDeepStrictEqual } from 'node:util'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { z } from 'zod'
import { ROUTES } from '../../src/api/routes.ts'
import { SCHEMAS, type SchemaName } from '../../src/api/schemas.ts'
import { toWire } from '../../src/core/codec.ts'
import { signTicket } from '../../src/core/ticket.ts'
import { signRejection } from '../../src/joining/join.ts'
import { Author } from '../support/author.ts'
import { FOUNDING, KEYS, startApiNode, testKey, tokenOf, type ApiNode } from '../support/api-node.ts'
import { http, type HttpAnswer } from '../support/http.ts'
import { askToJoin } from '../support/joining.ts'
import { receiptOf } from '../support/receipt.ts'
import { editor, MESH_ID, OWNER_GRANT, submission } from '../support/sign.ts'

interface Operation {
  operationId: string
  parameters?: { name: string; in: string; required: boolean }[]
  responses: Record<string, { content?: Record<string, { schema?: { $ref: string } }> }>
}
interface Document {
  openapi: string
  paths: Record<string, Record<string, Operation>>
  components: { schemas: Record<string, unknown> }
}

const SITE = 'default/eu.west/site/web'

const EDIT_KEY = testKey(30)
let node: ApiNode
let document: Document
beforeAll(async () => {
  node = await startApiNode({ editKey: EDIT_KEY })
  node.receipt = receiptOf()
  document = (await http(`unix:${node.socketPath}`, '/v1/openapi.json')).json() as Document
  const next = editor()
  const a = next([
    [
      SITE,
      [],
      [
        ['set', '$', true],
        ['set', 'hosts/a.example', true],
      ],
    ],
  ])
  const b = next([[SITE, [a.id], [['set', 'nodeSelector/x', 'one']]]])
  const c = next([[SITE, [a.id], [['set', 'nodeSelector/x', 'two']]]])
  const d = next([['default/eu.west/upstream/gone', [], [['set', '$', true]]]])
  const e = next([['default/eu.west/upstream/gone', [d.id], [['del', '$']]]])
  const f = next([['default/eu.west/upstream/gone', [d.id], [['set', 'method', 'random']]]])
  await http(`unix:${node.socketPath}`, '/v1/edits', {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: submission(a, b, c, d, e, f),
  })
  const ticket = signTicket(
    {
      mesh: FOUNDING[0]!.id,
      network: 'default',
      nodes: [{ key: KEYS.node.publicKey, addresses: ['10.0.0.1:9102'] }],
      zones: ['eu'],
      expires: Date.now() + 3_600_000,
      nonce: '00'.repeat(16),
    },
    KEYS.owner,
  )
  const forCallers = new Author(MESH_ID, KEYS.owner, OWNER_GRANT).grant(EDIT_KEY.publicKey, 'editor', {
    ws: 'shop',
    kinds: ['*', 'caller'],
  })
  await node.replica.submit([toWire(forCallers)], 'sync')
  await askToJoin(node.joins, KEYS.node.publicKey, KEYS.stranger, ticket)
})
afterAll(async () => {
  await node.stop()
})

test('is OpenAPI 3.1, with every route and nothing else', () => {
  expect(document.openapi).toBe('3.1.0')
  const documented = Object.entries(document.paths).flatMap(([path, operations]) =>
    Object.keys(operations).map((method) => `${method} ${path}`),
  )
  expect(documented.toSorted()).toEqual(ROUTES.map(({ method, path }) => `${method} ${path}`).toSorted())
  const ids = ROUTES.map(({ operationId }) => operationId)
  expect(new Set(ids).size).toBe(ids.length)
})

test('names every parameter of a path, and every reference is defined', () => {
  for (const [path, operations] of Object.entries(document.paths)) {
    for (const operation of Object.values(operations)) {
      const inPath = (operation.parameters ?? []).filter((parameter) => parameter.in === 'path').map(({ name }) => name)
      expect(inPath).toEqual([...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name))
    }
  }
  const references = [...JSON.stringify(document).matchAll(/"\$ref":"#\/components\/schemas\/(\w+)"/g)].map(
    ([, name]) => name,
  )
  expect(references.length).toBeGreaterThan(20)
  for (const name of references) expect(Object.keys(document.components.schemas)).toContain(name)
})

/** Requests that together make every route answer with every schema that it promises for success, and problems. */
const REQUESTS: readonly (readonly [route: string, path: string, status: number])[] = [
  ['/health', '/health', 200],
  ['/metrics', '/metrics', 200],
  ['/v1/node', '/v1/node', 200],
  ['/v1/genesis', '/v1/genesis', 200],
  ['/v1/resources', '/v1/resources', 200],
  ['/v1/resources/{workspace}/{zone}/{kind}/{name}', `/v1/resources/${SITE}`, 200],
  ['/v1/resources/{workspace}/{zone}/{kind}/{name}', '/v1/resources/default/eu.west/upstream/gone', 404],
  ['/v1/resources/{workspace}/{zone}/{kind}/{name}', '/v1/resources/default/eu.west/upstream/never', 404],
  ['/v1/workspaces', '/v1/workspaces', 200],
  ['/v1/peers', '/v1/peers', 200],
  ['/v1/receipts', '/v1/receipts', 200],
  ['/v1/edits', '/v1/edits', 200],
  ['/v1/edits', '/v1/edits?limit=0', 400],
  ['/v1/edits/{id}', `/v1/edits/${MESH_ID}`, 200],
  ['/v1/edits/{id}', `/v1/edits/${'0'.repeat(64)}`, 404],
  ['/v1/ids', `/v1/ids?text=${MESH_ID.slice(0, 8)}`, 200],
  ['/v1/ids', '/v1/ids?text=edge-1', 200],
  ['/v1/ids', '/v1/ids', 400],
  ['/v1/chains', `/v1/chains?author=${KEYS.owner.publicKey}`, 200],
  ['/v1/chains/{workspace}/{author}', `/v1/chains/default/${KEYS.owner.publicKey}`, 200],
  ['/v1/grants', '/v1/grants', 200],
  ['/v1/pending', '/v1/pending', 200],
  ['/v1/roots', '/v1/roots', 200],
  ['/v1/roots', '/v1/roots', 200],
  ['/v1/edits', '/v1/edits?bytes=1', 200],
  ['/v1/openapi.json', '/v1/openapi.json', 200],
]

test('every GET route is asked here, but for the event stream', () => {
  const asked = new Set(REQUESTS.map(([route]) => route))
  const readable = ROUTES.filter(({ method }) => method === 'get').map(({ path }) => path)
  expect(readable.filter((path) => !asked.has(path))).toEqual(['/v1/events'])
})

test.each(REQUESTS)('%s: the answer to %s is as described', async (route, path, status) => {
  expect(faultIn(route, 'get', await http(`unix:${node.socketPath}`, path), status)).toBeUndefined()
})

test('POST /v1/edits: answers are as described', async () => {
  const post = (body: string) =>
    http(`unix:${node.socketPath}`, '/v1/edits', {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body,
    })
  const stranger = editor(KEYS.stranger)([[SITE, [], [['set', '$', true]]]])
  expect(faultIn('/v1/edits', 'post', await post(submission(...FOUNDING)), 202)).toBeUndefined()
  expect(faultIn('/v1/edits', 'post', await post(submission(FOUNDING[0]!, stranger)), 207)).toBeUndefined()
  expect(faultIn('/v1/edits', 'post', await post(submission(stranger)), 403)).toBeUndefined()
  expect(faultIn('/v1/edits', 'post', await post('{}'), 400)).toBeUndefined()
})

test('PUT and DELETE of a resource: answers are as described', async () => {
  const route = '/v1/resources/{workspace}/{zone}/{kind}/{name}'
  const path = '/v1/resources/shop/eu.west/upstream/app'
  const write = async (method: 'PUT' | 'DELETE', headers: Record<string, string>, spec: object = {}) =>
    await http(node.url, path, {
      method,
      headers: { ...tokenOf(KEYS.owner, KEYS.node.publicKey), 'content-type': 'application/json', ...headers },
      body:
        method === 'DELETE' ? '' : JSON.stringify({ apiVersion: 'nxmesh/v1', kind: 'Upstream', metadata: {}, spec }),
    })
  const spec = { endpoints: { '10.0.0.1:80': {} } }
  const put = async (headers: Record<string, string>, status: number, body: object = spec) =>
    faultIn(route, 'put', await write('PUT', headers, body), status)
  expect(await put({}, 428)).toBeUndefined()
  expect(await put({ 'if-match': '*' }, 412)).toBeUndefined()
  expect(await put({ 'if-none-match': '*', 'content-type': 'text/plain' }, 415)).toBeUndefined()
  expect(await put({ 'if-none-match': '*' }, 422, { endpoints: 1 })).toBeUndefined()
  expect(await put({ 'if-none-match': '*' }, 201)).toBeUndefined()
  expect(await put({ 'if-match': '*' }, 200)).toBeUndefined()
  expect(await put({ 'if-match': '*' }, 200, { endpoints: { '10.0.0.1:80': { weight: 2 } } })).toBeUndefined()
  expect(faultIn(route, 'delete', await write('DELETE', { 'if-match': '*' }), 200)).toBeUndefined()
  expect(faultIn(route, 'delete', await write('DELETE', { 'if-match': '*' }), 404)).toBeUndefined()
  expect(await put({ ...tokenOf(KEYS.node, KEYS.node.publicKey), 'if-none-match': '*' }, 403)).toBeUndefined()
})

test('POST /v1/rejections: answers are as described', async () => {
  const post = (body: unknown) =>
    http(`unix:${node.socketPath}`, '/v1/rejections', { method: 'POST', body: JSON.stringify(body) })
  const [request] = node.joins.pending()
  const rejection = signRejection(FOUNDING[0]!.id, request!.id, KEYS.owner)
  expect(faultIn('/v1/rejections', 'post', await post({}), 400)).toBeUndefined()
  expect(faultIn('/v1/rejections', 'post', await post({ ...rejection, by: KEYS.node.publicKey }), 403)).toBeUndefined()
  expect(faultIn('/v1/rejections', 'post', await post(rejection), 200)).toBeUndefined()
  expect(faultIn('/v1/rejections', 'post', await post(rejection), 404)).toBeUndefined()
})

test('conflicts and lost writes are in the views', async () => {
  const site = (await http(`unix:${node.socketPath}`, `/v1/resources/${SITE}`)).json() as z.infer<
    (typeof SCHEMAS)['Resource']
  >
  expect(Object.keys(site.conflicts)).toEqual(['nodeSelector/x'])
  expect(site.heads).toHaveLength(2)
  const gone = (await http(`unix:${node.socketPath}`, '/v1/resources/default/eu.west/upstream/gone')).json() as z.infer<
    (typeof SCHEMAS)['ResourceGone']
  >
  expect(gone.resource?.lost).toMatchObject([{ field: 'method', value: 'random' }])
})

/** What in an answer is not as the document says; undefined when all is. */
function faultIn(route: string, method: string, answer: HttpAnswer, status: number): string | undefined {
  if (answer.status !== status) return `status ${answer.status}`
  const { responses } = document.paths[route]![method]!
  const content = (responses[status] ?? responses['default'])?.content ?? {}
  const type = String(answer.headers['content-type']).split(';')[0] as string
  if (!Object.hasOwn(content, type)) return `content type ${type}`
  const reference = content[type]?.schema?.$ref
  if (reference === undefined) return undefined
  const schema: z.ZodType = SCHEMAS[reference.replace('#/components/schemas/', '') as SchemaName]
  // Reading drops what a schema does not know: an equal result says that nothing was undocumented.
  const read = schema.safeParse(answer.json())
  if (!read.success) return read.error.message
  return isDeepStrictEqual(read.data, answer.json()) ? undefined : `more than the schema has: ${answer.text}`
}
