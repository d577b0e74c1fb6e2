import { execFileSync } from 'node:child_process'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { GuardedHost, type Ground } from '../support/guarded-host.ts'

const hashed = (form: string, password: string) =>
  execFileSync('openssl', ['passwd', form, '-salt', 'saltsalt', password], { encoding: 'utf8' }).trim()

/** `secret`, by bcrypt at its least cost. */
const BCRYPT = '$2y$05$MIXNkUJrxS6tOUuFGDAbXeX7vladJgW2UFtEMQK7tSqF64tqPz10q'

describe('passwords and other origins, on real nginx', () => {
  let host: GuardedHost

  beforeAll(async () => {
    const lines = `# staff\r\nada:${hashed('-apr1', 'engine')}\r\n\r\ngrace:${hashed('-6', 'compiler')}\n`
    host = await GuardedHost.start((ground) => authYaml(ground, hashed('-5', 'machine')), {
      secrets: new Map([['default/*/secret/staff', lines]]),
    })
  })
  afterAll(() => host?.stop())

  const as = (name: string, password: string) => ({
    Authorization: `Basic ${Buffer.from(`${name}:${password}`).toString('base64')}`,
  })

  describe.each(EVERYTHING)('%s', (_, path, status, headers) => {
    test('asks for a password, drained or not, and lets in who has it', async () => {
      const before = host.asked
      const refused = await host.get('staff', path, { headers })
      expect(refused).toMatchObject({ status: 401, headers: { 'www-authenticate': 'Basic realm="for staff $only"' } })
      const drained = await host.drained('staff', path, { headers })
      expect(drained).toMatchObject({ status: 401, headers: { connection: 'close' } })
      expect(await host.get('staff', path, { headers: { ...headers, ...as('ada', 'compiler') } })).toMatchObject({
        status: 401,
      })
      expect(host.asked).toBe(before)
      const inside = { headers: { ...headers, ...as('ada', 'engine') } }
      expect(await host.get('staff', path, inside)).toMatchObject({ status })
      expect(await host.drained('staff', path, inside)).toMatchObject({ status, headers: { connection: 'close' } })
    })

    test('answers what browsers ask before, without a password', async () => {
      const asked = { ...headers, Origin: 'https://app.example', 'Access-Control-Request-Method': 'GET' }
      const { status: answered, headers: found } = await host.get('staff', path, { method: 'OPTIONS', headers: asked })
      expect(answered).toBe(204)
      expect(found).toMatchObject({
        'access-control-allow-origin': 'https://app.example',
        'access-control-allow-credentials': 'true',
        'access-control-allow-methods': 'GET, PUT',
        'access-control-allow-headers': 'Authorization, X-Own',
        'access-control-max-age': '60',
        vary: 'Origin',
      })
    })

    test('lets a page of a listed origin read every answer, refusals too', async () => {
      const origin = { ...headers, Origin: 'https://app.example' }
      const shown = { 'access-control-allow-origin': 'https://app.example', 'access-control-expose-headers': 'X-Total' }
      expect(await host.get('staff', path, { headers: origin })).toMatchObject({ status: 401, headers: shown })
      const inside = await host.get('staff', path, { headers: { ...origin, ...as('ada', 'engine') } })
      expect(inside).toMatchObject({ status, headers: shown })
      expect(inside.headers).not.toHaveProperty('access-control-allow-methods')
    })
  })

  test('hashes of all sorts count, from the secret and from the policy', async () => {
    for (const [name, password] of [
      ['ada', 'engine'],
      ['grace', 'compiler'],
      ['alan', 'machine'],
      ['bea', 'secret'],
    ] as const)
      expect([name, (await host.get('staff', '/fixed', { headers: as(name, password) })).status]).toEqual([name, 200])
    for (const name of ['bob', 'ada:', '#', ''])
      expect(await host.get('staff', '/fixed', { headers: as(name, 'engine') })).toMatchObject({ status: 401 })
  })

  test('the access log names the policy that asked, and blames none for a 401 of a backend or a route', async () => {
    await host.get('staff', '/fixed?asked')
    expect(await host.logged('/fixed?asked')).toMatchObject({ status: '401', refused_by: 'default/*/policy/staff' })
    await host.get('open', '/denied')
    expect(await host.logged('/denied')).toMatchObject({ status: '401', refused_by: '' })
    await host.get('staff', '/own-401', { headers: as('ada', 'engine') })
    expect(await host.logged('/own-401')).toMatchObject({ status: '401', refused_by: '' })
  })

  test('other origins learn nothing, whatever the backend says', async () => {
    const none = 'access-control-allow-origin'
    for (const origin of [
      'https://evil.example',
      'https://app.example.evil.example',
      'http://app.example',
      'https://xapp.example',
      'null',
      'https://app.example:444',
      'https://wide.example',
      'https://a.wide.example/',
    ]) {
      const asked = { Origin: origin, 'Access-Control-Request-Method': 'GET' }
      const before = await host.get('staff', '/proxy/', { method: 'OPTIONS', headers: asked })
      expect([origin, before.status, before.headers[none]]).toEqual([origin, 204, undefined])
      const answer = await host.get('staff', '/proxy/', { headers: { Origin: origin, ...as('ada', 'engine') } })
      expect([origin, answer.status, answer.headers[none], answer.headers.vary]).toEqual([
        origin,
        200,
        undefined,
        'Origin',
      ])
    }
    for (const origin of ['https://a.wide.example', 'https://a.b.wide.example', 'https://port.example:8443']) {
      const answer = await host.get('staff', '/proxy/', { headers: { Origin: origin, ...as('ada', 'engine') } })
      expect(answer.headers[none]).toBe(origin)
    }
  })

  test('any origin may read where any is told; other OPTIONS go on', async () => {
    const { headers } = await host.get('open', '/proxy/', { headers: { Origin: 'https://any.example' } })
    expect(headers).toMatchObject({ 'access-control-allow-origin': '*' })
    expect(headers).not.toHaveProperty('vary')
    const before = host.asked
    expect(await host.get('open', '/proxy/', { method: 'OPTIONS' })).toMatchObject({ status: 200 })
    expect(
      await host.get('open', '/proxy/', { method: 'OPTIONS', headers: { Origin: 'https://any.example' } }),
    ).toMatchObject({ status: 200 })
    expect(host.asked).toBe(before + 2)
  })
})

