/**
 * Every route of the HTTP API in one table: path, parameters, answers with their schemas, handler. server.ts serves the
 * table and openapi.ts publishes it, so that the two cannot differ. Handlers read the state; writing is the replica's.
 */

import { createHash } from 'node:crypto'
import type { z } from 'zod'
import { toWire, wireFromJson } from '../core/codec.ts'
import { isHex, LIMITS, parseEnvelope, type Envelope, type WireEnvelope } from '../core/envelope.ts'
import { isResourcePath, isWorkspace, parseResourcePath, resourcePath, type ResourceName } from '../core/names.ts'
import { nearest } from '../core/resources/fields.ts'
import { kindOf } from '../core/resources/index.ts'
import { targetOf } from '../core/slice.ts'
import { MeshError } from '../errors.ts'
import type { Health } from '../health.ts'
import type { Metrics } from '../metrics.ts'
import type { Receipt } from '../reconciler.ts'
import type { Replica } from '../replica.ts'
import type { PeerView, StatusTable } from '../status.ts'
import type { ApiContext } from './bindings.ts'
import type { EventStream } from './events.ts'
import { openApiDocument } from './openapi.ts'
import { problemResponse, UNSUPPORTED_MEDIA_TYPE } from './problem.ts'
import * as schemas from './schemas.ts'
import * as views from './views.ts'

export const API_LIMITS = {
  /** Of a request; beyond it 413. */
  bodyBytes: 1024 * 1024,
  /** Envelopes of one request. */
  envelopes: 256,
  perPage: 1000,
  perPageDefault: 100,
} as const

/** What the node says of itself. */
export interface NodeInfo {
  readonly key: string
  readonly version: string
  readonly name: string | undefined
  /** As its grant and configuration give them. */
  readonly zones: readonly string[]
}

/** What the routes read and call. */
export interface RouteContext {
  readonly replica: Replica
  readonly status: StatusTable
  readonly receipt: () => Receipt | undefined
  readonly health: () => Health
  readonly converged: () => boolean
  /** False for a node whose grant was revoked: what it took in would spread no further. */
  readonly mayTakeEdits: () => boolean
  readonly metrics: Metrics
  readonly info: () => NodeInfo
  readonly events: EventStream
}

export interface Parameter {
  readonly name: string
  readonly in: 'path' | 'query'
  readonly description: string
  readonly type: 'string' | 'integer'
}

export interface Answer {
  readonly description: string
  /** Name of the schema among the document's components. */
  readonly schema?: SchemaName
  /** Default: application/json, and application/problem+json for errors. */
  readonly contentType?: string
}

export interface Route {
  readonly method: 'get' | 'post'
  /** As in OpenAPI: `/v1/edits/{id}`. */
  readonly path: string
  readonly operationId: string
  readonly summary: string
  readonly parameters: readonly Parameter[]
  readonly body?: SchemaName
  /** By status. Errors that any route may give are added by openapi.ts. */
  readonly answers: Readonly<Record<number, Answer>>
  readonly handle: (c: ApiContext, context: RouteContext) => Response | Promise<Response>
}

/** The schemas of the document's components, by name. */
export const SCHEMAS = {
  Problem: schemas.PROBLEM,
  Health: schemas.HEALTH_ANSWER,
  Node: schemas.NODE,
  Resource: schemas.RESOURCE,
  Resources: schemas.RESOURCES,
  ResourceGone: schemas.RESOURCE_GONE,
  Peers: schemas.PEERS,
  Receipts: schemas.RECEIPTS,
  Edits: schemas.EDITS,
  StoredEdit: schemas.STORED_EDIT,
  Submission: schemas.SUBMISSION,
  Outcomes: schemas.OUTCOMES,
  Chain: schemas.CHAIN,
  Chains: schemas.CHAINS,
  Grants: schemas.GRANTS,
} as const satisfies Record<string, z.ZodType>
export type SchemaName = keyof typeof SCHEMAS

const PAGING: readonly Parameter[] = [
  { name: 'page', in: 'query', description: 'from 1', type: 'integer' },
  { name: 'per_page', in: 'query', description: `at most ${API_LIMITS.perPage}`, type: 'integer' },
]

function query(name: string, description: string, type: Parameter['type'] = 'string'): Parameter {
  return { name, in: 'query', description, type }
}

