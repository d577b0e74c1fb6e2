/** The API of real daemons over TLS with the certificate of their own keys: pinned by key and by ticket, the same after a restart. */

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFile, symlink } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { ERROR_CODES } from '../../src/errors.ts'
import { meshctl, type CliResult } from '../support/cli.ts'
import { REPOSITORY, type Member } from '../support/fleet.ts'
import { http } from '../support/http.ts'
import { eventually, useFleet } from '../support/use-fleet.ts'

interface PackageFile {
  readonly bin: { readonly meshctl: string }
  readonly scripts: { readonly meshctl: string }
}

const fleet = useFleet({
  members: [{ name: 'one' }, { name: 'two' }],
  config: { http_tls: { identity: true } },
})
const member = (name: string): Member => fleet().member(name)

/** Over TCP. */
async function status(at: Member, ...options: readonly string[]): Promise<CliResult> {
  const argv = ['--api', at.api.replace('http:', 'https:'), '-k', 'owner.key', ...options, 'status']
  return await meshctl(argv, { cwd: fleet().directory })
}

const fingerprintOf = (at: Member): string | undefined =>
  /the API speaks TLS.*?fingerprint"?[=:]"?([0-9A-F:]{95})/.exec(at.stderr)?.[1]

test('each node is believed by its own key, and by no other', async () => {
  const [one, two] = [member('one'), member('two')]
  expect(await status(one, '--pin', one.key.publicKey)).toMatchObject({ code: 0 })
  await eventually(() => status(two, '--pin', two.key.publicKey), 'it has its mesh').toMatchObject({ code: 0, err: '' })
  const { code, err } = await status(two, '--pin', one.key.publicKey)
  expect([code, err]).toEqual([
    ERROR_CODES.unavailable.exit,
    expect.stringContaining(`it proves to be node ${two.key.publicKey}; --pin wants ${one.key.publicKey}`),
  ])
  expect((await http(one.api, '/health')).json()).toMatchObject({ detail: expect.stringContaining('speaks HTTPS') })
})

test('a ticket is a pin for the nodes that it names', async () => {
  const [one, two] = [member('one'), member('two')]
  // Asked on the host, as whoever invites does; once it hears from the other one, the ticket names both.
  const invite = ['--api', one.socket, '-k', 'owner.key', 'invite', '--zone', '*']
  await eventually(async () => {
    const { out } = await meshctl(invite, { cwd: fleet().directory })
    return (await status(two, '--pin', out.trim())).code
  }).toBe(0)
  const { out } = await meshctl(invite, { cwd: fleet().directory })
  expect(await status(one, '--pin', out.trim())).toMatchObject({ code: 0, err: '' })
})

test('the certificate is the same after a restart', async () => {
  const one = member('one')
  const fingerprint = fingerprintOf(one)
  expect((await status(one, '--fingerprint', fingerprint ?? 'none')).code).toBe(0)
  await one.stop()
  await one.start()
  expect(fingerprintOf(one)).toBe(fingerprint)
  expect((await status(one, '--fingerprint', fingerprint ?? 'none')).code).toBe(0)
})

test('neither a daemon nor meshctl leaves a core dump, which would hold keys and the texts of secrets', async () => {
  const isForbidden = /^Max core file size +0 +0 /m
  const limitsOf = async (pid: number | undefined): Promise<string> => await readFile(`/proc/${pid}/limits`, 'utf8')
  expect(await limitsOf(member('two').pid)).toMatch(isForbidden)
  // As npx, the npm script and a link in /usr/local/bin start it. It waits for its input.
  const { bin, scripts } = JSON.parse(await readFile(join(REPOSITORY, 'package.json'), 'utf8')) as PackageFile
  expect(scripts.meshctl).toMatch(new RegExp(`exec ${bin.meshctl}$`))
  const link = join(fleet().directory, 'meshctl')
  await symlink(join(REPOSITORY, bin.meshctl), link)
  const child = spawn(link, ['apply', '--dry-run', '-f', '-'], { stdio: ['pipe', 'ignore', 'ignore'] })
  const ended = once(child, 'exit')
  // The shell sets it, and becomes Node.
  await eventually(() => readFile(`/proc/${child.pid}/cmdline`, 'utf8')).toContain('src/meshctl.ts')
  expect(await limitsOf(child.pid)).toMatch(isForbidden)
  child.stdin.end()
  await ended
})
