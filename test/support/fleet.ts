/**
 * A fleet of real daemons on loopback: keys, a founded mesh, configuration files, processes, and optionally links between
 * them that can be cut. For e2e tests, the demo and the chaos run. Everything lies in one temporary folder and ends with `stop`.
 */

import { spawn, type ChildProcess } from 'node:child_process'
import { randomBytes, randomInt } from 'node:crypto'
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { stringify } from 'yaml'
import { toWire } from '../../src/core/codec.ts'
import { keyPairFromSeed, type Envelope, type KeyPair } from '../../src/core/envelope.ts'
import { foundMesh } from '../../src/core/founding.ts'
import { Link } from './link.ts'
import { waitFor } from './wait.ts'

const REPOSITORY = fileURLToPath(new URL('../..', import.meta.url))

export interface MemberOptions {
  readonly name: string
  readonly zones?: readonly string[]
  /** Members that this one is told to dial; default: those before it. */
  readonly dials?: readonly string[]
  /** Whether the founding envelopes lie on its disk; default: for the first member only. */
  readonly founder?: boolean
  /** Whether it is granted as a node; default true. */
  readonly granted?: boolean
  /** Laid over its configuration file. */
  readonly config?: Readonly<Record<string, unknown>>
}

export interface FleetOptions {
  readonly members: readonly MemberOptions[]
  /** Real nginx at each member; default false. */
  readonly nginx?: boolean
  /** Links between all members, so that they can be partitioned; default false: they dial each other directly. */
  readonly links?: boolean
  readonly config?: Readonly<Record<string, unknown>>
}

/** One daemon of a fleet. */
export class Member {
  readonly name: string
  readonly key: KeyPair
  readonly directory: string
  readonly meshPort: number
  readonly apiPort: number
  readonly httpPort: number
  #process: ChildProcess | undefined
  #stderr = ''

  constructor(name: string, directory: string, ports: readonly [number, number, number]) {
    this.name = name
    this.directory = directory
    ;[this.meshPort, this.apiPort, this.httpPort] = ports
    this.key = keyPairFromSeed(randomBytes(32))
  }

  get api(): string {
    return `http://127.0.0.1:${this.apiPort}`
  }

  get dataDirectory(): string {
    return join(this.directory, 'data')
  }

  get configFile(): string {
    return join(this.directory, 'config.yaml')
  }

  /** What the daemon has written to stderr since it was last started. */
  get stderr(): string {
    return this.#stderr
  }

  get pid(): number | undefined {
    return this.#process?.pid
  }

  get isRunning(): boolean {
    return this.#process !== undefined && this.#process.exitCode === null && this.#process.signalCode === null
  }

  /** Starts the daemon without waiting for it. */
  spawn(env: Readonly<Record<string, string>> = {}): ChildProcess {
    this.#stderr = ''
    const child = spawn(
      process.execPath,
      ['src/mesh-node.ts', '-c', this.configFile, '-k', join(this.directory, 'node.key')],
      {
        cwd: REPOSITORY,
        stdio: ['ignore', 'ignore', 'pipe'],
        env: { ...process.env, ...env },
      },
    )
    child.stderr?.on('data', (data: Buffer) => {
      // The tail is what a failed test shows; a daemon that runs for hours must not fill the memory.
      this.#stderr = (this.#stderr + data.toString()).slice(-100_000)
    })
    this.#process = child
    return child
  }

  /** Starts the daemon and waits until its API answers. */
  async start(env: Readonly<Record<string, string>> = {}): Promise<void> {
    const child = this.spawn(env)
    await waitFor(
      async () => {
        if (child.exitCode !== null) throw new Error(`${this.name} ended with ${child.exitCode}`)
        return (await this.get('/v1/node')) !== undefined
      },
      { timeoutMs: 60_000, what: () => `${this.name} answers at ${this.api}; it wrote:\n${this.#stderr.slice(-3000)}` },
    )
  }