function inPath(name: string, description: string): Parameter {
  return { name, in: 'path', description, type: 'string' }
}

/** Every route. */
export const ROUTES: readonly Route[] = [
  {
    method: 'get',
    path: '/health',
    operationId: 'getHealth',
    summary: 'Whether this node does its work; 503 only when it does not serve or cannot write.',
    parameters: [query('converged', '1: also 503 until the desired configuration is applied', 'integer')],
    answers: {
      200: { description: 'Running, Degraded or Unknown', schema: 'Health' },
      503: { description: 'Error, or not converged', schema: 'Health', contentType: 'application/json' },
    },
    handle: (c, context) => {
      const converged = context.converged()
      const health = context.health()
      const isWanting = c.req.query('converged') === '1' && !converged
      return c.json({ ...health, converged }, health.status === 'Error' || isWanting ? 503 : 200)
    },
  },
  {
    method: 'get',
    path: '/metrics',
    operationId: 'getMetrics',
    summary: 'Metrics in the text format of Prometheus.',
    parameters: [],
    answers: { 200: { description: 'metrics', contentType: 'text/plain' } },
    handle: async (c, context) => {
      const { metrics } = context
      return c.body(await metrics.text(), 200, { 'content-type': metrics.contentType })
    },
  },
  {
    method: 'get',
    path: '/v1/node',
    operationId: 'getNode',
    summary: 'This node: key, version, mesh, zones.',
    parameters: [],
    answers: { 200: { description: 'the node', schema: 'Node' } },
    handle: (c, context) => c.json(nodeView(context)),
  },
  {
    method: 'get',
    path: '/v1/genesis',
    operationId: 'getGenesis',
    summary: 'The envelope that began this mesh; its id is the mesh id.',
    parameters: [],
    answers: {
      200: { description: 'the genesis', schema: 'StoredEdit' },
      404: { description: 'the node has no mesh yet' },
    },
    handle: (c, context) => {
      const { genesis } = context.replica.state.history
      if (genesis === undefined) throw notFound('this node has no mesh yet', 'Give it one: meshctl push genesis.json')
      return c.json(storedEdit(context, genesis))
    },
  },
  {
    method: 'get',
    path: '/v1/resources',
    operationId: 'listResources',
    summary: 'Existing resources, sorted by path.',
    parameters: [
      query('workspace', 'only of this workspace'),
      query('zone', 'only of exactly this zone'),
      query('kind', 'only of this kind, by any of its names'),
      query('name', 'only of this name'),
      ...PAGING,
    ],
    answers: { 200: { description: 'a page of resources', schema: 'Resources' } },
    handle: async (c, context) => {
      await context.replica.fresh()
      return c.json(views.pageOf(matching(context, c), paging(c), views.resourceView))
    },
  },
  {
    method: 'get',
    path: '/v1/resources/{workspace}/{zone}/{kind}/{name}',
    operationId: 'getResource',
    summary: 'One resource with its heads, conflicts and lost writes.',
    parameters: [
      inPath('workspace', 'a workspace'),
      inPath('zone', 'a zone, or * as %2A'),
      inPath('kind', 'a kind as in resource paths'),
      inPath('name', 'a name'),
    ],
    answers: {
      200: { description: 'the resource; its ETag changes with its heads', schema: 'Resource' },
      304: { description: 'its heads are those of If-None-Match' },
      404: { description: 'never existed, or was deleted: then with its heads', schema: 'ResourceGone' },
    },
    handle: (c, context) => resource(context, c),
  },
  {
    method: 'get',
    path: '/v1/peers',
    operationId: 'listPeers',
    summary: 'All nodes as this one knows them, itself included.',
    parameters: PAGING,
    answers: { 200: { description: 'a page of nodes', schema: 'Peers' } },
    handle: (c, context) =>
      c.json(views.pageOf(allNodes(context), paging(c), (node) => views.peerView(node, isSelf(context, node)))),
  },
  {
    method: 'get',
    path: '/v1/receipts',
    operationId: 'listReceipts',
    summary: 'What every node has applied, in its own words, beside what it should.',
    parameters: PAGING,
    answers: { 200: { description: 'a page of receipts', schema: 'Receipts' } },
    handle: async (c, context) => {
      await context.replica.fresh()
      const expected = targets(context)
      return c.json(views.pageOf(allNodes(context), paging(c), (node) => receiptView(context, node, expected)))
    },
  },
  {
    method: 'get',
    path: '/v1/edits',
    operationId: 'listEdits',
    summary: 'Stored envelopes in the order in which this node took them, with verdicts.',
    parameters: [
      query('after', 'an envelope id: only what comes after it'),
      query('limit', `at most ${API_LIMITS.perPage}`, 'integer'),
      query('author', 'only of this public key'),
      query('resource', 'only edits of this resource path'),
      query('order', 'asc (default), or desc for the newest first'),
    ],
    answers: { 200: { description: 'envelopes, summarised', schema: 'Edits' } },
    handle: (c, context) => c.json(edits(context, c)),
  },
  {
    method: 'get',
    path: '/v1/edits/{id}',
    operationId: 'getEdit',
    summary: 'One envelope as stored: bytes and signatures.',
    parameters: [inPath('id', 'an envelope id')],
    answers: {
      200: { description: 'the envelope', schema: 'StoredEdit' },
      404: { description: 'this node does not have it' },
    },
    handle: (c, context) => {
      const id = hex(c.req.param('id') ?? '', 'id')
      const envelope = context.replica.state.history.get(id)
      if (envelope === undefined) throw notFound(`this node has no envelope ${id}`)
      return c.json(storedEdit(context, envelope))
    },
  },
  {
    method: 'post',
    path: '/v1/edits',
    operationId: 'submitEdits',
    summary: 'Takes signed envelopes. Those that are stored are durable when this answers.',
    parameters: [],
    body: 'Submission',
    answers: {
      202: { description: 'each was stored, known, or waits for others', schema: 'Outcomes' },
      207: { description: 'of several envelopes some were refused; see each', schema: 'Outcomes' },
      403: { description: 'the one envelope was refused by policy' },
      429: { description: 'the author of the one envelope makes too many' },
    },
    handle: (c, context) => submit(context, c),
  },
  {
    method: 'get',
    path: '/v1/chains',
    operationId: 'listChains',
    summary: 'The chains of one author in all workspaces.',
    parameters: [query('author', 'public key; required'), ...PAGING],
    answers: { 200: { description: 'a page of chains', schema: 'Chains' } },
    handle: (c, context) => {
      const { history } = context.replica.state
      const author = hex(c.req.query('author') ?? '', 'author')
      const chains = [...history.chains()].filter((chain) => chain.author === author)
      const sorted = chains.toSorted((a, b) => (a.workspace < b.workspace ? -1 : 1))
      return c.json(views.pageOf(sorted, paging(c), (chain) => views.chainView(history, chain)))
    },
  },
  {
    method: 'get',
    path: '/v1/chains/{workspace}/{author}',
    operationId: 'getChain',
    summary: 'Where an author’s next envelope in a workspace continues; an empty chain for one who made none.',
    parameters: [inPath('workspace', 'a workspace, or * as %2A'), inPath('author', 'public key')],
    answers: { 200: { description: 'the chain', schema: 'Chain' } },
    handle: (c, context) => {
      const { history } = context.replica.state
      const workspace = c.req.param('workspace') ?? ''
      if (workspace !== '*' && !isWorkspace(workspace)) throw invalid('workspace', workspace, 'is not a workspace or *')
      const author = hex(c.req.param('author') ?? '', 'author')
      const none = { workspace, author, ids: [], highestN: 0, heads: [], forks: 0 }
      return c.json(views.chainView(history, history.chain(workspace, author) ?? none))
    },
  },
  {
    method: 'get',
    path: '/v1/grants',
    operationId: 'listGrants',
    summary: 'Grants in force: who may do what.',
    parameters: [query('subject', 'only of this public key'), ...PAGING],
    answers: { 200: { description: 'a page of grants', schema: 'Grants' } },
    handle: (c, context) => {
      const { history, policy } = context.replica.state
      const subject = c.req.query('subject')
      const subjects = subject === undefined ? [...history.subjects()].toSorted() : [hex(subject, 'subject')]
      const grants = subjects.flatMap((key) => policy.activeGrants(key))
      return c.json(views.pageOf(grants, paging(c), views.grantView))
    },
  },
  {
    method: 'get',
    path: '/v1/events',
    operationId: 'streamEvents',
    summary: 'Server-sent events: hello, edit, resource, policy, peer, receipt, health. Nothing is replayed.',
    parameters: [],
    answers: {
      200: { description: 'the stream', contentType: 'text/event-stream' },
      503: { description: 'too many clients listen already' },
    },
    handle: (c, context) => {
      const { outgoing } = c.env
      const isRead = c.req.method === 'GET'
      const stream = isRead ? context.events.open(nodeView(context), () => outgoing.destroy()) : null
      const headers = {
        'content-type': 'text/event-stream',
        'cache-control': 'no-store',
        // A stream ends with its connection, so that a stopping server has not to wait for an idle one.
        connection: 'close',
        'x-accel-buffering': 'no',
      }
      return new Response(stream, { headers })
    },
  },
  {
    method: 'get',
    path: '/v1/openapi.json',
    operationId: 'getOpenApi',
    summary: 'This description.',
    parameters: [],
    answers: { 200: { description: 'OpenAPI 3.1', contentType: 'application/json' } },
    handle: (c, context) => c.json(openApiDocument(ROUTES, SCHEMAS, context.info().version)),
  },
]

