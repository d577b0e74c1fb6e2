/**
 * Observes the upstreams that this node's sites use: probes their endpoints, reads what clients got, has the judges
 * conclude, and says when what they conclude has changed. Renders and applies nothing; what it knows dies with the
 * process and is learned anew. node.ts starts it, the reconciler tells it whom to follow.
 */

import { setImmediate } from 'node:timers/promises'
import type { UpstreamSpec } from '../../core/resources/upstream.ts'
import type { Log } from '../../log.ts'
import { ALL_WELL, type ObservedHealth } from '../../nginx/rendering/render-upstream.ts'
import type { Clock, Random, Startable } from '../../ports.ts'
import type { CircuitState } from '../judging/circuit.ts'
import type { Followed } from '../judging/followed.ts'
import { isObserved, Judge, rulesOf } from '../judging/judge.ts'
import { parseAnswer, type Answer, type Asked } from '../judging/traffic.ts'
import { CheckSchedule } from './check-schedule.ts'
import type { HealthCheck, Probe } from './probe.ts'
import type { TrafficLog } from './traffic-log.ts'

/** How one observed upstream stands. */
export interface UpstreamView {
  readonly path: string
  readonly circuit: CircuitState
  readonly endpoints: number
  /** That are not well. */
  readonly ailing: readonly string[]
  /** Of those, the ones that take no requests; none while too few are well. */
  readonly ejected: readonly string[]
}

export interface ObserverOptions {
  readonly clock: Clock
  readonly random: Random
  readonly log: Log
  readonly probe: Probe
  readonly traffic: Pick<TrafficLog, 'start' | 'read'>
  /** `observed` has changed, by so many endpoints that were ejected or let in, circuits that opened or closed: somebody has to look at it again. */
  readonly onChange: (changes: number) => void
  /** For metrics: every request, with the path of each upstream that was asked, where it is one that is followed. */
  readonly onAnswer?: (answer: Answer, upstreams: readonly (string | undefined)[]) => void
}

const TICK_MS = 100
/** Where nothing is observed, traffic is counted all the same. */
const IDLE_TICK_MS = 1_000
/** Of the traffic log; each gives way to other work. */
const READS_PER_TICK = 4
/** Before other work has its turn: five milliseconds or so. */
const LINES_AT_ONCE = 500
/** Endpoints of a node that are probed and judged; upstreams beyond it, by path, are served unobserved. */
const ENDPOINTS_MAX = 4096
/** A half-open circuit is tried with at most so many endpoints, this often. */
const TRIED_MAX = 8
const TRIAL_PAUSE_MS = 500
/** How a circuit is tried where nothing says how an endpoint is checked. */
const CONNECT: HealthCheck = {
  type: 'tcp',
  scheme: 'http',
  path: '/',
  interval: '10s',
  timeout: '2s',
  healthyThreshold: 1,
  unhealthyThreshold: 1,
  jitter: 0,
}

interface Observed {
  followed: Followed
  readonly judge: Judge
  triedAt: number
  isTrying: boolean
}

export class UpstreamObserver implements Startable {
  readonly #options: ObserverOptions
  readonly #observed = new Map<string, Observed>()
  /** Paths by block, of all followed. */
  #paths: ReadonlyMap<string, string> = new Map()
  /** Paths by endpoint, where one upstream alone has it. */
  #owners: ReadonlyMap<string, string | undefined> = new Map()
  readonly #checks: CheckSchedule
  /** Paths that were beyond the limit when it was last told whom to follow. */
  #leftOut: readonly string[] = []
  #health: ObservedHealth = ALL_WELL
  #cancel: () => void = () => undefined
  #isRunning = false
  #turn: Promise<void> = Promise.resolve()

