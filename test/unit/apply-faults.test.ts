/**
 * An applier on a fake nginx and the real disk: what no healthy host shows. A disk that fails at every write in turn, a
 * reload that comes to nothing, old workers that do not end, a daemon that dies at every write in turn.
 */

import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { systemClock } from '../../src/adapters/clock.ts'
import { MeshError } from '../../src/errors.ts'
import type { Clock } from '../../src/ports.ts'
import { disk, type Disk } from '../../src/nginx/applying/disk.ts'
import { GenerationStore } from '../../src/nginx/applying/generation.ts'
import type { ApplierOptions, ApplySettings } from '../../src/nginx/applying/settings.ts'
import { assemble } from '../../src/nginx/rendering/assemble.ts'
import type { Unit } from '../../src/nginx/rendering/unit.ts'
import { FakeNginx } from '../support/fake-nginx.ts'
import { CAPABILITIES, NginxHost, NOTHING } from '../support/nginx-host.ts'
import { waitFor } from '../support/wait.ts'

/** A host whose nginx is the fake one, and whose clock hardly waits. */
async function fakeHost() {
  const host = new NginxHost(await mkdtemp(join(tmpdir(), 'nxmesh-fake-')))
  const nginx = new FakeNginx(host.layout.directory)
  const options = (
    settings: Partial<ApplySettings> = {},
    rest: Partial<ApplierOptions> = {},
  ): Partial<ApplierOptions> => ({
    nginx,
    endpoint: nginx.endpoint,
    whoHas: () => Promise.resolve(undefined),
    probe: () => Promise.resolve(new Map()),
    settings: { verifyMs: 60_000, gateWaitMs: 150, ...settings },
    ...rest,
  })
  return {
    host,
    nginx,
    options,
    current: async () => new GenerationStore(host.layout, systemClock).current(),
    [Symbol.asyncDispose]: () => rm(host.layout.directory, { recursive: true, force: true }),
  }
}

/** A disk whose operation number `failing` fails, and with `dead` every later one; counts from when it is armed. */
function failingDisk() {
  const state = { failing: Number.POSITIVE_INFINITY, count: 0, dead: false }
  const may = async <T>(operation: () => Promise<T>): Promise<T> => {
    state.count += 1
    if (state.count === state.failing || (state.dead && state.count > state.failing))
      throw new MeshError('store_unwritable', 'ENOSPC: no space left on device')
    return operation()
  }
  const failing: Disk = {
    write: (path, text, group) => may(() => disk.write(path, text, group)),
    admit: (path, group) => may(() => disk.admit(path, group)),
    link: (path, target) => may(() => disk.link(path, target)),
    move: (from, to) => may(() => disk.move(from, to)),
    makeDirectory: (path, access) => may(() => disk.makeDirectory(path, access)),
    syncDirectory: (path) => may(() => disk.syncDirectory(path)),
    remove: (path) => may(() => disk.remove(path)),
  }
  return { state, disk: failing }
}

test('a disk that is full at any write fails the apply cleanly; the next one goes through', async () => {
  let failures = 0
  for (let failing = 1; ; failing += 1) {
    await using fake = await fakeHost()
    const { host, nginx } = fake
    const { state, disk: broken } = failingDisk()
    const store = new GenerationStore(host.layout, systemClock, broken)
    const applier = await host.booted(fake.options({}, { store }))
    const first = await applier.apply(host.request([host.site('a', { port: 81 })]))
    expect(first.outcome).toBe('applied')

    Object.assign(state, { failing, count: 0 })
    const request = host.request([host.site('a', { port: 81, body: 'return 201;' }), host.site('b', { port: 81 })])
    const result = await applier.apply(request)
    if (result.outcome === 'applied') break
    failures += 1
    expect(result).toMatchObject({ outcome: 'failed', error: { code: 'store_unwritable' } })
    // Either nothing happened, or it is proven and only writing that down failed.
    const isProven = result.phase === 'commit'
    expect(await fake.current()).toBe(isProven ? result.generation : first.generation)
    expect((await nginx.endpoint.ask())?.generation).toBe(isProven ? result.generation : first.generation)
    expect(applier.applied).toBe(isProven ? result.generation : first.generation)

    expect((await applier.apply(request)).outcome).toBe(isProven ? 'unchanged' : 'applied')
    expect(store.proven[0]).toBe(result.generation)
    await applier.tidy()
    expect(await applier.healDrift()).toEqual([])
  }
  expect(failures).toBeGreaterThan(8)
})

