/**
 * Who may ask over TCP, over every route of the OpenAPI document, so that a new one cannot be forgotten: what each answers
 * without a token, with one that does not count, and with one of another workspace.
 */

import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { ACCESS_LIMITS } from '../../src/api/access.ts'
import { ROUTES } from '../../src/api/routes.ts'
import { toWire } from '../../src/core/codec.ts'
import {
  signEnvelope,
  type Body,
  type EditBody,
  type Envelope,
  type GrantBody,
  type KeyPair,
  type RevokeBody,
} from '../../src/core/envelope.ts'
import { signToken, TOKEN_LIMITS } from '../../src/core/token.ts'
import { FOUNDING, KEYS, startApiNode, testKey, type ApiNode } from '../support/api-node.ts'
import { http, type HttpAnswer } from '../support/http.ts'
import { receiptOf } from '../support/receipt.ts'
import { MESH_ID, OWNER_GRANT, submission } from '../support/sign.ts'
import { VirtualClock } from '../support/virtual-clock.ts'
import { waitFor } from '../support/wait.ts'

const READERS = { ana: testKey(20), bob: testKey(21), gone: testKey(22) }
/** In everything of the workspace `vault`, and nowhere else. */
const MARK = 'classified'
const HIDDEN = `vault/eu.west/site/${MARK}`
const OPEN = 'shop/eu.west/site/window'

interface Operation {
  readonly method: string
  readonly path: string
  readonly security: readonly Record<string, unknown>[] | undefined
}

let time: VirtualClock
let node: ApiNode
let operations: Operation[]
let hidden: Envelope
let open: Envelope
let grants: Record<keyof typeof READERS, Envelope>

beforeEach(async () => {
  time = new VirtualClock()
  node = await startApiNode({ server: { clock: time } })
  node.receipt = receiptOf({
    problems: [HIDDEN, OPEN].map((path) => ({ path, code: 'schema', message: `${path} is wrong` })),
    isolated: [{ path: HIDDEN, reason: `${MARK} is refused`, serves: 'nothing' }] as never,
    problemCount: 3,
    observed: [{ path: HIDDEN, circuit: 'open', endpoints: 1, ailing: [MARK], ejected: [] }],
    observedCount: 1,
  })
  const grant = (key: KeyPair, ws: string, name: string): Envelope =>
    act<GrantBody>(ws, { type: 'grant', subject: key.publicKey, role: 'viewer', zones: ['*'], kinds: ['*'], name })
  grants = {
    ana: grant(READERS.ana, 'shop', 'ana'),
    bob: grant(READERS.bob, 'vault', MARK),
    gone: grant(READERS.gone, 'shop', 'gone'),
  }
  hidden = act<EditBody>('vault', { type: 'edit', edits: [[HIDDEN, [], [['set', '$', true]]]] }, MARK)
  open = act<EditBody>('shop', { type: 'edit', edits: [[OPEN, [], [['set', '$', true]]]] })
  const revocation = act<RevokeBody>('*', { type: 'revoke', target: `key/${READERS.gone.publicKey}`, keep: [] })
  await take(grants.ana, grants.bob, grants.gone, hidden, open, revocation)
  const { paths } = (await ask('/v1/openapi.json', undefined, 'unix')).json() as {
    paths: Record<string, Record<string, Omit<Operation, 'method' | 'path'>>>
  }
  operations = Object.entries(paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, { security }]) => ({ method: method.toUpperCase(), path, security })),
  )
})
afterEach(async () => {
  await node.stop()
  heads.clear()
})

const heads = new Map<string, Envelope>()

/** The next envelope of the owner in a workspace. */
function act<B extends Exclude<Body, { type: 'genesis' }>>(ws: string, rest: object, note = ''): Envelope<B> {
  const previous = heads.get(ws)
  const n = previous === undefined ? 0 : (previous.body as B).n
  const common = { v: 1, mesh: MESH_ID, ws, by: KEYS.owner.publicKey, grant: OWNER_GRANT, at: 1_700_000_000_000, note }
  // The founding has taken the owner's first places in `*`.
  const [last] = ws === '*' && previous === undefined ? [FOUNDING.findLast(({ body }) => isOwners(body))] : [previous]
  const place = last === undefined ? { n: 1, prev: [] } : { n: Math.max(n, (last.body as B).n) + 1, prev: [last.id] }
  const envelope = signEnvelope({ ...common, ...place, ...rest } as unknown as B, [KEYS.owner])
  heads.set(ws, envelope)
  return envelope
}

