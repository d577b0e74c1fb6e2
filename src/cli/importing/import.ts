/**
 * `meshctl import`: reads a configuration tree of nginx from disk and writes what it means as YAML, beside a report of what
 * stayed nginx text and what could not be carried. Asks no node and applies nothing.
 */

import { accessSync, constants, existsSync, globSync, lstatSync, readFileSync, statSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { kindOf, type Resource } from '../../core/resources/index.ts'
import { isTree, type Kind, type Tree } from '../../core/resources/kind.ts'
import { MeshError } from '../../errors.ts'
import type { NginxPaths } from '../../nginx/applying/capabilities.ts'
import type { Finding } from '../../nginx/importing/findings.ts'
import { adoptDrift } from '../../nginx/importing/drift.ts'
import { importConfig, type Import } from '../../nginx/importing/import.ts'
import { directoryOf, readTree, type ConfigFile } from '../../nginx/importing/includes.ts'
import type { Place } from '../../nginx/importing/import-upstream.ts'
import { parse, type Directive } from '../../nginx/importing/parse.ts'
import { INPUT_LIMITS } from '../resources/documents.ts'
import { usage, type Args, type Cli, type Verb } from '../cli.ts'
import { pathsOfNginx, proveImport, type Proof } from './import-proof.ts'
import { refuseUsed, writeFolder } from './new-folder.ts'
import { documentOfView } from '../resources/resources.ts'
import { plain, toYaml } from '../terminal.ts'

const REPORT = 'import-report.txt'
/** Of most packages, where there is no nginx to ask. */
const USUAL_PREFIX = '/usr/share/nginx'
const DIFFERENCES_SHOWN = 100

export const importVerb: Verb = {
  name: 'import',
  summary: 'read an nginx configuration into YAML files; nothing is applied',
  usage: ['import DIR|FILE [--into DIR] [--no-proof] [-w NAME] [-z ZONE]', 'import --drift FILE [--into DIR]'],
  details: [
    'DIR is one with an nginx.conf, such as /etc/nginx; FILE a main file, or one of servers alone. Writes a YAML file for each',
    `resource, and ${REPORT}: what stayed nginx text (privileged snippets, which need a grant), and`,
    'what could not be carried. Where there is nginx, the configuration and what it became are run side by side, on ports of',
    'their own with stand-ins for upstreams, and asked the same: the report lists what is answered otherwise. Read it,',
    'then: meshctl diff -f DIR, meshctl apply -f DIR.',
    '--drift takes a file of data_dir/nginx/drift, where a node keeps what somebody edited by hand, and writes the resource as the',
    'node asked has it, with what was added there.',
  ].join('\n'),
  options: {
    'no-proof': { type: 'boolean', description: 'do not start nginx to compare its answers before and after' },
    drift: { type: 'boolean', description: 'FILE is one that a node put aside, since it was edited by hand' },
    into: { type: 'string', value: 'DIR', description: 'where to write; must be empty or new (default: ./imported)' },
  },
  examples: ['meshctl import /etc/nginx --into imported -z eu', 'meshctl apply -f imported'],
  async run(cli, args) {
    if (args.flag('drift')) return importDrift(cli, args)
    const [given = ''] = args.expect('DIR|FILE')
    if (args.list('zone').length > 1) throw usage('import takes one --zone: give a resource to others in its file')
    const place = { workspace: cli.workspace ?? 'default', zone: cli.zone ?? '*' }
    const into = folderFor(cli, args)
    await refuseUsed(into)
    const paths = await pathsOfNginx()
    const prefix = paths?.prefix ?? USUAL_PREFIX
    const main = mainFile(cli.path(given), given)
    const tree = readTree(main, lookup, { base: baseOf(main, paths), prefix })
    const imported = importConfig(tree, place, { readFile, prefix })
    if (imported.resources.length === 0) {
      throw new MeshError('input_invalid', `there is no server or upstream in ${given} that can be carried`, {
        field: 'DIR|FILE',
        hint: reasons(imported.findings.lost),
      })
    }
    const proof = args.flag('no-proof') ? 'it was not asked for' : await proveImport(tree, place, { readFile })
    const report = [...reportOf(imported, place, paths), ...proofLines(proof), ''].join('\n')
    const files = imported.resources.map((resource): [string, string] => [
      `${resource.kind.toLowerCase()}-${resource.metadata.name}.yaml`,
      toYaml(resource),
    ])
    await writeFolder(into, new Map([...files, [REPORT, report]]))
    cli.out(report)
    cli.note(`Written to ${into.name}. Nothing was applied.`)
    return undefined
  },
}

function folderFor(cli: Cli, args: Args) {
  const name = args.text('into') ?? 'imported'
  return { path: cli.path(name), name, field: '--into' }
}

async function importDrift(cli: Cli, args: Args): Promise<undefined> {
  const [given = ''] = args.expect('FILE')
  const into = folderFor(cli, args)
  await refuseUsed(into)
  const edited = mainFile(cli.path(given), given)
  const digest = /-([0-9a-f]{64})\.conf$/.exec(edited.path)?.[1]
  const path = /^# (\S+)\n/.exec(edited.text)?.[1]
  if (digest === undefined || path === undefined) {
    throw new MeshError('input_invalid', `${given} is not the file of a site or an upstream that a node put aside`, {
      field: 'FILE',
      hint: 'give one of data_dir/nginx/drift, under its own name and with its first line',
    })
  }
  const rendered = mainFile(join(dirname(edited.path), '..', 'objects', `${digest}.conf`), 'what the node had written')
  const view = await (await cli.client()).resource(path)
  if (view?.exists !== true)
    throw new MeshError('not_found', `there is no ${path} any more`, { hint: 'what was edited by hand belonged to it' })
  const document = documentOfView(view)
  const trees = [rendered, edited].map((file) => parse(file.text, file.path)) as [Directive[], Directive[]]
  const { spec, taken, left } = adoptDrift(document.spec, ...trees)
  const file = `${document.kind.toLowerCase()}-${document.metadata.name}.yaml`
  await writeFolder(into, new Map([[file, toYaml({ ...document, spec })]]))
  cli.out([...section('Taken', taken), ...section('Left for you', left), ''].join('\n'))
  cli.note(`Written to ${into.name}. Nothing was applied: meshctl diff -f ${into.name}`)
  return undefined
}

function mainFile(path: string, name: string): ConfigFile {
  try {
    return readConfig(statSync(path).isDirectory() ? join(path, 'nginx.conf') : path)
  } catch (error) {
    if (error instanceof MeshError) throw error
    throw unreadable(name, error)
  }
}

/** A file of servers alone is one that nginx includes: what it includes itself is relative to nginx's own directory. */
function baseOf({ path, text }: ConfigFile, paths: NginxPaths | undefined): string | undefined {
  const directory = paths === undefined ? '' : directoryOf(paths.config)
  if (directory === '' || !path.startsWith(`${directory}/`)) return undefined
  return parse(text, path).some(({ name }) => name === 'http' || name === 'events') ? undefined : directory
}

/** As nginx does it: hidden files only where the pattern says so, directories not at all. */
function lookup(pattern: string): ConfigFile[] {
  const magic = pattern.search(/[*?[]/)
  if (magic === -1) return existsSync(pattern) || isLink(pattern) ? [readConfig(pattern)] : []
  const directory = dirname(pattern.slice(0, magic + 1))
  try {
    if (existsSync(directory)) accessSync(directory, constants.R_OK | constants.X_OK)
  } catch (error) {
    throw unreadable(directory, error)
  }
  const hidden = basename(pattern).startsWith('.')
  return globSync(pattern)
    .filter((path) => hidden || !basename(path).startsWith('.'))
    .filter((path) => isLink(path) || statSync(path).isFile())
    .toSorted()
    .map(readConfig)
}

function isLink(path: string): boolean {
  return lstatSync(path, { throwIfNoEntry: false })?.isSymbolicLink() === true
}

/** Certificates, and lists of users to judge; never a private key: those are named in the report, for meshctl secret. */
function readFile(path: string): string | undefined {
  try {
    return readConfig(path).text
  } catch {
    return undefined
  }
}

function readConfig(path: string): ConfigFile {
  try {
    const about = statSync(path)
    // Reading from a pipe or a device might never end.
    if (!about.isFile()) throw new MeshError('input_invalid', `${path} is no file`, { field: path })
    if (about.size > INPUT_LIMITS.fileBytes)
      throw new MeshError('too_large', `${path} is over ${INPUT_LIMITS.fileBytes} bytes`, { field: path })
    return { path, text: readFileSync(path, 'utf8') }
  } catch (error) {
    throw error instanceof MeshError ? error : unreadable(path, error)
  }
}

function unreadable(name: string, error: unknown): MeshError {
  return new MeshError('input_invalid', `cannot read ${name}: ${(error as Error).message}`, { field: name }, error)
}

function reportOf({ resources, findings, secrets }: Import, place: Place, paths: NginxPaths | undefined): string[] {
  const kinds = [...Map.groupBy(resources, ({ kind }) => kind)]
  const counts = kinds.map(([kind, { length }]) => `${length} ${(kindOf(kind) as Kind).plural}`)
  return [
    `Carried: ${counts.join(', ')}.`,
    ...(paths === undefined
      ? [`There is no nginx to ask for its prefix: relative directories were taken to be below ${USUAL_PREFIX}.`]
      : []),
    ...rootLines(resources),
    ...(secrets.length === 0 ? [] : ['Secrets to seal, before the sites are applied:']),
    ...secrets.map(
      ({ secret, file }) => `  meshctl secret set ${secret} -w ${place.workspace} -z '${place.zone}' -f ${plain(file)}`,
    ),
    ...section('Kept as nginx text', findings.kept),
    ...section('Not carried', findings.lost),
    'Other than before, wherever it is not set: requests to upstreams carry X-Real-IP and X-Forwarded-* headers, redirects of',
    'nginx itself name no host, the Server header has no version, files whose ending had no type may have one, upstreams over TLS',
    'are told which name is meant, and compressed answers may be brotli.',
    ...(resources.some(({ spec }) => spec['realClient'] !== undefined)
      ? ['The zone settings say whose word about clients counts (realClient): for all sites and streams of the zone.']
      : []),
  ]
}

/** Hosts serve files below what they name alone, and refuse a site with any others. */
function rootLines(resources: readonly Resource[]): string[] {
  const roots = resources.flatMap(({ kind, spec }) => (kind === 'Site' ? directoriesIn(spec) : []))
  const others = [...new Set(roots)].filter((root) => !/^\/(?:srv|var\/www)(?:\/|$)/.test(root)).toSorted()
  if (others.length === 0) return []
  return [
    'Directories that hosts have to name in nginx.static_roots, or they refuse the sites:',
    ...others.map((root) => `  ${plain(root)}`),
  ]
}

/** Of static routes, and of pages that are files. */
function directoriesIn(tree: Tree, within = ''): string[] {
  return Object.entries(tree).flatMap(([name, value]): string[] => {
    if (typeof value !== 'string') return isTree(value) ? directoriesIn(value, name) : []
    if (name === 'root' && within === 'static') return [value]
    return name === 'file' && value.startsWith('/') ? [dirname(value)] : []
  })
}

function proofLines(proof: Proof | string): string[] {
  if (typeof proof === 'string') return [`Not proven: ${plain(proof)}.`]
  const { asked, alike, differences, unasked } = proof
  const rest = unasked === 0 ? [] : [`Not asked: ${unasked} further requests, spread over all servers.`]
  if (differences.length === 0)
    return [
      `Proven: ${asked} requests got the same answers, in a sandbox, from the configuration and from what it became.`,
      ...rest,
    ]
  return [
    ...rest,
    `Not the same: ${asked - alike} of ${asked} requests are answered otherwise than by the configuration:`,
    ...differences.slice(0, DIFFERENCES_SHOWN).map((difference) => `  ${plain(difference)}`),
    ...(differences.length > DIFFERENCES_SHOWN ? [`  and ${differences.length - DIFFERENCES_SHOWN} more`] : []),
  ]
}

function section(title: string, findings: readonly Finding[]): string[] {
  if (findings.length === 0) return [`${title}: nothing.`]
  const lines = findings.map(({ place, what, why }) => `  ${plain(place)}  ${plain(what)}\n      ${plain(why)}`)
  return [`${title}:`, ...new Set(lines)]
}

function reasons(findings: readonly Finding[]): string {
  const said = findings.slice(0, 3).map(({ place, why }) => `${place}: ${why}`)
  return said.length === 0 ? 'give the directory of nginx.conf, or a file with server blocks' : said.join('; ')
}
