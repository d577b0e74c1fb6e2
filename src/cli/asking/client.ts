/**
 * The HTTP client of meshctl: speaks to one node over its unix socket or TCP, reads answers through the API's schemas, and
 * turns problem documents and broken connections into MeshErrors. Signs its own tokens for TCP. Every verb reaches the mesh
 * through it.
 */

import { request as httpRequest, type IncomingMessage, type RequestOptions } from 'node:http'
import { request as httpsRequest } from 'node:https'
import type { z } from 'zod'
import * as schemas from '../../api/schemas.ts'
import type { KeyPair, WireEnvelope } from '../../core/envelope.ts'
import { parseResourcePath, type ResourceName } from '../../core/names.ts'
import { signToken } from '../../core/token.ts'
import { ERROR_CODES, MeshError, type ErrorCode } from '../../errors.ts'
import { isPinned, pinnedConnection, tlsFault, type Trust } from './trust.ts'

export const CLIENT_LIMITS = {
  timeoutMs: 30_000,
  /** Of one answer; a page of a thousand large resources stays below it. */
  answerBytes: 256 * 1024 * 1024,
  /** Life of a token, s, and how long before its end another is signed. */
  tokenLifetime: 300,
  tokenMargin: 60,
  /** Of one server-sent event. */
  eventBytes: 1024 * 1024,
} as const

/** `unix:/path/api.sock`, `http://host:port` or `https://host:port`. */
export type ApiAddress = string

export interface ServerEvent {
  readonly event: string
  readonly data: unknown
}

interface Answer {
  readonly status: number
  readonly body: unknown
}

/** What tokens are made of. */
export interface Identity {
  /** The reader's key. @throws MeshError when there is none. */
  readonly key: () => Promise<KeyPair>
  /** Asked about the mesh of a node before a token is signed for it. @throws MeshError when it is not the one that is meant. */
  readonly confirm: (mesh: string) => Promise<void>
  /** ms since the epoch. */
  readonly now: () => number
}

interface Token {
  readonly text: string
  /** From when on another one is signed, ms since the epoch. */
  readonly staleAt: number
}

export class ApiClient {
  readonly #signal: AbortSignal
  readonly #identity: Identity
  readonly #trust: Trust
  readonly #tokens = new Map<ApiAddress, Token>()
  /** What is left to try; the first is the one in use. */
  #addresses: readonly ApiAddress[]
  readonly #tried = new Set<string>()

  /** @param addresses tried in order until one answers. @throws MeshError `usage` for one that is not an address. */
  constructor(addresses: readonly ApiAddress[], signal: AbortSignal, identity: Identity, trust: Trust) {
    for (const address of addresses) requestTarget(address, trust)
    this.#trust = trust
    this.#addresses = addresses
    this.#signal = signal
    this.#identity = identity
  }

  get address(): ApiAddress {
    return this.#addresses[0] as ApiAddress
  }

