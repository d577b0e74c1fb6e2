/**
 * What resources ask of the host's nginx: which version or module, whether it is there, the words where it is not, and
 * which dynamic modules a generation loads. Pure; render.ts asks before it makes a text.
 */

import type { PolicySpec } from '../../core/resources/policy.ts'
import type { SiteSpec } from '../../core/resources/site.ts'
import type { StreamSpec } from '../../core/resources/stream.ts'
import type { UpstreamSpec } from '../../core/resources/upstream.ts'
import type { ZoneSettingsSpec } from '../../core/resources/zone-settings.ts'
import type { Problem } from '../../core/slice.ts'
import type { Capabilities } from '../../ports.ts'
import type { HostLayout } from './host-layout.ts'

/** Something of nginx that a resource asks for; a version, a module, or both. */
export interface Need {
  /** Field and value, as people write them. */
  readonly what: string
  /** The first that has it. */
  readonly version?: string
  /** As in Capabilities. */
  readonly module?: string
}

export const BROTLI = 'http_brotli_filter'
export const LUA = 'http_lua'
/** What http_lua is built upon. */
const NDK = 'ndk_http'
const MODSECURITY = 'http_modsecurity'

/** Every need, under what it is called in code. docs/capabilities.md lists them. */
export const NEEDS = {
  listenerTls: { what: 'tls of a listener', module: 'http_ssl' },
  https: { what: 'scheme: https of a proxy', module: 'http_ssl' },
  grpcs: { what: 'scheme: grpcs of a proxy', module: 'http_ssl' },
  grpc: { what: 'scheme: grpc or grpcs of a proxy', module: 'http_v2' },
  mtls: { what: 'mtls of a policy', module: 'http_ssl' },
  coreRuleSet: { what: 'coreRuleSet of a policy', module: MODSECURITY },
  jwt: { what: 'jwt of a policy', module: LUA },
  jwtKeys: { what: 'jwt of a policy', module: 'http_ssl' },
  externalAuth: { what: 'externalAuth of a policy', module: 'http_auth_request' },
  realClient: { what: 'realClient of zone settings', module: 'http_realip' },
  proxyProtocol: { what: 'proxyProtocol of a listener of a Site', module: 'http_realip' },
  stream: { what: 'the kind Stream', module: 'stream' },
  streamHosts: { what: 'hosts of a Stream', module: 'stream_ssl_preread' },
  streamProxyProtocol: { what: 'proxyProtocol of a listener, or hosts, of a Stream', module: 'stream_realip' },
  streamTls: { what: 'tls of a listener, or upstreamTls, of a Stream', module: 'stream_ssl' },
  random: { what: 'method: random of an upstream', version: '1.15.1' },
  keepalive: { what: 'keepalive.timeout and keepalive.requests of an upstream', version: '1.15.3' },
  cookieFlags: { what: 'cookies.secure, httpOnly and sameSite of a proxy', version: '1.19.3' },
} as const satisfies Record<string, Need>

/** Every module that resources may need, or use where it is: what nodes tell each other of theirs. */
export const NEEDED_MODULES: readonly string[] = [
  ...new Set([...Object.values(NEEDS).flatMap((need: Need) => need.module ?? []), BROTLI, LUA]),
].toSorted()

export function upstreamNeeds({ method, keepalive }: UpstreamSpec): Need[] {
  return [...(method === 'random' ? [NEEDS.random] : []), ...(keepalive === undefined ? [] : [NEEDS.keepalive])]
}

export function siteNeeds({ routes, listeners }: SiteSpec): Need[] {
  const hasTls = Object.values(listeners).some(({ tls }) => tls !== undefined)
  const isProxied = Object.values(listeners).some(({ proxyProtocol }) => proxyProtocol)
  const schemes = Object.values(routes).flatMap((route) => (route.action === 'proxy' ? [route.proxy.scheme] : []))
  const hasFlags = Object.values(routes).some((route) => {
    const { secure, httpOnly, sameSite } = (route.action === 'proxy' ? route.proxy.cookies : undefined) ?? {}
    return secure === true || httpOnly === true || sameSite !== undefined
  })
  return [
    ...(hasTls ? [NEEDS.listenerTls] : []),
    ...(isProxied ? [NEEDS.proxyProtocol] : []),
    ...new Set(schemes.flatMap((scheme) => SCHEME_NEEDS[scheme] ?? [])),
    ...(hasFlags ? [NEEDS.cookieFlags] : []),
  ]
}
const SCHEME_NEEDS: Readonly<Record<string, readonly Need[]>> = {
  http: [],
  https: [NEEDS.https],
  grpc: [NEEDS.grpc],
  grpcs: [NEEDS.grpcs, NEEDS.grpc],
}

export function streamNeeds({ hosts, listeners, upstreamTls }: StreamSpec): Need[] {
  const hasHosts = (hosts ?? []).length > 0
  const isProxied = hasHosts || Object.values(listeners).some(({ proxyProtocol }) => proxyProtocol)
  const hasTls = upstreamTls !== undefined || Object.values(listeners).some(({ tls }) => tls !== undefined)
  return [
    NEEDS.stream,
    ...(hasHosts ? [NEEDS.streamHosts] : []),
    ...(isProxied ? [NEEDS.streamProxyProtocol] : []),
    ...(hasTls ? [NEEDS.streamTls] : []),
  ]
}

