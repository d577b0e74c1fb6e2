/**
 * Proves an import: one nginx with the configuration as it was and one with what import and rendering make of it, both in a
 * sandbox, are asked the same, and must answer alike. Starts and ends its own processes only. Called by import.ts.
 */

import { once } from 'node:events'
import { readdirSync, realpathSync } from 'node:fs'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { request } from 'node:http'
import { createServer, type AddressInfo } from 'node:net'
import { tmpdir, userInfo } from 'node:os'
import { dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { systemClock } from '../../adapters/clock.ts'
import { LocalNginx } from '../../adapters/nginx-process.ts'
import { sha256 } from '../../core/canonical.ts'
import { PROXIED_HEADER, resourcePath } from '../../core/names.ts'
import { fieldsOf, kindOf, pathOf, readFields, type Resource } from '../../core/resources/index.ts'
import type { Kind } from '../../core/resources/kind.ts'
import type { Slice, SliceResource } from '../../core/slice.ts'
import { asMeshError } from '../../errors.ts'
import type { NginxPaths } from '../../nginx/applying/capabilities.ts'
import { GenerationStore } from '../../nginx/applying/generation.ts'
import { nginxWords } from '../../nginx/applying/isolate.ts'
import { importConfig, type ReadFile } from '../../nginx/importing/import.ts'
import type { SecretToSeal } from '../../nginx/importing/secrets-to-seal.ts'
import type { Place } from '../../nginx/importing/import-upstream.ts'
import type { Directive } from '../../nginx/importing/parse.ts'
import { probesFor, type Probe } from '../../nginx/importing/probes.ts'
import { Sandbox, unprovable } from '../../nginx/importing/sandbox.ts'
import type { HostLayout } from '../../nginx/rendering/host-layout.ts'
import { ALL_WELL } from '../../nginx/rendering/render-upstream.ts'
import { assemble } from '../../nginx/rendering/assemble.ts'
import { render } from '../../nginx/rendering/render.ts'
import type { Capabilities } from '../../ports.ts'
import { standInFor } from './stand-in.ts'
import { streamAnswer } from './stream-answer.ts'

export interface Proof {
  readonly asked: number
  readonly alike: number
  /** How many more there would have been. */
  readonly unasked: number
  /** For people: which probe, and how the answers differ. */
  readonly differences: readonly string[]
}

const ANSWER_TIMEOUT_MS = 10_000
const START_TIMEOUT_MS = 30_000
const FILES_OF_ROOT = 3
const BODY_MAX_BYTES = 1024 * 1024
const PARALLEL = 8
const STREAM_PROBES_MAX = 200
/** By time, by connection, or with a port in it. */
const VARIES = /^(?:server|date|connection|keep-alive|etag|content-length|expires|last-modified|transfer-encoding)$/
/** What NxMesh sends to upstreams that may not have had it, as the report says. */
const ADDED = new RegExp(
  `^(?:x-real-ip|x-forwarded-(?:for|proto|host|port)|${PROXIED_HEADER.toLowerCase()}|connection): `,
)

interface ProofOptions {
  /** As importConfig takes it. */
  readonly readFile?: ReadFile
  readonly binary?: string
}

/** Where nginx looks for what relative paths name; undefined where there is none. */
export async function pathsOfNginx(binary = 'nginx'): Promise<NginxPaths | undefined> {
  const directory = await mkdtemp(join(tmpdir(), 'nxmesh-import-'))
  try {
    return await nginxIn(directory, binary).paths()
  } catch {
    return undefined
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
}

/**
 * @param tree as readTree gives it
 * @returns why nothing could be proven, as a text
 */
export async function proveImport(
  tree: readonly Directive[],
  place: Place,
  options: ProofOptions = {},
): Promise<Proof | string> {
  const reason = unprovable(tree)
  if (reason !== undefined) return reason
  for (let attempt = 1; ; attempt += 1) {
    const proof = await proveOnce(tree, place, options)
    if (typeof proof !== 'string' || !IS_TAKEN.test(proof) || attempt === ATTEMPTS_MAX) return proof
  }
}

/** Ports that were free as they were looked for may be taken before nginx listens there: then on others. */
const ATTEMPTS_MAX = 3
const IS_TAKEN = /\(98: Address already in use\)/

async function proveOnce(
  tree: readonly Directive[],
  place: Place,
  { readFile = () => undefined, binary = 'nginx' }: ProofOptions,
): Promise<Proof | string> {
  const directory = await mkdtemp(join(tmpdir(), 'nxmesh-import-'))
  const ends: (() => Promise<unknown>)[] = [() => rm(directory, { recursive: true, force: true })]
  try {
    return await prove(tree, place, readFile, { directory, binary, ends })
  } catch (error) {
    return asMeshError(error).message
  } finally {
    for (const end of ends.toReversed()) await end().catch(() => undefined)
  }
}

interface Bench {
  readonly directory: string
  readonly binary: string
  /** What has to be ended afterwards, in reverse. */
  readonly ends: (() => Promise<unknown>)[]
}

async function prove(
  tree: readonly Directive[],
  place: Place,
  readFile: ReadFile,
  bench: Bench,
): Promise<Proof | string> {
  const { directory, binary, ends } = bench
  const { prefix, modules } = await nginxIn(directory, binary).paths()
  const user = userInfo().uid === 0 ? { user: 'root' } : {}
  const sandbox = new Sandbox(tree, { directory, backendPort: await freePort(), prefix, ...user })
  const foreign = sandbox.modules.find(({ args }) => !isBelow(args[0] ?? '', modules))
  if (foreign !== undefined)
    return `${foreign.file}:${foreign.line}: a proof loads no module from outside of ${modules}`
  for (const standIn of sandbox.standIns) ends.push((await standInFor(standIn)).close)
  const [portsBefore, portsAfter] = [await freePorts(sandbox.listeners), await freePorts(sandbox.listeners)]
  const was = await start(bench, 'before', async ({ directory: own, pidFile }) => {
    await mkdir(join(own, 'current'))
    await writeFile(join(own, 'current', 'nginx.conf'), sandbox.text(portsBefore, pidFile))
  })
  if (was !== undefined) return `the configuration does not run in a sandbox: ${was}`
  const { resources, secrets } = importConfig(sandbox.tree(portsAfter), place, { readFile, prefix })
  const sealed = secrets.map(({ secret, file }) => [pathOfSecret(place, secret), readFile(file) ?? ''] as const)
  const is = await start(bench, 'after', async (layout, capabilities) => {
    const slice = sliceOf(resources, place, secrets)
    const input = { ...NOTHING_KNOWN, secrets: new Map(sealed), slice, capabilities, host: { ...layout, ...user } }
    const { units, problems } = render(input)
    if (problems[0] !== undefined) throw new Error(`${problems[0].path}: ${problems[0].message}`)
    const generation = { ...assemble(units, input), units }
    const store = new GenerationStore(layout, systemClock)
    await store.open()
    await store.stage(generation)
    await store.activate(generation.digest)
  })
  if (is !== undefined) return `nginx does not run what was imported: ${is}`
  const { probes, unasked } = probesFor(sandbox.template, filesBelow)
  const differences: string[] = []
  const queue = probes.values()
  const ask = async (): Promise<void> => {
    for (const probe of queue) {
      const [before, after] = await Promise.all([answerOf(portsBefore, probe), answerOf(portsAfter, probe)])
      const difference = differenceOf(before, after)
      if (difference !== undefined) differences.push(`${probe.method} ${probe.host} ${probe.path}: ${difference}`)
    }
  }
  await Promise.all(Array.from({ length: PARALLEL }, ask))
  const streamProbes = sandbox.stream.probes.slice(0, STREAM_PROBES_MAX)
  for (const probe of streamProbes) {
    const { listener, serverName } = probe
    const ask = async (ports: ReadonlyMap<string, number>) => await streamAnswer(ports.get(listener) as number, probe)
    const [before, after] = await Promise.all([ask(portsBefore), ask(portsAfter)])
    const said = `${listener} ${serverName ?? ''}`.trim()
    if (before !== after) differences.push(`${said}: was answered by ${before.trim()}, is by ${after.trim()}`)
  }
  const asked = probes.length + streamProbes.length
  return {
    asked,
    alike: asked - differences.length,
    unasked: unasked + sandbox.stream.probes.length - streamProbes.length,
    differences: differences.toSorted(),
  }
}

/** Every address stands in the configuration, and no stand-in is ill. */
const NOTHING_KNOWN = {
  addresses: new Map(),
  ...ALL_WELL,
}

/** Whether the file lies there, wherever links to its directory lead. A module's code runs as soon as it is loaded. */
function isBelow(file: string, directory: string): boolean {
  try {
    return `${realpathSync(dirname(file))}/`.startsWith(`${realpathSync(directory)}/`)
  } catch {
    return false
  }
}

/** A few files of a directory, the first in the order of names. */
function filesBelow(root: string): string[] {
  try {
    const entries = readdirSync(root, { withFileTypes: true })
    const files = entries.filter((entry) => entry.isFile()).map(({ name }) => name)
    return files.toSorted().slice(0, FILES_OF_ROOT)
  } catch {
    return []
  }
}

/** Every resource as one that nobody limits, the first the oldest; and the secrets that they name. */
function sliceOf(resources: readonly Resource[], place: Place, secrets: readonly SecretToSeal[]): Slice {
  const sealed = secrets.map(({ secret: name }): SliceResource => {
    const about = {
      path: pathOfSecret(place, name),
      name: { ...place, kind: 'secret', name },
      kind: 'Secret',
      labels: {},
    }
    return { ...about, spec: {}, created: { at: 0, edit: '' }, hash: '' }
  })
  const sliced = resources.map((resource, index): SliceResource => {
    const { name, workspace, zone, labels = {} } = resource.metadata
    const kind = kindOf(resource.kind) as Kind
    const read = readFields(kind, fieldsOf(resource))
    if ('field' in read) throw new Error(`${read.field} ${read.message}`)
    const path = pathOf(resource)
    const created = { at: index, edit: '' }
    const about = { path, name: { workspace, zone, kind: kind.path, name }, kind: resource.kind, labels, created }
    return { ...about, spec: read.spec, hash: sha256(JSON.stringify(resource)) }
  })
  return { resources: [...sliced, ...sealed].toSorted((a, b) => (a.path < b.path ? -1 : 1)), problems: [], target: '' }
}

function pathOfSecret(place: Place, name: string): string {
  return resourcePath({ ...place, kind: 'secret', name })
}

// ---------------------------------------------------------------------------------------------- nginx

/** Runs nginx on what `write` leaves in `current` until the bench is left; in its own words why it does not. */
async function start(
  { directory: base, binary, ends }: Bench,
  name: string,
  write: (layout: HostLayout, capabilities: Capabilities) => Promise<void>,
): Promise<string | undefined> {
  const directory = join(base, name)
  for (const folder of ['logs', 'temp']) await mkdir(join(directory, folder), { recursive: true })
  const pidFile = join(directory, 'nginx.pid')
  const verifySocket = join(directory, 'verify.sock')
  const process = nginxIn(directory, binary)
  const layout: HostLayout = {
    directory,
    pidFile,
    verifySocket,
    drainFile: join(directory, 'drain'),
    defaultHttpPort: 80,
    workerProcesses: 1,
    workerShutdownTimeoutSeconds: 1,
    // Nobody would push.
    liveLane: false,
    modules: [],
  }
  await write(layout, await process.capabilities())
  const config = join(directory, 'current', 'nginx.conf')
  const { ok, stderr } = await process.test(config, START_TIMEOUT_MS)
  if (!ok) return nginxWords(stderr)
  await process.launch(config)
  ends.push(async () => {
    const master = await process.master()
    if (master === undefined) return
    process.signal(master, 'TERM')
    const deadline = performance.now() + START_TIMEOUT_MS
    while ((await process.master()) !== undefined && performance.now() < deadline) await sleep(20)
  })
  return undefined
}

function nginxIn(directory: string, binary: string): LocalNginx {
  const [pidFile, verifySocket] = [join(directory, 'nginx.pid'), join(directory, 'verify.sock')]
  return new LocalNginx({ binary, directory, pidFile, verifySocket, mode: 'own' })
}

async function freePorts(keys: readonly string[]): Promise<Map<string, number>> {
  const ports = new Map<string, number>()
  for (const key of keys) ports.set(key, await freePort())
  return ports
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}

// ---------------------------------------------------------------------------------------------- answers

const UPGRADE = { connection: 'upgrade', upgrade: 'websocket' }

/** What counts of an answer, by what it is called. */
type Answer = ReadonlyMap<string, string>

async function answerOf(
  ports: ReadonlyMap<string, number>,
  { listener, method, host, path, upgrades }: Probe,
): Promise<Answer> {
  const port = ports.get(listener) as number
  return await new Promise((resolve) => {
    const signal = AbortSignal.timeout(ANSWER_TIMEOUT_MS)
    const asked = {
      host: '127.0.0.1',
      port,
      method,
      path,
      headers: { host, ...(upgrades ? UPGRADE : {}) },
      agent: false,
      signal,
    }
    const none = (error: Error): void => resolve(new Map([['answer', `none (${error.message})`]]))
    const outgoing = request(asked, (response) => {
      let body = ''
      response.setEncoding('utf8').on('data', (text: string) => {
        if (body.length < BODY_MAX_BYTES) body += text
      })
      response.on('end', () => {
        const headers = Object.entries(response.headers).filter(([name]) => !VARIES.test(name))
        const told = headers.map(([name, value]) => [name, plainOf(String(value), port)] as const)
        resolve(new Map([['status', String(response.statusCode)], ...told, ['body', plainOf(body, port)]]))
      })
      response.on('error', none)
    }).on('error', none)
    outgoing.end(method === 'POST' ? 'a=b' : '')
  })
}

/** Without what follows from the sandbox: ports, and the version in nginx's own pages. */
function plainOf(text: string, port: number): string {
  return text.replaceAll(`:${port}`, '').replace(/nginx\/[\d.]+/g, 'nginx')
}

/** What differs first; undefined when nothing does. */
function differenceOf(was: Answer, is: Answer): string | undefined {
  for (const name of new Set([...was.keys(), ...is.keys()])) {
    const [before, after] = [was.get(name) ?? 'none', is.get(name) ?? 'none']
    if (name === 'location' ? isSamePlace(before, after) : before === after) continue
    if (name === 'body') {
      const lines = new Set(before.split('\n'))
      const other = after.split('\n').find((line) => !lines.has(line) && !ADDED.test(line))
      const left = new Set(after.split('\n'))
      const gone = before.split('\n').find((line) => !left.has(line) && !ADDED.test(line))
      if (other === undefined && gone === undefined) continue
      return `the body was ${JSON.stringify(cut(gone ?? ''))}, is ${JSON.stringify(cut(other ?? ''))}`
    }
    return `${name} was ${cut(before)}, is ${cut(after)}`
  }
  return undefined
}

/** Redirects of nginx's own name no host any more. */
function isSamePlace(before: string, after: string): boolean {
  return before === after || before.replace(/^https?:\/\/[^/]+/, '') === after
}

function cut(text: string): string {
  return text.length > 80 ? `${text.slice(0, 77)}...` : text
}
