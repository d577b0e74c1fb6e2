/**
 * The policies of a slice: which text each becomes, what of it is a unit of its own, and which policies are for which
 * location. A site is never rendered without a policy that it names. Pure; called by render.ts and render-site.ts.
 */

import { sha256 } from '../../core/canonical.ts'
import { perObject } from '../../core/memo.ts'
import { resourcePath } from '../../core/names.ts'
import { bytesOf } from '../../core/resources/fields.ts'
import { requestVariable } from '../../core/resources/conditions.ts'
import type { PolicySpec, PolicyTypeName } from '../../core/resources/policy.ts'
import type { Route, SiteSpec } from '../../core/resources/site.ts'
import { isPolicy, olderFirst, type Problem, type Slice, type SliceResource } from '../../core/slice.ts'
import type { Capabilities } from '../../ports.ts'
import type { Site } from './claims.ts'
import type { HostLayout } from './host-layout.ts'
import { block, toText } from './lines.ts'
import { quotable, withText } from './outcome.ts'
import { renderAccess } from './policies/access.ts'
import { renderBasicAuth } from './policies/basic-auth.ts'
import { renderCors } from './policies/cors.ts'
import { renderWaf } from './policies/waf.ts'
import { renderConnectionLimit, renderRateLimit } from './policies/limits.ts'
import { renderMtls } from './policies/mtls.ts'
import { renderJwt } from './policies/jwt.ts'
import { renderExternalAuth } from './policies/external-auth.ts'
import { renderCache } from './policies/cache.ts'
import type { PolicyContext, PolicyFault, PolicyText } from './policies/policy-text.ts'
import { innerHeaderLines } from './proxy.ts'
import { plain } from './quote.ts'
import { missing, nearest } from '../../core/references.ts'
import { secretText } from './secret-text.ts'
import { upstreamBlockName } from './render-upstream.ts'
import { shareOut, type Demand } from './shares.ts'
import type { Unit } from './unit.ts'

/** Of the zones of all policies in use on a node; each is mapped by every worker, and touched as it fills. */
const NODE_SHARED_BYTES_MAX = 1024 * 1024 * 1024

/** Of the policies in use on a node: each is room in every request of every site. */
const NODE_POLICY_VARIABLES_MAX = 1024

/** Sites whose servers load a set of rules: 16 MiB and a tenth of a second of each test and reload. */
const NODE_RULE_SETS_MAX = 64

/** In the order in which they are asked where nginx does not give another. */
const ORDER: readonly PolicyTypeName[] = [
  'access',
  'waf',
  'cors',
  'mtls',
  'rateLimit',
  'connectionLimit',
  'basicAuth',
  'jwt',
  'externalAuth',
  'cache',
]

function renderType(spec: PolicySpec, context: PolicyContext): PolicyText | PolicyFault {
  switch (spec.type) {
    case 'jwt':
      return renderJwt(spec.jwt, context)
    case 'externalAuth':
      return renderExternalAuth(spec.externalAuth, context)
    case 'cache':
      return renderCache(spec.cache, context)
    case 'access':
      return renderAccess(spec.access, context)
    case 'rateLimit':
      return renderRateLimit(spec.rateLimit, context)
    case 'connectionLimit':
      return renderConnectionLimit(spec.connectionLimit, context)
    case 'cors':
      return renderCors(spec.cors, context)
    case 'mtls':
      return renderMtls(spec.mtls, context)
    case 'basicAuth':
      return renderBasicAuth(spec.basicAuth, context)
    case 'waf':
      return renderWaf(spec.waf, context)
  }
}

export interface RenderedPolicy {
  readonly path: string
  readonly type: PolicyTypeName
  readonly text: PolicyText
  /** What it has outside of servers. */
  readonly unit: Unit | undefined
  /** Changes whenever the text does. */
  readonly digest: string
}

/** The policies that a site names. */
export interface SitePolicies {
  readonly named: ReadonlyMap<string, RenderedPolicy>
  /** Names of those of the site itself, after those of the defaults of its zones. */
  readonly whole: readonly string[]
  /** Each once, by path. */
  readonly used: readonly RenderedPolicy[]
}

/**
 * What stands in a location: of the site's policies and the route's, or of the site's alone.
 * @param module of nginx that asks the location's upstream
 */
