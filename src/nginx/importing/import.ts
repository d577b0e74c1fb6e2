/**
 * From a whole nginx configuration to documents of Sites and Upstreams, and to what has to be said of the way there. What
 * stands in http holds for each site: nothing is written that other sites of the zone would take over. Pure; called by
 * meshctl import.
 */

import { API_VERSION, parseDocument, type Resource } from '../../core/resources/index.ts'
import type { Tree } from '../../core/resources/kind.ts'
import { SETTINGS_WORKSPACE } from '../../core/slice.ts'
import { asMeshError } from '../../errors.ts'
import { Certificates } from './certificates.ts'
import { Definitions } from './definitions.ts'
import { HTTP_ONLY, NODE_SETTLES } from './fields.ts'
import { realClientOf } from './field-groups.ts'
import { Findings } from './findings.ts'
import { Policies } from './import-policies.ts'
import { importServer, listensOf, type Server } from './import-site.ts'
import { importStreams } from './import-streams.ts'
import { Upstreams, type Place } from './import-upstream.ts'
import { MIME_TYPES } from '../rendering/mime-types.ts'
import { Names } from './names.ts'
import { parse, type Directive } from './parse.ts'
import { SecretsToSeal, type SecretToSeal } from './secrets-to-seal.ts'

export interface Import {
  /** Settings, certificates, policies, upstreams, streams, then sites; each in the order of the configuration. */
  readonly resources: readonly Resource[]
  readonly findings: Findings
  /** Without them nginx cannot serve the certificates, and lets nobody in. */
  readonly secrets: readonly SecretToSeal[]
}

/** The text of a certificate, a list of users or a page that the configuration names; undefined when it cannot be read. */
export type ReadFile = (path: string) => string | undefined

/** The host that the configuration is of. */
export interface ImportHost {
  readonly readFile?: ReadFile
  /** Of its nginx. */
  readonly prefix?: string
}

/** @param tree the main file with its includes, as readTree gives it; a file of servers alone will do */
export function importConfig(tree: readonly Directive[], place: Place, host: ImportHost = {}): Import {
  const excluded = new Set<string>()
  for (;;) {
    const { shared, ...imported } = importOnce(tree, place, host, excluded)
    const further = shared.filter((zone) => !excluded.has(zone))
    if (further.length === 0) return imported
    for (const zone of further) excluded.add(zone)
  }
}

/** @param excluded zones that have to stay text; `shared` names more of them */
function importOnce(
  tree: readonly Directive[],
  place: Place,
  { readFile = () => undefined, prefix = '/usr/share/nginx' }: ImportHost,
  excluded: ReadonlySet<string>,
): Import & { readonly shared: readonly string[] } {
  const findings = new Findings()
  const http = httpOf(tree, findings)
  const upstreamNames = new Names('upstream')
  const upstreams = new Upstreams(findings, place, upstreamNames)
  for (const directive of http.filter(({ name }) => name === 'upstream')) upstreams.add(directive)
  const definitions = new Definitions(findings)
  const realClient = realClientOf(http)
  const shared = sharedOf(
    http.filter((each) => !realClient.taken.includes(each)),
    findings,
    definitions,
  )
  const sites: Resource[] = []
  const names = new Names('default')
  const read = (kind: string, name: string, spec: Tree): Resource =>
    parseDocument({ apiVersion: API_VERSION, kind, metadata: { name, ...place }, spec })
  const secrets = new SecretsToSeal()
  const certificates = new Certificates(findings, secrets, readFile)
  const policies = new Policies(definitions, secrets, readFile, excluded)
  const hasFile = (path: string): boolean => readFile(path) !== undefined
  for (const server of serversOf(http, shared)) {
    const spec = importServer(server, { upstreams, certificates, policies, findings, prefix, hasFile })
    if (spec === undefined) continue
    const [host = ''] = spec['hosts'] as string[]
    try {
      sites.push(read('Site', names.take(host), spec))
    } catch (error) {
      findings.lose(server.block, asMeshError(error).message)
    }
  }
  const all = (kind: string, specs: ReadonlyMap<string, Tree>): Resource[] =>
    [...specs].flatMap(([name, spec]): Resource[] => {
      try {
        return [read(kind, name, spec)]
      } catch (error) {
        const word = kind.toLowerCase()
        const [block] = parse(`${word} ${name} {}`, word)
        findings.lose(block as Directive, asMeshError(error).message)
        return []
      }
    })
  const streams = importStreams(streamOf(tree), {
    upstreams: new Upstreams(findings, place, upstreamNames),
    certificates,
    findings,
  })
  const made = [
    ...all('Certificate', certificates.specs),
    ...all('Policy', policies.specs),
    ...all('Upstream', new Map([...upstreams.specs, ...streams.upstreams])),
    ...all('Stream', streams.specs),
  ]
  const httpSnippets = definitions.usedBy(
    sites.map(({ spec }) => spec),
    policies.zones,
  )
  const privileged = Object.keys(httpSnippets).length === 0 ? {} : { privileged: { httpSnippets } }
  const settings = { ...realClient.fields, ...privileged }
  const settled = Object.keys(settings).length === 0 ? [] : [settingsWith(settings, place)]
  return {
    resources: [...settled, ...made, ...sites],
    findings,
    secrets: secrets.list,
    shared: policies.shared(new Set(definitions.used)),
  }
}

