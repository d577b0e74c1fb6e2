/**
 * `npm start` without a configuration: a mesh of one that serves, tells what to try next, stops its nginx with it and goes on
 * later; as whatever user it is, with whatever key, after an interrupted start, and with a port taken.
 */

import { execFile, spawn, type ChildProcess } from 'node:child_process'
import { chmod, chown, mkdir, mkdtemp, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { parse } from 'yaml'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { allPids, titleOf } from '../../src/nginx/applying/proc.ts'
import { endNginx, freePorts } from '../support/fleet.ts'
import { http } from '../support/http.ts'
import { waitFor } from '../support/wait.ts'

const TIMEOUT_MS = 5 * 60_000
const WAIT_MS = 90_000
const isRoot = process.getuid?.() === 0
/** The unprivileged user of every Unix. */
const NOBODY = 65_534

interface StartOptions {
  readonly args?: readonly string[]
  readonly env?: NodeJS.ProcessEnv
  readonly uid?: number
  readonly gid?: number
}

/** A started `mesh-node`, as a person has it in a terminal. */
class Start {
  readonly process: ChildProcess
  out = ''
  err = ''

  constructor({ args = [], env, ...user }: StartOptions) {
    const argv = ['src/mesh-node.ts', ...args]
    this.process = spawn(process.execPath, argv, { env, stdio: ['ignore', 'pipe', 'pipe'], ...user })
    this.process.stdout?.on('data', (data: Buffer) => (this.out += data.toString()))
    this.process.stderr?.on('data', (data: Buffer) => (this.err += data.toString()))
  }

  /** Until it has said what to try next; the commands that it printed. */
  async welcomed(): Promise<string[]> {
    const hasEnded = (): boolean => this.process.exitCode !== null
    await waitFor(() => hasEnded() || this.out.includes('Ctrl-C stops'), {
      timeoutMs: WAIT_MS,
      what: () => `the welcome; so far:\n${this.out}\n${this.err}`,
    })
    if (hasEnded()) throw new Error(`mesh-node ended with ${this.process.exitCode}:\n${this.err}`)
    return this.out.split('\n').flatMap((line) => (/^ {2}\S/.test(line) ? [line.trim()] : []))
  }

  async end(signal: NodeJS.Signals = 'SIGTERM'): Promise<number | null> {
    this.process.kill(signal)
    return await this.ended()
  }

  async ended(): Promise<number | null> {
    const over = (): boolean => this.process.exitCode !== null || this.process.signalCode !== null
    await waitFor(over, { timeoutMs: WAIT_MS, what: () => `mesh-node ends; it wrote:\n${this.err}` })
    return this.process.exitCode
  }
}

let directory: string
let data: string
let ports: { api: number; mesh: number; site: number }
let starts: Start[]

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'nxmesh-start-'))
  await chmod(directory, 0o755)
  data = join(directory, 'data')
  const [api, mesh, site] = (await freePorts(3)) as [number, number, number]
  ports = { api, mesh, site }
  starts = []
})

afterEach(async () => {
  for (const { process } of starts) process.kill('SIGKILL')
  await endNginx(join(data, 'nginx'))
  await rm(directory, { recursive: true, force: true, maxRetries: 5 })
})

function environment(): NodeJS.ProcessEnv {
  return {
    ...process.env,
    HOME: directory,
    NXMESH_DATA_DIR: data,
    NXMESH_HTTP_BIND_PORT: String(ports.api),
    NXMESH_BIND_PORT: String(ports.mesh),
    NXMESH_NGINX_DEFAULT_HTTP_PORT: String(ports.site),
  }
}

function start(options: StartOptions = {}): Start {
  const started = new Start({ ...options, env: { ...environment(), ...options.env } })
  starts.push(started)
  return started
}

const site = (host = 'anything.example.com') => http(`http://127.0.0.1:${ports.site}`, '/', { headers: { host } })
const health = async () => (await http(`http://127.0.0.1:${ports.api}`, '/health')).json()
const MESH: unknown = expect.stringMatching(/^[0-9a-f]{64}$/)
const HEALTHY = { status: 'Running', msg: 'all is well', reasons: [], converged: true, mesh: MESH }

/** Processes of nginx that were started in the data directory. */
async function ourNginx(): Promise<string[]> {
  return (await allPids()).map(titleOf).filter((title) => title.startsWith('nginx') && title.includes(data))
}

