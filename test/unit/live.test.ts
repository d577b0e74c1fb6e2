/** Live state as text, how it is brought to workers that answer as told, and when, on a virtual clock. */

import { X509Certificate } from 'node:crypto'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import fc from 'fast-check'
import type { ResourceState } from '../../src/core/document.ts'
import { fieldsOf, parseDocument, pathOf } from '../../src/core/resources/index.ts'
import { MeshError } from '../../src/errors.ts'
import { LiveLane, type LiveWish } from '../../src/live-lane.ts'
import type { LiveAnswer, LiveEndpoint } from '../../src/nginx/applying/live-endpoint.ts'
import { LivePush, type LivePushOptions } from '../../src/nginx/applying/live-push.ts'
import { LIVE_PUSH_BYTES_MAX, liveFile } from '../../src/nginx/rendering/live-program.ts'
import { renderLive } from '../../src/nginx/rendering/live-state.ts'
import {
  certificateKey,
  changeText,
  parseWhole,
  servedKeys,
  wholeText,
  type LiveState,
} from '../../src/nginx/rendering/live.ts'
import { assemble } from '../../src/nginx/rendering/assemble.ts'
import { resourceArbitrary } from '../support/arbitrary-resources.ts'
import { makeCertificate } from '../support/certificates.ts'
import { LAYOUT, renderStates, renderYaml, stateOf, statesOf } from '../support/resources.ts'
import { rememberingLog } from '../support/silent-log.ts'
import { VirtualClock } from '../support/virtual-clock.ts'
import { waitFor } from '../support/wait.ts'

const LIVE = { ...LAYOUT, modules: ['/modules/ndk_http_module.so', '/modules/ngx_http_lua_module.so'] }
const upstream = (spec: string, name = 'pool') =>
  `{ apiVersion: nxmesh/v1, kind: Upstream, metadata: { name: ${name}, zone: eu }, spec: ${spec} }`

