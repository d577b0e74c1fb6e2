/**
 * What every verb of meshctl works with: the parsed command line, output that respects the terminal, the node to talk to and
 * the key to sign with. Opens nothing until a verb asks for it. Built by run.ts.
 */

import { access, readFile } from 'node:fs/promises'
import { homedir } from 'node:os'
import { join, resolve } from 'node:path'
import { loadKey } from '../adapters/identity.ts'
import { isHex, parseEnvelope, type Envelope, type GenesisBody, type KeyPair } from '../core/envelope.ts'
import { MeshError } from '../errors.ts'
import { Author } from './signing/author.ts'
import { ChainFile } from './signing/chain-file.ts'
import { ApiClient } from './asking/client.ts'
import type { CliHost } from './host.ts'
import { OwnMesh, otherMesh } from './signing/own-mesh.ts'
import { paint, type Paint } from './terminal.ts'
import { fingerprintOf, isPinned, parsePins, type Trust } from './asking/trust.ts'

export interface OptionSpec {
  readonly type: 'string' | 'boolean'
  readonly short?: string
  readonly multiple?: boolean
  /** Placeholder of the value in help. */
  readonly value?: string
  readonly description: string
}
export type OptionSpecs = Readonly<Record<string, OptionSpec>>

export interface Verb {
  readonly name: string
  /** One line. */
  readonly summary: string
  /** What follows `meshctl`. */
  readonly usage: readonly string[]
  readonly details?: string
  readonly options: OptionSpecs
  /** Complete commands. */
  readonly examples: readonly string[]
  /** Resolves with an exit code; undefined is 0. @throws MeshError */
  run(cli: Cli, args: Args): Promise<number | undefined>
}

/** Values of the command line after parseArgs. */
export class Args {
  readonly positionals: readonly string[]
  readonly #values: Readonly<Record<string, unknown>>

  constructor(positionals: readonly string[], values: Readonly<Record<string, unknown>>) {
    this.positionals = positionals
    this.#values = values
  }

  text(name: string): string | undefined {
    return this.list(name).at(-1)
  }

  /** Every value of an option that may be given several times. */
  list(name: string): string[] {
    const value = this.#values[name]
    const given = Array.isArray(value) ? value : value === undefined ? [] : [value]
    return given.filter((item): item is string => typeof item === 'string')
  }

  /** The same, with commas between values too; sorted, each once. */
  items(name: string): string[] {
    const items = this.list(name).flatMap((value) => value.split(','))
    return [...new Set(items.map((item) => item.trim()).filter((item) => item !== ''))].toSorted()
  }

  flag(name: string): boolean {
    return this.#values[name] === true
  }

  /** Exactly these positional arguments. @throws MeshError `usage`. */
  expect(...names: readonly string[]): readonly string[] {
    if (this.positionals.length !== names.length) {
      throw usage(
        `expected ${names.length === 0 ? 'no arguments' : names.join(' ')}, got ${this.positionals.join(' ') || 'nothing'}`,
      )
    }
    return this.positionals
  }
}

export type Format = 'table' | 'wide' | 'yaml' | 'json'
const FORMATS: readonly Format[] = ['table', 'wide', 'yaml', 'json']

const DEFAULT_SOCKET = 'data/api.sock'
/** Of a node that was installed as the README says. */
const SYSTEM_SOCKET = '/var/lib/nxmesh/api.sock'
const DEFAULT_PLACE = '127.0.0.1:3000'
const DEFAULT_KEY = 'data/mesh/owner.key'

export class Cli {
  readonly host: CliHost
  readonly args: Args
  readonly paint: Paint
  readonly format: Format
  readonly #ownMesh: OwnMesh
  #client: ApiClient | undefined
  #genesis: Promise<Envelope<GenesisBody>> | undefined

