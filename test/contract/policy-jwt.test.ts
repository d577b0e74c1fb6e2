import { createHmac, generateKeyPairSync, sign, type KeyObject } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { GuardedHost, type Ground } from '../support/guarded-host.ts'
import { DEBIAN_12, LAYOUT, renderYaml, withModules } from '../support/resources.ts'

const SECRET = 'a secret of at least thirty-two bytes'
const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 })
const otherRsa = generateKeyPairSync('rsa', { modulusLength: 2048 })
const ec = generateKeyPairSync('ec', { namedCurve: 'P-256' })
const pemOf = ({ publicKey }: { publicKey: KeyObject }) => publicKey.export({ format: 'pem', type: 'spki' }).toString()
const SECRETS = new Map([['default/*/secret/signing', `${SECRET}\n`]])
const LUA = withModules('http_lua', 'ndk_http')

type Signer = (data: string) => Buffer
const hmac =
  (secret: string | Buffer): Signer =>
  (data) =>
    createHmac('sha256', secret).update(data).digest()
const rs256 =
  ({ privateKey } = rsa): Signer =>
  (data) =>
    sign('sha256', Buffer.from(data), privateKey)
const es256: Signer = (data) => sign('sha256', Buffer.from(data), { key: ec.privateKey, dsaEncoding: 'ieee-p1363' })

const later = () => Math.floor(Date.now() / 1000) + 3600
const pack = (value: string | Buffer) => Buffer.from(value).toString('base64url')

/** A token; header and claims may be JSON text of any sort. */
function token(header: object | string, claims: object | string, signer: Signer): string {
  const [head, body] = [header, claims].map((part) => pack(typeof part === 'string' ? part : JSON.stringify(part)))
  return `${head}.${body}.${pack(signer(`${head}.${body}`))}`
}
const good = (claims: object = {}) => token({ alg: 'HS256' }, { exp: later(), ...claims }, hmac(SECRET))

