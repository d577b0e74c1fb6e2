/**
 * Attempts to break out of a string field: documents that use every field of every kind, and all their variants with a
 * hostile text in one place. Which fields there are is read from the schemas, so that a new one cannot be forgotten.
 */

import { parseAllDocuments } from 'yaml'
import type { z } from 'zod'
import type { ResourceState } from '../../src/core/document.ts'
import { DOCUMENT_SCHEMAS, fieldsOf, parseDocument, pathOf } from '../../src/core/resources/index.ts'
import type { HostLayout } from '../../src/nginx/rendering/host-layout.ts'
import { makeCertificate, secretsOf } from './certificates.ts'
import { LIVE_HTTP_LINES } from '../../src/nginx/rendering/live-program.ts'
import { EVERYWHERE, LAYOUT, renderStates, stateOf, withModules } from './resources.ts'

type Schema = z.core.$ZodType
type Path = readonly string[]
export type Document = { kind: string; spec: unknown; [key: string]: unknown }

/** `{key}` ends the pattern of a map's key; `*` stands for any key, `[]` for any item. */
export function stringFields(schema: Schema): string[] {
  return leavesOf(schema, [])
    .filter(({ isText }) => isText)
    .map(({ pattern }) => pattern)
}

/** Patterns of all fields of a schema, of whatever type. */
export function fieldPatterns(schema: Schema): string[] {
  return [...new Set(leavesOf(schema, []).map(({ pattern }) => pattern))]
}

function leavesOf(schema: Schema, path: Path): { pattern: string; isText: boolean }[] {
  const def = schema._zod.def as {
    type: string
    innerType?: Schema
    options?: Schema[]
    shape?: Record<string, Schema>
    keyType?: Schema
    valueType?: Schema
    element?: Schema
    values?: unknown[]
  }
  if (def.innerType !== undefined) return leavesOf(def.innerType, path)
  if (def.options !== undefined) return unique(def.options.flatMap((option) => leavesOf(option, path)))
  if (def.shape !== undefined)
    return Object.entries(def.shape).flatMap(([key, child]) => leavesOf(child, [...path, key]))
  if (def.valueType !== undefined)
    return [{ pattern: [...path, '{key}'].join('.'), isText: true }, ...leavesOf(def.valueType, [...path, '*'])]
  if (def.element !== undefined) return leavesOf(def.element, [...path, '[]'])
  // The part of a template: judged as that of the resource that it becomes, once it is one.
  if (def.type === 'any') return [{ pattern: path.join('.'), isText: false }]
  const isText =
    def.type === 'string' || def.type === 'enum' || (def.type === 'literal' && typeof def.values?.[0] === 'string')
  if (isText || ['number', 'boolean', 'literal'].includes(def.type)) return [{ pattern: path.join('.'), isText }]
  throw new Error(`${path.join('.')} is of type ${def.type}: say here which strings it holds`)
}

/** Each pattern once; what may be a text among others is one. */
function unique<T extends { pattern: string; isText: boolean }>(leaves: readonly T[]): T[] {
  const textsLast = leaves.toSorted((a, b) => Number(a.isText) - Number(b.isText))
  return [...new Map(textsLast.map((leaf) => [leaf.pattern, leaf])).values()]
}

/** What the Certificate holds, and its Secret would. */
const FULL_PAIR = makeCertificate(['all.example'])

