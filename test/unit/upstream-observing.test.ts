/** What is read from the traffic log, and when observed health changes, on a virtual clock with probes of the test's own. */

import { describe, expect, test } from 'vitest'
import { upstreamKind } from '../../src/core/resources/upstream.ts'
import { createMetrics } from '../../src/metrics.ts'
import { followedOf } from '../../src/upstreams/judging/followed.ts'
import { parseAnswer, TRAFFIC_FORMAT } from '../../src/upstreams/judging/traffic.ts'
import { CheckSchedule } from '../../src/upstreams/observing/check-schedule.ts'
import { UpstreamObserver } from '../../src/upstreams/observing/observer.ts'
import { RESOURCE_LABELS_MAX } from '../../src/upstreams/observing/resource-labels.ts'
import { TrafficMetrics } from '../../src/upstreams/observing/traffic-metrics.ts'
import { DEBIAN_12, renderYaml } from '../support/resources.ts'
import { rememberingLog, silentLog } from '../support/silent-log.ts'
import { VirtualClock } from '../support/virtual-clock.ts'

const [ONE, TWO] = ['10.0.0.1:80', '10.0.0.2:80']
const PATH = 'default/*/upstream/u'

interface Line {
  readonly at?: number
  readonly seconds?: number
  readonly status?: number
  readonly block?: string
  readonly addresses?: string
  readonly statuses?: string
  readonly site?: string
  readonly probe?: string
}
const line = ({ at = 1_000, seconds = 0.5, status = 200, block = ' default_-_u;', ...rest }: Line = {}) => {
  const { addresses = ONE, statuses = String(status), site = 'default/*/site/s', probe = '' } = rest
  return [(at / 1000).toFixed(3), seconds, site, status, '', block, addresses, statuses, '0.400', probe].join('\t')
}

describe('a line of the traffic log', () => {
  test('tells what became of a request', () => {
    expect(line().split('\t')).toHaveLength(TRAFFIC_FORMAT.split('\t').length)
    expect(parseAnswer(line())).toEqual({
      startedMs: 500,
      seconds: 0.5,
      site: 'default/*/site/s',
      status: 200,
      isPlanned: false,
      isProbe: false,
      asked: [
        {
          block: 'default_-_u',
          attempts: [{ address: ONE, failed: false }],
          isRejected: false,
          status: 200,
          seconds: 0.4,
        },
      ],
    })
  })

  test.each([
    ['a retry', '10.0.0.1:80, [::1]:80', '502, 200', [true, false]],
    ['a client that went away', '10.0.0.1:80', '-', []],
    ['no endpoint left', 'default_-_u', '502', [true]],
    ['no upstream', '-', '-', []],
  ])('%s', (_, addresses, statuses, failed) => {
    const attempts = parseAnswer(line({ addresses, statuses }))?.asked.flatMap((one) => one.attempts)
    expect(attempts?.map((attempt) => attempt.failed)).toEqual(failed)
  })

  test('a probe of a site is told from clients; a line of an older generation, which does not say, is read', () => {
    expect(parseAnswer(line({ probe: '1' }))?.isProbe).toBe(true)
    const older = line().split('\t').slice(0, -1).join('\t')
    expect(parseAnswer(older)).toEqual(parseAnswer(line()))
  })

  test('an open circuit is no attempt', () => {
    const answer = parseAnswer(line({ addresses: 'unix:/x/run/circuit.sock', statuses: '503', status: 503 }))
    expect(answer?.asked).toMatchObject([{ isRejected: true, attempts: [] }])
  })

  test.each([
    ['a page of another', ' a;504, 500 b;', `${ONE}, ${TWO} : ${ONE}`, '504, 500 : 200', ['a 500', 'b 200']],
    ['a page for a refusal before it was passed on', ' a; b;', ONE, '200', ['b 200']],
    ['a page that nobody was left to make', ' a;500 b;', `${ONE} : `, '500 : ', ['a 500']],
    ['a page of an open circuit', ' a;502 b;', 'a : unix:/x/run/circuit.sock', '502 : 503', ['a 502', 'b 503']],
    [
      'a redirect that was refused, and its page',
      ' a;200 b;200 c;',
      `${ONE} : ${TWO}`,
      '200 : 404',
      ['a 200', 'c 404'],
    ],
    ['what says nothing of itself', '-', `${ONE} : ${TWO}`, '500 : 200', [' 500', ' 200']],
  ])('tells upstreams apart: %s', (_, block, addresses, statuses, asked) => {
    const answer = parseAnswer(line({ block, addresses, statuses }))
    expect(answer?.asked.map((one) => `${one.block} ${one.status}`)).toEqual(asked)
  })

  test.each(['', 'x', line().slice(9), `${line()}\tmore`, line().replace('200', 'abc')])('%j is none', (text) => {
    expect(parseAnswer(text)).toBeUndefined()
  })
})

