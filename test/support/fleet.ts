/**
 * A fleet of real daemons on loopback: keys, a founded mesh, configuration files, processes, and optionally links between
 * them that can be cut. For e2e tests, the demo and the chaos run. Everything lies in one temporary folder and ends with `stop`.
 */

import { spawn, type ChildProcess } from 'node:child_process'
import { randomBytes, randomInt } from 'node:crypto'
import { chmod, mkdir, mkdtemp, readFile, realpath, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { stringify } from 'yaml'
import { systemClock } from '../../src/adapters/clock.ts'
import { rememberAll } from '../../src/cli/keys/keys.ts'
import { toWire } from '../../src/core/codec.ts'
import { keyPairFromSeed, type Envelope, type KeyPair } from '../../src/core/envelope.ts'
import { foundMesh } from '../../src/core/founding.ts'
import { encryptionKey } from '../../src/core/secrets.ts'
import { allPids, titleOf, workingDirectoryOf } from '../../src/nginx/applying/proc.ts'
import { http, type HttpAnswer } from './http.ts'
import { Link } from './link.ts'
import { waitFor } from './wait.ts'

export const REPOSITORY = fileURLToPath(new URL('../..', import.meta.url))
const LAUNCHER = join(REPOSITORY, 'scripts/mesh-node')

/** Daemons that start at once: more would only slow each other down. */
const STARTS_AT_ONCE = 3
/** A start on a machine that does many other things. */
const START_TIMEOUT_MS = 90_000
/** A daemon that has not ended by then hangs. */
const STOP_TIMEOUT_MS = 30_000
/** Characters of a log that are kept, and that a report shows. */
const LOG_MAX = 100_000
const REPORT_MAX = 4_000

export interface MemberOptions {
  readonly name: string
  readonly zones?: readonly string[]
  /** Members that this one is told to dial; default: those before it. */
  readonly dials?: readonly string[]
  /** Whether the founding envelopes lie on its disk; default: for the first member only. */
  readonly founder?: boolean
  /** Whether it is granted as a node; default true. */
  readonly granted?: boolean
  /** Real nginx; default: what the fleet says. */
  readonly nginx?: boolean
  /** Laid over its configuration file. */
  readonly config?: Readonly<Record<string, unknown>>
  /** By how much its clock is wrong, ms; default 0. */
  readonly clockShiftMs?: number
}

export interface FleetOptions {
  readonly members: readonly MemberOptions[]
  /** Real nginx at each member; default false. */
  readonly nginx?: boolean
  /** Links between all members, so that they can be partitioned; default false: they dial each other directly. */
  readonly links?: boolean
  /** Root keys, and how many of them must sign; default one. */
  readonly roots?: number
  readonly threshold?: number
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
  /** What it is started with. */
  keyFile: string
  readonly #clockShiftMs: number
  #process: ChildProcess | undefined
  #stderr = ''
  /** What former lives wrote. */
  #past = ''

  constructor(name: string, directory: string, ports: readonly [number, number, number], clockShiftMs = 0) {
    this.name = name
    this.#clockShiftMs = clockShiftMs
    this.directory = directory
    this.keyFile = join(directory, 'node.key')
    ;[this.meshPort, this.apiPort, this.httpPort] = ports
    this.key = keyPairFromSeed(randomBytes(32))
  }

  get api(): string {
    return `http://127.0.0.1:${this.apiPort}`
  }

  /** The socket, which needs no token. */
  get socket(): string {
    return `unix:${join(this.dataDirectory, 'api.sock')}`
  }

  get dataDirectory(): string {
    return join(this.directory, 'data')
  }

  get configFile(): string {
    return join(this.directory, 'config.yaml')
  }

  get nginxDirectory(): string {
    return join(this.dataDirectory, 'nginx')
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
  spawn(): ChildProcess {
    this.#past = `${this.#past}${this.#stderr}`.slice(-REPORT_MAX)
    this.#stderr = ''
    const child = spawn(LAUNCHER, ['-c', this.configFile, '-k', this.keyFile], {
      cwd: REPOSITORY,
      stdio: ['ignore', 'ignore', 'pipe'],
      ...(this.#clockShiftMs === 0 ? {} : { env: { ...process.env, NODE_OPTIONS: shiftingClock(this.#clockShiftMs) } }),
    })
    child.stderr?.on('data', (data: Buffer) => {
      // The tail is what a failed test shows; a daemon that runs for hours must not fill the memory.
      this.#stderr = (this.#stderr + data.toString()).slice(-LOG_MAX)
    })
    child.on('exit', (code, signal) => {
      if (this.#process === child) this.#stderr += `--- ended with ${code ?? signal}\n`
    })
    this.#process = child
    return child
  }

  /** Starts the daemon and waits until its API answers. */
  async start(): Promise<void> {
    const child = this.spawn()
    await waitFor(
      // One that has ended will not answer, so there is nothing to wait for.
      async () => child.exitCode !== null || (await this.get('/v1/node')) !== undefined,
      { timeoutMs: START_TIMEOUT_MS, everyMs: 50, what: () => `${this.name} answers at ${this.api}\n${this.report()}` },
    )
    if (child.exitCode !== null) throw new Error(`${this.name} ended instead of starting\n${this.report()}`)
  }

  /**
   * Ends the daemon; SIGTERM is an orderly stop.
   * @throws Error when it does not end by itself in 30 s; then it is killed.
   */
  async stop(signal: 'SIGTERM' | 'SIGKILL' = 'SIGTERM'): Promise<void> {
    const child = this.#process
    if (child === undefined || !this.isRunning) return
    const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()))
    let hangs = false
    const impatience = setTimeout(() => {
      hangs = true
      child.kill('SIGKILL')
    }, STOP_TIMEOUT_MS)
    child.kill(signal)
    await ended
    clearTimeout(impatience)
    if (hangs) throw new Error(`${this.name} did not end on ${signal} within ${STOP_TIMEOUT_MS} ms\n${this.report()}`)
  }

  /** Waits until the daemon has ended by itself; its exit code. */
  async exited(): Promise<number | null> {
    const child = this.#process
    await waitFor(() => !this.isRunning, {
      timeoutMs: START_TIMEOUT_MS,
      everyMs: 20,
      what: () => `${this.name} ends by itself\n${this.report()}`,
    })
    return child?.exitCode ?? null
  }

  /** The end of what it wrote, in this life and the ones before, and of nginx's error log. For failed tests. */
  async logs(): Promise<string> {
    const nginx = await readFile(join(this.nginxDirectory, 'logs', 'error.log'), 'utf8').catch(() => '')
    return `${this.report()}${nginx === '' ? '' : `--- nginx of ${this.name}\n${nginx.slice(-REPORT_MAX / 4)}`}`
  }

  /** The daemon's part of `logs`. */
  report(): string {
    const state = this.isRunning ? `pid ${this.pid}` : 'not running'
    return `--- ${this.name} (${state})\n${`${this.#past}${this.#stderr}`.slice(-REPORT_MAX)}`
  }

  /** The parsed answer of a GET; throws when it is not a success. */
  async get<T = unknown>(path: string): Promise<T> {
    const { status, text, json } = await http(this.socket, path)
    if (status >= 300) throw new Error(`${this.name} ${path}: ${status} ${text}`)
    return json() as T
  }

  /** GET / of a host at this member's nginx, over a connection of its own. */
  async visit(host: string, path = '/'): Promise<HttpAnswer> {
    return await http(`http://127.0.0.1:${this.httpPort}`, path, { headers: { host } })
  }

  /** The value of a metric: the sum over all its series whose labels contain the given ones; 0 when there is none. */
  async metric(name: string, labels: Readonly<Record<string, string>> = {}): Promise<number> {
    const { text } = await http(this.api, '/metrics')
    const wanted = Object.entries(labels).map(([label, value]) => `${label}="${value}"`)
    return text
      .split('\n')
      .filter((line) => line.startsWith(`${name}{`) || line.startsWith(`${name} `))
      .filter((line) => wanted.every((label) => line.includes(label)))
      .reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(' ') + 1)), 0)
  }

  /** The live nginx master of this member, by its pid file. */
  async nginxMaster(): Promise<number | undefined> {
    const pid = Number(await readFile(join(this.nginxDirectory, 'nginx.pid'), 'utf8').catch(() => '0'))
    return pid > 1 && titleOf(pid).includes(this.nginxDirectory) ? pid : undefined
  }

  /** Every nginx process of this member, orphans too. */
  async nginxProcesses(): Promise<number[]> {
    return await nginxProcesses(this.nginxDirectory)
  }

  /** Pushes signed envelopes. */
  async push(envelopes: readonly Envelope[]): Promise<HttpAnswer> {
    return await http(this.socket, '/v1/edits', {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ envelopes: envelopes.map(toWire) }),
    })
  }
}

