/**
 * An applier whose nginx refuses some of what changed, on a fake nginx and the real disk: however many are bad, and
 * whether or not nginx's words name them, the good ones are served; and what fails after the swap holds up only itself.
 */

import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import type { ApplyResult } from '../../src/nginx/applying/run.ts'
import type { ApplierOptions, ApplySettings } from '../../src/nginx/applying/settings.ts'
import type { Unit } from '../../src/nginx/rendering/unit.ts'
import type { NginxProcess } from '../../src/ports.ts'
import { FakeNginx } from '../support/fake-nginx.ts'
import { NginxHost, upstream } from '../support/nginx-host.ts'
import { VirtualClock } from '../support/virtual-clock.ts'

/** Texts of a generation by the files that they are in; the first has nginx.conf. */
type Texts = ReadonlyMap<string, string>

async function scene(settings: Partial<ApplySettings> = {}, rest: Partial<ApplierOptions> = {}) {
  const host = new NginxHost(await mkdtemp(join(tmpdir(), 'nxmesh-isolation-')))
  const nginx = new FakeNginx(host.layout.directory)
  const clock = new HastyClock()
  let tests = 0
  /** Has `nginx -t` refuse what `fault` has words for. */
  const refuse = (fault: (texts: Texts) => string | undefined) => {
    nginx.test = async (configPath) => {
      tests += 1
      await clock.advance(1_000)
      const words = fault(await textsOf(configPath))
      return { ok: words === undefined, stderr: words === undefined ? '' : `nginx: [emerg] ${words}\n`, durationMs: 1 }
    }
  }
  const applier = await host.booted({
    nginx,
    clock,
    endpoint: nginx.endpoint,
    whoHas: () => Promise.resolve(undefined),
    probe: () => Promise.resolve(new Map()),
    // The clock does not wait for the disk: nothing may be over before that has answered.
    settings: { verifyMs: 600_000, isolateMs: Number.POSITIVE_INFINITY, ...settings },
    ...rest,
  })
  return {
    host,
    nginx,
    clock,
    refuse,
    tests: () => tests,
    applier,
    apply: (units: readonly Unit[]) => applier.apply(host.request(units)),
    served: () => applier.lastGood?.units ?? [],
    [Symbol.asyncDispose]: () => rm(host.layout.directory, { recursive: true, force: true }),
  }
}

/** Time moves only by pauses, which do not take any, and by the test's hand. */
class HastyClock extends VirtualClock {
  override async sleep(ms: number, signal?: AbortSignal): Promise<void> {
    signal?.throwIfAborted()
    await this.advance(ms)
  }
}

async function textsOf(configPath: string): Promise<Texts> {
  const main = await readFile(configPath, 'utf8')
  const included = [...main.matchAll(/include "?([^";]+\.conf)"?;/g)].map(([, path]) => path as string)
  return new Map(
    await Promise.all(
      [configPath, ...included].map(async (path) => [path, await readFile(path, 'utf8')] as [string, string]),
    ),
  )
}

/** The first file with the word in it. */
const fileWith = (texts: Texts, word: string) => [...texts].find(([, text]) => text.includes(word))?.[0]
const has = (texts: Texts, word: string) => fileWith(texts, word) !== undefined
const unnamed = (word: string) => (texts: Texts) => (has(texts, word) ? `could not build ${word}_hash` : undefined)
const named = (word: string) => (texts: Texts) => {
  const file = fileWith(texts, word)
  return file === undefined ? undefined : `unknown directive "${word}" in ${file}:1`
}

const paths = (units: readonly { readonly path: string }[]) => units.map(({ path }) => path).toSorted()
const names = (count: number) => Array.from({ length: count }, (_, index) => `s${String(index).padStart(3, '0')}`)
const isolated = (result: ApplyResult) => result.isolated.map(({ path, serves }) => `${path} ${serves}`).toSorted()

