/** Which upstreams a node has to observe, and at which addresses: those that its sites and streams use. Pure; called by the reconciler. */

import { perObject } from '../../core/memo.ts'
import { resourcePath } from '../../core/names.ts'
import type { UpstreamSpec } from '../../core/resources/upstream.ts'
import { isStream, isUpstream, type SliceResource } from '../../core/slice.ts'
import { nearest } from '../../core/references.ts'
import { hostNames, serversOf, upstreamBlockName } from '../../nginx/rendering/render-upstream.ts'
import { withoutRefused } from '../../nginx/rendering/refused-endpoints.ts'
import type { RenderInput } from '../../nginx/rendering/render.ts'
import type { Unit } from '../../nginx/rendering/unit.ts'

/** One upstream that a site or a stream uses. */
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
  input: Pick<RenderInput, 'slice' | 'addresses' | 'host'>,
  units: readonly Unit[],
): readonly Followed[] {
  const { slice, addresses } = withoutRefused(input)
  const { resources } = slice
  const known = new Set(resources.map(({ path }) => path))
  const rendered = new Set(units.map(({ path }) => path))
  // A stream has its upstream's servers in its own text, and so needs no other.
  const streamed = resources
    .filter(isStream)
    .filter(({ path }) => rendered.has(path))
    .flatMap((stream) => nearest(stream, 'upstream', stream.spec.upstream, known) ?? [])
  const used = new Set([...units.flatMap(({ needs }) => needs), ...streamed.map(resourcePath)])
  return resources
    .filter(isUpstream)
    .filter(({ path }) => used.has(path))
    .map((upstream) => (hostNames(upstream.spec).length === 0 ? fixed(upstream) : followed(upstream, addresses)))
}

function followed(upstream: SliceResource<UpstreamSpec>, addresses: ReadonlyMap<string, readonly string[]>): Followed {
  const { path, name, spec } = upstream
  const servers = serversOf(upstream, addresses, NOTHING).filter(({ down }) => !down)
  return { path, block: upstreamBlockName(name), spec, addresses: servers.map(({ address }) => address) }
}

/** Where no endpoint has a name, addresses never change. */
const fixed = perObject((upstream: SliceResource<UpstreamSpec>) => followed(upstream, new Map()))
