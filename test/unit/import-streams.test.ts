/** What of `stream` becomes a Stream, and which servers are left out whole: those that would be less guarded. */

import { expect, test } from 'vitest'
import { importConfig } from '../../src/nginx/importing/import.ts'
import { readTree } from '../../src/nginx/importing/includes.ts'
import { makeCertificate } from '../support/certificates.ts'

const { certificate } = makeCertificate(['a.example'])

function imported(text: string) {
  const tree = readTree(
    { path: '/n/nginx.conf', text: `stream { upstream db { server 10.0.0.1:5432; } ${text} }` },
    () => [],
  )
  const readFile = (path: string) => (path.startsWith('/tls/') ? certificate : undefined)
  const { resources, findings, secrets } = importConfig(tree, { workspace: 'default', zone: 'eu' }, { readFile })
  const specs = Object.fromEntries(resources.map(({ kind, metadata, spec }) => [`${kind} ${metadata.name}`, spec]))
  return { specs, lost: findings.lost.map(({ what, why }) => `${what}: ${why}`), secrets }
}

const ON_5432 = { listeners: { 'port-5432': { port: 5432 } }, upstream: 'db' }

test.each<[string, object]>([
  ['listen 5432; proxy_pass db;', ON_5432],
  [
    'listen 5432; proxy_pass db; proxy_timeout 1h; proxy_connect_timeout 5; proxy_protocol on; tcp_nodelay on;',
    { ...ON_5432, timeouts: { idle: '1h', connect: '5s' }, proxyProtocol: true },
  ],
  [
    'listen [::1]:53 udp reuseport; proxy_pass db; proxy_responses 1;',
    { listeners: { 'udp-1-53': { address: '::1', port: 53, protocol: 'udp' } }, upstream: 'db', responses: 1 },
  ],
  [
    'listen 5432 proxy_protocol; proxy_pass db; deny 10.1.0.0/16; allow 10.0.0.0/8; deny all;',
    { listeners: { 'port-5432': { port: 5432, proxyProtocol: true } }, allow: ['10.0.0.0/8'], deny: ['10.1.0.0/16'] },
  ],
  ['listen 5432; proxy_pass db; allow 10.0.0.0/8; deny 192.0.2.1;', { ...ON_5432, deny: ['192.0.2.1'] }],
  ['listen 5432; proxy_pass db; limit_conn few 3;', { ...ON_5432, connectionsPerClient: 3 }],
  [
    'listen 5432 ssl; ssl_certificate /tls/a.pem; ssl_certificate_key /tls/a.key; ssl_protocols TLSv1.3; proxy_pass db;',
    { listeners: { 'port-5432': { port: 5432, tls: { certificate: 'stream', minVersion: 'TLSv1.3' } } } },
  ],
  [
    'listen 5432; proxy_pass db; proxy_ssl on; proxy_ssl_server_name on; proxy_ssl_name db.example;',
    { ...ON_5432, upstreamTls: { serverName: 'db.example' } },
  ],
])('%s', (directives, spec) => {
  const { specs, lost } = imported(`limit_conn_zone $binary_remote_addr zone=few:1m; server { ${directives} }`)
  expect(specs['Stream db']).toMatchObject(spec)
  expect(lost.filter((line) => !line.startsWith('limit_conn_zone'))).toEqual([])
})

test('an address without an upstream becomes one, beside one of http with the same name', () => {
  const tree = readTree(
    {
      path: '/n/nginx.conf',
      text: 'http { upstream db { server 10.0.0.9:80; } server { listen 80; location / { proxy_pass http://db; } } } stream { upstream db { server 10.0.0.1:5432; } server { listen 1; proxy_pass db; } server { listen 2; proxy_pass 10.0.0.2:2; } }',
    },
    () => [],
  )
  const { resources } = importConfig(tree, { workspace: 'default', zone: 'eu' })
  expect(resources.map(({ kind, metadata }) => `${kind} ${metadata.name}`)).toEqual([
    'Upstream db',
    'Upstream db-2',
    'Upstream 10-0-0-2-2',
    'Stream db',
    'Stream port-2',
    'Site default',
  ])
  expect(resources.find(({ metadata }) => metadata.name === 'db-2')?.spec).toEqual({
    endpoints: { '10.0.0.1:5432': {} },
  })
})

