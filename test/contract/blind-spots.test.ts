/**
 * What `nginx -t` and `nginx -s reload` do not tell, each with both ways on one real nginx: by hand both commands report
 * success, or refuse everything, while the old configuration keeps running or requests fail; an apply refuses, rolls back
 * with nginx's reason, or avoids it. Units are hand-made, as privileged snippets may have it.
 */

import { execFile, execFileSync } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { Agent } from 'node:http'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Duplex } from 'node:stream'
import { connect as connectTls } from 'node:tls'
import { expect, onTestFinished, test } from 'vitest'
import { systemClock } from '../../src/adapters/clock.ts'
import { sha256 } from '../../src/core/canonical.ts'
import type { Applier } from '../../src/nginx/applying/apply.ts'
import { GenerationStore } from '../../src/nginx/applying/generation.ts'
import type { ApplyResult } from '../../src/nginx/applying/run.ts'
import { verifyEndpoint } from '../../src/nginx/applying/verify.ts'
import type { Unit } from '../../src/nginx/rendering/unit.ts'
import { fetchRoot, freePort, NginxHost } from '../support/nginx-host.ts'
import { luaModules } from '../support/real-nginx.ts'
import { waitFor } from '../support/wait.ts'

/** Text for nginx's http block, as a privileged snippet of ZoneSettings. */
function shared(text: string): Unit {
  const path = 'default/eu/zonesettings/settings'
  return { path, kind: 'settings', text, digest: sha256(text), needs: [], listeners: [], hosts: [] }
}

/** A person with a shell: puts the configuration in place, tests it, reloads. The exit codes. */
async function byHand(host: NginxHost, units: readonly Unit[]): Promise<{ test: number; reload: number }> {
  const store = new GenerationStore(host.layout, systemClock)
  await store.open()
  const generation = { ...host.assemble(units), units }
  await store.stage(generation)
  await store.activate(generation.digest)
  const directory = host.layout.directory
  const run = (...args: string[]) =>
    new Promise<number>((resolve) => {
      const all = ['-p', `${directory}/`, '-c', join(directory, 'current', 'nginx.conf'), ...args]
      const child = execFile('nginx', all, { cwd: directory })
      child.on('exit', (code) => resolve(code ?? -1))
    })
  return { test: await run('-t'), reload: await run('-s', 'reload') }
}

/** As it was before somebody tried by hand. */
async function undo(host: NginxHost, applier: Applier): Promise<void> {
  const store = new GenerationStore(host.layout, systemClock)
  await store.open()
  await store.activate(applier.applied ?? '')
}

/** The generation that workers answer with. */
const runs = async (host: NginxHost) => (await verifyEndpoint(host.layout.verifySocket).ask())?.generation

const said = (host: NginxHost, words: RegExp) =>
  waitFor(async () => words.test(await host.log('error.log')), { what: `nginx to say ${words}`, timeoutMs: 15_000 })

/** Applies until nothing is left to be told apart. All results. */
async function applyAll(applier: Applier, host: NginxHost, units: readonly Unit[]): Promise<readonly ApplyResult[]> {
  const results: ApplyResult[] = []
  await waitFor(
    async () => {
      const result = await applier.apply(host.request(units))
      results.push(result)
      const isOver = result.outcome === 'applied' || result.outcome === 'unchanged'
      return isOver && result.isolated.every(({ why }) => why !== 'untried')
    },
    { what: () => `an end: ${JSON.stringify(results.at(-1))}`, timeoutMs: 20_000, everyMs: 100 },
  )
  return results
}

async function listening(): Promise<number> {
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => new Promise((resolve) => server.close(() => resolve())))
  return (server.address() as AddressInfo).port
}

const zone = (key: string) => shared(`limit_req_zone ${key} zone=one:64k rate=100r/s;\n`)
const cache = (path: string, levels: string) =>
  shared(`proxy_cache_path ${path} levels=${levels} keys_zone=kept:64k;\n`)
const init = (code: string) => shared(`init_by_lua_block { ${code} }\n`)

