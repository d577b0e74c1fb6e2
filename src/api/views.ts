/**
 * What the API shows of this node's state: pure functions from history, policy, resources and status records to the
 * shapes of schemas.ts. Called by handlers.ts and submit.ts.
 */

import { callerOf } from '../core/caller.ts'
import type { ResourceState } from '../core/document.ts'
import type { Body, Envelope, GrantBody } from '../core/envelope.ts'
import type { Chain, History } from '../core/history.ts'
import { parseResourcePath, type ResourceName } from '../core/names.ts'
import { documentOf, KINDS } from '../core/resources/index.ts'
import type { Written } from '../edit-key.ts'
import type { PendingRequest } from '../joining/join.ts'
import type { Place } from '../core/slice.ts'
import type { MeshState } from '../core/state.ts'
import type { Receipt } from '../receipt.ts'
import type { Outcome } from '../replica.ts'
import type { PeerView } from '../status/status.ts'
import { mayReadPath, type Reader } from './access.ts'
import type {
  ChainView,
  EditView,
  GrantView,
  OutcomeView,
  PeerItem,
  PendingView,
  ReceiptView,
  ResourceView,
  WrittenView,
} from './schemas.ts'

/** Where a page begins and how much it holds. `page` counts from 1. */
export interface Paging {
  readonly page: number
  readonly perPage: number
}

export function pageOf<T, V>(items: readonly T[], { page, perPage }: Paging, view: (item: T) => V) {
  const start = (page - 1) * perPage
  return { data: items.slice(start, start + perPage).map(view), meta: { page, per_page: perPage, total: items.length } }
}

export function resourceView(state: ResourceState): ResourceView {
  const name = parseResourcePath(state.path) as ResourceName
  const document = documentOf(name, state.fields)
  return {
    path: state.path,
    ...name,
    exists: state.exists,
    hash: state.hash,
    heads: [...state.heads],
    created: state.created ?? null,
    fields: Object.fromEntries(state.fields) as ResourceView['fields'],
    labels: document.metadata.labels ?? {},
    spec: KINDS.has(name.kind) ? document.spec : null,
    conflicts: Object.fromEntries(state.conflicts) as unknown as ResourceView['conflicts'],
    lost: state.lost as unknown as ResourceView['lost'],
    excessive: [...state.excessive],
  }
}

/** Another node, as its last status record and this node's connections tell. Of its place, only what policy grants counts. */
export function peerView(
  { key, name, state, ageMs, connected, record }: PeerView,
  places: readonly Place[],
  self: boolean,
): PeerItem {
  const claimed = record?.zones ?? []
  const isGranted = (zone: string): boolean => places.some(({ zones }) => zones.includes(zone))
  return {
    key,
    name: name ?? null,
    self,
    state,
    ageMs: ageMs === undefined ? null : Math.round(ageMs),
    connected,
    version: record?.version ?? null,
    addresses: [...(record?.addresses ?? [])],
    zones: claimed.filter(isGranted),
    ungrantedZones: claimed.filter((zone) => !isGranted(zone)),
    places: places.map(({ workspace, zones }) => ({ workspace, zones: [...zones] })),
    labels: { ...record?.labels },
    digest: record?.digest ?? null,
    leaving: record?.leaving ?? false,
    health: record === undefined ? null : { ...record.health, reasons: [...record.health.reasons] },
  }
}

/** A receipt without what it says of resources that the reader may not read, but for their number. */
export function receiptView(receipt: Receipt | null, reader: Reader): ReceiptView | null {
  if (receipt === null) return null
  const own = ({ path }: { readonly path: string }): boolean => mayReadPath(reader, path)
  const problems = receipt.problems.filter(own)
  const isolated = receipt.isolated.filter(own)
  const observed = receipt.observed
    .filter(own)
    .map((view) => ({ ...view, ailing: [...view.ailing], ejected: [...view.ejected] }))
  const withheld = receipt.problems.length + receipt.isolated.length - problems.length - isolated.length
  return { ...(receipt as unknown as ReceiptView), problems, isolated, observed, withheld }
}

export function verdictView(state: MeshState, envelope: Envelope): EditView['verdict'] {
  const verdict = state.verdict(envelope)
  return verdict.accepted
    ? { accepted: true, code: null, message: null }
    : { accepted: false, code: verdict.denial.code, message: verdict.denial.message }
}

export function editView(state: MeshState, envelope: Envelope): EditView {
  const { body } = envelope
  const common = body.type === 'genesis' ? undefined : body
  return {
    id: envelope.id,
    type: body.type,
    workspace: common?.ws ?? null,
    by: common?.by ?? null,
    grant: common?.grant ?? null,
    n: common?.n ?? null,
    prev: [...(common?.prev ?? [])],
    at: body.at,
    note: common?.note ?? '',
    caller: callerOf(envelope, state.history) ?? null,
    resources: body.type === 'edit' ? body.edits.map(([path]) => path) : [],
    about: subjectOf(body),
    role: body.type === 'grant' ? body.role : null,
    verdict: verdictView(state, envelope),
  }
}

/** Whom a grant is for, what a revocation takes away. */
export function subjectOf(body: Body): string | null {
  if (body.type === 'grant') return body.subject
  return body.type === 'revoke' ? body.target : null
}

export function chainView(history: History, chain: Chain): ChainView {
  const heads = chain.heads.map((id) => ({ id, n: positionOf(history.get(id)) }))
  return {
    workspace: chain.workspace,
    author: chain.author,
    highestN: chain.highestN,
    heads: heads.toSorted((a, b) => b.n - a.n || (a.id < b.id ? -1 : 1)),
    count: chain.ids.length,
    forks: chain.forks,
  }
}

function positionOf(envelope: Envelope | undefined): number {
  return envelope === undefined || envelope.body.type === 'genesis' ? 0 : envelope.body.n
}

export function grantView({ id, body }: Envelope<GrantBody>): GrantView {
  return {
    id,
    subject: body.subject,
    name: body.name ?? null,
    role: body.role,
    workspace: body.ws,
    zones: [...body.zones],
    kinds: [...body.kinds],
    fields: body.fields === undefined ? null : [...body.fields],
    hosts: body.hosts === undefined ? null : [...body.hosts],
    quota: body.quota ?? null,
    enc: body.enc ?? null,
    under: body.grant,
    by: body.by,
    at: body.at,
  }
}

export function pendingView(request: PendingRequest) {
  const { id, key, enc, name, zones, labels, version, address, ageMs, ticket, ticketText, sig } = request
  const { by, expires } = ticket
  return {
    id,
    key,
    enc,
    name,
    zones: [...zones],
    labels: { ...labels },
    version,
    address,
    ageMs: Math.round(ageMs),
    ticket: { by, zones: [...ticket.zones], name: ticket.name ?? null, expires, text: ticketText },
    sig,
  } satisfies PendingView
}

export function writtenView({ change, outcome }: Written): WrittenView {
  const { path, action, ops, before } = change
  const changes = ops.map((op) => {
    const after = op[0] === 'set' ? op[2] : null
    return { field: op[1], before: before.get(op[1]) ?? null, after }
  })
  return {
    path,
    action,
    changes: changes as unknown as WrittenView['changes'],
    outcome: outcome === undefined ? null : outcomeView(outcome),
  }
}

export function outcomeView(outcome: Outcome): OutcomeView {
  return {
    outcome: outcome.outcome,
    id: outcome.id ?? null,
    missing: outcome.outcome === 'waiting' ? [...outcome.missing] : [],
    code: outcome.outcome === 'refused' ? outcome.code : null,
    reason: outcome.outcome === 'refused' ? outcome.reason : null,
  }
}