describe('rendering', () => {
  test('endpoints stand in no text of a generation, and their change leaves its digest equal', () => {
    const [one, two] = ['10.0.0.1', '10.0.0.2'].map((address) =>
      renderYaml(upstream(`{ endpoints: { '${address}:80': {} } }`), { host: LIVE }),
    )
    expect(one?.generation.digest).toBe(two?.generation.digest)
    expect(JSON.stringify([...(one?.generation.objects.values() ?? [])])).not.toContain('10.0.0.1')
    expect([...(one?.live ?? [])]).toEqual([['u:default_eu_pool', 'round_robin - 10.0.0.1:80,1,0,0,1,10']])
    expect(renderYaml(upstream("{ endpoints: { '10.0.0.1:80': {} } }")).live).toBeUndefined()
  })

  test('the text of nginx', async () => {
    const yaml = `${upstream("{ keepalive: { connections: 8 }, endpoints: { '10.0.0.1:80': {} } }", 'a')}
---
${upstream("{ endpoints: { '10.0.0.2:80': {} } }", 'b')}
---
{ apiVersion: nxmesh/v1, kind: Site, metadata: { name: s, zone: eu }, spec: { hosts: [s.test], maintenance: { enabled: false, allow: ['10.0.0.0/8'] }, routes: { r: { path: /, proxy: { stripPrefix: true, split: { a: { upstream: a, weight: 1 }, b: { upstream: b, weight: 3 } }, sticky: { cookie: session } } } } } }`
    const { units, live } = renderYaml(yaml, { host: LIVE })
    const entries = [...(live ?? [])].map(([key, value]) => `# ${key} ${value}\n`)
    const text = [...units.map((unit) => unit.text), ...entries].join('\n')
    await expect(text).toMatchFileSnapshot('../golden/live.conf')
  })

  test('property: whatever the resources, entries are lines, and whatever the endpoints, the texts stay', () => {
    fc.assert(
      fc.property(fc.array(resourceArbitrary, { maxLength: 8 }), (documents) => {
        const resources = new Map(documents.map(parseDocument).map((each) => [pathOf(each), fieldsOf(each)]))
        const states = [...resources].map(([path, fields], index) => stateOf(path, fields, index))
        const { live, units, input } = renderStates(states, { host: LIVE })
        const stamped = { stamp: 1, state: live as LiveState }
        expect(parseWhole(wholeText(stamped))).toEqual(stamped)
        const ejected = new Set(
          [...(live as LiveState)].flatMap(([, value]) =>
            value
              .split(' ')
              .slice(2)
              .map((peer) => peer.split(',')[0]),
          ),
        )
        const paths = units.filter(({ kind }) => kind === 'upstream').map(({ path }) => path)
        const all = new Set(paths.flatMap((path) => [...ejected].map((address) => `${path} ${address}`)))
        const again = renderStates(states, { host: LIVE, slice: input.slice, ejected: all }).units
        const texts = (some: typeof units) => some.filter(({ kind }) => kind === 'upstream').map(({ text }) => text)
        expect(texts(again)).toEqual(texts(units))
      }),
      { numRuns: 100 },
    )
  })

  test('one workspace with more endpoints than workers can be told of takes none of the others’ from the lane', () => {
    // About 100 KB of each, and of the site, which is the last of its workspace.
    const names = Array.from({ length: 28 }, (_, at) => `e${at}.test`)
    const addressesOf = (at: number) =>
      Array.from({ length: 64 }, (_, one) => `2001:db8:1111:2222:3333:4444:${at + 1}:${one + 1000}`)
    const addresses = new Map(names.map((name, at) => [name, addressesOf(at)]))
    const endpoints = names.map((name) => `'${name}:80': {}`).join()
    const long = 'p'.repeat(60)
    const of = (workspace: string, count: number, some: string) =>
      Array.from(
        { length: count },
        (_, at) =>
          `{ apiVersion: nxmesh/v1, kind: Upstream, metadata: { name: ${long}${at}, workspace: ${workspace} }, spec: { endpoints: { ${some} } } }`,
      )
    const targets = Array.from({ length: 16 }, (_, at) => `t${at}: { upstream: ${long}${at % 2}, weight: 1 }`).join()
    const routes = Array.from({ length: 100 }, (_, at) => `r${at}: { path: /${at}, proxy: { split: { ${targets} } } }`)
    const site = (workspace: string, some: readonly string[]) =>
      `{ apiVersion: nxmesh/v1, kind: Site, metadata: { name: s, workspace: ${workspace} }, spec: { hosts: [${workspace}.test], routes: { ${some.join()} } } }`
    const yaml = [
      ...of('eve', 50, endpoints),
      site('eve', routes),
      ...of('a', 2, "'10.0.0.1:80': {}"),
      site('a', routes.slice(0, 1)),
    ]
    const { live, units, problems, input } = renderYaml(yaml.join('\n---\n'), { host: LIVE, addresses })
    expect(renderLive(input)).toEqual(live)
    expect(wholeText({ stamp: 1, state: live as LiveState }).length).toBeLessThan(5 * 1024 * 1024)
    expect(live?.get(`u:a_-_${long}0`)).toBe('round_robin - 10.0.0.1:80,1,0,0,1,10')
    const crowded = problems.map(({ path }) => path)
    expect(crowded).toContain('eve/*/site/s')
    expect(crowded.length).toBeGreaterThan(3)
    expect(crowded.length).toBeLessThan(20)
    expect(crowded.every((path) => path.startsWith('eve/'))).toBe(true)
    expect(problems[0]).toMatchObject({
      code: 'unsupported',
      message: expect.stringMatching(/^its changes take a reload: /),
    })
    for (const { path, text, modules = [] } of units) {
      expect([path, /balancer_by_lua|set_by_lua/.test(text)]).toEqual([path, !crowded.includes(path)])
      expect([path, modules.length > 0]).toEqual([path, !crowded.includes(path)])
    }
  })

  test('an upstream that finds no room in the lane as its circuit closes has its endpoints in its text', () => {
    const names = Array.from({ length: 28 }, (_, at) => `e${at}.test`)
    const addresses = new Map(
      names.map((name, at) => [
        name,
        Array.from({ length: 64 }, (_, one) => `2001:db8:1111:2222:3333:4444:${at + 1}:${one + 1000}`),
      ]),
    )
    const endpoints = names.map((name) => `'${name}:80': {}`).join()
    const [{ fields }] = statesOf(upstream(`{ endpoints: { ${endpoints} } }`)) as [ResourceState]
    const some = Array.from({ length: 60 }, (_, at) => stateOf(`default/*/upstream/u${at + 10}`, fields, 100 - at))
    const sizes = [...(renderStates(some.slice(0, 1), { host: LIVE, addresses }).live ?? [])].map(
      ([key, value]) => key.length + value.length,
    )
    const room = Math.floor((4 * 1024 * 1024) / (sizes[0] as number))
    const [youngest] = some as [ResourceState]
    const open = { host: LIVE, addresses, openCircuits: new Set([youngest.path]) }
    expect(renderStates(some.slice(0, room), open).problems).toEqual([])
    const { units, problems } = renderStates(some.slice(0, room + 1), { host: LIVE, addresses })
    expect(problems.map(({ path }) => path)).toEqual([youngest.path])
    expect(units.find(({ path }) => path === youngest.path)?.text).not.toContain('balancer_by_lua')
  })

  test('a last good text that asks for live state finds it where the lane was turned off since', () => {
    const yaml = upstream("{ endpoints: { '10.0.0.1:80': {} } }")
    const { units } = renderYaml(yaml, { host: LIVE })
    const off = renderYaml(yaml, { host: { ...LIVE, liveLane: false } })
    expect(off.live).toBeUndefined()
    expect(off.generation.main).not.toContain('nxmesh.balance')
    expect(assemble(units, off.input).main).toContain('function nxmesh.balance(')
  })

  test('everything of an endpoint and of the method is there, and nothing can break out', () => {
    const yaml = upstream(
      "{ method: hash, consistent: true, hashKey: 'a b,\"$host\\n%', endpoints: { '[::1]:80': { weight: 3, down: true, maxFails: 0, failTimeout: 5m }, 'x.test:81': {} } }".replace(
        '\\n',
        '',
      ),
    )
    const addresses = new Map([['x.test', ['10.0.0.2', '10.0.0.1']]])
    const { live } = renderYaml(yaml, { host: LIVE, addresses })
    expect(live?.get('u:default_eu_pool')).toBe(
      'consistent t%61%20%62%2c%22,vhost,t%25 [::1]:80,3,0,1,0,300 10.0.0.1:81,1,0,0,1,10 10.0.0.2:81,1,0,0,1,10',
    )
  })

  test('what was seen counts: ejected endpoints are down, an open circuit has one server', () => {
    const yaml = upstream("{ endpoints: { '10.0.0.1:80': {}, '10.0.0.2:80': {} } }")
    const path = 'default/eu/upstream/pool'
    const ejected = renderYaml(yaml, { host: LIVE, ejected: new Set([`${path} 10.0.0.1:80`]) }).live
    expect(ejected?.get('u:default_eu_pool')).toBe('round_robin - 10.0.0.1:80,1,0,1,1,10 10.0.0.2:80,1,0,0,1,10')
    const open = renderYaml(yaml, { host: LIVE, openCircuits: new Set([path]) }).live
    expect(open?.get('u:default_eu_pool')).toMatch(/^round_robin - unix:\S+\/circuit\.sock,1,0,0,0,0$/)
  })

  test('entries belong to the units whose text asks for them', () => {
    const { units, live } = renderYaml(
      `${upstream('{}', 'a')}\n---\n${upstream('{}', 'b')}\n---\n{ apiVersion: nxmesh/v1, kind: Site, metadata: { name: s, zone: eu }, spec: { hosts: [s.test], maintenance: { enabled: false }, routes: { r: { path: /, proxy: { split: { a: { upstream: a, weight: 1 }, b: { upstream: b, weight: 3 } } } } } } }`,
      { host: LIVE },
    )
    expect([...(live?.values() ?? [])]).toContain('default_eu_a=2500 default_eu_b=7500')
    const isServed = servedKeys(units)
    for (const key of live?.keys() ?? []) {
      expect(isServed(key)).toBe(true)
      expect(units.some(({ text }) => text.includes(key.replace(/^u:/, '')))).toBe(true)
      expect(servedKeys([])(key)).toBe(false)
    }
    expect(live?.size).toBe(4)
  })

  test('a target that the served text has no block for is no entry that it asks for; weights are', () => {
    const rendered = (split: string) =>
      renderYaml(
        `${upstream('{}', 'a')}\n---\n${upstream('{}', 'b')}\n---\n${upstream('{}', 'c')}\n---\n{ apiVersion: nxmesh/v1, kind: Site, metadata: { name: s, zone: eu }, spec: { hosts: [s.test], routes: { r: { path: /, proxy: { split: { a: { upstream: a, weight: 1 }, b: { upstream: b, weight: 1 }${split} } } } } } }`,
        { host: LIVE },
      )
    const { units } = rendered('')
    const isServed = servedKeys(units)
    const splitsOf = ({ live }: ReturnType<typeof rendered>) =>
      [...(live?.keys() ?? [])].filter((key) => key.includes(':split:'))
    expect(splitsOf(rendered('')).map(isServed)).toEqual([true])
    expect(splitsOf(rendered(', c: { upstream: c, weight: 1 }')).map(isServed)).toEqual([false])
    expect(splitsOf(rendered(', c: { upstream: c, weight: 9 }'))).toEqual(
      splitsOf(rendered(', c: { upstream: c, weight: 0 }')),
    )
  })
})