describe('requests with tokens, on real nginx', () => {
  let host: GuardedHost

  beforeAll(async () => {
    host = await GuardedHost.start(yaml, {
      capabilities: LUA,
      secrets: SECRETS,
      host: { liveLane: false },
    })
  })
  afterAll(() => host?.stop())

  const bearer = (text: string) => ({ headers: { Authorization: `Bearer ${text}` } })
  const status = async (text: string, site = 'all') => (await host.get(site, '/', bearer(text))).status

  test('each algorithm, by its own key', async () => {
    expect(await status(good())).toBe(200)
    expect(await status(token({ alg: 'RS256' }, { exp: later() }, rs256()))).toBe(200)
    // Numbers of a signature begin with zeros, or with a high bit, as chance has it.
    for (let index = 0; index < 40; index++)
      expect(await status(token({ alg: 'ES256' }, { exp: later(), index }, es256))).toBe(200)
    expect(await status(token({ alg: 'RS256', kid: 'by-jwk' }, { exp: later() }, rs256(otherRsa)))).toBe(200)
    expect(await status(token({ alg: 'RS256', kid: 'of-another' }, { exp: later() }, rs256()))).toBe(200)
  })

  const claims = () => ({ exp: later(), sub: 'mallory' })
  const pem = pemOf(rsa)
  const forged: [what: string, make: () => string][] = [
    ['none', () => `${pack('{"alg":"none"}')}.${pack(JSON.stringify(claims()))}.`],
    ['none with a signature', () => token({ alg: 'none' }, claims(), hmac(SECRET))],
    ['another secret', () => token({ alg: 'HS256' }, claims(), hmac('another secret of thirty-two bytes!'))],
    ['the public key as a secret', () => token({ alg: 'HS256' }, claims(), hmac(pem))],
    ['the public key as a secret, trimmed', () => token({ alg: 'HS256' }, claims(), hmac(pem.trim()))],
    [
      'the public key as DER as a secret',
      () => token({ alg: 'HS256' }, claims(), hmac(rsa.publicKey.export({ format: 'der', type: 'spki' }))),
    ],
    ['an algorithm that is not the key’s', () => token({ alg: 'RS256', kid: 'shared' }, claims(), hmac(SECRET))],
    ['an algorithm of nobody', () => token({ alg: 'HS512' }, claims(), hmac(SECRET))],
    ['no algorithm', () => token({}, claims(), hmac(SECRET))],
    ['another key, by the ID of ours', () => token({ alg: 'RS256', kid: 'idp' }, claims(), rs256(otherRsa))],
    [
      'a key of its own',
      () =>
        token(
          { alg: 'RS256', jwk: otherRsa.publicKey.export({ format: 'jwk' }) },
          claims(),
          rs256(generateKeyPairSync('rsa', { modulusLength: 2048 })),
        ),
    ],
    ['an ECDSA signature of zeros', () => token({ alg: 'ES256' }, claims(), () => Buffer.alloc(64))],
    [
      'an ECDSA signature as DER',
      () => token({ alg: 'ES256' }, claims(), (data) => sign('sha256', Buffer.from(data), ec.privateKey)),
    ],
    ['a signature cut short', () => good().slice(0, -6)],
    ['an empty signature', () => good().replace(/[^.]+$/, '')],
    [
      'other claims',
      () => {
        const [head, , mark] = good().split('.')
        return `${head}.${pack(JSON.stringify(claims()))}.${mark}`
      },
    ],
    ['four parts', () => `${good()}.x`],
    ['what must be understood', () => token({ alg: 'HS256', crit: ['x'], x: 1 }, claims(), hmac(SECRET))],
    ['a name that is said twice', () => token('{"alg":"none","alg":"HS256"}', claims(), hmac(SECRET))],
    ['no JSON', () => token('{"alg":"HS256"', claims(), hmac(SECRET))],
    ['a list of claims', () => token({ alg: 'HS256' }, '[1]', hmac(SECRET))],
    ['deep claims', () => token({ alg: 'HS256' }, '['.repeat(900), hmac(SECRET))],
    ['no base64', () => 'a b.ü.$'],
    ['nothing', () => ''],
    ['expired', () => token({ alg: 'HS256' }, { exp: later() - 7200 }, hmac(SECRET))],
    ['no expiry', () => token({ alg: 'HS256' }, {}, hmac(SECRET))],
    ['an expiry that is text', () => token({ alg: 'HS256' }, { exp: '9999999999' }, hmac(SECRET))],
    ['not yet', () => good({ nbf: later() })],
  ]
  test.each(forged)('refused: %s', async (_, make) => {
    const before = host.asked
    const answer = await host.get('all', '/', bearer(make().replaceAll(/[^\x21-\x7e]/g, '?')))
    expect(answer.status).toBe(401)
    expect(answer.headers['www-authenticate']).toMatch(/^Bearer/)
    expect((await host.drained('all', '/', bearer(make().replaceAll(/[^\x21-\x7e]/g, '?')))).status).toBe(401)
    expect((await host.get('all', '/fixed', bearer(make().replaceAll(/[^\x21-\x7e]/g, '?')))).status).toBe(401)
    expect(host.asked).toBe(before)
  })

  test('issuer and audience, one or several; clocks that differ a little', async () => {
    expect(await status(good({ iss: 'https://idp.example', aud: ['x', 'shop'] }), 'strict')).toBe(200)
    expect(await status(good({ iss: 'https://idp.example', aud: 'shop' }), 'strict')).toBe(200)
    expect(await status(good({ iss: 'https://idp.example', aud: 'sho' }), 'strict')).toBe(401)
    expect(await status(good({ iss: 'https://idp.example' }), 'strict')).toBe(401)
    expect(await status(good({ iss: 'https://evil.example', aud: 'shop' }), 'strict')).toBe(401)
    expect(await status(good({ iss: ['https://idp.example'], aud: 'shop' }), 'strict')).toBe(401)
    expect(await status(token({ alg: 'HS256' }, { exp: later() - 3610 }, hmac(SECRET)))).toBe(200)
    expect(await status(token({ alg: 'HS256' }, { sub: 'for ever' }, hmac(SECRET)), 'endless')).toBe(200)
  })

  test('claims as headers; a client cannot say them, nor break out of one', async () => {
    const said = async (claim: unknown, headers: Record<string, string> = {}) => {
      const { status: answered, body } = await host.get('echo', '/', {
        headers: { Authorization: `Bearer ${good({ sub: claim })}`, ...headers },
      })
      return `${answered} ${body}`
    }
    expect(await said('ada', { 'X-User': 'mallory' })).toBe('200 from the backend ada')
    expect(await said(undefined, { 'X-User': 'mallory' })).toBe('200 from the backend ')
    expect(await said(['a', 'b', 7, true])).toBe('200 from the backend a,b,7,true')
    expect(await said(['guest,admin', 'b'])).toBe('200 from the backend guest%2Cadmin,b')
    expect(await said(1000000000000001)).toBe('200 from the backend 1000000000000001')
    expect(await said(2 ** 53, { 'X-User': 'mallory' })).toBe('200 from the backend ')
    expect(await said('a\r\nX-Evil: 1 ü')).toBe('200 from the backend a%0D%0AX-Evil: 1 %C3%BC')
    expect(await said({ a: 1 }, { 'X-User': 'mallory' })).toBe('200 from the backend ')
  })

  test('not two tokens in headers, of which the upstream could take the other', async () => {
    const Authorization = [`Bearer ${good()}`, 'Bearer other']
    expect((await host.get('all', '/', { headers: { Authorization } })).status).toBeGreaterThanOrEqual(400)
  })

  test('a token in a cookie', async () => {
    const at = async (headers: Record<string, string | string[]>) => (await host.get('cookie', '/', { headers })).status
    expect(await at({ Cookie: `a=b; session=${good()}` })).toBe(200)
    expect(await at({ Authorization: `Bearer ${good()}` })).toBe(401)
    expect(await at({})).toBe(401)
    // The upstream could take the other one.
    const other = token({ alg: 'none' }, { exp: later(), sub: 'mallory' }, hmac('x'))
    for (const Cookie of [
      `session=${good()}; session=${other}`,
      `Session=${good()};session =${other}`,
      `session=${good()}, session=${other}`,
      [`session=${good()}`, `a=b; session=${other}`],
    ])
      expect(await at({ Cookie })).not.toBe(200)
    expect(await at({ Cookie: `session2=${other}; xsession=x; session=${good()}; y` })).toBe(200)
  })

  test('nobody says what a claim says: not the client, also where the route goes without, nor the route', async () => {
    const said = async (path: string) =>
      (
        await host.get('told', path, {
          headers: { Cookie: `session=${good({ sub: 'ada' })}`, Authorization: 'mallory' },
        })
      ).body
    for (const path of ['/', '/set', '/when']) expect([path, await said(path)]).toEqual([path, 'from the backend ada'])
    expect(await said('/open')).toBe('from the backend ')
    expect(await said('/guest')).toBe('from the backend guest')
  })

  test('a cache keeps nobody’s answer for another', async () => {
    const page = async (path: string, sub: string) => {
      const headers = { Cookie: `session=${good({ sub })}` }
      const answer = await host.get('kept', path, { headers })
      return [answer.headers['x-cache-status'], answer.headers['x-asked-with'] === headers.Cookie]
    }
    for (const sub of ['ada', 'bea', 'ada']) expect(await page('/', sub)).toEqual(['BYPASS', true])
    expect(await page('/open', 'ada')).toEqual(['MISS', true])
    expect(await page('/open', 'bea')).toEqual(['HIT', false])
  })

  test('the access log says which policy refused', async () => {
    await host.get('all', '/?unsigned')
    expect(await host.logged('/?unsigned')).toMatchObject({ status: '401', refused_by: 'default/*/policy/all' })
  })
})