test.each([
  ['names', named('faulty')],
  ['does not name', unnamed('faulty')],
])('hundreds of sites that nginx refuses and %s do not delay the good ones', async (_, fault) => {
  await using at = await scene()
  const sites = names(120)
  const version = (number: number) =>
    sites.map((name, index) =>
      at.host.site(name, { port: 81, body: index % 4 === 0 ? `return 200 "${number}";` : `faulty ${number};` }),
    )
  const old = sites.slice(0, 8).map((name) => at.host.site(name, { port: 81 }))
  await at.apply(old)
  at.refuse(fault)
  const units = version(1)
  const result = await at.apply(units)
  expect(result.outcome).toBe('applied')
  const good = units.filter(({ text }) => !text.includes('faulty'))
  const kept = old.filter((_site, index) => index % 4 !== 0)
  expect(paths(at.served())).toEqual(paths([...good, ...kept]))
  expect(at.served()).toEqual(expect.arrayContaining([...good, ...kept]))
  expect(result.isolated).toHaveLength(90)
  expect(result.isolated.filter(({ reason }) => !reason.includes('faulty'))).toEqual([])
  expect(result.retryAfterMs).toBeGreaterThan(1_000)
})

test('a failure that names no file isolates whose it is', async () => {
  await using at = await scene()
  const old = names(16).map((name) => at.host.site(name, { port: 81 }))
  await at.apply(old)
  at.refuse(unnamed('faulty'))
  const result = await at.apply(
    names(16).map((name, index) => at.host.site(name, { port: 81, body: index === 11 ? 'faulty;' : 'return 201;' })),
  )
  expect(result.outcome).toBe('applied')
  expect(result.isolated).toEqual([
    { path: 'default/eu/site/s011', why: 'refused', reason: 'could not build faulty_hash', serves: 'last_good' },
  ])
  // All, the last good one, and two for each halving.
  expect(at.tests()).toBeLessThanOrEqual(2 + 2 * 4)
})

test('what fails without any change is not blamed on a change', async () => {
  await using at = await scene()
  await at.apply([at.host.site('a', { port: 81 })])
  at.refuse(() => 'module is not binary compatible')
  const changed = [at.host.site('a', { port: 81, body: 'return 201;' }), at.host.site('b', { port: 81 })]
  const result = await at.apply(changed)
  expect(result).toMatchObject({ outcome: 'refused', phase: 'test', isolated: [] })
  expect(result.error?.message).toBe('module is not binary compatible')
  // All, what serves, that again, nothing at all.
  expect(at.tests()).toBe(4)
  expect((await at.apply(changed)).outcome).toBe('refused')
  expect(at.tests()).toBe(4)
})

test('one that serves and fails by itself now, and is not named, holds up nobody: a file of its own is gone', async () => {
  await using at = await scene()
  const units = names(64).map((name, index) =>
    at.host.site(name, { port: 81, body: index === 23 ? 'uses "/gone";' : 'return 200;' }),
  )
  await at.apply(units)
  at.refuse((texts) => (has(texts, '/gone') ? 'cannot load certificate "/gone"' : undefined))
  const fresh = at.host.site('zz', { port: 81 })
  const result = await at.apply([...units, fresh])
  expect(result.outcome).toBe('applied')
  expect(isolated(result)).toEqual(['default/eu/site/s023 left_out'])
  expect(result.isolated[0]?.reason).toBe('cannot load certificate "/gone"')
  expect(at.served()).toHaveLength(64)
  expect(at.tests(), 'its words quote what it reads').toBeLessThanOrEqual(8)
})

test('what serves and fails only together, as when memory is short, is nobody’s fault', async () => {
  await using at = await scene()
  const units = names(32).map((name) => at.host.site(name, { port: 81 }))
  await at.apply(units)
  at.refuse((texts) => (texts.size > 20 ? 'mmap() failed (12: Cannot allocate memory)' : undefined))
  const result = await at.apply([...units, at.host.site('zz', { port: 81 })])
  expect(result).toMatchObject({ outcome: 'refused', isolated: [], error: { message: expect.stringMatching(/mmap/) } })
  expect(at.served()).toHaveLength(32)
})

