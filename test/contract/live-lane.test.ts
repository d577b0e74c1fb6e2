/**
 * The lane without reloads, on real nginx with two workers: a reconciler whose slice the tests change, backends that say
 * who they are, and crashes of every kind.
 */

import { once } from 'node:events'
import { existsSync, rmSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import type { Slice } from '../../src/core/slice.ts'
import { liveFile } from '../../src/nginx/rendering/live-program.ts'
import { daemon } from '../support/lane-daemon.ts'
import { freePort, NginxHost } from '../support/nginx-host.ts'
import { ask, luaModules } from '../support/real-nginx.ts'
import { sliceOf, statesOf } from '../support/resources.ts'
import { waitFor } from '../support/wait.ts'

const NAMES = ['a', 'b'] as const

let backends: Server[] = []
let ports: number[] = []
beforeAll(async () => {
  backends = NAMES.map((name) => createServer((_, response) => response.end(name)).listen(0, '127.0.0.1'))
  await Promise.all(backends.map((backend) => once(backend, 'listening')))
  ports = backends.map((backend) => (backend.address() as AddressInfo).port)
})
afterAll(() => {
  for (const backend of backends) {
    backend.close()
    backend.closeAllConnections()
  }
})

/** An upstream of these backends, and a site that passes to it. */
function sliceFor(port: number, endpoints: Readonly<Record<string, string>>, body = 'first', bakeSeconds = 0): Slice {
  const servers = Object.entries(endpoints).map(([address, spec]) => `'${address}': ${spec}`)
  return sliceOf(
    statesOf(`
apiVersion: nxmesh/v1
kind: ZoneSettings
metadata: { name: settings }
spec: { reload: { bakeSeconds: ${bakeSeconds}, drainMs: 0, quietMs: 0 } }
---
apiVersion: nxmesh/v1
kind: Upstream
metadata: { name: pool }
spec: { endpoints: { ${servers.join(', ')} } }
---
apiVersion: nxmesh/v1
kind: Site
metadata: { name: s }
spec:
  hosts: [s.example]
  listeners: { http: { port: ${port} } }
  routes:
    root: { path: /, proxy: { upstream: pool } }
    body: { path: /body, return: { status: 200, body: ${body} } }
`),
  )
}

const to = (...names: (typeof NAMES)[number][]): Record<string, string> =>
  Object.fromEntries(names.map((name) => [`127.0.0.1:${ports[NAMES.indexOf(name)]}`, '{}']))

describe('with the Lua module', () => {
  let host: NginxHost
  let port: number
  let slice: Slice
  let node: Awaited<ReturnType<typeof daemon>>

  beforeAll(async () => {
    host = await NginxHost.create({ modules: await luaModules() })
    port = await freePort()
    slice = sliceFor(port, to('a'))
    node = await daemon(host, () => slice)
    await node.reached()
  })
  afterAll(async () => {
    await node?.reconciler.stop()
    await host?.[Symbol.asyncDispose]()
  })
  beforeEach(async () => {
    slice = sliceFor(port, to('a'))
    await node.reached()
  })

  const get = async (path = '/') => (await ask({ port, path, headers: { host: 's.example' } })).body
  /** Asked on connections of their own, so that both workers answer some. */
  const answers = async () => new Set(await Promise.all(Array.from({ length: 24 }, () => get())))

  test('endpoints come, go, and change without a reload, in every worker', async () => {
    const [workers, generation] = [await host.workers(), node.last()?.applied]
    expect(await answers()).toEqual(new Set(['a']))
    slice = sliceFor(port, to('a', 'b'))
    await node.reached()
    expect(await answers()).toEqual(new Set(['a', 'b']))
    slice = sliceFor(port, { ...to('a'), [Object.keys(to('b'))[0] as string]: '{ down: true }' })
    await node.reached()
    expect(await answers()).toEqual(new Set(['a']))
    slice = sliceFor(port, to('b'))
    await node.reached()
    expect(await answers()).toEqual(new Set(['b']))
    expect(await host.workers()).toEqual(workers)
    expect(node.last()).toMatchObject({
      applied: generation,
      outcome: 'unchanged',
      live: { lane: 'live', error: null },
    })
  })

  test('weights of a split and maintenance change without a reload', async () => {
    const yaml = (weight: number, isDown: boolean) => `
apiVersion: nxmesh/v1
kind: ZoneSettings
metadata: { name: settings }
spec: { reload: { bakeSeconds: 0, drainMs: 0, quietMs: 0 } }
---
${NAMES.map((name, index) => `{ apiVersion: nxmesh/v1, kind: Upstream, metadata: { name: ${name} }, spec: { endpoints: { '127.0.0.1:${ports[index]}': {} } } }`).join('\n---\n')}
---
apiVersion: nxmesh/v1
kind: Site
metadata: { name: s }
spec:
  hosts: [s.example]
  listeners: { http: { port: ${port} } }
  maintenance: { enabled: ${isDown}, body: down }
  routes:
    root:
      path: /
      proxy: { split: { a: { upstream: a, weight: ${weight} }, b: { upstream: b, weight: ${10 - weight} } }, sticky: { header: X-User } }
`
    const served = async () => {
      const users = Array.from({ length: 40 }, (_, index) => `user-${index}`)
      const bodies = await Promise.all(
        users.map(async (user) => (await ask({ port, headers: { host: 's.example', 'X-User': user } })).body),
      )
      return [...new Set(bodies)].toSorted()
    }
    slice = sliceOf(statesOf(yaml(10, false)))
    await node.reached()
    const [workers, generation] = [await host.workers(), node.last()?.applied]
    expect(await served()).toEqual(['a'])
    for (const [weight, isDown, expected] of [
      [5, false, ['a', 'b']],
      [0, false, ['b']],
      [0, true, ['down']],
      [0, false, ['b']],
    ] as const) {
      slice = sliceOf(statesOf(yaml(weight, isDown)))
      await node.reached()
      expect(await served()).toEqual(expected)
    }
    expect([await host.workers(), node.last()?.applied]).toEqual([workers, generation])
  })

  test('a worker that was killed is followed by one that knows', async () => {
    slice = sliceFor(port, to('b'))
    await node.reached()
    const [first] = await host.workers()
    process.kill(first as number, 'SIGKILL')
    await waitFor(
      async () => (await host.workers()).length === 2 && !(await host.workers()).includes(first as number),
      {
        what: 'another worker',
      },
    )
    expect(await answers()).toEqual(new Set(['b']))
  })

  test('a reload keeps what was pushed before it', async () => {
    slice = sliceFor(port, to('b'))
    await node.reached()
    const workers = await host.workers()
    slice = sliceFor(port, to('b'), 'second')
    await node.reached()
    expect(await get('/body')).toBe('second')
    expect(await answers()).toEqual(new Set(['b']))
    expect(await host.workers()).not.toEqual(workers)
  })

  test('a change of both takes effect in both', async () => {
    slice = sliceFor(port, to('b'), 'third')
    await node.reached()
    expect([await get('/body'), await answers()]).toEqual(['third', new Set(['b'])])
  })

  test('after a crash of the master, nginx starts with what was pushed last', async () => {
    slice = sliceFor(port, to('b'))
    await node.reached()
    const master = await host.master()
    process.kill(master, 'SIGKILL')
    await waitFor(async () => (await host.nginx.master()) !== undefined && (await host.master()) !== master, {
      timeoutMs: 15_000,
      what: 'another master',
    })
    await waitFor(async () => (await get().catch(() => '')) === 'b', { timeoutMs: 15_000, what: 'an answer of b' })
    await node.reached()
    expect(await answers()).toEqual(new Set(['b']))
  })

  test('what nginx starts from is closed to others and holds what is pushed', async () => {
    const text = await readFile(liveFile(host.layout), 'utf8')
    expect(text).toContain(`u:default_-_pool round_robin - 127.0.0.1:${ports[0]},1,0,0,1,10\n`)
  })

  test('with the file lost and nginx ended, the daemon brings it again', async () => {
    slice = sliceFor(port, to('b'))
    await node.reached()
    rmSync(liveFile(host.layout))
    const master = await host.master()
    process.kill(master, 'SIGKILL')
    await waitFor(async () => (await host.nginx.master()) !== undefined && (await host.master()) !== master, {
      timeoutMs: 15_000,
      what: 'another master',
    })
    await waitFor(async () => (await get().catch(() => '')) === 'b', { timeoutMs: 15_000, what: 'an answer of b' })
    await waitFor(() => existsSync(liveFile(host.layout)), { what: 'the file' })
    expect(await answers()).toEqual(new Set(['b']))
  })

  test('a state at another stamp is not changed, and an older one not taken', async () => {
    const { endpoint } = node
    const now = (await endpoint.ask())?.stamp as number
    expect(now).toBeGreaterThan(0)
    expect(await endpoint.push(`nxmesh-live ${now + 1} ${now - 1}\nu:x round_robin -\n`)).toBe(false)
    expect(await endpoint.push(`nxmesh-live ${now} 0\n`)).toBe(false)
    await expect(endpoint.push('nonsense')).rejects.toThrow('400 this is no live state')
    expect((await endpoint.ask())?.stamp).toBe(now)
  })

  // The last one: it leaves an apply under way.
  test('a generation that is being watched delays no endpoint', async () => {
    slice = sliceFor(port, to('a'), 'watched', 60)
    node.reconciler.wake()
    await waitFor(async () => (await get('/body')) === 'watched', { timeoutMs: 15_000, what: 'the new generation' })
    const watched = slice.target
    slice = sliceFor(port, to('b'), 'watched', 60)
    node.reconciler.wake()
    await waitFor(() => node.last()?.live?.target === slice.target && node.last()?.live?.error === null, {
      what: 'the endpoints to be proven',
    })
    expect(await answers()).toEqual(new Set(['b']))
    // Nothing is said of the generation yet.
    expect(node.last()?.target).not.toBe(slice.target)
    expect(node.last()?.target).not.toBe(watched)
  })
})

test('without the Lua module the same edit goes through a reload, and the receipt says so', async () => {
  await using host = await NginxHost.create()
  const port = await freePort()
  let slice = sliceFor(port, to('a'))
  const node = await daemon(host, () => slice)
  try {
    await node.reached()
    const [workers, generation] = [await host.workers(), node.last()?.applied]
    slice = sliceFor(port, to('b'))
    await node.reached()
    expect((await ask({ port, headers: { host: 's.example' } })).body).toBe('b')
    expect(node.last()?.applied).not.toBe(generation)
    expect(await host.workers()).not.toEqual(workers)
    const reason = 'the Lua module is absent: endpoint changes go through reloads'
    expect(node.last()?.live).toMatchObject({ lane: 'reload', reason, desired: null })
  } finally {
    await node.reconciler.stop()
  }
})