/** The label values of HTTP metrics. */
export const ROUTE_PATHS: readonly string[] = ROUTES.map(({ path }) => path)

/** @throws MeshError `input_invalid` for a query parameter that the route does not have. */
export function checkQuery(route: Route, search: Readonly<Record<string, string>>): void {
  const known = route.parameters.filter((parameter) => parameter.in === 'query').map(({ name }) => name)
  const unknown = Object.keys(search).find((name) => !known.includes(name))
  if (unknown === undefined) return
  const close = nearest(unknown, known)
  const hint = close === undefined ? `Known: ${known.join(', ') || 'none'}.` : `Did you mean ${close}?`
  throw new MeshError('input_invalid', `${unknown} is not a parameter of ${route.path}`, { field: unknown, hint })
}

// ---------------------------------------------------------------------------------------------- reading

function nodeView({ replica, info }: RouteContext): schemas.NodeView {
  const { key, name, version, zones } = info()
  const { history } = replica.state
  return {
    key,
    name: name ?? null,
    version,
    meshId: replica.state.meshId ?? null,
    meshName: history.genesis?.body.name ?? null,
    zones: [...zones],
    envelopes: history.size,
    waiting: replica.pendingCount,
    stateHash: replica.state.hash(),
  }
}

function matching({ replica }: RouteContext, c: ApiContext) {
  const { workspace, zone, kind, name } = c.req.query()
  const wanted = kind === undefined ? undefined : (kindOf(kind)?.path ?? kind)
  return replica.state.resources().filter(({ path }) => {
    const parts = parseResourcePath(path) as ResourceName
    return (
      (workspace ?? parts.workspace) === parts.workspace &&
      (zone ?? parts.zone) === parts.zone &&
      (wanted ?? parts.kind) === parts.kind &&
      (name ?? parts.name) === parts.name
    )
  })
}

