/**
 * What a route is made of and what it is given, as types alone: routes.ts fills in the table, handlers.ts and submit.ts
 * answer, openapi.ts describes, server.ts supplies the context.
 */

import type { HttpBindings } from '@hono/node-server'
import type { Context } from 'hono'
import type { EditKey } from '../edit-key.ts'
import type { Health } from '../status/health.ts'
import type { JoinRequests } from '../joining/join.ts'
import type { Membership } from '../membership.ts'
import type { Metrics } from '../metrics.ts'
import type { Receipt } from '../receipt.ts'
import type { Replica } from '../replica.ts'
import type { StatusTable } from '../status/status.ts'
import type { Origin, Reader } from './access.ts'
import type { EventStream } from './events.ts'
import type { SchemaName } from './schemas.ts'

export interface ApiEnv {
  /** Node's own request and response, and where the request came from. */
  readonly Bindings: HttpBindings & { readonly origin: Origin }
  readonly Variables: {
    /** Path pattern of the route that answers; the label of its metrics. */
    route?: string
    /** Who asks; set before any route answers. */
    reader: Reader
  }
}

export type ApiContext = Context<ApiEnv>

/** What the node says of itself. */
export interface NodeInfo {
  readonly key: string
  readonly version: string
  readonly networkId: string
  readonly name: string | undefined
  /** As its grant and configuration give them. */
  readonly zones: readonly string[]
}

/** What the routes read and call. */
export interface RouteContext {
  readonly replica: Replica
  readonly status: StatusTable
  readonly membership: Pick<Membership, 'placesOf'>
  readonly joins: Pick<JoinRequests, 'pending' | 'reject'>
  readonly receipt: () => Receipt | undefined
  readonly health: () => Health
  readonly converged: () => boolean
  /** False for a node whose grant was revoked: what it took in would spread no further. */
  readonly mayTakeEdits: () => boolean
  /** Undefined when this node signs no edits. */
  readonly editKey: Pick<EditKey, 'admit' | 'charge' | 'write'> | undefined
  readonly metrics: Metrics
  readonly info: () => NodeInfo
  readonly events: EventStream
}

export interface Parameter {
  readonly name: string
  readonly in: 'path' | 'query' | 'header'
  readonly description: string
  readonly type: 'string' | 'integer' | 'boolean'
}

export interface Answer {
  readonly description: string
  /** Name of the schema among the document's components. */
  readonly schema?: SchemaName
  /** Default: application/json, and application/problem+json for errors. */
  readonly contentType?: string
}

export type Handler = (c: ApiContext, context: RouteContext) => Response | Promise<Response>

export interface Route {
  readonly method: 'get' | 'post' | 'put' | 'delete'
  /** As in OpenAPI: `/v1/edits/{id}`. */
  readonly path: string
  readonly operationId: string
  readonly summary: string
  readonly parameters: readonly Parameter[]
  readonly body?: SchemaName
  /** By status. Errors that any route may give are added by openapi.ts. */
  readonly answers: Readonly<Record<number, Answer>>
  readonly handle: Handler
}