  /** Ends the daemon; SIGTERM is an orderly stop. */
  async stop(signal: 'SIGTERM' | 'SIGKILL' = 'SIGTERM'): Promise<void> {
    const child = this.#process
    if (child === undefined || !this.isRunning) return
    const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()))
    child.kill(signal)
    await ended
  }

  /** The parsed answer of a GET; throws when it is not a success. */
  async get<T = unknown>(path: string): Promise<T> {
    const response = await fetch(`${this.api}${path}`, { signal: AbortSignal.timeout(10_000) })
    if (!response.ok) throw new Error(`${this.name} ${path}: ${response.status} ${await response.text()}`)
    return (await response.json()) as T
  }

  /** Pushes signed envelopes. */
  async push(envelopes: readonly Envelope[]): Promise<Response> {
    return await fetch(`${this.api}/v1/edits`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ envelopes: envelopes.map(toWire) }),
      signal: AbortSignal.timeout(30_000),
    })
  }
}

export class Fleet {
  readonly directory: string
  readonly members: readonly Member[]
  readonly root: KeyPair
  readonly owner: KeyPair
  readonly founding: readonly Envelope[]
  readonly ownerKeyFile: string
  readonly #links: ReadonlyMap<string, Link>

  private constructor(
    parts: Pick<Fleet, 'directory' | 'members' | 'root' | 'owner' | 'founding'>,
    links: ReadonlyMap<string, Link>,
  ) {
    this.directory = parts.directory
    this.members = parts.members
    this.root = parts.root
    this.owner = parts.owner
    this.founding = parts.founding
    this.ownerKeyFile = join(parts.directory, 'owner.key')
    this.#links = links
  }

  /** Writes everything down; starts nothing but the links. */
  static async create(options: FleetOptions): Promise<Fleet> {
    const directory = await mkdtemp(join(tmpdir(), 'nxmesh-fleet-'))
    const ports = await freePorts(options.members.length * 3)
    const members = options.members.map(
      ({ name }, index) =>
        new Member(name, join(directory, name), ports.slice(index * 3, index * 3 + 3) as [number, number, number]),
    )
    const [root, nextRoot, owner] = [0, 1, 2].map(() => keyPairFromSeed(randomBytes(32))) as [KeyPair, KeyPair, KeyPair]
    const nodes = options.members
      .map((member, index) => ({
        key: members[index]!.key.publicKey,
        name: member.name,
        zones: member.zones ?? ['*'],
        granted: member.granted,
      }))
      .filter(({ granted }) => granted !== false)
      .map(({ key, name, zones }) => ({ key, name, zones }))
    const founding = foundMesh({
      name: 'fleet',
      root,
      nextRoot: nextRoot.publicKey,
      owner,
      ownerName: 'owner',
      nodes,
      at: Date.now(),
    })
    const links = options.links === true ? await linkAll(members) : new Map<string, Link>()
    const fleet = new Fleet({ directory, members, root, owner, founding }, links)
    await writeFile(fleet.ownerKeyFile, Buffer.from(owner.seed).toString('hex'), { mode: 0o600 })
    await writeFile(join(directory, 'genesis.json'), JSON.stringify({ envelopes: founding.map(toWire) }))
    for (const [index, member] of options.members.entries()) await fleet.#configure(member, index, options)
    return fleet
  }

  member(name: string): Member {
    const found = this.members.find((member) => member.name === name)
    if (found === undefined) throw new Error(`no member ${name}`)
    return found
  }

  get meshId(): string {
    return this.founding[0]!.id
  }

  async start(): Promise<void> {
    await Promise.all(this.members.map((member) => member.start()))
  }

  /** Cuts every link between the two sides. */
  partition(one: readonly string[], other: readonly string[]): void {
    this.#between(one, other).forEach((link) => link.cut())
  }

