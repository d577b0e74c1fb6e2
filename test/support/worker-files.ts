/**
 * Run by test/e2e/nginx-files.test.ts, as root or not: what nginx's workers do with files, and what other users may read
 * meanwhile. Arguments: an empty directory of that user, a port. Prints one JSON object.
 */

import { readdir, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { credentialsOf } from '../../src/nginx/applying/proc.ts'
import { circuitSocket } from '../../src/nginx/rendering/host-layout.ts'
import { filePath, unitFile } from '../../src/nginx/rendering/unit-files.ts'
import { backend, NginxHost } from './nginx-host.ts'
import { http } from './http.ts'
import { waitFor } from './wait.ts'

const [directory = '', portText = ''] = process.argv.slice(2)
const port = Number(portText)
await using host = new NginxHost(directory)
await using target = await backend()
const applier = await host.booted({ settings: { logMaxBytes: 1 } })

const site = (code: number) =>
  host.site('a', { port, body: `proxy_pass http://127.0.0.1:${target.port}; add_header X-Code ${code};` })
/** Asks for a name and a password, which nginx's workers look up in a file of their own. */
const users = unitFile('ana:{PLAIN}secret\n', 'htpasswd', 'workers')
const guarded = {
  ...host.site('guarded', {
    port,
    body: `auth_basic own; auth_basic_user_file ${filePath(host.layout, users)}; proxy_pass http://127.0.0.1:${target.port};`,
  }),
  files: [users],
}
const enter = async (credentials: string) => {
  const authorization = `Basic ${Buffer.from(credentials).toString('base64')}`
  return (await http(`http://127.0.0.1:${port}`, '/', { headers: { host: 'guarded.test', authorization } })).status
}
const ask = (body?: string) =>
  http(`http://127.0.0.1:${port}`, '/', {
    headers: { host: 'a.test', connection: 'keep-alive' },
    ...(body === undefined ? {} : { method: 'POST', body }),
  })

/** Files that another user may read, being able to pass through all directories above. */
async function readableByOthers(path = directory): Promise<string[]> {
  const found = await stat(path)
  if (!found.isDirectory()) return (found.mode & 0o004) === 0 ? [] : [path]
  if ((found.mode & 0o001) === 0) return []
  return (await Promise.all((await readdir(path)).map((name) => readableByOthers(join(path, name))))).flat()
}

const first = await applier.apply(host.request([site(1), guarded]))
const plain = await ask()
await writeFile(host.layout.drainFile, '')
const draining = await ask()
const second = await applier.apply(host.request([site(2), guarded], { drainMs: 10 }))
// Over the buffer of a request body, which then goes through a temporary file.
const large = await ask('x'.repeat(200_000))

await applier.tidy()
await waitFor(
  async () => {
    await ask()
    return (await host.log('access.log')) !== ''
  },
  { what: 'the workers to write to the new access log' },
)
const [worker = 0] = await host.workers()
const who = await credentialsOf(worker)
const said = {
  workerIsRoot: who?.uid === 0,
  outcomes: [first.outcome, second.outcome],
  connections: [plain.headers['connection'], draining.headers['connection']],
  large: large.status,
  entered: [await enter('ana:secret'), await enter('ana:wrong')],
  drift: await applier.healDrift(),
  closed: await host.nginx.closedToWorkers(),
  errors: (await host.log('error.log')).split('\n').filter((line) => /\[(crit|alert|emerg)\]/.test(line)),
  // The pid is no secret, and who asks for what stands in for an upstream gets a 503.
  readable: (await readableByOthers()).filter(
    (path) => path !== host.layout.pidFile && path !== circuitSocket(host.layout.directory),
  ),
}
await applier.stopNginx()
const again = await host.booted()
const served = await ask()
process.stdout.write(JSON.stringify({ ...said, again: again.applied === second.generation, served: served.status }))
