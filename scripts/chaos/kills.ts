/**
 * Rounds of `kill -9` of daemons and of nginx at random moments, under writes, and what must hold after each: nothing that
 * was acknowledged is lost, the store opens, nginx serves what is desired. Called by chaos.ts, which prints.
 */

import { chmod, cp, readFile, rm } from 'node:fs/promises'
import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { LevelStore } from '../../src/adapters/store.ts'
import { sealKeyFromSeed } from '../../src/adapters/identity.ts'
import type { EditView, NodeView } from '../../src/api/schemas.ts'
import {
  keyPairFromSeed,
  signEnvelope,
  type EditBody,
  type Envelope,
  type GrantBody,
  type Op,
  type ResourceEdit,
} from '../../src/core/envelope.ts'
import { childrenOf, titleOf } from '../../src/nginx/applying/proc.ts'
import { Fleet, type Member } from '../../test/support/fleet.ts'
import type { Dice } from '../../test/support/histories.ts'
import { waitFor } from '../../test/support/wait.ts'
import { askSite } from '../ask-site.ts'
import { Writer } from './writer.ts'

/** What may be killed. Each round takes one. */
export const KILLS = [
  'daemon',
  'daemon, and again while it starts',
  'nginx master',
  'nginx worker',
  'nginx, all of it',
  'daemon and nginx',
] as const
export type Kill = (typeof KILLS)[number]

export interface Round {
  readonly kill: Kill
  readonly victim: string
  /** Edits acknowledged in this round. */
  readonly edits: number
  /** From the kill until all nodes agree, are healthy and serve every edit, ms. */
  readonly recoveryMs: number
}

const NODES = ['a', 'b', 'c'] as const
const WRITERS = 6
/** Two a round keeps an author within the 60 edits a minute and the burst of 300 that nodes take. */
const EDITS_A_ROUND = 2
/** Within this time from the start of a round the edits are made and the kill happens, ms. */
const ROUND_SPREAD_MS = 500
/** A daemon takes about this long to start, ms. */
const START_SPREAD_MS = 800
/** What takes longer is not coming. */
const DEADLINE_MS = 90_000
const SHARED = 'default/*/site/shared'

/** What does not hold, after which nothing more is tried. */
export class Violation extends Error {}

export class KillsRun {
  readonly fleet: Fleet
  readonly #dice: Dice
  readonly #signal: AbortSignal
  readonly #writers: readonly Writer[]
  readonly #owner: OwnerChain
  /** What daemons wrote in their former lives, by name. */
  readonly #logs = new Map<string, string>()
  /** Value that each writer wrote last. */
  readonly #written = new Map<string, string>()
  #storesOpened = 0

