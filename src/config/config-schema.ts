/**
 * Every setting with its form, its default and its trade-off, as one strict schema; and that schema as a list, for help,
 * docs and the loader. Reads nothing and loads nothing: that is config.ts.
 */

import { isIPv4, isIPv6 } from 'node:net'
import { z } from 'zod'
import { isHex } from '../core/envelope.ts'
import { isName, isZone } from '../core/names.ts'
import { network } from '../core/resources/fields.ts'
import { parseLogLevel } from '../log.ts'

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
    .describe(
      'Dynamic modules to load beside those that a generation needs, which are found by themselves; paths of .so files. Each costs memory in every worker.',
    ),
  modules_directory: nginxPath()
    .default('')
    .describe('Where its dynamic modules lie. Empty: where `nginx -V` says. One without files: as if there were none.'),
  live_lane: z
    .boolean()
    .default(true)
    .describe(
      'Where nginx has the Lua module, endpoints and renewed certificates reach it without a reload. It costs up to a quarter of peak throughput; false has them go through reloads.',
    ),
  static_roots: z
    .array(nginxPath().min(1))
    .max(64)
    .default(['/srv', '/var/www'])
    .describe(
      'Directories below which sites may serve static files; symbolic links in them are followed. Anyone with an edit grant can publish what lies there, so never name one that holds keys. /, /proc, /sys, /dev, and what holds data_dir or a key of this node are refused.',
    ),
  max_cache_disk: text(16)
    .regex(/^[1-9]\d{0,5}[kmg]$/, 'a size such as 500m or 20g')
    .default('10g')
    .describe(
      'The disk that the caches of all policies may fill together, by their maxSize, shared out among workspaces. More keeps more answers; a cache beyond it keeps nothing.',
    ),
  refused_endpoints: z
    .array(text(64).refine((value) => network.safeParse(value).success, 'a network such as 10.0.0.0/8 or fe80::/10'))
    .max(64)
    .default(['169.254.0.0/16', 'fe80::/10'])
    .describe(
      'Networks that no upstream of this host gets to, named by address or by a name that resolves to one: those of metadata services unless told otherwise. Add what else tenants should not reach from here, such as 127.0.0.0/8 and ::1 where no backend runs on the host itself. The API of the node is always among them.',
    ),
  crs_directory: nginxPath()
    .default('')
    .describe(
      'Where the OWASP Core Rule Set lies: the directory with `rules/` in it. Empty: looked for in the usual places when the node starts. Policies with `coreRuleSet` need it, and ModSecurity.',
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
      'The longest that `nginx -t` may take for a change. It takes about 0.1 s for 1,000 sites, 10 times that with a certificate each; what serves already may take 5 times as long.',
    ),
  max_draining_workers: z
    .union([z.literal('auto'), integer(1, 10_000)])
    .default('auto')
    .describe(
      'Put off reloads while more old workers than this still serve connections: each keeps a whole configuration in memory. auto: four for each new one, at least 16.',
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

const httpTlsSchema = z.strictObject({
  identity: z
    .boolean()
    .default(false)
    .describe(
      "Whether the API speaks HTTPS with a certificate derived from this node's key, which `--pin` of meshctl proves and browsers ask about. Not together with cert and key.",
    ),
  cert: path()
    .default('')
    .describe(
      'Certificate chain (PEM) with which the API speaks HTTPS. Read at start. Empty, without identity: plain HTTP.',
    ),
  key: path().default('').describe('The private key of that certificate (PEM).'),
})

/** Every setting, in the order of help and docs. */
export const CONFIG_SCHEMA = z.strictObject({
  bind_address: address()
    .default('0.0.0.0')
    .describe('The address that peers connect to. `::` is all of IPv6 and IPv4.'),
  bind_port: port().default(9102).describe('The port that peers connect to. 0: any free one, which only tests want.'),
  http_bind_address: address()
    .default('127.0.0.1')
    .describe(
      'The address of the API, /health and /metrics. All but those two answer only with a token by a granted key; beyond loopback set http_tls, or a token can be read on the way.',
    ),
  http_bind_port: port().default(3000).describe('The port of the API. 0: any free one.'),
  http_open_metrics: z
    .boolean()
    .default(true)
    .describe(
      'Whether /metrics answers without a token, then without series that name sites and upstreams. false: who scrapes needs the token of a reader, too.',
    ),
  http_tls: httpTlsSchema.prefault({}).describe('TLS for the API.'),
  http_edit_key: path()
    .refine((value) => !isHex(value.trim().toLowerCase(), 64), 'the path of a key file, not the key itself')
    .default('')
    .describe(
      'A key file, mode 0600, with which this node signs plain edits (PUT and DELETE of /v1/resources) of callers who may make them themselves; their own key, not that of another node. Whoever takes this host can edit what that key may. Empty: it signs none.',
    ),
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

// ---------------------------------------------------------------------------------------------- the schema as a list

/** Variables of this prefix are settings. */
export const ENV_PREFIX = 'NXMESH_'

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

/** One setting of the schema. */
interface Leaf {
  readonly name: string
  readonly schema: z.ZodType
  readonly type: string
  readonly description: string
}

/** The part of the schema under defaults and prefaults. */
export function unwrap(type: z.ZodType): z.ZodType {
  return type instanceof z.ZodDefault || type instanceof z.ZodPrefault ? unwrap(type.unwrap() as z.ZodType) : type
}

/** The members of an object's schema; undefined for anything else. */
export function shapeOf(type: z.ZodType): Readonly<Record<string, z.ZodType>> | undefined {
  const inner = unwrap(type)
  return inner instanceof z.ZodObject ? inner.shape : undefined
}

/** The members that may stand at a place of the tree. */
export function shapeAt(keys: readonly PropertyKey[]): Readonly<Record<string, z.ZodType>> | undefined {
  let type: z.ZodType = CONFIG_SCHEMA
  for (const key of keys) {
    const inner = unwrap(type)
    const next = inner instanceof z.ZodArray ? (inner.element as z.ZodType) : shapeOf(inner)?.[key as string]
    if (next === undefined) return undefined
    type = next
  }
  return shapeOf(type)
}

/** Every setting that takes a value, by its dotted name. */
export const SETTINGS: readonly Leaf[] = leaves(CONFIG_SCHEMA, '')
export const SETTING_NAMES: readonly string[] = SETTINGS.map(({ name }) => name)

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

/** The environment variable of a setting. */
export function envName(setting: string): string {
  return ENV_PREFIX + setting.replaceAll('.', '_').toUpperCase()
}

/** What the settings are, in the order of the schema: for `--help` and docs. */
export function describeConfig(): readonly Setting[] {
  return SETTINGS.map(({ name, type, schema: leaf, description }) => {
    const value: unknown = leaf.safeParse(undefined).data
    return { name, env: envName(name), type, default: JSON.stringify(value), description }
  })
}