export function policiesFor(
  { named, whole }: SitePolicies,
  { policies = [], withoutPolicies = [] }: Pick<Route, 'policies' | 'withoutPolicies'> = {},
  module?: 'proxy' | 'grpc',
): Required<Pick<PolicyText, 'guards' | 'headers' | 'proxying' | 'requestHeaders' | 'judgedHeaders'>> {
  const inForce = new Map<PolicyTypeName, RenderedPolicy>()
  for (const name of [...whole.filter((each) => !withoutPolicies.includes(each)), ...policies]) {
    const policy = named.get(name) as RenderedPolicy
    inForce.set(policy.type, policy)
  }
  const texts = ORDER.flatMap((type) => inForce.get(type)?.text ?? [])
  return {
    guards: texts.flatMap(({ guards = [] }) => guards),
    headers: texts.flatMap(({ headers = [], hiddenHeaders = [] }) => [
      ...(module === undefined ? [] : hiddenHeaders.map((name) => `${module}_hide_header ${name};`)),
      ...headers,
    ]),
    proxying: texts.flatMap(({ proxying = [] }) => proxying),
    requestHeaders: texts.flatMap(({ requestHeaders = [] }) => requestHeaders),
    judgedHeaders: texts.flatMap(({ judgedHeaders = [] }) => judgedHeaders),
  }
}

/**
 * Names of headers that policies of the site set, wherever: no client can say them to any upstream of the site. nginx
 * takes none with _ from clients, but many programs take - for it.
 */
export function withheldHeaders({ used }: SitePolicies): readonly string[] {
  const names = used.flatMap(({ text: { requestHeaders = [] } }) => requestHeaders.map(([name]) => name))
  const all = [...names, ...names.map((name) => name.replaceAll('_', '-'))].toSorted()
  return [...new Map(all.map((name) => [name.toLowerCase(), name])).values()]
}

/** Names of the policies that ask an upstream about requests. */
export function judgingPolicies({ named }: SitePolicies): string[] {
  return [...named].flatMap(([name, { text }]) => (text.judge === undefined ? [] : [name]))
}

/** What stands in a server, each once: two policies may want the same. */
export function serverLinesOf(policies: SitePolicies): readonly string[] {
  const headers = innerHeaderLines(withheldHeaders(policies))
  const parts = policies.used.map(({ text: { server = [], judge } }) => {
    if (judge === undefined) return server
    return [...server, ...block(`location = ${plain(judge.path)}`, ['internal;', ...headers, ...judge.lines])]
  })
  return [...new Map(parts.map((lines) => [lines.join('\n'), lines])).values()].flat()
}

// ---------------------------------------------------------------------------------------------- one policy

interface PolicyInput {
  readonly slice: Slice
  readonly capabilities: Capabilities
  readonly host: HostLayout
  readonly secrets: ReadonlyMap<string, string>
}

type Known = ReadonlySet<string>

function renderPolicy(
  policy: SliceResource<PolicySpec>,
  known: Known,
  { capabilities, host, secrets }: PolicyInput,
): RenderedPolicy | Problem {
  const { path, spec } = policy
  const context: Omit<PolicyContext, 'scope'> = {
    path,
    capabilities,
    host,
    upstream: (name) => {
      const found = nearest(policy, 'upstream', name, known)
      if (found === undefined) return missing(policy, 'Upstream', name)
      return { block: upstreamBlockName(found), path: resourcePath(found) }
    },
    secret: (name) => secretText(policy, name, known, secrets),
  }
  return quotable(path, () => {
    const first = renderType(spec, { ...context, scope: 'nxmesh_' })
    if ('code' in first) return { ...first, path }
    const version = sha256([path, ...(first.http ?? [])].join('\n')).slice(0, 16)
    const text = renderType(spec, { ...context, scope: `nxmesh_${version}` }) as PolicyText
    return { path, type: spec.type, text, unit: unitFor(path, version, text), digest: sha256(JSON.stringify(text)) }
  })
}

function unitFor(path: string, version: string, policy: PolicyText): Unit | undefined {
  const { http, adjustable = [], needs = [], files = [], modules = [] } = policy
  if (http === undefined) return undefined
  const about = { path: `${path}#${version}`, kind: 'policy', needs, listeners: [], hosts: [], files, modules } as const
  return withText(about, toText([`# ${path}`, ...http, ...adjustable]))
}

// ---------------------------------------------------------------------------------------------- all policies

export interface SettledPolicies {
  /** Of the policies themselves. */
  readonly problems: readonly Problem[]
  /** Of those that sites name. */
  readonly units: readonly Unit[]
  readonly of: (site: Site) => SitePolicies | Problem
}

