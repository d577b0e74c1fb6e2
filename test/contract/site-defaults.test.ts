import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { GuardedHost, type Ground } from '../support/guarded-host.ts'

describe('defaults of zone settings, on real nginx', () => {
  let host: GuardedHost

  beforeAll(async () => {
    host = await GuardedHost.start(yaml)
  })
  afterAll(() => host?.stop())

  const long = (site: string) => host.get(site, '/', { method: 'POST', body: 'x'.repeat(2000) })

  test('a site has the limits of the nearest zone that has any, and its own before them', async () => {
    expect(await long('plain')).toMatchObject({ status: 413 })
    expect(await long('own')).toMatchObject({ status: 200 })
    expect(await long('everywhere')).toMatchObject({ status: 200 })
  })

  test('answers have the headers of all its zones, each by the nearest', async () => {
    const { headers } = await host.get('plain', '/')
    expect([headers['x-node'], headers['x-zone'], headers['x-workspace']]).toEqual(['shared', 'eu', 'shop'])
    const { headers: own } = await host.get('own', '/')
    expect([own['x-node'], own['x-zone'], own['x-workspace']]).toEqual(['shared', 'own', 'shop'])
    const { headers: other } = await host.get('other', '/')
    expect([other['x-node'], other['x-zone'], other['x-workspace']]).toEqual(['shared', 'all', undefined])
  })

  test('upstreams are told the headers of the nearest zone, and are not told others', async () => {
    const told = async (site: string) => (await host.get(site, '/', { headers: { Authorization: 'mine' } })).body
    expect(await told('everywhere')).toBe('from the backend of shop')
    expect(await told('plain')).toBe('from the backend ')
    expect(await told('own')).toBe('from the backend own')
    expect(await told('other')).toBe('from the backend mine')
  })

  test('a site waits as long as the nearest zone says', async () => {
    expect(await host.get('plain', '/held')).toMatchObject({ status: 504 })
  })

  test('a header of the upstream is removed, unless the site sets it', async () => {
    expect((await host.get('plain', '/app')).headers['access-control-allow-origin']).toBeUndefined()
    expect((await host.get('own', '/app')).headers['access-control-allow-origin']).toBe('own')
    expect((await host.get('other', '/app')).headers['access-control-allow-origin']).toBe('*')
  })

  test('answers are compressed, where the site does not say otherwise', async () => {
    const encoding = async (site: string) =>
      (await host.get(site, '/files/', { headers: { 'accept-encoding': 'gzip' } })).headers['content-encoding']
    expect(await encoding('plain')).toBe('gzip')
    expect(await encoding('own')).toBeUndefined()
  })

  test('error pages are those of the nearest: route, site, zone, the zone around', async () => {
    const page = async (site: string, path: string) => (await host.get(site, path)).body
    expect(await page('plain', '/files/none')).toBe('page of eu')
    expect(await page('own', '/files/none')).toBe('page of own')
    expect(await page('everywhere', '/files/none')).toBe('page of shop')
    expect(await page('other', '/files/none')).toContain('nginx')
  })

  test('policies protect what names none, drained or not', async () => {
    for (const path of ['/', '/app', '/files/', '/nothing']) {
      expect(await host.get('plain', path, { client: '127.0.0.2' })).toMatchObject({ status: 403 })
      expect(await host.drained('plain', path, { client: '127.0.0.2' })).toMatchObject({ status: 403 })
    }
    expect(await host.get('plain', '/', { client: '127.0.0.3' })).toMatchObject({ status: 200 })
    expect(await host.get('plain', '/open', { client: '127.0.0.2' })).toMatchObject({ status: 200 })
    expect(await host.get('other', '/', { client: '127.0.0.2' })).toMatchObject({ status: 200 })
  })

  test('a policy of the site takes the place of one of the same type, and of no other', async () => {
    expect(await host.get('own', '/', { client: '127.0.0.2' })).toMatchObject({ status: 200 })
    expect(await host.get('own', '/', { client: '127.0.0.3' })).toMatchObject({ status: 403 })
    const shared = await host.get('shared', '/', { client: '127.0.0.2', headers: { origin: 'https://a.example' } })
    expect(shared).toMatchObject({ status: 403, headers: { 'access-control-allow-origin': 'https://a.example' } })
  })

  test('a site goes without a policy of its defaults, and with those that it names itself', async () => {
    for (const path of ['/', '/app', '/files/', '/nothing']) {
      expect(await host.get('free', path, { client: '127.0.0.2' })).toMatchObject({ status: 200 })
      expect(await host.drained('free', path, { client: '127.0.0.2' })).toMatchObject({ status: 200 })
      expect(await host.get('named', path, { client: '127.0.0.2' })).toMatchObject({ status: 403 })
    }
  })
})

