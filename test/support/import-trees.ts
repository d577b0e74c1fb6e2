/**
 * Configuration trees for tests of the importer, in words of our own, after what documentation of well-known kinds of
 * applications asks for; and requests that tell whether two nginx answer alike. A tree is made for one port.
 */

import type { RequestOptions } from 'node:http'

export interface Probe extends Pick<RequestOptions, 'method' | 'headers'> {
  readonly host: string
  readonly path: string
  readonly body?: string
}

export interface Tree {
  readonly name: string
  /** Contents by path below the directory of nginx.conf; `www/` holds what is served. */
  files(parts: { port: number; backend: number; directory: string }): Readonly<Record<string, string>>
  readonly probes: readonly Probe[]
}

const MAIN = (http: string): string => `user root;
worker_processes 1;
events { worker_connections 128; }
http {
    include types;
    include temp-paths;
    default_type application/octet-stream;
    sendfile on;
    access_log off;
    ${http}
}
`
const COMMON = {
  types: 'types { text/html html htm; text/css css; application/javascript js; image/png png; text/plain txt; }\n',
  'temp-paths': ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']
    .map((name) => `${name}_temp_path temp-${name};\n`)
    .join(''),
}

function get(host: string, ...paths: string[]): Probe[] {
  return paths.map((path) => ({ host, path }))
}

/** An application with an API below a path, websockets, and an older API under another name. */
const APPLICATION: Tree = {
  name: 'an application behind a proxy',
  files: ({ port, backend }) => ({
    ...COMMON,
    'nginx.conf': MAIN(`
    map $http_upgrade $connection_upgrade { default upgrade; '' close; }
    upstream app { least_conn; server 127.0.0.1:${backend} weight=2 max_fails=3 fail_timeout=5s; keepalive 4; }
    proxy_http_version 1.1;
    include sites-enabled/*.conf;`),
    'snippets/proxy': `# who asks, for the application
proxy_set_header Host $http_host;
proxy_set_header X-Real-IP $remote_addr;
proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
proxy_set_header X-Forwarded-Proto $scheme;
`,
    'sites-enabled/app.conf': `
server {
    listen ${port};
    server_name app.example .apps.example;
    client_max_body_size 1k;
    proxy_read_timeout 90;
    location / { include snippets/proxy; proxy_pass http://app; }
    location /api/ { include snippets/proxy; proxy_set_header X-Part "the \\"api\\""; proxy_pass http://app/; }
    location /v1/ { proxy_pass http://app/internal/v1/; }
    location = /login { proxy_pass http://127.0.0.1:${backend}/auth; }
    location /socket {
        proxy_pass http://app;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection $connection_upgrade;
        proxy_set_header Host $host;
    }
    location ~ "^/reports/(\\d{4})$" { rewrite ^/reports/(.*)$ /archive/$1 break; proxy_pass http://app; }
    location ~* \\.bak$ { deny all; }
    location /big { client_max_body_size 4k; proxy_pass http://app; proxy_hide_header X-Backend; }
    location /secured { add_header X-Frame-Options DENY; add_header Cache-Control no-store always; proxy_pass http://app; }
    location @elsewhere { proxy_pass http://app; }
    location /try { try_files /none @elsewhere; }
    if ($http_x_blocked) { return 403; }
}
`,
    'sites-enabled/old.conf': `
server { listen ${port}; server_name old.example; return 301 http://app.example$request_uri; }
server { listen ${port}; server_name gone.example; return 410; }
`,
  }),
  probes: [
    ...get(
      'app.example',
      '/',
      '/a%20b?x=1&y=2',
      '/a%2Fb',
      '/api/users?id=3',
      '/api/',
      '/api/a%20b',
      '/api',
      '/v1/items?a=b',
    ),
    ...get(
      'app.example',
      '/v1/',
      '/login?next=%2F',
      '/login/x',
      '/socket',
      '/reports/2024',
      '/reports/20245',
      '/x.bak',
    ),
    ...get(
      'app.example',
      '/X.BAK',
      '/secured/a',
      '/secured/status/404',
      '/try',
      '/big',
      '/status/503',
      '/big/status/404',
    ),
    ...get('one.apps.example', '/'),
    ...get('apps.example', '/v1/x'),
    ...get('old.example', '/', '/a/b?c=d'),
    ...get('gone.example', '/', '/x'),
    ...get('unknown.example', '/', '/v1/x'),
    { host: 'app.example', path: '/', headers: { 'x-blocked': '1' } },
    { host: 'app.example', path: '/form', method: 'POST', body: 'a=b' },
    { host: 'app.example', path: '/form', method: 'POST', body: 'a'.repeat(2000) },
    { host: 'app.example', path: '/big', method: 'POST', body: 'a'.repeat(2000) },
    { host: 'app.example', path: '/big', method: 'PUT', body: 'a'.repeat(5000) },
    { host: 'app.example', path: '/', method: 'HEAD' },
  ],
}

