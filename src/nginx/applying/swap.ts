/**
 * The swap of one generation for another, with its proof: waits for memory, drains, links, reloads, asks every worker,
 * probes the changed sites, watches the share of 5xx; and the way back. Says what failed and whom that blames; what
 * follows from it is for apply.ts, which calls this.
 */

import { asMeshError } from '../../errors.ts'
import { TRAFFIC_DELAY_MS } from '../rendering/traffic-log.ts'
import type { Unit } from '../rendering/unit.ts'
import { bakeFailure, countAnswers, sitesToWatch, type AnswerCounts } from './bake.ts'
import { Drain } from './drain.ts'
import { waitForMemory } from './gate.ts'
import type { Generation } from './generation.ts'
import { blamedUnits, changedUnits } from './isolate.ts'
import { probeTargets, sameTarget, worsened, type ProbeAnswer } from './probe.ts'
import { applyError, type ApplyError, type ApplyRequest, type Run } from './run.ts'
import { unproven, type Serving } from './serving.ts'
import type { Parts } from './settings.ts'

/** Why a generation did not prove itself. */
export interface Failure {
  readonly error: ApplyError
  readonly blamed: readonly Unit[]
  /** Whether nginx was made to try it. When not, it is the attempt that failed, not the generation. */
  readonly reached: boolean
  /** Whether a worker may run it, so that nginx has to be told to go back. */
  readonly mayRun: boolean
}

/** One swap as it is asked for. */
export interface SwapOrder {
  readonly previous: Generation
  /** Staged and tested. */
  readonly next: Generation
  readonly request: Pick<ApplyRequest, 'drainMs' | 'bakeMs' | 'onWait' | 'observedOnly'>
  readonly master: number | undefined
  readonly run: Run
  /** An abort before the reload gives the swap up; after it, it only ends the bake. */
  readonly signal: AbortSignal | undefined
}

const BAKE_POLL_MS = 250
/** A probe that fails is repeated, since an old worker may still have accepted it. */
const PROBE_ATTEMPTS = 3
const PROBE_PAUSE_MS = 100

export class Swap {
  readonly #parts: Parts
  readonly #serving: Serving
  readonly drain: Drain

  constructor(parts: Parts, serving: Serving) {
    this.#parts = parts
    this.drain = new Drain(parts)
    this.#serving = serving
  }

