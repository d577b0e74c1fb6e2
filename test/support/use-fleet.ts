/**
 * A fleet for the tests of one file: made and started before them, ended after them, its logs printed when one of them
 * fails. And the ways in which e2e tests look at a fleet: until what they wait for holds, with a generous deadline.
 */

import { afterAll, beforeAll, beforeEach, expect } from 'vitest'
import type { NodeView } from '../../src/api/schemas.ts'
import { meshctl, type CliResult } from './cli.ts'
import { Fleet, type FleetOptions, type Member } from './fleet.ts'

/** Beyond what anything takes on a busy machine; what is not there by then does not come. */
export const PATIENCE_MS = 60_000
const LOOK_EVERY_MS = 100

/** Looks again and again until the matcher that follows holds: `await eventually(() => ...).toEqual(...)`. */
export function eventually<T>(look: () => T | Promise<T>, what?: string) {
  return expect.poll(look, {
    timeout: PATIENCE_MS,
    interval: LOOK_EVERY_MS,
    ...(what === undefined ? {} : { message: what }),
  })
}

/** The fleet of a test file. To be called once, at the top of the file; `fleet()` is for the tests. */
export function useFleet(options: FleetOptions & { readonly started?: boolean }): () => Fleet {
  let fleet: Fleet | undefined
  beforeAll(async () => {
    fleet = await Fleet.create(options)
    if (options.started !== false) await fleet.start()
  })
  beforeEach(({ onTestFailed }) => {
    onTestFailed(async () => {
      // vitest shows it beside the failure
      if (fleet !== undefined) console.error(await fleet.logs())
    })
  })
  afterAll(async () => {
    await fleet?.stop()
  })
  return () => {
    if (fleet === undefined) throw new Error('the fleet was not made')
    return fleet
  }
}

export interface Call {
  /** Key file in the fleet's folder; default: the owner's. */
  readonly key?: string
  readonly stdin?: string
  /** Named, since nothing that the key has signed tells it. */
  readonly mesh?: string
}

/** Runs meshctl against one member, in this process. */
export async function ask(fleet: Fleet, at: Member, argv: readonly string[], call: Call = {}): Promise<CliResult> {
  return await meshctl(argv, {
    cwd: fleet.directory,
    env: { NXMESH_API: at.api, NXMESH_KEY: call.key ?? 'owner.key', NXMESH_MESH_ID: call.mesh },
    ...(call.stdin === undefined ? {} : { stdin: call.stdin }),
  })
}

/** The same, for what must succeed; its standard output. */
export async function tell(fleet: Fleet, at: Member, argv: readonly string[], call: Call = {}): Promise<string> {
  const { code, out, err } = await ask(fleet, at, argv, call)
  expect(code, `meshctl ${argv.join(' ')} at ${at.name}: ${err}`).toBe(0)
  return out
}

export interface SiteParts {
  readonly name: string
  readonly zone?: string
  readonly body?: string
  /** Laid over the spec. */
  readonly spec?: Readonly<Record<string, unknown>>
}

/** The host name of the sites of `siteYaml`. */
export function hostOf(name: string): string {
  return `${name}.test`
}

/** A site that answers `body`, as a document (JSON is YAML). */
export function siteYaml({ name, zone = '*', body = name, spec = {} }: SiteParts): string {
  return JSON.stringify({
    apiVersion: 'nxmesh/v1',
    kind: 'Site',
    metadata: { name, zone },
    spec: { hosts: [hostOf(name)], routes: { root: { path: '/', return: { status: 200, body } } }, ...spec },
  })
}

/** Makes the site so, at one member. */
export async function applySite(fleet: Fleet, at: Member, site: SiteParts, call: Call = {}): Promise<void> {
  await tell(fleet, at, ['apply', '-f', '-'], { ...call, stdin: siteYaml(site) })
}

/** A value of each member by its name, all asked at once; `down` of one that does not answer. */
export async function each<T>(
  members: readonly Member[],
  look: (member: Member) => Promise<T>,
): Promise<Record<string, T | 'down'>> {
  const values = await Promise.all(members.map((member) => look(member).catch(() => 'down' as const)))
  return Object.fromEntries(members.map(({ name }, index) => [name, values[index] as T | 'down']))
}

/** One value for each of the members. */
export function all<T>(members: readonly Member[], value: T): Record<string, T> {
  return Object.fromEntries(members.map(({ name }) => [name, value]))
}

/** What nginx of each member answers for a site: the body, or the status when that is not 200. */
export async function answers(members: readonly Member[], site: string): Promise<Record<string, string>> {
  return await each(members, async (member) => {
    const { status, text } = await member.visit(hostOf(site))
    return status === 200 ? text : String(status)
  })
}

/** How often each state is held: one entry when all hold the same. */
export async function states(members: readonly Member[]): Promise<string[]> {
  const found = await each(members, async (member) => (await member.get<NodeView>('/v1/node')).stateHash)
  return [...new Set(Object.values(found))]
}

/** Waits until all hold the same edits and none has anything left to apply. */
export async function converged(members: readonly Member[]): Promise<void> {
  await eventually(() => each(members, health), 'all are healthy and have applied what they hold').toEqual(
    all(members, 'Running, converged'),
  )
  await eventually(async () => (await states(members)).length, 'all hold the same state').toBe(1)
  // Equal now: so what is applied now is the same everywhere.
  await eventually(() => each(members, health), 'all have applied the same state').toEqual(
    all(members, 'Running, converged'),
  )
}

/** Status and convergence, with the reasons of one that is not well. */
export async function health(member: Member): Promise<string> {
  const response = await fetch(`${member.api}/health`, { signal: AbortSignal.timeout(10_000) })
  const { status, msg, converged } = (await response.json()) as { status: string; msg: string; converged: boolean }
  return `${status}${status === 'Running' ? '' : ` (${msg})`}${converged ? ', converged' : ''}`
}

/** Names of the other members that a member is connected with, sorted. */
export async function connections(fleet: Fleet, member: Member): Promise<string[]> {
  const { data } = await member.get<{ data: { key: string; self: boolean; connected: boolean }[] }>('/v1/peers')
  const connected = data.filter((peer) => peer.connected && !peer.self).map(({ key }) => key)
  return connected.map((key) => fleet.members.find((other) => other.key.publicKey === key)?.name ?? key).toSorted()
}

/** Makes a key in the fleet's folder, and has the owner grant it a role; the name of the key file. */
export async function grantEditor(fleet: Fleet, at: Member, name: string, zone = '*'): Promise<string> {
  const file = `${name}.key`
  const publicKey = (await tell(fleet, at, ['key', 'new', '-k', file])).trim()
  await tell(fleet, at, ['grant', 'editor', publicKey, '--zone', zone, '--name', name])
  return file
}