function resource({ replica }: RouteContext, c: ApiContext): Response {
  const { workspace, zone, kind, name } = c.req.param() as Record<keyof ResourceName, string>
  const path = resourcePath({ workspace, zone, kind, name })
  if (!isResourcePath(path)) throw invalid('path', path, 'is not workspace/zone/kind/name')
  const state = replica.state.resource(path)
  if (state === undefined) throw notFound(`there is no ${path}`)
  const view = views.resourceView(state)
  if (!state.exists) return problemResponse(notFound(`${path} was deleted`), { extra: { resource: view } })
  const etag = `"${createHash('sha256').update(state.heads.join()).digest('hex').slice(0, 32)}"`
  const isKnown =
    c.req
      .header('if-none-match')
      ?.split(/\s*,\s*/)
      .includes(etag) === true
  return isKnown ? c.body(null, 304, { etag }) : c.json(view, 200, { etag })
}

/** This node first, then the others by key. */
function allNodes({ status, info, receipt, health, replica }: RouteContext): PeerView[] {
  const { key, name, version, zones } = info()
  const record = status.own() ?? {
    v: 1,
    mesh: replica.state.meshId ?? '',
    node: key,
    incarnation: 0,
    sequence: 0,
    at: 0,
    addresses: [],
    labels: {},
    digest: '',
    leaving: false,
  }
  const own = { ...record, version, zones, receipt: receipt() ?? null, health: health() } as const
  return [{ key, name, state: 'Ready', ageMs: 0, connected: true, record: own }, ...status.peers()]
}

