/**
 * Five real daemons with real nginx in zones of eu and us: edits reach every nginx that they are for, whatever dies or is
 * cut off meanwhile. The tests tell one story, in order; each begins with a fleet that is whole.
 */

import { expect, test } from 'vitest'
import type { NodeView, ResourceView } from '../../src/api/schemas.ts'
import { kill, type Member } from '../support/fleet.ts'
import {
  all,
  answers,
  applySite,
  ask,
  connections,
  converged,
  each,
  eventually,
  grantEditor,
  health,
  hostOf,
  siteYaml,
  states,
  tell,
  useFleet,
} from '../support/use-fleet.ts'

const EU = ['paris', 'lyon', 'vienna']
const US = ['boston', 'austin']
const NAMES = [...EU, ...US]
const ZONES: Readonly<Record<string, string>> = {
  paris: 'eu.west',
  lyon: 'eu.west',
  vienna: 'eu.east',
  boston: 'us',
  austin: 'us',
}

const fleet = useFleet({
  members: NAMES.map((name) => ({ name, zones: [ZONES[name] as string] })),
  nginx: true,
  links: true,
  config: { sync_interval_seconds: 2 },
})

const named = (names: readonly string[]): Member[] => names.map((name) => fleet().member(name))
const without = (name: string): Member[] => fleet().members.filter((member) => member.name !== name)

test('an edit at one node is served by every nginx', async () => {
  const { members } = fleet()
  await converged(members)
  const argv = ['apply', '-f', '-', '--wait', '--timeout', '60s']
  const { code, err } = await ask(fleet(), fleet().member('lyon'), argv, {
    stdin: siteYaml({ name: 'shop', body: 'one' }),
  })
  expect(code, err).toBe(0)
  for (const name of NAMES) expect(err).toContain(`${name}: applied`)
  // What --wait says is so by now, not soon.
  expect(await answers(members, 'shop')).toEqual(all(members, 'one'))
})

test('an edit of a zone stays in its zone', async () => {
  const { members } = fleet()
  // Any node takes it: here one that will not serve it.
  await applySite(fleet(), fleet().member('boston'), { name: 'euro', zone: 'eu' })
  await applySite(fleet(), fleet().member('vienna'), { name: 'dollar', zone: 'us' })
  await applySite(fleet(), fleet().member('boston'), { name: 'seine', zone: 'eu.west' })
  await converged(members)
  expect(await answers(members, 'euro')).toEqual({ ...all(members, '404'), ...all(named(EU), 'euro') })
  expect(await answers(members, 'dollar')).toEqual({ ...all(members, '404'), ...all(named(US), 'dollar') })
  expect(await answers(members, 'seine')).toEqual({ ...all(members, '404'), ...all(named(['paris', 'lyon']), 'seine') })
  // All hold it nevertheless, to pass it on.
  const path = '/v1/resources/default/eu.west/site/seine'
  const exists = await each(members, async (member) => (await member.get<ResourceView>(path)).exists)
  expect(exists).toEqual(all(members, true))
})

test.each(NAMES)('%s is killed and comes back while edits go on', async (name) => {
  const { members } = fleet()
  const victim = fleet().member(name)
  const others = without(name)
  const [first, second, third] = [`${name} lives`, `${name} is dead`, `${name} is back`]
  await applySite(fleet(), victim, { name: 'shop', body: first })
  await eventually(() => answers(members, 'shop')).toEqual(all(members, first))
  const master = await victim.nginxMaster()

  await victim.stop('SIGKILL')
  await applySite(fleet(), others[0] as Member, { name: 'shop', body: second })
  await eventually(() => answers(others, 'shop')).toEqual(all(others, second))
  // Its nginx has no daemon, and goes on.
  expect(await answers([victim], 'shop')).toEqual(all([victim], first))

  await Promise.all([victim.start(), applySite(fleet(), others.at(-1) as Member, { name: 'shop', body: third })])
  await eventually(() => answers(members, 'shop')).toEqual(all(members, third))
  await converged(members)
  expect(await victim.nginxMaster(), 'nginx was not restarted').toBe(master)
})

test('a host that loses power serves its last good configuration before it reaches anyone', async () => {
  const { members } = fleet()
  const victim = fleet().member('vienna')
  const others = without('vienna')
  await applySite(fleet(), victim, { name: 'shop', body: 'before' })
  await eventually(() => answers(members, 'shop')).toEqual(all(members, 'before'))
  await converged(members)

  fleet().partition(
    ['vienna'],
    NAMES.filter((name) => name !== 'vienna'),
  )
  await victim.stop('SIGKILL')
  for (const pid of await victim.nginxProcesses()) kill(pid, 'SIGKILL')
  await eventually(() => victim.nginxProcesses()).toEqual([])
  await applySite(fleet(), others[0] as Member, { name: 'shop', body: 'after' })
  await eventually(() => answers(others, 'shop')).toEqual(all(others, 'after'))

  await victim.start()
  await eventually(() => answers([victim], 'shop')).toEqual(all([victim], 'before'))
  expect(await connections(fleet(), victim)).toEqual([])
  await eventually(() => health(victim)).toContain('no connection with any other node (4 known)')
  fleet().heal()
  await eventually(() => answers(members, 'shop')).toEqual(all(members, 'after'))
  await converged(members)
})

