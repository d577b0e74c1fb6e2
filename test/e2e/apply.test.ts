/**
 * The apply protocol against a real nginx: everything that may go wrong in one apply, and what serves afterwards.
 * Units are hand-made, so that what breaks is known; rendering has tests of its own.
 */

import { execFile } from 'node:child_process'
import { appendFile, chmod, lstat, mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { Agent } from 'node:http'
import { createServer, type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { expect, test, vi } from 'vitest'
import { systemClock } from '../../src/adapters/clock.ts'
import { sha256 } from '../../src/core/canonical.ts'
import { Addresses } from '../../src/nginx/applying/addresses.ts'
import { probe } from '../../src/nginx/applying/probe.ts'
import { TRAFFIC_LOG, TRAFFIC_LOG_LINE } from '../../src/nginx/rendering/traffic-log.ts'
import type { Unit } from '../../src/nginx/rendering/unit.ts'
import type { Receipt } from '../../src/receipt.ts'
import { Reconciler } from '../../src/reconciler.ts'
import { backend, fetchRoot, freePort, NginxHost, upstream } from '../support/nginx-host.ts'
import { sliceOf, statesOf } from '../support/resources.ts'
import { silentLog } from '../support/silent-log.ts'
import { waitFor } from '../support/wait.ts'

vi.setConfig({ testTimeout: 30_000 })

const BAD = 'no_such_directive on;'

test('applies, serves, and says that nothing changed when nothing did', async () => {
  await using host = await NginxHost.create()
  const applier = await host.booted()
  const port = await freePort()
  const units = [host.site('a', { port }), host.site('b', { port })]

  const result = await applier.apply(host.request(units))
  expect(result).toMatchObject({ outcome: 'applied', error: undefined, isolated: [] })
  expect(applier).toMatchObject({ applied: result.generation, validated: result.generation })
  expect(await host.get(port, 'a.test')).toEqual({ status: 200, body: 'a\n' })
  expect(await host.get(port, 'b.test')).toEqual({ status: 200, body: 'b\n' })

  expect(await applier.apply(host.request(units))).toMatchObject({
    outcome: 'unchanged',
    generation: result.generation,
  })
})

test('a site that nginx refuses keeps its last good text; the others ship', async () => {
  await using host = await NginxHost.create()
  const applier = await host.booted()
  const port = await freePort()
  await applier.apply(host.request([host.site('a', { port }), host.site('b', { port })]))

  const result = await applier.apply(
    host.request([host.site('a', { port, body: BAD }), host.site('b', { port, body: 'return 200 "new";' })]),
  )
  expect(result.outcome).toBe('applied')
  expect(result.isolated).toEqual([
    {
      path: 'default/eu/site/a',
      why: 'refused',
      reason: expect.stringContaining('unknown directive "no_such_directive"'),
      serves: 'last_good',
    },
  ])
  expect(await host.get(port, 'a.test')).toEqual({ status: 200, body: 'a\n' })
  expect(await host.get(port, 'b.test')).toEqual({ status: 200, body: 'new' })
  expect(result.retryAfterMs).toBeGreaterThan(0)
})

test('a bad upstream takes only its new sites with it; old ones keep the last good upstream', async () => {
  await using host = await NginxHost.create()
  await using target = await backend()
  const applier = await host.booted()
  const port = await freePort()
  const needs = ['default/eu/upstream/pool']
  const old = host.site('old', { port, body: 'proxy_pass http://pool;', needs })
  await applier.apply(host.request([upstream('pool', `127.0.0.1:${target.port}`), old]))

  const bad = upstream('pool', 'no_such_host.invalid:80')
  const fresh = host.site('fresh', { port, body: 'proxy_pass http://other;', needs: ['default/eu/upstream/other'] })
  const result = await applier.apply(host.request([bad, old, upstream('other', 'no_such_host.invalid:81'), fresh]))
  expect(result.outcome).toBe('unchanged')
  expect(result.isolated.map(({ path, serves }) => `${path} ${serves}`).toSorted()).toEqual([
    'default/eu/site/fresh left_out',
    'default/eu/upstream/other left_out',
    'default/eu/upstream/pool last_good',
  ])
  expect(await host.get(port, 'old.test')).toEqual({ status: 200, body: 'from the backend\n' })
})

/** Ways in which nginx refuses a site, and its words; the second to fourth name no file. */
const FAULTS: readonly (readonly [body: (number: number) => string, words: RegExp])[] = [
  [(number) => `no_such_directive ${number};`, /unknown directive "no_such_directive"/],
  [(number) => `set $copy $nobody_sets_${number};`, /unknown "nobody_sets_\d+" variable/],
  [(number) => `access_log /no/such/directory/${number}.log;`, /open\(\) "\/no\/such\/directory\/\d+\.log" failed/],
  [(number) => `valid_referers server_names ${'a'.repeat(200)}${number}.test;`, /could not build referer_hash/],
  [(number) => `rewrite (${number} /;`, /missing closing parenthesis/],
  [(number) => `return 200 "${number}"; }`, /unexpected "}"|unknown directive|not allowed here/],
]

test('forty sites that nginx refuses, each in its own way, do not keep twenty good ones of the same edits waiting', async () => {
  await using host = await NginxHost.create()
  // As long as it takes: how fast this machine is must not matter.
  const applier = await host.booted({ settings: { isolateMs: Number.POSITIVE_INFINITY } })
  const port = await freePort()
  const other = createServer()
  await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve))
  const taken = (other.address() as AddressInfo).port
  const numbers = (count: number) => Array.from({ length: count }, (_, index) => index)
  const [good, bad] = [numbers(20).map((number) => `good-${number}`), numbers(40).map((number) => `bad-${number}`)]
  // Every second one is there already.
  const isOld = (name: string) => Number(name.split('-')[1]) % 2 === 0
  const old = [...good, ...bad].filter(isOld)
  await applier.apply(host.request(old.map((name) => host.site(name, { port }))))

  const listening = (name: string, options: string): Unit => {
    const unit = host.site(name, { port })
    const text = unit.text.replace(`:${port};`, `:${port} ${options};`)
    return { ...unit, text, digest: sha256(text) }
  }
  const expected = new Map<string, RegExp>()
  const units = [
    ...good.map((name) => host.site(name, { port, body: `return 200 "new ${name}";` })),
    ...bad.map((name, index) => {
      const fault = FAULTS[index % (FAULTS.length + 1)]
      expected.set(`default/eu/site/${name}`, fault?.[1] ?? /is taken by process/)
      return fault === undefined ? host.site(name, { port: taken }) : host.site(name, { port, body: fault[0](index) })
    }),
    // Either is fine, both are not.
    listening('pair-0', 'backlog=64'),
    listening('pair-1', 'backlog=128'),
  ]
  const result = await applier.apply(host.request(units))
  expect(result.outcome).toBe('applied')
  for (const name of good) expect((await host.get(port, `${name}.test`)).body).toBe(`new ${name}`)
  for (const name of bad) {
    expect(await host.get(port, `${name}.test`)).toMatchObject(
      isOld(name) ? { status: 200, body: `${name}\n` } : { status: 404 },
    )
  }
  const pair = await Promise.all(['pair-0', 'pair-1'].map((name) => host.get(port, `${name}.test`)))
  expect(pair.map(({ status }) => status).toSorted((a, b) => a - b)).toEqual([200, 404])

  const isolated = new Map(result.isolated.map((one) => [one.path, one]))
  for (const [path, words] of expected) {
    const serves = isOld(path) ? 'last_good' : 'left_out'
    expect(isolated.get(path)).toEqual({ path, why: 'refused', serves, reason: expect.stringMatching(words) })
  }
  expect(isolated.size).toBe(bad.length + 1)
  // They are tried again by themselves, some time later.
  expect(result.retryAfterMs).toBeGreaterThan(0)
  await new Promise((resolve) => other.close(resolve))
})

