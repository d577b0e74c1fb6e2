/**
 * What each reading route answers, by the name of its operation: picks from state, status and policy, and shapes it with
 * views.ts. Writes nothing; the ways in are submit.ts and writes.ts. Called through the table of routes.ts.
 */

import type { z } from 'zod'
import { toWire } from '../core/codec.ts'
import type { Envelope } from '../core/envelope.ts'
import type { Chain } from '../core/history.ts'
import { isResourcePath, isWorkspace, parseResourcePath, workspaceOf, type ResourceName } from '../core/names.ts'
import { kindOf } from '../core/resources/index.ts'
import { type Place } from '../core/slice.ts'
import { targetOf } from '../core/slicing.ts'
import { forkedChains } from '../status/forks.ts'
import type { PeerView } from '../status/status.ts'
import { mayReadPath, workspaceOfBody } from './access.ts'
import { idsLike, isIdText, ID_FORM } from './ids.ts'
import { hex, integer, invalid, notFound, paging, PAGE_LIMITS, resourceIn } from './parameters.ts'
import { etagOf, tagsIn } from './preconditions.ts'
import { problemResponse } from './problem.ts'
import type { ApiContext, Handler, RouteContext } from './route.ts'
import type * as schemas from './schemas.ts'
import * as views from './views.ts'

// ---------------------------------------------------------------------------------------------- the node

export const getHealth: Handler = (c, context) => {
  const converged = context.converged()
  const health = context.health()
  const isWanting = c.req.query('converged') === '1' && !converged
  const mesh = context.replica.state.meshId ?? null
  return c.json({ ...health, converged, mesh }, health.status === 'Error' || isWanting ? 503 : 200)
}

export const getMetrics: Handler = async (c, { metrics }) => {
  const text = await metrics.text((workspace) => c.get('reader').mayRead(workspace))
  return c.body(text, 200, { 'content-type': metrics.contentType })
}

export const getNode: Handler = (c, context) => c.json(nodeView(context))

function nodeView({ replica, info }: RouteContext): schemas.NodeView {
  const { key, name, version, networkId, zones } = info()
  const { history } = replica.state
  return {
    key,
    name: name ?? null,
    version,
    networkId,
    meshId: replica.state.meshId ?? null,
    meshName: history.genesis?.body.name ?? null,
    zones: [...zones],
    envelopes: history.size,
    waiting: replica.pendingCount,
    stateHash: replica.state.hash(),
  }
}

export const streamEvents: Handler = (c, context) => {
  const { outgoing } = c.env
  const isRead = c.req.method === 'GET'
  const stream = isRead ? context.events.open(nodeView(context), c.get('reader'), () => outgoing.destroy()) : null
  const headers = {
    'content-type': 'text/event-stream',
    'cache-control': 'no-store',
    // A stream ends with its connection, so that a stopping server has not to wait for an idle one.
    connection: 'close',
    'x-accel-buffering': 'no',
  }
  return new Response(stream, { headers })
}

// ---------------------------------------------------------------------------------------------- resources

export const listResources: Handler = async (c, { replica }) => {
  const { workspace, zone, kind, name } = c.req.query()
  const wanted = kind === undefined ? undefined : (kindOf(kind)?.path ?? kind)
  const reader = c.get('reader')
  const found = (await replica.fresh()).resources().filter(({ path }) => {
    const parts = parseResourcePath(path) as ResourceName
    return (
      reader.mayRead(parts.workspace) &&
      (workspace ?? parts.workspace) === parts.workspace &&
      (zone ?? parts.zone) === parts.zone &&
      (wanted ?? parts.kind) === parts.kind &&
      (name ?? parts.name) === parts.name
    )
  })
  return c.json(views.pageOf(found, paging(c), views.resourceView))
}

export const getResource: Handler = (c, { replica }) => {
  const path = resourceIn(c)
  const state = mayReadPath(c.get('reader'), path) ? replica.state.resource(path) : undefined
  if (state === undefined) throw notFound(`there is no ${path}`)
  const view = views.resourceView(state)
  if (!state.exists) return problemResponse(notFound(`${path} was deleted`), { extra: { resource: view } })
  const etag = etagOf(state)
  const isKnown = tagsIn(c.req.header('if-none-match')).includes(etag)
  return isKnown ? c.body(null, 304, { etag }) : c.json(view, 200, { etag })
}

