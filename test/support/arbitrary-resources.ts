/**
 * Arbitrary valid documents of every kind, with odd keys where people choose keys. Used by property tests of fields
 * and rendering.
 */

import fc from 'fast-check'
import { makeCertificate } from './certificates.ts'

/** Of no host that any document names. */
const PAIR = makeCertificate(['arbitrary.example'])

const name = fc.stringMatching(/^[a-z0-9](?:[a-z0-9-]{0,8}[a-z0-9])?$/)
const key = fc.oneof(name, fc.constantFrom('a/b', '~', '~1', '/', 'x y', 'ä', '*', 'labels', 'constructor', '0', '$'))
const word = fc.oneof(
  fc.constantFrom('', '"', '\\', ';', '}', "'", '# x', 'é', '{', 'a b'),
  fc.stringMatching(/^[\x20-\x7e]{0,20}$/),
)
const templateText = word.map((text) => text.replaceAll('$', '$$$$'))
const duration = fc.constantFrom('500ms', '30s', '5m', '1h')
const size = fc.constantFrom('0', '512k', '10m', '1g')
const host = fc.oneof(
  fc.tuple(name, name).map((parts) => parts.join('.')),
  name.map((text) => `*.${text}.example`),
  fc.constant('*'),
)
const network = fc.constantFrom('10.0.0.0/8', '10.0.0.1', '::1', '2001:db8::/32', '0.0.0.0/0', '::/0')
const labels = fc.dictionary(key, fc.stringMatching(/^[\x20-\x7e]{0,20}$/), { maxKeys: 3 })

const optional = <T>(shape: { [K in keyof T]: fc.Arbitrary<T[K]> }, required: (keyof T)[] = []) =>
  fc.record(shape, { requiredKeys: required })

const timeouts = optional({ connect: duration, read: duration, send: duration })
const headerNames = fc.constantFrom('X-One', 'X-Two', 'x_three', 'Cache-Control', 'Authorization')
const requestHeaders = optional({
  set: fc.dictionary(headerNames, templateText, { maxKeys: 3 }),
  remove: fc.uniqueArray(headerNames, { maxLength: 3 }),
})
const responseHeaders = optional({
  set: fc.dictionary(headerNames, templateText, { maxKeys: 3 }),
  remove: fc.uniqueArray(headerNames, { maxLength: 3 }),
})

const status = fc.constantFrom(200, 404, 503)
const page = fc.oneof(
  optional({ body: word, contentType: fc.constant('text/html'), status }, ['body']),
  optional({ file: fc.constantFrom('/srv/404.html', '/srv/ä $x.html', '/p'), status }, ['file']),
  optional({ upstream: name, path: fc.constantFrom('/', '/sorry?a=%20b'), status }, ['upstream']),
)
const compression = optional({
  enabled: fc.boolean(),
  types: fc.uniqueArray(fc.constantFrom('text/css', 'text/html', 'application/x.y+json'), { maxLength: 3 }),
  minLength: fc.nat(9999),
})
const errorPages = optional({
  intercept: fc.boolean(),
  pages: fc.dictionary(fc.constantFrom('404', '502,503', '500', '4xx', '5xx', '418'), page, { maxKeys: 4 }),
})

