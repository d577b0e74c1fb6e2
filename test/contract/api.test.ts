/** The HTTP API against a real server over TCP and over its unix socket: what it answers, whom, and how it refuses. */

import { chmod, stat, writeFile } from 'node:fs/promises'
import { createServer, type Server } from 'node:http'
import { connect } from 'node:net'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { systemClock } from '../../src/adapters/clock.ts'
import { SUBMISSION_LIMITS } from '../../src/api/submit.ts'
import { EVENT_LIMITS } from '../../src/api/events.ts'
import { toWire } from '../../src/core/codec.ts'
import type { Envelope } from '../../src/core/envelope.ts'
import { FOUNDING, KEYS, startApiNode, tokenOf, type ApiNode } from '../support/api-node.ts'
import { http as plainHttp, rawHttp, type HttpAnswer, type HttpCall } from '../support/http.ts'
import { editor, MESH_ID, submission } from '../support/sign.ts'
import { waitFor } from '../support/wait.ts'

const SITE = 'default/eu.west/site/web'
const JSON_TYPE = { 'content-type': 'application/json' }

let node: ApiNode
beforeEach(async () => {
  node = await startApiNode()
})
afterEach(async () => {
  await node.stop()
})

/** With a token of the owner, as TCP wants it; the socket does not mind. */
async function http(base: string, path: string, call: HttpCall = {}): Promise<HttpAnswer> {
  return await plainHttp(base, path, { ...call, headers: { ...tokenOf(), ...call.headers } })
}

async function post(base: string, body: string, headers: Record<string, string> = JSON_TYPE) {
  return await http(base, '/v1/edits', { method: 'POST', headers, body })
}

