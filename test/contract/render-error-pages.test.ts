import { mkdirSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { freePort } from '../support/real-nginx.ts'
import { renderYaml } from '../support/resources.ts'
import { close, listening, ServedDocuments, type Sent } from '../support/served-documents.ts'

describe('error pages, on real nginx', () => {
  let served: ServedDocuments
  let backend: Server
  const asked: string[] = []

  beforeAll(async () => {
    // Answers the status that the last part of a path names.
    backend = createServer((request, response) => {
      const { url = '', method, headers } = request
      request.resume()
      request.on('end', () => {
        asked.push(`${method} ${url}`)
        if (url.startsWith('/pages/')) {
          const about = `${method} ${url} ${String(headers['x-error-status'])} ${String(headers['x-original-uri'])}`
          const rest = [headers['content-length'], headers['if-none-match'], headers.range].join('')
          response.end(`page: ${about} [${rest}]`)
          return
        }
        const status = Number(/\d+$/.exec(url)?.[0] ?? 200)
        response.writeHead(status, { 'WWW-Authenticate': 'Basic realm="there"', 'X-Own': 'yes' })
        response.end(`upstream says ${status}`)
      })
    })
    const [port, dead] = [await listening(backend), await freePort()]
    served = await ServedDocuments.start(({ directory }) => {
      const root = join(directory, 'www')
      mkdirSync(join(root, 'files/dir'), { recursive: true })
      writeFileSync(join(root, 'files/dir/index.html'), 'the index')
      writeFileSync(join(root, '50x "$page".html'), '<h1>sorry</h1>')
      return siteYaml(root, port, dead)
    })
  })
  afterAll(async () => {
    await served?.stop()
    close([backend])
  })

  const get = (path: string, sent: Sent = {}) => served.get(path, sent)
  const said = async (path: string, sent: Sent = {}) => {
    const { status, body } = await get(path, sent)
    return `${status} ${body}`
  }

  const drainedOrNot = (look: () => Promise<unknown>) => served.drainedOrNot(look)

  test('pages end connections that are drained', async () => {
    for (const path of ['/files/none', '/up/503']) {
      expect((await get(path)).headers.connection).toBe('keep-alive')
      expect((await served.drained(path)).headers.connection).toBe('close')
    }
  })

  test('errors of nginx itself: a missing file, a body too long, an upstream that is not there, no route', async () => {
    await drainedOrNot(async () => {
      expect(await said('/files/none')).toBe('404 not "here" for $5')
      expect(await said('/nowhere')).toBe('404 not "here" for $5')
      expect(await said('/dead')).toBe('502 <h1>sorry</h1>')
      expect(await said('/up/', { method: 'POST', body: 'x'.repeat(3000) })).toBe('413 too much')
      expect(await said('/files/dir/')).toBe('200 the index')
    })
    expect((await get('/files/none')).headers['content-type']).toBe('text/html; charset=utf-8')
    expect((await get('/dead')).headers['content-type']).toBe('text/html')
    expect((await get('/teapot/431')).headers['content-type']).toBe('text/plain')
  })

  test('errors of an upstream get pages with intercept alone, and its 418 and 419 are no signals', async () => {
    await drainedOrNot(async () => {
      expect(await said('/up/404')).toBe('404 not "here" for $5')
      expect(await said('/up/503')).toBe('503 <h1>sorry</h1>')
      expect(await said('/up/409')).toBe('409 upstream says 409')
      expect(await said('/plain/404')).toBe('404 upstream says 404')
      expect(await said('/plain/418')).toBe('418 upstream says 418')
      asked.length = 0
      expect(await said('/up/418', { method: 'POST', body: 'x' })).toBe('418 upstream says 418')
      expect(await said('/up/419')).toBe('419 upstream says 419')
      expect(await said('/teapot/418')).toBe('418 every 4xx')
      expect(await said('/teapot/431')).toBe('431 every 4xx')
      expect(asked).toEqual(['POST /up/418', 'GET /up/419', 'GET /teapot/418', 'GET /teapot/431'])
    })
  })

  test('a page of an upstream is asked for whole, by GET or HEAD, and told what went wrong', async () => {
    await drainedOrNot(async () => {
      const page = (method: string, path: string) => `page: ${method} /pages/gone?x=1 410 ${path} []`
      expect(await said('/up/410')).toBe(`410 ${page('GET', '/up/410')}`)
      const sent = { method: 'POST', body: 'x', headers: { Range: 'bytes=0-1', 'If-None-Match': '"a"' } }
      expect(await said('/up/a%2Fb/410', sent)).toBe(`410 ${page('GET', '/up/a%2Fb/410')}`)
      asked.length = 0
      expect((await get('/up/410', { method: 'HEAD' })).status).toBe(410)
      expect(asked).toEqual(['HEAD /up/410', 'HEAD /pages/gone?x=1'])
    })
  })

  test('HEAD has the status and no body; POST gets the page', async () => {
    expect(await said('/files/none', { method: 'HEAD' })).toBe('404 ')
    expect(await said('/up/404', { method: 'POST', body: 'x'.repeat(1000) })).toBe('404 not "here" for $5')
  })

  test('another status, for one route; the rest is as for the site', async () => {
    await drainedOrNot(async () => {
      expect(await said('/own/404')).toBe('200 an app for $uri')
      expect(await said('/own/503')).toBe('503 <h1>sorry</h1>')
    })
  })

  test('routes with conditions have pages too', async () => {
    await drainedOrNot(async () => {
      expect(await said('/when/404')).toBe('404 not "here" for $5')
      expect(await said('/when/404', { headers: { 'X-Beta': '1' } })).toBe('404 beta')
      expect(await said('/some/')).toBe('404 not "here" for $5')
    })
  })

  test('what the upstream and the site say in headers stays', async () => {
    expect((await get('/up/401')).headers).toMatchObject({ 'www-authenticate': 'Basic realm="there"', 'x-site': 'a' })
    expect((await get('/files/none')).headers['x-site']).toBe('a')
    expect((await get('/own/404')).headers).toMatchObject({ 'x-site': 'a', 'x-route': 'own' })
    expect((await get('/up/410')).headers['x-site']).toBe('a')
  })

  test('a page that fails itself ends there', async () => {
    await drainedOrNot(async () => {
      expect(await said('/lost/404')).toBe('404 there is no page for this error\n')
      expect((await get('/lost/503')).status).toBe(502)
      expect(await said('/lost/500')).toBe('500 upstream says 503')
    })
  })

  test('a body that the route takes is not too long for its page', async () => {
    expect(await said('/wide/404', { method: 'POST', body: 'x'.repeat(500_000) })).toBe('404 not "here" for $5')
  })

  test('fixed answers with a body keep it, those without get the page', async () => {
    expect(await said('/fixed')).toBe('404 said so')
    expect(await said('/blank')).toBe('404 not "here" for $5')
  })

  test('in maintenance its page is what all get, and those who are allowed see error pages', async () => {
    expect(await said('/none', { site: 'down' })).toBe('503 away')
    expect(await said('/none', { site: 'allowed' })).toBe('404 site page')
  })

  test('pages cannot be asked for', async () => {
    const { generation } = renderYaml(siteYaml('/srv', 1, 2), { host: served.layout })
    const paths = [...generation.objects.values()].join('\n').matchAll(/location = (\S+error-\d+) /g)
    for (const [, path] of [...paths].slice(0, 3)) expect((await get(path as string)).status).toBe(404)
  })

  test('nothing of this is an error in nginx’s own words', () => {
    expect(served.complaints(/cycle/)).toEqual([])
  })
})

function siteYaml(root: string, backendPort: number, deadPort: number): string {
  const upstream = (name: string, port: number) =>
    `{ apiVersion: nxmesh/v1, kind: Upstream, metadata: { name: ${name} }, spec: { endpoints: { '127.0.0.1:${port}': {} } } }`
  const site = (name: string, maintenance: string) =>
    `{ apiVersion: nxmesh/v1, kind: Site, metadata: { name: ${name} }, spec: { hosts: [${name}.example], errorPages: { pages: { '404': { body: site page }, 5xx: { body: failed } } }, maintenance: { enabled: true, body: away, ${maintenance} } } }`
  return `
${[upstream('app', backendPort), upstream('dead', deadPort), site('down', 'retryAfter: 1'), site('allowed', "allow: ['127.0.0.1']")].join('\n---\n')}
---
apiVersion: nxmesh/v1
kind: Site
metadata: { name: a }
spec:
  hosts: [a.example]
  maxBodySize: 2k
  responseHeaders: { set: { X-Site: a } }
  errorPages:
    intercept: true
    pages:
      '404': { body: 'not "here" for $5' }
      '413': { body: too much }
      '401': { body: who are you }
      '410': { upstream: app, path: '/pages/gone?x=1' }
      502,504: { file: '${root}/50x "$page".html' }
      5xx: { file: '${root}/50x "$page".html' }
  routes:
    files: { path: /files/, static: { root: ${root} } }
    dir: { path: /files/dir/, proxy: { upstream: app, rewrite: { regex: '.*', replacement: /x } }, when: { headers: { X-None: { present: true } } } }
    dir-files: { path: /files/dir/, static: { root: ${root} } }
    up: { path: /up/, proxy: { upstream: app } }
    plain: { path: /plain/, proxy: { upstream: app }, errorPages: { intercept: false } }
    teapot: { path: /teapot/, proxy: { upstream: app }, errorPages: { pages: { 4xx: { body: every 4xx, contentType: text/plain } } } }
    dead: { path: /dead, proxy: { upstream: dead } }
    own: { path: /own/, proxy: { upstream: app }, responseHeaders: { set: { X-Route: own } }, errorPages: { pages: { '404': { body: 'an app for $uri', status: 200 } } } }
    beta: { path: /when/, proxy: { upstream: app }, when: { headers: { X-Beta: { present: true } } }, errorPages: { pages: { '404': { body: beta } } } }
    when: { path: /when/, proxy: { upstream: app } }
    some: { path: /some/, proxy: { upstream: app }, when: { headers: { X-Beta: { present: true } } } }
    lost: { path: /lost/, proxy: { upstream: app }, errorPages: { pages: { '404': { file: '${root}/none.html' }, '503': { upstream: dead }, '500': { upstream: app, path: /503 } } } }
    wide: { path: /wide/, maxBodySize: 1m, proxy: { upstream: app } }
    fixed: { path: /fixed, return: { status: 404, body: said so } }
    blank: { path: /blank, return: { status: 404 } }
`
}
