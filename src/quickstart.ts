/**
 * A mesh of one for whoever tries NxMesh out: what `mesh-node` does without a configuration. Founds the mesh and writes a
 * configuration with meshctl's own verbs, applies the example site, and tells what to try next. Called by mesh-node.ts.
 */

import { existsSync } from 'node:fs'
import { mkdir, realpath, rename, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { hostname, userInfo } from 'node:os'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { stringify } from 'yaml'
import { createKeyFile, loadKey, type KeySource } from './adapters/identity.ts'
import { systemClock } from './adapters/clock.ts'
import type { Config } from './config/config.ts'
import { INIT_FILES } from './cli/keys/keys.ts'
import { run } from './cli/run.ts'
import { sha256 } from './core/canonical.ts'
import { isName } from './core/names.ts'
import { encryptionKey } from './core/secrets.ts'
import { MeshError } from './errors.ts'
import type { Health } from './status/health.ts'
import { allPids, listenersOn, titleOf, workingDirectoryOf } from './nginx/applying/proc.ts'
import { ANYBODY, closedDirectories } from './nginx/applying/reach.ts'

const EXAMPLES = fileURLToPath(new URL('../examples', import.meta.url))
/** Where meshctl looks for the API and the key when it is told nothing. */
const DEFAULT_DIRECTORY = 'data'
/** How long nginx may take to serve what the last run left, before the welcome says that it does not. */
const SERVING_TIMEOUT_MS = 60_000
const POLL_MS = 50

/** What the welcome asks of the node that has just started. */
export interface StartedNode {
  /** Whether no edit was ever made in this mesh. */
  readonly isUntouched: boolean
  readonly apiPort: number | undefined
  isConverged(): boolean
  health(): Health
}

export interface Welcome {
  readonly config: Config
  readonly node: StartedNode
  readonly signal: AbortSignal
  readonly write: (text: string) => unknown
}

export interface Quickstart {
  readonly configFile: string
  /** To be asked before the node starts. @throws MeshError `port_in_use`, naming the port and how to take another. */
  checkPorts(config: Config): Promise<void>
  /** Applies the example site when the mesh is untouched, waits until nginx serves, and prints what to try next. */
  welcome(options: Welcome): Promise<void>
}

/**
 * Prepares a mesh of one in `directory`, unless it holds one. What an interrupted start left half made is made again.
 * @param key what the node will run with, as far as the environment and flags say: without either a key file is made.
 * @throws MeshError `key_invalid`; `conflict` when an older mesh is still in use there.
 */
export async function quickstart(directory: string, key: KeySource): Promise<Quickstart> {
  const configFile = join(directory, 'config.yaml')
  if (!existsSync(configFile)) await found(directory, configFile, key)
  const ownerKey = join(directory, 'mesh', INIT_FILES.owner)
  return {
    configFile,
    checkPorts,
    async welcome({ config, node, signal, write }) {
      const api = `unix:${resolve(config.dataDir, 'api.sock')}`
      const example = join(EXAMPLES, 'welcome.yaml')
      if (node.isUntouched) await meshctl(['apply', '-f', example, '--wait', '--api', api, '-k', ownerKey], signal)
      await untilServing(node, signal)
      if (!signal.aborted) write(whatNext(config, directory, node))
    },
  }
}

// ---------------------------------------------------------------------------------------------- founding

/** Each piece is made aside and moved into place whole; the configuration comes last and says that all is there. */
async function found(directory: string, configFile: string, { file, env }: KeySource): Promise<void> {
  const [mesh, drafts] = [join(directory, 'mesh'), join(directory, 'drafts')]
  const keyFile = file || join(directory, 'node.key')
  const isKeyGiven = Boolean(file || env['PRIVATE_KEY'])
  // nginx's workers, another user when this one is root, pass through on the way to their files.
  await mkdir(directory, { recursive: true, mode: 0o711 })
  await rm(drafts, { recursive: true, force: true })
  await mkdir(drafts, { mode: 0o700 })
  if (!isKeyGiven && !existsSync(keyFile)) {
    const draft = join(drafts, 'node.key')
    await createKeyFile(draft)
    await rename(draft, keyFile)
  }
  const ownDirectory = await reachableDirectory(directory)
  if (!existsSync(mesh)) {
    const { publicKey, seed } = await loadKey({ file: keyFile, env })
    await clearOlderMesh(directory, ownDirectory ?? join(directory, 'nginx'))
    const host = hostname().split('.')[0]?.toLowerCase() ?? ''
    const draft = join(drafts, 'mesh')
    await meshctl([
      'init',
      '--dir',
      draft,
      '--name',
      'home',
      '--node',
      `${publicKey}:${encryptionKey(seed).publicKey}=${isName(host) ? host : 'home'}`,
    ])
    await rename(draft, mesh)
  }
  const config = {
    ...(env['PRIVATE_KEY'] ? {} : { private_key_path: keyFile }),
    data_dir: directory,
    bind_address: '127.0.0.1',
    mesh: { genesis_file: join(mesh, INIT_FILES.genesis) },
    nginx: {
      mode: 'own',
      stop_on_exit: true,
      ...(ownDirectory === undefined ? {} : { directory: ownDirectory }),
    },
  }
  const comment =
    '# Written by mesh-node, which was started without a configuration; config.example.yaml shows every setting.\n'
  const draft = join(drafts, 'config.yaml')
  await writeFile(draft, comment + stringify(config), { mode: 0o600 })
  await rename(draft, configFile)
  await rm(drafts, { recursive: true, force: true })
}

/** What nginx served for an older mesh would look like sites that this one has lost, and a node does not drop those. */
async function clearOlderMesh(directory: string, nginxDirectory: string): Promise<void> {
  const store = join(directory, 'store')
  if (existsSync(store)) {
    throw new MeshError('conflict', `${store} holds another mesh, and its configuration is not in ${directory}`, {
      hint: `Start with that configuration (-c FILE), or take another directory: NXMESH_DATA_DIR=${directory}-2 npm start`,
    })
  }
  const path = await realpath(nginxDirectory).catch(() => undefined)
  if (path === undefined) return
  const pids = (await allPids()).filter((pid) => titleOf(pid).startsWith('nginx: '))
  const isInUse = await Promise.all(
    pids.map(async (pid) => titleOf(pid).includes(` ${path}/`) || (await workingDirectoryOf(pid)) === path),
  )
  const inUse = pids.filter((_, index) => isInUse[index])
  if (inUse.length > 0) {
    // Workers end with their master; those that have lost theirs have to be ended one by one.
    const masters = inUse.filter((pid) => titleOf(pid).startsWith('nginx: master'))
    const ends = (masters.length > 0 ? masters : inUse).join(' ')
    throw new MeshError('conflict', `the nginx of an older mesh still runs on ${path} (process ${ends})`, {
      hint: `End it, then start again: kill -QUIT ${ends}`,
    })
  }
  await rm(path, { recursive: true })
}

/**
 * Where nginx's files lie when its workers cannot reach them in `directory`: as root they are another user, and /root, for
 * one, lets nobody through. Undefined: they can.
 */
async function reachableDirectory(directory: string): Promise<string | undefined> {
  if (userInfo().uid !== 0) return undefined
  const path = await realpath(directory)
  const isReachable = (await closedDirectories(path, ANYBODY)).length === 0
  return isReachable ? undefined : `/run/nxmesh-${sha256(path).slice(0, 12)}`
}

// ---------------------------------------------------------------------------------------------- ports

async function checkPorts({ httpBindAddress, httpBindPort, bindAddress, bindPort, nginx }: Config): Promise<void> {
  const wanted = [
    { port: httpBindPort, address: httpBindAddress, use: 'the API', setting: 'http_bind_port' },
    { port: bindPort, address: bindAddress, use: 'other nodes', setting: 'bind_port' },
    ...(nginx.mode === 'own'
      ? [{ port: nginx.defaultHttpPort, address: '0.0.0.0', use: 'nginx', setting: 'nginx.default_http_port' }]
      : []),
  ]
  for (const { port, address, use, setting } of wanted) {
    const taken = await whoHas(port, address, resolve(nginx.directory))
    if (taken === undefined) continue
    const variable = `NXMESH_${setting.replace('.', '_').toUpperCase()}`
    throw new MeshError('port_in_use', `port ${port}, which is for ${use}, is taken by ${taken}`, {
      field: setting,
      value: String(port),
      hint: `Stop that (see: ss -ltnp 'sport = :${port}'), or take another port: ${variable}=${port + 1} npm start`,
    })
  }
}

/** Who listens on a port; undefined when it is free, or kept by the nginx that an earlier run in `own` could not stop. */
async function whoHas(port: number, address: string, own: string): Promise<string | undefined> {
  if (port === 0) return undefined
  const code = await new Promise<string | undefined>((resolve) => {
    const server = createServer()
    server.once('error', (error: NodeJS.ErrnoException) => resolve(error.code))
    server.listen({ port, host: address, exclusive: true }, () => server.close(() => resolve(undefined)))
  })
  // What else may be wrong with a port, whoever needs it says better.
  if (code !== 'EADDRINUSE') return undefined
  const pids = await listenersOn(port)
  const directories = await Promise.all(pids.map(workingDirectoryOf))
  if (directories.includes(own)) return undefined
  const [pid] = pids
  return pid === undefined ? 'another process' : `process ${pid} (${titleOf(pid).trim().slice(0, 80)})`
}

// ---------------------------------------------------------------------------------------------- welcome

/** Runs one command of meshctl in this process, quietly. @throws MeshError with what it said when it fails. */
async function meshctl(argv: readonly string[], signal: AbortSignal = new AbortController().signal): Promise<void> {
  const errors: string[] = []
  const code = await run({
    argv,
    env: {},
    cwd: '.',
    stdin: (async function* none() {})(),
    stdout: { write: () => true },
    stderr: { write: (text) => errors.push(text) },
    clock: systemClock,
    signal,
    runEditor: () => Promise.reject(new Error('there is no terminal')),
  })
  if (code !== 0 && !signal.aborted) throw new MeshError('not_applied', errors.join('').trim())
}

/** Returns when nginx runs what is desired, something is known to stand in the way, or the time is over. */
async function untilServing(node: StartedNode, signal: AbortSignal): Promise<void> {
  const deadline = systemClock.monotonic() + SERVING_TIMEOUT_MS
  while (!signal.aborted && systemClock.monotonic() < deadline) {
    const isDecided = node.isConverged() || node.health().status === 'Degraded'
    if (isDecided) return
    await systemClock.sleep(POLL_MS)
  }
}

/** The API as this machine reaches it. */
function apiUrl({ httpBindAddress: bindAddress, httpBindPort, httpTls }: Config, port = httpBindPort): string {
  const wildcards: Readonly<Record<string, string>> = { '0.0.0.0': '127.0.0.1', '::': '::1' }
  const address = wildcards[bindAddress] ?? bindAddress
  const isTls = httpTls.identity || httpTls.cert !== ''
  return `${isTls ? 'https' : 'http'}://${address.includes(':') ? `[${address}]` : address}:${port}`
}

function whatNext(config: Config, directory: string, node: StartedNode): string {
  const { nginx, dataDir } = config
  const api = apiUrl(config, node.apiPort)
  const site = `http://127.0.0.1:${nginx.defaultHttpPort}/`
  const key = resolve(directory, 'mesh', INIT_FILES.owner)
  const options =
    directory === DEFAULT_DIRECTORY
      ? ''
      : ` --api ${shellWord(`unix:${resolve(dataDir, 'api.sock')}`)} -k ${shellWord(key)}`
  const { status, msg } = node.health()
  const trouble = status === 'Running' ? '' : `\nNot all is well (${status}): ${msg}\n`
  return `
A mesh of one runs in ${directory}/. nginx serves ${site}, the API is at ${api}/health. Try next:

  curl -s ${site}
  npm run -s meshctl -- status${options}
  npm run -s meshctl -- apply -f examples/hello.yaml --wait${options} && curl -s -H 'Host: hello.example.com' ${site}
${trouble}
Ctrl-C stops the node and its nginx; the next start goes on where this one stopped.
`
}

function shellWord(text: string): string {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`
}