/** An nginx that needs so long for a test, by its texts, and is ended when it may not. */
async function slowScene(needsMs: (texts: Texts) => number, testTimeoutMs: number) {
  const at = await scene({ testTimeoutMs })
  let spentMs = 0
  const slow = () => {
    const nginx: NginxProcess = at.nginx
    nginx.test = async (configPath, limitMs) => {
      const ms = needsMs(await textsOf(configPath))
      const expired = ms > limitMs
      spentMs += Math.min(ms, limitMs)
      const stderr = expired ? `nginx did not finish within ${limitMs} ms` : ''
      return { ok: !expired, stderr, durationMs: Math.min(ms, limitMs), expired }
    }
  }
  return { ...at, slow, spentMs: () => spentMs }
}

test('of a hundred changes one that makes the test slow is found in little more than one time limit', async () => {
  await using at = await slowScene((texts) => (has(texts, 'slow;') ? 3_600_000 : 20), 3_000)
  await at.apply(names(100).map((name) => at.host.site(name, { port: 81 })))
  at.slow()
  const units = names(100).map((name, index) =>
    at.host.site(name, { port: 81, body: index === 66 ? 'slow;' : 'return 201;' }),
  )
  const result = await at.apply(units)
  expect(result.outcome).toBe('applied')
  expect(isolated(result)).toEqual(['default/eu/site/s066 last_good'])
  expect(result.isolated[0]?.reason).toMatch(/nginx did not finish within \d+ ms/)
  expect(at.served().filter(({ text }) => text.includes('return 201;'))).toHaveLength(99)
  expect(at.spentMs()).toBeLessThan(3_000 + 8 * 1_200)
})

test('a host so busy that what serves is not tested in time takes edits all the same', async () => {
  await using at = await slowScene(() => 10_000, 3_000)
  await at.apply(names(8).map((name) => at.host.site(name, { port: 81 })))
  at.slow()
  const result = await at.apply(names(8).map((name) => at.host.site(name, { port: 81, body: 'return 201;' })))
  expect(result).toMatchObject({ outcome: 'applied', isolated: [] })
  expect(at.served().filter(({ text }) => text.includes('return 201;'))).toHaveLength(8)
})

test('a site that did not change and is named for another’s fault stays', async () => {
  await using at = await scene()
  const victim = at.host.site('a', { port: 81, body: 'return 200 "victim";' })
  await at.apply([victim])
  at.refuse((texts) => (has(texts, 'clash') ? `duplicate listen options in ${fileWith(texts, 'victim')}:2` : undefined))
  const result = await at.apply([
    victim,
    at.host.site('b', { port: 81, body: 'clash;' }),
    at.host.site('c', { port: 81 }),
  ])
  expect(result.outcome).toBe('applied')
  expect(isolated(result)).toEqual(['default/eu/site/b left_out'])
  expect(paths(at.served())).toEqual(['default/eu/site/a', 'default/eu/site/c'])
})

test('of two that clash only together, one is served', async () => {
  await using at = await scene()
  at.refuse((texts) => (has(texts, 'one;') && has(texts, 'two;') ? 'they clash' : undefined))
  const result = await at.apply([
    at.host.site('a', { port: 81, body: 'one;' }),
    at.host.site('b', { port: 81 }),
    at.host.site('c', { port: 81, body: 'two;' }),
  ])
  expect(result.outcome).toBe('applied')
  expect(isolated(result)).toEqual(['default/eu/site/c left_out'])
})