  /**
   * Makes nginx serve the next generation. Undefined when it has proven itself.
   * @throws MeshError `unavailable`, `store_unwritable`, `nginx_failed` when nothing was begun
   */
  async forth(order: SwapOrder): Promise<Failure | undefined> {
    const { previous, next, request, master, run, signal } = order
    const { endpoint, settings } = this.#parts
    if (master === undefined && settings.mode === 'attach') throw this.#serving.absent()
    const sites = request.observedOnly === true ? [] : changedSites(previous.units, next.units)
    let before: ReadonlyMap<string, ProbeAnswer> = new Map()
    if (master !== undefined) {
      await run.phase('gate', () => waitForMemory(this.#parts, master, request.onWait, signal))
      // Counted before the probes, which would count as clients.
      const clients = await endpoint.connections()
      before = await run.phase('probe', () => this.#probeBefore(sites, previous))
      if (clients !== undefined && clients.active > 0)
        await run.phase('drain', () => this.drain.begin(previous, request.drainMs, signal))
    }
    const earlier = await this.#answersSoFar(request.bakeMs)
    return (
      (await this.#load(order)) ??
      (await run.phase('probe', () => this.#probeAfter(sites, before))) ??
      (await run.phase('bake', () => this.#bake(sitesToWatch(previous.units, next.units), earlier, order)))
    )
  }

  /** Makes nginx serve the previous generation again. @throws MeshError when it does not come to. */
  async back({ previous, next, request }: SwapOrder, { mayRun }: Failure): Promise<void> {
    const { nginx, store } = this.#parts
    try {
      await store.activate(previous.digest)
      const master = await nginx.master()
      if (master === undefined) {
        await this.#serving.start()
      } else if (mayRun) {
        await this.drain.begin(next, request.drainMs, undefined)
        await this.#serving.reload(master)
      }
      await this.#serving.demand(previous.digest)
      await this.#serving.prove(previous)
    } finally {
      await this.drain.end()
    }
  }

  /** Links the generation, makes nginx load it and waits for the proof. An abort counts until then. */
  async #load({ next, master, run, signal }: SwapOrder): Promise<Failure | undefined> {
    const { store } = this.#parts
    let reached = false
    try {
      signal?.throwIfAborted()
      await run.phase('reload', async () => {
        await store.activate(next.digest)
        this.#serving.unprove()
        reached = master === undefined
        if (master === undefined) await this.#serving.start()
        else await this.#serving.reload(master)
        reached = true
      })
      const verification = await run.phase('verify', () => this.#serving.verify(next.digest))
      if (verification.proven) return undefined
      const error = applyError(unproven(next.digest, verification))
      return { error, blamed: blamedUnits(verification.reason, next.units), reached, mayRun: !verification.refused }
    } catch (error) {
      const blamed = blamedUnits(asMeshError(error).message, next.units)
      return { error: applyError(error), blamed, reached, mayRun: reached }
    } finally {
      await this.drain.end()
    }
  }

  /** How the changed sites answer now, where nginx serves the same server already. */
  #probeBefore(sites: readonly Unit[], previous: Generation): Promise<Map<string, ProbeAnswer>> {
    const paths = new Set(sites.map(({ path }) => path))
    const old = new Map(
      probeTargets(previous.units.filter(({ path }) => paths.has(path))).map((target) => [target.site, target]),
    )
    const targets = probeTargets(sites).filter((target) => {
      const other = old.get(target.site)
      return other !== undefined && sameTarget(other, target)
    })
    return this.#parts.probe(targets, this.#parts.settings.probeTimeoutMs)
  }

  async #probeAfter(sites: readonly Unit[], before: ReadonlyMap<string, ProbeAnswer>): Promise<Failure | undefined> {
    let targets = probeTargets(sites)
    for (let attempt = 1; ; attempt += 1) {
      const answers = await this.#parts.probe(targets, this.#parts.settings.probeTimeoutMs)
      const worse = targets.flatMap((target) => {
        const answer = answers.get(target.site)
        const reason = answer === undefined ? undefined : worsened(before.get(target.site), answer)
        return reason === undefined ? [] : [{ target, reason }]
      })
      if (worse.length === 0) return undefined
      if (attempt === PROBE_ATTEMPTS) {
        const blamed = sites.filter(({ path }) => worse.some(({ target }) => target.site === path))
        const reasons = worse.map(({ target, reason }) => `${target.site} (${target.host}:${target.port}): ${reason}`)
        return worsenedBy(reasons.join('; '), blamed)
      }
      targets = worse.map(({ target }) => target)
      await this.#parts.clock.sleep(PROBE_PAUSE_MS)
    }
  }

  /** Counted before the reload: the observer may empty the log meanwhile. */
  async #answersSoFar(bakeMs: number): Promise<AnswerCounts> {
    if (bakeMs === 0) return new Map()
    const { trafficLog } = this.#parts
    await trafficLog.mark()
    return countAnswers(await trafficLog.beforeMark())
  }

  async #bake(
    sites: readonly Unit[],
    earlier: AnswerCounts,
    { request: { bakeMs }, signal }: SwapOrder,
  ): Promise<Failure | undefined> {
    if (bakeMs === 0) return undefined
    const { nginx, clock, settings, trafficLog } = this.#parts
    const changed = sites.map(({ path }) => path)
    const since: AnswerCounts = new Map()
    const master = await nginx.master()
    const deadline = clock.monotonic() + bakeMs + TRAFFIC_DELAY_MS
    while (clock.monotonic() < deadline && signal?.aborted !== true) {
      await clock.sleep(Math.min(BAKE_POLL_MS, deadline - clock.monotonic()), signal).catch(() => undefined)
      const now = await nginx.master()
      // Nobody else looks after nginx meanwhile. That it ended says nothing about the generation.
      if (now === undefined || now !== master) return interrupted(now)
      countAnswers(await trafficLog.read(), since)
      const failure = bakeFailure(earlier, since, changed, settings.bake)
      if (failure !== undefined) {
        return worsenedBy(
          failure.reason,
          sites.filter(({ path }) => failure.sites.includes(path)),
        )
      }
    }
    return undefined
  }
}

/** Sites whose own text, or that of an upstream that they need, is not what it was. */
function changedSites(before: readonly Unit[], after: readonly Unit[]): readonly Unit[] {
  const changed = new Set(changedUnits(before, after).map(({ path }) => path))
  return after.filter(
    ({ kind, path, needs }) =>
      (kind === 'site' || kind === 'stream') && [path, ...needs].some((one) => changed.has(one)),
  )
}

function worsenedBy(message: string, blamed: readonly Unit[]): Failure {
  return { error: { code: 'nginx_refused', message }, blamed, reached: true, mayRun: true }
}

/** nginx ended while it was watched, or is another one now. */
function interrupted(master: number | undefined): Failure {
  const message = master === undefined ? 'nginx ended while it was watched' : 'another nginx runs than was watched'
  return { error: { code: 'nginx_failed', message }, blamed: [], reached: false, mayRun: true }
}