const UPSTREAM = (spec: string, endpoints = `'${ONE}': {}, '${TWO}': {}`) => `
apiVersion: nxmesh/v1
kind: Upstream
metadata: { name: u, zone: '*' }
spec: { endpoints: { ${endpoints} }, ${spec} }
`
const SITE = `
apiVersion: nxmesh/v1
kind: Site
metadata: { name: s, zone: '*' }
spec: { hosts: [a.example], routes: { r: { path: /, proxy: { upstream: u } } } }
`

/** An observer of the upstream; the test says what probes find and what the log holds. */
async function observing(yaml: string, setting: Parameters<typeof renderYaml>[1] = {}) {
  const clock = new VirtualClock()
  const well = new Map<string, boolean>()
  const lines: string[] = []
  const asked: string[] = []
  const changes: number[] = []
  const observer = new UpstreamObserver({
    clock,
    random: () => 0.5,
    log: silentLog(),
    probe: async (address) => {
      asked.push(address)
      return well.get(address) ?? true
    },
    traffic: { start: async () => undefined, read: async () => ({ lines: lines.splice(0), hasMore: false }) },
    onChange: (count) => changes.push(count),
  })
  const follow = (text: string) => {
    const { units, input } = renderYaml(text, setting)
    observer.follow(followedOf(input, units))
  }
  follow(yaml)
  await observer.start()
  /** Requests that ended just now. */
  const serve = (count: number, { status = 200, ...rest }: Line = {}) => {
    for (let each = 0; each < count; each += 1) lines.push(line({ at: clock.now(), seconds: 0.01, status, ...rest }))
  }
  return { clock, well, asked, changes, observer, follow, serve }
}