  /** Id of the node's mesh; null while it has none. The one thing that needs no token. */
  async mesh(): Promise<string | null> {
    return (await this.#get(HEALTH, schemas.HEALTH_ANSWER, [503])).mesh
  }

  node(): Promise<schemas.NodeView> {
    return this.#get('/v1/node', schemas.NODE)
  }

  /** The resource, or undefined when no edit ever touched it. A deleted one does not exist, and has heads. */
  async resource(path: string): Promise<schemas.ResourceView | undefined> {
    const { workspace, zone, kind, name } = parseResourcePath(path) as ResourceName
    const url = `/v1/resources/${[workspace, zone, kind, name].map(encodeURIComponent).join('/')}`
    const answer = await this.#ask('GET', url)
    if (answer.status !== 404) return read(answer, schemas.RESOURCE)
    return schemas.RESOURCE_GONE.safeParse(answer.body).data?.resource
  }

  resources(filter: Readonly<Record<string, string | undefined>>): Promise<schemas.ResourceView[]> {
    return this.#pages('/v1/resources', filter, schemas.RESOURCES)
  }

  workspaces(): Promise<schemas.WorkspaceView[]> {
    return this.#pages('/v1/workspaces', {}, schemas.WORKSPACES)
  }

  /** Every key and envelope that a shortened id or a name may mean. */
  ids(text: string): Promise<schemas.IdView[]> {
    return this.#pages('/v1/ids', { text }, schemas.IDS)
  }

  peers(): Promise<schemas.PeerItem[]> {
    return this.#pages('/v1/peers', {}, schemas.PEERS)
  }

  receipts(): Promise<schemas.NodeReceipt[]> {
    return this.#pages('/v1/receipts', {}, schemas.RECEIPTS)
  }

  grants(subject?: string): Promise<schemas.GrantView[]> {
    return this.#pages('/v1/grants', { subject }, schemas.GRANTS)
  }

  /** Hosts that asked this node to be let in. */
  pending(): Promise<schemas.PendingView[]> {
    return this.#pages('/v1/pending', {}, schemas.PENDING_PAGE)
  }

  async reject(rejection: z.infer<typeof schemas.REJECTION>): Promise<void> {
    read(await this.#ask('POST', '/v1/rejections', JSON.stringify(rejection)), schemas.REJECTED)
  }

  chains(author: string): Promise<schemas.ChainView[]> {
    return this.#pages('/v1/chains', { author }, schemas.CHAINS)
  }

  /** The chains in which keys in force have forked; only of one author, if told. */
  forkedChains(author?: string): Promise<schemas.ChainView[]> {
    return this.#pages('/v1/chains', { forked: '1', author }, schemas.CHAINS)
  }

  chain(workspace: string, author: string): Promise<schemas.ChainView> {
    return this.#get(`/v1/chains/${encodeURIComponent(workspace)}/${author}`, schemas.CHAIN)
  }

  genesis(): Promise<z.infer<typeof schemas.STORED_EDIT>> {
    return this.#get('/v1/genesis', schemas.STORED_EDIT)
  }

  /** The root set in force. */
  roots(): Promise<schemas.RootSetView> {
    return this.#get('/v1/roots', schemas.ROOT_SET)
  }

  /** The envelope, or undefined when the node does not have it. */
  async edit(id: string): Promise<z.infer<typeof schemas.STORED_EDIT> | undefined> {
    const answer = await this.#ask('GET', `/v1/edits/${id}`)
    return answer.status === 404 ? undefined : read(answer, schemas.STORED_EDIT)
  }

  editsPage(filter: Readonly<Record<string, string | undefined>>): Promise<z.infer<typeof schemas.EDITS>> {
    return this.#get(`/v1/edits${queryOf(filter)}`, schemas.EDITS)
  }

  /** Summaries of envelopes, at most `max` of them: of those that are wanted, when `isWanted` says which. */
  async edits(
    filter: Readonly<Record<string, string | undefined>>,
    max: number,
    isWanted?: (edit: schemas.EditView) => boolean,
  ): Promise<schemas.EditView[]> {
    const found: schemas.EditView[] = []
    for (let after: string | undefined; ;) {
      const limit = isWanted === undefined ? String(Math.min(1000, max - found.length)) : '1000'
      const page = await this.editsPage({ ...filter, after, limit })
      const wanted = isWanted === undefined ? page.data : page.data.filter(isWanted)
      found.push(...wanted.slice(0, max - found.length))
      if (page.next === null || found.length >= max) return found
      after = page.next
    }
  }

  /** @throws MeshError with the refusal's code when there is one envelope and it is refused. */
  async submit(envelopes: readonly WireEnvelope[]): Promise<schemas.OutcomeView[]> {
    const answer = await this.#ask('POST', '/v1/edits', JSON.stringify({ envelopes }))
    return read(answer, schemas.OUTCOMES).outcomes
  }

  /** Events until the connection ends or the signal is aborted. */
  async *events(): AsyncGenerator<ServerEvent> {
    // The stream ends with its token: let it have a whole one.
    this.#tokens.clear()
    const response = await this.#connect('GET', '/v1/events', undefined, 0)
    if (response.statusCode !== 200) throw problemIn(await answerOf(response))
    let buffered = ''
    response.setEncoding('utf8')
    for await (const chunk of response as AsyncIterable<string>) {
      buffered += chunk
      const blocks = buffered.split('\n\n')
      buffered = blocks.pop() as string
      if (buffered.length > CLIENT_LIMITS.eventBytes)
        throw new MeshError('too_large', 'an event of the node is too large')
      for (const block of blocks) {
        const event = parseEvent(block)
        if (event !== undefined) yield event
      }
    }
  }

  /** @param others statuses of failures that have the same form. */
  async #get<S extends z.ZodType>(path: string, schema: S, others: readonly number[] = []): Promise<z.infer<S>> {
    return read(await this.#ask('GET', path), schema, others)
  }

  async #pages<T>(
    path: string,
    filter: Readonly<Record<string, string | undefined>>,
    schema: z.ZodType<{ data: T[]; meta: z.infer<typeof schemas.META> }>,
  ): Promise<T[]> {
    const found: T[] = []
    for (let page = 1; ; page += 1) {
      const { data, meta } = await this.#get(
        `${path}${queryOf({ ...filter, page: String(page), per_page: '1000' })}`,
        schema,
      )
      found.push(...data)
      if (data.length === 0 || found.length >= meta.total) return found
    }
  }