test('a daemon that dies at any write boots on what was proven', async () => {
  for (let failing = 1; ; failing += 1) {
    await using fake = await fakeHost()
    const { host } = fake
    const { state, disk: broken } = failingDisk()
    const store = new GenerationStore(host.layout, systemClock, broken)
    const applier = await host.booted(fake.options({}, { store }))
    const first = await applier.apply(host.request([host.site('a', { port: 81 })]))
    Object.assign(state, { failing, count: 0, dead: true })
    const second = await applier.apply(host.request([host.site('b', { port: 81 })]))
    fake.nginx.crash()
    await writeFile(join(host.layout.directory, 'current.1-1.tmp'), '')

    const next = await host.booted(fake.options())
    const proven = second.outcome === 'applied' || second.phase === 'commit' ? [second.generation] : []
    expect(second.outcome === 'applied' ? proven : [first.generation, ...proven]).toContain(next.applied)
    expect((await readdir(host.layout.directory)).filter((name) => name.endsWith('.tmp'))).toEqual([])
    if (second.outcome === 'applied') break
  }
})

test('a reload that comes to nothing rolls back, and is not tried again at once', async () => {
  await using fake = await fakeHost()
  const { host, nginx } = fake
  const applier = await host.booted(fake.options({ verifyMs: 500 }))
  const first = await applier.apply(host.request([host.site('a', { port: 81 })]))
  nginx.ignoresReload = true
  const request = host.request([host.site('b', { port: 81 })])
  const result = await applier.apply(request)
  expect(result).toMatchObject({ outcome: 'rolled_back', phase: 'verify', error: { code: 'nginx_failed' } })
  expect(result.error?.message).toMatch(/worker \d+ ran generation/)
  expect(result.retryAfterMs).toBeGreaterThan(1_000)
  expect(await fake.current()).toBe(first.generation)
  // It might still have taken the reload a moment later, so it was told to go back.
  expect(nginx.signals).toEqual(['HUP', 'HUP', 'HUP'])
  expect((await applier.apply(request)).outcome).toBe('refused')
  expect(nginx.signals).toHaveLength(3)
})

test('a master that refuses says so, and is not reloaded again for going back', async () => {
  await using fake = await fakeHost()
  const { host, nginx } = fake
  const applier = await host.booted(fake.options())
  await applier.apply(host.request([host.site('a', { port: 81 })]))
  nginx.signals.length = 0
  // Passes the test and fails the reload, as a taken port does.
  nginx.test = () => Promise.resolve({ ok: true, stderr: '', durationMs: 1 })
  const result = await applier.apply(host.request([host.site('a', { port: 81, body: 'no_such_directive on;' })]))
  expect(result).toMatchObject({ outcome: 'rolled_back', phase: 'verify', retryAfterMs: 0 })
  expect(result.error?.message).toContain('unknown directive "no_such_directive"')
  expect(nginx.signals).toEqual(['HUP'])
})

test('too many draining workers hold a reload back, with words, until they end', async () => {
  await using fake = await fakeHost()
  const { host, nginx } = fake
  const applier = await host.booted(fake.options({ maxDrainingWorkers: 2 }))
  nginx.keepsOldWorkers = true
  const version = (number: number) => host.request([host.site('a', { port: 81, body: `return 20${number};` })])
  expect((await applier.apply(version(0))).outcome).toBe('applied')
  expect((await applier.apply(version(1))).outcome).toBe('applied')
  const applied = applier.applied
  const waits: string[] = []
  const result = await applier.apply({ ...version(2), onWait: ({ message }) => waits.push(message) })
  expect(waits).toEqual(['4 old workers are still draining, over the limit of 2'])
  expect(result).toMatchObject({ outcome: 'failed', phase: 'gate', error: { code: 'unavailable' } })
  expect(result.error?.message).toBe('4 old workers are still draining, over the limit of 2')
  expect(applier.applied).toBe(applied)
  nginx.endOldWorkers()
  expect((await applier.apply(version(2))).outcome).toBe('applied')
})

