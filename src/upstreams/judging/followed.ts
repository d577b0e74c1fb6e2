/** Which upstreams a node has to observe, and at which addresses: those that its sites and streams use. Pure; called by the reconciler. */

import { perObject } from '../../core/memo.ts'
import { resourcePath } from '../../core/names.ts'
import type { UpstreamSpec } from '../../core/resources/upstream.ts'
import { isStream, isUpstream, type Slice, type SliceResource } from '../../core/slice.ts'
import { changesOf } from '../../core/sorted.ts'
import { nearest } from '../../core/references.ts'
import { hostNames, serversOf, upstreamBlockName } from '../../nginx/rendering/render-upstream.ts'
import { ownChanges } from '../../nginx/rendering/own-changes.ts'
import { withoutRefused } from '../../nginx/rendering/refused-endpoints.ts'
import type { RenderInput } from '../../nginx/rendering/render-input.ts'
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

let last:
  | { readonly input: RenderInput; readonly units: readonly Unit[]; readonly followed: readonly Followed[] }
  | undefined

/** Sorted by path. @param units what the input renders to */
export function followedOf(input: RenderInput, units: readonly Unit[]): readonly Followed[] {
  const followed = last !== undefined && isAsBefore(last, input, units) ? last.followed : allFollowed(input, units)
  last = { input, units, followed }
  return followed
}

/** Whether no more than the own text of some sites changed, and they need what they needed. */
function isAsBefore(before: Exclude<typeof last, undefined>, input: RenderInput, units: readonly Unit[]): boolean {
  if (ownChanges(before.input, input) === undefined) return false
  const needs = (unit: Unit): string => JSON.stringify(unit.needs)
  return changesOf(before.units, units)?.every(({ was, is }) => needs(was) === needs(is)) === true
}

function allFollowed(input: RenderInput, units: readonly Unit[]): readonly Followed[] {
  const { slice, addresses } = withoutRefused(input)
  const used = new Set([...units.flatMap(({ needs }) => needs), ...streamed(slice, units)])
  return slice.resources
    .filter(isUpstream)
    .filter(({ path }) => used.has(path))
    .map((upstream) => (hostNames(upstream.spec).length === 0 ? fixed(upstream) : followed(upstream, addresses)))
}

/** A stream has its upstream's servers in its own text, and so needs no other. */
function streamed({ resources }: Slice, units: readonly Unit[]): readonly string[] {
  const streams = resources.filter(isStream)
  if (streams.length === 0) return []
  const known = new Set(resources.map(({ path }) => path))
  const rendered = new Set(units.map(({ path }) => path))
  return streams
    .filter(({ path }) => rendered.has(path))
    .flatMap((stream) => nearest(stream, 'upstream', stream.spec.upstream, known) ?? [])
    .map(resourcePath)
}

function followed(upstream: SliceResource<UpstreamSpec>, addresses: ReadonlyMap<string, readonly string[]>): Followed {
  const { path, name, spec } = upstream
  const servers = serversOf(upstream, addresses, NOTHING).filter(({ down }) => !down)
  return { path, block: upstreamBlockName(name), spec, addresses: servers.map(({ address }) => address) }
}

/** Where no endpoint has a name, addresses never change. */
const fixed = perObject((upstream: SliceResource<UpstreamSpec>) => followed(upstream, new Map()))