test('a map from names at the beginning of TLS is a Stream for each place, and its default the one for all others', () => {
  const { specs, lost } = imported(`
    map $ssl_preread_server_name $to { hostnames; a.example db; .b.example db; *.c.example 10.0.0.3:443; ~^d db; e.example unix:/e; default 10.0.0.4:443; }
    server { listen 443; ssl_preread on; proxy_pass $to; }`)
  const listeners = { 'port-443': { port: 443 } }
  expect(specs).toMatchObject({
    'Stream a-example': { listeners, upstream: 'db', hosts: ['*.b.example', 'a.example', 'b.example'] },
    'Stream c-example': { listeners, upstream: '10-0-0-3-443', hosts: ['*.c.example'] },
    'Stream port-443': { listeners, upstream: '10-0-0-4-443', hosts: ['*'] },
  })
  expect(lost).toEqual([
    '~^d db: a Stream has no such name, or passes to no such place',
    'e.example unix:/e: a Stream has no such name, or passes to no such place',
  ])
})

test.each([
  [
    'listen 1 ssl; ssl_certificate /gone.pem; ssl_certificate_key /gone.key; proxy_pass db;',
    'TLS ends here, and its certificate is not carried',
  ],
  [
    'listen 1 ssl; ssl_certificate /tls/a.pem; ssl_certificate_key /tls/a.key; ssl_verify_client on; ssl_client_certificate /gone.pem; proxy_pass db;',
    'no listener can say whom it lets in',
  ],
  ['listen 1; proxy_pass db; proxy_ssl on; proxy_ssl_verify on;', 'a Stream cannot say proxy_ssl_verify'],
  ['listen 1; proxy_pass db; deny all;', 'no Stream can say who may come in and who may not'],
  ['listen 1; proxy_pass db; allow 10.0.0.1; deny 10.0.0.0/8;', 'no Stream can say who may come in and who may not'],
  ['listen 1; proxy_pass db; allow unix:; deny all;', 'no Stream can say who may come in and who may not'],
  ['listen unix:/a; proxy_pass db;', 'it listens on nothing that a Stream can'],
  ['listen 1-9; proxy_pass db;', 'it listens on nothing that a Stream can'],
  ['listen 1; return hello;', 'a Stream cannot say return'],
  ['listen 1; proxy_pass gone;', 'there is no upstream gone that is carried'],
  ['listen 1; proxy_pass sockets;', 'there is no upstream sockets that is carried'],
])('left out: %s', (directives, why) => {
  const { specs, lost } = imported(`upstream sockets { server unix:/s; } server { ${directives} }`)
  expect(Object.keys(specs).filter((name) => name.startsWith('Stream'))).toEqual([])
  expect(lost).toContain(`server {}: ${why}`)
})

test('what a Stream cannot say, and nothing is less guarded without, is told alone', () => {
  const { specs, lost } = imported(
    'server { listen 1 so_keepalive=on; proxy_pass $hostname; } server { listen 5432; proxy_pass db; proxy_buffer_size 1k; limit_conn other 1; } log_format x y; split_clients a $b { * c; }',
  )
  expect(Object.keys(specs)).toEqual(['Upstream db', 'Stream db'])
  expect(lost).toEqual([
    'listen 1 so_keepalive=on: a listener has no field for so_keepalive=on',
    'proxy_pass $hostname: a Stream chooses by the name at the beginning of TLS alone, from a map',
    'proxy_buffer_size 1k: a Stream has no field for it',
    'limit_conn other 1: a Stream limits connections of a client alone: WITHOUT IT THERE IS NO LIMIT',
    'log_format x y: the node has its own',
    'split_clients a $b {}: no Stream that is carried uses it, or has a field for it',
  ])
})

test('of a site behind PROXY headers the listener says so', () => {
  const text =
    'set_real_ip_from 10.0.0.0/8; real_ip_header proxy_protocol; server { listen 80 proxy_protocol; server_name a.example; }'
  const { resources } = importConfig(
    readTree({ path: '/n/nginx.conf', text }, () => []),
    { workspace: 'default', zone: 'eu' },
  )
  expect(resources.map(({ spec }) => spec)).toMatchObject([
    {
      listeners: { 'port-80': { port: 80, proxyProtocol: true } },
      privileged: { serverSnippet: expect.not.stringContaining('real_ip_header') as string },
    },
  ])
})
