/**
 * Secrets on real daemons: sealed at one node, opened only by those whom the grants of its zone name, and nowhere to be found
 * as they are: not on disk, not in logs, not in what the API answers. The tests tell one story, in order.
 */

import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { ROUTES } from '../../src/api/routes.ts'
import { encryptionKey } from '../../src/core/secrets.ts'
import { REPOSITORY, type Member } from '../support/fleet.ts'
import { http } from '../support/http.ts'
import { ask, converged, eventually, tell, useFleet } from '../support/use-fleet.ts'

const fleet = useFleet({
  members: [
    { name: 'paris', zones: ['eu.west.paris'] },
    { name: 'lyon', zones: ['eu.west'] },
    { name: 'austin', zones: ['us'] },
  ],
  config: { log_level: 'DEBUG' },
})

const TEXTS = ['first', 'second'].map((name) => `${name}-${randomBytes(24).toString('hex')}`) as [string, string]
const member = (name: string): Member => fleet().member(name)

/** What the host itself can open, with its own key; the exit code of a refusal. */
async function openedAt(name: string, at = name): Promise<string | number> {
  const { code, out } = await ask(fleet(), member(at), ['secret', 'get', 'shop'], {
    key: member(name).keyFile,
    mesh: fleet().meshId,
  })
  return code === 0 ? out : code
}

async function everyFile(directory: string): Promise<string[]> {
  const entries = await readdir(directory, { recursive: true, withFileTypes: true })
  return entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name))
}

/** Where one of the texts can be seen, in any of the forms that it might leak in. */
async function leaks(members: readonly Member[]): Promise<string[]> {
  const forms = TEXTS.flatMap((text) => [
    text,
    text.slice(6, 40),
    Buffer.from(text).toString('hex'),
    Buffer.from(text).toString('base64').slice(0, 40),
  ])
  const places: [where: string, what: string][] = []
  for (const file of await everyFile(fleet().directory)) places.push([file, await readFile(file, 'latin1')])
  for (const one of members) {
    places.push([`the log of ${one.name}`, one.stderr])
    for (const { method, path } of ROUTES) {
      if (method !== 'get' || path === '/v1/events') continue
      const whole = path
        .replace('{workspace}/{zone}/{kind}/{name}', 'default/eu.west/secret/shop')
        .replace('{workspace}/{author}', `default/${fleet().owner.publicKey}`)
        .replace('{id}', fleet().meshId)
      for (const query of ['', '?bytes=1', '?text=shop', `?author=${fleet().owner.publicKey}`]) {
        const { text } = await http(`unix:${join(one.dataDirectory, 'api.sock')}`, `${whole}${query}`)
        places.push([`${one.name} ${whole}${query}`, text])
      }
    }
  }
  expect(places.length).toBeGreaterThan(50)
  return places.filter(([, what]) => forms.some((form) => what.includes(form))).map(([where]) => where)
}

test('a secret set at one node opens for the nodes of its zone and for the owner, and for nobody else', async () => {
  await converged(fleet().members)
  const { code, out, err } = await ask(
    fleet(),
    member('austin'),
    ['secret', 'set', 'shop', '-z', 'eu.west', '-f', '-'],
    {
      stdin: TEXTS[0],
    },
  )
  expect([code, out, err]).toEqual([
    0,
    expect.stringContaining('sealed, 3 recipients'),
    expect.not.stringContaining('cannot open'),
  ])
  await eventually(() => openedAt('paris')).toBe(TEXTS[0])
  await eventually(() => openedAt('lyon')).toBe(TEXTS[0])
  expect(await tell(fleet(), member('paris'), ['secret', 'get', 'shop'])).toBe(TEXTS[0])
  await converged(fleet().members)
  expect(await openedAt('austin'), 'it holds it, sealed').toBe(4)
  expect(await openedAt('austin', 'paris')).toBe(4)
  expect(await tell(fleet(), member('lyon'), ['secret', 'ls'])).toMatch(
    /secret\/shop +[0-9a-f]{12} +(?=.*owner)(?=.*paris)(?=.*lyon)/,
  )
})

const keyOf = async (file: string): Promise<string> =>
  (await tell(fleet(), member('paris'), ['key', 'show', '-k', file, '-o', 'wide'])).trim()