/** Every field of every kind, in one use or another. */
const FULL_YAML = `
apiVersion: nxmesh/v1
kind: Stream
metadata: { name: all, workspace: default, zone: '*', labels: { l: v } }
spec:
  nodeSelector: { disk: ssd }
  listeners:
    tls:
      port: 8443
      address: 127.0.0.1
      protocol: tcp
      tls: { certificate: tls, minVersion: TLSv1.3, clientCertificate: { ca: tls, mode: optional, depth: 2 } }
  hosts: [a.example, '*.b.example', '*']
  upstream: plain
  upstreamTls: { ca: tls, serverName: up.example, clientCertificate: tls, depth: 2 }
  timeouts: { connect: 2s, idle: 9m }
  allow: [10.0.0.0/8]
  deny: [10.0.0.1]
  connectionsPerClient: 3
---
apiVersion: nxmesh/v1
kind: Upstream
metadata: { name: plain }
spec: { endpoints: { '10.0.0.1:80': {} } }
---
apiVersion: nxmesh/v1
kind: Upstream
metadata: { name: stuck }
spec: { method: hash, sticky: { cookie: own, maxAge: 9, secure: true, sameSite: lax }, endpoints: { '10.0.0.1:80': {} } }
---
apiVersion: nxmesh/v1
kind: Upstream
metadata: { name: app, workspace: default, zone: '*', labels: { l: v } }
spec:
  nodeSelector: { disk: ssd }
  method: hash
  hashKey: $request_uri
  consistent: true
  endpoints: { '10.0.0.1:80': { weight: 2, down: true, maxFails: 2, failTimeout: 9s }, 'app.internal:80': {} }
  keepalive: { connections: 3, timeout: 9s, requests: 9 }
  template: { name: app, values: { path: /made } }
  healthCheck:
    type: http
    scheme: https
    path: /h
    host: h.example
    port: 81
    interval: 9s
    timeout: 9s
    expect: { status: [200], body: ok }
  outlierDetection: { interval: 9s, baseEjection: 9s, maxEjection: 9s }
  circuitBreaker: { window: 9s, openFor: 9s }
---
apiVersion: nxmesh/v1
kind: Template
metadata: { name: web, workspace: default, zone: '*', labels: { l: v } }
spec:
  parameters: { told: { default: 'by default' } }
  site: { responseHeaders: { set: { X-Made: '{{told}}' } } }
---
apiVersion: nxmesh/v1
kind: Template
metadata: { name: app, workspace: default, zone: '*', labels: { l: v } }
spec:
  parameters: { path: {} }
  upstream: { healthCheck: { path: '{{path}}' } }
---
apiVersion: nxmesh/v1
kind: ZoneSettings
metadata: { name: settings, workspace: default, zone: '*', labels: { l: v } }
spec:
  nodeSelector: { disk: ssd }
  reload: { confirmShrink: '0123456789abcdef' }
  realClient: { trust: [10.0.0.0/8], header: X-Real-IP }
  workerShutdownTimeout: 9s
  defaults:
    maxBodySize: 9m
    timeouts: { connect: 9s, read: 9s, send: 9s }
    compression: { types: [text/plain], minLength: 9 }
    requestHeaders: { set: { X-Zone: 'in $host' }, remove: [X-Lost] }
    responseHeaders: { set: { X-Zone: out }, remove: [X-Core] }
    hsts: { maxAge: 9 }
    errorPages:
      pages: { '421': { body: not there, contentType: text/plain }, '422': { file: /srv/www/422.html }, '423': { upstream: app, path: /locked } }
    policies: [office]
  privileged: { httpSnippets: { own: 'allow all;' } }
---
apiVersion: nxmesh/v1
kind: Certificate
metadata: { name: tls, workspace: default, zone: '*', labels: { l: v } }
spec:
  nodeSelector: { disk: ssd }
  certificate: [${JSON.stringify(FULL_PAIR.certificate)}]
  key: { secret: tls }
---
apiVersion: nxmesh/v1
kind: Secret
metadata: { name: tls, workspace: default, zone: '*', labels: { l: v } }
spec:
  nodeSelector: { disk: ssd }
  sealed: ['00000000000000000000000000000000', 'AA']
  keys: { '00000000000000000000000000000000': { '0000000000000000000000000000000000000000000000000000000000000000': AA } }
---
apiVersion: nxmesh/v1
kind: Policy
metadata: { name: office, workspace: default, zone: '*', labels: { l: v } }
spec:
  nodeSelector: { disk: ssd }
  type: access
  access: { allow: ['10.0.0.0/8'], deny: ['10.1.0.0/16'], default: deny }
---
apiVersion: nxmesh/v1
kind: Policy
metadata: { name: rates, workspace: default, zone: '*', labels: { l: v } }
spec:
  type: rateLimit
  rateLimit: { limits: { each: { by: header, header: X-Own, cookie: own, zoneSize: 64k, rate: 9r/m, burst: 9 } } }
---
apiVersion: nxmesh/v1
kind: Policy
metadata: { name: connections, workspace: default, zone: '*', labels: { l: v } }
spec:
  type: connectionLimit
  connectionLimit: { limits: { each: { by: cookie, header: X-Own, cookie: own, zoneSize: 64k, max: 9 } } }
---
apiVersion: nxmesh/v1
kind: Policy
metadata: { name: pages, workspace: default, zone: '*', labels: { l: v } }
spec:
  type: cors
  cors: { origins: ['https://*.pages.example:81'], methods: [PUT], headers: [X-Asked], exposedHeaders: [X-Told] }
---
apiVersion: nxmesh/v1
kind: Policy
metadata: { name: people, workspace: default, zone: '*', labels: { l: v } }
spec:
  type: mtls
  mtls: { subjects: ['CN=ana,O=example'] }
---
apiVersion: nxmesh/v1
kind: Policy
metadata: { name: rules, workspace: default, zone: '*', labels: { l: v } }
spec:
  type: waf
  waf:
    mode: block
    rules:
      all: { methods: [PUT], path: '^/a', query: 'a=', userAgent: '^a', headers: { X-Attack: '^a' } }
---
apiVersion: nxmesh/v1
kind: Policy
metadata: { name: set, workspace: default, zone: '*', labels: { l: v } }
spec:
  type: waf
  waf: { mode: 'off', coreRuleSet: { exclusions: { one: { rule: 942100, target: 'ARGS:a', path: /a/ } } } }
---
apiVersion: nxmesh/v1
kind: Secret
metadata: { name: staff, workspace: default, zone: '*' }
spec: { sealed: ['00000000000000000000000000000000', 'AA'] }
---
apiVersion: nxmesh/v1
kind: Policy
metadata: { name: passwords, workspace: default, zone: '*', labels: { l: v } }
spec:
  type: basicAuth
  basicAuth: { realm: realm, secret: staff, users: { ada: '$apr1$saltsalt$xxxxxxxxxxxxxxxxxxxxxx' } }
---
apiVersion: nxmesh/v1
kind: Policy
metadata: { name: judged, workspace: default, zone: '*', labels: { l: v } }
spec:
  type: externalAuth
  externalAuth: { upstream: app, path: /judge, timeout: 9s, headers: [X-Judged], signin: 'https://signin.example/?rd=$host' }
---
apiVersion: nxmesh/v1
kind: Secret
metadata: { name: signing, workspace: default, zone: '*' }
spec: { sealed: ['00000000000000000000000000000000', 'AA'] }
---
apiVersion: nxmesh/v1
kind: Policy
metadata: { name: tokens, workspace: default, zone: '*', labels: { l: v } }
spec:
  type: jwt
  jwt:
    cookie: token
    issuers: ['https://issuer.example']
    audiences: [audience]
    headers: { X-Claim: claim }
    keys:
      shared: { alg: HS256, secret: signing }
      curve:
        alg: ES256
        publicKey: |
          -----BEGIN PUBLIC KEY-----
          MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE+nUvct6OE9bAP7RZZwhq2brtoWEr
          ebZWm4ua3zlJwV88kY9GBvI8BInxv3vswVZaKAi9MTV6xQMoDcO3r+4oMQ==
          -----END PUBLIC KEY-----
---
apiVersion: nxmesh/v1
kind: Policy
metadata: { name: kept, workspace: default, zone: '*', labels: { l: v } }
spec:
  type: cache
  cache:
    zoneSize: 64k
    maxSize: 9m
    inactive: 9m
    valid: { '299': 9m }
    key: $scheme://$host$request_uri
    bypass: { headers: [X-Fresh], cookies: [fresh], query: [fresh] }
    ignore: [vary]
    stale: [error]
    lock: true
    lockTimeout: 9s
    purge: { /images/: 9 }
---
apiVersion: nxmesh/v1
kind: Site
metadata: { name: all, workspace: default, zone: '*', labels: { l: v } }
spec:
  hosts: [all.example]
  listeners:
    http: { port: 81, address: 127.0.0.1 }
    https:
      port: 444
      address: 127.0.0.1
      proxyProtocol: true
      tls: { certificate: tls, minVersion: TLSv1.3, clientCertificate: { ca: tls, mode: optional, depth: 2 } }
  hsts: { maxAge: 9, includeSubdomains: true }
  template: { name: web, values: { told: by a template } }
  nodeSelector: { disk: ssd }
  requestHeaders: { set: { X-Site: 'in $host' }, remove: [X-Gone] }
  responseHeaders: { set: { X-Site: out }, remove: [X-Inner] }
  errorPages:
    intercept: true
    pages: { '404': { body: none, contentType: text/plain }, '502,503': { file: /srv/www/sorry.html }, 5xx: { upstream: app, path: /sorry } }
  keepalive: { timeout: 9s, requests: 9 }
  timeouts: { connect: 8s, read: 8s, send: 8s }
  maxBodySize: 8m
  accessLog: false
  accessLogPercent: 9
  accessLogFields: { tenant: 'of $http_x_tenant' }
  policies: [office, rates, connections, pages, people, passwords, kept, tokens, judged, rules]
  withoutPolicies: [office]
  compression: { types: [text/css], minLength: 9 }
  maintenance: { enabled: true, retryAfter: 9, body: down, contentType: text/plain, allow: ['10.0.0.0/8'] }
  privileged: { serverSnippet: 'allow all;', routeSnippets: { proxy: 'allow all;' } }
  routes:
    proxy:
      path: /proxy/
      match: prefix
      action: proxy
      proxy:
        { upstream: app, scheme: https, stripPrefix: true, websocket: true, buffering: false, hostHeader: up.example, tls: { ca: tls, serverName: up.example, clientCertificate: tls, depth: 2 } }
      requestHeaders: { set: { X-Route: in }, remove: [X-Left] }
      responseHeaders: { set: { X-Route: 'out $request_id' }, remove: [X-Deep] }
      errorPages: { pages: { '404': { body: not here, contentType: text/plain }, '410': { file: /srv/www/gone.html }, '411': { upstream: app, path: /long } } }
      timeouts: { connect: 7s, read: 7s, send: 7s }
      maxBodySize: 7m
      accessLog: true
      policies: [office]
      withoutPolicies: [office]
    changed:
      path: /changed/
      proxy:
        upstream: app
        rewrite: { regex: '^/changed/(.*)$', replacement: /new/$1, keepQuery: false }
        requestBuffering: false
        buffers: { size: 9k, count: 9 }
        maxTempFileSize: 9m
        retries: { attempts: 9, timeout: 9s, on: [error] }
        cookies: { domains: { inner.example: outer.example }, paths: { /inner/: /outer/ }, sameSite: lax }
        redirects: { 'http://inner.example/': 'https://$host/outer/' }
    stuck: { path: /stuck/, proxy: { upstream: stuck } }
    replaced: { path: /replaced/, proxy: { upstream: app, replacePrefix: /replacement/ } }
    turned: { path: /turned/, redirect: { regex: '^/turned/(.*)$', to: 'https://turned.example/$1' } }
    spread:
      path: /spread/
      proxy:
        split: { stable: { upstream: app, weight: 9 }, canary: { upstream: app, weight: 1 }, dark: { upstream: app, weight: 0 } }
        sticky: { cookie: session, header: X-User }
        force: { cookie: version, header: X-Version }
    calls:
      path: /calls/
      proxy: { upstream: app, scheme: grpcs, hostHeader: up.example, tls: { ca: tls, clientCertificate: tls } }
      requestHeaders: { set: { X-Route: in }, remove: [X-Left] }
      responseHeaders: { set: { X-Route: out } }
      timeouts: { connect: 7s, read: 7s, send: 7s }
    static: { path: /static/, static: { root: /srv/www, index: index.html, spa: true } }
    files: { path: /files/, static: { root: /srv/files, index: index.html } }
    redirect: { path: /away, match: exact, redirect: { to: 'https://away.example', status: 301, keepPath: true } }
    moved: { path: /moved, match: exact, redirect: { to: 'https://$host/there', status: 308 } }
    chosen:
      path: /chosen
      when:
        methods: [GET]
        headers: { X-Plan: { exact: 'gold' }, X-Kind: { regex: '^gold' } }
        cookies: { plan: { exact: 'gold' }, kind: { regex: '^gold' } }
        query: { plan: { exact: 'gold' }, kind: { regex: '^gold', present: true } }
      return: { status: 200, body: chosen }
    return: { path: '^/return/[0-9]+$', match: regex, return: { status: 200, body: hi, contentType: text/plain } }
`

