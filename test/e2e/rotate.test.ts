/**
 * Real daemons with real nginx: a host and an operator get new keys while the mesh works. No request fails, no acknowledged
 * edit is lost, the others stay connected; in the end the old keys count for nothing. What docs/runbook.md tells to do is what
 * is done here, in order.
 */

import { join } from 'node:path'
import { expect, test } from 'vitest'
import type { NodeView, PeerItem } from '../../src/api/schemas.ts'
import { type Member } from '../support/fleet.ts'
import {
  applySite,
  ask,
  converged,
  eventually,
  grantEditor,
  hostOf,
  siteYaml,
  tell,
  useFleet,
} from '../support/use-fleet.ts'

const fleet = useFleet({
  members: [
    // The others are told to dial it, by the key that it is going to lose; it is told to dial nobody.
    { name: 'one', zones: ['eu'] },
    { name: 'two', zones: ['eu'] },
    { name: 'three', zones: ['eu'] },
  ],
  nginx: true,
})

const member = (name: string): Member => fleet().member(name)
const members = (): Member[] => ['one', 'two', 'three'].map(member)

interface ResourcePage {
  readonly data: readonly { readonly name: string }[]
}

async function newKey(file: string): Promise<string> {
  await tell(fleet(), member('two'), ['key', 'new', '-k', file])
  return (await tell(fleet(), member('two'), ['key', 'show', '-k', file, '-o', 'wide'])).trim()
}

async function peersAt(at: Member): Promise<Map<string, PeerItem>> {
  const { data } = await at.get<{ data: PeerItem[] }>('/v1/peers')
  return new Map(data.map((peer) => [peer.key, peer]))
}

/** Does it again and again until it is told to end; how often it was done. */
function again(what: (round: number) => Promise<void>): () => Promise<number> {
  let isEnding = false
  let rounds = 0
  const running = (async () => {
    for (; !isEnding; rounds += 1) await what(rounds)
  })()
  // Told by whoever ends it.
  running.catch(() => undefined)
  return async () => {
    isEnding = true
    await running
    return rounds
  }
}

test('a host gets a new key while edits go on and a client asks its nginx', async () => {
  const [one, two, three] = members() as [Member, Member, Member]
  await converged(members())
  await applySite(fleet(), two, { name: 'shop' })
  await tell(fleet(), two, ['secret', 'set', 'shop-key', '-z', 'eu', '-f', '-'], { stdin: 'text' })
  await converged(members())

  const answers: string[] = []
  const endVisits = again(async () => {
    const answer = await one.visit(hostOf('shop')).then(
      ({ status, text }) => `${status} ${text}`,
      (error: unknown) => String(error),
    )
    if (answer !== answers.at(-1)) answers.push(answer)
  })
  const written: string[] = []
  const busy = await grantEditor(fleet(), two, 'busy')
  const endEdits = again(async (round) => {
    const name = `during-${round}`
    await applySite(fleet(), two, { name }, { key: busy })
    written.push(name)
    await eventually(async () => (await three.visit(hostOf(name))).text, 'three serves it').toBe(name)
  })

  const old = one.key.publicKey
  const next = await newKey('one-2.key')
  const key = next.slice(0, 64)
  const shown = await ask(fleet(), two, ['rotate', old, next])
  expect([shown.code, shown.err]).toEqual([2, expect.stringContaining('grant node one')])
  const begun = await ask(fleet(), two, ['rotate', old, next, '--yes'])
  expect([begun.code, begun.err]).toEqual([0, expect.stringContaining('private_key_path')])
  expect(begun.err).toContain("meshctl secret reseal shop-key -w default -z 'eu'")
  // Both count, and the host runs with the old one still: too early.
  const early = await ask(fleet(), two, ['rotate', '--finish', old, '--timeout', '1s'])
  expect([early.code, early.err]).toEqual([7, expect.stringContaining('no node is up under')])

  one.keyFile = join(fleet().directory, 'one-2.key')
  await one.stop()
  await one.start()
  await eventually(async () => (await peersAt(three)).get(key)?.connected, 'it is connected under its new key').toBe(
    true,
  )
  await eventually(async () => (await peersAt(two)).get(key)?.state).toBe('Ready')
  // It kept its store: signatures were checked again, nothing was lost or fetched anew.
  expect(one.stderr).not.toMatch(/damaged|corrupt/)

  await tell(fleet(), two, ['secret', 'reseal', 'shop-key'])
  const finished = await ask(fleet(), two, ['rotate', '--finish', old])
  expect([finished.code, finished.err]).toEqual([0, expect.stringContaining('the old key counts no more')])
  await eventually(async () => (await peersAt(three)).has(old)).toBe(false)

  const soFar = written.length
  await eventually(() => written.length, 'edits go on').toBeGreaterThan(soFar + 1)
  await endEdits()
  await converged(members())
  expect(await endVisits()).toBeGreaterThan(50)
  expect(answers).toEqual(['200 shop'])
  for (const each of members()) {
    const { data } = await each.get<ResourcePage>('/v1/resources?kind=site&per_page=1000')
    expect(new Set(data.map(({ name }) => name)).isSupersetOf(new Set(written)), each.name).toBe(true)
  }
  // The other two never lost each other.
  const lost = (log: string, peer: Member): boolean =>
    log.split('\n').some((line) => line.includes('disconnected') && line.includes(peer.key.publicKey))
  expect([lost(two.stderr, three), lost(three.stderr, two)]).toEqual([false, false])
  const opened = await ask(fleet(), one, ['secret', 'get', 'shop-key'], { key: one.keyFile, mesh: fleet().meshId })
  expect([opened.code, opened.out]).toEqual([0, 'text'])
})