const names = optional({ cookie: fc.constantFrom('session', 'Ab_1'), header: fc.constantFrom('X-User', 'x-a') })
const split = fc.dictionary(name, fc.record({ upstream: name, weight: fc.integer({ min: 0, max: 10_000 }) }), {
  maxKeys: 3,
})
const action = fc.oneof(
  fc.record({
    proxy: optional(
      {
        upstream: name,
        split,
        sticky: names,
        force: names,
        scheme: fc.constantFrom('http', 'https'),
        rewrite: fc.record({ regex: fc.constant('^/(.*)"$'), replacement: fc.constantFrom('/x$1', '/a+$$b?c=$1') }),
        requestBuffering: fc.boolean(),
        buffers: optional({ size: fc.constantFrom('4k', '64k'), count: fc.integer({ min: 3, max: 9 }) }),
        maxTempFileSize: fc.constantFrom('0', '64k', '900m'),
        retries: optional({
          attempts: fc.integer({ min: 1, max: 9 }),
          timeout: duration,
          on: fc.uniqueArray(fc.constantFrom('error', 'timeout', '503', 'non_idempotent'), { maxLength: 3 }),
        }),
        cookies: optional({
          domains: fc.dictionary(fc.constantFrom('a.internal', '.b'), fc.constant('a.example'), { maxKeys: 2 }),
          paths: fc.dictionary(fc.constantFrom('/', '/a/', '/b'), fc.constantFrom('/', '/x/'), { maxKeys: 2 }),
          secure: fc.boolean(),
          httpOnly: fc.boolean(),
          sameSite: fc.constantFrom('strict', 'lax', 'none'),
        }),
        redirects: fc.dictionary(
          fc.constantFrom('http://a.internal:8080/', '/a/'),
          fc.constantFrom('/', 'https://$host/b$$'),
          { maxKeys: 2 },
        ),
        websocket: fc.boolean(),
        buffering: fc.boolean(),
      },
      ['upstream'],
    ),
  }),
  fc.record({
    static: optional(
      {
        root: fc.constantFrom('/srv/www', '/srv/ä b', '/srv/$x'),
        index: fc.constantFrom('index.html', 'a b.html'),
        spa: fc.boolean(),
      },
      ['root'],
    ),
  }),
  fc.record({
    redirect: optional(
      {
        to: fc.constantFrom('/new', 'https://a.example/b', 'https://$host/x'),
        regex: fc.constantFrom('^/a', '^/"(b) {2}'),
        status: fc.constantFrom(301, 302, 303, 307, 308),
      },
      ['to'],
    ),
  }),
  fc.record({ return: optional({ status: fc.constantFrom(200, 204, 404, 503), body: word }, ['status']) }),
)
const common = {
  requestHeaders,
  responseHeaders,
  timeouts,
  maxBodySize: size,
  errorPages,
}
const valueTest = fc.oneof(
  fc.record({ exact: word.map((text) => `x${text}`) }),
  fc.record({ regex: fc.constantFrom('^a', 'b$', '[0-9]+ "x"'), present: fc.boolean() }),
  fc.record({ present: fc.boolean() }),
)
const variableNames = fc.constantFrom('a', 'B', 'a_1')
const when = optional({
  methods: fc.uniqueArray(fc.constantFrom('GET', 'POST', 'PURGE'), { maxLength: 3 }),
  headers: fc.dictionary(fc.constantFrom('X-One', 'x-two', 'Accept'), valueTest, { maxKeys: 3 }),
  cookies: fc.dictionary(variableNames, valueTest, { maxKeys: 2 }),
  query: fc.dictionary(variableNames, valueTest, { maxKeys: 2 }),
})
const route = fc
  .tuple(
    optional({
      ...common,
      when,
      order: fc.integer({ min: -9, max: 9 }),
      policies: fc.uniqueArray(name, { maxLength: 1 }),
      withoutPolicies: fc.uniqueArray(name, { maxLength: 2 }),
    }),
    action,
    fc.constantFrom('prefix', 'exact', 'regex'),
  )
  .map(([rest, branch, match]) => ({ ...rest, ...branch, match }))

/** Routes get paths of their own, since two of one path are refused. */
const routes = fc
  .dictionary(key, route, { maxKeys: 4 })
  .map((map) =>
    Object.fromEntries(
      Object.entries(map).map(([id, value], index) => [
        id,
        { ...value, path: value.match === 'regex' ? `^/r${index}$` : `/p${index}` },
      ]),
    ),
  )

