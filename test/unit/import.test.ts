import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parse as parseYaml } from 'yaml'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { importConfig } from '../../src/nginx/importing/import.ts'
import { readTree } from '../../src/nginx/importing/includes.ts'
import { makeCertificate } from '../support/certificates.ts'
import { meshctl } from '../support/cli.ts'

function imported(text: string, files: Readonly<Record<string, string>> = {}) {
  const tree = readTree({ path: '/n/nginx.conf', text }, () => [])
  const host = { readFile: (path: string) => files[path], prefix: '/usr/share/nginx' }
  const { resources, findings, secrets } = importConfig(tree, { workspace: 'default', zone: 'eu' }, host)
  const specs = Object.fromEntries(resources.map(({ kind, metadata, spec }) => [`${kind} ${metadata.name}`, spec]))
  return { specs, kept: findings.kept, lost: findings.lost, secrets }
}

/** The one site of a configuration. */
function site(text: string, files: Readonly<Record<string, string>> = {}) {
  const { specs, ...findings } = imported(text, files)
  const [[, spec] = []] = Object.entries(specs).filter(([name]) => name.startsWith('Site '))
  return { spec, specs, ...findings }
}

/** A server with these directives, and nothing of http to tell. */
function server(directives: string): string {
  return `default_type application/octet-stream; server { listen 80; server_name a.example; ${directives} }`
}

describe('upstreams', () => {
  test.each([
    ['server 10.0.0.1:80;', { endpoints: { '10.0.0.1:80': {} } }],
    ['server app.internal;', { endpoints: { 'app.internal:80': {} } }],
    [
      'server [::1]:81 weight=3 max_fails=0 fail_timeout=5; server 10.0.0.2:80 backup; server 10.0.0.3:80 down;',
      {
        endpoints: {
          '[::1]:81': { weight: 3, maxFails: 0, failTimeout: '5s' },
          '10.0.0.2:80': { backup: true },
          '10.0.0.3:80': { down: true },
        },
      },
    ],
    ['least_conn; server 10.0.0.1:80;', { method: 'least_conn', endpoints: { '10.0.0.1:80': {} } }],
    [
      'hash $cookie_SID; server 10.0.0.1:80;',
      { method: 'hash', hashKey: '$cookie_SID', endpoints: { '10.0.0.1:80': {} } },
    ],
    [
      'hash $request_uri consistent; server 10.0.0.1:80; keepalive 4; keepalive_timeout 1d;',
      {
        method: 'hash',
        hashKey: '$request_uri',
        consistent: true,
        endpoints: { '10.0.0.1:80': {} },
        keepalive: { connections: 4, timeout: '24h' },
      },
    ],
  ])('%s', (text, spec) => {
    expect(imported(`upstream App_1 { ${text} }`)).toMatchObject({ specs: { 'Upstream app-1': spec }, lost: [] })
  })

  test('what a field cannot hold is left out, and the upstream stays', () => {
    const { specs, lost } = imported(
      'upstream a { hash $binary_remote_addr consistent; keepalive 5000; server 10.0.0.1:80 weight=5000 max_fails=2; least_conn; }',
    )
    expect(specs['Upstream a']).toEqual({ method: 'least_conn', endpoints: { '10.0.0.1:80': { maxFails: 2 } } })
    expect(lost.map(({ what }) => what)).toEqual([
      'hash $binary_remote_addr consistent',
      'keepalive 5000',
      'server 10.0.0.1:80 weight=5000 max_fails=2',
    ])
  })

  test('names a parameter that no field can say', () => {
    expect(imported('upstream a {\n server 10.0.0.1:80 slow_start=9s; sticky; }').lost).toEqual([
      expect.objectContaining({ place: '/n/nginx.conf:2', why: 'an endpoint has no field for slow_start=9s' }),
      expect.objectContaining({ what: 'sticky', why: 'an Upstream has no field for it' }),
    ])
  })

  test('one with a single socket is named by its socket where requests pass to it', () => {
    const { spec } = site(`upstream php { server unix:/run/php.sock; } ${server('location / { fastcgi_pass php; }')}`)
    expect(spec).toMatchObject({ privileged: { routeSnippets: { root: 'fastcgi_pass unix:/run/php.sock;\n' } } })
  })

  test('an address without an upstream becomes one, once', () => {
    const { specs } = site(
      server('location / { proxy_pass http://10.0.0.1:81; } location /b { proxy_pass http://10.0.0.1:81; }'),
    )
    expect(specs).toMatchObject({ 'Upstream 10-0-0-1-81': { endpoints: { '10.0.0.1:81': {} } } })
    expect(Object.keys(specs)).toHaveLength(2)
  })
})