test('what fails without any change refuses the generation, which is not tried again at once', async () => {
  await using host = await NginxHost.create()
  const applier = await host.booted()
  const port = await freePort()
  await applier.apply(host.request([host.site('a', { port })]))
  const applied = applier.applied
  const broken = (units: readonly Unit[]) => {
    const assembled = host.assemble(units)
    return { ...assembled, digest: 'f'.repeat(64), main: `${assembled.main}\nno_such_directive on;\n` }
  }
  const units = [host.site('a', { port, body: 'return 200 "new";' })]
  const result = await applier.apply(host.request(units, { assemble: broken }))
  expect(result).toMatchObject({ outcome: 'refused', phase: 'test', error: { code: 'nginx_refused' } })
  expect(result.error?.message).toContain('unknown directive')
  expect(applier.applied).toBe(applied)

  const again = await applier.apply(host.request(units, { assemble: broken }))
  expect(again).toMatchObject({ outcome: 'refused', error: { message: result.error?.message } })
  expect(again.phases.test).toBeUndefined()
  expect(await host.get(port, 'a.test')).toEqual({ status: 200, body: 'a\n' })
  await applier.tidy()
  expect(await readdir(join(host.layout.directory, 'generations'))).not.toContain('f'.repeat(64))
})

test('a port that another process holds isolates its site, says who holds it, and is used once it is free', async () => {
  await using host = await NginxHost.create()
  const applier = await host.booted({ random: () => 0 })
  const port = await freePort()
  const other = createServer()
  await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve))
  const taken = (other.address() as AddressInfo).port
  const units = [host.site('a', { port }), host.site('b', { port: taken })]

  const result = await applier.apply(host.request(units))
  expect(result.outcome).toBe('applied')
  expect(result.isolated).toEqual([
    {
      path: 'default/eu/site/b',
      why: 'refused',
      reason: expect.stringContaining(`process ${process.pid} `),
      serves: 'left_out',
    },
  ])
  expect((await host.get(port, 'a.test')).status).toBe(200)

  await new Promise((resolve) => other.close(resolve))
  const retried = await waitFor(
    async () => {
      const again = await applier.apply(host.request(units))
      return again.outcome === 'applied' ? again : undefined
    },
    { timeoutMs: 10_000, what: 'the refused unit to be tried again' },
  )
  expect(retried.isolated).toEqual([])
  expect((await host.get(taken, 'b.test')).body).toBe('b\n')
})

