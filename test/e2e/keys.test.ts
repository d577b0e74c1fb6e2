/** Keys made by openssl and xxd, by the very commands of the guides, start a node under the public key that openssl prints. */

import { readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import type { NodeView } from '../../src/api/schemas.ts'
import { command, shell, type Ended } from '../support/commands.ts'
import { REPOSITORY, type Member } from '../support/fleet.ts'
import { useFleet } from '../support/use-fleet.ts'

const fleet = useFleet({ members: [{ name: 'solo' }], started: false })

/** Runs a line that must succeed, in the folder of the member. */
async function run(member: Member, line: string): Promise<string> {
  const { code, out, err } = await shell(line, { cwd: member.directory })
  expect(code, `${line}: ${err}`).toBe(0)
  return out
}

function entry(
  name: 'mesh-node' | 'meshctl',
  argv: readonly string[],
  env: Readonly<Record<string, string>> = {},
): Promise<Ended> {
  return command(process.execPath, [`src/${name}.ts`, ...argv], { cwd: REPOSITORY, env })
}

/** The public key of a private key in DER form, as openssl prints it: the 32 bytes at the end of its public form. */
async function opensslPublicKey(member: Member, file: string): Promise<string> {
  const text = await run(member, `openssl pkey -in ${file} -inform der -noout -text_pub`)
  const hex = text.slice(text.indexOf('pub:') + 4).replaceAll(/[^0-9a-f]/g, '')
  expect(hex, text).toHaveLength(64)
  return hex
}

test('a key made by the commands of the guide starts a node, and is the one that openssl prints', async () => {
  const member = fleet().member('solo')
  member.keyFile = join(member.directory, 'private-key.hex')
  await run(
    member,
    'openssl genpkey -algorithm ed25519 -outform der -out private-key.hex && cp private-key.hex key.der',
  )
  await run(member, 'echo -n $(xxd -plain -cols 32 -s -32 private-key.hex) > private-key.hex')
  // What `echo -n` does not know, as some shells do not, it prints: then the file would hold more than the key.
  expect(await readFile(member.keyFile, 'utf8')).toMatch(/^[0-9a-f]{64}$/)
  expect((await stat(member.keyFile)).mode & 0o777).toBe(0o600)
  const publicKey = await opensslPublicKey(member, 'key.der')

  const checked = await entry('mesh-node', ['check', '-c', member.configFile, '-k', member.keyFile])
  expect(checked).toMatchObject({ code: 0, err: '' })
  expect(checked.out).toContain(`public key is ${publicKey}\n`)
  expect(await entry('meshctl', ['key', 'show', '-k', member.keyFile])).toMatchObject({
    code: 0,
    out: `${publicKey}\n`,
  })
  await member.start()
  expect(await member.get<NodeView>('/v1/node')).toMatchObject({ key: publicKey })
  await member.stop()

  // PRIVATE_KEY beats the file.
  const inline = { PRIVATE_KEY: '9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60' }
  const other = await entry('mesh-node', ['check', '-c', member.configFile, '-k', member.keyFile], inline)
  expect(other.out).toContain('public key is d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a\n')
})

test.each([
  [
    'a PEM file',
    'openssl genpkey -algorithm ed25519 -out wrong.key',
    'openssl pkey -in wrong.key -outform der -out wrong.der',
  ],
  ['a DER file', 'openssl genpkey -algorithm ed25519 -outform der -out wrong.key', 'cp wrong.key wrong.der'],
])('%s in its place is told how to become one, and does so', async (_, make, toDer) => {
  const member = fleet().member('solo')
  await run(member, `rm -f wrong.*; ${make} && ${toDer}`)
  const file = join(member.directory, 'wrong.key')
  const { code, err } = await entry('mesh-node', ['check', '-c', member.configFile, '-k', file])
  expect(code, err).toBe(3)
  const [, remedy] = /Convert it: (.*)\n/.exec(err) ?? []
  expect(remedy, err).toBeDefined()
  await run(member, remedy as string)
  const converted = await entry('mesh-node', ['check', '-c', member.configFile, '-k', `${file}.hex`])
  expect(converted, converted.err).toMatchObject({ code: 0 })
  expect(converted.out).toContain(await opensslPublicKey(member, 'wrong.der'))
})

test('a key that others may read is refused with the command that ends that', async () => {
  const member = fleet().member('solo')
  const file = join(member.directory, 'open.key')
  await run(member, 'openssl rand -hex 32 > open.key && chmod 644 open.key')
  const { code, err } = await entry('mesh-node', ['check', '-c', member.configFile, '-k', file])
  expect(code, err).toBe(3)
  await run(member, (/Run: (.*)\n/.exec(err) ?? [])[1] as string)
  expect(await entry('mesh-node', ['check', '-c', member.configFile, '-k', file])).toMatchObject({ code: 0 })
})
