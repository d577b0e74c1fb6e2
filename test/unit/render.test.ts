import { readdirSync, readFileSync } from 'node:fs'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { sha256 } from '../../src/core/canonical.ts'
import type { ResourceState } from '../../src/core/document.ts'
import { fieldsOf, parseDocument, pathOf } from '../../src/core/resources/index.ts'
import { ALL_WELL } from '../../src/nginx/rendering/render-upstream.ts'
import { DEFAULT_ANSWER } from '../../src/nginx/rendering/main-conf.ts'
import { hostNamesOf, render } from '../../src/nginx/rendering/render.ts'
import { resourceArbitrary } from '../support/arbitrary-resources.ts'
import {
  DEBIAN_12,
  EVERYWHERE,
  LAYOUT,
  renderStates,
  renderYaml,
  sliceOf,
  stateOf,
  statesOf,
  withModules,
} from '../support/resources.ts'

function site(name: string, spec: string, zone = '*'): string {
  return `
apiVersion: nxmesh/v1
kind: Site
metadata: { name: ${name}, zone: '${zone}' }
spec: { ${spec} }
`
}
function upstream(name: string, spec: string, zone = '*'): string {
  return site(name, spec, zone).replace('kind: Site', 'kind: Upstream')
}
function policy(name: string, spec: string, zone = '*'): string {
  return site(name, spec, zone).replace('kind: Site', 'kind: Policy')
}
const proxyTo = (name: string) => `routes: { r: { path: /, proxy: { upstream: ${name} } } }`

describe('golden files', () => {
  const directory = new URL('../../examples/', import.meta.url)
  test.each(readdirSync(directory).filter((file) => file.endsWith('.yaml')))('examples/%s', async (file) => {
    const { units, problems, generation } = renderYaml(readFileSync(new URL(file, directory), 'utf8'))
    expect(problems).toEqual([])
    const text = units.length > 0 ? units.map((unit) => unit.text).join('\n') : generation.main
    await expect(text).toMatchFileSnapshot(`../golden/${file.replace('.yaml', '.conf')}`)
  })

  test('tokens, which want the Lua module', async () => {
    const publicKey =
      '{"kty":"EC","crv":"P-256","x":"-nUvct6OE9bAP7RZZwhq2brtoWErebZWm4ua3zlJwV8","y":"PJGPRgbyPASJ8b977MFWWigIvTE1esUDKA3Dt6_uKDE"}'
    const yaml = [
      site(
        'tokens',
        `jwt: { cookie: session, keys: { idp: { alg: ES256, publicKey: '${publicKey}' } }, headers: { X-User: sub } }`,
      ),
      site('pages', "cache: { valid: { '200': 10m }, bypass: { headers: [X-Fresh, Range] } }"),
    ].map((text) => text.replace('kind: Site', 'kind: Policy'))
    const routes = [
      'root: { path: /, proxy: { upstream: app } }',
      'beta: { path: /, proxy: { upstream: app }, when: { headers: { X-Beta: { present: true }, Range: { present: false } } } }',
      'open: { path: /open/, proxy: { upstream: app }, withoutPolicies: [tokens], requestHeaders: { set: { X-Own: yes } } }',
    ]
    const text = [
      ...yaml,
      upstream('app', ''),
      site('shop', `hosts: [shop.example], policies: [tokens, pages], routes: { ${routes.join(', ')} }`),
    ]
    const { units, problems } = renderYaml(text.join('---'), {
      capabilities: withModules('http_lua', 'ndk_http'),
      host: { ...LAYOUT, liveLane: false },
    })
    expect(problems).toEqual([])
    const rendered = units.filter(({ kind }) => kind !== 'upstream').map((unit) => unit.text)
    await expect(rendered.join('\n')).toMatchFileSnapshot('../golden/tokens.conf')
  })

  test('from nginx 1.27.4 on, old workers are told to keep idle connections for a while', () => {
    const mainOf = (version: string) => renderStates([], { capabilities: { ...DEBIAN_12, version } }).generation.main
    expect(mainOf('1.27.4')).toContain('keepalive_min_timeout 5s;')
    expect(mainOf('1.27.3')).not.toContain('keepalive_min_timeout')
  })

  test('nginx.conf', async () => {
    const host = {
      ...LAYOUT,
      user: 'www-data',
      workerProcesses: 2,
      modules: ['/usr/lib/nginx/modules/ngx_stream_module.so'],
    }
    const { generation } = renderYaml(site('a', 'hosts: [a.example]'), { host })
    await expect(generation.main).toMatchFileSnapshot('../golden/nginx.conf')
  })
})