export const HOSTILE: readonly string[] = [
  ';',
  '}',
  '{',
  '\n',
  '\r\nX-Evil: 1',
  '\t',
  '"',
  "'",
  '\\',
  '\\"',
  '\\\\"',
  '#',
  ' # x',
  '$',
  '$(id)',
  '${',
  '${host}',
  '$host',
  '$uri',
  '$1',
  '`id`',
  ' ',
  '" evil',
  '"; evil on; #',
  "'; evil on; #",
  '; } evil { ',
  '\\n; evil on;',
  '\u0000',
  '\u001b[2J',
  '\u0085',
  '\u2028',
  '\u202e',
  '\ud800',
  'ü',
  '\u{1f600}',
  '%0a',
  '../',
  '$$',
  '~',
  '*x',
  '@evil',
  '= /evil',
  '|',
  'x'.repeat(5000),
  '"'.repeat(2000),
  '\\'.repeat(1999),
  '$'.repeat(3000),
]

export interface Attempt {
  /** Where and what, for messages. */
  readonly title: string
  /** As in stringFields, with the kind before it. */
  readonly pattern: string
  /** Which of the full documents is replaced by which. */
  readonly index: number
  readonly document: unknown
}

export const FULL = parseAllDocuments(FULL_YAML).map((document) => document.toJS() as Document)