test('a wildcard beside an address that nginx listens on is refused before a reload would silently fail', async () => {
  await using host = await NginxHost.create()
  const applier = await host.booted()
  const port = await freePort()
  await applier.apply(host.request([host.site('a', { port })]))
  const result = await applier.apply(host.request([host.site('a', { port }), host.site('b', { port, address: '*' })]))
  expect(result.isolated).toEqual([
    {
      path: 'default/eu/site/b',
      why: 'refused',
      reason: expect.stringContaining(`cannot bind *:${port} beside it`),
      serves: 'left_out',
    },
  ])
})

test('a port that is taken between the pre-check and the reload rolls back, in nginx’s own words', async () => {
  await using host = await NginxHost.create()
  // A pre-check that sees nothing stands for a process that came a moment later.
  const applier = await host.booted({ whoHas: () => Promise.resolve(undefined) })
  const port = await freePort()
  await applier.apply(host.request([host.site('a', { port })]))
  const applied = applier.applied
  const other = createServer()
  await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve))
  const taken = (other.address() as AddressInfo).port

  const units = [host.site('a', { port, body: 'return 200 "new";' }), host.site('b', { port: taken })]
  const result = await applier.apply(host.request(units))
  expect(result).toMatchObject({ outcome: 'rolled_back', phase: 'verify', retryAfterMs: 0 })
  expect(result.error?.message).toContain(`bind() to 127.0.0.1:${taken} failed (98: Address already in use)`)
  expect(applier.applied).toBe(applied)

  expect(await applier.apply(host.request(units))).toMatchObject({
    outcome: 'applied',
    isolated: [{ path: 'default/eu/site/b' }],
  })
  expect((await host.get(port, 'a.test')).body).toBe('new')
  await new Promise((resolve) => other.close(resolve))
})

