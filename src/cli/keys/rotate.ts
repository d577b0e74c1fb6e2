/**
 * The verb rotate: another key in the place of one, of a host or a person. First both count, then the old one ends. What is
 * granted is what the old key's grants say, by their signed bytes; whether the new one is in use is the word of the asked
 * node, and only keeps the old one from ending too early.
 */

import type { GrantView } from '../../api/schemas.ts'
import { isHex, type Value } from '../../core/envelope.ts'
import { everSealedFor, recipientsIn } from '../../core/secrets.ts'
import { MeshError } from '../../errors.ts'
import { commandOf } from '../grants/authority.ts'
import { durationMs, usage, type Args, type Cli, type Verb } from '../cli.ts'
import type { ApiClient } from '../asking/client.ts'
import { scopeText, scopeWords, type GrantScope } from '../grants/grant-scope.ts'
import {
  commonWorkspace,
  heldGrants,
  historyOf,
  signInTurn,
  takeAway,
  tellKept,
  tellMissing,
  tracesIn,
} from '../grants/held.ts'
import { keyWithEnc } from './keys.ts'
import { noteOf } from '../resources/resources.ts'
import { plain, short } from '../terminal.ts'

const POLL_MS = 500

export const rotateVerb: Verb = {
  name: 'rotate',
  summary: 'put a new key in the place of a host’s or a person’s',
  usage: [
    'rotate OLD-KEY NEW-KEY[:ENC] [--yes | --dry-run]',
    'rotate --finish OLD-KEY [NEW-KEY] [--force] [--dry-run]',
  ],
  details: [
    'First gives the new key what the old one was granted, grant by grant. That nothing took a grant away is the asked node’s word: so',
    'it prints them, and signs with --yes. From then on both count: the host or the person changes over, without haste. --finish then revokes the old key and keeps what it did, once the new key is in use: a node reports under',
    'it and is in sync, a person has signed something with it, and it opens the secrets that the old one opens.',
    'Keys are typed in full; meshctl policy show has those in force. A key that was stolen is not rotated: see meshctl help revoke.',
  ].join('\n'),
  options: {
    finish: { type: 'boolean', description: 'end the old key' },
    yes: { type: 'boolean', description: 'give the new key the grants that were printed before' },
    force: { type: 'boolean', description: 'with --finish: also when the new key does not seem to be in use' },
    timeout: { type: 'string', value: 'TIME', description: 'with --finish: how long to wait for a node (default 60s)' },
    'dry-run': { type: 'boolean', description: 'show what would be signed, and sign nothing' },
    note: { type: 'string', value: 'TEXT', description: 'why; kept in the history' },
  },
  examples: [
    'meshctl -k owner.key rotate 3b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29 "$(meshctl key show -k node-2.key -o wide)" --yes',
    'meshctl -k owner.key rotate --finish 3b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29',
  ],
  async run(cli, args) {
    const [old, next, ...rest] = args.positionals
    const isFinish = args.flag('finish')
    if (old === undefined || rest.length > 0 || (next === undefined && !isFinish))
      throw usage('rotate takes OLD-KEY and NEW-KEY:ENC, or --finish and OLD-KEY')
    if (args.flag('force') && !isFinish) throw usage('--force goes with --finish')
    if (args.flag('yes') && isFinish) throw usage('--yes goes without --finish')
    const isWhole: boolean = isHex(old, 64)
    if (!isWhole) {
      throw usage(
        `OLD-KEY takes all 64 lower-case hex digits of a public key, not ${old.slice(0, 80)}`,
        'Those in force are in: meshctl policy show',
      )
    }
    const other = next === undefined ? undefined : keyWithEnc(next, 'NEW-KEY')
    if (other?.key === old) throw usage('NEW-KEY is the old one', 'Make another: meshctl key new -k FILE')
    await (isFinish ? finish(cli, args, old, other?.key) : begin(cli, args, old, other as NewKey))
    return undefined
  },
}

type NewKey = ReturnType<typeof keyWithEnc>

// ---------------------------------------------------------------------------------------------- both count

