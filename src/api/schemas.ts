/**
 * The shapes that the HTTP API answers with, as zod schemas: views.ts makes values of them, openapi.ts publishes them,
 * meshctl reads answers through them. Unknown members are dropped on reading, so that versions of either side may differ.
 */

import { z } from 'zod'

const hash = z.string().regex(/^[0-9a-f]{64}$/)
const publicKey = hash.describe('Ed25519 public key, 64 hex digits')
const envelopeId = hash.describe('envelope id, 64 hex digits')
const time = z.int().describe('claimed time, ms since the epoch')
const value = z.union([z.string(), z.number(), z.boolean(), z.array(z.union([z.string(), z.number(), z.boolean()]))])

export const META = z.object({ page: z.int().min(1), per_page: z.int().min(1), total: z.int().min(0) })

/** A page of items: `{data, meta{page, per_page, total}}`. */
function pageOf<T extends z.ZodType>(item: T) {
  return z.object({ data: z.array(item), meta: META })
}

export const PROBLEM = z.object({
  type: z.string().describe('urn:nxmesh:problem:<code>'),
  title: z.string().describe('the code in words'),
  status: z.int(),
  code: z.string().describe('a stable code; docs/cli.md lists them'),
  detail: z.string().describe('what happened'),
  field: z.string().optional().describe('which field of the input is at fault'),
  hint: z.string().optional().describe('what to do about it'),
})

export const HEALTH = z.object({
  status: z.enum(['Running', 'Degraded', 'Error', 'Unknown']),
  msg: z.string(),
  reasons: z.array(z.string()),
})

export const HEALTH_ANSWER = HEALTH.extend({
  converged: z.boolean().describe('whether the desired configuration is applied'),
  mesh: hash.nullable().describe('mesh id, which tokens for this node name; null until the node knows it'),
})

const digest = hash.nullable()

const ERROR = z.object({ code: z.string(), message: z.string(), hint: z.string().optional() })

/** What a node says of its last apply, in its own words. */
export const RECEIPT = z.object({
  target: digest.describe('the slice that the node took up last'),
  desired: digest.describe('the generation that the slice renders to, nothing isolated'),
  validated: digest.describe('the newest generation that nginx -t accepted'),
  applied: digest.describe('what every worker is proven to run'),
  lastGood: digest.describe('what a boot would start from'),
  outcome: z
    .string()
    .nullable()
    .describe('of the last attempt: applied, unchanged, refused, rolled_back, failed, held'),
  phase: z.string().describe('the last phase of that attempt'),
  error: ERROR.nullable(),
  problems: z.array(z.object({ path: z.string(), code: z.string(), message: z.string(), hint: z.string().optional() })),
  problemCount: z.int(),
  isolated: z.array(
    z.object({
      path: z.string(),
      why: z.string().optional().describe('refused, untried (it may be a good one), or needs (something refused)'),
      reason: z.string(),
      serves: z.string().optional(),
    }),
  ),
  withheld: z.int().min(0).describe('problems and isolated resources in workspaces that the reader may not read'),
  at: z.int().describe('wall time of the node, ms'),
  durations: z.record(z.string(), z.number()).describe('ms spent in each phase of the last attempt'),
  live: z
    .object({
      lane: z.enum(['live', 'reload']).describe('live: endpoints reach every worker without a reload'),
      reason: z.string().nullable().describe('why endpoints go through reloads'),
      target: digest.describe('the slice that the endpoints are of'),
      desired: z.int().nullable().describe('the stamp of what every worker shall go by; stamps grow'),
      applied: z.int().nullable().describe('the stamp that every worker is proven to go by'),
      error: ERROR.nullable(),
    })
    .nullable()
    .describe('how endpoints reach nginx; null before that is known'),
  drift: z.int().describe('files put right since the node started'),
  observed: z
    .array(
      z.object({
        path: z.string().describe('of the upstream'),
        circuit: z.string().describe('closed, open or half_open'),
        endpoints: z.int().min(0),
        ailing: z.array(z.string()).describe('the first endpoints that are not well'),
        ejected: z.array(z.string()).describe('of those, which take no requests'),
      }),
    )
    .describe('upstreams that are not well, as the node sees them'),
  observedCount: z.int().min(0).describe('of which observed may show only the first'),
  nginx: z.object({
    running: z.boolean(),
    master: z.int().nullable(),
    version: z.string().nullable(),
    modules: z.array(z.string()).describe('of those that resources may need, the ones that are there'),
    workers: z.int(),
    draining: z.int(),
  }),
})

