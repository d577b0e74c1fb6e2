/**
 * The configuration: one strict schema with every setting, its default and its trade-off; YAML < environment < flags.
 * Reads the YAML file and nothing else; starts nothing, and never shows a secret. Called by the entries.
 */

import { readFileSync } from 'node:fs'
import { isIPv4, isIPv6 } from 'node:net'
import { join } from 'node:path'
import { parseDocument } from 'yaml'
import { z } from 'zod'
import { isHex } from './core/envelope.ts'
import { isName, isZone } from './core/names.ts'
import { nearest } from './core/resources/fields.ts'
import { MeshError } from './errors.ts'
import { parseLogLevel } from './log.ts'

/** A configuration file larger than this is not one. */
const FILE_BYTES_MAX = 1024 * 1024
/** Uses of one YAML anchor, which could otherwise multiply a small file. */
const ALIASES_MAX = 10

// ---------------------------------------------------------------------------------------------- the schema

const text = (max = 1024) => z.string().max(max)
const integer = (min: number, max: number) => z.int().min(min).max(max)
const seconds = (min: number, max: number) => z.number().min(min).max(max)
const port = () => integer(0, 65_535)
const address = () => text(255).regex(/^[0-9A-Za-z.:_-]+$/, 'an IP address or a host name')
/** A setting that may be left empty. */
const path = () => text(4096).refine((value) => !value.includes('\0'), 'a path')
/** A path that ends up in nginx's own configuration. */
const nginxPath = () => path().regex(/^[^\s;{}"'\\$]*$/, 'a path without spaces, quotes, $ ; { }')
const hostPort = () =>
  text(300).refine(isHostPort, 'host:port, as in 10.0.0.1:9102, edge-1.example.com:9102 or [2001:db8::1]:9102')
const publicKey = () => text(64).refine((value) => isHex(value, 64), 'a public key: 64 lower-case hex digits')
const ZONE_FORM = 'a dotted zone such as eu.west (not *: a node lies in named zones)'
const zone = () => text(253).refine(isNodeZone, ZONE_FORM)

const meshSchema = z.strictObject({
  id: text(64)
    .refine((value) => value === '' || isHex(value, 64), 'a mesh id: 64 lower-case hex digits')
    .default('')
    .describe(
      'Id of the mesh, as `meshctl init` prints it. It pins everything: no other mesh is ever joined. Empty: the first genesis from a key in nodes[] is taken, and kept.',
    ),
  genesis_file: path()
    .default('')
    .describe(
      'The genesis.json that `meshctl init` wrote: for the first node of a mesh, which has no peer to fetch it from. Later starts do not need it.',
    ),
  zone: text(253)
    .refine((value) => value === '' || isNodeZone(value), ZONE_FORM)
    .default('')
    .describe('The zone of this node. Its grant decides; this may only narrow it. Empty: the zones of the grant.'),
  zones: z
    .array(zone())
    .max(16)
    .default([])
    .describe('The zones of this node, when it is in several. Not together with zone.'),
  labels: z
    .record(text(63).refine(isName, 'a label name: lower-case letters, digits and dashes'), text(63))
    .refine((labels) => Object.keys(labels).length <= 32, 'at most 32 labels')
    .default({})
    .describe('Labels that a nodeSelector of a resource may ask for.'),
  advertise: z
    .array(hostPort())
    .max(8)
    .default([])
    .describe(
      'Addresses that other nodes may dial. Empty: those of the interfaces that bind_address covers. Set it behind NAT or in containers.',
    ),
})

const nodeSchema = z.strictObject({
  public_key: publicKey().describe('Public key of a node, as `meshctl key show` prints it.'),
  endpoints: z.array(hostPort()).min(1).max(8).describe('Where it may be dialled, tried in order.'),
})

const nginxSchema = z.strictObject({
  mode: z
    .enum(['own', 'attach', 'off'])
    .default('own')
    .describe(
      'own: start nginx and restart it when it dies. attach: use the nginx of pid_file, which something else starts. off: relay and store only.',
    ),
  binary: nginxPath().min(1).default('nginx').describe('The nginx program, a name on PATH or a path.'),
  directory: nginxPath()
    .default('')
    .describe('Where generations, logs and temporary files lie. Empty: `nginx` inside data_dir.'),
  pid_file: nginxPath()
    .default('')
    .describe('The pid file of nginx. Empty: `nginx.pid` inside directory, or /run/nginx.pid in mode attach.'),
  user: text(32)
    .regex(/^([a-z_][a-z0-9_-]*\$?)?$/, 'a user name')
    .default('')
    .describe('The user of the workers, when the master runs as root. Empty: what nginx was built with.'),
  modules: z
    .array(nginxPath().min(1))
    .max(64)
    .default([])
    .describe('Dynamic modules to load, as paths of .so files. Each costs memory in every worker.'),
  static_roots: z
    .array(nginxPath().min(1))
    .max(64)
    .default(['/srv', '/var/www'])
    .describe(
      'Directories below which sites may serve static files. Anyone with an edit grant can publish what lies there, so never name one that holds keys.',
    ),
  default_http_port: integer(1, 65_535)
    .default(8080)
    .describe('The port of a Site that names no listener. 80 needs root or a capability; 8080 works for every user.'),
  worker_processes: z
    .union([z.literal('auto'), integer(1, 512)])
    .default('auto')
    .describe('Workers of nginx; auto is one for each processor. Each holds the whole configuration in memory.'),
  test_timeout_seconds: seconds(1, 3600)
    .default(60)
    .describe(
      'Time limit of `nginx -t`. It takes about 0.1 s for 1,000 sites, and 10 times that with a certificate each.',
    ),
  max_draining_workers: integer(1, 10_000)
    .default(32)
    .describe(
      'Put off reloads while this many old workers still serve connections: each keeps a whole configuration in memory.',
    ),
  worker_shutdown_timeout_seconds: integer(0, 86_400)
    .default(240)
    .describe(
      'When old workers cut the connections they still have. Shorter saves memory, longer spares websockets; 0: never.',
    ),
  drift_interval_seconds: seconds(0, 86_400)
    .default(30)
    .describe('How often the files on disk are compared with what was applied, and put right. 0: only at start.'),
  stop_on_exit: z
    .boolean()
    .default(false)
    .describe('Whether nginx stops with the node. false keeps sites served while the node restarts or is upgraded.'),
})

const schema = z.strictObject({
  bind_address: address()
    .default('0.0.0.0')
    .describe('The address that peers connect to. `::` is all of IPv6 and IPv4.'),
  bind_port: port().default(9102).describe('The port that peers connect to. 0: any free one, which only tests want.'),
  http_bind_address: address()
    .default('127.0.0.1')
    .describe(
      'The address of the API, /health and /metrics. Until there are tokens, callers from beyond loopback get /health and /metrics alone.',
    ),
  http_bind_port: port().default(3000).describe('The port of the API. 0: any free one.'),
  network_id: text(64)
    .regex(/^[A-Za-z0-9._-]+$/, 'letters, digits, dots, dashes and underscores')
    .default('default')
    .describe('Nodes of different network ids do not talk. It keeps test and production apart; it is no secret.'),
  private_key_path: path()
    .refine((value) => !isHex(value.trim().toLowerCase(), 64), 'the path of a key file, not the key itself')
    .default('keys/node.key')
    .describe('The file with the key of this node, mode 0600. The environment variable PRIVATE_KEY beats it.'),
  data_dir: nginxPath()
    .min(1)
    .default('./data')
    .describe(
      'Where the store, the API socket and, unless told otherwise, the files of nginx lie. Local disk, not NFS.',
    ),
  log_level: text(1024)
    .refine(
      isLogLevel,
      'LEVEL, =LEVEL or target=LEVEL (also several, comma-separated), with LEVEL one of ERROR, WARN, INFO, DEBUG, TRACE',
    )
    .default('INFO')
    .describe(
      'LEVEL for NxMesh, =LEVEL for everything with the libraries, target=LEVEL for one part; comma-separated.',
    ),
  log_format: z
    .enum(['auto', 'text', 'json'])
    .default('auto')
    .describe('auto: text on a terminal, JSON lines elsewhere.'),
  mesh: meshSchema.prefault({}).describe('The mesh and the place of this node in it.'),
  nodes: z
    .array(nodeSchema)
    .max(256)
    .default([])
    .describe('Nodes to dial at first; others are learnt from them. One or two are enough, more survive more losses.'),
  target_peers: integer(1, 64)
    .default(6)
    .describe(
      'Connections that this node keeps up by dialling. More spread edits faster and cost traffic with each one.',
    ),
  gossip: z
    .boolean()
    .default(true)
    .describe(
      'Push edits at once. Without it they spread by sync alone: the same result, up to sync_interval_seconds later for each hop.',
    ),
  sync_interval_seconds: seconds(0.05, 3600)
    .default(10)
    .describe('How often this node compares its edits with a peer (+- 20 %). An idle comparison costs some 200 bytes.'),
  nginx: nginxSchema.prefault({}).describe('The nginx of this host.'),
})

// ---------------------------------------------------------------------------------------------- types

type CamelCase<S extends string> = S extends `${infer Head}_${infer Tail}` ? `${Head}${Capitalize<CamelCase<Tail>>}` : S
type Camel<T> = T extends readonly (infer Item)[]
  ? readonly Camel<Item>[]
  : T extends Record<string, unknown>
    ? string extends keyof T
      ? Readonly<T>
      : { readonly [K in keyof T as CamelCase<K & string>]: Camel<T[K]> }
    : T
type Settings = Camel<z.output<typeof schema>>

/** The settings as the code uses them: camelCase, complete, frozen; zones in one list, empty paths filled in. */
export type Config = Omit<Settings, 'mesh'> & { readonly mesh: Omit<Settings['mesh'], 'zone'> }

/** One setting, as help and documentation show it. */
export interface Setting {
  /** As in YAML, dotted: `nginx.stop_on_exit`. Also the name of a flag. */
  readonly name: string
  /** Its environment variable. */
  readonly env: string
  /** What it takes: `integer 0..65535`, `own | attach | off`, `list of host:port`. */
  readonly type: string
  /** As JSON. */
  readonly default: string
  readonly description: string
}

export interface ConfigSources {
  /** Path of a YAML file; undefined: none. */
  readonly file?: string | undefined
  readonly env: Readonly<Record<string, string | undefined>>
  /** Settings of the command line by dotted name, as text. */
  readonly flags?: Readonly<Record<string, string>>
}

/** Variables of this prefix are settings; another one is an error, so that a typing mistake is noticed. */
const ENV_PREFIX = 'NXMESH_'
/** Variables that meshctl (API, KEY) and the set-up (SETUP) read, which a shared shell profile may set for the daemon too. */
const ENV_OF_OTHERS: readonly string[] = ['NXMESH_API', 'NXMESH_KEY', 'NXMESH_SETUP']
/** Kubernetes tells every pod of a service called nxmesh in variables of this form (NXMESH_PORT=tcp://10.0.0.1:9102). */
const SERVICE_LINK = /_SERVICE_(HOST|PORT)|_PORT_\d+_(TCP|UDP)|=(tcp|udp):\/\//

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

  const result = schema.safeParse(input)
  for (const issue of result.error?.issues ?? []) problems.push(...explain(issue, input, origins))
  if (result.success) problems.push(...crossChecks(result.data))
  if (problems.length > 0 || !result.success) throw asError(problems)
  return complete(result.data)
}

/** What the settings are, in the order of the schema: for `--help` and docs. */
export function describeConfig(): readonly Setting[] {
  return SETTINGS.map(({ name, type, schema: leaf, description }) => {
    const value: unknown = leaf.safeParse(undefined).data
    return { name, env: envName(name), type, default: JSON.stringify(value), description }
  })
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

function crossChecks(settings: z.output<typeof schema>): Problem[] {
  const problems: Problem[] = []
  const { mesh, nginx, nodes } = settings
  if (mesh.zone !== '' && mesh.zones.length > 0) {
    problems.push({
      field: 'mesh.zones',
      message: 'mesh.zone and mesh.zones are both set',
      hint: 'Put all zones into mesh.zones.',
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

function complete(settings: z.output<typeof schema>): Config {
  const camel = toCamel(schema, settings) as Settings
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
    nearest(name, known) ??
    known.find((candidate) => last(candidate) === last(name)) ??
    known.find((candidate) => candidate.startsWith(`${name}_`))
  )
}

function showValue(field: string, value: unknown): string {
  if (field === 'private_key_path') return '(hidden)'
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

// ---------------------------------------------------------------------------------------------- the schema as data

interface Leaf {
  readonly name: string
  readonly schema: z.ZodType
  readonly type: string
  readonly description: string
}

/** The part of the schema under defaults and prefaults. */
function unwrap(type: z.ZodType): z.ZodType {
  return type instanceof z.ZodDefault || type instanceof z.ZodPrefault ? unwrap(type.unwrap() as z.ZodType) : type
}

function shapeOf(type: z.ZodType): Readonly<Record<string, z.ZodType>> | undefined {
  const inner = unwrap(type)
  return inner instanceof z.ZodObject ? inner.shape : undefined
}

function shapeAt(keys: readonly PropertyKey[]): Readonly<Record<string, z.ZodType>> | undefined {
  let type: z.ZodType = schema
  for (const key of keys) {
    const inner = unwrap(type)
    const next = inner instanceof z.ZodArray ? (inner.element as z.ZodType) : shapeOf(inner)?.[key as string]
    if (next === undefined) return undefined
    type = next
  }
  return shapeOf(type)
}

const SETTINGS: readonly Leaf[] = leaves(schema, '')
const SETTING_NAMES = SETTINGS.map(({ name }) => name)

function leaves(type: z.ZodType, name: string): Leaf[] {
  const shape = shapeOf(type)
  if (shape === undefined) return [{ name, schema: type, type: typeName(type), description: type.description ?? '' }]
  return Object.entries(shape).flatMap(([key, inner]) => leaves(inner, name === '' ? key : `${name}.${key}`))
}

function typeName(type: z.ZodType): string {
  const inner = unwrap(type)
  if (inner instanceof z.ZodEnum) return inner.options.join(' | ')
  if (inner instanceof z.ZodLiteral) return String(inner.value)
  if (inner instanceof z.ZodUnion) {
    return inner.options
      .map((option) => typeName(option as z.ZodType))
      .filter((option) => option !== '')
      .join(' | ')
  }
  if (inner instanceof z.ZodArray)
    return `list of ${shapeOf(inner.element as z.ZodType) === undefined ? typeName(inner.element as z.ZodType) : 'nodes'}`
  if (inner instanceof z.ZodRecord) return 'name: text'
  if (inner instanceof z.ZodNumber) return `${inner.isInt ? 'integer' : 'number'} ${inner.minValue}..${inner.maxValue}`
  return inner instanceof z.ZodBoolean ? 'true | false' : 'text'
}

function envName(setting: string): string {
  return ENV_PREFIX + setting.replaceAll('.', '_').toUpperCase()
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

function isLogLevel(value: string): boolean {
  try {
    parseLogLevel(value)
    return true
  } catch {
    return false
  }
}

function isNodeZone(value: string): boolean {
  return value !== '*' && isZone(value)
}

function isHostPort(value: string): boolean {
  const [, host = '', portText = ''] = /^(\[[0-9A-Fa-f:.]+\]|[^:[\]]+):(\d{1,5})$/.exec(value) ?? []
  const number = Number(portText)
  if (host === '' || number < 1 || number > 65_535) return false
  if (host.startsWith('[')) return isIPv6(host.slice(1, -1))
  return /^[0-9.]+$/.test(host)
    ? isIPv4(host)
    : host.length <= 253 && host.split('.').every((label) => /^(?!-)[A-Za-z0-9_-]{1,63}(?<!-)$/.test(label))
}