function isSelf({ info }: RouteContext, node: PeerView): boolean {
  return node.key === info().key
}

function receiptView(
  context: RouteContext,
  node: PeerView,
  expected: (node: PeerView) => string | null,
): schemas.NodeReceipt {
  const { key, name, self, state, ageMs, zones, health } = views.peerView(node, isSelf(context, node))
  const receipt = (node.record?.receipt ?? null) as schemas.ReceiptView | null
  return { key, name, self, state, ageMs, zones, health, target: expected(node), receipt }
}

/** The target of any node, from the state that this node has: the one rule that the node itself follows. */
function targets({ replica }: RouteContext): (node: PeerView) => string | null {
  const { state } = replica
  const resources = state.resources()
  const known = new Map<string, string>()
  return ({ key, record }) => {
    if (record === undefined) return null
    const grants = state.policy.activeGrants(key).filter(({ body }) => body.role === 'node')
    const workspaces = [...new Set(grants.map(({ body }) => body.ws))].toSorted()
    const scope = JSON.stringify([record.zones, workspaces])
    const target = known.get(scope) ?? targetOf(resources, { zones: record.zones, workspaces, labels: {} })
    known.set(scope, target)
    return target
  }
}

function edits({ replica }: RouteContext, c: ApiContext): z.infer<typeof schemas.EDITS> {
  const { history, policy } = replica.state
  const { author, resource: path, after, order = 'asc' } = c.req.query()
  if (author !== undefined) hex(author, 'author')
  if (path !== undefined && !isResourcePath(path)) throw invalid('resource', path, 'is not workspace/zone/kind/name')
  if (order !== 'asc' && order !== 'desc') throw invalid('order', order, 'must be asc or desc')
  const limit = integer(c, 'limit', API_LIMITS.perPageDefault, API_LIMITS.perPage)
  const ids = path === undefined ? history.order : history.editsOf(path)
  const found: Envelope[] = []
  let index = startOf(history.positionOf.bind(history), ids, after, order)
  for (
    const step = order === 'asc' ? 1 : -1;
    found.length <= limit && index >= 0 && index < ids.length;
    index += step
  ) {
    const envelope = history.get(ids[index] as string) as Envelope
    const by = envelope.body.type === 'genesis' ? undefined : envelope.body.by
    if (author === undefined || author === by) found.push(envelope)
  }
  const shown = found.slice(0, limit)
  return {
    data: shown.map((envelope) => views.editView(policy, envelope)),
    next: found.length > limit ? (shown.at(-1)?.id ?? null) : null,
  }
}

/** Index in `ids` of the first envelope of a page. */
function startOf(
  positionOf: (id: string) => number | undefined,
  ids: readonly string[],
  after: string | undefined,
  order: 'asc' | 'desc',
): number {
  if (after === undefined) return order === 'asc' ? 0 : ids.length - 1
  const position = positionOf(hex(after, 'after'))
  if (position === undefined) throw invalid('after', after, 'is not an envelope of this node')
  const isBeyond = (id: string): boolean => {
    const other = positionOf(id) as number
    return order === 'asc' ? other > position : other < position
  }
  return order === 'asc' ? firstIndex(ids, isBeyond) : ids.findLastIndex(isBeyond)
}

function firstIndex(ids: readonly string[], test: (id: string) => boolean): number {
  const index = ids.findIndex(test)
  return index === -1 ? ids.length : index
}

function storedEdit({ replica }: RouteContext, envelope: Envelope): z.infer<typeof schemas.STORED_EDIT> {
  return { id: envelope.id, envelope: toWire(envelope), verdict: views.verdictView(replica.state.policy, envelope) }
}

// ---------------------------------------------------------------------------------------------- writing