/** Files of a site: an application in the browser, downloads, pages for errors. */
const FILES: Tree = {
  name: 'files of a site',
  files: ({ port, directory }) => ({
    ...COMMON,
    'www/index.html': 'the page\n',
    'www/app.js': 'the script\n',
    'www/style.css': 'the style\n',
    'www/docs/index.htm': 'the manual\n',
    'www/docs/a b.html': 'a page with a space\n',
    'www/.htpasswd': 'hidden\n',
    'www/sorry.html': 'not here\n',
    'other/one.data': 'a download\n',
    'nginx.conf': MAIN('add_header X-Served-By here always; include conf.d/*.conf;'),
    'conf.d/site.conf': `
server {
    listen ${port} default_server;
    server_name _ www.example;
    root ${directory}/www;
    index index.htm index.html;
    error_page 404 /sorry.html;
    location / { try_files $uri $uri/ =404; }
    location /app { try_files $uri /index.html; }
    location /downloads/ { alias ${directory}/other/; default_type application/x-download; }
    location ^~ /plain/ { return 200 "plain text\\n"; default_type text/plain; }
    location = /health { access_log off; default_type text/plain; return 200 'ok'; }
    location = /who { default_type text/plain; return 200 "$host $request_method"; }
    location ~ /\\.(?!well-known) { deny all; }
    location ~* \\.(js|css)$ { expires 1h; add_header X-Kind asset; }
    location /list/ { alias ${directory}/other/; autoindex on; }
    location /old { return 302 /docs/; }
    location /nested/ {
        return 403;
        location /nested/inner { return 204; }
    }
    location = /empty { return 204; }
    location /typed { default_type text/plain; return 200 "by its ending"; }
    location = /bare { return 200; }
    location /moved { rewrite ^/moved/(.*)$ /docs/$1 permanent; return 404; }
}
server { listen ${port}; server_name docs.example; root ${directory}/www/docs; add_header X-Docs 1; index index.htm; }
`,
  }),
  probes: [
    ...get(
      'www.example',
      '/',
      '/index.html',
      '/docs',
      '/docs/',
      '/docs/a%20b.html',
      '/none',
      '/app.js',
      '/app',
      '/app/x/y',
    ),
    ...get(
      'www.example',
      '/style.css',
      '/STYLE.CSS',
      '/none.js',
      '/downloads/one.data',
      '/downloads/none',
      '/plain/x.js',
    ),
    ...get(
      'www.example',
      '/health',
      '/healthy',
      '/who',
      '/.htpasswd',
      '/docs/.hidden',
      '/.well-known/x',
      '/list/one.data',
    ),
    ...get('www.example', '/old', '/old/x', '/nested/', '/nested/inner', '/empty', '/moved/a', '/moved', '/sorry.html'),
    ...get('www.example', '/typed', '/typed/x.css', '/bare'),
    ...get('docs.example', '/', '/a%20b.html', '/none'),
    ...get('unknown.example', '/', '/health', '/who'),
    { host: 'www.example', path: '/', method: 'HEAD' },
    { host: 'www.example', path: '/', method: 'POST', body: 'x' },
    { host: 'www.example', path: '/who', method: 'DELETE' },
  ],
}