  heal(): void {
    for (const link of this.#links.values()) link.heal()
  }

  /** Ends all daemons and their nginx, by the pids in their pid files, and removes the folder. */
  async stop(): Promise<void> {
    await Promise.all(this.members.map((member) => member.stop('SIGTERM')))
    await Promise.all([...this.#links.values()].map((link) => link.stop()))
    await Promise.all(this.members.map((member) => endNginx(join(member.dataDirectory, 'nginx'))))
    await rm(this.directory, { recursive: true, force: true, maxRetries: 5 })
  }

  #between(one: readonly string[], other: readonly string[]): Link[] {
    const pairs = one.flatMap((a) => other.flatMap((b) => [`${a} ${b}`, `${b} ${a}`]))
    return pairs.map((pair) => this.#links.get(pair)).filter((link) => link !== undefined)
  }

  async #configure(options: MemberOptions, index: number, fleet: FleetOptions): Promise<void> {
    const member = this.members[index]!
    await mkdir(member.directory, { recursive: true })
    await writeFile(join(member.directory, 'node.key'), Buffer.from(member.key.seed).toString('hex'), { mode: 0o600 })
    const dials = options.dials ?? this.members.slice(0, index).map(({ name }) => name)
    const isFounder = options.founder ?? index === 0
    const config = {
      bind_address: '127.0.0.1',
      bind_port: member.meshPort,
      http_bind_port: member.apiPort,
      data_dir: member.dataDirectory,
      log_level: 'INFO',
      mesh: {
        id: this.meshId,
        ...(isFounder ? { genesis_file: join(this.directory, 'genesis.json') } : {}),
        // With links, the members must not find a way around them.
        advertise: [fleet.links === true ? '127.0.0.1:1' : `127.0.0.1:${member.meshPort}`],
      },
      nodes: dials.map((name) => ({
        public_key: this.member(name).key.publicKey,
        endpoints: [`127.0.0.1:${this.#links.get(`${member.name} ${name}`)?.port ?? this.member(name).meshPort}`],
      })),
      nginx:
        fleet.nginx === true
          ? { mode: 'own', default_http_port: member.httpPort, worker_processes: 2 }
          : { mode: 'off' },
    }
    await writeFile(member.configFile, stringify(merge(merge(config, fleet.config ?? {}), options.config ?? {})))
  }
}

/** Ends the nginx of one working directory, if its pid file names a live master that runs there. */
export async function endNginx(directory: string): Promise<void> {
  const pid = Number(await readFile(join(directory, 'nginx.pid'), 'utf8').catch(() => '0'))
  const commandLine = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')
  if (pid <= 1 || !commandLine.includes(directory)) return
  process.kill(pid, 'SIGTERM')
  await waitFor(async () => (await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')) === '', {
    what: `nginx ${pid} of ${directory} ends`,
  })
}

/**
 * Ports that were free a moment ago, all different. Below the ephemeral range, so that no outgoing connection takes one
 * while its daemon is down.
 */
export async function freePorts(count: number): Promise<number[]> {
  const ports = new Set<number>()
  while (ports.size < count) {
    const port = randomInt(12_000, 30_000)
    if (await isFree(port)) ports.add(port)
  }
  return [...ports]
}

async function isFree(port: number): Promise<boolean> {
  const server = createServer()
  return await new Promise((resolve) => {
    server.once('error', () => resolve(false))
    server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)))
  })
}

async function linkAll(members: readonly Member[]): Promise<Map<string, Link>> {
  const links = new Map<string, Link>()
  for (const from of members) {
    for (const to of members) {
      if (from !== to) links.set(`${from.name} ${to.name}`, new Link(to.meshPort))
    }
  }
  await Promise.all([...links.values()].map((link) => link.start()))
  return links
}

function merge(
  base: Readonly<Record<string, unknown>>,
  over: Readonly<Record<string, unknown>>,
): Record<string, unknown> {
  const merged: Record<string, unknown> = { ...base }
  for (const [key, value] of Object.entries(over)) {
    const below = merged[key]
    const areMaps = isMap(below) && isMap(value)
    merged[key] = areMaps ? merge(below, value) : value
  }
  return merged
}

function isMap(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
