/**
 * What an NginxProcess is held to, on the real one and on the fake that unit tests use; and what only the real one has:
 * remains of a crash, foreign processes, other people's nginx.
 */

import { spawn } from 'node:child_process'
import { lstat, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { GenerationStore } from '../../src/nginx/applying/generation.ts'
import { titleOf } from '../../src/nginx/applying/proc.ts'
import { verifyEndpoint, type VerifyEndpoint } from '../../src/nginx/applying/verify.ts'
import type { NginxProcess } from '../../src/ports.ts'
import { systemClock } from '../../src/adapters/clock.ts'
import { FakeNginx } from '../support/fake-nginx.ts'
import { freePort, NginxHost } from '../support/nginx-host.ts'
import { waitFor } from '../support/wait.ts'

interface Subject {
  readonly host: NginxHost
  readonly nginx: NginxProcess
  readonly endpoint: VerifyEndpoint
  readonly store: GenerationStore
  readonly live: string
}

async function subject(host: NginxHost, kind: 'real' | 'fake'): Promise<Subject> {
  const store = new GenerationStore(host.layout, systemClock)
  await store.open()
  const live = join(host.layout.directory, 'current', 'nginx.conf')
  const fake = new FakeNginx(host.layout.directory)
  return kind === 'real'
    ? { host, nginx: host.nginx, endpoint: verifyEndpoint(host.layout.verifySocket), store, live }
    : { host, nginx: fake, endpoint: fake.endpoint, store, live }
}

/** Stages and links a generation; its digest. */
async function link({ host, store }: Subject, body?: string): Promise<string> {
  const units = [host.site('a', { port: await freePort(), ...(body === undefined ? {} : { body }) })]
  const generation = { ...host.assemble(units), units }
  await store.stage(generation)
  await store.activate(generation.digest)
  return generation.digest
}

async function serves({ nginx, endpoint }: Subject, generation: string): Promise<void> {
  await waitFor(
    async () => {
      const master = await nginx.master()
      const workers = master === undefined ? [] : (await nginx.workers(master)).filter(({ draining }) => !draining)
      const answer = await endpoint.ask()
      return workers.length === 2 && answer?.generation === generation && workers.some(({ pid }) => pid === answer.pid)
    },
    { what: `workers that run ${generation}` },
  )
}

describe.each(['real', 'fake'] as const)('%s nginx', (kind) => {
  test('says what it is', async () => {
    await using host = await NginxHost.create()
    const { nginx } = await subject(host, kind)
    const { version, modules } = await nginx.capabilities()
    expect(version).toMatch(/^\d+\.\d+\.\d+$/)
    expect(modules).toContain('http_stub_status')
    expect(modules).toEqual(modules.toSorted())
  })

  test('tests without touching what runs, and names the file at fault', async () => {
    await using host = await NginxHost.create()
    const tested = await subject(host, kind)
    const good = await link(tested)
    expect(await tested.nginx.test(tested.store.configPath(good), 10_000)).toMatchObject({ ok: true })
    const bad = await link(tested, 'no_such_directive on;')
    const output = await tested.nginx.test(tested.store.configPath(bad), 10_000)
    expect(output.ok).toBe(false)
    expect(output.stderr).toMatch(
      /\[emerg\] (\d+#\d+: )?unknown directive "no_such_directive" in \/.*\/objects\/[0-9a-f]{64}\.conf:\d+/,
    )
    expect(await tested.nginx.master()).toBeUndefined()
  })

  test('starts, has a master and workers, stops', async () => {
    await using host = await NginxHost.create()
    const started = await subject(host, kind)
    const generation = await link(started)
    expect(await started.nginx.master()).toBeUndefined()
    await started.nginx.launch(started.live)
    const master = await waitFor(() => started.nginx.master(), { what: 'a master' })
    await serves(started, generation)
    expect(await started.endpoint.connections()).toEqual({ active: 0, reading: 0, writing: 0, waiting: 0 })
    started.nginx.signal(master, 'QUIT')
    await waitFor(async () => (await started.nginx.master()) === undefined, { what: 'nginx to stop' })
    // The pid file goes before the process does.
    await waitFor(() => !isAlive(master), { what: 'the process to end' })
    expect(() => started.nginx.signal(master, 'HUP')).toThrow(expect.objectContaining({ code: 'nginx_failed' }))
  })

  test('does not start on a bad configuration, in its own words', async () => {
    await using host = await NginxHost.create()
    const broken = await subject(host, kind)
    await link(broken, 'no_such_directive on;')
    await expect(broken.nginx.launch(broken.live)).rejects.toMatchObject({
      code: 'nginx_failed',
      message: expect.stringContaining('unknown directive "no_such_directive"'),
    })
    expect(await broken.nginx.master()).toBeUndefined()
  })

  test('HUP brings new workers with the new generation, or leaves the old ones with an [emerg] of the master', async () => {
    await using host = await NginxHost.create()
    const reloaded = await subject(host, kind)
    await link(reloaded)
    await reloaded.nginx.launch(reloaded.live)
    const master = await waitFor(() => reloaded.nginx.master(), { what: 'a master' })
    const next = await link(reloaded)
    reloaded.nginx.signal(master, 'HUP')
    await serves(reloaded, next)
    expect(await reloaded.nginx.master()).toBe(master)

    await link(reloaded, 'no_such_directive on;')
    reloaded.nginx.signal(master, 'HUP')
    const refusal = new RegExp(`\\[emerg\\] ${master}#\\d+: unknown directive`)
    await waitFor(async () => refusal.test(await host.log('error.log')), { what: 'the master to refuse' })
    await serves(reloaded, next)
  })
})

describe('the real one alone', () => {
  test('a test that hangs is ended in time and says so', async () => {
    await using host = await NginxHost.create()
    const slow = join(host.layout.directory, 'slow-nginx')
    await writeFile(slow, '#!/bin/sh\nexec sleep 60\n', { mode: 0o755 })
    const { nginx } = new NginxHost(host.layout.directory, { binary: slow })
    const { ok, stderr } = await nginx.test('/dev/null', 200)
    expect(ok).toBe(false)
    expect(stderr).toContain('did not finish within 200 ms')
  })

  test('a pid file that names somebody else’s process is no master, and is not signalled', async () => {
    await using host = await NginxHost.create()
    const child = spawn('sleep', ['60'], { stdio: 'ignore' })
    try {
      await writeFile(host.layout.pidFile, `${child.pid}\n`)
      expect(await host.nginx.master()).toBeUndefined()
      expect(() => host.nginx.signal(child.pid ?? 0, 'TERM')).toThrow('no longer our nginx')
      await host.nginx.clearRemains()
      expect(titleOf(child.pid ?? 0)).toContain('sleep')
      await expect(readFile(host.layout.pidFile)).rejects.toThrow('ENOENT')
    } finally {
      child.kill()
    }
  })

  test('another nginx’s pid file is left alone', async () => {
    await using host = await NginxHost.create()
    await using other = await NginxHost.create()
    await other.booted()
    const master = await other.master()
    await writeFile(host.layout.pidFile, `${master}\n`)
    expect(await host.nginx.master()).toBeUndefined()
    await expect(host.nginx.clearRemains()).rejects.toThrow(`belongs to another nginx, process ${master}`)
    expect(await readFile(host.layout.pidFile, 'utf8')).toBe(`${master}\n`)
    expect(await other.nginx.master()).toBe(master)
  })

  test('orphans of this directory are ended, those of another stay', async () => {
    await using host = await NginxHost.create()
    await using other = await NginxHost.create()
    const remains: { readonly host: NginxHost; readonly workers: readonly number[] }[] = []
    for (const one of [host, other]) {
      await one.booted()
      remains.push({ host: one, workers: await one.allWorkers() })
      process.kill(await one.master(), 'SIGKILL')
      await waitFor(async () => (await one.nginx.master()) === undefined, { what: 'the master to be gone' })
    }
    await host.nginx.clearRemains()
    const [ours, theirs] = remains
    await waitFor(() => ours?.workers.every((pid) => titleOf(pid) === ''), { what: 'our orphans to end' })
    expect(theirs?.workers.every((pid) => titleOf(pid).startsWith('nginx: worker process'))).toBe(true)
    await expect(lstat(host.layout.verifySocket)).rejects.toThrow('ENOENT')
  })

  test('in attach mode nothing is ended, and a socket that is in use stays', async () => {
    await using host = await NginxHost.create()
    await host.booted()
    const workers = await host.allWorkers()
    process.kill(await host.master(), 'SIGKILL')
    const attached = new NginxHost(host.layout.directory, { mode: 'attach' })
    await attached.nginx.clearRemains()
    expect((await lstat(host.layout.verifySocket)).isSocket()).toBe(true)
    expect(workers.every((pid) => titleOf(pid).startsWith('nginx: worker process'))).toBe(true)
    for (const pid of workers) process.kill(pid, 'SIGKILL')
    await waitFor(() => workers.every((pid) => titleOf(pid) === ''), { what: 'the workers to be gone' })
    // A worker that has ended may hold the socket for a moment longer.
    const isGone = async (): Promise<boolean> => {
      await attached.nginx.clearRemains()
      return (await lstat(host.layout.verifySocket).catch(() => undefined)) === undefined
    }
    await waitFor(isGone, { what: 'the socket to be removed' })
  })
})

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}