test('the secret lies in a file of workers alone, and a short one is refused', () => {
  const ground = { backend: 1, root: '/srv' }
  const { units, generation, problems } = renderYaml(yaml(ground), {
    capabilities: LUA,
    secrets: SECRETS,
    host: LAYOUT,
  })
  expect(problems).toEqual([])
  const packed = Buffer.from(SECRET).toString('base64')
  const files = units.flatMap((unit) => unit.files ?? []).filter(({ name }) => name.endsWith('.lua'))
  expect(files.map(({ readers }) => readers)).toEqual(files.map(() => 'workers'))
  expect([...generation.objects.values(), generation.main].join('')).not.toContain(packed)
  const short = renderYaml(yaml(ground), {
    capabilities: LUA,
    secrets: new Map([['default/*/secret/signing', 'short']]),
  })
  expect(short.problems.map(({ message }) => message).join()).toContain('HS256 wants at least 32')
  expect(short.units.filter(({ kind }) => kind === 'site')).toEqual([])
  const without = renderYaml(yaml(ground), { capabilities: DEBIAN_12, secrets: SECRETS })
  expect(without.problems.map(({ message }) => message).join()).toContain(
    'jwt of a policy needs nginx with its module http_lua',
  )
  expect(without.units.filter(({ kind }) => kind === 'site')).toEqual([])
})

