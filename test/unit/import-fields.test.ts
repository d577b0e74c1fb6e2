/** Directives that mean the same as a field or a policy, and what keeps each of them text. */

import { describe, expect, test } from 'vitest'
import { importConfig } from '../../src/nginx/importing/import.ts'
import { readTree } from '../../src/nginx/importing/includes.ts'

const USERS = 'ann:$apr1$abcdefgh$h9FWgUz3n9YxylKLlR5SQ/\n'
const FILES: Readonly<Record<string, string>> = {
  '/n/users': USERS,
  '/n/plain': 'ann:{PLAIN}secret\n',
  '/n/twice': USERS + USERS,
  '/www/404.html': 'none',
  '/errors/50x.html': 'later',
  '/usr/share/nginx/html/404.html': 'none',
}

function imported(text: string) {
  const tree = readTree({ path: '/n/nginx.conf', text }, () => [])
  const host = { readFile: (path: string) => FILES[path], prefix: '/usr/share/nginx' }
  const { resources, findings, secrets } = importConfig(tree, { workspace: 'default', zone: 'eu' }, host)
  const specs = Object.fromEntries(resources.map(({ kind, metadata, spec }) => [`${kind} ${metadata.name}`, spec]))
  const [site] = resources.filter(({ kind }) => kind === 'Site').map(({ spec }) => spec)
  return { specs, site, secrets, kept: findings.kept, lost: findings.lost }
}

/** A server with these directives, and http with those. */
function server(directives: string, http = ''): string {
  return `upstream app { server 10.0.0.1:80; } default_type text/html; ${http} server { listen 80; server_name a.example; ${directives} }`
}

describe('of a server', () => {
  const GZIP = 'gzip on; gzip_vary on; gzip_proxied any;'
  test.each<[string, object]>([
    [GZIP, { compression: { types: ['text/html'], minLength: 20 } }],
    [
      `${GZIP} gzip_types text/plain text/html text/plain; gzip_min_length 1k;`,
      { compression: { types: ['text/html', 'text/plain'], minLength: 1024 } },
    ],
    ['keepalive_timeout 30; keepalive_requests 50;', { keepalive: { timeout: '30s', requests: 50 } }],
  ])('%s', (directives, fields) => {
    const { site, kept } = imported(server(directives))
    expect(site).toMatchObject(fields)
    expect(kept).toEqual([])
  })

  test.each([
    'gzip on;',
    'gzip on; gzip_vary on; gzip_proxied expired no-cache;',
    'gzip on; gzip_vary on; gzip_proxied any; gzip_types *;',
    'gzip on; gzip_vary on; gzip_proxied any; brotli on;',
    'keepalive_timeout 30 20;',
    'keepalive_timeout 0;',
  ])('%s stays text', (directives) => {
    const { site, kept } = imported(server(directives))
    expect(site).not.toHaveProperty('compression')
    expect(site).not.toHaveProperty('keepalive')
    expect(kept.length).toBeGreaterThan(0)
  })
})