test('program text is not served where what ran it is not carried', () => {
  const { spec, lost } = site(
    `upstream php { server unix:/a; server unix:/b; } ${server('location / { fastcgi_pass php; }')}`,
  )
  expect(spec).toMatchObject({ privileged: { routeSnippets: { root: 'return 502;\n' } } })
  expect(lost.map(({ what }) => what)).toEqual(['upstream php {}', 'fastcgi_pass php'])
})

describe('servers', () => {
  test.each([
    ['80', { 'port-80': { port: 80 } }],
    ['*:81 default_server', { 'port-81': { port: 81 } }],
    ['10.0.0.1', { '10-0-0-1-80': { port: 80, address: '10.0.0.1' } }],
    ['localhost:82', { '127-0-0-1-82': { port: 82, address: '127.0.0.1' } }],
    ['[::]:80 ipv6only=on', { 'ipv6-80': { port: 80, address: '::' } }],
  ])('listen %s', (listen, listeners) => {
    expect(site(`server { listen ${listen}; server_name a.example; }`).spec).toMatchObject({ listeners })
  })

  test('the first on a listener is its default, unless another says so', () => {
    const { specs } = imported(
      'server { listen 80; server_name a.example; } server { listen 80 default_server; server_name b.example; } server { listen 81; server_name c.example; }',
    )
    expect(Object.values(specs).map(({ hosts }) => hosts)).toEqual([
      ['a.example'],
      ['*', 'b.example'],
      ['*', 'c.example'],
    ])
  })

  test('names: in lower case, with and below a dot, and which cannot be', () => {
    const { spec, lost } = site('server { listen 80; server_name A.example .b.example ~^c; }')
    expect(spec?.['hosts']).toEqual(['*', '*.b.example', 'a.example', 'b.example'])
    expect(lost.map(({ why }) => why)).toContain('a Site cannot have the host name ~^c')
  })

  test('one with TLS alone is not carried, and said to be so', () => {
    const { specs, lost } = imported('server { listen 443 ssl; server_name a.example; }')
    expect(specs).toEqual({})
    expect(lost.map(({ why }) => why)).toEqual([
      'a listener with TLS needs a certificate',
      'it listens on sockets alone, or with TLS and no certificate that is carried',
    ])
  })

  test('takes over what http says, as far as it says nothing itself', () => {
    const { spec } = site(
      `events { } http { client_max_body_size 5m; proxy_read_timeout 2m; gzip on; allow 10.0.0.1; ${server('gzip off; client_max_body_size 10485760; deny all;')} }`,
    )
    expect(spec).toMatchObject({ maxBodySize: '10240k', timeouts: { read: '2m' } })
    // gzip is off anyway: nothing of http holds in a zone.
    expect(spec).not.toHaveProperty('privileged')
    expect(spec).toMatchObject({ policies: ['nobody'] })
  })

  test('lists what uses a name that is not carried', () => {
    const entries = Array.from({ length: 900 }, (_, index) => `key-${index} a;`).join(' ')
    const { spec, lost } = site(
      `map $http_x $pool { ${entries} } limit_req_zone "$host ${'x'.repeat(4050)}" zone=one:1m rate=1r/s; ${server('location / { limit_req zone=one; proxy_pass http://$pool; }')}`,
    )
    expect(spec).toMatchObject({
      privileged: { routeSnippets: { root: expect.not.stringContaining('$pool') as string } },
    })
    expect(lost.map(({ why }) => why)).toEqual([
      'no kind has a place for it',
      'no kind has a place for it',
      'it uses zone one, which is not carried',
      'it uses $pool, which is not carried',
    ])
  })
})

test('a location without a log is a route without one', () => {
  const { spec, kept } = site(
    server('location = /favicon.ico { access_log off; return 204; } location / { return 200; }'),
  )
  expect(spec?.['routes']).toMatchObject({
    'favicon-ico': { accessLog: false },
    root: expect.not.objectContaining({ accessLog: false }) as object,
  })
  expect(kept.filter(({ what }) => what.includes('access_log'))).toEqual([])
})