/** Programs behind FastCGI that do not run, pages of errors, rules of access, rewriting. */
const PROGRAMS: Tree = {
  name: 'programs, rules of access and pages of errors',
  files: ({ port, backend, directory }) => ({
    ...COMMON,
    users: 'ann:{PLAIN}secret\n',
    'fastcgi.conf': 'fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;\nfastcgi_intercept_errors on;\n',
    'www/index.php': 'the text of a program\n',
    'www/index.html': 'the page\n',
    'www/50x.html': 'later\n',
    'www/uploads/run.php': 'another program\n',
    'www/a.txt': 'some text\n',
    'nginx.conf': MAIN(`
    upstream php { server unix:${directory}/php.sock; }
    upstream app { server 127.0.0.1:${backend}; }
    add_header X-All yes;
    gzip on;
    gzip_min_length 1;
    gzip_types text/plain;
    client_max_body_size 2k;
    index index.php;
    server {
        listen ${port};
        server_name shop.example;
        root ${directory}/www;
        index index.php index.html;
        error_page 500 502 503 504 /50x.html;
        error_page 403 = @denied;
        rewrite ^/shop/(.*)$ /$1 last;
        rewrite ^/feed$ /a.txt;
        location / { try_files $uri $uri/ /index.php?$args; }
        location ~* /uploads/.*\\.php$ { deny all; }
        location ~ \\.php$ { include fastcgi.conf; fastcgi_pass php; }
        location = /favicon.ico { log_not_found off; access_log off; }
        location = /50x.html { internal; }
        location @denied { return 404 "no such thing\\n"; }
        location /private/ { auth_basic "private"; auth_basic_user_file users; return 200; }
        location /secret/ { auth_basic "secret"; auth_basic_user_file users; }
        location /only-get { limit_except GET { deny all; } proxy_pass http://app; }
        location /by-name { set $target 127.0.0.1:${backend}; proxy_pass http://$target; }
        location /mobile { if ($http_user_agent ~* "phone|tablet") { return 302 /m; } proxy_pass http://app; }
        location /down { proxy_pass http://127.0.0.1:1; }
        location /replaced { proxy_pass http://app; proxy_intercept_errors on; error_page 404 =200 /a.txt; }
        location /sized { client_max_body_size 1; proxy_pass http://app; }
    }
    server { listen ${port}; server_name *.wild.example; add_header X-Wild 1 always; return 404; }
    server { listen ${port} default_server; server_name ""; return 444; }`),
  }),
  probes: [
    ...get('shop.example', '/', '/index.html', '/a.txt', '/shop/a.txt', '/feed', '/none', '/none?x=1', '/index.php'),
    ...get('shop.example', '/uploads/run.php', '/UPLOADS/x.PHP', '/favicon.ico', '/50x.html', '/private/', '/secret/x'),
    ...get(
      'shop.example',
      '/only-get',
      '/by-name/x?y=z',
      '/mobile',
      '/down',
      '/replaced/status/404',
      '/replaced/status/500',
    ),
    ...get('a.wild.example', '/', '/x'),
    { host: 'shop.example', path: '/only-get', method: 'POST', body: 'x' },
    { host: 'shop.example', path: '/mobile', headers: { 'user-agent': 'A Phone' } },
    { host: 'shop.example', path: '/a.txt', headers: { 'accept-encoding': 'gzip' }, method: 'HEAD' },
    { host: 'shop.example', path: '/sized', method: 'POST', body: 'xx' },
    { host: 'shop.example', path: '/by-name', method: 'POST', body: 'x'.repeat(3000) },
  ],
}

/** The password is "secret". */
const USERS = 'ann:$apr1$abcdefgh$h9FWgUz3n9YxylKLlR5SQ/\n'
const AS_ANN = { authorization: `Basic ${Buffer.from('ann:secret').toString('base64')}` }