  async #ask(method: string, path: string, body?: string): Promise<Answer> {
    const response = await this.#connect(method, path, body, CLIENT_LIMITS.timeoutMs)
    return await answerOf(response).catch((error: unknown) => {
      throw error instanceof MeshError ? error : this.#unreachable(this.address, error)
    })
  }

  async #connect(method: string, path: string, body: string | undefined, timeoutMs: number): Promise<IncomingMessage> {
    for (;;) {
      const { address } = this
      try {
        const token = path === HEALTH ? undefined : await this.#tokenFor(address)
        return await send({ address, method, path, body, timeoutMs, token, trust: this.#trust, signal: this.#signal })
      } catch (error) {
        if (error instanceof MeshError) throw error
        const isUnreached = UNREACHED.has((error as NodeJS.ErrnoException).code ?? '')
        const failure = this.#unreachable(address, error)
        if (!isUnreached || this.#addresses.at(-1) === address) throw failure
        // Of several requests at once the first one to fail moves on for all.
        if (address === this.address) this.#addresses = this.#addresses.slice(1)
      }
    }
  }

  /** None for a socket. @throws what `send` throws, and MeshError when no token can be made. */
  async #tokenFor(address: ApiAddress): Promise<string | undefined> {
    if (address.startsWith('unix:')) return undefined
    const { key, confirm, now } = this.#identity
    const known = this.#tokens.get(address)
    if (known !== undefined && now() < known.staleAt) return known.text
    const audience = await this.#meshAt(address)
    const reader = await key()
    await confirm(audience)
    const { tokenLifetime, tokenMargin } = CLIENT_LIMITS
    const text = signToken(reader, audience, now(), tokenLifetime)
    this.#tokens.set(address, { text, staleAt: now() + (tokenLifetime - tokenMargin) * 1000 })
    return text
  }

  async #meshAt(address: ApiAddress): Promise<string> {
    const { timeoutMs } = CLIENT_LIMITS
    const signal = this.#signal
    const answer = await send({
      address,
      method: 'GET',
      path: HEALTH,
      body: undefined,
      timeoutMs,
      token: undefined,
      trust: this.#trust,
      signal,
    })
    const { mesh } = read(await answerOf(answer), schemas.HEALTH_ANSWER, [503])
    if (mesh !== null) return mesh
    throw new MeshError('unavailable', `the node at ${address} has no mesh yet, so it knows no key`, {
      hint: 'Give it one on its host, over its socket: meshctl --api unix:DATA_DIR/api.sock push genesis.json',
    })
  }

  #unreachable(address: ApiAddress, cause: unknown): MeshError {
    if (this.#signal.aborted) return new MeshError('unavailable', 'interrupted', { wasSent: true }, cause)
    const fault = tlsFault(address, cause)
    if (fault !== undefined) return fault
    const { code = '', message } = cause as NodeJS.ErrnoException
    this.#tried.add(`${address} (${code === '' ? message : code})`)
    const tried = [...this.#tried].join(', ')
    if (code === 'EACCES') {
      const hint = 'Run this as the user of mesh-node, or join the group that owns the socket.'
      return new MeshError('denied', `the node's socket may not be opened; tried ${tried}`, { hint }, cause)
    }
    const hint =
      'Is mesh-node running? See: systemctl status mesh-node. Name another node with --api URL or NXMESH_API.'
    // Whether the node has taken what was sent is known only when the connection was never made.
    const wasSent = !UNREACHED.has(code)
    return new MeshError('unavailable', `no node answers; tried ${tried}`, { hint, wasSent }, cause)
  }
}

/** Failures to connect: nothing was sent. */
const UNREACHED: ReadonlySet<string> = new Set([
  'ECONNREFUSED',
  'ENOENT',
  'EACCES',
  'ENOTFOUND',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'ENOTSOCK',
])

const HEALTH = '/health'

interface Call {
  readonly address: ApiAddress
  readonly method: string
  readonly path: string
  readonly body: string | undefined
  readonly timeoutMs: number
  readonly token: string | undefined
  readonly trust: Trust
  readonly signal: AbortSignal
}

