/**
 * Every route of the HTTP API in one table: path, parameters, answers with their schemas, handler. server.ts serves the
 * table and openapi.ts describes it, so that the two cannot differ. What is answered is in handlers.ts, submit.ts and writes.ts.
 */

import * as handlers from './handlers.ts'
import { ID_FORM } from './ids.ts'
import { listPending, rejectPending } from './joins.ts'
import { openApiDocument } from './openapi.ts'
import { PAGE_LIMITS } from './parameters.ts'
import { getRoots } from './roots.ts'
import type { Parameter, Route } from './route.ts'
import { SCHEMAS } from './schemas.ts'
import { submitEdits } from './submit.ts'
import { deleteResource, putResource } from './writes.ts'

const PAGING: readonly Parameter[] = [
  { name: 'page', in: 'query', description: 'from 1', type: 'integer' },
  { name: 'per_page', in: 'query', description: `at most ${PAGE_LIMITS.most}`, type: 'integer' },
]

function query(name: string, description: string, type: Parameter['type'] = 'string'): Parameter {
  return { name, in: 'query', description, type }
}

function inPath(name: string, description: string): Parameter {
  return { name, in: 'path', description, type: 'string' }
}

function inHeader(name: string, description: string): Parameter {
  return { name, in: 'header', description, type: 'string' }
}

const RESOURCE: readonly Parameter[] = [
  inPath('workspace', 'a workspace'),
  inPath('zone', 'a zone, or * as %2A'),
  inPath('kind', 'a kind as in resource paths'),
  inPath('name', 'a name'),
]

/** Of the requests that the node signs an edit for. */
const PLAIN_EDIT: readonly Parameter[] = [
  query('note', 'why; kept in the history behind the name of the caller'),
  query('dry_run', 'true: only says what would change', 'boolean'),
]