/** Exists from the start. */
const FIRST_WORKSPACE = 'default'

export const listWorkspaces: Handler = async (c, { replica }) => {
  const { history, policy } = replica.state
  const granted = [...history.subjects()].flatMap((key) => policy.activeGrants(key)).map(({ body }) => body.ws)
  const named = [FIRST_WORKSPACE, ...[...history.resourcePaths()].map(workspaceOf), ...granted]
  const reader = c.get('reader')
  const visible = named.filter((name) => isWorkspace(name) && reader.mayRead(name))
  const counts = new Map(visible.map((name) => [name, 0]))
  for (const { path } of (await replica.fresh()).resources()) {
    const name = workspaceOf(path)
    if (reader.mayRead(name)) counts.set(name, (counts.get(name) ?? 0) + 1)
  }
  const sorted = [...counts].toSorted(([a], [b]) => (a < b ? -1 : 1))
  return c.json(views.pageOf(sorted, paging(c), ([name, resources]) => ({ name, resources })))
}

// ---------------------------------------------------------------------------------------------- nodes

export const listPeers: Handler = (c, context) =>
  c.json(views.pageOf(allNodes(context), paging(c), (node) => peerView(context, node)))

export const listReceipts: Handler = async (c, context) => {
  await context.replica.fresh()
  const targetOf = targets(context)
  const itemOf = (node: PeerView): schemas.NodeReceipt => {
    const { key, name, self, state, ageMs, zones, ungrantedZones, places, health } = peerView(context, node)
    const receipt = views.receiptView(node.record?.receipt ?? null, c.get('reader'))
    const target = node.record === undefined ? null : targetOf(places)
    return { key, name, self, state, ageMs, zones, ungrantedZones, places, health, target, receipt }
  }
  return c.json(views.pageOf(allNodes(context), paging(c), itemOf))
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

function peerView({ info, membership }: RouteContext, node: PeerView): schemas.PeerItem {
  const places = membership.placesOf(node.key, node.record?.zones ?? [])
  return views.peerView(node, places, node.key === info().key)
}

/** The target of a node that stands there, from the state that this node has: the one rule that the node itself follows. */
function targets({ replica }: RouteContext): (places: readonly Place[]) => string {
  const resources = replica.state.resources()
  const known = new Map<string, string>()
  return (places) => {
    const all = JSON.stringify(places)
    const target = known.get(all) ?? targetOf(resources, places)
    known.set(all, target)
    return target
  }
}

// ---------------------------------------------------------------------------------------------- envelopes

export const getGenesis: Handler = (c, context) => {
  const { genesis } = context.replica.state.history
  if (genesis === undefined) throw notFound('this node has no mesh yet', 'Give it one: meshctl push genesis.json')
  return c.json(storedEdit(context, genesis))
}

export const getEdit: Handler = (c, context) => {
  const id = hex(c.req.param('id') ?? '', 'id')
  const envelope = context.replica.state.history.get(id)
  const isVisible = envelope !== undefined && mayRead(c, envelope)
  if (!isVisible) throw notFound(`this node has no envelope ${id}`)
  return c.json(storedEdit(context, envelope))
}

function mayRead(c: ApiContext, { body }: Envelope): boolean {
  return c.get('reader').mayRead(workspaceOfBody(body))
}

function storedEdit({ replica }: RouteContext, envelope: Envelope): z.infer<typeof schemas.STORED_EDIT> {
  return { id: envelope.id, envelope: toWire(envelope), verdict: views.verdictView(replica.state, envelope) }
}

export const listEdits: Handler = (c, { replica }) => {
  const { history } = replica.state
  const { author, resource: path, after, order = 'asc' } = c.req.query()
  if (author !== undefined) hex(author, 'author')
  if (path !== undefined && !isResourcePath(path)) throw invalid('resource', path, 'is not workspace/zone/kind/name')
  if (order !== 'asc' && order !== 'desc') throw invalid('order', order, 'must be asc or desc')
  const limit = integer(c, 'limit', PAGE_LIMITS.default)
  const isVisible = path === undefined || mayReadPath(c.get('reader'), path)
  const ids = path === undefined ? history.order : isVisible ? history.editsOf(path) : []
  const found: Envelope[] = []
  const last = after === undefined ? undefined : history.get(hex(after, 'after'))
  const isHere = after === undefined || (last !== undefined && mayRead(c, last))
  if (!isHere) throw invalid('after', after, 'is not an envelope of this node')
  let index = startOf(history.positionOf.bind(history), ids, last?.id, order)
  for (
    const step = order === 'asc' ? 1 : -1;
    found.length <= limit && index >= 0 && index < ids.length;
    index += step
  ) {
    const envelope = history.get(ids[index] as string) as Envelope
    const by = envelope.body.type === 'genesis' ? undefined : envelope.body.by
    if ((author === undefined || author === by) && mayRead(c, envelope)) found.push(envelope)
  }
  const shown = found.slice(0, limit)
  return c.json({
    data: shown.map((envelope) => ({
      ...views.editView(replica.state, envelope),
      ...(c.req.query('bytes') === '1' ? { envelope: toWire(envelope) } : {}),
    })),
    next: found.length > limit ? (shown.at(-1)?.id ?? null) : null,
  } satisfies z.infer<typeof schemas.EDITS>)
}

/** Index in `ids` of the first envelope of a page. `after` is a stored envelope. */
function startOf(
  positionOf: (id: string) => number | undefined,
  ids: readonly string[],
  after: string | undefined,
  order: 'asc' | 'desc',
): number {
  if (after === undefined) return order === 'asc' ? 0 : ids.length - 1
  const position = positionOf(after) as number
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

export const findIds: Handler = (c, context) => {
  const text = c.req.query('text') ?? ''
  if (!isIdText(text)) throw invalid('text', text, `must be ${ID_FORM}`)
  const nodes = allNodes(context).map(({ key }) => key)
  return c.json(views.pageOf(idsLike(text, context.replica.state, nodes, c.get('reader')), paging(c), (id) => id))
}

// ---------------------------------------------------------------------------------------------- authority

export const listChains: Handler = (c, { replica }) => {
  const { state } = replica
  const isForked = c.req.query('forked') === '1'
  const author = c.req.query('author') ?? (isForked ? undefined : '')
  if (author !== undefined) hex(author, 'author')
  const reader = c.get('reader')
  const chains = (isForked ? forkedChains(state) : [...state.history.chains()]).filter(
    (chain) => (author === undefined || chain.author === author) && reader.mayRead(chain.workspace),
  )
  const placeOf = (chain: Chain): string => `${chain.workspace} ${chain.author}`
  const sorted = chains.toSorted((a, b) => (placeOf(a) < placeOf(b) ? -1 : 1))
  return c.json(views.pageOf(sorted, paging(c), (chain) => views.chainView(state.history, chain)))
}

export const getChain: Handler = (c, { replica }) => {
  const { history } = replica.state
  const workspace = c.req.param('workspace') ?? ''
  if (workspace !== '*' && !isWorkspace(workspace)) throw invalid('workspace', workspace, 'is not a workspace or *')
  const author = hex(c.req.param('author') ?? '', 'author')
  const none = { workspace, author, ids: [], highestN: 0, heads: [], forks: 0 }
  const chain = c.get('reader').mayRead(workspace) ? history.chain(workspace, author) : undefined
  return c.json(views.chainView(history, chain ?? none))
}

export const listGrants: Handler = (c, { replica }) => {
  const { history, policy } = replica.state
  const subject = c.req.query('subject')
  const subjects = subject === undefined ? [...history.subjects()].toSorted() : [hex(subject, 'subject')]
  const grants = subjects.flatMap((key) => policy.activeGrants(key)).filter((grant) => mayRead(c, grant))
  return c.json(views.pageOf(grants, paging(c), views.grantView))
}
