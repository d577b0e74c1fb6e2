/**
 * The reconciler on a virtual clock and an applier that does as it is told: when it applies, what it holds back, how it
 * retries, what its receipts say.
 */

import { describe, expect, test } from 'vitest'
import { sha256 } from '../../src/core/canonical.ts'
import { isBeyondGrant, sitesKey, type Problem, type Slice } from '../../src/core/slice.ts'
import { MeshError } from '../../src/errors.ts'
import { Addresses, type Lookup } from '../../src/nginx/applying/addresses.ts'
import type { Generation } from '../../src/nginx/applying/generation.ts'
import type { Isolated } from '../../src/nginx/applying/isolate.ts'
import type { HealOptions } from '../../src/nginx/applying/apply.ts'
import type { ApplyError, ApplyRequest, ApplyResult } from '../../src/nginx/applying/run.ts'
import type { Care } from '../../src/nginx/applying/serving.ts'
import { ALL_WELL, type ObservedHealth } from '../../src/nginx/rendering/render-upstream.ts'
import type { Unit } from '../../src/nginx/rendering/unit.ts'
import { countApply } from '../../src/gauges.ts'
import { createMetrics } from '../../src/metrics.ts'
import { dueAt } from '../../src/apply-pace.ts'
import type { Receipt } from '../../src/receipt.ts'
import { Reconciler, type ApplierPort, type ReconcilerOptions } from '../../src/reconciler.ts'
import { FakeNginx } from '../support/fake-nginx.ts'
import { site } from '../support/nginx-host.ts'
import { LAYOUT, sliceOf, statesOf } from '../support/resources.ts'
import { rememberingLog, silentLog } from '../support/silent-log.ts'
import { VirtualClock } from '../support/virtual-clock.ts'

const APPLIED: ApplyResult = {
  outcome: 'applied',
  generation: 'a'.repeat(64),
  phase: 'commit',
  error: undefined,
  isolated: [],
  phases: { test: 10.4 },
  retryAfterMs: undefined,
}

/** An applier that remembers when it was asked and answers as told. */
class ScriptedApplier implements ApplierPort {
  readonly requests: { at: number; request: ApplyRequest }[] = []
  readonly #clock: VirtualClock
  applied: string | undefined
  validated: string | undefined
  lastGood: Generation | undefined
  result: ApplyResult = APPLIED
  care: Care = { error: undefined, acted: false }
  bootError: Error | undefined
  drift: string[] = []
  heals = 0
  /** What it says when it waits for old workers. */
  healWait: ApplyError | undefined
  takesMs = 0
  stopped = false

  constructor(clock: VirtualClock) {
    this.#clock = clock
  }

  get times(): number[] {
    return this.requests.map(({ at }) => at)
  }