const resource = (kind: string, path: string, spec: object) => {
  const [workspace, zone, name] = path.split('/')
  return JSON.stringify({ apiVersion: 'nxmesh/v1', kind, metadata: { workspace, zone, name }, spec })
}

function yaml({ backend, root }: Ground): string {
  const page = (body: string) => ({ pages: { '404': { body, contentType: 'text/plain' } } })
  const routes = {
    root: { path: '/', proxy: { upstream: 'app' } },
    fixed: { path: '/open', return: { status: 200 }, withoutPolicies: ['office'] },
    files: { path: '/files/', static: { root } },
  }
  const site = (path: string, spec: object = {}) =>
    resource('Site', path, { hosts: [`${path.split('/').at(-1)}.example`], routes, ...spec })
  const shopSite = (name: string, spec: object = {}) => site(`shop/eu/${name}`, spec)
  const settings = (place: string, defaults: object) => resource('ZoneSettings', `${place}/settings`, { defaults })
  const upstream = (workspace: string) =>
    resource('Upstream', `${workspace}/*/app`, { endpoints: { [`127.0.0.1:${backend}`]: {} } })
  return [
    settings('default/*', { responseHeaders: { set: { 'X-Node': 'shared', 'X-Zone': 'all' } } })
      // What one of its names means is nothing to other workspaces.
      .replace('"defaults":{', '"defaults":{"policies":["nowhere"],'),
    settings('shop/*', {
      responseHeaders: { set: { 'X-Zone': 'shop', 'X-Workspace': 'shop' }, remove: ['Access-Control-Allow-Origin'] },
      errorPages: page('page of shop'),
      maxBodySize: '5k',
      requestHeaders: { set: { Authorization: 'of shop' } },
      timeouts: { read: '5m' },
      policies: ['office'],
    }),
    settings('shop/eu', {
      maxBodySize: '1k',
      responseHeaders: { set: { 'X-Zone': 'eu' } },
      requestHeaders: { remove: ['Authorization'] },
      timeouts: { read: '100ms' },
      compression: { minLength: 1 },
      errorPages: page('page of eu'),
    }),
    resource('Policy', 'shop/*/office', { access: { deny: ['127.0.0.2'] } }),
    resource('Policy', 'shop/eu/own', { access: { deny: ['127.0.0.3'] } }),
    resource('Policy', 'shop/eu/pages', { cors: { origins: ['https://a.example'] } }),
    upstream('shop'),
    upstream('other'),
    shopSite('plain'),
    shopSite('own', {
      maxBodySize: '3k',
      requestHeaders: { set: { authorization: 'own' } },
      responseHeaders: { set: { 'x-zone': 'own', 'Access-Control-Allow-Origin': 'own' } },
      compression: { enabled: false },
      errorPages: page('page of own'),
      policies: ['own'],
    }),
    shopSite('shared', { policies: ['pages'] }),
    shopSite('free', { withoutPolicies: ['office'] }),
    shopSite('named', { withoutPolicies: ['office'], policies: ['office'] }),
    site('shop/*/everywhere'),
    site('other/eu/other', { routes: { ...routes, fixed: { path: '/open', return: { status: 200 } } } }),
  ].join('\n---\n')
}