export const NODE = z.object({
  key: publicKey,
  name: z.string().nullable(),
  version: z.string(),
  networkId: z.string(),
  meshId: hash.nullable().describe('null until the node knows its mesh'),
  meshName: z.string().nullable(),
  zones: z.array(z.string()),
  envelopes: z.int().describe('number of stored envelopes'),
  waiting: z.int().describe('envelopes that wait for unknown ancestors'),
  stateHash: hash.describe('equal on nodes that hold equal edits'),
})

const WRITE = z.object({ field: z.string(), value, edit: envelopeId, by: publicKey })

export const RESOURCE = z.object({
  path: z.string().describe('workspace/zone/kind/name'),
  workspace: z.string(),
  zone: z.string(),
  kind: z.string(),
  name: z.string(),
  exists: z.boolean(),
  hash: hash.describe('changes exactly when what is visible changes'),
  heads: z.array(envelopeId).describe('the deps of the next edit'),
  created: z.object({ at: time, edit: envelopeId, by: publicKey }).nullable(),
  fields: z.record(z.string(), value).describe('the flat fields that edits set one by one'),
  labels: z.record(z.string(), z.unknown()),
  spec: z.record(z.string(), z.unknown()).nullable().describe('the nested form; null for a kind unknown to this node'),
  conflicts: z.record(z.string(), z.array(WRITE)).describe('fields with concurrent values, the visible one first'),
  lost: z.array(WRITE).describe('writes that a concurrent delete hides'),
  excessive: z.array(envelopeId).describe('edits that change nothing here: each overwrites too many concurrent values'),
})
export const RESOURCES = pageOf(RESOURCE)

/** A deleted resource is not found, but its heads are what a new edit must name. */
export const RESOURCE_GONE = PROBLEM.extend({ resource: RESOURCE.optional() })

export const WORKSPACE = z.object({
  name: z.string(),
  resources: z.int().min(0).describe('that exist in it now'),
})
export const WORKSPACES = pageOf(WORKSPACE)

export const PEER = z.object({
  key: publicKey,
  name: z.string().nullable(),
  self: z.boolean().describe('whether this is the node that answers'),
  state: z.enum(['Ready', 'NotReady', 'Unavailable', 'Unknown']),
  ageMs: z.number().nullable().describe('ms since the last word of this node; null when there was none since start'),
  connected: z.boolean(),
  version: z.string().nullable(),
  addresses: z.array(z.string()),
  zones: z.array(z.string()).describe('as it says, as far as its grants cover them'),
  ungrantedZones: z.array(z.string()).describe('what else it says; counts for nothing'),
  places: z
    .array(z.object({ workspace: z.string(), zones: z.array(z.string()) }))
    .describe('these zones by each of its grants, and the workspace for which it gives them: * is all'),
  labels: z.record(z.string(), z.string()),
  digest: z.string().nullable().describe('of all envelopes that the node holds'),
  leaving: z.boolean(),
  health: HEALTH.nullable(),
})
export const PEERS = pageOf(PEER)

export const NODE_RECEIPT = PEER.pick({
  key: true,
  name: true,
  self: true,
  state: true,
  ageMs: true,
  zones: true,
  ungrantedZones: true,
  places: true,
  health: true,
}).extend({
  target: hash.nullable().describe('the target that the answering node expects this node to take up; null if unknown'),
  receipt: RECEIPT.nullable(),
})
export const RECEIPTS = pageOf(NODE_RECEIPT)

