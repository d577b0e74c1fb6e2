/**
 * Policies through the whole apply protocol on real nginx: a site never serves without what protects it, changed limits
 * reach it by a reload that nginx does not quietly refuse, and workers of another user read the list of users.
 */

import { expect, test } from 'vitest'
import { assemble } from '../../src/nginx/rendering/assemble.ts'
import { USERS } from '../support/injection.ts'
import { freePort, NginxHost } from '../support/nginx-host.ts'
import { ask } from '../support/real-nginx.ts'
import { renderYaml } from '../support/resources.ts'

const document = (kind: string, name: string, spec: object) =>
  JSON.stringify({ apiVersion: 'nxmesh/v1', kind, metadata: { name, zone: '*' }, spec })
const policy = (name: string, spec: object) => document('Policy', name, spec)
const site = (name: string, port: number, policies: readonly string[], says: string) =>
  document('Site', name, {
    hosts: [`${name}.example`],
    listeners: { http: { port, address: '127.0.0.1' } },
    policies,
    routes: { root: { path: '/', return: { status: 200, body: says } } },
  })

function desired(host: NginxHost, documents: readonly string[]) {
  const secrets = new Map([['default/*/secret/staff', USERS]])
  const { units, problems, input } = renderYaml(documents.join('\n---\n'), { host: host.layout, secrets })
  return host.request(units, { problems, assemble: (some) => assemble(some, input) })
}

const NOBODY = { access: { default: 'deny' } }
/** Of which probes, who have neither, use up nothing. */
const limit = (by: 'header' | 'cookie') => ({
  rateLimit: { limits: { a: { rate: '1r/m', by, header: 'X-A', cookie: 'a', zoneSize: '64k' } } },
})

function unitsOf(applier: { readonly lastGood: { readonly units: readonly { readonly path: string }[] } | undefined }) {
  return (applier.lastGood?.units ?? []).map(({ path }) => path)
}

test('a site whose policy is deleted goes on being protected, and takes no edit meanwhile', async () => {
  await using host = await NginxHost.create()
  const applier = await host.booted()
  const port = await freePort()
  const both = [policy('nobody', NOBODY), site('a', port, ['nobody'], 'one')]
  expect(await applier.apply(desired(host, both))).toMatchObject({ outcome: 'applied' })
  expect(await host.get(port, 'a.example')).toMatchObject({ status: 403 })

  const others = [site('a', port, ['nobody'], 'two'), site('b', port, [], 'b')]
  expect(await applier.apply(desired(host, others))).toMatchObject({ outcome: 'applied' })
  expect(await host.get(port, 'a.example')).toMatchObject({ status: 403 })
  expect(await host.get(port, 'b.example')).toEqual({ status: 200, body: 'b' })

  const open = [site('a', port, [], 'three')]
  expect(await applier.apply(desired(host, open))).toMatchObject({ outcome: 'applied' })
  expect(await host.get(port, 'a.example')).toEqual({ status: 200, body: 'three' })
})

test('a limit by another key is served by every worker after a reload, and one site may keep the old one', async () => {
  await using host = await NginxHost.create()
  const applier = await host.booted()
  const port = await freePort()
  const status = async (name: string, who = 'me') => {
    const headers = { host: `${name}.example`, 'x-a': 'me', cookie: `a=${who}` }
    return (await ask({ port, path: '/', headers })).status
  }
  const sites = (spec: object, rest: readonly string[] = []) => [
    policy('each', spec),
    site('a', port, ['each', ...rest], 'a'),
    site('b', port, ['each'], 'b'),
  ]
  expect(await applier.apply(desired(host, sites(limit('header'))))).toMatchObject({ outcome: 'applied' })
  expect(await status('a')).toBe(200)
  expect(await status('b')).toBe(429)

  // The site a names what is not there, and so stays as it was; nginx knows both zones now.
  expect(await applier.apply(desired(host, sites(limit('cookie'), ['gone'])))).toMatchObject({
    outcome: 'applied',
  })
  expect(await status('b')).toBe(200)
  expect(await status('b')).toBe(429)
  expect(await status('a')).toBe(429)
  expect(unitsOf(applier).filter((path) => path.startsWith('default/*/policy/each#'))).toHaveLength(2)

  expect(await applier.apply(desired(host, sites(limit('cookie'))))).toMatchObject({ outcome: 'applied' })
  expect(unitsOf(applier).filter((path) => path.startsWith('default/*/policy/each#'))).toHaveLength(1)
  // What was counted counts on.
  expect(await status('a')).toBe(429)
  expect(await status('a', 'you')).toBe(200)
})

test('workers of another user than the master read who may come in', async () => {
  await using host = await NginxHost.create()
  const applier = await host.booted()
  const port = await freePort()
  const documents = [
    document('Secret', 'staff', { sealed: ['00000000000000000000000000000000', 'AA'] }),
    policy('staff', { basicAuth: { secret: 'staff' } }),
    site('a', port, ['staff'], 'a'),
  ]
  expect(await applier.apply(desired(host, documents))).toMatchObject({ outcome: 'applied' })
  // A list that a worker cannot open would be a 403 or a 500.
  const headers = { host: 'a.example', authorization: `Basic ${btoa('grace:wrong')}` }
  expect(await ask({ port, path: '/', headers })).toMatchObject({ status: 401 })
  expect(await host.log('error.log')).toContain('user "grace": password mismatch')
})
