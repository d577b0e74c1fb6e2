#!/usr/bin/env node
/**
 * Entry of the daemon: arguments and signals in, exit code out. Loads configuration and key and runs one node until it is
 * told to stop. Without a configuration it runs a mesh of one in ./data. Only the two entries touch `process`.
 */

import { existsSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { parseArgs } from 'node:util'
import { systemClock } from './adapters/clock.ts'
import { createKeyFile, loadEditKey, loadKey } from './adapters/identity.ts'
import { visitPeer } from './adapters/network.ts'
import { describeConfig } from './config/config-schema.ts'
import { loadConfig, type Config } from './config/config.ts'
import { wireFromJson } from './core/codec.ts'
import type { KeyPair, WireEnvelope } from './core/envelope.ts'
import { parseTicket } from './core/ticket.ts'
import { asMeshError, ERROR_CODES, MeshError } from './errors.ts'
import { checkJoinConfig, writeJoinConfig } from './joining/join-config.ts'
import { untilLetIn } from './joining/joiner.ts'
import { createLog } from './log.ts'
import { MeshNode } from './node.ts'
import type { Quickstart } from './quickstart.ts'
import { VERSION } from './version.ts'

const USAGE = `mesh-node ${VERSION}: one node of an nginx fleet that needs no master

  mesh-node -c config.yaml [-k KEY_FILE] [-l LEVEL] [--SETTING=VALUE ...]
  mesh-node join TICKET [-c config.yaml] [-k KEY_FILE] [--SETTING=VALUE ...]
                                     ask to be let into the mesh of a ticket, then run
  mesh-node check -c config.yaml     check the configuration and the key, start nothing
  mesh-node                          a mesh of one in ./data, to try things out

  -c, --config FILE   configuration; config.example.yaml shows every setting
  -k, --key FILE      key file, in place of private_key_path (PRIVATE_KEY beats both)
  -l, --log LEVEL     ERROR, WARN, INFO, DEBUG or TRACE; target=LEVEL for one part
  -h, --help          this and all settings     --version
`

/** When the first apply is over, most of what the start needed is garbage; more gathers slowly. */
const COLLECT_FIRST_MS = 5_000
const COLLECT_EVERY_MS = 5 * 60_000
/** A larger heap would stand still for too long, and what is gained is little beside it. */
const SMALL_HEAP_BYTES = 64 * 1024 * 1024

interface Arguments {
  readonly command: string | undefined
  /** Of join. */
  readonly ticket: string
  readonly configFile: string | undefined
  /** Settings by dotted name. */
  readonly flags: Record<string, string>
  readonly wants: 'run' | 'help' | 'version'
}

function parseArguments(argv: readonly string[]): Arguments {
  const options = {
    config: { type: 'string', short: 'c' },
    key: { type: 'string', short: 'k' },
    log: { type: 'string', short: 'l' },
    help: { type: 'boolean', short: 'h' },
    version: { type: 'boolean' },
  } as const
  const { values, positionals } = parseArgs({ args: [...argv], options, strict: false, allowPositionals: true })
  const flags: Record<string, string> = {}
  for (const [name, value] of Object.entries(values)) {
    if (Object.hasOwn(options, name)) continue
    if (typeof value !== 'string')
      throw new MeshError('usage', `--${name} needs a value`, { hint: `Write --${name}=VALUE.` })
    flags[name] = value
  }
  for (const [name, setting] of [
    ['key', 'private_key_path'],
    ['log', 'log_level'],
  ] as const) {
    const value = values[name]
    if (value === true) throw new MeshError('usage', `--${name} needs a value`, { hint: 'See mesh-node --help.' })
    if (typeof value === 'string') flags[setting] = value
  }
  if (values.config === true) throw new MeshError('usage', '-c needs a file', { hint: 'See mesh-node --help.' })
  const [command, ...others] = positionals
  const [ticket, ...extra] = command === 'join' ? others : [undefined, ...others]
  if (extra.length > 0 || (command !== undefined && command !== 'check' && command !== 'join')) {
    throw new MeshError('usage', `unknown argument ${extra[0] ?? command}`, { hint: 'See mesh-node --help.' })
  }
  if (command === 'join' && ticket === undefined) {
    throw new MeshError('usage', 'join needs a ticket', { hint: 'Give the line that meshctl invite printed.' })
  }
  const wants = values.help === true ? 'help' : values.version === true ? 'version' : 'run'
  return { command, ticket: ticket ?? '', configFile: values.config as string | undefined, flags, wants }
}

function help(): string {
  const settings = describeConfig().map(({ name, env, type, default: value, description }) => {
    return `  ${name} (${type}; ${value}; ${env})\n      ${description}`
  })
  return `${USAGE}\nSettings: YAML < environment < flags.\n\n${settings.join('\n')}\n`
}

/** What stands in for a configuration must know where it will lie and whose key the node will have. */
async function quickstartWith(flags: Readonly<Record<string, string>>): Promise<Quickstart> {
  const { env } = process
  const directory = flags['data_dir'] || env['NXMESH_DATA_DIR'] || 'data'
  // It brings all of meshctl, which a node with a configuration has no use for.
  const { quickstart } = await import('./quickstart.ts')
  return await quickstart(directory, { file: flags['private_key_path'] || env['NXMESH_PRIVATE_KEY_PATH'], env })
}

/** The envelopes of the file that `meshctl init` wrote. */
async function readFounding(config: Config): Promise<WireEnvelope[]> {
  const file = config.mesh.genesisFile
  if (file === '') return []
  const field = { field: 'mesh.genesis_file', value: file }
  try {
    const content = JSON.parse(await readFile(file, 'utf8')) as { envelopes?: unknown }
    if (!Array.isArray(content.envelopes)) throw new MeshError('config_invalid', 'it holds no list of envelopes')
    return content.envelopes.map((value, index) => wireFromJson(value, `envelopes[${index}]`))
  } catch (error) {
    const hint = 'Give the genesis.json that meshctl init wrote, or leave mesh.genesis_file out: peers have it too.'
    throw new MeshError(
      'config_invalid',
      `${file} cannot be used: ${asMeshError(error).message}`,
      { ...field, hint },
      error,
    )
  }
}

/** A terminal signals all processes of `npm start`, and npm passes it on: what comes this soon after is the same Ctrl-C. */
const SAME_SIGNAL_MS = 1_000

/** Aborts on the first SIGINT or SIGTERM; a second one ends the process at once. */
function untilSignalled(): AbortSignal {
  const controller = new AbortController()
  let firstAt = 0
  const onSignal = (name: NodeJS.Signals): void => {
    if (controller.signal.aborted) {
      if (performance.now() - firstAt > SAME_SIGNAL_MS) process.exit(name === 'SIGINT' ? 130 : 143)
      return
    }
    firstAt = performance.now()
    controller.abort(new MeshError('unavailable', `stopped by ${name}`))
  }
  process.on('SIGINT', onSignal)
  process.on('SIGTERM', onSignal)
  return controller.signal
}

interface Joining {
  readonly file: string
  readonly config: Config
  readonly key: KeyPair
  readonly ticket: string
}

/** Configuration and key of a host that joins: made unless they are there. */
async function prepareJoin(ticket: string, file: string, flags: Readonly<Record<string, string>>): Promise<Joining> {
  const content = parseTicket(ticket)
  const isNew = await writeJoinConfig(file, content, flags)
  const config = loadConfig({ file, env: process.env, flags })
  checkJoinConfig(file, config, content)
  const hasKey = (process.env['PRIVATE_KEY'] ?? '') !== '' || existsSync(config.privateKeyPath)
  const key = hasKey
    ? await loadKey({ file: config.privateKeyPath, env: process.env })
    : await createKeyFile(config.privateKeyPath)
  const made = [...(isNew ? [file] : []), ...(hasKey ? [] : [config.privateKeyPath])]
  if (made.length > 0) process.stdout.write(`made ${made.join(' and ')}\n`)
  process.stdout.write(`this host’s key is ${key.publicKey}\n`)
  return { file, config, key, ticket }
}

/** Resolves when the host was let in. */
async function join({ file, config, key, ticket }: Joining, signal: AbortSignal): Promise<void> {
  // Between two tries nothing else would keep this process.
  const awake = setInterval(() => undefined, 60_000)
  await untilLetIn({
    ticket,
    key,
    zones: config.mesh.zones,
    labels: config.mesh.labels,
    version: VERSION,
    visiting: (peer, abort) => visitPeer({ keySeed: key.seed, networkId: config.networkId }, peer, abort),
    clock: systemClock,
    random: Math.random,
    signal,
    notice: (text) => process.stdout.write(`${text}\n`),
  }).finally(() => clearInterval(awake))
  process.stdout.write(`this host was let in; from now on start it with: mesh-node -c ${file}\n`)
}

/**
 * Gives garbage back to the system now and then. V8 waits until much is allocated, which an idle node does not do: it would sit
 * on ten or more megabytes of it for ever. Does nothing without --expose-gc, which scripts/mesh-node gives.
 */
function collectGarbageNowAndThen(): void {
  const collect = (): void => {
    if (process.memoryUsage().heapUsed > SMALL_HEAP_BYTES) return
    void globalThis.gc?.({ type: 'major', execution: 'async', flavor: 'last-resort' })
  }
  setTimeout(collect, COLLECT_FIRST_MS).unref()
  setInterval(collect, COLLECT_EVERY_MS).unref()
}

async function main(): Promise<void> {
  const { command, ticket, configFile, flags, wants } = parseArguments(process.argv.slice(2))
  if (wants === 'help') return void process.stdout.write(help())
  if (wants === 'version') return void process.stdout.write(`${VERSION}\n`)
  if (command === 'check' && configFile === undefined) throw new MeshError('usage', 'check needs -c FILE')

  const stopped = untilSignalled()
  const joining = command === 'join' ? await prepareJoin(ticket, configFile ?? 'config.yaml', flags) : undefined
  if (joining !== undefined) await join(joining, stopped)

  const quick = configFile === undefined && joining === undefined ? await quickstartWith(flags) : undefined
  const file = configFile ?? joining?.file ?? quick?.configFile
  const config = loadConfig({ file, env: process.env, flags })
  const publicKeys = config.nodes.map((node) => node.publicKey)
  const key = await loadKey({ file: config.privateKeyPath, env: process.env, publicKeys })
  const editKey = await loadEditKey(config.httpEditKey, key)
  const founding = await readFounding(config)
  if (command === 'check')
    return void process.stdout.write(`${configFile} is valid; this node’s public key is ${key.publicKey}\n`)

  const log = createLog({ level: config.logLevel, format: config.logFormat, stream: process.stderr, now: Date.now })
  const node = new MeshNode({ config, key, editKey, log, founding })
  await quick?.checkPorts(config)
  await node.start({ signal: stopped })
  try {
    await quick?.welcome({
      config,
      node,
      signal: stopped,
      write: (text) => process.stdout.write(text),
    })
    collectGarbageNowAndThen()
    if (!stopped.aborted) await new Promise((resolve) => stopped.addEventListener('abort', resolve, { once: true }))
  } finally {
    log.info('stopping')
    await node.stop()
  }
}

try {
  await main()
  process.exit(0)
} catch (error) {
  const { code, message, details, stack } = asMeshError(error)
  const { field } = details
  const place = field === undefined || message.includes(field) ? '' : ` (${field})`
  process.stderr.write(`mesh-node: ${message}${place}\n`)
  if (details.hint !== undefined) process.stderr.write(`  ${details.hint}\n`)
  if (code === 'internal') process.stderr.write(`${stack}\n`)
  process.exit(ERROR_CODES[code].exit)
}