describe('references', () => {
  test('go to the nearest upstream of the workspace, from the site outward', () => {
    const yaml = [
      site('s', `hosts: [a.example], ${proxyTo('api')}`, 'eu'),
      upstream('api', '', 'eu.west'),
      upstream('api', '', 'eu'),
      upstream('api', '', '*'),
    ].join('---')
    const unit = renderYaml(yaml).units.find(({ kind }) => kind === 'site')
    expect(unit?.needs).toEqual(['default/eu/upstream/api'])
    expect(unit?.text).toContain('proxy_pass http://default_eu_api;')
  })

  test('to nothing are a problem, and the site is left out', () => {
    const { units, problems } = renderYaml(site('s', `hosts: [a.example], ${proxyTo('api')}`, 'eu'))
    expect(units).toEqual([])
    expect(problems).toEqual([
      {
        path: 'default/eu/site/s',
        code: 'reference',
        message: 'there is no upstream api',
        hint: 'create an Upstream api in workspace default and zone eu or *',
      },
    ])
  })

  test('to an upstream with a problem of its own stay, since its last good text may serve', () => {
    const broken = stateOf('default/*/upstream/api', new Map([['endpoints/nonsense', true]]))
    const { units, problems } = renderStates([...statesOf(site('s', `hosts: [a.example], ${proxyTo('api')}`)), broken])
    expect(units.map(({ path, needs }) => [path, needs])).toEqual([['default/*/site/s', ['default/*/upstream/api']]])
    expect(problems.map(({ path, code }) => [path, code])).toEqual([['default/*/upstream/api', 'schema']])
  })
})

describe('clashes', () => {
  test('the older site keeps a host, the younger keeps its others', () => {
    const { units, problems } = renderYaml(
      [site('young', 'hosts: [a.example]'), site('other', 'hosts: [a.example, b.example]')].join('---'),
    )
    expect(units.map(({ path, hosts }) => [path, hosts])).toEqual([
      ['default/*/site/other', ['b.example']],
      ['default/*/site/young', ['a.example']],
    ])
    expect(problems).toEqual([
      {
        path: 'default/*/site/other',
        code: 'clash',
        message: 'the host a.example belongs to the older site default/*/site/young',
        hint: 'remove it from one of the two',
      },
    ])
  })

  test('a site without a host left is left out; * is a host like others', () => {
    const { units, problems, generation } = renderYaml(
      [site('a', "hosts: ['*']"), site('b', "hosts: ['*']")].join('---'),
    )
    expect(units.map(({ path }) => path)).toEqual(['default/*/site/a'])
    expect(problems.map(({ code }) => code)).toEqual(['clash'])
    expect(generation.main).not.toContain(DEFAULT_ANSWER)
  })

  test('between equal times the lower edit id is the older', () => {
    const states = statesOf([site('a', 'hosts: [x.example]'), site('b', 'hosts: [x.example]')].join('---'))
    const created = (edit: string) => ({ at: 1, edit, by: '' })
    const [first, second] = states as [(typeof states)[0], (typeof states)[0]]
    const { units } = renderStates([
      { ...first, created: created('f') },
      { ...second, created: created('e') },
    ])
    expect(units.map(({ path }) => path)).toEqual(['default/*/site/b'])
  })

  test('one host on two ports is no clash', () => {
    const yaml = [
      site('a', 'hosts: [x.example], listeners: { l: { port: 80 } }'),
      site('b', 'hosts: [x.example], listeners: { l: { port: 81 } }'),
    ].join('---')
    expect(renderYaml(yaml).problems).toEqual([])
  })

  test('a site that cannot be rendered keeps its claim', () => {
    const yaml = [site('a', `hosts: [x.example], ${proxyTo('none')}`), site('b', 'hosts: [x.example]')].join('---')
    const { units, problems } = renderYaml(yaml)
    expect(units).toEqual([])
    expect(problems.map(({ path, code }) => [path, code])).toEqual([
      ['default/*/site/a', 'reference'],
      ['default/*/site/b', 'clash'],
    ])
  })

  test.each([
    ['{ port: 80 }', '{ port: 80, address: 0.0.0.0 }'],
    ['{ port: 80 }', '{ port: 80, address: "::" }'],
    ['{ port: 80, address: 10.0.0.1 }', '{ port: 80, address: 10.0.0.2 }'],
    ['{ port: 80, address: "2001:DB8:0::1" }', '{ port: 80, address: "2001:db8::1" }'],
  ])('%s and %s go together', (one, two) => {
    const yaml = [
      site('a', `hosts: [a.example], listeners: { l: ${one} }`),
      site('b', `hosts: [b.example], listeners: { l: ${two} }`),
    ].join('---')
    const { problems, units } = renderYaml(yaml)
    expect(problems).toEqual([])
    expect(units).toHaveLength(2)
  })

  test('listeners of one site that are equal, or that another covers, are one', () => {
    const listeners = 'a: { port: 80 }, b: { port: 80, address: 0.0.0.0 }, c: { port: 80, address: 10.0.0.1 }'
    const { units } = renderYaml(site('a', `hosts: [a.example], listeners: { ${listeners} }`))
    expect(units[0]?.listeners).toEqual([{ address: '*', port: 80, tls: false }])
  })
})