/** @param known paths of all that is there, with or without a problem of its own */
export function settlePolicies(sites: readonly Site[], known: Known, input: PolicyInput): SettledPolicies {
  const rendered = new Map<string, RenderedPolicy | Problem>()
  for (const policy of input.slice.resources.filter(isPolicy).toSorted(olderFirst))
    rendered.set(policy.path, renderPolicy(policy, known, input))
  const inUse = new Set(sites.flatMap((site) => namesIn(site.spec).map((name) => pathOf(site, name, known))))
  const own = [...rendered.values()].filter((each) => 'text' in each)
  for (const problem of tooMuch(own.filter(({ path }) => inUse.has(path)))) rendered.set(problem.path, problem)
  const inForce = own.filter(({ path }) => inUse.has(path) && 'text' in (rendered.get(path) as object))
  const uncached = new Map(tooLarge(inForce, input.host).map((problem) => [problem.path, problem]))
  // It protects nothing: its sites pass everything on, where a last good text would go on filling the disk.
  for (const { path, type } of inForce)
    if (uncached.has(path)) rendered.set(path, { path, type, text: {}, unit: undefined, digest: '' })
  const problems = [...[...rendered.values()].filter((each) => 'code' in each), ...uncached.values()]
  const before = new Map(input.slice.problems.map((each) => [each.path, each]))
  const find = (path: string) => rendered.get(path) ?? before.get(path)
  const settled = new Map(sites.map((site) => [site.path, policiesOf(site, known, find)]))
  const excess = withTooManyRules(sites, settled)
  const units = inForce.filter(({ path }) => !uncached.has(path))
  return {
    problems,
    units: units.flatMap(({ unit }) => unit ?? []),
    of: (site) => excess.get(site.path) ?? (settled.get(site.path) as SitePolicies | Problem),
  }
}

/** Names of all policies of a site and its routes, each once, sorted. */
const namesIn = perObject((spec: SiteSpec): readonly string[] => [...new Set(policyLevelsOf(spec).flat())].toSorted())

const NO_POLICIES: SitePolicies = { named: new Map(), whole: [], used: [] }

/** The policies that stand at one place: of each zone's defaults, of the site, of each route. */
export function policyLevelsOf(spec: SiteSpec): readonly (readonly string[])[] {
  return [...wholeOf(spec), ...Object.values(spec.routes).map(({ policies = [] }) => policies)]
}

function wholeOf({ inherited, policies = [], withoutPolicies = [] }: SiteSpec): readonly (readonly string[])[] {
  const defaults = (inherited?.policies ?? []).map((level) => level.filter((name) => !withoutPolicies.includes(name)))
  return [...defaults, policies]
}

function pathOf(site: Site, name: string, known: Known): string | undefined {
  const found = nearest(site, 'policy', name, known)
  return found === undefined ? undefined : resourcePath(found)
}

function policiesOf(
  site: Site,
  known: Known,
  find: (path: string) => RenderedPolicy | Problem | undefined,
): SitePolicies | Problem {
  const { path, spec } = site
  const names = namesIn(spec)
  if (names.length === 0) return NO_POLICIES
  const named = new Map<string, RenderedPolicy>()
  for (const name of names) {
    const found = find(pathOf(site, name, known) ?? '')
    if (found === undefined) {
      const problem = missing(site, 'Policy', name)
      const isOwn = policyLevelsOf({ ...spec, inherited: undefined })
        .flat()
        .includes(name)
      return isOwn ? problem : { ...problem, message: `${problem.message}, which the defaults of its zones name` }
    }
    if ('code' in found) {
      const message = `its policy ${found.path} is not in force here: ${found.message}`
      return { path, code: 'reference', message, ...(found.hint === undefined ? {} : { hint: found.hint }) }
    }
    named.set(name, found)
  }
  for (const together of policyLevelsOf(spec)) {
    const twins = twinsAmong(together, named)
    if (twins === undefined) continue
    const message = `names two policies of the type ${twins[0].type} at one place: ${twins.map((each) => each.path).join(' and ')}`
    return { path, code: 'reference', message, hint: 'name one of them, or put both into one policy' }
  }
  // Of one type the last counts.
  const used = [...new Set(named.values())].toSorted((a, b) => (a.path < b.path ? -1 : 1))
  const policies = { named, whole: wholeOf(spec).flat(), used }
  return forgeableKey(path, policies) ?? policies
}