test('maps and zones that sites use become text of the zone settings, in the workspace of all', () => {
  const { specs, kept, lost } = imported(
    `map $http_x $y { default 1; } map $y $pool { default a; } geo $unused { default 1; }
    limit_req_zone $host zone=one:1m rate=1r/s; limit_conn_zone $host zone=two:1m;
    ${server('location / { limit_req zone=one; return 200 "$pool"; }')}`,
  )
  expect(specs['ZoneSettings settings']).toEqual({
    privileged: {
      httpSnippets: {
        y: 'map $http_x $y {\n    default 1;\n}\n',
        pool: 'map $y $pool {\n    default a;\n}\n',
        one: 'limit_req_zone $host zone=one:1m rate=1r/s;\n',
      },
    },
  })
  expect(kept.map(({ what }) => what)).toContain('map $y $pool {}')
  expect(lost.map(({ what, why }) => `${what}: ${why}`)).toEqual([
    'geo $unused {}: nothing that is carried uses it',
    'limit_conn_zone $host zone=two:1m: nothing that is carried uses it',
  ])
})

describe('locations', () => {
  const told = { upstream: 'app', hostHeader: 'app', redirects: { 'http://app/': '/' } }
  const proxied = (fields: object) => ({ action: 'proxy', proxy: { ...told, ...fields } })
  test.each([
    ['location / { proxy_pass http://app; }', proxied({})],
    ['location /a/ { proxy_pass http://app/; }', proxied({ stripPrefix: true, redirects: { 'http://app/': '/a/' } })],
    [
      'location / { proxy_pass https://app; proxy_buffering off; }',
      proxied({ scheme: 'https', buffering: false, redirects: { 'https://app/': '/' } }),
    ],
    [
      'location = /x { proxy_pass http://app; proxy_set_header Host $http_host; }',
      { action: 'proxy', proxy: { upstream: 'app', hostHeader: '$http_host' } },
    ],
    [
      'location / { proxy_pass http://app; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade"; }',
      proxied({ websocket: true }),
    ],
    [
      'location / { proxy_pass http://app; proxy_set_header X-A b; proxy_set_header X-C ""; proxy_connect_timeout 5; }',
      { requestHeaders: { set: { 'X-A': 'b' }, remove: ['X-C'] }, timeouts: { connect: '5s' } },
    ],
    ['location / { root /srv/www; index a.html; }', { static: { root: '/srv/www', index: 'a.html' } }],
    [
      'location / { return 301 https://b.example$request_uri; }',
      { redirect: { to: 'https://b.example', status: 301, keepPath: true } },
    ],
    ['location / { return https://b.example/; }', { redirect: { to: 'https://b.example/', status: 302 } }],
    ['location / { return 404; }', { return: { status: 404 } }],
    [
      'location = /a { default_type text/plain; return 200 "a b"; }',
      { return: { status: 200, body: 'a b', contentType: 'text/plain' } },
    ],
    ['location / { return 204; add_header X-A b always; }', { responseHeaders: { set: { 'X-A': 'b' } } }],
    ['location ~* \\.(js|css)$ { root /srv/www; }', { match: 'regex', caseSensitive: false, order: 0 }],
  ])('%s', (location, route) => {
    const { spec, kept } = site(`upstream app { server 10.0.0.1:80; } ${server(location)}`)
    expect(Object.values(spec?.['routes'] as object)).toContainEqual(expect.objectContaining(route) as unknown)
    expect(kept).toEqual([])
  })

  test.each([
    ['location /a { alias /srv/a/; }', 'alias'],
    ['location /a/ { return 403; location /a/b { return 204; } }', 'a location in it'],
    ['location @a { return 403; }', 'its name'],
    ['location ~ ^/(?<part>a+)$ { return 403; }', 'a regex that defines a variable'],
  ])('%s stays text of the server, for %s', (location) => {
    const { spec } = site(server(location))
    expect(spec).toMatchObject({ privileged: { serverSnippet: expect.stringContaining('location ') as string } })
    expect(Object.keys(spec?.['routes'] as object)).toEqual(['root'])
  })

  test('regexes before one that stays text stay text too, so that the first still wins', () => {
    const { spec } = site(
      server('location ~ a { return 403; } location ~ b { alias /b; } location ~ c { return 404; }'),
    )
    expect(Object.values(spec?.['routes'] as object)).toMatchObject([{ path: 'c' }, { path: '/' }])
  })

  test('of headers, those of the server hold where the location has none of its own', () => {
    const { spec } = site(
      `upstream app { server 10.0.0.1:80; } ${server('add_header X-A b; location / { proxy_pass http://app; } location /b { add_header X-C d; return 204; }')}`,
    )
    expect(spec).toMatchObject({
      privileged: { routeSnippets: { root: 'add_header X-A b;\n', b: 'add_header X-C d;\n' } },
    })
  })

  test('the Host that an upstream gets does not change with the name of its block', () => {
    const { spec } = site(`upstream app { server 10.0.0.1:80; } ${server('location @a { proxy_pass http://app; }')}`)
    expect(spec).toMatchObject({
      privileged: {
        serverSnippet: `location @a {\n    proxy_set_header Host app;\n    proxy_pass http://default_eu_app;\n    proxy_redirect http://app/ /;\n}\n`,
      },
    })
  })
})

