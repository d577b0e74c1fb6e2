/**
 * What a site is where it says nothing itself: its spec over the defaults of the zone settings that reach it. What the
 * site says counts. Pure; called by the slice. A part of the kind ZoneSettings.
 */

import { z } from 'zod'
import { compression } from './compression.ts'
import { errorPages } from './error-pages.ts'
import { requestHeaders, responseHeaders, size, timeouts } from './fields.ts'
import { hsts, type SiteListener } from './listener.ts'
import { policyNames } from './policy.ts'

export const siteDefaults = z.strictObject({
  maxBodySize: size.optional(),
  timeouts: timeouts.optional(),
  compression: compression.optional(),
  requestHeaders: requestHeaders.optional(),
  responseHeaders: responseHeaders.optional(),
  /** Of sites that listen with TLS. */
  hsts: hsts.optional(),
  /** For sites of the same workspace: the names in it mean its upstreams. */
  errorPages: errorPages.optional(),
  /** For sites of the same workspace. A site's policy of the same type takes the place of one of these. */
  policies: policyNames.optional(),
})

export type SiteDefaults = z.output<typeof siteDefaults>

/** Levels of defaults as a site meets them, outermost first: pages and policies are not one map until they are rendered. */
export interface Inherited {
  readonly errorPages: readonly NonNullable<SiteDefaults['errorPages']>[]
  readonly policies: readonly (readonly string[])[]
}

interface Site extends SiteDefaults {
  readonly listeners: Readonly<Record<string, SiteListener>>
}

export function withDefaults<Spec extends Site>(
  spec: Spec,
  outermostFirst: readonly SiteDefaults[],
): Spec & { readonly inherited: Inherited } {
  const outer = outermostFirst.reduce<SiteDefaults>(over, {})
  const hasTls = Object.values(spec.listeners).some(({ tls }) => tls !== undefined)
  const inherited: Inherited = {
    errorPages: outermostFirst.flatMap((level) => level.errorPages ?? []),
    policies: outermostFirst.flatMap((level) => (level.policies === undefined ? [] : [level.policies])),
  }
  return { ...spec, ...over(hasTls ? outer : { ...outer, hsts: undefined }, spec), inherited }
}

/** The inner level over the outer one: field by field, header by header. */
function over(outer: SiteDefaults, inner: SiteDefaults): SiteDefaults {
  return {
    maxBodySize: inner.maxBodySize ?? outer.maxBodySize,
    timeouts: { ...outer.timeouts, ...told(inner.timeouts) },
    compression: inner.compression ?? outer.compression,
    requestHeaders: headersOver(outer.requestHeaders, inner.requestHeaders),
    responseHeaders: headersOver(outer.responseHeaders, inner.responseHeaders),
    hsts: inner.hsts ?? outer.hsts,
    errorPages: inner.errorPages,
    policies: inner.policies,
  }
}

type Headers = NonNullable<SiteDefaults['responseHeaders']>

/** Names of headers have no case. What one level removes, an outer one does not set, and the other way round. */
function headersOver(outer: Headers | undefined, inner: Headers | undefined): Headers | undefined {
  if (outer === undefined || inner === undefined) return inner ?? outer
  const named = new Set([...Object.keys(inner.set ?? {}), ...(inner.remove ?? [])].map((name) => name.toLowerCase()))
  const isFree = (name: string) => !named.has(name.toLowerCase())
  return {
    set: { ...Object.fromEntries(Object.entries(outer.set ?? {}).filter(([name]) => isFree(name))), ...inner.set },
    remove: [...(outer.remove ?? []).filter(isFree), ...(inner.remove ?? [])],
  }
}

function told<T extends object>(map: T | undefined): Partial<T> {
  return Object.fromEntries(Object.entries(map ?? {}).filter(([, value]) => value !== undefined)) as Partial<T>
}