/** Who tells answers apart by a header that a policy sets means the policy's; nginx reads what the client says. */
function forgeableKey(path: string, policies: SitePolicies): Problem | undefined {
  const withheld = withheldHeaders(policies).map((name) => requestVariable('http_', name))
  for (const { path: policy, text } of policies.used) {
    const variable = text.keyVariables?.find((name) => withheld.includes(name))
    if (variable === undefined) continue
    const message = `its policy ${policy} tells answers apart by $${variable}, which any client can say`
    const hint = 'leave it out of the key: answers to whom policies know are not kept, or with authorized are for all'
    return { path, code: 'reference', message, hint }
  }
  return undefined
}

function twinsAmong(
  names: readonly string[],
  named: ReadonlyMap<string, RenderedPolicy>,
): readonly [RenderedPolicy, RenderedPolicy] | undefined {
  const byType = new Map<PolicyTypeName, RenderedPolicy>()
  for (const name of names.toSorted()) {
    const policy = named.get(name) as RenderedPolicy
    const other = byType.get(policy.type)
    if (other !== undefined && other !== policy) return [other, policy]
    byType.set(policy.type, policy)
  }
  return undefined
}

/** Of the demands those beyond what the node has, each with the same words. */
function beyond(demands: readonly Demand[], limit: number, words: Omit<Problem, 'path'>): readonly Problem[] {
  const granted = shareOut(demands, limit)
  return demands.filter(({ key }) => !granted.has(key)).map(({ key: path }) => ({ path, ...words }))
}

function demandsOf(policies: readonly RenderedPolicy[], costOf: (text: PolicyText) => number): readonly Demand[] {
  return policies
    .map(({ path, text }) => ({ key: path, workspace: path.split('/')[0] as string, cost: costOf(text) }))
    .filter(({ cost }) => cost > 0)
}

/** Caches that the host has no disk for. */
function tooLarge(inUse: readonly RenderedPolicy[], { maxCacheDisk }: HostLayout): readonly Problem[] {
  if (maxCacheDisk === undefined) return []
  const diskOf = ({ diskBytes = 0 }: PolicyText) => diskBytes
  return beyond(demandsOf(inUse, diskOf), bytesOf(maxCacheDisk) as number, {
    code: 'clash',
    message: `it keeps nothing: the caches of this host have at most ${maxCacheDisk} of its disk, shared out among workspaces`,
    hint: 'give caches a smaller maxSize, let sites share a policy, or raise nginx.max_cache_disk of the host',
  })
}

/** Policies that would cost the node too much, alone or with all others. */
function tooMuch(inUse: readonly RenderedPolicy[]): readonly Problem[] {
  const memoryOf = ({ sharedBytes = 0 }: PolicyText) => sharedBytes
  const variablesOf = ({ http = [], adjustable = [] }: PolicyText) =>
    [...http, ...adjustable].filter((line) => VARIABLE_LINE.test(line)).length
  return [
    ...beyond(demandsOf(inUse, memoryOf), NODE_SHARED_BYTES_MAX, {
      code: 'clash',
      message: `the zones of a node's policies have at most ${NODE_SHARED_BYTES_MAX / 1024 / 1024}m, shared out among workspaces`,
      hint: 'give policies smaller zones, or let sites share a policy',
    }),
    ...beyond(demandsOf(inUse, variablesOf), NODE_POLICY_VARIABLES_MAX, {
      code: 'clash',
      message: `the policies of a node have at most ${NODE_POLICY_VARIABLES_MAX} variables, shared out among workspaces`,
      hint: 'let sites share policies, or remove rules',
    }),
  ]
}

/** Sites that load rules beyond what a node can load; they keep their last good text. */
function withTooManyRules(
  sites: readonly Site[],
  settled: ReadonlyMap<string, SitePolicies | Problem>,
): ReadonlyMap<string, Problem> {
  const demands = sites
    .filter(({ path }) => {
      const policies = settled.get(path) as SitePolicies | Problem
      return 'used' in policies && policies.used.some(({ text }) => text.loadsRules === true)
    })
    .map(({ path, name }) => ({ key: path, workspace: name.workspace, cost: 1 }))
  const refused = beyond(demands, NODE_RULE_SETS_MAX, {
    code: 'unsupported',
    message: `at most ${NODE_RULE_SETS_MAX} sites of a node have policies with coreRuleSet, shared out among workspaces`,
    hint: 'use rules alone, or give the site to other nodes',
  })
  return new Map(refused.map((problem) => [problem.path, problem]))
}

const VARIABLE_LINE = /^(?:map|geo|split_clients) /
