import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parse as parseYaml } from 'yaml'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { parseDocument } from '../../src/core/resources/index.ts'
import type { Tree } from '../../src/core/resources/kind.ts'
import { adoptDrift } from '../../src/nginx/importing/drift.ts'
import { parse } from '../../src/nginx/importing/parse.ts'
import { bounded } from '../../src/nginx/rendering/regex.ts'
import { KEYS, startApiNode, type ApiNode } from '../support/api-node.ts'
import { meshctl } from '../support/cli.ts'
import { renderYaml } from '../support/resources.ts'

const SITE = `
apiVersion: nxmesh/v1
kind: Site
metadata: { name: shop }
spec:
  hosts: [shop.example]
  routes:
    root: { path: /, proxy: { upstream: app } }
    js: { path: '^/js/[a-z]+$', match: regex, static: { root: /srv } }
    api: { path: /api, return: { status: 200 } }
  privileged: { routeSnippets: { api: '# ours' } }
`
const UPSTREAM = `
apiVersion: nxmesh/v1
kind: Upstream
metadata: { name: app }
spec: { endpoints: { '10.0.0.1:80': {}, '10.0.0.2:80': { weight: 2 } } }
`

/** What becomes of the resource of this kind when its rendered text is edited so. */
function adopted(kind: 'site' | 'upstream', edit: (text: string) => string) {
  const { units } = renderYaml(`${SITE}---${UPSTREAM}`)
  const { text, path } = units.find((unit) => unit.kind === kind) as (typeof units)[0]
  const edited = edit(text)
  expect(edited).not.toBe(text)
  const spec: Tree =
    kind === 'site'
      ? {
          hosts: ['shop.example'],
          routes: {
            root: { path: '/', action: 'proxy', proxy: { upstream: 'app' } },
            js: { path: '^/js/[a-z]+$', match: 'regex', action: 'static', static: { root: '/srv' } },
            api: { path: '/api', action: 'return', return: { status: 200 } },
          },
          privileged: { routeSnippets: { api: '# ours' } },
        }
      : { endpoints: { '10.0.0.1:80': {}, '10.0.0.2:80': { weight: 2 } } }
  const result = adoptDrift(spec, parse(text, path), parse(edited, path))
  parseDocument({
    apiVersion: 'nxmesh/v1',
    kind: kind === 'site' ? 'Site' : 'Upstream',
    metadata: { name: 'it' },
    spec: result.spec,
  })
  return { ...result, taken: result.taken.map(({ what }) => what), left: result.left.map(({ what }) => what) }
}

describe('what was edited by hand', () => {
  test('a directive added to the server becomes its text', () => {
    const { spec, taken, left } = adopted('site', (text) => text.replace('server_name', 'deny 10.0.0.9;\nserver_name'))
    expect(spec['privileged']).toEqual({ serverSnippet: 'deny 10.0.0.9;\n', routeSnippets: { api: '# ours' } })
    expect({ taken, left }).toEqual({ taken: ['deny 10.0.0.9'], left: [] })
  })

  test.each([
    ['location / {', 'root', 'expires 1h;\n'],
    [`location ~ "${bounded('^/js/[a-z]+$')}" {`, 'js', 'expires 1h;\n'],
    ['location /api {', 'api', '# ours\nexpires 1h;\n'],
  ])('a directive added to %s becomes text of its route', (head, id, snippet) => {
    const { spec, left } = adopted('site', (text) => text.replace(head, `${head} expires 1h;`))
    expect(spec['privileged']).toMatchObject({ routeSnippets: { [id]: snippet } })
    expect(left).toEqual([])
  })

  test('a location of its own becomes text of the server', () => {
    const { spec } = adopted('site', (text) =>
      text.replace('server_name', 'location = /x { return 204; }\nserver_name'),
    )
    expect(spec['privileged']).toMatchObject({ serverSnippet: 'location = /x {\n    return 204;\n}\n' })
  })

  test.each([
    ['a changed directive', (text: string) => text.replace('server_name shop.example', 'server_name other.example')],
    ['a removed one', (text: string) => text.replace(/^\s*root .*\n/m, '')],
    ['a changed one of a location', (text: string) => text.replace('return 200', 'return 201')],
    ['one of http', (text: string) => `geo $x { default 1; }\n${text}`],
    ['one in a twin', (text: string) => text.replace('location @drain_1 {', 'location @drain_1 { expires 1h;')],
  ])('%s is left for a person', (_, edit) => {
    const { spec, taken, left } = adopted('site', edit)
    expect(spec['privileged']).toEqual({ routeSnippets: { api: '# ours' } })
    expect(taken).toEqual([])
    expect(left.length).toBeGreaterThan(0)
  })

  test('servers of an upstream become its endpoints', () => {
    const { spec, left } = adopted('upstream', (text) =>
      text
        .replace('server 10.0.0.1:80;', 'server 10.0.0.1:80 down;\nserver 10.0.0.3:80;')
        .replace(/server 10\.0\.0\.2.*\n/, ''),
    )
    expect(spec).toEqual({ endpoints: { '10.0.0.1:80': { down: true }, '10.0.0.3:80': {} } })
    expect(left).toEqual([])
  })

  test('another method of an upstream is left for a person', () => {
    const { left } = adopted('upstream', (text) => text.replace('server 10.0.0.1', 'least_conn;\nserver 10.0.0.1'))
    expect(left).toEqual(['least_conn'])
  })
})