  private constructor(fleet: Fleet, dice: Dice, signal: AbortSignal) {
    this.fleet = fleet
    this.#dice = dice
    this.#signal = signal
    this.#owner = new OwnerChain(fleet)
    this.#writers = Array.from({ length: WRITERS }, (_, index) => {
      const key = keyPairFromSeed(randomBytes(32))
      return new Writer(`w${index + 1}`, fleet.meshId, key, this.#owner.grantEditor(key.publicKey).id)
    })
  }

  static async create(dice: Dice, signal: AbortSignal): Promise<KillsRun> {
    const fleet = await Fleet.create({ members: NODES.map((name) => ({ name })), nginx: true })
    // nginx's workers may be another user, and have to get at their files.
    await chmod(fleet.directory, 0o711)
    return new KillsRun(fleet, dice, signal)
  }

  get acknowledged(): number {
    return this.#writers.reduce((sum, { acknowledged }) => sum + acknowledged.length, 0)
  }

  /** How many times the store of a killed daemon was opened and held all that it had acknowledged. */
  get storesOpened(): number {
    return this.#storesOpened
  }

  /** Starts the nodes, grants the writers and makes the site that all of them edit. */
  async start(): Promise<void> {
    await this.fleet.start()
    this.#owner.edit([[SHARED, [], siteOps('shared', 'shared')]])
    const response = await (this.fleet.members[0] as Member).push(this.#owner.chain)
    if (response.status !== 202) throw new Error(`the grants were refused: ${response.text}`)
    await this.#recovered()
  }

  async round(): Promise<Round> {
    const dice = this.#dice
    const kill = dice.pick(KILLS)
    const victim = dice.pick(this.fleet.members)
    const before = this.acknowledged
    const writing = this.#writers.map((writer) => this.#writeSome(writer))
    let killedAt = 0
    const killing = this.#pause(ROUND_SPREAD_MS).then(() => {
      killedAt = performance.now()
      return this.#kill(kill, victim)
    })
    // All of them, so that nothing of this round runs on into the next or into the evidence.
    const ended = await Promise.allSettled([killing, ...writing])
    for (const result of ended) if (result.status === 'rejected') throw result.reason
    await this.#recovered()
    return {
      kill,
      victim: victim.name,
      edits: this.acknowledged - before,
      recoveryMs: Math.round(performance.now() - killedAt),
    }
  }

  /** @throws Violation when an acknowledged edit is missing at any node. */
  async checkNothingLost(): Promise<void> {
    await Promise.all(
      this.fleet.members.map(async (member) => {
        const present = new Set<string>()
        for (let after = ''; ;) {
          const page = await member.get<{ data: EditView[]; next: string | null }>(
            `/v1/edits?limit=1000${after === '' ? '' : `&after=${after}`}`,
          )
          for (const { id } of page.data) present.add(id)
          if (page.next === null) break
          after = page.next
        }
        this.#expectAll(
          present,
          this.#writers.flatMap(({ acknowledged }) => acknowledged.map(({ id }) => id)),
          `at ${member.name}`,
        )
      }),
    )
  }

  /** The logs of every life of each daemon. */
  logs(): ReadonlyMap<string, string> {
    return new Map(
      this.fleet.members.map((member) => [member.name, `${this.#logs.get(member.name) ?? ''}${member.stderr}`]),
    )
  }

  // -------------------------------------------------------------------------------------------- writing

  async #writeSome(writer: Writer): Promise<void> {
    for (let count = 0; count < EDITS_A_ROUND; count += 1) {
      const nodes = this.#dice.shuffle(this.fleet.members)
      await this.#pause(ROUND_SPREAD_MS / EDITS_A_ROUND)
      const { name, last } = writer
      const value = `${writer.acknowledged.length + 1}`
      const own = `default/*/site/${name}`
      const deps = last === undefined ? [] : [last.id]
      const create = last === undefined ? siteOps(name, value) : [set('routes/root/return/body', value)]
      const edits: ResourceEdit[] = [
        [
          SHARED,
          last === undefined ? [this.#owner.chain.at(-1)!.id] : deps,
          [set(`responseHeaders/set/X-${name}`, value)],
        ],
        [own, deps, create],
      ]
      await writer.write(edits, nodes, this.#signal)
      this.#written.set(name, value)
    }
  }

  // -------------------------------------------------------------------------------------------- killing

  async #kill(kill: Kill, victim: Member): Promise<void> {
    switch (kill) {
      case 'daemon':
        return await this.#killDaemon(victim, [])
      case 'daemon, and again while it starts':
        return await this.#killDaemon(victim, [this.#dice.next() * START_SPREAD_MS])
      case 'daemon and nginx': {
        const pids = await nginxPids(victim)
        killAll(pids === undefined ? [] : [pids.master, ...pids.workers])
        return await this.#killDaemon(victim, [])
      }
      case 'nginx master':
        return await this.#killNginx(victim, ({ master }) => [master])
      case 'nginx worker':
        return await this.#killNginx(victim, ({ workers }) => workers.slice(0, 1))
      case 'nginx, all of it':
        return await this.#killNginx(victim, ({ master, workers }) => [master, ...workers])
    }
  }

  /** Kills the daemon, looks at its store, and starts it; kills it again after each of `agains`, ms from its start. */
  async #killDaemon(victim: Member, agains: readonly number[]): Promise<void> {
    await victim.stop('SIGKILL')
    // What it acknowledged up to now is on its disk; asked before any peer could give it back.
    const promised = this.#writers.flatMap(({ acknowledged }) => acknowledged.filter(({ by }) => by === victim.name))
    await this.#checkStore(
      victim,
      promised.map(({ id }) => id),
    )
    for (const afterMs of agains) {
      victim.spawn()
      await sleep(afterMs, undefined, { signal: this.#signal })
      await victim.stop('SIGKILL')
      this.#keepLog(victim)
    }
    this.#keepLog(victim)
    await victim.start().catch((error: unknown) => {
      throw new Violation(`${victim.name} does not start again`, { cause: error })
    })
  }

  /** Opens a copy, so that the daemon finds the store as the kill has left it. */
  async #checkStore(victim: Member, promised: readonly string[]): Promise<void> {
    const copy = join(victim.directory, 'store-copy')
    await cp(join(victim.dataDirectory, 'store'), copy, { recursive: true })
    const store = new LevelStore({ directory: copy, sealKey: sealKeyFromSeed(victim.key.seed) })
    const present = new Set<string>()
    const corrupt: string[] = []
    try {
      await store.start()
      for await (const { id } of store.envelopes(({ key, reason }) => corrupt.push(`${key}: ${reason}`)))
        present.add(id)
    } catch (error) {
      throw new Violation(`the store of ${victim.name} does not open`, { cause: error })
    } finally {
      await store.stop()
    }
    if (corrupt.length > 0)
      throw new Violation(`the store of ${victim.name} holds damaged records: ${corrupt.join('; ')}`)
    this.#expectAll(present, promised, `on the disk of ${victim.name}`)
    await rm(copy, { recursive: true })
    this.#storesOpened += 1
  }

  async #killNginx(victim: Member, choose: (pids: NginxPids) => readonly number[]): Promise<void> {
    const pids = await nginxPids(victim)
    if (pids === undefined) throw new Violation(`nginx of ${victim.name} does not run at the start of a round`)
    const killed = choose(pids)
    killAll(killed)
    const what = (): string =>
      `nginx of ${victim.name} has a master and workers, none of them killed (${killed.join(' ')})`
    await this.#holds(what, async () => {
      const now = await nginxPids(victim)
      return (
        now !== undefined && now.workers.length > 0 && ![now.master, ...now.workers].some((pid) => killed.includes(pid))
      )
    })
  }

  // -------------------------------------------------------------------------------------------- what must hold

  /** Waits until all nodes hold the same, are healthy, and their nginx answers with the latest edit of every writer. */
  async #recovered(): Promise<void> {
    for (const member of this.fleet.members) await this.#isServed(member)
    const hashes = () => Promise.all(this.fleet.members.map((member) => member.get<NodeView>('/v1/node')))
    await this.#holds('the state hashes are equal', async () => {
      return new Set((await hashes()).map(({ stateHash }) => stateHash)).size === 1
    })
  }

  async #isServed(member: Member): Promise<void> {
    await this.#holds(`nginx of ${member.name} serves the latest edit of every writer`, async () => {
      const shared = await ask(member, 'shared')
      const bodies = await Promise.all([...this.#written.keys()].map(async (name) => (await ask(member, name)).text))
      const values = [...this.#written.values()]
      const headers = [...this.#written.keys()].map((name) => shared.headers[`x-${name}`])
      return shared.status === 200 && bodies.join() === values.join() && headers.join() === values.join()
    })
    await this.#holds(`${member.name} is healthy and has applied what it desires`, async () => {
      const { status, converged } = await member.get<{ status: string; converged: boolean }>('/health')
      return status === 'Running' && converged
    })
  }

  #expectAll(present: ReadonlySet<string>, expected: readonly string[], where: string): void {
    const lost = expected.filter((id) => !present.has(id))
    if (lost.length > 0)
      throw new Violation(`${lost.length} acknowledged edits are not ${where}: ${lost.slice(0, 5).join(' ')}`)
  }

  async #holds(what: string | (() => string), condition: () => Promise<boolean>): Promise<void> {
    const looked = async (): Promise<'yes' | 'stop' | false> => {
      if (this.#signal.aborted) return 'stop'
      await sleep(20)
      return (await condition()) ? 'yes' : false
    }
    await waitFor(looked, { timeoutMs: DEADLINE_MS, what }).catch((error: unknown) => {
      throw new Violation((error as Error).message, { cause: (error as Error).cause })
    })
    this.#signal.throwIfAborted()
  }

  async #pause(maxMs: number): Promise<void> {
    await sleep(this.#dice.next() * maxMs, undefined, { signal: this.#signal })
  }

  #keepLog(member: Member): void {
    const LOG_MAX = 1024 * 1024
    this.#logs.set(member.name, `${this.#logs.get(member.name) ?? ''}${member.stderr}--- killed\n`.slice(-LOG_MAX))
  }
}