test('a worker that is killed during the apply does not confuse the verification', async () => {
  await using host = await NginxHost.create()
  const applier = await host.booted()
  const port = await freePort()
  await applier.apply(host.request([host.site('a', { port })]))
  const [victim = 0] = await host.workers()
  const applying = applier.apply(host.request([host.site('a', { port, body: 'return 200 "new";' })]))
  process.kill(victim, 'SIGKILL')
  expect((await applying).outcome).toBe('applied')
  expect((await host.get(port, 'a.test')).body).toBe('new')
})

test('nginx killed while applying comes back on what is proven, and the apply goes through afterwards', async () => {
  await using host = await NginxHost.create()
  let kill = () => Promise.resolve()
  const clock = {
    ...systemClock,
    // The first pause of the verification: the reload has been asked for.
    async sleep(ms: number, signal?: AbortSignal) {
      await kill()
      await systemClock.sleep(ms, signal)
    },
  }
  const applier = await host.booted({ clock })
  const port = await freePort()
  await applier.apply(host.request([host.site('a', { port })]))
  kill = async () => {
    kill = () => Promise.resolve()
    for (const pid of await host.processes()) process.kill(pid, 'SIGKILL')
  }
  const units = [host.site('a', { port, body: 'return 200 "new";' })]
  const result = await applier.apply(host.request(units))
  expect(result.outcome).toBe('rolled_back')
  expect(result.error?.message).toContain('nginx is not running')
  expect((await host.get(port, 'a.test')).body).toBe('a\n')
  // What has nothing to do with it goes first.
  const request = host.request([...units, host.site('b', { port })])
  expect(await applier.apply(request)).toMatchObject({ outcome: 'applied', isolated: [{ why: 'untried' }] })
  expect(await applier.apply(request)).toMatchObject({ outcome: 'applied', isolated: [] })
  expect((await host.get(port, 'a.test')).body).toBe('new')
})

test.each(['the master', 'the master and its workers'])('kill -9 of %s: nginx comes back', async (who) => {
  await using host = await NginxHost.create()
  const applier = await host.booted()
  const port = await freePort()
  await applier.apply(host.request([host.site('a', { port })]))
  const master = await host.master()
  const workers = await host.workers()
  process.kill(master, 'SIGKILL')
  if (who !== 'the master') for (const pid of workers) process.kill(pid, 'SIGKILL')
  await waitFor(async () => (await host.nginx.master()) === undefined, { what: 'the master to be gone' })

  expect(await applier.ensureServing()).toEqual({ error: undefined, acted: true })
  expect((await host.get(port, 'a.test')).body).toBe('a\n')
  await waitFor(async () => (await host.workers()).length === 2, { what: 'both new workers' })
  expect((await host.workers()).some((pid) => workers.includes(pid))).toBe(false)
  await waitFor(async () => (await host.processes()).length === 3, { what: 'the orphans to end' })
})

test('a changed site that answers 5xx where it did not before is rolled back alone', async () => {
  await using host = await NginxHost.create()
  const applier = await host.booted()
  const port = await freePort()
  await applier.apply(host.request([host.site('a', { port }), host.site('b', { port })]))
  const units = [host.site('a', { port, body: 'return 503;' }), host.site('b', { port, body: 'return 200 "new";' })]

  const result = await applier.apply(host.request(units))
  expect(result).toMatchObject({ outcome: 'rolled_back', phase: 'probe', retryAfterMs: 0 })
  expect(result.error?.message).toContain('default/eu/site/a')
  expect(result.error?.message).toContain('answers 503; before it answered 200')
  expect((await host.get(port, 'b.test')).body).toBe('b\n')

  expect(await applier.apply(host.request(units))).toMatchObject({
    outcome: 'applied',
    isolated: [{ path: 'default/eu/site/a', serves: 'last_good' }],
  })
  expect((await host.get(port, 'a.test')).body).toBe('a\n')
  expect((await host.get(port, 'b.test')).body).toBe('new')
})

