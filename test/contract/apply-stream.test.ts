/**
 * Streams through the apply protocol on a real nginx: they come and go by reload, a broken one leaves the others alone, and
 * their sockets keep nobody from starting after a crash.
 */

import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { connect as connectTo, createServer, type AddressInfo, type Server } from 'node:net'
import { afterEach, beforeEach, expect, onTestFinished, test } from 'vitest'
import type { Applier } from '../../src/nginx/applying/apply.ts'
import { ALL_WELL } from '../../src/nginx/rendering/render-upstream.ts'
import { assemble } from '../../src/nginx/rendering/assemble.ts'
import { render } from '../../src/nginx/rendering/render.ts'
import { freePort, NginxHost } from '../support/nginx-host.ts'
import { sliceOf, statesOf } from '../support/resources.ts'
import { waitFor } from '../support/wait.ts'

let host: NginxHost
let applier: Applier
let echo: Server

beforeEach(async () => {
  host = await NginxHost.create({ findsModules: true, liveLane: false })
  applier = await host.booted()
  echo = createServer((socket) => socket.on('error', () => undefined).pipe(socket)).listen(0, '127.0.0.1')
  await once(echo, 'listening')
})
afterEach(async () => {
  await host[Symbol.asyncDispose]()
  echo.close()
})

const apply = (...streams: readonly string[]) => applyBy(applier, ...streams)

async function applyBy(by: Applier, ...streams: readonly string[]) {
  const upstream = `kind: Upstream\nmetadata: { name: echo }\nspec: { endpoints: { '127.0.0.1:${(echo.address() as AddressInfo).port}': {} } }`
  const yaml = [upstream, ...streams].map((text) => `apiVersion: nxmesh/v1\n${text}\n`).join('---\n')
  const none = { addresses: new Map(), secrets: new Map(), ...ALL_WELL }
  const input = {
    slice: sliceOf(statesOf(yaml)),
    capabilities: await host.nginx.capabilities(),
    host: host.layout,
    ...none,
  }
  const { units, problems } = render(input)
  return by.apply(host.request(units, { problems, assemble: (some) => assemble(some, input) }))
}

const stream = (name: string, port: number, more = '') =>
  `kind: Stream\nmetadata: { name: ${name} }\nspec: { upstream: echo, listeners: { m: { port: ${port}, address: 127.0.0.1 } }${more} }`

/** Whether the port passes on what is sent. */
async function answers(port: number): Promise<boolean> {
  const socket = connectTo({ host: '127.0.0.1', port })
  try {
    socket.write('hello')
    const [back] = (await once(socket, 'data')) as [Buffer]
    return back.toString() === 'hello'
  } catch {
    return false
  } finally {
    socket.destroy()
  }
}

test('streams come and go by reload, and a port that another process has stays one stream’s trouble', async () => {
  const [one, two, taken] = [await freePort(), await freePort(), (echo.address() as AddressInfo).port]
  const master = await host.master()
  expect(await apply(stream('one', one))).toMatchObject({ outcome: 'applied', isolated: [] })
  expect(await answers(one)).toBe(true)
  const both = await apply(stream('one', one), stream('two', two), stream('bad', taken))
  expect(both.isolated).toMatchObject([{ path: 'default/*/stream/bad' }])
  expect([await answers(one), await answers(two)]).toEqual([true, true])
  expect(await apply(stream('two', two))).toMatchObject({ outcome: 'applied' })
  expect(await answers(two)).toBe(true)
  await waitFor(async () => !(await answers(one)), { what: 'the port to be let go' })
  expect(await host.master()).toBe(master)
})

test('a UDP port that another process has is found before the reload that would not get it', async () => {
  const socket = createSocket('udp4')
  onTestFinished(() => void socket.close())
  await new Promise<void>((resolve) => socket.bind(0, '127.0.0.1', resolve))
  const taken = socket.address().port
  const datagrams = (name: string, port: number) =>
    stream(name, port).replace('address: 127.0.0.1', 'address: 127.0.0.1, protocol: udp')
  expect(await apply(datagrams('mine', await freePort()))).toMatchObject({ outcome: 'applied', isolated: [] })

  // Without the look before: `nginx -t` takes it, and so does the reload, to which nginx's old workers live on.
  const blind = await host.booted({ whoHas: () => Promise.resolve(undefined) })
  const tried = await applyBy(blind, datagrams('bad', taken))
  expect(tried).toMatchObject({ outcome: 'rolled_back', phase: 'verify' })
  expect(tried.error?.message).toMatch(/still could not bind/)

  const { outcome, isolated, phases } = await apply(datagrams('mine', await freePort()), datagrams('bad', taken))
  expect(outcome).toBe('applied')
  const reason = new RegExp(`port ${taken}/udp on 127.0.0.1 is taken by process ${process.pid} `)
  expect(isolated).toEqual([
    { path: 'default/*/stream/bad', why: 'refused', serves: 'left_out', reason: expect.stringMatching(reason) },
  ])
  expect(phases.rollback).toBeUndefined()
})

test('sockets that a killed nginx left behind keep the next one from nothing', async () => {
  const port = await freePort()
  expect(await apply(stream('named', port, ', hosts: [a.example]'))).toMatchObject({ outcome: 'applied' })
  for (const pid of await host.processes()) process.kill(pid, 'SIGKILL')
  await waitFor(async () => (await host.processes()).length === 0, { what: 'nginx to end' })
  expect((await applier.ensureServing()).error).toBeUndefined()
  expect(await host.master()).toBeGreaterThan(0)
})