describe('of a location that proxies', () => {
  test.each<[string, object]>([
    ['proxy_request_buffering off;', { requestBuffering: false }],
    ['proxy_max_temp_file_size 0;', { maxTempFileSize: '0' }],
    ['proxy_buffers 4 16k; proxy_buffer_size 16k;', { buffers: { size: '16k', count: 4 } }],
    ['proxy_next_upstream off;', { retries: { attempts: 1 } }],
    [
      'proxy_next_upstream error http_502 non_idempotent; proxy_next_upstream_tries 2; proxy_next_upstream_timeout 5;',
      { retries: { on: ['502', 'error', 'non_idempotent'], attempts: 2, timeout: '5s' } },
    ],
    ['proxy_cookie_path /app/ /sub/;', { cookies: { paths: { '/app/': '/sub/' } } }],
    ['proxy_cookie_domain a.internal b.example;', { cookies: { domains: { 'a.internal': 'b.example' } } }],
    [
      'proxy_cookie_flags ~ secure nohttponly samesite=lax;',
      { cookies: { secure: true, httpOnly: false, sameSite: 'lax' } },
    ],
    ['proxy_redirect http://a.internal/ /sub/;', { redirects: { 'http://a.internal/': '/sub/' } }],
  ])('%s', (directives, proxy) => {
    const { site, kept } = imported(server(`location / { proxy_pass http://app; ${directives} }`))
    expect(site).toMatchObject({ routes: { root: { proxy } } })
    expect(kept).toEqual([])
  })

  test.each([
    'proxy_cookie_path ~*^/app(.*) /sub$1;',
    'proxy_cookie_path /app/ /sub/; proxy_cookie_path /app/deep/ /;',
    'proxy_cookie_flags one secure;',
    'proxy_redirect http://a.internal/ /; proxy_redirect default;',
    'proxy_buffers 4 16k; proxy_buffer_size 8k;',
    'proxy_max_temp_file_size 2g;',
    'proxy_cache pages;',
  ])('%s stays text, and the proxy is one', (directives) => {
    const { site, kept } = imported(
      server(`location / { proxy_pass http://app; ${directives} }`, 'proxy_cache_path /c keys_zone=pages:1m;'),
    )
    expect(site).toMatchObject({ routes: { root: { action: 'proxy' } } })
    expect(JSON.stringify(site?.['privileged'])).toContain(directives.slice(0, -1).split(';')[0])
    expect(kept.length).toBeGreaterThan(0)
  })

  test('headers of the upstream that nobody sees, of the location or else of its server', () => {
    const { site, kept } = imported(
      server(
        'proxy_hide_header X-A; location / { proxy_pass http://app; } location /b { proxy_hide_header X-B; proxy_pass http://app; } location /c { }',
      ),
    )
    expect(site).toMatchObject({
      routes: { root: { responseHeaders: { remove: ['X-A'] } }, b: { responseHeaders: { remove: ['X-B'] } } },
    })
    expect(kept).toEqual([])
  })

  test('what is so anyway is not said, but where the server says otherwise', () => {
    const location = 'location / { proxy_pass http://app; proxy_buffering on; }'
    expect(imported(server(location)).kept).toEqual([])
    expect(imported(server(`proxy_buffering off; ${location}`)).site).toMatchObject({
      privileged: {
        serverSnippet: expect.stringContaining('proxy_buffering off;') as string,
        routeSnippets: { root: 'proxy_buffering on;\n' },
      },
    })
  })
})

describe('who may come in', () => {
  test.each<[string, object]>([
    ['deny all;', { default: 'deny' }],
    ['allow 10.0.0.0/8; deny all;', { allow: ['10.0.0.0/8'], default: 'deny' }],
    ['deny 10.0.0.1/32;', { deny: ['10.0.0.1'], default: 'allow' }],
    [
      'deny 10.1.0.0/16; allow 10.0.0.0/8; allow 10.1.2.0/24; deny all;',
      { allow: ['10.0.0.0/8'], deny: ['10.1.0.0/16'], default: 'deny' },
    ],
    ['allow 2001:db8::1; deny 2001:db8::/32;', { allow: ['2001:db8::1'], deny: ['2001:db8::/32'], default: 'allow' }],
  ])('%s', (directives, access) => {
    const { specs, site, kept } = imported(server(`location / { ${directives} }`))
    const policies = Object.values(specs).filter((spec) => 'access' in spec)
    expect(policies).toEqual([{ type: 'access', access }])
    expect(site?.['policies']).toHaveLength(1)
    expect(kept).toEqual([])
  })

  test.each([
    ['an answer that is there already', 'location / { deny all; return 204; }'],
    ['a rewrite that comes first', 'location / { deny all; if ($args) { return 204; } }'],
    ['satisfy any', 'satisfy any; location / { deny all; auth_basic a; auth_basic_user_file users; }'],
    ['a socket', 'location / { allow unix:; deny all; }'],
    ['a network with bits beyond its length', 'location / { allow 10.0.0.1/8; deny all; }'],
    ['rules of the server that stay text', 'allow unix:; deny all; location / { allow 10.0.0.1; deny all; }'],
  ])('stays text beside %s', (_, directives) => {
    const { site, specs, kept } = imported(server(directives))
    expect(Object.keys(specs).filter((name) => name.startsWith('Policy'))).toEqual([])
    expect(JSON.stringify(site?.['privileged'])).toContain('deny all;')
    expect(kept.map(({ why }) => why)).toContain(
      'kept as text: an access policy would come before what else is asked here, or has no such address',
    )
  })

  test('of the server, unless the location says it: the policy of every route is that of the site', () => {
    const all = imported(server('deny all; location / { } location /a { proxy_pass http://app; }'))
    expect(all.site).toMatchObject({ policies: ['nobody'] })
    const some = imported(server('deny all; location / { } location /a { allow all; }'))
    expect(some.site).toMatchObject({ routes: { root: { policies: ['nobody'] } } })
    expect(some.site).not.toHaveProperty('policies')
    const text = imported(server('deny all; location / { } location @a { proxy_pass http://app; }'))
    expect(JSON.stringify(text.site?.['privileged'])).toContain('deny all;')
  })

  test('a list of users becomes a secret to seal', () => {
    const { specs, site, secrets, kept } = imported(
      server('auth_basic "a b"; auth_basic_user_file users; location / { }'),
    )
    expect(specs['Policy users-users']).toEqual({ type: 'basicAuth', basicAuth: { realm: 'a b', secret: 'users' } })
    expect(site).toMatchObject({ policies: ['users-users'] })
    expect(secrets).toEqual([{ secret: 'users', file: '/n/users' }])
    expect(kept).toEqual([])
  })

  test.each([
    ['it cannot be read', 'auth_basic_user_file gone;'],
    ['a hash is none that a policy takes', 'auth_basic_user_file plain;'],
    ['a name is there twice', 'auth_basic_user_file twice;'],
    ['its name is a variable', 'auth_basic_user_file $host;'],
  ])('a list of users stays text where %s', (_, file) => {
    const { site, secrets, kept } = imported(server(`auth_basic a; ${file} location / { }`))
    expect(site).not.toHaveProperty('policies')
    expect(secrets).toEqual([])
    expect(kept.map(({ why }) => why).join()).toContain('a basicAuth policy would answer otherwise')
  })
})