test('a site is blamed for itself, not the upstream that it needs, nor the other way round', async () => {
  await using at = await scene()
  at.refuse(unnamed('faulty'))
  const needs = (name: string) => [`default/eu/upstream/${name}`]
  const result = await at.apply([
    at.host.site('a', { port: 81, body: 'faulty;', needs: needs('good') }),
    at.host.site('b', { port: 81, needs: needs('good') }),
    at.host.site('c', { port: 81, needs: needs('broken') }),
    upstream('good', '127.0.0.1:1'),
    upstream('broken', 'faulty:1'),
  ])
  expect(result.outcome).toBe('applied')
  expect(result.isolated.map(({ path, reason }) => `${path}: ${reason}`).toSorted()).toEqual([
    'default/eu/site/a: could not build faulty_hash',
    'default/eu/site/c: needs default/eu/upstream/broken, which is left out',
    'default/eu/upstream/broken: could not build faulty_hash',
  ])
  expect(paths(at.served())).toEqual(['default/eu/site/b', 'default/eu/upstream/good'])
})

test('when time is over, what is proven is served, and the rest is tried at once again until it is', async () => {
  // Hardly time for one test: each apply still gets somewhere.
  await using at = await scene({ isolateMs: 0 })
  at.refuse(unnamed('faulty'))
  const units = names(24).map((name, index) =>
    at.host.site(name, { port: 81, body: index % 3 === 0 ? 'faulty;' : 'return 201;' }),
  )
  const good = units.filter(({ text }) => !text.includes('faulty'))
  let sawUntried = false
  for (let applies = 1; ; applies += 1) {
    expect(applies).toBeLessThanOrEqual(units.length)
    const result = await at.apply(units)
    const untried = result.isolated.filter(({ why }) => why === 'untried')
    for (const { text } of at.served()) expect(text).not.toContain('faulty')
    if (untried.length === 0) break
    sawUntried = true
    expect(result.retryAfterMs).toBeLessThanOrEqual(1_000)
  }
  expect(sawUntried).toBe(true)
  expect(paths(at.served())).toEqual(paths(good))
})

test('those refused before are tried after those that never were, so that their number delays nobody', async () => {
  await using at = await scene({ isolateMs: 0 })
  at.refuse(unnamed('faulty'))
  const bad = names(12).map((name) => at.host.site(name, { port: 81, body: 'faulty;' }))
  for (;;) {
    const result = await at.apply(bad)
    if (result.isolated.every(({ why }) => why !== 'untried')) break
  }
  // All their pauses are over.
  await at.clock.advance(60_000)
  const good = at.host.site('zz', { port: 81 })
  const result = await at.apply([...bad, good])
  expect(result.outcome).toBe('applied')
  expect(at.served()).toEqual([good])
  expect(result.isolated.filter(({ why }) => why === 'untried')).toEqual([])
})

test('an abort ends the search between two tests', async () => {
  await using at = await scene()
  const stopping = new AbortController()
  at.refuse((texts) => {
    stopping.abort(new Error('stopping'))
    return unnamed('faulty')(texts)
  })
  const units = names(8).map((name) => at.host.site(name, { port: 81, body: 'faulty;' }))
  expect((await at.applier.apply(at.host.request(units), stopping.signal)).outcome).toBe('failed')
  expect(at.tests()).toBe(1)
})

// ---------------------------------------------------------------------------------------------- after the swap

test.each([[[11]], [[0, 1]], [[3, 12, 15]], [[0, 4, 8, 12]]])(
  'what fails after the swap and is not named holds up only itself, and the others for a minute at most: %j',
  async (stuck) => {
    await using at = await scene()
    await at.apply(names(16).map((name) => at.host.site(name, { port: 81 })))
    // Its test passes.
    at.nginx.reloadFault = async (configPath) => unnamed('stuck')(await textsOf(configPath))
    const units = names(16).map((name, index) =>
      at.host.site(name, { port: 81, body: stuck.includes(index) ? 'stuck;' : 'return 201;' }),
    )
    const fresh = () => at.served().filter(({ text }) => text.includes('return 201;'))
    let rollbacks = 0
    // Pauses only: what the attempts take of the hasty clock depends on the disk.
    let pausedMs = 0
    let firstGoodMs = Number.POSITIVE_INFINITY
    let result = await at.apply(units)
    while (fresh().length < 16 - stuck.length) {
      if (result.outcome === 'rolled_back') rollbacks += 1
      pausedMs += result.retryAfterMs ?? 0
      await at.clock.advance(result.retryAfterMs ?? 0)
      result = await at.apply(units)
      if (fresh().length > 0) firstGoodMs = Math.min(firstGoodMs, pausedMs)
    }
    expect(firstGoodMs).toBeLessThan(20_000)
    expect(pausedMs).toBeLessThan(60_000)
    expect(rollbacks, 'the first of all, and one for each halving').toBeLessThanOrEqual(1 + 4 * stuck.length)
    while (result.outcome !== 'unchanged') {
      if (result.outcome === 'refused') await at.clock.advance(result.retryAfterMs ?? 0)
      result = await at.apply(units)
    }
    const reason = expect.stringContaining('could not build stuck_hash') as string
    expect(result.isolated).toEqual(
      stuck.map((index) => ({ path: units[index]?.path, why: 'refused', reason, serves: 'last_good' })),
    )
  },
)