test('connections are drained only when there are any', async () => {
  await using fake = await fakeHost()
  const { host, nginx } = fake
  const applier = await host.booted(fake.options())
  const drained = async (number: number) => {
    const { phases } = await applier.apply(
      host.request([host.site('a', { port: 81, body: `return 20${number};` })], { drainMs: 30 }),
    )
    return phases.drain
  }
  expect(await drained(0)).toBeUndefined()
  nginx.clients = { active: 3, reading: 0, writing: 2, waiting: 1 }
  expect(await drained(1)).toBeGreaterThanOrEqual(29)
  expect(await readdir(host.layout.directory)).not.toContain('draining')
})

test('a drain ends when no connection is idle any more, long before its limit', async () => {
  await using fake = await fakeHost()
  const { host, nginx } = fake
  const applier = await host.booted(fake.options())
  nginx.clients = { active: 3, reading: 0, writing: 0, waiting: 3 }
  const applying = applier.apply(host.request([host.site('a', { port: 81 })], { drainMs: 60_000 }))
  const isDraining = async () => (await readdir(host.layout.directory)).includes('draining')
  await waitFor(isDraining, { what: 'the drain' })
  nginx.clients = { active: 3, reading: 0, writing: 3, waiting: 0 }
  expect(await applying).toMatchObject({ outcome: 'applied' })
  expect(await isDraining()).toBe(false)
})

test('nothing is drained where the running nginx keeps idle connections by itself', async () => {
  await using fake = await fakeHost()
  const { host, nginx } = fake
  const applier = await host.booted(fake.options())
  const capabilities = { ...CAPABILITIES, version: '1.27.4' }
  const newer = (some: readonly Unit[]) => assemble(some, { slice: NOTHING, capabilities, host: host.layout })
  nginx.clients = { active: 3, reading: 0, writing: 0, waiting: 3 }
  const version = (number: number, drainMs: number) =>
    host.request([host.site('a', { port: 81, body: `return 20${number};` })], { drainMs, assemble: newer })
  // What runs until then is of an older nginx.
  const first = await applier.apply(version(0, 30))
  expect(first).toMatchObject({ outcome: 'applied' })
  expect(first.phases.drain).toBeGreaterThanOrEqual(29)
  // A drain would never end: the connections stay idle.
  expect(await applier.apply(version(1, Number.MAX_SAFE_INTEGER))).toMatchObject({ outcome: 'applied' })
})

test('drift is healed behind a drain too', async () => {
  await using fake = await fakeHost()
  const { host, nginx } = fake
  const applier = await host.booted(fake.options())
  const unit = host.site('a', { port: 81 })
  await applier.apply(host.request([unit], { drainMs: 60_000 }))
  nginx.clients = { active: 3, reading: 0, writing: 0, waiting: 3 }
  await writeFile(join(host.layout.directory, 'objects', `${unit.digest}.conf`), '# by hand')
  const worker = async () => (await nginx.workers((await nginx.master()) ?? 0))[0]?.pid
  const old = await worker()
  const healing = applier.healDrift()
  await waitFor(async () => (await readdir(host.layout.directory)).includes('draining'), { what: 'the drain' })
  nginx.clients = { active: 3, reading: 0, writing: 3, waiting: 0 }
  expect(await healing).toHaveLength(1)
  await waitFor(async () => (await worker()) !== old, { what: 'the reload' })
  expect(await readdir(host.layout.directory)).not.toContain('draining')
})