test('a new site whose upstream is down is applied: nothing got worse', async () => {
  await using host = await NginxHost.create()
  const applier = await host.booted()
  const port = await freePort()
  const nobody = await freePort()
  const result = await applier.apply(
    host.request([host.site('a', { port, body: `proxy_pass http://127.0.0.1:${nobody};` })]),
  )
  expect(result.outcome).toBe('applied')
  expect((await host.get(port, 'a.test')).status).toBe(502)
})

test.each([
  ['its access log', ''],
  ['no access log', TRAFFIC_LOG_LINE],
])('a rising share of 5xx during the bake rolls back, of a site with %s', async (_, log) => {
  await using host = await NginxHost.create()
  await using target = await backend()
  let probes = 0
  const applier = await host.booted({
    // Good until the new generation was probed, as a fault that only traffic shows.
    async probe(targets, timeoutMs) {
      const answers = await probe(targets, timeoutMs)
      probes += 1
      if (probes === 4) target.status = 500
      return answers
    },
  })
  const port = await freePort()
  const proxy = (extra: string) =>
    host.site('a', { port, body: `${log} ${extra} proxy_pass http://127.0.0.1:${target.port};` })
  await applier.apply(host.request([proxy('')]))
  const applied = applier.applied
  for (let count = 0; count < 30; count += 1) await host.get(port, 'a.test')
  const lines = async () => (await host.log(TRAFFIC_LOG)).split('\n').filter((line) => line.includes('/site/a\t'))
  await waitFor(async () => (await lines()).length >= 30, { what: 'what it was before to be written' })

  let stop = false
  const client = (async () => {
    while (!stop) await host.get(port, 'a.test').catch(() => undefined)
  })()
  const result = await applier.apply(host.request([proxy('proxy_read_timeout 7s;')], { bakeMs: 10_000 }))
  stop = true
  await client
  expect(result).toMatchObject({ outcome: 'rolled_back', phase: 'bake', retryAfterMs: 0 })
  expect(result.error?.message).toMatch(/% of \d+ answers were 5xx, earlier 0 %/)
  expect(applier.applied).toBe(applied)
})

test('drift is healed: what was edited is kept aside, what was removed comes back', async () => {
  await using host = await NginxHost.create()
  const applier = await host.booted()
  const port = await freePort()
  const unit = host.site('a', { port })
  const other = host.site('b', { port })
  const { generation = '' } = await applier.apply(host.request([unit, other]))
  expect(await applier.healDrift()).toEqual([])

  const { directory } = host.layout
  const object = join(directory, 'objects', `${unit.digest}.conf`)
  await appendFile(object, '# by hand\n')
  await rm(join(directory, 'objects', `${other.digest}.conf`))
  await rm(join(directory, 'current'))
  await mkdir(join(directory, 'current'))
  const found = await applier.healDrift()
  expect(found).toHaveLength(3)
  expect(found.join()).toContain(`${object} was edited`)
  expect(await readFile(object, 'utf8')).toBe(unit.text)
  expect((await lstat(join(directory, 'current'))).isSymbolicLink()).toBe(true)
  const aside = await readdir(join(directory, 'drift'))
  expect(aside).toHaveLength(2)
  const edited = aside.find((name) => name.endsWith('.conf')) ?? ''
  expect(await readFile(join(directory, 'drift', edited), 'utf8')).toBe(`${unit.text}# by hand\n`)
  expect(await applier.healDrift()).toEqual([])
  expect(applier.applied).toBe(generation)
  expect((await host.get(port, 'b.test')).body).toBe('b\n')
})