/** Patterns of all string fields that the schemas have. */
export function knownPatterns(): string[] {
  return [...PATTERNS].flatMap(([kind, patterns]) => patterns.map((pattern) => `${kind}.${pattern}`))
}

/**
 * Each string of the full documents with each hostile text in its place, and at its end; one in `every`, beginning with
 * another one for each seed. All of them take minutes, and the fuzzer tries more.
 */
export function* attempts({ every = 1, seed = 0 } = {}): Generator<Attempt> {
  let turn = seed % every
  for (const [index, document] of FULL.entries()) {
    for (const place of placesIn(document)) {
      for (const hostile of HOSTILE) {
        for (const text of [hostile, `${place.text}${hostile}`]) {
          turn = (turn + 1) % every
          if (turn !== 0) continue
          const changed = structuredClone(document)
          place.put(changed, text)
          const title = `${place.path.join('.')} = ${JSON.stringify(text.slice(0, 60))}`
          yield { title, pattern: place.pattern, index, document: changed }
        }
      }
    }
  }
}

function stateOfDocument(document: unknown): ResourceState {
  const resource = parseDocument(document)
  return stateOf(pathOf(resource), fieldsOf(resource))
}
const FULL_STATES = FULL.map(stateOfDocument)

/** What the full documents refer to: upstreams, policies, certificates, secrets and templates. */
export const FULL_REFERENCES = FULL_STATES.filter(({ path }) =>
  /\/(?:upstream|policy|certificate|secret|template)\//.test(path),
)