/** What importers read into fields and policies: who comes in and how often, pages of errors, compression, answers made right. */
const FIELDS: Tree = {
  name: 'rules, limits and pages that have fields',
  files: ({ port, backend, directory }) => ({
    ...COMMON,
    users: USERS,
    'www/index.html': `the page ${'x'.repeat(100)}\n`,
    'www/a.txt': 'short\n',
    'www/404.html': 'no such page\n',
    'errors/50x.html': 'one moment\n',
    'nginx.conf': MAIN(`
    upstream app { server 127.0.0.1:${backend}; }
    set_real_ip_from 127.0.0.1;
    real_ip_header X-Forwarded-For;
    real_ip_recursive on;
    limit_req_zone $binary_remote_addr zone=slow:1m rate=1r/m;
    limit_req_status 429;
    keepalive_timeout 30;
    proxy_hide_header X-Powered-By;
    include conf.d/*;`),
    'conf.d/office': `
server {
    listen ${port};
    server_name office.example;
    root ${directory}/www;
    gzip on; gzip_vary on; gzip_proxied any; gzip_min_length 50; gzip_types text/plain; gzip_comp_level 6;
    allow 10.0.0.0/8;
    deny 10.1.0.0/16;
    allow 2001:db8::/32;
    deny all;
    location / { }
    location /open { allow all; proxy_pass http://app; }
    location = /hello { return 200 "hello"; default_type text/plain; }
    location /guests { deny 192.0.2.7; proxy_pass http://app; }
    location /but { deny 10.2.0.0/16; allow 10.0.0.0/8; deny all; proxy_pass http://app; }
    location /moved { rewrite ^ /guests/there permanent; }
    location @named { proxy_pass http://app; }
    location /named { try_files /none @named; }
}`,
    'conf.d/members': `
server {
    listen ${port};
    server_name members.example;
    root ${directory}/www;
    auth_basic "members";
    auth_basic_user_file users;
    location / { }
    location /free { auth_basic off; proxy_pass http://app; }
    location = /fixed { return 204; }
    location /other { auth_basic "others"; proxy_pass http://app; }
}`,
    'conf.d/pages': `
server {
    listen ${port};
    server_name pages.example;
    root ${directory}/www;
    error_page 404 /404.html;
    error_page 500 502 503 504 =503 /50x.html;
    proxy_intercept_errors on;
    location / { }
    location = /404.html { internal; }
    location = /50x.html { root ${directory}/errors; }
    location /app { proxy_pass http://app; }
    location /own { proxy_intercept_errors off; proxy_pass http://app; }
    location /down { proxy_pass http://127.0.0.1:1; }
    location /slow { limit_req zone=slow burst=1 nodelay; proxy_pass http://app; }
}`,
    'conf.d/traps': `
server {
    listen ${port};
    server_name traps.example;
    root ${directory}/www;
    error_page 404 /gone.html;
    error_page 403 =404 /denied/page.html;
    add_header X-Everywhere yes always;
    if ($arg_blocked) { return 403; }
    location / { }
    location /denied { deny all; }
    location = /order { return 204; rewrite ^ /a.txt; return 500; }
    location ~ \\.css$ { root ${directory}/www; }
    location ^~ /firm/ { proxy_pass http://app/; }
    location /path/ { proxy_set_header X-Part "api $uri"; proxy_pass http://app/api/; }
}
server { listen ${port}; server_name alias.example; location / { alias ${directory}/www/; index index.html; } }`,
    'conf.d/answers': `
server {
    listen ${port};
    server_name answers.example;
    location / {
        proxy_pass http://app;
        proxy_redirect http://app.internal/ /sub/;
        proxy_cookie_path /app/ /sub/;
        proxy_cookie_domain app.internal answers.example;
        proxy_request_buffering off;
        proxy_next_upstream error http_502;
        proxy_next_upstream_tries 2;
        proxy_buffers 4 16k;
        proxy_buffer_size 16k;
        proxy_max_temp_file_size 0;
    }
    location /shown { proxy_hide_header X-Backend; proxy_pass http://app; }
    location /off { proxy_redirect off; proxy_pass http://app; }
}`,
  }),
  probes: [
    ...['10.2.3.4', '10.1.2.3', '192.0.2.7', '192.0.2.8', '2001:db8::1', '2001:db9::1', '192.0.2.7, 10.2.3.4'].flatMap(
      (client) =>
        ['/', '/open', '/hello', '/guests', '/but', '/moved', '/named', '/none'].map((path): Probe => {
          return { host: 'office.example', path, headers: { 'x-forwarded-for': client } }
        }),
    ),
    ...['/', '/a.txt', '/none'].map((path): Probe => {
      const headers = { 'accept-encoding': 'gzip', via: '1.1 cache', 'x-forwarded-for': '10.2.3.4' }
      return { host: 'office.example', path, headers, method: 'HEAD' }
    }),
    ...['/', '/a.txt', '/none', '/free', '/fixed', '/other'].flatMap((path): Probe[] => [
      { host: 'members.example', path },
      { host: 'members.example', path, headers: AS_ANN },
      { host: 'members.example', path, headers: { authorization: 'Basic eDp5' } },
    ]),
    ...get('pages.example', '/', '/none', '/404.html', '/50x.html', '/app', '/app/status/404', '/app/status/500'),
    ...get('pages.example', '/own/status/404', '/down', '/app/status/503', '/app/status/403'),
    ...get('pages.example', '/slow', '/slow', '/slow', '/slow/again', '/'),
    { host: 'pages.example', path: '/none', method: 'POST', body: 'x' },
    { host: 'pages.example', path: '/down', method: 'POST', body: 'x' },
    ...get(
      'traps.example',
      '/',
      '/none',
      '/gone.html',
      '/denied',
      '/denied/page.html',
      '/?blocked=1',
      '/order',
      '/path/x',
    ),
    ...get('alias.example', '/', '/a.txt', '/none'),
    ...get('answers.example', '/', '/told', '/shown/told', '/off/told', '/status/502'),
    { host: 'answers.example', path: '/told', method: 'POST', body: 'x'.repeat(1500) },
  ],
}

export const TREES: readonly Tree[] = [APPLICATION, FILES, PROGRAMS, FIELDS]