export class Fleet {
  readonly directory: string
  readonly members: Member[]
  readonly roots: readonly KeyPair[]
  /** Those that alone may follow `roots`. */
  readonly nextRoots: readonly KeyPair[]
  readonly owner: KeyPair
  readonly founding: readonly Envelope[]
  readonly ownerKeyFile: string
  readonly #options: FleetOptions
  readonly #links: ReadonlyMap<string, Link>

  private constructor(
    parts: Pick<Fleet, 'directory' | 'members' | 'roots' | 'nextRoots' | 'owner' | 'founding'>,
    options: FleetOptions,
    links: ReadonlyMap<string, Link>,
  ) {
    this.directory = parts.directory
    this.members = parts.members
    this.roots = parts.roots
    this.nextRoots = parts.nextRoots
    this.owner = parts.owner
    this.founding = parts.founding
    this.ownerKeyFile = join(parts.directory, 'owner.key')
    this.#options = options
    this.#links = links
  }

  /** Writes everything down; starts nothing but the links. */
  static async create(options: FleetOptions): Promise<Fleet> {
    const directory = await mkdtemp(join(tmpdir(), 'nxmesh-fleet-'))
    // nginx's workers may be another user, and have to get at their files.
    await chmod(directory, 0o711)
    const ports = await freePorts(options.members.length * 3)
    const members = options.members.map(
      ({ name, clockShiftMs }, index) =>
        new Member(
          name,
          join(directory, name),
          ports.slice(index * 3, index * 3 + 3) as [number, number, number],
          clockShiftMs,
        ),
    )
    const newKey = (): KeyPair => keyPairFromSeed(randomBytes(32))
    const [roots, nextRoots] = [0, 1].map(() => Array.from({ length: options.roots ?? 1 }, newKey)) as [
      KeyPair[],
      KeyPair[],
    ]
    const owner = newKey()
    const nodes = options.members
      .map((member, index) => ({
        key: members[index]!.key.publicKey,
        enc: encryptionKey(members[index]!.key.seed).publicKey,
        name: member.name,
        zones: member.zones ?? ['*'],
        granted: member.granted,
      }))
      .filter(({ granted }) => granted !== false)
      .map(({ key, enc, name, zones }) => ({ key, enc, name, zones }))
    const founding = foundMesh({
      name: 'fleet',
      roots,
      nextRoots: nextRoots.map(({ publicKey }) => publicKey),
      threshold: options.threshold ?? 1,
      owner,
      ownerName: 'owner',
      nodes,
      at: Date.now(),
    })
    const links = options.links === true ? await linkAll(members) : new Map<string, Link>()
    const fleet = new Fleet({ directory, members, roots, nextRoots, owner, founding }, options, links)
    await writeFile(fleet.ownerKeyFile, Buffer.from(owner.seed).toString('hex'), { mode: 0o600 })
    const host = { clock: systemClock, signal: new AbortController().signal }
    await rememberAll({ host }, fleet.ownerKeyFile, owner.publicKey, founding)
    await writeFile(join(directory, 'genesis.json'), JSON.stringify({ envelopes: founding.map(toWire) }))
    for (const [index, member] of options.members.entries()) await fleet.#configure(member, index)
    return fleet
  }