/** What a Secret of a `basicAuth` holds. */
export const USERS = 'grace:$apr1$saltsalt$xxxxxxxxxxxxxxxxxxxxxx\n'

/** What the secrets of the full documents say. */
export const FULL_SECRETS: ReadonlyMap<string, string> = new Map([
  ...secretsOf({ tls: FULL_PAIR }),
  ['default/*/secret/staff', USERS],
  ['default/*/secret/signing', USERS],
])

/** nginx.conf without the Lua of the node's own, which has quotes of another kind. */
export function withoutPrograms(main: string): string {
  return LIVE_HTTP_LINES.reduce((text, line) => text.replace(line, ''), main)
}

function renderAll(states: readonly ResourceState[], host: HostLayout = LAYOUT) {
  const node = { ...EVERYWHERE, labels: { disk: 'ssd' } }
  const addresses = new Map([['app.internal', ['10.0.0.9']]])
  const { units, problems, generation } = renderStates(states, {
    node,
    addresses,
    host: { ...host, liveLane: false },
    secrets: FULL_SECRETS,
    capabilities: withModules('http_lua', 'ndk_http'),
  })
  return {
    problems,
    generation,
    text: [withoutPrograms(generation.main), ...units.map((unit) => unit.text)].join('\n'),
  }
}