/** Runs a line as pasted into a shell in the repository, with none of this test's settings. */
async function paste(line: string, user: { uid?: number; gid?: number } = {}): Promise<string> {
  const env = { PATH: process.env['PATH'], HOME: directory }
  return (await promisify(execFile)('sh', ['-c', line], { env, timeout: WAIT_MS, ...user })).stdout
}

async function listenOn(port: number) {
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(port, '0.0.0.0', resolve))
  return { [Symbol.asyncDispose]: () => new Promise<void>((resolve) => server.close(() => resolve())) }
}

describe('a bare start', { timeout: TIMEOUT_MS }, () => {
  it('serves the example, prints commands that work, stops nginx too, and goes on where it stopped', async () => {
    const first = start()
    const commands = await first.welcomed()
    expect((await site()).text).toContain('This nginx is part of a mesh')
    expect(await health()).toEqual(HEALTHY)
    expect((await http(`http://127.0.0.1:${ports.api}`, '/v1/node')).status, 'nobody reads without a token').toBe(401)
    expect(commands).toHaveLength(3)
    const [curl, status, apply] = commands as [string, string, string]
    expect(await paste(curl)).toContain('This nginx is part of a mesh')
    expect(await paste(status)).toContain('1 node: 1 ready, 1 applied')
    expect(await paste(apply)).toMatch(/\bhi$/)
    expect(await first.end()).toBe(0)
    expect(await ourNginx()).toEqual([])

    const second = start()
    expect(await second.welcomed()).toEqual(commands)
    expect((await site()).text).toContain('This nginx is part of a mesh')
    expect((await site('hello.example.com')).text).toBe('hi')
    expect(second.out).not.toContain('Not all is well')
    // As Ctrl-C does it: the terminal signals node and npm, and npm passes the signal on.
    second.process.kill('SIGINT')
    expect(await second.end('SIGINT')).toBe(0)
    expect(await ourNginx()).toEqual([])
  })

  it('lets the workers of nginx at their files, whatever user they are', async () => {
    await start().welcomed()
    // Over the buffer of a request body, which then goes through a temporary file.
    const body = 'x'.repeat(200_000)
    expect((await http(`http://127.0.0.1:${ports.site}`, '/', { method: 'POST', body })).status).toBe(200)
    expect(await readFile(join(data, 'nginx', 'logs', 'error.log'), 'utf8')).not.toMatch(/\[(crit|alert|emerg)\]/)
  })

  it('puts the files of nginx where its workers can reach them when the data directory is closed to others', async () => {
    await chmod(directory, 0o700)
    const first = start()
    await first.welcomed()
    const { nginx } = parse(await readFile(join(data, 'config.yaml'), 'utf8')) as { nginx: { directory?: string } }
    // Only a master that runs as root has workers of another user.
    expect(nginx.directory ?? 'in the data directory').toMatch(isRoot ? /^\/run\/nxmesh-[0-9a-f]{12}$/ : /^in the/)
    const files = nginx.directory ?? join(data, 'nginx')
    expect((await site()).text).toContain('This nginx is part of a mesh')
    expect(await readFile(join(files, 'logs', 'error.log'), 'utf8')).not.toMatch(/\[(crit|alert|emerg)\]/)
    expect(await first.end()).toBe(0)
    await endNginx(files)
    await rm(files, { recursive: true })
  })

  it('works as an unprivileged user', async () => {
    await mkdir(data)
    const user = isRoot ? { uid: NOBODY, gid: NOBODY } : {}
    if (isRoot) for (const path of [directory, data]) await chown(path, NOBODY, NOBODY)
    const first = start(user)
    const commands = await first.welcomed()
    expect(await health()).toEqual(HEALTHY)
    const [curl, status, apply] = commands as [string, string, string]
    expect(await paste(curl, user)).toContain('This nginx is part of a mesh')
    expect(await paste(status, user)).toContain('1 node: 1 ready, 1 applied')
    expect(await paste(apply, user)).toMatch(/\bhi$/)
    expect(await first.end()).toBe(0)
    expect(await ourNginx()).toEqual([])
  })

  it('goes on after it was killed, with nginx still serving', async () => {
    const first = start()
    await first.welcomed()
    await first.end('SIGKILL')
    expect((await site()).text).toContain('This nginx is part of a mesh')
    const second = start()
    await second.welcomed()
    expect(await health()).toEqual(HEALTHY)
    expect(await second.end()).toBe(0)
    expect(await ourNginx()).toEqual([])
  })

  it('makes again what an interrupted first start left half made', async () => {
    // The key is there, the mesh half made, the configuration not yet there.
    const whole = start()
    await whole.welcomed()
    await whole.end()
    const key = await readFile(join(data, 'node.key'), 'utf8')
    await mkdir(join(data, 'drafts'))
    await rename(join(data, 'mesh'), join(data, 'drafts', 'mesh'))
    await rm(join(data, 'drafts', 'mesh', 'genesis.json'))
    await writeFile(join(data, 'drafts', 'config.yaml'), 'private_key_')
    // What nginx served for the mesh that is gone must not hold the new one back.
    for (const made of ['config.yaml', 'store']) await rm(join(data, made), { recursive: true })

    const again = start()
    await again.welcomed()
    expect(await health()).toEqual(HEALTHY)
    expect((await site()).text).toContain('This nginx is part of a mesh')
    expect(await readFile(join(data, 'node.key'), 'utf8')).toBe(key)
    expect(await again.end()).toBe(0)
  })

  it.for([
    { given: 'PRIVATE_KEY', args: [], env: { PRIVATE_KEY: 'ab'.repeat(32) } },
    { given: '-k FILE', args: ['-k', 'given.key'], env: {} },
    { given: 'NXMESH_PRIVATE_KEY_PATH', args: [], env: { NXMESH_PRIVATE_KEY_PATH: 'given.key' } },
  ])('founds the mesh for the key of $given in --data_dir, and makes no other key', async ({ args, env }) => {
    const file = join(directory, 'given.key')
    await writeFile(file, 'cd'.repeat(32), { mode: 0o600 })
    const inPlace = (text: string): string => (text === 'given.key' ? file : text)
    const settings = Object.fromEntries(Object.entries(env).map(([name, value]) => [name, inPlace(value)]))
    const given = {
      args: [`--data_dir=${data}`, ...args.map(inPlace)],
      env: { NXMESH_DATA_DIR: join(directory, 'not-here'), ...settings },
    }
    for (const _ of ['first', 'second']) {
      const started = start(given)
      await started.welcomed()
      expect(await health()).toEqual(HEALTHY)
      expect((await site()).text).toContain('This nginx is part of a mesh')
      expect(await started.end()).toBe(0)
    }
    expect(await readdir(directory)).toEqual(['data', 'given.key'])
    expect(await readdir(data)).not.toContain('node.key')
  })

  it('does not found a mesh over one that is in use', async () => {
    const first = start()
    await first.welcomed()
    await first.end('SIGKILL')
    for (const part of ['config.yaml', 'mesh']) await rm(join(data, part), { recursive: true })
    const overStore = start()
    expect(await overStore.ended()).toBe(6)
    expect(overStore.err).toContain(`${data}/store holds another mesh`)
    await rm(join(data, 'store'), { recursive: true })
    const overNginx = start()
    expect(await overNginx.ended()).toBe(6)
    expect(overNginx.err).toMatch(/the nginx of an older mesh still runs on .*\n.*kill -QUIT \d+/)
    expect((await site()).text).toContain('This nginx is part of a mesh')
    await endNginx(join(data, 'nginx'))
    const last = start()
    await last.welcomed()
    expect(await health()).toEqual(HEALTHY)
    expect(await last.end()).toBe(0)
  })

  it('applies the example when the first start ended before it had', async () => {
    const first = start()
    await waitFor(() => first.err.includes('this node is up'), {
      timeoutMs: WAIT_MS,
      what: () => `the node is up: ${first.err}`,
    })
    await first.end('SIGKILL')
    const second = start()
    await second.welcomed()
    expect((await site()).text).toContain('This nginx is part of a mesh')
    expect(await second.end()).toBe(0)
  })

  it.for([
    { use: 'nginx', of: 'site', variable: 'NXMESH_NGINX_DEFAULT_HTTP_PORT' },
    { use: 'the API', of: 'api', variable: 'NXMESH_HTTP_BIND_PORT' },
    { use: 'other nodes', of: 'mesh', variable: 'NXMESH_BIND_PORT' },
  ] as const)('says which port is taken and how to take another: $use', async ({ use, of, variable }) => {
    const port = ports[of]
    {
      await using taken = await listenOn(port)
      expect(taken).toBeDefined()
      // The second time is no different: nothing was begun.
      for (const _ of ['first', 'second']) {
        const refused = start()
        expect(await refused.ended()).toBe(10)
        expect(refused.err).toContain(`port ${port}, which is for ${use}, is taken by process ${process.pid} (`)
        expect(refused.err).toContain(`${variable}=${port + 1} npm start`)
      }
    }
    const free = start()
    await free.welcomed()
    expect(await free.end()).toBe(0)
  })
})
