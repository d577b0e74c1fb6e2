/**
 * The configuration as the code uses it: YAML < environment < flags, checked against the schema of config-schema.ts, every
 * mistake named with its place. Reads the YAML file and nothing else; starts nothing, and never shows a secret.
 */

import { readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { parseDocument } from 'yaml'
import { z } from 'zod'
import {
  CONFIG_SCHEMA,
  envName,
  ENV_PREFIX,
  SETTING_NAMES,
  SETTINGS,
  shapeAt,
  shapeOf,
  unwrap,
} from './config-schema.ts'
import { nearestName } from '../core/nearest-name.ts'
import { MeshError } from '../errors.ts'

/** A configuration file larger than this is not one. */
const FILE_BYTES_MAX = 1024 * 1024
/** Uses of one YAML anchor, which could otherwise multiply a small file. */
const ALIASES_MAX = 10
/** Variables that meshctl and, the last one, the set-up read, which a shared shell profile may set for the daemon too. */
const ENV_OF_OTHERS: readonly string[] = ['API', 'CA', 'FINGERPRINT', 'KEY', 'PIN', 'SETUP'].map(
  (name) => ENV_PREFIX + name,
)
/** Kubernetes tells every pod of a service called nxmesh in variables of this form (NXMESH_PORT=tcp://10.0.0.1:9102). */
const SERVICE_LINK = /_SERVICE_(HOST|PORT)|_PORT_\d+_(TCP|UDP)|=(tcp|udp):\/\//

type CamelCase<S extends string> = S extends `${infer Head}_${infer Tail}` ? `${Head}${Capitalize<CamelCase<Tail>>}` : S
type Camel<T> = T extends readonly (infer Item)[]
  ? readonly Camel<Item>[]
  : T extends Record<string, unknown>
    ? string extends keyof T
      ? Readonly<T>
      : { readonly [K in keyof T as CamelCase<K & string>]: Camel<T[K]> }
    : T
type Values = z.output<typeof CONFIG_SCHEMA>
type Settings = Camel<Values>

/** The settings as the code uses them: camelCase, complete, frozen; zones in one list, empty paths filled in. */
export type Config = Omit<Settings, 'mesh'> & { readonly mesh: Omit<Settings['mesh'], 'zone'> }

export interface ConfigSources {
  /** Path of a YAML file; undefined: none. */
  readonly file?: string | undefined
  readonly env: Readonly<Record<string, string | undefined>>
  /** Settings of the command line by dotted name, as text. */
  readonly flags?: Readonly<Record<string, string>>
}

// ---------------------------------------------------------------------------------------------- loading

/**
 * The configuration from file, environment and flags, later ones winning setting by setting. An empty value, in YAML
 * or the environment, is the default. Lists in the environment are comma-separated; labels are `name=value`; nodes are `KEY@host:port+host:port`.
 * @throws MeshError `config_invalid`: names every wrong setting, where it was set, and what is expected.
 */
export function loadConfig(sources: ConfigSources): Config {
  const problems: Problem[] = []
  const origins = new Map<string, string>()
  const input = sources.file === undefined ? {} : readYaml(sources.file)
  for (const key of Object.keys(input)) origins.set(key, sources.file as string)
  for (const { name, value, origin } of textSettings(sources, problems)) setPath(input, name, value, origin, origins)

  const result = CONFIG_SCHEMA.safeParse(input)
  for (const issue of result.error?.issues ?? []) problems.push(...explain(issue, input, origins))
  if (result.success) problems.push(...crossChecks(result.data))
  if (problems.length > 0 || !result.success) throw asError(problems)
  return complete(result.data)
}

type Tree = { [key: string]: unknown }

interface Problem {
  readonly field: string
  readonly message: string
  readonly value?: string
  readonly hint?: string
}

function readYaml(file: string): Tree {
  const refuse = (message: string, hint: string, cause?: unknown): MeshError =>
    new MeshError('config_invalid', message, { field: 'config', hint }, cause)
  let source: string
  try {
    source = readFileSync(file, 'utf8')
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    const what = code === 'ENOENT' ? `there is no configuration file ${file}` : `cannot read ${file}: ${message}`
    throw refuse(what, 'Give its path with -c FILE; config.example.yaml shows all settings.', error)
  }
  const form = 'Settings are lines such as `bind_port: 9102`; config.example.yaml shows all of them.'
  if (source.length > FILE_BYTES_MAX) throw refuse(`${file} is over ${FILE_BYTES_MAX} bytes`, form)
  let tree: unknown
  try {
    const document = parseDocument(source)
    if (document.errors[0] !== undefined) throw document.errors[0]
    tree = withoutNulls(document.toJS({ maxAliasCount: ALIASES_MAX }) ?? {})
  } catch (error) {
    throw refuse(`${file} is not YAML that can be read: ${(error as Error).message.trim()}`, form, error)
  }
  if (!isTree(tree)) throw refuse(`${file} holds no settings`, form)
  return tree
}

/** A key without a value is a key that was not set. */
function withoutNulls(value: unknown): unknown {
  if (value === null) return undefined
  if (!isTree(value)) return value
  return Object.fromEntries(
    Object.entries(value)
      .map(([key, entry]) => [key, withoutNulls(entry)] as const)
      .filter(([, entry]) => entry !== undefined),
  )
}

interface TextSetting {
  readonly name: string
  readonly value: unknown
  readonly origin: string
}

/** Settings given as text, weakest first, converted to what their type asks for. */
function textSettings(sources: ConfigSources, problems: Problem[]): TextSetting[] {
  const settings: TextSetting[] = []
  for (const [variable, value] of Object.entries(sources.env)) {
    // Another variable of the prefix is an error, so that a typing mistake is noticed.
    if (!variable.startsWith(ENV_PREFIX) || value === undefined || value === '') continue
    if (ENV_OF_OTHERS.includes(variable) || SERVICE_LINK.test(`${variable}=${value}`)) continue
    const setting = SETTINGS.find(({ name }) => envName(name) === variable)
    if (setting === undefined) problems.push(unknownVariable(variable))
    else settings.push({ name: setting.name, value: fromText(unwrap(setting.schema), value), origin: variable })
  }
  const origin = 'the command line'
  for (const [flag, value] of Object.entries(sources.flags ?? {})) {
    const setting = SETTINGS.find(({ name }) => name === flag)
    if (setting === undefined) problems.push(unknownKey(flag, origin, SETTING_NAMES))
    else settings.push({ name: setting.name, value: fromText(unwrap(setting.schema), value), origin })
  }
  return settings
}

/** The value that text stands for. What does not convert stays text, and the schema says what is expected. */
function fromText(type: z.ZodType, value: string): unknown {
  if (type instanceof z.ZodNumber) return /^-?\d+(\.\d+)?$/.test(value) ? Number(value) : value
  if (type instanceof z.ZodBoolean) return value === 'true' ? true : value === 'false' ? false : value
  if (type instanceof z.ZodUnion) {
    const options = type.options.map((option) => fromText(option as z.ZodType, value))
    return options.find((option) => typeof option !== 'string') ?? value
  }
  const items = value
    .split(',')
    .map((item) => item.trim())
    .filter((item) => item !== '')
  if (type instanceof z.ZodArray) {
    if (shapeOf(type.element as z.ZodType) === undefined) return items
    return items.map((item) => {
      const [key, endpoints = ''] = item.split('@')
      return { public_key: key, endpoints: endpoints === '' ? [] : endpoints.split('+') }
    })
  }
  if (type instanceof z.ZodRecord) {
    return Object.fromEntries(
      items.map((item) => [item.split('=', 1)[0], item.includes('=') ? item.slice(item.indexOf('=') + 1) : '']),
    )
  }
  return value
}

function crossChecks(settings: Values): Problem[] {
  const problems: Problem[] = []
  const { mesh, nginx, nodes } = settings
  if (mesh.zone !== '' && mesh.zones.length > 0) {
    problems.push({
      field: 'mesh.zones',
      message: 'mesh.zone and mesh.zones are both set',
      hint: 'Put all zones into mesh.zones.',
    })
  }
  const { cert, key, identity } = settings.http_tls
  if (identity && (cert !== '' || key !== '')) {
    problems.push({
      field: 'http_tls.identity',
      message: 'http_tls has both identity and a certificate',
      hint: 'Set identity: true alone, or name cert and key and leave identity out.',
    })
  }
  if ((cert === '') !== (key === '')) {
    problems.push({
      field: cert === '' ? 'http_tls.cert' : 'http_tls.key',
      message: 'http_tls needs both cert and key',
      hint: 'Name both files, or neither for plain HTTP.',
    })
  }
  const ports = [
    ['bind_port', settings.bind_port],
    ['http_bind_port', settings.http_bind_port],
    ...(nginx.mode === 'off' ? [] : [['nginx.default_http_port', nginx.default_http_port] as const]),
  ] as const
  for (const [index, [field, value]] of ports.entries()) {
    const other = ports.slice(0, index).find(([, earlier]) => earlier === value && value !== 0)
    if (other !== undefined)
      problems.push({
        field,
        message: `${field} and ${other[0]} are both ${value}`,
        value: String(value),
        hint: 'Give each a port of its own.',
      })
  }
  if (nginx.mode !== 'off') problems.push(...rootProblems(settings))
  const seen = new Set<string>()
  for (const [index, { public_key: key }] of nodes.entries()) {
    if (seen.has(key))
      problems.push({
        field: `nodes.${index}.public_key`,
        message: `nodes lists ${key} twice`,
        hint: 'Put all its endpoints into one entry.',
      })
    seen.add(key)
  }
  return problems
}

/** What is no place of files: the kernel shows processes there, with what they know, and devices. */
const KERNEL_ROOTS: readonly string[] = ['/dev', '/proc', '/sys']

function rootProblems({ nginx, data_dir, private_key_path, http_edit_key, http_tls }: Values): Problem[] {
  const own = Object.entries({ data_dir, private_key_path, http_edit_key, 'http_tls.key': http_tls.key })
  const isIn = (path: string, directory: string) => `${resolve(path)}/`.startsWith(`${resolve(directory)}/`)
  return nginx.static_roots.flatMap((root) => {
    const [setting] = own.find(([, path]) => path !== '' && isIn(path, root)) ?? []
    const why =
      resolve(root) === '/'
        ? 'is all of the host'
        : KERNEL_ROOTS.some((path) => isIn(root, path))
          ? 'holds no files, but what the kernel tells'
          : setting !== undefined
            ? `holds ${setting}`
            : isIn(root, data_dir)
              ? 'is in data_dir'
              : undefined
    if (why === undefined) return []
    const hint = 'Name the directories of sites alone, such as /srv/www: editors can publish all that lies there.'
    return [{ field: 'nginx.static_roots', message: `nginx.static_roots has ${root}, which ${why}`, value: root, hint }]
  })
}

function complete(settings: Values): Config {
  const camel = toCamel(CONFIG_SCHEMA, settings) as Settings
  const { zone: single, ...mesh } = camel.mesh
  const directory = camel.nginx.directory || join(camel.dataDir, 'nginx')
  const pidFile =
    camel.nginx.pidFile || (camel.nginx.mode === 'attach' ? '/run/nginx.pid' : join(directory, 'nginx.pid'))
  return deepFreeze({
    ...camel,
    mesh: { ...mesh, zones: single === '' ? [...new Set(mesh.zones)] : [single] },
    nginx: { ...camel.nginx, directory, pidFile },
  })
}

// ---------------------------------------------------------------------------------------------- problems

type Issue = z.core.$ZodIssue

function explain(issue: Issue, input: Tree, origins: ReadonlyMap<string, string>): Problem[] {
  const field = issue.path.join('.')
  const inside = (key: string): string => [...issue.path, key].join('.')
  if (issue.code === 'unrecognized_keys') {
    const siblings = Object.keys(shapeAt(issue.path) ?? {}).map(inside)
    return issue.keys.map((key) => unknownKey(inside(key), originOf(inside(key), origins), siblings))
  }
  const value = issue.path.reduce<unknown>((tree, key) => (tree as Tree | undefined)?.[key as string], input)
  const shown = showValue(field, value)
  const got = value === undefined ? 'and it is missing' : `got ${shown}`
  return [
    { field, message: `${field} (${originOf(field, origins)}): expected ${expectation(issue)}, ${got}`, value: shown },
  ]
}

function expectation(issue: Issue): string {
  // Numbers, choices and switches say more in one phrase than the check that failed first.
  const leaf = SETTINGS.find(({ name }) => name === issue.path.join('.'))
  if (leaf !== undefined && leaf.type !== 'text' && issue.code !== 'custom' && !isContainer(leaf.schema))
    return leaf.type
  switch (issue.code) {
    case 'invalid_type':
      return TYPE_PHRASES[issue.expected] ?? issue.expected
    case 'too_small':
      return 'something, not nothing'
    case 'too_big':
      return `at most ${issue.maximum} ${issue.origin === 'string' ? 'characters' : 'entries'}`
    case 'invalid_key':
      return issue.issues.map(({ message }) => message).join(', ')
    default:
      return issue.message
  }
}

const TYPE_PHRASES: Readonly<Record<string, string>> = {
  string: 'text (put a number in quotes)',
  array: 'a list',
  object: 'a section',
  record: 'a section',
}

function isContainer(type: z.ZodType): boolean {
  const inner = unwrap(type)
  return inner instanceof z.ZodArray || inner instanceof z.ZodRecord
}

function unknownKey(name: string, origin: string, siblings: readonly string[]): Problem {
  const close = likely(name, siblings) ?? likely(name, SETTING_NAMES)
  const hint = close === undefined ? 'config.example.yaml shows all settings.' : `Did you mean ${close}?`
  return { field: name, message: `${name} (${origin}) is not a setting`, hint }
}

function unknownVariable(variable: string): Problem {
  const close = variable === 'NXMESH_PRIVATE_KEY' ? 'PRIVATE_KEY' : likely(variable, SETTING_NAMES.map(envName))
  const hint = close === undefined ? 'config.example.yaml shows all settings.' : `Did you mean ${close}?`
  return { field: variable, message: `${variable} (the environment) is not a setting`, hint }
}

/** The known name that was likely meant: misspelt, put into another section, or without its unit. */
function likely(name: string, known: readonly string[]): string | undefined {
  const last = (dotted: string): string => dotted.slice(dotted.lastIndexOf('.') + 1)
  return (
    nearestName(name, known) ??
    known.find((candidate) => last(candidate) === last(name)) ??
    known.find((candidate) => candidate.startsWith(`${name}_`))
  )
}

function showValue(field: string, value: unknown): string {
  // Where a key is named, somebody may have put the key.
  if (field === 'private_key_path' || field === 'http_edit_key') return '(hidden)'
  const shown = JSON.stringify(value) ?? 'nothing'
  return shown.length > 80 ? `${shown.slice(0, 80)}…` : shown
}

function originOf(field: string, origins: ReadonlyMap<string, string>): string {
  for (let name = field; name !== ''; name = name.slice(0, Math.max(0, name.lastIndexOf('.')))) {
    const origin = origins.get(name)
    if (origin !== undefined) return origin
  }
  return 'the configuration'
}

function asError(problems: readonly Problem[]): MeshError {
  const [first] = problems as [Problem]
  const lines = problems.map(({ message, hint }) => (hint === undefined ? message : `${message}. ${hint}`))
  const { field, value, hint } = first
  const details = { field, ...(value !== undefined && { value }), ...(hint !== undefined && { hint }), problems: lines }
  if (problems.length === 1) return new MeshError('config_invalid', first.message, details)
  return new MeshError('config_invalid', `${problems.length} problems in the configuration:\n  ${lines.join('\n  ')}`, {
    field,
    problems: lines,
  })
}

// ---------------------------------------------------------------------------------------------- trees

function isTree(value: unknown): value is Tree {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function setPath(tree: Tree, setting: string, value: unknown, origin: string, origins: Map<string, string>): void {
  const keys = setting.split('.')
  const last = keys.pop() as string
  let at = tree
  for (const key of keys) {
    // A section of the wrong type is an error of its own, which the schema reports; do not hide it.
    if (at[key] === undefined) at[key] = {}
    if (!isTree(at[key])) return
    at = at[key]
  }
  at[last] = value
  origins.set(setting, origin)
}

function toCamel(type: z.ZodType, value: unknown): unknown {
  const inner = unwrap(type)
  if (inner instanceof z.ZodArray) return (value as unknown[]).map((item) => toCamel(inner.element as z.ZodType, item))
  const shape = shapeOf(inner)
  if (shape === undefined) return value
  return Object.fromEntries(
    Object.entries(shape).map(([key, member]) => [camelCase(key), toCamel(member, (value as Tree)[key])]),
  )
}

function camelCase(key: string): string {
  return key.replace(/_([a-z0-9])/g, (_, letter: string) => letter.toUpperCase())
}

function deepFreeze<T>(value: T): T {
  if (typeof value === 'object' && value !== null && !Object.isFrozen(value)) {
    Object.freeze(value)
    for (const member of Object.values(value)) deepFreeze(member)
  }
  return value
}