describe('the observer', () => {
  test('probes take an endpoint out and bring it back, and each change is told once', async () => {
    const { clock, well, observer, changes } = await observing(
      `${SITE}---${UPSTREAM('healthCheck: { interval: 1s, unhealthyThreshold: 2, jitter: 0 }')}`,
    )
    await clock.advance(5_000)
    expect([observer.observed.ejected.size, changes]).toEqual([0, []])
    well.set(ONE, false)
    await clock.advance(5_000)
    expect([...observer.observed.ejected]).toEqual([`${PATH} ${ONE}`])
    well.set(ONE, true)
    await clock.advance(5_000)
    expect([...observer.observed.ejected]).toEqual([])
    expect(changes).toEqual([1, 1])
    await observer.stop()
  })

  test('what changes while it is told whom to follow is told all the same', async () => {
    const yaml = `${SITE}---${UPSTREAM('healthCheck: { interval: 1s, unhealthyThreshold: 1, healthyThreshold: 1 }')}`
    const { clock, well, observer, follow, changes } = await observing(yaml)
    for (const isWell of [false, true]) {
      well.set(ONE, isWell)
      await clock.until(() => observer.views[0]?.ailing.length === (isWell ? 0 : 1), 5_000, 'a probe to find it')
      follow(yaml)
      await clock.advance(200)
    }
    expect([changes, observer.observed.ejected.size]).toEqual([[1, 1], 0])
    await observer.stop()
  })

  test('what is gone is told by nobody', async () => {
    const yaml = `${SITE}---${UPSTREAM('healthCheck: { interval: 1s }')}`
    const { clock, well, observer, follow, changes } = await observing(yaml)
    well.set(ONE, false)
    await clock.until(() => observer.observed.ejected.size === 1, 10_000, 'an ejection')
    follow(SITE)
    await clock.advance(2_000)
    expect([changes, observer.observed.ejected.size]).toEqual([[1], 0])
    await observer.stop()
  })

  test('the last endpoint stays, and the view says that none is well', async () => {
    const { clock, well, observer } = await observing(`${SITE}---${UPSTREAM('healthCheck: { interval: 1s }')}`)
    well.set(ONE, false).set(TWO, false)
    await clock.advance(20_000)
    expect(observer.observed.ejected.size).toBe(0)
    expect(observer.views).toEqual([{ path: PATH, circuit: 'closed', endpoints: 2, ailing: [ONE, TWO], ejected: [] }])
    await observer.stop()
  })

  test('what clients get opens the circuit; probes alone ask while it is half open, and close it', async () => {
    const rules = 'circuitBreaker: { minRequests: 10, window: 1s, openFor: 2s, halfOpenRequests: 2 }'
    const { clock, well, asked, observer, serve } = await observing(`${SITE}---${UPSTREAM(rules)}`)
    serve(9, { status: 500 })
    await clock.advance(200)
    expect(observer.observed.openCircuits.size).toBe(0)
    well.set(ONE, false).set(TWO, false)
    serve(1, { status: 500 })
    await clock.advance(200)
    expect([...observer.observed.openCircuits]).toEqual([PATH])
    expect(asked).toEqual([])
    await clock.advance(2_000)
    expect(asked).toEqual([ONE, TWO])
    well.clear()
    await clock.until(() => observer.observed.openCircuits.size === 0, 10_000, 'the circuit to close')
    // Twice the first time, and two rounds.
    expect(asked).toHaveLength(6)
    await observer.stop()
  })

  test('what an open circuit refuses, and what was asked before it closed, keeps nothing open', async () => {
    const rules = 'circuitBreaker: { minRequests: 4, window: 1s, openFor: 1s, halfOpenRequests: 1 }'
    const { clock, observer, serve, changes } = await observing(`${SITE}---${UPSTREAM(rules)}`)
    serve(4, { status: 504 })
    await clock.until(() => observer.observed.openCircuits.size === 1, 1_000, 'the circuit to open')
    await clock.until(() => observer.observed.openCircuits.size === 0, 5_000, 'the circuit to close')
    serve(50, { status: 503, addresses: 'unix:/x/run/circuit.sock' })
    serve(50, { status: 504, seconds: 5 })
    serve(50, { status: 499, statuses: '-' })
    await clock.advance(1_000)
    expect(changes).toEqual([1, 1])
    await observer.stop()
  })

  test('a page that another upstream makes hides no failure, and is no answer of the one that failed', async () => {
    const rules = 'circuitBreaker: { minRequests: 10, window: 1s }'
    const { clock, observer, serve } = await observing(`${SITE}---${UPSTREAM(rules)}`)
    serve(10, {
      status: 502,
      block: ' default_-_u;502 default_-_pages;',
      addresses: `${ONE} : 10.0.0.9:80`,
      statuses: '502 : 200',
    })
    await clock.advance(200)
    expect([...observer.observed.openCircuits]).toEqual([PATH])
    await observer.stop()
  })

  test('errors of one endpoint take it out, where no block is told too', async () => {
    const { clock, observer, serve } = await observing(`${SITE}---${UPSTREAM('outlierDetection: {}')}`)
    serve(5, { status: 200, block: '', addresses: `${ONE}, ${TWO}`, statuses: '502, 200' })
    await clock.advance(200)
    expect([...observer.observed.ejected]).toEqual([`${PATH} ${ONE}`])
    await clock.advance(30_000)
    expect(observer.observed.ejected.size).toBe(0)
    await observer.stop()
  })

  test('those of streams are followed too, which no line of the traffic log is about', async () => {
    const stream = `
apiVersion: nxmesh/v1
kind: Stream
metadata: { name: db, zone: eu }
spec: { listeners: { main: { port: 5432 } }, upstream: u }
`
    const { clock, well, observer } = await observing(
      `${stream}---${UPSTREAM('healthCheck: { type: tcp, interval: 1s }')}`,
      { capabilities: { ...DEBIAN_12, modules: [...DEBIAN_12.modules, 'stream'] } },
    )
    well.set(TWO, false)
    await clock.until(() => observer.observed.ejected.size === 1, 10_000, 'an ejection')
    expect([...observer.observed.ejected]).toEqual([`${PATH} ${TWO}`])
    expect([...observer.observed.closedToStreams]).toEqual([`${PATH} ${TWO}`])
    await observer.stop()
  })

  test('what clients got over HTTP takes nothing from streams, health checks do, of an endpoint that is ejected already', async () => {
    const rules = 'healthCheck: { interval: 1s, unhealthyThreshold: 2, jitter: 0 }, outlierDetection: {}'
    const { clock, well, observer, serve, changes } = await observing(`${SITE}---${UPSTREAM(rules)}`)
    serve(5, { status: 500, addresses: ONE })
    await clock.advance(200)
    expect([...observer.observed.ejected]).toEqual([`${PATH} ${ONE}`])
    expect(observer.observed.closedToStreams.size).toBe(0)
    well.set(ONE, false)
    await clock.until(() => observer.observed.closedToStreams.size === 1, 10_000, 'the health checks to find it')
    // The second change is of no endpoint that a site uses.
    expect(changes).toEqual([1, 0])
    await observer.stop()
  })

  test('only upstreams that a site uses are probed, and none that is gone', async () => {
    const check = UPSTREAM('healthCheck: { interval: 1s }')
    const { clock, asked, observer, follow } = await observing(check)
    await clock.advance(5_000)
    expect(asked).toEqual([])
    follow(`${SITE}---${check}`)
    await clock.advance(2_000)
    expect(new Set(asked)).toEqual(new Set([ONE, TWO]))
    follow(`${SITE}---${UPSTREAM('healthCheck: { interval: 1s }', `'${ONE}': {}, '${TWO}': { down: true }`)}`)
    asked.length = 0
    await clock.advance(3_000)
    expect(new Set(asked)).toEqual(new Set([ONE]))
    await observer.stop()
    asked.length = 0
    await clock.advance(3_000)
    expect(asked).toEqual([])
  })
})