test('files that are read again from elsewhere keep their place', () => {
  const { spec, lost } = site(server('auth_basic x; auth_basic_user_file users; ssl_certificate a.pem;'))
  expect(spec).toMatchObject({
    privileged: {
      serverSnippet: `auth_basic x;\nauth_basic_user_file /n/users;\n`,
    },
  })
  expect(lost.map(({ what }) => what)).toEqual(['ssl_certificate /n/a.pem'])
})

describe('certificates', () => {
  const { certificate } = makeCertificate(['a.example'])
  const carried = (text: string) => {
    const tree = readTree({ path: '/n/nginx.conf', text }, () => [])
    return importConfig(
      tree,
      { workspace: 'default', zone: 'eu' },
      { readFile: (path) => (path.startsWith('/tls/') ? certificate : undefined) },
    )
  }
  const PAIR = 'ssl_certificate /tls/a.pem; ssl_certificate_key /tls/a.key;'

  test('one for each file, its key named and not read', () => {
    const { resources, secrets, findings } = carried(
      `${PAIR} server { listen 80; listen 443 ssl http2; server_name a.example; ssl_protocols TLSv1.3; ssl_ciphers x; return 204; }
      server { listen 443 ssl; server_name b.example; return 204; }`,
    )
    expect(resources.map(({ kind, metadata }) => `${kind} ${metadata.name}`)).toEqual([
      'Certificate a-example',
      'Site a-example',
      'Site b-example',
    ])
    expect(resources[0]?.spec).toMatchObject({ key: { secret: 'a-example-key' } })
    expect(secrets).toEqual([{ secret: 'a-example-key', file: '/tls/a.key' }])
    expect(resources[1]?.spec['listeners']).toEqual({
      'port-80': { port: 80 },
      'port-443': { port: 443, tls: { certificate: 'a-example', minVersion: 'TLSv1.3' } },
    })
    expect(resources[2]?.spec['listeners']).toMatchObject({ 'port-443': { tls: { http2: false } } })
    expect(findings.lost.map(({ what }) => what)).toContain('ssl_ciphers x')
  })

  test('a listener with PROXY headers, which say who the client is', () => {
    const { resources, findings } = carried(
      'server { listen 80 proxy_protocol; server_name a.example; set_real_ip_from 10.0.0.0/8; real_ip_header proxy_protocol; return 204; }',
    )
    expect(resources[0]?.spec['listeners']).toEqual({ 'port-80': { port: 80, proxyProtocol: true } })
    expect(resources[0]?.spec['privileged']).toEqual({
      serverSnippet: 'default_type text/plain;\nset_real_ip_from 10.0.0.0/8;\n',
    })
    expect(findings.lost).toEqual([])
  })

  test('of clients: their authorities, and never let in without being told', () => {
    const tls = (directives: string) => {
      const { resources, findings } = carried(`server { listen 443 ssl; ${PAIR} server_name a.example; ${directives} }`)
      const site = resources.find(({ kind }) => kind === 'Site')?.spec['listeners'] as Record<string, { tls: object }>
      return { tls: site['port-443']?.tls, lost: findings.lost.map(({ why }) => why).join() }
    }
    expect(
      tls('ssl_client_certificate /tls/ca.pem; ssl_verify_client optional; ssl_verify_depth 2;').tls,
    ).toMatchObject({
      clientCertificate: { ca: 'clients', mode: 'optional', depth: 2 },
    })
    expect(tls('ssl_client_certificate /tls/ca.pem; ssl_verify_client on;').tls).toMatchObject({
      clientCertificate: { ca: 'clients' },
    })
    const lost = tls('ssl_client_certificate /gone.pem; ssl_verify_client on;')
    expect(lost.lost).toContain('WITHOUT IT EVERY CLIENT IS LET IN')
  })

  test('without the file the site keeps its other listeners', () => {
    const { resources, findings } = carried(
      'server { listen 80; listen 443 ssl; ssl_certificate /gone.pem; ssl_certificate_key /gone.key; server_name a.example; }',
    )
    expect(resources.map(({ spec }) => spec['listeners'])).toEqual([{ 'port-80': { port: 80 } }])
    expect(findings.lost.map(({ why }) => why)).toContain('a listener with TLS needs a certificate')
  })
})