async function begin(cli: Cli, args: Args, old: string, { key, enc }: NewKey): Promise<void> {
  const held = await heldGrants(cli, ({ subject }) => subject === old || subject === key)
  const own = held.filter(({ says }) => says.subject === old)
  if (own.length === 0) throw hasNothing(old)
  if (enc === undefined && own.some(({ says }) => says.enc !== undefined)) {
    throw usage(
      'the old key receives secrets, so NEW-KEY needs its second half',
      'KEY:ENC is what this prints: meshctl key show -k FILE -o wide',
    )
  }
  const present = new Set(held.map(({ says }) => scopeText(says)))
  const grants = own
    .map(({ says }): GrantScope => ({ ...says, subject: key, ...(enc === undefined ? {} : { enc }) }))
    .filter((grant) => !present.has(scopeText(grant)))
  for (const grant of grants) cli.note(`grant ${plain(scopeWords(grant))}`)
  if (args.flag('dry-run')) return cli.note('dry run: nothing was signed')
  if (grants.length > 0 && !args.flag('yes')) throw notConfirmed(old, enc === undefined ? key : `${key}:${enc}`, args)
  const note = noteOf(args)
  const counts = await cli.withAuthor(async (author) => {
    // All or none, as far as that can be known before.
    for (const grant of grants) {
      const refusal = author.refusal({ type: 'grant', note, ...grant })
      if (refusal !== undefined) throw new MeshError('denied', `your key may not give ${scopeWords(grant)}: ${refusal}`)
    }
    return await signInTurn(
      cli,
      grants.map((grant) => ({
        what: `grant ${scopeWords(grant)}`,
        sign: () => author.send({ type: 'grant', note, ...grant }),
      })),
    )
  })
  if (!counts) return undefined
  cli.note(`both keys count: ${short(old)} and ${short(key)}`)
  if (own.some(({ says }) => says.role === 'node')) cli.note(ON_THE_HOST)
  await tellClosed(
    cli,
    own.map(({ view }) => view),
    enc,
  )
  return cli.note(`when the new key is in use: meshctl rotate --finish ${old} ${key}`)
}

/** A grant that was taken away looks like any other when the node does not show its revocation. */
function notConfirmed(old: string, next: string, args: Args): MeshError {
  return usage(
    'only this node says that nothing took these grants away, and it may be wrong or lie: nothing was signed',
    `Compare them with your own records. If the new key is to have them: ${commandOf('rotate', [old, next], args)} --yes`,
  )
}

const ON_THE_HOST = `on the host, nginx serving on all the while:
  name the new file in its configuration (private_key_path), then: systemctl restart mesh-node
  peers whose nodes[] name the old key go on without a change; name the new one there when you next edit them`

function hasNothing(key: string): MeshError {
  return new MeshError('not_found', `${short(key)} has no grant in force`, {
    hint: 'See who has: meshctl policy show. Root keys are replaced with: meshctl root rotate',
  })
}

/** Secrets that the old key opens and the new one does not. */
async function closedTo(cli: Cli, old: readonly GrantView[], enc: string | undefined) {
  const keys = old.flatMap((grant) => grant.enc ?? [])
  const secrets = await (await cli.client()).resources({ kind: 'secret' })
  return secrets.filter((view) => {
    const fields = new Map(Object.entries(view.fields) as [string, Value][])
    return keys.some((key) => everSealedFor(fields).includes(key)) && !recipientsIn(fields).includes(enc ?? '')
  })
}

async function tellClosed(cli: Cli, old: readonly GrantView[], enc: string | undefined): Promise<number> {
  const closed = await closedTo(cli, old, enc)
  if (closed.length > 0) cli.note('the new key does not open these secrets; somebody who can open them runs:')
  for (const { name, workspace, zone } of closed) {
    cli.note(`  meshctl secret reseal ${name} -w ${workspace} -z '${zone}'`)
  }
  return closed.length
}

// ---------------------------------------------------------------------------------------------- the old one ends

async function finish(cli: Cli, args: Args, old: string, named: string | undefined): Promise<void> {
  const timeoutMs = durationMs(args.text('timeout') ?? '60s', '--timeout')
  const client = await cli.client()
  const all = await client.grants()
  const own = all.filter(({ subject }) => subject === old)
  if (own.length === 0) throw hasNothing(old)
  const key = named ?? successorOf(old, all)
  const fault =
    likeness(old, all, key) ?? (await idle(cli, own, key, timeoutMs)) ?? (await stillClosed(cli, own, all, key))
  if (fault !== undefined) {
    if (!args.flag('force')) {
      throw new MeshError('unavailable', fault, { hint: 'To end the old key all the same: --force' })
    }
    cli.note(plain(fault))
  }
  cli.note(`${short(old)} ends, ${short(key)} stays: ${plain(own.map(({ role, name }) => name ?? role).join(', '))}`)
  const taking = { target: `key/${old}`, ws: commonWorkspace(own), of: own, note: noteOf(args) }
  const traces = await tracesIn(client)
  if (args.flag('dry-run')) {
    tellKept(cli, old, await historyOf(client, { key: old, ws: taking.ws }, traces))
    return cli.note('dry run: nothing was signed')
  }
  const sent = await cli.withAuthor(async (author) => await takeAway(cli, author, taking, traces))
  cli.out(`${sent.id}\n`)
  if (!tellMissing(cli, sent)) cli.note('finished: the old key counts no more, and what it did stays')
  return undefined
}