const siteSpec = optional(
  {
    ...common,
    hosts: fc.array(host, { minLength: 1, maxLength: 4 }),
    listeners: fc.dictionary(
      key,
      optional(
        {
          port: fc.integer({ min: 1, max: 65535 }),
          address: fc.constantFrom('127.0.0.1', '::1', '2001:DB8::1'),
          proxyProtocol: fc.boolean(),
        },
        ['port'],
      ),
      { maxKeys: 2 },
    ),
    nodeSelector: labels,
    routes,
    accessLog: fc.boolean(),
    accessLogPercent: fc.integer({ min: 1, max: 100 }),
    accessLogFields: fc.dictionary(fc.constantFrom('tenant', 'x_1'), fc.constantFrom('$http_x', 'a "$$\\ ${host}'), {
      maxKeys: 2,
    }),
    policies: fc.uniqueArray(name, { maxLength: 1 }),
    withoutPolicies: fc.uniqueArray(name, { maxLength: 1 }),
    keepalive: optional({ timeout: duration, requests: fc.integer({ min: 1, max: 99 }) }),
    compression,
    maintenance: optional({
      enabled: fc.boolean(),
      retryAfter: fc.integer({ min: 1, max: 999 }),
      body: word,
      allow: fc.uniqueArray(network, { maxLength: 4 }),
    }),
    privileged: optional({ serverSnippet: fc.constantFrom('allow all;', 'if ($http_x) { return 403; }\n# end') }),
  },
  ['hosts'],
)

const tls = optional(
  {
    certificate: name,
    minVersion: fc.constantFrom('TLSv1.2', 'TLSv1.3'),
    http2: fc.constant(true),
    clientCertificate: optional(
      { ca: name, mode: fc.constantFrom('require', 'optional'), depth: fc.integer({ min: 1, max: 10 }) },
      ['ca'],
    ),
  },
  ['certificate'],
)
const proxyTls = optional({
  ca: name,
  depth: fc.integer({ min: 1, max: 10 }),
  serverName: fc.constantFrom('$host', 'up.example'),
  clientCertificate: name,
})

interface SomeRoute {
  readonly proxy?: { readonly scheme?: string } & Readonly<Record<string, unknown>>
}

/** What does not go with gRPC, one value of it or all. */
const HTTP_ALONE = ['websocket', 'requestBuffering', 'buffers', 'maxTempFileSize', 'cookies', 'redirects']

/** A site with TLS; what it encrypts to upstreams says how, and is gRPC where that is possible. */

const secureSpec = fc
  .record({
    site: siteSpec,
    https: optional({ port: fc.integer({ min: 1, max: 999 }), tls }, ['port', 'tls']),
    rest: optional({
      redirectToHttps: fc.boolean(),
      hsts: optional({ maxAge: fc.nat(999), includeSubdomains: fc.boolean() }),
    }),
    upstreamTls: proxyTls,
  })
  .map(({ site, https, rest, upstreamTls }) => {
    const changed = Object.entries((site.routes ?? {}) as Record<string, SomeRoute>).map(([id, one]) => {
      if (one.proxy?.scheme !== 'https') return [id, one] as const
      const scheme = HTTP_ALONE.some((field) => one.proxy?.[field] !== undefined) ? 'https' : 'grpcs'
      return [id, { ...one, proxy: { ...one.proxy, scheme, tls: upstreamTls } }] as const
    })
    return { ...site, ...rest, listeners: { http: { port: 1000 }, https }, routes: Object.fromEntries(changed) }
  })

const certificateSpec = optional(
  { nodeSelector: labels, certificate: fc.constant([PAIR.certificate]), key: fc.record({ secret: name }) },
  ['certificate'],
)