  constructor(host: CliHost, args: Args) {
    this.host = host
    this.args = args
    this.#ownMesh = new OwnMesh({
      named: () => this.mesh,
      chainFile: () => this.#chainFile(),
      clock: host.clock,
      signal: host.signal,
      notice: (text) => this.note(text),
    })
    this.paint = paint(isColoured(host, args))
    const format = args.text('output') ?? 'table'
    if (!FORMATS.includes(format as Format)) throw usage(`-o takes ${FORMATS.join(', ')}, not ${format}`)
    this.format = format as Format
  }

  /** Writes what was asked for. */
  out(text: string): void {
    this.host.stdout.write(text)
  }

  /** Writes what else there is to say. */
  note(text: string): void {
    this.host.stderr.write(`${text}\n`)
  }

  path(file: string): string {
    return resolve(this.host.cwd, file)
  }

  get workspace(): string | undefined {
    return this.args.text('workspace')
  }

  get zone(): string | undefined {
    return this.args.text('zone')
  }

  async client(): Promise<ApiClient> {
    if (this.#client !== undefined) return this.#client
    const trust = await this.#trust()
    this.#client = new ApiClient(
      await this.#addresses(trust),
      this.host.signal,
      {
        key: () => this.#readerKey(),
        confirm: (mesh) => this.#ownMesh.confirm(mesh),
        now: () => this.host.clock.now(),
      },
      trust,
    )
    return this.#client
  }

  /**
   * The genesis of the asked node: one and the same for all that this command proves, signs and seals.
   * @throws MeshError `denied` when it is not of the mesh that --mesh names
   */
  async genesis(): Promise<Envelope<GenesisBody>> {
    this.#genesis ??= this.#readGenesis()
    return await this.#genesis
  }

  async #readGenesis(): Promise<Envelope<GenesisBody>> {
    const { id, envelope } = await (await this.client()).genesis()
    const genesis = parseEnvelope(envelope, id) as Envelope<GenesisBody>
    const { mesh } = this
    if (mesh !== undefined && mesh !== genesis.id) throw otherMesh(genesis.id, mesh)
    return genesis
  }

  /** To be awaited before the key signs for this mesh. @throws MeshError `denied`, `usage`: see own-mesh.ts. */
  async confirmMesh(mesh: string): Promise<void> {
    await this.#ownMesh.confirm(mesh)
  }

  /** To be awaited before anything is sealed or opened with the key. @throws MeshError `denied`, `usage`: see own-mesh.ts. */
  async confirmMeshSurely(): Promise<void> {
    const client = await this.client()
    // Before anything that takes a token.
    const mesh = await client.mesh()
    if (mesh !== null) await this.#ownMesh.confirmSurely(mesh)
    await this.#ownMesh.confirmSurely((await this.genesis()).id)
  }

  /** The mesh of this command, when the operator has said it. @throws MeshError `usage`. */
  get mesh(): string | undefined {
    const mesh = this.args.text('mesh') ?? (this.host.env['NXMESH_MESH_ID'] || undefined)
    const isMeshId: boolean = mesh === undefined || isHex(mesh, 64)
    if (!isMeshId) throw usage(`--mesh takes a mesh id of 64 hex digits, not ${mesh}`)
    const { mesh: invited } = this.#pins
    if (mesh !== undefined && invited !== undefined && mesh !== invited)
      throw usage(`the ticket of --pin is for mesh ${invited}, and --mesh is ${mesh}`)
    return mesh ?? invited
  }

  /** The nodes' keys that are believed, and the mesh of a ticket. @throws MeshError `usage`, `input_invalid`. */
  get #pins(): ReturnType<typeof parsePins> {
    const given = this.args.list('pin')
    const kept = this.host.env['NXMESH_PIN'] || undefined
    // An empty one of the command line is a mistake, not no pin.
    const pins = given.length > 0 ? given : kept === undefined ? [] : [kept]
    return parsePins(pins.flatMap((pin) => pin.split(',')).map((pin) => pin.trim()))
  }

  async #trust(): Promise<Trust> {
    const file = this.args.text('ca') ?? (this.host.env['NXMESH_CA'] || undefined)
    const print = this.args.text('fingerprint') ?? (this.host.env['NXMESH_FINGERPRINT'] || undefined)
    const fingerprint = print === undefined ? undefined : fingerprintOf(print)
    const isWhole: boolean = fingerprint === undefined || isHex(fingerprint, 64)
    if (!isWhole) throw usage(`--fingerprint takes the SHA-256 of a certificate, 64 hex digits, not ${print}`)
    const { keys } = this.#pins
    const pins = { ...(fingerprint === undefined ? {} : { fingerprint }), ...(keys.length === 0 ? {} : { keys }) }
    if (isPinned(pins)) return pins
    if (file === undefined) return {}
    const ca = await readFile(this.path(file), 'utf8').catch((error: unknown) => {
      throw new MeshError('input_invalid', `cannot read ${file}: ${(error as Error).message}`, { field: '--ca' }, error)
    })
    return { ca }
  }

  async #readerKey(): Promise<KeyPair> {
    try {
      return await this.key()
    } catch (error) {
      if (!(error instanceof MeshError) || error.details.field !== '--key') throw error
      throw new MeshError(
        'key_invalid',
        'over TCP a node answers only the holder of a granted key, and no key was given',
        {
          field: '--key',
          hint: 'Give one with -k FILE, NXMESH_KEY or PRIVATE_KEY; or ask on the host over its socket: --api unix:DATA_DIR/api.sock',
        },
        error,
      )
    }
  }

  async #addresses(trust: Trust): Promise<readonly string[]> {
    const given = this.args.text('api') ?? this.host.env['NXMESH_API']
    if (given !== undefined && given !== '') {
      return [given.startsWith('unix:') ? `unix:${this.path(given.slice('unix:'.length))}` : given]
    }
    const sockets = [this.path(DEFAULT_SOCKET), SYSTEM_SOCKET]
    const present = await Promise.all(sockets.map(exists))
    const url = `${isPinned(trust) ? 'https' : 'http'}://${DEFAULT_PLACE}`
    return [...sockets.filter((_, index) => present[index]).map((socket) => `unix:${socket}`), url]
  }

  /** The operator's key. @throws MeshError `key_invalid`, saying where one was looked for. */
  async key(): Promise<KeyPair> {
    return await loadKey({ file: await this.keyFile(), env: this.host.env })
  }

  /** Where the key lies; undefined when the environment holds it. */
  async keyFile(): Promise<string | undefined> {
    if ((this.host.env['PRIVATE_KEY'] ?? '') !== '') return undefined
    const given = this.args.text('key') ?? this.host.env['NXMESH_KEY']
    if (given !== undefined && given !== '') return this.path(given)
    const file = this.path(DEFAULT_KEY)
    if (await exists(file)) return file
    throw new MeshError('key_invalid', 'no operator key was given', {
      field: '--key',
      hint: `Give one with -k FILE, NXMESH_KEY or PRIVATE_KEY; ${DEFAULT_KEY} is taken when it exists. Make one: meshctl key new -k ana.key`,
    })
  }

  /** Runs a task that signs. One meshctl at a time signs with one key. */
  async withAuthor<T>(task: (author: Author) => Promise<T>): Promise<T> {
    const key = await this.key()
    const { clock, signal } = this.host
    const genesis = await this.genesis()
    await this.#ownMesh.confirm(genesis.id)
    const chain = await ChainFile.open(await this.#chainFile(), clock, signal)
    try {
      const author = await Author.create({
        key,
        client: await this.client(),
        genesis,
        chain,
        now: () => clock.now(),
        sleep: (ms) => clock.sleep(ms, signal),
        notice: (text) => this.note(text),
      })
      return await task(author)
    } finally {
      chain.close()
    }
  }

  /** Beside the key; for a key from the environment, in the user's state directory. */
  async #chainFile(): Promise<string> {
    const file = await this.keyFile()
    // A file that holds no key leaves none beside it.
    const { publicKey } = await this.key()
    if (file !== undefined) return `${file}.chain.json`
    const { env } = this.host
    const state = env['XDG_STATE_HOME'] ?? join(env['HOME'] ?? homedir(), '.local', 'state')
    return join(state, 'nxmesh', `${publicKey}.chain.json`)
  }
}

function isColoured({ stdout, env }: CliHost, args: Args): boolean {
  return stdout.isTTY === true && !args.flag('no-color') && (env['NO_COLOR'] ?? '') === '' && env['TERM'] !== 'dumb'
}

async function exists(path: string): Promise<boolean> {
  return await access(path).then(
    () => true,
    () => false,
  )
}

export function usage(message: string, hint?: string): MeshError {
  return new MeshError('usage', message, hint === undefined ? {} : { hint })
}

/** ms of `500ms`, `60s`, `5m`, `2h`. @throws MeshError `usage`. */
export function durationMs(text: string, option: string): number {
  const [, number, unit = 's'] = /^(\d{1,7})(ms|s|m|h)?$/.exec(text) ?? []
  if (number === undefined) throw usage(`${option} takes a time such as 60s or 5m, not ${text}`)
  return Number(number) * { ms: 1, s: 1000, m: 60_000, h: 3_600_000 }[unit as 'ms' | 's' | 'm' | 'h']
}
