/**
 * The key with which a node signs plain edits for those who ask its API and may make them themselves: checks both, the caller
 * and the key, continues the key's chain from the store, and hands the signed edit to the replica. Lends no power, and signs
 * nothing but edits. Built by node.ts when `http_edit_key` names a key; the API calls it.
 */

import { authorise, authoritiesOf, placeAfter } from './core/authoring.ts'
import { callerLack, isForCallers, noteFor } from './core/caller.ts'
import { toWire } from './core/codec.ts'
import type { ResourceState } from './core/document.ts'
import {
  LIMITS,
  signEnvelope,
  type EditBody,
  type Envelope,
  type GrantBody,
  type KeyPair,
  type ResourceEdit,
  type Value,
} from './core/envelope.ts'
import { workspaceOf } from './core/names.ts'
import { ABSENT, editsOf, pack, planDelete, planFields, type Batch, type Change, type Current } from './core/plan.ts'
import { MeshError } from './errors.ts'
import type { Log } from './log.ts'
import type { Clock } from './ports.ts'
import type { Outcome, Replica } from './replica.ts'
import { TokenBuckets } from './token-buckets.ts'

/**
 * What one caller may ask for, signed in the end or not: a full bucket, and what comes back each minute. Half of what one author
 * may, for there are others. What would change nothing is free.
 */
export const CALLER_LIMITS = { burst: 150, perMinute: 30 } as const

/** What a caller asks for. */
export interface PlainEdit {
  /** The caller's public key. */
  readonly caller: string
  readonly path: string
  /** Undefined: the resource is to be deleted. */
  readonly fields: ReadonlyMap<string, Value> | undefined
  /** The caller's own note. */
  readonly note: string
  readonly isDryRun: boolean
  /** Told what the edit will rest on, when caller and key may make it. @throws what the caller is to be answered. */
  readonly check: (state: ResourceState | undefined) => void
}

export interface Written {
  readonly change: Change
  /** Undefined when nothing was signed: in a dry run, and when nothing changes. */
  readonly outcome: Outcome | undefined
}

export interface EditKeyOptions {
  readonly key: KeyPair
  readonly replica: Pick<Replica, 'state' | 'submit'>
  readonly clock: Clock
  readonly log: Log
  /** Whether this node holds what the mesh holds: before, the end of the chain may be elsewhere. */
  readonly isSettled: () => boolean
}

export class EditKey {
  readonly #options: EditKeyOptions
  readonly #callers: TokenBuckets
  /** The writes before this one, which may have failed. */
  #earlier: Promise<unknown> = Promise.resolve()

  constructor(options: EditKeyOptions) {
    this.#options = options
    this.#callers = new TokenBuckets(options.clock, CALLER_LIMITS.burst, CALLER_LIMITS.perMinute / 60)
  }

  /** What is wrong with the grants of the key, for people. */
  complaints(): string[] {
    const { key, replica } = this.#options
    const { meshId, policy, history } = replica.state
    if (meshId === undefined) return []
    const { publicKey } = key
    const grants = policy.activeGrants(publicKey)
    const isRevoked = grants.length === 0 && history.grantsOf(publicKey).length > 0
    const complaints: string[] = []
    if (isRevoked) complaints.push(`the key of http_edit_key was revoked, and signs no edits; make a new one`)
    else if (!grants.some(({ body }) => isForCallers(body))) {
      complaints.push(
        `http_edit_key has no grant to edit for callers; meshctl grant editor ${publicKey} --zone ZONE --kinds '*,caller'`,
      )
    }
    const other = grants.find(({ body }) => !isForCallers(body))
    if (other !== undefined)
      complaints.push(
        `http_edit_key is also ${other.body.role}, and lies on this host; it should edit for callers alone`,
      )
    return complaints
  }