const endpoint = optional({
  weight: fc.integer({ min: 1, max: 9 }),
  backup: fc.boolean(),
  down: fc.boolean(),
  maxFails: fc.integer({ min: 0, max: 9 }),
  failTimeout: fc.constantFrom('10s', '1m'),
})
const upstreamSpec = optional({
  nodeSelector: labels,
  method: fc.constantFrom('round_robin', 'least_conn'),
  consistent: fc.boolean(),
  hashKey: fc.constantFrom('$cookie_Session', 'a-${arg_Key}', '$http_x_user$remote_addr'),
  endpoints: fc.dictionary(
    fc.constantFrom('10.0.0.1:80', '[2001:db8::1]:8080', 'app.internal:9000', 'b.internal:1'),
    endpoint,
    { maxKeys: 4 },
  ),
  keepalive: optional(
    { connections: fc.integer({ min: 1, max: 99 }), timeout: duration, requests: fc.integer({ min: 1, max: 999 }) },
    ['connections'],
  ),
  healthCheck: fc.oneof(
    optional({
      scheme: fc.constantFrom('http', 'https'),
      path: fc.constantFrom('/', '/health?a=%20', '/"{;}'),
      host: fc.constantFrom('a.example', '[::1]:80'),
      port: fc.integer({ min: 1, max: 65535 }),
      interval: duration,
      timeout: fc.constantFrom('100ms', '2s'),
      healthyThreshold: fc.integer({ min: 1, max: 9 }),
      unhealthyThreshold: fc.integer({ min: 1, max: 9 }),
      expect: optional({ status: fc.constantFrom([200], [200, 404]), body: word }),
      jitter: fc.nat(100),
    }),
    optional({ type: fc.constantFrom('tcp', 'grpc'), interval: duration }, ['type']),
  ),
  outlierDetection: optional({
    consecutive5xx: fc.nat(9),
    errorRatePercent: fc.integer({ min: 1, max: 100 }),
    minRequests: fc.integer({ min: 1, max: 99 }),
    interval: duration,
    baseEjection: duration,
    maxEjection: duration,
    maxEjectionPercent: fc.integer({ min: 1, max: 100 }),
  }),
  circuitBreaker: optional({
    errorRatePercent: fc.integer({ min: 1, max: 100 }),
    minRequests: fc.integer({ min: 1, max: 99 }),
    window: duration,
    openFor: duration,
    halfOpenRequests: fc.integer({ min: 1, max: 9 }),
  }),
  panicThresholdPercent: fc.nat(100),
})

const templateUse = optional(
  { name, values: fc.constantFrom({ path: 'a' }, { size: 3 }, { size: '5m', path: true }) },
  ['name'],
)
const madeSpec = fc.record({ hosts: fc.array(host, { minLength: 1, maxLength: 2 }), template: templateUse })

const templateSpec = fc.record({
  parameters: fc.constantFrom({ size: {} }, { size: { default: 4 } }, { size: { default: '4m' }, path: {} }),
  site: fc.record({ accessLog: fc.boolean(), maxBodySize: fc.constantFrom('{{size}}', '{{size}}k', '7m') }),
})

const settingsSpec = optional({
  nodeSelector: labels,
  reload: optional({
    quietMs: fc.nat(60_000),
    maxWaitMs: fc.nat(60_000),
    bakeSeconds: fc.nat(60),
    drainMs: fc.nat(60_000),
    confirmShrink: fc.stringMatching(/^[0-9a-f]{16}$/),
  }),
  workerShutdownTimeout: duration,
  realClient: optional({
    trust: fc.uniqueArray(network, { maxLength: 3 }),
    header: fc.constantFrom('X-Real-IP', 'CF-Connecting-IP'),
    recursive: fc.boolean(),
  }),
  defaults: optional({
    maxBodySize: size,
    timeouts,
    compression,
    requestHeaders,
    responseHeaders,
    hsts: optional({ maxAge: fc.nat(999), includeSubdomains: fc.boolean() }),
    errorPages,
    policies: fc.uniqueArray(name, { maxLength: 1 }),
  }),
  privileged: optional({
    httpSnippets: fc.dictionary(
      name,
      fc.constantFrom('map $host $own_host { default 1; }', 'geo $own { default 1; }\n# end'),
      {
        maxKeys: 2,
      },
    ),
  }),
})