  /**
   * Another member, configured and not started. The founding does not grant it: that is for the test to do, or not. A fleet
   * with links gives it none.
   */
  async add(options: Omit<MemberOptions, 'zones' | 'granted'>): Promise<Member> {
    const ports = await freePorts(3)
    const directory = join(this.directory, options.name)
    const member = new Member(options.name, directory, ports as [number, number, number], options.clockShiftMs)
    this.members.push(member)
    await this.#configure(options, this.members.length - 1)
    return member
  }

  member(name: string): Member {
    const found = this.members.find((member) => member.name === name)
    if (found === undefined) throw new Error(`no member ${name}`)
    return found
  }

  get meshId(): string {
    return this.founding[0]!.id
  }

  /** Starts every member, in their order and few at once. */
  async start(): Promise<void> {
    const waiting = [...this.members]
    const startNext = async (): Promise<void> => {
      const member = waiting.shift()
      if (member === undefined) return
      await member.start()
      await startNext()
    }
    await Promise.all(Array.from({ length: STARTS_AT_ONCE }, startNext))
  }

  /** The ends of all logs, for a failed test. */
  async logs(): Promise<string> {
    return (await Promise.all(this.members.map((member) => member.logs()))).join('\n')
  }

  /** Cuts every link between the two sides. */
  partition(one: readonly string[], other: readonly string[]): void {
    this.#between(one, other).forEach((link) => link.cut())
  }