test('every upstream that a split may reach is needed, and no other', () => {
  const split = 'split: { a: { upstream: one, weight: 1 }, b: { upstream: two, weight: 0 } }'
  const proxy = (more: string) => site('s', `hosts: [a.example], routes: { r: { path: /, proxy: { ${more} } } }`)
  const { units } = renderYaml(
    [proxy(`upstream: gone, ${split}`), upstream('one', ''), upstream('two', '')].join('---'),
  )
  expect(units[0]?.needs).toEqual(['default/*/upstream/one', 'default/*/upstream/two'])
  const { problems } = renderYaml([proxy(split), upstream('one', '')].join('---'))
  expect(problems.map(({ code, message }) => `${code}: ${message}`)).toEqual(['reference: there is no upstream two'])
})

test('brotli is there where its module is, which is loaded then', () => {
  const yaml = site('s', 'hosts: [a.example], compression: { types: [text/css] }')
  const path = '/usr/lib/nginx/modules/ngx_http_brotli_filter_module.so'
  const without = renderYaml(yaml)
  expect(without.units[0]?.text).not.toContain('brotli')
  expect(without.generation.main).not.toContain('load_module')
  const loadable = renderYaml(yaml, { capabilities: withModules('http_brotli_filter', 'http_js') })
  const named = renderYaml(yaml, { host: { ...LAYOUT, modules: [path] } })
  const both = renderYaml(yaml, { ...loadable.input, host: { ...LAYOUT, modules: [path] } })
  for (const { units, generation } of [loadable, named, both]) {
    expect(units[0]?.text).toContain('brotli_types text/css;')
    expect(generation.main.match(/load_module .*/g)).toEqual([`load_module ${path};`])
  }
})

