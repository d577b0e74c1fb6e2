/**
 * Who asks, and what they may read: over TCP whoever holds a token by a key that policy grants something, on the unix socket
 * whoever may open it. Decides about one request at a time and answers nothing; server.ts tells where it came from.
 */

import type { Body } from '../core/envelope.ts'
import { parseResourcePath } from '../core/names.ts'
import { mayGrantNodes } from '../core/policy.ts'
import type { MeshState } from '../core/state.ts'
import { checkToken, type TokenAnswer } from '../core/token.ts'
import { MeshError } from '../errors.ts'
import type { Clock } from '../ports.ts'
import { TokenBuckets } from '../token-buckets.ts'

/** How a request came in. `address` is the caller's, of a TCP connection. */
export type Origin =
  | { readonly transport: 'unix' }
  | { readonly transport: 'tcp'; readonly address: string | undefined }

/** Requests over TCP, `/health` not counted: a full bucket, and what comes back each second. Beyond it 429. */
export const ACCESS_LIMITS = {
  address: { burst: 1000, perSecond: 100 },
  key: { burst: 500, perSecond: 50 },
} as const

/** Load balancers and probes ask without a key. */
const HEALTH = '/health'
const METRICS = '/metrics'

/** Whether a path needs a token over TCP. `configured`: unless the node's `http_open_metrics` says otherwise. */
export function tokenNeed(path: string): 'always' | 'configured' | 'never' {
  if (path === HEALTH) return 'never'
  return path === METRICS ? 'configured' : 'always'
}

/** What a caller may read at one moment. */
export interface Reader {
  /** What lies in `*` concerns every workspace, so every reader may read it. */
  mayRead(workspace: string): boolean
  /** Whether it is shown who asks to join, and the tickets with which others could. */
  mayLetIn(): boolean
  /** The key for which this node may sign an edit. @throws MeshError `unauthenticated` without a token, `denied` with one for reading */
  caller(): string
  /** When the token ends, ms since the epoch; infinite without one. */
  readonly until: number
  /** The same reader now; undefined when token or key counts no more. For answers that go on. */
  renewed(): Reader | undefined
}

/** Whoever may open the node's socket. */
const LOCAL: Reader = {
  mayRead: () => true,
  mayLetIn: () => true,
  caller: nobody,
  until: Number.POSITIVE_INFINITY,
  renewed: () => LOCAL,
}

/** Anyone, on an open path: nothing there belongs to a workspace. */
const ANYONE: Reader = {
  mayRead: () => false,
  mayLetIn: () => false,
  caller: nobody,
  until: Number.POSITIVE_INFINITY,
  renewed: () => ANYONE,
}

export interface AccessOptions {
  readonly state: MeshState
  /** Key of the node, which a token for edits names. */
  readonly own: string
  readonly clock: Clock
  /** Whether `/metrics` needs no token. */
  readonly openMetrics: boolean
}

export interface AccessRequest {
  readonly path: string
  readonly authorization: string | undefined
  /** Whether a proxy says that it passes somebody else's request on. */
  readonly isForwarded: boolean
}

type TokenHolder = Exclude<TokenAnswer, { readonly fault: string }>

export class Access {
  readonly #options: AccessOptions
  readonly #addresses: TokenBuckets
  readonly #keys: TokenBuckets

  constructor(options: AccessOptions) {
    this.#options = options
    const { address, key } = ACCESS_LIMITS
    this.#addresses = new TokenBuckets(options.clock, address.burst, address.perSecond)
    this.#keys = new TokenBuckets(options.clock, key.burst, key.perSecond)
  }