test('what fails every swap for a while, and is not named, delays all by little more than that while', async () => {
  await using at = await scene()
  const units = names(16).map((name) => at.host.site(name, { port: 81 }))
  const overMs = at.clock.monotonic() + 20_000
  at.nginx.reloadFault = () => Promise.resolve(at.clock.monotonic() < overMs ? 'fork() failed' : undefined)
  let pausedMs = 0
  while (at.served().length < units.length) {
    const { retryAfterMs = 0 } = await at.apply(units)
    pausedMs += retryAfterMs
    await at.clock.advance(retryAfterMs)
  }
  expect(pausedMs).toBeLessThan(60_000)
})

test('a single edit that fails after the swap is tried once more; then its pauses grow, and hold up nothing else', async () => {
  await using at = await scene()
  at.nginx.reloadFault = async (configPath) => unnamed('stuck')(await textsOf(configPath))
  const bad = at.host.site('a', { port: 81, body: 'stuck;' })
  expect(await at.apply([bad])).toMatchObject({ outcome: 'rolled_back', retryAfterMs: 1_500 })
  expect((await at.apply([bad])).outcome).toBe('refused')
  const pauses: number[] = []
  while (pauses.length < 10) {
    // Each of these that is rolled back leaves the bad one isolated at once.
    const { outcome, retryAfterMs = 0 } = await at.apply([bad])
    if (outcome === 'unchanged') pauses.push(Math.round(retryAfterMs / 1_000))
    await at.clock.advance(retryAfterMs)
  }
  expect(pauses).toEqual([5, 10, 20, 40, 80, 160, 320, 600, 600, 600])
  const good = at.host.site('b', { port: 81 })
  expect((await at.apply([bad, good])).outcome).toBe('rolled_back')
  await at.clock.advance(2_000)
  expect((await at.apply([bad, good])).outcome).toBe('applied')
  expect(at.served()).toEqual([good])
})

test('what fails after the swap and is quoted costs one more attempt, and the others are not tried yet meanwhile', async () => {
  await using at = await scene()
  await at.apply(names(64).map((name) => at.host.site(name, { port: 81 })))
  at.nginx.reloadFault = async (configPath) =>
    has(await textsOf(configPath), 'zone=one') ? 'limit_req "one" uses the "$a" key' : undefined
  const units = names(64).map((name, index) =>
    at.host.site(name, { port: 81, body: index === 9 ? 'limit_req zone="one" ;zone=one;' : 'return 201;' }),
  )
  const first = await at.apply(units)
  expect(first.outcome).toBe('rolled_back')
  expect(first.isolated.map(({ why }) => why)).toEqual(units.map(() => 'untried'))
  const held = await at.apply(units)
  expect(held.outcome).toBe('refused')
  expect(held.isolated.map(({ why }) => why)).toEqual(units.map(() => 'untried'))
  await at.clock.advance(first.retryAfterMs ?? 0)
  expect((await at.apply(units)).outcome).toBe('applied')
  expect(at.served().filter(({ text }) => text.includes('return 201;'))).toHaveLength(63)
  expect((await at.apply(units)).outcome).toBe('rolled_back')
  expect(isolated(await at.apply(units))).toEqual(['default/eu/site/s009 last_good'])
})