function isOwners(body: Body): boolean {
  return body.type !== 'genesis' && body.by === KEYS.owner.publicKey
}

async function take(...envelopes: readonly Envelope[]): Promise<void> {
  const outcomes = await node.replica.submit(envelopes.map(toWire), 'sync')
  expect(outcomes.map(({ outcome }) => outcome)).toEqual(envelopes.map(() => 'stored'))
}

/** @param token as it stands after `Bearer`. */
async function ask(
  path: string,
  token: string | undefined,
  way: 'tcp' | 'unix' = 'tcp',
  method = 'GET',
  body?: string,
) {
  const base = way === 'tcp' ? node.url : `unix:${node.socketPath}`
  const headers = {
    ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
    ...(body === undefined ? {} : { 'content-type': 'application/json' }),
  }
  return await http(base, path, { method, headers, ...(body === undefined ? {} : { body }) })
}

/** Asks a route for what it knows of the hidden workspace. */
async function askRoute({ method, path }: Operation, token: string | undefined): Promise<HttpAnswer> {
  const [workspace, zone, kind, name] = HIDDEN.split('/') as [string, string, string, string]
  const author = KEYS.owner.publicKey
  const parameters: Record<string, string> = { workspace, zone, kind, name, id: hidden.id, author }
  const filled = path.replaceAll(/\{(\w+)\}/g, (_, parameter: string) => parameters[parameter] as string)
  const query: Record<string, string> = { '/v1/ids': `?text=${MARK}`, '/v1/chains': `?author=${author}` }
  const body = method === 'POST' ? submission(FOUNDING[0]!) : undefined
  return await ask(`${filled}${query[path] ?? ''}`, token, 'tcp', method, body)
}

/** Those that ask for a token; `metrics`: whether that one does. */
function guarded(metrics = false): Operation[] {
  return operations.filter(({ path }) => path !== '/health' && (metrics || path !== '/metrics'))
}

function tokenOf(key: KeyPair, { mesh = MESH_ID, at = time.now(), lifetime = 300 } = {}): string {
  return signToken(key, mesh, at, lifetime)
}

/** A token of any content, signed by ana. */
function forged(header: object, claims: object = {}, sign = true): string {
  const seconds = Math.floor(time.now() / 1000)
  const all = { iss: READERS.ana.publicKey, aud: MESH_ID, iat: seconds, exp: seconds + 60, ...claims }
  const signed = [header, all].map((part) => Buffer.from(JSON.stringify(part)).toString('base64url')).join('.')
  const signature = sign ? Buffer.from(READERS.ana.sign(Buffer.from(signed)), 'hex').toString('base64url') : ''
  return `${signed}.${signature}`
}