  boot(): Promise<string | undefined> {
    return this.bootError === undefined ? Promise.resolve(undefined) : Promise.reject(this.bootError)
  }
  ensureServing(): Promise<Care> {
    return Promise.resolve(this.care)
  }
  async apply(request: ApplyRequest): Promise<ApplyResult> {
    this.requests.push({ at: this.#clock.monotonic(), request })
    if (this.takesMs > 0) await this.#clock.sleep(this.takesMs)
    return this.result
  }
  async healDrift({ onWait }: HealOptions): Promise<readonly string[]> {
    this.heals += 1
    if (this.healWait !== undefined) {
      onWait?.(this.healWait)
      await this.#clock.sleep(1_000)
    }
    return this.drift.splice(0)
  }
  tidy(): Promise<void> {
    return Promise.resolve()
  }
  stopNginx(): Promise<void> {
    this.stopped = true
    return Promise.resolve()
  }
}

const UPSTREAM = `
apiVersion: nxmesh/v1
kind: Upstream
metadata: { name: u }
spec: { endpoints: { '10.0.0.1:80': {} } }
`
const EMPTY: Slice = { resources: [], problems: [], target: sha256('') }

async function scene(
  overrides: Partial<ReconcilerOptions> = {},
  prepare: (applier: ScriptedApplier) => void = () => undefined,
  lookup: Lookup = () => Promise.resolve([]),
) {
  const clock = new VirtualClock()
  const applier = new ScriptedApplier(clock)
  prepare(applier)
  const receipts: Receipt[] = []
  const reconciler = new Reconciler({
    desired: () => EMPTY,
    secrets: () => new Map(),
    applier,
    nginx: new FakeNginx('/nowhere'),
    layout: LAYOUT,
    addresses: new Addresses(lookup, clock),
    clock,
    random: () => 0.5,
    log: silentLog(),
    holdReason: () => undefined,
    onReceipt: (receipt) => receipts.push(receipt),
    ...overrides,
  })
  await reconciler.start()
  await clock.advance(0)
  return {
    clock,
    applier,
    reconciler,
    receipts,
    last: () => receipts.at(-1) as Receipt,
    [Symbol.asyncDispose]: () => reconciler.stop(),
  }
}

describe('pace', () => {
  const pace = { quietMs: 300, maxWaitMs: 5_000 }
  test.each([
    ['out of the blue: at once', { firstWake: 1_000, lastWake: 1_000, busyUntil: Number.NEGATIVE_INFINITY }, 1_000],
    ['right after an apply: when it is quiet', { firstWake: 1_000, lastWake: 1_000, busyUntil: 900 }, 1_300],
    ['more follow: when it is quiet', { firstWake: 1_000, lastWake: 1_200, busyUntil: 900 }, 1_500],
    ['no quiet: when the first has waited enough', { firstWake: 1_000, lastWake: 5_900, busyUntil: 900 }, 6_000],
  ])('%s', (_, times, due) => {
    expect(dueAt({ ...pace, ...times })).toBe(due)
  })
})

test('the first wake-up acts at once, later ones coalesce, a lone one acts at once again', async () => {
  await using setup = await scene()
  const { clock, applier, reconciler } = setup
  expect(applier.times).toEqual([0])
  for (let count = 0; count < 5; count += 1) {
    await clock.advance(100)
    reconciler.wake()
  }
  await clock.advance(1_000)
  expect(applier.times).toEqual([0, 800])
  await clock.advance(9_000)
  reconciler.wake()
  await clock.advance(0)
  expect(applier.times).toEqual([0, 800, 10_500])
})

test('wake-ups without a pause are not put off for ever, and never run two applies at once', async () => {
  await using setup = await scene({}, (applier) => (applier.takesMs = 50))
  const { clock, applier, reconciler } = setup
  for (let count = 0; count < 120; count += 1) {
    reconciler.wake()
    await clock.advance(100)
  }
  const [, ...later] = applier.times
  expect(later.length).toBeGreaterThanOrEqual(2)
  for (const [index, at] of applier.times.entries()) {
    if (index > 1) expect(at - (applier.times[index - 1] as number)).toBeGreaterThanOrEqual(4_900)
  }
})

test('a minute of edits brings no more reloads than the longest wait allows', async () => {
  await using stage = await scene()
  const { clock, applier, reconciler } = stage
  applier.takesMs = 400
  const before = applier.times.length
  for (let at = 0; at < 60_000; at += 50) {
    reconciler.wake()
    await clock.advance(50)
  }
  applier.takesMs = 0
  const reloads = applier.times.length - before
  await clock.advance(1_000)
  expect(reloads).toBeGreaterThanOrEqual(10)
  expect(reloads).toBeLessThanOrEqual(1 + 60_000 / 5_000)
})

test('backends that come and go make nginx reload but a few times a minute, and the last word is applied', async () => {
  let observed: ObservedHealth = ALL_WELL
  const observer = { observed, views: [], follow: () => undefined }
  Object.defineProperty(observer, 'observed', { get: () => observed })
  await using run = await scene({ observer })
  await run.clock.advance(60_000)
  const [before, began] = [run.applier.times.length, run.clock.monotonic()]
  for (let times = 0; times < 600; times += 1) {
    observed = { ...ALL_WELL, ejected: new Set(times % 2 === 0 ? ['u 10.0.0.1:80'] : []) }
    run.reconciler.observedChanged()
    await run.clock.advance(100)
  }
  expect(run.applier.times.length - before).toBeLessThanOrEqual(13)
  const last = run.clock.monotonic()
  await run.clock.advance(30_000)
  expect(last - began).toBe(60_000)
  expect(run.applier.times.at(-1)).toBeGreaterThanOrEqual(last - 300)
})

test('where only what was observed has changed, sites are not probed and watched for it', async () => {
  let slice: Slice = sliceOf(statesOf(UPSTREAM))
  await using run = await scene({
    desired: () => slice,
    observer: { observed: ALL_WELL, views: [], follow: () => undefined },
  })
  const last = () => run.applier.requests.at(-1)?.request.observedOnly
  expect(last()).toBe(false)
  run.reconciler.observedChanged()
  await run.clock.advance(10_000)
  expect(last()).toBe(true)
  slice = sliceOf(statesOf(UPSTREAM.replace('10.0.0.1', '10.0.0.2')))
  run.reconciler.wake()
  await run.clock.advance(10_000)
  expect(last()).toBe(false)
  // What did not prove itself, or not all of it, is judged by its answers the next time too.
  run.applier.result = { ...APPLIED, outcome: 'rolled_back' }
  run.reconciler.wake()
  await run.clock.advance(10_000)
  expect(last()).toBe(true)
  run.reconciler.wake()
  await run.clock.advance(10_000)
  expect(last()).toBe(false)
  expect(run.applier.requests).toHaveLength(5)
})

test('nothing is applied before the mesh has settled', async () => {
  let settled = false
  await using setup = await scene({ holdReason: () => (settled ? undefined : 'not settled') })
  const { clock, applier, reconciler, last } = setup
  await clock.advance(10_000)
  expect(applier.requests).toEqual([])
  expect(last()).toMatchObject({ outcome: 'held', phase: 'hold', error: { code: 'not_applied' } })
  settled = true
  reconciler.wake()
  await clock.advance(0)
  expect(applier.requests).toHaveLength(1)
  expect(last()).toMatchObject({ outcome: 'applied', error: null })
})

/** A ZoneSettings document. */
function settings(confirmShrink: string) {
  return {
    apiVersion: 'nxmesh/v1',
    kind: 'ZoneSettings',
    metadata: { name: 'settings' },
    spec: { reload: { confirmShrink } },
  }
}

test('a slice that drops over half of the sites waits for a person’s word', async () => {
  const units: Unit[] = ['a', 'b', 'c', 'd'].map((name) => site(name, '/drain', { port: 80 }))
  const lastGood = { digest: 'b'.repeat(64), main: '', objects: new Map(), files: [], units }
  let confirmed = ''
  let present = 1
  const confirmation = (key: string) =>
    sliceOf(statesOf(JSON.stringify(settings(key))), { places: [{ workspace: '*', zones: ['eu'] }], labels: {} })
      .resources
  const desired = (): Slice => ({
    ...EMPTY,
    resources: confirmed === '' ? [] : confirmation(confirmed),
    // A site with a problem is there: it keeps its last good text.
    problems: units.slice(0, present).map(({ path }) => ({ path, code: 'schema', message: '' })),
  })
  await using setup = await scene({ desired }, (applier) => (applier.lastGood = lastGood))
  const { clock, applier, reconciler, last } = setup
  expect(applier.requests).toEqual([])
  expect(last()).toMatchObject({ outcome: 'held', phase: 'shrink', target: EMPTY.target })
  expect(last().error?.message).toContain('drops 3 of the 4 sites')
  expect(last().error?.hint).toContain(`confirmShrink: '${sitesKey(desired())}'`)
  confirmed = sitesKey(desired())
  reconciler.wake()
  await clock.advance(1_000)
  expect(applier.requests).toHaveLength(1)
  present = 2
  reconciler.wake()
  await clock.advance(1_000)
  expect(applier.requests).toHaveLength(2)
})

test('sites that a clash takes away count as dropped', async () => {
  const units: Unit[] = ['a', 'b', 'c', 'd'].map((name) => site(name, '/drain', { port: 80 }))
  const lastGood = { digest: 'b'.repeat(64), main: '', objects: new Map(), files: [], units }
  const document = (name: string, spec: object) =>
    JSON.stringify({ apiVersion: 'nxmesh/v1', kind: 'Site', metadata: { name, zone: 'eu' }, spec })
  const yaml = ['a', 'b', 'c', 'd'].map((name) => document(name, { hosts: ['one.example'] })).join('\n---\n')
  const slice = sliceOf(statesOf(yaml), { places: [{ workspace: '*', zones: ['eu'] }], labels: {} })
  const served = slice.resources.map(({ path }, index): Unit => ({ ...(units[index] as Unit), path }))
  await using setup = await scene(
    { desired: () => slice },
    (applier) => (applier.lastGood = { ...lastGood, units: served }),
  )
  const { applier, last } = setup
  expect(applier.requests).toEqual([])
  expect(last()).toMatchObject({ outcome: 'held', phase: 'shrink' })
  expect(last().error?.message).toContain('drops 3 of the 4 sites')
})

test('a failed apply is retried by itself, later and later; one refusal says when', async () => {
  await using setup = await scene({}, (applier) => {
    applier.result = { ...APPLIED, outcome: 'failed', error: { code: 'store_unwritable', message: 'disk full' } }
  })
  const { clock, applier, last } = setup
  await clock.advance(7_500)
  expect(applier.times).toEqual([0, 1_000, 3_000, 7_000])
  expect(last()).toMatchObject({ outcome: 'failed', error: { code: 'store_unwritable', message: 'disk full' } })
  applier.result = { ...APPLIED, outcome: 'refused', retryAfterMs: 2_500 }
  await clock.advance(8_000)
  applier.result = APPLIED
  await clock.advance(60_000)
  expect(applier.times).toEqual([0, 1_000, 3_000, 7_000, 15_000, 17_500])
})

test('while old workers hold a reload back, receipts say so, and it is tried again soon', async () => {
  const error = { code: 'unavailable', message: '33 old workers are still draining, over the limit of 32' } as const
  await using stage = await scene({}, (applier) => {
    applier.takesMs = 10_000
    applier.result = { ...APPLIED, outcome: 'failed', phase: 'gate', error }
  })
  const { clock, applier, last } = stage
  applier.requests[0]?.request.onWait?.(error)
  await clock.advance(1)
  expect(last()).toMatchObject({ outcome: 'held', phase: 'gate', error })
  await clock.advance(120_000)
  expect(last()).toMatchObject({ outcome: 'failed', phase: 'gate', error })
  const pauses = applier.times.slice(1).map((at, index) => at - (applier.times[index] as number))
  expect(Math.max(...pauses)).toBeLessThanOrEqual(10_000 + 1_000)
  applier.takesMs = 0
  await clock.advance(10_000)
})

test('nginx missing at boot is told and tried again; then it applies', async () => {
  await using setup = await scene(
    {},
    (applier) => (applier.bootError = new MeshError('nginx_missing', 'no nginx', { hint: 'install' })),
  )
  const { clock, applier, last } = setup
  expect(last()).toMatchObject({
    phase: 'boot',
    error: { code: 'nginx_missing', hint: 'install' },
    nginx: { running: false },
  })
  applier.bootError = undefined
  await clock.advance(1_000)
  expect(applier.requests).toHaveLength(1)
  expect(last()).toMatchObject({ error: null, outcome: 'applied' })
})

test('what could not be applied for want of nginx is applied as soon as it is there', async () => {
  await using setup = await scene({}, (applier) => {
    applier.result = { ...APPLIED, outcome: 'failed', error: { code: 'nginx_failed', message: 'no nginx runs' } }
  })
  const { clock, applier } = setup
  await clock.advance(8_000)
  const { length } = applier.times
  applier.care = { error: undefined, acted: true }
  applier.result = APPLIED
  await clock.advance(500)
  expect(applier.times.length).toBeGreaterThan(length)
})

test('what stands in the way of serving is in the receipt until it is gone', async () => {
  await using setup = await scene()
  const { clock, applier, last } = setup
  applier.care = { error: { code: 'nginx_failed', message: 'port taken' }, acted: false }
  await clock.advance(1_000)
  expect(last()).toMatchObject({ error: { message: 'port taken' } })
  applier.care = { error: undefined, acted: false }
  await clock.advance(1_000)
  expect(last().error).toBeNull()
})

test('a reload that undoes drift is told while it waits for old workers, and not any more when it has', async () => {
  await using setup = await scene()
  const { clock, applier, last } = setup
  applier.healWait = { code: 'unavailable', message: 'old workers drain' }
  applier.drift = ['one']
  await clock.until(() => last().phase === 'gate', 60_000, 'the wait')
  expect(last()).toMatchObject({ outcome: 'held', error: { message: 'old workers drain' } })
  applier.healWait = undefined
  await clock.advance(5_000)
  expect(last()).toMatchObject({ outcome: 'applied', error: null, drift: 1 })
})

test('drift is looked for every so often, and counted', async () => {
  const found: (readonly string[])[] = []
  await using setup = await scene({ hooks: { onDrift: (drift) => found.push(drift) } })
  const { clock, applier, last } = setup
  applier.drift = ['one', 'two']
  await clock.advance(61_000)
  expect(applier.heals).toBe(2)
  expect(found).toEqual([['one', 'two']])
  expect(last().drift).toBe(2)
})

test('an address that is found late, or has changed, is applied by itself', async () => {
  const answers: ((found: readonly string[]) => void)[] = []
  const yaml = JSON.stringify({
    apiVersion: 'nxmesh/v1',
    kind: 'Upstream',
    metadata: { name: 'pool' },
    spec: { endpoints: { 'app.test:80': {} } },
  })
  const slice = sliceOf(statesOf(yaml), { places: [{ workspace: '*', zones: ['eu'] }], labels: {} })
  const lookup = () => new Promise<readonly string[]>((resolve) => answers.push(resolve))
  await using setup = await scene({ desired: () => slice }, undefined, lookup)
  const { clock, applier } = setup
  const texts = () => applier.requests.map(({ request }) => request.units[0]?.text.match(/server .*;/)?.[0])
  await clock.advance(1_000)
  expect(texts()).toEqual(['server 127.0.0.1:1 down;'])
  answers[0]?.(['10.0.0.1'])
  await clock.advance(1_000)
  expect(texts()).toEqual(['server 127.0.0.1:1 down;', 'server 10.0.0.1:80;'])
  await clock.advance(30_000)
  answers[1]?.(['10.0.0.2'])
  await clock.advance(1_000)
  expect(texts().at(-1)).toBe('server 10.0.0.2:80;')
})

test('a turn that throws does not end the loop', async () => {
  let bad = true
  const desired = (): Slice => {
    if (bad) throw new Error('bug')
    return EMPTY
  }
  await using setup = await scene({ desired })
  const { clock, applier, receipts } = setup
  expect(receipts[0]).toMatchObject({ error: { code: 'internal', message: 'bug' } })
  bad = false
  await clock.advance(2_000)
  expect(applier.requests).toHaveLength(1)
})

test('receipts are bounded, plain JSON with integers, and come only on change', async () => {
  const yaml = Array.from(
    { length: 40 },
    (_, index) =>
      `apiVersion: nxmesh/v1\nkind: Site\nmetadata: {name: s${index}, workspace: default, zone: eu}\n` +
      `spec: {hosts: [s${index}.test], routes: {root: {path: /, action: proxy, proxy: {upstream: missing}}}}\n`,
  ).join('---\n')
  const desired = () => sliceOf(statesOf(yaml), { places: [{ workspace: '*', zones: ['eu'] }], labels: {} })
  await using setup = await scene({ desired }, (applier) => {
    applier.result = {
      ...APPLIED,
      isolated: [{ path: 'x', why: 'refused', reason: 'y'.repeat(5_000), serves: 'left_out' }],
    }
  })
  const { clock, receipts, last } = setup
  expect(last().problems).toHaveLength(16)
  expect(last().problemCount).toBe(41)
  expect(last().durations).toEqual({ test: 10 })
  expect(JSON.stringify(last()).length).toBeLessThan(16_000)
  expect(JSON.parse(JSON.stringify(last()))).toEqual(last())
  const { length } = receipts
  await clock.advance(20_000)
  expect(receipts).toHaveLength(length)
})

test('what is beyond an author’s grant pushes nothing else out of a receipt', async () => {
  const problem = (index: number, code: Problem['code']): Problem => ({
    path: `default/*/site/s${index}`,
    code,
    message: '',
  })
  const codes = [...Array<'quota'>(20).fill('quota'), 'host_not_granted', 'schema', 'quota'] as const
  const slice = { ...EMPTY, problems: codes.map((code, index) => problem(index, code)) }
  await using setup = await scene({ desired: () => slice })
  const { last } = setup
  expect(last().problemCount).toBe(23)
  expect(last().problems.map(isBeyondGrant)).toEqual([false, ...Array(15).fill(true)])
})

/** What nginx refuses of what is desired, named by a letter each. */
const refusedOnes = (names: string, reason = 'unknown directive') =>
  names.split('').map((path) => ({ path, why: 'refused', reason, serves: 'left_out' }) as const)

test('what nginx refuses before a swap is warned of once, when it is new, and what is not tried yet never', async () => {
  const { log, lines } = rememberingLog()
  const warnings = () => lines.splice(0).filter((line) => line.includes('WARN'))
  const unchanged = { ...APPLIED, outcome: 'unchanged', retryAfterMs: 1_000 } as const
  await using setup = await scene(
    { log },
    (applier) => (applier.result = { ...unchanged, isolated: refusedOnes('ab') }),
  )
  const { clock, applier } = setup
  expect(warnings()).toEqual([
    expect.stringMatching(/nginx does not take all.*"a".*unknown directive.*left_out.*"b".*count=2/),
  ])
  await clock.advance(10_000)
  const [untried] = refusedOnes('u')
  applier.result = { ...applier.result, isolated: [...refusedOnes('ab'), { ...(untried as Isolated), why: 'untried' }] }
  await clock.advance(10_000)
  applier.result = { ...unchanged, outcome: 'failed', generation: undefined, isolated: [] }
  await clock.advance(1_000)
  expect(warnings()).toEqual([])
  applier.result = { ...unchanged, isolated: [...refusedOnes('a'), ...refusedOnes('b', 'else')] }
  await clock.advance(10_000)
  expect(warnings()).toEqual([expect.stringMatching(/^(?!.*"a").*"b".*else.*count=2/)])
  applier.result = { ...unchanged, isolated: refusedOnes('abcdefghijklmnopqrstuvwxyz') }
  await clock.advance(10_000)
  expect(warnings()).toEqual([expect.stringMatching(/^(?!.*"r").*"q".*count=26/)])
})

test('what is refused is counted, and is no success', async () => {
  const metrics = createMetrics()
  const hooks = {
    onApply: (result: ApplyResult, desired: string) => countApply(metrics, result, desired, 7_000),
  }
  const refused = { ...APPLIED, isolated: refusedOnes('a') }
  await using setup = await scene({ hooks }, (applier) => (applier.result = refused))
  const { applier, clock, last, reconciler } = setup
  const counted = async () => {
    const text = await metrics.text()
    const value = (name: string) =>
      Number(
        text
          .split('\n')
          .find((line) => line.startsWith(`${name} `))
          ?.split(' ')[1],
      )
    const applies = (outcome: string) => value(`nxmesh_applies_total{outcome="${outcome}"}`)
    return [...['applied', 'unchanged', 'refused'].map(applies), value('nxmesh_last_apply_success_timestamp_seconds')]
  }
  expect(await counted(), 'some of it applied, some refused').toEqual([1, 0, 1, 0])
  const apply = async (result: ApplyResult) => {
    applier.result = result
    reconciler.wake()
    await clock.advance(10_000)
  }
  await apply({ ...refused, outcome: 'unchanged' })
  expect(await counted(), 'refused again').toEqual([1, 0, 2, 0])
  await apply({ ...APPLIED, generation: last().desired ?? '' })
  expect(await counted(), 'all of it applied').toEqual([2, 0, 2, 7])
})

test.each([true, false])('stop leaves nginx serving unless told otherwise: stopNginx %s', async (stopNginx) => {
  const { applier, reconciler } = await scene({ stopNginx })
  await reconciler.stop()
  await reconciler.stop()
  expect(applier.stopped).toBe(stopNginx)
})

test('Lua that does not load keeps nothing from being applied: the host does without the lane', async () => {
  const modules = ['/modules/ngx_http_lua_module.so']
  const yaml = `{ apiVersion: nxmesh/v1, kind: Upstream, metadata: { name: pool, zone: eu }, spec: { endpoints: { '10.0.0.1:80': {} } } }`
  await using setup = await scene(
    { layout: { ...LAYOUT, modules }, desired: () => sliceOf(statesOf(yaml)) },
    (applier) => {
      const message = "generation a did not come to serve: failed to load the 'resty.core' module (reason: not found)"
      applier.result = {
        ...APPLIED,
        outcome: 'rolled_back',
        phase: 'rollback',
        error: { code: 'nginx_failed', message },
      }
    },
  )
  const { clock, applier } = setup
  applier.result = APPLIED
  await clock.advance(1_000)
  const mains = applier.requests.map(({ request }) => request.assemble(request.units).main)
  expect(mains.map((main) => main.includes('init_by_lua_block'))).toEqual([true, false])
  expect(applier.requests.map(({ request }) => request.units[0]?.text.includes('10.0.0.1'))).toEqual([false, true])
})