const yaml = ({ backend }: Ground) => {
  const policy = (name: string, rest: string) =>
    JSON.stringify({
      apiVersion: 'nxmesh/v1',
      kind: 'Policy',
      metadata: { name },
      spec: {
        jwt: {
          keys: {
            shared: { alg: 'HS256', secret: 'signing' },
            idp: { alg: 'RS256', publicKey: pemOf(rsa) },
            'by-jwk': { alg: 'RS256', publicKey: JSON.stringify(otherRsa.publicKey.export({ format: 'jwk' })) },
            curve: { alg: 'ES256', publicKey: pemOf(ec) },
          },
          ...(JSON.parse(rest) as object),
        },
      },
    })
  const site = (name: string, jwt: string, more = '') =>
    `{ apiVersion: nxmesh/v1, kind: Site, metadata: { name: ${name} }, spec: { hosts: [${name}.example], policies: [${jwt}], routes: { root: { path: /, proxy: { upstream: app } ${more} }, fixed: { path: /fixed, return: { status: 200, body: fixed } } } } }`
  return [
    `{ apiVersion: nxmesh/v1, kind: Upstream, metadata: { name: app }, spec: { endpoints: { '127.0.0.1:${backend}': {} } } }`,
    "{ apiVersion: nxmesh/v1, kind: Secret, metadata: { name: signing }, spec: { sealed: ['00000000000000000000000000000000', 'AA'] } }",
    policy('all', '{}'),
    policy('strict', '{"issuers":["https://idp.example","x"],"audiences":["shop"]}'),
    policy('endless', '{"requireExp":false}'),
    policy('cookie', '{"cookie":"session"}'),
    policy('echo', '{"headers":{"X-User":"sub"}}'),
    policy('told', '{"cookie":"session","headers":{"Authorization":"sub"}}'),
    "{ apiVersion: nxmesh/v1, kind: Policy, metadata: { name: kept }, spec: { cache: { statusHeader: true, valid: { '200': 1h } } } }",
    ...['all', 'strict', 'endless', 'cookie'].map((name) => site(name, name)),
    ...['told', 'cookie, kept'].map((policies) => {
      const to = 'proxy: { upstream: app }'
      const told = (text: string) => `requestHeaders: { set: { Authorization: ${text} } }`
      const routes = [
        `root: { path: /, ${to} }`,
        `set: { path: /set, ${to}, ${told('$http_authorization')} }`,
        `when: { path: /when, ${to}, when: { headers: { Authorization: { present: true } } } }`,
        `open: { path: /open, ${to}, withoutPolicies: [told, cookie] }`,
        `guest: { path: /guest, ${to}, withoutPolicies: [told], ${told('guest')} }`,
      ]
      const name = policies.split(', ').at(-1)
      return `{ apiVersion: nxmesh/v1, kind: Site, metadata: { name: ${name} }, spec: { hosts: [${name}.example], policies: [${policies}], routes: { ${routes.join(', ')} } } }`
    }),
    site('echo', 'echo', ', requestHeaders: { set: { Authorization: $http_x_user } }'),
  ].join('\n---\n')
}