/** They concern whole nodes, and so lie in the workspace of all. */
function settingsWith(spec: Tree, { zone }: Place): Resource {
  const metadata = { name: 'settings', workspace: SETTINGS_WORKSPACE, zone }
  return parseDocument({ apiVersion: API_VERSION, kind: 'ZoneSettings', metadata, spec })
}

function streamOf(tree: readonly Directive[]): readonly Directive[] {
  return tree.filter(({ name }) => name === 'stream').flatMap(({ block = [] }) => block)
}

/** What stands in http. Of the rest of a main file nothing is a resource's business. */
function httpOf(tree: readonly Directive[], findings: Findings): readonly Directive[] {
  if (!tree.some(({ name }) => /^(?:http|events|stream)$/.test(name))) return tree
  for (const directive of tree) {
    if (directive.name === 'http' || directive.name === 'stream') continue
    const why = directive.name === 'mail' ? 'no kind is for mail' : "it is the host's, and the node has its own"
    findings.lose(directive, why)
  }
  return tree.filter(({ name }) => name === 'http').flatMap(({ block = [] }) => block)
}

/** What of http holds in every server. */
function sharedOf(http: readonly Directive[], findings: Findings, definitions: Definitions): Directive[] {
  const shared: Directive[] = []
  for (const directive of http) {
    const { name } = directive
    if (name === 'server' || name === 'upstream') continue
    if (name === 'access_log' && directive.args[0] === 'off') shared.push(directive)
    else if (name === 'types') loseTypes(directive, findings)
    else if (NODE_SETTLES.test(name)) findings.lose(directive, 'the node has its own')
    else if (definitions.add(directive)) continue
    else if (HTTP_ONLY.test(name)) findings.loseDefinition(directive)
    else shared.push(directive)
  }
  // nginx's default is another than that of the node.
  if (!shared.some(({ name }) => name === 'default_type')) shared.push(...parse('default_type text/plain;', 'nginx'))
  return shared
}

/** The node's types stand; told are those endings that get another one by them. */
function loseTypes(directive: Directive, findings: Findings): void {
  const byEnding = new Map(
    Object.entries(MIME_TYPES).flatMap(([type, endings]) =>
      endings.split(' ').map((ending) => [ending, type] as const),
    ),
  )
  const others = (directive.block ?? []).flatMap(({ name, args }) =>
    args.filter((ending) => byEnding.get(ending) !== name),
  )
  const list = others.length > 0 ? `, and another type, or none, for .${others.join(' .')}` : ''
  findings.lose(directive, `the node has its own${list}`)
}

/** The servers, each with what it takes over; on each listener one is the default. */
function serversOf(http: readonly Directive[], shared: readonly Directive[]): Server[] {
  const blocks = http.filter(({ name }) => name === 'server')
  const listens = blocks.map(({ block = [] }) => {
    const found = listensOf(block)
    return found.length > 0
      ? found
      : [{ directive: undefined, at: { port: 80 }, isTls: false, isProxied: false, isDefault: false }]
  })
  const defaults = new Map<string, { index: number; isSaid: boolean }>()
  const keyOf = (at: { address?: string; port: number }): string => `${at.address ?? '*'} ${at.port}`
  for (const [index, found] of listens.entries()) {
    for (const { at, isDefault } of found) {
      if (at === undefined) continue
      const before = defaults.get(keyOf(at))
      if (before === undefined || (isDefault && !before.isSaid)) {
        defaults.set(keyOf(at), { index, isSaid: isDefault })
      }
    }
  }
  return blocks.map((block, index) => {
    const own = block.block ?? []
    const carried = (listens[index] ?? []).flatMap(({ at }) => (at === undefined ? [] : [keyOf(at)]))
    return {
      block,
      directives: [...takenOver(own, shared), ...own],
      isDefault: carried.length > 0 && carried.every((key) => defaults.get(key)?.index === index),
    }
  })
}

/** A directive of http holds where the server has none of its name. */
function takenOver(own: readonly Directive[], shared: readonly Directive[]): Directive[] {
  const listOf = (name: string): string => (name === 'deny' ? 'allow' : name)
  return shared.filter(({ name }) => !own.some((each) => listOf(each.name) === listOf(name)))
}
