/**
 * What the upstreams, streams and sites of a node may cost it, all together: shared out among workspaces, so that none is refused
 * for what another wants. Pure; called by render.ts.
 */

import { resourcePath } from '../../core/names.ts'
import { nearest } from '../../core/references.ts'
import { CONSISTENT_WEIGHT_MAX } from '../../core/resources/upstream.ts'
import { isStream, isUpstream, olderFirst, type Problem, type Slice } from '../../core/slice.ts'
import type { Site } from './claims.ts'
import { unusable } from './render-stream.ts'
import { consistentWeight } from './render-upstream.ts'
import { shareOut, type Demand } from './shares.ts'
import { variableDemand } from './site-maps.ts'

/**
 * The sum over all blocks of CONSISTENT_WEIGHT_MAX: an upstream's, and one more in each stream of it. `nginx -t` takes about a
 * second for it.
 */
const NODE_CONSISTENT_WEIGHT_MAX = 32_768

/** The sum over all sites: every request of every site has 16 bytes for each. */
const NODE_VARIABLES_MAX = 2048

/** Upstreams with a sticky cookie: each may be three variables more, with their room in every request of every site. */
const NODE_STICKY_MAX = 512

/** Streams: each may have a zone of 1 MiB, and has a socket where several share a port by their hosts. */
const NODE_STREAMS_MAX = 512

const LIGHTER = 'divide the weights, or leave out consistent'

/** Upstreams and streams whose consistent hashing, cookies or number would cost nginx too much, alone or with all others of the node. */
export function tooHeavy(
  { resources, problems: known }: Slice,
  addresses: ReadonlyMap<string, readonly string[]>,
): ReadonlyMap<string, Problem> {
  const problems = new Map<string, Problem>()
  const demands: Demand[] = []
  const sticky: Demand[] = []
  const costs = new Map<string, number>()
  for (const { path, name, spec } of resources.filter(isUpstream).toSorted(olderFirst)) {
    const cost = consistentWeight(spec, addresses)
    const message = `its weights add up to ${cost} over all addresses; with consistent at most ${CONSISTENT_WEIGHT_MAX}`
    if (cost > 0) costs.set(path, cost)
    if (cost > CONSISTENT_WEIGHT_MAX) problems.set(path, { path, code: 'unsupported', message, hint: LIGHTER })
    else if (cost > 0) demands.push({ key: path, workspace: name.workspace, cost })
    if (spec.sticky !== undefined) sticky.push({ key: path, workspace: name.workspace, cost: 1 })
  }
  const cookies = shareOut(sticky, NODE_STICKY_MAX)
  for (const { key: path } of sticky) {
    const message = `a node has at most ${NODE_STICKY_MAX} upstreams with sticky, shared out among workspaces`
    const hint = 'take hashKey of a cookie of the application'
    if (!cookies.has(path)) problems.set(path, { path, code: 'clash', message, hint })
  }
  const streams = resources.filter(isStream).toSorted(olderFirst)
  const room = shareOut(
    streams.map(({ path, name }) => ({ key: path, workspace: name.workspace, cost: 1 })),
    NODE_STREAMS_MAX,
  )
  for (const { path } of streams) {
    const message = `a node has at most ${NODE_STREAMS_MAX} streams, shared out among workspaces`
    if (!room.has(path)) problems.set(path, { path, code: 'clash', message, hint: 'place some of them in other zones' })
  }
  if (costs.size === 0) return problems
  const paths = new Set([...resources, ...known].map(({ path }) => path))
  for (const stream of streams) {
    const upstream = nearest(stream, 'upstream', stream.spec.upstream, paths)
    const cost = upstream === undefined ? 0 : (costs.get(resourcePath(upstream)) ?? 0)
    if (cost > CONSISTENT_WEIGHT_MAX) problems.set(stream.path, unusable(stream))
    else if (cost > 0) demands.push({ key: stream.path, workspace: stream.name.workspace, cost })
  }
  const granted = shareOut(demands, NODE_CONSISTENT_WEIGHT_MAX)
  const message = `the upstreams with consistent of a node have weights of at most ${NODE_CONSISTENT_WEIGHT_MAX}, shared out among workspaces`
  for (const { key: path } of demands) {
    if (!granted.has(path)) problems.set(path, { path, code: 'clash', message, hint: LIGHTER })
  }
  return problems
}

/** Sites whose conditions and splits would cost every request of the node too much, alone or with all others. */
export function tooManyVariables(oldestFirst: readonly Site[]): ReadonlyMap<string, Problem> {
  const demands = oldestFirst
    .map(({ path, name, spec }): Demand => ({ key: path, workspace: name.workspace, cost: variableDemand(spec) }))
    .filter(({ cost }) => cost > 0)
  const granted = shareOut(demands, NODE_VARIABLES_MAX)
  const message = `the sites of a node have at most ${NODE_VARIABLES_MAX} variables for conditions and splits, shared out among workspaces`
  const refused = demands.filter(({ key }) => !granted.has(key))
  return new Map(
    refused.map(({ key: path }) => [
      path,
      { path, code: 'clash', message, hint: 'remove conditions or splits of routes' },
    ]),
  )
}