export const VERDICT = z.object({
  accepted: z.boolean(),
  code: z.string().nullable().describe('why it does not count'),
  message: z.string().nullable(),
})

export const WIRE = z.object({
  bytes: z.string().describe('canonical JSON (RFC 8785) of the body'),
  sigs: z.record(z.string(), z.string()).describe('public key to signature, both in hex'),
})

export const EDIT = z.object({
  id: envelopeId,
  type: z.enum(['edit', 'grant', 'revoke', 'rootset', 'genesis']),
  workspace: z.string().nullable(),
  by: publicKey.nullable(),
  grant: envelopeId.nullable(),
  n: z.int().nullable().describe('position in the author’s chain of the workspace'),
  prev: z.array(envelopeId),
  at: time,
  note: z.string(),
  caller: publicKey.nullable().describe('for whom it was signed, on the word of a node’s edit key'),
  resources: z.array(z.string()),
  about: z.string().nullable().describe('for a grant: its subject; for a revocation: its target'),
  role: z.string().nullable(),
  verdict: VERDICT,
  envelope: WIRE.optional().describe('as stored, when it was asked for'),
})
export const EDITS = z.object({
  data: z.array(EDIT),
  next: envelopeId.nullable().describe('`after` of the next page; null at the end'),
})

export const STORED_EDIT = z.object({ id: envelopeId, envelope: WIRE, verdict: VERDICT })

export const SUBMISSION = z.object({ envelopes: z.array(WIRE).min(1).max(256) })

export const OUTCOME = z.object({
  outcome: z.enum(['stored', 'known', 'waiting', 'refused']),
  id: envelopeId.nullable(),
  missing: z.array(envelopeId).describe('what a waiting envelope waits for'),
  code: z.string().nullable().describe('why it was refused'),
  reason: z.string().nullable(),
})
export const OUTCOMES = z.object({ outcomes: z.array(OUTCOME) })

export const DOCUMENT = z
  .object({
    apiVersion: z.literal('nxmesh/v1'),
    kind: z.string().describe('Site, Upstream, ...'),
    metadata: z.object({
      name: z.string().optional(),
      workspace: z.string().optional(),
      zone: z.string().optional(),
      labels: z.record(z.string(), z.string()).optional(),
    }),
    spec: z.record(z.string(), z.unknown()),
  })
  .describe('a resource as meshctl apply takes it; name, workspace and zone are those of the path')

export const WRITTEN = z.object({
  path: z.string(),
  action: z.enum(['create', 'update', 'delete', 'keep']),
  changes: z
    .array(z.object({ field: z.string(), before: value.nullable(), after: value.nullable() }))
    .describe('field by field; equal values settle a conflict'),
  outcome: OUTCOME.nullable().describe('of the edit that the node signed; null in a dry run, and for keep'),
})

export const CHAIN = z.object({
  workspace: z.string(),
  author: publicKey,
  highestN: z.int().min(0),
  heads: z.array(z.object({ id: envelopeId, n: z.int() })).describe('`prev` of the next envelope, highest n first'),
  count: z.int().min(0),
  forks: z.int().min(0),
})
export const CHAINS = pageOf(CHAIN)

export const GRANT = z.object({
  id: envelopeId,
  subject: publicKey,
  name: z.string().nullable(),
  role: z.string(),
  workspace: z.string(),
  zones: z.array(z.string()),
  kinds: z.array(z.string()),
  fields: z.array(z.string()).nullable(),
  hosts: z.array(z.string()).nullable(),
  quota: z
    .strictObject({ resources: z.int().optional(), fields: z.int().optional(), bytes: z.int().optional() })
    .nullable()
    .describe('what the resources made under the grant may amount to'),
  enc: hash.nullable().describe('X25519 key that secrets for the subject are sealed to'),
  under: envelopeId.describe('the grant or root set that was exercised'),
  by: publicKey,
  at: time,
})
export const GRANTS = pageOf(GRANT)

