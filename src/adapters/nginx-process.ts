/**
 * The host's nginx as processes: runs `-V`, `-t` and the start, finds master and workers in /proc, signals them, and
 * ends what a crash left behind once it is proven to be ours. Implements NginxProcess; writes no configuration.
 */

import { spawn } from 'node:child_process'
import { readdir, readFile, realpath, rename, rm, writeFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { MeshError } from '../errors.ts'
import {
  builtInGroups,
  builtInPaths,
  modulesPath,
  parseCapabilities,
  withoutFatal,
  type NginxPaths,
} from '../nginx/applying/capabilities.ts'
import { disk } from '../nginx/applying/disk.ts'
import { nginxWords } from '../nginx/applying/isolate.ts'
import * as proc from '../nginx/applying/proc.ts'
import { closedDirectories } from '../nginx/applying/reach.ts'
import { circuitSocket, STREAM_SOCKET } from '../nginx/rendering/host-layout.ts'
import type { Capabilities, NginxOutput, NginxProcess, WorkerProcess } from '../ports.ts'

export interface NginxProcessOptions {
  /** Path of nginx, or a name looked up in PATH and the sbin directories. */
  readonly binary: string
  /** nginx's prefix. The configuration is always `<directory>/current/nginx.conf`. Absolute. */
  readonly directory: string
  readonly pidFile: string
  readonly verifySocket: string
  /** own: this daemon starts nginx. attach: somebody else does, and nothing of it is ever ended here. */
  readonly mode: 'own' | 'attach'
  /** Of the workers, when the master runs as root; else what nginx was built with. */
  readonly user?: string
  /** Where dynamic modules lie; where `-V` says when left out. */
  readonly modulesDirectory?: string
}

const MASTER_TITLE = 'nginx: master process '
const WORKER_TITLE = /^nginx: worker process( is shutting down)?/
/** What any nginx child process shows: workers, cache manager, cache loader. */
const CHILD_TITLE = /^nginx: (worker|cache|privileged)/
const DRAINING_TITLE = 'is shutting down'

/** nginx's words that are kept of one command. */
const OUTPUT_MAX_BYTES = 256 * 1024
const VERSION_TIMEOUT_MS = 5_000
const LAUNCH_TIMEOUT_MS = 60_000
/** How long an orphan may take to stop listening before it is killed. */
const ORPHAN_TIMEOUT_MS = 3_000
const POLL_MS = 10

interface Recorded {
  readonly boot: string
  readonly processes: readonly proc.ProcessIdentity[]
}

export class LocalNginx implements NginxProcess {
  readonly #options: NginxProcessOptions
  readonly #configPath: string
  /** What `-V` said last. */
  #words = ''
  /** The workers last written down, as text, so that only a change is written. */
  #recorded = ''

  constructor(options: NginxProcessOptions) {
    this.#options = options
    this.#configPath = join(options.directory, 'current', 'nginx.conf')
  }

  async capabilities(): Promise<Capabilities> {
    // nginx is run in its own directory, which a new host does not have.
    await disk.makeDirectory(this.#options.directory, 'passable')
    const { ok, stderr } = await this.#run(['-V'], VERSION_TIMEOUT_MS)
    if (!ok) throw failed(`${this.#options.binary} -V failed: ${stderr}`, 'set nginx.binary to the path of nginx')
    this.#words = stderr
    const directory = this.#options.modulesDirectory ?? modulesPath(stderr)
    const files = directory === undefined ? [] : await readdir(directory).catch(() => [])
    const master = await this.master()
    const mapped = master === undefined ? [] : await proc.mappedFilesOf(master)
    return withoutFatal(parseCapabilities(stderr, directory ?? '', files), mapped)
  }

  /** Where it looks for what relative paths name. */
  async paths(): Promise<NginxPaths> {
    return builtInPaths((await this.#run(['-V'], VERSION_TIMEOUT_MS)).stderr)
  }

  test(configPath: string, timeoutMs: number): Promise<NginxOutput> {
    return this.#run([...this.#prefix(), '-t', '-c', configPath], timeoutMs)
  }

  async launch(configPath: string): Promise<void> {
    const { ok, stderr } = await this.#run([...this.#prefix(), '-c', configPath], LAUNCH_TIMEOUT_MS)
    if (!ok) throw failed(`nginx did not start: ${nginxWords(stderr)}`, 'it is tried again by itself')
    // The command returns before the daemonised master has written its pid file.
    const deadline = performance.now() + LAUNCH_TIMEOUT_MS
    while ((await this.master()) === undefined) {
      if (performance.now() > deadline) {
        throw failed(`nginx started, but ${this.#options.pidFile} names no master of ours`, 'see logs/error.log')
      }
      await sleep(POLL_MS)
    }
  }

  async master(): Promise<number | undefined> {
    const pid = await this.#pidInFile()
    return pid !== undefined && this.#isOurMaster(pid) ? pid : undefined
  }

  async workers(masterPid: number): Promise<readonly WorkerProcess[]> {
    const workers = (await proc.childrenOf(masterPid)).flatMap((pid) => {
      const title = WORKER_TITLE.exec(proc.titleOf(pid))
      return title === null ? [] : [{ pid, draining: title[1] !== undefined }]
    })
    await this.#record(workers)
    return workers
  }

  /**
   * Directories that keep the workers, which may be another user, from the drain file and from their temporary files, from
   * the top. None while nothing runs.
   */
  async closedToWorkers(): Promise<readonly string[]> {
    const master = await this.master()
    const [worker] = master === undefined ? [] : await this.workers(master)
    const who = worker === undefined ? undefined : await proc.credentialsOf(worker.pid)
    return who === undefined ? [] : closedDirectories(join(this.#options.directory, 'temp'), who)
  }

  async workerGroup(): Promise<number | undefined> {
    // Without root nginx changes nobody's user.
    if (process.getuid?.() !== 0) return undefined
    const { user } = this.#options
    const names = user === undefined ? builtInGroups(this.#words) : [user]
    const groups = new Map((await readFile('/etc/group', 'utf8')).split('\n').map(readGroup))
    const found = names.find((name) => groups.has(name))
    if (found !== undefined) return groups.get(found)
    const hint = 'name a user with a group of the same name: nginx.user'
    throw failed(`the group ${names.join(' or ')} of nginx’s workers is not in /etc/group`, hint)
  }

  signal(masterPid: number, name: 'HUP' | 'QUIT' | 'TERM' | 'USR1'): void {
    // Between finding the pid and now it may have ended and been given to somebody else.
    if (!this.#isOurMaster(masterPid))
      throw failed(`process ${masterPid} is no longer our nginx`, 'it is looked for again')
    try {
      process.kill(masterPid, `SIG${name}`)
    } catch (error) {
      const hint = 'run mesh-node as the user that nginx’s master runs as'
      throw failed(`cannot send ${name} to nginx (process ${masterPid}): ${(error as Error).message}`, hint, error)
    }
  }

  async clearRemains(): Promise<void> {
    const named = await this.#pidInFile()
    if (named !== undefined && proc.titleOf(named).startsWith(MASTER_TITLE)) {
      if (this.#isOurMaster(named)) return
      const hint = 'give this node a pid file of its own (nginx.pid_file)'
      throw failed(`${this.#options.pidFile} belongs to another nginx, process ${named}`, hint)
    }
    if (this.#options.mode === 'own') {
      for (const pid of await this.#orphans()) await endOrphan(pid)
      await rm(this.#options.pidFile, { force: true })
    }
    const run = join(this.#options.directory, 'run')
    const streams = (await readdir(run).catch(() => [])).filter((name) => name.startsWith(STREAM_SOCKET))
    const sockets = [circuitSocket(this.#options.directory), ...streams.map((name) => join(run, name))]
    for (const path of [this.#options.verifySocket, ...sockets]) {
      if (!(await isListening(path))) await rm(path, { force: true })
    }
  }

  #prefix(): readonly string[] {
    return ['-p', `${this.#options.directory}/`]
  }

  async #pidInFile(): Promise<number | undefined> {
    const text = await readFile(this.#options.pidFile, 'utf8').catch(() => '')
    const pid = Number(text.trim())
    return Number.isSafeInteger(pid) && pid > 1 ? pid : undefined
  }

  #isOurMaster(pid: number): boolean {
    const title = proc.titleOf(pid)
    return title.startsWith(MASTER_TITLE) && `${title} `.includes(`-c ${this.#configPath} `)
  }

  /** nginx children without a master that are provably of this directory. */
  async #orphans(): Promise<readonly number[]> {
    const recorded = await this.#readRecord()
    const orphans: number[] = []
    for (const pid of await proc.allPids()) {
      if (!CHILD_TITLE.test(proc.titleOf(pid))) continue
      const stat = await proc.statOf(pid)
      if (stat === undefined || proc.titleOf(stat.parent).startsWith(MASTER_TITLE)) continue
      const known = recorded.some((process) => process.pid === pid && process.startTicks === stat.startTicks)
      if (known || (await this.#holdsOurFiles(pid))) orphans.push(pid)
    }
    return orphans
  }

  /** Whether it runs in our prefix and writes our error log: workers show no configuration path in their titles. */
  async #holdsOurFiles(pid: number): Promise<boolean> {
    const directory = await realpath(this.#options.directory)
    if ((await proc.workingDirectoryOf(pid)) !== directory) return false
    return (await proc.openFilesOf(pid)).includes(join(directory, 'logs', 'error.log'))
  }

  async #record(workers: readonly WorkerProcess[]): Promise<void> {
    const key = workers.map(({ pid }) => pid).join()
    if (this.#options.mode === 'attach' || key === this.#recorded) return
    const identities = await Promise.all(
      workers.map(async ({ pid }) => ({ pid, startTicks: (await proc.statOf(pid))?.startTicks ?? 0 })),
    )
    const record: Recorded = { boot: await proc.bootId(), processes: identities }
    const path = this.#recordPath()
    try {
      await writeFile(`${path}.tmp`, JSON.stringify(record), { mode: 0o600 })
      await rename(`${path}.tmp`, path)
      this.#recorded = key
    } catch {
      // A full disk. It is tried again at the next look; until then open files prove whose an orphan is.
    }
  }

  async #readRecord(): Promise<readonly proc.ProcessIdentity[]> {
    try {
      const record = JSON.parse(await readFile(this.#recordPath(), 'utf8')) as Recorded
      return record.boot === (await proc.bootId()) ? record.processes : []
    } catch {
      return []
    }
  }

  #recordPath(): string {
    return join(this.#options.directory, 'workers.json')
  }

  #run(args: readonly string[], timeoutMs: number): Promise<NginxOutput> {
    const { binary, directory } = this.#options
    const began = performance.now()
    return new Promise((resolve, reject) => {
      // The working directory proves whose workers they are; the environment must not hand nginx this node's key.
      const child = spawn(binary, args, { cwd: directory, env: environment(), stdio: ['ignore', 'ignore', 'pipe'] })
      let stderr = ''
      let expired = false
      const timer = setTimeout(() => {
        expired = true
        child.kill('SIGKILL')
      }, timeoutMs)
      const settle = (ok: boolean) => {
        clearTimeout(timer)
        child.stderr.destroy()
        if (expired) stderr += `\nnginx did not finish within ${timeoutMs} ms`
        resolve({ ok: ok && !expired, stderr, durationMs: performance.now() - began, expired })
      }
      child.stderr.setEncoding('utf8').on('data', (text: string) => {
        if (stderr.length < OUTPUT_MAX_BYTES) stderr += text
      })
      child.on('error', (error) => {
        clearTimeout(timer)
        reject(spawnError(error, binary, directory))
      })
      // A daemonised master keeps stderr open for a moment; success does not wait for it to close.
      child.on('exit', (code) => {
        if (code === 0 && !args.includes('-V') && !args.includes('-t')) settle(true)
      })
      child.on('close', (code) => settle(code === 0))
    })
  }
}

/** nginx shows its arguments in a title as long as its environment has room, so this is never empty. */
function environment(): NodeJS.ProcessEnv {
  const inherited = ['LANG', 'LC_ALL', 'TZ', 'HOME', 'LD_LIBRARY_PATH', 'OPENSSL_CONF', 'SSL_CERT_FILE']
  const kept = inherited.flatMap((name) => (process.env[name] === undefined ? [] : [[name, process.env[name]]]))
  const path = `${process.env['PATH'] ?? '/usr/bin:/bin'}:/usr/local/sbin:/usr/sbin:/sbin`
  return { ...Object.fromEntries(kept), PATH: path }
}

function spawnError(error: NodeJS.ErrnoException, binary: string, directory: string): MeshError {
  if (error.code === 'ENOENT' || error.code === 'EACCES' || error.code === 'ENOEXEC') {
    const hint = `install nginx (apt-get install nginx), or set nginx.binary; the working directory ${directory} must exist`
    return new MeshError(
      'nginx_missing',
      `cannot run ${binary}: ${error.message}`,
      { field: 'nginx.binary', value: binary, hint },
      error,
    )
  }
  return failed(`cannot run ${binary}: ${error.message}`, 'see the system error', error)
}

/** Asks an orphan to stop listening and finish its requests; kills it when it does not listen to that. */
async function endOrphan(pid: number): Promise<void> {
  const stopped = () => {
    const title = proc.titleOf(pid)
    return title === '' || title.includes(DRAINING_TITLE)
  }
  for (const name of ['SIGQUIT', 'SIGKILL'] as const) {
    const deadline = performance.now() + ORPHAN_TIMEOUT_MS
    while (!stopped() && performance.now() < deadline) {
      try {
        process.kill(pid, name)
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === 'ESRCH') return
        throw failed(`cannot end orphan worker ${pid}: ${(error as Error).message}`, 'end it by hand', error)
      }
      await sleep(POLL_MS)
    }
  }
}

function isListening(socketPath: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(socketPath)
    socket.on('connect', () => {
      socket.destroy()
      resolve(true)
    })
    socket.on('error', () => resolve(false))
  })
}

function failed(message: string, hint: string, cause?: unknown): MeshError {
  return new MeshError('nginx_failed', message, { hint }, cause)
}

function readGroup(line: string): [name: string, id: number] {
  const [name = '', , id] = line.split(':')
  return [name, Number(id)]
}