/** The rendering of the documents as they are. */
export function renderFull(host?: HostLayout) {
  return renderAll(FULL_STATES, host)
}

/** The rendering of an attempt. @throws MeshError when it is refused. */
export function renderAttempt({ index, document }: Attempt, host?: HostLayout) {
  return renderAll(FULL_STATES.with(index, stateOfDocument(document)), host)
}

/** A string of a document, or a key that people choose. */
export interface Place {
  readonly path: Path
  /** As in stringFields, with the kind before it. */
  readonly pattern: string
  readonly text: string
  put(document: unknown, text: string): void
}

export function placesIn(document: Document): Place[] {
  return places(document.kind, document, [])
}

function places(kind: string, value: unknown, path: Path): Place[] {
  if (typeof value === 'string') {
    return [
      {
        path,
        pattern: patternOf(kind, path),
        text: value,
        put: (document, text) => void (parentOf(document, path)[path.at(-1) as string] = text),
      },
    ]
  }
  if (typeof value !== 'object' || value === null || isPart(kind, path)) return []
  const below = Object.entries(value).flatMap(([key, child]) => places(kind, child, [...path, key]))
  const keys = isMap(kind, path) ? Object.keys(value).map((key) => keyPlace(kind, [...path, key])) : []
  return [...keys, ...below]
}

/** Whether it is of a template: no schema says which strings stand in it. */
function isPart(kind: string, [first, second = '', ...more]: Path): boolean {
  return kind === 'Template' && first === 'spec' && ['site', 'upstream'].includes(second) && more.length === 0
}

function keyPlace(kind: string, path: Path): Place {
  const key = path.at(-1) as string
  return {
    path: [...path, '{key}'],
    pattern: patternOf(kind, [...path.slice(0, -1), '{key}']),
    text: key,
    put: (document, text) => {
      const parent = parentOf(document, path)
      // Another entry is not to be lost.
      if (Object.hasOwn(parent, text)) return
      parent[text] = parent[key]
      delete parent[key]
    },
  }
}

function parentOf(document: unknown, path: Path): Record<string, unknown> {
  return path.slice(0, -1).reduce<unknown>((value, key) => (value as Record<string, unknown>)[key], document) as Record<
    string,
    unknown
  >
}

const PATTERNS = new Map([...DOCUMENT_SCHEMAS].map(([kind, schema]) => [kind, stringFields(schema)]))

function isMap(kind: string, path: Path): boolean {
  return (PATTERNS.get(kind) ?? []).includes(generalise(kind, [...path, '{key}']))
}

function patternOf(kind: string, path: Path): string {
  return `${kind}.${generalise(kind, path)}`
}

const SPLIT = new Map(
  [...PATTERNS].map(([kind, patterns]) => [kind, patterns.map((pattern) => ({ pattern, parts: pattern.split('.') }))]),
)

/** The schema's pattern that a concrete path matches. */
function generalise(kind: string, path: Path): string {
  const found = SPLIT.get(kind)?.find(
    ({ parts }) =>
      parts.length === path.length &&
      parts.every(
        (part, index) => part === path[index] || ((part === '*' || part === '[]') && path[index] !== '{key}'),
      ),
  )
  return found?.pattern ?? path.join('.')
}
