/**
 * The policy type `externalAuth`: an upstream that is asked about every request whether it may pass. 2xx lets it; 401 and
 * 403 are passed on; whatever else, silence included, is an error, and nobody passes. Pure. Part of the kind Policy; nginx
 * is told in src/nginx/rendering/policies/external-auth.ts.
 */

import { z } from 'zod'
import { duration, isFault, parseTemplate, reference, requestHeaderName, text } from '../fields.ts'
import type { PolicyType } from './policy-type.ts'

const schema = z.strictObject({
  /** An Upstream. It gets the request's headers but those that policies set, X-Original-Method and X-Original-URI, and no body. */
  upstream: reference,
  path: text((value) =>
    /^\/(?!\/)[\w./~%+,=&?-]*$/.test(value) ? undefined : { message: 'is not a path', hint: 'write it like /auth' },
  ).default('/'),
  /** For connecting, and between two reads. */
  timeout: duration.default('5s'),
  /** Headers of its answer that go on to the site's upstream; a client's own of these names never do. */
  headers: z.array(requestHeaderName).max(16).optional(),
  /** Where clients go who get 401. Without it they get the 401. */
  signin: text((value) => {
    const parts = parseTemplate(value)
    if (!/^https?:\/\/[^/?#\\$][^/?#\\]*[\x21-\x7e]*$/.test(value))
      return {
        message: 'is not a URL',
        hint: 'write it like https://login.example.com/?rd=$scheme://$host$request_uri',
      }
    return isFault(parts) ? parts : undefined
  }).optional(),
})

export type ExternalAuthSpec = z.output<typeof schema>

export const externalAuth = { schema, sets: [['headers']], items: [] } as const satisfies PolicyType<ExternalAuthSpec>