const counted = {
  by: fc.constantFrom('client', 'site', 'header', 'cookie'),
  zoneSize: fc.constantFrom('32k', '1m'),
  header: fc.constant('X-Own'),
  cookie: fc.constant('own'),
}
const anyLimit = { status: fc.constantFrom(429, 444), dryRun: fc.boolean() }
const limits = <T>(limit: fc.Arbitrary<T>) => fc.dictionary(key, limit, { minKeys: 1, maxKeys: 2 })
const single = (...texts: string[]) => fc.subarray(texts, { minLength: 1, maxLength: 1 })
const policySpec = fc.oneof(
  fc.record({
    mtls: optional({ subjects: fc.uniqueArray(fc.constantFrom('CN=a', 'CN=ä,O="x"'), { minLength: 1 }) }),
  }),
  fc.record({
    rateLimit: optional(
      {
        ...anyLimit,
        limits: limits(
          optional({ ...counted, rate: fc.constantFrom('9r/s', '30r/m'), burst: fc.nat(9), delayAfter: fc.nat(9) }, [
            'rate',
            'header',
            'cookie',
          ]),
        ),
      },
      ['limits'],
    ),
  }),
  fc.record({
    connectionLimit: optional(
      {
        ...anyLimit,
        limits: limits(optional({ ...counted, max: fc.integer({ min: 1, max: 9 }) }, ['max', 'header', 'cookie'])),
      },
      ['limits'],
    ),
  }),
  fc.record({
    cors: optional(
      {
        origins: fc.subarray(['https://a.example', 'http://*.b.example:81'], { minLength: 1 }),
        methods: single('GET', 'PUT'),
        headers: single('X-One', 'Authorization'),
        exposedHeaders: single('X-Two'),
        credentials: fc.boolean(),
        maxAge: fc.nat(999),
      },
      ['origins'],
    ),
  }),
  fc.record({
    externalAuth: optional(
      {
        upstream: name,
        path: fc.constantFrom('/', '/auth?a=%20'),
        timeout: duration,
        headers: single('X-User', 'x-a'),
        signin: fc.constantFrom('https://login.example/?rd=$scheme://$host$request_uri', 'http://a/$$'),
      },
      ['upstream'],
    ),
  }),
  fc.record({
    jwt: optional(
      {
        cookie: fc.constantFrom('token', 'Ab_1'),
        keys: fc.dictionary(key, fc.record({ alg: fc.constant('HS256'), secret: name }), { minKeys: 1, maxKeys: 2 }),
        issuers: single('https://idp.example', 'a"b'),
        audiences: single('shop', "x'"),
        requireExp: fc.boolean(),
        leewaySeconds: fc.nat(600),
        headers: fc.dictionary(fc.constantFrom('X-User', 'x-a'), fc.constantFrom('sub', 'a"]]b'), { maxKeys: 2 }),
      },
      ['keys'],
    ),
  }),
  fc.record({
    cache: optional({
      zoneSize: fc.constantFrom('64k', '1m'),
      maxSize: fc.constantFrom('1m', '9g'),
      inactive: fc.constantFrom('9s', '1h'),
      valid: fc.dictionary(fc.constantFrom('200', '301,302', 'any'), fc.constantFrom('9s', '1h'), { maxKeys: 3 }),
      key: fc.constantFrom('$request_uri', '"$$ $host;$request_uri'),
      bypass: optional({ headers: single('X-One', 'Accept'), cookies: single('a', 'B'), query: single('a', 'B') }),
      authorized: fc.boolean(),
      ignore: fc.subarray(['cacheControl', 'expires', 'setCookie', 'vary']),
      stale: fc.subarray(['error', 'updating', '503']),
      backgroundUpdate: fc.boolean(),
      lock: fc.boolean(),
      revalidate: fc.boolean(),
      statusHeader: fc.boolean(),
      purge: fc.dictionary(fc.constantFrom('/', '/a"b', '/a"b/$c'), fc.nat(9), { maxKeys: 3 }),
    }),
  }),
  fc.record({
    waf: optional(
      {
        mode: fc.constantFrom('off', 'detect', 'block'),
        rules: fc.dictionary(
          key,
          optional(
            {
              methods: single('PUT', 'TRACE'),
              path: fc.constantFrom('^/a', '"b"'),
              query: fc.constantFrom('a=', '%2e$'),
              userAgent: fc.constant('^x;y'),
              headers: fc.dictionary(fc.constantFrom('X-One', 'Accept'), fc.constantFrom('^a', 'b c'), { maxKeys: 2 }),
              detectOnly: fc.boolean(),
            },
            ['userAgent'],
          ),
          { minKeys: 1, maxKeys: 3 },
        ),
      },
      ['mode', 'rules'],
    ),
  }),
  fc.record({
    basicAuth: optional(
      {
        realm: word.filter((text) => text !== '' && text !== 'off'),
        secret: name,
        users: fc.dictionary(
          fc.constantFrom('ada', 'grace h', 'é'),
          fc.constant('$apr1$saltsalt$xxxxxxxxxxxxxxxxxxxxxx'),
          {
            maxKeys: 2,
          },
        ),
      },
      ['secret'],
    ),
  }),

  fc.record({
    access: optional(
      {
        allow: fc.uniqueArray(network, { maxLength: 4 }),
        deny: fc.uniqueArray(network, { maxLength: 4 }),
        default: fc.constantFrom('allow', 'deny'),
      },
      ['default'],
    ),
  }),
)