/** What a site can answer with: what it is, a path, its status, headers. */
const EVERYTHING: [what: string, path: string, status: number, headers: Record<string, string>][] = [
  ['a proxy', '/proxy/', 200, {}],
  ['a fixed answer', '/fixed', 200, {}],
  ['a redirect', '/moved', 302, {}],
  ['an index file', '/files/', 200, {}],
  ['an application in the browser', '/app/any/where', 200, {}],
  ['a proxy with conditions', '/when/', 200, { 'X-Beta': '1' }],
  ['a fixed answer with conditions', '/when/', 200, { 'X-Beta': '2' }],
  ['what is left of routes with conditions', '/when/', 404, {}],
  ['a path without a route', '/nothing', 404, {}],
]

const authYaml = ({ backend, root }: Ground, alan: string) => `
apiVersion: nxmesh/v1
kind: Upstream
metadata: { name: app }
spec: { endpoints: { '127.0.0.1:${backend}': {} } }
---
apiVersion: nxmesh/v1
kind: Secret
metadata: { name: staff }
spec: { sealed: ['00000000000000000000000000000000', AA] }
---
apiVersion: nxmesh/v1
kind: Policy
metadata: { name: staff }
spec: { basicAuth: { realm: 'for staff $only', secret: staff, users: { alan: '${alan}', bea: '${BCRYPT}' } } }
---
apiVersion: nxmesh/v1
kind: Policy
metadata: { name: pages }
spec:
  cors:
    origins: ['https://app.example', 'https://*.wide.example', 'https://port.example:8443']
    methods: [PUT, GET]
    headers: [X-Own, Authorization]
    exposedHeaders: [X-Total]
    credentials: true
    maxAge: 60
---
apiVersion: nxmesh/v1
kind: Policy
metadata: { name: open }
spec: { cors: { origins: ['*'] } }
---
apiVersion: nxmesh/v1
kind: Site
metadata: { name: staff }
spec:
  hosts: [staff.example]
  policies: [staff, pages]
  routes:
    proxy: { path: /proxy/, proxy: { upstream: app } }
    fixed: { path: /fixed, return: { status: 200, body: fixed } }
    denied: { path: /own-401, return: { status: 401 } }
    moved: { path: /moved, redirect: { to: https://away.example/ } }
    files: { path: /files/, static: { root: ${root} } }
    app: { path: /app/, static: { root: ${root}, index: files/index.html, spa: true } }
    beta: { path: /when/, when: { headers: { X-Beta: { exact: '1' } } }, proxy: { upstream: app } }
    gamma: { path: /when/, when: { headers: { X-Beta: { exact: '2' } } }, return: { status: 200, body: beta } }
---
apiVersion: nxmesh/v1
kind: Site
metadata: { name: open }
spec:
  hosts: [open.example]
  policies: [open]
  routes:
    proxy: { path: /proxy/, proxy: { upstream: app } }
    denied: { path: /denied, return: { status: 401 } }
`
