import { mkdirSync, writeFileSync } from 'node:fs'
import { gunzipSync } from 'node:zlib'
import { request } from 'node:http'
import { once } from 'node:events'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { countAnswers } from '../../src/nginx/applying/bake.ts'
import { probe } from '../../src/nginx/applying/probe.ts'
import { parseAnswer } from '../../src/upstreams/judging/traffic.ts'
import { luaModules } from '../support/real-nginx.ts'
import { renderYaml } from '../support/resources.ts'
import { ServedDocuments } from '../support/served-documents.ts'
import { waitFor } from '../support/wait.ts'

const LONG = 'long enough to be worth it; '.repeat(200)

describe.each(['reload', 'live'] as const)('what concerns a whole site, by the %s lane, on real nginx', (lane) => {
  let served: ServedDocuments

  beforeAll(async () => {
    const documents = ({ directory }: { directory: string }) => {
      const root = join(directory, 'www')
      mkdirSync(root)
      for (const name of ['long.txt', 'long.html', 'long.css', 'long.png']) writeFileSync(join(root, name), LONG)
      writeFileSync(join(root, 'short.txt'), 'short')
      return yaml(root)
    }
    served = await ServedDocuments.start(documents, {
      host: { modules: await luaModules(), liveLane: lane === 'live' },
    })
  })
  afterAll(() => served?.stop())

  const get = (name: string, path: string, method = 'GET', body = '') => served.get(path, { site: name, method, body })

  /** As `get`, for a client that takes gzip: what it was told, and the body unpacked. */
  async function packed(name: string, path: string) {
    const sent = request({
      host: '127.0.0.1',
      port: served.port,
      path,
      headers: { host: `${name}.example`, 'accept-encoding': 'gzip', via: '1.1 proxy' },
    })
    sent.end()
    const [response] = (await once(sent, 'response')) as [import('node:http').IncomingMessage]
    const chunks: Buffer[] = []
    for await (const chunk of response) chunks.push(chunk as Buffer)
    const all = Buffer.concat(chunks)
    const encoding = response.headers['content-encoding']
    return { encoding, vary: response.headers.vary, body: (encoding === 'gzip' ? gunzipSync(all) : all).toString() }
  }

  test('text of the zone settings in http: a map that sites use', async () => {
    expect((await get('mapped', '/')).body).toBe('a client of its own')
  })

  test('compression: types and length that it was told, for clients that take it', async () => {
    expect(await packed('zip', '/long.txt')).toEqual({ encoding: 'gzip', vary: 'Accept-Encoding', body: LONG })
    expect((await packed('zip', '/long.html')).encoding).toBe('gzip')
    expect((await packed('zip', '/long.css')).encoding).toBeUndefined()
    expect((await packed('zip', '/long.png')).encoding).toBeUndefined()
    expect((await packed('zip', '/short.txt')).encoding).toBeUndefined()
    expect((await get('zip', '/long.txt')).headers['content-encoding']).toBeUndefined()
    expect((await packed('usual', '/long.css')).encoding).toBe('gzip')
    expect((await packed('off', '/long.css')).encoding).toBeUndefined()
    expect((await packed('up', '/long.css')).encoding).toBeUndefined()
  })

  const down = async (name: string) => {
    const answers = await Promise.all([
      get(name, '/'),
      get(name, '/long.txt?a=b'),
      get(name, '/a%2Fb%0ac', 'POST', 'x'.repeat(2_000_000)),
      get(name, '/', 'DELETE'),
    ])
    return answers.map(({ status, body, headers }) => [
      status,
      body,
      headers['retry-after'],
      headers['x-site'],
      headers.connection,
    ])
  }

  test('maintenance: every path and method gets 503 with the page, and when to come again; drained or not', async () => {
    const page = [503, '<h1>back at "noon" for $5</h1>', '120', 'on errors too']
    expect(await down('down')).toEqual(Array.from({ length: 4 }, () => [...page, 'keep-alive']))
    expect((await get('down', '/')).headers['content-type']).toBe('text/html; charset=utf-8')
    const drained = await served.whileDrained(() => down('down'))
    expect(drained).toEqual(Array.from({ length: 4 }, () => [...page, 'close']))
  })

  test('maintenance: clients that are allowed are served, sites without it are too', async () => {
    for (const name of ['allowed', 'everybody', 'up', 'zip']) expect((await get(name, '/long.txt')).body).toBe(LONG)
    expect((await get('refused', '/long.txt')).status).toBe(503)
  })

  test('maintenance: a probe sees that it is meant, and so does who counts 5xx in the traffic log', async () => {
    const target = (site: string) => ({
      site,
      address: '127.0.0.1',
      port: served.port,
      host: `${site}.example`,
    })
    const answers = await probe([target('down'), target('up')], 5000)
    expect(answers.get('down')).toEqual({ kind: 'planned' })
    expect(answers.get('up')?.kind).toBe('status')
    for (const site of ['down', 'up']) await get(site, '/counted')
    const all = ['down', 'up'].flatMap((site) => [`default/*/site/${site} true`, `default/*/site/${site} false`])
    const lines = await waitFor(
      () => {
        const told = served.log('traffic.log').split('\n')
        const seen = new Set(
          told.flatMap((line) => parseAnswer(line) ?? []).map(({ site, isProbe }) => `${site} ${isProbe}`),
        )
        return all.every((one) => seen.has(one)) ? told : undefined
      },
      { what: 'probes and clients in the traffic log' },
    )
    const counts = countAnswers(lines)
    expect(counts.get('default/*/site/down')).toBeUndefined()
    expect(counts.get('default/*/site/up')).toMatchObject({ errors: 0 })
  })

  test('the page itself cannot be asked for', async () => {
    const { generation } = renderYaml(yaml('/srv'), { host: served.layout })
    const path = /location = (\S+maintenance) /.exec([...generation.objects.values()].join('\n'))?.[1] as string
    expect(path).toMatch(/^\/nxmesh_/)
    expect((await get('allowed', path)).status).toBe(404)
  })
})

function yaml(root: string): string {
  const site = (name: string, spec: string) =>
    `{ apiVersion: nxmesh/v1, kind: Site, metadata: { name: ${name} }, spec: { hosts: [${name}.example], routes: { r: { path: /, static: { root: ${root} } } }, ${spec} } }`
  const page = `retryAfter: 120, body: '<h1>back at "noon" for $5</h1>', contentType: text/html; charset=utf-8`
  return [
    site('zip', 'compression: { types: [text/plain, text/html], minLength: 100 }'),
    site('usual', 'compression: { enabled: true }'),
    site('off', 'compression: { enabled: false, minLength: 1 }'),
    site('up', 'maintenance: { enabled: false, retryAfter: 120 }'),
    site('down', `maintenance: { enabled: true, ${page} }, responseHeaders: { set: { X-Site: on errors too } }`),
    site('allowed', "maintenance: { enabled: true, allow: ['127.0.0.0/8', '::1', '2001:db8::/32'] }"),
    site('everybody', "maintenance: { enabled: true, allow: ['0.0.0.0/0', '::/0', '128.0.0.0/1'] }"),
    `{ apiVersion: nxmesh/v1, kind: ZoneSettings, metadata: { name: settings }, spec: { privileged: { httpSnippets: { own: 'geo $own_client { default no; 127.0.0.0/8 yes; }' } } } }`,
    site('mapped', 'privileged: { serverSnippet: \'if ($own_client = yes) { return 200 "a client of its own"; }\' }'),
    site('refused', "maintenance: { enabled: true, allow: ['10.0.0.0/8'] }"),
  ].join('\n---\n')
}