interface Spot {
  readonly before: (host: NginxHost, port: number) => Unit
  readonly after: (host: NginxHost, port: number) => Unit | Promise<Unit>
  /** What nginx's master writes after the reload that "succeeded". */
  readonly master: RegExp
  /** Whether it is found before a reload, or only by it. */
  readonly ours: 'refused' | 'rolled_back'
  readonly reason: RegExp
  readonly lua?: true
}

const KEYS = /limit_req "one" uses the "\$uri" key while previously it used the "\$arg_a" key/
const PATHS = /cache "kept" uses the "\S+\/two" cache path while previously it used the "\S+\/one" cache path/
const SPOTS: Readonly<Record<string, Spot>> = {
  'the key of a limit_req_zone changes under one name': {
    before: () => zone('$arg_a'),
    after: () => zone('$uri'),
    master: KEYS,
    ours: 'rolled_back',
    reason: KEYS,
  },
  'the path of a cache changes under one name': {
    before: ({ layout }) => cache(`${layout.directory}/temp/one`, '1:2'),
    after: ({ layout }) => cache(`${layout.directory}/temp/two`, '1:2'),
    master: PATHS,
    ours: 'rolled_back',
    reason: PATHS,
  },
  'the levels of a cache change under one name': {
    before: ({ layout }) => cache(`${layout.directory}/temp/one`, '1:2'),
    after: ({ layout }) => cache(`${layout.directory}/temp/one`, '2:2'),
    master: /cache "kept" had previously different levels/,
    ours: 'rolled_back',
    reason: /cache "kept" had previously different levels/,
  },
  'init_by_lua fails, which does not run under -t': {
    before: () => init('local fine = true'),
    after: () => init('error("boom")'),
    master: /init_by_lua error: .*boom/,
    ours: 'rolled_back',
    reason: /init_by_lua error: .*boom/,
    lua: true,
  },
  'a port belongs to another process': {
    before: (host, port) => host.site('b', { port }),
    after: async (host) => host.site('b', { port: await listening() }),
    master: /still could not bind/,
    ours: 'refused',
    reason: new RegExp(`port \\d+ on 127.0.0.1 is taken by process ${process.pid} `),
  },
  'a wildcard comes beside an address of the same port': {
    before: (host, port) => host.site('b', { port }),
    after: (host, port) => host.site('b', { port, address: '*' }),
    master: /still could not bind/,
    ours: 'refused',
    reason: /nginx listens on 127\.0\.0\.1:\d+ and cannot bind \*:\d+ beside it in one reload/,
  },
}

test.each(Object.entries(SPOTS))('%s', async (_, spot) => {
  await using host = await NginxHost.create(spot.lua ? { modules: await luaModules(), liveLane: false } : {})
  // The shortest pauses.
  const applier = await host.booted({ random: () => 0 })
  const port = await freePort()
  const a = (body: string) => host.site('a', { port, body: `return 200 "${body}";` })
  const before = spot.before(host, port)
  expect(await applier.apply(host.request([a('old'), before]))).toMatchObject({ outcome: 'applied', isolated: [] })
  const after = await spot.after(host, port)
  const old = applier.applied

  expect(await byHand(host, [a('by hand'), after]), 'both commands report success').toEqual({ test: 0, reload: 0 })
  await said(host, spot.master)
  expect(await runs(host)).toBe(old)
  expect((await host.get(port, 'a.test')).body).toBe('old')
  await undo(host, applier)

  const results = await applyAll(applier, host, [a('new'), after])
  const isolated = results.at(-1)?.isolated
  expect(isolated).toEqual([
    { path: after.path, why: 'refused', serves: 'last_good', reason: expect.stringMatching(spot.reason) },
  ])
  const attempts = results.map(({ outcome }) => outcome)
  if (spot.ours === 'refused') expect(attempts).toEqual(['applied'])
  else
    expect(results[0]).toMatchObject({ outcome: 'rolled_back', error: { message: expect.stringMatching(spot.reason) } })
  expect((await host.get(port, 'a.test')).body, 'all else ships').toBe('new')
  expect(applier.lastGood?.units).toContainEqual(before)
  expect(await runs(host)).toBe(applier.applied)
})

