import { readdirSync, readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { parseAllDocuments } from 'yaml'
import { MeshError } from '../../src/errors.ts'
import { nearestName } from '../../src/core/nearest-name.ts'
import { judgeRegex, parseEndpoint, parseTemplate } from '../../src/core/resources/fields.ts'
import { kindOf, parseDocument } from '../../src/core/resources/index.ts'
import { judgeSnippet } from '../../src/core/resources/snippet.ts'
import { check } from '../../src/core/resources/validate.ts'
import { z } from 'zod'

function refusal(document: unknown, code = 'resource_invalid'): MeshError {
  try {
    parseDocument(document)
  } catch (error) {
    expect(error).toBeInstanceOf(MeshError)
    expect((error as MeshError).code).toBe(code)
    return error as MeshError
  }
  throw new Error('the document was accepted')
}

function site(spec: object, metadata: object = { name: 'a' }) {
  return { apiVersion: 'nxmesh/v1', kind: 'Site', metadata, spec: { hosts: ['a.example'], ...spec } }
}
function route(fields: object) {
  return site({ routes: { root: { path: '/', ...fields } } })
}
function upstream(spec: object) {
  return { apiVersion: 'nxmesh/v1', kind: 'Upstream', metadata: { name: 'a' }, spec }
}
const returns = { return: { status: 200 } }

test('the smallest useful site is accepted, in workspace default and zone *', () => {
  const resource = parseDocument({
    apiVersion: 'nxmesh/v1',
    kind: 'Site',
    metadata: { name: 'hello' },
    spec: { hosts: ['hello.example.com'], routes: { root: { path: '/', return: { status: 200, body: 'hi' } } } },
  })
  expect(resource.metadata).toEqual({ name: 'hello', workspace: 'default', zone: '*' })
  expect(resource.spec['routes']).toEqual({
    root: { path: '/', action: 'return', return: { status: 200, body: 'hi' } },
  })
})

test('every example is accepted', () => {
  const directory = new URL('../../examples/', import.meta.url)
  for (const file of readdirSync(directory).filter((name) => name.endsWith('.yaml'))) {
    for (const document of parseAllDocuments(readFileSync(new URL(file, directory), 'utf8'))) {
      expect(() => parseDocument(document.toJS()), file).not.toThrow()
    }
  }
})

// Each row: what is wrong, the document, the field that the error names, words of its message or hint.
test.each<[string, unknown, string, RegExp]>([
  ['not a map', 7, 'document', /begin with apiVersion/],
  ['another apiVersion', { ...site({}), apiVersion: 'v1' }, 'apiVersion', /nxmesh\/v1/],
  ['a mistyped kind', { ...site({}), kind: 'Sites' }, 'kind', /did you mean Site/],
  ['no kind', { ...site({}), kind: undefined }, 'kind', /is required/],
  ['an unknown top field', { ...site({}), specs: {} }, 'specs', /did you mean spec/],
  ['no name', site({}, {}), 'metadata.name', /is required/],
  ['a name in upper case', site({}, { name: 'A' }), 'metadata.name', /lower-case/],
  ['a bad zone', site({}, { name: 'a', zone: 'EU' }), 'metadata.zone', /eu\.west/],
  ['a bad workspace', site({}, { name: 'a', workspace: '*' }), 'metadata.workspace', /not a name/],
  ['no hosts', site({ hosts: [] }), 'spec.hosts', /is empty/],
  ['hosts that are a text', site({ hosts: 'a.example' }), 'spec.hosts', /must be a list/],
  ['a host in upper case', site({ hosts: ['A.example'] }), 'spec.hosts[0]', /a\.example/],
  ['an international host', site({ hosts: ['bücher.example'] }), 'spec.hosts[0]', /xn--bcher-kva\.example/],
  ['a host with a port', site({ hosts: ['a.example:80'] }), 'spec.hosts[0]', /spec\.listeners/],
  ['a host with a final dot', site({ hosts: ['a.example.'] }), 'spec.hosts[0]', /final dot/],
  ['a URL as host', site({ hosts: ['http://a.example'] }), 'spec.hosts[0]', /without scheme/],
  ['a regex as host', site({ hosts: ['~^a'] }), 'spec.hosts[0]', /not a host name/],
  ['an inner wildcard', site({ hosts: ['a.*.example'] }), 'spec.hosts[0]', /not a host name/],
  ['a host that is a number', site({ hosts: [1] }), 'spec.hosts[0]', /must be a text/],
  ['a host that is a map', site({ hosts: [{}] }), 'spec.hosts[0]', /single value/],
  ['a port out of range', site({ listeners: { x: { port: 70000 } } }), 'spec.listeners.x.port', /above 65535/],
  [
    'an address with brackets',
    site({ listeners: { x: { port: 1, address: '[::1]' } } }),
    'spec.listeners.x.address',
    /without brackets/,
  ],
  ['an unknown field deep down', route({ ...returns, pathh: '/' }), 'spec.routes.root.pathh', /did you mean path/],
  ['a mistyped action', route({ proxyy: { upstream: 'a' } }), 'spec.routes.root.proxyy', /did you mean proxy/],
  ['no action', route({}), 'spec.routes.root.action', /one of proxy, static, redirect, return/],
  ['two actions', route({ ...returns, proxy: { upstream: 'a' } }), 'spec.routes.root.action', /one of proxy/],
  ['a proxy without upstream', route({ proxy: { websocket: true } }), 'spec.routes.root.proxy.upstream', /is required/],
  ['an action without its branch', route({ action: 'static' }), 'spec.routes.root.static', /is required/],
  ['an empty value', route({ return: null }), 'spec.routes.root.return', /is empty/],
  ['a fraction', route({ return: { status: 200.5 } }), 'spec.routes.root.return.status', /whole number/],
  ['a 3xx return', route({ return: { status: 301 } }), 'spec.routes.root.return.status', /use redirect/],
  [
    'a status as text',
    route({ return: { status: '200' } }),
    'spec.routes.root.return.status',
    /must be a whole number/,
  ],
  ['a relative path', route({ ...returns, path: 'x' }), 'spec.routes.root.path', /begin with \//],
  ['an escaped path', route({ ...returns, path: '/a%20b' }), 'spec.routes.root.path', /decoded/],
  [
    'a condition that says nothing',
    route({ ...returns, when: { headers: { A: {} } } }),
    'spec.routes.root.when.headers.A',
    /present: true/,
  ],
  [
    'an empty exact condition',
    route({ ...returns, when: { cookies: { a: { exact: '' } } } }),
    'spec.routes.root.when.cookies.a.exact',
    /present: false/,
  ],
  [
    'a condition with a slow regex',
    route({ ...returns, when: { query: { a: { regex: '(a+)+' } } } }),
    'spec.routes.root.when.query.a.regex',
    /exponential/,
  ],
  [
    'a condition on a query that nginx cannot look up',
    route({ ...returns, when: { query: { 'a-b': { present: true } } } }),
    'spec.routes.root.when.query.a-b',
    /letters, digits and _/,
  ],
  [
    'a condition on a method in lower case',
    route({ ...returns, when: { methods: ['get'] } }),
    'spec.routes.root.when.methods[0]',
    /GET or POST/,
  ],
  [
    'over 8 conditions of a sort',
    route({
      ...returns,
      when: { query: Object.fromEntries('abcdefghi'.split('').map((name) => [name, { exact: 'x' }])) },
    }),
    'spec.routes.root.when.query',
    /more than 8/,
  ],
  [
    'two routes with the same path and conditions, whatever the case of their names',
    site({
      routes: {
        a: { path: '/', ...returns, when: { headers: { A: { exact: 'x' } } } },
        b: { path: '/', ...returns, when: { headers: { a: { exact: 'x' } } } },
      },
    }),
    'spec.routes.b.path',
    /same as of route a/,
  ],
  [
    'two routes with the same path and no conditions',
    site({ routes: { a: { path: '/', ...returns }, b: { path: '/', ...returns, when: {} } } }),
    'spec.routes.b.path',
    /give one of them conditions/,
  ],
  [
    'routes of one path with different body sizes',
    site({
      routes: {
        a: { path: '/', ...returns, maxBodySize: '1m' },
        b: { path: '/', ...returns, when: { methods: ['GET'] } },
      },
    }),
    'spec.routes.a.maxBodySize',
    /before the conditions/,
  ],
  [
    'over 64 different conditions on one path',
    site({
      routes: Object.fromEntries(
        Array.from({ length: 65 }, (_, index) => [
          `r${index}`,
          { path: '/', ...returns, when: { query: { v: { exact: `${index}` } } } },
        ]),
      ),
    }),
    'spec.routes.r0.when',
    /over 64/,
  ],
  ...[
    ['10.0.0.1/8', '10.0.0.0/8'],
    ['10.0.0.1/32', '10.0.0.1'],
    ['192.168.255.7/30', '192.168.255.4/30'],
    ['2001:DB8::1', '2001:db8::1'],
    ['2001:db8:0:0:7fff::/65', '2001:db8::/65'],
    ['2001:db8:ffff::/33', '2001:db8:8000::/33'],
    ['::1/0', '::/0'],
  ].map(([written = '', usual = '']): [string, unknown, string, RegExp] => [
    `the network ${written}, which is ${usual},`,
    site({ maintenance: { allow: [written] } }),
    'spec.maintenance.allow[0]',
    new RegExp(`write it as ${usual}$`),
  ]),
  ...['10.0.0.0/33', '10.0.0/8', '::/129', 'fe80::1%1', '10.0.0.0/08', '10.0.0.0/8/8', 'a.example', 'default'].map(
    (written): [string, unknown, string, RegExp] => [
      `the network ${written}`,
      site({ maintenance: { allow: [written] } }),
      'spec.maintenance.allow[0]',
      /10\.0\.0\.0\/8/,
    ],
  ),
  [
    'a type to compress with parameters',
    site({ compression: { types: ['text/css; charset=utf-8'] } }),
    'spec.compression.types[0]',
    /without parameters/,
  ],
  ['a path with a query', route({ ...returns, path: '/a?b' }), 'spec.routes.root.path', /query/],
  ['an unnormalised path', route({ ...returns, path: '/a/../b' }), 'spec.routes.root.path', /normalised/],
  ['case of a prefix', route({ ...returns, caseSensitive: false }), 'spec.routes.root.caseSensitive', /match: regex/],
  [
    'stripPrefix without slash',
    route({ path: '/a', proxy: { upstream: 'a', stripPrefix: true } }),
    'spec.routes.root.proxy.stripPrefix',
    /ends in \//,
  ],
  ['a slow regex', route({ ...returns, match: 'regex', path: '^(a+)+$' }), 'spec.routes.root.path', /exponential/],
  [
    'a static root with ..',
    route({ static: { root: '/srv/../etc' } }),
    'spec.routes.root.static.root',
    /without \. and \.\./,
  ],
  [
    'an index above root',
    route({ static: { root: '/srv', index: '../x' } }),
    'spec.routes.root.static.index',
    /below root/,
  ],
  [
    'a redirect to a script',
    route({ redirect: { to: 'javascript:alert(1)' } }),
    'spec.routes.root.redirect.to',
    /not a URL/,
  ],
  ['a redirect to no host', route({ redirect: { to: 'https:///x' } }), 'spec.routes.root.redirect.to', /not a URL/],
  ['a redirect to /\\', route({ redirect: { to: '/\\evil.example' } }), 'spec.routes.root.redirect.to', /not a URL/],
  ['a redirect to /$', route({ redirect: { to: '/$request_uri' } }), 'spec.routes.root.redirect.to', /not a URL/],
  ['a redirect to //', route({ redirect: { to: '//evil.example' } }), 'spec.routes.root.redirect.to', /not a URL/],
  [
    'a relative target with keepPath',
    route({ redirect: { to: '/', keepPath: true } }),
    'spec.routes.root.redirect.to',
    /keepPath/,
  ],
  [
    'a group that chooses the host',
    route({ redirect: { regex: '^/(.*)', to: 'https://a.example$1/' } }),
    'spec.routes.root.redirect.to',
    /choose the host/,
  ],
  ['a group at /', route({ redirect: { regex: '^/(.*)', to: '/$1' } }), 'spec.routes.root.redirect.to', /not a URL/],
  ['a group of nothing', route({ redirect: { to: '/a/$1' } }), 'spec.routes.root.redirect.to', /there is no regex/],
  [
    'a group too many',
    route({ redirect: { regex: '^/(?:a)(b)', to: '/a/$2' } }),
    'spec.routes.root.redirect.to',
    /names the group \$2, and regex has 1/,
  ],
  [
    'a group where there are none',
    site({ responseHeaders: { set: { 'X-A': '$1' } } }),
    'spec.responseHeaders.set.X-A',
    /\$1, which is not a variable/,
  ],
  [
    'a rewrite with a variable',
    route({ path: '/', proxy: { upstream: 'a', rewrite: { regex: 'a', replacement: '/$http_x' } } }),
    'spec.routes.root.proxy.rewrite.replacement',
    /not a path/,
  ],
  [
    'a rewrite with a variable further on',
    route({ path: '/', proxy: { upstream: 'a', rewrite: { regex: 'a', replacement: '/x$http_x' } } }),
    'spec.routes.root.proxy.rewrite.replacement',
    /groups of regex alone/,
  ],
  [
    'two rewrites',
    route({ path: '/a/', proxy: { upstream: 'a', stripPrefix: true, replacePrefix: '/b/' } }),
    'spec.routes.root.proxy.replacePrefix',
    /does not go with stripPrefix/,
  ],
  [
    'a temporary file smaller than a buffer',
    route({ proxy: { upstream: 'a', maxTempFileSize: '8k', buffers: { size: '16k' } } }),
    'spec.routes.root.proxy.maxTempFileSize',
    /less than a buffer of 16k/,
  ],
  [
    'an error page of no error',
    site({ errorPages: { pages: { '302': { body: 'x' } } } }),
    'spec.errorPages.pages.302',
    /not a status/,
  ],
  [
    'an error page that is two things',
    site({ errorPages: { pages: { '404': { body: 'x', file: '/srv/x' } } } }),
    'spec.errorPages.pages.404',
    /more than one of/,
  ],
  [
    'two pages for one error',
    site({ errorPages: { pages: { '404': { body: 'x' }, '403,404': { body: 'y' } } } }),
    'spec.errorPages.pages["403,404"]',
    /names 404/,
  ],
  [
    'a page with ..',
    site({ errorPages: { pages: { '404': { file: '/srv/../x' } } } }),
    'spec.errorPages.pages.404.file',
    /without \. and \.\./,
  ],
  [
    'a decoded variable',
    route({ redirect: { to: 'https://a.example$uri' } }),
    'spec.routes.root.redirect.to',
    /\$uri, which is not a variable/,
  ],
  [
    'a mistyped variable',
    site({ responseHeaders: { set: { 'X-A': '$hots' } } }),
    'spec.responseHeaders.set.X-A',
    /did you mean \$host/,
  ],
  ['a lone dollar', site({ responseHeaders: { set: { 'X-A': 'costs 5$' } } }), 'spec.responseHeaders.set.X-A', /\$\$/],
  [
    'a Connection header',
    site({ responseHeaders: { set: { Connection: 'close' } } }),
    'spec.responseHeaders.set.Connection',
    /nginx itself/,
  ],
  ['a Host header', site({ requestHeaders: { set: { host: 'x' } } }), 'spec.requestHeaders.set.host', /hostHeader/],
  [
    'a header twice',
    site({ requestHeaders: { set: { 'X-A': '1', 'x-a': '2' } } }),
    'spec.requestHeaders.set.x-a',
    /twice/,
  ],
  [
    'a bad header name',
    site({ requestHeaders: { set: { 'X A': '1' } } }),
    'spec.requestHeaders.set["X A"]',
    /not a header name/,
  ],
  [
    'a header over two lines',
    site({ requestHeaders: { set: { 'X-A': 'a\r\nb' } } }),
    'spec.requestHeaders.set.X-A',
    /U\+000D/,
  ],
  ['a bad duration', site({ timeouts: { read: '30' } }), 'spec.timeouts.read', /30s/],
  ['a bad size', site({ maxBodySize: '10mb' }), 'spec.maxBodySize', /10m/],
  [
    'one path twice',
    site({ routes: { a: { path: '/', ...returns }, b: { path: '/', ...returns } } }),
    'spec.routes.b.path',
    /route a/,
  ],
  ['an open snippet', site({ privileged: { serverSnippet: 'if ($x) {' } }), 'spec.privileged.serverSnippet', /closing/],
  [
    'a snippet for no route',
    site({ privileged: { routeSnippets: { x: 'allow all;' } } }),
    'spec.privileged.routeSnippets.x',
    /no route/,
  ],
  [
    'the prototype as a route',
    site({ routes: JSON.parse('{"__proto__": {"path": "/"}}') }),
    'spec.routes.__proto__',
    /not a known field/,
  ],
  [
    'a key with a line feed',
    site({ routes: { 'a\nb': { path: '/', ...returns } } }),
    'spec.routes["a\\nb"]',
    /control characters/,
  ],
  [
    'an endless key',
    site({ routes: { ['x'.repeat(600)]: { path: '/', ...returns } } }),
    `spec.routes.${'x'.repeat(600)}`,
    /too long/,
  ],
  [
    'an endpoint without port',
    upstream({ endpoints: { '10.0.0.1': {} } }),
    'spec.endpoints["10.0.0.1"]',
    /10\.0\.0\.1:8080/,
  ],
  [
    'a mistyped weight',
    upstream({ endpoints: { '10.0.0.1:80': { weigth: 1 } } }),
    'spec.endpoints["10.0.0.1:80"].weigth',
    /did you mean weight/,
  ],
  [
    'failTimeout in ms',
    upstream({ endpoints: { 'a:80': { failTimeout: '500ms' } } }),
    'spec.endpoints["a:80"].failTimeout',
    /whole seconds/,
  ],
  [
    'backup with ip_hash',
    upstream({ method: 'ip_hash', endpoints: { 'a:80': { backup: true } } }),
    'spec.endpoints["a:80"].backup',
    /ip_hash/,
  ],
  [
    'more endpoints than nginx is to look through',
    upstream({ endpoints: Object.fromEntries(Array.from({ length: 257 }, (_, index) => [`a:${index + 1}`, {}])) }),
    'spec.endpoints',
    /has more than 256 entries/,
  ],
  [
    'a sticky cookie without hashing',
    upstream({ sticky: { cookie: 'srv' }, endpoints: { 'a:80': {} } }),
    'spec.sticky',
    /needs method: hash/,
  ],
  [
    'a cookie that browsers refuse',
    upstream({ method: 'hash', sticky: { cookie: 'srv', sameSite: 'none' }, endpoints: { 'a:80': {} } }),
    'spec.sticky.sameSite',
    /secure: true/,
  ],
  [
    'weights that consistent hashing multiplies',
    upstream({ method: 'hash', consistent: true, endpoints: { 'a:80': { weight: 1000 }, 'b:80': { weight: 25 } } }),
    'spec.endpoints',
    /add up to 1025; with consistent at most 1024/,
  ],
  ['an unknown method', upstream({ method: 'fair' }), 'spec.method', /round_robin, least_conn/],
  [
    'zone settings of another name',
    { apiVersion: 'nxmesh/v1', kind: 'ZoneSettings', metadata: { name: 'x' }, spec: {} },
    'metadata.name',
    /one of settings/,
  ],
])('%s is refused with field and way out', (_what, document, field, words) => {
  const error = refusal(document)
  expect(error.details.field).toBe(field)
  expect(`${error.message} ${error.details.hint ?? ''}`).toMatch(words)
})

test('a document is refused that is nested deeper than any kind, before anything walks it', () => {
  const nest = (levels: number): unknown => JSON.parse(`${'{"a":'.repeat(levels)}1${'}'.repeat(levels)}`)
  for (const levels of [40, 150_000]) {
    for (const document of [
      { ...site({}), spec: nest(levels) },
      nest(levels),
      { kind: 'Secret', metadata: nest(levels) },
    ])
      expect(refusal(document, 'input_invalid').details.field).toBe('document')
  }
  expect(refusal({ ...site({}), spec: nest(20) }).details.field).toBe('spec.a')
})

test('a cyclic document is refused and does not run for ever', () => {
  const spec: Record<string, unknown> = { hosts: ['a.example'] }
  spec['routes'] = { a: spec }
  expect(refusal(site(spec), 'input_invalid').details.field).toBe('document')
})

test('a header may be called like a property of every object', () => {
  const headers = { set: { constructor: 'x', toString: 'y' } }
  expect(parseDocument(site({ responseHeaders: headers })).spec['responseHeaders']).toEqual(headers)
})

test('kinds are found by each of their names', () => {
  for (const name of ['Site', 'site', 'sites', 'SITES']) expect(kindOf(name)?.kind).toBe('Site')
  expect(kindOf('pod')).toBeUndefined()
})

test('branches of other actions are kept and do not matter', () => {
  const document = route({ action: 'return', ...returns, proxy: { websocket: true } })
  expect(parseDocument(document).spec['routes']).toEqual({
    root: { path: '/', action: 'return', ...returns, proxy: { websocket: true } },
  })
})

test.each([
  ['listeners', 16, (index: number) => ({ port: index + 1 })],
  ['routes', 500, (index: number) => ({ path: `/${index}`, ...returns })],
])('a site has at most so many %s: %i', (field, max, item) => {
  const parse = (count: number) => {
    const items = Object.fromEntries(Array.from({ length: count }, (_, index) => [`i${index}`, item(index)]))
    const metadata = { name: 'a', zone: 'eu' }
    const spec = { hosts: ['a.example'], [field]: items }
    return parseDocument({ apiVersion: 'nxmesh/v1', kind: 'Site', metadata, spec })
  }
  expect(() => parse(max)).not.toThrow()
  expect(() => parse(max + 1)).toThrow(`has more than ${max} entries`)
})

describe('regular expressions', () => {
  test.each([
    '^/a/\\d+$',
    '\\.(png|jpe?g)$',
    '^/(?:a|b)(?=/)',
    '^/[a-z0-9_-]{1,20}$',
    '^/(ab+c)?$',
    '^/x(a|b)*$',
    '^/[\\w.-]+/$',
    '^/(?:[a-z]+|\\d+)?$',
    '^/a{1000}$',
  ])('%s may stand', (pattern) => {
    expect(judgeRegex(pattern)).toBeUndefined()
  })
  test.each([
    '(',
    '[a',
    'a{2,1}',
    '(?<host>a)',
    '(?<!a)b',
    '(?i)a',
    '(a)\\1',
    '(a*)*',
    '((a+)b)+',
    '(a{2,})+',
    '(a+){20}',
    '(?:a?)+',
    '(?:a|ab)*',
    '((?:a|A)b)+',
    '(?:a|\\w)*',
    '(?:a|)*',
    'a{1001}',
    'a{1,1001}',
    '\\u0041',
    '\\x41',
    'é',
    'a\nb',
    '',
    '(?P<x>a)',
    '(?#x)',
  ])('%j may not', (pattern) => {
    expect(judgeRegex(pattern)).toHaveProperty('message')
  })
})

describe('snippets', () => {
  test.each([
    '',
    'allow all;',
    '# only this',
    'if ($x) { return 403; }',
    "add_header X '}';",
    'a "\\"}" b;\n# }\n',
    'set $a ${b}c;',
    'set $a "\u00a0";',
  ])('%j may stand', (snippet) => {
    expect(judgeSnippet(snippet)).toBeUndefined()
  })
  test.each([
    '}',
    '{',
    '{}',
    ';',
    'a;;',
    'allow all',
    'a; } server { ',
    'a "b;',
    "a 'b;",
    'a \\',
    'a }',
    'if (x) { a; } }',
    '# {\n}',
    // To nginx a space is one of four characters, so that this is a word and no comment.
    'add_header X \u00a0# ; } location /evil { return 403\n;',
    'add_header X \f# ; } location /evil { return 403\n;',
    '\u3000',
    // A brace after a dollar sign begins no block, but what follows it is read as ever.
    'default_type ${a; } location ${b { };',
    // nginx's buffer holds no more.
    `a ${'x'.repeat(4096)};`,
    `# ${'x'.repeat(4096)}`,
  ])('%j may not', (snippet) => {
    expect(judgeSnippet(snippet)).toHaveProperty('message')
  })
})

test('endpoints are taken apart', () => {
  expect(parseEndpoint('10.0.0.1:80')).toEqual({ host: '10.0.0.1', port: 80, family: 4 })
  expect(parseEndpoint('[2001:db8::1]:80')).toEqual({ host: '2001:db8::1', port: 80, family: 6 })
  expect(parseEndpoint('app.internal:80')).toEqual({ host: 'app.internal', port: 80, family: 0 })
  for (const bad of [
    '10.0.0.1',
    ':80',
    'a:0',
    'a:65536',
    '[10.0.0.1]:80',
    '2001:db8::1:80',
    '[fe80::1%eth0]:80',
    '10.0.0.256:80',
    'a b:80',
    'unix:/x:1',
    'a:080',
  ]) {
    expect(parseEndpoint(bad), bad).toBeUndefined()
  }
})

test('templates are split', () => {
  expect(parseTemplate('a $host${request_id}b $$1 $http_x_y')).toEqual([
    { text: 'a ' },
    { variable: 'host' },
    { variable: 'request_id' },
    { text: 'b ' },
    { text: '$' },
    { text: '1 ' },
    { variable: 'http_x_y' },
  ])
  // Names that clients give have either case.
  expect(parseTemplate('$cookie_JSESSIONID.$arg_pageId,${cookie_a}B$http_xY')).toEqual([
    { variable: 'cookie_JSESSIONID' },
    { text: '.' },
    { variable: 'arg_pageId' },
    { text: ',' },
    { variable: 'cookie_a' },
    { text: 'B' },
    { variable: 'http_x' },
    { text: 'Y' },
  ])
  for (const bad of [
    '$',
    '${',
    '${host',
    '$1',
    '$uri',
    '$HOST',
    '$ host',
    '${}',
    '$nxmesh_site',
    '$arg_',
    '${cookie_}',
  ]) {
    expect(parseTemplate(bad), bad).toHaveProperty('message')
  }
})

test('the nearest name is found, and none for a far one', () => {
  expect(nearestName('hsots', ['hosts', 'routes'])).toBe('hosts')
  expect(nearestName('maxbodysize', ['maxBodySize'])).toBe('maxBodySize')
  expect(nearestName('colour', ['hosts', 'routes'])).toBeUndefined()
})

test('a schema whose own rule throws makes a fault of that value, and stops nothing', () => {
  const schema = z.object({ address: z.string() }).superRefine(({ address }) => void new URL(address))
  expect(check(schema, { address: ':' }, ['spec'])).toMatchObject({
    ok: false,
    fault: { field: 'spec', message: 'cannot be checked: Invalid URL' },
  })
})
