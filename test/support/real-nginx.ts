/**
 * A real nginx for rendering tests, in a directory and on ports of its own: writes a generation, runs `nginx -t` on it,
 * or serves it until stopped. Ends only the master that it started.
 */

import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { createServer, type AddressInfo } from 'node:net'
import { request, type IncomingHttpHeaders, type RequestOptions } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { modulesPath } from '../../src/nginx/applying/capabilities.ts'
import type { HostLayout } from '../../src/nginx/rendering/host-layout.ts'
import type { UnitFile } from '../../src/nginx/rendering/unit.ts'
import { waitFor } from './wait.ts'

interface GenerationText {
  readonly digest: string
  readonly main: string
  readonly objects: ReadonlyMap<string, string>
  readonly files: readonly UnitFile[]
}

/** A fresh directory with a layout in it; `remove` deletes it. */
export function nginxDirectory(port: number): { host: HostLayout; remove: () => void } {
  const directory = mkdtempSync(join(tmpdir(), 'nxmesh-render-'))
  for (const name of ['objects', 'generations', 'logs', 'temp', 'run']) mkdirSync(join(directory, name))
  const host: HostLayout = {
    directory,
    pidFile: join(directory, 'nginx.pid'),
    verifySocket: join(directory, 'verify.sock'),
    drainFile: join(directory, 'drain'),
    ...(process.getuid?.() === 0 ? { user: 'root' } : {}),
    defaultHttpPort: port,
    workerProcesses: 2,
    workerShutdownTimeoutSeconds: 5,
    modules: [],
  }
  return { host, remove: () => rmSync(directory, { recursive: true, force: true }) }
}

export function writeGeneration({ directory }: HostLayout, { digest, main, objects, files }: GenerationText): string {
  for (const [object, text] of objects) writeFileSync(join(directory, 'objects', `${object}.conf`), text)
  for (const { name, text } of files) writeFileSync(join(directory, 'objects', name), text, { mode: 0o600 })
  mkdirSync(join(directory, 'generations', digest), { recursive: true })
  const config = join(directory, 'generations', digest, 'nginx.conf')
  writeFileSync(config, main)
  rmSync(join(directory, 'current'), { force: true })
  symlinkSync(join('generations', digest), join(directory, 'current'))
  return config
}

/** nginx's own words about a generation: `nginx -t`. Warnings count. */
export async function testGeneration(
  host: HostLayout,
  generation: GenerationText,
): Promise<{ ok: boolean; words: string }> {
  const config = writeGeneration(host, generation)
  return new Promise((resolve) => {
    execFile('nginx', ['-t', '-p', `${host.directory}/`, '-c', config], (error, _stdout, stderr) => {
      const words = stderr.split('\n').filter((line) => /\[(?:warn|emerg|alert|crit|error)\]/.test(line))
      // The limit of open files is the machine's, not the text's.
      const own = words.filter(
        (line) => !line.includes('exceed open file resource limit') && !line.includes('could not open error log file'),
      )
      resolve({ ok: error === null && own.length === 0, words: own.join('\n') })
    })
  })
}

/** Serves the generation until `stop`. */
export async function serve(
  host: HostLayout,
  generation: GenerationText,
): Promise<{ stop: () => Promise<void>; reload: () => void; workers: () => string[]; errors: () => string }> {
  writeGeneration(host, generation)
  const config = join(host.directory, 'current', 'nginx.conf')
  const child = spawn('nginx', ['-p', `${host.directory}/`, '-c', config, '-g', 'daemon off;'], { stdio: 'ignore' })
  const exited = once(child, 'exit')
  await waitFor(
    async () =>
      (await ask({ socketPath: host.verifySocket, path: '/generation' }).catch(() => undefined))?.status === 200,
    { timeoutMs: 10_000, what: 'nginx to answer on its verify socket' },
  )
  return {
    errors: () => readFileSync(join(host.directory, 'logs', 'error.log'), 'utf8'),
    reload: () => void child.kill('SIGHUP'),
    /** Process IDs, of those too that end with their connections. */
    workers: () => readFileSync(`/proc/${child.pid}/task/${child.pid}/children`, 'utf8').split(' ').filter(Boolean),
    stop: async () => {
      child.kill('SIGTERM')
      await exited
    },
  }
}

export interface Answer {
  readonly status: number
  readonly headers: IncomingHttpHeaders
  readonly body: string
}

export async function ask(options: RequestOptions, body = ''): Promise<Answer> {
  const sent = request({ host: '127.0.0.1', ...options })
  sent.end(body)
  const [response] = (await once(sent, 'response')) as [import('node:http').IncomingMessage]
  const chunks: Buffer[] = []
  for await (const chunk of response) chunks.push(chunk as Buffer)
  return { status: response.statusCode as number, headers: response.headers, body: Buffer.concat(chunks).toString() }
}

/** A port that was free a moment ago. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}

/** Paths of the Lua module and what it needs, in the order of loading, where this nginx keeps its modules. */
export function luaModules(): Promise<readonly string[]> {
  return new Promise((resolve) => {
    execFile('nginx', ['-V'], (_error, _stdout, stderr) => {
      const directory = modulesPath(stderr) ?? ''
      resolve(['ndk_http_module.so', 'ngx_http_lua_module.so'].map((name) => join(directory, name)))
    })
  })
}