const streamPort = fc.record({ port: fc.integer({ min: 1, max: 65535 }) })
const securePort = fc.record({
  port: fc.integer({ min: 1, max: 65535 }),
  tls: optional({ certificate: name, minVersion: fc.constantFrom('TLSv1.2', 'TLSv1.3') }, ['certificate']),
})
const datagramPort = fc.record({ port: fc.integer({ min: 1, max: 65535 }), protocol: fc.constant('udp') })
const anyStream = {
  upstream: name,
  timeouts: optional({ connect: duration, idle: duration }),
  allow: fc.uniqueArray(network, { maxLength: 3 }),
  deny: fc.uniqueArray(network, { maxLength: 3 }),
  connectionsPerClient: fc.integer({ min: 1, max: 9 }),
}
const streamSpec = fc.oneof(
  optional(
    {
      ...anyStream,
      listeners: fc.dictionary(key, streamPort, { minKeys: 1, maxKeys: 2 }),
      hosts: fc.uniqueArray(host, { maxLength: 3 }),
      proxyProtocol: fc.boolean(),
    },
    ['listeners', 'upstream'],
  ),
  optional(
    {
      ...anyStream,
      listeners: fc.dictionary(key, securePort, { minKeys: 1, maxKeys: 1 }),
      hosts: fc.uniqueArray(host, { maxLength: 3 }),
      upstreamTls: optional({ serverName: fc.constant('up.example'), clientCertificate: name }),
    },
    ['listeners', 'upstream'],
  ),
  optional(
    {
      ...anyStream,
      listeners: fc.dictionary(key, datagramPort, { minKeys: 1, maxKeys: 2 }),
      responses: fc.integer({ min: 0, max: 9 }),
    },
    ['listeners', 'upstream'],
  ),
)

const metadata = optional({ name, zone: fc.constantFrom('*', 'eu', 'eu.west', 'us'), labels }, ['name'])

function document<K extends string>(kind: K, spec: fc.Arbitrary<object>, about: fc.Arbitrary<object> = metadata) {
  return fc.record({ apiVersion: fc.constant('nxmesh/v1'), kind: fc.constant(kind), metadata: about, spec })
}

/** A valid document of any kind. */
export const resourceArbitrary: fc.Arbitrary<unknown> = fc.oneof(
  {
    weight: 3,
    arbitrary: document('Site', fc.oneof({ weight: 2, arbitrary: siteSpec }, { weight: 1, arbitrary: secureSpec })),
  },
  { weight: 2, arbitrary: document('Upstream', upstreamSpec) },
  { weight: 1, arbitrary: document('Stream', streamSpec) },
  { weight: 1, arbitrary: document('Template', templateSpec) },
  { weight: 1, arbitrary: document('Site', madeSpec) },
  { weight: 1, arbitrary: document('Certificate', certificateSpec) },
  { weight: 2, arbitrary: document('Policy', policySpec) },
  {
    weight: 1,
    arbitrary: document(
      'ZoneSettings',
      settingsSpec,
      metadata.map((about) => ({ ...about, name: 'settings' })),
    ),
  },
)