/** A file of the one site was edited by hand, and no more old workers may be left by a reload. */
async function editedBeforeGate({ host, nginx, options }: Awaited<ReturnType<typeof fakeHost>>) {
  const applier = await host.booted(options({ maxDrainingWorkers: 1 }))
  nginx.keepsOldWorkers = true
  const unit = host.site('a', { port: 81 })
  await applier.apply(host.request([unit]))
  const file = join(host.layout.directory, 'objects', `${unit.digest}.conf`)
  await writeFile(file, '# by hand')
  return { applier, unit, file }
}

test('drift is healed behind the memory gate too: the files at once, the reload when old workers have ended', async () => {
  await using fake = await fakeHost()
  const { nginx } = fake
  const { applier, unit, file } = await editedBeforeGate(fake)
  const waits: string[] = []
  nginx.signals.length = 0
  const healing = applier.healDrift({ onWait: ({ message }) => waits.push(message) })
  await expect(healing).rejects.toMatchObject({ code: 'unavailable' })
  expect(waits).toEqual(['2 old workers are still draining, over the limit of 1'])
  expect([nginx.signals, await readFile(file, 'utf8')]).toEqual([[], unit.text])
  nginx.endOldWorkers()
  expect(await applier.healDrift()).toEqual([`${file} was edited`])
  expect(nginx.signals).toEqual(['HUP'])
  expect(await applier.healDrift()).toEqual([])
})

test('drift whose reload has to wait takes none of its own when an apply brings one', async () => {
  await using fake = await fakeHost()
  const { host, nginx } = fake
  const { applier, unit, file } = await editedBeforeGate(fake)
  await expect(applier.healDrift()).rejects.toMatchObject({ code: 'unavailable' })
  nginx.endOldWorkers()
  expect(await applier.apply(host.request([unit, host.site('b', { port: 81 })]))).toMatchObject({ outcome: 'applied' })
  nginx.endOldWorkers()
  nginx.signals.length = 0
  expect(await applier.healDrift()).toEqual([`${file} was edited`])
  expect(nginx.signals).toEqual([])
  expect(await applier.healDrift()).toEqual([])
})

test('drift whose reload has to wait is told once when nginx ends meanwhile, and loads what is right as it starts', async () => {
  await using fake = await fakeHost()
  const { nginx } = fake
  const { applier, file } = await editedBeforeGate(fake)
  await expect(applier.healDrift()).rejects.toMatchObject({ code: 'unavailable' })
  nginx.signal((await nginx.master()) as number, 'TERM')
  expect(await applier.healDrift()).toEqual([`${file} was edited`])
  expect(await applier.healDrift()).toEqual([])
})

test('an abort before the swap changes nothing', async () => {
  await using fake = await fakeHost()
  const { host, nginx } = fake
  const applier = await host.booted(fake.options())
  const first = await applier.apply(host.request([host.site('a', { port: 81 })]))
  nginx.clients = { active: 1, reading: 0, writing: 0, waiting: 1 }
  const stopping = new AbortController()
  const applying = applier.apply(host.request([host.site('b', { port: 81 })], { drainMs: 60_000 }), stopping.signal)
  stopping.abort(new Error('stopping'))
  expect((await applying).outcome).toBe('failed')
  expect(applier.applied).toBe(first.generation)
  expect(await readdir(host.layout.directory)).not.toContain('draining')
})

test('a test that fails over a damaged file is repeated with the right one', async () => {
  await using fake = await fakeHost()
  const { host } = fake
  const applier = await host.booted(fake.options())
  const unit = host.site('a', { port: 81 })
  await applier.apply(host.request([unit]))
  await writeFile(join(host.layout.directory, 'objects', `${unit.digest}.conf`), 'no_such_directive on;')
  const result = await applier.apply(host.request([unit, host.site('b', { port: 81 })]))
  expect(result).toMatchObject({ outcome: 'applied', isolated: [] })
  expect(await readFile(join(host.layout.directory, 'objects', `${unit.digest}.conf`), 'utf8')).toBe(unit.text)
})