describe('conditions of routes', () => {
  const text = (routes: string) =>
    renderYaml(site('s', `hosts: [a.example], routes: { ${routes} }`)).units[0]?.text ?? ''
  const on = (id: string, header: string) =>
    `${id}: { path: /, when: { headers: { ${header}: { present: true } } }, return: { status: 200, body: ${id} } }`

  test('give the same text whatever the order in which they were written', () => {
    const [one, two, rest] = [on('one', 'A'), on('two', 'B'), 'rest: { path: /, return: { status: 200, body: rest } }']
    expect(text(`${one}, ${two}, ${rest}`)).toBe(text(`${rest}, ${two}, ${one}`))
    expect(text(`${one}, ${two}`)).toContain('location @route_1_2 {')
  })

  test('leave a site without any as it was', () => {
    expect(text('r: { path: /, return: { status: 200 } }')).not.toMatch(/map|419|@route/)
    expect(text('r: { path: /, when: {}, return: { status: 200 } }')).not.toMatch(/map|419|@route/)
  })

  test('have variables that no other site has, and equal ones have one', () => {
    const names = (site: string | undefined) => new Set(site?.match(/\$nxmesh_[0-9a-f]{16}_\d+/g))
    const both = renderYaml(
      ['a', 'b'].map((name) => site(name, `hosts: [${name}.example], routes: { ${on('r', 'A')} }`)).join('---'),
    ).units.map((unit) => names(unit.text))
    expect(both.map((each) => each.size)).toEqual([2, 2])
    expect(new Set(both.flatMap((each) => [...each])).size).toBe(4)
    const twice = names(
      text(`${on('r', 'A')}, q: { path: /q, when: { headers: { a: { present: true } } }, return: { status: 200 } }`),
    )
    expect(twice.size).toBe(2)
  })

  test('are shared out among workspaces, since each costs every request', () => {
    const query = ['a', 'b', 'c', 'd', 'e', 'f', 'g'].map((name) => `${name}: { present: true }`).join(', ')
    const route = (index: number) =>
      `r${index}: { path: /${index}, when: { query: { ${query} } }, return: { status: 200 } }`
    const greedy = (name: string, workspace: string, routes: number) =>
      site(
        name,
        `hosts: [${name}.example], routes: { ${Array.from({ length: routes }, (_, i) => route(i)).join(', ')} }`,
      ).replace('metadata: {', `metadata: { workspace: ${workspace},`)
    const yaml = [...Array.from({ length: 6 }, (_, index) => greedy(`e${index}`, 'eve', 50)), greedy('late', 'late', 1)]
    const { units, problems } = renderYaml(yaml.join('---'))
    expect(units.map(({ path }) => path)).toContain('late/*/site/late')
    expect(units).toHaveLength(6)
    expect(problems.map(({ path, code }) => [path, code])).toEqual([['eve/*/site/e5', 'clash']])
  })
})