describe.each(['tcp', 'unix'] as const)('over %s', (transport) => {
  const base = (): string => (transport === 'tcp' ? node.url : `unix:${node.socketPath}`)

  test('health is 200 unless the node is in Error', async () => {
    expect((await http(base(), '/health')).json()).toEqual({
      status: 'Running',
      msg: 'all is well',
      reasons: [],
      converged: true,
      mesh: MESH_ID,
    })
    node.health = { status: 'Degraded', msg: 'x', reasons: ['x'] }
    expect((await http(base(), '/health')).status).toBe(200)
    node.health = { status: 'Unknown', msg: 'x', reasons: ['x'] }
    expect((await http(base(), '/health')).status).toBe(200)
    node.health = { status: 'Error', msg: 'nginx does not serve', reasons: ['nginx does not serve'] }
    const answer = await http(base(), '/health')
    expect(answer.status).toBe(503)
    expect(answer.json()).toMatchObject({ status: 'Error', msg: 'nginx does not serve' })
  })

  test('health?converged=1 is 503 until desired equals applied', async () => {
    node.converged = false
    expect((await http(base(), '/health')).status).toBe(200)
    expect((await http(base(), '/health?converged=1')).status).toBe(503)
    node.converged = true
    expect((await http(base(), '/health?converged=1')).status).toBe(200)
  })

  test('an edit is stored and read back as resource, edit and chain', async () => {
    const edit = editor()(
      [
        [
          SITE,
          [],
          [
            ['set', '$', true],
            ['set', 'hosts/a.example', true],
          ],
        ],
      ],
      'first',
    )
    const answer = await post(base(), submission(edit))
    expect(answer.status).toBe(202)
    expect(answer.json()).toEqual({
      outcomes: [{ outcome: 'stored', id: edit.id, missing: [], code: null, reason: null }],
    })

    const resource = await http(base(), `/v1/resources/${SITE}`)
    expect(resource.json()).toMatchObject({
      path: SITE,
      exists: true,
      heads: [edit.id],
      fields: { 'hosts/a.example': true },
      spec: { hosts: ['a.example'] },
    })
    const etag = String(resource.headers['etag'])
    expect((await http(base(), `/v1/resources/${SITE}`, { headers: { 'if-none-match': etag } })).status).toBe(304)

    expect((await http(base(), `/v1/edits/${edit.id}`)).json()).toEqual({
      id: edit.id,
      envelope: toWire(edit),
      verdict: { accepted: true, code: null, message: null },
    })
    expect((await http(base(), `/v1/chains/default/${KEYS.owner.publicKey}`)).json()).toMatchObject({
      highestN: 1,
      heads: [{ id: edit.id, n: 1 }],
      count: 1,
    })
    expect((await http(base(), `/v1/chains/%2A/${KEYS.stranger.publicKey}`)).json()).toMatchObject({
      highestN: 0,
      heads: [],
      count: 0,
    })
  })

  test('a deleted resource is not found, and shows its heads', async () => {
    const next = editor()
    const created = next([[SITE, [], [['set', '$', true]]]])
    const deleted = next([[SITE, [created.id], [['del', '$']]]])
    await post(base(), submission(created, deleted))
    const answer = await http(base(), `/v1/resources/${SITE}`)
    expect(answer.status).toBe(404)
    expect(answer.headers['content-type']).toBe('application/problem+json')
    expect(answer.json()).toMatchObject({ code: 'not_found', resource: { exists: false, heads: [deleted.id] } })
    expect((await http(base(), '/v1/resources')).json()).toMatchObject({ data: [], meta: { total: 0 } })
  })

  test('lists are filtered and paged', async () => {
    const next = editor()
    const paths = ['default/*/upstream/app', 'default/eu/site/a', 'default/eu/site/b', 'default/us/site/a']
    await post(base(), submission(...paths.map((path) => next([[path, [], [['set', '$', true]]]]))))
    const list = async (query: string) =>
      (await http(base(), `/v1/resources?${query}`)).json() as { data: { path: string }[]; meta: unknown }
    expect((await list('kind=sites')).data.map(({ path }) => path)).toEqual(paths.slice(1))
    expect((await list('kind=Site&name=a&zone=us')).data.map(({ path }) => path)).toEqual(['default/us/site/a'])
    expect((await list('zone=%2A')).data.map(({ path }) => path)).toEqual(['default/*/upstream/app'])
    expect(await list('per_page=2&page=2')).toMatchObject({
      data: [{ path: paths[2] }, { path: paths[3] }],
      meta: { page: 2, per_page: 2, total: 4 },
    })
    expect((await http(base(), `/v1/resources/${paths[0]}`)).status).toBe(200)
    expect((await http(base(), '/v1/resources/default/%2A/upstream/app')).status).toBe(200)
  })

  test('edits page in both orders, by author and by resource', async () => {
    const next = editor()
    const edits = Array.from({ length: 5 }, (_, index) =>
      next([[`default/eu/site/s${index % 2}`, [], [['set', '$', true]]]]),
    )
    await post(base(), submission(...edits))
    interface Page {
      data: { id: string }[]
      next: string | null
    }
    const read = async (query: string) => (await http(base(), `/v1/edits?${query}`)).json() as Page
    const author = `author=${KEYS.owner.publicKey}`
    const all = [...FOUNDING, ...edits].map(({ id }) => id)
    expect((await read('limit=1000')).data.map(({ id }) => id)).toEqual(all)
    expect((await read('limit=1000&order=desc')).data.map(({ id }) => id)).toEqual(all.toReversed())
    for (const order of ['asc', 'desc']) {
      const seen: string[] = []
      for (let after = ''; ;) {
        const page = await read(`limit=2&order=${order}${after === '' ? '' : `&after=${after}`}`)
        seen.push(...page.data.map(({ id }) => id))
        if (page.next === null) break
        after = page.next
      }
      expect(seen).toEqual(order === 'asc' ? all : all.toReversed())
    }
    expect((await read(`${author}&limit=1000`)).data).toHaveLength(7)
    expect((await read('resource=default/eu/site/s1')).data.map(({ id }) => id)).toEqual([edits[1]!.id, edits[3]!.id])
  })

  test('grants, peers, receipts, node and genesis', async () => {
    const grants = (await http(base(), `/v1/grants?subject=${KEYS.other.publicKey}`)).json() as { data: unknown[] }
    expect(grants.data).toMatchObject([{ role: 'node', zones: ['us'], workspace: '*', name: 'edge-2' }])
    const peers = (await http(base(), '/v1/peers')).json() as { data: unknown[] }
    expect(peers.data).toMatchObject([
      { key: KEYS.node.publicKey, self: true, state: 'Ready' },
      { key: KEYS.other.publicKey, self: false, state: 'Unknown', ageMs: null },
    ])
    const receipts = (await http(base(), '/v1/receipts')).json() as { data: unknown[] }
    expect(receipts.data).toMatchObject([
      { self: true, receipt: null },
      { receipt: null, target: null },
    ])
    expect((await http(base(), '/v1/node')).json()).toMatchObject({ meshId: MESH_ID, meshName: 'test', envelopes: 4 })
    expect((await http(base(), '/v1/genesis')).json()).toMatchObject({ id: MESH_ID })
  })

  test('a shortened id or a name gives every candidate', async () => {
    const ids = async (text: string) =>
      ((await http(base(), `/v1/ids?text=${text}`)).json() as { data: unknown[] }).data as Record<string, unknown>[]
    const key = { id: KEYS.other.publicKey, type: 'key', name: 'edge-2', about: null, active: true }
    expect(await ids(KEYS.other.publicKey.slice(0, 8))).toEqual([key])
    expect(await ids(KEYS.other.publicKey)).toEqual([key])
    expect(await ids('edge-2')).toEqual([key])
    expect(await ids(MESH_ID.slice(0, 10))).toMatchObject([{ id: MESH_ID, type: 'genesis', active: true }])
    const grant = FOUNDING[3] as Envelope
    expect(await ids(grant.id.slice(0, 8))).toEqual([
      { id: grant.id, type: 'grant', name: null, about: KEYS.other.publicKey, active: true },
    ])
    // A root that never signed an edit is known from the genesis.
    expect(await ids(KEYS.root.publicKey.slice(0, 8))).toMatchObject([{ type: 'key', name: null, active: false }])
    expect(await ids('0123456')).toEqual([])
    expect(await ids('0'.repeat(64))).toEqual([])
  })

  test('workspaces are those that something names', async () => {
    const next = editor()
    const created = next([['default/eu/site/a', [], [['set', '$', true]]]])
    await post(base(), submission(created))
    const { data } = (await http(base(), '/v1/workspaces')).json() as { data: unknown[] }
    expect(data).toEqual([{ name: 'default', resources: 1 }])
    await post(base(), submission(next([['default/eu/site/a', [created.id], [['del', '$']]]])))
    expect((await http(base(), '/v1/workspaces')).json()).toMatchObject({ data: [{ name: 'default', resources: 0 }] })
  })

  test('one refused envelope is a problem; several give an outcome each', async () => {
    const stranger = editor(KEYS.stranger)([[SITE, [], [['set', '$', true]]]])
    const single = await post(base(), submission(stranger))
    expect(single.status).toBe(403)
    expect(single.json()).toMatchObject({
      code: 'denied',
      detail: 'the grant belongs to another key than the author’s',
    })
    const good = editor()([[SITE, [], [['set', '$', true]]]])
    const mixed = await post(base(), submission(stranger, good, { ...good, bytes: good.bytes.slice(0, -1) }))
    expect(mixed.status).toBe(207)
    expect((mixed.json() as { outcomes: unknown[] }).outcomes).toMatchObject([
      { outcome: 'refused', id: stranger.id, code: 'denied' },
      { outcome: 'stored', id: good.id },
      { outcome: 'refused', code: 'envelope_invalid' },
    ])
    expect((await post(base(), submission(good))).json()).toMatchObject({ outcomes: [{ outcome: 'known' }] })
  })

  test('an envelope whose ancestors are unknown waits', async () => {
    const next = editor()
    const first = next([[SITE, [], [['set', '$', true]]]])
    const second = next([[SITE, [first.id], [['set', 'hosts/b.example', true]]]])
    const waiting = await post(base(), submission(second))
    expect(waiting.status).toBe(202)
    expect(waiting.json()).toMatchObject({ outcomes: [{ outcome: 'waiting', missing: [first.id] }] })
    await post(base(), submission(first))
    await waitFor(async () => (await http(base(), `/v1/edits/${second.id}`)).status === 200, {
      what: 'the waiting edit is stored',
    })
  })

  test.each([
    ['not JSON', '{', 400, 'body'],
    ['no object', '[]', 400, 'envelopes'],
    ['no envelopes', '{"envelopes":[]}', 400, 'envelopes'],
    [
      'too many',
      JSON.stringify({ envelopes: Array.from({ length: SUBMISSION_LIMITS.envelopes + 1 }, () => 1) }),
      400,
      'envelopes',
    ],
    ['another member', '{"envelopes":[],"x":1}', 400, 'x'],
    ['no bytes', '{"envelopes":[{"sigs":{}}]}', 400, 'envelopes[0].bytes'],
    ['wrong sigs', '{"envelopes":[{"bytes":"","sigs":{"a":"b"}}]}', 400, 'envelopes[0].sigs'],
    ['deep nesting', `{"envelopes":${'['.repeat(200_000)}${']'.repeat(200_000)}}`, 400, undefined],
  ])('refuses a body with %s', async (_, body, status, field) => {
    const answer = await post(base(), body)
    expect(answer.status).toBe(status)
    expect(answer.headers['content-type']).toBe('application/problem+json')
    if (field !== undefined) expect(answer.json()).toMatchObject({ field })
    expect(answer.text).not.toMatch(/\.ts:|node_modules/)
  })

  test('bounds what comes in: body, envelope, nesting inside an envelope', async () => {
    const large = await post(base(), ' '.repeat(SUBMISSION_LIMITS.bodyBytes + 1))
    expect(large.status).toBe(413)
    const oversized = { bytes: ' '.repeat(64 * 1024 + 1), sigs: { [KEYS.owner.publicKey]: '0'.repeat(128) } }
    expect((await post(base(), submission(oversized))).status).toBe(413)
    const deep = { bytes: '['.repeat(30_000) + ']'.repeat(30_000), sigs: { [KEYS.owner.publicKey]: '0'.repeat(128) } }
    expect((await post(base(), submission(deep))).status).toBe(400)
    const chunked = await http(base(), '/v1/edits', {
      method: 'POST',
      headers: { ...JSON_TYPE, 'transfer-encoding': 'chunked' },
      body: ' '.repeat(SUBMISSION_LIMITS.bodyBytes + 1),
    })
    expect(chunked.status).toBe(413)
    expect((await http(base(), '/health')).status).toBe(200)
  })

  test.each([
    ['GET', '/v1/nothing', {}, 404, undefined],
    ['DELETE', '/v1/edits', {}, 405, undefined],
    ['POST', '/health', {}, 405, undefined],
    ['OPTIONS', '/v1/resources/a/b/c/d', {}, 405, undefined],
    ['POST', '/v1/edits', { 'content-type': 'text/plain' }, 415, 'content-type'],
    ['POST', '/v1/edits', {}, 415, 'content-type'],
    ['GET', '/v1/resources?per_page=1001', {}, 400, 'per_page'],
    ['GET', '/v1/resources?page=0', {}, 400, 'page'],
    ['GET', '/v1/resources?zones=eu', {}, 400, 'zones'],
    ['GET', '/v1/resources/default/eu/site/UPPER', {}, 400, 'path'],
    ['GET', '/v1/resources/default/eu/site/none', {}, 404, undefined],
    ['GET', '/v1/edits/xyz', {}, 400, 'id'],
    ['GET', `/v1/edits/${'0'.repeat(64)}`, {}, 404, undefined],
    ['GET', `/v1/edits?after=${'0'.repeat(64)}`, {}, 400, 'after'],
    ['GET', '/v1/edits?order=up', {}, 400, 'order'],
    ['GET', '/v1/chains', {}, 400, 'author'],
    ['GET', '/v1/grants?subject=x', {}, 400, 'subject'],
    ['GET', '/v1/ids', {}, 400, 'text'],
    ['GET', '/v1/ids?text=DEADBEEF', {}, 400, 'text'],
    ['GET', `/v1/ids?text=${'0'.repeat(65)}`, {}, 400, 'text'],
    ['GET', '/v1/resources/%00/eu/site/x', {}, 400, 'path'],
  ])('%s %s is a problem document', async (method, path, headers, status, field) => {
    const answer = await http(base(), path, { method, headers, ...(method === 'POST' ? { body: '{}' } : {}) })
    expect(answer.status).toBe(status)
    expect(answer.headers['content-type']).toBe('application/problem+json')
    const problem = answer.json() as Record<string, unknown>
    expect(problem).toMatchObject({ status, ...(field === undefined ? {} : { field }) })
    expect(problem['type']).toBe(`urn:nxmesh:problem:${String(problem['code'])}`)
    if (status === 405) expect(answer.headers['allow']).toMatch(/GET|POST/)
  })

  test('HEAD answers as GET without a body', async () => {
    const answer = await http(base(), '/v1/node', { method: 'HEAD' })
    expect([answer.status, answer.text]).toEqual([200, ''])
  })
})