describe('text', () => {
  const state: LiveState = new Map([
    ['u:a', 'round_robin - 10.0.0.1:80,1,0,0,1,10'],
    ['u:b', 'round_robin -'],
  ])

  test('the whole is read back as it was written', () => {
    expect(parseWhole(wholeText({ stamp: 7, state }))).toEqual({ stamp: 7, state })
    for (const text of ['', 'nonsense', 'nxmesh-live 7 6\n', 'nxmesh-live x 0\n'])
      expect(parseWhole(text)).toBeUndefined()
  })

  test('a change says what differs, and from what', () => {
    const after = new Map([
      ['u:b', 'random -'],
      ['u:c', 'random -'],
    ])
    expect(changeText({ stamp: 7, state }, { stamp: 8, state: after })).toBe(
      'nxmesh-live 8 7\n-u:a\nu:b random -\nu:c random -\n',
    )
  })
})

/** Workers that take what they are told, as live-program.ts does. */
class FakeWorkers implements LiveEndpoint {
  readonly pushed: string[] = []
  pids = [11, 12]
  stamp = 0
  /** Whether the generation has the lane. */
  hasLane = true
  runs = true
  failure: Error | undefined
  #turn = 0

  master = () => Promise.resolve(this.runs ? 1 : undefined)
  workers = () => Promise.resolve(this.pids.map((pid) => ({ pid, draining: false })))
  ask(): Promise<LiveAnswer | undefined> {
    const pid = this.pids[(this.#turn += 1) % this.pids.length] as number
    return Promise.resolve(this.hasLane && this.runs ? { stamp: this.stamp, pid } : undefined)
  }
  push(text: string): Promise<boolean> {
    if (this.failure !== undefined) return Promise.reject(this.failure)
    const [, stamp, base] = /^nxmesh-live (\d+) (\d+)\n/.exec(text) as unknown as [string, string, string]
    if (Number(stamp) <= this.stamp || (base !== '0' && Number(base) !== this.stamp)) return Promise.resolve(false)
    this.pushed.push(text)
    this.stamp = Number(stamp)
    return Promise.resolve(true)
  }
}

let directory: string
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'nxmesh-live-'))
})
afterEach(() => rm(directory, { recursive: true, force: true }))