describe('upstreams', () => {
  const text = (spec: string, addresses: Record<string, string[]> = {}) =>
    renderYaml(upstream('u', spec), { addresses: new Map(Object.entries(addresses)) }).units[0]?.text

  test('without endpoints, or with all unresolved, answer 502', () => {
    expect(text('')).toContain('server 127.0.0.1:1 down;')
    const { units, problems } = renderYaml(upstream('u', "endpoints: { 'a.internal:80': {} }"))
    expect(units[0]?.text).toContain('server 127.0.0.1:1 down;')
    expect(problems).toMatchObject([{ path: 'default/*/upstream/u', code: 'unresolved' }])
  })

  test('have a server for each address of a name, whatever their order', () => {
    const spec = "endpoints: { 'a.internal:80': { weight: 2 } }"
    expect(text(spec, { 'a.internal': ['10.0.0.2', '10.0.0.1', '2001:db8::1', 'junk; }'] })).toContain(
      'server 10.0.0.1:80 weight=2;\n    server 10.0.0.2:80 weight=2;\n    server [2001:db8::1]:80 weight=2;\n}',
    )
    expect(text(spec, { 'a.internal': ['10.0.0.1', '10.0.0.2'] })).toBe(
      text(spec, { 'a.internal': ['10.0.0.2', '10.0.0.1'] }),
    )
  })

  test('serve from backups when there is nothing else', () => {
    expect(text("endpoints: { '10.0.0.1:80': { backup: true } }")).not.toContain('backup')
    expect(text("endpoints: { '10.0.0.1:80': { backup: true }, '10.0.0.2:80': {} }")).toContain(
      'server 10.0.0.1:80 backup;',
    )
    expect(text("endpoints: { '10.0.0.1:80': { backup: true }, 'gone.internal:80': {} }")).not.toContain('backup')
  })

  test('take 64 addresses of a name, and say when there are more', () => {
    const addresses = new Map([['a.internal', Array.from({ length: 65 }, (_, index) => `10.0.0.${index + 100}`)]])
    const { units, problems } = renderYaml(upstream('u', "endpoints: { 'a.internal:80': {} }"), { addresses })
    expect(units[0]?.text.match(/server /g)).toHaveLength(64)
    expect(problems.map(({ code, message }) => `${code}: ${message}`)).toEqual([
      'unresolved: over 64 addresses are known for a.internal; the first 64 take requests',
    ])
  })

  test('that hash consistently are refused when addresses make their weights too much', () => {
    const of = (count: number) => [...Array(count).keys()].map((index) => `10.0.0.${index}`)
    const spec = "method: hash, consistent: true, endpoints: { 'a.internal:80': { weight: 512 } }"
    const render = (count: number) =>
      renderYaml(upstream('u', spec), { addresses: new Map([['a.internal', of(count)]]) })
    expect(render(2).problems).toEqual([])
    expect(render(3).units).toEqual([])
    expect(render(3).problems).toMatchObject([
      { code: 'unsupported', message: expect.stringContaining('1536') as string },
    ])
  })

  test('that hash consistently share what a node bears among workspaces', () => {
    const heavy = (name: string, workspace: string) =>
      upstream(name, "method: hash, consistent: true, endpoints: { '10.0.0.1:80': { weight: 1000 } }").replace(
        'metadata: {',
        `metadata: { workspace: ${workspace},`,
      )
    const many = Array.from({ length: 40 }, (_, index) => heavy(`e${index}`, 'eve'))
    const { units, problems } = renderYaml([...many, heavy('u', 'late')].join('---'))
    expect(units.map(({ path }) => path)).toContain('late/*/upstream/u')
    expect(units).toHaveLength(32)
    expect(problems).toHaveLength(9)
    expect(new Set(problems.map(({ code }) => code))).toEqual(new Set(['clash']))
  })

  test('with a sticky cookie are so many, shared out among workspaces; cookies of one name are one variable', () => {
    const stuck = (name: string, workspace: string) =>
      upstream(name, "method: hash, sticky: { cookie: srv }, endpoints: { '10.0.0.1:80': {} }").replace(
        'metadata: {',
        `metadata: { workspace: ${workspace},`,
      )
    const many = Array.from({ length: 600 }, (_, index) => stuck(`e${index}`, 'eve'))
    const { units, problems } = renderYaml([...many, stuck('u', 'late')].join('---'))
    expect(units.map(({ path }) => path)).toContain('late/*/upstream/u')
    expect(units).toHaveLength(512)
    expect(problems).toHaveLength(89)
    const variables = units.map(({ text }) => /^map \$cookie_srv (\S+)/m.exec(text)?.[1])
    expect(new Set(variables).size).toBe(1)
  })

  test('name what has to be looked up', () => {
    const yaml = [
      upstream('u', "endpoints: { 'b.internal:80': {}, '10.0.0.1:80': {}, '[::1]:1': {} }"),
      upstream('v', "endpoints: { 'a.internal:1': {}, 'b.internal:2': {} }"),
    ]
    expect(hostNamesOf(sliceOf(statesOf(yaml.join('---')), EVERYWHERE))).toEqual(['a.internal', 'b.internal'])
  })
})