test('metrics count requests by route pattern and status class, never by path', async () => {
  await http(node.url, '/v1/resources/default/eu/site/secret-name')
  await http(node.url, '/v1/nothing-here')
  const { text, headers } = await http(node.url, '/metrics')
  expect(headers['content-type']).toMatch(/^text\/plain/)
  expect(text).toContain(
    'nxmesh_http_requests_total{route="/v1/resources/{workspace}/{zone}/{kind}/{name}",status="4xx"} 1',
  )
  expect(text).toContain('nxmesh_http_requests_total{route="other",status="4xx"} 1')
  expect(text).not.toContain('secret-name')
})

describe('the ways in', () => {
  test('the unix socket has mode 0660', async () => {
    expect((await stat(node.socketPath)).mode & 0o777).toBe(0o660)
  })

  test('requests that are not HTTP get a problem and no more', async () => {
    expect(await rawHttp(node.server.port!, 'what?\r\n\r\n')).toMatch(/^HTTP\/1.1 400 .*application\/problem\+json/s)
    const header = `x: ${'a'.repeat(20_000)}`
    expect(await rawHttp(node.server.port!, `GET /health HTTP/1.1\r\nhost: localhost\r\n${header}\r\n\r\n`)).toMatch(
      /^HTTP\/1.1 431 /,
    )
    const badHost = await rawHttp(
      node.server.port!,
      'GET /health HTTP/1.1\r\nhost: a b/c?d\r\nconnection: close\r\n\r\n',
    )
    expect(badHost).toMatch(/^HTTP\/1.1 400 .*application\/problem\+json/s)
  })
})