describe('without a token', () => {
  test('the document has every route', () => {
    expect(operations.map(({ method, path }) => `${method} ${path}`).toSorted()).toEqual(
      ROUTES.map(({ method, path }) => `${method.toUpperCase()} ${path}`).toSorted(),
    )
  })

  test('each route but /health and /metrics answers 401, and how to get one', async () => {
    for (const operation of guarded()) {
      const answer = await askRoute(operation, undefined)
      expect.soft(answer.status, `${operation.method} ${operation.path}`).toBe(401)
      expect.soft(answer.headers['content-type']).toBe('application/problem+json')
      expect.soft(answer.headers['www-authenticate']).toBe('Bearer realm="nxmesh"')
      expect
        .soft(answer.json())
        .toMatchObject({ code: 'unauthenticated', hint: expect.stringContaining('meshctl token') })
    }
    expect((await ask('/health', undefined)).json()).toMatchObject({ mesh: MESH_ID })
    expect((await ask('/metrics', undefined)).status).toBe(200)
  })

  test('nor does what is no route, or no method of one', async () => {
    for (const path of ['/', '/v1', '/v2/node', '/health/', '//health', '/%68ealth/', '/metrics/x', '/v1/node/'])
      expect.soft((await ask(path, undefined)).status, path).toBe(401)
    for (const method of ['HEAD', 'POST', 'PUT', 'DELETE', 'OPTIONS', 'PATCH'])
      expect.soft((await ask('/v1/node', undefined, 'tcp', method)).status, method).toBe(401)
  })

  test('the document says of each route whether it needs one', () => {
    const told = operations.filter(({ security }) => security !== undefined)
    expect(told.map(({ path, security }) => [path, security])).toEqual([
      ['/health', []],
      ['/metrics', [{}, { token: [] }]],
    ])
  })

  test('metrics are closed when the configuration says so', async () => {
    const closed = await startApiNode({ server: { openMetrics: false, clock: time } })
    expect((await http(closed.url, '/metrics')).status).toBe(401)
    const headers = { authorization: `Bearer ${tokenOf(KEYS.owner)}` }
    expect((await http(closed.url, '/metrics', { headers })).status).toBe(200)
    expect((await http(closed.url, '/health')).status).toBe(200)
    await closed.stop()
  })

  test('metrics name sites and upstreams to readers of their workspace alone', async () => {
    for (const site of [OPEN, HIDDEN]) node.metrics.siteRequests.inc({ site, status: '2xx' })
    const named = async (token: string | undefined, way: 'tcp' | 'unix' = 'tcp') => {
      const { text } = await ask('/metrics', token, way)
      return [OPEN, HIDDEN].filter((site) => text.includes(`site="${site}"`))
    }
    expect(await named(undefined)).toEqual([])
    expect(await named(tokenOf(READERS.ana))).toEqual([OPEN])
    expect(await named(tokenOf(KEYS.owner))).toEqual([OPEN, HIDDEN])
    expect(await named(undefined, 'unix')).toEqual([OPEN, HIDDEN])
    expect((await ask('/metrics', tokenOf(READERS.gone))).status).toBe(403)
  })

  test('the socket answers every route', async () => {
    for (const { method, path } of guarded(true).filter((each) => each.method === 'GET' && !each.path.includes('{'))) {
      if (path === '/v1/events') continue
      const { status } = await ask(path, undefined, 'unix', method)
      expect.soft(status, path).not.toBe(401)
    }
    expect((await ask(`/v1/edits/${hidden.id}`, undefined, 'unix')).status).toBe(200)
  })

  test('what a proxy passes on to the socket is nobody’s', async () => {
    for (const name of ['x-forwarded-for', 'forwarded', 'x-nxmesh-proxied']) {
      const answer = await http(`unix:${node.socketPath}`, '/v1/node', { headers: { [name]: '1' } })
      expect(answer.status, name).toBe(403)
      expect(answer.json()).toMatchObject({ detail: expect.stringContaining('through a proxy') })
    }
  })
})

describe('a token that does not count is refused on each route', () => {
  const long = TOKEN_LIMITS.lifetime + TOKEN_LIMITS.leeway + 1
  test.each<[what: string, status: number, reason: RegExp, token: () => string]>([
    ['expired', 401, /has expired/, () => tokenOf(KEYS.owner, { at: time.now() - long * 1000 })],
    ['not valid yet', 401, /is not valid yet/, () => tokenOf(KEYS.owner, { at: time.now() + 120_000 })],
    ['not before', 401, /is not valid yet/, () => forged({ alg: 'EdDSA' }, { nbf: time.now() / 1000 + 120 })],
    ['too long a life', 401, /lives for over/, () => tokenOf(KEYS.owner, { lifetime: TOKEN_LIMITS.lifetime + 1 })],
    ['for another mesh', 401, /is for mesh/, () => tokenOf(KEYS.owner, { mesh: 'e'.repeat(64) })],
    ['alg none', 401, /another algorithm/, () => forged({ alg: 'none' })],
    ['alg none, unsigned', 401, /three parts|another algorithm/, () => forged({ alg: 'none' }, {}, false)],
    ['alg HS256', 401, /another algorithm/, () => forged({ alg: 'HS256' })],
    ['another’s key', 401, /not by its iss/, () => forged({ alg: 'EdDSA' }, { iss: KEYS.owner.publicKey })],
    ['no token', 401, /three parts/, () => 'root'],
    ['revoked key', 403, /in force any more/, () => tokenOf(READERS.gone)],
    ['key without a grant', 403, /has no grant in this mesh/, () => tokenOf(KEYS.stranger)],
  ])('%s', async (_, status, reason, token) => {
    for (const operation of guarded()) {
      const answer = await askRoute(operation, token())
      expect.soft(answer.status, `${operation.method} ${operation.path}`).toBe(status)
      expect.soft((answer.json() as { detail: string }).detail).toMatch(reason)
      expect.soft((answer.json() as { hint?: string }).hint).toMatch(/meshctl (token|key new|grant)/)
    }
  })

  test.each(['Basic', 'Token', ''])('a scheme %j is none', async (scheme) => {
    const headers = { authorization: `${scheme} ${tokenOf(KEYS.owner)}`.trim() }
    expect((await http(node.url, '/v1/node', { headers })).status).toBe(401)
  })
})

