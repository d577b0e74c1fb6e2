/**
 * The HTTP server of a node: listens on a TCP port and on a unix socket, limits what comes in, counts it, and hands it to
 * the table of routes.ts. Turns whatever goes wrong into a problem document. Built by node.ts with everything that the routes read.
 */

import { X509Certificate } from 'node:crypto'
import { chmod, lstat, readFile, unlink } from 'node:fs/promises'
import { createServer, type IncomingMessage, type RequestListener, type Server } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import { connect, type AddressInfo, type Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { createSecureContext } from 'node:tls'
import { getRequestListener } from '@hono/node-server'
import { Hono } from 'hono'
import { canonical, type Json } from '../core/canonical.ts'
import type { Envelope } from '../core/envelope.ts'
import { PROXIED_HEADER } from '../core/names.ts'
import { asMeshError, MeshError } from '../errors.ts'
import type { Log } from '../log.ts'
import type { Clock, Startable } from '../ports.ts'
import type { StatusRecord } from '../status/status-record.ts'
import { Access, mayReadPath, workspaceOfBody, type Origin } from './access.ts'
import { limitConnections } from './connections.ts'
import { EventStream } from './events.ts'
import { checkQuery } from './parameters.ts'
import { problemOf, problemResponse } from './problem.ts'
import type { ApiContext, ApiEnv, RouteContext } from './route.ts'
import { ROUTES } from './routes.ts'
import { receiptView } from './views.ts'

export interface ApiServerOptions extends Omit<RouteContext, 'events'> {
  readonly clock: Clock
  readonly log: Log
  readonly bindAddress: string
  /** Whether `/metrics` needs no token over TCP. */
  readonly openMetrics: boolean
  /** 0: any free port, which `port` then tells. */
  readonly port: number
  /** With which TCP speaks TLS: files (PEM), read at start, or a pair itself; undefined: plain HTTP. */
  readonly tls: TlsFiles | TlsPair | undefined
  /** Unix socket that answers everything, for whoever may open it (mode 0660); undefined for none. */
  readonly socketPath: string | undefined
  /** Default: that of HTTP_LIMITS. */
  readonly headersTimeoutMs?: number
}

/** Limits of the HTTP layer. Beyond them Node or this file answers 408, 413, 431, or closes the connection. */
export const HTTP_LIMITS = {
  headerBytes: 16 * 1024,
  headers: 64,
  headersTimeoutMs: 10_000,
  requestTimeoutMs: 30_000,
  /** How often Node looks at these two; a connection may last so much longer. Its default is 30 s. */
  checkIntervalMs: 2_000,
  keepAliveTimeoutMs: 5_000,
  /** A connection on which nothing moves for so long is closed, as of a client that does not read. Longer than a request may take. */
  stallMs: 40_000,
  /** Of each listener; a further one takes the place that connections.ts tells. */
  connections: 512,
  /** How long stop() waits for requests in flight. */
  stopGraceMs: 2_000,
} as const

/** What shows that a proxy passes on another's request; a site cannot take the last one away. See access.ts. */
const PROXY_HEADERS = ['forwarded', 'x-forwarded-for', PROXIED_HEADER.toLowerCase()]

/** A socket path longer than this does not fit the kernel's sockaddr_un. */
const SOCKET_PATH_MAX_BYTES = 107

export class ApiServer implements Startable {
  readonly #options: ApiServerOptions
  readonly #access: Access
  readonly #events: EventStream
  readonly #context: RouteContext
  readonly #servers: Server[] = []
  #unsubscribe: (() => void)[] = []
  #port: number | undefined
  #isStopping = false
  #lastReceipt = ''
  #lastHealth = ''

  constructor(options: ApiServerOptions) {
    this.#options = options
    const { clock, openMetrics, replica } = options
    this.#access = new Access({ state: replica.state, own: options.info().key, clock, openMetrics })
    this.#events = new EventStream(clock)
    this.#context = { ...options, events: this.#events }
  }

  /** The TCP port in use; undefined while stopped. */
  get port(): number | undefined {
    return this.#port
  }

  /** Clients that listen to the events. */
  get eventClients(): number {
    return this.#events.clients
  }

  /** @throws MeshError `port_in_use` when the port or the socket is another process's, `config_invalid` for the certificate. */
  async start(): Promise<void> {
    if (this.#servers.length > 0) return
    const { bindAddress, port, socketPath, tls, replica, status } = this.#options
    try {
      const pair = tls === undefined || 'certPem' in tls ? tls : await readPair(tls)
      const tcp = this.#serve((socket) => ({ transport: 'tcp', address: socket.remoteAddress }), pair)
      await listen(tcp, { host: bindAddress, port }, `${bindAddress}:${port}`)
      this.#port = (tcp.address() as AddressInfo).port
      if (pair !== undefined) {
        const { fingerprint256: fingerprint } = new X509Certificate(pair.certPem)
        this.#options.log.info('the API speaks TLS', { fingerprint })
      }
      if (socketPath !== undefined) {
        await clearStaleSocket(socketPath)
        await listen(
          this.#serve(() => ({ transport: 'unix' })),
          { path: socketPath },
          socketPath,
        )
        await chmod(socketPath, 0o660)
      }
    } catch (error) {
      await this.stop()
      throw error
    }
    this.#unsubscribe = [
      replica.onStored((envelopes, source) => this.#announceEdits(envelopes, source)),
      status.onRecord((record) => this.#announcePeer(record)),
    ]
  }

  /** Ends event streams, gives requests in flight a moment, closes the rest. */
  async stop(): Promise<void> {
    for (const unsubscribe of this.#unsubscribe.splice(0)) unsubscribe()
    this.#isStopping = true
    this.#events.close()
    await Promise.all(this.#servers.splice(0).map((server) => this.#close(server)))
    this.#isStopping = false
    this.#port = undefined
  }

  /** To be called when the receipt or the health may have changed; tells the listening clients what is new. */
  changed(): void {
    if (this.#events.clients === 0) return
    const health = canonical(this.#options.health() as unknown as Json)
    const sorted: unknown = JSON.parse(health)
    if (health !== this.#lastHealth) this.#events.send('health', () => sorted)
    this.#lastHealth = health
    const own = this.#options.receipt() ?? null
    const receipt = canonical(own as unknown as Json)
    if (receipt !== this.#lastReceipt) this.#events.send('receipt', (reader) => receiptView(own, reader))
    this.#lastReceipt = receipt
  }

  // -------------------------------------------------------------------------------------------- listening

  #serve(originOf: (socket: Socket) => Origin, pair?: TlsPair): Server {
    const app = this.#app()
    const listener = getRequestListener(
      (request, env) => {
        const bindings = env as { incoming: IncomingMessage }
        return app.fetch(request, { ...env, origin: originOf(bindings.incoming.socket) })
      },
      {
        // HTTP/1.0 and some socket clients send no Host.
        hostname: 'localhost',
        overrideGlobalObjects: false,
        errorHandler: () =>
          problemResponse(new MeshError('input_invalid', 'the request line or Host header is malformed')),
      },
    )
    const headersTimeout = this.#options.headersTimeoutMs ?? HTTP_LIMITS.headersTimeoutMs
    const settings = {
      maxHeaderSize: HTTP_LIMITS.headerBytes,
      headersTimeout,
      requestTimeout: HTTP_LIMITS.requestTimeoutMs,
      keepAliveTimeout: HTTP_LIMITS.keepAliveTimeoutMs,
      connectionsCheckingInterval: HTTP_LIMITS.checkIntervalMs,
    }
    const answer: RequestListener = (incoming, outgoing) => void listener(incoming, outgoing)
    const server =
      pair === undefined
        ? createServer(settings, answer)
        : createTlsServer(
            { ...settings, cert: pair.certPem, key: pair.keyPem, handshakeTimeout: headersTimeout },
            answer,
          )
    if (pair !== undefined) answerPlainHttp(server)
    server.maxHeadersCount = HTTP_LIMITS.headers
    limitConnections(server, HTTP_LIMITS)
    server.on('clientError', answerMalformed)
    this.#servers.push(server)
    return server
  }

  async #close(server: Server): Promise<void> {
    if (!server.listening) return
    const cancel = this.#options.clock.after(HTTP_LIMITS.stopGraceMs, () => server.closeAllConnections())
    await new Promise((resolve) => {
      server.close(resolve)
      server.closeIdleConnections()
    })
    cancel()
  }

  // -------------------------------------------------------------------------------------------- answering

  #app(): Hono<ApiEnv> {
    const app = new Hono<ApiEnv>()
    app.use(async (c, next) => {
      const startedMs = this.#options.clock.monotonic()
      await next()
      c.header('x-content-type-options', 'nosniff')
      if (this.#isStopping) c.header('connection', 'close')
      if (c.res.headers.get('cache-control') === null) c.header('cache-control', 'no-cache')
      const seconds = (this.#options.clock.monotonic() - startedMs) / 1000
      this.#options.metrics.observeHttp(c.get('route'), c.res.status, seconds)
    })
    app.use(async (c, next) => {
      const { headers } = c.env.incoming
      const { authorization } = headers
      const isForwarded = PROXY_HEADERS.some((name) => headers[name] !== undefined)
      c.set('reader', this.#access.admit({ path: c.req.path, authorization, isForwarded }, c.env.origin))
      await next()
    })
    for (const route of ROUTES) {
      app.on(route.method.toUpperCase(), route.path.replaceAll(/\{(\w+)\}/g, ':$1'), async (c) => {
        c.set('route', route.path)
        checkQuery(route, c.req.query())
        return await route.handle(c, this.#context)
      })
    }
    app.notFound((c) => this.#notFound(c))
    app.onError((error, c) => this.#failed(error, c))
    return app
  }

  #notFound(c: ApiContext): Response {
    const allowed = ROUTES.filter((route) => pathPattern(route.path).test(c.req.path)).map(({ method }) => method)
    if (allowed.length === 0) {
      const hint = 'GET /v1/openapi.json lists what there is.'
      return problemResponse(new MeshError('not_found', `there is no ${c.req.path}`, { hint }))
    }
    const methods = allowed.flatMap((method) => (method === 'get' ? ['GET', 'HEAD'] : [method.toUpperCase()]))
    const allow = [...new Set(methods)].join(', ')
    const error = new MeshError('method_not_allowed', `${c.req.path} has no ${c.req.method}`, {
      hint: `Allowed: ${allow}.`,
    })
    return problemResponse(error, { headers: { allow } })
  }

  #failed(error: unknown, c: ApiContext): Response {
    const meshError = asMeshError(error)
    if (meshError.code === 'internal') {
      this.#options.log.error('a request failed', {
        method: c.req.method,
        path: c.req.path,
        error: meshError.cause ?? meshError,
      })
    }
    // What is left of a body that is too large is not read; the connection cannot be used again.
    return problemResponse(meshError, meshError.code === 'too_large' ? { headers: { connection: 'close' } } : {})
  }

  // -------------------------------------------------------------------------------------------- events

  #announceEdits(envelopes: readonly Envelope[], source: string): void {
    if (this.#events.clients === 0) return
    const paths = new Set<string>()
    for (const { id, body } of envelopes) {
      const workspace = workspaceOfBody(body)
      const resources = body.type === 'edit' ? body.edits.map(([path]) => path) : []
      for (const path of resources) paths.add(path)
      const common =
        body.type === 'genesis'
          ? { by: null, workspace: null, note: '' }
          : { by: body.by, workspace: body.ws, note: body.note }
      const edit = { id, type: body.type, ...common, at: body.at, resources, source }
      this.#events.send('edit', (reader) => (reader.mayRead(workspace) ? edit : undefined))
      if (body.type === 'edit') continue
      this.#events.send('policy', (reader) => (reader.mayRead(workspace) ? { id, type: body.type } : undefined))
    }
    for (const path of paths) {
      const state = this.#options.replica.state.resource(path)
      if (state === undefined) continue
      const { exists, hash } = state
      this.#events.send('resource', (reader) => (mayReadPath(reader, path) ? { path, exists, hash } : undefined))
    }
  }

  #announcePeer({ node, zones: claimed, health, receipt, leaving }: StatusRecord): void {
    const places = this.#options.membership.placesOf(node, claimed)
    const zones = claimed.filter((zone) => places.some((place) => place.zones.includes(zone)))
    this.#events.send('peer', (reader) => ({
      key: node,
      zones,
      health,
      receipt: receiptView(receipt, reader),
      leaving,
    }))
  }
}

interface TlsFiles {
  readonly cert: string
  readonly key: string
}

interface TlsPair {
  readonly certPem: string
  readonly keyPem: string
}

/** @throws MeshError `config_invalid` when they cannot be read, or do not belong together. */
async function readPair(files: TlsFiles): Promise<TlsPair> {
  try {
    const [certPem, keyPem] = await Promise.all([readFile(files.cert, 'utf8'), readFile(files.key, 'utf8')])
    createSecureContext({ cert: certPem, key: keyPem })
    return { certPem, keyPem }
  } catch (error) {
    throw new MeshError(
      'config_invalid',
      `the API cannot speak TLS with ${files.cert} and ${files.key}: ${(error as Error).message}`,
      { field: 'http_tls', hint: 'Name a certificate chain and its private key, both PEM, that mesh-node may read.' },
      error,
    )
  }
}

/** The pattern of request paths that a route's path stands for. */
function pathPattern(path: string): RegExp {
  return new RegExp(`^${path.replaceAll('.', '\\.').replaceAll(/\{\w+\}/g, '[^/]+')}$`)
}

/** Answers what is not HTTP, or not in time, when nothing was answered yet. */
function answerMalformed(error: NodeJS.ErrnoException, socket: Duplex): void {
  if (!socket.writable || error.code === 'ECONNRESET') return void socket.destroy()
  const [status, reason] = MALFORMED[error.code ?? ''] ?? [400, 'Bad Request']
  socket.end(rawProblem(status, reason, new MeshError('input_invalid', `${reason}: the request was not understood`)))
}

/** Tells whoever speaks plain HTTP to a port of TLS so, in plain HTTP. */
function answerPlainHttp(server: Server): void {
  // The connection below TLS, by the client's address: the TLS above it is over when it is known what came.
  const open = new Map<string, Socket>()
  server.on('connection', (socket: Socket) => {
    const client = `${socket.remoteAddress} ${socket.remotePort}`
    open.set(client, socket)
    socket.once('close', () => open.delete(client))
  })
  server.on('tlsClientError', (error: NodeJS.ErrnoException, { remoteAddress, remotePort }: Socket) => {
    const socket = open.get(`${remoteAddress} ${remotePort}`)
    if (error.code !== 'ERR_SSL_HTTP_REQUEST' || socket?.writable !== true) return
    const problem = new MeshError('input_invalid', 'this port speaks HTTPS, and the request was plain HTTP', {
      hint: 'Write https:// in place of http://. For meshctl: --api https://HOST:PORT --pin KEY, with the key of the node.',
    })
    socket.write(rawProblem(400, 'Bad Request', problem))
    socket.destroySoon()
  })
}

/** A problem as the bytes of an HTTP answer, where nothing can write one. */
function rawProblem(status: number, reason: string, error: MeshError): string {
  const body = JSON.stringify(problemOf(error, status))
  return (
    `HTTP/1.1 ${status} ${reason}\r\nconnection: close\r\ncontent-type: application/problem+json\r\n` +
    `content-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`
  )
}

const MALFORMED: Readonly<Record<string, readonly [number, string]>> = {
  HPE_HEADER_OVERFLOW: [431, 'Request Header Fields Too Large'],
  ERR_HTTP_REQUEST_TIMEOUT: [408, 'Request Timeout'],
}

async function listen(
  server: Server,
  place: { host: string; port: number } | { path: string },
  name: string,
): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(place, () => {
      server.off('error', reject)
      resolve()
    })
  }).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'EADDRINUSE') {
      throw new MeshError(
        'port_in_use',
        `${name} is in use by another process`,
        {
          field: 'http_bind_port',
          hint: 'See which with: ss -ltnp; then stop it, or set another http_bind_port.',
        },
        error,
      )
    }
    throw new MeshError(
      'config_invalid',
      `cannot listen on ${name}: ${error.message}`,
      {
        field: 'http_bind_address',
        hint: 'Give an address of this host, a port above 1023 unless root, and a data directory that may be written.',
      },
      error,
    )
  })
}

/** Removes the socket of a process that died. @throws MeshError `port_in_use` when one lives behind it. */
async function clearStaleSocket(path: string): Promise<void> {
  if (Buffer.byteLength(path) > SOCKET_PATH_MAX_BYTES) {
    throw new MeshError('config_invalid', `the socket path ${path} is over ${SOCKET_PATH_MAX_BYTES} bytes`, {
      field: 'data_dir',
      hint: 'Use a shorter data_dir.',
    })
  }
  const stat = await lstat(path).catch(() => undefined)
  if (stat === undefined) return
  if (!stat.isSocket()) {
    throw new MeshError('config_invalid', `${path} exists and is not a socket`, {
      field: 'data_dir',
      hint: 'Move it away.',
    })
  }
  const isLive = await new Promise<boolean>((resolve) => {
    const socket = connect(path, () => {
      socket.destroy()
      resolve(true)
    })
    socket.once('error', () => resolve(false))
  })
  if (isLive) {
    throw new MeshError('port_in_use', `a process answers on ${path} already`, {
      field: 'data_dir',
      hint: 'Is another mesh-node running on this data_dir? Stop it first.',
    })
  }
  await unlink(path)
}