/** What a listed grant gives, whoever has it. */
function given({ workspace, role, zones, kinds, fields, hosts, quota, name }: GrantView): string {
  return JSON.stringify([workspace, role, zones, kinds, fields, hosts, quota, name])
}

/** The one other key that has all that the old one has. */
function successorOf(old: string, all: readonly GrantView[]): string {
  const others = [...new Set(all.map(({ subject }) => subject))].filter(
    (key) => key !== old && likeness(old, all, key) === undefined,
  )
  const [only, ...rest] = others
  if (only === undefined) {
    throw new MeshError('not_found', `no other key has what ${short(old)} has`, {
      hint: `First: meshctl rotate ${old} NEW-KEY:ENC. To take it away without another: meshctl revoke ${old}`,
    })
  }
  if (rest.length === 0) return only
  throw usage(
    `several keys have what ${short(old)} has: ${others.map(short).join(', ')}`,
    'Give the new one too: rotate --finish OLD-KEY NEW-KEY',
  )
}

/** What a key lacks to stand for another. */
function likeness(old: string, all: readonly GrantView[], key: string): string | undefined {
  const has = new Set(all.filter(({ subject }) => subject === key).map(given))
  const lacking = all.find((grant) => grant.subject === old && !has.has(given(grant)))
  return lacking === undefined
    ? undefined
    : `${short(key)} is not ${lacking.role} of zones ${lacking.zones.join(', ')} in ${lacking.workspace}, as the old key is`
}

async function stillClosed(cli: Cli, own: readonly GrantView[], all: readonly GrantView[], key: string) {
  const enc = all.find((grant) => grant.subject === key && grant.enc !== null)?.enc ?? undefined
  const closed = await tellClosed(cli, own, enc)
  return closed === 0 ? undefined : `${closed} secrets that the old key opens are closed to the new one`
}

/** Why the new key does not seem to be in use; undefined when it does. */
async function idle(cli: Cli, own: readonly GrantView[], key: string, timeoutMs: number): Promise<string | undefined> {
  const client = await cli.client()
  if (own.some(({ role }) => role === 'node')) return await idleNode(cli, client, key, timeoutMs)
  // A viewer signs nothing that could be seen.
  if (own.every(({ role }) => role === 'viewer')) return undefined
  const chains = await client.chains(key)
  if (chains.some(({ count }) => count > 0)) return undefined
  return `nothing was signed with ${short(key)} yet: does its owner have it, and does it work?`
}

/** Waits until a node speaks under this key, and holds what the others hold, or serves what it should. */
async function idleNode(cli: Cli, client: ApiClient, key: string, timeoutMs: number): Promise<string | undefined> {
  const { clock, signal } = cli.host
  const started = clock.monotonic()
  /** Of the others, as they say it. Edits may go on, so that two are rarely equal at one moment. */
  const digests = new Set<string>()
  for (;;) {
    const [peers, receipts] = await Promise.all([client.peers(), client.receipts()])
    for (const { key: other, digest } of peers)
      if (other !== key && digest !== null && digest !== '') digests.add(digest)
    const peer = peers.find((each) => each.key === key)
    const node = receipts.find((each) => each.key === key)
    const isUp = peer?.state === 'Ready' && peer.health !== null && peer.health.status !== 'Unknown'
    const holdsTheSame = digests.has(peer?.digest ?? '') || peers.length === 1
    const isInSync = node !== undefined && node.receipt !== null ? node.receipt.target === node.target : holdsTheSame
    if (isUp && isInSync) return undefined
    if (clock.monotonic() - started > timeoutMs) {
      return isUp ? `the node of ${short(key)} is not in sync yet` : `no node is up under ${short(key)}`
    }
    await clock.sleep(POLL_MS, signal)
  }
}