describe('what a host cannot do is refused by name', () => {
  const unsupported = (yaml: string, changes: Parameters<typeof renderYaml>[1]) =>
    renderYaml(yaml, changes).problems.map(({ code, message }) => `${code}: ${message}`)

  test('random and keepalive on an old nginx', () => {
    const old = { capabilities: { ...DEBIAN_12, version: '1.14.2' } }
    expect(unsupported(upstream('u', 'method: random'), old)).toEqual([
      'unsupported: method: random of an upstream needs nginx with version 1.15.1; this host has 1.14.2',
    ])
    expect(unsupported(upstream('u', 'keepalive: { connections: 1 }'), old)).toHaveLength(1)
  })
  test('https without the module', () => {
    const yaml = [
      upstream('u', ''),
      site('s', 'hosts: [a.example], routes: { r: { path: /, proxy: { upstream: u, scheme: https } } }'),
    ].join('---')
    expect(unsupported(yaml, { capabilities: { ...DEBIAN_12, modules: [] } })).toEqual([
      'unsupported: scheme: https of a proxy needs nginx with its module http_ssl; this host has 1.22.1',
    ])
    expect(unsupported(yaml, {})).toEqual([])
  })
  test.each([
    '/',
    '/var/lib',
    '/var//lib/nxmesh/nginx',
    '/var/lib/nxmesh/nginx/objects',
    '/var/lib/nxmesh//nginx/current/',
  ])('static files in %s, where the keys of sites are, whatever the roots of the host are', (root) => {
    const yaml = site('s', `hosts: [a.example], routes: { r: { path: /, static: { root: ${root} } } }`)
    for (const staticRoots of [['/'], ['/var'], undefined])
      expect(unsupported(yaml, { host: { ...LAYOUT, ...(staticRoots && { staticRoots }) } })).toEqual([
        `unsupported: the path ${root} is outside what this host may serve`,
      ])
    const beside = yaml.replace(`root: ${root} `, 'root: /var/lib/nxmesh/nginx-files ')
    expect(unsupported(beside, { host: { ...LAYOUT, staticRoots: ['/var'] } })).toEqual([])
  })
  test('static files outside the roots of the host', () => {
    const yaml = site('s', 'hosts: [a.example], routes: { r: { path: /, static: { root: /srv/wwwx } } }')
    expect(unsupported(yaml, { host: { ...LAYOUT, staticRoots: ['/srv/www/'] } })).toEqual([
      'unsupported: the path /srv/wwwx is outside what this host may serve',
    ])
    expect(unsupported(yaml, { host: { ...LAYOUT, staticRoots: ['/srv'] } })).toEqual([])
    expect(unsupported(yaml, { host: { ...LAYOUT, staticRoots: [] } })).toHaveLength(1)
  })
  test('a text longer than nginx reads', () => {
    const yaml = site(
      's',
      `hosts: [a.example], routes: { r: { path: /, return: { status: 200, body: '${'$'.repeat(300)}' } } }`,
    )
    expect(unsupported(yaml, {})[0]).toMatch(/^unsupported: nginx cannot take a text of \d+ bytes/)
  })
})