  /**
   * Asks what can be known before anything is: whether the caller, and the key for them, may edit this resource at all.
   * @throws MeshError `denied`, `rate_limited`, `unavailable`
   */
  admit(caller: string, path: string): void {
    if (!this.#options.isSettled()) {
      throw new MeshError('unavailable', 'this node has not caught up with the mesh yet, so it signs no edits', {
        hint: 'Try again in a moment, or ask another node.',
      })
    }
    this.#authorised([path, [], []], caller, '')
    if (!this.#callers.has(caller)) throw overRate(caller)
  }

  /** Counts against a caller's rate what ended before it was an edit. @throws MeshError `rate_limited` */
  charge(caller: string): void {
    if (!this.#callers.take(caller)) throw overRate(caller)
  }

  /**
   * Makes one edit of one resource, after those that were asked for before.
   * @throws MeshError `denied`, `too_large`, `rate_limited`, `unavailable`, what `check` throws, or what the replica says.
   */
  async write(edit: PlainEdit): Promise<Written> {
    // One at a time: two edits that continue the chain at the same place would be a fork.
    const turn = this.#earlier.then(() => this.#write(edit))
    this.#earlier = turn.catch(() => undefined)
    return await turn
  }

  async #write({ caller, path, fields, note, isDryRun, check }: PlainEdit): Promise<Written> {
    const { replica, clock, log } = this.#options
    this.admit(caller, path)
    const state = replica.state.resource(path)
    const current = state === undefined ? ABSENT : currentOf(state)
    const change = fields === undefined ? planDelete(path, current) : planFields(path, current, fields)
    const isKept = change.ops.length === 0
    // Whatever comes of it, the work is the same.
    if (!isKept) this.charge(caller)
    const draft = isKept ? undefined : this.#authorised(oneEdit(change), caller, noteFor(caller, note))
    check(state)
    if (draft === undefined || isDryRun) return { change, outcome: undefined }
    const envelope = signEnvelope({ ...draft, ...this.#place(draft.ws), at: clock.now() }, [this.#options.key])
    const [outcome] = await replica.submit([toWire(envelope)], 'api')
    if (outcome?.outcome === 'refused') throw new MeshError(outcome.code, outcome.reason)
    log.info('signed an edit for a caller', { edit: envelope.id, caller, resource: path })
    return { change, outcome }
  }

  /** The edit under a grant of the key, when one of the caller's own grants would allow it, too. */
  #authorised(edit: ResourceEdit, caller: string, note: string): EditBody {
    const { replica, key, clock } = this.#options
    const { publicKey } = key
    const { policy, meshId = '' } = replica.state
    const grantsOf = (subject: string): Envelope<GrantBody>[] => policy.activeGrants(subject)
    const draft = { type: 'edit', ws: workspaceOf(edit[0]), note, edits: [edit] } as const
    const bodyOf =
      (by: string) =>
      (grant: string): EditBody => ({ v: 1, mesh: meshId, by, grant, n: 1, prev: [], at: clock.now(), ...draft })
    const own = authorise(authoritiesOf(grantsOf(caller)), bodyOf(caller), callerLack)
    if ('reasons' in own) {
      throw new MeshError('denied', `no grant of the key ${caller} allows this edit${listed(own.reasons)}`, {
        hint: 'Ask somebody with a wider grant for one.',
      })
    }
    const forCallers = grantsOf(publicKey).filter(({ body }) => isForCallers(body))
    const lent = authorise(authoritiesOf(forCallers), bodyOf(publicKey))
    if ('reasons' in lent) {
      throw new MeshError('denied', `the edit key of this node may not make this edit${listed(lent.reasons)}`, {
        hint: 'Sign it yourself with meshctl, or have http_edit_key granted more.',
      })
    }
    return lent.body
  }

  /** Where the chain goes on: after what is stored, so that an edit which was never stored never was. */
  #place(workspace: string): { readonly n: number; readonly prev: readonly string[] } {
    const { history } = this.#options.replica.state
    const heads = history.chain(workspace, this.#options.key.publicKey)?.heads ?? []
    const { n, prev } = placeAfter(heads.map((id) => ({ id, n: (history.get(id) as Envelope<EditBody>).body.n })))
    return { n: n + 1, prev: prev.toSorted() }
  }
}

/** @throws MeshError `too_large`, before anything is done with it that takes the longer the larger it is. */
function oneEdit(change: Change): ResourceEdit {
  const batches = change.ops.length > LIMITS.ops ? [] : pack([change])
  const [edit] = batches.length === 1 ? editsOf(batches[0] as Batch, new Map()) : []
  if (edit !== undefined) return edit
  throw tooManyChanges(change.path)
}

export function tooManyChanges(path: string): MeshError {
  return new MeshError('too_large', `${path} changes in more places than one edit may`, {
    field: 'spec',
    hint: 'Change it in steps, or with meshctl apply, which makes several edits.',
  })
}

function overRate(caller: string): MeshError {
  return new MeshError('rate_limited', `over ${CALLER_LIMITS.perMinute} edits a minute for the key ${caller}`, {
    hint: 'Make them more slowly, or sign them yourself: meshctl apply.',
  })
}

function currentOf({ exists, fields, heads, conflicts }: ResourceState): Current {
  return { exists, fields, heads, conflicts: [...conflicts.keys()] }
}

function listed(reasons: readonly string[]): string {
  return reasons.length === 0 ? ': it has none that is in force' : `: ${reasons.join('; ')}`
}