export function settingsNeeds({ realClient }: ZoneSettingsSpec): Need[] {
  return realClient === undefined ? [] : [NEEDS.realClient]
}

export function policyNeeds(spec: PolicySpec): Need[] {
  if (spec.type === 'mtls') return [NEEDS.mtls]
  if (spec.type === 'jwt') return [NEEDS.jwt, NEEDS.jwtKeys]
  if (spec.type === 'externalAuth') return [NEEDS.externalAuth]
  return spec.type === 'waf' && spec.waf.mode !== 'off' && spec.waf.coreRuleSet !== undefined ? [NEEDS.coreRuleSet] : []
}

/** What a resource needs of any host's nginx. @param kind as in paths; the spec is of it */
export function needsOf(kind: string, spec: unknown): readonly Need[] {
  switch (kind) {
    case 'site':
      return siteNeeds(spec as SiteSpec)
    case 'upstream':
      return upstreamNeeds(spec as UpstreamSpec)
    case 'stream':
      return streamNeeds(spec as StreamSpec)
    case 'policy':
      return policyNeeds(spec as PolicySpec)
    case 'zonesettings':
      return settingsNeeds(spec as ZoneSettingsSpec)
    default:
      return []
  }
}

/** Modules that the text of a site uses where they are, and does without where they are not. */
export function siteModules({ compression }: SiteSpec, capabilities: Capabilities, host: HostLayout): string[] {
  return compression?.enabled === true && isThere(BROTLI, capabilities, host) ? [BROTLI] : []
}

/** Whether it is compiled in, or can be loaded. */
export function isThere(module: string, { modules }: Capabilities, host: HostLayout): boolean {
  return modules.includes(module) || host.modules.some((path) => moduleName(fileOf(path)) === module)
}

/** The first need that is not met. */
export function firstUnmet(needs: readonly Need[], capabilities: Capabilities): Need | undefined {
  return needs.find((need) => !isMet(need, capabilities))
}

export function isMet({ version, module }: Need, capabilities: Capabilities): boolean {
  if (module !== undefined && !capabilities.modules.includes(module)) return false
  return version === undefined || compareVersions(capabilities.version, version) >= 0
}

export function unsupported(path: string, need: Need, capabilities: Capabilities): Problem {
  const { what, version, module } = need
  const lacksModule = module !== undefined && !capabilities.modules.includes(module)
  const wanted = lacksModule ? `its module ${module}` : `version ${version}`
  const hint = !lacksModule
    ? 'upgrade nginx on this host'
    : capabilities.afterRestart?.includes(module) === true
      ? 'it is installed: restart nginx on this host, since the running one cannot load it beside ModSecurity'
      : `install the module ${module} on this host`
  const message = `${what} needs nginx with ${wanted}; this host has ${capabilities.version}`
  return { path, code: 'unsupported', message, hint }
}

/** Negative, zero or positive, as the first dotted version is before, equal to or after the second. */
export function compareVersions(a: string, b: string): number {
  const [left, right] = [a, b].map((version) => version.split('.').map(Number)) as [number[], number[]]
  return left.map((part, index) => part - (right[index] ?? 0)).find((difference) => difference !== 0) ?? 0
}

// ---------------------------------------------------------------------------------------------- dynamic modules

/** `http_lua` for `ngx_http_lua_module.so`, `ndk_http` for `ndk_http_module.so`; undefined for no module. */
export function moduleName(file: string): string | undefined {
  return /^(?:ngx_)?(\w+)_module\.so$/.exec(file)?.[1]
}

function fileOf(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1)
}

/**
 * Paths to load, each once: those that the configuration names, and those of `modules` that are not compiled in. What
 * another module is built upon comes before it, and Lua before all: see LUA_FIRST.
 */
export function modulePaths(
  modules: ReadonlySet<string>,
  { dynamic }: Pick<Capabilities, 'dynamic'>,
  host: Pick<HostLayout, 'modules'>,
): readonly string[] {
  const paths = new Map(host.modules.map((path) => [moduleName(fileOf(path)) ?? path, path]))
  const all = new Set([...modules, ...paths.keys()])
  const wanted = all.has(MODSECURITY) ? [...all, LUA] : [...all]
  for (const name of wanted.toSorted().flatMap((each) => [...foundationsOf(each), each])) {
    if (!paths.has(name) && Object.hasOwn(dynamic, name)) paths.set(name, dynamic[name] as string)
  }
  const first = LUA_FIRST.flatMap((name) => paths.get(name) ?? [])
  return [...new Set([...first, ...paths.values()])]
}

/**
 * ModSecurity's library brings another Lua along, whose functions have the same names. Whichever is loaded first lends them
 * to both, and LuaJIT's serve both. The other way round nginx's master aborts: at its start, and at the reload that
 * brings Lua to a master that has ever had ModSecurity. So where there is Lua, ModSecurity comes with it.
 */
const LUA_FIRST: readonly string[] = [NDK, LUA]

function foundationsOf(module: string): readonly string[] {
  if (module === LUA) return [NDK]
  return /^(stream|mail)_/.exec(module)?.slice(1) ?? []
}