describe('how often', () => {
  const ZONES = 'limit_req_zone $binary_remote_addr zone=slow:1m rate=5r/s; limit_conn_zone $remote_addr zone=few:64k;'

  test.each<[string, string, object]>([
    ['limit_req zone=slow;', 'rateLimit', { rate: '5r/s', zoneSize: '1m' }],
    ['limit_req zone=slow burst=9;', 'rateLimit', { rate: '5r/s', zoneSize: '1m', burst: 9, delayAfter: 0 }],
    ['limit_req zone=slow burst=9 nodelay;', 'rateLimit', { rate: '5r/s', zoneSize: '1m', burst: 9 }],
    ['limit_req zone=slow burst=9 delay=3;', 'rateLimit', { rate: '5r/s', zoneSize: '1m', burst: 9, delayAfter: 3 }],
  ])('%s', (directive, type, limit) => {
    const { specs, lost } = imported(server(`limit_req_status 429; location / { ${directive} }`, ZONES))
    expect(specs['Policy slow']).toEqual({ type, [type]: { status: 429, limits: { slow: limit } } })
    expect(lost.map(({ what }) => what)).not.toContain('limit_req_zone $binary_remote_addr zone=slow:1m rate=5r/s')
  })

  test('connections', () => {
    const { specs } = imported(
      server('location / { limit_conn few 3; limit_conn_status 429; limit_conn_dry_run on; }', ZONES),
    )
    expect(specs['Policy few']).toEqual({
      type: 'connectionLimit',
      connectionLimit: { status: 429, dryRun: true, limits: { few: { zoneSize: '64k', max: 3 } } },
    })
  })

  test.each([
    ['nginx answers 503', 'location / { limit_req zone=slow; }'],
    [
      'it counts two limits in one zone',
      'limit_req_status 429; location / { limit_req zone=slow; } location /b { limit_req zone=slow burst=3; }',
    ],
    [
      'text counts in its zone',
      'limit_req_status 429; location / { limit_req zone=slow; } location @b { limit_req zone=slow; }',
    ],
    ['it counts something else than clients', 'limit_req_status 429; location / { limit_req zone=hosts; }'],
  ])('stays text where %s', (_, directives) => {
    const { specs, kept } = imported(server(directives, `${ZONES} limit_req_zone $host zone=hosts:1m rate=5r/s;`))
    expect(Object.keys(specs).filter((name) => name.startsWith('Policy'))).toEqual([])
    expect(Object.keys(specs)).toContain('ZoneSettings settings')
    expect(kept.map(({ what }) => what).join()).toContain('limit_req zone=')
  })
})