test('a good edit does not wait for those among which one fails after the swap', async () => {
  await using at = await scene()
  at.nginx.reloadFault = async (configPath) => unnamed('stuck')(await textsOf(configPath))
  const units = names(16).map((name, index) =>
    at.host.site(name, { port: 81, body: index === 0 ? 'stuck;' : 'return 201;' }),
  )
  expect((await at.apply(units)).outcome).toBe('rolled_back')
  const good = at.host.site('zz', { port: 81 })
  const result = await at.apply([...units, good])
  expect(result).toMatchObject({ outcome: 'applied', retryAfterMs: 1_000 })
  expect(at.served()).toEqual([good])
})

test.each(['test, which names it', 'test, which does not', 'reload'])(
  'whatever fails the %s, and needs what, all that can serve is served',
  async (where) => {
    const upstreams = ['p', 'q', 'r']
    const someOf = <T>(list: readonly T[]) => fc.subarray([...list])
    const sites = fc.array(someOf(upstreams), { minLength: 1, maxLength: 7 })
    await fc.assert(
      fc.asyncProperty(
        sites,
        someOf(upstreams),
        fc.nat(127),
        fc.nat(7),
        async (needs, badUpstreams, badSites, early) => {
          await using at = await scene({ isolateMs: 0 })
          if (where === 'reload')
            at.nginx.reloadFault = async (configPath) => unnamed('stuck')(await textsOf(configPath))
          else at.refuse((where.includes('not') ? unnamed : named)('stuck'))
          const isBad = (index: number) => ((badSites >> index) & 1) === 1
          const pathsOf = (named: readonly string[]) => named.map((name) => `default/eu/upstream/${name}`)
          const units = [
            ...needs.map((named, index) =>
              at.host.site(`s${index}`, {
                port: 81,
                needs: pathsOf(named),
                body: isBad(index) ? 'stuck;' : 'return 201;',
              }),
            ),
            ...upstreams.map((name) => upstream(name, badUpstreams.includes(name) ? 'stuck:1' : '127.0.0.1:1')),
          ]
          const good = [
            ...needs.flatMap((named, index) =>
              isBad(index) || named.some((name) => badUpstreams.includes(name)) ? [] : [`default/eu/site/s${index}`],
            ),
            ...pathsOf(upstreams.filter((name) => !badUpstreams.includes(name))),
          ]
          // Some come later, while it is being found out which of the first ones fails.
          await at.apply([...units.slice(0, early), ...units.slice(needs.length)])
          for (let applies = 0; paths(at.served()).join() !== good.toSorted().join(); applies += 1) {
            expect(applies, `serves ${paths(at.served()).join()}, not ${good.toSorted().join()}`).toBeLessThan(60)
            const result = await at.apply(units)
            await at.clock.advance(result.retryAfterMs ?? 0)
          }
        },
      ),
      { numRuns: 15 },
    )
  },
  60_000,
)

test('an unchanged site that a changed upstream makes worse stays; the upstream goes back', async () => {
  let status = 200
  await using at = await scene(
    {},
    {
      probe: (targets) =>
        Promise.resolve(new Map(targets.map(({ site }) => [site, { kind: 'status', status } as const]))),
    },
  )
  const site = at.host.site('a', { port: 81, needs: ['default/eu/upstream/pool'] })
  const pool = upstream('pool', '127.0.0.1:1')
  await at.apply([site, pool])
  at.nginx.reloadFault = async (configPath) => {
    status = has(await textsOf(configPath), '127.0.0.1:2') ? 502 : 200
    return undefined
  }
  const units = [site, upstream('pool', '127.0.0.1:2')]
  expect(await at.apply(units)).toMatchObject({ outcome: 'rolled_back', phase: 'probe', retryAfterMs: 0 })
  expect(isolated(await at.apply(units))).toEqual(['default/eu/upstream/pool last_good'])
  expect(at.served()).toEqual([site, pool])
})