/** What the owner signs: grants for the writers, and the first edit. */
class OwnerChain {
  readonly chain: Envelope<EditBody | GrantBody>[] = []
  readonly #fleet: Fleet

  constructor(fleet: Fleet) {
    this.#fleet = fleet
  }

  grantEditor(subject: string): Envelope<GrantBody> {
    return this.#sign<GrantBody>({ type: 'grant', subject, role: 'editor', zones: ['*'], kinds: ['*'] })
  }

  edit(edits: readonly ResourceEdit[]): Envelope<EditBody> {
    return this.#sign<EditBody>({ type: 'edit', edits })
  }

  #sign<B extends EditBody | GrantBody>(rest: Pick<B, 'type'> & Partial<B>): Envelope<B> {
    const { meshId, owner, founding } = this.#fleet
    const common = {
      v: 1,
      mesh: meshId,
      ws: 'default',
      by: owner.publicKey,
      grant: founding[1]!.id,
      n: this.chain.length + 1,
      prev: this.chain.slice(-1).map(({ id }) => id),
      at: Date.now(),
      note: '',
    }
    const envelope = signEnvelope({ ...common, ...rest } as unknown as B, [owner])
    this.chain.push(envelope)
    return envelope
  }
}

function set(field: string, value: string | number | boolean): Op {
  return ['set', field, value]
}

/** Creates a site that answers with one text. */
function siteOps(name: string, body: string): Op[] {
  return [
    set('$', true),
    set(`hosts/${name}.example.com`, true),
    set('routes/root/action', 'return'),
    set('routes/root/path', '/'),
    set('routes/root/return/body', body),
    set('routes/root/return/status', 200),
  ]
}

function ask(member: Member, site: string) {
  return askSite(member.httpPort, `${site}.example.com`)
}

interface NginxPids {
  readonly master: number
  readonly workers: readonly number[]
}

/** The nginx of a member; undefined when no master of its directory lives. */
async function nginxPids(member: Member): Promise<NginxPids | undefined> {
  const directory = join(member.dataDirectory, 'nginx')
  const master = Number(await readFile(join(directory, 'nginx.pid'), 'utf8').catch(() => '0'))
  if (master <= 1 || !titleOf(master).includes(directory)) return undefined
  const children = await childrenOf(master)
  return { master, workers: children.filter((pid) => titleOf(pid) === 'nginx: worker process') }
}

function killAll(pids: readonly number[]): void {
  for (const pid of pids) {
    try {
      process.kill(pid, 'SIGKILL')
    } catch {
      // It has ended by itself in the meantime.
    }
  }
}