async function send({ address, method, path, body, timeoutMs, token, trust, signal }: Call): Promise<IncomingMessage> {
  const headers = {
    ...(body === undefined ? {} : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) }),
    ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
  }
  return await new Promise((resolve, reject) => {
    // A write goes over a connection of its own: on a kept one it would not be known whether a reset came before it.
    const agent = body === undefined ? {} : { agent: false }
    const { isTls, ...target } = requestTarget(address, trust)
    const ask = isTls && target.createConnection === undefined ? httpsRequest : httpRequest
    const request = ask({ ...agent, ...target, method, path, headers, signal }, resolve)
    if (timeoutMs > 0) {
      request.setTimeout(timeoutMs, () => request.destroy(new Error(`no answer within ${timeoutMs / 1000} s`)))
    }
    request.once('error', reject)
    request.end(body)
  })
}

function requestTarget(address: ApiAddress, trust: Trust): RequestOptions & { ca?: string; isTls: boolean } {
  if (address.startsWith('unix:')) return { socketPath: address.slice('unix:'.length), host: 'localhost', isTls: false }
  const url = URL.canParse(address) ? new URL(address) : undefined
  const isTls = url?.protocol === 'https:'
  if (url === undefined || (!isTls && url.protocol !== 'http:')) {
    throw new MeshError('usage', `${address} is not the address of a node`, {
      field: '--api',
      value: address,
      hint: 'Write http://127.0.0.1:3000, https://edge-1.example.com:3000 or unix:/var/lib/nxmesh/api.sock.',
    })
  }
  const host = url.hostname.replace(/^\[(.*)\]$/, '$1')
  const port = url.port === '' ? (isTls ? 443 : 80) : Number(url.port)
  if (!isTls) {
    if (!isPinned(trust)) return { host, port, isTls }
    throw new MeshError('usage', `a pin was given, and ${address} is plain HTTP, where nothing proves it`, {
      field: '--api',
      value: address,
      hint: 'Write https://, or leave out --pin, --fingerprint, NXMESH_PIN and NXMESH_FINGERPRINT.',
    })
  }
  if (isPinned(trust)) return { host, port, isTls, createConnection: pinnedConnection(host, port, trust) }
  const { ca } = trust
  return { host, port, isTls, ...(ca === undefined ? {} : { ca }) }
}

async function answerOf(response: IncomingMessage): Promise<Answer> {
  const chunks: Uint8Array[] = []
  let size = 0
  for await (const chunk of response as AsyncIterable<Uint8Array>) {
    size += chunk.length
    if (size > CLIENT_LIMITS.answerBytes)
      throw new MeshError('too_large', `the node's answer is over ${CLIENT_LIMITS.answerBytes} bytes`)
    chunks.push(chunk)
  }
  const status = response.statusCode ?? 0
  const text = Buffer.concat(chunks).toString('utf8')
  try {
    return { status, body: JSON.parse(text) as unknown }
  } catch (error) {
    throw notOurs(`HTTP ${status} without JSON`, error)
  }
}

function read<S extends z.ZodType>(answer: Answer, schema: S, others: readonly number[] = []): z.infer<S> {
  if (answer.status >= 400 && !others.includes(answer.status)) throw problemIn(answer)
  const parsed = schema.safeParse(answer.body)
  if (!parsed.success) throw notOurs(parsed.error.issues[0]?.message ?? 'an unknown form', parsed.error)
  return parsed.data
}

function problemIn({ status, body }: Answer): MeshError {
  const problem = schemas.PROBLEM.safeParse(body).data
  if (problem === undefined) return notOurs(`HTTP ${status}`)
  const code = Object.hasOwn(ERROR_CODES, problem.code) ? (problem.code as ErrorCode) : 'internal'
  const { field, hint, detail } = problem
  return new MeshError(code, detail, {
    ...(field === undefined ? {} : { field }),
    ...(hint === undefined ? {} : { hint }),
  })
}

function notOurs(what: string, cause?: unknown): MeshError {
  return new MeshError(
    'internal',
    `the answer is not one of a mesh-node: ${what}`,
    {
      hint: 'Check --api, and that meshctl and mesh-node have about the same version.',
    },
    cause,
  )
}

function queryOf(parameters: Readonly<Record<string, string | undefined>>): string {
  const given = Object.entries(parameters).filter((entry): entry is [string, string] => entry[1] !== undefined)
  return given.length === 0 ? '' : `?${new URLSearchParams(given).toString()}`
}

function parseEvent(block: string): ServerEvent | undefined {
  const field = (name: string): string | undefined =>
    block
      .split('\n')
      .find((line) => line.startsWith(`${name}: `))
      ?.slice(name.length + 2)
  const event = field('event')
  const data = field('data')
  if (event === undefined || data === undefined) return undefined
  try {
    return { event, data: JSON.parse(data) as unknown }
  } catch {
    return undefined
  }
}
