/** Which upstreams a node has to observe, and at which addresses: those that its sites use. Pure; called by the reconciler. */

import type { UpstreamSpec } from '../../core/resources/upstream.ts'
import { isUpstream, type Slice } from '../../core/slice.ts'
import { serversOf, upstreamBlockName } from '../../nginx/rendering/render-upstream.ts'
import type { Unit } from '../../nginx/rendering/unit.ts'

/** One upstream that a site uses. */
export interface Followed {
  /** Of the resource. */
  readonly path: string
  /** What nginx calls it. */
  readonly block: string
  readonly spec: UpstreamSpec
  /** Of the endpoints that are not set down. */
  readonly addresses: readonly string[]
}

const NOTHING: ReadonlySet<string> = new Set()

/** Sorted by path. @param units what the slice renders to */
export function followedOf(
  { resources }: Slice,
  units: readonly Unit[],
  addresses: ReadonlyMap<string, readonly string[]>,
): readonly Followed[] {
  const used = new Set(units.filter(({ kind }) => kind === 'site').flatMap(({ needs }) => needs))
  return resources
    .filter(isUpstream)
    .filter(({ path }) => used.has(path))
    .map((upstream) => ({
      path: upstream.path,
      block: upstreamBlockName(upstream.name),
      spec: upstream.spec,
      addresses: serversOf(upstream, addresses, NOTHING).flatMap(({ address, down }) => (down ? [] : [address])),
    }))
}