test('both sides of a partition edit one site, and it merges field by field', async () => {
  const { members } = fleet()
  const [eu, us] = [named(EU), named(US)]
  const [paris, boston] = [fleet().member('paris'), fleet().member('boston')]
  const ana = await grantEditor(fleet(), paris, 'ana')
  const ben = await grantEditor(fleet(), paris, 'ben')
  const root = { path: '/', return: { status: 200, body: 'start' } }
  const about = { path: '/about', match: 'exact', return: { status: 200, body: 'about us' } }
  const header = (value: string) => ({ responseHeaders: { set: { 'X-By': value } } })
  await applySite(fleet(), paris, { name: 'fair', spec: { routes: { root }, ...header('nobody') } })
  await converged(members)

  fleet().partition(EU, US)
  await eventually(() => Promise.all(eu.map((member) => connections(fleet(), member)))).toEqual([
    ['lyon', 'vienna'],
    ['paris', 'vienna'],
    ['lyon', 'paris'],
  ])
  await eventually(() => connections(fleet(), boston)).toEqual(['austin'])
  // Ana adds a host name, Ben a route and a text; both write the header.
  const hosts = [hostOf('fair'), 'second.test']
  await applySite(fleet(), paris, { name: 'fair', spec: { hosts, routes: { root }, ...header('ana') } }, { key: ana })
  const bens = { root: { ...root, return: { status: 200, body: 'by ben' } }, about }
  await applySite(fleet(), boston, { name: 'fair', spec: { routes: bens, ...header('ben') } }, { key: ben })
  const seen = (site: string) => async (member: Member) => {
    const { text, headers } = await member.visit(site)
    return `${text} [${String(headers['x-by'])}]`
  }
  await eventually(() => each(eu, seen('second.test'))).toEqual(all(eu, 'start [ana]'))
  await eventually(() => each(us, seen('fair.test'))).toEqual(all(us, 'by ben [ben]'))
  expect(await states(members)).toHaveLength(2)

  fleet().heal()
  await eventually(async () => (await states(members)).length, 'all hold the same state').toBe(1)
  const path = '/v1/resources/default/%2A/site/fair'
  const resource = await paris.get<ResourceView>(path)
  const field = 'responseHeaders/set/X-By'
  const winner = resource.fields[field] as string
  expect(Object.keys(resource.conflicts), 'one field is in conflict').toEqual([field])
  expect(resource.conflicts[field]?.map(({ value }) => value).toSorted()).toEqual(['ana', 'ben'])
  expect(resource.conflicts[field]?.[0]?.value, 'the one that is served stands first').toBe(winner)
  // Every node shows the same, and every nginx serves the merge.
  const shown = await each(members, async (member) => (await member.get<ResourceView>(path)).conflicts)
  expect(shown).toEqual(all(members, resource.conflicts))
  for (const site of ['fair.test', 'second.test']) {
    await eventually(() => each(members, seen(site))).toEqual(all(members, `by ben [${winner}]`))
  }
  const visitAbout = async (member: Member): Promise<string> => (await member.visit('fair.test', '/about')).text
  expect(await each(members, visitAbout)).toEqual(all(members, 'about us'))
  expect(await tell(fleet(), boston, ['get', 'site', 'fair'])).toContain('1 in conflict')

  // Whoever writes the field settles it.
  await applySite(fleet(), boston, { name: 'fair', spec: { hosts, routes: bens, ...header('both') } })
  await eventually(() => each(members, seen('fair.test'))).toEqual(all(members, 'by ben [both]'))
  await converged(members)
  expect((await paris.get<ResourceView>(path)).conflicts).toEqual({})
})

test('a revoked node is cut off, serves its last good configuration, and says so', async () => {
  const revoked = fleet().member('austin')
  const others = without('austin')
  await applySite(fleet(), revoked, { name: 'shop', body: 'trusted' })
  await converged(fleet().members)
  await tell(fleet(), fleet().member('paris'), ['revoke', revoked.key.publicKey])
  await eventually(() => connections(fleet(), revoked)).toEqual([])
  await eventually(() => health(revoked)).toMatch(/^Degraded \(this node’s grant was revoked: it serves its last good/)
  const { envelopes } = await revoked.get<NodeView>('/v1/node')

  await applySite(fleet(), fleet().member('boston'), { name: 'shop', body: 'without austin' })
  await eventually(() => answers(others, 'shop')).toEqual(all(others, 'without austin'))
  await converged(others)
  expect(await answers([revoked], 'shop')).toEqual(all([revoked], 'trusted'))
  expect((await revoked.get<NodeView>('/v1/node')).envelopes, 'it hears of nothing more').toBe(envelopes)

  // A restart does not make it forget.
  await revoked.stop('SIGKILL')
  await revoked.start()
  await eventually(() => health(revoked)).toContain('this node’s grant was revoked')
  await eventually(() => revoked.metric('nxmesh_network_events_total', { event: 'dial_failed' })).toBeGreaterThan(1)
  expect(await answers([revoked], 'shop')).toEqual(all([revoked], 'trusted'))
  expect(await connections(fleet(), revoked)).toEqual([])
})
