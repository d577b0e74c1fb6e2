/**
 * Hosts that are lost or stolen, on real daemons: what docs/runbook.md tells to do about them is done here, in order. The
 * other chapters of the runbook are run by roots, secrets, rotate and refound.
 */

import { expect, test } from 'vitest'
import type { PeerItem } from '../../src/api/schemas.ts'
import { encryptionKey } from '../../src/core/secrets.ts'
import type { Member } from '../support/fleet.ts'
import { applySite, ask, converged, eventually, tell, useFleet } from '../support/use-fleet.ts'

const fleet = useFleet({
  members: [
    { name: 'edge-1', zones: ['eu'] },
    { name: 'edge-2', zones: ['eu'] },
    { name: 'edge-3', zones: ['eu'] },
  ],
})

const member = (name: string): Member => fleet().member(name)
const secretAt = async (at: Member): Promise<string | number> => {
  const { code, out } = await ask(fleet(), member('edge-1'), ['secret', 'get', 'shop-key'], {
    key: at.keyFile,
    mesh: fleet().meshId,
  })
  return code === 0 ? out : code
}

async function peerAt(at: Member, key: string): Promise<PeerItem | undefined> {
  const { data } = await at.get<{ data: PeerItem[] }>('/v1/peers')
  return data.find((peer) => peer.key === key)
}

test('a host is lost: it is taken out, and another one comes in its place', async () => {
  const [one, two, three] = ['edge-1', 'edge-2', 'edge-3'].map(member) as [Member, Member, Member]
  await converged([one, two, three])
  await applySite(fleet(), one, { name: 'shop', zone: 'eu' })
  await tell(fleet(), one, ['secret', 'set', 'shop-key', '-z', 'eu', '-f', '-'], { stdin: 'first' })
  await converged([one, two, three])
  await three.stop('SIGKILL')

  const removed = await ask(fleet(), one, ['node', 'rm', 'edge-3', '--note', 'disk broken'])
  expect([removed.code, removed.err]).toEqual([0, expect.stringContaining('removed: edge-3')])
  expect(removed.err).toContain("meshctl secret rotate shop-key -w default -z 'eu' -f FILE")
  await eventually(async () => await peerAt(two, three.key.publicKey)).toBeUndefined()

  const fresh = await fleet().add({ name: 'edge-4', dials: ['edge-1', 'edge-2'] })
  const pair = `${fresh.key.publicKey}:${encryptionKey(fresh.key.seed).publicKey}`
  await tell(fleet(), two, ['grant', 'node', pair, '--zone', 'eu', '--name', 'edge-4'])
  await fresh.start()
  await converged([one, two, fresh])
  expect(await secretAt(fresh)).toBe(4)
  await tell(fleet(), one, ['secret', 'reseal', '--all'])
  await eventually(() => secretAt(fresh)).toBe('first')
  await eventually(() => tell(fleet(), two, ['status'])).toMatch(/edge-4 +eu +Ready/)
})

test('a host is stolen: its key is cut off, and what it could read is worth nothing any more', async () => {
  const [one, two, fresh] = ['edge-1', 'edge-2', 'edge-4'].map(member) as [Member, Member, Member]
  const key = two.key.publicKey
  const dry = await ask(fleet(), one, ['revoke', 'edge-2', '--dry-run'])
  expect([dry.code, dry.err]).toEqual([0, expect.stringContaining(`edge-2 is key ${key}`)])
  expect(dry.err).toContain('no edit becomes void')
  const revoked = await ask(fleet(), one, ['revoke', key, '--note', 'stolen'])
  expect([revoked.code, revoked.err]).toEqual([0, expect.stringContaining('meshctl secret rotate shop-key')])
  await eventually(async () => await peerAt(fresh, key)).toBeUndefined()
  await eventually(async () => (await ask(fleet(), one, ['--api', two.socket, 'status'])).out).toContain(
    'this node’s grant was revoked',
  )
  await tell(fleet(), one, ['secret', 'rotate', 'shop-key', '-w', 'default', '-z', 'eu', '-f', '-'], {
    stdin: 'second',
  })
  await eventually(() => secretAt(fresh)).toBe('second')
  expect(await secretAt(two)).toBe(4)
  expect(await tell(fleet(), one, ['secret', 'ls'])).not.toContain(key.slice(0, 12))
  await tell(fleet(), one, ['verify', '--full'])
  // What it holds it still serves; nothing that came later reaches it.
  await applySite(fleet(), one, { name: 'later', zone: 'eu' })
  await converged([one, fresh])
  const at = ['--api', two.socket, 'get', 'sites']
  const { out } = await ask(fleet(), one, at)
  expect([out.includes('shop'), out.includes('later')]).toEqual([true, false])
})