test('a generation loaded by hand is drift too', async () => {
  await using host = await NginxHost.create()
  const applier = await host.booted()
  const port = await freePort()
  await applier.apply(host.request([host.site('a', { port })]))
  const earlier = applier.applied ?? ''
  await applier.apply(host.request([host.site('a', { port, body: 'return 200 "new";' })]))
  await rm(join(host.layout.directory, 'current'))
  await symlink(`generations/${earlier}`, join(host.layout.directory, 'current'))
  process.kill(await host.master(), 'SIGHUP')
  await waitFor(async () => (await host.get(port, 'a.test')).body === 'a\n', { what: 'the old text to serve' })
  expect((await applier.healDrift()).length).toBeGreaterThanOrEqual(1)
  expect((await host.get(port, 'a.test')).body).toBe('new')
})

test('a new daemon adopts the running nginx without a reload', async () => {
  await using host = await NginxHost.create()
  const applier = await host.booted()
  const port = await freePort()
  await applier.apply(host.request([host.site('a', { port })]))
  const workers = await host.workers()

  const next = host.applier()
  expect(await next.boot(() => host.assemble([]))).toBeUndefined()
  expect(await next.ensureServing()).toEqual({ error: undefined, acted: true })
  expect(next.applied).toBe(applier.applied)
  expect(await host.workers()).toEqual(workers)
})

test('a daemon that died between swap and proof boots from the last good generation', async () => {
  await using host = await NginxHost.create()
  const applier = await host.booted()
  const port = await freePort()
  await applier.apply(host.request([host.site('a', { port })]))
  const { directory } = host.layout
  const good = applier.applied ?? ''
  // As if it had been killed right after the HUP, while draining.
  const unproven = { ...host.assemble([]), units: [] }
  await rm(join(directory, 'current'))
  await symlink(`generations/${unproven.digest}`, join(directory, 'current'))
  process.kill(await host.master(), 'SIGHUP')
  await waitFor(
    () =>
      host.get(port, 'a.test').then(
        () => false,
        () => true,
      ),
    { what: 'the site to be gone' },
  )
  await writeFile(host.layout.drainFile, '')

  const next = await host.booted()
  expect(next.applied).toBe(good)
  expect((await host.get(port, 'a.test')).body).toBe('a\n')
  expect(await readdir(directory)).not.toContain('draining')
})

test('a damaged last good generation falls back to the newest whole one, and then to an empty one', async () => {
  await using host = await NginxHost.create()
  const applier = await host.booted()
  const port = await freePort()
  const first = host.site('a', { port })
  const second = host.site('a', { port, body: 'return 200 "second";' })
  await applier.apply(host.request([first]))
  const whole = applier.applied
  await applier.apply(host.request([second]))
  await applier.stopNginx()
  const { directory } = host.layout
  await writeFile(join(directory, 'objects', `${second.digest}.conf`), '')

  const next = host.applier()
  expect(await next.boot(() => host.assemble([]))).toContain('damaged on disk')
  expect((await next.ensureServing()).error).toBeUndefined()
  expect(next.applied).toBe(whole)
  expect((await host.get(port, 'a.test')).body).toBe('a\n')
  await next.stopNginx()

  for (const name of await readdir(join(directory, 'generations')))
    await rm(join(directory, 'generations', name, 'manifest.json'))
  const last = await host.booted()
  expect(last.lastGood?.units).toEqual([])
})