const liveOf = (value: string): LiveState => new Map([['u:a', value]])

function pushOf(workers: FakeWorkers, clock = new VirtualClock(), rest: Partial<LivePushOptions> = {}) {
  return new LivePush({ directory, nginx: workers, endpoint: workers, clock, ...rest })
}

describe('bringing it to the workers', () => {
  test('the first as a whole, then changes; the file has what is wanted', async () => {
    const workers = new FakeWorkers()
    const push = pushOf(workers)
    await push.open()
    push.want(liveOf('one'))
    expect(await push.bring()).toMatchObject({ proven: true, drifted: false })
    push.want(liveOf('two'))
    expect(await push.bring()).toMatchObject({ proven: true, drifted: false })
    expect(
      workers.pushed.map((text) =>
        text.replace(/^nxmesh-live \d+ (?:(0)|\d+)\n/, (_, whole) => (whole ? 'all ' : 'some ')),
      ),
    ).toEqual(['all u:a one\n', 'some u:a two\n'])
    await push.save()
    expect(parseWhole(await readFile(liveFile({ directory }), 'utf8'))).toEqual({
      stamp: workers.stamp,
      state: liveOf('two'),
    })
  })

  test('the same is not pushed again, nor after a restart of the daemon', async () => {
    const workers = new FakeWorkers()
    for (let life = 0; life < 2; life += 1) {
      const push = pushOf(workers)
      await push.open()
      push.want(liveOf('one'))
      await push.bring()
      await push.save()
      await push.bring()
    }
    expect(workers.pushed).toHaveLength(1)
  })

  test('workers that have lost it get it as a whole, and it is said', async () => {
    const workers = new FakeWorkers()
    const push = pushOf(workers)
    push.want(liveOf('one'))
    await push.bring()
    workers.stamp = 0
    expect(await push.bring()).toMatchObject({ proven: true, drifted: true })
    workers.stamp = 0
    push.want(liveOf('two'))
    expect(await push.bring()).toMatchObject({ proven: true })
    expect(workers.pushed.at(-1)).toMatch(/^nxmesh-live \d+ 0\nu:a two\n$/)
  })

  test('stamps grow though the file is lost and the time of day was put back', async () => {
    const workers = new FakeWorkers()
    workers.stamp = 9_000_000_000_000
    const push = pushOf(workers)
    push.want(liveOf('one'))
    expect(await push.bring()).toEqual({ stamp: 9_000_000_000_001, proven: true, drifted: false })
  })

  test('without nginx, or with a generation without the lane, it is kept for later', async () => {
    const workers = new FakeWorkers()
    const push = pushOf(workers)
    push.want(liveOf('one'))
    workers.runs = false
    expect(await push.bring()).toMatchObject({ proven: false })
    workers.runs = true
    workers.hasLane = false
    expect(await push.bring()).toMatchObject({ proven: false })
    await push.save()
    expect(await readFile(liveFile({ directory }), 'utf8')).toContain('u:a one\n')
    workers.hasLane = true
    expect(await push.bring()).toMatchObject({ proven: true })
  })

  test('one worker that does not take it up is an error', async () => {
    const workers = new FakeWorkers()
    const clock = new VirtualClock()
    const push = pushOf(workers, clock)
    push.want(liveOf('one'))
    workers.ask = () => Promise.resolve({ stamp: workers.stamp, pid: 11 })
    const brought = push.bring().catch((error: unknown) => (error as Error).message)
    await clock.advance(6_000)
    expect(await brought).toBe(
      'the live state did not reach every worker: after 5000 ms workers 12 had not taken it up',
    )
  })

  test('a file that somebody removed is written again', async () => {
    const workers = new FakeWorkers()
    const push = pushOf(workers)
    push.want(liveOf('one'))
    await push.bring()
    await push.save()
    await rm(liveFile({ directory }))
    await push.bring()
    await push.save()
    expect(await readFile(liveFile({ directory }), 'utf8')).toContain('u:a one\n')
  })
})

