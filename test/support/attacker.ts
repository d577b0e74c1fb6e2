/**
 * Somebody who stole the key of a granted node: tells every daemon of a fleet what a test wants, by every way in (API over
 * TCP, gossip, sync asked for and unasked), and looks whether all of them make the same of it. For e2e tests of threats.
 */

import { randomBytes } from 'node:crypto'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect } from 'vitest'
import type { Outcome } from '../../src/replica.ts'
import type { NodeView, Problem } from '../../src/api/schemas.ts'
import { toWire } from '../../src/core/codec.ts'
import { keyPairFromSeed, type Envelope, type KeyPair, type WireEnvelope } from '../../src/core/envelope.ts'
import { signToken } from '../../src/core/token.ts'
import { Author } from './author.ts'
import type { Fleet, Member } from './fleet.ts'
import { http, type HttpAnswer } from './http.ts'
import { Mole } from './mole.ts'
import { each, eventually, hostOf, tell } from './use-fleet.ts'

const TOKEN_SECONDS = 3_600

export interface Verdict {
  readonly accepted: boolean
  readonly message: string | null
}

/** POSTs envelopes to a member over TCP, with a token of this key. */
export async function submit(
  fleet: Fleet,
  member: Member,
  key: KeyPair,
  envelopes: readonly WireEnvelope[],
): Promise<HttpAnswer> {
  const authorization = `Bearer ${signToken(key, fleet.meshId, Date.now(), TOKEN_SECONDS)}`
  return await http(member.api, '/v1/edits', {
    method: 'POST',
    headers: { authorization, 'content-type': 'application/json' },
    body: JSON.stringify({ envelopes: envelopes.map(toWire) }),
  })
}

/** What became of each envelope of a submission; the words of the refusal when there was one alone. */
export function outcomesOf(answer: HttpAnswer): string[] {
  const { outcomes, detail } = answer.json() as { outcomes?: Outcome[] } & Partial<Problem>
  return outcomes?.map((one) => one.outcome) ?? [detail ?? '']
}

/** How a member judges an envelope; undefined while it does not hold it. */
export async function verdictAt(member: Member, id: string): Promise<Verdict | undefined> {
  const { status, json } = await http(member.socket, `/v1/edits/${id}`)
  if (status === 404) return undefined
  const { accepted, message } = (json() as { verdict: Verdict }).verdict
  return { accepted, message }
}

/** Waits until each member holds an envelope and all judge it alike; that verdict. */
export async function verdictOn(members: readonly Member[], id: string): Promise<Verdict> {
  let found: (Verdict | 'down' | undefined)[] = []
  await eventually(async () => {
    found = Object.values(await each(members, (member) => verdictAt(member, id)))
    return new Set(found.map((one) => JSON.stringify(one ?? 'missing')))
  }, `all hold ${id} and judge it alike`).toSatisfy((kinds: Set<string>) => kinds.size === 1 && !kinds.has('"missing"'))
  return found[0] as Verdict
}

/** Everything that an act could change, at each member. */
export async function footprint(members: readonly Member[]): Promise<Record<string, unknown>> {
  return await each(members, async (member) => {
    const { stateHash, envelopes } = await member.get<NodeView>('/v1/node')
    const totals = ['/v1/resources', '/v1/grants'].map(
      async (path) => (await member.get<{ meta: { total: number } }>(path)).meta.total,
    )
    return { stateHash, envelopes, totals: await Promise.all(totals) }
  })
}

/** Somebody whom the owner grants a role, as every member knows; their key lies in a file of that name. */
export async function hire(
  fleet: Fleet,
  members: readonly Member[],
  name: string,
  role: string,
  scope: readonly string[],
): Promise<Author> {
  const key = keyPairFromSeed(randomBytes(32))
  await writeFile(join(fleet.directory, `${name}.key`), Buffer.from(key.seed).toString('hex'), { mode: 0o600 })
  const granted = await tell(fleet, members[0]!, ['grant', role, key.publicKey, '--name', name, ...scope])
  expect(await verdictOn(members, granted.trim())).toEqual({ accepted: true, message: null })
  return new Author(fleet.meshId, key, granted.trim())
}

/** Visits sites at every nginx, again and again; the returned function ends that and tells which statuses there were. */
export function watchSites(members: readonly Member[], sites: readonly string[]) {
  const seen = new Set<string>()
  let visits = 0
  let isOver = false
  const visitOnce = async (member: Member, site: string): Promise<void> => {
    const status = await member.visit(hostOf(site)).then(
      (answer) => String(answer.status),
      (error: Error) => error.message,
    )
    seen.add(status)
    visits += 1
  }
  const done = (async () => {
    while (!isOver) {
      for (const site of sites) await Promise.all(members.map((member) => visitOnce(member, site)))
    }
  })()
  return async () => {
    isOver = true
    await done
    return { visits, seen: [...seen] }
  }
}

export class Attacker {
  readonly key: KeyPair
  readonly mole: Mole
  readonly members: readonly Member[]
  readonly #fleet: Fleet