test('of too many endpoints those of the first upstreams by path are observed, and the rest is told', async () => {
  const { log, lines } = rememberingLog()
  const followed = Array.from({ length: 20 }, (_, upstream) => ({
    path: `default/*/upstream/u${String(upstream).padStart(2, '0')}`,
    block: `u${upstream}`,
    spec: upstreamKind.schema.parse({ healthCheck: {} }),
    addresses: Array.from({ length: 256 }, (_, address) => `10.0.${upstream}.${address}:80`),
  }))
  const observer = new UpstreamObserver({
    clock: new VirtualClock(),
    random: () => 0,
    log,
    probe: async () => true,
    traffic: { start: async () => undefined, read: async () => ({ lines: [], hasMore: false }) },
    onChange: () => undefined,
  })
  observer.follow(followed)
  observer.follow(followed)
  expect(observer.views.map(({ path }) => path)).toEqual(followed.slice(0, 16).map(({ path }) => path))
  expect(lines.filter((text) => text.includes('too many endpoints'))).toHaveLength(1)
})

test('endpoints that hang keep none of another upstream from being asked, and no more are asked than there is room for', async () => {
  const clock = new VirtualClock()
  const asked: string[] = []
  const hanging: (() => void)[] = []
  const schedule = new CheckSchedule({
    clock,
    random: () => 0,
    probe: (address) => {
      asked.push(address)
      return address.startsWith('10.0.')
        ? new Promise((resolve) => hanging.push(() => resolve(false)))
        : Promise.resolve(true)
    },
    onResult: () => undefined,
  })
  const upstream = (name: string, network: string, count: number) => ({
    path: `default/*/upstream/${name}`,
    block: name,
    spec: upstreamKind.schema.parse({ healthCheck: { interval: '1s', jitter: 0 } }),
    addresses: Array.from({ length: count }, (_, index) => `${network}.${index}:80`),
  })
  const hogs = Array.from({ length: 7 }, (_, index) => upstream(`a${index}`, `10.0.${index}`, 256))
  schedule.follow([...hogs, upstream('z', '10.1.0', 8)])
  for (let seconds = 0; seconds < 5; seconds += 1) {
    schedule.turn(clock.monotonic())
    await clock.advance(1_000)
  }
  expect(hanging).toHaveLength(7 * 32)
  expect(asked.filter((address) => address === '10.1.0.7:80')).toHaveLength(5)
  // The longest overdue come next, not the first by name.
  const before = new Set(asked)
  for (const end of hanging.splice(0)) end()
  await clock.advance(0)
  schedule.turn(clock.monotonic())
  expect(hanging).toHaveLength(7 * 32)
  expect(asked.slice(-7 * 32).filter((address) => before.has(address) && !address.startsWith('10.1.'))).toEqual([])
  await clock.advance(0)
  schedule.follow([...hogs, ...hogs.map((hog, index) => ({ ...hog, path: `${hog.path}x`, block: `b${index}` }))])
  schedule.turn(clock.monotonic())
  expect(hanging).toHaveLength(256)
})