describe('meshctl import', () => {
  let cwd: string
  beforeEach(() => {
    cwd = mkdtempSync(join(tmpdir(), 'nxmesh-import-'))
    mkdirSync(join(cwd, 'etc', 'sites'), { recursive: true })
    writeFileSync(join(cwd, 'etc', 'nginx.conf'), 'user x; events { } http { include sites/*; }')
    writeFileSync(join(cwd, 'etc', 'sites', 'a'), 'server { listen 80; server_name a.example; return 404; }')
    writeFileSync(join(cwd, 'etc', 'sites', '.a.swp'), 'not {')
  })
  afterEach(() => rmSync(cwd, { recursive: true }))

  test('writes a file for each resource, and a report', async () => {
    const { code, out } = await meshctl(['import', 'etc', '--into', 'out', '-z', 'eu', '-w', 'shop'], { cwd })
    expect(code).toBe(0)
    expect(readdirSync(join(cwd, 'out')).toSorted()).toEqual(['import-report.txt', 'site-a-example.yaml'])
    expect(parseYaml(readFileSync(join(cwd, 'out', 'site-a-example.yaml'), 'utf8'))).toMatchObject({
      kind: 'Site',
      metadata: { zone: 'eu', workspace: 'shop' },
    })
    expect(readFileSync(join(cwd, 'out', 'import-report.txt'), 'utf8')).toBe(out)
    expect(out).toContain('etc/nginx.conf:1  user x')
  })

  test('names the directories that hosts do not serve by themselves, and nothing else', async () => {
    writeFileSync(
      join(cwd, 'etc', 'sites', 'a'),
      'server { listen 80; root /srv/a; location / { } location /b { root /opt/b; } }',
    )
    const { out } = await meshctl(['import', 'etc', '--no-proof'], { cwd })
    expect(out).toContain('nginx.static_roots, or they refuse the sites:\n  /opt/b\nKept as nginx text')
  })

  test('overwrites nothing', async () => {
    await meshctl(['import', 'etc'], { cwd })
    expect(await meshctl(['import', 'etc'], { cwd })).toMatchObject({
      code: 6,
      err: expect.stringContaining('imported is not empty') as string,
    })
  })

  test.each([
    [['gone'], 3, 'cannot read gone'],
    [['etc', '-z', 'a', '-z', 'b'], 2, 'import takes one --zone'],
    [[], 2, 'expected DIR|FILE'],
  ])('%j is refused', async (args, code, words) => {
    const result = await meshctl(['import', ...args], { cwd })
    expect(result).toMatchObject({ code, err: expect.stringContaining(words) as string })
  })

  test('says why there is nothing to carry', async () => {
    writeFileSync(join(cwd, 'etc', 'sites', 'a'), 'server { listen 443 ssl; }')
    const { code, err } = await meshctl(['import', 'etc'], { cwd })
    expect(code).toBe(3)
    expect(err).toContain('there is no server or upstream in etc that can be carried')
    expect(err).toContain('a listener with TLS needs a certificate')
  })
})