  constructor(options: ObserverOptions) {
    this.#options = options
    this.#checks = new CheckSchedule({
      ...options,
      onResult: (path, address, passed) => this.#observed.get(path)?.judge.checked(address, passed),
    })
  }

  async start(): Promise<void> {
    if (this.#isRunning) return
    this.#isRunning = true
    await this.#options.traffic.start()
    this.#schedule(0)
  }

  /** Probes that are under way end by their own limit; what they find counts for nothing. */
  async stop(): Promise<void> {
    this.#isRunning = false
    this.#cancel()
    await this.#turn
  }

  /** What rendering is to obey now. */
  get observed(): ObservedHealth {
    return this.#health
  }

  get views(): readonly UpstreamView[] {
    return [...this.#observed.values()].map(({ followed: { path }, judge }) => ({
      path,
      circuit: judge.circuit,
      endpoints: judge.addresses.length,
      ailing: judge.ailing,
      ejected: judge.ejected,
    }))
  }

  /** Replaces what is followed; what is known of those that stay is kept. Calls nobody. */
  follow(upstreams: readonly Followed[]): void {
    this.#paths = new Map(upstreams.map(({ block, path }) => [block, path]))
    const owners = new Map<string, string | undefined>()
    for (const { path, addresses } of upstreams)
      for (const address of addresses) owners.set(address, owners.has(address) ? undefined : path)
    this.#owners = owners
    let count = 0
    const isJudged = ({ addresses }: Followed) => (count += addresses.length) <= ENDPOINTS_MAX
    const wanted = upstreams.filter(({ spec }) => isObserved(spec))
    const judged = wanted.filter(isJudged)
    this.#tellLeftOut(wanted.filter((each) => !judged.includes(each)).map(({ path }) => path))
    const stays = new Set(judged.map(({ path }) => path))
    for (const path of this.#observed.keys()) if (!stays.has(path)) this.#observed.delete(path)
    for (const followed of judged) this.#followOne(followed)
    this.#checks.follow(judged)
    // What is gone needs no word; what has changed meanwhile is still to be told.
    const endpoints = new Set([...this.#observed.values()].flatMap(endpointsOf))
    const staying = (all: ReadonlySet<string>) => new Set([...all].filter((one) => endpoints.has(one)))
    this.#health = {
      ejected: staying(this.#health.ejected),
      closedToStreams: staying(this.#health.closedToStreams),
      openCircuits: new Set([...this.#health.openCircuits].filter((path) => stays.has(path))),
    }
  }

  #tellLeftOut(paths: readonly string[]): void {
    if (paths.length > 0 && paths.join() !== this.#leftOut.join())
      this.#options.log.warn('upstreams have too many endpoints to observe them all', firstOf(paths))
    this.#leftOut = paths
  }

  #followOne(followed: Followed): void {
    const { path, spec, addresses } = followed
    const rules = rulesOf(spec)
    const known = this.#observed.get(path)
    const judge = known?.judge ?? new Judge(rules)
    judge.follow(rules, addresses)
    if (known !== undefined) known.followed = followed
    else this.#observed.set(path, { followed, judge, triedAt: Number.NEGATIVE_INFINITY, isTrying: false })
  }

  #schedule(pauseMs: number): void {
    if (!this.#isRunning) return
    this.#cancel = this.#options.clock.after(pauseMs, () => {
      this.#turn = this.#tick().then(() => this.#schedule(this.#observed.size > 0 ? TICK_MS : IDLE_TICK_MS))
    })
  }

  async #tick(): Promise<void> {
    try {
      await this.#look()
    } catch (error) {
      // One bad look must not end all looking.
      this.#options.log.warn('upstreams could not be looked at', { error })
    }
  }

  async #look(): Promise<void> {
    try {
      for (let reads = 0; reads < READS_PER_TICK; reads += 1) {
        const { lines, hasMore } = await this.#options.traffic.read()
        for (const [index, line] of lines.entries()) {
          this.#count(line)
          if (index % LINES_AT_ONCE === LINES_AT_ONCE - 1) await setImmediate()
        }
        if (!hasMore) break
      }
    } catch (error) {
      // Probes go on without it.
      this.#options.log.warn('the traffic log could not be read', { error })
    }
    const now = this.#options.clock.monotonic()
    this.#checks.turn(now)
    for (const observed of this.#observed.values()) {
      observed.judge.turn(now)
      this.#try(observed, now)
    }
    this.#tell()
  }

  /** Takes one line of the traffic log to whom it concerns. */
  #count(line: string): void {
    const answer = parseAnswer(line)
    if (answer === undefined) return
    const { clock, onAnswer } = this.#options
    const { asked, status, startedMs } = answer
    const paths = asked.map((one) => this.#pathOf(one))
    onAnswer?.(answer, paths)
    const now = clock.monotonic()
    const started = now - Math.max(0, clock.now() - startedMs)
    for (const [index, { attempts, isRejected }] of asked.entries()) {
      const judge = this.#observed.get(paths[index] ?? '')?.judge
      if (judge === undefined || isRejected) continue
      for (const { address, failed } of attempts) judge.answered(address, failed, started, now)
      // Where the client went away first, nobody knows what the upstream would have said.
      const isGivenUp = status === CLIENT_CLOSED && index === asked.length - 1
      const last = attempts.at(-1)
      if (last !== undefined && !isGivenUp) judge.served(last.failed, started, now)
    }
  }

  #pathOf({ block, attempts }: Asked): string | undefined {
    return this.#paths.get(block) ?? this.#owners.get(attempts.at(-1)?.address ?? '')
  }

  /** Asks the endpoints of a half-open circuit: it passes when most of those that were asked do. */
  #try(observed: Observed, now: number): void {
    const { judge, followed } = observed
    if (judge.circuit !== 'half_open' || observed.isTrying || now < observed.triedAt + TRIAL_PAUSE_MS) return
    observed.isTrying = true
    observed.triedAt = now
    const ejected = new Set(judge.ejected)
    const asked = judge.addresses.filter((address) => !ejected.has(address)).slice(0, TRIED_MAX)
    void Promise.all(asked.map((address) => this.#options.probe(address, checkOf(followed.spec)))).then((results) => {
      observed.isTrying = false
      const passed = results.filter((result) => result).length
      judge.tried(passed > 0 && 2 * passed >= results.length, this.#options.clock.monotonic())
    })
  }

  #conclude(): ObservedHealth {
    const ejected = new Set<string>()
    const closedToStreams = new Set<string>()
    const openCircuits = new Set<string>()
    for (const [path, { judge }] of this.#observed) {
      for (const address of judge.ejected) ejected.add(`${path} ${address}`)
      for (const address of judge.closedToStreams) closedToStreams.add(`${path} ${address}`)
      if (judge.circuit !== 'closed') openCircuits.add(path)
    }
    return { ejected, closedToStreams, openCircuits }
  }

  /** Says what has changed since it was last said. */
  #tell(): void {
    const before = this.#health
    const after = this.#conclude()
    const { log, onChange } = this.#options
    const ejected = added(before.ejected, after.ejected)
    const back = added(after.ejected, before.ejected)
    const opened = added(before.openCircuits, after.openCircuits)
    const closed = added(after.openCircuits, before.openCircuits)
    const changes = [ejected, back, opened, closed].reduce((sum, { length }) => sum + length, 0)
    // An endpoint that was ejected for its answers may come to fail its health checks, too.
    if (changes === 0 && isSame(before.closedToStreams, after.closedToStreams)) return
    this.#health = after
    if (ejected.length > 0) log.warn('endpoints take no requests', firstOf(ejected))
    if (back.length > 0) log.info('endpoints take requests again', firstOf(back))
    if (opened.length > 0) log.warn('circuits of upstreams are open', firstOf(opened))
    if (closed.length > 0) log.info('circuits of upstreams are closed', firstOf(closed))
    onChange(changes)
  }
}

/** As many as one line of the log holds. */
function firstOf(list: readonly string[]) {
  return { first: list.slice(0, TOLD_MAX), count: list.length }
}

function endpointsOf({ followed: { path, addresses } }: Observed): readonly string[] {
  return addresses.map((address) => `${path} ${address}`)
}

/** The status that nginx logs when the client ended the request. */
const CLIENT_CLOSED = 499
/** Of each sort, in one line of the log. */
const TOLD_MAX = 16

function checkOf({ healthCheck }: UpstreamSpec): HealthCheck {
  return healthCheck ?? CONNECT
}

function isSame(a: ReadonlySet<string>, b: ReadonlySet<string>): boolean {
  return a.size === b.size && [...a].every((one) => b.has(one))
}

function added(before: ReadonlySet<string>, after: ReadonlySet<string>): readonly string[] {
  return [...after].filter((one) => !before.has(one))
}