async function laneOf(workers: FakeWorkers, wish: () => LiveWish, rest: Partial<LivePushOptions> = {}) {
  const clock = new VirtualClock()
  const { log, lines } = rememberingLog()
  let served: readonly string[] = []
  let turns = 0
  const push = pushOf(workers, clock, { disk: { write: () => Promise.resolve() }, ...rest })
  let judge: (keys: readonly string[]) => string | undefined = () => undefined
  const lane = new LiveLane({
    push,
    desired: () => {
      turns += 1
      return Promise.resolve(wish())
    },
    served: () => (key) => served.includes(key),
    certificateFault: (keys) => Promise.resolve(judge(keys)),
    clock,
    random: () => 0.5,
    log,
    onChange: () => undefined,
    checkIntervalMs: 30_000,
  })
  await lane.start()
  await clock.advance(1)
  return {
    lane,
    push,
    clock,
    lines,
    serve: (...keys: string[]) => (served = keys),
    judgeBy: (by: typeof judge) => (judge = by),
    turns: () => turns,
    [Symbol.asyncDispose]: () => lane.stop(),
  }
}

test('until workers have taken a certificate up, the one before it may be shown too', async () => {
  const workers = new FakeWorkers()
  const push = pushOf(workers)
  const [one, two] = [1, 2].map(() => makeCertificate(['a.example']).certificate) as [string, string]
  const line = (pem: string) => `version ${Buffer.from(pem).toString('base64')} key`
  const of = (...pems: string[]) => pems.map((pem) => new X509Certificate(pem).fingerprint256)
  push.want(new Map([['c', line(one)]]))
  await push.bring()
  expect([push.fingerprints('c'), push.fingerprints('other')]).toEqual([of(one), []])
  push.want(new Map([['c', line(two)]]))
  expect(push.fingerprints('c')).toEqual(of(two, one))
  workers.failure = new MeshError('unavailable', 'nobody answers')
  await expect(push.bring()).rejects.toThrow('nobody answers')
  expect(push.fingerprints('c')).toEqual(of(two, one))
  workers.failure = undefined
  await push.bring()
  expect(push.fingerprints('c')).toEqual(of(two))
})

