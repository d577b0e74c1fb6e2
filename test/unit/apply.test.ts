/**
 * The pure parts of an apply: what stands in for a unit that cannot serve, whom nginx's words blame, which ports clash,
 * what a bake concludes, what a log tail reads, when something refused is tried again.
 */

import { appendFile, mkdtemp, rename, rm, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { Problem } from '../../src/core/slice.ts'
import { bakeFailure, countAnswers, sitesToWatch } from '../../src/nginx/applying/bake.ts'
import {
  blamedUnits,
  nginxWords,
  selectUnits,
  suspectedUnits,
  type Refused,
  type Selection,
} from '../../src/nginx/applying/isolate.ts'
import { emergencies, LogTail } from '../../src/nginx/applying/log-tail.ts'
import { portConflicts } from '../../src/nginx/applying/precheck.ts'
import { worsened, type ProbeAnswer } from '../../src/nginx/applying/probe.ts'
import { Refusals } from '../../src/nginx/applying/refusals.ts'
import type { Listener, Unit } from '../../src/nginx/rendering/unit.ts'
import { site as siteUnit, upstream, type SiteParts } from '../support/nginx-host.ts'
import { VirtualClock } from '../support/virtual-clock.ts'

const site = (name: string, parts: Partial<SiteParts> = {}) => siteUnit(name, '/drain', { port: 80, ...parts })
const paths = (units: readonly Unit[]) => units.map(({ path }) => path.split('/').at(-1))
const problem = (path: string, code: Problem['code']): Problem => ({ path, code, message: '' })

interface Parts {
  units?: Unit[]
  problems?: Problem[]
  lastGood?: Unit[]
  refused?: Unit[]
  why?: Refused['why']
}

function select(parts: Parts): Selection {
  const { units = [], problems = [], lastGood = [], refused = [], why = 'refused' } = parts
  return selectUnits({
    units,
    problems,
    lastGood: new Map(lastGood.map((unit) => [unit.path, unit])),
    refusal: (digest) => (refused.some((unit) => unit.digest === digest) ? { why, reason: 'refused' } : undefined),
  })
}

describe('isolation', () => {
  const pool = upstream('pool', '127.0.0.1:1')
  const newPool = upstream('pool', '127.0.0.1:2')
  const needs = [pool.path]

  test('a refused unit is replaced by its last good text, or left out', () => {
    const [old, next, fresh] = [site('a'), site('a', { body: 'return 201;' }), site('b')]
    expect(select({ units: [next, fresh], lastGood: [old], refused: [next, fresh] })).toEqual({
      units: [old],
      isolated: [
        { path: next.path, why: 'refused', reason: 'refused', serves: 'last_good' },
        { path: fresh.path, why: 'refused', reason: 'refused', serves: 'left_out' },
      ],
    })
  })

  test('a resource with a problem keeps its last good text, with the upstream that only it still needs', () => {
    const old = site('a', { needs })
    const { units, isolated } = select({ problems: [problem(old.path, 'schema')], lastGood: [old, pool] })
    expect(units).toEqual([old, pool].toSorted((a, b) => (a.path < b.path ? -1 : 1)))
    expect(isolated).toEqual([])
  })

  test('what was deleted is gone', () => {
    expect(select({ units: [site('b')], lastGood: [site('a'), site('b')] }).units).toEqual([site('b')])
  })

  test.each(['clash', 'host_not_granted'] as const)('%s takes the last good text away', (code) => {
    const old = site('a')
    expect(select({ problems: [problem(old.path, code)], lastGood: [old] }).units).toEqual([])
  })

  test('a last good site brings neither TLS nor PROXY headers to a listener of others', () => {
    const over = (name: string, listener: Partial<Listener>) => {
      const unit = site(name)
      return { ...unit, listeners: unit.listeners.map((each) => ({ ...each, ...listener })) }
    }
    const served = (old: Unit, now: Unit) =>
      paths(select({ units: [now], problems: [problem(old.path, 'schema')], lastGood: [old] }).units)
    expect(served(over('a', { proxyProtocol: true }), site('b'))).toEqual(['b'])
    expect(served(over('a', { tls: true }), site('b'))).toEqual(['b'])
    expect(served(over('a', { tls: true, proxyProtocol: true }), over('b', { tls: true }))).toEqual(['b'])
    // The other way round it is the listener of the others that counts.
    expect(served(site('a'), over('b', { tls: true, proxyProtocol: true }))).toEqual(['a', 'b'])
    expect(served(over('a', { proxyProtocol: true, port: 81 }), site('b'))).toEqual(['a', 'b'])
  })

  test('a last good site does not take a host from a site that claims it now', () => {
    const old = site('a', { host: 'shop.test' })
    const owner = site('b', { host: 'shop.test' })
    expect(select({ units: [owner], problems: [problem(old.path, 'schema')], lastGood: [old] }).units).toEqual([owner])
  })

  test('sites that need a new refused upstream are left out with it; others stay', () => {
    const { units, isolated } = select({ units: [site('a', { needs }), site('b'), newPool], refused: [newPool] })
    expect(paths(units)).toEqual(['b'])
    expect(isolated.map(({ path, why, reason }) => [path, why, reason])).toEqual([
      [newPool.path, 'refused', 'refused'],
      ['default/eu/site/a', 'needs', `needs ${newPool.path}, which is left out`],
    ])
  })

  test('a site that needs an upstream that is not tried yet is not tried yet either', () => {
    const { isolated } = select({ units: [site('a', { needs }), newPool], refused: [newPool], why: 'untried' })
    expect(isolated.map(({ path, why }) => [path, why])).toEqual([
      [newPool.path, 'untried'],
      ['default/eu/site/a', 'untried'],
    ])
  })

  test('every need of what is chosen is met, and nothing refused is chosen, whatever is refused', () => {
    const upstreams = ['p', 'q'].flatMap((name) => [upstream(name, '127.0.0.1:1'), upstream(name, '127.0.0.1:2')])
    const all = [
      ...upstreams,
      ...['a', 'b', 'c'].flatMap((name) =>
        [[], ['p'], ['p', 'q']].map((names, index) =>
          site(name, { body: `return 20${index};`, needs: names.map((other) => `default/eu/upstream/${other}`) }),
        ),
      ),
    ]
    const onePerPath = fc.subarray(all).map((units) => [...new Map(units.map((unit) => [unit.path, unit])).values()])
    const closed = (units: readonly Unit[]) => {
      const present = new Set(units.map(({ path }) => path))
      return units.filter((unit) => unit.needs.every((need) => present.has(need)))
    }
    fc.assert(
      fc.property(onePerPath, onePerPath, fc.subarray(all), fc.subarray(all), (units, good, refused, broken) => {
        const problems = broken.map(({ path }) => problem(path, 'schema'))
        const lastGood = closed(good)
        const result = select({ units, lastGood, refused, problems })
        const present = new Set(result.units.map(({ path }) => path))
        expect(result.units.flatMap((unit) => unit.needs).filter((need) => !present.has(need))).toEqual([])
        expect(result.units.filter((unit) => refused.includes(unit))).toEqual([])
        expect(present.size).toBe(result.units.length)
        for (const { path, serves } of result.isolated) expect(present.has(path)).toBe(serves === 'last_good')
      }),
    )
  })
})

describe('blame', () => {
  const suspects = (...of: Parameters<typeof suspectedUnits>) => [...suspectedUnits(...of)].map(paths)
  const a = site('a', { port: 8081 })
  const b = site('b', { port: 8082, address: '*' })
  const c = site('c', { port: 8082, address: '[::]' })
  test.each([
    [`unknown directive "x" in /data/objects/${a.digest}.conf:3`, ['a']],
    ['bind() to 127.0.0.1:8081 failed (98: Address already in use)', ['a']],
    ['bind() to 0.0.0.0:8082 failed (13: Permission denied)', ['b']],
    ['bind() to [::]:8082 failed (13: Permission denied)', ['c']],
    ['unexpected end of file, expecting "}" in /data/generations/x/nginx.conf:9', []],
    [`unknown directive "x" in /data/objects/${'0'.repeat(64)}.conf:3`, []],
  ])('%s', (words, blamed) => {
    expect(paths(blamedUnits(words, [a, b, c]))).toEqual(blamed)
  })

  test('words about a file beside the text blame those who have it', () => {
    const file = { name: `${'f'.repeat(64)}.crt`, text: '', readers: 'master' } as const
    const words = `SSL_CTX_use_certificate("/data/objects/${file.name}") failed (SSL: error:0A00018F::ee key too small)`
    expect(paths(blamedUnits(words, [a, { ...b, files: [file] }, c]))).toEqual(['b'])
  })

  test('words without a file are about those who use what they quote, and who needs these', () => {
    const limited = site('limited', { body: 'limit_req zone=one;' })
    const pool = upstream('one', '127.0.0.1:1')
    const needy = site('needy', { needs: ['default/eu/upstream/one'] })
    const words = 'limit_req "one" uses the "$uri" key while previously it used the "$arg_x" key'
    const units = [a, limited, pool, needy]
    expect(suspects(words, units, units).slice(-2)).toEqual([[], []])
    expect(suspects(words, units, units)).toContainEqual(['limited', 'one', 'needy'])
  })

  test('words without a file that quote nothing are about those who have a directive that they had not', () => {
    const version = (number: number) =>
      ['x', 'y', 'z'].map((name) =>
        site(name, { body: `${name === 'y' && number > 1 ? 'aio on; ' : ''}return ${number};` }),
      )
    const words = 'could not build referer_hash'
    expect(suspects(words, version(2), version(1))).toEqual([['y']])
    expect(suspects(words, version(3), version(2))).toEqual([[]])
    expect(suspects(words, version(1), version(1).slice(1)), 'new').toEqual([['x']])
  })

  test('nginx’s words are the first [emerg] message, with or without a time, else all', () => {
    expect(nginxWords('nginx: [warn] w\nnginx: [emerg] bad in f:1\nnginx: configuration file test failed')).toBe(
      'bad in f:1',
    )
    expect(nginxWords('2026/01/01 00:00:00 [emerg] 12#12: bad in f:1\n')).toBe('bad in f:1')
    expect(nginxWords('Segmentation fault\n')).toBe('Segmentation fault')
  })
})

describe('ports', () => {
  const on = (address: string, port: number): Listener => ({ address, port, tls: false })
  const asked: string[] = []
  const check = async (units: Unit[], running: Listener[], taken: readonly number[] = []) => {
    asked.length = 0
    const conflicts = await portConflicts(units, { master: 1, listeners: running }, (address, port) => {
      asked.push(`${address}:${port}`)
      return Promise.resolve(taken.includes(port) ? 'taken by process 7' : undefined)
    })
    return conflicts.flatMap(({ units: blamed }) => paths(blamed))
  }

  test('only a port that nginx does not have yet is looked at, and a taken one blames who wants it', async () => {
    const units = [site('a', { port: 81 }), site('b', { port: 82 }), site('c', { port: 82 })]
    expect(await check(units, [on('127.0.0.1', 81)], [81, 82])).toEqual(['b', 'c'])
    expect(asked).toEqual(['127.0.0.1:82'])
  })

  test.each([
    ['a wildcard beside an address', '*', '127.0.0.1', ['a']],
    ['an address after a wildcard', '127.0.0.1', '*', ['a']],
    ['an IPv6 wildcard beside an IPv4 address', '[::]', '127.0.0.1', []],
    ['an IPv6 wildcard beside an IPv6 address', '[::]', '[::1]', ['a']],
    ['the same, written differently', '0.0.0.0', '*', []],
  ])('%s', async (_, wanted, running, blamed) => {
    expect(await check([site('a', { port: 81, address: wanted })], [on(running, 81)])).toEqual(blamed)
  })

  test('an address beside a wildcard that stays needs no port of its own', async () => {
    const units = [site('a', { port: 81, address: '*' }), site('b', { port: 81, address: '127.0.0.1' })]
    expect(await check(units, [on('*', 81)], [81])).toEqual([])
  })

  test('an address that nginx never bound, since a wildcard was beside it, cannot be bound when the wildcard goes', async () => {
    const running = [on('*', 81), on('127.0.0.1', 81)]
    expect(await check([site('b', { port: 81, address: '127.0.0.1' })], running)).toEqual(['b'])
  })
})

describe('probes', () => {
  const status = (code: number): ProbeAnswer => ({ kind: 'status', status: code })
  const refused: ProbeAnswer = { kind: 'refused' }
  const silent: ProbeAnswer = { kind: 'silent', reason: 'no answer within 9 ms' }
  test.each<[string, ProbeAnswer | undefined, ProbeAnswer, boolean]>([
    ['good stays good', status(200), status(404), false],
    ['good becomes 5xx', status(200), status(502), true],
    ['bad stays bad', status(503), status(502), false],
    ['bad becomes silent', status(503), silent, false],
    ['good goes into maintenance', status(200), { kind: 'planned' }, false],
    ['maintenance ends with 5xx', { kind: 'planned' }, status(502), false],
    ['new and in maintenance', undefined, { kind: 'planned' }, false],
    ['good becomes silent', status(200), silent, true],
    ['new and 5xx', undefined, status(502), false],
    ['new and refused', undefined, refused, true],
    ['refused as before', refused, refused, false],
    ['nginx does not know it', status(200), { kind: 'unknown_host' }, true],
    ['new, and without its certificate', undefined, { kind: 'no_certificate' }, true],
    ['new, and nginx does not know it', undefined, { kind: 'unknown_host' }, true],
  ])('%s', (_, before, after, worse) => {
    expect(worsened(before, after) !== undefined).toBe(worse)
  })
})

describe('bake', () => {
  const line = (site: string, status: number, { planned = '', addresses = '-', statuses = '-', probe = '' } = {}) =>
    ['1.000', '0.001', site, status, planned, '', addresses, statuses, '-', probe].join('\t')
  const lines = (site: string, good: number, bad: number) => [
    ...Array.from({ length: good }, () => line(site, 200)),
    ...Array.from({ length: bad }, () => line(site, 502)),
  ]
  const rule = { minRequests: 20, excess: 0.2 }
  const verdict = (earlier: string[], since: string[], changed = ['a']) =>
    bakeFailure(countAnswers(earlier), countAnswers(since), changed, rule)

  test('a site that goes into maintenance is no worse', () => {
    const planned = Array.from({ length: 90 }, () => line('a', 503, { planned: '1' }))
    expect(verdict(lines('a', 100, 0), [...planned, ...lines('b', 30, 0)])).toBeUndefined()
  })
  test.each([
    ['nginx makes the page', 'unix:/x/run/circuit.sock', '503'],
    ['another upstream makes the page', 'unix:/x/run/circuit.sock : 10.0.0.1:80', '503 : 200'],
  ])('a site whose circuit opens is no worse, also where %s', (_, addresses, statuses) => {
    const rejected = Array.from({ length: 90 }, () => line('a', 503, { addresses, statuses }))
    expect(verdict(lines('a', 100, 0), rejected)).toBeUndefined()
  })
  test('what the daemon asks a site is nothing that a client got', () => {
    const probes = Array.from({ length: 90 }, () => line('a', 503, { probe: '1' }))
    expect(verdict(lines('a', 100, 0), probes)).toBeUndefined()
  })

  test('a changed site that got worse is blamed, though the whole hardly shows it', () => {
    const failure = verdict(lines('a', 100, 0), [...lines('a', 10, 20), ...lines('b', 900, 0)])
    expect(failure).toEqual({ reason: '67 % of 30 answers were 5xx, earlier 0 %', sites: ['a'] })
  })
  test('errors of a site that did not change are not blamed on the change', () => {
    expect(verdict([...lines('a', 100, 0), ...lines('b', 100, 0)], [...lines('a', 30, 0), ...lines('b', 0, 90)])).toBe(
      undefined,
    )
  })
  test('changed sites with few answers each tell together, and those that got worse are blamed', () => {
    const names = ['a', 'b', 'c', 'd']
    const earlier = names.flatMap((name) => lines(name, 10, 0))
    const since = names.flatMap((name) => (name === 'a' ? lines(name, 5, 0) : lines(name, 1, 6)))
    expect(verdict(earlier, since, names)).toEqual({
      reason: '69 % of 26 answers were 5xx, earlier 0 %',
      sites: ['b', 'c', 'd'],
    })
    expect(verdict(earlier, since, ['a'])).toBeUndefined()
  })
  test('what all sites share has all of them watched', () => {
    const [a, b] = [site('a', { port: 81 }), site('b', { port: 81, needs: ['default/eu/upstream/pool'] })]
    const settings: Unit = { ...upstream('pool', '127.0.0.1:1'), path: 'default/eu/zone/settings', kind: 'settings' }
    const pools = ['127.0.0.1:1', '127.0.0.1:2'].map((server) => upstream('pool', server)) as [Unit, Unit]
    const watched = (before: Unit[], after: Unit[]) => paths(sitesToWatch(before, after))
    expect(watched([a, b, pools[0]], [a, b, pools[1]])).toEqual(['b'])
    expect(watched([a, b], [a, b, settings])).toEqual(['a', 'b'])
    expect(watched([a, b, settings], [a, b])).toEqual(['a', 'b'])
    expect(watched([a, b], [a, b])).toEqual(['a', 'b'])
  })
  test.each([
    ['as bad as before', lines('a', 50, 50), lines('a', 50, 50)],
    ['a little worse', lines('a', 100, 0), lines('a', 90, 10)],
    ['too few to tell', lines('a', 100, 0), lines('a', 0, 19)],
    ['new: nothing to compare with', [], lines('a', 0, 100)],
    ['no traffic', lines('a', 100, 0), []],
    ['not our lines', lines('a', 100, 0), [...lines('', 0, 50), 'text', '{"status":']],
  ])('%s', (_, earlier, since) => {
    expect(verdict(earlier, since)).toBeUndefined()
  })
})

describe('log tail', () => {
  test('gives whole lines after the mark, across a rotation', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'nxmesh-log-'))
    const path = join(directory, 'error.log')
    const tail = new LogTail(path)
    await tail.mark()
    expect(await tail.read()).toEqual([])
    await writeFile(path, 'one\ntwo\n')
    expect(await tail.read()).toEqual(['one', 'two'])
    await tail.mark()
    await appendFile(path, 'thr')
    expect(await tail.read()).toEqual([])
    await appendFile(path, 'ee\n')
    expect(await tail.read()).toEqual(['three'])
    expect(await tail.beforeMark()).toEqual(['one', 'two'])
    await rename(path, `${path}.1`)
    await writeFile(path, 'four\n')
    expect(await tail.read()).toEqual(['four'])
    expect(await tail.beforeMark()).toEqual([])
    await rm(directory, { recursive: true })
  })

  test('goes on at the beginning of a file that was emptied', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'nxmesh-log-'))
    const path = join(directory, 'traffic.log')
    await writeFile(path, 'one\ntwo\n')
    const tail = new LogTail(path)
    await tail.mark()
    await truncate(path)
    await appendFile(path, 'three\n')
    expect(await tail.read()).toEqual(['three'])
    await truncate(path)
    expect(await tail.read()).toEqual([])
    await appendFile(path, 'four\n')
    expect(await tail.read()).toEqual(['four'])
    await rm(directory, { recursive: true })
  })

  test('only [emerg] lines of the master count, and those of its Lua', () => {
    const lines = [
      '2026/01/01 00:00:00 [emerg] 10#10: bind() to 0.0.0.0:80 failed',
      '2026/01/01 00:00:00 [emerg] 11#11: of a test',
      '2026/01/01 00:00:00 [crit] 10#10: *1 SSL_do_handshake() failed',
      '2026/01/01 00:00:00 [error] 10#10: *1 connect() failed (111: Connection refused) while connecting to upstream',
      '2026/01/01 00:00:00 [error] 10#10: init_by_lua error: init_by_lua(n.conf:4):1: boom',
      '2026/01/01 00:00:00 [notice] 10#10: signal 1 (SIGHUP) received: [emerg] 10#10: fake',
    ]
    expect(emergencies(lines, 10)).toEqual([
      'bind() to 0.0.0.0:80 failed',
      'init_by_lua error: init_by_lua(n.conf:4):1: boom',
    ])
  })
})

test('what was refused is tried again after growing pauses, and not forgotten while it is desired', async () => {
  const clock = new VirtualClock()
  const refusals = new Refusals(clock, () => 0.5)
  expect(refusals.add('a', 'bad')).toMatchObject({ attempts: 1, until: 5_000 })
  await clock.advance(4_999)
  expect(refusals.get('a')?.reason).toBe('bad')
  await clock.advance(1)
  expect(refusals.get('a')).toBeUndefined()
  expect(refusals.add('a', 'bad').until - clock.monotonic()).toBe(10_000)
  refusals.forget('a')
  expect(refusals.add('a', 'bad').attempts).toBe(1)
  const others = Array.from({ length: 2_000 }, (_, count) => `other ${count}`)
  for (const digest of others) refusals.add(digest, 'bad')
  refusals.trim(new Set(['a', ...others]))
  expect(['a', ...others].filter((digest) => refusals.last(digest) === undefined)).toEqual([])
  refusals.trim(new Set(['a']))
  expect(refusals.last('a')).toBeDefined()
  expect(others.filter((digest) => refusals.last(digest) !== undefined)).toEqual(others.slice(-1_023))
})