test('the host’s old key is cut off', async () => {
  const ghost = await fleet().add({ name: 'ghost', dials: ['two', 'three'], nginx: false })
  ghost.keyFile = join(member('one').directory, 'node.key')
  await ghost.start()
  const status = async () => (await ask(fleet(), member('two'), ['--api', ghost.socket, 'status'])).out
  await eventually(status).toContain('this node’s grant was revoked')
  expect((await peersAt(member('two'))).has(member('one').key.publicKey)).toBe(false)
  await ghost.stop()
})

test('an operator gets a new key, and what was done with both during the overlap stays', async () => {
  const two = member('two')
  const old = await grantEditor(fleet(), two, 'ana')
  const publicKey = (await tell(fleet(), two, ['key', 'show', '-k', old])).trim()
  await applySite(fleet(), two, { name: 'before' }, { key: old })
  const next = await newKey('ana-2.key')
  await tell(fleet(), two, ['rotate', publicKey, next, '--yes'])
  await applySite(fleet(), member('three'), { name: 'old-key' }, { key: old })
  expect(await ask(fleet(), two, ['rotate', '--finish', publicKey])).toMatchObject({
    code: 7,
    err: expect.stringContaining('nothing was signed with'),
  })
  await applySite(fleet(), two, { name: 'new-key' }, { key: 'ana-2.key' })
  await converged(members())
  await tell(fleet(), two, ['rotate', '--finish', publicKey])
  await converged(members())
  for (const each of members()) {
    const sites = await tell(fleet(), each, ['get', 'sites'])
    for (const name of ['before', 'old-key', 'new-key']) expect(sites).toContain(name)
  }
  const never = { key: old, stdin: siteYaml({ name: 'never' }) }
  await eventually(async () => (await ask(fleet(), member('one'), ['apply', '-f', '-'], never)).code).not.toBe(0)
  await applySite(fleet(), two, { name: 'later' }, { key: 'ana-2.key' })
  const hashes = async () => {
    const all = await Promise.all(members().map(async (each) => (await each.get<NodeView>('/v1/node')).stateHash))
    return new Set(all).size
  }
  await eventually(hashes).toBe(1)
})
