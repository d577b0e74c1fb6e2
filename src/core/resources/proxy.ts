/**
 * What a route with `proxy` says: which upstream a request goes to, how it is changed on its way, and what becomes of
 * the answer. Part of the kind Site; its text is in src/nginx/rendering/proxy.ts.
 */

import { z } from 'zod'
import { reference, template } from './fields.ts'
import { force, split, sticky } from './split.ts'
import { upstreamTls } from './upstream-tls.ts'

export const proxy = z.strictObject({
  /** An Upstream of the same workspace, looked up from the site's zone outward. Needed unless there is a split. */
  upstream: reference.optional(),
  split: split.optional(),
  sticky: sticky.optional(),
  force: force.optional(),
  /** `https` and `grpcs` encrypt, and verify the upstream's certificate where `tls.ca` says by what. */
  scheme: z.enum(['http', 'https', 'grpc', 'grpcs']).default('http'),
  tls: upstreamTls.optional(),
  /** `/api/users` at a route with path `/api/` becomes `/users`. Escapes such as %2F are decoded by this. */
  stripPrefix: z.boolean().default(false),
  websocket: z.boolean().default(false),
  /** Off: the response is passed on as it comes. */
  buffering: z.boolean().default(true),
  hostHeader: template((value) => (value === '' ? { message: 'is empty' } : undefined)).default('$host'),
})