describe('listening', () => {
  test('a port in use is told, and nothing is left running', async () => {
    await expect(startApiNode({ server: { port: node.server.port! } })).rejects.toMatchObject({
      code: 'port_in_use',
      details: { field: 'http_bind_port' },
    })
  })

  test('a live socket is an error, a stale one is replaced', async () => {
    await expect(startApiNode({ server: { socketPath: node.socketPath } })).rejects.toMatchObject({
      code: 'port_in_use',
    })
    const stale = join(node.directory, 'stale.sock')
    await leaveStaleSocket(stale)
    const other = await startApiNode({ server: { socketPath: stale } })
    expect((await http(`unix:${stale}`, '/health')).status).toBe(200)
    await other.stop()
  })

  test('a file in the place of the socket is not removed', async () => {
    const file = join(node.directory, 'file')
    await writeFile(file, 'precious')
    await expect(startApiNode({ server: { socketPath: file } })).rejects.toMatchObject({ code: 'config_invalid' })
    expect((await stat(file)).size).toBe(8)
  })

  test('start and stop are idempotent, and it starts again', async () => {
    await node.server.start()
    await node.server.stop()
    await node.server.stop()
    await expect(http(`unix:${node.socketPath}`, '/health')).rejects.toThrow(/ENOENT/)
    await node.server.start()
    expect((await http(`unix:${node.socketPath}`, '/health')).status).toBe(200)
  })
})