describe('generations', () => {
  test('the digest covers main and objects, and stands in the verify server', () => {
    const { generation, units } = renderYaml(site('a', 'hosts: [a.example]'))
    expect(generation.main).toContain(`return 200 "${generation.digest} $pid\\n";`)
    expect(generation.digest).toBe(sha256(generation.main.replace(generation.digest, '0'.repeat(64))))
    for (const unit of units) {
      expect(generation.objects.get(unit.digest)).toBe(unit.text)
      expect(generation.main).toContain(`include ${LAYOUT.directory}/objects/${unit.digest}.conf;`)
      expect(sha256(unit.text)).toBe(unit.digest)
    }
    expect(renderYaml(site('a', 'hosts: [b.example]')).generation.digest).not.toBe(generation.digest)
  })

  test('every listener has an explicit default server', () => {
    const yaml = [
      site('a', "hosts: ['*'], listeners: { l: { port: 80 } }"),
      site('b', 'hosts: [b.example], listeners: { a: { port: 80 }, b: { port: 81 } }'),
    ]
    const { generation, units } = renderYaml(yaml.join('---'))
    const all = [generation.main, ...units.map((unit) => unit.text)].join('')
    expect(all.match(/listen \S+ default_server;/g)?.toSorted()).toEqual([
      'listen *:80 default_server;',
      'listen *:81 default_server;',
    ])
  })

  test('an endpoint change touches the upstream alone', () => {
    const at = (port: number) =>
      renderYaml(
        [site('s', `hosts: [a.example], ${proxyTo('u')}`), upstream('u', `endpoints: { '10.0.0.1:${port}': {} }`)].join(
          '---',
        ),
      ).units
    expect(at(1)[0]).toEqual(at(2)[0])
    expect(at(1)[1]?.digest).not.toBe(at(2)[1]?.digest)
  })

  test('workers have the same number of connections however many listeners there are', () => {
    const main = (count: number) => {
      const listeners = Array.from({ length: count }, (_, index) => `l${index}: { port: ${index + 1} }`)
      return renderYaml(site('a', `hosts: [a.example], listeners: { ${listeners.join()} }`)).generation.main
    }
    expect(main(1)).toContain('worker_connections 4099;')
    expect(main(16)).toContain('worker_connections 4114;')
    expect(main(16)).toContain('worker_rlimit_nofile 8228;')
  })

  test('zone settings reach the text', () => {
    const yaml = site(
      'settings',
      'workerShutdownTimeout: 7m, defaults: { maxBodySize: 3m, timeouts: { read: 9s } }',
    ).replace('kind: Site', 'kind: ZoneSettings')
    const { main } = renderYaml(yaml).generation
    expect(main).toContain('worker_shutdown_timeout 7m;')
    expect(main).toContain('client_max_body_size 3m;')
    expect(main).toContain('proxy_read_timeout 9s;')
  })

  const statesArbitrary = fc.array(resourceArbitrary, { maxLength: 8 }).map((documents) => {
    const resources = documents.map(parseDocument)
    return [
      ...new Map(
        resources.map((resource, index) => [
          pathOf(resource),
          stateOf(pathOf(resource), fieldsOf(resource), index % 3),
        ]),
      ).values(),
    ]
  })

  test('property: a function of the slice, whatever the order and whatever was rendered before', () => {
    const shuffled = statesArbitrary.chain((list) =>
      fc.tuple(fc.constant(list), fc.shuffledSubarray(list, { minLength: list.length })),
    )
    fc.assert(
      fc.property(shuffled, ([list, other]) => {
        const one = renderStates(list)
        const two = renderStates(other)
        expect(two.generation.digest).toBe(one.generation.digest)
        expect(two.units).toEqual(one.units)
        expect(two.problems).toEqual(one.problems)
      }),
      { numRuns: 150 },
    )
  })

  test('property: after a change of one site of several all is what it is without the memory of before', () => {
    const facets = {
      host: fc.constantFrom('a', 'b', 'c'),
      listener: fc.constantFrom('{ port: 80 }', '{ port: 80, address: 10.0.0.1 }', '{ port: 81 }'),
      policies: fc.constantFrom('', ' policies: [inner],', ' policies: [outer],', ' policies: [absent],'),
      route: fc.constantFrom(
        'return: { status: 204 }',
        'return: { status: 205 }',
        'proxy: { upstream: u }',
        'proxy: { upstream: absent }',
        'proxy: { split: { a: { upstream: u, weight: 1 }, b: { upstream: u, weight: 1 } } }',
        'proxy: { split: { a: { upstream: u, weight: 1 }, b: { upstream: u, weight: 9 } } }',
      ),
      when: fc.constantFrom('', ' when: { methods: [GET] },'),
      maintenance: fc.constantFrom('', ' maintenance: {},'),
      at: fc.integer({ min: 1, max: 3 }),
    }
    type Facets = { [K in keyof typeof facets]: (typeof facets)[K] extends fc.Arbitrary<infer V> ? V : never }
    const siteOf = (name: string, { host, listener, policies, route, when, maintenance, at }: Facets) => {
      const spec = `hosts: [${host}.example],${policies}${maintenance} listeners: { l: ${listener} }, routes: { r: { path: /,${when} ${route} } }`
      const [{ path, fields }] = statesOf(site(name, spec)) as [ResourceState]
      return stateOf(path, fields, at)
    }
    const others = statesOf(
      [
        policy('inner', 'access: { allow: [10.0.0.0/8] }'),
        policy('outer', 'cors: { origins: ["*"] }'),
        upstream('u', "endpoints: { '10.0.0.1:80': {} }"),
      ].join('---'),
    )
    const names = ['s', 't', 'v']
    const one = fc.oneof(
      ...Object.entries(facets).map(([name, facet]) => fc.record({ [name]: facet as fc.Arbitrary<unknown> })),
    )
    const change = fc.tuple(
      fc.constantFrom(...names),
      fc.oneof(one, fc.record({ route: facets.route })),
    ) as fc.Arbitrary<[string, Partial<Facets>]>
    const told = { changes: 0, own: 0 }
    fc.assert(
      fc.property(
        fc.boolean(),
        fc.tuple(...names.map(() => fc.record(facets))),
        fc.array(change, { maxLength: 8 }),
        (hasLua, first, changes) => {
          const on = { capabilities: hasLua ? withModules('http_lua', 'ndk_http') : DEBIAN_12 }
          const current = new Map(names.map((name, index) => [name, first[index] as Facets]))
          const states = new Map(names.map((name) => [name, siteOf(name, current.get(name) as Facets)]))
          const all = () => [...others, ...states.values()].toSorted((a, b) => (a.path < b.path ? -1 : 1))
          let before = renderStates(all(), on)
          for (const [name, changed] of changes) {
            current.set(name, { ...(current.get(name) as Facets), ...changed })
            states.set(name, siteOf(name, current.get(name) as Facets))
            const { input: _, ...after } = renderStates(all(), on)
            told.changes += 1
            told.own += Number(after.problems === before.problems)
            renderStates([], on)
            const { input: __, ...fresh } = renderStates(all().toReversed(), on)
            expect(after).toEqual(fresh)
            before = renderStates(all(), on)
          }
        },
      ),
      { numRuns: 200 },
    )
    // Else there would have been nothing to remember.
    expect(told.own, `of ${told.changes} changes`).toBeGreaterThan(told.changes / 10)
  })
})