describe('traffic in metrics', () => {
  const count = (metrics: TrafficMetrics, parts: Line, path: string | undefined = PATH) => {
    const answer = parseAnswer(line(parts))
    if (answer === undefined) throw new Error('no line')
    metrics.count(answer, [path])
  }

  test('resources beyond the limit, and unknown ones, are counted together; those that are gone end', async () => {
    const metrics = createMetrics()
    const traffic = new TrafficMetrics(metrics)
    const sites = Array.from({ length: RESOURCE_LABELS_MAX + 2 }, (_, index) => `default/*/site/s${index}`)
    traffic.follow(new Set(sites), new Set([PATH]))
    for (const site of [...sites, 'default/*/site/unknown']) count(traffic, { site })
    const text = await metrics.text()
    expect(text.match(/^nxmesh_site_requests_total\{/gm)).toHaveLength(RESOURCE_LABELS_MAX + 1)
    expect(text).toContain('nxmesh_site_requests_total{site="other",status="2xx"} 3')
    expect(text).toContain(`nxmesh_upstream_requests_total{upstream="${PATH}",status="2xx"} ${sites.length + 1}`)
    expect(text).toContain(`nxmesh_requests_total{status="2xx"} ${sites.length + 1}`)
    traffic.follow(new Set(['default/*/site/s1']), new Set())
    const after = await metrics.text()
    expect(after.match(/^nxmesh_site_requests_total\{/gm)).toHaveLength(2)
    expect(after).not.toContain(PATH)
  })

  test('a refused request counts as that, and not as one of the upstream', async () => {
    const metrics = createMetrics()
    const traffic = new TrafficMetrics(metrics)
    traffic.follow(new Set(), new Set([PATH]))
    count(traffic, { status: 503, addresses: 'unix:/x/run/circuit.sock', statuses: '503' })
    const text = await metrics.text()
    expect(text).toContain(`nxmesh_upstream_rejected_total{upstream="${PATH}"} 1`)
    expect(text).not.toContain('nxmesh_upstream_requests_total{')
  })

  test('names of resources are shown to those who may read them', async () => {
    const metrics = createMetrics()
    const traffic = new TrafficMetrics(metrics)
    traffic.follow(new Set(['a/*/site/s', 'b/*/site/s']), new Set())
    for (const site of ['a/*/site/s', 'b/*/site/s', 'c/*/site/s']) count(traffic, { site }, undefined)
    const text = await metrics.text((workspace) => workspace === 'a')
    expect(text.match(/site="[^"]*"/g)).toEqual(expect.arrayContaining(['site="a/*/site/s"', 'site="other"']))
    expect(text).not.toContain('b/*')
  })
})