const WRITE_REFUSALS: Route['answers'] = {
  403: { description: 'the node has no edit key, or the caller or the key may not make this edit' },
  412: { description: 'the resource is not as If-Match or If-None-Match says' },
  413: { description: 'more than one edit holds' },
  428: { description: 'the header that says what the edit rests on is missing' },
  429: { description: 'the caller, or the edit key, makes too many' },
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
    handle: handlers.getHealth,
  },
  {
    method: 'get',
    path: '/metrics',
    operationId: 'getMetrics',
    summary: 'Metrics in the text format of Prometheus.',
    parameters: [],
    answers: { 200: { description: 'metrics', contentType: 'text/plain' } },
    handle: handlers.getMetrics,
  },
  {
    method: 'get',
    path: '/v1/node',
    operationId: 'getNode',
    summary: 'This node: key, version, mesh, zones.',
    parameters: [],
    answers: { 200: { description: 'the node', schema: 'Node' } },
    handle: handlers.getNode,
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
    handle: handlers.getGenesis,
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
    handle: handlers.listResources,
  },
  {
    method: 'get',
    path: '/v1/resources/{workspace}/{zone}/{kind}/{name}',
    operationId: 'getResource',
    summary: 'One resource with its heads, conflicts and lost writes.',
    parameters: RESOURCE,
    answers: {
      200: { description: 'the resource; its ETag changes with its heads and fields', schema: 'Resource' },
      304: { description: 'it is as If-None-Match says' },
      404: { description: 'never existed, or was deleted: then with its heads', schema: 'ResourceGone' },
    },
    handle: handlers.getResource,
  },
  {
    method: 'put',
    path: '/v1/resources/{workspace}/{zone}/{kind}/{name}',
    operationId: 'putResource',
    summary: 'Makes a resource as the document says, by an edit that the node signs with its edit key for the caller.',
    parameters: [
      ...RESOURCE,
      inHeader('If-Match', 'the ETag that GET answered; required when the resource exists'),
      inHeader('If-None-Match', '*; required when it does not'),
      ...PLAIN_EDIT,
    ],
    body: 'Document',
    answers: {
      200: { description: 'changed, unchanged, or what would change; with the new ETag', schema: 'Written' },
      201: { description: 'created; with its ETag', schema: 'Written' },
      ...WRITE_REFUSALS,
      415: { description: 'the body does not call itself application/json' },
      422: { description: 'the document is not one of this kind; names the field' },
    },
    handle: putResource,
  },
  {
    method: 'delete',
    path: '/v1/resources/{workspace}/{zone}/{kind}/{name}',
    operationId: 'deleteResource',
    summary: 'Deletes a resource, by an edit that the node signs with its edit key for the caller.',
    parameters: [...RESOURCE, inHeader('If-Match', 'the ETag that GET answered; required'), ...PLAIN_EDIT],
    answers: {
      200: { description: 'deleted, or what would be', schema: 'Written' },
      404: { description: 'there is none' },
      ...WRITE_REFUSALS,
    },
    handle: deleteResource,
  },
  {
    method: 'get',
    path: '/v1/workspaces',
    operationId: 'listWorkspaces',
    summary: 'Workspaces that a resource, a grant in force or an edit names, sorted.',
    parameters: PAGING,
    answers: { 200: { description: 'a page of workspaces', schema: 'Workspaces' } },
    handle: handlers.listWorkspaces,
  },
  {
    method: 'get',
    path: '/v1/peers',
    operationId: 'listPeers',
    summary: 'All nodes as this one knows them, itself included.',
    parameters: PAGING,
    answers: { 200: { description: 'a page of nodes', schema: 'Peers' } },
    handle: handlers.listPeers,
  },
  {
    method: 'get',
    path: '/v1/receipts',
    operationId: 'listReceipts',
    summary: 'What every node has applied, in its own words, beside what it should.',
    parameters: PAGING,
    answers: { 200: { description: 'a page of receipts', schema: 'Receipts' } },
    handle: handlers.listReceipts,
  },
  {
    method: 'get',
    path: '/v1/edits',
    operationId: 'listEdits',
    summary: 'Stored envelopes in the order in which this node took them, with verdicts.',
    parameters: [
      query('after', 'an envelope id: only what comes after it'),
      query('limit', `at most ${PAGE_LIMITS.most}`, 'integer'),
      query('author', 'only of this public key'),
      query('resource', 'only edits of this resource path'),
      query('order', 'asc (default), or desc for the newest first'),
      query('bytes', '1: each with its bytes and signatures', 'integer'),
    ],
    answers: { 200: { description: 'envelopes, summarised', schema: 'Edits' } },
    handle: handlers.listEdits,
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
    handle: handlers.getEdit,
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
    handle: submitEdits,
  },
  {
    method: 'get',
    path: '/v1/ids',
    operationId: 'findIds',
    summary: 'Every key and envelope that a shortened id or a name may mean.',
    parameters: [query('text', `${ID_FORM}; required`), ...PAGING],
    answers: { 200: { description: 'a page of candidates, keys first', schema: 'Ids' } },
    handle: handlers.findIds,
  },
  {
    method: 'get',
    path: '/v1/chains',
    operationId: 'listChains',
    summary:
      'The chains of one author in all workspaces, or those in which keys in force have signed twice for one place.',
    parameters: [
      query('author', 'public key; required unless forked is 1'),
      query('forked', '1: only chains with forks, of keys in force', 'integer'),
      ...PAGING,
    ],
    answers: { 200: { description: 'a page of chains', schema: 'Chains' } },
    handle: handlers.listChains,
  },
  {
    method: 'get',
    path: '/v1/chains/{workspace}/{author}',
    operationId: 'getChain',
    summary: 'Where an author’s next envelope in a workspace continues; an empty chain for one who made none.',
    parameters: [inPath('workspace', 'a workspace, or * as %2A'), inPath('author', 'public key')],
    answers: { 200: { description: 'the chain', schema: 'Chain' } },
    handle: handlers.getChain,
  },
  {
    method: 'get',
    path: '/v1/grants',
    operationId: 'listGrants',
    summary: 'Grants in force: who may do what.',
    parameters: [query('subject', 'only of this public key'), ...PAGING],
    answers: { 200: { description: 'a page of grants', schema: 'Grants' } },
    handle: handlers.listGrants,
  },
  {
    method: 'get',
    path: '/v1/pending',
    operationId: 'listPending',
    summary: 'Hosts that asked this node to be let in and wait, oldest first.',
    parameters: PAGING,
    answers: { 200: { description: 'a page of requests', schema: 'Pending' } },
    handle: listPending,
  },
  {
    method: 'post',
    path: '/v1/rejections',
    operationId: 'rejectPending',
    summary: 'Denies one of these hosts, signed by somebody who might let it in.',
    parameters: [],
    body: 'Rejection',
    answers: {
      200: { description: 'denied', schema: 'Rejected' },
      403: { description: 'not by a key that may grant nodes' },
      404: { description: 'nobody waits here under that id' },
    },
    handle: rejectPending,
  },
  {
    method: 'get',
    path: '/v1/roots',
    operationId: 'getRoots',
    summary: 'The root set in force, and its acts that lack signatures.',
    parameters: [],
    answers: {
      200: { description: 'the root set', schema: 'RootSet' },
      404: { description: 'the node has no mesh yet' },
    },
    handle: getRoots,
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
    handle: handlers.streamEvents,
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