async function submit({ replica, mayTakeEdits }: RouteContext, c: ApiContext): Promise<Response> {
  if (!mayTakeEdits()) {
    throw new MeshError('denied', 'this node’s grant was revoked, so it takes no edits', {
      hint: 'Give another node of the mesh with --api.',
    })
  }
  const mediaType = c.req.header('content-type')?.split(';')[0]?.trim().toLowerCase()
  if (mediaType !== 'application/json') {
    const error = new MeshError(
      'input_invalid',
      `the content type ${JSON.stringify(mediaType ?? '')} is not supported`,
      {
        field: 'content-type',
        hint: 'Send application/json.',
      },
    )
    return problemResponse(error, { status: UNSUPPORTED_MEDIA_TYPE })
  }
  const wires = parseSubmission(await readBody(c.req.raw))
  await adoptGenesis(replica, wires[0])
  const outcomes = await replica.submit(wires, 'api')
  const [only] = outcomes
  if (outcomes.length === 1 && only?.outcome === 'refused') throw new MeshError(only.code, only.reason)
  const isMixed = outcomes.some(({ outcome }) => outcome === 'refused')
  return c.json({ outcomes: outcomes.map(views.outcomeView) }, isMixed ? 207 : 202)
}

/** A node without a mesh takes the first genesis that somebody on its host gives it; a pinned mesh id takes only its own. */
async function adoptGenesis(replica: Replica, first: WireEnvelope | undefined): Promise<void> {
  if (first === undefined || replica.state.meshId !== undefined) return
  const isGenesis = parseEnvelope(first, replica.meshId).body.type === 'genesis'
  if (isGenesis) await replica.adopt(first)
}

/** @throws MeshError `too_large` beyond the limit; the connection is then of no further use. */
async function readBody(request: Request): Promise<string> {
  const announced = Number(request.headers.get('content-length') ?? 0)
  const chunks: Uint8Array[] = []
  let size = announced
  if (size <= API_LIMITS.bodyBytes && request.body !== null) {
    size = 0
    for await (const chunk of request.body) {
      size += chunk.length
      if (size > API_LIMITS.bodyBytes) break
      chunks.push(chunk)
    }
  }
  if (size > API_LIMITS.bodyBytes) {
    throw new MeshError('too_large', `the request is over ${API_LIMITS.bodyBytes} bytes`, {
      field: 'body',
      hint: `Send fewer envelopes at once; each may have ${LIMITS.bodyBytes} bytes.`,
    })
  }
  return Buffer.concat(chunks).toString('utf8')
}

function parseSubmission(text: string): WireEnvelope[] {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (error) {
    throw new MeshError('input_invalid', `the body is not JSON: ${(error as Error).message}`, { field: 'body' }, error)
  }
  const { envelopes, ...rest } = (typeof value === 'object' && value !== null ? value : {}) as Record<string, unknown>
  const [unknown] = Object.keys(rest)
  if (unknown !== undefined) throw invalid(unknown, '', 'is not a member of a submission; only envelopes is')
  if (!Array.isArray(envelopes) || envelopes.length === 0 || envelopes.length > API_LIMITS.envelopes) {
    throw new MeshError('input_invalid', `envelopes must be a list of 1 to ${API_LIMITS.envelopes} envelopes`, {
      field: 'envelopes',
      hint: 'Send {"envelopes": [{"bytes": "...", "sigs": {"...": "..."}}]}.',
    })
  }
  return envelopes.map((envelope, index) => wireFromJson(envelope, `envelopes[${index}]`))
}

// ---------------------------------------------------------------------------------------------- parameters

function paging(c: ApiContext): views.Paging {
  return {
    page: integer(c, 'page', 1, 1_000_000),
    perPage: integer(c, 'per_page', API_LIMITS.perPageDefault, API_LIMITS.perPage),
  }
}

function integer(c: ApiContext, name: string, otherwise: number, max: number): number {
  const text = c.req.query(name)
  if (text === undefined) return otherwise
  const number = /^\d{1,9}$/.test(text) ? Number(text) : 0
  if (number < 1 || number > max) throw invalid(name, text, `must be a whole number from 1 to ${max}`)
  return number
}

function hex(value: string, field: string): string {
  if (!isHex(value, 64)) throw invalid(field, value, 'must be 64 lower-case hex digits')
  return value
}

function invalid(field: string, value: string, message: string): MeshError {
  return new MeshError('input_invalid', `${field} ${message}`, { field, value: value.slice(0, 100) })
}

function notFound(message: string, hint?: string): MeshError {
  return new MeshError('not_found', message, hint === undefined ? {} : { hint })
}