  /** @throws MeshError `unauthenticated`, `denied` or `rate_limited`. */
  admit(request: AccessRequest, origin: Origin): Reader {
    if (origin.transport === 'unix') {
      const reader = local(request)
      const { authorization } = request
      // To read, nobody asks who it is.
      return authorization === undefined ? reader : { ...reader, caller: () => this.#holderOf(authorization).caller() }
    }
    const need = tokenNeed(request.path)
    if (need === 'never') return ANYONE
    // Before the signature is checked, which is what costs.
    const address = origin.address ?? ''
    if (!this.#addresses.take(address)) throw tooMany(`the address ${address}`, ACCESS_LIMITS.address.perSecond)
    // Who shows whom it is sees more.
    if (need === 'configured' && this.#options.openMetrics && request.authorization === undefined) return ANYONE
    return this.#holderOf(request.authorization)
  }

  #holderOf(authorization: string | undefined): Reader {
    const { state, clock } = this.#options
    if (state.meshId === undefined) {
      throw new MeshError('unauthenticated', 'this node has no mesh yet, so over TCP it knows nobody', {
        hint: 'Ask it over its socket, on its host: meshctl --api unix:DATA_DIR/api.sock push genesis.json',
      })
    }
    const [, token] = /^Bearer +(\S+)$/i.exec(authorization ?? '') ?? []
    if (token === undefined) {
      const hint =
        'meshctl signs one with -k FILE; for curl: -H "Authorization: Bearer $(meshctl token)". The socket on the host needs none.'
      throw new MeshError('unauthenticated', 'over TCP a token is needed', { field: 'authorization', hint })
    }
    const answer = checkToken(token, state.meshId, clock.now())
    if ('fault' in answer) {
      const hint = 'Sign a new one with the key of a reader: meshctl token'
      throw new MeshError('unauthenticated', answer.fault, { field: 'authorization', hint })
    }
    const { key } = answer
    if (!this.#keys.take(key)) throw tooMany(`the key ${key}`, ACCESS_LIMITS.key.perSecond)
    const reader = this.#readerOf(answer)
    if (reader === undefined) throw this.#stranger(key)
    return reader
  }

  #readerOf(token: TokenHolder): Reader | undefined {
    const { state, clock, own } = this.#options
    const { key, until, edit } = token
    const { policy } = state
    const isRoot = policy.rootSet()?.body.roots.includes(key) === true
    const grants = policy.activeGrants(key)
    const workspaces = new Set(grants.map(({ body }) => body.ws))
    if (!isRoot && workspaces.size === 0) return undefined
    const readsAll = isRoot || workspaces.has('*')
    return {
      caller: () => (edit === own ? key : forReading(own)),
      until,
      mayLetIn: () => isRoot || grants.some(({ body }) => mayGrantNodes(body)),
      mayRead: (workspace) => readsAll || workspace === '*' || workspaces.has(workspace),
      renewed: () => (clock.now() <= until ? this.#readerOf(token) : undefined),
    }
  }

  #stranger(key: string): MeshError {
    const hadGrants = this.#options.state.history.grantsOf(key).length > 0
    return hadGrants
      ? new MeshError('denied', `no grant of the key ${key} is in force any more`, {
          hint: 'A revoked key never comes back: make a new one (meshctl key new), and have it granted.',
        })
      : new MeshError('denied', `the key ${key} has no grant in this mesh, as far as this node knows`, {
          hint: `Somebody with a higher role grants one: meshctl grant viewer ${key} --workspace NAME`,
        })
  }
}

/** The workspace that an envelope concerns; `*` for the genesis. */
export function workspaceOfBody(body: Body): string {
  return body.type === 'genesis' ? '*' : body.ws
}

/** Whether a reader may know of a resource. What is no path belongs to no workspace, and only readers of all see it. */
export function mayReadPath(reader: Reader, path: string): boolean {
  return reader.mayRead(parseResourcePath(path)?.workspace ?? '')
}

function forReading(own: string): never {
  throw new MeshError('denied', 'the token allows no edits at this node', {
    field: 'authorization',
    hint: `Sign one that does: meshctl token --edit ${own}`,
  })
}

function nobody(): never {
  throw new MeshError('unauthenticated', 'an edit is made for somebody, and the socket does not say for whom', {
    field: 'authorization',
    hint: 'Show a token here, too: -H "Authorization: Bearer $(meshctl token --edit NODE_KEY)"',
  })
}

function local({ isForwarded }: AccessRequest): Reader {
  if (!isForwarded) return LOCAL
  throw new MeshError('denied', 'the request came through a proxy, which hides whose it is', {
    hint: 'The socket is for users of the host; let a proxy ask over TCP, where callers show a token.',
  })
}

function tooMany(whose: string, perSecond: number): MeshError {
  return new MeshError('rate_limited', `${whose} asks more than ${perSecond} times a second`, {
    hint: 'Ask less often, or listen to /v1/events in place of asking again.',
  })
}
