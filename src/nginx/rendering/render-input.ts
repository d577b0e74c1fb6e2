/** What the texts of one host follow from. Made by the reconciler; read by all that renders. */

import type { Slice } from '../../core/slice.ts'
import type { Capabilities } from '../../ports.ts'
import type { HostLayout } from './host-layout.ts'
import type { ObservedHealth } from './render-upstream.ts'

export interface RenderInput extends ObservedHealth {
  readonly slice: Slice
  readonly capabilities: Capabilities
  readonly host: HostLayout
  /** Addresses of the host names among the upstreams' endpoints; see hostNamesOf. */
  readonly addresses: ReadonlyMap<string, readonly string[]>
  /** Texts of the Secrets of the slice that this node can open, by path. */
  readonly secrets: ReadonlyMap<string, string>
}