test('attach: never starts nginx, says how to, and applies once it is there', async () => {
  await using host = await NginxHost.create({ mode: 'attach' })
  const applier = host.applier({ settings: { mode: 'attach' } })
  await applier.boot(() => host.assemble([]))
  const { directory } = host.layout
  const absent = await applier.ensureServing()
  expect(absent.error).toMatchObject({
    code: 'nginx_failed',
    hint: `start it: nginx -p ${directory}/ -c ${directory}/current/nginx.conf`,
  })
  const port = await freePort()
  const units = [host.site('a', { port })]
  expect(await applier.apply(host.request(units))).toMatchObject({ outcome: 'failed', error: { code: 'nginx_failed' } })
  expect(await host.processes()).toEqual([])

  await promisify(execFile)('nginx', ['-p', `${directory}/`, '-c', `${directory}/current/nginx.conf`], {
    cwd: directory,
    env: { ...process.env, PATH: `${process.env['PATH']}:/usr/sbin` },
  })
  await host.master()
  expect(await applier.apply(host.request(units))).toMatchObject({ outcome: 'applied' })
  expect((await host.get(port, 'a.test')).body).toBe('a\n')
  await applier.stopNginx()
  expect(await host.nginx.master()).toBeDefined()
})

test('nginx missing is an error that says what to do; nothing is half-applied', async () => {
  await using host = await NginxHost.create({ binary: '/no/such/nginx' })
  await expect(host.nginx.capabilities()).rejects.toMatchObject({
    code: 'nginx_missing',
    details: { field: 'nginx.binary' },
  })
  const applier = host.applier()
  await applier.boot(() => host.assemble([]))
  const before = applier.lastGood?.digest
  expect((await applier.ensureServing()).error).toMatchObject({ code: 'nginx_missing' })
  const result = await applier.apply(host.request([host.site('a', { port: await freePort() })]))
  expect(result).toMatchObject({ outcome: 'failed', phase: 'test', error: { code: 'nginx_missing' } })
  expect(applier.lastGood?.digest).toBe(before)
})

test('nginx too old is refused by name', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'nxmesh-old-nginx-'))
  const binary = join(directory, 'nginx')
  await writeFile(binary, '#!/bin/sh\necho "nginx version: nginx/1.10.3" >&2\n')
  await chmod(binary, 0o755)
  await using host = await NginxHost.create({ binary })
  await expect(host.nginx.capabilities()).rejects.toMatchObject({
    code: 'nginx_unsupported',
    message: 'nginx 1.10.3 is too old',
  })
  await rm(directory, { recursive: true })
})

test('works as a user without privileges; a privileged port is isolated in nginx’s words', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'nxmesh-unprivileged-'))
  const NOBODY = 65534
  const root = process.getuid?.() === 0
  const port = await freePort()
  if (root) await promisify(execFile)('chown', [`${NOBODY}:${NOBODY}`, directory])
  const script = join(dirname(import.meta.dirname), 'support', 'unprivileged-apply.ts')
  const { stdout } = await promisify(execFile)(process.execPath, [script, directory, String(port)], {
    ...(root ? { uid: NOBODY, gid: NOBODY } : {}),
    cwd: directory,
  })
  const { uid, ...said } = JSON.parse(stdout) as { uid: number; isolated: readonly { reason: string }[] }
  expect(uid).not.toBe(0)
  expect(said).toMatchObject({
    outcomes: ['applied', 'applied', 'applied'],
    answer: { status: 200, body: 'second\n' },
    isolated: [{ path: 'default/eu/site/low', reason: expect.stringContaining('Permission denied') }],
  })
})

test('ten applies under keep-alive clients lose no request', async () => {
  await using host = await NginxHost.create()
  const applier = await host.booted()
  const port = await freePort()
  const version = (number: number) => [host.site('a', { port, body: `return 200 "${number}";` })]
  await applier.apply(host.request(version(0)))

  const failures: string[] = []
  let requests = 0
  let stop = false
  const client = async (pauseMs: number) => {
    const agent = new Agent({ keepAlive: true, maxSockets: 1 })
    while (!stop) {
      try {
        const { status } = await fetchRoot(port, 'a.test', agent)
        if (status !== 200) failures.push(String(status))
      } catch (error) {
        failures.push((error as Error).message)
      }
      requests += 1
      if (pauseMs > 0) await systemClock.sleep(pauseMs)
    }
    agent.destroy()
  }
  const clients = [0, 0, 0, 0, 50, 50].map(client)
  for (let number = 1; number <= 10; number += 1) {
    expect(await applier.apply(host.request(version(number), { drainMs: 200 }))).toMatchObject({ outcome: 'applied' })
    await waitFor(() => requests > 50 * number, { what: 'clients to have asked often enough' })
  }
  stop = true
  await Promise.all(clients)
  expect(failures).toEqual([])
})