describe('a reader of one workspace', () => {
  const ana = (path: string) => ask(path, tokenOf(READERS.ana))

  test('learns nothing of another from any route', async () => {
    const secrets = [MARK, hidden.id, grants.bob.id, READERS.bob.publicKey, '"vault"']
    for (const operation of guarded()) {
      if (operation.path === '/v1/events') continue
      const { text, status } = await askRoute(operation, tokenOf(READERS.ana))
      // What the caller itself named may be said back.
      const isNamed = /\{/.test(operation.path)
      if (/^\/v1\/(edits|resources)\/\{/.test(operation.path)) expect.soft(status, operation.path).toBe(404)
      for (const secret of isNamed ? [grants.bob.id, READERS.bob.publicKey] : secrets)
        expect.soft(text, `${operation.method} ${operation.path}`).not.toContain(secret)
    }
  })

  test('gets of what is elsewhere the answer of what never was', async () => {
    const same = async (path: string, other: string) => {
      const [one, two] = [await ana(path), await ana(other)]
      expect(one.status, path).toBe(two.status)
      const strip = (text: string) => text.replaceAll(/[0-9a-f]{64}|vault|void|classified|anything/g, '-')
      expect(strip(one.text)).toBe(strip(two.text))
    }
    await same(`/v1/resources/${HIDDEN}`, '/v1/resources/void/eu.west/site/anything')
    await same(`/v1/edits/${hidden.id}`, `/v1/edits/${'0'.repeat(64)}`)
    await same(`/v1/edits?after=${hidden.id}`, `/v1/edits?after=${'0'.repeat(64)}`)
    await same(`/v1/edits?resource=${HIDDEN}`, '/v1/edits?resource=void/eu.west/site/anything')
    await same(`/v1/chains/vault/${KEYS.owner.publicKey}`, `/v1/chains/void/${KEYS.owner.publicKey}`)
    await same(`/v1/grants?subject=${READERS.bob.publicKey}`, `/v1/grants?subject=${'0'.repeat(64)}`)
    await same(`/v1/ids?text=${hidden.id.slice(0, 12)}`, '/v1/ids?text=anything')
  })

  test('reads its own, and what concerns every workspace', async () => {
    const list = async (path: string) => ((await ana(path)).json() as { data: Record<string, unknown>[] }).data
    expect((await list('/v1/resources')).map(({ path }) => path)).toEqual([OPEN])
    expect(await list('/v1/workspaces')).toEqual([{ name: 'shop', resources: 1 }])
    expect((await ana(`/v1/resources/${OPEN}`)).status).toBe(200)
    expect((await ana('/v1/genesis')).status).toBe(200)
    const edits = (await list('/v1/edits?limit=1000')).map(({ id }) => id)
    expect(edits).toEqual(expect.arrayContaining([open.id, grants.ana.id, MESH_ID, OWNER_GRANT]))
    expect(edits).not.toContain(hidden.id)
    const names = (await list('/v1/grants')).map(({ name }) => String(name))
    expect(names.toSorted()).toEqual(['ana', 'ana', 'edge-1', 'edge-2'])
    const chains = await list(`/v1/chains?author=${KEYS.owner.publicKey}`)
    expect(chains.map(({ workspace }) => workspace)).toEqual(['*', 'shop'])
  })

  test('is told of its own forks alone', async () => {
    const forks = ['vault', 'shop'].map((ws) => {
      heads.delete(ws)
      return act<EditBody>(ws, { type: 'edit', edits: [[`${ws}/eu/site/again`, [], [['set', '$', true]]]] })
    })
    await take(...forks)
    const workspaces = async (token: string) => {
      const { data } = (await ask('/v1/chains?forked=1', token)).json() as { data: Record<string, unknown>[] }
      return data.map(({ workspace, forks: count }) => [workspace, count])
    }
    expect(await workspaces(tokenOf(READERS.ana))).toEqual([['shop', 1]])
    expect(await workspaces(tokenOf(KEYS.owner))).toEqual([
      ['shop', 1],
      ['vault', 1],
    ])
  })

  test('pages are full though others lie between', async () => {
    const more = Array.from({ length: 6 }, (_, index) => {
      const ws = index % 2 === 0 ? 'vault' : 'shop'
      return act<EditBody>(ws, { type: 'edit', edits: [[`${ws}/eu/site/s${index}`, [], [['set', '$', true]]]] })
    })
    await take(...more)
    for (const order of ['asc', 'desc']) {
      const seen: string[] = []
      for (let after = ''; ;) {
        const path = `/v1/edits?limit=2&order=${order}${after === '' ? '' : `&after=${after}`}`
        const page = (await ana(path)).json() as { data: { id: string }[]; next: string | null }
        seen.push(...page.data.map(({ id }) => id))
        if (page.next === null) break
        expect(page.data).toHaveLength(2)
        after = page.next
      }
      const all = (await ana(`/v1/edits?limit=1000&order=${order}`)).json() as { data: { id: string }[] }
      expect(seen).toEqual(all.data.map(({ id }) => id))
      expect(seen.filter((id) => more.some((each) => each.id === id))).toHaveLength(3)
    }
  })

  test('sees every node’s receipt, without the words on other workspaces, and their number', async () => {
    const { data } = (await ana('/v1/receipts')).json() as { data: { receipt: Record<string, unknown> | null }[] }
    expect(data).toHaveLength(2)
    expect(data[0]?.receipt).toMatchObject({
      problems: [{ path: OPEN }],
      isolated: [],
      problemCount: 3,
      withheld: 2,
    })
    const whole = (await ask('/v1/receipts', tokenOf(KEYS.owner))).json() as { data: { receipt: object | null }[] }
    expect(whole.data[0]?.receipt).toMatchObject({ problems: [{}, {}], isolated: [{}], withheld: 0 })
  })

  test('does not see who waits to be let in, and by which tickets, unless it may let them in', async () => {
    expect((await ana('/v1/pending')).status).toBe(403)
    expect((await ask('/v1/pending', tokenOf(KEYS.owner))).status).toBe(200)
    const registrar = { type: 'grant', subject: KEYS.stranger.publicKey, role: 'robot', zones: ['eu'], kinds: ['node'] }
    await take(act<GrantBody>('shop', registrar))
    expect((await ask('/v1/pending', tokenOf(KEYS.stranger))).status).toBe(200)
  })

  test('may hand in envelopes: they say themselves what they may', async () => {
    const edit = act<EditBody>('vault', {
      type: 'edit',
      edits: [['vault/eu/site/other', [], [['set', '$', true]]]],
    })
    const answer = await ask('/v1/edits', tokenOf(READERS.ana), 'tcp', 'POST', submission(edit))
    expect(answer.json()).toMatchObject({ outcomes: [{ outcome: 'stored', id: edit.id }] })
  })
})

test('a root key, a node and an owner read everything', async () => {
  for (const key of [KEYS.root, KEYS.node, KEYS.owner])
    expect((await ask(`/v1/resources/${HIDDEN}`, tokenOf(key))).status).toBe(200)
  expect((await ask('/v1/node', tokenOf(KEYS.next))).status, 'the next root is none yet').toBe(403)
})

test('several grants add up', async () => {
  await take(
    act<GrantBody>('vault', {
      type: 'grant',
      subject: READERS.ana.publicKey,
      role: 'editor',
      zones: ['us'],
      kinds: ['site'],
    }),
  )
  expect((await ask(`/v1/resources/${HIDDEN}`, tokenOf(READERS.ana))).status).toBe(200)
  expect((await ask(`/v1/resources/${OPEN}`, tokenOf(READERS.ana))).status).toBe(200)
})

describe('limits', () => {
  test('one address, with tokens or without, gets 429 beyond its rate, and /health all the same', async () => {
    const { burst, perSecond } = ACCESS_LIMITS.address
    const statuses = new Set<number>()
    for (let index = 0; index < burst; index += 1) statuses.add((await ask('/v1/node', undefined)).status)
    expect([...statuses]).toEqual([401])
    const refused = await ask('/v1/node', tokenOf(KEYS.owner))
    expect([refused.status, refused.headers['retry-after']]).toEqual([429, '1'])
    expect(refused.json()).toMatchObject({ code: 'rate_limited', detail: expect.stringContaining('127.0.0.1') })
    expect((await ask('/health', undefined)).status).toBe(200)
    expect((await ask('/v1/node', undefined, 'unix')).status).toBe(200)
    await time.advance(1000 / perSecond)
    expect((await ask('/v1/node', tokenOf(KEYS.owner))).status).toBe(200)
  })

  test('one key gets 429 beyond its rate, and another does not', async () => {
    for (let index = 0; index < ACCESS_LIMITS.key.burst; index += 1) await ask('/v1/node', tokenOf(READERS.ana))
    const refused = await ask('/v1/node', tokenOf(READERS.ana))
    expect([refused.status, refused.headers['retry-after']]).toEqual([429, '1'])
    expect(refused.json()).toMatchObject({ detail: expect.stringContaining(READERS.ana.publicKey) })
    expect((await ask('/v1/node', tokenOf(KEYS.owner))).status).toBe(200)
    await time.advance(1000 / ACCESS_LIMITS.key.perSecond)
    expect((await ask('/v1/node', tokenOf(READERS.ana))).status).toBe(200)
  })
})

describe('events', () => {
  async function listen(key: KeyPair) {
    const response = await fetch(`${node.url}/v1/events`, { headers: { authorization: `Bearer ${tokenOf(key)}` } })
    const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader()
    const heard = { text: '', isEnded: false }
    void (async () => {
      for (;;) {
        const { done, value } = await reader.read().catch(() => ({ done: true, value: '' }))
        if (done) break
        heard.text += value
      }
      heard.isEnded = true
    })()
    await waitFor(() => heard.text.includes('event: hello'), { what: 'the first event' })
    return { heard, close: () => reader.cancel() }
  }

  test('tell each listener of the workspaces that it may read', async () => {
    const [ana, bob] = await Promise.all([listen(READERS.ana), listen(READERS.bob)])
    const next = (ws: string, name: string): Envelope =>
      act<EditBody>(ws, { type: 'edit', edits: [[`${ws}/eu/site/${name}`, [], [['set', '$', true]]]] })
    await take(next('vault', 'safe'))
    await take(next('shop', 'counter'))
    node.server.changed()
    await waitFor(() => ana.heard.text.includes('event: receipt') && bob.heard.text.includes('event: receipt'), {
      what: 'the last event',
    })
    expect(ana.heard.text).toMatch(/event: edit\n.*shop\/eu\/site\/counter/)
    expect(ana.heard.text).toMatch(/event: resource\n.*shop\/eu\/site\/counter/)
    expect(ana.heard.text).not.toContain('vault')
    expect(ana.heard.text).not.toContain(MARK)
    expect(bob.heard.text).toMatch(/event: resource\n.*vault\/eu\/site\/safe/)
    expect(bob.heard.text).not.toContain('shop')
    await Promise.all([ana.close(), bob.close()])
  })

  test('end with the token', async () => {
    const { heard } = await listen(READERS.ana)
    await time.advance((300 + TOKEN_LIMITS.leeway - 1) * 1000)
    expect([heard.isEnded, node.server.eventClients]).toEqual([false, 1])
    await time.advance(2000)
    await waitFor(() => heard.isEnded, { what: 'the end of the stream' })
    expect(node.server.eventClients).toBe(0)
  })

  test('end with the key, while others go on', async () => {
    const [ana, bob] = await Promise.all([listen(READERS.ana), listen(READERS.bob)])
    await take(act<RevokeBody>('*', { type: 'revoke', target: `key/${READERS.ana.publicKey}`, keep: [] }))
    await waitFor(() => ana.heard.isEnded, { what: 'the end of the stream' })
    expect([bob.heard.isEnded, node.server.eventClients]).toEqual([false, 1])
    await bob.close()
  })
})