describe('pages of errors', () => {
  test('that are files of exact locations', () => {
    const { site, kept } = imported(
      server(
        'root /www; error_page 404 /404.html; error_page 500 502 =503 /50x.html; proxy_intercept_errors on; location = /404.html { internal; } location = /50x.html { root /errors/; } location / { proxy_pass http://app; } location /b { proxy_intercept_errors off; proxy_pass http://app; }',
      ),
    )
    expect(site).toMatchObject({
      errorPages: {
        intercept: true,
        pages: { '404': { file: '/www/404.html' }, '500,502': { file: '/errors/50x.html', status: 503 } },
      },
      routes: {
        '404-html': { action: 'return', return: { status: 404 } },
        '50x-html': { action: 'static', static: { root: '/errors/' } },
        b: { errorPages: { intercept: false } },
      },
    })
    expect(kept).toEqual([])
  })

  test('below the prefix of nginx where nobody says where', () => {
    expect(imported(server('error_page 404 /404.html; location = /404.html { }')).site).toMatchObject({
      errorPages: { pages: { '404': { file: '/usr/share/nginx/html/404.html' } } },
    })
  })

  test.each([
    ['is not there', 'error_page 404 /gone.html; location = /gone.html { }'],
    ['has no location of its own', 'root /www; error_page 404 /404.html;'],
    ['is elsewhere', 'error_page 404 @other; location @other { return 204; }'],
    ['is another host', 'error_page 404 https://b.example/;'],
    ['has headers', 'root /www; add_header X-A b; error_page 404 /404.html; location = /404.html { }'],
    ['is behind a rule', 'root /www; deny 10.0.0.1; error_page 404 /404.html; location = /404.html { }'],
    ['has the status of what answers', 'root /www; error_page 404 = /404.html; location = /404.html { }'],
    [
      'is that of one location',
      'root /www; error_page 404 /404.html; location = /404.html { } location /a { error_page 404 /b; }',
    ],
  ])('stay text where one %s', (_, directives) => {
    const { site, kept } = imported(server(directives))
    expect(site).not.toHaveProperty('errorPages')
    expect(kept.map(({ what }) => what).join()).toContain('error_page 404')
  })
})

test('who is believed about clients becomes a zone setting, as it held for all servers', () => {
  const http = 'set_real_ip_from 10.0.0.0/8; real_ip_header X-Forwarded-For;'
  const { specs, kept } = imported(server('', http))
  expect(specs['ZoneSettings settings']).toEqual({
    realClient: { trust: ['10.0.0.0/8'], header: 'X-Forwarded-For', recursive: false },
  })
  expect(kept).toEqual([])
  const text = imported(server('', `${http} set_real_ip_from proxy.internal;`))
  expect(text.specs).not.toHaveProperty('ZoneSettings settings')
  expect(JSON.stringify(text.site)).toContain('set_real_ip_from proxy.internal;')
})

test('redirects of the server are undone where the location says default', () => {
  const { site, kept } = imported(
    server('proxy_redirect http://a.internal/ /b/; location /c/ { proxy_redirect default; proxy_pass http://app/d/; }'),
  )
  expect(site).toMatchObject({
    routes: { c: { proxy: { replacePrefix: '/d/', redirects: { 'http://app/d/': '/c/' } } } },
  })
  expect(kept.map(({ what }) => what)).toEqual(['proxy_redirect http://a.internal/ /b/'])
})

test('what stands behind a return is not said, nor the type of what has no body', () => {
  const { site } = imported(server('location / { return 204; default_type a/b; rewrite ^ /x; }'))
  expect(site).toMatchObject({ routes: { root: { action: 'return', return: { status: 204 } } } })
  expect(JSON.stringify(site)).not.toMatch(/rewrite|a\/b/)
})

test('headers for upstreams are nothing to a location that asks none', () => {
  const { site, kept } = imported(
    server('proxy_set_header X-A $uri; proxy_hide_header X-B; location / { root /srv/a; }'),
  )
  expect(JSON.stringify(site)).not.toContain('X-A')
  expect(kept).toEqual([])
})

test('what nginx and the node do anyway needs no text, and so no right to it', () => {
  const { site, lost } = imported(
    `types { } default_type application/octet-stream; server { listen 80; server_name a.example; root /srv/a; index a.html;
      location / { try_files $uri $uri/ =404; } location = /robots.txt { access_log off; log_not_found off; allow all; }
      location /b { proxy_pass http://10.0.0.1:81; proxy_redirect off; proxy_http_version 1.1; tcp_nodelay on; } }`,
  )
  expect(site).toMatchObject({ routes: { 'robots-txt': { accessLog: false }, b: { action: 'proxy' } } })
  expect(site).not.toHaveProperty('privileged')
  expect(lost.map(({ what }) => what)).toEqual(['types {}', 'log_not_found off'])
  const rewriting = imported(server('root /srv/a; location / { if (-f $request_filename) { return 204; } }'))
  expect(rewriting.site).toMatchObject({
    privileged: { serverSnippet: expect.stringContaining('root /srv/a;') as string },
  })
})

test('what draining says in each route is not said twice', () => {
  const { site, lost } = imported(
    server('location / { keepalive_timeout 5; recursive_error_pages on; proxy_pass http://app; }'),
  )
  expect(site).not.toHaveProperty(['privileged', 'routeSnippets'])
  expect(lost.map(({ what }) => what)).toEqual(['keepalive_timeout 5', 'recursive_error_pages on'])
})
