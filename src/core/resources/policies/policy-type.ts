/**
 * What a type of policy is: the schema of its branch, and how that lies in flat fields. One file beside this per type;
 * src/core/resources/policy.ts lists them. Nothing here knows of nginx.
 */

import type { Kind } from '../kind.ts'

/** Paths are those below the type's own branch. */
export type PolicyType<S> = Pick<Kind<S>, 'schema' | 'sets' | 'items' | 'complete'>
