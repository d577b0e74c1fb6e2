/**
 * Which sites an edit changes without naming them, and which of all would be refused: by rendering what there is before and
 * after it, for a host that lacks nothing. Not judged: limits of grants, node selectors, what is sealed. Pure; called by
 * `meshctl plan`.
 */

import type { ResourceView } from '../../api/schemas.ts'
import { canonical, sha256 } from '../../core/canonical.ts'
import type { ResourceState } from '../../core/document.ts'
import type { Value } from '../../core/envelope.ts'
import { parseResourcePath, zoneCovers } from '../../core/names.ts'
import type { Wanted } from '../../core/plan.ts'
import { type Problem } from '../../core/slice.ts'
import { slice } from '../../core/slicing.ts'
import { NEEDED_MODULES } from '../../nginx/rendering/needs.ts'
import type { RenderInput } from '../../nginx/rendering/render-input.ts'
import { render } from '../../nginx/rendering/render.ts'
import { ALL_WELL } from '../../nginx/rendering/render-upstream.ts'
import { CANNOT_OPEN } from '../../nginx/rendering/secret-text.ts'

/** So many are named that change, and that would be refused; the others are counted. */
const NAMED_MAX = 50

/** What hosts lack is told by hosts-lacking.ts. */
const LACKS_NOTHING: Omit<RenderInput, 'slice'> = {
  capabilities: { version: '999.0.0', modules: NEEDED_MODULES, dynamic: {} },
  host: {
    directory: '/nginx',
    pidFile: '/nginx.pid',
    verifySocket: '/verify.sock',
    drainFile: '/drain',
    defaultHttpPort: 8080,
    workerProcesses: 1,
    workerShutdownTimeoutSeconds: 1,
    modules: [],
    crsDirectory: '/crs',
  },
  addresses: new Map(),
  ...ALL_WELL,
  secrets: new Map(),
}

/**
 * One line for each site that would be refused, by no fault that it has already, then one for each that would change.
 * @param views all that there is in the workspaces that the wanted resources reach
 */
export function affectedLines(wanted: readonly Wanted[], views: readonly ResourceView[]): string[] {
  const before = new Map(
    views.map(({ path, fields, created }) => [
      path,
      stateOf(path, Object.entries(fields) as [string, Value][], created),
    ]),
  )
  const after = new Map(before)
  for (const { path, fields } of wanted) after.set(path, stateOf(path, fields, before.get(path)?.created))
  const zonesOf = (paths: Iterable<string>) => [...paths].flatMap((path) => parseResourcePath(path)?.zone ?? [])
  const reached = new Set(zonesOf([...after.keys()].filter(isSitePath)))
  const touched = zonesOf(wanted.map(({ path }) => path))
  const refused: string[] = []
  const changed: string[] = []
  // What a site means follows from its own zone: who may write in one changes no site of the zones around it.
  for (const zone of [...reached].toSorted()) {
    if (!touched.some((outer) => zoneCovers(outer, zone))) continue
    const was = sitesIn(zone, before)
    for (const [path, { text, problem }] of sitesIn(zone, after)) {
      const old = was.get(path)
      if (problem !== undefined && problem.message !== old?.problem?.message) {
        const hint = problem.hint === undefined ? '' : `; ${problem.hint}`
        refused.push(`${path} would be refused: ${problem.message}${hint}`)
      } else if (text !== old?.text && !wanted.some((each) => each.path === path)) changed.push(`${path} would change`)
    }
  }
  return [...shortened(refused, 'would be refused'), ...shortened(changed, 'would change')]
}

function shortened(lines: readonly string[], what: string): string[] {
  const more = lines.length - NAMED_MAX
  return [...lines.slice(0, NAMED_MAX), ...(more > 0 ? [`${more} more sites ${what}`] : [])]
}

function isSitePath(path: string): boolean {
  return parseResourcePath(path)?.kind === 'site'
}

interface Judged {
  /** Of nginx; where there is none, what the site says. */
  readonly text: string
  readonly problem: Problem | undefined
}

/** The sites of exactly this zone, as a host there has them. */
function sitesIn(zone: string, states: ReadonlyMap<string, ResourceState>): ReadonlyMap<string, Judged> {
  const node = { places: [{ workspace: '*', zones: [zone] }], labels: {} }
  const sliced = slice([...states.values()], node, NO_LIMITS)
  const { units, problems } = render({ ...LACKS_NOTHING, slice: sliced })
  const digests = new Map(units.map(({ path, digest }) => [path, digest]))
  const specs = new Map(sliced.resources.map(({ path, spec }) => [path, spec]))
  // Hosts open what nobody can here.
  const faults = new Map(
    problems.filter(({ message }) => !message.includes(CANNOT_OPEN)).map((problem) => [problem.path, problem]),
  )
  const paths = [...states.keys()].filter((path) => isSitePath(path) && parseResourcePath(path)?.zone === zone)
  return new Map(
    paths.toSorted().map((path) => {
      const text = digests.get(path) ?? JSON.stringify(specs.get(path)) ?? ''
      return [path, { text, problem: faults.get(path) }]
    }),
  )
}
const NO_LIMITS = () => undefined

function stateOf(
  path: string,
  fields: Iterable<readonly [string, Value]>,
  created: ResourceState['created'] | null,
): ResourceState {
  const seen = [...fields].filter(([field]) => !field.startsWith('nodeSelector/'))
  return {
    path,
    exists: true,
    fields: new Map(seen.toSorted(([a], [b]) => (a < b ? -1 : 1))),
    writers: new Map(),
    conflicts: new Map(),
    lost: [],
    excessive: [],
    heads: [],
    // What is new is the youngest.
    created: created ?? { at: Number.MAX_SAFE_INTEGER, edit: path, by: '' },
    hash: sha256(canonical([path, seen])),
  }
}
