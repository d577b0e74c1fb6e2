/**
 * Brings live state to nginx's workers and proves it: under a stamp that grows, as a change of what they have or as a whole,
 * and into a file from which a master without memory of it starts. Owns that file. Called by src/live-lane.ts, which
 * decides when; knows nothing of generations.
 */

import { readFile } from 'node:fs/promises'
import { MeshError } from '../../errors.ts'
import type { Clock, NginxProcess } from '../../ports.ts'
import { fingerprintOf } from '../rendering/certificates.ts'
import { changeText, parseWhole, wholeText, type LiveState, type Stamped } from '../rendering/live.ts'
import { liveFile } from '../rendering/live-program.ts'
import { askWorkers } from './ask-workers.ts'
import { disk as realDisk, type Disk } from './disk.ts'
import type { LiveEndpoint } from './live-endpoint.ts'

export interface LivePushOptions {
  /** nginx's working directory. */
  readonly directory: string
  readonly nginx: Pick<NginxProcess, 'master' | 'workers'>
  readonly endpoint: LiveEndpoint
  readonly clock: Clock
  readonly disk?: Pick<Disk, 'write'>
}

/** What came of one attempt. */
export interface Brought {
  readonly stamp: number
  /** Every worker that is not draining goes by it. Else nginx does not run, or runs a generation without the lane. */
  readonly proven: boolean
  /** nginx had something else than what was pushed last. */
  readonly drifted: boolean
}

const VERIFY_MS = 5_000
const FIRST_PAUSE_MS = 1

export class LivePush {
  readonly #options: LivePushOptions
  readonly #disk: Pick<Disk, 'write'>
  /** What nginx shall have. */
  #wanted: Stamped = { stamp: 0, state: new Map() }
  /** What nginx is known to have had; undefined when it may be anything. */
  #pushed: Stamped | undefined
  /** What it had before that, while it may still have it. */
  #former: Stamped | undefined
  #savedStamp = 0
  #saving = Promise.resolve()

  constructor(options: LivePushOptions) {
    this.#options = options
    this.#disk = options.disk ?? realDisk
  }

  /** What nginx shall have. */
  get wanted(): Stamped {
    return this.#wanted
  }

  /** SHA-256 of the certificates that workers may show for an entry: the wanted one, and what they have until they take it up. */
  fingerprints(key: string): readonly string[] {
    const lines = [this.#wanted, this.#pushed, this.#former].flatMap((stamped) => stamped?.state.get(key) ?? [])
    return [...new Set(lines)].map(fingerprintOf)
  }

  /** Reads back what was wanted last. A damaged file counts as none. */
  async open(): Promise<void> {
    const text = await readFile(liveFile(this.#options), 'utf8').catch(() => '')
    const found = parseWhole(text)
    if (found === undefined) return
    this.#wanted = found
    this.#savedStamp = found.stamp
  }

  /** From now on nginx shall have this. Nothing is done yet. */
  want(state: LiveState): void {
    if (!isSame(state, this.#wanted.state)) this.#stampAbove(this.#wanted.stamp, state)
  }

  /** Resolves when a master that starts or reloads now finds what is wanted. @throws MeshError `store_unwritable`. */
  save(): Promise<void> {
    const saving = this.#saving
      .catch(() => undefined)
      .then(async () => {
        const wanted = this.#wanted
        if (this.#savedStamp === wanted.stamp) return
        await this.#disk.write(liveFile(this.#options), wholeText(wanted))
        this.#savedStamp = wanted.stamp
      })
    this.#saving = saving
    return saving
  }

  /**
   * Pushes what is wanted, and waits until every worker goes by it. What is in the file, save() sees to.
   * @throws MeshError `unavailable`, `too_large` or `nginx_refused` when it could not be pushed, `nginx_failed` when not
   * every worker took it up in time; all of them may be tried again
   */
  async bring(): Promise<Brought> {
    if (this.#pushed === this.#wanted) await this.#checkFile()
    const had = this.#pushed
    const drifted = await this.#push()
    const proven = drifted !== undefined
    const { stamp } = this.#wanted
    if (proven) {
      await this.#verify(stamp)
      this.#former = undefined
    }
    return { stamp, proven, drifted: drifted === true && had !== undefined }
  }

  /** Somebody may have removed or changed it. */
  async #checkFile(): Promise<void> {
    const text = await readFile(liveFile(this.#options), 'utf8').catch(() => undefined)
    if (text !== wholeText(this.#wanted)) this.#savedStamp = 0
  }

  /** Whether nginx had something unknown; undefined when there is nothing to push to. */
  async #push(): Promise<boolean | undefined> {
    const { nginx, endpoint } = this.#options
    const before = this.#pushed
    this.#pushed = undefined
    this.#former = before ?? this.#former
    if ((await nginx.master()) === undefined) return undefined
    const wanted = this.#wanted
    if (before !== undefined && before !== wanted && (await endpoint.push(changeText(before, wanted)))) {
      this.#pushed = wanted
      return false
    }
    const answer = await endpoint.ask()
    if (answer === undefined) return undefined
    if (answer.stamp === wanted.stamp) {
      this.#pushed = wanted
      return false
    }
    // The file was lost, and the time of day has been put back.
    if (answer.stamp > wanted.stamp) this.#stampAbove(answer.stamp, wanted.state)
    const stamped = this.#wanted
    if (!(await endpoint.push(wholeText(stamped))))
      throw new MeshError('unavailable', 'nginx was given another live state meanwhile', { hint: 'it is pushed again' })
    this.#pushed = stamped
    return true
  }

  #verify(stamp: number): Promise<true> {
    const { nginx, endpoint, clock } = this.#options
    return askWorkers({
      nginx,
      clock,
      ask: () => endpoint.ask(),
      firstPauseMs: FIRST_PAUSE_MS,
      limitMs: VERIFY_MS,
      judge: async (workers, answers, isLate) => {
        const behind = workers.filter((pid) => (answers.get(pid)?.stamp ?? -1) < stamp)
        if (workers.length > 0 && behind.length === 0) return true
        if ((await nginx.master()) === undefined) throw unproven('nginx ended')
        if (!isLate) return undefined
        const who = workers.length === 0 ? 'no worker was running' : `workers ${behind.join(', ')} had not taken it up`
        throw unproven(`after ${VERIFY_MS} ms ${who}`)
      },
    })
  }

  /** The wall clock, so that stamps grow though the file is lost; one more than before where it has been put back. */
  #stampAbove(stamp: number, state: LiveState): void {
    this.#wanted = { stamp: Math.max(stamp + 1, this.#options.clock.now()), state }
  }
}

function isSame(a: LiveState, b: LiveState): boolean {
  return a === b || (a.size === b.size && [...a].every(([key, value]) => b.get(key) === value))
}

function unproven(reason: string): MeshError {
  return new MeshError('nginx_failed', `the live state did not reach every worker: ${reason}`, {
    hint: 'it is pushed again by itself',
  })
}