  private constructor(fleet: Fleet, members: readonly Member[], key: KeyPair) {
    this.#fleet = fleet
    this.members = members
    this.key = key
    this.mole = new Mole(key, fleet.founding[0]!)
  }

  /** A node that the owner grants, and whose key is then used by another program, connected with all the members. */
  static async enter(fleet: Fleet, members: readonly Member[], name: string): Promise<Attacker> {
    const { key } = await fleet.add({ name })
    await tell(fleet, members[0]!, ['grant', 'node', key.publicKey, '--zone', 'eu', '--name', name])
    const attacker = new Attacker(fleet, members, key)
    const addresses = members.map((member) => ({
      key: member.key.publicKey,
      addresses: [`127.0.0.1:${member.meshPort}`],
    }))
    await attacker.mole.start(...addresses)
    return attacker
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.mole.stop()
  }

  /** The API of each member, with a token of the stolen key. */
  async submit(...envelopes: readonly WireEnvelope[]): Promise<Record<string, HttpAnswer>> {
    const answers = await each(this.members, (member) => submit(this.#fleet, member, this.key, envelopes))
    return answers as Record<string, HttpAnswer>
  }

  /** Claims to hold just what each daemon does, until each has heard so. */
  async agree(): Promise<void> {
    const { comparisons } = this.mole
    await this.mole.agree()
    await eventually(() => this.mole.comparisons).toBeGreaterThan(comparisons)
  }
}

/** Tries one act by every way in: each daemon must refuse it in the same words, hold nothing of it and pass nothing on. */
export async function expectRefused(
  attacker: Attacker,
  envelope: Envelope,
  reason: RegExp,
  what: string,
): Promise<void> {
  const { members, mole } = attacker
  const before = await footprint(members)
  const seen = await refusals(members)
  const answers = Object.values(await attacker.submit(envelope))
  const words = answers.map((answer) => [answer.status, (answer.json() as Problem).detail])
  expect.soft([400, 403], what).toContain(words[0]?.[0])
  expect.soft(words[0]?.[1], what).toMatch(reason)
  expect.soft(words, `${what}, the same everywhere`).toEqual(members.map(() => words[0]))
  await mole.gossip(envelope)
  await refused(members, 'gossip', seen, what)
  await mole.offer(envelope)
  await refused(members, 'sync', seen, what)
  // Who goes on lying is asked ever less often; one round in which it agrees makes up for it.
  await attacker.agree()
  const settled = await refusals(members)
  for (const { key } of members) await mole.push(key.publicKey, envelope)
  await refused(members, 'sync', settled, what)
  expect(await footprint(members), what).toEqual(before)
}

/**
 * Tries acts of one key that are well signed under a grant that counts no more, by another way each: they are kept, since a
 * verdict may change, and judged alike, and they change nothing.
 */
export async function expectVoid(
  attacker: Attacker,
  acts: readonly [Envelope, Envelope, Envelope],
  reason: RegExp,
  what: string,
): Promise<void> {
  const { members, mole } = attacker
  const [gossiped, synced, pushed] = acts
  const before = await footprint(members)
  for (const answer of Object.values(await attacker.submit(gossiped))) {
    const found = [answer.status, (answer.json() as Problem).detail]
    expect.soft(found, what).toEqual([403, expect.stringMatching(reason)])
  }
  expect.soft(await footprint(members), `${what}: the API stores nothing of it`).toEqual(before)
  await mole.gossip(gossiped)
  expect.soft((await verdictOn(members, gossiped.id)).message, what).toMatch(reason)
  await mole.offer(synced)
  expect.soft((await verdictOn(members, synced.id)).message, what).toMatch(reason)
  await attacker.agree()
  await mole.push(members[0]!.key.publicKey, pushed)
  expect.soft((await verdictOn(members, pushed.id)).message, what).toMatch(reason)
  const kept = Object.entries(before).map(([name, found]) => {
    const { envelopes, ...rest } = found as { envelopes: number }
    return [name, { ...rest, envelopes: envelopes + acts.length }]
  })
  expect(await footprint(members), what).toEqual(Object.fromEntries(kept))
}

type Refusals = Record<string, { readonly gossip: number; readonly sync: number }>

async function refusals(members: readonly Member[]): Promise<Refusals> {
  const found = await each(members, async (member) => ({
    gossip: await member.metric('nxmesh_edits_total', { outcome: 'refused', source: 'gossip' }),
    sync: await member.metric('nxmesh_edits_total', { outcome: 'refused', source: 'sync' }),
  }))
  return found as Refusals
}

/** Waits until each member has refused something more. */
async function refused(
  members: readonly Member[],
  source: 'gossip' | 'sync',
  since: Refusals,
  what: string,
): Promise<void> {
  await eventually(async () => {
    const now = await refusals(members)
    return Object.keys(now).filter((name) => now[name]![source] <= since[name]![source])
  }, `${what}: each refuses it from ${source}`).toEqual([])
}