test('a reload closes kept-alive connections under requests; an apply drains them first', async () => {
  await using host = await NginxHost.create()
  const applier = await host.booted()
  const port = await freePort()
  const version = (number: number) => [host.site('a', { port, body: `return 200 "${number}";` })]
  await applier.apply(host.request(version(0)))
  let [failed, answered, stop] = [0, 0, false]
  const client = async () => {
    const agent = new Agent({ keepAlive: true, maxSockets: 1 })
    while (!stop) {
      await fetchRoot(port, 'a.test', agent).then(
        () => (answered += 1),
        () => (failed += 1),
      )
    }
    agent.destroy()
  }
  const clients = Array.from({ length: 8 }, client)
  let number = 1
  await waitFor(
    async () => {
      expect(await byHand(host, version((number += 1)))).toEqual({ test: 0, reload: 0 })
      return failed > 0
    },
    { what: 'a request to fail by a plain reload', timeoutMs: 20_000, everyMs: 100 },
  )
  // What runs now is proven first, and its old workers have ended.
  await undo(host, applier)
  await applier.apply(host.request(version(0)))
  const workers = async () => (await host.nginx.workers(await host.master())).length
  await waitFor(async () => (await workers()) === 2, { what: 'old workers to end', timeoutMs: 10_000 })
  const [failedByHand, answeredByHand] = [failed, answered]
  for (let count = 0; count < 5; count += 1) {
    number += 1
    expect(await applier.apply(host.request(version(number), { drainMs: 200 }))).toMatchObject({ outcome: 'applied' })
  }
  stop = true
  await Promise.all(clients)
  expect(answered - answeredByHand).toBeGreaterThan(100)
  expect(failed - failedByHand, 'failed requests of five applies').toBe(0)
})

test('nginx killed with -9 leaves workers and a socket that keep it from starting; a look after it clears them', async () => {
  await using host = await NginxHost.create()
  const applier = await host.booted()
  const port = await freePort()
  const units = [host.site('a', { port })]
  await applier.apply(host.request(units))
  const orphans = await host.allWorkers()
  process.kill(await host.master(), 'SIGKILL')
  await waitFor(async () => (await host.nginx.master()) === undefined, { what: 'the master to be gone' })

  const directory = host.layout.directory
  const start = ['-p', `${directory}/`, '-c', join(directory, 'current', 'nginx.conf')]
  expect(() => execFileSync('nginx', [...start, '-t'], { stdio: 'ignore' }), 'the test sees nothing').not.toThrow()
  expect(() => execFileSync('nginx', start, { stdio: 'pipe' })).toThrow(/Address already in use/)

  expect(await applier.ensureServing()).toEqual({ error: undefined, acted: true })
  expect((await host.get(port, 'a.test')).body).toBe('a\n')
  expect((await host.workers()).filter((pid) => orphans.includes(pid))).toEqual([])
})

test('a name that does not resolve when nginx loads refuses all by hand; an apply leaves out its site alone', async () => {
  await using host = await NginxHost.create()
  const applier = await host.booted()
  const port = await freePort()
  const a = (body: string) => host.site('a', { port, body: `return 200 "${body}";` })
  await applier.apply(host.request([a('old')]))
  const lost = host.site('b', { port, body: 'proxy_pass http://nxmesh-blind-spot.invalid;' })
  expect((await byHand(host, [a('by hand'), lost])).test).toBe(1)
  expect((await host.get(port, 'a.test')).body).toBe('old')
  await undo(host, applier)

  const result = await applier.apply(host.request([a('new'), lost]))
  expect(result.outcome).toBe('applied')
  expect(result.isolated).toEqual([
    {
      path: lost.path,
      why: 'refused',
      serves: 'left_out',
      reason: expect.stringContaining('host not found in upstream "nxmesh-blind-spot.invalid"'),
    },
  ])
  expect((await host.get(port, 'a.test')).body).toBe('new')
})