test('ten generations stay, with what they name; unchanged objects are not written again', async () => {
  await using fake = await fakeHost()
  const { host } = fake
  const applier = await host.booted(fake.options())
  const fixed = host.site('fixed', { port: 81 })
  const version = (number: number) => host.site('a', { port: 81, body: `return 200 "${number}";` })
  await applier.apply(host.request([fixed]))
  const path = join(host.layout.directory, 'objects', `${fixed.digest}.conf`)
  const { mtimeMs } = await stat(path)
  for (let number = 0; number < 12; number += 1) {
    expect((await applier.apply(host.request([fixed, version(number)]))).outcome).toBe('applied')
    await applier.tidy()
  }
  expect((await stat(path)).mtimeMs).toBe(mtimeMs)
  expect(await readdir(join(host.layout.directory, 'generations'))).toHaveLength(10)
  const objects = await readdir(join(host.layout.directory, 'objects'))
  expect(objects.toSorted()).toEqual(
    [fixed, ...Array.from({ length: 10 }, (_, index) => version(index + 2))]
      .map(({ digest }) => `${digest}.conf`)
      .toSorted(),
  )
})

test('logs beyond their size are put aside, a few of them, and nginx reopens them', async () => {
  await using fake = await fakeHost()
  const { host, nginx } = fake
  const applier = await host.booted(fake.options({ logMaxBytes: 10 }))
  const path = join(host.layout.directory, 'logs', 'access.log')
  for (let number = 1; number <= 5; number += 1) {
    await writeFile(path, `a long line, number ${number}\n`)
    await applier.tidy()
    expect(nginx.signals.filter((name) => name === 'USR1')).toHaveLength(number)
  }
  const names = (await readdir(join(host.layout.directory, 'logs'))).filter((name) => name.startsWith('access'))
  expect(names.toSorted()).toEqual(['access.log', 'access.log.1', 'access.log.2', 'access.log.3'])
  expect(await readFile(`${path}.1`, 'utf8')).toContain('number 5')
})

test('nginx that ends during the bake ends the bake: it serves again at once, and the apply is retried', async () => {
  await using fake = await fakeHost()
  const { host, nginx } = fake
  let probed = (): void => undefined
  let paused = (): void => undefined
  const probe = async () => {
    probed()
    return new Map()
  }
  const clock: Clock = {
    ...systemClock,
    sleep: (ms, signal) => {
      paused()
      return systemClock.sleep(ms, signal)
    },
  }
  const applier = await host.booted(fake.options({}, { probe, clock }))
  const first = await applier.apply(host.request([host.site('a', { port: 81 })]))
  const request = host.request([host.site('b', { port: 81 })], { bakeMs: 60_000 })
  const signals = nginx.signals.length
  // The first pause after the probes that follow the reload is the bake's.
  probed = () => {
    if (nginx.signals.length === signals) return
    paused = () => {
      paused = probed = () => undefined
      nginx.crash()
    }
  }
  expect(await applier.apply(request)).toMatchObject({
    outcome: 'failed',
    phase: 'bake',
    error: { code: 'nginx_failed' },
  })
  expect(await nginx.master()).toBeDefined()
  expect(applier.applied).toBe(first.generation)
  // The generation is not to blame.
  expect((await applier.apply({ ...request, bakeMs: 0 })).outcome).toBe('applied')
})

test.each(['objects', 'generations'])('%s/ that somebody removed is made again', async (name) => {
  await using fake = await fakeHost()
  const { host } = fake
  const applier = await host.booted(fake.options())
  const unit = host.site('a', { port: 81 })
  await applier.apply(host.request([unit]))
  await rm(join(host.layout.directory, name), { recursive: true })
  expect(await applier.healDrift()).not.toEqual([])
  expect(await applier.healDrift()).toEqual([])
  await rm(join(host.layout.directory, name), { recursive: true })
  expect((await applier.apply(host.request([unit, host.site('b', { port: 81 })]))).outcome).toBe('applied')
})