test('what was observed of an upstream changes its own text alone, and what is over leaves no trace', () => {
  const yaml = [
    site('s', `hosts: [a.example], ${proxyTo('u')}`),
    site('t', 'hosts: [b.example], routes: { r: { path: /, proxy: { upstream: v, scheme: https } } }'),
    upstream('u', "endpoints: { '10.0.0.1:80': {}, '10.0.0.2:80': { backup: true } }"),
    upstream('v', "endpoints: { '10.0.0.1:80': {}, 'app.internal:80': {} }"),
  ].join('---')
  const addresses = new Map([['app.internal', ['10.0.0.3', '2001:db8::1']]])
  const unitsOf = (ejected: string[], openCircuits: string[] = []) =>
    renderYaml(yaml, { addresses, ejected: new Set(ejected), openCircuits: new Set(openCircuits) }).units
  const well = unitsOf([])
  const changed = (units: typeof well) => units.filter((unit, index) => unit.digest !== well[index]?.digest)
  const [one, ...others] = changed(unitsOf(['default/*/upstream/v [2001:db8::1]:80']))
  expect([one?.path, others]).toEqual(['default/*/upstream/v', []])
  expect(one?.text).toContain('server [2001:db8::1]:80 down;\n')
  // In zone `*` beside another of the same name, and of an endpoint that is gone.
  expect(changed(unitsOf(['default/*/upstream/vv 10.0.0.1:80', 'default/*/upstream/v 10.0.0.9:80']))).toEqual([])
  expect(changed(unitsOf([], ['default/*/upstream/u'])).map(({ path }) => path)).toEqual(['default/*/upstream/u'])
  // Over TLS the site asks for the answer in the clear.
  expect(changed(unitsOf([], ['default/*/upstream/v'])).map(({ path }) => path)).toEqual([
    'default/*/site/t',
    'default/*/upstream/v',
  ])
  expect(unitsOf([])).toEqual(well)
})

test('what did not change is not rendered again', () => {
  const states = Array.from({ length: 20 }, (_, index) =>
    statesOf(
      [
        site(`s${index}`, `hosts: [s${index}.example], ${proxyTo(`u${index}`)}`),
        upstream(`u${index}`, "endpoints: { '10.0.0.1:80': {} }"),
      ].join('---'),
    ),
  ).flat()
  const unitsOf = (list: typeof states) =>
    render({
      slice: sliceOf(list, EVERYWHERE),
      capabilities: DEBIAN_12,
      host: LAYOUT,
      addresses: new Map(),
      ...ALL_WELL,
      secrets: new Map(),
    }).units
  const before = new Set(unitsOf(states))
  const after = unitsOf([...states.slice(1), ...statesOf(site('s0', 'hosts: [t0.example]'))])
  expect(after.filter((unit) => !before.has(unit)).map(({ path }) => path)).toEqual(['default/*/site/s0'])
})
