/** The alarm of a node that does not see what the mesh sees (src/status/agreement.ts) in honest meshes: only where it is true. */

import { expect, test } from 'vitest'
import { SimMesh, type SimMember } from '../support/sim-mesh.ts'

const MINUTE_MS = 60_000
const SITE = 'default/*/site/shop'

const alarmed = (members: readonly SimMember[]): string[] =>
  members.filter(({ up }) => up.health().msg.includes('fewer than half of the other nodes')).map(({ name }) => name)

/** Lets time pass, and says who raised the alarm in it. */
async function alarmsWithin(mesh: SimMesh, minutes: number, act: () => Promise<unknown> = async () => undefined) {
  const names = new Set<string>()
  for (const end = mesh.clock.monotonic() + minutes * MINUTE_MS; mesh.clock.monotonic() < end;) {
    await act()
    await mesh.clock.advance(1_000)
    for (const name of alarmed(mesh.running)) names.add(name)
  }
  return [...names].toSorted()
}

test('the smaller side of a long partition says so, the larger does not, and healing ends it', async () => {
  const mesh = await SimMesh.started(7, { seed: 50 })
  mesh.partition(['n0', 'n1', 'n2'])
  await mesh.edit(mesh.get('n1'), SITE, [['set', '$', true]])
  expect(await alarmsWithin(mesh, 9)).toEqual([])
  expect(await alarmsWithin(mesh, 20)).toEqual(['n0', 'n1', 'n2'])
  mesh.wire.heal()
  await mesh.converge(2 * MINUTE_MS)
  await mesh.clock.until(() => alarmed(mesh.all).length === 0, 30_000, 'the end of the alarm')
  expect(await alarmsWithin(mesh, 20)).toEqual([])
})

test('none in a mesh that is edited without a pause, over slow and lossy links', async () => {
  const mesh = await SimMesh.started(8, { seed: 51, delayMs: [20, 250], lossRate: 0.02 })
  let n = 0
  const edit = async (): Promise<unknown> =>
    await mesh.edit(mesh.dice.pick(mesh.all), `default/*/site/s${(n += 1) % 20}`, [
      ['set', '$', true],
      ['set', 'n', n],
    ])
  expect(await alarmsWithin(mesh, 25, edit)).toEqual([])
})

test('none where nodes are restarted, wiped and late', async () => {
  const mesh = await SimMesh.started(5, { seed: 52, delayMs: [1, 200], lossRate: 0.05 })
  const late = mesh.add('late', { listed: ['n3'] })
  await mesh.submit(mesh.get('n0'), mesh.founding.grant(late.publicKey, 'node', { name: 'late' }))
  expect(await alarmsWithin(mesh, 30)).toEqual([])
  await mesh.start(late)
  for (const member of mesh.all) {
    await (mesh.dice.chance(0.5) ? mesh.wipe(member) : mesh.stopMember(member))
    expect(await alarmsWithin(mesh, 4)).toEqual([])
    await mesh.start(member)
  }
  expect(await alarmsWithin(mesh, 15)).toEqual([])
})

test('none in a node that comes back after hours', async () => {
  const mesh = await SimMesh.started(4, { seed: 53 })
  const [away] = mesh.all.slice(-1) as [SimMember]
  mesh.partition([away.name])
  // It is alone, and says that instead.
  expect(await alarmsWithin(mesh, 60)).toEqual([])
  expect(away.up.health().msg).toContain('no connection with any other node')
  await mesh.edit(mesh.get('n0'), SITE, [['set', '$', true]])
  mesh.wire.heal()
  await mesh.converge(2 * MINUTE_MS)
  await mesh.clock.until(() => alarmed(mesh.all).length === 0, 30_000, 'the end of the alarm')
  expect(await alarmsWithin(mesh, 15)).toEqual([])
})