describe('when', () => {
  test('at once out of the blue; what follows within 10 ms goes together', async () => {
    let value = 'one'
    const workers = new FakeWorkers()
    await using setup = await laneOf(workers, () => ({ state: liveOf(value), target: 't' }))
    const { lane, clock } = setup
    expect(workers.pushed).toHaveLength(1)
    await clock.advance(1_000)
    for (const next of ['two', 'three', 'four']) {
      value = next
      lane.wake()
      await clock.advance(2)
    }
    expect(workers.pushed).toHaveLength(2)
    await clock.advance(10)
    expect(workers.pushed.map((text) => text.split(' ').at(-1))).toEqual(['one\n', 'two\n', 'four\n'])
    expect(lane.receipt).toMatchObject({ lane: 'live', target: 't', applied: workers.stamp, desired: workers.stamp })
  })

  test('a failure is told and tried again, longer each time; the others’ words stay', async () => {
    const workers = new FakeWorkers()
    workers.failure = new MeshError('too_large', 'nginx refused the live state: 507 no memory')
    await using setup = await laneOf(workers, () => ({ state: liveOf('one'), target: 't' }))
    const { lane, clock, lines, turns } = setup
    expect(lane.receipt).toMatchObject({ applied: null, error: { code: 'too_large' } })
    await clock.advance(500)
    const soon = turns()
    expect(soon).toBeGreaterThan(2)
    await clock.advance(60_000)
    expect(turns() - soon).toBeLessThan(20)
    expect(lines.filter((line) => JSON.stringify(line).includes('507 no memory'))).toHaveLength(1)
    workers.failure = undefined
    await clock.advance(60_000)
    expect(lane.receipt).toMatchObject({ error: null, applied: workers.stamp })
  })

  test('what may be asked for stays until the generation is another one', async () => {
    const workers = new FakeWorkers()
    let state: LiveState = new Map([
      ['u:a', '1'],
      ['u:b', '2'],
    ])
    await using setup = await laneOf(workers, () => ({ state, target: 't' }))
    const { lane, clock, push } = setup
    setup.serve('u:a', 'u:b')
    state = new Map([['u:a', '3']])
    lane.wake()
    await clock.advance(20)
    expect([...push.wanted.state]).toEqual([
      ['u:a', '3'],
      ['u:b', '2'],
    ])
    setup.serve('u:a')
    lane.wake()
    await clock.advance(20)
    expect([...push.wanted.state]).toEqual([['u:a', '3']])
  })

  test('what is asked for still, and too much, is left out, the largest first', async () => {
    const workers = new FakeWorkers()
    const huge = 'x'.repeat(9 * 1024 * 1024)
    let state: LiveState = new Map([
      ['u:a', '1'],
      ['u:huge', huge],
      ['u:b', '2'],
    ])
    await using setup = await laneOf(workers, () => ({ state, target: 't' }))
    const { lane, clock, push } = setup
    setup.serve('u:a', 'u:b', 'u:huge')
    state = new Map([['u:new', huge]])
    await lane.prepare(state)
    expect([...push.wanted.state.keys()]).toEqual(['u:a', 'u:huge', 'u:b'])
    lane.wake()
    await clock.advance(20)
    expect([...push.wanted.state.keys()]).toEqual(['u:new', 'u:a', 'u:b'])
    expect(workers.pushed.at(-1)?.length).toBeLessThan(LIVE_PUSH_BYTES_MAX)
    expect(lane.receipt.error).toBeNull()
  })

  test('nothing is taken away where nothing may be applied yet', async () => {
    const workers = new FakeWorkers()
    let wish: LiveWish = { state: liveOf('one'), target: 't' }
    await using setup = await laneOf(workers, () => wish)
    wish = undefined
    setup.lane.wake()
    await setup.clock.advance(60_000)
    expect([...setup.push.wanted.state]).toEqual([['u:a', 'one']])
    expect(workers.pushed).toHaveLength(1)
  })

  test('a disk that takes nothing is told, and the workers have it all the same', async () => {
    const workers = new FakeWorkers()
    const write = () => Promise.reject(new MeshError('store_unwritable', 'no space left'))
    await using setup = await laneOf(workers, () => ({ state: liveOf('one'), target: 't' }), { disk: { write } })
    expect(setup.lane.receipt).toMatchObject({ applied: workers.stamp, error: { code: 'store_unwritable' } })
    expect(workers.pushed).toHaveLength(1)
  })

  test('renewed certificates are looked at, alone, and one that is not shown is told until it is', async () => {
    const workers = new FakeWorkers()
    const key = (name: string) => certificateKey(name, 'c')
    let state: LiveState = new Map([
      ['u:a', '1'],
      [key('a'), 'old'],
      [key('b'), 'old'],
    ])
    await using setup = await laneOf(workers, () => ({ state, target: 't' }))
    const { lane, clock } = setup
    const looked: (readonly string[])[] = []
    let fault: string | undefined = 'site a: it shows another certificate'
    setup.judgeBy((keys) => {
      looked.push(keys)
      return fault
    })
    state = new Map([...state, ['u:a', '2'], [key('a'), 'new'], [key('c'), 'first']])
    lane.wake()
    await clock.advance(20)
    expect(lane.receipt).toMatchObject({
      applied: workers.stamp,
      error: { code: 'nginx_failed', message: `a renewed certificate is not shown: ${fault}` },
    })
    // Each look reads a real file before.
    const later = (what: string, isSo: () => boolean) =>
      waitFor(async () => (await clock.advance(1_000), isSo()), { what })
    await later('more looks', () => looked.length > 2)
    expect(new Set(looked.flat())).toEqual(new Set([key('a')]))
    fault = undefined
    await later('a good one', () => lane.receipt.error === null)
    const [before, done] = [looked.length, setup.turns()]
    await later('more turns', () => setup.turns() > done + 2)
    expect(looked).toHaveLength(before)
  })

  test('a host without the lane says why', async () => {
    const workers = new FakeWorkers()
    await using setup = await laneOf(workers, () => ({ reason: 'because' }))
    expect(setup.lane.receipt).toMatchObject({ lane: 'reload', reason: 'because', desired: null, error: null })
    expect(workers.pushed).toEqual([])
  })
})