test('old workers live as long as their connections; an apply waits for them beyond a limit', async () => {
  await using host = await NginxHost.create()
  const applier = await host.booted({ settings: { maxDrainingWorkers: 2, gateWaitMs: 300 } })
  const port = await freePort()
  const version = (body: string) => [host.site('a', { port, body: `return 200 "${body}";` })]
  await applier.apply(host.request(version('old')))
  const sockets: Socket[] = []
  // Enough for one on each worker. A request that goes on arriving holds a connection.
  const hold = async () => {
    for (let count = 0; count < 16; count += 1) {
      const socket = connect(port, '127.0.0.1').on('error', () => undefined)
      sockets.push(socket)
      await new Promise((resolve) => socket.write('POST / HTTP/1.1\r\nHost: a.test\r\nContent-', resolve))
    }
    await waitFor(async () => ((await verifyEndpoint(host.layout.verifySocket).connections())?.active ?? 0) >= 16, {
      what: 'nginx to have taken the connections',
    })
  }
  const draining = async () =>
    (await host.nginx.workers(await host.master())).filter((worker) => worker.draining).length
  for (let count = 0; count < 3; count += 1) {
    await hold()
    const before = await draining()
    expect(await byHand(host, version(`by hand ${count}`))).toEqual({ test: 0, reload: 0 })
    await waitFor(async () => (await draining()) > before, { what: 'old workers to drain' })
  }
  expect(await draining(), 'nothing stops the shell').toBeGreaterThan(2)

  const held = await applier.apply(host.request(version('new')))
  expect(held).toMatchObject({
    outcome: 'failed',
    phase: 'gate',
    error: {
      code: 'unavailable',
      message: expect.stringMatching(/old workers are still draining, over the limit of 2/),
    },
  })
  for (const socket of sockets) socket.destroy()
  await waitFor(async () => (await applier.apply(host.request(version('new')))).outcome === 'applied', {
    what: 'the apply to go through once they have ended',
    timeoutMs: 10_000,
  })
  expect((await host.get(port, 'a.test')).body).toBe('new')
})

test('a client that breaks a handshake writes [crit] into the log, and rolls nothing back', async () => {
  await using host = await NginxHost.create()
  const applier = await host.booted()
  const [port, tls] = [await freePort(), await freePort()]
  const files = await mkdtemp(join(tmpdir(), 'nxmesh-blind-'))
  onTestFinished(() => rm(files, { recursive: true, force: true }))
  const [key, certificate] = ['key', 'crt'].map((name) => join(files, name)) as [string, string]
  const subject = ['-nodes', '-days', '1', '-subj', '/CN=a.test', '-keyout', key, '-out', certificate]
  execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', ...subject], {
    stdio: 'ignore',
  })
  const secure = shared(
    `server { listen 127.0.0.1:${tls} ssl; ssl_certificate ${certificate}; ssl_certificate_key ${key}; return 204; }\n`,
  )
  const version = (body: string) => [host.site('a', { port, body: `return 200 "${body}";` }), secure]
  expect((await applier.apply(host.request(version('old')))).outcome).toBe('applied')
  const lines = async () =>
    ((await host.log('error.log')).match(/\[crit\] .*SSL_do_handshake\(\) failed/g) ?? []).length
  let stop = false
  const client = (async () => {
    while (!stop) await brokenHandshake(tls)
  })()
  await waitFor(async () => (await lines()) > 0, { what: 'a first [crit] line' })
  let during = 0
  for (let number = 0; during === 0 && number < 20; number += 1) {
    const before = await lines()
    // The bake keeps watching, so that some come meanwhile.
    const result = await applier.apply(host.request(version(`new ${number}`), { bakeMs: 300 }))
    expect(result).toMatchObject({ outcome: 'applied', isolated: [] })
    during = (await lines()) - before
  }
  stop = true
  await client
  expect(during).toBeGreaterThan(0)
})

/** A TLS client whose first message is changed on its way, so that keys do not come out alike. */
function brokenHandshake(port: number): Promise<void> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1')
    let isFirst = true
    const wire = new Duplex({
      read: () => undefined,
      write(chunk: Buffer, _encoding, done) {
        const bytes = Buffer.from(chunk)
        // In the protocol version that nobody reads any more, but that is part of what is signed.
        if (isFirst) bytes[9] = 9
        isFirst = false
        socket.write(bytes, () => done())
      },
    })
    socket.on('data', (bytes) => wire.push(bytes))
    socket.on('error', () => undefined)
    socket.on('close', () => resolve())
    const secure = connectTls({ socket: wire, rejectUnauthorized: false })
    secure.on('error', () => socket.destroy())
    secure.on('close', () => socket.destroy())
  })
}
