/**
 * What a policy becomes in nginx text, and what its type may ask for. Types, and a name that several share; one file beside
 * this per type makes the text, src/nginx/rendering/render-policy.ts puts it together.
 */

import type { Problem } from '../../../core/slice.ts'
import type { Capabilities } from '../../../ports.ts'
import type { HostLayout } from '../host-layout.ts'
import type { UnitFile } from '../unit.ts'

/** The parts of a policy's text, each in the order of nginx's text; none where left out. */
export interface PolicyText {
  /** Outside of servers, once for all sites: zones, maps, paths. What they name begins with the scope. */
  readonly http?: readonly string[]
  /** Beside `http`, what may change under the same names: no zones. */
  readonly adjustable?: readonly string[]
  /** In the server of each site that uses it, once: internal locations, which no policy guards. */
  readonly server?: readonly string[]
  /** An internal location of each site that uses it, which passes the requests on that are asked about. */
  readonly judge?: { readonly path: string; readonly lines: readonly string[] }
  /** In each location that it is for. An `if` here answers before anything else; directives guard what follows. */
  readonly guards?: readonly string[]
  /** Of the answer, in each location that it is for. */
  readonly headers?: readonly string[]
  /** Names of headers of an upstream's answer that are not passed on. */
  readonly hiddenHeaders?: readonly string[]
  /** In each location that it is for and that passes requests on over HTTP. */
  readonly proxying?: readonly string[]
  /**
   * Headers of requests that go to a site's upstream, and their texts as nginx reads them; no other wins over them. Without
   * a text the guards put them into the request themselves.
   */
  readonly requestHeaders?: readonly PolicyHeader[]
  /** Names of headers of requests that it looks at. */
  readonly judgedHeaders?: readonly string[]
  /** Variables by which it tells answers apart that it keeps. */
  readonly keyVariables?: readonly string[]
  /** Paths of upstreams that the text names. */
  readonly needs?: readonly string[]
  /** Files that the text names. */
  readonly files?: readonly UnitFile[]
  /** Names of the modules that the text needs; a type says first whether they are there: see needs.ts. */
  readonly modules?: readonly string[]
  /** Whether each server with it loads a set of rules, which takes time and memory. */
  readonly loadsRules?: boolean
  /** Of all zones in `http`. */
  readonly sharedBytes?: number
  /** Of all that it may keep on disk. */
  readonly diskBytes?: number
}

export type PolicyHeader = readonly [name: string, value: string | undefined]

/** Not empty where guards know who somebody is, so that the answer may be that one's own. Set by them. */
export const IDENTITY_VARIABLE = 'nxmesh_identity'

/** Why there is no text. */
export type PolicyFault = Pick<Problem, 'code' | 'message' | 'hint'>

export interface PolicyContext {
  /** Of the policy. */
  readonly path: string
  /**
   * What names of zones and variables begin with: letters, digits and _. A hash of the policy's path and of the text in
   * `http`, so that zones with other parameters have other names, and one version may stand beside another. That text
   * may depend on nothing else that changes, such as the scope's own letters.
   */
  readonly scope: string
  readonly capabilities: Capabilities
  readonly host: HostLayout
  /** The upstream's block and path, looked up from the policy's zone outward. */
  readonly upstream: (name: string) => { readonly block: string; readonly path: string } | PolicyFault
  /** The text of a Secret, looked up in the same way. */
  readonly secret: (name: string) => string | PolicyFault
}