/** A socket file that nobody listens on, as a killed process leaves it. */
async function leaveStaleSocket(path: string): Promise<void> {
  const { rename } = await import('node:fs/promises')
  const server: Server = createServer()
  await new Promise<void>((resolve) => server.listen(`${path}.live`, resolve))
  // Renamed, the file is not removed with the server.
  await rename(`${path}.live`, path)
  await chmod(path, 0o600)
  await new Promise((resolve) => server.close(resolve))
}

describe('a node without a mesh', () => {
  test('takes the first genesis that it is given, and then its envelopes', async () => {
    const fresh = await startApiNode({ founded: false })
    const socket = `unix:${fresh.socketPath}`
    expect((await http(fresh.url, '/health')).json()).toMatchObject({ mesh: null })
    expect((await http(socket, '/v1/genesis')).status).toBe(404)
    expect((await http(socket, '/v1/node')).json()).toMatchObject({ meshId: null })
    const stranger = await post(fresh.url, submission(...FOUNDING))
    expect(stranger.status, 'over TCP it takes none').toBe(401)
    expect(stranger.json()).toMatchObject({ detail: expect.stringContaining('no mesh yet') })
    const answer = await post(socket, submission(...FOUNDING))
    expect(answer.status).toBe(202)
    expect((answer.json() as { outcomes: unknown[] }).outcomes).toMatchObject([
      { outcome: 'known' },
      ...FOUNDING.slice(1).map(() => ({ outcome: 'stored' })),
    ])
    expect((await http(fresh.url, '/v1/node')).json()).toMatchObject({ meshId: MESH_ID })
    await fresh.stop()
  })

  test('refuses anything else', async () => {
    const fresh = await startApiNode({ founded: false })
    expect((await post(`unix:${fresh.socketPath}`, submission(FOUNDING[1] as Envelope))).status).toBe(400)
    await fresh.stop()
  })
})