describe('meshctl import --drift', () => {
  let node: ApiNode
  let cwd: string
  beforeEach(async () => {
    node = await startApiNode()
    cwd = mkdtempSync(join(tmpdir(), 'nxmesh-drift-'))
    writeFileSync(join(cwd, 'owner.key'), Buffer.from(KEYS.owner.seed).toString('hex'), { mode: 0o600 })
    for (const name of ['drift', 'objects']) mkdirSync(join(cwd, name))
  })
  afterEach(async () => {
    await node.stop()
    rmSync(cwd, { recursive: true })
  })
  const ask = (...argv: string[]) => meshctl(['--api', node.url, '-k', 'owner.key', ...argv], { cwd })

  test('writes the resource as the node has it, with what was added', async () => {
    writeFileSync(join(cwd, 'app.yaml'), UPSTREAM)
    expect(await ask('apply', '-f', 'app.yaml')).toMatchObject({ code: 0 })
    const [unit] = renderYaml(UPSTREAM).units as unknown as [{ text: string; digest: string }]
    const name = `2026-01-02T030405.678Z-${unit.digest}.conf`
    const file = join('drift', name)
    writeFileSync(join(cwd, 'objects', `${unit.digest}.conf`), unit.text)
    writeFileSync(join(cwd, file), unit.text.replace('server 10.0.0.1:80;', 'server 10.0.0.1:80 down;'))
    const { code, out } = await ask('import', '--drift', file, '--into', 'out')
    expect({ code, out }).toEqual({
      code: 0,
      out: `Taken:\n  ${join(cwd, file)}:3  server 10.0.0.1:80 down\n      endpoints."10.0.0.1:80"\nLeft for you: nothing.\n`,
    })
    expect(parseYaml(readFileSync(join(cwd, 'out', 'upstream-app.yaml'), 'utf8'))).toMatchObject({
      metadata: { name: 'app' },
      spec: { endpoints: { '10.0.0.1:80': { down: true }, '10.0.0.2:80': { weight: 2 } } },
    })
    expect(await ask('delete', 'upstream', 'app')).toMatchObject({ code: 0 })
    expect(await ask('import', '--drift', file, '--into', 'other')).toMatchObject({
      code: 5,
      err: expect.stringContaining('there is no default/*/upstream/app any more') as string,
    })
  })

  test('refuses what no node put aside', async () => {
    writeFileSync(join(cwd, 'drift', 'nginx.conf'), 'events { }')
    const { code, err } = await ask('import', '--drift', 'drift/nginx.conf')
    expect({ code, err }).toEqual({ code: 3, err: expect.stringContaining('is not the file of a site') as string })
  })
})
