/**
 * Hosts whose nginx is missing, too old, or killed in the middle of an apply: the daemon relays and stores all the same, says
 * what is wrong in words, and puts things right by itself as soon as that is possible.
 */

import { execFileSync } from 'node:child_process'
import { chmod, mkdir, rename, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import type { NodeView } from '../../src/api/schemas.ts'
import type { Member } from '../support/fleet.ts'
import { answers, applySite, converged, eventually, health, tell, useFleet } from '../support/use-fleet.ts'

const NGINX = execFileSync('/bin/sh', ['-c', 'PATH="$PATH:/usr/sbin:/sbin" command -v nginx'], {
  encoding: 'utf8',
}).trim()

const fleet = useFleet({ members: [{ name: 'seed' }], config: { sync_interval_seconds: 1 } })

/** A granted host, not started, whose nginx.binary is a file of its own folder that is not there yet. */
async function host(name: string): Promise<{ member: Member; binary: string }> {
  const seed = fleet().member('seed')
  const binary = join(fleet().directory, `${name}-bin`, 'nginx')
  await mkdir(join(fleet().directory, `${name}-bin`))
  const member = await fleet().add({ name, nginx: true, dials: ['seed'], config: { nginx: { binary } } })
  await tell(fleet(), seed, ['grant', 'node', member.key.publicKey, '--zone', '*', '--name', name])
  return { member, binary }
}

/** Puts a script, or nginx itself, where the daemon looks for nginx: at once, as an upgrade does. */
async function install(binary: string, script?: string): Promise<void> {
  if (script === undefined) await symlink(NGINX, `${binary}.new`)
  else await writeFile(`${binary}.new`, `#!/bin/sh\n${script}`)
  if (script !== undefined) await chmod(`${binary}.new`, 0o755)
  await rename(`${binary}.new`, binary)
}

/** Starts a host and waits until it holds what the mesh holds. */
async function joins(member: Member): Promise<void> {
  await member.start()
  await eventually(() => envelopes(member)).toBe(await envelopes(fleet().member('seed')))
}

const envelopes = async (member: Member): Promise<number> => (await member.get<NodeView>('/v1/node')).envelopes

test.each([
  ['missing', undefined, /^Error \(.*cannot run .*\/nginx: .*ENOENT/],
  ['too-old', 'echo "nginx version: nginx/1.14.2" >&2', /^Error \(.*nginx 1\.14\.2 is too old/],
  ['not-nginx', 'echo "curl 8" >&2', /^Error \(.*this is not nginx/],
])('nginx is %s: the node is up and says so, and serves as soon as there is one', async (name, script, words) => {
  const { member, binary } = await host(name)
  if (script !== undefined) await install(binary, script)
  await joins(member)
  await eventually(() => health(member)).toMatch(words)
  const response = await fetch(`${member.api}/health`)
  expect(response.status).toBe(503)
  // It holds and relays what it cannot serve.
  await applySite(fleet(), member, { name: `site-${name}` })
  await eventually(async () => (await envelopes(fleet().member('seed'))) - (await envelopes(member))).toBe(0)
  expect(await tell(fleet(), member, ['status']), 'status shows the way out').toMatch(/nginx/)

  await install(binary)
  await eventually(() => answers([member], `site-${name}`)).toEqual({ [name]: `site-${name}` })
  await converged([member])
  await member.stop()
})

test.each([
  ['the master', 'kill -9 $master'],
  ['all of nginx', 'kill -9 $master $(cat /proc/$master/task/$master/children)'],
])('%s is killed in the middle of an apply, and what is desired is served all the same', async (what, kill) => {
  const name = what.replaceAll(' ', '-')
  const { member, binary } = await host(name)
  const flag = join(fleet().directory, `${name}-bin`, 'kill')
  // Kills while the configuration is tested, which is past the look at what runs and before the reload.
  const script = `for argument; do
  if [ "$argument" = -t ] && [ -e ${flag} ]; then
    master=$(cat ${member.nginxDirectory}/nginx.pid)
    ${kill}
    rm ${flag}
  fi
done
exec ${NGINX} "$@"
`
  await install(binary, script)
  await joins(member)
  await applySite(fleet(), member, { name: 'victim', body: 'before' })
  await eventually(() => answers([member], 'victim')).toEqual({ [name]: 'before' })
  await converged([member])
  const [master, before] = [await member.nginxMaster(), await member.nginxProcesses()]

  await writeFile(flag, '')
  await applySite(fleet(), member, { name: 'victim', body: 'after' })
  await eventually(() => answers([member], 'victim')).toEqual({ [name]: 'after' })
  await converged([member])
  expect(await member.nginxMaster()).not.toBe(master)
  // One master and its two workers, none of them from before.
  await eventually(async () => (await member.nginxProcesses()).length).toBe(3)
  expect((await member.nginxProcesses()).filter((pid) => before.includes(pid))).toEqual([])
  await member.stop()
})