describe('events', () => {
  /** Reads the stream until the text has what is waited for. */
  async function listen(base: string) {
    const response = await fetch(`${base}/v1/events`, { headers: tokenOf() })
    const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader()
    let text = ''
    let isEnded = false
    void (async () => {
      for (;;) {
        const { done, value } = await reader.read().catch(() => ({ done: true, value: '' }))
        if (done) break
        text += value
      }
      isEnded = true
    })()
    return {
      status: response.status,
      type: response.headers.get('content-type'),
      heard: (part: string) => waitFor(() => text.includes(part), { what: () => `${part} in ${text}` }),
      ended: () => waitFor(() => isEnded, { what: 'the end of the stream' }),
      close: () => reader.cancel(),
    }
  }

  test('tell edits, resources, health and receipts as they happen', async () => {
    const stream = await listen(node.url)
    expect([stream.status, stream.type]).toEqual([200, 'text/event-stream'])
    await stream.heard('event: hello')
    const edit = editor()([[SITE, [], [['set', '$', true]]]], 'hi')
    await post(node.url, submission(edit))
    await stream.heard(`event: edit\ndata: {"id":"${edit.id}"`)
    await stream.heard(`event: resource\ndata: {"path":"${SITE}","exists":true`)
    node.health = { status: 'Degraded', msg: 'drift', reasons: ['drift'] }
    node.server.changed()
    await stream.heard('event: health\ndata: {"msg":"drift"')
    await stream.close()
  })

  test('end when the server stops, which does not wait for them', async () => {
    // The time after which connections are cut never comes.
    const patient = await startApiNode({ server: { clock: { ...systemClock, after: () => () => undefined } } })
    const streams = await Promise.all([listen(patient.url), listen(patient.url)])
    await streams[0].heard('event: hello')
    await patient.stop()
    expect(await Promise.all(streams.map((stream) => stream.ended()))).toEqual([true, true])
  })

  test('are bounded in clients', async () => {
    const controller = new AbortController()
    const open = await Promise.all(
      Array.from({ length: EVENT_LIMITS.clients }, () =>
        fetch(`${node.url}/v1/events`, { headers: tokenOf(), signal: controller.signal }),
      ),
    )
    expect(open.every(({ status }) => status === 200)).toBe(true)
    const refused = await http(node.url, '/v1/events')
    expect(refused.status).toBe(503)
    expect(refused.json()).toMatchObject({ code: 'unavailable' })
    controller.abort()
    await waitFor(
      async () => {
        const again = new AbortController()
        const { status } = await fetch(`${node.url}/v1/events`, { headers: tokenOf(), signal: again.signal })
        again.abort()
        return status === 200
      },
      { what: 'a place for a new client' },
    )
  })

  test('HEAD takes no client’s place', async () => {
    expect((await http(node.url, '/v1/events', { method: 'HEAD' })).headers['content-type']).toBe('text/event-stream')
    expect(node.server.eventClients).toBe(0)
  })

  test('disconnect a client that does not read', async () => {
    const socket = connect(node.server.port!, '127.0.0.1')
    socket.on('error', () => undefined)
    socket.write(`GET /v1/events HTTP/1.1\r\nhost: localhost\r\nauthorization: ${tokenOf().authorization}\r\n\r\n`)
    await waitFor(() => node.server.eventClients === 1, { what: 'the client to listen' })
    socket.pause()
    let round = 0
    const isGone = (): boolean => {
      round += 1
      node.health = { status: 'Degraded', msg: `${round} ${'x'.repeat(100_000)}`, reasons: [] }
      node.server.changed()
      return node.server.eventClients === 0
    }
    await waitFor(isGone, { timeoutMs: 15_000, what: 'the end of the slow client' })
    const connections = await new Promise((resolve) => {
      socket.resume().on('close', () => resolve('closed'))
    })
    expect(connections).toBe('closed')
  })
})