test('a host that comes later opens it when a robot that may seal has resealed it', async () => {
  const late = await fleet().add({ name: 'late' })
  await tell(fleet(), member('paris'), ['key', 'new', '-k', 'sealer.key'])
  await tell(fleet(), member('paris'), [
    'grant',
    'robot',
    await keyOf('sealer.key'),
    '-z',
    'eu',
    '--kinds',
    'secret',
    '--name',
    'sealer',
  ])
  await tell(fleet(), member('paris'), ['secret', 'reseal', '--all'])
  await tell(fleet(), member('paris'), ['grant', 'node', await keyOf(late.keyFile), '-z', 'eu.west', '--name', 'late'])
  await late.start()
  await converged(fleet().members)
  expect(await openedAt('late')).toBe(4)
  expect(await tell(fleet(), member('lyon'), ['secret', 'ls'])).toContain('late (reseal)')
  await tell(fleet(), member('lyon'), ['secret', 'reseal', '--all'], { key: 'sealer.key', mesh: fleet().meshId })
  await eventually(() => openedAt('late')).toBe(TEXTS[0])
  // It has signed in this mesh now, and asks nobody which one it is for.
  await tell(fleet(), member('paris'), ['secret', 'reseal', '--all'], { key: 'sealer.key' })
})

test('revoking a host lists what it could read; what is rotated then is closed to it', async () => {
  const [lyon = ''] = (await keyOf(member('lyon').keyFile)).split(':')
  const { code, err } = await ask(fleet(), member('paris'), ['revoke', lyon, '--note', 'stolen'])
  expect(code, err).toBe(0)
  expect(err).toContain('rotate each:\n')
  expect(err).toContain("  meshctl secret rotate shop -w default -z 'eu.west' -f FILE\n")
  const same = await ask(fleet(), member('paris'), ['secret', 'rotate', 'shop', '-f', '-'], { stdin: TEXTS[0] })
  expect([same.code, same.err]).toEqual([3, expect.stringContaining('is the old one')])
  await tell(fleet(), member('paris'), ['secret', 'rotate', 'shop', '-f', '-'], { stdin: TEXTS[1] })
  const rest = ['paris', 'austin', 'late'].map(member)
  await converged(rest)
  await eventually(() => openedAt('paris')).toBe(TEXTS[1])
  await eventually(() => openedAt('late')).toBe(TEXTS[1])
  // Whatever the thief gets hold of: the fields of the new version name no key of the host.
  const { fields } = JSON.parse(
    (await http(`unix:${join(member('paris').dataDirectory, 'api.sock')}`, '/v1/resources/default/eu.west/secret/shop'))
      .text,
  ) as { fields: Record<string, unknown> }
  expect(Object.keys(fields).join()).not.toContain(encryptionKey(member('lyon').key.seed).publicKey)
  expect(Object.keys(fields)).toHaveLength(1 + 4)
})

test('a text that is typed at once after the prompt is not shown', async () => {
  const words = ['--api', member('paris').api, '-k', fleet().ownerKeyFile, 'secret', 'set', 'typed', '-z', 'eu']
  const line = [join(REPOSITORY, 'scripts/meshctl'), ...words].join(' ')
  // A terminal of its own, which shows what is typed unless it is told not to.
  const terminal = spawn('script', ['-qec', line, '/dev/null'], { stdio: ['pipe', 'pipe', 'inherit'] })
  let shown = ''
  terminal.stdout.on('data', (data: Buffer) => {
    const isAsked = shown.includes('Enter: ')
    shown += data.toString()
    if (!isAsked && shown.includes('Enter: ')) terminal.stdin.write('hunteX\u007f2\r')
  })
  const code = await new Promise((resolve) => terminal.once('close', resolve))
  expect([code, shown]).toEqual([0, expect.stringContaining('1 to create')])
  expect(shown).not.toContain('hunte')
  expect(await tell(fleet(), member('paris'), ['secret', 'get', 'typed'])).toBe('hunte2')
})

test('no file, log or answer of any node has the text in it', async () => {
  expect(await leaks(fleet().members.filter(({ isRunning }) => isRunning))).toEqual([])
})
