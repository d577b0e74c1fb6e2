/**
 * Who gets at nginx's files on a real host: its workers at what they need, also when they are another user; other users of
 * the host at nothing; and a node whose workers are kept out says so. And the file of addresses, which outlives a restart.
 */

import { execFile } from 'node:child_process'
import { chmod, chown, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'
import { freePorts } from '../support/fleet.ts'
import { backend } from '../support/nginx-host.ts'
import { answers, converged, eventually, health, siteYaml, tell, useFleet } from '../support/use-fleet.ts'

const isRoot = process.getuid?.() === 0
/** The unprivileged user of every Unix. */
const NOBODY = 65_534

const fleet = useFleet({ members: [{ name: 'one' }], nginx: true, started: false })

test.each(isRoot ? ['root', 'nobody'] : ['this user'])(
  'workers drain, take large requests and open new logs, and others read nothing, as %s',
  async (user) => {
    const directory = await mkdtemp(join(tmpdir(), 'nxmesh-workers-'))
    const ids = user === 'nobody' ? { uid: NOBODY, gid: NOBODY } : {}
    if (user === 'nobody') await chown(directory, NOBODY, NOBODY)
    // As an older version left it.
    await chmod(directory, 0o755)
    const script = join(import.meta.dirname, '..', 'support', 'worker-files.ts')
    const [port] = await freePorts(1)
    try {
      const { stdout } = await promisify(execFile)(process.execPath, [script, directory, String(port)], {
        cwd: directory,
        ...ids,
      })
      expect(JSON.parse(stdout)).toEqual({
        workerIsRoot: false,
        outcomes: ['applied', 'applied'],
        connections: ['keep-alive', 'close'],
        large: 200,
        entered: [200, 401],
        drift: [],
        closed: [],
        errors: [],
        readable: [],
        again: true,
        served: 200,
      })
    } finally {
      await rm(directory, { recursive: true, force: true })
    }
  },
)

test('a node whose workers cannot pass on the way to their files says which directory, until it is opened', async () => {
  const one = fleet().member('one')
  await chmod(one.directory, 0o700)
  await one.start()
  const words = `Degraded (nginx’s workers cannot pass through ${one.directory}: `
  // Workers of the same user are let through.
  await eventually(() => health(one)).toContain(isRoot ? words : 'Running')
  expect(await health(one)).toContain(isRoot ? `chmod o+x ${one.directory},` : 'Running')
  await chmod(one.directory, 0o711)
  await eventually(() => health(one)).toMatch(/^Running/)
})

test('the last known addresses of a name serve after a restart, though it resolves nowhere any more', async () => {
  const one = fleet().member('one')
  if (!one.isRunning) await one.start()
  await using target = await backend()
  const pool = { endpoints: { [`app.invalid:${target.port}`]: {} } }
  const yaml = [
    siteYaml({ name: 'app', spec: { routes: { root: { path: '/', proxy: { upstream: 'pool' } } } } }),
    JSON.stringify({ apiVersion: 'nxmesh/v1', kind: 'Upstream', metadata: { name: 'pool', zone: '*' }, spec: pool }),
  ].join('\n---\n')
  await tell(fleet(), one, ['apply', '-f', '-'], { stdin: yaml })
  await eventually(() => answers([one], 'app')).toEqual({ one: '502' })
  await eventually(() => health(one)).toContain('not served as written: 1 ')
  await one.stop()
  const file = join(one.nginxDirectory, 'addresses.json')
  await writeFile(file, JSON.stringify({ v: 1, addresses: { 'app.invalid': ['127.0.0.1'] } }))
  await one.start()
  await eventually(() => answers([one], 'app')).toEqual({ one: 'from the backend\n' })
  await converged([one])
  expect(JSON.parse(await readFile(file, 'utf8'))).toMatchObject({ addresses: { 'app.invalid': ['127.0.0.1'] } })
})
