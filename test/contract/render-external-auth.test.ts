import { once } from 'node:events'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { GuardedHost } from '../support/guarded-host.ts'
import { freePort } from '../support/real-nginx.ts'
import { DEBIAN_12, renderYaml } from '../support/resources.ts'

const INCAPABLE = { ...DEBIAN_12, modules: DEBIAN_12.modules.filter((name) => name !== 'http_auth_request') }

describe('requests that an upstream judges, on real nginx', () => {
  let host: GuardedHost
  const servers: Server[] = []
  /** What the judge was asked, and what the site's upstream. */
  const asked: string[] = []
  const reached: string[] = []
  /** What the judge was told under names that nobody may say to it. */
  const forged: unknown[] = []

  const listen = async (server: Server) => {
    servers.push(server.listen(0, '127.0.0.1'))
    await once(server, 'listening')
    return (server.address() as AddressInfo).port
  }

  beforeAll(async () => {
    const judge = createServer((request, response) => {
      const { headers, method, url } = request
      const chunks: Buffer[] = []
      request.on('data', (chunk: Buffer) => chunks.push(chunk))
      request.on('end', () => {
        const body = Buffer.concat(chunks).toString()
        asked.push(
          `${method} ${url} ${String(headers['x-original-method'])} ${String(headers['x-original-uri'])} ${body}`,
        )
        if (headers['x-token'] === 'slow') return
        forged.push(headers['x-user'], headers['x-group'], headers['x-client-subject'])
        const status = { good: 200, bea: 200, none: 401, bad: 403, odd: 302, broken: 500 }[
          String(headers['x-token'] ?? 'none')
        ]
        if (status === undefined) return request.socket.destroy()
        if (status === 401) response.setHeader('WWW-Authenticate', 'Bearer realm="there"')
        response.setHeader('X-User', headers['x-token'] === 'bea' ? 'bea' : 'ada')
        return response.writeHead(status).end('judged')
      })
    })
    const site = createServer((request, response) => {
      request.resume()
      request.on('end', () => {
        const { headers, method, url } = request
        reached.push(`${method} ${url}`)
        const jump = /jump=(.*)/.exec(url ?? '')?.[1]
        if (jump !== undefined) response.setHeader('X-Accel-Redirect', jump)
        response.end(`${String(headers['x-user'])} ${String(headers['x-group'])}`)
      })
    })
    const ports = [await listen(judge), await listen(site), await freePort()] as const
    host = await GuardedHost.start(() => siteYaml(...ports))
  })
  afterAll(async () => {
    await host?.stop()
    for (const server of servers) {
      server.close()
      server.closeAllConnections()
    }
  })

  const status = async (site: string, path: string, token: string) =>
    (await host.get(site, path, { headers: { 'X-Token': token } })).status

  test.each(['/', '/fixed', '/files/index.html', '/when', '/nowhere'])('%s passes by 2xx alone', async (path) => {
    reached.length = 0
    expect(await status('a', path, 'none')).toBe(401)
    expect(await status('a', path, 'bad')).toBe(403)
    for (const token of ['odd', 'broken', 'silent']) expect(await status('a', path, token)).toBe(500)
    expect(await host.drained('a', path, { headers: { 'X-Token': 'bad' } })).toMatchObject({
      status: 403,
      headers: { connection: 'close' },
    })
    expect(reached).toEqual([])
    expect(await status('a', path, 'good')).toBe(path === '/nowhere' ? 404 : 200)
  })

  test('who cannot be asked lets nobody in', async () => {
    expect(await status('dead', '/', 'good')).toBe(500)
    expect((await host.drained('dead', '/', { headers: { 'X-Token': 'good' } })).status).toBe(500)
  })

  test('a judge that takes too long lets nobody in', async () => {
    expect(await status('hasty', '/', 'slow')).toBe(500)
    expect(await status('hasty', '/', 'good')).toBe(200)
  })

  test('the judge sees what is asked for, without the body; the upstream gets both', async () => {
    asked.length = 0
    reached.length = 0
    const body = 'x'.repeat(100_000)
    await host.get('a', '/up/a%2Fb?c=d', { method: 'POST', body, headers: { 'X-Token': 'good' } })
    expect(asked).toEqual(['GET /judge?of=a POST /up/a%2Fb?c=d '])
    expect(reached).toEqual(['POST /up/a%2Fb?c=d'])
  })

  test('headers of the judge go on, and a client cannot say them itself', async () => {
    const headers = { 'X-Token': 'good', 'X-User': 'mallory', 'X-Group': 'admins' }
    expect((await host.get('a', '/up/', { headers })).body).toBe('ada undefined')
    expect((await host.drained('a', '/up/', { headers })).body).toBe('ada undefined')
    expect((await host.get('a', '/up/own', { headers })).body).toBe('ada undefined')
  })

  test('nor to the judge, to a page of an error, or where the route goes without', async () => {
    const headers = { 'X-Token': 'good', 'X-User': 'mallory', 'X-Group': 'admins', 'X-Client-Subject': 'CN=root' }
    forged.length = 0
    const said = async (path: string) => {
      const answers = [await host.get('a', path, { headers }), await host.drained('a', path, { headers })]
      return [...new Set(answers.map(({ status: answered, body }) => `${answered} ${body}`))].join()
    }
    expect(await said('/up/')).toBe('200 ada undefined')
    expect(await said('/lost')).toBe('502 undefined undefined')
    expect(forged.filter((value) => value !== undefined)).toEqual([])
    expect(await said('/open')).toBe('200 undefined undefined')
    expect(await said('/guest')).toBe('200 guest undefined')
  })

  test('a cache keeps nobody’s answer for another, unless it is told that all get the same', async () => {
    const page = async (site: string, path: string, token: string) => {
      const { body, headers } = await host.get(site, path, { headers: { 'X-Token': token } })
      return `${String(headers['x-cache-status'])} ${body}`
    }
    for (const _ of [1, 2]) {
      expect(await page('kept', '/up/mine', 'good')).toBe('BYPASS ada undefined')
      expect(await page('kept', '/up/mine', 'bea')).toBe('BYPASS bea undefined')
    }
    expect(await page('kept', '/open', 'none')).toBe('MISS undefined undefined')
    expect(await page('kept', '/open', 'bea')).toBe('HIT undefined undefined')
    expect(await page('shared', '/up/all', 'good')).toBe('MISS ada undefined')
    expect(await page('shared', '/up/all', 'bea')).toBe('HIT ada undefined')
    expect(await status('shared', '/up/all', 'none')).toBe(401)
  })

  test('in maintenance its page is what all get, and the judge is not asked; who is allowed is judged', async () => {
    asked.length = 0
    for (const token of ['good', 'none', 'bad']) expect(await status('down', '/up/', token)).toBe(503)
    expect((await host.drained('down', '/')).status).toBe(503)
    expect(asked).toEqual([])
    expect(await status('allowed', '/up/', 'none')).toBe(401)
    expect(await status('allowed', '/up/', 'good')).toBe(200)
  })

  test('an upstream cannot lead past the judge', async () => {
    const { generation } = renderYaml(siteYaml(1, 2, 3))
    const text = [...generation.objects.values()].join('\n')
    const places = [...text.matchAll(/location (?:= )?(@\S+|\/nxmesh_\S+) \{/g)].map(([, place]) => place as string)
    expect(places).toContainEqual(expect.stringMatching(/^@answer_/))
    for (const place of [...new Set(places), '/fixed']) {
      const { status: answered, body, headers } = await host.get('a', `/open?jump=${place}`)
      expect([place, answered, body]).toEqual([place, 200, 'undefined undefined'])
      expect(headers).not.toHaveProperty('x-accel-redirect')
    }
  })

  test('401 says how, or leads to where one signs in', async () => {
    expect((await host.get('a', '/up/')).headers['www-authenticate']).toBe('Bearer realm="there"')
    const answer = await host.get('signin', '/up/x')
    expect([answer.status, answer.headers.location]).toEqual([
      302,
      'https://login.example/?rd=http://signin.example/up/x',
    ])
    expect(await status('signin', '/', 'bad')).toBe(403)
    expect(await status('signin', '/', 'good')).toBe(200)
  })

  test('a route may go without, and the question cannot be asked by clients', async () => {
    expect((await host.get('a', '/open')).status).toBe(200)
    const { generation } = renderYaml(siteYaml(1, 2, 3))
    const path = /location = (\/nxmesh_\S+\/auth) /.exec([...generation.objects.values()].join('\n'))?.[1] as string
    expect(await status('a', path, 'good')).toBe(404)
  })

  test('a host whose nginx cannot ask serves nothing without it', () => {
    const { problems, units } = renderYaml(siteYaml(1, 2, 3), { capabilities: INCAPABLE })
    expect(problems.map(({ message }) => message)).toContain(
      'externalAuth of a policy needs nginx with its module http_auth_request; this host has 1.22.1',
    )
    expect(units.filter(({ kind }) => kind === 'site')).toEqual([])
  })
})

function siteYaml(judge: number, app: number, dead: number): string {
  const upstream = (name: string, port: number) =>
    `{ apiVersion: nxmesh/v1, kind: Upstream, metadata: { name: ${name} }, spec: { endpoints: { '127.0.0.1:${port}': {} } } }`
  const policy = (name: string, spec: string) =>
    `{ apiVersion: nxmesh/v1, kind: Policy, metadata: { name: ${name} }, spec: { externalAuth: { path: '/judge?of=a', headers: [X-User, X-Group], ${spec} } } }`
  const cache = (name: string, spec: string) =>
    `{ apiVersion: nxmesh/v1, kind: Policy, metadata: { name: ${name} }, spec: { cache: { statusHeader: true, ${spec} } } }`
  const site = (name: string, auth: string, more = '') => `
apiVersion: nxmesh/v1
kind: Site
metadata: { name: ${name} }
spec:
  hosts: [${name}.example]
  policies: [${auth}]
  errorPages: { pages: { '502': { upstream: app, path: /page } } }
  ${more}
  routes:
    root: { path: /, match: exact, proxy: { upstream: app } }
    up: { path: /up/, proxy: { upstream: app } }
    own: { path: /up/own, proxy: { upstream: app }, requestHeaders: { set: { X-User: $http_x_user } } }
    fixed: { path: /fixed, return: { status: 200, body: fixed } }
    files: { path: /files/, proxy: { upstream: app } }
    when: { path: /when, when: { methods: [GET] }, return: { status: 200, body: chosen } }
    open: { path: /open, proxy: { upstream: app }, withoutPolicies: [asked] }
    guest: { path: /guest, proxy: { upstream: app }, withoutPolicies: [asked], requestHeaders: { set: { X-User: guest } } }
    lost: { path: /lost, proxy: { upstream: gone } }
`
  return [
    upstream('judge', judge),
    upstream('app', app),
    upstream('gone', dead),
    policy('asked', 'upstream: judge'),
    policy('hasty', 'upstream: judge, timeout: 100ms'),
    policy('unasked', 'upstream: gone'),
    policy('signing', "upstream: judge, signin: 'https://login.example/?rd=$scheme://$host$request_uri'"),
    site('a', 'asked'),
    site('hasty', 'hasty'),
    site('dead', 'unasked'),
    site('signin', 'signing'),
    cache('kept', "valid: { '200': 1h }"),
    cache('shared', "valid: { '200': 1h }, authorized: true"),
    site('kept', 'asked, kept'),
    site('shared', 'asked, shared'),
    site('down', 'asked', 'maintenance: { enabled: true }'),
    site('allowed', 'asked', 'maintenance: { enabled: true, allow: [127.0.0.1] }'),
  ].join('\n---\n')
}