export const PENDING = z.object({
  id: z.string().describe('names the request in a denial'),
  key: publicKey,
  enc: hash.describe('X25519 public key, 64 hex digits; proven'),
  name: z.string().nullable().describe('as the ticket wishes'),
  zones: z.array(z.string()).describe('that the host asks for; none: those of the ticket'),
  labels: z.record(z.string(), z.string()),
  version: z.string(),
  address: z.string().describe('where it asks from'),
  ageMs: z.number().describe('since it first asked'),
  ticket: z.object({
    by: publicKey.describe('who invited'),
    zones: z.array(z.string()),
    name: z.string().nullable(),
    expires: time,
    text: z.string().describe('as the host showed it'),
  }),
  sig: z
    .string()
    .max(128)
    .describe('of the host, over the text of the ticket, enc, name and zones; who approves checks it'),
})
export const PENDING_PAGE = pageOf(PENDING)

export const REJECTION = z.strictObject({
  request: z.string().max(64).describe('id of the pending request'),
  by: publicKey.describe('somebody who may grant nodes'),
  sig: z.string().max(128).describe('Ed25519 over mesh and request, in hex'),
})
export const REJECTED = z.object({ key: publicKey })

export const ROOT_SET = z.object({
  id: envelopeId.describe('of the rootset, or of the genesis: what root acts exercise'),
  isGenesis: z.boolean().describe('whether it is the first one'),
  roots: z.array(publicKey),
  threshold: z.int().describe('how many of them have to sign'),
  next: z.string().describe('hash of the set that alone may follow; empty when none was prepared'),
  pending: z
    .array(z.object({ id: envelopeId, signers: z.array(publicKey) }))
    .describe('acts that lack signatures, and who has signed them'),
})

export const ID = z.object({
  id: hash.describe('envelope id or public key, 64 hex digits'),
  type: z.enum(['key', 'edit', 'grant', 'revoke', 'rootset', 'genesis']),
  name: z.string().nullable().describe('of a key: what a grant calls it'),
  about: z.string().nullable().describe('for a grant: its subject; for a revocation: its target'),
  active: z.boolean().describe('of a key: whether a grant of it is in force; of an envelope: whether it counts'),
})
export const IDS = pageOf(ID)

/** The components of the OpenAPI document, by name. */
export const SCHEMAS = {
  Problem: PROBLEM,
  Health: HEALTH_ANSWER,
  Node: NODE,
  Resource: RESOURCE,
  Resources: RESOURCES,
  ResourceGone: RESOURCE_GONE,
  Workspaces: WORKSPACES,
  Peers: PEERS,
  Receipts: RECEIPTS,
  Edits: EDITS,
  StoredEdit: STORED_EDIT,
  Submission: SUBMISSION,
  Outcomes: OUTCOMES,
  Document: DOCUMENT,
  Written: WRITTEN,
  Ids: IDS,
  RootSet: ROOT_SET,
  Chain: CHAIN,
  Chains: CHAINS,
  Grants: GRANTS,
  Pending: PENDING_PAGE,
  Rejection: REJECTION,
  Rejected: REJECTED,
} as const satisfies Record<string, z.ZodType>
export type SchemaName = keyof typeof SCHEMAS

export type ResourceView = z.infer<typeof RESOURCE>
export type PeerItem = z.infer<typeof PEER>
export type ReceiptView = z.infer<typeof RECEIPT>
export type NodeReceipt = z.infer<typeof NODE_RECEIPT>
export type RootSetView = z.infer<typeof ROOT_SET>
export type IdView = z.infer<typeof ID>
export type WorkspaceView = z.infer<typeof WORKSPACE>
export type EditView = z.infer<typeof EDIT>
export type OutcomeView = z.infer<typeof OUTCOME>
export type WrittenView = z.infer<typeof WRITTEN>
export type ChainView = z.infer<typeof CHAIN>
export type GrantView = z.infer<typeof GRANT>
export type PendingView = z.infer<typeof PENDING>
export type NodeView = z.infer<typeof NODE>
export type Problem = z.infer<typeof PROBLEM>
