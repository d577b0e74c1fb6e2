/**
 * The kind ZoneSettings: how nodes of a zone pace their reloads, and defaults for its sites. One per zone, named
 * `settings`; a field that the nearest zone leaves out comes from the next one outward, at last from SETTINGS_DEFAULTS.
 * What concerns a whole node counts in one workspace alone; every workspace has defaults for its own sites.
 */

import { z } from 'zod'
import { atMost, duration, integer, key, labels, matching, network, text } from './fields.ts'
import type { Kind } from './kind.ts'
import { siteDefaults } from './site-defaults.ts'
import { snippet } from './snippet.ts'

const realClientHeader = text(
  matching(/^[A-Za-z][A-Za-z0-9-]{0,63}$/, 'is not a header name', 'write it like X-Forwarded-For or X-Real-IP'),
)

const schema = z.strictObject({
  nodeSelector: labels.optional(),
  reload: z
    .strictObject({
      /** How long it must be quiet after a change before the next reload. */
      quietMs: integer(0, 60_000).optional(),
      /** A reload waits no longer than this for quiet. */
      maxWaitMs: integer(0, 600_000).optional(),
      /** How long a new generation is watched before it counts as good. */
      bakeSeconds: integer(0, 300).optional(),
      /** How long connections are drained before a reload, at most: it ends when none is idle. */
      drainMs: integer(0, 60_000).optional(),
      /** Allows one drop of over half of the sites: the key of what remains, as the held node's receipt names it. */
      confirmShrink: text(matching(/^[0-9a-f]{16}$/, 'must be the 16 hex digits that the receipt names')).optional(),
    })
    .optional(),
  /** How long an old worker may finish its connections. */
  workerShutdownTimeout: duration.optional(),
  /** What a site of the zone and the zones in it gets where it says nothing itself. */
  defaults: siteDefaults.optional(),
  /** Who the client is where requests and streams come through a proxy. */
  realClient: z
    .strictObject({
      /** Proxies that are believed about the client. */
      trust: z.array(network).max(256).optional(),
      /** Where they say it in HTTP; in streams it is the PROXY header. */
      header: realClientHeader.default('X-Forwarded-For'),
      /** Of several addresses the last that is not trusted; else the last one. */
      recursive: z.boolean().default(true),
    })
    .optional(),
  /** nginx text by ID, for what nginx knows in http alone, such as maps and zones; needs the right to these fields. */
  privileged: z.strictObject({ httpSnippets: atMost(256, key, snippet).optional() }).optional(),
})

export type ZoneSettingsSpec = z.output<typeof schema>

/** The settings in force on a node. An undefined field is left to the host's configuration or to nginx. */
export interface NodeSettings {
  readonly quietMs: number
  readonly maxWaitMs: number
  readonly bakeSeconds: number
  readonly drainMs: number
  readonly confirmShrink: string | undefined
  readonly workerShutdownTimeout: string | undefined
  readonly maxBodySize: string | undefined
  readonly connectTimeout: string | undefined
  readonly readTimeout: string | undefined
  readonly sendTimeout: string | undefined
  readonly realClient: RealClient | undefined
}

/** The fields of those settings that concern a whole node. */
export function nodeFieldsOf(spec: ZoneSettingsSpec): readonly string[] {
  const forSites = ['nodeSelector', 'defaults']
  return Object.entries(spec).flatMap(([field, value]) =>
    value === undefined || forSites.includes(field) ? [] : field,
  )
}

export interface RealClient {
  readonly trust: readonly string[]
  readonly header: string
  readonly recursive: boolean
}

export const SETTINGS_DEFAULTS: NodeSettings = {
  quietMs: 300,
  maxWaitMs: 5000,
  bakeSeconds: 0,
  drainMs: 500,
  confirmShrink: undefined,
  workerShutdownTimeout: undefined,
  maxBodySize: undefined,
  connectTimeout: undefined,
  readTimeout: undefined,
  sendTimeout: undefined,
  realClient: undefined,
}

/** The settings in force, of all that apply to a node: outermost first. */
export function mergeSettings(outermostFirst: readonly ZoneSettingsSpec[]): NodeSettings {
  return outermostFirst.reduce<NodeSettings>(
    (outer, { reload, workerShutdownTimeout, defaults, realClient }) => ({
      quietMs: reload?.quietMs ?? outer.quietMs,
      maxWaitMs: reload?.maxWaitMs ?? outer.maxWaitMs,
      bakeSeconds: reload?.bakeSeconds ?? outer.bakeSeconds,
      drainMs: reload?.drainMs ?? outer.drainMs,
      confirmShrink: reload?.confirmShrink ?? outer.confirmShrink,
      workerShutdownTimeout: workerShutdownTimeout ?? outer.workerShutdownTimeout,
      maxBodySize: defaults?.maxBodySize ?? outer.maxBodySize,
      connectTimeout: defaults?.timeouts?.connect ?? outer.connectTimeout,
      readTimeout: defaults?.timeouts?.read ?? outer.readTimeout,
      sendTimeout: defaults?.timeouts?.send ?? outer.sendTimeout,
      // As a whole: a header of one zone would mean nothing with the proxies of another.
      realClient: realClient === undefined ? outer.realClient : { ...realClient, trust: realClient.trust ?? [] },
    }),
    SETTINGS_DEFAULTS,
  )
}

export const zoneSettingsKind = {
  kind: 'ZoneSettings',
  path: 'zonesettings',
  plural: 'zonesettings',
  schema,
  sets: [
    ['realClient', 'trust'],
    ['defaults', 'compression', 'types'],
    ['defaults', 'requestHeaders', 'remove'],
    ['defaults', 'responseHeaders', 'remove'],
    ['defaults', 'policies'],
  ],
  items: [['defaults', 'hsts']],
  onlyName: 'settings',
} as const satisfies Kind<ZoneSettingsSpec>
