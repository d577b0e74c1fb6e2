/** What server.ts hands to the routes beside a request. */

import type { HttpBindings } from '@hono/node-server'
import type { Context } from 'hono'
import type { Origin } from './access.ts'

export interface ApiEnv {
  /** Node's own request and response, and where the request came from. */
  readonly Bindings: HttpBindings & { readonly origin: Origin }
  readonly Variables: {
    /** Path pattern of the route that answers; the label of its metrics. */
    route?: string
  }
}

export type ApiContext = Context<ApiEnv>