test('from resources to proven nginx: edits, a bad one, nginx killed, a hand edit, a stop that leaves it serving', async () => {
  await using host = await NginxHost.create()
  await using target = await backend()
  const port = await freePort()
  const document = (kind: string, name: string, spec: string) =>
    `apiVersion: nxmesh/v1\nkind: ${kind}\nmetadata: {name: ${name}, workspace: default, zone: eu}\nspec: ${spec}\n`
  const proxied = (name: string, rest = '') =>
    document(
      'Site',
      name,
      `{hosts: [${name}.test], listeners: {main: {port: ${port}, address: 127.0.0.1}}, routes: {root: {path: /, proxy: {upstream: pool}}}${rest}}`,
    )
  const pool = document('Upstream', 'pool', `{endpoints: {'backend.test:${target.port}': {}}}`)
  let yaml = [pool, proxied('a')]
  let last: Receipt | undefined
  const applier = host.applier()
  const daemon = new Reconciler({
    desired: () => sliceOf(statesOf(yaml.join('---\n'))),
    secrets: () => new Map(),
    applier,
    nginx: host.nginx,
    layout: host.layout,
    addresses: new Addresses(() => Promise.resolve(['127.0.0.1']), systemClock),
    clock: systemClock,
    random: () => 0.5,
    log: silentLog(),
    holdReason: () => undefined,
    onReceipt: (receipt) => (last = receipt),
    settings: { watchIntervalMs: 50, driftIntervalMs: 500 },
  })
  const receipt = (what: string, condition: (receipt: Receipt) => boolean) =>
    waitFor(() => last !== undefined && condition(last), {
      timeoutMs: 15_000,
      what: () => `${what}: ${JSON.stringify(last)}`,
    })
  const edit = (...documents: string[]) => {
    yaml = documents
    daemon.wake()
  }
  const inSync = ({ applied, desired, error }: Receipt) => applied !== null && applied === desired && error === null

  await using _ = { [Symbol.asyncDispose]: () => daemon.stop() }
  await daemon.start()
  await receipt('the first apply', inSync)
  expect(await host.get(port, 'a.test')).toEqual({ status: 200, body: 'from the backend\n' })
  const first = last?.applied

  edit(pool, proxied('a'), proxied('b'))
  await receipt('the second site', (one) => inSync(one) && one.applied !== first)
  expect((await host.get(port, 'b.test')).status).toBe(200)

  edit(pool, proxied('a', ', privileged: {serverSnippet: "no_such_directive on;"}'), proxied('b'), proxied('c'))
  await receipt('the bad edit', ({ isolated, outcome }) => isolated.length === 1 && outcome === 'applied')
  expect(last?.isolated[0]).toMatchObject({
    path: 'default/eu/site/a',
    serves: 'last_good',
    reason: expect.stringContaining('unknown directive'),
  })
  expect((await host.get(port, 'a.test')).status).toBe(200)
  expect((await host.get(port, 'c.test')).status).toBe(200)

  edit(pool, proxied('a'), proxied('b'))
  await receipt('the repair', (one) => inSync(one) && one.isolated.length === 0)
  const killed = await host.master()
  for (const pid of await host.processes()) process.kill(pid, 'SIGKILL')
  await receipt(
    'nginx to come back',
    ({ nginx, applied }) => nginx.master !== null && nginx.master !== killed && applied !== null,
  )
  expect((await host.get(port, 'a.test')).status).toBe(200)

  await appendFile(join(host.layout.directory, 'current', 'nginx.conf'), '# by hand\n')
  await receipt('the drift', ({ drift }) => drift === 1)

  await daemon.stop()
  expect((await host.get(port, 'b.test')).status).toBe(200)
})
