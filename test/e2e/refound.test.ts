/**
 * Real daemons with real nginx: the keys of the root are lost, and so are the next ones. The mesh is founded anew from what a
 * node holds, and its hosts are moved one by one, while nginx serves. What docs/runbook.md tells to do is done here, in order.
 */

import { copyFile, readFile, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { parse, stringify } from 'yaml'
import type { NodeView } from '../../src/api/schemas.ts'
import type { Member } from '../support/fleet.ts'
import { answers, applySite, ask, converged, eventually, hostOf, tell, useFleet } from '../support/use-fleet.ts'

const fleet = useFleet({
  members: [
    { name: 'one', zones: ['eu'] },
    { name: 'two', zones: ['eu'] },
  ],
  nginx: true,
})

const members = (): [Member, Member] => [fleet().member('one'), fleet().member('two')]

/** Asks all nginx again and again until it is told to end; what they answered, each answer once, and how often they were asked. */
function visits(site: string): () => Promise<{ seen: string[]; rounds: number }> {
  const seen = new Set<string>()
  let isEnding = false
  const running = (async () => {
    let rounds = 0
    for (; !isEnding; rounds += 1) {
      for (const member of members()) {
        const answer = await member.visit(hostOf(site)).then(
          ({ status, text }) => `${status} ${text}`,
          (error: unknown) => `${member.name} ${String(error)}`,
        )
        seen.add(answer)
      }
    }
    return rounds
  })()
  // Told by whoever ends it.
  running.catch(() => undefined)
  return async () => {
    isEnding = true
    return { rounds: await running, seen: [...seen] }
  }
}

/** `KEY:ENC` of a new key. */
async function newKey(file: string): Promise<string> {
  await tell(fleet(), fleet().member('one'), ['key', 'new', '-k', file])
  return (await tell(fleet(), fleet().member('one'), ['key', 'show', '-k', file, '-o', 'wide'])).trim()
}

async function pointAt(member: Member, mesh: string): Promise<void> {
  const genesis = join(member.directory, 'genesis-2.json')
  await copyFile(join(fleet().directory, 'mesh-2', 'genesis.json'), genesis)
  const config = parse(await readFile(member.configFile, 'utf8')) as { mesh: object }
  await writeFile(
    member.configFile,
    stringify({ ...config, mesh: { ...config.mesh, id: mesh, genesis_file: genesis } }),
  )
}

test('the mesh is founded anew, its hosts are moved one by one, and nginx answers all along', async () => {
  const [one, two] = members()
  await converged([one, two])
  const ana = 'ana.key'
  await tell(fleet(), one, ['grant', 'editor', await newKey(ana), '--zone', '*', '--name', 'ana'])
  await applySite(fleet(), one, { name: 'shop' }, { key: ana })
  await tell(fleet(), one, ['secret', 'set', 'shop-key', '-z', 'eu', '-f', '-'], { stdin: 'text' })
  await converged([one, two])
  const old = fleet().meshId
  const served = await answers([one, two], 'shop')
  expect(served).toEqual({ one: 'shop', two: 'shop' })
  const endVisits = visits('shop')

  // Over the socket, which needs no key: who lost the root may have lost more.
  const at = (member: Member) => ['--api', member.socket]
  const dry = await ask(fleet(), two, [...at(two), 'refound', '--dry-run'])
  expect([dry.code, dry.err]).toEqual([0, expect.stringContaining('takes over: editor ana')])
  const mesh = (
    await tell(fleet(), two, [...at(two), 'refound', '--name', 'prod', '--roots', '3', '--threshold', '2'])
  ).trim()
  expect(mesh).toMatch(/^[0-9a-f]{64}$/)
  await tell(fleet(), two, ['verify', 'mesh-2/genesis.json', '--mesh', mesh])

  await pointAt(one, mesh)
  await one.stop()
  // With its old store it says what is wrong, and ends.
  one.spawn()
  expect(await one.exited()).not.toBe(0)
  expect(one.stderr).toContain(`the store belongs to mesh ${old}`)
  expect(one.stderr).toContain('move data_dir/store aside')
  await rename(join(one.dataDirectory, 'store'), join(one.dataDirectory, 'store-old'))
  await one.start()
  expect(await one.get<NodeView>('/v1/node')).toMatchObject({ meshId: mesh })
  // Alone in the new mesh, it changes nothing yet.
  await eventually(async () => (await one.visit(hostOf('shop'))).text).toBe('shop')

  await pointAt(two, mesh)
  await two.stop()
  await rename(join(two.dataDirectory, 'store'), join(two.dataDirectory, 'store-old'))
  await two.start()
  await converged([one, two])
  expect(await answers([one, two], 'shop')).toEqual(served)

  // The new owner acts, and ana with the key that she had; the old owner is nobody.
  const owner = { key: 'mesh-2/owner.key' }
  await applySite(fleet(), two, { name: 'news' }, owner)
  await applySite(fleet(), one, { name: 'later' }, { key: ana, mesh })
  await converged([one, two])
  expect([await answers([one, two], 'news'), await answers([one, two], 'later')]).toEqual([
    { one: 'news', two: 'news' },
    { one: 'later', two: 'later' },
  ])
  expect((await ask(fleet(), one, [...at(one), 'get', 'sites'])).out).toContain('shop')
  const nobody = await ask(fleet(), one, [...at(one), 'grant', 'viewer', fleet().owner.publicKey, '-z', '*'], { mesh })
  expect([nobody.code, nobody.err]).toEqual([4, expect.stringContaining('has no grant in mesh prod')])
  await tell(fleet(), two, ['verify', '--full'], owner)

  // Secrets open for whom they were sealed, who lets the new owner in.
  expect((await ask(fleet(), one, ['secret', 'get', 'shop-key'], owner)).code).toBe(4)
  expect(await tell(fleet(), one, ['secret', 'get', 'shop-key'], { key: one.keyFile, mesh })).toBe('text')
  await tell(fleet(), one, ['--mesh', mesh, 'secret', 'reseal', '--all'], { key: ana })
  expect(await tell(fleet(), one, ['secret', 'get', 'shop-key'], owner)).toBe('text')
  await tell(fleet(), one, ['secret', 'rotate', 'shop-key', '-f', '-'], { ...owner, stdin: 'another' })
  // Two of the new roots make another owner.
  const roots = [1, 2].map((index) => ({ key: `mesh-2/recovery-${index}.key` }))
  const second = await tell(fleet(), one, ['grant', 'owner', await newKey('ben.key'), '--name', 'ben'], roots[0])
  await tell(fleet(), one, ['cosign', second.trim()], roots[1])
  await applySite(fleet(), one, { name: 'by-ben' }, { key: 'ben.key' })

  const { seen, rounds } = await endVisits()
  expect(seen).toEqual(['200 shop'])
  expect(rounds).toBeGreaterThan(20)
})