  heal(): void {
    for (const link of this.#links.values()) link.heal()
  }

  /**
   * Ends all daemons and their nginx, and removes the folder.
   * @throws Error when a daemon did not stop in order; everything is gone all the same.
   */
  async stop(): Promise<void> {
    const stops = await Promise.allSettled(this.members.map((member) => member.stop('SIGTERM')))
    await Promise.all([...this.#links.values()].map((link) => link.stop()))
    await Promise.all(this.members.map((member) => endNginx(member.nginxDirectory)))
    await rm(this.directory, { recursive: true, force: true, maxRetries: 5 })
    const hung = stops.find((stop) => stop.status === 'rejected')
    if (hung !== undefined) throw hung.reason
  }

  #between(one: readonly string[], other: readonly string[]): Link[] {
    const pairs = one.flatMap((a) => other.flatMap((b) => [`${a} ${b}`, `${b} ${a}`]))
    return pairs.map((pair) => this.#links.get(pair)).filter((link) => link !== undefined)
  }

  async #configure(options: MemberOptions, index: number): Promise<void> {
    const member = this.members[index]!
    const fleet = this.#options
    await mkdir(member.directory, { recursive: true })
    await writeFile(member.keyFile, Buffer.from(member.key.seed).toString('hex'), { mode: 0o600 })
    const dials = options.dials ?? this.members.slice(0, index).map(({ name }) => name)
    const isFounder = options.founder ?? index === 0
    const config = {
      bind_address: '127.0.0.1',
      bind_port: member.meshPort,
      http_bind_port: member.apiPort,
      data_dir: member.dataDirectory,
      log_level: 'INFO',
      log_format: 'text',
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
        (options.nginx ?? fleet.nginx) === true
          ? { mode: 'own', default_http_port: member.httpPort, worker_processes: 2 }
          : { mode: 'off' },
    }
    await writeFile(member.configFile, stringify(merge(merge(config, fleet.config ?? {}), options.config ?? {})))
  }
}

/** NODE_OPTIONS with which a process starts with a wrong clock: wall time alone is shifted. */
function shiftingClock(shiftMs: number): string {
  const program = `const{now}=Date;Date.now=()=>now()+${shiftMs}`
  return `--import=data:text/javascript,${encodeURIComponent(program)}`
}

/** Ends every nginx process of one working directory, workers without a master too. */
export async function endNginx(directory: string): Promise<void> {
  for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
    // Workers whose master lives are its to end; killing one would only make it start another.
    const pids = await nginxProcesses(directory)
    const masters = pids.filter((pid) => titleOf(pid).startsWith('nginx: master'))
    for (const pid of masters.length > 0 ? masters : pids) kill(pid, signal)
    const isGone = async (): Promise<boolean> => (await nginxProcesses(directory)).length === 0
    const what = `the nginx of ${directory} ends on ${signal}`
    const hasEnded = await waitFor(isGone, { timeoutMs: 5000, everyMs: 20, what }).catch(() => false)
    if (hasEnded) return
  }
  throw new Error(`nginx processes of ${directory} do not end: ${(await nginxProcesses(directory)).join(' ')}`)
}

/** nginx processes that were started in this directory. */
async function nginxProcesses(directory: string): Promise<number[]> {
  const path = await realpath(directory).catch(() => undefined)
  if (path === undefined) return []
  const candidates = (await allPids()).filter((pid) => titleOf(pid).startsWith('nginx: '))
  const directories = await Promise.all(candidates.map((pid) => workingDirectoryOf(pid)))
  return candidates.filter((_, index) => directories[index] === path)
}

/** Sends a signal to a process that may have ended. */
export function kill(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
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
